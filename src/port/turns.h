/*
 * turns - in which order the hot links of an inbox are looked at: users take turns, and so do the links of each.
 *
 * Why: a turn for each link is a hundred turns for a user with a hundred links. So links stand in the hot list by the
 * round in which they are next: of one user, one in each round. A user's next round comes after its last one, and not
 * before the one that is on, which is that of the turn that has begun; so nobody saves up turns, and who was idle is next. This is start-time fair queueing (Goyal,
 * Vin, Cheng: "Start-time Fair Queueing", SIGCOMM 1996), with turns for bytes.
 *
 * Always true:
 *   U1  While all hot links are one user's, they go round robin, and no round is looked at: it costs nothing.
 *   U2  Otherwise (`mixed`) the list is in the order of rounds; a link that is behind the round that is on has been idle,
 *       and is given a round before it is read.
 *
 * Guard: the inbox's lock.
 */
#ifndef WH_PORT_TURNS_H
#define WH_PORT_TURNS_H

#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct wh_inbox;
struct wh_link;

enum {
        WH_TURN_MSGS = 64,       /* messages from one link before the next has its turn */
        WH_TURN_MSGS_MIXED = 16, /* ... of another user */
        /*
         * The idle links, and the door, are asked about after so many messages; and sooner where what is done with each
         * takes its time: every few messages the clock is looked at, or after each where that is slow.
         */
        WH_LOOK_EVERY = 256,
        WH_LOOK_CLOCK = 16,
        WH_LOOK_US = 100,
        /* In in->since_look while it is mixed: the short way, which takes no turns, is done with at once. */
        WH_LOOK_MIXED = 1 << 30,
};

struct wh_turns {
        bool mixed;
        uid_t user;      /* when not mixed: whose the hot links are */
        uint64_t round;  /* that is on */
        uint32_t heated; /* counts the links that became hot */
        struct wh_turn_user {
                uid_t uid;
                uint64_t round; /* the last that it was given */
        } * users;              /* when mixed: sorted by uid; those whose round is over may be forgotten */
        uint32_t n, room;
};

/* It has just become hot. */
void wh_turn_first(struct wh_inbox *in, struct wh_link *l);
/* Its turn has begun, or goes on. */
void wh_turn_on(struct wh_inbox *in, const struct wh_link *l);
/* It had its turn. */
void wh_turn_over(struct wh_inbox *in, struct wh_link *l);
/* All others come before it. */
void wh_turn_last(struct wh_inbox *in, struct wh_link *l);
/* Its payer is another one. */
void wh_turn_payer(struct wh_link *l);
/*
 * When mixed, before a link is read: false, or it is not its turn yet, and *next is what comes in its place.
 */
bool wh_turn_waits(struct wh_inbox *in, struct wh_link *l, struct wh_list **next);
void wh_turns_done(struct wh_inbox *in);

#endif
