/*
 * Calls: a request, and the wait for its reply.
 *
 * Always true:
 *   - A call is found anew, by its number, after each sleep: another thread may have ended it.
 *   - One thread reads the link, and what it finds for other calls it keeps there (wh_call_file()). A reply that is there is
 *     lost by no failure to deliver it: it is kept, and wharf_call_finish() can be called again.
 */
#include "link/direct.h"
#include "link/pump.h"
#include "message/call.h"
#include "message/deliver.h"
#include "message/move.h"
#include "message/receive.h"
#include "message/send.h"
#include "right/calls.h"
#include "right/held.h"
#include "right/right.h"
#include "task/why.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>

WHARF_API int wharf_call_start(wharf_task *t, wharf_name right, struct wharf_msg *req, wharf_name port,
                               int64_t deadline_ns, uint32_t *ret_call)
{
        if (!req)
                return wh_fail_null("req");
        if (!ret_call)
                return wh_fail_null("ret_call");
        struct wh_call *c = wh_os_calloc(1, sizeof *c);
        if (!c)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        c->via = -1;
        c->port = port;
        int r = 0;
        if (port != WHARF_NONE && (r = wh_told_port(t, port)) < 0)
                wh_fail_at(t, r, port);
        if (r == 0 && req->flags & WHARF_REPLY_DIRECT) {
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

/* After which the call is still outstanding: its reply has not come, or can be had by another try. */
static bool is_outstanding(int r)
{
        return r == -EAGAIN || r == -ETIMEDOUT || r == -EOVERFLOW || wh_shortage(r) || r == -EMFILE ||
               r == WH_LINK_LATER;
}

/* Deliver the reply that was kept. What is left of it then goes with the call. */
static int call_take_kept(struct wh_link *l, struct wh_call *c, struct wharf_msg *m)
{
        struct wh_stash *s = &c->reply;
        const struct wh_kept_reply kept = {s, &c->items};
        struct wh_incoming in = {.where = WH_IN_STASH,
                                 .bytes = s->bytes,
                                 .len = s->len,
                                 .id = s->id,
                                 .how = s->how,
                                 .n_items = c->items.n};
        int r = wh_deliver(l->task, l, &in, &kept, m, atomic_load_explicit(&l->o.name, memory_order_relaxed));
        if (r == 0 && s->mapped && s->how == WHARF_HOW_DIRECT) {
                wh_window_give(l, s->bytes, s->room);
                s->mapped = false;
                s->bytes = NULL;
        }
        return r;
}

/* The call has ended: with a reply that was kept, or for what `result` says. */
static int call_take(struct wh_link *l, struct wh_call *c, struct wharf_msg *m)
{
        const int refused = c->reply.refused;
        int r = c->result ? c->result : call_take_kept(l, c, m);
        if (r == 0)
                wh_call_answered(c, m->how, refused);
        if (r == 0 || c->result < 0 || !is_outstanding(r))
                wh_call_free(l, c, true);
        return r;
}

/* Its reply is what is next in the link. */
static int call_deliver(struct wh_link *l, struct wh_call *c, struct wh_incoming *in, struct wharf_msg *m,
                        wharf_name right)
{
        int r = wh_deliver(l->task, l, in, NULL, m, right);
        if (r == 0) {
                wh_link_told(l, c->seq);
                wh_call_answered(c, m->how, in->refused);
                wh_call_free(l, c, true);
                return 0;
        }
        /* It does not fit, and the next one in the queue must not wait; but nothing is lost. */
        if (wh_call_keep(l, c, in) == 0) {
                wh_link_took(l, in);
                if (!is_outstanding(r))
                        wh_call_free(l, c, true);
        } else {
                wh_link_privatise(l);
                if (!is_outstanding(r))
                        wh_call_free(l, c, false);
        }
        return r;
}

/* A port in the reply is opened bit by bit (M8 in move.h). What is done of it stays with the call: 0, or it is late. */
static int go_on_later(struct wh_link *l, wharf_name right, int64_t deadline_ns)
{
        if (deadline_ns == 0)
                return -EAGAIN;
        if (deadline_ns != WH_NEVER && wh_os_now_ns() >= deadline_ns)
                return -ETIMEDOUT;
        wh_holder_unlock(l); /* for others that use this right */
        wh_lock(&l->o.lock);
        l->in.budget = WH_BUDGET;
        return atomic_load_explicit(&l->o.name, memory_order_relaxed) == right ? 0 : -ECANCELED;
}

WHARF_API int wharf_call_finish(wharf_task *t, wharf_name right, uint32_t call, struct wharf_msg *m,
                                int64_t deadline_ns)
{
        int err = wh_receive_check(m);
        if (err < 0)
                return err;
        if (wh_unlikely(wh_ports_gone(t)))
                wh_ports_clear(t); /* what answers brought, and was undone, may be left to a task that only calls */
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
        wh_holder_unlock(l);
        return r;
}

/* In one piece: whichever way it ends, it says right there what becomes of the call, and of the user's buffer. */
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
                c = wh_call_find(l, call);
                if (!c) {
                        wh_link_privatise(l);
                        return wh_fail(-EINVAL, "call %u is not outstanding on this right", call);
                }
                if (c->done) {
                        int r = call_take(l, c, m);
                        wh_link_privatise(l);
                        if (r == WH_LINK_LATER && (r = go_on_later(l, right, deadline_ns)) == 0)
                                continue;
                        return r;
                }
                /*
                 * The leader reads for all. Nobody else may: it sleeps in poll(), where emptying the socket would leave
                 * it although its reply was found.
                 */
                int r = l->in.leader ? 0 : wh_link_next(l, &in);
                if (r == 1) {
                        struct wh_call *for_call = wh_call_find(l, in.call);
                        if (for_call == c && !in.dropped && !c->done) {
                                r = call_deliver(l, c, &in, m, right);
                                if (r != WH_LINK_LATER)
                                        return r;
                                if ((r = go_on_later(l, right, deadline_ns)) < 0)
                                        return r;
                                continue;
                        }
                        r = wh_call_file(l, &in);
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
                                r = wh_call_link_error(l);
                                wh_call_free(l, c, false);
                                return r;
                        }
                }
                r = late ? late : wh_holder_wait(l, deadline_ns, NULL);
                if (atomic_load_explicit(&l->o.name, memory_order_relaxed) != right)
                        return -ECANCELED;
                if (r < 0) {
                        c = wh_call_find(l, call);
                        if (!c || c->done)
                                continue;
                        if (!late && l->in.budget && (r == -EAGAIN || r == -ETIMEDOUT)) {
                                late = r; /* what came in the last moment counts, where there was not too much already */
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
        struct wh_call *c = wh_call_find(l, call);
        if (c)
                wh_call_free(l, c, c->done);
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
        r = wharf_call_start(t, right, req, WHARF_NONE, deadline_ns, &call);
        if (r < 0)
                return r;
        r = wharf_call_finish(t, right, call, reply, deadline_ns);
        if (is_outstanding(r))
                wharf_call_cancel(t, right, call);
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
