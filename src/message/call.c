/*
 * Calls: a message with a number, whose reply comes back on the same link with that number, in any order. A reply right
 * that was passed on makes the reply come over a socket of its own (VIA). How a caller waits stands in holder.c.
 *
 * Always true:
 *   C1  A call is in l->calls from before its request is sent until it is finished or cancelled.
 *   C2  A call ends exactly once: with its reply, with DROPPED, or with the end of the link or of its VIA socket. Once
 *       there is a VIA, whoever had the request is out of it: its death is not the end of that call.
 */
#include "link/choose.h"
#include "link/direct.h"
#include "right/held.h"
#include "right/object.h"
#include "task/why.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void call_end(struct wh_link *l, struct wh_call *c, int result)
{
        if (result == 0 || result == -ECANCELED)
                wh_link_told(l, c->seq);
        c->done = true;
        c->result = result;
        wh_stash_done(&c->part);
        wh_os_close_end(c->via, WH_END_OURS);
        c->via = -1;
        wh_holder_turn(l);
}

/* `settled`: the other side has answered, or never heard of it. */
static void call_free(struct wh_link *l, struct wh_call *c, bool settled)
{
        wh_list_remove(&c->node);
        wh_window_done(l, c->window, settled);
        wh_stash_done(&c->reply);
        wh_stash_done(&c->part);
        wh_items_done(&c->items);
        wh_os_close_end(c->via, WH_END_OURS);
        free(c);
}

void wh_calls_done(struct wh_link *l)
{
        wh_list_for_safe (n, &wh_held(l)->calls) {
                struct wh_call *c = wh_container(n, struct wh_call, node);
                call_free(l, c, c->done);
        }
}

static struct wh_call *call_find(struct wh_link *l, uint32_t number)
{
        wh_list_for (n, &wh_held(l)->calls) {
                struct wh_call *c = wh_container(n, struct wh_call, node);
                if (c->number == number)
                        return c;
        }
        return NULL;
}

/* Put the message that is next into its call, for another thread or for later. -ENOMEM: it stays where it is. */
static int call_keep(struct wh_link *l, struct wh_call *c, struct wh_incoming *in)
{
        if (in->dropped) {
                call_end(l, c, -in->dropped);
                return 0;
        }
        if (in->where == WH_IN_STASH && !l->in.direct) {
                c->reply = l->in.stash;
                l->in.stash = (struct wh_stash){.full = true}; /* emptied by wh_link_took() */
        } else {
                uint8_t *own = in->len ? wh_os_malloc_payload(in->len) : NULL;
                if (in->len && !own)
                        return wh_trace(-ENOMEM);
                if (in->len)
                        wh_shm_copy(own, in->bytes, in->len);
                c->reply = (struct wh_stash){.full = true,
                                             .bytes = own,
                                             .len = in->len,
                                             .room = in->len,
                                             .id = in->id,
                                             .how = in->how,
                                             .refused = (uint16_t)in->refused};
        }
        if (in->n_items) { /* in a lane nothing is read ahead of a record's own items, so they are all its own */
                c->items = l->in.items;
                l->in.items.n = 0;
        }
        call_end(l, c, 0);
        return 0;
}

/* Put the message that is next where it belongs, on behalf of whoever waits for it. -ENOMEM: it stays where it is. */
static int file_reply(struct wh_link *l, struct wh_incoming *in)
{
        wh_link_privatise(l);
        if (in->where == WH_IN_STASH) {
                if (!l->in.stash.full)
                        return 0; /* no memory: that ended the link */
                in->bytes = l->in.stash.bytes;
        }
        wh_link_spend(l, 1);
        struct wh_call *c = call_find(l, in->call);
        int r = c && !c->done ? call_keep(l, c, in) : 0;
        if (wh_unlikely(wh_held(l)->windows_aside) && !c)
                wh_window_settle(l, in->call);
        if (r == 0)
                wh_link_took(l, in); /* nobody's, then: its call was cancelled */
        return r;
}

bool wh_calls_file(struct wh_link *l)
{
        struct wh_incoming in = {0};
        do {
                if (wh_link_next(l, &in) != 1 || file_reply(l, &in) < 0)
                        return true;
        } while (l->in.budget);
        return false;
}

bool wh_call_written(struct wh_link *l, uint32_t number, const struct wh_rec_direct *d, bool *ret_given_up)
{
        struct wh_call *c = call_find(l, number);
        struct wh_window *w = c ? c->window : NULL;
        *ret_given_up = !c || c->done;
        if (*ret_given_up || !w || d->at != (uintptr_t)w->map || d->len == 0 || d->len > w->len)
                return false; /* D3 */
        l->in.stash = (struct wh_stash){.full = true,
                                        .mapped = true,
                                        .memory = -1,
                                        .bytes = w->map,
                                        .len = d->len,
                                        .have = d->len,
                                        .room = w->map_len,
                                        .call = number,
                                        .how = WHARF_HOW_DIRECT};
        c->window = NULL;
        free(w);
        return true;
}

/* The reply of `c` has come to its user; why not directly, where it asked for that? */
static void call_answered(const struct wh_call *c, uint32_t how, int refused)
{
        if (wh_unlikely(c->window_asked) && how != WHARF_HOW_DIRECT)
                wh_set_why("%s", wh_window_why(c->window_refused ? c->window_refused : -refused));
}

int wh_call_announce(struct wh_link *l, struct wh_call *c, int64_t deadline_ns)
{
        int r = wh_window_take(l, c->window_asked, &c->window);
        if (r < 0)
                return r;
        struct wh_outgoing o;
        wh_outgoing_init(&o, c->window->map, 0);
        o.asked = WH_HOW_WINDOW;
        o.call = c->number;
        o.window_at = c->window->len;
        c->window->call = c->number;
        c->window->told = true;
        /* A first call may go before its port was heard of, but nothing else beside it. */
        r = deadline_ns == 0 && !wh_link_greeted(l) ? -EOPNOTSUPP : wh_link_send(l, &o, deadline_ns);
        if (r == -EOPNOTSUPP) {
                c->window_refused = r;
                wh_window_done(l, c->window, true);
                c->window = NULL;
                r = 0;
        }
        return r;
}

void wh_call_unsent(struct wh_link *l, struct wh_call *c, int err)
{
        wh_list_remove(&c->node);
        wh_window_done(l, c->window, err == -EAGAIN || err == -ETIMEDOUT);
        c->window = NULL;
}

void wh_call_via(struct wh_link *l, uint32_t number, int sock)
{
        struct wh_call *c = call_find(l, number);
        if (!c || c->done || c->via >= 0 || wh_frame_check_socket(sock) < 0) {
                wh_os_close_theirs(sock);
                return;
        }
        wh_os_fd_private(sock);
        c->via = sock;
        wh_holder_turn(l);
}

/*
 * A delegated reply: the frames of one message, on a socket that belongs to this call alone. A link of its own, for as
 * long as that takes, so that the same code checks it. -ENOMEM: what is there cannot be read now.
 */
int wh_call_read_via(struct wh_link *l, struct wh_call *c)
{
        struct wh_link via = wh_single_link(l->task, c->via);
        via.answer = true;
        via.in.stash = c->part;
        via.in.items = c->items;
        via.in.budget = WH_BUDGET_TURN;
        struct wh_incoming in = {0};
        int r = wh_link_next(&via, &in);
        if (r <= 0 && via.in.change.sock >= 0) {
                wh_os_fd_private(via.in.change.sock);
                wh_os_close_end(c->via, WH_END_OURS);
                c->via = via.in.change.sock;
                via.over = r = 0;
        }
        if (r == 0 || (r < 0 && !via.over)) {
                c->part = via.in.stash;
                c->items = via.in.items;
                return r == 0 ? 0 : -ENOMEM;
        }
        via.sock = -1; /* call_end() closes it */
        c->part = (struct wh_stash){0};
        c->items.n = 0;
        if (r < 0) {
                wh_link_done(&via);
                call_end(l, c, r == -EPIPE ? -ECANCELED : r);
                return 0;
        }
        c->reply = via.in.stash;
        c->items = via.in.items;
        via.in.stash = (struct wh_stash){0};
        via.in.items.n = 0;
        wh_link_done(&via);
        call_end(l, c, in.dropped ? -in.dropped : 0);
        return 0;
}

WHARF_API int wharf_call_start(wharf_task *t, wharf_name right, struct wharf_msg *req, int64_t deadline_ns,
                               uint32_t *ret_call)
{
        if (!req)
                return wh_fail_null("req");
        if (!ret_call)
                return wh_fail_null("ret_call");
        struct wh_call *c = wh_os_calloc(1, sizeof *c);
        if (!c)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        c->via = -1;
        int r = 0;
        if (req->flags & WHARF_REPLY_DIRECT) {
                c->window_asked = req->cap_bytes;
                if (req->cap_bytes == 0 || req->cap_bytes > PTRDIFF_MAX - WH_PAGE)
                        r = wh_fail(-EINVAL, "a direct reply of at most cap_bytes %zu", req->cap_bytes);
        }
        if (r == 0)
                r = wh_send_message(t, right, req, c, deadline_ns);
        if (r < 0)
                free(c);
        else
                *ret_call = (uint32_t)r;
        return r < 0 ? r : 0;
}

int wh_call_add(struct wh_link *l, struct wh_call *c)
{
        do
                c->number = ++wh_held(l)->last_call & INT32_MAX; /* so that it fits what wh_send_message() returns */
        while (c->number == 0 || call_find(l, c->number));
        wh_list_push_back(&wh_held(l)->calls, &c->node);
        return 0;
}

/* What the end of a link means to a call that still waits. */
static int call_link_error(const struct wh_link *l)
{
        return l->over == -EPIPE ? -ECONNRESET : l->over;
}

/* Deliver the reply that was kept. */
static int call_take_kept(struct wh_link *l, struct wh_call *c, struct wharf_msg *m)
{
        struct wh_stash stash = l->in.stash;
        struct wh_items items = l->in.items;
        bool direct = l->in.direct;
        /* The same code as for a message from the link itself: lend it the call's. */
        l->in.stash = c->reply;
        l->in.items = c->items;
        l->in.direct = false;
        struct wh_incoming in = {.where = WH_IN_STASH,
                                 .bytes = c->reply.bytes,
                                 .len = c->reply.len,
                                 .id = c->reply.id,
                                 .how = c->reply.how,
                                 .n_items = c->items.n};
        uint64_t seq = l->in.seq;
        int r = wh_deliver(l->task, l, &in, m, atomic_load_explicit(&l->o.name, memory_order_relaxed));
        l->in.seq = seq; /* it was counted when it came */
        c->reply = l->in.stash;
        c->items = l->in.items;
        l->in.stash = stash;
        l->in.items = items;
        l->in.direct = direct;
        return r;
}

WHARF_API int wharf_call_finish(wharf_task *t, wharf_name right, uint32_t call, struct wharf_msg *m,
                                int64_t deadline_ns)
{
        int err = wh_receive_check(m);
        if (err < 0)
                return err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return wh_fail_at(t, err, right);
        int r = wh_call_wait(l, right, call, m, deadline_ns);
        bool here = atomic_load_explicit(&l->o.name, memory_order_relaxed) == right;
        if (here && wh_held(l)->waiters && !l->in.leader)
                wh_holder_turn(l);
        if (r < 0 && r != -EINVAL) { /* which has said why */
                if (r == -EAGAIN)
                        wh_fail_plain(r, "the reply is not there, and the deadline is 0");
                else if (r == -ETIMEDOUT)
                        wh_fail_plain(r, "no reply came until the deadline");
                else if (r == -EOVERFLOW)
                        wh_fail(r, "the reply has %zu bytes and %u rights, and there is room for %zu and %u",
                                m->len_bytes, m->n_items, m->cap_bytes, m->cap_items);
                else if (r == -ECANCELED)
                        wh_fail_plain(r, here ? "the server dropped the request without replying"
                                              : "the right was dropped meanwhile");
                else if (here)
                        wh_link_failed(l, r);
                else
                        wh_fail(r, NULL);
        }
        wh_unlock(&l->o.lock);
        return r;
}

int wh_call_wait(struct wh_link *l, wharf_name right, uint32_t call, struct wharf_msg *m, int64_t deadline_ns)
{
        struct wh_call *c;
        struct wh_incoming in = {0};
        if (!(m->flags & (WHARF_RECV_IN_PLACE | WHARF_RECV_ALLOC))) {
                in.direct = m->data;
                in.direct_room = m->cap_bytes;
        }
        l->in.budget = WH_BUDGET;
        for (int late = 0;;) {
                /* Found anew each time: another thread may have cancelled it while we slept. */
                c = call_find(l, call);
                if (!c) {
                        wh_link_privatise(l);
                        return wh_fail(-EINVAL, "call %u is not outstanding on this right", call);
                }
                if (c->done) {
                        int r = c->result, refused = c->reply.refused;
                        if (r == 0)
                                r = call_take_kept(l, c, m);
                        if (r == 0)
                                call_answered(c, m->how, refused);
                        if (r == 0 || (r < 0 && c->result < 0))
                                call_free(l, c, true);
                        wh_link_privatise(l);
                        return r;
                }
                /*
                 * The leader reads for all. Nobody else may: it sleeps in poll(), where emptying the socket would leave
                 * it although its reply was found.
                 */
                int r = l->in.leader ? 0 : wh_link_next(l, &in);
                if (r == 1) {
                        struct wh_call *for_call = call_find(l, in.call);
                        if (for_call == c && !in.dropped && !c->done) {
                                r = wh_deliver(l->task, l, &in, m, right);
                                if (r == 0) {
                                        wh_link_told(l, c->seq);
                                        call_answered(c, m->how, in.refused);
                                        call_free(l, c, true);
                                        return 0;
                                }
                                /* It does not fit, and the next one in the queue must not wait; but nothing is lost. */
                                if (call_keep(l, c, &in) == 0)
                                        wh_link_took(l, &in);
                                else
                                        wh_link_privatise(l);
                                return r;
                        }
                        r = file_reply(l, &in);
                        if (r == 0 && l->in.budget)
                                continue; /* otherwise the deadline is looked at, in the wait */
                        if (r < 0) {
                                wh_link_privatise(l);
                                return r;
                        }
                }
                if (r < 0 && !l->over) {
                        wh_link_privatise(l);
                        return r; /* no memory for what waits on the socket; the call is still outstanding */
                }
                if (r < 0) {
                        if (c->via >= 0 && wh_call_read_via(l, c) < 0) {
                                wh_link_privatise(l);
                                return -ENOMEM;
                        }
                        if (c->done)
                                continue;
                        if (c->via < 0 || l->over != -EPIPE) {
                                r = call_link_error(l);
                                call_free(l, c, false);
                                return r;
                        }
                }
                r = late ? late : wh_holder_wait(l, deadline_ns, NULL);
                if (atomic_load_explicit(&l->o.name, memory_order_relaxed) != right)
                        return -ECANCELED;
                if (r < 0) {
                        c = call_find(l, call);
                        if (!c || c->done)
                                continue;
                        if (!late && (r == -EAGAIN || r == -ETIMEDOUT)) {
                                late = r; /* what came in the last moment counts */
                                continue;
                        }
                        wh_link_privatise(l);
                        return r;
                }
        }
}

WHARF_API int wharf_call_cancel(wharf_task *t, wharf_name right, uint32_t call)
{
        int err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return wh_fail_at(t, err, right);
        struct wh_call *c = call_find(l, call);
        if (c)
                call_free(l, c, c->done);
        wh_unlock(&l->o.lock);
        return c ? 0 : wh_fail(-EINVAL, "call %u is not outstanding on this right", call);
}

WHARF_API int wharf_callmsg(wharf_task *t, wharf_name right, struct wharf_msg *req, struct wharf_msg *reply,
                            int64_t deadline_ns)
{
        uint32_t call;
        int r = wh_receive_check(reply);
        if (r < 0)
                return r;
        r = wharf_call_start(t, right, req, deadline_ns, &call);
        if (r < 0)
                return r;
        r = wharf_call_finish(t, right, call, reply, deadline_ns);
        if (r == -EAGAIN || r == -ETIMEDOUT || r == -EOVERFLOW || r == -ENOMEM || r == -EMFILE)
                wharf_call_cancel(t, right, call); /* it is still outstanding */
        return r;
}

WHARF_API ssize_t wharf_call(wharf_task *t, wharf_name right, const void *req, size_t len_bytes, void *buf,
                             size_t cap_bytes, int64_t deadline_ns)
{
        struct wharf_msg q = {.size = sizeof q, .data = (void *)(uintptr_t)req, .len_bytes = len_bytes};
        struct wharf_msg a = {.size = sizeof a, .data = buf, .cap_bytes = cap_bytes};
        int r = wharf_callmsg(t, right, &q, &a, deadline_ns);
        return r < 0 ? r : (ssize_t)a.len_bytes;
}
