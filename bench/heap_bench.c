/*
 * heap_bench - the heap beside Boost.Interprocess (shared memory), glibc's malloc and mimalloc (private memory).
 *
 *      heap_bench [--csv] [--quick] [--rounds N]
 *
 * One round measures every allocator on every workload, one after the other, so that a disturbance of the machine hits
 * all of them; the table shows the median of the rounds and their spread. A time is that of one pair: free a block,
 * allocate another. The blocks are not touched by the benchmark: what is measured is the allocator.
 *
 *      steady     1000 live blocks of 16 B to 4 KiB; a random one is freed and another of random size allocated
 *      steady-2   two processes do that at once in the same heap
 *      trace-*    what a compiler, git, a shell script and sqlite asked of malloc(), recorded (traces/)
 *      live-N     the same churn of 1000 blocks of 16 to 256 B, beside N live blocks with holes between them
 *      lock       take and release an uncontended lock, in a process that has a second thread
 */
#include "trace.h"
#include "heap_bench.h"

#include <wharf/heap.h>
#include <wharf/sync.h>

#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef HAVE_MIMALLOC
#include <mimalloc.h>
#endif

static bool csv, quick;
static unsigned rounds = 7;

static uint64_t now_ns(void)
{
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t random_state = 88172645463325252u;

static inline uint32_t random_u32(void)
{
        random_state = random_state * 6364136223846793005u + 1442695040888963407u;
        return (uint32_t)(random_state >> 32);
}

/* ---- the allocators ---- */

struct wharf_one {
        wharf_heap *heap;
        char *base;
        uint64_t len;
};

static void *wharf_open_as(enum wharf_heap_policy policy, uint32_t unit, uint64_t bytes)
{
        struct wharf_one *w = calloc(1, sizeof *w);
        struct wharf_heap_opts o = {.size = sizeof o, .policy = policy, .unit_bytes = unit};
        o.owners_max = o.waiters_max = 8;
        w->len = bytes;
        w->base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (w->base == MAP_FAILED || wharf_heap_format(w->base, bytes, &o) < 0 ||
            wharf_heap_open(w->base, bytes, &w->heap) < 0) {
                if (w->base != MAP_FAILED)
                        munmap(w->base, bytes);
                free(w);
                return NULL;
        }
        return w;
}

static void *wharf_open_buddy(uint64_t bytes)
{
        return wharf_open_as(WHARF_HEAP_BUDDY, 0, bytes);
}

static void *wharf_open_best(uint64_t bytes)
{
        return wharf_open_as(WHARF_HEAP_BEST_FIT, 0, bytes);
}

static void *wharf_open_first(uint64_t bytes)
{
        return wharf_open_as(WHARF_HEAP_FIRST_FIT, 0, bytes);
}

static void wharf_close_it(void *a)
{
        struct wharf_one *w = a;
        wharf_heap_close(w->heap);
        munmap(w->base, w->len);
        free(w);
}

static void *wharf_alloc_it(void *a, size_t bytes)
{
        struct wharf_one *w = a;
        uint64_t offset;
        return wharf_heap_alloc(w->heap, bytes, 0, 0, 0, &offset) < 0 ? NULL : w->base + offset;
}

static void wharf_free_it(void *a, void *p)
{
        struct wharf_one *w = a;
        if (wharf_heap_free(w->heap, (uint64_t)((char *)p - w->base)) < 0)
                abort();
}

static void *private_open(uint64_t bytes)
{
        static int there;
        return &there;
}

static void private_close(void *a)
{
}

static void *glibc_alloc(void *a, size_t bytes)
{
        return malloc(bytes);
}

static void glibc_free(void *a, void *p)
{
        free(p);
}

#ifdef HAVE_MIMALLOC
static void *mimalloc_alloc(void *a, size_t bytes)
{
        return mi_malloc(bytes);
}

static void mimalloc_free(void *a, void *p)
{
        mi_free(p);
}
#endif

static const struct allocator wharf_buddy = {"buddy",        wharf_open_buddy, wharf_close_it,
                                             wharf_alloc_it, wharf_free_it,    0};
static const struct allocator wharf_best = {.policy = "best",
                                            .open = wharf_open_best,
                                            .close = wharf_close_it,
                                            .alloc = wharf_alloc_it,
                                            .free = wharf_free_it,
                                            .is_best_fit = 1};
static const struct allocator wharf_first = {
        "first", wharf_open_first, wharf_close_it, wharf_alloc_it, wharf_free_it, 0, 0, 1};
static const struct allocator glibc = {"glibc", private_open, private_close, glibc_alloc, glibc_free, 1};
#ifdef HAVE_MIMALLOC
static const struct allocator mimalloc = {"mimalloc", private_open, private_close, mimalloc_alloc, mimalloc_free, 1};
#endif

static const struct allocator *const allocators[] = {
        &wharf_buddy,    &wharf_best,    &wharf_first,
#ifdef HAVE_BOOST
        &boost_best_fit, &boost_seq_fit,
#endif
        &glibc,
#ifdef HAVE_MIMALLOC
        &mimalloc,
#endif
};
#define N_ALLOCATORS (sizeof allocators / sizeof *allocators)

/* ---- results ---- */

#define RESULTS_MAX 256
static struct result {
        char workload[24];
        const char *policy, *metric;
        double value[64];
        unsigned n;
} results[RESULTS_MAX];

static struct result *result_of(const char *workload, const char *policy, const char *metric)
{
        struct result *r = results;
        while (r < results + RESULTS_MAX - 1 && r->metric &&
               (strcmp(r->workload, workload) || strcmp(r->policy, policy) || strcmp(r->metric, metric)))
                r++;
        if (!r->metric) {
                snprintf(r->workload, sizeof r->workload, "%s", workload);
                r->policy = policy;
                r->metric = metric;
        }
        return r;
}

static void report(const char *workload, const char *policy, const char *metric, double value)
{
        struct result *r = result_of(workload, policy, metric);
        if (r->n < 64)
                r->value[r->n++] = value;
}

static int by_value(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;
        return x < y ? -1 : x > y;
}

static double median(const char *workload, const char *policy, const char *metric)
{
        struct result *r = result_of(workload, policy, metric);
        if (!r->n)
                return 0;
        qsort(r->value, r->n, sizeof(double), by_value);
        return r->value[r->n / 2];
}

/* ---- churn ---- */

#define SLOTS 1000

struct churn {
        const struct allocator *of;
        void *a;
        void *slot[SLOTS];
        uint32_t low, span; /* sizes are low + random % span */
};

static size_t churn_size(const struct churn *c)
{
        return c->low + random_u32() % c->span;
}

static void *must(void *p)
{
        if (!p) {
                fprintf(stderr, "heap_bench: out of memory\n");
                exit(1);
        }
        return p;
}

static void churn_fill(struct churn *c)
{
        for (unsigned i = 0; i < SLOTS; i++)
                c->slot[i] = must(c->of->alloc(c->a, churn_size(c)));
}

static void churn_empty(struct churn *c)
{
        for (unsigned i = 0; i < SLOTS; i++)
                c->of->free(c->a, c->slot[i]);
}

static void churn_some(struct churn *c, unsigned pairs)
{
        for (unsigned i = 0; i < pairs; i++) {
                unsigned at = random_u32() % SLOTS;
                c->of->free(c->a, c->slot[at]);
                c->slot[at] = must(c->of->alloc(c->a, churn_size(c)));
        }
}

/* Nanoseconds a pair, after a warm-up. */
static double churn_time(struct churn *c)
{
        uint64_t warm = quick ? 4000000 : 15000000, span = quick ? 10000000 : 50000000, begin = now_ns(), pairs = 0, t;
        while (now_ns() - begin < warm)
                churn_some(c, 200);
        begin = now_ns();
        do {
                churn_some(c, 500);
                pairs += 500;
        } while ((t = now_ns() - begin) < span);
        return (double)t / (double)pairs;
}

static void run_steady(const struct allocator *of)
{
        struct churn c = {.of = of, .a = must(of->open(64 << 20)), .low = 16, .span = 4096 - 16 + 1};
        churn_fill(&c);
        report("steady", of->policy, "ns", churn_time(&c));
        churn_empty(&c);
        of->close(c.a);
}

static void pin(int cpu)
{
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        sched_setaffinity(0, sizeof set, &set);
}

struct two {
        _Atomic int ready, done;
        double ns[2];
};

static void run_steady_two(const struct allocator *of)
{
        struct two *two = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        struct churn c = {.of = of, .a = must(of->open(64 << 20)), .low = 16, .span = 4096 - 16 + 1};
        cpu_set_t before;
        sched_getaffinity(0, sizeof before, &before);
        pid_t pid = fork();
        int who = pid == 0;
        random_state += (uint64_t)who * 12345;
        pin(who);
        churn_fill(&c);
        atomic_fetch_add(&two->ready, 1);
        while (atomic_load(&two->ready) < 2)
                ;
        two->ns[who] = churn_time(&c);
        /* Whoever is ready first keeps the other company until it is done. */
        atomic_fetch_add(&two->done, 1);
        while (atomic_load(&two->done) < 2)
                churn_some(&c, 100);
        churn_empty(&c);
        if (who)
                _exit(0);
        waitpid(pid, NULL, 0);
        sched_setaffinity(0, sizeof before, &before);
        report("steady-2", of->policy, "ns", (two->ns[0] + two->ns[1]) / 2);
        of->close(c.a);
        munmap(two, 4096);
}

/* ---- growth ---- */

static void run_growth(const struct allocator *of, unsigned live)
{
        char name[32];
        snprintf(name, sizeof name, "live-%u", live);
        /* A quarter more than will stay, so that there are holes of many sizes between them. */
        unsigned n = live + live / 4, stay = 0;
        void **block = malloc(n * sizeof *block);
        struct churn c = {.of = of, .a = must(of->open((uint64_t)n * 512 + (8 << 20))), .low = 16, .span = 241};
        for (unsigned i = 0; i < n; i++)
                block[i] = must(of->alloc(c.a, churn_size(&c)));
        for (unsigned i = 0; i < n; i++) {
                if (random_u32() % 5 == 0)
                        of->free(c.a, block[i]);
                else
                        block[stay++] = block[i];
        }
        churn_fill(&c);
        report(name, of->policy, "ns", churn_time(&c));

        /* And freeing any of all those blocks: mostly the price of cache misses, which every allocator pays. */
        unsigned pairs = quick ? 20000 : 100000;
        uint64_t begin = now_ns();
        for (unsigned i = 0; i < pairs; i++) {
                unsigned at = random_u32() % stay;
                of->free(c.a, block[at]);
                block[at] = must(of->alloc(c.a, churn_size(&c)));
        }
        report(name, of->policy, "ns_any_block", (double)(now_ns() - begin) / pairs);
        churn_empty(&c);
        if (of->is_private)
                for (unsigned i = 0; i < stay; i++)
                        of->free(c.a, block[i]);
        of->close(c.a);
        free(block);
}

/* ---- traces: what real programs asked of malloc(), recorded by libwharf-record.so ---- */

struct request {
        uint32_t id, bytes; /* bytes == 0 frees */
};
struct requests {
        const char *name;
        struct request *of;
        unsigned n, ids;
};

enum { N_TRACES = 4 };
static struct requests traces[N_TRACES] = {
        {.name = "trace-gcc"}, {.name = "trace-git"}, {.name = "trace-sh"}, {.name = "trace-sqlite"}};

static void request_add(struct requests *t, uint32_t id, uint32_t bytes)
{
        if (!(t->n & (t->n - 1)))
                t->of = realloc(t->of, (t->n ? t->n * 2 : 1) * sizeof *t->of);
        t->of[t->n++] = (struct request){id, bytes};
        if (id >= t->ids)
                t->ids = id + 1;
}

/*
 * A resize becomes a new block and the end of the old one, since not every allocator here can resize in place; so each
 * block of the file has two ids, used in turn. False when there is no such trace.
 */
static bool requests_load(struct requests *t)
{
        char path[512];
        struct trace file;
        snprintf(path, sizeof path, TRACES_DIR "/%s.trace.gz", t->name + strlen("trace-"));
        int r = trace_load(path, &file);
        if (r < 0) {
                fprintf(stderr, "heap_bench: %s: %s\n", path, strerror(-r));
                return false;
        }
        uint8_t *turn = calloc(file.n_blocks ? file.n_blocks : 1, 1);
        for (uint64_t i = 0; i < file.n_events; i++) {
                const struct trace_event *e = &file.events[i];
                uint32_t old = e->block * 2 + turn[e->block], bytes = e->bytes ? (uint32_t)e->bytes : 1;
                if (e->kind == TRACE_FREE) {
                        request_add(t, old, 0);
                } else {
                        turn[e->block] ^= 1;
                        request_add(t, e->block * 2 + turn[e->block], bytes);
                        if (e->kind == TRACE_RESIZE)
                                request_add(t, old, 0);
                }
        }
        free(turn);
        trace_done(&file);
        return true;
}

/* Nanoseconds a request; negative when it does not fit. Frees what the trace left. */
static double trace_run(const struct allocator *of, const struct requests *t, uint64_t bytes)
{
        void *a = of->open(bytes), **at = calloc(t->ids, sizeof *at);
        double ns = -1;
        if (!a)
                goto out;
        uint64_t begin = now_ns();
        for (unsigned i = 0; i < t->n; i++) {
                struct request q = t->of[i];
                if (!q.bytes) {
                        if (at[q.id])
                                of->free(a, at[q.id]);
                        at[q.id] = NULL;
                } else if (!(at[q.id] = of->alloc(a, q.bytes))) {
                        goto out;
                }
        }
        ns = (double)(now_ns() - begin) / t->n;
out:
        for (unsigned i = 0; a && of->is_private && i < t->ids; i++)
                if (at[i])
                        of->free(a, at[i]);
        if (a)
                of->close(a);
        free(at);
        return ns;
}

/* The smallest memory, all bookkeeping included, in which the trace runs to its end. */
static double trace_least(const struct allocator *of, const struct requests *t)
{
        uint64_t low = 65536, high = 64 << 20;
        while (high - low > 4096) {
                uint64_t mid = low + (high - low) / 2;
                if (trace_run(of, t, mid) < 0)
                        low = mid;
                else
                        high = mid;
        }
        return (double)high;
}

/* ---- locks ---- */

static pthread_mutex_t plain = PTHREAD_MUTEX_INITIALIZER;

static void *sleeper(void *arg)
{
        for (;;)
                pause();
        return NULL;
}

static void run_locks(const char *workload)
{
        wharf_mutex *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        unsigned n = quick ? 200000 : 1000000;
        uint64_t begin = now_ns();
        for (unsigned i = 0; i < n; i++) {
                wharf_mutex_lock(m, WHARF_FOREVER);
                wharf_mutex_unlock(m);
        }
        report(workload, "wharf", "ns", (double)(now_ns() - begin) / n);
        begin = now_ns();
        for (unsigned i = 0; i < n; i++) {
                pthread_mutex_lock(&plain);
                pthread_mutex_unlock(&plain);
        }
        report(workload, "pthread", "ns", (double)(now_ns() - begin) / n);
        munmap(m, 4096);
}

/* In a process of its own: the second thread makes every lock of the C library atomic from then on. */
static void run_locks_apart(void)
{
        int fds[2];
        if (pipe(fds) < 0)
                return;
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
                double v[4];
                run_locks("lock-1");
                pthread_t t;
                pthread_create(&t, NULL, sleeper, NULL);
                run_locks("lock");
                v[0] = result_of("lock", "wharf", "ns")->value[result_of("lock", "wharf", "ns")->n - 1];
                v[1] = result_of("lock", "pthread", "ns")->value[result_of("lock", "pthread", "ns")->n - 1];
                v[2] = result_of("lock-1", "wharf", "ns")->value[result_of("lock-1", "wharf", "ns")->n - 1];
                v[3] = result_of("lock-1", "pthread", "ns")->value[result_of("lock-1", "pthread", "ns")->n - 1];
                _exit(write(fds[1], v, sizeof v) != sizeof v);
        }
        double v[4];
        close(fds[1]);
        if (read(fds[0], v, sizeof v) == sizeof v) {
                report("lock", "wharf", "ns", v[0]);
                report("lock", "pthread", "ns", v[1]);
                report("lock-1", "wharf", "ns", v[2]);
                report("lock-1", "pthread", "ns", v[3]);
        }
        close(fds[0]);
        waitpid(pid, NULL, 0);
}

/* ---- what comes out ---- */

static void print_results(void)
{
        if (!csv)
                printf("%-16s %-15s %-14s %12s   %s\n", "workload", "policy", "metric", "median", "lowest .. highest");
        for (struct result *r = results; r < results + RESULTS_MAX && r->metric; r++) {
                if (!r->n)
                        continue;
                double m = median(r->workload, r->policy, r->metric);
                if (csv)
                        for (unsigned i = 0; i < r->n; i++)
                                printf("heap,%s,%s,%s,%.2f\n", r->workload, r->policy, r->metric, r->value[i]);
                else
                        printf("%-16s %-15s %-14s %12.1f   %.1f .. %.1f\n", r->workload, r->policy, r->metric, m,
                               r->value[0], r->value[r->n - 1]);
        }
}

static int short_of; /* how many lines missed their target */

static void verdict(const char *what, double is, double of, double target)
{
        if (!of || !is)
                return; /* not measured */
        bool pass = is / of <= target;
        short_of += !pass;
        printf("%-58s %8.1f / %-8.1f = %5.2f   <= %.2f   %s\n", what, is, of, is / of, target, pass ? "PASS" : "SHORT");
}

static void print_verdicts(void)
{
        printf("\n%-58s %8s / %-8s = %5s   %s\n", "measure", "wharf", "other", "ratio", "to reach");
        double buddy = median("steady", "buddy", "ns"), boost = median("steady", "boost-best-fit", "ns");
        verdict("buddy, one process, 16 B to 4 KiB: of Boost's best fit", buddy, boost, 0.33);
        verdict("the same: of glibc's malloc", buddy, median("steady", "glibc", "ns"), 2);
        verdict("buddy, two processes: of Boost's best fit", median("steady-2", "buddy", "ns"),
                median("steady-2", "boost-best-fit", "ns"), 0.33);
        for (unsigned i = 0; i < N_TRACES; i++) {
                char what[80];
                snprintf(what, sizeof what, "best fit, %s: of Boost's best fit", traces[i].name);
                verdict(what, median(traces[i].name, "best", "ns"), median(traces[i].name, "boost-best-fit", "ns"),
                        0.6);
                snprintf(what, sizeof what, "best fit, %s: least memory (KiB), of Boost's", traces[i].name);
                verdict(what, median(traces[i].name, "best", "least_bytes") / 1024,
                        median(traces[i].name, "boost-best-fit", "least_bytes") / 1024, 1.02);
        }
        verdict("buddy, 10^6 live blocks: of 10^3", median("live-1000000", "buddy", "ns"),
                median("live-1000", "buddy", "ns"), 2);
        verdict("best fit, 10^6 live blocks: of 10^3", median("live-1000000", "best", "ns"),
                median("live-1000", "best", "ns"), 2);
        verdict("lock, uncontended: of a private pthread mutex", median("lock", "wharf", "ns"),
                median("lock", "pthread", "ns"), 1.5);
        printf("Times in ns: a pair of calls, or one request of a trace. Lock: two threads exist; before there is a "
               "second\n"
               "thread glibc leaves out the atomic steps of a private mutex (lock-1), which no shared lock can.\n");
}

int main(int argc, char **argv)
{
        for (int i = 1; i < argc; i++) {
                if (!strcmp(argv[i], "--csv"))
                        csv = true;
                else if (!strcmp(argv[i], "--quick"))
                        quick = true;
                else if (!strcmp(argv[i], "--rounds") && i + 1 < argc)
                        rounds = (unsigned)atoi(argv[++i]);
                else {
                        fprintf(stderr, "usage: heap_bench [--csv] [--quick] [--rounds N]\n");
                        return 2;
                }
        }
        if (rounds < 1 || rounds > 64)
                rounds = 7;
        for (unsigned i = 0; i < N_TRACES; i++)
                if (!requests_load(&traces[i]))
                        return 1;
        unsigned growth_max = quick ? 100000 : 1000000;
        for (unsigned round = 0; round < rounds; round++) {
                for (unsigned i = 0; i < N_ALLOCATORS; i++) {
                        const struct allocator *of = allocators[i];
                        run_steady(of);
                        run_steady_two(of);
                        for (unsigned k = 0; k < N_TRACES; k++) {
                                double ns = trace_run(of, &traces[k], 256 << 20);
                                if (ns >= 0)
                                        report(traces[k].name, of->policy, "ns", ns);
                                if (round == 0 && of->is_best_fit)
                                        report(traces[k].name, of->policy, "least_bytes", trace_least(of, &traces[k]));
                        }
                        for (unsigned live = 1000; !of->is_linear && live <= growth_max; live *= 10)
                                run_growth(of, live);
                }
                run_locks_apart();
        }
        print_results();
        if (!csv)
                print_verdicts();
        return 0;
}
