/*
 * carrier - one message on a socket that belongs to it alone, to be read by whoever inherits the socket's other end.
 *
 * Packing is sending to a send-once right and unpacking is receiving from one, by the same code with the same checks;
 * in between, the message waits in the kernel. What it carries is moved only by wh_carrier_done(): until then the
 * whole can be taken back.
 */
#ifndef WH_MESSAGE_CARRIER_H
#define WH_MESSAGE_CARRIER_H

#include "message/items.h"

struct wh_carrier {
        int sock; /* the end to be inherited: private and close-on-exec, above 2 */
        struct wh_outgoing out;
        struct wh_items_out items;
};

/* `m` is borrowed until wh_carrier_done(). Its payload is at most WH_COLD_MAX bytes. */
int wh_carrier_pack(wharf_task *t, const struct wharf_msg *m, int64_t deadline_ns, struct wh_carrier *ret);
/* It was inherited, or (not `sent`) nothing has happened. */
void wh_carrier_done(wharf_task *t, const struct wharf_msg *m, struct wh_carrier *c, bool sent);
/*
 * Take the message from an inherited socket. -ENODATA: there is none any more. -EOVERFLOW, -EPROTO ... leave it empty. -ENOMEM,
 * -EMFILE, -ENFILE: there is too little for what is in it; it is in *state then, NULL at first, for the next try.
 */
int wh_carrier_unpack(wharf_task *t, int sock, struct wharf_msg *m, struct wh_link **state);

/* A link whose owner's end is given away before there is a port. */
int wh_carrier_link(wharf_task *t, int *ret_owner, wharf_name *ret_right);
/* ... and the port that it leads to from now on. Takes `owner` only on success. */
int wh_carrier_port(wharf_task *t, int owner, wharf_name *ret);

#endif
