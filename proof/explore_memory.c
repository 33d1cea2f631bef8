/*
 * What src/memory shares without a lock: a circular buffer, a semaphore, an event, a heap's roots, and memory that is
 * formatted while another opens it. Sleeping is the parties' own: futexes are not modelled, so nothing here waits.
 */
#include "explore/explore.h"
#include "wharf/buffer.h"
#include "wharf/heap.h"
#include "wharf/sync.h"

#include <errno.h>
#include <string.h>

enum { READER = 0, WRITER = 1, ITEMS = 3, PLACES = 2, HEAP = 16 << 10 };

static struct {
        _Alignas(4096) uint8_t buffer[1024];
        _Alignas(64) uint8_t heap[HEAP];
        wharf_sem sem;
        wharf_event event;
        uint64_t plain;
} mem;
static wharf_buffer *buffer;
static wharf_heap *heap;
static bool put[ITEMS]; /* private, to end with */

static void init(void)
{
        static bool shared;
        if (!shared)
                hook_share(&mem, sizeof mem);
        shared = true;
        buffer = wharf_buffer_close(buffer);
        heap = wharf_heap_close(heap);
        memset(&mem, 0, sizeof mem);
        memset(put, 0, sizeof put);
}

static void must(int r)
{
        if (r < 0)
                explore_fail("refused: %s", strerrorname_np(-r));
}

/* ---- a circular buffer: one puts, one gets, and no lock ---- */

static const struct wharf_buffer_opts buffer_opts = {
        .size = sizeof buffer_opts, .kind = WHARF_BUFFER_CIRCULAR, .places = PLACES, .item_bytes_max = 16};

static void init_buffer(void)
{
        init();
        must(wharf_buffer_format(mem.buffer, sizeof mem.buffer, &buffer_opts));
        must(wharf_buffer_open(mem.buffer, sizeof mem.buffer, &buffer));
        uint64_t item[2] = {0, 0};
        must(wharf_buffer_put(buffer, item, sizeof item, 0)); /* the seats are taken */
        must((int)wharf_buffer_get(buffer, item, sizeof item, 0));
}

static void producer(void)
{
        for (uint64_t n = 0; n < ITEMS; n++) {
                uint64_t item[2] = {n, ~n};
                int r;
                while ((r = wharf_buffer_put(buffer, item, sizeof item, 0)) == -EAGAIN)
                        explore_sleep(WRITER);
                must(r);
                explore_ring(READER);
        }
}

static void consumer(void)
{
        for (uint64_t n = 0; n < ITEMS; n++) {
                uint64_t item[2];
                int64_t r;
                while ((r = wharf_buffer_get(buffer, item, sizeof item, 0)) == -EAGAIN)
                        explore_sleep(READER);
                must((int)r);
                EXPLORE_CHECK(r == sizeof item && item[0] == n && item[1] == ~n);
                explore_ring(WRITER);
        }
}

/* ---- a semaphore hands over what was written before it was given ---- */

static void init_sem(void)
{
        init();
        must(wharf_sem_init(&mem.sem, 0, 0));
}

static void giver(void)
{
        mem.plain = 42;
        must(wharf_sem_give(&mem.sem));
}

static void taker(void)
{
        if (wharf_sem_take(&mem.sem, 0) == 0)
                EXPLORE_CHECK(mem.plain == 42);
}

/* ---- an event: whoever has the new key sees what changed ---- */

static void waker(void)
{
        mem.plain = 42;
        wharf_event_wake(&mem.event);
}

static void looker(void)
{
        if (wharf_event_key(&mem.event))
                EXPLORE_CHECK(mem.plain == 42);
}

/* ---- a root leads to what is whole ---- */

static void init_root(void)
{
        init();
        struct wharf_heap_opts o = {.size = sizeof o, .policy = WHARF_HEAP_BEST_FIT, .owners_max = 4};
        must(wharf_heap_format(mem.heap, sizeof mem.heap, &o));
        must(wharf_heap_open(mem.heap, sizeof mem.heap, &heap));
}

static void root_setter(void)
{
        mem.plain = 42;
        must(wharf_heap_root_set(heap, 1, 0, 64));
}

static void root_user(void)
{
        uint64_t at;
        must(wharf_heap_root(heap, 1, &at));
        if (at)
                EXPLORE_CHECK(at == 64 && mem.plain == 42);
}

/* ---- memory is formatted while another opens it: all of it is there, or nothing ---- */

static void buffer_formatter(void)
{
        must(wharf_buffer_format(mem.buffer, sizeof mem.buffer, &buffer_opts));
}

static void buffer_opener(void)
{
        int r = wharf_buffer_open(mem.buffer, sizeof mem.buffer, &buffer);
        EXPLORE_CHECK(r == 0 || r == -EUCLEAN);
}

static void heap_formatter(void)
{
        struct wharf_heap_opts o = {.size = sizeof o, .policy = WHARF_HEAP_BEST_FIT, .owners_max = 1};
        must(wharf_heap_format(mem.heap, sizeof mem.heap, &o));
}

static void heap_opener(void)
{
        int r = wharf_heap_open(mem.heap, sizeof mem.heap, &heap);
        EXPLORE_CHECK(r == 0 || r == -EUCLEAN);
}

#define BOUNDS .preemptions = 3, .stale = 3
static const struct explore protocols[] = {
        {.name = "circular",
         .init = init_buffer,
         .preemptions = 2,
         .stale = 2,
         .spurious = 1,
         .party = {consumer, producer}},
        {.name = "semaphore", .init = init_sem, BOUNDS, .party = {taker, giver}},
        {.name = "event", .init = init, BOUNDS, .party = {looker, waker}},
        {.name = "root", .init = init_root, BOUNDS, .party = {root_user, root_setter}},
        {.name = "buffer-made", .init = init, .preemptions = 1, .stale = 1, .party = {buffer_opener, buffer_formatter}},
        {.name = "heap-made",
         .init = init,
         .preemptions = 1,
         .stale = 1,
         .share = 10,
         .party = {heap_opener, heap_formatter}},
};

int main(int argc, char **argv)
{
        return explore_main("memory", protocols, sizeof protocols / sizeof *protocols, argc, argv);
}
