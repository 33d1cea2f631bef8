#include "matrix.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { REPORT_MAX = 2000 };

static int report_fd = -1;
static char this_program[512]; /* as a path: what /proc/self/exe leads to lies in another mount namespace */

/* ---- what parties use ---- */

static const char why[] = "not here: ";

static void say(const char *before, const char *fmt, va_list ap)
{
        char line[512];
        int k = snprintf(line, sizeof line, "%s", before),
            n = vsnprintf(line + k, sizeof line - 1 - (size_t)k, fmt, ap);
        if (n < 0)
                return;
        n += k;
        if (n > (int)sizeof line - 2)
                n = (int)sizeof line - 2;
        line[n++] = '\n';
        syscall(SYS_write, report_fd >= 0 ? report_fd : 2, line, (size_t)n); /* no cancellation point */
}

void matrix_say(const char *fmt, ...)
{
        va_list ap;
        va_start(ap, fmt);
        say("", fmt, ap);
        va_end(ap);
}

int matrix_not_here(const char *fmt, ...)
{
        va_list ap;
        va_start(ap, fmt);
        say(why, fmt, ap);
        va_end(ap);
        return MATRIX_NOT_HERE;
}

int matrix_report_fd(void)
{
        return report_fd;
}

void matrix_report_to(int fd)
{
        report_fd = fd;
}

const char *matrix_file(const char *path)
{
        const char *slash = strrchr(path, '/');
        return slash ? slash + 1 : path;
}

void matrix_exit(int status)
{
        _exit(status);
}

int matrix_wait(pid_t pid)
{
        int st;
        while (waitpid(pid, &st, 0) < 0)
                if (errno != EINTR)
                        return MATRIX_FAILED;
        return WIFSIGNALED(st) ? 128 + WTERMSIG(st) : WEXITSTATUS(st);
}

void matrix_sleep_us(unsigned us)
{
        /* Until a moment, not for a while: with a signal every now and then what is left of a while hardly shrinks. */
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        t.tv_nsec += (long)us * 1000;
        t.tv_sec += t.tv_nsec / 1000000000;
        t.tv_nsec %= 1000000000;
        while (syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) < 0 && errno == EINTR)
                ;
}

static unsigned entries(const char *path)
{
        DIR *d = opendir(path);
        struct dirent *e;
        unsigned n = 0;
        while (d && (e = readdir(d)))
                n += e->d_name[0] != '.';
        if (d)
                closedir(d);
        return n;
}

unsigned matrix_fds(void)
{
        unsigned n = 0;
        for (int fd = 0; fd < 4096; fd++)
                n += fcntl(fd, F_GETFD) >= 0;
        return n;
}

/* Some are closed by a thread of the library's own. */
unsigned matrix_fds_left(unsigned before)
{
        unsigned n;
        for (unsigned i = 0; (n = matrix_fds()) > before && i < 2000; i++)
                matrix_sleep_us(2500);
        return n;
}

/* ---- the world of one case ---- */

struct world {
        unsigned fds, processes, shm, sysv, files;
};

static unsigned processes(void)
{
        DIR *d = opendir("/proc");
        struct dirent *e;
        unsigned n = 0;
        while (d && (e = readdir(d)))
                n += e->d_name[0] >= '1' && e->d_name[0] <= '9';
        if (d)
                closedir(d);
        return n;
}

static unsigned lines(const char *path)
{
        FILE *f = fopen(path, "re");
        char line[512];
        unsigned n = 0;
        while (f && fgets(line, sizeof line, f))
                n++;
        if (f)
                fclose(f);
        return n;
}

static struct world world_now(bool ours, const char *dir)
{
        struct world w = {.fds = matrix_fds()};
        if (ours) {
                w.processes = processes();
                w.shm = entries("/dev/shm");
                w.sysv = lines("/proc/sysvipc/shm");
                w.files = entries(dir);
        }
        return w;
}

static bool same(const char *what, unsigned before, unsigned after)
{
        if (before != after)
                matrix_say("left behind: %s %u, %u before", what, after, before);
        return before == after;
}

static bool put_program(const char *from, const char *dir, const char *name)
{
        char to[256];
        snprintf(to, sizeof to, "%s/%s", dir, name);
        int fd = open(to, O_CREAT | O_WRONLY | O_CLOEXEC, 0755);
        if (fd < 0)
                return false;
        close(fd);
        return mount(from, to, NULL, MS_BIND, NULL) == 0;
}

static bool world_of_its_own(const struct matrix *m, const char *dir)
{
        return mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
               mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0 &&
               mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777") == 0 &&
               mount("matrix", dir, "tmpfs", MS_NOSUID, "mode=0777") == 0 && put_program(this_program, dir, "matrix") &&
               (!m->program || put_program(m->program, dir, m->program_name));
}

static int case_run(const struct matrix *m, struct matrix_case *c, bool ours)
{
        char exe[300];
        if (ours && !world_of_its_own(m, c->dir)) {
                matrix_say("cannot make a world for the case: %s", strerror(errno));
                return MATRIX_FAILED;
        }
        if (ours)
                snprintf(exe, sizeof exe, "%s/matrix", c->dir);
        else
                snprintf(exe, sizeof exe, "/proc/self/exe");
        c->exe = exe;
        if (m->program) {
                char path[300];
                snprintf(path, sizeof path, "%s/%s", c->dir, m->program_name);
                setenv("MATRIX_PROGRAM", ours ? path : m->program, 1);
        }
        const struct world before = world_now(ours, c->dir);
        int r = m->run(c);
        struct world after = world_now(ours, c->dir);
        /* What was told to end, or died, may take a moment to be gone. */
        for (unsigned i = 0; i < 400 && (after.processes > before.processes || after.fds > before.fds); i++) {
                while (waitpid(-1, NULL, WNOHANG) > 0)
                        ;
                matrix_sleep_us(2500);
                after = world_now(ours, c->dir);
        }
        bool clean = same("descriptors", before.fds, after.fds);
        clean &= same("processes", before.processes, after.processes);
        clean &= same("names in /dev/shm", before.shm, after.shm);
        clean &= same("System V segments", before.sysv, after.sysv);
        clean &= same("files", before.files, after.files);
        if (waitpid(-1, NULL, WNOHANG) >= 0) {
                matrix_say("left behind: children");
                clean = false;
        }
        return r == MATRIX_PASSED && !clean ? MATRIX_FAILED : r;
}

/*
 * The process between the driver and the case: makes the namespaces, of which the next child is the first process, and
 * passes its end on. Killed with it, so that all of the tree goes when the driver kills this one.
 */
static void case_process(const struct matrix *m, struct matrix_case *c)
{
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        bool ours = unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC) == 0;
        if (!ours)
                prctl(PR_SET_CHILD_SUBREAPER, 1);
        pid_t pid = ours ? fork() : 0;
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                _exit(case_run(m, c, ours));
        }
        _exit(pid < 0 ? MATRIX_FAILED : matrix_wait(pid));
}

/* ---- the driver ---- */

/* What was said so far; stops at the end of the writers or when `ms` have passed. */
static void listen_to(int fd, char *text, size_t *len, int ms)
{
        struct pollfd p = {.fd = fd, .events = POLLIN};
        while (poll(&p, 1, ms) > 0) {
                char drop[512];
                bool full = *len >= REPORT_MAX - 1;
                ssize_t n = read(fd, full ? drop : text + *len, full ? sizeof drop : REPORT_MAX - 1 - *len);
                if (n <= 0)
                        break;
                *len += full ? 0 : (size_t)n;
        }
        text[*len] = 0;
}

static int one(const struct matrix *m, struct matrix_case *c, char *said)
{
        int report[2];
        size_t len = 0;
        said[0] = 0;
        if (pipe2(report, O_CLOEXEC) < 0)
                return MATRIX_FAILED;
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
                close(report[0]);
                report_fd = fcntl(report[1], F_DUPFD_CLOEXEC, 60); /* out of the way of the numbers that rows close */
                close(report[1]);
                case_process(m, c);
        }
        close(report[1]);
        int pidfd = pid < 0 ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);
        struct pollfd p[2] = {{.fd = pidfd, .events = POLLIN}, {.fd = report[0], .events = POLLIN}};
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        const int64_t end = (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 + (m->seconds ? m->seconds : 20) * 1000;
        int r = MATRIX_FAILED;
        while (pidfd >= 0) {
                clock_gettime(CLOCK_MONOTONIC, &now);
                const int64_t left = end - ((int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000);
                if (left <= 0 || poll(p, 2, (int)left) == 0) {
                        listen_to(report[0], said, &len, 0);
                        len += (size_t)snprintf(said + len, REPORT_MAX - len, "does not end by itself\n");
                        if (len > REPORT_MAX - 1)
                                len = REPORT_MAX - 1;
                        kill(pid, SIGKILL);
                        matrix_wait(pid);
                        break;
                }
                if (p[1].revents & POLLIN)
                        listen_to(report[0], said, &len, 0);
                else if (p[1].revents)
                        p[1].fd = -1;
                if (p[0].revents) {
                        r = matrix_wait(pid);
                        break;
                }
        }
        listen_to(report[0], said, &len, 0);
        if (pidfd >= 0)
                close(pidfd);
        close(report[0]);
        return r;
}

static int usage(const char *program)
{
        fprintf(stderr, "usage: %s [--quick|--full] [--stop] [--seed N] [--only ROW] [--case WORKLOAD] [--verbose]\n",
                program);
        return 2;
}

int matrix_main(const struct matrix *m, int argc, char **argv)
{
        struct matrix_case c = {.seed = (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32};
        const char *only = NULL, *only_case = NULL;
        bool stop = false, verbose = false;
        for (int i = 1; i < argc; i++) {
                if (!strcmp(argv[i], "--quick") || !strcmp(argv[i], "--full"))
                        c.quick = argv[i][2] == 'q';
                else if (!strcmp(argv[i], "--stop"))
                        stop = true;
                else if (!strcmp(argv[i], "--verbose"))
                        verbose = true;
                else if (!strncmp(argv[i], "--seed=", 7))
                        c.seed = strtoull(argv[i] + 7, NULL, 0);
                else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
                        c.seed = strtoull(argv[++i], NULL, 0);
                else if (!strcmp(argv[i], "--only") && i + 1 < argc)
                        only = argv[++i];
                else if (!strcmp(argv[i], "--case") && i + 1 < argc)
                        only_case = argv[++i];
                else
                        return usage(argv[0]);
        }
        char dir[] = "/tmp/wharf-matrix-XXXXXX";
        for (int fd = 3; fd < 1024; fd++) /* what this program was started with is nobody's here */
                fcntl(fd, F_SETFD, FD_CLOEXEC);
        if (readlink("/proc/self/exe", this_program, sizeof this_program - 1) < 0 || !mkdtemp(dir) ||
            chmod(dir, 0777) < 0) {
                fprintf(stderr, "matrix %s: %s: %s\n", m->area, dir, strerror(errno));
                return 2;
        }
        c.dir = dir;
        c.alone = only_case != NULL;
        uint64_t rows = 0, works = 0, passed = 0, failed = 0, absent = 0;
        bool *seen = calloc(m->n_works, sizeof *seen);
        for (c.row = 0; seen && c.row < m->n_rows && !(stop && failed); c.row++) {
                const char *row = m->row_name(c.row);
                uint64_t good = 0, missing = 0;
                if (only && strcmp(only, row))
                        continue;
                for (c.work = 0; c.work < m->n_works && !(stop && failed); c.work++) {
                        const char *work = m->work_name(c.work);
                        char said[REPORT_MAX + 64];
                        if ((only_case && strcmp(only_case, work)) || (m->wanted && !m->wanted(&c)))
                                continue;
                        struct timespec from, to;
                        clock_gettime(CLOCK_MONOTONIC, &from);
                        int r = one(m, &c, said);
                        clock_gettime(CLOCK_MONOTONIC, &to);
                        if (verbose)
                                fprintf(stderr, "  %s %s: %d, %ld ms\n", row, work, r,
                                        (to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000);
                        if (r == MATRIX_PASSED) {
                                good++;
                                works += !seen[c.work];
                                seen[c.work] = true;
                        } else if (r == MATRIX_NOT_HERE) {
                                const char *at = strstr(said, why);
                                if (!missing++)
                                        fprintf(stderr, "matrix %s: %s: %.*s\n", m->area, row,
                                                at ? (int)strcspn(at, "\n") : (int)sizeof why, at ? at : why);
                        } else {
                                failed++;
                                fprintf(stderr,
                                        "matrix %s: %s: %s: failed (%d), --only %s --case %s --seed %" PRIu64 ":\n%s",
                                        m->area, row, work, r, row, work, c.seed, said);
                        }
                }
                rows += good > 0;
                passed += good;
                absent += missing > 0;
        }
        free(seen);
        rmdir(dir);
        printf("matrix %s: environment rows %" PRIu64 ", workloads %" PRIu64 ", passed %" PRIu64, m->area, rows, works,
               passed);
        if (absent)
                printf(", not here %" PRIu64, absent);
        if (failed)
                printf(", FAILED %" PRIu64, failed);
        printf("\n");
        return failed || !passed;
}
