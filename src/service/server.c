#include "service/server_impl.h"

#include "base/trace.h"
#include "os/os.h"
#include "port/items.h"
#include "port/status.h"
#include "port/task.h"
#include "service/domain.h"
#include "wharf/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum {
        BATCH_MSGS = 64,         /* requests between two looks at the clock */
        LINKS_MAX = 1 << 18,     /* connections; each user has a share of what the rules allow */
        WAITERS_SWEEP_MIN = 256, /* waiters before the dead among them are first looked for */
        TASKS_MAX = 4096,        /* whose pages are kept: one descriptor and one mapping each */
        TASKS_SWEEP_MIN = 64,
        POLLS_REFUSED_MAX = 16, /* in a row, with a pause after each: then there is nothing to serve with */
};
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

/* Answers a lookup with a right of the asker's own; with -EAGAIN while its owner has to be told more first (W5). */
static void answer_right(struct wh_server *s, wharf_name reply, const struct named *e)
{
        if (wh_watches_behind_at(s, e)) {
                answer(s, reply, WH_NAMES_LOOKUP, -EAGAIN);
                return;
        }
        struct wh_names_reply_head h = wh_names_reply(WH_NAMES_LOOKUP, 0, 0);
        struct wharf_item item = {.kind = WHARF_COPY_SEND, .name = e->right};
        struct wharf_msg m = {.size = sizeof m, .data = &h, .len_bytes = sizeof h, .items = &item, .n_items = 1};
        int r = wharf_replymsg(s->task, reply, &m);
        if (r < 0)
                answer(s, reply, WH_NAMES_LOOKUP, r == -EPIPE ? -ENOENT : r); /* the port died this moment */
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
        wh_store_remove(s->store, e->slot);
        wh_users_give(&s->users, e->uid, WH_LIMIT_NAMES);
        wharf_drop(s->task, e->right);
        wh_port_status_close(e->page);
        free(e);
}

static void names_remove(struct wh_server *s, size_t i)
{
        struct named *e = s->names[i];
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

static int names_insert(struct wh_server *s, struct named *e)
{
        if (s->n_names == s->room_names) {
                size_t room = s->room_names ? s->room_names * 2 : 16;
                struct named **more = wh_os_realloc(s->names, room * sizeof *more);
                if (!more)
                        return wh_trace(-ENOMEM);
                s->names = more;
                s->room_names = room;
        }
        bool found;
        size_t i = wh_server_find(s, e->name, &found);
        memmove(&s->names[i + 1], &s->names[i], (s->n_names - i) * sizeof *s->names);
        s->names[i] = e;
        s->n_names++;
        return 0;
}

/* ---- waiting lookups ---- */

static void waiter_free(struct wh_server *s, struct waiter *w)
{
        wh_list_remove(&w->node);
        s->n_waiters--;
        wh_users_give(&s->users, w->uid, WH_LIMIT_WAITS);
        free(w);
}

/* Lets go of those whose asker is gone: nothing tells of it, so it is looked for when their number has doubled (S4). */
static void waiters_sweep(struct wh_server *s)
{
        wh_list_for_safe (pos, &s->waiters) {
                struct waiter *w = wh_container(pos, struct waiter, node);
                int fd, r = wharf_sender_pidfd(s->task, w->link, &fd);
                if (r == 0)
                        wh_os_close(fd);
                if (r == -ENOENT || r == -ESRCH) {
                        wharf_drop(s->task, w->reply);
                        waiter_free(s, w);
                }
        }
        s->sweep_at = s->n_waiters * 2 > WAITERS_SWEEP_MIN ? s->n_waiters * 2 : WAITERS_SWEEP_MIN;
}

static int waiter_add(struct wh_server *s, const struct wh_names_request *req, const struct wharf_msg *m)
{
        if (s->n_waiters >= s->sweep_at)
                waiters_sweep(s);
        uid_t uid = m->sender.uid;
        int r = wh_users_take(&s->users, uid, WH_LIMIT_WAITS, wh_rules_limit(s->rules, WH_LIMIT_WAITS));
        if (r < 0)
                return r;
        struct waiter *w = wh_os_calloc(1, sizeof *w);
        if (!w) {
                wh_users_give(&s->users, uid, WH_LIMIT_WAITS);
                return wh_trace(-ENOMEM);
        }
        w->uid = uid;
        int64_t now = wh_os_now_ns();
        w->deadline_ns =
                req->timeout_ns >= (uint64_t)(INT64_MAX - now) ? WHARF_FOREVER : now + (int64_t)req->timeout_ns;
        w->reply = m->reply;
        w->link = m->sender.id;
        memcpy(w->name, req->name, sizeof w->name);

        struct wh_list *at = &s->waiters; /* behind the last one that ends no later */
        while (at->prev != &s->waiters && wh_container(at->prev, struct waiter, node)->deadline_ns > w->deadline_ns)
                at = at->prev;
        wh_list_insert_before(at, &w->node);
        s->n_waiters++;
        return 0;
}

static void waiters_wake(struct wh_server *s, const struct named *e)
{
        wh_list_for_safe (pos, &s->waiters) {
                struct waiter *w = wh_container(pos, struct waiter, node);
                if (!strcmp(w->name, e->name)) {
                        answer_right(s, w->reply, e);
                        waiter_free(s, w);
                }
        }
}

/* Answers those whose time is over; returns when the next one's is. */
static int64_t waiters_expire(struct wh_server *s)
{
        int64_t now = wh_os_now_ns();
        wh_list_for_safe (pos, &s->waiters) {
                struct waiter *w = wh_container(pos, struct waiter, node);
                if (w->deadline_ns > now)
                        return w->deadline_ns;
                answer(s, w->reply, WH_NAMES_LOOKUP, -ENOENT);
                waiter_free(s, w);
        }
        return WHARF_FOREVER;
}

/* ---- pages of tasks ---- */

static void tasked_free(struct wh_server *s, struct tasked *k)
{
        wh_list_remove(&k->node);
        s->n_tasks--;
        wh_task_page_close(k->page);
        wh_os_close(k->pidfd);
        free(k);
}

/* S7: lets go of the pages of tasks that are no more. */
static void tasks_sweep(struct wh_server *s)
{
        wh_list_for_safe (pos, &s->tasks) {
                struct tasked *k = wh_container(pos, struct tasked, node);
                struct pollfd p = {.fd = k->pidfd, .events = POLLIN};
                if (wh_task_page_closed(k->page) || wh_os_poll(&p, 1, 0) != 0)
                        tasked_free(s, k);
        }
        s->tasks_sweep_at = s->n_tasks * 2 > TASKS_SWEEP_MIN ? s->n_tasks * 2 : TASKS_SWEEP_MIN;
}

/* The asker's page. Whoever hands over nonsense is not shown, and that is all. */
static void tasks_add(struct wh_server *s, const struct wharf_msg *m, int fd)
{
        const struct wh_task_page *page;
        if (s->n_tasks >= s->tasks_sweep_at)
                tasks_sweep(s);
        if (s->n_tasks >= TASKS_MAX || !m->sender.pid || wh_task_page_open(fd, &page) < 0)
                return;
        wh_list_for (pos, &s->tasks) {
                struct tasked *k = wh_container(pos, struct tasked, node);
                if (k->pid == m->sender.pid && k->page->id == page->id) { /* again, on another link */
                        tasked_free(s, k);
                        break;
                }
        }
        struct tasked *k = wh_os_calloc(1, sizeof *k);
        if (!k || wharf_sender_pidfd(s->task, m->sender.id, &k->pidfd) < 0) {
                wh_task_page_close(page);
                free(k);
                return;
        }
        k->page = page;
        k->pid = m->sender.pid;
        k->uid = m->sender.uid;
        wh_list_push_back(&s->tasks, &k->node);
        s->n_tasks++;
}

/* ---- requests ---- */

/* Who asks, in the kernel's words. */
static struct wh_who who_of(struct wh_server *s, const struct wharf_msg *m)
{
        struct wh_who who = {.uid = m->sender.uid, .gid = m->sender.gid};
        if (wh_rules_want_groups(s->rules)) {
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
                               .pid = m->sender.pid,
                               .cookie = req->cookie,
                               .who = {.uid = m->sender.uid, .gid = m->sender.gid}};
        struct named *e = wh_os_calloc(1, sizeof *e);
        if (!e)
                return wh_trace(-ENOMEM);
        int sock, r = page_open(m, &e->page);
        if (r == 0)
                r = wh_right_keep(s->task, m->items[0].name, &sock, &st.kept);
        if (r == 0)
                r = wharf_watch(s->task, m->items[0].name, s->port); /* dead already: the notice comes at once */
        if (r == 0)
                r = wh_users_take(&s->users, m->sender.uid, WH_LIMIT_NAMES, wh_rules_limit(s->rules, WH_LIMIT_NAMES));
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
        e->right = m->items[0].name;
        e->slot = wh_store_put(s->store, &st, sock, e->page ? m->items[1].fd : -1);
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
                /* His already: he comes again after a wharfd was replaced. Only what that one lost is of use (S2). */
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
        bool his = found && same_cookie(&s->names[i]->cookie, &req->cookie);
        if (his)
                names_remove(s, i);
        if (m->reply != WHARF_NONE)
                answer(s, m->reply, WH_NAMES_UNREGISTER, his ? 0 : -ENOENT);
}

static void do_watch(struct wh_server *s, const struct wh_names_request *req, struct wharf_msg *m)
{
        struct wh_who who = who_of(s, m);
        int r = wh_trace(-EPROTO);
        if (m->n_items == 1 && m->items[0].kind == WHARF_GOT_SEND) {
                r = wh_watch_add(s, req->name, &req->cookie, &who, m->items[0].name);
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
                answer_right(s, m->reply, e);
                return;
        }
        int r = req->timeout_ns ? waiter_add(s, req, m) : -ENOENT;
        if (r < 0)
                answer(s, m->reply, WH_NAMES_LOOKUP, r);
}

/*
 * What `wharf ls` shows of one name. The page is its owner's claim: each word is loaded once and believed as a number.
 */
static struct wharf_named named_stat(struct wh_server *s, const struct named *e)
{
        struct wharf_named n = {.pid = e->pid, .uid = e->uid};
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

static void do_list(struct wh_server *s, const struct wharf_msg *m)
{
        for (size_t i = s->n_names; i-- > 0;)
                if (!named_alive(s, s->names[i]))
                        names_remove(s, i);
        uint8_t *buf = wh_os_malloc(sizeof(struct wh_names_reply_head) + s->n_names * WH_NAMES_ENTRY_MAX);
        if (!buf) {
                answer(s, m->reply, WH_NAMES_LIST, wh_trace(-ENOMEM));
                return;
        }
        struct wh_who who = who_of(s, m);
        uint32_t count = 0, line;
        size_t len = sizeof(struct wh_names_reply_head);
        for (size_t i = 0; i < s->n_names; i++) {
                if (!wh_rules_allow(s->rules, WH_SEE, s->names[i]->name, &who, &line))
                        continue;
                struct wharf_named n = named_stat(s, s->names[i]);
                len += wh_names_put_entry(&n, buf + len);
                count++;
        }
        struct wh_names_reply_head h = wh_names_reply(WH_NAMES_LIST, 0, count);
        memcpy(buf, &h, sizeof h);
        int r = wharf_reply(s->task, m->reply, buf, len);
        free(buf);
        if (r < 0)
                answer(s, m->reply, WH_NAMES_LIST, r);
}

static void do_waits(struct wh_server *s, const struct wharf_msg *m)
{
        tasks_sweep(s);
        struct wh_names_reply_head h = wh_names_reply(WH_NAMES_WAITS, 0, (uint32_t)s->n_tasks + 1);
        size_t len = sizeof h + h.count * sizeof(struct wh_names_task);
        uint8_t *buf = wh_os_malloc(len), *at = buf + sizeof h;
        struct wh_names_task *one = wh_os_calloc(1, sizeof *one);
        int r = -ENOMEM;
        if (buf && one) {
                memcpy(buf, &h, sizeof h);
                one->pid = wh_os_getpid();
                one->uid = wh_os_geteuid();
                if (s->task->waits.page)
                        wh_task_page_read(s->task->waits.page, &one->view);
                memcpy(at, one, sizeof *one);
                wh_list_for (pos, &s->tasks) {
                        const struct tasked *k = wh_container(pos, struct tasked, node);
                        one->pid = k->pid;
                        one->uid = k->uid;
                        wh_task_page_read(k->page, &one->view);
                        memcpy(at += sizeof *one, one, sizeof *one);
                }
                r = wharf_reply(s->task, m->reply, buf, len);
        }
        free(buf);
        free(one);
        if (r < 0)
                answer(s, m->reply, WH_NAMES_WAITS, r);
}

static void serve(struct wh_server *s, struct wharf_msg *m)
{
        struct wh_names_request req;
        int r = wh_names_get_request(m->data, m->len_bytes, &req);
        if (r == 0 && req.flags & WH_NAMES_PAGE) {
                struct wharf_item *page = m->n_items ? &m->items[m->n_items - 1] : NULL;
                if (page && page->kind == WHARF_GOT_FD) {
                        tasks_add(s, m, page->fd);
                        wh_os_close(page->fd);
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
                do_list(s, m);
                break;
        case WH_NAMES_WAITS:
                do_waits(s, m);
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
        for (size_t i = 0; i < s->n_names; i++)
                if (s->names[i]->right == right) {
                        names_remove(s, i);
                        return;
                }
        wh_watch_dead(s, right);
}

/* One message without waiting: 0, or -EAGAIN when there is none, or what is wrong. */
static int serve_one(struct wh_server *s)
{
        struct wharf_item items[WHARF_ITEMS_MAX];
        uint8_t buf[WH_NAMES_REQUEST_MAX]; /* private: what is parsed cannot change any more (N1) */
        struct wharf_msg m = {.size = sizeof m,
                              .flags = WHARF_RECV_DROP_UNFIT,
                              .data = buf,
                              .cap_bytes = sizeof buf,
                              .items = items,
                              .cap_items = WHARF_ITEMS_MAX};
        int r = wharf_recvmsg(s->task, s->port, &m, 0);
        if (r == -EOVERFLOW)
                return 0; /* the port takes none such; if one came in spite of that, nobody else is to wait for it */
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
        wh_list_init(&s->tasks);
        s->tasks_sweep_at = TASKS_SWEEP_MIN;
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
                r = wharf_port_listen(task, s->port, listen_fd);
        if (r == 0)
                r = wharf_port_fd(task, s->port, &s->port_fd);
        if (r == 0 && !(s->polls = wh_os_calloc(4, sizeof *s->polls)))
                r = wh_trace(-ENOMEM);
        if (r < 0) {
                wh_server_free(s);
                return r;
        }
        s->room_polls = 4;
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

void wh_server_set_rules(struct wh_server *s, struct wh_rules *rules)
{
        wh_rules_free(s->rules);
        s->rules = rules;
        share_links(s);
        wh_watches_anew(s); /* what they may see may have changed */
}

/* One entry of the wharfd before us. */
static bool restore(void *arg, const struct wh_stored *e, uint32_t slot, int sock, int page)
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
        int r = n ? wh_right_resume(s->task, sock, &e->kept, &n->right) : -EPROTO;
        if (r < 0) {
                wh_os_close(sock);
                wh_os_close(page);
                free(n);
                return false;
        }
        if (page >= 0)
                wh_port_status_open(page, &n->page);
        wh_os_close(page);
        strcpy(n->name, e->name);
        n->cookie = e->cookie;
        n->pid = e->pid;
        n->uid = e->who.uid;
        n->slot = WH_STORE_NONE; /* until it is in the table, freeing it leaves the slot to our caller */
        r = wh_users_take(&s->users, n->uid, WH_LIMIT_NAMES, wh_rules_limit(s->rules, WH_LIMIT_NAMES));
        if (r < 0) {
                wharf_drop(s->task, n->right);
                wh_port_status_close(n->page);
                free(n);
                return false;
        }
        r = wharf_watch(s->task, n->right, s->port);
        if (r == 0)
                r = names_insert(s, n);
        if (r < 0) {
                named_free(s, n);
                return false;
        }
        n->slot = slot;
        n->told = true;
        return true;
}

void wh_server_restore(struct wh_server *s, struct wh_given *given, unsigned n)
{
        if (s->store)
                wh_store_restore(s->store, given, n, restore, s);
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
        wh_list_for_safe (pos, &s->tasks)
                tasked_free(s, wh_container(pos, struct tasked, node));
        wh_watches_done(s);
        while (s->n_names)
                names_remove(s, s->n_names - 1);
        free(s->names);
        free(s->users.user);
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
                for (unsigned i = 0; i < BATCH_MSGS && r == 0; i++)
                        r = serve_one(s);
                if (r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS)
                        wh_os_poll(NULL, 0, wh_os_now_ns() + SHORTAGE_PAUSE_NS);
                else if (r < 0 && r != -EAGAIN && r != -ETIMEDOUT && r != -EPROTO)
                        return r;
                int64_t wake_ns = waiters_expire(s);
                s->shortage = false;
                bool more = wh_watches_pump(s);

                int64_t now = wh_os_now_ns();
                if (s->shortage && now + SHORTAGE_PAUSE_NS < wake_ns)
                        wake_ns = now + SHORTAGE_PAUSE_NS;
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
                unsigned n_polls = 2 + (s->shortage ? 0 : wh_watches_poll(s, p + 2));
                int n = wh_os_poll(p, n_polls, r == 0 || more ? 0 : wake_ns);
                if (n > 0 && p[1].revents)
                        return WH_SERVER_STOPPED;
                polls_refused = n < 0 && n != -EINTR ? polls_refused + 1 : 0;
                if (polls_refused == POLLS_REFUSED_MAX)
                        return wh_trace(n);
                if (polls_refused) {
                        _Atomic uint32_t nobody = 0; /* a pause that does not take poll() */
                        wh_os_futex_wait(&nobody, 0, now + SHORTAGE_PAUSE_NS, false);
                }
        }
}
