/*
 * known - what the directory has said of others who joined: which registrations of a name live, and which have ended (D4).
 */
#include "names/direct/direct.h"

#include "base/trace.h"
#include "names/names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ASK_NOW_NS ((int64_t)20 * 1000000) /* for one answer of the directory, where the caller does not wait */

struct known *wh_known_next(struct roll *r, const char *name, const struct known *k)
{
        struct rolled *e = wh_roll_find(r, name, k ? &k->e : NULL);
        return e ? wh_container(e, struct known, e) : NULL;
}

struct known *wh_known_find(struct wharf_direct *d, const char *name, uint64_t id)
{
        struct roll *rolls[] = {&d->known, &d->known_gone};
        for (int i = 0; i < 2; i++)
                for (struct known *k = wh_known_next(rolls[i], name, NULL); k; k = wh_known_next(rolls[i], name, k))
                        if (k->id == id)
                                return k;
        return NULL;
}

struct known *wh_known_living(struct wharf_direct *d, const char *name)
{
        return wh_known_next(&d->known, name, NULL);
}

void wh_known_told(struct wharf_direct *d, const char *name, uint64_t id)
{
        struct known *k = wh_known_find(d, name, id);
        if (k)
                k->told = true;
}

static void known_end(struct wharf_direct *d, struct known *k)
{
        k->gone = true;
        k->stale = false;
        wh_roll_remove(&k->e);
        wh_roll_push(&d->known_gone, &k->e);
        if (++d->n_gone > GONE_MAX) {
                free(wh_container(wh_roll_pop(&d->known_gone), struct known, e));
                d->n_gone--;
        }
}

/* The registration `id` of `name` ends all others of that name. */
static int known_is(struct wharf_direct *d, const char *full, uint64_t id, pid_t pid, uid_t uid)
{
        const char *name = full + sizeof PREFIX - 1;
        if (strncmp(full, PREFIX, sizeof PREFIX - 1))
                return 0;
        struct known *k = wh_known_find(d, name, id), *other;
        if (k) {
                wh_roll_remove(&k->e);
                d->n_gone -= k->gone;
        } else {
                k = wh_os_calloc(1, sizeof *k);
                if (!k)
                        return wh_trace(-ENOMEM);
                strcpy(k->e.name, name);
                k->id = id;
        }
        other = wh_known_living(d, name);
        if (other)
                known_end(d, other);
        wh_roll_push(&d->known, &k->e);
        k->pid = pid;
        k->uid = uid;
        k->gone = k->stale = false;
        return 0;
}

int wh_known_event(struct wharf_direct *d, const struct wharf_name_event *e)
{
        struct known *k;
        switch (e->what) {
        case WHARF_NAME_IS:
                return known_is(d, e->name, e->id.v, e->pid, e->uid);
        case WHARF_NAME_GONE:
                k = strncmp(e->name, PREFIX, sizeof PREFIX - 1) ? NULL
                                                                : wh_known_living(d, e->name + sizeof PREFIX - 1);
                if (k)
                        known_end(d, k);
                break;
        case WHARF_NAMES_BEGIN:
                wh_list_for (pos, &d->known.all)
                        wh_container(pos, struct known, e.node)->stale = true;
                break;
        case WHARF_NAMES_END:
                wh_list_for_safe (pos, &d->known.all) {
                        k = wh_container(pos, struct known, e.node);
                        if (!k->stale)
                                continue;
                        k->told = true; /* a directory that has lost its names says nothing of lives */
                        known_end(d, k);
                }
                d->told_all = true;
                break;
        }
        return 0;
}

int wh_known_ask(struct wharf_direct *d, bool waits, int64_t deadline_ns)
{
        struct wharf_named *all;
        size_t n;
        int64_t now = wh_os_now_ns();
        int64_t until_ns = now + (waits && deadline_ns > now ? ASK_NS : ASK_NOW_NS);
        if (deadline_ns > now && deadline_ns < until_ns)
                until_ns = deadline_ns;
        int r = wh_names_list_until(d->task, until_ns, &all, &n);
        if (r < 0)
                return r == -ETIMEDOUT ? -EAGAIN : r;
        for (size_t i = 0; r == 0 && i < n; i++)
                r = known_is(d, all[i].name, all[i].id.v, all[i].pid, all[i].uid);
        free(all);
        return r;
}
