/*
 * oracle - what must be true of a case, whatever the adversary did. Each party writes down what it does on a page that
 * no library and no adversary touches; here is what is asked of it.
 *
 *      identity   wharf_sender names a process that said these very bytes as a message, or nobody; and somebody who
 *                 introduced it, where it said them over a right that a stranger gave it
 *      receive    a receive answers with a message or with its deadline
 *      late       ... and is back soon: 50 ms of its own processor time after it, or 500 ms asleep, more than once
 *      call       an honest call is answered, in time: within a second in which its server did not wait for a processor
 *      answer     ... with its own bytes
 *      private    no byte of an honest party's memory comes to the adversary, and none is changed
 *      share      what an honest party holds while the adversary goes on: a quarter of its descriptors stays free, and
 *                 at a port with small limits memory stays below what these, and payloads under way, add up to
 *      left       what it holds when the adversary is dead and its messages were read: no more than before it came
 *      crash      an honest party ends with 0
 *
 * Always true: a violation is believed only where a busy machine cannot be its cause. Time is counted as processor time
 * of the party, or as sleep, never as time on the clock; what waited for a processor is not judged. Where all of us
 * were stopped (a frozen control group), no case that was under way is judged by time.
 */
#ifndef ADVERSARY_ORACLE_H
#define ADVERSARY_ORACLE_H

#include "program.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum party { PARTY_V = PEER_V, PARTY_R = PEER_R, PARTY_CALLER, PARTIES };

enum {
        LATE_CPU_MS = 50,
        LATE_ASLEEP_MS = 500,
        LATE_CALL_MS = 1000,
        LOOK_LATE_MS = 80,       /* so long after its deadline it is looked at what it does */
        GAP_MS = 200,            /* nobody had a processor for so long, nor waited for one: all of us were stopped */
        MAPPED_BYTES = 8 << 20,  /* at a port with small limits, for all senders */
        REPLY_BYTES = 4 << 20,   /* ... and for answers: kept, and once more unread */
        SHARE_BYTES = 192 << 20, /* ... and, with private memory, two payloads for each link that there may be */
        SECRET_BYTES = 64,
        SECRET_PAGE = 4096,
        ADVERSARY_PIDS = 1024,
        VIOLATIONS_MAX = 6,
        SAID_MAX = 1 << 15,
        STATES_MAX = 1 << 20,
        SEEN_MAX = 3,
        SEEN_TEXT = 160,
};

/* Where each honest party has its secret: known to the adversary, which has to read it to know what it says. */
#define SECRET_AT(party) (0x600000000000ul + (uint64_t)(party)*0x10000000ul)

/* What a party holds. */
struct stock {
        uint64_t descriptors, links, mapped_bytes, shared_bytes, private_bytes;
};

struct violation {
        char kind[48]; /* which promise, and how: what tells one defect from another */
        char text[600];
};

enum said {
        SAID_MESSAGE = 1,
        SAID_ANSWER = 2,
        SAID_DEPUTY = 3, /* a message, over a right that a stranger gave it */
};

enum { READY = 1, READY_AND_KNOWN = 2 };

/* Honest parties and the judge. */
struct board {
        pid_t pid[PARTIES]; /* -1 when it has ended */
        pid_t was[PARTIES]; /* ... which it has been, for what it said is read later */
        uid_t uid[PARTIES];
        _Atomic uint32_t ready[PARTIES], stop[PARTIES]; /* READY... */
        _Atomic uint32_t greet[PARTIES];                /* the other service is there: send it something */
        _Atomic uint32_t stock_asked[PARTIES], stock_done[PARTIES];
        struct stock stock[PARTIES];
        pid_t wharfd;
        _Atomic uint32_t quiet;                  /* the caller looks nothing up: what is held does not change */
        _Atomic uint64_t rounds;                 /* of the caller */
        _Atomic uint32_t adversary_over;         /* it is dead: what was kept for it is let go of */
        _Atomic uint64_t received[PARTIES];      /* receives that came back */
        _Atomic uint64_t strange[PARTIES];       /* ... with a message of none of the honest */
        _Atomic uint32_t closing[PARTIES];       /* descriptors that it was given, and has yet to close */
        _Atomic uint32_t gap;                    /* all of us were stopped */
        _Atomic uint64_t stolen_ns;              /* the machine below has kept our processors from us, so long in all */
        _Atomic int64_t deadline_ns[PARTIES];    /* of the call that it is in, when it was, or 0 */
        _Atomic uint32_t n_seen[PARTIES];        /* texts, since that call began */
        char seen[PARTIES][SEEN_MAX][SEEN_TEXT]; /* what its threads did when it was late */
        _Atomic uint32_t introduces[PARTIES];
        _Atomic uint32_t n_violations;
        struct violation violation[VIOLATIONS_MAX];
        uint8_t secret[PARTIES][SECRET_BYTES];
        _Atomic uint32_t n_said;
        struct {
                _Atomic uint64_t hash;
                _Atomic uint32_t who; /* party, and what kind << 8; stored last */
        } said[SAID_MAX];
};

/* The adversary and the judge; honest parties count here what it may wait for. */
struct outside {
        _Atomic uint64_t calls[PROGRAM_PEERS]; /* honest calls that were answered */
        _Atomic uint32_t n_pids;
        _Atomic int32_t pid[ADVERSARY_PIDS];
        uid_t uid;
        uint8_t secret[PARTIES][SECRET_BYTES]; /* to compare with, and never sent */
        _Atomic uint32_t secret_seen;          /* 1 + party */
        _Atomic uint64_t n_moves;
        int32_t result[PROGRAM_MOVES_MAX]; /* of each move, when it was made last */
};

/* States of the adversary that were ever met, of all cases. */
struct states {
        _Atomic uint64_t n;
        _Atomic uint64_t hash[STATES_MAX];
};
void states_add(struct states *s, uint64_t hash);

extern struct board *board;
extern struct outside *outside;
extern bool oracle_same_user; /* not root: the adversary is the user's own, and shares do not hold for it */

/* Says that a promise was broken; `kind` is what it is known by. */
__attribute__((format(printf, 2, 3))) void oracle_broken(const char *kind, const char *fmt, ...);

/* Before the party sends or answers. */
void oracle_says(enum party who, enum said what, uint32_t id, const void *bytes, size_t len);
/* It gave others rights that it was given itself: so it may be told of as an introducer. */
void oracle_introduces(enum party who);
/* Is the told sender who said it, and is it told of whoever gave it the right? */
struct told {
        pid_t pid;
        uid_t uid;
        bool introduced;  /* by somebody, known or not */
        pid_t introducer; /* 0: it is not known */
};
void oracle_told(enum party to, const struct told *by, uint32_t id, const void *bytes, size_t len);

/*
 * Around a call with a deadline (0: it never waits). While it is late, it is looked at what all threads of its process
 * do, and that is said with it.
 */
struct guard {
        int64_t began_ns, deadline_ns;
        uint64_t cpu_ns, waited_ns, stolen_ns;
};
void guard_begin(struct guard *g, enum party who, int64_t deadline_ns);
void guard_end(const struct guard *g, enum party who, const char *what);

/*
 * How long a processor was kept from us since `before` was board->stolen_ns, at the most; asked for where somebody is
 * late.
 */
int64_t oracle_stolen_since(uint64_t before);

/*
 * A thread of this process that sees when all of us are stopped, or a processor is kept from us (board->gap,
 * stolen_ns).
 */
bool oracle_watch_for_gaps(void);
/* Were we, in this case? Asked when it is over; waits until the thread has looked. */
bool oracle_was_gap(void);

/* How long a process, or this thread (0), waited for a processor, ever. */
uint64_t waited_ns(pid_t pid);

/* This process's; links and mapped_bytes are the caller's to fill in. */
void stock_take(struct stock *ret);
/* Of another process; links and mapped_bytes are 0. False: it is gone. */
bool stock_look(pid_t pid, struct stock *ret);
/* NULL, or what is more than before. */
const char *stock_more(const struct stock *before, const struct stock *now);

/* The party's secret at its place, and whether it is still there. */
void secret_place(enum party who);
bool secret_there(enum party who);

int64_t clock_ns(void);

#endif
