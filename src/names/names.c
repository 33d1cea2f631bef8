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
#include "message/items.h"
#include "right/kept.h"
#include "right/right.h"
#include "port/status.h"
#include "task/task.h"
#include "task/why.h"
#include "names/domain.h"
#include "names/graph.h"
#include "names/names.h"
#include "names/proto.h"
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
#define ANNOUNCED_AT_ONCE 8u /* a server takes 64 of one sender, and descriptors in flight are limited */
#define PRUNE_SHARE 16
#define RETRY_PAUSE_NS ((int64_t)10 * 1000000)
#define AWAY_NS ((int64_t)1000000000) /* a shared domain whose wharfd makes it again is not there for a moment */

/* Until when a call goes on. */
struct when {
        int64_t until_ns;
        int64_t short_ns; /* ... where somebody is short of descriptors or memory, which passes */
        bool chosen;      /* by the caller: then to the end, whatever wharfd does meanwhile */
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
        struct wh_list among_watches; /* a watch */
        struct entry *next;           /* of the same bucket */
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
        struct wh_list entries, watches;
        struct entry *first[16], **bucket; /* the same by name: `room` of them, a power of two; `first` to begin with */
        size_t room;
        size_t n_entries, since_pruned; /* calls since it was last looked which of them are about closed ports */
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
                if (d->bucket != d->first)
                        free(d->bucket);
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
                        each_domain(d, s)
                        {
                                wh_list_init(&d->entries);
                                wh_list_init(&d->watches);
                                d->bucket = d->first;
                                d->room = sizeof d->first / sizeof *d->first;
                        }
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

static struct entry **bucket_of(const struct domain *d, const char *name)
{
        uint32_t h = 2166136261u;
        while (*name)
                h = (h ^ (uint8_t)*name++) * 16777619u;
        return &d->bucket[h & (d->room - 1)];
}

static void entry_in_locked(struct domain *d, struct entry *e)
{
        struct entry **more = d->n_entries < d->room ? NULL : wh_os_calloc(d->room * 2, sizeof *more);
        if (more) { /* without them it takes longer to find one, and that is all */
                if (d->bucket != d->first)
                        free(d->bucket);
                d->bucket = more;
                d->room *= 2;
                wh_list_for (pos, &d->entries) {
                        struct entry *n = wh_container(pos, struct entry, node), **at = bucket_of(d, n->name);
                        n->next = *at;
                        *at = n;
                }
        }
        struct entry **at = bucket_of(d, e->name);
        e->next = *at;
        *at = e;
        wh_list_push_back(&d->entries, &e->node);
        if (e->watch)
                wh_list_push_back(&d->watches, &e->among_watches);
        d->n_entries++;
}

static void entry_out_locked(struct domain *d, struct entry *e)
{
        struct entry **at = bucket_of(d, e->name);
        while (*at != e)
                at = &(*at)->next;
        *at = e->next;
        wh_list_remove(&e->node);
        if (e->watch)
                wh_list_remove(&e->among_watches);
        d->n_entries--;
}

static bool about_closed(const struct service *s, const struct entry *e)
{
        return wharf_name_kind(s->task, e->port) != WHARF_KIND_PORT;
}

/* Forgets what is about a port that was closed: wharfd has seen that too. */
static void prune_locked(struct service *s, struct domain *d)
{
        wh_list_for_safe (pos, &d->entries) {
                struct entry *n = wh_container(pos, struct entry, node);
                if (about_closed(s, n)) {
                        entry_out_locked(d, n);
                        free(n);
                }
        }
        d->since_pruned = 0;
}

/* The same now and then, so that who has thousands does not look at all of them in each call. */
static void prune_soon_locked(struct service *s, struct domain *d)
{
        if (++d->since_pruned > d->n_entries / PRUNE_SHARE)
                prune_locked(s, d);
}

/* `port` is WHARF_NONE for a name, which may be registered only once. */
static struct entry *find_locked(const struct domain *d, bool watch, const char *name, wharf_name port)
{
        for (struct entry *n = *bucket_of(d, name); n; n = n->next)
                if (n->watch == watch && !strcmp(n->name, name) && (!watch || n->port == port))
                        return n;
        return NULL;
}

/* The same, taken out of the list; only where its port is open. */
static struct entry *take_locked(struct service *s, struct domain *d, bool watch, const char *name, wharf_name port)
{
        struct entry *n;
        while ((n = find_locked(d, watch, name, port))) {
                entry_out_locked(d, n);
                if (!about_closed(s, n))
                        break;
                free(n);
        }
        return n;
}

/* ---- time ---- */

static struct when when_of(int64_t deadline_ns)
{
        int64_t now = wh_os_now_ns();
        if (deadline_ns == 0)
                return (struct when){.until_ns = now + ALL_NS, .short_ns = now + ANSWER_NS};
        int64_t until_ns = deadline_ns > now ? deadline_ns : now + PASSED_NS;
        return (struct when){.until_ns = until_ns, .short_ns = until_ns, .chosen = true};
}

/*
 * wharfd has taken something that it had to be told first. Where the caller said nothing it is silence that ends a
 * call: the time begins anew, so that one call is enough for any number of names.
 */
static void when_answered(struct when *w)
{
        if (!w->chosen)
                *w = when_of(0);
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

/*
 * Is wharfd short of something, or has this user too many descriptors on their way (RLIMIT_NOFILE), whosever? What this
 * process itself has not got is no such thing: nobody but its caller can change that.
 */
static bool short_of(int r)
{
        return r == -ETOOMANYREFS || r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS;
}

/* That passes: a pause. False: the time for it is over. */
static bool short_pause(const struct when *w)
{
        const struct when until = {.until_ns = w->short_ns};
        return when_pause(&until);
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

/* A question that was sent, and its answer that has not come yet. */
struct asked {
        struct wh_names_request req;
        uint32_t call;
};

/*
 * Does a wharfd serve at the other end? Until it has started, and has taken up what the last one left, it greets
 * nobody.
 */
static bool conn_greeted(struct service *s, const struct conn *c)
{
        struct wharf_right_stat st = {.size = sizeof st};
        return wharf_right_stat(s->task, c->right, &st) < 0 || st.id.v;
}

static int64_t answer_until(const struct when *w)
{
        int64_t now = wh_os_now_ns();
        return !w->chosen && w->until_ns > now + ANSWER_NS ? now + ANSWER_NS : w->until_ns;
}

static int ask_begin(struct service *s, struct conn *c, const struct wh_names_request *question,
                     struct wharf_item *items, uint32_t n_items, const struct when *w, struct asked *ret)
{
        uint8_t buf[WH_NAMES_REQUEST_MAX];
        struct wharf_item with[ASK_ITEMS_MAX + 1], *all = items;
        ret->req = *question;
        bool page = !atomic_exchange_explicit(&c->page_given, true, memory_order_relaxed);
        if (page && wh_waits_fd(&s->task->waits, &with[n_items].fd) == 0) {
                if (n_items)
                        memcpy(with, items, n_items * sizeof *items);
                with[n_items].kind = WHARF_COPY_FD;
                all = with;
                ret->req.flags |= WH_NAMES_PAGE;
        }
        struct wharf_msg m = {.size = sizeof m,
                              .data = buf,
                              .len_bytes = wh_names_put_request(&ret->req, buf),
                              .items = all,
                              .n_items = n_items + (all == with)};
        int r = wharf_call_start(s->task, c->right, &m, answer_until(w), &ret->call);
        if (r == -ETOOMANYREFS && all == with) /* then without: `wharf ps` does not show this task */
                return ask_begin(s, c, question, items, n_items, w, ret);
        return r;
}

/*
 * The answer. Errors of the link, or -EPROTO; wharfd's own answer in *ret_answer. Only the answer 0 leaves an allocated
 * reply to be released, and items to be dropped.
 */
static int ask_end(struct service *s, struct domain *d, struct conn *c, const struct asked *a, struct wharf_msg *reply,
                   const struct when *w, int *ret_answer)
{
        int64_t until_ns = answer_until(w);
        bool starts = false; /* it did not serve when it was last looked */
        int r;
        for (;;) {
                int64_t look_ns = wh_os_now_ns() + LOOK_NS;
                r = wharf_call_finish(s->task, c->right, a->call, reply,
                                      w->chosen || look_ns > until_ns ? until_ns : look_ns);
                if (r != -ETIMEDOUT || w->chosen)
                        break;
                bool serves = conn_greeted(s, c);
                if (!serves)
                        until_ns = w->until_ns;
                else if (starts)
                        until_ns = answer_until(w);
                starts = !serves;
                if (wh_os_now_ns() >= until_ns || wh_os_is_stopped(wh_domain_server(d->dir)))
                        break;
        }
        if (r == -EAGAIN || r == -ETIMEDOUT || r == -EOVERFLOW || r == -ENOMEM || r == -EMFILE)
                wharf_call_cancel(s->task, c->right, a->call); /* it is still outstanding */
        if (r < 0)
                return r;
        uint32_t line = 0;
        const char *what = a->req.op == WH_NAMES_REGISTER ? "own" : "use";
        r = wh_names_get_reply(reply->data, reply->len_bytes, a->req.op, ret_answer, &line);
        if (r < 0 || *ret_answer < 0) {
                wh_items_drop(s->task, reply->items, reply->n_items);
                if (reply->flags & WHARF_RECV_ALLOC)
                        wharf_release(s->task, reply);
        }
        if (r == 0 && *ret_answer == -EACCES && line)
                wh_set_why("line %u of the rules of that domain does not let this user %s %s", line, what, a->req.name);
        else if (r == 0 && *ret_answer == -EACCES)
                wh_set_why("the rules of that domain do not let this user %s %s", what, a->req.name);
        return r;
}

/* One question, one answer. */
static int ask(struct service *s, struct domain *d, struct conn *c, const struct wh_names_request *question,
               struct wharf_msg *reply, const struct when *w, int *ret_answer)
{
        struct asked a;
        int r = ask_begin(s, c, question, NULL, 0, w, &a);
        return r < 0 ? r : ask_end(s, d, c, &a, reply, w, ret_answer);
}

/* An entry that wharfd is being told of. */
struct announced {
        struct asked asked;
        wharf_name sent;        /* a watch: the right that goes with it */
        uint64_t before, after; /* a watch: by which id the port knew wharfd's right, and will */
};

/* Tells wharfd about one name or watch of ours: one that is new, or that an earlier wharfd knew. */
static int announce_begin(struct service *s, struct conn *c, const struct entry *e, const struct when *w,
                          struct announced *a)
{
        struct wh_names_request req = {.op = e->watch ? WH_NAMES_WATCH : WH_NAMES_REGISTER, .cookie = e->cookie};
        strcpy(req.name, e->name);
        struct wharf_item items[2] = {{.kind = WH_MAKE_DIRECTORY, .name = e->port}, {.kind = WHARF_COPY_FD}};
        uint32_t n = 1;
        int r = 0;
        *a = (struct announced){.sent = WHARF_NONE, .before = e->sender, .after = e->sender};
        if (e->watch) {
                items[0].kind = WHARF_MOVE_SEND;
                r = wh_right_new_id(s->task, e->port, &items[0].name, &a->after);
                if (r < 0)
                        return r;
                a->sent = items[0].name;
        } else if (wh_port_status_fd(s->task, e->port, &items[1].fd) == 0) {
                n = 2; /* without a page `wharf ls` shows no figures; that is no reason to refuse */
        }
        r = ask_begin(s, c, &req, items, n, w, &a->asked);
        if (r < 0 && e->watch)
                wharf_drop(s->task, a->sent);
        return r;
}

/* 0, wharfd's answer, or an error of the link. */
static int announce_end(struct service *s, struct domain *d, struct conn *c, struct entry *e, bool is_new,
                        const struct when *w, const struct announced *a)
{
        uint8_t buf[sizeof(struct wh_names_reply_head)];
        struct wharf_msg reply = {.size = sizeof reply, .data = buf, .cap_bytes = sizeof buf};
        int answer = 0, r = ask_end(s, d, c, &a->asked, &reply, w, &answer);
        e->sender = a->after;
        if (a->before && wh_sender_lives(s->task, a->before))
                e->sender = a->before; /* a wharfd that knows the watch has the earlier right, and drops the new one */
        if (r == -ETIMEDOUT && is_new) {
                /* If it comes round after all, it must not believe that this is ours: this follows on its link. */
                struct wh_names_request req = a->asked.req;
                req.op = e->watch ? WH_NAMES_UNWATCH : WH_NAMES_UNREGISTER;
                req.flags = 0;
                uint8_t undo[WH_NAMES_REQUEST_MAX];
                wharf_send(s->task, c->right, undo, wh_names_put_request(&req, undo), 0);
        }
        return r < 0 ? r : answer;
}

/* *ret_own: it could not even be begun, for want of something that this process has not got. */
static int announce(struct service *s, struct domain *d, struct conn *c, struct entry *e, const struct when *w,
                    bool *ret_own)
{
        struct announced a;
        int r = announce_begin(s, c, e, w, &a);
        *ret_own = r < 0 && r != -ETOOMANYREFS;
        return r < 0 ? r : announce_end(s, d, c, e, true, w, &a);
}

/* Did the wharfd that we talked to go away, so that the question goes to the next one? */
static bool gone(int r)
{
        return r == -EPIPE || r == -ECONNRESET || r == -ENOTCONN || r == -ECANCELED;
}

/* An entry that wharfd is told of again: a copy, since the list may change while we talk (C3). */
struct again {
        struct entry e;
        bool told;
        int r;
};

/* What became of them. They stand in the order of the list; whatever is not in it any more was taken back meanwhile. */
static void announced_locked(struct domain *d, struct conn *c, const struct again *again, size_t n)
{
        size_t i = 0;
        wh_list_for_safe (pos, &d->entries) {
                struct entry *e = wh_container(pos, struct entry, node);
                size_t k = i;
                while (k < n && memcmp(&again[k].e.cookie, &e->cookie, sizeof e->cookie))
                        k++;
                if (k == n)
                        continue; /* it is new */
                i = k + 1;
                if (!again[k].told)
                        continue;
                if (again[k].r == -EEXIST) {
                        entry_out_locked(d, e);
                        free(e);
                        continue;
                }
                e->sender = again[k].e.sender;
                e->known_to = again[k].r == -ETIMEDOUT || gone(again[k].r) || short_of(again[k].r) ? 0 : c->number;
        }
}

/* All that is not known there once; *ret_short: somebody was short of something, so that it can be tried again. */
static int announce_once(struct service *s, struct domain *d, struct conn *c, struct when *w, bool *ret_short)
{
        size_t n, k = 0;
        wh_lock(&s->lock);
        prune_locked(s, d);
        n = d->n_entries;
        struct again *again = n ? wh_os_calloc(n, sizeof *again) : NULL;
        if (again)
                wh_list_for (pos, &d->entries) {
                        const struct entry *e = wh_container(pos, struct entry, node);
                        if (e->known_to != c->number)
                                again[k++].e = *e;
                }
        c->behind = n && !again;
        *ret_short = false;
        wh_unlock(&s->lock);
        if (n && !again)
                return wh_trace(-ENOMEM);

        /* Several at a time, since each that waits for its answer alone waits for two processes to be run. */
        struct announced window[ANNOUNCED_AT_ONCE];
        int first = 0, r = 0;
        size_t begun = 0, ended = 0;
        bool short_now = false;
        while (ended < k && r != -ETIMEDOUT && !gone(r)) {
                r = 0;
                while (r == 0 && begun < k && begun - ended < ANNOUNCED_AT_ONCE) {
                        r = announce_begin(s, c, &again[begun].e, w, &window[begun % ANNOUNCED_AT_ONCE]);
                        begun += r == 0;
                }
                size_t at = ended++;
                bool ours = at >= begun; /* it could not even be begun */
                if (ours)
                        begun++;
                else
                        r = announce_end(s, d, c, &again[at].e, false, w, &window[at % ANNOUNCED_AT_ONCE]);
                if (r == 0)
                        when_answered(w);
                again[at].told = true;
                again[at].r = r;
                short_now |= short_of(r);
                *ret_short |= ours ? r == -ETOOMANYREFS : short_of(r);
                if (r < 0 && (first == 0 || short_of(first)))
                        first = r;
        }
        for (; ended < begun; ended++)
                wharf_call_cancel(s->task, c->right, window[ended % ANNOUNCED_AT_ONCE].asked.call);
        wh_lock(&s->lock);
        announced_locked(d, c, again, k);
        c->behind |= r == -ETIMEDOUT || short_now;
        wh_unlock(&s->lock);
        free(again);
        return first;
}

/*
 * Asks a new connection for what the last wharfd knew (C2). -EEXIST: a name has another owner now. Where the time is
 * over first, the rest is for the next call (C5).
 */
static int announce_all(struct service *s, struct domain *d, struct conn *c, struct when *w)
{
        int first = 0, r;
        bool is_short;
        do {
                r = announce_once(s, d, c, w, &is_short);
                if (r < 0 && first == 0 && !short_of(r))
                        first = r;
        } while (is_short && !gone(r) && r != -ETIMEDOUT && short_pause(w));
        return first < 0 ? first : r;
}

/* Whatever ended its link, nothing can be asked over it any more. */
static bool conn_dead(struct service *s, const struct conn *c)
{
        struct wharf_right_stat st = {.size = sizeof st};
        return wharf_right_stat(s->task, c->right, &st) == 0 && st.dead;
}

/* Did wharfd end the link for want of something, which passes? What this process has not got leaves its link alone. */
static bool turned_away(struct service *s, const struct conn *c, int r)
{
        return (r == -EMFILE || r == -ENOMEM || r == -ENOBUFS || r == -EMLINK) && conn_dead(s, c);
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
static int conn_get(struct service *s, struct domain *d, struct when *w, struct conn **ret, int *ret_renewed)
{
        wh_lock(&s->lock);
        prune_soon_locked(s, d);
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
        const int64_t away_ns = wh_os_now_ns() + AWAY_NS;
        do
                r = wh_domain_connect(s->task, d->dir, d->chosen, !d->system, w->until_ns, &c->right);
        while (r == -ECONNREFUSED && w->chosen && wh_os_now_ns() < away_ns && when_pause(w));
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

/* What the callers of names.h see of trouble with the link to wharfd. */
static int link_error(const struct domain *d, int r)
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

/* ... and with what wharfd answered. */
static int answer_error(const struct domain *d, int answer)
{
        if (answer == -EMFILE || answer == -ENFILE || answer == -ENOMEM)
                return wh_fail(answer, "%s: wharfd has no descriptor, or no memory, left for it", d->dir);
        return answer == -ENOBUFS
                       ? wh_fail(-ETIMEDOUT, "%s: wharfd has not taken up all names of the one before it", d->dir)
                       : link_error(d, answer);
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
        bool own = true;     /* nobody but its caller can change what this process itself has not got */
        e->cookie.v[0] |= 1; /* never 0 */
        for (int i = 0; r == 0 && i < ATTEMPTS_MAX; i++) {
                struct conn *c;
                r = conn_get(s, d, &w, &c, NULL);
                if (r < 0)
                        return r;
                /*
                 * Where the answer is lost with its wharfd, the next attempt finds that it was done: the same cookie.
                 */
                r = announce(s, d, c, e, &w, &own);
                if (r == 0) {
                        wh_lock(&s->lock);
                        e->known_to = c->number;
                        entry_in_locked(d, e);
                        wh_unlock(&s->lock);
                        conn_put(s, d, c, false);
                        return wh_fail(0, NULL);
                }
                conn_put(s, d, c, gone(r));
                if (short_of(r) && !own && short_pause(&w)) {
                        i = -1;
                        r = 0;
                        continue;
                }
                if (!gone(r) || !when_pause(&w))
                        break;
                r = i + 1 < ATTEMPTS_MAX ? 0 : r;
        }
        if (r == -EEXIST || r == -EBADF || r == -EPERM || r == -EINVAL || r == -EMLINK)
                return wh_fail(r, NULL);
        return own || r == -ENOBUFS ? link_error(d, r) : answer_error(d, r);
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
        struct entry *n = take_locked(s, d, watch, name, port);
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
                r = ask(s, d, c, &req, &reply, &w, &answer);
                conn_put(s, d, c, gone(r));
                if (!gone(r) || !when_pause(&w))
                        break;
        }
        if (r < 0 && r != -EHOSTDOWN && !gone(r)) { /* nothing is known to have changed */
                wh_lock(&s->lock);
                n->known_to = 0; /* it may be taken back yet; so it is told again, and stays ours */
                if (d->conn)
                        d->conn->behind = true;
                entry_in_locked(d, n);
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
        each_domain(d, s) wh_list_for (pos, &d->watches)
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

/*
 * Ask until a wharfd answers: as often as it takes until the caller's deadline, or else a few times. reply's buffers
 * serve every attempt.
 *
 * A look-up with a deadline asks first without waiting there. So it is known that wharfd answers, and that nobody has
 * the name; and when the second question, which waits, is not answered until the deadline, that is still so.
 */
static int ask_any(struct service *s, struct domain *d, struct wh_names_request *req, struct wharf_msg *reply,
                   int64_t deadline_ns)
{
        struct when w = when_of(deadline_ns);
        bool waits = req->op == WH_NAMES_LOOKUP && w.chosen, missing = false;
        int r = 0, what_short = 0;
        bool said = false; /* ... by wharfd */
        for (int i = 0; w.chosen || i < ATTEMPTS_MAX; i++) {
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
                r = ask(s, d, c, req, reply, &w, &answer);
                bool lost = gone(r) || turned_away(s, c, r);
                conn_put(s, d, c, lost);
                if (r == -ETIMEDOUT && missing)
                        return -ENOENT;
                if (r == -ETOOMANYREFS || (r == 0 && short_of(answer))) {
                        said = r == 0;
                        what_short = said ? answer : r;
                        if (short_pause(&w)) {
                                missing = false;
                                i = -1;
                                continue;
                        }
                }
                if (r == -ETIMEDOUT && what_short) /* it did answer */
                        return said ? answer_error(d, what_short) : link_error(d, what_short);
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
                        return answer == -ENOENT ? answer : answer < 0 ? answer_error(d, answer) : 0;
                if (!lost)
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
        wh_right_chosen(t, got.name); /* by its name, which nobody but the caller has said */
        wh_right_greet(t, got.name);
        *ret = got.name;
        return wh_fail(0, NULL);
}

/* Entries of one list, put together from its parts. */
struct parts {
        enum wh_names_op op;
        void *all;
        size_t n;
};

static int part_add(struct parts *p, const struct wharf_msg *reply)
{
        struct wharf_named *named = NULL;
        struct wh_names_task *tasks = NULL;
        size_t n = 0, size = p->op == WH_NAMES_LIST ? sizeof *named : sizeof *tasks;
        int r = p->op == WH_NAMES_LIST ? wh_names_get_list(reply->data, reply->len_bytes, &named, &n)
                                       : wh_names_get_tasks(reply->data, reply->len_bytes, &tasks, &n);
        if (r < 0)
                return r;
        void *part = named ? (void *)named : tasks;
        if (!p->all) {
                p->all = part;
                p->n = n;
                return 0;
        }
        void *more = wh_os_realloc(p->all, (p->n + n + 1) * size);
        if (more) {
                p->all = more;
                memcpy((char *)more + p->n * size, part, n * size);
                p->n += n;
        }
        free(part);
        return more ? 0 : wh_trace(-ENOMEM);
}

/*
 * All parts of a list. A wharfd that was replaced meanwhile does not know where the last one was: from the beginning.
 */
static int ask_parts(struct service *s, struct domain *d, int64_t deadline_ns, struct parts *p)
{
        struct wh_names_request req = {.op = p->op};
        int r, again = 0;
        do {
                struct wharf_msg reply = {.size = sizeof reply, .flags = WHARF_RECV_ALLOC};
                r = ask_any(s, d, &req, &reply, deadline_ns);
                if (r == -ESTALE && req.after && again++ < ATTEMPTS_MAX) {
                        free(p->all);
                        *p = (struct parts){.op = p->op};
                        req.after = 0;
                        r = 0;
                        continue;
                }
                if (r < 0)
                        break;
                req.after = wh_names_get_next(reply.data);
                r = part_add(p, &reply);
                wharf_release(s->task, &reply);
                if (r < 0)
                        r = link_error(d, r);
                if (r == 0 && !req.after)
                        return 0;
        } while (r == 0);
        free(p->all);
        return r;
}

static int by_name(const void *a, const void *b)
{
        return strcmp(((const struct wharf_named *)a)->name, ((const struct wharf_named *)b)->name);
}

int wh_names_list_until(wharf_task *t, int64_t deadline_ns, struct wharf_named **ret, size_t *ret_n)
{
        if (!ret || !ret_n)
                return wh_fail_null(ret ? "ret_n" : "ret");
        struct service *s;
        int r = service_get(t, &s);
        if (r < 0)
                return r;
        struct parts p = {.op = WH_NAMES_LIST};
        r = ask_parts(s, &s->domain[0], deadline_ns, &p);
        if (r < 0)
                return r;
        struct wharf_named *all = p.all;
        qsort(all, p.n, sizeof *all, by_name);
        size_t n = 0;
        for (size_t i = 0; i < p.n; i++) /* one that was registered anew between two parts is there twice */
                if (n && !strcmp(all[n - 1].name, all[i].name))
                        all[n - 1] = all[i];
                else
                        all[n++] = all[i];
        *ret = all;
        *ret_n = n;
        return wh_fail(0, NULL);
}

WHARF_API int wharf_names_list(wharf_task *t, struct wharf_named **ret, size_t *ret_n)
{
        return wh_names_list_until(t, 0, ret, ret_n);
}

int wh_names_state(wharf_task *t, struct wh_names_state *ret)
{
        struct service *s;
        int r = service_get(t, &s);
        if (r < 0)
                return r;
        uint8_t buf[sizeof(struct wh_names_reply_head) + sizeof *ret];
        struct wh_names_request req = {.op = WH_NAMES_STATE};
        struct wharf_msg reply = {.size = sizeof reply, .data = buf, .cap_bytes = sizeof buf};
        r = ask_any(s, &s->domain[0], &req, &reply, 0);
        if (r == 0)
                r = wh_names_get_state(buf, reply.len_bytes, ret);
        return r < 0 ? link_error(&s->domain[0], r) : wh_fail(0, NULL);
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
        size_t n_named;
        r = wharf_names_list(t, &named, &n_named);
        if (r < 0)
                return r;
        struct parts p = {.op = WH_NAMES_WAITS};
        r = ask_parts(s, &s->domain[0], 0, &p);
        if (r == 0) {
                r = wh_graph(p.all, p.n, named, n_named, ret, ret_n);
                free(p.all);
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
