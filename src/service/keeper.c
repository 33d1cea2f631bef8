#include "service/keeper.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

enum { RESTARTS_MAX = 16, TEXT_MAX = 512, FDS_AT_ONCE = 8, HELD_MAX = 1 << 20 };
#define AT_ONCE_NS ((int64_t)1000000000) /* a server that lived shorter died at once */

struct keeper {
        const struct wh_keeper_ops *ops;
        struct wh_given *held;
        unsigned n, room, n_first; /* the first ones are the caller's */
        int sock;                  /* our end */
        bool ending;               /* the server was told to end: perhaps before it could listen to that */
};

static void hold(struct keeper *k, const char *name, const int *fds, unsigned n)
{
        for (unsigned i = 0; i < k->n_first && n; i++)
                if (!strcmp(k->held[i].name, name)) {
                        wh_os_dup_onto(fds[0], k->held[i].fd); /* refused, the old one stays */
                        for (unsigned f = 0; f < n; f++)
                                wh_os_close(fds[f]);
                        return;
                }
        for (unsigned i = 0; i < n; i++) {
                if (k->n == k->room && k->room < HELD_MAX) {
                        unsigned room = k->room * 2;
                        struct wh_given *more = wh_os_realloc(k->held, room * sizeof *more);
                        if (more) {
                                k->held = more;
                                k->room = room;
                        }
                }
                if (k->n == k->room) {
                        wh_os_close(fds[i]); /* not kept: its owner registers again after the server's death */
                        continue;
                }
                struct wh_given *g = &k->held[k->n++];
                *g = (struct wh_given){.fd = fds[i]};
                strcpy(g->name, name);
        }
}

static void let_go(struct keeper *k, const char *name)
{
        unsigned to = k->n_first;
        for (unsigned i = k->n_first; i < k->n; i++) {
                if (!strcmp(k->held[i].name, name))
                        wh_os_close(k->held[i].fd);
                else
                        k->held[to++] = k->held[i];
        }
        k->n = to;
}

/*
 * The value of KEY=value on a line of its own; NULL when there is none, or when it is too long or could split a list.
 */
static const char *value_of(const char *text, const char *key, char ret[WH_FD_NAME_MAX])
{
        size_t len = strlen(key);
        for (const char *line = text; line; line = strchr(line, '\n')) {
                line += *line == '\n';
                if (strncmp(line, key, len) || line[len] != '=')
                        continue;
                size_t n = strcspn(line + len + 1, "\n");
                if (n == 0 || n >= WH_FD_NAME_MAX || memchr(line + len + 1, ':', n))
                        return NULL;
                memcpy(ret, line + len + 1, n);
                ret[n] = 0;
                return ret;
        }
        return NULL;
}

static void handle(struct keeper *k, const char *text, const int *fds, unsigned n)
{
        char name[WH_FD_NAME_MAX], yes[WH_FD_NAME_MAX];
        bool named = value_of(text, "FDNAME", name) != NULL;
        if (named && value_of(text, "FDSTOREREMOVE", yes)) {
                let_go(k, name);
        } else if (named && value_of(text, "FDSTORE", yes)) {
                hold(k, name, fds, n);
                return;
        } else if (k->ops->said) {
                k->ops->said(k->ops->arg, text);
        }
        for (unsigned i = 0; i < n; i++)
                wh_os_close(fds[i]);
}

/* One message. 1; 0 when there is none now; negative when none will come. */
static int hear(struct keeper *k)
{
        char text[TEXT_MAX];
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(FDS_AT_ONCE * sizeof(int))];
        } control;
        struct iovec iov = {text, sizeof text - 1};
        struct msghdr m = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
        ssize_t r = wh_os_recvmsg(k->sock, &m, 0);
        if (r == -ECONNRESET) /* it died with unread data; there may be more to read */
                r = wh_os_recvmsg(k->sock, &m, 0);
        if (r == -EAGAIN || r == -EINTR)
                return 0;
        if (r <= 0)
                return -EPIPE;
        int fds[FDS_AT_ONCE];
        unsigned n = 0;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                size_t len = c->cmsg_len - CMSG_LEN(0);
                memcpy(fds, CMSG_DATA(c), len);
                n = (unsigned)(len / sizeof(int));
        }
        text[r] = 0;
        if (m.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) {
                for (unsigned i = 0; i < n; i++) /* half of what was to be held is worth nothing */
                        wh_os_close(fds[i]);
                return 1;
        }
        for (unsigned i = 0; i < n; i++)
                wh_os_fd_private(fds[i]);
        handle(k, text, fds, n);
        return 1;
}

/* One server, from its start to its end: its status, as of waitpid(2), or a negative errno. */
static int serve_once(struct keeper *k, int stop_fd, int *ret_status)
{
        int sv[2], status = 0;
        int r = wh_os_socketpair(sv);
        if (r < 0)
                return wh_trace(r);
        pid_t pid = k->ops->start(k->ops->arg, k->held, k->n, sv[1]);
        wh_os_close(sv[1]);
        int pidfd = pid < 0 ? (int)pid : wh_os_pidfd_open(pid);
        if (pidfd < 0) {
                wh_os_close(sv[0]);
                if (pid > 0) {
                        wh_os_kill(pid, SIGKILL);
                        wh_os_wait(pid, &status);
                }
                return wh_trace(pidfd);
        }
        k->sock = sv[0];
        bool open = true, dead = false;
        while (!dead) {
                struct pollfd p[3] = {{.fd = pidfd, .events = POLLIN},
                                      {.fd = open ? k->sock : -1, .events = POLLIN},
                                      {.fd = stop_fd, .events = POLLIN}};
                r = wh_os_poll(p, 3, WH_NEVER);
                if (r < 0)
                        continue;
                dead = p[0].revents != 0;
                if (p[1].revents)
                        open = hear(k) >= 0;
                if (p[2].revents)
                        k->ending |= k->ops->signalled(k->ops->arg, pid);
        }
        while (open && hear(k) > 0)
                ; /* H2 */
        wh_os_close(sv[0]);
        wh_os_close(pidfd);
        do
                r = wh_os_wait(pid, &status);
        while (r == -EINTR);
        *ret_status = status;
        return r;
}

int wh_keeper_run(const struct wh_keeper_ops *ops, const struct wh_given *given, unsigned n, int stop_fd)
{
        struct keeper k = {.ops = ops, .room = n + 64, .n = n, .n_first = n, .sock = -1};
        k.held = wh_os_calloc(k.room, sizeof *k.held);
        if (!k.held)
                return wh_trace(-ENOMEM);
        if (n)
                memcpy(k.held, given, n * sizeof *given);
        int r, at_once = 0;
        for (;;) {
                int status;
                int64_t since_ns = wh_os_now_ns();
                r = serve_once(&k, stop_fd, &status);
                if (r < 0)
                        break;
                if (WIFEXITED(status) && (k.ending || WEXITSTATUS(status) != WH_KEEPER_AGAIN)) { /* H1 */
                        r = WEXITSTATUS(status);
                        break;
                }
                if (k.ending) {
                        r = 0;
                        break;
                }
                at_once = wh_os_now_ns() - since_ns < AT_ONCE_NS ? at_once + 1 : 0;
                if (at_once >= RESTARTS_MAX) { /* H3 */
                        r = -ECANCELED;
                        break;
                }
        }
        for (unsigned i = k.n_first; i < k.n; i++)
                wh_os_close(k.held[i].fd);
        free(k.held);
        return r;
}
