/*
 * heap_alloc - allocating, freeing and resizing, from the task's cache, from the holes, or in the queue.
 */
#include "memory/heap_impl.h"

#include "os/os.h"

#include <errno.h>

/* ---- this task's cache of free blocks (buddy): both locks, or cache_lock where it says so ---- */

uint64_t wh_heap_flush(struct wharf_heap *h)
{
        uint64_t given = 0;
        for (uint32_t k = 0; k < h->cache_orders; k++)
                while (h->n_cache[k]) {
                        struct span s = {.u = h->cache[k][--h->n_cache[k]]};
                        if (heap_tag_load(h, s.u, &s.tag) && s.tag.state == TAG_CACHED && s.tag.owner == h->owner &&
                            s.tag.small == k && heap_inside(h, &s) && !wh_heap_promised(h, &s))
                                given += wh_heap_give_back(h, &s);
                }
        atomic_store_explicit(&h->mine->cached, 0, memory_order_relaxed);
        return given;
}

/* Makes room in the list of one order: the older half, which the cores have forgotten, becomes holes. */
static void spill(struct wharf_heap *h, uint32_t order)
{
        for (uint32_t i = 0; i < HEAP_CACHE_BATCH; i++) {
                struct span s = {.u = h->cache[order][i]};
                if (heap_tag_load(h, s.u, &s.tag) && s.tag.state == TAG_CACHED && s.tag.owner == h->owner &&
                    s.tag.small == order && heap_inside(h, &s) && !wh_heap_promised(h, &s))
                        wh_heap_give_back(h, &s);
        }
        h->n_cache[order] -= HEAP_CACHE_BATCH;
        memmove(h->cache[order], h->cache[order] + HEAP_CACHE_BATCH, h->n_cache[order] * sizeof(uint32_t));
        heap_bump(&h->mine->cached, (uint64_t)-HEAP_CACHE_BATCH);
}

static void refill(struct wharf_heap *h, uint32_t order)
{
        while (h->n_cache[order] < HEAP_CACHE_BATCH) {
                uint32_t u = wh_freemap_take(&h->map, order, NULL);
                if (u == WH_FREEMAP_NONE)
                        break;
                heap_bump(&h->mine->cached, 1);
                heap_tag_store(h, u, 0, h->owner, TAG_CACHED, order);
                heap_count_used(h, (int64_t)1 << order);
                h->cache[order][h->n_cache[order]++] = u;
        }
}

/* cache_lock is held. False: there is none. */
static inline bool cache_pop(struct wharf_heap *h, uint32_t order, uint32_t slack, uint32_t owner, uint32_t *ret_u)
{
        while (h->n_cache[order]) {
                uint32_t u = h->cache[order][--h->n_cache[order]];
                uint64_t cached = heap_tag_make(h, u, 0, h->owner, TAG_CACHED, order);
                heap_bump(&h->mine->cached, (uint64_t)-1);
                /* [tag] heap_impl.H3. It fails when another task in need took the block meanwhile. */
                if (wh_likely(atomic_compare_exchange_strong_explicit(
                            heap_tag_at(h, u), &cached, heap_tag_make(h, u, slack, owner, TAG_USED, order),
                            memory_order_acq_rel, memory_order_relaxed))) {
                        *ret_u = u;
                        return true;
                }
        }
        return false;
}

/* ---- allocation ---- */

/* Find room: in the holes, then in what this task keeps, then in what others keep. Both locks are held. */
static int take(struct wharf_heap *h, uint64_t bytes, uint64_t align, uint32_t owner, uint32_t state, uint32_t *ret_u)
{
        int r = -ENOMEM;
        for (int attempt = 0; attempt < 4; attempt++) {
                r = h->policy->take(h, bytes, align, owner, state, ret_u);
                if (r > 0 || r == -EUCLEAN) {
                        /* Somebody wrote over a list of holes. The tags know better. */
                        wh_heap_fault(h, WHARF_FAULT_INDEX, r > 0 ? *ret_u : 0, 0, 0);
                        wh_heap_rebuild(h, false);
                        if (r > 0)
                                return 0;
                        continue;
                }
                if (r != -ENOMEM)
                        return r;
                if (wh_heap_flush(h))
                        continue;
                uint64_t cached = 0;
                for (uint32_t i = 0; i < h->head.owners_max; i++)
                        cached += atomic_load_explicit(&h->owners[i].cached, memory_order_relaxed);
                if (!cached || !wh_heap_take_all_cached(h))
                        return r;
        }
        return r;
}

void wh_heap_serve(struct wharf_heap *h, bool look_for_dead)
{
        while (atomic_load_explicit(&h->live->waiting, memory_order_relaxed)) {
                struct heap_waiter *first = NULL;
                for (uint32_t i = 0; i < h->head.waiters_max; i++) {
                        struct heap_waiter *w = &h->waiters[i];
                        if (atomic_load_explicit(&w->state, memory_order_relaxed) == WAITER_WAITING &&
                            (!first || w->ticket < first->ticket))
                                first = w;
                }
                const uint32_t owner = first ? first->owner : 0;
                const uint64_t bytes = first ? first->bytes : 0, align = first ? first->align : 0;
                const bool nonsense = !owner || owner > h->head.owners_max || !bytes || bytes > h->bytes_max ||
                                      align > h->head.align_max || (align && !wh_is_pow2(align));
                uint32_t u;
                if (!first || nonsense || (look_for_dead && wh_heap_owner_dead(h, owner))) {
                        if (first)
                                wh_heap_waiter_drop(h, first);
                        wh_heap_count_waiting(h);
                        continue;
                }
                if (take(h, bytes, align, owner, TAG_CACHED, &u) < 0)
                        return;
                first->unit = u;
                /* [waiter] Release, pairs with the acquire in wait_in_queue(). */
                atomic_store_explicit(&first->state, WAITER_GRANTED, memory_order_release);
                wh_heap_count_waiting(h);
                wh_os_futex_wake((_Atomic uint32_t *)&first->state, 1, true);
        }
}

static struct heap_waiter *waiter_place(struct wharf_heap *h)
{
        for (int round = 0; round < 2; round++)
                for (uint32_t i = 0; i < h->head.waiters_max; i++) {
                        struct heap_waiter *w = &h->waiters[i];
                        const uint32_t owner = w->owner;
                        if (atomic_load_explicit(&w->state, memory_order_relaxed) == WAITER_FREE ||
                            (round && (!owner || owner > h->head.owners_max || wh_heap_owner_dead(h, owner)))) {
                                wh_heap_waiter_drop(h, w);
                                return w;
                        }
                }
        return NULL;
}

/*
 * The block that was granted becomes the waiter's. False: it was lost on the way, or is not what was asked for, so wait on.
 * Both locks are held.
 */
static bool accept_grant(struct wharf_heap *h, struct heap_waiter *w, uint64_t bytes, uint64_t align, uint32_t owner,
                         uint32_t *ret_u)
{
        struct span s = {.u = w->unit};
        if (s.u >= h->n_tags || !heap_tag_load(h, s.u, &s.tag) || s.tag.state != TAG_CACHED ||
            s.tag.owner != h->owner || !heap_inside(h, &s) || heap_units_of(h, &s) < heap_units_for(h, bytes) ||
            (align && heap_start(h, s.u) & (align - 1)) ||
            !wh_heap_retag(h, &s, s.tag.value, owner, TAG_USED, s.tag.small))
                return false;
        *ret_u = s.u;
        return true;
}

/* Both locks are held at the beginning and at the end, and not while it sleeps. */
static int wait_in_queue(struct wharf_heap *h, uint64_t bytes, uint64_t align, uint32_t owner, int64_t deadline_ns,
                         uint32_t *ret_u)
{
        struct heap_waiter *w = waiter_place(h);
        if (!w)
                return -EBUSY;
        w->owner = h->owner;
        w->bytes = bytes;
        w->align = align;
        w->ticket = ++h->live->ticket;
        /* [waiter] Release: what it asks for is there before it waits. All others look under the lock. */
        atomic_store_explicit(&w->state, WAITER_WAITING, memory_order_release);
        wh_heap_count_waiting(h);
        /* [waiting] Look again after having said so: somebody may have freed into a cache in between. */
        wh_heap_serve(h, true);
        int r = 0;
        for (unsigned rounds = 0;; rounds++) {
                /* [waiter] Acquire, pairs with the release in wh_heap_serve(). */
                uint32_t state = atomic_load_explicit(&w->state, memory_order_acquire);
                if (state == WAITER_GRANTED && accept_grant(h, w, bytes, align, owner, ret_u))
                        break;
                if (state != WAITER_WAITING) {
                        atomic_store_explicit(&w->state, WAITER_WAITING, memory_order_relaxed);
                        wh_heap_count_waiting(h);
                        wh_heap_serve(h, true);
                        if (atomic_load_explicit(&w->state, memory_order_acquire) == WAITER_GRANTED)
                                continue;
                }
                if (deadline_ns != WHARF_FOREVER && wh_os_now_ns() >= deadline_ns) {
                        r = -ETIMEDOUT;
                        break;
                }
                wh_heap_both_unlock(h);
                int slept = wh_os_futex_wait(&w->state, WAITER_WAITING, wh_sleep_until(rounds, deadline_ns), true);
                const int locked = wh_heap_both_lock(h);
                if (locked < 0) { /* somebody else wrote there that we have it: as our caller believes, too */
                        wh_lock(&h->cache_lock);
                        atomic_store_explicit(&w->state, WAITER_FREE, memory_order_relaxed);
                        return locked;
                }
                /* Whoever should have served us, or waits before us, may have died. */
                if (slept < 0 && slept != -EAGAIN && slept != -EINTR)
                        wh_heap_serve(h, true);
        }
        atomic_store_explicit(&w->state, WAITER_FREE, memory_order_relaxed);
        wh_heap_count_waiting(h);
        if (r < 0)
                wh_heap_serve(h, false); /* those behind us may fit */
        return r;
}

/* cache_lock is held. */
static __attribute__((noinline)) int alloc_slow(struct wharf_heap *h, uint64_t bytes, uint64_t align, uint32_t owner,
                                                int64_t deadline_ns, uint32_t *ret_u, uint32_t order)
{
        int r = wh_heap_lock(h);
        if (r < 0)
                return r;
        bool queue = atomic_load_explicit(&h->live->waiting, memory_order_relaxed) != 0;
        r = queue && deadline_ns ? -ENOMEM : take(h, bytes, align, owner, TAG_USED, ret_u);
        if (r == -ENOMEM && deadline_ns)
                r = wait_in_queue(h, bytes, align, owner, deadline_ns, ret_u);
        else if (r == 0 && order < h->cache_orders && !queue)
                refill(h, order);
        wh_heap_unlock(h);
        return r;
}

static uint64_t *guard_at(struct wharf_heap *h, uint32_t u, uint64_t bytes, uint64_t *ret_value)
{
        uint64_t at = h->head.managed_at + heap_start(h, u) + bytes;
        *ret_value = h->head.cookie ^ (at * UINT64_C(0x9e3779b97f4a7c15));
        return (uint64_t *)(void *)(h->base + at); /* not aligned: only for memcpy */
}

static void guard_set(struct wharf_heap *h, uint32_t u, uint64_t bytes)
{
        uint64_t v;
        memcpy(guard_at(h, u, bytes, &v), &v, sizeof v);
}

uint64_t wh_heap_requested(const struct wharf_heap *h, const struct span *s)
{
        uint32_t slack = h->policy == &wh_heap_fit ? s->tag.small : s->tag.value;
        uint64_t room = heap_payload(h, heap_units_of(h, s));
        return slack < room ? room - slack : 0;
}

static bool guard_broken(struct wharf_heap *h, const struct span *s)
{
        uint64_t v, is;
        if (!h->guard_bytes)
                return false;
        memcpy(&is, guard_at(h, s->u, wh_heap_requested(h, s), &v), sizeof is);
        return is != v;
}

static inline uint32_t buddy_order(struct wharf_heap *h, uint64_t bytes, uint64_t align)
{
        uint32_t units = heap_units_for(h, bytes), order = units <= 1 ? 0 : 32 - (uint32_t)__builtin_clz(units - 1);
        uint64_t least = align >> h->head.unit_log2;
        return least > (uint64_t)1 << order ? wh_log2_floor(least) : order;
}

int wharf_heap_alloc(wharf_heap *heap, uint64_t bytes, uint64_t align_bytes, uint32_t flags, int64_t deadline_ns,
                     uint64_t *ret_offset)
{
        struct wharf_heap *h = heap;
        if (wh_unlikely(!ret_offset || !bytes || flags & ~(WHARF_ALLOC_ZERO | WHARF_ALLOC_NOBODY) ||
                        (align_bytes && (!wh_is_pow2(align_bytes) || align_bytes > h->head.align_max))))
                return -EINVAL;
        if (wh_unlikely(bytes > h->bytes_max))
                return -E2BIG;
        int r = wh_heap_enter(h);
        if (wh_unlikely(r < 0))
                return r;
        uint32_t u, order = WH_FREEMAP_ORDERS, owner = flags & WHARF_ALLOC_NOBODY ? WHARF_NOBODY : h->owner;
        wh_lock(&h->cache_lock);
        if (h->policy == &wh_heap_buddy) {
                order = buddy_order(h, bytes, align_bytes);
                if (wh_unlikely(order >= h->map.n_orders)) {
                        wh_unlock(&h->cache_lock);
                        return -E2BIG;
                }
        }
        uint64_t slack = order < WH_FREEMAP_ORDERS ? (heap_unit_bytes(h) << order) - h->guard_bytes - bytes : 0;
        if (order >= h->cache_orders || !cache_pop(h, order, (uint32_t)slack, owner, &u))
                r = alloc_slow(h, bytes, align_bytes, owner, deadline_ns, &u, order);
        if (r == 0)
                heap_bump(&h->mine->allocs, 1);
        wh_unlock(&h->cache_lock);
        if (wh_unlikely(r < 0))
                return r;
        uint64_t offset = h->head.managed_at + heap_start(h, u);
        if (h->guard_bytes)
                guard_set(h, u, bytes);
        if (flags & WHARF_ALLOC_ZERO)
                memset(h->base + offset, 0, bytes);
        *ret_offset = offset;
        return 0;
}

/* ---- from an offset to a block ---- */

static __attribute__((noinline)) int foreign(struct wharf_heap *h, uint64_t offset)
{
        wh_lock(&h->fault_lock);
        h->fault = (struct wharf_heap_fault){.kind = WHARF_FAULT_FOREIGN, .offset = offset};
        wh_unlock(&h->fault_lock);
        return -EFAULT;
}

/* The partition that begins at unit u. */
static __attribute__((noinline)) int partition_at(struct wharf_heap *h, uint32_t u, uint64_t offset, uint32_t *ret)
{
        uint32_t low = 0, high = h->head.n_partitions;
        while (high - low > 1) {
                uint32_t mid = low + (high - low) / 2;
                if (h->starts[mid] <= u)
                        low = mid;
                else
                        high = mid;
        }
        if (h->starts[low] != u)
                return foreign(h, offset);
        *ret = low;
        return 0;
}

static inline int offset_to_unit(struct wharf_heap *h, uint64_t offset, uint32_t *ret_u)
{
        uint64_t rel = offset - h->head.managed_at;
        if (wh_unlikely(rel >= h->head.managed_bytes || rel & (heap_unit_bytes(h) - 1)))
                return foreign(h, offset);
        *ret_u = (uint32_t)(rel >> h->head.unit_log2);
        return wh_unlikely(h->starts != NULL) ? partition_at(h, *ret_u, offset, ret_u) : 0;
}

/*
 * The used block that begins at u, or why there is none. Fit policies: with the lock held, since the bitmap of heads
 * is only to be believed then.
 */
static __attribute__((noinline)) int find_used(struct wharf_heap *h, uint32_t u, struct span *ret)
{
        struct span s = {.u = u};
        bool good = heap_tag_load(h, u, &s.tag);
        if (h->policy == &wh_heap_fit && !wh_bitset_has(&h->heads, u))
                return good && s.tag.state == TAG_FREE
                               ? wh_heap_fault(h, WHARF_FAULT_DOUBLE_FREE, u, s.tag.owner, -EALREADY)
                               : wh_heap_fault(h, WHARF_FAULT_FOREIGN, u, 0, -EFAULT);
        if (wh_unlikely(!good || s.tag.state != TAG_USED || s.tag.owner == HEAP_OWNER_DAMAGED)) {
                if (!s.tag.raw && h->policy != &wh_heap_fit)
                        return wh_heap_fault(h, WHARF_FAULT_FOREIGN, u, 0, -EFAULT);
                if (good && (s.tag.state == TAG_FREE || s.tag.state == TAG_CACHED))
                        return wh_heap_fault(h, WHARF_FAULT_DOUBLE_FREE, u, s.tag.owner, -EALREADY);
                return wh_heap_fault(h, WHARF_FAULT_HEADER, u, good ? s.tag.owner : 0, -EUCLEAN);
        }
        if (wh_unlikely(!heap_inside(h, &s)))
                return wh_heap_fault(h, WHARF_FAULT_HEADER, u, s.tag.owner, -EUCLEAN);
        if (wh_unlikely(guard_broken(h, &s)))
                return wh_heap_fault(h, WHARF_FAULT_OVERFLOW, u, s.tag.owner, -EUCLEAN);
        *ret = s;
        return 0;
}

/* cache_lock is held. */
static __attribute__((noinline)) int free_slow(struct wharf_heap *h, uint32_t u)
{
        int r = wh_heap_lock(h);
        if (r < 0)
                return r;
        struct span s;
        r = find_used(h, u, &s);
        if (r == 0 && !wh_heap_give_back(h, &s))
                r = h->policy == &wh_heap_buddy ? wh_heap_fault(h, WHARF_FAULT_DOUBLE_FREE, u, s.tag.owner, -EALREADY)
                                                : -EUCLEAN;
        if (r == 0 && atomic_load_explicit(&h->live->waiting, memory_order_relaxed))
                wh_heap_serve(h, false);
        wh_heap_unlock(h);
        return r;
}

/* The list of its order is full, or somebody waits: what has to be done around it. cache_lock is held. */
static __attribute__((noinline)) void cache_relief(struct wharf_heap *h, uint32_t order, bool full)
{
        if (wh_heap_lock(h) < 0)
                return;
        if (full) {
                spill(h, order);
        } else {
                wh_heap_flush(h);
                wh_heap_serve(h, false);
        }
        wh_heap_unlock(h);
}

/*
 * A sound used block of a small order goes to this task's cache. False: it does not, for a reason that free_slow() will
 * find out. cache_lock is held.
 */
static inline bool free_to_cache(struct wharf_heap *h, uint32_t u)
{
        struct tag t;
        bool good = heap_tag_load(h, u, &t);
        uint32_t order = t.small;
        if (wh_unlikely(!good || t.state != TAG_USED || t.owner == HEAP_OWNER_DAMAGED || order >= h->cache_orders ||
                        u & (((uint32_t)1 << order) - 1) || !wh_inside(u, (uint64_t)1 << order, h->head.units) ||
                        h->guard_bytes || atomic_load_explicit(&h->live->waiting, memory_order_relaxed)))
                return false;
        if (wh_unlikely(h->n_cache[order] == HEAP_CACHE_DEPTH)) {
                cache_relief(h, order, true);
                if (h->n_cache[order] == HEAP_CACHE_DEPTH)
                        return false;
        }
        heap_bump(&h->mine->cached, 1);
        uint64_t raw = t.raw;
        /*
         * [waiting] Sequentially consistent, before the load below: see wh_heap_count_waiting(). For the [tag],
         * heap_impl.H3.
         */
        if (wh_unlikely(!atomic_compare_exchange_strong_explicit(heap_tag_at(h, u), &raw,
                                                                 heap_tag_make(h, u, 0, h->owner, TAG_CACHED, order),
                                                                 memory_order_seq_cst, memory_order_relaxed)))
                return false;
        h->cache[order][h->n_cache[order]++] = u;
        if (wh_unlikely(atomic_load_explicit(&h->live->waiting, memory_order_seq_cst)))
                cache_relief(h, order, false);
        return true;
}

int wharf_heap_free(wharf_heap *heap, uint64_t offset)
{
        struct wharf_heap *h = heap;
        uint32_t u;
        int r = offset_to_unit(h, offset, &u);
        if (wh_unlikely(r < 0) || wh_unlikely((r = wh_heap_enter(h)) < 0))
                return r;
        wh_lock(&h->cache_lock);
        if (!h->cache_orders || !free_to_cache(h, u))
                r = free_slow(h, u);
        if (r == 0)
                heap_bump(&h->mine->frees, 1);
        wh_unlock(&h->cache_lock);
        return r;
}

int wharf_heap_usable(wharf_heap *heap, uint64_t offset, uint64_t *ret_bytes)
{
        if (wh_unlikely(!ret_bytes))
                return -EINVAL;
        struct wharf_heap *h = heap;
        uint32_t u;
        struct span s;
        int r = offset_to_unit(h, offset, &u);
        if (r < 0 || (r = wh_heap_enter(h)) < 0 || (r = wh_heap_both_lock(h)) < 0)
                return r;
        r = find_used(h, u, &s);
        if (r == 0) {
                *ret_bytes = h->guard_bytes ? wh_heap_requested(h, &s) : heap_payload(h, heap_units_of(h, &s));
        }
        wh_heap_both_unlock(h);
        return r;
}

int wharf_heap_give(wharf_heap *heap, uint64_t offset, uint32_t owner)
{
        struct wharf_heap *h = heap;
        uint32_t u;
        struct span s;
        int r = offset_to_unit(h, offset, &u);
        if (r < 0 || (r = wh_heap_enter(h)) < 0)
                return r;
        if (owner > h->head.owners_max)
                return -ESRCH;
        if ((r = wh_heap_both_lock(h)) < 0)
                return r;
        if (owner && !atomic_load_explicit(&h->owners[owner - 1].task, memory_order_relaxed))
                r = -ESRCH;
        else
                r = find_used(h, u, &s);
        if (r == 0 && !wh_heap_retag(h, &s, s.tag.value, owner, TAG_USED, s.tag.small))
                r = wh_heap_fault(h, WHARF_FAULT_DOUBLE_FREE, u, s.tag.owner, -EALREADY);
        wh_heap_both_unlock(h);
        return r;
}

/* Both locks are held. 0: resized where it is; -ENOMEM: not here. *ret_old: bytes that were asked for before. */
static int resize_here(struct wharf_heap *h, uint32_t u, uint64_t bytes, struct span *ret, uint64_t *ret_old)
{
        int r = find_used(h, u, ret);
        if (r < 0)
                return r;
        *ret_old = wh_heap_requested(h, ret);
        r = h->policy->resize(h, u, &ret->tag, bytes);
        if (r == 0 || r == 1) {
                if (r == 1)
                        wh_heap_rebuild(h, false);
                if (h->guard_bytes)
                        guard_set(h, u, bytes);
                if (bytes < *ret_old && atomic_load_explicit(&h->live->waiting, memory_order_relaxed))
                        wh_heap_serve(h, false);
                return 0;
        }
        return r;
}

int wharf_heap_resize(wharf_heap *heap, uint64_t offset, uint64_t bytes, uint32_t flags, uint64_t *ret_offset)
{
        if (wh_unlikely(!ret_offset))
                return -EINVAL;
        struct wharf_heap *h = heap;
        uint32_t u;
        if (!bytes || flags & ~WHARF_ALLOC_ZERO)
                return -EINVAL;
        if (bytes > h->bytes_max)
                return -E2BIG;
        struct span s;
        uint64_t old_bytes = 0, new_offset = offset;
        int r = offset_to_unit(h, offset, &u);
        if (r < 0 || (r = wh_heap_enter(h)) < 0 || (r = wh_heap_both_lock(h)) < 0)
                return r;
        r = resize_here(h, u, bytes, &s, &old_bytes);
        wh_heap_both_unlock(h);
        if (r == -ENOMEM) {
                uint64_t align = h->head.align_max >= 16 && !(offset & 15) && heap_unit_bytes(h) < 16 ? 16 : 0;
                r = wharf_heap_alloc(h, bytes, align, s.tag.owner ? 0 : WHARF_ALLOC_NOBODY, 0, &new_offset);
                if (r < 0)
                        return r;
                memcpy(h->base + new_offset, h->base + offset, old_bytes < bytes ? old_bytes : bytes);
                if (s.tag.owner && s.tag.owner != h->owner)
                        wharf_heap_give(h, new_offset, s.tag.owner);
                r = wharf_heap_free(h, offset);
                if (r < 0) {
                        wharf_heap_free(h, new_offset);
                        return r;
                }
        }
        if (r < 0)
                return r;
        if (flags & WHARF_ALLOC_ZERO && bytes > old_bytes)
                memset(h->base + new_offset + old_bytes, 0, bytes - old_bytes);
        *ret_offset = new_offset;
        return 0;
}
