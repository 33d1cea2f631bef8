/*
 * wharf bench - wharf beside the kernel's own ways of passing messages, measured here and now.
 *
 * Why: what a message costs depends on the machine more than on anything else, so a figure is worth something only
 * beside others of the same machine and minute. The harness and the peers are those of the benchmarks (bench/harness.h
 * says how one measurement is done); nothing but this command need be installed.
 *
 * Always true:
 *   Rounds are interleaved: every peer at every size once, then all of it again. What is compared with each other, the
 *   peers at one size, is measured one right after the other.
 *   What is printed is the median of the rounds. A ratio is one of medians, and above 1 is faster in both directions.
 *
 * Another peer's failure is a gap in the table; wharf's own makes the exit code EXIT_REFUSED.
 */
#include "common.h"
#include "peers.h"
#include "print.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS_MAX 99
#define SIZE_MIN 8 /* the harness's own word */
#define SIZE_MAX_BYTES ((uint64_t)64 << 20)
#define TIME_MIN_NS 1000000
#define TIME_MAX_NS 60000000000

extern const struct verb verb_bench;

static const struct bench_peer *const peers[] = {bench_wharf, bench_pipe, &bench_unix[0], bench_posix_mq};
enum { WHARF, KERNEL_FIRST, N_PEERS = sizeof peers / sizeof *peers };

enum metric { P50_NS, P99_NS, MSGS_PER_S, METRICS };

/* One metric of one peer at one size, over the rounds. */
struct figure {
        double value[ROUNDS_MAX]; /* sorted by figure_of() */
        unsigned n;
};

/* A row of a table. */
struct row {
        struct figure metric[METRICS];
        const char *why[BENCH_WORKS]; /* there is no figure; NULL when it is known and good */
};

struct request {
        enum bench_mode mode;
        enum bench_place place;
        bool json, place_given;
        uint64_t rounds;
        double phase_s;
        uint64_t size_bytes[BENCH_LENS_MAX];
        unsigned n_sizes;
};

static const char *const mode_options[BENCH_MODES] = {"spin", "sleep", "default"};
static const char *const place_options[BENCH_PLACES] = {"pinned", "free", "one"};

/* ---- figures ---- */

static int compare_values(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;
        return (x > y) - (x < y);
}

static double median(const struct figure *f)
{
        unsigned n = f->n;
        return n % 2 ? f->value[n / 2] : (f->value[n / 2 - 1] + f->value[n / 2]) / 2;
}

/* Why something is missing in a row; NULL when nothing is. */
static const char *row_why(const struct row *row)
{
        return row->why[BENCH_PP] ? row->why[BENCH_PP] : row->why[BENCH_TP];
}

/* How many times as fast as the best kernel peer; 0 when one of the two is not known. `rows` are those of one size. */
static double speed(const struct row *rows, unsigned peer, enum metric m)
{
        const struct figure *f = &rows[peer].metric[m];
        double best = 0;
        for (unsigned i = KERNEL_FIRST; i < N_PEERS; i++) {
                const struct figure *k = &rows[i].metric[m];
                if (k->n && (!best || (m == MSGS_PER_S ? median(k) > best : median(k) < best)))
                        best = median(k);
        }
        if (!f->n || !best)
                return 0;
        return m == MSGS_PER_S ? median(f) / best : best / median(f);
}

/* ---- measuring ---- */

static bool measure_one(const struct request *q, unsigned peer, enum bench_work work, uint64_t size_bytes,
                        struct row *row)
{
        struct bench_run run = {
                .peer = peers[peer],
                .work = work,
                .mode = peers[peer]->modes & BENCH_BIT(q->mode) ? q->mode : BENCH_BLOCK,
                .place = q->place,
                .len_bytes = size_bytes,
                .depth_msgs = bench_depth_msgs(size_bytes),
                .clients = 1,
                .phase_s = q->phase_s,
        };
        struct bench_result result;
        const char *why;

        switch (bench_measure(&run, &result, &why)) {
        case BENCH_SKIPPED:
                row->why[work] = why;
                return true;
        case BENCH_FAILED:
                row->why[work] = why ? why : "it failed, as standard error says";
                return false;
        case BENCH_MEASURED:
                break;
        }
        if (work == BENCH_PP) {
                row->metric[P50_NS].value[row->metric[P50_NS].n++] = result.p50_ns;
                row->metric[P99_NS].value[row->metric[P99_NS].n++] = result.p99_ns;
        } else {
                struct figure *f = &row->metric[MSGS_PER_S];
                f->value[f->n++] = (double)result.count_msgs * 1e9 / result.elapsed_ns;
        }
        return true;
}

/* All rounds; rows[size][peer]. Returns whether wharf did all that was asked. */
static bool measure_all(const struct request *q, struct row (*rows)[N_PEERS])
{
        bool good = true;
        for (uint64_t round = 0; round < q->rounds; round++)
                for (unsigned s = 0; s < q->n_sizes; s++)
                        for (enum bench_work work = BENCH_PP; work <= BENCH_TP; work++)
                                for (unsigned p = 0; p < N_PEERS; p++) {
                                        char size[16];
                                        progress("round %" PRIu64 " of %" PRIu64 ": %s, %s", round + 1, q->rounds,
                                                 format_size(q->size_bytes[s], size), peers[p]->name);
                                        good &= measure_one(q, p, work, q->size_bytes[s], &rows[s][p]) || p != WHARF;
                                }
        progress("%s", "");
        for (unsigned i = 0; i < q->n_sizes * N_PEERS; i++)
                for (enum metric m = 0; m < METRICS; m++) {
                        struct figure *f = &rows[i / N_PEERS][i % N_PEERS].metric[m];
                        qsort(f->value, f->n, sizeof *f->value, compare_values);
                }
        return good;
}

/* ---- printing ---- */

/* Three digits or four, with the unit that makes it so: "402 ns", "24.6 us"; "12.3 M". */
static const char *format_figure(double v, enum metric m, char buf[32])
{
        static const struct {
                double from;
                const char *unit[2]; /* of a time in ns, and of a number */
        } scales[] = {{1e9, {" s", "G"}}, {1e6, {" ms", "M"}}, {1e3, {" us", "k"}}, {1, {" ns", ""}}};
        unsigned i = 0;
        while (i < 3 && v < 0.9995 * scales[i].from)
                i++;
        v /= scales[i].from;
        snprintf(buf, 32, "%.*f%s", v < 9.995 ? 2 : v < 99.95 ? 1 : 0, v, scales[i].unit[m == MSGS_PER_S]);
        return buf;
}

static void row_print(struct table *t, const struct row *rows, unsigned peer, enum bench_work work, uint64_t size_bytes)
{
        const struct row *row = &rows[peer];
        enum metric m = work == BENCH_PP ? P50_NS : MSGS_PER_S;
        const struct figure *f = &row->metric[m];
        char size[16], mid[32], low[32], high[32];
        table_cell(t, PLAIN, "%s", peer == WHARF ? format_size(size_bytes, size) : "");
        table_cell(t, PLAIN, "%s", peers[peer]->name);
        if (!f->n) {
                for (unsigned i = 0; i < 4; i++)
                        table_cell(t, PLAIN, "-");
                return;
        }
        table_cell(t, PLAIN, "%s", format_figure(median(f), m, mid));
        table_cell(t, PLAIN, "%s..%s", format_figure(f->value[0], m, low), format_figure(f->value[f->n - 1], m, high));
        if (work == BENCH_PP)
                table_cell(t, PLAIN, "%s", format_figure(median(&row->metric[P99_NS]), P99_NS, mid));
        else
                table_cell(t, PLAIN, "%.3f", median(f) * (double)size_bytes / 1e9);
        double times = speed(rows, peer, m);
        if (times)
                table_cell(t, PLAIN, "%.*f", times < 9.995 ? 2 : times < 99.95 ? 1 : 0, times);
        else
                table_cell(t, PLAIN, "-");
}

static int tables_print(const struct verb *v, const struct request *q, struct row (*rows)[N_PEERS])
{
        static const char *const places[BENCH_PLACES] = {"on a core each", "where the scheduler puts them",
                                                         "on one core"};
        static const char *const modes[BENCH_MODES] = {"All spin.", "All sleep.",
                                                       "wharf waits as it does by default; the others sleep."};
        printf("Two processes, %s. %s %" PRIu64 " round%s of %g ms.\n", places[q->place], modes[q->mode], q->rounds,
               q->rounds == 1 ? "" : "s", q->phase_s * 1e3);
        for (enum bench_work work = BENCH_PP; work <= BENCH_TP; work++) {
                bool there = work == BENCH_PP;
                const struct column columns[] = {
                        {"SIZE"},
                        {"PEER", COLUMN_CUT},
                        {there ? "P50" : "MSG/S", COLUMN_RIGHT},
                        {"LOWEST..HIGHEST", COLUMN_RIGHT, 1},
                        {there ? "P99" : "GB/S", COLUMN_RIGHT, 2},
                        {"SPEED", COLUMN_RIGHT},
                        {0},
                };
                printf("\n%s\n",
                       there ? "There and back, one message at a time" : "One way, every byte written and read");
                struct table *t = table_new(columns);
                for (unsigned s = 0; s < q->n_sizes; s++)
                        for (unsigned p = 0; p < N_PEERS; p++)
                                row_print(t, rows[s], p, work, q->size_bytes[s]);
                int r = table_print(v, t);
                if (r != EXIT_DONE)
                        return r;
        }
        printf("\nSPEED is relative to the best of %s, %s and %s. Figures are medians of the rounds.\n",
               peers[KERNEL_FIRST]->name, peers[KERNEL_FIRST + 1]->name, peers[KERNEL_FIRST + 2]->name);
        for (unsigned i = 0; i < q->n_sizes * N_PEERS; i++) {
                const struct row *row = &rows[i / N_PEERS][i % N_PEERS];
                const char *why = row_why(row);
                char size[16];
                if (why)
                        printf("%s, %s: %s\n", peers[i % N_PEERS]->name, format_size(q->size_bytes[i / N_PEERS], size),
                               why);
        }
        return EXIT_DONE;
}

static json_object *json_number(double v)
{
        char text[32];
        snprintf(text, sizeof text, "%.6g", v);
        return json_object_new_double_s(v, text);
}

static json_object *json_figure(const struct figure *f, double scale)
{
        json_object *o = json_object_new_object();
        json_object_object_add(o, "median", json_number(median(f) * scale));
        json_object_object_add(o, "lowest", json_number(f->value[0] * scale));
        json_object_object_add(o, "highest", json_number(f->value[f->n - 1] * scale));
        return o;
}

/* One direction of one row; null where there is no figure. */
static json_object *json_work(const struct row *rows, unsigned peer, enum bench_work work, uint64_t size_bytes)
{
        const struct row *row = &rows[peer];
        enum metric m = work == BENCH_PP ? P50_NS : MSGS_PER_S;
        if (!row->metric[m].n)
                return NULL;
        json_object *o = json_object_new_object();
        if (work == BENCH_PP) {
                json_object_object_add(o, "p50_ns", json_figure(&row->metric[P50_NS], 1));
                json_object_object_add(o, "p99_ns", json_figure(&row->metric[P99_NS], 1));
        } else {
                json_object_object_add(o, "messages_per_s", json_figure(&row->metric[m], 1));
                json_object_object_add(o, "gigabytes_per_s", json_figure(&row->metric[m], (double)size_bytes / 1e9));
        }
        double times = speed(rows, peer, m);
        json_object_object_add(o, "speed", times ? json_number(times) : NULL);
        return o;
}

static void json_print(const struct request *q, struct row (*rows)[N_PEERS])
{
        json_object *all = json_object_new_object(), *list = json_object_new_array();
        json_object_object_add(all, "wait", json_object_new_string(mode_options[q->mode]));
        json_object_object_add(all, "cores", json_object_new_string(place_options[q->place]));
        json_object_object_add(all, "rounds", json_object_new_uint64(q->rounds));
        json_object_object_add(all, "time_ms", json_number(q->phase_s * 1e3));
        for (unsigned i = 0; i < q->n_sizes * N_PEERS; i++) {
                unsigned s = i / N_PEERS, p = i % N_PEERS;
                json_object *o = json_object_new_object();
                json_object_object_add(o, "peer", json_object_new_string(peers[p]->name));
                json_object_object_add(o, "size_bytes", json_object_new_int64((int64_t)q->size_bytes[s]));
                json_object_object_add(o, "round_trip", json_work(rows[s], p, BENCH_PP, q->size_bytes[s]));
                json_object_object_add(o, "one_way", json_work(rows[s], p, BENCH_TP, q->size_bytes[s]));
                const char *why = row_why(&rows[s][p]);
                json_object_object_add(o, "why", why ? json_object_new_string(why) : NULL);
                json_object_array_add(list, o);
        }
        json_object_object_add(all, "results", list);
        json_out(all, true);
}

/* ---- the command line ---- */

/* Replaces the sizes by those of a list; they are rounded up to whole words, which is what the harness sends. */
static bool sizes_parse(const char *list, struct request *q)
{
        for (q->n_sizes = 0; *list || !q->n_sizes;) {
                char one[32];
                uint64_t bytes;
                size_t len = strcspn(list, ",");
                if (len >= sizeof one || q->n_sizes == BENCH_LENS_MAX || (list[len] && !list[len + 1]))
                        return false;
                snprintf(one, sizeof one, "%.*s", (int)len, list);
                if (!parse_size(one, &bytes) || bytes < SIZE_MIN || bytes > SIZE_MAX_BYTES)
                        return false;
                q->size_bytes[q->n_sizes++] = (bytes + 7) & ~(uint64_t)7;
                list += len + (list[len] == ',');
        }
        return true;
}

static bool time_parse(const char *text, struct request *q)
{
        int64_t ns;
        if (!parse_duration_ns(text, &ns) || ns < TIME_MIN_NS || ns > TIME_MAX_NS)
                return false;
        q->phase_s = (double)ns / 1e9;
        return true;
}

static bool place_parse(const char *text, struct request *q)
{
        for (enum bench_place p = 0; p < BENCH_PLACES; p++)
                if (!strcmp(text, place_options[p])) {
                        q->place = p;
                        q->place_given = true;
                        return true;
                }
        return false;
}

static bool take_mode(const char *option, struct request *q)
{
        q->mode = !strcmp(option, "--spin") ? BENCH_SPIN : !strcmp(option, "--sleep") ? BENCH_BLOCK : BENCH_DEFAULT;
        return true;
}

static bool take(const struct verb *v, const char *option, const char *text, void *request)
{
        struct request *q = request;
        if (!text)
                return take_mode(option, q);
        if (!strcmp(option, "--size"))
                return sizes_parse(text, q) ||
                       verb_fail(v, false, "--size: '%s' is no list of 1 to %d sizes between 8 and 64M; 64,4K is", text,
                                 BENCH_LENS_MAX);
        if (!strcmp(option, "--time"))
                return time_parse(text, q) ||
                       verb_fail(v, false, "--time: '%s' is no duration between 1ms and 60s", text);
        return place_parse(text, q) || verb_fail(v, false, "--cores: '%s' is none of pinned, free and one", text);
}

/* OPTIONS_GO_ON, or an exit code. */
static int options_parse(const struct verb *v, int argc, char **argv, struct request *q)
{
        const struct option_spec options[] = {
                {"size", 0, OPTION_CALL, q, "N,...", "bytes of a message, up to 16 sizes; default 64,4K,64K",
                 .take = take},
                {"time", 0, OPTION_CALL, q, "DURATION", "how long each is timed, 1ms to 60s; default 100ms",
                 .take = take},
                {"rounds", 0, OPTION_COUNT, &q->rounds, "N", "how often everything is measured; default 3", 1,
                 ROUNDS_MAX},
                {"spin", 0, OPTION_CALL, q, NULL, "nobody sleeps; needs two cores", .take = take},
                {"sleep", 0, OPTION_CALL, q, NULL, "all sleep when there is nothing to read", .take = take},
                {"default", 0, OPTION_CALL, q, NULL, "wharf spins for a while and then sleeps", .take = take},
                {"cores", 0, OPTION_CALL, q, "WHERE", "pinned, free or one; default pinned", .take = take},
                {"json", 0, OPTION_FLAG, &q->json, NULL, "print JSON"},
                COLOUR_OPTION,
                {0},
        };
        int read = options_read(v, argc, argv, options);
        return read == OPTIONS_GO_ON && optind != argc ? verb_usage(v) : read;
}

/* Gives the place that was not asked for, and refuses what would show nothing but time slices. */
static int place_choose(const struct verb *v, struct request *q)
{
        if (!q->place_given)
                q->place = bench_cores() < 2 ? BENCH_ONECORE : BENCH_PINNED;
        if (q->place == BENCH_PINNED && bench_cores() < 2)
                return verb_fail(v, EXIT_REFUSED, "--cores pinned: there is one core only; try --cores one");
        if (q->mode == BENCH_SPIN && q->place_given && q->place == BENCH_ONECORE)
                return verb_fail(v, EXIT_USAGE, "--spin --cores one: spinning needs two cores");
        if (q->mode == BENCH_SPIN && bench_cores() < 2)
                return verb_fail(v, EXIT_REFUSED, "--spin: there is one core only, and spinning needs two");
        return EXIT_DONE;
}

static int run(const struct verb *v, int argc, char **argv)
{
        struct request q = {
                .mode = BENCH_DEFAULT,
                .rounds = 3,
                .phase_s = 0.1,
                .size_bytes = {64, 4096, 65536},
                .n_sizes = 3,
        };
        int r = options_parse(v, argc, argv, &q);
        if (r != OPTIONS_GO_ON)
                return r;
        bench_program = "wharf bench";
        bench_begin();
        r = place_choose(v, &q);
        if (r != EXIT_DONE)
                return r;

        struct row(*rows)[N_PEERS] = calloc(q.n_sizes, sizeof *rows);
        if (!rows)
                return verb_fail(v, EXIT_REFUSED, "there is no memory left");
        bool good = measure_all(&q, rows);
        r = EXIT_DONE;
        if (q.json)
                json_print(&q, rows);
        else
                r = tables_print(v, &q, rows);
        free(rows);
        if (r != EXIT_DONE)
                return r;
        if (!good)
                return verb_fail(v, EXIT_REFUSED, "wharf: some of its measurements failed");
        return EXIT_DONE;
}

const struct verb verb_bench = {
        .name = "bench",
        .args = "[--size N,...] [--time DURATION] [--rounds N] [--spin|--sleep|--default] [--cores pinned|free|one] "
                "[--json] [--color WHEN]",
        .summary = "measure wharf beside pipes, sockets and POSIX queues",
        .run = run,
};
