/* Where a lane or a pair ends: change.c. All under the receiving guard. */
#ifndef WH_LINK_CHANGE_H
#define WH_LINK_CHANGE_H

#include "link/link.h"

/*
 * All that was published before the other side was gone has room in this ring, and in those whose frames lie in the socket: none
 * of it begins a whole ring behind what is taken now (ring.R3).
 */
void wh_link_lines_end(struct wh_link *l);
/* K6: go over, if everything before was taken. 1: done; 0: not yet; negative: a breach, or no memory for it now. */
int wh_link_change(struct wh_link *l);

/* A frame says where the peer's lane ends. */
struct wh_change wh_change_said(const struct wh_frame *f);
/* RENEW: the port has a new owner, whose first frame this is. */
int wh_change_renewed(struct wh_link *l, const struct wh_frame *f);
/* REBIND: the holder has made a pair of its own, and speaks through that from now on. Keeps the descriptor on success. */
int wh_change_rebind(struct wh_link *l, const struct wh_frame *f, const uint8_t *data, const int *fds,
                     const struct wh_cred *cred);
/* A pair that the holder made is all that leads to it: never lost for want of a descriptor. */
bool wh_change_expected(const struct wh_link *l);
/*
 * REBIND was looked at, and no lane is to be read first. 1: the link has its new pair, and the frame went with the old
 * one. Otherwise nothing has changed, and the frame is there for another try; or it was taken, and the change is due.
 */
int wh_change_rebind_now(struct wh_link *l, const struct wh_frame *f, const uint8_t *data, const int *fds,
                         const struct wh_cred *cred);

#endif
