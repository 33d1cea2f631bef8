/*
 * wharf run - start a program that holds rights by name, and needs neither this command nor wharfd any more.
 *
 * The rights are looked up here, and handed over as wharf_exec() does: this process becomes the program.
 */
#include "common.h"
#include "wharf/spawn.h"

#include <errno.h>
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

static int run(const struct verb *v, int argc, char **argv)
{
        static const struct option options[] = {{"send", required_argument, NULL, 's'},
                                                {"fd", required_argument, NULL, 'f'},
                                                {"timeout", required_argument, NULL, 't'},
                                                {"wait", no_argument, NULL, 'w'},
                                                {"wrapped", no_argument, NULL, 'W'},
                                                {"help", no_argument, NULL, 'h'},
                                                {0}};
        struct wharf_given given[WHARF_ITEMS_MAX];
        const char *served[WHARF_ITEMS_MAX]; /* NULL for a descriptor */
        uint32_t n = 0, flags = 0;
        int64_t timeout_ns = -1;
        bool wait = false;
        int c;
        opterr = 0;
        while ((c = getopt_long(argc, argv, "+s:f:t:h", options, NULL)) != -1)
                switch (c) {
                case 's':
                case 'f': {
                        const char *as, *what = split(optarg, &as);
                        uint64_t fd = 0;
                        if (n == WHARF_ITEMS_MAX)
                                return verb_fail(v, EXIT_USAGE, "more than %d rights for one program", WHARF_ITEMS_MAX);
                        if (c == 'f' && !option_count(v, "--fd", what, 0, INT32_MAX, &fd))
                                return EXIT_USAGE;
                        served[n] = c == 's' ? what : NULL;
                        given[n++] = (struct wharf_given){as, {.kind = WHARF_COPY_FD, .fd = (int)fd}};
                        break;
                }
                case 't':
                        if (!option_duration(v, "--timeout", optarg, &timeout_ns))
                                return EXIT_USAGE;
                        break;
                case 'w':
                        wait = true;
                        break;
                case 'W':
                        flags |= WHARF_SPAWN_WRAPPED;
                        break;
                case 'h':
                        return verb_help(v);
                default:
                        return option_bad(v, argv);
                }
        if (optind == argc)
                return verb_usage(v);

        wharf_task *task;
        int r = verb_task(v, &task);
        if (r != EXIT_DONE)
                return r;
        for (uint32_t i = 0; i < n && r == EXIT_DONE; i++) {
                if (!served[i])
                        continue;
                given[i].item.kind = WHARF_MOVE_SEND;
                r = verb_lookup(v, task, served[i], wait ? deadline_in(timeout_ns) : 0, &given[i].item.name);
        }
        if (r == EXIT_DONE) {
                struct wharf_spawn_opts o = {
                        .size = sizeof o, .flags = flags, .argv = argv + optind, .given = given, .n_given = n};
                int e = wharf_exec(task, &o, deadline_in(timeout_ns));
                r = verb_fail(v, verb_exit_code(e), "%s", *wharf_why() ? wharf_why() : wharf_strerror(e));
        }
        wharf_task_close(task);
        return r;
}

const struct verb verb_run = {.name = "run",
                              .args = "[--send [AS=]NAME]... [--fd [AS=]N]... [--wait] [--timeout DURATION] "
                                      "[--wrapped] [--] PROGRAM [ARG]...",
                              .summary = "start a program that holds rights by name",
                              .run = run};
