/*
 * rows - the environments. Each is what really happens to a process, done by the system calls that do it.
 */
#include "rows.h"

#include <errno.h>
#include <locale.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

int row_not_here(const char *what)
{
        return matrix_not_here("%s: %s", what, strerror(errno));
}

/* ---- processes ---- */

/* What a fork inherits of a task is refused, and can only be closed; then the child makes its own. */
static int forked(struct party *p)
{
        wharf_task *t;
        wharf_name port, right, other;
        char text[8];
        MATRIX_EQ(wharf_task_open(NULL, &t), 0);
        MATRIX_EQ(wharf_port_new(t, NULL, &port), 0);
        MATRIX_EQ(wharf_right_new(t, port, &right), 0);
        const unsigned fds = matrix_fds();
        pid_t pid = fork();
        MATRIX_CHECK(pid >= 0);
        if (pid) {
                int r = matrix_wait(pid);
                wharf_task_close(t);
                _exit(r);
        }
        MATRIX_CHECK(matrix_fds() < fds); /* the library's are closed here */
        MATRIX_EQ(wharf_send(t, right, "no", 2, 0), -ESTALE);
        MATRIX_EQ(wharf_recv(t, port, text, sizeof text, NULL, 0), -ESTALE);
        MATRIX_EQ(wharf_port_new(t, NULL, &other), -ESTALE);
        MATRIX_EQ(wharf_drop(t, port), -ESTALE);
        wharf_task_close(t);
        return 0;
}

/* Another thread forks, and its children end in every way there is. */
static void forks(struct party *p)
{
        for (unsigned i = 0; !atomic_load(&p->over); i++) {
                pid_t pid = fork();
                MATRIX_CHECK(pid >= 0);
                if (pid == 0) {
                        if (i % 3 == 0)
                                wharf_task_close(p->task);
                        if (i % 3 == 1)
                                raise(SIGKILL);
                        _exit(0);
                }
                int r = matrix_wait(pid);
                MATRIX_CHECK(r == 0 || r == 128 + SIGKILL);
        }
}

static int huge_environment(struct party *p)
{
        char name[32], *text = malloc(4096);
        MATRIX_CHECK(text != NULL);
        memset(text, 'x', 4095);
        text[4095] = 0;
        for (unsigned i = 0; i < 256 && !p->executed; i++) {
                snprintf(name, sizeof name, "MATRIX_HUGE_%u", i);
                setenv(name, text, 1);
        }
        free(text);
        return party_exec_bare(p);
}

static int empty_environment(struct party *p)
{
        char *dir = getenv("WHARF_DOMAIN"); /* it is what says where names are kept */
        dir = dir ? strdup(dir) : NULL;
        clearenv();
        if (dir)
                setenv("WHARF_DOMAIN", dir, 1);
        free(dir);
        return 0;
}

/* A process of 32 bits, with a library of 32 bits: the layouts of what is shared are the same. */
static int bits_32(struct party *p)
{
#ifdef MATRIX_32
        return party_exec_as(p, MATRIX_32);
#else
        if (p->executed)
                return 0;
        return matrix_not_here("the compiler made no program of 32 bits");
#endif
}

/* A later version of wharf, that says more in what may grow, and so does everything that it tells. */
static int later_version(struct party *p)
{
        return party_exec_as(p, MATRIX_LATER);
}

/* ---- signals ---- */

static void on_signal(int sig)
{
        (void)sig;
}

static timer_t storm;

static int interrupted(struct party *p)
{
        struct sigaction a = {.sa_handler = on_signal}; /* no SA_RESTART */
        struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
        struct itimerspec every = {{0, 50000}, {0, 50000}};
        MATRIX_EQ(sigaction(SIGRTMIN, &a, NULL), 0);
        MATRIX_EQ(timer_create(CLOCK_MONOTONIC, &e, &storm), 0);
        MATRIX_EQ(timer_settime(storm, 0, &every, NULL), 0);
        return 0;
}

static int signals_blocked(struct party *p)
{
        sigset_t all;
        sigfillset(&all);
        MATRIX_EQ(sigprocmask(SIG_SETMASK, &all, NULL), 0);
        return 0;
}

static int signals_ignored(struct party *p)
{
        for (int sig = 1; sig < NSIG; sig++)
                signal(sig, SIG_IGN);
        return 0;
}

/* Whatever others did with them, and however this program was started. */
static int signals_default(struct party *p)
{
        sigset_t none;
        for (int sig = 1; sig < NSIG; sig++)
                signal(sig, SIG_DFL);
        sigemptyset(&none);
        MATRIX_EQ(sigprocmask(SIG_SETMASK, &none, NULL), 0);
        return 0;
}

static void stopped(pid_t pid)
{
        kill(pid, SIGSTOP);
        matrix_sleep_us(3000);
        kill(pid, SIGCONT);
        matrix_sleep_us(700);
}

/* ---- descriptors ---- */

static int closed_stdio(struct party *p)
{
        for (int fd = 0; fd < 3; fd++)
                close(fd);
        return 0;
}

static int closed_stdio_executed(struct party *p)
{
        if (!p->executed)
                closed_stdio(p);
        return party_exec_bare(p);
}

/* ---- scheduling ---- */

static int one_core(struct party *p)
{
        cpu_set_t may, one;
        MATRIX_EQ(sched_getaffinity(0, sizeof may, &may), 0);
        CPU_ZERO(&one);
        for (int i = 0; i < CPU_SETSIZE; i++)
                if (CPU_ISSET(i, &may)) {
                        CPU_SET(i, &one);
                        break;
                }
        MATRIX_EQ(sched_setaffinity(0, sizeof one, &one), 0);
        return 0;
}

static int real_time(struct party *p)
{
        struct sched_param s = {.sched_priority = 1};
        if (sched_setscheduler(0, SCHED_FIFO, &s) < 0)
                return row_not_here("SCHED_FIFO");
        return 0;
}

/* Above everybody else on the one core that there is: whoever spins for the other side here never sees it move. */
static int real_time_one_core(struct party *p)
{
        one_core(p);
        return real_time(p);
}

static int idle(struct party *p)
{
        struct sched_param s = {0};
        if (sched_setscheduler(0, SCHED_IDLE, &s) < 0)
                return row_not_here("SCHED_IDLE");
        return 0;
}

/* ---- the rest ---- */

static int other_locale(struct party *p)
{
        static const char *const some[] = {"tr_TR.UTF-8", "de_DE.UTF-8", "ar_SA.UTF-8", "C.UTF-8", "POSIX"};
        setenv("LANG", "tr_TR.UTF-8", 1);
        setenv("LC_ALL", "tr_TR.UTF-8", 1);
        for (unsigned i = 0; i < sizeof some / sizeof *some; i++)
                if (setlocale(LC_ALL, some[i]))
                        break;
        return 0;
}

const struct env envs[] = {
        {.name = "plain"},
        {.name = "forked", .before = forked, .forks = true},
        {.name = "forks", .beside = forks},
        {.name = "exec-rights", .after = party_exec_with_rights, .execs = true},
        {.name = "exec-bare", .before = party_exec_bare, .executed_bare = true},
        {.name = "exec-stdio-closed", .before = closed_stdio_executed, .executed_bare = true},
        {.name = "exec-huge-environment", .before = huge_environment, .executed_bare = true},
        {.name = "32-bit", .before = bits_32, .executed_bare = true},
        {.name = "later-version", .before = later_version, .executed_bare = true},
        {.name = "empty-environment", .before = empty_environment},
        {.name = "threads", .threads = 4},
        {.name = "small-stack", .stack_bytes = 128 << 10},
        {.name = "cancelled", .cancelled = true},
        {.name = "interrupted", .before = interrupted},
        {.name = "signals-blocked", .before = signals_blocked},
        {.name = "signals-ignored", .before = signals_ignored},
        {.name = "signals-default", .before = signals_default},
        {.name = "stopped", .disturb = stopped},
        {.name = "nobody", .before = row_nobody, .uid = NOBODY},
        {.name = "another-user", .before = row_somebody, .uid = SOMEBODY},
        {.name = "uid-changes", .after = row_nobody, .late_uid = true},
        {.name = "umask-0777", .before = row_umask_all},
        {.name = "umask-0777-nobody", .before = row_umask_all_nobody, .uid = NOBODY},
        {.name = "umask-0", .before = row_umask_none},
        {.name = "no-capabilities", .before = row_no_capabilities},
        {.name = "no-new-privileges", .before = row_no_new_privileges},
        {.name = "not-dumpable", .before = row_not_dumpable},
        {.name = "files-64", .before = row_files_64},
        {.name = "files-1024", .before = row_files_1024},
        {.name = "files-many", .before = row_files_many},
        {.name = "address-space", .before = row_address_space, .scarce = true},
        {.name = "memlock-0", .before = row_locked_0},
        {.name = "memory-locked", .before = row_locked_all},
        {.name = "file-size-0", .before = row_file_size_0, .no_memory = true},
        {.name = "pid-namespace", .before = row_pid_namespace, .pid_namespace = true, .forks = true},
        {.name = "user-namespace", .before = row_user_namespace, .user_namespace = true},
        {.name = "user-namespace-mapped", .before = row_user_namespace_mapped, .user_namespace = true},
        {.name = "no-proc-no-shm", .before = row_no_proc_no_shm},
        {.name = "other-namespaces", .before = row_other_namespaces},
        {.name = "memfd-noexec", .before = row_memfd_noexec, .pid_namespace = true, .forks = true},
        {.name = "chroot", .after = row_chrooted, .no_files = true},
        {.name = "directory-gone", .before = row_nowhere},
        {.name = "seccomp", .after = row_sandboxed, .no_memory = true, .no_files = true},
        {.name = "seccomp-no-memfd", .before = row_no_memfds, .no_memory = true},
        {.name = "seccomp-old-calls", .before = row_old_calls_only},
        {.name = "linux-5.15", .before = row_as_linux_5_15},
        {.name = "landlock", .after = row_landlocked, .no_files = true},
        {.name = "stdio-closed", .before = closed_stdio},
        {.name = "clock-later", .before = row_later_clock, .forks = true},
        {.name = "clock-earlier", .before = row_earlier_clock, .forks = true},
        {.name = "wall-clock-jumps", .before = row_wall_clock},
        {.name = "one-core", .before = one_core},
        {.name = "real-time", .before = real_time},
        {.name = "real-time-one-core", .before = real_time_one_core},
        {.name = "idle", .before = idle},
        {.name = "locale", .before = other_locale},
};
const unsigned n_envs = sizeof envs / sizeof *envs;
