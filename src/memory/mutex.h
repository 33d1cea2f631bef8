/*
 * mutex - a lock in shared memory that survives its holder, without the kernel's robust list (its links are addresses,
 * which another process could overwrite) and without a time-out that guesses.
 *
 * The word says who holds it, so there is no moment at which a holder can die unknown:
 *
 *      from    when                        to             done by
 *      0       nobody holds it             me             wh_mutex_lock()
 *      other   it is held, I shall sleep   other | SLEEP  lock_slow()
 *      other   the kernel says it is dead  me | SLEEP     lock_slow(), which tells its caller
 *      me      I am done                   0              wh_mutex_unlock(); wakes one when SLEEP was set
 *
 *   L1  only the task in the word, or one that saw the kernel call it dead, changes the word away from it
 *   L2  a task that sleeps has seen SLEEP set, and wakes by itself after SLEEP_NS at the latest: a task killed between
 *       its unlock and its wake, or after it was woken and before it took the lock, costs that much and no more
 */
#ifndef WH_MEMORY_MUTEX_H
#define WH_MEMORY_MUTEX_H

#include "os/task.h"

#include <assert.h>
#include <wharf/sync.h>

#define WH_MUTEX_SLEEP 0x80000000u /* in the low half of the word; somebody may be asleep */

/* The first and the longest time that a sleeper sleeps before it looks whether the holder lives. */
#define WH_SLEEP_FIRST_NS 20000000
#define WH_SLEEP_LONGEST_NS 320000000

struct wh_mutex {
        _Atomic uint64_t word; /* 0, or a task of os/task.h, perhaps with WH_MUTEX_SLEEP */
        _Atomic uint64_t
                thread; /* upper half of the task and number of the thread inside; written by the holder only */
        uint64_t unused[2];
};
static_assert(sizeof(struct wh_mutex) == sizeof(wharf_mutex), "the public struct is this one");

int wh_mutex_lock_slow(struct wh_mutex *m, uint64_t me, uint64_t thread, int64_t deadline_ns);
void wh_mutex_wake(struct wh_mutex *m);

/* The half of a 64-bit word that a futex can sleep on: the low one. */
static inline _Atomic uint32_t *wh_mutex_low(struct wh_mutex *m)
{
        return (_Atomic uint32_t *)&m->word + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);
}

/* Answers and errors of wharf_mutex_lock(). */
static inline int wh_mutex_lock(struct wh_mutex *m, int64_t deadline_ns)
{
        uint64_t me = wh_task_self(), thread = (me & ~(uint64_t)UINT32_MAX) | wh_task_thread(), nobody = 0;
        /* [mutex] Acquire, pairs with the release in wh_mutex_unlock(). */
        if (wh_unlikely(!atomic_compare_exchange_strong_explicit(&m->word, &nobody, me, memory_order_acquire,
                                                                 memory_order_relaxed)))
                return wh_mutex_lock_slow(m, me, thread, deadline_ns);
        /* Relaxed: it only has to be seen by this very thread (-EDEADLK). */
        atomic_store_explicit(&m->thread, thread, memory_order_relaxed);
        return 0;
}

static inline bool wh_mutex_mine(struct wh_mutex *m)
{
        return (atomic_load_explicit(&m->word, memory_order_relaxed) & ~(uint64_t)WH_MUTEX_SLEEP) == wh_task_self();
}

/* The caller holds it. */
static inline void wh_mutex_unlock(struct wh_mutex *m)
{
        atomic_store_explicit(&m->thread, 0, memory_order_relaxed);
        /* [mutex] Release, pairs with the acquire in wh_mutex_lock() and lock_slow(). */
        if (wh_unlikely(atomic_exchange_explicit(&m->word, 0, memory_order_release) & WH_MUTEX_SLEEP))
                wh_mutex_wake(m);
}

/* When a sleeper that has slept `rounds` times before should look again, at the latest; never beyond the deadline. */
int64_t wh_sleep_until(unsigned rounds, int64_t deadline_ns);

#endif
