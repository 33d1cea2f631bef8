#include "link/grow.h"

#include "base/cleanup.h"
#include "base/trace.h"
#include "memory/buddy.h"
#include "os/os.h"
#include "link/choose.h"
#include "link/wire.h"

#include <errno.h>

/* ---- the lane ---- */

int wh_link_attach(struct wh_link *l)
{
        if (l->out.lane)
                return 0;
        if (l->out.cold_taken < l->out.seq)
                wh_link_heed(l); /* what was taken meanwhile */
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
                if (l->out.detour & WH_DETOUR_OFFER && !wh_forbidden(r))
                        return r;
                l->out.no_lane = true;
                return 0;
        }
        if (lane->map_len + WH_PAGE > l->end->may_share(l)) {
                wh_lane_tx_free(lane); /* the receiver would not map it: frames, then, which it need not */
                l->out.no_lane = true;
                return 0;
        }
        /* Cold messages count against the capacity until the receiver has read them. */
        uint64_t unread =
                l->out.seq - (l->out.known_taken > l->out.cold_taken ? l->out.known_taken : l->out.cold_taken);
        wh_ring_tx_follow(&lane->ring, l->out.seq, unread);
        l->out.attached_at = l->out.seq;
        if (unread && l->out.cold_large && !l->owner && wh_lane_large_room(lane))
                wh_lane_large_sent(lane, l->out.seq - 1, l->out.cold_large); /* unread until all are taken */
        l->out.renew_seen = 0;
        struct wh_frame f = {.type = WH_FRAME_ATTACH, .n_fds = 2};
        static const uint8_t later[WH_LATER_BYTES + 1];
        r = wh_link_frame(l, &f, later, WH_LATER_BYTES, (int[]){lane->out_fd, lane->back_fd}, false);
        if (r < 0) {
                wh_lane_tx_free(lane);
                if (r != -ETOOMANYREFS || l->out.detour & WH_DETOUR_OFFER)
                        return r;
                l->out.no_lane =
                        true; /* this user has too many descriptors on their way, whosever: frames, which need none */
                return 0;
        }
        wh_os_close(wh_steal_fd(&lane->out_fd));
        wh_os_close(wh_steal_fd(&lane->back_fd));
        l->out.lane = lane;
        l->end->shared(l);
        l->out.no_lane = false;
        if (l->provisional) /* it still is to be had: the long way, until it is */
                l->out.detour |= WH_DETOUR_REBIND;
        return 0;
}

/* Hand a new section to the receiver. */
static int section_add(struct wh_link *l, uint64_t len, uint64_t blocks)
{
        struct wh_lane_tx *tx = l->out.lane;
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
        return l->out.lane
                       ? l->out.lane->map_len + WH_PAGE + l->out.lane->section_bytes + wh_lane_behind_bytes(l->out.lane)
                       : 0;
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
        if (!wh_ring_reserve_kept(&l->out.lane->ring))
                return -EAGAIN;
        int fd;
        struct wh_out *out;
        int r = wh_lane_ring_new(lines, &fd, &out);
        if (r < 0)
                return r;
        struct wh_frame f = {.type = WH_FRAME_RING, .n_fds = 1};
        r = wh_link_frame(l, &f, NULL, 0, &fd, false);
        wh_os_close(fd);
        if (r == 0 && !wh_lane_ring_switch(l->out.lane, out, end_sections)) {
                r = wh_trace(-EPROTO); /* nothing but this uses the kept line here, so the receiver lied about it */
                wh_link_tx_end(l, r);
        }
        if (r < 0)
                wh_lane_ring_free(out);
        return r;
}

/* The ring is full: one twice as large, in which a record of `need` lines has room. */
static int ring_grow(struct wh_link *l, uint64_t need)
{
        struct wh_ring_tx *ring = &l->out.lane->ring;
        uint64_t lines = ring->lines * 2 > WH_RING_LINES_MAX ? WH_RING_LINES_MAX : ring->lines * 2;
        while (lines < 4 * need)
                lines *= 2;
        int r = ring_change(l, lines, false);
        if (wh_forbidden(r))
                r = -EAGAIN; /* then this queue ends with its ring */
        else if (wh_link_unbounded(l))
                r = r == -ENOMEM || r == -ENOSPC || r == -EAGAIN ? -ENOBUFS : r;
        else if (r < 0 && r != l->out.over)
                r = -EAGAIN; /* reading makes room in this one */
        l->out.grow_refused = r < 0;
        return r;
}

bool wh_link_may_grow(const struct wh_link *l)
{
        const struct wh_ring_tx *ring = &l->out.lane->ring;
        return l->out.grow && !l->owner && !(l->out.detour & WH_DETOUR_OFFER) &&
               ring->records - ring->taken_records < ring->capacity;
}

/* Do cold messages count that may have been taken? The receiver says so by frames until it has come to the lane. */
static bool cold_told(struct wh_link *l)
{
        struct wh_ring_tx *ring = &l->out.lane->ring;
        if (wh_likely(l->owner || ring->taken_records >= l->out.attached_at))
                return false;
        uint64_t taken = ring->taken_records;
        wh_link_heed(l);
        return wh_ring_refresh(ring) && ring->taken_records != taken;
}

bool wh_link_bytes_fit_slow(struct wh_link *l, uint64_t len)
{
        if (wh_link_unbounded(l) || l->owner || l->out.detour & WH_DETOUR_OFFER)
                return true;
        struct wh_lane_tx *tx = l->out.lane;
        if (tx->large_bytes && tx->large_bytes + len > l->hello.capacity_bytes) {
                wh_ring_refresh(&tx->ring);
                cold_told(l);
                wh_lane_large_taken(tx);
                if (tx->large_bytes && tx->large_bytes + len > l->hello.capacity_bytes) {
                        l->out.short_bytes = len;
                        return false;
                }
        }
        /* Where none is remembered none may be unread, and nobody would ever ring: it goes without being counted. */
        return wh_lane_large_room(tx) || tx->large_head == tx->large_tail;
}

void wh_link_bytes_sent_slow(struct wh_link *l, uint64_t len)
{
        if (!wh_link_unbounded(l) && !l->owner && !(l->out.detour & WH_DETOUR_OFFER))
                wh_lane_large_sent(l->out.lane, l->out.lane->ring.records - 1, len);
}

uint32_t wh_link_full_by(struct wh_link *l)
{
        if (l->out.over || l->over || l->owner)
                return 0;
        if (!l->out.lane)
                return l->out.sock_full ? WHARF_FULL_MEMORY : wh_link_full(l) ? WHARF_FULL_RECORDS : 0;
        struct wh_ring_tx *ring = &l->out.lane->ring;
        if (!wh_ring_refresh(ring) || wh_link_unbounded(l))
                return 0;
        if (ring->records - ring->taken_records >= ring->capacity)
                return WHARF_FULL_RECORDS;
        if (l->out.short_bytes && !wh_link_bytes_fit(l, l->out.short_bytes))
                return WHARF_FULL_BYTES;
        return l->out.grow_refused ? WHARF_FULL_MEMORY : 0;
}

void wh_link_shrink(struct wh_link *l)
{
        struct wh_lane_tx *tx = l->out.lane;
        /* The sections of a bounded queue that never needed more are made for what it sends, and stay. */
        if (tx->ring.lines <= WH_RING_LINES &&
            (wh_link_unbounded(l) ? tx->section_bytes <= WH_SECTION_BYTES_BUSY : !tx->sections_grown))
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
        struct wh_lane_tx *tx = l->out.lane;
        uint64_t need = wh_pow2_ceil(len < WH_SECTION_UNIT ? WH_SECTION_UNIT : len), want = tx->section_bytes;
        if (tx->n_sections == WH_SECTIONS_MAX - 1 && want < 2 * l->hello.capacity_bytes)
                want = 2 * l->hello.capacity_bytes;
        want = want > WH_SECTION_BYTES_MAX ? WH_SECTION_BYTES_MAX : want;
        uint64_t blocks = want / need < WH_SECTION_BLOCKS ? WH_SECTION_BLOCKS : want / need;
        int r = tx->n_sections == WH_SECTIONS_MAX ? -EAGAIN : section_add(l, len, blocks);
        l->out.grow_refused = r < 0;
        tx->sections_grown |= r == 0;
        return r;
}

int wh_link_lend(struct wh_link *l, uint64_t len, uint16_t *ret_slot, void **ret)
{
        struct wh_lane_tx *tx = l->out.lane;
        int r = wh_lane_lend(tx, len, ret_slot, ret);
        if (wh_likely(r == 0))
                return 0;
        if (r == -ENOSPC)
                r = section_add(l, len, WH_SECTION_BLOCKS);
        else if (r == -EAGAIN && tx->n_sections < WH_SECTIONS_MAX && tx->section_bytes < WH_SECTION_BYTES_BUSY &&
                 tx->section_bytes < len * WH_SECTION_BLOCKS_BUSY && section_add(l, len, WH_SECTION_BLOCKS_BUSY) == 0)
                r = 0; /* where it cannot grow, it waits */
        else if (r == -EAGAIN && (l->out.grow == WH_GROW_BLOCKS || len > WH_RING_INLINE_MAX) && wh_link_may_grow(l) &&
                 tx->n_free_slots && section_grow(l, len) == 0)
                r = 0;
        return r < 0 ? r : wh_lane_lend(tx, len, ret_slot, ret);
}

int wh_link_no_room(struct wh_link *l)
{
        if (l->out.lane->ring.broken) {
                wh_link_tx_end(l, wh_trace(-EPROTO));
                return -EPROTO;
        }
        return -EAGAIN;
}

void *wh_link_reserve_full(struct wh_link *l, uint32_t len, int *err)
{
        if (len > WH_RECORD_BODY_MAX) { /* what is usually in a block */
                const uint64_t need = wh_rec_lines(len);
                *err = 2 * need > l->out.lane->ring.usable ? ring_grow(l, need) : 0;
                void *body = *err < 0 ? NULL : wh_ring_reserve(&l->out.lane->ring, len);
                if (body || *err < 0)
                        return body;
        }
        *err = wh_link_no_room(l);
        if (wh_unlikely(*err == -EAGAIN && cold_told(l))) {
                void *body = wh_ring_reserve(&l->out.lane->ring, len);
                if (body || (*err = wh_link_no_room(l)) != -EAGAIN)
                        return body;
        }
        if (*err == -EAGAIN && (wh_link_unbounded(l) || wh_link_may_grow(l))) {
                *err = ring_grow(l, wh_rec_lines(len));
                if (*err == 0) {
                        void *body = wh_ring_reserve(&l->out.lane->ring, len);
                        /* The record that leads there has the last place where it counts as a message (R10). */
                        *err = body ? 0 : wh_link_no_room(l);
                        return body;
                }
        }
        return NULL;
}
