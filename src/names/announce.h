/*
 * announce - wharfd is told of what this task has registered and watches: an entry that is new, and all of them again
 * when another wharfd may serve than the one that knew them (session.C2).
 */
#ifndef WH_NAMES_ANNOUNCE_H
#define WH_NAMES_ANNOUNCE_H

#include "names/session.h"

/*
 * Of a new one: 0, wharfd's answer, or an error of the link. *ret_own: it could not even be begun, for want of something
 * that this process has not got.
 */
int wh_announce(struct session *s, struct domain *d, struct conn *c, struct entry *e, const struct when *w,
                bool *ret_own);
/*
 * Asks a new connection for what the last wharfd knew (session.C2). -EEXIST: a name has another owner now. Where the time is
 * over first, the rest is for the next call (session.C5).
 */
int wh_announce_all(struct session *s, struct domain *d, struct conn *c, struct when *w);

#endif
