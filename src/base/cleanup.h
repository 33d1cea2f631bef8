/*
 * cleanup - objects that free themselves when their scope ends, and descriptors that close themselves.
 *
 *      WH_AUTO(segment) struct wh_segment *seg = ...;      wh_segment_free(seg) on every way out
 *      WH_AUTO_FD int fd = ...;                            closed on every way out, if >= 0
 *      *ret = wh_steal(&seg);                              ownership moves on; the scope lets go
 */
#ifndef WH_BASE_CLEANUP_H
#define WH_BASE_CLEANUP_H

#include <stdlib.h>

#define WH_AUTO(noun) __attribute__((cleanup(wh_##noun##_freep)))

/* Defines what WH_AUTO(noun) needs: `free_fn` takes the object and accepts NULL. */
#define WH_AUTO_DEFINE(noun, type, free_fn)            \
        static inline void wh_##noun##_freep(type **p) \
        {                                              \
                if (*p)                                \
                        free_fn(*p);                   \
        }                                              \
        struct wh_auto_##noun##_needs_a_semicolon

static inline void wh_mem_freep(void *p)
{
        free(*(void **)p);
}

#define WH_AUTO_MEM __attribute__((cleanup(wh_mem_freep)))

#define wh_steal(ptr)                              \
        ({                                         \
                __typeof__(ptr) wh_p_ = (ptr);     \
                __typeof__(*wh_p_) wh_v_ = *wh_p_; \
                *wh_p_ = NULL;                     \
                wh_v_;                             \
        })

/* The same for a descriptor, which is -1 when there is none. */
#define wh_steal_fd(ptr)            \
        ({                          \
                int *wh_p_ = (ptr); \
                int wh_v_ = *wh_p_; \
                *wh_p_ = -1;        \
                wh_v_;              \
        })

#endif
