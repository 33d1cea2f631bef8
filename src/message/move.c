#include "message/move.h"
#include "message/call.h"

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "lane/sealed.h"
#include "os/os.h"
#include "os/closer.h"
#include "os/receive.h"
#include "port/branch.h"
#include "link/payload.h"
#include "port/owned.h"
#include "port/places.h"
#include "port/port.h"
#include "task/why.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MOVE_MAGIC 0x65766f6d66726877u /* "whrfmove" */
#ifndef MOVE_VERSION                   /* proof/matrix/later.h */
#define MOVE_VERSION 2u
#endif

enum {
        BATCH = 253,           /* descriptors in one datagram: the kernel's SCM_MAX_FD */
        OWN_FDS_MAX = 1 << 20, /* in a port of our own user's: more than any process has */
        COST_LINK = 64,        /* link.K7: what it takes to make one, or to unmake it */
        COST_BRANCH = 4,
        LINK_FDS_MAX = 4 + WH_SECTIONS_MAX + 1 + WHARF_ITEMS_MAX + 2 + 1,
        BYTES_MAX = WH_COLD_MAX, /* of a message in private memory; what is larger is a memory of its own */
        STATE_SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE,
};

/* ---- the state: one sealed memory, this head, the links, and the bytes of small messages in private memory ---- */

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
        MOVE_MEMORY = 16,  /* ... and what came of it is a memory of its own: one descriptor */
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
        struct wh_origin formers; /* who introduced it, all as one */
};
static_assert(sizeof(struct move_link) == 288, "both processes rely on this layout");

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

/* What goes into the carrier; the descriptors are the port's, but those that were `made` for this. */
struct packed {
        struct move_head head;
        struct move_link *links;
        uint8_t *bytes;
        int *fds, *made;
        size_t n_fds, n_made, n_bytes;
};

static void packed_done(struct packed *k)
{
        for (size_t i = 0; i < k->n_made; i++)
                wh_os_close(k->made[i]);
        free(k->links);
        free(k->bytes);
        free(k->fds);
        free(k->made);
}

/* Does what has come of its message lie in a memory that nobody can change any more? */
static bool is_memory(const struct wh_stash *s)
{
        return s->mapped && s->memory >= 0;
}

static size_t bytes_of(const struct wh_link *l)
{
        const struct wh_stash *s = &l->in.stash;
        return is_memory(s) || s->have > BYTES_MAX ? 0 : wh_round_up(s->have, 8);
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

/* What has come of a message: the new owner maps what is large, and copies nothing of it. */
static int stash_pack(const struct wh_link *l, struct packed *k, struct move_link *m)
{
        const struct wh_stash *s = &l->in.stash;
        int fd = s->memory;
        m->flags |= (s->full ? MOVE_FULL : MOVE_BUILDING) | (s->tell ? MOVE_TELL : 0);
        m->len = s->len;
        m->have = s->have;
        m->id = s->id;
        m->call = s->call;
        m->stash_items = s->n_items;
        m->how = s->how;
        m->offer = l->in.offer;
        if (!is_memory(s) && s->have > BYTES_MAX) {
                int r = wh_payload_of(s->bytes, s->have, &fd);
                if (r < 0)
                        return wh_forbidden(r) ? wh_fail(-EOPNOTSUPP,
                                                         "a message in the port moves in a memory, and none "
                                                         "of %" PRIu64 " bytes can be made here",
                                                         s->have)
                                               : r;
                k->made[k->n_made++] = fd;
        }
        if (is_memory(s) || s->have > BYTES_MAX) {
                m->flags |= MOVE_MEMORY;
                fd_pack(k, fd);
        } else if (s->have) {
                memcpy(k->bytes + k->n_bytes, s->bytes, s->have);
                memset(k->bytes + k->n_bytes + s->have, 0, bytes_of(l) - s->have);
                k->n_bytes += bytes_of(l);
        }
        return 0;
}

static int link_pack(const struct wh_link *l, struct packed *k, struct move_link *m)
{
        const struct wh_cred cred = cred_of(l);
        const struct wharf_introducer formers = wh_link_introducer(l);
        *m = (struct move_link){
                .cred = cred_pack(&cred),
                .formers = wh_origin_put(0, &formers),
                .flags = (cred.known ? MOVE_CRED : 0) | (l->once ? MOVE_ONCE : 0) |
                         (wh_owned(l)->directory ? MOVE_DIRECTORY : 0),
                .frames_got = l->in.frames_got,
                .lanes = l->in.lanes,
                .renews = l->in.renews,
                .tx_seq = l->out.seq,
                .known_taken = l->out.known_taken,
                .items_unread = l->out.items_unread,
                .cold_sent = l->out.cold_sent,
                .cold_bytes = l->out.cold_bytes,
                .rx_seq = l->in.seq,
        };
        fd_pack(k, l->sock);
        if (l->out.lane || wh_owned(l)->had_lane) {
                m->flags |= MOVE_TX_LANE;
                m->tx_ended = l->out.lane ? l->out.lane->ring.records : wh_owned(l)->lane_ended;
                if (l->out.lane) {
                        uint64_t unread = wh_ring_unread(&l->out.lane->ring);
                        m->known_taken = l->out.seq - (unread < l->out.seq ? unread : l->out.seq);
                }
        }
        if (l->in.lane) {
                const struct wh_lane_rx *rx = l->in.lane;
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
        if (l->in.stash.full || l->in.stash.building) {
                int r = stash_pack(l, k, m);
                if (r < 0)
                        return r;
        }
        if (l->in.items.n) {
                m->items_seq = l->in.items.seq;
                m->n_items = l->in.items.n;
                memcpy(m->item_kind, l->in.items.kind, l->in.items.n);
                for (unsigned i = 0; i < l->in.items.n; i++)
                        fd_pack(k, l->in.items.fd[i]);
        }
        if (l->in.change.due) {
                m->flags |= MOVE_CHANGE | (l->in.change.lane ? MOVE_CHANGE_LANE : 0) |
                            (l->in.change.cred.known ? MOVE_CHANGE_CRED : 0);
                m->change_cred = cred_pack(&l->in.change.cred);
                m->change_seq = l->in.change.seq;
                m->change_records = l->in.change.records;
                fd_pack(k, l->in.change.sock);
        }
        return 0;
}

/* The nearest one that is here still: ids of those that are gone mean nothing to the new owner. */
static uint32_t introducer_of(const struct wh_port *p, const struct wh_link *l)
{
        const struct wh_branch *b = wh_owned(l)->branch ? wh_owned(l)->branch->up : NULL;
        while (b && b->gone)
                b = b->up;
        struct wh_link *by = b ? (struct wh_link *)wh_table_find(&p->task->links, (uint32_t)b->id) : NULL;
        return by && atomic_load_explicit(&by->o.name, memory_order_relaxed) == b->id && wh_owned(by)->port == p
                       ? wh_owned(by)->served + 1
                       : 0;
}

static int port_pack(struct wh_port *p, struct packed *k)
{
        size_t n_links = 0, n_bytes = 0;
        wh_list_for (n, &p->links) {
                struct wh_owned *w = wh_container(n, struct wh_owned, in_port);
                w->served = (uint32_t)n_links++; /* its index; no turn of the round robin is under way */
                n_bytes += bytes_of(&w->link);
        }
        k->links = wh_os_calloc(n_links + 1, sizeof *k->links);
        k->bytes = wh_os_malloc(n_bytes + 1);
        k->fds = wh_os_calloc(n_links * LINK_FDS_MAX + 1, sizeof *k->fds);
        k->made = wh_os_calloc(n_links + 1, sizeof *k->made);
        if (!k->links || !k->bytes || !k->fds || !k->made)
                return wh_trace(-ENOMEM);
        struct move_link *m = k->links;
        int r = 0;
        wh_list_for (n, &p->links) {
                struct wh_link *l = &wh_container(n, struct wh_owned, in_port)->link;
                if (r == 0)
                        r = link_pack(l, k, m);
                m->introducer = introducer_of(p, l);
                m++;
        }
        wh_list_for (n, &p->links)
                wh_container(n, struct wh_owned, in_port)->served = 0;
        if (r < 0)
                return r;
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
        int r = wh_port_freeze(t, port, wh_replies_detach, &p);
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

/* One port of a message, opened as far as the budget went. */
struct opening {
        struct opened o;
        struct wharf_port_opts opts;
        uint32_t introduced_max; /* by its own word: what there is stays, whatever more there may be */
        bool caught_up;
        struct wh_port *p; /* once there is one: moving, so that nobody here can use it yet */
        wharf_name name;
        struct wh_link **links; /* so many of them are open, */
        uint32_t n_links;
        uint32_t n_introduced;  /* and of so many it is known who introduced them */
        struct wh_list in_gone; /* of task->gone, once it was undone */
};

struct wh_moving {
        wharf_task *task;
        struct wh_mover by;
        uint64_t n_links, n_fds; /* of all ports of the message */
        bool granted;            /* their payer may have them all, */
        uint64_t reserved;       /* and was charged for so many that are still to be opened */
        unsigned begun, n;       /* items that were looked at; those that are done with */
        struct opening *open[WHARF_ITEMS_MAX];
        wharf_name port[WHARF_ITEMS_MAX];
};

static void opened_done(struct opened *o)
{
        if (o->head)
                wh_os_munmap((void *)(uintptr_t)o->head, o->map_len);
        for (size_t i = 0; i < o->n_fds; i++)
                wh_os_close_theirs(o->fds[i]);
        free(o->fds);
}

static void opening_done(struct opening *op)
{
        if (!op)
                return;
        opened_done(&op->o);
        free(op->links);
        free(op);
}

/* K7. False: enough for now. */
static bool spend(const struct wh_moving *mv, uint64_t cost)
{
        return !mv->by.over || wh_link_spend(mv->by.over, cost);
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

/*
 * How many descriptors and bytes that link has in the carrier, by its own word. Everything is held against everything
 * before any of it is used: what the links say, what the head says, and what is really there.
 */
static bool link_has(const struct move_link *m, uint64_t n_bytes, uint64_t *fds, uint64_t *bytes)
{
        const bool message = m->flags & (MOVE_FULL | MOVE_BUILDING), memory = m->flags & MOVE_MEMORY;
        if (m->flags & ~(uint32_t)MOVE_FLAGS || m->n_sections > WH_SECTIONS_MAX || m->n_items > WHARF_ITEMS_MAX + 1)
                return false;
        *fds += 1 + m->n_items + (m->flags & MOVE_CHANGE ? 1 : 0) + (message && memory ? 1 : 0);
        if (m->flags & MOVE_LANE)
                *fds += 2 + m->n_sections + (m->flags & MOVE_NEXT ? 1 : 0);
        if (!message || memory)
                return true;
        if (m->have > n_bytes || m->have > BYTES_MAX)
                return false;
        *bytes += wh_round_up(m->have, 8);
        return true;
}

/* Map the state, if it is immutable, really there, and of the size that it says. */
static int state_open(int fd, struct opened *o)
{
        uint64_t len;
        int r = wh_sealed_check(fd, STATE_SEALS, &len);
        if (r < 0 || len < sizeof(struct move_head))
                return wh_trace(-EPROTO);
        void *map;
        r = wh_os_mmap(NULL, (size_t)len, PROT_READ, MAP_SHARED, fd, 0, &map);
        if (r < 0)
                return wh_trace(r);
        wh_os_madvise(map, (size_t)len, MADV_DONTFORK);
        o->head = map;
        o->map_len = (size_t)len;
        const struct move_head *h = o->head;
        if (h->magic != MOVE_MAGIC)
                return wh_trace(-EPROTO);
        if (h->version != MOVE_VERSION)
                return wh_trace(-EPROTONOSUPPORT);
        size_t links_len = (size_t)h->n_links * sizeof(struct move_link);
        if (h->n_bytes > o->map_len || sizeof *h + links_len + h->n_bytes != o->map_len || h->n_fds < h->n_links ||
            h->n_fds > (uint64_t)h->n_links * LINK_FDS_MAX)
                return wh_trace(-EPROTO);
        o->links = (const struct move_link *)(const void *)(h + 1);
        o->bytes = (const uint8_t *)(o->links + h->n_links);
        return 0;
}

/* More than this task can ever have is waited for by nobody. */
static int fds_possible(const struct wh_moving *mv, uint64_t n)
{
        if (mv->by.own)
                return n <= OWN_FDS_MAX ? 0 : wh_trace(-EPROTO);
        return n <= mv->task->accounts.max[WH_SHARE_TASK_LINKS] ? 0 : wh_trace(-EDQUOT);
}

/* What a port of another user's may take is what a port takes by default: it was that user who chose the options. */
static void opts_bound(struct wharf_port_opts *o)
{
        struct wharf_port_opts most;
        wh_port_opts(NULL, &most);
#define BOUND(field) o->field = o->field < most.field ? o->field : most.field
        if (o->capacity_records != WHARF_RENDEZVOUS)
                BOUND(capacity_records);
        BOUND(capacity_bytes);
        BOUND(links_max);
        BOUND(introduced_max);
        BOUND(unread_rights_max);
        BOUND(payload_bytes_max);
        BOUND(link_mapped_bytes_max);
        BOUND(mapped_bytes_max);
        BOUND(reply_bytes_max);
        BOUND(link_reply_bytes_max);
        BOUND(link_answers_max);
#undef BOUND
}

static int state_check(struct wh_moving *mv, struct opening *op)
{
        const struct opened *o = &op->o;
        const struct move_head *h = o->head;
        uint64_t fds = 0, bytes = 0, senders = 0;
        op->opts = (struct wharf_port_opts){
                .size = sizeof op->opts,
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
        int r = wh_port_opts(&op->opts, &op->opts);
        if (r < 0 || op->opts.flags & WHARF_PORT_FIXED)
                return wh_trace(-EPROTO);
        if ((r = fds_possible(mv, mv->n_fds + h->n_fds)) < 0)
                return r;
        for (uint32_t i = 0; i < h->n_links; i++) {
                if (!link_has(&o->links[i], h->n_bytes, &fds, &bytes))
                        return wh_trace(-EPROTO);
                senders += !(o->links[i].flags & MOVE_DIRECTORY);
        }
        if (fds != h->n_fds || bytes != h->n_bytes || senders > (uint64_t)op->opts.links_max + WH_PLACELESS_MAX)
                return wh_trace(-EPROTO);
        mv->n_links += h->n_links;
        mv->n_fds += h->n_fds;
        op->introduced_max = op->opts.introduced_max;
        if (!mv->by.own)
                opts_bound(&op->opts);
        return 0;
}

static int peek_at(int sock, uint64_t datagram)
{
        const int from = (int)(datagram * sizeof(struct move_datagram));
        int r = wh_os_setsockopt(sock, SOL_SOCKET, SO_PEEK_OFF, &from, sizeof from);
        return r < 0 ? wh_trace(r) : 0;
}

static uint64_t datagrams_of(const struct move_head *h)
{
        return 1 + (h->n_fds + BATCH - 1) / BATCH;
}

/* The state of the port in that carrier: nothing else of it is opened before it is clear that it may be. */
static int opening_begin(struct wh_moving *mv, int sock, struct opening *op)
{
        struct move_datagram d;
        int state;
        if (wh_frame_check_socket(sock) < 0)
                return wh_trace(-EPROTO);
        int r = peek_at(sock, 0);
        if (r == 0)
                r = datagram_look(sock, &d, &state, 1);
        if (r < 0)
                return r;
        r = d.index == 0 && d.n_fds == 1 ? state_open(state, &op->o) : wh_trace(-EPROTO);
        if (d.n_fds)
                wh_os_close_theirs(state);
        if (r == 0 && d.count != datagrams_of(op->o.head))
                r = wh_trace(-EPROTO);
        if (r == 0)
                r = state_check(mv, op);
        if (r == 0 && !(op->o.fds = wh_os_calloc(op->o.head->n_fds + 1, sizeof *op->o.fds)))
                r = wh_trace(-ENOMEM);
        spend(mv,
              2 * WH_COST_FRAME + op->o.map_len / WH_COST_BYTES); /* whatever is wrong with it, it was looked through */
        return r;
}

/* All its descriptors. What was there before is there still, and is passed over. */
static int fds_look_on(struct wh_moving *mv, int sock, struct opened *o)
{
        const uint64_t want = o->head->n_fds;
        int r = o->n_fds < want ? peek_at(sock, 1 + o->n_fds / BATCH) : 0;
        while (r == 0 && o->n_fds < want) {
                struct move_datagram d;
                const uint32_t index = 1 + (uint32_t)(o->n_fds / BATCH);
                const uint64_t left = want - o->n_fds;
                r = datagram_look(sock, &d, o->fds + o->n_fds, (unsigned)(left < BATCH ? left : BATCH));
                if (r < 0)
                        break;
                o->n_fds += d.n_fds;
                if (d.index != index || d.n_fds != (left < BATCH ? left : BATCH))
                        r = wh_trace(-EPROTO);
                else if (!spend(mv, WH_COST_FRAME + 2 * d.n_fds) && o->n_fds < want)
                        r = WH_LINK_LATER;
        }
        return r;
}

static int fds_look(struct wh_moving *mv, int sock, struct opening *op)
{
        enum { CATCH_UP_NS = 50000000 };
        struct opened *o = &op->o;
        int r = fds_look_on(mv, sock, o);
        if ((r != -EMFILE && r != -ENFILE) || op->caught_up)
                return r;
        while (o->n_fds)
                wh_os_close_theirs(o->fds[--o->n_fds]);
        op->caught_up = true;
        /* What this attempt let go of, or one before it, may be closed then. */
        return wh_os_closer_catch_up(CATCH_UP_NS) ? fds_look_on(mv, sock, o) : r;
}

/* The next descriptor is the caller's; -1 when there are not that many. */
static int fd_take(struct opened *o)
{
        return o->next_fd < o->n_fds ? wh_steal_fd(&o->fds[o->next_fd++]) : -1;
}

/* What this link may still map, by the port's own limits: how users share them was the former owner's to see to. */
static int64_t may_map(const struct wh_link *l)
{
        const struct wharf_port_opts *o = &wh_owned(l)->port->opts;
        uint64_t mine = l->in.lane ? l->in.lane->mapped_bytes : 0;
        if (mine >= o->link_mapped_bytes_max || wh_owned(l)->port->mapped >= o->mapped_bytes_max)
                return -EPROTO;
        uint64_t a = o->link_mapped_bytes_max - mine, b = o->mapped_bytes_max - wh_owned(l)->port->mapped;
        return (int64_t)(a < b ? a : b);
}

static int lane_open(struct wh_link *l, struct opened *o, const struct move_link *m)
{
        const int out = fd_take(o), back = fd_take(o);
        int64_t room = may_map(l);
        int r = out < 0 || back < 0 || m->n_sections > WH_SECTIONS_MAX || room < 0
                        ? wh_trace(-EPROTO)
                        : wh_lane_rx_open(out, back, (uint64_t)room, &l->in.lane);
        if (r < 0) { /* whatever they are */
                wh_os_close_theirs(out);
                wh_os_close_theirs(back);
                return r == -EDQUOT ? -EPROTO : r;
        }
        struct wh_lane_rx *rx = l->in.lane;
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

/*
 * A message that was read and not delivered. What is large is mapped, so that it stays its mover's memory; room for the rest
 * of one that is begun is made when that comes (wh_link_stash_grow()).
 */
static int stash_open(struct wh_link *l, struct opened *o, const struct move_link *m)
{
        const bool full = m->flags & MOVE_FULL, memory = m->flags & MOVE_MEMORY;
        const uint32_t how = m->how & ~(uint32_t)WH_HOW_OFFERED;
        int fd = memory ? fd_take(o) : -1, r = 0;
        if ((memory && fd < 0) || m->have > m->len || m->len > l->hello.payload_bytes_max ||
            (full && m->have != m->len) || how > WHARF_HOW_DIRECT || how == 0 || m->stash_items > m->n_items ||
            (how != m->how && (how != WHARF_HOW_MEMORY || !memory)))
                r = wh_trace(-EPROTO);
        /* One that came as a memory takes nothing of ours, and any other what it takes over a link. */
        if (r == 0 && how != WHARF_HOW_MEMORY && m->len > WH_COLD_MAX)
                r = l->end->hold_bytes(l, m->len);
        if (r < 0)
                return wh_os_close_theirs(fd), r;
        if (memory) {
                r = wh_link_stash_memory(l, fd, m->have, m->id, m->call);
        } else {
                const uint64_t room = wh_round_up(m->have, 8);
                if (m->have > BYTES_MAX || room > o->head->n_bytes - o->next_byte)
                        return wh_trace(-EPROTO);
                uint8_t *own = m->have ? wh_os_malloc_payload(m->have) : NULL;
                if (m->have && !own)
                        return wh_trace(-ENOMEM);
                if (m->have)
                        memcpy(own, o->bytes + o->next_byte, m->have);
                o->next_byte += room;
                l->in.stash =
                        (struct wh_stash){.bytes = own, .have = m->have, .room = m->have, .id = m->id, .call = m->call};
        }
        if (r < 0)
                return r;
        l->in.stash.len = m->len;
        l->in.stash.full = full;
        l->in.stash.building = !full;
        l->in.stash.how = (uint8_t)m->how;
        l->in.stash.n_items = m->stash_items;
        l->in.stash.tell = m->flags & MOVE_TELL;
        l->in.offer = m->offer;
        if (m->how & WH_HOW_OFFERED && (!l->in.lane || m->offer != l->in.lane->ring.records))
                return wh_trace(-EPROTO); /* what is claimed when it is delivered is the record before the next */
        return 0;
}

static int items_open(struct wh_link *l, struct opened *o, const struct move_link *m)
{
        int r = m->n_items ? l->end->hold_rights(l, m->n_items) : 0;
        if (r < 0)
                return r;
        l->in.items.seq = m->items_seq;
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
                l->in.items.kind[i] = kind;
                l->in.items.fd[l->in.items.n++] = fd;
        }
        return 0;
}

static int change_open(struct wh_link *l, struct opened *o, const struct move_link *m)
{
        int fd = fd_take(o);
        if (fd < 0 || wh_frame_check_socket(fd) < 0)
                return wh_os_close_theirs(fd), wh_trace(-EPROTO);
        l->in.change = (struct wh_change){
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

static int link_open(struct wh_moving *mv, struct opening *op, const struct move_link *m, struct wh_link **ret)
{
        struct wh_port *p = op->p;
        struct opened *o = &op->o;
        int sock = fd_take(o);
        if (sock < 0 || wh_frame_check_socket(sock) < 0)
                return wh_os_close_theirs(sock), wh_trace(-EPROTO);
        struct wh_owned *w = wh_owned_new(p->task, sock);
        if (!w) {
                wh_os_close_theirs(sock);
                return wh_trace(-ENOMEM);
        }
        struct wh_link *l = &w->link;
        w->directory = m->flags & MOVE_DIRECTORY;
        l->handed_on = l->came = true; /* what lies in the carrier has this end as well (wh_link_arrive()) */
        if (mv->reserved) {            /* asked for: from here on it stands in the link's bill */
                wh_account_give(&p->task->accounts, mv->by.payer, WH_SHARE_TASK_LINKS, 1);
                mv->reserved--;
        }
        int r = wh_port_take_link(p, l, mv->by.payer, true);
        if (r < 0) {
                wh_owned_done(w);
                wh_task_give(p->task, &l->o);
                return r;
        }
        /* From here on it goes with the port. */
        w->former = mv->by.given;
        w->formers = wh_origin_get(&m->formers);
        if (m->flags & MOVE_CRED) { /* its word, and no more (I5) */
                l->who.told_pid = m->cred.pid;
                l->who.told_uid = m->cred.uid;
        }
        wh_link_identify(l, &(struct wh_cred){0}, m->flags & MOVE_CRED ? WHARF_KNOWN_TOLD : WHARF_KNOWN_NOT);
        l->in.frames_got = m->frames_got;
        l->in.arms = UINT32_MAX / 2; /* nobody knows how many doorbells lie there */
        l->in.lanes = m->lanes;
        l->in.renews = m->renews + 1 ? m->renews + 1 : 1;
        l->out.seq = m->tx_seq;
        w->had_lane = m->flags & MOVE_TX_LANE;
        w->lane_ended = m->tx_ended;
        l->out.known_taken = m->known_taken;
        l->out.items_unread = m->items_unread;
        l->out.cold_sent = m->cold_sent;
        l->out.cold_bytes = m->cold_bytes;
        l->in.seq = m->rx_seq;
        l->out.detour = WH_DETOUR_RENEW;
        *ret = l;
        if (m->flags & MOVE_ONCE) {
                l->once = true;
                p->n_once++;
                if (l->in.seq == 0 && !(w->once_notice = unused_notice(p)))
                        return wh_trace(-ENOMEM);
                if (w->once_notice)
                        w->once_notice->sender = atomic_load_explicit(&l->o.name, memory_order_relaxed);
        }
        if (m->flags & MOVE_LANE)
                r = lane_open(l, o, m);
        if (r == 0 && m->flags & (MOVE_FULL | MOVE_BUILDING))
                r = stash_open(l, o, m);
        if (r == 0)
                r = items_open(l, o, m);
        if (r == 0 && m->flags & MOVE_CHANGE)
                r = change_open(l, o, m);
        if (r == 0)
                wh_port_look_at(l); /* once it is somebody's (M8): what comes meanwhile rings nobody */
        return r;
}

/* Introducers come before those whom they introduced, since links are in the order in which they were made. */
static int branches_open(struct wh_moving *mv, struct opening *op)
{
        while (op->n_introduced < op->n_links) {
                const uint32_t i = op->n_introduced, by = op->o.links[i].introducer;
                struct wh_branch *b;
                if (by > i)
                        return wh_trace(-EPROTO);
                if (by) {
                        int r = wh_branch_new(op->links[by - 1], op->introduced_max, &b);
                        if (r < 0)
                                return wh_trace(r);
                        wh_branch_settle(b, op->links[i]);
                }
                op->n_introduced++;
                if (!spend(mv, by ? COST_BRANCH : 1) && op->n_introduced < op->n_links)
                        return WH_LINK_LATER;
        }
        return 0;
}

static int links_open(struct wh_moving *mv, struct opening *op)
{
        const struct move_head *h = op->o.head;
        while (op->n_links < h->n_links) {
                const struct move_link *m = &op->o.links[op->n_links];
                const uint64_t before = op->p->mapped;
                int r = link_open(mv, op, m, &op->links[op->n_links]);
                const uint64_t copied = m->flags & MOVE_MEMORY ? 0 : m->have;
                const uint64_t mapped = op->p->mapped - before + m->have - copied;
                const bool more = spend(mv, COST_LINK + copied / WH_COST_BYTES + mapped / WH_COST_MAPPED);
                if (r < 0)
                        return r;
                if (++op->n_links < h->n_links && !more)
                        return WH_LINK_LATER;
        }
        int r = branches_open(mv, op);
        if (r < 0 || !h->unused_notices)
                return r;
        /* One for all, and last of all, since a notice that was fired is seen. */
        struct wh_notice *n = unused_notice(op->p);
        if (!n)
                return wh_trace(-ENOMEM);
        n->count = h->unused_notices;
        wh_notice_fire(mv->task, n);
        return 0;
}

/*
 * Of no other port in this process: a count, and beside it the time, for another copy of the library counts as well. (A port
 * that was made here has its id, which was drawn.) It takes no call that could fail.
 */
static uint64_t number_here(void)
{
        enum { COUNT_BITS = 24 };
        static _Atomic uint32_t n;
        /* Relaxed: nothing but the number is read by it. */
        const uint32_t count = atomic_fetch_add_explicit(&n, 1, memory_order_relaxed);
        return (uint64_t)wh_os_now_ns() >> 8 << COUNT_BITS | (count & ((1u << COUNT_BITS) - 1));
}

/* The port itself, without a link, and for as long as it has not all of them on its way: nobody here may use it. */
static int port_begin(struct wh_moving *mv, struct opening *op)
{
        const struct move_head *h = op->o.head;
        struct wh_port *p;
        op->links = wh_os_calloc(h->n_links + 1, sizeof(struct wh_link *));
        if (!op->links)
                return wh_trace(-ENOMEM);
        int r = wh_port_make(mv->task, &op->opts, &p);
        if (r < 0)
                return r;
        p->here = number_here();
        p->closing = WH_PORT_MOVING;
        p->id.v = h->port_id;
        p->received_messages = h->received_messages;
        p->received_bytes = h->received_bytes;
        p->refused = h->refused;
        p->made = h->made;
        wh_lock(&p->own.lock);
        r = wh_port_name(p, mv->by.own, &op->name);
        wh_unlock(&p->own.lock);
        if (r < 0)
                wh_port_unmake(p);
        else
                op->p = p;
        return r;
}

static int port_open(struct wh_moving *mv, int carrier, struct opening *op)
{
        int r = fds_look(mv, carrier, op);
        if (r == 0 && !op->p)
                r = port_begin(mv, op);
        if (r < 0)
                return r;
        wh_lock(&op->p->own.lock);
        r = links_open(mv, op);
        if (r == 0)
                op->p->closing = WH_PORT_OPEN;
        wh_unlock(&op->p->own.lock);
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
        case -EDQUOT:
        case -EPROTONOSUPPORT:
                return r;
        default:
                return -EPROTO;
        }
}

/*
 * May the payer have all these links? Those of another user's take of its share, and wait like its other links for as
 * long as it has had it; where its whole share would not do, even with nothing else in it, that would be for ever.
 */
static int ask_for_places(struct wh_moving *mv)
{
        struct wh_accounts *a = &mv->task->accounts;
        struct wh_link *l = mv->by.over;
        if (mv->granted || mv->by.own)
                return 0;
        const uint32_t freed = wh_places_freed(mv->task);
        int r = wh_account_charge(a, mv->by.payer, WH_SHARE_TASK_LINKS, mv->n_links, false);
        if (r == -EDQUOT) {
                wh_places_limits(mv->task);
                r = wh_account_charge(a, mv->by.payer, WH_SHARE_TASK_LINKS, mv->n_links, false);
        }
        if (r == 0) {
                mv->granted = true;
                mv->reserved = mv->n_links;
        }
        if (r != -EDQUOT)
                return r;
        if (l)
                l->in.refusal = WH_REFUSAL_TASK_LINKS;
        if (!l || !l->owner ||
            mv->n_links >= a->max[WH_SHARE_TASK_LINKS] / 2) /* the link that this comes over is one */
                return r;
        wh_owned(l)->waits_links = (uint32_t)mv->n_links;
        return wh_place_wait(l, WH_WAITS_MOVED, mv->by.payer, true, freed);
}

/* No port of this task's has that id; or it waits until one that is moving is gone, and may be this one. */
static int ask_for_id(struct wh_moving *mv, const struct opening *op)
{
        const uint32_t freed = wh_places_freed(mv->task);
        struct wh_link *l = mv->by.over;
        int r = wh_port_id_taken(mv->task, (wharf_port_id){op->o.head->port_id});
        if (r != WH_LINK_WAITS || !l)
                return r == WH_LINK_WAITS ? 0 : r;
        if (!l->owner)
                return wh_trace(-EDQUOT);
        wh_owned(l)->waits_links = 0;
        return wh_place_wait(l, WH_WAITS_MOVED, mv->by.payer, true, freed);
}

static int moving_step(struct wh_moving *mv, struct wh_items *i, unsigned n)
{
        int r = 0;
        for (; mv->begun < n; mv->begun++) {
                if (i->kind[mv->begun] != WH_ITEM_RECEIVE)
                        continue;
                struct opening *op = wh_os_calloc(1, sizeof *op);
                if (!op)
                        return wh_trace(-ENOMEM);
                wh_list_init(&op->in_gone);
                if ((r = opening_begin(mv, i->fd[mv->begun], op)) < 0) {
                        opening_done(op);
                        return r;
                }
                mv->open[mv->begun] = op;
        }
        if (mv->n == 0 && (r = ask_for_places(mv)) < 0)
                return r;
        for (; mv->n < n; mv->n++) {
                struct opening *op = mv->open[mv->n];
                if (!op)
                        continue;
                if (!op->p && !op->o.n_fds && (r = ask_for_id(mv, op)) < 0)
                        return r;
                if ((r = port_open(mv, i->fd[mv->n], op)) < 0)
                        return r;
                mv->port[mv->n] = op->name;
                if (!spend(mv, 1) && mv->n + 1 < n) {
                        mv->n++;
                        return WH_LINK_LATER;
                }
        }
        return 0;
}

int wh_moving_open(wharf_task *t, struct wh_items *i, unsigned n, const struct wh_mover *by)
{
        bool any = false;
        for (unsigned k = 0; k < n; k++)
                any |= i->kind[k] == WH_ITEM_RECEIVE;
        if (!any)
                return 0;
        if (wh_ports_gone(t) &&
            wh_moving_clear(t, by->over)) /* so that nothing is missing for what is still being undone */
                return WH_LINK_LATER;
        if (!i->moving) {
                if (!(i->moving = wh_os_calloc(1, sizeof *i->moving)))
                        return wh_trace(-ENOMEM);
                i->undo = wh_moving_undo;
                i->moving->task = t;
                i->moving->by = *by;
        }
        int r = moving_step(i->moving, i, n);
        if (r == WH_LINK_LATER || r == 0)
                return r;
        wh_moving_undo(i);
        return r == WH_LINK_WAITS ? r : open_error(r);
}

wharf_name wh_moving_port(const struct wh_items *i, unsigned k)
{
        return i->moving->port[k];
}

/* What is left of it, until the budget is used up. True: something still is. */
static bool gone_clear(wharf_task *t, struct opening *op, uint32_t *budget)
{
        struct opened *o = &op->o;
        if (op->p) {
                struct wh_inbox *in = &op->p->own;
                wh_lock(&in->lock);
                for (; *budget && !wh_list_empty(&op->p->links); *budget -= *budget < COST_LINK ? *budget : COST_LINK)
                        wh_port_remove_link(&wh_container(op->p->links.next, struct wh_owned, in_port)->link);
                const bool more = !wh_list_empty(&op->p->links);
                wh_unlock(&in->lock);
                if (more)
                        return true;
                wh_port_gone(t, op->name);
                op->p = NULL;
        }
        for (; *budget && o->n_fds; *budget -= *budget < WH_COST_FRAME ? *budget : WH_COST_FRAME)
                do
                        wh_os_close_theirs(o->fds[--o->n_fds]);
                while (o->n_fds && o->fds[o->n_fds - 1] < 0); /* those that links have had cost nothing */
        if (o->n_fds)
                return true;
        opening_done(op);
        return false;
}

/* M8. It is out of the list while one thread is at it. */
static bool gone_go_on(wharf_task *t, uint32_t *budget)
{
        for (;;) {
                wh_lock(&t->notices);
                struct wh_list *n = wh_list_pop_front(&t->gone);
                wh_unlock(&t->notices);
                if (!n)
                        return false;
                struct opening *op = wh_container(n, struct opening, in_gone);
                if (gone_clear(t, op, budget)) {
                        wh_lock(&t->notices);
                        wh_list_push_back(&t->gone, &op->in_gone);
                        wh_unlock(&t->notices);
                        return true;
                }
                atomic_fetch_sub_explicit(&t->n_gone, 1, memory_order_relaxed);
        }
}

bool wh_moving_clear(wharf_task *t, struct wh_link *over)
{
        uint32_t all = UINT32_MAX;
        if (!over || !over->owner) { /* nobody else is served by this call */
                while (gone_go_on(t, &all))
                        all = UINT32_MAX;
                return false;
        }
        uint32_t *budget = over->end->budget(over);
        const bool more = gone_go_on(t, budget);
        if (more)
                *budget = 0;
        return more;
}

bool wh_ports_clear(wharf_task *t)
{
        uint32_t budget = WH_BUDGET;
        return gone_go_on(t, &budget);
}

void wh_moving_undo(struct wh_items *i)
{
        struct wh_moving *mv = i->moving;
        if (!mv)
                return;
        wharf_task *t = mv->task;
        i->moving = NULL;
        for (unsigned k = 0; k < WHARF_ITEMS_MAX; k++) {
                struct opening *op = mv->open[k];
                if (!op)
                        continue;
                if (op->p) {
                        wh_lock(&op->p->own.lock);
                        op->p->closing = WH_PORT_MOVING;
                        wh_unlock(&op->p->own.lock);
                }
                wh_lock(&t->notices);
                if (op->p)
                        wh_list_remove(&op->p->in_ids); /* it can come again */
                wh_list_push_back(&t->gone, &op->in_gone);
                wh_unlock(&t->notices);
                atomic_fetch_add_explicit(&t->n_gone, 1, memory_order_relaxed);
        }
        wh_account_give(&t->accounts, mv->by.payer, WH_SHARE_TASK_LINKS, mv->reserved);
        const struct wh_owned *over = mv->by.over && mv->by.over->owner ? wh_owned(mv->by.over) : NULL;
        if (mv->reserved && over && over->port)
                wh_place_freed(over->port); /* others may have waited for what was kept for these */
        if (over)
                wh_ports_clear(t); /* a small one goes at once, and of a large one a part */
        else
                wh_moving_clear(t, NULL);
        free(mv);
}

static void opening_forget(struct opening *op)
{
        if (!op)
                return;
        free(op->o.fds);
        free(op->links);
        free(op);
}

void wh_moving_forget(struct wh_items *i)
{
        for (unsigned k = 0; i->moving && k < WHARF_ITEMS_MAX; k++)
                opening_forget(i->moving->open[k]);
        free(i->moving);
        i->moving = NULL;
}

void wh_ports_forget(wharf_task *t)
{
        struct wh_list *n;
        while ((n = wh_list_pop_front(&t->gone)))
                opening_forget(wh_container(n, struct opening, in_gone));
}

void wh_moving_done(struct wh_items *i)
{
        for (unsigned k = 0; i->moving && k < WHARF_ITEMS_MAX; k++)
                opening_done(i->moving->open[k]);
        free(i->moving);
        i->moving = NULL;
}

void wh_move_start(wharf_task *t, wharf_name port, int carrier)
{
        int err;
        wh_os_close_theirs(carrier); /* with all that lies in it */
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return;
        p->arrived = true;
        wh_unlock(&atomic_load_explicit(&p->inbox, memory_order_relaxed)->lock);
}

void wh_link_arrive(struct wh_link *l)
{
        wh_link_spend(l, WH_COST_FRAME);
        wh_lock(&l->o.lock);
        l->handed_on = l->came = false;
        l->end->renew(l);
        wh_unlock(&l->o.lock);
        if (l->in.lane && wh_ring_publish_taken(&l->in.lane->ring))
                wh_link_bell(l);
}

int wh_move_to(wharf_task *t, wharf_name port, wharf_name to, uint32_t id)
{
        struct wharf_item item = {.kind = WHARF_MOVE_RECEIVE, .name = port};
        struct wharf_msg m = {.size = sizeof m, .id = id, .items = &item, .n_items = 1};
        return wharf_sendmsg(t, to, &m, 0);
}
