/*
 * wharf - the command. `wharf help` lists the verbs; each is a file beside this one.
 */
#include "verb.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

extern const struct verb verb_bench, verb_call, verb_doctor, verb_heap, verb_ls, verb_ps, verb_recv, verb_send,
        verb_serve, verb_shm;
extern const struct verb *const verbs[];
const struct verb *const verbs[] = {
        &verb_ls,  &verb_ps,   &verb_send,  &verb_recv,   &verb_call, &verb_serve,
        &verb_shm, &verb_heap, &verb_bench, &verb_doctor, NULL,
};

static int help(FILE *to)
{
        fprintf(to, "usage: wharf VERB ...\n\n");
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
