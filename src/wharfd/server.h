/*
 * server - the table of names of one domain: what wharfd is.
 *
 * Always true:
 *   S1  An entry holds a send right to its port, and that right is watched: when the port is gone, so is the entry.
 *       Where the notice is still under way, code that looks at the entry asks the right itself.
 *   S2  An entry belongs to the client that knows its cookie. Only that one may take it back; it may register it again,
 *       which changes nothing; and when it does not take the answer to its REGISTER, the entry was never made.
 *   S3  Entries are sorted by name, and no two have the same.
 *   S4  A waiting lookup keeps the reply right and nothing else. It is due when the name appears or its time is over,
 *       and ends in a turn of its user (S10): with what there is then, or -ENOENT. If the name has gone again and there
 *       is time left, it waits on. It ends, too, when its asker is found dead.
 *   S5  No client can make the server wait: requests are received without waiting, and neither replies nor events ever
 *       block.
 *   S6  Every entry is with the holder of our descriptors (store.h) before anybody is told that it was made, so our
 *       death at any instruction loses no name of a living task and no watch.
 *   S7  A task's page is kept as long as its process lives and the task is open, whoever has which link; it does not
 *       keep the server from leaving. The page goes when the process ends; the page of a closed task goes when others
 *       are added or looked at.
 *   S8  Who may do what, and how much of it, is decided from what the kernel says of the asker (rules.h).
 *   S9  The server listens once more on the socket that it was given, so that the kernel tells whoever connects from
 *       then on that it is this process that serves there (SO_PEERCRED), and not the one that made the socket.
 *   S10 No request costs more than a few look-ups. Requests that list things, and look-ups that waited, are answered in
 *       parts: one part for each user in turn, between requests, however many it has asked for. Those that wait count
 *       as the user's waiting look-ups do.
 *   S11 A name lives as long as the port it leads to, whoever registered it. It never leads to this server's own port,
 *       and never holds its own owner's end (kept.E3): nobody's death would end such a name.
 *   S12 For each request it is settled once who asks, before anything is done for it: what is told of the asker,
 *       charged to it and decided for it all go by that. An asker that others may have made ask is nobody.
 *   S13 A few descriptors are set aside, and are free only while a request is received for whose items there are no
 *       others: so the asker is told of the shortage, over the link that it has, and nobody behind it waits for long.
 *   S14 A client whose link has hung up is not answered, and nothing is done for it but to take back what it asks to
 *       take back.
 */
#ifndef WH_WHARFD_SERVER_H
#define WH_WHARFD_SERVER_H

#include "wharf/task.h"

#include <stdbool.h>

struct wh_server;

struct wh_rules;
struct wh_store;
struct wh_given;

/*
 * Serve the domain whose socket is `listen_fd`, which stays the caller's, as does `store` (NULL for none), which must
 * outlive the server. `rules` is taken on success.
 * Errors: those of wharf_port_new() and wharf_port_listen()
 */
int wh_server_new(wharf_task *task, int listen_fd, struct wh_rules *rules, struct wh_store *store,
                  struct wh_server **ret);
/* Before it runs: go on with what the last wharfd left. */
void wh_server_restore(struct wh_server *s, struct wh_given *given, unsigned n);
/* What it has given up (wharfd/confine.h), for whoever asks. */
void wh_server_confined(struct wh_server *s, uint32_t what);
/* From now on these; taken. What was registered before stays registered. */
void wh_server_set_rules(struct wh_server *s, struct wh_rules *rules);
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
