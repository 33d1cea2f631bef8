/*
 * opening - ports of one message on their way here: how far they are open.
 *
 * look.c and state.c see what is there, open.c makes the port of it, moving.c goes on and undoes.
 */
#ifndef WH_MESSAGE_OPENING_H
#define WH_MESSAGE_OPENING_H

#include "message/move.h"
#include "message/state.h"

enum { WH_COST_LINK = 64 }; /* link.K7: what it takes to make one, or to unmake it */

/* The carrier as its receiver sees it; the descriptors are copies, and closed unless they were taken (-1). */
struct wh_opened {
        const struct wh_move_head *head; /* immutable by the kernel's word: checked, then used */
        const struct wh_move_link *links;
        const uint8_t *bytes;
        size_t map_len;
        int *fds;
        size_t n_fds, next_fd, next_byte;
};

/* One port of a message, opened as far as the budget went. */
struct wh_opening {
        struct wh_opened o;
        struct wharf_port_opts opts;
        uint32_t introduced_max; /* by its own word: what there is stays, whatever more there may be */
        bool caught_up;
        struct wh_port *p; /* once there is one: moving, so that nobody here can use it yet */
        wharf_name name;
        struct wh_link **links; /* so many of them are open, */
        uint32_t n_links;
        uint32_t n_introduced;  /* and of so many it is known who introduced them */
        struct wh_list in_gone; /* of task->gone, once it was undone */
};

struct wh_moving {
        wharf_task *task;
        struct wh_mover by;
        uint64_t n_links, n_fds; /* of all ports of the message */
        bool granted;            /* their payer may have them all, */
        uint64_t reserved;       /* and was charged for so many that are still to be opened */
        unsigned begun, n;       /* items that were looked at; those that are done with */
        struct wh_opening *open[WHARF_ITEMS_MAX];
        wharf_name port[WHARF_ITEMS_MAX];
};

/* K7. False: enough for now. */
static inline bool wh_moving_spend(const struct wh_moving *mv, uint64_t cost)
{
        return !mv->by.over || wh_link_spend(mv->by.over, cost);
}

/* ---- state.c: the state, as its former owner wrote it ---- */

/* Map the state, if it is immutable, really there, of the size that it says, and no larger than there is a use for here. */
int wh_move_state_open(const struct wh_moving *mv, int fd, struct wh_opened *o);
/* May there be such a port here? Counts its links and descriptors. */
int wh_move_state_check(struct wh_moving *mv, struct wh_opening *op);

/* ---- look.c: the carrier; nothing is taken from it ---- */

/* The state of the port in that carrier: nothing else of it is opened before it is clear that it may be. */
int wh_opening_begin(struct wh_moving *mv, int carrier, struct wh_opening *op);
/* All its descriptors; WH_LINK_LATER: not all yet. */
int wh_opening_look(struct wh_moving *mv, int carrier, struct wh_opening *op);
/* The next descriptor is the caller's; -1 when there are not that many. */
int wh_opened_take(struct wh_opened *o);
void wh_opening_done(struct wh_opening *op);

/* ---- open.c ---- */

/* The port of what is in the carrier, or more of it; WH_LINK_LATER: there is more. */
int wh_opening_go_on(struct wh_moving *mv, int carrier, struct wh_opening *op);

#endif
