/*
 * A port is made of what its carrier holds, link by link.
 *
 * Always true:
 *   - It is moving (WH_PORT_MOVING) until all of its links are there: nobody here can use it, and it can be undone.
 *   - Each link, with all that it has, is the port's from wh_port_take_link() on, and goes with it.
 *   - What is made is on the budget of the link that it came over, and what is left is done by the next call (M6, M8).
 */
#include "message/opening.h"

#include "base/bits.h"
#include "base/trace.h"
#include "link/budget.h"
#include "link/stash.h"
#include "memory/sealed.h"
#include "os/closer.h"
#include "os/os.h"
#include "port/branch.h"
#include "port/owned.h"
#include "port/port.h"

#include <errno.h>
#include <string.h>

enum { COST_BRANCH = 4 }; /* link.K7: to say who introduced a link */

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

static int lane_open(struct wh_link *l, struct wh_opened *o, const struct wh_move_link *m)
{
        const int out = wh_opened_take(o), back = wh_opened_take(o);
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
#define NUMBER(word, member) rx->member = m->word;
        WH_MOVE_LANE_NUMBERS(NUMBER)
#undef NUMBER
        rx->number = l->in.lanes++;          /* in our own terms: by that a payload is given back that we hold */
        rx->ring.settled_lines = m->pos - 1; /* whatever was told: it is said anew */
        l->end->mapped(l);
        for (unsigned i = 0; i < m->n_sections; i++) {
                int fd = wh_opened_take(o);
                room = may_map(l);
                r = fd < 0 || room < 0 ? wh_trace(-EPROTO) : wh_lane_rx_add_section(rx, fd, (uint64_t)room);
                if (r < 0) {
                        wh_os_close_theirs(fd);
                        return r;
                }
                rx->section[i].fd = fd;
                l->end->mapped(l);
        }
        if (m->flags & WH_MOVE_NEXT) {
                int fd = wh_opened_take(o);
                room = may_map(l);
                r = fd < 0 || room < 0 ? wh_trace(-EPROTO) : wh_lane_rx_add_ring(rx, fd, (uint64_t)room);
                if (r < 0) {
                        wh_os_close_theirs(fd);
                        return r;
                }
                rx->next_fd = fd;
                l->end->mapped(l);
        }
        if (l->end->hold(l, WH_SHARE_LANES, wh_link_kept(l)) < 0)
                wh_lane_rx_unkeep(rx); /* the link ends if the port moves on */
        return 0;
}

/*
 * A message that was read and not delivered. What is large is mapped, so that it stays its mover's memory; room for the rest
 * of one that is begun is made when that comes (wh_link_stash_grow()).
 */
static int stash_open(struct wh_link *l, struct wh_opened *o, const struct wh_move_link *m)
{
        const bool full = m->flags & WH_MOVE_FULL, memory = m->flags & WH_MOVE_MEMORY;
        const uint32_t how = m->how & ~(uint32_t)WH_HOW_OFFERED;
        int fd = memory ? wh_opened_take(o) : -1, r = 0;
        if ((memory && fd < 0) || m->have > m->len || m->len > l->hello.payload_bytes_max ||
            (full && m->have != m->len) || how > WHARF_HOW_DIRECT || how == 0 ||
            (m->stash_items && m->stash_items != m->n_items) || (how != m->how && how != WHARF_HOW_MEMORY) ||
            (how == WHARF_HOW_MEMORY && !full))
                r = wh_trace(-EPROTO);
        /* One that came as a memory, in one piece, takes nothing of ours, and any other what it takes over a link. */
        if (r == 0 && how != WHARF_HOW_MEMORY && m->len > WH_COLD_MAX)
                r = l->end->hold(l, WH_SHARE_BYTES, m->len);
        if (r < 0)
                return wh_os_close_theirs(fd), r;
        if (memory) {
                r = wh_link_stash_memory(l, fd, m->have, m->id, m->call);
        } else {
                const uint64_t room = wh_round_up(m->have, 8);
                if (m->have > WH_MOVE_BYTES_MAX || room > o->head->n_bytes - o->next_byte)
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
        l->in.stash.tell = m->flags & WH_MOVE_TELL;
        l->in.offer = m->offer;
        if (m->how & WH_HOW_OFFERED && (!l->in.lane || m->offer != l->in.lane->ring.records))
                return wh_trace(-EPROTO); /* what is claimed when it is delivered is the record before the next */
        return 0;
}

/* A memory beside the payload: *beside in all, of which a message of this port has no more than over a link (wh_items_keep()). */
static int memory_open(const struct wh_moving *mv, const struct wh_link *l, int fd, uint64_t *beside)
{
        uint64_t len;
        int r = wh_sealed_size(fd, WH_SEALS_IMMUTABLE, &len);
        if (r == 0 && len > wh_stash_max(l) - *beside)
                r = wh_trace(-EPROTO);
        if (r < 0)
                return r;
        *beside += len;
        wh_moving_spend(mv, wh_budget_of_mapped(len));
        r = wh_sealed_whole(fd, len);
        return r == -EOPNOTSUPP ? 0 : r;
}

static int items_open(const struct wh_moving *mv, struct wh_link *l, struct wh_opened *o, const struct wh_move_link *m)
{
        uint64_t beside = 0;
        int r = m->n_items ? l->end->hold(l, WH_SHARE_RIGHTS, m->n_items) : 0;
        if (r < 0)
                return r;
        l->in.items.seq = m->items_seq;
        for (unsigned i = 0; i < m->n_items; i++) {
                uint8_t kind = m->item_kind[i];
                int fd = wh_opened_take(o);
                bool last = i + 1 == m->n_items;
                if (fd < 0 || kind < WH_ITEM_FD || kind >= WH_ITEM_KINDS || (kind == WH_ITEM_MEMORY && !last) ||
                    (kind != WH_ITEM_MEMORY && i >= WHARF_ITEMS_MAX) ||
                    ((kind == WH_ITEM_SEND || kind == WH_ITEM_REPLY || kind == WH_ITEM_RECEIVE) &&
                     wh_frame_check_socket(fd) < 0) ||
                    (kind == WH_ITEM_BESIDE && memory_open(mv, l, fd, &beside) < 0))
                        return wh_os_close_theirs(fd), wh_trace(-EPROTO);
                l->in.items.kind[i] = kind;
                l->in.items.fd[l->in.items.n++] = fd;
        }
        return 0;
}

static int change_open(struct wh_link *l, struct wh_opened *o, const struct wh_move_link *m)
{
        int fd = wh_opened_take(o);
        if (fd < 0 || wh_frame_check_socket(fd) < 0)
                return wh_os_close_theirs(fd), wh_trace(-EPROTO);
        l->in.change = (struct wh_change){
                .due = true,
                .lane = m->flags & WH_MOVE_CHANGE_LANE,
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

/* A send-once right, which tells when it goes unused. */
static int once_open(struct wh_port *p, struct wh_owned *w)
{
        w->link.once = true;
        p->n_once++;
        if (w->link.in.seq)
                return 0;
        if (!(w->once_notice = unused_notice(p)))
                return wh_trace(-ENOMEM);
        w->once_notice->sender = w->link.who.id;
        return 0;
}

static int link_open(struct wh_moving *mv, struct wh_opening *op, const struct wh_move_link *m, struct wh_link **ret)
{
        struct wh_port *p = op->p;
        struct wh_opened *o = &op->o;
        int sock = wh_opened_take(o);
        if (sock < 0 || wh_frame_check_socket(sock) < 0)
                return wh_os_close_theirs(sock), wh_trace(-EPROTO);
        struct wh_owned *w = wh_owned_new(p->task, sock);
        if (!w) {
                wh_os_close_theirs(sock);
                return wh_trace(-ENOMEM);
        }
        struct wh_link *l = &w->link;
        w->directory = m->flags & WH_MOVE_DIRECTORY &&
                       mv->by.own;     /* whom to believe is our user's to say, and nobody else's */
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
        if (m->flags & WH_MOVE_CRED) { /* its word, and no more (I5) */
                l->who.told_pid = m->cred.pid;
                l->who.told_uid = m->cred.uid;
        }
        wh_link_identify(l, &(struct wh_cred){0}, m->flags & WH_MOVE_CRED ? WHARF_KNOWN_TOLD : WHARF_KNOWN_NOT);
#define NUMBER(word, member) l->member = m->word;
        WH_MOVE_NUMBERS(NUMBER)
#undef NUMBER
        l->in.arms = UINT32_MAX / 2; /* nobody knows how many doorbells lie there */
        l->in.renews = m->renews + 1 ? m->renews + 1 : 1;
        w->had_lane = m->flags & WH_MOVE_TX_LANE;
        w->lane_ended = m->tx_ended;
        l->out.detour = WH_DETOUR_RENEW;
        *ret = l;
        r = m->flags & WH_MOVE_ONCE ? once_open(p, w) : 0;
        if (r == 0 && m->flags & WH_MOVE_LANE)
                r = lane_open(l, o, m);
        if (r == 0 && m->flags & (WH_MOVE_FULL | WH_MOVE_BUILDING))
                r = stash_open(l, o, m);
        if (r == 0)
                r = items_open(mv, l, o, m);
        if (r == 0 && m->flags & WH_MOVE_CHANGE)
                r = change_open(l, o, m);
        if (r == 0)
                wh_port_look_at(l); /* once it is somebody's (M8): what comes meanwhile rings nobody */
        return r;
}

/* Introducers come before those whom they introduced, since links are in the order in which they were made. */
static int branches_open(struct wh_moving *mv, struct wh_opening *op)
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
                if (!wh_moving_spend(mv, by ? COST_BRANCH : 1) && op->n_introduced < op->n_links)
                        return WH_LINK_LATER;
        }
        return 0;
}

static int links_open(struct wh_moving *mv, struct wh_opening *op)
{
        const struct wh_move_head *h = op->o.head;
        while (op->n_links < h->n_links) {
                const struct wh_move_link *m = &op->o.links[op->n_links];
                const uint64_t before = op->p->mapped;
                int r = link_open(mv, op, m, &op->links[op->n_links]);
                const uint64_t copied = m->flags & WH_MOVE_MEMORY ? 0 : m->have;
                const uint64_t mapped = op->p->mapped - before + m->have - copied;
                const bool more = wh_moving_spend(mv, WH_COST_LINK + copied / WH_COST_BYTES + mapped / WH_COST_MAPPED);
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
static int port_begin(struct wh_moving *mv, struct wh_opening *op)
{
        const struct wh_move_head *h = op->o.head;
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

int wh_opening_go_on(struct wh_moving *mv, int carrier, struct wh_opening *op)
{
        int r = wh_opening_look(mv, carrier, op);
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
