/*
 * Replies: a right to answer one call, or, once its port has moved, one socket (VIA).
 *
 * Always true:
 *   C3  A reply never waits: what finds no place in the lane goes as a memory of its own, and where even that finds
 *       none the link is closed, for then the caller reads none of its replies.
 */
#include "link/direct.h"
#include "right/calls.h"
#include "message/send.h"
#include "message/call.h"
#include "message/items.h"
#include "right/right.h"
#include "port/owned.h"
#include "port/places.h"
#include "port/port.h"
#include "task/why.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"

#include <errno.h>
#include <string.h>

/* One more call of this link that is to be answered. */
static int call_charge(struct wh_link *l)
{
        bool own;
        int r = wh_bill_charge_answer(&wh_owned(l)->bill, &own);
        if (r == -EDQUOT)
                l->in.refusal = own ? WH_REFUSAL_ANSWERS : WH_REFUSAL_TASK_ANSWERS;
        return r;
}

/* The right to answer one is gone, or goes its own way. The reference to the link goes with it. */
static void reply_link_drop(struct wh_link *l)
{
        if (!l)
                return;
        wh_bill_give(&wh_owned(l)->bill, WH_SHARE_ANSWERS, 1);
        wh_link_unref(l);
}

int wh_reply_new(wharf_task *t, struct wh_link *l, uint32_t call, wharf_name *ret)
{
        int r = call_charge(l);
        if (r < 0)
                return r;
        struct wh_reply *y = wh_task_take(t, WHARF_KIND_REPLY, sizeof *y, sizeof y->o);
        if (!y) {
                wh_bill_give(&wh_owned(l)->bill, WH_SHARE_ANSWERS, 1);
                return wh_trace(-ENOMEM);
        }
        y->link = l;
        y->call = call;
        y->via = -1;
        y->window_at = l->in.window.at;
        y->window_len = l->in.window.call == call ? l->in.window.len : 0;
        r = wh_table_add(&t->names, &y->o);
        if (r < 0) {
                wh_bill_give(&wh_owned(l)->bill, WH_SHARE_ANSWERS, 1);
                wh_task_give(t, &y->o);
                return r;
        }
        wh_ref_take(&wh_owned(l)->refs);
        *ret = atomic_load_explicit(&y->o.name, memory_order_relaxed);
        return 0;
}

/* Lock and return the reply right `name`; NULL with *err. Its lock comes before that of its link. */
static struct wh_reply *reply_lock(wharf_task *t, wharf_name name, int *err)
{
        struct wh_object *o = wh_table_find(&t->names, name);
        *err = -EBADF;
        if (!o)
                return NULL;
        wh_lock(&o->lock);
        if (atomic_load_explicit(&o->name, memory_order_relaxed) == name && o->kind == WHARF_KIND_REPLY)
                return (struct wh_reply *)o;
        if (atomic_load_explicit(&o->name, memory_order_relaxed) == name)
                *err = -EPERM;
        wh_unlock(&o->lock);
        return NULL;
}

/* Unlock it, and take it out of the task when it is `used`; the reference to its link is the caller's then. */
static void reply_unlock(wharf_task *t, struct wh_reply *y, bool used)
{
        if (used)
                wh_table_remove(&t->names, &y->o);
        wh_unlock(&y->o.lock);
        if (used)
                wh_task_give(t, &y->o);
}

/* Take the reply right `name` out of the task. */
static int reply_take(wharf_task *t, wharf_name name, struct wh_reply *ret)
{
        int err = 0;
        struct wh_reply *y = reply_lock(t, name, &err);
        *ret = (struct wh_reply){.via = -1};
        if (!y)
                return err;
        ret->link = y->link;
        ret->call = y->call;
        ret->via = y->via;
        ret->via_payer = y->via_payer;
        ret->via_fds = y->via_fds;
        ret->via_bytes = y->via_bytes;
        reply_unlock(t, y, true);
        return 0;
}

/* The one message of a reply whose port has moved. */
static int reply_send_via(wharf_task *t, struct wh_reply *y, struct wh_outgoing *o)
{
        if (o->dropped)
                return 0; /* that it is closed says as much */
        struct wh_link via = wh_single_link(t, y->via);
        if (y->via_payer != t->accounts.self)
                via.given = (struct wharf_introducer){.known = WHARF_KNOWN_BOUND, .uid = y->via_payer};
        o->call = 0;
        int r = wh_link_try_send(&via, o);
        y->via_fds += via.once_fds;
        y->via_bytes += via.once_bytes;
        via.sock = -1; /* closed with the right */
        wh_link_done(&via);
        return r == -EAGAIN ? -ENOBUFS : r;
}

/* The right was used: nothing of it stays. */
static void reply_done(wharf_task *t, struct wh_reply *y)
{
        if (y->via >= 0) {
                wh_once_over(t, y->via, WH_END_SHARED, y->via_payer, y->via_fds, y->via_bytes);
                wh_account_give(&t->accounts, y->via_payer, WH_SHARE_TASK_LINKS, 1);
                wh_places_raised(t); /* somebody may wait for what it took */
        }
        reply_link_drop(y->link);
}

/*
 * Shall it be written into the caller's memory? Where the caller has asked for that, also if the server did not. Why
 * not is in *ret_refused, an errno.
 */
static void reply_way(const struct wh_reply *y, struct wh_outgoing *o, int *ret_refused)
{
        bool asked = o->asked == WHARF_HOW_DIRECT;
        *ret_refused = 0;
        if (!asked && (o->asked != WHARF_HOW_AUTO || !y->window_len || o->len <= WHARF_INLINE_MAX || o->dropped))
                return;
        o->asked = WHARF_HOW_AUTO;
        if (!y->window_len || o->len == 0)
                *ret_refused = EINVAL;
        else if (!y->link)
                *ret_refused = EOPNOTSUPP;
        else if (!y->link->takes_direct)
                *ret_refused = ENOPROTOOPT;
        else if (o->len > y->window_len)
                *ret_refused = EMSGSIZE;
        else
                o->asked = WHARF_HOW_DIRECT;
        o->window_at = y->window_at;
}

/*
 * Send on the owner's end, without ever waiting (C3). The link is not locked. *ret_over: nothing more can be sent.
 * *ret_refused: why it was not written directly.
 */
static int reply_send(wharf_task *t, struct wh_reply *y, struct wh_outgoing *o, bool *ret_over, int *ret_refused)
{
        struct wh_link *l = y->link;
        reply_way(y, o, ret_refused);
        if (!l) {
                int r = y->via < 0 ? -EPIPE : reply_send_via(t, y, o);
                *ret_over = r == -EPIPE || r == -ENOBUFS;
                return r;
        }
        wh_lock(&l->o.lock);
        int r = l->out.over ? l->out.over : 0;
        l->out.reply_refused = *ret_refused;
        o->whole = true;
        if (r == 0)
                r = wh_link_try_send(l, o);
        if (r == -EAGAIN) {
                wh_os_shutdown(l->sock, SHUT_RDWR);
                l->out.over = -ENOBUFS;
                r = -ENOBUFS;
        }
        *ret_over = l->out.over != 0;
        *ret_refused = l->out.reply_refused;
        l->out.reply_refused = 0;
        wh_unlock(&l->o.lock);
        return r;
}

void wh_reply_forget(wharf_task *t, wharf_name name)
{
        struct wh_reply y;
        if (reply_take(t, name, &y) == 0)
                reply_done(t, &y);
}

int wh_reply_drop(wharf_task *t, struct wh_object *o, wharf_name name)
{
        struct wh_reply y;
        int r = reply_take(t, name, &y);
        if (r < 0)
                return r;
        struct wh_outgoing out;
        wh_outgoing_init(&out, NULL, 0);
        out.call = y.call;
        out.dropped = ECANCELED;
        bool over;
        int refused;
        r = reply_send(t, &y, &out, &over, &refused);
        if (r < 0 && !over && y.link) {
                /* As in C3: a caller that would never hear of it is told by the end of the link. */
                wh_lock(&y.link->o.lock);
                wh_os_shutdown(y.link->sock, SHUT_RDWR);
                y.link->out.over = -ENOBUFS;
                wh_unlock(&y.link->o.lock);
        }
        reply_done(t, &y);
        return 0;
}

/* The caller of `call` is told that its reply comes over `sock`; the link is locked. */
static int tell_via(struct wh_link *l, uint32_t call, int sock)
{
        struct wh_frame f = {.type = WH_FRAME_VIA, .n_fds = 1, .call = call};
        return wh_link_frame(l, &f, NULL, 0, &sock, false);
}

void wh_reply_via(wharf_task *t, wharf_name name, int sock)
{
        struct wh_reply y;
        if (reply_take(t, name, &y) < 0)
                return;
        if (!y.link) { /* detached since the message was made: its caller listens there, and is sent on */
                struct wh_frame f = {.type = WH_FRAME_VIA, .to = WH_TO_ONCE, .n_fds = 1};
                wh_frame_send(y.via, &f, NULL, 0, &sock, false);
                reply_done(t, &y);
                return;
        }
        wh_lock(&y.link->o.lock);
        if (y.link->out.over == 0 && tell_via(y.link, y.call, sock) < 0) {
                /* As in C3: a caller that would never hear of it is told by the end of the link. */
                wh_os_shutdown(y.link->sock, SHUT_RDWR);
                y.link->out.over = -ENOBUFS;
        }
        wh_unlock(&y.link->o.lock);
        reply_link_drop(y.link);
}

int wh_reply_socket(wharf_task *t, wharf_name name)
{
        struct wh_object *o = wh_table_find(&t->names, name);
        int fd = -1;
        if (!o)
                return -1;
        wh_lock(&o->lock);
        if (atomic_load_explicit(&o->name, memory_order_relaxed) == name && o->kind == WHARF_KIND_REPLY)
                fd = ((struct wh_reply *)o)->via;
        wh_unlock(&o->lock);
        return fd;
}

struct detaching {
        const struct wh_port *port;
        int result;
};

/*
 * The caller could not be told where its reply will come from. Is that its own doing: it does not read, takes no descriptors,
 * or its user has not read its share of them? Otherwise we are short of something.
 */
static bool caller_refuses(struct wh_link *l, int r)
{
        if (r != -ETOOMANYREFS)
                return r != -ENOMEM && r != -ENOBUFS && r != -EMFILE && r != -ENFILE;
        const bool share = l->end->sends(l, WH_SHARE_FLYING, 1) < 0;
        if (!share)
                l->end->unsent(l, WH_SHARE_FLYING, 1);
        return share;
}

/* Its caller, if it still is one, is to expect the reply on a socket: *ret, or -1. Those that it keeps us are links of its user. */
static int detach(struct wh_link *l, uint32_t call, int *ret)
{
        enum { TRIES = 16 }; /* a caller that reads has its share, and a moment later has it not */
        int sv[2], r;
        bool refuses = false;
        struct wh_accounts *a = &l->task->accounts;
        const uid_t payer = wh_owned(l)->bill.payer;
        *ret = -1;
        wh_lock(&l->o.lock);
        r = l->out.over ? -EPIPE : wh_account_charge(a, payer, WH_SHARE_TASK_LINKS, 1, payer == a->self);
        const bool charged = r == 0, has_its_share = r == -EDQUOT;
        if (r == 0)
                r = wh_os_socketpair(sv);
        if (r == 0) {
                r = tell_via(l, call, sv[0]);
                for (int i = 0; r < 0 && r != -EPIPE && !(refuses = caller_refuses(l, r)); i++) {
                        if (r != -ETOOMANYREFS || i == TRIES)
                                break;
                        r = tell_via(l, call, sv[0]);
                }
                wh_os_close_end(sv[0], WH_END_SHARED); /* its caller may have it, and be gone, by now */
                if (r == 0) {
                        wh_os_fd_private(sv[1]);
                        *ret = sv[1];
                } else {
                        wh_os_close(sv[1]);
                }
        }
        if (has_its_share || refuses) { /* C3: it keeps no port from moving */
                wh_os_shutdown(l->sock, SHUT_RDWR);
                l->out.over = -ENOBUFS;
                r = -EPIPE;
        }
        wh_unlock(&l->o.lock);
        if (r < 0 && charged) {
                wh_account_give(a, payer, WH_SHARE_TASK_LINKS, 1);
                wh_places_raised(l->task);
        }
        return r == -EPIPE ? 0 : r;
}

static void reply_detach(struct wh_object *o, void *arg)
{
        struct detaching *d = arg;
        struct wh_reply *y = (struct wh_reply *)o;
        if (o->kind != WHARF_KIND_REPLY || d->result < 0)
                return;
        wh_lock(&o->lock);
        struct wh_link *l = atomic_load_explicit(&o->name, memory_order_relaxed) ? y->link : NULL;
        if (l && wh_owned(l)->port == d->port && (d->result = detach(l, y->call, &y->via)) == 0) {
                y->via_payer = wh_owned(l)->bill.payer;
                y->link = NULL;
                reply_link_drop(l);
        }
        wh_unlock(&o->lock);
}

int wh_replies_detach(wharf_task *t, const struct wh_port *p)
{
        struct detaching d = {.port = p};
        wh_table_each(&t->names, reply_detach, &d);
        return d.result;
}

static int reply_failed(int err)
{
        switch (err) {
        case -EPIPE:
                return wh_fail_plain(err, "the caller is gone, or waits no more");
        case -ENOBUFS:
                return wh_fail_plain(err, "the caller does not read its replies: the link to it was closed");
        case -EDQUOT:
                return wh_fail_plain(err,
                                     "replies that one user has not read: this one has its share of the memory for "
                                     "them (reply_bytes_max of the port)");
        case -ETOOMANYREFS:
                return wh_fail_plain(err,
                                     "too many descriptors are on their way: to the user of this caller, who has not "
                                     "read them (an eighth of RLIMIT_NOFILE has shares), or of this process's user");
        case -EMSGSIZE:
                return wh_fail_plain(err, "the reply is larger than its way allows");
        case -EOPNOTSUPP:
                return wh_fail_plain(err, "a reply of more than 64 KiB takes shared memory, and none can be made here");
        default:
                return wh_fail(err, NULL);
        }
}

/* Over a send-once right that came in a message answering is sending its one message. False: it is no send right. */
static bool answered_once(wharf_task *t, wharf_name reply, struct wharf_msg *m, int *ret)
{
        const struct wh_object *named = wh_table_find(&t->names, reply);
        if (!named || named->kind != WHARF_KIND_SEND ||
            atomic_load_explicit(&named->name, memory_order_relaxed) != reply)
                return false;
        int err;
        struct wh_link *l = wh_holder_lock(t, reply, &err);
        const bool once = l && l->once;
        if (l)
                wh_unlock(&l->o.lock);
        *ret = once ? wh_send_message(t, reply, m, NULL, 0) : wh_fail_at(t, l ? -EPERM : err, reply);
        return true;
}

WHARF_API int wharf_replymsg(wharf_task *t, wharf_name reply, struct wharf_msg *m)
{
        int r = wh_message_check(m);
        if (r < 0)
                return r;
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        if (answered_once(t, reply, m, &r))
                return r;
        struct wh_outgoing o;
        struct wh_items_out items;
        wh_outgoing_init(&o, m->data, m->len_bytes);
        o.id = m->id;
        o.asked = m->how == WHARF_HOW_CHUNKS || m->how == WHARF_HOW_COLD ? WHARF_HOW_AUTO : m->how;
        r = wh_items_prepare(t, m, &o, &items, reply, 0);
        if (r < 0)
                return r;
        struct wh_reply *y = reply_lock(t, reply, &r);
        if (!y) {
                wh_items_finish(t, m, &items, false);
                return wh_fail_at(t, r, reply);
        }
        o.call = y->call;
        struct wh_reply was = {.link = y->link, .via = y->via, .via_payer = y->via_payer};
        bool over;
        int refused;
        r = reply_send(t, y, &o, &over, &refused);
        if (wh_unlikely((r == -EDQUOT || r == -ETOOMANYREFS) && was.link)) {
                /* What was read of its other replies is not its to pay any more: look, and try again. */
                const int failed = r;
                wh_ref_take(&wh_owned(was.link)->refs);
                reply_unlock(t, y, false);
                const bool more = wh_replies_settle(was.link);
                wh_link_unref(was.link);
                y = reply_lock(t, reply, &r);
                if (!y) {
                        wh_items_finish(t, m, &items, false);
                        return wh_fail_at(t, r, reply);
                }
                was = (struct wh_reply){.link = y->link, .via = y->via, .via_payer = y->via_payer};
                r = failed;
                over = false;
                if (more)
                        r = reply_send(t, y, &o, &over, &refused);
        }
        was.via_fds = y->via_fds;
        was.via_bytes = y->via_bytes;
        const bool used = r == 0 || over;
        reply_unlock(t, y, used);
        wh_items_finish(t, m, &items, r == 0 || (o.items_gone && items.n_moves));
        if (used)
                reply_done(t, &was);
        if (r < 0)
                return reply_failed(r);
        if (wh_unlikely(refused))
                wh_set_why("%s", wh_window_why(-refused));
        m->how = o.how;
        return 0;
}

WHARF_API int wharf_reply(wharf_task *t, wharf_name reply, const void *data, size_t len_bytes)
{
        struct wharf_msg m = {.size = sizeof m, .data = (void *)(uintptr_t)data, .len_bytes = len_bytes};
        return wharf_replymsg(t, reply, &m);
}
