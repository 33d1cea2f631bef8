/*
 * sandboxes - environments from which less of the system is seen, or fewer calls may be made: namespaces, filters, and a
 * kernel of the oldest kind.
 */
#include "rows.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int row_enter(int flags, const char *what)
{
        return unshare(flags) < 0 ? row_not_here(what) : 0;
}

int row_pid_namespace(struct party *p)
{
        int r = row_enter(CLONE_NEWPID, "a pid namespace");
        if (r == 0)
                party_go_on_in_child(p);
        return r;
}

int row_user_namespace(struct party *p)
{
        return row_enter(CLONE_NEWUSER, "a user namespace");
}

bool row_put(const char *path, const char *text)
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
int row_user_namespace_mapped(struct party *p)
{
        char map[64], groups[64];
        snprintf(map, sizeof map, "0 %u 1", getuid());
        snprintf(groups, sizeof groups, "0 %u 1", getgid());
        int r = row_enter(CLONE_NEWUSER, "a user namespace");
        if (r)
                return r;
        row_put("/proc/self/setgroups", "deny");
        if (!row_put("/proc/self/uid_map", map))
                return row_not_here("uid_map");
        if (!row_put("/proc/self/gid_map", groups))
                return row_not_here("gid_map");
        return 0;
}

int row_no_proc_no_shm(struct party *p)
{
        int r = row_enter(CLONE_NEWNS, "a mount namespace");
        if (r)
                return r;
        MATRIX_EQ(mount("none", "/proc", "tmpfs", 0, "size=4k,mode=0"), 0);
        MATRIX_EQ(mount("none", "/dev", "tmpfs", 0, "size=4k,mode=0"), 0);
        MATRIX_CHECK(access("/proc/self", F_OK) < 0 && access("/dev/shm", F_OK) < 0);
        return 0;
}

int row_other_namespaces(struct party *p)
{
        return row_enter(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP, "other namespaces");
}

/* Where memfds may not be executable, and every one that does not say so is refused. */
int row_memfd_noexec(struct party *p)
{
        int r = row_pid_namespace(p);
        if (r)
                return r;
        if (!row_put("/proc/sys/vm/memfd_noexec", "2"))
                return row_not_here("vm.memfd_noexec");
        return 0;
}

int row_chrooted(struct party *p)
{
        char dir[200];
        snprintf(dir, sizeof dir, "%s/empty.%d", p->c->dir, p->hub);
        if (mkdir(dir, 0700) < 0)
                return row_not_here(dir);
        if (chdir(dir) < 0 || chroot(".") < 0) {
                int r = row_not_here("chroot");
                rmdir(dir);
                return r;
        }
        return 0;
}

/* The directory that it stands in is gone. */
int row_nowhere(struct party *p)
{
        char dir[200];
        snprintf(dir, sizeof dir, "%s/gone.%d", p->c->dir, (int)getpid());
        MATRIX_EQ(mkdir(dir, 0700), 0);
        MATRIX_EQ(chdir(dir), 0);
        MATRIX_EQ(rmdir(dir), 0);
        return 0;
}

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

int row_sandboxed(struct party *p)
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

int row_no_memfds(struct party *p)
{
        static const int calls[] = {SYS_memfd_create};
        refuse(calls, 1);
        return 0;
}

/* Calls that kernels, or container runtimes, of our time do not have: they answer ENOSYS or EPERM. */
int row_old_calls_only(struct party *p)
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

int row_as_linux_5_15(struct party *p)
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

int row_landlocked(struct party *p)
{
        long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, 1 /* LANDLOCK_CREATE_RULESET_VERSION */);
        if (abi < 1)
                return row_not_here("Landlock");
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
