/*
 * server - the table of names of one domain: what wharfd is.
 *
 * Always true:
 *   S1  An entry holds a send right to its port, and that right is watched: when the port is gone, so is the entry.
 *       Where the notice is still under way, whoever looks at the entry asks the right itself.
 *   S2  An entry belongs to the link that registered it. Only that link may take it back, and when the link does not
 *       take the answer to its REGISTER, the entry was never made.
 *   S3  Entries are sorted by name, and no two have the same.
 *   S4  A waiting lookup keeps the reply right and nothing else. It ends when the name appears, when its time is over,
 *       or when its asker is found dead.
 *   S5  No client can make the server wait: requests are received without waiting, and replies never block.
 *   S6  A task's page is kept as long as its process lives and the task is open, whoever has which link; it keeps
 *       nobody here, and whoever looks at the pages first lets go of the dead ones.
 */
#ifndef WH_SERVICE_SERVER_H
#define WH_SERVICE_SERVER_H

#include "wharf/task.h"

#include <stdbool.h>

struct wh_server;

/*
 * Serve the domain whose socket is `listen_fd`, which stays the caller's.
 * Errors: those of wharf_port_new() and wharf_port_listen()
 */
int wh_server_new(wharf_task *task, int listen_fd, struct wh_server **ret);
struct wh_server *wh_server_free(struct wh_server *s);

enum wh_server_end {
        WH_SERVER_STOPPED = 1, /* stop_fd became readable */
        WH_SERVER_IDLE = 2,    /* no name, no client, and none came for linger_ns */
};
/*
 * Serve until there is a reason to stop, which is returned. May be called again.
 * Errors: what the port cannot recover from
 */
int wh_server_run(struct wh_server *s, int stop_fd, int64_t linger_ns);
/* Is anything there that has not been looked at: a connection, a request? */
bool wh_server_pending(struct wh_server *s);

#endif
