/*
 * notice - messages of the system to a port of the task: a right died, no sender is left, a send-once right went
 * unused.
 *
 * Always true:
 *   N1  A notice is allocated when it is asked for, and only moved from then on: what is to be told is never lost for
 *       want of memory, and firing cannot fail.
 *   N2  Firing takes no lock but task->notices, which is a leaf: it may be done with any other lock held. The notice
 *       goes to `fired` of the inbox that its port has now, whose epoll is woken (P4); whoever receives there moves it
 *       to `notices` and delivers it.
 *   N3  A port's `inbox` changes only with task->notices held, so a notice is fired at the inbox that will look.
 *   N4  A notice whose port is closed is dropped, whether it was fired already or fires later.
 */
#ifndef WH_PORT_NOTICE_H
#define WH_PORT_NOTICE_H

#include "base/list.h"
#include "task/task.h"

struct wh_port;
struct wh_link;
struct wh_inbox;

struct wh_notice {
        struct wh_list node;
        uint32_t what; /* WHARF_NOTICE_* */
        wharf_name about, port;
        uint64_t sender; /* the id of the link it is about; 0 */
        uint64_t count;  /* for NO_SENDERS: the make-send count; for ONCE_UNUSED: how many rights */
        uint32_t call;   /* for REPLY: which, */
        int error;       /* and how it ended */
};

/*
 * A notice to `port` that may be fired some day; NULL when there is no memory. Threads that receive there wait for it.
 */
struct wh_notice *wh_notice_new(wharf_task *t, uint32_t what, wharf_name about, wharf_name port);
/* It will not be fired. NULL is allowed. */
void wh_notice_free(wharf_task *t, struct wh_notice *n);
/* Send it; consumes it. Any lock but task->notices may be held. */
void wh_notice_fire(wharf_task *t, struct wh_notice *n);

/* Have whoever receives there call wh_notices_take(). task->notices is held. */
void wh_notices_wake(struct wh_inbox *in);

/* Where it will be received; NULL when its port is closed. */
struct wh_inbox *wh_notice_inbox(wharf_task *t, const struct wh_notice *n);

/* Is `port` a port of this task that a notice can go to? It may be closed at any time after (N4). -EBADF, -EPERM, -ESTALE */
int wh_notice_check(wharf_task *t, wharf_name port);
/*
 * A notice to `port` is in `slot` from now on, until it is fired or taken back. -EBUSY: one was, whose port is there still;
 * -ENOMEM. The lock that guards the slot is held.
 */
int wh_notice_ask(wharf_task *t, struct wh_notice **slot, uint32_t what, wharf_name about, wharf_name port);

/* Mach's no-senders notice about the port `about`: asked for, or no more, where *ret is it, to be freed. Errors: as wharf_notify() */
int wh_no_senders_ask(wharf_task *t, wharf_name about, wharf_name port, uint64_t sync);
int wh_no_senders_unask(wharf_task *t, wharf_name about, struct wh_notice **ret);

/* ---- for the inbox, which is locked ---- */

/* Those that were fired at this inbox can be received from it now, and links that waited for a place go on. */
void wh_notices_take(struct wh_inbox *in);
/* It was delivered, or goes with its inbox: frees it. */
void wh_notice_done(wharf_task *t, struct wh_notice *n);
/* Notices of unused send-once rights that wait to be received from `p`: the port's own, wherever it goes. */
uint32_t wh_notices_unused(struct wh_port *p);
/* The port `name` goes over to the inbox `to`, with its notices; or is closed, with `to` NULL. Sets p->inbox. */
void wh_notices_move(struct wh_port *p, wharf_name name, struct wh_inbox *to);
/* `l`, a link of `p`, is no more: fires what that means to somebody. */
void wh_port_sender_gone(struct wh_port *p, struct wh_link *l);

#endif
