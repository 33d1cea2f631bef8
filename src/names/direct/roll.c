#include "names/direct/roll.h"

#include <string.h>

void wh_buckets_init(struct wh_list *bucket)
{
        for (unsigned i = 0; i < WH_ROLL_BUCKETS; i++)
                wh_list_init(&bucket[i]);
}

void wh_roll_init(struct roll *r)
{
        wh_list_init(&r->all);
        wh_buckets_init(r->bucket);
}

static struct wh_list *roll_bucket(struct roll *r, const char *name)
{
        uint32_t h = 2166136261u; /* FNV-1a */
        for (; *name; name++)
                h = (h ^ (uint8_t)*name) * 16777619u;
        return &r->bucket[(h ^ h >> 16) % WH_ROLL_BUCKETS];
}

void wh_roll_push(struct roll *r, struct rolled *e)
{
        wh_list_push_back(&r->all, &e->node);
        wh_list_push_back(roll_bucket(r, e->name), &e->in_bucket);
}

void wh_roll_remove(struct rolled *e)
{
        wh_list_remove(&e->node);
        wh_list_remove(&e->in_bucket);
}

struct rolled *wh_roll_find(struct roll *r, const char *name, const struct rolled *behind)
{
        struct wh_list *bucket = roll_bucket(r, name);
        for (struct wh_list *pos = behind ? behind->in_bucket.next : bucket->next; pos != bucket; pos = pos->next) {
                struct rolled *e = wh_container(pos, struct rolled, in_bucket);
                if (!strcmp(e->name, name))
                        return e;
        }
        return NULL;
}

struct rolled *wh_roll_pop(struct roll *r)
{
        if (wh_list_empty(&r->all))
                return NULL;
        struct rolled *e = wh_container(r->all.next, struct rolled, node);
        wh_roll_remove(e);
        return e;
}
