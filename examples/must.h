/* must.h - for examples: a call that fails ends the program, saying what and why. Returns what the call returned. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wharf/wharf.h>

#define MUST(call)                                                                                   \
        ({                                                                                           \
                long r_ = (long)(call);                                                              \
                if (r_ < 0) {                                                                        \
                        fprintf(stderr, "%s: %s %s\n", #call, wharf_strerror((int)r_), wharf_why()); \
                        exit(1);                                                                     \
                }                                                                                    \
                r_;                                                                                  \
        })

/* How most examples begin: a task; a port of it under a name; a right to the port of that name, as soon as there is
 * one. */
static inline wharf_task *open_task(void)
{
        wharf_task *task;
        MUST(wharf_task_open(NULL, &task));
        return task;
}

static inline wharf_name port_named(wharf_task *task, const char *name)
{
        wharf_name port;
        MUST(wharf_port_new(task, NULL, &port));
        MUST(wharf_register(task, name, port));
        return port;
}

static inline wharf_name right_to(wharf_task *task, const char *name)
{
        wharf_name right;
        MUST(wharf_lookup(task, name, WHARF_FOREVER, &right));
        return right;
}
