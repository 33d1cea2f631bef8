/*
 * both_ends - whose memory is whose, where one process holds both ends of its links and only one of them lies.
 */
#ifndef PROOF_BOTH_ENDS_H
#define PROOF_BOTH_ENDS_H

#include "engine/proof.h"

/* The receiver reads only what it maps read-only; all else that is loaded is the sender reading `back`, or itself. */
static inline bool memory_of_the_sender(struct proof *p, const void *at)
{
        const struct hook_range *r = hook_range_of(at);
        (void)p;
        return r && !r->writable;
}

static inline bool memory_of_the_receiver(struct proof *p, const void *at)
{
        const struct hook_range *r = hook_range_of(at);
        unsigned n;
        const struct hook_range *all = hook_ranges(&n);
        (void)p;
        /* The sender's own lane has no second mapping yet when it is being made; the receiver's page is one page. */
        if (!r || r->len > 4096)
                return false;
        for (unsigned i = 0; i < n; i++)
                if (all[i].ino == r->ino && all[i].dev == r->dev && !all[i].writable)
                        return false; /* `out` or a section, by another mapping */
        return true;
}

#endif
