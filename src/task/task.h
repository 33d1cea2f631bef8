/*
 * task - the process's side of everything: its names, its links, its pools.
 */
#ifndef WH_TASK_TASK_H
#define WH_TASK_TASK_H

#include "base/list.h"
#include "task/account.h"
#include "task/table.h"
#include "task/waits.h"
#include "wharf/task.h"

#include <stdbool.h>

enum { WH_KIND_LINK = 8 }; /* beside enum wharf_kind: the owner's end of a link, in the table of links */
enum { WH_KINDS = 9 };

/*
 * Spinning that was given up is tried again now and then, and then for longer: against a peer that sleeps, an answer
 * takes as long as waking it does, and once one side spins, the other's waits become short as well.
 */
enum { WH_SPIN_PROBE = 4 };

enum { WH_LOOKS = 8 };

/* The ports that a task has of itself. */
enum wh_own_port { WH_OWN_SELF, WH_OWN_NOTIFY, WH_OWN_PORTS };

struct wharf_task {
        /*
         * A page that the kernel empties in a forked child (MADV_WIPEONFORK): 1 here, 0 there, whichever way the child
         * was made.
         */
        const _Atomic uint32_t *ours;
        struct wh_table names;
        struct wh_table links;
        _Atomic uint64_t n_links; /* that there ever were: wh_sender_id() */
        struct wh_lock lock;      /* the pools, and the service */
        struct wh_object *pool[WH_KINDS];
        struct wh_lock notices;       /* see notice.h */
        struct wh_list ids;           /* ports whose id is surely theirs (port.h); guard: notices */
        struct wh_list waiting;       /* ports with links that wait for others to end (places.h); guard: notices */
        uint32_t freed;               /* changes whenever a link ends; guard: notices */
        _Atomic uint32_t n_placeless; /* links: places.h */
        struct wh_list gone;          /* ports that were not to be had after all (move.h, M8); guard: notices */
        _Atomic uint32_t n_gone;      /* so many, also while a thread is at one; a hint */
        _Atomic uint32_t n_waiting;   /* ports in `waiting`; beside its guard a hint */
        struct wh_lock own_lock;      /* making them; taken before all others */
        _Atomic wharf_name own_port[WH_OWN_PORTS];
        pid_t pid;   /* this process's */
        int wake[2]; /* always readable; in every inbox's epoll: see port.h */
        uint32_t spin_us_max;
        uint64_t reply_bytes_max; /* link/stash.h */
        uint64_t ticks_per_us;
        int cpus;
        void *service;
        void (*service_free)(void *);
        struct wh_waits waits; /* what it says about itself to others */
        void *inherited; /* what this process was given at its start: pattern/inherited.c, which has a lock for it */
        void (*inherited_free)(void *);
        struct wh_accounts accounts; /* what all its ports share, between the users of its senders */
        struct wh_lock lingers;      /* guards the next; before those of the books */
        struct wh_list lingering;    /* ends that are over, and unread: wh_end_over() */
        _Atomic uint64_t lingers_looked, replies_looked[WH_LOOKS]; /* ticks: paying.c; of some users each */
        struct wh_scratch *scratch;                                /* guarded by `lock`: those that nobody uses now */
        unsigned n_scratch;
};

static inline bool wh_task_ours(const wharf_task *t)
{
        return wh_likely(atomic_load_explicit(t->ours, memory_order_relaxed) != 0);
}

/*
 * An object of `size` bytes, from the pool of its kind or fresh; zeroed but for the first `keep` bytes, which hold the
 * locks and names that a late holder of a stale name may be touching right now (T1). NULL: no memory.
 */
void *wh_task_take(wharf_task *t, uint8_t kind, size_t size, size_t keep);
/* What there may be in all, after the limits of the process: they may have been raised since, for whoever waits for that. */
/*
 * A number for the link that has this name in the table of links: names are used again, since they are small, and those who
 * remember a sender, or revoke its right, must not meet another. It leads to the name (wh_table_find()), and is one as long
 * as a double has bits for it: 2^33 links, and after those it still is none that was used already.
 */
static inline uint64_t wh_sender_id(wharf_task *t, uint32_t name)
{
        const uint64_t nth = 1 + atomic_fetch_add_explicit(&t->n_links, 1, memory_order_relaxed);
        return nth << WH_TABLE_INDEX_BITS | (name & ((1u << WH_TABLE_INDEX_BITS) - 1));
}

bool wh_task_limits(wharf_task *t); /* true: of links there may be more */
/* What is left of a task that has no names any more; in a forked child, too. */
void wh_task_free(wharf_task *t);
/* Back to the pool. It has no name any more. */
void wh_task_give(wharf_task *t, struct wh_object *o);

/*
 * Room for what is too large for a stack of PTHREAD_STACK_MIN, for as long as one thread is in one function: the bytes
 * of one frame, for one. Those given back are kept, so that this seldom asks for memory; the first one is there from
 * the beginning. NULL: no memory.
 */
enum { WH_SCRATCH_BYTES = (16 << 10) + 128 };
void *wh_task_scratch_take(wharf_task *t);
void wh_task_scratch_give(wharf_task *t, void *scratch);

/* A port is closed: where it was one of the task's own, the next asking makes another. */
void wh_task_own_closed(wharf_task *t, wharf_name port);
/* What the name service keeps in a task; freed by wharf_task_close(), before the names go. */
void *wh_task_service(wharf_task *t);
void wh_task_service_set(wharf_task *t, void *p, void (*free_fn)(void *));

#endif
