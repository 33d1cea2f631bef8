/*
 * wharf ps - the tasks of a domain, what their threads wait for, and who waits for whom in a circle.
 *
 * A deadlock is a set of tasks of which each has all its threads waiting, for ever, for tasks of the set alone: nobody
 * outside can end any of these waits. It is found by starting with all tasks and taking out, as long as there is one,
 * whoever has a thread that runs or that somebody outside can wake (the greatest fixed point). What is left waits in
 * circles. Two looks have to agree, down to the generation of each wait, so that no passing moment is reported.
 */
#include "common.h"
#include "print.h"

#include <getopt.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

extern const struct verb verb_ps;

enum { LOOK_AGAIN_MS = 100 };

struct look {
        struct wharf_wait *waits; /* sorted by pid */
        size_t n;
        bool *stuck; /* of each: its task is in a deadlock */
};

/* One circle: indices into a look, in the order of waiting. */
struct circle {
        size_t *at;
        size_t n;
};

/* ---- what the system says of a process ---- */

static long proc_number(pid_t pid, const char *key)
{
        char path[64], line[256];
        long n = -1;
        snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
        FILE *f = fopen(path, "re");
        while (f && n < 0 && fgets(line, sizeof line, f))
                if (!strncmp(line, key, strlen(key)))
                        n = atol(line + strlen(key));
        if (f)
                fclose(f);
        return n;
}

/* The name of the program, which it can choose itself. */
static const char *command(pid_t pid, char buf[32])
{
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
        FILE *f = fopen(path, "re");
        size_t n = f ? fread(buf, 1, 31, f) : 0;
        if (f)
                fclose(f);
        while (n && buf[n - 1] == '\n')
                n--;
        buf[n] = 0;
        return n ? buf : "?";
}

/* ---- deadlocks ---- */

/* The first wait of that process, and behind the last. */
static size_t first_of(const struct look *k, pid_t pid)
{
        size_t from = 0, to = k->n; /* they are in that order */
        while (from < to) {
                const size_t mid = from + (to - from) / 2;
                if (k->waits[mid].pid < pid)
                        from = mid + 1;
                else
                        to = mid;
        }
        return from;
}

static bool is_stuck(const struct look *k, pid_t pid)
{
        size_t i = first_of(k, pid);
        return i < k->n && k->waits[i].pid == pid && k->stuck[i];
}

static bool wait_is_stuck(const struct look *k, const struct wharf_wait *w)
{
        if (w->flags & WHARF_WAIT_OTHERS)
                return false;
        for (uint32_t i = 0; i < w->n_whom; i++)
                if (!is_stuck(k, w->whom[i]))
                        return false;
        return true;
}

static void find_stuck(struct look *k)
{
        /* Whoever has a thread that runs, or waits for something of its own, or only until some time, is not stuck. */
        for (size_t i = 0, end; i < k->n; i = end) {
                bool all = true;
                for (end = i; end < k->n && k->waits[end].pid == k->waits[i].pid; end++)
                        all = all && k->waits[end].what && k->waits[end].deadline_ns == WHARF_FOREVER;
                all = all && proc_number(k->waits[i].pid, "Threads:") == (long)(end - i);
                for (size_t j = i; j < end; j++)
                        k->stuck[j] = all;
        }
        for (bool changed = true; changed;) {
                changed = false;
                for (size_t i = 0; i < k->n; i++) {
                        if (!k->stuck[i] || wait_is_stuck(k, &k->waits[i]))
                                continue;
                        changed = true;
                        for (size_t j = first_of(k, k->waits[i].pid); j < k->n && k->waits[j].pid == k->waits[i].pid;
                             j++)
                                k->stuck[j] = false;
                }
        }
}

static int look(const struct verb *v, wharf_task *task, struct look *ret)
{
        int r = wharf_waits_list(task, &ret->waits, &ret->n);
        if (r < 0)
                return verb_error(v, wharf_domain_path(), r);
        size_t n = 0;
        for (size_t i = 0; i < ret->n; i++) /* not this command itself */
                if (ret->waits[i].pid != getpid())
                        ret->waits[n++] = ret->waits[i];
        ret->n = n;
        ret->stuck = calloc(n + 1, sizeof *ret->stuck);
        if (!ret->stuck) {
                free(ret->waits);
                return verb_error(v, "ps", -ENOMEM);
        }
        find_stuck(ret);
        return EXIT_DONE;
}

static void look_done(struct look *k)
{
        free(k->waits);
        free(k->stuck);
        *k = (struct look){0};
}

/* Only what was so in both looks is so: the same waits, of the same threads. */
static void confirm(struct look *now, const struct look *before)
{
        for (size_t i = 0; i < now->n; i++) {
                bool same = false;
                for (size_t j = 0; j < before->n && now->stuck[i] && !same; j++)
                        same = before->stuck[j] && before->waits[j].pid == now->waits[i].pid &&
                               before->waits[j].generation == now->waits[i].generation;
                now->stuck[i] = same;
        }
}

/* The next circle that begins at or behind *from; each is found at its smallest process. */
static bool circle_next(const struct look *k, size_t *from, struct circle *ret)
{
        for (; *from < k->n; ++*from) {
                size_t at = *from;
                ret->n = 0;
                while (k->stuck[at] && ret->n <= k->n) {
                        ret->at[ret->n++] = at;
                        at = first_of(k, k->waits[at].whom[0]);
                        if (at >= k->n || at == *from || k->waits[at].pid < k->waits[*from].pid)
                                break;
                }
                if (ret->n && at == *from) {
                        ++*from;
                        return true;
                }
        }
        return false;
}

static const char *circle_how(const struct look *k, const struct circle *c)
{
        uint32_t what = k->waits[c->at[0]].what;
        bool meet = true;
        for (size_t i = 0; i < c->n; i++) {
                const struct wharf_wait *w = &k->waits[c->at[i]];
                if (w->what != what)
                        return "each waits for the next";
                meet = meet && w->flags & WHARF_WAIT_RENDEZVOUS;
        }
        bool one = c->n == 1, two = c->n == 2;
        switch (what) {
        case WHARF_WAITS_RECEIVE:
                return one ? "it receives from itself" : two ? "both receive first" : "all receive first";
        case WHARF_WAITS_SEND:
                if (meet)
                        return one   ? "it sends to itself at capacity zero"
                               : two ? "both send at capacity zero"
                                     : "all send at capacity zero";
                return one   ? "it sends to its own full queue"
                       : two ? "both send to a full queue"
                             : "all send to a full queue";
        default:
                return one ? "it calls itself" : two ? "both call first" : "all call first";
        }
}

/* ---- telling ---- */

static int by_id(const void *a, const void *b)
{
        const struct wharf_named *x = a, *y = b;
        return x->id.v < y->id.v ? -1 : x->id.v > y->id.v ? 1 : strcmp(x->name, y->name);
}

/* The first name of that port, of those that are in the order of by_id(); or NULL. */
static const char *name_of(wharf_port_id id, const struct wharf_named *named, size_t n_named)
{
        size_t from = 0, to = id.v ? n_named : 0;
        while (from < to) {
                const size_t mid = from + (to - from) / 2;
                if (named[mid].id.v < id.v)
                        from = mid + 1;
                else
                        to = mid;
        }
        return from < n_named && id.v && named[from].id.v == id.v ? named[from].name : NULL;
}

static const char *waits_for(const struct wharf_wait *w, const struct wharf_named *named, size_t n_named, char buf[200])
{
        static const char *const words[] = {"-", "receive on", "send to", "reply from"};
        const char *name = name_of(w->port, named, n_named);
        char id[24];
        snprintf(id, sizeof id, "%016" PRIx64, w->port.v);
        if (w->what == WHARF_WAITS_NOT || w->what > WHARF_WAITS_CALL)
                return words[0];
        snprintf(buf, 200, "%s %s%s", words[w->what],
                 name                             ? name
                 : w->port.v                      ? id
                 : w->what == WHARF_WAITS_RECEIVE ? "several ports"
                                                  : "a port",
                 w->flags & WHARF_WAIT_RENDEZVOUS ? ", no queue"
                 : w->what == WHARF_WAITS_SEND    ? ", full"
                 : w->flags & WHARF_WAIT_ONE      ? ", from one"
                                                  : "");
        return buf;
}

static const char *whom(const struct wharf_wait *w, char buf[160])
{
        int n = 0;
        buf[0] = 0;
        for (uint32_t i = 0; i < w->n_whom && i < WHARF_WHOM_MAX; i++)
                n += snprintf(buf + n, (size_t)(160 - n), "%s%d", n ? "," : "", (int)w->whom[i]);
        if (w->what && w->flags & WHARF_WAIT_OTHERS)
                snprintf(buf + n, (size_t)(160 - n), "%s", n ? ",..." : "anyone");
        return *buf ? buf : "-";
}

static const char *since(const struct wharf_wait *w, int64_t now, char buf[32])
{
        if (!w->what)
                return "-";
        /* What another process says. */
        const int64_t ns = w->since_ns >= 0 && now > w->since_ns ? now - w->since_ns : 0, s = ns / 1000000000;
        if (s < 60)
                snprintf(buf, 32, "%.1fs", (double)ns / 1e9);
        else if (s < 3600)
                snprintf(buf, 32, "%" PRId64 "m%02" PRId64 "s", s / 60, s % 60);
        else
                snprintf(buf, 32, "%" PRId64 "h%02" PRId64 "m", s / 3600, s / 60 % 60);
        return buf;
}

static int print_table(const struct verb *v, const struct look *k, const struct wharf_named *named, size_t n_named,
                       struct circle *c)
{
        static const struct column columns[] = {
                {"PID", COLUMN_RIGHT}, {"COMMAND", COLUMN_CUT, 2}, {"WAITS", COLUMN_CUT},
                {"WHOM", COLUMN_CUT},  {"SINCE", COLUMN_RIGHT, 1}, {0},
        };
        struct table *t = table_new(columns);
        char a[200], b[160], d[32], cmd[32];
        int64_t now = wharf_now_ns();
        for (size_t i = 0; i < k->n; i++) {
                enum colour colour = k->stuck[i] ? BAD : PLAIN;
                table_cell(t, colour, "%d", (int)k->waits[i].pid);
                table_cell(t, colour, "%s", command(k->waits[i].pid, cmd));
                table_cell(t, colour, "%s", waits_for(&k->waits[i], named, n_named, a));
                table_cell(t, colour, "%s", whom(&k->waits[i], b));
                table_cell(t, colour, "%s", since(&k->waits[i], now, d));
        }
        if (!k->n)
                verb_fail(v, 0, "%s: no task is known here", wharf_domain_path());
        int r = table_print(v, t);
        for (size_t from = 0; circle_next(k, &from, c);) {
                printf("%sdeadlock:", colour_on(BAD));
                for (size_t i = 0; i < c->n; i++)
                        printf(" %d ->", (int)k->waits[c->at[i]].pid);
                printf(" %d: %s%s\n", (int)k->waits[c->at[0]].pid, circle_how(k, c), colour_off());
        }
        return r;
}

static json_object *json_wait(const struct wharf_wait *w, const struct wharf_named *named, size_t n_named, int64_t now)
{
        static const char *const words[] = {"nothing", "receive", "send", "reply"};
        char cmd[32], id[24];
        json_object *o = json_object_new_object(), *list = json_object_new_array();
        json_object_object_add(o, "pid", json_object_new_int64(w->pid));
        json_object_object_add(o, "uid", json_object_new_int64(w->uid));
        json_object_object_add(o, "command", json_shown(command(w->pid, cmd)));
        json_object_object_add(o, "waits", json_object_new_string(words[w->what <= WHARF_WAITS_CALL ? w->what : 0]));
        snprintf(id, sizeof id, "%016" PRIx64, w->port.v);
        json_object_object_add(o, "port_id", w->port.v ? json_object_new_string(id) : NULL);
        const char *name = name_of(w->port, named, n_named);
        json_object_object_add(o, "name", name ? json_shown(name) : NULL);
        json_object_object_add(o, "rendezvous", json_object_new_boolean(!!(w->flags & WHARF_WAIT_RENDEZVOUS)));
        json_object_object_add(o, "from_one", json_object_new_boolean(!!(w->flags & WHARF_WAIT_ONE)));
        for (uint32_t i = 0; i < w->n_whom && i < WHARF_WHOM_MAX; i++)
                json_object_array_add(list, json_object_new_int64(w->whom[i]));
        json_object_object_add(o, "whom", list);
        json_object_object_add(o, "others", json_object_new_boolean(!!(w->flags & WHARF_WAIT_OTHERS)));
        int64_t ns = w->what && now > w->since_ns ? now - w->since_ns : 0;
        json_object_object_add(o, "since_ms", json_object_new_int64(ns / 1000000));
        json_object_object_add(o, "forever", json_object_new_boolean(w->what && w->deadline_ns == WHARF_FOREVER));
        return o;
}

static void print_json(const struct look *k, const struct wharf_named *named, size_t n_named, struct circle *c)
{
        json_object *all = json_object_new_object(), *tasks = json_object_new_array(), *dead = json_object_new_array();
        int64_t now = wharf_now_ns();
        for (size_t i = 0; i < k->n; i++)
                json_object_array_add(tasks, json_wait(&k->waits[i], named, n_named, now));
        for (size_t from = 0; circle_next(k, &from, c);) {
                json_object *o = json_object_new_object(), *pids = json_object_new_array();
                for (size_t i = 0; i < c->n; i++)
                        json_object_array_add(pids, json_object_new_int64(k->waits[c->at[i]].pid));
                json_object_object_add(o, "pids", pids);
                json_object_object_add(o, "how", json_object_new_string(circle_how(k, c)));
                json_object_array_add(dead, o);
        }
        json_object_object_add(all, "tasks", tasks);
        json_object_object_add(all, "deadlocks", dead);
        json_out(all, true);
}

static int run_ps(const struct verb *v, wharf_task *task, bool json)
{
        struct look k, before;
        struct wharf_named *named = NULL;
        size_t n_named = 0, from = 0;
        int r = look(v, task, &k);
        if (r != EXIT_DONE)
                return r;
        struct circle c = {.at = calloc(k.n + 1, sizeof *c.at)};
        if (c.at && circle_next(&k, &from, &c)) {
                nanosleep(&(struct timespec){.tv_nsec = LOOK_AGAIN_MS * 1000000L}, NULL);
                before = k;
                r = look(v, task, &k);
                if (r == EXIT_DONE) {
                        confirm(&k, &before);
                        free(c.at);
                        c.at = calloc(k.n + 1, sizeof *c.at);
                }
                look_done(&before);
                if (r != EXIT_DONE) {
                        free(c.at);
                        return r;
                }
        }
        int e = c.at ? wharf_names_list(task, &named, &n_named) : -ENOMEM;
        if (e < 0) {
                r = verb_error(v, wharf_domain_path(), e);
        } else {
                if (n_named)
                        qsort(named, n_named, sizeof *named, by_id);
                if (json)
                        print_json(&k, named, n_named, &c);
                else
                        r = print_table(v, &k, named, n_named, &c);
                from = 0;
                if (r == EXIT_DONE && circle_next(&k, &from, &c))
                        r = EXIT_DEADLOCK;
        }
        free(named);
        free(c.at);
        look_done(&k);
        return r;
}

static int run(const struct verb *v, int argc, char **argv)
{
        bool json = false;
        const struct option_spec options[] = {
                {"json", 0, OPTION_FLAG, &json, NULL, "print JSON"},
                COLOUR_OPTION,
                {0},
        };
        int read = options_read(v, argc, argv, options);
        if (read != OPTIONS_GO_ON)
                return read;
        if (optind != argc)
                return verb_usage(v);
        wharf_task *task;
        int r = verb_task(v, &task);
        if (r != EXIT_DONE)
                return r;
        r = run_ps(v, task, json);
        wharf_task_close(task);
        return r;
}

const struct verb verb_ps = {.name = "ps",
                             .args = "[--json] [--color WHEN]",
                             .summary = "list tasks, what they wait for, and deadlocks",
                             .run = run};
