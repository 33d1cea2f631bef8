/*
 * wharf/names.h - finding each other: names in a domain, kept by its server, wharfd.
 *
 * A server registers a right to its port under a name; a client looks it up and gets a right of its own. After that no
 * message passes through wharfd. A name lives as long as its port: it is gone at once when the port's present owner
 * dies or closes the port, whoever registered the name and whatever either has sent, and wharfd holds nothing of it any
 * more.
 *
 * The user's own domain lives in $XDG_RUNTIME_DIR/wharf (0700), or in $WHARF_DOMAIN, a directory. Its wharfd starts by
 * itself on first use, and leaves when nobody needs it.
 *
 * The system's domain is /run/wharf, and all users' tasks may use it, as far as its rules allow (wharfd.conf(5)). A
 * task can use both: a name that begins with "system:" is one of the system's domain, and any other is one of the
 * task's own. ("system:" itself is not part of the name there.) WHARF_DOMAIN=/run/wharf makes the system's domain a
 * task's own.
 *
 * A domain that $WHARF_DOMAIN names may belong to somebody else if it was made for sharing: nobody but its owner can
 * write to the directory, and its socket is open to all. A task that names a domain trusts its owner.
 *
 * No path is used only because the environment names it. $XDG_RUNTIME_DIR counts only if it is an absolute path to a
 * directory that belongs to the effective user and that nobody else may write to. Where it is unset, or something else,
 * as it is under `sudo -E` or `su -m`, the domain is in /run/user/UID if that is such a directory, and otherwise it is
 * /tmp/wharf-UID. Where that one belongs to somebody else, the domain is this user's /tmp/wharf-UID.N with the smallest
 * N, which is made when the domain's path is first asked for. Any other domain's directory is made on first use, and
 * only in a directory of this user or of root, or in one for everybody such as /tmp.
 *
 * $WHARFD is started only if the file and its directory belong to this user or to root and nobody else may change them.
 * `wharf doctor` says which of all these was refused, and why.
 *
 * Errors, threads: see wharf/task.h.
 * Time: a deadline holds for all that a call does on its way: reaching wharfd, starting it, telling it of the task's
 *       names again after a restart, asking, and waiting for the answer. -ETIMEDOUT means that wharfd, or what starts
 *       it, has not answered until then, and wharf_why() says which process that is. A server that lives but is stopped
 *       is not down (-EHOSTDOWN). With a deadline that has passed already a call still asks one question, for at most
 *       100 ms. Calls without a deadline, and those with a deadline of 0, wait WHARF_NAMES_ANSWER_MS for the answer of
 *       a wharfd that is there, or 200 ms if the kernel says that it was stopped by a signal. Where wharfd has to be
 *       started, or was replaced meanwhile, they wait WHARF_NAMES_START_MS in all; each name that a new wharfd has to
 *       be told of, and takes, begins that time anew. Within a deadline a call goes on trying, whatever happens to
 *       wharfd meanwhile; -EHOSTDOWN means that there is none, and that none can be started.
 */
#ifndef WHARF_NAMES_H
#define WHARF_NAMES_H

#include "message.h"

WHARF_BEGIN

#define WHARF_NAME_MAX 128 /* bytes of a name, without the 0; letters, digits and . _ - / : @ */

#define WHARF_SYSTEM_PREFIX "system:" /* before a name: of the system's domain */

#define WHARF_NAMES_ANSWER_MS 3000 /* see "Time" above */
#define WHARF_NAMES_START_MS 10000

/*
 * Register a send right to `port`, a port of this task, under `name`.
 *
 * Errors: -EEXIST (somebody has it), -EINVAL (not a name), -EBADF, -EPERM,
 *         -EMFILE, -ENFILE, -ENOMEM (this process or wharfd is short of it, the whole time; wharf_why() says which),
 *         -EACCES (the rules of the domain do not let this user have it; wharf_why() names the line),
 *         -EDQUOT (the share of this user, of names or of connections to wharfd, is used up),
 *         -ETOOMANYREFS (this user has too many descriptors on their way, whosever: RLIMIT_NOFILE),
 *         -EHOSTDOWN (no wharfd, and none could be started; wharf_why() says why),
 *         -ETIMEDOUT (it does not answer; if it comes round, it forgets that it was asked)
 */
WHARF_API int wharf_register(wharf_task *task, const char *name, wharf_name port);

/*
 * Take it back. Errors: -ENOENT (this task has not registered it), -ETIMEDOUT (wharfd does not answer: the name is
 * still this task's), -EMFILE, -ENFILE, -ENOMEM, -ESTALE
 */
WHARF_API int wharf_unregister(wharf_task *task, const char *name);

/*
 * Get a send right to the port registered as `name`, waiting until `deadline_ns` for somebody to register it; 0 asks
 * only once.
 *
 * Errors: -ENOENT (nobody has registered it, or nobody had until the deadline), -ETIMEDOUT (wharfd does not answer),
 *         -EINVAL,
 *         -EHOSTDOWN, -EMFILE, -ENOMEM,
 *         -EACCES (the rules of the domain do not let this user use it, whether it is registered or not), -EDQUOT,
 *         -ETOOMANYREFS (this user, or wharfd's, has too many descriptors on their way, and had until the deadline),
 *         -EAGAIN, -ETIMEDOUT (its owner has not looked at the port for so long that some 200 rights wait there and no
 *         more can be made, or that it has yet to be told of names that it watches; or that stayed so until the
 *         deadline)
 */
WHARF_API int wharf_lookup(wharf_task *task, const char *name, int64_t deadline_ns, wharf_name *ret);

/* One registered name. */
struct wharf_named {
        char name[WHARF_NAME_MAX + 1];
        pid_t pid; /* of the task that registered it */
        uid_t uid;
        uint32_t known; /* enum wharf_known (wharf/message.h): how wharfd came to know these two */
        wharf_port_id id;
        uint32_t senders;           /* links, wharfd's own among them */
        uint32_t receivers_waiting; /* threads */
        uint64_t queued_messages;   /* as its owner last saw */
        uint64_t received_messages;
        uint64_t received_bytes;
};

/*
 * List what is registered in the task's own domain and what its rules let this user see, sorted by name.
 *
 * @ret    an array; owned by the caller, free() it.
 * @ret_n  how many.
 *
 * Errors: -EHOSTDOWN, -ETIMEDOUT, -ENOMEM, -EDQUOT (this user waits for as many lists as it may, over all its tasks)
 */
WHARF_API int wharf_names_list(wharf_task *task, struct wharf_named **ret, size_t *ret_n);

/* What a thread waits for. */
enum wharf_waits_for {
        WHARF_WAITS_NOT = 0,     /* none of this task's threads waits */
        WHARF_WAITS_RECEIVE = 1, /* for a message; ended by those who can send one */
        WHARF_WAITS_SEND = 2,    /* for room in a queue; ended by its receiver */
        WHARF_WAITS_CALL = 3,    /* for a reply; ended by the port's owner. A look-up that waits is a call to wharfd. */
};

enum {
        WHARF_WAIT_ONE = 1,        /* RECEIVE: from one sender alone */
        WHARF_WAIT_RENDEZVOUS = 2, /* SEND: the port has no queue; sender and receiver must meet */
        WHARF_WAIT_OTHERS = 4,     /* tasks that are not in `whom` can end it, or may exist that can */
};

#define WHARF_WHOM_MAX 12

/* One thread that waits, or one task none of whose threads does. */
struct wharf_wait {
        pid_t pid; /* the kernel's word, as is the next; all that follows is the task's own */
        uid_t uid;
        uint32_t what;       /* enum wharf_waits_for */
        uint32_t flags;      /* WHARF_WAIT_* */
        wharf_port_id port;  /* which it waits for; 0 where it is not known, or a set of several */
        uint64_t generation; /* of this wait: the same in two looks means that it has lasted from one to the other */
        int64_t since_ns;    /* CLOCK_MONOTONIC */
        int64_t deadline_ns; /* WHARF_FOREVER: only another task ends it */
        uint32_t n_whom;
        pid_t whom[WHARF_WHOM_MAX]; /* the tasks that can end it, each once */
};

/*
 * List who waits for whom: the tasks that have talked to this domain's wharfd, sorted by pid. Each keeps a page of its
 * own up to date, which others only read, so nobody is asked or disturbed. A task that never talked to wharfd is known
 * only by what its peers say. wharfd itself is not listed, though a wait may be for it. In a domain with rules (`see`
 * in wharfd.conf(5)) tasks of other users may be left out, and nothing is told of ports whose names the caller may not
 * see.
 *
 * @ret    an array; owned by the caller, free() it.
 * @ret_n  how many.
 *
 * Errors: -EHOSTDOWN, -ETIMEDOUT, -ENOMEM
 */
WHARF_API int wharf_waits_list(wharf_task *task, struct wharf_wait **ret, size_t *ret_n);

/* What a watcher is told. */
enum wharf_name_what {
        WHARF_NAMES_BEGIN = 1, /* forget what you know: all there is follows */
        WHARF_NAME_IS = 2,     /* this name is registered; known already: it has a new owner */
        WHARF_NAME_GONE = 3,   /* it is not any more */
        WHARF_NAMES_END = 4,   /* that was all; from here on, changes as they come */
};
struct wharf_name_event {
        uint32_t what; /* enum wharf_name_what */
        pid_t pid;     /* WHARF_NAME_IS: of the task that registered it */
        uid_t uid;
        wharf_port_id id;
        char name[WHARF_NAME_MAX + 1]; /* "" for BEGIN and END */
};

/*
 * Be told whenever a name appears, disappears or changes its owner: first all there is now (BEGIN, IS ..., END), then
 * every change. Events come as messages at `port`, a port of this task; give each message that comes there to
 * wharf_names_event().
 *
 * Nothing is missed for good: a watcher that does not read for so long that its queue is full is told everything anew
 * (BEGIN ...) once there is room. A name may then have come and gone unseen, but what was last told is never wrong for
 * good. After a restart of wharfd everything is told anew as well. If wharfd and its keeper were both killed, the watch
 * is asked for again together with the names of this task (wharf_names_renew()); until then receiving from a port
 * without WHARF_PORT_STAYS is -ENOTCONN. As long as something is still to be told at `port`, a name that this user
 * registered for the same port is not given out (wharf_lookup() returns -EAGAIN); so the watcher has been told of every
 * process that comes through that name.
 *
 * @pattern  one name; or all names that begin so, if it ends in one of . / : - _ @; or all, if it is "*". With
 *           "system:" before it, of the system's domain. Names that the rules do not let this user see do not exist.
 *
 * Errors: as wharf_register(); -EDQUOT (the share of this user, of watches, is used up: one that has ended is in it as well until
 *         what it has told was read); -EINVAL (also: the port's capacity is zero)
 */
WHARF_API int wharf_names_watch(wharf_task *task, const char *pattern, wharf_name port);

/*
 * End that watch: no more events are sent for it; some may be on their way. Errors: -ENOENT, and as wharf_unregister()
 */
WHARF_API int wharf_names_unwatch(wharf_task *task, const char *pattern, wharf_name port);

/*
 * Read the event in a message that was received at a watch's port. Nobody but wharfd can send one: it is known by the
 * link on which it came.
 *
 * @msg  as wharf_recvmsg() returned it, with its payload.
 *
 * Errors: -ENOENT (it is not from wharfd, but a message like any other), -EPROTO, -ESTALE
 */
WHARF_API int wharf_names_event(wharf_task *task, const struct wharf_msg *msg, struct wharf_name_event *ret);

/*
 * For servers that outlive wharfd. A wharfd that is killed is replaced within milliseconds, by its keeper or by the
 * system's service manager, and knows every name of a living task. The names are forgotten only when the keeper is
 * killed as well; rights that were looked up before go on working even then. The same happens when the domain's
 * directory is gone, or another one is in its place, and wharfd cannot make it again. The next call of this header by a
 * task registers the names of that task again. A server that makes no such call polls this descriptor beside those of
 * its ports: it is readable from when wharfd is gone until wharf_names_renew() is called, which registers the names
 * (and starts a wharfd if there is none yet).
 *
 * @ret  Borrowed: owned by the task. Do not read from it, and do not close it.
 *
 * Errors: -EMFILE, -ENFILE, -ENOMEM, -ESTALE
 */
WHARF_API int wharf_names_fd(wharf_task *task, int *ret);

/*
 * Register the names of this task again, if wharfd has gone since. Does nothing otherwise.
 *
 * Errors: -EEXIST (somebody else has taken a name of this task meanwhile; it is no longer this task's),
 *         -ETIMEDOUT (wharfd does not answer; the next call of this header goes on with it),
 *         -EHOSTDOWN, -EMFILE, -ENFILE, -ENOMEM, -ESTALE
 */
WHARF_API int wharf_names_renew(wharf_task *task);

/* Where this process's domain is, as a path. Borrowed; never NULL. Does not start anything. */
WHARF_API const char *wharf_domain_path(void);

WHARF_END

#endif
