/*
 * The wait protocol and the ring of a lane under every interleaving within bounds and every value a load may return: a
 * receiver that sleeps and a sender that rings; a sender that waits for room; offers that are taken or withdrawn; a
 * ring that is followed by another; either of them killed.
 */
#include "explore/explore.h"
#include "lane/ring.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINES = WH_RING_LINES_MIN, RECEIVER = 0, SENDER = 1 };

static struct {
        _Alignas(4096) struct wh_out out;
        uint8_t ring[LINES * WH_LINE];
        struct wh_back back;
        /* Of offers: what a block holds, and what is used again at once where an offer was withdrawn. */
        uint64_t block[4][2];
        _Atomic uint64_t again;
        /* The ring that follows. */
        _Alignas(4096) struct wh_out next_out;
        uint8_t next_ring[LINES * WH_LINE];
} mem;
static struct wh_ring_tx tx;
static struct wh_ring_rx rx;
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
        wh_ring_tx_init(&tx, &mem.out, &mem.back, capacity);
        wh_ring_rx_init(&rx, &mem.out, &mem.back, lines);
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
        tx.pos = rx.pos = tx.taken_lines = rx.published_lines = LINES - 2;
        tx.cleared = 2 * LINES - 2;
        mem.back.taken_lines = LINES - 2;
}

/* So small that every line is used again. */
static void init_lap(void)
{
        init_with(100, 4, 5);
        tx.usable = tx.cleared = 4; /* nothing is kept in reserve */
}

static uint32_t message(unsigned n, uint64_t *ret)
{
        /* Payloads look like heads, so that a stale one would be taken for a record. */
        uint32_t len = n % 2 ? 72 : 8;
        for (unsigned i = 0; i < len / 8; i++)
                ret[i] = wh_rec_head(WH_REC_PLAIN, 8, n + i / 2); /* what comes to lie on a line is 3 later */
        return len;
}

static void sender(void)
{
        for (unsigned n = 0; n < messages; n++) {
                uint64_t bytes[16];
                uint32_t len = message(n, bytes);
                void *body;
                while (!(body = wh_ring_reserve(&tx, len))) {
                        EXPLORE_CHECK(!tx.broken);
                        /* Announce, look again, sleep. */
                        wh_ring_want(&tx, true);
                        EXPLORE_CHECK(wh_ring_refresh(&tx));
                        body = wh_ring_reserve(&tx, len);
                        if (!body) {
                                if (explore_over(RECEIVER))
                                        return;
                                explore_sleep(1);
                        }
                        wh_ring_want(&tx, false);
                        if (body)
                                break;
                }
                wh_shm_copy(body, bytes, len);
                sent = n + 1;
                wh_ring_publish(&tx, WH_REC_PLAIN, len);
                if (wh_ring_must_ring(&tx))
                        explore_ring(0);
                wh_ring_clear_ahead(&tx);
        }
}

static bool receive_one(void)
{
        struct wh_rec rec;
        uint64_t bytes[WH_RECORD_BODY_MAX / 8], expect[16];
        int r = wh_ring_peek(&rx, &rec);
        EXPLORE_CHECK(r >= 0);
        if (r == 0)
                return false;
        uint32_t len = message(received, expect);
        EXPLORE_CHECK(rec.len == len);
        wh_shm_copy(bytes, rec.body, rec.len);
        EXPLORE_CHECK(!memcmp(bytes, expect, len));
        received++;
        if (wh_ring_advance(&rx, &rec))
                explore_ring(1);
        return true;
}

static void receiver(void)
{
        while (received < messages) {
                if (receive_one())
                        continue;
                if (wh_ring_sleep(&rx))
                        explore_ring(1);
                /* Asked before the last look: what it published before it died must be found by that. */
                bool over = explore_over(SENDER);
                if (!receive_one()) {
                        if (over)
                                return;
                        explore_sleep(0);
                }
                wh_ring_awake(&rx);
        }
}

static void check(uint32_t killed)
{
        if (killed & 1 << RECEIVER)
                return;
        /* The last may have been on its way when the sender died. */
        EXPLORE_CHECK(received == sent || ((killed & 1 << SENDER) && received + 1 == sent));
        EXPLORE_CHECK(killed || received == messages);
}

/* ---- offers (R7) ---- */

static bool impatient; /* the sender's deadline is now */
static enum wh_claim outcome[4];
static unsigned delivered[4], passed;

static void init_offers(void)
{
        init_with(16, LINES, 2);
        rx.batch_lines = 1;
        impatient = false;
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

/* Until it is taken; or withdrawn, where nobody is there any more. */
static enum wh_claim offer_wait(uint64_t number)
{
        enum wh_claim c;
        do {
                wh_ring_want(&tx, true);
                c = wh_ring_offer_state(&tx, number);
                EXPLORE_CHECK(c != 0);
                if (c == WH_CLAIM_OFFERED) {
                        if (explore_over(RECEIVER))
                                c = wh_ring_withdraw(&tx, number);
                        else
                                explore_sleep(1);
                }
                wh_ring_want(&tx, false);
        } while (c == WH_CLAIM_OFFERED);
        return c;
}

static void offerer(void)
{
        uint64_t block = 0;
        for (uint64_t n = 0; n < messages; n++) {
                uint64_t *body = wh_ring_reserve(&tx, 16), number = tx.records, bytes[] = {n, ~n}, rec[] = {n, block};
                EXPLORE_CHECK(body);
                wh_shm_copy(mem.block[block], bytes, sizeof bytes);
                atomic_store_explicit(&mem.again, n, memory_order_relaxed);
                wh_shm_copy(body, rec, sizeof rec);
                sent = (unsigned)n + 1;
                wh_ring_offer(&tx, 16);
                if (wh_ring_must_ring(&tx))
                        explore_ring(0);
                wh_ring_clear_ahead(&tx);
                outcome[n] = impatient ? wh_ring_withdraw(&tx, number) : offer_wait(number);
                EXPLORE_CHECK(outcome[n] == WH_CLAIM_TAKEN || outcome[n] == WH_CLAIM_WITHDRAWN);
                /* Taken: its place is used again, which is a race if it is still being read. */
                block += outcome[n] == WH_CLAIM_WITHDRAWN;
        }
}

/* The receiver copies, claims, and keeps the copy only if it may. */
static bool take_one(void)
{
        struct wh_rec rec;
        uint64_t is[2], bytes[2];
        int r = wh_ring_peek(&rx, &rec);
        EXPLORE_CHECK(r >= 0);
        if (r == 0)
                return false;
        EXPLORE_CHECK(rec.kind == WH_REC_OFFER && rec.len == sizeof is);
        uint64_t number = rx.records;
        if (wh_ring_still_offered(&rx, number)) {
                wh_shm_copy(is, rec.body, sizeof is);
                EXPLORE_CHECK(is[0] == number && is[1] < 4);
                wh_shm_copy(bytes, mem.block[is[1]], sizeof bytes);
                uint64_t again = atomic_load_explicit(&mem.again, memory_order_relaxed);
                if (wh_ring_claim(&rx, number)) {
                        delivered[number]++;
                        EXPLORE_CHECK(bytes[0] == number && bytes[1] == ~number && again == number);
                        if (wh_ring_wanted(&rx))
                                explore_ring(1);
                }
        }
        passed++;
        if (wh_ring_advance(&rx, &rec))
                explore_ring(1);
        return true;
}

static void taker(void)
{
        while (passed < messages) {
                if (take_one())
                        continue;
                if (wh_ring_sleep(&rx))
                        explore_ring(1);
                bool over = explore_over(SENDER);
                if (!take_one()) {
                        if (over)
                                return;
                        explore_sleep(0);
                }
                wh_ring_awake(&rx);
        }
}

/* Taken exactly when it was delivered, and once; withdrawn exactly when it was not. */
static void check_offers(uint32_t killed)
{
        unsigned all = 0;
        for (unsigned n = 0; n < messages; n++) {
                EXPLORE_CHECK(delivered[n] <= 1);
                EXPLORE_CHECK(outcome[n] != WH_CLAIM_TAKEN || delivered[n] == 1);
                EXPLORE_CHECK(outcome[n] != WH_CLAIM_WITHDRAWN || delivered[n] == 0);
                /* Of one that its sender knows nothing about only the sender's death is the reason. */
                EXPLORE_CHECK(outcome[n] != 0 || killed & 1 << SENDER);
                EXPLORE_CHECK(impatient || killed & 1 << RECEIVER || outcome[n] != WH_CLAIM_WITHDRAWN);
                all += delivered[n];
        }
        /* A sender that died while it offered has withdrawn nothing. */
        EXPLORE_CHECK(impatient || killed & 1 << RECEIVER || all == passed);
        EXPLORE_CHECK(killed || passed == messages);
}

/* ---- a ring follows upon a full one (R8) ---- */

static void init_next(void)
{
        init_with(INT64_MAX, 4, 4);
        memset(&mem.next_out, 0, sizeof mem.next_out + sizeof mem.next_ring);
        mem.next_out.ring_lines = LINES;
        tx.usable = tx.cleared = 3;
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
                void *body = wh_ring_reserve(&tx, len);
                if (!body) {
                        EXPLORE_CHECK(!tx.broken && tx.out == &mem.out);
                        EXPLORE_CHECK(wh_ring_reserve_kept(&tx));
                        wh_ring_publish(&tx, WH_REC_NEXT, 0);
                        if (wh_ring_must_ring(&tx))
                                explore_ring(0);
                        wh_ring_tx_continue(&tx, &mem.next_out);
                        body = wh_ring_reserve(&tx, len);
                        EXPLORE_CHECK(body);
                }
                wh_shm_copy(body, bytes, len);
                sent = n + 1;
                wh_ring_publish(&tx, WH_REC_PLAIN, len);
                if (wh_ring_must_ring(&tx))
                        explore_ring(0);
                wh_ring_clear_ahead(&tx);
        }
}

static bool follow_one(void)
{
        struct wh_rec rec;
        uint64_t bytes[2], expect[2];
        int r;
        while ((r = wh_ring_peek(&rx, &rec)) > 0 && rec.kind == WH_REC_NEXT) {
                EXPLORE_CHECK(rx.out == &mem.out);
                wh_ring_advance(&rx, &rec);
                wh_ring_rx_continue(&rx, &mem.next_out, LINES);
                wh_ring_idle(&rx); /* the memory behind is gone */
        }
        EXPLORE_CHECK(r >= 0);
        if (r == 0)
                return false;
        uint32_t len = line(received, expect);
        EXPLORE_CHECK(rec.kind == WH_REC_PLAIN && rec.len == len);
        wh_shm_copy(bytes, rec.body, len);
        EXPLORE_CHECK(!memcmp(bytes, expect, len));
        received++;
        if (wh_ring_advance(&rx, &rec))
                explore_ring(1);
        return true;
}

static void follower(void)
{
        while (received < messages) {
                if (follow_one())
                        continue;
                if (wh_ring_sleep(&rx))
                        explore_ring(1);
                bool over = explore_over(SENDER);
                if (!follow_one()) {
                        if (over)
                                return;
                        explore_sleep(0);
                }
                wh_ring_awake(&rx);
        }
}

#define BOTH .party = {receiver, sender}, .check = check
#define OFFERS .party = {taker, offerer}, .check = check_offers
#define GROWTH .party = {follower, grower}, .check = check
static const struct explore protocols[] = {
        {.name = "sleep", .init = init_roomy, .preemptions = 3, .stale = 2, .spurious = 1, BOTH},
        {.name = "room", .init = init_tight, .preemptions = 3, .stale = 2, .spurious = 1, BOTH},
        {.name = "wrap", .init = init_wrap, .preemptions = 2, .stale = 2, BOTH},
        {.name = "lap", .init = init_lap, .preemptions = 2, .stale = 2, BOTH},
        {.name = "killed", .init = init_roomy, .preemptions = 2, .stale = 1, .kills = 1, .mortal = 3, BOTH},
        {.name = "killed-tight", .init = init_tight, .preemptions = 1, .stale = 1, .kills = 1, .mortal = 3, BOTH},
        {.name = "offer", .init = init_offers, .preemptions = 2, .stale = 2, .spurious = 1, OFFERS},
        {.name = "withdraw", .init = init_impatient, .preemptions = 3, .stale = 1, .spurious = 1, OFFERS},
        {.name = "offer-killed", .init = init_offers, .preemptions = 1, .stale = 1, .kills = 1, .mortal = 3, OFFERS},
        {.name = "withdraw-killed", .init = init_impatient, .preemptions = 2, .kills = 1, .mortal = 3, OFFERS},
        {.name = "next", .init = init_next, .preemptions = 2, .stale = 1, .spurious = 1, GROWTH},
        {.name = "next-killed", .init = init_next, .preemptions = 1, .stale = 1, .kills = 1, .mortal = 3, GROWTH},
};

int main(int argc, char **argv)
{
        bool quick = false, bad = false;
        uint64_t seed = (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32, executions = 0;
        unsigned n = 0, complete = 0;
        for (int i = 1; i < argc; i++) {
                quick |= !strcmp(argv[i], "--quick");
                if (!strncmp(argv[i], "--seed=", 7))
                        seed = strtoull(argv[i] + 7, NULL, 0);
        }
        for (; n < sizeof protocols / sizeof *protocols; n++) {
                struct explore e = protocols[n];
                struct explored r;
                e.executions_max = quick ? 30000 : 3000000;
                e.executions_random = quick ? 5000 : 500000;
                explore_run(&e, seed, &r);
                executions += r.executions;
                complete += r.complete;
                if (getenv("WHARF_TEST_VERBOSE"))
                        fprintf(stderr, "explore lane: %s: executions %" PRIu64 "%s\n", e.name, r.executions,
                                r.complete ? ", complete" : "");
                if (r.failed) {
                        bad = true;
                        fprintf(stderr, "explore lane: %s: %s\n    seed %" PRIu64 ", choices %s\n", e.name, r.why, seed,
                                r.replay);
                }
        }
        printf("explore lane: protocols %u, executions %" PRIu64 ", complete %u%s\n", n, executions, complete,
               bad ? ", FAILED" : "");
        return bad;
}
