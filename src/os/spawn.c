#include "os/spawn.h"

#include "os/os.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/* What the child says on its way: first its pidfd, with an error of 0; then, if it comes to that, what refused. */
struct report {
        int32_t error;
        int32_t where;
};
enum { AT_START, AT_STDIO, AT_CHDIR, AT_PREPARE, AT_EXEC };
static const char *const where_names[] = {"the child", "its standard descriptors", "its directory", "prepare", "exec"};

static void report_send(int sock, int error, int where, int fd)
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(sizeof fd)];
        } control = {.space = {0}};
        struct report rep = {error, where};
        struct iovec iov = {&rep, sizeof rep};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
        if (fd >= 0) {
                struct cmsghdr *c = &control.align;
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(sizeof fd);
                memcpy(CMSG_DATA(c), &fd, sizeof fd);
                m.msg_control = control.space;
                m.msg_controllen = sizeof control.space;
        }
        sendmsg(sock, &m, MSG_NOSIGNAL);
}

static int errno_of(int r)
{
        return r < 0 ? -errno : r;
}

void wh_os_write_pid(char *digits)
{
        unsigned pid = (unsigned)getpid();
        for (int i = WH_PID_DIGITS - 1; i >= 0; i--, pid /= 10)
                digits[i] = (char)('0' + pid % 10);
}

/*
 * The child has its parent's memory and descriptors of its own: a thread sanitizer that is told of what both do with
 * one number takes it for a race. So it asks the kernel itself.
 */
static int set_stdio(const int *stdio)
{
        long high[3];
        for (int i = 0; i < 3; i++) /* first out of the way of one another */
                if ((high[i] = stdio[i] < 0 ? syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC)
                                            : syscall(SYS_fcntl, stdio[i], F_DUPFD_CLOEXEC, 3)) < 0)
                        return -errno;
        for (int i = 0; i < 3; i++)
                if ((high[i] == i ? syscall(SYS_fcntl, i, F_SETFD, 0) : syscall(SYS_dup3, high[i], i, 0)) < 0)
                        return -errno;
        return 0;
}

/*
 * What finding a program takes, made before the fork: execvpe() has it on the stack, as long as PATH and argv are, and
 * a thread may have little of that.
 */
struct finding {
        const char *dirs; /* PATH; in a process that is about to become another, nobody changes it */
        char *path;       /* room for the longest of them and the program */
        char **sh_argv;   /* for what is a script without saying of what */
};

static int finding_init(const struct wh_os_program *p, struct finding *ret)
{
        const char *dirs = getenv("PATH");
        size_t argc = 0;
        while (p->argv[argc])
                argc++;
        dirs = dirs ? dirs : "/bin:/usr/bin";
        *ret = (struct finding){.dirs = dirs,
                                .path = wh_os_malloc(strlen(dirs) + strlen(p->argv[0]) + 2),
                                .sh_argv = wh_os_calloc(argc + 2, sizeof(char *))};
        if (ret->path && ret->sh_argv)
                return 0;
        free(ret->path);
        free(ret->sh_argv);
        return -ENOMEM;
}

static void finding_done(struct finding *f)
{
        free(f->path);
        free(f->sh_argv);
}

/* Returns only a failure. */
static int exec_at(const struct wh_os_program *p, const struct finding *f, const char *path)
{
        execve(path, p->argv, p->envp);
        if (errno != ENOEXEC)
                return -errno;
        static char sh[] = "/bin/sh";
        f->sh_argv[0] = sh;
        f->sh_argv[1] = (char *)(uintptr_t)path;
        for (size_t i = 1; p->argv[i]; i++)
                f->sh_argv[i + 1] = p->argv[i];
        execve(sh, f->sh_argv, p->envp);
        return -errno;
}

/* As execvpe(3). */
static int exec_found(const struct wh_os_program *p, const struct finding *f)
{
        const char *file = p->argv[0];
        if (!*file)
                return -ENOENT;
        if (strchr(file, '/'))
                return exec_at(p, f, file);
        int r = -ENOENT;
        bool denied = false;
        for (const char *dir = f->dirs, *next; dir; dir = next) {
                size_t n = strcspn(dir, ":");
                next = dir[n] ? dir + n + 1 : NULL;
                memcpy(f->path, dir, n);
                if (n)
                        f->path[n++] = '/'; /* an empty one is the current directory */
                strcpy(f->path + n, file);
                r = exec_at(p, f, f->path);
                denied |= r == -EACCES;
                if (r != -EACCES && r != -ENOENT && r != -ENOTDIR && r != -ESTALE && r != -ENODEV && r != -ETIMEDOUT &&
                    r != -ENAMETOOLONG)
                        return r;
        }
        return denied ? -EACCES : r;
}

/* N2. Signals are blocked here, so that no handler of the parent runs in its child. */
static void child_run(const struct wh_os_program *p, const struct finding *f, int sock, int parents,
                      const sigset_t *none)
{
        close(parents); /* so that the parent's end is the parent's alone: what it closes ends the wait below */
        for (int sig = 1; sig < 65; sig++) {
                struct sigaction a;
                if (sigaction(sig, NULL, &a) == 0 && a.sa_handler != SIG_IGN && a.sa_handler != SIG_DFL) {
                        a = (struct sigaction){.sa_handler = SIG_DFL};
                        sigaction(sig, &a, NULL);
                }
        }
        int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
        int r = errno_of(pidfd), where = AT_START;
        report_send(sock, r < 0 ? r : 0, where, pidfd);
        char go;
        if (recv(sock, &go, 1, 0) != 1)
                _exit(127); /* the parent has no room for the pidfd, or is gone */
        if (r >= 0 && (where = AT_STDIO, p->stdio))
                r = set_stdio(p->stdio);
        if (r >= 0 && (where = AT_CHDIR, p->cwd))
                r = errno_of(chdir(p->cwd));
        if (r >= 0) {
                where = AT_START;
                r = errno_of((int)syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC));
        }
        if (r >= 0)
                r = errno_of(fcntl(p->keep, F_SETFD, 0));
        if (p->pid_digits)
                wh_os_write_pid(p->pid_digits);
        sigprocmask(SIG_SETMASK, none, NULL);
        if (r >= 0 && (where = AT_PREPARE, p->prepare))
                r = p->prepare(p->prepare_arg);
        if (r >= 0) {
                where = AT_EXEC;
                r = exec_found(p, f);
        }
        report_send(sock, r, where, -1);
        _exit(127);
}

/* The next report: 1, or 0 when there will be none. Negative: it cannot be heard. */
static int report_await(int sock, struct report *ret, int *pidfd)
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(4 * sizeof(int))];
        } control;
        struct iovec iov = {ret, sizeof *ret};
        for (;;) {
                struct msghdr m = {.msg_iov = &iov,
                                   .msg_iovlen = 1,
                                   .msg_control = control.space,
                                   .msg_controllen = sizeof control.space};
                ssize_t n = wh_os_recvmsg(sock, &m, 0);
                if (n == -EAGAIN) {
                        struct pollfd p = {.fd = sock, .events = POLLIN};
                        wh_os_poll(&p, 1, WH_NEVER);
                }
                if (n == -EAGAIN || n == -EINTR)
                        continue;
                if (n < 0 && n != -ECONNRESET)
                        return (int)n;
                struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
                if (c && c->cmsg_type == SCM_RIGHTS && *pidfd < 0)
                        memcpy(pidfd, CMSG_DATA(c), sizeof *pidfd);
                return n == (ssize_t)sizeof *ret;
        }
}

/* Two ends of a pair, both above the descriptors that the child replaces. */
static int pair_above_stdio(int sv[2])
{
        int r = wh_os_socketpair(sv);
        for (int i = 0; r == 0 && i < 2; i++) {
                if (sv[i] >= 3)
                        continue;
                int high = wh_os_dup_above(sv[i], 3);
                wh_os_close(sv[i]);
                sv[i] = high;
                if (high < 0) {
                        wh_os_close(sv[!i]);
                        r = high;
                }
        }
        if (r == 0) {
                wh_os_fd_private(sv[0]);
                wh_os_fd_private(sv[1]);
        }
        return r;
}

int wh_os_spawn(const struct wh_os_program *p, pid_t *ret_pid, int *ret_pidfd, const char **ret_where)
{
        *ret_where = "fork";
        struct finding finding;
        int sv[2], r = wh_os_enter(WH_OS_spawn);
        if (r == 0)
                r = finding_init(p, &finding);
        if (r < 0)
                return r;
        r = pair_above_stdio(sv);
        if (r < 0) {
                finding_done(&finding);
                return r;
        }
        sigset_t all, none, before;
        sigfillset(&all);
        sigemptyset(&none);
        int saved = errno;
        pthread_sigmask(SIG_SETMASK, &all, &before);
        /* _Fork() runs no pthread_atfork() handler: ours would close what is handed on. */
        pid_t pid = _Fork();
        if (pid == 0)
                child_run(p, &finding, sv[1], sv[0], &none);
        r = pid < 0 ? -errno : 0;
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        errno = saved;
        finding_done(&finding);
        wh_os_close(sv[1]);
        struct report rep = {0};
        int pidfd = -1;
        bool heard = false;
        int got = 0;
        while (r == 0 && (got = report_await(sv[0], &rep, &pidfd)) > 0) {
                r = rep.error > 0 ? -rep.error : rep.error;
                if (!heard && r == 0)
                        r = pidfd < 0 ? -EMFILE : wh_os_send_byte(sv[0]);
                r = r > 0 ? 0 : r;
                heard = true;
        }
        if (got < 0) { /* nobody would ever know whether the program runs: then it shall not */
                r = got;
                kill(pid, SIGKILL); /* not reaped yet, so the number is its own */
        }
        wh_os_close(sv[0]);
        if (r == 0 && !heard)
                r = -ECHILD;
        *ret_where = heard && rep.where >= 0 && rep.where <= AT_EXEC ? where_names[rep.where] : *ret_where;
        if (r == 0) {
                /* The end of the socket means exec, or death before it. Nobody reaps but who knows the child: us. */
                *ret_pid = pid;
                *ret_pidfd = pidfd;
                return 0;
        }
        if (pid > 0) {
                siginfo_t info; /* it has ended, or is about to: it was told nothing more */
                while (syscall(SYS_waitid, pidfd >= 0 ? P_PIDFD : P_PID, pidfd >= 0 ? pidfd : pid, &info, WEXITED,
                               NULL) < 0 &&
                       errno == EINTR)
                        ;
                errno = saved;
        }
        wh_os_close(pidfd);
        return r;
}

int wh_os_exec(const struct wh_os_program *p)
{
        struct finding finding;
        int r = wh_os_enter(WH_OS_spawn), saved = errno;
        if (r == 0)
                r = finding_init(p, &finding);
        if (r < 0)
                return r;
        if (p->pid_digits)
                wh_os_write_pid(p->pid_digits);
        r = fcntl(p->keep, F_SETFD, 0) == 0 ? exec_found(p, &finding) : -errno;
        finding_done(&finding);
        fcntl(p->keep, F_SETFD, FD_CLOEXEC);
        errno = saved;
        return r;
}

int wh_os_reap(int pidfd, int *ret_status)
{
        siginfo_t info = {0};
        int saved = errno;
        int r = errno_of((int)syscall(SYS_waitid, P_PIDFD, pidfd, &info, WEXITED | WNOHANG, NULL));
        errno = saved;
        if (r < 0)
                return r;
        if (info.si_pid == 0)
                return -EAGAIN;
        *ret_status = info.si_code == CLD_EXITED ? info.si_status : -info.si_status;
        return 0;
}
