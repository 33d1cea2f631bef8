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
 *   P3  In an inbox whose descriptor was asked for (pollable), the bell is set unless every link is armed and nothing
 *       was found after arming: the descriptor is readable while a receive would not have to wait.
 *   P4  Waking never fails for want of a descriptor or of memory. The task has two descriptors that are always
 *       readable (task->wake); each inbox has both in its epoll from the start, asking for nothing. To wake is to ask
 *       for EPOLLIN: [0] is the bell, [1] says that notices were fired (notice.h).
 *
 * Guard: inbox.lock, for the inbox, the ports in it and the receiving half of their links. A port's `inbox` changes
 * only with both inboxes locked. Locks are taken in the order inbox, link, table and pool.
 */
#ifndef WH_PORT_PORT_H
#define WH_PORT_PORT_H

#include "link/link.h"
#include "port/notice.h"
#include "port/turns.h"

struct wh_port_status;

/* The owner's end of a link. */
extern const struct wh_end_ops wh_owner_end;

/*
 * Rights that are watched for a port have their sockets in the epoll of its inbox, as WH_EP_WATCH with the right's name. Who
 * watches them is told, and takes them along.
 */
struct wh_watcher {
        void (*event)(struct wh_inbox *in, wharf_name right, uint32_t events);
        /* The port `name` receives from the inbox `to` now; or from none, and is closed. */
        void (*move)(struct wh_port *p, wharf_name name, struct wh_inbox *to);
};

struct wh_inbox {
        struct wh_lock lock;
        wharf_task *task;
        wharf_name name; /* of the port or set that it belongs to */
        int ep;
        bool bell_set; /* P4 */
        bool pollable;
        bool leader;
        bool accepts_owed;                /* in one of its ports */
        bool accepts_more;                /* ... and only for others' sake: nobody tells of them again */
        bool at_door;                     /* one of its ports has such a connection */
        bool leader_has_only;             /* it waits for one link, and leaves the hot ones to others */
        const struct wh_watcher *watches; /* of its ports */
        uint32_t waiters;                 /* threads that sleep in a receive, the leader among them */
        _Atomic uint32_t turn;            /* futex */
        struct wh_list hot;
        struct wh_list aside;   /* of `hot`: what these have takes more than there is; only while a receive runs */
        struct wh_list ports;   /* in it */
        struct wh_list notices; /* to be received next */
        struct wh_list fired;   /* ... once this inbox has looked; guard: task->notices */
        uint32_t budget;        /* link.K7: of the receive that is running */
        uint32_t since_look;    /* messages taken since epoll was last asked; and WH_LOOK_MIXED */
        uint32_t look_at;       /* ... with which the clock is looked at (wh_inbox_look_due()) */
        uint64_t looked;        /* ticks, when epoll was last asked, or something was waited for */
        uint32_t turn_msgs;     /* a turn */
        struct wh_turns turns;  /* who is next in `hot` */
        uint32_t spin_us, spin_misses;
        struct wh_link *direct; /* the link whose chunks go into the running receive's buffer */
        struct wh_link *unfit;  /* the link of which the last receive could not take what is next */
};

/* A port that is on its way to another task is left alone by all until the message has gone, or has failed. */
enum { WH_PORT_OPEN = 0, WH_PORT_CLOSING = 1, WH_PORT_MOVING = 2 };

struct wh_port {
        struct wh_object o;
        struct wh_inbox own; /* its lock comes right behind `o`: both outlive the port (T1) */
        wharf_task *task;
        _Atomic(struct wh_inbox *) inbox;
        struct wh_list in_inbox;
        struct wh_list links;
        uint32_t n_links, n_once;  /* all; those that are send-once rights */
        uint32_t n_placeless;      /* of all, those that take no place: places.h */
        uint32_t n_waiting_room;   /* ... those that wait for their first */
        uint32_t n_directory;      /* ... nor these, of directories, which are no senders */
        struct wh_list waiting;    /* links that wait for a place */
        struct wh_list in_waiting; /* of task->waiting; guard: task->notices */
        bool listens;              /* it is in that list */
        _Atomic bool place_freed;  /* elsewhere, since this port was last looked at */
        uint8_t links_refused_for; /* enum wh_refusal, when the last link was refused with -EDQUOT */
        struct wharf_port_opts opts;
        wharf_port_id id;
        uint64_t here;         /* no other port of this process has it, whatever that one's id is (whose.c) */
        struct wh_list in_ids; /* of task->ids, where it was made here or came from this task's own user, */
        bool id_on_its_way;    /* and it is moving, so that it may come back; guard of both: task->notices */
        uint8_t closing;       /* WH_PORT_* */
        bool arrived;          /* it came from another task, and is this one's for good */
        wharf_name heir;       /* a send right over which the port goes instead of being closed; or none */
        wharf_name set_left;   /* while it moves: the set that it was in, to which a failed move gives it back */
        const struct wh_watcher *watches; /* rights were ever watched for it */
        _Atomic uint32_t notices_due;     /* asked for to be sent here, and not yet received; guard: task->notices */
        struct wh_notice *no_senders;     /* asked for, or NULL */
        uint64_t no_senders_sync;         /* ... and not before so many rights were made */
        uint64_t made;                    /* send rights, ever: the make-send count */
        int listen_fd;                    /* borrowed; -1 */
        bool accepts_owed;                /* connections may wait that there was no descriptor for, or no place */
        int at_door;                      /* accepted, and one too many of its user while the dead count; or -1 */
        bool of_others;                   /* this task sends nothing to it (kept.h) */
        uint32_t kinds_refused;           /* items that it does not take: bits 1 << WH_ITEM_* (kept.h) */
        uint32_t links_shared;            /* not 0: of so many links each user may have a share (kept.h) */
        uint64_t mapped;
        struct wh_accounts accounts; /* its places and its memory, between the users of its senders */
        uint64_t received_messages, received_bytes, refused;
        struct wh_port_status *status;
        int status_fd;
        unsigned waits_at; /* its place on the task's page (waits.h); 0: none */
        bool waits_told;   /* what stands there is so */
};

struct wh_set {
        struct wh_object o;
        struct wh_inbox inbox;
        bool closing;
};

/* What an epoll entry stands for: the id of a link, or one of these with a name. Ids use 32 bits. */
enum wh_ep {
        WH_EP_LINK = 0,
        WH_EP_BELL = 1,
        WH_EP_LISTEN = 2,
        WH_EP_WATCH = 3,
        WH_EP_NOTICE = 4,
        WH_EP_OVER = 5, /* an end that lingers (wh_end_over()); its number is that of the socket */
};
static inline uint64_t wh_ep_tag(enum wh_ep kind, uint32_t name)
{
        return (uint64_t)kind << 32 | name;
}

/* The options with their defaults, or -EINVAL with why. */
int wh_port_opts(const struct wharf_port_opts *opts, struct wharf_port_opts *ret);
/* A port with checked options, that has no name and no id yet; and away with it, if it is to get none. */
int wh_port_make(wharf_task *t, const struct wharf_port_opts *opts, struct wh_port **ret);
void wh_port_unmake(struct wh_port *p);
/* The port closes; its heir was asked before (heir.h). */
int wh_port_drop(wharf_task *t, struct wh_object *o, wharf_name name);
/* Its name, once it has its id; `sure`: nobody else can have chosen that. */
int wh_port_name(struct wh_port *p, bool sure, wharf_name *ret);
/* Has this task a port whose id is surely this one? -EPROTO: it has; WH_LINK_WAITS: it is just moving, and may be gone. */
int wh_port_id_taken(wharf_task *t, wharf_port_id id);
/*
 * For moving: nobody receives any more, and nobody may touch the port until it is thawed, or gone. -EBUSY, -EOPNOTSUPP
 * with why. *ret's inbox is locked.
 */
int wh_port_freeze(wharf_task *t, wharf_name name, int (*detach)(wharf_task *t, const struct wh_port *p),
                   struct wh_port **ret);
void wh_port_thaw(wharf_task *t, wharf_name name);
/* Does this link not go along? It ends when the port has moved. */
bool wh_port_link_stays(const struct wh_link *l);
/* It has `moved`, or never was this task's: what is left here goes as well. No sender notices but those whose links stay. */
void wh_port_gone(wharf_task *t, wharf_name name, bool moved);
/* Serve a link that was set up elsewhere: into the epoll, the lists and the tables. Takes l->sock only on success. */
int wh_port_take_link(struct wh_port *p, struct wh_link *l, uid_t payer, bool force);

/* Lock and return the inbox that `name` (a port or a set) receives from; *ret_port is NULL for a set. */
struct wh_inbox *wh_inbox_lock(wharf_task *t, wharf_name name, struct wh_port **ret_port, int *err);
/* The same for a port, whether or not it is in a set. Unlock port->inbox. */
struct wh_port *wh_port_lock(wharf_task *t, wharf_name name, int *err);

/*
 * Sleep until something may have changed; the lock is given up meanwhile. 0; -ETIMEDOUT; -EAGAIN for deadline 0, with
 * everything armed. `only` is NULL, or the one link that this thread receives from: what others sent then ends no wait.
 */
int wh_inbox_wait(struct wh_inbox *in, struct wh_link *only, int64_t deadline_ns);
/* Is there a record in the lane of a hot link? */
bool wh_inbox_has_message(struct wh_inbox *in);
enum { WH_INBOX_EVENTS = 64 }; /* that one look hears of */
/* Have the idle ones been left alone for long enough, in messages or in time (turns.h)? */
bool wh_inbox_look_due(struct wh_inbox *in);
/* Ask epoll, without waiting, which links have something. How many events there were. */
int wh_inbox_look(struct wh_inbox *in);
/* A thread leaves a receive: let another lead, and keep P3. `armed`: with -EAGAIN, so `bell` is right as it is. */
void wh_inbox_leave_slow(struct wh_inbox *in, bool armed);
static inline void wh_inbox_leave(struct wh_inbox *in, bool armed)
{
        if (wh_unlikely(in->waiters | in->pollable))
                wh_inbox_leave_slow(in, armed);
}
void wh_inbox_wake_all(struct wh_inbox *in);
int wh_inbox_init(struct wh_inbox *in, wharf_task *t);
void wh_inbox_done(struct wh_inbox *in);
/* P4 */
void wh_inbox_bell(struct wh_inbox *in, bool set);
/* Let the others look: what was found may be for them. */
void wh_inbox_turn(struct wh_inbox *in);
/* This link is looked at from now on. */
void wh_inbox_heat(struct wh_inbox *in, struct wh_link *l);
/* Wait until no thread is in a receive from this inbox any more. The lock is held. */
void wh_inbox_expel(struct wh_inbox *in);

/* ---- door.c: connections ---- */

/* Take those that are there, as far as there are places. `reaped`: the dead were just looked for. */
void wh_port_accept(struct wh_inbox *in, wharf_name port, bool reaped);
/* What stands at its door is let in or refused, before the port goes. False: it waits for a place still. */
bool wh_port_door_served(struct wh_port *p);
/* The same for all ports that had no place, or no descriptor, for one. */
void wh_inbox_accept_owed(struct wh_inbox *in);

/* ---- set.c ---- */

int wh_set_drop(wharf_task *t, struct wh_object *o, wharf_name name);
/* A port joins a set, or leaves it. -EBUSY, -ENOENT, -EBADF, -EPERM, -ESTALE */
int wh_set_change(wharf_task *t, wharf_name set, wharf_name port, bool add);

/*
 * Add the owner's end of a link, for `payer`, whose share is not asked for with `force`; takes `sock` only on success.
 */
int wh_port_add_link(struct wh_port *p, int sock, uid_t payer, bool force, struct wh_link **ret);
/* One that has to wait for its place (places.h, G3). */
int wh_port_add_waiting(struct wh_port *p, int sock, uid_t payer, struct wh_link **ret);
/* One for a directory (WH_MAKE_DIRECTORY). */
int wh_port_add_directory(struct wh_port *p, int sock, struct wh_link **ret);
/* Is there something on this link, or may there be, that a receive has to look at? */
bool wh_link_has_something(const struct wh_link *l);
/* There may be something on this link that no event will tell of. */
void wh_port_look_at(struct wh_link *l);
/* Let go of the links whose senders are gone and have left nothing unread. Not from inside an event or a pump. */
void wh_port_reap(struct wh_port *p);
/*
 * Who hung up counts until it is looked at, and a port that was not looked at for a while finds many such and the living at
 * once. So whoever is one too many waits until the dead are removed, which is done here: no link may be in use.
 */
void wh_inbox_open_doors(struct wh_inbox *in);
/* The link of that sender of the port; NULL: it is gone, or never was one. */
struct wh_link *wh_port_sender(const struct wh_port *p, uint64_t id);
/*
 * Close a link for good: out of epoll and lists, its socket closed, and nothing kept but what its user holds in place. The rest
 * is freed with its last reference.
 */
void wh_port_remove_link(struct wh_link *l);
/*
 * The kernel has said whose a link is: from now on it takes of that user's share. WH_LINK_WAITS: it has had its, and
 * the link is as it was.
 */
int wh_port_sender_known(struct wh_link *l);
/* Ends the link of this sender for want of something, which it is told: -EMFILE, -ENOMEM, -ENOBUFS. -ENOENT */
int wh_sender_end(wharf_task *task, wharf_name port, uint64_t sender_id, int why);
/* The limit of this port for which a link is refused with `err`, or 0 where it is none. */
uint64_t wh_port_limit(const struct wh_port *p, int err, enum wh_refusal which);
void wh_port_hello(const struct wh_port *p, struct wh_hello *ret);
/* What the port takes from this sender. */
void wh_owner_hello(const struct wh_link *l, struct wh_hello *ret);
/* Whoever looks at the task's page is to know that the links are not what it says. */
void wh_port_links_changed(struct wh_port *p);
void wh_port_stat_locked(struct wh_port *p, struct wharf_port_stat *ret);
/* Stores the port's numbers into its page, if it has one. Looks at every link: not for every message. */
void wh_port_tell_status(struct wh_port *p);
/* After a message: what it changed, and now and then the rest. */
void wh_port_tell_received(struct wh_port *p);

#endif
