/*
 * deliver - a whole message becomes the user's, or stays where it is.
 */
#ifndef WH_MESSAGE_DELIVER_H
#define WH_MESSAGE_DELIVER_H

#include "link/link.h"

/*
 * What msg->held[0] says: which wharf_release() it takes. [1] is a link's id or a right's name, [2] a slot or length.
 */
enum {
        WH_HELD_NOTHING = 0,
        WH_HELD_MALLOC = 1,
        WH_HELD_MAP = 2,
        WH_HELD_OWNER_BLOCK = 3,  /* at a port's end */
        WH_HELD_HOLDER_BLOCK = 4, /* a reply in place */
        WH_HELD_RESERVED = 5,
        WH_HELD_WINDOW = 6, /* a direct reply; [2] is how much is mapped */
};

/* A reply that its call has kept: it was taken from the link when it came. */
struct wh_kept_reply {
        struct wh_stash *stash;
        struct wh_items *items;
};

/*
 * Delivers a whole message into the user's struct, and takes it from the link, or from what was `kept` where that is not NULL.
 * `holder`: it is a reply, which came over this right; otherwise a request's answer gets a name. -EOVERFLOW and other failures
 * leave the message where it is. 1: it was an offer, and was withdrawn meanwhile; the link is past it, and nothing was
 * delivered.
 */
int wh_deliver(wharf_task *t, struct wh_link *l, struct wh_incoming *in, const struct wh_kept_reply *kept,
               struct wharf_msg *m, wharf_name holder);

#endif
