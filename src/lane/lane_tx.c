/*
 * The sender's side of a lane: the memory that it makes, and the blocks in it.
 */
#include "lane/lane.h"

#include "base/cleanup.h"
#include "base/trace.h"
#include "memory/sealed.h"
#include "memory/buddy.h"
#include "os/left.h"
#include "os/os.h"

#include <string.h>

/* A memfd of `len` bytes, reserved, mapped for writing and then sealed. */
static int memory_new(const char *name, uint64_t len, int seals, int *ret_fd, void **ret_map)
{
        int fd = wh_os_memfd(name);
        if (fd < 0)
                return wh_trace(fd);
        wh_os_fd_private(fd);
        void *map = NULL;
        /* Asked only now: where memfds are forbidden, so may be what this looks at. */
        int r = wh_os_memory_ask(len, NULL);
        if (r == 0)
                r = wh_os_ftruncate(fd, (off_t)len);
        if (r == 0)
                r = wh_os_fallocate(fd, 0, 0, (off_t)len);
        if (r == 0)
                r = wh_os_mmap_unforked(len, MAP_SHARED | MAP_POPULATE, fd, &map);
        if (r == 0)
                r = wh_os_seal(fd, seals);
        if (r < 0) {
                if (map)
                        wh_os_munmap(map, len);
                wh_os_close(fd);
                return wh_trace(r);
        }
        *ret_fd = fd;
        *ret_map = map;
        return 0;
}

static void out_init(struct wh_out *o, uint64_t lines)
{
        o->magic = WH_LANE_MAGIC;
        o->version = WH_LANE_VERSION;
        o->ring_lines = (uint32_t)lines;
}

int wh_lane_tx_new(uint32_t ring_bytes, uint64_t capacity, struct wh_lane_tx **ret)
{
        uint64_t lines = wh_pow2_ceil(ring_bytes / WH_LINE);
        lines = lines < WH_RING_LINES_MIN ? WH_RING_LINES_MIN : lines > WH_RING_LINES_MAX ? WH_RING_LINES_MAX : lines;
        struct wh_lane_tx *lane = wh_os_calloc(1, sizeof *lane);
        if (!lane)
                return wh_trace(-ENOMEM);
        lane->out_fd = lane->back_fd = lane->offered = -1;
        lane->map_len = WH_PAGE + lines * WH_LINE;
        for (unsigned i = 0; i < WH_SLOTS; i++)
                lane->free_slot[i] = (uint16_t)(WH_SLOTS - 1 - i);
        lane->n_free_slots = WH_SLOTS;
        for (unsigned i = 0; i < WH_ORDERS; i++)
                lane->idle[i] = WH_SLOTS;

        void *out = NULL, *back = NULL;
        int r = memory_new("wharf-out", lane->map_len, WH_SEALS_OUT, &lane->out_fd, &out);
        if (r == 0) {
                lane->ring.out = out;
                r = memory_new("wharf-back", WH_PAGE, WH_SEALS_LANE, &lane->back_fd, &back);
                lane->ring.back = back;
        }
        if (r < 0) {
                wh_lane_tx_free(lane);
                return r;
        }
        out_init(out, lines);
        wh_ring_tx_init(&lane->ring, out, back, capacity);
        *ret = lane;
        return 0;
}

int wh_lane_ring_new(uint64_t ring_lines, int *ret_fd, struct wh_out **ret)
{
        void *out;
        int r = memory_new("wharf-out", WH_PAGE + ring_lines * WH_LINE, WH_SEALS_OUT, ret_fd, &out);
        if (r < 0)
                return r;
        out_init(out, ring_lines);
        *ret = out;
        return 0;
}

void wh_lane_ring_free(struct wh_out *out)
{
        wh_os_munmap(out, WH_PAGE + (uint64_t)out->ring_lines * WH_LINE);
}

void wh_lane_large_taken(struct wh_lane_tx *lane)
{
        while (lane->large_tail != lane->large_head) {
                uint32_t at = lane->large_tail & (lane->large_size - 1);
                if (lane->large[at].record >= lane->ring.taken_records)
                        return;
                lane->large_bytes -= lane->large[at].bytes;
                lane->large_tail++;
        }
}

enum { LARGE_FEW = 64 };

bool wh_lane_large_room_slow(struct wh_lane_tx *lane)
{
        wh_ring_refresh(&lane->ring);
        wh_lane_large_taken(lane);
        uint32_t n = lane->large_head - lane->large_tail;
        if (n < lane->large_size)
                return true;
        uint32_t size = lane->large_size ? 2 * lane->large_size : LARGE_FEW;
        struct wh_lane_large *to = wh_os_malloc(size * sizeof *to);
        if (!to)
                return false;
        for (uint32_t i = 0; i < n; i++)
                to[i] = lane->large[(lane->large_tail + i) & (lane->large_size - 1)];
        free(lane->large);
        lane->large = to;
        lane->large_size = size;
        lane->large_tail = 0;
        lane->large_head = n;
        return true;
}

static void idle_flush(struct wh_lane_tx *lane);

bool wh_lane_ring_switch(struct wh_lane_tx *lane, struct wh_out *out, bool end_sections)
{
        struct wh_ring_tx *ring = &lane->ring;
        struct wh_rec_ext ext = {.arg = end_sections ? WH_NEXT_NO_SECTIONS : 0};
        void *body = wh_ring_reserve_kept(ring);
        if (!body)
                return false;
        if (end_sections) {
                idle_flush(lane);
                while (lane->n_sections)
                        wh_lane_drop_section(lane);
                lane->sections_grown = false;
        }
        /* What counts over the whole lane goes on counting. */
        struct wh_out *old = ring->out;
        atomic_store_explicit(&out->frames, atomic_load_explicit(&old->frames, memory_order_relaxed),
                              memory_order_relaxed);
        atomic_store_explicit(&out->sent_messages, atomic_load_explicit(&old->sent_messages, memory_order_relaxed),
                              memory_order_relaxed);
        wh_shm_copy(body, &ext, sizeof ext);
        wh_ring_publish(ring, WH_REC_NEXT, sizeof ext);
        wh_ring_uncount(ring);
        lane->behind_bytes = wh_lane_behind_bytes(lane) + lane->map_len;
        wh_os_munmap(old, lane->map_len);
        lane->map_len = WH_PAGE + (uint64_t)out->ring_lines * WH_LINE;
        wh_ring_tx_continue(ring, out);
        return true;
}

struct wh_lane_tx *wh_lane_tx_free(struct wh_lane_tx *lane)
{
        if (!lane)
                return NULL;
        while (lane->n_sections)
                wh_lane_drop_section(lane);
        if (lane->ring.out)
                wh_os_munmap(lane->ring.out, lane->map_len);
        if (lane->ring.back)
                wh_os_munmap((void *)(uintptr_t)lane->ring.back, WH_PAGE);
        wh_os_close(lane->out_fd);
        wh_os_close(lane->back_fd);
        free(lane->large);
        free(lane);
        return NULL;
}

int wh_lane_add_section(struct wh_lane_tx *lane, uint64_t len, unsigned *ret_index)
{
        if (lane->n_sections == WH_SECTIONS_MAX)
                return -ENOSPC;
        len = wh_pow2_ceil(len < WH_PAGE ? WH_PAGE : len);
        struct wh_section_tx *s = &lane->section[lane->n_sections];
        *s = (struct wh_section_tx){.fd = -1};
        uint64_t units = len >> WH_SECTION_UNIT_LOG2;
        s->buddy = wh_os_calloc(1, wh_round_up(sizeof *s->buddy, 8) + wh_buddy_bookkeeping_bytes((uint32_t)units));
        if (!s->buddy)
                return wh_trace(-ENOMEM);
        wh_buddy_init(s->buddy, (uint8_t *)s->buddy + wh_round_up(sizeof *s->buddy, 8), (uint32_t)units);
        void *map;
        int r = memory_new("wharf-section", len, WH_SEALS_OUT, &s->fd, &map);
        if (r < 0) {
                free(s->buddy);
                return r;
        }
        s->map = map;
        s->len = len;
        lane->section_bytes += len;
        lane->exhausted = 0;
        *ret_index = lane->n_sections++;
        return 0;
}

void wh_lane_drop_section(struct wh_lane_tx *lane)
{
        struct wh_section_tx *s = &lane->section[--lane->n_sections];
        wh_os_munmap(s->map, s->len);
        wh_os_close(s->fd);
        free(s->buddy);
        lane->section_bytes -= s->len;
        *s = (struct wh_section_tx){.fd = -1};
}

/* The block is free to use again, and keeps its slot (L5). */
static void slot_idle(struct wh_lane_tx *lane, uint16_t slot)
{
        struct wh_slot *s = &lane->slot[slot];
        s->in_use = s->sent = false;
        s->next = WH_SLOTS;
        if (lane->idle[s->order] == WH_SLOTS)
                lane->idle[s->order] = slot;
        else
                lane->slot[lane->idle_last[s->order]].next = slot;
        lane->idle_last[s->order] = slot;
        lane->n_idle++;
        lane->blocks_out--;
}

/* Give all idle blocks back to their sections, where they merge. */
static void idle_flush(struct wh_lane_tx *lane)
{
        for (unsigned order = 0; order < WH_ORDERS; order++)
                while (lane->idle[order] != WH_SLOTS) {
                        uint16_t slot = lane->idle[order];
                        struct wh_slot *s = &lane->slot[slot];
                        lane->idle[order] = s->next;
                        wh_buddy_free(lane->section[s->section].buddy, s->unit);
                        lane->free_slot[lane->n_free_slots++] = slot;
                }
        lane->n_idle = 0;
        lane->exhausted = 0;
}

/* Deal with what the receiver gave back since last time. */
static int collect_released(struct wh_lane_tx *lane)
{
        const struct wh_back *back = lane->ring.back;
        /* [section-released] Acquire, pairs with the release in wh_lane_release(): the receiver has read. */
        uint32_t count = atomic_load_explicit(&back->released_count, memory_order_acquire);
        uint32_t fresh = count - lane->released_seen;
        if (wh_likely(fresh == 0))
                return 0;
        if (fresh > lane->blocks_out)
                return -EPROTO; /* more than it ever had */
        while (lane->released_seen != count) {
                uint16_t slot =
                        atomic_load_explicit(&back->released[lane->released_seen % WH_SLOTS], memory_order_relaxed);
                if (slot >= WH_SLOTS || !lane->slot[slot].sent)
                        return -EPROTO; /* L4 */
                if (wh_unlikely(slot == lane->offered)) {
                        int refused;
                        if (wh_ring_offer_state(&lane->ring, lane->offered_record, &refused) != WH_CLAIM_TAKEN)
                                return -EPROTO;
                        lane->offered = -1;
                }
                slot_idle(lane, slot);
                lane->released_seen++;
        }
        return 0;
}

/* A fresh block from the sections. */
static int lend_fresh(struct wh_lane_tx *lane, unsigned order, uint16_t *ret_slot)
{
        int r = -ENOSPC;
        for (unsigned i = 0; i < lane->n_sections; i++) {
                struct wh_section_tx *s = &lane->section[i];
                if (s->len < (uint64_t)WH_SECTION_UNIT << order)
                        continue;
                r = -EAGAIN;
                if (lane->n_free_slots == 0)
                        break;
                int64_t unit = wh_buddy_alloc(s->buddy, order);
                if (unit < 0)
                        continue;
                *ret_slot = lane->free_slot[--lane->n_free_slots];
                lane->slot[*ret_slot] =
                        (struct wh_slot){.unit = (uint32_t)unit, .section = (uint8_t)i, .order = (uint8_t)order};
                return 0;
        }
        return r;
}

static int lend_idle(struct wh_lane_tx *lane, unsigned order, uint16_t *ret_slot)
{
        uint16_t slot = lane->idle[order];
        if (slot == WH_SLOTS)
                return -EAGAIN;
        lane->idle[order] = lane->slot[slot].next;
        lane->n_idle--;
        *ret_slot = slot;
        return 0;
}

enum { COLLECT_EVERY = 8 }; /* blocks between two looks at the receiver's line: it moves between the cores each time */

int wh_lane_lend(struct wh_lane_tx *lane, uint64_t len, uint16_t *ret_slot, void **ret_mem)
{
        uint64_t units = (len + WH_SECTION_UNIT - 1) >> WH_SECTION_UNIT_LOG2;
        unsigned order = wh_log2_ceil(units ? units : 1);
        uint16_t slot;
        uint32_t bit = (uint32_t)1 << order;
        int r = lane->lent++ % COLLECT_EVERY ? 0 : collect_released(lane);
        if (wh_likely(r == 0)) {
                r = -EAGAIN;
                if (wh_unlikely(!(lane->exhausted & bit))) {
                        r = lend_fresh(lane, order, &slot);
                        lane->exhausted |= r == -EAGAIN ? bit : 0;
                }
        }
        if (r == -EAGAIN)
                r = lend_idle(lane, order, &slot);
        if (r == -EAGAIN && (r = collect_released(lane)) == 0)
                r = lend_idle(lane, order, &slot);
        if (r == -EAGAIN && lane->n_idle) {
                idle_flush(lane);
                r = lend_fresh(lane, order, &slot);
        }
        if (wh_unlikely(r < 0)) {
                if (r == -EPROTO)
                        lane->ring.broken = true;
                return r;
        }
        struct wh_slot *s = &lane->slot[slot];
        s->in_use = true;
        lane->blocks_out++;
        *ret_slot = slot;
        *ret_mem = lane->section[s->section].map + ((uint64_t)s->unit << WH_SECTION_UNIT_LOG2);
        return 0;
}

bool wh_lane_lent_any(const struct wh_lane_tx *lane)
{
        for (unsigned i = 0; lane->blocks_out && i < WH_SLOTS; i++)
                if (lane->slot[i].in_use && !lane->slot[i].sent)
                        return true;
        return false;
}

void wh_lane_unlend(struct wh_lane_tx *lane, uint16_t slot)
{
        if (lane->slot[slot].in_use && !lane->slot[slot].sent)
                slot_idle(lane, slot);
        else
                lane->ring.broken = true; /* the receiver has said two things of it */
}

struct wh_rec_block wh_lane_block(const struct wh_lane_tx *lane, uint16_t slot, uint64_t len, uint64_t total)
{
        const struct wh_slot *s = &lane->slot[slot];
        return (struct wh_rec_block){
                .len = len,
                .total = total,
                .offset = s->unit << (WH_SECTION_UNIT_LOG2 - 6),
                .slot = slot,
                .section = s->section,
        };
}

void wh_lane_slot_sent(struct wh_lane_tx *lane, uint16_t slot)
{
        lane->slot[slot].sent = true;
}

void wh_lane_slot_unsent(struct wh_lane_tx *lane, uint16_t slot)
{
        lane->slot[slot].sent = false;
}

bool wh_lane_blocks_out(struct wh_lane_tx *lane)
{
        if (lane->blocks_out && collect_released(lane) < 0)
                lane->ring.broken = true;
        return lane->blocks_out != 0;
}
