/*
 * wharf ls - the names of a domain, who serves them, and how busy they are.
 */
#include "common.h"

#include <getopt.h>
#include <inttypes.h>
#include <json.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

extern const struct verb verb_ls;

/* wharfd holds a right to every port, which is nobody's business here. */
static uint32_t senders(const struct wharf_named *n)
{
        return n->senders ? n->senders - 1 : 0;
}

/* The name of a user, or the number where he has none. */
static const char *user(uid_t uid, char buf[16])
{
        const struct passwd *p = getpwuid(uid);
        if (p && strlen(p->pw_name) < 33)
                return p->pw_name;
        snprintf(buf, 16, "%u", (unsigned)uid);
        return buf;
}

static int print_json(const struct verb *v, const struct wharf_named *all, size_t n)
{
        json_object *list = json_object_new_array();
        for (size_t i = 0; i < n; i++) {
                char id[24];
                snprintf(id, sizeof id, "%016" PRIx64, all[i].id.v); /* a number of JSON has only 53 bits */
                json_object *o = json_object_new_object();
                json_object_object_add(o, "name", json_object_new_string(all[i].name));
                json_object_object_add(o, "pid", json_object_new_int64(all[i].pid));
                json_object_object_add(o, "uid", json_object_new_int64(all[i].uid));
                json_object_object_add(o, "port_id", json_object_new_string(id));
                json_object_object_add(o, "senders", json_object_new_int64(senders(&all[i])));
                json_object_object_add(o, "receivers_waiting", json_object_new_int64(all[i].receivers_waiting));
                json_object_object_add(o, "queued_messages", json_object_new_uint64(all[i].queued_messages));
                json_object_object_add(o, "received_messages", json_object_new_uint64(all[i].received_messages));
                json_object_object_add(o, "received_bytes", json_object_new_uint64(all[i].received_bytes));
                json_object_array_add(list, o);
        }
        const char *text =
                json_object_to_json_string_ext(list, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
        int r = puts(n ? text : "[]") < 0 || fflush(stdout)
                        ? verb_fail(v, EXIT_REFUSED, "standard output: it is closed")
                        : EXIT_DONE;
        json_object_put(list);
        return r;
}

static int print_table(const struct verb *v, const struct wharf_named *all, size_t n)
{
        int wide = 4, user_wide = 4;
        char buf[16], bytes[16];
        for (size_t i = 0; i < n; i++) {
                int len = (int)strlen(all[i].name), user_len = (int)strlen(user(all[i].uid, buf));
                wide = len > wide ? len : wide;
                user_wide = user_len > user_wide ? user_len : user_wide;
        }
        if (n)
                printf("%-*s  %7s  %-*s  %7s  %7s  %9s  %9s\n", wide, "NAME", "OWNER", user_wide, "USER", "SENDERS",
                       "QUEUED", "RECEIVED", "BYTES");
        for (size_t i = 0; i < n; i++)
                printf("%-*s  %7d  %-*s  %7" PRIu32 "  %7" PRIu64 "  %9" PRIu64 "  %9s\n", wide, all[i].name,
                       (int)all[i].pid, user_wide, user(all[i].uid, buf), senders(&all[i]), all[i].queued_messages,
                       all[i].received_messages, format_size(all[i].received_bytes, bytes));
        return fflush(stdout) ? verb_fail(v, EXIT_REFUSED, "standard output: it is closed") : EXIT_DONE;
}

static int run(const struct verb *v, int argc, char **argv)
{
        static const struct option options[] = {
                {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {0}};
        bool json = false;
        int c;
        opterr = 0;
        while ((c = getopt_long(argc, argv, "+h", options, NULL)) != -1)
                switch (c) {
                case 'j':
                        json = true;
                        break;
                case 'h':
                        return verb_help(v);
                default:
                        return option_bad(v, argv);
                }
        if (optind != argc)
                return verb_usage(v);
        wharf_task *task;
        int r = verb_task(v, &task);
        if (r != EXIT_DONE)
                return r;
        struct wharf_named *all = NULL;
        size_t n = 0;
        r = wharf_names_list(task, &all, &n);
        r = r < 0 ? verb_error(v, wharf_domain_path(), r) : json ? print_json(v, all, n) : print_table(v, all, n);
        free(all);
        wharf_task_close(task);
        return r;
}

const struct verb verb_ls = {
        .name = "ls", .args = "[--json]", .summary = "list names, who serves them, and their traffic", .run = run};
