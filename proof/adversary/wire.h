/*
 * wire - the protocol as the adversary speaks it: frames on a socket, records in a lane, the carrier of a moved port.
 *
 * Written a second time. What is shared with the library are numbers (kinds, magics, versions, sizes); the layouts are
 * here once more and no code is shared, so nothing keeps this side from what the library would never send. Where the
 * library's layout is another one, wire_check.c does not compile. A change of the protocol is a change of this file and
 * of wire.c, and of nothing else in this folder.
 *
 * Always true: no function here waits, and each sends exactly what it was told to, true or not.
 */
#ifndef ADVERSARY_WIRE_H
#define ADVERSARY_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lane/layout.h" /* WH_REC_*, magics and versions: numbers only */
#include "link/frame.h"  /* WH_FRAME_*, WH_MSG_*: numbers only */

enum {
        WIRE_FDS_MAX = 253, /* the kernel takes no more in one datagram */
        WIRE_DATA_MAX = 1 << 16,
};

/* Who seems to speak, and so whom the frame is for. */
enum wire_as {
        WIRE_AS_FITS, /* whoever sends frames of that type */
        WIRE_AS_HOLDER,
        WIRE_AS_OWNER,
        WIRE_AS_ONCE,
        WIRE_AS_KINDS
};

/* Kinds of what travels beside bytes. */
enum {
        WIRE_ITEM_FD = 1,
        WIRE_ITEM_SEND = 2,
        WIRE_ITEM_REPLY = 3,
        WIRE_ITEM_MEMORY = 4,
        WIRE_ITEM_RECEIVE = 5,
        WIRE_ITEM_BESIDE = 6,
};

struct wire_frame {
        uint32_t magic;
        uint8_t version;
        uint8_t to;
        uint8_t type;
        uint8_t n_fds;
        uint64_t seq;
        uint64_t total;
        uint32_t id;
        uint32_t call;
        uint32_t arg;
        uint32_t len;
};

struct wire_hello {
        uint64_t port_id;
        uint64_t payload_bytes_max;
        uint64_t link_mapped_bytes_max;
        uint32_t capacity_records;
        uint32_t unread_rights_max;
        uint64_t capacity_bytes;
};

/* With REBIND and GIVEN: for which port, and from whom the right is. */
struct wire_origin {
        uint64_t port_id;
        int32_t pid;
        uint32_t uid, gid;
        uint32_t known;
};

/* What is not to be as it should. */
enum wire_lie { WIRE_TRUE = 0, WIRE_LIE_MAGIC, WIRE_LIE_VERSION, WIRE_LIE_N_FDS, WIRE_LIE_LEN, WIRE_LIES };

/*
 * Sends the frame; magic, version, n_fds and len are filled in, and one of them is wrong with `lie`. Bytes sent, or a
 * negative errno.
 */
int wire_send(int sock, struct wire_frame f, enum wire_as as, enum wire_lie lie, const void *data, size_t len,
              const int *fds, unsigned n_fds);

struct wire_got {
        struct wire_frame frame; /* all zero for a doorbell */
        size_t len;              /* of the datagram */
        unsigned n_fds;
        int fds[WIRE_FDS_MAX];
        uint8_t data[WIRE_DATA_MAX]; /* behind the head */
};
/* One datagram. 1, 0 (nothing there), or a negative errno; -EPIPE at the end. The descriptors are the caller's. */
int wire_receive(int sock, struct wire_got *ret, bool peek);

/* A sealed memory, as lanes and sections are made of; `fill` bytes of it come from `from`. Returns its descriptor. */
int wire_memory(uint64_t len, int seals, void **ret_map);
enum {
        WIRE_SEALS_OUT = 1,       /* the other side may only read */
        WIRE_SEALS_BACK = 2,      /* both write */
        WIRE_SEALS_IMMUTABLE = 3, /* nobody writes any more */
        WIRE_SEALS_NONE = 4,
};

/* The sending half of a lane. */
struct wire_lane {
        uint8_t *out, *back, *ring;
        int out_fd, back_fd;
        uint32_t lines;
        uint64_t pos;    /* of the next record, in lines */
        uint64_t number; /* of the next record */
        uint32_t rung;
};
int wire_lane_new(struct wire_lane *ret, uint32_t lines, uint64_t first_number);
void wire_lane_free(struct wire_lane *l);
/* One record; false when there is no room. */
bool wire_lane_put(struct wire_lane *l, unsigned kind, const void *body, uint32_t len);
/*
 * As many records of one line as there is room for, as fast as heads can be stored: the bodies lie in every line since
 * wire_lane_fill(). How many.
 */
enum { WIRE_FLOOD_BODY_MAX = WH_LINE - 8 };
void wire_lane_fill(struct wire_lane *l, const void *body, uint32_t len);
uint64_t wire_lane_flood(struct wire_lane *l, unsigned kind, uint32_t len);
/* Says that a frame was sent: the receiver looks at the socket. */
void wire_lane_frame(struct wire_lane *l);
/* Does the receiver sleep, and was not rung for it? */
bool wire_lane_asleep(struct wire_lane *l);
/* The word of an offer: the next record is one. */
void wire_lane_offer(struct wire_lane *l);

/* Bodies of records. */
struct wire_ext {
        uint32_t id;
        uint32_t call;
        uint16_t n_items;
        uint16_t zero;
        uint32_t arg;
};
struct wire_block {
        uint64_t len, total;
        uint32_t offset;
        uint16_t slot, section;
};
struct wire_direct {
        uint64_t at, len;
};

/*
 * What wharfd is asked, as it lies behind the head of a message; magic, version and length are filled in. Its length.
 */
struct wire_request {
        uint32_t magic;
        uint16_t version;
        uint16_t op;
        uint64_t timeout_ns;
        uint32_t name_len;
        uint32_t flags;
        uint64_t cookie[2];
        uint64_t after;
};
size_t wire_request(struct wire_request r, const char *name, void *to);
/* The page that a task may show to wharfd. */
int wire_task_page(void);
int wire_task_page_of(uint64_t number); /* ... of a task of that number */

/*
 * The carrier of a port that moves, with one link whose sender is claimed to be `pid` and `uid`; `sock` is the owner's
 * end of that link. Returns the end to be given away.
 */
int wire_carrier(int sock, pid_t pid, uid_t uid);

#endif
