/*
 * The wait protocol and the ring of a lane under every interleaving within bounds and every value a load may return: a
 * receiver that sleeps and a sender that rings; a sender that waits for room; either of them killed.
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

#define BOTH .party = {receiver, sender}, .check = check
static const struct explore protocols[] = {
        {.name = "sleep", .init = init_roomy, .preemptions = 3, .stale = 2, .spurious = 1, BOTH},
        {.name = "room", .init = init_tight, .preemptions = 3, .stale = 2, .spurious = 1, BOTH},
        {.name = "wrap", .init = init_wrap, .preemptions = 2, .stale = 2, BOTH},
        {.name = "lap", .init = init_lap, .preemptions = 2, .stale = 2, BOTH},
        {.name = "killed", .init = init_roomy, .preemptions = 2, .stale = 1, .kills = 1, .mortal = 3, BOTH},
        {.name = "killed-tight", .init = init_tight, .preemptions = 1, .stale = 1, .kills = 1, .mortal = 3, BOTH},
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
