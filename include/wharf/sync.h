/*
 * wharf/sync.h - mutexes, counting semaphores and events that live in shared memory and survive their users.
 *
 * Each is a plain struct that you place anywhere in memory that several processes map writable, at any address, and
 * initialise once. They hold no pointer. Their users trust each other: whoever can write the page can break the
 * lock. A holder may be killed at any instruction: the next one gets the lock and is told.
 *
 * Errors:  0 (or the positive answer named below) on success, a negative errno on failure, which changes nothing.
 * Time:    deadlines are CLOCK_MONOTONIC nanoseconds: wharf/api.h. 0 means do not wait, WHARF_FOREVER means no limit.
 * Threads: all of this may be used by many threads of many processes at once.
 * Holders: the holder is a task: a process, for as long as it runs one program. Death is learnt from the kernel, never
 *          from a time-out: a holder that is stopped keeps its lock. A sleeper looks every 20 to 320 ms whether the
 *          holder lives, so a death costs the next one at most that. Every user must see the others' pids as they do:
 *          put all of them into one pid namespace.
 * Exec:    a process that calls exec() is another task from then on: what it held counts as held by a dead one, for
 *          itself as well. The library knows this by a lock on a byte of /dev/zero, which the kernel drops with the
 *          address space; that takes no descriptor, and one mapped page from the first call on. Where /dev/zero is
 *          missing or may not be opened and locked, and between tasks to which it is not the same file (another
 *          container's), a task is a process, and what it held before exec() is free when it ends.
 * Fork:    a forked child is another task: it holds nothing. Make children with fork(), not with a bare clone().
 */
#ifndef WHARF_SYNC_H
#define WHARF_SYNC_H

#include <stdbool.h>
#include <stdint.h>

#include <wharf/api.h>

WHARF_BEGIN

/* The positive answer of wharf_mutex_lock() and wharf_sem_take(): it is yours, and a former holder died with it. */
#define WHARF_HOLDER_DIED 1

/* ---- mutex ---- */

typedef struct wharf_mutex {
        uint64_t opaque[4];
} wharf_mutex;

/* Make it free. All zero bytes are a free mutex too. Nobody may be using it. */
WHARF_API int wharf_mutex_init(wharf_mutex *m);

/*
 * Take the mutex, waiting for it until the deadline.
 *
 * Answers: 0                  it is yours
 *          WHARF_HOLDER_DIED  it is yours, but its holder died inside: look at what it protects and repair that. If
 *                             you die before wharf_mutex_unlock(), the next one is told again
 * Errors:  -EAGAIN     deadline_ns was 0 and another holds it
 *          -ETIMEDOUT  another held it until the deadline
 *          -EDEADLK    this very thread holds it
 */
WHARF_API int wharf_mutex_lock(wharf_mutex *m, int64_t deadline_ns);

/* Give it back. Errors: -EPERM: this task does not hold it. */
WHARF_API int wharf_mutex_unlock(wharf_mutex *m);

/* The pid of the holder, 0 when free: a snapshot for tools. */
WHARF_API uint32_t wharf_mutex_holder(const wharf_mutex *m);

/* ---- counting semaphore ---- */

/* Tasks that can hold units of one WHARF_SEM_OWNED semaphore at the same time. */
#define WHARF_SEM_HOLDERS_MAX 60

typedef struct wharf_sem {
        uint64_t opaque[128];
} wharf_sem;

/*
 * Units are held by the task that took them, which gives them back itself (copies of a resource). When it dies, they
 * return, and the next taker is told. Without this flag units belong to nobody: one task gives and another takes for
 * good (items in a buffer).
 */
#define WHARF_SEM_OWNED 1u

/*
 * @units      how many can be taken now. For WHARF_SEM_OWNED also how many there are at all.
 * Errors: -EINVAL: units above INT32_MAX, or an unknown flag.
 */
WHARF_API int wharf_sem_init(wharf_sem *s, uint32_t units, uint32_t flags);

/*
 * Take one unit, waiting for it until the deadline.
 *
 * Answers: 0, or WHARF_HOLDER_DIED (owned only): units came back from a dead task since the last such answer
 * Errors:  -EAGAIN     deadline_ns was 0 and there is none
 *          -ETIMEDOUT  there was none until the deadline
 *          -EUSERS     owned only: WHARF_SEM_HOLDERS_MAX other live tasks hold units
 *          -EUCLEAN    the semaphore's bytes make no sense
 */
WHARF_API int wharf_sem_take(wharf_sem *s, int64_t deadline_ns);

/*
 * Give one unit. Errors: -EPERM: owned, and this task holds none. -EOVERFLOW: not owned, and INT32_MAX units are there.
 */
WHARF_API int wharf_sem_give(wharf_sem *s);

/* Units that can be taken now: a snapshot. */
WHARF_API uint32_t wharf_sem_units(const wharf_sem *s);

/* ---- event: "something changed, look again" ---- */

/*
 * For waiting until a condition on shared memory holds:
 *
 *      for (;;) {
 *              uint32_t key = wharf_event_key(e);      // before looking
 *              lock; look; unlock;
 *              if (it holds) break;
 *              wharf_event_wait(e, key, deadline_ns);  // returns at once if something changed since the key
 *      }
 *
 * and the other side: lock; change; unlock; wharf_event_wake(e). A task killed between its change and the wake loses
 * the wake, so a waiter also returns by itself, at the latest after 320 ms: always look again. All zero is ready.
 */
typedef struct wharf_event {
        uint64_t opaque[1];
} wharf_event;

/* The key of this moment, for wharf_event_wait(). */
WHARF_API uint32_t wharf_event_key(wharf_event *e);
/*
 * Wait until something has changed since the key.
 *
 * Answers: 0           look again
 * Errors:  -EAGAIN     deadline_ns was 0
 *          -ETIMEDOUT  the deadline has passed: look once more all the same
 */
WHARF_API int wharf_event_wait(wharf_event *e, uint32_t key, int64_t deadline_ns);
/* Wakes all waiters; no system call when there are none. */
WHARF_API void wharf_event_wake(wharf_event *e);

WHARF_END

#endif
