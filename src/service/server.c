#include "service/server.h"

#include "base/list.h"
#include "base/trace.h"
#include "os/os.h"
#include "port/status.h"
#include "port/task.h"
#include "service/proto.h"
#include "wharf/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
        BATCH_MSGS = 64,         /* requests between two looks at the clock */
        NAMES_MAX = 1 << 18,     /* of a domain */
        WAITERS_MAX = 1 << 16,   /* lookups that wait */
        WAITERS_SWEEP_MIN = 256, /* waiters before the dead among them are first looked for */
        TASKS_MAX = 4096,        /* whose pages are kept: one descriptor and one mapping each */
        TASKS_SWEEP_MIN = 64,
};
#define SHORTAGE_PAUSE_NS ((int64_t)20 * 1000000) /* no memory or descriptors: let others give some back */

struct named {
        char name[WHARF_NAME_MAX + 1];
        wharf_name right;
        const struct wh_port_status *page; /* NULL where its owner could not make one */
        uint64_t link;                     /* S2: the id of the sender */
        pid_t pid;
        uid_t uid;
};

/* A lookup that waits. */
struct waiter {
        struct wh_list node; /* of s->waiters, the earliest deadline first */
        wharf_name reply;
        uint64_t link;
        int64_t deadline_ns;
        char name[WHARF_NAME_MAX + 1];
};

/* A task that has handed its page over. It goes with its process, not with its link: a look-up's ends at once. */
struct tasked {
        struct wh_list node;
        const struct wh_task_page *page;
        int pidfd;
        pid_t pid;
        uid_t uid;
};

struct wh_server {
        wharf_task *task;
        wharf_name port;
        int listen_fd; /* borrowed */
        int port_fd;   /* borrowed: readable while something is to be received */
        struct named **names;
        size_t n_names, room_names;
        struct wh_list waiters;
        size_t n_waiters;
        size_t sweep_at; /* waiters at which the dead are looked for next */
        struct wh_list tasks;
        size_t n_tasks, tasks_sweep_at;
};

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

/* Answers a lookup with a right of the asker's own. */
static void answer_right(struct wh_server *s, wharf_name reply, const struct named *e)
{
        struct wh_names_reply_head h = wh_names_reply(WH_NAMES_LOOKUP, 0, 0);
        struct wharf_item item = {.kind = WHARF_COPY_SEND, .name = e->right};
        struct wharf_msg m = {.size = sizeof m, .data = &h, .len_bytes = sizeof h, .items = &item, .n_items = 1};
        int r = wharf_replymsg(s->task, reply, &m);
        if (r < 0)
                answer(s, reply, WH_NAMES_LOOKUP, r == -EPIPE ? -ENOENT : r); /* the port died this moment */
}

/* ---- the table ---- */

/* The index of `name`, or where it would stand, with *ret_found. */
static size_t names_find(const struct wh_server *s, const char *name, bool *ret_found)
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
        wharf_drop(s->task, e->right);
        wh_port_status_close(e->page);
        free(e);
}

static void names_remove(struct wh_server *s, size_t i)
{
        struct named *e = s->names[i];
        s->n_names--;
        memmove(&s->names[i], &s->names[i + 1], (s->n_names - i) * sizeof *s->names);
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
        size_t i = names_find(s, name, &found);
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
        size_t i = names_find(s, e->name, &found);
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
        if (s->n_waiters >= WAITERS_MAX)
                return wh_trace(-ENOMEM);
        struct waiter *w = wh_os_calloc(1, sizeof *w);
        if (!w)
                return wh_trace(-ENOMEM);
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

/* S6: lets go of the pages of tasks that are no more. */
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

/* Takes the items of the message that it keeps out of it. */
static int named_new(struct wh_server *s, const struct wh_names_request *req, struct wharf_msg *m, struct named **ret)
{
        bool page = m->n_items == 2 && m->items[1].kind == WHARF_GOT_FD;
        if (m->n_items < 1 || m->items[0].kind != WHARF_GOT_SEND || m->n_items > (page ? 2 : 1))
                return wh_trace(-EPROTO);
        struct named *e = wh_os_calloc(1, sizeof *e);
        if (!e)
                return wh_trace(-ENOMEM);
        int r = page ? wh_port_status_open(m->items[1].fd, &e->page) : 0;
        if (r == 0) {
                r = wharf_watch(s->task, m->items[0].name, s->port); /* dead already: the notice comes at once */
                if (r < 0)
                        wh_port_status_close(e->page);
        }
        if (r < 0) {
                free(e);
                return r;
        }
        memcpy(e->name, req->name, sizeof e->name);
        e->link = m->sender.id;
        e->pid = m->sender.pid;
        e->uid = m->sender.uid;
        e->right = m->items[0].name;
        m->items[0].kind = 0;
        *ret = e;
        return 0;
}

static void do_register(struct wh_server *s, const struct wh_names_request *req, struct wharf_msg *m)
{
        struct named *e = NULL;
        int r = names_get(s, req->name) ? -EEXIST : s->n_names >= NAMES_MAX ? wh_trace(-ENOMEM) : 0;
        if (r == 0)
                r = named_new(s, req, m, &e);
        if (r == 0) {
                r = names_insert(s, e);
                if (r < 0)
                        named_free(s, e);
        }
        if (answer(s, m->reply, WH_NAMES_REGISTER, r) < 0 && r == 0) {
                /* S2: whoever asked has given up, and believes that the name is not taken. */
                bool found;
                size_t i = names_find(s, req->name, &found);
                if (found)
                        names_remove(s, i);
                return;
        }
        if (r == 0)
                waiters_wake(s, e);
}

static void do_unregister(struct wh_server *s, const struct wh_names_request *req, const struct wharf_msg *m)
{
        bool found;
        size_t i = names_find(s, req->name, &found);
        bool his = found && s->names[i]->link == m->sender.id;
        if (his)
                names_remove(s, i);
        if (m->reply != WHARF_NONE)
                answer(s, m->reply, WH_NAMES_UNREGISTER, his ? 0 : -ENOENT);
}

static void do_lookup(struct wh_server *s, const struct wh_names_request *req, const struct wharf_msg *m)
{
        struct named *e = names_get(s, req->name);
        if (e) {
                answer_right(s, m->reply, e);
                return;
        }
        int r = req->timeout_ns ? waiter_add(s, req, m) : -ENOENT;
        if (r < 0)
                answer(s, m->reply, WH_NAMES_LOOKUP, r);
}

/* What `wharf ls` shows of one name. The page is its owner's claim: each word is loaded once and believed as a number.
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
        struct wh_names_reply_head h = wh_names_reply(WH_NAMES_LIST, 0, (uint32_t)s->n_names);
        size_t len = sizeof h;
        memcpy(buf, &h, sizeof h);
        for (size_t i = 0; i < s->n_names; i++) {
                struct wharf_named n = named_stat(s, s->names[i]);
                len += wh_names_put_entry(&n, buf + len);
        }
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
}

static void drop_items(struct wh_server *s, struct wharf_msg *m)
{
        for (uint32_t i = 0; i < m->n_items; i++) {
                if (m->items[i].kind == WHARF_GOT_FD)
                        wh_os_close(m->items[i].fd);
                else if (m->items[i].kind == WHARF_GOT_SEND || m->items[i].kind == WHARF_GOT_REPLY)
                        wharf_drop(s->task, m->items[i].name);
        }
}

/* One message without waiting: 0, or -EAGAIN when there is none, or what is wrong. */
static int serve_one(struct wh_server *s)
{
        struct wharf_item items[WHARF_ITEMS_MAX];
        uint8_t buf[WH_NAMES_REQUEST_MAX]; /* private: what is parsed cannot change any more (N1) */
        struct wharf_msg m = {
                .size = sizeof m, .data = buf, .cap_bytes = sizeof buf, .items = items, .cap_items = WHARF_ITEMS_MAX};
        int r = wharf_recvmsg(s->task, s->port, &m, 0);
        if (r < 0)
                return r;
        if (m.notice) {
                if (m.notice == WHARF_NOTICE_DEAD_NAME)
                        on_dead_name(s, m.about);
                return 0;
        }
        serve(s, &m);
        drop_items(s, &m);
        return 0;
}

/* ---- life ---- */

int wh_server_new(wharf_task *task, int listen_fd, struct wh_server **ret)
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
        struct wharf_port_opts o = {
                .size = sizeof o,
                .flags = WHARF_PORT_STAYS,
                .links_max = NAMES_MAX,
                .capacity_records = 64,
                .payload_bytes_max = WH_NAMES_REQUEST_MAX, /* so that no request is larger than serve_one()'s buffer */
        };
        int r = wharf_port_new(task, &o, &s->port);
        if (r == 0)
                r = wharf_port_listen(task, s->port, listen_fd);
        if (r == 0)
                r = wharf_port_fd(task, s->port, &s->port_fd);
        if (r < 0) {
                wh_server_free(s);
                return r;
        }
        *ret = s;
        return 0;
}

struct wh_server *wh_server_free(struct wh_server *s)
{
        if (!s)
                return NULL;
        wh_list_for_safe (pos, &s->waiters) {
                struct waiter *w = wh_container(pos, struct waiter, node);
                wharf_drop(s->task, w->reply);
                waiter_free(s, w);
        }
        wh_list_for_safe (pos, &s->tasks)
                tasked_free(s, wh_container(pos, struct tasked, node));
        while (s->n_names)
                names_remove(s, s->n_names - 1);
        free(s->names);
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
        return s->n_names || wharf_port_stat(s->task, s->port, &st) < 0 || st.senders;
}

int wh_server_run(struct wh_server *s, int stop_fd, int64_t linger_ns)
{
        int64_t idle_since_ns = WHARF_FOREVER;
        for (;;) {
                int r = 0;
                for (unsigned i = 0; i < BATCH_MSGS && r == 0; i++)
                        r = serve_one(s);
                if (r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS)
                        wh_os_poll(NULL, 0, wh_os_now_ns() + SHORTAGE_PAUSE_NS);
                else if (r < 0 && r != -EAGAIN && r != -ETIMEDOUT && r != -EPROTO)
                        return r;
                int64_t wake_ns = waiters_expire(s);

                int64_t now = wh_os_now_ns();
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
                struct pollfd p[2] = {{.fd = s->port_fd, .events = POLLIN}, {.fd = stop_fd, .events = POLLIN}};
                int n = wh_os_poll(p, 2, r == 0 ? 0 : wake_ns);
                if (n > 0 && p[1].revents)
                        return WH_SERVER_STOPPED;
        }
}
