/*
 * message - what the public calls have in common: checked, sent, and delivered.
 */
#ifndef WH_MESSAGE_MESSAGE_H
#define WH_MESSAGE_MESSAGE_H

#include "right/held.h"

/* Can it be sent? 0 or -EINVAL, and why. */
int wh_message_check(const struct wharf_msg *m);
/* Is there a place for what shall be received? 0 or -EINVAL, and why. */
int wh_receive_check(const struct wharf_msg *m);
int wh_send_message(wharf_task *t, wharf_name right, struct wharf_msg *m, struct wh_call *call, int64_t deadline_ns);
/* A failed call says which limit of the receiver's it was; the link is locked. */
void wh_link_failed(struct wh_link *l, int err);

/*
 * Delivers a whole message into the user's struct and takes it from the link. -EOVERFLOW and other failures leave the
 * message where it is. 1: it was an offer, and was withdrawn meanwhile; the link is past it, and nothing was delivered.
 */
int wh_deliver(wharf_task *t, struct wh_link *l, struct wh_incoming *in, struct wharf_msg *m, wharf_name holder);

#endif
