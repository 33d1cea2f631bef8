/*
 * The words of src/link and src/port that are shared without a lock, each with the code that reads and writes them: the word of a
 * direct transfer, the page on which a task says what it waits for, and the table of names, which threads of one
 * process look into while others change it.
 */
#include "explore/explore.h"
#include "lane/lane.h"
#include "link/direct.h"
#include "task/table.h"
#include "task/waits.h"
#include "wharf/names.h"

#include <errno.h>
#include <string.h>

enum { READER = 0, WRITER = 1 };

static struct {
        _Alignas(4096) struct wh_back back;
        uint64_t payload[2]; /* in the sender's address space */
        _Atomic uint64_t told;
        struct wh_task_page page;
} mem;

static void share(void *at, size_t len)
{
        hook_unshare(at, len);
        hook_share(at, len);
}

/* ---- direct: an offer is taken, or withdrawn; its bytes are read before they change (direct.V1, V2) ---- */

static struct wh_lane_tx lane_tx;
static struct wh_lane_rx lane_rx;
static struct wh_link from, to;
static bool impatient, withdrawn[4], taken[4];
enum { OFFERS = 2 };

static void init_direct(void)
{
        memset(&mem, 0, sizeof mem);
        share(&mem.back, sizeof mem.back + sizeof mem.payload + sizeof mem.told);
        lane_tx.ring.back = &mem.back;
        lane_rx.ring.back = &mem.back;
        from.out.lane = &lane_tx;
        to.in.lane = &lane_rx;
        impatient = false;
        memset(withdrawn, 0, sizeof withdrawn);
        memset(taken, 0, sizeof taken);
}

static void init_impatient(void)
{
        init_direct();
        impatient = true;
}

static void offerer(void)
{
        for (uint64_t n = 1; n <= OFFERS; n++) {
                mem.payload[0] = n;
                mem.payload[1] = ~n;
                wh_direct_offer(&from, n);
                /* The record that tells of it, as wh_ring_publish() does. */
                atomic_store_explicit(&mem.told, n, memory_order_release);
                explore_ring(READER);
                int refused = 0, r = impatient ? wh_direct_withdraw(&from, n) : wh_direct_look(&from, n, &refused);
                while (r == -EAGAIN) {
                        explore_sleep(WRITER);
                        r = wh_direct_look(&from, n, &refused);
                }
                EXPLORE_CHECK(refused == 0 && (r == 0 || (impatient && r == -ECANCELED)));
                withdrawn[n] = r < 0;
                if (r < 0) /* the receiver may be reading still, and throws it away: here that would be a race */
                        return;
        }
}

static void taker(void)
{
        for (uint64_t n = 1; n <= OFFERS; n++) {
                while (atomic_load_explicit(&mem.told, memory_order_acquire) != n) {
                        if (explore_over(WRITER) && atomic_load_explicit(&mem.told, memory_order_acquire) != n)
                                return;
                        explore_may_rest();
                        explore_sleep(READER);
                }
                uint64_t bytes[2];
                wh_shm_copy(bytes, mem.payload, sizeof bytes);
                if ((taken[n] = wh_direct_claim(&to, n, 0)))
                        EXPLORE_CHECK(bytes[0] == n && bytes[1] == ~n);
                explore_ring(WRITER);
        }
}

static void check_direct(uint32_t killed)
{
        (void)killed;
        for (unsigned n = 1; n <= OFFERS; n++)
                EXPLORE_CHECK(!(taken[n] && withdrawn[n]) && (impatient || taken[n]));
}

/* ---- the page of waits: what is read whole was so at one moment (waits.W3) ---- */

static struct wh_waits waits;
static int64_t since[4];
enum { WAITS = 2 };

static unsigned begin(uint32_t n)
{
        unsigned slot = wh_waits_begin(&waits, (enum wharf_waits_for)n, n, n, n, n, n);
        since[n] = atomic_load_explicit(&mem.page.waits[0].since_ns, memory_order_relaxed);
        return slot;
}

/* The first wait has begun. */
static void init_waits(void)
{
        memset(&mem, 0, sizeof mem);
        memset(since, 0, sizeof since);
        share(&mem.page.waits[0], sizeof mem.page.waits[0]);
        waits = (struct wh_waits){.page = &mem.page};
        begin(1);
}

static void waiter(void)
{
        for (uint32_t n = 2; n <= WAITS + 1; n++) {
                wh_waits_end(&waits, 0);
                if (n <= WAITS)
                        begin(n);
        }
}

static void onlooker(void)
{
        struct wh_task_view view;
        wh_task_page_read(&mem.page, &view);
        uint64_t g = view.waits[0].generation, n = g / 2;
        if (!g)
                return;
        EXPLORE_CHECK(g % 2 == 1 && n >= 1 && n <= WAITS);
        EXPLORE_CHECK(view.waits[0].port_id == n);
        EXPLORE_CHECK(view.waits[0].since_ns && (!since[n] || view.waits[0].since_ns == since[n]));
        EXPLORE_CHECK(view.waits[0].deadline_ns == (int64_t)n);
        EXPLORE_CHECK(view.waits[0].what == n);
        EXPLORE_CHECK(view.waits[0].inbox == n);
        EXPLORE_CHECK(view.waits[0].peer == n);
        EXPLORE_CHECK(view.waits[0].flags == n);
}

/* ---- the table of names, between threads: an object that is found is all there ---- */

static struct {
        _Alignas(64) struct wh_object first, second;
        uint64_t inside; /* of the second */
} objects;
static struct wh_table table;

static void init_table(void)
{
        wh_table_done(&table);
        memset(&table, 0, sizeof table);
        memset(&objects, 0, sizeof objects);
        if (wh_table_add(&table, &objects.first) < 0)
                explore_fail("no memory");
        struct wh_entry *chunk = atomic_load_explicit(&table.chunk[0], memory_order_relaxed);
        share(chunk, 8 * sizeof *chunk);
        share(&objects, sizeof objects);
}

static void adder(void)
{
        objects.inside = 42;
        EXPLORE_CHECK(wh_table_add(&table, &objects.second) == 0);
}

static void finder(void)
{
        /* The name that it will have: whoever guesses finds nothing, or all of it. */
        uint32_t first = atomic_load_explicit(&objects.first.name, memory_order_relaxed);
        struct wh_object *o = wh_table_find(&table, first + 1);
        if (o)
                EXPLORE_CHECK(o == &objects.second && objects.inside == 42);
}

static void check_table(uint32_t killed)
{
        (void)killed;
        hook_unshare(atomic_load_explicit(&table.chunk[0], memory_order_relaxed), 8 * sizeof(struct wh_entry));
}

static const struct explore protocols[] = {
        {.name = "direct",
         .init = init_direct,
         .preemptions = 3,
         .stale = 2,
         .spurious = 1,
         .party = {taker, offerer},
         .check = check_direct},
        {.name = "direct-withdrawn",
         .init = init_impatient,
         .preemptions = 3,
         .stale = 2,
         .party = {taker, offerer},
         .check = check_direct},
        {.name = "waits", .init = init_waits, .preemptions = 2, .stale = 2, .party = {onlooker, waiter}, .check = NULL},
        {.name = "names",
         .init = init_table,
         .preemptions = 3,
         .stale = 3,
         .party = {finder, adder},
         .check = check_table},
};

int main(int argc, char **argv)
{
        return explore_main("words", protocols, sizeof protocols / sizeof *protocols, argc, argv);
}
