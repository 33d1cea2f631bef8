#include "port/move.h"

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "lane/sealed.h"
#include "os/os.h"
#include "os/closer.h"
#include "os/receive.h"
#include "port/branch.h"
#include "port/places.h"
#include "port/port.h"
#include "port/why.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MOVE_MAGIC 0x65766f6d66726877u /* "whrfmove" */
#ifndef MOVE_VERSION                   /* proof/matrix/later.h */
#define MOVE_VERSION 2u
#endif

enum {
        BATCH = 253,          /* descriptors in one datagram: the kernel's SCM_MAX_FD */
        UNUSED_MAX = 1 << 20, /* notices that somebody may have us make */
        LINK_FDS_MAX = 4 + WH_SECTIONS_MAX + 1 + WHARF_ITEMS_MAX + 2 + 1,
        STATE_SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE,
};

/* ---- the state: one sealed memory, this head, the links, and the bytes of messages in private memory ---- */

struct move_head {
        uint64_t magic;
        uint32_t version;
        uint32_t n_links;
        uint64_t n_fds;   /* in the carrier, beside the state itself */
        uint64_t n_bytes; /* behind the links */
        uint64_t port_id;
        uint64_t payload_bytes_max;
        uint64_t link_mapped_bytes_max;
        uint64_t mapped_bytes_max;
        uint64_t received_messages;
        uint64_t received_bytes;
        uint64_t refused;
        uint32_t flags;
        uint32_t capacity_records;
        uint32_t links_max;
        uint32_t unread_rights_max;
        uint32_t introduced_max;
        uint32_t unused_notices; /* of send-once rights, which the former owner had not received */
        uint64_t made;           /* send rights, ever */
        uint64_t capacity_bytes;
        uint64_t reply_bytes_max;
        uint64_t link_reply_bytes_max;
        uint32_t link_answers_max;
        uint32_t zero;
};
static_assert(sizeof(struct move_head) == 152, "both processes rely on this layout");

enum move_flags {
        MOVE_LANE = 1,     /* requests travel in a lane: out, back, n_sections descriptors */
        MOVE_TX_LANE = 2,  /* replies did, up to the record tx_ended */
        MOVE_FULL = 4,     /* a message was read and not delivered yet */
        MOVE_BUILDING = 8, /* ... or is being put together */
        MOVE_MEMORY = 16,  /* ... and is a memory of its own: one descriptor */
        MOVE_CRED = 32,    /* cred is known */
        MOVE_CHANGE = 64,  /* the sender goes over to a pair of its own: one descriptor */
        MOVE_CHANGE_LANE = 128,
        MOVE_ONCE = 256,  /* a send-once right */
        MOVE_NEXT = 512,  /* a further ring was announced: one descriptor, behind the sections */
        MOVE_TELL = 1024, /* its sender waits to be told that it was taken */
        MOVE_CHANGE_CRED = 2048,
        MOVE_DIRECTORY = 4096, /* a directory's, and no sender */
        MOVE_FLAGS = 8191,
};

struct move_cred {
        int32_t pid;
        uint32_t uid, gid;
};

/* Its descriptors: socket; out, back and sections; the memory of a message; the items; the pair to go over to. */
struct move_link {
        uint32_t flags;
        uint32_t introducer; /* index of the link that introduced it, and 1; 0: none that is here */
        struct move_cred cred;
        uint32_t frames_got, lanes, renews;
        /* sending */
        uint64_t tx_seq, tx_ended, known_taken;
        uint32_t items_unread, cold_sent, cold_bytes;
        /* receiving */
        uint32_t n_sections;
        uint64_t rx_seq, pos, records;
        uint32_t generation, want_rung, released, number;
        /* the message in private memory */
        uint64_t len, have, offer;
        uint32_t id, call, stash_items, how;
        /* descriptors that came ahead */
        uint64_t items_seq;
        uint32_t n_items;
        uint8_t item_kind[WHARF_ITEMS_MAX + 4];
        /* the change */
        struct move_cred change_cred;
        uint32_t zero;
        uint64_t change_seq, change_records;
};
static_assert(sizeof(struct move_link) == 264, "both processes rely on this layout");

/* Each datagram of a carrier but for its descriptors. */
struct move_datagram {
        uint64_t magic;
        uint32_t version;
        uint32_t index; /* 0: the state; then the others in order */
        uint32_t count; /* datagrams in all */
        uint32_t n_fds; /* in this one */
};
static_assert(sizeof(struct move_datagram) == 24, "both processes rely on this layout");

/* ---- packing ---- */

/* What goes into the carrier; the descriptors are the port's. */
struct packed {
        struct move_head head;
        struct move_link *links;
        uint8_t *bytes;
        int *fds;
        size_t n_fds, n_bytes;
};

static void packed_done(struct packed *k)
{
        free(k->links);
        free(k->bytes);
        free(k->fds);
}

static size_t bytes_of(const struct wh_link *l)
{
        return l->stash.mapped ? 0 : wh_round_up(l->stash.have, 8);
}

static struct move_cred cred_pack(const struct wh_cred *c)
{
        return (struct move_cred){c->pid, c->uid, c->gid};
}

/* Who its sender is, as far as we know, or were told ourselves. */
static struct wh_cred cred_of(const struct wh_link *l)
{
        const struct wharf_sender *w = &l->who;
        if (w->known == WHARF_KNOWN_TOLD)
                return (struct wh_cred){w->told_pid, w->told_uid, (gid_t)-1, true};
        return l->cred;
}

static void fd_pack(struct packed *k, int fd)
{
        k->fds[k->n_fds++] = fd;
}

static void link_pack(const struct wh_link *l, struct packed *k, struct move_link *m)
{
        const struct wh_cred cred = cred_of(l);
        *m = (struct move_link){
                .cred = cred_pack(&cred),
                .flags = (cred.known ? MOVE_CRED : 0) | (l->once ? MOVE_ONCE : 0) | (l->directory ? MOVE_DIRECTORY : 0),
                .frames_got = l->frames_got,
                .lanes = l->lanes,
                .renews = l->renews,
                .tx_seq = l->tx_seq,
                .known_taken = l->known_taken,
                .items_unread = l->items_unread,
                .cold_sent = l->cold_sent,
                .cold_bytes = l->cold_bytes,
                .rx_seq = l->rx_seq,
        };
        fd_pack(k, l->sock);
        if (l->tx || l->tx_had_lane) {
                m->flags |= MOVE_TX_LANE;
                m->tx_ended = l->tx ? l->tx->ring.records : l->tx_ended;
                if (l->tx) {
                        uint64_t unread = wh_ring_unread(&l->tx->ring);
                        m->known_taken = l->tx_seq - (unread < l->tx_seq ? unread : l->tx_seq);
                }
        }
        if (l->rx) {
                const struct wh_lane_rx *rx = l->rx;
                m->flags |= MOVE_LANE;
                m->n_sections = rx->n_sections;
                m->pos = rx->ring.pos;
                m->records = rx->ring.records;
                m->generation = rx->ring.generation;
                m->want_rung = rx->ring.want_rung;
                m->released = rx->released;
                m->number = rx->number;
                fd_pack(k, rx->out_fd);
                fd_pack(k, rx->back_fd);
                for (unsigned i = 0; i < rx->n_sections; i++)
                        fd_pack(k, rx->section[i].fd);
                if (rx->next) {
                        m->flags |= MOVE_NEXT;
                        fd_pack(k, rx->next_fd);
                }
        }
        const struct wh_stash *s = &l->stash;
        if (s->full || s->building) {
                m->flags |= s->full ? MOVE_FULL : MOVE_BUILDING;
                m->len = s->len;
                m->have = s->have;
                m->id = s->id;
                m->call = s->call;
                m->stash_items = s->n_items;
                m->how = s->how;
                m->offer = l->offer;
                m->flags |= s->tell ? MOVE_TELL : 0;
                if (s->mapped) {
                        m->flags |= MOVE_MEMORY;
                        fd_pack(k, s->memory);
                } else if (s->have) {
                        memcpy(k->bytes + k->n_bytes, s->bytes, s->have);
                        memset(k->bytes + k->n_bytes + s->have, 0, bytes_of(l) - s->have);
                        k->n_bytes += bytes_of(l);
                }
        }
        if (l->items.n) {
                m->items_seq = l->items.seq;
                m->n_items = l->items.n;
                memcpy(m->item_kind, l->items.kind, l->items.n);
                for (unsigned i = 0; i < l->items.n; i++)
                        fd_pack(k, l->items.fd[i]);
        }
        if (l->change.due) {
                m->flags |= MOVE_CHANGE | (l->change.lane ? MOVE_CHANGE_LANE : 0) |
                            (l->change.cred.known ? MOVE_CHANGE_CRED : 0);
                m->change_cred = cred_pack(&l->change.cred);
                m->change_seq = l->change.seq;
                m->change_records = l->change.records;
                fd_pack(k, l->change.sock);
        }
}

/* The nearest one that is here still: ids of those that are gone mean nothing to the new owner. */
static uint32_t introducer_of(const struct wh_port *p, const struct wh_link *l)
{
        const struct wh_branch *b = l->branch ? l->branch->up : NULL;
        while (b && b->gone)
                b = b->up;
        struct wh_link *by = b ? (struct wh_link *)wh_table_find(&p->task->links, (uint32_t)b->id) : NULL;
        return by && atomic_load_explicit(&by->o.name, memory_order_relaxed) == b->id && by->port == p ? by->served + 1
                                                                                                       : 0;
}

static int port_pack(struct wh_port *p, struct packed *k)
{
        size_t n_links = 0, n_bytes = 0;
        wh_list_for (n, &p->links) {
                struct wh_link *l = wh_container(n, struct wh_link, in_port);
                l->served = (uint32_t)n_links++; /* its index; no turn of the round robin is under way */
                n_bytes += bytes_of(l);
        }
        k->links = wh_os_calloc(n_links + 1, sizeof *k->links);
        k->bytes = wh_os_malloc(n_bytes + 1);
        k->fds = wh_os_calloc(n_links * LINK_FDS_MAX + 1, sizeof *k->fds);
        if (!k->links || !k->bytes || !k->fds)
                return wh_trace(-ENOMEM);
        struct move_link *m = k->links;
        wh_list_for (n, &p->links) {
                struct wh_link *l = wh_container(n, struct wh_link, in_port);
                link_pack(l, k, m);
                m->introducer = introducer_of(p, l);
                m++;
        }
        wh_list_for (n, &p->links)
                wh_container(n, struct wh_link, in_port)->served = 0;
        k->head = (struct move_head){
                .magic = MOVE_MAGIC,
                .version = MOVE_VERSION,
                .n_links = (uint32_t)n_links,
                .n_fds = k->n_fds,
                .n_bytes = k->n_bytes,
                .port_id = p->id.v,
                .payload_bytes_max = p->opts.payload_bytes_max,
                .link_mapped_bytes_max = p->opts.link_mapped_bytes_max,
                .mapped_bytes_max = p->opts.mapped_bytes_max,
                .received_messages = p->received_messages,
                .received_bytes = p->received_bytes,
                .refused = p->refused,
                .flags = p->opts.flags,
                .capacity_records = p->opts.capacity_records,
                .capacity_bytes = p->opts.capacity_bytes,
                .links_max = p->opts.links_max,
                .unread_rights_max = p->opts.unread_rights_max,
                .introduced_max = p->opts.introduced_max,
                .reply_bytes_max = p->opts.reply_bytes_max,
                .link_reply_bytes_max = p->opts.link_reply_bytes_max,
                .link_answers_max = p->opts.link_answers_max,
                .unused_notices = wh_notices_unused(p),
                .made = p->made,
        };
        return 0;
}

/* Writes at `*at`, and moves it on. */
static int write_all(int fd, const void *bytes, size_t len, off_t *at)
{
        for (size_t done = 0; done < len;) {
                ssize_t r = wh_os_write_at(fd, (const uint8_t *)bytes + done, len - done, *at);
                if (r <= 0 && r != -EINTR)
                        return wh_trace(r == 0 ? -ENOSPC : (int)r);
                done += r > 0 ? (size_t)r : 0;
                *at += r > 0 ? (off_t)r : 0;
        }
        return 0;
}

static int state_new(const struct packed *k, int *ret)
{
        int fd = wh_os_memfd("wharf-move");
        if (wh_forbidden(fd))
                return wh_fail(-EOPNOTSUPP, "what a port is moves in a memory, and none can be made here");
        if (fd < 0)
                return wh_trace(fd);
        wh_os_fd_private(fd);
        off_t at = 0;
        int r = write_all(fd, &k->head, sizeof k->head, &at);
        if (r == 0)
                r = write_all(fd, k->links, k->head.n_links * sizeof *k->links, &at);
        if (r == 0)
                r = write_all(fd, k->bytes, k->n_bytes, &at);
        if (r == 0)
                r = wh_os_seal(fd, STATE_SEALS);
        if (r < 0) {
                wh_os_close(fd);
                return r == -EFBIG ? wh_fail(-EOPNOTSUPP, "RLIMIT_FSIZE leaves no room for what a port is")
                                   : wh_trace(r);
        }
        *ret = fd;
        return 0;
}

union control {
        struct cmsghdr align;
        char space[CMSG_SPACE(BATCH * sizeof(int))];
};

static int datagram_send(int sock, struct move_datagram *d, const int *fds)
{
        union control control;
        struct iovec iov = {d, sizeof *d};
        struct msghdr m = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.space,
                           .msg_controllen = CMSG_SPACE(d->n_fds * sizeof(int))};
        memset(control.space, 0, m.msg_controllen); /* nothing of our stack in what pads it */
        control.align.cmsg_level = SOL_SOCKET;
        control.align.cmsg_type = SCM_RIGHTS;
        control.align.cmsg_len = CMSG_LEN(d->n_fds * sizeof(int));
        memcpy(CMSG_DATA(&control.align), fds, d->n_fds * sizeof(int));
        ssize_t r;
        do
                r = wh_os_sendmsg(sock, &m, 0);
        while (r == -EINTR);
        if (r == -EAGAIN || r == -ETOOMANYREFS)
                return wh_fail(-ETOOMANYREFS, "more descriptors than may be on their way at once: see RLIMIT_NOFILE");
        return r < 0 ? wh_trace((int)r) : 0;
}

static int carrier_fill(int sock, const struct packed *k)
{
        int state;
        int r = state_new(k, &state);
        if (r < 0)
                return r;
        struct move_datagram d = {.magic = MOVE_MAGIC,
                                  .version = MOVE_VERSION,
                                  .count = 1 + (uint32_t)((k->n_fds + BATCH - 1) / BATCH),
                                  .n_fds = 1};
        r = datagram_send(sock, &d, &state);
        wh_os_close(state);
        for (size_t done = 0; r == 0 && done < k->n_fds; done += d.n_fds) {
                d.index++;
                d.n_fds = (uint32_t)(k->n_fds - done < BATCH ? k->n_fds - done : BATCH);
                r = datagram_send(sock, &d, k->fds + done);
        }
        return r;
}

int wh_move_pack(wharf_task *t, wharf_name port, int *ret)
{
        struct wh_port *p;
        int r = wh_port_freeze(t, port, &p);
        if (r < 0)
                return r;
        struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
        struct packed k = {0};
        int sv[2] = {-1, -1};
        r = port_pack(p, &k);
        wh_unlock(&in->lock); /* frozen, it needs no lock (M1) */
        if (r == 0)
                r = wh_os_socketpair(sv);
        if (r == 0) {
                wh_os_fd_private(sv[0]);
                wh_os_fd_private(sv[1]);
                r = carrier_fill(sv[0], &k);
        }
        packed_done(&k);
        wh_os_close(sv[0]);
        if (r < 0) {
                wh_os_close(sv[1]);
                wh_port_thaw(t, port);
                return r;
        }
        *ret = sv[1];
        return 0;
}

void wh_move_end(wharf_task *t, wharf_name port, bool sent)
{
        if (sent)
                wh_port_gone(t, port);
        else
                wh_port_thaw(t, port);
}

int wh_move_check_circle(wharf_task *t, wharf_name right, const struct wharf_msg *m)
{
        int r = 0;
        uint64_t to = 0;
        for (unsigned i = 0; r == 0 && i < m->n_items && i < WHARF_ITEMS_MAX; i++) {
                if (m->items[i].kind != WHARF_MOVE_RECEIVE)
                        continue;
                if (!to) {
                        struct wh_link *l = wh_holder_lock(t, right, &r);
                        if (!l)
                                return wh_fail(r, NULL);
                        if (!l->once)
                                wh_link_greeted(l);
                        to = l->hello.port_id;
                        wh_unlock(&l->o.lock);
                }
                struct wh_port *p = wh_port_lock(t, m->items[i].name, &r);
                if (!p)
                        return wh_fail(r, NULL);
                struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
                r = to && p->id.v == to
                            ? wh_fail(-ELOOP, "nobody could ever receive it: it would wait in its own queue")
                            : 0;
                wh_unlock(&in->lock);
        }
        return r;
}

/* ---- opening ---- */

/* The carrier as its receiver sees it; the descriptors are copies, and closed unless they were taken (-1). */
struct opened {
        const struct move_head *head; /* immutable by the kernel's word: checked, then used */
        const struct move_link *links;
        const uint8_t *bytes;
        size_t map_len;
        int *fds;
        size_t n_fds, next_fd, next_byte;
};

static void opened_done(struct opened *o)
{
        if (o->head)
                wh_os_munmap((void *)(uintptr_t)o->head, o->map_len);
        for (size_t i = 0; i < o->n_fds; i++)
                wh_os_close_theirs(o->fds[i]);
        free(o->fds);
}

/* Looks at the next datagram and copies its descriptors; nothing is taken (M3). */
static int datagram_look(int sock, struct move_datagram *ret, int *fds, unsigned room)
{
        struct move_datagram d;
        struct iovec iov = {&d, sizeof d};
        struct wh_came c = {.fds = fds, .room = room, .once = true}; /* each look begins behind the one before */
        ssize_t r = wh_os_receive(sock, &iov, 1, MSG_PEEK, &c);
        if (r == -ENOMEM || r == -ENOBUFS || r == -EMFILE || r == -ENFILE)
                return wh_trace((int)r);
        if (r < 0)
                return wh_trace(-EPROTO);
        const bool datagram = r == sizeof d && !c.cut && d.magic == MOVE_MAGIC;
        int err = 0;
        if (c.all == WH_FDS_SHORT && datagram && c.n < d.n_fds)
                err = wh_trace(-EMFILE);
        else if (c.all != WH_FDS_ALL || c.surplus || !datagram ||
                 d.n_fds != c.n) /* an empty one may have some as well */
                err = wh_trace(-EPROTO);
        else if (d.version != MOVE_VERSION)
                err = wh_trace(-EPROTONOSUPPORT);
        for (unsigned i = 0; i < c.n; i++) {
                if (err < 0)
                        wh_os_close_theirs(fds[i]);
                else
                        wh_os_fd_private(fds[i]);
        }
        if (err == 0)
                *ret = d;
        return err;
}

/* Map the state, if it is immutable and of the size that it says. */
static int state_open(int fd, struct opened *o)
{
        struct stat st;
        uint64_t magic;
        int seals = wh_os_get_seals(fd);
        if (seals < 0 || (seals & STATE_SEALS) != STATE_SEALS || wh_os_fstat(fd, &st) < 0 ||
            wh_os_fstatfs(fd, &magic) < 0 || magic != 0x01021994u || st.st_size < (off_t)sizeof(struct move_head))
                return wh_trace(-EPROTO);
        void *map;
        int r = wh_os_mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0, &map);
        if (r < 0)
                return wh_trace(r);
        wh_os_madvise(map, (size_t)st.st_size, MADV_DONTFORK);
        o->head = map;
        o->map_len = (size_t)st.st_size;
        const struct move_head *h = o->head;
        if (h->magic != MOVE_MAGIC)
                return wh_trace(-EPROTO);
        if (h->version != MOVE_VERSION)
                return wh_trace(-EPROTONOSUPPORT);
        size_t links_len = (size_t)h->n_links * sizeof(struct move_link);
        if (h->n_bytes > o->map_len || sizeof *h + links_len + h->n_bytes != o->map_len ||
            h->n_fds > (uint64_t)h->n_links * LINK_FDS_MAX)
                return wh_trace(-EPROTO);
        o->links = (const struct move_link *)(const void *)(h + 1);
        o->bytes = (const uint8_t *)(o->links + h->n_links);
        return 0;
}

static int carrier_look_once(int sock, struct opened *o)
{
        struct move_datagram d;
        int from = 0, state;
        if (wh_frame_check_socket(sock) < 0)
                return wh_trace(-EPROTO);
        int r = wh_os_setsockopt(sock, SOL_SOCKET, SO_PEEK_OFF, &from, sizeof from);
        if (r == 0)
                r = datagram_look(sock, &d, &state, 1);
        if (r < 0)
                return wh_trace(r);
        r = d.index == 0 && d.n_fds == 1 ? state_open(state, o) : wh_trace(-EPROTO);
        if (d.n_fds)
                wh_os_close_theirs(state);
        if (r < 0)
                return r;
        uint64_t want = o->head->n_fds;
        if (d.count != 1 + (want + BATCH - 1) / BATCH)
                return wh_trace(-EPROTO);
        o->fds = wh_os_calloc(want + 1, sizeof *o->fds);
        if (!o->fds)
                return wh_trace(-ENOMEM);
        for (uint32_t i = 1; i < d.count; i++) {
                struct move_datagram next;
                uint64_t left = want - o->n_fds;
                r = datagram_look(sock, &next, o->fds + o->n_fds, (unsigned)(left < BATCH ? left : BATCH));
                if (r < 0)
                        return r;
                o->n_fds += next.n_fds;
                if (next.index != i || next.n_fds != (left < BATCH ? left : BATCH))
                        return wh_trace(-EPROTO);
        }
        return 0;
}

static int carrier_look(int sock, struct opened *o)
{
        enum { CATCH_UP_NS = 50000000 };
        int r = carrier_look_once(sock, o);
        if (r != -EMFILE && r != -ENFILE)
                return r;
        opened_done(o);
        *o = (struct opened){0};
        /* What this attempt let go of, or one before it, may be closed then. */
        return wh_os_closer_catch_up(CATCH_UP_NS) ? carrier_look_once(sock, o) : r;
}

/* The next descriptor is the caller's; -1 when there are not that many. */
static int fd_take(struct opened *o)
{
        return o->next_fd < o->n_fds ? wh_steal_fd(&o->fds[o->next_fd++]) : -1;
}

/* What this link may still map, by the port's own limits: how users share them was the former owner's to see to. */
static int64_t may_map(const struct wh_link *l)
{
        const struct wharf_port_opts *o = &l->port->opts;
        uint64_t mine = l->rx ? l->rx->mapped_bytes : 0;
        if (mine >= o->link_mapped_bytes_max || l->port->mapped >= o->mapped_bytes_max)
                return -EPROTO;
        uint64_t a = o->link_mapped_bytes_max - mine, b = o->mapped_bytes_max - l->port->mapped;
        return (int64_t)(a < b ? a : b);
}

static int lane_open(struct wh_link *l, struct opened *o, const struct move_link *m)
{
        const int out = fd_take(o), back = fd_take(o);
        int64_t room = may_map(l);
        int r = out < 0 || back < 0 || m->n_sections > WH_SECTIONS_MAX || room < 0
                        ? wh_trace(-EPROTO)
                        : wh_lane_rx_open(out, back, (uint64_t)room, &l->rx);
        if (r < 0) { /* whatever they are */
                wh_os_close_theirs(out);
                wh_os_close_theirs(back);
                return r;
        }
        struct wh_lane_rx *rx = l->rx;
        rx->out_fd = out;
        rx->back_fd = back;
        rx->number = m->number;
        rx->released = m->released;
        rx->ring.pos = m->pos;
        rx->ring.records = m->records;
        rx->ring.generation = m->generation;
        rx->ring.want_rung = m->want_rung;
        rx->ring.settled_lines = m->pos - 1; /* whatever was told: it is said anew */
        l->end->mapped(l);
        for (unsigned i = 0; i < m->n_sections; i++) {
                int fd = fd_take(o);
                room = may_map(l);
                r = fd < 0 || room < 0 ? wh_trace(-EPROTO) : wh_lane_rx_add_section(rx, fd, (uint64_t)room);
                if (r < 0) {
                        wh_os_close_theirs(fd);
                        return r;
                }
                rx->section[i].fd = fd;
                l->end->mapped(l);
        }
        if (m->flags & MOVE_NEXT) {
                int fd = fd_take(o);
                room = may_map(l);
                r = fd < 0 || room < 0 ? wh_trace(-EPROTO) : wh_lane_rx_add_ring(rx, fd, (uint64_t)room);
                if (r < 0) {
                        wh_os_close_theirs(fd);
                        return r;
                }
                rx->next_fd = fd;
                l->end->mapped(l);
        }
        return 0;
}

static int stash_open(struct wh_link *l, struct opened *o, const struct move_link *m)
{
        if (m->flags & MOVE_MEMORY) {
                int fd = fd_take(o);
                if (fd < 0 || !(m->flags & MOVE_FULL) || m->have != m->len)
                        return wh_os_close_theirs(fd), wh_trace(-EPROTO);
                int r = wh_link_stash_memory(l, fd, m->len, m->id, m->call);
                if (r < 0)
                        return r;
        } else {
                if (m->have > m->len || m->len > l->hello.payload_bytes_max ||
                    (m->flags & MOVE_FULL && m->have != m->len) || m->how > WHARF_HOW_DIRECT || m->how == 0)
                        return wh_trace(-EPROTO);
                uint64_t room = m->have ? wh_round_up(m->have, 8) : 0;
                if (m->have > o->head->n_bytes || room > o->head->n_bytes - o->next_byte)
                        return wh_trace(-EPROTO);
                uint8_t *own = m->len ? wh_os_malloc_payload(m->len) : NULL;
                if (m->len && !own)
                        return wh_trace(-ENOMEM);
                if (m->have)
                        memcpy(own, o->bytes + o->next_byte, m->have);
                o->next_byte += room;
                l->stash = (struct wh_stash){.bytes = own,
                                             .len = m->len,
                                             .have = m->have,
                                             .room = m->len,
                                             .id = m->id,
                                             .call = m->call,
                                             .how = (uint8_t)m->how,
                                             .full = m->flags & MOVE_FULL,
                                             .building = !(m->flags & MOVE_FULL)};
        }
        if (m->stash_items > m->n_items)
                return wh_trace(-EPROTO);
        l->stash.n_items = m->stash_items;
        if (m->flags & MOVE_MEMORY)
                l->stash.how |= m->how & WH_HOW_OFFERED;
        l->stash.tell = m->flags & MOVE_TELL;
        l->offer = m->offer;
        if (m->how & WH_HOW_OFFERED && (!l->rx || m->offer != l->rx->ring.records || !(m->flags & MOVE_MEMORY)))
                return wh_trace(-EPROTO); /* what is claimed when it is delivered is the record before the next */
        return 0;
}

static int items_open(struct wh_link *l, struct opened *o, const struct move_link *m)
{
        if (m->n_items > WHARF_ITEMS_MAX + 1)
                return wh_trace(-EPROTO);
        l->items.seq = m->items_seq;
        for (unsigned i = 0; i < m->n_items; i++) {
                uint8_t kind = m->item_kind[i];
                int fd = fd_take(o);
                bool last = i + 1 == m->n_items;
                if (fd < 0 || kind < WH_ITEM_FD || kind >= WH_ITEM_KINDS || (kind == WH_ITEM_MEMORY && !last) ||
                    (kind != WH_ITEM_MEMORY && i >= WHARF_ITEMS_MAX) ||
                    ((kind == WH_ITEM_SEND || kind == WH_ITEM_REPLY || kind == WH_ITEM_RECEIVE) &&
                     wh_frame_check_socket(fd) < 0) ||
                    (kind == WH_ITEM_BESIDE && wh_sealed_check(fd, WH_SEALS_IMMUTABLE, &(uint64_t){0}) < 0))
                        return wh_os_close_theirs(fd), wh_trace(-EPROTO);
                l->items.kind[i] = kind;
                l->items.fd[l->items.n++] = fd;
        }
        return 0;
}

static int change_open(struct wh_link *l, struct opened *o, const struct move_link *m)
{
        int fd = fd_take(o);
        if (fd < 0 || wh_frame_check_socket(fd) < 0)
                return wh_os_close_theirs(fd), wh_trace(-EPROTO);
        l->change = (struct wh_change){
                .due = true,
                .lane = m->flags & MOVE_CHANGE_LANE,
                .seq = m->change_seq,
                .records = m->change_records,
                .sock = fd,
                .awaited = true,
                .told = true,
                .given = WH_INTRODUCER_NOBODY,
        };
        return 0;
}

static struct wh_notice *unused_notice(struct wh_port *p)
{
        wharf_name name = atomic_load_explicit(&p->o.name, memory_order_relaxed);
        return wh_notice_new(p->task, WHARF_NOTICE_ONCE_UNUSED, name, name);
}

static int link_open(struct wh_port *p, struct opened *o, const struct move_link *m,
                     const struct wharf_introducer *from, uid_t payer, struct wh_link **ret)
{
        int sock = fd_take(o);
        if (sock < 0 || m->flags & ~(uint32_t)MOVE_FLAGS || wh_frame_check_socket(sock) < 0)
                return wh_os_close_theirs(sock), wh_trace(-EPROTO);
        struct wh_link *l = wh_link_new(p->task, WH_KIND_LINK, sock, &wh_owner_end);
        if (!l) {
                wh_os_close_theirs(sock);
                return wh_trace(-ENOMEM);
        }
        l->directory = m->flags & MOVE_DIRECTORY;
        l->handed_on = true; /* what lies in the carrier has this end as well (wh_move_start()) */
        int r = wh_port_take_link(p, l, payer, true);
        if (r < 0) {
                wh_link_done(l);
                wh_task_give(p->task, &l->o);
                return r;
        }
        /* From here on it goes with the port. */
        l->former = *from;
        if (m->flags & MOVE_CRED) { /* its word, and no more (I5) */
                l->who.told_pid = m->cred.pid;
                l->who.told_uid = m->cred.uid;
        }
        wh_link_identify(l, &(struct wh_cred){0}, m->flags & MOVE_CRED ? WHARF_KNOWN_TOLD : WHARF_KNOWN_NOT);
        l->frames_got = m->frames_got;
        l->arms = UINT32_MAX / 2; /* nobody knows how many doorbells lie there */
        l->lanes = m->lanes;
        l->renews = m->renews + 1 ? m->renews + 1 : 1;
        l->tx_seq = m->tx_seq;
        l->tx_had_lane = m->flags & MOVE_TX_LANE;
        l->tx_ended = m->tx_ended;
        l->known_taken = m->known_taken;
        l->items_unread = m->items_unread;
        l->cold_sent = m->cold_sent;
        l->cold_bytes = m->cold_bytes;
        l->rx_seq = m->rx_seq;
        l->detour = WH_DETOUR_RENEW;
        *ret = l;
        if (m->flags & MOVE_ONCE) {
                l->once = true;
                p->n_once++;
                if (l->rx_seq == 0 && !(l->once_notice = unused_notice(p)))
                        return wh_trace(-ENOMEM);
                if (l->once_notice)
                        l->once_notice->sender = atomic_load_explicit(&l->o.name, memory_order_relaxed);
        }
        if (m->flags & MOVE_LANE)
                r = lane_open(l, o, m);
        if (r == 0 && m->flags & (MOVE_FULL | MOVE_BUILDING))
                r = stash_open(l, o, m);
        if (r == 0)
                r = items_open(l, o, m);
        if (r == 0 && m->flags & MOVE_CHANGE)
                r = change_open(l, o, m);
        return r;
}

/* Introducers come before those whom they introduced, since links are in the order in which they were made. */
static int branches_open(struct wh_port *p, const struct opened *o, struct wh_link *const *links)
{
        for (uint32_t i = 0; i < o->head->n_links; i++) {
                uint32_t by = o->links[i].introducer;
                struct wh_branch *b;
                if (by == 0)
                        continue;
                if (by > i)
                        return wh_trace(-EPROTO);
                int r = wh_branch_new(links[by - 1], p->opts.introduced_max, &b);
                if (r < 0)
                        return wh_trace(r);
                wh_branch_settle(b, links[i]);
        }
        return 0;
}

static int port_open(struct wh_port *p, struct opened *o, const struct wharf_introducer *from, uid_t payer)
{
        const struct move_head *h = o->head;
        p->received_messages = h->received_messages;
        p->received_bytes = h->received_bytes;
        p->refused = h->refused;
        p->made = h->made;
        struct wh_link **links = wh_os_calloc(h->n_links + 1, sizeof(struct wh_link *));
        if (!links)
                return wh_trace(-ENOMEM);
        int r = 0;
        for (uint32_t i = 0; r == 0 && i < h->n_links; i++)
                r = link_open(p, o, &o->links[i], from, payer, &links[i]);
        if (r == 0)
                r = branches_open(p, o, links);
        free(links);
        if (r == 0 && o->next_fd != o->n_fds)
                r = wh_trace(-EPROTO);
        /* Last of all, since a notice that was fired is seen. */
        for (uint32_t i = 0; r == 0 && i < h->unused_notices; i++) {
                struct wh_notice *n = unused_notice(p);
                if (n)
                        wh_notice_fire(p->task, n);
                else
                        r = wh_trace(-ENOMEM);
        }
        return r;
}

/* What this task may have more of later; all else is the former owner's doing. */
static int open_error(int r)
{
        switch (r) {
        case -ENOMEM:
        case -ENOBUFS:
        case -ENOSPC:
                return -ENOMEM;
        case -EMFILE:
        case -ENFILE:
        case -EPROTONOSUPPORT:
                return r;
        default:
                return -EPROTO;
        }
}

/* Of its links, those that are no senders. */
static uint32_t directories(const struct opened *o)
{
        uint32_t n = 0;
        for (uint32_t i = 0; i < o->head->n_links; i++)
                n += (o->links[i].flags & MOVE_DIRECTORY) != 0;
        return n;
}

int wh_move_open(wharf_task *t, int carrier, const struct wharf_introducer *from, uid_t payer, wharf_name *ret)
{
        struct opened o = {0};
        struct wh_port *p = NULL;
        struct wharf_port_opts opts;
        int r = carrier_look(carrier, &o);
        if (r == 0) {
                const struct move_head *h = o.head;
                opts = (struct wharf_port_opts){
                        .size = sizeof opts,
                        .flags = h->flags,
                        .capacity_records = h->capacity_records,
                        .capacity_bytes = h->capacity_bytes,
                        .links_max = h->links_max,
                        .payload_bytes_max = h->payload_bytes_max,
                        .link_mapped_bytes_max = h->link_mapped_bytes_max,
                        .mapped_bytes_max = h->mapped_bytes_max,
                        .unread_rights_max = h->unread_rights_max,
                        .introduced_max = h->introduced_max,
                        .reply_bytes_max = h->reply_bytes_max,
                        .link_reply_bytes_max = h->link_reply_bytes_max,
                        .link_answers_max = h->link_answers_max,
                        .reserved = h->zero,
                };
                r = wh_port_opts(&opts, &opts);
                if (r == 0 && (h->n_links - directories(&o) > (uint64_t)opts.links_max + WH_PLACELESS_MAX ||
                               opts.flags & WHARF_PORT_FIXED || h->unused_notices > UNUSED_MAX))
                        r = wh_trace(-EPROTO);
        }
        if (r == 0)
                r = wh_port_make(t, &opts, &p);
        if (r == 0) {
                struct wh_inbox *in = &p->own;
                wharf_name name;
                p->id.v = o.head->port_id;
                wh_lock(&in->lock);
                r = wh_port_name(p, &name);
                if (r < 0) {
                        wh_unlock(&in->lock);
                        wh_port_unmake(p);
                } else {
                        r = port_open(p, &o, from, payer);
                        if (r == 0)
                                *ret = name;
                        wh_unlock(&in->lock);
                        if (r < 0)
                                wh_port_drop(t, &p->o, name);
                }
        }
        opened_done(&o);
        return r < 0 ? open_error(r) : 0;
}

void wh_move_start(wharf_task *t, wharf_name port, int carrier)
{
        int err;
        wh_os_close_theirs(carrier); /* with all that lies in it */
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return;
        struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
        wh_list_for (n, &p->links) {
                struct wh_link *l = wh_container(n, struct wh_link, in_port);
                wh_lock(&l->o.lock);
                l->handed_on = false;
                l->end->renew(l);
                wh_unlock(&l->o.lock);
                wh_port_look_at(l); /* what came meanwhile rang nobody */
                if (l->rx && wh_ring_publish_taken(&l->rx->ring))
                        wh_link_bell(l);
        }
        wh_unlock(&in->lock);
}

int wh_move_to(wharf_task *t, wharf_name port, wharf_name to, uint32_t id)
{
        struct wharf_item item = {.kind = WHARF_MOVE_RECEIVE, .name = port};
        struct wharf_msg m = {.size = sizeof m, .id = id, .items = &item, .n_items = 1};
        return wharf_sendmsg(t, to, &m, 0);
}
