/*
 * work - what a receive may do between two looks at its deadline, which is bounded (direct.D5).
 */
#ifndef WH_NAMES_DIRECT_WORK_H
#define WH_NAMES_DIRECT_WORK_H

#include "os/os.h"
#include "wharf/task.h"

#include <stdbool.h>

/* In messages of the door; an inlet that ends costs the same. */
enum {
        ROUNDS_AT_ONCE = 4, /* of a receive that may not wait */
        WORK_IN_VAIN = 64,  /* a receive that gave up before it had seen everything (link.K7); also a round of looks */
        WORK_MAX = ROUNDS_AT_ONCE * WORK_IN_VAIN,
};

#define WORK_NS ((int64_t)10 * 1000000)

/* What a receive may still do before it looks at its deadline; if that is 0, before it returns. */
struct work {
        int64_t deadline_ns;
        int64_t began_ns; /* of a receive that may not wait, which takes WORK_NS at most */
        unsigned left;
        bool later; /* not the first look of this call, which does a little of everything, however short the deadline is */
};

static inline bool is_over(int64_t deadline_ns)
{
        return deadline_ns != WHARF_FOREVER && wh_os_now_ns() > deadline_ns;
}

static inline void work_spend(struct work *w, unsigned n)
{
        w->left -= n < w->left ? n : w->left;
}

/* True when the look has to end here: it has done enough, or the deadline is over. */
static inline bool work_ends(const struct work *w)
{
        return w->left == 0 || is_over(w->deadline_ns ? w->deadline_ns : w->began_ns + WORK_NS);
}

/* Another look begins. Whoever may wait has as much for each; for others that was all. */
static inline void work_again(struct work *w)
{
        w->later = true;
        if (w->deadline_ns)
                w->left = WORK_MAX;
        else
                work_spend(w, WORK_IN_VAIN);
}

#endif
