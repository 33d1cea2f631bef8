/*
 * heap_buddy - the buddy policy. True: the tags of used and cached blocks. Derived: the map of what they do not cover.
 *
 * A tag in state FREE only remembers that a block that began there was freed; it says nothing about now.
 */
#include "memory/heap_impl.h"

#include <errno.h>

static uint32_t order_for(struct wharf_heap *h, uint64_t bytes, uint64_t align)
{
        uint32_t order = wh_log2_ceil(heap_units_for(h, bytes));
        uint32_t least = align > heap_unit_bytes(h) ? wh_log2_floor(align) - h->head.unit_log2 : 0;
        return order > least ? order : least;
}

static uint32_t slack_of(struct wharf_heap *h, uint32_t order, uint64_t bytes)
{
        return heap_saturate(((uint64_t)1 << (order + h->head.unit_log2)) - h->guard_bytes - bytes);
}

static int buddy_take(struct wharf_heap *h, uint64_t bytes, uint64_t align, uint32_t owner, uint32_t state,
                      uint32_t *ret_u)
{
        uint32_t order = order_for(h, bytes, align), from = 0;
        uint32_t u = wh_freemap_take(&h->map, order, &from);
        if (u == WH_FREEMAP_NONE)
                return -ENOMEM;
        heap_bump(&h->mine->searches, from - order + 1);
        heap_tag_store(h, u, slack_of(h, order, bytes), owner, state, order);
        heap_count_used(h, (int64_t)1 << order);
        *ret_u = u;
        return 0;
}

static int buddy_give(struct wharf_heap *h, uint32_t u, const struct tag *t)
{
        heap_tag_store(h, u, 0, t->owner, TAG_FREE, 0);
        wh_freemap_give(&h->map, u, t->small);
        heap_count_used(h, -((int64_t)1 << t->small));
        return 0;
}

static int buddy_resize(struct wharf_heap *h, uint32_t u, const struct tag *t, uint64_t bytes)
{
        uint32_t order = wh_log2_ceil(heap_units_for(h, bytes)), is = t->small;
        if (order > is) {
                /* The block must be the left half at each step, and the right half be free. Look first, then take. */
                for (uint32_t k = is; k < order; k++) {
                        uint32_t right = u + ((uint32_t)1 << k);
                        if (u & ((uint32_t)1 << k) || k + 1 >= h->map.n_orders || (right >> k) >= h->map.set[k].n ||
                            !wh_bitset_has(&h->map.set[k], right >> k))
                                return -ENOMEM;
                }
                for (uint32_t k = is; k < order; k++)
                        wh_freemap_take_at(&h->map, u + ((uint32_t)1 << k), k);
        }
        /* heap_impl.H1: this store is the whole change; the map follows. */
        heap_tag_store(h, u, slack_of(h, order, bytes), t->owner, t->state, order);
        for (uint32_t k = is; k > order; k--)
                wh_freemap_give(&h->map, u + ((uint32_t)1 << (k - 1)), k - 1);
        heap_count_used(h, ((int64_t)1 << order) - ((int64_t)1 << is));
        return 0;
}

/* A block that was handed out and not given back begins at u. *ret_bad: there is a tag, but it makes no sense. */
static bool handed_out(struct wharf_heap *h, uint32_t u, struct tag *t, bool *ret_bad)
{
        bool good = heap_tag_load(h, u, t);
        *ret_bad = false;
        if (!t->raw || (good && t->state == TAG_FREE))
                return false;
        *ret_bad = !good || t->state == TAG_NONE || t->small >= h->map.n_orders ||
                   u & (((uint32_t)1 << t->small) - 1) || !wh_inside(u, (uint64_t)1 << t->small, h->head.units);
        return !*ret_bad;
}

/* [u, end) is out of use for ever, as blocks of powers of two. */
static uint32_t quarantine(struct wharf_heap *h, uint32_t u, uint32_t end)
{
        uint32_t blocks = 0;
        while (u < end) {
                uint32_t order = wh_log2_floor(end - u);
                if (u && (uint32_t)__builtin_ctz(u) < order)
                        order = (uint32_t)__builtin_ctz(u);
                heap_tag_store(h, u, 0, HEAP_OWNER_DAMAGED, TAG_USED, order);
                u += (uint32_t)1 << order;
                blocks++;
        }
        return blocks;
}

/* The free block that begins at u, as the map has it. */
static bool free_at(struct wharf_heap *h, uint32_t u, uint32_t *ret_order)
{
        uint32_t k = u ? (uint32_t)__builtin_ctz(u) : h->map.n_orders - 1;
        for (k = k < h->map.n_orders ? k : h->map.n_orders - 1;; k--) {
                if ((u >> k) < h->map.set[k].n && wh_bitset_has(&h->map.set[k], u >> k)) {
                        *ret_order = k;
                        return true;
                }
                if (!k)
                        return false;
        }
}

/*
 * Take what lies under tags that make no sense out of use. How long such a block was is lost with its tag: all up to
 * the next sound block, or the next free one if the map can be believed, may be in use.
 */
static uint32_t quarantine_damaged(struct wharf_heap *h, bool trust_map)
{
        uint32_t blocks = 0, order;
        for (uint32_t u = 0; u < h->head.units;) {
                struct tag t;
                bool bad;
                if (handed_out(h, u, &t, &bad)) {
                        u += (uint32_t)1 << t.small;
                        continue;
                }
                if (!bad) {
                        u++;
                        continue;
                }
                uint32_t end = u + 1;
                while (end < h->head.units && !handed_out(h, end, &t, &bad) && !(trust_map && free_at(h, end, &order)))
                        end++;
                wh_heap_fault(h, WHARF_FAULT_HEADER, u, 0, 0);
                blocks += quarantine(h, u, end);
                u = end;
        }
        return blocks;
}

static uint32_t buddy_rebuild(struct wharf_heap *h, bool trust_map)
{
        uint32_t damaged = quarantine_damaged(h, trust_map), free_from = 0;
        wh_freemap_clear(&h->map);
        h->live->used_units = 0;
        for (uint32_t u = 0; u < h->head.units;) {
                struct tag t;
                bool bad;
                if (!handed_out(h, u, &t, &bad)) {
                        u++;
                        continue;
                }
                wh_freemap_give_range(&h->map, free_from, u - free_from);
                h->live->used_units += (uint64_t)1 << t.small;
                u += (uint32_t)1 << t.small;
                free_from = u;
        }
        wh_freemap_give_range(&h->map, free_from, h->head.units - free_from);
        return damaged;
}

static bool buddy_block(struct wharf_heap *h, uint32_t u, struct span *s)
{
        if (u >= h->head.units)
                return false;
        *s = (struct span){.u = u};
        bool bad;
        uint32_t order;
        if (handed_out(h, u, &s->tag, &bad)) {
                s->n = (uint32_t)1 << s->tag.small;
                s->state = s->tag.owner == HEAP_OWNER_DAMAGED ? WHARF_BLOCK_DAMAGED
                           : s->tag.state == TAG_USED         ? WHARF_BLOCK_USED
                                                              : WHARF_BLOCK_CACHED;
        } else if (!bad && free_at(h, u, &order)) {
                s->n = (uint32_t)1 << order;
                s->state = WHARF_BLOCK_FREE;
                s->tag.small = order;
        } else {
                s->n = 1;
                s->state = WHARF_BLOCK_DAMAGED;
        }
        return true;
}

static bool buddy_whole(struct wharf_heap *h)
{
        uint64_t used = 0, n_free = 0, in_map = 0;
        struct span s;
        for (uint32_t u = 0; buddy_block(h, u, &s); u += s.n) {
                struct tag t;
                bool bad;
                if (s.state == WHARF_BLOCK_DAMAGED && (!handed_out(h, u, &t, &bad) || bad))
                        return false;
                if (!wh_inside(u, s.n, h->head.units))
                        return false;
                if (s.state == WHARF_BLOCK_FREE) {
                        /* Nothing that is in use lies inside, and the buddy is not free too (freemap.F1). */
                        for (uint32_t i = u; i < u + s.n; i++)
                                if (handed_out(h, i, &t, &bad) || bad)
                                        return false;
                        uint32_t k = s.tag.small, buddy = (u >> k) ^ 1;
                        if (k + 1 < h->map.n_orders && (u >> (k + 1)) < h->map.set[k + 1].n &&
                            buddy < h->map.set[k].n && wh_bitset_has(&h->map.set[k], buddy))
                                return false;
                        n_free++;
                } else {
                        used += s.n;
                }
        }
        /* The map holds these blocks and no others, and its upper levels and its mask agree with its lowest. */
        for (uint32_t k = 0; k < h->map.n_orders; k++) {
                const struct wh_bitset *set = &h->map.set[k];
                for (uint64_t w = 0; w <= (set->n - 1) / 64; w++)
                        in_map += (uint64_t)__builtin_popcountll(set->level[0][w]);
                for (unsigned l = 1; l < set->levels; l++) {
                        uint64_t below = ((set->n - 1) >> (6 * (l - 1))) / 64 + 1;
                        for (uint64_t i = 0; i < (below + 63) / 64 * 64; i++)
                                if ((set->level[l][i / 64] >> (i % 64) & 1) !=
                                    (i < below ? set->level[l - 1][i] != 0 : 0))
                                        return false;
                }
                if ((*h->map.orders >> k & 1) == wh_bitset_empty(set))
                        return false;
        }
        return in_map == n_free && used == h->live->used_units && !(*h->map.orders >> h->map.n_orders);
}

static uint64_t buddy_bytes_max(struct wharf_heap *h)
{
        return ((uint64_t)1 << (h->map.n_orders - 1 + h->head.unit_log2)) - h->guard_bytes;
}

const struct heap_policy wh_heap_buddy = {
        .take = buddy_take,
        .give = buddy_give,
        .resize = buddy_resize,
        .rebuild = buddy_rebuild,
        .whole = buddy_whole,
        .block = buddy_block,
        .bytes_max = buddy_bytes_max,
};
