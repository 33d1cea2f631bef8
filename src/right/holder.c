/*
 * How the holder's end of a link waits: for room, for a reply, or for both.
 *
 * One thread at a time, the leader, reads the link for all that wait on it; the others sleep on `turn`. Replies that it
 * finds for others are kept in their calls until they look (call.c).
 */
#include "link/direct.h"
#include "right/calls.h"
#include "right/held.h"
#include "right/right.h"
#include "task/waits.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>

struct wh_held *wh_held_new(wharf_task *t, int sock)
{
        struct wh_link *l = wh_link_new(t, WHARF_KIND_SEND, sock, &wh_holder_end);
        if (!l)
                return NULL;
        struct wh_held *h = wh_held(l);
        h->spin_us = t->spin_us_max;
        wh_list_init(&h->calls);
        wh_list_init(&h->told);
        return h;
}

void wh_held_done(struct wh_held *h)
{
        wh_windows_done(&h->link);
        wh_link_done(&h->link);
}

void wh_holder_turn(struct wh_link *l)
{
        atomic_fetch_add_explicit(&wh_held(l)->turn, 1, memory_order_relaxed);
        if (wh_held(l)->waiters)
                wh_os_futex_wake(&wh_held(l)->turn, INT32_MAX, false);
}

bool wh_reply_there(struct wh_link *l)
{
        struct wh_rec rec;
        return l->in.stash.full || (l->in.lane && wh_ring_peek(&l->in.lane->ring, &rec) != 0);
}

struct wh_room wh_room_now(const struct wh_link *l)
{
        if (!l->out.lane)
                return (struct wh_room){.claim = l->out.cold_taken};
        const struct wh_back *b = l->out.lane->ring.back;
        return (struct wh_room){
                atomic_load_explicit(&b->taken_records, memory_order_relaxed),
                atomic_load_explicit(&b->taken_lines, memory_order_relaxed),
                l->out.offer ? atomic_load_explicit(&b->claim, memory_order_relaxed) : 0,
                atomic_load_explicit(&b->released_count, memory_order_relaxed),
        };
}

/* Did the receiver give anything back since? Where the socket is full, room in the lane is not what we wait for. */
static bool room_came(const struct wh_link *l, const struct wh_room *seen)
{
        if (!seen || l->out.sock_full)
                return false;
        struct wh_room r = wh_room_now(l);
        return r.records != seen->records || r.lines != seen->lines || r.released != seen->released ||
               r.claim != seen->claim;
}

/*
 * The last look of one that is about to sleep. The receiver tells what it takes by plain stores (R9): one that it made
 * before it could see our announcement is visible a moment later.
 */
static bool room_soon(struct wh_link *l, const struct wh_room *seen)
{
        if (room_came(l, seen))
                return true;
        wh_room_moment();
        return room_came(l, seen);
}

/* What this wait is for is there. Whoever waits for room clears replies away: they are for others, or for later. */
static bool holder_found(struct wh_link *l, const struct wh_room *seen)
{
        if (seen && wh_reply_there(l) && wh_calls_file(l) == WH_LINK_LATER)
                return true; /* there are more: look again */
        return seen ? room_came(l, seen) : wh_reply_there(l);
}

static bool holder_spin(struct wh_link *l, const struct wh_room *seen, int64_t deadline_ns)
{
        struct wh_held *h = wh_held(l);
        wharf_task *t = l->task;
        bool forever = t->spin_us_max == WHARF_SPIN;
        if (!(seen && l->out.lane && !l->out.sock_full) && !l->in.lane && !forever)
                return false; /* nothing to look at: frames come by the socket */
        uint32_t us = h->spin_us;
        if (!forever && us == 0) {
                if (t->spin_us_max == 0 || ++h->spin_misses % 64)
                        return false;
                us = WH_SPIN_PROBE * t->spin_us_max;
        }
        uint64_t start = wh_os_ticks(), limit = (uint64_t)us * t->ticks_per_us, looked = start;
        uint32_t turn = atomic_load_explicit(&h->turn, memory_order_relaxed);
        for (;;) {
                for (int i = 0; i < 32; i++) {
                        if (holder_found(l, seen)) {
                                h->spin_us = t->spin_us_max;
                                h->spin_misses = 0;
                                return true;
                        }
                        wh_relax();
                }
                uint64_t now = wh_os_ticks();
                if (now - looked > 8 * t->ticks_per_us) {
                        looked = now;
                        struct pollfd p = {.fd = l->sock, .events = POLLIN};
                        if (forever && wh_os_poll(&p, 1, 0) > 0)
                                return false; /* the slow way reads it */
                        if (forever && l->over)
                                return true;
                        if (forever && deadline_ns != WH_NEVER && wh_os_now_ns() >= deadline_ns)
                                return false;
                }
                if (!forever && now - start > limit)
                        break;
                if (atomic_load_explicit(&h->turn, memory_order_relaxed) != turn)
                        return true;
                wh_unlock(&l->o.lock);
                wh_relax();
                wh_lock(&l->o.lock);
        }
        if (++h->spin_misses >= 8) {
                h->spin_us = 0;
                h->spin_misses = 0;
        }
        return false;
}

/* A thread is about to sleep here: say so on the task's page. */
static unsigned holder_waits(struct wh_link *l, bool room, int64_t deadline_ns)
{
        uint32_t flags = room && l->hello.capacity_records == WHARF_RENDEZVOUS ? WHARF_WAIT_RENDEZVOUS : 0;
        return wh_waits_begin(&l->task->waits, room ? WHARF_WAITS_SEND : WHARF_WAITS_CALL, flags, l->hello.port_id, 0,
                              0, deadline_ns);
}

enum { BLIND_MAX = 16 };

/*
 * The socket says again and again that something is there, and there is nothing when we look: others may have our end,
 * and have us look behind what there is (SO_PEEK_OFF). It would end every sleep.
 */
static void holder_blinded(struct wh_link *l)
{
        const uint32_t before = l->in.budget;
        wh_held(l)->blind = 0;
        if (l->in.stash.full || l->in.items.n || l->in.sock_ended || l->in.change.due ||
            (l->in.lane && l->in.lane->next))
                return; /* it was not looked at: something else is first */
        if (wh_os_inq(l->sock) > 0 && wh_link_pump(l) == 0 && l->in.budget == before)
                wh_link_break(l, wh_trace(-EPROTO));
}

enum { VIAS_FEW = 31 }; /* delegated replies that are polled without asking for memory */

static bool call_delegated(const struct wh_link *l)
{
        wh_list_for (n, &wh_held(l)->calls) {
                const struct wh_call *c = wh_container(n, struct wh_call, node);
                if (c->via >= 0 && !c->done)
                        return true;
        }
        return false;
}

/* What a leader has seen when it wakes. */
struct waking {
        bool gone;    /* the other side is */
        bool woken;   /* the socket has something */
        int short_of; /* something of it stays where it is, for want of that, and would end every sleep */
};

/* Sleep on `turn`: the leader wakes all. */
static int follow(struct wh_link *l, const struct wh_room *seen, int64_t deadline_ns)
{
        struct wh_held *h = wh_held(l);
        const uint32_t turn = atomic_load_explicit(&h->turn, memory_order_relaxed);
        bool asleep = true;
        int r = 0;
        if (seen && l->out.lane) {
                wh_ring_want(&l->out.lane->ring, true);
                asleep = !room_soon(l, seen);
        }
        struct pollfd p = {.fd = l->sock, .events = POLLOUT};
        const bool sock_full = seen && l->out.sock_full;
        unsigned waits = holder_waits(l, seen != NULL, deadline_ns);
        wh_unlock(&l->o.lock);
        if (sock_full) /* the leader may not ask for that */
                r = wh_os_poll(&p, 1, deadline_ns) == 0 ? -ETIMEDOUT : 0;
        else if (asleep)
                r = wh_os_futex_wait(&h->turn, turn, deadline_ns, false);
        wh_waits_end(&l->task->waits, waits);
        wh_lock(&l->o.lock);
        return r == -ETIMEDOUT ? r : 0;
}

/* Announce what is waited for, and look once more before the sleep (as in wh_inbox_wait()). True: it is there. */
static bool announce(struct wh_link *l, const struct wh_room *seen)
{
        if (l->in.lane && wh_ring_sleep(&l->in.lane->ring))
                wh_link_bell(l);
        if (wh_held(l)->room_waiters && l->out.lane)
                wh_ring_want(&l->out.lane->ring, true);
        return holder_found(l, seen) || (l->over && !call_delegated(l)) || (seen && l->out.lane && room_soon(l, seen));
}

int wh_calls_read_vias(struct wh_link *l)
{
        struct wh_list *calls = &wh_held(l)->calls, *last = calls->prev, *node = NULL;
        int short_of = 0;
        while (l->in.budget && node != last && (node = wh_list_pop_front(calls))) {
                struct wh_call *c = wh_container(node, struct wh_call, node);
                wh_list_push_back(calls, node);
                if (c->via >= 0 && !c->done && wh_call_read_via(l, c) == -ENOMEM)
                        short_of = -ENOMEM;
        }
        return short_of;
}

/* Sleep on all sockets on which something may come: the link's, that of the pair before, and those of delegated replies. */
static int lead_asleep(struct wh_link *l, bool room, int late, int64_t deadline_ns, struct waking *w)
{
        struct wh_held *h = wh_held(l);
        struct pollfd few[2 + VIAS_FEW], *p = few;
        unsigned vias = 0, n = 2;
        wh_list_for (k, &h->calls)
                vias += wh_container(k, struct wh_call, node)->via >= 0;
        if (vias > VIAS_FEW && !(p = wh_os_malloc((2 + vias) * sizeof *p)))
                return wh_trace(-ENOMEM);
        /* A socket that is over would end every sleep: what is waited for comes by another. */
        p[0] = (struct pollfd){.fd = l->over ? -1 : l->sock,
                               .events = (short)(POLLIN | (l->out.sock_full ? POLLOUT : 0))};
        p[1] = (struct pollfd){.fd = l->over ? -1 : l->in.old_sock, .events = POLLIN};
        wh_list_for (k, &h->calls) {
                struct wh_call *c = wh_container(k, struct wh_call, node);
                if (c->via >= 0 && !c->done)
                        p[n++] = (struct pollfd){.fd = c->via, .events = POLLIN};
        }
        unsigned waits = late ? WH_WAITS_NONE : holder_waits(l, room, deadline_ns);
        wh_unlock(&l->o.lock);
        const int k = wh_os_poll(p, n, late ? 0 : deadline_ns);
        wh_waits_end(&l->task->waits, waits);
        wh_lock(&l->o.lock);
        if (k > 0 && p[0].revents & (POLLHUP | POLLERR)) {
                wh_link_hung_up(l);
                w->gone = true;
        }
        w->woken = k > 0 && p[0].revents & POLLIN;
        if (k > 0 && (p[0].revents & POLLIN || p[1].revents)) {
                l->in.sock_ready = true;
                l->in.arms = UINT32_MAX / 2; /* poll is level-triggered: the doorbell must be read */
        }
        if (k > 0 && n > 2)
                w->short_of = wh_calls_read_vias(l);
        if (p != few)
                free(p);
        if (late)
                return late; /* whatever it found: the caller looks once more */
        return k == 0 ? -ETIMEDOUT : k == -EINTR ? 0 : k < 0 ? k : 0;
}

/* Spin, sleep, and read the socket for all. */
static int lead(struct wh_link *l, const struct wh_room *seen, int late, int64_t deadline_ns)
{
        struct wh_held *h = wh_held(l);
        struct waking w = {0};
        int r = 0;
        l->in.leader = true;
        if (late || (!holder_spin(l, seen, deadline_ns) && !announce(l, seen)))
                r = lead_asleep(l, seen != NULL, late, deadline_ns, &w);
        if (l->in.lane)
                wh_ring_awake(&l->in.lane->ring);
        l->in.leader = false;
        if (l->in.sock_ready && l->over == 0) {
                /* Greetings, refusals, the end: whoever waits for room wants to know. Replies stay put. */
                const uint32_t before = l->in.budget;
                int pumped = wh_link_read(l, WH_UNTIL_EMPTY, 0);
                h->blind = w.woken && l->in.budget == before && pumped == 0 ? h->blind + 1 : 0;
                if (wh_unlikely(h->blind == BLIND_MAX))
                        holder_blinded(l);
                if (pumped < 0 && pumped != WH_LINK_LATER && !l->over)
                        w.short_of = pumped;
        }
        if (wh_unlikely(l->out.detour & WH_DETOUR_REBIND) && !w.gone)
                wh_link_rebind(l); /* nobody else can while we sleep on the pair */
        if (w.gone && l->out.over == 0)
                l->out.over = -EPIPE; /* also where the end itself is still behind an unread reply */
        return r == 0 ? w.short_of : r;
}

int wh_holder_wait(struct wh_link *l, int64_t deadline_ns, const struct wh_room *seen)
{
        struct wh_held *h = wh_held(l);
        /* Here, and not only where we sleep: a peer that wakes us without end must not keep us. */
        int late = deadline_ns == 0                                           ? -EAGAIN
                   : deadline_ns != WH_NEVER && wh_os_now_ns() >= deadline_ns ? -ETIMEDOUT
                                                                              : 0;
        if (late && (seen || l->in.leader))
                return late;
        l->in.budget = WH_BUDGET;
        h->room_waiters += seen != NULL;
        h->waiters++;
        int r = l->in.leader ? follow(l, seen, deadline_ns) : lead(l, seen, late, deadline_ns);
        h->waiters--;
        h->room_waiters -= seen != NULL;
        if (l->out.lane && h->room_waiters == 0 && !l->out.room_asked &&
            atomic_load_explicit(&l->out.lane->ring.back->want, memory_order_relaxed))
                wh_ring_want(&l->out.lane->ring, false);
        if (!l->in.leader && h->waiters)
                wh_holder_turn(l);
        else if (wh_is_told(l))
                wh_told_arm(l);
        return r;
}

/* ---- sending with patience ---- */

/*
 * How long an offer stands that may not wait for a receiver to come: as long as one that is there already, asleep in a
 * receive, may need to wake up and take it.
 */
enum { WH_AT_ONCE_NS = 1000000 };

/*
 * A while right here. Each look takes the line from the receiver that writes there, so there are few, and a queue of
 * many is left to empty a little, as it would be if what is taken were told in batches. Returns the spins that are
 * left.
 */
static unsigned spin_for_room(const struct wh_link *l, const struct wh_room *seen, unsigned spins)
{
        uint64_t few = l->out.offer || l->out.detour || !l->out.lane ? 1 : l->out.lane->ring.capacity / 16;
        few = few < 1 ? 1 : few > 32 ? 32 : few;
        const unsigned step = few > 1 ? 8 : 1;
        for (;;) {
                for (unsigned i = 0; i < step; i++)
                        wh_relax();
                spins = spins > step ? spins - step : 0;
                struct wh_room now = wh_room_now(l);
                if (spins == 0 || few == 1 || now.records - seen->records >= few || now.released != seen->released ||
                    now.claim != seen->claim)
                        return spins;
        }
}

int wh_link_send(struct wh_link *l, struct wh_outgoing *o, int64_t deadline_ns)
{
        wharf_name name = atomic_load_explicit(&l->o.name, memory_order_relaxed);
        bool mine = false, at_once = deadline_ns == 0;
        int r;
        l->in.budget = WH_BUDGET;
        for (unsigned spins = wh_spins_in_place(l, deadline_ns);;) {
                struct wh_room seen = wh_room_now(l);
                if (wh_likely(!l->out.busy || mine)) {
                        l->out.sock_full = false;
                        l->out.grow = spins || o->started ? WH_GROW_NOT : WH_GROW_RING;
                        r = wh_link_try_send(l, o);
                        l->out.grow = WH_GROW_NOT;
                        if (wh_likely(r != -EAGAIN))
                                break;
                        if (o->started)
                                mine = l->out.busy = true; /* nobody else's message may come between the pieces */
                        if (l->out.offer && mine && deadline_ns == 0)
                                deadline_ns = wh_os_now_ns() + WH_AT_ONCE_NS;
                        if (spins) {
                                spins = l->out.sock_full ? 0 : spin_for_room(l, &seen, spins);
                                continue;
                        }
                }
                r = wh_holder_wait(l, deadline_ns, &seen);
                if (atomic_load_explicit(&l->o.name, memory_order_relaxed) != name)
                        r = -ECANCELED;
                if (r < 0)
                        break;
        }
        if (at_once && r == -ETIMEDOUT)
                r = -EAGAIN;
        /*
         * Who only ever tries must learn that the queue stays full for good: now and then it is looked, as in a stream.
         */
        if (at_once && r == -EAGAIN && !mine && wh_link_probe(l, false) && l->out.over)
                r = l->out.over;
        if (mine) {
                l->out.busy = false;
                if (r < 0 && l->out.offer)
                        r = wh_link_withdraw(l, o, r);
                else if (r < 0 && o->started)
                        l->out.detour |= WH_DETOUR_ABORT;
                wh_holder_turn(l);
        }
        return r;
}
