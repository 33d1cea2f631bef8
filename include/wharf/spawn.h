/*
 * wharf/spawn.h - starting a program with an initial set of rights, by name, and finding them there.
 *
 * The child needs no server, no name in a file system and nothing of /proc: it may do what it was given the rights for.
 * All of them come in one message, on a socket that the child inherits; the environment variable WHARF_RIGHTS says
 * which, and for which process. Another process that inherits the variable by accident gets an error, never somebody
 * else's descriptor.
 *
 *      parent                                          child
 *      struct wharf_given g[] = {{"log", {...}}};      struct wharf_item log;
 *      wharf_spawn(task, &opts, deadline, &child)      wharf_inherited(task, "log", &log)
 *
 * How to lock such a child into a sandbox: docs/design/sandbox.md.
 *
 * Errors, time, threads: see wharf/task.h.
 */
#ifndef WHARF_SPAWN_H
#define WHARF_SPAWN_H

#include "message.h"

WHARF_BEGIN

#define WHARF_GIVEN_NAME_MAX 128 /* bytes of a name, without the 0 */

/* One right or descriptor for the new program, under a name of at least one byte. */
struct wharf_given {
        const char *name;
        struct wharf_item item; /* to send: WHARF_MAKE_SEND and so on; see wharf/message.h */
};

enum {
        /*
         * The parent gets a send right to a port that the child finds as WHARF_SELF. Messages may be sent to it at
         * once; what the child has not received when it dies is lost.
         */
        WHARF_SPAWN_TALK = 1,
        /*
         * argv[0] only starts the program (env, a shell, a sandbox): the rights belong to the first of its descendants
         * that asks, rather than to the process itself.
         */
        WHARF_SPAWN_WRAPPED = 2,
};

/* Clear it, set `size` and `argv`, then what you care about. Everything is borrowed during the call. */
struct wharf_spawn_opts {
        uint32_t size;     /* sizeof this struct */
        uint32_t flags;    /* WHARF_SPAWN_* */
        char *const *argv; /* ended by NULL; argv[0] is found by PATH */
        char *const *envp; /* ended by NULL; default: as here. A WHARF_RIGHTS in it is left out. */
        const struct wharf_given *given;
        uint32_t n_given;  /* at most WHARF_ITEMS_MAX, with WHARF_SPAWN_TALK one less */
        uint32_t reserved; /* 0 */

        /* wharf_spawn() only; a process that replaces itself can do all this before. */
        const char *cwd;  /* the directory it starts in; default: as here */
        const int *stdio; /* three descriptors for its 0, 1 and 2, where -1 is /dev/null; default: as here */
        /*
         * Called in the child right before the program starts, with everything in place; 0, or a negative errno that
         * ends it and is returned by wharf_spawn(). For unshare(), setrlimit(), setresuid(), prctl() and the like: only
         * async-signal-safe functions, and nothing of wharf.
         */
        int (*prepare)(void *arg);
        void *prepare_arg;
};

/* A started program. Clear it and set `size`. */
struct wharf_child {
        uint32_t size;
        pid_t pid;
        int pidfd;        /* readable once it has ended; owned by the caller, as is the child: wharf_child_wait() */
        wharf_name right; /* with WHARF_SPAWN_TALK: to the child's port; otherwise WHARF_NONE */
};

/*
 * Start a program. It has what was given and its standard descriptors, and no others; no signal is blocked or handled
 * in it. The call returns when the program runs, or cannot run. It does all or nothing: after a failure every right is
 * still here, and there is no child.
 *
 * @deadline_ns  when to give up waiting for room on the links of rights that are copied. The start itself is waited
 *               for.
 *
 * Errors: -EINVAL  a name that is empty, too long or there twice; unknown flags; wharf_why() says which
 *         -ENOENT, -EACCES, -ENOEXEC, ...  the program cannot be executed, and why; or what `prepare` answered
 *         -ECHILD  it was killed before its program ran
 *         -EAGAIN  the system makes no more processes; or deadline_ns was 0 and a copy needs room
 *         and as wharf_sendmsg() for what is given
 */
WHARF_API int wharf_spawn(wharf_task *task, const struct wharf_spawn_opts *opts, int64_t deadline_ns,
                          struct wharf_child *ret);

/*
 * Become another program, as execve() does, and hand it rights: what was given is there, every other right of this
 * process is gone, and what is open without close-on-exec stays open. Returns only after a failure, which has changed
 * nothing. Other threads end, and their calls with them. WHARF_SPAWN_TALK is for wharf_spawn() only, and a reply right
 * cannot be given: answer first, or give it to somebody who stays.
 *
 * Errors: as wharf_spawn()
 */
WHARF_API int wharf_exec(wharf_task *task, const struct wharf_spawn_opts *opts, int64_t deadline_ns);

/*
 * Wait until a child has ended, take its status, and close `pidfd`, which becomes -1. The right stays.
 *
 * @ret_status  what it returned, 0 to 255; or the number of the signal that killed it, negated.
 *
 * Errors: -EAGAIN, -ETIMEDOUT, -EBADF (waited for already),
 *         -ECHILD (somebody else took its status, or SIGCHLD is ignored)
 */
WHARF_API int wharf_child_wait(struct wharf_child *child, int64_t deadline_ns, int *ret_status);

/* Send a signal; never to another process that got its number. Errors: -ESRCH (it has ended), -EBADF, -EPERM */
WHARF_API int wharf_child_kill(const struct wharf_child *child, int signal);

/* The port that a child of WHARF_SPAWN_TALK has from the beginning; its item is a WHARF_GOT_RECEIVE. */
#define WHARF_SELF ".self"

/*
 * Take what this process was given as `name`: a right (WHARF_GOT_SEND ...) or a descriptor (WHARF_GOT_FD,
 * close-on-exec). Each can be taken once. The first task that asks gets them all; what nobody takes goes with that
 * task. Never blocks.
 *
 * Errors: -ENOENT  nothing was given under that name, or it was taken
 *         -EACCES  WHARF_RIGHTS is there, but for another process: this one inherited it by accident, or the program
 *                  that ran here before has taken them
 *         -EBUSY   another task of this process has them
 *         -EPROTO  what came is not as wharf_spawn() makes it
 *         -EMFILE, -ENFILE, -ENOMEM, -ESTALE
 */
WHARF_API int wharf_inherited(wharf_task *task, const char *name, struct wharf_item *ret);

/*
 * The names of what was given and not taken yet, in the order of struct wharf_spawn_opts.
 *
 * @ret    an array of strings, in one piece of memory; owned by the caller, free() it.
 * @ret_n  how many; 0 also where nothing was ever given.
 *
 * Errors: -EACCES, -EBUSY, -EPROTO, -EMFILE, -ENFILE, -ENOMEM, -ESTALE
 */
WHARF_API int wharf_inherited_list(wharf_task *task, char ***ret, size_t *ret_n);

WHARF_END

#endif
