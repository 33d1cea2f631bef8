/*
 * heap_view - looking at a heap: figures, the walk over its blocks, its owners, and the check of all of it.
 */
#include "memory/heap_impl.h"

#include <errno.h>

static const char *const policy_names[WHARF_HEAP_POLICIES] = {"buddy", "first", "next", "best", "worst", "fixed"};

const char *wharf_heap_policy_name(enum wharf_heap_policy policy)
{
        return (unsigned)policy < WHARF_HEAP_POLICIES ? policy_names[policy] : NULL;
}

int wharf_heap_policy_by_name(const char *name, enum wharf_heap_policy *ret)
{
        if (wh_unlikely(!name || !ret))
                return -EINVAL;
        for (unsigned i = 0; i < WHARF_HEAP_POLICIES; i++)
                if (!strcmp(name, policy_names[i])) {
                        *ret = (enum wharf_heap_policy)i;
                        return 0;
                }
        return -EINVAL;
}

static int enter_and_lock(struct wharf_heap *h)
{
        int r = wh_heap_enter(h);
        if (r < 0)
                return r;
        return wh_heap_both_lock(h);
}

static uint64_t span_bytes(struct wharf_heap *h, const struct span *s)
{
        uint64_t n = h->starts ? h->starts[s->u + 1] - h->starts[s->u] : s->n;
        return n << h->head.unit_log2;
}

static unsigned class_of(uint64_t bytes)
{
        unsigned k = wh_log2_floor(bytes);
        return k < WHARF_HEAP_CLASSES ? k : WHARF_HEAP_CLASSES - 1;
}

int wharf_heap_figures(wharf_heap *heap, struct wharf_heap_figures *ret)
{
        if (wh_unlikely(!ret))
                return -EINVAL;
        struct wharf_heap *h = heap;
        int r = enter_and_lock(h);
        if (r < 0)
                return r;
        wh_heap_flush(h); /* what this task keeps is as good as free */
        struct wharf_heap_figures f = {.policy = h->head.policy,
                                       .unit_bytes = (uint32_t)heap_unit_bytes(h),
                                       .managed_bytes = h->head.managed_bytes,
                                       .bookkeeping_bytes = h->head.managed_at,
                                       .peak_bytes = h->live->peak_units << h->head.unit_log2,
                                       .repairs = h->live->repairs,
                                       .waiting = atomic_load_explicit(&h->live->waiting, memory_order_relaxed)};
        struct span s;
        for (uint32_t u = 0; h->policy->block(h, u, &s); u += s.n) {
                uint64_t bytes = span_bytes(h, &s);
                if (s.state == WHARF_BLOCK_FREE) {
                        f.free_bytes += bytes;
                        f.free_blocks++;
                        f.free_by_class[class_of(bytes)]++;
                        f.largest_free_bytes = bytes > f.largest_free_bytes ? bytes : f.largest_free_bytes;
                } else if (s.state == WHARF_BLOCK_CACHED) {
                        f.cached_bytes += bytes;
                        f.cached_blocks++;
                } else {
                        f.used_bytes += bytes;
                        f.used_blocks++;
                        f.used_by_class[class_of(bytes)]++;
                        if (s.state == WHARF_BLOCK_DAMAGED)
                                f.damaged_blocks++;
                        else
                                f.requested_bytes += wh_heap_requested(h, &s);
                }
        }
        for (uint32_t i = 0; i < h->head.owners_max; i++) {
                struct heap_owner *o = &h->owners[i];
                f.owners += atomic_load_explicit(&o->task, memory_order_relaxed) != 0;
                f.allocs += atomic_load_explicit(&o->allocs, memory_order_relaxed);
                f.frees += atomic_load_explicit(&o->frees, memory_order_relaxed);
                f.searches += atomic_load_explicit(&o->searches, memory_order_relaxed);
        }
        wh_heap_both_unlock(h);
        if (f.used_bytes)
                f.internal_fragmentation = 1 - (double)f.requested_bytes / (double)f.used_bytes;
        if (f.free_bytes)
                f.external_fragmentation = 1 - (double)f.largest_free_bytes / (double)f.free_bytes;
        *ret = f;
        return 0;
}

int wharf_heap_walk(wharf_heap *heap, int (*fn)(const struct wharf_block *block, void *arg), void *arg)
{
        if (wh_unlikely(!fn))
                return -EINVAL;
        struct wharf_heap *h = heap;
        int r = enter_and_lock(h);
        if (r < 0)
                return r;
        struct span s;
        for (uint32_t u = 0; r == 0 && h->policy->block(h, u, &s); u += s.n) {
                struct wharf_block b = {.start = heap_start(h, u), .bytes = span_bytes(h, &s), .state = s.state};
                b.offset = h->head.managed_at + b.start;
                b.order = h->policy == &wh_heap_buddy ? wh_log2_floor(s.n) : h->starts ? u : 0;
                if (s.state == WHARF_BLOCK_USED || s.state == WHARF_BLOCK_CACHED) {
                        b.owner = s.tag.owner;
                        if (s.state == WHARF_BLOCK_USED)
                                b.requested_bytes = wh_heap_requested(h, &s);
                        if (b.owner && b.owner <= h->head.owners_max)
                                b.owner_pid = wh_task_pid(
                                        atomic_load_explicit(&h->owners[b.owner - 1].task, memory_order_relaxed));
                }
                r = fn(&b, arg);
        }
        wh_heap_both_unlock(h);
        return r;
}

int64_t wharf_heap_frames(wharf_heap *heap, uint8_t *bits, uint64_t n_bytes)
{
        if (wh_unlikely(!bits && n_bytes))
                return -EINVAL;
        struct wharf_heap *h = heap;
        int r = enter_and_lock(h);
        if (r < 0)
                return r;
        memset(bits, 0, n_bytes);
        struct span s;
        for (uint32_t u = 0; h->policy->block(h, u, &s); u += s.n) {
                uint64_t at = heap_start(h, u) >> h->head.unit_log2,
                         end = at + (span_bytes(h, &s) >> h->head.unit_log2);
                for (; s.state != WHARF_BLOCK_FREE && at < end && at / 8 < n_bytes; at++)
                        bits[at / 8] |= (uint8_t)(1 << (at % 8));
        }
        wh_heap_both_unlock(h);
        return h->head.units;
}

/* Of `n`, in the order of their ids; NULL when it is none of them. */
static struct wharf_heap_owner *owner_find(struct wharf_heap_owner *owners, uint32_t n, uint32_t id)
{
        uint32_t low = 0;
        while (n) {
                uint32_t half = n / 2;
                if (owners[low + half].id == id)
                        return &owners[low + half];
                if (owners[low + half].id < id) {
                        low += half + 1;
                        n -= half + 1;
                } else {
                        n = half;
                }
        }
        return NULL;
}

int wharf_heap_owners(wharf_heap *heap, struct wharf_heap_owner *owners, uint32_t n)
{
        if (wh_unlikely(!owners && n))
                return -EINVAL;
        struct wharf_heap *h = heap;
        int r = enter_and_lock(h);
        if (r < 0)
                return r;
        uint32_t found = 0;
        for (uint32_t id = 1; id <= h->head.owners_max; id++) {
                uint64_t task = atomic_load_explicit(&h->owners[id - 1].task, memory_order_relaxed);
                if (!task)
                        continue;
                if (found < n)
                        owners[found] = (struct wharf_heap_owner){
                                .id = id, .pid = wh_task_pid(task), .alive = wh_task_alive(task)};
                found++;
        }
        struct span s;
        for (uint32_t u = 0; h->policy->block(h, u, &s); u += s.n) {
                struct wharf_heap_owner *o =
                        s.state == WHARF_BLOCK_USED ? owner_find(owners, found < n ? found : n, s.tag.owner) : NULL;
                if (!o)
                        continue;
                o->blocks++;
                o->bytes += span_bytes(h, &s);
        }
        wh_heap_both_unlock(h);
        return (int)found;
}

int wharf_heap_check(wharf_heap *heap)
{
        struct wharf_heap *h = heap;
        int r = enter_and_lock(h);
        if (r < 0)
                return r;
        if (!h->policy->whole(h)) {
                if (!h->policy->rebuild(h, true))
                        wh_heap_fault(h, WHARF_FAULT_INDEX, 0, 0, 0);
                r = -EUCLEAN;
        }
        wh_heap_both_unlock(h);
        return r;
}
