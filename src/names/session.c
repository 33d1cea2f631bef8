#include "names/session.h"

#include "base/trace.h"
#include "os/os.h"
#include "task/task.h"
#include "task/why.h"
#include "names/announce.h"
#include "names/domain.h"
#include "names/question.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AWAY_NS ((int64_t)1000000000) /* a shared domain whose wharfd makes it again is not there for a moment */

static void session_free(void *p)
{
        struct session *s = p;
        each_domain(d, s)
        {
                wh_entries_done(&d->entries);
                free(d->conn); /* its right goes with the task's names */
        }
        free(s);
}

int wh_session_of(wharf_task *t, struct session **ret)
{
        static struct wh_lock making;
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        wh_lock(&making);
        struct session *s = wh_task_service(t);
        if (!s) {
                s = wh_os_calloc(1, sizeof *s);
                if (s) {
                        s->task = t;
                        s->domain[0] = (struct domain){.dir = wharf_domain_path(), .chosen = wh_domain_was_chosen()};
                        s->domain[1] = (struct domain){.dir = wh_domain_system(), .chosen = true, .system = true};
                        /* Where the system's domain was chosen as the task's own: nobody but its wharfd makes that. */
                        s->domain[0].system = !strcmp(s->domain[0].dir, wh_domain_system());
                        each_domain(d, s) wh_entries_init(&d->entries);
                        wh_task_service_set(t, s, session_free);
                }
        }
        wh_unlock(&making);
        if (!s)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        *ret = s;
        return 0;
}

struct domain *wh_session_domain(struct session *s, const char **name)
{
        static const char prefix[] = WHARF_SYSTEM_PREFIX;
        if (strncmp(*name, prefix, sizeof prefix - 1))
                return &s->domain[0];
        *name += sizeof prefix - 1;
        return &s->domain[1];
}

/* A living server that says nothing is not "down". */
static int silent(const struct domain *d)
{
        pid_t pid = wh_domain_server(d->dir);
        char of[40] = "";
        if (pid > 0)
                snprintf(of, sizeof of, ", pid %d,", (int)pid);
        return wh_fail(-ETIMEDOUT, "the server at %s%s does not answer%s", d->dir, of,
                       pid > 0 && wh_os_is_stopped(pid) ? ": it is stopped" : "");
}

int wh_session_error(const struct domain *d, int r)
{
        switch (r) {
        case -EACCES: /* says why already */
                return r;
        case -EDQUOT:
                return wh_fail(r, "%s: this user has its share of names, waiting look-ups, watches or connections",
                               d->dir);
        case -EMFILE:
        case -ENFILE:
        case -ENOMEM:
        case -ESTALE:
        case -EHOSTDOWN:
                return r;
        case -ETOOMANYREFS:
                return wh_fail(r, "%s: this user has too many descriptors on their way (RLIMIT_NOFILE)", d->dir);
        case -EPROTONOSUPPORT:
                return wh_fail(r, "%s: the wharfd there is of another version of wharf", d->dir);
        case -ETIMEDOUT:
                return silent(d);
        default:
                return wh_fail(-EHOSTDOWN, "%s: wharfd: %s", d->dir, wharf_strerror(r));
        }
}

int wh_session_refused(const struct domain *d, int answer)
{
        if (answer == -EMFILE || answer == -ENFILE || answer == -ENOMEM)
                return wh_fail(answer, "%s: wharfd has no descriptor, or no memory, left for it", d->dir);
        return answer == -ENOBUFS
                       ? wh_fail(-ETIMEDOUT, "%s: wharfd has not taken up all names of the one before it", d->dir)
                       : wh_session_error(d, answer);
}

static void conn_unref_locked(struct session *s, struct conn *c)
{
        if (--c->users == 0 && !c->owned) {
                wharf_drop(s->task, c->right);
                free(c);
        }
}

/* The connection is of no use any more: the next call makes another. */
static void conn_disown_locked(struct domain *d, struct conn *c)
{
        if (d->conn == c) {
                d->conn = NULL;
                c->owned = false;
        }
}

/* Whatever ended its link, nothing can be asked over it any more. */
static bool conn_dead(struct session *s, const struct conn *c)
{
        struct wharf_right_stat st = {.size = sizeof st};
        return wharf_right_stat(s->task, c->right, &st) == 0 && st.dead;
}

/* Did wharfd end the link for want of something, which passes? What this process has not got leaves its link alone. */
static bool turned_away(struct session *s, const struct conn *c, int r)
{
        return (r == -EMFILE || r == -ENOMEM || r == -ENOBUFS || r == -EMLINK) && conn_dead(s, c);
}

void wh_conn_put(struct session *s, struct domain *d, struct conn *c, bool broken)
{
        wh_lock(&s->lock);
        if (broken || (wh_list_empty(&d->entries.all) && c->users == 1))
                conn_disown_locked(d, c);
        conn_unref_locked(s, c);
        wh_unlock(&s->lock);
}

/* A new one. Where another thread made one meanwhile, it is that one. */
static int conn_new(struct session *s, struct domain *d, struct when *w, struct conn **ret, int *ret_renewed)
{
        struct conn *c = wh_os_calloc(1, sizeof *c);
        if (!c)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        const int64_t away_ns = wh_os_now_ns() + AWAY_NS;
        int r;
        do
                r = wh_domain_connect(s->task, d->dir, d->chosen, !d->system, w->until_ns, &c->right);
        while (r == -ECONNREFUSED && w->chosen && wh_os_now_ns() < away_ns && wh_when_pause(w));
        if (r < 0) {
                free(c);
                return r == -ECONNREFUSED ? -EHOSTDOWN : r; /* why was said */
        }
        c->users = 1;
        wh_lock(&s->lock);
        if (d->conn) { /* another thread was faster */
                conn_unref_locked(s, c);
                c = d->conn;
                c->users++;
                wh_unlock(&s->lock);
                *ret = c;
                return 0;
        }
        wharf_name watch = s->watch;
        c->owned = true;
        c->number = ++d->last_number;
        d->conn = c;
        wh_unlock(&s->lock);
        if (watch != WHARF_NONE)
                wharf_watch(s->task, c->right, watch);
        r = wh_announce_all(s, d, c, w);
        if (ret_renewed)
                *ret_renewed = r;
        *ret = c;
        return 0;
}

int wh_conn_get(struct session *s, struct domain *d, struct when *w, struct conn **ret, int *ret_renewed)
{
        wh_lock(&s->lock);
        wh_entries_prune_soon(&d->entries, s->task);
        struct conn *c = d->conn;
        bool behind = c && c->behind;
        if (c)
                c->users++;
        wh_unlock(&s->lock);
        if (c && !conn_dead(s, c)) {
                int r = behind ? wh_announce_all(s, d, c, w) : 0;
                if (ret_renewed && behind)
                        *ret_renewed = r;
                *ret = c;
                return 0;
        }
        if (c)
                wh_conn_put(s, d, c, true);

        return conn_new(s, d, w, ret, ret_renewed);
}

/*
 * A look-up with a deadline asks first without waiting there. So it is known that wharfd answers, and that nobody has
 * the name; and when the second question, which waits, is not answered until the deadline, that is still so.
 *
 * In one piece, however long: each answer decides what the next attempt is, and how many there may be.
 */
int wh_session_ask(struct session *s, struct domain *d, struct wh_names_request *req, struct wharf_msg *reply,
                   int64_t deadline_ns)
{
        struct when w = wh_when(deadline_ns);
        bool waits = req->op == WH_NAMES_LOOKUP && w.chosen, missing = false;
        int r = 0, what_short = 0;
        bool said = false; /* ... by wharfd */
        for (int i = 0; w.chosen || i < WH_SESSION_ATTEMPTS; i++) {
                struct conn *c;
                r = wh_conn_get(s, d, &w, &c, NULL);
                if (r < 0)
                        return r;
                int64_t now = wh_os_now_ns();
                req->timeout_ns = !missing                       ? 0
                                  : deadline_ns == WHARF_FOREVER ? WH_NAMES_FOREVER
                                  : deadline_ns > now            ? (uint64_t)(deadline_ns - now)
                                                                 : 0;
                int answer = 0;
                r = wh_ask(s, d, c, req, reply, &w, &answer);
                bool lost = wh_wharfd_gone(r) || turned_away(s, c, r);
                wh_conn_put(s, d, c, lost);
                if (r == -ETIMEDOUT && missing)
                        return -ENOENT;
                if (r == -ETOOMANYREFS || (r == 0 && wh_short_of(answer))) {
                        said = r == 0;
                        what_short = said ? answer : r;
                        if (wh_when_short_pause(&w)) {
                                missing = false;
                                i = -1;
                                continue;
                        }
                }
                if (r == -ETIMEDOUT && what_short) /* it did answer */
                        return said ? wh_session_refused(d, what_short) : wh_session_error(d, what_short);
                if (r == 0 && answer == -ENOENT && waits && !missing) {
                        missing = true;
                        if (deadline_ns <= wh_os_now_ns())
                                return answer;
                        i = -1;
                        continue;
                }
                if (r == 0 && answer == -EAGAIN) {
                        missing = false;
                        if (wh_os_now_ns() >= deadline_ns)
                                return wh_fail(deadline_ns ? -ETIMEDOUT : -EAGAIN,
                                               "the server of %s does not look at its port, where much waits already",
                                               req->name);
                        wh_when_pause(&w);
                        i = -1;
                        continue;
                }
                if (r == 0)
                        return answer == -ENOENT ? answer : answer < 0 ? wh_session_refused(d, answer) : 0;
                if (!lost)
                        break;
                missing = false; /* the next wharfd has not been asked */
                /* One that was killed while we waited is no sign that the next will be. */
                if (wh_os_now_ns() - now > WH_WHEN_RETRY_NS * 100)
                        i = -1;
                if (!wh_when_pause(&w)) {
                        r = -ETIMEDOUT;
                        break;
                }
        }
        return wh_session_error(d, r);
}
