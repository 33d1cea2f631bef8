/*
 * The words of src/task that are shared without a lock, each with the code that reads and writes them: the page on which a
 * task says what it waits for, and the table of names, which threads of one process look into while others change it.
 */
#include "explore/explore.h"
#include "task/table.h"
#include "task/waits.h"
#include "wharf/names.h"

#include <string.h>

static struct {
        _Alignas(4096) struct wh_task_page page;
} mem;

static void share(void *at, size_t len)
{
        hook_unshare(at, len);
        hook_share(at, len);
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
