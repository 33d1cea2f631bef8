/*
 * proof - an operation, described once, put through every engine.
 *
 *      static const struct proof_op ops[] = {
 *              {.name = "put", .setup = put_setup, .victim = put, .rescue = take_over, .audit = put_audit},
 *              {0},
 *      };
 *      PROOF_KILL("toy", ops)          defines main(): `kill_toy [--quick] [--seed N] [--only OP] [--case CASE]`
 *
 * A case is one run of one operation with one thing done to it, and always looks the same:
 *
 *      driver     forks
 *      case       setup() · forks the victim · waits · forks the rescuers · audit() · teardown() · is as it was before?
 *      victim     start() · armed: victim() · ends
 *      rescuer    armed or not: rescue() · ends
 *
 * so nothing that one case breaks can reach the next, and a case that hangs or crashes is one failure with a name that
 * `--case` replays. The engines differ in what happens at a step (../runtime/hook.h):
 *
 *      kill      SIGKILL before step k, for every k; of the victim, of the rescuer, of both; and SIGSTOP, SIGCONT
 *      hostile   before shared load k, overwrite what it is about to read; for every k and every value that may matter
 *      fail      system call or allocation n fails; for every n and every plausible errno; once, and from n on
 *
 * Every engine prints one line, which the floors (../floors.txt) are held against.
 */
#ifndef PROOF_ENGINE_PROOF_H
#define PROOF_ENGINE_PROOF_H

#include "../runtime/hook.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

struct proof;

struct proof_op {
        const char *name;
        /* In the case's process: make the objects; p->state is the operation's own, state_bytes zeroed bytes. */
        void (*setup)(struct proof *p);
        /*
         * In the victim's process, before it is armed; may be NULL. For what a victim must make or let go of by itself.
         */
        void (*start)(struct proof *p);
        /* In the case's process, right after the victim was forked: let go of what is the victim's alone, so that its
         * death is seen. May be NULL. */
        void (*parted)(struct proof *p);
        /* The operation. Answers what the call under proof answered. In the hostile and fail engines it runs in the
         * case's own process, so that audit() sees its private memory too. */
        int (*victim)(struct proof *p);
        /* What a survivor does to go on after the victim: clean up, carry on. Must be restartable: it may be killed at
         * any step and run again by another process. NULL when audit() is all there is to do. */
        void (*rescue)(struct proof *p);
        /* In the case's process: everything is as promised. Uses PROOF_CHECK() and the ledger. */
        void (*audit)(struct proof *p);
        /* Give back all that setup() made. Afterwards the case looks for what was left behind. */
        void (*teardown)(struct proof *p);
        size_t state_bytes;
        /* Victim and rescuers keep what the library takes away from a forked child: private descriptors, mappings that
         * are not inherited. For operations whose parties share memory that setup() made. */
        bool inherit;
        /* hostile, fail: what the call may answer beside 0 and more; ends with 0. fail: the injected errno is allowed
         * without being named here. */
        const int *errors;
        /* hostile: the most steps one run may take, whatever it is told. Default 10000. */
        uint64_t steps_max;
        /* hostile: what no liar can reach is not its own to overwrite: answers true for what it can. NULL: all. */
        bool (*liar_writes)(struct proof *p, const void *at);
        /* kill, hostile: a case costs as much as so many; the quick tier tries so much less of it. Default 1. */
        unsigned costs;
        /* hostile: a case costs next to nothing: the quick tier tries all values (with sanitizers, fewer) at the first
         * turn of every place, in each operation anew. */
        bool cheap;
        /* kill: do not stop and continue the victim, for the audit cannot tell. */
        bool no_pause;
        /* kill: a second process that takes part, unarmed, while the victim runs: the other end. It must come to an
         * end by itself when the victim dies. May be NULL. */
        void (*partner)(struct proof *p);
        /* fail: the call does work on its way that is not undone (it reads a socket, it makes a pair of its own, it
         * learns that a link is dead), and its object may not survive a refusal: descriptors may be others, though not
         * more, and trying again may fail as well. */
        bool progress;
        /* fail: a call that failed may have taken this many descriptors out of a socket, and keeps them for its next
         * try. */
        unsigned keeps_fds;
        uint64_t keeps_bytes; /* and so much shared memory: a lane that it has made, and uses next time */
        /* fail: a call that failed may have made a shared mapping private. */
        bool unshares;
        /* fail: what the kernel says of a descriptor that somebody else sent is believed, also that it is none. */
        bool believes;
        /* fail: the others live, and nothing is said of a socket but what is so: no EPIPE, no EAGAIN of an accept(). */
        bool peers_live;
        /* fail: each call once, and not from then on. */
        bool once;
        /* hostile: an atomic load may be repeated in one call: whatever was decided on the first is decided again. */
        bool looks_again;
        /* hostile: whoever can write there is trusted with the contents: looking twice is no mistake. */
        bool trusted;
        /*
         * fail: nothing may have changed after a call that failed; p->result is what it answered. NULL: audit() does.
         */
        void (*unchanged)(struct proof *p);
};

enum { PROOF_DATAGRAM = 64 }; /* bytes of it that are kept */
enum proof_outcome { PROOF_FINISHED, PROOF_KILLED, PROOF_PAUSED };

struct proof {
        const struct proof_op *op;
        void *state;                 /* private memory; each forked party has its own copy from then on */
        struct proof_ledger *ledger; /* shared by all parties, and no part of what is proved */
        enum proof_outcome outcome;  /* of the victim, for rescue() and audit() */
        pid_t victim;                /* the victim's process; may be dead; its pid is not reused while the case runs */
        int victim_status;           /* what victim() answered, when it finished */
        int result;                  /* hostile, fail: the same */
        int injected;                /* fail: the errno that was injected last, or 0 */
        bool lied;                   /* hostile: something was overwritten in this case */
        /* hostile: the datagram whose bytes were lied about, as it came and as it was read; nothing for other lies. */
        uint8_t datagram_came[PROOF_DATAGRAM], datagram_read[PROOF_DATAGRAM];
        bool again; /* rescue(): somebody was killed in the middle of it before */
        uint64_t seed;
        struct proof_report *report_; /* the engine's */
};

/* A failed check ends the case and names it. Any process of a case may check. */
__attribute__((noreturn, format(printf, 4, 5))) void proof_fail(struct proof *p, const char *file, int line,
                                                                const char *fmt, ...);
#define PROOF_CHECK(p, cond)                                              \
        do {                                                              \
                if (!(cond))                                              \
                        proof_fail((p), __FILE__, __LINE__, "%s", #cond); \
        } while (0)
#define PROOF_EQ(p, a, b)                                                                            \
        do {                                                                                         \
                long long a_ = (long long)(a), b_ = (long long)(b);                                  \
                if (a_ != b_)                                                                        \
                        proof_fail((p), __FILE__, __LINE__, "%s == %s: %lld, %lld", #a, #b, a_, b_); \
        } while (0)

/*
 * The ledger: what each party knows to have happened, in a page outside the code under proof, so that an oracle can
 * balance it after a death. One writer for each word. A message is known by its number, from 0.
 */
enum { PROOF_LEDGER_MESSAGES = 4096 };
struct proof_ledger {
        _Atomic uint64_t intent;             /* sends begun, by the sender, before the call */
        _Atomic uint64_t sent;               /* sends that answered 0, by the sender */
        _Atomic uint64_t received;           /* by the receiver */
        _Atomic uint64_t acked;              /* acknowledged: must never be delivered again */
        _Atomic uint64_t notices;            /* death notices that arrived */
        _Atomic uint64_t word[8];            /* the operation's own */
        uint64_t sum[PROOF_LEDGER_MESSAGES]; /* checksum of message n, by the sender, before the call */
};
uint64_t proof_sum(const void *bytes, size_t len);
/* The sender is about to send the next message. */
void proof_ledger_intent(struct proof *p, const void *bytes, size_t len);
void proof_ledger_sent(struct proof *p);
/* Message `n` came: it is the next in order, it was meant to be sent, and its bytes are those that were meant. */
void proof_ledger_received(struct proof *p, const void *bytes, size_t len);
/*
 * After the end: what was reported as sent was received, or was reported lost (`lost` of them); nothing was received
 * that nobody meant to send; at most one message was received whose sender did not live to know.
 */
void proof_ledger_balance(struct proof *p, uint64_t lost);

/* hostile: these bytes may be loaded more than once in a call, for this reason. In setup(). */
void proof_may_refetch(const void *at, size_t len, const char *why);
/* hostile: one call under proof ends and the next begins, within victim(). */
void proof_next_call(void);

/* A stream of numbers from p->seed; the same in every run with that seed. */
uint64_t proof_random(struct proof *p);

struct proof_args {
        const char *area;
        bool quick;
        uint64_t seed;
        const char *only;
        const char *only_case;
        bool verbose;
        bool stop;           /* after the first failure: it is all that whoever asks wants to know */
        bool expect_failure; /* of the self-test: say nothing about failures */
        unsigned n_ops;      /* of this area */
        unsigned hang_s;     /* a case that takes longer does not end by itself; default 20 */
};
int proof_main(const char *engine, const char *area, const struct proof_op *ops, int argc, char **argv);

/* What an engine found: figures for its line. */
struct proof_figures {
        uint64_t operations, cases, states, values, double_fetches, failures;
};
void proof_kill(const struct proof_args *args, const struct proof_op *op, struct proof_figures *sum);
void proof_hostile(const struct proof_args *args, const struct proof_op *op, struct proof_figures *sum);
void proof_fail_calls(const struct proof_args *args, const struct proof_op *op, struct proof_figures *sum);

#define PROOF_MAIN_(engine, area, ops)                            \
        int main(int argc, char **argv)                           \
        {                                                         \
                return proof_main(engine, area, ops, argc, argv); \
        }
#define PROOF_KILL(area, ops) PROOF_MAIN_("kill", area, ops)
#define PROOF_HOSTILE(area, ops) PROOF_MAIN_("hostile", area, ops)
#define PROOF_FAIL(area, ops) PROOF_MAIN_("fail", area, ops)

#endif
