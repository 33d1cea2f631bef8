#include "task/table.h"

#include "os/os.h"

#include <errno.h>
#include <stdlib.h>

static struct wh_entry *entry(struct wh_table *t, uint32_t index)
{
        struct wh_entry *c = atomic_load_explicit(&t->chunk[index >> WH_TABLE_CHUNK_BITS], memory_order_relaxed);
        return c ? &c[index & ((1u << WH_TABLE_CHUNK_BITS) - 1)] : NULL;
}

void wh_table_done(struct wh_table *t)
{
        for (unsigned i = 0; i < WH_TABLE_CHUNKS; i++)
                free(atomic_load_explicit(&t->chunk[i], memory_order_relaxed));
}

static int table_index(struct wh_table *t, uint32_t *ret)
{
        if (t->n_free > WH_TABLE_QUARANTINE) {
                *ret = t->free_head;
                t->free_head = entry(t, t->free_head)->next_free;
                t->n_free--;
                return 0;
        }
        uint32_t index = t->used + 1;
        if (index >> WH_TABLE_INDEX_BITS)
                return -EMFILE;
        if (!entry(t, index)) {
                struct wh_entry *c = wh_os_calloc(1u << WH_TABLE_CHUNK_BITS, sizeof *c);
                if (!c)
                        return -ENOMEM;
                /* [names] Release, pairs with the first acquire in wh_table_find(). */
                atomic_store_explicit(&t->chunk[index >> WH_TABLE_CHUNK_BITS], c, memory_order_release);
        }
        t->used = index;
        *ret = index;
        return 0;
}

int wh_table_add(struct wh_table *t, struct wh_object *object)
{
        uint32_t index;
        wh_lock(&t->lock);
        int r = table_index(t, &index);
        if (r == 0) {
                struct wh_entry *e = entry(t, index);
                uint32_t name = e->generation << WH_TABLE_INDEX_BITS | index;
                e->generation++;
                atomic_store_explicit(&object->name, name, memory_order_relaxed);
                /* [names] Release, pairs with the second acquire in wh_table_find(): the object is whole. */
                atomic_store_explicit(&e->object, object, memory_order_release);
        }
        wh_unlock(&t->lock);
        return r;
}

void wh_table_remove(struct wh_table *t, struct wh_object *object)
{
        uint32_t name = atomic_load_explicit(&object->name, memory_order_relaxed);
        uint32_t index = name & ((1u << WH_TABLE_INDEX_BITS) - 1);
        wh_lock(&t->lock);
        struct wh_entry *e = entry(t, index);
        atomic_store_explicit(&e->object, NULL, memory_order_relaxed);
        atomic_store_explicit(&object->name, 0, memory_order_relaxed);
        e->next_free = 0;
        if (t->n_free++)
                entry(t, t->free_tail)->next_free = index;
        else
                t->free_head = index;
        t->free_tail = index;
        wh_unlock(&t->lock);
}

void wh_table_each(struct wh_table *t, void (*fn)(struct wh_object *o, void *arg), void *arg)
{
        for (uint32_t i = 1; i <= t->used; i++) {
                struct wh_object *o = atomic_load_explicit(&entry(t, i)->object, memory_order_relaxed);
                if (o)
                        fn(o, arg);
        }
}
