/*
 * lock - a mutex between the threads of one process: three states in one word (Drepper, "Futexes Are Tricky", mutex2).
 *
 * Why not pthread_mutex: a process that never made a second thread pays nothing (glibc says so in
 * __libc_single_threaded), and a lock is four bytes. Never in shared memory: its holder may die there.
 */
#ifndef WH_OS_LOCK_H
#define WH_OS_LOCK_H

#include "base/bits.h"

#include <stdatomic.h>
#include <stdint.h>
#include <sys/single_threaded.h>

enum { WH_LOCK_FREE = 0, WH_LOCK_HELD = 1, WH_LOCK_CONTENDED = 2 };

struct wh_lock {
        _Atomic uint32_t word; /* one of the above */
};

#define WH_LOCK_INIT ((struct wh_lock){0})

void wh_lock_slow(struct wh_lock *l);
void wh_unlock_slow(struct wh_lock *l);

static inline void wh_lock(struct wh_lock *l)
{
        if (__libc_single_threaded) {
                /* Relaxed and no exchange: there is nobody to race with, and a thread made later sees it all. */
                atomic_store_explicit(&l->word, WH_LOCK_HELD, memory_order_relaxed);
                return;
        }
        uint32_t free_ = WH_LOCK_FREE;
        /* [lock] Acquire, pairs with the release in wh_unlock(). */
        if (wh_unlikely(!atomic_compare_exchange_strong_explicit(&l->word, &free_, WH_LOCK_HELD, memory_order_acquire,
                                                                 memory_order_relaxed)))
                wh_lock_slow(l);
}

static inline bool wh_trylock(struct wh_lock *l)
{
        uint32_t free_ = WH_LOCK_FREE;
        /* [lock] Acquire, as in wh_lock(). */
        return atomic_compare_exchange_strong_explicit(&l->word, &free_, WH_LOCK_HELD, memory_order_acquire,
                                                       memory_order_relaxed);
}

static inline void wh_unlock(struct wh_lock *l)
{
        if (__libc_single_threaded) {
                atomic_store_explicit(&l->word, WH_LOCK_FREE, memory_order_relaxed);
                return;
        }
        /* [lock] Release, pairs with the acquire in wh_lock(). */
        if (wh_unlikely(atomic_exchange_explicit(&l->word, WH_LOCK_FREE, memory_order_release) == WH_LOCK_CONTENDED))
                wh_unlock_slow(l);
}

/* A count of references; the same economy. wh_ref_drop() is true for the last one. */
static inline void wh_ref_take(_Atomic uint32_t *refs)
{
        if (__libc_single_threaded)
                atomic_store_explicit(refs, atomic_load_explicit(refs, memory_order_relaxed) + 1, memory_order_relaxed);
        else
                atomic_fetch_add_explicit(refs, 1, memory_order_relaxed);
}

static inline bool wh_ref_drop(_Atomic uint32_t *refs)
{
        if (__libc_single_threaded) {
                uint32_t n = atomic_load_explicit(refs, memory_order_relaxed) - 1;
                atomic_store_explicit(refs, n, memory_order_relaxed);
                return n == 0;
        }
        /* [ref] Acquire and release: what other holders did comes before what the last one frees. */
        return atomic_fetch_sub_explicit(refs, 1, memory_order_acq_rel) == 1;
}

#endif
