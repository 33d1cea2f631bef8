/*
 * What a forked child frees of its parent's task: memory alone, for the sockets are closed and the lanes were not inherited.
 */
#include "port/branch.h"
#include "right/held.h"
#include "message/move.h"
#include "right/object.h"
#include "port/owned.h"
#include "port/port.h"

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
        wh_branch_leave(&w->link);
}

static void forget_held(struct wh_held *h)
{
        forget_link(&h->link);
        wh_list_for_safe (n, &h->calls)
                free(wh_container(n, struct wh_call, node));
        free(h->watch_notice);
        for (unsigned i = 0; i < WH_ROOM_NOTICES; i++)
                free(h->room[i].notice);
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

void wh_task_forget(wharf_task *t)
{
        wh_ports_forget(t);
        wh_table_each(&t->links, forget, t);
        wh_table_each(&t->names, forget, t);
}
