/*
 * fuzz - inputs that a coverage-guided fuzzer makes up, put to the code that reads them.
 *
 * A target is one file, fuzz_NAME.c, with two functions. One input is one world: fuzz_one() makes a task, a port or
 * whatever reads, does what the input says, and gives all back; afterwards the next free descriptor is the same as
 * before, or that is a leak and the input a finding. What the sanitizers, an assertion, the clock or the count of
 * descriptors object to is a finding, and its input goes into corpus/NAME for good.
 *
 * An input is never a dump of what lies on a wire: it is a small program in the target's own words (a datagram with
 * these descriptors; now receive; now send), so that descriptors, which are no bytes, can be part of it, and so that a
 * mutation of one step leaves the others as they were.
 */
#ifndef PROOF_FUZZ_H
#define PROOF_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct fuzz_in {
        const uint8_t *at, *end;
};

static inline bool fuzz_more(const struct fuzz_in *in)
{
        return in->at < in->end;
}
/* The end of an input reads as zeros. */
static inline uint8_t fuzz_u8(struct fuzz_in *in)
{
        return fuzz_more(in) ? *in->at++ : 0;
}
static inline uint32_t fuzz_u16(struct fuzz_in *in)
{
        uint32_t low = fuzz_u8(in);
        return low | (uint32_t)fuzz_u8(in) << 8;
}
/* The next `len` bytes, or what is left; they are borrowed from the input. */
static inline const uint8_t *fuzz_bytes(struct fuzz_in *in, size_t len, size_t *ret_len)
{
        const uint8_t *at = in->at;
        size_t left = (size_t)(in->end - in->at);
        *ret_len = len < left ? len : left;
        in->at += *ret_len;
        return at;
}
/* Overwrites bytes of `area` as the input says: where (16 bits, in units of `unit`), how many, which. */
static inline void fuzz_patch(struct fuzz_in *in, uint8_t *area, size_t area_len, size_t unit)
{
        size_t at = fuzz_u16(in) * unit, len = 1 + fuzz_u8(in) % 32u, n;
        const uint8_t *bytes = fuzz_bytes(in, len, &n);
        if (area_len == 0 || n == 0)
                return;
        at %= area_len;
        memcpy(area + at, bytes, n < area_len - at ? n : area_len - at);
}

/* What must hold; otherwise the input is a finding. */
#define FUZZ_CHECK(cond) ((cond) ? (void)0 : fuzz_broken(#cond, __FILE__, __LINE__))
__attribute__((noreturn)) void fuzz_broken(const char *what, const char *file, int line);

/* ---- of the target ---- */

void fuzz_one(struct fuzz_in *in);
/* Call fuzz_seed() for each input that a real exchange would be: where the fuzzer begins. */
void fuzz_seeds(void);

/* ---- of fuzz.c ---- */

void fuzz_seed(const char *name, const void *bytes, size_t len);

/* A program that a target writes down for itself. */
struct fuzz_out {
        uint8_t bytes[16384];
        size_t len;
};
static inline void fuzz_put(struct fuzz_out *o, const void *bytes, size_t len)
{
        if (len > sizeof o->bytes - o->len)
                fuzz_broken("a seed is too long", __FILE__, __LINE__);
        memcpy(o->bytes + o->len, bytes, len);
        o->len += len;
}
static inline void fuzz_put8(struct fuzz_out *o, unsigned v)
{
        fuzz_put(o, (uint8_t[1]){(uint8_t)v}, 1);
}
static inline void fuzz_put16(struct fuzz_out *o, unsigned v)
{
        fuzz_put(o, (uint8_t[2]){(uint8_t)v, (uint8_t)(v >> 8)}, 2);
}

#endif
