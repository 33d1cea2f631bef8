/*
 * waiters - look-ups of names that nobody has yet (S4).
 */
#include "wharfd/server_impl.h"

#include "base/trace.h"
#include "os/os.h"
#include "wharf/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
        DUE_EACH = 16,           /* look-ups that waited and are answered in one turn of their user */
        WAITERS_SWEEP_MIN = 256, /* waiters before the dead among them are first looked for */
};

void wh_waiter_free(struct wh_server *s, struct waiter *w)
{
        wh_list_remove(&w->node);
        wh_list_remove(&w->at);
        s->n_waiters--;
        w->turn->n_waiters--;
        wh_users_give(&s->users, w->uid, WH_LIMIT_WAITS);
        free(w);
}

/* Lets go of those whose asker is gone: nothing tells of it, so it is looked for when their number has doubled (S4). */
static void waiters_sweep(struct wh_server *s)
{
        wh_list_for_safe (pos, &s->waiters) {
                struct waiter *w = wh_container(pos, struct waiter, node);
                struct turn *t = w->turn;
                int fd, r = wharf_sender_pidfd(s->task, w->link, &fd);
                if (r == 0)
                        wh_os_close(fd);
                if (r == -ENOENT || r == -ESRCH) {
                        wharf_drop(s->task, w->reply);
                        wh_waiter_free(s, w);
                        wh_turn_put(t);
                }
        }
        s->sweep_at = s->n_waiters * 2 > WAITERS_SWEEP_MIN ? s->n_waiters * 2 : WAITERS_SWEEP_MIN;
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
        if (s->n_waiters >= s->sweep_at)
                waiters_sweep(s);
        uid_t uid = m->sender.uid;
        int r = wh_users_take(&s->users, uid, WH_LIMIT_WAITS, wh_rules_limit(s->rules, WH_LIMIT_WAITS));
        if (r < 0)
                return r;
        struct turn *t = wh_turn_of(s, uid);
        struct waiter *w = t ? wh_os_calloc(1, sizeof *w) : NULL;
        if (!w) {
                if (t)
                        wh_turn_put(t);
                wh_users_give(&s->users, uid, WH_LIMIT_WAITS);
                return wh_trace(-ENOMEM);
        }
        w->uid = uid;
        w->turn = t;
        t->n_waiters++;
        int64_t now = wh_os_now_ns();
        w->deadline_ns =
                req->timeout_ns >= (uint64_t)(INT64_MAX - now) ? WHARF_FOREVER : now + (int64_t)req->timeout_ns;
        w->reply = m->reply;
        w->link = m->sender.id;
        memcpy(w->name, req->name, sizeof w->name);
        wh_list_push_back(awaited(s, w->name), &w->at);

        struct wh_list *at = &s->waiters; /* behind the last one that ends no later */
        while (at->prev != &s->waiters && wh_container(at->prev, struct waiter, node)->deadline_ns > w->deadline_ns)
                at = at->prev;
        wh_list_insert_before(at, &w->node);
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
        int64_t now = wh_os_now_ns();
        wh_list_for_safe (pos, &s->waiters) {
                struct waiter *w = wh_container(pos, struct waiter, node);
                if (w->deadline_ns > now)
                        return w->deadline_ns;
                wh_list_remove(&w->node);
                waiter_due(w);
        }
        return WHARF_FOREVER;
}

void wh_waiters_part(struct wh_server *s, struct turn *t)
{
        struct wh_list *at;
        for (unsigned i = 0; i < DUE_EACH && (at = wh_list_pop_front(&t->due)); i++) {
                struct waiter *w = wh_container(at, struct waiter, at);
                const bool over = !wh_list_linked(&w->node);
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
