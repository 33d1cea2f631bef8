/* The socket, as the sending end uses it: wire.c. Under the sending guard. */
#ifndef WH_LINK_WIRE_H
#define WH_LINK_WIRE_H

#include "link/link.h"

/* As wh_link_frame(), with data that lies in two places. */
int wh_link_frame_parts(struct wh_link *l, struct wh_frame *f, const struct iovec part[2], const int *fds, bool cred);
/* Nothing can be sent any more, for `err`; the first reason stays. */
void wh_link_tx_end(struct wh_link *l, int err);
/* Read the frames that wait at the holder's end, unless a thread does so already: replies stay put. */
void wh_link_heed(struct wh_link *l);
/* A few of them, on the way of a message. False: there are more. */
bool wh_link_heed_few(struct wh_link *l);
/*
 * Without a lane there is no word that tells a sender to look at its socket, such as that its port has moved. So it looks
 * before a message, where it has a pair of its own (it makes one otherwise), but for those that follow another at once: a look
 * finds the receiver's answers, too, and costs as much as a message.
 */
void wh_link_heed_cold(struct wh_link *l);

#endif
