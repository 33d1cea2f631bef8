/*
 * cold - messages as frames, before there is a lane, or where there never is one.
 *
 * Frames lie on the socket, whose room is not the port's capacity. So the sender counts those that are unread, and the
 * receiver tells, by a frame or an answer, which it has taken. Under the sending guard.
 */
#ifndef WH_LINK_COLD_H
#define WH_LINK_COLD_H

#include "link/link.h"

enum {
        WH_COLD_COUNTED = 512, /* capacities that frames may fill: each is told of when it was taken, */
        WH_COLD_UNTOLD = 128,  /* and that is read before it fills the socket */
};

/* How many messages may be sent as frames before somebody counts those that are unread. */
uint64_t wh_cold_capacity(const struct wh_link *l);
/* Is the queue full, as far as frames on the socket are its messages? */
bool wh_cold_full(const struct wh_link *l);
/* Will frames do for this one (choose.h)? There is no lane. */
bool wh_cold_will_do(const struct wh_link *l, const struct wh_outgoing *o);
/* Frames. One is enough for most messages; where no lane can be made, a large one is cut into many. */
int wh_cold_send(struct wh_link *l, struct wh_outgoing *o);
/* The payload in a memory of its own, announced by a frame. *ret_lacks as wh_record_place(). */
int wh_cold_send_memory(struct wh_link *l, struct wh_outgoing *o, uint32_t *ret_lacks);

#endif
