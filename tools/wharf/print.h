/*
 * print - what verbs print on standard output: tables, JSON, and a note where there is nothing.
 *
 * A table is as wide as its contents, for whatever reads it. On a terminal it keeps to the terminal's width: what may
 * be cut is cut, and colours help. Every cell goes through text_escape().
 */
#ifndef WHARF_TOOL_PRINT_H
#define WHARF_TOOL_PRINT_H

#include "options.h"

#include <json.h>

enum { COLUMN_RIGHT = 1, COLUMN_CUT = 2 /* on a terminal that is too narrow */ };
struct column {
        const char *name;
        unsigned flags, drop; /* on a terminal that is too narrow all the same, 1 is left out first, then 2; 0 never */
};
enum colour { PLAIN, GOOD, WARNING, BAD };

struct table;
/* The columns end with a NULL name, and outlive the table. */
struct table *table_new(const struct column *columns);
/* The next cell; a new line begins when one is full. */
__attribute__((format(printf, 3, 4))) void table_cell(struct table *t, enum colour colour, const char *fmt, ...);
/* Prints, and frees. Without any line it prints nothing. The answer is an exit code. */
int table_print(const struct verb *v, struct table *t);

/*
 * A line in the form of text_escape(). On a terminal it is broken at spaces, or behind a slash, and goes on `indent`
 * columns in.
 */
void print_wrapped(size_t indent, const char *text);

/* Around a word on standard output; "" where there are to be no colours. */
const char *colour_on(enum colour colour);
const char *colour_off(void);

/* For the option tables: --color=auto|always|never. NO_COLOR in the environment is as never, where auto holds. */
bool option_colour(const struct verb *v, const char *option, const char *text, void *unused);
#define COLOUR_OPTION                                                                                        \
        {                                                                                                    \
                "color", 0, OPTION_CALL, NULL, "WHEN", "auto (on a terminal; the default), always or never", \
                        .take = option_colour                                                                \
        }

/* How a process is known, an enum wharf_known: one word. */
const char *known_word(uint32_t known);

/* A string in the form of text_escape(). */
json_object *json_shown(const char *name);
/* Prints and frees. `pretty`: on several lines. */
void json_out(json_object *o, bool pretty);

#endif
