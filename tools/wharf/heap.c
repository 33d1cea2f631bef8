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

static const struct {
        const char *name, *args;
        int (*run)(const struct verb *v, int argc, char **argv);
} commands[] = {
        {"trace", "[FILE] [--policy P] [--size N] [--unit N] [--partitions N,N,...] [--demo] [--json] [--svg FILE]",
         heap_trace},
        {"replay", "TRACE [--size N] [--runs N] [--json] [--svg FILE]", heap_replay},
};
#define N_COMMANDS (sizeof commands / sizeof *commands)

static int usage(FILE *to)
{
        for (unsigned i = 0; i < N_COMMANDS; i++)
                fprintf(to, "%s wharf heap %s %s\n", i ? "      " : "usage:", commands[i].name, commands[i].args);
        return to == stdout ? EXIT_DONE : EXIT_USAGE;
}

static int run(const struct verb *v, int argc, char **argv)
{
        if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "help")))
                return usage(stdout);
        for (unsigned i = 0; argc > 1 && i < N_COMMANDS; i++)
                if (!strcmp(argv[1], commands[i].name))
                        return commands[i].run(v, argc - 1, argv + 1);
        return usage(stderr);
}

const struct verb verb_heap = {
        .name = "heap",
        .args = "trace|replay ...",
        .summary = "see what allocation policies do, step by step or with a real program's requests",
        .run = run,
};
