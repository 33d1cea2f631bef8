/*
 * calls - a message with a number, whose reply comes back on the same link with that number, in any order. A reply right that
 * was passed on makes the reply come over a socket of its own (VIA). How a caller waits stands in holder.c.
 *
 * Always true:
 *   C1  A call is in held->calls from before its request is sent until it is finished or cancelled.
 *   C2  A call ends exactly once: with its reply, with DROPPED, or with the end of the link or of its VIA socket. Once there is
 *       a VIA, whoever had the request is out of it: its death is not the end of that call.
 *
 * The link is locked.
 */
#ifndef WH_RIGHT_CALLS_H
#define WH_RIGHT_CALLS_H

#include "link/direct.h"
#include "right/held.h"

struct wh_call *wh_call_find(struct wh_link *l, uint32_t number);
/* Number a call and put it among the outstanding ones. */
int wh_call_add(struct wh_link *l, struct wh_call *c);
/* Say where its reply may be written, before its request goes. Where that cannot be said, it goes without; 0. */
int wh_call_announce(struct wh_link *l, struct wh_call *c, int64_t deadline_ns);
/* The request did not go, for `err`; wh_call_add() is undone, and what came of a reply meanwhile is dropped. */
void wh_call_unsent(struct wh_link *l, struct wh_call *c, int err);
/* It is over. `settled`: the other side has answered, or never heard of it. */
void wh_call_free(struct wh_link *l, struct wh_call *c, bool settled);
/* Put the message that is next into its call, for another thread or for later. -ENOMEM: it stays where it is. */
int wh_call_keep(struct wh_link *l, struct wh_call *c, struct wh_incoming *in);
/* Put the message that is next where it belongs, on behalf of whoever waits for it. -ENOMEM: it stays where it is. */
int wh_call_file(struct wh_link *l, struct wh_incoming *in);
/*
 * Put the replies that are there into their calls, for whoever waits for them. WH_LINK_LATER: some were left, for the peer is not to
 * keep us here. -ENOMEM, -EMFILE, -ENFILE: there is too little for the next one, which stays where it is.
 */
int wh_calls_file(struct wh_link *l);
/* The reply of `c` has come to its user; why was it not written directly, where that was asked for? */
void wh_call_answered(const struct wh_call *c, uint32_t how, int refused);
/* What wh_holder_end answers for calls. */
bool wh_call_written(struct wh_link *l, uint32_t call, const struct wh_rec_direct *d, bool *ret_given_up);
void wh_call_via(struct wh_link *l, uint32_t call, int sock);
/* It has ended, for that errno, or with the reply in it. */
void wh_call_end(struct wh_link *l, struct wh_call *c, int result);
/* What the end of a link means to a call that still waits. */
int wh_call_link_error(const struct wh_link *l);
/* Is there a reply to be read on the link? */
bool wh_reply_there(struct wh_link *l);
/* Read all that were passed on, as far as the budget goes; those that there is none for are first the next time. 0, -ENOMEM */
int wh_calls_read_vias(struct wh_link *l);
/* Read what has come on the socket of a delegated reply. -ENOMEM: what is there cannot be read now. */
int wh_call_read_via(struct wh_link *l, struct wh_call *c);
/* Forget all calls; their threads have left. */
void wh_calls_done(struct wh_link *l);

#endif
