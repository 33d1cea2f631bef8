/*
 * wharf - the command. `wharf help` lists the verbs; each is a file beside this one.
 */
#include "names/domain.h"
#include "verb.h"

#include <locale.h>
#include <stdlib.h>
#include <string.h>

extern const struct verb verb_bench, verb_call, verb_doctor, verb_heap, verb_ls, verb_ps, verb_recv, verb_run,
        verb_send, verb_serve, verb_shm;
extern const struct verb *const verbs[];
const struct verb *const verbs[] = {
        &verb_ls,  &verb_ps,  &verb_send, &verb_recv,  &verb_call,   &verb_serve,
        &verb_run, &verb_shm, &verb_heap, &verb_bench, &verb_doctor, NULL,
};

static const struct verb *verb_find(const char *name)
{
        for (const struct verb *const *v = verbs; *v; v++)
                if (!strcmp(name, (*v)->name))
                        return *v;
        verb_fail(NULL, 0, "there is no verb '%s'; `wharf help` lists them", name);
        return NULL;
}

static int help(FILE *to)
{
        fprintf(to, "usage: wharf [--domain DIR | --system] VERB ...\n"
                    "       wharf help [VERB] | --version\n\n");
        for (const struct verb *const *v = verbs; *v; v++)
                fprintf(to, "  %-9s %s\n", (*v)->name, (*v)->summary);
        fprintf(to, "\n"
                    "      --domain DIR           the domain in that directory, an absolute path\n"
                    "      --system               the domain of the system\n"
                    "      --version              print the version\n"
                    "  -h, --help                 say this\n\n"
                    "`wharf VERB --help` explains a verb and its options; man wharf(1) has the rest.\n");
        return to == stdout ? EXIT_DONE : EXIT_USAGE;
}

/* `help`, or `help VERB`, which is `VERB --help`. */
static int help_asked(int argc, char **argv)
{
        static char option[] = "--help";
        if (argc == 2)
                return verb_finish(NULL, help(stdout));
        const struct verb *v = verb_find(argv[2]);
        if (!v)
                return EXIT_USAGE;
        if (argc > 3)
                return verb_fail(NULL, EXIT_USAGE, "help: '%s' is one argument too many", argv[3]);
        return verb_finish(v, v->run(v, 2, (char *[]){argv[2], option, NULL}));
}

int main(int argc, char **argv)
{
        if (standard_open() != EXIT_DONE)
                return EXIT_REFUSED;
        if (!setlocale(LC_CTYPE, "C.UTF-8")) /* what is printed does not depend on where it is printed */
                setlocale(LC_CTYPE, "");
        /* Before the verb: of which domain. The library asks the environment, once. */
        if (argc >= 2 && !strcmp(argv[1], "--system")) {
                setenv("WHARF_DOMAIN", wh_domain_system(), 1);
                argv++;
                argc--;
        } else if (argc >= 2 && !strncmp(argv[1], "--domain", 8) && (argv[1][8] == '=' || !argv[1][8])) {
                const char *dir = argv[1][8] ? argv[1] + 9 : argc >= 3 ? argv[2] : "";
                unsigned used = argv[1][8] ? 1 : 2;
                if (*dir != '/')
                        return verb_fail(NULL, EXIT_USAGE, "--domain: '%s' is not an absolute path", dir);
                setenv("WHARF_DOMAIN", dir, 1);
                argv += used;
                argc -= (int)used;
        }
        if (argc < 2)
                return help(stderr);
        if (!strcmp(argv[1], "help") || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
                return help_asked(argc, argv);
        if (!strcmp(argv[1], "--version")) {
                if (argc > 2)
                        return verb_fail(NULL, EXIT_USAGE, "--version: '%s' is one argument too many", argv[2]);
                puts("wharf " WHARF_VERSION);
                return verb_finish(NULL, EXIT_DONE);
        }
        if (argv[1][0] == '-')
                return verb_fail(NULL, EXIT_USAGE, "'%s': no such option; `wharf help` lists them", argv[1]);
        const struct verb *v = verb_find(argv[1]);
        return v ? verb_finish(v, v->run(v, argc - 1, argv + 1)) : EXIT_USAGE;
}
