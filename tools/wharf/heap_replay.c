/*
 * wharf heap replay - the requests of a real program, made of every policy in turn.
 *
 * Each policy gets a heap of the same size. Speed is the median of some runs. Footprint is where the last block in use
 * ends: the memory that the policy needs for what it holds. Fragmentation is the part of it that nobody asked for.
 */
#include "heap.h"

#include "base/bits.h"
#include "print.h"
#include "trace.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLES 200
#define RUNS_MAX 101
#define PARTITIONS_MAX (1 << 20)

extern const struct verb verb_heap;

struct point {
        uint64_t done, requested_bytes, footprint_bytes;
};

struct outcome {
        uint64_t heap_bytes;
        double ns_each, ns_each_min, ns_each_max; /* median and the ends */
        uint64_t refused, peak_used_bytes, peak_footprint_bytes, allocs, searches;
        double fragmentation; /* mean over the samples */
        struct point points[SAMPLES + 2];
        uint32_t n_points;
};

struct replay {
        struct trace trace;
        uint64_t size;
        unsigned runs;
        struct outcome policies[WHARF_HEAP_POLICIES];
        double malloc_ns, malloc_min, malloc_max;
};

/* ---- fixed partitions: as many of each power of two as the program ever held at once ---- */

static unsigned class_of(uint64_t bytes)
{
        return bytes <= 16 ? 4 : wh_log2_ceil(bytes);
}

/* 0 or a negative errno; *ret_sizes is to be freed. */
static int partitions_for(const struct trace *t, uint64_t **ret_sizes, uint32_t *ret_n)
{
        uint64_t live[64] = {0}, peak[64] = {0}, n = 0;
        uint8_t *class_now = calloc(t->n_blocks + 1, 1);
        if (!class_now)
                return -ENOMEM;
        for (uint64_t i = 0; i < t->n_events; i++) {
                const struct trace_event *e = &t->events[i];
                if (e->kind != TRACE_ALLOC)
                        live[class_now[e->block]]--;
                if (e->kind == TRACE_FREE)
                        continue;
                unsigned k = class_of(e->bytes);
                class_now[e->block] = (uint8_t)k;
                if (++live[k] > peak[k])
                        peak[k] = live[k];
        }
        free(class_now);
        for (unsigned k = 0; k < 64; k++)
                n += peak[k];
        if (n > PARTITIONS_MAX)
                return -E2BIG;
        uint64_t *sizes = malloc((n + 1) * sizeof *sizes);
        if (!sizes)
                return -ENOMEM;
        n = 0;
        for (unsigned k = 0; k < 64; k++)
                for (uint64_t i = 0; i < peak[k]; i++)
                        sizes[n++] = (uint64_t)1 << k;
        *ret_sizes = sizes;
        *ret_n = (uint32_t)n;
        return 0;
}

/* ---- running ---- */

struct sampler {
        struct outcome *out;
        wharf_heap *heap;
        uint64_t requested, end;
};

static int sum_block(const struct wharf_block *b, void *arg)
{
        struct sampler *s = arg;
        if (b->state == WHARF_BLOCK_FREE)
                return 0;
        s->end = b->start + b->bytes;
        if (b->state == WHARF_BLOCK_USED)
                s->requested += b->requested_bytes;
        return 0;
}

static void take_sample(uint64_t done, void *arg)
{
        struct sampler *s = arg;
        s->requested = s->end = 0;
        wharf_heap_walk(s->heap, sum_block, s);
        if (s->out->n_points < sizeof s->out->points / sizeof *s->out->points)
                s->out->points[s->out->n_points++] = (struct point){done, s->requested, s->end};
        if (s->end > s->out->peak_footprint_bytes)
                s->out->peak_footprint_bytes = s->end;
}

static int by_value(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;
        return (x > y) - (x < y);
}

static void spread(double *ns, unsigned n, double *ret_mid, double *ret_min, double *ret_max)
{
        qsort(ns, n, sizeof *ns, by_value);
        *ret_mid = ns[n / 2];
        *ret_min = ns[0];
        *ret_max = ns[n - 1];
}

static int run_policy(struct replay *p, uint32_t policy)
{
        struct outcome *out = &p->policies[policy];
        struct wharf_heap_opts o = {
                .size = sizeof o,
                .policy = policy,
                .unit_bytes = policy == WHARF_HEAP_BUDDY ? 32 : 16,
                .managed_bytes = p->size,
                .owners_max = 1,
                .waiters_max = 1,
        };
        uint64_t *sizes = NULL;
        int r = 0;
        if (policy == WHARF_HEAP_FIXED) {
                r = partitions_for(&p->trace, &sizes, &o.n_partitions);
                o.partition_bytes = sizes;
                o.managed_bytes = 0;
        }
        double ns[RUNS_MAX];
        for (unsigned i = 0; i <= p->runs && r == 0; i++) { /* the first run takes the samples, and warms up */
                struct heap_memory m;
                struct trace_result res;
                r = heap_make(&o, &m);
                if (r < 0)
                        break;
                struct sampler s = {.out = out, .heap = m.heap};
                uint64_t every = p->trace.n_events / SAMPLES + 1;
                r = trace_replay(&p->trace, m.heap, every, i ? NULL : take_sample, &s, &res);
                if (r == 0 && i == 0) {
                        struct wharf_heap_figures f;
                        wharf_heap_figures(m.heap, &f);
                        out->heap_bytes = f.managed_bytes;
                        out->peak_used_bytes = f.peak_bytes;
                        out->searches = f.searches;
                        out->allocs = f.allocs;
                        out->refused = res.refused;
                } else if (r == 0) {
                        ns[i - 1] = (double)res.ns / (double)(res.ran ? res.ran : 1);
                }
                heap_drop(&m);
        }
        free(sizes);
        if (r < 0)
                return r;
        spread(ns, p->runs, &out->ns_each, &out->ns_each_min, &out->ns_each_max);
        double sum = 0;
        uint32_t n = 0;
        for (uint32_t i = 0; i < out->n_points; i++)
                if (out->points[i].footprint_bytes) {
                        sum += 1 - (double)out->points[i].requested_bytes / (double)out->points[i].footprint_bytes;
                        n++;
                }
        out->fragmentation = n ? sum / n : 0;
        return 0;
}

static int run_malloc(struct replay *p)
{
        double ns[RUNS_MAX];
        for (unsigned i = 0; i <= p->runs; i++) {
                struct trace_result res;
                int r = trace_replay_malloc(&p->trace, &res);
                if (r < 0)
                        return r;
                if (i)
                        ns[i - 1] = (double)res.ns / (double)(res.ran ? res.ran : 1);
        }
        spread(ns, p->runs, &p->malloc_ns, &p->malloc_min, &p->malloc_max);
        return 0;
}

/* ---- text and JSON ---- */

static int print_text(const struct verb *v, const struct replay *p, const char *path)
{
        static const struct column columns[] = {
                {"POLICY"},
                {"NS/REQUEST", COLUMN_RIGHT},
                {"(MIN-MAX)", 0, 1},
                {"HEAP", COLUMN_RIGHT, 2},
                {"PEAK USED", COLUMN_RIGHT, 4},
                {"PEAK FOOTPRINT", COLUMN_RIGHT, 6},
                {"FRAGMENTED", COLUMN_RIGHT},
                {"REFUSED", COLUMN_RIGHT, 5},
                {"LOOKS/ALLOC", COLUMN_RIGHT, 3},
                {0},
        };
        const struct trace *t = &p->trace;
        char a[16];
        printf("%s: %" PRIu64 " requests (%" PRIu64 " allocate, %" PRIu64 " free, %" PRIu64
               " resize), at most %s asked for at once\n\n",
               shown(path), t->n_events, t->allocs, t->frees, t->resizes, format_size(t->peak_live_bytes, a));
        struct table *table = table_new(columns);
        for (uint32_t i = 0; i < WHARF_HEAP_POLICIES; i++) {
                const struct outcome *o = &p->policies[i];
                table_cell(table, PLAIN, "%s", wharf_heap_policy_name(i));
                table_cell(table, PLAIN, "%.1f", o->ns_each);
                table_cell(table, PLAIN, "(%.0f-%.0f)", o->ns_each_min, o->ns_each_max);
                table_cell(table, PLAIN, "%s", format_size(o->heap_bytes, a));
                table_cell(table, PLAIN, "%s", format_size(o->peak_used_bytes, a));
                table_cell(table, PLAIN, "%s", format_size(o->peak_footprint_bytes, a));
                table_cell(table, PLAIN, "%.1f %%", o->fragmentation * 100);
                table_cell(table, PLAIN, "%" PRIu64, o->refused);
                table_cell(table, PLAIN, "%.2f", o->allocs ? (double)o->searches / (double)o->allocs : 0);
        }
        table_cell(table, PLAIN, "malloc");
        table_cell(table, PLAIN, "%.1f", p->malloc_ns);
        table_cell(table, PLAIN, "(%.0f-%.0f)", p->malloc_min, p->malloc_max);
        for (unsigned i = 3; i < sizeof columns / sizeof *columns - 1; i++)
                table_cell(table, PLAIN, "-");
        int r = table_print(v, table);
        printf("\nmalloc is of this C library, in private memory, for comparison.\n");
        return r;
}

static void print_json(const struct replay *p)
{
        struct json_object *all = json_object_new_object(), *policies = json_object_new_array();
        json_object_object_add(all, "requests", json_object_new_uint64(p->trace.n_events));
        json_object_object_add(all, "peak_live_bytes", json_object_new_uint64(p->trace.peak_live_bytes));
        json_object_object_add(all, "malloc_ns", json_object_new_double(p->malloc_ns));
        for (uint32_t i = 0; i < WHARF_HEAP_POLICIES; i++) {
                const struct outcome *o = &p->policies[i];
                struct json_object *j = json_object_new_object(), *points = json_object_new_array();
                json_object_object_add(j, "policy", json_object_new_string(wharf_heap_policy_name(i)));
                json_object_object_add(j, "heap_bytes", json_object_new_uint64(o->heap_bytes));
                json_object_object_add(j, "ns", json_object_new_double(o->ns_each));
                json_object_object_add(j, "ns_min", json_object_new_double(o->ns_each_min));
                json_object_object_add(j, "ns_max", json_object_new_double(o->ns_each_max));
                json_object_object_add(j, "refused", json_object_new_uint64(o->refused));
                json_object_object_add(j, "peak_used_bytes", json_object_new_uint64(o->peak_used_bytes));
                json_object_object_add(j, "peak_footprint_bytes", json_object_new_uint64(o->peak_footprint_bytes));
                json_object_object_add(j, "fragmentation", json_object_new_double(o->fragmentation));
                json_object_object_add(j, "searches", json_object_new_uint64(o->searches));
                for (uint32_t k = 0; k < o->n_points; k++) {
                        struct json_object *point = json_object_new_array();
                        json_object_array_add(point, json_object_new_uint64(o->points[k].done));
                        json_object_array_add(point, json_object_new_uint64(o->points[k].requested_bytes));
                        json_object_array_add(point, json_object_new_uint64(o->points[k].footprint_bytes));
                        json_object_array_add(points, point);
                }
                json_object_object_add(j, "points", points);
                json_object_array_add(policies, j);
        }
        json_object_object_add(all, "policies", policies);
        json_out(all, false);
}

/* ---- SVG ---- */

static const char *const colours[WHARF_HEAP_POLICIES] = {"#d62728", "#1f77b4", "#2ca02c",
                                                         "#9467bd", "#ff7f0e", "#8c564b"};

/* Two that lie on each other are both seen. */
static const char *const dashes[WHARF_HEAP_POLICIES] = {
        [WHARF_HEAP_BEST_FIT] = " stroke-dasharray=\"7,5\"",
        [WHARF_HEAP_WORST_FIT] = " stroke-dasharray=\"7,5\"",
        [WHARF_HEAP_BUDDY] = "",
        [WHARF_HEAP_FIRST_FIT] = "",
        [WHARF_HEAP_NEXT_FIT] = "",
        [WHARF_HEAP_FIXED] = "",
};

/* 1, 2 or 5 times a power of ten, so that about five of them make `max`. */
static double tick_of(double max)
{
        double step = 1;
        while (step * 5 * 10 <= max)
                step *= 10;
        while (step > max)
                step /= 10;
        return step * 5 * 5 <= max ? step * 5 : step * 2 * 5 <= max ? step * 2 : step;
}

struct panel {
        double left, top, width, height, x_max, y_max;
};

static void axes(FILE *f, const struct panel *p, const char *title, const char *y_unit)
{
        fprintf(f, "<text x=\"%.0f\" y=\"%.0f\" font-size=\"14\">%s</text>\n", p->left, p->top - 10, title);
        const double y_step = tick_of(p->y_max), x_step = tick_of(p->x_max);
        for (int i = 0; i * y_step <= p->y_max * 1.0001; i++) {
                const double y = i * y_step;
                double at = p->top + p->height * (1 - y / p->y_max);
                fprintf(f,
                        "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>"
                        "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\" font-size=\"11\">%g %s</text>\n",
                        p->left, at, p->left + p->width, at, p->left - 6, at + 4, y, y_unit);
        }
        for (int i = 0; i * x_step <= p->x_max * 1.0001; i++) {
                const double x = i * x_step;
                double at = p->left + p->width * x / p->x_max;
                fprintf(f,
                        "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#999\"/>"
                        "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" font-size=\"11\">%g</text>\n",
                        at, p->top + p->height, at, p->top + p->height + 4, at, p->top + p->height + 18, x);
        }
        fprintf(f, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" stroke=\"#333\"/>\n",
                p->left, p->top, p->width, p->height);
        fprintf(f, "<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"middle\" font-size=\"12\">thousand requests</text>\n",
                p->left + p->width / 2, p->top + p->height + 36);
}

enum curve { CURVE_FOOTPRINT, CURVE_REQUESTED, CURVE_FRAGMENTATION };

static void curve(FILE *f, const struct panel *p, const struct outcome *o, enum curve what, const char *colour,
                  const char *dash)
{
        fprintf(f, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.6\"%s points=\"", colour, dash);
        for (uint32_t i = 0; i < o->n_points; i++) {
                const struct point *q = &o->points[i];
                double foot = (double)q->footprint_bytes, asked = (double)q->requested_bytes;
                double y = what == CURVE_FRAGMENTATION ? (foot > 0 ? 100 * (1 - asked / foot) : 0)
                                                       : (what == CURVE_FOOTPRINT ? foot : asked) / (1 << 20);
                fprintf(f, "%.1f,%.1f ", p->left + p->width * (double)q->done / 1000 / p->x_max,
                        p->top + p->height * (1 - y / p->y_max));
        }
        fprintf(f, "\"/>\n");
}

static int write_svg(const struct replay *p, const char *trace_path, const char *path)
{
        FILE *f = fopen(path, "we");
        if (!f)
                return -errno;
        double most = 0;
        for (uint32_t i = 0; i < WHARF_HEAP_POLICIES; i++)
                if ((double)p->policies[i].peak_footprint_bytes > most)
                        most = (double)p->policies[i].peak_footprint_bytes;
        struct panel up = {80,
                           70,
                           700,
                           250,
                           (double)(p->trace.n_events ? p->trace.n_events : 1) / 1000,
                           most > 0 ? most / (1 << 20) * 1.05 : 1};
        struct panel down = {80, 400, 700, 200, up.x_max, 100};
        const char *base = strrchr(trace_path, '/') ? strrchr(trace_path, '/') + 1 : trace_path;
        fprintf(f,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"960\" height=\"660\" font-family=\"sans-serif\">\n"
                "<rect width=\"960\" height=\"660\" fill=\"white\"/>\n<text x=\"80\" y=\"28\" font-size=\"17\">");
        for (const char *c = shown(base); *c; c++)
                if (*c == '<' || *c == '&')
                        fprintf(f, "&#%d;", *c);
                else
                        fputc(*c, f);
        fprintf(f, ": one program, six policies</text>\n");
        axes(f, &up, "Memory needed (to the end of the last block in use)", "MiB");
        axes(f, &down, "Fragmentation: the part of it that nobody asked for", "%");
        for (uint32_t i = 0; i < WHARF_HEAP_POLICIES; i++) {
                curve(f, &up, &p->policies[i], CURVE_FOOTPRINT, colours[i], dashes[i]);
                curve(f, &down, &p->policies[i], CURVE_FRAGMENTATION, colours[i], dashes[i]);
                fprintf(f,
                        "<line x1=\"800\" y1=\"%u\" x2=\"826\" y2=\"%u\" stroke=\"%s\" stroke-width=\"3\"%s/>"
                        "<text x=\"834\" y=\"%u\" font-size=\"12\">%s, %.0f ns</text>\n",
                        100 + 22 * i, 100 + 22 * i, colours[i], dashes[i], 104 + 22 * i, wharf_heap_policy_name(i),
                        p->policies[i].ns_each);
        }
        curve(f, &up, &p->policies[WHARF_HEAP_FIRST_FIT], CURVE_REQUESTED, "black", "");
        fprintf(f, "<line x1=\"800\" y1=\"232\" x2=\"826\" y2=\"232\" stroke=\"black\" stroke-width=\"3\"/>"
                   "<text x=\"834\" y=\"236\" font-size=\"12\">asked for</text>\n</svg>\n");
        int r = ferror(f) ? -EIO : 0;
        return fclose(f) != 0 && r == 0 ? -errno : r;
}

/* ---- the command ---- */

static bool take_size(const struct verb *v, const char *option, const char *text, void *ret)
{
        uint64_t *bytes = ret;
        if (parse_size(text, bytes) && *bytes >= 4096 && *bytes <= (uint64_t)1 << 30)
                return true;
        return verb_fail(v, false, "%s: '%s' is no size between 4K and 1G", option, text);
}

int heap_replay(const struct verb *one, int argc, char **argv)
{
        uint64_t size = 0, runs = 5;
        bool json = false;
        char *svg = NULL;
        const struct option_spec options[] = {
                {"size", 0, OPTION_CALL, &size, "N", "how large the heaps are; default: twice what was held at once",
                 .take = take_size},
                {"runs", 0, OPTION_COUNT, &runs, "N", "how often each is measured; default 5", 1, RUNS_MAX},
                {"json", 0, OPTION_FLAG, &json, NULL, "print JSON"},
                {"svg", 0, OPTION_TEXT, &svg, "FILE", "also plot footprint and fragmentation into a file"},
                COLOUR_OPTION,
                {0},
        };
        const struct verb *v = &verb_heap;
        int read = options_read(one, argc, argv, options);
        if (read != OPTIONS_GO_ON)
                return read;
        if (argc - optind != 1)
                return verb_usage(one);

        struct replay *p = calloc(1, sizeof *p);
        if (!p)
                return verb_fail(v, EXIT_REFUSED, "%s", strerror(ENOMEM));
        const char *path = argv[optind];
        int code = EXIT_DONE, r = trace_load(path, &p->trace);
        if (r < 0) {
                free(p);
                return verb_fail(v, verb_exit_code(r), "%s: %s", path,
                                 r == -EBADMSG ? "it is no trace, or only part of one" : strerror(-r));
        }
        /* Twice what the program held at its height, so that no policy is refused for want of room alone. */
        p->size = size ? size : wh_pow2_ceil(p->trace.peak_live_bytes * 2 + 65536);
        p->runs = (unsigned)runs;
        if (p->size > (uint64_t)1 << 30) {
                r = -E2BIG;
                code = verb_fail(v, EXIT_REFUSED, "%s: it holds too much: heaps of 1 GiB at most are made", path);
        }
        for (uint32_t i = 0; i < WHARF_HEAP_POLICIES && r == 0; i++)
                if ((r = run_policy(p, i)) < 0)
                        code = verb_fail(v, EXIT_REFUSED, "%s: %s", wharf_heap_policy_name(i), strerror(-r));
        if (r == 0 && (r = run_malloc(p)) < 0)
                code = verb_fail(v, EXIT_REFUSED, "malloc: %s", strerror(-r));
        if (r == 0 && json)
                print_json(p);
        else if (r == 0)
                code = print_text(v, p, path);
        if (r == 0 && svg && (r = write_svg(p, path, svg)) < 0)
                code = verb_fail(v, EXIT_REFUSED, "%s: %s", svg, strerror(-r));
        trace_done(&p->trace);
        free(p);
        return code;
}
