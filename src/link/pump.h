/* Reading the socket: pump.c. Under the receiving guard. */
#ifndef WH_LINK_PUMP_H
#define WH_LINK_PUMP_H

#include "link/link.h"

#include <errno.h>

/* The system has not enough of something just now. */
static inline bool wh_shortage(int r)
{
        return r == -ENOMEM || r == -ENOBUFS;
}

/* ... or a place is awaited: nothing has changed, and it can be tried again. */
static inline bool wh_awaited(int r)
{
        return wh_shortage(r) || r == WH_LINK_WAITS;
}

/*
 * Empty the socket of doorbells in one go. A frame has at least 40 bytes: with fewer waiting in all, every datagram is
 * a doorbell, and what comes meanwhile comes behind them. How many; or -1 when there may be more than doorbells.
 */
int wh_pump_bells(struct wh_link *l);
/*
 * Nothing was announced in the lane, but something came. An honest sender rings, for a record that was taken meanwhile; and
 * less than a frame lies there. More may be what another owner has to say, at the other end of the same pair.
 */
bool wh_pump_only_rung(struct wh_link *l);

#endif
