/*
 * The ports of one message on their way here: opened as far as the budget goes, and then this task's for good, or undone.
 *
 * Always true:
 *   - Nothing is made before the places that it takes are this task's to give: of the payer's share, and the port's id (M6,
 *     M7).
 *   - A port that was undone is in task->gone until nothing is left of it, or one thread is at it (M8).
 */
#include "message/opening.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"
#include "port/owned.h"
#include "port/places.h"
#include "port/port.h"

#include <errno.h>
#include <stdlib.h>

/* What this task may have more of later; all else is the former owner's doing. */
static int open_error(int r)
{
        switch (r) {
        case -ENOMEM:
        case -ENOBUFS:
        case -ENOSPC:
                return -ENOMEM;
        case -EMFILE:
        case -ENFILE:
        case -EDQUOT:
        case -EPROTONOSUPPORT:
                return r;
        default:
                return -EPROTO;
        }
}

/*
 * May the payer have all these links? Those of another user's take of its share, and wait like its other links for as
 * long as it has had it; where its whole share would not do, even with nothing else in it, that would be for ever.
 */
static int ask_for_places(struct wh_moving *mv)
{
        struct wh_accounts *a = &mv->task->accounts;
        struct wh_link *l = mv->by.over;
        if (mv->granted || mv->by.own)
                return 0;
        const uint32_t freed = wh_places_freed(mv->task);
        int r = wh_account_charge(a, mv->by.payer, WH_SHARE_TASK_LINKS, mv->n_links, false);
        if (r == -EDQUOT) {
                wh_places_limits(mv->task);
                r = wh_account_charge(a, mv->by.payer, WH_SHARE_TASK_LINKS, mv->n_links, false);
        }
        if (r == 0) {
                mv->granted = true;
                mv->reserved = mv->n_links;
        }
        if (r != -EDQUOT)
                return r;
        if (l)
                l->in.refusal = WH_REFUSAL_TASK_LINKS;
        if (!l || !l->owner ||
            mv->n_links >= a->max[WH_SHARE_TASK_LINKS] / 2) /* the link that this comes over is one */
                return r;
        wh_owned(l)->waits_links = (uint32_t)mv->n_links;
        return wh_place_wait(l, WH_WAITS_MOVED, mv->by.payer, true, freed);
}

/* No port of this task's has that id; or it waits until one that is moving is gone, and may be this one. */
static int ask_for_id(struct wh_moving *mv, const struct wh_opening *op)
{
        const uint32_t freed = wh_places_freed(mv->task);
        struct wh_link *l = mv->by.over;
        int r = wh_port_id_taken(mv->task, (wharf_port_id){op->o.head->port_id});
        if (r != WH_LINK_WAITS || !l)
                return r == WH_LINK_WAITS ? 0 : r;
        if (!l->owner)
                return wh_trace(-EDQUOT);
        wh_owned(l)->waits_links = 0;
        return wh_place_wait(l, WH_WAITS_MOVED, mv->by.payer, true, freed);
}

static int moving_step(struct wh_moving *mv, struct wh_items *i, unsigned n)
{
        int r = 0;
        for (; mv->begun < n; mv->begun++) {
                if (i->kind[mv->begun] != WH_ITEM_RECEIVE)
                        continue;
                struct wh_opening *op = wh_os_calloc(1, sizeof *op);
                if (!op)
                        return wh_trace(-ENOMEM);
                wh_list_init(&op->in_gone);
                if ((r = wh_opening_begin(mv, i->fd[mv->begun], op)) < 0) {
                        wh_opening_done(op);
                        return r;
                }
                mv->open[mv->begun] = op;
                if (!wh_moving_spend(mv, 1) && mv->begun + 1 < n) {
                        mv->begun++;
                        return WH_LINK_LATER;
                }
        }
        if (mv->n == 0 && (r = ask_for_places(mv)) < 0)
                return r;
        for (; mv->n < n; mv->n++) {
                struct wh_opening *op = mv->open[mv->n];
                if (!op)
                        continue;
                if (!op->p && !op->o.n_fds && (r = ask_for_id(mv, op)) < 0)
                        return r;
                if ((r = wh_opening_go_on(mv, i->fd[mv->n], op)) < 0)
                        return r;
                mv->port[mv->n] = op->name;
                if (!wh_moving_spend(mv, 1) && mv->n + 1 < n) {
                        mv->n++;
                        return WH_LINK_LATER;
                }
        }
        return 0;
}

int wh_moving_open(wharf_task *t, struct wh_items *i, unsigned n, const struct wh_mover *by)
{
        bool any = false;
        for (unsigned k = 0; k < n; k++)
                any |= i->kind[k] == WH_ITEM_RECEIVE;
        if (!any)
                return 0;
        if (wh_ports_gone(t) &&
            wh_moving_clear(t, by->over)) /* so that nothing is missing for what is still being undone */
                return WH_LINK_LATER;
        if (!i->moving) {
                if (!(i->moving = wh_os_calloc(1, sizeof *i->moving)))
                        return wh_trace(-ENOMEM);
                i->undo = wh_moving_undo;
                i->moving->task = t;
                i->moving->by = *by;
        }
        int r = moving_step(i->moving, i, n);
        if (r == WH_LINK_LATER || r == 0)
                return r;
        wh_moving_undo(i);
        return r == WH_LINK_WAITS ? r : open_error(r);
}

wharf_name wh_moving_port(const struct wh_items *i, unsigned k)
{
        return i->moving->port[k];
}

/* ---- undone ---- */

/* What is left of it, until the budget is used up. True: something still is. */
static bool gone_clear(wharf_task *t, struct wh_opening *op, uint32_t *budget)
{
        struct wh_opened *o = &op->o;
        if (op->p) {
                struct wh_inbox *in = &op->p->own;
                wh_lock(&in->lock);
                for (; *budget && !wh_list_empty(&op->p->links);
                     *budget -= *budget < WH_COST_LINK ? *budget : WH_COST_LINK)
                        wh_port_remove_link(&wh_container(op->p->links.next, struct wh_owned, in_port)->link);
                const bool more = !wh_list_empty(&op->p->links);
                wh_unlock(&in->lock);
                if (more)
                        return true;
                wh_port_gone(t, op->name, false);
                op->p = NULL;
        }
        for (; *budget && o->n_fds; *budget -= *budget < WH_COST_FRAME ? *budget : WH_COST_FRAME)
                do
                        wh_os_close_theirs(o->fds[--o->n_fds]);
                while (o->n_fds && o->fds[o->n_fds - 1] < 0); /* those that links have had cost nothing */
        if (o->n_fds)
                return true;
        wh_opening_done(op);
        return false;
}

/* M8. It is out of the list while one thread is at it. */
static bool gone_go_on(wharf_task *t, uint32_t *budget)
{
        for (;;) {
                wh_lock(&t->notices);
                struct wh_list *n = wh_list_pop_front(&t->gone);
                wh_unlock(&t->notices);
                if (!n)
                        return false;
                struct wh_opening *op = wh_container(n, struct wh_opening, in_gone);
                if (gone_clear(t, op, budget)) {
                        wh_lock(&t->notices);
                        wh_list_push_back(&t->gone, &op->in_gone);
                        wh_unlock(&t->notices);
                        return true;
                }
                atomic_fetch_sub_explicit(&t->n_gone, 1, memory_order_relaxed);
        }
}

bool wh_moving_clear(wharf_task *t, struct wh_link *over)
{
        uint32_t all = UINT32_MAX;
        if (!over) { /* the task closes */
                while (gone_go_on(t, &all))
                        all = UINT32_MAX;
                return false;
        }
        uint32_t *budget = over->end->budget(over);
        const bool more = gone_go_on(t, budget);
        if (more)
                *budget = 0;
        return more;
}

bool wh_ports_clear(wharf_task *t)
{
        uint32_t budget = WH_BUDGET;
        return gone_go_on(t, &budget);
}

void wh_moving_undo(struct wh_items *i)
{
        struct wh_moving *mv = i->moving;
        if (!mv)
                return;
        wharf_task *t = mv->task;
        i->moving = NULL;
        for (unsigned k = 0; k < WHARF_ITEMS_MAX; k++) {
                struct wh_opening *op = mv->open[k];
                if (!op)
                        continue;
                if (op->p) {
                        wh_lock(&op->p->own.lock);
                        op->p->closing = WH_PORT_MOVING;
                        wh_unlock(&op->p->own.lock);
                }
                wh_lock(&t->notices);
                if (op->p)
                        wh_list_remove(&op->p->in_ids); /* it can come again */
                wh_list_push_back(&t->gone, &op->in_gone);
                wh_unlock(&t->notices);
                atomic_fetch_add_explicit(&t->n_gone, 1, memory_order_relaxed);
        }
        wh_account_give(&t->accounts, mv->by.payer, WH_SHARE_TASK_LINKS, mv->reserved);
        const struct wh_owned *over = mv->by.over && mv->by.over->owner ? wh_owned(mv->by.over) : NULL;
        if (mv->reserved && over && over->port)
                wh_place_freed(over->port); /* others may have waited for what was kept for these */
        else if (mv->reserved)
                wh_places_raised(t);
        wh_ports_clear(t); /* a small one goes at once, and of a large one a part */
        free(mv);
}

static void opening_forget(struct wh_opening *op)
{
        if (!op)
                return;
        free(op->o.fds);
        free(op->links);
        free(op);
}

void wh_moving_forget(struct wh_items *i)
{
        for (unsigned k = 0; i->moving && k < WHARF_ITEMS_MAX; k++)
                opening_forget(i->moving->open[k]);
        free(i->moving);
        i->moving = NULL;
}

void wh_ports_forget(wharf_task *t)
{
        struct wh_list *n;
        while ((n = wh_list_pop_front(&t->gone)))
                opening_forget(wh_container(n, struct wh_opening, in_gone));
}

/* ---- here for good ---- */

void wh_moving_done(struct wh_items *i)
{
        for (unsigned k = 0; i->moving && k < WHARF_ITEMS_MAX; k++)
                wh_opening_done(i->moving->open[k]);
        free(i->moving);
        i->moving = NULL;
}

void wh_move_start(wharf_task *t, wharf_name port, int carrier)
{
        int err;
        wh_os_close_theirs(carrier); /* with all that lies in it */
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return;
        p->arrived = true;
        wh_unlock(&atomic_load_explicit(&p->inbox, memory_order_relaxed)->lock);
}

void wh_link_arrive(struct wh_link *l)
{
        wh_link_spend(l, WH_COST_FRAME);
        wh_lock(&l->o.lock);
        l->handed_on = l->came = false;
        l->end->renew(l);
        wh_unlock(&l->o.lock);
        if (l->in.lane && wh_ring_publish_taken(&l->in.lane->ring))
                wh_link_bell(l);
}
