/*
 * wharf run - start a program that holds rights by name, and needs neither this command nor wharfd any more.
 *
 * The rights are looked up here, and handed over as wharf_exec() does: this process becomes the program.
 */
#include "common.h"
#include "wharf/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

extern const struct verb verb_run;

/* "AS=NAME" or "NAME", which is then also what the program calls it. Changes `text`. */
static const char *split(char *text, const char **ret_as)
{
        char *eq = strchr(text, '=');
        *ret_as = text;
        if (!eq)
                return text;
        *eq = 0;
        return eq + 1;
}

struct rights {
        struct wharf_given given[WHARF_ITEMS_MAX];
        const char *served[WHARF_ITEMS_MAX]; /* NULL for a descriptor */
        uint32_t n;
};

static bool take_right(const struct verb *v, struct rights *r, const char *as, const char *served, int fd)
{
        if (r->n == WHARF_ITEMS_MAX)
                return verb_fail(v, false, "'%s' is one too many: a program can be given %d rights", as,
                                 WHARF_ITEMS_MAX);
        r->served[r->n] = served;
        r->given[r->n++] = (struct wharf_given){as, {.kind = WHARF_COPY_FD, .fd = fd}};
        return true;
}

static bool take_send(const struct verb *v, const char *option, const char *text, void *rights)
{
        const char *as, *name = split((char *)(uintptr_t)text, &as);
        return take_right(v, rights, as, name, -1);
}

static bool take_fd(const struct verb *v, const char *option, const char *text, void *rights)
{
        const char *as, *number = split((char *)(uintptr_t)text, &as);
        uint64_t fd;
        if (!option_count(v, option, number, 0, INT32_MAX, &fd))
                return false;
        /* What was inherited has no close-on-exec; what has it is of this command, which the caller cannot mean. */
        int flags = fcntl((int)fd, F_GETFD);
        if (flags < 0 || flags & FD_CLOEXEC)
                return verb_fail(v, false, "%s: descriptor %d is not open", option, (int)fd);
        return take_right(v, rights, as, NULL, (int)fd);
}

static int run(const struct verb *v, int argc, char **argv)
{
        struct rights rights = {0};
        int64_t timeout_ns = -1;
        bool wait = false, wrapped = false;
        const struct option_spec options[] = {
                {"send", 's', OPTION_CALL, &rights, "[AS=]NAME", "a right to send to NAME, known to the program as AS",
                 .take = take_send},
                {"fd", 'f', OPTION_CALL, &rights, "[AS=]N", "descriptor N of the caller, known as AS", .take = take_fd},
                {"wait", 0, OPTION_FLAG, &wait, NULL, "wait for somebody to serve each NAME"},
                {"timeout", 't', OPTION_DURATION, &timeout_ns, "DURATION", "how long to wait; default: without end"},
                {"wrapped", 0, OPTION_FLAG, &wrapped, NULL, "the program only starts another, which has the rights"},
                {0},
        };
        int read = options_read(v, argc, argv, options);
        if (read != OPTIONS_GO_ON)
                return read;
        if (optind == argc)
                return verb_usage(v);

        wharf_task *task;
        int r = verb_task(v, &task);
        if (r != EXIT_DONE)
                return r;
        for (uint32_t i = 0; i < rights.n && r == EXIT_DONE; i++) {
                if (!rights.served[i])
                        continue;
                rights.given[i].item.kind = WHARF_MOVE_SEND;
                r = verb_lookup(v, task, rights.served[i], wait ? deadline_in(timeout_ns) : 0,
                                &rights.given[i].item.name);
        }
        if (r == EXIT_DONE) {
                struct wharf_spawn_opts o = {.size = sizeof o,
                                             .flags = wrapped ? WHARF_SPAWN_WRAPPED : 0,
                                             .argv = argv + optind,
                                             .given = rights.given,
                                             .n_given = rights.n};
                int e = wharf_exec(task, &o, deadline_in(timeout_ns));
                if (e == -ENOENT)
                        r = verb_fail(v, EXIT_NOT_FOUND, "%s: there is no such program, or what runs it is missing",
                                      argv[optind]);
                else
                        r = verb_fail(v, verb_exit_code(e), "%s", *wharf_why() ? wharf_why() : wharf_strerror(e));
        }
        wharf_task_close(task);
        return r;
}

const struct verb verb_run = {.name = "run",
                              .args = "[--send [AS=]NAME]... [--fd [AS=]N]... [--wait] [--timeout DURATION] "
                                      "[--wrapped] [--] PROGRAM [ARG]...",
                              .summary = "start a program that holds rights by name",
                              .run = run,
                              .stops = true};
