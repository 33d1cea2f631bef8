/*
 * The ways out: what is due before a message, the choice of its way (choose.h), and each way.
 *
 * Every way first makes sure of its place and only then does what cannot be taken back (record.h), so -EAGAIN changes
 * nothing but o->done, the progress of a message in parts.
 */
#include "link/choose.h"
#include "link/cold.h"
#include "link/direct.h"
#include "link/grow.h"
#include "link/record.h"
#include "link/wire.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>

enum {
        WH_PROBE_EVERY = 8, /* messages between two looks at the clock */
        PIECE_BYTES_MAX = WH_RECORD_BODY_MAX - sizeof(struct wh_rec_ext) - sizeof(uint64_t),
};

/* ---- after a record ---- */

static __attribute__((noinline)) void tx_ring(struct wh_link *l)
{
        wh_link_bell(l);
        /* [lane-renew] Relaxed: a hint; the frame itself says it. Pairs with the store in owner_renew(). */
        uint32_t renew = atomic_load_explicit(&l->out.lane->ring.back->renew, memory_order_relaxed);
        if (renew != l->out.renew_seen && !l->owner && !l->in.leader && wh_link_heed_few(l))
                l->out.renew_seen = renew;
}

/* After a record was published: ring if the receiver sleeps. Inlined, for this is on the way of every message. */
static inline __attribute__((always_inline)) int tx_published(struct wh_link *l)
{
        struct wh_ring_tx *ring = &l->out.lane->ring;
        if (wh_unlikely(wh_ring_must_ring(ring)))
                tx_ring(l);
        wh_ring_clear_ahead(ring);
        return l->out.over;
}

/*
 * The receiver was found to be gone when the message was in its queue already. To fail is to say that nobody has it,
 * and may be answered by sending it to somebody else; what may have been taken was sent, and its loss is counted.
 */
static __attribute__((noinline)) int tx_unheard(struct wh_link *l)
{
        return wh_ring_never_woke(&l->out.lane->ring) ? l->out.over : 0;
}

static __attribute__((noinline)) void tx_look(struct wh_link *l)
{
        if (wh_link_probe(l, false) && !l->owner && !l->out.over)
                wh_link_shrink(l);
}

/* After a message was published. */
static inline __attribute__((always_inline)) int tx_done(struct wh_link *l)
{
        l->out.seq++;
        struct wh_out *out = l->out.lane->ring.out;
        atomic_store_explicit(&out->sent_messages, l->out.seq, memory_order_relaxed);
        if (wh_unlikely(l->out.seq % WH_PROBE_EVERY == 0))
                tx_look(l);
        return wh_unlikely(tx_published(l) < 0) ? tx_unheard(l) : 0;
}

static inline __attribute__((always_inline)) int tx_sent(struct wh_link *l, struct wh_outgoing *o, enum wharf_how how)
{
        o->how = how;
        return tx_done(l);
}

/* ---- offers: where the port's capacity is zero, and direct transfers ---- */

/* It counts, also where the receiver has ended since. */
static int offer_taken(struct wh_link *l)
{
        l->out.lane->offered = -1;
        l->out.offer = 0;
        l->out.seq++;
        atomic_store_explicit(&l->out.lane->ring.out->sent_messages, l->out.seq, memory_order_relaxed);
        return 0;
}

/*
 * What became of it. The message was published with a claim word that says that it is offered, which the receiver changes
 * when it takes it, or we when we give up. Its block stays ours until it is taken. -EAGAIN for as long as the offer stands;
 * 1: it was refused, and goes another way. What was taken counts, also where the receiver has ended since.
 */
static int offer_look(struct wh_link *l, struct wh_outgoing *o)
{
        int refused;
        const enum wh_claim c = wh_ring_offer_state(&l->out.lane->ring, l->out.offer - 1, &refused);
        if (c == WH_CLAIM_OFFERED)
                return l->out.over ? l->out.over : l->over ? l->over : -EAGAIN;
        if (c == WH_CLAIM_TAKEN)
                return offer_taken(l);
        l->out.lane->offered = -1;
        if (c != WH_CLAIM_REFUSED || o->asked != WHARF_HOW_DIRECT) {
                l->out.lane->ring.broken = true;
                return wh_link_no_room(l);
        }
        l->out.offer = 0;
        o->started = false;
        if (refused == -EFAULT)
                return refused; /* what cannot be read cannot be copied either */
        l->out.direct_refused = refused;
        o->asked = WHARF_HOW_AUTO;
        return 1;
}

int wh_link_withdraw(struct wh_link *l, struct wh_outgoing *o, int err)
{
        switch (wh_ring_withdraw(&l->out.lane->ring, l->out.offer - 1)) {
        case WH_CLAIM_TAKEN:
                return offer_taken(l); /* the word is not loaded a second time */
        case WH_CLAIM_WITHDRAWN:
                break;
        default:
                l->out.lane->ring.broken = true;
                err = wh_link_no_room(l);
        }
        l->out.offer = 0;
        o->started = false;
        if (l->out.offer_slot >= 0 && l->out.lane->offered < 0) { /* given back as taken, and not taken after all */
                l->out.lane->ring.broken = true;
                return wh_link_no_room(l);
        }
        l->out.lane->offered = -1;
        if (l->out.offer_slot >= 0) {
                wh_lane_slot_unsent(l->out.lane, (uint16_t)l->out.offer_slot);
                if (o->slot < 0)
                        wh_lane_unlend(l->out.lane, (uint16_t)l->out.offer_slot);
        }
        return err;
}

static int offer(struct wh_link *l, struct wh_outgoing *o, const struct wh_record *p, enum wharf_how how)
{
        wh_link_items_sent(l, p->n_items);
        wh_record_offer(l, o, p);
        o->started = true;
        o->how = how;
        tx_published(l);
        return -EAGAIN;
}

/* ---- the ways ---- */

/* A message in one record. */
static inline __attribute__((always_inline)) int send_record(struct wh_link *l, struct wh_outgoing *o,
                                                             enum wh_rec_kind kind, enum wharf_how how,
                                                             uint32_t *ret_lacks)
{
        struct wh_record p = wh_record_of(o, kind);
        p.kept = o->kept;
        int r = wh_record_place(l, o, &p, ret_lacks);
        if (wh_unlikely(r < 0))
                return r;
        if (wh_unlikely(l->out.detour & WH_DETOUR_OFFER) && !p.kept)
                return offer(l, o, &p, how);
        wh_record_commit(l, o, &p);
        wh_link_items_sent(l, p.n_items);
        o->items_gone = p.n_items > 0;
        return tx_sent(l, o, how);
}

static int send_inline(struct wh_link *l, struct wh_outgoing *o, uint32_t *ret_lacks)
{
        return send_record(l, o, WH_REC_INLINE, WHARF_HOW_INLINE, ret_lacks);
}

static int send_block(struct wh_link *l, struct wh_outgoing *o, uint32_t *ret_lacks)
{
        return send_record(l, o, WH_REC_BLOCK, WHARF_HOW_SECTION, ret_lacks);
}

/* A message in as many records as it takes, each with so many bytes: none is a message of its own but the last. */
static int send_parts(struct wh_link *l, struct wh_outgoing *o, enum wh_rec_kind kind, uint64_t each,
                      uint32_t *ret_lacks)
{
        while (o->done < o->len) {
                struct wh_record p = wh_record_of(o, kind);
                p.at = o->done;
                p.len = o->len - o->done < each ? o->len - o->done : each;
                int r = wh_record_place(l, o, &p, ret_lacks);
                if (r < 0)
                        return r;
                wh_record_commit(l, o, &p);
                o->done += p.len;
                o->started = true;
                l->out.grow = WH_GROW_NOT;
                if (o->done == o->len)
                        break;
                wh_ring_uncount(&l->out.lane->ring);
                if ((r = tx_published(l)) < 0)
                        return r;
        }
        wh_link_items_sent(l, o->n_items);
        o->items_gone = o->n_items > 0;
        return tx_sent(l, o, WHARF_HOW_CHUNKS);
}

/* An offer to read the payload where it is. */
static int send_direct(struct wh_link *l, struct wh_outgoing *o)
{
        struct wh_record p = {.kind = WH_REC_DIRECT, .at = (uintptr_t)o->data, .len = o->len, .slot = -1};
        uint32_t lacks = 0;
        int r = wh_record_place(l, o, &p, &lacks);
        return r < 0 ? r : offer(l, o, &p, WHARF_HOW_DIRECT);
}

/*
 * A reply, straight into the memory that the caller has set apart for it; and the record that says so, only then (D2).
 * 1, and why in l->out.reply_refused: it has to go another way.
 */
static int send_written(struct wh_link *l, struct wh_outgoing *o)
{
        struct wh_record p = wh_record_of(o, WH_REC_DIRECT);
        uint32_t lacks = 0;
        int r = wh_record_reserve(l, &p);
        if (r < 0)
                return r;
        p.at = o->window_at;
        r = wh_direct_write(l, p.at, o->data, o->len);
        if (r < 0) {
                l->out.reply_refused = -r;
                o->asked = WHARF_HOW_AUTO;
                return 1;
        }
        r = wh_record_place(l, o, &p, &lacks);
        if (r < 0)
                return r;
        wh_record_commit(l, o, &p);
        wh_link_items_sent(l, o->n_items);
        o->items_gone = o->n_items > 0;
        return tx_sent(l, o, WHARF_HOW_DIRECT);
}

/* A record that is no message, so it has no number (K1). */
static int send_aside(struct wh_link *l, struct wh_outgoing *o, struct wh_record *p)
{
        uint32_t lacks = 0;
        int r = wh_record_place(l, o, p, &lacks);
        if (r < 0)
                return r;
        wh_record_commit(l, o, p);
        if (p->kind != WH_REC_DROPPED)
                wh_ring_uncount(&l->out.lane->ring);
        return tx_published(l);
}

/* Where the reply to a request that follows may be written. */
static int send_window(struct wh_link *l, struct wh_outgoing *o)
{
        struct wh_record p = {.kind = WH_REC_WINDOW, .at = (uintptr_t)o->data, .len = o->window_at, .slot = -1};
        int r = l->out.lane || l->once || l->out.no_lane ? 0 : wh_link_attach(l);
        if (r < 0)
                return r;
        return l->out.lane ? send_aside(l, o, &p) : -EOPNOTSUPP;
}

static int send_dropped(struct wh_link *l, struct wh_outgoing *o)
{
        if (!l->out.lane) {
                struct wh_frame f = {.type = WH_FRAME_DROPPED, .call = o->call, .arg = (uint32_t)o->dropped};
                return wh_link_frame(l, &f, NULL, 0, NULL, false);
        }
        struct wh_record p = {.kind = WH_REC_DROPPED, .slot = -1};
        return send_aside(l, o, &p);
}

/* The receiver drops what it has of a message that was given up. */
static int send_abort(struct wh_link *l)
{
        int r = 0;
        if (l->out.lane) { /* a cold message that begins says as much */
                struct wh_outgoing nothing;
                struct wh_record p = {.kind = WH_REC_ABORT, .slot = -1};
                wh_outgoing_init(&nothing, NULL, 0);
                r = send_aside(l, &nothing,
                               &p); /* it may have taken the last place: what follows waits for a receiver */
                if (r < 0 && !l->out.over)
                        return r;
        }
        l->out.detour &= (uint8_t)~WH_DETOUR_ABORT;
        return r;
}

/* ---- the choice ---- */

static uint32_t facts_of(const struct wh_link *l, const struct wh_outgoing *o)
{
        static const uint32_t asked[WH_HOWS] = {
                [WHARF_HOW_AUTO] = WH_IF_AUTO,       [WHARF_HOW_INLINE] = WH_IF_INLINE,
                [WHARF_HOW_SECTION] = WH_IF_SECTION, [WHARF_HOW_CHUNKS] = WH_IF_CHUNKS,
                [WHARF_HOW_MEMORY] = WH_IF_MEMORY,   [WHARF_HOW_DIRECT] = WH_IF_DIRECT,
        };
        uint32_t f = wh_length_facts(o->len) | asked[o->asked] | (l->owner ? WH_IF_OWNER : 0) |
                     (o->slot >= 0 ? WH_IF_LENT : 0) | (o->started ? WH_IF_BEGUN : 0) | (o->whole ? WH_IF_WHOLE : 0) |
                     (o->kept ? WH_IF_KEPT : 0) | (wh_link_unbounded(l) ? WH_IF_UNBOUNDED : 0);
        if (wh_likely(l->out.lane))
                return f | WH_IF_LANE | (l->out.detour & WH_DETOUR_OFFER ? WH_IF_OFFERS : 0);
        return f | (l->once ? WH_IF_ONCE : 0) | (wh_cold_full(l) ? WH_IF_FULL : 0) |
               (wh_cold_will_do(l, o) ? WH_IF_FRAMES : 0);
}

/* `r` of this way, for a message: what the caller is to know, or 1 with another fact in *lacks. */
static int send_way(struct wh_link *l, struct wh_outgoing *o, enum wh_way way, uint32_t *ret_lacks)
{
        int r;
        switch (way) {
        case WH_WAY_ATTACH:
                r = wh_link_attach(l);
                *ret_lacks = r == 0 && !l->out.lane ? WH_IF_TRIED : 0;
                return r < 0 ? r : 1;
        case WH_WAY_COLD:
                return wh_cold_send(l, o);
        case WH_WAY_INLINE:
                return send_inline(l, o, ret_lacks);
        case WH_WAY_BLOCK:
                return send_block(l, o, ret_lacks);
        case WH_WAY_CHUNKS:
                return send_parts(l, o, WH_REC_CHUNK, WH_CHUNK, ret_lacks);
        case WH_WAY_PIECES:
                return send_parts(l, o, WH_REC_PIECE, PIECE_BYTES_MAX, ret_lacks);
        case WH_WAY_MEMORY:
                return l->out.lane ? send_record(l, o, WH_REC_MEMORY, WHARF_HOW_MEMORY, ret_lacks)
                                   : wh_cold_send_memory(l, o, ret_lacks);
        case WH_WAY_DIRECT:
                return send_direct(l, o);
        case WH_WAY_WRITTEN:
                return send_written(l, o);
        case WH_WAY_WAIT:
                return wh_link_no_room(l);
        default:
                return -EOPNOTSUPP;
        }
}

/* Choose, place, commit; and where that way is not to be had, once more with what is known now. */
static int send_chosen(struct wh_link *l, struct wh_outgoing *o, uint32_t lacks)
{
        int why = lacks & WH_IF_NO_QUOTA ? -EDQUOT : -EOPNOTSUPP;
        lacks |= o->forbidden ? WH_IF_NO_SHARED : 0;
        for (;;) {
                uint32_t facts = facts_of(l, o) | lacks, more = 0;
                if (lacks & WH_IF_NO_BLOCK && wh_link_may_grow(l))
                        facts |= WH_IF_GROWS;
                const enum wh_way way = wh_choose(facts);
                if (way == WH_WAY_NONE)
                        return why;
                if (wh_unlikely(o->asked == WHARF_HOW_DIRECT) && way != WH_WAY_DIRECT && way != WH_WAY_WRITTEN &&
                    way != WH_WAY_ATTACH) {
                        o->asked = WHARF_HOW_AUTO;
                        if (l->owner)
                                l->out.reply_refused = EOPNOTSUPP;
                }
                int r = send_way(l, o, way, &more);
                if (r == -EAGAIN && way == WH_WAY_MEMORY && facts & (WH_IF_NO_BLOCK | WH_IF_NO_QUOTA) &&
                    facts & WH_IF_UNBOUNDED)
                        return -ENOBUFS;
                if (wh_likely(r <= 0 && !(more & ~lacks)))
                        return r;
                lacks |= more;
                if (r < 0)
                        why = wh_forbidden(r) ? -EOPNOTSUPP : r;
                o->forbidden |= (more & WH_IF_NO_SHARED) != 0;
        }
}

int wh_link_send_kept(struct wh_link *l, struct wh_outgoing *o)
{
        o->kept = true;
        int r = send_chosen(l, o, 0);
        o->kept = false;
        return r;
}

/* ---- before a message ---- */

static int items_allowed(struct wh_link *l, const struct wh_outgoing *o)
{
        unsigned max = l->greeted ? l->hello.unread_rights_max : WHARF_ITEMS_MAX;
        if (o->n_items == 0 || o->items_sent || l->out.items_unread + o->n_items <= max)
                return 0;
        if (l->out.lane) {
                wh_ring_refresh(&l->out.lane->ring);
                if (l->out.lane->ring.taken_records >= l->out.items_record)
                        l->out.items_unread = 0;
        } else if (wh_os_unread(l->sock) == 0) {
                l->out.items_unread = 0; /* every frame was read */
        }
        if (l->out.items_unread + o->n_items <= max)
                return 0;
        /* Nobody may be there to read them any more, and this is all that the sender ever tries. */
        wh_link_probe(l, true);
        if (l->out.over)
                return l->out.over;
        return l->out.detour & WH_DETOUR_OFFER && o->n_items <= max ? -EAGAIN
                                                                    : -ETOOMANYREFS; /* those were withdrawn */
}

/* Are the memories beside the payload as a whole what the port takes? */
static int beside_allowed(const struct wh_link *l, const struct wh_outgoing *o)
{
        uint64_t sum = 0;
        struct stat st;
        for (unsigned i = 0; i < o->n_items; i++) {
                if (o->kind[i] != WH_ITEM_BESIDE)
                        continue;
                int r = wh_os_fstat(o->fd[i], &st);
                if (r < 0)
                        return wh_trace(r);
                sum += (uint64_t)st.st_size;
        }
        return sum && l->greeted && !l->owner && sum > l->hello.payload_bytes_max ? -EMSGSIZE : 0;
}

/*
 * What is to be done, or to be known, before `o`: 0, or why it cannot go. Where an offer of it stands, what became of that:
 * then *ret_done.
 */
static int prepare(struct wh_link *l, struct wh_outgoing *o, bool *ret_done)
{
        int r;
        *ret_done = false;
        if (l->out.offer && o->started) {
                r = offer_look(l, o);
                *ret_done = r <= 0;
                if (*ret_done)
                        return r;
        }
        if (!l->out.lane && !o->started)
                wh_link_heed_cold(l);
        r = l->out.over ? l->out.over : l->owner ? 0 : l->over; /* who has said all may be answered */
        if (r < 0)
                return r;
        if (l->out.detour & WH_DETOUR_RENEW && (r = l->end->renew(l)) < 0)
                return r;
        if (l->out.detour & WH_DETOUR_ABORT && !o->started && (r = send_abort(l)) < 0)
                return r;
        if (o->dropped)
                return 0;
        if (!o->started && (r = wh_link_rebind(l)) < 0)
                return r;
        if (l->once)
                wh_link_greeted(l); /* what its port takes, where a port made it; it has no rebind that would ask */
        if (l->greeted && !l->owner && o->len > l->hello.payload_bytes_max)
                return -EMSGSIZE;
        if ((r = items_allowed(l, o)) < 0 || (r = beside_allowed(l, o)) < 0)
                return r;
        if (l->out.lane || o->started)
                return 0;
        if (wh_unlikely(o->asked == WHARF_HOW_COLD && wh_cold_capacity(l) == 0))
                return -EOPNOTSUPP; /* what is offered can be withdrawn, and a frame cannot */
        if (l->out.no_lane && l->out.cold_sent % 64 == 63)
                l->out.no_lane = false; /* what was short then may not be now */
        if (wh_cold_full(l) ||
            (l->out.seq - l->out.cold_taken >= WH_COLD_UNTOLD && wh_cold_capacity(l) <= WH_COLD_COUNTED))
                wh_link_heed(l); /* a greeting, and what was taken */
        /* Also where a lane could be made: its frame is behind what is unread. */
        return wh_cold_full(l) && wh_cold_capacity(l) ? -EAGAIN : 0;
}

int wh_link_send_plain(struct wh_link *l, const void *data, uint64_t len)
{
        if (wh_unlikely(!l->out.lane || (l->out.over | l->over) || l->out.detour | l->out.busy | l->once ||
                        len > WHARF_INLINE_MAX || (l->greeted && len > l->hello.payload_bytes_max)))
                return -EAGAIN;
        void *body = wh_ring_reserve(&l->out.lane->ring, (uint32_t)len);
        if (wh_unlikely(!body))
                return -EAGAIN;
        wh_shm_copy(body, data, len);
        wh_ring_publish(&l->out.lane->ring, WH_REC_PLAIN, (uint32_t)len);
        return tx_done(l);
}

/* One of many, published and not told of. */
static inline int send_quietly(struct wh_link *l, const struct wh_bytes *b)
{
        if (b->id == 0 && b->len <= WHARF_INLINE_MAX) {
                void *body = wh_ring_reserve(&l->out.lane->ring, (uint32_t)b->len);
                if (wh_unlikely(!body))
                        return -EAGAIN;
                wh_shm_copy(body, b->data, b->len);
                wh_ring_publish(&l->out.lane->ring, WH_REC_PLAIN, (uint32_t)b->len);
                return 0;
        }
        struct wh_outgoing o;
        uint32_t lacks = 0;
        wh_outgoing_init(&o, b->data, b->len);
        o.id = b->id;
        struct wh_record p = wh_record_of(&o, b->len <= WHARF_INLINE_MAX ? WH_REC_INLINE : WH_REC_BLOCK);
        int r = wh_record_place(l, &o, &p, &lacks);
        if (r == 0)
                wh_record_commit(l, &o, &p);
        return r;
}

int wh_link_send_many(struct wh_link *l, const struct wh_bytes *b, unsigned n)
{
        unsigned done = 0;
        if (wh_unlikely(!l->out.lane || (l->out.over | l->over) || l->out.detour | l->out.busy | l->once))
                return 0;
        while (done < n && b[done].len <= WHARF_IN_PLACE_MAX &&
               (!l->greeted || b[done].len <= l->hello.payload_bytes_max) && send_quietly(l, &b[done]) == 0)
                done++;
        if (done == 0)
                return 0;
        l->out.seq += done;
        atomic_store_explicit(&l->out.lane->ring.out->sent_messages, l->out.seq, memory_order_relaxed);
        if (wh_unlikely(l->out.seq % WH_PROBE_EVERY < done))
                tx_look(l);
        return wh_unlikely(tx_published(l) < 0 && tx_unheard(l) < 0) ? l->out.over : (int)done;
}

int wh_link_send_lent(struct wh_link *l, uint32_t id, uint16_t slot, uint64_t len)
{
        if (wh_unlikely(l->out.over | l->over || l->out.busy || l->out.detour))
                return -EAGAIN;
        struct wh_outgoing o;
        uint32_t lacks = 0;
        wh_outgoing_init(&o, NULL, len);
        o.id = id;
        o.slot = slot;
        struct wh_record p = wh_record_of(&o, WH_REC_BLOCK);
        if (wh_unlikely(wh_record_place(l, &o, &p, &lacks) < 0))
                return -EAGAIN;
        wh_record_commit(l, &o, &p);
        return tx_done(l);
}

int wh_link_try_send(struct wh_link *l, struct wh_outgoing *o)
{
        const bool bytes_only =
                !(o->n_items | o->id | o->call | (unsigned)o->dropped) && o->asked == WHARF_HOW_AUTO && o->slot < 0;
        int r = bytes_only ? wh_link_send_plain(l, o->data, o->len) : -EAGAIN;
        uint32_t lacks = 0;
        if (r != -EAGAIN) {
                o->how = WHARF_HOW_INLINE;
                return r;
        }
        l->out.sock_full = false;
        /* The next common ones: no descriptors, nothing asked for, on an attached lane. */
        if (wh_likely(l->out.lane && !(l->out.over | l->over | (int)o->n_items | o->dropped) &&
                      o->asked == WHARF_HOW_AUTO && o->len <= WHARF_IN_PLACE_MAX && o->slot < 0 && !l->out.detour &&
                      !o->started && (l->owner || o->len <= l->hello.payload_bytes_max))) {
                r = o->len <= WHARF_INLINE_MAX ? send_inline(l, o, &lacks) : send_block(l, o, &lacks);
                if (wh_likely(!lacks))
                        return r;
        }
        bool done;
        r = prepare(l, o, &done);
        if (r < 0 || done)
                return r;
        return o->dropped                  ? send_dropped(l, o)
               : o->asked == WH_HOW_WINDOW ? send_window(l, o)
                                           : send_chosen(l, o, lacks);
}

/* ---- a full queue ---- */

bool wh_link_full(struct wh_link *l)
{
        if (l->out.over || l->over)
                return false; /* sending would not wait, though it would fail */
        if (!l->out.lane)
                return wh_cold_full(l);
        struct wh_ring_tx *ring = &l->out.lane->ring;
        if (!wh_ring_refresh(ring) || wh_link_unbounded(l))
                return false;
        return ring->records - ring->taken_records >= ring->capacity ||
               (ring->pos + 2 - ring->taken_lines > ring->usable && l->out.grow_refused);
}
