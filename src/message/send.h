/*
 * send - what all calls that send have in common: a message is checked, sent, and if it was not, they say why.
 */
#ifndef WH_MESSAGE_SEND_H
#define WH_MESSAGE_SEND_H

#include "right/held.h"

/* Can it be sent? 0 or -EINVAL, and why. */
int wh_message_check(const struct wharf_msg *m);
/* With a call: its number on success, which the reply will carry. Otherwise 0, or 1 for a message that was left. */
int wh_send_message(wharf_task *t, wharf_name right, struct wharf_msg *m, struct wh_call *call, int64_t deadline_ns);
/*
 * One that goes on as it came (forward.c). `memory` is its payload, or -1; with `carried` the first of its items is the right to answer
 * it. 0, or why not.
 */
int wh_send_on(wharf_task *t, wharf_name right, struct wharf_msg *m, int memory, bool carried, int64_t deadline_ns);
/* failed.c: a failed call says which limit of the receiver's it was; the link is locked. */
void wh_link_failed(struct wh_link *l, int err);

#endif
