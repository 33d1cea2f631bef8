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
        uint8_t *input = NULL;
        char *data = NULL;
        int64_t timeout_ns = -1;
        uint64_t size_limit = SIZE_LIMIT_DEFAULT;
        bool wait = false, later = false;
        const struct option_spec options[] = {
                {"data", 'd', OPTION_TEXT, &data, "TEXT", "the message; without it, all of standard input"},
                {"wait", 0, OPTION_FLAG, &wait, NULL, "wait for somebody to serve NAME"},
                {"timeout", 't', OPTION_DURATION, &timeout_ns, "DURATION", "how long to wait; default: without end"},
                {"later", 0, OPTION_FLAG, &later, NULL, "leave the message where there is no room; it is sent later"},
                {"size-limit", 0, OPTION_SIZE, &size_limit, "SIZE", "read no more than this; default 1G"},
                {0},
        };
        int read = options_read(v, argc, argv, options);
        if (read != OPTIONS_GO_ON)
                return read;
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
                struct wharf_msg m = {.size = sizeof m,
                                      .flags = later ? WHARF_SEND_LATER : 0,
                                      .data = input ? (void *)input : data,
                                      .len_bytes = len};
                int e = wharf_sendmsg(task, right, &m, later && timeout_ns < 0 ? 0 : deadline_in(timeout_ns));
                if (e < 0)
                        r = verb_error(v, name, e);
                else if (e == 1)
                        verb_fail(v, 0, "%s: left to be sent later", name);
        }
        free(input);
        wharf_task_close(task);
        return r;
}

const struct verb verb_send = {.name = "send",
                               .args = "[--data TEXT] [--wait] [--timeout DURATION] [--later] [--size-limit SIZE] NAME",
                               .summary = "send one message: TEXT, or all of standard input",
                               .run = run};
