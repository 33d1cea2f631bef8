/*
 * world - one case: honest parties are started, the adversary does what the program says and dies, and what is true
 * then is compared with what was true before.
 *
 * Always true: each case has processes of its own, and all of them are gone when it is over, whatever happened. As root
 * the adversary has an ordinary user of its own, and so has the caller; the services are root's. As an ordinary user
 * all have the same one, and what holds between users only is not asked.
 */
#ifndef ADVERSARY_WORLD_H
#define ADVERSARY_WORLD_H

#include "oracle.h"

struct verdict {
        bool ran; /* the honest parties could be started */
        uint32_t n_violations;
        struct violation violation[VIOLATIONS_MAX];
        uint64_t moves;
        uint64_t calls[PROGRAM_PEERS]; /* honest ones, that were answered */
        int32_t result[PROGRAM_MOVES_MAX];
};

/* Once in each process that runs cases; `number` tells them apart. False when this machine lets it not. */
bool world_open(unsigned number, struct states *states);
void world_close(void);
void world_run(const struct program *p, struct verdict *ret);

/* Is there a violation of that kind? NULL: of any. */
bool verdict_has(const struct verdict *v, const char *kind);

#endif
