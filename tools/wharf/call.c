/*
 * wharf call - send a request to whoever serves a name and print the reply.
 */
#include "common.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

extern const struct verb verb_call;

#define SLICE_NS ((int64_t)500 * 1000000) /* between two lines of progress */

/* Ask and wait, telling people at a terminal what takes so long. */
static int call(wharf_task *task, wharf_name right, const void *data, size_t len, int64_t deadline_ns,
                struct wharf_msg *reply)
{
        struct wharf_msg m = {.size = sizeof m, .data = (void *)(uintptr_t)data, .len_bytes = len};
        uint32_t call;
        char text[16];
        int64_t start_ns = wharf_now_ns();
        if (len >= 64u << 20)
                progress("sending %s", format_size(len, text));
        int r = wharf_call_start(task, right, &m, WHARF_NONE, deadline_ns, &call);
        if (r < 0)
                return r;
        for (;;) {
                int64_t now = wharf_now_ns(), until_ns = deadline_ns - now < SLICE_NS ? deadline_ns : now + SLICE_NS;
                r = wharf_call_finish(task, right, call, reply, until_ns);
                if (r != -ETIMEDOUT && r != -EAGAIN)
                        break;
                now = wharf_now_ns();
                if (until_ns == deadline_ns && now >= deadline_ns)
                        break;
                progress("%s sent; waiting for the reply, %lld s", format_size(len, text),
                         (long long)((now - start_ns) / 1000000000));
        }
        if (r == -ETIMEDOUT || r == -EAGAIN || r == -EOVERFLOW)
                wharf_call_cancel(task, right, call);
        return r == -EAGAIN ? -ETIMEDOUT : r;
}

static int run(const struct verb *v, int argc, char **argv)
{
        uint8_t *input = NULL;
        char *data = NULL;
        int64_t timeout_ns = -1;
        uint64_t size_limit = SIZE_LIMIT_DEFAULT;
        bool wait = false;
        const struct option_spec options[] = {
                {"data", 'd', OPTION_TEXT, &data, "TEXT", "the request; without it, all of standard input"},
                {"wait", 0, OPTION_FLAG, &wait, NULL, "wait for somebody to serve NAME"},
                {"timeout", 't', OPTION_DURATION, &timeout_ns, "DURATION", "how long to wait; default: without end"},
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
        int r = verb_output_begin(v); /* nobody should work for a reply that cannot be printed */
        if (r == EXIT_DONE)
                r = verb_task(v, &task);
        if (r != EXIT_DONE)
                return r;
        wharf_name right;
        r = verb_lookup(v, task, name, wait ? deadline_in(timeout_ns) : 0, &right);
        size_t len = data ? strlen(data) : 0;
        if (r == EXIT_DONE && !data)
                r = verb_read_input(v, size_limit, &input, &len);
        if (r == EXIT_DONE) {
                struct wharf_msg reply = {.size = sizeof reply, .flags = WHARF_RECV_ALLOC};
                int e = call(task, right, input ? (const void *)input : data, len, deadline_in(timeout_ns), &reply);
                progress("%s", "");
                if (e == -ECANCELED)
                        r = verb_fail(v, EXIT_REFUSED, "%s: the server dropped the request without a reply", name);
                else if (e < 0)
                        r = verb_error(v, name, e);
                else if ((r = output_write(reply.data, reply.len_bytes)) < 0)
                        r = verb_fail(v, EXIT_REFUSED, "%s: its reply of %llu bytes is lost: standard output: %s", name,
                                      (unsigned long long)reply.len_bytes, standard_error(-r));
                if (e == 0)
                        wharf_release(task, &reply);
        }
        free(input);
        wharf_task_close(task);
        return r;
}

const struct verb verb_call = {.name = "call",
                               .args = "[--data TEXT] [--wait] [--timeout DURATION] [--size-limit SIZE] NAME",
                               .summary = "send a request, TEXT or all of standard input, and print the reply",
                               .run = run};
