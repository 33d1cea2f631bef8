#include "shrink.h"

#include "oracle.h"

#include <string.h>

/* Without the moves [at, at + n): false when that is no program, or does nothing wrong. */
static bool try_without(struct program *p, unsigned at, unsigned n, const char *kind, shrink_fails *fails)
{
        struct program q = *p;
        memmove(q.move + at, q.move + at + n, (q.n_moves - at - n) * sizeof *q.move);
        q.n_moves -= n;
        if (!fails(&q, kind))
                return false;
        *p = q;
        return true;
}

/* Chunks of half the program first, then smaller ones: "ddmin" (Zeller, Hildebrandt 2002), without its complements. */
static void leave_out(struct program *p, const char *kind, shrink_fails *fails, int64_t end_ns)
{
        for (unsigned n = p->n_moves / 2; n; n = n > 1 ? n / 2 : 0) {
                unsigned at = p->n_moves > n ? p->n_moves - n : 0; /* from the end: what comes last is needed least */
                for (;;) {
                        if (clock_ns() > end_ns)
                                return;
                        if (at + n <= p->n_moves)
                                try_without(p, at, n, kind, fails);
                        if (at == 0)
                                break;
                        at = at > n ? at - n : 0;
                }
        }
}

/* Each argument as plain as it can be. */
static void make_plain(struct program *p, const char *kind, shrink_fails *fails, int64_t end_ns)
{
        int *const world[] = {&p->descriptors, &p->limits, &p->domain, &p->receive};
        for (unsigned i = 0; i < sizeof world / sizeof *world; i++) {
                struct program q = *p;
                const int was = *world[i];
                *world[i] = 0;
                if (was && fails(p, kind))
                        continue;
                *p = q;
        }
        for (unsigned i = 0; i < p->n_moves; i++)
                for (unsigned k = 0; k < PROGRAM_ARGS_MAX && clock_ns() < end_ns; k++) {
                        struct program q = *p;
                        if (!program_arg_plain(&q.move[i], k))
                                continue;
                        if (fails(&q, kind))
                                *p = q;
                }
}

void program_shrink(struct program *p, const char *kind, shrink_fails *fails, int64_t end_ns)
{
        unsigned was;
        do {
                was = p->n_moves;
                leave_out(p, kind, fails, end_ns);
        } while (p->n_moves < was && clock_ns() < end_ns);
        make_plain(p, kind, fails, end_ns);
        leave_out(p, kind, fails, end_ns);
}
