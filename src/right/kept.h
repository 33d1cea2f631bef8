/*
 * kept - send rights that outlive the process that holds them.
 *
 * Why: a server that is killed and started again must go on with the rights it was given, without asking anybody. A
 * link in use has state in private memory (numbers, positions, a lane) that dies with its user. So a kept right is
 * never used for a message: it only ever introduces others (wharf_right_copy(), WHARF_COPY_SEND), which is one datagram
 * each and changes nothing here. Then all that there is to keep is the socket and the greeting.
 *
 * Always true of a kept right:
 *   E1  Its socket stays the same for as long as it lives: it is not rebound. Its pair was made by whoever gave it,
 *       and nothing is ever sent on it but introductions, each of which carries a pair that this process made, and once
 *       the question who its owner is.
 *   E2  It has sent no message, and has no lane.
 *   E3  So nothing is due on its socket but greetings, refusals, doorbells and the word that the port has moved; while
 *       it is watched all that comes there is read, and anything else ends the right. What lay there unread could be
 *       the owner's own end of the pair, which would then outlive its owner for as long as this process holds the
 *       other one. That both ends are here is found by its owner, who is asked (wh_port_of_others()).
 */
#ifndef WH_RIGHT_KEPT_H
#define WH_RIGHT_KEPT_H

#include "link/frame.h"
#include "wharf/port.h"

#include <poll.h>

/* What has to be stored beside the socket. */
struct wh_kept {
        uint64_t hello[WH_HELLO_MIN / 8]; /* of a greeting what every version knows: such a right stays cold */
        uint32_t greeted;
        uint32_t zero;
};
static_assert(sizeof(struct wh_kept) == 40, "stored by one wharfd and read by the next");

/*
 * Make a right that came in a message, and was not used, a kept one. *ret_fd stays the right's.
 * Its owner is asked who it is, since a kept right may not be used for long: one that leads to the keeping task itself, and
 * that nobody else has, ends by that (wh_port_of_others()).
 * Errors: -EBADF, -EPERM (it was used already), -EPIPE (its port is gone), -EPROTO (nothing can be said over it), -ESTALE
 */
int wh_right_keep(wharf_task *task, wharf_name right, int *ret_fd, struct wh_kept *ret);
/* What a kept right is made of, once more. *ret_fd stays the right's. -EBADF, -EPERM (it is not kept), -ESTALE */
int wh_right_kept(wharf_task *task, wharf_name right, int *ret_fd, struct wh_kept *ret);
/* The same right again, in the next process. Takes `fd` on success. -EPROTO (no such socket), -ENOMEM, ... */
int wh_right_resume(wharf_task *task, int fd, const struct wh_kept *kept, wharf_name *ret);

/*
 * What to poll for until there is room for a message that just found none, which goes as a frame: the socket's own
 * (POLLOUT), or the receiver's word that it took some (POLLIN). The descriptor is borrowed. -EBADF, -EPERM, -ESTALE
 */
int wh_right_room(wharf_task *task, wharf_name right, struct pollfd *ret);

/*
 * How many of those whom this kept right has introduced may be unknown to the port's owner yet, for it does not read: their
 * ends count as descriptors on their way. UINT32_MAX: not to be had.
 */
uint32_t wh_right_unread(wharf_task *task, wharf_name right);

/* Whoever has the other end sees it end; what lies there unread it can read still, and wh_right_unread() tells of. */
void wh_right_hang_up(wharf_task *task, wharf_name right);
/*
 * A right of this task's own making, to a port that somebody else has: it goes over to a pair of its own now, where it would before its
 * next message, and *ret_left is a copy of its end of the pair before; -1: it has one already, or can have none. What was written there
 * last has the other end of the new pair. -EAGAIN (not now: it has no room), -EMFILE, -ENOMEM, -EPIPE, -EBADF, -ESTALE
 */
int wh_right_bind(wharf_task *task, wharf_name right, int *ret_left);

/*
 * Of the links to `port` there may be `total` in all, of which each user has a share, this task's own too, but always a
 * few (account.h). More are refused with -EDQUOT.
 */
int wh_port_share_links(wharf_task *task, wharf_name port, uint32_t total);
/*
 * This task sends nothing to `port`: whatever came from it came over a right that somebody else made for it to keep, and a
 * pair of which this task has both ends would outlive that one. Such a link ends.
 */
int wh_port_of_others(wharf_task *task, wharf_name port);
/*
 * `port` takes only items of these kinds: bit 1 << WH_ITEM_*. A message with another ends its link, and nothing that is in
 * it is looked into.
 */
int wh_port_takes(wharf_task *task, wharf_name port, uint32_t kinds);

#endif
