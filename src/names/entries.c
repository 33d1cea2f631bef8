#include "names/entries.h"

#include "os/os.h"

#include <stdlib.h>
#include <string.h>

#define PRUNE_SHARE 16

void wh_entries_init(struct entries *t)
{
        *t = (struct entries){.bucket = t->first, .room = sizeof t->first / sizeof *t->first};
        wh_list_init(&t->all);
        wh_list_init(&t->watches);
}

void wh_entries_done(struct entries *t)
{
        wh_list_for_safe (pos, &t->all)
                free(wh_container(pos, struct entry, node));
        if (t->bucket != t->first)
                free(t->bucket);
}

static struct entry **bucket_of(const struct entries *t, const char *name)
{
        uint32_t h = 2166136261u;
        while (*name)
                h = (h ^ (uint8_t)*name++) * 16777619u;
        return &t->bucket[h & (t->room - 1)];
}

void wh_entries_add(struct entries *t, struct entry *e)
{
        struct entry **more = t->n < t->room ? NULL : wh_os_calloc(t->room * 2, sizeof *more);
        if (more) { /* without them it takes longer to find one, and that is all */
                if (t->bucket != t->first)
                        free(t->bucket);
                t->bucket = more;
                t->room *= 2;
                wh_list_for (pos, &t->all) {
                        struct entry *n = wh_container(pos, struct entry, node), **at = bucket_of(t, n->name);
                        n->next = *at;
                        *at = n;
                }
        }
        struct entry **at = bucket_of(t, e->name);
        e->next = *at;
        *at = e;
        wh_list_push_back(&t->all, &e->node);
        if (e->watch)
                wh_list_push_back(&t->watches, &e->among_watches);
        t->n++;
}

void wh_entries_remove(struct entries *t, struct entry *e)
{
        struct entry **at = bucket_of(t, e->name);
        while (*at != e)
                at = &(*at)->next;
        *at = e->next;
        wh_list_remove(&e->node);
        if (e->watch)
                wh_list_remove(&e->among_watches);
        t->n--;
}

static bool about_closed(wharf_task *task, const struct entry *e)
{
        return wharf_name_kind(task, e->port) != WHARF_KIND_PORT;
}

void wh_entries_prune(struct entries *t, wharf_task *task)
{
        wh_list_for_safe (pos, &t->all) {
                struct entry *n = wh_container(pos, struct entry, node);
                if (about_closed(task, n)) {
                        wh_entries_remove(t, n);
                        free(n);
                }
        }
        t->since_pruned = 0;
}

void wh_entries_prune_soon(struct entries *t, wharf_task *task)
{
        if (++t->since_pruned > t->n / PRUNE_SHARE)
                wh_entries_prune(t, task);
}

/* `port` is that of a watch; a name may be registered only once. */
static struct entry *find(const struct entries *t, bool watch, const char *name, wharf_name port)
{
        for (struct entry *n = *bucket_of(t, name); n; n = n->next)
                if (n->watch == watch && !strcmp(n->name, name) && (!watch || n->port == port))
                        return n;
        return NULL;
}

struct entry *wh_entries_take(struct entries *t, wharf_task *task, bool watch, const char *name, wharf_name port)
{
        struct entry *n;
        while ((n = find(t, watch, name, port))) {
                wh_entries_remove(t, n);
                if (!about_closed(task, n))
                        break;
                free(n);
        }
        return n;
}
