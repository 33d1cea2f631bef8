#include "datagram.h"

#include "link/frame.h"

#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* About lengths and numbers. Where it says "and says so", the head agrees with what comes. */
enum lie {
        EMPTY,         /* nothing, as at the end; the descriptors stay */
        ONE_BYTE,      /* a doorbell; the descriptors stay */
        HEAD_CUT,      /* one byte less than a head */
        SHORTER,       /* the last byte is missing */
        SHORTER_SAID,  /* and says so */
        NO_BODY_SAID,  /* the head alone, and says so */
        LONGER,        /* says that more came than did, in all that it says of lengths */
        LONGER_FAR,    /* so much that no buffer of a receiver holds it */
        CUT_BY_KERNEL, /* MSG_TRUNC: there was more */
        FDS_CUT,       /* MSG_CTRUNC: there were more descriptors */
        FD_MORE,       /* one descriptor more */
        FD_MORE_SAID,
        LIES_PLAIN,

        FD_LESS = LIES_PLAIN, /* one descriptor less */
        FD_LESS_SAID,
        FDS_NONE,
        FDS_NONE_SAID,
        FDS_SWAPPED, /* the first and the last change places */
        LIES_FDS,

        /* For each of the first two descriptors: another thing in its place. */
        AS_NULL = 0,
        AS_EVENT,
        AS_LISTENER,
        AS_STREAM,
        AS_UNSEALED, /* the same bytes, in a memory that can still be cut */
        AS_PIPE,
        AS_KINDS,
        AS_PLACES = 2,
};

unsigned proof_datagram_lies(unsigned len, unsigned n_fds)
{
        if (len < sizeof(struct wh_frame))
                return FD_MORE + 1;
        return !n_fds ? LIES_PLAIN : LIES_FDS + AS_KINDS * (n_fds < AS_PLACES ? n_fds : AS_PLACES);
}

static struct cmsghdr *rights(struct msghdr *m)
{
        for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c))
                if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
                        return c;
        return NULL;
}

static unsigned count(const struct cmsghdr *c)
{
        return c ? (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int)) : 0;
}

void proof_datagram_look(const struct hook_step *s, unsigned *ret_len, unsigned *ret_n_fds)
{
        size_t room = 0; /* with MSG_TRUNC a whole datagram is told of, though a byte of it was asked for */
        for (size_t i = 0; i < s->msg->msg_iovlen; i++)
                room += s->msg->msg_iov[i].iov_len;
        *ret_len = (unsigned)((size_t)*s->received < room ? (size_t)*s->received : room);
        *ret_n_fds = count(rights(s->msg));
}

static struct {
        int fd;
        uint64_t ino;
} cut = {-1, 0};

/* A copy of `fd`'s bytes without seals. */
static int unsealed(int fd)
{
        struct stat st;
        uint8_t page[4096];
        if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
                return -1;
        int copy = memfd_create("wharf-lie", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (copy < 0 || ftruncate(copy, st.st_size) < 0)
                return copy;
        for (off_t at = 0; at < st.st_size; at += (off_t)sizeof page) {
                ssize_t n = pread(fd, page, sizeof page, at);
                if (n > 0)
                        (void)!pwrite(copy, page, (size_t)n, at);
        }
        fchmod(copy, 0600);
        if (fstat(copy, &st) == 0 && cut.fd < 0) {
                cut.fd = fcntl(copy, F_DUPFD_CLOEXEC, 900); /* far from what the code under proof is given */
                cut.ino = st.st_ino;
        }
        return copy;
}

void proof_datagram_cut(const struct hook_step *s)
{
        if (cut.fd < 0 || (s && (!s->range || s->range->ino != cut.ino)))
                return;
        (void)!ftruncate(cut.fd, 0);
        close(cut.fd);
        cut.fd = -1;
}

static int another(int fd, unsigned as)
{
        int pair[2], r = -1;
        switch (as) {
        case AS_NULL:
                return open("/dev/null", O_RDWR | O_CLOEXEC);
        case AS_EVENT:
                return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        case AS_LISTENER:
                r = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
                if (r >= 0)
                        listen(r, 1); /* not bound: it refuses, and is a socket that is not connected */
                return r;
        case AS_STREAM:
                if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                        return -1;
                close(pair[1]);
                return pair[0];
        case AS_UNSEALED:
                return unsealed(fd);
        case AS_PIPE:
                if (pipe2(pair, O_CLOEXEC | O_NONBLOCK) < 0)
                        return -1;
                close(pair[1]);
                return pair[0];
        }
        return -1;
}

static void set_count(struct msghdr *m, struct cmsghdr *c, unsigned n)
{
        /* What follows it in the buffer moves: credentials are copied behind the shorter or longer list. */
        uint8_t *old_end = (uint8_t *)c + CMSG_ALIGN(c->cmsg_len),
                *new_end = (uint8_t *)c + CMSG_ALIGN(CMSG_LEN(n * sizeof(int)));
        size_t tail = (size_t)((uint8_t *)m->msg_control + m->msg_controllen - old_end);
        memmove(new_end, old_end, tail);
        c->cmsg_len = CMSG_LEN(n * sizeof(int));
        m->msg_controllen = (size_t)(new_end - (uint8_t *)m->msg_control) + tail;
}

static void fds_get(const struct cmsghdr *c, int *fds)
{
        memcpy(fds, CMSG_DATA(c), count(c) * sizeof(int));
}

/* One descriptor more; where none came, room is made for a first one. */
static bool one_more(struct msghdr *m)
{
        if (!m->msg_control)
                return false; /* the kernel closes what there is no room for */
        int fd = open("/dev/null", O_RDWR | O_CLOEXEC), fds[260];
        struct cmsghdr *c = rights(m);
        unsigned n = count(c);
        if (fd < 0 || n > 250)
                return false;
        if (!c) {
                struct cmsghdr *first = CMSG_FIRSTHDR(m);
                size_t used = first ? m->msg_controllen : 0, mine = CMSG_SPACE(sizeof(int));
                memmove((uint8_t *)m->msg_control + mine, m->msg_control, used);
                c = m->msg_control;
                *c = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
                m->msg_controllen = used + mine;
                memcpy(CMSG_DATA(c), &fd, sizeof fd);
                return true;
        }
        fds_get(c, fds);
        fds[n] = fd;
        set_count(m, c, n + 1);
        memcpy(CMSG_DATA(c), fds, (n + 1) * sizeof(int));
        return true;
}

static void drop_fds(struct msghdr *m, unsigned keep)
{
        int fds[260];
        struct cmsghdr *c = rights(m);
        unsigned n = count(c);
        if (!c)
                return;
        fds_get(c, fds);
        for (unsigned i = keep; i < n; i++)
                close(fds[i]);
        set_count(m, c, keep);
}

bool proof_datagram_lie(const struct hook_step *s, unsigned which)
{
        struct msghdr *m = s->msg;
        struct wh_frame f;
        unsigned len, n_fds;
        proof_datagram_look(s, &len, &n_fds);
        const bool frame = len >= sizeof f;
        if (which >= proof_datagram_lies(len, n_fds))
                return false;
        if (frame)
                memcpy(&f, s->addr, sizeof f);
        switch (which) {
        case EMPTY:
                *s->received = 0;
                break;
        case ONE_BYTE:
                *s->received = 1;
                return len > 1;
        case HEAD_CUT:
                if (!frame)
                        return false;
                *s->received = sizeof f - 1;
                break;
        case SHORTER:
        case SHORTER_SAID:
                if (!frame || len == sizeof f)
                        return false;
                --*s->received;
                f.len -= which == SHORTER_SAID;
                break;
        case NO_BODY_SAID:
                if (!frame || len == sizeof f)
                        return false;
                *s->received = sizeof f;
                f.len = 0;
                break;
        case LONGER:
        case LONGER_FAR:
                if (!frame)
                        return false;
                f.len += which == LONGER ? 64 : 1 << 20;
                f.total += which == LONGER ? 64 : 1 << 20;
                break;
        case CUT_BY_KERNEL:
                m->msg_flags |= MSG_TRUNC;
                break;
        case FDS_CUT:
                m->msg_flags |= MSG_CTRUNC;
                break;
        case FD_MORE:
        case FD_MORE_SAID:
                if (!one_more(m))
                        return false;
                f.n_fds += which == FD_MORE_SAID;
                break;
        case FD_LESS:
        case FD_LESS_SAID:
                drop_fds(m, n_fds - 1);
                f.n_fds -= which == FD_LESS_SAID;
                break;
        case FDS_NONE:
        case FDS_NONE_SAID:
                drop_fds(m, 0);
                f.n_fds = which == FDS_NONE_SAID ? 0 : f.n_fds;
                break;
        case FDS_SWAPPED: {
                int fds[260];
                struct cmsghdr *c = rights(m);
                if (n_fds < 2)
                        return false;
                fds_get(c, fds);
                int first = fds[0];
                fds[0] = fds[n_fds - 1];
                fds[n_fds - 1] = first;
                memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
                break;
        }
        default: {
                int fds[260];
                struct cmsghdr *c = rights(m);
                unsigned at = (which - LIES_FDS) / AS_KINDS;
                fds_get(c, fds);
                int fd = another(fds[at], (which - LIES_FDS) % AS_KINDS);
                if (fd < 0)
                        return false;
                close(fds[at]);
                fds[at] = fd;
                memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
        }
        }
        if (frame)
                memcpy(s->addr, &f, sizeof f);
        return true;
}
