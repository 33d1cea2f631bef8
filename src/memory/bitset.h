/*
 * bitset - a set of small numbers as a tree of bitmaps: a bit above says that the word below is not zero. Insert,
 * remove, first, next and previous take one step a level, and a level is a factor of 64.
 *
 * The words may lie in shared memory. The structure itself is private and holds all the bounds, so whatever the words
 * say, no answer lies outside the set and no access outside the words:
 *   S1  level[k] bit i is set if and only if word i of level[k-1] is not zero (broken by a death: clear and refill)
 */
#ifndef WH_MEMORY_BITSET_H
#define WH_MEMORY_BITSET_H

#include "base/bits.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WH_BITSET_LEVELS 6 /* 64^6 numbers are more than 2^32 */
#define WH_BITSET_NONE UINT64_MAX

struct wh_bitset {
        uint64_t *level[WH_BITSET_LEVELS]; /* [0] has a bit for each number; borrowed */
        uint64_t n;                        /* members are below it */
        unsigned levels;
};

/* How many words a set of numbers below n takes. */
static inline uint64_t wh_bitset_words(uint64_t n)
{
        uint64_t sum = 0;
        do {
                n = (n + 63) / 64;
                sum += n;
        } while (n > 1);
        return sum;
}

/* Lays the set over words that are there; does not change them. n > 0. */
static inline void wh_bitset_init(struct wh_bitset *s, uint64_t n, uint64_t *words)
{
        *s = (struct wh_bitset){.n = n};
        do {
                n = (n + 63) / 64;
                s->level[s->levels++] = words;
                words += n;
        } while (n > 1);
}

static inline void wh_bitset_clear(struct wh_bitset *s)
{
        memset(s->level[0], 0, wh_bitset_words(s->n) * sizeof(uint64_t));
}

static inline bool wh_bitset_has(const struct wh_bitset *s, uint64_t i)
{
        return s->level[0][i / 64] >> (i % 64) & 1;
}

static inline void wh_bitset_insert(struct wh_bitset *s, uint64_t i)
{
        for (unsigned l = 0; l < s->levels; l++, i /= 64) {
                uint64_t was = s->level[l][i / 64];
                s->level[l][i / 64] = was | (uint64_t)1 << (i % 64);
                if (was)
                        return;
        }
}

static inline void wh_bitset_remove(struct wh_bitset *s, uint64_t i)
{
        for (unsigned l = 0; l < s->levels; l++, i /= 64) {
                uint64_t is = s->level[l][i / 64] & ~((uint64_t)1 << (i % 64));
                s->level[l][i / 64] = is;
                if (is)
                        return;
        }
}

static inline bool wh_bitset_empty(const struct wh_bitset *s)
{
        return !s->level[s->levels - 1][0];
}

/* From a set bit of level l down to a member: the lowest one below it, or the highest. NONE when S1 is broken. */
static inline uint64_t wh_bitset_descend(const struct wh_bitset *s, unsigned l, uint64_t i, bool highest)
{
        while (l > 0) {
                l--;
                uint64_t words = l ? ((s->n - 1) >> (6 * l)) / 64 + 1 : (s->n - 1) / 64 + 1;
                uint64_t w = i < words ? s->level[l][i] : 0;
                if (!w)
                        return WH_BITSET_NONE;
                i = i * 64 + (highest ? wh_log2_floor(w) : (unsigned)__builtin_ctzll(w));
        }
        return i < s->n ? i : WH_BITSET_NONE;
}

/* The lowest member >= from. */
static inline uint64_t wh_bitset_next(const struct wh_bitset *s, uint64_t from)
{
        if (from >= s->n)
                return WH_BITSET_NONE;
        uint64_t i = from;
        for (unsigned l = 0; l < s->levels; l++) {
                uint64_t words = ((s->n - 1) >> (6 * l)) / 64 + 1;
                if (i / 64 >= words)
                        return WH_BITSET_NONE;
                uint64_t w = s->level[l][i / 64] >> (i % 64);
                if (w)
                        return wh_bitset_descend(s, l, i + (unsigned)__builtin_ctzll(w), false);
                i = i / 64 + 1;
        }
        return WH_BITSET_NONE;
}

/* The highest member <= from. */
static inline uint64_t wh_bitset_prev(const struct wh_bitset *s, uint64_t from)
{
        uint64_t i = from < s->n ? from : s->n - 1;
        for (unsigned l = 0; l < s->levels; l++) {
                uint64_t w = s->level[l][i / 64] << (63 - i % 64);
                if (w)
                        return wh_bitset_descend(s, l, i - (unsigned)__builtin_clzll(w), true);
                if (i / 64 == 0)
                        return WH_BITSET_NONE;
                i = i / 64 - 1;
        }
        return WH_BITSET_NONE;
}

static inline uint64_t wh_bitset_first(const struct wh_bitset *s)
{
        uint64_t w = s->level[s->levels - 1][0];
        return w ? wh_bitset_descend(s, s->levels - 1, (unsigned)__builtin_ctzll(w), false) : WH_BITSET_NONE;
}

#endif
