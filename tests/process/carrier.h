/*
 * carrier - what tests do with the carrier of a port without a message around it.
 */
#ifndef TEST_CARRIER_H
#define TEST_CARRIER_H

#include "link/link.h"
#include "message/move.h"

/* Make a port of it, all at once: moved by this task's own user, or by the user `payer`. */
static inline int carrier_open(wharf_task *t, int carrier, bool own, uid_t payer, wharf_name *ret)
{
        struct wh_items i = {.n = 1, .kind = {WH_ITEM_RECEIVE}, .fd = {carrier}};
        const struct wh_mover by = {.given = WH_INTRODUCER_NOT, .payer = payer, .own = own};
        int r = wh_moving_open(t, &i, 1, &by);
        if (r == 0) {
                *ret = wh_moving_port(&i, 0);
                wh_moving_done(&i);
        }
        return r;
}

#endif
