/*
 * wharf/task.h - a task: a process that uses wharf, and the names by which it knows its rights.
 *
 * Errors:  0 or a count on success, a negative errno on failure. A failed call changes nothing: outputs are
 *          untouched, and what you passed in is still yours. One meaning for each number, wherever it appears:
 *
 *      -EPIPE           the receiver is gone, or closed the port: the right is a dead name
 *      -ENOTCONN        no sender is left, and none can come: waiting for a message would never end
 *      -ECONNRESET      the server died, or closed its port, before it replied
 *      -ECANCELED       the server dropped the request without replying, or this wait was cancelled by closing
 *      -EAGAIN          the deadline was 0 and the call would have had to wait
 *      -ETIMEDOUT       the deadline passed
 *      -EMSGSIZE        the message is larger than the port takes
 *      -EOVERFLOW       the message is larger than the buffer, or carries more rights than there is room for; it stays
 *                       where it is, `sender` says whose it is, `len_bytes` and `n_items` what it needs; the next call
 *                       looks at all other senders first
 *      -EBADF           no right of this task has that name (any more)
 *      -EPERM           the name is of a kind of right that does not allow this
 *      -ESTALE          the task belongs to the process before fork(); open one in the child
 *      -ENOENT          nobody has registered that name
 *      -EEXIST          somebody else has registered that name
 *      -EPROTO          the other side broke the protocol; the link to it was closed
 *      -EPROTONOSUPPORT the other side speaks another version of wharf's protocol
 *      -EMLINK          the port has as many links as it accepts
 *      -ELOOP           a receive right would be sent into its own queue
 *      -EDQUOT          more than the receiver accepts from one sender, or from all senders of one user: memory that it
 *                       would have to map, links, unread rights, links introduced, calls not answered, memory of
 *                       replies not read; wharf_why() says which
 *      -EKEYREVOKED     the receiver has revoked this right
 *      -ENOBUFS         the receiver maps as much memory as it accepts in all
 *      -ETOOMANYREFS    too many rights or descriptors are on their way on this link, unread
 *      -EMFILE, -ENFILE, -ENOMEM, -ENOSPC   this process, or the system, has no more of that
 *      -EINVAL          an argument makes no sense; wharf_why() says which and why
 *
 * Time:    deadlines are CLOCK_MONOTONIC nanoseconds: see wharf/api.h (wharf_in_ms() makes one). 0 means do not wait,
 *          WHARF_FOREVER means no limit. Signals do not end a wait: it goes on until its deadline.
 * Threads: everything may be called by any thread at any time, on the same names too, except wharf_task_close(),
 *          which must come last.
 * Fork:    the child holds no right of its parent: the library's descriptors are closed there and every call on the
 *          parent's task answers -ESTALE. Only wharf_task_close() still works, and frees the memory. A child of _Fork()
 *          or of a bare clone() runs no handlers, so it keeps copies of the library's sockets until it calls exec(),
 *          closes them or ends, and meanwhile nobody can see that its parent died: sends to the parent's ports go on
 *          returning 0 until the queue is full, and are lost; waits for the parent go on; its names stay registered;
 *          notices of its end come when the child ends. The child itself must not call the library: it would speak for
 *          its parent. Use fork(), posix_spawn() or vfork(), or let the child call exec() or close_range(3, ~0u, 0)
 *          first of all. What a task holds in shared memory (wharf/sync.h) ends with it all the same.
 * Cancellation: no call is a cancellation point of pthreads. A thread that is cancelled (pthread_cancel()) while it
 *          waits in a call goes on waiting, leaves the call with its result, and ends at the first cancellation point
 *          after it: nothing stays locked or half done. To end such a wait at once, drop what it waits for. A thread
 *          whose cancellation is asynchronous must not call the library, as it must not call malloc().
 * Copies:  a process may hold several copies of the library (a shared one, others linked into plug-ins, other
 *          versions). They share nothing: a task and its names belong to the copy that opened it, and copies exchange
 *          messages and rights like processes. A copy may be unloaded once its tasks are closed.
 * Signals: SIGPIPE is never raised. No function is async-signal-safe.
 */
#ifndef WHARF_TASK_H
#define WHARF_TASK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "api.h"

WHARF_BEGIN

/* Opaque; always handled by pointer. Most programs need one. */
typedef struct wharf_task wharf_task;

/*
 * How a task knows a right, a port or a set of ports: a small integer that means nothing to anybody else, as in Mach
 * (Accetta et al., "Mach: A New Kernel Foundation", 1986). Never a number that was just freed. 0 is no name.
 */
typedef uint32_t wharf_name;
#define WHARF_NONE ((wharf_name)0)

/* Clear it, set `size`, then what you care about. A zero field asks for the default. */
struct wharf_task_opts {
        uint32_t size;              /* sizeof this struct; how it grows without breaking callers */
        uint32_t spin_us_max;       /* how long a wait may spin before it sleeps; default 50. It adapts below this. */
#define WHARF_NO_SPIN UINT32_MAX    /* in spin_us_max: never spin */
#define WHARF_SPIN (UINT32_MAX - 1) /* in spin_us_max: never sleep (for cores of their own) */
        uint32_t answers_max;       /* calls that were received and not answered, of all senders of all ports: each user
                                       has a share of it (wharf/port.h); default 65536 */
        uint32_t reserved;          /* 0 */
        uint64_t reply_bytes_max;   /* largest reply to a call that is accepted, and largest sum of memories in one;
                                       default 1 GiB, at most 1 TiB. What is larger ends the right: -EMSGSIZE */
};

/*
 * Open a task. Starts no thread and talks to nobody.
 *
 * @opts  NULL for all defaults. Borrowed during the call.
 * @ret   the new task. Owned by the caller; give it back with wharf_task_close().
 *
 * Errors: -EINVAL, -ENOMEM, -EMFILE, -ENFILE (it takes two descriptors, so that waking a thread never needs one)
 */
WHARF_API int wharf_task_open(const struct wharf_task_opts *opts, wharf_task **ret);

/*
 * Drop every right, close every port and free the task. What its threads wait for ends with -ECANCELED, but they must
 * have left before the memory goes: call this last. NULL is allowed. Returns NULL so that callers can write
 * `t = wharf_task_close(t)`. Descriptors that others had sent and nobody received are closed by a thread of the library,
 * since such a close may take time: some may still be open for a moment when this returns.
 */
WHARF_API wharf_task *wharf_task_close(wharf_task *task);

/*
 * The two ports that every task has; made when first asked for, closed with the task. They stay: a receive waits for
 * senders to come.
 *
 *      Task Self  the port at which others address the task itself. It is registered nowhere, and only those have a
 *                 right to it to whom you give one. What is sent there is yours to receive and to answer: the library
 *                 starts no thread, so it serves nothing behind your back. Message ids from WHARF_ID_RESERVED up are
 *                 kept for questions that a later version may define (which process this is, what it holds); drop them.
 *      Notify     where notices go when wharf_notify() is told no port.
 *
 * Dropping one is like dropping any port; the next call makes another.
 *
 * @ret  the port's name, the same every time. Owned by the task.
 *
 * Errors: -EMFILE, -ENFILE, -ENOMEM, -ESTALE
 */
#define WHARF_ID_RESERVED 0xffff0000u
WHARF_API int wharf_task_self(wharf_task *task, wharf_name *ret);
WHARF_API int wharf_task_notify(wharf_task *task, wharf_name *ret);

/*
 * Let go of a name. What that means depends on its kind:
 *      a send right     what was sent stays sent; the receiver learns that this sender is gone
 *                       (threads that wait on it, for room or for a reply, return -ECANCELED)
 *      a port           every sender gets a dead name: sending, and waiting for room, end with -EPIPE. Unread messages
 *                       are lost. Rights in them are dropped: the port of a send right sees that sender go, the port of
 *                       a send-once right is told that it went unused, and a call that one was to answer ends with
 *                       -ECANCELED. A task that waits for the reply to a request gets -ECONNRESET, whether the request
 *                       was unread or received; wharf_reply() to one that was received is -EPIPE. Threads that receive
 *                       from it return -ECANCELED. Notices to it, and about it, are dropped. Payloads held in place
 *                       stay until they are given back.
 *      a set            its ports leave it and live on; threads that receive from it return -ECANCELED
 *      a send-once right its port is told that it went unused; where it answers a call, the caller gets -ECANCELED
 *      a memory         it is unmapped here; others that have it keep it
 *
 * Errors: -EBADF, -ESTALE
 */
WHARF_API int wharf_drop(wharf_task *task, wharf_name name);

/*
 * One error in the words of this system, and its name: "the receiver is gone (EPIPE)". For any errno; never NULL. What
 * is not listed above lies in a buffer of this thread until its next call of this function.
 */
WHARF_API const char *wharf_strerror(int err);

/*
 * More about the last failed call of this thread that had to do with a task: which argument, which limit, which file.
 * Never NULL, and "" only before the first failure. Where no more is known, it says the errno in words. A call that
 * succeeds leaves it alone (except where its own contract says that it tells something here). The calls of buffer.h,
 * heap.h, segment.h and sync.h have no task and say nothing here. Borrowed until this thread's next call.
 */
WHARF_API const char *wharf_why(void);

/*
 * CLOCK_MONOTONIC, in ns, and the deadline that lies `ms` from now. Where that is farther than a deadline can say (292
 * years) it is WHARF_FOREVER; with a negative `ms` it is one that has passed. It is never 0.
 */
WHARF_API int64_t wharf_now_ns(void);
WHARF_API int64_t wharf_in_ms(int64_t ms);

/* "0.2.0" */
WHARF_API const char *wharf_version(void);

WHARF_END

#endif
