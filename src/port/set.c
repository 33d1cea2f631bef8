/*
 * Sets: ports that are received from together. A port in a set has its links in the set's inbox.
 */
#include "port/owned.h"
#include "port/port.h"

#include "base/trace.h"
#include "os/os.h"
#include "port/places.h"
#include "task/why.h"

#include <errno.h>
#include <stddef.h>

/* Move a port, with its links, from one inbox to another; both are locked. On failure it stays where it is. */
static int port_move(struct wh_port *p, struct wh_inbox *from, struct wh_inbox *to)
{
        int r = p->listen_fd >= 0
                        ? wh_os_epoll_add(to->ep, p->listen_fd, EPOLLIN | EPOLLET, wh_ep_tag(WH_EP_LISTEN, p->o.name))
                        : 0;
        struct wh_list *stop = &p->links;
        wh_list_for (n, &p->links) {
                struct wh_link *l = &wh_container(n, struct wh_owned, in_port)->link;
                if (r < 0 || (r = wh_os_epoll_add(to->ep, l->sock, EPOLLIN | EPOLLRDHUP | EPOLLET,
                                                  wh_ep_tag(WH_EP_LINK, l->o.name))) < 0) {
                        stop = n;
                        break;
                }
        }
        struct wh_inbox *out = r < 0 ? to : from; /* whose entries go */
        for (struct wh_list *n = p->links.next; n != stop; n = n->next) {
                struct wh_link *l = &wh_container(n, struct wh_owned, in_port)->link;
                wh_os_epoll_del(out->ep, l->sock);
                if (r < 0)
                        continue;
                if (!l->in.waits)
                        wh_list_remove(&wh_owned(l)->hot);
                wh_owned(l)->inbox = to;
                l->in.sock_ready = true;
                wh_inbox_heat(to, l);
        }
        if (p->listen_fd >= 0)
                wh_os_epoll_del(out->ep, p->listen_fd);
        if (r < 0)
                return r;
        if (from == &p->own)
                wh_lingering_move(from, to); /* nobody hears of them where they were */
        if (from->direct && wh_owned(from->direct)->port == p) {
                wh_link_privatise(from->direct); /* out of the buffer of a receive that ends, or goes on without it */
                from->direct = NULL;
        }
        if (from->unfit && wh_owned(from->unfit)->port == p)
                from->unfit = NULL;
        wh_list_remove(&p->in_inbox);
        wh_list_push_back(&to->ports, &p->in_inbox);
        if (p->at_door >= 0)
                to->at_door = to->accepts_owed = to->accepts_more = true;
        wh_notices_move(p, p->o.name, to);
        wh_places_look(to); /* what was freed until now was told where it came from */
        wh_port_links_changed(p);
        if (p->watches)
                p->watches->move(p, p->o.name, to);
        wh_inbox_wake_all(from);
        wh_inbox_wake_all(to);
        return 0;
}

WHARF_API int wharf_set_new(wharf_task *t, wharf_name *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        struct wh_set *s = wh_task_take(t, WHARF_KIND_SET, sizeof *s, offsetof(struct wh_set, inbox.task));
        if (!s)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        int r = wh_inbox_init(&s->inbox, t);
        if (r == 0 && (r = wh_table_add(&t->names, &s->o)) < 0)
                wh_inbox_done(&s->inbox);
        if (r < 0) {
                wh_task_give(t, &s->o);
                return wh_fail(r, NULL);
        }
        *ret = s->inbox.name = atomic_load_explicit(&s->o.name, memory_order_relaxed);
        return 0;
}

/* Two inboxes, locked in the order of their addresses so that nobody waits in a circle. */
static void lock_two(struct wh_inbox *a, struct wh_inbox *b)
{
        wh_lock(a < b ? &a->lock : &b->lock);
        wh_lock(a < b ? &b->lock : &a->lock);
}

int wh_set_change(wharf_task *t, wharf_name set, wharf_name port, bool add)
{
        if (!wh_task_ours(t))
                return -ESTALE;
        struct wh_object *so = wh_table_find(&t->names, set), *po = wh_table_find(&t->names, port);
        if (!so || !po || atomic_load_explicit(&so->name, memory_order_relaxed) != set ||
            atomic_load_explicit(&po->name, memory_order_relaxed) != port)
                return -EBADF;
        if (so->kind != WHARF_KIND_SET || po->kind != WHARF_KIND_PORT)
                return -EPERM;
        struct wh_set *s = (struct wh_set *)so;
        struct wh_port *p = (struct wh_port *)po;
        lock_two(&s->inbox, &p->own);
        int r;
        if (atomic_load_explicit(&so->name, memory_order_relaxed) != set ||
            atomic_load_explicit(&po->name, memory_order_relaxed) != port || s->closing ||
            p->closing == WH_PORT_CLOSING)
                r = -EBADF;
        else if (p->closing)
                r = -EBUSY;
        else if (add)
                r = p->inbox != &p->own ? -EBUSY : port_move(p, &p->own, &s->inbox);
        else
                r = p->inbox != &s->inbox ? -ENOENT : port_move(p, &s->inbox, &p->own);
        wh_unlock(&s->inbox.lock);
        wh_unlock(&p->own.lock);
        return r;
}

/* Which of the two names it was. */
static int set_fail(wharf_task *t, int err, wharf_name set, wharf_name port)
{
        if (err == -EBADF || err == -EPERM) {
                int kind = wharf_name_kind(t, set);
                return wh_fail_at(t, err, kind == WHARF_KIND_SET ? port : set);
        }
        return wh_fail(err, NULL);
}

WHARF_API int wharf_set_add(wharf_task *t, wharf_name set, wharf_name port)
{
        int r = wh_set_change(t, set, port, true);
        return r == -EBUSY ? wh_fail(r, "port %u is in a set already, or on its way to another task", port)
                           : set_fail(t, r, set, port);
}

WHARF_API int wharf_set_remove(wharf_task *t, wharf_name set, wharf_name port)
{
        int r = wh_set_change(t, set, port, false);
        return r == -ENOENT  ? wh_fail(r, "port %u is not in set %u", port, set)
               : r == -EBUSY ? wh_fail(r, "port %u is on its way to another task", port)
                             : set_fail(t, r, set, port);
}

int wh_set_drop(wharf_task *t, struct wh_object *o, wharf_name name)
{
        struct wh_set *s = (struct wh_set *)o;
        wh_lock(&s->inbox.lock);
        bool mine = atomic_load_explicit(&o->name, memory_order_relaxed) == name && !s->closing;
        if (mine)
                s->closing = true; /* who waits here is told so, and not that no sender is left */
        wh_unlock(&s->inbox.lock);
        if (!mine)
                return -EBADF;
        for (;;) {
                wh_lock(&s->inbox.lock);
                if (wh_list_empty(&s->inbox.ports))
                        break;
                struct wh_port *p = wh_container(s->inbox.ports.next, struct wh_port, in_inbox);
                wh_unlock(&s->inbox.lock);
                lock_two(&s->inbox, &p->own);
                int r = atomic_load_explicit(&p->inbox, memory_order_relaxed) == &s->inbox
                                ? port_move(p, &s->inbox, &p->own)
                                : 0;
                if (r < 0)
                        s->closing = false;
                wh_unlock(&s->inbox.lock);
                wh_unlock(&p->own.lock);
                if (r < 0)
                        return r;
        }
        wh_table_remove(&t->names, o);
        wh_inbox_expel(&s->inbox);
        wh_unlock(&s->inbox.lock);
        wh_inbox_done(&s->inbox);
        wh_task_give(t, o);
        return 0;
}
