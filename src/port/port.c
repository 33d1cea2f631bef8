#include "port/port.h"

#include "base/cleanup.h"
#include "base/opts.h"
#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"
#include "port/branch.h"
#include "port/move.h"
#include "port/places.h"
#include "port/status.h"
#include "port/why.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- inbox ---- */

static int inbox_init(struct wh_inbox *in, wharf_task *t)
{
        int ep = wh_os_epoll();
        if (ep < 0)
                return wh_trace(ep);
        int r = wh_os_epoll_add(ep, t->wake[0], 0, wh_ep_tag(WH_EP_BELL, 0));
        if (r == 0)
                r = wh_os_epoll_add(ep, t->wake[1], 0, wh_ep_tag(WH_EP_NOTICE, 0));
        if (r < 0) {
                wh_os_close(ep);
                return wh_trace(r);
        }
        wh_os_fd_private(ep);
        in->task = t;
        in->ep = ep;
        in->bell_set = in->pollable = in->leader = in->leader_has_only = false;
        in->accepts_owed = in->accepts_more = in->at_door = false;
        in->waiters = in->since_look = in->spin_misses = 0;
        in->spin_us = t->spin_us_max;
        in->direct = in->unfit = NULL;
        in->budget = WH_BUDGET;
        in->turns = (struct wh_turns){0};
        in->turn_msgs = WH_TURN_MSGS;
        wh_list_init(&in->hot);
        wh_list_init(&in->aside);
        wh_list_init(&in->ports);
        wh_list_init(&in->notices);
        wh_list_init(&in->fired);
        return 0;
}

static void inbox_done(struct wh_inbox *in)
{
        struct wh_list *n;
        while ((n = wh_list_pop_front(&in->notices)))
                free(wh_container(n, struct wh_notice, node));
        wh_turns_done(in);
        wh_os_close(in->ep);
        in->ep = -1;
}

/* P4 */
static void inbox_bell(struct wh_inbox *in, bool set)
{
        if (in->bell_set != set &&
            wh_os_epoll_mod(in->ep, in->task->wake[0], set ? EPOLLIN : 0, wh_ep_tag(WH_EP_BELL, 0)) == 0)
                in->bell_set = set;
}

void wh_inbox_wake_all(struct wh_inbox *in)
{
        atomic_fetch_add_explicit(&in->turn, 1, memory_order_relaxed);
        if (in->waiters || in->pollable)
                inbox_bell(in, true); /* the leader, in epoll_wait(); and P3, for what is known without an event */
        if (in->waiters)
                wh_os_futex_wake(&in->turn, INT32_MAX, false);
}

/* Let the others look: what was found may be for them. */
static void inbox_turn(struct wh_inbox *in)
{
        atomic_fetch_add_explicit(&in->turn, 1, memory_order_relaxed);
        wh_os_futex_wake(&in->turn, INT32_MAX, false);
}

void wh_inbox_leave_slow(struct wh_inbox *in, bool armed)
{
        if (wh_unlikely(in->waiters && !in->leader))
                inbox_turn(in);
        if (wh_unlikely(in->pollable && !armed))
                inbox_bell(in, true); /* P3; the next receive that finds nothing takes it back */
}

static void make_hot(struct wh_inbox *in, struct wh_link *l)
{
        if (wh_unlikely(l->waits))
                return; /* places.G1 */
        if (!wh_list_linked(&l->hot)) {
                l->served = l->empty = 0;
                wh_turn_first(in, l);
        }
        if (l->armed && l->rx)
                wh_ring_awake(&l->rx->ring);
        l->armed = false;
}

void wh_port_look_at(struct wh_link *l)
{
        l->sock_ready = true;
        l->armed = true; /* so says `back`, perhaps */
        make_hot(l->inbox, l);
}

/* E3: reads what has come on a kept right's socket, a little at a time. True: that ends it. */
static bool kept_is_over(struct wh_link *l)
{
        l->budget = 8 * WH_COST_FRAME;
        l->sock_ready = true;
        if (wh_link_read(l, WH_UNTIL_EMPTY, 0) == WH_LINK_LATER)
                wh_watch_socket(l, true); /* there is more: an event again, and others have theirs before it */
        return l->over;
}

/* The receiver of a watched right is gone, or may have given room. */
static void watched(struct wh_inbox *in, wharf_name name, uint32_t events)
{
        int err;
        struct wh_link *l = wh_holder_lock(in->task, name, &err);
        if (!l)
                return;
        bool over = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
        if (l->watch == in && l->kept && !over)
                over = kept_is_over(l);
        if (l->watch == in && over) {
                wh_watch_socket(l, false);
                l->watch = NULL;
                wh_list_push_back(&in->notices, &l->watch_notice->node);
                l->watch_notice = NULL;
        }
        bool room = l->room_asked;
        if (room)
                wh_room_event(l);
        wh_unlock(&l->o.lock);
        if (room)
                wh_notices_take(in); /* now, rather than with the next look */
}

enum { ACCEPTS_MAX = 256 }; /* connections taken in one go */

static void accept_links(struct wh_inbox *in, wharf_name name, bool reaped)
{
        struct wh_object *o = wh_table_find(&in->task->names, name);
        struct wh_port *p = (struct wh_port *)o;
        if (!o || o->kind != WHARF_KIND_PORT || atomic_load_explicit(&o->name, memory_order_relaxed) != name ||
            atomic_load_explicit(&p->inbox, memory_order_relaxed) != in)
                return;
        for (int i = 0; i < ACCEPTS_MAX; i++) {
                if (p->listen_fd < 0 && p->at_door < 0) {
                        p->accepts_owed = false;
                        return;
                }
                if (wh_port_places(p) >= p->opts.links_max) {
                        p->accepts_owed = in->accepts_owed = true; /* what it has sent is not lost: it waits there */
                        return;
                }
                int fd = p->at_door >= 0 ? wh_steal_fd(&p->at_door) : wh_os_accept(p->listen_fd);
                if (fd < 0) {
                        /* What has no place now waits for the next event or message that has us look. */
                        p->accepts_owed = fd != -EAGAIN;
                        in->accepts_owed |= p->accepts_owed;
                        return;
                }
                wh_os_fd_private(fd);
                struct wh_link *l = NULL;
                struct ucred u = {.uid = (uid_t)-1};
                socklen_t len = sizeof u;
                bool known = wh_os_getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &len) == 0;
                const uid_t uid = known && wh_id_known(u.uid) ? u.uid : (uid_t)-1;
                int r = wh_port_add_link(p, fd, uid, false, &l);
                if (r == -EDQUOT && !reaped) {
                        p->at_door = fd;
                        in->at_door = p->accepts_owed = in->accepts_owed = in->accepts_more = true;
                        return;
                }
                if (r < 0) {
                        enum wh_refusal which = r == -EDQUOT ? p->links_refused_for : WH_REFUSAL_PLAIN;
                        struct wh_frame f = {.type = WH_FRAME_REFUSE,
                                             .to = WH_TO_HOLDER,
                                             .arg = (uint32_t)-r,
                                             .id = which,
                                             .total = wh_port_limit(p, r, which)};
                        wh_frame_send(fd, &f, NULL, 0, NULL, false);
                        wh_os_close_end(fd, WH_END_OURS | WH_END_ACCEPTED);
                        p->refused++;
                        continue;
                }
                reaped = false; /* this one may be dead, too */
                p->made++;
                l->connected = true;
                wh_link_identify(l, &(struct wh_cred){u.pid, u.uid, u.gid, known}, WHARF_KNOWN_CONNECTED);
                r = wh_port_greet(l, 0);
                if (r < 0 && r != -EPIPE)
                        wh_os_shutdown(fd, SHUT_RDWR); /* it would wait for it; so it is told, and can come again */
        }
        p->accepts_owed = in->accepts_owed = in->accepts_more = true; /* more than a fair share at once */
}

static void accept_owed(struct wh_inbox *in)
{
        in->accepts_owed = in->accepts_more = false;
        wh_list_for (n, &in->ports) {
                struct wh_port *p = wh_container(n, struct wh_port, in_inbox);
                if (p->accepts_owed)
                        accept_links(in, p->o.name, false);
        }
}

void wh_inbox_open_doors(struct wh_inbox *in)
{
        const uint32_t budget = in->budget;
        in->at_door = false;
        wh_list_for (n, &in->ports) {
                struct wh_port *p = wh_container(n, struct wh_port, in_inbox);
                if (p->at_door < 0)
                        continue;
                wh_port_reap(p);
                accept_links(in, p->o.name, true);
        }
        in->budget = budget;
}

static void inbox_event(struct wh_inbox *in, const struct epoll_event *ev)
{
        uint32_t name = (uint32_t)ev->data.u64;
        switch (ev->data.u64 >> 32) {
        case WH_EP_BELL:
                if (!in->pollable)
                        inbox_bell(in, false);
                return;
        case WH_EP_LISTEN:
                accept_links(in, name, false);
                return;
        case WH_EP_WATCH:
                watched(in, name, ev->events);
                return;
        case WH_EP_NOTICE:
                wh_notices_take(in);
                return;
        case WH_EP_LINK: {
                struct wh_link *l = (struct wh_link *)wh_table_find(&in->task->links, name);
                /* Stale where a link was closed after the kernel had reported it. */
                if (!l || atomic_load_explicit(&l->o.name, memory_order_relaxed) != name || l->inbox != in)
                        return;
                l->sock_ready = l->rung = true;
                if (ev->events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR))
                        l->hung_up = true;
                if (wh_unlikely(l->waits && l->hung_up))
                        wh_place_unwait(l); /* places.G2 */
                make_hot(in, l);
                return;
        }
        }
}

enum { EVENTS = 64 };
enum { REAP_LOOKS = WH_BUDGET / WH_COST_FRAME / EVENTS }; /* as many as have a death each in one budget */

enum {
        COOL_AFTER = 1024, /* looks in vain, before a link is armed and left alone */
        COOL_KEEP = 4,     /* links that stay hot however silent: looking at these costs less than their waking us */
};

/* Leave the silent ones to their doorbells: where many links were hot, every look pays for all of them. */
static void inbox_cool(struct wh_inbox *in)
{
        unsigned n = 0;
        wh_list_for_safe (k, &in->hot) {
                struct wh_link *l = wh_container(k, struct wh_link, hot);
                if (++n <= COOL_KEEP || l->empty < COOL_AFTER || l->over || l->hung_up || (!l->rx && l->sock_ready))
                        continue;
                if (wh_link_arm(l)) {
                        wh_list_remove(&l->hot);
                } else if (l->rx) {
                        wh_ring_awake(&l->rx->ring);
                        l->armed = false;
                }
        }
}

/* How many of EVENTS there were. */
static int inbox_look(struct wh_inbox *in)
{
        struct epoll_event ev[EVENTS];
        in->since_look &= WH_LOOK_MIXED;
        inbox_cool(in);
        if (wh_unlikely(in->accepts_owed))
                accept_owed(in);
        int n = wh_os_epoll_wait(in->ep, ev, EVENTS, 0);
        for (int i = 0; i < n; i++)
                inbox_event(in, &ev[i]);
        return n;
}

void wh_inbox_look(struct wh_inbox *in)
{
        inbox_look(in);
}

bool wh_link_has_something(const struct wh_link *l)
{
        struct wh_rec rec;
        struct wh_ring_rx ring;
        if (l->stash.full || l->over)
                return true;
        if (l->waits)
                return false;
        if (l->hung_up || (!l->rx && l->sock_ready))
                return true;
        if (l->change.due)
                return true;
        if (!l->rx)
                return false;
        ring = l->rx->ring; /* a copy, since a pad is skipped by looking */
        return wh_ring_peek(&ring, &rec) != 0;
}

bool wh_inbox_has_message(struct wh_inbox *in)
{
        struct wh_rec rec;
        wh_list_for (n, &in->hot) {
                struct wh_link *l = wh_container(n, struct wh_link, hot);
                if (l->rx && wh_ring_peek(&l->rx->ring, &rec) != 0)
                        return true;
                l->empty++;
        }
        return false;
}

/* Spin for a while, giving the lock away now and then. True when there is something. */
static bool inbox_spin(struct wh_inbox *in, int64_t deadline_ns)
{
        wharf_task *t = in->task;
        bool forever = t->spin_us_max == WHARF_SPIN;
        if (wh_list_empty(&in->hot) && !forever)
                return false;
        uint32_t us = in->spin_us;
        if (!forever && us == 0) {
                /* Learned that it does not pay. Try again now and then: circumstances change. */
                if (t->spin_us_max == 0 || ++in->spin_misses % 64)
                        return false;
                us = WH_SPIN_PROBE * t->spin_us_max;
        }
        uint64_t start = wh_os_ticks(), limit = (uint64_t)us * t->ticks_per_us, looked = start;
        uint32_t turn = atomic_load_explicit(&in->turn, memory_order_relaxed);
        for (;;) {
                for (int i = 0; i < 32; i++) {
                        if (wh_inbox_has_message(in)) {
                                if (!forever) {
                                        in->spin_us = t->spin_us_max;
                                        in->spin_misses = 0;
                                }
                                return true;
                        }
                        wh_relax();
                }
                uint64_t now = wh_os_ticks();
                if (atomic_load_explicit(&in->turn, memory_order_relaxed) != turn)
                        return true;
                if (now - looked > 8 * t->ticks_per_us || wh_list_empty(&in->hot)) {
                        const uint32_t before = in->turns.heated;
                        looked = now;
                        wh_inbox_look(in);
                        if (in->turns.heated != before || !wh_list_empty(&in->notices))
                                return true;
                        if (forever && deadline_ns != WH_NEVER && wh_os_now_ns() >= deadline_ns)
                                return false;
                        wh_list_for (n, &in->hot) {
                                struct wh_link *l = wh_container(n, struct wh_link, hot);
                                if (l->sock_ready && (!l->rx || l->hung_up))
                                        return true;
                        }
                }
                if (!forever && now - start > limit)
                        break;
                wh_unlock(&in->lock);
                wh_relax();
                wh_lock(&in->lock);
        }
        if (!forever && ++in->spin_misses >= 8) {
                in->spin_us = 0;
                in->spin_misses = 0;
        }
        return false;
}

/*
 * P1: announce to every hot link that we sleep, and let it cool. False when one has something after all: that one stays
 * hot, and so do those behind it unless `all` are asked for.
 */
static bool inbox_arm(struct wh_inbox *in, bool all)
{
        bool cool = true;
        wh_list_for_safe (n, &in->hot) {
                struct wh_link *l = wh_container(n, struct wh_link, hot);
                if (!wh_link_arm(l) || l->over || l->hung_up || (!l->rx && l->sock_ready)) {
                        if (l->rx)
                                wh_ring_awake(&l->rx->ring);
                        l->armed = false;
                        cool = false;
                        if (!all)
                                return false;
                        continue;
                }
                wh_list_remove(&l->hot);
        }
        return cool;
}

/* Whoever looks at the task's page is to know that the links are not what it says. */
static void links_changed(struct wh_port *p)
{
        if (p->waits_told)
                wh_waits_port_stale(&p->task->waits, p->waits_at);
        p->waits_told = false;
}

/* Who can send to this port, as far as it fits the page. */
static void tell_senders(struct wh_port *p, const struct wh_inbox *in)
{
        uint32_t senders[WH_WAIT_SENDERS_MAX], n = 0, unknown = 0, left = 64;
        uint32_t flags = p->listen_fd >= 0 ? WH_WAIT_LISTENS : 0;
        p->waits_told = true;
        wh_list_for (pos, &p->links) {
                const struct wh_link *l = wh_container(pos, struct wh_link, in_port);
                uint32_t pid = l->cred.known ? (uint32_t)l->cred.pid : 0, i = 0;
                unknown += !pid;
                while (pid && i < n && senders[i] != pid)
                        i++;
                if ((pid && i == WH_WAIT_SENDERS_MAX) || left-- == 0) {
                        flags |= WH_WAIT_MORE;
                        break;
                }
                if (pid && i == n)
                        senders[n++] = pid;
        }
        wh_waits_port_tell(&p->task->waits, p->waits_at, in->name, flags, p->n_links, unknown, senders, n);
}

static void inbox_tell_waiting(struct wh_inbox *in)
{
        wh_list_for (n, &in->ports) {
                struct wh_port *p = wh_container(n, struct wh_port, in_inbox);
                wh_port_tell_status(p);
                if (wh_unlikely(!p->waits_told))
                        tell_senders(p, in);
        }
}

/* A thread is about to sleep in a receive: say so on the task's page. */
static unsigned inbox_waits(struct wh_inbox *in, const struct wh_link *only, int64_t deadline_ns)
{
        return wh_waits_begin(&in->task->waits, WHARF_WAITS_RECEIVE, only ? WHARF_WAIT_ONE : 0, 0, in->name,
                              only && only->cred.known ? (uint32_t)only->cred.pid : 0, deadline_ns);
}

/* Senders that wait for room learn what was taken, though we do not sleep. */
static void inbox_tell_taken(struct wh_inbox *in)
{
        wh_list_for (n, &in->hot) {
                struct wh_link *l = wh_container(n, struct wh_link, hot);
                if (l->rx && wh_ring_idle(&l->rx->ring))
                        wh_link_bell(l);
        }
}

int wh_inbox_wait(struct wh_inbox *in, const struct wh_link *only, int64_t deadline_ns)
{
        if (deadline_ns == 0) {
                inbox_tell_taken(in);
                if (in->leader)
                        return -EAGAIN; /* another thread is there, and will see to it */
                if (only) {
                        wh_inbox_look(in);
                        if (in->pollable) /* P3, for what others sent */
                                inbox_bell(in,
                                           !inbox_arm(in, true) || !wh_list_empty(&in->notices) || in->accepts_more);
                        return wh_link_has_something(only) ? 0 : -EAGAIN;
                }
                if (!in->pollable) {
                        wh_inbox_look(in);
                        if (!wh_list_empty(&in->notices))
                                return 0;
                        wh_list_for (n, &in->hot)
                                if (wh_link_has_something(wh_container(n, struct wh_link, hot)))
                                        return 0;
                        return -EAGAIN;
                }
                wh_inbox_look(in);
                if (!inbox_arm(in, false) || !wh_list_empty(&in->notices) || in->accepts_more)
                        return 0;
                inbox_bell(in, false); /* P3: everything is armed, and nothing was there */
                inbox_tell_waiting(in);
                return -EAGAIN;
        }
        /* Here, and not only where we sleep: a sender that wakes us without end must not keep us. */
        if (deadline_ns != WH_NEVER && wh_os_now_ns() >= deadline_ns) {
                if (!in->leader)
                        wh_inbox_look(in);
                return -ETIMEDOUT;
        }
        if (in->leader) {
                /* A leader that waits for one link does not watch the hot ones, so they must ring. */
                if (in->leader_has_only && !inbox_arm(in, only != NULL) && !only)
                        return 0;
                if (only && wh_link_has_something(only))
                        return 0;
                uint32_t turn = atomic_load_explicit(&in->turn, memory_order_relaxed);
                in->waiters++;
                unsigned waits = inbox_waits(in, only, deadline_ns);
                wh_unlock(&in->lock);
                int r = wh_os_futex_wait(&in->turn, turn, deadline_ns, false);
                wh_waits_end(&in->task->waits, waits);
                wh_lock(&in->lock);
                in->waiters--;
                return r == -ETIMEDOUT ? r : 0;
        }

        in->leader = true;
        in->leader_has_only = only != NULL;
        in->waiters++;
        int r = 0;
        bool sleep = only || !inbox_spin(in, deadline_ns);
        if (sleep)
                sleep = inbox_arm(in, only != NULL);
        if (only)
                sleep = !wh_link_has_something(only);
        if (wh_unlikely(in->accepts_owed))
                accept_owed(in);
        if (wh_unlikely(in->accepts_more))
                sleep = false;
        if (sleep) {
                struct epoll_event ev[EVENTS];
                if (in->pollable)
                        inbox_bell(in, false);
                inbox_tell_waiting(in);
                unsigned waits = inbox_waits(in, only, deadline_ns);
                wh_unlock(&in->lock);
                int n = wh_os_epoll_wait(in->ep, ev, EVENTS, deadline_ns);
                wh_waits_end(&in->task->waits, waits);
                wh_lock(&in->lock);
                for (int i = 0; i < n; i++)
                        inbox_event(in, &ev[i]);
                r = n == 0 ? -ETIMEDOUT : n == -EINTR ? 0 : n < 0 ? n : 0;
                in->since_look &= WH_LOOK_MIXED;
        }
        in->waiters--;
        in->leader = false;
        if (only && in->waiters)
                inbox_turn(in);
        return r;
}

/* ---- finding ---- */

static struct wh_inbox *port_inbox_lock_any(struct wh_port *p, wharf_name name)
{
        for (;;) {
                /* [inbox] Acquire, pairs with the releases in wh_port_make() and wh_notices_move(): its lock is there. */
                struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_acquire);
                if (!in)
                        return NULL;
                wh_lock(&in->lock);
                if (wh_likely(atomic_load_explicit(&p->inbox, memory_order_relaxed) == in)) {
                        if (wh_likely(atomic_load_explicit(&p->o.name, memory_order_relaxed) == name &&
                                      p->closing != WH_PORT_CLOSING))
                                return in;
                        wh_unlock(&in->lock);
                        return NULL;
                }
                wh_unlock(&in->lock); /* it moved into or out of a set meanwhile */
        }
}

/* The same for all who want to use the port: not while it is on its way to another task. */
static struct wh_inbox *port_inbox_lock(struct wh_port *p, wharf_name name, int *err)
{
        struct wh_inbox *in = port_inbox_lock_any(p, name);
        if (wh_unlikely(in && p->closing)) {
                *err = -EBUSY;
                wh_unlock(&in->lock);
                return NULL;
        }
        return in;
}

struct wh_port *wh_port_lock(wharf_task *t, wharf_name name, int *err)
{
        if (wh_unlikely(!wh_task_ours(t))) {
                *err = -ESTALE;
                return NULL;
        }
        struct wh_object *o = wh_table_find(&t->names, name);
        *err = -EBADF;
        if (!o || atomic_load_explicit(&o->name, memory_order_relaxed) != name)
                return NULL;
        if (o->kind != WHARF_KIND_PORT) {
                *err = -EPERM;
                return NULL;
        }
        return port_inbox_lock((struct wh_port *)o, name, err) ? (struct wh_port *)o : NULL;
}

struct wh_inbox *wh_inbox_lock(wharf_task *t, wharf_name name, struct wh_port **ret_port, int *err)
{
        if (wh_unlikely(!wh_task_ours(t))) {
                *err = -ESTALE;
                return NULL;
        }
        struct wh_object *o = wh_table_find(&t->names, name);
        *err = -EBADF;
        if (wh_unlikely(!o || atomic_load_explicit(&o->name, memory_order_relaxed) != name))
                return NULL;
        if (wh_likely(o->kind == WHARF_KIND_PORT)) {
                struct wh_port *p = (struct wh_port *)o;
                struct wh_inbox *in = port_inbox_lock(p, name, err);
                if (wh_unlikely(in && in != &p->own)) {
                        wh_unlock(&in->lock);
                        *err = -EBUSY;
                        return NULL;
                }
                *ret_port = p;
                return in;
        }
        if (o->kind != WHARF_KIND_SET) {
                *err = -EPERM;
                return NULL;
        }
        struct wh_set *s = (struct wh_set *)o;
        wh_lock(&s->inbox.lock);
        if (atomic_load_explicit(&o->name, memory_order_relaxed) != name || s->closing) {
                wh_unlock(&s->inbox.lock);
                return NULL;
        }
        *ret_port = NULL;
        return &s->inbox;
}

/* ---- ports ---- */

/* As much as the capacity may take: small ones in records, the others in blocks, and what is being made beside. */
static uint64_t mapped_for(const struct wharf_port_opts *o)
{
        enum { LEAST = 80 << 20, BESIDE = 8 << 20, RECORD = WHARF_SMALL_MAX + 2 * WH_LINE };
        if (o->capacity_records >= WHARF_UNBOUNDED)
                return LEAST;
        uint64_t bytes = 2 * o->capacity_bytes + (uint64_t)o->capacity_records * RECORD + BESIDE;
        return bytes < LEAST ? LEAST : bytes;
}

int wh_port_opts(const struct wharf_port_opts *opts, struct wharf_port_opts *ret)
{
        struct wharf_port_opts o = {.size = sizeof o};
        if (opts) {
                if (!wh_opts_take(&o, sizeof o, 8, opts, opts->size))
                        return wh_fail(-EINVAL, "wharf_port_opts.size is %u, expected %zu, or more that is 0",
                                       opts->size, sizeof o);
        }
        if (o.flags & ~(uint32_t)(WHARF_PORT_STAYS | WHARF_PORT_FIXED))
                return wh_fail(-EINVAL, "wharf_port_opts.flags has unknown bits 0x%x", o.flags);
        if (o.capacity_records > 65536 && o.capacity_records < WHARF_UNBOUNDED)
                return wh_fail(-EINVAL, "wharf_port_opts.capacity_records is %u, at most 65536", o.capacity_records);
        if (o.capacity_bytes > (uint64_t)1 << 40)
                return wh_fail(-EINVAL, "wharf_port_opts.capacity_bytes is more than 1 TiB");
        if (o.unread_rights_max > 250)
                return wh_fail(-EINVAL, "wharf_port_opts.unread_rights_max is %u, at most 250", o.unread_rights_max);
        if (o.reserved)
                return wh_fail(-EINVAL, "wharf_port_opts.reserved must be 0");
        if (o.payload_bytes_max > (uint64_t)1 << 40)
                return wh_fail(-EINVAL, "wharf_port_opts.payload_bytes_max is more than 1 TiB");
        o.capacity_records = o.capacity_records ? o.capacity_records : 1024;
        o.links_max = o.links_max ? o.links_max : 4096;
        o.introduced_max = o.introduced_max ? o.introduced_max : (o.links_max + 1) / 2;
        o.payload_bytes_max = o.payload_bytes_max ? o.payload_bytes_max : (uint64_t)1 << 30;
        o.capacity_bytes = o.capacity_bytes ? o.capacity_bytes : WH_CAPACITY_BYTES;
        o.link_mapped_bytes_max = o.link_mapped_bytes_max ? o.link_mapped_bytes_max : mapped_for(&o);
        o.mapped_bytes_max = o.mapped_bytes_max ? o.mapped_bytes_max : (uint64_t)4 << 30;
        o.unread_rights_max = o.unread_rights_max ? o.unread_rights_max : 64;
        o.reply_bytes_max = o.reply_bytes_max ? o.reply_bytes_max : (uint64_t)4 << 30;
        o.link_reply_bytes_max = o.link_reply_bytes_max ? o.link_reply_bytes_max : (uint64_t)4 << 20;
        o.link_answers_max = o.link_answers_max ? o.link_answers_max : 4096;
        *ret = o;
        return 0;
}

int wh_port_make(wharf_task *t, const struct wharf_port_opts *opts, struct wh_port **ret)
{
        struct wh_port *p = wh_task_take(t, WHARF_KIND_PORT, sizeof *p, offsetof(struct wh_port, own.task));
        if (!p)
                return wh_trace(-ENOMEM);
        p->task = t;
        p->opts = *opts;
        p->listen_fd = p->status_fd = p->at_door = -1;
        p->accounts.self = t->accounts.self;
        p->accounts.max[WH_SHARE_LINKS] = opts->links_max;
        p->accounts.least[WH_SHARE_LINKS] = 1;
        p->accounts.max[WH_SHARE_BYTES] = opts->mapped_bytes_max;
        p->accounts.max[WH_SHARE_KEPT] = p->accounts.max[WH_SHARE_REPLIES] = opts->reply_bytes_max;
        wh_list_init(&p->links);
        wh_list_init(&p->waiting);
        wh_list_init(&p->in_waiting);
        wh_list_init(&p->in_inbox);
        p->own.ep = -1;
        int r = inbox_init(&p->own, t);
        if (r < 0) {
                wh_task_give(t, &p->o);
                return r;
        }
        wh_list_push_back(&p->own.ports, &p->in_inbox);
        /* [inbox] Release, pairs with the acquire in port_inbox_lock_any(). */
        atomic_store_explicit(&p->inbox, &p->own, memory_order_release);
        *ret = p;
        return 0;
}

void wh_port_unmake(struct wh_port *p)
{
        atomic_store_explicit(&p->inbox, NULL, memory_order_relaxed);
        inbox_done(&p->own);
        wh_task_give(p->task, &p->o);
}

WHARF_API int wharf_port_new(wharf_task *t, const struct wharf_port_opts *opts, wharf_name *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        struct wharf_port_opts o;
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        int r = wh_port_opts(opts, &o);
        if (r < 0)
                return r;
        struct wh_port *p;
        r = wh_port_make(t, &o, &p);
        if (r < 0)
                return wh_fail(r, NULL);
        r = wh_os_getrandom(&p->id.v, sizeof p->id.v);
        if (r == 0)
                r = wh_port_name(p, ret);
        if (r < 0)
                wh_port_unmake(p);
        return wh_fail(r, NULL);
}

int wh_port_name(struct wh_port *p, wharf_name *ret)
{
        int r = wh_table_add(&p->task->names, &p->o);
        if (r < 0)
                return r;
        *ret = p->own.name = atomic_load_explicit(&p->o.name, memory_order_relaxed);
        p->waits_at = wh_waits_port_new(&p->task->waits, p->id.v);
        return 0;
}

/* Wait until no thread is in a receive from this inbox any more. The lock is held. */
static void inbox_expel(struct wh_inbox *in)
{
        while (in->waiters) {
                wh_inbox_wake_all(in);
                wh_unlock(&in->lock);
                wh_relax();
                wh_os_futex_wait(&in->turn, atomic_load_explicit(&in->turn, memory_order_relaxed),
                                 wh_os_now_ns() + 100000, false);
                wh_lock(&in->lock);
        }
}

struct watch_target {
        wharf_name port;
        struct wh_inbox *to;
};

static void watch_move(struct wh_object *o, void *arg)
{
        const struct watch_target *a = arg;
        struct wh_link *l = (struct wh_link *)o;
        if (o->kind != WHARF_KIND_SEND)
                return;
        wh_lock(&o->lock);
        if (l->watch && l->watch_port == a->port && atomic_load_explicit(&o->name, memory_order_relaxed)) {
                wh_watch_socket(l, false);
                l->watch = a->to;
                if (a->to) {
                        wh_watch_socket(l, true);
                } else {
                        wh_notice_free(l->task, l->watch_notice);
                        l->watch_notice = NULL;
                }
        }
        if (atomic_load_explicit(&o->name, memory_order_relaxed))
                wh_room_move(l, a->port, a->to);
        wh_unlock(&o->lock);
}

/*
 * The rights that this port watches are in the epoll of its inbox: take them along, or out when `to` is NULL. All the
 * task's names are gone through: this is seldom, and a list would need the inbox's lock where only the link's is held.
 */
static void watches_move(struct wh_port *p, wharf_name name, struct wh_inbox *to)
{
        if (!p->watches)
                return;
        struct watch_target a = {name, to};
        wh_table_each(&p->task->names, watch_move, &a);
}

static bool link_holds(const struct wh_link *l)
{
        return l->retired || (l->rx && l->rx->blocks_held);
}

/* Somebody is in the middle of using a reply right, which takes no longer than a few system calls. */
static bool links_in_use(struct wh_port *p)
{
        wh_list_for (n, &p->links) {
                struct wh_link *l = wh_container(n, struct wh_link, in_port);
                if (atomic_load_explicit(&l->refs, memory_order_relaxed) > 1)
                        return true;
        }
        return false;
}

static int set_change(wharf_task *t, wharf_name set, wharf_name port, bool add);

/* The port was in a set when it was to move, and stays. Where the set is gone, or has no memory for it, it has left. */
static void set_rejoin(wharf_task *t, wharf_name set, wharf_name port)
{
        if (set)
                set_change(t, set, port, true);
}

/* Lock a port that is to move. As in Mach, it leaves the set that it is in, which is *ret_set then. */
static struct wh_port *lock_to_move(wharf_task *t, wharf_name name, wharf_name *ret_set, int *err)
{
        *ret_set = WHARF_NONE;
        for (;;) {
                struct wh_port *p = wh_port_lock(t, name, err);
                if (!p) {
                        wh_fail(*err, "the port is on its way already, or there is none");
                        return NULL;
                }
                struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
                *err = 0;
                if (p->opts.flags & WHARF_PORT_FIXED)
                        *err = wh_fail(-EOPNOTSUPP, "the port was made with WHARF_PORT_FIXED: it never moves");
                else if (p->listen_fd >= 0)
                        *err = wh_fail(-EBUSY, "the port accepts links from a listening socket; end that first");
                else if (in == &p->own)
                        return p;
                wharf_name set = WHARF_NONE;
                if (in != &p->own)
                        set = atomic_load_explicit(&wh_container(in, struct wh_set, inbox)->o.name,
                                                   memory_order_relaxed);
                wh_unlock(&in->lock);
                if (*err == 0) {
                        int r = set_change(t, set, name, false);
                        if (r == 0)
                                *ret_set = set;
                        else if (r != -ENOENT && r != -EBADF) /* taken out, or gone with its set, meanwhile */
                                *err = wh_fail(r, "the port cannot leave the set that it is in");
                }
                if (*err < 0) {
                        set_rejoin(t, *ret_set, name);
                        return NULL;
                }
        }
}

int wh_port_freeze(wharf_task *t, wharf_name name, struct wh_port **ret)
{
        int r;
        wharf_name set;
        struct wh_port *p = lock_to_move(t, name, &set, &r);
        if (!p)
                return r;
        struct wh_inbox *in = p->inbox;
        p->set_left = set;
        wh_list_for_safe (n, &p->links) {
                struct wh_link *l = wh_container(n, struct wh_link, in_port);
                if (l->over)
                        wh_port_remove_link(l);
        }
        p->closing = WH_PORT_MOVING;
        inbox_expel(in);
        wh_list_for (n, &p->links)
                if (link_holds(wh_container(n, struct wh_link, in_port)))
                        r = wh_fail(-EBUSY, "a payload received in place was not given back yet");
        if (r == 0 && (r = wh_replies_detach(t, p)) < 0)
                r = wh_fail(r, "a caller that waits for its reply cannot be told where it will come from");
        for (int tries = 0; r == 0 && links_in_use(p); tries++) {
                if (tries == 10000) {
                        r = wh_fail(-EBUSY, "a reply is being sent");
                        break;
                }
                wh_unlock(&in->lock);
                wh_os_futex_wait(&in->turn, atomic_load_explicit(&in->turn, memory_order_relaxed),
                                 wh_os_now_ns() + 100000, false);
                wh_lock(&in->lock);
        }
        if (r < 0) {
                p->closing = WH_PORT_OPEN;
                wh_unlock(&in->lock);
                set_rejoin(t, set, name);
                return r;
        }
        *ret = p;
        return 0;
}

static void port_close_locked(struct wh_port *p, wharf_name name, struct wh_inbox *in);

void wh_port_thaw(wharf_task *t, wharf_name name)
{
        struct wh_port *p = (struct wh_port *)wh_table_find(&t->names, name);
        struct wh_inbox *in = port_inbox_lock_any(p, name);
        wharf_name set = p->set_left;
        p->closing = WH_PORT_OPEN;
        if (in->pollable)
                inbox_bell(in, true); /* P3 */
        wh_unlock(&in->lock);
        set_rejoin(t, set, name);
}

void wh_port_gone(wharf_task *t, wharf_name name)
{
        struct wh_port *p = (struct wh_port *)wh_table_find(&t->names, name);
        struct wh_inbox *in = port_inbox_lock_any(p, name);
        wh_list_for (n, &p->links)
                wh_container(n, struct wh_link, in_port)->handed_on = true;
        port_close_locked(p, name, in);
}

/*
 * Send the port to its heir, if it has one. False when there is none or it cannot go: then it is closed like any other.
 */
static bool port_inherited(wharf_task *t, struct wh_port *p, wharf_name name)
{
        int err;
        struct wh_inbox *in = port_inbox_lock(p, name, &err);
        if (!in)
                return false;
        wharf_name heir = p->heir;
        p->heir = WHARF_NONE; /* once */
        if (heir && p->listen_fd >= 0) {
                wh_os_epoll_del(in->ep, p->listen_fd);
                p->listen_fd = -1;
        }
        wh_unlock(&in->lock);
        if (!heir)
                return false;
        return wh_move_to(t, name, heir, WHARF_ID_PORT_DESTROYED) == 0;
}

WHARF_API int wharf_port_heir(wharf_task *t, wharf_name port, wharf_name right)
{
        int err;
        struct wh_link *l = right ? wh_holder_lock(t, right, &err) : NULL;
        if (right && !l)
                return wh_fail_at(t, err, right);
        bool once = l && l->once, circle = false;
        uint64_t leads_to = l ? l->hello.port_id : 0;
        if (l)
                wh_unlock(&l->o.lock);
        if (once)
                return wh_fail(-EPERM, "a send-once right cannot be an heir");
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return wh_fail_at(t, err, port);
        struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
        if (right && p->opts.flags & WHARF_PORT_FIXED)
                err = -EOPNOTSUPP;
        else if ((circle = right && leads_to == p->id.v))
                err = -ELOOP;
        else
                err = 0;
        if (err == 0)
                p->heir = right;
        wh_unlock(&in->lock);
        return wh_fail(err, circle ? "the right leads to that same port" : "the port was made with WHARF_PORT_FIXED");
}

int wh_port_drop(wharf_task *t, struct wh_object *o, wharf_name name)
{
        struct wh_port *p = (struct wh_port *)o;
        int err = -EBADF;
        /* A hint, looked at without the lock: it was set by the user, before. */
        if (wh_unlikely(p->heir) && port_inherited(t, p, name))
                return 0;
        struct wh_inbox *in = port_inbox_lock(p, name, &err);
        if (!in)
                return err;
        (void)t;
        port_close_locked(p, name, in);
        return 0;
}

/* Takes the port out of the task; the lock of its inbox is given up. */
static void port_close_locked(struct wh_port *p, wharf_name name, struct wh_inbox *in)
{
        wharf_task *t = p->task;
        struct wh_object *o = &p->o;
        p->closing = WH_PORT_CLOSING;
        watches_move(p, name, NULL);
        wh_table_remove(&t->names, o);
        wh_notice_free(t, p->no_senders);
        p->no_senders = NULL;
        if (in == &p->own)
                inbox_expel(in);
        wh_list_for_safe (n, &p->links)
                wh_port_remove_link(wh_container(n, struct wh_link, in_port));
        wh_os_close(wh_steal_fd(&p->at_door));
        if (p->listen_fd >= 0)
                wh_os_epoll_del(in->ep, p->listen_fd);
        wh_list_remove(&p->in_inbox);
        wh_waits_port_gone(&t->waits, p->waits_at);
        if (p->status) {
                atomic_store_explicit(&p->status->senders, 0, memory_order_relaxed);
                wh_os_munmap(p->status, WH_PAGE);
                wh_os_close(p->status_fd);
                p->status = NULL;
        }
        if (in != &p->own)
                wh_inbox_wake_all(in); /* its last sender may be gone with it */
        wh_notices_move(p, name, NULL);
        wh_unlock(&in->lock);
        wh_task_own_closed(t, name);
        wh_accounts_done(&p->accounts);
        inbox_done(&p->own);
        wh_task_give(t, o);
}

void wh_port_hello(const struct wh_port *p, struct wh_hello *ret)
{
        *ret = (struct wh_hello){
                .port_id = p->id.v,
                .payload_bytes_max = p->opts.payload_bytes_max,
                .link_mapped_bytes_max = p->opts.link_mapped_bytes_max,
                .capacity_records = p->opts.capacity_records,
                .capacity_bytes = p->opts.capacity_bytes,
                .unread_rights_max = p->opts.unread_rights_max,
        };
}

/* What the port takes from this sender. */
static void link_hello(const struct wh_link *l, struct wh_hello *ret)
{
        wh_port_hello(l->port, ret);
        /* Its limit, or its user's share as it is now: it learns of it before it sends what would not be taken. */
        uint64_t share = wh_account_left(&l->port->accounts, l->bill.payer, WH_SHARE_BYTES) + l->mapped;
        if (share < ret->link_mapped_bytes_max)
                ret->link_mapped_bytes_max = share;
}

int wh_port_greet(const struct wh_link *l, uint64_t seq)
{
        struct wh_hello h;
        link_hello(l, &h);
        struct wh_frame f = {.type = WH_FRAME_HELLO, .seq = seq};
        return wh_frame_greet(l->sock, &f, &h);
}

/* ---- links of a port ---- */

void wh_port_reap(struct wh_port *p)
{
        struct wh_inbox *inbox = atomic_load_explicit(&p->inbox, memory_order_relaxed);
        /* Many at a time, since each time costs a look at all links; and no more than there is a budget for. */
        for (unsigned i = 0; inbox_look(inbox) == EVENTS && i < REAP_LOOKS; i++)
                ;
        /* What epoll told us it tells nobody else: neither the thread that sleeps there, nor who polls it (P3). */
        wh_inbox_wake_all(inbox);
        if (inbox->pollable)
                inbox_bell(inbox, true);
        inbox->budget = WH_BUDGET;
        wh_list_for_safe (n, &p->links) {
                struct wh_link *l = wh_container(n, struct wh_link, in_port);
                struct wh_incoming in = {0};
                if (l->hung_up && wh_link_next(l, &in) < 0 && l->over)
                        wh_port_remove_link(l);
        }
}

/* One more link of that user, in the task and at the port. */
static int link_charge(struct wh_port *p, struct wh_link *l, bool force)
{
        int r = wh_bill_charge(&l->bill, WH_SHARE_TASK_LINKS, 1, force);
        if (r == -EDQUOT) {
                wh_task_limits(p->task);
                r = wh_bill_charge(&l->bill, WH_SHARE_TASK_LINKS, 1, force);
        }
        p->links_refused_for = r == -EDQUOT ? WH_REFUSAL_TASK_LINKS : WH_REFUSAL_LINKS;
        if (r == 0 && !l->directory && (r = wh_bill_charge(&l->bill, WH_SHARE_LINKS, 1, force)) < 0)
                wh_bill_close(&l->bill);
        return r;
}

uint64_t wh_port_limit(const struct wh_port *p, int err, enum wh_refusal which)
{
        switch (which) {
        case WH_REFUSAL_INTRODUCED:
                return p->opts.introduced_max;
        case WH_REFUSAL_LINKS:
                return p->links_shared && p->links_shared < p->opts.links_max ? p->links_shared : p->opts.links_max;
        case WH_REFUSAL_RIGHTS:
                return p->task->accounts.max[WH_SHARE_RIGHTS];
        case WH_REFUSAL_BYTES:
                return p->opts.mapped_bytes_max;
        case WH_REFUSAL_TASK_LINKS:
                return p->task->accounts.max[WH_SHARE_TASK_LINKS];
        case WH_REFUSAL_ANSWERS:
                return p->opts.link_answers_max;
        case WH_REFUSAL_TASK_ANSWERS:
                return p->task->accounts.max[WH_SHARE_ANSWERS];
        case WH_REFUSAL_PLAIN:
        case WH_REFUSALS:
                break;
        }
        switch (err) {
        case -EMLINK:
                return p->opts.links_max;
        case -EDQUOT:
                return p->opts.link_mapped_bytes_max;
        case -ENOBUFS:
                return p->opts.mapped_bytes_max;
        case -EMSGSIZE:
                return p->opts.payload_bytes_max;
        default:
                return 0;
        }
}

int wh_port_sender_known(struct wh_link *l)
{
        struct wh_port *p = l->port;
        const uid_t was = l->bill.payer, now = l->cred.uid;
        if (!p)
                return 0;
        links_changed(p);
        if (was == now || now == (uid_t)-1) /* of whom nothing is known, whoever introduced it pays for it still */
                return 0;
        const uint32_t freed = wh_places_freed(p->task);
        /* The task's own user has no share, and this one's link is there already: it is read, and goes. */
        const bool goes = l->hung_up && now == p->task->accounts.self;
        enum wh_share refused;
        const bool force = goes || l->revoked != WH_REVOKED_NOT;
        int r = wh_bill_move(&l->bill, now, force, &refused);
        if (r == -EDQUOT && refused == WH_SHARE_TASK_LINKS) {
                wh_task_limits(p->task);
                r = wh_bill_move(&l->bill, now, force, &refused);
        }
        if (r < 0) {
                p->links_refused_for = refused == WH_SHARE_TASK_LINKS ? WH_REFUSAL_TASK_LINKS : WH_REFUSAL_LINKS;
                const bool shared = refused == WH_SHARE_TASK_LINKS;
                return r == -EDQUOT ? wh_place_wait(l, WH_WAITS_USER, now, shared, freed) : r;
        }
        wh_turn_payer(l);
        wh_place_freed(p);
        return 0;
}

void wh_port_payer(struct wh_link *l, uid_t payer)
{
        enum wh_share refused;
        if (l->bill.payer != payer && wh_bill_move(&l->bill, payer, true, &refused) == 0)
                wh_turn_payer(l);
}

int wh_port_hold_rights(struct wh_link *l, unsigned n)
{
        wharf_task *t = l->task;
        int r = wh_bill_charge(&l->bill, WH_SHARE_RIGHTS, n, false);
        if (r == -EDQUOT) {
                wh_task_limits(t);
                r = wh_bill_charge(&l->bill, WH_SHARE_RIGHTS, n, false);
        }
        if (r == -EDQUOT)
                l->refusal = WH_REFUSAL_RIGHTS;
        return r;
}

void wh_port_rights_left(struct wh_link *l)
{
        const uint64_t held = l->bill.of[WH_SHARE_RIGHTS];
        wh_bill_give(&l->bill, WH_SHARE_RIGHTS, held > l->items.n ? held - l->items.n : 0);
}

int wh_port_hold_bytes(struct wh_link *l, uint64_t len)
{
        struct wh_port *p = l->port;
        if (!p || (len && l->bill.payer == p->accounts.self))
                return 0; /* the task's own user takes of its own memory */
        uint64_t was = l->stash_held;
        int r = len > was ? wh_bill_charge(&l->bill, WH_SHARE_BYTES, len - was, false) : 0;
        if (r == -EDQUOT)
                l->refusal = WH_REFUSAL_BYTES;
        if (r < 0)
                return r;
        if (len < was)
                wh_bill_give(&l->bill, WH_SHARE_BYTES, was - len);
        l->stash_held = len;
        return 0;
}

static int add_link(struct wh_port *p, int sock, uid_t payer, bool force, bool directory, struct wh_link **ret)
{
        wharf_task *t = p->task;
        struct wh_link *l = wh_link_new(t, WH_KIND_LINK, sock, true);
        if (!l)
                return wh_trace(-ENOMEM);
        l->directory = directory;
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
        return add_link(p, sock, payer, force, false, ret);
}

int wh_port_add_directory(struct wh_port *p, int sock, struct wh_link **ret)
{
        return add_link(p, sock, p->task->accounts.self, true, true, ret);
}

int wh_port_take_link(struct wh_port *p, struct wh_link *l, uid_t payer, bool force)
{
        wharf_task *t = p->task;
        struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
        l->port = p;
        l->inbox = in;
        wh_bill_open(&l->bill, &t->accounts, &p->accounts, payer);
        l->bill.kept_max = p->opts.link_reply_bytes_max;
        l->bill.answers_max = p->opts.link_answers_max;
        wh_port_hello(p, &l->hello); /* for the limit of a payload, and the port's id */
        int on = 1;
        bool charged = false;
        int r = wh_table_add(&t->links, &l->o);
        if (r == 0 && (r = link_charge(p, l, force)) < 0)
                wh_table_remove(&t->links, &l->o);
        if (r == 0) {
                charged = true;
                uint32_t id = atomic_load_explicit(&l->o.name, memory_order_relaxed);
                l->who.id = id;
                r = wh_os_setsockopt(l->sock, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
                if (r == 0)
                        r = wh_os_epoll_add(in->ep, l->sock, EPOLLIN | EPOLLRDHUP | EPOLLET, wh_ep_tag(WH_EP_LINK, id));
                if (r < 0)
                        wh_table_remove(&t->links, &l->o);
        }
        if (r < 0 && charged)
                wh_bill_close(&l->bill);
        if (r == -ENOSPC || r == -ENOBUFS) /* of what the kernel keeps for watching it: later, as any memory */
                r = -ENOMEM;
        if (r < 0)
                return wh_trace(r);
        wh_list_push_back(&p->links, &l->in_port);
        p->n_links++;
        p->n_directory += l->directory;
        links_changed(p);
        return 0;
}

void wh_link_unref(struct wh_link *l)
{
        if (!wh_ref_drop(&l->refs))
                return;
        wharf_task *t = l->task;
        wh_table_remove(&t->links, &l->o);
        wh_link_done(l);
        wh_task_give(t, &l->o);
}

void wh_port_remove_link(struct wh_link *l)
{
        struct wh_port *p = l->port;
        struct wh_inbox *in = l->inbox;
        wh_place_leave(l);
        wh_list_remove(&l->in_port);
        wh_list_remove(&l->hot);
        p->n_links--;
        p->n_once -= l->once;
        p->n_directory -= l->directory;
        p->mapped -= l->mapped;
        wh_bill_close(&l->bill);
        l->mapped = l->stash_held = 0;
        wh_items_done(&l->items); /* now, and not with the last reply right: nobody is charged for them any more */
        links_changed(p);
        if (l->over && l->over != -EPIPE)
                p->refused++;
        if (in->direct == l)
                in->direct = NULL;
        if (in->unfit == l)
                in->unfit = NULL;
        wh_link_end(l, -EPIPE);
        wh_lock(&l->o.lock);
        wh_os_epoll_del(in->ep, l->sock); /* before it is closed: a copy elsewhere would keep it firing */
        wh_os_close_end(l->sock, wh_link_end_how(l));
        l->sock = -1;
        l->tx_over = -EPIPE;
        wh_unlock(&l->o.lock);
        l->port = NULL;
        wh_branch_leave(l);
        wh_port_sender_gone(p, l);
        wh_link_unref(l);
        wh_place_freed(p);
        if (in->waiters)
                inbox_turn(in); /* one of them may receive from this sender alone, and nothing else would tell it */
}

/* Of lanes that have ended too, where payloads in them are held. */
static uint64_t link_maps(const struct wh_link *l)
{
        uint64_t bytes = l->rx ? l->rx->mapped_bytes : 0;
        for (const struct wh_lane_rx *rx = l->retired; rx; rx = rx->next_retired)
                bytes += rx->mapped_bytes;
        return bytes;
}

int64_t wh_port_may_map(struct wh_link *l)
{
        struct wh_port *p = l->port;
        uint64_t mine = link_maps(l);
        if (mine >= p->opts.link_mapped_bytes_max)
                return -EDQUOT;
        if (p->mapped >= p->opts.mapped_bytes_max)
                return -ENOBUFS;
        uint64_t a = p->opts.link_mapped_bytes_max - mine, b = p->opts.mapped_bytes_max - p->mapped;
        uint64_t c = wh_bill_left(&l->bill, WH_SHARE_BYTES);
        a = a < b ? a : b;
        l->refusal = c < a ? WH_REFUSAL_BYTES : WH_REFUSAL_PLAIN;
        return c == 0 ? -EDQUOT : (int64_t)(a < c ? a : c);
}

void wh_port_mapped(struct wh_link *l)
{
        const uint64_t now = link_maps(l);
        wh_bill_set(&l->bill, WH_SHARE_BYTES, now + l->stash_held); /* asked for by wh_port_may_map() */
        l->port->mapped += now - l->mapped;
        l->mapped = now;
}

int wh_port_rebound(struct wh_link *l)
{
        struct wh_change *c = &l->change;
        if (c->sock < 0)
                return wh_trace(-EPROTO);
        int on = 1;
        uint32_t id = atomic_load_explicit(&l->o.name, memory_order_relaxed);
        if (wh_os_setsockopt(c->sock, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0 ||
            wh_os_epoll_add(l->inbox->ep, c->sock, EPOLLIN | EPOLLRDHUP | EPOLLET, wh_ep_tag(WH_EP_LINK, id)) < 0)
                return wh_trace(-ENOMEM);
        /* Of unrelated pid and user namespaces the kernel can say neither: then the sender is nobody, and served as
         * such. */
        const struct wh_cred was = l->cred;
        const struct wharf_sender who = l->who;
        const struct wharf_introducer given = l->given;
        const uid_t payer = l->bill.payer;
        l->given = wh_given_fold(given, c->given);
        wh_link_identify(l, &c->cred, c->known);
        int refused = wh_port_sender_known(l);
        if (refused == 0)
                refused = wh_link_take_frame(l);
        if (refused < 0) { /* the frame is there still, so all is as before */
                l->cred = was;
                l->who = who;
                l->given = given;
                wh_port_payer(l, payer);
                wh_os_epoll_del(l->inbox->ep, c->sock);
                return refused;
        }
        struct wh_hello h;
        link_hello(l, &h);
        wh_lock(&l->o.lock);
        /* Nothing is written to the old pair after this greeting, which says where our own lane ends (K6). */
        struct wh_frame f = {.type = WH_FRAME_HELLO, .seq = l->tx_seq, .arg = WH_CHANGE_GREETING};
        if (l->tx || l->tx_had_lane) {
                f.arg |= WH_CHANGE_LANE;
                f.total = l->tx ? l->tx->ring.records : l->tx_ended;
        }
        int r = wh_frame_greet(c->sock, &f, &h);
        /* A holder whose first pair this is waits for no greeting there. */
        if (r < 0 && r != -EPIPE && (l->renews || c->awaited)) {
                wh_unlock(&l->o.lock);
                wh_os_epoll_del(l->inbox->ep, c->sock);
                return wh_trace(r == -EAGAIN ? -EPROTO : -ENOMEM);
        }
        if (l->tx)
                wh_link_leave_lane(l);
        l->tx_had_lane = false;
        l->detour &= (uint8_t) ~(WH_DETOUR_RENEW | WH_DETOUR_ABORT);
        l->tx_over = l->tx_over == -EPIPE ? 0 : l->tx_over; /* that was the old pair */
        wh_os_epoll_del(l->inbox->ep, l->sock); /* before it is closed: a copy elsewhere would keep it firing */
        /* Whoever introduced it may have copies of both ends. */
        wh_os_close_end(l->sock, wh_link_end_how(l) & ~WH_END_OURS);
        l->sock = c->sock;
        c->sock = -1;
        if (c->told)
                wh_port_renew(l); /* or with the next answer */
        wh_unlock(&l->o.lock);
        l->connected = false;
        l->hung_up = false;
        return 0;
}

int wh_port_renew(struct wh_link *l)
{
        struct wh_frame f = {.type = WH_FRAME_RENEW, .seq = l->tx_seq};
        if (l->tx_had_lane) {
                f.arg = WH_CHANGE_LANE;
                f.total = l->tx_ended;
        }
        if (l->once) { /* whose one message is all there will be */
                l->detour &= (uint8_t)~WH_DETOUR_RENEW;
                return 0;
        }
        int r = wh_link_frame(l, &f, NULL, 0, NULL, false);
        if (r < 0) {
                l->detour |= WH_DETOUR_RENEW;
                return r;
        }
        l->detour &= (uint8_t)~WH_DETOUR_RENEW;
        l->tx_had_lane = false;
        /* [lane-renew] Relaxed: a hint; the frame itself says it. Pairs with the load in tx_published(). */
        if (l->rx)
                atomic_store_explicit(&l->rx->ring.back->renew, l->renews, memory_order_relaxed);
        return 0;
}

int wh_watch_socket(struct wh_link *l, bool add)
{
        struct wh_inbox *in = l->watch;
        if (!add)
                l->watch = NULL;
        int r = wh_watch_update(l, in);
        l->watch = in;
        return r;
}

int wh_watch_update(struct wh_link *l, struct wh_inbox *in)
{
        uint32_t name = atomic_load_explicit(&l->o.name, memory_order_relaxed), events = 0;
        if (l->watch == in)
                events |= EPOLLRDHUP | EPOLLET | (l->kept ? EPOLLIN : 0);
        for (unsigned i = 0; i < WH_ROOM_NOTICES; i++)
                if (l->room[i].inbox == in)
                        events |= EPOLLIN | EPOLLRDHUP | EPOLLET;
        if (events == 0)
                return wh_os_epoll_del(in->ep, l->sock);
        int r = wh_os_epoll_mod(in->ep, l->sock, events, wh_ep_tag(WH_EP_WATCH, name));
        return r == -ENOENT ? wh_os_epoll_add(in->ep, l->sock, events, wh_ep_tag(WH_EP_WATCH, name)) : r;
}

/* ---- public: rights to a port, sets, descriptors, figures ---- */

WHARF_API int wharf_port_fd(wharf_task *t, wharf_name name, int *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        int err;
        struct wh_port *p;
        struct wh_inbox *in = wh_inbox_lock(t, name, &p, &err);
        if (!in)
                return wh_fail_at(t, err, name);
        if (!in->pollable)
                inbox_bell(in, true); /* readable until a receive finds nothing: then everything is armed (P3) */
        in->pollable = true;
        *ret = in->ep;
        wh_unlock(&in->lock);
        return 0;
}

static int listen_no_more(wharf_task *t, wharf_name port)
{
        int err;
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return wh_fail_at(t, err, port);
        struct wh_inbox *in = p->inbox;
        if (p->listen_fd >= 0) {
                wh_os_epoll_del(in->ep, p->listen_fd);
                p->listen_fd = -1;
                p->accepts_owed = false;
                wh_inbox_wake_all(in); /* its last chance of a sender may be gone with it */
        }
        wh_unlock(&in->lock);
        return 0;
}

WHARF_API int wharf_port_listen(wharf_task *t, wharf_name port, int fd)
{
        int err, on = 0, type = 0;
        socklen_t len = sizeof on;
        if (fd == -1)
                return listen_no_more(t, port);
        if (wh_os_getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) < 0 || !on)
                return wh_fail(-EINVAL, "descriptor %d is no listening socket", fd);
        len = sizeof type;
        if (wh_os_getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET)
                return wh_fail(-EINVAL, "descriptor %d is no SOCK_SEQPACKET socket", fd);
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return wh_fail_at(t, err, port);
        struct wh_inbox *in = p->inbox;
        int r = p->listen_fd >= 0 ? -EBUSY : wh_os_nonblock(fd, true);
        /* So that what is accepted has the kernel say who sent each frame from the first on: nothing comes in between. */
        on = 1;
        if (r == 0)
                r = wh_os_setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
        if (r == 0)
                r = wh_os_epoll_add(in->ep, fd, EPOLLIN | EPOLLET, wh_ep_tag(WH_EP_LISTEN, port));
        if (r == 0) {
                p->listen_fd = fd;
                links_changed(p);
        }
        wh_unlock(&in->lock);
        return wh_fail(r, r == -EBUSY ? "port %u listens already, or is on its way to another task" : NULL, port);
}

void wh_port_stat_locked(struct wh_port *p, struct wharf_port_stat *ret)
{
        uint64_t queued = 0;
        wh_list_for (n, &p->links) {
                struct wh_link *l = wh_container(n, struct wh_link, in_port);
                if (!l->rx) {
                        queued += l->stash.full;
                        continue;
                }
                /* A claim of the sender's; more than a ring can hold is no number at all. */
                uint64_t sent = atomic_load_explicit(&l->rx->ring.out->sent_messages, memory_order_relaxed);
                uint64_t d = sent - l->rx_seq;
                queued += d <= (p->opts.capacity_records == WHARF_UNBOUNDED ? UINT32_MAX : 65536) ? d : 0;
        }
        *ret = (struct wharf_port_stat){
                .size = sizeof *ret,
                .senders = p->n_links,
                .id = p->id,
                .queued_messages = queued,
                .received_messages = p->received_messages,
                .received_bytes = p->received_bytes,
                .mapped_bytes = p->mapped,
                .refused_links = p->refused,
                .receivers_waiting = atomic_load_explicit(&p->inbox, memory_order_relaxed)->waiters,
                .once_rights = p->n_once,
                .made_rights = p->made,
        };
}

WHARF_API int wharf_port_stat(wharf_task *t, wharf_name port, struct wharf_port_stat *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        int err;
        if (ret->size != sizeof *ret)
                return wh_fail(-EINVAL, "wharf_port_stat.size is %u, expected %zu", ret->size, sizeof *ret);
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return wh_fail_at(t, err, port);
        struct wh_inbox *in = p->inbox;
        wh_port_stat_locked(p, ret);
        wh_unlock(&in->lock);
        return wh_fail(0, NULL);
}

static void forget(struct wh_object *o, void *arg)
{
        struct wh_link *l = (struct wh_link *)o;
        /* The lanes were not inherited (MADV_DONTFORK) and the sockets are closed: only private memory is left. */
        wharf_task *t = arg;
        if (o->kind == WHARF_KIND_SEND || o->kind == WH_KIND_LINK) {
                if (!l->stash.mapped && !l->direct)
                        free(l->stash.bytes);
                for (unsigned i = 0; l->tx && i < l->tx->n_sections; i++)
                        free(l->tx->section[i].buddy);
                if (l->tx)
                        free(l->tx->large);
                free(l->unread_replies);
                free(l->tx);
                free(l->rx);
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
        wh_table_each(&t->links, forget, t);
        wh_table_each(&t->names, forget, t);
}

/* Move a port, with its links, from one inbox to another; both are locked. On failure it stays where it is. */
static int port_move(struct wh_port *p, struct wh_inbox *from, struct wh_inbox *to)
{
        int r = p->listen_fd >= 0
                        ? wh_os_epoll_add(to->ep, p->listen_fd, EPOLLIN | EPOLLET, wh_ep_tag(WH_EP_LISTEN, p->o.name))
                        : 0;
        struct wh_list *stop = &p->links;
        wh_list_for (n, &p->links) {
                struct wh_link *l = wh_container(n, struct wh_link, in_port);
                if (r < 0 || (r = wh_os_epoll_add(to->ep, l->sock, EPOLLIN | EPOLLRDHUP | EPOLLET,
                                                  wh_ep_tag(WH_EP_LINK, l->o.name))) < 0) {
                        stop = n;
                        break;
                }
        }
        struct wh_inbox *out = r < 0 ? to : from; /* whose entries go */
        for (struct wh_list *n = p->links.next; n != stop; n = n->next) {
                struct wh_link *l = wh_container(n, struct wh_link, in_port);
                wh_os_epoll_del(out->ep, l->sock);
                if (r < 0)
                        continue;
                if (!l->waits)
                        wh_list_remove(&l->hot);
                l->inbox = to;
                l->sock_ready = true;
                make_hot(to, l);
        }
        if (p->listen_fd >= 0)
                wh_os_epoll_del(out->ep, p->listen_fd);
        if (r < 0)
                return r;
        if (from->direct && from->direct->port == p)
                from->direct = NULL;
        if (from->unfit && from->unfit->port == p)
                from->unfit = NULL;
        wh_list_remove(&p->in_inbox);
        wh_list_push_back(&to->ports, &p->in_inbox);
        if (p->at_door >= 0)
                to->at_door = to->accepts_owed = to->accepts_more = true;
        wh_notices_move(p, p->o.name, to);
        wh_places_look(to); /* what was freed until now was told where it came from */
        links_changed(p);
        watches_move(p, p->o.name, to);
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
        int r = inbox_init(&s->inbox, t);
        if (r == 0 && (r = wh_table_add(&t->names, &s->o)) < 0)
                inbox_done(&s->inbox);
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

static int set_change(wharf_task *t, wharf_name set, wharf_name port, bool add)
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
        int r = set_change(t, set, port, true);
        return r == -EBUSY ? wh_fail(r, "port %u is in a set already, or on its way to another task", port)
                           : set_fail(t, r, set, port);
}

WHARF_API int wharf_set_remove(wharf_task *t, wharf_name set, wharf_name port)
{
        int r = set_change(t, set, port, false);
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
        inbox_expel(&s->inbox);
        wh_unlock(&s->inbox.lock);
        inbox_done(&s->inbox);
        wh_task_give(t, o);
        return 0;
}
