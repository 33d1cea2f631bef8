#include "wharfd/confine.h"

#include "os/confine.h"
#include "os/os.h"
#include "names/proto.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <linux/sockios.h>

#define CALL(n)                           \
        {                                 \
                .nr = SYS_##n, .name = #n \
        }
#define CALL_IF(n, i, bits, is)                                                          \
        {                                                                                \
                .nr = SYS_##n, .name = #n, .arg = (i) + 1, .mask = (bits), .value = (is) \
        }

/* Calls have other names, and other halves, where a word has 32 bits; there is no list for that. */
static const struct wh_call_rule calls[] = {
#ifdef __LP64__
        /* what it does most comes first, for the kernel tries one after the other */
        CALL(recvmsg),
        CALL(sendmsg),
        CALL(ppoll),
        CALL(epoll_pwait),
        CALL(futex),
        CALL(close),
        CALL(epoll_ctl),
        CALL(getsockopt),
        CALL(getsockname),
        CALL(sendto),
        CALL(fcntl),
        CALL(socketpair),
        CALL(accept4),
        CALL(clock_gettime),
        /* others' processes and memory: descriptors of them, never the memory itself */
        CALL(pidfd_open),
        CALL_IF(kill, 1, UINT32_MAX, 0), /* does it live? */
        CALL(fstat),
        CALL(fstatfs),
        {.nr = WH_OS_SYS_CACHESTAT, .name = "cachestat"},
        /* memory, none of which can be executed */
        CALL_IF(mmap, 2, PROT_EXEC, 0),
        CALL_IF(mprotect, 2, PROT_EXEC, 0),
        CALL(munmap),
        CALL(mremap),
        CALL(madvise),
        CALL(brk),
        CALL(memfd_create),
        CALL(ftruncate),
        CALL(fallocate),
        CALL(fchmod),
        /* sockets of this machine */
        CALL_IF(socket, 0, UINT32_MAX, AF_UNIX),
        CALL(connect),
        CALL(listen),
        CALL(setsockopt),
        CALL(recvfrom),
        CALL(shutdown),
        CALL_IF(ioctl, 1, UINT32_MAX, SIOCINQ),
        CALL_IF(ioctl, 1, UINT32_MAX, SIOCOUTQ),
        CALL(epoll_create1),
#ifdef SYS_epoll_pwait2
        CALL(epoll_pwait2),
#endif
        CALL(eventfd2),
        /* files: which ones, Landlock says */
        CALL(openat),
        CALL(newfstatat),
        CALL(statx),
        CALL(faccessat),
        CALL(read),
        CALL(pread64),
        CALL(write),
        CALL(unlinkat),
        CALL(readlinkat),
        CALL(getdents64),
        CALL(flock),
        CALL(dup),
        CALL(dup3),
        CALL(inotify_add_watch),
#ifdef SYS_poll /* other names of the same, which some C libraries prefer */
        CALL(poll),
        CALL(stat),
        CALL(lstat),
        CALL(open),
        CALL(unlink),
        CALL(readlink),
        CALL(access),
        CALL(dup2),
        CALL(epoll_wait),
#endif
        /* a thread that closes what strangers sent (os/closer.h) */
        CALL(clone3), /* what it asks for lies in memory, where no filter looks */
        CALL_IF(clone, 0, CLONE_THREAD, CLONE_THREAD),
        CALL(set_robust_list),
        CALL(rseq),
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
        /* what a sanitizer asks for where such a thread begins and ends */
        CALL(sched_getaffinity),
        CALL(sigaltstack),
#endif
        /* itself */
        CALL(getpid),
        CALL(gettid),
        CALL(getuid),
        CALL(geteuid),
        CALL(getgid),
        CALL(getegid),
        CALL_IF(prlimit64, 0, UINT32_MAX, 0),
        CALL(getrandom),
        CALL(membarrier),
        CALL(sched_yield),
        CALL(rt_sigprocmask),
        CALL(rt_sigaction),
        CALL(rt_sigreturn),
        CALL(restart_syscall),
        CALL(clock_nanosleep),
        CALL(exit),
        CALL(exit_group),
#endif
        {.name = NULL},
};
static const size_t n_calls = sizeof calls / sizeof *calls - 1;

const char *wh_confine_call(size_t i)
{
        return calls[i <= n_calls ? i : n_calls].name;
}

uint32_t wh_confine_privileges(void)
{
        return wh_os_drop_privileges() == 0 ? WH_CONFINED_PRIVILEGES : 0;
}

uint32_t wh_confine_server(const char *dir, const char *config, bool kill)
{
        char *rules = config ? strdup(config) : NULL;
        struct wh_path_rule paths[] = {
                {dir, WH_PATH_READ | WH_PATH_WRITE | WH_PATH_MAKE}, /* to leave: its lock, and its socket removed */
                {rules ? rules : "/etc", WH_PATH_READ},             /* the directory of its rules */
                {"/dev/null", WH_PATH_READ | WH_PATH_WRITE},
                {"/proc", WH_PATH_READ},
                {"/sys/fs/cgroup", WH_PATH_READ}, /* how much memory there is */
                /* Names of users and groups, and of time zones. */
                {"/etc", WH_PATH_READ},
                {"/usr", WH_PATH_READ},
                {"/lib", WH_PATH_READ},
                {"/lib64", WH_PATH_READ},
                {"/var/lib/sss", WH_PATH_READ},
        };
        char *slash = rules ? strrchr(rules, '/') : NULL;
        if (slash)
                slash[slash == rules] = 0;
        uint32_t done = wh_confine_privileges();
        if (done && wh_os_allow_paths(paths, sizeof paths / sizeof *paths) == 0)
                done |= WH_CONFINED_FILES;
        free(rules);
        if (done && n_calls > 0 && wh_os_allow_calls(calls, n_calls, kill) == 0)
                done |= WH_CONFINED_CALLS;
        return done;
}
