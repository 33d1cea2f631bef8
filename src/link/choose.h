/*
 * choose - which way a message goes over a link: a table, and nothing else. It reads and changes nothing.
 *
 * What is known of the message and of the link is a set of bits (enum wh_fact). The first row of the table whose conditions
 * are met says the way. A way that turns out not to be had (no block is free, the user's share is used up, a sandbox forbids
 * memory) adds a fact, and the table is asked again; so each message ends after a few looks, and each reason for another
 * way stands in a row of its own.
 *
 *      nothing attached yet     frames, a few of them; then a lane is attached
 *      up to WHARF_INLINE_MAX   a record
 *      up to WHARF_IN_PLACE_MAX a block of a section, and a record that names it
 *      more                     blocks of WH_CHUNK bytes, one after another
 *      where memory is forbidden    pieces, in as many records as it takes
 *      where it must not be in parts    a sealed memory of its own
 *
 * Where the port's capacity is zero what goes by a record is offered (out.c): such rows have OFFERS.
 */
#ifndef WH_LINK_CHOOSE_H
#define WH_LINK_CHOOSE_H

#include "wharf/message.h"

#include <stdbool.h>
#include <stdint.h>

/* As the user's, and for no message, but the window of the call that follows. */
enum { WH_HOW_WINDOW = WHARF_HOW_DIRECT + 1, WH_HOWS };

enum { WH_RING_INLINE_MAX = 32 << 10 }; /* bytes in a record, when blocks are short */

enum wh_fact {
        /* the link */
        WH_IF_LANE = 1 << 0,
        WH_IF_OWNER = 1 << 1, /* this end is the owner's: what it sends are replies, which wait for nobody */
        WH_IF_ONCE = 1 << 2,
        WH_IF_UNBOUNDED = 1 << 3,
        WH_IF_OFFERS = 1 << 4, /* the port's capacity is zero */
        WH_IF_FULL = 1 << 5,   /* no more may lie on the socket as frames */
        WH_IF_FRAMES = 1 << 6, /* frames will do for this one */
        WH_IF_TRIED = 1 << 7,  /* no lane was to be had just now */
        WH_IF_GROWS = 1 << 8,  /* the queue has a place, and a larger ring may be made for it */
        /* the message */
        WH_IF_LENT = 1 << 9,   /* it lies in a block already */
        WH_IF_BEGUN = 1 << 10, /* parts of it have gone */
        WH_IF_WHOLE = 1 << 11, /* parts would wait for the receiver, and it must not */
        WH_IF_KEPT = 1 << 12,  /* it goes into the line that is kept behind a full queue */
        /* its length: zero; or at most so much */
        WH_IF_EMPTY = 1 << 13,
        WH_IF_LINE = 1 << 14,   /* what the kept line holds */
        WH_IF_SMALL = 1 << 15,  /* WHARF_INLINE_MAX */
        WH_IF_RECORD = 1 << 16, /* what any record holds */
        WH_IF_FRAME = 1 << 17,  /* WH_COLD_MAX */
        WH_IF_RING = 1 << 18,   /* WH_RING_INLINE_MAX */
        WH_IF_PARTS = 1 << 19,  /* WH_REPLY_PARTS_MAX */
        WH_IF_PLACE = 1 << 20,  /* WHARF_IN_PLACE_MAX */
        /* what was tried in vain */
        WH_IF_NO_ROOM = 1 << 21,   /* for a record of its length */
        WH_IF_NO_BLOCK = 1 << 22,  /* until the receiver gives one back */
        WH_IF_NO_QUOTA = 1 << 23,  /* for a block: the receiver maps no more */
        WH_IF_NO_SHARED = 1 << 24, /* memory cannot be made, or not be handed over */
        /* what was asked for, and can be had: one of them */
        WH_IF_AUTO = 1 << 25,
        WH_IF_INLINE = 1 << 26,
        WH_IF_SECTION = 1 << 27,
        WH_IF_CHUNKS = 1 << 28,
        WH_IF_MEMORY = 1 << 29,
        WH_IF_DIRECT = 1 << 30,
};

enum wh_way {
        WH_WAY_NONE,    /* it cannot go, for the last reason that was found; or -EOPNOTSUPP */
        WH_WAY_WAIT,    /* there is no room now */
        WH_WAY_ATTACH,  /* a lane first; then choose again */
        WH_WAY_COLD,    /* frames */
        WH_WAY_INLINE,  /* a record */
        WH_WAY_BLOCK,   /* a record, and a block of a section */
        WH_WAY_CHUNKS,  /* the same in parts */
        WH_WAY_PIECES,  /* records in parts */
        WH_WAY_MEMORY,  /* a memory of its own, announced by a record or a frame */
        WH_WAY_DIRECT,  /* the receiver reads it where it is */
        WH_WAY_WRITTEN, /* a reply, into the caller's window */
        WH_WAYS
};

/* `facts`: of enum wh_fact. */
enum wh_way wh_choose(uint32_t facts);
/* By which row of the table, of so many. */
unsigned wh_choose_row(uint32_t facts);
extern const unsigned wh_choose_rows;

/* The facts of a length in bytes. */
uint32_t wh_length_facts(uint64_t len);

/* What decides whether a message may go as frames while there is no lane. */
struct wh_cold {
        uint64_t len;       /* bytes */
        bool automatic;     /* nothing was asked for; */
        bool cold;          /* ... or frames were */
        bool lent, no_lane; /* it lies in a block; there is never a lane (send-once rights), or cannot be one */
        bool full;          /* WH_IF_FULL */
        bool behind;        /* a lane has ended: what is unread is not counted by frames */
        bool uncounted;     /* the queue has no place for so many bytes, as frames count them */
        uint32_t sent;      /* frames so far, */
        uint64_t bytes;     /* ... and bytes in them */
        uint64_t capacity;  /* frames that may be unread */
        bool owner;
};
bool wh_frames_will_do(const struct wh_cold *c);

#endif
