/*
 * wharf/buffer.h - buffers of items between producers and consumers in several processes, in memory they share.
 *
 *      bounded    room for n items. Any number of producers and consumers
 *      unbounded  as many items as there is memory, each of its own size. Any number of producers and consumers
 *      circular   the textbook's: indices `in` and `out` and n places, of which n - 1 can be used, because in == out
 *                 means empty. One producer and one consumer, and therefore no lock
 *
 * A buffer is formatted into any memory you give: a segment, or a block of a heap. It holds no pointer, so every
 * process may map it at another address.
 *
 * Promise: one store puts an item into the buffer and one store takes it out, whoever is killed at whatever
 *          instruction. What wharf_buffer_put() acknowledged is delivered once and never twice; a producer killed
 *          inside may or may not have put its last item, whole; a consumer killed inside may have taken one. Nothing
 *          that a dead task left stops the others.
 * Order:   first in, first out.
 * Errors:  0 or a count on success, a negative errno on failure. A failed call changes nothing.
 * Time:    deadlines are CLOCK_MONOTONIC nanoseconds: see wharf/api.h. Calls wait for room or for an item. They wait
 *          for the lock even with deadline 0: it is only held while an item is copied.
 * Threads: one wharf_buffer may be used by many threads at once, except wharf_buffer_close(), which must come last; a
 *          circular one by one thread that puts and one that gets.
 * Trust:   the tasks that share a buffer trust each other with its contents. What one of them overwrites by mistake is
 *          answered with -EUCLEAN and never followed out of the memory.
 * Fork:    a child may go on using the parent's wharf_buffer.
 */
#ifndef WHARF_BUFFER_H
#define WHARF_BUFFER_H

#include <stdint.h>

#include <wharf/api.h>

WHARF_BEGIN

typedef struct wharf_buffer wharf_buffer; /* this process's handle; opaque, always handled by pointer */

enum wharf_buffer_kind {
        WHARF_BUFFER_BOUNDED = 0,
        WHARF_BUFFER_UNBOUNDED,
        WHARF_BUFFER_CIRCULAR,
};

/* Clear it, set `size`, then what you care about. A zero field asks for the default. */
struct wharf_buffer_opts {
        uint32_t size; /* sizeof this struct; how it grows without breaking callers */
        uint32_t kind; /* enum wharf_buffer_kind */
        /* The largest item, up to 1 GiB. Bounded, circular: each place is so large; default 64. Unbounded: no limit. */
        uint64_t item_bytes_max;
        /* Bounded and circular: how many places; default as many as fit. Circular: at least 2, one stays empty. */
        uint32_t places;
        uint32_t users_max; /* unbounded: tasks that have it open at once; default 64, up to 1022 */
        /* Unbounded: how much memory for items, what a heap needs beside them included; default all that is given. */
        uint64_t memory_bytes;
};

/*
 * Bytes of memory that wharf_buffer_format() needs for these options (places or memory_bytes is set); 0 when no buffer
 * can.
 */
WHARF_API uint64_t wharf_buffer_bytes_needed(const struct wharf_buffer_opts *opts);

/*
 * Make an empty buffer in [base, base + len_bytes). What was there is lost; nobody may be using it.
 *
 * @base  Borrowed; writable, aligned to 64 bytes.
 * @opts  NULL for all defaults. Borrowed during the call.
 *
 * Errors: -EINVAL  opts asks for something no buffer can do, or base is not aligned
 *         -ENOSPC  len_bytes is too small: wharf_buffer_bytes_needed() says how much it takes
 */
WHARF_API int wharf_buffer_format(void *base, uint64_t len_bytes, const struct wharf_buffer_opts *opts);

/*
 * Use a buffer that was formatted here or by another process.
 *
 * @base  Borrowed; must stay mapped, readable and writable, until wharf_buffer_close().
 * @ret   Owned by the caller; give it back with wharf_buffer_close().
 *
 * Errors: -EINVAL           base is not aligned
 *         -EUCLEAN          this is no buffer, or not yet, or its header was overwritten
 *         -EPROTONOSUPPORT  it was made by an incompatible version
 *         -EUSERS           unbounded: users_max tasks have it open
 *         -ENOMEM
 */
WHARF_API int wharf_buffer_open(void *base, uint64_t len_bytes, wharf_buffer **ret);

/* Stop using it; the items stay. NULL is allowed. Returns NULL so callers can write `b = wharf_buffer_close(b)`. */
WHARF_API wharf_buffer *wharf_buffer_close(wharf_buffer *buf);

/*
 * Put one item behind the others, waiting for room until the deadline.
 *
 * @item  Copied. May be NULL when bytes is 0: an empty item is an item.
 *
 * Errors: -EAGAIN     deadline_ns was 0 and there is no room
 *         -ETIMEDOUT  there was no room until the deadline
 *         -EMSGSIZE   larger than item_bytes_max, or than all of an unbounded buffer
 *         -EBUSY      circular: another task, which lives, is its producer
 *         -EUSERS     unbounded, in a forked child: users_max tasks have it open
 *         -EUCLEAN    the buffer is damaged
 */
WHARF_API int wharf_buffer_put(wharf_buffer *buf, const void *item, uint64_t bytes, int64_t deadline_ns);

/*
 * Take the first item, waiting for one until the deadline. Returns its length in bytes.
 *
 * @item  filled on success only.
 * @cap   how much fits there.
 *
 * Errors: -EAGAIN     deadline_ns was 0 and there is none
 *         -ETIMEDOUT  there was none until the deadline
 *         -EMSGSIZE   it does not fit; it stays the first one
 *         -EBUSY      circular: another task, which lives, is its consumer
 *         -EUSERS     as above
 *         -EUCLEAN    the buffer is damaged
 */
WHARF_API int64_t wharf_buffer_get(wharf_buffer *buf, void *item, uint64_t cap, int64_t deadline_ns);

struct wharf_buffer_figures {
        uint32_t kind;           /* enum wharf_buffer_kind */
        uint32_t places;         /* 0 for unbounded */
        uint64_t item_bytes_max; /* UINT64_MAX for unbounded */
        uint64_t items;          /* in it now */
        uint64_t put, got;       /* ever; what a task did that died inside may be missing */
        uint64_t memory_bytes;   /* unbounded: memory for items */
        uint64_t used_bytes;     /* of that, what is in use, headers included */
        uint64_t repairs;        /* how often a task died inside and its work was tidied up */
};
/* Waits for the lock. Errors: -EUCLEAN, -EUSERS. */
WHARF_API int wharf_buffer_figures(wharf_buffer *buf, struct wharf_buffer_figures *ret);

WHARF_END

#endif
