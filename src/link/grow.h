/*
 * grow - what a sender makes to have room, and how it is counted: the lane, its sections, a larger ring.
 *
 * A queue ends by the messages and bytes that the port allows, and not by the memory that there is: a ring that is full is
 * followed by a larger one, and what finds no block goes into that; always where the queue is unbounded, and otherwise for a
 * sender that would have to sleep or give up although its queue has a place. All of it is the sender's memory, within what
 * the receiver maps; under the sending guard.
 */
#ifndef WH_LINK_GROW_H
#define WH_LINK_GROW_H

#include "link/link.h"

enum {
        WH_SECTION_BYTES = 64 << 10,     /* the smallest section */
        WH_SECTION_BLOCKS = 16,          /* the first section holds so many payloads of the size that needs it */
        WH_SECTION_BLOCKS_BUSY = 64,     /* ... and a link that keeps running out, so many, */
        WH_SECTION_BYTES_BUSY = 4 << 20, /* up to this */
        WH_WITHDRAWN_MAX = 16,           /* offers withdrawn, and not passed over by the receiver yet */
        WH_RING_LINES = 2048,            /* of the ring of a port of the default capacity */
};

/*
 * A lane stays what it was made as, whatever a later greeting claims: only in a ring that began as an unbounded one are
 * there places that do not end by count.
 */
static inline bool wh_link_unbounded(const struct wh_link *l)
{
        if (l->out.lane)
                return l->out.lane->ring.capacity == WH_RING_UNBOUNDED;
        return l->hello.capacity_records == WHARF_UNBOUNDED && !l->owner;
}

/* Has the queue a place, though no memory for one now, and may that be made? Not inside a message in pieces. */
bool wh_link_may_grow(const struct wh_link *l);
/* When little is unread any more, a burst is not paid for longer. Now and then, with the receiver's numbers fresh. */
void wh_link_shrink(struct wh_link *l);

/* Why there is no room in the lane: -EAGAIN, or -EPROTO where its receiver has lied about it, which ends sending. */
int wh_link_no_room(struct wh_link *l);
void *wh_link_reserve_full(struct wh_link *l, uint32_t len, int *err);
/* Where the body of the next record goes; NULL, and the reason in *err. */
static inline void *wh_link_reserve(struct wh_link *l, uint32_t len, int *err)
{
        void *body = wh_likely(len <= WH_RECORD_BODY_MAX) ? wh_ring_reserve(&l->out.lane->ring, len) : NULL;
        return wh_likely(body) ? body : wh_link_reserve_full(l, len, err);
}

/* Has the queue room for so many bytes? Those that fit nowhere go when they are alone. */
bool wh_link_bytes_fit_slow(struct wh_link *l, uint64_t len);
static inline bool wh_link_bytes_fit(struct wh_link *l, uint64_t len)
{
        return len <= WHARF_SMALL_MAX || wh_link_bytes_fit_slow(l, len);
}
/* The record just published carries so many. */
void wh_link_bytes_sent_slow(struct wh_link *l, uint64_t len);
static inline void wh_link_bytes_sent(struct wh_link *l, uint64_t len)
{
        if (len > WHARF_SMALL_MAX)
                wh_link_bytes_sent_slow(l, len);
}

#endif
