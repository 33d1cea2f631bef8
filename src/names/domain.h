/*
 * domain - the directory in which a user's tasks find their wharfd, and the start of one.
 *
 *      DIR/bootstrap   the socket that wharfd listens on, 0600
 *      DIR/lock        held (flock) by whoever makes or removes that socket
 *
 * Always true:
 *   D1  Only the holder of the lock creates or removes DIR/bootstrap. The kernel lets go of the lock of a dead holder.
 *   D2  The socket listens before anybody can connect to it, and the task that made it holds the lock until wharfd
 *       serves or has said why not. A task that comes meanwhile connects, and the kernel keeps the connection.
 *   D3  A socket file that refuses connections belongs to a dead wharfd. Whoever holds the lock may remove it.
 *   D4  A directory that others could write to is never used, and one that is not ours only if it was made for sharing
 *       and somebody chose it: the user by naming it, or whoever built this library by its place (the system's domain).
 *       No place that is found by default may be somebody else's.
 *   D5  A place is checked on the descriptor that was opened, and what is made or removed there goes by that
 *       descriptor. A directory is made only in one that belongs to this user or to root, or that is made for everybody
 *       (sticky): what we left in another user's directory, that user could neither use nor remove. The directory that
 *       $XDG_RUNTIME_DIR names is used only if it is this user's own.
 *   D6  A task that connects to its user's own domain asks the kernel who listens there, and believes this user alone.
 *   D7  A wharfd that is started says why it cannot serve on its standard error, which whoever starts it reads, or
 *       writes a 0 there once it serves. So nobody has to guess from its end.
 *   D8  The last resort is /tmp/wharf-UID. Somebody who makes that first must not lock the user out: where it is
 *       somebody else's, the domain is the directory /tmp/wharf-UID.N of this user with the smallest N, and where there
 *       is none, one is made with the next free number. Everything of that user looks for it in the same way, wharfd
 *       and the command as well.
 *
 * A domain for sharing is made by its wharfd alone (--system, --share): the directory is 0755 and the socket 0666.
 * Nobody else makes or starts anything there.
 */
#ifndef WH_NAMES_DOMAIN_H
#define WH_NAMES_DOMAIN_H

#include "wharf/names.h"

#include <stdbool.h>
#include <sys/stat.h>

enum {
        WH_DOMAIN_SOCKET_MAX = 108, /* room for the path of a Unix socket, with its 0 */
        WH_DOMAIN_BACKLOG = 4096,   /* first users at one moment; the kernel cuts it to its own limit */
};

/* Checks D4; makes the directory when `make`. 0, -ENOENT, or another errno; wharf_why() says what is wrong. */
int wh_domain_check(const char *dir, bool make);
/* The same for a domain that somebody chose: it may also be one for sharing, of anybody's. */
int wh_domain_check_chosen(const char *dir, bool make, bool *ret_shared);
/* Make the directory of a domain for sharing, or see that it is fit for one. */
int wh_domain_make_shared(const char *dir);
/* Did the user name the domain of this process ($WHARF_DOMAIN)? */
bool wh_domain_was_chosen(void);
/* Why $XDG_RUNTIME_DIR is not where this process's domain is, though it is set; "" where it is, or is not set. */
const char *wh_domain_aside(void);
/* The directory of the system's domain. */
const char *wh_domain_system(void);
/* The path of the socket. -ENAMETOOLONG */
int wh_domain_socket_path(const char *dir, char ret[WH_DOMAIN_SOCKET_MAX]);
/* One that nobody else can write to, opened (O_PATH), for whoever makes or removes something there. */
int wh_domain_open_own(const char *dir);
/* Take the lock if it is free; -EAGAIN when it is not. Closing the descriptor lets go. */
int wh_domain_trylock(const char *dir, int *ret_fd);
/* Make the socket, in the place of a dead one. The caller holds the lock and knows that nobody listens. */
int wh_domain_listen(const char *dir, bool shared, int *ret_fd);
/*
 * Run the wharfd `argv[0]`, a path, for this listening socket, its descriptor 3; detached. Returns when it serves.
 * Errors: -EHOSTDOWN (it cannot serve, and wharf_why() is what it said), -ECHILD (it ended without a word),
 *         -ETIMEDOUT (neither until `until_ns`; it may still come to it), -EMFILE, -ENFILE, -ENOMEM, -EAGAIN
 */
int wh_domain_run(char *const argv[], int listen_fd, int64_t until_ns);
/* The same for the wharfd that this user has: as wh_domain_run(), or -ENOENT. */
int wh_domain_start(const char *dir, int listen_fd, int64_t until_ns);
/* Says that its directory or socket is not there, or nobody listens, and whose it is makes it: -ECONNREFUSED. */
int wh_domain_nobody_serves(const char *dir);

/*
 * Connect to a domain, starting its wharfd where none listens, unless it is a shared one. `chosen`: D4. `make`: the
 * directory too.
 * Errors: -EHOSTDOWN (wharf_why() says why), -ECONNREFUSED (nobody serves it, and none may be started by this user: it
 *         is down, or makes its directory or socket at this moment), -ETIMEDOUT (not until `until_ns`), -EMFILE,
 *         -ENFILE, -ENOMEM, -ESTALE
 */
int wh_domain_connect(wharf_task *task, const char *dir, bool chosen, bool make, int64_t until_ns, wharf_name *ret);

/* The process that serves a domain, where the kernel says so; 0 where nobody knows. */
pid_t wh_domain_server(const char *dir);

#endif
