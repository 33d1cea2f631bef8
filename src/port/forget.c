/*
 * What a forked child frees of its parent's task: memory alone, for the sockets are closed and the lanes were not inherited.
 */
#include "port/branch.h"
#include "port/move.h"
#include "port/object.h"
#include "port/port.h"

#include <stdlib.h>

static void forget(struct wh_object *o, void *arg)
{
        struct wh_link *l = (struct wh_link *)o;
        /* The lanes were not inherited (MADV_DONTFORK) and the sockets are closed: only private memory is left. */
        wharf_task *t = arg;
        if (o->kind == WHARF_KIND_SEND || o->kind == WH_KIND_LINK) {
                if (!l->in.stash.mapped && !l->in.direct)
                        free(l->in.stash.bytes);
                for (unsigned i = 0; l->out.lane && i < l->out.lane->n_sections; i++)
                        free(l->out.lane->section[i].buddy);
                if (l->out.lane)
                        free(l->out.lane->large);
                free(l->replies.of);
                free(l->flying.of);
                wh_moving_forget(&l->in.items);
                free(l->out.lane);
                free(l->in.lane);
                wh_list_for_safe (n, &l->calls)
                        free(wh_container(n, struct wh_call, node));
                free(l->watch_notice);
                free(l->once_notice);
                for (unsigned i = 0; i < WH_ROOM_NOTICES; i++)
                        free(l->room[i].notice);
                wh_branch_leave(l);
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
