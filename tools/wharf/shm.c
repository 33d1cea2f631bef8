/*
 * wharf shm - segments of shared memory: make, list, look into, write, remove.
 */
#include "common.h"
#include "print.h"

#include "base/cleanup.h"
#include "os/os.h"

#include <assert.h>
#include <errno.h>
#include <fnmatch.h>
#include <getopt.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <wharf/segment.h>
#include <wharf/task.h>

WH_AUTO_DEFINE(segment, wharf_segment, (void)wharf_segment_close);

extern const struct verb verb_shm;

struct options {
        bool json, sparse, string, orphans;
        uint32_t mode;
        uint64_t offset, bytes;
        const char *data;
};

struct command {
        const char *name, *options; /* the long options that it knows, with spaces around each */
        int args_min, args_max;
        int (*run)(const struct verb *v, const struct options *o, int argc, char **argv);
};

static const char *why(int err)
{
        switch (-err) {
        case ENOENT:
                return "there is none of that name";
        case EEXIST:
                return "the name is taken";
        case EINVAL:
                return "malformed: posix:NAME, sysv:KEY, sysv:PATH#ID, sysv:id=N or file:PATH, and a size above 0";
        case ENODEV:
                return "it is no memory, but something else of that name";
        case ENODATA:
                return "it has no size yet";
        case ENOSPC:
                return "not enough room there";
        case ENOMEM:
                return "more than the memory that is left on this machine";
        case EFBIG:
                return "larger than files may be here";
        case EOPNOTSUPP:
                return "System V segments never change their size";
        default:
                return strerror(-err);
        }
}

static int refuse(const struct verb *v, const char *name, int err)
{
        if (err == -ENOMEM && strchr(wharf_why(), '/')) /* a cgroup's file, and not this machine */
                return verb_fail(v, verb_exit_code(err), "%s: more than the memory that is left: %s", name,
                                 wharf_why());
        return verb_fail(v, verb_exit_code(err), "%s: %s", name, why(err));
}

/* 0, or an exit code after the complaint. */
static int size_argument(const struct verb *v, const char *text, uint64_t *ret)
{
        if (parse_size(text, ret) && *ret)
                return 0;
        return verb_fail(v, EXIT_USAGE, "'%s' is no size: a number above 0, with K, M or G if you like", text);
}

static bool parse_mode(const char *text, uint32_t *ret)
{
        char *end;
        unsigned long m = strtoul(text, &end, 8);
        if (*text < '0' || *text > '7' || *end || m > 0777)
                return false;
        *ret = (uint32_t)m;
        return true;
}

/* ---- what is there ---- */

struct row {
        char *name;
        struct wharf_segment_stat st;
        struct wharf_segment_user *users;
        uint32_t n_users, n_attached;
};

struct table {
        struct row *rows;
        struct wharf_segment_stat *stats; /* the same, as wharf_segment_users() wants them */
        uint32_t n, unseen;
        char **patterns;
        bool failed;
};

static void table_done(struct table *t)
{
        for (uint32_t i = 0; i < t->n; i++) {
                free(t->rows[i].name);
                free(t->rows[i].users);
        }
        free(t->rows);
        free(t->stats);
}

static bool table_add(struct table *t, const char *name, const struct wharf_segment_stat *st)
{
        struct row *rows = realloc(t->rows, (t->n + 1) * sizeof *rows);
        if (!rows)
                return false;
        t->rows = rows;
        rows[t->n] = (struct row){.name = strdup(name), .st = *st};
        if (!rows[t->n].name)
                return false;
        t->n++;
        return true;
}

static int list_one(const char *name, const struct wharf_segment_stat *st, void *arg)
{
        struct table *t = arg;
        bool wanted = !t->patterns[0];
        for (char **p = t->patterns; *p; p++)
                wanted |= fnmatch(*p, name, 0) == 0;
        return wanted && !table_add(t, name, st) ? -ENOMEM : 0;
}

static int list_user(uint32_t i, const struct wharf_segment_user *user, void *arg)
{
        struct row *r = &((struct table *)arg)->rows[i];
        struct wharf_segment_user *users = realloc(r->users, (r->n_users + 1) * sizeof *users);
        if (!users)
                return -ENOMEM;
        r->users = users;
        users[r->n_users++] = *user;
        r->n_attached += user->mapped;
        return 0;
}

static int find_users(struct table *t)
{
        t->stats = calloc(t->n + 1, sizeof *t->stats);
        if (!t->stats)
                return -ENOMEM;
        for (uint32_t i = 0; i < t->n; i++)
                t->stats[i] = t->rows[i].st;
        return t->n ? wharf_segment_users(t->stats, t->n, list_user, t, &t->unseen) : 0;
}

/*
 * Nobody uses an orphan. The kernel counts who has a System V segment attached; of the others only tasks that may be
 * looked at can be known to use them, so with others about, it may only seem one: "orphan?".
 */
static const char *state_of(const struct table *t, const struct row *r)
{
        if (r->st.flags & WHARF_SEGMENT_STAT_REMOVED)
                return "removed";
        if (r->st.attached > 0 || r->n_users)
                return "in use";
        return r->st.attached == 0 || !t->unseen ? "orphan" : "orphan?";
}

static const char *owner_of(uint32_t uid, char *buf, size_t cap)
{
        struct passwd *pw = getpwuid(uid);
        if (pw)
                return pw->pw_name;
        snprintf(buf, cap, "%" PRIu32, uid);
        return buf;
}

static struct json_object *row_json(const struct table *t, const struct row *r)
{
        struct json_object *o = json_object_new_object(), *users = json_object_new_array();
        json_object_object_add(o, "name", json_shown(r->name));
        json_object_object_add(o, "kind", json_object_new_string(wharf_segment_kind_name(r->st.kind)));
        json_object_object_add(o, "bytes", json_object_new_uint64(r->st.bytes));
        json_object_object_add(o, "allocated_bytes", json_object_new_uint64(r->st.allocated_bytes));
        json_object_object_add(o, "uid", json_object_new_int64(r->st.uid));
        json_object_object_add(o, "gid", json_object_new_int64(r->st.gid));
        char mode[16];
        snprintf(mode, sizeof mode, "%04" PRIo32, r->st.mode);
        json_object_object_add(o, "mode", json_object_new_string(mode));
        if (r->st.kind == WHARF_SEGMENT_SYSV) {
                json_object_object_add(o, "key", json_object_new_int64((uint32_t)r->st.key));
                json_object_object_add(o, "id", json_object_new_int64(r->st.id));
                json_object_object_add(o, "attached", json_object_new_int64(r->st.attached));
                json_object_object_add(o, "creator_pid", json_object_new_int64(r->st.creator_pid));
        }
        json_object_object_add(o, "changed_s", json_object_new_int64(r->st.changed_s));
        json_object_object_add(o, "state", json_object_new_string(state_of(t, r)));
        json_object_object_add(o, "unseen_tasks", json_object_new_int64(t->unseen));
        for (uint32_t i = 0; i < r->n_users; i++) {
                struct json_object *u = json_object_new_object();
                json_object_object_add(u, "pid", json_object_new_int64(r->users[i].pid));
                json_object_object_add(u, "attached", json_object_new_boolean(r->users[i].mapped));
                json_object_object_add(u, "writable", json_object_new_boolean(r->users[i].writable));
                json_object_object_add(u, "open", json_object_new_boolean(r->users[i].open));
                json_object_array_add(users, u);
        }
        json_object_object_add(o, "users", users);
        return o;
}

static void users_cell(struct table *table, const struct row *r)
{
        uint32_t named = 0;
        char *text = NULL;
        size_t len;
        FILE *f = open_memstream(&text, &len);
        for (uint32_t i = 0; f && i < r->n_users; i++)
                if (r->users[i].mapped)
                        fprintf(f, "%s%" PRIu32, named++ ? "," : "", r->users[i].pid);
        if (f && r->st.attached > (int64_t)named)
                fprintf(f, "%s%" PRId64 " more", named ? "," : "", r->st.attached - named);
        else if (f && !named)
                putc('-', f);
        table_cell(table, PLAIN, "%s", f && fclose(f) == 0 ? text : "?");
        free(text);
}

static int by_name(const void *a, const void *b)
{
        return strcmp(((const struct row *)a)->name, ((const struct row *)b)->name);
}

static int run_ls(const struct verb *v, const struct options *o, int argc, char **argv)
{
        struct table t = {.patterns = argv};
        int r = wharf_segment_list(list_one, &t);
        if (r == 0) {
                if (t.n)
                        qsort(t.rows, t.n, sizeof *t.rows, by_name);
                r = find_users(&t);
        }
        if (r < 0) {
                table_done(&t);
                return verb_fail(v, EXIT_REFUSED, "cannot list: %s", why(r));
        }
        static const struct column columns[] = {
                {"NAME", COLUMN_CUT},
                {"SIZE", COLUMN_RIGHT},
                {"OWNER", COLUMN_CUT, 2},
                {"MODE", 0, 1},
                {"STATE"},
                {"ATTACHED BY", COLUMN_CUT, 3},
                {0},
        };
        struct json_object *all = o->json ? json_object_new_array() : NULL;
        struct table *table = o->json ? NULL : table_new(columns);
        uint32_t n = 0;
        for (uint32_t i = 0; i < t.n; i++) {
                const struct row *row = &t.rows[i];
                char size[16], uid[16];
                if (o->orphans && strncmp(state_of(&t, row), "orphan", 6) != 0)
                        continue;
                n++;
                if (o->json) {
                        json_object_array_add(all, row_json(&t, row));
                        continue;
                }
                table_cell(table, PLAIN, "%s", row->name);
                table_cell(table, PLAIN, "%s", format_size(row->st.bytes, size));
                table_cell(table, PLAIN, "%s", owner_of(row->st.uid, uid, sizeof uid));
                table_cell(table, PLAIN, "%04" PRIo32, row->st.mode);
                table_cell(table, *state_of(&t, row) == 'i' ? PLAIN : WARNING, "%s", state_of(&t, row));
                users_cell(table, row);
        }
        if (o->json)
                json_out(all, false);
        else
                r = table_print(v, table);
        if (!o->json && !n)
                verb_fail(v, 0, "there is no%s segment%s", o->orphans ? " orphaned" : "", *argv ? " of that name" : "");
        if (!o->json && t.unseen)
                verb_fail(v, 0, "%" PRIu32 " task%s could not be looked at", t.unseen, t.unseen == 1 ? "" : "s");
        table_done(&t);
        return r;
}

static int run_stat(const struct verb *v, const struct options *o, int argc, char **argv)
{
        WH_AUTO(segment) wharf_segment *s = NULL;
        struct wharf_segment_stat st;
        int r = wharf_segment_open(argv[0], WHARF_SEGMENT_READ, &s);
        if (r == 0)
                r = wharf_segment_stat(s, &st);
        s = wharf_segment_close(s); /* before we look who has it open */
        if (r < 0)
                return refuse(v, argv[0], r);
        struct table t = {0};
        if (!table_add(&t, argv[0], &st) || find_users(&t) < 0) {
                table_done(&t);
                return verb_fail(v, EXIT_REFUSED, "%s: cannot look who uses it", argv[0]);
        }
        const struct row *row = &t.rows[0];
        char size[16], alloc[16], uid[16];
        if (o->json) {
                json_out(row_json(&t, row), false);
        } else {
                printf("name       %s\n", shown(row->name));
                printf("size       %" PRIu64 " bytes (%s)\n", st.bytes, format_size(st.bytes, size));
                printf("allocated  %s\n", format_size(st.allocated_bytes, alloc));
                printf("owner      %s\n", shown(owner_of(st.uid, uid, sizeof uid)));
                printf("mode       %04" PRIo32 "\n", st.mode);
                if (st.kind == WHARF_SEGMENT_SYSV)
                        printf("key        0x%" PRIx32 "\nid         %" PRId32 "\ncreator    %" PRIu32 "\n",
                               (uint32_t)st.key, st.id, st.creator_pid);
                printf("state      %s\n", state_of(&t, row));
                for (uint32_t i = 0; i < row->n_users; i++)
                        printf("user       %" PRIu32 "%s%s\n", row->users[i].pid,
                               !row->users[i].mapped    ? ""
                               : row->users[i].writable ? " attached read-write"
                                                        : " attached read-only",
                               row->users[i].open ? " open" : "");
        }
        table_done(&t);
        return EXIT_DONE;
}

/* ---- making, looking into, writing, removing ---- */

static int run_create(const struct verb *v, const struct options *o, int argc, char **argv)
{
        uint64_t bytes;
        int r = size_argument(v, argv[1], &bytes);
        if (r)
                return r;
        if (!strncmp(argv[0], "anon:", 5))
                return verb_fail(v, EXIT_USAGE, "%s: an anonymous segment would be gone with this command", argv[0]);
        struct wharf_segment_opts opts = {
                .size = sizeof opts,
                .mode = o->mode,
                .flags = o->sparse ? WHARF_SEGMENT_SPARSE : 0,
        };
        WH_AUTO(segment) wharf_segment *s = NULL;
        r = wharf_segment_create(argv[0], bytes, &opts, &s);
        return r < 0 ? refuse(v, argv[0], r) : EXIT_DONE;
}

static int attach(const char *name, uint32_t access, wharf_segment **ret)
{
        wharf_segment *s;
        int r = wharf_segment_open(name, access, &s);
        if (r < 0)
                return r;
        r = wharf_segment_attach(s, access, NULL);
        if (r < 0)
                wharf_segment_close(s);
        else
                *ret = s;
        return r;
}

/* All of it to standard output. 0, or why it cannot be written; -EFAULT when it cannot be read. */
static int output(const char *bytes, uint64_t len)
{
        /* The kernel reads it, so that memory cut short meanwhile is an error and not our death. */
        for (uint64_t done = 0; done < len;) {
                ssize_t n = wh_os_write(STDOUT_FILENO, bytes + done, len - done);
                if (n < 0 && n != -EINTR)
                        return (int)n;
                done += n > 0 ? (uint64_t)n : 0;
        }
        return 0;
}

/*
 * As a file, not through the mapping: what nobody has written to reads as zeroes there, where a mapping would need a
 * page that there may be no room for. Answers as output() does.
 */
static int output_file(int fd, uint64_t from, uint64_t bytes, bool string)
{
        char buf[65536];
        for (uint64_t done = 0; done < bytes;) {
                uint64_t want = bytes - done < sizeof buf ? bytes - done : sizeof buf;
                ssize_t n = wh_os_read_at(fd, buf, want, (off_t)(from + done));
                if (n == -EINTR)
                        continue;
                if (n <= 0)
                        return -EFAULT;
                const char *end = string ? memchr(buf, 0, (size_t)n) : NULL;
                int r = output(buf, end ? (uint64_t)(end - buf) : (uint64_t)n);
                if (r || end)
                        return r;
                done += (uint64_t)n;
        }
        return 0;
}

static int run_cat(const struct verb *v, const struct options *o, int argc, char **argv)
{
        WH_AUTO(segment) wharf_segment *s = NULL;
        int r = attach(argv[0], WHARF_SEGMENT_READ, &s);
        if (r < 0)
                return refuse(v, argv[0], r);
        uint64_t all = wharf_segment_bytes(s), bytes = o->bytes;
        if (bytes == UINT64_MAX)
                bytes = o->offset <= all ? all - o->offset : 0;
        const char *at = wharf_segment_at(s, o->offset, bytes);
        if (!at)
                return verb_fail(v, EXIT_USAGE, "%s: [%" PRIu64 ", +%" PRIu64 ") is outside: it has %" PRIu64 " bytes",
                                 argv[0], o->offset, bytes, all);
        int fd = wharf_segment_fd(s);
        r = fd >= 0 ? output_file(fd, o->offset, bytes, o->string) : output(at, o->string ? strnlen(at, bytes) : bytes);
        if (r == -EFAULT)
                return verb_fail(v, EXIT_REFUSED, "%s: it cannot be read, or was cut short meanwhile", argv[0]);
        if (r < 0) /* the segment is fine: it has no place to go to */
                return verb_fail(v, EXIT_REFUSED, "%s: standard output: %s", argv[0], standard_error(-r));
        if (o->string)
                puts("");
        return EXIT_DONE;
}

/* Standard input until its end, at most `max` bytes: more than that is an error. */
static int read_input(uint64_t max, char **ret, uint64_t *ret_len)
{
        WH_AUTO_MEM char *buf = NULL;
        uint64_t len = 0, cap = 0;
        for (;;) {
                if (len == cap) {
                        cap = cap ? cap * 2 : 4096;
                        char *p = realloc(buf, cap);
                        if (!p)
                                return -ENOMEM;
                        buf = p;
                }
                ssize_t n = wh_os_read(STDIN_FILENO, buf + len, cap - len);
                if (n == -EINTR)
                        continue;
                if (n < 0)
                        return (int)n;
                if (n == 0)
                        break;
                len += (uint64_t)n;
                if (len > max)
                        return -EMSGSIZE;
        }
        *ret = wh_steal(&buf);
        *ret_len = len;
        return 0;
}

static int run_write(const struct verb *v, const struct options *o, int argc, char **argv)
{
        WH_AUTO(segment) wharf_segment *s = NULL;
        int r = attach(argv[0], WHARF_SEGMENT_WRITE, &s);
        if (r < 0)
                return refuse(v, argv[0], r);
        uint64_t all = wharf_segment_bytes(s), room = o->offset <= all ? all - o->offset : 0, len = 0;
        WH_AUTO_MEM char *input = NULL;
        if (o->data)
                len = strlen(o->data) + o->string;
        else
                r = read_input(room, &input, &len);
        if (r < 0 && r != -EMSGSIZE)
                return verb_fail(v, EXIT_REFUSED, "standard input: %s", standard_error(-r));
        char *at = r == 0 ? wharf_segment_at(s, o->offset, len) : NULL;
        if (at && len && (r = wharf_segment_reserve(s, o->offset, len)) < 0)
                return refuse(v, argv[0], r); /* before the first byte: a page that cannot be had would be our death */
        if (!at)
                return verb_fail(v, EXIT_REFUSED, "%s: it does not fit: %" PRIu64 " bytes from offset %" PRIu64,
                                 argv[0], room, o->offset);
        if (len)
                memcpy(at, o->data ? o->data : input, len);
        return EXIT_DONE;
}

static int run_resize(const struct verb *v, const struct options *o, int argc, char **argv)
{
        uint64_t bytes;
        int r = size_argument(v, argv[1], &bytes);
        if (r)
                return r;
        WH_AUTO(segment) wharf_segment *s = NULL;
        r = wharf_segment_open(argv[0], WHARF_SEGMENT_WRITE, &s);
        if (r == 0)
                r = wharf_segment_resize(s, bytes);
        return r < 0 ? refuse(v, argv[0], r) : EXIT_DONE;
}

static int run_chmod(const struct verb *v, const struct options *o, int argc, char **argv)
{
        uint32_t mode;
        if (!parse_mode(argv[0], &mode))
                return verb_fail(v, EXIT_USAGE, "'%s' is no mode: octal, up to 777", argv[0]);
        WH_AUTO(segment) wharf_segment *s = NULL;
        int r = wharf_segment_open(argv[1], WHARF_SEGMENT_READ, &s);
        if (r == 0)
                r = wharf_segment_chmod(s, mode);
        return r < 0 ? refuse(v, argv[1], r) : EXIT_DONE;
}

static int run_rm(const struct verb *v, const struct options *o, int argc, char **argv)
{
        int code = EXIT_DONE;
        for (int i = 0; i < argc; i++) {
                int r = wharf_segment_remove(argv[i]);
                if (r < 0)
                        code = refuse(v, argv[i], r);
        }
        return code;
}

static const struct command commands[] = {
        {"create", " mode sparse ", 2, 2, run_create},
        {"ls", " orphans json color ", 0, 1 << 20, run_ls},
        {"stat", " json ", 1, 1, run_stat},
        {"cat", " offset bytes string ", 1, 1, run_cat},
        {"write", " offset data string ", 1, 1, run_write},
        {"resize", " ", 2, 2, run_resize},
        {"chmod", " ", 2, 2, run_chmod},
        {"rm", " ", 1, 1 << 20, run_rm},
};
#define N_COMMANDS (sizeof commands / sizeof *commands)

static bool take_mode(const struct verb *v, const char *option, const char *text, void *ret)
{
        if (parse_mode(text, ret) && *(uint32_t *)ret)
                return true;
        return verb_fail(v, false, "%s: '%s' is no mode: octal, 1 to 777", option, text);
}

static bool take_offset(const struct verb *v, const char *option, const char *text, void *ret)
{
        if (parse_size(text, ret))
                return true;
        return verb_fail(v, false, "%s: '%s' is no number of bytes; 0, 512 and 4K are", option, text);
}

/* `one` is the verb of the command alone, for words about how it is called; what it does is said by `wharf shm`. */
static int run_command(const struct verb *one, int argc, char **argv)
{
        struct options o = {.bytes = UINT64_MAX};
        const struct option_spec all[] = {
                {"mode", 'm', OPTION_CALL, &o.mode, "OCTAL", "the permissions; default 600", .take = take_mode},
                {"sparse", 0, OPTION_FLAG, &o.sparse, NULL, "do not reserve the memory now"},
                {"orphans", 0, OPTION_FLAG, &o.orphans, NULL, "only those that nobody uses"},
                {"offset", 0, OPTION_CALL, &o.offset, "N", "begin at this byte; default 0", .take = take_offset},
                {"bytes", 0, OPTION_CALL, &o.bytes, "N", "so many bytes; default: all", .take = take_offset},
                {"data", 'd', OPTION_TEXT, &o.data, "TEXT", "what to write; without it, all of standard input"},
                {"string", 0, OPTION_FLAG, &o.string, NULL, "text that ends with a zero byte"},
                {"json", 0, OPTION_FLAG, &o.json, NULL, "print JSON"},
                COLOUR_OPTION,
                {0},
        };
        struct option_spec table[OPTIONS_MAX] = {0};
        const struct command *c = commands;
        while (strcmp(argv[0], c->name) != 0)
                c++;
        for (unsigned i = 0, n = 0; all[i].name; i++) {
                char known[32];
                snprintf(known, sizeof known, " %s ", all[i].name);
                if (strstr(c->options, known))
                        table[n++] = all[i];
        }
        int read = options_read(one, argc, argv, table);
        if (read != OPTIONS_GO_ON)
                return read;
        argc -= optind;
        argv += optind;
        if (argc < c->args_min || argc > c->args_max)
                return verb_usage(one);
        return c->run(&verb_shm, &o, argc, argv);
}

static int run(const struct verb *v, int argc, char **argv)
{
        static const struct subverb subverbs[] = {
                {"create", "NAME SIZE [--mode OCTAL] [--sparse]", "make a segment of zeroes", run_command},
                {"ls", "[PATTERN...] [--orphans] [--json] [--color WHEN]", "list segments, and who uses them",
                 run_command},
                {"stat", "NAME [--json]", "tell all about one", run_command},
                {"cat", "NAME [--offset N] [--bytes N] [--string]", "print its bytes", run_command},
                {"write", "NAME [--offset N] [--data TEXT] [--string]", "copy text or standard input into it",
                 run_command},
                {"resize", "NAME SIZE", "give it another size", run_command},
                {"chmod", "OCTAL NAME", "change its permissions", run_command},
                {"rm", "NAME...", "remove names", run_command},
                {0},
        };
        static_assert(sizeof subverbs / sizeof *subverbs == N_COMMANDS + 1, "every command is in both tables");
        return subverbs_run(v, argc, argv, subverbs);
}

const struct verb verb_shm = {
        .name = "shm",
        .args = "create|ls|stat|cat|write|resize|chmod|rm ...",
        .summary = "segments of shared memory: make, list, look into, write, remove",
        .run = run,
};
