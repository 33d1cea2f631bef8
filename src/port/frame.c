#include "port/frame.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <string.h>

#define OVERFLOW_ID 65534u /* the kernel's word for an id it cannot show */

/*
 * In a user namespace that has no number for this user the kernel takes none from us. What we send from here on it
 * labels by itself: it does so where either end asks for labels.
 */
static int tell_who(int sock)
{
        int on = 1;
        return wh_os_setsockopt(sock, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
}

int wh_frame_send_parts(int sock, struct wh_frame *f, const struct iovec part[2], const int *fds, bool cred)
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(WH_FDS_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
        } control;
        f->magic = WH_FRAME_MAGIC;
        f->version = WH_FRAME_VERSION;
        f->len = (uint32_t)(part[0].iov_len + part[1].iov_len);
        struct iovec iov[3] = {{f, sizeof *f}};
        struct msghdr m = {.msg_iov = iov, .msg_iovlen = 1};
        for (unsigned i = 0; i < 2; i++)
                if (part[i].iov_len)
                        iov[m.msg_iovlen++] = part[i];
        size_t used = 0;
        assert(f->n_fds <= WH_FDS_MAX);
        /* What lies between the ends of two of them is passed to the kernel too: nothing of our stack. */
        if (f->n_fds || cred)
                memset(control.space, 0,
                       CMSG_SPACE(f->n_fds * sizeof(int)) + (cred ? CMSG_SPACE(sizeof(struct ucred)) : 0));
        if (f->n_fds) {
                struct cmsghdr *c = &control.align;
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(f->n_fds * sizeof(int));
                memcpy(CMSG_DATA(c), fds, f->n_fds * sizeof(int));
                used += CMSG_SPACE(f->n_fds * sizeof(int));
        }
        if (cred) {
                struct cmsghdr *c = (struct cmsghdr *)(void *)(control.space + used);
                struct ucred me = {wh_os_getpid(), wh_os_getuid(), wh_os_getgid()};
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_CREDENTIALS;
                c->cmsg_len = CMSG_LEN(sizeof me);
                memcpy(CMSG_DATA(c), &me, sizeof me);
                used += CMSG_SPACE(sizeof me);
        }
        if (used) {
                m.msg_control = control.space;
                m.msg_controllen = used;
        }
        ssize_t r;
        do
                r = wh_os_sendmsg(sock, &m, 0);
        while (r == -EINTR);
        if (r == -EINVAL && cred && tell_who(sock) == 0)
                return wh_frame_send_parts(sock, f, part, fds, false);
        if (r == -ECONNRESET || r == -ENOTCONN || r == -ECONNREFUSED)
                r = -EPIPE;
        return r < 0 ? (int)r : 0;
}

int wh_frame_send(int sock, struct wh_frame *f, const void *data, size_t len, const int *fds, bool cred)
{
        const struct iovec part[2] = {{(void *)(uintptr_t)data, len}};
        return wh_frame_send_parts(sock, f, part, fds, cred);
}

int wh_frame_greet(int sock, struct wh_frame *f, const struct wh_hello *h)
{
        uint8_t bytes[sizeof *h + WH_LATER_BYTES];
        memset(bytes, 0xff, sizeof bytes);
        memcpy(bytes, h, sizeof *h);
        return wh_frame_send(sock, f, bytes, sizeof bytes, NULL, false);
}

int wh_frame_bell(int sock)
{
        int r;
        do
                r = wh_os_send_byte(sock);
        while (r == -EINTR);
        return r == -EPIPE || r == -ECONNRESET || r == -ENOTCONN ? -EPIPE : 0;
}

static void close_all(const int *fds, unsigned n)
{
        for (unsigned i = 0; i < n; i++)
                wh_os_close(fds[i]);
}

/* Collects what came beside the bytes. Returns how many descriptors, all in `fds`; surplus ones are closed. */
static unsigned take_control(struct msghdr *m, int *fds, struct wh_cred *cred, bool *ret_surplus)
{
        unsigned n = 0;
        *ret_surplus = false;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
                if (c->cmsg_level != SOL_SOCKET)
                        continue;
                if (c->cmsg_type == SCM_RIGHTS) {
                        size_t k = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                        for (size_t i = 0; i < k; i++) {
                                int fd;
                                memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
                                if (n < WH_FDS_MAX) {
                                        fds[n++] = fd;
                                } else {
                                        wh_os_close(fd);
                                        *ret_surplus = true;
                                }
                        }
                } else if (c->cmsg_type == SCM_PIDFD) {
                        /* Whoever kept a copy of our end can ask for these, one with each datagram. */
                        int fd;
                        memcpy(&fd, CMSG_DATA(c), sizeof fd);
                        wh_os_close(fd);
                } else if (c->cmsg_type == SCM_CREDENTIALS && cred) {
                        struct ucred u;
                        memcpy(&u, CMSG_DATA(c), sizeof u);
                        /* A datagram older than our asking for credentials has none, and shows as nobody's. */
                        if (u.pid != 0 || u.uid != OVERFLOW_ID)
                                *cred = (struct wh_cred){u.pid, u.uid, u.gid, true};
                }
        }
        return n;
}

static int frame_recv(int sock, struct wh_frame *f, void *data, int *fds, struct wh_cred *cred, int flags)
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(253 * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
        } control;
        struct iovec iov[2] = {{f, sizeof *f}, {data, WH_COLD_MAX + WH_FDS_MAX}};
        struct msghdr m = {
                .msg_iov = iov, .msg_iovlen = 2, .msg_control = control.space, .msg_controllen = sizeof control.space};
        ssize_t r;
        /* After the peer died with unread data the first read says ECONNRESET, and the next ones the data: go on. */
        for (int resets = 0;;) {
                r = wh_os_recvmsg(sock, &m, flags);
                if (r == -EINTR)
                        continue;
                if (r == -ECONNRESET && resets++ == 0)
                        continue;
                break;
        }
        if (r == -EAGAIN)
                return 0;
        if (r == -ECONNRESET || r == -ENOTCONN || r == -EPIPE)
                return -EPIPE;
        if (r < 0)
                return wh_trace((int)r);

        bool surplus;
        if (cred)
                cred->known = false;
        unsigned n = take_control(&m, fds, cred, &surplus);
        int err = 0;
        if (r == 0)
                err = -EPIPE; /* the end; or an empty datagram, which no honest peer sends and may have descriptors */
        else if (m.msg_flags & MSG_CTRUNC)
                err = wh_trace(-EMFILE); /* descriptors came and the kernel had no room for them here */
        else if (r == 1 && n == 0) {
                *f = (struct wh_frame){.type = WH_FRAME_BELL};
                return 1;
        } else if (surplus || (m.msg_flags & MSG_TRUNC) || r < (ssize_t)sizeof *f || f->magic != WH_FRAME_MAGIC)
                err = wh_trace(-EPROTO);
        else if (f->version != WH_FRAME_VERSION)
                err = wh_trace(-EPROTONOSUPPORT);
        else if (f->n_fds != n || f->len != (size_t)r - sizeof *f || f->type == WH_FRAME_BELL ||
                 f->type >= WH_FRAME_TYPES)
                err = wh_trace(-EPROTO);
        if (err < 0) {
                close_all(fds, n);
                return err;
        }
        return 1;
}

int wh_frame_recv(int sock, struct wh_frame *f, void *data, int *fds, struct wh_cred *cred)
{
        return frame_recv(sock, f, data, fds, cred, 0);
}

int wh_frame_peek(int sock, struct wh_frame *f, void *data, int *fds, struct wh_cred *cred)
{
        return frame_recv(sock, f, data, fds, cred, MSG_PEEK);
}

int wh_frame_drop(int sock)
{
        char byte;
        struct iovec iov = {&byte, 1};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1}; /* no room for descriptors: the kernel closes them */
        ssize_t r;
        int resets = 0;
        do
                r = wh_os_recvmsg(sock, &m, 0);
        while (r == -EINTR || (r == -ECONNRESET && resets++ == 0));
        return r >= 0 || r == -EAGAIN || r == -EPIPE || r == -ENOTCONN || r == -ECONNRESET ? 0 : wh_trace((int)r);
}

int wh_frame_check_socket(int fd)
{
        int domain = 0, type = 0, listening = 0;
        socklen_t len = sizeof domain;
        if (wh_os_getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
                return -EPROTO;
        len = sizeof type;
        if (wh_os_getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
                return -EPROTO;
        len = sizeof listening;
        if (wh_os_getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0)
                return -EPROTO;
        return domain == AF_UNIX && type == SOCK_SEQPACKET && !listening ? 0 : -EPROTO;
}
