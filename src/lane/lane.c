#include "lane/lane.h"

#include "base/cleanup.h"
#include "base/trace.h"
#include "lane/sealed.h"
#include "memory/buddy.h"
#include "os/closer.h"
#include "os/left.h"
#include "os/os.h"

#include <string.h>

#define LANE_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW)
#define OUT_SEALS (LANE_SEALS | F_SEAL_FUTURE_WRITE)

/* ---- making memory to hand over ---- */

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

/* What L2 asks of every memory that comes from another process. */
static int memory_check(int fd, int seals, uint64_t bytes_max, uint64_t *ret_len)
{
        uint64_t len;
        int r = wh_sealed_size(fd, seals, &len);
        if (r < 0)
                return r;
        if (len % WH_PAGE)
                return wh_trace(-EPROTO);
        if (len > bytes_max)
                return wh_trace(-EDQUOT);
        *ret_len = len;
        return 0;
}

/*
 * Of a small memory, as an honest link has it, the pages are mapped at once: one call in the place of a fault for every
 * few of them, in the midst of the first messages. Of a large one that would keep its reader for long, for what it may
 * never read: there a fault is little beside the payloads that need so much.
 */
enum { POPULATE_MAX = 256 << 10 };

/*
 * What is sealed against writing has no holes (L2). The other has one page, and whoever made it may cut a hole at any
 * time.
 */
static int memory_map(int fd, uint64_t len, int prot, void **ret)
{
        void *map;
        int whole = prot & PROT_WRITE ? 0 : wh_sealed_whole(fd, len);
        if (whole < 0 && whole != -EOPNOTSUPP)
                return whole;
        const int populate = whole == 0 && len <= POPULATE_MAX ? MAP_POPULATE : 0;
        int r = wh_os_mmap(NULL, len, prot, MAP_SHARED | populate, fd, 0, &map);
        if (r < 0)
                return wh_trace(r);
        if (whole < 0)
                r = wh_sealed_touch(fd, map, len);
        if (r == 0)
                r = wh_os_madvise(map, len, MADV_DONTFORK);
        if (r < 0) {
                wh_os_munmap(map, len);
                return wh_trace(r);
        }
        *ret = map;
        return 0;
}

/* ---- the sender ---- */

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
        lane->out_fd = lane->back_fd = -1;
        lane->map_len = WH_PAGE + lines * WH_LINE;
        for (unsigned i = 0; i < WH_SLOTS; i++)
                lane->free_slot[i] = (uint16_t)(WH_SLOTS - 1 - i);
        lane->n_free_slots = WH_SLOTS;
        for (unsigned i = 0; i < WH_ORDERS; i++)
                lane->idle[i] = WH_SLOTS;

        void *out = NULL, *back = NULL;
        int r = memory_new("wharf-out", lane->map_len, OUT_SEALS, &lane->out_fd, &out);
        if (r == 0) {
                lane->ring.out = out;
                r = memory_new("wharf-back", WH_PAGE, LANE_SEALS, &lane->back_fd, &back);
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
        int r = memory_new("wharf-out", WH_PAGE + ring_lines * WH_LINE, OUT_SEALS, ret_fd, &out);
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
        int r = memory_new("wharf-section", len, OUT_SEALS, &s->fd, &map);
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
        assert(lane->slot[slot].in_use && !lane->slot[slot].sent);
        slot_idle(lane, slot);
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

/* ---- the receiver ---- */

/* Copy and check what the sender claims at the head of an `out` of `len` bytes. */
static int out_check(const void *out, uint64_t len, uint32_t *ret_lines)
{
        /* One copy; the sender can still change the page, never the copy. */
        struct {
                uint64_t magic;
                uint32_t version, ring_lines;
        } head;
        wh_shm_copy(&head, out, sizeof head);
        if (head.magic != WH_LANE_MAGIC)
                return wh_trace(-EPROTO);
        if (head.version != WH_LANE_VERSION)
                return wh_trace(-EPROTONOSUPPORT);
        if (!wh_is_pow2(head.ring_lines) || WH_PAGE + (uint64_t)head.ring_lines * WH_LINE != len)
                return wh_trace(-EPROTO);
        *ret_lines = head.ring_lines;
        return 0;
}

/* Check and map an `out`. */
static int out_map(int fd, uint64_t bytes_max, uint64_t *ret_len, void **ret)
{
        uint64_t len;
        int r = memory_check(fd, OUT_SEALS, bytes_max, &len);
        if (r < 0)
                return r;
        if (len < WH_PAGE + WH_RING_LINES_MIN * WH_LINE || len > WH_PAGE + WH_RING_LINES_MAX * WH_LINE)
                return wh_trace(-EPROTO);
        r = memory_map(fd, len, PROT_READ, ret);
        if (r == 0)
                *ret_len = len;
        return r;
}

int wh_lane_rx_open(int out_fd, int back_fd, uint64_t bytes_max, struct wh_lane_rx **ret)
{
        uint64_t back_len;
        uint32_t lines;
        void *out = NULL, *back = NULL;
        int r = memory_check(back_fd, LANE_SEALS, WH_PAGE, &back_len);
        if (r < 0)
                return r == -EDQUOT ? -EPROTO : r;
        struct wh_lane_rx *lane = wh_os_calloc(1, sizeof *lane);
        if (!lane)
                return wh_trace(-ENOMEM);
        lane->out_fd = lane->back_fd = lane->next_fd = -1;
        r = out_map(out_fd, bytes_max, &lane->map_len, &out);
        if (r < 0) {
                free(lane);
                return r;
        }
        lane->ring.out = out;
        r = memory_map(back_fd, WH_PAGE, PROT_READ | PROT_WRITE, &back);
        if (r == 0) {
                lane->ring.back = back;
                r = out_check(out, lane->map_len, &lines);
        }
        if (r < 0) {
                wh_lane_rx_free(lane);
                return r;
        }
        wh_ring_rx_init(&lane->ring, out, back, lines);
        lane->mapped_bytes = lane->map_len + WH_PAGE;
        *ret = lane;
        return 0;
}

static void sections_unmap(struct wh_lane_rx *lane)
{
        while (lane->n_sections) {
                lane->n_sections--;
                lane->mapped_bytes -= lane->section[lane->n_sections].len;
                wh_os_munmap((void *)(uintptr_t)lane->section[lane->n_sections].map,
                             lane->section[lane->n_sections].len);
                /* Behind the mapping: whichever is the last frees the pages, and this one may do so elsewhere. */
                wh_os_close_theirs(lane->section[lane->n_sections].fd);
        }
}

struct wh_lane_rx *wh_lane_rx_free(struct wh_lane_rx *lane)
{
        if (!lane)
                return NULL;
        sections_unmap(lane);
        if (lane->next)
                wh_os_munmap(lane->next, lane->next_len);
        if (lane->ring.out)
                wh_os_munmap((void *)(uintptr_t)lane->ring.out, lane->map_len);
        if (lane->ring.back)
                wh_os_munmap(lane->ring.back, WH_PAGE);
        wh_os_close(lane->next_fd);
        wh_os_close(lane->out_fd);
        wh_os_close(lane->back_fd);
        free(lane);
        return NULL;
}

int wh_lane_rx_add_ring(struct wh_lane_rx *lane, int fd, uint64_t bytes_max)
{
        uint64_t len;
        void *out;
        uint32_t lines;
        if (lane->next)
                return wh_trace(-EPROTO);
        int r = out_map(fd, bytes_max, &len, &out);
        if (r < 0)
                return r;
        r = out_check(out, len, &lines);
        if (r < 0) {
                wh_os_munmap(out, len);
                return r;
        }
        lane->next = out;
        lane->next_len = len;
        lane->mapped_bytes += len;
        return 0;
}

void wh_lane_rx_drop_ring(struct wh_lane_rx *lane)
{
        wh_os_munmap((void *)(uintptr_t)lane->next, lane->next_len);
        lane->mapped_bytes -= lane->next_len;
        lane->next = NULL;
}

int wh_lane_rx_switch(struct wh_lane_rx *lane, bool end_sections)
{
        if (!lane->next || (end_sections && lane->blocks_held))
                return wh_trace(-EPROTO);
        if (end_sections)
                sections_unmap(lane);
        wh_os_munmap((void *)(uintptr_t)lane->ring.out, lane->map_len);
        lane->mapped_bytes -= lane->map_len;
        lane->map_len = lane->next_len;
        /* The size was checked against that of the memory: no need to believe the page a second time. */
        wh_ring_rx_continue(&lane->ring, lane->next, (uint32_t)((lane->next_len - WH_PAGE) / WH_LINE));
        lane->next = NULL;
        wh_os_close(lane->out_fd);
        lane->out_fd = wh_steal_fd(&lane->next_fd);
        return 0;
}

int wh_lane_rx_add_section(struct wh_lane_rx *lane, int fd, uint64_t bytes_max)
{
        if (lane->n_sections == WH_SECTIONS_MAX)
                return wh_trace(-EPROTO);
        uint64_t len;
        int r = memory_check(fd, OUT_SEALS, bytes_max, &len);
        if (r < 0)
                return r;
        if (len > WH_SECTION_BYTES_MAX)
                return wh_trace(-EPROTO);
        void *map;
        r = memory_map(fd, len, PROT_READ, &map);
        if (r < 0)
                return r;
        lane->section[lane->n_sections].map = map;
        lane->section[lane->n_sections].fd = -1;
        lane->section[lane->n_sections++].len = len;
        lane->mapped_bytes += len;
        return 0;
}

void wh_lane_rx_drop_section(struct wh_lane_rx *lane)
{
        lane->n_sections--;
        lane->mapped_bytes -= lane->section[lane->n_sections].len;
        wh_os_munmap((void *)(uintptr_t)lane->section[lane->n_sections].map, lane->section[lane->n_sections].len);
}

int wh_lane_at(const struct wh_lane_rx *lane, const struct wh_rec_block *b, const void **ret)
{
        if (b->section >= lane->n_sections || b->slot >= WH_SLOTS ||
            !wh_inside((uint64_t)b->offset * WH_LINE, b->len, lane->section[b->section].len))
                return wh_trace(-EPROTO);
        *ret = lane->section[b->section].map + (uint64_t)b->offset * WH_LINE;
        return 0;
}

bool wh_lane_release(struct wh_lane_rx *lane, uint16_t slot)
{
        struct wh_back *back = lane->ring.back;
        atomic_store_explicit(&back->released[lane->released++ % WH_SLOTS], slot, memory_order_relaxed);
        /* [section-released] Release, pairs with the acquire in collect_released(): read first, then give back. */
        atomic_store_explicit(&back->released_count, lane->released, memory_order_release);
        return wh_ring_wanted(&lane->ring);
}
