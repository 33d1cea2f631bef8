/*
 * port - the owner's side: receive rights, the inbox they wait in, and sets.
 *
 * An inbox is where threads wait: one epoll, one list of links that were busy of late (hot), one leader. A port has an
 * inbox of its own; while it is in a set, the set's inbox has its links.
 *
 * Always true:
 *   P1  A link that is not hot is armed: its sender rings, or its socket becomes readable, for whatever comes next.
 *       Idle links are never looked at.
 *   P2  At most one thread, the leader, is in epoll_wait() or spins; the others sleep on `turn`. Whoever leaves while
 *       others wait moves `turn` on, so that one of them leads.
 *   P3  In an inbox whose descriptor was asked for (pollable), `bell` is set unless every link is armed and nothing
 *       was found after arming: the descriptor is readable while a receive would not have to wait.
 *
 * Guard: inbox.lock, for the inbox, the ports in it and the receiving half of their links. A port's `inbox` changes
 * only with both inboxes locked. Locks are taken in the order inbox, link, table and pool.
 */
#ifndef WH_PORT_PORT_H
#define WH_PORT_PORT_H

#include "port/link.h"
#include "port/object.h"

struct wh_port_status;

struct wh_inbox {
        struct wh_lock lock;
        wharf_task *task;
        int ep;
        int bell; /* an eventfd in `ep`; -1 until needed */
        bool bell_set;
        bool pollable;
        bool leader;
        bool accepts_owed;     /* in one of its ports */
        bool leader_has_only;  /* it waits for one link, and leaves the hot ones to others */
        uint32_t waiters;      /* threads that sleep in a receive, the leader among them */
        _Atomic uint32_t turn; /* futex */
        struct wh_list hot;
        struct wh_list ports; /* in it */
        struct wh_list notices;
        uint32_t since_look; /* messages taken since epoll was last asked */
        uint32_t spin_us, spin_misses;
        struct wh_link *direct; /* the link whose chunks go into the running receive's buffer */
};

struct wh_notice {
        struct wh_list node;
        uint32_t what;
        wharf_name about, port;
};

struct wh_port {
        struct wh_object o;
        struct wh_inbox own; /* its lock comes right behind `o`: both outlive the port (T1) */
        wharf_task *task;
        _Atomic(struct wh_inbox *) inbox;
        struct wh_list in_inbox;
        struct wh_list links;
        uint32_t n_links;
        struct wharf_port_opts opts;
        wharf_port_id id;
        bool closing;
        uint32_t awaited;  /* notices asked for that have not come yet: rights that are watched for it */
        int listen_fd;     /* borrowed; -1 */
        bool accepts_owed; /* connections may wait that there was no descriptor for */
        uint64_t mapped;
        uint64_t received_messages, received_bytes, refused;
        struct wh_port_status *status;
        int status_fd;
};

struct wh_set {
        struct wh_object o;
        struct wh_inbox inbox;
        bool closing;
};

/* Lock and return the inbox that `name` (a port or a set) receives from; *ret_port is NULL for a set. */
struct wh_inbox *wh_inbox_lock(wharf_task *t, wharf_name name, struct wh_port **ret_port, int *err);
/* The same for a port, whether or not it is in a set. Unlock port->inbox. */
struct wh_port *wh_port_lock(wharf_task *t, wharf_name name, int *err);

/*
 * Sleep until something may have changed; the lock is given up meanwhile. 0; -ETIMEDOUT; -EAGAIN for deadline 0, with
 * everything armed. `only` is NULL, or the one link that this thread receives from: what others sent then ends no wait.
 */
int wh_inbox_wait(struct wh_inbox *in, const struct wh_link *only, int64_t deadline_ns);
/* Is there a record in the lane of a hot link? */
bool wh_inbox_has_message(struct wh_inbox *in);
/* Ask epoll, without waiting, which links have something. */
void wh_inbox_look(struct wh_inbox *in);
/* A thread leaves a receive: let another lead, and keep P3. `armed`: with -EAGAIN, so `bell` is right as it is. */
void wh_inbox_leave_slow(struct wh_inbox *in, bool armed);
static inline void wh_inbox_leave(struct wh_inbox *in, bool armed)
{
        if (wh_unlikely(in->waiters | in->pollable))
                wh_inbox_leave_slow(in, armed);
}
void wh_inbox_wake_all(struct wh_inbox *in);

/* Add the owner's end of a link; takes `sock` only on success. */
int wh_port_add_link(struct wh_port *p, int sock, uint64_t introducer, struct wh_link **ret);
/* A notice was asked for, which will go to this port; under the inbox's lock. */
static inline void wh_port_await(struct wh_port *p)
{
        p->awaited++;
}
/* It will not come: whoever waits for it alone is told so. Nothing of the port or of a link is locked. */
void wh_port_await_no_more(wharf_task *t, wharf_name port);
/* Let go of the links whose senders are gone and have left nothing unread. Not from inside an event or a pump. */
void wh_port_reap(struct wh_port *p);
/* Close a link for good: out of epoll and lists, its socket closed. It is freed with its last reference. */
void wh_port_remove_link(struct wh_link *l);
void wh_port_hello(const struct wh_port *p, struct wh_hello *ret);
void wh_port_stat_locked(struct wh_port *p, struct wharf_port_stat *ret);
/* Stores the port's numbers into its page, if it has one. Looks at every link: not for every message. */
void wh_port_tell_status(struct wh_port *p);
/* After a message: what it changed, and now and then the rest. */
void wh_port_tell_received(struct wh_port *p);

#endif
