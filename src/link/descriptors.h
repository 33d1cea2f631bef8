/*
 * descriptors - those that came ahead of their message (K2), and are kept until it is next.
 *
 * Always true:
 *   S1  Only one message's are kept at a time, with the number of that message and who sent them.
 *   S2  Each has a kind that exists. What is said to be an end of a pair is one, and a memory beside the payload cannot be
 *       changed any more. The payload's own memory comes last or not at all.
 */
#ifndef WH_LINK_DESCRIPTORS_H
#define WH_LINK_DESCRIPTORS_H

#include "link/link.h"

/* Checks the kinds that came with descriptors, and keeps both. On success the descriptors are the link's. */
int wh_items_keep(struct wh_link *l, const struct wh_frame *f, const uint8_t *kinds, const int *fds,
                  const struct wh_cred *cred);
/* The last kept item, if it is a payload in a memory of its own. -1 otherwise. */
int wh_items_take_memory(struct wh_link *l);
/* Of the descriptors that were read ahead, those that are here count as unread still. */
static inline void wh_items_left(struct wh_link *l)
{
        l->end->hold(l, WH_SHARE_RIGHTS, l->in.items.n);
}

#endif
