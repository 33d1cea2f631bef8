/*
 * inside - what tests that look into the library share: the link behind a right.
 */
#ifndef TEST_INSIDE_H
#define TEST_INSIDE_H

#include "link/link.h"
#include "right/right.h"
#include "test.h"

static inline struct wh_link *holder(wharf_task *t, wharf_name right)
{
        int err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        CHECK(l);
        wh_unlock(&l->o.lock);
        return l;
}

#endif
