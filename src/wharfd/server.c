#include "port/port.h"
#include "wharfd/server_impl.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"
#include "message/items.h"
#include "right/kept.h"
#include "port/status.h"
#include "task/task.h"
#include "names/domain.h"
#include "wharf/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum {
        SHORT_TRIES = 8, /* of what there is too little for, before it is given up; with a pause after each */
        BATCH_MSGS = 64, /* requests between two looks at the clock */
        DUE_EACH = 16,   /* look-ups that waited and are answered in one turn of their user */
        LISTS_MAX = 512, /* of one user that wait for their turn: a list is long, and nobody reads so many at once */
        LINKS_MAX = 1 << 18,     /* connections; each user has a share of what the rules allow */
        WAITERS_SWEEP_MIN = 256, /* waiters before the dead among them are first looked for */
        SWEEP_EACH = 4,          /* tasks that are looked at when one comes */
        SWEEP_SHORT = 64,        /* ... or when a user has as many as it may */
        RESTORES_MAX = 3,        /* attempts more, before it serves without what it could not take up */
        POLLS_REFUSED_MAX = 16,  /* in a row, with a pause after each: then there is nothing to serve with */
};
#define KEEP_AGAIN_NS ((int64_t)1000000000)
#define SHORTAGE_PAUSE_NS ((int64_t)20 * 1000000) /* no memory or descriptors: let others give some back */

/* ---- replies ---- */

/* Answers with no more than an errno. 0, or -EPIPE when the asker is gone. */
static int answer(struct wh_server *s, wharf_name reply, enum wh_names_op op, int err)
{
        struct wh_names_reply_head h = wh_names_reply(op, err, 0);
        int r = wharf_reply(s->task, reply, &h, sizeof h);
        if (r < 0)
                wharf_drop(s->task, reply); /* harmless where the failed call has consumed it */
        return r;
}

/* The rules say no. Which line of them only who may see the name is told. */
static void answer_refused(struct wh_server *s, const struct wharf_msg *m, const struct wh_names_request *req,
                           const struct wh_who *who, uint32_t line)
{
        uint32_t see;
        struct wh_names_reply_head h = wh_names_reply(req->op, -EACCES, 0);
        h.count = wh_rules_allow(s->rules, WH_SEE, req->name, who, &see) ? line : 0;
        if (wharf_reply(s->task, m->reply, &h, sizeof h) < 0)
                wharf_drop(s->task, m->reply);
}

static bool is_shortage(int r)
{
        return r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS;
}

/* Is somebody short of something, or a queue full, so that the same can be tried again? */
static bool passes(int r)
{
        return r == -EAGAIN || is_shortage(r) || r == -ETOOMANYREFS;
}

/*
 * Answers a lookup of that user with a right of its own; with -EAGAIN while its owner has to be told more first
 * (watchers.W5).
 */
static void answer_right(struct wh_server *s, wharf_name reply, uid_t uid, struct named *e)
{
        int r = e->full == s->pass || wh_watches_behind_at(s, e) ? -EAGAIN : wh_users_introduce(s, e);
        if (r < 0) {
                if (r == -EAGAIN)
                        e->full = s->pass; /* nor has it anything for the others of this pass */
                answer(s, reply, WH_NAMES_LOOKUP, r);
                return;
        }
        struct wh_names_reply_head h = wh_names_reply(WH_NAMES_LOOKUP, 0, 0);
        struct wharf_item item = {.kind = WH_COPY_ASKED, .name = e->right};
        struct wharf_msg m = {
                .size = sizeof m, .data = &h, .len_bytes = sizeof h, .items = &item, .n_items = 1, .sender.uid = uid};
        r = wharf_replymsg(s->task, reply, &m);
        if (r < 0)
                wh_users_introduced_not(s, e);
        if (r < 0) /* what is not short of something, or full, has ended this moment: its port died, or let go of it */
                answer(s, reply, WH_NAMES_LOOKUP, passes(r) ? r : -ENOENT);
}

/* ---- the table ---- */

size_t wh_server_find(const struct wh_server *s, const char *name, bool *ret_found)
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

static void named_free(struct wh_server *s, struct named *e)
{
        wh_server_slot_gone(s, e->slot);
        wh_users_introduce_done(s, e);
        wh_users_give(&s->users, e->uid, WH_LIMIT_NAMES);
        wharf_drop(s->task, e->right);
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

static void names_remove(struct wh_server *s, size_t i)
{
        struct named *e = s->names[i], **at = bucket_of(s, e->right);
        while (*at != e)
                at = &(*at)->next;
        *at = e->next;
        for (at = id_bucket_of(s, e->port_id); *at != e; at = &(*at)->next_by_id)
                ;
        *at = e->next_by_id;
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
        named_free(s, e);
}

static bool named_alive(struct wh_server *s, const struct named *e)
{
        struct wharf_right_stat st = {.size = sizeof st};
        return wharf_right_stat(s->task, e->right, &st) == 0 && st.dead == 0;
}

/* The entry of that name whose port lives; one whose notice is still under way is removed here (S1). */
static struct named *names_get(struct wh_server *s, const char *name)
{
        bool found;
        size_t i = wh_server_find(s, name, &found);
        if (!found)
                return NULL;
        if (named_alive(s, s->names[i]))
                return s->names[i];
        names_remove(s, i);
        return NULL;
}

static void hash(struct wh_server *s, struct named *e)
{
        struct named **b = bucket_of(s, e->right), **i = id_bucket_of(s, e->port_id);
        e->next = *b;
        *b = e;
        e->next_by_id = *i;
        *i = e;
}

static int names_insert(struct wh_server *s, struct named *e)
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
        size_t i = wh_server_find(s, e->name, &found);
        memmove(&s->names[i + 1], &s->names[i], (s->n_names - i) * sizeof *s->names);
        s->names[i] = e;
        s->n_names++;
        return 0;
}

/* ---- turns: what waits is answered in parts, for each user in turn (S10) ---- */

static struct turn *turn_of(struct wh_server *s, uid_t uid)
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

/* It is kept only for those who wait. */
static void turn_put(struct turn *t)
{
        if (t->n_jobs || t->n_waiters)
                return;
        wh_list_remove(&t->node);
        free(t);
}

/* S14: is nobody there who could read the answer? Then the right to it is dropped. */
static bool asker_gone(struct wh_server *s, uint64_t link, wharf_name reply)
{
        if (wh_sender_lives(s->task, link))
                return false;
        wharf_drop(s->task, reply);
        return true;
}

/* ---- waiting lookups ---- */

/* Its turn stays: turn_put(). */
static void waiter_free(struct wh_server *s, struct waiter *w)
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
                        waiter_free(s, w);
                        turn_put(t);
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

static int waiter_add(struct wh_server *s, const struct wh_names_request *req, const struct wharf_msg *m)
{
        if (s->n_waiters >= s->sweep_at)
                waiters_sweep(s);
        uid_t uid = m->sender.uid;
        int r = wh_users_take(&s->users, uid, WH_LIMIT_WAITS, wh_rules_limit(s->rules, WH_LIMIT_WAITS));
        if (r < 0)
                return r;
        struct turn *t = turn_of(s, uid);
        struct waiter *w = t ? wh_os_calloc(1, sizeof *w) : NULL;
        if (!w) {
                if (t)
                        turn_put(t);
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

/* The name that they wait for is there. */
static void waiters_wake(struct wh_server *s, const struct named *e)
{
        wh_list_for_safe (pos, awaited(s, e->name)) {
                struct waiter *w = wh_container(pos, struct waiter, at);
                if (!strcmp(w->name, e->name))
                        waiter_due(w);
        }
}

/* Those whose time is over are due; returns when the next one's is. */
static int64_t waiters_expire(struct wh_server *s)
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

/*
 * Answers a few of this user's that are due, by what there is now. Where the name has gone again, it is waited for
 * still.
 */
static void waiters_part(struct wh_server *s, struct turn *t)
{
        struct wh_list *at;
        for (unsigned i = 0; i < DUE_EACH && (at = wh_list_pop_front(&t->due)); i++) {
                struct waiter *w = wh_container(at, struct waiter, at);
                const bool over = !wh_list_linked(&w->node);
                if (!asker_gone(s, w->link, w->reply)) {
                        struct named *e = names_get(s, w->name);
                        if (!e && !over) {
                                w->due = false;
                                wh_list_push_back(awaited(s, w->name), &w->at);
                                continue;
                        }
                        if (e)
                                answer_right(s, w->reply, w->uid, e);
                        else
                                answer(s, w->reply, WH_NAMES_LOOKUP, -ENOENT);
                }
                waiter_free(s, w);
        }
}

/* ---- pages of tasks ---- */

static void tasked_free(struct wh_server *s, struct tasked *k)
{
        if (s->tasks_next == &k->node)
                s->tasks_next = k->node.next;
        wh_list_remove(&k->node);
        s->n_tasks--;
        wh_users_give(&s->users, k->uid, WH_LIMIT_TASKS);
        wh_task_page_close(k->page);
        wh_os_close(k->pidfd);
        free(k);
}

static bool tasked_alive(const struct tasked *k)
{
        struct pollfd p = {.fd = k->pidfd, .events = POLLIN};
        return !wh_task_page_closed(k->page) && wh_os_poll(&p, 1, 0) == 0;
}

/* S7: of those whose processes have ended, some at a time. */
static void tasks_ended(struct wh_server *s)
{
        enum { AT_ONCE = 16 };
        struct epoll_event ev[AT_ONCE];
        int n = s->tasks_end < 0 ? 0 : wh_os_epoll_wait(s->tasks_end, ev, AT_ONCE, 0);
        for (int i = 0; i < n; i++)
                tasked_free(s, (struct tasked *)(uintptr_t)ev[i].data.u64);
}

/*
 * S7: lets go of those whose processes have ended, and of those of the next `n` pages whose tasks are no more; whoever
 * adds one looks at a few.
 */
static void tasks_sweep(struct wh_server *s, size_t n)
{
        tasks_ended(s);
        for (n = n < s->n_tasks ? n : s->n_tasks; n-- > 0;) {
                if (s->tasks_next == &s->tasks)
                        s->tasks_next = s->tasks.next;
                struct tasked *k = wh_container(s->tasks_next, struct tasked, node);
                s->tasks_next = k->node.next;
                if (wh_task_page_closed(k->page))
                        tasked_free(s, k);
        }
}

/* It is told of when this one's process ends. */
static int task_watch(struct wh_server *s, struct tasked *k)
{
        if (s->tasks_end < 0) {
                int r = wh_os_epoll();
                if (r < 0)
                        return r;
                s->tasks_end = r;
        }
        return wh_os_epoll_add(s->tasks_end, k->pidfd, EPOLLIN, (uintptr_t)k);
}

/* The asker's page. Whoever hands over nonsense, or more than its share, is not shown, and that is all. */
static void tasks_add(struct wh_server *s, const struct wharf_msg *m, int fd)
{
        const struct wh_task_page *page;
        tasks_sweep(s, SWEEP_EACH);
        if (!m->sender.pid || wh_task_page_open(fd, &page) < 0)
                return;
        wh_list_for (pos, &s->tasks) {
                struct tasked *k = wh_container(pos, struct tasked, node);
                if (k->pid == m->sender.pid && k->page->id == page->id) { /* again, on another link */
                        tasked_free(s, k);
                        break;
                }
        }
        int r = wh_users_take_fds(s, m->sender.uid, WH_LIMIT_TASKS);
        if (r == -EDQUOT) {
                tasks_sweep(s, SWEEP_SHORT);
                r = wh_users_take_fds(s, m->sender.uid, WH_LIMIT_TASKS);
        }
        struct tasked *k = r < 0 ? NULL : wh_os_calloc(1, sizeof *k);
        bool good = k && wharf_sender_pidfd(s->task, m->sender.id, &k->pidfd) >= 0;
        if (good && task_watch(s, k) < 0) {
                wh_os_close(k->pidfd);
                good = false;
        }
        if (!good) {
                wh_task_page_close(page);
                if (r == 0)
                        wh_users_give(&s->users, m->sender.uid, WH_LIMIT_TASKS);
                free(k);
                return;
        }
        k->page = page;
        k->pid = m->sender.pid;
        k->uid = m->sender.uid;
        k->serial = ++s->serial;
        wh_list_push_back(&s->tasks, &k->node);
        s->n_tasks++;
}

/* ---- requests ---- */

enum { INTRODUCERS_MAX = 8 }; /* that are looked at; with more, it is nobody who asks */

/* Is everybody who gave the sender its connection the user that it is itself? */
static bool alone(struct wh_server *s, const struct wharf_sender *from)
{
        struct wharf_introducer by[INTRODUCERS_MAX];
        if (from->introducer.known == WHARF_KNOWN_NOBODY)
                return true;
        int n = wharf_sender_introducers(s->task, from->id, by, INTRODUCERS_MAX);
        bool same =
                n >= 0 && n <= INTRODUCERS_MAX && from->uid != (uid_t)-1; /* two without a number may be two users */
        for (int i = 0; same && i < n; i++)
                same = wh_known_surely(by[i].known) && by[i].uid == from->uid;
        return same;
}

/*
 * S12: who asks, in the kernel's words; and nobody, where it is not sure who asks, or where others may have made it
 * ask: whoever hands a connection to somebody who sends there what it is told to would decide by that one's name, be
 * charged to it, and be told to others as that one. It stays the sender of that id, which only says where an answer
 * goes.
 */
static void sender_believed(struct wh_server *s, struct wharf_msg *m)
{
        if (wh_known_surely(m->sender.known) && alone(s, &m->sender))
                return;
        m->sender.known = WHARF_KNOWN_NOT;
        m->sender.pid = 0;
        m->sender.uid = (uid_t)-1;
        m->sender.gid = (gid_t)-1;
}

/* The same as rules take it; sender_believed() has seen the message. */
static struct wh_who who_of(struct wh_server *s, const struct wharf_msg *m)
{
        struct wh_who who = {.uid = m->sender.uid, .gid = m->sender.gid};
        if (wh_known_surely(m->sender.known) && wh_rules_want_groups(s->rules)) {
                who.n_groups = WH_WHO_GROUPS;
                wh_sender_groups(s->task, m->sender.id, who.groups, &who.n_groups);
        }
        return who;
}

static bool same_cookie(const struct wh_cookie *a, const struct wh_cookie *b)
{
        return a->v[0] == b->v[0] && a->v[1] == b->v[1];
}

/* The second item, if it is one, as a page. Without one of our version `wharf ls` shows no figures. */
static int page_open(const struct wharf_msg *m, const struct wh_port_status **ret)
{
        *ret = NULL;
        int r = m->n_items == 2 ? wh_port_status_open(m->items[1].fd, ret) : 0;
        return r == -EPROTONOSUPPORT ? 0 : r;
}

/* Takes the items of the message that it keeps out of it. The user's account has been settled on success. */
static int named_new(struct wh_server *s, const struct wh_names_request *req, struct wharf_msg *m, struct named **ret)
{
        struct wh_stored st = {.kind = WH_STORED_NAME,
                               .known = (uint16_t)m->sender.known,
                               .pid = m->sender.pid,
                               .cookie = req->cookie,
                               .who = {.uid = m->sender.uid, .gid = m->sender.gid}};
        struct named *e = wh_os_calloc(1, sizeof *e);
        if (!e)
                return wh_trace(-ENOMEM);
        int sock, r = page_open(m, &e->page);
        if (r == 0)
                r = wh_right_keep(s->task, m->items[0].name, &sock, &st.kept);
        if (r == 0 && st.kept.greeted && st.kept.hello[0] == s->port_id)
                r = -EINVAL; /* S11 */
        if (r == 0)
                r = wharf_watch(s->task, m->items[0].name, s->port); /* dead already: the notice comes at once */
        if (r == 0)
                r = wh_users_take_fds(s, m->sender.uid, WH_LIMIT_NAMES);
        if (r < 0) {
                wh_port_status_close(e->page);
                free(e);
                return r;
        }
        strcpy(e->name, req->name);
        strcpy(st.name, req->name);
        e->cookie = req->cookie;
        e->pid = m->sender.pid;
        e->uid = m->sender.uid;
        e->known = m->sender.known;
        e->right = m->items[0].name;
        wh_server_slot_set(s, &e->slot, wh_store_put(s->store, &st, sock, e->page ? m->items[1].fd : -1));
        m->items[0].kind = 0;
        *ret = e;
        return 0;
}

static void do_register(struct wh_server *s, const struct wh_names_request *req, struct wharf_msg *m)
{
        struct wh_who who = who_of(s, m);
        uint32_t line;
        if (!wh_rules_allow(s->rules, WH_OWN, req->name, &who, &line)) {
                answer_refused(s, m, req, &who, line);
                return;
        }
        bool two = m->n_items == 2 && m->items[1].kind == WHARF_GOT_FD;
        if (m->n_items != (two ? 2 : 1) || m->items[0].kind != WHARF_GOT_SEND) {
                answer(s, m->reply, WH_NAMES_REGISTER, wh_trace(-EPROTO));
                return;
        }
        struct named *e = names_get(s, req->name);
        if (e && same_cookie(&e->cookie, &req->cookie)) {
                /*
                 * Its own already: it comes again after a wharfd was replaced. Only what that one lost is of use (S2).
                 */
                if (!e->page)
                        page_open(m, &e->page);
                answer(s, m->reply, WH_NAMES_REGISTER, 0);
                return;
        }
        int r = e ? -EEXIST : named_new(s, req, m, &e);
        if (r == 0 && (r = names_insert(s, e)) < 0)
                named_free(s, e);
        if (answer(s, m->reply, WH_NAMES_REGISTER, r) < 0 && r == 0) {
                /* S2: whoever asked has given up, and believes that the name is not taken. */
                bool found;
                size_t i = wh_server_find(s, req->name, &found);
                if (found)
                        names_remove(s, i);
                return;
        }
        if (r == 0) {
                e->told = true;
                wh_watches_tell(s, WHARF_NAME_IS, e);
                waiters_wake(s, e);
        }
}

static void do_unregister(struct wh_server *s, const struct wh_names_request *req, const struct wharf_msg *m)
{
        bool found;
        size_t i = wh_server_find(s, req->name, &found);
        bool own = found && same_cookie(&s->names[i]->cookie, &req->cookie);
        if (own)
                names_remove(s, i);
        if (m->reply != WHARF_NONE)
                answer(s, m->reply, WH_NAMES_UNREGISTER, own ? 0 : -ENOENT);
}

static void do_watch(struct wh_server *s, const struct wh_names_request *req, struct wharf_msg *m)
{
        struct wh_who who = who_of(s, m);
        int r = wh_trace(-EPROTO);
        if (m->n_items == 1 && m->items[0].kind == WHARF_GOT_SEND) {
                r = wh_watch_add(s, req->name, &req->cookie, &who, m->sender.pid, m->items[0].name);
                if (r == 0)
                        m->items[0].kind = 0;
        }
        if (answer(s, m->reply, WH_NAMES_WATCH, r) < 0 && r == 0)
                wh_watch_remove(s, &req->cookie); /* as for names: whoever asked has given up */
}

static void do_unwatch(struct wh_server *s, const struct wh_names_request *req, const struct wharf_msg *m)
{
        int r = wh_watch_remove(s, &req->cookie);
        if (m->reply != WHARF_NONE)
                answer(s, m->reply, WH_NAMES_UNWATCH, r);
}

static void do_lookup(struct wh_server *s, const struct wh_names_request *req, const struct wharf_msg *m)
{
        struct wh_who who = who_of(s, m);
        uint32_t line;
        if (!wh_rules_allow(s->rules, WH_USE, req->name, &who, &line)) {
                answer_refused(s, m, req, &who, line); /* whether it is registered or not */
                return;
        }
        struct named *e = names_get(s, req->name);
        if (e) {
                answer_right(s, m->reply, m->sender.uid, e);
                return;
        }
        /* While some have not been handed over it is not known that nobody has the name: whoever asks asks again. */
        int r = req->timeout_ns ? waiter_add(s, req, m) : s->restore_owed ? -ENOBUFS : -ENOENT;
        if (r < 0)
                answer(s, m->reply, WH_NAMES_LOOKUP, r);
}

/*
 * What `wharf ls` shows of one name. The page is its owner's claim: each word is loaded once and believed as a number.
 */
static struct wharf_named named_stat(struct wh_server *s, const struct named *e)
{
        struct wharf_named n = {.pid = e->pid, .uid = e->uid, .known = e->known};
        memcpy(n.name, e->name, sizeof n.name);
        struct wharf_right_stat st = {.size = sizeof st};
        if (wharf_right_stat(s->task, e->right, &st) == 0)
                n.id = st.id;
        const struct wh_port_status *p = e->page;
        if (!p)
                return n;
        n.senders = (uint32_t)atomic_load_explicit(&p->senders, memory_order_relaxed);
        n.receivers_waiting = (uint32_t)atomic_load_explicit(&p->receivers_waiting, memory_order_relaxed);
        n.queued_messages = atomic_load_explicit(&p->queued_messages, memory_order_relaxed);
        n.received_messages = atomic_load_explicit(&p->received_messages, memory_order_relaxed);
        n.received_bytes = atomic_load_explicit(&p->received_bytes, memory_order_relaxed);
        if (!n.id.v)
                n.id.v = p->port_id;
        return n;
}

/* ---- what is work: lists, in parts, for each user in turn ---- */

static void job_free(struct wh_server *s, struct job *j)
{
        wh_list_remove(&j->node);
        wh_users_give(&s->users, j->who.uid, WH_LIMIT_WAITS);
        free(j);
}

/* S10. It is one that waits, and counts as such. */
static void job_add(struct wh_server *s, const struct wh_names_request *req, const struct wharf_msg *m)
{
        uid_t uid = m->sender.uid;
        int r = req->after && req->after < s->serial_first
                        ? -ESTALE
                        : wh_users_take(&s->users, uid, WH_LIMIT_WAITS, wh_rules_limit(s->rules, WH_LIMIT_WAITS));
        if (r < 0) {
                answer(s, m->reply, req->op, r);
                return;
        }
        struct turn *t = turn_of(s, uid);
        struct job *j = t && t->n_jobs < LISTS_MAX ? wh_os_calloc(1, sizeof *j) : NULL;
        if (!j) {
                wh_users_give(&s->users, uid, WH_LIMIT_WAITS);
                answer(s, m->reply, req->op, t && t->n_jobs ? -EDQUOT : wh_trace(-ENOMEM));
                if (t)
                        turn_put(t);
                return;
        }
        t->n_jobs++;
        j->reply = m->reply;
        j->link = m->sender.id;
        j->op = req->op;
        j->after = req->after;
        j->who = who_of(s, m);
        wh_list_push_back(&t->jobs, &j->node);
}

static void list_part(struct wh_server *s, const struct job *j)
{
        uint8_t *buf = wh_os_malloc(WH_NAMES_LIST_MAX);
        size_t len = sizeof(struct wh_names_reply_head), lo = 0, hi = s->n_names, left = WH_NAMES_LOOKED_MAX;
        if (!buf) {
                answer(s, j->reply, WH_NAMES_LIST, wh_trace(-ENOMEM));
                return;
        }
        uint32_t count = 0, line;
        uint64_t after = j->after;
        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;
                if (s->by_serial[mid]->serial <= after)
                        lo = mid + 1;
                else
                        hi = mid;
        }
        while (lo < s->n_names && left-- > 0 && len + WH_NAMES_ENTRY_MAX <= WH_NAMES_LIST_MAX) {
                struct named *e = s->by_serial[lo];
                bool found;
                if (!named_alive(s, e)) {
                        names_remove(s, wh_server_find(s, e->name, &found));
                        continue;
                }
                after = e->serial;
                lo++;
                if (!wh_rules_allow(s->rules, WH_SEE, e->name, &j->who, &line))
                        continue;
                struct wharf_named n = named_stat(s, e);
                len += wh_names_put_entry(&n, buf + len);
                count++;
        }
        struct wh_names_reply_head h = wh_names_reply(WH_NAMES_LIST, 0, count);
        if (lo < s->n_names)
                h.next = after > s->serial_first ? after : s->serial_first; /* where all that was looked at is dead */
        memcpy(buf, &h, sizeof h);
        int r = wharf_reply(s->task, j->reply, buf, len);
        free(buf);
        if (r < 0)
                answer(s, j->reply, WH_NAMES_LIST, r);
}

/* May it not see any name of this port? One that has none is nobody's secret. */
static bool is_hidden(const struct wh_server *s, uint64_t port_id, const struct wh_who *who)
{
        bool hidden = false;
        uint32_t line;
        if (!port_id || !s->n_names)
                return false;
        for (const struct named *e = s->by_id[port_id & (s->room_names - 1)]; e; e = e->next_by_id)
                if (e->port_id == port_id) {
                        if (wh_rules_allow(s->rules, WH_SEE, e->name, who, &line))
                                return false;
                        hidden = true;
                }
        return hidden;
}

/* Leaves out of a view what the asker may not see. What it says of itself is a claim in any case. */
static void view_hide(const struct wh_server *s, struct wh_task_view *v, const struct wh_who *who)
{
        for (unsigned i = 0; i < WH_WAITS_MAX; i++)
                if (is_hidden(s, v->waits[i].port_id, who))
                        v->waits[i].port_id = 0;
        for (unsigned i = 0; i < WH_WAIT_PORTS_MAX; i++)
                if (is_hidden(s, v->ports[i].port_id, who))
                        memset(&v->ports[i], 0, sizeof v->ports[i]);
        for (unsigned i = 0; i < WH_WAIT_HELD_MAX; i++)
                if (is_hidden(s, v->held[i].port_id, who))
                        memset(&v->held[i], 0, sizeof v->held[i]);
}

static void waits_part(struct wh_server *s, const struct job *j)
{
        struct wh_names_reply_head h = wh_names_reply(WH_NAMES_WAITS, 0, 0);
        struct wh_names_task *one;
        uint8_t *buf = wh_os_malloc(sizeof h + WH_NAMES_TASKS_MAX * sizeof *one);
        if (!buf) {
                answer(s, j->reply, WH_NAMES_WAITS, wh_trace(-ENOMEM));
                return;
        }
        bool all = !wh_rules_restrict_see(s->rules), others = all || wh_rules_see_others(s->rules, &j->who);
        one = (struct wh_names_task *)(void *)(buf + sizeof h);
        if (!j->after) {
                memset(one, 0, sizeof *one);
                one->pid = wh_os_getpid();
                one->uid = wh_os_geteuid();
                if (s->task->waits.page)
                        wh_task_page_read(s->task->waits.page, &one->view);
                if (!all) /* it has a right to each port that has a name */
                        view_hide(s, &one->view, &j->who);
                h.count++;
        }
        uint64_t last = s->serial_first;
        wh_list_for_safe (pos, &s->tasks) {
                struct tasked *k = wh_container(pos, struct tasked, node);
                bool own = k->uid == j->who.uid && k->uid != (uid_t)-1;
                if (k->serial <= j->after || !(own || others))
                        continue;
                if (!tasked_alive(k)) {
                        tasked_free(s, k);
                        continue;
                }
                if (h.count == WH_NAMES_TASKS_MAX) {
                        h.next = last;
                        break;
                }
                struct wh_names_task *to = one + h.count++;
                to->pid = k->pid;
                to->uid = k->uid;
                wh_task_page_read(k->page, &to->view);
                if (!all && !own)
                        view_hide(s, &to->view, &j->who);
                last = k->serial;
        }
        memcpy(buf, &h, sizeof h);
        int r = wharf_reply(s->task, j->reply, buf, sizeof h + h.count * sizeof *one);
        free(buf);
        if (r < 0)
                answer(s, j->reply, WH_NAMES_WAITS, r);
}

/* One part for each user that waits for one, and then requests again. True: there is more to do. */
static bool jobs_run(struct wh_server *s)
{
        bool more = false;
        wh_list_for_safe (pos, &s->turns) {
                struct turn *t = wh_container(pos, struct turn, node);
                waiters_part(s, t);
                if (t->n_jobs) {
                        struct job *j = wh_container(t->jobs.next, struct job, node);
                        if (!asker_gone(s, j->link, j->reply)) {
                                if (j->op == WH_NAMES_LIST)
                                        list_part(s, j);
                                else
                                        waits_part(s, j);
                        }
                        job_free(s, j);
                        t->n_jobs--;
                }
                more |= t->n_jobs || !wh_list_empty(&t->due);
                turn_put(t);
        }
        return more;
}

static void jobs_drop(struct wh_server *s)
{
        wh_list_for_safe (pos, &s->turns) {
                struct turn *t = wh_container(pos, struct turn, node);
                while (!wh_list_empty(&t->jobs)) {
                        struct job *j = wh_container(t->jobs.next, struct job, node);
                        wharf_drop(s->task, j->reply);
                        job_free(s, j);
                        t->n_jobs--;
                }
                while (!wh_list_empty(&t->due)) { /* whose time is over */
                        struct waiter *w = wh_container(t->due.next, struct waiter, at);
                        wharf_drop(s->task, w->reply);
                        waiter_free(s, w);
                }
                turn_put(t);
        }
}

static void do_state(struct wh_server *s, const struct wharf_msg *m)
{
        struct {
                struct wh_names_reply_head head;
                struct wh_names_state st;
        } reply = {.head = wh_names_reply(WH_NAMES_STATE, 0, 0)};
        struct wh_store_state kept = wh_store_state(s->store);
        reply.st.holder = !kept.held ? WH_HOLDER_NONE : kept.keeper ? WH_HOLDER_KEEPER : WH_HOLDER_MANAGER;
        reply.st.confined = s->confined;
        const struct wh_who who = who_of(s, m);
        if (who.uid == 0 || who.uid == wh_os_geteuid()) {
                reply.st.names = (uint32_t)s->n_names;
                reply.st.watches = (uint32_t)s->n_watches;
                reply.st.unkept = kept.held ? (uint32_t)s->n_unkept : (uint32_t)(s->n_names + s->n_watches);
                reply.st.unkept_error = (uint32_t)-kept.error;
                reply.st.owed_error = (uint32_t)-kept.owed;
                reply.st.deaths = kept.deaths;
                reply.st.fails = kept.fails;
                reply.st.fail_error = kept.fail;
        }
        if (wharf_reply(s->task, m->reply, &reply, sizeof reply) < 0)
                wharf_drop(s->task, m->reply);
}

static bool takes_back(enum wh_names_op op)
{
        return op == WH_NAMES_UNREGISTER || op == WH_NAMES_UNWATCH;
}

static void serve(struct wh_server *s, struct wharf_msg *m)
{
        struct wh_names_request req;
        int r = wh_names_get_request(m->data, m->len_bytes, &req);
        if (m->reply != WHARF_NONE && !(r == 0 && takes_back(req.op)) && asker_gone(s, m->sender.id, m->reply))
                return;
        sender_believed(s, m);
        if (r == 0 && req.flags & WH_NAMES_PAGE) {
                struct wharf_item *page = m->n_items ? &m->items[m->n_items - 1] : NULL;
                if (page && page->kind == WHARF_GOT_FD) {
                        tasks_add(s, m, page->fd);
                        wh_os_close_theirs(page->fd);
                        m->n_items--;
                } else {
                        r = wh_trace(-EPROTO);
                }
        }
        if (m->reply == WHARF_NONE) {
                /* Nobody waits for what we would say; but whoever gave up a REGISTER takes it back like this. */
                if (r == 0 && req.op == WH_NAMES_UNREGISTER)
                        do_unregister(s, &req, m);
                else if (r == 0 && req.op == WH_NAMES_UNWATCH)
                        do_unwatch(s, &req, m);
                return;
        }
        if (r < 0) {
                answer(s, m->reply, 0, r);
                return;
        }
        switch (req.op) {
        case WH_NAMES_REGISTER:
                do_register(s, &req, m);
                break;
        case WH_NAMES_UNREGISTER:
                do_unregister(s, &req, m);
                break;
        case WH_NAMES_LOOKUP:
                do_lookup(s, &req, m);
                break;
        case WH_NAMES_LIST:
        case WH_NAMES_WAITS:
                job_add(s, &req, m);
                break;
        case WH_NAMES_STATE:
                do_state(s, m);
                break;
        case WH_NAMES_WATCH:
                do_watch(s, &req, m);
                break;
        case WH_NAMES_UNWATCH:
                do_unwatch(s, &req, m);
                break;
        case WH_NAMES_OPS: /* none such gets here */
                break;
        }
}

/* A watched right's port is gone. */
static void on_dead_name(struct wh_server *s, wharf_name right)
{
        struct named *e = s->n_names ? *bucket_of(s, right) : NULL;
        while (e && e->right != right)
                e = e->next;
        bool found;
        if (e)
                names_remove(s, wh_server_find(s, e->name, &found));
        else
                wh_watch_dead(s, right);
}

/* S13 */
static void spares_give(struct wh_server *s)
{
        while (s->n_spares)
                wh_os_close(s->spare[--s->n_spares]);
}
static void spares_take(struct wh_server *s)
{
        for (int fd = 0; s->n_spares < WH_SPARES && fd >= 0;)
                if ((fd = wh_os_dup_above(s->port_fd, 0)) >= 0)
                        s->spare[s->n_spares++] = fd;
}

/*
 * There is too little for what one sender has, and nobody else has anything. That may pass; but nobody else is to wait
 * for it for good. So after a few tries the sender's next message is taken without its items, which the spare
 * descriptors are for (S13), and answered with the reason; where not even that can be done, its link ends for that
 * reason, and it may come again. Then 0; otherwise `err`.
 */
static int serve_short(struct wh_server *s, struct wharf_msg *m, int err)
{
        struct wh_names_request req;
        const uint64_t sender = m->sender.id;
        if (!sender || ++s->short_tries < SHORT_TRIES)
                return err;
        s->short_tries = 0;
        m->flags |= WHARF_RECV_NO_ITEMS;
        m->from = sender;
        spares_give(s);
        int r = wharf_recvmsg(s->task, s->port, m, 0);
        spares_take(s);
        if (r == -EOVERFLOW)
                return 0;
        if (r < 0)
                return wh_sender_end(s->task, s->port, sender, err) == 0 ? 0 : err;
        r = wh_names_get_request(m->data, m->len_bytes, &req);
        if (m->reply == WHARF_NONE)
                serve(s, m); /* what takes something back has no items */
        else
                answer(s, m->reply, r == 0 ? req.op : 0, err);
        return 0;
}

/* One message without waiting: 0, or -EAGAIN when there is none, or what is wrong. */
static int serve_one(struct wh_server *s)
{
        struct wharf_item items[WH_REQUEST_ITEMS_MAX];
        uint8_t buf[WH_NAMES_REQUEST_MAX]; /* private: what is parsed cannot change any more (proto.N1) */
        struct wharf_msg m = {.size = sizeof m,
                              .flags = WHARF_RECV_DROP_UNFIT,
                              .data = buf,
                              .cap_bytes = sizeof buf,
                              .items = items,
                              .cap_items = WH_REQUEST_ITEMS_MAX};
        int r = wharf_recvmsg(s->task, s->port, &m, 0);
        if (r == -EOVERFLOW)
                return 0; /* no request is so long, or has so many items; nobody else is to wait for it */
        if (is_shortage(r))
                return serve_short(s, &m, r);
        if (r < 0)
                return r;
        if (m.notice) {
                if (m.notice == WHARF_NOTICE_DEAD_NAME)
                        on_dead_name(s, m.about);
                return 0;
        }
        serve(s, &m);
        wh_items_drop(s->task, items, m.n_items);
        return 0;
}

/* ---- life ---- */

int wh_server_new(wharf_task *task, int listen_fd, struct wh_rules *rules, struct wh_store *store,
                  struct wh_server **ret)
{
        struct wh_server *s = wh_os_calloc(1, sizeof *s);
        if (!s)
                return wh_trace(-ENOMEM);
        s->task = task;
        s->listen_fd = listen_fd;
        s->sweep_at = WAITERS_SWEEP_MIN;
        wh_list_init(&s->waiters);
        for (unsigned i = 0; i < WH_AWAITED; i++)
                wh_list_init(&s->awaited[i]);
        s->pass = 1;
        wh_list_init(&s->introducing);
        wh_list_init(&s->tasks);
        s->tasks_next = &s->tasks;
        s->tasks_end = -1;
        wh_list_init(&s->turns);
        s->serial_first = s->serial = (uint64_t)wh_os_now_ns(); /* more than any that an earlier one gave */
        wh_list_init(&s->watches);
        struct wharf_port_opts o = {
                .size = sizeof o,
                .flags = WHARF_PORT_STAYS | WHARF_PORT_FIXED,
                .links_max = LINKS_MAX,
                .capacity_records = 64,
                .payload_bytes_max = WH_NAMES_REQUEST_MAX, /* so that no request is larger than serve_one()'s buffer */
        };
        int r = wharf_port_new(task, &o, &s->port);
        if (r == 0)
                wh_os_listen(listen_fd, WH_DOMAIN_BACKLOG); /* S9; refused, nobody knows our number */
        if (r == 0)
                r = wh_port_of_others(task, s->port);
        if (r == 0) /* a port that is moved here, or a memory, would cost much before anybody sees what for */
                r = wh_port_takes(task, s->port, 1u << WH_ITEM_SEND | 1u << WH_ITEM_FD);
        if (r == 0)
                r = wharf_port_listen(task, s->port, listen_fd);
        if (r == 0)
                r = wharf_port_fd(task, s->port, &s->port_fd);
        struct wharf_port_stat st = {.size = sizeof st};
        if (r == 0 && (r = wharf_port_stat(task, s->port, &st)) == 0)
                s->port_id = st.id.v;
        if (r == 0)
                spares_take(s);
        if (r == 0 && !(s->polls = wh_os_calloc(WH_POLLS_OWN, sizeof *s->polls)))
                r = wh_trace(-ENOMEM);
        if (r < 0) {
                wh_server_free(s);
                return r;
        }
        s->room_polls = WH_POLLS_OWN;
        s->store = store;
        wh_server_set_rules(s, rules);
        *ret = s;
        return 0;
}

/* A share of the descriptors that we may have, too: a name needs some as well. */
static void share_links(struct wh_server *s)
{
        uint32_t total = wh_rules_limit(s->rules, WH_LIMIT_CONNECTIONS);
        uint64_t fds;
        if (wh_os_rlimit(RLIMIT_NOFILE, &fds) == 0 && fds / 2 < total)
                total = (uint32_t)(fds / 2);
        wh_port_share_links(s->task, s->port, total);
}

void wh_server_confined(struct wh_server *s, uint32_t what)
{
        s->confined = what;
}

void wh_server_set_rules(struct wh_server *s, struct wh_rules *rules)
{
        wh_rules_free(s->rules);
        s->rules = rules;
        share_links(s);
        wh_watches_anew(s); /* what they may see may have changed */
}

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
                wh_server_find(s, e->name, &found);
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
                r = names_insert(s, n);
        if (r < 0) {
                named_free(s, n);
                return r;
        }
        s->n_unkept--;
        wh_server_slot_set(s, &n->slot, slot);
        n->told = true;
        if (s->restore_owed) { /* it comes late: we serve already */
                wh_watches_tell(s, WHARF_NAME_IS, n);
                waiters_wake(s, n);
        }
        return 0;
}

void wh_server_restore(struct wh_server *s, struct wh_given *given, unsigned n)
{
        int r = 0;
        for (int i = 0; s->store && (r = wh_store_restore(s->store, given, n, restore, s)) < 0 && i < RESTORES_MAX; i++)
                wh_os_poll(NULL, 0, wh_os_now_ns() + SHORTAGE_PAUSE_NS);
        s->restore_owed = r < 0; /* then it serves with what it has, and tries again beside that (store.J5) */
}

/* ---- the store ---- */

/* The holder has not got this. */
static void unkept(void *arg, uint32_t slot)
{
        struct wh_server *s = arg;
        for (size_t i = 0; i < s->n_names; i++)
                if (s->names[i]->slot == slot) {
                        wh_server_slot_set(s, &s->names[i]->slot, WH_STORE_NONE);
                        return;
                }
        wh_watch_unkept(s, slot);
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
                wh_server_slot_set(s, &e->slot, wh_store_put(s->store, &st, sock, -1));
                if (e->slot == WH_STORE_NONE)
                        return false;
        }
        return true;
}

/* What was not kept, or not handed over, is tried again now and then. When to come back for it. */
static int64_t keep_again(struct wh_server *s, int64_t now)
{
        bool put = s->n_unkept && wh_store_has_room(s->store);
        if (!put && !s->restore_owed)
                return WHARF_FOREVER;
        if (now < s->keep_at_ns)
                return s->keep_at_ns;
        if (s->restore_owed)
                s->restore_owed = wh_store_restore(s->store, NULL, 0, restore, s) < 0;
        put = s->n_unkept && wh_store_has_room(s->store) && !(names_keep(s) && wh_watches_keep(s));
        bool refused = s->restore_owed && wh_store_state(s->store).owed == -ETOOMANYREFS; /* at once, and for now */
        s->keep_at_ns = now + (refused ? SHORTAGE_PAUSE_NS : KEEP_AGAIN_NS);
        return put || s->restore_owed ? s->keep_at_ns : WHARF_FOREVER;
}

struct wh_server *wh_server_free(struct wh_server *s)
{
        if (!s)
                return NULL;
        s->store = NULL; /* what is held for the next wharfd stays */
        wh_list_for_safe (pos, &s->waiters) {
                struct waiter *w = wh_container(pos, struct waiter, node);
                wharf_drop(s->task, w->reply);
                waiter_free(s, w);
        }
        jobs_drop(s);
        wh_list_for_safe (pos, &s->tasks)
                tasked_free(s, wh_container(pos, struct tasked, node));
        if (s->tasks_end >= 0)
                wh_os_close(s->tasks_end);
        spares_give(s);
        wh_watches_done(s);
        while (s->n_names)
                names_remove(s, s->n_names - 1);
        free(s->names);
        free(s->by_serial);
        free(s->by_right); /* and by_id */
        wh_accounts_done(&s->users.accounts);
        wh_rules_free(s->rules);
        if (s->port != WHARF_NONE)
                wharf_drop(s->task, s->port);
        free(s);
        return NULL;
}

bool wh_server_pending(struct wh_server *s)
{
        struct pollfd p[2] = {{.fd = s->listen_fd, .events = POLLIN}, {.fd = s->port_fd, .events = POLLIN}};
        return wh_os_poll(p, 2, 0) != 0;
}

/* Does anybody need this server? */
static bool needed(struct wh_server *s)
{
        struct wharf_port_stat st = {.size = sizeof st};
        return s->n_names || s->n_watches || wharf_port_stat(s->task, s->port, &st) < 0 || st.senders;
}

int wh_server_run(struct wh_server *s, int stop_fd, int64_t linger_ns)
{
        int64_t idle_since_ns = WHARF_FOREVER;
        unsigned polls_refused = 0;
        for (;;) {
                int r = 0;
                s->pass++;
                for (unsigned i = 0; i < BATCH_MSGS && r == 0; i++)
                        r = serve_one(s);
                if (r == -EAGAIN) {
                        s->short_tries = 0;
                        spares_take(s);
                }
                if (is_shortage(r))
                        wh_os_poll(NULL, 0, wh_os_now_ns() + SHORTAGE_PAUSE_NS);
                else if (r < 0 && r != -EAGAIN && r != -ETIMEDOUT && r != -EPROTO)
                        return r;
                int64_t wake_ns = waiters_expire(s);
                s->shortage = false;
                bool more = wh_watches_pump(s);
                more |= jobs_run(s);

                int64_t now = wh_os_now_ns();
                if (s->shortage && now + SHORTAGE_PAUSE_NS < wake_ns)
                        wake_ns = now + SHORTAGE_PAUSE_NS;
                int64_t keep_ns = keep_again(s, now);
                if (keep_ns < wake_ns)
                        wake_ns = keep_ns;
                if (needed(s)) {
                        idle_since_ns = WHARF_FOREVER;
                } else if (linger_ns != WHARF_FOREVER) {
                        if (idle_since_ns == WHARF_FOREVER)
                                idle_since_ns = now;
                        if (r == -EAGAIN && now - idle_since_ns >= linger_ns)
                                return WH_SERVER_IDLE;
                        if (idle_since_ns + linger_ns < wake_ns)
                                wake_ns = idle_since_ns + linger_ns;
                }
                struct pollfd *p = s->polls;
                p[0] = (struct pollfd){.fd = s->port_fd, .events = POLLIN};
                p[1] = (struct pollfd){.fd = stop_fd, .events = POLLIN};
                p[2] = (struct pollfd){.fd = wh_store_fd(s->store), .events = POLLIN};
                p[3] = (struct pollfd){.fd = s->tasks_end, .events = POLLIN};
                unsigned n_polls = WH_POLLS_OWN + (s->shortage ? 0 : wh_watches_poll(s, p + WH_POLLS_OWN));
                int n = wh_os_poll(p, n_polls, r == 0 || more ? 0 : wake_ns);
                if (n > 0 && p[1].revents)
                        return WH_SERVER_STOPPED;
                if (n > 0 && p[2].revents)
                        wh_store_hear(s->store, unkept, s);
                if (n > 0 && p[3].revents)
                        tasks_ended(s);
                polls_refused = n < 0 && n != -EINTR ? polls_refused + 1 : 0;
                if (polls_refused == POLLS_REFUSED_MAX)
                        return wh_trace(n);
                if (polls_refused) {
                        _Atomic uint32_t nobody = 0; /* a pause that does not take poll() */
                        wh_os_futex_wait(&nobody, 0, now + SHORTAGE_PAUSE_NS, false);
                }
        }
}
