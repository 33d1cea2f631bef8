/*
 * Names are let go of: one, all when the task closes, or in a forked child, which frees the memory of its parent's task and
 * nothing else, for the sockets are closed and the lanes were not inherited.
 */
#include "message/call.h"
#include "message/heir.h"
#include "message/memory.h"
#include "message/move.h"
#include "os/os.h"
#include "port/branch.h"
#include "port/owned.h"
#include "port/port.h"
#include "right/held.h"
#include "right/right.h"
#include "task/why.h"

#include <errno.h>
#include <stdlib.h>

/* What both ends have. */
static void forget_link(struct wh_link *l)
{
        /* The lanes were not inherited (MADV_DONTFORK) and the sockets are closed: only private memory is left. */
        if (!l->in.stash.mapped && !l->in.direct)
                free(l->in.stash.bytes);
        for (unsigned i = 0; l->out.lane && i < l->out.lane->n_sections; i++)
                free(l->out.lane->section[i].buddy);
        if (l->out.lane)
                free(l->out.lane->large);
        wh_moving_forget(&l->in.items);
        free(l->out.lane);
        free(l->in.lane);
}

static void forget_owned(struct wh_owned *w)
{
        forget_link(&w->link);
        free(w->replies.of);
        free(w->flying.of);
        free(w->once_notice);
        free(w->gone_notice);
        wh_branch_leave(&w->link);
}

static void forget_held(struct wh_held *h)
{
        forget_link(&h->link);
        wh_list_for_safe (n, &h->calls)
                free(wh_container(n, struct wh_call, node)->notice), free(wh_container(n, struct wh_call, node));
        for (unsigned i = 0; i < WH_ASKED; i++)
                free(h->asked[i].notice);
}

static void forget(struct wh_object *o, void *arg)
{
        wharf_task *t = arg;
        if (o->kind == WHARF_KIND_SEND) {
                forget_held(wh_held((struct wh_link *)o));
        } else if (o->kind == WH_KIND_LINK) {
                forget_owned(wh_owned((struct wh_link *)o));
        } else if (o->kind == WHARF_KIND_PORT || o->kind == WHARF_KIND_SET) {
                struct wh_inbox *in =
                        o->kind == WHARF_KIND_PORT ? &((struct wh_port *)o)->own : &((struct wh_set *)o)->inbox;
                wh_list_for_safe (n, &in->notices)
                        free(wh_container(n, struct wh_notice, node));
                wh_list_for_safe (n, &in->fired)
                        free(wh_container(n, struct wh_notice, node));
                wh_turns_done(in);
                if (o->kind == WHARF_KIND_PORT) {
                        free(((struct wh_port *)o)->no_senders);
                        wh_accounts_done(&((struct wh_port *)o)->accounts);
                }
        }
        o->next_free = t->pool[o->kind];
        t->pool[o->kind] = o;
}

static void forget_all(wharf_task *t)
{
        wh_ports_forget(t);
        wh_table_each(&t->links, forget, t);
        wh_table_each(&t->names, forget, t);
}

WHARF_API int wharf_drop(wharf_task *t, wharf_name name)
{
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        struct wh_object *o = wh_table_find(&t->names, name);
        if (!o || atomic_load_explicit(&o->name, memory_order_relaxed) != name)
                return wh_fail_at(t, -EBADF, name);
        switch (o->kind) {
        case WHARF_KIND_SEND:
                return wh_fail_at(t, wh_right_drop(t, o, name), name);
        case WHARF_KIND_PORT:
                return wh_port_inherited(t, o, name) ? 0 : wh_fail_at(t, wh_port_drop(t, o, name), name);
        case WHARF_KIND_SET:
                return wh_fail_at(t, wh_set_drop(t, o, name), name);
        case WHARF_KIND_MEMORY:
                return wh_fail_at(t, wh_memory_drop(t, o, name), name);
        default:
                return wh_fail_at(t, wh_reply_drop(t, o, name), name);
        }
}

static void drop_one(struct wh_object *o, void *arg)
{
        wharf_drop(arg, atomic_load_explicit(&o->name, memory_order_relaxed));
}

static void drop_port(struct wh_object *o, void *arg)
{
        if (o->kind == WHARF_KIND_PORT)
                drop_one(o, arg);
}

WHARF_API wharf_task *wharf_task_close(wharf_task *t)
{
        if (!t)
                return NULL;
        if (t->service_free)
                t->service_free(t->service);
        if (t->inherited_free)
                t->inherited_free(t->inherited);
        if (wh_task_ours(t)) {
                wh_table_each(&t->names, drop_port, t); /* first: some go over a send right to their heirs */
                wh_table_each(&t->names, drop_one, t);
                wh_moving_clear(t, NULL);
                wh_os_close(t->wake[0]);
                wh_os_close(t->wake[1]);
        } else
                forget_all(t); /* in a forked child: descriptors are closed, mappings were never there */
        wh_lingering_done(t, wh_task_ours(t));
        wh_task_free(t);
        return NULL;
}
