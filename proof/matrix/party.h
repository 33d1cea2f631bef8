/*
 * party - the two ends of an exchange, each in an environment of its own.
 *
 *      hub    owns a port, listens for connections, and answers whatever comes: it echoes, counts, keeps rights that
 *             it is given and does with them what it is told
 *      peer   connects, attaches a lane, and drives one workload
 *
 *      case   makes the listening socket, forks both, disturbs them where the environment says so, and waits
 *
 * Both go through their environment's `before` before a task is opened, and through `after` once messages travel in
 * shared memory. Then the workload runs in as many threads as the environment has. Both compare their descriptors
 * with what they had before the task was opened.
 */
#ifndef MATRIX_PARTY_H
#define MATRIX_PARTY_H

#include "engine/matrix.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <wharf/wharf.h>

enum { STREAMS = 8 }; /* threads of a peer, at most */

struct party;

/* An environment: what is done to one of the two. Every field but the name may be left out. */
struct env {
        const char *name;
        int (*before)(struct party *p);  /* no task is there yet; MATRIX_PASSED, or MATRIX_NOT_HERE after saying why */
        int (*after)(struct party *p);   /* the task is open and the lane attached */
        void (*beside)(struct party *p); /* in a thread of its own while the workload runs; until p->over */
        void (*disturb)(pid_t pid);      /* by the case, again and again while both live */
        unsigned threads;                /* default 1 */
        size_t stack_bytes;              /* of a thread that runs the workload; 0: in the first thread */
        bool cancelled;                  /* cancelled before it begins: stays pending through all calls */
        bool execs, executed_bare;       /* becomes another program in `after`, in `before` */
        bool no_memory;                  /* shared memory cannot be made */
        bool scarce;                     /* ... may not be had for all that is asked */
        bool forks;                      /* the pid is another after `before` */
        bool pid_namespace, user_namespace; /* others have no number here */
        bool late_uid;                      /* who it is changes in the middle */
        bool no_files;                      /* cannot open a path after `after` */
        int uid;                            /* as the others see it, 0: root, or whoever runs this */
};
extern const struct env envs[];
extern const unsigned n_envs;

struct work {
        const char *name;
        void (*run)(struct party *p, unsigned stream);
        bool names; /* needs wharfd */
};
extern const struct work works[];
extern const unsigned n_works;

struct party {
        const struct matrix_case *c;
        const struct env *env, *other;
        const struct work *work;
        bool hub, executed;
        unsigned messages; /* how many of small ones a thread sends */
        int listen_fd;
        char path[200];
        unsigned fds_before;
        uid_t uid_then; /* of the case */
        wharf_task *task;
        wharf_name port, right, named;
        _Atomic bool over;

        /* The hub's. */
        pthread_mutex_t lock;
        wharf_name echo[STREAMS], narrow[STREAMS];
        uint32_t next[STREAMS];
        uint64_t seen[STREAMS][64]; /* bits: small message n came */
        wharf_name kept[STREAMS];
};

/* Both ends of one exchange: MATRIX_*. */
int party_meet(const struct matrix_case *c, const struct env *hub, const struct env *peer, const struct work *work);
/* A server for everybody, in a domain of the case's: its process, and the directory. $MATRIX_PROGRAM is the program. */
pid_t party_wharfd_start(const struct matrix_case *c, char *dir, size_t cap);
int party_wharfd_stop(const struct matrix_case *c, pid_t pid, const char *dir);
/* main() of a program that an environment has executed; does not return if it is one. */
void party_executed(int argc, char **argv);
/* Replace this process by the same program, in the same role. Only what is not close-on-exec stays. */
int party_exec_bare(struct party *p);
/* The same, as the program at `path`: of these sources too, and perhaps of another library. */
int party_exec_as(struct party *p, const char *path);
int party_exec_with_rights(struct party *p);
/* Go on in a child; this process waits for it and ends with its status. */
void party_go_on_in_child(struct party *p);

#endif
