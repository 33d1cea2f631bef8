/*
 * What a wharfd takes over at its start: the variables of sd_listen_fds(3), and from its holder the journal with
 * sockets and pages under names. Journal and names are an earlier wharfd's own, but a service manager hands on whatever
 * is there, of any version.
 *
 * An input: WHAT (0: the variables; otherwise so many entries of a real journal), then lies.
 */
#include "port.h"

#include "wharfd/server.h"
#include "wharfd/store.h"

#include <stdio.h>
#include <sys/eventfd.h>

enum { GIVEN_MAX = 16 };

static void variables(struct fuzz_in *in)
{
        char pid[32], text[3][256];
        struct wh_given *g;
        unsigned n;
        for (int i = 0; i < 3; i++) {
                size_t len;
                const uint8_t *from = fuzz_bytes(in, fuzz_u8(in), &len);
                memcpy(text[i], from, len);
                text[i][len] = 0;
        }
        snprintf(pid, sizeof pid, "%d", (int)getpid());
        setenv("LISTEN_PID", text[0][0] ? text[0] : pid, 1);
        setenv("LISTEN_FDS", text[1], 1);
        setenv("LISTEN_FDNAMES", text[2], 1);
        if (wh_given_take(&g, &n) == 0) {
                for (unsigned i = 0; i < n; i++)
                        FUZZ_CHECK(memchr(g[i].name, 0, WH_FD_NAME_MAX));
                free(g); /* the descriptors are this program's own */
        }
}

/* The words of the holder, taken from the socket as a keeper takes them. */
static unsigned held(int sock, struct wh_given *ret, unsigned n)
{
        for (;;) {
                char text[512], *at;
                union {
                        struct cmsghdr align;
                        char space[CMSG_SPACE(4 * sizeof(int))];
                } control;
                struct iovec iov = {text, sizeof text - 1};
                struct msghdr m = {.msg_iov = &iov,
                                   .msg_iovlen = 1,
                                   .msg_control = control.space,
                                   .msg_controllen = sizeof control.space};
                ssize_t r = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
                if (r <= 0)
                        return n;
                text[r] = 0;
                struct cmsghdr *c = CMSG_FIRSTHDR(&m);
                for (size_t i = 0; c && i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
                        int fd;
                        memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
                        if (n == GIVEN_MAX || !(at = strstr(text, "FDNAME="))) {
                                close(fd);
                                continue;
                        }
                        ret[n] = (struct wh_given){.fd = fd};
                        snprintf(ret[n++].name, WH_FD_NAME_MAX, "%.*s", (int)strcspn(at + 7, "\n"), at + 7);
                }
        }
}

static int listener(void)
{
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        FUZZ_CHECK(bind(fd, &(struct sockaddr){.sa_family = AF_UNIX}, sizeof(sa_family_t)) == 0 && listen(fd, 4) == 0);
        return fd;
}

void fuzz_one(struct fuzz_in *in)
{
        struct wh_given given[GIVEN_MAX];
        struct wh_store *store;
        struct fuzz_user u = {.task = NULL}, s = {.task = NULL};
        struct wh_server *server;
        unsigned what = fuzz_u8(in), n = 0;
        int sv[2];
        if (what == 0) {
                variables(in);
                return;
        }
        FUZZ_CHECK(wharf_task_open(NULL, &u.task) == 0 && wharf_task_open(NULL, &s.task) == 0);
        FUZZ_CHECK(wharf_port_new(u.task, NULL, &u.port) == 0);
        /* What a wharfd that was killed has left. */
        FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) == 0);
        FUZZ_CHECK(wh_store_open(sv[1], false, NULL, 0, &store) == 0);
        for (unsigned i = 0; i < what % 6; i++) {
                struct wh_stored e = {.kind = i % 3 == 2 ? WH_STORED_WATCH : WH_STORED_NAME, .pid = 7};
                wharf_name right;
                int sock;
                FUZZ_CHECK(wharf_right_new(u.task, u.port, &right) == 0);
                FUZZ_CHECK(wh_right_keep(u.task, right, &sock, &e.kept) == 0);
                e.cookie.v[0] = i + 1;
                snprintf(e.name, sizeof e.name, "n.%u", i);
                int page = i & 1 ? fuzz_memory(4096, true) : -1;
                wh_store_put(store, &e, sock, page);
                if (page >= 0)
                        close(page);
        }
        wh_store_free(store);
        n = held(sv[0], given, n);
        close(sv[0]);

        for (int i = 0; fuzz_more(in) && i < 16 && n; i++) {
                unsigned lie = fuzz_u8(in) % 4, which = fuzz_u8(in);
                struct wh_given *g = &given[which % n];
                if (lie == 0) {
                        fuzz_patch(in, (uint8_t *)g->name, sizeof g->name, 1);
                        g->name[sizeof g->name - 1] = 0;
                } else if (lie == 1) { /* another kind of thing under this name */
                        struct fuzz_peer p = {.sock = -1};
                        close(g->fd);
                        g->fd = fuzz_fd(&p, fuzz_u8(in) % FD_KINDS);
                        fuzz_peer_done(&p);
                } else { /* the journal is the first that was given to hold */
                        uint8_t bytes[32];
                        size_t at = fuzz_u16(in) % (576 * 8u), len;
                        const uint8_t *from = fuzz_bytes(in, 1 + which % 32u, &len);
                        memcpy(bytes, from, len);
                        ssize_t r = pwrite(given[0].fd, bytes, len, (off_t)at);
                        (void)r;
                }
        }
        FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) == 0);
        int listen_fd = listener(), stop_fd = eventfd(1, EFD_CLOEXEC);
        if (wh_store_open(sv[1], false, given, n, &store) == 0) {
                FUZZ_CHECK(wh_server_new(s.task, listen_fd, wh_rules_new(true), store, &server) == 0);
                wh_server_restore(server, given, n);
                for (int i = 0; i < 3; i++)
                        FUZZ_CHECK(wh_server_run(server, stop_fd, 0) >= 0);
                wh_server_free(server);
                wh_store_free(store);
        }
        for (unsigned i = 0; i < n; i++)
                if (given[i].fd >= 0)
                        close(given[i].fd);
        /* What it asked its holder to hold, or to let go of. */
        n = held(sv[0], given, 0);
        while (n)
                close(given[--n].fd);
        close(sv[0]);
        close(listen_fd);
        close(stop_fd);
        wharf_task_close(u.task);
        wharf_task_close(s.task);
}

void fuzz_seeds(void)
{
        struct fuzz_out o = {.len = 0};
        fuzz_put(&o, (uint8_t[3]){0, 0, 1}, 3);
        fuzz_put(&o, "1", 1);
        fuzz_put8(&o, 12);
        fuzz_put(&o, "w0-1:socketx", 12);
        fuzz_seed("variables", o.bytes, o.len);
        for (unsigned i = 1; i < 6; i++) {
                char name[16] = "entries0";
                name[7] = (char)('0' + i);
                o.len = 0;
                fuzz_put8(&o, i);
                fuzz_put8(&o, i % 4);
                fuzz_put8(&o, 1);
                fuzz_put16(&o, i % 4 ? 576 * 2 + 16 : 2);
                fuzz_put(&o, (uint8_t[4]){1, '2', 0, 0}, 4);
                fuzz_seed(name, o.bytes, o.len);
        }
}
