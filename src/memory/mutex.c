#include "memory/mutex.h"

#include "os/os.h"

#include <errno.h>

/* About a microsecond: longer than any holder in this library needs, shorter than a sleep. */
#define SPINS 60

int64_t wh_sleep_until(unsigned rounds, int64_t deadline_ns)
{
        int64_t nap = rounds >= 4 ? WH_SLEEP_LONGEST_NS : (int64_t)WH_SLEEP_FIRST_NS << rounds;
        int64_t until = wh_os_now_ns() + nap;
        return until < deadline_ns ? until : deadline_ns;
}

/*
 * Take it from nobody, or from a dead holder. Whoever comes here may not be the only one waiting, so it takes the lock
 * with SLEEP set: the price is one needless wake when it was the last.
 */
static bool take(struct wh_mutex *m, uint64_t seen, uint64_t me, uint64_t thread)
{
        /* [mutex] Acquire, pairs with the release in wh_mutex_unlock(). */
        if (!atomic_compare_exchange_strong_explicit(&m->word, &seen, me | WH_MUTEX_SLEEP, memory_order_acquire,
                                                     memory_order_relaxed))
                return false;
        atomic_store_explicit(&m->thread, thread, memory_order_relaxed);
        return true;
}

int wh_mutex_lock_slow(struct wh_mutex *m, uint64_t me, uint64_t thread, int64_t deadline_ns)
{
        static _Atomic int cpus;
        int n = atomic_load_explicit(&cpus, memory_order_relaxed);
        if (!n) {
                n = wh_os_cpus();
                atomic_store_explicit(&cpus, n, memory_order_relaxed);
        }
        for (int i = 0; n > 1 && i < SPINS; i++) {
                uint64_t nobody = 0;
                /* [mutex] Acquire: as in take(). */
                if (!(uint32_t)atomic_load_explicit(&m->word, memory_order_relaxed) &&
                    atomic_compare_exchange_weak_explicit(&m->word, &nobody, me, memory_order_acquire,
                                                          memory_order_relaxed)) {
                        atomic_store_explicit(&m->thread, thread, memory_order_relaxed);
                        return 0;
                }
                wh_relax();
        }

        uint64_t looked_at = 0; /* the holder that was alive when we looked */
        for (unsigned rounds = 0;;) {
                uint64_t w = atomic_load_explicit(&m->word, memory_order_relaxed);
                uint64_t holder = w & ~(uint64_t)WH_MUTEX_SLEEP;
                if (!(uint32_t)w) {
                        if (take(m, w, me, thread))
                                return 0;
                        continue;
                }
                if (holder == me && atomic_load_explicit(&m->thread, memory_order_relaxed) == thread)
                        return -EDEADLK;
                if (holder != looked_at) {
                        if (!wh_task_alive(holder)) {
                                if (take(m, w, me, thread))
                                        return WHARF_HOLDER_DIED;
                                continue;
                        }
                        looked_at = holder;
                }
                if (deadline_ns == 0)
                        return -EAGAIN;
                if (!(w & WH_MUTEX_SLEEP)) {
                        uint64_t marked = w | WH_MUTEX_SLEEP;
                        if (!atomic_compare_exchange_strong_explicit(&m->word, &w, marked, memory_order_relaxed,
                                                                     memory_order_relaxed))
                                continue;
                        w = marked;
                }
                int r = wh_os_futex_wait(wh_mutex_low(m), (uint32_t)w, wh_sleep_until(rounds, deadline_ns), true);
                if (r == 0 || r == -EAGAIN || r == -EINTR)
                        continue;
                /*
                 * L2: look again. So too when the kernel would not let us sleep: waiting by looking is still waiting.
                 */
                looked_at = 0;
                rounds++;
                if (deadline_ns != WHARF_FOREVER && wh_os_now_ns() >= deadline_ns) {
                        /* One last look, so that a dead holder is not reported as a live one. */
                        w = atomic_load_explicit(&m->word, memory_order_relaxed);
                        if ((uint32_t)w && wh_task_alive(w & ~(uint64_t)WH_MUTEX_SLEEP))
                                return -ETIMEDOUT;
                }
        }
}

void wh_mutex_wake(struct wh_mutex *m)
{
        wh_os_futex_wake(wh_mutex_low(m), 1, true);
}

int wharf_mutex_init(wharf_mutex *m)
{
        *m = (wharf_mutex){0};
        return 0;
}

int wharf_mutex_lock(wharf_mutex *m, int64_t deadline_ns)
{
        return wh_mutex_lock((struct wh_mutex *)m, deadline_ns);
}

int wharf_mutex_unlock(wharf_mutex *m)
{
        struct wh_mutex *l = (struct wh_mutex *)m;
        if (wh_unlikely(!wh_mutex_mine(l)))
                return -EPERM;
        wh_mutex_unlock(l);
        return 0;
}

uint32_t wharf_mutex_holder(const wharf_mutex *m)
{
        return wh_task_pid(atomic_load_explicit(&((struct wh_mutex *)m)->word, memory_order_relaxed));
}
