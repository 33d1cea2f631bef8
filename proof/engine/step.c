/*
 * step - is it true that only the points between two shared stores differ?
 *
 * The engine `kill` rests on that. Here the same operation, from the library as released, runs under ptrace one machine
 * instruction at a time, and after each the shared bytes are hashed. Every state that shows there must be one that the
 * hooks can stop at. Two programs from one description: `step_AREA_hooked` writes the states that the hooks see, one
 * before each step and one at the end; `step_AREA`, without hooks, checks its own against them.
 *
 * Copies are the exception: a long copy passes through states in which some of its bytes are there, in whatever order
 * and width the machine likes. Bytes that nobody may look at yet say nothing, so the operations name them
 * (proof_step_hide()), and copy them where no reader could.
 */
#include "step.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

enum { STATES_MAX = 4096 };

static struct region {
        const uint8_t *at;
        uint8_t *mask; /* 0xff where a byte counts */
        size_t len;
} shown[8];
static unsigned n_shown;

void proof_step_show(const void *at, size_t len)
{
        uint8_t *mask = malloc(len);
        if (!mask || n_shown == sizeof shown / sizeof *shown)
                abort();
        memset(mask, 0xff, len);
        shown[n_shown++] = (struct region){at, mask, len};
}

void proof_step_hide(const void *at, size_t len)
{
        for (unsigned i = 0; i < n_shown; i++)
                for (size_t j = 0; j < len; j++) {
                        size_t off = (size_t)((const uint8_t *)at - shown[i].at) + j;
                        if (off < shown[i].len)
                                shown[i].mask[off] = 0;
                }
}

uint64_t proof_step_hash(void)
{
        uint64_t h = 14695981039346656037u;
        for (unsigned i = 0; i < n_shown; i++)
                for (size_t at = 0; at < shown[i].len; at += 8) {
                        uint64_t w, m;
                        memcpy(&w, shown[i].at + at, 8);
                        memcpy(&m, shown[i].mask + at, 8);
                        h = (h ^ (w & m)) * 1099511628211u;
                        h ^= h >> 31;
                }
        return h;
}

static uint64_t states[STATES_MAX];
static unsigned n_states;

/* Consecutive equal states are one. */
bool proof_step_state(uint64_t h)
{
        for (unsigned i = 0; i < n_states; i++)
                if (states[i] == h)
                        return false;
        if (n_states == STATES_MAX) {
                fprintf(stderr, "step: more than %d states\n", STATES_MAX);
                exit(2);
        }
        states[n_states++] = h;
        return true;
}

bool proof_step_known(uint64_t h)
{
        for (unsigned i = 0; i < n_states; i++)
                if (states[i] == h)
                        return true;
        return false;
}

void proof_step_forget(void)
{
        while (n_shown)
                free(shown[--n_shown].mask);
        n_states = 0;
}

bool proof_step_write(const char *path)
{
        FILE *f = fopen(path, "we");
        bool ok = f && fwrite(states, sizeof *states, n_states, f) == n_states;
        return f && fclose(f) == 0 && ok;
}

bool proof_step_read(const char *path)
{
        FILE *f = fopen(path, "re");
        if (!f)
                return false;
        n_states = (unsigned)fread(states, sizeof *states, STATES_MAX, f);
        fclose(f);
        return n_states > 0;
}

uint64_t proof_step_trace(void (*run)(void), void (*at_each)(uint64_t hash))
{
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
                ptrace(PTRACE_TRACEME, 0, NULL, NULL);
                raise(SIGSTOP);
                run();
                raise(SIGSTOP);
                _exit(0);
        }
        int st;
        uint64_t steps = 0;
        if (pid < 0 || waitpid(pid, &st, 0) < 0 || !WIFSTOPPED(st))
                return 0;
        at_each(proof_step_hash());
        for (;;) {
                if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) < 0 || waitpid(pid, &st, 0) < 0 || !WIFSTOPPED(st))
                        return 0;
                if (WSTOPSIG(st) == SIGSTOP)
                        break;
                steps++;
                at_each(proof_step_hash());
        }
        kill(pid, SIGKILL);
        waitpid(pid, &st, 0);
        return steps;
}
