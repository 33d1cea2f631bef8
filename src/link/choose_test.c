#include "link/choose.h"

#include "test.h"
#include "lane/layout.h"
#include "link/frame.h"

#include <stdlib.h>

#define IF(x) WH_IF_##x

/* Where the facts of a length change, each with the byte that is too many. */
static const uint64_t lengths[] = {0,
                                   1,
                                   40,
                                   41,
                                   WHARF_INLINE_MAX,
                                   WHARF_INLINE_MAX + 1,
                                   WH_RECORD_BODY_MAX - sizeof(struct wh_rec_ext),
                                   WH_RECORD_BODY_MAX,
                                   WH_COLD_MAX,
                                   WH_COLD_MAX + 1,
                                   WH_RING_INLINE_MAX,
                                   WH_RING_INLINE_MAX + 1,
                                   WH_REPLY_PARTS_MAX,
                                   WH_REPLY_PARTS_MAX + 1,
                                   WHARF_IN_PLACE_MAX,
                                   WHARF_IN_PLACE_MAX + 1,
                                   (uint64_t)1 << 40};
enum { LENGTHS = sizeof lengths / sizeof *lengths };

static const uint32_t asked[] = {IF(AUTO), 0, IF(INLINE), IF(SECTION), IF(CHUNKS), IF(MEMORY), IF(DIRECT)};
enum { ASKED = sizeof asked / sizeof *asked };

/* Bits of the link, of the message, and of what was tried. */
enum { LINK = IF(EMPTY) - 1, VAIN = IF(NO_ROOM) | IF(NO_BLOCK) | IF(NO_QUOTA) | IF(NO_SHARED) };

static bool any(uint32_t facts, uint32_t of)
{
        return facts & of;
}

/* Could such a link and such a message be? */
static bool possible(uint32_t f)
{
        if (any(f, IF(OWNER)) && any(f, IF(UNBOUNDED) | IF(OFFERS) | IF(FULL) | IF(GROWS) | IF(LENT) | IF(KEPT)))
                return false;
        if (any(f, IF(LANE)) && any(f, IF(ONCE) | IF(FULL) | IF(FRAMES) | IF(TRIED)))
                return false;
        if (any(f, IF(BEGUN)) && any(f, IF(LENT) | IF(KEPT) | IF(EMPTY)))
                return false;
        if (any(f, IF(KEPT)) && (any(f, IF(DIRECT)) || (any(f, IF(LENT)) && !any(f, IF(LANE)))))
                return false;
        if (any(f, IF(SECTION)) && !any(f, IF(PLACE)))
                return false;
        return !any(f, IF(INLINE)) || any(f, IF(RECORD));
}

static void check_way(uint32_t f, enum wh_way way)
{
        const bool lane = any(f, IF(LANE)), parts = way == WH_WAY_CHUNKS || way == WH_WAY_PIECES;
        if (way == WH_WAY_ATTACH)
                CHECK(!any(f, IF(LANE) | IF(TRIED)));
        if (way == WH_WAY_COLD)
                CHECK(!lane && !any(f, IF(LENT)));
        if (way == WH_WAY_INLINE || way == WH_WAY_BLOCK || parts || way == WH_WAY_DIRECT || way == WH_WAY_WRITTEN)
                CHECK(lane);
        if (way == WH_WAY_INLINE)
                CHECK(any(f, IF(RING)));
        if (way == WH_WAY_BLOCK)
                CHECK(any(f, IF(LENT)) || (any(f, IF(PLACE)) && !any(f, IF(NO_BLOCK) | IF(NO_QUOTA))));
        if (way == WH_WAY_BLOCK || way == WH_WAY_CHUNKS || way == WH_WAY_MEMORY)
                CHECK(any(f, IF(LENT)) || !any(f, IF(NO_SHARED)));
        if (parts)
                CHECK(!any(f, IF(OFFERS) | IF(KEPT) | IF(EMPTY) | IF(LENT)));
        if (way == WH_WAY_CHUNKS && any(f, IF(WHOLE)))
                CHECK(any(f, IF(BEGUN) | IF(CHUNKS)));
        if (way == WH_WAY_DIRECT || way == WH_WAY_WRITTEN)
                CHECK(any(f, IF(DIRECT)) && (way == WH_WAY_WRITTEN) == any(f, IF(OWNER)));
        if (any(f, IF(LENT)))
                CHECK(way == WH_WAY_BLOCK || way == WH_WAY_ATTACH || way == WH_WAY_NONE);
        if (way == WH_WAY_WAIT) /* for what the receiver gives back */
                CHECK(any(f, IF(NO_BLOCK) | IF(NO_ROOM)) && !any(f, IF(KEPT)));
        if (any(f, IF(OWNER)) && any(f, IF(WHOLE)) && !any(f, IF(NO_SHARED) | IF(NO_ROOM) | IF(BEGUN) | IF(CHUNKS)))
                CHECK(way != WH_WAY_WAIT && way != WH_WAY_NONE && !parts);
}

/* What does not succeed adds a fact that the way depends on, or is what is said. */
static uint32_t way_fails_by(enum wh_way way, uint32_t f)
{
        switch (way) {
        case WH_WAY_ATTACH:
                return IF(TRIED);
        case WH_WAY_INLINE:
                return any(f, IF(OWNER)) && !any(f, IF(SMALL)) ? IF(NO_ROOM) : 0;
        case WH_WAY_BLOCK:
                return any(f, IF(LENT)) ? 0 : IF(NO_BLOCK);
        case WH_WAY_CHUNKS:
        case WH_WAY_MEMORY:
                return IF(NO_SHARED);
        default:
                return 0;
        }
}

/*
 * Goal:   whatever is known of a link and a message, the way that is chosen is one that they allow; and every row of the
 *         table is needed.
 * Method: all facts that can go together, in all lengths at which something changes.
 */
TEST(every_way_is_one_that_its_facts_allow)
{
        unsigned *used = calloc(wh_choose_rows, sizeof *used);
        CHECK(used);
        for (unsigned n = 0; n < LENGTHS; n++)
                for (unsigned a = 0; a < ASKED; a++)
                        for (uint32_t link = 0; link <= LINK; link++) {
                                const uint32_t f = link | asked[a] | wh_length_facts(lengths[n]);
                                if (!possible(f))
                                        continue;
                                for (uint32_t t = 0; t <= VAIN; t += IF(NO_ROOM)) {
                                        unsigned row = wh_choose_row(f | t);
                                        used[row]++;
                                        check_way(f | t, wh_choose(f | t));
                                }
                        }
        for (unsigned i = 0; i < wh_choose_rows; i++)
                CHECK_OP(used[i], !=, 0);
        free(used);
}

/* Goal: a message whose ways fail one after another comes to an end, and says so within a few looks. */
TEST(ways_that_fail_come_to_an_end)
{
        for (unsigned n = 0; n < LENGTHS; n++)
                for (unsigned a = 0; a < ASKED; a++)
                        for (uint32_t link = 0; link <= LINK; link++) {
                                uint32_t f = link | asked[a] | wh_length_facts(lengths[n]), more;
                                if (!possible(f))
                                        continue;
                                unsigned looks = 0;
                                while ((more = way_fails_by(wh_choose(f), f)) & ~f) {
                                        f |= more;
                                        looks++;
                                }
                                CHECK_LE(looks, 4);
                        }
}

/* Goal: what a user sees in wharf_msg.how, case by case. */
TEST(the_ways_of_each_kind_of_message)
{
        static const struct {
                uint32_t facts;
                uint64_t len;
                enum wh_way way;
        } cases[] = {
                {IF(FRAMES) | IF(AUTO), 100, WH_WAY_COLD},
                {IF(AUTO), 100, WH_WAY_ATTACH},
                {IF(TRIED) | IF(AUTO), 100 << 10, WH_WAY_COLD},
                {IF(MEMORY), 100, WH_WAY_MEMORY},
                {IF(FULL) | IF(TRIED) | IF(AUTO), 1, WH_WAY_NONE},
                {IF(ONCE) | IF(FRAMES) | IF(AUTO), 20 << 10, WH_WAY_MEMORY},
                {IF(ONCE) | IF(FRAMES) | IF(AUTO) | IF(NO_SHARED), 20 << 10, WH_WAY_NONE},
                {IF(LANE) | IF(AUTO), 0, WH_WAY_INLINE},
                {IF(LANE) | IF(AUTO), 256, WH_WAY_INLINE},
                {IF(LANE) | IF(AUTO), 257, WH_WAY_BLOCK},
                {IF(LANE) | IF(SECTION), 1, WH_WAY_BLOCK},
                {IF(LANE) | IF(CHUNKS), 1, WH_WAY_CHUNKS},
                {IF(LANE) | IF(CHUNKS), 0, WH_WAY_INLINE},
                {IF(LANE) | IF(AUTO), WHARF_IN_PLACE_MAX, WH_WAY_BLOCK},
                {IF(LANE) | IF(AUTO), WHARF_IN_PLACE_MAX + 1, WH_WAY_CHUNKS},
                {IF(LANE) | IF(AUTO) | IF(WHOLE), WHARF_IN_PLACE_MAX + 1, WH_WAY_MEMORY},
                {IF(LANE) | IF(AUTO) | IF(UNBOUNDED), WHARF_IN_PLACE_MAX + 1, WH_WAY_MEMORY},
                {IF(LANE) | IF(AUTO) | IF(NO_BLOCK), 1000, WH_WAY_WAIT},
                {IF(LANE) | IF(AUTO) | IF(NO_BLOCK) | IF(GROWS), 1000, WH_WAY_INLINE},
                {IF(LANE) | IF(AUTO) | IF(NO_BLOCK) | IF(GROWS), 33 << 10, WH_WAY_WAIT},
                {IF(LANE) | IF(AUTO) | IF(NO_BLOCK) | IF(UNBOUNDED), 33 << 10, WH_WAY_MEMORY},
                {IF(LANE) | IF(AUTO) | IF(NO_QUOTA), 1000, WH_WAY_CHUNKS},
                {IF(LANE) | IF(SECTION) | IF(NO_QUOTA), 1000, WH_WAY_NONE},
                {IF(LANE) | IF(AUTO) | IF(NO_SHARED), 2000, WH_WAY_INLINE},
                {IF(LANE) | IF(AUTO) | IF(NO_SHARED), 100 << 10, WH_WAY_PIECES},
                {IF(LANE) | IF(OWNER) | IF(AUTO) | IF(NO_SHARED), 100 << 10, WH_WAY_NONE},
                {IF(LANE) | IF(OWNER) | IF(AUTO) | IF(NO_BLOCK), 1000, WH_WAY_MEMORY},
                {IF(LANE) | IF(OWNER) | IF(DIRECT), 1000, WH_WAY_WRITTEN},
                {IF(LANE) | IF(DIRECT), 1 << 20, WH_WAY_DIRECT},
                {IF(LANE) | IF(DIRECT) | IF(OFFERS), 1 << 20, WH_WAY_DIRECT},
                {IF(LANE) | IF(OFFERS) | IF(AUTO), 256, WH_WAY_INLINE},
                {IF(LANE) | IF(OFFERS) | IF(AUTO), 257, WH_WAY_BLOCK},
                {IF(LANE) | IF(OFFERS) | IF(CHUNKS), 257, WH_WAY_MEMORY},
                {IF(LANE) | IF(OFFERS) | IF(AUTO) | IF(NO_BLOCK), 257, WH_WAY_WAIT},
                {IF(LANE) | IF(OFFERS) | IF(AUTO) | IF(NO_QUOTA), 257, WH_WAY_MEMORY},
                {IF(LANE) | IF(OFFERS) | IF(AUTO) | IF(NO_SHARED), 3000, WH_WAY_NONE},
                {IF(LANE) | IF(KEPT) | IF(AUTO), 40, WH_WAY_INLINE},
                {IF(LANE) | IF(KEPT) | IF(AUTO), 41, WH_WAY_BLOCK},
                {IF(LANE) | IF(KEPT) | IF(AUTO) | IF(NO_BLOCK), 41, WH_WAY_MEMORY},
                {IF(KEPT) | IF(AUTO), 20 << 10, WH_WAY_MEMORY},
        };
        for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
                CHECK_EQ(wh_choose(cases[i].facts | wh_length_facts(cases[i].len)), cases[i].way);
}

/* Goal: frames are for the first few of little, and for whoever has nothing else. */
TEST(frames_will_do_for_the_first_few)
{
        const struct wh_cold few = {.automatic = true, .len = 100, .capacity = 1024};
        struct wh_cold c = few;
        CHECK(wh_frames_will_do(&c));
        c.sent = 15;
        CHECK(wh_frames_will_do(&c));
        c.sent = 16;
        CHECK(!wh_frames_will_do(&c));
        c = few;
        c.bytes = (64 << 10) - 100;
        CHECK(wh_frames_will_do(&c));
        c.bytes++;
        CHECK(!wh_frames_will_do(&c));
        c = few;
        c.len = WH_COLD_MAX + 1;
        CHECK(!wh_frames_will_do(&c));
        c.cold = true;
        c.automatic = false;
        CHECK(wh_frames_will_do(&c));
        c.full = true;
        CHECK(!wh_frames_will_do(&c));
        c.no_lane = true;
        CHECK(wh_frames_will_do(&c));
        c.lent = true;
        CHECK(!wh_frames_will_do(&c));
        c = few;
        c.behind = true;
        CHECK(!wh_frames_will_do(&c));
        c.owner = true;
        CHECK(wh_frames_will_do(&c));
        c = few;
        c.uncounted = true;
        CHECK(!wh_frames_will_do(&c));
        c = few;
        c.capacity = c.sent = 1;
        CHECK(!wh_frames_will_do(&c));
}
