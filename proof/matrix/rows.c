/*
 * rows - the environments. Each is what really happens to a process, done by the system calls that do it.
 */
#include "party.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <locale.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { NOBODY = 65534, SOMEBODY = 1234 };

static int not_here(const char *what)
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

/* ---- users ---- */

static int become(unsigned uid)
{
        if (getuid() != 0) {
                errno = EPERM;
                return not_here("setresuid");
        }
        MATRIX_EQ(setgroups(0, NULL), 0);
        MATRIX_EQ(setresgid(uid, uid, uid), 0);
        MATRIX_EQ(setresuid(uid, uid, uid), 0);
        return 0;
}

static int nobody(struct party *p)
{
        return become(NOBODY);
}

static int somebody(struct party *p)
{
        return become(SOMEBODY);
}

static int umask_all(struct party *p)
{
        umask(0777);
        return 0;
}

static int umask_none(struct party *p)
{
        umask(0);
        return 0;
}

/* As an ordinary user, who may not do what the mode forbids it. */
static int umask_all_nobody(struct party *p)
{
        umask(0777);
        return become(NOBODY);
}

static int no_capabilities(struct party *p)
{
        struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct none[2] = {{0}};
        if (syscall(SYS_capset, &head, none) < 0)
                return not_here("capset");
        return 0;
}

static int no_new_privileges(struct party *p)
{
        MATRIX_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        return 0;
}

static int not_dumpable(struct party *p)
{
        MATRIX_EQ(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), 0);
        return 0;
}

/* ---- limits ---- */

static int limit(int what, rlim_t to)
{
        struct rlimit l = {to, to};
        MATRIX_EQ(setrlimit(what, &l), 0);
        return 0;
}

static int files_64(struct party *p)
{
        return limit(RLIMIT_NOFILE, 64);
}

static int files_1024(struct party *p)
{
        return limit(RLIMIT_NOFILE, 1024);
}

/* A program with so many files open that the library's have numbers which select() cannot take. */
static int files_many(struct party *p)
{
        limit(RLIMIT_NOFILE, 4096);
        for (int fd = 0; fd >= 0 && fd < 1100;)
                fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        return 0;
}

static int address_space(struct party *p)
{
        unsigned long pages = 0;
        FILE *f = fopen("/proc/self/statm", "re");
        MATRIX_CHECK(f && fscanf(f, "%lu", &pages) == 1);
        fclose(f);
        return limit(RLIMIT_AS, pages * 4096 + (24u << 20));
}

static int locked_0(struct party *p)
{
        return limit(RLIMIT_MEMLOCK, 0);
}

static int locked_all(struct party *p)
{
        if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
                return not_here("mlockall");
        return 0;
}

static int file_size_0(struct party *p)
{
        return limit(RLIMIT_FSIZE, 0);
}

/* ---- namespaces ---- */

static int enter(int flags, const char *what)
{
        return unshare(flags) < 0 ? not_here(what) : 0;
}

static int pid_namespace(struct party *p)
{
        int r = enter(CLONE_NEWPID, "a pid namespace");
        if (r == 0)
                party_go_on_in_child(p);
        return r;
}

static int user_namespace(struct party *p)
{
        return enter(CLONE_NEWUSER, "a user namespace");
}

static bool put(const char *path, const char *text)
{
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
        int e = errno;
        if (fd >= 0)
                close(fd);
        errno = e;
        return good;
}

/* Root there, and nobody in particular outside. */
static int user_namespace_mapped(struct party *p)
{
        char map[64], groups[64];
        snprintf(map, sizeof map, "0 %u 1", getuid());
        snprintf(groups, sizeof groups, "0 %u 1", getgid());
        int r = enter(CLONE_NEWUSER, "a user namespace");
        if (r)
                return r;
        put("/proc/self/setgroups", "deny");
        if (!put("/proc/self/uid_map", map))
                return not_here("uid_map");
        if (!put("/proc/self/gid_map", groups))
                return not_here("gid_map");
        return 0;
}

static int no_proc_no_shm(struct party *p)
{
        int r = enter(CLONE_NEWNS, "a mount namespace");
        if (r)
                return r;
        MATRIX_EQ(mount("none", "/proc", "tmpfs", 0, "size=4k,mode=0"), 0);
        MATRIX_EQ(mount("none", "/dev", "tmpfs", 0, "size=4k,mode=0"), 0);
        MATRIX_CHECK(access("/proc/self", F_OK) < 0 && access("/dev/shm", F_OK) < 0);
        return 0;
}

static int other_namespaces(struct party *p)
{
        return enter(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP, "other namespaces");
}

/* Where memfds may not be executable, and every one that does not say so is refused. */
static int memfd_noexec(struct party *p)
{
        int r = pid_namespace(p);
        if (r)
                return r;
        if (!put("/proc/sys/vm/memfd_noexec", "2"))
                return not_here("vm.memfd_noexec");
        return 0;
}

static int chrooted(struct party *p)
{
        char dir[200];
        snprintf(dir, sizeof dir, "%s/empty.%d", p->c->dir, p->hub);
        if (mkdir(dir, 0700) < 0)
                return not_here(dir);
        if (chdir(dir) < 0 || chroot(".") < 0) {
                int r = not_here("chroot");
                rmdir(dir);
                return r;
        }
        return 0;
}

/* The directory that it stands in is gone. */
static int nowhere(struct party *p)
{
        char dir[200];
        snprintf(dir, sizeof dir, "%s/gone.%d", p->c->dir, (int)getpid());
        MATRIX_EQ(mkdir(dir, 0700), 0);
        MATRIX_EQ(chdir(dir), 0);
        MATRIX_EQ(rmdir(dir), 0);
        return 0;
}

/* ---- sandboxes ---- */

enum { REFUSED_MAX = 24 };

static void refuse(const int *calls, unsigned n)
{
        struct sock_filter f[3 + 2 * REFUSED_MAX];
        unsigned at = 0;
        MATRIX_CHECK(n <= REFUSED_MAX);
        f[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
        for (unsigned i = 0; i < n; i++) {
                f[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)calls[i], 0, 1);
                f[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
        }
        f[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        struct sock_fprog prog = {(unsigned short)at, f};
        MATRIX_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        MATRIX_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), 0);
}

static int sandboxed(struct party *p)
{
        static const int calls[] = {SYS_memfd_create,
                                    SYS_open,
                                    SYS_openat,
                                    SYS_openat2,
                                    SYS_creat,
                                    SYS_kill,
                                    SYS_tkill,
                                    SYS_ptrace,
                                    SYS_process_vm_readv,
                                    SYS_process_vm_writev,
                                    SYS_pidfd_open,
                                    SYS_pidfd_getfd,
                                    SYS_pidfd_send_signal,
                                    SYS_socket,
                                    SYS_connect,
                                    SYS_mount,
                                    SYS_unshare,
                                    SYS_execve,
                                    SYS_setrlimit,
                                    SYS_prlimit64,
                                    SYS_sched_setaffinity};
        refuse(calls, sizeof calls / sizeof *calls);
        return 0;
}

static int no_memfds(struct party *p)
{
        static const int calls[] = {SYS_memfd_create};
        refuse(calls, 1);
        return 0;
}

/* Calls that kernels, or container runtimes, of our time do not have: they answer ENOSYS or EPERM. */
static int old_calls_only(struct party *p)
{
        static const int calls[] = {SYS_epoll_pwait2, SYS_futex_waitv, SYS_close_range,    SYS_process_madvise,
                                    SYS_faccessat2,   SYS_openat2,     SYS_clone3,         SYS_pidfd_getfd,
                                    SYS_membarrier,   SYS_userfaultfd, SYS_io_uring_setup, SYS_statx,
                                    SYS_rseq};
        refuse(calls, sizeof calls / sizeof *calls);
        return 0;
}

/*
 * A kernel of the oldest kind that is promised, Linux 5.15: whatever came later answers as it does there. Calls that
 * the library does not make are listed too, so that it cannot begin to without a way around; docs/design/kernels.md
 * says what it does without each. What no filter can hide: that pidfds are files of their own (6.9).
 */
static const struct newer {
        int call;
        int arg; /* whose bits decide; -1: the call itself is new */
        uint32_t mask, value;
        int answer;
} newer[] = {
        {SYS_memfd_create, 1, 0x0008, 0x0008, EINVAL}, /* MFD_NOEXEC_SEAL 6.3 */
        {SYS_memfd_create, 1, 0x0010, 0x0010, EINVAL}, /* MFD_EXEC 6.3 */
        {SYS_getsockopt, 2, ~0u, 76, ENOPROTOOPT},     /* SO_PASSPIDFD 6.5 */
        {SYS_getsockopt, 2, ~0u, 77, ENOPROTOOPT},     /* SO_PEERPIDFD 6.5 */
        {SYS_setsockopt, 2, ~0u, 76, ENOPROTOOPT},     /* SO_PASSPIDFD 6.5, without which no SCM_PIDFD comes */
        {SYS_setsockopt, 2, ~0u, 83, ENOPROTOOPT},     /* SO_PASSRIGHTS 6.16 */
        {SYS_pidfd_open, 1, 0x0080, 0x0080, EINVAL},   /* PIDFD_THREAD 6.9 */
        {SYS_pidfd_send_signal, 3, 0x0007, 0x0001, EINVAL},
        {SYS_pidfd_send_signal, 3, 0x0007, 0x0002, EINVAL},
        {SYS_pidfd_send_signal, 3, 0x0007, 0x0004, EINVAL}, /* PIDFD_SIGNAL_* 6.9 */
        {SYS_ioctl, 1, 0xff00, 0xff00, ENOTTY},             /* of pidfs: PIDFD_GET_* 6.11, PIDFD_GET_INFO 6.13 */
        {SYS_fcntl, 1, ~0u, 1024 + 3, EINVAL},              /* F_DUPFD_QUERY 6.10 */
        {SYS_fcntl, 1, ~0u, 1024 + 4, EINVAL},              /* F_CREATED_QUERY 6.12 */
        {SYS_madvise, 2, ~0u, 25, EINVAL},                  /* MADV_COLLAPSE 6.1 */
        {449, -1, 0, 0, ENOSYS},                            /* futex_waitv 5.16 */
        {450, -1, 0, 0, ENOSYS},                            /* set_mempolicy_home_node 5.17 */
        {451, -1, 0, 0, ENOSYS},                            /* cachestat 6.5 */
        {452, -1, 0, 0, ENOSYS},                            /* fchmodat2 6.6 */
        {453, -1, 0, 0, ENOSYS},                            /* map_shadow_stack 6.6 */
        {454, -1, 0, 0, ENOSYS},                            /* futex_wake 6.7 */
        {455, -1, 0, 0, ENOSYS},                            /* futex_wait 6.7 */
        {456, -1, 0, 0, ENOSYS},                            /* futex_requeue 6.7 */
        {457, -1, 0, 0, ENOSYS},                            /* statmount 6.8 */
        {458, -1, 0, 0, ENOSYS},                            /* listmount 6.8 */
        {459, -1, 0, 0, ENOSYS},                            /* lsm_get_self_attr 6.8 */
        {462, -1, 0, 0, ENOSYS},                            /* mseal 6.10 */
        {463, -1, 0, 0, ENOSYS},                            /* setxattrat 6.13 */
        {464, -1, 0, 0, ENOSYS},                            /* getxattrat 6.13 */
        {467, -1, 0, 0, ENOSYS},                            /* open_tree_attr 6.15 */
        {468, -1, 0, 0, ENOSYS},                            /* file_getattr 6.17 */
};

static int as_linux_5_15(struct party *p)
{
        struct sock_filter f[2 + 6 * (sizeof newer / sizeof *newer)];
        unsigned at = 0;
        for (unsigned i = 0; i < sizeof newer / sizeof *newer; i++) {
                const struct newer *n = &newer[i];
                const uint32_t nr = offsetof(struct seccomp_data, nr), args = offsetof(struct seccomp_data, args);
                f[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, nr);
                f[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)n->call, 0,
                                                       n->arg < 0 ? 1 : 4);
                if (n->arg >= 0) {
                        f[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, args + 8 * (uint32_t)n->arg);
                        f[at++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, n->mask);
                        f[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, n->value, 0, 1);
                }
                f[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)n->answer);
        }
        f[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        struct sock_fprog prog = {(unsigned short)at, f};
        MATRIX_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        MATRIX_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), 0);
        MATRIX_CHECK(syscall(SYS_memfd_create, "", 0x0008) < 0 && errno == EINVAL);
        return 0;
}

static int landlocked(struct party *p)
{
        long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, 1 /* LANDLOCK_CREATE_RULESET_VERSION */);
        if (abi < 1)
                return not_here("Landlock");
        /* Every access to files that the version knows; from 4 on TCP; from 6 on abstract sockets and signals. */
        struct {
                uint64_t fs, net, scoped;
        } all = {abi >= 5 ? 0xffff : abi >= 3 ? 0x7fff : abi == 2 ? 0x3fff : 0x1fff, 3, 3};
        size_t size = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
        int fd = (int)syscall(SYS_landlock_create_ruleset, &all, size, 0);
        MATRIX_CHECK(fd >= 0);
        MATRIX_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        MATRIX_EQ(syscall(SYS_landlock_restrict_self, fd, 0), 0);
        close(fd);
        MATRIX_CHECK(open("/", O_RDONLY | O_CLOEXEC) < 0);
        return 0;
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

/* ---- time ---- */

static int time_namespace(const char *offsets)
{
        if (access("/proc/self/timens_offsets", F_OK) < 0)
                return not_here("time namespaces");
        int r = enter(CLONE_NEWTIME, "a time namespace");
        if (r)
                return r;
        if (!put("/proc/self/timens_offsets", offsets))
                return not_here("timens_offsets");
        return 0;
}

/* A child is the first to be in it. */
static int later_clock(struct party *p)
{
        int r = time_namespace("monotonic 100000000 5\nboottime 100000000 5\n");
        if (r == 0)
                party_go_on_in_child(p);
        return r;
}

static int earlier_clock(struct party *p)
{
        struct timespec now;
        char text[96];
        clock_gettime(CLOCK_MONOTONIC, &now);
        snprintf(text, sizeof text, "monotonic -%ld 0\nboottime -%ld 0\n", (long)now.tv_sec - 1, (long)now.tv_sec - 1);
        int r = time_namespace(text);
        if (r == 0)
                party_go_on_in_child(p);
        return r;
}

/*
 * The clock on the wall jumps, in this process alone, for the machine's is everybody's: whoever in this program asks
 * for it is told another year each time, and no call of the kernel may be told to wait by it.
 */
static _Atomic bool wall_jumps;
static _Atomic long wall_asked;

int clock_gettime(clockid_t clock, struct timespec *ts)
{
        int r = (int)syscall(SYS_clock_gettime, clock, ts);
        if (clock != CLOCK_MONOTONIC && clock != CLOCK_MONOTONIC_RAW && clock != CLOCK_MONOTONIC_COARSE &&
            clock != CLOCK_BOOTTIME && clock != CLOCK_PROCESS_CPUTIME_ID && clock != CLOCK_THREAD_CPUTIME_ID &&
            atomic_load(&wall_jumps))
                ts->tv_sec += (atomic_fetch_add(&wall_asked, 1) % 2 ? 1 : -1) * (time_t)365 * 86400;
        return r;
}

static int wall_clock(struct party *p)
{
        struct sock_filter f[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clock_nanosleep, 4, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_timerfd_create, 3, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_timer_create, 2, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 3, 0),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
                /* The first argument is a clock: not 0, CLOCK_REALTIME. */
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CLOCK_REALTIME, 3, 2),
                /* futex: the second says whether the timeout is of the wall clock. */
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
                BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, FUTEX_CLOCK_REALTIME, 1, 0),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        };
        struct sock_fprog prog = {sizeof f / sizeof *f, f};
        MATRIX_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        MATRIX_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), 0);
        atomic_store(&wall_jumps, true);
        return 0;
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
                return not_here("SCHED_FIFO");
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
                return not_here("SCHED_IDLE");
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
        {.name = "nobody", .before = nobody, .uid = NOBODY},
        {.name = "another-user", .before = somebody, .uid = SOMEBODY},
        {.name = "uid-changes", .after = nobody, .late_uid = true},
        {.name = "umask-0777", .before = umask_all},
        {.name = "umask-0777-nobody", .before = umask_all_nobody, .uid = NOBODY},
        {.name = "umask-0", .before = umask_none},
        {.name = "no-capabilities", .before = no_capabilities},
        {.name = "no-new-privileges", .before = no_new_privileges},
        {.name = "not-dumpable", .before = not_dumpable},
        {.name = "files-64", .before = files_64},
        {.name = "files-1024", .before = files_1024},
        {.name = "files-many", .before = files_many},
        {.name = "address-space", .before = address_space, .scarce = true},
        {.name = "memlock-0", .before = locked_0},
        {.name = "memory-locked", .before = locked_all},
        {.name = "file-size-0", .before = file_size_0, .no_memory = true},
        {.name = "pid-namespace", .before = pid_namespace, .pid_namespace = true, .forks = true},
        {.name = "user-namespace", .before = user_namespace, .user_namespace = true},
        {.name = "user-namespace-mapped", .before = user_namespace_mapped, .user_namespace = true},
        {.name = "no-proc-no-shm", .before = no_proc_no_shm},
        {.name = "other-namespaces", .before = other_namespaces},
        {.name = "memfd-noexec", .before = memfd_noexec, .pid_namespace = true, .forks = true},
        {.name = "chroot", .after = chrooted, .no_files = true},
        {.name = "directory-gone", .before = nowhere},
        {.name = "seccomp", .after = sandboxed, .no_memory = true, .no_files = true},
        {.name = "seccomp-no-memfd", .before = no_memfds, .no_memory = true},
        {.name = "seccomp-old-calls", .before = old_calls_only},
        {.name = "linux-5.15", .before = as_linux_5_15},
        {.name = "landlock", .after = landlocked, .no_files = true},
        {.name = "stdio-closed", .before = closed_stdio},
        {.name = "clock-later", .before = later_clock, .forks = true},
        {.name = "clock-earlier", .before = earlier_clock, .forks = true},
        {.name = "wall-clock-jumps", .before = wall_clock},
        {.name = "one-core", .before = one_core},
        {.name = "real-time", .before = real_time},
        {.name = "real-time-one-core", .before = real_time_one_core},
        {.name = "idle", .before = idle},
        {.name = "locale", .before = other_locale},
};
const unsigned n_envs = sizeof envs / sizeof *envs;
