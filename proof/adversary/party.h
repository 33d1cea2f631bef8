/*
 * party - the honest ones: two services and one that calls them, by the library as any program would use it.
 *
 * A service ("v" and "r" are the same) answers what it is asked with the same bytes. A message's id may ask for more:
 *
 *      2  keep the right in it, and say "notice: ..." to it
 *      3  a copy of the right that is kept
 *      4  call the right that is kept with "what: ..."; or (5) let its owner write the answer right into its memory
 *      6  a right to a new port of the service's
 *      7  give that port to the other service
 *      8  give a copy of the right that is kept to the other service, to keep
 *
 * Always true: it closes or drops all that it is given, takes care never to wait in close() itself, and writes down
 * what it says before it says it.
 */
#ifndef ADVERSARY_PARTY_H
#define ADVERSARY_PARTY_H

#include "oracle.h"

enum {
        ID_ECHO = 1,
        ID_KEEP = 2,
        ID_COPY = 3,
        ID_CALL = 4,
        ID_CALL_DIRECT = 5,
        ID_PORT = 6,
        ID_MOVE_PORT = 7,
        ID_PASS = 8,
        CALL_BYTES = 64,    /* what the caller sends */
        DESCRIPTORS = 1024, /* a service may have so many, unless the program says otherwise */
};

/* Mistakes that the engine must find: a party makes one, or none. */
enum toy {
        TOY_NONE,
        TOY_BELIEVES,    /* takes the message's own word for who sent it */
        TOY_SLOW,        /* spins behind its deadline */
        TOY_SLEEPS,      /* ... or sleeps */
        TOY_FORGETS_FD,  /* keeps what it is given */
        TOY_KEEPS_LINK,  /* keeps a right of its own to itself for each of some messages */
        TOY_ANSWERS_ILL, /* the caller's answer is another's, after a stranger has spoken */
        TOY_TELLS,       /* answers a stranger with what lies in its memory */
        TOY_CRASHES,
        TOYS
};
extern enum toy party_toy;

/*
 * In a process of their own; they end with it. `listener` is the socket of the service, `other` where the other one is.
 */
_Noreturn void party_service(enum party who, int listener, const char *other, const struct program *world);
_Noreturn void party_caller(const char *const path[PROGRAM_PEERS], const struct program *world);

#endif
