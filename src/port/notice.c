#include "port/notice.h"

#include "base/trace.h"
#include "os/os.h"
#include "port/owned.h"
#include "port/places.h"
#include "port/port.h"
#include "task/why.h"
#include "wharf/message.h"

#include <errno.h>
#include <stdlib.h>

/* The port that `name` stands for, or NULL; task->notices is held, so its inbox stays. */
static struct wh_port *target(wharf_task *t, wharf_name name)
{
        struct wh_object *o = wh_table_find(&t->names, name);
        if (!o || o->kind != WHARF_KIND_PORT || atomic_load_explicit(&o->name, memory_order_relaxed) != name)
                return NULL;
        struct wh_port *p = (struct wh_port *)o;
        return atomic_load_explicit(&p->inbox, memory_order_relaxed) ? p : NULL;
}

struct wh_inbox *wh_notice_inbox(wharf_task *t, const struct wh_notice *n)
{
        wh_lock(&t->notices);
        struct wh_port *p = target(t, n->port);
        struct wh_inbox *in = p ? atomic_load_explicit(&p->inbox, memory_order_relaxed) : NULL;
        wh_unlock(&t->notices);
        return in;
}

static void due(wharf_task *t, wharf_name name, int by)
{
        struct wh_port *p = target(t, name);
        if (p)
                atomic_store_explicit(&p->notices_due,
                                      atomic_load_explicit(&p->notices_due, memory_order_relaxed) + (uint32_t)by,
                                      memory_order_relaxed);
}

static void wake(struct wh_inbox *in, bool on)
{
        wh_os_epoll_mod(in->ep, in->task->wake[1], on ? EPOLLIN : 0, wh_ep_tag(WH_EP_NOTICE, 0));
}

void wh_notices_wake(struct wh_inbox *in)
{
        wake(in, true);
}

struct wh_notice *wh_notice_new(wharf_task *t, uint32_t what, wharf_name about, wharf_name port)
{
        struct wh_notice *n = wh_os_calloc(1, sizeof *n);
        if (!n)
                return NULL;
        wh_list_init(&n->node);
        n->what = what;
        n->about = about;
        n->port = port;
        n->count = what == WHARF_NOTICE_ONCE_UNUSED;
        wh_lock(&t->notices);
        due(t, port, 1);
        wh_unlock(&t->notices);
        return n;
}

void wh_notice_done(wharf_task *t, struct wh_notice *n)
{
        wh_lock(&t->notices);
        due(t, n->port, -1);
        wh_unlock(&t->notices);
        free(n);
}

void wh_notice_free(wharf_task *t, struct wh_notice *n)
{
        if (!n)
                return;
        wh_lock(&t->notices);
        due(t, n->port, -1);
        struct wh_port *p = target(t, n->port);
        if (p) /* a thread that waits for nothing else learns that this will not come */
                wake(atomic_load_explicit(&p->inbox, memory_order_relaxed), true);
        wh_unlock(&t->notices);
        free(n);
}

void wh_notice_fire(wharf_task *t, struct wh_notice *n)
{
        wh_lock(&t->notices);
        struct wh_port *p = target(t, n->port);
        if (p) {
                struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
                wh_list_push_back(&in->fired, &n->node);
                wake(in, true);
        }
        wh_unlock(&t->notices);
        if (!p)
                free(n);
}

void wh_notices_take(struct wh_inbox *in)
{
        struct wh_list *n;
        wh_lock(&in->task->notices);
        while ((n = wh_list_pop_front(&in->fired)))
                wh_list_push_back(&in->notices, n);
        wake(in, false);
        wh_unlock(&in->task->notices);
        wh_places_look(in);
}

/* Those of `name` from one list to another, or nowhere. */
static void move_some(struct wh_list *from, struct wh_list *to, wharf_name name)
{
        wh_list_for_safe (n, from) {
                struct wh_notice *k = wh_container(n, struct wh_notice, node);
                if (k->port != name)
                        continue;
                wh_list_remove(n);
                if (to)
                        wh_list_push_back(to, n);
                else
                        free(k);
        }
}

void wh_notices_move(struct wh_port *p, wharf_name name, struct wh_inbox *to)
{
        wharf_task *t = p->task;
        struct wh_inbox *from = atomic_load_explicit(&p->inbox, memory_order_relaxed);
        wh_lock(&t->notices);
        move_some(&from->notices, to ? &to->notices : NULL, name);
        move_some(&from->fired, to ? &to->fired : NULL, name);
        if (to)
                wake(to, !wh_list_empty(&to->fired));
        /* [inbox] Release, pairs with the acquire in port_inbox_lock_any(). */
        atomic_store_explicit(&p->inbox, to, memory_order_release);
        wh_unlock(&t->notices);
}

static uint64_t count_unused(struct wh_list *in, wharf_name name)
{
        uint64_t n = 0;
        wh_list_for (at, in) {
                const struct wh_notice *k = wh_container(at, struct wh_notice, node);
                if (k->what == WHARF_NOTICE_ONCE_UNUSED && k->port == name)
                        n += k->count;
        }
        return n;
}

uint32_t wh_notices_unused(struct wh_port *p)
{
        wharf_name name = atomic_load_explicit(&p->o.name, memory_order_relaxed);
        struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
        wh_lock(&p->task->notices);
        uint64_t n = count_unused(&in->notices, name) + count_unused(&in->fired, name);
        wh_unlock(&p->task->notices);
        return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

/* ---- what there is to tell ---- */

/* Mach's rule: no send right is left, and as many were made as whoever asked knew of. Send-once rights do not count. */
static void check_senders(struct wh_port *p)
{
        struct wh_notice *n = p->no_senders;
        if (!n || p->n_links != p->n_once || p->made < p->no_senders_sync)
                return;
        p->no_senders = NULL;
        n->count = p->made;
        wh_notice_fire(p->task, n);
}

/* What it tells is so; or will never be. */
static void settle(struct wh_port *p, struct wh_notice **slot, bool is_so)
{
        struct wh_notice *n = *slot;
        *slot = NULL;
        if (n && is_so && !p->closing)
                wh_notice_fire(p->task, n);
        else
                wh_notice_free(p->task, n);
}

void wh_port_sender_gone(struct wh_port *p, struct wh_link *l)
{
        settle(p, &wh_owned(l)->once_notice, l->in.seq == 0);
        settle(p, &wh_owned(l)->gone_notice, true);
        check_senders(p);
}

int wh_notice_check(wharf_task *t, wharf_name name)
{
        int err;
        struct wh_port *p = wh_port_lock(t, name, &err);
        if (!p)
                return err;
        struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
        wh_unlock(&in->lock);
        return 0;
}

/* Asked for before, and its port is still there to get it. */
static bool pending(wharf_task *t, const struct wh_notice *n)
{
        if (!n)
                return false;
        wh_lock(&t->notices);
        bool there = target(t, n->port) != NULL;
        wh_unlock(&t->notices);
        return there;
}

int wh_notice_ask(wharf_task *t, struct wh_notice **slot, uint32_t what, wharf_name about, wharf_name port)
{
        if (pending(t, *slot))
                return -EBUSY;
        struct wh_notice *n = wh_notice_new(t, what, about, port);
        if (!n)
                return wh_trace(-ENOMEM);
        wh_notice_free(t, *slot);
        *slot = n;
        return 0;
}

int wh_no_senders_ask(wharf_task *t, wharf_name about, wharf_name port, uint64_t sync)
{
        int r = wh_notice_check(t, port);
        if (r < 0)
                return r;
        struct wh_port *p = wh_port_lock(t, about, &r);
        if (!p)
                return r;
        struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
        r = wh_notice_ask(t, &p->no_senders, WHARF_NOTICE_NO_SENDERS, about, port);
        if (r == 0) {
                p->no_senders_sync = sync;
                check_senders(p);
        }
        wh_unlock(&in->lock);
        return r;
}

int wh_no_senders_unask(wharf_task *t, wharf_name about, struct wh_notice **ret)
{
        int r;
        struct wh_port *p = wh_port_lock(t, about, &r);
        if (!p)
                return r;
        struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
        *ret = p->no_senders;
        p->no_senders = NULL;
        wh_unlock(&in->lock);
        return 0;
}
