/* shrink - a program that breaks a promise, made as short as it may be and still do so. */
#ifndef ADVERSARY_SHRINK_H
#define ADVERSARY_SHRINK_H

#include "program.h"

#include <stdbool.h>

/* Runs it and says whether that promise is broken; what depends on a race may need several runs. */
typedef bool shrink_fails(const struct program *p, const char *kind);

/* Until nothing more can be left out, or the time is over. */
void program_shrink(struct program *p, const char *kind, shrink_fails *fails, int64_t end_ns);

#endif
