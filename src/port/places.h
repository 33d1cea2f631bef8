/*
 * places - who takes one of the places of a port, and those who wait for one.
 *
 * Why: a send returns 0 once its message lies in a queue, and the first message of a link that was introduced lies
 * there before the owner has seen that link. To refuse the link then would lose it, though its receiver lives. So what
 * finds a limit that ends by itself (the places of a port, what one sender may introduce, the links of one user) waits.
 * It is not read: an introduction stays where it is, first in its introducer's queue, and with it what its introducer
 * sent behind it; a link whose user has all its links stays as it is, of the link's own frames one was looked at to
 * learn who it is, and it counts for its introducer until then. Others go on meanwhile.
 *
 * Always true:
 *   G1  A link that waits (l->in.waits) is in port->waiting, and not hot. Nothing of it is read, whatever comes, and
 *       nothing of it wakes anybody: no descriptor is readable for it. It is looked at again when a link of the port
 *       ends, or one of another port of the task if the limit is what they share, when the limit is changed, or when
 *       its own sender is gone. The kernel tells nobody of the limit of a process, so every receive of the task asks for
 *       it while a port waits for more of that.
 *   G2  A sender that is gone does not keep the place that those whom it introduced wait for: it gives its own to the
 *       first of them (o->placeless), to the next when that one is gone, and so on; its link stays until it is read. So
 *       that no tree of such senders takes descriptors without end, a task has at most WH_PLACELESS_MAX of these.
 *   G3  Behind those whom a directory introduces nobody waits: each is the link of the user that has asked, from the
 *       first moment on. Where there is no place for it, at the port or of its user, it waits for that itself, as a link
 *       that takes one of the task's only (o->waiting_room). One whose other end was closed needs none, and is read: it is
 *       gone, or has sent another pair. Of these its user
 *       has a share too, beyond which it is refused, like one that connected.
 *   G4  What a sender that is gone has introduced comes to its end, whatever others do: all that would end one of those
 *       who have places may lie behind the one who waits. So while the place that it gave is taken, the next one passes
 *       (o->passing): it is told that it is refused, can send nothing more from then on, and is read to its end without a
 *       place, one at a time. Nothing that was acknowledged is lost by that, but for what it writes to a lane until it
 *       looks. Those whom it introduced itself pass likewise, and so do those of a link that never had a place to give;
 *       they wait for none of the WH_PLACELESS_MAX, but are refused where there is none, so that those who wait for
 *       these do not wait for each other. A link that is gone, or passes, waits for no share of its user's either.
 *
 * Guard: the inbox of the port; of what all ports of a task share (task->waiting), task->notices.
 */
#ifndef WH_PORT_PLACES_H
#define WH_PORT_PLACES_H

#include "port/port.h"

enum { WH_PLACELESS_MAX = 64 }; /* each with one that passes */

/* How many of the port's links_max places are taken. Everybody who asks that asks here. */
uint32_t wh_port_places(const struct wh_port *p);

/* How often a link of the task has ended: to be asked before a place is. */
uint32_t wh_places_freed(wharf_task *t);
/*
 * Let `l` wait (G1) for what the user `uid` may have no more of. With `shared` it may become free at another port of the
 * task, and `freed` is what wh_places_freed() was before it was asked for, so that what ends meanwhile is not missed.
 * Returns WH_LINK_WAITS.
 */
int wh_place_wait(struct wh_link *l, enum wh_waits_for why, uid_t uid, bool shared, uint32_t freed);
/* Before anything of `l` is read: 0, or WH_LINK_WAITS, since it has no place yet and none is free (G3). */
int wh_place_had(struct wh_link *l);
/* It waits no more. Harmless where it did not. */
void wh_place_unwait(struct wh_link *l);
/* G4: it has another pair, of which the same is true. Harmless where it does not pass. */
void wh_place_pass(struct wh_link *l);
/* `l` is about to leave its port. */
void wh_place_leave(struct wh_link *l);
/* A link of `p` is gone, or counts for another user: somebody may have waited for that, here or at another port. */
void wh_place_freed(struct wh_port *p);
/* wh_task_limits(), and those who wait for more links look. */
void wh_places_limits(wharf_task *t);
/* The limit of the process was raised, which all ports of the task share (wh_task_limits()): those who wait for it look. */
void wh_places_raised(wharf_task *t);
/* At a port of this inbox somebody may go on, as another one's wh_place_freed() said. */
void wh_places_look(struct wh_inbox *in);

/* A port's answer to ADOPT (struct wh_end_ops). */
int wh_place_introduced(struct wh_link *introducer, int sock, const struct wh_frame *f, const struct wh_cred *cred);

#endif
