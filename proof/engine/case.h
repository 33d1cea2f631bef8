/*
 * case - one run of one operation in a process of its own, and what it reports. The engines' common ground.
 *
 *   C1  A case ends: it is killed, with all its processes, when it does not by itself.
 *   C2  A case fails if a check failed, if any of its processes died of what nobody did to it, if it hung, or if
 *       anything is left behind: descriptors, shared mappings, named segments, processes.
 */
#ifndef PROOF_ENGINE_CASE_H
#define PROOF_ENGINE_CASE_H

#include "proof.h"

enum {
        PROOF_TRACE = 8192, /* steps that a case can report */
        PROOF_HANG_S = 20,  /* a case that takes so long does not end by itself */
        PROOF_EXIT_CHECK = 77,
        PROOF_PARTIES = 16,
        PROOF_TRACED_BYTES = 64,
};

struct proof_traced {
        uint8_t kind; /* enum hook_kind */
        bool atomic : 1;
        bool peeked : 1;   /* HOOK_RECEIVED: it stays, and is taken later */
        uint16_t call;     /* enum wh_os_call */
        uint16_t datagram; /* HOOK_RECEIVED, its first piece: how long all of it is, and that it is one: never 0 */
        uint16_t n_fds;
        uint32_t len;
        uint32_t epoch; /* which call of victim() */
        uint64_t at;    /* the address; the same in every case, since cases are forked from one driver */
        uint64_t value; /* a load's first bytes */
        uint64_t site;
        uint8_t bytes[PROOF_TRACED_BYTES]; /* more of them */
};

/* In memory that the driver and all processes of a case share. */
struct proof_report {
        _Atomic int failed;
        char why[512];
        bool reached;         /* the step that something was to happen at was reached */
        bool rescuer_reached; /* likewise for the rescuer */
        bool injected;
        uint16_t refused; /* enum wh_os_call */
        int victim_status;
        uint64_t steps, rescuer_steps; /* that the engine counts */
        uint64_t hash;                 /* of the crash state */
        uint64_t allocations;
        /* The processes of the case in the order in which they were made, by the numbers that a shared memory may know
         * them by: pid, and what the kernel calls the process behind a pidfd. */
        unsigned n_parties;
        uint32_t party[PROOF_PARTIES][2];
        uint32_t epoch;
        uint32_t n_trace;
        struct proof_traced trace[PROOF_TRACE];
};

/* What a process holds. Compared before and after. */
struct proof_world {
        unsigned fds, children, segments;
        uint64_t fds_hash, shared_bytes;
};
void proof_world_look(struct proof_world *ret);
/* NULL when equal, else what differs; a static text. */
const char *proof_world_differs(const struct proof_world *before, const struct proof_world *after);

/* A hash over all registered ranges and the state of every descriptor: what a survivor could ever see. */
uint64_t proof_state_hash(void);
uint64_t proof_hash(uint64_t h, const void *bytes, size_t len);

/*
 * Runs fn(p, plan) in a case's process. True when it passed; else the failure was counted and told under `name`. Where
 * failure is expected, and was seen often enough, false at once.
 */
bool proof_case(const struct proof_args *args, const char *engine, const struct proof_op *op, const char *name,
                void (*fn)(struct proof *p, const void *plan), const void *plan, struct proof_figures *sum);
/* The report of the last case. */
const struct proof_report *proof_reported(void);

/* For the parties of a case: fork as the operation wants it. */
pid_t proof_fork(struct proof *p);
/* Dies, with SIGKILL and at once. */
__attribute__((noreturn)) void proof_die(void);
void proof_stop(void);
/* Waits for a party: true when it was killed or stopped as planned, false when it ended. Anything else is a failure. */
bool proof_wait(struct proof *p, pid_t pid, const char *who, bool *ret_stopped);

/* Is `want` (from --case) absent, or this one? */
bool proof_wanted(const struct proof_args *args, const char *name);
/* Of n things take at most `cap`, evenly, and always the first and the last: is i taken? */
bool proof_sampled(uint64_t i, uint64_t n, uint64_t cap, uint64_t seed);

/* A set of hashes. */
struct proof_set {
        uint64_t *slot;
        size_t n, cap;
};
bool proof_set_add(struct proof_set *s, uint64_t hash); /* false: was there */
void proof_set_done(struct proof_set *s);

/* Ranges that were named by proof_may_refetch(). */
bool proof_refetch_allowed(const void *at, size_t len);

#endif
