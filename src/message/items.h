/*
 * items - rights and descriptors while they travel: made ready before a message is sent, settled after it.
 *
 * All or nothing: preparing only makes what can be unmade (new pairs); what cannot (dropping the moved name, telling a
 * caller where its reply will come from) happens after the message is on its way.
 */
#ifndef WH_MESSAGE_ITEMS_H
#define WH_MESSAGE_ITEMS_H

#include "right/right.h"

struct wh_items_out {
        struct wh_outgoing *o;
        bool close[WHARF_ITEMS_MAX];      /* o->fd[i] was made for this message */
        bool itself[WHARF_ITEMS_MAX];     /* ... as a copy of the socket of the right that is moved */
        uint64_t minted[WHARF_ITEMS_MAX]; /* the owner's half of a right made for this message */
        int via[WHARF_ITEMS_MAX];         /* -1, or the other end of a delegated reply */
        unsigned n_moves;                 /* receive rights among them */
};

/*
 * Fills o's items from the message, which goes over the right `over`. May wait for room on the links of rights that are
 * copied.
 */
int wh_items_prepare(wharf_task *t, const struct wharf_msg *m, struct wh_outgoing *o, struct wh_items_out *out,
                     wharf_name over, int64_t deadline_ns);
void wh_items_finish(wharf_task *t, const struct wharf_msg *m, struct wh_items_out *out, bool sent);

/*
 * Opens the ports among the first `n` descriptors of `from`, which came over that link, before anything else of their message
 * is delivered. 0; WH_LINK_LATER: the budget is used up, and the next call goes on; WH_LINK_WAITS; other failures leave nothing.
 */
int wh_items_open(wharf_task *t, struct wh_link *l, struct wh_items *from, unsigned n);
/*
 * Names and descriptors of the user for the first `n` of them, of which none is taken yet. On failure nothing has changed but
 * that ports which were opened are to be undone (wh_moving_undo()).
 */
int wh_items_accept(wharf_task *t, struct wh_link *l, const struct wh_items *from, unsigned n, struct wharf_item *to);
/* Then one of these: they are the user's, for good; or the names go again, and all is as before. */
void wh_items_take(wharf_task *t, struct wh_items *from, const struct wharf_item *got, unsigned n);
void wh_items_unaccept(wharf_task *t, const struct wharf_item *got, unsigned n);

/* Gives back what was received and is of no use, of whatever kind it is; what was taken has kind 0. */
void wh_items_drop(wharf_task *t, const struct wharf_item *items, unsigned n);

#endif
