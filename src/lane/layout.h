/*
 * layout - what two processes map: the two memories of a lane, and its sections.
 *
 *      out       written by the sender, sealed so that the receiver can only read it: header page, then the ring
 *      back      one page written by the receiver: how far it has read, what it released, whether it is asleep
 *      section   written by the sender, sealed like `out`: larger payloads, read in place
 *
 * Every field has one writer, and all fields of a page have the same one. The exceptions are `want`, and `claim`, by which
 * both sides decide what becomes of an offer, by compare-and-swap (ring.h, wh_ring_offer()). Fixed-width integers and
 * offsets only. A change here is a new WH_LANE_VERSION, and a peer of another version is refused by name
 * (-EPROTONOSUPPORT), never guessed at.
 */
#ifndef WH_LANE_LAYOUT_H
#define WH_LANE_LAYOUT_H

#include "base/bits.h"

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define WH_LANE_MAGIC 0x656e616c66726877u /* "whrflane" */
/* All that a lane can have mapped: its page, two rings while one follows the other, and its sections. */
#define WH_LANE_BYTES_MAX                                                  \
        (WH_PAGE + 2 * (WH_PAGE + (uint64_t)WH_RING_LINES_MAX * WH_LINE) + \
         (uint64_t)WH_SECTIONS_MAX * WH_SECTION_BYTES_MAX)
#ifndef WH_LANE_VERSION /* proof/matrix/later.h */
#define WH_LANE_VERSION 3u
#endif

enum {
        WH_LINE = 64,              /* records start at multiples of this; the unit of ring positions */
        WH_RING_LINES_MIN = 128,   /* 8 KiB: the largest record, and a pad before it, always fit */
        WH_RING_LINES_MAX = 65536, /* 4 MiB */
        WH_RECORD_BODY_MAX = 2048, /* bytes after a record's head; what reserve() accepts at most */
        WH_SECTIONS_MAX = 4,       /* a lane has no more sections than this */
        WH_SLOTS = 512,            /* payloads in sections that may be on their way at once */
        WH_SECTION_BYTES_MAX = 64 << 20,
        WH_BLOCK_MAX = 8 << 20,        /* bytes of a payload in one block; */
        WH_CHUNK = 128 << 10,          /* ... of a message in parts: keeps both sides busy, and stays in the cache */
        WH_REPLY_PARTS_MAX = 64 << 10, /* of a reply in parts, in all: the half of a ring. It never waits for room */
};

/*
 * The head of a record: one 64-bit word, stored last and with release, so that a record is there whole or not at all.
 *
 *      bits  0..15  body length in bytes
 *      bits 16..19  kind, WH_REC_*
 *      bits 20..31  zero
 *      bits 32..63  stamp: bit 63 set, bits 32..62 the low 31 bits of the record's number
 */
enum wh_rec_kind {
        WH_REC_PAD = 1,     /* nothing; the record of this number is at the start of the ring */
        WH_REC_PLAIN = 2,   /* the body is the payload, with no id, no call, no rights */
        WH_REC_INLINE = 3,  /* struct wh_rec_ext, then the payload */
        WH_REC_BLOCK = 4,   /* ext, then struct wh_rec_block: the payload lies in a section */
        WH_REC_CHUNK = 5,   /* ext, then struct wh_rec_block: a part of a payload, in order */
        WH_REC_DROPPED = 6, /* ext: the call ext.call ends without a reply, for the reason ext.arg (an errno) */
        /* 7 is no kind */
        WH_REC_MEMORY = 8,  /* ext, block: the payload is the last descriptor of the ITEMS frame */
        WH_REC_ABORT = 9,   /* ext: the message in pieces that was begun will not be finished */
        WH_REC_OFFER = 10,  /* ext, and what a record of the kind ext.arg has: taken only by changing `claim` */
        WH_REC_DIRECT = 11, /* ext, struct wh_rec_direct: the payload is in the sender's address space, and is offered;
                               of a reply: it was written into the caller's, where WINDOW said */
        WH_REC_NEXT = 12,   /* ext: the ring ends; the records that follow are in that of the next RING frame */
        WH_REC_PIECE = 13,  /* ext, the length of the whole payload (u64), then a part of it: a chunk without a block */
        WH_REC_WINDOW = 14, /* ext, struct wh_rec_direct: where the reply to the call ext.call may be written */
        WH_REC_KINDS
};

enum { WH_NEXT_NO_SECTIONS = 1 }; /* in ext.arg of NEXT: the sections end here too; nothing of them is on its way */

struct wh_rec_ext {
        uint32_t id;      /* the user's word for what this message is */
        uint32_t call;    /* 0, or the number by which its reply is known */
        uint16_t n_items; /* rights and descriptors, in the ITEMS frame of this message's number */
        uint16_t zero;
        uint32_t arg; /* by kind; of a reply: the errno for which it was not written where WINDOW said, or 0 */
};
static_assert(sizeof(struct wh_rec_ext) == 16, "both processes rely on this layout");

struct wh_rec_block {
        uint64_t len;     /* bytes of payload in this block */
        uint64_t total;   /* of the whole message; more than `len` only in chunks */
        uint32_t offset;  /* in the section, in units of WH_LINE bytes */
        uint16_t slot;    /* what the receiver gives back when done */
        uint16_t section; /* index of the section */
};
static_assert(sizeof(struct wh_rec_block) == 24, "both processes rely on this layout");

struct wh_rec_direct {
        uint64_t at; /* an address of the sender's */
        uint64_t len;
};
static_assert(sizeof(struct wh_rec_direct) == 16, "both processes rely on this layout");

/* First page of `out`. All by the sender. */
struct wh_out {
        /* Constant after the hand-over; the receiver reads them once. */
        uint64_t magic;
        uint32_t version;
        uint32_t ring_lines; /* a power of two */
        uint8_t pad0[WH_LINE - 16];
        /* [lane-frames] Frames other than doorbells that were, or are about to be, sent on the socket. */
        _Atomic uint32_t frames;
        uint8_t pad2[WH_LINE - 4];
        /* A statistic, for `wharf ls`; never decided upon. */
        _Atomic uint64_t sent_messages;
        uint8_t pad3[WH_PAGE - 2 * WH_LINE - 8];
};
static_assert(sizeof(struct wh_out) == WH_PAGE, "the ring starts on the second page");

/* The one page of `back`. All by the receiver, but `claim` and `want`. */
struct wh_back {
        /* [ring-taken] The receiver has finished with this many lines, and this many records. */
        _Atomic uint64_t taken_lines;
        _Atomic uint64_t taken_records;
        uint8_t pad0[WH_LINE - 16];
        /* [lane-asleep] 0: awake. Otherwise the generation of a sleep: ring once for each. */
        _Atomic uint32_t asleep;
        /*
         * [lane-renew] Changes when a RENEW frame waits on the sender's socket: in the line that a ringing sender has.
         */
        _Atomic uint32_t renew;
        uint8_t pad1[WH_LINE - 8];
        /* [claim] What became of what was offered, wh_claim_word(). The one word that both change. */
        _Atomic uint64_t claim;
        uint8_t pad2[WH_LINE - 8];
        /* [section-released] How many entries of `released` were ever written. */
        _Atomic uint32_t released_count;
        uint8_t pad3[WH_LINE - 4];
        /*
         * [lane-want] Not 0: the sender waits for room, and this is its generation: ring once for each. By the sender,
         * and here rather than in `out`, since it has one place whichever of several rings the receiver is in.
         */
        _Atomic uint32_t want;
        uint8_t pad4[1024 - 4 * WH_LINE - 4];
        _Atomic uint16_t released[WH_SLOTS]; /* slots, a ring */
        uint8_t pad5[WH_PAGE - 1024 - 2 * WH_SLOTS];
};
static_assert(sizeof(struct wh_back) == WH_PAGE, "both processes rely on this layout");
static_assert(offsetof(struct wh_back, released) == 1024, "both processes rely on this layout");

static inline uint64_t wh_rec_head(enum wh_rec_kind kind, uint32_t len, uint64_t number)
{
        return (uint64_t)(0x80000000u | (uint32_t)(number & 0x7fffffffu)) << 32 | (uint32_t)kind << 16 | len;
}

/*
 * The word of an offer:
 *
 *      bits  0..2   enum wh_claim
 *      bits  3..14  the errno of REFUSED
 *      bits 15..63  the number of the offer: of its record, of which there are never so many
 */
enum wh_claim {
        WH_CLAIM_OFFERED = 1,
        WH_CLAIM_TAKEN = 2,
        WH_CLAIM_WITHDRAWN = 3,
        WH_CLAIM_REFUSED = 4,
};
static inline uint64_t wh_claim_word(enum wh_claim state, uint64_t number)
{
        return number << 15 | (uint64_t)state;
}

static inline uint32_t wh_rec_lines(uint32_t body_len)
{
        return (8 + body_len + WH_LINE - 1) / WH_LINE;
}

/*
 * The one way bytes are copied to and from memory that another process maps. A single pass: what was copied is what
 * gets checked and used, and the compiler may not read the source again.
 */
static inline void wh_shm_copy(void *to, const void *from, size_t n)
{
        if (n) /* nothing may have no address */
                __builtin_memcpy(to, from, n);
        __asm__ __volatile__("" : : "r"(to) : "memory");
}

#endif
