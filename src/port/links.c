/*
 * The links of a port: they come, they are counted, and they go.
 */
#include "port/owned.h"
#include "port/port.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"
#include "port/branch.h"
#include "port/places.h"

#include <errno.h>

/* One more link of that user, in the task and at the port. */
static int link_charge(struct wh_port *p, struct wh_link *l, bool force)
{
        struct wh_owned *o = wh_owned(l);
        int r = wh_bill_charge(&o->bill, WH_SHARE_TASK_LINKS, 1, force);
        if (r == -EDQUOT) {
                wh_places_limits(p->task);
                wh_lingering_settle(p->task);
                r = wh_bill_charge(&o->bill, WH_SHARE_TASK_LINKS, 1, force);
        }
        p->links_refused_for = r == -EDQUOT ? WH_REFUSAL_TASK_LINKS : WH_REFUSAL_LINKS;
        if (r == 0 && !o->directory && !o->waiting_room && (r = wh_bill_charge(&o->bill, WH_SHARE_LINKS, 1, force)) < 0)
                wh_bill_close(&o->bill);
        return r;
}

enum adding { A_SENDER, A_DIRECTORY, ONE_THAT_WAITS };

static int add_link(struct wh_port *p, int sock, uid_t payer, bool force, enum adding what, struct wh_link **ret)
{
        wharf_task *t = p->task;
        struct wh_owned *o = wh_owned_new(t, sock);
        if (!o)
                return wh_trace(-ENOMEM);
        struct wh_link *l = &o->link;
        o->directory = what == A_DIRECTORY;
        o->waiting_room = what == ONE_THAT_WAITS;
        int r = wh_port_take_link(p, l, payer, force);
        if (r < 0) {
                l->sock = -1;
                wh_task_give(t, &l->o);
                return r;
        }
        *ret = l;
        return 0;
}

int wh_port_add_link(struct wh_port *p, int sock, uid_t payer, bool force, struct wh_link **ret)
{
        if (wh_port_places(p) >= p->opts.links_max)
                return -EMLINK;
        return add_link(p, sock, payer, force, A_SENDER, ret);
}

int wh_port_add_directory(struct wh_port *p, int sock, struct wh_link **ret)
{
        return add_link(p, sock, p->task->accounts.self, true, A_DIRECTORY, ret);
}

int wh_port_add_waiting(struct wh_port *p, int sock, uid_t payer, struct wh_link **ret)
{
        return add_link(p, sock, payer, false, ONE_THAT_WAITS, ret);
}

int wh_port_take_link(struct wh_port *p, struct wh_link *l, uid_t payer, bool force)
{
        struct wh_owned *o = wh_owned(l);
        wharf_task *t = p->task;
        struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
        o->port = p;
        o->inbox = in;
        wh_bill_open(&o->bill, &t->accounts, &p->accounts, payer);
        o->bill.kept_max = p->opts.link_reply_bytes_max;
        o->bill.answers_max = p->opts.link_answers_max;
        wh_port_hello(p, &l->hello); /* for the limit of a payload, and the port's id */
        l->movable = !(p->opts.flags & WHARF_PORT_FIXED);
        l->takes_direct = p->opts.flags & WHARF_PORT_DIRECT;
        int on = 1;
        bool charged = false;
        int r = wh_table_add(&t->links, &l->o);
        if (r == 0 && (r = link_charge(p, l, force)) < 0)
                wh_table_remove(&t->links, &l->o);
        if (r == 0) {
                charged = true;
                const uint32_t name = atomic_load_explicit(&l->o.name, memory_order_relaxed);
                l->who.id = wh_sender_id(t, name);
                r = wh_os_setsockopt(l->sock, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
                if (r == 0)
                        r = wh_os_epoll_add(in->ep, l->sock, EPOLLIN | EPOLLRDHUP | EPOLLET,
                                            wh_ep_tag(WH_EP_LINK, name));
                if (r < 0)
                        wh_table_remove(&t->links, &l->o);
        }
        if (r < 0 && charged)
                wh_bill_close(&o->bill);
        if (r == -ENOSPC || r == -ENOBUFS) /* of what the kernel keeps for watching it: later, as any memory */
                r = -ENOMEM;
        if (r < 0)
                return wh_trace(r);
        wh_list_push_back(&p->links, &o->in_port);
        p->n_links++;
        p->n_directory += o->directory;
        p->n_waiting_room += o->waiting_room;
        wh_port_links_changed(p);
        return 0;
}

void wh_link_unref(struct wh_link *l)
{
        if (!wh_ref_drop(&wh_owned(l)->refs))
                return;
        wharf_task *t = l->task;
        wh_table_remove(&t->links, &l->o);
        wh_owned_done(wh_owned(l));
        wh_task_give(t, &l->o);
}

struct wh_link *wh_port_sender(const struct wh_port *p, uint64_t id)
{
        struct wh_link *l = (struct wh_link *)wh_table_find(&p->task->links, (uint32_t)id);
        return l && wh_owned(l)->port == p && l->who.id == id ? l : NULL;
}

void wh_port_remove_link(struct wh_link *l)
{
        struct wh_owned *o = wh_owned(l);
        struct wh_port *p = o->port;
        struct wh_inbox *in = o->inbox;
        if (wh_unlikely(l->came && p->arrived))
                l->handed_on = false; /* nobody else has it any more */
        wh_place_leave(l);
        wh_link_spend(l, o->mapped / WH_COST_MAPPED); /* unmapped below, where nothing in it is held */
        wh_list_remove(&o->in_port);
        wh_list_remove(&o->hot);
        p->n_links--;
        p->n_once -= l->once;
        p->n_directory -= o->directory;
        p->mapped -= o->mapped;
        wh_bill_close(&o->bill);
        o->mapped = o->stash_held = 0;
        wh_items_done(&l->in.items); /* what else goes with the link follows below */
        wh_port_links_changed(p);
        if (l->over && l->over != -EPIPE)
                p->refused++;
        if (in->direct == l)
                in->direct = NULL;
        if (in->unfit == l)
                in->unfit = NULL;
        wh_link_end(l, -EPIPE);
        wh_lock(&l->o.lock);
        wh_os_epoll_del(in->ep, l->sock); /* before it is closed: a copy elsewhere would keep it firing */
        struct wh_lingering *kept;
        (void)wh_end_keep(l, true, &kept); /* its own place has just become free */
        wh_end_over(l, wh_link_end_how(l), kept);
        l->sock = -1;
        l->out.over = -EPIPE;
        wh_link_let_go(l); /* now, and not with the last reply right: nobody is charged for it any more */
        wh_unlock(&l->o.lock);
        o->port = NULL;
        l->movable = false;
        wh_branch_leave(l);
        wh_port_sender_gone(p, l);
        wh_link_unref(l);
        wh_place_freed(p);
        if (in->waiters)
                wh_inbox_turn(in); /* one of them may receive from this sender alone, and nothing else would tell it */
}

/* As many as have a death each in one budget. */
enum { REAP_LOOKS = WH_BUDGET / WH_COST_FRAME / WH_INBOX_EVENTS };

void wh_port_reap(struct wh_port *p)
{
        struct wh_inbox *inbox = atomic_load_explicit(&p->inbox, memory_order_relaxed);
        /* Many at a time, since each time costs a look at all links; and no more than there is a budget for. */
        for (unsigned i = 0; wh_inbox_look(inbox) == WH_INBOX_EVENTS && i < REAP_LOOKS; i++)
                ;
        /* What epoll told us it tells nobody else: neither the thread that sleeps there, nor who polls it (P3). */
        wh_inbox_wake_all(inbox);
        if (inbox->pollable)
                wh_inbox_bell(inbox, true);
        inbox->budget = WH_BUDGET;
        wh_list_for_safe (n, &p->links) {
                struct wh_link *l = &wh_container(n, struct wh_owned, in_port)->link;
                struct wh_incoming in = {0};
                if (!l->in.hung_up || wh_link_next(l, &in) >= 0 || !l->over)
                        continue;
                const uint32_t left = inbox->budget; /* for finding the others: somebody waits for their places */
                wh_port_remove_link(l);
                inbox->budget = left;
        }
}
