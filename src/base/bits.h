/*
 * bits - powers of two, rounding, and sums that say when they overflow. Sizes are in bytes unless a name says so.
 */
#ifndef WH_BASE_BITS_H
#define WH_BASE_BITS_H

#include <stdbool.h>
#include <stdint.h>

#define WH_CACHE_LINE 64
#define WH_PAGE 4096
#define WH_ALIGNED(n) __attribute__((aligned(n)))

#define wh_likely(x) __builtin_expect(!!(x), 1)
#define wh_unlikely(x) __builtin_expect(!!(x), 0)

static inline bool wh_is_pow2(uint64_t v)
{
        return v && !(v & (v - 1));
}

/* The largest k with 2^k <= v; v > 0. */
static inline unsigned wh_log2_floor(uint64_t v)
{
        return 63u - (unsigned)__builtin_clzll(v);
}

/* The smallest k with 2^k >= v; v > 0. */
static inline unsigned wh_log2_ceil(uint64_t v)
{
        return v <= 1 ? 0 : 64u - (unsigned)__builtin_clzll(v - 1);
}

static inline uint64_t wh_pow2_ceil(uint64_t v)
{
        return (uint64_t)1 << wh_log2_ceil(v);
}

/* `align` is a power of two; v + align - 1 must not overflow. */
static inline uint64_t wh_round_up(uint64_t v, uint64_t align)
{
        return (v + align - 1) & ~(align - 1);
}

/* False, and *ret untouched, when the sum does not fit. */
static inline bool wh_add(uint64_t a, uint64_t b, uint64_t *ret)
{
        uint64_t s;
        if (__builtin_add_overflow(a, b, &s))
                return false;
        *ret = s;
        return true;
}

/* Does [offset, offset + len) lie inside [0, limit)? Safe for any values: another process may have chosen them. */
static inline bool wh_inside(uint64_t offset, uint64_t len, uint64_t limit)
{
        return offset <= limit && len <= limit - offset;
}

/* Ask for a cache line that will be written soon. */
static inline void wh_prefetch_write(const void *p)
{
#if defined(__x86_64__)
        __asm__ __volatile__("prefetchw %0" : : "m"(*(const char *)p));
#else
        __builtin_prefetch(p, 1);
#endif
}

/* Tells the core that we spin. */
static inline void wh_relax(void)
{
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ __volatile__("yield");
#endif
}

#endif
