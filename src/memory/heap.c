#include "memory/heap_impl.h"

#include "base/cleanup.h"
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
                if (given->size < offsetof(struct wharf_heap_opts, managed_bytes) || given->size > sizeof o)
                        return -EINVAL;
                memcpy(&o, given, given->size);
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

int wharf_heap_format(void *base, uint64_t len_bytes, const struct wharf_heap_opts *opts)
{
        struct wharf_heap h = {.base = base};
        struct heap_head *d = &h.head;
        struct wharf_heap_opts o;
        int r = base && (uintptr_t)base % WH_CACHE_LINE == 0 ? read_options(opts, d, &o) : -EINVAL;
        if (r < 0)
                return r;
        if (!d->units)
                d->units = units_that_fit(d, len_bytes);
        if (!d->units || lay_out(d) > len_bytes)
                return -ENOSPC;
        if (wh_os_getrandom(&d->cookie, sizeof d->cookie) < 0)
                d->cookie = (uint64_t)wh_os_now_ns() * UINT64_C(0x9e3779b97f4a7c15) ^ wh_task_self();

        uint32_t *starts = NULL;
        /* The magic goes first and comes back last: what is half made cannot be opened. */
        memset(base, 0, d->managed_at);
        if (d->policy == WHARF_HEAP_FIXED) {
                starts = (uint32_t *)(void *)(h.base + d->starts_at);
                for (uint32_t i = 0; i < d->n_partitions; i++) {
                        uint64_t n = o.partition_bytes
                                             ? (o.partition_bytes[i] + heap_unit_bytes(&h) - 1) >> d->unit_log2
                                             : d->units / d->n_partitions;
                        starts[i + 1] = starts[i] + (uint32_t)n;
                }
        }
        d->checksum = checksum(d, starts);
        r = attach(&h);
        if (r == 0) {
                if (is_fit(d->policy))
                        heap_tag_store(&h, 0, d->units, 0, TAG_FREE, 0);
                h.policy->rebuild(&h, false);
                memcpy(h.base + sizeof d->magic, (char *)d + sizeof d->magic, sizeof *d - sizeof d->magic);
                /* [magic] Release, pairs with the acquire in wharf_heap_open(): all of the heap is there before it. */
                atomic_store_explicit((_Atomic uint64_t *)base, HEAP_MAGIC, memory_order_release);
        }
        free(h.starts);
        return r;
}

/* ---- the lock, and what a death leaves behind ---- */

int wh_heap_fault(struct wharf_heap *h, enum wharf_heap_fault_kind kind, uint32_t u, uint32_t owner, int err)
{
        struct wharf_heap_fault f = {.kind = kind, .owner = owner};
        f.offset = h->head.managed_at + (u < h->n_tags ? heap_start(h, u) : 0);
        if (owner && owner <= h->head.owners_max)
                f.owner_pid = wh_task_pid(atomic_load_explicit(&h->owners[owner - 1].task, memory_order_relaxed));
        wh_lock(&h->fault_lock);
        h->fault = f;
        wh_unlock(&h->fault_lock);
        return err;
}

void wharf_heap_why(wharf_heap *heap, struct wharf_heap_fault *ret)
{
        wh_lock(&heap->fault_lock);
        *ret = heap->fault;
        wh_unlock(&heap->fault_lock);
}

/* How many wait, and how many were granted something, is derived from their entries. */
static void count_waiting(struct wharf_heap *h)
{
        uint32_t n = 0, granted = 0;
        for (uint32_t i = 0; i < h->head.waiters_max; i++) {
                uint32_t state = atomic_load_explicit(&h->waiters[i].state, memory_order_relaxed);
                n += state == WAITER_WAITING;
                granted += state == WAITER_GRANTED;
        }
        h->live->granted = granted;
        /*
         * [waiting] Sequentially consistent, as are the exchange of the tag and the load in wharf_heap_free(): either a
         * task that frees into its cache sees that somebody waits, or whoever begins to wait finds the block there.
         */
        atomic_store_explicit(&h->live->waiting, n, memory_order_seq_cst);
}

static void rebuild(struct wharf_heap *h, bool trust)
{
        h->policy->rebuild(h, trust);
        count_waiting(h);
        h->live->repairs++;
}

void wh_heap_unlock(struct wharf_heap *h)
{
        wh_mutex_unlock(&h->live->lock);
}

/* ---- owners ---- */

static bool owner_dead(struct wharf_heap *h, uint32_t id)
{
        uint64_t task = atomic_load_explicit(&h->owners[id - 1].task, memory_order_relaxed);
        return task && !wh_task_alive(task);
}

/* Is it promised to a waiter that lives? Such a block is tagged CACHED, but must not be taken from it. */
static bool promised(struct wharf_heap *h, const struct span *s)
{
        if (!h->live->granted)
                return false;
        for (uint32_t i = 0; i < h->head.waiters_max; i++) {
                struct heap_waiter *w = &h->waiters[i];
                if (atomic_load_explicit(&w->state, memory_order_relaxed) == WAITER_GRANTED && w->unit == s->u &&
                    w->owner == s->tag.owner)
                        return true;
        }
        return false;
}

/* From one raw tag to another with the same extent (H3). False: somebody else was faster. */
static bool retag(struct wharf_heap *h, const struct span *s, uint32_t value, uint32_t owner, uint32_t state,
                  uint32_t small)
{
        uint64_t raw = s->tag.raw;
        /* [tag] Both, pairs with heap_tag_load() and the other exchanges. */
        return atomic_compare_exchange_strong_explicit(heap_tag_at(h, s->u), &raw,
                                                       heap_tag_make(h, s->u, value, owner, state, small),
                                                       memory_order_acq_rel, memory_order_acquire);
}

/* The lock is held. False: it changed meanwhile. */
static bool give_back(struct wharf_heap *h, const struct span *s)
{
        /* A buddy tag can be changed without the lock: win it first. Others cannot, and give() reads the extent in it.
         */
        if (h->policy == &wh_heap_buddy && !retag(h, s, 0, s->tag.owner, TAG_FREE, 0))
                return false;
        int r = h->policy->give(h, s->u, &s->tag);
        if (r > 0) {
                wh_heap_fault(h, WHARF_FAULT_INDEX, s->u, 0, 0);
                rebuild(h, false);
        }
        return r >= 0;
}

/* The request is withdrawn; what it was granted and did not take is a hole again. The lock is held. */
static void waiter_drop(struct wharf_heap *h, struct heap_waiter *w)
{
        uint32_t was = atomic_load_explicit(&w->state, memory_order_relaxed);
        struct span s = {.u = w->unit};
        atomic_store_explicit(&w->state, WAITER_FREE, memory_order_relaxed);
        if (was == WAITER_GRANTED && s.u < h->n_tags && heap_tag_load(h, s.u, &s.tag) && s.tag.state == TAG_CACHED &&
            s.tag.owner == w->owner)
                give_back(h, &s);
}

/* The place is anybody's again. Nothing is tagged with it any more. */
static void owner_release(struct wharf_heap *h, uint32_t id)
{
        for (uint32_t i = 0; i < h->head.waiters_max; i++)
                if (h->waiters[i].owner == id)
                        waiter_drop(h, &h->waiters[i]);
        count_waiting(h);
        atomic_store_explicit(&h->owners[id - 1].cached, 0, memory_order_relaxed);
        atomic_store_explicit(&h->owners[id - 1].task, 0, memory_order_relaxed);
}

/* A list of blocks that does not change while they are freed. */
struct batch {
        struct span *spans;
        uint32_t n, room;
        struct span some[64];
};

static void batch_init(struct batch *b, uint64_t expected)
{
        b->n = 0;
        b->spans = expected > 64 ? wh_os_malloc(expected * sizeof(struct span)) : NULL;
        b->room = b->spans ? (uint32_t)expected : 64;
        if (!b->spans)
                b->spans = b->some; /* then it takes more rounds */
}

static void batch_done(struct batch *b)
{
        if (b->spans != b->some)
                free(b->spans);
}

static uint64_t count_blocks(struct wharf_heap *h, uint32_t state)
{
        struct span s;
        uint64_t n = 0;
        for (uint32_t u = 0; h->policy->block(h, u, &s); u += s.n)
                n += s.state == state;
        return n < UINT32_MAX / 2 ? n : UINT32_MAX / 2;
}

/* Every block that any task, alive or dead, keeps for later becomes a hole. Returns how many. */
static uint64_t take_all_cached(struct wharf_heap *h)
{
        struct batch b;
        uint64_t taken = 0, before;
        batch_init(&b, count_blocks(h, WHARF_BLOCK_CACHED));
        do {
                struct span s;
                before = taken;
                b.n = 0;
                for (uint32_t u = 0; b.n < b.room && h->policy->block(h, u, &s); u += s.n)
                        if (s.state == WHARF_BLOCK_CACHED && !promised(h, &s))
                                b.spans[b.n++] = s;
                for (uint32_t i = 0; i < b.n; i++)
                        taken += give_back(h, &b.spans[i]);
        } while (taken > before && b.n == b.room);
        batch_done(&b);
        return taken;
}

int wh_heap_lock(struct wharf_heap *h)
{
        int r = wh_mutex_lock(&h->live->lock, WHARF_FOREVER);
        if (r <= 0)
                return r;
        /* If we die in this, the next one is told again. A block that was just being granted is in nobody's hands. */
        rebuild(h, false);
        take_all_cached(h);
        return 0;
}

/* A place in the table for this task: an empty one, or a dead task's that holds nothing. The lock is held. */
static int owner_claim(struct wharf_heap *h)
{
        uint32_t id = 0;
        for (uint32_t i = 1; !id && i <= h->head.owners_max; i++)
                if (!atomic_load_explicit(&h->owners[i - 1].task, memory_order_relaxed))
                        id = i;
        if (!id) {
                uint8_t holds[HEAP_OWNER_DAMAGED + 1] = {0};
                struct span s;
                take_all_cached(h);
                for (uint32_t u = 0; h->policy->block(h, u, &s); u += s.n)
                        if (s.state != WHARF_BLOCK_FREE)
                                holds[s.tag.owner] = 1;
                for (uint32_t i = 1; !id && i <= h->head.owners_max; i++)
                        if (!holds[i] && owner_dead(h, i))
                                id = i;
                if (!id)
                        return -EUSERS;
                owner_release(h, id);
        }
        h->owner = id;
        h->mine = &h->owners[id - 1];
        atomic_store_explicit(&h->mine->cached, 0, memory_order_relaxed);
        atomic_store_explicit(&h->mine->task, wh_task_self(), memory_order_relaxed);
        return 0;
}

/* After a fork: what the handle knows belongs to the parent. The robust lock keeps two threads of the child apart. */
int wh_heap_enter_slow(struct wharf_heap *h)
{
        int r = wh_heap_lock(h);
        if (r < 0)
                return r;
        if (atomic_load_explicit(&h->task, memory_order_relaxed) != wh_task_self()) {
                r = owner_claim(h);
                if (r == 0) {
                        memset(h->n_cache, 0, sizeof h->n_cache);
                        h->cache_lock = WH_LOCK_INIT; /* a thread of the parent may have held it */
                        h->fault_lock = WH_LOCK_INIT;
                        atomic_store_explicit(&h->task, wh_task_self(), memory_order_release);
                }
        }
        wh_heap_unlock(h);
        return r;
}

static void heap_handle_free(struct wharf_heap *h)
{
        free(h->starts);
        free(h);
}
WH_AUTO_DEFINE(heap_handle, struct wharf_heap, heap_handle_free);

int wharf_heap_open(void *base, uint64_t len_bytes, wharf_heap **ret)
{
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
        if (lay_out(&same) > len_bytes || memcmp(&same, d, sizeof same))
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
        r = owner_claim(h);
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
                                retag(heap, &s, s.tag.value, WHARF_NOBODY, TAG_USED, s.tag.small);
                owner_release(heap, heap->owner);
                wh_heap_unlock(heap);
        }
        heap_handle_free(heap);
        return NULL;
}

int wharf_heap_self(wharf_heap *heap)
{
        int r = wh_heap_enter(heap);
        return r < 0 ? r : (int)heap->owner;
}

/* ---- this task's cache of free blocks (buddy): both locks, or cache_lock where it says so ---- */

uint64_t wh_heap_flush(struct wharf_heap *h)
{
        uint64_t given = 0;
        for (uint32_t k = 0; k < h->cache_orders; k++)
                while (h->n_cache[k]) {
                        struct span s = {.u = h->cache[k][--h->n_cache[k]]};
                        if (heap_tag_load(h, s.u, &s.tag) && s.tag.state == TAG_CACHED && s.tag.owner == h->owner &&
                            s.tag.small == k && !promised(h, &s))
                                given += give_back(h, &s);
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
                    s.tag.small == order && !promised(h, &s))
                        give_back(h, &s);
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
                /* [tag] H3. It fails when another task in need took the block meanwhile. */
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
                        rebuild(h, false);
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
                if (!cached || !take_all_cached(h))
                        return r;
        }
        return r;
}

/* Serve the queue in the order of arrival as far as there is room. Both locks are held. */
static void serve(struct wharf_heap *h, bool look_for_dead)
{
        while (atomic_load_explicit(&h->live->waiting, memory_order_relaxed)) {
                struct heap_waiter *first = NULL;
                for (uint32_t i = 0; i < h->head.waiters_max; i++) {
                        struct heap_waiter *w = &h->waiters[i];
                        if (atomic_load_explicit(&w->state, memory_order_relaxed) == WAITER_WAITING &&
                            (!first || w->ticket < first->ticket))
                                first = w;
                }
                uint32_t owner = first ? first->owner : 0, u;
                bool nonsense = first &&
                                (!owner || owner > h->head.owners_max || !first->bytes || first->bytes > h->bytes_max ||
                                 first->align > h->head.align_max || (first->align && !wh_is_pow2(first->align)));
                if (!first || nonsense || (look_for_dead && owner_dead(h, owner))) {
                        if (first)
                                waiter_drop(h, first);
                        count_waiting(h);
                        continue;
                }
                if (take(h, first->bytes, first->align, owner, TAG_CACHED, &u) < 0)
                        return;
                first->unit = u;
                /* [waiter] Release, pairs with the acquire in wait_in_queue(). */
                atomic_store_explicit(&first->state, WAITER_GRANTED, memory_order_release);
                count_waiting(h);
                wh_os_futex_wake((_Atomic uint32_t *)&first->state, 1, true);
        }
}

static void both_unlock(struct wharf_heap *h)
{
        wh_heap_unlock(h);
        wh_unlock(&h->cache_lock);
}

static int both_lock(struct wharf_heap *h)
{
        wh_lock(&h->cache_lock);
        int r = wh_heap_lock(h);
        if (r < 0)
                wh_unlock(&h->cache_lock);
        return r;
}

static struct heap_waiter *waiter_place(struct wharf_heap *h)
{
        for (int round = 0; round < 2; round++)
                for (uint32_t i = 0; i < h->head.waiters_max; i++) {
                        struct heap_waiter *w = &h->waiters[i];
                        if (atomic_load_explicit(&w->state, memory_order_relaxed) == WAITER_FREE ||
                            (round && (!w->owner || w->owner > h->head.owners_max || owner_dead(h, w->owner)))) {
                                waiter_drop(h, w);
                                return w;
                        }
                }
        return NULL;
}

/* The block that was granted becomes the waiter's. False: it was lost on the way, so wait on. Both locks are held. */
static bool accept_grant(struct wharf_heap *h, struct heap_waiter *w, uint32_t owner, uint32_t *ret_u)
{
        struct span s = {.u = w->unit};
        if (s.u >= h->n_tags || !heap_tag_load(h, s.u, &s.tag) || s.tag.state != TAG_CACHED ||
            s.tag.owner != h->owner || !retag(h, &s, s.tag.value, owner, TAG_USED, s.tag.small))
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
        atomic_store_explicit(&w->state, WAITER_WAITING, memory_order_release);
        count_waiting(h);
        /* [waiting] Look again after having said so: somebody may have freed into a cache in between. */
        serve(h, true);
        int r = 0;
        for (unsigned rounds = 0;; rounds++) {
                /* [waiter] Acquire, pairs with the release in serve(). */
                uint32_t state = atomic_load_explicit(&w->state, memory_order_acquire);
                if (state == WAITER_GRANTED && accept_grant(h, w, owner, ret_u))
                        break;
                if (state != WAITER_WAITING) {
                        atomic_store_explicit(&w->state, WAITER_WAITING, memory_order_relaxed);
                        count_waiting(h);
                        serve(h, true);
                        if (atomic_load_explicit(&w->state, memory_order_acquire) == WAITER_GRANTED)
                                continue;
                }
                if (deadline_ns != WHARF_FOREVER && wh_os_now_ns() >= deadline_ns) {
                        r = -ETIMEDOUT;
                        break;
                }
                both_unlock(h);
                int slept = wh_os_futex_wait(&w->state, WAITER_WAITING, wh_sleep_until(rounds, deadline_ns), true);
                int locked = both_lock(h);
                if (locked < 0) {
                        wh_lock(&h->cache_lock); /* -EDEADLK is impossible here; keep what the caller expects */
                        return locked;
                }
                /* Whoever should have served us, or waits before us, may have died. */
                if (slept == -ETIMEDOUT)
                        serve(h, true);
        }
        atomic_store_explicit(&w->state, WAITER_FREE, memory_order_relaxed);
        count_waiting(h);
        if (r < 0)
                serve(h, false); /* those behind us may fit */
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
        r = queue && deadline_ns > 0 ? -ENOMEM : take(h, bytes, align, owner, TAG_USED, ret_u);
        if (r == -ENOMEM && deadline_ns > 0)
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
        uint32_t n = h->starts                     ? h->starts[s->u + 1] - h->starts[s->u]
                     : h->policy == &wh_heap_buddy ? (uint32_t)1 << s->tag.small
                                                   : s->tag.value;
        uint64_t room = heap_payload(h, n);
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
        if (wh_unlikely(!bytes || flags & ~(WHARF_ALLOC_ZERO | WHARF_ALLOC_NOBODY) ||
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
        /* The check is 14 bits: whatever slips through must still lie inside. */
        bool inside =
                h->starts || (h->policy == &wh_heap_buddy
                                      ? s.tag.small < h->map.n_orders && !(u & (((uint32_t)1 << s.tag.small) - 1)) &&
                                                wh_inside(u, (uint64_t)1 << s.tag.small, h->head.units)
                                      : s.tag.value && wh_inside(u, s.tag.value, h->head.units));
        if (wh_unlikely(!inside))
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
        if (r == 0 && !give_back(h, &s))
                r = h->policy == &wh_heap_buddy ? wh_heap_fault(h, WHARF_FAULT_DOUBLE_FREE, u, s.tag.owner, -EALREADY)
                                                : -EUCLEAN;
        if (r == 0 && atomic_load_explicit(&h->live->waiting, memory_order_relaxed))
                serve(h, false);
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
                serve(h, false);
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
                        u & (((uint32_t)1 << order) - 1) || h->guard_bytes ||
                        atomic_load_explicit(&h->live->waiting, memory_order_relaxed)))
                return false;
        if (wh_unlikely(h->n_cache[order] == HEAP_CACHE_DEPTH)) {
                cache_relief(h, order, true);
                if (h->n_cache[order] == HEAP_CACHE_DEPTH)
                        return false;
        }
        heap_bump(&h->mine->cached, 1);
        uint64_t raw = t.raw;
        /* [tag] H3. [waiting] Sequentially consistent, before the load below: see count_waiting(). */
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
        struct wharf_heap *h = heap;
        uint32_t u;
        struct span s;
        int r = offset_to_unit(h, offset, &u);
        if (r < 0 || (r = wh_heap_enter(h)) < 0 || (r = both_lock(h)) < 0)
                return r;
        r = find_used(h, u, &s);
        if (r == 0) {
                uint32_t n = h->starts                     ? h->starts[u + 1] - h->starts[u]
                             : h->policy == &wh_heap_buddy ? (uint32_t)1 << s.tag.small
                                                           : s.tag.value;
                *ret_bytes = h->guard_bytes ? wh_heap_requested(h, &s) : heap_payload(h, n);
        }
        both_unlock(h);
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
        if ((r = both_lock(h)) < 0)
                return r;
        if (owner && !atomic_load_explicit(&h->owners[owner - 1].task, memory_order_relaxed))
                r = -ESRCH;
        else
                r = find_used(h, u, &s);
        if (r == 0 && !retag(h, &s, s.tag.value, owner, TAG_USED, s.tag.small))
                r = wh_heap_fault(h, WHARF_FAULT_DOUBLE_FREE, u, s.tag.owner, -EALREADY);
        both_unlock(h);
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
                        rebuild(h, false);
                if (h->guard_bytes)
                        guard_set(h, u, bytes);
                if (bytes < *ret_old && atomic_load_explicit(&h->live->waiting, memory_order_relaxed))
                        serve(h, false);
                return 0;
        }
        return r;
}

int wharf_heap_resize(wharf_heap *heap, uint64_t offset, uint64_t bytes, uint32_t flags, uint64_t *ret_offset)
{
        struct wharf_heap *h = heap;
        uint32_t u;
        if (!bytes || flags & ~WHARF_ALLOC_ZERO)
                return -EINVAL;
        if (bytes > h->bytes_max)
                return -E2BIG;
        struct span s;
        uint64_t old_bytes = 0, new_offset = offset;
        int r = offset_to_unit(h, offset, &u);
        if (r < 0 || (r = wh_heap_enter(h)) < 0 || (r = both_lock(h)) < 0)
                return r;
        r = resize_here(h, u, bytes, &s, &old_bytes);
        both_unlock(h);
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

void *wharf_heap_at(wharf_heap *heap, uint64_t offset, uint64_t len_bytes)
{
        if (offset < heap->head.managed_at ||
            !wh_inside(offset - heap->head.managed_at, len_bytes, heap->head.managed_bytes))
                return NULL;
        return heap->base + offset;
}

int wharf_heap_offset(wharf_heap *heap, const void *at, uint64_t *ret_offset)
{
        uint64_t rel = (uint64_t)((uintptr_t)at - (uintptr_t)heap->base) - heap->head.managed_at;
        if (rel >= heap->head.managed_bytes)
                return -EFAULT;
        *ret_offset = rel + heap->head.managed_at;
        return 0;
}

int wharf_heap_root(wharf_heap *heap, uint32_t which, uint64_t *ret_offset)
{
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

/* ---- what dead owners held ---- */

int64_t wharf_heap_reclaim(wharf_heap *heap, bool (*keep)(uint64_t offset, uint64_t bytes, void *arg), void *arg)
{
        struct wharf_heap *h = heap;
        int r = wh_heap_enter(h);
        if (r < 0 || (r = both_lock(h)) < 0)
                return r;
        uint8_t dead[HEAP_OWNER_DAMAGED + 1] = {0};
        bool any = false;
        for (uint32_t id = 1; id <= h->head.owners_max; id++)
                any |= dead[id] = owner_dead(h, id);
        int64_t freed = 0;
        if (any) {
                struct batch b;
                batch_init(&b, count_blocks(h, WHARF_BLOCK_USED));
                do {
                        struct span s;
                        b.n = 0;
                        for (uint32_t u = 0; b.n < b.room && h->policy->block(h, u, &s); u += s.n)
                                if (s.state == WHARF_BLOCK_USED && dead[s.tag.owner])
                                        b.spans[b.n++] = s;
                        for (uint32_t i = 0; i < b.n; i++) {
                                struct span *d = &b.spans[i];
                                if (keep &&
                                    keep(h->head.managed_at + heap_start(h, d->u), wh_heap_requested(h, d), arg))
                                        retag(h, d, d->tag.value, WHARF_NOBODY, TAG_USED, d->tag.small);
                                else if (give_back(h, d))
                                        freed++;
                                else /* its neighbourhood is damaged, so it cannot be freed; it must not come again */
                                        retag(h, d, d->tag.value, HEAP_OWNER_DAMAGED, TAG_USED, d->tag.small);
                        }
                } while (b.n == b.room);
                batch_done(&b);
                take_all_cached(h);
                for (uint32_t id = 1; id <= h->head.owners_max; id++)
                        if (dead[id])
                                owner_release(h, id);
                serve(h, true);
        }
        both_unlock(h);
        return freed;
}
