/*
 * lane - the shared memory of one direction of a link: two memories made by the sender, opened by the receiver, and
 * the sections that join them when payloads are large.
 *
 * Why two: a page has one honest writer. `out` is sealed F_SEAL_FUTURE_WRITE before it is handed over, so the kernel
 * lets the receiver map it for reading and nothing else; `back` is one page that the receiver writes.
 *
 * Always true:
 *   L1  The sender pays: the memory is reserved (fallocate) and touched (MAP_POPULATE) before it is handed over, and
 *       the receiver refuses memory whose pages are not there (sealed.h), for reading a hole would make the reader pay.
 *       To the kernel, memory that was reserved and never touched is a hole as well.
 *   L2  The receiver maps nothing it has not checked: seals, file system, size, mode, magic, version.
 *   L3  Mappings are not inherited over fork (MADV_DONTFORK): a child can neither read nor write a lane.
 *   L4  A slot is on its way at most once; the receiver's releases are claims, checked against the sender's own table.
 *   L5  A block that comes back stays with its slot, idle, in a queue of its size, and is lent again only when no fresh
 *       one is left: what was released last is still in the receiver's cache, where writing to it costs most. All idle
 *       ones go back to the buddy allocator before a request is refused.
 */
#ifndef WH_LANE_LANE_H
#define WH_LANE_LANE_H

#include "lane/ring.h"

#include <sys/types.h>

/* ---- the sender's side ---- */

struct wh_buddy;

struct wh_section_tx {
        uint8_t *map;
        uint64_t len;
        struct wh_buddy *buddy; /* private: the receiver cannot touch the bookkeeping */
        int fd;                 /* until it was handed over; then -1 */
};

struct wh_slot {
        uint32_t unit;   /* where in the section, in WH_SECTION_UNIT */
        uint16_t next;   /* in the queue of idle ones of its order; WH_SLOTS ends it */
        uint8_t section; /* index */
        uint8_t order;   /* the block has WH_SECTION_UNIT << order bytes */
        bool in_use;     /* lent, or on its way */
        bool sent;       /* on its way: the receiver may release it */
};

enum {
        WH_SECTION_UNIT_LOG2 = 8, /* the smallest block: 256 bytes */
        WH_SECTION_UNIT = 1 << WH_SECTION_UNIT_LOG2,
        WH_ORDERS = 32,
};

struct wh_lane_large {
        uint64_t record, bytes;
};

struct wh_lane_tx {
        struct wh_ring_tx ring;
        int out_fd, back_fd;   /* until they were handed over; then -1 */
        uint64_t map_len;      /* of `out` */
        uint64_t behind_bytes; /* of the rings before it that the receiver may still map: see wh_lane_behind_bytes() */
        struct wh_section_tx section[WH_SECTIONS_MAX];
        unsigned n_sections;
        uint64_t section_bytes; /* in all sections */
        struct wh_slot slot[WH_SLOTS];
        uint16_t free_slot[WH_SLOTS];
        unsigned n_free_slots;
        uint16_t idle[WH_ORDERS], idle_last[WH_ORDERS]; /* queues by order: the longest idle, the last */
        unsigned n_idle;
        uint32_t exhausted;     /* orders (bits) of which the sections had no fresh block left when last asked */
        uint32_t released_seen; /* entries of back->released that were dealt with */
        uint32_t lent;          /* blocks ever lent: when to look for releases */
        unsigned blocks_out;    /* slots in use */
        bool sections_grown;    /* for more than it usually has on its way */
        int offered; /* the slot of an offer that stands, which is given back by nobody who has not taken it; or -1 */
        uint64_t offered_record;
        /* Of large payloads that are unread: in which record each is, and all they have; a ring of `large_size`. */
        struct wh_lane_large *large;
        uint32_t large_size, large_head, large_tail;
        uint64_t large_bytes;
};

/* Let go of those that were taken, as far as the ring has seen (wh_ring_refresh()). */
void wh_lane_large_taken(struct wh_lane_tx *lane);
/* Is there a place to remember one more? False for want of memory. */
bool wh_lane_large_room_slow(struct wh_lane_tx *lane);
static inline bool wh_lane_large_room(struct wh_lane_tx *lane)
{
        return wh_likely(lane->large_head - lane->large_tail < lane->large_size) || wh_lane_large_room_slow(lane);
}
/* There is room, as above: or it is forgotten. */
static inline void wh_lane_large_sent(struct wh_lane_tx *lane, uint64_t record, uint64_t bytes)
{
        if (wh_unlikely(lane->large_head - lane->large_tail == lane->large_size))
                return;
        uint32_t at = lane->large_head++ & (lane->large_size - 1);
        lane->large[at].record = record;
        lane->large[at].bytes = bytes;
        lane->large_bytes += bytes;
}

/*
 * Make a lane for `capacity` unread records in a ring of at least `ring_bytes`. The descriptors to hand over are
 * out_fd and back_fd. Errors: -ENOMEM, -EMFILE, and what memfd_create or fallocate say.
 */
int wh_lane_tx_new(uint32_t ring_bytes, uint64_t capacity, struct wh_lane_tx **ret);
struct wh_lane_tx *wh_lane_tx_free(struct wh_lane_tx *lane);

/*
 * Lend `len` bytes of a section, to be written in place. 0; -EAGAIN: no room until the receiver releases something;
 * -ENOSPC: no section here can ever hold `len`, add one; -EPROTO: the receiver released what it never had.
 */
int wh_lane_lend(struct wh_lane_tx *lane, uint64_t len, uint16_t *ret_slot, void **ret_mem);
/* Take back what was lent and not sent. Of a lane that is broken, what the receiver has given back already stays so. */
void wh_lane_unlend(struct wh_lane_tx *lane, uint16_t slot);
/* The record that names a lent block. The slot is the receiver's from the publication on. */
struct wh_rec_block wh_lane_block(const struct wh_lane_tx *lane, uint16_t slot, uint64_t len, uint64_t total);
void wh_lane_slot_sent(struct wh_lane_tx *lane, uint16_t slot);
/* Is there a block that was lent and not sent? */
bool wh_lane_lent_any(const struct wh_lane_tx *lane);
/* Add a section of `len` bytes (rounded up to a power of two). Its descriptor is section[*ret_index].fd. */
int wh_lane_add_section(struct wh_lane_tx *lane, uint64_t len, unsigned *ret_index);
/* Remove the last section again, which was not announced. */
void wh_lane_drop_section(struct wh_lane_tx *lane);
/* A sent block that its receiver will not release, since what was offered in it was withdrawn, is lent again. */
void wh_lane_slot_unsent(struct wh_lane_tx *lane, uint16_t slot);
/* Is any block lent or on its way? Looks at what the receiver has given back; then false is certain. */
bool wh_lane_blocks_out(struct wh_lane_tx *lane);

/* Memory for another ring of this lane: its descriptor, to hand over, and where it is mapped. */
int wh_lane_ring_new(uint64_t ring_lines, int *ret_fd, struct wh_out **ret);
void wh_lane_ring_free(struct wh_out *out);
/*
 * End the ring with a NEXT record, in the line that is kept, and go on in `out`, whose frame was sent before. False
 * when that line is taken; nothing has changed then. `end_sections`: also forget the sections; no block is out.
 */
bool wh_lane_ring_switch(struct wh_lane_tx *lane, struct wh_out *out, bool end_sections);
/* What the receiver has not been seen to be past. */
static inline uint64_t wh_lane_behind_bytes(const struct wh_lane_tx *lane)
{
        return lane->ring.seen_lines < lane->ring.base ? lane->behind_bytes : 0;
}

/* ---- the receiver's side ---- */

struct wh_lane_rx {
        struct wh_ring_rx ring;
        uint64_t map_len;
        struct {
                const uint8_t *map;
                uint64_t len;
                int fd;
        } section[WH_SECTIONS_MAX];
        int out_fd, back_fd; /* as section[].fd: kept where the receiver may have to hand the lane on; -1 otherwise */
        unsigned n_sections;
        uint64_t mapped_bytes; /* all of it; what quotas count */
        struct wh_out *next;   /* the ring of a RING frame whose NEXT record is still to come */
        uint64_t next_len;
        int next_fd;                     /* kept or -1, as above */
        uint32_t blocks_held;            /* shown to the user in place: as long as there are any, nothing is unmapped */
        uint32_t released;               /* entries of back->released written, and told */
        uint32_t number;                 /* of its link's lanes: what a held payload lies in */
        struct wh_lane_rx *next_retired; /* ended, with payloads that are still held */
};

/*
 * Map what a sender handed over, or refuse. The descriptors stay the caller's. `bytes_max` limits what is mapped.
 * Errors: -EPROTO not a lane, or not sealed and reserved as one; -EPROTONOSUPPORT another version; -EDQUOT larger
 * than bytes_max; -ENOMEM.
 */
int wh_lane_rx_open(int out_fd, int back_fd, uint64_t bytes_max, struct wh_lane_rx **ret);
struct wh_lane_rx *wh_lane_rx_free(struct wh_lane_rx *lane);
/* Map one more section; the same errors. */
int wh_lane_rx_add_section(struct wh_lane_rx *lane, int fd, uint64_t bytes_max);

/* Map the ring that will follow; the same errors, and -EPROTO while another waits. */
int wh_lane_rx_add_ring(struct wh_lane_rx *lane, int fd, uint64_t bytes_max);
/* As before the one that was added last, in which nothing was used. */
void wh_lane_rx_drop_section(struct wh_lane_rx *lane);
void wh_lane_rx_drop_ring(struct wh_lane_rx *lane);
/* Go on in it: the NEXT record was taken. -EPROTO: there is none; or sections end, but payloads are held. */
int wh_lane_rx_switch(struct wh_lane_rx *lane, bool end_sections);

/* How many descriptors of it are kept; whether they are all that there are; and away with them. */
unsigned wh_lane_rx_kept(const struct wh_lane_rx *lane);
bool wh_lane_rx_whole(const struct wh_lane_rx *lane);
void wh_lane_rx_unkeep(struct wh_lane_rx *lane);

/* Where a block's bytes are, checked against its section: -EPROTO when outside. `b` is a private copy. */
int wh_lane_at(const struct wh_lane_rx *lane, const struct wh_rec_block *b, const void **ret);
/* Give a block back. True when the sender waits for room and must be rung. */
bool wh_lane_release(struct wh_lane_rx *lane, uint16_t slot);

#endif
