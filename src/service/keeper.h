/*
 * keeper - holds what a wharfd needs to go on after its death, and starts the next one.
 *
 * For a wharfd that no service manager started: a process that does what one would do, and nothing else. It holds
 * descriptors under names, as it is told over a socket pair (store.h says in which words), starts the server with all
 * of them, and starts it again when it was killed. It never looks into what it holds, never allocates for anybody but
 * its own server, and has no other input; so it has nothing to die of.
 *
 * Always true:
 *   H1  A server that ends by itself ends the keeper, with its exit status: it has left, or said why it cannot serve.
 *       One that dies by a signal is replaced, unless it was told to end; and so is one that ends with
 *       WH_KEEPER_AGAIN, which has handed over another listening socket.
 *   H2  What the last server sent before its death is taken before the next one starts (J3).
 *   H3  A server that dies at once, RESTARTS_MAX times in a row, is not started any more: then everything is let go of,
 *       as if both had been killed, and tasks register again with whomever they start.
 */
#ifndef WH_SERVICE_KEEPER_H
#define WH_SERVICE_KEEPER_H

#include "service/store.h"

enum { WH_KEEPER_AGAIN = 75 }; /* a server's exit status: start another one, with all that is held */

struct wh_keeper_ops {
        /* Start a server with these descriptors, and `notify` as the socket to speak to the keeper. Its pid. */
        pid_t (*start)(void *arg, const struct wh_given *given, unsigned n, int notify);
        /* `stop_fd` is readable: do what is to be done about it. `server` is the pid. True: it is to end, for good. */
        bool (*signalled)(void *arg, pid_t server);
        /* The server said something else than what to hold: READY=1. May be NULL. */
        void (*said)(void *arg, const char *text);
        void *arg;
};

/*
 * Keep until the server has left: its exit status, or a negative errno. `given` is what it is started with, and stays
 * the caller's. What the server hands over under the name of one of these takes its place, at the same number.
 */
int wh_keeper_run(const struct wh_keeper_ops *ops, const struct wh_given *given, unsigned n, int stop_fd);

#endif
