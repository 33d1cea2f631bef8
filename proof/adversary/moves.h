/* moves - the adversary: a process that does what a program says. */
#ifndef ADVERSARY_MOVES_H
#define ADVERSARY_MOVES_H

#include "oracle.h"

/*
 * In a process of its own, which is the first of a group and has its own user by now. `path` is where services listen.
 */
_Noreturn void adversary_run(const struct program *p, const char *const path[PROGRAM_PEERS], struct states *states);

#endif
