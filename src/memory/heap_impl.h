/*
 * heap_impl - how a heap lies in shared memory, and what its policies have in common.
 *
 *      base                                                                                        base + len_bytes
 *      | heap_head | heap_live | owners | waiters | tags, nodes, starts | bitmaps | managed range ........ |
 *        sealed by   changes                        outside the range     derived
 *        a checksum
 *
 * What is true and what is derived:
 *   H1  A block is one 64-bit tag. Every call changes what is true by one store of one tag; killed before it, the call
 *       did nothing, and after it, everything. (Freed memory that is merged, or a hole that is split, is still one
 *       store: the tags it uncovers are written before, where nobody looks yet.)
 *   H2  All else about blocks (bitmaps, bins, the tree, used_units) is derived. It is written with `lock` held only.
 *       Whoever takes the lock from a dead holder builds it again from the tags before it does anything else.
 *   H3  The tag of a used block may change without the lock only from USED to CACHED and from CACHED to USED, by
 *       compare-and-swap, with the same extent (buddy only). Extents change with the lock held only.
 *   H4  The head never changes after format. Handles keep a checked private copy of it and of all bounds.
 *   H5  An index read from shared memory is compared with the private bounds before it is used as one.
 *
 * A tag, by policy, is at unit `u`:
 *      fit policies   a block of n units begins at unit u; blocks follow each other without a gap (boundary tags)
 *      buddy          a used or cached block of 2^order units begins at unit u; what no such block covers is free
 *      fixed          partition number u; here a "unit" counts partitions
 *
 *      bits 0-31   fit: length in units; buddy and fixed: slack in bytes, saturating
 *      bits 32-41  owner: 0 nobody, 1 to 1022 an owner's place, 1023 damaged: out of use for ever
 *      bits 42-43  enum tag_state
 *      bits 44-49  fit: slack in bytes; buddy: order
 *      bits 50-63  check over the rest, the place and the heap's cookie
 */
#ifndef WH_MEMORY_HEAP_IMPL_H
#define WH_MEMORY_HEAP_IMPL_H

#include "memory/freemap.h"
#include "memory/mutex.h"
#include "os/lock.h"

#include <assert.h>
#include <wharf/heap.h>

#define HEAP_MAGIC UINT64_C(0x0a70616548667277) /* "wrfHeap\n" in memory */
#define HEAP_VERSION 1
#define HEAP_OWNER_DAMAGED 1023u
#define HEAP_UNITS_MAX WH_FREEMAP_UNITS_MAX
#define HEAP_INSIDE_UNIT 16 /* unit of fit policies with headers inside */
#define HEAP_GUARD_BYTES 8
#define HEAP_BINS 256 /* holes of fewer units have a list for each length, others a tree */
#define HEAP_CACHE_DEPTH 16
#define HEAP_CACHE_BATCH 8
#define HEAP_CACHED_BYTES_MAX 65536

struct heap_head {
        uint64_t magic;
        uint32_t version, head_bytes;
        uint64_t len_bytes;     /* of the whole memory */
        uint64_t managed_at;    /* where the managed range begins; all `_at` are offsets from base */
        uint64_t managed_bytes; /* units * unit_bytes */
        uint64_t cookie;        /* random; part of every check */
        uint32_t policy, flags;
        uint32_t unit_log2, units;
        uint32_t owners_max, waiters_max;
        uint32_t n_partitions, align_max;
        uint64_t owners_at, waiters_at;
        uint64_t tags_at;   /* of tag 0 */
        uint64_t nodes_at;  /* of the links of hole 0 (fit policies) */
        uint64_t starts_at; /* n_partitions + 1 first units, uint32_t (fixed) */
        uint64_t bitmap_at;
        uint64_t checksum; /* over all of the above */
};

/* What changes. Guarded by `lock` unless it says otherwise. */
struct heap_live {
        struct wh_mutex lock;
        uint64_t ticket;     /* the last one given to a waiter */
        uint64_t used_units; /* derived: not in holes */
        uint64_t peak_units;
        uint64_t repairs;
        uint32_t rover; /* derived: where next fit goes on */
        uint32_t tree;  /* derived: root of the tree of long holes; indices here are unit + 1, 0 is none */
        uint64_t bins_used[HEAP_BINS / 64];      /* derived: which bins are not empty */
        uint32_t bin[HEAP_BINS];                 /* derived: first hole of the list of each length */
        _Atomic uint64_t root[WHARF_HEAP_ROOTS]; /* not guarded: the users' */
        /* Requests in the queue. Written with the lock held, read by whoever frees without it. A line of its own. */
        _Atomic uint32_t waiting WH_ALIGNED(WH_CACHE_LINE);
        uint32_t granted; /* derived: how many were granted a block and have not taken it yet */
};

/* A task that has the heap open. `task` is written with the lock held; 0 is a free place. */
struct heap_owner {
        _Atomic uint64_t task;
        /* Written by the owner only, so that counting costs no atomic step; they go on when the place changes hands. */
        _Atomic uint64_t allocs, frees, searches;
        _Atomic uint64_t cached; /* about how many blocks it keeps: 0 means that nothing can be taken from it */
        uint64_t unused[3];
};
static_assert(sizeof(struct heap_owner) == WH_CACHE_LINE, "one writer, one line");

/*
 *      from      when                                to        done by
 *      FREE      a request has to wait               WAITING   wait_in_queue()
 *      WAITING   it is its turn and it fits          GRANTED   serve(): the block is tagged CACHED by the waiter before
 *      GRANTED   the waiter has made the block USED  FREE      wait_in_queue()
 *      any       the deadline, or the waiter died    FREE      wait_in_queue(), waiter_drop()
 */
enum waiter_state { WAITER_FREE = 0, WAITER_WAITING, WAITER_GRANTED };
struct heap_waiter {
        _Atomic uint32_t state; /* written with the lock held; its owner sleeps on it */
        uint32_t owner;
        uint64_t bytes, align;
        uint64_t ticket; /* order of arrival */
        uint32_t unit;   /* GRANTED: the block's */
        uint32_t unused[7];
};
static_assert(sizeof(struct heap_waiter) == WH_CACHE_LINE, "one sleeper, one line");

enum tag_state { TAG_NONE = 0, TAG_FREE, TAG_USED, TAG_CACHED };

struct tag {
        uint64_t raw;
        uint32_t value, owner, state, small;
};

/* One block as next_block() answers it. */
struct span {
        uint32_t u, n;  /* fixed: partition number and 1 */
        uint32_t state; /* enum wharf_block_state */
        struct tag tag;
};

struct heap_policy;

struct wharf_heap {
        char *base;
        struct heap_head head; /* checked copy; H4 */
        struct heap_live *live;
        struct heap_owner *owners;   /* [owners_max]; id 1 is the first */
        struct heap_waiter *waiters; /* [waiters_max] */
        const struct heap_policy *policy;

        char *tags; /* tag of unit u: tags + u * tag_stride */
        char *nodes;
        uint32_t tag_stride, node_stride;
        uint32_t inside_bytes; /* 8 when the header of the next block takes them, else 0 */
        uint32_t guard_bytes;
        uint32_t n_tags;    /* units, or partitions */
        uint64_t bytes_max; /* the largest request that can ever fit */

        struct wh_freemap map;  /* buddy */
        struct wh_bitset heads; /* fit: a block, used or free, begins there */
        struct wh_bitset holes; /* first and next fit: a hole begins there; fixed: free partitions by rank */
        uint32_t *starts;       /* fixed: private copy */
        uint32_t *by_rank;      /* fixed: partitions from the smallest to the largest */
        uint32_t *rank_of;

        _Atomic uint64_t task; /* the task this handle's owner place belongs to; changes after fork */
        uint32_t owner;
        struct heap_owner *mine;

        struct wh_lock cache_lock; /* guards what follows; taken before live->lock */
        uint32_t cache_orders;     /* buddy: blocks below this order are cached */
        uint32_t n_cache[WH_FREEMAP_ORDERS];
        uint32_t cache[WH_FREEMAP_ORDERS][HEAP_CACHE_DEPTH]; /* blocks tagged CACHED by me, unless taken by others */

        struct wh_lock fault_lock;
        struct wharf_heap_fault fault;
};

/* All called with the lock held. */
struct heap_policy {
        /* Find room and tag it. 0, -ENOMEM, or -EUCLEAN when what is derived makes no sense. */
        int (*take)(struct wharf_heap *h, uint64_t bytes, uint64_t align, uint32_t owner, uint32_t state,
                    uint32_t *ret_u);
        /* A block with a valid tag becomes a hole. 0 or -EUCLEAN, with the fault noted. */
        int (*give)(struct wharf_heap *h, uint32_t u, const struct tag *t);
        /* Change the extent without moving. 0, -ENOMEM or -EUCLEAN. */
        int (*resize)(struct wharf_heap *h, uint32_t u, const struct tag *t, uint64_t bytes);
        /*
         * Take damaged blocks out of use and build all that is derived. `trust`: nobody died inside, so what is derived
         * may help to tell how far the damage reaches. Returns how many blocks were damaged.
         */
        uint32_t (*rebuild)(struct wharf_heap *h, bool trust);
        /* Is all that is derived as rebuild() would make it? */
        bool (*whole)(struct wharf_heap *h);
        /* The block that begins at s->u; false at the end. The next one is at s->u + s->n. */
        bool (*block)(struct wharf_heap *h, uint32_t u, struct span *s);
        /* Where a request of so many bytes fits if everything were free. */
        uint64_t (*bytes_max)(struct wharf_heap *h);
};
extern const struct heap_policy wh_heap_buddy, wh_heap_fit, wh_heap_fixed;

/* ---- tags ---- */

static inline _Atomic uint64_t *heap_tag_at(const struct wharf_heap *h, uint32_t u)
{
        return (_Atomic uint64_t *)(void *)(h->tags + (uint64_t)u * h->tag_stride);
}

static inline uint64_t heap_tag_check(const struct wharf_heap *h, uint32_t u, uint64_t low)
{
        uint64_t x = (low ^ h->head.cookie) + u * UINT64_C(0x9e3779b97f4a7c15);
        x = (x ^ x >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
        return x >> 50 << 50;
}

static inline uint64_t heap_tag_make(const struct wharf_heap *h, uint32_t u, uint32_t value, uint32_t owner,
                                     uint32_t state, uint32_t small)
{
        uint64_t low = value | (uint64_t)owner << 32 | (uint64_t)state << 42 | (uint64_t)small << 44;
        return low | heap_tag_check(h, u, low);
}

/* False: the check does not fit, so something wrote over it. */
static inline bool heap_tag_decode(const struct wharf_heap *h, uint32_t u, uint64_t raw, struct tag *ret)
{
        uint64_t low = raw & ((UINT64_C(1) << 50) - 1);
        *ret = (struct tag){raw, (uint32_t)low, (uint32_t)(low >> 32) & 1023, (uint32_t)(low >> 42) & 3,
                            (uint32_t)(low >> 44) & 63};
        return (raw ^ low) == heap_tag_check(h, u, low);
}

static inline bool heap_tag_load(const struct wharf_heap *h, uint32_t u, struct tag *ret)
{
        /* [tag] Acquire, pairs with heap_tag_store() and the exchanges in heap.c: what the last user wrote is seen. */
        return heap_tag_decode(h, u, atomic_load_explicit(heap_tag_at(h, u), memory_order_acquire), ret);
}

static inline void heap_tag_store(const struct wharf_heap *h, uint32_t u, uint32_t value, uint32_t owner,
                                  uint32_t state, uint32_t small)
{
        /*
         * [tag] Release, pairs with the acquire in heap_tag_load(). H1: the tags that it uncovers were written before.
         */
        atomic_store_explicit(heap_tag_at(h, u), heap_tag_make(h, u, value, owner, state, small), memory_order_release);
}

/* ---- sizes and places ---- */

static inline uint64_t heap_unit_bytes(const struct wharf_heap *h)
{
        return (uint64_t)1 << h->head.unit_log2;
}

/* Bytes from the beginning of the managed range to block u. */
static inline uint64_t heap_start(const struct wharf_heap *h, uint32_t u)
{
        return (uint64_t)(h->starts ? h->starts[u] : u) << h->head.unit_log2;
}

/* Units for a request, header and guard included. bytes <= bytes_max. */
static inline uint32_t heap_units_for(const struct wharf_heap *h, uint64_t bytes)
{
        return (uint32_t)((bytes + h->inside_bytes + h->guard_bytes + heap_unit_bytes(h) - 1) >> h->head.unit_log2);
}

/* What a block of n units offers to its user. */
static inline uint64_t heap_payload(const struct wharf_heap *h, uint32_t n)
{
        return ((uint64_t)n << h->head.unit_log2) - h->inside_bytes - h->guard_bytes;
}

/* Units of a block with that tag. Only of use if it lies inside. */
static inline uint32_t heap_units_of(const struct wharf_heap *h, const struct span *s)
{
        return h->starts                     ? h->starts[s->u + 1] - h->starts[s->u]
               : h->policy == &wh_heap_buddy ? (uint32_t)1 << (s->tag.small & 31)
                                             : s->tag.value;
}

/* The check of a tag is 14 bits, and whoever maps the heap can make it: what the tag says must still lie inside. */
static inline bool heap_inside(const struct wharf_heap *h, const struct span *s)
{
        if (h->starts && s->u >= h->n_tags)
                return false;
        if (h->policy == &wh_heap_buddy &&
            (s->tag.small >= h->map.n_orders || s->u & (((uint32_t)1 << s->tag.small) - 1)))
                return false;
        const uint32_t n = heap_units_of(h, s);
        if (s->tag.state != TAG_FREE && (uint64_t)n << h->head.unit_log2 < h->inside_bytes + h->guard_bytes)
                return false; /* what is put beside the bytes would lie before it */
        return n && (h->starts || wh_inside(s->u, n, h->head.units));
}

static inline uint32_t heap_saturate(uint64_t v)
{
        return v > UINT32_MAX ? UINT32_MAX : (uint32_t)v;
}

static inline void heap_count_used(struct wharf_heap *h, int64_t units)
{
        h->live->used_units += (uint64_t)units;
        if (h->live->used_units > h->live->peak_units && units > 0)
                h->live->peak_units = h->live->used_units;
}

static inline void heap_bump(_Atomic uint64_t *counter, uint64_t n)
{
        /* Relaxed: a statistic with one writer at a time, so no read-modify-write. */
        atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

/* ---- heap_owner.c; with the lock held unless it says otherwise ---- */

/* Remember what went wrong for wharf_heap_why(), and return err. No lock needed. */
int wh_heap_fault(struct wharf_heap *h, enum wharf_heap_fault_kind kind, uint32_t u, uint32_t owner, int err);
/* Take the lock, and do what a dead holder left undone. 0 or a negative errno. */
int wh_heap_lock(struct wharf_heap *h);
void wh_heap_unlock(struct wharf_heap *h);
/* cache_lock first, then the lock. */
int wh_heap_both_lock(struct wharf_heap *h);
void wh_heap_both_unlock(struct wharf_heap *h);
/* Everything derived anew; `trust` as in struct heap_policy. */
void wh_heap_rebuild(struct wharf_heap *h, bool trust);
/* The number of those who wait, and of those who were granted something, from their entries. */
void wh_heap_count_waiting(struct wharf_heap *h);
/* The kernel says that this owner is dead; false for an empty place. 1 <= id <= owners_max. */
bool wh_heap_owner_dead(struct wharf_heap *h, uint32_t id);
/* A place in the table for this task: an empty one, or a dead task's that holds nothing. 0 or -EUSERS. */
int wh_heap_owner_claim(struct wharf_heap *h);
/* The place is anybody's again. Nothing is tagged with it any more. */
void wh_heap_owner_release(struct wharf_heap *h, uint32_t id);
/* Is it promised to a waiter that lives? Such a block is tagged CACHED, but must not be taken from it. */
bool wh_heap_promised(struct wharf_heap *h, const struct span *s);
/* From the tag in the span to another with the same extent (H3). False: somebody else was faster. */
bool wh_heap_retag(struct wharf_heap *h, const struct span *s, uint32_t value, uint32_t owner, uint32_t state,
                   uint32_t small);
/* A used or cached block becomes a hole. False: it changed meanwhile, or what lies around it is damaged. */
bool wh_heap_give_back(struct wharf_heap *h, const struct span *s);
/* The request is withdrawn; what it was granted and did not take is a hole again. */
void wh_heap_waiter_drop(struct wharf_heap *h, struct heap_waiter *w);
/* Every block that any task, alive or dead, keeps for later becomes a hole. Returns how many. */
uint64_t wh_heap_take_all_cached(struct wharf_heap *h);

/* This task's owner place is there, also after a fork. 0 or a negative errno. No lock needed. */
int wh_heap_enter_slow(struct wharf_heap *h);
static inline int wh_heap_enter(struct wharf_heap *h)
{
        /* [entered] Acquire, pairs with the release in wh_heap_enter_slow(). */
        bool same = atomic_load_explicit(&h->task, memory_order_acquire) == wh_task_self();
        return wh_likely(same) ? 0 : wh_heap_enter_slow(h);
}

/* ---- heap_alloc.c; with both locks held ---- */

/* Serve the queue in the order of arrival as far as there is room. */
void wh_heap_serve(struct wharf_heap *h, bool look_for_dead);
/* Everything that this task has cached becomes holes: how many blocks. */
uint64_t wh_heap_flush(struct wharf_heap *h);
/* Bytes that were asked for. No lock needed. */
uint64_t wh_heap_requested(const struct wharf_heap *h, const struct span *s);

#endif
