/*
 * buffer - items between producers and consumers, in memory that any of them may leave at any instruction.
 *
 * Why so plain: two numbers are the whole truth of a bounded buffer, and one list that of an unbounded one. Each call
 * prepares its work where nobody looks and makes it true by one store, so there is never half an item, and what a dead
 * holder of the lock leaves is either nothing or memory that no list leads to.
 *
 *      bounded, circular   | head | places of stride bytes: length, item | ...
 *      unbounded           | head | a heap of this buffer's own, whose blocks are nodes of the list |
 *
 * Always true:
 *   B1  bounded:   items got .. put - 1 are whole; put - got <= places. `put` and `got` change under the lock
 *   B2  circular:  the same without a lock: only the producer stores `put`, only the consumer stores `got`, and never
 *                  put - got == places. The textbook's indices are in = put % places and out = got % places
 *   B3  unbounded: the nodes that `first` leads to are the items. `last`, the counts, and that no block of the heap
 *                  lies beside the list are derived: after a death inside the lock they are made again before anything
 *                  else. `repair_due` stays set until that has been done, so a repair that fails or dies is made again
 *   B4  The head below `magic` never changes after format; handles keep a checked copy. What is read from shared
 *       memory is compared with it before it is used.
 */
#include "base/bits.h"
#include "base/cleanup.h"
#include "base/opts.h"
#include "base/trace.h"
#include "os/os.h"
#include "os/task.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <wharf/buffer.h>
#include <wharf/heap.h>
#include <wharf/sync.h>

#define BUFFER_MAGIC UINT64_C(0x0a66754268667277) /* "wrfhBuf\n" in memory */
#define BUFFER_VERSION 1
#define ITEM_BYTES_MAX ((uint64_t)1 << 30)
#define PLACES_MAX ((uint32_t)1 << 31)
#define PLACE_HEAD 8

struct buffer_head {
        _Atomic uint64_t magic; /* stored last by format */
        uint32_t version, kind;
        uint64_t len_bytes;
        uint64_t item_bytes_max; /* bounded and circular */
        uint64_t stride;         /* of places */
        uint32_t places, users_max;
        uint64_t unused[2];

        /* What producers write; in a circular buffer the producer alone. */
        _Atomic uint64_t put;
        _Atomic uint64_t producer; /* circular: the task */
        wharf_event has_item;      /* changes after `put` did */
        uint64_t unused_put[5];

        /* What consumers write. */
        _Atomic uint64_t got;
        _Atomic uint64_t consumer;
        wharf_event has_room;
        uint64_t unused_got[5];

        /* Not for circular. */
        wharf_mutex lock;
        _Atomic uint64_t repairs;
        _Atomic uint32_t repair_due;
        uint32_t unused_lock;
        _Atomic uint64_t first; /* unbounded: offset in the heap, 0 when empty; what get() stores */
        _Atomic uint64_t last;  /* derived */
};
static_assert(sizeof(struct buffer_head) == 256, "four lines: what never changes, producers, consumers, the lock");

/* Before the item in its place, or in its block of the heap. */
struct place {
        uint64_t bytes;
        uint8_t item[];
};
static_assert(sizeof(struct place) == PLACE_HEAD, "stride counts on it");

struct node {
        _Atomic uint64_t next; /* what put() stores, unless the list is empty */
        uint64_t bytes;
        uint8_t item[];
};

struct wharf_buffer {
        struct buffer_head *head;
        uint8_t *places;
        uint32_t kind, n; /* B4 */
        uint64_t item_bytes_max, stride;
        wharf_heap *heap; /* unbounded */
};

WH_AUTO_DEFINE(buffer, wharf_buffer, (void)wharf_buffer_close);

/* ---- making one ---- */

/* Bounded and circular: the checked options, or -EINVAL. `room` for places when their number is left open. */
static int places_of(const struct wharf_buffer_opts *o, uint64_t room, uint64_t *ret_stride, uint32_t *ret_places)
{
        uint64_t item = o->item_bytes_max ? o->item_bytes_max : 64;
        if (item > ITEM_BYTES_MAX || o->places > PLACES_MAX || o->memory_bytes)
                return -EINVAL;
        uint64_t stride = wh_round_up(item + PLACE_HEAD, 8), n = o->places ? o->places : room / stride;
        if (n > PLACES_MAX)
                n = PLACES_MAX;
        if (o->places && o->kind == WHARF_BUFFER_CIRCULAR && n < 2)
                return -EINVAL;
        *ret_stride = stride;
        *ret_places = (uint32_t)n;
        return n < (o->kind == WHARF_BUFFER_CIRCULAR ? 2 : 1) ? -ENOSPC : 0;
}

/* Next fit: what comes in first goes out first, so holes follow each other around as in a ring. */
static struct wharf_heap_opts heap_opts(const struct wharf_buffer_opts *o)
{
        return (struct wharf_heap_opts){
                .size = sizeof(struct wharf_heap_opts),
                .policy = WHARF_HEAP_NEXT_FIT,
                .owners_max = o->users_max,
                .waiters_max = 1,
        };
}

static int check_opts(const struct wharf_buffer_opts *opts, struct wharf_buffer_opts *ret)
{
        *ret = (struct wharf_buffer_opts){.size = sizeof *ret};
        if (opts && !wh_opts_take(ret, sizeof *ret, sizeof *opts, opts, opts->size))
                return -EINVAL;
        if (ret->kind > WHARF_BUFFER_CIRCULAR || ret->users_max > WHARF_HEAP_OWNERS_MAX)
                return -EINVAL;
        return ret->kind == WHARF_BUFFER_UNBOUNDED && (ret->places || ret->item_bytes_max) ? -EINVAL : 0;
}

uint64_t wharf_buffer_bytes_needed(const struct wharf_buffer_opts *opts)
{
        struct wharf_buffer_opts o;
        uint64_t stride;
        uint32_t n;
        if (check_opts(opts, &o) < 0)
                return 0;
        if (o.kind == WHARF_BUFFER_UNBOUNDED)
                return o.memory_bytes && o.memory_bytes < INT64_MAX ? sizeof(struct buffer_head) + o.memory_bytes : 0;
        if (!o.places || places_of(&o, 0, &stride, &n) < 0)
                return 0;
        return sizeof(struct buffer_head) + n * stride;
}

int wharf_buffer_format(void *base, uint64_t len_bytes, const struct wharf_buffer_opts *opts)
{
        struct wharf_buffer_opts o;
        int r = check_opts(opts, &o);
        if (r < 0 || (uintptr_t)base % WH_CACHE_LINE || !base)
                return wh_trace(-EINVAL);
        if (len_bytes < sizeof(struct buffer_head))
                return wh_trace(-ENOSPC);
        uint64_t room = len_bytes - sizeof(struct buffer_head), stride = 0;
        uint32_t n = 0;
        struct buffer_head *head = base;
        if (o.kind != WHARF_BUFFER_UNBOUNDED) {
                r = places_of(&o, room, &stride, &n);
                if (r == 0 && n * stride > room)
                        r = -ENOSPC;
        } else {
                struct wharf_heap_opts h = heap_opts(&o);
                if (o.memory_bytes > room)
                        return wh_trace(-ENOSPC);
                room = o.memory_bytes ? o.memory_bytes : room;
                r = wharf_heap_format(head + 1, room, &h);
        }
        if (r < 0)
                return wh_trace(r);
        /* [made] The magic goes first and comes last, so that whoever opens it meanwhile finds no buffer. */
        atomic_store_explicit(&head->magic, 0, memory_order_release);
        atomic_thread_fence(memory_order_release);
        memset((char *)head + sizeof head->magic, 0, sizeof *head - sizeof head->magic);
        head->version = BUFFER_VERSION;
        head->kind = o.kind;
        head->len_bytes = sizeof *head + (stride ? n * stride : room);
        head->item_bytes_max = stride ? (o.item_bytes_max ? o.item_bytes_max : 64) : UINT64_MAX;
        head->stride = stride;
        head->places = n;
        head->users_max = o.users_max;
        /* [made] Release, pairs with the acquire in wharf_buffer_open(). */
        atomic_store_explicit(&head->magic, BUFFER_MAGIC, memory_order_release);
        return 0;
}

int wharf_buffer_open(void *base, uint64_t len_bytes, wharf_buffer **ret)
{
        if (wh_unlikely(!ret))
                return -EINVAL;
        struct buffer_head *head = base;
        if (!base || (uintptr_t)base % WH_CACHE_LINE)
                return wh_trace(-EINVAL);
        /* [made] Acquire, pairs with the release in wharf_buffer_format(). */
        if (len_bytes < sizeof *head || atomic_load_explicit(&head->magic, memory_order_acquire) != BUFFER_MAGIC)
                return wh_trace(-EUCLEAN);
        if (head->version != BUFFER_VERSION)
                return wh_trace(-EPROTONOSUPPORT);
        WH_AUTO(buffer) wharf_buffer *b = wh_os_calloc(1, sizeof *b);
        if (!b)
                return wh_trace(-ENOMEM);
        b->head = head;
        b->places = (uint8_t *)(head + 1);
        b->kind = head->kind;
        b->n = head->places;
        b->stride = head->stride;
        b->item_bytes_max = head->item_bytes_max;
        uint64_t len = head->len_bytes;
        if (b->kind > WHARF_BUFFER_CIRCULAR || len > len_bytes || len < sizeof *head)
                return wh_trace(-EUCLEAN);
        len -= sizeof *head;
        if (b->kind == WHARF_BUFFER_UNBOUNDED) {
                int r = wharf_heap_open(head + 1, len, &b->heap);
                if (r < 0)
                        return wh_trace(r);
        } else if (!b->n || b->n > PLACES_MAX || b->item_bytes_max > ITEM_BYTES_MAX ||
                   b->stride != wh_round_up(b->item_bytes_max + PLACE_HEAD, 8) || b->n * b->stride > len) {
                return wh_trace(-EUCLEAN);
        }
        *ret = wh_steal(&b);
        return 0;
}

wharf_buffer *wharf_buffer_close(wharf_buffer *b)
{
        if (!b)
                return NULL;
        wharf_heap_close(b->heap);
        free(b);
        return NULL;
}

/* ---- unbounded: the list, and how it is put right ---- */

/* The node at an offset that stands in shared memory, and the bytes of its item; NULL when it makes no sense. */
static struct node *node_at(const wharf_buffer *b, uint64_t offset, uint64_t *ret_bytes)
{
        struct node *n = offset % _Alignof(struct node) ? NULL : wharf_heap_at(b->heap, offset, sizeof *n);
        if (!n)
                return NULL;
        uint64_t bytes = *(volatile uint64_t *)&n->bytes; /* one load: it is checked and then used */
        if (bytes > ITEM_BYTES_MAX || !wharf_heap_at(b->heap, offset, sizeof *n + bytes))
                return NULL;
        *ret_bytes = bytes;
        return n;
}

static int by_value(const void *a, const void *b)
{
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
        return (x > y) - (x < y);
}

struct offsets {
        uint64_t *at;
        uint64_t n, max;
};

static int note_used(const struct wharf_block *block, void *arg)
{
        struct offsets *o = arg;
        if (block->state != WHARF_BLOCK_USED)
                return 0;
        if (o->n == o->max)
                return 1;
        o->at[o->n++] = block->offset;
        return 0;
}

/*
 * B3: all that is derived, from the list. The lock is held, and the heap is used by nobody without it, so a block that
 * the list does not lead to is one that a dead task had just allocated, or had just taken out.
 */
static int repair(wharf_buffer *b)
{
        struct buffer_head *h = b->head;
        struct wharf_heap_figures f;
        int r = wharf_heap_figures(b->heap, &f);
        if (r < 0)
                return r;
        WH_AUTO_MEM uint64_t *used = wh_os_malloc((f.used_blocks + 1) * sizeof *used);
        WH_AUTO_MEM uint64_t *listed = wh_os_malloc((f.used_blocks + 1) * sizeof *listed);
        if (!used || !listed)
                return -ENOMEM;
        struct offsets all = {used, 0, f.used_blocks};
        r = wharf_heap_walk(b->heap, note_used, &all);
        if (r)
                return r < 0 ? r : -EUCLEAN;

        uint64_t n = 0, last = 0;
        for (uint64_t at = atomic_load_explicit(&h->first, memory_order_relaxed); at;) {
                uint64_t bytes;
                struct node *node = node_at(b, at, &bytes);
                if (!node || n == all.n) /* leads outside, or in a circle */
                        return -EUCLEAN;
                listed[n++] = last = at;
                at = atomic_load_explicit(&node->next, memory_order_relaxed);
        }
        qsort(listed, n, sizeof *listed, by_value);
        for (uint64_t i = 0; i < all.n; i++)
                if (!bsearch(&used[i], listed, n, sizeof *listed, by_value))
                        wharf_heap_free(b->heap, used[i]); /* fails when it is damaged: then it is lost, as it should */
        /* Relaxed, all of these: the lock orders them. */
        atomic_store_explicit(&h->last, last, memory_order_relaxed);
        atomic_store_explicit(&h->put, atomic_load_explicit(&h->got, memory_order_relaxed) + n, memory_order_relaxed);
        return 0;
}

static void unlock(wharf_buffer *b)
{
        wharf_mutex_unlock(&b->head->lock);
}

static int lock(wharf_buffer *b, int64_t deadline_ns)
{
        struct buffer_head *h = b->head;
        int r = wharf_mutex_lock(&h->lock, deadline_ns ? deadline_ns : WHARF_FOREVER);
        if (r < 0)
                return r;
        /* Relaxed, all of these: the lock orders them. */
        if (r == WHARF_HOLDER_DIED) {
                atomic_store_explicit(&h->repair_due, 1, memory_order_relaxed);
                uint64_t n = atomic_load_explicit(&h->repairs, memory_order_relaxed);
                atomic_store_explicit(&h->repairs, n + 1, memory_order_relaxed);
        }
        if (wh_likely(!atomic_load_explicit(&h->repair_due, memory_order_relaxed)))
                return 0;
        r = b->kind == WHARF_BUFFER_UNBOUNDED ? repair(b) : 0; /* B1: nothing is derived */
        if (r == 0)
                atomic_store_explicit(&h->repair_due, 0, memory_order_relaxed);
        else
                unlock(b);
        return wh_trace(r);
}

/* The lock is held. -EAGAIN when there is no room now. */
static int put_node(wharf_buffer *b, const void *item, uint64_t bytes)
{
        struct buffer_head *h = b->head;
        uint64_t at, last_bytes;
        struct node *last = NULL;
        uint64_t last_at = atomic_load_explicit(&h->last, memory_order_relaxed);
        if (last_at && !(last = node_at(b, last_at, &last_bytes)))
                return -EUCLEAN;
        int r = wharf_heap_alloc(b->heap, sizeof(struct node) + bytes, 0, WHARF_ALLOC_NOBODY, 0, &at);
        if (r < 0)
                return r == -ENOMEM ? -EAGAIN : r == -E2BIG ? -EMSGSIZE : r;
        struct node *node = wharf_heap_at(b->heap, at, sizeof *node + bytes);
        atomic_store_explicit(&node->next, 0, memory_order_relaxed);
        node->bytes = bytes;
        if (bytes)
                memcpy(node->item, item, bytes);
        /*
         * [node] Release: if we die after it, the item is whole for whoever repairs (the kernel's word of our death
         * orders nothing). It pairs with the acquire of the lock by the next holder.
         */
        atomic_store_explicit(last ? &last->next : &h->first, at, memory_order_release);
        atomic_store_explicit(&h->last, at, memory_order_relaxed);
        atomic_store_explicit(&h->put, atomic_load_explicit(&h->put, memory_order_relaxed) + 1, memory_order_relaxed);
        return 0;
}

static int64_t get_node(wharf_buffer *b, void *item, uint64_t cap)
{
        struct buffer_head *h = b->head;
        uint64_t at = atomic_load_explicit(&h->first, memory_order_relaxed), bytes;
        if (!at)
                return -EAGAIN;
        struct node *node = node_at(b, at, &bytes);
        if (!node)
                return -EUCLEAN;
        if (bytes > cap)
                return -EMSGSIZE;
        if (bytes)
                memcpy(item, node->item, bytes);
        uint64_t next = atomic_load_explicit(&node->next, memory_order_relaxed);
        /* [node] Release: as in put_node(). From here on the item is ours. */
        atomic_store_explicit(&h->first, next, memory_order_release);
        if (!next)
                atomic_store_explicit(&h->last, 0, memory_order_relaxed);
        atomic_store_explicit(&h->got, atomic_load_explicit(&h->got, memory_order_relaxed) + 1, memory_order_relaxed);
        if (wharf_heap_free(b->heap, at) < 0) /* damaged: the item is good, its memory is not */
                atomic_store_explicit(&h->repair_due, 1, memory_order_relaxed);
        return (int64_t)bytes;
}

/* ---- bounded and circular: places ---- */

static struct place *place_of(const wharf_buffer *b, uint64_t number)
{
        return (struct place *)(void *)(b->places + number % b->n * b->stride);
}

/* `full`: how many items are too many to put one more. */
static int put_place(wharf_buffer *b, const void *item, uint64_t bytes, uint64_t full)
{
        struct buffer_head *h = b->head;
        if (bytes > b->item_bytes_max)
                return -EMSGSIZE;
        uint64_t put = atomic_load_explicit(&h->put, memory_order_relaxed);
        /* [got] Acquire, pairs with the release in get_place(): the consumer is done with the place. */
        uint64_t items = put - atomic_load_explicit(&h->got, memory_order_acquire);
        if (items > full)
                return -EUCLEAN;
        if (items == full)
                return -EAGAIN;
        struct place *p = place_of(b, put);
        p->bytes = bytes;
        if (bytes)
                memcpy(p->item, item, bytes);
        /* [put] Release, pairs with the acquire in get_place(): the item first, then the number. */
        atomic_store_explicit(&h->put, put + 1, memory_order_release);
        return 0;
}

static int64_t get_place(wharf_buffer *b, void *item, uint64_t cap, uint64_t full)
{
        struct buffer_head *h = b->head;
        uint64_t got = atomic_load_explicit(&h->got, memory_order_relaxed);
        /* [put] Acquire, pairs with the release in put_place(): the item is whole. */
        uint64_t items = atomic_load_explicit(&h->put, memory_order_acquire) - got;
        if (items > full)
                return -EUCLEAN;
        if (!items)
                return -EAGAIN;
        struct place *p = place_of(b, got);
        uint64_t bytes = *(volatile uint64_t *)&p->bytes; /* one load: it is checked and then used */
        if (bytes > b->item_bytes_max)
                return -EUCLEAN;
        if (bytes > cap)
                return -EMSGSIZE;
        if (bytes)
                memcpy(item, p->item, bytes);
        /* [got] Release, pairs with the acquire in put_place(): we are done with the place. */
        atomic_store_explicit(&h->got, got + 1, memory_order_release);
        return (int64_t)bytes;
}

/* Circular: this task takes the seat, unless one that lives has it. */
static int take_seat(_Atomic uint64_t *seat)
{
        uint64_t me = wh_task_self();
        for (;;) {
                /* [seat] Acquire, pairs with the release below: what the one before us did is seen. */
                uint64_t who = atomic_load_explicit(seat, memory_order_acquire);
                if (wh_likely(who == me))
                        return 0;
                if (who && wh_task_alive(who))
                        return -EBUSY;
                if (atomic_compare_exchange_strong_explicit(seat, &who, me, memory_order_acq_rel, memory_order_relaxed))
                        return 0;
        }
}

/* ---- putting and getting ---- */

static int64_t try_put(wharf_buffer *b, const void *item, uint64_t bytes, int64_t deadline_ns)
{
        if (b->kind == WHARF_BUFFER_CIRCULAR) {
                int r = take_seat(&b->head->producer);
                return r < 0 ? r : put_place(b, item, bytes, b->n - 1);
        }
        int r = lock(b, deadline_ns);
        if (r < 0)
                return r;
        r = b->kind == WHARF_BUFFER_BOUNDED ? put_place(b, item, bytes, b->n) : put_node(b, item, bytes);
        unlock(b);
        return r;
}

static int64_t try_get(wharf_buffer *b, void *item, uint64_t cap, int64_t deadline_ns)
{
        if (b->kind == WHARF_BUFFER_CIRCULAR) {
                int r = take_seat(&b->head->consumer);
                return r < 0 ? r : get_place(b, item, cap, b->n - 1);
        }
        int64_t r = lock(b, deadline_ns);
        if (r < 0)
                return r;
        r = b->kind == WHARF_BUFFER_BOUNDED ? get_place(b, item, cap, b->n) : get_node(b, item, cap);
        unlock(b);
        return r;
}

int wharf_buffer_put(wharf_buffer *b, const void *item, uint64_t bytes, int64_t deadline_ns)
{
        if (wh_unlikely(!item && bytes))
                return wh_trace(-EINVAL);
        if (bytes > ITEM_BYTES_MAX)
                return wh_trace(-EMSGSIZE);
        for (;;) {
                uint32_t key = wharf_event_key(&b->head->has_room);
                int r = (int)try_put(b, item, bytes, deadline_ns);
                if (r == 0)
                        wharf_event_wake(&b->head->has_item);
                if (r != -EAGAIN || deadline_ns == 0)
                        return r;
                if (wharf_event_wait(&b->head->has_room, key, deadline_ns) < 0) {
                        r = (int)try_put(b, item, bytes, 0); /* the last word, without waiting */
                        if (r == 0)
                                wharf_event_wake(&b->head->has_item);
                        return r == -EAGAIN ? -ETIMEDOUT : r;
                }
        }
}

int64_t wharf_buffer_get(wharf_buffer *b, void *item, uint64_t cap, int64_t deadline_ns)
{
        if (wh_unlikely(!item && cap))
                return -EINVAL;
        for (;;) {
                uint32_t key = wharf_event_key(&b->head->has_item);
                int64_t r = try_get(b, item, cap, deadline_ns);
                if (r >= 0)
                        wharf_event_wake(&b->head->has_room);
                if (r != -EAGAIN || deadline_ns == 0)
                        return r;
                if (wharf_event_wait(&b->head->has_item, key, deadline_ns) < 0) {
                        r = try_get(b, item, cap, 0); /* the last word, without waiting */
                        if (r >= 0)
                                wharf_event_wake(&b->head->has_room);
                        return r == -EAGAIN ? -ETIMEDOUT : r;
                }
        }
}

int wharf_buffer_figures(wharf_buffer *b, struct wharf_buffer_figures *ret)
{
        if (wh_unlikely(!ret))
                return -EINVAL;
        struct buffer_head *h = b->head;
        struct wharf_buffer_figures f = {.kind = b->kind, .places = b->n, .item_bytes_max = b->item_bytes_max};
        bool locks = b->kind != WHARF_BUFFER_CIRCULAR;
        int r = locks ? lock(b, WHARF_FOREVER) : 0;
        if (r < 0)
                return r;
        /*
         * [figures] Acquire, got before put: of a circular buffer in use, items may then seem more than they are, but
         * never below 0.
         */
        f.got = atomic_load_explicit(&h->got, memory_order_acquire);
        f.put = atomic_load_explicit(&h->put, memory_order_relaxed);
        f.repairs = atomic_load_explicit(&h->repairs, memory_order_relaxed);
        f.items = f.put - f.got;
        if (b->kind == WHARF_BUFFER_UNBOUNDED) {
                struct wharf_heap_figures hf;
                r = wharf_heap_figures(b->heap, &hf);
                if (r == 0) {
                        f.memory_bytes = hf.managed_bytes;
                        f.used_bytes = hf.used_bytes;
                }
        } else if (f.items > b->n && locks) {
                r = -EUCLEAN;
        }
        if (locks)
                unlock(b);
        if (r == 0)
                *ret = f;
        return r;
}
