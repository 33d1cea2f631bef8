#include "print.h"

#include "wharf/message.h"
#include "wharf/task.h"

#include <errno.h>
#include <libsmartcols.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <wchar.h>

static enum { AUTO, ALWAYS, NEVER } when;

struct cell {
        char *text;
        enum colour colour;
};

struct table {
        const struct column *columns;
        struct cell *cells; /* line by line */
        size_t n_columns, n_cells, room;
        bool failed; /* some memory was not there */
};

/* ---- colours ---- */

bool option_colour(const struct verb *v, const char *option, const char *text, void *unused)
{
        if (!strcmp(text, "auto"))
                when = AUTO;
        else if (!strcmp(text, "always"))
                when = ALWAYS;
        else if (!strcmp(text, "never"))
                when = NEVER;
        else
                return verb_fail(v, false, "%s: '%s' is none of auto, always and never", option, text);
        return true;
}

static bool coloured(void)
{
        const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
        if (when != AUTO)
                return when == ALWAYS;
        return isatty(STDOUT_FILENO) && !(no && *no) && !(term && !strcmp(term, "dumb"));
}

static const char *const colours[] = {[PLAIN] = "", [GOOD] = "\033[32m", [WARNING] = "\033[33m", [BAD] = "\033[31m"};

const char *colour_on(enum colour colour)
{
        return coloured() ? colours[colour] : "";
}

const char *colour_off(void)
{
        return coloured() ? "\033[0m" : "";
}

/* ---- tables ---- */

/* Of the terminal; 0 where there is none. */
static size_t width(void)
{
        struct winsize w = {0};
        if (!isatty(STDOUT_FILENO))
                return 0;
        if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col)
                return w.ws_col;
        const char *columns = getenv("COLUMNS");
        int n = columns ? atoi(columns) : 0;
        return n > 0 && n < 10000 ? (size_t)n : 80;
}

struct table *table_new(const struct column *columns)
{
        struct table *t = calloc(1, sizeof *t);
        if (!t)
                return NULL;
        t->columns = columns;
        while (columns[t->n_columns].name)
                t->n_columns++;
        return t;
}

void table_cell(struct table *t, enum colour colour, const char *fmt, ...)
{
        va_list ap;
        char *text = NULL;
        if (!t || t->failed)
                return;
        if (t->n_cells == t->room) {
                size_t room = t->room ? t->room * 2 : 64;
                struct cell *more = realloc(t->cells, room * sizeof *more);
                t->failed = !more;
                if (!more)
                        return;
                t->cells = more;
                t->room = room;
        }
        va_start(ap, fmt);
        int len = vasprintf(&text, fmt, ap);
        va_end(ap);
        char *safe = len < 0 ? NULL : text_escape(text, (size_t)len, 0);
        if (len >= 0)
                free(text);
        t->failed = !safe;
        t->cells[t->n_cells] = (struct cell){safe, colour};
        t->n_cells += !!safe;
}

/* How many columns of a terminal a text takes that text_escape() has made. */
static size_t columns_of(const char *text)
{
        size_t n = 0;
        wchar_t c;
        for (size_t len = strlen(text), k; len; text += k, len -= k) {
                k = (size_t)mbrtowc(&c, text, len, &(mbstate_t){0});
                if (!k || k > len) /* this C library knows no UTF-8 */
                        k = 1, c = L'?';
                n += wcwidth(c) > 0 ? (size_t)wcwidth(c) : 0;
        }
        return n;
}

/* No more columns than that; what is missing is told by three dots in one. */
static void cut(char *text, size_t max)
{
        static const char dots[] = "\u2026";
        size_t n = 0, k;
        wchar_t c;
        char *at = text;
        if (columns_of(text) <= max)
                return;
        for (; *at; at += k) {
                k = (size_t)mbrtowc(&c, at, strlen(at), &(mbstate_t){0});
                if (!k || k > strlen(at))
                        k = 1, c = L'?';
                size_t w = wcwidth(c) > 0 ? (size_t)wcwidth(c) : 0;
                if (n + w + 1 > max)
                        break;
                n += w;
        }
        strcpy(at, strlen(at) + 1 >= sizeof dots ? dots : "~"); /* no longer than what stood there */
}

/*
 * How wide each column may be on a terminal of `all`: columns that have an order in which they are left out go first,
 * as long as those that may be cut would get less than they are worth; then the widest of these gives way.
 */
static void fit(const struct table *t, size_t all, size_t *widths)
{
        enum { WORTH = 16, LEAST = 4 };
        for (;;) {
                size_t sum = 0, drop = t->n_columns;
                for (size_t i = 0; i < t->n_columns; i++) {
                        const struct column *c = &t->columns[i];
                        sum += widths[i] ? (c->flags & COLUMN_CUT && widths[i] > WORTH ? WORTH : widths[i]) + 2 : 0;
                        if (widths[i] && c->drop && (drop == t->n_columns || c->drop < t->columns[drop].drop))
                                drop = i;
                }
                if (sum <= all + 2 || drop == t->n_columns)
                        break;
                widths[drop] = 0;
        }
        for (;;) {
                size_t sum = 0, widest = t->n_columns;
                for (size_t i = 0; i < t->n_columns; i++) {
                        sum += widths[i] ? widths[i] + 2 : 0;
                        if (t->columns[i].flags & COLUMN_CUT && widths[i] > LEAST &&
                            (widest == t->n_columns || widths[i] > widths[widest]))
                                widest = i;
                }
                if (sum <= all + 2 || widest == t->n_columns)
                        return;
                widths[widest]--;
        }
}

/* 0 or a negative errno. */
static int lay_out(const struct table *t, struct libscols_table *to, const size_t *widths)
{
        for (size_t i = 0; i < t->n_columns; i++) {
                const struct column *c = &t->columns[i];
                if (!widths[i])
                        continue;
                char name[32];
                snprintf(name, sizeof name, "%s", c->name);
                cut(name, widths[i]);
                struct libscols_column *made =
                        scols_table_new_column(to, name, 0, c->flags & COLUMN_RIGHT ? SCOLS_FL_RIGHT : 0);
                if (!made || (coloured() && scols_cell_set_color(scols_column_get_header(made), "\033[1m") < 0))
                        return -ENOMEM;
        }
        for (size_t at = 0; at + t->n_columns <= t->n_cells; at += t->n_columns) {
                struct libscols_line *line = scols_table_new_line(to, NULL);
                for (size_t i = 0, n = 0; i < t->n_columns; i++) {
                        struct cell *c = &t->cells[at + i];
                        if (!line)
                                return -ENOMEM;
                        if (!widths[i])
                                continue;
                        cut(c->text, widths[i]);
                        if (scols_line_set_data(line, n, c->text) < 0 ||
                            (coloured() && c->colour != PLAIN &&
                             scols_cell_set_color(scols_line_get_cell(line, n), colours[c->colour]) < 0))
                                return -ENOMEM;
                        n++;
                }
        }
        return 0;
}

static int table_lines(const struct table *t)
{
        struct libscols_table *to = scols_new_table();
        size_t *widths = calloc(t->n_columns, sizeof *widths);
        int r = to && widths ? 0 : -ENOMEM;
        for (size_t i = 0; r == 0 && i < t->n_columns; i++)
                widths[i] = strlen(t->columns[i].name);
        for (size_t i = 0, at = 0; r == 0 && i < t->n_cells; i++, at = at + 1 < t->n_columns ? at + 1 : 0) {
                size_t n = columns_of(t->cells[i].text), *w = &widths[at];
                *w = n > *w ? n : *w;
        }
        if (r == 0 && width())
                fit(t, width(), widths);
        if (r == 0) {
                scols_table_set_column_separator(to, "  ");
                scols_table_enable_noencoding(to, 1); /* text_escape() has done it */
                scols_table_enable_colors(to, coloured());
                scols_table_set_termforce(to, SCOLS_TERMFORCE_NEVER); /* fit() has done it, and without guesses */
                r = lay_out(t, to, widths);
        }
        if (r == 0)
                r = scols_print_table(to);
        scols_unref_table(to);
        free(widths);
        return r;
}

int table_print(const struct verb *v, struct table *t)
{
        bool good = t && !t->failed && (!t->n_cells || table_lines(t) == 0);
        for (size_t i = 0; t && i < t->n_cells; i++)
                free(t->cells[i].text);
        if (t)
                free(t->cells);
        free(t);
        return good ? EXIT_DONE : verb_fail(v, EXIT_REFUSED, "the table: %s", wharf_strerror(-ENOMEM));
}

void print_wrapped(size_t indent, const char *text)
{
        const char *at = shown(text);
        size_t room = width() > indent + 20 ? width() - indent : SIZE_MAX;
        while (strlen(at) > room) {
                size_t n = room;
                while (n && at[n] != ' ')
                        n--;
                if (!n) /* one long word: a path, most likely */
                        for (n = room; n && at[n - 1] != '/'; n--)
                                ;
                if (!n)
                        n = room;
                printf("%.*s\n%*s", (int)n, at, (int)indent, "");
                at += n + strspn(at + n, " ");
        }
        puts(at);
}

/* ---- JSON ---- */

json_object *json_shown(const char *name)
{
        return json_object_new_string(shown(name));
}

void json_out(json_object *o, bool pretty)
{
        const char *text = json_object_to_json_string_ext(
                o, (pretty ? JSON_C_TO_STRING_PRETTY : JSON_C_TO_STRING_PLAIN) | JSON_C_TO_STRING_NOSLASHESCAPE);
        puts(text ? text : "null"); /* out of memory: not what was asked for, and seen */
        json_object_put(o);
}

const char *known_word(uint32_t known)
{
        static const char *const words[] = {
                [WHARF_KNOWN_NOT] = "not",     [WHARF_KNOWN_OWN] = "own",   [WHARF_KNOWN_CONNECTED] = "connected",
                [WHARF_KNOWN_BOUND] = "bound", [WHARF_KNOWN_ONCE] = "once", [WHARF_KNOWN_TOLD] = "told",
        };
        return known < sizeof words / sizeof *words ? words[known] : words[WHARF_KNOWN_NOT];
}
