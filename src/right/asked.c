/*
 * asked - what a right was asked to tell: that its port died, that there is room, that a message left behind went in.
 *
 * One slot for each. While a slot is armed the link's socket is in the epoll of the inbox that its notice goes to; what
 * comes there for room is looked at in room.c.
 */
#include "port/port.h"
#include "right/held.h"
#include "right/right.h"
#include "task/why.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>

int wh_asked_watch(struct wh_link *l, struct wh_inbox *in)
{
        const uint32_t name = atomic_load_explicit(&l->o.name, memory_order_relaxed);
        uint32_t events = 0;
        for (unsigned i = 0; i < WH_ASKED; i++)
                if (wh_held(l)->asked[i].inbox == in)
                        events |= EPOLLRDHUP | EPOLLET | (i != WH_ASKED_DEAD || l->kept ? EPOLLIN : 0);
        wh_list_for (n, &wh_held(l)->told)
                if (wh_container(n, struct wh_told, node)->inbox == in)
                        events |= EPOLLRDHUP | EPOLLET | EPOLLIN;
        if (events == 0)
                return wh_os_epoll_del(in->ep, l->sock);
        int r = wh_os_epoll_mod(in->ep, l->sock, events, wh_ep_tag(WH_EP_WATCH, name));
        return r == -ENOENT ? wh_os_epoll_add(in->ep, l->sock, events, wh_ep_tag(WH_EP_WATCH, name)) : r;
}

int wh_asked_arm(struct wh_link *l, struct wh_asked *a)
{
        if (!a->notice || a->inbox)
                return 0;
        a->inbox = wh_notice_inbox(l->task, a->notice);
        if (!a->inbox)
                return 0; /* its port was just closed, and the notice goes with it */
        int r = wh_asked_watch(l, a->inbox);
        if (r < 0)
                a->inbox = NULL;
        l->out.room_asked = wh_room_armed(l);
        return r;
}

struct wh_notice *wh_asked_end(struct wh_link *l, struct wh_asked *a)
{
        struct wh_inbox *in = a->inbox;
        struct wh_notice *n = a->notice;
        a->inbox = NULL;
        a->notice = NULL;
        if (in)
                wh_asked_watch(l, in);
        return n;
}

void wh_asked_fire(struct wh_link *l, struct wh_asked *a)
{
        wh_notice_fire(l->task, wh_asked_end(l, a));
}

void wh_asked_forget(struct wh_link *l)
{
        for (unsigned i = 0; i < WH_ASKED; i++)
                wh_notice_free(l->task, wh_asked_end(l, &wh_held(l)->asked[i]));
        l->out.room_asked = false;
}

/* ---- what comes ---- */

/* kept.E3: reads what has come on a kept right's socket, a little at a time. True: that ends it. */
static bool kept_is_over(struct wh_link *l, struct wh_inbox *in)
{
        l->in.budget = 8 * WH_COST_FRAME;
        l->in.sock_ready = true;
        if (wh_link_read(l, WH_UNTIL_EMPTY, 0) == WH_LINK_LATER)
                wh_asked_watch(l, in); /* there is more: an event again, and others have theirs before it */
        return l->over;
}

bool wh_asked_hung_up(const struct wh_link *l)
{
        struct pollfd p = {.fd = l->sock, .events = POLLRDHUP};
        return wh_os_poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLHUP | POLLERR);
}

static void watch_event(struct wh_inbox *in, wharf_name name, uint32_t events)
{
        int err;
        struct wh_link *l = wh_holder_lock(in->task, name, &err);
        if (!l)
                return;
        struct wh_asked *dead = &wh_held(l)->asked[WH_ASKED_DEAD];
        const bool hung_up = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR), room = l->out.room_asked;
        const bool over = dead->inbox == in && ((hung_up && wh_asked_hung_up(l)) || (l->kept && kept_is_over(l, in)));
        if (over)
                wh_asked_fire(l, dead);
        if (room)
                wh_room_event(l);
        const bool told = wh_is_told(l);
        if (told)
                wh_told_event(l, hung_up);
        wh_unlock(&l->o.lock);
        if (over || room || told)
                wh_notices_take(in); /* now, rather than with the next look */
}

/* All the task's names are gone through: this is seldom, and a list would need the inbox's lock where only the link's is held. */
struct watch_target {
        wharf_name port;
        struct wh_inbox *to;
};

static void watch_move(struct wh_object *o, void *arg)
{
        const struct watch_target *target = arg;
        struct wh_link *l = (struct wh_link *)o;
        if (o->kind != WHARF_KIND_SEND)
                return;
        wh_lock(&o->lock);
        for (unsigned i = 0; i < WH_ASKED && atomic_load_explicit(&o->name, memory_order_relaxed); i++) {
                struct wh_asked *a = &wh_held(l)->asked[i];
                if (!a->notice || a->port != target->port)
                        continue;
                const bool was = a->inbox != NULL;
                struct wh_notice *n = wh_asked_end(l, a);
                if (!target->to) {
                        wh_notice_free(l->task, n);
                        continue;
                }
                a->notice = n;
                if (was) {
                        a->inbox = target->to;
                        wh_asked_watch(l, target->to);
                }
        }
        l->out.room_asked = wh_room_armed(l);
        if (atomic_load_explicit(&o->name, memory_order_relaxed) && wh_is_told(l))
                wh_told_move(l, target->port, target->to);
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

/* ---- asking ---- */

int wh_told_port(wharf_task *t, wharf_name port)
{
        int err;
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return err;
        struct wh_inbox *in = p->inbox;
        p->watches = in->watches = &watcher;
        wh_unlock(&in->lock);
        return 0;
}

static struct wh_asked *asked_of(struct wh_link *l, uint32_t what)
{
        return &wh_held(l)->asked[what == WHARF_NOTICE_DEAD_NAME    ? WH_ASKED_DEAD
                                  : what == WHARF_NOTICE_SENT_LATER ? WH_ASKED_LATER
                                                                    : WH_ASKED_POSSIBLE];
}

/* The link is locked, and so is the inbox of `port`. */
static int ask(struct wh_link *l, uint32_t what, wharf_name right, wharf_name port)
{
        struct wh_asked *a = asked_of(l, what);
        if (l->once && what != WHARF_NOTICE_DEAD_NAME)
                return -EPERM;
        if (what == WHARF_NOTICE_SEND_POSSIBLE && l->hello.capacity_records == WHARF_RENDEZVOUS)
                return wh_fail(-EINVAL, "the port's capacity is zero: there never is room");
        if (a->notice)
                return -EBUSY;
        if (!(a->notice = wh_notice_new(l->task, what, right, port)))
                return wh_trace(-ENOMEM);
        a->port = port;
        wh_room_tell(l);
        if (!a->notice || (what == WHARF_NOTICE_SENT_LATER && !l->out.later))
                return 0;
        int r = wh_asked_arm(l, a); /* dead already: this is an event at once */
        if (r == 0)
                wh_room_settle(l);
        else
                wh_notice_free(l->task, wh_asked_end(l, a));
        return r;
}

int wh_right_ask(wharf_task *t, uint32_t what, wharf_name right, wharf_name port)
{
        int err;
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return err;
        struct wh_inbox *in = p->inbox;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        p->watches = in->watches = &watcher;
        int r = l ? ask(l, what, right, port) : err;
        if (l)
                wh_unlock(&l->o.lock);
        wh_unlock(&in->lock);
        return r;
}

int wh_right_unask(wharf_task *t, uint32_t what, wharf_name right, struct wh_notice **ret)
{
        int err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return err;
        *ret = wh_asked_end(l, asked_of(l, what));
        wh_room_settle(l);
        wh_unlock(&l->o.lock);
        return 0;
}
