/*
 * Sending on a link: the choice of the way, and each way.
 *
 *      nothing attached yet     cold frames, WH_COLD_FRAMES of them at most; then ATTACH
 *      up to WHARF_INLINE_MAX   a record
 *      up to WHARF_IN_PLACE_MAX a block of a section, and a record that names it
 *      more                     blocks of WH_CHUNK bytes, one after another
 *      where no block can be made   parts in as many records as it takes (send_pieces())
 *      on request, and for replies that must not wait: a sealed memory of its own
 *      on request: read by the receiver from where it is (direct.h)
 *
 * Where the port's capacity is zero each of them but chunks is offered instead (send_offer()). Otherwise a ring that is
 * full is followed by a larger one (ring_grow()), and what finds no block goes into that: always where the queue is
 * unbounded; where it is bounded, for a sender that would have to sleep or give up although its queue has a place.
 *
 * Every way first makes sure of its place and only then does what cannot be taken back, so -EAGAIN changes nothing
 * but o->done, the progress of a message in pieces.
 */
#include "port/link.h"

#include "base/cleanup.h"
#include "base/trace.h"
#include "memory/buddy.h"
#include "os/closer.h"
#include "os/os.h"
#include "port/direct.h"
#include "port/memory.h"
#include "port/why.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
        WH_COLD_FRAMES = 16,             /* far from filling a socket, which holds 278 */
        WH_COLD_BYTES = 64 << 10,        /* likewise: 208 KiB */
        WH_COLD_COUNTED = 512,           /* capacities that frames may fill: each is told of when it was taken, */
        WH_COLD_UNTOLD = 128,            /* and that is read before it fills the socket */
        WH_SECTION_BYTES = 64 << 10,     /* the smallest section */
        WH_SECTION_BLOCKS = 16,          /* the first section holds so many payloads of the size that needs it */
        WH_SECTION_BLOCKS_BUSY = 64,     /* ... and a link that keeps running out, so many, */
        WH_SECTION_BYTES_BUSY = 4 << 20, /* up to this */
        WH_PROBE_EVERY = 8,              /* messages between two looks at the clock */
        WH_WITHDRAWN_MAX = 16,           /* offers withdrawn, and not passed over by the receiver yet */
        WH_RING_LINES = 2048,            /* of the ring of a port of the default capacity */
        WH_RING_INLINE_MAX = 32 << 10,   /* in the ring, when blocks are short */
};

/* In o->how, beside the user's: it has begun, or has to go, in pieces. WH_HOW_WINDOW is another. */
enum { HOW_PIECES = WHARF_HOW_DIRECT + 1 };

/*
 * A lane stays what it was made as, whatever a later greeting claims: only in a ring that began as an unbounded one are
 * there places that do not end by count.
 */
static bool unbounded(const struct wh_link *l)
{
        if (l->tx)
                return l->tx->ring.capacity == WH_RING_UNBOUNDED;
        return l->hello.capacity_records == WHARF_UNBOUNDED && !l->owner;
}

static void tx_fail(struct wh_link *l, int err)
{
        if (l->tx_over == 0)
                l->tx_over = err;
}

/*
 * Frames that concern sending may wait on the socket: a refusal, a wish, the greeting on a new pair. `least` is what it
 * has of a budget in any case (K7): a little where the common way comes, which fills none; all that a socket can hold
 * where the other side is gone, so that nothing comes any more. False: there is more.
 */
static bool heed(struct wh_link *l, uint32_t least)
{
        if (l->budget < least)
                l->budget = least;
        l->sock_ready = true;
        return wh_link_read(l, WH_UNTIL_EMPTY, 0) != WH_LINK_LATER;
}

enum { HEED_FEW = 8 * WH_COST_FRAME, HEED_ALL = WH_BUDGET };

bool wh_link_probe(struct wh_link *l, bool now)
{
        uint64_t t = wh_os_ticks();
        if (!now) {
                if (t - l->probed_at < 1000 * l->task->ticks_per_us)
                        return false;
                l->probed_at = t;
                if (!l->owner && !l->leader) {
                        /* [lane-renew] As in tx_published(); and an old pair does not stay for want of a call to read
                         * it. */
                        uint32_t renew =
                                l->tx ? atomic_load_explicit(&l->tx->ring.back->renew, memory_order_relaxed) : 0;
                        if (wh_unlikely(l->old_sock >= 0 || (l->tx && renew != l->renew_seen))) {
                                if (heed(l, HEED_FEW))
                                        l->renew_seen = renew;
                        }
                }
        }
        struct pollfd p = {.fd = l->sock, .events = 0};
        if (wh_os_poll(&p, 1, 0) <= 0 || !(p.revents & (POLLHUP | POLLERR)))
                return true;
        if (!l->owner) /* the last frame may say why: a refusal by its number, rather than a death */
                heed(l, HEED_ALL);
        tx_fail(l, -EPIPE);
        return true;
}

static int frame_parts(struct wh_link *l, struct wh_frame *f, const struct iovec part[2], const int *fds, bool cred)
{
        _Atomic uint32_t *count = l->tx ? &l->tx->ring.out->frames : NULL;
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
                l->sock_full = true;
        else if (r == -EPIPE && wh_link_probe(l, true) && !l->tx_over && !l->owner)
                heed(l,
                     HEED_ALL); /* an end that is just closing refuses before it hangs up; its last frame is here already */
        return r == -EPIPE && l->tx_over ? l->tx_over : r;
}

int wh_link_frame(struct wh_link *l, struct wh_frame *f, const void *data, size_t len, const int *fds, bool cred)
{
        const struct iovec part[2] = {{(void *)(uintptr_t)data, len}};
        return frame_parts(l, f, part, fds, cred);
}

void wh_link_bell(struct wh_link *l)
{
        if (wh_frame_bell(l->sock) == -EPIPE)
                wh_link_probe(l, true);
}

/* ---- setting up ---- */

/* What the receiver has not taken counts against the next one's capacity. */
void wh_link_leave_lane(struct wh_link *l)
{
        wh_ring_refresh(&l->tx->ring);
        uint64_t unread = wh_ring_unread(&l->tx->ring);
        l->known_taken = l->tx_seq - (unread < l->tx_seq ? unread : l->tx_seq);
        /* The next one numbers its records from the messages on, and what is remembered of them goes along. */
        uint64_t more = l->tx->ring.records - l->tx_seq;
        l->items_record -= more < l->items_record ? more : l->items_record;
        if (l->later)
                l->later = more < l->later ? l->later - more : 1;
        l->tx = wh_lane_tx_free(l->tx);
        l->end->shared(l);
}

/*
 * Not the first pair of this link: what the owner wrote, or will write before it knows of the new one, is read first.
 * Not now, where a thread sleeps on the old pair and would hear nothing of the new one: it will see to it when it
 * wakes; nor inside a message in pieces, nor while the user writes into a lent block of the lane.
 */
static bool rebind_again_waits(const struct wh_link *l)
{
        return l->leader || l->tx_busy || l->old_sock >= 0 || l->greeting_awaited || (l->tx && wh_lane_lent_any(l->tx));
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
        bool again = l->detour & WH_DETOUR_REBIND;
        if (again && rebind_again_waits(l))
                return 0;
        l->sock_ready = true;
        wh_link_read(l, WH_UNTIL_EMPTY, 0); /* the greeting lies there already */
        if (l->over || l->tx_over)
                return l->tx_over ? l->tx_over : l->over;
        int sv[2];
        int r = own_pair(sv);
        if (r < 0) {
                /* Forbidden in this sandbox, or no descriptors left: the link works as it is, and nobody knows whose. */
                if (r != -EMFILE && r != -ENFILE && r != -ENOMEM) {
                        l->provisional = false;
                        l->detour &= (uint8_t)~WH_DETOUR_REBIND;
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
                .type = WH_FRAME_REBIND, .n_fds = 1, .seq = l->tx_seq, .arg = again ? WH_CHANGE_AWAITED : 0};
        if (l->tx) {
                f.arg |= WH_CHANGE_LANE;
                f.total = l->tx->ring.records;
        }
        const struct wh_origin said = wh_origin_put(l->greeted ? l->hello.port_id : 0, &l->given);
        r = wh_link_frame(l, &f, &said, sizeof said, &sv[1], true);
        wh_os_close_end(sv[1], WH_END_SHARED); /* its receiver may have it, and be gone, by now */
        if (r < 0) {
                l->end->watch(l, sv[0], false);
                wh_os_close(sv[0]);
                return again && r != -EPIPE && !l->tx_over ? 0
                                                           : r; /* the old way works, until the new one can be had */
        }
        l->end->watch(l, old, false);
        l->sock = sv[0];
        if (again) {
                l->old_sock = old;
                l->greeting_awaited = true;
        } else {
                wh_os_close_end(old, WH_END_SHARED); /* whoever gave it to us may have put something there */
        }
        l->end->sock_changed(l); /* the old pair goes out of what watches it when it is closed */
        l->later_end = 0;
        if (l->tx)
                wh_link_leave_lane(l);
        l->detour &= (uint8_t) ~(WH_DETOUR_ABORT | WH_DETOUR_REBIND); /* a change ends a message in pieces as well */
        l->provisional = false;
        l->sock_ready = true;
        return 0;
}

/* Read the frames that wait at the holder's end, unless a thread does so already: replies stay put. */
static void read_waiting(struct wh_link *l)
{
        if (l->owner || l->leader)
                return;
        heed(l, 0);
}

/*
 * Without a lane there is no word that tells a sender to look at its socket, such as that its port has moved. So it looks before
 * a message, where it has a pair of its own (it makes one otherwise), but for those that follow another at once: a look finds
 * the receiver's answers, too, and costs as much as a message.
 */
static void read_cold(struct wh_link *l)
{
        enum { AT_ONCE_US = 100 };
        if (l->owner || l->once || l->provisional)
                return;
        const uint64_t now = wh_os_ticks();
        if (now - l->cold_looked < AT_ONCE_US * l->task->ticks_per_us)
                return;
        l->cold_looked = now;
        struct pollfd p = {.fd = l->sock, .events = POLLIN};
        if (l->old_sock < 0 && wh_os_poll(&p, 1, 0) == 0)
                return;
        read_waiting(l);
        l->sock_ready = true; /* who waits for the answer looks there first, whatever its deadline is */
}

bool wh_link_greeted(struct wh_link *l)
{
        if (!l->greeted)
                read_waiting(l);
        return l->greeted || l->owner;
}

int wh_link_attach(struct wh_link *l)
{
        if (l->tx)
                return 0;
        if (l->cold_taken < l->tx_seq)
                read_waiting(l); /* what was taken meanwhile */
        if (!wh_link_greeted(l))
                return -EAGAIN; /* what the port takes is not known yet: its owner has not seen us */
        uint64_t capacity = l->owner ? 1024 : l->hello.capacity_records;
        if (capacity == WHARF_RENDEZVOUS)
                capacity = WH_WITHDRAWN_MAX;
        else if (capacity == WHARF_UNBOUNDED)
                capacity = WH_RING_UNBOUNDED;
        struct wh_lane_tx *lane;
        uint64_t lines = capacity < WH_RING_LINES / 2 ? capacity * 2 : WH_RING_LINES;
        int r = wh_lane_tx_new((uint32_t)lines * WH_LINE, capacity, &lane);
        if (r < 0) {
                /* An offer has no other way: unless it is forbidden here, the next one may have what this one lacks. */
                if (l->detour & WH_DETOUR_OFFER && !wh_forbidden(r))
                        return r;
                l->no_lane = true;
                return 0;
        }
        if (lane->map_len + WH_PAGE > l->end->may_share(l)) {
                wh_lane_tx_free(lane); /* the receiver would not map it: frames, then, which it need not */
                l->no_lane = true;
                return 0;
        }
        /* Cold messages count against the capacity until the receiver has read them. */
        uint64_t unread = l->tx_seq - (l->known_taken > l->cold_taken ? l->known_taken : l->cold_taken);
        wh_ring_tx_follow(&lane->ring, l->tx_seq, unread);
        l->attached_at = l->tx_seq;
        if (unread && l->cold_large && !l->owner && wh_lane_large_room(lane))
                wh_lane_large_sent(lane, l->tx_seq - 1, l->cold_large); /* unread until all are taken */
        l->renew_seen = 0;
        struct wh_frame f = {.type = WH_FRAME_ATTACH, .n_fds = 2};
        static const uint8_t later[WH_LATER_BYTES + 1];
        r = wh_link_frame(l, &f, later, WH_LATER_BYTES, (int[]){lane->out_fd, lane->back_fd}, false);
        if (r < 0) {
                wh_lane_tx_free(lane);
                if (r != -ETOOMANYREFS || l->detour & WH_DETOUR_OFFER)
                        return r;
                l->no_lane =
                        true; /* this user has too many descriptors on their way, whosever: frames, which need none */
                return 0;
        }
        wh_os_close(wh_steal_fd(&lane->out_fd));
        wh_os_close(wh_steal_fd(&lane->back_fd));
        l->tx = lane;
        l->end->shared(l);
        l->no_lane = false;
        if (l->provisional) /* it still is to be had: the long way, until it is */
                l->detour |= WH_DETOUR_REBIND;
        return 0;
}

/* Hand a new section to the receiver. */
static int section_add(struct wh_link *l, uint64_t len, uint64_t blocks)
{
        struct wh_lane_tx *tx = l->tx;
        uint64_t limit = l->end->may_share(l);
        uint64_t used = wh_link_shared_bytes(l), need = wh_pow2_ceil(len);
        if (used >= limit || limit - used < need)
                return -EDQUOT;
        uint64_t want = need > WH_SECTION_BYTES_MAX / blocks ? WH_SECTION_BYTES_MAX : need * blocks;
        want = want < WH_SECTION_BYTES ? WH_SECTION_BYTES : want;
        while (want > need && want > limit - used)
                want /= 2;
        unsigned i;
        int r;
        while ((r = wh_lane_add_section(tx, want, &i)) < 0 && want > need && (r == -ENOMEM || r == -ENOSPC))
                want /= 2;
        if (r < 0)
                return r;
        struct wh_frame f = {.type = WH_FRAME_SECTION, .n_fds = 1, .arg = i};
        r = wh_link_frame(l, &f, NULL, 0, &tx->section[i].fd, false);
        if (r < 0) {
                wh_lane_drop_section(tx);
                return r;
        }
        wh_os_close(wh_steal_fd(&tx->section[i].fd));
        l->end->shared(l);
        return 0;
}

uint64_t wh_link_shared_bytes(const struct wh_link *l)
{
        return l->tx ? l->tx->map_len + WH_PAGE + l->tx->section_bytes + wh_lane_behind_bytes(l->tx) : 0;
}

/*
 * Go on in another ring. What is unread stays where it is, and its memory is the receiver's to let go of: the ring's
 * descriptor is in a frame, then NEXT in the old ring points to it. A sender that dies between has lost nothing. Until
 * the receiver has come to NEXT it maps both, and both count.
 */
static int ring_change(struct wh_link *l, uint64_t lines, bool end_sections)
{
        if (wh_link_shared_bytes(l) + lines * WH_LINE + WH_PAGE > l->hello.link_mapped_bytes_max)
                return -EDQUOT;
        /* Before the frame goes: the kept line may hold a message that was left there (room.c). */
        if (!wh_ring_reserve_kept(&l->tx->ring))
                return -EAGAIN;
        int fd;
        struct wh_out *out;
        int r = wh_lane_ring_new(lines, &fd, &out);
        if (r < 0)
                return r;
        struct wh_frame f = {.type = WH_FRAME_RING, .n_fds = 1};
        r = wh_link_frame(l, &f, NULL, 0, &fd, false);
        wh_os_close(fd);
        if (r == 0 && !wh_lane_ring_switch(l->tx, out, end_sections)) {
                r = wh_trace(-EPROTO); /* nothing but this uses the kept line here, so the receiver lied about it */
                tx_fail(l, r);
        }
        if (r < 0)
                wh_lane_ring_free(out);
        return r;
}

/* The ring is full: one twice as large, in which a record of `need` lines has room. */
static int ring_grow(struct wh_link *l, uint64_t need)
{
        struct wh_ring_tx *ring = &l->tx->ring;
        uint64_t lines = ring->lines * 2 > WH_RING_LINES_MAX ? WH_RING_LINES_MAX : ring->lines * 2;
        while (lines < 4 * need)
                lines *= 2;
        int r = ring_change(l, lines, false);
        if (wh_forbidden(r))
                r = -EAGAIN; /* then this queue ends with its ring */
        else if (unbounded(l))
                r = r == -ENOMEM || r == -ENOSPC || r == -EAGAIN ? -ENOBUFS : r;
        else if (r < 0 && r != l->tx_over)
                r = -EAGAIN; /* reading makes room in this one */
        l->grow_refused = r < 0;
        return r;
}

/* Has the queue a place, though no memory for one now, and may that be made? Not inside a message in pieces. */
static bool may_grow(const struct wh_link *l)
{
        const struct wh_ring_tx *ring = &l->tx->ring;
        return l->grow && !l->owner && !(l->detour & WH_DETOUR_OFFER) &&
               ring->records - ring->taken_records < ring->capacity;
}

/* Do cold messages count that may have been taken? The receiver says so by frames until it has come to the lane. */
static bool cold_told(struct wh_link *l)
{
        struct wh_ring_tx *ring = &l->tx->ring;
        if (wh_likely(l->owner || ring->taken_records >= l->attached_at))
                return false;
        uint64_t taken = ring->taken_records;
        read_waiting(l);
        return wh_ring_refresh(ring) && ring->taken_records != taken;
}

/* ---- bytes ---- */

/* What larger messages take of the port's capacity_bytes. Those that fit nowhere go when they are alone. */
static bool bytes_fit(struct wh_link *l, uint64_t len)
{
        if (len <= WHARF_SMALL_MAX || unbounded(l) || l->owner || l->detour & WH_DETOUR_OFFER)
                return true;
        struct wh_lane_tx *tx = l->tx;
        if (tx->large_bytes && tx->large_bytes + len > l->hello.capacity_bytes) {
                wh_ring_refresh(&tx->ring);
                cold_told(l);
                wh_lane_large_taken(tx);
                if (tx->large_bytes && tx->large_bytes + len > l->hello.capacity_bytes) {
                        l->short_bytes = len;
                        return false;
                }
        }
        /* Where none is remembered none may be unread, and nobody would ever ring: it goes without being counted. */
        return wh_lane_large_room(tx) || tx->large_head == tx->large_tail;
}

/* The record just published carries so many bytes. */
static void bytes_sent(struct wh_link *l, uint64_t len)
{
        if (len > WHARF_SMALL_MAX && !unbounded(l) && !l->owner && !(l->detour & WH_DETOUR_OFFER))
                wh_lane_large_sent(l->tx, l->tx->ring.records - 1, len);
}

uint32_t wh_link_full_by(struct wh_link *l)
{
        if (l->tx_over || l->over || l->owner)
                return 0;
        if (!l->tx)
                return l->sock_full ? WHARF_FULL_MEMORY : wh_link_full(l) ? WHARF_FULL_RECORDS : 0;
        struct wh_ring_tx *ring = &l->tx->ring;
        if (!wh_ring_refresh(ring) || unbounded(l))
                return 0;
        if (ring->records - ring->taken_records >= ring->capacity)
                return WHARF_FULL_RECORDS;
        if (l->short_bytes && !bytes_fit(l, l->short_bytes))
                return WHARF_FULL_BYTES;
        return l->grow_refused ? WHARF_FULL_MEMORY : 0;
}

/* When little is unread any more, a burst is not paid for longer. Now and then, with the receiver's numbers fresh. */
static void ring_shrink(struct wh_link *l)
{
        struct wh_lane_tx *tx = l->tx;
        /* The sections of a bounded queue that never needed more are made for what it sends, and stay. */
        if (tx->ring.lines <= WH_RING_LINES &&
            (unbounded(l) ? tx->section_bytes <= WH_SECTION_BYTES_BUSY : !tx->sections_grown))
                return;
        if (!wh_ring_refresh(&tx->ring) || tx->ring.pos - tx->ring.seen_lines > WH_RING_LINES / 4)
                return;
        bool end_sections = !wh_lane_blocks_out(tx);
        if (tx->ring.lines > WH_RING_LINES || (end_sections && tx->n_sections))
                ring_change(l, WH_RING_LINES, end_sections); /* another time, where it fails */
}

/* One more section, as large as all so far; the last one for all that may wait. */
static int section_grow(struct wh_link *l, uint64_t len)
{
        struct wh_lane_tx *tx = l->tx;
        uint64_t need = wh_pow2_ceil(len < WH_SECTION_UNIT ? WH_SECTION_UNIT : len), want = tx->section_bytes;
        if (tx->n_sections == WH_SECTIONS_MAX - 1 && want < 2 * l->hello.capacity_bytes)
                want = 2 * l->hello.capacity_bytes;
        want = want > WH_SECTION_BYTES_MAX ? WH_SECTION_BYTES_MAX : want;
        uint64_t blocks = want / need < WH_SECTION_BLOCKS ? WH_SECTION_BLOCKS : want / need;
        int r = tx->n_sections == WH_SECTIONS_MAX ? -EAGAIN : section_add(l, len, blocks);
        l->grow_refused = r < 0;
        tx->sections_grown |= r == 0;
        return r;
}

int wh_link_lend(struct wh_link *l, uint64_t len, uint16_t *ret_slot, void **ret)
{
        struct wh_lane_tx *tx = l->tx;
        int r = wh_lane_lend(tx, len, ret_slot, ret);
        if (wh_likely(r == 0))
                return 0;
        if (r == -ENOSPC)
                r = section_add(l, len, WH_SECTION_BLOCKS);
        else if (r == -EAGAIN && tx->n_sections < WH_SECTIONS_MAX && tx->section_bytes < WH_SECTION_BYTES_BUSY &&
                 tx->section_bytes < len * WH_SECTION_BLOCKS_BUSY && section_add(l, len, WH_SECTION_BLOCKS_BUSY) == 0)
                r = 0; /* where it cannot grow, it waits */
        else if (r == -EAGAIN && (l->grow == WH_GROW_BLOCKS || len > WH_RING_INLINE_MAX) && may_grow(l) &&
                 tx->n_free_slots && section_grow(l, len) == 0)
                r = 0;
        return r < 0 ? r : wh_lane_lend(tx, len, ret_slot, ret);
}

/* ---- the ways ---- */

static __attribute__((noinline)) void tx_ring(struct wh_link *l)
{
        wh_link_bell(l);
        /* [lane-renew] Relaxed: a hint; the frame itself says it. Pairs with the store in owner_renew(). */
        uint32_t renew = atomic_load_explicit(&l->tx->ring.back->renew, memory_order_relaxed);
        if (renew != l->renew_seen && !l->owner && !l->leader && heed(l, HEED_FEW))
                l->renew_seen = renew;
}

/* After a record was published: ring if the receiver sleeps. Inlined, for this is on the way of every message. */
static inline __attribute__((always_inline)) int tx_published(struct wh_link *l)
{
        struct wh_ring_tx *ring = &l->tx->ring;
        if (wh_unlikely(wh_ring_must_ring(ring)))
                tx_ring(l);
        wh_ring_clear_ahead(ring);
        return l->tx_over;
}

/*
 * The receiver was found to be gone when the message was in its queue already. To fail is to say that nobody has it,
 * and may be answered by sending it to somebody else; what may have been taken was sent, and its loss is counted.
 */
static __attribute__((noinline)) int tx_unheard(struct wh_link *l)
{
        return wh_ring_never_woke(&l->tx->ring) ? l->tx_over : 0;
}

static __attribute__((noinline)) void tx_look(struct wh_link *l)
{
        if (wh_link_probe(l, false) && !l->owner && !l->tx_over)
                ring_shrink(l);
}

/* After a message was published. */
static inline __attribute__((always_inline)) int tx_done(struct wh_link *l)
{
        l->tx_seq++;
        struct wh_out *out = l->tx->ring.out;
        atomic_store_explicit(&out->sent_messages, l->tx_seq, memory_order_relaxed);
        if (wh_unlikely(l->tx_seq % WH_PROBE_EVERY == 0))
                tx_look(l);
        return wh_unlikely(tx_published(l) < 0) ? tx_unheard(l) : 0;
}

static inline __attribute__((always_inline)) int tx_sent(struct wh_link *l, struct wh_outgoing *o, enum wharf_how how)
{
        o->how = how;
        return tx_done(l);
}

static int tx_full(struct wh_link *l)
{
        if (l->tx->ring.broken) {
                tx_fail(l, wh_trace(-EPROTO));
                return -EPROTO;
        }
        return -EAGAIN;
}

static void *reserve_full(struct wh_link *l, uint32_t len, int *err)
{
        *err = tx_full(l);
        if (wh_unlikely(*err == -EAGAIN && cold_told(l))) {
                void *body = wh_ring_reserve(&l->tx->ring, len);
                if (body || (*err = tx_full(l)) != -EAGAIN)
                        return body;
        }
        if (*err == -EAGAIN && (unbounded(l) || may_grow(l))) {
                *err = ring_grow(l, wh_rec_lines(len));
                if (*err == 0) {
                        void *body = wh_ring_reserve(&l->tx->ring, len);
                        /* The record that leads there has the last place where it counts as a message (R10). */
                        *err = body ? 0 : tx_full(l);
                        return body;
                }
        }
        return NULL;
}

/* Where the body of the next record goes; NULL, and the reason in *err. */
static inline void *reserve(struct wh_link *l, uint32_t len, int *err)
{
        void *body = wh_ring_reserve(&l->tx->ring, len);
        return wh_likely(body) ? body : reserve_full(l, len, err);
}

/* The ITEMS frame of the next record. */
static int send_items(struct wh_link *l, struct wh_outgoing *o)
{
        if (o->n_items == 0 || o->items_sent)
                return 0;
        struct wh_frame f = {.type = WH_FRAME_ITEMS, .n_fds = (uint8_t)o->n_items, .seq = l->tx_seq};
        int r = wh_link_frame(l, &f, o->kind, o->n_items, o->fd, false);
        if (r == 0)
                o->items_sent = true;
        return r;
}

static struct wh_rec_ext rec_ext(const struct wh_link *l, const struct wh_outgoing *o)
{
        return (struct wh_rec_ext){
                .id = o->id, .call = o->call, .n_items = (uint16_t)o->n_items, .arg = (uint32_t)l->reply_refused};
}

/* The same in a frame. */
static uint32_t msg_refused(const struct wh_link *l)
{
        return (uint32_t)l->reply_refused << WH_MSG_REFUSED_SHIFT;
}

static void count_items(struct wh_link *l, struct wh_outgoing *o)
{
        if (o->n_items == 0)
                return;
        o->items_gone = true;
        l->items_unread += o->n_items;
        l->items_record = l->tx ? l->tx->ring.records : 0;
}

static int send_inline(struct wh_link *l, struct wh_outgoing *o)
{
        struct wh_rec_ext ext = rec_ext(l, o);
        uint32_t len = (uint32_t)(sizeof ext + o->len);
        int r;
        uint8_t *body = reserve(l, len, &r);
        if (!body)
                return r;
        r = send_items(l, o);
        if (r < 0)
                return r;
        wh_shm_copy(body, &ext, sizeof ext);
        wh_shm_copy(body + sizeof ext, o->data, o->len);
        wh_ring_publish(&l->tx->ring, WH_REC_INLINE, len);
        bytes_sent(l, o->len);
        count_items(l, o);
        return tx_sent(l, o, WHARF_HOW_INLINE);
}

/* The record of a block that holds its bytes already. */
static void publish_block(struct wh_link *l, struct wh_outgoing *o, uint8_t *body, uint16_t slot, uint64_t len,
                          enum wh_rec_kind kind)
{
        struct wh_rec_ext ext = rec_ext(l, o);
        struct wh_rec_block block = wh_lane_block(l->tx, slot, len, o->len);
        wh_shm_copy(body, &ext, sizeof ext);
        wh_shm_copy(body + sizeof ext, &block, sizeof block);
        wh_lane_slot_sent(l->tx, slot);
        wh_ring_publish(&l->tx->ring, kind, sizeof ext + sizeof block);
        bytes_sent(l, len);
}

enum {
        INLINE_BYTES_MAX = WH_RECORD_BODY_MAX - sizeof(struct wh_rec_ext),
        PIECE_BYTES_MAX = INLINE_BYTES_MAX - sizeof(uint64_t),
        BLOCK_BODY = sizeof(struct wh_rec_ext) + sizeof(struct wh_rec_block),
        DIRECT_BODY = sizeof(struct wh_rec_ext) + sizeof(struct wh_rec_direct),
};

static int send_memory(struct wh_link *l, struct wh_outgoing *o);

/* No block is free now: there are other ways, where memory for them may be made. */
static int send_blockless(struct wh_link *l, struct wh_outgoing *o, int why)
{
        int r = tx_full(l);
        if (r != -EAGAIN)
                return r;
        if (!unbounded(l)) {
                uint64_t lines = wh_rec_lines((uint32_t)(sizeof(struct wh_rec_ext) + o->len));
                if (why != -EAGAIN || o->slot >= 0 || o->len > WH_RING_INLINE_MAX || !may_grow(l))
                        return why;
                if (2 * lines > l->tx->ring.usable && (r = ring_grow(l, lines)) < 0)
                        return r;
                return send_inline(l, o);
        }
        if (o->len <= WH_RING_INLINE_MAX)
                return send_inline(l, o);
        r = send_memory(l, o);
        return r == -EAGAIN ? -ENOBUFS : r;
}

/* A part was published: no message of its own, but for the last. */
static int part_sent(struct wh_link *l, struct wh_outgoing *o, uint64_t n)
{
        o->done += n;
        o->started = true;
        l->grow = WH_GROW_NOT;
        if (o->done == o->len)
                return 0;
        wh_ring_uncount(&l->tx->ring);
        return tx_published(l);
}

/* Parts that need no shared memory but the ring's. What fits into one record goes like any small message. */
static int send_pieces(struct wh_link *l, struct wh_outgoing *o)
{
        if (o->len <= INLINE_BYTES_MAX && !o->started)
                return send_inline(l, o);
        if (l->owner && o->len > WH_REPLY_PARTS_MAX)
                return -EOPNOTSUPP; /* what does not wait for room must have it before it begins */
        struct wh_rec_ext ext = rec_ext(l, o);
        o->how = HOW_PIECES;
        while (o->done < o->len) {
                uint64_t n = o->len - o->done < PIECE_BYTES_MAX ? o->len - o->done : PIECE_BYTES_MAX;
                uint32_t len = (uint32_t)(sizeof ext + sizeof o->len + n);
                int r;
                uint8_t *body = reserve(l, len, &r);
                if (!body)
                        return r;
                r = send_items(l, o);
                if (r < 0)
                        return r;
                wh_shm_copy(body, &ext, sizeof ext);
                wh_shm_copy(body + sizeof ext, &o->len, sizeof o->len);
                wh_shm_copy(body + sizeof ext + sizeof o->len, (const uint8_t *)o->data + o->done, n);
                wh_ring_publish(&l->tx->ring, WH_REC_PIECE, len);
                bytes_sent(l, n);
                if ((r = part_sent(l, o, n)) < 0)
                        return r;
        }
        count_items(l, o);
        return tx_sent(l, o, WHARF_HOW_CHUNKS);
}

static int send_block(struct wh_link *l, struct wh_outgoing *o)
{
        int r;
        if (wh_unlikely(!bytes_fit(l, o->len)))
                return tx_full(l);
        uint8_t *body = reserve(l, BLOCK_BODY, &r);
        if (!body)
                return r;
        uint16_t slot = (uint16_t)o->slot;
        void *mem;
        if (o->slot < 0) {
                r = wh_link_lend(l, o->len, &slot, &mem);
                if (r < 0)
                        return r == -EAGAIN || r == -EDQUOT ? send_blockless(l, o, r)
                               : wh_forbidden(r)            ? send_pieces(l, o)
                                                            : r;
                wh_shm_copy(mem, o->data, o->len);
        }
        r = send_items(l, o);
        if (r < 0) {
                if (o->slot < 0)
                        wh_lane_unlend(l->tx, slot);
                return r;
        }
        publish_block(l, o, body, slot, o->len, WH_REC_BLOCK);
        count_items(l, o);
        return tx_sent(l, o, WHARF_HOW_SECTION);
}

int wh_link_send_lent(struct wh_link *l, uint32_t id, uint16_t slot, uint64_t len)
{
        if (wh_unlikely(l->tx_over | l->over || l->tx_busy || l->detour) || wh_unlikely(!bytes_fit(l, len)))
                return -EAGAIN;
        uint8_t *body = wh_ring_reserve(&l->tx->ring, BLOCK_BODY);
        if (wh_unlikely(!body))
                return -EAGAIN;
        struct wh_outgoing o;
        wh_outgoing_init(&o, NULL, len);
        o.id = id;
        publish_block(l, &o, body, slot, len, WH_REC_BLOCK);
        return tx_sent(l, &o, WHARF_HOW_SECTION);
}

static int send_chunks(struct wh_link *l, struct wh_outgoing *o)
{
        while (o->done < o->len) {
                uint64_t n = o->len - o->done < WH_CHUNK ? o->len - o->done : WH_CHUNK;
                int r;
                if (!bytes_fit(l, n))
                        return tx_full(l);
                uint8_t *body = reserve(l, BLOCK_BODY, &r);
                if (!body)
                        return r;
                uint16_t slot;
                void *mem;
                r = wh_link_lend(l, n, &slot, &mem);
                if (r < 0)
                        return r == -EAGAIN ? tx_full(l) : wh_forbidden(r) ? send_pieces(l, o) : r;
                wh_shm_copy(mem, (const uint8_t *)o->data + o->done, n);
                r = send_items(l, o);
                if (r < 0) {
                        wh_lane_unlend(l->tx, slot);
                        return r;
                }
                publish_block(l, o, body, slot, n, WH_REC_CHUNK);
                if ((r = part_sent(l, o, n)) < 0)
                        return r;
        }
        count_items(l, o);
        return tx_sent(l, o, WHARF_HOW_CHUNKS);
}

/* How many messages may be sent as frames before somebody counts those that are unread. */
static uint64_t cold_capacity(const struct wh_link *l)
{
        if (l->owner || l->once)
                return UINT64_MAX;
        if (!l->greeted)
                return 1;
        switch (l->hello.capacity_records) {
        case WHARF_RENDEZVOUS:
                return 0;
        case WHARF_UNBOUNDED:
                return UINT64_MAX;
        default:
                return l->hello.capacity_records;
        }
}

/* Is the queue full, as far as frames on the socket are its messages? */
static bool cold_full(const struct wh_link *l)
{
        uint64_t capacity = cold_capacity(l);
        /* Behind a lane that ended, with its port moved, the next lane counts. */
        return capacity == 0 || (l->cold_sent == l->tx_seq && l->tx_seq - l->cold_taken >= capacity);
}

/*
 * Should the receiver say when it has taken the next one? Each of a queue that frames may fill, and of the few that
 * come before the lane, where they count.
 */
static uint32_t cold_tell(const struct wh_link *l, const struct wh_outgoing *o)
{
        uint64_t capacity = cold_capacity(l), few = capacity / 4;
        if (capacity <= WH_COLD_COUNTED || (!l->no_lane && o->how == WHARF_HOW_AUTO))
                few = 1;
        if (capacity == UINT64_MAX || (o->call && l->cold_taken == l->tx_seq))
                return 0; /* or the answer says so */
        return (l->tx_seq + 1) % few == 0 ? WH_MSG_TELL : 0;
}

/* Cold frames. One is enough for most messages; where no lane can be made, a large one is cut into many. */
static int send_cold(struct wh_link *l, struct wh_outgoing *o)
{
        do {
                bool first = o->done == 0 && !o->started;
                unsigned n_items = first ? o->n_items : 0;
                uint64_t n = o->len - o->done < WH_COLD_MAX ? o->len - o->done : WH_COLD_MAX;
                struct wh_frame f = {
                        .type = WH_FRAME_MESSAGE,
                        .n_fds = (uint8_t)n_items,
                        .seq = l->tx_seq,
                        .total = o->len,
                        .id = o->id,
                        .call = o->call,
                        .arg = (first ? WH_MSG_FIRST | cold_tell(l, o) | msg_refused(l) : 0) |
                               (o->done + n == o->len ? WH_MSG_LAST : 0),
                };
                const struct iovec part[2] = {{o->kind, n_items},
                                              {n ? (uint8_t *)(uintptr_t)o->data + o->done : NULL, n}};
                int r = frame_parts(l, &f, part, o->fd, false);
                if (r < 0)
                        return r;
                o->done += n;
                o->started = true;
        } while (o->done < o->len);
        count_items(l, o);
        l->cold_sent++;
        l->cold_bytes += (uint32_t)o->len;
        l->cold_large = (l->cold_taken == l->tx_seq ? 0 : l->cold_large) + (o->len > WHARF_SMALL_MAX ? o->len : 0);
        l->tx_seq++;
        o->how = WHARF_HOW_COLD;
        return 0;
}

/* No descriptor of a memory can go with it: in frames or records, where these hold as much. */
static int send_memoryless(struct wh_link *l, struct wh_outgoing *o, int why)
{
        o->how = WHARF_HOW_AUTO;
        if ((l->once && o->len > WH_COLD_MAX) || (l->owner && o->len > WH_REPLY_PARTS_MAX))
                return why;
        return l->tx ? send_pieces(l, o) : send_cold(l, o);
}

static int send_memory(struct wh_link *l, struct wh_outgoing *o)
{
        uint8_t *body = NULL;
        int r;
        if (l->tx && !bytes_fit(l, o->len))
                return tx_full(l);
        if (l->tx && !(body = reserve(l, BLOCK_BODY, &r)))
                return r;
        if ((r = l->end->memory(l, o->len)) < 0)
                return r;
        struct wh_outgoing with = *o;
        r = wh_memory_of(o->data, o->len, &with.fd[with.n_items]);
        if (r < 0)
                l->end->memory_unsent(l, o->len);
        if (wh_forbidden(r))
                return send_memoryless(l, o, -EOPNOTSUPP);
        if (r < 0)
                return r;
        with.kind[with.n_items++] = WH_ITEM_MEMORY;
        if (!l->tx) {
                struct wh_frame f = {
                        .type = WH_FRAME_MESSAGE,
                        .n_fds = (uint8_t)with.n_items,
                        .seq = l->tx_seq,
                        .total = o->len,
                        .id = o->id,
                        .call = o->call,
                        .arg = WH_MSG_FIRST | WH_MSG_LAST | WH_MSG_MEMORY | cold_tell(l, o) | msg_refused(l),
                };
                r = wh_link_frame(l, &f, with.kind, with.n_items, with.fd, false);
        } else {
                r = send_items(l, &with);
        }
        wh_os_close(with.fd[with.n_items - 1]);
        if (r < 0)
                l->end->memory_unsent(l, o->len);
        if (r == -ETOOMANYREFS && l->owner && o->n_items == 0) /* a reply that fails is lost; others wait */
                return send_memoryless(l, o, r);
        if (r < 0)
                return r;
        count_items(l, &with);
        o->items_gone = with.items_gone;
        if (!l->tx) {
                l->cold_sent++;
                l->tx_seq++;
                o->how = WHARF_HOW_MEMORY;
                return 0;
        }
        struct wh_rec_ext ext = rec_ext(l, &with);
        struct wh_rec_block block = {.len = o->len, .total = o->len};
        wh_shm_copy(body, &ext, sizeof ext);
        wh_shm_copy(body + sizeof ext, &block, sizeof block);
        wh_ring_publish(&l->tx->ring, WH_REC_MEMORY, BLOCK_BODY);
        bytes_sent(l, o->len);
        return tx_sent(l, o, WHARF_HOW_MEMORY);
}

/*
 * An offer to read the payload where it is, and then what became of it: -EAGAIN until the receiver has decided.
 * Refused, it goes another way. What was taken counts, also where the receiver has ended since.
 */
static int send_direct(struct wh_link *l, struct wh_outgoing *o)
{
        if (o->started) {
                int refused = 0, answer = wh_direct_look(l, o->done, &refused);
                if (answer == -EAGAIN)
                        return l->tx_over ? l->tx_over : l->over ? l->over : answer;
                if (answer < 0) {
                        tx_fail(l, answer);
                        return answer;
                }
                if (refused == 0) {
                        (void)tx_sent(l, o, WHARF_HOW_DIRECT);
                        return 0;
                }
                o->started = false;
                o->done = 0;
                if (refused == -EFAULT)
                        return refused; /* what cannot be read cannot be copied either */
                l->direct_refused = refused;
                o->how = WHARF_HOW_AUTO;
                return 1;
        }
        struct wh_rec_ext ext = rec_ext(l, o);
        int r;
        uint8_t *body = reserve(l, DIRECT_BODY, &r);
        if (!body)
                return r;
        struct wh_rec_direct d = {.at = (uintptr_t)o->data, .len = o->len, .number = ++l->direct_last};
        wh_shm_copy(body, &ext, sizeof ext);
        wh_shm_copy(body + sizeof ext, &d, sizeof d);
        wh_direct_offer(l, d.number);
        wh_ring_publish(&l->tx->ring, WH_REC_DIRECT, DIRECT_BODY);
        o->done = d.number;
        o->started = true;
        r = tx_published(l);
        return r < 0 ? r : -EAGAIN;
}

/*
 * A reply, straight into the memory that the caller has set apart for it; and the record that says so, only then (D2).
 * 1, and why in l->reply_refused: it has to go another way.
 */
static int send_written(struct wh_link *l, struct wh_outgoing *o)
{
        int r;
        uint8_t *body = reserve(l, DIRECT_BODY, &r);
        if (!body)
                return r;
        r = wh_direct_write(l, o->window_at, o->data, o->len);
        if (r < 0) {
                l->reply_refused = -r;
                o->how = WHARF_HOW_AUTO;
                return 1;
        }
        r = send_items(l, o);
        if (r < 0)
                return r;
        struct wh_rec_ext ext = rec_ext(l, o);
        struct wh_rec_direct d = {.at = o->window_at, .len = o->len};
        wh_shm_copy(body, &ext, sizeof ext);
        wh_shm_copy(body + sizeof ext, &d, sizeof d);
        wh_ring_publish(&l->tx->ring, WH_REC_DIRECT, DIRECT_BODY);
        count_items(l, o);
        return tx_sent(l, o, WHARF_HOW_DIRECT);
}

/* Where the reply to a request that follows may be written. No message, so it has no number (K1). */
static int send_window(struct wh_link *l, struct wh_outgoing *o)
{
        int r;
        struct wh_rec_ext ext = {.call = o->call};
        struct wh_rec_direct d = {.at = (uintptr_t)o->data, .len = o->window_at};
        if (!l->tx)
                return -EOPNOTSUPP;
        uint8_t *body = reserve(l, DIRECT_BODY, &r);
        if (!body)
                return r;
        wh_shm_copy(body, &ext, sizeof ext);
        wh_shm_copy(body + sizeof ext, &d, sizeof d);
        wh_ring_publish(&l->tx->ring, WH_REC_WINDOW, DIRECT_BODY);
        wh_ring_uncount(&l->tx->ring);
        return tx_published(l);
}

/* ---- a full queue ---- */

void wh_link_told(struct wh_link *l, uint64_t n)
{
        if (n <= l->cold_taken)
                return;
        l->cold_taken = n;
        if (l->tx)
                wh_ring_tx_told(&l->tx->ring, n < l->attached_at ? n : l->attached_at);
}

bool wh_link_full(struct wh_link *l)
{
        if (l->tx_over || l->over)
                return false; /* sending would not wait, though it would fail */
        if (!l->tx)
                return cold_full(l);
        struct wh_ring_tx *ring = &l->tx->ring;
        if (!wh_ring_refresh(ring) || unbounded(l))
                return false;
        return ring->records - ring->taken_records >= ring->capacity ||
               (ring->pos + 2 - ring->taken_lines > ring->usable && l->grow_refused);
}

int wh_link_send_kept(struct wh_link *l, struct wh_outgoing *o)
{
        if (!l->tx)
                return o->len > WH_COLD_MAX ? send_memory(l, o) : send_cold(l, o);
        struct wh_outgoing with = *o;
        struct wh_rec_block block = {.len = o->len, .total = o->len};
        enum wh_rec_kind kind = WH_REC_INLINE;
        int slot = o->slot, r = 0;
        uint16_t lent;
        void *mem;
        uint8_t *body = wh_ring_reserve_kept(&l->tx->ring);
        if (!body)
                return tx_full(l);
        if (slot >= 0 || sizeof(struct wh_rec_ext) + o->len > WH_RING_KEPT_BODY) {
                kind = WH_REC_BLOCK;
                if (slot < 0 && o->len <= WHARF_IN_PLACE_MAX && wh_link_lend(l, o->len, &lent, &mem) == 0) {
                        slot = lent;
                        wh_shm_copy(mem, o->data, o->len);
                }
                if (slot < 0) {
                        kind = WH_REC_MEMORY;
                        r = wh_memory_of(o->data, o->len, &with.fd[with.n_items]);
                        if (r < 0)
                                return wh_forbidden(r) ? -EOPNOTSUPP : r;
                        with.kind[with.n_items++] = WH_ITEM_MEMORY;
                }
        }
        r = send_items(l, &with);
        if (kind == WH_REC_MEMORY)
                wh_os_close(with.fd[o->n_items]);
        if (r < 0) {
                if (slot >= 0 && o->slot < 0)
                        wh_lane_unlend(l->tx, (uint16_t)slot);
                return r;
        }
        count_items(l, &with);
        if (kind == WH_REC_BLOCK) {
                publish_block(l, &with, body, (uint16_t)slot, o->len, kind);
                return tx_sent(l, o, WHARF_HOW_SECTION);
        }
        struct wh_rec_ext ext = rec_ext(l, &with);
        wh_shm_copy(body, &ext, sizeof ext);
        if (kind == WH_REC_INLINE) {
                wh_shm_copy(body + sizeof ext, o->data, o->len);
                wh_ring_publish(&l->tx->ring, kind, (uint32_t)(sizeof ext + o->len));
                return tx_sent(l, o, WHARF_HOW_INLINE);
        }
        wh_shm_copy(body + sizeof ext, &block, sizeof block);
        wh_ring_publish(&l->tx->ring, kind, BLOCK_BODY);
        bytes_sent(l, o->len);
        return tx_sent(l, o, WHARF_HOW_MEMORY);
}

/* ---- capacity zero ---- */

/*
 * The message is offered: published with a claim word that says so, which the receiver changes when it takes it, or we
 * when we give up. Its block stays ours until it is taken. -EAGAIN for as long as the offer stands.
 */
static int offer_look(struct wh_link *l, struct wh_outgoing *o)
{
        switch (wh_ring_offer_state(&l->tx->ring, l->offer - 1)) {
        case WH_CLAIM_TAKEN:
                l->offer = 0;
                l->tx_seq++;
                atomic_store_explicit(&l->tx->ring.out->sent_messages, l->tx_seq, memory_order_relaxed);
                return 0;
        case WH_CLAIM_OFFERED:
                return l->tx_over ? l->tx_over : l->over ? l->over : -EAGAIN;
        default:
                l->tx->ring.broken = true;
                return tx_full(l);
        }
}

int wh_link_withdraw(struct wh_link *l, struct wh_outgoing *o, int err)
{
        switch (wh_ring_withdraw(&l->tx->ring, l->offer - 1)) {
        case WH_CLAIM_TAKEN:
                return offer_look(l, o);
        case WH_CLAIM_WITHDRAWN:
                break;
        default:
                l->tx->ring.broken = true;
                err = tx_full(l);
        }
        l->offer = 0;
        o->started = false;
        if (l->offer_slot >= 0) {
                wh_lane_slot_unsent(l->tx, (uint16_t)l->offer_slot);
                if (o->slot < 0)
                        wh_lane_unlend(l->tx, (uint16_t)l->offer_slot);
        }
        return err;
}

static int send_offer(struct wh_link *l, struct wh_outgoing *o);

/* In the record itself, since no other memory may be made. What does not fit cannot be offered: pieces would wait. */
static int send_offer_inline(struct wh_link *l, struct wh_outgoing *o)
{
        if (o->len > INLINE_BYTES_MAX)
                return -EOPNOTSUPP;
        o->how = WHARF_HOW_INLINE;
        return send_offer(l, o);
}

static int send_offer(struct wh_link *l, struct wh_outgoing *o)
{
        struct wh_outgoing with = *o; /* a payload in a memory of its own is one descriptor more */
        struct wh_rec_ext ext;
        struct wh_rec_block block = {.len = o->len, .total = o->len};
        bool small = o->how == WHARF_HOW_INLINE || o->len == 0 ||
                     (o->how != WHARF_HOW_SECTION && o->how != WHARF_HOW_MEMORY && o->len <= WHARF_INLINE_MAX);
        bool memory = o->how == WHARF_HOW_MEMORY || o->how == WHARF_HOW_CHUNKS || o->len > WHARF_IN_PLACE_MAX;
        enum wh_rec_kind kind = o->slot >= 0 ? WH_REC_BLOCK
                                : small      ? WH_REC_INLINE
                                : memory     ? WH_REC_MEMORY
                                             : WH_REC_BLOCK;
        uint32_t len = (uint32_t)(sizeof ext + (kind == WH_REC_INLINE ? o->len : sizeof block));
        int slot = o->slot, r;
        uint16_t lent;
        void *mem;
        uint8_t *body = reserve(l, len, &r);
        if (!body)
                return r;
        if (kind == WH_REC_BLOCK && slot < 0) {
                r = wh_link_lend(l, o->len, &lent, &mem);
                if (r == -EAGAIN)
                        return tx_full(l);
                if (r == -EDQUOT)
                        kind = WH_REC_MEMORY;
                else if (r < 0)
                        return wh_forbidden(r) ? send_offer_inline(l, o) : r;
                if (r == 0) {
                        slot = lent;
                        wh_shm_copy(mem, o->data, o->len);
                }
        }
        r = 0;
        if (kind == WH_REC_MEMORY && (r = wh_memory_of(o->data, o->len, &with.fd[with.n_items])) == 0)
                with.kind[with.n_items++] = WH_ITEM_MEMORY;
        if (wh_forbidden(r))
                return send_offer_inline(l, o);
        if (r == 0)
                r = send_items(l, &with);
        if (kind == WH_REC_MEMORY && with.n_items > o->n_items)
                wh_os_close(with.fd[o->n_items]);
        if (r < 0) {
                if (o->slot < 0 && slot >= 0)
                        wh_lane_unlend(l->tx, (uint16_t)slot);
                return r;
        }
        ext = rec_ext(l, &with);
        ext.arg = kind;
        wh_shm_copy(body, &ext, sizeof ext);
        if (kind == WH_REC_INLINE) {
                wh_shm_copy(body + sizeof ext, o->data, o->len);
        } else {
                if (slot >= 0) {
                        block = wh_lane_block(l->tx, (uint16_t)slot, o->len, o->len);
                        wh_lane_slot_sent(l->tx, (uint16_t)slot);
                }
                wh_shm_copy(body + sizeof ext, &block, sizeof block);
        }
        count_items(l, &with);
        l->offer = l->tx->ring.records + 1;
        l->offer_slot = slot;
        wh_ring_offer(&l->tx->ring, len);
        o->started = true;
        o->how = kind == WH_REC_INLINE ? WHARF_HOW_INLINE : kind == WH_REC_BLOCK ? WHARF_HOW_SECTION : WHARF_HOW_MEMORY;
        tx_published(l);
        return -EAGAIN;
}

static int send_dropped(struct wh_link *l, struct wh_outgoing *o)
{
        if (!l->tx) {
                struct wh_frame f = {.type = WH_FRAME_DROPPED, .call = o->call, .arg = (uint32_t)o->dropped};
                return wh_link_frame(l, &f, NULL, 0, NULL, false);
        }
        struct wh_rec_ext ext = {.call = o->call, .arg = (uint32_t)o->dropped};
        int r;
        uint8_t *body = reserve(l, sizeof ext, &r);
        if (!body)
                return r;
        wh_shm_copy(body, &ext, sizeof ext);
        wh_ring_publish(&l->tx->ring, WH_REC_DROPPED, sizeof ext);
        return tx_published(l);
}

/* ---- the choice ---- */

/* The receiver drops what it has of a message that was given up. */
static int send_abort(struct wh_link *l)
{
        if (l->tx) {
                struct wh_rec_ext ext = {0};
                int r;
                uint8_t *body = reserve(l, sizeof ext, &r);
                if (!body)
                        return r;
                wh_shm_copy(body, &ext, sizeof ext);
                wh_ring_publish(&l->tx->ring, WH_REC_ABORT, sizeof ext);
                wh_ring_uncount(&l->tx->ring);
                l->detour &= (uint8_t)~WH_DETOUR_ABORT;
                return tx_published(
                        l); /* it may have taken the last place: the message behind it waits for a receiver */
        }
        l->detour &= (uint8_t)~WH_DETOUR_ABORT; /* a cold message that begins says as much */
        return 0;
}

static bool stays_cold(const struct wh_link *l, const struct wh_outgoing *o)
{
        if (o->slot >= 0)
                return false;
        if (l->once || l->no_lane)
                return true;
        if (cold_full(l))
                return false; /* the lane counts what is unread, cold messages too */
        if (o->how == WHARF_HOW_AUTO && l->greeted && !l->owner && o->len > WHARF_SMALL_MAX &&
            l->cold_large + o->len > l->hello.capacity_bytes && l->hello.capacity_records < WHARF_UNBOUNDED)
                return false; /* nor are these counted by frames */
        if (o->how == WHARF_HOW_AUTO && !l->owner && l->cold_sent != l->tx_seq)
                return false; /* nor any, behind a lane that ended */
        return o->how == WHARF_HOW_COLD ||
               (o->how == WHARF_HOW_AUTO && o->len <= WH_COLD_MAX && l->cold_sent < WH_COLD_FRAMES &&
                l->cold_sent < cold_capacity(l) && l->cold_bytes + o->len <= WH_COLD_BYTES);
}

static int items_allowed(struct wh_link *l, const struct wh_outgoing *o)
{
        unsigned max = l->greeted ? l->hello.unread_rights_max : WHARF_ITEMS_MAX;
        if (o->n_items == 0 || o->items_sent || l->items_unread + o->n_items <= max)
                return 0;
        if (l->tx) {
                wh_ring_refresh(&l->tx->ring);
                if (l->tx->ring.taken_records >= l->items_record)
                        l->items_unread = 0;
        } else if (wh_os_unread(l->sock) == 0) {
                l->items_unread = 0; /* every frame was read */
        }
        if (l->items_unread + o->n_items <= max)
                return 0;
        /* Nobody may be there to read them any more, and this is all that the sender ever tries. */
        wh_link_probe(l, true);
        if (l->tx_over)
                return l->tx_over;
        return l->detour & WH_DETOUR_OFFER && o->n_items <= max ? -EAGAIN : -ETOOMANYREFS; /* those were withdrawn */
}

/* Are the memories beside the payload as a whole what the port takes? */
static int beside_allowed(const struct wh_link *l, const struct wh_outgoing *o)
{
        uint64_t sum = 0;
        struct stat st;
        for (unsigned i = 0; i < o->n_items; i++) {
                if (o->kind[i] != WH_ITEM_BESIDE)
                        continue;
                int r = wh_os_fstat(o->fd[i], &st);
                if (r < 0)
                        return wh_trace(r);
                sum += (uint64_t)st.st_size;
        }
        return sum && l->greeted && !l->owner && sum > l->hello.payload_bytes_max ? -EMSGSIZE : 0;
}

static int send_by_choice(struct wh_link *l, struct wh_outgoing *o)
{
        int r;
        if (l->offer && o->started)
                return offer_look(l, o);
        if (o->how == WHARF_HOW_DIRECT && o->started && (r = send_direct(l, o)) <= 0)
                return r;
        if (!l->tx && !o->started)
                read_cold(l);
        r = l->tx_over ? l->tx_over : l->owner ? 0 : l->over; /* who has said all may be answered */
        if (r < 0)
                return r;
        if (l->detour & WH_DETOUR_RENEW && (r = l->end->renew(l)) < 0)
                return r;
        if (l->detour & WH_DETOUR_ABORT && !o->started && (r = send_abort(l)) < 0)
                return r;
        if (o->dropped)
                return send_dropped(l, o);
        if (!o->started && (r = wh_link_rebind(l)) < 0)
                return r;
        if (l->once)
                wh_link_greeted(l); /* what its port takes, where a port made it; it has no rebind that would ask */
        if (l->greeted && !l->owner && o->len > l->hello.payload_bytes_max)
                return -EMSGSIZE;
        if ((r = items_allowed(l, o)) < 0 || (r = beside_allowed(l, o)) < 0)
                return r;
        if (!l->tx) {
                if (l->no_lane && l->cold_sent % 64 == 63 && !o->started)
                        l->no_lane = false; /* what was short then may not be now */
                if (!o->started && (cold_full(l) || (l->tx_seq - l->cold_taken >= WH_COLD_UNTOLD &&
                                                     cold_capacity(l) <= WH_COLD_COUNTED)))
                        read_waiting(l); /* a greeting, and what was taken */
                if (!o->started && cold_full(l) && cold_capacity(l))
                        return -EAGAIN; /* also where a lane could be made: its frame is behind what is unread */
                if (!stays_cold(l, o) && (o->how != WHARF_HOW_MEMORY || o->slot >= 0 || cold_full(l))) {
                        r = wh_link_attach(l);
                        if (r < 0)
                                return r;
                }
        }
        if (o->how == WH_HOW_WINDOW)
                return send_window(l, o);
        if (l->owner && o->how == WHARF_HOW_DIRECT) {
                if (l->tx && (r = send_written(l, o)) <= 0)
                        return r;
                if (!l->tx)
                        l->reply_refused = EOPNOTSUPP;
                o->how = WHARF_HOW_AUTO;
                if (o->len > WHARF_IN_PLACE_MAX)
                        o->how = WHARF_HOW_MEMORY; /* pieces would wait for the caller */
        }
        if (l->tx && l->detour & WH_DETOUR_OFFER && o->how != WHARF_HOW_DIRECT) /* which is an offer itself */
                return send_offer(l, o);
        if (!l->tx && !o->started && cold_full(l))
                return -EOPNOTSUPP; /* nothing to offer in */
        if (o->how == HOW_PIECES)
                return send_pieces(l, o);
        if (o->slot < 0 && (o->how == WHARF_HOW_MEMORY ||
                            (unbounded(l) && o->len > WHARF_IN_PLACE_MAX && /* pieces would wait for each other */
                             o->how != WHARF_HOW_DIRECT)))
                return send_memory(l, o);
        if (!l->tx) {
                if (o->slot >= 0)
                        return -EOPNOTSUPP;
                /* Neither of these waits for room, so what may not find any goes in one frame. */
                return (l->once || l->owner) && o->len > WH_COLD_MAX ? send_memory(l, o) : send_cold(l, o);
        }
        if (o->slot >= 0)
                return send_block(l, o);
        switch (o->how) {
        case WHARF_HOW_DIRECT:
                return send_direct(l, o);
        case WHARF_HOW_SECTION:
                return o->len ? send_block(l, o) : send_inline(l, o);
        case WHARF_HOW_CHUNKS:
                return o->len == 0 ? send_inline(l, o) : unbounded(l) ? send_memory(l, o) : send_chunks(l, o);
        case WHARF_HOW_INLINE:
                return send_inline(l, o);
        }
        if (o->len <= WHARF_INLINE_MAX)
                return send_inline(l, o);
        if (o->started || o->len > WHARF_IN_PLACE_MAX)
                return send_chunks(l, o);
        r = send_block(l, o);
        if (r == -EDQUOT && !unbounded(l) && !l->owner) /* the receiver maps no more for us: smaller blocks will do */
                r = send_chunks(l, o);
        return r;
}

int wh_link_send_plain(struct wh_link *l, const void *data, uint64_t len)
{
        if (wh_unlikely(!l->tx || (l->tx_over | l->over) || l->detour | l->tx_busy | l->once ||
                        len > WHARF_INLINE_MAX || (l->greeted && len > l->hello.payload_bytes_max)))
                return -EAGAIN;
        void *body = wh_ring_reserve(&l->tx->ring, (uint32_t)len);
        if (wh_unlikely(!body))
                return -EAGAIN;
        wh_shm_copy(body, data, len);
        wh_ring_publish(&l->tx->ring, WH_REC_PLAIN, (uint32_t)len);
        return tx_done(l);
}

int wh_link_try_send(struct wh_link *l, struct wh_outgoing *o)
{
        const bool bytes_only =
                !(o->n_items | o->id | o->call | (unsigned)o->dropped) && o->how == WHARF_HOW_AUTO && o->slot < 0;
        int r = bytes_only ? wh_link_send_plain(l, o->data, o->len) : -EAGAIN;
        if (r != -EAGAIN) {
                o->how = WHARF_HOW_INLINE;
                return r;
        }
        l->sock_full = false;
        /* The next common one: bytes only, too large for a record, on an attached lane. */
        if (wh_likely(l->tx && !(l->tx_over | l->over | (int)o->n_items | o->dropped) && o->how == WHARF_HOW_AUTO &&
                      o->len > WHARF_INLINE_MAX && o->len <= WHARF_IN_PLACE_MAX && o->slot < 0 && !l->detour &&
                      !o->started && (l->owner || o->len <= l->hello.payload_bytes_max))) {
                r = send_block(l, o);
                if (wh_likely(r != -EDQUOT))
                        return r;
        }
        return send_by_choice(l, o);
}
