/*
 * table - small integers for objects, as descriptors are for files.
 *
 * Always true:
 *   T1  The memory of an entry, and of an object of the pool, is never given back while the task lives. So a stale
 *       name leads to a living lock and a name that differs, never to freed memory.
 *   T2  A name is an index and a generation. A freed index waits in a queue behind WH_TABLE_QUARANTINE others.
 *   T3  object->name is stored and cleared under the object's own guard (see each kind); a lookup takes that guard and
 *       then compares.
 */
#ifndef WH_TASK_TABLE_H
#define WH_TASK_TABLE_H

#include "os/lock.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
        WH_TABLE_INDEX_BITS = 20,
        WH_TABLE_CHUNK_BITS = 8,
        WH_TABLE_CHUNKS = 1 << (WH_TABLE_INDEX_BITS - WH_TABLE_CHUNK_BITS),
        WH_TABLE_QUARANTINE = 64,
};

/* What every object in a table begins with. */
struct wh_object {
        struct wh_lock lock;
        _Atomic uint32_t name; /* 0 while it has none */
        uint8_t kind;
        struct wh_object *next_free; /* in the pool */
};

struct wh_entry {
        _Atomic(struct wh_object *) object;
        uint32_t generation;
        uint32_t next_free; /* index; 0 ends the queue */
};

struct wh_table {
        struct wh_lock lock; /* everything below, but reading `chunk` and `object` */
        _Atomic(struct wh_entry *) chunk[WH_TABLE_CHUNKS];
        uint32_t used; /* indices ever handed out; index 0 never is */
        uint32_t free_head, free_tail, n_free;
};

void wh_table_done(struct wh_table *t);
/* Gives `object` a name; -ENOMEM, -EMFILE. object->name is set by this. */
int wh_table_add(struct wh_table *t, struct wh_object *object);
/* The caller holds the object's guard. */
void wh_table_remove(struct wh_table *t, struct wh_object *object);

/* NULL when no object ever had that index. Take its guard and compare object->name (T3). */
static inline struct wh_object *wh_table_find(struct wh_table *t, uint32_t name)
{
        uint32_t i = name & ((1u << WH_TABLE_INDEX_BITS) - 1);
        /* [names] Acquire, both, pair with the releases in wh_table_add(): what is found was made before. */
        struct wh_entry *c = atomic_load_explicit(&t->chunk[i >> WH_TABLE_CHUNK_BITS], memory_order_acquire);
        if (!c)
                return NULL;
        return atomic_load_explicit(&c[i & ((1u << WH_TABLE_CHUNK_BITS) - 1)].object, memory_order_acquire);
}

/* Calls `fn` for every object that has a name. Not against concurrent changes. */
void wh_table_each(struct wh_table *t, void (*fn)(struct wh_object *o, void *arg), void *arg);

#endif
