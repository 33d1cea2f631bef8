/*
 * explore - every interleaving, and every value that a load may return.
 *
 * The parties of a protocol run as coroutines of one process, on the real code compiled with hooks. At every shared
 * access a choice is made of who goes on; at every atomic load, of which value it sees: the newest, or an older one
 * that the C11 memory model still permits. Choices are explored depth first within bounds (how often a party is
 * preempted, how often a load is stale, how often a sleeper wakes for nothing, how many parties are killed), then at
 * random.
 *
 * The model: views, as in the operational reading of release and acquire (Kang et al., "A Promising Semantics for
 * Relaxed Memory Concurrency", 2017, without promises). Each location has a history; each party has a view, the oldest
 * entry it may still read; a release store carries its party's view, an acquire load takes it over; fences do the same
 * for the relaxed accesses around them; seq_cst fences share one view among all.
 *
 *   E1  Plain accesses are checked, not modelled: two that are not ordered by happens-before, one of them a store, are
 *       a data race and a failure, as are a plain and an atomic access. So a plain load has one possible value.
 *   E2  Weaker than the machine here and as weak as C11, except: a load never sees a store that comes later in the
 *       execution (no load buffering: RC11 forbids it, too), stores to one location take effect in the order in which
 *       they run, compare-and-swap looks at the newest value, and seq_cst accesses are as strong as with fences around.
 *       What these hide is not found here.
 *   E3  Sockets are the kernel's own. What is sent on one is ordered before whatever hears of it, on any socket: a
 *       little more than the kernel promises. No call sleeps there: a party that would is asleep here, and looks again
 *       when another has told the kernel something. Memory that is mapped twice is one memory.
 */
#ifndef PROOF_EXPLORE_EXPLORE_H
#define PROOF_EXPLORE_EXPLORE_H

#include "../runtime/hook.h"

#include <stdbool.h>
#include <stdint.h>

enum { EXPLORE_PARTIES = 4, EXPLORE_BELLS = 4 };

struct explore {
        const char *name;
        void (*init)(
                void); /* everything as before the first step; memory is shared with hook_share() or by mapping it */
        void (*party[EXPLORE_PARTIES])(void);
        /* After all parties ended: what must hold. `killed` has a bit for each that was. */
        void (*check)(uint32_t killed);
        /* Bounds of the depth-first part. */
        unsigned preemptions, stale, spurious, kills;
        uint32_t mortal;         /* a bit for each party that may be killed */
        uint32_t share;          /* not 0: a slow one, with this part of the executions that others get */
        uint64_t executions_max; /* depth first; what is left over goes unexplored, and is told as `cut` */
        uint64_t executions_random;
};

struct explored {
        uint64_t executions;
        bool complete; /* everything within the bounds was visited */
        bool failed;
        char why[160];
        char replay[512]; /* the choices that led there */
};
/* Explores until something fails or all is done. */
void explore_run(const struct explore *e, uint64_t seed, struct explored *ret);
/*
 * A program that explores them all, or `--only NAME`, within the bounds of `--quick` or more; `--stop` after the first
 * that fails; `--seed=n`. Prints the line of its area and answers what main() returns.
 */
int explore_main(const char *area, const struct explore *protocols, unsigned n, int argc, char **argv);

/* ---- for the parties ---- */

/* A promise was broken: ends this execution, and the exploration. */
__attribute__((noreturn, format(printf, 1, 2))) void explore_fail(const char *fmt, ...);
#define EXPLORE_CHECK(cond)                                                        \
        do {                                                                       \
                if (!(cond))                                                       \
                        explore_fail("%s:%d: %s", __FILE_NAME__, __LINE__, #cond); \
        } while (0)
#ifndef __FILE_NAME__
#define __FILE_NAME__ __FILE__
#endif

/*
 * Doorbells: kernel objects that remember. explore_sleep() waits until the bell was rung since it was last slept on, or
 * wakes for nothing; if all parties sleep or have ended, and one sleeps, a wake-up was lost, unless it says that this
 * is what it waits for (explore_may_rest()). The death of party `who` rings, too, for those that sleep after it was.
 */
void explore_sleep(unsigned bell);
void explore_ring(unsigned bell);
/* From here on this party may sleep for ever. */
void explore_may_rest(void);
/* Has party `who` ended, or died? A kernel's answer: what it did before is visible to the asker. */
bool explore_over(unsigned who);

#endif
