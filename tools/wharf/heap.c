/*
 * wharf heap - see what allocation policies do: step by step, or with the requests of a real program.
 */
#include "heap.h"

#include "base/bits.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int heap_make(const struct wharf_heap_opts *opts, struct heap_memory *ret)
{
        struct heap_memory m = {.len_bytes = wharf_heap_bytes_needed(opts)};
        if (!m.len_bytes)
                return -EINVAL;
        m.len_bytes = wh_round_up(m.len_bytes, WH_CACHE_LINE);
        m.base = aligned_alloc(WH_PAGE, wh_round_up(m.len_bytes, WH_PAGE));
        if (!m.base)
                return -ENOMEM;
        int r = wharf_heap_format(m.base, m.len_bytes, opts);
        if (r == 0)
                r = wharf_heap_open(m.base, m.len_bytes, &m.heap);
        if (r < 0)
                free(m.base);
        else
                *ret = m;
        return r;
}

void heap_drop(struct heap_memory *m)
{
        wharf_heap_close(m->heap);
        free(m->base);
        *m = (struct heap_memory){0};
}

static int run(const struct verb *v, int argc, char **argv)
{
        static const struct subverb subverbs[] = {
                {"trace",
                 "[FILE] [--policy P] [--size N] [--unit N] [--partitions N,N,...] [--demo] [--json] [--svg FILE]",
                 "run a script of requests, and draw the memory after every step", heap_trace},
                {"replay", "TRACE [--size N] [--runs N] [--json] [--svg FILE] [--color WHEN]",
                 "make the requests of a recorded program, of every policy", heap_replay},
                {0},
        };
        return subverbs_run(v, argc, argv, subverbs);
}

const struct verb verb_heap = {
        .name = "heap",
        .args = "trace|replay ...",
        .summary = "see what allocation policies do, step by step or with a real program's requests",
        .run = run,
};
