/*
 * harness - measures one way of passing messages between processes, the same way as every other.
 *
 * Why: a figure means something only beside others that were taken alike. So what is measured lives here, and a peer
 * (a system under measurement) brings nothing but how it opens, sends and receives.
 *
 * Always true:
 *   B1  One measurement is a fresh link and fresh processes, a warm-up of a quarter of the time, and one timed phase.
 *       Repetition is outside, with the peers interleaved, so that the spread tells about the machine.
 *   B2  Every message begins with one 64-bit word of the harness; lengths are multiples of 8.
 *   B3  Party 0 is the server; parties 1..clients are the clients. Each is a process.
 *   B4  One message a call. Nothing is batched that a user of the peer would not get by calling it like this.
 *   B5  Who is asked to read every byte does: sums of 64-bit words are compared, and a difference ends the run.
 *   B6  Processes are all that is left behind by a kill, and they die with their parent.
 *
 * The benchmarks measure the kernel's own calls and other people's libraries; they use libwharf only through its public
 * headers and make their own system calls, so they could as well live in another repository.
 */
#ifndef BENCH_HARNESS_H
#define BENCH_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

enum bench_work {
        BENCH_PP,    /* ping-pong: the full round trip of one message each way */
        BENCH_TP,    /* one way, every byte written and read */
        BENCH_TPHDR, /* one way in place: only the first word of each message is written and read */
        BENCH_FANIN, /* several clients to one server, 64 bytes, every byte read */
        BENCH_IDLE,  /* the processor time of a server that waits one second */
        BENCH_WORKS
};
enum bench_mode {
        BENCH_SPIN,    /* never sleeps */
        BENCH_BLOCK,   /* sleeps at once */
        BENCH_DEFAULT, /* what the peer does when nobody asks: only for peers that adapt */
        BENCH_MODES
};
enum bench_place {
        BENCH_PINNED,   /* server on the first core this process may use, clients on the second */
        BENCH_UNPINNED, /* wherever the scheduler puts them */
        BENCH_ONECORE,  /* all on the first */
        BENCH_PLACES
};
#define BENCH_BIT(n) (1u << (n))

#define BENCH_FANIN_CLIENTS 4
#define BENCH_FANIN_BYTES 64
#define BENCH_LENS_MAX 16

/* The first word of a message. */
enum {
        BENCH_MORE = 0,  /* one of many */
        BENCH_FLUSH = 1, /* answer this one: the end of the warm-up */
        BENCH_LAST = 2,  /* answer this one and stop */
};

/* What a measurement found; in memory that all parties and their parent share. */
struct bench_result {
        uint32_t arrived; /* parties at the barrier, counted up by each; atomic */
        uint32_t ok;      /* 1 once the party that measures has filled in the rest */
        uint64_t count_msgs;
        double elapsed_ns;
        double min_ns, p50_ns, p99_ns, p999_ns;
        double cpu_ns;
};

struct bench_peer;

/* One measurement. Made before the processes, so that each has its own copy. */
struct bench_run {
        const struct bench_peer *peer;
        enum bench_work work;
        enum bench_mode mode;
        enum bench_place place;
        size_t len_bytes;    /* of every message */
        uint32_t depth_msgs; /* how many messages a queue should hold: about 4 MiB of them, 4 to 1024 */
        uint32_t clients;
        uint32_t party; /* which one this process is */
        double phase_s; /* how long the timed phase lasts */
        void *state;    /* the peer's own */
        struct bench_result *result;
};

/* How a peer is used. A call that fails ends its process with bench_die(); the measurement then counts as failed. */
struct bench_peer {
        const char *name;
        uint32_t works;        /* BENCH_BIT() of each workload it can do */
        uint32_t modes;        /* and of each mode */
        size_t only_len_bytes; /* not 0: the only length it is run with */

        /* In the parent, before the processes are made. Returns NULL, or why this measurement is skipped. */
        const char *(*open)(struct bench_run *run);
        /* In each party, before the clock starts. Optional. */
        void (*join)(struct bench_run *run);
        /* A client sends to the server; the server sends to its only client. */
        void (*send)(struct bench_run *run, void *buf, size_t len_bytes);
        void (*recv)(struct bench_run *run, void *buf, size_t len_bytes);
        /* Receive in place, and give it back. Optional; used one way when there. */
        const void *(*view)(struct bench_run *run, size_t len_bytes);
        void (*done)(struct bench_run *run);
        /* Send a message of which only the first word is written. Needed for BENCH_TPHDR. */
        void (*send_word)(struct bench_run *run, uint64_t word, size_t len_bytes);
        /* In the parent, when all parties are gone. Optional. */
        void (*close)(struct bench_run *run);
};

/* What the command line asks for. */
struct bench_opts {
        uint32_t works, modes; /* BENCH_BIT() of each */
        enum bench_place place;
        double phase_s;
        size_t lens_bytes[BENCH_LENS_MAX];
        uint32_t n_lens;
};

/* main() of a peer: measures all that was asked for and that some peer can do. Returns the exit status. */
int bench_main(int argc, char **argv, const struct bench_peer *peers, size_t n_peers);

/*
 * The pieces of bench_main(), for programs with a command line and a table of their own. bench_begin() comes first: it
 * times the clock, looks for cores and ignores SIGPIPE. bench_measure() makes the processes of one measurement and
 * waits for them; all of `run` but party, state and result is filled in. *ret holds what was found after
 * BENCH_MEASURED; *ret_why says why there is nothing after BENCH_SKIPPED and, where that is known, after BENCH_FAILED
 * (NULL where the party that failed has said so on standard error). It reaps every child of the caller.
 */
enum bench_outcome { BENCH_MEASURED, BENCH_SKIPPED, BENCH_FAILED };
void bench_begin(void);
unsigned bench_cores(void); /* that this process may use: 1, or 2 for two and more */
enum bench_outcome bench_measure(struct bench_run *run, struct bench_result *ret, const char **ret_why);
/* The depth_msgs for that length. */
uint32_t bench_depth_msgs(size_t len_bytes);

/*
 * More pieces, for peers whose processes are started by somebody else: read the options (exits on bad ones, and calls
 * bench_begin()), walk through the measurements, take part in one as run->party, print one. bench_each() returns how
 * many times `measure` returned false.
 */
struct bench_opts bench_options(int argc, char **argv);
unsigned bench_each(const struct bench_opts *opts, const struct bench_peer *peer,
                    bool (*measure)(struct bench_run *run));
void bench_party(struct bench_run *run);
bool bench_party_measures(const struct bench_run *run); /* does this party know the result afterwards? */
void bench_print(const struct bench_run *run);
void bench_pin(const struct bench_run *run);

/* One line of a result; `mode` may be any word. */
void bench_print_value(const char *peer, const char *work, const char *mode, size_t len_bytes, const char *metric,
                       double value);

/* The p-quantile (0 <= p < 1) of n > 0 sorted samples. */
double bench_quantile(const uint32_t *sorted, size_t n, double p);
/* Sorts n > 0 samples of bench_ticks() and writes their quantiles, in ns. */
void bench_summarize(uint32_t *samples, size_t n, struct bench_result *ret);

/* What bench_die() begins with; "bench" unless somebody says otherwise. */
extern const char *bench_program;
/* Says what failed, with errno, and ends this process with status 1. */
__attribute__((noreturn, format(printf, 1, 2))) void bench_die(const char *fmt, ...);
/* Zeroed, shared with processes forked later, and touched. Never fails; give it to bench_shared_free(). */
void *bench_shared(size_t len_bytes);
void bench_shared_free(void *mem, size_t len_bytes);
/* Private, page-aligned, touched, every byte set alike. Never fails; give it to free(). */
void *bench_buffer(size_t len_bytes);
/* Zeroed. Never fails; give it to free(). */
void *bench_state(size_t len_bytes);

uint64_t bench_now_ns(void);
uint64_t bench_cpu_ns(void); /* of all threads of this process */
/* Ticks of bench_ticks() to ns; measured once by bench_begin(). */
extern double bench_ns_per_tick;

/* The cheapest clock there is. On x86-64 the fence keeps it from being read before what it times is done. */
static inline uint64_t bench_ticks(void)
{
#if defined(__x86_64__)
        __builtin_ia32_lfence();
        return __builtin_ia32_rdtsc();
#else
        return bench_now_ns();
#endif
}

static inline uint64_t bench_ticks_of_s(double seconds)
{
        return (uint64_t)(seconds * 1e9 / bench_ns_per_tick);
}

static inline void bench_relax(void)
{
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ __volatile__("yield");
#endif
}

/* The word may lie in memory that another process writes: loaded once, not torn. Ordering is the peer's business. */
static inline uint64_t bench_word(const void *msg)
{
        return __atomic_load_n((const uint64_t *)msg, __ATOMIC_RELAXED);
}

static inline void bench_set_word(void *msg, uint64_t word)
{
        __atomic_store_n((uint64_t *)msg, word, __ATOMIC_RELAXED);
}

/* Reads every byte: the sum of all 64-bit words, in eight chains so that the loads, not the adds, are what is timed. */
static inline uint64_t bench_sum(const void *mem, size_t len_bytes)
{
        const uint64_t *w = mem;
        size_t n = len_bytes / sizeof(*w), i = 0;
        uint64_t s[8] = {0};
        for (; i + 8 <= n; i += 8)
                for (unsigned k = 0; k < 8; k++)
                        s[k] += w[i + k];
        for (; i < n; i++)
                s[i & 7] += w[i];
        return s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}

#endif
