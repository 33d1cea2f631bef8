#include "setup.h"

#include <stdlib.h>

#include "harness.h"

#define SAMPLES_MAX 20000u

static uint32_t samples[SAMPLES_MAX];

static void nothing(void)
{
}

/* Times `step` over and over for phase_s seconds, after as many calls for a quarter of that to warm up. */
static void steps_time(const struct setup_peer *peer, const struct bench_opts *opts, const char *what,
                       void (*before)(void), void (*step)(void), void (*after)(void))
{
        struct bench_result r = {0};
        size_t n = 0;
        for (int timed = 0; timed < 2; timed++) {
                uint64_t end = bench_ticks() + bench_ticks_of_s(opts->phase_s * (timed ? 1 : 0.25));
                n = 0;
                do {
                        before();
                        uint64_t start = bench_ticks();
                        step();
                        uint64_t took = bench_ticks() - start;
                        after();
                        samples[n++] = took < UINT32_MAX ? (uint32_t)took : UINT32_MAX;
                } while (n < SAMPLES_MAX && bench_ticks() < end);
        }
        bench_summarize(samples, n, &r);
        bench_print_value(peer->name, what, "setup", SETUP_BYTES, "p50_ns", r.p50_ns);
        bench_print_value(peer->name, what, "setup", SETUP_BYTES, "p99_ns", r.p99_ns);
}

static const struct setup_peer *few_of;

static void few_messages(void)
{
        for (int i = 0; i < SETUP_FEW_MSGS; i++)
                few_of->message();
}

int setup_main(int argc, char **argv, const struct setup_peer *peer)
{
        struct bench_opts opts = bench_options(argc, argv);
        struct bench_run here = {.place = opts.place};
        bench_pin(&here);
        peer->begin();
        steps_time(peer, &opts, "make", nothing, peer->make, peer->unmake);
        steps_time(peer, &opts, "carry", nothing, peer->carry, peer->uncarry);
        steps_time(peer, &opts, "first", peer->fresh, peer->message, peer->unfresh);
        few_of = peer;
        steps_time(peer, &opts, "first16", peer->fresh, few_messages, peer->unfresh);
        return 0;
}
