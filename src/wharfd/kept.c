/*
 * kept - what the holder of our descriptors has of the table, and what the last wharfd left there (S6).
 */
#include "wharfd/server_impl.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"
#include "right/kept.h"
#include "port/status.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { RESTORES_MAX = 3 }; /* attempts more, before it serves without what it could not take up */
#define KEEP_AGAIN_NS ((int64_t)1000000000)

/* One entry of the wharfd before us. What it granted is granted. */
static int restore(void *arg, const struct wh_stored *e, uint32_t slot, int sock, int page)
{
        struct wh_server *s = arg;
        if (e->kind == WH_STORED_WATCH) {
                wh_os_close(page);
                return wh_watch_restore(s, e, slot, sock);
        }
        bool found = true;
        if (e->kind == WH_STORED_NAME && wh_names_valid(e->name, strlen(e->name)))
                wh_named_find(s, e->name, &found);
        struct named *n = found ? NULL : wh_os_calloc(1, sizeof *n);
        int r = n ? wh_right_resume(s->task, sock, &e->kept, &n->right) : found ? -EEXIST : wh_trace(-ENOMEM);
        if (r < 0) {
                wh_os_close_theirs(sock);
                wh_os_close_theirs(page);
                free(n);
                return r;
        }
        if (page >= 0)
                wh_port_status_open(page, &n->page);
        wh_os_close(page);
        strcpy(n->name, e->name);
        n->cookie = e->cookie;
        n->pid = e->pid;
        n->uid = e->who.uid;
        n->known = e->known;
        r = wh_users_take(&s->users, n->uid, WH_LIMIT_NAMES, WH_USERS_ANY);
        if (r < 0) {
                wharf_drop(s->task, n->right);
                wh_port_status_close(n->page);
                free(n);
                return r;
        }
        /* Until it is in the table, freeing it leaves the slot to our caller. */
        wh_server_slot_set(s, &n->slot, WH_STORE_NONE);
        r = wharf_watch(s->task, n->right, s->port);
        if (r == 0)
                r = wh_named_insert(s, n);
        if (r < 0) {
                wh_named_free(s, n);
                return r;
        }
        s->n_unkept--;
        wh_server_slot_set(s, &n->slot, slot);
        wh_users_keep(&s->users, n->uid, wh_store_fds_of(s->store, slot), wh_store_fds_max(s->store), true);
        n->told = true;
        if (s->restore_owed) { /* it comes late: we serve already */
                wh_watches_tell(s, WHARF_NAME_IS, n);
                wh_waiters_wake(s, n);
        }
        return 0;
}

/* The holder has not got this. */
static void unkept(void *arg, uint32_t slot, unsigned fds)
{
        struct wh_server *s = arg;
        uid_t uid;
        for (size_t i = 0; i < s->n_names; i++)
                if (s->names[i]->slot == slot) {
                        wh_server_slot_set(s, &s->names[i]->slot, WH_STORE_NONE);
                        wh_users_keep_no_more(&s->users, s->names[i]->uid, fds);
                        return;
                }
        if (wh_watch_unkept(s, slot, &uid))
                wh_users_keep_no_more(&s->users, uid, fds);
}

void wh_server_restore(struct wh_server *s, struct wh_given *given, unsigned n)
{
        int r = 0;
        wh_store_lost_to(s->store, unkept, s);
        for (int i = 0; s->store && (r = wh_store_restore(s->store, given, n, restore, s)) < 0 && i < RESTORES_MAX; i++)
                wh_os_poll(NULL, 0, wh_os_now_ns() + WH_SHORTAGE_PAUSE_NS);
        s->restore_owed = r < 0; /* then it serves with what it has, and tries again beside that (J5) */
}

uint32_t wh_keep(struct wh_server *s, const struct wh_stored *e, int sock, int page)
{
        const unsigned n = page < 0 ? 1 : 2;
        if (!wh_store_has_room(s->store))
                return wh_store_put(s->store, e, sock, page); /* which says why it is not kept */
        const int r = wh_users_keep(&s->users, e->who.uid, n, wh_store_fds_max(s->store), false);
        if (r < 0)
                return wh_store_not_kept(s->store, r);
        const uint32_t slot = wh_store_put(s->store, e, sock, page);
        if (wh_store_fds_of(s->store, slot) < n)
                wh_users_keep_no_more(&s->users, e->who.uid, n - wh_store_fds_of(s->store, slot));
        return slot;
}

void wh_keep_no_more(struct wh_server *s, uint32_t slot, uid_t uid)
{
        s->n_unkept -= slot == WH_STORE_NONE;
        wh_users_keep_no_more(&s->users, uid, wh_store_fds_of(s->store, slot));
        wh_store_remove(s->store, slot);
}

static bool names_keep(struct wh_server *s)
{
        for (size_t i = 0; i < s->n_names; i++) {
                struct named *e = s->names[i];
                struct wh_stored st = {.kind = WH_STORED_NAME,
                                       .known = (uint16_t)e->known,
                                       .pid = e->pid,
                                       .cookie = e->cookie,
                                       .who = {.uid = e->uid}};
                int sock;
                if (e->slot != WH_STORE_NONE || wh_right_kept(s->task, e->right, &sock, &st.kept) < 0)
                        continue;
                strcpy(st.name, e->name);
                s->n_unkept--;
                wh_server_slot_set(s, &e->slot, wh_keep(s, &st, sock, -1));
                if (e->slot == WH_STORE_NONE && !wh_store_has_room(s->store))
                        return false; /* otherwise its user has its share, and others may have room */
        }
        return true;
}

int64_t wh_keep_again(struct wh_server *s, int64_t now)
{
        bool put = s->n_unkept && wh_store_has_room(s->store), take = wh_store_takes(s->store);
        if (!put && !take && !s->restore_owed)
                return WHARF_FOREVER;
        if (now < s->keep_at_ns)
                return s->keep_at_ns;
        if (s->restore_owed)
                s->restore_owed = wh_store_restore(s->store, NULL, 0, restore, s) < 0;
        take = wh_store_take_again(s->store);
        put = s->n_unkept && wh_store_has_room(s->store) && !(names_keep(s) && wh_watches_keep(s));
        bool refused = s->restore_owed && wh_store_state(s->store).owed == -ETOOMANYREFS;  /* at once, and for now */
        s->keep_at_ns = wh_os_now_ns() + (refused ? WH_SHORTAGE_PAUSE_NS : KEEP_AGAIN_NS); /* after what took so long */
        return put || take || s->restore_owed ? s->keep_at_ns : WHARF_FOREVER;
}

void wh_kept_hear(struct wh_server *s)
{
        wh_store_hear(s->store);
}
