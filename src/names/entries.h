/*
 * entries - what this task has registered with the wharfd of one domain, and asked to watch there, and not taken back.
 *
 * Always true:
 *   E1  Entries stand in the order in which they came, and by their names; those of a name have no order.
 *   E2  An entry whose port was closed is forgotten when it is next met: wharfd has seen that too.
 * Locks: the caller's, which is that of the session.
 */
#ifndef WH_NAMES_ENTRIES_H
#define WH_NAMES_ENTRIES_H

#include "base/list.h"
#include "names/proto.h"

/* A name of ours, or a watch. */
struct entry {
        struct wh_list node;
        struct wh_list among_watches; /* a watch */
        struct entry *next;           /* of the same bucket */
        wharf_name port;
        bool watch;
        uint64_t known_to; /* the number of a connection (session.C5) */
        uint64_t sender; /* a watch: the id of the right that wharfd has to the port; events come from those it made */
        struct wh_cookie cookie;
        char name[WHARF_NAME_MAX + 1]; /* or a pattern, "" for all */
};

struct entries {
        struct wh_list all, watches;
        struct entry *first[16], **bucket; /* the same by name: `room` of them, a power of two; `first` to begin with */
        size_t room;
        size_t n, since_pruned; /* calls since it was last looked which of them are about closed ports */
};

void wh_entries_init(struct entries *t);
void wh_entries_done(struct entries *t); /* frees them all */
void wh_entries_add(struct entries *t, struct entry *e);
void wh_entries_remove(struct entries *t, struct entry *e);
/* Forgets what is about a port that was closed (E2). */
void wh_entries_prune(struct entries *t, wharf_task *task);
/* The same now and then, so that who has thousands does not look at all of them in each call. */
void wh_entries_prune_soon(struct entries *t, wharf_task *task);
/* The one of that name, removed; only where its port is open. `port` is that of a watch. NULL: there is none. */
struct entry *wh_entries_take(struct entries *t, wharf_task *task, bool watch, const char *name, wharf_name port);

#endif
