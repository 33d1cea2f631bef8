/*
 * heap_bench.h - one allocator as the benchmark of heaps sees it.
 */
#ifndef WH_BENCH_HEAP_BENCH_H
#define WH_BENCH_HEAP_BENCH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct allocator {
        const char *policy;
        /* A fresh one over about so many bytes, shared with children forked later; NULL when that cannot be. */
        void *(*open)(uint64_t bytes);
        void (*close)(void *a);
        /* NULL when it does not fit. */
        void *(*alloc)(void *a, size_t bytes);
        void (*free)(void *a, void *p);
        int is_private;  /* two processes have one each: shown for orientation only */
        int is_best_fit; /* its least memory is compared */
        int is_linear;   /* looks at holes one by one: a million of them would take for ever */
};

extern const struct allocator boost_best_fit, boost_seq_fit;

#ifdef __cplusplus
}
#endif
#endif
