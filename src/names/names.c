/*
 * names - the calls of wharf/names.h about one name or watch: register, look up, watch, take back; and how they survive
 * the wharfd that knew them.
 */
#include "base/list.h"
#include "base/trace.h"
#include "os/lock.h"
#include "os/os.h"
#include "message/items.h"
#include "message/sender.h"
#include "port/port.h"
#include "right/kept.h"
#include "right/right.h"
#include "task/task.h"
#include "task/why.h"
#include "names/announce.h"
#include "names/names.h"
#include "names/question.h"
#include "names/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int name_check(const char *name)
{
        if (!name || !wh_names_valid(name, strnlen(name, WHARF_NAME_MAX + 1)))
                return wh_fail(-EINVAL, "a name is 1 to %d letters, digits and . _ - / : @", WHARF_NAME_MAX);
        return 0;
}

/* Make an entry known to wharfd, and put it into the list; takes it on success. */
static int entry_add(struct session *s, struct domain *d, struct entry *e)
{
        struct when w = wh_when(0);
        int r = wh_os_getrandom(&e->cookie, sizeof e->cookie);
        bool own = true;     /* nobody but its caller can change what this process itself has not got */
        e->cookie.v[0] |= 1; /* never 0 */
        for (int i = 0; r == 0 && i < WH_SESSION_ATTEMPTS; i++) {
                struct conn *c;
                r = wh_conn_get(s, d, &w, &c, NULL);
                if (r < 0)
                        return r;
                /*
                 * Where the answer is lost with its wharfd, the next attempt finds that it was done: the same cookie.
                 */
                r = wh_announce(s, d, c, e, &w, &own);
                if (r == 0) {
                        wh_lock(&s->lock);
                        e->known_to = c->number;
                        wh_entries_add(&d->entries, e);
                        wh_unlock(&s->lock);
                        wh_conn_put(s, d, c, false);
                        return wh_fail(0, NULL);
                }
                wh_conn_put(s, d, c, wh_wharfd_gone(r));
                if (wh_short_of(r) && !own && wh_when_short_pause(&w)) {
                        i = -1;
                        r = 0;
                        continue;
                }
                if (!wh_wharfd_gone(r) || !wh_when_pause(&w))
                        break;
                r = i + 1 < WH_SESSION_ATTEMPTS ? 0 : r;
        }
        if (r == -EEXIST || r == -EBADF || r == -EPERM || r == -EINVAL || r == -EMLINK)
                return wh_fail(r, NULL);
        return own || r == -ENOBUFS ? wh_session_error(d, r) : wh_session_refused(d, r);
}

static int entry_new(struct session *s, bool watch, const char *name, wharf_name port, struct entry **ret)
{
        int kind = wharf_name_kind(s->task, port);
        if (kind != WHARF_KIND_PORT)
                return wh_fail(kind < 0 ? kind : -EPERM, kind < 0 ? NULL
                                                         : watch  ? "events go to a port"
                                                                  : "only a port can be registered");
        struct entry *e = wh_os_calloc(1, sizeof *e);
        if (!e)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        wh_list_init(&e->node);
        wh_list_init(&e->among_watches);
        e->port = port;
        e->watch = watch;
        strcpy(e->name, name);
        *ret = e;
        return 0;
}

static int pattern_check(const char **pattern)
{
        if (*pattern && !strcmp(*pattern, "*"))
                *pattern = "";
        return *pattern && !**pattern ? 0 : name_check(*pattern);
}

/* Finds the service, and of which domain *name is, which becomes what it is called there. */
static int begin(wharf_task *t, const char **name, bool pattern, struct session **ret, struct domain **ret_domain)
{
        int r = wh_session_of(t, ret);
        if (r == 0 && !*name)
                r = -EINVAL;
        if (r == -EINVAL)
                return name_check(NULL);
        if (r < 0)
                return r;
        *ret_domain = wh_session_domain(*ret, name);
        return pattern ? pattern_check(name) : name_check(*name);
}

/* Events are frames, and what a port of capacity zero is offered is none. */
static int takes_events(wharf_task *t, wharf_name port)
{
        int r;
        struct wh_port *p = wh_port_lock(t, port, &r);
        if (!p)
                return 0; /* which is said elsewhere */
        const bool zero = p->opts.capacity_records == WHARF_RENDEZVOUS;
        wh_unlock(&atomic_load_explicit(&p->inbox, memory_order_relaxed)->lock);
        return zero ? wh_fail(-EINVAL, "the port's capacity is zero: it takes no events") : 0;
}

/* A new name of ours, or a new watch. */
static int add(wharf_task *t, const char *name, bool watch, wharf_name port)
{
        struct session *s;
        struct domain *d;
        struct entry *e = NULL;
        int r = begin(t, &name, watch, &s, &d);
        if (r == 0 && watch)
                r = takes_events(t, port);
        if (r == 0)
                r = entry_new(s, watch, name, port, &e);
        if (r < 0)
                return r;
        r = entry_add(s, d, e);
        if (r < 0)
                free(e);
        return r;
}

WHARF_API int wharf_register(wharf_task *t, const char *name, wharf_name port)
{
        return add(t, name, false, port);
}

WHARF_API int wharf_names_watch(wharf_task *t, const char *pattern, wharf_name port)
{
        return add(t, pattern, true, port);
}

/* Take an entry out of the list and back from wharfd. */
static int entry_remove(struct session *s, struct domain *d, bool watch, const char *name, wharf_name port)
{
        wh_lock(&s->lock);
        struct entry *n = wh_entries_take(&d->entries, s->task, watch, name, port);
        wh_unlock(&s->lock);
        if (!n)
                return wh_fail(-ENOENT, "this task has not %s %s", watch ? "asked to watch" : "registered", name);
        struct when w = wh_when(0);
        int r = 0;
        bool asked = false;
        for (int i = 0; i < WH_SESSION_ATTEMPTS; i++) {
                /* The wharfd that knew it may be gone; but the next one may know it as well. */
                struct conn *c;
                if ((r = wh_conn_get(s, d, &w, &c, NULL)) < 0)
                        break;
                asked = true;
                struct wh_names_request req = {.op = watch ? WH_NAMES_UNWATCH : WH_NAMES_UNREGISTER,
                                               .cookie = n->cookie};
                strcpy(req.name, n->name);
                uint8_t buf[sizeof(struct wh_names_reply_head)];
                struct wharf_msg reply = {.size = sizeof reply, .data = buf, .cap_bytes = sizeof buf};
                int answer;
                r = wh_ask(s, d, c, &req, &reply, &w, &answer);
                wh_conn_put(s, d, c, wh_wharfd_gone(r));
                if (!wh_wharfd_gone(r) || !wh_when_pause(&w))
                        break;
        }
        if (r < 0 && r != -EHOSTDOWN && !wh_wharfd_gone(r)) { /* nothing is known to have changed */
                wh_lock(&s->lock);
                n->known_to = 0; /* it may be taken back yet; so it is told again, and stays ours */
                if (d->conn)
                        d->conn->behind = true;
                wh_entries_add(&d->entries, n);
                wh_unlock(&s->lock);
                return r == -ETIMEDOUT && !asked ? r : wh_session_error(d, r);
        }
        free(n); /* where no wharfd is left, nobody knows of it */
        return wh_fail(0, NULL);
}

WHARF_API int wharf_unregister(wharf_task *t, const char *name)
{
        struct session *s;
        struct domain *d;
        int r = begin(t, &name, false, &s, &d);
        return r < 0 ? r : entry_remove(s, d, false, name, WHARF_NONE);
}

WHARF_API int wharf_names_unwatch(wharf_task *t, const char *pattern, wharf_name port)
{
        struct session *s;
        struct domain *d;
        int r = begin(t, &pattern, true, &s, &d);
        return r < 0 ? r : entry_remove(s, d, true, pattern, port);
}

WHARF_API int wharf_names_event(wharf_task *t, const struct wharf_msg *m, struct wharf_name_event *ret)
{
        if (!m || !ret)
                return wh_fail_null(m ? "ret" : "msg");
        if (!m->data && m->len_bytes)
                return wh_fail_nowhere("wharf_msg.data", m->len_bytes);
        struct session *s;
        int r = wh_session_of(t, &s);
        if (r < 0)
                return r;
        uint64_t by = m->notice ? 0 : wh_sender_introducer(t, m->sender.id);
        bool known = false;
        wh_lock(&s->lock);
        each_domain(d, s) wh_list_for (pos, &d->entries.watches)
        {
                const struct entry *e = wh_container(pos, struct entry, among_watches);
                known |= by && e->sender == by;
        }
        wh_unlock(&s->lock);
        if (!known)
                return wh_fail(-ENOENT, NULL);
        r = wh_names_get_event(m->data, m->len_bytes, ret);
        return wh_fail(r, r < 0 ? "not an event of this version" : NULL);
}

WHARF_API int wharf_lookup(wharf_task *t, const char *name, int64_t deadline_ns, wharf_name *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        struct session *s;
        struct domain *d;
        int r = begin(t, &name, false, &s, &d);
        if (r < 0)
                return r;
        struct wh_names_request req = {.op = WH_NAMES_LOOKUP};
        strcpy(req.name, name);
        uint8_t buf[sizeof(struct wh_names_reply_head)];
        struct wharf_item got = {0};
        struct wharf_msg reply = {
                .size = sizeof reply, .data = buf, .cap_bytes = sizeof buf, .items = &got, .cap_items = 1};
        r = wh_session_ask(s, d, &req, &reply, deadline_ns);
        if (r < 0)
                return r == -ENOENT ? wh_fail(r, "nobody has registered %s", name) : r;
        if (reply.n_items != 1 || got.kind != WHARF_GOT_SEND) {
                wh_items_drop(t, &got, reply.n_items);
                return wh_session_error(d, wh_trace(-EPROTO));
        }
        wh_right_chosen(t, got.name); /* by its name, which nobody but the caller has said */
        wh_right_greet(t, got.name);
        *ret = got.name;
        return wh_fail(0, NULL);
}

/* ---- surviving wharfd ---- */

WHARF_API int wharf_names_fd(wharf_task *t, int *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        struct session *s;
        int r = wh_session_of(t, &s);
        if (r < 0)
                return r;
        wh_lock(&s->lock);
        wharf_name watch = s->watch;
        wh_unlock(&s->lock);
        if (watch == WHARF_NONE) {
                struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
                int fd;
                r = wharf_port_new(t, &o, &watch);
                if (r < 0)
                        return r;
                r = wharf_port_fd(t, watch, &fd);
                if (r < 0) {
                        wharf_drop(t, watch);
                        return r;
                }
                wh_lock(&s->lock);
                wharf_name theirs = s->watch; /* another thread may have been faster */
                if (theirs == WHARF_NONE)
                        s->watch = watch;
                wh_unlock(&s->lock);
                if (theirs != WHARF_NONE) {
                        wharf_drop(t, watch);
                        watch = theirs;
                }
                each_domain(d, s)
                {
                        wh_lock(&s->lock);
                        struct conn *c = d->conn;
                        if (c)
                                c->users++;
                        wh_unlock(&s->lock);
                        if (c && theirs == WHARF_NONE)
                                wharf_watch(t, c->right, watch);
                        if (c)
                                wh_conn_put(s, d, c, false);
                }
        }
        return wharf_port_fd(t, watch, ret);
}

static int renew(struct session *s, struct domain *d)
{
        struct when w = wh_when(0);
        int r;
        for (int i = 0; i < WH_SESSION_ATTEMPTS; i++) {
                wh_lock(&s->lock);
                wh_entries_prune(&d->entries, s->task);
                bool none = wh_list_empty(&d->entries.all);
                wh_unlock(&s->lock);
                if (none)
                        return wh_fail(0, NULL);
                struct conn *c;
                int renewed = 0;
                r = wh_conn_get(s, d, &w, &c, &renewed);
                if (r < 0)
                        return r;
                wh_conn_put(s, d, c, wh_wharfd_gone(renewed));
                if (!wh_wharfd_gone(renewed))
                        return renewed == -EEXIST ? wh_fail(renewed, NULL)
                               : renewed < 0      ? wh_session_error(d, renewed)
                                                  : wh_fail(0, NULL);
                if (!wh_when_pause(&w))
                        break;
        }
        return wh_session_error(d, -EPIPE);
}

WHARF_API int wharf_names_renew(wharf_task *t)
{
        struct session *s;
        int r = wh_session_of(t, &s);
        if (r < 0)
                return r;
        wh_lock(&s->lock);
        wharf_name watch = s->watch;
        wh_unlock(&s->lock);
        struct wharf_msg m = {.size = sizeof m};
        while (watch != WHARF_NONE && wharf_recvmsg(t, watch, &m, 0) == 0)
                ; /* notices, which say no more than their coming does */
        r = renew(s, &s->domain[0]);
        int r2 = renew(s, &s->domain[1]);
        return r < 0 ? r : r2;
}
