/*
 * roll - what there is of many names, in its order and by its name; those of one name have the same order in both.
 */
#ifndef WH_NAMES_DIRECT_ROLL_H
#define WH_NAMES_DIRECT_ROLL_H

#include "base/list.h"
#include "wharf/direct.h"

enum { WH_ROLL_BUCKETS = 256 }; /* so that a message costs the same, however many peers there are */

/* What outlets, inlets and what is known have first: a place in a roll. */
struct rolled {
        struct wh_list node, in_bucket;
        char name[WHARF_DIRECT_NAME_MAX + 1];
};

struct roll {
        struct wh_list all, bucket[WH_ROLL_BUCKETS];
};

void wh_buckets_init(struct wh_list *bucket);
void wh_roll_init(struct roll *r);
void wh_roll_push(struct roll *r, struct rolled *e);
void wh_roll_remove(struct rolled *e);
/* The first of that name behind `behind`, or of all. */
struct rolled *wh_roll_find(struct roll *r, const char *name, const struct rolled *behind);
/* The oldest is taken out; NULL when there is none. */
struct rolled *wh_roll_pop(struct roll *r);

#endif
