#include "os/receive.h"

#include "os/closer.h"
#include "os/os.h"

#include <errno.h>
#include <string.h>

#ifndef SCM_PIDFD
#define SCM_PIDFD 4 /* newer than some headers: comes with a datagram, like descriptors, where a socket asks for it */
#endif

#define OVERFLOW_ID 65534u /* the kernel's word for an id it cannot show */

enum {
        BESIDE_BYTES = 512, /* time stamps, labels, a pidfd: what others can ask for on a socket they share with us */
        CATCH_UP_NS = 5000000,
        CUT_CATCH_UP_NS = 50000000,
        TRIES = 3, /* another thread may free a descriptor between our read and the question whether one is left */
};

/* Room for all that can come: what finds none the kernel closes, then and there (closer.h). */
union control {
        struct cmsghdr align;
        char space[CMSG_SPACE(WH_OS_FDS_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred)) + BESIDE_BYTES];
};

/* The one parser of what comes beside the bytes. */
static void take_control(struct msghdr *m, struct wh_came *c)
{
        c->n = 0;
        c->surplus = c->known = false;
        c->beside = m->msg_controllen > 0;
        for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
                if (h->cmsg_level != SOL_SOCKET)
                        continue;
                if (h->cmsg_type == SCM_RIGHTS) {
                        size_t k = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                        for (size_t i = 0; i < k; i++) {
                                int fd;
                                memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof fd);
                                if (c->n < c->room) {
                                        c->fds[c->n++] = fd;
                                } else {
                                        wh_os_close_theirs(fd);
                                        c->surplus = true;
                                }
                        }
                } else if (h->cmsg_type == SCM_PIDFD) {
                        /* Whoever kept a copy of our end can ask for these, one with each datagram. */
                        int fd;
                        memcpy(&fd, CMSG_DATA(h), sizeof fd);
                        wh_os_close(fd);
                } else if (h->cmsg_type == SCM_CREDENTIALS) {
                        memcpy(&c->who, CMSG_DATA(h), sizeof c->who);
                        /* A datagram older than our asking for credentials has none, and shows as nobody's. */
                        c->known = c->who.pid != 0 || c->who.uid != OVERFLOW_ID;
                }
        }
}

/* Descriptors are missing. Those that came are still open, so the kernel would find no other now, if it is for that. */
static enum wh_came_fds missing(int sock)
{
        int fd = wh_os_dup_above(sock, 0);
        if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM)
                return WH_FDS_SHORT;
        wh_os_close(fd);
        return WH_FDS_CUT;
}

ssize_t wh_os_receive(int sock, struct iovec *iov, unsigned n_iov, int flags, struct wh_came *c)
{
        union control control;
        for (int tries = 0, cuts = 0, resets = 0;;) {
                struct msghdr m = {.msg_iov = iov,
                                   .msg_iovlen = n_iov,
                                   .msg_control = control.space,
                                   .msg_controllen = c->bare ? CMSG_SPACE(sizeof(struct ucred)) : sizeof control.space};
                const uint32_t taken = wh_os_closer_taken();
                ssize_t r = wh_os_recvmsg(sock, &m, flags);
                /* After the peer died with unread data the first read says ECONNRESET, and the next ones the data. */
                if (r == -EINTR || (r == -ECONNRESET && resets++ == 0))
                        continue;
                if (r == -ECONNRESET || r == -ENOTCONN)
                        return -EPIPE;
                if (r < 0)
                        return r;
                take_control(&m, c);
                c->cut = m.msg_flags & MSG_TRUNC;
                c->all = !(m.msg_flags & MSG_CTRUNC) ? WH_FDS_ALL : c->bare ? WH_FDS_CUT : missing(sock);
                if (c->bare)
                        return r;
                if (c->once) {
                        if (c->all == WH_FDS_CUT && wh_os_closer_taken() != taken)
                                c->all = WH_FDS_SHORT; /* so it was, for all that is known */
                        return r;
                }
                if (c->all == WH_FDS_SHORT && flags & MSG_PEEK && wh_os_closer_behind() && ++tries < TRIES) {
                        /* Some are as good as closed: give that a moment. */
                        while (c->n)
                                wh_os_close_theirs(c->fds[--c->n]);
                        wh_os_closer_catch_up(CATCH_UP_NS);
                        continue;
                }
                if (c->all != WH_FDS_CUT || !(flags & MSG_PEEK))
                        return r;
                if (++cuts == TRIES) {
                        if (wh_os_closer_taken() != taken)
                                c->all = WH_FDS_SHORT; /* so it was, for all that is known */
                        return r;
                }
                while (c->n)
                        wh_os_close_theirs(c->fds[--c->n]);
                /* So that its thread frees none in between. */
                wh_os_closer_catch_up(CUT_CATCH_UP_NS);
        }
}

int wh_os_discard(int sock, unsigned n)
{
        char byte;
        struct iovec iov = {&byte, 1};
        unsigned done = 0;
        for (; done < n; done++) {
                struct wh_came c = {.room = 0};
                ssize_t r = wh_os_receive(sock, &iov, 1, 0, &c);
                if (r < 0 || (r == 0 && !c.beside))
                        return done ? (int)done : r < 0 ? (int)r : -EPIPE;
        }
        return (int)done;
}
