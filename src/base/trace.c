#include "base/trace.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int wh_trace_at(const char *file, int line, int err)
{
        static _Atomic int wanted = -1; /* -1 not asked yet; then 0 or 1. Asking twice at once is harmless. */
        int w = atomic_load_explicit(&wanted, memory_order_relaxed);
        if (w < 0) {
                const char *env = getenv("WHARF_TRACE");
                w = env && *env && *env != '0';
                atomic_store_explicit(&wanted, w, memory_order_relaxed);
        }
        if (w)
                fprintf(stderr, "wharf: %s:%d: %s\n", file, line, strerrordesc_np(err < 0 ? -err : err));
        return err;
}
