/*
 * options - what the options of a verb are, in a table, and how they are read: one place for words about wrong ones.
 */
#ifndef WHARF_TOOL_OPTIONS_H
#define WHARF_TOOL_OPTIONS_H

#include "verb.h"

enum option_kind {
        OPTION_FLAG,     /* bool *: --NAME sets it */
        OPTION_TEXT,     /* char ** */
        OPTION_DURATION, /* int64_t *, ns */
        OPTION_SIZE,     /* uint64_t *, bytes */
        OPTION_COUNT,    /* uint64_t *, from min to max */
        OPTION_CAPACITY, /* uint32_t *: what wharf_port_opts.capacity_records takes */
};

struct option_spec {
        const char *name; /* without --; the table ends with NULL. --help is in every table */
        char letter;      /* of the short form, or 0 */
        enum option_kind kind;
        void *ret; /* written when the option is there */
        uint64_t min, max;
};

/* The answer of a verb that is to go on, with `optind` at what is no option; otherwise it is an exit code. */
enum { OPTIONS_GO_ON = -1, OPTIONS_MAX = 16 };
int options_read(const struct verb *v, int argc, char **argv, const struct option_spec *table);

/* Values of options; on failure they have been reported and the answer is false. */
bool option_duration(const struct verb *v, const char *option, const char *text, int64_t *ret_ns);
bool option_size(const struct verb *v, const char *option, const char *text, uint64_t *ret_bytes);
bool option_count(const struct verb *v, const char *option, const char *text, uint64_t min, uint64_t max,
                  uint64_t *ret);
/* A number of messages, "zero" or "unbounded". */
bool option_capacity(const struct verb *v, const char *option, const char *text, uint32_t *ret);
/* What getopt_long() answered '?' or ':' for, in one line; returns EXIT_USAGE. */
int option_bad(const struct verb *v, char **argv);

#endif
