/*
 * held - the holder's end of a link: a send right, and the calls that wait on it.
 *
 * It begins with the link itself, so the tables, and the code that sends and receives, know it as that.
 */
#ifndef WH_RIGHT_HELD_H
#define WH_RIGHT_HELD_H

#include "base/list.h"
#include "link/link.h"

struct wh_inbox;
struct wh_notice;

/* Memory of the caller's own, into which one reply may be written: direct.h. */
struct wh_window {
        struct wh_window *next; /* put aside */
        uint32_t call;
        void *map;
        uint64_t len, map_len; /* what was asked for; what is mapped */
        bool told;             /* the other side may know of it */
};

/* A call that waits for its reply; at the holder. */
struct wh_call {
        struct wh_list node;
        uint64_t seq; /* of its request, plus 1; 0 before it was sent */
        uint32_t number;
        bool done;
        int result; /* when done: 0 with `reply` full, or why there is none */
        struct wh_stash reply;
        struct wh_items items;
        int via;              /* -1, or the socket on which a delegated reply comes */
        struct wh_stash part; /* of a delegated reply */
        struct wh_window *window;
        uint64_t window_asked;    /* how many bytes; 0: none */
        int window_refused;       /* why the request went without */
        struct wh_notice *notice; /* told.c: where its end is to be told; NULL: nowhere, or it was */
        wharf_name port;          /* ... and at which port, */
        struct wh_told *told;     /* whose inbox watches the link's socket, and `via` */
};

/* An inbox at which ends of calls over this link are told: its epoll has the link's socket. */
struct wh_told {
        struct wh_list node;
        struct wh_inbox *inbox;
        uint32_t n; /* calls */
};

/* What a right was asked to tell (asked.c): that its port died, and of room (room.c). */
enum { WH_ASKED_DEAD = 0, WH_ASKED_POSSIBLE = 1, WH_ASKED_LATER = 2, WH_ASKED };
struct wh_asked {
        struct wh_inbox *inbox;   /* to which the notice goes, while it is armed */
        struct wh_notice *notice; /* NULL: nothing was asked for, or it was told */
        wharf_name port;
};

struct wh_held {
        struct wh_link link; /* the first */
        struct wh_list calls;
        uint32_t last_call;
        struct wh_list told;   /* struct wh_told; empty: no call has a notice */
        uint32_t waiters;      /* threads that use this link and sleep, */
        uint32_t room_waiters; /* and those of them that wait for room */
        _Atomic uint32_t turn; /* futex: changes whenever a waiter should look again */
        uint32_t spin_us;      /* what spinning is worth, as learned */
        uint32_t spin_misses;
        uint8_t blind; /* so many times the socket had something, and nothing was found in it */
        struct wh_asked asked[WH_ASKED];
        struct wh_window *window_spare;  /* given back, with its pages, for the next call */
        struct wh_window *windows_aside; /* of calls that were given up (D4) */
        uint64_t sender_id;              /* made here, to a port of our own: by which that knows its user; or 0 */
};

static_assert(offsetof(struct wh_held, link) == 0, "tables and pools hold it as the link's object");

/*
 * The holder's end that `l` is. Only where it is known to be one: a send right, or `l->owner` was looked at. A link for
 * one message (wh_single_end) is none. Nothing checks it here.
 */
static inline struct wh_held *wh_held(const struct wh_link *l)
{
        return (struct wh_held *)(uintptr_t)l;
}

/* A new one, without a name. NULL: no memory. Takes `sock`. */
struct wh_held *wh_held_new(wharf_task *t, int sock);
/* As wh_link_done(), of all that it has. */
void wh_held_done(struct wh_held *h);

/*
 * How often to look for room right where one is, with the link locked, before waiting in the long way: a few
 * microseconds at most, and only where spinning has been paying.
 */
static inline unsigned wh_spins_in_place(const struct wh_link *l, int64_t deadline_ns)
{
        return deadline_ns && wh_held(l)->spin_us && l->out.lane && !l->in.leader ? 256 : 0;
}

/* ---- asked.c: what is to be told of a right; the link is locked, but where that is said ---- */

/* A notice of what is asked of rights, WHARF_NOTICE_*; nothing is locked. */
int wh_right_ask(wharf_task *t, uint32_t what, wharf_name right, wharf_name port);
/* Not any more: *ret is the notice, to be freed, or NULL. Nothing is locked. */
int wh_right_unask(wharf_task *t, uint32_t what, wharf_name right, struct wh_notice **ret);
/* The link's socket is in the epoll of that inbox for all that is armed there, or not in it; an edge comes again. */
int wh_asked_watch(struct wh_link *l, struct wh_inbox *in);
/* Has the link's own pair ended? Others have its tag in an epoll: of replies that were passed on, and of the pair before. */
bool wh_asked_hung_up(const struct wh_link *l);
int wh_asked_arm(struct wh_link *l, struct wh_asked *a);
/* Neither armed nor asked for any more: the notice. */
struct wh_notice *wh_asked_end(struct wh_link *l, struct wh_asked *a);
void wh_asked_fire(struct wh_link *l, struct wh_asked *a);
/* The right is dropped. */
void wh_asked_forget(struct wh_link *l);

/* ---- told.c: calls whose end is told at a port; the link is locked ---- */

static inline bool wh_is_told(const struct wh_link *l)
{
        return wh_unlikely(!wh_list_empty(&wh_held(l)->told));
}
/* Before the request goes: `n` is fired when it ends, at that port. 0, -ENOMEM, or as epoll_ctl(); then nothing is so. */
int wh_told_begin(struct wh_link *l, struct wh_call *c, struct wh_notice *n, wharf_name port);
/* It has ended; or cannot go on being heard of, for `error`. */
void wh_told_fire(struct wh_link *l, struct wh_call *c, int error);
/* Nobody is told any more. */
void wh_told_forget(struct wh_link *l, struct wh_call *c);
/* Its reply comes by c->via from now on, or no more by that. */
void wh_told_via(struct wh_link *l, struct wh_call *c, bool add);
/* The sockets have something; `hung_up`: nothing more comes on one of them. */
void wh_told_event(struct wh_link *l, bool hung_up);
/* Nobody reads the link now, so what comes is to ring. Due whenever something was, or may have been, read of it (U2). */
void wh_told_arm(struct wh_link *l);
/* Unlock a link that was read. */
static inline void wh_holder_unlock(struct wh_link *l)
{
        if (wh_is_told(l) && !l->in.leader)
                wh_told_arm(l);
        wh_unlock(&l->o.lock);
}
/* What is told at `port` goes to the inbox `to` now, or nowhere. */
void wh_told_move(struct wh_link *l, wharf_name port, struct wh_inbox *to);
/* Its port may be watched for. Nothing is locked. -EBADF, -EPERM, -ESTALE */
int wh_told_port(wharf_task *t, wharf_name port);

/* ---- room.c: notices of room ---- */

bool wh_room_armed(const struct wh_link *l);
/* Look, and tell what is due. */
void wh_room_tell(struct wh_link *l);
/* The same, and announce that more is wanted. */
void wh_room_settle(struct wh_link *l);
/* The socket of an armed link has something. */
void wh_room_event(struct wh_link *l);
/* Another pair, or an edge that is to come again. */
void wh_room_watch(struct wh_link *l);

#endif
