#include "wire.h"

#include "moved.h"
#include "names/proto.h" /* WH_NAMES_*: numbers only */

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef SCM_PIDFD
#define SCM_PIDFD 4
#endif

/* ---- frames ---- */

/* Whom a frame of this type is for, mostly. */
static uint8_t fits(unsigned type)
{
        switch (type) {
        case WH_FRAME_HELLO:
        case WH_FRAME_REFUSE:
        case WH_FRAME_VIA:
        case WH_FRAME_DROPPED:
        case WH_FRAME_RENEW:
        case WH_FRAME_TAKEN:
                return WH_TO_HOLDER;
        default:
                return WH_TO_OWNER;
        }
}

int wire_send(int sock, struct wire_frame f, enum wire_as as, enum wire_lie lie, const void *data, size_t len,
              const int *fds, unsigned n_fds)
{
        static const uint8_t to[WIRE_AS_KINDS] = {
                [WIRE_AS_HOLDER] = WH_TO_OWNER, [WIRE_AS_OWNER] = WH_TO_HOLDER, [WIRE_AS_ONCE] = WH_TO_ONCE};
        f.to = as == WIRE_AS_FITS ? fits(f.type) : to[as];
        f.magic = WH_FRAME_MAGIC + (lie == WIRE_LIE_MAGIC);
        f.version = (uint8_t)(WH_FRAME_VERSION + (lie == WIRE_LIE_VERSION));
        f.n_fds = (uint8_t)(lie != WIRE_LIE_N_FDS ? n_fds : n_fds == 2 ? 3 : 2);
        f.len = (uint32_t)(len + (lie == WIRE_LIE_LEN));
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(WIRE_FDS_MAX * sizeof(int))];
        } control = {0};
        struct iovec iov[2] = {{&f, sizeof f}, {(void *)(uintptr_t)data, len}};
        struct msghdr m = {.msg_iov = iov, .msg_iovlen = len ? 2 : 1};
        if (n_fds) {
                struct cmsghdr *c = &control.align;
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
                memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
                m.msg_control = control.space;
                m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        }
        ssize_t r = sendmsg(sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
        return r < 0 ? -errno : (int)r;
}

int wire_receive(int sock, struct wire_got *ret, bool peek)
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(WIRE_FDS_MAX * sizeof(int)) + 256];
        } control;
        struct iovec iov[2] = {{&ret->frame, sizeof ret->frame}, {ret->data, sizeof ret->data}};
        struct msghdr m = {
                .msg_iov = iov, .msg_iovlen = 2, .msg_control = control.space, .msg_controllen = sizeof control.space};
        memset(&ret->frame, 0, sizeof ret->frame);
        ret->n_fds = 0;
        ssize_t r = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | (peek ? MSG_PEEK : 0));
        if (r < 0)
                return errno == EAGAIN ? 0 : -errno;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
                if (c->cmsg_level != SOL_SOCKET || (c->cmsg_type != SCM_RIGHTS && c->cmsg_type != SCM_PIDFD))
                        continue;
                size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < n; i++) {
                        int fd;
                        memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
                        if (c->cmsg_type == SCM_RIGHTS && ret->n_fds < WIRE_FDS_MAX)
                                ret->fds[ret->n_fds++] = fd;
                        else
                                close(fd);
                }
        }
        ret->len = (size_t)r;
        return r == 0 ? -EPIPE : 1;
}

/* ---- lanes ---- */

int wire_memory(uint64_t len, int seals, void **ret_map)
{
        static const int bits[] = {[WIRE_SEALS_OUT] = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE,
                                   [WIRE_SEALS_BACK] = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW,
                                   [WIRE_SEALS_IMMUTABLE] = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW,
                                   [WIRE_SEALS_NONE] = 0};
        int fd = memfd_create("adversary", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
                return -errno;
        void *map = MAP_FAILED;
        if (fchmod(fd, 0600) == 0 && ftruncate(fd, (off_t)len) == 0 && fallocate(fd, 0, 0, (off_t)len) == 0)
                map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
        if (map == MAP_FAILED || fcntl(fd, F_ADD_SEALS, bits[seals]) < 0) {
                int r = -errno;
                close(fd);
                return r;
        }
        *ret_map = map;
        return fd;
}

int wire_lane_new(struct wire_lane *ret, uint32_t lines, uint64_t first_number)
{
        void *out, *back;
        int fd = wire_memory(WH_PAGE + (uint64_t)lines * WH_LINE, WIRE_SEALS_OUT, &out);
        if (fd < 0)
                return fd;
        int back_fd = wire_memory(WH_PAGE, WIRE_SEALS_BACK, &back);
        if (back_fd < 0) {
                munmap(out, WH_PAGE + (uint64_t)lines * WH_LINE);
                close(fd);
                return back_fd;
        }
        *ret = (struct wire_lane){.out = out,
                                  .back = back,
                                  .ring = (uint8_t *)out + WH_PAGE,
                                  .out_fd = fd,
                                  .back_fd = back_fd,
                                  .lines = lines,
                                  .number = first_number};
        const uint64_t magic = WH_LANE_MAGIC;
        const uint32_t version = WH_LANE_VERSION;
        memcpy(ret->out, &magic, 8);
        memcpy(ret->out + 8, &version, 4);
        memcpy(ret->out + 12, &lines, 4);
        return 0;
}

void wire_lane_free(struct wire_lane *l)
{
        if (!l->out)
                return;
        munmap(l->out, WH_PAGE + (uint64_t)l->lines * WH_LINE);
        munmap(l->back, WH_PAGE);
        close(l->out_fd);
        close(l->back_fd);
        l->out = NULL;
}

static void put_head(struct wire_lane *l, uint64_t at, unsigned kind, uint32_t len)
{
        uint64_t head = (uint64_t)(0x80000000u | (uint32_t)(l->number & 0x7fffffffu)) << 32 | kind << 16 | len;
        /* Release: the body first, as any receiver expects. */
        atomic_store_explicit((_Atomic uint64_t *)(void *)(l->ring + at * WH_LINE), head, memory_order_release);
}

bool wire_lane_put(struct wire_lane *l, unsigned kind, const void *body, uint32_t len)
{
        const uint64_t need = (8 + len + WH_LINE - 1) / WH_LINE;
        uint64_t at = l->pos & (l->lines - 1);
        const uint64_t pad = at + need > l->lines ? l->lines - at : 0;
        /* Acquire: what was taken is read no more. The word is the other side's. */
        uint64_t taken = atomic_load_explicit((_Atomic uint64_t *)(void *)l->back, memory_order_acquire);
        if (l->pos + pad + need + 1 - taken > l->lines)
                return false;
        if (pad) {
                put_head(l, at, WH_REC_PAD, 0);
                l->pos += pad;
                at = 0;
        }
        /* The place of the next head is cleared before this one is seen. */
        atomic_store_explicit((_Atomic uint64_t *)(void *)(l->ring + ((l->pos + need) & (l->lines - 1)) * WH_LINE), 0,
                              memory_order_relaxed);
        memcpy(l->ring + at * WH_LINE + 8, body, len);
        put_head(l, at, kind, len);
        l->pos += need;
        l->number++;
        return true;
}

void wire_lane_fill(struct wire_lane *l, const void *body, uint32_t len)
{
        for (uint32_t i = 0; i < l->lines; i++)
                memcpy(l->ring + (uint64_t)i * WH_LINE + 8, body, len);
}

uint64_t wire_lane_flood(struct wire_lane *l, unsigned kind, uint32_t len)
{
        const uint64_t from = l->pos;
        const uint64_t end = atomic_load_explicit((_Atomic uint64_t *)(void *)l->back, memory_order_acquire) + l->lines;
        for (; l->pos < end; l->pos++, l->number++)
                put_head(l, l->pos & (l->lines - 1), kind, len);
        return l->pos - from;
}

void wire_lane_frame(struct wire_lane *l)
{
        atomic_fetch_add((_Atomic uint32_t *)(void *)(l->out + WH_LINE), 1);
}

bool wire_lane_asleep(struct wire_lane *l)
{
        uint32_t asleep = atomic_load((_Atomic uint32_t *)(void *)(l->back + WH_LINE));
        if (!asleep || asleep == l->rung)
                return false;
        l->rung = asleep;
        return true;
}

void wire_lane_offer(struct wire_lane *l)
{
        atomic_store((_Atomic uint64_t *)(void *)(l->back + offsetof(struct wh_back, claim)),
                     l->number << 15 | WH_CLAIM_OFFERED);
}

/* ---- wharfd ---- */

size_t wire_request(struct wire_request r, const char *name, void *to)
{
        const size_t len = strlen(name);
        r.magic = WH_NAMES_MAGIC;
        r.version = WH_NAMES_VERSION;
        r.name_len = (uint32_t)len;
        memcpy(to, &r, sizeof r);
        memcpy((uint8_t *)to + sizeof r, name, len);
        return sizeof r + len;
}

int wire_task_page_of(uint64_t number)
{
        void *map;
        int fd = wire_memory(WH_PAGE, WIRE_SEALS_OUT, &map);
        if (fd < 0)
                return fd;
        const struct {
                uint64_t magic;
                uint64_t version;
                uint64_t number;
        } head = {WH_TASK_PAGE_MAGIC, WH_TASK_PAGE_VERSION, number};
        memcpy(map, &head, sizeof head);
        munmap(map, WH_PAGE);
        return fd;
}

int wire_task_page(void)
{
        static uint32_t n;
        return wire_task_page_of((uint64_t)getpid() << 32 | ++n);
}

/* ---- a port that moves ---- */

static int carrier_put(int to, uint32_t index, uint32_t count, int fd)
{
        struct moved_datagram d = {MOVED_MAGIC, MOVED_VERSION, index, count, 1};
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(sizeof(int))];
        } control = {0};
        struct iovec iov = {&d, sizeof d};
        struct msghdr m = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
        control.align.cmsg_level = SOL_SOCKET;
        control.align.cmsg_type = SCM_RIGHTS;
        control.align.cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(&control.align), &fd, sizeof fd);
        return sendmsg(to, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int wire_carrier(int sock, pid_t pid, uid_t uid)
{
        int ends[2];
        struct {
                struct moved_head head;
                struct moved_link link;
        } state = {.head = {.magic = MOVED_MAGIC,
                            .version = MOVED_VERSION,
                            .n_links = 1,
                            .n_fds = 1,
                            .port_id = 77,
                            .flags = 1,
                            .made = 1},
                   .link = {.flags = MOVED_CRED, .cred = {pid, uid, uid}}};
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
                return -errno;
        int fd = memfd_create("adversary-moved", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        int r = fd < 0 || fchmod(fd, 0600) < 0 || write(fd, &state, sizeof state) != sizeof state ||
                                fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0
                        ? -errno
                        : 0;
        if (r == 0)
                r = carrier_put(ends[0], 0, 2, fd);
        if (r == 0)
                r = carrier_put(ends[0], 1, 2, sock);
        if (fd >= 0)
                close(fd);
        close(ends[0]);
        if (r < 0)
                close(ends[1]);
        return r < 0 ? r : ends[1];
}
