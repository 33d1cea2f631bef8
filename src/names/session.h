/*
 * session - a task's connections to the wharfds of its domains, and a question to whichever wharfd serves one.
 *
 * A task keeps one connection to the wharfd of each domain it uses, made on first use. It stays open while the task has
 * names or watches there, since its end says that they may have to be made again; otherwise it is closed after use, so
 * that an idle wharfd can leave.
 *
 * Always true:
 *   C1  A connection is used by as many threads as `users` says, and dropped by the last of them once it is no longer
 *       the task's. So no call ever sees its connection vanish.
 *   C2  `entries` lists what this task has registered and asked to watch, and not taken back. A new connection first
 *       asks for them again, with the same cookies: a wharfd that was replaced knows them, and nothing changes; one
 *       that was started anew has forgotten them.
 *   C3  Nothing is held while a call waits.
 *   C4  What the caller said of time holds for all that a call does on its way: connecting, starting a wharfd,
 *       telling it of names, asking, asking again. Where it said nothing, `struct when` does.
 *   C5  An entry is known to the wharfd of a connection if it bears the number of that connection. What could not be
 *       told in time is told by the next call (`behind`).
 */
#ifndef WH_NAMES_SESSION_H
#define WH_NAMES_SESSION_H

#include "os/lock.h"
#include "names/entries.h"
#include "names/proto.h"
#include "names/when.h"
#include "wharf/message.h"
#include "wharf/names.h"

enum { WH_SESSION_ATTEMPTS = 16 }; /* wharfds that die, or leave, between our connecting and their answer */

struct conn {
        wharf_name right;
        uint64_t number; /* never 0 */
        unsigned users;
        bool behind;             /* some entry may not be known to its wharfd (C5) */
        bool owned;              /* it is the session's */
        _Atomic bool page_given; /* with the first question, wharfd gets the task's page */
};

struct domain {
        const char *dir;
        bool chosen; /* by the user, or it is the system's: it may be shared */
        bool system;
        struct conn *conn; /* NULL: none */
        uint64_t last_number;
        struct entries entries;
};

/* One a task; made on first use, freed by wharf_task_close(). */
struct session {
        wharf_task *task;
        struct wh_lock lock;     /* for all below; never held across a call to wharfd (C3) */
        struct domain domain[2]; /* the task's own, and the system's */
        wharf_name watch;        /* a port for the notice that a wharfd is gone; WHARF_NONE until wharf_names_fd() */
};
#define each_domain(d, s) for (struct domain *d = (s)->domain; d < (s)->domain + 2; d++)

/* The session of a task. -ESTALE, -ENOMEM */
int wh_session_of(wharf_task *t, struct session **ret);
/* The domain that `name` is of; *name becomes what it is called there. */
struct domain *wh_session_domain(struct session *s, const char **name);

/*
 * The task's connection, made if need be, with every name of this task registered (C2); give it back with wh_conn_put().
 * *ret_renewed, which may be NULL: how registering them went.
 */
int wh_conn_get(struct session *s, struct domain *d, struct when *w, struct conn **ret, int *ret_renewed);
void wh_conn_put(struct session *s, struct domain *d, struct conn *c, bool broken);

/*
 * Ask until a wharfd answers: as often as it takes until the caller's deadline, or else a few times. reply's buffers
 * serve every attempt.
 */
int wh_session_ask(struct session *s, struct domain *d, struct wh_names_request *req, struct wharf_msg *reply,
                   int64_t deadline_ns);

/* What the callers of wharf/names.h see of trouble with the link to wharfd; says why. */
int wh_session_error(const struct domain *d, int r);
/* ... and of what wharfd answered. */
int wh_session_refused(const struct domain *d, int answer);

#endif
