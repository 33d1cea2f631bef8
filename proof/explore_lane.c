/*
 * The wait protocol and the ring of a lane under every interleaving within bounds and every value a load may return: a
 * receiver that sleeps and a sender that rings; a sender that waits for room; offers that are taken or withdrawn; a
 * ring that is followed by another; either of them killed.
 */
#include "explore/explore.h"
#include "lane/lane.h"
#include "memory/buddy.h"

#include <string.h>

enum { LINES = WH_RING_LINES_MIN, RECEIVER = 0, SENDER = 1, BLOCKS = 2 }; /* each sleeps on the bell of its number */

static struct {
        _Alignas(4096) struct wh_out out;
        uint8_t ring[LINES * WH_LINE];
        struct wh_back back;
        /* Of offers: what a block holds, and what is used again at once where an offer was withdrawn. */
        uint64_t block[4][2];
        _Atomic uint64_t again;
        /* Of sections: so small that every block is used again. */
        _Alignas(64) uint64_t section[BLOCKS][WH_SECTION_UNIT / 8];
        /* The ring that follows. */
        _Alignas(4096) struct wh_out next_out;
        uint8_t next_ring[LINES * WH_LINE];
} mem;
/* The private truth of both ends: the ring alone, or with sections. */
static struct wh_lane_tx lane_tx, lane_fresh;
static struct wh_lane_rx lane_rx;
static struct wh_ring_tx *const tx = &lane_tx.ring;
static struct wh_ring_rx *const rx = &lane_rx.ring;
static unsigned messages;       /* to be sent */
static unsigned sent, received; /* private to their party, and read at the end */

static void init_with(uint64_t capacity, uint32_t lines, unsigned n)
{
        static bool shared;
        if (!shared)
                hook_share(&mem, sizeof mem);
        shared = true;
        memset(&mem, 0, sizeof mem);
        mem.out.ring_lines = lines;
        messages = n;
        wh_ring_tx_init(tx, &mem.out, &mem.back, capacity);
        wh_ring_rx_init(rx, &mem.out, &mem.back, lines);
        sent = received = 0;
}

static void init_roomy(void)
{
        init_with(100, LINES, 3);
}

static void init_tight(void)
{
        init_with(1, LINES, 3);
}

/* The ring is almost around: the second record needs a pad. */
static void init_wrap(void)
{
        init_with(100, LINES, 3);
        tx->pos = rx->pos = tx->taken_lines = rx->settled_lines = LINES - 2;
        tx->cleared = 2 * LINES - 2;
        mem.back.taken_lines = LINES - 2;
}

/* So small that every line is used again. */
static void init_lap(void)
{
        init_with(100, 4, 5);
        tx->usable = tx->cleared = 4; /* nothing is kept in reserve */
}

/* Receive with `one` until there were as many as will come: look, announce, look again, sleep. */
static void receive_all(bool (*one)(void), const unsigned *n)
{
        while (*n < messages) {
                if (one())
                        continue;
                if (wh_ring_sleep(rx))
                        explore_ring(SENDER);
                /* Asked before the last look: what it published before it died must be found by that. */
                bool over = explore_over(SENDER);
                if (!one()) {
                        if (over)
                                return;
                        explore_sleep(RECEIVER);
                }
                wh_ring_awake(rx);
        }
}

/* A record is there: the receiver may sleep. */
static void published(void)
{
        if (wh_ring_must_ring(tx))
                explore_ring(RECEIVER);
        wh_ring_clear_ahead(tx);
}

/*
 * Try until it works, as a sender does who waits for room: announce, look again, sleep. False when the receiver is
 * gone.
 */
static bool wait_for(bool (*there)(void *), void *arg)
{
        while (!there(arg)) {
                wh_ring_want(tx, true);
                bool now = there(arg), over = !now && explore_over(RECEIVER);
                if (!now && !over)
                        explore_sleep(SENDER);
                wh_ring_want(tx, false);
                if (now || over)
                        return now;
        }
        return true;
}

/* The receiver has given something back. */
static void gave(bool ring)
{
        if (ring)
                explore_ring(SENDER);
}

static uint32_t message(unsigned n, uint64_t *ret)
{
        /* Payloads look like heads, so that a stale one would be taken for a record. */
        uint32_t len = n % 2 ? 72 : 8;
        for (unsigned i = 0; i < len / 8; i++)
                ret[i] = wh_rec_head(WH_REC_PLAIN, 8, n + i / 2); /* what comes to lie on a line is 3 later */
        return len;
}

struct place {
        uint32_t len;
        void *body;
};

static bool room(void *arg)
{
        struct place *p = arg;
        p->body = wh_ring_reserve(tx, p->len);
        EXPLORE_CHECK(!tx->broken);
        return p->body != NULL;
}

static void sender(void)
{
        for (unsigned n = 0; n < messages; n++) {
                uint64_t bytes[16];
                struct place p = {.len = message(n, bytes)};
                if (!wait_for(room, &p))
                        return;
                wh_shm_copy(p.body, bytes, p.len);
                sent = n + 1;
                wh_ring_publish(tx, WH_REC_PLAIN, p.len);
                published();
        }
}

static bool receive_one(void)
{
        struct wh_rec rec;
        uint64_t bytes[WH_RECORD_BODY_MAX / 8], expect[16];
        int r = wh_ring_peek(rx, &rec);
        EXPLORE_CHECK(r >= 0);
        if (r == 0)
                return false;
        uint32_t len = message(received, expect);
        EXPLORE_CHECK(rec.len == len);
        wh_shm_copy(bytes, rec.body, rec.len);
        EXPLORE_CHECK(!memcmp(bytes, expect, len));
        received++;
        gave(wh_ring_advance(rx, &rec));
        return true;
}

static void receiver(void)
{
        receive_all(receive_one, &received);
}

static void check(uint32_t killed)
{
        if (killed & 1 << RECEIVER)
                return;
        /* The last may have been on its way when the sender died. */
        EXPLORE_CHECK(received == sent || ((killed & 1 << SENDER) && received + 1 == sent));
        EXPLORE_CHECK(killed || received == messages);
}

/* ---- offers (ring.R7) ---- */

static bool impatient; /* the sender's deadline is now */
static bool refuses;   /* the receiver, the first one */
static enum wh_claim outcome[4];
static unsigned delivered[4], passed;

static void init_offers(void)
{
        init_with(16, LINES, 2);
        impatient = refuses = false;
        passed = 0;
        memset(outcome, 0, sizeof outcome);
        memset(delivered, 0, sizeof delivered);
}

static void init_impatient(void)
{
        init_offers();
        messages = 3;
        impatient = true;
}

static void init_refused(void)
{
        init_offers();
        refuses = true;
}

/* Until it is taken or refused; or withdrawn, where nobody is there any more. */
static enum wh_claim offer_wait(uint64_t number)
{
        enum wh_claim c;
        int refused;
        do {
                wh_ring_want(tx, true);
                c = wh_ring_offer_state(tx, number, &refused);
                EXPLORE_CHECK(c != 0 && (c != WH_CLAIM_REFUSED || (refuses && number == 0 && refused == -1)));
                if (c == WH_CLAIM_OFFERED) {
                        if (explore_over(RECEIVER))
                                c = wh_ring_withdraw(tx, number);
                        else
                                explore_sleep(SENDER);
                }
                wh_ring_want(tx, false);
        } while (c == WH_CLAIM_OFFERED);
        return c;
}

static void offerer(void)
{
        uint64_t block = 0;
        for (uint64_t n = 0; n < messages; n++) {
                uint64_t *body = wh_ring_reserve(tx, 16), number = tx->records, bytes[] = {n, ~n}, rec[] = {n, block};
                EXPLORE_CHECK(body);
                wh_shm_copy(mem.block[block], bytes, sizeof bytes);
                atomic_store_explicit(&mem.again, n, memory_order_relaxed);
                wh_shm_copy(body, rec, sizeof rec);
                sent = (unsigned)n + 1;
                wh_ring_offer(tx, 16);
                published();
                outcome[n] = impatient ? wh_ring_withdraw(tx, number) : offer_wait(number);
                EXPLORE_CHECK(outcome[n] != 0 && outcome[n] != WH_CLAIM_OFFERED);
                /* Taken: its place is used again, which is a race if it is still being read. */
                block += outcome[n] != WH_CLAIM_TAKEN;
        }
}

/* The receiver copies, claims, and keeps the copy only if it may. */
static bool take_one(void)
{
        struct wh_rec rec;
        uint64_t is[2], bytes[2];
        int r = wh_ring_peek(rx, &rec);
        EXPLORE_CHECK(r >= 0);
        if (r == 0)
                return false;
        EXPLORE_CHECK(rec.kind == WH_REC_OFFER && rec.len == sizeof is);
        uint64_t number = rx->records;
        if (wh_ring_still_offered(rx, number)) {
                wh_shm_copy(is, rec.body, sizeof is);
                EXPLORE_CHECK(is[0] == number && is[1] < 4);
                wh_shm_copy(bytes, mem.block[is[1]], sizeof bytes);
                uint64_t again = atomic_load_explicit(&mem.again, memory_order_relaxed);
                if (refuses && number == 0) {
                        wh_ring_refuse(rx, number, -1);
                        gave(wh_ring_wanted(rx));
                } else if (wh_ring_claim(rx, number)) {
                        delivered[number]++;
                        EXPLORE_CHECK(bytes[0] == number && bytes[1] == ~number && again == number);
                        gave(wh_ring_wanted(rx));
                }
        }
        passed++;
        gave(wh_ring_advance(rx, &rec));
        return true;
}

static void taker(void)
{
        receive_all(take_one, &passed);
}

/* Taken exactly when it was delivered, and once; withdrawn exactly when it was not. */
static void check_offers(uint32_t killed)
{
        unsigned all = 0;
        for (unsigned n = 0; n < messages; n++) {
                EXPLORE_CHECK(delivered[n] <= 1);
                EXPLORE_CHECK(outcome[n] != WH_CLAIM_TAKEN || delivered[n] == 1);
                EXPLORE_CHECK((outcome[n] != WH_CLAIM_WITHDRAWN && outcome[n] != WH_CLAIM_REFUSED) ||
                              delivered[n] == 0);
                /* Of one that its sender knows nothing about only the sender's death is the reason. */
                EXPLORE_CHECK(outcome[n] != 0 || killed & 1 << SENDER);
                EXPLORE_CHECK(impatient || killed & 1 << RECEIVER || outcome[n] != WH_CLAIM_WITHDRAWN);
                all += delivered[n];
        }
        /* A sender that died while it offered has withdrawn nothing. */
        EXPLORE_CHECK(impatient || refuses || killed & 1 << RECEIVER || all == passed);
        EXPLORE_CHECK(killed || passed == messages);
}

/* ---- a ring follows upon a full one (ring.R8) ---- */

static void init_next(void)
{
        init_with(INT64_MAX, 4, 4);
        memset(&mem.next_out, 0, sizeof mem.next_out + sizeof mem.next_ring);
        mem.next_out.ring_lines = LINES;
        tx->usable = tx->cleared = 3;
}

static uint32_t line(unsigned n, uint64_t *ret)
{
        ret[0] = wh_rec_head(WH_REC_PLAIN, 8, n + 1);
        return 8;
}

static void grower(void)
{
        for (unsigned n = 0; n < messages; n++) {
                uint64_t bytes[2];
                uint32_t len = line(n, bytes);
                /* As wh_ring_reserve_slow() does, for records of one line. */
                void *body = wh_ring_reserve(tx, len);
                if (!body) {
                        EXPLORE_CHECK(!tx->broken && tx->out == &mem.out);
                        EXPLORE_CHECK(wh_ring_reserve_kept(tx));
                        wh_ring_publish(tx, WH_REC_NEXT, 0);
                        if (wh_ring_must_ring(tx))
                                explore_ring(RECEIVER);
                        wh_ring_tx_continue(tx, &mem.next_out);
                        body = wh_ring_reserve(tx, len);
                        EXPLORE_CHECK(body);
                }
                wh_shm_copy(body, bytes, len);
                sent = n + 1;
                wh_ring_publish(tx, WH_REC_PLAIN, len);
                published();
        }
}

static bool follow_one(void)
{
        struct wh_rec rec;
        uint64_t bytes[2], expect[2];
        int r;
        while ((r = wh_ring_peek(rx, &rec)) > 0 && rec.kind == WH_REC_NEXT) {
                EXPLORE_CHECK(rx->out == &mem.out);
                wh_ring_advance(rx, &rec);
                wh_ring_rx_continue(rx, &mem.next_out, LINES);
                wh_ring_idle(rx); /* the memory behind is gone */
        }
        EXPLORE_CHECK(r >= 0);
        if (r == 0)
                return false;
        uint32_t len = line(received, expect);
        EXPLORE_CHECK(rec.kind == WH_REC_PLAIN && rec.len == len);
        wh_shm_copy(bytes, rec.body, len);
        EXPLORE_CHECK(!memcmp(bytes, expect, len));
        received++;
        gave(wh_ring_advance(rx, &rec));
        return true;
}

static void follower(void)
{
        receive_all(follow_one, &received);
}

/* ---- sections: blocks lent, sent, released, collected, and lent again (lane.L4, lane.L5) ---- */

static _Alignas(8) uint8_t buddy[sizeof(struct wh_buddy) + 256];
static bool in_place; /* payloads are held until nothing else is to be done */
static struct {
        struct wh_rec_block block;
        unsigned number;
} held[BLOCKS];
static unsigned n_held;

static void init_sections(void)
{
        static bool made;
        if (!made) {
                struct wh_lane_tx *lane;
                if (wh_lane_tx_new(0, 0, &lane) < 0 || sizeof *lane->section->buddy > sizeof buddy ||
                    wh_buddy_bookkeeping_bytes(BLOCKS) > sizeof buddy - sizeof(struct wh_buddy))
                        explore_fail("no lane can be made here");
                lane_fresh = *lane;
                wh_lane_tx_free(lane);
                made = true;
        }
        lane_tx = lane_fresh;
        lane_rx = (struct wh_lane_rx){.n_sections = 1, .section = {{(uint8_t *)mem.section, sizeof mem.section, -1}}};
        init_with(100, LINES, 5);
        struct wh_buddy *b = (struct wh_buddy *)(void *)buddy;
        wh_buddy_init(b, buddy + sizeof *b, BLOCKS);
        lane_tx.section[0] =
                (struct wh_section_tx){.map = (uint8_t *)mem.section, .len = sizeof mem.section, .buddy = b, .fd = -1};
        lane_tx.n_sections = 1;
        in_place = false;
        n_held = 0;
}

static void init_in_place(void)
{
        init_sections();
        in_place = true;
}

struct lent {
        uint16_t slot;
        void *mem;
};

static bool lent(void *arg)
{
        struct lent *b = arg;
        int r = wh_lane_lend(&lane_tx, WH_SECTION_UNIT, &b->slot, &b->mem);
        EXPLORE_CHECK(r == 0 || r == -EAGAIN);
        return r == 0;
}

static void lender(void)
{
        for (unsigned n = 0; n < messages; n++) {
                struct lent to;
                if (!wait_for(lent, &to))
                        return;
                uint64_t bytes[2] = {n, ~(uint64_t)n};
                wh_shm_copy(to.mem, bytes, sizeof bytes);
                struct wh_rec_block b = wh_lane_block(&lane_tx, to.slot, sizeof bytes, sizeof bytes);
                void *body = wh_ring_reserve(tx, sizeof b);
                EXPLORE_CHECK(body);
                wh_shm_copy(body, &b, sizeof b);
                wh_lane_slot_sent(&lane_tx, to.slot);
                sent = n + 1;
                wh_ring_publish(tx, WH_REC_BLOCK, sizeof b);
                published();
        }
}

static void let_go(const struct wh_rec_block *b, unsigned n)
{
        const void *at;
        uint64_t bytes[2];
        EXPLORE_CHECK(wh_lane_at(&lane_rx, b, &at) == 0);
        wh_shm_copy(bytes, at, sizeof bytes);
        EXPLORE_CHECK(bytes[0] == n && bytes[1] == ~(uint64_t)n);
        gave(wh_lane_release(&lane_rx, b->slot));
}

static bool read_one(void)
{
        struct wh_rec rec;
        struct wh_rec_block b;
        int r = wh_ring_peek(rx, &rec);
        EXPLORE_CHECK(r >= 0);
        if (r == 0) {
                /* Let go, the last one first, when all else is told: this alone must wake the sender. */
                if (!n_held || rx->settled_lines != rx->pos)
                        return false;
                n_held--;
                let_go(&held[n_held].block, held[n_held].number);
                return true;
        }
        EXPLORE_CHECK(rec.kind == WH_REC_BLOCK && rec.len == sizeof b);
        wh_shm_copy(&b, rec.body, sizeof b);
        unsigned n = received++;
        gave(wh_ring_advance(rx, &rec));
        if (in_place) {
                held[n_held].block = b;
                held[n_held++].number = n;
        } else {
                let_go(&b, n);
        }
        return true;
}

static void reader(void)
{
        receive_all(read_one, &received);
        while (n_held--)
                let_go(&held[n_held].block, held[n_held].number);
}

/* What was released is there to be lent, each block once. */
static void check_sections(uint32_t killed)
{
        check(killed);
        if (killed)
                return;
        EXPLORE_CHECK(!wh_lane_blocks_out(&lane_tx) && !tx->broken);
        struct lent b[BLOCKS];
        for (unsigned i = 0; i < BLOCKS; i++) {
                EXPLORE_CHECK(lent(&b[i]));
                EXPLORE_CHECK(i == 0 || b[i].mem != b[0].mem);
        }
        EXPLORE_CHECK(!lent(&b[0]));
}

#define BOTH .party = {receiver, sender}, .check = check
#define OFFERS .party = {taker, offerer}, .check = check_offers
#define GROWTH .party = {follower, grower}, .check = check
#define SECTIONS .party = {reader, lender}, .check = check_sections
static const struct explore protocols[] = {
        {.name = "sleep", .init = init_roomy, .preemptions = 3, .stale = 2, .spurious = 1, BOTH},
        {.name = "room", .init = init_tight, .preemptions = 3, .stale = 2, .spurious = 1, BOTH},
        {.name = "wrap", .init = init_wrap, .preemptions = 2, .stale = 2, BOTH},
        {.name = "lap", .init = init_lap, .preemptions = 2, .stale = 2, BOTH},
        {.name = "killed", .init = init_roomy, .preemptions = 2, .stale = 1, .kills = 1, .mortal = 3, BOTH},
        {.name = "killed-tight", .init = init_tight, .preemptions = 1, .stale = 1, .kills = 1, .mortal = 3, BOTH},
        {.name = "offer", .init = init_offers, .preemptions = 2, .stale = 2, .spurious = 1, OFFERS},
        {.name = "refuse", .init = init_refused, .preemptions = 2, .stale = 1, .spurious = 1, OFFERS},
        {.name = "withdraw", .init = init_impatient, .preemptions = 3, .stale = 1, .spurious = 1, OFFERS},
        {.name = "offer-killed", .init = init_offers, .preemptions = 1, .stale = 1, .kills = 1, .mortal = 3, OFFERS},
        {.name = "withdraw-killed", .init = init_impatient, .preemptions = 2, .kills = 1, .mortal = 3, OFFERS},
        {.name = "next", .init = init_next, .preemptions = 2, .stale = 1, .spurious = 1, GROWTH},
        {.name = "next-killed", .init = init_next, .preemptions = 1, .stale = 1, .kills = 1, .mortal = 3, GROWTH},
        {.name = "section", .init = init_sections, .preemptions = 2, .stale = 2, .spurious = 1, SECTIONS},
        {.name = "section-in-place", .init = init_in_place, .preemptions = 2, .stale = 1, .spurious = 1, SECTIONS},
        {.name = "section-killed",
         .init = init_sections,
         .preemptions = 1,
         .stale = 1,
         .kills = 1,
         .mortal = 3,
         SECTIONS},
};

int main(int argc, char **argv)
{
        return explore_main("lane", protocols, sizeof protocols / sizeof *protocols, argc, argv);
}
