/*
 * calls - a program to be counted, not timed: `calls send` and `calls recv` do exactly CALLS_COUNTED of that one call
 * on a warm link, inside calls_counted(). Run by scripts/bench under valgrind, which counts the instructions that are
 * executed there; `calls count` prints how many calls that was.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <wharf/wharf.h>

#include "harness.h"

#define CALLS_COUNTED 256 /* fits a link's default capacity, so nothing ever waits */
#define CALLS_BYTES 64

static void check(ssize_t r, const char *call)
{
        if (r >= 0)
                return;
        errno = (int)-r;
        bench_die("%s %s", call, wharf_why());
}

static void sends(wharf_task *task, wharf_name right, uint32_t n)
{
        char bytes[CALLS_BYTES] = {0};
        for (uint32_t i = 0; i < n; i++)
                check(wharf_send(task, right, bytes, sizeof(bytes), 0), "wharf_send");
}

static void recvs(wharf_task *task, wharf_name port, uint32_t n)
{
        char bytes[CALLS_BYTES];
        for (uint32_t i = 0; i < n; i++)
                check(wharf_recv(task, port, bytes, sizeof(bytes), NULL, 0), "wharf_recv");
}

/* What valgrind looks for by name. External and not inlined, or there would be no such name. */
void calls_counted(void (*calls)(wharf_task *, wharf_name, uint32_t), wharf_task *task, wharf_name name);
__attribute__((noinline, used)) void calls_counted(void (*calls)(wharf_task *, wharf_name, uint32_t), wharf_task *task,
                                                   wharf_name name)
{
        calls(task, name, CALLS_COUNTED);
        __asm__ __volatile__("" ::: "memory"); /* no tail call, which would leave this function early */
}

int main(int argc, char **argv)
{
        struct wharf_port_opts opts = {.size = sizeof(opts), .flags = WHARF_PORT_STAYS};
        const char *what = argc == 2 ? argv[1] : "";
        wharf_task *task;
        wharf_name port, right;

        if (!strcmp(what, "count")) {
                printf("%d\n", CALLS_COUNTED);
                return 0;
        }
        if (strcmp(what, "send") && strcmp(what, "recv")) {
                fprintf(stderr, "usage: calls send|recv|count\n");
                return 1;
        }
        check(wharf_task_open(NULL, &task), "wharf_task_open");
        check(wharf_port_new(task, &opts, &port), "wharf_port_new");
        check(wharf_right_new(task, port, &right), "wharf_right_new");
        for (int i = 0; i < 100; i++) { /* long enough for the link to have its lane */
                sends(task, right, 1);
                recvs(task, port, 1);
        }
        if (!strcmp(what, "send")) {
                calls_counted(sends, task, right);
                recvs(task, port, CALLS_COUNTED);
        } else {
                sends(task, right, CALLS_COUNTED);
                calls_counted(recvs, task, port);
        }
        wharf_task_close(task);
        return 0;
}
