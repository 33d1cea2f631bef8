/*
 * Calls and replies, and how the holder's end of a link waits.
 *
 * A call is a message with a number; its reply comes back on the same link with that number, in any order. One thread
 * at a time, the leader, reads the link for all; replies for others are kept in their call until they look. A reply
 * right that was passed on makes the reply come over a socket of its own (VIA).
 *
 * Always true:
 *   C1  A call is in l->calls from before its request is sent until it is finished or cancelled.
 *   C2  A call ends exactly once: with its reply, with DROPPED, or with the end of the link or of its VIA socket. Once
 *       there is a VIA, whoever had the request is out of it: its death is not the end of that call.
 *   C3  A reply never waits: what finds no place in the lane goes as a memory of its own, and where even that finds
 *       none the link is closed, for then the caller reads none of its replies.
 */
#include "port/direct.h"
#include "port/items.h"
#include "port/object.h"
#include "port/port.h"
#include "port/why.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- waiting at the holder's end ---- */

void wh_holder_turn(struct wh_link *l)
{
        atomic_fetch_add_explicit(&l->turn, 1, memory_order_relaxed);
        if (l->waiters)
                wh_os_futex_wake(&l->turn, INT32_MAX, false);
}

static bool reply_there(struct wh_link *l)
{
        struct wh_rec rec;
        return l->stash.full || (l->rx && wh_ring_peek(&l->rx->ring, &rec) != 0);
}

struct wh_room wh_room_now(const struct wh_link *l)
{
        if (!l->tx)
                return (struct wh_room){.claim = l->cold_taken};
        const struct wh_back *b = l->tx->ring.back;
        return (struct wh_room){
                atomic_load_explicit(&b->taken_records, memory_order_relaxed),
                atomic_load_explicit(&b->taken_lines, memory_order_relaxed),
                l->offer ? atomic_load_explicit(&b->claim, memory_order_relaxed) : 0,
                atomic_load_explicit(&b->released_count, memory_order_relaxed),
        };
}

/* Did the receiver give anything back since? Where the socket is full, room in the lane is not what we wait for. */
static bool room_came(const struct wh_link *l, const struct wh_room *seen)
{
        if (!seen || l->sock_full)
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

static bool file_replies(struct wh_link *l);

/* What this wait is for is there. Whoever waits for room clears replies away: they are for others, or for later. */
static bool holder_found(struct wh_link *l, const struct wh_room *seen)
{
        if (seen && reply_there(l) && !file_replies(l))
                return true; /* there are more: look again */
        return seen ? room_came(l, seen) : reply_there(l);
}

static bool holder_spin(struct wh_link *l, const struct wh_room *seen)
{
        wharf_task *t = l->task;
        bool forever = t->spin_us_max == WHARF_SPIN;
        if (!(seen && l->tx && !l->sock_full) && !l->rx && !forever)
                return false; /* nothing to look at: frames come by the socket */
        uint32_t us = l->spin_us;
        if (!forever && us == 0) {
                if (t->spin_us_max == 0 || ++l->spin_misses % 64)
                        return false;
                us = WH_SPIN_PROBE * t->spin_us_max;
        }
        uint64_t start = wh_os_ticks(), limit = (uint64_t)us * t->ticks_per_us, looked = start;
        uint32_t turn = atomic_load_explicit(&l->turn, memory_order_relaxed);
        for (;;) {
                for (int i = 0; i < 32; i++) {
                        if (holder_found(l, seen)) {
                                l->spin_us = t->spin_us_max;
                                l->spin_misses = 0;
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
                }
                if (!forever && now - start > limit)
                        break;
                if (atomic_load_explicit(&l->turn, memory_order_relaxed) != turn)
                        return true;
                wh_unlock(&l->o.lock);
                wh_relax();
                wh_lock(&l->o.lock);
        }
        if (++l->spin_misses >= 8) {
                l->spin_us = 0;
                l->spin_misses = 0;
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
        const uint32_t before = l->budget;
        l->blind = 0;
        if (l->stash.full || l->items.n || l->sock_ended || l->change.due || (l->rx && l->rx->next))
                return; /* it was not looked at: something else is first */
        if (wh_os_inq(l->sock) > 0 && wh_link_pump(l) == 0 && l->budget == before)
                wh_link_break(l, wh_trace(-EPROTO));
}

enum { VIAS_FEW = 31 }; /* delegated replies that are polled without asking for memory */

static int via_read(struct wh_link *l, struct wh_call *c);

static bool call_delegated(const struct wh_link *l)
{
        wh_list_for (n, &l->calls) {
                const struct wh_call *c = wh_container(n, struct wh_call, node);
                if (c->via >= 0 && !c->done)
                        return true;
        }
        return false;
}

int wh_holder_wait(struct wh_link *l, int64_t deadline_ns, const struct wh_room *seen)
{
        /* Here, and not only where we sleep: a peer that wakes us without end must not keep us. */
        int late = deadline_ns == 0                                           ? -EAGAIN
                   : deadline_ns != WH_NEVER && wh_os_now_ns() >= deadline_ns ? -ETIMEDOUT
                                                                              : 0;
        if (late && (seen || l->leader))
                return late;
        l->budget = WH_BUDGET;
        bool room = seen != NULL, gone = false;
        int short_of = 0;
        l->room_waiters += room;
        l->waiters++;
        int r = 0;
        if (l->leader) {
                uint32_t turn = atomic_load_explicit(&l->turn, memory_order_relaxed);
                bool asleep = true;
                if (room && l->tx) {
                        wh_ring_want(&l->tx->ring, true);
                        asleep = !room_soon(l, seen);
                }
                struct pollfd p = {.fd = l->sock, .events = POLLOUT};
                bool sock_full = room && l->sock_full;
                unsigned waits = holder_waits(l, room, deadline_ns);
                wh_unlock(&l->o.lock);
                if (sock_full) /* the leader may not ask for that */
                        r = wh_os_poll(&p, 1, deadline_ns) == 0 ? -ETIMEDOUT : 0;
                else if (asleep)
                        r = wh_os_futex_wait(&l->turn, turn, deadline_ns, false);
                wh_waits_end(&l->task->waits, waits);
                wh_lock(&l->o.lock);
                r = r == -ETIMEDOUT ? r : 0;
        } else {
                l->leader = true;
                bool found = !late && holder_spin(l, seen), woken = false;
                if (!found && !late) {
                        /* Announce what we wait for, look once more, then sleep (as in wh_inbox_wait()). */
                        if (l->rx && wh_ring_sleep(&l->rx->ring))
                                wh_link_bell(l);
                        if (l->room_waiters && l->tx)
                                wh_ring_want(&l->tx->ring, true);
                        found = holder_found(l, seen) || (l->over && !call_delegated(l)) ||
                                (room && l->tx && room_soon(l, seen));
                }
                struct pollfd few[2 + VIAS_FEW], *p = few;
                unsigned vias = 0;
                wh_list_for (k, &l->calls)
                        vias += wh_container(k, struct wh_call, node)->via >= 0;
                if (!found && vias > VIAS_FEW && !(p = wh_os_malloc((2 + vias) * sizeof *p))) {
                        found = true;
                        r = wh_trace(-ENOMEM);
                }
                if (!found) {
                        unsigned n = 2;
                        /* A socket that is over would end every sleep: what is waited for comes by another. */
                        p[0] = (struct pollfd){.fd = l->over ? -1 : l->sock,
                                               .events = (short)(POLLIN | (l->sock_full ? POLLOUT : 0))};
                        p[1] = (struct pollfd){.fd = l->over ? -1 : l->old_sock, .events = POLLIN};
                        wh_list_for (k, &l->calls) {
                                struct wh_call *c = wh_container(k, struct wh_call, node);
                                if (c->via >= 0 && !c->done)
                                        p[n++] = (struct pollfd){.fd = c->via, .events = POLLIN};
                        }
                        unsigned waits = late ? WH_WAITS_NONE : holder_waits(l, room, deadline_ns);
                        wh_unlock(&l->o.lock);
                        int k = wh_os_poll(p, n, late ? 0 : deadline_ns);
                        wh_waits_end(&l->task->waits, waits);
                        wh_lock(&l->o.lock);
                        r = k == 0 ? -ETIMEDOUT : k == -EINTR ? 0 : k < 0 ? k : 0;
                        if (k > 0 && p[0].revents & (POLLHUP | POLLERR))
                                l->hung_up = gone = true;
                        woken = k > 0 && p[0].revents & POLLIN;
                        if (k > 0 && (p[0].revents & POLLIN || p[1].revents)) {
                                l->sock_ready = true;
                                l->arms = UINT32_MAX / 2; /* poll is level-triggered: the doorbell must be read */
                        }
                        r = late ? late : r; /* whatever it found: the caller looks once more */
                        if (k > 0 && n > 2) {
                                wh_list_for (q, &l->calls) {
                                        struct wh_call *c = wh_container(q, struct wh_call, node);
                                        if (c->via >= 0 && !c->done)
                                                short_of = via_read(l, c) == -ENOMEM ? -ENOMEM : short_of;
                                }
                        }
                }
                if (p != few)
                        free(p);
                if (l->rx)
                        wh_ring_awake(&l->rx->ring);
                l->leader = false;
                if (l->sock_ready && l->over == 0) {
                        /* Greetings, refusals, the end: whoever waits for room wants to know. Replies stay put. */
                        const uint32_t before = l->budget;
                        int pumped = wh_link_read(l, WH_UNTIL_EMPTY, 0);
                        l->blind = woken && l->budget == before && pumped == 0 ? l->blind + 1 : 0;
                        if (wh_unlikely(l->blind == BLIND_MAX))
                                holder_blinded(l);
                        if (pumped < 0 && pumped != WH_LINK_LATER && !l->over)
                                short_of = pumped; /* it stays in the socket, and would end every sleep */
                }
                r = r == 0 ? short_of : r;
                if (wh_unlikely(l->detour & WH_DETOUR_REBIND) && !gone)
                        wh_link_rebind(l); /* nobody else can while we sleep on the pair */
                if (gone && l->tx_over == 0)
                        l->tx_over = -EPIPE; /* also where the end itself is still behind an unread reply */
        }
        l->waiters--;
        l->room_waiters -= room;
        if (l->tx && l->room_waiters == 0 && !l->room_asked &&
            atomic_load_explicit(&l->tx->ring.back->want, memory_order_relaxed))
                wh_ring_want(&l->tx->ring, false);
        if (!l->leader && l->waiters)
                wh_holder_turn(l);
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
        uint64_t few = l->offer || l->detour || !l->tx ? 1 : l->tx->ring.capacity / 16;
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
        l->budget = WH_BUDGET;
        for (unsigned spins = wh_spins_in_place(l, deadline_ns);;) {
                struct wh_room seen = wh_room_now(l);
                if (wh_likely(!l->tx_busy || mine)) {
                        l->sock_full = false;
                        l->grow = spins || o->started ? WH_GROW_NOT : WH_GROW_RING;
                        r = wh_link_try_send(l, o);
                        l->grow = WH_GROW_NOT;
                        if (wh_likely(r != -EAGAIN))
                                break;
                        if (o->started)
                                mine = l->tx_busy = true; /* nobody else's message may come between the pieces */
                        if (l->offer && mine && deadline_ns == 0)
                                deadline_ns = wh_os_now_ns() + WH_AT_ONCE_NS;
                        if (spins) {
                                spins = l->sock_full ? 0 : spin_for_room(l, &seen, spins);
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
        if (at_once && r == -EAGAIN && !mine && wh_link_probe(l, false) && l->tx_over)
                r = l->tx_over;
        if (mine) {
                l->tx_busy = false;
                if (r < 0 && o->how == WHARF_HOW_DIRECT && o->started) {
                        if (wh_direct_withdraw(l, o->done) == 0)
                                r = wh_link_try_send(l, o); /* taken in the last moment */
                } else if (r < 0 && l->offer) {
                        r = wh_link_withdraw(l, o, r);
                } else if (r < 0 && o->started) {
                        l->detour |= WH_DETOUR_ABORT;
                }
                wh_holder_turn(l);
        }
        return r;
}

/* ---- calls ---- */

static void call_end(struct wh_link *l, struct wh_call *c, int result)
{
        if (result == 0 || result == -ECANCELED)
                wh_link_told(l, c->seq);
        c->done = true;
        c->result = result;
        wh_stash_done(&c->part);
        wh_os_close_end(c->via, WH_END_OURS);
        c->via = -1;
        wh_holder_turn(l);
}

/* `settled`: the other side has answered, or never heard of it. */
static void call_free(struct wh_link *l, struct wh_call *c, bool settled)
{
        wh_list_remove(&c->node);
        wh_window_done(l, c->window, settled);
        wh_stash_done(&c->reply);
        wh_stash_done(&c->part);
        wh_items_done(&c->items);
        wh_os_close_end(c->via, WH_END_OURS);
        free(c);
}

void wh_calls_done(struct wh_link *l)
{
        wh_list_for_safe (n, &l->calls) {
                struct wh_call *c = wh_container(n, struct wh_call, node);
                call_free(l, c, c->done);
        }
}

static struct wh_call *call_find(struct wh_link *l, uint32_t number)
{
        wh_list_for (n, &l->calls) {
                struct wh_call *c = wh_container(n, struct wh_call, node);
                if (c->number == number)
                        return c;
        }
        return NULL;
}

/* Put the message that is next into its call, for another thread or for later. -ENOMEM: it stays where it is. */
static int call_keep(struct wh_link *l, struct wh_call *c, struct wh_incoming *in)
{
        if (in->dropped) {
                call_end(l, c, -in->dropped);
                return 0;
        }
        if (in->where == WH_IN_STASH && !l->direct) {
                c->reply = l->stash;
                l->stash = (struct wh_stash){.full = true}; /* emptied by wh_link_took() */
        } else {
                uint8_t *own = in->len ? wh_os_malloc_payload(in->len) : NULL;
                if (in->len && !own)
                        return wh_trace(-ENOMEM);
                if (in->len)
                        wh_shm_copy(own, in->bytes, in->len);
                c->reply = (struct wh_stash){.full = true,
                                             .bytes = own,
                                             .len = in->len,
                                             .room = in->len,
                                             .id = in->id,
                                             .how = in->how,
                                             .refused = (uint16_t)in->refused};
        }
        if (in->n_items) { /* in a lane nothing is read ahead of a record's own items, so they are all its own */
                c->items = l->items;
                l->items.n = 0;
        }
        call_end(l, c, 0);
        return 0;
}

/* Put the message that is next where it belongs, on behalf of whoever waits for it. -ENOMEM: it stays where it is. */
static int file_reply(struct wh_link *l, struct wh_incoming *in)
{
        wh_link_privatise(l);
        if (in->where == WH_IN_STASH) {
                if (!l->stash.full)
                        return 0; /* no memory: that ended the link */
                in->bytes = l->stash.bytes;
        }
        wh_link_spend(l, 1);
        struct wh_call *c = call_find(l, in->call);
        int r = c && !c->done ? call_keep(l, c, in) : 0;
        if (wh_unlikely(l->windows_aside) && !c)
                wh_window_settle(l, in->call);
        if (r == 0)
                wh_link_took(l, in); /* nobody's, then: its call was cancelled */
        return r;
}

/* False when some were left: the peer is not to keep us here. */
static bool file_replies(struct wh_link *l)
{
        struct wh_incoming in = {0};
        do {
                if (wh_link_next(l, &in) != 1 || file_reply(l, &in) < 0)
                        return true;
        } while (l->budget);
        return false;
}

bool wh_call_written(struct wh_link *l, uint32_t number, const struct wh_rec_direct *d, bool *ret_given_up)
{
        struct wh_call *c = call_find(l, number);
        struct wh_window *w = c ? c->window : NULL;
        *ret_given_up = !c || c->done;
        if (*ret_given_up || !w || d->at != (uintptr_t)w->map || d->len == 0 || d->len > w->len)
                return false; /* D3 */
        l->stash = (struct wh_stash){.full = true,
                                     .mapped = true,
                                     .memory = -1,
                                     .bytes = w->map,
                                     .len = d->len,
                                     .have = d->len,
                                     .room = w->map_len,
                                     .call = number,
                                     .how = WHARF_HOW_DIRECT};
        c->window = NULL;
        free(w);
        return true;
}

/* The reply of `c` has come to its user; why not directly, where it asked for that? */
static void call_answered(const struct wh_call *c, uint32_t how, int refused)
{
        if (wh_unlikely(c->window_asked) && how != WHARF_HOW_DIRECT)
                wh_set_why("%s", wh_window_why(c->window_refused ? c->window_refused : -refused));
}

int wh_call_announce(struct wh_link *l, struct wh_call *c, int64_t deadline_ns)
{
        int r = wh_window_take(l, c->window_asked, &c->window);
        if (r < 0)
                return r;
        struct wh_outgoing o;
        wh_outgoing_init(&o, c->window->map, 0);
        o.how = WH_HOW_WINDOW;
        o.call = c->number;
        o.window_at = c->window->len;
        c->window->call = c->number;
        c->window->told = true;
        /* A first call may go before its port was heard of, but nothing else beside it. */
        r = deadline_ns == 0 && !wh_link_greeted(l) ? -EOPNOTSUPP : wh_link_send(l, &o, deadline_ns);
        if (r == -EOPNOTSUPP) {
                c->window_refused = r;
                wh_window_done(l, c->window, true);
                c->window = NULL;
                r = 0;
        }
        return r;
}

void wh_call_unsent(struct wh_link *l, struct wh_call *c, int err)
{
        wh_list_remove(&c->node);
        wh_window_done(l, c->window, err == -EAGAIN || err == -ETIMEDOUT);
        c->window = NULL;
}

void wh_call_via(struct wh_link *l, uint32_t number, int sock)
{
        if (l->once && l->change.sock < 0 && wh_frame_check_socket(sock) == 0) {
                l->change.sock = sock; /* the reply right was passed on once more: see via_read() */
                return;
        }
        struct wh_call *c = call_find(l, number);
        if (!c || c->done || c->via >= 0 || wh_frame_check_socket(sock) < 0) {
                wh_os_close_theirs(sock);
                return;
        }
        wh_os_fd_private(sock);
        c->via = sock;
        wh_holder_turn(l);
}

/*
 * A delegated reply: the frames of one message, on a socket that belongs to this call alone. A link of its own, for as
 * long as that takes, so that the same code checks it. -ENOMEM: what is there cannot be read now.
 */
static int via_read(struct wh_link *l, struct wh_call *c)
{
        struct wh_link via = {.task = l->task,
                              .sock = c->via,
                              .once = true,
                              .answer = true,
                              .sock_ready = true,
                              .stash = c->part,
                              .items = c->items,
                              .old_sock = -1,
                              .budget = WH_BUDGET_TURN,
                              .change = {.sock = -1}};
        struct wh_incoming in = {0};
        wh_list_init(&via.calls);
        int r = wh_link_next(&via, &in);
        if (r <= 0 && via.change.sock >= 0) {
                wh_os_fd_private(via.change.sock);
                wh_os_close_end(c->via, WH_END_OURS);
                c->via = via.change.sock;
                r = via.over = 0;
        }
        if (r == 0 || (r < 0 && !via.over)) {
                c->part = via.stash;
                c->items = via.items;
                return r == 0 ? 0 : -ENOMEM;
        }
        via.sock = -1; /* call_end() closes it */
        c->part = (struct wh_stash){0};
        c->items.n = 0;
        if (r < 0) {
                wh_link_done(&via);
                call_end(l, c, r == -EPIPE ? -ECANCELED : r);
                return 0;
        }
        c->reply = via.stash;
        c->items = via.items;
        via.stash = (struct wh_stash){0};
        via.items.n = 0;
        wh_link_done(&via);
        call_end(l, c, in.dropped ? -in.dropped : 0);
        return 0;
}

WHARF_API int wharf_call_start(wharf_task *t, wharf_name right, struct wharf_msg *req, int64_t deadline_ns,
                               uint32_t *ret_call)
{
        if (!req)
                return wh_fail_null("req");
        if (!ret_call)
                return wh_fail_null("ret_call");
        struct wh_call *c = wh_os_calloc(1, sizeof *c);
        if (!c)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        c->via = -1;
        int r = 0;
        if (req->flags & WHARF_REPLY_DIRECT) {
                c->window_asked = req->cap_bytes;
                if (req->cap_bytes == 0 || req->cap_bytes > PTRDIFF_MAX - WH_PAGE)
                        r = wh_fail(-EINVAL, "a direct reply of at most cap_bytes %zu", req->cap_bytes);
        }
        if (r == 0)
                r = wh_send_message(t, right, req, c, deadline_ns);
        if (r < 0)
                free(c);
        else
                *ret_call = (uint32_t)r;
        return r < 0 ? r : 0;
}

int wh_call_add(struct wh_link *l, struct wh_call *c)
{
        do
                c->number = ++l->last_call & INT32_MAX; /* so that it fits what wh_send_message() returns */
        while (c->number == 0 || call_find(l, c->number));
        wh_list_push_back(&l->calls, &c->node);
        return 0;
}

/* What the end of a link means to a call that still waits. */
static int call_link_error(const struct wh_link *l)
{
        return l->over == -EPIPE ? -ECONNRESET : l->over;
}

/* Deliver the reply that was kept. */
static int call_take_kept(struct wh_link *l, struct wh_call *c, struct wharf_msg *m)
{
        struct wh_stash stash = l->stash;
        struct wh_items items = l->items;
        bool direct = l->direct;
        /* The same code as for a message from the link itself: lend it the call's. */
        l->stash = c->reply;
        l->items = c->items;
        l->direct = false;
        struct wh_incoming in = {.where = WH_IN_STASH,
                                 .bytes = c->reply.bytes,
                                 .len = c->reply.len,
                                 .id = c->reply.id,
                                 .how = c->reply.how,
                                 .n_items = c->items.n};
        uint64_t seq = l->rx_seq;
        int r = wh_deliver(l->task, l, &in, m, atomic_load_explicit(&l->o.name, memory_order_relaxed));
        l->rx_seq = seq; /* it was counted when it came */
        c->reply = l->stash;
        c->items = l->items;
        l->stash = stash;
        l->items = items;
        l->direct = direct;
        return r;
}

WHARF_API int wharf_call_finish(wharf_task *t, wharf_name right, uint32_t call, struct wharf_msg *m,
                                int64_t deadline_ns)
{
        int err = wh_receive_check(m);
        if (err < 0)
                return err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return wh_fail_at(t, err, right);
        int r = wh_call_wait(l, right, call, m, deadline_ns);
        bool here = atomic_load_explicit(&l->o.name, memory_order_relaxed) == right;
        if (here && l->waiters && !l->leader)
                wh_holder_turn(l);
        if (r < 0 && r != -EINVAL) { /* which has said why */
                if (r == -EAGAIN)
                        wh_fail_plain(r, "the reply is not there, and the deadline is 0");
                else if (r == -ETIMEDOUT)
                        wh_fail_plain(r, "no reply came until the deadline");
                else if (r == -EOVERFLOW)
                        wh_fail(r, "the reply has %zu bytes and %u rights, and there is room for %zu and %u",
                                m->len_bytes, m->n_items, m->cap_bytes, m->cap_items);
                else if (r == -ECANCELED)
                        wh_fail_plain(r, here ? "the server dropped the request without replying"
                                              : "the right was dropped meanwhile");
                else if (here)
                        wh_link_failed(l, r);
                else
                        wh_fail(r, NULL);
        }
        wh_unlock(&l->o.lock);
        return r;
}

int wh_call_wait(struct wh_link *l, wharf_name right, uint32_t call, struct wharf_msg *m, int64_t deadline_ns)
{
        struct wh_call *c;
        struct wh_incoming in = {0};
        if (!(m->flags & (WHARF_RECV_IN_PLACE | WHARF_RECV_ALLOC))) {
                in.direct = m->data;
                in.direct_room = m->cap_bytes;
        }
        l->budget = WH_BUDGET;
        for (int late = 0;;) {
                /* Found anew each time: another thread may have cancelled it while we slept. */
                c = call_find(l, call);
                if (!c) {
                        wh_link_privatise(l);
                        return wh_fail(-EINVAL, "call %u is not outstanding on this right", call);
                }
                if (c->done) {
                        int r = c->result, refused = c->reply.refused;
                        if (r == 0)
                                r = call_take_kept(l, c, m);
                        if (r == 0)
                                call_answered(c, m->how, refused);
                        if (r == 0 || (r < 0 && c->result < 0))
                                call_free(l, c, true);
                        wh_link_privatise(l);
                        return r;
                }
                /*
                 * The leader reads for all. Nobody else may: it sleeps in poll(), where emptying the socket would leave
                 * it although its reply was found.
                 */
                int r = l->leader ? 0 : wh_link_next(l, &in);
                if (r == 1) {
                        struct wh_call *for_call = call_find(l, in.call);
                        if (for_call == c && !in.dropped && !c->done) {
                                r = wh_deliver(l->task, l, &in, m, right);
                                if (r == 0) {
                                        wh_link_told(l, c->seq);
                                        call_answered(c, m->how, in.refused);
                                        call_free(l, c, true);
                                        return 0;
                                }
                                /* It does not fit, and the next one in the queue must not wait; but nothing is lost. */
                                if (call_keep(l, c, &in) == 0)
                                        wh_link_took(l, &in);
                                else
                                        wh_link_privatise(l);
                                return r;
                        }
                        r = file_reply(l, &in);
                        if (r == 0 && l->budget)
                                continue; /* otherwise the deadline is looked at, in the wait */
                        if (r < 0) {
                                wh_link_privatise(l);
                                return r;
                        }
                }
                if (r < 0 && !l->over) {
                        wh_link_privatise(l);
                        return r; /* no memory for what waits on the socket; the call is still outstanding */
                }
                if (r < 0) {
                        if (c->via >= 0 && via_read(l, c) < 0) {
                                wh_link_privatise(l);
                                return -ENOMEM;
                        }
                        if (c->done)
                                continue;
                        if (c->via < 0 || l->over != -EPIPE) {
                                r = call_link_error(l);
                                call_free(l, c, false);
                                return r;
                        }
                }
                r = late ? late : wh_holder_wait(l, deadline_ns, NULL);
                if (atomic_load_explicit(&l->o.name, memory_order_relaxed) != right)
                        return -ECANCELED;
                if (r < 0) {
                        c = call_find(l, call);
                        if (!c || c->done)
                                continue;
                        if (!late && (r == -EAGAIN || r == -ETIMEDOUT)) {
                                late = r; /* what came in the last moment counts */
                                continue;
                        }
                        wh_link_privatise(l);
                        return r;
                }
        }
}

WHARF_API int wharf_call_cancel(wharf_task *t, wharf_name right, uint32_t call)
{
        int err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return wh_fail_at(t, err, right);
        struct wh_call *c = call_find(l, call);
        if (c)
                call_free(l, c, c->done);
        wh_unlock(&l->o.lock);
        return c ? 0 : wh_fail(-EINVAL, "call %u is not outstanding on this right", call);
}

WHARF_API int wharf_callmsg(wharf_task *t, wharf_name right, struct wharf_msg *req, struct wharf_msg *reply,
                            int64_t deadline_ns)
{
        uint32_t call;
        int r = wh_receive_check(reply);
        if (r < 0)
                return r;
        r = wharf_call_start(t, right, req, deadline_ns, &call);
        if (r < 0)
                return r;
        r = wharf_call_finish(t, right, call, reply, deadline_ns);
        if (r == -EAGAIN || r == -ETIMEDOUT || r == -EOVERFLOW || r == -ENOMEM || r == -EMFILE)
                wharf_call_cancel(t, right, call); /* it is still outstanding */
        return r;
}

WHARF_API ssize_t wharf_call(wharf_task *t, wharf_name right, const void *req, size_t len_bytes, void *buf,
                             size_t cap_bytes, int64_t deadline_ns)
{
        struct wharf_msg q = {.size = sizeof q, .data = (void *)(uintptr_t)req, .len_bytes = len_bytes};
        struct wharf_msg a = {.size = sizeof a, .data = buf, .cap_bytes = cap_bytes};
        int r = wharf_callmsg(t, right, &q, &a, deadline_ns);
        return r < 0 ? r : (ssize_t)a.len_bytes;
}

/* ---- replies ---- */

/* One more call of this link that is to be answered. */
static int call_charge(struct wh_link *l)
{
        struct wh_bill *b = &l->bill;
        int r = b->of[WH_SHARE_ANSWERS] >= b->answers_max ? -EDQUOT : wh_bill_charge(b, WH_SHARE_ANSWERS, 1, false);
        if (r == -EDQUOT)
                l->refusal = b->of[WH_SHARE_ANSWERS] >= b->answers_max ? WH_REFUSAL_ANSWERS : WH_REFUSAL_TASK_ANSWERS;
        return r;
}

/* The right to answer one is gone, or goes its own way. The reference to the link goes with it. */
static void reply_link_drop(struct wh_link *l)
{
        if (!l)
                return;
        wh_bill_give(&l->bill, WH_SHARE_ANSWERS, 1);
        wh_link_unref(l);
}

int wh_reply_new(wharf_task *t, struct wh_link *l, uint32_t call, wharf_name *ret)
{
        int r = call_charge(l);
        if (r < 0)
                return r;
        struct wh_reply *y = wh_task_take(t, WHARF_KIND_REPLY, sizeof *y, sizeof y->o);
        if (!y) {
                wh_bill_give(&l->bill, WH_SHARE_ANSWERS, 1);
                return wh_trace(-ENOMEM);
        }
        y->link = l;
        y->call = call;
        y->via = -1;
        y->window_at = l->window.at;
        y->window_len = l->window.call == call ? l->window.len : 0;
        r = wh_table_add(&t->names, &y->o);
        if (r < 0) {
                wh_bill_give(&l->bill, WH_SHARE_ANSWERS, 1);
                wh_task_give(t, &y->o);
                return r;
        }
        wh_ref_take(&l->refs);
        *ret = atomic_load_explicit(&y->o.name, memory_order_relaxed);
        return 0;
}

/* Lock and return the reply right `name`; NULL with *err. Its lock comes before that of its link. */
static struct wh_reply *reply_lock(wharf_task *t, wharf_name name, int *err)
{
        struct wh_object *o = wh_table_find(&t->names, name);
        *err = -EBADF;
        if (!o)
                return NULL;
        wh_lock(&o->lock);
        if (atomic_load_explicit(&o->name, memory_order_relaxed) == name && o->kind == WHARF_KIND_REPLY)
                return (struct wh_reply *)o;
        if (atomic_load_explicit(&o->name, memory_order_relaxed) == name)
                *err = -EPERM;
        wh_unlock(&o->lock);
        return NULL;
}

/* Unlock it, and take it out of the task when it is `used`; the reference to its link is the caller's then. */
static void reply_unlock(wharf_task *t, struct wh_reply *y, bool used)
{
        if (used)
                wh_table_remove(&t->names, &y->o);
        wh_unlock(&y->o.lock);
        if (used)
                wh_task_give(t, &y->o);
}

/* Take the reply right `name` out of the task. */
static int reply_take(wharf_task *t, wharf_name name, struct wh_reply *ret)
{
        int err = 0;
        struct wh_reply *y = reply_lock(t, name, &err);
        *ret = (struct wh_reply){.via = -1};
        if (!y)
                return err;
        ret->link = y->link;
        ret->call = y->call;
        ret->via = y->via;
        reply_unlock(t, y, true);
        return 0;
}

/* The one message of a reply whose port has moved. */
static int reply_send_via(wharf_task *t, int sock, struct wh_outgoing *o)
{
        if (o->dropped)
                return 0; /* that it is closed says as much */
        struct wh_link via = {
                .task = t, .sock = sock, .once = true, .old_sock = -1, .budget = WH_BUDGET, .change = {.sock = -1}};
        wh_list_init(&via.calls);
        o->call = 0;
        int r = wh_link_try_send(&via, o);
        via.sock = -1; /* closed with the right */
        wh_link_done(&via);
        return r == -EAGAIN ? -ENOBUFS : r;
}

/* The right was used: nothing of it stays. */
static void reply_done(struct wh_reply *y)
{
        wh_os_close_end(y->via, WH_END_SHARED);
        reply_link_drop(y->link);
}

/*
 * Shall it be written into the caller's memory? Where the caller has asked for that, also if the server did not. Why
 * not is in *ret_refused, an errno.
 */
static void reply_way(const struct wh_reply *y, struct wh_outgoing *o, int *ret_refused)
{
        bool asked = o->how == WHARF_HOW_DIRECT;
        *ret_refused = 0;
        if (!asked && (o->how != WHARF_HOW_AUTO || !y->window_len || o->len <= WHARF_INLINE_MAX || o->dropped))
                return;
        o->how = WHARF_HOW_AUTO;
        if (!y->window_len || o->len == 0)
                *ret_refused = EINVAL;
        else if (!y->link)
                *ret_refused = EOPNOTSUPP;
        else if (o->len > y->window_len)
                *ret_refused = EMSGSIZE;
        else
                o->how = WHARF_HOW_DIRECT;
        o->window_at = y->window_at;
}

/*
 * Send on the owner's end, without ever waiting (C3). The link is not locked. *ret_over: nothing more can be sent.
 * *ret_refused: why it was not written directly.
 */
static int reply_send(wharf_task *t, const struct wh_reply *y, struct wh_outgoing *o, bool *ret_over, int *ret_refused)
{
        struct wh_link *l = y->link;
        reply_way(y, o, ret_refused);
        if (!l) {
                int r = reply_send_via(t, y->via, o);
                *ret_over = r == -EPIPE || r == -ENOBUFS;
                return r;
        }
        wh_lock(&l->o.lock);
        int r = l->tx_over ? l->tx_over : 0;
        l->reply_refused = *ret_refused;
        if (r == 0) {
                if (o->how == WHARF_HOW_AUTO && o->len > WHARF_IN_PLACE_MAX)
                        o->how = WHARF_HOW_MEMORY; /* pieces would wait for the caller */
                r = wh_link_try_send(l, o);
                if ((r == -EAGAIN || r == -EDQUOT) && o->len > WHARF_INLINE_MAX && o->how != WHARF_HOW_MEMORY &&
                    !o->started) {
                        o->how = WHARF_HOW_MEMORY;
                        r = wh_link_try_send(l, o);
                }
        }
        if (r == -EAGAIN) {
                wh_os_shutdown(l->sock, SHUT_RDWR);
                l->tx_over = -ENOBUFS;
                r = -ENOBUFS;
        }
        *ret_over = l->tx_over != 0;
        *ret_refused = l->reply_refused;
        l->reply_refused = 0;
        wh_unlock(&l->o.lock);
        return r;
}

void wh_reply_forget(wharf_task *t, wharf_name name)
{
        struct wh_reply y;
        if (reply_take(t, name, &y) == 0)
                reply_done(&y);
}

int wh_reply_drop(wharf_task *t, struct wh_object *o, wharf_name name)
{
        struct wh_reply y;
        int r = reply_take(t, name, &y);
        if (r < 0)
                return r;
        struct wh_outgoing out;
        wh_outgoing_init(&out, NULL, 0);
        out.call = y.call;
        out.dropped = ECANCELED;
        bool over;
        int refused;
        r = reply_send(t, &y, &out, &over, &refused);
        if (r < 0 && !over && y.link) {
                /* As in C3: a caller that would never hear of it is told by the end of the link. */
                wh_lock(&y.link->o.lock);
                wh_os_shutdown(y.link->sock, SHUT_RDWR);
                y.link->tx_over = -ENOBUFS;
                wh_unlock(&y.link->o.lock);
        }
        reply_done(&y);
        return 0;
}

/* The caller of `call` is told that its reply comes over `sock`; the link is locked. */
static int tell_via(struct wh_link *l, uint32_t call, int sock)
{
        struct wh_frame f = {.type = WH_FRAME_VIA, .n_fds = 1, .call = call};
        return wh_link_frame(l, &f, NULL, 0, &sock, false);
}

void wh_reply_via(wharf_task *t, wharf_name name, int sock)
{
        struct wh_reply y;
        if (reply_take(t, name, &y) < 0)
                return;
        if (!y.link) { /* detached since the message was made: its caller listens there, and is sent on */
                struct wh_frame f = {.type = WH_FRAME_VIA, .to = WH_TO_ONCE, .n_fds = 1};
                wh_frame_send(y.via, &f, NULL, 0, &sock, false);
                reply_done(&y);
                return;
        }
        wh_lock(&y.link->o.lock);
        if (y.link->tx_over == 0 && tell_via(y.link, y.call, sock) < 0) {
                /* As in C3: a caller that would never hear of it is told by the end of the link. */
                wh_os_shutdown(y.link->sock, SHUT_RDWR);
                y.link->tx_over = -ENOBUFS;
        }
        wh_unlock(&y.link->o.lock);
        reply_link_drop(y.link);
}

int wh_reply_socket(wharf_task *t, wharf_name name)
{
        struct wh_object *o = wh_table_find(&t->names, name);
        int fd = -1;
        if (!o)
                return -1;
        wh_lock(&o->lock);
        if (atomic_load_explicit(&o->name, memory_order_relaxed) == name && o->kind == WHARF_KIND_REPLY)
                fd = ((struct wh_reply *)o)->via;
        wh_unlock(&o->lock);
        return fd;
}

struct detaching {
        const struct wh_port *port;
        int result;
};

static void reply_detach(struct wh_object *o, void *arg)
{
        struct detaching *d = arg;
        struct wh_reply *y = (struct wh_reply *)o;
        if (o->kind != WHARF_KIND_REPLY || d->result < 0)
                return;
        wh_lock(&o->lock);
        struct wh_link *l = atomic_load_explicit(&o->name, memory_order_relaxed) ? y->link : NULL;
        if (l && l->port == d->port) {
                int sv[2];
                int r = wh_os_socketpair(sv);
                if (r == 0) {
                        wh_lock(&l->o.lock);
                        r = l->tx_over ? 0 : tell_via(l, y->call, sv[0]);
                        wh_unlock(&l->o.lock);
                        wh_os_close(sv[0]);
                        if (r == 0 || r == -EPIPE) {
                                wh_os_fd_private(sv[1]);
                                y->via = sv[1];
                                y->link = NULL;
                                reply_link_drop(l);
                                r = 0;
                        } else {
                                wh_os_close(sv[1]);
                        }
                }
                d->result = r == -EAGAIN ? -EBUSY : r;
        }
        wh_unlock(&o->lock);
}

int wh_replies_detach(wharf_task *t, const struct wh_port *p)
{
        struct detaching d = {.port = p};
        wh_table_each(&t->names, reply_detach, &d);
        return d.result;
}

static int reply_failed(int err)
{
        switch (err) {
        case -EPIPE:
                return wh_fail_plain(err, "the caller is gone, or waits no more");
        case -ENOBUFS:
                return wh_fail_plain(err, "the caller does not read its replies: the link to it was closed");
        case -EDQUOT:
                return wh_fail_plain(err,
                                     "replies that one user has not read: this one has its share of the memory for "
                                     "them (reply_bytes_max of the port)");
        case -EMSGSIZE:
                return wh_fail_plain(err, "the reply is larger than its way allows");
        case -EOPNOTSUPP:
                return wh_fail_plain(err, "a reply of more than 64 KiB takes shared memory, and none can be made here");
        default:
                return wh_fail(err, NULL);
        }
}

WHARF_API int wharf_replymsg(wharf_task *t, wharf_name reply, struct wharf_msg *m)
{
        int r = wh_message_check(m);
        if (r < 0)
                return r;
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        struct wh_object *named = wh_table_find(&t->names, reply);
        if (named && named->kind == WHARF_KIND_SEND &&
            atomic_load_explicit(&named->name, memory_order_relaxed) == reply) {
                /* A send-once right that came in a message: answering is sending its one message. */
                int err;
                struct wh_link *l = wh_holder_lock(t, reply, &err);
                bool once = l && l->once;
                if (l)
                        wh_unlock(&l->o.lock);
                return once ? wh_send_message(t, reply, m, NULL, 0) : wh_fail_at(t, l ? -EPERM : err, reply);
        }
        struct wh_outgoing o;
        struct wh_items_out items;
        wh_outgoing_init(&o, m->data, m->len_bytes);
        o.id = m->id;
        o.how = m->how == WHARF_HOW_CHUNKS || m->how == WHARF_HOW_COLD ? WHARF_HOW_AUTO : m->how;
        r = wh_items_prepare(t, m, &o, &items, reply, 0);
        if (r < 0)
                return r;
        struct wh_reply *y = reply_lock(t, reply, &r);
        if (!y) {
                wh_items_finish(t, m, &items, false);
                return wh_fail_at(t, r, reply);
        }
        o.call = y->call;
        struct wh_reply was = {.link = y->link, .via = y->via};
        bool over;
        int refused;
        r = reply_send(t, y, &o, &over, &refused);
        if (wh_unlikely(r == -EDQUOT && was.link)) {
                /* What was read of its other replies is not its to pay any more: look, and try again. */
                wh_ref_take(&was.link->refs);
                reply_unlock(t, y, false);
                const bool more = wh_replies_settle(was.link);
                wh_link_unref(was.link);
                y = reply_lock(t, reply, &r);
                if (!y) {
                        wh_items_finish(t, m, &items, false);
                        return wh_fail_at(t, r, reply);
                }
                was = (struct wh_reply){.link = y->link, .via = y->via};
                r = -EDQUOT;
                over = false;
                if (more)
                        r = reply_send(t, y, &o, &over, &refused);
        }
        const bool used = r == 0 || over;
        reply_unlock(t, y, used);
        wh_items_finish(t, m, &items, r == 0 || (o.items_gone && items.n_moves));
        if (used)
                reply_done(&was);
        if (r < 0)
                return reply_failed(r);
        if (wh_unlikely(refused))
                wh_set_why("%s", wh_window_why(-refused));
        m->how = o.how;
        return 0;
}

WHARF_API int wharf_reply(wharf_task *t, wharf_name reply, const void *data, size_t len_bytes)
{
        struct wharf_msg m = {.size = sizeof m, .data = (void *)(uintptr_t)data, .len_bytes = len_bytes};
        return wharf_replymsg(t, reply, &m);
}
