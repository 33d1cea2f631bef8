/*
 * trace - what a program asked of its allocator, in a file, and how to ask the same of another.
 *
 * A trace file, plain or compressed with gzip, is eight bytes "whtrace1" and then numbers, seven bits a byte, the low
 * ones first, the top bit set in all bytes but a number's last. One event begins with one number e:
 *
 *      e % 4 == 0   allocate e / 4 bytes
 *      e % 4 == 1   free block e / 4
 *      e % 4 == 2   resize block e / 4; a second number is the new size in bytes
 *
 * Blocks are small numbers that the file does not name when they begin: an allocation takes the number that was freed
 * last, or else the lowest one never used. So both sides count alike, and files stay small. Threads are merged in the
 * order of their calls; times are not kept.
 */
#ifndef WHARF_TRACE_H
#define WHARF_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include <wharf/heap.h>

#define TRACE_MAGIC "whtrace1"
#define TRACE_EVENTS_MAX ((uint64_t)1 << 26)
#define TRACE_BYTES_MAX ((uint64_t)1 << 40) /* of one block */

enum trace_kind { TRACE_ALLOC = 0, TRACE_FREE = 1, TRACE_RESIZE = 2 };

struct trace_event {
        uint64_t bytes; /* not for TRACE_FREE */
        uint32_t block; /* below n_blocks; free at TRACE_ALLOC, allocated at the others */
        uint32_t kind;  /* enum trace_kind */
};

struct trace {
        struct trace_event *events;
        uint64_t n_events;
        uint32_t n_blocks;        /* most that live at once */
        uint64_t peak_live_bytes; /* most that was asked for at once */
        uint64_t allocs, frees, resizes;
};

/*
 * Read a whole trace; the file may come from anywhere. 0, what opening the file answers, -EBADMSG for a file that is no
 * trace, -E2BIG, -ENOMEM. free with trace_done().
 */
int trace_load(const char *path, struct trace *ret);
void trace_done(struct trace *t);

/* The same from bytes. */
int trace_parse(const uint8_t *bytes, uint64_t len_bytes, struct trace *ret);

struct trace_result {
        uint64_t ran;     /* requests made of the heap */
        uint64_t refused; /* allocations and resizes that found no room; what would follow for them is left out */
        int64_t ns;       /* for all, samples not counted */
};

/*
 * Make all requests of the trace, from the empty heap, one after the other. `sample` (may be NULL) is called before
 * the first and after each `every` requests with the number of requests made.
 * 0, or a negative errno other than want of room: the heap is damaged, or this is short of memory.
 */
int trace_replay(const struct trace *t, wharf_heap *heap, uint64_t every, void (*sample)(uint64_t done, void *arg),
                 void *arg, struct trace_result *ret);
/* The same with malloc() of this process, for comparison. */
int trace_replay_malloc(const struct trace *t, struct trace_result *ret);

#endif
