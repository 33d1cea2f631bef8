#include "case.h"

#include <inttypes.h>
#include <sched.h>
#include <sys/mount.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int usage(const char *program)
{
        fprintf(stderr, "usage: %s [--quick|--full] [--stop] [--seed N] [--only OPERATION] [--case CASE] [--verbose]\n",
                program);
        return 2;
}

/* Named segments are the machine's: others make some at the same time, and perhaps of the same names. As root only. */
static void world_of_our_own(void)
{
        if (unshare(CLONE_NEWIPC | CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0)
                mount("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
}

int proof_main(const char *engine, const char *area, const struct proof_op *ops, int argc, char **argv)
{
        world_of_our_own();
        struct proof_args args = {.area = area, .seed = (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32};
        for (int i = 1; i < argc; i++) {
                if (!strcmp(argv[i], "--quick") || !strcmp(argv[i], "--full"))
                        args.quick = argv[i][2] == 'q';
                else if (!strcmp(argv[i], "--stop"))
                        args.stop = true;
                else if (!strncmp(argv[i], "--seed=", 7))
                        args.seed = strtoull(argv[i] + 7, NULL, 0);
                else if (!strcmp(argv[i], "--verbose"))
                        args.verbose = true;
                else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
                        args.seed = strtoull(argv[++i], NULL, 0);
                else if (!strcmp(argv[i], "--only") && i + 1 < argc)
                        args.only = argv[++i];
                else if (!strcmp(argv[i], "--case") && i + 1 < argc)
                        args.only_case = argv[++i];
                else
                        return usage(argv[0]);
        }
        struct proof_figures sum = {0};
        while (ops[args.n_ops].name)
                args.n_ops++;
        for (const struct proof_op *op = ops; op->name; op++) {
                if (args.only && strcmp(args.only, op->name))
                        continue;
                if (!strcmp(engine, "kill"))
                        proof_kill(&args, op, &sum);
                else if (!strcmp(engine, "hostile"))
                        proof_hostile(&args, op, &sum);
                else
                        proof_fail_calls(&args, op, &sum);
        }
        uint64_t good = sum.cases - sum.failures;
        if (!strcmp(engine, "kill"))
                printf("kill %s: operations %" PRIu64 ", kills survived %" PRIu64 ", distinct crash states %" PRIu64,
                       area, sum.operations, good, sum.states);
        else if (!strcmp(engine, "hostile"))
                printf("hostile %s: operations %" PRIu64 ", values tried %" PRIu64 ", loads overwritten %" PRIu64
                       ", double fetches %" PRIu64,
                       area, sum.operations, sum.values, sum.states, sum.double_fetches);
        else
                printf("fail %s: operations %" PRIu64 ", faults injected %" PRIu64 ", distinct calls %" PRIu64, area,
                       sum.operations, sum.values, sum.states);
        if (sum.failures)
                printf(", FAILED %" PRIu64, sum.failures);
        printf("\n");
        if (sum.failures)
                fprintf(stderr, "%s %s: seed %" PRIu64 "\n", engine, area, args.seed);
        return sum.failures || !sum.operations;
}
