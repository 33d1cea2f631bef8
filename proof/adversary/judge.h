/*
 * judge - what the services and wharfd hold: before the adversary came, while it goes on, and when it is dead.
 *
 * Always true: it asks, and changes nothing. A service takes stock of itself, since only it knows its links; wharfd is
 * looked at from outside.
 */
#ifndef ADVERSARY_JUDGE_H
#define ADVERSARY_JUDGE_H

#include "oracle.h"

/* Who holds: PEER_V, PEER_R and, in a domain, PEER_W. */
struct holdings {
        int n;
        struct stock stock[PROGRAM_PEERS];
};

/* Has an honest party ended, which none does unasked? It is said once. */
bool judge_somebody_fell(void);

/* Of all that are there. False where one does not answer. */
bool judge_before(const struct program *p, struct holdings *ret);
/* Once in a while, as it goes on: something is left for themselves. `looks`: how often it was asked before. */
void judge_meanwhile(const struct program *p, const struct holdings *before, unsigned looks);
/* The adversary is dead: they come to hold what they held. Waits for that, but not for long. */
void judge_after(const struct holdings *before);

#endif
