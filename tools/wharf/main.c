/*
 * wharf - the command. `wharf help` lists the verbs; each is a file beside this one.
 */
#include "service/domain.h"
#include "verb.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern const struct verb verb_bench, verb_call, verb_doctor, verb_heap, verb_ls, verb_ps, verb_recv, verb_run,
        verb_send, verb_serve, verb_shm;
extern const struct verb *const verbs[];
const struct verb *const verbs[] = {
        &verb_ls,  &verb_ps,  &verb_send, &verb_recv,  &verb_call,   &verb_serve,
        &verb_run, &verb_shm, &verb_heap, &verb_bench, &verb_doctor, NULL,
};

static int help(FILE *to)
{
        fprintf(to, "usage: wharf [--domain DIR | --system] VERB ...\n\n");
        for (const struct verb *const *v = verbs; *v; v++)
                fprintf(to, "  %-9s %s\n", (*v)->name, (*v)->summary);
        fprintf(to, "\n`wharf VERB --help` says how to call one; man wharf(1) has the rest.\n");
        return to == stdout ? EXIT_DONE : EXIT_USAGE;
}

int main(int argc, char **argv)
{
        int fd; /* what a verb opens must never become its standard input or output */
        while ((fd = open("/dev/null", O_RDWR)) >= 0 && fd <= 2)
                ;
        close(fd);
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
                return help(stdout);
        if (!strcmp(argv[1], "--version")) {
                puts("wharf " WHARF_VERSION);
                return EXIT_DONE;
        }
        for (const struct verb *const *v = verbs; *v; v++)
                if (!strcmp(argv[1], (*v)->name))
                        return (*v)->run(*v, argc - 1, argv + 1);
        return verb_fail(NULL, EXIT_USAGE, "there is no verb '%s'; `wharf help` lists them", argv[1]);
}
