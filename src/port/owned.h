/*
 * owned - the owner's end of a link: what the port that receives keeps of one of its senders.
 *
 * It begins with the link itself, so the tables, and the code that sends and receives, know it as that.
 */
#ifndef WH_PORT_OWNED_H
#define WH_PORT_OWNED_H

#include "base/list.h"
#include "task/account.h"
#include "link/link.h"

struct wh_port;
struct wh_inbox;
struct wh_branch;
struct wh_notice;

/* Why `revoked`. */
enum { WH_REVOKED_NOT = 0, WH_REVOKED = 1, WH_REVOKED_BRANCH = 2 };

/* What went over a socket in frames that may be unread there: so much in each, the oldest first (paying.c). */
struct wh_unread {
        uint64_t *of;
        uint32_t n, room;
};

/* What every plain message that is received needs comes first, in a line or two (receive_plain()). */
struct wh_owned {
        struct wh_link link; /* the first */
        struct wh_port *port;
        struct wh_list hot;     /* of inbox->hot, while recently busy; or of port->waiting */
        uint32_t served, empty; /* for the round robin, */
        uint64_t round;         /* and when there are several users: turns.h */
        struct wh_inbox *inbox;
        struct wh_list in_port;          /* of port->links */
        _Atomic uint32_t refs;           /* the port's, each reply right's, each held payload's */
        bool directory;                  /* no sender, but who gives others their rights */
        bool placeless;                  /* its sender is gone, and its place given away, */
        bool waiting_room;               /* places.G3: it has had no place */
        bool had_lane;                   /* until RENEW is told: the former owner sent in a lane, */
        uint64_t lane_ended;             /* which ends with this record */
        uint8_t passing;                 /* places.G4: the errno for which it is refused, and only read to its end */
        uint8_t revoked;                 /* WH_REVOKED*: it is being ended, and so is whom it introduces now */
        uint32_t place_to;               /* placeless: its place went to this link; */
        uint32_t passes;                 /* and this one passes meanwhile */
        uid_t waits_uid;                 /* when link.in.waits: on whose account it will be, */
        uint32_t waits_links;            /* and of WH_WAITS_MOVED: so many of them */
        struct wharf_introducer former;  /* who moved the port here, where the link came with it, */
        struct wharf_introducer formers; /* and all who introduced it there, as that one says: one, or nobody known */
        struct wh_branch *branch;        /* who introduced it, and whom it introduced: branch.h */
        uint64_t mapped;                 /* counted against the port's limit, */
        uint64_t stash_held;             /* and, of bill.of[WH_SHARE_BYTES], what is of a large message that comes */
        struct wh_bill bill;             /* what it takes of its user's share: account.h */
        struct wh_unread replies;        /* bytes of those that have a memory of their own */
        struct wh_unread flying;         /* descriptors */
        struct wh_notice *once_notice;   /* what is fired if a send-once right goes unused, */
        struct wh_notice *gone_notice;   /* and what is fired when it is gone; asked for, or NULL */
};

static_assert(WH_CACHE_LINES(offsetof(struct wh_owned, port),
                             offsetof(struct wh_owned, empty) + sizeof(((struct wh_owned *)0)->empty)) <= 2,
              "what the round robin needs is together");
static_assert(offsetof(struct wh_owned, link) == 0, "tables and pools hold it as the link's object");

/*
 * The owner's end that `l` is. Only where it is known to be one: a link of a port, or `l->owner` was looked at. Nothing
 * checks it here.
 */
static inline struct wh_owned *wh_owned(const struct wh_link *l)
{
        return (struct wh_owned *)(uintptr_t)l;
}

/* A new one, of no port yet; its references are one. NULL: no memory. Takes `sock`. */
struct wh_owned *wh_owned_new(wharf_task *t, int sock);
/* All who introduced it, the nearest first. */
void wh_owned_introducers(const struct wh_link *l, wh_see_introducer fn, void *arg);
/* Drop one reference to an owner's end; the last one frees it. */
void wh_link_unref(struct wh_link *l);
/* As wh_link_done(), of all that it has. */
void wh_owned_done(struct wh_owned *o);

/* ---- paying.c: memory that an owner's end makes for replies; under the sending guard ---- */

uint64_t wh_reply_room(struct wh_link *l);
void wh_reply_kept(struct wh_link *l);
int wh_reply_sends(struct wh_link *l, enum wh_share share, uint64_t n);
void wh_reply_unsent(struct wh_link *l, enum wh_share share, uint64_t n);
/* Look what was read on all links of the port; nothing is locked. True: so there is more to be had for this one. */
bool wh_replies_settle(struct wh_link *l);
/*
 * The link is about to end, or to have another pair, and descriptors may lie unread on the other side of its socket, which are
 * on their way still. Then *ret is for that socket, charged for one link and for these, to whoever pays for the link; NULL where
 * there are none. 0, or -EDQUOT where that one may have no more links, which is not asked with `force`. wh_end_keep_not() undoes it.
 */
struct wh_lingering;
int wh_end_keep(struct wh_link *l, bool force, struct wh_lingering **ret);
void wh_end_keep_not(struct wh_link *l, struct wh_lingering *kept);
/* Closes the link's socket; with `kept` its other side sees it end, and it is closed when all was read. */
void wh_end_over(struct wh_link *l, enum wh_end how, struct wh_lingering *kept);
/*
 * The one message of a send-once right, whose holder we are, takes of the share of whoever gave us that right, as an answer does
 * of its caller's: sends and unsent as in struct wh_end_ops. And the right is over: takes `sock`, which stays until it was read.
 */
int wh_once_sends(struct wh_link *l, enum wh_share share, uint64_t n);
void wh_once_unsent(struct wh_link *l, enum wh_share share, uint64_t n);
void wh_once_over(wharf_task *t, int sock, enum wh_end how, uid_t payer, uint64_t fds, uint64_t bytes);
uid_t wh_once_payer(const struct wh_link *l);
/* One that lingers was read, or its other side closed, or nothing of that. */
void wh_lingering_event(wharf_task *t, struct wh_inbox *in, int sock);
/* Another inbox hears of them; or none, since theirs is no more. */
void wh_lingering_move(struct wh_inbox *from, struct wh_inbox *to);
void wh_lingering_forget(struct wh_inbox *in);
/* Somebody wants what they take: those that no inbox hears of are looked at, now and then. All go when the task closes. */
void wh_lingering_settle(wharf_task *t);
void wh_lingering_done(wharf_task *t, bool ours);

#endif
