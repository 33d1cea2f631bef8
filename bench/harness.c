#include "harness.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAMPLES_MAX 400000u
#define WARM_UP 0.25           /* of the timed phase */
#define FANIN_TIME 1.5         /* how long fan-in clients send, in timed phases: warm-up, the phase, and some */
#define LARGE_BYTES (64 << 10) /* from here on the clock is read after every message, below after every BURST */
#define BURST 32
#define QUEUE_BYTES (4u << 20)

double bench_ns_per_tick = 1.0;
const char *bench_program = "bench";

static int cores[2];         /* the first that this process may use, found by bench_begin() */
static unsigned n_cores = 0; /* of them */

static const char *const work_names[BENCH_WORKS] = {"pp", "tp", "tphdr", "fanin", "idle"};
static const char *const mode_names[BENCH_MODES] = {"spin", "block", "default"};
static const char *const place_suffixes[BENCH_PLACES] = {"", "/unpinned", "/onecore"};

/* ---- small things ---- */

void bench_die(const char *fmt, ...)
{
        int err = errno;
        va_list ap;
        va_start(ap, fmt);
        fprintf(stderr, "%s: ", bench_program);
        vfprintf(stderr, fmt, ap);
        fprintf(stderr, " (%s)\n", strerror(err));
        va_end(ap);
        _exit(1);
}

void *bench_shared(size_t len_bytes)
{
        void *mem = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (mem == MAP_FAILED)
                bench_die("%zu bytes of shared memory", len_bytes);
        return mem;
}

void bench_shared_free(void *mem, size_t len_bytes)
{
        munmap(mem, len_bytes);
}

void *bench_buffer(size_t len_bytes)
{
        size_t pages = (len_bytes + 4095) & ~(size_t)4095;
        void *mem = aligned_alloc(4096, pages ? pages : 4096);
        if (!mem)
                bench_die("%zu bytes of memory", len_bytes);
        memset(mem, 0x5a, pages ? pages : 4096);
        return mem;
}

void *bench_state(size_t len_bytes)
{
        void *mem = calloc(1, len_bytes);
        if (!mem)
                bench_die("%zu bytes of memory", len_bytes);
        return mem;
}

static uint64_t clock_ns(clockid_t id)
{
        struct timespec ts;
        clock_gettime(id, &ts);
        return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t bench_now_ns(void)
{
        return clock_ns(CLOCK_MONOTONIC);
}

uint64_t bench_cpu_ns(void)
{
        return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

/* 20 ms are enough for one part in ten thousand, which is far below what the machine's noise lets us see. */
static void calibrate(void)
{
        uint64_t ns0 = bench_now_ns(), ticks0 = bench_ticks(), ns, ticks;
        do {
                ns = bench_now_ns();
                ticks = bench_ticks();
        } while (ns - ns0 < 20000000u);
        bench_ns_per_tick = (double)(ns - ns0) / (double)(ticks - ticks0);
}

/* In a container the cores one may use need not begin with core 0. */
static void cores_find(void)
{
        cpu_set_t set;
        if (sched_getaffinity(0, sizeof(set), &set))
                bench_die("sched_getaffinity");
        n_cores = 0;
        for (int i = 0; i < CPU_SETSIZE && n_cores < 2; i++)
                if (CPU_ISSET(i, &set))
                        cores[n_cores++] = i;
}

void bench_begin(void)
{
        signal(SIGPIPE, SIG_IGN);
        cores_find();
        calibrate();
}

unsigned bench_cores(void)
{
        return n_cores;
}

void bench_pin(const struct bench_run *run)
{
        int core = cores[run->place == BENCH_PINNED && run->party ? 1 : 0];
        cpu_set_t set;
        if (run->place == BENCH_UNPINNED)
                return;
        CPU_ZERO(&set);
        CPU_SET(core, &set);
        if (sched_setaffinity(0, sizeof(set), &set))
                bench_die("core %d", core);
}

/* ---- options ---- */

static uint32_t names_to_bits(const char *list, const char *const *names, uint32_t n, bool *bad)
{
        uint32_t bits = 0;
        while (*list) {
                size_t len = strcspn(list, ",");
                uint32_t i = 0;
                while (i < n && (strlen(names[i]) != len || memcmp(names[i], list, len)))
                        i++;
                if (i == n)
                        *bad = true;
                else
                        bits |= BENCH_BIT(i);
                list += len + (list[len] == ',');
        }
        return bits;
}

static uint32_t lens_parse(const char *list, size_t *lens_bytes, bool *bad)
{
        uint32_t n = 0;
        while (*list) {
                char *end;
                unsigned long long len = strtoull(list, &end, 0);
                if (end == list || (*end && *end != ',') || !len || len > (1u << 30) || n == BENCH_LENS_MAX) {
                        *bad = true;
                        return 0;
                }
                lens_bytes[n++] = ((size_t)len + 7) & ~(size_t)7; /* B2 */
                list = end + (*end == ',');
        }
        return n;
}

struct bench_opts bench_options(int argc, char **argv)
{
        struct bench_opts o = {
                .works = BENCH_BIT(BENCH_WORKS) - 1,
                .modes = BENCH_BIT(BENCH_MODES) - 1,
                .phase_s = 0.4,
                .lens_bytes = {8, 64, 256, 4096, 65536, 1048576},
                .n_lens = 6,
        };
        bool bad = false;
        int c;
        while ((c = getopt(argc, argv, "w:m:s:t:u1")) != -1) {
                switch (c) {
                case 'w':
                        o.works = names_to_bits(optarg, work_names, BENCH_WORKS, &bad);
                        break;
                case 'm':
                        o.modes = names_to_bits(optarg, mode_names, BENCH_MODES, &bad);
                        break;
                case 's':
                        o.n_lens = lens_parse(optarg, o.lens_bytes, &bad);
                        break;
                case 't':
                        o.phase_s = strtod(optarg, NULL);
                        bad |= !(o.phase_s > 0 && o.phase_s <= 60);
                        break;
                case 'u':
                        o.place = BENCH_UNPINNED;
                        break;
                case '1':
                        o.place = BENCH_ONECORE;
                        break;
                default:
                        bad = true;
                }
        }
        if (bad || optind != argc) {
                fprintf(stderr,
                        "usage: %s [-w pp,tp,tphdr,fanin,idle] [-m spin,block,default] [-s bytes,...] [-t seconds]"
                        " [-u | -1]\n",
                        argv[0]);
                exit(1);
        }
        setvbuf(stdout, NULL, _IOLBF, 0);
        bench_begin();
        return o;
}

/* ---- results ---- */

static int compare_samples(const void *a, const void *b)
{
        uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
        return (x > y) - (x < y);
}

double bench_quantile(const uint32_t *sorted, size_t n, double p)
{
        return sorted[(size_t)((double)n * p)];
}

void bench_summarize(uint32_t *samples, size_t n, struct bench_result *ret)
{
        qsort(samples, n, sizeof(*samples), compare_samples);
        ret->count_msgs = n;
        ret->min_ns = bench_quantile(samples, n, 0) * bench_ns_per_tick;
        ret->p50_ns = bench_quantile(samples, n, 0.5) * bench_ns_per_tick;
        ret->p99_ns = bench_quantile(samples, n, 0.99) * bench_ns_per_tick;
        ret->p999_ns = bench_quantile(samples, n, 0.999) * bench_ns_per_tick;
}

void bench_print_value(const char *peer, const char *work, const char *mode, size_t len_bytes, const char *metric,
                       double value)
{
        printf("%s,%s,%s,%zu,%s,%.6g\n", peer, work, mode, len_bytes, metric, value);
}

static void mode_print(const struct bench_run *run, char *ret, size_t cap_bytes)
{
        snprintf(ret, cap_bytes, "%s%s", mode_names[run->mode], place_suffixes[run->place]);
}

static void value_print(const struct bench_run *run, const char *metric, double value)
{
        char mode[32];
        mode_print(run, mode, sizeof(mode));
        bench_print_value(run->peer->name, work_names[run->work], mode, run->len_bytes, metric, value);
}

void bench_print(const struct bench_run *run)
{
        const struct bench_result *r = run->result;
        switch (run->work) {
        case BENCH_PP:
                value_print(run, "min_ns", r->min_ns);
                value_print(run, "p50_ns", r->p50_ns);
                value_print(run, "p99_ns", r->p99_ns);
                value_print(run, "p999_ns", r->p999_ns);
                break;
        case BENCH_IDLE:
                value_print(run, "cpu_ns_per_s", r->cpu_ns);
                break;
        default:
                value_print(run, "msg_per_s", (double)r->count_msgs * 1e9 / r->elapsed_ns);
                value_print(run, "GB_per_s", (double)r->count_msgs * (double)run->len_bytes / r->elapsed_ns);
        }
}

/* A remark: a line that readers of the figures skip. */
static void remark_print(const struct bench_run *run, const char *what, const char *why)
{
        char mode[32];
        mode_print(run, mode, sizeof(mode));
        printf("# %s,%s,%s,%zu %s%s\n", run->peer->name, work_names[run->work], mode, run->len_bytes, what, why);
}

/* ---- what the parties do ---- */

static inline void send_msg(struct bench_run *run, void *buf, uint64_t word)
{
        bench_set_word(buf, word);
        run->peer->send(run, buf, run->len_bytes);
}

static inline void recv_msg(struct bench_run *run, void *buf)
{
        run->peer->recv(run, buf, run->len_bytes);
}

static uint64_t deadline_in(double seconds)
{
        return bench_ticks() + bench_ticks_of_s(seconds);
}

static void pp_client(struct bench_run *run)
{
        void *buf = bench_buffer(run->len_bytes);
        uint32_t *samples = bench_buffer(SAMPLES_MAX * sizeof(*samples)); /* touched now, not while the clock runs */
        size_t n = 0;

        for (uint64_t end = deadline_in(run->phase_s * WARM_UP); bench_ticks() < end;) {
                send_msg(run, buf, BENCH_MORE);
                recv_msg(run, buf);
        }
        for (uint64_t end = deadline_in(run->phase_s), after = 0; n < SAMPLES_MAX && after < end;) {
                uint64_t before = bench_ticks();
                send_msg(run, buf, BENCH_MORE);
                recv_msg(run, buf);
                after = bench_ticks();
                samples[n++] = after - before < UINT32_MAX ? (uint32_t)(after - before) : UINT32_MAX;
        }
        send_msg(run, buf, BENCH_LAST);
        recv_msg(run, buf);
        bench_summarize(samples, n, run->result);
        run->result->ok = 1;
        free(samples);
        free(buf);
}

static void pp_server(struct bench_run *run)
{
        void *buf = bench_buffer(run->len_bytes);
        uint64_t word;
        do {
                recv_msg(run, buf);
                word = bench_word(buf);
                send_msg(run, buf, word);
        } while (word != BENCH_LAST);
        free(buf);
}

static inline void send_one_way(struct bench_run *run, void *buf, uint64_t word)
{
        if (run->work == BENCH_TPHDR)
                run->peer->send_word(run, word, run->len_bytes);
        else
                send_msg(run, buf, word);
}

/* Timed from the first send until the server says that it has read the last message. */
static void tp_client(struct bench_run *run)
{
        void *buf = bench_buffer(run->len_bytes), *answer = bench_buffer(run->len_bytes);
        unsigned burst = run->len_bytes >= LARGE_BYTES ? 1 : BURST;
        uint64_t start = 0, n = 0;

        for (int timed = 0; timed < 2; timed++) {
                uint64_t end = deadline_in(run->phase_s * (timed ? 1 : WARM_UP));
                start = bench_ticks();
                n = 0;
                do {
                        for (unsigned i = 0; i < burst; i++)
                                send_one_way(run, buf, BENCH_MORE);
                        n += burst;
                } while (bench_ticks() < end);
                send_one_way(run, buf, timed ? BENCH_LAST : BENCH_FLUSH);
                n++;
                recv_msg(run, answer);
        }
        run->result->elapsed_ns = (double)(bench_ticks() - start) * bench_ns_per_tick;
        run->result->count_msgs = n;
        run->result->ok = 1;
        free(answer);
        free(buf);
}

/* Receives one message, in place where the peer can. Reads every byte if `expected` says what their sum must be. */
static inline uint64_t recv_one_way(struct bench_run *run, void *buf, const uint64_t *expected)
{
        const void *msg = buf;
        uint64_t word;
        if (run->peer->view)
                msg = run->peer->view(run, run->len_bytes);
        else
                recv_msg(run, buf);
        word = bench_word(msg);
        if (expected && bench_sum((const char *)msg + 8, run->len_bytes - 8) != *expected)
                bench_die("%s delivered a damaged message", run->peer->name);
        if (run->peer->done && run->peer->view)
                run->peer->done(run);
        return word;
}

static void tp_server(struct bench_run *run)
{
        void *buf = bench_buffer(run->len_bytes), *answer = bench_buffer(run->len_bytes);
        uint64_t sum = bench_sum((char *)buf + 8, run->len_bytes - 8), word;
        do {
                word = recv_one_way(run, buf, run->work == BENCH_TPHDR ? NULL : &sum);
                if (word != BENCH_MORE)
                        send_msg(run, answer, word);
        } while (word != BENCH_LAST);
        free(answer);
        free(buf);
}

static void fanin_client(struct bench_run *run)
{
        void *buf = bench_buffer(run->len_bytes);
        uint64_t end = deadline_in(run->phase_s * FANIN_TIME);
        do {
                for (unsigned i = 0; i < BURST; i++)
                        send_msg(run, buf, BENCH_MORE);
        } while (bench_ticks() < end);
        send_msg(run, buf, BENCH_LAST);
        free(buf);
}

/* Counts from the end of the warm-up until the first client stops: while all of them send. */
static void fanin_server(struct bench_run *run)
{
        void *buf = bench_buffer(run->len_bytes);
        uint64_t sum = bench_sum((char *)buf + 8, run->len_bytes - 8), warm = bench_ticks_of_s(run->phase_s * WARM_UP);
        uint64_t first = 0, start = 0, stop = 0, n = 0;

        for (uint32_t sending = run->clients; sending;) {
                uint64_t word = recv_one_way(run, buf, &sum);
                if (!stop && (++n % BURST == 0) && !start) {
                        uint64_t now = bench_ticks();
                        if (!first)
                                first = now;
                        if (now - first > warm) {
                                start = now;
                                n = 0;
                        }
                }
                if (word == BENCH_LAST) {
                        if (!stop)
                                stop = bench_ticks();
                        sending--;
                }
        }
        if (start && stop > start && n) {
                run->result->count_msgs = n;
                run->result->elapsed_ns = (double)(stop - start) * bench_ns_per_tick;
                run->result->ok = 1;
        }
        free(buf);
}

static void idle_server(struct bench_run *run)
{
        void *buf = bench_buffer(run->len_bytes);
        uint64_t before;
        recv_msg(run, buf); /* what connecting costs is not what waiting costs */
        send_msg(run, buf, BENCH_MORE);
        before = bench_cpu_ns();
        recv_msg(run, buf);
        run->result->cpu_ns = (double)(bench_cpu_ns() - before);
        send_msg(run, buf, BENCH_LAST);
        run->result->ok = 1;
        free(buf);
}

static void idle_client(struct bench_run *run)
{
        void *buf = bench_buffer(run->len_bytes);
        send_msg(run, buf, BENCH_MORE);
        recv_msg(run, buf);
        sleep(1);
        send_msg(run, buf, BENCH_LAST);
        recv_msg(run, buf);
        free(buf);
}

bool bench_party_measures(const struct bench_run *run)
{
        bool by_server = run->work == BENCH_FANIN || run->work == BENCH_IDLE;
        return by_server == (run->party == 0);
}

void bench_party(struct bench_run *run)
{
        switch (run->work) {
        case BENCH_PP:
                return run->party ? pp_client(run) : pp_server(run);
        case BENCH_TP:
        case BENCH_TPHDR:
                return run->party ? tp_client(run) : tp_server(run);
        case BENCH_FANIN:
                return run->party ? fanin_client(run) : fanin_server(run);
        case BENCH_IDLE:
                return run->party ? idle_client(run) : idle_server(run);
        case BENCH_WORKS:
                break;
        }
        bench_die("workload %d", (int)run->work);
}

/* ---- processes ---- */

/*
 * [bench-barrier] Acquire and release on both sides, here and in the other parties: what a party did before it
 * arrived has happened for all who leave. Sleeps, since parties may share a core.
 */
static void barrier_wait(struct bench_result *r, uint32_t parties)
{
        __atomic_add_fetch(&r->arrived, 1, __ATOMIC_ACQ_REL);
        while (__atomic_load_n(&r->arrived, __ATOMIC_ACQUIRE) < parties)
                usleep(200);
}

static void party_process(struct bench_run *run, uint32_t party, pid_t parent)
{
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
                _exit(1);
        alarm((unsigned)(run->phase_s * 4) + 30); /* a peer that hangs is a failed measurement, not a hung benchmark */
        run->party = party;
        bench_pin(run);
        if (run->peer->join)
                run->peer->join(run);
        barrier_wait(run->result, run->clients + 1);
        bench_party(run);
        /* Nobody leaves before all are done: some libraries drop what is queued when a process exits. */
        barrier_wait(run->result, 2 * (run->clients + 1));
        _exit(0);
}

/* Waits for all; when one fails, ends the others, which may be waiting for it. */
static bool parties_reap(const pid_t *pids, uint32_t n)
{
        bool alive[BENCH_FANIN_CLIENTS + 1], ok = true;
        for (uint32_t i = 0; i < n; i++)
                alive[i] = true;
        for (uint32_t left = n; left;) {
                int status;
                pid_t pid = waitpid(-1, &status, 0);
                if (pid < 0)
                        bench_die("waitpid");
                for (uint32_t i = 0; i < n; i++) {
                        if (!alive[i] || pids[i] != pid)
                                continue;
                        alive[i] = false;
                        left--;
                        if (WIFEXITED(status) && !WEXITSTATUS(status))
                                continue;
                        ok = false;
                        for (uint32_t k = 0; k < n; k++)
                                if (alive[k])
                                        kill(pids[k], SIGKILL);
                }
        }
        return ok;
}

enum bench_outcome bench_measure(struct bench_run *run, struct bench_result *ret, const char **ret_why)
{
        enum bench_outcome outcome = BENCH_MEASURED;
        pid_t pids[BENCH_FANIN_CLIENTS + 1];
        uint32_t parties = run->clients + 1;

        run->result = bench_shared(sizeof(*run->result));
        *ret_why = run->peer->open(run);
        if (*ret_why) {
                bench_shared_free(run->result, sizeof(*run->result));
                run->result = NULL;
                return BENCH_SKIPPED;
        }
        fflush(stdout);
        pid_t parent = getpid();
        for (uint32_t i = 0; i < parties; i++) {
                pids[i] = fork();
                if (pids[i] < 0)
                        bench_die("fork");
                if (pids[i] == 0)
                        party_process(run, i, parent);
        }
        if (!parties_reap(pids, parties)) {
                outcome = BENCH_FAILED;
        } else if (!run->result->ok) {
                outcome = BENCH_FAILED;
                *ret_why = "there was no time in which all clients sent";
        } else {
                *ret = *run->result;
        }
        if (run->peer->close)
                run->peer->close(run);
        bench_shared_free(run->result, sizeof(*run->result));
        run->result = NULL;
        return outcome;
}

static bool measure_and_print(struct bench_run *run)
{
        struct bench_result result;
        const char *why;
        switch (bench_measure(run, &result, &why)) {
        case BENCH_MEASURED:
                run->result = &result;
                bench_print(run);
                return true;
        case BENCH_SKIPPED:
                remark_print(run, "skipped: ", why);
                return true;
        case BENCH_FAILED:
                break;
        }
        remark_print(run, why ? "failed: " : "failed", why ? why : "");
        return false;
}

uint32_t bench_depth_msgs(size_t len_bytes)
{
        size_t n = QUEUE_BYTES / len_bytes;
        return n < 4 ? 4 : n > 1024 ? 1024 : (uint32_t)n;
}

/* Four clients that spin on one core, or a spinning wait of a second, show nothing where the peer can sleep. */
static bool mode_fits(const struct bench_peer *peer, enum bench_work work, enum bench_mode mode)
{
        if (work != BENCH_FANIN && work != BENCH_IDLE)
                return true;
        return mode != BENCH_SPIN || !(peer->modes & BENCH_BIT(BENCH_BLOCK));
}

unsigned bench_each(const struct bench_opts *opts, const struct bench_peer *peer,
                    bool (*measure)(struct bench_run *run))
{
        unsigned failed = 0;
        for (enum bench_work work = 0; work < BENCH_WORKS; work++) {
                bool many = work != BENCH_FANIN && work != BENCH_IDLE && !peer->only_len_bytes;
                if (!(peer->works & opts->works & BENCH_BIT(work)))
                        continue;
                for (enum bench_mode mode = 0; mode < BENCH_MODES; mode++) {
                        if (!(peer->modes & opts->modes & BENCH_BIT(mode)) || !mode_fits(peer, work, mode))
                                continue;
                        for (uint32_t i = 0; i < (many ? opts->n_lens : 1); i++) {
                                struct bench_run run = {
                                        .peer = peer,
                                        .work = work,
                                        .mode = mode,
                                        .place = opts->place,
                                        .len_bytes = many                   ? opts->lens_bytes[i]
                                                     : peer->only_len_bytes ? peer->only_len_bytes
                                                                            : BENCH_FANIN_BYTES,
                                        .clients = work == BENCH_FANIN ? BENCH_FANIN_CLIENTS : 1,
                                        .phase_s = opts->phase_s,
                                };
                                run.depth_msgs = bench_depth_msgs(run.len_bytes);
                                failed += !measure(&run);
                        }
                }
        }
        return failed;
}

int bench_main(int argc, char **argv, const struct bench_peer *peers, size_t n_peers)
{
        struct bench_opts opts = bench_options(argc, argv);
        unsigned failed = 0;
        if (opts.place == BENCH_PINNED && bench_cores() < 2) {
                fprintf(stderr, "bench: one core only; use -1\n");
                return 1;
        }
        for (size_t i = 0; i < n_peers; i++)
                failed += bench_each(&opts, &peers[i], measure_and_print);
        return failed ? 1 : 0;
}
