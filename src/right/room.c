/*
 * The owner-less half of a full queue: a message left to be sent later, and notices of room to whoever sleeps in an
 * event loop of its own.
 *
 *      left          the message lies in the line that every ring keeps (R6), behind a full queue
 *      gone in       so much was read that it counts among the queue's own
 *
 * Nobody of this task need run for a message that was left: it is published, and the receiver takes it in its turn. To
 * hear of room, the sender announces that it wants some, as one that sleeps does, and the link's socket is in the epoll
 * of the inbox that the notice goes to; the receiver rings there.
 *
 * Always true, with the link's lock free:
 *   Q1  A notice that was asked for and is due was fired.
 *   Q2  One that is not due and may become so is armed: its inbox has the socket in its epoll, `want` was announced
 *       after the queue was last seen full, and whoever empties the socket looks again (wh_link_pump()).
 */
#include "right/held.h"
#include "link/link.h"
#include "right/right.h"
#include "port/port.h"
#include "task/why.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>

/* Is the message that was left still behind a full queue? */
static bool still_left(struct wh_link *l)
{
        uint64_t capacity = l->hello.capacity_records;
        if (l->out.later == 0 || l->out.over || l->over)
                return false;
        if (capacity >= WHARF_UNBOUNDED || !l->greeted)
                capacity = 0;
        if (!l->out.lane)
                return (l->out.known_taken > l->out.cold_taken ? l->out.known_taken : l->out.cold_taken) + capacity <
                       l->out.later;
        struct wh_ring_tx *ring = &l->out.lane->ring;
        wh_ring_refresh(ring);
        capacity += ring->uncounted; /* R10: `later` is the number of a record */
        return !ring->broken && (ring->taken_records + capacity < l->out.later ||
                                 (l->out.later_end && l->out.later_end - ring->taken_lines > ring->usable));
}

/* ---- notices ---- */

static bool armed(const struct wh_link *l)
{
        return wh_held(l)->room[WH_ROOM_POSSIBLE].inbox || wh_held(l)->room[WH_ROOM_LATER].inbox;
}

static void disarm(struct wh_link *l, struct wh_room_asked *a)
{
        struct wh_inbox *in = a->inbox;
        a->inbox = NULL;
        if (in)
                wh_watch_update(l, in);
}

static void fire(struct wh_link *l, struct wh_room_asked *a)
{
        disarm(l, a);
        wh_notice_fire(l->task, a->notice);
        a->notice = NULL;
}

/* Look, and tell what is due. */
static void tell(struct wh_link *l)
{
        struct wh_room_asked *possible = &wh_held(l)->room[WH_ROOM_POSSIBLE], *later = &wh_held(l)->room[WH_ROOM_LATER];
        if (possible->notice && !wh_link_full(l))
                fire(l, possible);
        if (later->notice && (l->out.over || l->over)) {
                /* It went with its receiver, or will; no one can say. Whoever wants to know that asks for DEAD_NAME. */
                disarm(l, later);
                wh_notice_free(l->task, later->notice);
                later->notice = NULL;
        }
        if (later->notice && l->out.later && !still_left(l)) {
                l->out.later = 0;
                fire(l, later);
        }
}

void wh_room_settle(struct wh_link *l)
{
        tell(l);
        if (l->out.lane && armed(l)) {
                wh_ring_want(&l->out.lane->ring, true); /* announce, then look once more, and a moment later (R9) */
                tell(l);
                if (armed(l)) {
                        wh_room_moment();
                        tell(l);
                }
        }
        if (l->out.lane && !armed(l) && wh_held(l)->room_waiters == 0)
                wh_ring_want(&l->out.lane->ring, false);
        l->out.room_asked = armed(l);
}

/* Q2 for one of them. */
static int arm(struct wh_link *l, struct wh_room_asked *a)
{
        if (!a->notice || a->inbox)
                return 0;
        a->inbox = wh_notice_inbox(l->task, a->notice);
        if (!a->inbox)
                return 0; /* its port was just closed, and the notice goes with it */
        int r = wh_watch_update(l, a->inbox);
        if (r < 0)
                a->inbox = NULL;
        else
                l->out.room_asked = true;
        return r;
}

static struct wh_room_asked *asked_of(struct wh_link *l, uint32_t what)
{
        return &wh_held(l)->room[what == WHARF_NOTICE_SENT_LATER ? WH_ROOM_LATER : WH_ROOM_POSSIBLE];
}

int wh_room_ask(wharf_task *t, uint32_t what, wharf_name right, wharf_name port)
{
        int err;
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return err;
        wh_watches(p);
        struct wh_inbox *in = p->inbox;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        int r = l ? 0 : err;
        if (l) {
                struct wh_room_asked *a = asked_of(l, what);
                if (l->once)
                        r = -EPERM;
                else if (what == WHARF_NOTICE_SEND_POSSIBLE && l->hello.capacity_records == WHARF_RENDEZVOUS)
                        r = wh_fail(-EINVAL, "the port's capacity is zero: there never is room");
                else if (a->notice)
                        r = -EBUSY;
                else if (!(a->notice = wh_notice_new(t, what, right, port)))
                        r = wh_trace(-ENOMEM);
                if (r == 0) {
                        a->port = port;
                        tell(l);
                }
                if (r == 0 && a->notice && (what == WHARF_NOTICE_SEND_POSSIBLE || l->out.later)) {
                        r = arm(l, a);
                        if (r == 0) {
                                wh_room_settle(l);
                        } else {
                                wh_notice_free(t, a->notice);
                                a->notice = NULL;
                        }
                }
                wh_unlock(&l->o.lock);
        }
        wh_unlock(&in->lock);
        return r;
}

struct wh_notice *wh_room_unask(struct wh_link *l, uint32_t what)
{
        struct wh_room_asked *a = asked_of(l, what);
        struct wh_notice *n = a->notice;
        disarm(l, a);
        a->notice = NULL;
        wh_room_settle(l);
        return n;
}

void wh_room_forget(struct wh_link *l)
{
        for (unsigned i = 0; i < WH_ROOM_NOTICES; i++) {
                disarm(l, &wh_held(l)->room[i]);
                wh_notice_free(l->task, wh_held(l)->room[i].notice);
                wh_held(l)->room[i].notice = NULL;
        }
        l->out.room_asked = false;
}

void wh_room_move(struct wh_link *l, wharf_name port, struct wh_inbox *to)
{
        for (unsigned i = 0; i < WH_ROOM_NOTICES; i++) {
                struct wh_room_asked *a = &wh_held(l)->room[i];
                if (!a->notice || a->port != port)
                        continue;
                bool was = a->inbox != NULL;
                disarm(l, a);
                if (to && was) {
                        a->inbox = to;
                        wh_watch_update(l, to);
                } else if (!to) {
                        wh_notice_free(l->task, a->notice);
                        a->notice = NULL;
                }
        }
        l->out.room_asked = armed(l);
}

void wh_room_event(struct wh_link *l)
{
        l->in.sock_ready = true;
        l->in.budget = WH_BUDGET_TURN / 4;
        /*
         * Doorbells are thrown away, and what else there is told apart. A thread that reads for all does that itself.
         */
        if (!l->in.leader && wh_link_read(l, WH_UNTIL_EMPTY, 0) == WH_LINK_LATER)
                for (unsigned i = 0; i < WH_ROOM_NOTICES; i++)
                        if (wh_held(l)->room[i].inbox)
                                wh_watch_update(
                                        l, wh_held(l)->room[i].inbox); /* so that epoll tells again of what was left */
        wh_link_probe(l, true);
        wh_room_settle(l);
}

/* ---- a message left ---- */

int wh_link_leave(struct wh_link *l, struct wh_outgoing *o, int full)
{
        if (l->out.busy || l->out.detour & WH_DETOUR_ABORT || o->started || l->out.offer)
                return full; /* in the middle of another: the line may not come between its pieces */
        if (still_left(l))
                return -EBUSY;
        int r = arm(l, &wh_held(l)->room[WH_ROOM_LATER]);
        if (r < 0)
                return r;
        r = wh_link_send_kept(l, o);
        if (r < 0) {
                disarm(l, &wh_held(l)->room[WH_ROOM_LATER]);
                l->out.room_asked = armed(l);
                return r;
        }
        l->out.later = l->out.lane ? l->out.lane->ring.records : l->out.seq; /* one more than its number */
        l->out.later_end = l->out.lane ? l->out.lane->ring.pos : 0;
        wh_room_settle(l);
        return 1;
}
