/*
 * requests - one request: who asks, whether it may, and what is done (S2, S8, S11, S12).
 */
#include "message/sender.h"
#include "wharfd/server_impl.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"
#include "link/identity.h"
#include "right/kept.h"
#include "port/status.h"
#include "wharf/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

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
 * S12: who asks, in the kernel's words; and nobody, where it is not sure who asks, or where others may have made it ask: whoever
 * hands a connection to somebody who sends there what it is told to would decide by that one's name, be charged to it, and
 * be told to others as that one. It stays the sender of that id, which only says where an answer goes.
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

struct wh_who wh_request_who(struct wh_server *s, const struct wharf_msg *m)
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
        return r == -EPROTONOSUPPORT || r == -ENOMEM ? 0 : r; /* others may have mapped all that can be */
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
        wh_server_slot_set(s, &e->slot, wh_keep(s, &st, sock, e->page ? m->items[1].fd : -1));
        m->items[0].kind = 0;
        *ret = e;
        return 0;
}

static void do_register(struct wh_server *s, const struct wh_names_request *req, struct wharf_msg *m)
{
        struct wh_who who = wh_request_who(s, m);
        uint32_t line;
        if (!wh_rules_allow(s->rules, WH_OWN, req->name, &who, &line)) {
                wh_answer_refused(s, m, req, &who, line);
                return;
        }
        bool two = m->n_items == 2 && m->items[1].kind == WHARF_GOT_FD;
        if (m->n_items != (two ? 2 : 1) || m->items[0].kind != WHARF_GOT_SEND) {
                wh_answer(s, m->reply, WH_NAMES_REGISTER, wh_trace(-EPROTO));
                return;
        }
        struct named *e = wh_named_get(s, req->name);
        if (e && same_cookie(&e->cookie, &req->cookie)) {
                /* Its own already: it comes again after a wharfd was replaced. Only what that one lost is of use (S2). */
                if (!e->page)
                        page_open(m, &e->page);
                wh_answer(s, m->reply, WH_NAMES_REGISTER, 0);
                return;
        }
        /* What has not been handed over yet is somebody's, who lives and does not call: it is not free for others. */
        const bool owed = !e && s->restore_owed && wh_store_owes(s->store, req->name, &req->cookie);
        int r = e ? -EEXIST : owed ? -ENOBUFS : named_new(s, req, m, &e);
        if (r == 0 && (r = wh_named_insert(s, e)) < 0)
                wh_named_free(s, e);
        if (wh_answer(s, m->reply, WH_NAMES_REGISTER, r) < 0 && r == 0) {
                /* S2: whoever asked has given up, and believes that the name is not taken. */
                bool found;
                size_t i = wh_named_find(s, req->name, &found);
                if (found)
                        wh_named_remove(s, i);
                return;
        }
        if (r == 0) {
                e->told = true;
                wh_watches_tell(s, WHARF_NAME_IS, e);
                wh_waiters_wake(s, e);
        }
}

static void do_unregister(struct wh_server *s, const struct wh_names_request *req, const struct wharf_msg *m)
{
        bool found;
        size_t i = wh_named_find(s, req->name, &found);
        bool own = found && same_cookie(&s->names[i]->cookie, &req->cookie);
        if (own)
                wh_named_remove(s, i);
        if (m->reply != WHARF_NONE)
                wh_answer(s, m->reply, WH_NAMES_UNREGISTER, own ? 0 : -ENOENT);
}

static void do_watch(struct wh_server *s, const struct wh_names_request *req, struct wharf_msg *m)
{
        struct wh_who who = wh_request_who(s, m);
        int r = wh_trace(-EPROTO);
        if (m->n_items == 1 && m->items[0].kind == WHARF_GOT_SEND) {
                r = wh_watch_add(s, req->name, &req->cookie, &who, m->sender.pid, m->items[0].name);
                if (r == 0)
                        m->items[0].kind = 0;
        }
        if (wh_answer(s, m->reply, WH_NAMES_WATCH, r) < 0 && r == 0)
                wh_watch_remove(s, &req->cookie); /* as for names: whoever asked has given up */
}

static void do_unwatch(struct wh_server *s, const struct wh_names_request *req, const struct wharf_msg *m)
{
        int r = wh_watch_remove(s, &req->cookie);
        if (m->reply != WHARF_NONE)
                wh_answer(s, m->reply, WH_NAMES_UNWATCH, r);
}

static void do_lookup(struct wh_server *s, const struct wh_names_request *req, const struct wharf_msg *m)
{
        struct wh_who who = wh_request_who(s, m);
        uint32_t line;
        if (!wh_rules_allow(s->rules, WH_USE, req->name, &who, &line)) {
                wh_answer_refused(s, m, req, &who, line); /* whether it is registered or not */
                return;
        }
        struct named *e = wh_named_get(s, req->name);
        if (e) {
                wh_answer_right(s, m->reply, m->sender.uid, e);
                return;
        }
        /* While some have not been handed over it is not known that nobody has the name: whoever asks asks again. */
        int r = req->timeout_ns ? wh_waiter_add(s, req, m) : s->restore_owed ? -ENOBUFS : -ENOENT;
        if (r < 0)
                wh_answer(s, m->reply, WH_NAMES_LOOKUP, r);
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
        const struct wh_who who = wh_request_who(s, m);
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

void wh_request_serve(struct wh_server *s, struct wharf_msg *m)
{
        struct wh_names_request req;
        int r = wh_names_get_request(m->data, m->len_bytes, &req);
        if (m->reply != WHARF_NONE && !(r == 0 && takes_back(req.op)) && wh_asker_gone(s, m->sender.id, m->reply))
                return;
        sender_believed(s, m);
        if (r == 0 && req.flags & WH_NAMES_PAGE) {
                struct wharf_item *page = m->n_items ? &m->items[m->n_items - 1] : NULL;
                if (page && page->kind == WHARF_GOT_FD) {
                        wh_tasks_add(s, m, page->fd);
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
                wh_answer(s, m->reply, 0, r);
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
                wh_job_add(s, &req, m);
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
