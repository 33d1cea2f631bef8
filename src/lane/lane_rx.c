/*
 * The receiver's side of a lane: what it maps of its sender's memory, once that was checked (L2).
 */
#include "lane/lane.h"

#include "base/cleanup.h"
#include "base/trace.h"
#include "memory/sealed.h"
#include "os/closer.h"
#include "os/os.h"

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
        int r = memory_check(fd, WH_SEALS_OUT, bytes_max, &len);
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
        int r = memory_check(back_fd, WH_SEALS_LANE, WH_PAGE, &back_len);
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
        wh_os_close_theirs(lane->next_fd);
        wh_os_close_theirs(lane->out_fd);
        wh_os_close_theirs(lane->back_fd);
        free(lane);
        return NULL;
}

unsigned wh_lane_rx_kept(const struct wh_lane_rx *lane)
{
        unsigned n = (lane->out_fd >= 0) + (lane->back_fd >= 0) + (lane->next_fd >= 0);
        for (unsigned i = 0; i < lane->n_sections; i++)
                n += lane->section[i].fd >= 0;
        return n;
}

bool wh_lane_rx_whole(const struct wh_lane_rx *lane)
{
        return wh_lane_rx_kept(lane) == 2 + lane->n_sections + (lane->next != NULL);
}

void wh_lane_rx_unkeep(struct wh_lane_rx *lane)
{
        for (unsigned i = 0; i < lane->n_sections; i++)
                wh_os_close_theirs(wh_steal_fd(&lane->section[i].fd));
        wh_os_close_theirs(wh_steal_fd(&lane->next_fd));
        wh_os_close_theirs(wh_steal_fd(&lane->out_fd));
        wh_os_close_theirs(wh_steal_fd(&lane->back_fd));
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
        wh_os_close_theirs(lane->out_fd);
        lane->out_fd = wh_steal_fd(&lane->next_fd);
        return 0;
}

int wh_lane_rx_add_section(struct wh_lane_rx *lane, int fd, uint64_t bytes_max)
{
        if (lane->n_sections == WH_SECTIONS_MAX)
                return wh_trace(-EPROTO);
        uint64_t len;
        int r = memory_check(fd, WH_SEALS_OUT, bytes_max, &len);
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
