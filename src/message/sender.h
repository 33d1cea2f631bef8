/*
 * sender - who stands behind a link of a port, asked by the id that a message shows of its sender.
 */
#ifndef WH_MESSAGE_SENDER_H
#define WH_MESSAGE_SENDER_H

#include "link/link.h"

struct wh_inbox;

/*
 * Lock and return the inbox of the owner's end that has this id, or NULL where there is none (any more). A payload that is
 * held keeps it alive; so its port may be closed, or in a set by now.
 */
struct wh_inbox *wh_sender_lock(wharf_task *task, uint64_t id, struct wh_link **ret);
/* Is there (still) a sender of that id? */
bool wh_sender_lives(wharf_task *task, uint64_t sender_id);
/* Who introduced this sender: the id of a link of the same port; 0 for nobody, and for what is no sender (any more). */
uint64_t wh_sender_introducer(wharf_task *task, uint64_t sender_id);
/*
 * Supplementary groups of a sender that connected to the port's socket, as they were then; of others none are known.
 * `groups` has room for *n, which becomes how many there are in it. Groups beyond that are left out.
 */
void wh_sender_groups(wharf_task *task, uint64_t sender_id, gid_t *groups, unsigned *n);

#endif
