#include "options.h"

#include "wharf/port.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

bool option_duration(const struct verb *v, const char *option, const char *text, int64_t *ret_ns)
{
        if (parse_duration_ns(text, ret_ns))
                return true;
        verb_fail(v, EXIT_USAGE, "%s: '%s' is no duration; 250ms and 2s are", option, text);
        return false;
}

bool option_size(const struct verb *v, const char *option, const char *text, uint64_t *ret_bytes)
{
        if (parse_size(text, ret_bytes) && *ret_bytes >= 1 && *ret_bytes <= (uint64_t)1 << 40)
                return true;
        verb_fail(v, EXIT_USAGE, "%s: '%s' is no size between 1 and 1024G; 64K and 10M are", option, text);
        return false;
}

bool option_count(const struct verb *v, const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
        char *end;
        errno = 0;
        unsigned long long n = strtoull(text, &end, 10);
        if (*text >= '0' && *text <= '9' && !errno && !*end && n >= min && n <= max) {
                *ret = n;
                return true;
        }
        verb_fail(v, EXIT_USAGE, "%s: '%s' is no number between %llu and %llu", option, text, (unsigned long long)min,
                  (unsigned long long)max);
        return false;
}

bool option_capacity(const struct verb *v, const char *option, const char *text, uint32_t *ret)
{
        enum { CAPACITY_MAX = 65536 };
        uint64_t n = 0;
        if (!strcmp(text, "zero"))
                *ret = WHARF_RENDEZVOUS;
        else if (!strcmp(text, "unbounded"))
                *ret = WHARF_UNBOUNDED;
        else if (*text >= '1' && *text <= '9' && strlen(text) < 6 && (n = strtoull(text, NULL, 10)) <= CAPACITY_MAX &&
                 strspn(text, "0123456789") == strlen(text))
                *ret = (uint32_t)n;
        else
                return verb_fail(v, false, "%s: '%s' is none of 1 to %d, zero and unbounded", option, text,
                                 CAPACITY_MAX);
        return true;
}

/* What getopt_long() did not understand, in one line. A short option may stand in the middle of a word. */
static int option_bad(const struct verb *v, char **argv, bool value_missing)
{
        char letter[3] = {'-', (char)optopt, 0};
        const char *word = argv[optind - 1];
        bool is_long = !strncmp(word, "--", 2) && (!optopt || optopt > UCHAR_MAX || strchr(word, '='));
        const char *why = value_missing       ? "its value is missing"
                          : is_long && optopt ? "it takes no value"
                                              : "no such option";
        return verb_fail(v, EXIT_USAGE, "'%s': %s; usage: %s%s%s %s", is_long ? word : letter, why, program_name,
                         v->name ? " " : "", v->name ? v->name : "", v->args);
}

static bool option_take(const struct verb *v, const struct option_spec *o)
{
        char name[40];
        snprintf(name, sizeof name, "--%s", o->name);
        switch (o->kind) {
        case OPTION_FLAG:
                *(bool *)o->ret = true;
                return true;
        case OPTION_TEXT:
                *(char **)o->ret = optarg;
                return true;
        case OPTION_DURATION:
                return option_duration(v, name, optarg, o->ret);
        case OPTION_SIZE:
                return option_size(v, name, optarg, o->ret);
        case OPTION_COUNT:
                return option_count(v, name, optarg, o->min, o->max, o->ret);
        case OPTION_CAPACITY:
                return option_capacity(v, name, optarg, o->ret);
        case OPTION_CALL:
                return o->take(v, name, o->value ? optarg : NULL, o->ret);
        }
        return false;
}

/* The page of the manual of `wharf shm create` is that of `wharf shm`. */
static void print_page(const struct verb *v)
{
        if (v->name)
                printf("\nman wharf-%.*s(1) has the rest.\n", (int)strcspn(v->name, " "), v->name);
        else
                printf("\nman %s(8) has the rest.\n", program_name);
}

static void print_option(char letter, const char *name, const char *value, const char *help)
{
        char text[64];
        snprintf(text, sizeof text, "--%s%s%s", name, value ? " " : "", value ? value : "");
        if (letter)
                printf("  -%c, %-22s %s\n", letter, text, help);
        else
                printf("      %-22s %s\n", text, help);
}

static int help(const struct verb *v, const struct option_spec *table)
{
        printf("usage: %s%s%s %s\n\n%s\n\n", program_name, v->name ? " " : "", v->name ? v->name : "", v->args,
               v->summary);
        for (const struct option_spec *o = table; o->name; o++)
                print_option(o->letter, o->name, o->value, o->help);
        print_option('h', "help", NULL, "say this");
        print_page(v);
        return EXIT_DONE;
}

int options_read(const struct verb *v, int argc, char **argv, const struct option_spec *table)
{
        enum { FIRST = 256 }; /* above every letter; what getopt_long() answers for the table's entry 0 */
        struct option longs[OPTIONS_MAX + 2] = {{"help", no_argument, NULL, 'h'}};
        char shorts[2 * OPTIONS_MAX + 8], *at = shorts;
        int n = 0, c;
        if (v->stops)
                *at++ = '+';
        *at++ = ':'; /* so that a value that is missing is told from an option that is unknown */
        *at++ = 'h';
        for (; n < OPTIONS_MAX && table[n].name; n++) {
                longs[n + 1] = (struct option){table[n].name, table[n].value ? required_argument : no_argument, NULL,
                                               FIRST + n};
                if (table[n].letter)
                        *at++ = table[n].letter;
                if (table[n].letter && table[n].value)
                        *at++ = ':';
        }
        *at = 0;
        opterr = 0;
        optind = 0; /* from the beginning, whatever was read before */
        while ((c = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
                int i = c - FIRST;
                if (c == 'h')
                        return help(v, table);
                for (int k = 0; c < FIRST && k < n; k++)
                        if (c == table[k].letter)
                                i = k;
                if (i < 0)
                        return option_bad(v, argv, c == ':');
                if (!option_take(v, &table[i]))
                        return EXIT_USAGE;
        }
        return OPTIONS_GO_ON;
}

static int commands_usage(const struct verb *v, FILE *to, const struct subverb *commands)
{
        for (const struct subverb *c = commands; c->name; c++)
                fprintf(to, "%s wharf %s %s %s\n", c == commands ? "usage:" : "      ", v->name, c->name, c->args);
        if (to == stderr)
                return EXIT_USAGE;
        printf("\n%s\n\n", v->summary);
        for (const struct subverb *c = commands; c->name; c++)
                printf("  %-9s %s\n", c->name, c->summary);
        printf("\n`wharf %s COMMAND --help` explains its options.", v->name);
        print_page(v);
        return EXIT_DONE;
}

int subverbs_run(const struct verb *v, int argc, char **argv, const struct subverb *commands)
{
        if (argc == 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")))
                return commands_usage(v, stdout, commands);
        if (argc < 2)
                return commands_usage(v, stderr, commands);
        for (const struct subverb *c = commands; c->name; c++) {
                char name[32];
                if (strcmp(argv[1], c->name) != 0)
                        continue;
                snprintf(name, sizeof name, "%s %s", v->name, c->name);
                struct verb one = {.name = name, .args = c->args, .summary = c->summary};
                return c->run(&one, argc - 1, argv + 1);
        }
        return verb_fail(v, EXIT_USAGE, "there is no command '%s'; `wharf %s --help` lists them", argv[1], v->name);
}
