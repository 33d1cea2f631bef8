/*
 * Rights that are watched: their sockets are in the epoll of the inbox that is to be told.
 */
#include "right/held.h"
#include "right/right.h"
#include "port/port.h"

#include "os/os.h"

#include <errno.h>

/* E3: reads what has come on a kept right's socket, a little at a time. True: that ends it. */
static bool kept_is_over(struct wh_link *l)
{
        l->in.budget = 8 * WH_COST_FRAME;
        l->in.sock_ready = true;
        if (wh_link_read(l, WH_UNTIL_EMPTY, 0) == WH_LINK_LATER)
                wh_watch_socket(l, true); /* there is more: an event again, and others have theirs before it */
        return l->over;
}

static void watch_event(struct wh_inbox *in, wharf_name name, uint32_t events)
{
        int err;
        struct wh_link *l = wh_holder_lock(in->task, name, &err);
        struct wh_held *h = wh_held(l);
        if (!l)
                return;
        bool over = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
        if (h->watch == in && l->kept && !over)
                over = kept_is_over(l);
        if (h->watch == in && over) {
                wh_watch_socket(l, false);
                h->watch = NULL;
                wh_list_push_back(&in->notices, &h->watch_notice->node);
                h->watch_notice = NULL;
        }
        bool room = l->out.room_asked;
        if (room)
                wh_room_event(l);
        wh_unlock(&l->o.lock);
        if (room)
                wh_notices_take(in); /* now, rather than with the next look */
}

int wh_watch_socket(struct wh_link *l, bool add)
{
        struct wh_inbox *in = wh_held(l)->watch;
        if (!add)
                wh_held(l)->watch = NULL;
        int r = wh_watch_update(l, in);
        wh_held(l)->watch = in;
        return r;
}

int wh_watch_update(struct wh_link *l, struct wh_inbox *in)
{
        uint32_t name = atomic_load_explicit(&l->o.name, memory_order_relaxed), events = 0;
        if (wh_held(l)->watch == in)
                events |= EPOLLRDHUP | EPOLLET | (l->kept ? EPOLLIN : 0);
        for (unsigned i = 0; i < WH_ROOM_NOTICES; i++)
                if (wh_held(l)->room[i].inbox == in)
                        events |= EPOLLIN | EPOLLRDHUP | EPOLLET;
        if (events == 0)
                return wh_os_epoll_del(in->ep, l->sock);
        int r = wh_os_epoll_mod(in->ep, l->sock, events, wh_ep_tag(WH_EP_WATCH, name));
        return r == -ENOENT ? wh_os_epoll_add(in->ep, l->sock, events, wh_ep_tag(WH_EP_WATCH, name)) : r;
}

/* All the task's names are gone through: this is seldom, and a list would need the inbox's lock where only the link's is held. */
struct watch_target {
        wharf_name port;
        struct wh_inbox *to;
};

static void watch_move(struct wh_object *o, void *arg)
{
        const struct watch_target *a = arg;
        struct wh_link *l = (struct wh_link *)o;
        struct wh_held *h = wh_held(l);
        if (o->kind != WHARF_KIND_SEND)
                return;
        wh_lock(&o->lock);
        if (h->watch && h->watch_port == a->port && atomic_load_explicit(&o->name, memory_order_relaxed)) {
                wh_watch_socket(l, false);
                h->watch = a->to;
                if (a->to) {
                        wh_watch_socket(l, true);
                } else {
                        wh_notice_free(l->task, h->watch_notice);
                        h->watch_notice = NULL;
                }
        }
        if (atomic_load_explicit(&o->name, memory_order_relaxed))
                wh_room_move(l, a->port, a->to);
        wh_unlock(&o->lock);
}

static void watches_move(struct wh_port *p, wharf_name name, struct wh_inbox *to)
{
        if (to)
                to->watches = p->watches;
        struct watch_target a = {name, to};
        wh_table_each(&p->task->names, watch_move, &a);
}

static const struct wh_watcher watcher = {.event = watch_event, .move = watches_move};

void wh_watches(struct wh_port *p)
{
        p->watches = p->inbox->watches = &watcher;
}
