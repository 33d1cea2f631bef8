/*
 * port - what the targets of src/port share: descriptors that a peer may send, datagrams, and what a user does with
 * what comes of them.
 */
#ifndef PROOF_FUZZ_PORT_H
#define PROOF_FUZZ_PORT_H

#include "fuzz.h"

#include "lane/lane.h"
#include "message/carrier.h"
#include "link/frame.h"
#include "right/right.h"
#include "port/port.h"
#include "wharf/wharf.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* ---- what a peer has to send ---- */

enum { FUZZ_RING = 4096, FUZZ_CAPACITY = 16, FUZZ_SECTION = 8 << 10, FUZZ_FDS_MAX = 70 };
enum fuzz_fd { FD_OUT, FD_BACK, FD_SECTION, FD_SOCKET, FD_PIPE, FD_MEMORY, FD_PLAIN_MEMORY, FD_STATUS, FD_KINDS };

struct fuzz_peer {
        int sock;              /* ours, without waiting */
        uint8_t says;          /* whom its frames are for, where the input does not say it; 0: the owner */
        struct wh_lane_tx *tx; /* a lane of the peer's, made when it is first sent */
        int pair[8];           /* other ends of sockets that were sent */
        unsigned n_pairs;
};

static inline int fuzz_memory(size_t len, bool sealed)
{
        int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        FUZZ_CHECK(fd >= 0 && fallocate(fd, 0, 0, (off_t)len) == 0);
        void *touched = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0); /* lane.L1 */
        FUZZ_CHECK(touched != MAP_FAILED && munmap(touched, len) == 0);
        if (sealed)
                fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
        return fd;
}

/* A new descriptor of that kind, to be closed after it was sent. */
static inline int fuzz_fd(struct fuzz_peer *p, unsigned kind)
{
        int sv[2];
        if (kind <= FD_SECTION && !p->tx) {
                FUZZ_CHECK(wh_lane_tx_new(FUZZ_RING, FUZZ_CAPACITY, &p->tx) == 0);
                unsigned i;
                FUZZ_CHECK(wh_lane_add_section(p->tx, FUZZ_SECTION, &i) == 0);
        }
        switch (kind) {
        case FD_OUT:
                return fcntl(p->tx->out_fd, F_DUPFD_CLOEXEC, 3);
        case FD_BACK:
                return fcntl(p->tx->back_fd, F_DUPFD_CLOEXEC, 3);
        case FD_SECTION:
                return fcntl(p->tx->section[0].fd, F_DUPFD_CLOEXEC, 3);
        case FD_SOCKET:
                FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) == 0);
                if (p->n_pairs < 8)
                        p->pair[p->n_pairs++] = sv[0];
                else
                        close(sv[0]);
                return sv[1];
        case FD_PIPE:
                FUZZ_CHECK(pipe2(sv, O_CLOEXEC) == 0);
                close(sv[1]);
                return sv[0];
        case FD_MEMORY:
                return fuzz_memory(8192, true);
        case FD_PLAIN_MEMORY:
                return fuzz_memory(4096, false);
        default:
                return open("/dev/null", O_RDWR | O_CLOEXEC);
        }
}

/* One datagram with these descriptors; what the kernel refuses is not sent. */
static inline void fuzz_datagram(int sock, const void *bytes, size_t len, const int *fds, unsigned n_fds)
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(FUZZ_FDS_MAX * sizeof(int))];
        } control = {.space = {0}};
        struct iovec iov = {(void *)(uintptr_t)bytes, len};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
        if (n_fds) {
                control.align.cmsg_level = SOL_SOCKET;
                control.align.cmsg_type = SCM_RIGHTS;
                control.align.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
                memcpy(CMSG_DATA(&control.align), fds, n_fds * sizeof(int));
                m.msg_control = control.space;
                m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        }
        ssize_t r = sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)r;
}

/*
 * DESCRIPTORS (how many, then a kind each), FLAGS, LENGTH, BYTES. With FLAG_FRAME the head is put right before it goes
 * out: magic, version, length and number of descriptors, which a mutation seldom guesses.
 */
enum { FLAG_FRAME = 1, FLAG_OTHER = 2 };
static inline void fuzz_send_datagram(struct fuzz_in *in, struct fuzz_peer *p)
{
        static uint8_t bytes[WH_COLD_MAX];
        int fds[FUZZ_FDS_MAX];
        unsigned n = fuzz_u8(in) % 72u;
        n = n > FUZZ_FDS_MAX ? FUZZ_FDS_MAX : n > 8 && n < 64 ? n % 8 : n;
        for (unsigned i = 0; i < n; i++)
                fds[i] = fuzz_fd(p, fuzz_u8(in) % FD_KINDS);
        unsigned flags = fuzz_u8(in);
        size_t len;
        const uint8_t *from = fuzz_bytes(in, fuzz_u16(in), &len);
        len = len < sizeof bytes ? len : sizeof bytes;
        memcpy(bytes, from, len);
        if (flags & FLAG_FRAME && len >= sizeof(struct wh_frame)) {
                struct wh_frame f;
                memcpy(&f, bytes, sizeof f);
                f.magic = WH_FRAME_MAGIC;
                f.version = WH_FRAME_VERSION;
                if (f.to == 0)
                        f.to = p->says ? p->says : WH_TO_OWNER;
                f.len = (uint32_t)(len - sizeof f);
                f.n_fds = (uint8_t)n;
                memcpy(bytes, &f, sizeof f);
        }
        int sock = flags & FLAG_OTHER && p->n_pairs ? p->pair[p->n_pairs - 1] : p->sock;
        if (sock >= 0)
                fuzz_datagram(sock, bytes, len, fds, n);
        for (unsigned i = 0; i < n; i++)
                close(fds[i]);
}

/* KIND, LENGTH, BYTES: a record in the peer's own lane. */
static inline void fuzz_put_record(struct fuzz_in *in, struct fuzz_peer *p)
{
        unsigned kind = fuzz_u8(in) % 16u;
        size_t len;
        const uint8_t *from = fuzz_bytes(in, fuzz_u8(in), &len);
        void *body = p->tx ? wh_ring_reserve(&p->tx->ring, (uint32_t)len) : NULL;
        if (!body)
                return;
        memcpy(body, from, len);
        wh_ring_publish(&p->tx->ring, (enum wh_rec_kind)kind, (uint32_t)len);
}

static inline void fuzz_peer_done(struct fuzz_peer *p)
{
        if (p->sock >= 0)
                close(p->sock);
        for (unsigned i = 0; i < p->n_pairs; i++)
                close(p->pair[i]);
        wh_lane_tx_free(p->tx);
}

/* ---- what a user does ---- */

enum { FUZZ_NAMES = 16 };
struct fuzz_user {
        wharf_task *task;
        wharf_name port, right; /* what this is about; either may be none */
        wharf_name got[FUZZ_NAMES];
        unsigned n_got;
        uint32_t call;
};

static inline void fuzz_got(struct fuzz_user *u, wharf_name name)
{
        if (name == WHARF_NONE)
                return;
        if (u->n_got < FUZZ_NAMES)
                u->got[u->n_got++] = name;
        else
                wharf_drop(u->task, name);
}

/* What a message brings is used as its receiver would: kinds are what they are called. */
static inline void fuzz_take(struct fuzz_user *u, struct wharf_msg *m)
{
        FUZZ_CHECK(m->n_items <= m->cap_items);
        if (m->notice)
                return;
        if (m->data && m->len_bytes) { /* all of it can be read */
                volatile uint8_t sum = 0;
                for (size_t i = 0; i < m->len_bytes; i += i + 512 < m->len_bytes ? 512 : 1)
                        sum = (uint8_t)(sum + ((const uint8_t *)m->data)[i]);
                (void)sum;
        }
        for (unsigned i = 0; i < m->n_items; i++) {
                const struct wharf_item *it = &m->items[i];
                if (it->kind == WHARF_GOT_FD) {
                        FUZZ_CHECK(fcntl(it->fd, F_GETFD) == FD_CLOEXEC);
                        close(it->fd);
                        continue;
                }
                int kind = wharf_name_kind(u->task, it->name);
                FUZZ_CHECK(it->kind > WHARF_GOT_FD && it->kind <= WHARF_GOT_MEMORY && kind > 0);
                fuzz_got(u, it->name);
        }
        fuzz_got(u, m->reply);
}

static inline void fuzz_receive(struct fuzz_user *u, wharf_name from, unsigned how)
{
        static uint8_t buf[WH_COLD_MAX];
        struct wharf_item items[WHARF_ITEMS_MAX];
        struct wharf_msg m = {.size = sizeof m, .items = items, .cap_items = how & 8 ? 1 : WHARF_ITEMS_MAX};
        m.flags = how & 3 & (WHARF_RECV_IN_PLACE | WHARF_RECV_ALLOC);
        if (m.flags == (WHARF_RECV_IN_PLACE | WHARF_RECV_ALLOC))
                m.flags = 0;
        if (!(m.flags & WHARF_RECV_ALLOC)) {
                m.data = buf;
                m.cap_bytes = how & 4 ? 64 : sizeof buf;
        }
        if (wharf_recvmsg(u->task, from, &m, 0) < 0)
                return;
        if (!m.notice)
                fuzz_take(u, &m);
        wharf_release(u->task, &m);
}

static inline void fuzz_finish_call(struct fuzz_user *u)
{
        static uint8_t buf[WH_COLD_MAX];
        struct wharf_item items[WHARF_ITEMS_MAX];
        struct wharf_msg m = {
                .size = sizeof m, .data = buf, .cap_bytes = sizeof buf, .items = items, .cap_items = WHARF_ITEMS_MAX};
        if (wharf_call_finish(u->task, u->right, u->call, &m, 0) == 0)
                fuzz_take(u, &m);
}

static inline void fuzz_sends(struct fuzz_user *u, wharf_name to, unsigned how, bool call)
{
        static uint8_t bytes[9000];
        struct wharf_item items[2] = {{.kind = WHARF_MAKE_SEND, .name = u->port}, {.kind = WHARF_COPY_FD, .fd = 2}};
        struct wharf_msg m = {.size = sizeof m,
                              .how = how & 7 & (WHARF_HOW_INLINE | WHARF_HOW_SECTION | WHARF_HOW_CHUNKS),
                              .flags = how & 128 ? WHARF_SEND_LATER : 0,
                              .data = bytes,
                              .len_bytes = how & 8    ? sizeof bytes
                                           : how & 16 ? 700
                                                      : 12,
                              .items = how & 32 && !u->port ? items + 1 : items,
                              .n_items = how & 32 ? (how & 64 && u->port ? 2 : 1) : 0};
        if (call)
                wharf_call_start(u->task, to, &m, WHARF_NONE, 0, &u->call);
        else if (wharf_name_kind(u->task, to) == WHARF_KIND_REPLY)
                wharf_replymsg(u->task, to, &m);
        else
                wharf_sendmsg(u->task, to, &m, 0);
}

/* One act: receive, send, call, answer, ask, drop. */
static inline void fuzz_act(struct fuzz_in *in, struct fuzz_user *u, unsigned what)
{
        unsigned how = fuzz_u8(in);
        wharf_name some = u->n_got ? u->got[how % u->n_got] : WHARF_NONE;
        struct wharf_right_stat rs = {.size = sizeof rs};
        struct wharf_port_stat ps = {.size = sizeof ps};
        wharf_name copy;
        switch (what) {
        case 0:
                fuzz_receive(u, u->port, how);
                break;
        case 1:
                fuzz_sends(u, u->right, how, false);
                break;
        case 2:
                fuzz_sends(u, u->right, how, true);
                break;
        case 3:
                fuzz_finish_call(u);
                break;
        case 4: /* the last that came: a reply, a right, a port */
                if (some && wharf_name_kind(u->task, some) == WHARF_KIND_PORT)
                        fuzz_receive(u, some, how);
                else if (some)
                        fuzz_sends(u, some, how, false);
                break;
        case 5:
                wharf_right_stat(u->task, u->right, &rs);
                wharf_port_stat(u->task, u->port, &ps);
                break;
        case 6:
                if (wharf_right_copy(u->task, u->right, 0, &copy) == 0)
                        fuzz_got(u, copy);
                if (some)
                        wharf_right_same(u->task, u->right, some, 0);
                break;
        default:
                if (u->n_got) {
                        wharf_drop(u->task, some);
                        u->got[how % u->n_got] = u->got[u->n_got - 1];
                        u->n_got--;
                }
                break;
        }
}

#endif
