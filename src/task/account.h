/*
 * account - who pays for what senders take of a task: its descriptors, its memory, its names.
 *
 * Why: limits per link do not add up. A user with a hundred links has a hundred times as much, and the next one finds
 * nothing left. So whatever is taken is charged to a user, in the one way that stands here, by the rule of dbus-broker
 * (src/util/user.c, "User Accounting"): a user may have at most 1/(n+1) of what the others have left, n being the users
 * that have something, it among them. So the first gets at most half, and however many come, something is left for one
 * more. The owner's own user is no stranger: what is left is its own, except where all are told to be equal.
 * docs/design/shares.md has the table of what is charged, to whom, how much it may be and how it is refused.
 *
 * An account is one user's, in one set of books: a task has books for what all its ports share, each port has some for
 * its own, and wharfd for its names. A bill is what one link was charged; it knows its payer and its books, so nothing
 * is given back to anybody else, and what it holds goes to another payer as a whole.
 *
 * Who it is: the user that the kernel names for the link. Before that, and where it names none, whoever introduced the
 * link, or moved the port here; for one that the task made itself, itself. Those who connected, and whom the kernel does
 * not name, are one user.
 *
 * Always true:
 *   Q1  A user is listed exactly while it has something; `used` is the sum over all of them.
 *   Q2  Charging may be refused, giving back never is.
 *   Q3  What stands in a bill is what its payer was charged for it in the books, and no more than that is given back.
 *
 * Guard: each has a lock of its own; that of the bill comes before that of the books, and nothing after these.
 */
#ifndef WH_TASK_ACCOUNT_H
#define WH_TASK_ACCOUNT_H

#include "os/lock.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { WH_FDS_MAX = 66 }; /* descriptors that may come at once: WHARF_ITEMS_MAX, and what the library adds */

enum wh_share {
        /* in the books of a task */
        WH_SHARE_TASK_LINKS = 0, /* half of its descriptors (RLIMIT_NOFILE) */
        WH_SHARE_RIGHTS = 1,     /* a quarter of them: rights read and not delivered yet */
        WH_SHARE_ANSWERS = 2,    /* calls received and not answered yet */
        WH_SHARE_FLYING = 3,     /* an eighth of them: descriptors that were sent to callers, and are unread */
        WH_SHARE_LANES = 4,      /* a quarter of them: kept of lanes, for the day that their port moves */
        /* in those of a port; the last one in those of a task as well, for send-once rights (paying.c) */
        WH_SHARE_LINKS = 5,
        WH_SHARE_BYTES = 6,   /* mapped: lanes, sections, rings that ended; and large messages while they come */
        WH_SHARE_KEPT = 7,    /* made here for replies, and kept for the next ones */
        WH_SHARE_REPLIES = 8, /* replies that have a memory of their own and are unread */
        WH_SHARES = 9,        /* as many at most in any books */
};

struct wh_account {
        uid_t uid;
        uint64_t used[WH_SHARES];
};

#define WH_QUOTA_SELF ((uid_t)-2) /* of a task whose own user has no number here */

struct wh_accounts {
        struct wh_lock lock; /* the last one taken */
        bool equal;          /* its own user has a share like any other */
        uid_t self;
        /* `least`: who has nothing gets so much at once, as long as there is any. */
        uint64_t max[WH_SHARES], used[WH_SHARES], least[WH_SHARES];
        struct wh_account *users; /* sorted by uid */
        size_t n, room;
};

void wh_accounts_done(struct wh_accounts *a);
/* From now on there may be so much of this in all. True: more than before. */
bool wh_accounts_limit(struct wh_accounts *a, enum wh_share share, uint64_t max);
/* How much more that user may take now. */
uint64_t wh_account_left(struct wh_accounts *a, uid_t uid, enum wh_share share);
/* Has that user nothing, or might take more? Of one who takes from another user, where what is left is not told. */
bool wh_account_might(struct wh_accounts *a, uid_t uid, enum wh_share share);
/* -EDQUOT, changing nothing, where that is more than `uid` may; not asked when `force`. -ENOMEM */
int wh_account_charge(struct wh_accounts *a, uid_t uid, enum wh_share share, uint64_t amount, bool force);
void wh_account_give(struct wh_accounts *a, uid_t uid, enum wh_share share, uint64_t amount);
/* What `from` was charged, `to` is from now on, in one step: where it is the last that there may be, one of both has it.
 * Refused as wh_account_charge(), changing nothing. */
int wh_account_move(struct wh_accounts *a, uid_t from, uid_t to, enum wh_share share, uint64_t amount, bool force);

/* What one link was charged. */
struct wh_bill {
        struct wh_lock lock;
        uid_t payer;
        struct wh_accounts *task, *port; /* NULL: not charged for anything there (any more) */
        uint64_t of[WH_SHARES];
        uint64_t kept_max;    /* of KEPT, whoever pays for it */
        uint32_t answers_max; /* ... of ANSWERS */
};

void wh_bill_open(struct wh_bill *b, struct wh_accounts *task, struct wh_accounts *port, uid_t payer);
int wh_bill_charge(struct wh_bill *b, enum wh_share share, uint64_t amount, bool force);
/* One more call to be answered: -EDQUOT where the link has all that it may (*ret_own), or its user. */
int wh_bill_charge_answer(struct wh_bill *b, bool *ret_own);
void wh_bill_give(struct wh_bill *b, enum wh_share share, uint64_t amount);
/* It is so much now, whatever it was; not refused, for it is there already. */
void wh_bill_set(struct wh_bill *b, enum wh_share share, uint64_t amount);
/* How much more it may be charged. */
uint64_t wh_bill_left(struct wh_bill *b, enum wh_share share);
/* Another payer, for all of it. -EDQUOT where it may have no more links, and *ret_refused is which; -ENOMEM */
int wh_bill_move(struct wh_bill *b, uid_t to, bool force, enum wh_share *ret_refused);
/* The link is gone, and what it had with it; but for calls, which stay charged until each is answered. */
void wh_bill_close(struct wh_bill *b);

#endif
