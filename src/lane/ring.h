/*
 * ring - records of variable size between one sender and one receiver, who need not trust each other.
 *
 * Why: a lock in shared memory stays locked when its holder dies. Here the sender publishes with a single store into
 * the record's own head, so death between any two instructions leaves a ring the survivor can still use, and a small
 * message moves one cache line.
 *
 * Always true while both sides are honest:
 *   R1  A record is whole exactly when its head carries the stamp of the number the receiver expects next.
 *   R2  The heads of the lines [pos, cleared) are zero: whatever an old payload looked like, the receiver never takes
 *       it for a record. The record being published ends at or before `cleared`, so its successor's place is clear
 *       before it becomes visible.
 *   R3  pos - taken_lines <= ring_lines, and cleared - taken_lines <= ring_lines.
 *   R4  Only the sender stores into `out`; only the receiver stores into `back`. Each keeps its own truth in private
 *       memory and treats the shared words as output.
 *   R5  Honest or not, the other side only makes claims: load once into a local, check, then use.
 *   R6  One line is kept in reserve: ordinary records leave it free, so that a sender can always say one last thing
 *       (a message to be sent later, the next ring) in a full ring. `usable` is the rest.
 *   R7  An offer is taken or withdrawn, never both: both sides change `claim` by compare-and-swap from OFFERED with the
 *       offer's number. The receiver claims only once it has the bytes, and delivers only what it has claimed. A sender
 *       that dies while it offers withdraws nothing: the receiver may still take it. A receiver that dies before it
 *       claims has taken nothing.
 *   R8  Positions and numbers go on when a ring is followed by another, larger or smaller: `base` is where this one
 *       began. What is unread in those before counts as unread, but takes no room here.
 *   R9  The receiver reports what it has taken, record by record, by plain stores into its own line: a sender that
 *       looks finds all its room. The receiver looks with a fence for a sender that waits only before it goes away or
 *       sleeps, and when it has seen that `want` changed; so a sender looks again for a moment before it sleeps
 *       (holder.c).
 *   R10 The sender keeps the numbers of records that are no message of their own (a part that is not the last, the next
 *       ring) until they are taken, and lets that many more records wait: `capacity` is in messages.
 *
 * Not here: sections, and making and checking the memory (lane.h); sleeping (the port layer).
 */
#ifndef WH_LANE_RING_H
#define WH_LANE_RING_H

#include "lane/layout.h"

#include <errno.h>
#include <stdbool.h>

#define WH_RING_UNBOUNDED ((uint64_t)INT64_MAX) /* a capacity */
enum { WH_RING_RUNS = 40 };

/* The sender's side; all of it private memory. */
struct wh_ring_tx {
        struct wh_out *out;
        const struct wh_back *back;
        uint8_t *ring;
        uint64_t lines;         /* size of the ring; a power of two */
        uint64_t usable;        /* R6 */
        uint64_t pos;           /* where the next record starts; counts up for ever */
        uint64_t cleared;       /* heads are zero up to here (R2) */
        uint64_t base;          /* R8 */
        uint64_t taken_lines;   /* what the receiver was last seen to have finished with; not less than base */
        uint64_t seen_lines;    /* the same, before base too */
        uint64_t taken_records; /* likewise */
        uint64_t told_records;  /* so many were taken, as was said elsewhere: wh_ring_tx_told() */
        uint64_t records;       /* published so far; the next record's number */
        uint64_t capacity;      /* records that may be unread at once: messages, and the `uncounted` (R10) */
        uint64_t uncounted;     /* of those that are unread */
        uint32_t rung;          /* the last generation of back->asleep that was rung for */
        bool broken;            /* the receiver claimed what cannot be */
        uint8_t n_runs;
        struct {
                uint64_t first, n;
        } run[WH_RING_RUNS]; /* which they are; beyond so many stretches they count as messages */
};

struct wh_ring_rx {
        const struct wh_out *out;
        struct wh_back *back;
        const uint8_t *ring;
        uint64_t lines;
        uint64_t pos;
        uint64_t records;
        uint64_t settled_lines; /* up to here the sender was told, and was looked for as one that waits (R9) */
        uint32_t generation;    /* of the last sleep */
        uint32_t want_rung;     /* the generation of back->want that was rung for, or 0 when that was 0 */
};

/* A record as its receiver found it: copied numbers, and the place of the body in shared memory. */
struct wh_rec {
        enum wh_rec_kind kind;
        uint32_t len;
        const uint8_t *body; /* read it once, with wh_shm_copy(), or in place knowing that it may change */
};

void wh_ring_tx_init(struct wh_ring_tx *tx, struct wh_out *out, const struct wh_back *back, uint64_t capacity);
/*
 * The lane follows upon others: `records` messages were numbered before it, and the receiver has yet to take the last
 * `unread` of them, which count against the capacity here. Before the lane is handed over.
 */
void wh_ring_tx_follow(struct wh_ring_tx *tx, uint64_t records, uint64_t unread);
/* Of what was numbered before the lane so many were taken, though the receiver has not come to the lane yet. */
static inline void wh_ring_tx_told(struct wh_ring_tx *tx, uint64_t records)
{
        tx->told_records = records > tx->told_records && records <= tx->records ? records : tx->told_records;
}
/* `ring_lines` was read from `out` once, and checked, by wh_lane_open(). */
void wh_ring_rx_init(struct wh_ring_rx *rx, const struct wh_out *out, struct wh_back *back, uint32_t ring_lines);

/*
 * Where the body of the next record goes: `len` bytes, at most WH_RECORD_BODY_MAX. NULL when the ring is full (by
 * records or by bytes) or broken. Writing there changes nothing until wh_ring_publish(); calling again forgets it.
 */
void *wh_ring_reserve_slow(struct wh_ring_tx *tx, uint32_t len);
static inline void *wh_ring_reserve(struct wh_ring_tx *tx, uint32_t len)
{
        uint64_t at = tx->pos & (tx->lines - 1);
        uint32_t need = wh_rec_lines(len);
        /* All in sight: room by records, the lines are clear (R2), and the record does not wrap. */
        if (wh_likely(tx->records - tx->taken_records < tx->capacity && tx->pos + need < tx->cleared &&
                      at + need <= tx->lines))
                return tx->ring + at * WH_LINE + 8;
        return wh_ring_reserve_slow(tx, len);
}

/* Clears heads up to the line `to`, as far as the receiver is done with them (R3). */
static inline void wh_ring_clear(struct wh_ring_tx *tx, uint64_t to)
{
        uint64_t limit = tx->taken_lines + tx->usable;
        if (to > limit)
                to = limit;
        while (tx->cleared < to) {
                uint64_t at = tx->cleared++ & (tx->lines - 1);
                /* Relaxed: ordered before any later record by that record's release. */
                atomic_store_explicit((_Atomic uint64_t *)(void *)(tx->ring + at * WH_LINE), 0, memory_order_relaxed);
        }
}

/*
 * Heads are cleared a stretch at a time, ahead of the records that will end there, so that the common record finds its
 * place clear; and the stretch behind is asked for from the other core's cache meanwhile, so that neither clearing nor
 * the fence behind a publication waits for it.
 */
enum { WH_RING_STRETCH = 16 };

static inline void wh_ring_clear_ahead(struct wh_ring_tx *tx)
{
        if (wh_likely(tx->cleared - tx->pos > WH_RING_STRETCH))
                return;
        wh_ring_clear(tx, tx->cleared + WH_RING_STRETCH);
        for (uint64_t i = 0; i < WH_RING_STRETCH; i++)
                wh_prefetch_write(tx->ring + ((tx->cleared + i) & (tx->lines - 1)) * WH_LINE);
}

/* Make the record that was reserved visible. From here on it will be delivered, whatever happens to the sender. */
static inline void wh_ring_publish(struct wh_ring_tx *tx, enum wh_rec_kind kind, uint32_t len)
{
        uint8_t *rec = tx->ring + (tx->pos & (tx->lines - 1)) * WH_LINE;
        /* [ring-head] Release, pairs with the acquire in wh_ring_peek(): bytes first, then the stamp. */
        atomic_store_explicit((_Atomic uint64_t *)(void *)rec, wh_rec_head(kind, len, tx->records),
                              memory_order_release);
        tx->pos += wh_rec_lines(len);
        tx->records++;
}

/*
 * Does the receiver have to be rung? Call after publishing; then wh_ring_clear_ahead(). Orders the publication before
 * looking, as the sleeper orders its announcement before its last look, so that one of the two sees the other.
 */
static inline bool wh_ring_must_ring(struct wh_ring_tx *tx)
{
        /* [lane-asleep] Full fence, pairs with the one in wh_ring_sleep(): publish, then look. */
        atomic_thread_fence(memory_order_seq_cst);
        uint32_t asleep = atomic_load_explicit(&tx->back->asleep, memory_order_relaxed);
        if (wh_likely(asleep == 0 || asleep == tx->rung))
                return false;
        tx->rung = asleep;
        return true;
}

/*
 * Of a receiver that is gone: it was rung, and never woke. So it took nothing of what it was rung for: whoever takes
 * records is awake, but for one that looks at this ring alone and without waiting.
 */
static inline bool wh_ring_never_woke(const struct wh_ring_tx *tx)
{
        /* [lane-asleep] Relaxed: the stores are those of wh_ring_sleep() and wh_ring_awake(), and the kernel has told
         * of the end of whoever made them. */
        return tx->rung != 0 && atomic_load_explicit(&tx->back->asleep, memory_order_relaxed) == tx->rung;
}

/*
 * The place for one record of at most WH_RING_KEPT_BODY bytes in the line that is kept for it, whatever the capacity
 * says. NULL when that is used already, until the receiver has read on.
 */
enum { WH_RING_KEPT_BODY = WH_LINE - 8 };
void *wh_ring_reserve_kept(struct wh_ring_tx *tx);

/* Look again at what the receiver has finished with. False when it claims the impossible: the ring is then broken. */
bool wh_ring_refresh(struct wh_ring_tx *tx);
/* Announce that the sender waits for room. Look once more after this, before sleeping. */
void wh_ring_want(struct wh_ring_tx *tx, bool waiting);
/* Upper bound of the records that were not taken. */
static inline uint64_t wh_ring_unread(const struct wh_ring_tx *tx)
{
        return tx->records - tx->taken_records - tx->uncounted;
}
/* The record just published is no message of its own (R10). */
void wh_ring_uncount(struct wh_ring_tx *tx);

/* Go on in another ring, of which nothing was used; the record that says so is the last that was published here. */
void wh_ring_tx_continue(struct wh_ring_tx *tx, struct wh_out *out);
void wh_ring_rx_continue(struct wh_ring_rx *rx, const struct wh_out *out, uint32_t ring_lines);

/* ---- offers (R7); their number is that of their record ---- */

/* Publish the record that was reserved as an offer. Its number is what tx->records was before. */
static inline void wh_ring_offer(struct wh_ring_tx *tx, uint32_t len)
{
        /* [claim] Relaxed: the release in wh_ring_publish() puts it before the record, and nobody looks earlier. */
        atomic_store_explicit((_Atomic uint64_t *)(uintptr_t)&tx->back->claim,
                              wh_claim_word(WH_CLAIM_OFFERED, tx->records), memory_order_relaxed);
        wh_ring_publish(tx, WH_REC_OFFER, len);
}

/* What a word says of that offer; 0 where no honest receiver writes it. */
static inline enum wh_claim wh_ring_claim_of(uint64_t word, uint64_t number, int *ret_refused)
{
        const enum wh_claim state = (enum wh_claim)(word & 7);
        const uint64_t err = word >> 3 & 4095;
        *ret_refused = -(int)err;
        const bool may_be = err ? state == WH_CLAIM_REFUSED : state == WH_CLAIM_OFFERED || state == WH_CLAIM_TAKEN;
        return may_be && word - (err << 3) == wh_claim_word(state, number) ? state : (enum wh_claim)0;
}

/* How it stands: OFFERED, TAKEN, REFUSED for *ret_refused, or 0. */
static inline enum wh_claim wh_ring_offer_state(const struct wh_ring_tx *tx, uint64_t number, int *ret_refused)
{
        /* [claim] Acquire, pairs with the exchange in wh_ring_claim(): its reading is over. One load (R5). */
        uint64_t word = atomic_load_explicit(&tx->back->claim, memory_order_acquire);
        return wh_ring_claim_of(word, number, ret_refused);
}

/* Take it back: WITHDRAWN, also where it was refused; TAKEN when the receiver was first; 0 as above. */
static inline enum wh_claim wh_ring_withdraw(struct wh_ring_tx *tx, uint64_t number)
{
        int refused;
        uint64_t word = wh_claim_word(WH_CLAIM_OFFERED, number);
        /* [claim] Acquire on failure: as in wh_ring_offer_state(). */
        if (atomic_compare_exchange_strong_explicit((_Atomic uint64_t *)(uintptr_t)&tx->back->claim, &word,
                                                    wh_claim_word(WH_CLAIM_WITHDRAWN, number), memory_order_acq_rel,
                                                    memory_order_acquire))
                return WH_CLAIM_WITHDRAWN;
        const enum wh_claim state = wh_ring_claim_of(word, number, &refused);
        return state == WH_CLAIM_REFUSED ? WH_CLAIM_WITHDRAWN : state;
}

/* The receiver has the bytes: may it keep them? A sender that waits for this must then be rung: wh_ring_wanted(). */
static inline bool wh_ring_claim(struct wh_ring_rx *rx, uint64_t number)
{
        uint64_t word = wh_claim_word(WH_CLAIM_OFFERED, number);
        /* [claim] Release: the bytes were read before the sender may use their place again. */
        return atomic_compare_exchange_strong_explicit(&rx->back->claim, &word, wh_claim_word(WH_CLAIM_TAKEN, number),
                                                       memory_order_acq_rel, memory_order_relaxed);
}

/* It cannot be had, for `err`, a negative errno, and may be sent in another way. */
static inline void wh_ring_refuse(struct wh_ring_rx *rx, uint64_t number, int err)
{
        uint64_t word = wh_claim_word(WH_CLAIM_OFFERED, number);
        /* [claim] Relaxed: nothing was read, and whoever sees it does nothing with what was offered. */
        atomic_compare_exchange_strong_explicit(&rx->back->claim, &word,
                                                wh_claim_word(WH_CLAIM_REFUSED, number) | (uint64_t)(-err & 4095) << 3,
                                                memory_order_relaxed, memory_order_relaxed);
}

/* Is there still a point in copying it? */
static inline bool wh_ring_still_offered(const struct wh_ring_rx *rx, uint64_t number)
{
        return atomic_load_explicit(&rx->back->claim, memory_order_relaxed) == wh_claim_word(WH_CLAIM_OFFERED, number);
}

/*
 * The next record, if one is whole. 1: *ret is it; 0: nothing yet; -EPROTO: the sender wrote what no honest sender
 * writes. Pads are skipped on the way. Looks, and changes nothing that the sender can see.
 */
static inline int wh_ring_peek(struct wh_ring_rx *rx, struct wh_rec *ret)
{
        for (;;) {
                uint64_t at = rx->pos & (rx->lines - 1);
                const uint8_t *rec = rx->ring + at * WH_LINE;
                /* [ring-head] Acquire, pairs with the release in wh_ring_publish(). One load: head and length agree. */
                uint64_t head = atomic_load_explicit((const _Atomic uint64_t *)(const void *)rec, memory_order_acquire);
                if ((uint32_t)(head >> 32) != (0x80000000u | (uint32_t)(rx->records & 0x7fffffffu)))
                        return 0;
                uint32_t len = head & 0xffff, kind = (head >> 16) & 0xffff;
                if (wh_unlikely(kind < WH_REC_PAD || kind >= WH_REC_KINDS || at + wh_rec_lines(len) > rx->lines))
                        return -EPROTO;
                if (wh_unlikely(kind == WH_REC_PAD)) {
                        /* A pad reaches exactly to the end of the ring, so that none follows another. */
                        if (at == 0 || len != 0)
                                return -EPROTO;
                        rx->pos += rx->lines - at;
                        continue;
                }
                ret->kind = (enum wh_rec_kind)kind;
                ret->len = len;
                ret->body = rec + 8;
                return 1;
        }
}

/* Call after giving room, of any kind: does the sender wait for it, and has it not been rung for this wait? */
bool wh_ring_wanted(struct wh_ring_rx *rx);
/* Tell the sender how far we are. True when it waits for room and must be rung. */
bool wh_ring_publish_taken(struct wh_ring_rx *rx);

/* Finished with the record that wh_ring_peek() gave. True when the sender must be rung, since it waits for room. */
static inline bool wh_ring_advance(struct wh_ring_rx *rx, const struct wh_rec *rec)
{
        rx->pos += wh_rec_lines(rec->len);
        rx->records++;
        /* [ring-taken] Release, pairs with the acquire in wh_ring_refresh(): we have read, now it may be overwritten.
         */
        atomic_store_explicit(&rx->back->taken_records, rx->records, memory_order_release);
        atomic_store_explicit(&rx->back->taken_lines, rx->pos, memory_order_release);
        /* Relaxed, and a hint (R9): a line that the sender writes seldom, and no fence behind every record. */
        if (wh_likely(atomic_load_explicit(&rx->back->want, memory_order_relaxed) == rx->want_rung))
                return false;
        return wh_ring_publish_taken(rx);
}

/* The receiver found nothing and goes away without sleeping. True when the sender must be rung. */
static inline bool wh_ring_idle(struct wh_ring_rx *rx)
{
        return rx->settled_lines != rx->pos && wh_ring_publish_taken(rx);
}

/*
 * Announce sleep; the caller must look (peek) once more afterwards, and may sleep only if there is nothing. True when
 * the sender waits for room and must be rung.
 */
bool wh_ring_sleep(struct wh_ring_rx *rx);
/* Awake again, without having been rung. */
static inline void wh_ring_awake(struct wh_ring_rx *rx)
{
        /* Relaxed: a late reader only rings for nothing. */
        atomic_store_explicit(&rx->back->asleep, 0, memory_order_relaxed);
}

#endif
