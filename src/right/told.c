/*
 * told - calls whose end is told at a port of the caller's, so that no thread waits for them.
 *
 * Always true, with the link's lock free:
 *   U1  A call that has a notice has not ended. One that ends fires it, in wh_call_end(); what is fired before, because its reply
 *       cannot be heard of or read, has an error after which the call is still outstanding.
 *   U2  Where there are such calls, and no thread leads (holder.c), what comes for them rings: the link's socket, and that of a
 *       reply that was passed on, are in the epoll of the inbox that the notice goes to, and the lane was announced to be
 *       unwatched after it was last seen empty. So whoever has read the link looks once more before it is unlocked, since what it
 *       read rings no more.
 *   U3  An inbox is in held->told for as long as a call is told there, once.
 */
#include "right/calls.h"
#include "right/held.h"
#include "right/right.h"

#include "base/trace.h"
#include "os/os.h"
#include "port/port.h"

#include <errno.h>
#include <stdlib.h>

#define EVENTS (EPOLLIN | EPOLLRDHUP | EPOLLET)

static uint64_t tag_of(const struct wh_link *l)
{
        return wh_ep_tag(WH_EP_WATCH, atomic_load_explicit(&l->o.name, memory_order_relaxed));
}

/* One more call is told at that inbox. */
static int join(struct wh_link *l, struct wh_call *c, struct wh_inbox *in)
{
        struct wh_list *all = &wh_held(l)->told;
        struct wh_told *t = NULL;
        wh_list_for (n, all)
                if (wh_container(n, struct wh_told, node)->inbox == in)
                        t = wh_container(n, struct wh_told, node);
        if (!t) {
                if (!(t = wh_os_calloc(1, sizeof *t)))
                        return wh_trace(-ENOMEM);
                t->inbox = in;
                wh_list_push_back(all, &t->node);
                const int r = wh_asked_watch(l, in);
                if (r < 0) {
                        wh_list_remove(&t->node);
                        free(t);
                        return r;
                }
        }
        t->n++;
        c->told = t;
        return 0;
}

static void leave(struct wh_link *l, struct wh_call *c)
{
        struct wh_told *t = c->told;
        c->told = NULL;
        if (!t || --t->n)
                return;
        wh_list_remove(&t->node);
        wh_asked_watch(l, t->inbox);
        free(t);
}

void wh_told_via(struct wh_link *l, struct wh_call *c, bool add)
{
        if (!c->told || c->via < 0)
                return;
        if (!add)
                wh_os_epoll_del(c->told->inbox->ep,
                                c->via); /* before it is closed: a copy elsewhere would keep it firing */
        else if (wh_os_epoll_add(c->told->inbox->ep, c->via, EVENTS, tag_of(l)) < 0)
                wh_told_fire(l, c, -EAGAIN); /* whoever finishes it waits */
}

int wh_told_begin(struct wh_link *l, struct wh_call *c, struct wh_notice *n, wharf_name port)
{
        struct wh_inbox *in = wh_notice_inbox(l->task, n);
        const int r = in ? join(l, c, in) : -EBADF; /* it was just closed */
        if (r < 0)
                return r;
        n->call = c->number;
        c->notice = n;
        c->port = port;
        return 0;
}

/* Its notice, which it has no more. */
static struct wh_notice *end(struct wh_link *l, struct wh_call *c)
{
        struct wh_notice *n = c->notice;
        if (!n)
                return NULL;
        wh_told_via(l, c, false);
        c->notice = NULL;
        leave(l, c);
        return n;
}

void wh_told_fire(struct wh_link *l, struct wh_call *c, int error)
{
        struct wh_notice *n = end(l, c);
        if (!n)
                return;
        n->error = error;
        wh_notice_fire(l->task, n);
}

void wh_told_forget(struct wh_link *l, struct wh_call *c)
{
        wh_notice_free(l->task, end(l, c));
}

/* Each of them, until the last is gone: the link is over, or what comes next cannot be read for `err`. */
static void end_all(struct wh_link *l, int err)
{
        wh_list_for (n, &wh_held(l)->calls) {
                struct wh_call *c = wh_container(n, struct wh_call, node);
                if (!c->notice || c->done)
                        continue;
                if (err)
                        wh_told_fire(l, c, err);
                else if (c->via < 0 || l->over != -EPIPE) /* otherwise its reply comes by another socket */
                        wh_call_end(l, c, wh_call_link_error(l));
        }
}

/*
 * So that epoll tells again of what was left. A link that can be written to is an event as well, since what was left may lie in the
 * lane, of which the socket says nothing.
 */
static void again(struct wh_link *l)
{
        wh_list_for (n, &wh_held(l)->told) {
                const struct wh_told *t = wh_container(n, struct wh_told, node);
                wh_os_epoll_mod(t->inbox->ep, l->sock, EVENTS | EPOLLOUT, tag_of(l));
        }
}

static void vias_again(struct wh_link *l)
{
        wh_list_for (n, &wh_held(l)->calls) {
                const struct wh_call *c = wh_container(n, struct wh_call, node);
                if (c->told && c->via >= 0)
                        wh_os_epoll_mod(c->told->inbox->ep, c->via, EVENTS, tag_of(l));
        }
}

void wh_told_arm(struct wh_link *l)
{
        enum { LOOKS = 4 };
        for (int i = 0; wh_is_told(l) && !l->in.leader; i++) {
                if (l->in.lane && wh_ring_sleep(&l->in.lane->ring))
                        wh_link_bell(l);
                if (l->over)
                        end_all(l, 0);
                if (l->over || !wh_reply_there(l))
                        return;
                const int r = i < LOOKS ? wh_calls_file(l) : WH_LINK_LATER;
                if (r == WH_LINK_LATER)
                        again(l);
                else if (r < 0)
                        end_all(l, r);
                if (r < 0)
                        return;
        }
}

void wh_told_event(struct wh_link *l, bool hung_up)
{
        if (l->in.leader)
                return; /* it reads for all */
        if (hung_up && wh_asked_hung_up(l))
                wh_link_hung_up(l);
        l->in.sock_ready = true;
        l->in.arms = UINT32_MAX / 2; /* the doorbell must be read */
        l->in.budget = WH_BUDGET_TURN / 4;
        int r = wh_calls_file(l);
        if (r == 0)
                r = wh_calls_read_vias(l); /* and those that have just come */
        if (r == WH_LINK_LATER || (r == 0 && l->in.budget == 0)) {
                again(l);
                vias_again(l);
        } else if (r < 0) {
                end_all(l, r);
        }
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
                if (join(l, c, to) < 0)
                        wh_told_fire(l, c, -EAGAIN);
                else
                        wh_told_via(l, c, true);
        }
}
