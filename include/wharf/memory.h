/*
 * wharf/memory.h - memory that travels beside a message: moved, or shared copy-on-write, and never copied on the way.
 *
 * A memory is some bytes with a name of this task. It is put into a message as an item (wharf/message.h):
 *
 *      WHARF_MOVE_MEMORY   it is gone here, and is the receiver's
 *      WHARF_COPY_MEMORY   both have it; whoever writes to a page gets a copy of that page, and of no other
 *
 * What was sent is immutable, by the kernel's word: before it leaves, the memory is sealed (F_SEAL_WRITE), which the
 * kernel refuses as long as anybody could still write to it. Writing goes on working, for both sides and at the same
 * address, but it goes to a private copy of the page. So nothing that one side writes after the send is ever seen by
 * the other, and the receiver can read in place without trusting the sender.
 *
 * When another thread of the sender writes to the memory while it is being sent, that write happens either before, and
 * everybody sees it, or after, and only the sender sees it. None is lost.
 *
 * A received memory is passed on to others in the same way. Untouched, it costs nothing. If this task has written to
 * it, or to one that it sent before and kept, what is sent is what this task sees: a new memory, and all of it is
 * copied once.
 *
 * Limits:  all memories of one message together are at most as large as the largest payload that the port takes
 *          (payload_bytes_max). Each also counts as one of the rights that may be unread. The maker of the memory has
 *          paid for its pages; the receiver pays for the pages that it writes to.
 * Fork:    a child has no memory of its parent's, as it has no right of its parent's.
 *
 * Errors, time, threads: see wharf/task.h.
 */
#ifndef WHARF_MEMORY_H
#define WHARF_MEMORY_H

#include "task.h"

WHARF_BEGIN

/*
 * Make a memory of `bytes` bytes, all zero. It is reserved at once, so touching it cannot fail later.
 *
 * @ret  the memory's name: it belongs to the caller, who gives it away in a message or lets go of it with
 *       wharf_drop().
 *
 * Errors: -EINVAL      0 bytes
 *         -ENOMEM      more than can be had, on this machine or in a memory cgroup of this task, which
 *                      wharf_why() names
 *         -EFBIG       more than RLIMIT_FSIZE
 *         -EOPNOTSUPP  a sandbox forbids making memory to share
 *         -ENOSPC, -EMFILE, -ENFILE, -ESTALE
 */
WHARF_API int wharf_memory_new(wharf_task *task, size_t bytes, wharf_name *ret);

/*
 * Where a memory is, and how large. It can be read and written there until it is moved or dropped, and stays at that
 * address.
 *
 * @ret        Borrowed from the name.
 * @ret_bytes  NULL, or its size.
 *
 * Errors: -EBADF, -EPERM (the name is not a memory's), -ESTALE
 */
WHARF_API int wharf_memory_at(wharf_task *task, wharf_name memory, void **ret, size_t *ret_bytes);

/* How a memory stands. Clear it and set `size`. */
struct wharf_memory_stat {
        uint32_t size;
        uint32_t shared;        /* 1 when it was sent or received: others may have the same pages */
        uint64_t bytes;         /* of the memory */
        uint64_t written_bytes; /* in pages that this task wrote to since, and of which it has copies of its own */
};
/*
 * How a memory stands: whether it is shared, and how much of it this task has written to since.
 *
 * Errors: -EBADF, -EPERM, -EINVAL, -ESTALE
 *         -EOPNOTSUPP  only /proc/self/pagemap tells which pages were written to, and it cannot be read here
 */
WHARF_API int wharf_memory_stat(wharf_task *task, wharf_name memory, struct wharf_memory_stat *ret);

WHARF_END

#endif
