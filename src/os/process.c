/*
 * process - who this process is, and what it does with others.
 */
#include "os/call.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/wait.h>

pid_t wh_os_getpid(void)
{
        return getpid();
}

pid_t wh_os_gettid(void)
{
        return (pid_t)syscall(SYS_gettid);
}

uid_t wh_os_getuid(void)
{
        return getuid();
}

uid_t wh_os_geteuid(void)
{
        return geteuid();
}

gid_t wh_os_getgid(void)
{
        return getgid();
}

int wh_os_pidfd_open(pid_t pid)
{
        return (int)OS_FD(pidfd_open, syscall(SYS_pidfd_open, pid, 0));
}

int wh_os_pidfd_kill(int pidfd, int sig)
{
        return (int)OS_CALL(pidfd_send_signal, syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0));
}

int wh_os_kill(pid_t pid, int sig)
{
        return (int)OS_CALL(kill, kill(pid, sig));
}

int wh_os_rlimit(int which, uint64_t *ret)
{
        struct rlimit lim;
        int r = (int)OS_CALL(getrlimit, getrlimit((__rlimit_resource_t)which, &lim));
        if (r == 0)
                *ret = lim.rlim_cur == RLIM_INFINITY ? UINT64_MAX : lim.rlim_cur;
        return r;
}

bool wh_os_is_stopped(pid_t pid)
{
        char path[32], buf[256];
        snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
        int fd = wh_os_open(path, O_RDONLY, 0);
        ssize_t n = fd < 0 ? fd : wh_os_read(fd, buf, sizeof buf - 1);
        wh_os_close(fd);
        if (n <= 0)
                return false;
        buf[n] = 0;
        const char *p = strrchr(buf, ')');      /* the name before it may hold anything */
        return p && p[1] == ' ' && p[2] == 'T'; /* not t: a tracer stops it now and then, and lets it go on */
}

int wh_os_self_exe(char *buf, size_t cap)
{
        ssize_t n = wh_os_readlink("/proc/self/exe", buf, cap - 1);
        if (n > 0) {
                buf[n] = 0;
                return 0;
        }
        /* The kernel put it on our stack at exec(). Not for a program with rights that its caller has not. */
        const char *at = (const char *)getauxval(AT_EXECFN); // NOLINT(performance-no-int-to-ptr)
        char *full = !at || getauxval(AT_SECURE) ? NULL : realpath(at, NULL);
        size_t len = full ? strlen(full) : cap;
        if (len < cap)
                memcpy(buf, full, len + 1);
        free(full);
        return len < cap ? 0 : -ENOENT;
}

int wh_os_cpus(void)
{
        long n = sysconf(_SC_NPROCESSORS_ONLN);
        return n > 0 ? (int)n : 1;
}

ssize_t wh_os_process_vm_readv(pid_t pid, const struct iovec *to, unsigned n_to, const struct iovec *from, unsigned n)
{
        return OS_CALL(process_vm_readv, process_vm_readv(pid, to, n_to, from, n, 0));
}

ssize_t wh_os_process_vm_writev(pid_t pid, const struct iovec *from, unsigned n_from, const struct iovec *to,
                                unsigned n)
{
        return OS_CALL(process_vm_writev, process_vm_writev(pid, from, n_from, to, n, 0));
}

int wh_os_getrandom(void *buf, size_t len)
{
        ssize_t r = OS_CALL(getrandom, RAW_GETRANDOM(buf, len, 0));
        return r < 0 ? (int)r : (size_t)r == len ? 0 : -EIO;
}

int wh_os_wait(pid_t pid, int *ret)
{
        return (int)OS_CALL(wait, waitpid(pid, ret, 0) < 0 ? -1 : 0);
}
