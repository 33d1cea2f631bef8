/*
 * heap_fixed - partitions that never change; one request in each. True: the tag of each partition. Derived: the set of
 * free ones, by rank: their order from the smallest to the largest.
 */
#include "memory/heap_impl.h"

#include <errno.h>

static uint32_t units_of(struct wharf_heap *h, uint32_t i)
{
        return h->starts[i + 1] - h->starts[i];
}

static bool taken(struct wharf_heap *h, uint32_t i, struct tag *t, bool *ret_bad)
{
        bool good = heap_tag_load(h, i, t);
        *ret_bad = t->raw && (!good || t->state == TAG_NONE);
        return t->raw && !*ret_bad && t->state != TAG_FREE;
}

static int fixed_take(struct wharf_heap *h, uint64_t bytes, uint64_t align, uint32_t owner, uint32_t state,
                      uint32_t *ret_u)
{
        /* The first rank that is large enough, then the first free one from there. */
        uint32_t n = heap_units_for(h, bytes), low = 0, high = h->n_tags;
        while (low < high) {
                uint32_t mid = low + (high - low) / 2;
                if (units_of(h, h->by_rank[mid]) < n)
                        low = mid + 1;
                else
                        high = mid;
        }
        for (uint64_t rank = low; (rank = wh_bitset_next(&h->holes, rank)) != WH_BITSET_NONE; rank++) {
                uint32_t i = h->by_rank[rank];
                struct tag t;
                bool bad;
                heap_bump(&h->mine->searches, 1);
                if (align && heap_start(h, i) & (align - 1))
                        continue;
                if (taken(h, i, &t, &bad) || bad)
                        return -EUCLEAN;
                heap_tag_store(h, i, heap_saturate(heap_payload(h, units_of(h, i)) - bytes), owner, state, 0);
                wh_bitset_remove(&h->holes, rank);
                heap_count_used(h, units_of(h, i));
                *ret_u = i;
                return 0;
        }
        return -ENOMEM;
}

static int fixed_give(struct wharf_heap *h, uint32_t u, const struct tag *t)
{
        heap_tag_store(h, u, 0, t->owner, TAG_FREE, 0);
        wh_bitset_insert(&h->holes, h->rank_of[u]);
        heap_count_used(h, -(int64_t)units_of(h, u));
        return 0;
}

static int fixed_resize(struct wharf_heap *h, uint32_t u, const struct tag *t, uint64_t bytes)
{
        if (heap_units_for(h, bytes) > units_of(h, u))
                return -ENOMEM;
        heap_tag_store(h, u, heap_saturate(heap_payload(h, units_of(h, u)) - bytes), t->owner, t->state, 0);
        return 0;
}

static uint32_t fixed_rebuild(struct wharf_heap *h, bool trust)
{
        uint32_t damaged = 0;
        wh_bitset_clear(&h->holes);
        h->live->used_units = 0;
        for (uint32_t i = 0; i < h->n_tags; i++) {
                struct tag t;
                bool bad, used = taken(h, i, &t, &bad);
                if (bad) {
                        wh_heap_fault(h, WHARF_FAULT_HEADER, i, 0, 0);
                        heap_tag_store(h, i, 0, HEAP_OWNER_DAMAGED, TAG_USED, 0);
                        damaged++;
                }
                if (used || bad)
                        h->live->used_units += units_of(h, i);
                else
                        wh_bitset_insert(&h->holes, h->rank_of[i]);
        }
        return damaged;
}

static bool fixed_block(struct wharf_heap *h, uint32_t u, struct span *s)
{
        if (u >= h->n_tags)
                return false;
        bool bad;
        *s = (struct span){.u = u, .n = 1};
        bool used = taken(h, u, &s->tag, &bad);
        s->state = bad || (used && s->tag.owner == HEAP_OWNER_DAMAGED) ? WHARF_BLOCK_DAMAGED
                   : !used                                             ? WHARF_BLOCK_FREE
                   : s->tag.state == TAG_USED                          ? WHARF_BLOCK_USED
                                                                       : WHARF_BLOCK_CACHED;
        return true;
}

static bool fixed_whole(struct wharf_heap *h)
{
        uint64_t used = 0, free_ = 0, in_set = 0;
        for (uint32_t i = 0; i < h->n_tags; i++) {
                struct tag t;
                bool bad, is_used = taken(h, i, &t, &bad);
                if (bad || wh_bitset_has(&h->holes, h->rank_of[i]) == is_used)
                        return false;
                used += is_used ? units_of(h, i) : 0;
                free_ += !is_used;
        }
        for (uint64_t r = 0; (r = wh_bitset_next(&h->holes, r)) != WH_BITSET_NONE; r++)
                in_set++;
        return in_set == free_ && used == h->live->used_units;
}

static uint64_t fixed_bytes_max(struct wharf_heap *h)
{
        const uint64_t bytes = (uint64_t)units_of(h, h->by_rank[h->n_tags - 1]) << h->head.unit_log2;
        const uint64_t beside = h->inside_bytes + h->guard_bytes;
        return bytes > beside ? bytes - beside : 0;
}

const struct heap_policy wh_heap_fixed = {
        .take = fixed_take,
        .give = fixed_give,
        .resize = fixed_resize,
        .rebuild = fixed_rebuild,
        .whole = fixed_whole,
        .block = fixed_block,
        .bytes_max = fixed_bytes_max,
};
