/*
 * waiters - look-ups of names that nobody has yet (S4).
 *
 * However many wait, one more costs a few steps: their deadlines are in a heap, and each that comes has two askers looked at.
 */
#include "wharfd/server_impl.h"

#include "base/trace.h"
#include "os/os.h"
#include "wharf/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
        DUE_EACH = 16,      /* look-ups that waited and are answered in one turn of their user */
        SWEEP_EACH = 2,     /* whose askers are looked at when another one comes */
        EXPIRE_EACH = 1024, /* whose time is found to be over, between requests */
};

/* ---- the heap of deadlines ---- */

static void put(struct wh_server *s, uint32_t place, struct waiter *w)
{
        s->deadlines[place] = w;
        w->place = place;
}

/* `w` goes to `place`, or from there to where it belongs. */
static void settle(struct wh_server *s, uint32_t place, struct waiter *w)
{
        struct waiter **all = s->deadlines;
        while (place && all[(place - 1) / 2]->deadline_ns > w->deadline_ns) {
                put(s, place, all[(place - 1) / 2]);
                place = (place - 1) / 2;
        }
        for (uint32_t child; (child = 2 * place + 1) < s->n_deadlines; place = child) {
                if (child + 1 < s->n_deadlines && all[child + 1]->deadline_ns < all[child]->deadline_ns)
                        child++;
                if (all[child]->deadline_ns >= w->deadline_ns)
                        break;
                put(s, place, all[child]);
        }
        put(s, place, w);
}

static int deadline_add(struct wh_server *s, struct waiter *w)
{
        if (s->n_deadlines == s->room_deadlines) {
                const uint32_t room = s->room_deadlines ? s->room_deadlines * 2 : 64;
                struct waiter **all = wh_os_realloc(s->deadlines, room * sizeof *all);
                if (!all)
                        return wh_trace(-ENOMEM);
                s->deadlines = all;
                s->room_deadlines = room;
        }
        const uint32_t last = s->n_deadlines++;
        s->deadlines[last] = w;
        settle(s, last, w);
        return 0;
}

static void deadline_remove(struct wh_server *s, struct waiter *w)
{
        struct waiter *last = s->deadlines[--s->n_deadlines];
        if (last != w)
                settle(s, w->place, last);
}

/* ---- who waits ---- */

void wh_waiter_free(struct wh_server *s, struct waiter *w)
{
        if (!w->over)
                deadline_remove(s, w);
        wh_list_remove(&w->node);
        wh_list_remove(&w->at);
        s->n_waiters--;
        w->turn->n_waiters--;
        wh_users_give(&s->users, w->uid, WH_LIMIT_WAITS);
        free(w);
}

/* Lets go of those whose asker is gone: nothing tells of it, so it is looked for, a few at a time (S4). */
static void waiters_sweep(struct wh_server *s)
{
        struct wh_list *pos;
        for (unsigned i = 0; i < SWEEP_EACH && (pos = wh_list_pop_front(&s->waiters)); i++) {
                struct waiter *w = wh_container(pos, struct waiter, node);
                wh_list_push_back(&s->waiters, pos);
                if (wh_asker_gone(s, w->link, w->reply))
                        wh_waiter_free(s, w);
        }
}

static struct wh_list *awaited(struct wh_server *s, const char *name)
{
        uint32_t h = (uint32_t)s->serial_first; /* nobody else can tell which names share a bucket */
        while (*name)
                h = (h ^ (uint8_t)*name++) * 16777619u; /* FNV-1a */
        return &s->awaited[(h ^ h >> 16) & (WH_AWAITED - 1)];
}

int wh_waiter_add(struct wh_server *s, const struct wh_names_request *req, const struct wharf_msg *m)
{
        waiters_sweep(s);
        uid_t uid = m->sender.uid;
        int r = wh_users_take(&s->users, uid, WH_LIMIT_WAITS, wh_rules_limit(s->rules, WH_LIMIT_WAITS));
        if (r < 0)
                return r;
        struct turn *t = wh_turn_of(s, uid);
        struct waiter *w = t ? wh_os_calloc(1, sizeof *w) : NULL;
        const int64_t now = wh_os_now_ns();
        if (w)
                w->deadline_ns =
                        req->timeout_ns >= (uint64_t)(INT64_MAX - now) ? WHARF_FOREVER : now + (int64_t)req->timeout_ns;
        if (!w || deadline_add(s, w) < 0) {
                free(w);
                wh_users_give(&s->users, uid, WH_LIMIT_WAITS);
                return wh_trace(-ENOMEM);
        }
        w->uid = uid;
        w->turn = t;
        t->n_waiters++;
        w->reply = m->reply;
        w->link = m->sender.id;
        memcpy(w->name, req->name, sizeof w->name);
        wh_list_push_back(awaited(s, w->name), &w->at);
        wh_list_push_back(&s->waiters, &w->node);
        s->n_waiters++;
        return 0;
}

/* It is answered when its user's turn comes. */
static void waiter_due(struct waiter *w)
{
        if (w->due)
                return;
        w->due = true;
        wh_list_remove(&w->at);
        wh_list_push_back(&w->turn->due, &w->at);
}

void wh_waiters_wake(struct wh_server *s, const struct named *e)
{
        wh_list_for_safe (pos, awaited(s, e->name)) {
                struct waiter *w = wh_container(pos, struct waiter, at);
                if (!strcmp(w->name, e->name))
                        waiter_due(w);
        }
}

int64_t wh_waiters_expire(struct wh_server *s)
{
        const int64_t now = wh_os_now_ns();
        for (unsigned i = 0; i < EXPIRE_EACH && s->n_deadlines && s->deadlines[0]->deadline_ns <= now; i++) {
                struct waiter *w = s->deadlines[0];
                deadline_remove(s, w);
                w->over = true;
                waiter_due(w);
        }
        return s->n_deadlines ? s->deadlines[0]->deadline_ns : WHARF_FOREVER;
}

void wh_waiters_part(struct wh_server *s, struct turn *t)
{
        struct wh_list *at;
        for (unsigned i = 0; i < DUE_EACH && (at = wh_list_pop_front(&t->due)); i++) {
                struct waiter *w = wh_container(at, struct waiter, at);
                const bool over = w->over;
                if (!wh_asker_gone(s, w->link, w->reply)) {
                        struct named *e = wh_named_get(s, w->name);
                        if (!e && !over) {
                                w->due = false;
                                wh_list_push_back(awaited(s, w->name), &w->at);
                                continue;
                        }
                        if (e && e->full == s->pass) /* nor has it anything for the others who have waited */
                                wh_answer(s, w->reply, WH_NAMES_LOOKUP, -EAGAIN);
                        else if (e)
                                wh_answer_right(s, w->reply, w->uid, e);
                        else
                                wh_answer(s, w->reply, WH_NAMES_LOOKUP, -ENOENT);
                }
                wh_waiter_free(s, w);
        }
}
