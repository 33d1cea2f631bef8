/*
 * told - calls whose end is told at a port of the caller's, so that no thread waits for them.
 *
 * Always true, with the link's lock free:
 *   U1  A call that has a notice has not ended. One that ends fires it, in wh_call_end(). Fired before, it says -EAGAIN.
 *   U2  Where there are such calls, and no thread leads (holder.c), what comes for them rings: the link's socket, and that of a
 *       reply that was passed on, are in the epoll of the inbox that the notice goes to, and the lane was announced to be
 *       unwatched after it was last seen empty.
 */
#include "right/calls.h"
#include "right/held.h"
#include "right/right.h"

#include "os/os.h"
#include "port/port.h"

#include <errno.h>

#define EVENTS (EPOLLIN | EPOLLRDHUP | EPOLLET)

static uint64_t tag_of(const struct wh_link *l)
{
        return wh_ep_tag(WH_EP_WATCH, atomic_load_explicit(&l->o.name, memory_order_relaxed));
}

void wh_told_via(struct wh_link *l, struct wh_call *c, bool add)
{
        if (!c->inbox || c->via < 0)
                return;
        if (!add)
                wh_os_epoll_del(c->inbox->ep, c->via); /* before it is closed: a copy elsewhere would keep it firing */
        else if (wh_os_epoll_add(c->inbox->ep, c->via, EVENTS, tag_of(l)) < 0)
                wh_told_fire(l, c); /* it cannot be heard, and is told of as -EAGAIN: whoever finishes it waits */
}

int wh_told_begin(struct wh_link *l, struct wh_call *c, struct wh_notice *n, wharf_name port)
{
        c->inbox = wh_notice_inbox(l->task, n);
        if (!c->inbox)
                return -EBADF; /* it was just closed */
        int r = wh_asked_watch(l, c->inbox);
        if (r < 0) {
                c->inbox = NULL;
                return r;
        }
        n->call = c->number;
        c->notice = n;
        c->port = port;
        wh_held(l)->n_told++;
        return 0;
}

/* Its notice, which it has no more. */
static struct wh_notice *end(struct wh_link *l, struct wh_call *c)
{
        struct wh_notice *n = c->notice;
        struct wh_inbox *in = c->inbox;
        if (!n)
                return NULL;
        wh_told_via(l, c, false);
        c->notice = NULL;
        c->inbox = NULL;
        wh_held(l)->n_told--;
        if (in)
                wh_asked_watch(l, in);
        return n;
}

void wh_told_fire(struct wh_link *l, struct wh_call *c)
{
        struct wh_notice *n = end(l, c);
        if (!n)
                return;
        n->error = c->done ? c->result : -EAGAIN;
        wh_notice_fire(l->task, n);
}

void wh_told_forget(struct wh_link *l, struct wh_call *c)
{
        wh_notice_free(l->task, end(l, c));
}

/* The link is over: those whose reply does not come by another socket have ended. */
static void end_all(struct wh_link *l)
{
        wh_list_for (n, &wh_held(l)->calls) {
                struct wh_call *c = wh_container(n, struct wh_call, node);
                if (c->notice && !c->done && (c->via < 0 || l->over != -EPIPE))
                        wh_call_end(l, c, wh_call_link_error(l));
        }
}

/* So that epoll tells again of what was left. */
static void again(struct wh_link *l)
{
        wh_list_for (n, &wh_held(l)->calls) {
                struct wh_call *c = wh_container(n, struct wh_call, node);
                if (!c->inbox)
                        continue;
                wh_asked_watch(l, c->inbox);
                if (c->via >= 0)
                        wh_os_epoll_mod(c->inbox->ep, c->via, EVENTS, tag_of(l));
        }
}

void wh_told_arm(struct wh_link *l)
{
        enum { LOOKS = 4 };
        for (int i = 0; wh_held(l)->n_told && !l->in.leader; i++) {
                if (l->in.lane && wh_ring_sleep(&l->in.lane->ring))
                        wh_link_bell(l);
                if (l->over)
                        end_all(l);
                if (!wh_reply_there(l))
                        return;
                if (i == LOOKS || !wh_calls_file(l)) {
                        again(l);
                        return;
                }
        }
}

void wh_told_event(struct wh_link *l, bool hung_up)
{
        if (l->in.leader)
                return; /* it reads for all */
        if (hung_up) {  /* or the socket of a reply that was passed on did */
                struct pollfd p = {.fd = l->sock};
                if (wh_os_poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLERR))
                        wh_link_hung_up(l);
        }
        l->in.sock_ready = true;
        l->in.arms = UINT32_MAX / 2; /* the doorbell must be read */
        l->in.budget = WH_BUDGET_TURN / 4;
        const int short_of = wh_calls_read_vias(l);
        if (!wh_calls_file(l) || short_of || l->in.budget == 0)
                again(l);
        wh_told_arm(l);
}

void wh_told_move(struct wh_link *l, wharf_name port, struct wh_inbox *to)
{
        wh_list_for (k, &wh_held(l)->calls) {
                struct wh_call *c = wh_container(k, struct wh_call, node);
                if (!c->notice || c->port != port)
                        continue;
                struct wh_notice *n = end(l, c);
                if (!to) {
                        wh_notice_free(l->task, n);
                        continue;
                }
                c->notice = n;
                c->inbox = to;
                wh_held(l)->n_told++;
                wh_asked_watch(l, to);
                wh_told_via(l, c, true);
        }
}

int wh_told_watch(struct wh_link *l, int sock, bool add)
{
        int r = 0;
        wh_list_for (n, &wh_held(l)->calls) {
                struct wh_call *c = wh_container(n, struct wh_call, node);
                if (!c->inbox)
                        continue;
                if (!add)
                        wh_os_epoll_del(c->inbox->ep, sock);
                else if ((r = wh_os_epoll_add(c->inbox->ep, sock, EVENTS, tag_of(l))) < 0 && r != -EEXIST)
                        return r;
        }
        return 0;
}
