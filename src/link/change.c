/*
 * change - where a lane or a pair ends, and another begins (K5, K6).
 *
 * The end that sends decides: a holder that makes a pair of its own says REBIND, an owner that has gone over to it answers
 * with a greeting, and a new owner says RENEW. Each says how many messages and records come before.
 *
 * Always true:
 *   H1  The receiver goes over when it has taken exactly what was said. Less is not there any more, and more is a breach.
 *   H2  A lane that has ended stays mapped for as long as the user holds payloads in it, and no longer.
 *   H3  A holder listens on both pairs until it knows which one stays. It reads the old one to its end before the new one.
 */
#include "link/change.h"

#include "base/cleanup.h"
#include "base/trace.h"
#include "link/budget.h"
#include "link/pump.h"
#include "link/stash.h"
#include "os/closer.h"
#include "os/os.h"
#include "task/why.h"

#include <errno.h>
#include <string.h>

/* ---- lanes that end ---- */

void wh_link_lines_end(struct wh_link *l)
{
        if (l->in.lane)
                l->in.last_line = l->in.lane->ring.pos + l->in.lane->ring.lines;
}

void wh_link_hung_up(struct wh_link *l)
{
        if (!l->in.hung_up)
                wh_link_lines_end(l);
        l->in.hung_up = true;
}

/* The present lane has ended: it goes, or stays for as long as the user holds payloads in it. */
static void lane_retire(struct wh_link *l)
{
        struct wh_lane_rx *rx = l->in.lane;
        l->in.lane = NULL;
        l->in.frames_got = l->in.arms = l->in.renews = 0;
        l->in.armed = false;
        if (rx)
                wh_budget_mapped(l, rx->mapped_bytes);
        if (rx && rx->blocks_held) {
                rx->next_retired = l->in.retired;
                l->in.retired = rx;
        } else {
                wh_lane_rx_free(rx);
        }
        l->end->mapped(l);
}

struct wh_lane_rx *wh_link_lane(struct wh_link *l, uint32_t n)
{
        struct wh_lane_rx *rx = l->in.lane;
        if (wh_likely(rx && rx->number == n))
                return rx;
        for (rx = l->in.retired; rx && rx->number != n; rx = rx->next_retired)
                ;
        return rx;
}

void wh_link_unheld(struct wh_link *l, struct wh_lane_rx *rx)
{
        if (wh_likely(rx == l->in.lane) || rx->blocks_held)
                return;
        struct wh_lane_rx **at = &l->in.retired;
        while (*at != rx)
                at = &(*at)->next_retired;
        *at = rx->next_retired;
        wh_lane_rx_free(rx);
        l->end->mapped(l);
}

/* ---- the receiving half ---- */

int wh_link_change(struct wh_link *l)
{
        struct wh_change *c = &l->in.change;
        if (l->in.stash.full || (c->lane && l->in.lane && l->in.lane->ring.records != c->records))
                return 0;
        if (c->lane != (l->in.lane != NULL) || c->seq != l->in.seq || l->in.items.n)
                return wh_trace(-EPROTO);
        int r = l->end->change(l);
        if (r < 0)
                return r;
        wh_link_forget_part(l); /* a message that was begun and not finished was given up */
        lane_retire(l);
        c->due = false;
        l->in.sock_ready = true;
        return 1;
}

struct wh_change wh_change_said(const struct wh_frame *f)
{
        return (struct wh_change){
                .due = true, .lane = f->arg & WH_CHANGE_LANE, .seq = f->seq, .records = f->total, .sock = -1};
}

int wh_change_renewed(struct wh_link *l, const struct wh_frame *f)
{
        if (l->owner || f->n_fds || l->once)
                return -EPROTO;
        l->in.change = wh_change_said(f);
        l->provisional = !l->kept;
        l->out.detour |= l->kept ? 0 : WH_DETOUR_REBIND;
        l->in.whose.answered = l->in.whose.pending = false; /* that was somebody else, then */
        return 0;
}

/*
 * How the holder is known that sends this REBIND (identity.I1). The pair is to be its own: made by the process that wrote the frame.
 * Only processes are compared, since the kernel remembers the maker's effective ids, and a writer's real ones. (Neither
 * has a number here in a pid namespace that is not seen: then it is that user's, whoever of them it is.) A holder that no
 * greeting has reached names no port: whoever kept it from that could as well have told it this one.
 */
static int rebind_known(const struct wh_link *l, uint64_t port_id, int sock, const struct wh_cred *cred,
                        uint32_t *ret_known)
{
        struct ucred maker;
        socklen_t len = sizeof maker;
        *ret_known = WHARF_KNOWN_NOT;
        if (port_id && port_id != l->hello.port_id)
                return wh_trace(-EPROTO);
        if (!cred->known)
                return 0;
        if (wh_os_getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &maker, &len) < 0 || maker.pid != cred->pid)
                return wh_trace(-EPROTO);
        *ret_known = cred->pid == l->task->pid ? WHARF_KNOWN_OWN : WHARF_KNOWN_BOUND;
        return 0;
}

int wh_change_rebind(struct wh_link *l, const struct wh_frame *f, const uint8_t *data, const int *fds,
                     const struct wh_cred *cred)
{
        struct wh_origin said;
        uint32_t known;
        if (!l->owner || f->n_fds != 1 || f->len != sizeof said || wh_frame_check_socket(fds[0]) < 0)
                return -EPROTO;
        memcpy(&said, data, sizeof said);
        int r = rebind_known(l, said.port_id, fds[0], cred, &known);
        if (r < 0)
                return r;
        l->in.change = wh_change_said(f);
        l->in.change.sock = fds[0];
        l->in.change.awaited = f->arg & WH_CHANGE_AWAITED;
        l->in.change.cred = *cred;
        l->in.change.known = known;
        l->in.change.given = wh_origin_get(&said);
        wh_os_fd_private(fds[0]);
        return 0;
}

bool wh_change_expected(const struct wh_link *l)
{
        return l->owner && (l->in.lane || l->in.renews || !l->cred.known);
}

int wh_change_rebind_now(struct wh_link *l, const struct wh_frame *f, const uint8_t *data, const int *fds,
                         const struct wh_cred *cred)
{
        int r = wh_change_rebind(l, f, data, fds, cred);
        if (r < 0) {
                for (unsigned i = 0; i < f->n_fds; i++)
                        wh_os_close_theirs(fds[i]);
                return r;
        }
        r = wh_link_change(l);
        if (r <= 0 && (l->in.looked || !wh_awaited(r))) {
                l->in.change.due = false;
                wh_os_close_end(wh_steal_fd(&l->in.change.sock), WH_END_SHARED);
        }
        return r == 0 ? -EPROTO : r;
}

/* ---- the sending half: the holder's own pair ---- */

/* What the receiver has not taken counts against the next one's capacity. */
void wh_link_leave_lane(struct wh_link *l)
{
        wh_ring_refresh(&l->out.lane->ring);
        uint64_t unread = wh_ring_unread(&l->out.lane->ring);
        l->out.known_taken = l->out.seq - (unread < l->out.seq ? unread : l->out.seq);
        /* The next one numbers its records from the messages on, and what is remembered of them goes along. */
        uint64_t more = l->out.lane->ring.records - l->out.seq;
        l->out.items_record -= more < l->out.items_record ? more : l->out.items_record;
        if (l->out.later)
                l->out.later = more < l->out.later ? l->out.later - more : 1;
        l->out.lane = wh_lane_tx_free(l->out.lane);
        l->end->shared(l);
}

/*
 * Not the first pair of this link: what the owner wrote, or will write before it knows of the new one, is read first.
 * Not now, where a thread sleeps on the old pair and would hear nothing of the new one: it will see to it when it
 * wakes; nor inside a message in pieces, nor while the user writes into a lent block of the lane.
 */
static bool rebind_again_waits(const struct wh_link *l)
{
        return l->in.leader || l->out.busy || l->in.old_sock >= 0 || l->in.greeting_awaited ||
               (l->out.lane && wh_lane_lent_any(l->out.lane));
}

/* A pair whose owner's end has the kernel say with each frame who sent it (identity.I2), from the first on. */
static int own_pair(int sv[2])
{
        const int on = 1;
        int r = wh_os_socketpair(sv);
        if (r == 0 && (r = wh_os_setsockopt(sv[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on)) < 0) {
                wh_os_close(sv[0]);
                wh_os_close(sv[1]);
        }
        return r;
}

/* Forbidden in this sandbox, or no descriptors left: the link works as it is, and nobody knows whose. */
static void no_pair(struct wh_link *l, int err)
{
        if (err != -EMFILE && err != -ENFILE && err != -ENOMEM) {
                l->provisional = false;
                l->borrowed = true;
                l->out.detour &= (uint8_t)~WH_DETOUR_REBIND;
        }
        wh_set_why("sent, but the receiver cannot know who has sent it: no pair of sockets can be made here (%s)",
                   strerrorname_np(-err));
}

int wh_link_rebind(struct wh_link *l)
{
        if (!l->provisional)
                return 0;
        bool again = l->out.detour & WH_DETOUR_REBIND;
        if (again && rebind_again_waits(l))
                return 0;
        l->in.sock_ready = true;
        wh_link_read(l, WH_UNTIL_EMPTY, 0); /* the greeting lies there already */
        if (l->over || l->out.over)
                return l->out.over ? l->out.over : l->over;
        int sv[2];
        int r = own_pair(sv);
        if (r < 0) {
                no_pair(l, r);
                return 0;
        }
        wh_os_fd_private(sv[0]);
        int old = l->sock;
        /* Both are watched until it is clear which one stays: whoever asked is told, come what may (notice.N1). */
        if (l->end->watch(l, sv[0], true) < 0) {
                wh_os_close(sv[0]);
                wh_os_close(sv[1]);
                return 0; /* as where there are no descriptors */
        }
        struct wh_frame f = {
                .type = WH_FRAME_REBIND, .n_fds = 1, .seq = l->out.seq, .arg = again ? WH_CHANGE_AWAITED : 0};
        if (l->out.lane) {
                f.arg |= WH_CHANGE_LANE;
                f.total = l->out.lane->ring.records;
        }
        const struct wh_origin said = wh_origin_put(l->greeted ? l->hello.port_id : 0, &l->given);
        r = wh_link_frame(l, &f, &said, sizeof said, &sv[1], true);
        wh_os_close_end(sv[1], WH_END_SHARED); /* its receiver may have it, and be gone, by now */
        if (r < 0) {
                l->end->watch(l, sv[0], false);
                wh_os_close(sv[0]);
                return again && r != -EPIPE && !l->out.over ? 0
                                                            : r; /* the old way works, until the new one can be had */
        }
        l->end->watch(l, old, false);
        l->sock = sv[0];
        if (again) {
                l->in.old_sock = old;
                l->in.greeting_awaited = true;
        } else {
                wh_os_close_end(old, WH_END_SHARED); /* whoever gave it to us may have put something there */
        }
        l->end->sock_changed(l); /* the old pair goes out of what watches it when it is closed */
        l->out.later_end = 0;
        if (l->out.lane)
                wh_link_leave_lane(l);
        l->out.detour &=
                (uint8_t) ~(WH_DETOUR_ABORT | WH_DETOUR_REBIND); /* a change ends a message in pieces as well */
        l->provisional = l->borrowed = false;
        l->in.sock_ready = true;
        return 0;
}
