#include "case.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <linux/sockios.h>
#include <unistd.h>

enum { FAILURES_ENOUGH = 8 }; /* where failure is expected, more of them say no more */

static struct proof_report *report; /* made once, by the driver */
static struct proof_ledger *ledger;

uint64_t proof_hash(uint64_t h, const void *bytes, size_t len)
{
        /*
         * Words, then the rest; multiply and fold as wyhash does. Speed matters: whole lanes are hashed at every kill.
         */
        const uint8_t *b = bytes;
        h ^= len * 0x9e3779b97f4a7c15u;
        for (; len >= 8; len -= 8, b += 8) {
                uint64_t w;
                memcpy(&w, b, 8);
                __uint128_t m = (__uint128_t)(h ^ w ^ 0xa0761d6478bd642fu) * 0xe7037ed1a0b428dbu;
                h = (uint64_t)m ^ (uint64_t)(m >> 64);
        }
        for (; len; len--, b++)
                h = (h ^ *b) * 0x100000001b3u;
        return h ^ h >> 29;
}

uint64_t proof_sum(const void *bytes, size_t len)
{
        return proof_hash(0x5eed, bytes, len);
}

uint64_t proof_random(struct proof *p)
{
        /* splitmix64 (Steele, Lea, Flood 2014). */
        uint64_t z = p->seed += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
}

void proof_fail(struct proof *p, const char *file, int line, const char *fmt, ...)
{
        hook_disarm();
        int first = 0;
        if (atomic_compare_exchange_strong_explicit(&p->report_->failed, &first, 1, memory_order_relaxed,
                                                    memory_order_relaxed)) {
                const char *base = strrchr(file, '/');
                char *why = p->report_->why;
                size_t cap = sizeof p->report_->why;
                int n = snprintf(why, cap, "%s:%d: ", base ? base + 1 : file, line);
                va_list ap;
                va_start(ap, fmt);
                vsnprintf(why + n, cap - (size_t)n, fmt, ap);
                va_end(ap);
        }
        _exit(PROOF_EXIT_CHECK);
}

/* ---- the ledger ---- */

void proof_ledger_intent(struct proof *p, const void *bytes, size_t len)
{
        uint64_t n = atomic_load(&p->ledger->intent);
        PROOF_CHECK(p, n < PROOF_LEDGER_MESSAGES);
        p->ledger->sum[n] = proof_sum(bytes, len);
        atomic_store(&p->ledger->intent, n + 1);
}

void proof_ledger_sent(struct proof *p)
{
        atomic_store(&p->ledger->sent, atomic_load(&p->ledger->sent) + 1);
}

void proof_ledger_received(struct proof *p, const void *bytes, size_t len)
{
        uint64_t n = atomic_load(&p->ledger->received);
        if (n >= atomic_load(&p->ledger->intent))
                proof_fail(p, __FILE__, __LINE__, "message %" PRIu64 " was received and never sent", n);
        if (p->ledger->sum[n] != proof_sum(bytes, len))
                proof_fail(p, __FILE__, __LINE__, "message %" PRIu64 " is out of order or damaged", n);
        atomic_store(&p->ledger->received, n + 1);
}

void proof_ledger_balance(struct proof *p, uint64_t lost)
{
        uint64_t intent = atomic_load(&p->ledger->intent), sent = atomic_load(&p->ledger->sent),
                 received = atomic_load(&p->ledger->received);
        if (received + lost < sent)
                proof_fail(p, __FILE__, __LINE__,
                           "%" PRIu64 " were reported as sent, %" PRIu64 " received, %" PRIu64 " reported lost", sent,
                           received, lost);
        if (received > intent || intent - sent > 1)
                proof_fail(p, __FILE__, __LINE__, "%" PRIu64 " begun, %" PRIu64 " sent, %" PRIu64 " received", intent,
                           sent, received);
}

/* ---- what a process holds ---- */

/* What a survivor could learn from a descriptor, folded into one number. Inode numbers differ from run to run. */
static uint64_t fd_state(int fd, bool deep)
{
        struct stat st;
        if (fstat(fd, &st) < 0)
                return 0;
        uint64_t v[6] = {(uint64_t)fd, st.st_mode & S_IFMT};
        if (deep) {
                int n = 0;
                struct pollfd pf = {.fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP};
                if (poll(&pf, 1, 0) > 0)
                        v[2] = (uint64_t)pf.revents;
                if ((S_ISSOCK(st.st_mode) || S_ISFIFO(st.st_mode)) && ioctl(fd, FIONREAD, &n) == 0)
                        v[3] = (uint64_t)n;
                if (S_ISSOCK(st.st_mode) && ioctl(fd, SIOCOUTQ, &n) == 0)
                        v[4] = n != 0; /* counts buffers with their overhead: only "something" is stable */
                if (S_ISREG(st.st_mode))
                        v[5] = (uint64_t)st.st_size * 64 + (uint64_t)(fcntl(fd, F_GET_SEALS) & 63);
        }
        return proof_hash(1, v, sizeof v);
}

bool wh_os_closer_rest(long long deadline_ns) __attribute__((weak)); /* not in every program */

/* The sum over all descriptors, so that the order of the directory does not matter. */
static uint64_t fds_state(bool deep, unsigned *ret_n)
{
        uint64_t sum = 0;
        unsigned n = 0;
        /* Some are closed by a thread of the library's own (os/closer.h). */
        if (wh_os_closer_rest)
                wh_os_closer_rest(INT64_MAX);
        DIR *d = opendir("/proc/self/fd");
        if (d) {
                for (struct dirent *e; (e = readdir(d));) {
                        if (e->d_name[0] == '.' || atoi(e->d_name) == dirfd(d))
                                continue;
                        sum += fd_state(atoi(e->d_name), deep);
                        n++;
                }
                closedir(d);
        }
        *ret_n = n;
        return sum;
}

/* ---- who is who ---- */

/* The place of the next party; taken before it is forked, so that it does not depend on who runs first. */
static unsigned party_next(struct proof_report *rep)
{
        return rep->n_parties < PROOF_PARTIES ? rep->n_parties++ : PROOF_PARTIES - 1;
}

static void party_is_me(struct proof_report *rep, unsigned i)
{
        struct stat st;
        int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
        rep->party[i][1] = fd >= 0 && fstat(fd, &st) == 0 ? (uint32_t)st.st_ino : 0;
        rep->party[i][0] = (uint32_t)getpid();
        close(fd);
}

/* A word that is a number of one of the case's processes, flags aside, is replaced by its role. */
static uint32_t role_of(const struct proof_report *rep, uint32_t word)
{
        enum { FLAGS = 0xfe000000 }; /* of a task's lower half, as os/task.h makes it */
        for (unsigned i = 0; i < rep->n_parties; i++) {
                if (rep->party[i][0] && (word & ~(uint32_t)FLAGS) == rep->party[i][0])
                        return 0x1f0000 + i + (word & FLAGS);
                if (rep->party[i][1] && word == rep->party[i][1])
                        return 0x1f1000 + i;
        }
        return word;
}

/* A range's bytes, with process numbers replaced by their roles: those differ from case to case, and mean the same. */
static uint64_t range_hash(uint64_t h, const struct hook_range *r)
{
        enum { BLOCK = 1024, BYTES_MAX = 1 << 20 };
        uint32_t words[BLOCK];
        size_t len = r->len < BYTES_MAX ? r->len : BYTES_MAX;
        for (size_t at = 0; at < len; at += sizeof words) {
                size_t k = len - at < sizeof words ? len - at : sizeof words;
                /* By the kernel: what lies behind a mapping may be shorter than it just now. */
                struct iovec to = {words, k}, from = {r->at + at, k};
                ssize_t got = process_vm_readv(getpid(), &to, 1, &from, 1, 0);
                k = got > 0 ? (size_t)got : 0;
                for (size_t i = 0; i < k / 4; i++)
                        if (words[i])
                                words[i] = role_of(report, words[i]);
                h = proof_hash(h, words, k);
        }
        return h;
}

uint64_t proof_state_hash(void)
{
        unsigned n, n_fds;
        const struct hook_range *r = hook_ranges(&n);
        uint64_t h = 7;
        for (unsigned i = 0; i < n; i++)
                h = range_hash(h, &r[i]);
        uint64_t f = fds_state(true, &n_fds);
        return proof_hash(h, &f, sizeof f);
}

/* Named things in `dir` that carry this process's number in their names, as everything a proof makes must. */
static unsigned named_after_me(const char *dir)
{
        char me[16];
        snprintf(me, sizeof me, "%d", (int)getpid());
        unsigned n = 0;
        DIR *d = opendir(dir);
        if (d) {
                for (struct dirent *e; (e = readdir(d));)
                        n += strstr(e->d_name, me) != NULL;
                closedir(d);
        }
        return n;
}

/* System V segments made by this process or one of its children, which the report remembers no names of. */
static unsigned sysv_segments(void)
{
        FILE *f = fopen("/proc/sysvipc/shm", "re");
        char line[512];
        unsigned n = 0;
        while (f && fgets(line, sizeof line, f)) {
                int creator = 0;
                if (sscanf(line, "%*s %*s %*s %*s %d", &creator) == 1 && creator == (int)getpid())
                        n++;
        }
        if (f)
                fclose(f);
        return n;
}

static uint64_t shared_bytes(void)
{
        FILE *f = fopen("/proc/self/maps", "re");
        char line[512];
        uint64_t sum = 0;
        while (f && fgets(line, sizeof line, f)) {
                uint64_t lo, hi;
                char perms[8];
                if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &lo, &hi, perms) == 3 && perms[3] == 's')
                        sum += hi - lo;
        }
        if (f)
                fclose(f);
        return sum;
}

static unsigned children(void)
{
        char path[64], buf[256];
        snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? 0 : read(fd, buf, sizeof buf);
        if (fd >= 0)
                close(fd);
        unsigned count = 0;
        for (ssize_t i = 0; i < n; i++)
                count += buf[i] == ' ';
        return count;
}

void proof_world_look(struct proof_world *ret)
{
        ret->fds_hash = fds_state(false, &ret->fds);
        ret->shared_bytes = shared_bytes();
        ret->children = children();
        ret->segments = named_after_me("/dev/shm") + sysv_segments();
}

const char *proof_world_differs(const struct proof_world *before, const struct proof_world *after)
{
        static char text[200];
        if (before->fds == after->fds && before->fds_hash == after->fds_hash &&
            before->shared_bytes == after->shared_bytes && before->children == after->children &&
            before->segments == after->segments)
                return NULL;
        snprintf(text, sizeof text,
                 "left behind: descriptors %u -> %u%s, shared bytes %" PRIu64 " -> %" PRIu64
                 ", processes %u -> %u, named segments %u -> %u",
                 before->fds, after->fds,
                 before->fds == after->fds && before->fds_hash != after->fds_hash ? " (others)" : "",
                 before->shared_bytes, after->shared_bytes, before->children, after->children, before->segments,
                 after->segments);
        return text;
}

/* ---- cases ---- */

const struct proof_report *proof_reported(void)
{
        return report;
}

static void report_make(void)
{
        if (report)
                return;
        report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        ledger = mmap(NULL, sizeof *ledger, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (report == MAP_FAILED || ledger == MAP_FAILED) {
                perror("proof: mmap");
                exit(2);
        }
}

static void case_process(const struct proof_args *args, const struct proof_op *op,
                         void (*fn)(struct proof *p, const void *plan), const void *plan, bool quiet)
{
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (quiet) {
                /* Sanitizers tell a page about each; enough were seen. */
                int null = open("/dev/null", O_WRONLY);
                dup2(null, 2);
                close(null);
        }
        prctl(PR_SET_CHILD_SUBREAPER, 1);
        struct proof p = {.op = op, .ledger = ledger, .seed = args->seed, .report_ = report};
        p.state = calloc(1, op->state_bytes ? op->state_bytes : 1);
        hook_keep_on_fork = op->inherit;
        hook_pid = op->inherit ? getpid() : 0;
        party_is_me(report, party_next(report));
        struct proof_world before, after;
        proof_world_look(&before);
        fn(&p, plan);
        proof_world_look(&after);
        const char *left = proof_world_differs(&before, &after);
        if (left)
                proof_fail(&p, op->name, 0, "%s", left);
        _exit(0);
}

/* The whole process group of a case, and whoever left it. */
static void case_kill(pid_t pid)
{
        kill(-pid, SIGKILL);
        kill(pid, SIGKILL);
}

bool proof_case(const struct proof_args *args, const char *engine, const struct proof_op *op, const char *name,
                void (*fn)(struct proof *p, const void *plan), const void *plan, struct proof_figures *sum)
{
        report_make();
        memset(report, 0, offsetof(struct proof_report, trace));
        memset(ledger, 0, offsetof(struct proof_ledger, sum));
        if (args->expect_failure ? sum->failures >= FAILURES_ENOUGH : args->stop && sum->failures)
                return false;
        fflush(NULL);
        pid_t pid = fork();
        if (pid < 0) {
                perror("proof: fork");
                exit(2);
        }
        if (pid == 0) {
                case_process(args, op, fn, plan, args->expect_failure || sum->failures >= 2);
                _exit(0);
        }
        setpgid(pid, pid);
        int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        struct pollfd pf = {.fd = pidfd, .events = POLLIN};
        const char *why = NULL;
        char text[64];
        while (poll(&pf, 1, (int)(args->hang_s ? args->hang_s : PROOF_HANG_S) * 1000) < 0 && errno == EINTR)
                ;
        if (!pf.revents)
                why = "hangs";
        case_kill(pid); /* also what it left running; its own end was seen or is overdue */
        int st = 0;
        while (waitpid(pid, &st, 0) < 0 && errno == EINTR)
                ;
        close(pidfd);
        /* What a case that was killed leaves: its sockets, or its domain. */
        static const char *const files[] = {"", ".home", ".d/bootstrap", ".d/lock", ".d"};
        for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
                char path[64];
                snprintf(path, sizeof path, "/tmp/wharf-proof.%d%s", (int)pid, files[i]);
                remove(path);
        }
        if (atomic_load(&report->failed)) /* also where others wait for ever for whoever found it */
                why = report->why;
        if (!why && WIFSIGNALED(st)) {
                snprintf(text, sizeof text, "dies of signal %d (%s)", WTERMSIG(st), strsignal(WTERMSIG(st)));
                why = text;
        }
        if (!why && WEXITSTATUS(st) != 0) {
                snprintf(text, sizeof text, "%s (status %d)",
                         WEXITSTATUS(st) == 66 ? "a sanitizer complains" : "ends early", WEXITSTATUS(st));
                why = text;
        }
        sum->cases++;
        if (!why)
                return true;
        sum->failures++;
        if (!args->expect_failure && sum->failures <= 8)
                fprintf(stderr, "%s %s: %s: %s\n    again: --only %s --case %s --seed %" PRIu64 "\n", engine,
                        args->area, op->name, why, op->name, name, args->seed);
        return false;
}

pid_t proof_fork(struct proof *p)
{
        const unsigned party = party_next(p->report_);
        /* Without libc's handlers: the library's own would close in the child what the operation wants kept. */
        pid_t pid = p->op->inherit ? (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, 0) : fork();
        if (pid < 0)
                proof_fail(p, __FILE__, __LINE__, "fork: %s", strerror(errno));
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                party_is_me(p->report_, party);
                if (hook_random_seed)
                        hook_random_seed += party; /* what parties draw at random differs */
        }
        return pid;
}

void proof_die(void)
{
        for (;;)
                syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
}

void proof_stop(void)
{
        syscall(SYS_kill, syscall(SYS_getpid), SIGSTOP);
}

bool proof_wait(struct proof *p, pid_t pid, const char *who, bool *ret_stopped)
{
        int st;
        while (waitpid(pid, &st, ret_stopped ? WUNTRACED : 0) < 0)
                if (errno != EINTR)
                        proof_fail(p, __FILE__, __LINE__, "waitpid for the %s: %s", who, strerror(errno));
        if (ret_stopped)
                *ret_stopped = WIFSTOPPED(st);
        if (WIFSTOPPED(st))
                return true;
        if (WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL)
                return true;
        if (WIFSIGNALED(st))
                proof_fail(p, p->op->name, 0, "the %s dies of signal %d (%s)", who, WTERMSIG(st),
                           strsignal(WTERMSIG(st)));
        if (WEXITSTATUS(st) != 0)
                proof_fail(p, p->op->name, 0, "the %s ends with status %d", who, WEXITSTATUS(st));
        return false;
}

bool proof_wanted(const struct proof_args *args, const char *name)
{
        return !args->only_case || !strcmp(args->only_case, name);
}

bool proof_sampled(uint64_t i, uint64_t n, uint64_t cap, uint64_t seed)
{
        if (n <= cap || i == 0 || i + 1 == n)
                return true;
        /* One of each of cap stretches that differ by one at most; the seed says which. So cap are taken whatever n is,
         * and a program that makes one call more is not looked at half as often. */
        uint64_t stretch = i * cap / n, begins = (stretch * n + cap - 1) / cap,
                 ends = ((stretch + 1) * n + cap - 1) / cap;
        return i == begins + (seed ^ stretch * 0x9e3779b97f4a7c15u) % (ends - begins);
}

bool proof_set_add(struct proof_set *s, uint64_t hash)
{
        if (2 * (s->n + 1) > s->cap) {
                struct proof_set bigger = {.cap = s->cap ? 2 * s->cap : 64};
                bigger.slot = calloc(bigger.cap, sizeof *bigger.slot);
                for (size_t i = 0; i < s->cap; i++)
                        if (s->slot[i])
                                proof_set_add(&bigger, s->slot[i]);
                free(s->slot);
                *s = bigger;
        }
        hash = hash ? hash : 1;
        size_t i = hash % s->cap;
        while (s->slot[i]) {
                if (s->slot[i] == hash)
                        return false;
                i = (i + 1) % s->cap;
        }
        s->slot[i] = hash;
        s->n++;
        return true;
}

void proof_set_done(struct proof_set *s)
{
        free(s->slot);
        *s = (struct proof_set){0};
}

static struct {
        const uint8_t *at;
        size_t len;
} refetch[32];
static unsigned n_refetch;

void proof_may_refetch(const void *at, size_t len, const char *why)
{
        (void)why; /* for the reader of the proof */
        if (n_refetch < sizeof refetch / sizeof *refetch) {
                refetch[n_refetch].at = at;
                refetch[n_refetch++].len = len;
        }
}

bool proof_refetch_allowed(const void *at, size_t len)
{
        const uint8_t *a = at;
        for (unsigned i = 0; i < n_refetch; i++)
                if (a >= refetch[i].at && a + len <= refetch[i].at + refetch[i].len)
                        return true;
        return false;
}
