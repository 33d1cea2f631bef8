/*
 * verb - what `wharf VERB ...` is made of: one file a verb, one entry in the table of main.c.
 *
 * Results go to standard output, everything else to standard error in one line: what, which, why.
 */
#ifndef WHARF_TOOL_VERB_H
#define WHARF_TOOL_VERB_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/*
 * Exit codes: one table for every verb and for wharfd, which wharf(1) prints. 128 + N is what a shell says of a command
 * that signal N ended.
 */
enum {
        EXIT_DONE = 0,
        EXIT_REFUSED = 1,
        EXIT_USAGE = 2,
        EXIT_NOT_FOUND = 3,
        EXIT_DEADLOCK = 3, /* of `wharf ps` alone */
        EXIT_TIMED_OUT = 4,
};

struct verb {
        const char *name;                                           /* NULL for wharfd, which has no verbs */
        const char *args;                                           /* what follows the name in a usage line */
        const char *summary;                                        /* one line for `wharf help` */
        int (*run)(const struct verb *self, int argc, char **argv); /* argv[0] is the verb's name */
        bool stops; /* what follows the first argument is for another command, options included */
};

extern const char *program_name; /* "wharf", or what main() says */

/*
 * What others have chosen - names of segments, ports, programs and users, paths, the texts of a peer - is printed in
 * one form everywhere, in tables, errors and JSON: a backslash as \\, and each byte of what is no UTF-8, of control
 * characters and of characters that are invisible or turn the direction of writing, as \xNN. So nothing that is
 * printed moves a cursor or begins a line, all of it is UTF-8, and undoing \\ and \xNN gives back what it was.
 */
enum {
        TEXT_LINES = 1, /* several lines of text rather than a name: newlines, tabs and backslashes stay */
};
/* free() it; NULL: no memory. */
char *text_escape(const void *bytes, size_t len, unsigned flags);
/* The same for printf(): good until eight more were asked for. */
const char *shown(const char *name);
/* The next character of UTF-8: its length, or 0 where there is none. Shortest form only, no surrogates. */
size_t utf8_next(const uint8_t *s, size_t len, uint32_t *ret);

/* Formats, and prints all of it in that form: what goes in is raw. */
__attribute__((format(printf, 2, 0))) void text_vprint(FILE *f, const char *fmt, va_list ap);
/* Prints "wharf VERB: message" and a newline on standard error, in that form, and returns `code`. */
__attribute__((format(printf, 3, 4))) int verb_fail(const struct verb *v, int code, const char *fmt, ...);
/* Prints the usage line on standard error and returns EXIT_USAGE. */
int verb_usage(const struct verb *v);
/* The exit code that fits a negative errno of the library. */
int verb_exit_code(int err);

/*
 * The standard descriptors that are closed are opened, so that nothing else gets their numbers, but reading from or
 * writing to them still fails. Programs that are started get them closed as they were. The answer is an exit code.
 */
int standard_open(void);
/*
 * Can anything be written to standard output, as far as can be known before? Asked before something is taken that would
 * be lost. Otherwise this is said, and the answer is EXIT_REFUSED.
 */
int verb_output_ready(const struct verb *v);
/* What is wrong with standard output or input, in words. */
const char *standard_error(int err);
/* Flush and close standard output, last of all. `code`, or EXIT_REFUSED after saying what is wrong. */
int verb_finish(const struct verb *v, int code);

/*
 * A duration with its unit (250ms, 2s, 1m, 500us, 10ns); false when malformed or without a unit.
 */
bool parse_duration_ns(const char *text, int64_t *ret_ns);
/* A size in bytes with an optional K, M or G (powers of 1024). */
bool parse_size(const char *text, uint64_t *ret_bytes);
/* "1.5 MiB" and the like, into a buffer of at least 16 bytes, which is returned. */
const char *format_size(uint64_t bytes, char *buf);

#endif
