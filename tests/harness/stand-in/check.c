#include "check.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* One test is one case here, and there is one suite. */
struct TCase {
        TTest test;
        int index;
        double timeout_s;
        TCase *next;
};
struct Suite {
        const char *name;
        TCase *first, **end;
};
struct SRunner {
        Suite *suite;
        int failed, run;
};

static void *some(size_t bytes)
{
        void *p = calloc(1, bytes);
        if (!p)
                abort();
        return p;
}

Suite *suite_create(const char *name)
{
        Suite *s = some(sizeof *s);
        s->name = name;
        s->end = &s->first;
        return s;
}

TCase *tcase_create(const char *name)
{
        return some(sizeof(TCase));
}

void tcase_set_timeout(TCase *tc, double seconds)
{
        tc->timeout_s = seconds;
}

void _tcase_add_test(TCase *tc, const TTest *test, int signal, int exit_value, int from, int to)
{
        tc->test = *test;
        tc->index = from;
}

void suite_add_tcase(Suite *s, TCase *tc)
{
        *s->end = tc;
        s->end = &tc->next;
}

SRunner *srunner_create(Suite *s)
{
        SRunner *sr = some(sizeof *sr);
        sr->suite = s;
        return sr;
}

void _ck_assert_failed(const char *file, int line, const char *expr, const char *fmt, ...)
{
        va_list ap;
        va_start(ap, fmt);
        fprintf(stderr, "%s:%d: ", file, line);
        vfprintf(stderr, fmt, ap);
        fprintf(stderr, "\n");
        va_end(ap);
        fflush(NULL);
        _exit(1);
}

/* Whether the test passed. Its process group ends with it, whatever it has started. */
static int passed(const TCase *tc)
{
        sigset_t chld, before;
        sigemptyset(&chld);
        sigaddset(&chld, SIGCHLD);
        sigprocmask(SIG_BLOCK, &chld, &before);
        fflush(NULL);
        pid_t pid = fork();
        if (pid < 0)
                return 0;
        if (pid == 0) {
                setpgid(0, 0);
                sigprocmask(SIG_SETMASK, &before, NULL);
                tc->test.fn(tc->index);
                fflush(NULL);
                _exit(0);
        }
        setpgid(pid, pid);
        int status, timed_out = 0;
        struct timespec limit = {.tv_sec = (time_t)tc->timeout_s};
        while (waitpid(pid, &status, WNOHANG) == 0) {
                if (sigtimedwait(&chld, NULL, &limit) < 0 && errno == EAGAIN && !timed_out) {
                        timed_out = 1;
                        kill(-pid, SIGKILL);
                }
        }
        kill(-pid, SIGKILL);
        sigprocmask(SIG_SETMASK, &before, NULL);
        if (timed_out)
                fprintf(stderr, "%s: no end after %.0f s\n", tc->test.name, tc->timeout_s);
        else if (WIFSIGNALED(status))
                fprintf(stderr, "%s: ended by signal %d (%s)\n", tc->test.name, WTERMSIG(status),
                        strsignal(WTERMSIG(status)));
        else if (WEXITSTATUS(status))
                fprintf(stderr, "%s: failed\n", tc->test.name);
        return !timed_out && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void srunner_run_all(SRunner *sr, enum print_output how)
{
        for (const TCase *tc = sr->suite->first; tc; tc = tc->next) {
                int ok = passed(tc);
                if (how == CK_VERBOSE)
                        printf("%s: %s\n", tc->test.name, ok ? "passed" : "failed");
                sr->failed += !ok;
                sr->run++;
        }
}

int srunner_ntests_failed(SRunner *sr)
{
        return sr->failed;
}

int srunner_ntests_run(SRunner *sr)
{
        return sr->run;
}

void srunner_free(SRunner *sr)
{
        while (sr->suite->first) {
                TCase *tc = sr->suite->first;
                sr->suite->first = tc->next;
                free(tc);
        }
        free(sr->suite);
        free(sr);
}
