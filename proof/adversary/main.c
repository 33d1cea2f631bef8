/*
 * The adversary engine: random programs of hostile moves against honest parties, until the time is over.
 *
 *      adversary_port --quick | --full | --seconds N     and then [--seed N] [--stop] [--workers N] [--save FOLDER]
 *      adversary_port --case SEED                        one program again, as a failure names it; --print shows it
 *      adversary_port --replay FILE                      one that was written down
 *      adversary_port --self-test                        finds the mistakes of toys
 *
 * Somebody who is late asleep must be so again when the same program is tried again: it may have slept for a lock of the
 * kernel's whose holder, another process or a thread of the kernel, had no processor, or for the end of what runs on
 * another one; and nothing tells of that. What was seen once is said, with where it slept, and counted as `once`.
 *
 * What was once found (found/) is tried first, in every tier. Then the programs of seed, seed + 1, ... Each kind of
 * failure is made as short as possible when it is first met, and shown.
 */
#include "oracle.h"
#include "party.h"
#include "program.h"
#include "shrink.h"
#include "world.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
        QUICK_S = 60,
        FULL_S = 600,
        SHRINK_S = 45,      /* for one failure, beyond the time that was asked for too */
        SHRINK_QUICK_S = 8, /* ... in the quick tier */
        WORKERS_MAX = 8,
        KINDS_MAX = 48,
        SHRINK_TRIES = 3, /* a race may need several runs */
        SHRINK_EACH = 3,  /* of each kind so many are made short: the same promise may be broken in several ways */
        TOY_CASES = 150,
        UNABLE_ENOUGH = 3, /* programs that could not be run */
        AGAIN_TRIES = 6,   /* to see somebody asleep for so long once more */
};

struct args {
        uint64_t seed;
        int seconds, workers;
        bool stop, print, have_case, self_test;
        const char *replay, *save;
        uint64_t one_case;
};

/* What was found, by kind; shared by the workers. */
struct finding {
        char kind[48];
        uint64_t seed;
        int64_t at_ns;
        _Atomic uint64_t times;
};

struct run {
        struct states states;
        int64_t began_ns, end_ns;
        _Atomic uint64_t next, next_replay, programs, moves, failed, unable, once;
        _Atomic uint32_t lock, n_kinds, stop;
        struct finding finding[KINDS_MAX];
};

static struct run *run;
static struct args args;

/* ---- one program ---- */

/* Has one of its kind been said before it? */
static bool was_said(const struct verdict *v, uint32_t at)
{
        for (uint32_t i = 0; i < at; i++)
                if (!strcmp(v->violation[i].kind, v->violation[at].kind))
                        return true;
        return false;
}

static void say_failure(const char *name, const struct verdict *v)
{
        for (uint32_t i = 0; i < v->n_violations && i < VIOLATIONS_MAX; i++)
                if (!was_said(v, i))
                        fprintf(stderr, "adversary port: %s: %s: %s\n", name, v->violation[i].kind,
                                v->violation[i].text);
}

static int shrink_tries = SHRINK_TRIES;

static bool fails(const struct program *p, const char *kind)
{
        struct verdict v;
        for (int i = 0; i < shrink_tries && !atomic_load(&run->stop); i++) {
                world_run(p, &v);
                if (v.ran && verdict_has(&v, kind))
                        return true;
        }
        return false;
}

/* May a busy machine bring that about? */
static bool may_be_the_machine(const char *kind)
{
        return !strncmp(kind, "late: ", 6) && !strstr(kind, "busy") && !strstr(kind, "stuck");
}

static bool happens_again(const struct program *p, const char *kind)
{
        struct verdict v;
        for (int i = 0; i < AGAIN_TRIES; i++) {
                world_run(p, &v);
                if (atomic_load(&run->stop) || (v.ran && verdict_has(&v, kind)))
                        return true;
        }
        return false;
}

/* Leaves what is to be believed. */
static void confirm(const char *name, const struct program *p, struct verdict *v)
{
        uint32_t n = 0;
        for (uint32_t i = 0; i < v->n_violations; i++) {
                const struct violation *x = &v->violation[i];
                if (may_be_the_machine(x->kind) && !happens_again(p, x->kind)) {
                        fprintf(stderr, "adversary port: %s: %s: once, and not in %d more runs: %s\n", name, x->kind,
                                AGAIN_TRIES, x->text);
                        atomic_fetch_add(&run->once, 1);
                } else {
                        v->violation[n++] = *x;
                }
        }
        v->n_violations = n;
}

static void show(const struct program *p, FILE *to, const char *kind)
{
        fprintf(to, "# %s; seed %#" PRIx64 "\n", kind, p->seed);
        program_write(p, to);
}

static void save(const struct program *p, const char *kind)
{
        char path[512];
        size_t n = (size_t)snprintf(path, sizeof path, "%s/%" PRIx64 "-", args.save, p->seed);
        for (const char *c = kind; *c && n < sizeof path - 6; c++)
                path[n++] = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') ? *c : '-';
        strcpy(path + n, ".txt");
        FILE *f = fopen(path, "we");
        if (!f)
                return;
        show(p, f, kind);
        fclose(f);
}

/* Counts it: how many of its kind there are now. */
static uint64_t count_of(const char *kind, uint64_t seed)
{
        uint64_t times = 0;
        while (atomic_exchange(&run->lock, 1))
                sched_yield();
        uint32_t n = atomic_load(&run->n_kinds), i = 0;
        while (i < n && strcmp(run->finding[i].kind, kind))
                i++;
        if (i == n && n < KINDS_MAX) {
                struct finding *f = &run->finding[n];
                snprintf(f->kind, sizeof f->kind, "%s", kind);
                f->seed = seed;
                f->at_ns = clock_ns();
                atomic_store(&run->n_kinds, n + 1);
        }
        if (i < KINDS_MAX)
                times = atomic_fetch_add(&run->finding[i].times, 1) + 1;
        atomic_store(&run->lock, 0);
        return times;
}

static void found(const struct program *p, struct verdict *v)
{
        char name[32];
        snprintf(name, sizeof name, "--case %#" PRIx64, p->seed);
        confirm(name, p, v);
        if (!v->n_violations)
                return;
        atomic_fetch_add(&run->failed, 1);
        for (uint32_t i = 0; i < v->n_violations && i < VIOLATIONS_MAX; i++) {
                const char *kind = v->violation[i].kind;
                if (was_said(v, i) || count_of(kind, p->seed) > SHRINK_EACH)
                        continue;
                fprintf(stderr, "adversary port: %s: %s, after %.1f s: %s\n", name, kind,
                        (double)(clock_ns() - run->began_ns) / 1e9, v->violation[i].text);
                if (args.stop)
                        continue;
                struct program q = *p;
                /* What fails three times in a row is asked once from then on. */
                shrink_tries = 1;
                if (!fails(&q, kind) || !fails(&q, kind) || !fails(&q, kind))
                        shrink_tries = SHRINK_TRIES;
                if (!fails(&q, kind)) {
                        fprintf(stderr, "adversary port: %s: %s: not every time\n", name, kind);
                        if (args.save)
                                save(p, kind);
                        continue;
                }
                program_shrink(&q, kind, fails,
                               clock_ns() + (args.seconds > QUICK_S ? SHRINK_S : SHRINK_QUICK_S) * 1000000000ll);
                show(&q, stderr, kind);
                if (args.save)
                        save(&q, kind);
        }
        if (args.stop)
                atomic_store(&run->stop, 1);
}

/* ---- workers ---- */

/* The cases under way are brought to their end, so that nothing is left behind. */
static void on_signal(int sig)
{
        (void)sig;
        atomic_store(&run->stop, 1);
}

/* 0: it does no harm; 1: it does; 2: it could not be run. */
static int replay(const char *path)
{
        struct program p;
        struct verdict v;
        FILE *f = fopen(path, "re");
        int bad = f ? program_read(&p, f) : 1;
        if (f)
                fclose(f);
        if (bad) {
                fprintf(stderr, "adversary port: %s: line %d is no move\n", path, bad);
                return 2;
        }
        world_run(&p, &v);
        if (!v.ran) {
                fprintf(stderr, "adversary port: %s: the honest could not be started\n", path);
                say_failure(path, &v);
                return 2;
        }
        atomic_fetch_add(&run->programs, 1);
        atomic_fetch_add(&run->moves, v.moves);
        if (args.print) {
                for (unsigned i = 0; i < p.n_moves; i++) {
                        printf("%5d  ", v.result[i]);
                        program_move_write(&p.move[i], stdout);
                }
                printf("honest calls: v %" PRIu64 ", r %" PRIu64 ", wharfd %" PRIu64 "\n", v.calls[PEER_V],
                       v.calls[PEER_R], v.calls[PEER_W]);
        }
        if (!args.replay)
                confirm(path, &p, &v);
        if (v.n_violations)
                say_failure(path, &v);
        return v.n_violations > 0;
}

static bool is_text(const struct dirent *d)
{
        const char *dot = strrchr(d->d_name, '.');
        return dot && !strcmp(dot, ".txt");
}

static int is_replay(const struct dirent *d)
{
        return is_text(d);
}

/* One text of found/, if there is one more; of all workers together each once. */
static bool replay_next(void)
{
        struct dirent **list;
        const int n = scandir(ADVERSARY_FOUND, &list, is_replay, alphasort);
        const int at = (int)atomic_fetch_add(&run->next_replay, 1);
        for (int i = 0; i < n; i++) {
                if (i == at) {
                        char path[512];
                        snprintf(path, sizeof path, "%s/%s", ADVERSARY_FOUND, list[i]->d_name);
                        int r = replay(path);
                        for (int again = 0; r == 2 && again < 2;
                             again++) /* a busy machine; none of them is to be left out */
                                r = replay(path);
                        if (r == 1)
                                atomic_fetch_add(&run->failed, 1);
                        else if (r == 2)
                                atomic_fetch_add(&run->unable, 1);
                }
                free(list[i]);
        }
        if (n >= 0)
                free(list);
        return at < n;
}

static void work(unsigned number)
{
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!world_open(number, &run->states))
                _exit(2);
        while (replay_next() && !atomic_load(&run->stop))
                ;
        while (clock_ns() < run->end_ns && !atomic_load(&run->stop)) {
                struct program p;
                struct verdict v;
                program_make(&p, args.seed + atomic_fetch_add(&run->next, 1), false);
                world_run(&p, &v);
                if (!v.ran) {
                        atomic_fetch_add(&run->unable, 1);
                        continue;
                }
                atomic_fetch_add(&run->programs, 1);
                atomic_fetch_add(&run->moves, v.moves);
                if (v.n_violations)
                        found(&p, &v);
        }
        world_close();
        _exit(0);
}

static bool run_workers(void)
{
        pid_t pid[WORKERS_MAX];
        bool good = true;
        for (int i = 0; i < args.workers; i++)
                if (!(pid[i] = fork()))
                        work((unsigned)i + 1);
        for (int i = 0; i < args.workers; i++) {
                int st;
                while (waitpid(pid[i], &st, 0) < 0 && errno == EINTR)
                        ;
                good &= st == 0;
        }
        return good;
}

static int one_case(void)
{
        struct program p;
        struct verdict v;
        char name[32];
        program_make(&p, args.one_case, false);
        if (args.print)
                program_write(&p, stdout);
        world_run(&p, &v);
        if (!v.ran)
                return 2;
        snprintf(name, sizeof name, "%#" PRIx64, p.seed);
        say_failure(name, &v);
        return v.n_violations > 0;
}

/* ---- the engine's own test ---- */

/* Each toy's mistake must be found by programs that attack nothing, and where there is none, nothing. */
static int self_test(void)
{
        static const char *const expected[TOYS] = {
                [TOY_BELIEVES] = "identity: never said", [TOY_SLOW] = "late: receive, busy",
                [TOY_SLEEPS] = "late: receive, asleep",  [TOY_FORGETS_FD] = "left: descriptors",
                [TOY_KEEPS_LINK] = "left: links",        [TOY_ANSWERS_ILL] = "answer: another's",
                [TOY_TELLS] = "private: read",           [TOY_CRASHES] = "crash: signal"};
        int bad = 0;
        for (int toy = TOY_NONE; toy < TOYS; toy++) {
                const int cases = toy == TOY_NONE ? 20 : TOY_CASES;
                struct verdict v;
                int n = 0;
                bool seen = false;
                party_toy = (enum toy)toy;
                for (int unable = 0; n < cases && !seen && unable < UNABLE_ENOUGH; n++) {
                        struct program p;
                        program_make(&p, args.seed + (uint64_t)n, true);
                        world_run(&p, &v);
                        confirm("self-test", &p, &v);
                        unable += !v.ran;
                        seen = v.ran && verdict_has(&v, expected[toy]);
                        if (toy == TOY_NONE && seen)
                                say_failure("without a mistake", &v);
                }
                printf("adversary self-test: %s: %s after %d programs\n", expected[toy] ? expected[toy] : "no mistake",
                       seen ? "found" : "not found", n);
                bad += toy == TOY_NONE ? seen || n < cases : !seen;
        }
        return bad != 0;
}

/* ---- main ---- */

static int usage(const char *program)
{
        fprintf(stderr,
                "usage: %s --quick|--full|--seconds N|--case SEED|--replay FILE|--self-test [--seed N] [--stop]\n"
                "       [--workers N] [--save FOLDER] [--print]\n",
                program);
        return 2;
}

static bool read_args(int argc, char **argv)
{
        for (int i = 1; i < argc; i++) {
                const char *a = argv[i], *value = strchr(a, '=');
                size_t len = value ? (size_t)(value++ - a) : strlen(a);
                const char *const with[] = {"--seed", "--seconds", "--workers", "--case", "--replay", "--save"};
                for (unsigned k = 0; k < sizeof with / sizeof *with && !value; k++)
                        if (!strcmp(a, with[k]) && i + 1 < argc)
                                value = argv[++i];
#define IS(name) (len == sizeof name - 1 && !strncmp(a, name, len))
                if (IS("--quick") || IS("--full"))
                        args.seconds = a[2] == 'q' ? QUICK_S : FULL_S;
                else if (IS("--stop"))
                        args.stop = true;
                else if (IS("--print"))
                        args.print = true;
                else if (IS("--self-test"))
                        args.self_test = true;
                else if (!value)
                        return false;
                else if (IS("--seed"))
                        args.seed = strtoull(value, NULL, 0);
                else if (IS("--seconds"))
                        args.seconds = atoi(value);
                else if (IS("--workers"))
                        args.workers = atoi(value);
                else if (IS("--case")) {
                        args.have_case = true;
                        args.one_case = strtoull(value, NULL, 0);
                } else if (IS("--replay"))
                        args.replay = value;
                else if (IS("--save"))
                        args.save = value;
                else
                        return false;
        }
        if (args.workers < 1 || args.workers > WORKERS_MAX)
                args.workers = 3; /* on two cores, for most of them wait */
        return args.seconds || args.have_case || args.replay || args.self_test;
}

int main(int argc, char **argv)
{
        args.seed = (uint64_t)time(NULL) << 20;
        if (!read_args(argc, argv))
                return usage(argv[0]);
        run = mmap(NULL, sizeof *run, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (run == MAP_FAILED || !world_open(0, &run->states))
                return 2;
        signal(SIGTERM, on_signal);
        signal(SIGINT, on_signal);
        run->began_ns = clock_ns();
        run->end_ns = run->began_ns + args.seconds * 1000000000ll;
        int r = 0;
        if (args.self_test || args.have_case || args.replay) {
                r = args.self_test ? self_test() : args.have_case ? one_case() : replay(args.replay);
                world_close();
                return r;
        }
        if (oracle_same_user)
                fprintf(stderr,
                        "adversary port: not root: the adversary has the user of its victims, whose shares are not "
                        "asked about\n");
        world_close();
        bool good = run_workers();
        for (uint32_t i = 0; i < run->n_kinds; i++)
                fprintf(stderr, "adversary port: %s: %" PRIu64 " times, first after %.1f s, --case %#" PRIx64 "\n",
                        run->finding[i].kind, run->finding[i].times,
                        (double)(run->finding[i].at_ns - run->began_ns) / 1e9, run->finding[i].seed);
        if (run->unable * 10 > run->programs || !run->programs || !good) {
                fprintf(stderr, "adversary port: %" PRIu64 " programs could not be run\n", run->unable);
                r = 2;
        }
        printf("adversary port: programs %" PRIu64 ", moves %" PRIu64 ", distinct states %" PRIu64, run->programs,
               run->moves, run->states.n);
        if (run->once)
                printf(", late once %" PRIu64, run->once);
        if (run->failed)
                printf(", FAILED %" PRIu64, run->failed);
        printf("\n");
        if (run->failed)
                fprintf(stderr, "adversary port: seed %#" PRIx64 "\n", args.seed);
        return run->failed ? 1 : r;
}
