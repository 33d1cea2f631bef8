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
        OPTION_CALL,     /* take() is called; it says what is wrong, and its answer is whether all is well */
};

/*
 * One option, and all there is to say about it: --help, the usage errors and the completions for shells come from here,
 * and a test holds the man pages against it.
 */
struct option_spec {
        const char *name; /* without --; the table ends with NULL. --help is in every table */
        char letter;      /* of the short form, or 0 */
        enum option_kind kind;
        void *ret;         /* written when the option is there */
        const char *value; /* what its value is called; NULL for an option without one */
        const char *help;  /* one line: what it does, and its default */
        uint64_t min, max;
        bool (*take)(const struct verb *v, const char *option, const char *text, void *ret);
};

/*
 * The answer of a verb that is to go on, with `optind` at what is no option; otherwise it is an exit code. --help
 * prints the usage line, the summary and the table.
 */
enum { OPTIONS_GO_ON = -1, OPTIONS_MAX = 16 };
int options_read(const struct verb *v, int argc, char **argv, const struct option_spec *table);
/* A verb that is several commands: what --help prints of all of them. */
struct subverb {
        const char *name, *args, *summary;
        int (*run)(const struct verb *v, int argc, char **argv); /* argv[0] is the command's name */
};
/* Runs the command that argv[1] names, as a verb of its own. `commands` ends with a NULL name. */
int subverbs_run(const struct verb *v, int argc, char **argv, const struct subverb *commands);

/* Values of options; on failure they have been reported and the answer is false. */
bool option_duration(const struct verb *v, const char *option, const char *text, int64_t *ret_ns);
bool option_size(const struct verb *v, const char *option, const char *text, uint64_t *ret_bytes);
bool option_count(const struct verb *v, const char *option, const char *text, uint64_t min, uint64_t max,
                  uint64_t *ret);
/* A number of messages, "zero" or "unbounded". */
bool option_capacity(const struct verb *v, const char *option, const char *text, uint32_t *ret);

#endif
