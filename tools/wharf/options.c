#include "options.h"

#include "common.h"

#include <errno.h>
#include <getopt.h>
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

int option_bad(const struct verb *v, char **argv)
{
        /* A long option is where getopt_long() stopped; a short one may stand in the middle of a word. */
        if (optopt && !strchr(argv[optind - 1], '='))
                return verb_fail(v, EXIT_USAGE, "'%s': no such option, or its value is missing; usage: wharf %s %s",
                                 argv[optind - 1], v->name, v->args);
        return verb_fail(v, EXIT_USAGE, "'%s': no such option; usage: wharf %s %s", argv[optind - 1], v->name, v->args);
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
        }
        return false;
}

int options_read(const struct verb *v, int argc, char **argv, const struct option_spec *table)
{
        enum { FIRST = 256 }; /* above every letter; what getopt_long() answers for the table's entry 0 */
        struct option longs[OPTIONS_MAX + 2] = {{"help", no_argument, NULL, 'h'}};
        char shorts[2 * OPTIONS_MAX + 4] = "+h", *at = shorts + strlen(shorts);
        int n = 0, c;
        for (; n < OPTIONS_MAX && table[n].name; n++) {
                bool value = table[n].kind != OPTION_FLAG;
                longs[n + 1] = (struct option){table[n].name, value ? required_argument : no_argument, NULL, FIRST + n};
                if (table[n].letter)
                        *at++ = table[n].letter;
                if (table[n].letter && value)
                        *at++ = ':';
        }
        *at = 0;
        opterr = 0;
        while ((c = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
                int i = c - FIRST;
                if (c == 'h')
                        return verb_help(v);
                for (int k = 0; c < FIRST && k < n; k++)
                        if (c == table[k].letter)
                                i = k;
                if (i < 0)
                        return option_bad(v, argv);
                if (!option_take(v, &table[i]))
                        return EXIT_USAGE;
        }
        return OPTIONS_GO_ON;
}
