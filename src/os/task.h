/*
 * task - who a process is, in 64 bits that can be put into shared memory and never mean another process, nor another
 * program that the same process became by exec().
 *
 *      bits 0 to 23   pid; never 0
 *      bit  24        WH_TASK_BY_START: the number above is the start time
 *      bit  25        WH_TASK_BY_LOCK: the number above is that of a lock
 *      bits 26 to 30  by lock: low bits of the lock file's tag; else 0
 *      bit  31        0; the lock in memory/mutex.h uses it
 *      bits 32 to 63  by lock: 7 more bits of the tag, then 25 bits drawn by chance
 *                     by start time: the low half of it, in clock ticks, or 0 when it cannot be read
 *                     neither: the low half of the number of the process in pidfs (Linux 6.9 and later: counts every
 *                     process since the machine started)
 *
 * A pid alone is soon used again, pid and start time collide when the pid comes round within a tick, and exec() changes
 * none of them: a process that lives is not an address space that lives. So a task locks a byte, whose place its id
 * names, of the one file that every process has open to it and that can be mapped: /dev/zero. A private page of that
 * file is mapped, and its descriptor closed, so that the lock lasts exactly as long as the address space: the kernel
 * drops it at exec() and at the end, whatever the reason; nobody can close it by mistake; and no child has the page,
 * not even that of a bare clone(). See docs/decisions/0012.
 *
 *   I1  An id by lock is handed out only after another open file has seen the byte locked, at a time when no descriptor
 *       of the lock was left.
 *   I2  The lock is looked for in the file that its tag names, and where that is not to be had the answer is "lives":
 *       chroots and containers may have another /dev/zero.
 *   I3  The lock only ever shortens a life: it is not looked for when the kernel calls the process dead.
 *
 * Where there is no /dev/zero, or it cannot be locked, ids are those without a lock, and a holder that calls exec()
 * holds on until the process ends.
 */
#ifndef WH_OS_TASK_H
#define WH_OS_TASK_H

#include "base/bits.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define WH_TASK_PID_MASK 0x00ffffffu
#define WH_TASK_BY_START 0x01000000u
#define WH_TASK_BY_LOCK 0x02000000u

extern _Atomic uint64_t wh_task_known;
uint64_t wh_task_self_slow(void);

/* This program in this process. A forked child has another id from its first call on; a bare clone() is not noticed. */
static inline uint64_t wh_task_self(void)
{
        /* [self] Acquire, pairs with the release in wh_task_self_slow(): the lock that the id names is there. */
        uint64_t id = atomic_load_explicit(&wh_task_known, memory_order_acquire);
        return wh_likely(id) ? id : wh_task_self_slow();
}

/* This thread's number, the kernel's; cached. */
uint32_t wh_task_thread(void);

static inline uint32_t wh_task_pid(uint64_t id)
{
        return (uint32_t)id & WH_TASK_PID_MASK;
}

/*
 * Does it live? Neither a zombie does, nor what a process was before exec(). When the kernel will not tell (no
 * descriptor left, a sandbox, another user's /proc), the answer is yes: what is in doubt is never taken away. Costs
 * about five microseconds.
 */
bool wh_task_alive(uint64_t id);

#endif
