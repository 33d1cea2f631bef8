/*
 * pick - which link of an inbox the next message is taken from. The inbox is locked.
 */
#ifndef WH_MESSAGE_PICK_H
#define WH_MESSAGE_PICK_H

#include "port/port.h"

enum { WH_PICK_GONE = 2 };

/*
 * One link that may have a message: 1 delivered, 0 none, WH_PICK_GONE: and never will; negative: this call fails.
 */
int wh_pick_link(struct wh_inbox *in, struct wh_link *l, struct wharf_msg *m, struct wh_incoming *inc);
/* The hot links, round robin. 1 delivered, 0 none; negative: there is something, and it cannot be taken now. */
int wh_pick_hot(struct wh_inbox *in, struct wharf_msg *m, struct wh_incoming *inc);
/* The link that msg->from means, if it is in this inbox. */
struct wh_link *wh_pick_chosen(struct wh_inbox *in, const struct wharf_msg *m);
/* Those that were laid aside are tried again, after the others. */
void wh_pick_aside_back(struct wh_inbox *in);
/* The last receive could not take what one link has: all the others come before it, those too that have just sent. */
void wh_pick_others_first(struct wh_inbox *in);

#endif
