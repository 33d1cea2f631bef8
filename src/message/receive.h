/*
 * receive - what all calls that receive have in common.
 */
#ifndef WH_MESSAGE_RECEIVE_H
#define WH_MESSAGE_RECEIVE_H

#include "wharf/message.h"

/* Is there a place for what shall be received? 0 or -EINVAL, and why. */
int wh_receive_check(const struct wharf_msg *m);

#endif
