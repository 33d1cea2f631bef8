/*
 * sync - semaphores and events in shared memory.
 *
 * A semaphore without owners is one word: units, and a bit that says somebody sleeps. Each call changes it by one
 * compare-and-swap, so a task killed anywhere has done all of it or nothing.
 *
 * A semaphore with owners has a table of who holds how many. That table is what is true; how many are free is derived
 * from it at each call, under the lock, so there is nothing to repair:
 *   T1  a place of the table with held > 0 belongs to the task in it; with held == 0 it is anybody's
 *   T2  `died` is set before the units of a dead task return, and cleared after a taker has its unit
 */
#include "memory/mutex.h"
#include "os/os.h"

#include <assert.h>
#include <errno.h>

#define SLEEPS 0x80000000u

struct holder {
        _Atomic uint64_t task; /* written before held becomes 1 */
        _Atomic uint32_t held; /* units; the store of it is the take, and the give */
        uint32_t unused;
};

struct sem {
        _Atomic uint32_t units; /* not owned: units that can be taken, and SLEEPS. Owned: how many there are at all */
        _Atomic uint32_t flags;
        _Atomic uint32_t turn; /* owned: an event; changes with every unit that returns */
        _Atomic uint32_t died; /* owned: T2 */
        struct wh_mutex lock;  /* owned: guards all of the following */
        uint64_t unused[2];
        struct holder holders[WHARF_SEM_HOLDERS_MAX];
};
static_assert(sizeof(struct sem) == sizeof(wharf_sem), "the public struct is this one");

/* ---- event: bit 0 says that somebody sleeps, the others count ---- */

static uint32_t event_key(_Atomic uint32_t *e)
{
        /* [event] Acquire, pairs with the release in event_wake(): whoever has the new key sees what changed. */
        return atomic_load_explicit(e, memory_order_acquire) & ~1u;
}

/* Sleeps at most until `until_ns`. */
static int event_wait(_Atomic uint32_t *e, uint32_t key, int64_t until_ns)
{
        uint32_t is = key;
        /* Relaxed: the caller looks again under its own order. The futex compares the word once more. */
        if (!atomic_compare_exchange_strong_explicit(e, &is, key | 1, memory_order_relaxed, memory_order_relaxed) &&
            is != (key | 1))
                return 0;
        int r = wh_os_futex_wait(e, key | 1, until_ns, true);
        return r == -ETIMEDOUT ? r : 0;
}

static void event_wake(_Atomic uint32_t *e)
{
        uint32_t is = atomic_load_explicit(e, memory_order_relaxed);
        /* [event] Release, pairs with the acquire in event_key(). */
        while (!atomic_compare_exchange_weak_explicit(e, &is, (is | 1) + 1, memory_order_release, memory_order_relaxed))
                ;
        if (is & 1)
                wh_os_futex_wake(e, INT32_MAX, true);
}

uint32_t wharf_event_key(wharf_event *e)
{
        return event_key((_Atomic uint32_t *)e->opaque);
}

int wharf_event_wait(wharf_event *e, uint32_t key, int64_t deadline_ns)
{
        if (deadline_ns == 0)
                return -EAGAIN;
        /* The longest sleep at once: the caller looks again, and the wake is the usual way to come back. */
        int r = event_wait((_Atomic uint32_t *)e->opaque, key, wh_sleep_until(4, deadline_ns));
        return r == -ETIMEDOUT && (deadline_ns == WHARF_FOREVER || wh_os_now_ns() < deadline_ns) ? 0 : r;
}

void wharf_event_wake(wharf_event *e)
{
        event_wake((_Atomic uint32_t *)e->opaque);
}

/* ---- semaphore ---- */

int wharf_sem_init(wharf_sem *s, uint32_t units, uint32_t flags)
{
        if (units > INT32_MAX || flags & ~WHARF_SEM_OWNED)
                return -EINVAL;
        *s = (wharf_sem){0};
        struct sem *sem = (struct sem *)s;
        atomic_store_explicit(&sem->flags, flags, memory_order_relaxed);
        /* [sem] Release, pairs with the acquire in take_plain() and the loads under the lock. */
        atomic_store_explicit(&sem->units, units, memory_order_release);
        return 0;
}

static int take_plain(struct sem *s, int64_t deadline_ns)
{
        for (unsigned rounds = 0;;) {
                uint32_t is = atomic_load_explicit(&s->units, memory_order_relaxed);
                while (is & ~SLEEPS)
                        /* [sem] Acquire, pairs with the release in give_plain(): what the giver did before is seen. */
                        if (atomic_compare_exchange_weak_explicit(&s->units, &is, is - 1, memory_order_acquire,
                                                                  memory_order_relaxed))
                                return 0;
                if (deadline_ns == 0)
                        return -EAGAIN;
                if (deadline_ns != WHARF_FOREVER && rounds && wh_os_now_ns() >= deadline_ns)
                        return -ETIMEDOUT;
                if (!(is & SLEEPS) && !atomic_compare_exchange_strong_explicit(
                                              &s->units, &is, SLEEPS, memory_order_relaxed, memory_order_relaxed))
                        continue;
                wh_os_futex_wait(&s->units, SLEEPS, wh_sleep_until(rounds++, deadline_ns), true);
        }
}

static int give_plain(struct sem *s)
{
        uint32_t is = atomic_load_explicit(&s->units, memory_order_relaxed);
        do {
                if ((is & ~SLEEPS) == INT32_MAX)
                        return -EOVERFLOW;
                /*
                 * [sem] Release, pairs with the acquire in take_plain(). All sleepers wake; who gets none sleeps again.
                 */
        } while (!atomic_compare_exchange_weak_explicit(&s->units, &is, (is & ~SLEEPS) + 1, memory_order_release,
                                                        memory_order_relaxed));
        if (is & SLEEPS)
                wh_os_futex_wake(&s->units, INT32_MAX, true);
        return 0;
}

static uint32_t held_in_all(struct sem *s)
{
        uint64_t sum = 0;
        for (unsigned i = 0; i < WHARF_SEM_HOLDERS_MAX; i++)
                sum += atomic_load_explicit(&s->holders[i].held, memory_order_relaxed);
        return sum > UINT32_MAX ? UINT32_MAX : (uint32_t)sum;
}

/* Units of dead tasks return. The lock is held. */
static bool sweep(struct sem *s)
{
        bool any = false;
        for (unsigned i = 0; i < WHARF_SEM_HOLDERS_MAX; i++) {
                struct holder *h = &s->holders[i];
                if (!atomic_load_explicit(&h->held, memory_order_relaxed) ||
                    wh_task_alive(atomic_load_explicit(&h->task, memory_order_relaxed)))
                        continue;
                atomic_store_explicit(&s->died, 1, memory_order_relaxed); /* T2 */
                atomic_store_explicit(&h->held, 0, memory_order_relaxed);
                any = true;
        }
        return any;
}

/* This task's place in the table, or, if `make`, a free one with its name on it. The lock is held. */
static struct holder *my_place(struct sem *s, bool make)
{
        uint64_t me = wh_task_self();
        struct holder *free_ = NULL;
        for (unsigned i = 0; i < WHARF_SEM_HOLDERS_MAX; i++) {
                struct holder *h = &s->holders[i];
                if (!atomic_load_explicit(&h->held, memory_order_relaxed))
                        free_ = free_ ? free_ : h;
                else if (atomic_load_explicit(&h->task, memory_order_relaxed) == me)
                        return h;
        }
        if (!make || !free_)
                return NULL;
        atomic_store_explicit(&free_->task, me, memory_order_relaxed);
        return free_;
}

/* One try, with the lock held. 0, WHARF_HOLDER_DIED, or a negative errno. */
static int take_owned_locked(struct sem *s)
{
        uint32_t units = atomic_load_explicit(&s->units, memory_order_relaxed);
        if (units > INT32_MAX)
                return -EUCLEAN;
        if (held_in_all(s) >= units && !sweep(s))
                return -EAGAIN;
        struct holder *mine = my_place(s, true);
        if (!mine && sweep(s))
                mine = my_place(s, true);
        if (!mine)
                return -EUSERS;
        /*
         * [held] Release: the name is there before the unit is (T1). The lock orders it for others; a death does not.
         */
        atomic_store_explicit(&mine->held, atomic_load_explicit(&mine->held, memory_order_relaxed) + 1,
                              memory_order_release);
        if (!atomic_load_explicit(&s->died, memory_order_relaxed))
                return 0;
        atomic_store_explicit(&s->died, 0, memory_order_relaxed);
        return WHARF_HOLDER_DIED;
}

static int take_owned(struct sem *s, int64_t deadline_ns)
{
        for (unsigned rounds = 0;;) {
                uint32_t key = event_key(&s->turn);
                int r = wh_mutex_lock(&s->lock, deadline_ns ? deadline_ns : WHARF_FOREVER);
                if (r < 0)
                        return r;
                r = take_owned_locked(s); /* that the lock's holder died needs no repair: see the head comment */
                wh_mutex_unlock(&s->lock);
                if (r != -EAGAIN)
                        return r;
                if (deadline_ns == 0)
                        return -EAGAIN;
                if (deadline_ns != WHARF_FOREVER && rounds && wh_os_now_ns() >= deadline_ns)
                        return -ETIMEDOUT;
                event_wait(&s->turn, key, wh_sleep_until(rounds++, deadline_ns));
        }
}

static int give_owned(struct sem *s)
{
        int r = wh_mutex_lock(&s->lock, WHARF_FOREVER);
        if (r < 0)
                return r;
        struct holder *mine = my_place(s, false);
        if (mine)
                atomic_store_explicit(&mine->held, atomic_load_explicit(&mine->held, memory_order_relaxed) - 1,
                                      memory_order_relaxed);
        wh_mutex_unlock(&s->lock);
        if (!mine)
                return -EPERM;
        event_wake(&s->turn);
        return 0;
}

int wharf_sem_take(wharf_sem *s, int64_t deadline_ns)
{
        struct sem *sem = (struct sem *)s;
        bool owned = atomic_load_explicit(&sem->flags, memory_order_relaxed) & WHARF_SEM_OWNED;
        return owned ? take_owned(sem, deadline_ns) : take_plain(sem, deadline_ns);
}

int wharf_sem_give(wharf_sem *s)
{
        struct sem *sem = (struct sem *)s;
        bool owned = atomic_load_explicit(&sem->flags, memory_order_relaxed) & WHARF_SEM_OWNED;
        return owned ? give_owned(sem) : give_plain(sem);
}

uint32_t wharf_sem_units(const wharf_sem *s)
{
        struct sem *sem = (struct sem *)s;
        uint32_t units = atomic_load_explicit(&sem->units, memory_order_relaxed);
        if (!(atomic_load_explicit(&sem->flags, memory_order_relaxed) & WHARF_SEM_OWNED))
                return units & ~SLEEPS;
        uint32_t held = held_in_all(sem);
        return held < units ? units - held : 0;
}
