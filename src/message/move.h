/*
 * move - a receive right on its way to another task.
 *
 * What a port is lies in private memory, in the sockets of its links and in memory that its senders own. All of it is
 * queued in one end of a pair of sockets, the *carrier*, and the message carries the other end only: so the port moves
 * with the message or not at all, and whoever kills which process when, it has one owner or none.
 *
 * What a carrier says stands in state.h. pack.c fills one; look.c and state.c look into one and check it, open.c makes the port,
 * and moving.c goes on where the budget ended, and undoes.
 *
 * Always true:
 *   M1  From wh_move_pack() to wh_move_end() the port is frozen: nobody here takes a message, sends a reply or makes a
 *       right, so what was packed stays true. Senders notice nothing: what they send waits where it is.
 *   M2  Nothing that a sender could notice happens before the message is sent, but that replies to calls that were
 *       received already are announced to come over sockets of their own (VIA), which is true either way.
 *   M3  The new owner only looks into the carrier (MSG_PEEK) until everything is there and checked, so a task that is
 *       short of memory or descriptors can try again.
 *   M4  All in the carrier is claimed by the former owner, who may lie: it is read once, from memory that the kernel
 *       has made immutable, and checked like anything that comes from a sender. A liar can only hand over a bad port.
 *   M5  The new owner asks every sender for a pair and a lane of its own (RENEW; K5 in link.h). Until a sender has seen
 *       to that, nothing is known of it but the word of the former owner, who may have kept copies; then it is as good as
 *       new, but for who introduced it (identity.h, I5).
 *   M6  What the new owner spends on it is bounded by what it has, and not by what the state says: every length is held
 *       against the others, against the memory and against the descriptors that this task can have before it is used; a
 *       port is opened link by link on the budget of the link that it came over (link.K7); what has come of large messages
 *       is mapped, and stays the mover's memory; another user's links take of its share before the first of them is made, and
 *       its options are at most the defaults.
 *   M7  No port comes here with the id of one that this task has made, or has from its own user.
 *   M8  What is done for each link of a port is on a budget (link.K7): its opening, with who introduced it; what its holder
 *       is told (wh_link_arrive()), when a receive first looks at it; and its end, where the port is not to be had after
 *       all. What is left of that (task->gone) goes on in every receive of the task, and before the next port is opened. A
 *       link takes 4 us to open, 3 to tell and 4 to end; with a lane some 14, and there may be thousands.
 */
#ifndef WH_MESSAGE_MOVE_H
#define WH_MESSAGE_MOVE_H

#include "link/link.h"
#include "right/right.h"

/* -ELOOP when a receive right in `m` would be sent to its own port: nobody could ever receive it. */
int wh_move_check_circle(wharf_task *t, wharf_name right, const struct wharf_msg *m);

/*
 * Freeze the port and pack it. *ret is the end of the carrier to be sent. On failure the port goes on; after success
 * wh_move_end() says what became of the message.
 */
int wh_move_pack(wharf_task *t, wharf_name port, int *ret);
void wh_move_end(wharf_task *t, wharf_name port, bool sent);

/* Who moves a port here. */
struct wh_mover {
        struct wharf_introducer given; /* the former owner, */
        uid_t payer;                   /* on whose account the links are until their holders are known */
        bool own; /* it is this task's own user, or whoever started this process: kept from nothing by its share */
        struct wh_link *over; /* the link that they come over, whose budget this takes; NULL: all at once */
};

/*
 * Make ports of what the carriers among the first `n` of those items hold, which keep it all. 0: they are open;
 * WH_LINK_LATER: the budget is used up, and the next call goes on there. Otherwise nothing is left of them here.
 * WH_LINK_WAITS: the link waits for places (places.h); -ENOMEM, -EMFILE: try again; -EDQUOT: more than the mover's user may
 * ever have; -EPROTO: it is no carrier of ours; -EPROTONOSUPPORT.
 */
int wh_moving_open(wharf_task *t, struct wh_items *i, unsigned n, const struct wh_mover *by);
/* The port of item `k`, once they are open. */
wharf_name wh_moving_port(const struct wh_items *i, unsigned k);
/* They are somebody's, and stay: wh_move_start() makes each the port's owner for good. */
void wh_moving_done(struct wh_items *i);
/* Away with what is open, at once or bit by bit (M8). Harmless where nothing is. */
void wh_moving_undo(struct wh_items *i);
/* What was undone and is still there is cleared away, on the budget of `over`. True: not all of it. */
bool wh_moving_clear(wharf_task *t, struct wh_link *over);
/* The same, so much as there is a budget for; and is there any? */
bool wh_ports_clear(wharf_task *t);
static inline bool wh_ports_gone(wharf_task *t)
{
        /* Relaxed: whoever has added to it looks at it after that, and others find it a moment later. */
        return wh_unlikely(atomic_load_explicit(&t->n_gone, memory_order_relaxed) != 0);
}
/* In a forked child: frees memory alone. */
void wh_moving_forget(struct wh_items *i);
void wh_ports_forget(wharf_task *t);
/* Takes the descriptor. */
void wh_move_start(wharf_task *t, wharf_name port, int carrier);
/* A receive looks at a link that came with a port for the first time: it is ours alone now, and its holder is asked anew (K5). */
void wh_link_arrive(struct wh_link *l);

#endif
