/*
 * keeper - holds what a wharfd needs to go on after its death, and starts the next one.
 *
 * For a wharfd that no service manager started: a process that does what one would do, and nothing else. It holds
 * descriptors under names, as it is told over a socket pair (store.h says in which words), starts the server, hands it
 * all of them when it asks, and starts another one when it was killed. It never looks into what it holds, never
 * allocates for anybody but its own server, and has no other input; so it has nothing to die of.
 *
 * Always true:
 *   H1  A server that ends by itself after it said READY=1 ends the keeper, with its exit status: it has left. One that
 *       dies by a signal is replaced, unless it was told to end; and so is one that ends with WH_KEEPER_AGAIN, which
 *       has handed over another listening socket.
 *   H2  What the last server sent before its death is taken before the next one starts (store.J3).
 *   H3  When the first server cannot be started, or ends before it says READY=1, the keeper passes that on as its
 *       answer. Later ones are tried again, after pauses that grow, and so are those that die at once. After
 *       RESTARTS_MAX of these in a row the keeper lets go of everything, as if both had been killed, and tasks register
 *       again with the wharfd that they start. Only servers that somebody else killed (SIGKILL) are replaced however
 *       often.
 *   H4  What is held goes to a server in parts, each when the server asks for it: few descriptors are in flight, and
 *       both processes need no more than one for each that is held. A server that meets its own limit asks again later.
 *   H5  What cannot be held is said (WHARF_UNHELD), and some descriptors are always left to start a server with.
 */
#ifndef WH_WHARFD_KEEPER_H
#define WH_WHARFD_KEEPER_H

#include "wharfd/store.h"

/* A server's exit status: start another one, with all that is held; nothing can go on, so end with status 1. */
enum { WH_KEEPER_AGAIN = 75, WH_KEEPER_END = 76 };

struct wh_keeper_ops {
        /*
         * Start a server with these descriptors, and `notify` as the socket to speak to the keeper. Its pid, or -errno.
         */
        pid_t (*start)(void *arg, const struct wh_given *given, unsigned n, int notify);
        /*
         * `stop_fd` is readable: do what is to be done about it. `server` is the pid, or 0 between two servers. True:
         * it is to end, for good.
         */
        bool (*signalled)(void *arg, pid_t server);
        /* The server said something else than what to hold: READY=1. May be NULL. */
        void (*said)(void *arg, const char *text);
        void *arg;
};

/*
 * Keep until the server has left: its exit status, or a negative errno. `given` is what each is started with, and stays
 * the caller's. What the server hands over under the name of one of these takes its place, at the same number.
 */
int wh_keeper_run(const struct wh_keeper_ops *ops, const struct wh_given *given, unsigned n, int stop_fd);

#endif
