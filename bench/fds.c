#include "fds.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define LARGE_BYTES (64 << 10)

struct fds *fds_new(struct bench_run *run)
{
        struct fds *f = bench_state(sizeof(*f));
        memset(f, 0xff, sizeof(*f));
        run->state = f;
        return f;
}

/* False when the system's limits are too small for three messages. */
static bool room_make(int fd, size_t len_bytes)
{
        int want = (int)(3 * len_bytes), have = 0;
        socklen_t n = sizeof(have);
        if (len_bytes < LARGE_BYTES)
                return true;
        if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &want, sizeof(want)))
                (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &want, sizeof(want));
        return !getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &have, &n) && have >= want;
}

const char *fds_open_sockets(struct bench_run *run, int type)
{
        struct fds *f = fds_new(run);
        for (uint32_t i = 0; i < run->clients; i++) {
                int ends[2];
                if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends))
                        bench_die("socketpair");
                f->server_in[i] = f->server_out[i] = ends[0];
                f->client_in[i] = f->client_out[i] = ends[1];
                if (!room_make(ends[0], run->len_bytes) || !room_make(ends[1], run->len_bytes)) {
                        fds_close(run);
                        return "net.core.wmem_max is too small for this length";
                }
        }
        return NULL;
}

static void nonblocking_set(int fd)
{
        int flags = fcntl(fd, F_GETFL);
        if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
                bench_die("O_NONBLOCK");
}

void fds_join(struct bench_run *run)
{
        struct fds *f = run->state;
        uint32_t me = run->party ? run->party - 1 : 0;
        f->in = run->party ? f->client_in[me] : f->server_in[0];
        f->out = run->party ? f->client_out[me] : f->server_out[0];
        if (run->mode == BENCH_SPIN) {
                nonblocking_set(f->in);
                nonblocking_set(f->out);
        }
        if (run->party || run->clients == 1 || f->server_in[1] < 0)
                return;
        f->epoll = epoll_create1(EPOLL_CLOEXEC);
        for (uint32_t i = 0; i < run->clients; i++) {
                struct epoll_event ev = {.events = EPOLLIN, .data.fd = f->server_in[i]};
                if (epoll_ctl(f->epoll, EPOLL_CTL_ADD, f->server_in[i], &ev))
                        bench_die("epoll_ctl");
        }
}

static void fd_close(int *fd)
{
        if (*fd >= 0)
                close(*fd);
        *fd = -1;
}

void fds_close(struct bench_run *run)
{
        struct fds *f = run->state;
        for (uint32_t i = 0; i < BENCH_FANIN_CLIENTS; i++) {
                if (f->server_out[i] != f->server_in[i])
                        fd_close(&f->server_out[i]);
                if (f->client_out[i] != f->client_in[i])
                        fd_close(&f->client_out[i]);
                fd_close(&f->server_in[i]);
                fd_close(&f->client_in[i]);
        }
        free(f);
        run->state = NULL;
}

/* The next descriptor with something to read: each that epoll named gets one turn before epoll is asked again. */
static int readable_next(struct fds *f)
{
        static struct epoll_event ready[BENCH_FANIN_CLIENTS];
        static int n, next;
        if (f->epoll < 0)
                return f->in;
        while (next >= n) {
                next = 0;
                n = epoll_wait(f->epoll, ready, BENCH_FANIN_CLIENTS, -1);
                if (n < 0 && errno != EINTR)
                        bench_die("epoll_wait");
        }
        return ready[next++].data.fd;
}

/* After a call that did not do it: try again, or give up. */
static void retry_or_die(ssize_t r, const char *call)
{
        if (r >= 0)
                bench_die("%s moved only %zd bytes", call, r);
        if (errno == EAGAIN)
                bench_relax();
        else if (errno != EINTR)
                bench_die("%s", call);
}

void fds_write(struct bench_run *run, void *buf, size_t len_bytes)
{
        struct fds *f = run->state;
        for (size_t at = 0; at < len_bytes;) {
                ssize_t r = write(f->out, (char *)buf + at, len_bytes - at);
                if (r > 0)
                        at += (size_t)r;
                else
                        retry_or_die(r, "write");
        }
}

void fds_read(struct bench_run *run, void *buf, size_t len_bytes)
{
        int fd = readable_next(run->state);
        for (size_t at = 0; at < len_bytes;) {
                ssize_t r = read(fd, (char *)buf + at, len_bytes - at);
                if (r > 0)
                        at += (size_t)r;
                else
                        retry_or_die(r, "read");
        }
}

void fds_send(struct bench_run *run, void *buf, size_t len_bytes)
{
        struct fds *f = run->state;
        ssize_t r;
        while ((r = send(f->out, buf, len_bytes, MSG_NOSIGNAL)) != (ssize_t)len_bytes)
                retry_or_die(r, "send");
}

void fds_recv(struct bench_run *run, void *buf, size_t len_bytes)
{
        int fd = readable_next(run->state);
        ssize_t r;
        while ((r = recv(fd, buf, len_bytes, 0)) != (ssize_t)len_bytes)
                retry_or_die(r, "recv");
}
