/*
 * direct - processes that name each other (wharf/direct.h), built on names, ports that move, sets, and watching.
 *
 * Who joins registers a port, the door, as "direct:NAME", and watches all names that begin so. Who sends to a peer for
 * the first time makes a port with one right to it, keeps the right, and moves the port through the peer's door in a
 * hello. What it sends waits there, wherever the port is just then. So between two processes lie at most two ports,
 * one for each way: the link of the pair.
 *
 *      peer's name                     at who sends              at who receives
 *      looked up: the door             hello: the port   --->    known by the directory? then it is an inlet
 *      an outlet                       every message     ===>    received from that inlet alone, or from the set of all
 *
 * Always true:
 *   D1  A hello's text says which name, and which registration of it (the id of the sender's own door), it claims. It
 *       is believed only if the directory has said that this registration is of the process and user of which the
 *       kernel says that it sent the hello, over a right that it looked up itself: whoever registers a right to somebody
 *       else's door as its own, or hands one out, must not have others say there what they say to it. The directory
 *       gives nobody a right to a door that it has not told of it (W5 of watchers.c); so a hello is false if the door
 *       has nothing more to read, and nothing of the kind was said.
 *   D2  There is one outlet for each name. A name is received from by its first inlet. A second hello says that its
 *       sender has lost its link (of a peer that lives, too, the kernel or we may have said so) or is a new life: its
 *       inlet follows the first, which is read until it is empty, and ends then. One registration has LINKS_MAX.
 *   D3  Only one thread receives (`receiving`): the inlets, the door and what is known of others are its own. Outlets
 *       are under `lock`; `making` is held while one is made, and never while a call waits.
 *   D4  What is known of names that are gone is kept, up to GONE_MAX, since their messages may be read later; and as
 *       many outlets and inlets that have ended, without right and port, for the call that tells of it.
 *   D5  What a receive does between two looks at its deadline is bounded (struct work), and so is all that one does which
 *       may not wait. Where it stops, the next look goes on: so whoever keeps some inlets busy with what is no message, or
 *       the door, delays neither the deadline nor for good what others sent.
 */
#ifndef WH_NAMES_DIRECT_DIRECT_H
#define WH_NAMES_DIRECT_DIRECT_H

#include "os/lock.h"
#include "names/direct/roll.h"
#include "names/direct/work.h"
#include "wharf/direct.h"
#include "wharf/names.h"

#include <assert.h>
#include <stdatomic.h>

#define PREFIX "direct:"
static_assert(sizeof PREFIX - 1 + WHARF_DIRECT_NAME_MAX == WHARF_NAME_MAX, "the name is registered with its prefix");
#define ASK_NS ((int64_t)100 * 1000000) /* for one answer of the directory, before others are looked after again */

enum {
        GONE_MAX = 1024, /* names, outlets and inlets remembered after their end */
        SWEEP_MIN = 16,  /* outlets made before those are looked for whose peer has died */
        DOOR_TURN = 64,  /* receives from anyone between two looks at the door */
        HELLO_ID = 0x68656c6c,
};

/* What a hello says: the id of its sender's door, and the name, without the prefix and without a 0. */
struct hello {
        uint64_t id;
        char name[WHARF_DIRECT_NAME_MAX];
};
enum { HELLO_HEAD = offsetof(struct hello, name), DOOR_BYTES_MAX = 1024 };
static_assert(sizeof(struct wharf_name_event) <= DOOR_BYTES_MAX, "what the door takes is as large as an event");

struct outlet {
        struct rolled e;
        wharf_name right;
};

struct inlet {
        struct rolled e;
        struct wh_list by_port; /* in a bucket of d->ports */
        wharf_name port;
        bool in_set;
        bool follows; /* another of that name, which is read first */
        bool met;     /* received from by its name: who had that name before has been told of */
        uint64_t id;  /* of the registration, */
        uid_t uid;    /* and its user */
};

/* A registration of a name, in the directory's words. */
struct known {
        struct rolled e;
        uint64_t id;
        pid_t pid;
        uid_t uid;
        bool gone;
        bool told;  /* who receives from it has been told that it is gone, or will be */
        bool stale; /* not named again yet since the directory began anew */
};

/* A hello that has come and was not judged yet. */
struct claim {
        struct wh_list node;
        wharf_name port;
        struct wharf_sender sender;
        uint64_t id;
        unsigned judged;  /* so often, */
        unsigned in_vain; /* and of these without an answer of the directory */
        char name[WHARF_DIRECT_NAME_MAX + 1];
};

struct wharf_direct {
        wharf_task *task;
        wharf_name door, set;
        uint64_t id; /* of the door */
        struct wh_lock lock, making;
        struct roll outlets, outlets_gone;
        unsigned n_outlets, n_outlets_gone, sweep_at;
        _Atomic bool receiving;
        struct roll inlets, inlets_gone, known, known_gone;
        struct wh_list ports[WH_ROLL_BUCKETS]; /* inlets by their ports */
        struct wh_list claims;
        struct claim *spare; /* for the next hello */
        bool told_all;       /* the directory has told of all names that there were when we joined */
        bool placed;         /* all inlets that follow no other are in the set */
        unsigned n_inlets, n_inlets_gone, n_following, n_gone, turn;
        struct wh_list *before_at; /* the entry at which the look at inlets that others follow goes on (D5) */
        unsigned before_left;      /* so many are to be looked at before a receive may sleep */
        char name[WHARF_DIRECT_NAME_MAX + 1];
};

/* The name that a peer is registered by. -EINVAL */
int wh_direct_full_name(const char *name, char ret[WHARF_NAME_MAX + 1]);

/* ---- known.c ---- */
/* The next one of `name` behind `k`, or the first. */
struct known *wh_known_next(struct roll *r, const char *name, const struct known *k);
struct known *wh_known_find(struct wharf_direct *d, const char *name, uint64_t id);
/* The registration of `name` that has not ended, or NULL. */
struct known *wh_known_living(struct wharf_direct *d, const char *name);
/* The end of that registration is told by nobody from now on. */
void wh_known_told(struct wharf_direct *d, const char *name, uint64_t id);
int wh_known_event(struct wharf_direct *d, const struct wharf_name_event *e);
/*
 * The directory as it is now; for a hello that was faster than what the directory tells. Where it does not answer in
 * time the hello waits for the next call, which is no reason for this one to fail: -EAGAIN.
 */
int wh_known_ask(struct wharf_direct *d, bool waits, int64_t deadline_ns);

/* ---- inlet.c ---- */
/*
 * Is there nothing left at this port after a receive said so? One that may not wait gives up before it has seen
 * everything, if much comes that is no message; the descriptor says what is so (P3). But for a link that waits for a
 * place, of which nothing is read, none is readable (places.G1). 1 or 0.
 */
int wh_direct_is_drained(struct wharf_direct *d, wharf_name name);
/* The first of that name, or the next one behind `in`. */
struct inlet *wh_inlet_find(struct roll *inlets, const struct inlet *in, const char *name);
struct wh_list *wh_inlets_at(struct wharf_direct *d, wharf_name port);
struct inlet *wh_inlet_of(struct wharf_direct *d, wharf_name port);
struct inlet *wh_inlet_next(struct wharf_direct *d, struct inlet *in);
void wh_inlet_gone_free(struct wharf_direct *d, struct inlet *in);
/* All it sent was received, and nobody was told yet that it is gone. If another one follows it, nobody will be. */
void wh_inlet_end(struct wharf_direct *d, struct inlet *in);

/* ---- door.c ---- */
/* One message of the door: of the directory, of the system, or of somebody who wants to be let in. */
int wh_door_take(struct wharf_direct *d, int64_t deadline_ns);
/*
 * Does what there is to do at the door, for a while, and with `waits` waits for something first, until the deadline. As far
 * as `w` goes, but always a little.
 */
int wh_door_serve(struct wharf_direct *d, bool waits, struct work *w);
void wh_claim_free(struct wharf_direct *d, struct claim *c);

#endif
