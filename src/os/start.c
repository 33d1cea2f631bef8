/*
 * start - a wharfd, or the server of its keeper, is started. Programs with rights: spawn.c.
 */
#include "os/call.h"

#include "base/trace.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

/* The end of a child of _Fork(), where nothing may run that other threads of the parent had begun. */
static __attribute__((noreturn)) void end_child(int status)
{
        for (;;)
                RAW(exit_group, status);
}

/*
 * In the grandchild: put each descriptor in its place and run. Between fork and exec only calls that are safe in a
 * child of a threaded process are allowed, so everything was prepared before.
 */
static void spawn_grandchild(char *const argv[], const int *fds, unsigned n_fds, char *const env[], bool quiet,
                             int err_fd)
{
        setsid();
        int err = err_fd < 0 ? -1 : fcntl(err_fd, F_DUPFD, 3); /* it may be one of the three that are replaced */
        if (quiet) {
                int null = open("/dev/null", O_RDWR);
                for (int i = 0; i < 3 && null >= 0; i++)
                        dup2(null, i);
        }
        if (err >= 0)
                dup2(err, STDERR_FILENO);
        /*
         * First out of the way of every target, then down to it: the lists may overlap in any order. No higher than
         * that takes: where 64 descriptors are allowed, number 64 is none.
         */
        int high[16];
        if (n_fds > sizeof high / sizeof *high)
                end_child(126);
        for (unsigned i = 0; i < n_fds; i++)
                if ((high[i] = fcntl(fds[i], F_DUPFD, 3 + (int)n_fds)) < 0)
                        end_child(126);
        for (unsigned i = 0; i < n_fds; i++)
                if (dup2(high[i], 3 + (int)i) < 0)
                        end_child(126);
        syscall(SYS_close_range, 3 + n_fds, ~0u, 0);
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execvpe(argv[0], argv, env);
        end_child(127);
}

int wh_os_spawn_detached(char *const argv[], const int *fds, unsigned n_fds, char *const env[], bool quiet, int err_fd)
{
        int r = wh_os_enter(WH_OS_spawn);
        if (r < 0)
                return r;
        unsigned n_env = 0, n_extra = 0;
        while (environ && environ[n_env])
                n_env++;
        while (env && env[n_extra])
                n_extra++;
        char **all = calloc(n_env + n_extra + 1, sizeof *all);
        if (!all)
                return wh_trace(-ENOMEM);
        for (unsigned i = 0; i < n_env; i++)
                all[i] = environ[i];
        for (unsigned i = 0; i < n_extra; i++)
                all[n_env + i] = env[i];

        /*
         * _Fork() runs no pthread_atfork() handler: none of the caller's, and not ours, which would close the very
         * descriptors that are to be handed on when they are private.
         */
        pid_t pid = _Fork();
        if (pid == 0) {
                pid_t grand = _Fork();
                if (grand == 0)
                        spawn_grandchild(argv, fds, n_fds, all, quiet, err_fd);
                end_child(grand < 0 ? 126 : 0);
        }
        r = pid < 0 ? -errno : 0;
        free(all);
        int st = 0;
        while (pid > 0 && RAW(wait4, pid, &st, 0, NULL) < 0 && errno == EINTR)
                ;
        if (r == 0 && !(WIFEXITED(st) && WEXITSTATUS(st) == 0))
                r = -EAGAIN;
        return r;
}

pid_t wh_os_spawn_activated(char *const argv[], const int *fds, unsigned n_fds, char *const env[])
{
        int r = wh_os_enter(WH_OS_spawn);
        if (r < 0)
                return r;
        unsigned n_env = 0;
        while (env[n_env])
                n_env++;
        char pid_is[32] = "LISTEN_PID=";
        int *high = calloc(n_fds + 1, sizeof *high);
        char **all = calloc(n_env + 2, sizeof *all);
        if (!high || !all) {
                free(high);
                free(all);
                return wh_trace(-ENOMEM);
        }
        memcpy(all, env, n_env * sizeof *all);
        all[n_env] = pid_is;
        pid_t pid = _Fork();
        if (pid == 0) {
                /* First out of the way of every target, then down to it. Only async-signal-safe calls from here on. */
                for (unsigned i = 0; i < n_fds; i++)
                        if ((high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3 + (int)n_fds)) < 0)
                                end_child(126);
                for (unsigned i = 0; i < n_fds; i++)
                        if (dup2(high[i], 3 + (int)i) < 0)
                                end_child(126);
                syscall(SYS_close_range, 3 + n_fds, ~0u, 0);
                char digits[16], *at = pid_is + strlen(pid_is);
                unsigned n = 0;
                for (pid_t v = getpid(); v; v /= 10)
                        digits[n++] = (char)('0' + v % 10);
                while (n)
                        *at++ = digits[--n];
                *at = 0;
                sigset_t none;
                sigemptyset(&none);
                sigprocmask(SIG_SETMASK, &none, NULL);
                execve(argv[0], argv, all);
                end_child(127);
        }
        r = pid < 0 ? -errno : 0;
        free(high);
        free(all);
        return r < 0 ? r : pid;
}
