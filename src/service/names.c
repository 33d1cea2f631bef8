/*
 * names - the client's side of wharfd: register, look up, list, watch.
 *
 * A task keeps one connection to the wharfd of each domain it uses, made on first use. It stays open while the task has
 * names or watches there, since its end says that they may have to be made again; otherwise it is closed after use, so
 * that an idle wharfd can leave.
 *
 * Always true:
 *   C1  A connection is used by as many threads as `users` says, and dropped by the last of them once it is no longer
 *       the task's. So no call ever sees its connection vanish.
 *   C2  `entries` lists what this task has registered and asked to watch, and not taken back. A new connection first
 *       asks for them again, with the same cookies: a wharfd that was replaced knows them, and nothing changes; one
 *       that was started anew has forgotten them.
 *   C3  Nothing is held while a call waits.
 *   C4  What the caller said of time holds for all that a call does on its way: connecting, starting a wharfd,
 *       telling it of names, asking, asking again. Where it said nothing, `struct when` does.
 *   C5  An entry is known to the wharfd of a connection if it bears the number of that connection. What could not be
 *       told in time is told by the next call (`behind`).
 */
#include "base/list.h"
#include "base/trace.h"
#include "os/lock.h"
#include "os/os.h"
#include "port/items.h"
#include "port/kept.h"
#include "port/object.h"
#include "port/status.h"
#include "port/task.h"
#include "port/why.h"
#include "service/domain.h"
#include "service/graph.h"
#include "service/names.h"
#include "service/proto.h"
#include "wharf/message.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* For whoever gave no deadline. wharfd never waits for anybody, so one that is silent so long will not speak. */
#define ALL_NS ((int64_t)WHARF_NAMES_START_MS * 1000000)     /* all of a call, with the start of a wharfd */
#define ANSWER_NS ((int64_t)WHARF_NAMES_ANSWER_MS * 1000000) /* one answer of a wharfd that is there */
#define LOOK_NS ((int64_t)200 * 1000000)   /* then it is looked whether it was stopped, which no answer will end */
#define PASSED_NS ((int64_t)100 * 1000000) /* for one answer, where the deadline has passed already */
#define ATTEMPTS_MAX 16                    /* wharfds that die, or leave, between our connecting and their answer */
#define ASK_ITEMS_MAX 2
#define RETRY_PAUSE_NS ((int64_t)10 * 1000000)

/* Until when a call goes on. */
struct when {
        int64_t until_ns;
        bool chosen; /* by the caller: then to the end, whatever wharfd does meanwhile */
};

struct conn {
        wharf_name right;
        uint64_t number; /* never 0 */
        unsigned users;
        bool behind;             /* some entry may not be known to its wharfd (C5) */
        bool owned;              /* it is the service's */
        _Atomic bool page_given; /* with the first question, wharfd gets the task's page */
};

/* A name of ours, or a watch. */
struct entry {
        struct wh_list node;
        wharf_name port;
        bool watch;
        uint64_t known_to; /* the number of a connection (C5) */
        uint64_t sender; /* a watch: the id of the right that wharfd has to the port; events come from those it made */
        struct wh_cookie cookie;
        char name[WHARF_NAME_MAX + 1]; /* or a pattern, "" for all */
};

struct domain {
        const char *dir;
        bool chosen; /* by the user, or it is the system's: it may be shared */
        bool system;
        struct conn *conn; /* NULL: none */
        uint64_t last_number;
        struct wh_list entries;
};

/* One a task; made on first use, freed by wharf_task_close(). */
struct service {
        wharf_task *task;
        struct wh_lock lock;     /* for all below; never held across a call to wharfd (C3) */
        struct domain domain[2]; /* the task's own, and the system's */
        wharf_name watch;        /* a port for the notice that a wharfd is gone; WHARF_NONE until wharf_names_fd() */
};
#define each_domain(d, s) for (struct domain *d = (s)->domain; d < (s)->domain + 2; d++)

/* ---- the service of a task ---- */

static void service_free(void *p)
{
        struct service *s = p;
        each_domain(d, s)
        {
                wh_list_for_safe (pos, &d->entries)
                        free(wh_container(pos, struct entry, node));
                free(d->conn); /* its right goes with the task's names */
        }
        free(s);
}

static int service_get(wharf_task *t, struct service **ret)
{
        static struct wh_lock making;
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        wh_lock(&making);
        struct service *s = wh_task_service(t);
        if (!s) {
                s = wh_os_calloc(1, sizeof *s);
                if (s) {
                        s->task = t;
                        s->domain[0] = (struct domain){.dir = wharf_domain_path(), .chosen = wh_domain_was_chosen()};
                        s->domain[1] = (struct domain){.dir = wh_domain_system(), .chosen = true, .system = true};
                        /* Where the system's domain was chosen as the task's own: nobody but its wharfd makes that. */
                        s->domain[0].system = !strcmp(s->domain[0].dir, wh_domain_system());
                        wh_list_init(&s->domain[0].entries);
                        wh_list_init(&s->domain[1].entries);
                        wh_task_service_set(t, s, service_free);
                }
        }
        wh_unlock(&making);
        if (!s)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        *ret = s;
        return 0;
}

/* The domain that `name` is of; *name becomes what it is called there. */
static struct domain *domain_of(struct service *s, const char **name)
{
        static const char prefix[] = WHARF_SYSTEM_PREFIX;
        if (strncmp(*name, prefix, sizeof prefix - 1))
                return &s->domain[0];
        *name += sizeof prefix - 1;
        return &s->domain[1];
}

/* Forgets what is about a port that was closed: wharfd has seen that too. */
static void prune_locked(struct service *s, struct domain *d)
{
        wh_list_for_safe (pos, &d->entries) {
                struct entry *n = wh_container(pos, struct entry, node);
                if (wharf_name_kind(s->task, n->port) != WHARF_KIND_PORT) {
                        wh_list_remove(&n->node);
                        free(n);
                }
        }
}

/* `port` is WHARF_NONE for a name, which may be registered only once. */
static struct entry *find_locked(struct domain *d, bool watch, const char *name, wharf_name port)
{
        wh_list_for (pos, &d->entries) {
                struct entry *n = wh_container(pos, struct entry, node);
                if (n->watch == watch && !strcmp(n->name, name) && (!watch || n->port == port))
                        return n;
        }
        return NULL;
}

static struct entry *find_cookie_locked(struct domain *d, const struct wh_cookie *cookie)
{
        wh_list_for (pos, &d->entries) {
                struct entry *n = wh_container(pos, struct entry, node);
                if (!memcmp(&n->cookie, cookie, sizeof *cookie))
                        return n;
        }
        return NULL;
}

/* ---- time ---- */

static struct when when_of(int64_t deadline_ns)
{
        int64_t now = wh_os_now_ns();
        if (deadline_ns == 0)
                return (struct when){.until_ns = now + ALL_NS};
        return (struct when){.until_ns = deadline_ns > now ? deadline_ns : now + PASSED_NS, .chosen = true};
}

/* Before the same is tried again. False: the time is over. */
static bool when_pause(const struct when *w)
{
        int64_t now = wh_os_now_ns(), next = now + RETRY_PAUSE_NS;
        if (now >= w->until_ns)
                return false;
        wh_os_poll(NULL, 0, next < w->until_ns ? next : w->until_ns);
        return true;
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

/* ---- one connection ---- */

static void conn_unref_locked(struct service *s, struct conn *c)
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

/*
 * One question, one answer. Errors of the link, or -EPROTO; wharfd's own answer in *ret_answer. Only the answer 0
 * leaves an allocated reply to be released, and items to be dropped.
 */
static int ask(struct service *s, struct domain *d, struct conn *c, const struct wh_names_request *question,
               struct wharf_item *items, uint32_t n_items, struct wharf_msg *reply, const struct when *w,
               int *ret_answer)
{
        uint8_t buf[WH_NAMES_REQUEST_MAX];
        struct wh_names_request asked = *question, *req = &asked;
        struct wharf_item with[ASK_ITEMS_MAX + 1];
        bool page = !atomic_exchange_explicit(&c->page_given, true, memory_order_relaxed);
        if (page && wh_waits_fd(&s->task->waits, &with[n_items].fd) == 0) {
                if (n_items)
                        memcpy(with, items, n_items * sizeof *items);
                with[n_items++].kind = WHARF_COPY_FD;
                items = with;
                req->flags |= WH_NAMES_PAGE;
        }
        struct wharf_msg m = {.size = sizeof m,
                              .data = buf,
                              .len_bytes = wh_names_put_request(req, buf),
                              .items = items,
                              .n_items = n_items};
        int64_t until_ns = w->until_ns, now = wh_os_now_ns();
        if (!w->chosen && until_ns > now + ANSWER_NS)
                until_ns = now + ANSWER_NS;
        uint32_t call;
        int r = wharf_call_start(s->task, c->right, &m, until_ns, &call);
        if (r == -ETOOMANYREFS && req->flags & WH_NAMES_PAGE) /* then without: `wharf ps` does not show this task */
                return ask(s, d, c, question, n_items > 1 ? items : NULL, n_items - 1, reply, w, ret_answer);
        if (r < 0)
                return r;
        do {
                int64_t look_ns = wh_os_now_ns() + LOOK_NS;
                r = wharf_call_finish(s->task, c->right, call, reply,
                                      w->chosen || look_ns > until_ns ? until_ns : look_ns);
        } while (r == -ETIMEDOUT && !w->chosen && wh_os_now_ns() < until_ns &&
                 !wh_os_is_stopped(wh_domain_server(d->dir)));
        if (r == -EAGAIN || r == -ETIMEDOUT || r == -EOVERFLOW || r == -ENOMEM || r == -EMFILE)
                wharf_call_cancel(s->task, c->right, call); /* it is still outstanding */
        if (r < 0)
                return r;
        uint32_t line = 0;
        r = wh_names_get_reply(reply->data, reply->len_bytes, req->op, ret_answer, &line);
        if (r < 0 || *ret_answer < 0) {
                wh_items_drop(s->task, reply->items, reply->n_items);
                if (reply->flags & WHARF_RECV_ALLOC)
                        wharf_release(s->task, reply);
        }
        if (r == 0 && *ret_answer == -EACCES && line)
                wh_set_why("line %u of the rules of that domain does not let this user %s %s", line,
                           req->op == WH_NAMES_REGISTER ? "own" : "use", req->name);
        else if (r == 0 && *ret_answer == -EACCES)
                wh_set_why("the rules of that domain do not let this user %s %s",
                           req->op == WH_NAMES_REGISTER ? "own" : "use", req->name);
        return r;
}

/*
 * Tells wharfd about one name or watch of ours: one that is new, or that an earlier wharfd knew. 0, its answer, or an
 * error of the link.
 */
static int announce(struct service *s, struct domain *d, struct conn *c, struct entry *e, bool is_new,
                    const struct when *w)
{
        struct wh_names_request req = {.op = e->watch ? WH_NAMES_WATCH : WH_NAMES_REGISTER, .cookie = e->cookie};
        strcpy(req.name, e->name);
        struct wharf_item items[2] = {{.kind = WH_MAKE_DIRECTORY, .name = e->port}, {.kind = WHARF_COPY_FD}};
        uint32_t n = 1;
        uint64_t before = 0;
        int r = 0;
        if (e->watch) {
                items[0].kind = WHARF_MOVE_SEND;
                before = e->sender;
                r = wh_right_new_id(s->task, e->port, &items[0].name, &e->sender);
                if (r < 0)
                        return r;
        } else if (wh_port_status_fd(s->task, e->port, &items[1].fd) == 0) {
                n = 2; /* without a page `wharf ls` shows no figures; that is no reason to refuse */
        }
        uint8_t buf[sizeof(struct wh_names_reply_head)];
        struct wharf_msg reply = {.size = sizeof reply, .data = buf, .cap_bytes = sizeof buf};
        int answer = 0;
        r = ask(s, d, c, &req, items, n, &reply, w, &answer);
        if (r < 0 && e->watch)
                wharf_drop(s->task, items[0].name); /* gone already if the request went out */
        if (before && wh_sender_lives(s->task, before))
                e->sender = before; /* a wharfd that knows the watch has the earlier right, and drops the new one */
        if (r == -ETIMEDOUT && is_new) {
                /* If it comes round after all, it must not believe that this is ours: this follows on its link. */
                req.op = e->watch ? WH_NAMES_UNWATCH : WH_NAMES_UNREGISTER;
                uint8_t undo[WH_NAMES_REQUEST_MAX];
                wharf_send(s->task, c->right, undo, wh_names_put_request(&req, undo), 0);
        }
        return r < 0 ? r : answer;
}

/*
 * Asks a new connection for what the last wharfd knew (C2). -EEXIST: a name has another owner now. Where the time is
 * over first, the rest is for the next call (C5).
 */
static int announce_all(struct service *s, struct domain *d, struct conn *c, const struct when *w)
{
        /* A copy, since the list may change while we talk (C3). */
        size_t n = 0, k = 0;
        wh_lock(&s->lock);
        wh_list_for (pos, &d->entries)
                n++;
        struct entry *again = n ? wh_os_calloc(n, sizeof *again) : NULL;
        if (again)
                wh_list_for (pos, &d->entries) {
                        const struct entry *e = wh_container(pos, struct entry, node);
                        if (e->known_to != c->number)
                                again[k++] = *e;
                }
        c->behind = n && !again;
        wh_unlock(&s->lock);
        if (n && !again)
                return wh_trace(-ENOMEM);

        int first = 0;
        for (size_t i = 0; i < k; i++) {
                int r = announce(s, d, c, &again[i], false, w);
                struct entry *lost = NULL;
                wh_lock(&s->lock);
                struct entry *e = find_cookie_locked(d, &again[i].cookie);
                if (e && r == -EEXIST) {
                        lost = e;
                        wh_list_remove(&e->node);
                } else if (e) {
                        e->sender = again[i].sender;
                        e->known_to = r == -ETIMEDOUT ? 0 : c->number;
                }
                c->behind |= r == -ETIMEDOUT;
                wh_unlock(&s->lock);
                free(lost);
                if (r < 0 && first == 0)
                        first = r;
                if (r == -ETIMEDOUT)
                        break;
        }
        free(again);
        return first;
}

/* Whatever ended its link, nothing can be asked over it any more. */
static bool conn_dead(struct service *s, const struct conn *c)
{
        struct wharf_right_stat st = {.size = sizeof st};
        return wharf_right_stat(s->task, c->right, &st) == 0 && st.dead;
}

static void conn_put(struct service *s, struct domain *d, struct conn *c, bool broken)
{
        wh_lock(&s->lock);
        if (broken || (wh_list_empty(&d->entries) && c->users == 1))
                conn_disown_locked(d, c);
        conn_unref_locked(s, c);
        wh_unlock(&s->lock);
}

/*
 * The task's connection, made if need be, with every name of this task registered (C2); give it back with conn_put().
 * *ret_renewed, which may be NULL: how registering them went.
 */
static int conn_get(struct service *s, struct domain *d, const struct when *w, struct conn **ret, int *ret_renewed)
{
        wh_lock(&s->lock);
        prune_locked(s, d);
        struct conn *c = d->conn;
        bool behind = c && c->behind;
        if (c)
                c->users++;
        wharf_name watch = s->watch;
        wh_unlock(&s->lock);
        int r = 0;
        if (c && !conn_dead(s, c)) {
                if (behind)
                        r = announce_all(s, d, c, w);
                if (ret_renewed && behind)
                        *ret_renewed = r;
                *ret = c;
                return 0;
        }
        if (c)
                conn_put(s, d, c, true);

        c = wh_os_calloc(1, sizeof *c);
        if (!c)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        r = wh_domain_connect(s->task, d->dir, d->chosen, !d->system, w->until_ns, &c->right);
        if (r < 0) {
                free(c);
                return r;
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
        c->owned = true;
        c->number = ++d->last_number;
        d->conn = c;
        wh_unlock(&s->lock);
        if (watch != WHARF_NONE)
                wharf_watch(s->task, c->right, watch);
        r = announce_all(s, d, c, w);
        if (ret_renewed)
                *ret_renewed = r;
        *ret = c;
        return 0;
}

/* Did the wharfd that we talked to go away, so that the question goes to the next one? */
static bool gone(int r)
{
        return r == -EPIPE || r == -ECONNRESET || r == -ENOTCONN || r == -ECANCELED;
}

/* What the callers of names.h see of trouble with the link to wharfd. */
static int link_error(const struct domain *d, int r)
{
        switch (r) {
        case -EACCES: /* says why already */
                return r;
        case -EDQUOT:
                return wh_fail(r, "%s: this user has his share of names, waiting look-ups, watches or connections",
                               d->dir);
        case -EMFILE:
        case -ENFILE:
        case -ENOMEM:
        case -ESTALE:
        case -EHOSTDOWN:
                return r;
        case -EPROTONOSUPPORT:
                return wh_fail(r, "%s: the wharfd there is of another version of wharf", d->dir);
        case -ETIMEDOUT:
                return silent(d);
        default:
                return wh_fail(-EHOSTDOWN, "%s: wharfd: %s", d->dir, wharf_strerror(r));
        }
}

static int name_check(const char *name)
{
        if (!name || !wh_names_valid(name, strnlen(name, WHARF_NAME_MAX + 1)))
                return wh_fail(-EINVAL, "a name is 1 to %d letters, digits and . _ - / : @", WHARF_NAME_MAX);
        return 0;
}

/* ---- the calls ---- */

/* Make an entry known to wharfd, and put it into the list; takes it on success. */
static int entry_add(struct service *s, struct domain *d, struct entry *e)
{
        struct when w = when_of(0);
        int r = wh_os_getrandom(&e->cookie, sizeof e->cookie);
        e->cookie.v[0] |= 1; /* never 0 */
        for (int i = 0; r == 0 && i < ATTEMPTS_MAX; i++) {
                struct conn *c;
                r = conn_get(s, d, &w, &c, NULL);
                if (r < 0)
                        return r;
                /*
                 * Where the answer is lost with its wharfd, the next attempt finds that it was done: the same cookie.
                 */
                r = announce(s, d, c, e, true, &w);
                if (r == 0) {
                        wh_lock(&s->lock);
                        e->known_to = c->number;
                        wh_list_push_back(&d->entries, &e->node);
                        wh_unlock(&s->lock);
                        conn_put(s, d, c, false);
                        return wh_fail(0, NULL);
                }
                conn_put(s, d, c, gone(r));
                if (!gone(r) || !when_pause(&w))
                        break;
                r = i + 1 < ATTEMPTS_MAX ? 0 : r;
        }
        if (r == -EEXIST || r == -EBADF || r == -EPERM || r == -EINVAL || r == -EMLINK)
                return wh_fail(r, NULL);
        return link_error(d, r);
}

static int entry_new(struct service *s, bool watch, const char *name, wharf_name port, struct entry **ret)
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
static int begin(wharf_task *t, const char **name, bool pattern, struct service **ret, struct domain **ret_domain)
{
        int r = service_get(t, ret);
        if (r == 0 && !*name)
                r = -EINVAL;
        if (r == -EINVAL)
                return name_check(NULL);
        if (r < 0)
                return r;
        *ret_domain = domain_of(*ret, name);
        return pattern ? pattern_check(name) : name_check(*name);
}

/* A new name of ours, or a new watch. */
static int add(wharf_task *t, const char *name, bool watch, wharf_name port)
{
        struct service *s;
        struct domain *d;
        struct entry *e = NULL;
        int r = begin(t, &name, watch, &s, &d);
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
static int entry_remove(struct service *s, struct domain *d, bool watch, const char *name, wharf_name port)
{
        wh_lock(&s->lock);
        prune_locked(s, d);
        struct entry *n = find_locked(d, watch, name, port);
        if (n)
                wh_list_remove(&n->node);
        wh_unlock(&s->lock);
        if (!n)
                return wh_fail(-ENOENT, "this task has not %s %s", watch ? "asked to watch" : "registered", name);
        struct when w = when_of(0);
        int r = 0;
        bool asked = false;
        for (int i = 0; i < ATTEMPTS_MAX; i++) {
                /* The wharfd that knew it may be gone; but the next one may know it as well. */
                struct conn *c;
                if ((r = conn_get(s, d, &w, &c, NULL)) < 0)
                        break;
                asked = true;
                struct wh_names_request req = {.op = watch ? WH_NAMES_UNWATCH : WH_NAMES_UNREGISTER,
                                               .cookie = n->cookie};
                strcpy(req.name, n->name);
                uint8_t buf[sizeof(struct wh_names_reply_head)];
                struct wharf_msg reply = {.size = sizeof reply, .data = buf, .cap_bytes = sizeof buf};
                int answer;
                r = ask(s, d, c, &req, NULL, 0, &reply, &w, &answer);
                conn_put(s, d, c, gone(r));
                if (!gone(r) || !when_pause(&w))
                        break;
        }
        if (r < 0 && r != -EHOSTDOWN && !gone(r)) { /* nothing is known to have changed */
                wh_lock(&s->lock);
                n->known_to = 0; /* it may be taken back yet; so it is told again, and stays ours */
                if (d->conn)
                        d->conn->behind = true;
                wh_list_push_back(&d->entries, &n->node);
                wh_unlock(&s->lock);
                return r == -ETIMEDOUT && !asked ? r : link_error(d, r);
        }
        free(n); /* where no wharfd is left, nobody knows of it */
        return wh_fail(0, NULL);
}

WHARF_API int wharf_unregister(wharf_task *t, const char *name)
{
        struct service *s;
        struct domain *d;
        int r = begin(t, &name, false, &s, &d);
        return r < 0 ? r : entry_remove(s, d, false, name, WHARF_NONE);
}

WHARF_API int wharf_names_unwatch(wharf_task *t, const char *pattern, wharf_name port)
{
        struct service *s;
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
        struct service *s;
        int r = service_get(t, &s);
        if (r < 0)
                return r;
        uint64_t by = m->notice ? 0 : wh_sender_introducer(t, m->sender.id);
        bool known = false;
        wh_lock(&s->lock);
        each_domain(d, s) wh_list_for (pos, &d->entries)
        {
                const struct entry *e = wh_container(pos, struct entry, node);
                known |= by && e->watch && e->sender == by;
        }
        wh_unlock(&s->lock);
        if (!known)
                return wh_fail(-ENOENT, NULL);
        r = wh_names_get_event(m->data, m->len_bytes, ret);
        return wh_fail(r, r < 0 ? "not an event of this version" : NULL);
}

/*
 * Ask until a wharfd answers. reply's buffers serve every attempt.
 *
 * A look-up with a deadline asks first without waiting there. So it is known that wharfd answers, and that nobody has
 * the name; and when the second question, which waits, is not answered until the deadline, that is still so.
 */
static int ask_any(struct service *s, struct domain *d, struct wh_names_request *req, struct wharf_msg *reply,
                   int64_t deadline_ns)
{
        struct when w = when_of(deadline_ns);
        bool waits = req->op == WH_NAMES_LOOKUP && w.chosen, missing = false;
        int r = 0;
        for (int i = 0; i < ATTEMPTS_MAX; i++) {
                struct conn *c;
                r = conn_get(s, d, &w, &c, NULL);
                if (r < 0)
                        return r;
                int64_t now = wh_os_now_ns();
                req->timeout_ns = !missing                       ? 0
                                  : deadline_ns == WHARF_FOREVER ? WH_NAMES_FOREVER
                                  : deadline_ns > now            ? (uint64_t)(deadline_ns - now)
                                                                 : 0;
                int answer = 0;
                r = ask(s, d, c, req, NULL, 0, reply, &w, &answer);
                conn_put(s, d, c, gone(r));
                if (r == -ETIMEDOUT && missing)
                        return -ENOENT;
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
                        when_pause(&w);
                        i = -1;
                        continue;
                }
                if (r == 0)
                        return answer == -ENOENT ? answer : answer < 0 ? link_error(d, answer) : 0;
                if (!gone(r))
                        break;
                missing = false; /* the next wharfd has not been asked */
                /* One that was killed while we waited is no sign that the next will be. */
                if (wh_os_now_ns() - now > RETRY_PAUSE_NS * 100)
                        i = -1;
                if (!when_pause(&w)) {
                        r = -ETIMEDOUT;
                        break;
                }
        }
        return link_error(d, r);
}

WHARF_API int wharf_lookup(wharf_task *t, const char *name, int64_t deadline_ns, wharf_name *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        struct service *s;
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
        r = ask_any(s, d, &req, &reply, deadline_ns);
        if (r < 0)
                return r == -ENOENT ? wh_fail(r, "nobody has registered %s", name) : r;
        if (reply.n_items != 1 || got.kind != WHARF_GOT_SEND) {
                wh_items_drop(t, &got, reply.n_items);
                return link_error(d, wh_trace(-EPROTO));
        }
        wh_right_greet(t, got.name);
        *ret = got.name;
        return wh_fail(0, NULL);
}

int wh_names_list_until(wharf_task *t, int64_t deadline_ns, struct wharf_named **ret, size_t *ret_n)
{
        if (!ret || !ret_n)
                return wh_fail_null(ret ? "ret_n" : "ret");
        struct service *s;
        int r = service_get(t, &s);
        if (r < 0)
                return r;
        struct wh_names_request req = {.op = WH_NAMES_LIST};
        struct wharf_msg reply = {.size = sizeof reply, .flags = WHARF_RECV_ALLOC};
        r = ask_any(s, &s->domain[0], &req, &reply, deadline_ns);
        if (r < 0)
                return r;
        r = wh_names_get_list(reply.data, reply.len_bytes, ret, ret_n);
        wharf_release(t, &reply);
        return r < 0 ? link_error(&s->domain[0], r) : wh_fail(0, NULL);
}

WHARF_API int wharf_names_list(wharf_task *t, struct wharf_named **ret, size_t *ret_n)
{
        return wh_names_list_until(t, 0, ret, ret_n);
}

WHARF_API int wharf_waits_list(wharf_task *t, struct wharf_wait **ret, size_t *ret_n)
{
        if (!ret || !ret_n)
                return wh_fail_null(ret ? "ret_n" : "ret");
        struct service *s;
        int r = service_get(t, &s);
        if (r < 0)
                return r;
        struct wharf_named *named;
        size_t n_named, n_tasks;
        r = wharf_names_list(t, &named, &n_named);
        if (r < 0)
                return r;
        struct wh_names_request req = {.op = WH_NAMES_WAITS};
        struct wharf_msg reply = {.size = sizeof reply, .flags = WHARF_RECV_ALLOC};
        struct wh_names_task *tasks;
        r = ask_any(s, &s->domain[0], &req, &reply, 0);
        if (r == 0) {
                r = wh_names_get_tasks(reply.data, reply.len_bytes, &tasks, &n_tasks);
                wharf_release(t, &reply);
                if (r == 0) {
                        r = wh_graph(tasks, n_tasks, named, n_named, ret, ret_n);
                        free(tasks);
                }
                r = r < 0 ? link_error(&s->domain[0], r) : wh_fail(0, NULL);
        }
        free(named);
        return r;
}

/* ---- surviving wharfd ---- */

WHARF_API int wharf_names_fd(wharf_task *t, int *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        struct service *s;
        int r = service_get(t, &s);
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
                                conn_put(s, d, c, false);
                }
        }
        return wharf_port_fd(t, watch, ret);
}

static int renew(struct service *s, struct domain *d)
{
        struct when w = when_of(0);
        int r;
        for (int i = 0; i < ATTEMPTS_MAX; i++) {
                wh_lock(&s->lock);
                prune_locked(s, d);
                bool none = wh_list_empty(&d->entries);
                wh_unlock(&s->lock);
                if (none)
                        return wh_fail(0, NULL);
                struct conn *c;
                int renewed = 0;
                r = conn_get(s, d, &w, &c, &renewed);
                if (r < 0)
                        return r;
                conn_put(s, d, c, gone(renewed));
                if (!gone(renewed))
                        return renewed == -EEXIST ? wh_fail(renewed, NULL)
                               : renewed < 0      ? link_error(d, renewed)
                                                  : wh_fail(0, NULL);
                if (!when_pause(&w))
                        break;
        }
        return link_error(d, -EPIPE);
}

WHARF_API int wharf_names_renew(wharf_task *t)
{
        struct service *s;
        int r = service_get(t, &s);
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
