/*
 * quota - what the senders of one user may take of what the receiver has: its descriptors and its memory.
 *
 * Why: limits per link do not add up. A user with a hundred links has a hundred times as much, and the next one finds
 * nothing left. So each pool is shared between users, by the rule of dbus-broker (src/util/user.c, "User Accounting"):
 * a user may have at most 1/(n+1) of what the others have left, n being the users that have something, he among them.
 * So the first gets at most half, and however many come, something is left for one more; who has nothing gets one link,
 * or the rights of one message, as long as there are any. The receiver's own user is no stranger: what is left is his.
 *
 *      pool      of                     size
 *      LINKS     the task's senders     half of its descriptors (RLIMIT_NOFILE); and each port: links_max
 *      RIGHTS    the task's senders     a quarter of its descriptors: rights read and not delivered yet
 *      BYTES     each port              mapped_bytes_max: lanes, sections, and large messages while they come
 *
 * A quarter is left for everything else the task does, so no sender can make it run out.
 *
 * Who it is: the user that the kernel names for the link. Before that, whoever introduced the link; for one that the
 * task made itself, itself. Users that the kernel does not name are one user.
 *
 * Always true:
 *   Q1  A user is listed exactly while it has something; `used` is the sum over all of them.
 *   Q2  Taking may be refused, giving back never is.
 */
#ifndef WH_PORT_QUOTA_H
#define WH_PORT_QUOTA_H

#include "os/lock.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum wh_quota_of {
        WH_QUOTA_LINKS = 0,
        WH_QUOTA_RIGHTS = 1,
        WH_QUOTA_BYTES = 2,
        WH_QUOTAS = 3,
};

struct wh_quota_user {
        uid_t uid;
        uint64_t used[WH_QUOTAS];
};

struct wh_quota {
        struct wh_lock lock; /* the last one taken */
        uid_t self;
        uint64_t max[WH_QUOTAS], used[WH_QUOTAS];
        struct wh_quota_user *users; /* sorted by uid */
        size_t n, room;
};

void wh_quota_done(struct wh_quota *q);
/* How much more that user may take now. */
uint64_t wh_quota_left(struct wh_quota *q, uid_t uid, enum wh_quota_of of);
/* Has that user nothing, or might take more? Of one who takes from another user, where what is left is not told. */
bool wh_quota_might(struct wh_quota *q, uid_t uid, enum wh_quota_of of);
/* -EDQUOT, changing nothing, where that is more than `uid` may; not asked when `force`. -ENOMEM */
int wh_quota_take(struct wh_quota *q, uid_t uid, enum wh_quota_of of, uint64_t amount, bool force);
void wh_quota_give(struct wh_quota *q, uid_t uid, enum wh_quota_of of, uint64_t amount);

#endif
