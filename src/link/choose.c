#include "link/choose.h"

#include "lane/ring.h"
#include "link/frame.h"

#include <stdbool.h>

enum {
        COLD_FRAMES = 16,      /* far from filling a socket, which holds 278 */
        COLD_BYTES = 64 << 10, /* likewise: 208 KiB */
};

/* All of `all` and none of `none`. */
struct row {
        uint32_t all, none;
        enum wh_way way;
};

#define IF(x) WH_IF_##x
static const struct row rows[] = {
        /* The common one first. */
        {IF(LANE) | IF(AUTO) | IF(SMALL), IF(OFFERS) | IF(LENT) | IF(KEPT) | IF(NO_ROOM), WH_WAY_INLINE},

        /* Left behind a full queue: in the line that is kept, or where that line says. */
        {IF(KEPT) | IF(LANE) | IF(LENT), 0, WH_WAY_BLOCK},
        {IF(KEPT) | IF(LANE) | IF(LINE), 0, WH_WAY_INLINE},
        {IF(KEPT) | IF(FRAME), IF(LANE), WH_WAY_COLD},
        {IF(KEPT) | IF(NO_SHARED), 0, WH_WAY_NONE},
        {IF(KEPT) | IF(LANE) | IF(PLACE), IF(NO_BLOCK) | IF(NO_QUOTA), WH_WAY_BLOCK},
        {IF(KEPT), 0, WH_WAY_MEMORY},

        /* No lane: it is made now, unless frames will do. */
        {0, IF(LANE) | IF(FRAMES) | IF(TRIED) | IF(BEGUN) | IF(MEMORY), WH_WAY_ATTACH},
        {IF(LENT), IF(LANE) | IF(FRAMES) | IF(TRIED) | IF(BEGUN), WH_WAY_ATTACH},
        {IF(FULL), IF(LANE) | IF(FRAMES) | IF(TRIED) | IF(BEGUN), WH_WAY_ATTACH},
        {IF(FULL), IF(LANE) | IF(BEGUN), WH_WAY_NONE}, /* nothing to offer in */
        {IF(LENT), IF(LANE), WH_WAY_NONE},
        {IF(MEMORY), IF(LANE) | IF(NO_SHARED) | IF(BEGUN), WH_WAY_MEMORY},
        {IF(UNBOUNDED), IF(LANE) | IF(NO_SHARED) | IF(PLACE) | IF(DIRECT) | IF(BEGUN), WH_WAY_MEMORY},
        /* Neither of these waits for room, so what may not find any goes in one frame. */
        {IF(ONCE), IF(LANE) | IF(NO_SHARED) | IF(FRAME), WH_WAY_MEMORY},
        {IF(OWNER), IF(LANE) | IF(NO_SHARED) | IF(FRAME), WH_WAY_MEMORY},
        {IF(ONCE), IF(LANE) | IF(FRAME), WH_WAY_NONE},
        {IF(OWNER), IF(LANE) | IF(PARTS), WH_WAY_NONE},
        {0, IF(LANE), WH_WAY_COLD},

        /* Asked for by name, and an offer itself. */
        {IF(DIRECT) | IF(OWNER), 0, WH_WAY_WRITTEN},
        {IF(DIRECT), IF(LENT), WH_WAY_DIRECT},

        /* What is offered is in one piece. */
        {IF(OFFERS) | IF(LENT), 0, WH_WAY_BLOCK},
        {IF(OFFERS) | IF(INLINE), 0, WH_WAY_INLINE},
        {IF(OFFERS) | IF(EMPTY), 0, WH_WAY_INLINE},
        {IF(OFFERS) | IF(SMALL), IF(SECTION) | IF(MEMORY), WH_WAY_INLINE},
        {IF(OFFERS) | IF(NO_SHARED) | IF(RECORD), 0, WH_WAY_INLINE},
        {IF(OFFERS) | IF(NO_SHARED), 0, WH_WAY_NONE},
        {IF(OFFERS) | IF(MEMORY), 0, WH_WAY_MEMORY},
        {IF(OFFERS) | IF(CHUNKS), 0, WH_WAY_MEMORY},
        {IF(OFFERS) | IF(NO_QUOTA), 0, WH_WAY_MEMORY},
        {IF(OFFERS) | IF(NO_BLOCK), 0, WH_WAY_WAIT},
        {IF(OFFERS) | IF(PLACE), 0, WH_WAY_BLOCK},
        {IF(OFFERS), 0, WH_WAY_MEMORY},

        {IF(LENT), 0, WH_WAY_BLOCK},
        /* Memory is forbidden: records alone. */
        {IF(NO_SHARED) | IF(RECORD), IF(BEGUN), WH_WAY_INLINE},
        {IF(NO_SHARED) | IF(OWNER), IF(PARTS), WH_WAY_NONE},
        {IF(NO_SHARED), 0, WH_WAY_PIECES},
        /* Also where a large one of an unbounded queue would be in parts, for these would wait for each other. */
        {IF(MEMORY), 0, WH_WAY_MEMORY},
        {IF(UNBOUNDED), IF(PLACE), WH_WAY_MEMORY},
        {IF(UNBOUNDED) | IF(CHUNKS), IF(EMPTY), WH_WAY_MEMORY},
        /* A record. */
        {IF(OWNER) | IF(NO_ROOM), IF(SMALL), WH_WAY_MEMORY},
        {IF(NO_ROOM), 0, WH_WAY_WAIT},
        {IF(EMPTY), 0, WH_WAY_INLINE},
        {IF(INLINE), 0, WH_WAY_INLINE},
        {IF(SMALL), IF(SECTION) | IF(CHUNKS), WH_WAY_INLINE},
        /* Parts. */
        {IF(WHOLE), IF(PLACE) | IF(BEGUN), WH_WAY_MEMORY},
        {IF(CHUNKS), 0, WH_WAY_CHUNKS},
        {IF(BEGUN), 0, WH_WAY_CHUNKS},
        {0, IF(PLACE), WH_WAY_CHUNKS},
        /* A block; or, where none is to be had, what comes next to it. */
        {0, IF(NO_BLOCK) | IF(NO_QUOTA), WH_WAY_BLOCK},
        {IF(UNBOUNDED) | IF(RING), 0, WH_WAY_INLINE},
        {IF(UNBOUNDED), 0, WH_WAY_MEMORY},
        {IF(OWNER), 0, WH_WAY_MEMORY},
        {IF(NO_BLOCK) | IF(GROWS) | IF(RING), 0, WH_WAY_INLINE},
        {IF(NO_BLOCK), 0, WH_WAY_WAIT},
        {IF(WHOLE), 0, WH_WAY_MEMORY},
        {0, IF(SECTION), WH_WAY_CHUNKS}, /* smaller ones will do */
        {0, 0, WH_WAY_NONE},
};
#undef IF

const unsigned wh_choose_rows = sizeof rows / sizeof *rows;

unsigned wh_choose_row(uint32_t facts)
{
        unsigned i = 0;
        while ((facts & rows[i].all) != rows[i].all || facts & rows[i].none)
                i++; /* the last one has no conditions */
        return i;
}

enum wh_way wh_choose(uint32_t facts)
{
        return rows[wh_choose_row(facts)].way;
}

uint32_t wh_length_facts(uint64_t len)
{
        return (len == 0 ? WH_IF_EMPTY : 0) | (len <= WH_RING_KEPT_BODY - sizeof(struct wh_rec_ext) ? WH_IF_LINE : 0) |
               (len <= WHARF_INLINE_MAX ? WH_IF_SMALL : 0) |
               (len <= WH_RECORD_BODY_MAX - sizeof(struct wh_rec_ext) ? WH_IF_RECORD : 0) |
               (len <= WH_COLD_MAX ? WH_IF_FRAME : 0) | (len <= WH_RING_INLINE_MAX ? WH_IF_RING : 0) |
               (len <= WH_REPLY_PARTS_MAX ? WH_IF_PARTS : 0) | (len <= WHARF_IN_PLACE_MAX ? WH_IF_PLACE : 0);
}

bool wh_frames_will_do(const struct wh_cold *c)
{
        if (c->lent)
                return false;
        if (c->no_lane)
                return true;
        if (c->full)
                return false; /* the lane counts what is unread, cold messages too */
        if (c->cold)
                return true;
        if (!c->automatic || (!c->owner && (c->uncounted || c->behind)))
                return false;
        return c->len <= WH_COLD_MAX && c->sent < COLD_FRAMES && c->sent < c->capacity &&
               c->bytes + c->len <= COLD_BYTES;
}
