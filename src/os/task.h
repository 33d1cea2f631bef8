/*
 * task - who a process is, in 64 bits that can be put into shared memory and never mean another process.
 *
 *      bits 0 to 23   pid; never 0
 *      bit  24        the number above is the start time, not the kernel's number of the process
 *      bits 25 to 31  0; the lock in memory/mutex.h uses one
 *      bits 32 to 63  low half of the number of the process in pidfs (Linux 6.9 and later: counts every process since
 *                     the machine started); before that, its start time in clock ticks; 0 when neither can be read
 *
 * A pid alone is soon used again, and pid and start time collide when the pid comes round within a tick.
 */
#ifndef WH_OS_TASK_H
#define WH_OS_TASK_H

#include "base/bits.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define WH_TASK_PID_MASK 0x00ffffffu
#define WH_TASK_BY_START 0x01000000u

extern _Atomic uint64_t wh_task_known;
uint64_t wh_task_self_slow(void);

/* This process. A forked child has another id from its first call on; a bare clone() is not noticed. */
static inline uint64_t wh_task_self(void)
{
        /* Relaxed: every thread that finds 0 computes the same value. */
        uint64_t id = atomic_load_explicit(&wh_task_known, memory_order_relaxed);
        return wh_likely(id) ? id : wh_task_self_slow();
}

/* This thread's number, the kernel's; cached. */
uint32_t wh_task_thread(void);

static inline uint32_t wh_task_pid(uint64_t id)
{
        return (uint32_t)id & WH_TASK_PID_MASK;
}

/*
 * Does it live? A zombie does not. When the kernel will not tell (no descriptor left, a sandbox, another user's /proc),
 * the answer is yes: what is in doubt is never taken away. Costs about two microseconds.
 */
bool wh_task_alive(uint64_t id);

#endif
