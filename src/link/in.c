/*
 * in - one message after another (K1): which is next, wherever it lies, and what becomes of it.
 *
 * Always true:
 *   N1  A message is described first and taken afterwards. What was described and not taken is described again.
 *   N2  What the stash holds comes first, then the lane, and the socket only when the lane is empty.
 *   N3  The end is told once everything that was published before it has been taken (K4).
 */
#include "link/budget.h"
#include "link/change.h"
#include "link/descriptors.h"
#include "link/pump.h"
#include "link/records.h"
#include "link/stash.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>

enum { BELLS_MAX = 32 }; /* doorbells left in the socket, which holds 278, before it is emptied */

static void from_stash(struct wh_link *l, struct wh_incoming *in)
{
        const struct wh_stash *s = &l->in.stash;
        in->where = WH_IN_STASH;
        in->bytes = s->bytes;
        in->len = s->len;
        in->id = s->id;
        in->call = s->call;
        in->how = s->how;
        in->n_items = s->n_items;
        in->refused = s->refused & 4095;
        in->dropped = s->how == WHARF_HOW_AUTO ? (int)s->have : 0;
}

enum { LOOK_AGAIN = 2 }; /* beside what wh_link_next() returns: something was taken, or the link is over */

/* The record that is next is none of the common ones. */
static int next_record(struct wh_link *l, struct wh_incoming *in, struct wh_budget_turn *turn)
{
        int r = wh_records_take(l, in);
        if (r > 0)
                return 1;
        if (r == 0) { /* a chunk, a memory, an end: it is taken, look again */
                wh_link_spend(l, 1);
                return l->in.stash.full || wh_budget_goes_on(l, turn) ? LOOK_AGAIN : 0;
        }
        if (r == WH_LINK_LATER)
                return 0;
        if (r == WH_LINK_WAITS)
                return LOOK_AGAIN;
        if (wh_shortage(r) || (r == -EMFILE && !l->over))
                return r; /* the record is where it was */
        wh_link_break(l, r);
        return LOOK_AGAIN;
}

/* The lane was just seen to be empty, so what is missing before the change that is due never comes. */
static int next_change(struct wh_link *l)
{
        int r = wh_link_change(l);
        if (wh_shortage(r))
                return r;
        if (r <= 0 && r != WH_LINK_WAITS)
                wh_link_break(l, r ? r : -EPROTO);
        return LOOK_AGAIN;
}

/* Is there nothing on the socket that is to be read now? Doorbells are not, and nothing behind descriptors of a later record. */
static bool next_is_no_frame(struct wh_link *l)
{
        const struct wh_lane_rx *rx = l->in.lane;
        if (!rx || l->in.hung_up)
                return false;
        if (l->in.items.n) /* those of the next record: what follows them is not for now */
                return true;
        /* [lane-frames] Acquire, pairs with the release in wh_link_frame_parts(). */
        return atomic_load_explicit(&rx->ring.out->frames, memory_order_acquire) == l->in.frames_got &&
               (l->in.arms < BELLS_MAX || wh_pump_bells(l) >= 0) && wh_pump_only_rung(l);
}

/* The lane has nothing, or there is none: what the socket has. */
static int next_frames(struct wh_link *l, struct wh_budget_turn *turn)
{
        if (wh_unlikely(l->in.change.due))
                return next_change(l);
        if (next_is_no_frame(l) || !wh_budget_goes_on(l, turn))
                return 0;
        int r = wh_link_pump(l);
        if (wh_unlikely(r == WH_LINK_LATER))
                return 0;
        if (wh_unlikely(r == WH_LINK_WAITS))
                return LOOK_AGAIN;
        if (r == 0 && l->once && l->owner && l->in.seq)
                wh_link_end(l, -EPIPE); /* its one message was taken, and no second one lies there */
        else if (r == 0 || (r < 0 && !l->over))
                return r;
        return LOOK_AGAIN;
}

/* Bytes, and nothing else. */
static inline void plain(struct wh_incoming *in)
{
        in->where = WH_IN_RECORD;
        in->bytes = in->rec.body;
        in->len = in->rec.len;
        in->id = in->call = 0;
        in->n_items = 0;
        in->dropped = 0;
        in->how = WHARF_HOW_INLINE;
}

int wh_link_next(struct wh_link *l, struct wh_incoming *in)
{
        bool last_look = false;
        struct wh_budget_turn turn = {0};
        int r = LOOK_AGAIN;
        while (r == LOOK_AGAIN) {
                if (wh_unlikely(l->in.stash.full)) {
                        from_stash(l, in);
                        return 1;
                }
                if (wh_unlikely(l->over)) {
                        wh_link_forget_part(l); /* nobody will send the rest */
                        return l->over;
                }
                if (wh_unlikely(l->in.waits))
                        return 0;
                struct wh_lane_rx *rx = l->in.lane;
                if (wh_likely(rx)) {
                        r = wh_ring_peek(&rx->ring, &in->rec);
                        if (wh_unlikely(l->in.hung_up) && r > 0 && rx->ring.pos >= l->in.last_line)
                                r = wh_trace(-EPROTO); /* its writer goes on, and nobody could make it stop */
                        if (wh_likely(r > 0)) {
                                if (wh_likely(in->rec.kind == WH_REC_PLAIN && !l->in.stash.building &&
                                              in->rec.len <= wh_stash_max(l))) {
                                        plain(in);
                                        return 1;
                                }
                                r = next_record(l, in, &turn);
                                continue;
                        }
                        if (wh_unlikely(r < 0)) {
                                wh_link_break(l, r);
                                r = LOOK_AGAIN;
                                continue;
                        }
                }
                if (wh_unlikely(l->in.sock_ended)) {
                        /* What was published before the end is visible now; only then is the end the end. */
                        if (last_look)
                                wh_link_end(l, l->out.over && l->out.over != -EPIPE ? l->out.over : -EPIPE);
                        last_look = true;
                        r = LOOK_AGAIN;
                        continue;
                }
                if (wh_likely(!l->in.sock_ready))
                        return 0;
                r = next_frames(l, &turn);
        }
        return r;
}

/* The sender counts its cold messages. One that does not even read this is let go of, for it would wait for ever. */
static void say_taken(struct wh_link *l)
{
        if (!l->owner)
                return;
        struct wh_frame f = {.type = WH_FRAME_TAKEN, .seq = l->in.seq};
        wh_lock(&l->o.lock);
        if (!l->out.over && wh_link_frame(l, &f, NULL, 0, NULL, false) == -EAGAIN) {
                wh_os_shutdown(l->sock, SHUT_RDWR);
                l->out.over = -ENOBUFS;
        }
        wh_unlock(&l->o.lock);
}

void wh_link_took(struct wh_link *l, const struct wh_incoming *in)
{
        bool tell = in->n_items && l->in.lane; /* rights count as unread until the sender is told otherwise */
        if (wh_unlikely(l->in.items.n && in->n_items))
                wh_items_done(&l->in.items);
        switch (in->where) {
        case WH_IN_BLOCK:
                wh_records_done(l, &in->rec);
                if (wh_unlikely(wh_lane_release(l->in.lane, in->slot)))
                        wh_link_bell(l);
                break;
        case WH_IN_RECORD:
                wh_records_done(l, &in->rec);
                if (in->dropped)
                        return; /* not a message: no number (K1) */
                break;
        case WH_IN_STASH:
                if (l->in.direct) {
                        l->in.direct = false;
                        l->in.stash.bytes = NULL;
                }
                if (wh_unlikely(l->in.stash.tell))
                        say_taken(l);
                if (l->in.stash.mapped && l->in.stash.how == WHARF_HOW_DIRECT && !l->owner) {
                        l->end->window_read(l, l->in.stash.bytes, l->in.stash.room);
                        l->in.stash.mapped = false;
                        l->in.stash.bytes = NULL;
                }
                wh_stash_done(&l->in.stash);
                wh_stash_gone(l);
                if (in->dropped)
                        return;
                break;
        }
        l->in.seq++;
        if (wh_likely(!tell))
                return;
        wh_items_left(l);
        if (wh_ring_publish_taken(&l->in.lane->ring))
                wh_link_bell(l);
}

/* The number of an offer: that of its record, which was taken already where the payload was a memory of its own. */
static uint64_t offer_number(const struct wh_link *l, const struct wh_incoming *in)
{
        return in->where == WH_IN_STASH ? l->in.offer - 1 : l->in.lane->ring.records;
}

bool wh_link_still_offered(const struct wh_link *l, const struct wh_incoming *in)
{
        return wh_ring_still_offered(&l->in.lane->ring, offer_number(l, in));
}

bool wh_link_claim(struct wh_link *l, const struct wh_incoming *in)
{
        if (!wh_ring_claim(&l->in.lane->ring, offer_number(l, in)))
                return false;
        l->in.offer = 0;
        if (wh_ring_wanted(&l->in.lane->ring))
                wh_link_bell(l);
        return true;
}

void wh_link_skip(struct wh_link *l, const struct wh_incoming *in)
{
        if (l->in.items.n && in->n_items)
                wh_items_done(&l->in.items);
        l->in.offer = 0;
        if (in->where == WH_IN_STASH)
                wh_stash_done(&l->in.stash);
        else
                wh_records_done(l, &in->rec); /* a block is the sender's again already */
        wh_stash_gone(l);
}

void wh_link_hold(struct wh_link *l, const struct wh_incoming *in)
{
        l->in.lane->blocks_held++;
        wh_records_done(l, &in->rec);
        wh_items_left(l);
        l->in.seq++;
}

bool wh_link_arm(struct wh_link *l)
{
        struct wh_lane_rx *rx = l->in.lane;
        if (wh_unlikely(l->came))
                return false;
        if (!rx)
                return true; /* every frame wakes us */
        if (wh_ring_sleep(&rx->ring))
                wh_link_bell(l);
        l->in.arms++;
        l->in.armed = true;
        struct wh_rec rec;
        if (wh_ring_peek(&rx->ring, &rec) != 0 || l->in.change.due)
                return false;
        /*
         * [lane-frames] Acquire: as in wh_link_next(). And frames that were left for the others' turn: no edge will tell of
         * them again.
         */
        return !l->in.sock_ready || l->in.items.n || rx->next ||
               (!l->in.rung && atomic_load_explicit(&rx->ring.out->frames, memory_order_acquire) == l->in.frames_got);
}
