/*
 * spawn - starting a program, and knowing whether it started.
 *
 * Always true:
 *   N1  The child tells its pidfd by itself, so there is no moment at which its number could be somebody else's; and
 *       it goes on only when the parent has it.
 *   N2  Between fork and exec only async-signal-safe functions run: everything else was prepared before.
 *   N3  After a failure there is no child, and no descriptor more than before.
 */
#ifndef WH_OS_SPAWN_H
#define WH_OS_SPAWN_H

#include <sys/types.h>

struct wh_os_program {
        char *const *argv;
        char *const *envp;
        const char *cwd;  /* or NULL */
        const int *stdio; /* three descriptors, -1 for /dev/null; or NULL */
        int keep;         /* a descriptor above 2 that the program finds under the same number */
        char *pid_digits; /* where in envp to write the number of the process, WH_PID_DIGITS digits; or NULL */
        int (*prepare)(void *arg);
        void *prepare_arg;
};

enum { WH_PID_DIGITS = 10 };
void wh_os_write_pid(char *digits);

/* 0 once the program runs. Otherwise *ret_where says what refused: "chdir", "exec" ... */
int wh_os_spawn(const struct wh_os_program *p, pid_t *ret_pid, int *ret_pidfd, const char **ret_where);
/* Become the program: argv, envp and keep of it. Returns only with an error, and then nothing has changed. */
int wh_os_exec(const struct wh_os_program *p);

/* The status of a child that has ended: 0 to 255, or the signal that killed it, negated. -EAGAIN: it lives. -ECHILD */
int wh_os_reap(int pidfd, int *ret_status);

#endif
