/*
 * refs - Mach's names, and the references to the send rights that go by them (H1, H2, H3).
 */
#include "pattern/mach/mach.h"

#include "os/lock.h"
#include "os/os.h"

#include <search.h>
#include <stdlib.h>

static int named_compare(const void *a, const void *b)
{
        mach_port_t x = ((const struct named *)a)->name, y = ((const struct named *)b)->name;
        return x < y ? -1 : x > y;
}

struct named *wh_mach_named_find(mach_port_t name)
{
        struct named key = {.name = name};
        void *node = tfind(&key, &wh_mach.names, named_compare);
        return node ? *(struct named **)node : NULL;
}

struct named *wh_mach_named_get(mach_port_t name)
{
        struct named *e = wh_mach_named_find(name);
        if (e)
                return e;
        e = wh_os_calloc(1, sizeof *e);
        if (!e)
                return NULL;
        e->name = name;
        if (!tsearch(e, &wh_mach.names, named_compare)) {
                free(e);
                return NULL;
        }
        return e;
}

void wh_mach_named_tidy(struct named *e)
{
        if (e->send || e->set)
                return;
        tdelete(e, &wh_mach.names, named_compare);
        free(e);
}

wharf_name wh_mach_send_find(wharf_task *t, mach_port_t name, uint32_t *ret_refs)
{
        const struct named *e = wh_mach_named_find(name);
        *ret_refs = 0;
        if (e && e->send) {
                *ret_refs = e->refs;
                return e->send;
        }
        if (wharf_name_kind(t, name) != WHARF_KIND_SEND)
                return WHARF_NONE;
        *ret_refs = 1;
        return name;
}

kern_return_t wh_mach_send_refs(wharf_task *t, mach_port_t name, int64_t delta, wharf_name *ret_gone)
{
        uint32_t refs;
        wharf_name send = wh_mach_send_find(t, name, &refs);
        *ret_gone = WHARF_NONE;
        if (!send)
                return KERN_INVALID_RIGHT;
        int64_t now = (int64_t)refs + delta;
        if (now < 0)
                return KERN_INVALID_VALUE;
        if (now > 0xffff)
                return KERN_UREFS_OVERFLOW;
        if (send == name && now <= 1 && !wh_mach_named_find(name)) {
                *ret_gone = now ? WHARF_NONE : send;
                return KERN_SUCCESS;
        }
        struct named *e = wh_mach_named_get(name);
        if (!e)
                return KERN_RESOURCE_SHORTAGE;
        e->send = send;
        e->refs = (uint32_t)now;
        if (now == 0 || (send == name && now == 1)) {
                e->send = WHARF_NONE;
                *ret_gone = now ? WHARF_NONE : send;
                wh_mach_named_tidy(e);
        }
        return KERN_SUCCESS;
}

void wh_mach_refs_add(wharf_task *t, mach_port_t name, int64_t delta)
{
        wharf_name gone;
        wh_lock(&wh_mach.lock);
        wh_mach_send_refs(t, name, delta, &gone);
        wh_unlock(&wh_mach.lock);
        if (gone)
                wharf_drop(t, gone);
}

bool wh_mach_give_up(wharf_task *t, mach_port_t name, struct after *after, wharf_name *ret)
{
        uint32_t refs;
        wharf_name gone;
        wh_lock(&wh_mach.lock);
        *ret = wh_mach_send_find(t, name, &refs);
        if (refs > 1 && wh_mach_send_refs(t, name, -1, &gone) == KERN_SUCCESS)
                *after = (struct after){.name = name, .counted = true};
        else if (refs == 1)
                *after = (struct after){.name = name, .moved = true};
        wh_unlock(&wh_mach.lock);
        return *ret != WHARF_NONE;
}

wharf_name wh_mach_send_of(wharf_task *t, mach_port_t name)
{
        uint32_t refs;
        wh_lock(&wh_mach.lock);
        wharf_name send = wh_mach_send_find(t, name, &refs);
        wh_unlock(&wh_mach.lock);
        return send;
}

struct search {
        wharf_name send;
        mach_port_t found;
};

static void entry_has(const void *node, VISIT visit, void *arg)
{
        const struct named *e = *(struct named *const *)node;
        struct search *s = arg;
        if ((visit == postorder || visit == leaf) && e->send == s->send)
                s->found = e->name;
}

mach_port_t wh_mach_name_of(wharf_name right)
{
        struct search s = {right, right};
        wh_lock(&wh_mach.lock);
        twalk_r(wh_mach.names, entry_has, &s);
        wh_unlock(&wh_mach.lock);
        return s.found;
}
