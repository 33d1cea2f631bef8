#include "explore.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int explore_main(const char *area, const struct explore *protocols, unsigned n, int argc, char **argv)
{
        bool quick = false, stop = false, bad = false;
        uint64_t seed = (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32, executions = 0;
        const char *only = NULL;
        unsigned done = 0, complete = 0;
        for (int i = 1; i < argc; i++) {
                quick |= !strcmp(argv[i], "--quick");
                stop |= !strcmp(argv[i], "--stop");
                if (!strncmp(argv[i], "--seed=", 7))
                        seed = strtoull(argv[i] + 7, NULL, 0);
                if (!strcmp(argv[i], "--only") && i + 1 < argc)
                        only = argv[++i];
        }
        for (unsigned i = 0; i < n && !(bad && stop); i++) {
                struct explore e = protocols[i];
                struct explored r;
                if (only && strcmp(only, e.name) != 0)
                        continue;
                if (!e.share)
                        e.share = 1;
                e.executions_max = (quick ? 30000 : 4000000) / e.share;
                e.executions_random = (quick ? 5000 : 250000) / e.share;
                explore_run(&e, seed, &r);
                done++;
                executions += r.executions;
                complete += r.complete;
                if (getenv("WHARF_TEST_VERBOSE"))
                        fprintf(stderr, "explore %s: %s: executions %" PRIu64 "%s\n", area, e.name, r.executions,
                                r.complete ? ", complete" : "");
                if (r.failed) {
                        bad = true;
                        fprintf(stderr, "explore %s: %s: %s\n    seed %" PRIu64 ", choices %s\n", area, e.name, r.why,
                                seed, r.replay);
                }
        }
        printf("explore %s: protocols %u, executions %" PRIu64 ", complete %u%s\n", area, done, executions, complete,
               bad ? ", FAILED" : "");
        return bad;
}
