/*
 * object - finding and letting go of what a name stands for; one function a kind, so that task.c needs to know none.
 */
#ifndef WH_RIGHT_OBJECT_H
#define WH_RIGHT_OBJECT_H

#include "link/link.h"

struct wh_call;

/* A reply right: answers one call of one link. */
struct wh_reply {
        struct wh_object o;
        struct wh_link *link; /* a reference; NULL once the reply goes over `via` */
        uint32_t call;
        uint64_t window_at, window_len; /* where the caller lets it be written (direct.h); 0 bytes: nowhere */
        int via; /* -1; after the port has moved, the socket on which its caller expects the reply (VIA) */
};

/* The holder's end of a link. */
extern const struct wh_end_ops wh_holder_end;
/*
 * A holder's end that lasts for one message, on its user's stack, so that the same code sends, reads and checks that: a
 * struct wh_link and no more.
 */
extern const struct wh_end_ops wh_single_end;
struct wh_link wh_single_link(wharf_task *t, int sock);

/* Lock and return the holder's end that `name` stands for; NULL with *err when it is none. Unlock with wh_unlock(). */
struct wh_link *wh_holder_lock(wharf_task *t, wharf_name name, int *err);

int wh_port_drop(wharf_task *t, struct wh_object *o, wharf_name name);
int wh_set_drop(wharf_task *t, struct wh_object *o, wharf_name name);
int wh_right_drop(wharf_task *t, struct wh_object *o, wharf_name name);
int wh_reply_drop(wharf_task *t, struct wh_object *o, wharf_name name);

/*
 * Sleep until the link may have room, or a reply, or is over; the lock is given up meanwhile. 0, -EAGAIN for deadline
 * 0, -ETIMEDOUT. `seen` is NULL to wait for a reply; to wait for room it is what wh_room_now() said before the attempt
 * that found none, so that nothing given back since is slept through.
 */
int wh_holder_wait(struct wh_link *l, int64_t deadline_ns, const struct wh_room *seen);
/* A failed call says which limit of the receiver's it was; the link is locked. */
void wh_link_failed(struct wh_link *l, int err);
/* Let every thread that waits on this link look again. */
void wh_holder_turn(struct wh_link *l);
/*
 * Put the replies that are there into their calls, for whoever waits for them. False when some were left: the peer is not to
 * keep us here.
 */
bool wh_calls_file(struct wh_link *l);
/* What wh_holder_end answers for calls. */
bool wh_call_written(struct wh_link *l, uint32_t call, const struct wh_rec_direct *d, bool *ret_given_up);
void wh_call_via(struct wh_link *l, uint32_t call, int sock);
/* Read what has come on the socket of a delegated reply. -ENOMEM: what is there cannot be read now. */
int wh_call_read_via(struct wh_link *l, struct wh_call *c);
/* Forget all calls; their threads have left. */
void wh_calls_done(struct wh_link *l);
/* Tell the caller that the reply to `reply` comes over `sock`, and consume the right. */
void wh_reply_via(wharf_task *t, wharf_name reply, int sock);
/* A reply right for `call`; takes a reference to the link. */
int wh_reply_new(wharf_task *t, struct wh_link *l, uint32_t call, wharf_name *ret);

/*
 * Give every reply right to a caller of `p` a socket of its own, so that it answers without the port. The inbox is
 * locked. -EBUSY: a caller cannot be told; those that could be answer in that way from now on.
 */
int wh_replies_detach(wharf_task *t, const struct wh_port *p);
/* The descriptor of such a one, for as long as the name is not dropped; or -1. */
int wh_reply_socket(wharf_task *t, wharf_name reply);
/* Undo wh_reply_new(), telling nobody. */
void wh_reply_forget(wharf_task *t, wharf_name reply);
/* Can it be sent? 0 or -EINVAL, and why. */
int wh_message_check(const struct wharf_msg *m);
/* Is there a place for what shall be received? 0 or -EINVAL, and why. */
int wh_receive_check(const struct wharf_msg *m);
int wh_send_message(wharf_task *t, wharf_name right, struct wharf_msg *m, struct wh_call *call, int64_t deadline_ns);
/* Number a call and put it among the outstanding ones; the link is locked. */
int wh_call_add(struct wh_link *l, struct wh_call *c);
/* Say where its reply may be written, before its request goes. Where that cannot be said, it goes without; 0. */
int wh_call_announce(struct wh_link *l, struct wh_call *c, int64_t deadline_ns);
/* The request did not go, for `err`; wh_call_add() is undone. */
void wh_call_unsent(struct wh_link *l, struct wh_call *c, int err);
/* Wait for the reply of `call`; the link is locked. */
int wh_call_wait(struct wh_link *l, wharf_name right, uint32_t call, struct wharf_msg *m, int64_t deadline_ns);

/* Free the memory of everything, in a forked child: no socket is touched, nobody is told. */
void wh_task_forget(wharf_task *t);

/* A new send right from the end of a link. Takes `sock` only on success. */
int wh_right_from_socket(wharf_task *t, int sock, bool provisional, bool once, wharf_name *ret);
/* Read the greeting that waits on a new right, so that it is known to which port it goes. Never waits. */
void wh_right_greet(wharf_task *t, wharf_name right);
/* Drop one reference to an owner's end; the last one frees it. */
void wh_link_unref(struct wh_link *l);

#endif
