/*
 * The socket of a link, as its sending end uses it: frames and doorbells, what they find out about the other side, and the
 * pair that the holder makes (K5).
 */
#include "link/link.h"

#include "os/closer.h"
#include "os/os.h"
#include "task/why.h"

#include <errno.h>
#include <string.h>

void wh_link_tx_end(struct wh_link *l, int err)
{
        if (l->out.over == 0)
                l->out.over = err;
}

/*
 * Frames that concern sending may wait on the socket: a refusal, a wish, the greeting on a new pair. `least` is what it
 * has of a budget in any case (K7): a little where the common way comes, which fills none; all that a socket can hold
 * where the other side is gone, so that nothing comes any more. False: there is more.
 */
static bool heed(struct wh_link *l, uint32_t least)
{
        if (l->in.budget < least)
                l->in.budget = least;
        l->in.sock_ready = true;
        return wh_link_read(l, WH_UNTIL_EMPTY, 0) != WH_LINK_LATER;
}

enum { HEED_FEW = 8 * WH_COST_FRAME, HEED_ALL = WH_BUDGET };

bool wh_link_heed_few(struct wh_link *l)
{
        return heed(l, HEED_FEW);
}

bool wh_link_probe(struct wh_link *l, bool now)
{
        uint64_t t = wh_os_ticks();
        if (!now) {
                if (t - l->out.probed_at < 1000 * l->task->ticks_per_us)
                        return false;
                l->out.probed_at = t;
                if (!l->owner && !l->in.leader) {
                        /* [lane-renew] As in tx_ring(); and an old pair does not stay for want of a call to read
                         * it. */
                        uint32_t renew =
                                l->out.lane ? atomic_load_explicit(&l->out.lane->ring.back->renew, memory_order_relaxed)
                                            : 0;
                        if (wh_unlikely(l->in.old_sock >= 0 || (l->out.lane && renew != l->out.renew_seen))) {
                                if (heed(l, HEED_FEW))
                                        l->out.renew_seen = renew;
                        }
                }
        }
        struct pollfd p = {.fd = l->sock, .events = 0};
        if (wh_os_poll(&p, 1, 0) <= 0 || !(p.revents & (POLLHUP | POLLERR)))
                return true;
        if (!l->owner) /* the last frame may say why: a refusal by its number, rather than a death */
                heed(l, HEED_ALL);
        wh_link_tx_end(l, -EPIPE);
        return true;
}

int wh_link_frame_parts(struct wh_link *l, struct wh_frame *f, const struct iovec part[2], const int *fds, bool cred)
{
        _Atomic uint32_t *count = l->out.lane ? &l->out.lane->ring.out->frames : NULL;
        uint32_t n = 0;
        int r = f->n_fds ? l->end->fly(l, f->n_fds) : 0;
        if (r < 0)
                return r;
        if (count) {
                /* [lane-frames] Before the frame goes, so that whoever is woken by it knows that it is there. */
                n = atomic_load_explicit(count, memory_order_relaxed);
                atomic_store_explicit(count, n + 1, memory_order_release);
        }
        f->to = wh_link_says(l);
        r = wh_frame_send_parts(l->sock, f, part, fds, cred);
        if (r < 0 && count)
                atomic_store_explicit(count, n, memory_order_release);
        if (r < 0 && f->n_fds)
                l->end->fly_unsent(l, f->n_fds);
        if (r == -EAGAIN)
                l->out.sock_full = true;
        else if (r == -EPIPE && wh_link_probe(l, true) && !l->out.over && !l->owner)
                heed(l,
                     HEED_ALL); /* an end that is just closing refuses before it hangs up; its last frame is here already */
        return r == -EPIPE && l->out.over ? l->out.over : r;
}

int wh_link_frame(struct wh_link *l, struct wh_frame *f, const void *data, size_t len, const int *fds, bool cred)
{
        const struct iovec part[2] = {{(void *)(uintptr_t)data, len}};
        return wh_link_frame_parts(l, f, part, fds, cred);
}

void wh_link_bell(struct wh_link *l)
{
        if (wh_frame_bell(l->sock) == -EPIPE)
                wh_link_probe(l, true);
}

/* ---- a pair of its own ---- */

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

/* A pair whose owner's end has the kernel say with each frame who sent it (I2), from the first on. */
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
                /* Forbidden in this sandbox, or no descriptors left: the link works as it is, and nobody knows whose. */
                if (r != -EMFILE && r != -ENFILE && r != -ENOMEM) {
                        l->provisional = false;
                        l->out.detour &= (uint8_t)~WH_DETOUR_REBIND;
                }
                wh_set_why(
                        "sent, but the receiver cannot know who has sent it: no pair of sockets can be made here (%s)",
                        strerrorname_np(-r));
                return 0;
        }
        wh_os_fd_private(sv[0]);
        int old = l->sock;
        /* Both are watched until it is clear which one stays: whoever asked is told, come what may (N1). */
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
        l->provisional = false;
        l->in.sock_ready = true;
        return 0;
}

void wh_link_heed(struct wh_link *l)
{
        if (l->owner || l->in.leader)
                return;
        heed(l, 0);
}

void wh_link_heed_cold(struct wh_link *l)
{
        enum { AT_ONCE_US = 100 };
        if (l->owner || l->once || l->provisional)
                return;
        const uint64_t now = wh_os_ticks();
        if (now - l->out.cold_looked < AT_ONCE_US * l->task->ticks_per_us)
                return;
        l->out.cold_looked = now;
        struct pollfd p = {.fd = l->sock, .events = POLLIN};
        if (l->in.old_sock < 0 && wh_os_poll(&p, 1, 0) == 0)
                return;
        wh_link_heed(l);
        l->in.sock_ready = true; /* who waits for the answer looks there first, whatever its deadline is */
}

bool wh_link_greeted(struct wh_link *l)
{
        if (!l->greeted)
                wh_link_heed(l);
        return l->greeted || l->owner;
}
