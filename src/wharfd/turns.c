/*
 * turns - what waits is answered in parts, for each user in turn (S10): lists, and look-ups that are due.
 *
 * A turn ends here alone, when it is over and its user neither waits nor watches any more: what is done in it may end
 * watches and look-ups of others, and their turns are still to come.
 */
#include "message/sender.h"
#include "wharfd/server_impl.h"

#include "base/trace.h"
#include "os/os.h"
#include "right/kept.h"
#include "wharf/message.h"

#include <errno.h>
#include <stdlib.h>

enum { LISTS_MAX = 512 }; /* of one user that wait for their turn: a list is long, and nobody reads so many at once */

struct turn *wh_turn_of(struct wh_server *s, uid_t uid)
{
        wh_list_for (pos, &s->turns) {
                struct turn *t = wh_container(pos, struct turn, node);
                if (t->uid == uid)
                        return t;
        }
        struct turn *t = wh_os_calloc(1, sizeof *t);
        if (!t)
                return NULL;
        t->uid = uid;
        wh_list_init(&t->jobs);
        wh_list_init(&t->due);
        wh_list_push_back(&s->turns, &t->node);
        return t;
}

/* Of a user who waits for nothing and watches nothing. */
static void turn_put(struct turn *t)
{
        if (t->n_jobs || t->n_waiters || t->n_watches)
                return;
        wh_list_remove(&t->node);
        free(t);
}

bool wh_asker_gone(struct wh_server *s, uint64_t link, wharf_name reply)
{
        if (wh_sender_lives(s->task, link))
                return false;
        wharf_drop(s->task, reply);
        return true;
}

static void job_free(struct wh_server *s, struct job *j)
{
        wh_list_remove(&j->node);
        wh_users_give(&s->users, j->who.uid, WH_LIMIT_WAITS);
        free(j);
}

void wh_job_add(struct wh_server *s, const struct wh_names_request *req, const struct wharf_msg *m)
{
        uid_t uid = m->sender.uid;
        int r = req->after && req->after < s->serial_first
                        ? -ESTALE
                        : wh_users_take(&s->users, uid, WH_LIMIT_WAITS, wh_rules_limit(s->rules, WH_LIMIT_WAITS));
        if (r < 0) {
                wh_answer(s, m->reply, req->op, r);
                return;
        }
        struct turn *t = wh_turn_of(s, uid);
        struct job *j = t && t->n_jobs < LISTS_MAX ? wh_os_calloc(1, sizeof *j) : NULL;
        if (!j) {
                wh_users_give(&s->users, uid, WH_LIMIT_WAITS);
                wh_answer(s, m->reply, req->op, t && t->n_jobs ? -EDQUOT : wh_trace(-ENOMEM));
                return;
        }
        t->n_jobs++;
        j->reply = m->reply;
        j->link = m->sender.id;
        j->op = req->op;
        j->after = req->after;
        j->who = wh_request_who(s, m);
        wh_list_push_back(&t->jobs, &j->node);
}

bool wh_turns_run(struct wh_server *s)
{
        bool more = false;
        wh_list_for_safe (pos, &s->turns) {
                struct turn *t = wh_container(pos, struct turn, node);
                wh_waiters_part(s, t);
                if (t->n_jobs) {
                        struct job *j = wh_container(t->jobs.next, struct job, node);
                        if (!wh_asker_gone(s, j->link, j->reply)) {
                                if (j->op == WH_NAMES_LIST)
                                        wh_part_of_names(s, j);
                                else
                                        wh_part_of_waits(s, j);
                        }
                        job_free(s, j);
                        t->n_jobs--;
                }
                more |= t->n_jobs || !wh_list_empty(&t->due);
                turn_put(t);
        }
        return more;
}

void wh_turns_drop(struct wh_server *s)
{
        wh_list_for_safe (pos, &s->turns) {
                struct turn *t = wh_container(pos, struct turn, node);
                while (!wh_list_empty(&t->jobs)) {
                        struct job *j = wh_container(t->jobs.next, struct job, node);
                        wharf_drop(s->task, j->reply);
                        job_free(s, j);
                        t->n_jobs--;
                }
                turn_put(t);
        }
}
