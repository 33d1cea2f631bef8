/* What each type of frame does: frames.c. Under the receiving guard. */
#ifndef WH_LINK_FRAMES_H
#define WH_LINK_FRAMES_H

#include "link/link.h"

/*
 * Dispatches one frame, which says that it is for this end: of a send-once right that is a message and nothing else
 * (may_say() in frame.c). What of `fds` is kept is marked by *ret_kept (all or none). Where something can be short, that is
 * had before the frame is taken (wh_link_take_frame()), and given back where it cannot be.
 */
int wh_frames_dispatch(struct wh_link *l, const struct wh_frame *f, const uint8_t *data, int *fds,
                       const struct wh_cred *cred, bool *ret_kept);

#endif
