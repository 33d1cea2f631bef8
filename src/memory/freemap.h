/*
 * freemap - the free blocks of a buddy system: a set for each size, split on demand, merged with the buddy when given
 * back. It knows only what is free; who uses the rest is the caller's to remember.
 *
 * A block of order k is 2^k units and begins at a multiple of 2^k; its buddy is the other half of the block of order
 * k + 1 that both lie in. Taking and giving back take O(log units) steps, without a system call and without a lock.
 *
 *   F1  set[k] holds i if and only if block i of order k (units [i << k, (i + 1) << k)) is free and its buddy is not
 *   F2  bit k of *orders is set if and only if set[k] is not empty
 *
 * The words may lie in shared memory; they are derived state, which wh_freemap_clear() and wh_freemap_give_range()
 * build again. Whatever they say, no answer lies outside [0, units).
 */
#ifndef WH_MEMORY_FREEMAP_H
#define WH_MEMORY_FREEMAP_H

#include "memory/bitset.h"

#define WH_FREEMAP_ORDERS 32
#define WH_FREEMAP_NONE UINT32_MAX
#define WH_FREEMAP_UNITS_MAX ((uint32_t)1 << 31)

struct wh_freemap {
        uint64_t *orders; /* F2; the first of the words */
        uint32_t units;
        uint32_t n_orders; /* the largest block is of order n_orders - 1 */
        struct wh_bitset set[WH_FREEMAP_ORDERS];
};

/* How many uint64_t words a map of so many units takes; 1 <= units <= WH_FREEMAP_UNITS_MAX. */
uint64_t wh_freemap_words(uint32_t units);
/* Lays the map over words that are there; does not change them. */
void wh_freemap_init(struct wh_freemap *m, uint32_t units, uint64_t *words);
/* Nothing is free. */
void wh_freemap_clear(struct wh_freemap *m);
/* Give any stretch of units that are not free; [unit, unit + n) must lie inside. */
void wh_freemap_give_range(struct wh_freemap *m, uint32_t unit, uint32_t n);

/* The largest order that has a free block, or -1. */
static inline int wh_freemap_largest(const struct wh_freemap *m)
{
        uint64_t orders = *m->orders & (((uint64_t)1 << m->n_orders) - 1);
        return orders ? (int)wh_log2_floor(orders) : -1;
}

static inline void wh_freemap_insert_(struct wh_freemap *m, uint32_t order, uint32_t i)
{
        wh_bitset_insert(&m->set[order], i);
        *m->orders |= (uint64_t)1 << order;
}

static inline void wh_freemap_remove_(struct wh_freemap *m, uint32_t order, uint32_t i)
{
        wh_bitset_remove(&m->set[order], i);
        if (wh_bitset_empty(&m->set[order]))
                *m->orders &= ~((uint64_t)1 << order);
}

/*
 * A free block of the smallest size that will do is split until it is of this order. Answers its first unit, or
 * WH_FREEMAP_NONE. *ret_from, when not NULL, is the order of the block that was split.
 */
static inline uint32_t wh_freemap_take(struct wh_freemap *m, uint32_t order, uint32_t *ret_from)
{
        uint64_t orders = *m->orders & (((uint64_t)1 << m->n_orders) - 1);
        if (order >= m->n_orders || !(orders >> order))
                return WH_FREEMAP_NONE;
        uint32_t k = order + (uint32_t)__builtin_ctzll(orders >> order);
        uint64_t i = wh_bitset_first(&m->set[k]);
        if (wh_unlikely(i == WH_BITSET_NONE))
                return WH_FREEMAP_NONE; /* F2 is broken */
        wh_freemap_remove_(m, k, (uint32_t)i);
        if (ret_from)
                *ret_from = k;
        for (; k > order; k--) {
                i *= 2;
                wh_freemap_insert_(m, k - 1, (uint32_t)i + 1);
        }
        return (uint32_t)i << order;
}

/* Give back a block of this order, which must lie inside and not be free. Merges as far as it goes. */
static inline void wh_freemap_give(struct wh_freemap *m, uint32_t unit, uint32_t order)
{
        uint32_t i = unit >> order;
        while (order + 1 < m->n_orders) {
                uint32_t buddy = i ^ 1;
                if (buddy >= m->set[order].n || !wh_bitset_has(&m->set[order], buddy) ||
                    (i >> 1) >= m->set[order + 1].n)
                        break;
                wh_freemap_remove_(m, order, buddy);
                i >>= 1;
                order++;
        }
        wh_freemap_insert_(m, order, i);
}

/* Is exactly this block free? Then take it. */
static inline bool wh_freemap_take_at(struct wh_freemap *m, uint32_t unit, uint32_t order)
{
        uint32_t i = unit >> order;
        if (order >= m->n_orders || i >= m->set[order].n || !wh_bitset_has(&m->set[order], i))
                return false;
        wh_freemap_remove_(m, order, i);
        return true;
}

#endif
