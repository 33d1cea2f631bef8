#include "wharfd/keeper.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"
#include "wharfd/notify.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum {
        RESTARTS_MAX = 16, /* in a row, of servers that died at once and of themselves, or could not be started (H3) */
        TEXT_MAX = 512,
        FDS_AT_ONCE = 8,          /* that one message may bring */
        HELD_FDS = 2,             /* of one entry: a socket and a page */
        HELD_MAX = 1 << 20,       /* entries */
        RESERVE = 16,             /* descriptors that it needs itself, to start a server */
        PAUSE_FIRST_NS = 1000000, /* before a server is started again that did not last; doubled each time */
        PAUSE_DOUBLED_MAX = 9,
};
#define AT_ONCE_NS ((int64_t)1000000000) /* a server that lived shorter died at once */
#define NONE UINT32_MAX

/* What is held under one name. `n` is 0 for one that is free. */
struct held {
        char name[WH_FD_NAME_MAX];
        int fd[HELD_FDS];
        unsigned n;
        uint32_t next; /* of the same bucket, or of those that are free */
};

struct keeper {
        const struct wh_keeper_ops *ops;
        const struct wh_given *first; /* the caller's, which every server is started with */
        unsigned n_first;
        struct held *held; /* an entry keeps its place, so that a server can ask for them in turn (H4) */
        uint32_t *bucket;  /* as many as there is room for, by name */
        uint32_t n, room, free;
        uint64_t fds, fds_max;
        int sock;               /* our end */
        bool ready, served;     /* this server said READY=1; any did */
        bool ending;            /* the server was told to end: perhaps before it could listen to that */
        unsigned deaths, fails; /* of servers; and servers that could not be started */
        int fail;               /* why the last of those could not be */
};

/* ---- what is held ---- */

static uint32_t *bucket_of(const struct keeper *k, const char *name)
{
        uint32_t h = 2166136261u;
        while (*name)
                h = (h ^ (uint8_t)*name++) * 16777619u;
        return &k->bucket[h & (k->room - 1)];
}

static struct held *find(const struct keeper *k, const char *name)
{
        for (uint32_t i = k->room ? *bucket_of(k, name) : NONE; i != NONE; i = k->held[i].next)
                if (!strcmp(k->held[i].name, name))
                        return &k->held[i];
        return NULL;
}

static int grow(struct keeper *k)
{
        uint32_t room = k->room ? k->room * 2 : 64;
        if (room > HELD_MAX)
                return wh_trace(-ENOSPC);
        struct held *held = wh_os_realloc(k->held, room * sizeof *held);
        if (held)
                k->held = held;
        uint32_t *bucket = held ? wh_os_realloc(k->bucket, room * sizeof *bucket) : NULL;
        if (!bucket)
                return wh_trace(-ENOMEM);
        k->bucket = bucket;
        k->room = room;
        for (uint32_t i = 0; i < room; i++)
                bucket[i] = NONE;
        for (uint32_t i = 0; i < k->n; i++) {
                uint32_t *b = bucket_of(k, k->held[i].name);
                k->held[i].next = *b; /* none is free, or there would be no need to grow */
                *b = i;
        }
        return 0;
}

/* Takes the descriptors on success. */
static int hold(struct keeper *k, const char *name, const int *fds, unsigned n)
{
        for (unsigned i = 0; i < k->n_first && n; i++)
                if (!strcmp(k->first[i].name, name)) {
                        int r = wh_os_dup_onto(fds[0], k->first[i].fd); /* refused, the old one stays */
                        for (unsigned f = 0; f < n && r >= 0; f++)
                                wh_os_close_theirs(fds[f]);
                        return r < 0 ? r : 0;
                }
        if (n == 0 || n > HELD_FDS || find(k, name))
                return wh_trace(-EINVAL);
        if (k->fds + n > k->fds_max)
                return wh_trace(-EMFILE);
        int r = k->free == NONE && k->n == k->room ? grow(k) : 0;
        if (r < 0)
                return r;
        uint32_t i = k->free, *b = bucket_of(k, name);
        if (i != NONE)
                k->free = k->held[i].next;
        else
                i = k->n++;
        struct held *h = &k->held[i];
        *h = (struct held){.n = n, .next = *b};
        strcpy(h->name, name);
        memcpy(h->fd, fds, n * sizeof *fds);
        *b = i;
        k->fds += n;
        return 0;
}

static void let_go(struct keeper *k, const char *name)
{
        for (uint32_t *at = k->room ? bucket_of(k, name) : NULL; at && *at != NONE; at = &k->held[*at].next) {
                uint32_t i = *at;
                struct held *h = &k->held[i];
                if (strcmp(h->name, name))
                        continue;
                *at = h->next;
                for (unsigned f = 0; f < h->n; f++)
                        wh_os_close_theirs(h->fd[f]);
                k->fds -= h->n;
                *h = (struct held){.next = k->free};
                k->free = i;
                return;
        }
}

/* ---- what is said ---- */

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

/*
 * Whole entries from the one with that number on, as many as fit into one message (H4). The server looks after each of its
 * batches of requests: a queue has room for what it sends in one.
 */
static void hand_over(struct keeper *k, uint32_t from, unsigned number, const char *name)
{
        char text[WH_HAND_TEXT_MAX], *at = text + WH_HAND_HEAD_MAX;
        int fds[WH_HAND_FDS], r;
        unsigned n = 0;
        struct held *only = name ? find(k, name) : NULL;
        uint32_t i = only ? (uint32_t)(only - k->held) : name ? k->n : from, end = only ? i + 1 : k->n;
        for (; i < end; i++) {
                const struct held *h = &k->held[i];
                if (n + h->n > WH_HAND_FDS || (size_t)(text + sizeof text - at) < strlen(h->name) + 16)
                        break;
                if (h->n)
                        at += sprintf(at, "\n%u %s", h->n, h->name);
                for (unsigned f = 0; f < h->n; f++)
                        fds[n++] = h->fd[f];
        }
        size_t body = (size_t)(at - text) - WH_HAND_HEAD_MAX;
        int head = snprintf(text, WH_HAND_HEAD_MAX, "WHARF_HANDED=%u %u %u %d %u", i < end ? i : 0, k->deaths, k->fails,
                            k->fail, number);
        memmove(text + head, text + WH_HAND_HEAD_MAX, body);
        text[(size_t)head + body] = 0;
        if ((r = wh_notify_try(k->sock, text, fds, n)) < 0) { /* ETOOMANYREFS: it asks again, later */
                snprintf(text, sizeof text, "WHARF_REFUSED=%d %u", -r, number);
                wh_notify_try(k->sock, text, NULL, 0);
        }
}

static void handle(struct keeper *k, const char *text, const int *fds, unsigned n, int lost)
{
        char name[WH_FD_NAME_MAX], value[WH_FD_NAME_MAX];
        bool named = value_of(text, "FDNAME", name) != NULL;
        int r = lost;
        if (named && value_of(text, "FDSTOREREMOVE", value)) {
                let_go(k, name);
        } else if (named && value_of(text, "FDSTORE", value)) {
                if (r == 0 && (r = hold(k, name, fds, n)) == 0)
                        return;
                char say[WH_FD_NAME_MAX + 40];
                snprintf(say, sizeof say, "WHARF_UNHELD=%d %s", -r, name);
                wh_notify_try(k->sock, say, NULL, 0);
        } else if (value_of(text, "WHARF_HAND", value)) {
                unsigned from = 0, number = 0;
                sscanf(value, "%u %u", &from, &number);
                hand_over(k, from, number, named ? name : NULL);
        } else {
                if (value_of(text, "READY", value))
                        k->ready = k->served = true;
                if (k->ops->said)
                        k->ops->said(k->ops->arg, text);
        }
        for (unsigned i = 0; i < n; i++)
                wh_os_close_theirs(fds[i]);
}

/* One message. 1; 0 when there is none now; negative when none will come. */
static int hear(struct keeper *k)
{
        char text[TEXT_MAX];
        int fds[FDS_AT_ONCE];
        unsigned n;
        bool cut;
        ssize_t r = wh_notify_recv(k->sock, text, sizeof text, fds, FDS_AT_ONCE, &n, &cut);
        if (r == -ECONNRESET) /* it died with unread data; there may be more to read */
                r = wh_notify_recv(k->sock, text, sizeof text, fds, FDS_AT_ONCE, &n, &cut);
        if (r == -EAGAIN || r == -EINTR)
                return 0;
        if (r <= 0)
                return -EPIPE;
        handle(k, text, fds, n, cut ? -EMFILE : 0); /* half of it is worth nothing */
        return 1;
}

/* One server, from its start to its end: its status, as of waitpid(2), or a negative errno. */
static int serve_once(struct keeper *k, int stop_fd, int *ret_status)
{
        int sv[2], status = 0;
        int r = wh_os_socketpair(sv);
        if (r < 0)
                return wh_trace(r);
        pid_t pid = k->ops->start(k->ops->arg, k->first, k->n_first, sv[1]);
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
        k->ready = false;
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

/* Before the next attempt, when `before` were in vain. Whoever wants us to end need not wait for it. */
static void pause_after(struct keeper *k, unsigned before, int stop_fd)
{
        struct pollfd p = {.fd = stop_fd, .events = POLLIN};
        int64_t until_ns =
                wh_os_now_ns() + ((int64_t)PAUSE_FIRST_NS << (before < PAUSE_DOUBLED_MAX ? before : PAUSE_DOUBLED_MAX));
        while (!k->ending && wh_os_now_ns() < until_ns)
                if (wh_os_poll(&p, 1, until_ns) > 0)
                        k->ending |= k->ops->signalled(k->ops->arg, 0);
}

/* H3 */
enum next { ENDS, GIVES_UP, GOES_ON };
static enum next next_of(struct keeper *k, int r, int status, bool at_once, unsigned *in_row)
{
        if (k->ending)
                return ENDS;
        bool again = r == 0 && WIFEXITED(status) && WEXITSTATUS(status) == WH_KEEPER_AGAIN;
        if (r == 0 && WIFEXITED(status) && WEXITSTATUS(status) == WH_KEEPER_END)
                return ENDS;
        bool killed = r == 0 && WIFSIGNALED(status), started = again || killed || (r == 0 && k->ready);
        if (started && !again && !killed)
                return ENDS;
        if (!started) {
                k->fails++;
                k->fail = r < 0 ? -r : WEXITSTATUS(status) >= 126 ? ENOEXEC : ECHILD;
                if (!k->served)
                        return ENDS; /* whoever waits for the first one wants to know */
        }
        k->deaths += killed;
        *in_row = at_once ? *in_row + 1 : 0;
        return *in_row < RESTARTS_MAX || (killed && WTERMSIG(status) == SIGKILL) ? GOES_ON : GIVES_UP;
}

int wh_keeper_run(const struct wh_keeper_ops *ops, const struct wh_given *given, unsigned n, int stop_fd)
{
        struct keeper k = {.ops = ops, .first = given, .n_first = n, .free = NONE, .sock = -1};
        uint64_t limit;
        k.fds_max = wh_os_rlimit(RLIMIT_NOFILE, &limit) < 0 ? HELD_MAX : limit > RESERVE ? limit - RESERVE : 0;
        int r, status = 0;
        unsigned in_row = 0;
        enum next next;
        do {
                int64_t since_ns = wh_os_now_ns();
                r = serve_once(&k, stop_fd, &status);
                next = next_of(&k, r, status, wh_os_now_ns() - since_ns < AT_ONCE_NS, &in_row);
                if (next == GOES_ON && in_row > 1)
                        pause_after(&k, in_row - 2, stop_fd);
        } while (next == GOES_ON);
        if (r == 0)
                r = next == GIVES_UP                       ? -ECANCELED
                    : !WIFEXITED(status)                   ? 0
                    : WEXITSTATUS(status) == WH_KEEPER_END ? 1
                                                           : WEXITSTATUS(status);
        for (uint32_t i = 0; i < k.n; i++)
                for (unsigned f = 0; f < k.held[i].n; f++)
                        wh_os_close(k.held[i].fd[f]);
        free(k.held);
        free(k.bucket);
        return r;
}
