#include "os/lock.h"

#include "os/os.h"

void wh_lock_slow(struct wh_lock *l)
{
        /*
         * [lock] Acquire, as in wh_lock(). Whoever sleeps marks the lock contended, so that the holder knows to wake.
         */
        while (atomic_exchange_explicit(&l->word, WH_LOCK_CONTENDED, memory_order_acquire) != WH_LOCK_FREE)
                wh_os_futex_wait(&l->word, WH_LOCK_CONTENDED, WH_NEVER, false);
}

void wh_unlock_slow(struct wh_lock *l)
{
        wh_os_futex_wake(&l->word, 1, false);
}
