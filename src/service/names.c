/*
 * names - the client's side of wharfd: register, look up, list.
 *
 * A task keeps one connection to wharfd, made on first use. It stays open while the task has names there, since wharfd
 * knows by it whose they are; otherwise it is closed after use, so that an idle wharfd can leave.
 *
 * Always true:
 *   C1  A connection is used by as many threads as `users` says, and dropped by the last of them once it is no longer
 *       the task's. So no call ever sees its connection vanish.
 *   C2  `names` lists what this task has registered and not taken back. A new connection first registers them again:
 *       a wharfd that was killed has forgotten them.
 *   C3  Nothing is held while a call waits.
 */
#include "base/list.h"
#include "base/trace.h"
#include "os/lock.h"
#include "os/os.h"
#include "port/object.h"
#include "port/status.h"
#include "port/task.h"
#include "port/why.h"
#include "service/domain.h"
#include "service/graph.h"
#include "service/proto.h"
#include "wharf/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* How long wharfd may take for an answer: it never waits for anybody, so this is a wharfd that was stopped. */
#define ANSWER_NS ((int64_t)10 * 1000000000)
#define ATTEMPTS_MAX 16 /* wharfds that die, or leave, between our connecting and their answer */
#define ASK_ITEMS_MAX 2
#define RETRY_PAUSE_NS ((int64_t)10 * 1000000)

struct conn {
        wharf_name right;
        unsigned users;
        bool owned;              /* it is the service's */
        _Atomic bool page_given; /* with the first question, wharfd gets the task's page */
};

struct registered {
        struct wh_list node;
        wharf_name port;
        char name[WHARF_NAME_MAX + 1];
};

/* One a task; made on first use, freed by wharf_task_close(). */
struct service {
        wharf_task *task;
        struct wh_lock lock; /* for all below; never held across a call to wharfd (C3) */
        struct conn *conn;   /* NULL: none */
        struct wh_list names;
        wharf_name watch; /* a port for the notice that wharfd is gone; WHARF_NONE until wharf_names_fd() */
};

/* ---- the service of a task ---- */

static void service_free(void *p)
{
        struct service *s = p;
        wh_list_for_safe (pos, &s->names)
                free(wh_container(pos, struct registered, node));
        free(s->conn); /* its right goes with the task's names */
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
                        wh_list_init(&s->names);
                        wh_task_service_set(t, s, service_free);
                }
        }
        wh_unlock(&making);
        if (!s)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        *ret = s;
        return 0;
}

/* Forgets names whose port was closed: wharfd has seen that too. */
static void names_prune_locked(struct service *s)
{
        wh_list_for_safe (pos, &s->names) {
                struct registered *n = wh_container(pos, struct registered, node);
                if (wharf_name_kind(s->task, n->port) != WHARF_KIND_PORT) {
                        wh_list_remove(&n->node);
                        free(n);
                }
        }
}

static struct registered *names_find_locked(struct service *s, const char *name)
{
        wh_list_for (pos, &s->names) {
                struct registered *n = wh_container(pos, struct registered, node);
                if (!strcmp(n->name, name))
                        return n;
        }
        return NULL;
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
static void conn_disown_locked(struct service *s, struct conn *c)
{
        if (s->conn == c) {
                s->conn = NULL;
                c->owned = false;
        }
}

/*
 * One question, one answer. Errors of the link, or -EPROTO; wharfd's own answer in *ret_answer. Only the answer 0
 * leaves an allocated reply to be released.
 */
static int ask(struct service *s, struct conn *c, const struct wh_names_request *question, struct wharf_item *items,
               uint32_t n_items, struct wharf_msg *reply, int64_t deadline_ns, int *ret_answer)
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
        int r = wharf_callmsg(s->task, c->right, &m, reply, deadline_ns);
        if (r == -ETOOMANYREFS && req->flags & WH_NAMES_PAGE) /* then without: `wharf ps` does not show this task */
                return ask(s, c, question, n_items > 1 ? items : NULL, n_items - 1, reply, deadline_ns, ret_answer);
        if (r < 0)
                return r;
        r = wh_names_get_reply(reply->data, reply->len_bytes, req->op, ret_answer);
        if ((r < 0 || *ret_answer < 0) && (reply->flags & WHARF_RECV_ALLOC))
                wharf_release(s->task, reply);
        return r;
}

/* Tells wharfd about one name of ours. 0, its answer, or an error of the link. */
static int announce(struct service *s, struct conn *c, const char *name, wharf_name port)
{
        struct wh_names_request req = {.op = WH_NAMES_REGISTER};
        strcpy(req.name, name);
        struct wharf_item items[2] = {{.kind = WHARF_MAKE_SEND, .name = port}, {.kind = WHARF_COPY_FD}};
        /* Without a page `wharf ls` shows no figures; that is no reason to refuse. */
        uint32_t n = wh_port_status_fd(s->task, port, &items[1].fd) == 0 ? 2 : 1;
        uint8_t buf[sizeof(struct wh_names_reply_head)];
        struct wharf_msg reply = {.size = sizeof reply, .data = buf, .cap_bytes = sizeof buf};
        int answer = 0, r = ask(s, c, &req, items, n, &reply, wh_os_now_ns() + ANSWER_NS, &answer);
        if (r == -ETIMEDOUT) {
                /* If it comes round after all, it must not believe that the name is ours: this follows on its link. */
                req.op = WH_NAMES_UNREGISTER;
                uint8_t undo[WH_NAMES_REQUEST_MAX];
                wharf_send(s->task, c->right, undo, wh_names_put_request(&req, undo), 0);
        }
        return r < 0 ? r : answer;
}

/* Registers on a new connection what the last wharfd knew (C2). -EEXIST: a name has another owner now. */
static int announce_all(struct service *s, struct conn *c)
{
        /* A copy, since the list may change while we talk (C3). */
        size_t n = 0, k = 0;
        wh_lock(&s->lock);
        wh_list_for (pos, &s->names)
                n++;
        struct registered *again = n ? wh_os_calloc(n, sizeof *again) : NULL;
        if (again)
                wh_list_for (pos, &s->names)
                        again[k++] = *wh_container(pos, struct registered, node);
        wh_unlock(&s->lock);
        if (n && !again)
                return wh_trace(-ENOMEM);

        int first = 0;
        for (size_t i = 0; i < k; i++) {
                int r = announce(s, c, again[i].name, again[i].port);
                if (r == -EEXIST) {
                        wh_lock(&s->lock);
                        struct registered *lost = names_find_locked(s, again[i].name);
                        if (lost)
                                wh_list_remove(&lost->node);
                        wh_unlock(&s->lock);
                        free(lost);
                }
                if (r < 0 && first == 0)
                        first = r;
        }
        free(again);
        return first;
}

/*
 * The task's connection, made if need be, with every name of this task registered (C2); give it back with conn_put().
 * *ret_renewed, which may be NULL: how registering them went.
 */
static int conn_get(struct service *s, struct conn **ret, int *ret_renewed)
{
        wh_lock(&s->lock);
        names_prune_locked(s);
        struct conn *c = s->conn;
        if (c)
                c->users++;
        wharf_name watch = s->watch;
        wh_unlock(&s->lock);
        if (c) {
                *ret = c;
                return 0;
        }

        c = wh_os_calloc(1, sizeof *c);
        if (!c)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        int r = wh_domain_connect(s->task, &c->right);
        if (r < 0) {
                free(c);
                return r;
        }
        c->users = 1;
        wh_lock(&s->lock);
        if (s->conn) { /* another thread was faster */
                conn_unref_locked(s, c);
                c = s->conn;
                c->users++;
                wh_unlock(&s->lock);
                *ret = c;
                return 0;
        }
        c->owned = true;
        s->conn = c;
        wh_unlock(&s->lock);
        if (watch != WHARF_NONE)
                wharf_watch(s->task, c->right, watch);
        r = announce_all(s, c);
        if (ret_renewed)
                *ret_renewed = r;
        *ret = c;
        return 0;
}

static void conn_put(struct service *s, struct conn *c, bool broken)
{
        wh_lock(&s->lock);
        if (broken || (wh_list_empty(&s->names) && c->users == 1))
                conn_disown_locked(s, c);
        conn_unref_locked(s, c);
        wh_unlock(&s->lock);
}

/* Did the wharfd that we talked to go away, so that the question goes to the next one? */
static bool gone(int r)
{
        return r == -EPIPE || r == -ECONNRESET || r == -ENOTCONN || r == -ECANCELED;
}

/* What the callers of names.h see of trouble with the link to wharfd. */
static int link_error(int r)
{
        switch (r) {
        case -EMFILE:
        case -ENFILE:
        case -ENOMEM:
        case -ESTALE:
        case -EHOSTDOWN:
                return r;
        case -ETIMEDOUT:
                return wh_fail(-EHOSTDOWN, "%s: wharfd does not answer", wharf_domain_path());
        default:
                return wh_fail(-EHOSTDOWN, "%s: wharfd: %s", wharf_domain_path(), wharf_strerror(r));
        }
}

static int name_check(const char *name)
{
        if (!name || !wh_names_valid(name, strnlen(name, WHARF_NAME_MAX + 1)))
                return wh_fail(-EINVAL, "a name is 1 to %d letters, digits and . _ - / : @", WHARF_NAME_MAX);
        return 0;
}

/* ---- the calls ---- */

WHARF_API int wharf_register(wharf_task *t, const char *name, wharf_name port)
{
        struct service *s;
        int r = name_check(name);
        if (r == 0)
                r = service_get(t, &s);
        if (r < 0)
                return r;
        int kind = wharf_name_kind(t, port);
        if (kind != WHARF_KIND_PORT)
                return wh_fail(kind < 0 ? kind : -EPERM, kind < 0 ? NULL : "only a port can be registered");

        struct registered *mine = wh_os_calloc(1, sizeof *mine);
        if (!mine)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        wh_list_init(&mine->node);
        mine->port = port;
        strcpy(mine->name, name);
        for (int i = 0; i < ATTEMPTS_MAX; i++) {
                struct conn *c;
                r = conn_get(s, &c, NULL);
                if (r < 0)
                        break;
                r = announce(s, c, name, port);
                if (r == 0) {
                        wh_lock(&s->lock);
                        wh_list_push_back(&s->names, &mine->node);
                        wh_unlock(&s->lock);
                        conn_put(s, c, false);
                        return wh_fail(0, NULL);
                }
                conn_put(s, c, gone(r));
                if (!gone(r))
                        break;
                wh_os_poll(NULL, 0, wh_os_now_ns() + RETRY_PAUSE_NS);
        }
        free(mine);
        if (r == -EEXIST || r == -EBADF || r == -EPERM || r == -EINVAL || r == -EMLINK)
                return wh_fail(r, NULL);
        return link_error(r);
}

WHARF_API int wharf_unregister(wharf_task *t, const char *name)
{
        struct service *s;
        int r = name_check(name);
        if (r == 0)
                r = service_get(t, &s);
        if (r < 0)
                return r;
        wh_lock(&s->lock);
        names_prune_locked(s);
        struct registered *n = names_find_locked(s, name);
        struct conn *c = n ? s->conn : NULL;
        if (n)
                wh_list_remove(&n->node);
        if (c)
                c->users++;
        wh_unlock(&s->lock);
        if (!n)
                return wh_fail(-ENOENT, "this task has not registered %s", name);
        if (c) {
                struct wh_names_request req = {.op = WH_NAMES_UNREGISTER};
                strcpy(req.name, name);
                uint8_t buf[sizeof(struct wh_names_reply_head)];
                struct wharf_msg reply = {.size = sizeof reply, .data = buf, .cap_bytes = sizeof buf};
                int answer;
                r = ask(s, c, &req, NULL, 0, &reply, wh_os_now_ns() + ANSWER_NS, &answer);
                if (r < 0 && !gone(r)) { /* nothing is known to have changed */
                        wh_lock(&s->lock);
                        wh_list_push_back(&s->names, &n->node);
                        wh_unlock(&s->lock);
                        conn_put(s, c, false);
                        return link_error(r);
                }
                conn_put(s, c, r < 0);
        } /* else the wharfd that knew it is gone, and the next one never heard of it */
        free(n);
        return wh_fail(0, NULL);
}

/*
 * Ask until a wharfd answers. `req->timeout_ns` is set from the deadline each time. reply's buffers serve every
 * attempt.
 */
static int ask_any(struct service *s, struct wh_names_request *req, struct wharf_msg *reply, int64_t deadline_ns)
{
        int r = 0;
        for (int i = 0; i < ATTEMPTS_MAX; i++) {
                struct conn *c;
                r = conn_get(s, &c, NULL);
                if (r < 0)
                        return r;
                int64_t now = wh_os_now_ns();
                int64_t until_ns = (deadline_ns > now ? deadline_ns : now);
                if (deadline_ns == WHARF_FOREVER)
                        req->timeout_ns = WH_NAMES_FOREVER;
                else
                        req->timeout_ns = (uint64_t)(until_ns - now);
                until_ns = until_ns > WHARF_FOREVER - ANSWER_NS ? WHARF_FOREVER : until_ns + ANSWER_NS;
                int answer = 0;
                r = ask(s, c, req, NULL, 0, reply, until_ns, &answer);
                conn_put(s, c, gone(r));
                if (r == 0 && answer == -EAGAIN)
                        return wh_fail(answer,
                                       "the server of %s does not look at its port, where many rights wait already",
                                       req->name);
                if (r == 0)
                        return answer == -ENOENT ? answer : answer < 0 ? link_error(answer) : 0;
                if (!gone(r))
                        break;
                /* One that was killed while we waited is no sign that the next will be. */
                if (wh_os_now_ns() - now > RETRY_PAUSE_NS * 100)
                        i = 0;
                wh_os_poll(NULL, 0, wh_os_now_ns() + RETRY_PAUSE_NS);
        }
        return link_error(r);
}

WHARF_API int wharf_lookup(wharf_task *t, const char *name, int64_t deadline_ns, wharf_name *ret)
{
        struct service *s;
        int r = name_check(name);
        if (r == 0)
                r = service_get(t, &s);
        if (r < 0)
                return r;
        struct wh_names_request req = {.op = WH_NAMES_LOOKUP};
        strcpy(req.name, name);
        uint8_t buf[sizeof(struct wh_names_reply_head)];
        struct wharf_item got = {0};
        struct wharf_msg reply = {
                .size = sizeof reply, .data = buf, .cap_bytes = sizeof buf, .items = &got, .cap_items = 1};
        r = ask_any(s, &req, &reply, deadline_ns);
        if (r < 0)
                return r == -ENOENT ? wh_fail(r, NULL) : r;
        if (reply.n_items != 1 || got.kind != WHARF_GOT_SEND) {
                if (reply.n_items == 1 && got.kind == WHARF_GOT_FD)
                        wh_os_close(got.fd);
                else if (reply.n_items == 1)
                        wharf_drop(t, got.name);
                return link_error(wh_trace(-EPROTO));
        }
        wh_right_greet(t, got.name);
        *ret = got.name;
        return wh_fail(0, NULL);
}

WHARF_API int wharf_names_list(wharf_task *t, struct wharf_named **ret, size_t *ret_n)
{
        struct service *s;
        int r = service_get(t, &s);
        if (r < 0)
                return r;
        struct wh_names_request req = {.op = WH_NAMES_LIST};
        struct wharf_msg reply = {.size = sizeof reply, .flags = WHARF_RECV_ALLOC};
        r = ask_any(s, &req, &reply, 0);
        if (r < 0)
                return r;
        r = wh_names_get_list(reply.data, reply.len_bytes, ret, ret_n);
        wharf_release(t, &reply);
        return r < 0 ? link_error(r) : wh_fail(0, NULL);
}

WHARF_API int wharf_waits_list(wharf_task *t, struct wharf_wait **ret, size_t *ret_n)
{
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
        r = ask_any(s, &req, &reply, 0);
        if (r == 0) {
                r = wh_names_get_tasks(reply.data, reply.len_bytes, &tasks, &n_tasks);
                wharf_release(t, &reply);
                if (r == 0) {
                        r = wh_graph(tasks, n_tasks, named, n_named, ret, ret_n);
                        free(tasks);
                }
                r = r < 0 ? link_error(r) : wh_fail(0, NULL);
        }
        free(named);
        return r;
}

/* ---- surviving wharfd ---- */

WHARF_API int wharf_names_fd(wharf_task *t, int *ret)
{
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
                struct conn *c = s->conn;
                if (c)
                        c->users++;
                wh_unlock(&s->lock);
                if (theirs != WHARF_NONE) {
                        wharf_drop(t, watch);
                        watch = theirs;
                } else if (c) {
                        wharf_watch(t, c->right, watch);
                }
                if (c)
                        conn_put(s, c, false);
        }
        return wharf_port_fd(t, watch, ret);
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
        for (int i = 0; i < ATTEMPTS_MAX; i++) {
                wh_lock(&s->lock);
                names_prune_locked(s);
                bool none = wh_list_empty(&s->names);
                struct conn *c = s->conn;
                struct wharf_right_stat st = {.size = sizeof st};
                if (c && (wharf_right_stat(t, c->right, &st) < 0 || st.dead)) {
                        c->users++;
                        conn_disown_locked(s, c);
                        conn_unref_locked(s, c);
                }
                wh_unlock(&s->lock);
                if (none)
                        return wh_fail(0, NULL);
                int renewed = 0;
                r = conn_get(s, &c, &renewed);
                if (r < 0)
                        return r;
                conn_put(s, c, gone(renewed));
                if (!gone(renewed))
                        return renewed == -EEXIST ? wh_fail(renewed, NULL) : renewed < 0 ? link_error(renewed) : 0;
                wh_os_poll(NULL, 0, wh_os_now_ns() + RETRY_PAUSE_NS);
        }
        return link_error(-EPIPE);
}
