/* What each kind of record is for the receiver: records.c. Under the receiving guard. */
#ifndef WH_LINK_RECORDS_H
#define WH_LINK_RECORDS_H

#include "link/link.h"

/* Finished with the record that is next. */
static inline void wh_records_done(struct wh_link *l, const struct wh_rec *rec)
{
        if (wh_unlikely(wh_ring_advance(&l->in.lane->ring, rec)))
                wh_link_bell(l);
}

/* The record in->rec, which is next. 1: *in is a message; 0: look again; negative: a breach, or as wh_link_next(). */
int wh_records_take(struct wh_link *l, struct wh_incoming *in);

#endif
