/*
 * waits - a page on which a task says what its threads wait for, which ports are its own, and to which it has rights:
 * what `wharf ps` draws its graph from.
 *
 * Why: who waits for whom is private to each process, and a deadlock is seen only when all of it is looked at. The page
 * goes to wharfd with the task's first question there, so looking needs nobody's cooperation, least of all that of
 * tasks which are stuck.
 *
 * Always true:
 *   W1  It is written only around real sleeps and where ports and links come and go: never for a message.
 *   W2  It is private memory until somebody asks for its descriptor; then a sealed memfd, which all others can only
 *       read. Threads that sleep already are on it from the first.
 *   W3  A wait is whole when its generation is odd and the same before and after it was read; no two waits of a task
 *       have the same. Everything else is a moment's number, and all of it a claim of its writer.
 *   W4  What does not fit is counted, so that a reader knows that it does not see all.
 */
#ifndef WH_TASK_WAITS_H
#define WH_TASK_WAITS_H

#include "base/bits.h"
#include "os/lock.h"
#include "wharf/names.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define WH_TASK_PAGE_MAGIC 0x6b73617466726877u /* "whrftask" */
#ifndef WH_TASK_PAGE_VERSION                   /* proof/matrix/later.h */
#define WH_TASK_PAGE_VERSION 1u
#endif

enum {
        WH_WAITS_MAX = 24,      /* threads that wait at once */
        WH_WAIT_PORTS_MAX = 24, /* ports of the task */
        WH_WAIT_HELD_MAX = 64,  /* ports to which it holds rights */
        WH_WAIT_SENDERS_MAX = 8,
        WH_WAITS_NONE = WH_WAITS_MAX + 1, /* what wh_waits_end() takes when nothing began */
};

enum {
        WH_WAIT_LISTENS = 1, /* of a port: anyone may connect */
        WH_WAIT_STALE = 2,   /* its links have changed since they were written down */
        WH_WAIT_MORE = 4,    /* it has more senders than are listed */
};

/* One thread that waits. */
struct wh_wait {
        _Atomic uint64_t generation; /* W3 */
        _Atomic uint64_t port_id;    /* SEND, CALL: to which port; 0 where it has not said yet */
        _Atomic int64_t since_ns, deadline_ns;
        _Atomic uint32_t what;  /* enum wharf_waits_for */
        _Atomic uint32_t inbox; /* RECEIVE: in which ports[] that say the same */
        _Atomic uint32_t peer;  /* RECEIVE from one: the process, where it is known */
        _Atomic uint32_t flags; /* WHARF_WAIT_* */
};

struct wh_wait_port {
        _Atomic uint64_t port_id; /* 0: none here */
        _Atomic uint32_t inbox;
        _Atomic uint32_t flags;                        /* WH_WAIT_* */
        _Atomic uint32_t links;                        /* of them ... */
        _Atomic uint32_t unknown;                      /* ... so many whose holder the kernel has not named yet */
        _Atomic uint32_t senders[WH_WAIT_SENDERS_MAX]; /* processes, each once; 0 ends them */
};

struct wh_wait_held {
        _Atomic uint64_t port_id; /* 0: none here */
        _Atomic uint64_t rights;
};

struct wh_task_page {
        uint64_t magic;
        uint64_t version;
        uint64_t id; /* of the task: a process may have several */
        _Atomic uint64_t waits_more, ports_more;
        _Atomic uint64_t closed; /* 1: the task is no more, though its process may live */
        uint64_t zero[2];
        struct wh_wait waits[WH_WAITS_MAX];
        struct wh_wait_port ports[WH_WAIT_PORTS_MAX];
        struct wh_wait_held held[WH_WAIT_HELD_MAX];
        uint8_t pad[WH_PAGE - 64 - 48 * WH_WAITS_MAX - 56 * WH_WAIT_PORTS_MAX - 16 * WH_WAIT_HELD_MAX];
};
static_assert(sizeof(struct wh_task_page) == WH_PAGE, "one page");

/* The same as plain numbers: a copy that cannot change any more, and what wharfd sends on. */
struct wh_task_view {
        uint64_t waits_more, ports_more;
        struct {
                uint64_t generation, port_id; /* generation 0: nobody waits here */
                int64_t since_ns, deadline_ns;
                uint32_t what, inbox, peer, flags;
        } waits[WH_WAITS_MAX];
        struct {
                uint64_t port_id;
                uint32_t inbox, flags, links, unknown, senders[WH_WAIT_SENDERS_MAX];
        } ports[WH_WAIT_PORTS_MAX];
        struct {
                uint64_t port_id, rights;
        } held[WH_WAIT_HELD_MAX];
};
static_assert(sizeof(struct wh_task_view) == 16 + 48 * WH_WAITS_MAX + 56 * WH_WAIT_PORTS_MAX + 16 * WH_WAIT_HELD_MAX,
              "no holes: it goes over the wire");

/* A task's own side of it; part of struct wharf_task. */
struct wh_waits {
        struct wh_lock lock;       /* the last one taken, and never held across a call of the system */
        struct wh_task_page *page; /* NULL until something is to be said; then private, or the memfd's */
        int fd;                    /* 0: private */
        uint64_t generation;
};

/* ---- writing: each does nothing where there is no memory for a page ---- */

/* A thread is about to sleep. Returns what wh_waits_end() takes. */
unsigned wh_waits_begin(struct wh_waits *w, enum wharf_waits_for what, uint32_t flags, uint64_t port_id, uint32_t inbox,
                        uint32_t peer, int64_t deadline_ns);
void wh_waits_end(struct wh_waits *w, unsigned slot);
/* A right to that port was learned of (+1) or let go (-1). */
void wh_waits_hold(struct wh_waits *w, uint64_t port_id, int by);
/* An entry for a port: where, counted from 1, or 0. */
unsigned wh_waits_port_new(struct wh_waits *w, uint64_t port_id);
void wh_waits_port_gone(struct wh_waits *w, unsigned at);
void wh_waits_port_stale(struct wh_waits *w, unsigned at);
void wh_waits_port_tell(struct wh_waits *w, unsigned at, uint32_t inbox, uint32_t flags, uint32_t links,
                        uint32_t unknown, const uint32_t *senders, unsigned n_senders);
/* With the task; `ours`: not in a forked child, where the memfd was never mapped. */
void wh_waits_done(struct wh_waits *w, bool ours);

/* ---- handing it over ---- */

/* The descriptor of the task's page; owned by the task. -EMFILE, -ENFILE, -ENOMEM */
int wh_waits_fd(struct wh_waits *w, int *ret);

/* ---- reading somebody else's ---- */

/* Map it for reading, or refuse it (-EPROTO, -EPROTONOSUPPORT). Unmap with wh_task_page_close(). */
int wh_task_page_open(int fd, const struct wh_task_page **ret);
void wh_task_page_close(const struct wh_task_page *page);
/* Has its task been closed? */
bool wh_task_page_closed(const struct wh_task_page *page);
void wh_task_page_read(const struct wh_task_page *page, struct wh_task_view *ret);

#endif
