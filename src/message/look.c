/*
 * What lies in the carrier of a port is looked at, and its descriptors are copied.
 *
 * Always true:
 *   - Nothing is taken from the carrier (M3): each look reads ahead (SO_PEEK_OFF), and goes on where the one before it ended.
 *   - The descriptors are copies, which are closed with the opening unless somebody took them (-1).
 */
#include "message/opening.h"

#include "base/cleanup.h"
#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"
#include "os/receive.h"

#include <errno.h>
#include <stdlib.h>

/* Looks at the next datagram and copies its descriptors; nothing is taken (M3). */
static int datagram_look(int sock, struct wh_move_datagram *ret, int *fds, unsigned room)
{
        struct wh_move_datagram d;
        struct iovec iov = {&d, sizeof d};
        struct wh_came c = {.fds = fds, .room = room, .once = true}; /* each look begins behind the one before */
        ssize_t r = wh_os_receive(sock, &iov, 1, MSG_PEEK, &c);
        if (r == -ENOMEM || r == -ENOBUFS || r == -EMFILE || r == -ENFILE)
                return wh_trace((int)r);
        if (r < 0)
                return wh_trace(-EPROTO);
        const bool datagram = r == sizeof d && !c.cut && d.magic == WH_MOVE_MAGIC;
        int err = 0;
        if (c.all == WH_FDS_SHORT && datagram && c.n < d.n_fds)
                err = wh_trace(-EMFILE);
        else if (c.all != WH_FDS_ALL || c.surplus || !datagram ||
                 d.n_fds != c.n) /* an empty one may have some as well */
                err = wh_trace(-EPROTO);
        else if (d.version != MOVE_VERSION)
                err = wh_trace(-EPROTONOSUPPORT);
        for (unsigned i = 0; i < c.n; i++) {
                if (err < 0)
                        wh_os_close_theirs(fds[i]);
                else
                        wh_os_fd_private(fds[i]);
        }
        if (err == 0)
                *ret = d;
        return err;
}

static int peek_at(int sock, uint64_t datagram)
{
        const int from = (int)(datagram * sizeof(struct wh_move_datagram));
        int r = wh_os_setsockopt(sock, SOL_SOCKET, SO_PEEK_OFF, &from, sizeof from);
        return r < 0 ? wh_trace(r) : 0;
}

int wh_opening_begin(struct wh_moving *mv, int sock, struct wh_opening *op)
{
        struct wh_move_datagram d;
        int state;
        if (wh_frame_check_socket(sock) < 0)
                return wh_trace(-EPROTO);
        int r = peek_at(sock, 0);
        if (r == 0)
                r = datagram_look(sock, &d, &state, 1);
        if (r < 0)
                return r;
        r = d.index == 0 && d.n_fds == 1 ? wh_move_state_open(mv, state, &op->o) : wh_trace(-EPROTO);
        if (d.n_fds)
                wh_os_close_theirs(state);
        if (r == 0 && d.count != wh_move_datagrams(op->o.head->n_fds))
                r = wh_trace(-EPROTO);
        if (r == 0)
                r = wh_move_state_check(mv, op);
        if (r == 0 && !(op->o.fds = wh_os_calloc(op->o.head->n_fds + 1, sizeof *op->o.fds)))
                r = wh_trace(-ENOMEM);
        wh_moving_spend(mv,
                        2 * WH_COST_FRAME +
                                op->o.map_len / WH_COST_BYTES); /* whatever is wrong with it, it was looked through */
        return r;
}

/* All its descriptors. What was there before is there still, and is passed over. */
static int fds_look_on(struct wh_moving *mv, int sock, struct wh_opened *o)
{
        const uint64_t want = o->head->n_fds;
        int r = o->n_fds < want ? peek_at(sock, 1 + o->n_fds / WH_MOVE_BATCH) : 0;
        while (r == 0 && o->n_fds < want) {
                struct wh_move_datagram d;
                const uint32_t index = 1 + (uint32_t)(o->n_fds / WH_MOVE_BATCH);
                const uint64_t left = want - o->n_fds;
                r = datagram_look(sock, &d, o->fds + o->n_fds, (unsigned)(left < WH_MOVE_BATCH ? left : WH_MOVE_BATCH));
                if (r < 0)
                        break;
                o->n_fds += d.n_fds;
                if (d.index != index || d.n_fds != (left < WH_MOVE_BATCH ? left : WH_MOVE_BATCH))
                        r = wh_trace(-EPROTO);
                else if (!wh_moving_spend(mv, WH_COST_FRAME + 2 * d.n_fds) && o->n_fds < want)
                        r = WH_LINK_LATER;
        }
        return r;
}

int wh_opening_look(struct wh_moving *mv, int sock, struct wh_opening *op)
{
        enum { CATCH_UP_NS = 50000000 };
        struct wh_opened *o = &op->o;
        int r = fds_look_on(mv, sock, o);
        if ((r != -EMFILE && r != -ENFILE) || op->caught_up)
                return r;
        while (o->n_fds)
                wh_os_close_theirs(o->fds[--o->n_fds]);
        op->caught_up = true;
        /* What this attempt let go of, or one before it, may be closed then. */
        return wh_os_closer_catch_up(CATCH_UP_NS) ? fds_look_on(mv, sock, o) : r;
}

int wh_opened_take(struct wh_opened *o)
{
        return o->next_fd < o->n_fds ? wh_steal_fd(&o->fds[o->next_fd++]) : -1;
}

void wh_opening_done(struct wh_opening *op)
{
        if (!op)
                return;
        struct wh_opened *o = &op->o;
        if (o->head)
                wh_os_munmap((void *)(uintptr_t)o->head, o->map_len);
        for (size_t i = 0; i < o->n_fds; i++)
                wh_os_close_theirs(o->fds[i]);
        free(o->fds);
        free(op->links);
        free(op);
}
