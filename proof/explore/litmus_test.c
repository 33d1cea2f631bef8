/*
 * The explorer on what is published about the model: small programs whose outcomes are known to be allowed or
 * forbidden, and small mistakes that it must find.
 */
#include "explore.h"

#include "test.h"

#include <stdatomic.h>

static struct memory {
        _Atomic int x, y, z;
        int data;
        _Alignas(64) char end;
} mem;
static int r[4];
static uint32_t outcomes; /* a bit for each value of the first three results, each 0 or 1, and of r[3] */
static memory_order store_order, load_order;
static bool with_fence;

static void init(void)
{
        static bool shared;
        if (!shared)
                hook_share(&mem, sizeof mem);
        shared = true;
        mem = (struct memory){0};
        memset(r, 0, sizeof r);
}

static void note(uint32_t killed)
{
        outcomes |= 1u << (r[0] | r[1] << 1 | r[2] << 2 | r[3] << 3);
}

static int load(_Atomic int *p)
{
        return atomic_load_explicit(p, load_order);
}

static void store(_Atomic int *p)
{
        atomic_store_explicit(p, 1, store_order);
}

static void full_fence(void)
{
        if (with_fence)
                atomic_thread_fence(memory_order_seq_cst);
}

static struct explored run(void (*a)(void), void (*b)(void), void (*c)(void), void (*d)(void))
{
        struct explored e;
        outcomes = 0;
        explore_run(&(struct explore){.init = init,
                                      .party = {a, b, c, d},
                                      .check = note,
                                      .preemptions = 4,
                                      .stale = 4,
                                      .executions_max = 200000},
                    1, &e);
        return e;
}

static bool seen(struct explored e, unsigned outcome)
{
        if (e.failed)
                printf("%s\n", e.why);
        CHECK(!e.failed && e.complete);
        return outcomes >> outcome & 1;
}

static void sb_a(void)
{
        store(&mem.x);
        full_fence();
        r[0] = load(&mem.y);
}

static void sb_b(void)
{
        store(&mem.y);
        full_fence();
        r[1] = load(&mem.x);
}

TEST(store_buffering)
{
        with_fence = false;
        store_order = memory_order_release, load_order = memory_order_acquire;
        CHECK(seen(run(sb_a, sb_b, NULL, NULL), 0));
        CHECK(seen(run(sb_a, sb_b, NULL, NULL), 3));
        with_fence = true;
        CHECK(!seen(run(sb_a, sb_b, NULL, NULL), 0));
        with_fence = false;
        store_order = load_order = memory_order_seq_cst;
        CHECK(!seen(run(sb_a, sb_b, NULL, NULL), 0));
}

static void mp_a(void)
{
        atomic_store_explicit(&mem.x, 1, memory_order_relaxed);
        store(&mem.y);
}

static void mp_b(void)
{
        r[0] = load(&mem.y);
        r[1] = atomic_load_explicit(&mem.x, memory_order_relaxed);
}

static void mp_fenced_a(void)
{
        atomic_store_explicit(&mem.x, 1, memory_order_relaxed);
        atomic_thread_fence(memory_order_release);
        atomic_store_explicit(&mem.y, 1, memory_order_relaxed);
}

static void mp_fenced_b(void)
{
        r[0] = atomic_load_explicit(&mem.y, memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
        r[1] = atomic_load_explicit(&mem.x, memory_order_relaxed);
}

/* The flag seen (1), the data not (2): outcome 1. */
TEST(message_passing)
{
        store_order = load_order = memory_order_relaxed;
        CHECK(seen(run(mp_a, mp_b, NULL, NULL), 1));
        store_order = memory_order_release;
        CHECK(seen(run(mp_a, mp_b, NULL, NULL), 1));
        load_order = memory_order_acquire;
        CHECK(!seen(run(mp_a, mp_b, NULL, NULL), 1));
        CHECK(seen(run(mp_a, mp_b, NULL, NULL), 3));
        store_order = memory_order_relaxed;
        CHECK(seen(run(mp_a, mp_b, NULL, NULL), 1));
        CHECK(!seen(run(mp_fenced_a, mp_fenced_b, NULL, NULL), 1));
}

static void lb_a(void)
{
        r[0] = load(&mem.x);
        store(&mem.y);
}

static void lb_b(void)
{
        r[1] = load(&mem.y);
        store(&mem.x);
}

/*
 * Both loads see the other's later store: allowed by C11 for relaxed accesses, forbidden by RC11, not modelled
 * (explore.E2).
 */
TEST(load_buffering_is_not_modelled)
{
        store_order = load_order = memory_order_relaxed;
        CHECK(!seen(run(lb_a, lb_b, NULL, NULL), 3));
        CHECK(seen(run(lb_a, lb_b, NULL, NULL), 0));
}

static void iriw_a(void)
{
        store(&mem.x);
}

static void iriw_b(void)
{
        store(&mem.y);
}

static void iriw_c(void)
{
        r[0] = load(&mem.x);
        full_fence();
        r[1] = load(&mem.y);
}

static void iriw_d(void)
{
        r[2] = load(&mem.y);
        full_fence();
        r[3] = load(&mem.x);
}

/* Two readers see two independent stores in opposite orders: r = 1, 0, 1, 0. */
TEST(independent_reads_of_independent_writes)
{
        with_fence = false;
        store_order = memory_order_release, load_order = memory_order_acquire;
        CHECK(seen(run(iriw_a, iriw_b, iriw_c, iriw_d), 1 | 4));
        with_fence = true;
        CHECK(!seen(run(iriw_a, iriw_b, iriw_c, iriw_d), 1 | 4));
}

static void co_b(void)
{
        r[0] = atomic_load_explicit(&mem.x, memory_order_relaxed);
        r[1] = atomic_load_explicit(&mem.x, memory_order_relaxed);
}

/* A location never goes back: once new, never old again. */
TEST(coherence)
{
        store_order = memory_order_relaxed;
        struct explored e = run(iriw_a, co_b, NULL, NULL);
        CHECK(!seen(e, 1));
        CHECK(seen(e, 0) && seen(e, 2) && seen(e, 3));
}

static void add(void)
{
        atomic_fetch_add_explicit(&mem.z, 1, memory_order_relaxed);
}

static void sum_is_three(uint32_t killed)
{
        EXPLORE_CHECK(mem.z == 3);
}

TEST(additions_are_not_lost)
{
        struct explored e;
        explore_run(&(struct explore){.init = init,
                                      .party = {add, add, add},
                                      .check = sum_is_three,
                                      .preemptions = 6,
                                      .stale = 6,
                                      .executions_max = 100000},
                    1, &e);
        CHECK(!e.failed && e.complete);
        CHECK_GE(e.executions, 6);
}

static void race_a(void)
{
        mem.data = 7;
        store(&mem.y);
}

static void race_b(void)
{
        if (load(&mem.y))
                EXPLORE_CHECK(mem.data == 7);
}

TEST(a_data_race_is_found)
{
        store_order = memory_order_release, load_order = memory_order_acquire;
        CHECK(!run(race_a, race_b, NULL, NULL).failed);
        load_order = memory_order_relaxed;
        struct explored e = run(race_a, race_b, NULL, NULL);
        CHECK(e.failed && strstr(e.why, "data race"));
        store_order = memory_order_relaxed, load_order = memory_order_acquire;
        CHECK(run(race_a, race_b, NULL, NULL).failed);
}

/* x: there is something; y: somebody sleeps. */
static void waker(void)
{
        atomic_store_explicit(&mem.x, 1, memory_order_release);
        full_fence();
        if (atomic_load_explicit(&mem.y, memory_order_relaxed))
                explore_ring(0);
}

static void waiter(void)
{
        while (!atomic_load_explicit(&mem.x, memory_order_acquire)) {
                atomic_store_explicit(&mem.y, 1, memory_order_relaxed);
                full_fence();
                if (!atomic_load_explicit(&mem.x, memory_order_acquire))
                        explore_sleep(0);
                atomic_store_explicit(&mem.y, 0, memory_order_relaxed);
        }
}

TEST(a_lost_wake_up_is_found)
{
        with_fence = true;
        CHECK(!run(waker, waiter, NULL, NULL).failed);
        with_fence = false;
        struct explored e = run(waker, waiter, NULL, NULL);
        CHECK(e.failed && strstr(e.why, "nobody will ever wake it"));
}
