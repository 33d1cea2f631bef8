/*
 * opts - options of a caller who may have been compiled with another version of our headers.
 *
 * The options of an earlier version are shorter, and what is missing is 0, the default. Those of a later version are
 * longer, and as good as ours while the rest is 0, for then they ask for nothing that we do not know.
 */
#ifndef WH_BASE_OPTS_H
#define WH_BASE_OPTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { WH_OPTS_MAX = 4096 }; /* a size beyond this is none */

/* Into `ret`, of `ours` bytes that are 0, from `given`, of `size`, at least `min`. False: it is not for us. */
static inline bool wh_opts_take(void *ret, size_t ours, size_t min, const void *given, uint32_t size)
{
        const uint8_t *bytes = given;
        if (size < min || size > WH_OPTS_MAX)
                return false;
        for (size_t i = ours; i < size; i++)
                if (bytes[i])
                        return false;
        memcpy(ret, given, size < ours ? size : ours);
        return true;
}

#endif
