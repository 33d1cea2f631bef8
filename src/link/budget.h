/*
 * budget - what src/link pays of the budget of the call that is running (link.K7).
 *
 * The costs (WH_COST_*) and wh_link_spend() are in link.h: whoever has the other side wait for it pays by them.
 */
#ifndef WH_LINK_BUDGET_H
#define WH_LINK_BUDGET_H

#include "link/link.h"
#include "os/os.h"

/* What it costs that so many bytes of the other side's are mapped, or unmapped. */
static inline uint64_t wh_budget_of_mapped(uint64_t bytes)
{
        return bytes / (wh_os_holes_asked() ? WH_COST_MAPPED : WH_COST_READ);
}
static inline void wh_budget_mapped(struct wh_link *l, uint64_t bytes)
{
        wh_link_spend(l, wh_budget_of_mapped(bytes));
}

/* A memory was to be added to the lane, which had `before` mapped: what is refused, or has no room now, may be large, too. */
static inline void wh_budget_added(struct wh_link *l, uint64_t before, int r)
{
        wh_budget_mapped(l, r < 0 ? WH_SECTION_BYTES_MAX : l->in.lane->mapped_bytes - before);
}

/* Of one look at a link: what it has had of the budget. */
struct wh_budget_turn {
        uint32_t begun; /* with so much left; 0: it has had nothing yet */
};

/* Something was read that is no message. May it go on, or is it the others' turn? */
static inline bool wh_budget_goes_on(struct wh_link *l, struct wh_budget_turn *t)
{
        const uint32_t left = *l->end->budget(l);
        if (t->begun == 0)
                t->begun = left;
        return left > 0 && t->begun - left < WH_BUDGET_TURN;
}

#endif
