/*
 * wharf heap trace - a script of requests on one policy, and the memory after each step as the textbook draws it.
 *
 * All steps are run first; what is printed (text, JSON, SVG) is then made from what was seen.
 */
#include "heap.h"
#include "print.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_CHARS 15
#define SIZE_MAX_BYTES ((uint64_t)64 << 20)
#define PARTITIONS_MAX 64
#define COLUMNS 64

extern const struct verb verb_heap;

struct cell {
        uint64_t start, bytes, requested;
        char name[NAME_MAX_CHARS + 1]; /* "" for a hole */
};

struct step {
        char label[64];
        const char *refused; /* why, or NULL */
        struct cell *cells;
        uint32_t n_cells;
        struct wharf_heap_figures f;
};

struct owner { /* a name of the script, and what it has */
        char name[NAME_MAX_CHARS + 1];
        uint64_t offset;
        bool has;
};

struct run {
        struct heap_memory mem;
        uint32_t policy, unit_bytes;
        uint64_t size;
        struct step *steps;
        struct owner *owners;
        uint32_t n_steps, n_owners;
};

/*
 * The classic run (A 16, B 32, C 8, A exits, C exits), and then requests after which no two policies look alike: G and
 * H go to different holes, and whether I finds room depends on where they went.
 */
static const char demo[] = "A 16\nB 32\nC 8\nfree A\nfree C\n"
                           "D 24\nE 20\nF 18\nfree D\nG 12\nH 14\nI 24\n";

static void run_done(struct run *t)
{
        for (uint32_t i = 0; i < t->n_steps; i++)
                free(t->steps[i].cells);
        free(t->steps);
        free(t->owners);
        if (t->mem.heap)
                heap_drop(&t->mem);
}

/* ---- running ---- */

static int add_cell(const struct wharf_block *b, void *arg)
{
        struct run *t = arg;
        struct step *s = &t->steps[t->n_steps - 1];
        struct cell *cells = realloc(s->cells, (s->n_cells + 1) * sizeof *cells);
        if (!cells)
                return -ENOMEM;
        s->cells = cells;
        struct cell *c = &cells[s->n_cells++];
        *c = (struct cell){.start = b->start, .bytes = b->bytes};
        if (b->state == WHARF_BLOCK_USED) {
                c->requested = b->requested_bytes;
                for (uint32_t i = 0; i < t->n_owners; i++)
                        if (t->owners[i].has && t->owners[i].offset == b->offset)
                                strcpy(c->name, t->owners[i].name);
        }
        return 0;
}

/* 0 or a negative errno. */
static int look(struct run *t, const char *label, const char *refused)
{
        struct step *steps = realloc(t->steps, (t->n_steps + 1) * sizeof *steps);
        if (!steps)
                return -ENOMEM;
        t->steps = steps;
        struct step *s = &steps[t->n_steps++];
        *s = (struct step){.refused = refused};
        snprintf(s->label, sizeof s->label, "%s", label);
        int r = wharf_heap_figures(t->mem.heap, &s->f);
        return r < 0 ? r : wharf_heap_walk(t->mem.heap, add_cell, t);
}

static struct owner *owner_find(struct run *t, const char *name)
{
        for (uint32_t i = 0; i < t->n_owners; i++)
                if (!strcmp(t->owners[i].name, name))
                        return &t->owners[i];
        return NULL;
}

static struct owner *owner_make(struct run *t, const char *name)
{
        struct owner *o = owner_find(t, name);
        if (o)
                return o;
        o = realloc(t->owners, (t->n_owners + 1) * sizeof *o);
        if (!o)
                return NULL;
        t->owners = o;
        o += t->n_owners++;
        *o = (struct owner){.has = false};
        strcpy(o->name, name);
        return o;
}

/* One line of the script: "NAME SIZE", "free NAME", "NAME exits", "# ...". 0 or an exit code after the complaint. */
static int run_line(struct run *t, const struct verb *v, const char *line, unsigned number)
{
        char a[NAME_MAX_CHARS + 2], b[32], rest[2], label[64];
        int n = sscanf(line, "%16s %31s %1s", a, b, rest), r;
        if (n <= 0 || a[0] == '#')
                return 0;
        if (n != 2)
                return verb_fail(v, EXIT_USAGE, "line %u: a step is `NAME SIZE` or `free NAME`", number);
        bool frees = !strcmp(a, "free") || !strcmp(b, "exits");
        const char *name = !strcmp(a, "free") ? b : a;
        if (strlen(name) > NAME_MAX_CHARS)
                return verb_fail(v, EXIT_USAGE, "line %u: a name has at most %d characters", number, NAME_MAX_CHARS);
        if (strcmp(shown(name), name) != 0) /* it is drawn, in boxes that are as wide as it is long */
                return verb_fail(v, EXIT_USAGE, "line %u: '%s' is no name that can be printed", number, name);
        const char *refused = NULL;
        if (frees) {
                struct owner *o = owner_find(t, name);
                if (!o)
                        return verb_fail(v, EXIT_USAGE, "line %u: nothing was asked for by '%s'", number, name);
                if (o->has && (r = wharf_heap_free(t->mem.heap, o->offset)) < 0)
                        return verb_fail(v, EXIT_REFUSED, "line %u: %s", number, strerror(-r));
                refused = o->has ? NULL : "had none";
                o->has = false;
                snprintf(label, sizeof label, "free %s", name);
        } else {
                uint64_t bytes;
                if (!parse_size(b, &bytes) || !bytes)
                        return verb_fail(v, EXIT_USAGE, "line %u: '%s' is no size above 0", number, b);
                struct owner *o = owner_make(t, name);
                if (!o)
                        return verb_fail(v, EXIT_REFUSED, "line %u: %s", number, strerror(ENOMEM));
                if (o->has)
                        return verb_fail(v, EXIT_USAGE, "line %u: '%s' has memory already; free it first", number,
                                         name);
                r = wharf_heap_alloc(t->mem.heap, bytes, 0, 0, 0, &o->offset);
                if (r < 0 && r != -ENOMEM && r != -E2BIG)
                        return verb_fail(v, EXIT_REFUSED, "line %u: %s", number, strerror(-r));
                o->has = r == 0;
                refused = r == -ENOMEM ? "no room" : r == -E2BIG ? "can never fit" : NULL;
                snprintf(label, sizeof label, "%s %s", name, b);
        }
        r = look(t, label, refused);
        return r < 0 ? verb_fail(v, EXIT_REFUSED, "line %u: %s", number, strerror(-r)) : 0;
}

static int run_script(struct run *t, const struct verb *v, FILE *in)
{
        char line[256];
        int r = look(t, "start", NULL);
        if (r < 0)
                return verb_fail(v, EXIT_REFUSED, "%s", strerror(-r));
        for (unsigned number = 1; fgets(line, sizeof line, in); number++) {
                if (!strchr(line, '\n') && !feof(in))
                        return verb_fail(v, EXIT_USAGE, "line %u is too long", number);
                r = run_line(t, v, line, number);
                if (r)
                        return r;
                errno = 0;
        }
        return ferror(in) ? verb_fail(v, EXIT_REFUSED, "the script: %s", standard_error(errno)) : 0;
}

/* ---- text ---- */

/* "A", or "A 12" where the block is larger than what was asked for; the size of a hole. */
static void cell_label(const struct cell *c, char *buf, size_t cap)
{
        if (!c->name[0])
                snprintf(buf, cap, "%" PRIu64, c->bytes);
        else if (c->requested == c->bytes)
                snprintf(buf, cap, "%s", c->name);
        else
                snprintf(buf, cap, "%s %" PRIu64, c->name, c->requested);
}

static void draw(const struct run *t, const struct step *s)
{
        char row[COLUMNS + 2], text[48];
        memset(row, ' ', sizeof row);
        for (uint32_t i = 0; i < s->n_cells; i++) {
                const struct cell *c = &s->cells[i];
                unsigned from = (unsigned)(c->start * COLUMNS / t->size);
                unsigned to = (unsigned)((c->start + c->bytes) * COLUMNS / t->size);
                row[from] = '|';
                if (to <= from + 1) /* too narrow for anything but its border */
                        continue;
                unsigned room = to - from - 1;
                memset(row + from + 1, c->name[0] ? '#' : ' ', room);
                cell_label(c, text, sizeof text);
                if (strlen(text) > room && c->name[0])
                        snprintf(text, sizeof text, "%s", c->name);
                size_t len = strlen(text);
                if (len <= room)
                        memcpy(row + from + 1 + (room - len) / 2, text, len);
        }
        row[COLUMNS] = '|';
        row[COLUMNS + 1] = 0;
        printf("%-10s %s", s->label, row);
        if (s->refused)
                printf("  %s", s->refused);
        putchar('\n');
}

static void print_text(const struct run *t)
{
        char scale[COLUMNS + 16], number[24];
        memset(scale, ' ', sizeof scale);
        for (unsigned i = 0; i <= 4; i++) { /* the quarters */
                int n = snprintf(number, sizeof number, "%" PRIu64, t->size / 4 * i + t->size % 4 * i / 4);
                memcpy(scale + COLUMNS / 4 * i, number, (size_t)n);
                scale[COLUMNS / 4 * i + (unsigned)n] = i == 4 ? 0 : ' ';
        }
        printf("%s, %" PRIu64 " bytes in units of %" PRIu32 "\n\n", wharf_heap_policy_name(t->policy), t->size,
               t->unit_bytes);
        printf("%-10s %s\n", "", scale);
        uint32_t refused = 0;
        for (uint32_t i = 0; i < t->n_steps; i++) {
                draw(t, &t->steps[i]);
                refused += t->steps[i].refused && t->steps[i].refused[0] != 'h';
        }
        const struct wharf_heap_figures *f = &t->steps[t->n_steps - 1].f;
        printf("\nused %" PRIu64 " (asked for %" PRIu64 ", internal fragmentation %.0f %%), free %" PRIu64
               " (largest hole %" PRIu64 ", external fragmentation %.0f %%)\n",
               f->used_bytes, f->requested_bytes, f->internal_fragmentation * 100, f->free_bytes, f->largest_free_bytes,
               f->external_fragmentation * 100);
        printf("peak %" PRIu64 ", refused %" PRIu32 ", looked at %" PRIu64 " holes\n", f->peak_bytes, refused,
               f->searches);

        uint8_t bits[64];
        int64_t units = wharf_heap_frames(t->mem.heap, bits, sizeof bits);
        if (t->policy == WHARF_HEAP_BUDDY && units > 0 && units <= 64) {
                printf("frames in use ");
                for (int64_t i = 0; i < units; i++)
                        putchar('0' + (bits[i / 8] >> i % 8 & 1));
                printf(", free blocks%s", f->free_bytes ? "" : " none");
                for (uint64_t bytes = t->unit_bytes; bytes <= t->size; bytes *= 2) {
                        const struct step *s = &t->steps[t->n_steps - 1];
                        uint32_t n = 0;
                        for (uint32_t i = 0; i < s->n_cells; i++)
                                n += !s->cells[i].name[0] && s->cells[i].bytes == bytes;
                        if (n)
                                printf(" %" PRIu32 " of %" PRIu64, n, bytes);
                }
                putchar('\n');
        }
}

/* ---- JSON and SVG ---- */

static void print_json(const struct run *t)
{
        struct json_object *all = json_object_new_object(), *steps = json_object_new_array();
        json_object_object_add(all, "policy", json_object_new_string(wharf_heap_policy_name(t->policy)));
        json_object_object_add(all, "bytes", json_object_new_uint64(t->size));
        json_object_object_add(all, "unit_bytes", json_object_new_int64(t->unit_bytes));
        for (uint32_t i = 0; i < t->n_steps; i++) {
                const struct step *s = &t->steps[i];
                struct json_object *o = json_object_new_object(), *blocks = json_object_new_array();
                json_object_object_add(o, "step", json_shown(s->label));
                if (s->refused)
                        json_object_object_add(o, "refused", json_object_new_string(s->refused));
                for (uint32_t j = 0; j < s->n_cells; j++) {
                        const struct cell *c = &s->cells[j];
                        struct json_object *b = json_object_new_object();
                        json_object_object_add(b, "start", json_object_new_uint64(c->start));
                        json_object_object_add(b, "bytes", json_object_new_uint64(c->bytes));
                        if (c->name[0]) {
                                json_object_object_add(b, "name", json_shown(c->name));
                                json_object_object_add(b, "requested_bytes", json_object_new_uint64(c->requested));
                        }
                        json_object_array_add(blocks, b);
                }
                json_object_object_add(o, "blocks", blocks);
                json_object_object_add(o, "free_bytes", json_object_new_uint64(s->f.free_bytes));
                json_object_object_add(o, "largest_free_bytes", json_object_new_uint64(s->f.largest_free_bytes));
                json_object_array_add(steps, o);
        }
        json_object_object_add(all, "steps", steps);
        json_out(all, false);
}

static void svg_text(FILE *f, const char *text)
{
        for (; *text; text++)
                if (*text == '<' || *text == '>' || *text == '&' || *text == '"')
                        fprintf(f, "&#%d;", *text);
                else
                        fputc(*text, f);
}

static int write_svg(const struct run *t, const char *path)
{
        FILE *f = fopen(path, "we");
        if (!f)
                return -errno;
        const double left = 120, width = 760, row = 30;
        double height = 70 + row * t->n_steps;
        fprintf(f,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1020\" height=\"%.0f\" font-family=\"sans-serif\" "
                "font-size=\"13\">\n<rect width=\"1020\" height=\"%.0f\" fill=\"white\"/>\n"
                "<text x=\"10\" y=\"22\" font-size=\"15\">%s: %" PRIu64 " bytes in units of %" PRIu32 "</text>\n",
                height, height, wharf_heap_policy_name(t->policy), t->size, t->unit_bytes);
        for (unsigned i = 0; i <= 4; i++)
                fprintf(f,
                        "<text x=\"%.1f\" y=\"45\" font-size=\"11\" fill=\"#555\" text-anchor=\"middle\">%" PRIu64
                        "</text>\n",
                        left + width * i / 4, t->size / 4 * i + t->size % 4 * i / 4);
        for (uint32_t i = 0; i < t->n_steps; i++) {
                const struct step *s = &t->steps[i];
                double y = 52 + row * i;
                fprintf(f, "<text x=\"10\" y=\"%.1f\">", y + 17);
                svg_text(f, s->label);
                fprintf(f, "</text>\n");
                for (uint32_t j = 0; j < s->n_cells; j++) {
                        const struct cell *c = &s->cells[j];
                        double x = left + width * (double)c->start / (double)t->size;
                        double w = width * (double)c->bytes / (double)t->size;
                        char text[48];
                        cell_label(c, text, sizeof text);
                        fprintf(f,
                                "<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"24\" fill=\"%s\" stroke=\"#333\" "
                                "stroke-width=\"0.7\"/>\n",
                                x, y, w, c->name[0] ? "#b9d3ee" : "white");
                        if (c->name[0] && c->requested < c->bytes) /* what nobody asked for */
                                fprintf(f,
                                        "<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"24\" fill=\"#f0c9a0\"/>\n",
                                        x + w * (double)c->requested / (double)c->bytes, y,
                                        w * (double)(c->bytes - c->requested) / (double)c->bytes);
                        if ((double)strlen(text) * 7.5 < w) {
                                fprintf(f, "<text x=\"%.2f\" y=\"%.1f\" text-anchor=\"middle\" fill=\"%s\">", x + w / 2,
                                        y + 17, c->name[0] ? "black" : "#777");
                                svg_text(f, text);
                                fprintf(f, "</text>\n");
                        }
                }
                if (s->refused)
                        fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" fill=\"#b00\">%s</text>\n", left + width + 10, y + 17,
                                s->refused);
        }
        fprintf(f,
                "<text x=\"%.1f\" y=\"%.1f\" font-size=\"11\" fill=\"#555\">blue: in use; orange: given but not "
                "asked for; white: free, with its size in bytes</text>\n</svg>\n",
                left, height - 6);
        int r = ferror(f) ? -EIO : 0;
        return fclose(f) != 0 && r == 0 ? -errno : r;
}

/* ---- the command ---- */

static int partitions(const char *text, uint64_t *sizes, uint32_t *ret_n)
{
        char part[32];
        uint32_t n = 0;
        for (const char *p = text; n < PARTITIONS_MAX; p += *p == ',') {
                size_t len = strcspn(p, ",");
                if (!len || len >= sizeof part)
                        return -EINVAL;
                memcpy(part, p, len);
                part[len] = 0;
                if (!parse_size(part, &sizes[n]) || !sizes[n])
                        return -EINVAL;
                n++;
                p += len;
                if (!*p) {
                        *ret_n = n;
                        return 0;
                }
        }
        return -E2BIG;
}

static bool take_policy(const struct verb *v, const char *option, const char *text, void *ret)
{
        if (wharf_heap_policy_by_name(text, ret) == 0)
                return true;
        return verb_fail(v, false, "%s: '%s' is no policy: buddy, first, next, best, worst, fixed", option, text);
}

static bool take_size(const struct verb *v, const char *option, const char *text, void *ret)
{
        uint64_t *bytes = ret;
        if (parse_size(text, bytes) && *bytes && *bytes <= SIZE_MAX_BYTES)
                return true;
        return verb_fail(v, false, "%s: '%s' is no size between 1 and 64M", option, text);
}

struct partitions {
        uint64_t sizes[PARTITIONS_MAX];
        uint32_t n;
};

static bool take_partitions(const struct verb *v, const char *option, const char *text, void *ret)
{
        struct partitions *p = ret;
        if (partitions(text, p->sizes, &p->n) == 0)
                return true;
        return verb_fail(v, false, "%s: '%s' is no list of 1 to %d sizes; 8,8,16K is", option, text, PARTITIONS_MAX);
}

int heap_trace(const struct verb *one, int argc, char **argv)
{
        enum wharf_heap_policy policy = WHARF_HEAP_BUDDY;
        uint64_t size = 128, unit = 0;
        struct partitions parts = {.sizes = {8, 8, 16, 32, 64}};
        bool is_demo = false, json = false;
        char *svg = NULL;
        const struct option_spec options[] = {
                {"policy", 0, OPTION_CALL, &policy, "P", "buddy (the default), first, next, best, worst or fixed",
                 .take = take_policy},
                {"size", 0, OPTION_CALL, &size, "N", "how much memory, up to 64M; default 128", .take = take_size},
                {"unit", 0, OPTION_CALL, &unit, "N", "the smallest frame; default 8 for buddy, otherwise 1",
                 .take = take_size},
                {"partitions", 0, OPTION_CALL, &parts, "N,N,...", "for fixed: the size of each",
                 .take = take_partitions},
                {"demo", 0, OPTION_FLAG, &is_demo, NULL, "the textbook's run instead of a script"},
                {"json", 0, OPTION_FLAG, &json, NULL, "print JSON"},
                {"svg", 0, OPTION_TEXT, &svg, "FILE", "also draw the steps into a file"},
                {0},
        };
        const struct verb *v = &verb_heap;
        int read = options_read(one, argc, argv, options);
        if (read != OPTIONS_GO_ON)
                return read;
        if (argc - optind > 1 || (is_demo && argc > optind))
                return verb_usage(one);
        uint64_t *sizes = parts.sizes;
        uint32_t n_partitions = parts.n;

        bool fits = policy != WHARF_HEAP_BUDDY && policy != WHARF_HEAP_FIXED;
        struct wharf_heap_opts o = {
                .size = sizeof o,
                .policy = policy,
                .unit_bytes = (uint32_t)(unit                         ? unit
                                         : policy == WHARF_HEAP_BUDDY ? 8
                                                                      : 1),
                .flags = fits                         ? WHARF_HEAP_OUTSIDE
                         : policy == WHARF_HEAP_BUDDY ? WHARF_HEAP_NO_CACHE
                                                      : 0,
                .owners_max = 1,
                .waiters_max = 1,
        };
        if (policy != WHARF_HEAP_FIXED) {
                o.managed_bytes = size / o.unit_bytes * o.unit_bytes;
        } else if (!n_partitions && size != 128) { /* five of one kind, unless told; for 128 the sizes above */
                o.managed_bytes = size;
                o.n_partitions = 4;
        } else {
                o.n_partitions = n_partitions ? n_partitions : 5;
                o.partition_bytes = sizes;
        }
        struct run t = {.policy = policy, .unit_bytes = o.unit_bytes};
        int r = heap_make(&o, &t.mem);
        if (r < 0)
                return verb_fail(v, EXIT_USAGE, "no such heap: %s in units of %" PRIu32 " bytes: %s",
                                 wharf_heap_policy_name(policy), o.unit_bytes, strerror(-r));
        struct wharf_heap_figures f;
        wharf_heap_figures(t.mem.heap, &f);
        t.size = f.managed_bytes;

        const char *path = optind < argc ? argv[optind] : "-";
        FILE *in = is_demo             ? fmemopen((void *)(uintptr_t)demo, sizeof demo - 1, "r")
                   : strcmp(path, "-") ? fopen(path, "re")
                                       : stdin;
        if (!in) {
                r = errno;
                run_done(&t);
                return verb_fail(v, verb_exit_code(r), "%s: %s", path, strerror(r));
        }
        int code = run_script(&t, v, in);
        if (in != stdin)
                fclose(in);
        if (code == EXIT_DONE) {
                if (json)
                        print_json(&t);
                else
                        print_text(&t);
                if (svg && (r = write_svg(&t, svg)) < 0)
                        code = verb_fail(v, EXIT_REFUSED, "%s: %s", svg, strerror(-r));
        }
        run_done(&t);
        return code;
}
