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
#include "right/right.h"
#include "port/notice.h"

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

bool wh_room_armed(const struct wh_link *l)
{
        return wh_held(l)->asked[WH_ASKED_POSSIBLE].inbox || wh_held(l)->asked[WH_ASKED_LATER].inbox;
}

void wh_room_tell(struct wh_link *l)
{
        struct wh_asked *possible = &wh_held(l)->asked[WH_ASKED_POSSIBLE], *later = &wh_held(l)->asked[WH_ASKED_LATER];
        if (possible->notice && !wh_link_full(l))
                wh_asked_fire(l, possible);
        if (later->notice && (l->out.over || l->over)) {
                /* It went with its receiver, or will; no one can say. Whoever wants to know that asks for DEAD_NAME. */
                wh_notice_free(l->task, wh_asked_end(l, later));
        }
        if (later->notice && l->out.later && !still_left(l)) {
                l->out.later = 0;
                wh_asked_fire(l, later);
        }
}

void wh_room_settle(struct wh_link *l)
{
        wh_room_tell(l);
        if (l->out.lane && wh_room_armed(l)) {
                wh_ring_want(&l->out.lane->ring, true); /* announce, then look once more, and a moment later (R9) */
                wh_room_tell(l);
                if (wh_room_armed(l)) {
                        wh_room_moment();
                        wh_room_tell(l);
                }
        }
        if (l->out.lane && !wh_room_armed(l) && wh_held(l)->room_waiters == 0)
                wh_ring_want(&l->out.lane->ring, false);
        l->out.room_asked = wh_room_armed(l);
}

void wh_room_event(struct wh_link *l)
{
        l->in.sock_ready = true;
        l->in.budget = WH_BUDGET_TURN / 4;
        /*
         * Doorbells are thrown away, and what else there is told apart. A thread that reads for all does that itself.
         */
        if (!l->in.leader && wh_link_read(l, WH_UNTIL_EMPTY, 0) == WH_LINK_LATER)
                wh_room_watch(l); /* so that epoll tells again of what was left */
        wh_link_probe(l, true);
        wh_room_settle(l);
}

void wh_room_watch(struct wh_link *l)
{
        for (unsigned i = WH_ASKED_POSSIBLE; i < WH_ASKED; i++)
                if (wh_held(l)->asked[i].inbox)
                        wh_asked_watch(l, wh_held(l)->asked[i].inbox);
        wh_list_for (n, &wh_held(l)->told)
                wh_asked_watch(l, wh_container(n, struct wh_told, node)->inbox);
}

/* ---- a message left ---- */

int wh_link_leave(struct wh_link *l, struct wh_outgoing *o, int full)
{
        if (l->out.busy || l->out.detour & WH_DETOUR_ABORT || o->started || l->out.offer)
                return full; /* in the middle of another: the line may not come between its pieces */
        if (still_left(l))
                return -EBUSY;
        struct wh_asked *later = &wh_held(l)->asked[WH_ASKED_LATER];
        int r = wh_asked_arm(l, later);
        if (r < 0)
                return r;
        r = wh_link_send_kept(l, o);
        if (r < 0) {
                later->notice = wh_asked_end(l, later); /* asked for still, and not armed */
                l->out.room_asked = wh_room_armed(l);
                return r;
        }
        l->out.later = l->out.lane ? l->out.lane->ring.records : l->out.seq; /* one more than its number */
        l->out.later_end = l->out.lane ? l->out.lane->ring.pos : 0;
        wh_room_settle(l);
        return 1;
}
