/*
 * call - calls and their replies, as their users make them.
 */
#ifndef WH_MESSAGE_CALL_H
#define WH_MESSAGE_CALL_H

#include "link/link.h"

struct wh_port;

/* A reply right: answers one call of one link. */
struct wh_reply {
        struct wh_object o;
        struct wh_link *link; /* a reference; NULL once the reply goes over `via` */
        uint32_t call;
        uint64_t window_at, window_len; /* where the caller lets it be written (direct.h); 0 bytes: nowhere */
        int via;         /* -1; after the port has moved, the socket on which its caller expects the reply (VIA): */
        uid_t via_payer; /* charged to this one for a link, */
        uint64_t via_fds, via_bytes; /* and for what went there */
};

int wh_reply_drop(wharf_task *t, struct wh_object *o, wharf_name name);
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
/* Wait for the reply of `call`; the link is locked. */
int wh_call_wait(struct wh_link *l, wharf_name right, uint32_t call, struct wharf_msg *m, int64_t deadline_ns);

#endif
