/*
 * named - the names of the domain, by name, by number, by the right and by the port (S1, S3).
 */
#include "wharfd/server_impl.h"

#include "base/trace.h"
#include "os/os.h"
#include "port/status.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

size_t wh_named_find(const struct wh_server *s, const char *name, bool *ret_found)
{
        size_t lo = 0, hi = s->n_names;
        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;
                int c = strcmp(s->names[mid]->name, name);
                if (c == 0) {
                        *ret_found = true;
                        return mid;
                }
                if (c < 0)
                        lo = mid + 1;
                else
                        hi = mid;
        }
        *ret_found = false;
        return lo;
}

void wh_named_free(struct wh_server *s, struct named *e)
{
        wh_keep_no_more(s, e->slot, e->uid);
        wh_unread_keep(s, WH_LIMIT_NAMES, e->uid, e->right, WHARF_NONE, wh_users_introduce_done(s, e), NULL);
        wh_port_status_close(e->page);
        free(e);
}

static struct named **bucket_of(const struct wh_server *s, wharf_name right)
{
        return &s->by_right[right & (s->room_names - 1)];
}

static struct named **id_bucket_of(const struct wh_server *s, uint64_t port_id)
{
        return &s->by_id[port_id & (s->room_names - 1)];
}

static void hash(struct wh_server *s, struct named *e)
{
        e->at = bucket_of(s, e->right);
        if ((e->next = *e->at))
                e->next->at = &e->next;
        *e->at = e;
        e->at_by_id = id_bucket_of(s, e->port_id);
        if ((e->next_by_id = *e->at_by_id))
                e->next_by_id->at_by_id = &e->next_by_id;
        *e->at_by_id = e;
}

static void unhash(struct named *e)
{
        if ((*e->at = e->next))
                e->next->at = e->at;
        if ((*e->at_by_id = e->next_by_id))
                e->next_by_id->at_by_id = e->at_by_id;
}

void wh_named_remove(struct wh_server *s, size_t i)
{
        struct named *e = s->names[i];
        unhash(e);
        size_t lo = 0, hi = s->n_names;
        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;
                if (s->by_serial[mid]->serial < e->serial)
                        lo = mid + 1;
                else
                        hi = mid;
        }
        memmove(&s->by_serial[lo], &s->by_serial[lo + 1], (s->n_names - 1 - lo) * sizeof *s->by_serial);
        s->n_names--;
        memmove(&s->names[i], &s->names[i + 1], (s->n_names - i) * sizeof *s->names);
        if (e->told)
                wh_watches_tell(s, WHARF_NAME_GONE, e);
        wh_named_free(s, e);
}

bool wh_named_alive(struct wh_server *s, const struct named *e)
{
        struct wharf_right_stat st = {.size = sizeof st};
        return wharf_right_stat(s->task, e->right, &st) == 0 && st.dead == 0;
}

struct named *wh_named_get(struct wh_server *s, const char *name)
{
        bool found;
        size_t i = wh_named_find(s, name, &found);
        if (!found)
                return NULL;
        if (wh_named_alive(s, s->names[i]))
                return s->names[i];
        wh_named_remove(s, i);
        return NULL;
}

int wh_named_insert(struct wh_server *s, struct named *e)
{
        if (s->n_names == s->room_names) {
                size_t room = s->room_names ? s->room_names * 2 : 16;
                struct named **names = wh_os_realloc(s->names, room * sizeof *names);
                s->names = names ? names : s->names;
                struct named **by_serial = names ? wh_os_realloc(s->by_serial, room * sizeof *by_serial) : NULL;
                s->by_serial = by_serial ? by_serial : s->by_serial;
                struct named **buckets = by_serial ? wh_os_calloc(room * 2, sizeof *buckets) : NULL;
                if (!buckets)
                        return wh_trace(-ENOMEM);
                free(s->by_right);
                s->by_right = buckets;
                s->by_id = buckets + room;
                s->room_names = room;
                for (size_t i = 0; i < s->n_names; i++)
                        hash(s, s->names[i]);
        }
        struct wharf_right_stat st = {.size = sizeof st};
        if (wharf_right_stat(s->task, e->right, &st) == 0)
                e->port_id = st.id.v;
        if (!e->port_id && e->page)
                e->port_id = e->page->port_id;
        e->serial = ++s->serial;
        s->by_serial[s->n_names] = e;
        hash(s, e);
        bool found;
        size_t i = wh_named_find(s, e->name, &found);
        memmove(&s->names[i + 1], &s->names[i], (s->n_names - i) * sizeof *s->names);
        s->names[i] = e;
        s->n_names++;
        return 0;
}

struct named *wh_named_of_right(const struct wh_server *s, wharf_name right)
{
        struct named *e = s->n_names ? *bucket_of(s, right) : NULL;
        while (e && e->right != right)
                e = e->next;
        return e;
}
