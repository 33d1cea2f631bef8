#include "link/frame.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"
#include "os/receive.h"
#include "link/identity.h"
#include "task/ids.h"

#include <errno.h>
#include <string.h>

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
        assert(f->to > 0 && f->to < WH_TO_ENDS);
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
        f->to = WH_TO_HOLDER;
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
                wh_os_close_theirs(fds[i]);
}

/* Is there such a frame? Each kind has its directions. */
static bool may_say(const struct wh_frame *f)
{
        enum { OWNER = 1 << WH_TO_OWNER, HOLDER = 1 << WH_TO_HOLDER, ONCE = 1 << WH_TO_ONCE };
        static const uint8_t to[WH_FRAME_TYPES] = {
                [WH_FRAME_HELLO] = HOLDER,
                [WH_FRAME_MESSAGE] = OWNER | HOLDER | ONCE,
                [WH_FRAME_ITEMS] = OWNER | HOLDER,
                [WH_FRAME_ATTACH] = OWNER | HOLDER,
                [WH_FRAME_SECTION] = OWNER | HOLDER,
                [WH_FRAME_REBIND] = OWNER,
                [WH_FRAME_ADOPT] = OWNER,
                [WH_FRAME_REFUSE] = HOLDER,
                [WH_FRAME_VIA] = HOLDER | ONCE,
                [WH_FRAME_DROPPED] = HOLDER,
                [WH_FRAME_RENEW] = HOLDER,
                [WH_FRAME_GIVEN] = OWNER,
                [WH_FRAME_RING] = OWNER | HOLDER,
                [WH_FRAME_TAKEN] = HOLDER,
                [WH_FRAME_WHO] = OWNER,
        };
        return f->type < WH_FRAME_TYPES && f->to < WH_TO_ENDS && to[f->type] & 1u << f->to;
}

static int frame_recv(int sock, struct wh_frame *f, void *data, int *fds, struct wh_cred *cred, int flags)
{
        struct iovec iov[2] = {{f, sizeof *f}, {data, WH_COLD_MAX + WH_FDS_MAX}};
        struct wh_came c = {.fds = fds, .room = WH_FDS_MAX};
        ssize_t r = wh_os_receive(sock, iov, 2, flags, &c);
        if (r == -EAGAIN)
                return 0;
        if (r < 0)
                return r == -EPIPE ? -EPIPE : wh_trace((int)r);

        const bool frame = r >= (ssize_t)sizeof *f && f->magic == WH_FRAME_MAGIC;
        int err = 0;
        if (cred) { /* of nobody, where the kernel has no number for either */
                const bool known = c.known && (c.who.pid != 0 || wh_id_known(c.who.uid));
                *cred = known ? (struct wh_cred){c.who.pid, c.who.uid, c.who.gid, true} : (struct wh_cred){0};
        }
        if (r == 0)
                err = -EPIPE; /* the end; or an empty datagram, which no honest peer sends and may have descriptors */
        else if (c.all == WH_FDS_SHORT && frame && c.n < f->n_fds)
                err = wh_trace(-EMFILE); /* what it says did not fit here: not its sender's doing, so far */
        else if (c.all != WH_FDS_ALL)
                err = wh_trace(-EPROTO);
        else if (r == 1 && c.n == 0 && !c.surplus)
                *f = (struct wh_frame){.type = WH_FRAME_BELL};
        else if (c.surplus || c.cut || !frame)
                err = wh_trace(-EPROTO);
        else if (f->version != WH_FRAME_VERSION)
                err = wh_trace(-EPROTONOSUPPORT);
        else if (f->n_fds != c.n || f->len != (size_t)r - sizeof *f || !may_say(f))
                err = wh_trace(-EPROTO);
        if (err < 0) {
                close_all(fds, c.n);
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

int wh_frame_peek_first(int sock, struct wh_frame *f, void *data, int *fds, struct wh_cred *cred)
{
        static const int nowhere = -1;
        const int r = wh_frame_peek(sock, f, data, fds, cred);
        if (r != 0 || wh_os_inq(sock) <= 0)
                return r;
        wh_os_setsockopt(sock, SOL_SOCKET, SO_PEEK_OFF, &nowhere, sizeof nowhere);
        return wh_frame_peek(sock, f, data, fds, cred);
}

int wh_frame_take(int sock, const struct wh_frame *f, const int *looked)
{
        struct wh_frame head;
        struct iovec iov = {&head, sizeof head};
        int fds[WH_FDS_MAX];
        /* With all its descriptors, though they are there already: those of another frame the kernel must not close here. */
        struct wh_came c = {.fds = fds, .room = WH_FDS_MAX};
        ssize_t r = wh_os_receive(sock, &iov, 1, MSG_TRUNC, &c);
        if (r >= 0)
                for (unsigned i = 0; i < c.n; i++)
                        wh_os_close_copy(fds[i], looked && i < f->n_fds ? looked[i] : -1);
        if (r == -ENOMEM || r == -ENOBUFS)
                return wh_trace((int)r);
        if (f->type == WH_FRAME_BELL)
                return r == 1 ? 0 : wh_trace(-EPROTO);
        return r == (ssize_t)(sizeof head + f->len) && memcmp(&head, f, sizeof head) == 0 ? 0 : wh_trace(-EPROTO);
}

/* The pair that a holder sends is among its first frames. */
enum { REFUSED_LOOKS = 4 };

void wh_frame_refusal(int sock, int err, enum wh_refusal which, uint64_t limit)
{
        struct wh_frame f = {
                .type = WH_FRAME_REFUSE, .to = WH_TO_HOLDER, .arg = (uint32_t)-err, .id = which, .total = limit};
        wh_frame_send(sock, &f, NULL, 0, NULL, false);
}

void wh_frame_refuse(int sock, int err, enum wh_refusal which, uint64_t limit)
{
        wh_frame_refusal(sock, err, which, limit);
        for (unsigned i = 0; i < REFUSED_LOOKS; i++) {
                struct wh_frame head;
                struct iovec iov = {&head, sizeof head};
                int fds[WH_FDS_MAX];
                struct wh_came c = {.fds = fds, .room = WH_FDS_MAX};
                const ssize_t r = wh_os_receive(sock, &iov, 1, MSG_TRUNC, &c);
                if (r <= 0)
                        return;
                const bool pair = r >= (ssize_t)sizeof head && c.n == 1 && head.magic == WH_FRAME_MAGIC &&
                                  head.version == WH_FRAME_VERSION && head.to == WH_TO_OWNER &&
                                  head.type == WH_FRAME_REBIND && wh_frame_check_socket(fds[0]) == 0;
                if (pair)
                        wh_frame_refusal(fds[0], err, which, limit);
                for (unsigned k = 0; k < c.n; k++)
                        wh_os_close_theirs(fds[k]);
                if (pair)
                        return;
        }
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

uint32_t wh_frames_unread(int sock)
{
        enum { LEAST = 640 }; /* the kernel has more than that for the smallest datagram */
        const int left = wh_os_unread(sock);
        if (left < 0)
                return UINT32_MAX;
        return left && left < LEAST ? 1 : (uint32_t)left / LEAST;
}
