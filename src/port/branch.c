#include "port/branch.h"

#include "base/trace.h"
#include "os/os.h"
#include "link/identity.h"
#include "link/link.h"
#include "port/owned.h"

#include <errno.h>
#include <stdlib.h>

static struct wh_branch *branch_alloc(struct wh_branch *up)
{
        struct wh_branch *b = wh_os_calloc(1, sizeof *b);
        if (!b)
                return NULL;
        b->up = up;
        b->refs = 1;
        if (up)
                up->refs++;
        return b;
}

static void branch_unref(struct wh_branch *b)
{
        while (b && --b->refs == 0) {
                struct wh_branch *up = b->up;
                free(b);
                b = up;
        }
}

/* B4: forget the oldest that can be, or answer false. */
static bool chain_shorten(struct wh_branch *from)
{
        struct wh_branch *below = NULL;
        for (struct wh_branch *b = from; b->up; b = b->up)
                if (b->up->gone && b->up->refs == 1)
                        below = b;
        if (!below)
                return false;
        struct wh_branch *old = below->up;
        below->up = old->up; /* and its reference */
        below->forgot = true;
        free(old);
        return true;
}

int wh_branch_new(struct wh_link *introducer, uint32_t introduced_max, struct wh_branch **ret)
{
        struct wh_owned *o = wh_owned(introducer);
        if (!o->branch) {
                struct wh_branch *own = branch_alloc(NULL);
                if (!own)
                        return wh_trace(-ENOMEM);
                own->id = introducer->who.id;
                own->directory = o->directory;
                o->branch = own;
        }
        unsigned depth = 1;
        for (struct wh_branch *b = o->branch; b; b = b->up, depth++)
                if (b->living >= introduced_max && !b->directory)
                        return -EDQUOT;
        if (depth >= WH_BRANCH_DEPTH && !chain_shorten(o->branch))
                return -EDQUOT;
        struct wh_branch *b = branch_alloc(o->branch);
        if (!b)
                return wh_trace(-ENOMEM);
        const struct wharf_sender *w = &introducer->who;
        b->by = (struct wharf_introducer){.pid = w->pid, .uid = w->uid, .gid = w->gid, .known = w->known};
        b->by_given = introducer->given;
        b->by_former = o->former;
        b->by_formers = o->formers;
        *ret = b;
        return 0;
}

void wh_branch_settle(struct wh_branch *b, struct wh_link *l)
{
        if (!l) {
                branch_unref(b);
                return;
        }
        b->id = l->who.id;
        wh_owned(l)->branch = b;
        wh_link_introduced(l);
        while ((b = b->up))
                b->living++;
}

bool wh_branch_may(const struct wh_link *introducer, uint32_t introduced_max)
{
        for (const struct wh_branch *b = wh_owned(introducer)->branch; b; b = b->up)
                if (b->living >= introduced_max && !b->directory)
                        return false;
        return true;
}

void wh_branch_fade(struct wh_link *l)
{
        struct wh_branch *b = wh_owned(l)->branch;
        if (!b || b->faded)
                return;
        b->faded = true;
        while ((b = b->up))
                b->living--;
}

void wh_branch_leave(struct wh_link *l)
{
        struct wh_branch *b = wh_owned(l)->branch;
        if (!b)
                return;
        b->gone = true;
        wh_branch_fade(l);
        wh_owned(l)->branch = NULL;
        branch_unref(b);
}

bool wh_branch_below(const struct wh_link *l, uint64_t id)
{
        if (l->who.id == id)
                return true;
        for (const struct wh_branch *b = wh_owned(l)->branch; b; b = b->up)
                if (b->id == id)
                        return true;
        return false;
}
