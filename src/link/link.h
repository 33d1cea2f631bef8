/*
 * link - one send right's private connection to its port: a socket, and in each direction, once worth it, a lane.
 *
 * The holder of the send right has one end, the owner of the port the other. Both ends begin with this one struct, of
 * which `out` is what the end sends and `in` what it receives; requests travel from holder to owner, replies from owner
 * to holder, by the same code. What only an owner has is in owned.h, and what only a holder has in held.h.
 *
 * Always true:
 *   K1  Messages of one direction are numbered 0, 1, 2 ... whatever way they travel. Frames and records interleave in
 *       one order: cold messages come first, ATTACH ends them, records carry all that follows.
 *   K2  The descriptors of a record are in the ITEMS frame of its number, which was sent before the record.
 *   K3  Whatever the peer claims is copied, then checked. A peer that breaks the protocol loses this link, no more.
 *   K4  `over` is 0 while the link lives, and then forever the errno that says why it ended.
 *   K5  A link that came in a message is provisional: before its first message the holder makes a pair of its own and
 *       sends one end over the old one (REBIND), so whoever introduced it can not speak as the holder (identity.h).
 *       The same goes for a link whose port has moved: its new owner asks (RENEW), and what the former owner kept, be
 *       it sockets or memory, is then of no use to it.
 *   K6  A lane, or a pair, ends at a message and a record that both sides know (struct wh_change). The receiver goes
 *       over when it has taken all before that, and reads nothing that comes behind it earlier.
 *   K7  What is no message (frames, doorbells, parts of messages, offers that were withdrawn) is read on a budget, and so is
 *       the other side's memory mapped and what comes with a message made, at both ends, that is filled where the deadline of a call is looked at. What is left when it is used up stays where it
 *       is, and the call looks at its deadline. So nobody keeps another from returning.
 *
 * Guards: at the holder everything is under o.lock. At the owner, receiving (`in`, sock) is under the inbox's lock and
 * sending (`out`, sock) under o.lock; `sock` changes only with both held.
 */
#ifndef WH_LINK_LINK_H
#define WH_LINK_LINK_H

#include "base/list.h"
#include "lane/lane.h"
#include "os/closer.h"
#include "link/frame.h"
#include "link/identity.h"
#include "task/account.h"
#include "task/task.h"
#include "wharf/message.h"

struct wh_port;
struct wh_inbox;
struct wh_notice;
struct wh_branch;
struct wh_moving;

/* A whole message in private memory: read from the socket, put together from chunks, or kept for another thread. */
struct wh_stash {
        union {
                struct {
                        bool full;
                        bool building; /* fragments or chunks are still to come */
                };
                uint16_t busy; /* either */
        };
        bool mapped;    /* `bytes` is a mapping of a descriptor (MEMORY), of `len` bytes */
        int memory;     /* when mapped: the descriptor, where it may be handed on, or is closed elsewhere; or -1 */
        uint8_t *bytes; /* from wh_os_malloc_payload() otherwise; NULL when len is 0 */
        uint64_t len;   /* of the whole message */
        uint64_t have;  /* less than `len` while it is being put together */
        uint64_t room;  /* allocated */
        uint32_t id, call;
        unsigned n_items; /* of the link's items, those that belong to this message; others were read ahead */
        uint8_t how;      /* enum wharf_how */
        bool tell;        /* WH_MSG_TELL */
        uint16_t refused; /* of a reply: the errno for which it was not written directly, or 0 */
};

/* Descriptors that came ahead of their message. */
struct wh_items {
        uint64_t seq;
        unsigned n;
        bool own; /* a process of this task's own user wrote the frame that they were in, as the kernel says */
        uint8_t kind[WHARF_ITEMS_MAX + 2];
        int fd[WHARF_ITEMS_MAX + 2];
        struct wh_moving *moving;         /* ports among them that are being opened, or NULL: move.h */
        void (*undo)(struct wh_items *i); /* ... and how that is undone */
};

/* Kinds of items on the wire. */
enum {
        WH_ITEM_FD = 1,
        WH_ITEM_SEND = 2,
        WH_ITEM_REPLY = 3,   /* a send-once right: a socket that takes one message */
        WH_ITEM_MEMORY = 4,  /* the payload itself; never shown to the user */
        WH_ITEM_RECEIVE = 5, /* a receive right: one end of its carrier (move.h) */
        WH_ITEM_BESIDE = 6,  /* a memory beside the payload: WHARF_GOT_MEMORY */
        WH_ITEM_KINDS
};

/* What a link waits for: places.h. */
enum wh_waits_for {
        WH_WAITS_NOT = 0,
        WH_WAITS_INTRODUCTION = 1, /* the frame that is next introduces somebody who finds no place */
        WH_WAITS_USER = 2,         /* ... is of a user who has all the links that it may have */
        WH_WAITS_MOVED = 3,        /* the message that is next has a port whose links find no places (move.h) */
        WH_WAITS_PLACE = 4,        /* it has none itself (G3) */
};
/* What is told inside of such a link: nothing of it can be read now, and nothing has changed. */
#define WH_LINK_WAITS (-EINPROGRESS)
/* ... or the budget is used up (K7). */
#define WH_LINK_LATER (-EALREADY)

/*
 * K7: a frame costs WH_COST_FRAME and two for each descriptor, a record one, and so do WH_COST_BYTES that are copied to fresh
 * memory, or WH_COST_MAPPED of the other side's that are looked through for holes and mapped, or are unmapped. What a
 * receiver makes of an item costs it WH_COST_FRAME once more.
 */
enum {
        WH_BUDGET = 4096,      /* a millisecond or so; of one call, between two looks at its deadline */
        WH_BUDGET_TURN = 1024, /* of that, for one link before the others have their turn */
        WH_COST_FRAME = 16,
        WH_COST_BYTES = 1024,   /* copied */
        WH_COST_MAPPED = 16384, /* mapped, */
        WH_COST_READ = 2048,    /* ... where it cannot be asked for holes, and is read through */
};

/* Where the peer's present lane, and perhaps the pair, ends (K6). */
struct wh_change {
        bool due;     /* announced, and not reached yet; sock_ready is set */
        bool lane;    /* there is a lane that ends, with the record of number `records` */
        uint64_t seq; /* messages before it */
        uint64_t records;
        int sock;     /* at the owner: the pair that comes then; -1 */
        bool awaited; /* ... with our greeting */
        bool told;    /* ... as the former owner says: its holder is asked anew */
        struct wh_cred cred;
        uint32_t known;                /* enum wharf_known: how the holder is from then on, */
        struct wharf_introducer given; /* and from whom it has its right, as it says */
};

enum {
        WH_DETOUR_ABORT = 1,  /* a message in pieces was given up: the receiver is told before the next */
        WH_DETOUR_OFFER = 2,  /* the port's capacity is zero: every message is offered */
        WH_DETOUR_REBIND = 4, /* at the holder: the port has moved, see K5 */
        WH_DETOUR_RENEW = 8,  /* at the owner: the holder was not told so yet, for its socket was full */
};

enum {
        WH_GROW_NOT = 0,
        WH_GROW_RING = 1,   /* a larger ring, and sections for what finds no place in one */
        WH_GROW_BLOCKS = 2, /* sections for whatever it is */
};

struct wh_link;

/*
 * What an end answers to what comes in on its link, and what it asks before something is made or kept: the owner's
 * (owner.c) and the holder's (holder.c). So the link's own code knows neither port nor right. A plain record calls none.
 */
struct wh_end_ops {
        bool owner;
        size_t size; /* of the struct that the link is the beginning of */

        /* ---- what comes in: under the receiving guard ---- */

        /*
         * May the process `cred` have written this frame? 0; WH_LINK_WAITS, -ENOMEM: another time; or it is a breach. And
         * on whose account the link is until then.
         */
        int (*sender)(struct wh_link *l, const struct wh_frame *f, const struct wh_cred *cred, uid_t *ret_payer);
        /* What sender() told was of what was looked at and not taken: it is charged to `payer`, as before. */
        void (*not_taken)(struct wh_link *l, uid_t payer);
        /* Somebody is introduced. Takes `sock`. 0, also where it is refused; WH_LINK_WAITS or -ENOMEM: another time. */
        int (*introduced)(struct wh_link *l, int sock, const struct wh_frame *f, const struct wh_cred *cred);
        /* Say what the port takes; `seq` as WHO had it, or 0. What does not go now is asked for again. */
        int (*greet)(const struct wh_link *l, uint64_t seq);
        /* All who introduced the holder, the nearest first: identity.h. */
        void (*introducers)(const struct wh_link *l, wh_see_introducer fn, void *arg);
        /* Go over to the pair of l->in.change. On failure the system refused, or it waits, and nothing has changed. */
        int (*change)(struct wh_link *l);
        /*
         * The reply to `call` was written into its window: that becomes the stash. False where there is none such: the
         * call was given up, if *ret_given_up.
         */
        bool (*written)(struct wh_link *l, uint32_t call, const struct wh_rec_direct *d, bool *ret_given_up);
        /* The reply to `call` will come over `sock`, which is taken. */
        void (*via)(struct wh_link *l, uint32_t call, int sock);
        /* What was written into a window has been delivered. */
        void (*window_read)(struct wh_link *l, void *map, uint64_t map_len);
        /* Doorbells were thrown away, or all was read: one of them may have been for room. */
        void (*drained)(struct wh_link *l);

        /* ---- what is kept for the other side: under the receiving guard ---- */

        uint32_t *(*budget)(struct wh_link *l); /* K7 */
        /* May this link map more? The bytes it may, or -EDQUOT / -ENOBUFS when none. Then: what it maps has changed. */
        int64_t (*may_map)(struct wh_link *l);
        void (*mapped)(struct wh_link *l);
        /*
         * So much is held from now on, and no less or more: BYTES of a large message while it comes; RIGHTS, descriptors
         * that were read for messages not received yet. 0 or -EDQUOT, -ENOMEM, where it is more than before.
         */
        int (*hold)(struct wh_link *l, enum wh_share share, uint64_t n);
        /* The limit for which a link is refused with `err`, or 0 where it is none. */
        uint64_t (*limit)(const struct wh_link *l, int err, enum wh_refusal which);

        /* ---- what is made for the other side: under the sending guard ---- */

        /* So much memory may be shared with it, what there is included. Then: the lane or its sections have changed. */
        uint64_t (*may_share)(struct wh_link *l);
        void (*shared)(struct wh_link *l);
        /*
         * So much goes to it in the next frame: bytes, in a memory of their own (REPLIES), or descriptors (FLYING). -EDQUOT or
         * -ETOOMANYREFS: its user has its share, unread; -ENOMEM. And it was not sent after all.
         */
        int (*sends)(struct wh_link *l, enum wh_share share, uint64_t n);
        void (*unsent)(struct wh_link *l, enum wh_share share, uint64_t n);
        /* Tell the other side that the port has moved; owed, where that is not possible now. */
        int (*renew)(struct wh_link *l);
        /* The pair of which `sock` is an end is watched like the link's, or no more; and the link's is another now. */
        int (*watch)(struct wh_link *l, int sock, bool add);
        void (*sock_changed)(struct wh_link *l);
};

/* What this end sends. What every plain message needs stands last, next to what it needs of the link: struct wh_link. */
struct wh_sending {
        uint64_t probed_at; /* ticks: when the socket was last asked whether the receiver lives */
        uint32_t cold_sent; /* frames; few, then the lane is attached */
        uint32_t cold_bytes;
        uint64_t cold_large;   /* bytes in those that count against capacity_bytes */
        uint64_t cold_looked;  /* ticks: when a sender of frames last looked for what it was told */
        uint64_t cold_taken;   /* cold messages that the receiver said it took, before a lane counts them */
        uint64_t known_taken;  /* messages that the receiver was seen to have taken when the last lane ended */
        uint64_t attached_at;  /* messages before the lane */
        uint64_t items_record; /* the last record with items */
        uint64_t offer;        /* 0, or 1 + the number of the offer that stands */
        uint64_t short_bytes;  /* the last message that was too much for capacity_bytes had so many */
        uint64_t later;        /* 0, or 1 + the number of the message that was left and not told about (room.c) */
        uint64_t later_end;    /* where its record ends */
        uint32_t items_unread; /* sent since the receiver was last seen to have all */
        uint32_t renew_seen;   /* of back->renew */
        int direct_refused;    /* why nothing can be sent directly here, as the receiver said: an errno, or 0 */
        int reply_refused;     /* at the owner: why the reply that is being sent was not written directly */
        int offer_slot;        /* the block of the offer that stands, or -1 */
        bool no_lane;          /* shared memory cannot be made here: stay cold */
        bool sock_full;        /* what we wait for is room in the socket */
        bool room_asked;       /* at the holder: a notice of room is armed (room.c) */
        uint8_t grow;          /* WH_GROW_*: what this attempt may make, rather than find the queue full */
        /* from here on: every plain message */
        struct wh_lane_tx *lane; /* NULL: frames */
        uint64_t seq;            /* the number of the next message (K1) */
        int over;                /* nothing can be sent any more, for this errno; receiving may go on */
        uint8_t detour;          /* WH_DETOUR_*: why the short ways are closed */
        bool busy;               /* a thread is in the middle of a message of several pieces */
        bool grow_refused; /* the last time that memory was to be made for the queue, it could not be; seldom needed */
};

/* What this end receives. What every plain message needs comes first. */
struct wh_receiving {
        struct wh_lane_rx *lane; /* NULL: frames */
        uint64_t seq;            /* the number of the next message (K1) */
        bool hung_up;            /* the kernel says that the other side is gone; there may be more to read, */
        bool sock_ended;         /* ... and everything was read */
        bool sock_ready;         /* there may be something to read on the socket */
        bool rung;               /* ... and since it became so nobody has seen that it is doorbells alone (pump.c) */
        uint8_t waits;           /* enum wh_waits_for: nothing of it is read meanwhile */
        bool direct;             /* stash.bytes is the buffer of the receive that is running */
        bool leader;             /* at the holder: a thread waits on the socket for all */
        bool armed;              /* at the owner: the sender will ring */
        struct wh_stash stash;   /* of which a plain message needs `busy`, the first */
        struct wh_items items;
        uint32_t frames_got; /* since the lane came */
        uint32_t arms;       /* sleeps announced since the socket was last emptied */
        uint32_t budget;     /* K7; at the owner it is its inbox's */
        uint32_t lanes;      /* there were so far */
        uint64_t last_line; /* of a ring whose writer is gone nothing begins here, or later: that was published since */
        uint64_t offer;     /* 0, or 1 + the number of the offer that the stash holds */
        const struct wh_frame
                *looked;       /* the frame that is being read, and was not taken from `looked_sock` yet, or NULL */
        const int *looked_fds; /* its descriptors */
        int looked_sock;
        uint8_t refusal;            /* enum wh_refusal; at the holder: what REFUSE said */
        uint64_t refused_max;       /* at the holder: the limit that it said, or 0 */
        struct wh_lane_rx *retired; /* ended lanes with payloads that the user still holds */
        struct wh_change change;    /* where the present lane, or pair, ends */
        uint32_t renews;            /* at the owner: said in back->renew */
        uint8_t slow;               /* frames take long here: so many more looks at the time that they take (pump.c) */
        bool greeting_awaited;      /* at the holder, on the new pair: then what lies in the old one is all */
        int old_sock;               /* after a rebind: the pair before it, until what lies there is read; -1 */
        struct wh_change after_old; /* what that greeting said */
        struct {
                uint32_t call;
                uint64_t at, len;
        } window; /* at the owner: said by a record, for a request that is still to come */
        struct {
                uint64_t asked; /* number of the last question */
                uint64_t port;  /* which of its owner's ports: the word of whoever answered */
                bool pending, answered;
        } whose; /* at the holder: who the owner is, once it was asked for (whose.c) */
};

/*
 * What both ends have. Each is the beginning of what it is besides: struct wh_owned (owned.h) or struct wh_held (held.h);
 * one for a single message is no more than this (wh_single_end).
 *
 * What a plain message touches of it is together: when it is sent (wh_link_send_plain() and what that ends with), the
 * lock and the name, and from out.lane to hello.payload_bytes_max; when it is received (receive_plain()), from `over` to
 * in.stash.busy. So each needs three cache lines, wherever the allocator puts it.
 */
struct wh_link {
        struct wh_object o; /* the name: at the holder of a send right, at the owner the sender's id */
        wharf_task *task;
        const struct wh_end_ops *end;
        struct wh_sending out;
        _Atomic int
                over; /* K4; everything that came was delivered. Whoever answers reads it without the inbox's lock */
        int sock;
        bool owner;   /* which end this is: end->owner */
        bool once;    /* a send-once right: one message and no more */
        bool greeted; /* at the holder: `hello` is what the owner said */
        bool answer;  /* at the reading end of a reply that was passed on (VIA), or of a carrier: also one message */
        bool takes_direct; /* at the owner: payloads may go directly (direct.h) */
        bool movable;      /* it may have to be handed on, with all that it has mapped */
        bool provisional;  /* K5; at the holder */
        bool borrowed;     /* ... and no pair of its own can be made here */
        bool handed_on;    /* another task has this end now: ours is a copy, and so are those of its items */
        bool came;         /* with a port, and no receive has looked at it yet (move.h, M8): it is hot until then */
        bool connected;    /* it came by accept(), and is still that socket */
        bool kept;         /* its socket stays as it is: kept.h */
        struct wh_hello hello;
        struct wh_receiving in;
        struct wh_cred cred;     /* who the other side is: at the owner where `who` says that it is known, */
        struct wharf_sender who; /* of what is received from here on: identity.h; at the holder once it was asked for */
        struct wharf_introducer given; /* at both ends: who gave the holder its right */
        uint64_t once_fds, once_bytes; /* at the holder of a send-once right: charged for what it sent (paying.c) */
};

/* So many cache lines at most hold the bytes from `from` to `to` of what an allocator has aligned to 16. */
#define WH_CACHE_LINES(from, to) (((to) - (from) / 16 * 16 + 48 + 63) / 64)
#define WH_ENDS_AT(member) (offsetof(struct wh_link, member) + sizeof(((struct wh_link *)0)->member))
static_assert(WH_CACHE_LINES(0, WH_ENDS_AT(o.name)) +
                              WH_CACHE_LINES(offsetof(struct wh_link, out.lane), WH_ENDS_AT(hello.payload_bytes_max)) <=
                      3,
              "a plain message is sent with three cache lines of the link");
static_assert(WH_CACHE_LINES(offsetof(struct wh_link, over), WH_ENDS_AT(in.stash.busy)) <= 3,
              "a plain message is received with three cache lines of the link");

/* Whom what this end writes is for, and what it reads must have been written for. */
static inline enum wh_frame_to wh_link_says(const struct wh_link *l)
{
        return l->owner ? WH_TO_HOLDER : l->once ? WH_TO_ONCE : WH_TO_OWNER;
}
static inline enum wh_frame_to wh_link_hears(const struct wh_link *l)
{
        return l->owner ? (l->once ? WH_TO_ONCE : WH_TO_OWNER) : l->answer ? WH_TO_ONCE : WH_TO_HOLDER;
}

/* ---- link.c: life ---- */

struct wh_link *wh_link_new(wharf_task *t, uint8_t kind, int sock, const struct wh_end_ops *end);
/* The link ends now, for the reason `err`; the first reason stays. Closes nothing. */
void wh_link_end(struct wh_link *l, int err);
/* End the link for a breach; an owner says why before it hangs up. Returns `err`. */
int wh_link_break(struct wh_link *l, int err);
/*
 * Frees what a link holds (lanes, stash, items, socket), of the parts that both ends have. The object itself goes back to
 * its pool by the caller.
 */
void wh_link_done(struct wh_link *l);
/* Descriptors that are kept of its lanes. */
unsigned wh_link_kept(const struct wh_link *l);
/*
 * The same of a link that is over and that nobody reads from or sends on any more, though it may stay for its references: all
 * but the sockets, and the lanes in which its user holds something in place.
 */
void wh_link_let_go(struct wh_link *l);
/* How its end is to be closed. */
enum wh_end wh_link_end_how(const struct wh_link *l);

/* K7: take from the budget. False: it is used up. */
static inline bool wh_link_spend(struct wh_link *l, uint64_t cost)
{
        uint32_t *left = l->end->budget(l);
        *left = cost < *left ? *left - (uint32_t)cost : 0;
        return *left > 0;
}

/* ---- name.c ---- */

/* Lock and return the link of the send right that `name` stands for; NULL with *err when it is none. Unlock with wh_unlock(). */
struct wh_link *wh_holder_lock(wharf_task *t, wharf_name name, int *err);

/* ---- out.c: the ways out; under the sending guard ---- */

struct wh_outgoing {
        const void *data;
        uint64_t len;
        uint32_t id, call;
        uint32_t asked; /* enum wharf_how, or WH_HOW_WINDOW (choose.h); AUTO, where that could not be had */
        uint32_t how;   /* it went */
        unsigned n_items;
        uint8_t kind[WHARF_ITEMS_MAX + 2];
        int fd[WHARF_ITEMS_MAX + 2];
        int slot;        /* a lent block that holds the payload already, or -1 */
        int memory;      /* a sealed memory that is the payload, borrowed, or -1 */
        int dropped;     /* not 0: this is no message but the end of `call`, for this errno */
        bool items_gone; /* with the message; whatever is reported then, they are not the sender's any more */
        bool whole;      /* it must not be in parts, which would wait for the receiver */
        bool kept;       /* it goes behind a full queue */
        bool forbidden;  /* memory for it, as was found */
        bool items_sent; /* progress over waits */
        bool started;
        uint64_t done;
        uint64_t window_at; /* of a DIRECT reply: where in the caller; of a window: how long it is. Not initialised */
};

/* A message of bytes alone, and its id. */
struct wh_bytes {
        const void *data;
        uint64_t len;
        uint32_t id;
};
/*
 * Of these, in their order, as many as find a place in the lane now: each is a record of its own, and the receiver is rung once.
 * How many; or why nothing can be sent any more, where the receiver was found to be gone and may have had none of them.
 */
int wh_link_send_many(struct wh_link *l, const struct wh_bytes *b, unsigned n);
/* Bytes in a record, where nothing is in the way. -EAGAIN: it takes the long way, or there is no room now. */
int wh_link_send_plain(struct wh_link *l, const void *data, uint64_t len);
/* One step: 0 when all is sent; -EAGAIN when there is no room now; otherwise the message cannot be sent. */
int wh_link_try_send(struct wh_link *l, struct wh_outgoing *o);
/* Publish one message behind a full queue. -EAGAIN: what is kept for it is used. */
int wh_link_send_kept(struct wh_link *l, struct wh_outgoing *o);
/* Would even a small message have to wait? */
bool wh_link_full(struct wh_link *l);
/* An offer ends without an answer, for `err`: withdrawn, and that is the result; or 0, since it was taken after all. */
int wh_link_withdraw(struct wh_link *l, struct wh_outgoing *o, int err);
/* The short way for a payload that was reserved and filled: -EAGAIN when only the long way can tell what is wrong. */
int wh_link_send_lent(struct wh_link *l, uint32_t id, uint16_t slot, uint64_t len);
/* All but the arrays, which are large and seldom needed. */
static inline void wh_outgoing_init(struct wh_outgoing *o, const void *data, uint64_t len)
{
        o->data = data;
        o->len = len;
        o->id = o->call = 0;
        o->asked = o->how = WHARF_HOW_AUTO;
        o->n_items = 0;
        o->slot = o->memory = -1;
        o->dropped = 0;
        o->items_sent = o->started = o->items_gone = o->whole = o->kept = o->forbidden = false;
        o->done = 0;
}

/* ---- cold.c, grow.c: what frames and memory hold; under the sending guard ---- */

/* The first `n` messages were taken, as the receiver says by frames and replies. */
void wh_link_told(struct wh_link *l, uint64_t n);
/* WHARF_FULL_*: by what the queue is full for what was tried last; 0 when it is not. */
uint32_t wh_link_full_by(struct wh_link *l);
/* Make the lane, or stay cold. 0; -EAGAIN when the socket is full. */
int wh_link_attach(struct wh_link *l);
/* Lend a block, adding a section where there is none that large. -EAGAIN: none free now. */
int wh_link_lend(struct wh_link *l, uint64_t len, uint16_t *ret_slot, void **ret);
/* Shared memory that this end pays for, unread rings that were left behind included. */
uint64_t wh_link_shared_bytes(const struct wh_link *l);
/* Shared memory may not be made here: the answer of a sandbox, or of RLIMIT_FSIZE, which will be the same next time. */
static inline bool wh_forbidden(int r)
{
        return r == -EPERM || r == -EACCES || r == -ENOSYS || r == -EFBIG;
}

/* ---- wire.c: the socket, as the sending end uses it; under the sending guard ---- */

/* Send a frame, counting it where the peer must know that one is there. */
int wh_link_frame(struct wh_link *l, struct wh_frame *f, const void *data, size_t len, const int *fds, bool cred);
void wh_link_bell(struct wh_link *l);
/* Has the owner said what its port takes? An owner knows. */
bool wh_link_greeted(struct wh_link *l);
/* Has the receiver died? Asked of the socket at most once a millisecond; true when it was. */
bool wh_link_probe(struct wh_link *l, bool now);

/* ---- change.c: a lane or a pair ends ---- */

/* Under the sending guard: before the next message of a provisional link (K5). Harmless where a pair cannot be made, or not now. */
int wh_link_rebind(struct wh_link *l);
/* Under the sending guard: sending goes on in another lane, or in none. */
void wh_link_leave_lane(struct wh_link *l);
/* The other side is gone: what it still publishes in its lane is read no more (a breach). */
void wh_link_hung_up(struct wh_link *l);
/* The lane that a held payload lies in: number `n` of this link. NULL: there is none. */
struct wh_lane_rx *wh_link_lane(struct wh_link *l, uint32_t n);
/* A payload of that lane was given back: free it, where it was the last of an ended one. */
void wh_link_unheld(struct wh_link *l, struct wh_lane_rx *rx);

/* ---- in.c: one message after another; under the receiving guard ---- */

/* The next message of a link, described and not yet taken. */
struct wh_incoming {
        uint8_t *direct; /* in: a small message's parts may go straight into this buffer, with so much room; or NULL */
        uint64_t direct_room;
        enum { WH_IN_RECORD, WH_IN_BLOCK, WH_IN_STASH } where;
        const uint8_t *bytes;
        uint64_t len;
        uint32_t id, call;
        uint8_t how; /* enum wharf_how, and WH_HOW_OFFERED */
        unsigned n_items;
        int dropped; /* not 0: the call `call` ended for this errno */
        int refused; /* with a call: as in wh_stash */
        struct wh_rec rec;
        uint16_t slot;
};

/* In `how`: it is the receiver's only once wh_link_claim() says so. */
enum { WH_HOW_OFFERED = 0x80 };

/*
 * 1: *in is the next message. 0: nothing now. Negative: with l->over, the link is over and everything it held was
 * delivered; without, the system has no memory for what waits on the socket, and nothing has changed.
 */
int wh_link_next(struct wh_link *l, struct wh_incoming *in);
/* Done with it; descriptors in l->in.items that nobody took are closed. */
void wh_link_took(struct wh_link *l, const struct wh_incoming *in);
/* The same of a payload in a block, which stays until it is released. */
void wh_link_hold(struct wh_link *l, const struct wh_incoming *in);
/* Is an offer still standing? */
bool wh_link_still_offered(const struct wh_link *l, const struct wh_incoming *in);
/* Take the offer. False: it was withdrawn; then wh_link_skip() in place of wh_link_took(). */
bool wh_link_claim(struct wh_link *l, const struct wh_incoming *in);
void wh_link_skip(struct wh_link *l, const struct wh_incoming *in);
/* The receiver will sleep: announce it, so that the sender rings. False when something is there after all. */
bool wh_link_arm(struct wh_link *l);

/* ---- pump.c: reading the socket; under the receiving guard ---- */

/* What reads a socket reads it for. */
enum wh_until {
        WH_UNTIL_EMPTY,    /* nothing in particular: what concerns sending, before a message */
        WH_UNTIL_GREETED,  /* ... or the greeting */
        WH_UNTIL_ANSWERED, /* ... or the answer to WHO */
        WH_UNTIL_ITEMS,    /* what belongs to the record that is being read: its descriptors, */
        WH_UNTIL_SECTION,  /* the section number `n`, */
        WH_UNTIL_RING,     /* the ring that follows */
};
/*
 * Read the socket, to the next message or until that is there. 0; WH_LINK_LATER: the budget was used up; otherwise as
 * wh_link_next(), where the link is not over.
 */
int wh_link_read(struct wh_link *l, enum wh_until until, unsigned n);
/* The same once. 1: something changed; 0: nothing more; WH_LINK_WAITS, WH_LINK_LATER; otherwise as wh_link_next(). */
int wh_link_pump(struct wh_link *l);
/*
 * The frame that is being read is taken from the socket: from here on it may have effect. 0, also where there is none.
 * On failure nothing has, and may have: it is not what was looked at (-EPROTO), or there still.
 */
int wh_link_take_frame(struct wh_link *l);

/* ---- stash.c, descriptors.c: what came and is kept; under the receiving guard ---- */

/* A message that is a sealed memory becomes the stash; takes the descriptor, also on failure. */
int wh_link_stash_memory(struct wh_link *l, int fd, uint64_t len, uint32_t id, uint32_t call);
/* Stop putting chunks into a buffer that is about to be used otherwise. -ENOMEM ends the link. */
void wh_link_privatise(struct wh_link *l);
void wh_stash_done(struct wh_stash *s);
void wh_items_done(struct wh_items *i);

/* ---- direct.c ---- */

/* A pidfd of the process that made the owner's end's link and holds it. -ESRCH where it is gone or not known. */
int wh_link_pidfd(struct wh_link *l, int *ret);

#endif
