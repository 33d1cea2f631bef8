/*
 * buddy - a buddy allocator over memory that it never touches: its bookkeeping is private, what it lends is foreign.
 *
 * Sizes are powers of two of units, places are unit indices. Not locked: one thread at a time. A freed block goes to a
 * short list of its size first and merges with its buddy when that list is full, when a request fails, or when
 * wh_buddy_trim() says so; so the common pair of calls is a push and a pop.
 *
 *   B1  tag[u] says "used, of order k" if and only if a block that was handed out begins at u
 *   B2  a block is handed out, or in a list of lazy[], or in the map of free blocks, and in one of them only
 */
#ifndef WH_MEMORY_BUDDY_H
#define WH_MEMORY_BUDDY_H

#include "memory/freemap.h"

#include <errno.h>

#define WH_BUDDY_LAZY 16

enum {
        WH_BUDDY_TAG_ORDER = 0x1f,
        WH_BUDDY_TAG_FREED = 0x20, /* a block that began here was freed: the difference between an error and another */
        WH_BUDDY_TAG_USED = 0x40,
};

struct wh_buddy {
        struct wh_freemap map;
        uint8_t *tag;         /* one for each unit, in the caller's bookkeeping memory */
        uint32_t used_units;  /* handed out now */
        uint32_t lazy_units;  /* freed, not merged yet */
        uint32_t lazy_orders; /* blocks of this order and above merge at once */
        uint8_t n_lazy[WH_FREEMAP_ORDERS];
        uint32_t lazy[WH_FREEMAP_ORDERS][WH_BUDDY_LAZY];
};

/* Bytes of bookkeeping memory for so many units; 0 when no allocator can (0, or more than 2^31). */
uint64_t wh_buddy_bookkeeping_bytes(uint32_t units);

/*
 * @bookkeeping  wh_buddy_bookkeeping_bytes() long, aligned to 8; written by this. Borrowed for as long as it is used.
 * @units        any number, all free; a power of two makes one block.
 */
void wh_buddy_init(struct wh_buddy *b, void *bookkeeping, uint32_t units);

/* Merge all that can be merged. */
void wh_buddy_trim(struct wh_buddy *b);
/* The order of the largest block that can be had now, after wh_buddy_trim(); -1 when there is none. */
int wh_buddy_largest_free(struct wh_buddy *b);

int64_t wh_buddy_alloc_slow(struct wh_buddy *b, uint32_t order);
void wh_buddy_free_slow(struct wh_buddy *b, uint32_t unit, uint32_t order);

/* The smallest order whose blocks have room for so many units; n > 0. */
static inline uint32_t wh_buddy_order(uint32_t n_units)
{
        return wh_log2_ceil(n_units);
}

/* The first unit of a block of 2^order units, or -ENOMEM, and only after everything was merged. */
static inline int64_t wh_buddy_alloc(struct wh_buddy *b, uint32_t order)
{
        if (wh_unlikely(order >= b->lazy_orders || !b->n_lazy[order]))
                return wh_buddy_alloc_slow(b, order);
        uint32_t u = b->lazy[order][--b->n_lazy[order]];
        b->tag[u] = (uint8_t)(WH_BUDDY_TAG_USED | order);
        b->used_units += (uint32_t)1 << order;
        b->lazy_units -= (uint32_t)1 << order;
        return u;
}

/* Order of the block that begins at unit, or -EFAULT, or -EALREADY when it was freed. */
static inline int wh_buddy_order_of(const struct wh_buddy *b, uint32_t unit)
{
        if (wh_unlikely(unit >= b->map.units))
                return -EFAULT;
        uint8_t tag = b->tag[unit];
        if (wh_unlikely(!(tag & WH_BUDDY_TAG_USED)))
                return tag & WH_BUDDY_TAG_FREED ? -EALREADY : -EFAULT;
        return tag & WH_BUDDY_TAG_ORDER;
}

/* 0, or -EFAULT: no block begins there, or -EALREADY: it was freed before. */
static inline int wh_buddy_free(struct wh_buddy *b, uint32_t unit)
{
        int order = wh_buddy_order_of(b, unit);
        if (wh_unlikely(order < 0))
                return order;
        b->tag[unit] = WH_BUDDY_TAG_FREED;
        b->used_units -= (uint32_t)1 << order;
        if (wh_unlikely((uint32_t)order >= b->lazy_orders || b->n_lazy[order] == WH_BUDDY_LAZY)) {
                wh_buddy_free_slow(b, unit, (uint32_t)order);
                return 0;
        }
        b->lazy[order][b->n_lazy[order]++] = unit;
        b->lazy_units += (uint32_t)1 << order;
        return 0;
}

#endif
