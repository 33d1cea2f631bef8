/*
 * identity - who is at the other end of a link, how that is known, and through whose hands its right came.
 * docs/design/identity.md says case by case what that is worth.
 *
 * Always true, at the owner's end:
 *   I1  A pair that this task made, or was handed, says nothing about who writes into it: the link is UNKNOWN. Only what
 *       connected to the port's own socket is CONNECTED, and only a REBIND makes a link BOUND: a frame for the owner that
 *       names this port, and carries an end of a pair that was made by the very process that the kernel says wrote it.
 *       So nothing binds a pair in place, and what others can be made to write, or have written, binds nothing.
 *   I2  On a link that is known each frame is by the process that it is known for, or the link ends. (Of what was sent
 *       to the port's socket before it was accepted the kernel need not say that.)
 *   I3  A lane has the identity of the pair that it was attached on: a change of the pair ends the lane (K6).
 *   I4  Whoever binds says who gave it its right (`given`), and the kernel says who is saying it: what an honest process
 *       was handed by another is never taken for its own idea. Who passes a right on without using it says so before
 *       (GIVEN). Where several say different users, it is nobody that is known.
 *   I5  What a former owner of the port says about its senders is told apart from all this (WHARF_KNOWN_TOLD), and it is
 *       an introducer of each of them, and of all whom they introduce here, for good. So are those of whom it says that they
 *       had introduced the sender there (`formers`): whoever would not say so had only itself to hide.
 */
#ifndef WH_LINK_IDENTITY_H
#define WH_LINK_IDENTITY_H

#include "link/frame.h"
#include "wharf/message.h"

struct wh_link;

#define WH_SENDER_UNKNOWN       \
        ((struct wharf_sender){ \
                .uid = (uid_t)-1, .gid = (gid_t)-1, .introducer = WH_INTRODUCER_NOT, .told_uid = (uid_t)-1})
#define WH_INTRODUCER_NOT ((struct wharf_introducer){.uid = (uid_t)-1, .gid = (gid_t)-1})
#define WH_INTRODUCER_NOBODY \
        ((struct wharf_introducer){.uid = (uid_t)-1, .gid = (gid_t)-1, .known = WHARF_KNOWN_NOBODY})

/* Does the kernel say who it is, whatever is written from now on? */
static inline bool wh_known_surely(uint32_t known)
{
        return known == WHARF_KNOWN_OWN || known == WHARF_KNOWN_CONNECTED || known == WHARF_KNOWN_BOUND;
}

/* Shown each who introduced a holder, the nearest first; `id` is that of its link to the same port, or 0. */
typedef void (*wh_see_introducer)(void *arg, const struct wharf_introducer *one, uint64_t id);
/* Those whom the link itself knows of: who gave its holder the right. */
void wh_given_see(const struct wh_link *l, wh_see_introducer fn, void *arg);

/* From here on the owner's end is known in this way; not at all, where `cred` says nobody. */
void wh_link_identify(struct wh_link *l, const struct wh_cred *cred, uint32_t known);
/* Says in l->who who is the nearest that introduced it: after l->given, o->former, o->formers or o->branch has changed. */
void wh_link_introduced(struct wh_link *l);
/* All who introduced it, the nearest first: how many, of which up to `max` are in `ret`. */
unsigned wh_link_introducers(const struct wh_link *l, struct wharf_introducer *ret, unsigned max);
/* All of them, as one that they all are; somebody who is not known, where they are several; or nobody. */
struct wharf_introducer wh_link_introducer(const struct wh_link *l);
/* Two words about who gave a right: one that both are, or nobody that is known. */
struct wharf_introducer wh_given_fold(struct wharf_introducer a, struct wharf_introducer b);
/* Whom this task has what comes over this link from, as it will say to others. */
struct wharf_introducer wh_link_giver(const struct wh_link *l);

/* The same on the wire. What is read there is somebody's word. */
struct wh_origin wh_origin_put(uint64_t port_id, const struct wharf_introducer *given);
struct wharf_introducer wh_origin_get(const struct wh_origin *said);

#endif
