/*
 * wire - the socket of a link, as its sending end uses it: frames and doorbells, and what they find out about the other side.
 */
#include "link/wire.h"

#include "os/os.h"

#include <errno.h>

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
        int r = f->n_fds ? l->end->sends(l, WH_SHARE_FLYING, f->n_fds) : 0;
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
                l->end->unsent(l, WH_SHARE_FLYING, f->n_fds);
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
