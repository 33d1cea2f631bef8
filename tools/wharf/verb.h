/*
 * verb - what `wharf VERB ...` is made of: one file a verb, one entry in the table of main.c.
 *
 * Results go to standard output, everything else to standard error in one line: what, which, why.
 */
#ifndef WHARF_TOOL_VERB_H
#define WHARF_TOOL_VERB_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* Exit codes, as the man page lists them. */
enum {
        EXIT_DONE = 0,
        EXIT_REFUSED = 1,
        EXIT_USAGE = 2,
        EXIT_NOT_FOUND = 3,
        EXIT_TIMED_OUT = 4,
};

struct verb {
        const char *name;
        const char *args;                                           /* what follows the name in a usage line */
        const char *summary;                                        /* one line for `wharf help` */
        int (*run)(const struct verb *self, int argc, char **argv); /* argv[0] is the verb's name */
};

/* Prints "wharf VERB: message" on standard error and returns `code`. */
__attribute__((format(printf, 3, 4))) int verb_fail(const struct verb *v, int code, const char *fmt, ...);
/* Prints the usage line on standard error and returns EXIT_USAGE. */
int verb_usage(const struct verb *v);
/* The exit code that fits a negative errno of the library. */
int verb_exit_code(int err);

/*
 * A duration with its unit (250ms, 2s, 1m, 500us, 10ns); false when malformed or without a unit.
 */
bool parse_duration_ns(const char *text, int64_t *ret_ns);
/* A size in bytes with an optional K, M or G (powers of 1024). */
bool parse_size(const char *text, uint64_t *ret_bytes);
/* "1.5 MiB" and the like, into a buffer of at least 16 bytes, which is returned. */
const char *format_size(uint64_t bytes, char *buf);

#endif
