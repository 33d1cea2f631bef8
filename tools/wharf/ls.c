/*
 * wharf ls - the names of a domain, who serves them, and how busy they are.
 */
#include "common.h"
#include "print.h"

#include <getopt.h>
#include <errno.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

extern const struct verb verb_ls;

/* wharfd holds a right to every port, which is nobody's business here. */
static uint32_t senders(const struct wharf_named *n)
{
        return n->senders ? n->senders - 1 : 0;
}

/* The name of a user, or the number where it has none. */
static const char *user(uid_t uid, char buf[16])
{
        const struct passwd *p = uid == (uid_t)-1 ? NULL : getpwuid(uid);
        if (uid == (uid_t)-1)
                return "?"; /* of a user namespace that has no number here */
        if (p && strlen(p->pw_name) < 33)
                return p->pw_name;
        snprintf(buf, 16, "%u", (unsigned)uid);
        return buf;
}

static void print_json(const struct wharf_named *all, size_t n)
{
        json_object *list = json_object_new_array();
        for (size_t i = 0; i < n; i++) {
                char id[24];
                snprintf(id, sizeof id, "%016" PRIx64, all[i].id.v); /* a number of JSON has only 53 bits */
                json_object *o = json_object_new_object();
                json_object_object_add(o, "name", json_shown(all[i].name));
                json_object_object_add(o, "pid", json_object_new_int64(all[i].pid));
                json_object_object_add(o, "uid", all[i].uid == (uid_t)-1 ? NULL : json_object_new_int64(all[i].uid));
                json_object_object_add(o, "known", json_object_new_string(known_word(all[i].known)));
                json_object_object_add(o, "port_id", json_object_new_string(id));
                json_object_object_add(o, "senders", json_object_new_int64(senders(&all[i])));
                json_object_object_add(o, "receivers_waiting", json_object_new_int64(all[i].receivers_waiting));
                json_object_object_add(o, "queued_messages", json_object_new_uint64(all[i].queued_messages));
                json_object_object_add(o, "received_messages", json_object_new_uint64(all[i].received_messages));
                json_object_object_add(o, "received_bytes", json_object_new_uint64(all[i].received_bytes));
                json_object_array_add(list, o);
        }
        json_out(list, n);
}

static int print_table(const struct verb *v, const struct wharf_named *all, size_t n)
{
        static const struct column columns[] = {
                {"NAME", COLUMN_CUT},       {"OWNER", COLUMN_RIGHT},
                {"USER", COLUMN_CUT, 3},    {"SENDERS", COLUMN_RIGHT, 4},
                {"QUEUED", COLUMN_RIGHT},   {"RECEIVED", COLUMN_RIGHT, 2},
                {"BYTES", COLUMN_RIGHT, 1}, {0},
        };
        struct table *t = table_new(columns);
        char buf[16], bytes[16];
        for (size_t i = 0; i < n; i++) {
                table_cell(t, PLAIN, "%s", all[i].name);
                table_cell(t, PLAIN, "%d", (int)all[i].pid);
                table_cell(t, PLAIN, "%s", user(all[i].uid, buf));
                table_cell(t, PLAIN, "%" PRIu32, senders(&all[i]));
                table_cell(t, PLAIN, "%" PRIu64, all[i].queued_messages);
                table_cell(t, PLAIN, "%" PRIu64, all[i].received_messages);
                table_cell(t, PLAIN, "%s", format_size(all[i].received_bytes, bytes));
        }
        if (!n)
                verb_fail(v, 0, "%s: no name is registered", wharf_domain_path());
        return table_print(v, t);
}

/* ---- watching ---- */

struct known {
        struct wharf_name_event *all;
        size_t n, room;
};

static int told(const struct verb *v, bool json, const struct wharf_name_event *ev)
{
        char buf[16], id[24];
        bool is = ev->what == WHARF_NAME_IS;
        if (json) {
                json_object *o = json_object_new_object();
                json_object_object_add(o, "event", json_object_new_string(is ? "is" : "gone"));
                json_object_object_add(o, "name", json_shown(ev->name));
                if (is) {
                        snprintf(id, sizeof id, "%016" PRIx64, ev->id.v);
                        json_object_object_add(o, "pid", json_object_new_int64(ev->pid));
                        json_object_object_add(o, "uid", ev->uid == (uid_t)-1 ? NULL : json_object_new_int64(ev->uid));
                        json_object_object_add(o, "port_id", json_object_new_string(id));
                }
                json_out(o, false);
        } else if (is) {
                printf("+ %s  %d  %s\n", shown(ev->name), (int)ev->pid, shown(user(ev->uid, buf)));
        } else {
                printf("- %s\n", shown(ev->name));
        }
        return fflush(stdout) ? EXIT_REFUSED : EXIT_DONE; /* verb_finish() says what is wrong */
}

static struct wharf_name_event *known_find(const struct known *k, const char *name)
{
        for (size_t i = 0; i < k->n; i++)
                if (!strcmp(k->all[i].name, name))
                        return &k->all[i];
        return NULL;
}

static int known_add(const struct verb *v, struct known *k, const struct wharf_name_event *ev)
{
        if (k->n == k->room) {
                size_t room = k->room ? k->room * 2 : 64;
                struct wharf_name_event *more = realloc(k->all, room * sizeof *more);
                if (!more)
                        return verb_fail(v, EXIT_REFUSED, "%s", wharf_strerror(-ENOMEM));
                k->all = more;
                k->room = room;
        }
        k->all[k->n++] = *ev;
        return EXIT_DONE;
}

/* `now` is all there is: what is not in `before`, or is another, has come; what is in `before` alone is gone. */
static int differences(const struct verb *v, bool json, const struct known *before, const struct known *now)
{
        int r = EXIT_DONE;
        for (size_t i = 0; i < before->n && r == EXIT_DONE; i++)
                if (!known_find(now, before->all[i].name)) {
                        before->all[i].what = WHARF_NAME_GONE;
                        r = told(v, json, &before->all[i]);
                }
        for (size_t i = 0; i < now->n && r == EXIT_DONE; i++) {
                const struct wharf_name_event *was = known_find(before, now->all[i].name);
                if (!was || was->id.v != now->all[i].id.v)
                        r = told(v, json, &now->all[i]);
        }
        return r;
}

/* Until it is ended. However often wharfd tells everything anew, only what differs is printed. */
static int watch(const struct verb *v, wharf_task *task, const char *pattern, bool json)
{
        struct known k = {0}, anew = {0};
        bool whole = false;
        wharf_name port;
        int fd, r = wharf_port_new(task, NULL, &port);
        if (r == 0)
                r = wharf_names_watch(task, pattern, port);
        if (r == 0)
                r = wharf_names_fd(task, &fd);
        if (r < 0)
                return verb_error(v, pattern, r);
        int code = EXIT_DONE;
        while (code == EXIT_DONE) {
                char buf[512];
                struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
                struct wharf_name_event ev;
                r = wharf_recvmsg(task, port, &m, WHARF_FOREVER);
                if (r == -ENOTCONN && (r = wharf_names_renew(task)) == 0)
                        continue; /* wharfd and its keeper were killed */
                if (r < 0)
                        return verb_error(v, pattern, r);
                if (wharf_names_event(task, &m, &ev) < 0)
                        continue;
                struct wharf_name_event *is = ev.name[0] ? known_find(whole ? &k : &anew, ev.name) : NULL;
                switch (ev.what) {
                case WHARF_NAMES_BEGIN:
                        whole = false;
                        anew.n = 0;
                        break;
                case WHARF_NAMES_END:
                        code = differences(v, json, &k, &anew);
                        whole = true;
                        struct known old = k;
                        k = anew;
                        anew = old;
                        break;
                case WHARF_NAME_IS:
                        if (is)
                                *is = ev;
                        else
                                code = known_add(v, whole ? &k : &anew, &ev);
                        if (whole && code == EXIT_DONE)
                                code = told(v, json, &ev);
                        break;
                case WHARF_NAME_GONE:
                        if (is)
                                *is = whole ? k.all[--k.n] : anew.all[--anew.n];
                        if (whole && is)
                                code = told(v, json, &ev);
                        break;
                }
        }
        free(k.all);
        free(anew.all);
        return code;
}

static int run(const struct verb *v, int argc, char **argv)
{
        bool json = false, watching = false;
        const struct option_spec options[] = {
                {"watch", 'w', OPTION_FLAG, &watching, NULL, "print what is there, and every change as it comes"},
                {"json", 0, OPTION_FLAG, &json, NULL, "print JSON"},
                COLOUR_OPTION,
                {0},
        };
        int read = options_read(v, argc, argv, options);
        if (read != OPTIONS_GO_ON)
                return read;
        const char *pattern = watching && optind < argc ? argv[optind++] : "*";
        if (optind != argc)
                return verb_usage(v);
        wharf_task *task;
        int r = verb_task(v, &task);
        if (r != EXIT_DONE)
                return r;
        if (watching) {
                r = watch(v, task, pattern, json);
                wharf_task_close(task);
                return r;
        }
        struct wharf_named *all = NULL;
        size_t n = 0;
        r = wharf_names_list(task, &all, &n);
        if (r < 0)
                r = verb_error(v, wharf_domain_path(), r);
        else if (!json)
                r = print_table(v, all, n);
        else
                print_json(all, n);
        free(all);
        wharf_task_close(task);
        return r;
}

const struct verb verb_ls = {.name = "ls",
                             .args = "[--json] [--color WHEN] [--watch [PATTERN]]",
                             .summary = "list names, who serves them, and their traffic",
                             .run = run};
