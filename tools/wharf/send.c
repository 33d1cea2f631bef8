/*
 * wharf send - send one message to whoever serves a name.
 */
#include "common.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

extern const struct verb verb_send;

static int run(const struct verb *v, int argc, char **argv)
{
        static const struct option options[] = {{"data", required_argument, NULL, 'd'},
                                                {"timeout", required_argument, NULL, 't'},
                                                {"size-limit", required_argument, NULL, 's'},
                                                {"wait", no_argument, NULL, 'w'},
                                                {"help", no_argument, NULL, 'h'},
                                                {0}};
        uint8_t *input = NULL;
        char *data = NULL;
        int64_t timeout_ns = -1;
        uint64_t size_limit = SIZE_LIMIT_DEFAULT;
        bool wait = false;
        int c;
        opterr = 0;
        while ((c = getopt_long(argc, argv, "+:d:t:h", options, NULL)) != -1)
                switch (c) {
                case 'd':
                        data = optarg;
                        break;
                case 't':
                        if (!option_duration(v, "--timeout", optarg, &timeout_ns))
                                return EXIT_USAGE;
                        break;
                case 's':
                        if (!option_size(v, "--size-limit", optarg, &size_limit))
                                return EXIT_USAGE;
                        break;
                case 'w':
                        wait = true;
                        break;
                case 'h':
                        return verb_help(v);
                default:
                        return option_bad(v, argv);
                }
        if (optind != argc - 1)
                return verb_usage(v);
        const char *name = argv[optind];

        wharf_task *task;
        int r = verb_task(v, &task);
        if (r != EXIT_DONE)
                return r;
        /* First the name: nobody should type a page for a receiver that is not there. */
        wharf_name right;
        r = verb_lookup(v, task, name, wait ? deadline_in(timeout_ns) : 0, &right);
        size_t len = data ? strlen(data) : 0;
        if (r == EXIT_DONE && !data)
                r = verb_read_input(v, size_limit, &input, &len);
        if (r == EXIT_DONE) {
                int e = wharf_send(task, right, input ? (const void *)input : data, len, deadline_in(timeout_ns));
                if (e < 0)
                        r = verb_error(v, name, e);
        }
        free(input);
        wharf_task_close(task);
        return r;
}

const struct verb verb_send = {.name = "send",
                               .args = "[--data TEXT] [--wait] [--timeout DURATION] [--size-limit SIZE] NAME",
                               .summary = "send one message: TEXT, or all of standard input",
                               .run = run};
