/*
 * The inbox: where threads wait for the links of a port, or of the ports of a set. Its rules stand in port.h.
 */
#include "port/owned.h"
#include "link/pump.h"
#include "port/port.h"

#include "base/trace.h"
#include "os/os.h"
#include "port/places.h"

#include <errno.h>
#include <stdlib.h>

int wh_inbox_init(struct wh_inbox *in, wharf_task *t)
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
        in->look_at = WH_LOOK_CLOCK;
        in->looked = 0;
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

void wh_inbox_done(struct wh_inbox *in)
{
        struct wh_list *n;
        while ((n = wh_list_pop_front(&in->notices)))
                free(wh_container(n, struct wh_notice, node));
        wh_turns_done(in);
        wh_lingering_forget(in);
        wh_os_close(in->ep);
        in->ep = -1;
}

void wh_inbox_bell(struct wh_inbox *in, bool set)
{
        if (in->bell_set != set &&
            wh_os_epoll_mod(in->ep, in->task->wake[0], set ? EPOLLIN : 0, wh_ep_tag(WH_EP_BELL, 0)) == 0)
                in->bell_set = set;
}

void wh_inbox_wake_all(struct wh_inbox *in)
{
        atomic_fetch_add_explicit(&in->turn, 1, memory_order_relaxed);
        if (in->waiters || in->pollable)
                wh_inbox_bell(in, true); /* the leader, in epoll_wait(); and P3, for what is known without an event */
        if (in->waiters)
                wh_os_futex_wake(&in->turn, INT32_MAX, false);
}

void wh_inbox_turn(struct wh_inbox *in)
{
        atomic_fetch_add_explicit(&in->turn, 1, memory_order_relaxed);
        wh_os_futex_wake(&in->turn, INT32_MAX, false);
}

void wh_inbox_leave_slow(struct wh_inbox *in, bool armed)
{
        if (wh_unlikely(in->waiters && !in->leader))
                wh_inbox_turn(in);
        if (wh_unlikely(in->pollable && !armed))
                wh_inbox_bell(in, true); /* P3; the next receive that finds nothing takes it back */
}

void wh_inbox_heat(struct wh_inbox *in, struct wh_link *l)
{
        if (wh_unlikely(l->in.waits))
                return; /* places.G1 */
        if (!wh_list_linked(&wh_owned(l)->hot)) {
                wh_owned(l)->served = wh_owned(l)->empty = 0;
                wh_turn_first(in, l);
        }
        if (l->in.armed && l->in.lane)
                wh_ring_awake(&l->in.lane->ring);
        l->in.armed = false;
}

void wh_port_look_at(struct wh_link *l)
{
        l->in.sock_ready = true;
        l->in.armed = true; /* so says `back`, perhaps */
        wh_inbox_heat(wh_owned(l)->inbox, l);
}

enum {
        COOL_AFTER = 1024, /* looks in vain, before a link is armed and left alone */
        COOL_KEEP = 4,     /* links that stay hot however silent: looking at these costs less than their waking us */
};

static void inbox_event(struct wh_inbox *in, const struct epoll_event *ev)
{
        uint32_t name = (uint32_t)ev->data.u64;
        switch (ev->data.u64 >> 32) {
        case WH_EP_BELL:
                if (!in->pollable)
                        wh_inbox_bell(in, false);
                return;
        case WH_EP_LISTEN:
                wh_port_accept(in, name, false);
                return;
        case WH_EP_WATCH:
                in->watches->event(in, name, ev->events);
                return;
        case WH_EP_NOTICE:
                wh_notices_take(in);
                return;
        case WH_EP_OVER:
                wh_lingering_event(in->task, in, (int)name);
                return;
        case WH_EP_LINK: {
                struct wh_link *l = (struct wh_link *)wh_table_find(&in->task->links, name);
                /* Stale where a link was closed after the kernel had reported it. */
                if (!l || atomic_load_explicit(&l->o.name, memory_order_relaxed) != name || wh_owned(l)->inbox != in)
                        return;
                l->in.sock_ready = l->in.rung = true;
                if (ev->events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR))
                        wh_link_hung_up(l);
                if (wh_unlikely(l->in.waits && l->in.hung_up))
                        wh_place_unwait(l); /* places.G2 */
                wh_inbox_heat(in, l);
                return;
        }
        }
}

/* Leave the silent ones to their doorbells: where many links were hot, every look pays for all of them. */
static void inbox_cool(struct wh_inbox *in)
{
        unsigned n = 0;
        wh_list_for_safe (k, &in->hot) {
                struct wh_link *l = &wh_container(k, struct wh_owned, hot)->link;
                if (++n <= COOL_KEEP || wh_owned(l)->empty < COOL_AFTER || l->over || l->in.hung_up ||
                    (!l->in.lane && l->in.sock_ready))
                        continue;
                if (wh_link_arm(l)) {
                        wh_list_remove(&wh_owned(l)->hot);
                } else if (l->in.lane) {
                        wh_ring_awake(&l->in.lane->ring);
                        l->in.armed = false;
                }
        }
}

static bool long_since_look(const struct wh_inbox *in)
{
        return wh_os_ticks() - in->looked >= WH_LOOK_US * in->task->ticks_per_us;
}

/* Everybody who is idle has just been asked about. */
static void looked(struct wh_inbox *in)
{
        in->look_at = long_since_look(in) ? 1 : WH_LOOK_CLOCK;
        in->since_look &= WH_LOOK_MIXED;
        in->looked = wh_os_ticks();
}

bool wh_inbox_look_due(struct wh_inbox *in)
{
        const uint32_t since = in->since_look & ~(uint32_t)WH_LOOK_MIXED;
        if (since >= WH_LOOK_EVERY || long_since_look(in))
                return true;
        in->look_at = since + WH_LOOK_CLOCK;
        return false;
}

int wh_inbox_look(struct wh_inbox *in)
{
        struct epoll_event ev[WH_INBOX_EVENTS];
        looked(in);
        inbox_cool(in);
        if (wh_unlikely(in->accepts_owed))
                wh_inbox_accept_owed(in);
        int n = wh_os_epoll_wait(in->ep, ev, WH_INBOX_EVENTS, 0);
        for (int i = 0; i < n; i++)
                inbox_event(in, &ev[i]);
        return n;
}

bool wh_link_has_something(const struct wh_link *l)
{
        struct wh_rec rec;
        struct wh_ring_rx ring;
        if (l->over || l->came)
                return true;
        if (l->in.waits)
                return false; /* also a whole message, with a port that finds no place */
        if (l->in.stash.full || l->in.hung_up || (!l->in.lane && l->in.sock_ready))
                return true;
        if (l->in.change.due)
                return true;
        if (!l->in.lane)
                return false;
        ring = l->in.lane->ring; /* a copy, since a pad is skipped by looking */
        return wh_ring_peek(&ring, &rec) != 0;
}

bool wh_inbox_has_message(struct wh_inbox *in)
{
        struct wh_rec rec;
        wh_list_for (n, &in->hot) {
                struct wh_link *l = &wh_container(n, struct wh_owned, hot)->link;
                if (l->in.lane && wh_ring_peek(&l->in.lane->ring, &rec) != 0)
                        return true;
                wh_owned(l)->empty++;
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
                                struct wh_link *l = &wh_container(n, struct wh_owned, hot)->link;
                                if (l->in.sock_ready && (!l->in.lane || l->in.hung_up))
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
                struct wh_link *l = &wh_container(n, struct wh_owned, hot)->link;
                if (!wh_link_arm(l) || l->over || l->in.hung_up || (!l->in.lane && l->in.sock_ready)) {
                        if (l->in.lane)
                                wh_ring_awake(&l->in.lane->ring);
                        l->in.armed = false;
                        cool = false;
                        if (!all)
                                return false;
                        continue;
                }
                wh_list_remove(&wh_owned(l)->hot);
        }
        return cool;
}

/* Who can send to this port, as far as it fits the page. */
static void tell_senders(struct wh_port *p, const struct wh_inbox *in)
{
        uint32_t senders[WH_WAIT_SENDERS_MAX], n = 0, unknown = 0, left = 64;
        uint32_t flags = p->listen_fd >= 0 ? WH_WAIT_LISTENS : 0;
        p->waits_told = true;
        wh_list_for (pos, &p->links) {
                const struct wh_link *l = &wh_container(pos, struct wh_owned, in_port)->link;
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
                struct wh_link *l = &wh_container(n, struct wh_owned, hot)->link;
                if (l->in.lane && wh_ring_idle(&l->in.lane->ring))
                        wh_link_bell(l);
        }
}

/* A receive that does not wait: 0 or -EAGAIN. */
static int look_once(struct wh_inbox *in, const struct wh_link *only)
{
        inbox_tell_taken(in);
        if (in->leader)
                return -EAGAIN; /* another thread is there, and will see to it */
        wh_inbox_look(in);
        if (only) {
                if (in->pollable) /* P3, for what others sent */
                        wh_inbox_bell(in, !inbox_arm(in, true) || !wh_list_empty(&in->notices) || in->accepts_more);
                return wh_link_has_something(only) ? 0 : -EAGAIN;
        }
        if (in->pollable) {
                if (!inbox_arm(in, false) || !wh_list_empty(&in->notices) || in->accepts_more)
                        return 0;
                wh_inbox_bell(in, false); /* P3: everything is armed, and nothing was there */
                inbox_tell_waiting(in);
                return -EAGAIN;
        }
        if (!wh_list_empty(&in->notices))
                return 0;
        wh_list_for (n, &in->hot)
                if (wh_link_has_something(&wh_container(n, struct wh_owned, hot)->link))
                        return 0;
        return -EAGAIN;
}

/* Sleep on `turn`: the leader, or whoever leaves, wakes all. */
static int follow(struct wh_inbox *in, const struct wh_link *only, int64_t deadline_ns)
{
        /* A leader that waits for one link does not watch the hot ones, so they must ring. */
        if (in->leader_has_only && !inbox_arm(in, only != NULL) && !only)
                return 0;
        if (only && wh_link_has_something(only))
                return 0;
        const uint32_t turn = atomic_load_explicit(&in->turn, memory_order_relaxed);
        unsigned waits = inbox_waits(in, only, deadline_ns);
        wh_unlock(&in->lock);
        int r = wh_os_futex_wait(&in->turn, turn, deadline_ns, false);
        wh_waits_end(&in->task->waits, waits);
        wh_lock(&in->lock);
        return r == -ETIMEDOUT ? r : 0;
}

/*
 * P3: others have something, which whoever polls is to hear of, and this thread waits for one link alone. The bell would keep it
 * awake, so it sleeps at that link's socket, and looks now and then whether somebody else wants it awake.
 */
static int asleep_beside(struct wh_inbox *in, int sock, struct epoll_event *ev, int64_t deadline_ns)
{
        enum { LOOK_NS = 10 * 1000 * 1000 };
        struct pollfd p = {.fd = sock, .events = POLLIN | POLLRDHUP};
        const int64_t now = wh_os_now_ns(), until = deadline_ns - now < LOOK_NS ? deadline_ns : now + LOOK_NS;
        const int r = wh_os_poll(&p, 1, until);
        int n = r < 0 ? r : wh_os_epoll_wait(in->ep, ev, WH_INBOX_EVENTS, 0);
        if (n == 0 && r > 0) { /* what is there was there before, and is not for us */
                p.fd = -1;
                wh_os_poll(&p, 1, until);
                n = wh_os_epoll_wait(in->ep, ev, WH_INBOX_EVENTS, 0);
        }
        return n == 0 && wh_os_now_ns() < deadline_ns ? -EINTR : n;
}

static int lead_asleep(struct wh_inbox *in, struct wh_link *only, int64_t deadline_ns)
{
        struct epoll_event ev[WH_INBOX_EVENTS];
        const bool others =
                only && in->pollable && (!wh_list_empty(&in->hot) || !wh_list_empty(&in->notices) || in->accepts_more);
        if (others && only->in.lane && only->in.armed) { /* doorbells that lie there would end the sleep at once */
                in->budget = WH_BUDGET;
                wh_pump_bells(only);
                if (wh_link_has_something(only))
                        return 0;
        }
        const int sock = only ? only->sock : -1;
        if (in->pollable)
                wh_inbox_bell(in, others);
        inbox_tell_waiting(in);
        unsigned waits = inbox_waits(in, only, deadline_ns);
        wh_unlock(&in->lock);
        int n = others ? asleep_beside(in, sock, ev, deadline_ns)
                       : wh_os_epoll_wait(in->ep, ev, WH_INBOX_EVENTS, deadline_ns);
        wh_waits_end(&in->task->waits, waits);
        wh_lock(&in->lock);
        for (int i = 0; i < n; i++)
                inbox_event(in, &ev[i]);
        looked(in);
        return n == 0 ? -ETIMEDOUT : n == -EINTR ? 0 : n < 0 ? n : 0;
}

/* Spin, sleep, and hear the epoll for all. */
static int lead(struct wh_inbox *in, struct wh_link *only, int64_t deadline_ns)
{
        int r = 0;
        in->leader = true;
        in->leader_has_only = only != NULL;
        bool sleep = only || !inbox_spin(in, deadline_ns);
        if (sleep)
                sleep = inbox_arm(in, only != NULL);
        if (only)
                sleep = !wh_link_has_something(only);
        if (wh_unlikely(in->accepts_owed))
                wh_inbox_accept_owed(in);
        if (sleep && !in->accepts_more)
                r = lead_asleep(in, only, deadline_ns);
        else if (!only)
                in->looked = wh_os_ticks();
        in->leader = false;
        return r;
}

int wh_inbox_wait(struct wh_inbox *in, struct wh_link *only, int64_t deadline_ns)
{
        if (deadline_ns == 0)
                return look_once(in, only);
        if (!only && !wh_list_empty(&in->notices))
                return 0; /* the look before this has found them */
        /* Here, and not only where we sleep: a sender that wakes us without end must not keep us. */
        if (deadline_ns != WH_NEVER && wh_os_now_ns() >= deadline_ns) {
                if (!in->leader)
                        wh_inbox_look(in);
                return -ETIMEDOUT;
        }
        in->waiters++;
        const bool leads = !in->leader;
        int r = leads ? lead(in, only, deadline_ns) : follow(in, only, deadline_ns);
        in->waiters--;
        if (leads && only && in->waiters)
                wh_inbox_turn(in);
        return r;
}

void wh_inbox_expel(struct wh_inbox *in)
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
