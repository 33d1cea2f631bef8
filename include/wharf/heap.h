/*
 * wharf/heap.h - allocators that live in shared memory: buddy; first, next, best and worst fit; fixed partitions.
 *
 * A heap is formatted into any memory you give (base and length), so it does not care how that memory was made. All
 * that it keeps there are offsets from that base, never pointers: every process may map it at another address.
 * Several processes allocate and free at once. Any of them may be killed at any instruction: the heap stays sound,
 * and the blocks that the dead task held can be given back by whoever calls wharf_heap_reclaim().
 *
 * Errors:  0 or a count on success, a negative errno on failure. A failed call changes nothing: outputs are
 *          untouched, and what you passed in is still yours.
 * Damage:  a block that is freed twice, an offset that is no block, a header that was overwritten: the call answers
 *          -EALREADY, -EFAULT or -EUCLEAN and wharf_heap_why() tells the offset and the owner. It is never followed.
 * Time:    deadlines are CLOCK_MONOTONIC nanoseconds: wharf/api.h. 0 means do not wait, WHARF_FOREVER means no limit.
 * Threads: one wharf_heap may be used by many threads at once, except wharf_heap_close(), which must come last.
 * Trust:   tasks that share a heap trust each other with its contents: they write the same pages. What one of them
 *          writes by mistake may cost blocks, but no call follows an offset out of the memory of the heap.
 * Fork:    a child may go on using the parent's wharf_heap; it becomes an owner of its own with its first call.
 */
#ifndef WHARF_HEAP_H
#define WHARF_HEAP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <wharf/api.h>

WHARF_BEGIN

typedef struct wharf_heap wharf_heap; /* this process's handle; opaque, always handled by pointer */

enum wharf_heap_policy {
        WHARF_HEAP_BUDDY = 0, /* blocks of 2^k units; a free block merges with its buddy only */
        WHARF_HEAP_FIRST_FIT, /* the lowest hole that is large enough, split; neighbours merge */
        WHARF_HEAP_NEXT_FIT,  /* the same, going on from where the last search ended */
        WHARF_HEAP_BEST_FIT,  /* the smallest hole that is large enough */
        WHARF_HEAP_WORST_FIT, /* the largest hole */
        WHARF_HEAP_FIXED,     /* partitions that never change; one request each, the smallest free one that fits */
};
#define WHARF_HEAP_POLICIES 6

/* "buddy", "first", "next", "best", "worst", "fixed"; NULL for anything else. */
WHARF_API const char *wharf_heap_policy_name(enum wharf_heap_policy policy);
/* The policy that has this name. Errors: -EINVAL: it is none of these. */
WHARF_API int wharf_heap_policy_by_name(const char *name, enum wharf_heap_policy *ret);

/* wharf_heap_opts.flags */
#define WHARF_HEAP_OUTSIDE 1u  /* fit policies: headers outside the managed range, as buddy and fixed always do */
#define WHARF_HEAP_NO_CACHE 2u /* buddy: a freed block merges at once, not only when a request would fail; slower */
#define WHARF_HEAP_GUARD 4u    /* eight guard bytes behind every block, checked when it is freed or resized */

#define WHARF_HEAP_OWNERS_MAX 1022u

/* Clear it, set `size`, then what you care about. A zero field asks for the default. */
struct wharf_heap_opts {
        uint32_t size;   /* sizeof this struct; how it grows without breaking callers */
        uint32_t policy; /* enum wharf_heap_policy */
        /*
         * How much to manage. 0: all that fits beside the bookkeeping (for fixed partitions: what they add up to).
         * Whole units; any number of them, but a buddy heap is one block only when they are a power of two.
         */
        uint64_t managed_bytes;
        /*
         * The smallest frame, a power of two. Buddy and fixed: 1 to 1 MiB, default 64; buddy spends 8 bytes of
         * bookkeeping on each. Fit policies: 16 with headers inside; with WHARF_HEAP_OUTSIDE 1 to 64, default 16.
         */
        uint32_t unit_bytes;
        uint32_t flags;
        uint32_t owners_max;  /* tasks that have it open at once, dead ones not yet reclaimed included; default 64 */
        uint32_t waiters_max; /* requests that wait at once; default 64 */
        /*
         * Fixed partitions: n_partitions sizes in bytes, or NULL for n_partitions equal ones that share managed_bytes.
         * Borrowed during the call. Sizes are rounded up to whole units.
         */
        const uint64_t *partition_bytes;
        uint32_t n_partitions;
        uint32_t reserved;
};

/* Bytes of memory that wharf_heap_format() needs for these options (managed_bytes is set); 0 when no heap can. */
WHARF_API uint64_t wharf_heap_bytes_needed(const struct wharf_heap_opts *opts);

/*
 * Make a heap in [base, base + len_bytes). What was there is lost; nobody may be using it.
 *
 * @base  Borrowed; writable, aligned to 64 bytes. Blocks are aligned relative to it.
 * @opts  NULL for all defaults. Borrowed during the call.
 *
 * Errors: -EINVAL  opts asks for something no heap can do, or base is not aligned
 *         -ENOSPC  len_bytes is too small: wharf_heap_bytes_needed() says how much it takes
 *         -ENOMEM
 */
WHARF_API int wharf_heap_format(void *base, uint64_t len_bytes, const struct wharf_heap_opts *opts);

/*
 * Use a heap that was formatted here or by another process; this task becomes one of its owners. May wait for the
 * heap's lock, which is never held for long.
 *
 * @base  Borrowed; must stay mapped, readable and writable, until wharf_heap_close().
 * @ret   Owned by the caller; give it back with wharf_heap_close().
 *
 * Errors: -EINVAL           base is not aligned
 *         -EUCLEAN          this is no heap, or its header was overwritten
 *         -EPROTONOSUPPORT  it was made by an incompatible version
 *         -EUSERS           owners_max tasks have it open: wharf_heap_open() takes over the places of dead tasks that
 *                           hold no block; wharf_heap_reclaim(), by one that has it open, makes more of those
 *         -ENOMEM
 */
WHARF_API int wharf_heap_open(void *base, uint64_t len_bytes, wharf_heap **ret);

/*
 * Stop using it. Blocks that this task still owns stay allocated and from now on belong to nobody. NULL is allowed.
 * Returns NULL so callers can write `h = wharf_heap_close(h)`.
 */
WHARF_API wharf_heap *wharf_heap_close(wharf_heap *heap);

/* wharf_heap_alloc() flags */
#define WHARF_ALLOC_ZERO 1u   /* the block is filled with zeroes */
#define WHARF_ALLOC_NOBODY 2u /* it belongs to nobody: it survives its maker and is never reclaimed */

/*
 * Allocate. A request that does not fit waits for other blocks to be freed until the deadline; those who wait are
 * served in the order in which they came. A request that does not wait takes what it finds, even if others wait.
 *
 * @bytes        at least 1.
 * @align_bytes  a power of two up to 4096 (64 in a heap that manages less than 64 KiB), or 0 for the natural one: 16
 *               with headers inside, else a unit; buddy blocks are aligned to their size anyway.
 * @ret_offset   where the block begins, from the heap's base. Owned by this task (see wharf_heap_give()).
 *
 * Errors: -EINVAL     bytes or align_bytes cannot be
 *         -ENOMEM     deadline_ns was 0 and it does not fit now
 *         -ETIMEDOUT  it did not fit until the deadline
 *         -E2BIG      it can never fit
 *         -EBUSY      waiters_max requests wait already
 *         -EUCLEAN    the heap is damaged; see wharf_heap_why()
 */
WHARF_API int wharf_heap_alloc(wharf_heap *heap, uint64_t bytes, uint64_t align_bytes, uint32_t flags,
                               int64_t deadline_ns, uint64_t *ret_offset);

/*
 * Free a block, whoever owns it. Never waits, except for the heap's lock.
 *
 * Errors: -EFAULT   no block begins at offset
 *         -EALREADY  a block that begins there was freed already
 *         -EUCLEAN  the block, its header or its guard was overwritten; the block is left as it is
 */
WHARF_API int wharf_heap_free(wharf_heap *heap, uint64_t offset);

/*
 * Make a block larger or smaller; in place where possible, else by copying it to a new one and freeing the old. Never
 * waits for memory. Flags: WHARF_ALLOC_ZERO clears what is added beyond the old size.
 *
 * @ret_offset  where it is now: the same offset if it did not move. Owner and alignment up to 16 stay.
 *
 * Errors: as wharf_heap_alloc() without waiting, and wharf_heap_free(). The block is then as it was.
 */
WHARF_API int wharf_heap_resize(wharf_heap *heap, uint64_t offset, uint64_t bytes, uint32_t flags,
                                uint64_t *ret_offset);

/* How many bytes of the block may be used: at least what was asked for. Errors as wharf_heap_free(). */
WHARF_API int wharf_heap_usable(wharf_heap *heap, uint64_t offset, uint64_t *ret_bytes);

/* ---- offsets and addresses: base and limit ---- */

/* The address of [offset, offset + len), or NULL when any of it lies outside the managed range. */
WHARF_API void *wharf_heap_at(wharf_heap *heap, uint64_t offset, uint64_t len_bytes);
/* The offset of an address. Errors: -EFAULT: outside the managed range. */
WHARF_API int wharf_heap_offset(wharf_heap *heap, const void *at, uint64_t *ret_offset);

/* Offsets that the heap keeps for its users, so that they find their data again; 0 at first. */
#define WHARF_HEAP_ROOTS 8
/* Read one of them. Errors: -EINVAL: no such root. */
WHARF_API int wharf_heap_root(wharf_heap *heap, uint32_t which, uint64_t *ret_offset);
/* Set it, if it is still `expect` (one atomic step). Errors: -EINVAL, -EAGAIN: it is something else by now. */
WHARF_API int wharf_heap_root_set(wharf_heap *heap, uint32_t which, uint64_t expect, uint64_t offset);

/* ---- owners ---- */

#define WHARF_NOBODY 0u

/* One task that has the heap open, or died with it open. */
struct wharf_heap_owner {
        uint32_t id; /* 1 to owners_max; used again only after all that it held was given back */
        uint32_t pid;
        bool alive; /* as the kernel said just now */
        uint64_t blocks, bytes;
};

/* Returns this task's own id. Errors: -EUSERS: in a forked child, the table is full. */
WHARF_API int wharf_heap_self(wharf_heap *heap);
/* Hand a block to another owner, or to WHARF_NOBODY. Errors as wharf_heap_free(); -ESRCH: there is no such owner. */
WHARF_API int wharf_heap_give(wharf_heap *heap, uint64_t offset, uint32_t owner);
/* Fills at most `n`; returns how many owners there are. */
WHARF_API int wharf_heap_owners(wharf_heap *heap, struct wharf_heap_owner *owners, uint32_t n);

/*
 * Give back all blocks of tasks that have died. For each, `keep` (if not NULL) is asked first; a block that it wants to
 * keep belongs to nobody from then on. It is called with the heap locked and must not call the heap. Returns the number
 * of blocks freed.
 */
WHARF_API int64_t wharf_heap_reclaim(wharf_heap *heap, bool (*keep)(uint64_t offset, uint64_t bytes, void *arg),
                                     void *arg);

/* ---- seeing it ---- */

#define WHARF_HEAP_CLASSES 48

/* All of it is counted block by block at the moment of the call, except what is said to be counted on the way. */
struct wharf_heap_figures {
        uint32_t policy, unit_bytes;
        uint64_t managed_bytes;      /* of which the next three are the sum */
        uint64_t used_bytes;         /* whole blocks, headers inside included */
        uint64_t cached_bytes;       /* freed, and kept by a task (or by one that died) for its next request */
        uint64_t free_bytes;         /* holes */
        uint64_t requested_bytes;    /* what was asked for, of used_bytes */
        uint64_t bookkeeping_bytes;  /* beside the managed range */
        uint64_t largest_free_bytes; /* the largest hole */
        uint64_t used_blocks, cached_blocks, free_blocks;
        uint64_t damaged_blocks; /* taken out of use because their header was overwritten; part of used_* */
        uint64_t peak_bytes;     /* most of used + cached ever, counted on the way (from the last repair on) */
        uint64_t allocs, frees;  /* counted on the way */
        uint64_t searches;       /* holes (buddy: sizes) looked at for all allocs; counted on the way */
        uint64_t repairs;        /* how often what is derived was built again after a task died; counted on the way */
        uint32_t waiting;        /* requests in the queue */
        uint32_t owners;
        /* Part of used_bytes that nobody asked for; part of free_bytes that the largest hole cannot serve; 0 to 1. */
        double internal_fragmentation, external_fragmentation;
        /* Blocks of [2^k, 2^(k+1)) bytes. For buddy: the free blocks of each order. */
        uint64_t used_by_class[WHARF_HEAP_CLASSES], free_by_class[WHARF_HEAP_CLASSES];
};
WHARF_API int wharf_heap_figures(wharf_heap *heap, struct wharf_heap_figures *ret);

enum wharf_block_state {
        WHARF_BLOCK_FREE = 1, /* a hole */
        WHARF_BLOCK_USED,
        WHARF_BLOCK_CACHED,  /* freed, and kept by `owner` for its next request */
        WHARF_BLOCK_DAMAGED, /* its header was overwritten; never used again */
};

struct wharf_block {
        uint64_t offset;          /* what wharf_heap_alloc() answered; for a hole, where a block would begin */
        uint64_t start;           /* place in the managed range, from 0; blocks follow each other without a gap */
        uint64_t bytes;           /* all of it */
        uint64_t requested_bytes; /* used blocks */
        uint32_t state;           /* enum wharf_block_state */
        uint32_t owner;           /* id, or WHARF_NOBODY */
        uint32_t owner_pid;       /* 0 for nobody */
        uint32_t order;           /* buddy: bytes is unit_bytes << order; fixed: which partition */
};

/*
 * Call `fn` for every block in the order of addresses, with the heap locked: `fn` must not call the heap. It stops
 * when `fn` returns non-zero, and returns that.
 */
WHARF_API int wharf_heap_walk(wharf_heap *heap, int (*fn)(const struct wharf_block *block, void *arg), void *arg);

/* The bitmap of frame use: bit i (of byte i / 8) says whether unit i is in use. Returns how many units there are. */
WHARF_API int64_t wharf_heap_frames(wharf_heap *heap, uint8_t *bits, uint64_t n_bytes);

enum wharf_heap_fault_kind {
        WHARF_FAULT_NONE = 0,
        WHARF_FAULT_FOREIGN,     /* -EFAULT */
        WHARF_FAULT_DOUBLE_FREE, /* -EALREADY */
        WHARF_FAULT_HEADER,      /* -EUCLEAN: a block's header makes no sense: something wrote over its beginning */
        WHARF_FAULT_OVERFLOW,    /* -EUCLEAN: something wrote beyond the end of a block */
        WHARF_FAULT_INDEX,       /* a list of holes was overwritten; it was built again and nothing is lost */
};
struct wharf_heap_fault {
        uint32_t kind;      /* enum wharf_heap_fault_kind */
        uint32_t owner;     /* of the block, as far as it can be told */
        uint32_t owner_pid; /* 0 when unknown */
        uint32_t reserved;
        uint64_t offset;
};
/* The last trouble that a call of this process met on this handle. */
WHARF_API void wharf_heap_why(wharf_heap *heap, struct wharf_heap_fault *ret);

/*
 * Look at every block and at all that is derived from them. Returns 0 when all is whole. What is derived is built again
 * if it is wrong; blocks whose header was overwritten are taken out of use. Errors: -EUCLEAN: there was damage;
 * wharf_heap_why() names the first. A second check right after answers 0.
 */
WHARF_API int wharf_heap_check(wharf_heap *heap);

WHARF_END

#endif
