/*
 * right - send rights: the holder's end of a link, made, introduced to others, waited with, and dropped.
 */
#ifndef WH_RIGHT_RIGHT_H
#define WH_RIGHT_RIGHT_H

#include "link/link.h"

/* The holder's end of a link. */
extern const struct wh_end_ops wh_holder_end;
/*
 * A holder's end that lasts for one message, on its user's stack, so that the same code sends, reads and checks that: a
 * struct wh_link and no more.
 */
extern const struct wh_end_ops wh_single_end;
struct wh_link wh_single_link(wharf_task *t, int sock);

int wh_right_drop(wharf_task *t, struct wh_object *o, wharf_name name);

/* What the receiver had given back at some moment: a sender without room waits until that differs. */
struct wh_room {
        uint64_t records, lines;
        uint64_t claim; /* of the offer that stands, or how many cold messages were taken */
        uint32_t released;
};
struct wh_room wh_room_now(const struct wh_link *l);
/* Between the last two looks of one that waits for room: longer than the receiver's store waits to be seen (ring.R9). */
static inline void wh_room_moment(void)
{
        for (unsigned i = 0; i < 64; i++) /* a microsecond or so */
                wh_relax();
}

/*
 * Send, waiting for room until `deadline_ns`; the lock is given up while it waits. At the holder's end only: replies
 * never wait.
 */
int wh_link_send(struct wh_link *l, struct wh_outgoing *o, int64_t deadline_ns);
/*
 * Leave a message that found the queue full (for `full`, an errno, which stays the answer where nothing can be left):
 * 1; -EBUSY when another waits there still.
 */
int wh_link_leave(struct wh_link *l, struct wh_outgoing *o, int full);

/*
 * Sleep until the link may have room, or a reply, or is over; the lock is given up meanwhile. 0, -EAGAIN for deadline
 * 0, -ETIMEDOUT. `seen` is NULL to wait for a reply; to wait for room it is what wh_room_now() said before the attempt
 * that found none, so that nothing given back since is slept through.
 */
int wh_holder_wait(struct wh_link *l, int64_t deadline_ns, const struct wh_room *seen);
/* Let every thread that waits on this link look again. */
void wh_holder_turn(struct wh_link *l);

/* A new send right from the end of a link. Takes `sock` only on success. */
int wh_right_from_socket(wharf_task *t, int sock, bool provisional, bool once, wharf_name *ret);
/* Read the greeting that waits on a new right, so that it is known to which port it goes. Never waits. */
void wh_right_greet(wharf_task *t, wharf_name right);

/* The same, of one that was given. */
int wh_right_given(wharf_task *t, int sock, bool provisional, bool once, const struct wharf_introducer *given,
                   wharf_name *ret);
/* The right was this task's own choice: nobody gave it. */
void wh_right_chosen(wharf_task *t, wharf_name right);

/* ---- new links ---- */

/*
 * As WHARF_MAKE_SEND, for the directory that gives others rights to the port: no sender, so that its link takes no
 * place of links_max, and it may introduce as many as there are places. Of this task's own port and by its own word.
 */
enum { WH_MAKE_DIRECTORY = 0x10000 };
/*
 * As WHARF_COPY_SEND, by that directory: for the user in wharf_msg.sender, whom the kernel has named to it, and who pays for
 * the new link from the first moment on.
 */
enum { WH_COPY_ASKED = 0x10001 };

/* A pair for a new right to somebody's port, with the greeting, unless that is NULL, waiting at the holder's end. */
int wh_right_pair(const struct wh_hello *h, int *ret_owner, int *ret_holder);
/* A new link to a port of this task, by `kind` of item (items.h); *ret is the holder's end. */
int wh_right_mint(wharf_task *t, wharf_name port, uint32_t kind, int *ret, uint64_t *ret_id);
/* Undo it: the owner's half goes at once, rather than when the port next looks. */
void wh_right_unmint(wharf_task *t, wharf_name port, uint64_t id);
/*
 * A new link to the port of a right that we hold, introduced over it; the link is locked. *ret is the holder's end. `asked`:
 * NULL, or the user on whose behalf, which counts where we are the port's directory (wh_place_introduced()).
 */
int wh_right_introduce(struct wh_link *l, const uid_t *asked, int64_t deadline_ns, int *ret);

#endif
