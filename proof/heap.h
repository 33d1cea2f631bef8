/*
 * heap - what the proofs of heaps share: a heap of each policy in memory that all parties map, and blocks of the
 * case's own process that nobody else may touch.
 */
#ifndef PROOF_HEAP_H
#define PROOF_HEAP_H

#include "engine/proof.h"
#include "wharf/heap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HEAP_LEN = 48 << 10, HEAP_OWN = 3 };

struct heap_state {
        void *base;
        wharf_heap *heap;
        uint64_t own[HEAP_OWN]; /* of the case's process, filled with its index + 1 */
        uint64_t made[8];       /* the victim's */
};

static inline void heap_map(struct proof *p)
{
        struct heap_state *s = p->state;
        s->base = mmap(NULL, HEAP_LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        PROOF_CHECK(p, s->base != MAP_FAILED);
}

static inline void heap_format(struct proof *p)
{
        struct heap_state *s = p->state;
        /* The operation's name says which policy. */
        enum wharf_heap_policy policy;
        PROOF_EQ(p, wharf_heap_policy_by_name(p->op->name, &policy), 0);
        struct wharf_heap_opts o = {.size = sizeof o, .policy = policy, .owners_max = 8, .waiters_max = 4};
        if (policy == WHARF_HEAP_FIXED) {
                o.managed_bytes = 16 << 10;
                o.n_partitions = 16;
        }
        PROOF_EQ(p, wharf_heap_format(s->base, HEAP_LEN, &o), 0);
}

static inline void heap_setup(struct proof *p)
{
        struct heap_state *s = p->state;
        heap_map(p);
        heap_format(p);
        PROOF_EQ(p, wharf_heap_open(s->base, HEAP_LEN, &s->heap), 0);
        for (int i = 0; i < HEAP_OWN; i++) {
                PROOF_EQ(p, wharf_heap_alloc(s->heap, 200, 0, 0, 0, &s->own[i]), 0);
                memset(wharf_heap_at(s->heap, s->own[i], 200), i + 1, 200);
        }
}

/* Take, give back, change, take again. */
static inline int heap_use(struct proof *p)
{
        struct heap_state *s = p->state;
        int r = wharf_heap_alloc(s->heap, 100, 0, 0, 0, &s->made[0]);
        if (r < 0)
                return r;
        r = wharf_heap_alloc(s->heap, 700, 0, 0, 0, &s->made[1]);
        if (r == 0)
                r = wharf_heap_free(s->heap, s->made[0]);
        if (r == 0)
                r = wharf_heap_alloc(s->heap, 300, 64, 0, 0, &s->made[2]);
        if (r == 0)
                r = wharf_heap_resize(s->heap, s->made[2], 500, 0, &s->made[2]);
        if (r == 0)
                r = wharf_heap_free(s->heap, s->made[1]);
        return r;
}

static inline void heap_teardown(struct proof *p)
{
        struct heap_state *s = p->state;
        s->heap = wharf_heap_close(s->heap);
        munmap(s->base, HEAP_LEN);
}

/* The case's own blocks are what they were; with them, everything is free again. */
static inline void heap_audit(struct proof *p)
{
        struct heap_state *s = p->state;
        PROOF_CHECK(p, wharf_heap_reclaim(s->heap, NULL, NULL) >= 0);
        PROOF_EQ(p, wharf_heap_check(s->heap), 0);
        for (int i = 0; i < HEAP_OWN; i++) {
                const uint8_t *at = wharf_heap_at(s->heap, s->own[i], 200);
                PROOF_CHECK(p, at);
                for (int j = 0; j < 200; j++)
                        PROOF_EQ(p, at[j], i + 1);
                PROOF_EQ(p, wharf_heap_free(s->heap, s->own[i]), 0);
        }
        /* A hundred clean rounds. */
        for (int i = 0; i < 100; i++) {
                uint64_t off;
                PROOF_EQ(p, wharf_heap_alloc(s->heap, 1 + (uint64_t)i * 7 % 900, 0, 0, 0, &off), 0);
                PROOF_EQ(p, wharf_heap_free(s->heap, off), 0);
        }
        struct wharf_heap_figures f = {0};
        PROOF_EQ(p, wharf_heap_figures(s->heap, &f), 0);
        PROOF_EQ(p, f.used_bytes, 0);
        PROOF_EQ(p, f.cached_bytes + f.free_bytes, f.managed_bytes);
}

#endif
