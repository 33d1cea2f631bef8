/*
 * matrix port: a hub and a peer, one of them in an environment, the other in none. A workload's name says which of the
 * two: `small` the peer, `small@hub` the hub, `small@both` both.
 */
#include "matrix/party.h"

#include <stdio.h>
#include <string.h>

static const char *const sides[] = {"", "@hub", "@both"};
enum { PEER = 0, HUB = 1, BOTH = 2, SIDES = 3 };

static const char *row_name(unsigned row)
{
        return envs[row].name;
}

static const char *work_name(unsigned work)
{
        static char name[64];
        snprintf(name, sizeof name, "%s%s", works[work / SIDES].name, sides[work % SIDES]);
        return name;
}

static bool wanted(const struct matrix_case *c)
{
        /* The quick tier tries both at once with every other workload; asked for by name, everything is tried. */
        return !c->quick || c->alone || c->work % SIDES != BOTH || (c->row + c->work / SIDES + c->seed) % 4 == 0;
}

static int run(const struct matrix_case *c)
{
        const struct env *e = &envs[c->row], *plain = &envs[0];
        const unsigned side = c->work % SIDES;
        return party_meet(c, side == PEER ? plain : e, side == HUB ? plain : e, &works[c->work / SIDES]);
}

int main(int argc, char **argv)
{
        party_executed(argc, argv);
        const struct matrix m = {.area = "port",
                                 .n_rows = n_envs,
                                 .n_works = n_works * SIDES,
                                 .row_name = row_name,
                                 .work_name = work_name,
                                 .wanted = wanted,
                                 .run = run,
                                 .program = MATRIX_WHARFD,
                                 .program_name = "wharfd"};
        return matrix_main(&m, argc, argv);
}
