/*
 * branch - who introduced whom to a port, so that what came through somebody can be counted, limited and revoked.
 *
 * Always true:
 *   B1  A link that was introduced has a branch, whose `up` is that of its introducer. A link that the owner made has
 *       one from its first introduction on, with no `up`.
 *   B2  A branch lives as long as its link or anything below it: who introduced whom is known when a link in the middle
 *       is gone.
 *   B3  b->living is the number of links below b, at any depth, but for those without a place (places.h, G2); the
 * port's introduced_max is the most it can be. So whatever one sender's right led to, the places of others are not
 * taken by it. B4  A chain is at most WH_BRANCH_DEPTH long: beyond that one whose link is gone, with nothing below but
 * this chain, is forgotten. A right can be handed on without end, and memory is bounded.
 *
 * Guard: the inbox of the port.
 */
#ifndef WH_PORT_BRANCH_H
#define WH_PORT_BRANCH_H

#include "wharf/message.h"

#include <stdbool.h>
#include <stdint.h>

struct wh_link;

enum { WH_BRANCH_DEPTH = 64 };

struct wh_branch {
        struct wh_branch *up;
        uint64_t id;     /* of its link, which may be gone */
        uint32_t refs;   /* its link, and the branches right below */
        uint32_t living; /* B3 */
        bool gone;       /* its link is */
        bool faded;      /* its link is not counted in the `living` of those above any more */
        bool directory;  /* it introduces whoever asks: links_max says how many, and B3 nothing */
        bool forgot;     /* B4: there was another above it */
        /* Who introduced it; from whom that had its right, and who moved the port here with it: as it was then. */
        struct wharf_introducer by, by_given, by_former, by_formers;
};

/* A branch for a link that `introducer` introduces; -EDQUOT when it may introduce no more, -ENOMEM. */
int wh_branch_new(struct wh_link *introducer, uint32_t introduced_max, struct wh_branch **ret);
/* `l` has it from now on; or nobody, when `l` is NULL. */
void wh_branch_settle(struct wh_branch *b, struct wh_link *l);
/* Would wh_branch_new() find that it may introduce one more? */
bool wh_branch_may(const struct wh_link *introducer, uint32_t introduced_max);
/* `l` has only introductions left, and counts for nobody any more. */
void wh_branch_fade(struct wh_link *l);
/* `l` is no more. */
void wh_branch_leave(struct wh_link *l);
/* Is `l` the link `id`, or did it come through that? */
bool wh_branch_below(const struct wh_link *l, uint64_t id);

#endif
