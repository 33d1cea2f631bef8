/*
 * record - a message, or a part of one, in the lane: placed first, then committed.
 *
 *   place     everything that can fail: its lines in the ring; its bytes in a block or in a memory of their own, where they
 *             are not to lie in the record; its descriptors, on the socket
 *   commit    the record is written and published; nothing fails any more
 *
 * Always true:
 *   E1  A record that could not be placed has changed nothing, so the same message can be tried again, or go another way.
 *   E2  From its publication on, its block is the receiver's and its descriptors are out of this process's hands, but for an
 *       offer, where both become so when it is taken.
 */
#ifndef WH_LINK_RECORD_H
#define WH_LINK_RECORD_H

#include "link/choose.h"
#include "link/grow.h"

#include <errno.h>

struct wh_record {
        enum wh_rec_kind kind;
        bool kept;    /* in the line that every ring keeps (ring.R6) */
        bool lent;    /* `slot` was lent for this record */
        int slot;     /* the block with its bytes, or -1 */
        uint64_t at;  /* of the payload, from here, */
        uint64_t len; /* ... so many bytes. DIRECT and WINDOW: an address, and how much lies there */
        unsigned n_items;
        uint8_t *body;
        uint32_t body_len;
};

/* All of `o` in one record of that kind. */
static inline struct wh_record wh_record_of(const struct wh_outgoing *o, enum wh_rec_kind kind)
{
        return (struct wh_record){.kind = kind, .len = o->len, .slot = o->slot, .n_items = o->n_items};
}

/* The ITEMS frame of the next record: `n` descriptors. */
int wh_record_items(struct wh_link *l, struct wh_outgoing *o, unsigned n);
/* So many descriptors went with the message, and are unread. */
static inline void wh_link_items_sent(struct wh_link *l, unsigned n)
{
        if (n == 0)
                return;
        l->out.items_unread += n;
        l->out.items_record = l->out.lane ? l->out.lane->ring.records : 0;
}
/* No block is to be had for its bytes, for `r`; as wh_record_place(). */
int wh_record_blockless(struct wh_link *l, const struct wh_record *p, int r, uint32_t *ret_lacks);
/*
 * The payload as a memory of its own, and the last of the message's descriptors: o->fd[o->n_items]. With wh_payload_sent(),
 * where `r` is what became of sending it, that is closed again.
 */
int wh_payload_memory(struct wh_link *l, struct wh_outgoing *o, uint32_t *ret_lacks);
int wh_payload_sent(struct wh_link *l, struct wh_outgoing *o, int r, uint32_t *ret_lacks);

/* ---- placing; inline, for where the kind is known there is little left ---- */

static inline uint32_t wh_record_body_len(const struct wh_record *p)
{
        switch (p->kind) {
        case WH_REC_INLINE:
                return (uint32_t)(sizeof(struct wh_rec_ext) + p->len);
        case WH_REC_PIECE:
                return (uint32_t)(sizeof(struct wh_rec_ext) + sizeof(uint64_t) + p->len);
        case WH_REC_BLOCK:
        case WH_REC_CHUNK:
        case WH_REC_MEMORY:
                return sizeof(struct wh_rec_ext) + sizeof(struct wh_rec_block);
        case WH_REC_DIRECT:
        case WH_REC_WINDOW:
                return sizeof(struct wh_rec_ext) + sizeof(struct wh_rec_direct);
        default:
                return sizeof(struct wh_rec_ext);
        }
}

/* Does its length count against the queue's bytes, and was it not counted when it began? */
static inline bool wh_record_counts(const struct wh_record *p)
{
        return !p->kept && (p->kind == WH_REC_INLINE || p->kind == WH_REC_BLOCK || p->kind == WH_REC_CHUNK ||
                            p->kind == WH_REC_MEMORY);
}

/* Its lines alone, with nothing in them: again, or forgotten. 0, or as wh_record_place(). */
static inline int wh_record_reserve(struct wh_link *l, struct wh_record *p)
{
        int r = 0;
        p->body_len = wh_record_body_len(p);
        if (wh_unlikely(wh_record_counts(p) && !wh_link_bytes_fit(l, p->len)))
                return wh_link_no_room(l);
        if (wh_unlikely(p->kept))
                return (p->body = wh_ring_reserve_kept(&l->out.lane->ring)) ? 0 : wh_link_no_room(l);
        p->body = wh_link_reserve(l, p->body_len, &r);
        return wh_likely(p->body) ? 0 : r;
}

/*
 * 0; -EAGAIN: there is no room now; otherwise it cannot be sent so, and where another way may be had, *ret_lacks is the fact
 * (choose.h) for which.
 */
static inline __attribute__((always_inline)) int wh_record_place(struct wh_link *l, struct wh_outgoing *o,
                                                                 struct wh_record *p, uint32_t *ret_lacks)
{
        int r = wh_record_reserve(l, p);
        if (wh_unlikely(r < 0)) {
                if (r == -EAGAIN && l->owner)
                        *ret_lacks = WH_IF_NO_ROOM;
                return r;
        }
        if ((p->kind == WH_REC_BLOCK || p->kind == WH_REC_CHUNK) && p->slot < 0) {
                uint16_t slot;
                void *mem;
                r = wh_link_lend(l, p->len, &slot, &mem);
                if (wh_unlikely(r < 0))
                        return wh_record_blockless(l, p, r, ret_lacks);
                wh_shm_copy(mem, (const uint8_t *)o->data + p->at, p->len);
                p->slot = slot;
                p->lent = true;
        } else if (p->kind == WH_REC_MEMORY) {
                r = wh_payload_memory(l, o, ret_lacks);
                if (r < 0)
                        return r;
                p->n_items = o->n_items + 1;
        }
        if (wh_unlikely(p->n_items) && !o->items_sent)
                r = wh_record_items(l, o, p->n_items);
        if (p->kind == WH_REC_MEMORY)
                r = wh_payload_sent(l, o, r, ret_lacks);
        if (wh_unlikely(r < 0) && p->lent)
                wh_lane_unlend(l->out.lane, (uint16_t)p->slot);
        return r;
}

/* ---- committing ---- */

static inline __attribute__((always_inline)) void wh_record_fill(struct wh_link *l, const struct wh_outgoing *o,
                                                                 const struct wh_record *p, struct wh_rec_ext ext)
{
        uint8_t *body = p->body;
        const uint8_t *bytes = p->len ? (const uint8_t *)o->data + p->at : NULL;
        wh_shm_copy(body, &ext, sizeof ext);
        body += sizeof ext;
        switch (p->kind) {
        case WH_REC_PIECE:
                wh_shm_copy(body, &o->len, sizeof o->len);
                wh_shm_copy(body + sizeof o->len, bytes, p->len);
                return;
        case WH_REC_INLINE:
                wh_shm_copy(body, bytes, p->len);
                return;
        case WH_REC_BLOCK:
        case WH_REC_CHUNK:
        case WH_REC_MEMORY: {
                struct wh_rec_block block = {.len = o->len, .total = o->len};
                if (p->kind != WH_REC_MEMORY) {
                        block = wh_lane_block(l->out.lane, (uint16_t)p->slot, p->len, o->len);
                        wh_lane_slot_sent(l->out.lane, (uint16_t)p->slot);
                }
                wh_shm_copy(body, &block, sizeof block);
                return;
        }
        case WH_REC_DIRECT:
        case WH_REC_WINDOW: {
                const struct wh_rec_direct d = {.at = p->at, .len = p->len};
                wh_shm_copy(body, &d, sizeof d);
                return;
        }
        default:
                return;
        }
}

static inline struct wh_rec_ext wh_record_ext(const struct wh_link *l, const struct wh_outgoing *o, unsigned n_items)
{
        return (struct wh_rec_ext){
                .id = o->id, .call = o->call, .n_items = (uint16_t)n_items, .arg = (uint32_t)l->out.reply_refused};
}

/* Publishes it. The receiver is not rung. */
static inline __attribute__((always_inline)) void wh_record_commit(struct wh_link *l, struct wh_outgoing *o,
                                                                   const struct wh_record *p)
{
        struct wh_rec_ext ext = wh_record_ext(l, o, p->n_items);
        if (p->kind == WH_REC_DROPPED)
                ext.arg = (uint32_t)o->dropped;
        wh_record_fill(l, o, p, ext);
        wh_ring_publish(&l->out.lane->ring, p->kind, p->body_len);
        if (p->kind != WH_REC_DIRECT && p->kind != WH_REC_WINDOW)
                wh_link_bytes_sent(l, p->len);
}

/* The same as an offer (capacity zero). */
static inline void wh_record_offer(struct wh_link *l, struct wh_outgoing *o, const struct wh_record *p)
{
        struct wh_rec_ext ext = wh_record_ext(l, o, p->n_items);
        ext.arg = p->kind;
        wh_record_fill(l, o, p, ext);
        l->out.offer = l->out.lane->ring.records + 1;
        l->out.offer_slot = l->out.lane->offered = p->slot;
        l->out.lane->offered_record = l->out.lane->ring.records;
        wh_ring_offer(&l->out.lane->ring, p->body_len);
}

#endif
