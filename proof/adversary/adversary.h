/*
 * adversary - what the moves work with: registers of two ends each, which are sockets, and what is sent and read there.
 *
 * Always true: it keeps a copy of all that it ever gave away, until it closes it. It uses wire.h and system calls, and
 * nothing of the library; it sees no page of the honest parties. What cannot be done is a negative errno, and the next
 * move follows.
 */
#ifndef ADVERSARY_ADVERSARY_H
#define ADVERSARY_ADVERSARY_H

#include "oracle.h"
#include "wire.h"

enum {
        ENDS = 2 * PROGRAM_REGISTERS,
        FLOODS_MAX = 8,
        BYTES_OUT_MAX = 1 << 17,
};

struct end {
        int fd;           /* -1: none */
        int peer;         /* of a connection; -1: it is none */
        uint64_t port_id; /* of what it leads to, as far as a greeting came */
        uint64_t seq;     /* messages written to it */
        struct wire_lane lane;
        uint32_t options, given; /* what was done with it: bits, for the state */
};

struct adversary {
        const struct program *p;
        unsigned at; /* the move that is being made */
        const char *const *path;
        struct states *states;
        struct end end[ENDS];
        int what[WHATS];
        pid_t flood[FLOODS_MAX];
        unsigned n_floods;
        uint64_t random;
        struct wire_got got;
};

/* The judge knows a process before it does anything: this one, and one that is started (as fork()). */
void adversary_known(pid_t pid);
pid_t adversary_child(void);

/* NULL where nothing is in it. */
struct end *end_of(struct adversary *a, int at);
void end_set(struct adversary *a, int reg, int which, int fd);
void end_close(struct end *e);
/* The port that what is written there reaches, or (`owner`) that of whoever was given this end; 0: it is not known. */
uint64_t end_port(const struct adversary *a, const struct end *e, bool owner);
/* The greeting says which port it is, and stays where it is; 0: none came. */
uint64_t end_greeted(struct adversary *a, int sock);
/* A connection to a service or to wharfd. */
int end_connect(struct adversary *a, int peer);
/* A lane of its own for what is written there. */
int end_attach(struct end *e, uint32_t lines);
/* Rings for records, if the receiver sleeps. */
int end_bell(struct end *e);
/* A frame over an end that may have a lane by now, which then has to be told. */
int end_frame(struct end *e, struct wire_frame f, int as, int lie, const void *data, size_t len, const int *fds,
              unsigned n_fds);

/* A descriptor of that kind, the same each time until it was given away. */
int adversary_what(struct adversary *a, int what);
void adversary_what_given(struct adversary *a, int what);

/* What was received last: its bytes are looked at, and its descriptors go into a register, or (-1) are closed. */
void adversary_keep(struct adversary *a, int into);

/* What is sent is made here. */
extern uint8_t bytes_out[BYTES_OUT_MAX];
void adversary_fill(struct adversary *a, uint8_t *to, size_t len, int body);
/* The body of a record of `kind`, in bytes_out; its length, which is at most `len`. */
uint32_t adversary_record(struct adversary *a, unsigned kind, uint32_t call, int body, uint32_t len);

/* Each in a process of its own. Without end: frames, or records where there is a lane; */
void flood(struct adversary *a, struct end *first, const int *arg);
/* requests to wharfd; */
void ask(struct adversary *a, struct end *first, const int *arg);
/* and large calls to the service of `first`, that nobody reads the answers of. */
void large(struct adversary *a, const struct end *first, const int *arg);

#endif
