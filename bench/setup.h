/*
 * setup - what it costs to set things up: a port made, a right carried in a message, the first message to a fresh
 * right.
 *
 * Why one process: all of these are a handful of system calls. Between two processes their figures would drown in the
 * cost of waking the other one, which is measured elsewhere. So one thread is both parties, and nothing ever waits.
 */
#ifndef BENCH_SETUP_H
#define BENCH_SETUP_H

#define SETUP_BYTES 64
#define SETUP_FEW_MSGS 16

/* Every function ends the process when something fails. Of each pair, the first is timed, the second is not. */
struct setup_peer {
        const char *name;
        void (*begin)(void);
        void (*make)(void); /* a port */
        void (*unmake)(void);
        void (*carry)(void); /* a new right made, sent in a message over a warm link, and received */
        void (*uncarry)(void);
        void (*fresh)(void);   /* untimed: a right that has never been used; unfresh() takes it back */
        void (*message)(void); /* one message of SETUP_BYTES over it, sent and received */
        void (*unfresh)(void);
};

/* main() of a peer: options -t SECONDS; prints the same kind of lines as the other benchmarks. */
int setup_main(int argc, char **argv, const struct setup_peer *peer);

#endif
