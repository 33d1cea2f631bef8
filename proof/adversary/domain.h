/*
 * domain - a wharfd of the case's own, for all users, whose rules let all own names of "app." and root alone the
 * others.
 *
 * As root it has a user of its own: wharfd has given up what lets root have any number of descriptors on their way, and
 * what other processes of root's have there is no affair of ours.
 */
#ifndef ADVERSARY_DOMAIN_H
#define ADVERSARY_DOMAIN_H

#include <stdbool.h>
#include <sys/types.h>

enum {
        DOMAIN_DESCRIPTORS = 512, /* wharfd has no more, so that a stranger could use them up */
};

/* Where it is, in `folder`, and whose. Once in a process, and the other when it is over. */
bool domain_place(const char *folder, uid_t uid);
void domain_place_gone(void);
const char *domain_path(void);
/* The socket that strangers connect to. */
const char *domain_socket(void);
/* Starts it, and waits until it serves. The server's process, or 0. */
pid_t domain_start(void);
/* Ends it, its keeper first, and removes what it leaves. */
void domain_end(void);
/* How many names and watches it has; it is asked by a process that ends then. */
unsigned domain_entries(void);
/* Is the server the one that was started? */
bool domain_goes_on(void);

#endif
