/*
 * exec_testing - a process that takes something and then becomes another program, cat, which knows nothing of wharf.
 */
#ifndef WH_MEMORY_EXEC_TESTING_H
#define WH_MEMORY_EXEC_TESTING_H

#include "test.h"

#include <fcntl.h>

struct exec_child {
        pid_t pid;
        int to, from; /* ends of pipes to its standard input, and from its output */
};

struct exec_child_start {
        int (*hold)(void *arg);
        void *arg;
        int in, out;
};

static int exec_child_main(void *p)
{
        struct exec_child_start *s = p;
        CHECK_EQ(s->hold(s->arg), 0);
        CHECK_EQ(write(s->out, "h", 1), 1); /* it holds it now */
        char go;
        CHECK_EQ(read(s->in, &go, 1), 1);
        CHECK_EQ(dup2(s->in, 0), 0);
        CHECK_EQ(dup2(s->out, 1), 1);
        execlp("cat", "cat", (char *)NULL);
        return 127;
}

/* Returns when it has called `hold` and gone no further. */
__attribute__((unused)) static struct exec_child exec_child_holds(int (*hold)(void *), void *arg)
{
        int in[2], out[2];
        char c;
        if (access("/dev/zero", R_OK | W_OK) < 0)
                test_skip("there is no /dev/zero, by which exec() is noticed");
        CHECK_EQ(pipe2(in, O_CLOEXEC), 0);
        CHECK_EQ(pipe2(out, O_CLOEXEC), 0);
        struct exec_child_start s = {hold, arg, in[0], out[1]};
        struct exec_child e = {.pid = test_fork(exec_child_main, &s), .to = in[1], .from = out[0]};
        close(in[0]);
        close(out[1]);
        CHECK_EQ(read(e.from, &c, 1), 1);
        return e;
}

/* Returns when the other program runs: it has sent back what it was sent. */
__attribute__((unused)) static void exec_child_becomes(struct exec_child *e)
{
        char c;
        CHECK_EQ(write(e->to, "g", 1), 1);
        CHECK_EQ(write(e->to, "x", 1), 1);
        CHECK_EQ(read(e->from, &c, 1), 1);
        CHECK_EQ(c, 'x');
}

/* It lived until now. */
__attribute__((unused)) static void exec_child_ends(struct exec_child *e)
{
        CHECK_EQ(waitpid(e->pid, NULL, WNOHANG), 0);
        close(e->to);
        CHECK_EQ(test_wait(e->pid), 0);
        close(e->from);
}

#endif
