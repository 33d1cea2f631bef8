/*
 * heap - formatting a heap, opening and closing it, and its base and limit. See heap_impl.h for how it lies in memory.
 */
#include "memory/heap_impl.h"

#include "base/cleanup.h"
#include "base/opts.h"
#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>

#define LIVE_AT wh_round_up(sizeof(struct heap_head), WH_CACHE_LINE)

static bool is_fit(uint32_t policy)
{
        return policy >= WHARF_HEAP_FIRST_FIT && policy <= WHARF_HEAP_WORST_FIT;
}

static bool is_inside(const struct heap_head *d)
{
        return is_fit(d->policy) && !(d->flags & WHARF_HEAP_OUTSIDE);
}

/* ---- format: where everything lies ---- */

/* Fills in all places from policy, flags, units and the numbers of things; answers the length of it all. */
static uint64_t lay_out(struct heap_head *d)
{
        bool fixed = d->policy == WHARF_HEAP_FIXED, by_address = false;
        uint64_t n_tags = fixed ? d->n_partitions : d->units, words;
        if (fixed)
                words = wh_bitset_words(n_tags);
        else if (d->policy == WHARF_HEAP_BUDDY)
                words = wh_freemap_words(d->units);
        else
                words = wh_bitset_words(d->units), by_address = d->policy <= WHARF_HEAP_NEXT_FIT;

        uint64_t at = LIVE_AT + wh_round_up(sizeof(struct heap_live), WH_CACHE_LINE);
        d->head_bytes = sizeof *d;
        d->owners_at = at;
        at += (uint64_t)d->owners_max * sizeof(struct heap_owner);
        d->waiters_at = at;
        at += (uint64_t)d->waiters_max * sizeof(struct heap_waiter);
        d->tags_at = d->nodes_at = d->starts_at = 0;
        if (!is_inside(d)) {
                d->tags_at = at;
                at += n_tags * sizeof(uint64_t);
                if (is_fit(d->policy)) {
                        d->nodes_at = at;
                        at += n_tags * sizeof(uint64_t);
                }
        }
        d->bitmap_at = at;
        at += words * (by_address ? 2 : 1) * sizeof(uint64_t);
        if (fixed) {
                d->starts_at = at;
                at += (n_tags + 1) * sizeof(uint32_t);
        }
        d->managed_bytes = (uint64_t)d->units << d->unit_log2;
        d->align_max = d->managed_bytes >= 65536 ? 4096 : 64;
        /* Headers inside: the tag of the first block lies right before the managed range. */
        d->managed_at = wh_round_up(at + sizeof(uint64_t), d->align_max);
        if (is_inside(d)) {
                d->tags_at = d->managed_at - sizeof(uint64_t);
                d->nodes_at = d->managed_at;
        }
        d->len_bytes = d->managed_at + d->managed_bytes;
        return d->len_bytes;
}

static uint64_t checksum(const struct heap_head *d, const uint32_t *starts)
{
        /* FNV-1a over 8 bytes at a time, with a shift that lets high bits fall back down. */
        uint64_t h = UINT64_C(0xcbf29ce484222325), words[offsetof(struct heap_head, checksum) / 8];
        memcpy(words, d, sizeof words);
        for (size_t i = 0; i < sizeof words / 8; i++) {
                h = (h ^ words[i]) * UINT64_C(0x100000001b3);
                h ^= h >> 31;
        }
        for (uint32_t i = 0; starts && i <= d->n_partitions; i++) {
                h = (h ^ starts[i]) * UINT64_C(0x100000001b3);
                h ^= h >> 31;
        }
        return h;
}

/* Takes over and checks what the options ask for. 0 or -EINVAL; d->units is 0 when it is to be found out. */
static int read_options(const struct wharf_heap_opts *given, struct heap_head *d, struct wharf_heap_opts *ret)
{
        struct wharf_heap_opts o = {.size = sizeof o};
        if (given) {
                if (!wh_opts_take(&o, sizeof o, offsetof(struct wharf_heap_opts, managed_bytes), given, given->size))
                        return -EINVAL;
        }
        const uint32_t all_flags = WHARF_HEAP_OUTSIDE | WHARF_HEAP_NO_CACHE | WHARF_HEAP_GUARD;
        if (o.policy >= WHARF_HEAP_POLICIES || o.flags & ~all_flags || o.reserved)
                return -EINVAL;
        *d = (struct heap_head){.magic = HEAP_MAGIC,
                                .version = HEAP_VERSION,
                                .policy = o.policy,
                                .flags = o.flags,
                                .owners_max = o.owners_max ? o.owners_max : 64,
                                .waiters_max = o.waiters_max ? o.waiters_max : 64};
        uint64_t unit = o.unit_bytes ? o.unit_bytes : is_fit(o.policy) ? HEAP_INSIDE_UNIT : 64;
        if (!wh_is_pow2(unit) || (is_inside(d) && unit != HEAP_INSIDE_UNIT) || unit > (is_fit(o.policy) ? 64 : 1 << 20))
                return -EINVAL;
        d->unit_log2 = wh_log2_floor(unit);
        if (d->owners_max > WHARF_HEAP_OWNERS_MAX || d->waiters_max > 65536)
                return -EINVAL;

        uint64_t units = o.managed_bytes >> d->unit_log2;
        if (o.policy == WHARF_HEAP_FIXED) {
                if (!o.n_partitions || o.n_partitions > HEAP_UNITS_MAX - 1)
                        return -EINVAL;
                d->n_partitions = o.n_partitions;
                if (o.partition_bytes) {
                        units = 0;
                        for (uint32_t i = 0; i < o.n_partitions; i++) {
                                uint64_t n;
                                if (!o.partition_bytes[i] || !wh_add(o.partition_bytes[i], unit - 1, &n) ||
                                    !wh_add(units, n >> d->unit_log2, &units) || units > HEAP_UNITS_MAX)
                                        return -EINVAL;
                        }
                } else if (units < o.n_partitions) {
                        if (o.managed_bytes)
                                return -EINVAL;
                        units = 0;
                } else {
                        units = units / o.n_partitions * o.n_partitions;
                }
        } else if (o.n_partitions || o.partition_bytes || (o.managed_bytes && !units)) {
                return -EINVAL;
        }
        if (units > HEAP_UNITS_MAX)
                return -EINVAL;
        d->units = (uint32_t)units;
        *ret = o;
        return 0;
}

uint64_t wharf_heap_bytes_needed(const struct wharf_heap_opts *opts)
{
        struct heap_head d;
        struct wharf_heap_opts o;
        return read_options(opts, &d, &o) < 0 || !d.units ? 0 : lay_out(&d);
}

/* The most units that fit into len_bytes; equal partitions share them. */
static uint32_t units_that_fit(struct heap_head *d, uint64_t len_bytes)
{
        uint64_t low = 0, high = len_bytes >> d->unit_log2, step = d->n_partitions ? d->n_partitions : 1;
        high = (high < HEAP_UNITS_MAX ? high : HEAP_UNITS_MAX) / step;
        while (low < high) {
                uint64_t mid = high - (high - low) / 2;
                d->units = (uint32_t)(mid * step);
                if (lay_out(d) <= len_bytes)
                        low = mid;
                else
                        high = mid - 1;
        }
        return (uint32_t)(low * step);
}

/* ---- a handle over what is there ---- */

static int rank_order(const void *a, const void *b, void *starts)
{
        const uint32_t *s = starts, i = *(const uint32_t *)a, k = *(const uint32_t *)b;
        uint32_t n = s[i + 1] - s[i], m = s[k + 1] - s[k];
        return n != m ? (n < m ? -1 : 1) : (i < k ? -1 : i > k);
}

/* The partitions: a private copy, checked, and their order. */
static int attach_partitions(struct wharf_heap *h)
{
        uint32_t n = h->head.n_partitions;
        h->starts = wh_os_malloc(((size_t)n * 3 + 1) * sizeof(uint32_t));
        if (!h->starts)
                return wh_trace(-ENOMEM);
        h->by_rank = h->starts + n + 1;
        h->rank_of = h->by_rank + n;
        memcpy(h->starts, h->base + h->head.starts_at, ((size_t)n + 1) * sizeof(uint32_t));
        for (uint32_t i = 0; i < n; i++) {
                if (h->starts[i] >= h->starts[i + 1])
                        return -EUCLEAN;
                h->by_rank[i] = i;
        }
        if (h->starts[0] != 0 || h->starts[n] != h->head.units)
                return -EUCLEAN;
        qsort_r(h->by_rank, n, sizeof(uint32_t), rank_order, h->starts);
        for (uint32_t r = 0; r < n; r++)
                h->rank_of[h->by_rank[r]] = r;
        return 0;
}

/* Everything of a handle that follows from a head that was checked (H4). */
static int attach(struct wharf_heap *h)
{
        const struct heap_head *d = &h->head;
        bool inside = is_inside(d), fixed = d->policy == WHARF_HEAP_FIXED;
        uint64_t *bitmap = (uint64_t *)(void *)(h->base + d->bitmap_at);
        h->live = (struct heap_live *)(void *)(h->base + LIVE_AT);
        h->owners = (struct heap_owner *)(void *)(h->base + d->owners_at);
        h->waiters = (struct heap_waiter *)(void *)(h->base + d->waiters_at);
        h->tags = h->base + d->tags_at;
        h->nodes = h->base + d->nodes_at;
        h->tag_stride = inside ? HEAP_INSIDE_UNIT : sizeof(uint64_t);
        h->node_stride = h->tag_stride;
        h->inside_bytes = inside ? sizeof(uint64_t) : 0;
        h->guard_bytes = d->flags & WHARF_HEAP_GUARD ? HEAP_GUARD_BYTES : 0;
        h->n_tags = fixed ? d->n_partitions : d->units;
        if (fixed) {
                int r = attach_partitions(h);
                if (r < 0)
                        return r;
                h->policy = &wh_heap_fixed;
                wh_bitset_init(&h->holes, h->n_tags, bitmap);
        } else if (d->policy == WHARF_HEAP_BUDDY) {
                h->policy = &wh_heap_buddy;
                wh_freemap_init(&h->map, d->units, bitmap);
                uint64_t longest = d->managed_bytes / 256;
                longest = longest < HEAP_CACHED_BYTES_MAX ? longest : HEAP_CACHED_BYTES_MAX;
                while (!(d->flags & WHARF_HEAP_NO_CACHE) && h->cache_orders < h->map.n_orders &&
                       heap_unit_bytes(h) << h->cache_orders <= longest)
                        h->cache_orders++;
        } else {
                h->policy = &wh_heap_fit;
                wh_bitset_init(&h->heads, d->units, bitmap);
                if (d->policy <= WHARF_HEAP_NEXT_FIT)
                        wh_bitset_init(&h->holes, d->units, bitmap + wh_bitset_words(d->units));
        }
        h->bytes_max = d->managed_bytes > h->inside_bytes + h->guard_bytes ? h->policy->bytes_max(h) : 0;
        return 0;
}

static void heap_handle_free(struct wharf_heap *h)
{
        free(h->starts);
        free(h);
}

/* The handle that a format goes with, since what lays out and builds a heap takes one. */
static int format(struct wharf_heap *h, uint64_t len_bytes, const struct wharf_heap_opts *opts)
{
        struct heap_head *d = &h->head;
        void *base = h->base;
        struct wharf_heap_opts o;
        int r = read_options(opts, d, &o);
        if (r < 0)
                return r;
        if (!d->units)
                d->units = units_that_fit(d, len_bytes);
        if (!d->units || lay_out(d) > len_bytes)
                return -ENOSPC;
        if (wh_os_getrandom(&d->cookie, sizeof d->cookie) < 0)
                d->cookie = (uint64_t)wh_os_now_ns() * UINT64_C(0x9e3779b97f4a7c15) ^ wh_task_self();

        uint32_t *starts = NULL;
        /* [magic] It goes first and comes back last: what is half made cannot be opened. Fence: before all else. */
        atomic_store_explicit((_Atomic uint64_t *)base, 0, memory_order_relaxed);
        atomic_thread_fence(memory_order_release);
        memset(h->base + sizeof d->magic, 0, d->managed_at - sizeof d->magic);
        if (d->policy == WHARF_HEAP_FIXED) {
                starts = (uint32_t *)(void *)(h->base + d->starts_at);
                for (uint32_t i = 0; i < d->n_partitions; i++) {
                        uint64_t n = o.partition_bytes ? (o.partition_bytes[i] + heap_unit_bytes(h) - 1) >> d->unit_log2
                                                       : d->units / d->n_partitions;
                        starts[i + 1] = starts[i] + (uint32_t)n;
                }
        }
        d->checksum = checksum(d, starts);
        r = attach(h);
        if (r == 0) {
                if (is_fit(d->policy))
                        heap_tag_store(h, 0, d->units, 0, TAG_FREE, 0);
                h->policy->rebuild(h, false);
                memcpy(h->base + sizeof d->magic, (char *)d + sizeof d->magic, sizeof *d - sizeof d->magic);
                /* [magic] Release, pairs with the acquire in wharf_heap_open(): all of the heap is there before it. */
                atomic_store_explicit((_Atomic uint64_t *)base, HEAP_MAGIC, memory_order_release);
        }
        return r;
}

int wharf_heap_format(void *base, uint64_t len_bytes, const struct wharf_heap_opts *opts)
{
        if (!base || (uintptr_t)base % WH_CACHE_LINE)
                return -EINVAL;
        struct wharf_heap *h = wh_os_calloc(1, sizeof *h);
        if (!h)
                return wh_trace(-ENOMEM);
        h->base = base;
        int r = format(h, len_bytes, opts);
        heap_handle_free(h);
        return r;
}

WH_AUTO_DEFINE(heap_handle, struct wharf_heap, heap_handle_free);

int wharf_heap_open(void *base, uint64_t len_bytes, wharf_heap **ret)
{
        if (wh_unlikely(!ret))
                return -EINVAL;
        if (!base || (uintptr_t)base % WH_CACHE_LINE)
                return -EINVAL;
        WH_AUTO(heap_handle) struct wharf_heap *h = wh_os_calloc(1, sizeof *h);
        if (!h)
                return wh_trace(-ENOMEM);
        struct heap_head *d = &h->head, same;
        /* [magic] Acquire, pairs with the release in wharf_heap_format(). */
        if (len_bytes < sizeof *d || atomic_load_explicit((_Atomic uint64_t *)base, memory_order_acquire) != HEAP_MAGIC)
                return -EUCLEAN;
        memcpy(d, base, sizeof *d);
        if (d->version != HEAP_VERSION)
                return -EPROTONOSUPPORT;
        /* The bounds first; then every place must be where this version would have put it. */
        if (d->policy >= WHARF_HEAP_POLICIES || !d->units || d->units > HEAP_UNITS_MAX || d->unit_log2 > 20 ||
            !d->owners_max || d->owners_max > WHARF_HEAP_OWNERS_MAX || !d->waiters_max || d->waiters_max > 65536 ||
            (d->policy == WHARF_HEAP_FIXED) != (d->n_partitions != 0) || d->n_partitions > d->units ||
            (is_inside(d) && d->unit_log2 != 4))
                return -EUCLEAN;
        same = *d;
        if (lay_out(&same) > len_bytes || memcmp(&same, d, sizeof same) != 0)
                return -EUCLEAN;
        h->base = base;
        int r = attach(h);
        if (r < 0)
                return r;
        if (checksum(d, h->starts) != d->checksum)
                return -EUCLEAN;
        r = wh_heap_lock(h);
        if (r < 0)
                return r;
        r = wh_heap_owner_claim(h);
        wh_heap_unlock(h);
        if (r < 0)
                return r;
        atomic_store_explicit(&h->task, wh_task_self(), memory_order_relaxed);
        *ret = wh_steal(&h);
        return 0;
}

wharf_heap *wharf_heap_close(wharf_heap *heap)
{
        if (!heap)
                return NULL;
        /* A child that never used it has no place in the heap, and leaves its parent's alone. */
        if (atomic_load_explicit(&heap->task, memory_order_relaxed) == wh_task_self() && wh_heap_lock(heap) == 0) {
                struct span s;
                wh_heap_flush(heap);
                for (uint32_t u = 0; heap->policy->block(heap, u, &s); u += s.n)
                        if (s.tag.owner == heap->owner && s.state == WHARF_BLOCK_USED)
                                wh_heap_retag(heap, &s, s.tag.value, WHARF_NOBODY, TAG_USED, s.tag.small);
                wh_heap_owner_release(heap, heap->owner);
                wh_heap_unlock(heap);
        }
        heap_handle_free(heap);
        return NULL;
}

void *wharf_heap_at(wharf_heap *heap, uint64_t offset, uint64_t len_bytes)
{
        if (offset < heap->head.managed_at ||
            !wh_inside(offset - heap->head.managed_at, len_bytes, heap->head.managed_bytes))
                return NULL;
        return heap->base + offset;
}

int wharf_heap_offset(wharf_heap *heap, const void *at, uint64_t *ret_offset)
{
        if (wh_unlikely(!ret_offset))
                return -EINVAL;
        uint64_t rel = (uint64_t)((uintptr_t)at - (uintptr_t)heap->base) - heap->head.managed_at;
        if (rel >= heap->head.managed_bytes)
                return -EFAULT;
        *ret_offset = rel + heap->head.managed_at;
        return 0;
}

int wharf_heap_root(wharf_heap *heap, uint32_t which, uint64_t *ret_offset)
{
        if (wh_unlikely(!ret_offset))
                return -EINVAL;
        if (which >= WHARF_HEAP_ROOTS)
                return -EINVAL;
        /* [root] Acquire, pairs with the exchange in wharf_heap_root_set(): what it leads to is whole. */
        *ret_offset = atomic_load_explicit(&heap->live->root[which], memory_order_acquire);
        return 0;
}

int wharf_heap_root_set(wharf_heap *heap, uint32_t which, uint64_t expect, uint64_t offset)
{
        if (which >= WHARF_HEAP_ROOTS)
                return -EINVAL;
        /* [root] Release, pairs with the acquire in wharf_heap_root(). */
        return atomic_compare_exchange_strong_explicit(&heap->live->root[which], &expect, offset, memory_order_acq_rel,
                                                       memory_order_relaxed)
                       ? 0
                       : -EAGAIN;
}

int wharf_heap_self(wharf_heap *heap)
{
        int r = wh_heap_enter(heap);
        return r < 0 ? r : (int)heap->owner;
}
