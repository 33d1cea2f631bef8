/*
 * inlet - the ports that others send to this process at, each by its peer's name and by its own; and their ends (D2, D4).
 */
#include "names/direct/direct.h"

#include "port/port.h"

#include <errno.h>
#include <stdlib.h>

int wh_direct_is_drained(struct wharf_direct *d, wharf_name name)
{
        struct pollfd p = {.events = POLLIN};
        int r = wharf_port_fd(d->task, name, &p.fd);
        if (r == 0)
                r = wh_os_poll(&p, 1, 0);
        if (r != 0)
                return r == -EINTR || r > 0 ? 0 : r;
        struct wh_port *port = wh_port_lock(d->task, name, &r);
        if (!port)
                return r;
        bool none_waits = wh_list_empty(&port->waiting);
        wh_unlock(&port->inbox->lock);
        return none_waits;
}

struct inlet *wh_inlet_find(struct roll *inlets, const struct inlet *in, const char *name)
{
        struct rolled *e = wh_roll_find(inlets, name, in ? &in->e : NULL);
        return e ? wh_container(e, struct inlet, e) : NULL;
}

struct wh_list *wh_inlets_at(struct wharf_direct *d, wharf_name port)
{
        return &d->ports[(port ^ port >> 8) % WH_ROLL_BUCKETS];
}

struct inlet *wh_inlet_of(struct wharf_direct *d, wharf_name port)
{
        wh_list_for (pos, wh_inlets_at(d, port)) {
                struct inlet *in = wh_container(pos, struct inlet, by_port);
                if (in->port == port)
                        return in;
        }
        return NULL;
}

struct inlet *wh_inlet_next(struct wharf_direct *d, struct inlet *in)
{
        return d->n_following ? wh_inlet_find(&d->inlets, in, in->e.name) : NULL;
}

/* Out of the list, and its port dropped: which takes it out of the set, and its notice back. */
static void inlet_take_out(struct wharf_direct *d, struct inlet *in)
{
        struct inlet *next = wh_inlet_next(d, in);
        if (in->follows) {
                d->n_following--;
        } else if (next) {
                next->follows = d->placed = false;
                d->n_following--;
        }
        wharf_drop(d->task, in->port);
        if (d->before_at == &in->e.node)
                d->before_at = in->e.node.next;
        wh_roll_remove(&in->e);
        wh_list_remove(&in->by_port);
        d->n_inlets--;
        if (d->before_left > d->n_inlets)
                d->before_left = d->n_inlets;
}

void wh_inlet_gone_free(struct wharf_direct *d, struct inlet *in)
{
        wh_roll_remove(&in->e);
        d->n_inlets_gone--;
        free(in);
}

void wh_inlet_end(struct wharf_direct *d, struct inlet *in)
{
        struct inlet *next = wh_inlet_next(d, in);
        bool told = in->follows || (next && next->id == in->id);
        inlet_take_out(d, in);
        if (told) {
                free(in);
                return;
        }
        struct inlet *last = wh_inlet_find(&d->inlets_gone, NULL, in->e.name);
        if (last) { /* one end of each name is told of, and this is the later one */
                wh_known_told(d, last->e.name, last->id);
                wh_inlet_gone_free(d, last);
        }
        wh_roll_push(&d->inlets_gone, &in->e);
        if (++d->n_inlets_gone > GONE_MAX)
                wh_inlet_gone_free(d, wh_container(d->inlets_gone.all.next, struct inlet, e.node));
}
