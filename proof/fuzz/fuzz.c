/*
 * fuzz - the main program of every target: `fuzz_NAME [--quick|--full|--long] [--seed N] [--seeds] [FILE...]`.
 *
 * The fuzzer itself is libFuzzer's, which is clang's. Built with another compiler (FUZZ_REPLAY) the same program runs
 * the corpus through the target and makes nothing up: the regressions are tried everywhere.
 */
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RUNS = 1500 /* inputs of the quick tier: about a second */, FULL_S = 60, INPUT_MAX = 4096, HANG_S = 20 };

void fuzz_broken(const char *what, const char *file, int line)
{
        fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
        abort();
}

static int next_free(void)
{
        int fd = fcntl(2, F_DUPFD_CLOEXEC, 3);
        close(fd);
        return fd;
}

bool wh_os_closer_rest(long long deadline_ns) __attribute__((weak)); /* not in every target */

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
        static bool warm;
        if (!warm) { /* what the library opens once a process */
                struct fuzz_in none = {bytes, bytes};
                warm = true;
                fuzz_one(&none);
        }
        struct fuzz_in in = {bytes, bytes + len};
        int before = next_free();
        fuzz_one(&in);
        if (wh_os_closer_rest) /* some are closed by a thread of the library's own (os/closer.h) */
                wh_os_closer_rest(INT64_MAX);
        FUZZ_CHECK(next_free() == before);
        return 0;
}

/* ---- seeds ---- */

void fuzz_seed(const char *name, const void *bytes, size_t len)
{
        char path[600];
        snprintf(path, sizeof path, "%s/seed-%s", FUZZ_CORPUS, name);
        FILE *f = fopen(path, "w");
        if (!f || fwrite(bytes, 1, len, f) != len || fclose(f))
                fuzz_broken("a seed is written", __FILE__, __LINE__);
}

/* Runs all files of the corpus, or those named. How many. */
static uint64_t replay_file(const char *path)
{
        uint8_t bytes[1 << 16];
        FILE *f = fopen(path, "r");
        size_t n = f ? fread(bytes, 1, sizeof bytes, f) : 0;
        if (f)
                fclose(f);
        uint8_t *exact = malloc(n + 1); /* of its own size, so that the sanitizers see who reads on */
        if (exact)
                memcpy(exact, bytes, n);
        uint8_t *fit = realloc(exact, n ? n : 1);
        if (fit)
                LLVMFuzzerTestOneInput(fit, n);
        free(fit);
        return fit != NULL;
}

/* ---- the fuzzer ---- */

#ifdef FUZZ_REPLAY

static uint64_t replay_all(void)
{
        uint64_t n = 0;
        DIR *d = opendir(FUZZ_CORPUS);
        for (struct dirent *e; d && (e = readdir(d));) {
                char path[700];
                snprintf(path, sizeof path, "%s/%s", FUZZ_CORPUS, e->d_name);
                if (e->d_name[0] != '.')
                        n += replay_file(path);
        }
        if (d)
                closedir(d);
        return n;
}

static int run(const char *tier, uint32_t seed)
{
        (void)tier;
        (void)seed;
        printf("fuzz %s: inputs %" PRIu64 ", without clang: only the corpus\n", FUZZ_NAME, replay_all());
        return 0;
}

#else

int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*one)(const uint8_t *bytes, size_t len));
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
        /* A message may claim to be larger than the machine: then there is no memory for it, rather than a machine. */
        return "max_allocation_size_mb=256:allocator_may_return_null=1:"
               "detect_stack_use_after_return=0:handle_abort=1";
}

static int unlink_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
        (void)st;
        (void)flag;
        (void)ftw;
        return remove(path);
}

/* The figures of libFuzzer's report: "#123 NEW    cov: 456 ft: ..." and the statistics at its end. */
static void figures(FILE *log, uint64_t *ret_inputs, uint64_t *ret_edges)
{
        char line[4096];
        rewind(log);
        while (fgets(line, sizeof line, log)) {
                const char *at = strstr(line, " cov: ");
                if (line[0] == '#' && at)
                        *ret_edges = strtoull(at + 6, NULL, 10);
                if (!strncmp(line, "stat::number_of_executed_units:", 31))
                        *ret_inputs = strtoull(line + 31, NULL, 10);
        }
}

static void tell(FILE *log)
{
        char line[4096];
        rewind(log);
        while (fgets(line, sizeof line, log))
                if (line[0] != '#')
                        fputs(line, stderr);
}

static int run(const char *tier, uint32_t seed)
{
        const bool quick = !strcmp(tier, "--quick"), unbounded = !strcmp(tier, "--long");
        char found[600], runs[64], seed_arg[64], most[64], hang[64], prefix[700], own[600];
        snprintf(own, sizeof own, "%s/fuzz_%s-found", FUZZ_BUILD, FUZZ_NAME); /* what it came upon, by hand only */
        mkdir(own, 0700);
        snprintf(found, sizeof found, "/tmp/wharf-fuzz.XXXXXX");
        if (!mkdtemp(found))
                return 2;
        if (quick)
                snprintf(runs, sizeof runs, "-runs=%d", RUNS);
        else
                snprintf(runs, sizeof runs, "-max_total_time=%d", unbounded ? 0 : FULL_S);
        snprintf(seed_arg, sizeof seed_arg, "-seed=%u", seed);
        snprintf(most, sizeof most, "-max_len=%d", INPUT_MAX);
        snprintf(hang, sizeof hang, "-timeout=%d", HANG_S);
        snprintf(prefix, sizeof prefix, "-artifact_prefix=%s/", own);
        char *args[] = {(char *)(uintptr_t) "fuzz_" FUZZ_NAME,
                        runs,
                        seed_arg,
                        most,
                        hang,
                        prefix,
                        (char *)(uintptr_t) "-print_final_stats=1",
                        (char *)(uintptr_t) "-len_control=0",
                        (char *)(uintptr_t) "-reload=0",
                        (char *)(uintptr_t) "-use_value_profile=0",
                        (char *)(uintptr_t) "-rss_limit_mb=1500",
                        unbounded ? own : found,
                        (char *)(uintptr_t)FUZZ_CORPUS,
                        NULL};
        FILE *log = unbounded ? NULL : tmpfile();
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
                int argc = sizeof args / sizeof *args - 1;
                char **argv = args;
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (log)
                        dup2(fileno(log), 2);
                exit(LLVMFuzzerRunDriver(&argc, &argv, LLVMFuzzerTestOneInput));
        }
        int status = -1;
        while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        uint64_t inputs = 0, edges = 0;
        if (log)
                figures(log, &inputs, &edges);
        bool bad = status != 0;
        if (bad && log)
                tell(log);
        if (log)
                printf("fuzz %s: inputs %" PRIu64 ", edges %" PRIu64 "%s\n", FUZZ_NAME, inputs, edges,
                       bad ? ", FAILED 1" : "");
        if (bad)
                fprintf(stderr, "fuzz %s: seed %u; what it found is in %s\n", FUZZ_NAME, seed, own);
        nftw(found, unlink_one, 8, FTW_DEPTH | FTW_PHYS);
        if (log)
                fclose(log);
        return bad;
}

#endif

int main(int argc, char **argv)
{
        const char *tier = "--full";
        uint32_t seed = (uint32_t)time(NULL) ^ (uint32_t)getpid() << 16;
        int files = 0;
        for (int i = 1; i < argc; i++) {
                if (!strcmp(argv[i], "--quick") || !strcmp(argv[i], "--full") || !strcmp(argv[i], "--long"))
                        tier = argv[i];
                else if (!strncmp(argv[i], "--seed=", 7))
                        seed = (uint32_t)strtoul(argv[i] + 7, NULL, 0);
                else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
                        seed = (uint32_t)strtoul(argv[++i], NULL, 0);
                else if (!strcmp(argv[i], "--stop"))
                        continue; /* the first finding is the last in any case */
                else if (!strcmp(argv[i], "--seeds")) {
                        mkdir(FUZZ_CORPUS, 0777);
                        fuzz_seeds();
                        return 0;
                } else if (argv[i][0] == '-') {
                        fprintf(stderr, "usage: %s [--quick|--full|--long] [--seed N] [--seeds] [FILE...]\n", argv[0]);
                        return 2;
                } else {
                        replay_file(argv[i]);
                        files++;
                }
        }
        return files ? 0 : run(tier, seed ? seed : 1);
}
