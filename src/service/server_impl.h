/*
 * server_impl - what the files of the server share: the table of names, shares of users, watchers. See server.h.
 */
#ifndef WH_SERVICE_SERVER_IMPL_H
#define WH_SERVICE_SERVER_IMPL_H

#include "base/list.h"
#include "service/proto.h"
#include "service/rules.h"
#include "service/server.h"
#include "service/store.h"

#include <poll.h>

struct wh_port_status;

struct named {
        char name[WHARF_NAME_MAX + 1];
        wharf_name right;                  /* kept (port/kept.h) */
        const struct wh_port_status *page; /* NULL where its owner could not make one */
        struct wh_cookie cookie;           /* S2 */
        uint32_t slot;                     /* in the store */
        pid_t pid;
        uid_t uid;
        bool told; /* to watchers */
};

/* A lookup that waits. */
struct waiter {
        struct wh_list node; /* of s->waiters, the earliest deadline first */
        wharf_name reply;
        uint64_t link;
        uid_t uid;
        int64_t deadline_ns;
        char name[WHARF_NAME_MAX + 1];
};

/* How much of everything one user has; who has nothing is not in the list. */
struct user {
        uid_t uid;
        uint32_t n[WH_LIMITS];
};
struct users {
        struct user *user;
        size_t n, room;
};
/*
 * One more for this user, of `total` for all: 0, -ENOMEM, or -EDQUOT when he has his share: total / (users + 1), so
 * that whoever comes next always finds some left; but a few for everybody.
 */
int wh_users_take(struct users *u, uid_t uid, enum wh_limit what, uint32_t total);
void wh_users_give(struct users *u, uid_t uid, enum wh_limit what);

/* A task that has handed its page over. It goes with its process, not with its link: a look-up's ends at once. */
struct tasked {
        struct wh_list node;
        const struct wh_task_page *page;
        int pidfd;
        pid_t pid;
        uid_t uid;
};

struct wh_server {
        wharf_task *task;
        wharf_name port;
        int listen_fd; /* borrowed */
        int port_fd;   /* borrowed: readable while something is to be received */
        struct wh_rules *rules;
        struct wh_store *store; /* NULL: nothing is kept */
        struct users users;
        struct named **names;
        size_t n_names, room_names;
        struct wh_list waiters;
        size_t n_waiters;
        size_t sweep_at; /* waiters at which the dead are looked for next */
        struct wh_list tasks;
        size_t n_tasks, tasks_sweep_at;
        struct wh_list watches;
        size_t n_watches, n_behind; /* those that are not told everything yet */
        bool shortage;              /* of memory or descriptors: try again a little later */
        struct pollfd *polls;       /* room for all watches, and two more */
        size_t room_polls;
};

/* The index of `name`, or where it would stand, with *ret_found. */
size_t wh_server_find(const struct wh_server *s, const char *name, bool *ret_found);

/* ---- watchers.c ---- */

/* Add a watch whose events go over `right`, which it takes on success. -EDQUOT, -ENOMEM, -EPROTO, -EPIPE */
int wh_watch_add(struct wh_server *s, const char *pattern, const struct wh_cookie *cookie, const struct wh_who *who,
                 wharf_name right);
/* The same for one that the last wharfd had; takes `sock` in any case. */
bool wh_watch_restore(struct wh_server *s, const struct wh_stored *e, uint32_t slot, int sock);
/* -ENOENT */
int wh_watch_remove(struct wh_server *s, const struct wh_cookie *cookie);
/* The watcher behind this right is gone. False: it is none. */
bool wh_watch_dead(struct wh_server *s, wharf_name right);
/* What happened to a name: WHARF_NAME_IS or WHARF_NAME_GONE. */
void wh_watches_tell(struct wh_server *s, enum wharf_name_what what, const struct named *e);
/* Tell those who are behind what there is room for. True when there is more to tell that needs no waiting. */
bool wh_watches_pump(struct wh_server *s);
/* Is a watch of this name's owner behind that is told of at the same port? (W5) */
bool wh_watches_behind_at(struct wh_server *s, const struct named *e);
/* Everybody is told everything anew: the rules changed. */
void wh_watches_anew(struct wh_server *s);
/* Fills in what to poll for those who have no room; how many. */
unsigned wh_watches_poll(struct wh_server *s, struct pollfd *ret);
void wh_watches_done(struct wh_server *s);

#endif
