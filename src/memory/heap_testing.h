/*
 * heap_testing - what the tests of heaps have in common.
 */
#ifndef WH_MEMORY_HEAP_TESTING_H
#define WH_MEMORY_HEAP_TESTING_H

#include "memory/heap_impl.h"
#include "os/os.h"
#include "test.h"

#include <sys/mman.h>

#define LEN (1 << 20)

static inline const struct wharf_heap_opts *opts(uint32_t policy, uint64_t managed, uint32_t unit, uint32_t flags)
{
        static struct wharf_heap_opts o;
        o = (struct wharf_heap_opts){.size = sizeof o, .policy = policy, .managed_bytes = managed, .unit_bytes = unit};
        o.flags = flags;
        o.n_partitions = policy == WHARF_HEAP_FIXED ? 32 : 0;
        o.owners_max = o.waiters_max = 8;
        return &o;
}

static inline wharf_heap *make_at(void *base, uint64_t len, const struct wharf_heap_opts *o)
{
        wharf_heap *h;
        CHECK_EQ(wharf_heap_format(base, len, o), 0);
        CHECK_EQ(wharf_heap_open(base, len, &h), 0);
        return h;
}

static inline wharf_heap *make_heap(uint32_t policy, uint64_t managed, uint32_t unit, uint32_t flags)
{
        return make_at(test_shared(LEN), LEN, opts(policy, managed, unit, flags));
}

static inline uint64_t get(wharf_heap *h, uint64_t bytes)
{
        uint64_t off;
        CHECK_EQ(wharf_heap_alloc(h, bytes, 0, 0, 0, &off), 0);
        return off;
}

static inline struct wharf_heap_figures figures(wharf_heap *h)
{
        struct wharf_heap_figures f;
        CHECK_EQ(wharf_heap_figures(h, &f), 0);
        CHECK_EQ(f.used_bytes + f.free_bytes + f.cached_bytes, f.managed_bytes);
        return f;
}

static inline int64_t in_ms(int64_t ms)
{
        return wh_os_now_ns() + ms * 1000000;
}

struct live_block {
        uint64_t off, bytes;
        uint8_t fill;
};

static inline void fill(wharf_heap *h, const struct live_block *b)
{
        void *p = wharf_heap_at(h, b->off, b->bytes);
        CHECK(p != NULL);
        memset(p, b->fill, b->bytes);
}

static inline void check_fill(wharf_heap *h, const struct live_block *b, uint64_t n)
{
        uint8_t *p = wharf_heap_at(h, b->off, n);
        CHECK(p != NULL);
        for (uint64_t i = 0; i < n; i++)
                if (p[i] != b->fill)
                        test_fail(__FILE__, __LINE__, "byte %llu of block %llu was overwritten", (unsigned long long)i,
                                  (unsigned long long)b->off);
}

/* WHARF_TEST_FULL=1 runs fifty times as many random operations. */
static inline unsigned long operations(unsigned long quick)
{
        const char *full = getenv("WHARF_TEST_FULL");
        return full && *full && *full != '0' ? quick * 50 : quick;
}

#endif
