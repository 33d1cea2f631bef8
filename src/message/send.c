/*
 * Sending: the public calls, and memory that is reserved for a message.
 *
 * Always true:
 *   - Bytes that find a place in the ring go by wh_link_send_plain() and nothing else: the short way, for which
 *     wharf_send() does no more than to lock the link. All other messages go by wh_send_message().
 *   - A failed call changes nothing: what was made for the message is unmade (wh_items_finish()), and a block that was
 *     reserved stays reserved.
 */
#include "link/direct.h"
#include "message/deliver.h"
#include "message/items.h"
#include "message/move.h"
#include "message/send.h"
#include "port/notice.h"
#include "right/calls.h"
#include "right/held.h"
#include "right/right.h"
#include "task/why.h"

#include <errno.h>
#include <limits.h>

static int send_once(wharf_task *t, wharf_name right, const void *data, size_t len_bytes, int64_t deadline_ns)
{
        struct wharf_msg m = {.size = sizeof m, .data = (void *)(uintptr_t)data, .len_bytes = len_bytes};
        return wh_send_message(t, right, &m, NULL, deadline_ns);
}

/* What finds no place in the ring at once, and what is more than bytes in a record. */
static __attribute__((noinline)) int send_patiently(struct wh_link *l, const void *data, size_t len_bytes,
                                                    int64_t deadline_ns)
{
        struct wh_outgoing o;
        wh_outgoing_init(&o, data, len_bytes);
        int r = l->out.busy ? -EAGAIN : wh_link_try_send(l, &o);
        if (r == -EAGAIN) {
                o.whole = deadline_ns == 0;
                r = wh_link_send(l, &o, deadline_ns);
        }
        return r;
}

WHARF_API int wharf_send(wharf_task *t, wharf_name right, const void *data, size_t len_bytes, int64_t deadline_ns)
{
        if (wh_unlikely(!data && len_bytes))
                return wh_fail_nowhere("data", len_bytes);
        int r;
        struct wh_link *l = wh_holder_lock(t, right, &r);
        if (wh_unlikely(!l))
                return r == -EPERM ? send_once(t, right, data, len_bytes, deadline_ns) : wh_fail_at(t, r, right);
        r = wh_link_send_plain(l, data, len_bytes);
        if (wh_unlikely(r)) {
                if (l->once) {
                        wh_unlock(&l->o.lock);
                        return send_once(t, right, data, len_bytes, deadline_ns);
                }
                if (r == -EAGAIN)
                        r = send_patiently(l, data, len_bytes, deadline_ns);
                if (r < 0)
                        wh_link_failed(l, r);
        }
        wh_holder_unlock(l);
        return r;
}

int wh_message_check(const struct wharf_msg *m)
{
        if (!m)
                return wh_fail_null("msg");
        if (m->size != sizeof *m)
                return wh_fail(-EINVAL, "wharf_msg.size is %u, expected %zu", m->size, sizeof *m);
        if (!m->data && m->len_bytes)
                return wh_fail_nowhere("wharf_msg.data", m->len_bytes);
        if (!m->items && m->n_items)
                return wh_fail_nowhere("wharf_msg.items", m->n_items);
        if (m->how > WHARF_HOW_DIRECT)
                return wh_fail(-EINVAL, "wharf_msg.how is %u", m->how);
        if (m->how == WHARF_HOW_SECTION && m->len_bytes > WHARF_IN_PLACE_MAX)
                return wh_fail(-EINVAL, "%zu bytes in one block, at most %u", m->len_bytes, WHARF_IN_PLACE_MAX);
        if (m->how == WHARF_HOW_INLINE && m->len_bytes > WH_RECORD_BODY_MAX - sizeof(struct wh_rec_ext))
                return wh_fail(-EINVAL, "%zu bytes inline, at most %zu", m->len_bytes,
                               WH_RECORD_BODY_MAX - sizeof(struct wh_rec_ext));
        if (m->flags & WHARF_SEND_LATER && m->how == WHARF_HOW_DIRECT)
                return wh_fail(-EINVAL, "a message that is left cannot be read from here later");
        return 0;
}

/* What the message says of its payload, and how it is to go. */
static int outgoing_of(const struct wharf_msg *m, wharf_name right, struct wh_outgoing *o)
{
        wh_outgoing_init(o, m->data, m->len_bytes);
        o->id = m->id;
        o->asked = m->how;
        o->whole = m->flags & WHARF_SEND_LATER;
        if (m->held[0] != WH_HELD_RESERVED)
                return 0;
        if (m->held[1] != right)
                return wh_fail(-EINVAL, "the payload was reserved on another right");
        if (m->len_bytes > m->held[3])
                return wh_fail(-EINVAL, "%zu bytes, but only %zu were reserved", m->len_bytes, (size_t)m->held[3]);
        o->slot = (int)m->held[2];
        return 0;
}

/* The reply of a call comes over its right: that stays. */
static int right_stays(const struct wharf_msg *m, wharf_name right)
{
        for (uint32_t i = 0; i < m->n_items && i < WHARF_ITEMS_MAX; i++)
                if (m->items[i].kind == WHARF_MOVE_SEND && m->items[i].name == right)
                        return wh_fail(-EINVAL, "items[%u] moves the right that the reply comes to", i);
        return 0;
}

/* Its end is told at a port: what that takes is had before the request goes. */
static int call_told(struct wh_link *l, struct wh_call *call)
{
        const wharf_name right = atomic_load_explicit(&l->o.name, memory_order_relaxed);
        struct wh_notice *n = wh_notice_new(l->task, WHARF_NOTICE_REPLY, right, call->port);
        int r = n ? wh_told_begin(l, call, n, call->port) : -ENOMEM;
        if (r < 0)
                wh_notice_free(l->task, n);
        return r;
}

/* On the link, which is locked. 0, or 1 for a message that was left. *ret_obstacle: why it could not be direct. */
static int send_locked(struct wh_link *l, const struct wharf_msg *m, struct wh_outgoing *o, struct wh_call *call,
                       int64_t deadline_ns, int *ret_obstacle)
{
        int r = 0, obstacle = 0;
        if (wh_unlikely(l->once)) /* another thread may have used it up just now */
                r = call ? -EPERM : l->out.seq ? -EBADF : 0;
        if (r == 0 && call) {
                wh_call_add(l, call);
                o->call = call->number;
                if (call->port != WHARF_NONE)
                        r = call_told(l, call);
                if (r == 0 && call->window_asked)
                        r = wh_call_announce(l, call, deadline_ns);
        }
        if (wh_unlikely(o->asked == WHARF_HOW_DIRECT) && r == 0 &&
            (obstacle = wh_direct_obstacle(l, o, deadline_ns)) < 0)
                o->asked = WHARF_HOW_AUTO;
        if (r == 0)
                r = wh_link_send(l, o, deadline_ns);
        if (wh_unlikely(m->flags & WHARF_SEND_LATER) && (r == -EAGAIN || r == -ETIMEDOUT))
                r = wh_link_leave(l, o, r);
        if (wh_unlikely(m->how == WHARF_HOW_DIRECT) && obstacle == 0)
                obstacle = l->out.direct_refused ? l->out.direct_refused : -EOPNOTSUPP;
        if (r < 0 && call && o->call)
                wh_call_unsent(l, call, r);
        else if (call)
                call->seq = l->out.seq;
        if (wh_unlikely(r < 0))
                wh_link_failed(l, r);
        *ret_obstacle = obstacle;
        return r;
}

/* What a message has of that which went on (wh_send_on()). */
struct went_on {
        int memory;
        bool carried;
};

static int send_message(wharf_task *t, wharf_name right, struct wharf_msg *m, struct wh_call *call,
                        const struct went_on *on, int64_t deadline_ns)
{
        int err, obstacle = 0, r = wh_message_check(m);
        if (r < 0)
                return r;
        struct wh_object *named = wh_table_find(&t->names, right);
        if (wh_unlikely(call) && m->flags & WHARF_SEND_LATER)
                return wh_fail(-EINVAL, "a call is not left to be sent later");
        if (wh_unlikely(named && named->kind == WHARF_KIND_REPLY && wh_task_ours(t)))
                return call || on->carried ? wh_fail(-EPERM, "a send-once right takes no calls")
                                           : wharf_replymsg(t, right, m);
        if (wh_unlikely(call) && (r = right_stays(m, right)) < 0)
                return r;
        struct wh_outgoing o;
        struct wh_items_out items;
        if ((r = outgoing_of(m, right, &o)) < 0)
                return r;
        items.n_moves = 0;
        if (m->n_items == 0)
                items.o = &o;
        else if ((r = wh_move_check_circle(t, right, m)) < 0 ||
                 (r = wh_items_prepare(t, m, &o, &items, right, deadline_ns)) < 0)
                return r;
        o.memory = on->memory;
        if (o.memory >= 0)
                o.asked = WHARF_HOW_MEMORY;
        if (on->carried)
                o.call = WH_CALL_CARRIED;
        /* A receive right is never in a message that can be given up after its first piece. */
        if (items.n_moves && o.slot < 0 && o.len > WHARF_INLINE_MAX && o.asked != WHARF_HOW_SECTION)
                o.asked = WHARF_HOW_MEMORY;

        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l) {
                wh_items_finish(t, m, &items, false);
                return wh_fail_at(t, err, right);
        }
        const bool once = l->once;
        r = once && on->carried ? -EPERM : send_locked(l, m, &o, call, deadline_ns, &obstacle);
        wh_holder_unlock(l);
        if (r < 0 && items.n_moves && o.items_gone)
                r = 0; /* it is on its way, even if the receiver was found to be dying: there must not be two owners */
        wh_items_finish(t, m, &items, r >= 0);
        if (wh_unlikely(once) && (r == 0 || r == -EPIPE))
                wh_right_drop(t, &l->o, right);
        if (r < 0)
                return r;
        if (wh_unlikely(m->how == WHARF_HOW_DIRECT && o.how != WHARF_HOW_DIRECT))
                wh_set_why("%s", wh_direct_why(obstacle));
        m->how = o.how;
        if (o.slot >= 0) {
                m->held[0] = WH_HELD_NOTHING;
                m->data = NULL;
        }
        return call ? (int)call->number : r;
}

int wh_send_message(wharf_task *t, wharf_name right, struct wharf_msg *m, struct wh_call *call, int64_t deadline_ns)
{
        return send_message(t, right, m, call, &(struct went_on){.memory = -1}, deadline_ns);
}

int wh_send_on(wharf_task *t, wharf_name right, struct wharf_msg *m, int memory, bool carried, int64_t deadline_ns)
{
        const struct went_on on = {memory, carried};
        int r = send_message(t, right, m, NULL, &on, deadline_ns);
        if (r != -EOPNOTSUPP || memory < 0)
                return r;
        const struct went_on copied = {-1, carried}; /* as any payload goes, where memory does not */
        return send_message(t, right, m, NULL, &copied, deadline_ns);
}

WHARF_API int wharf_sendmsg(wharf_task *t, wharf_name right, struct wharf_msg *m, int64_t deadline_ns)
{
        if (wh_unlikely(!m || m->size != sizeof *m))
                return wh_message_check(m);
        if (m->held[0] == WH_HELD_RESERVED && m->n_items == 0 && m->how == WHARF_HOW_AUTO && m->held[1] == right &&
            m->len_bytes <= m->held[3]) {
                int r;
                struct wh_link *l = wh_holder_lock(t, right, &r);
                if (wh_unlikely(!l))
                        return wh_fail_at(t, r, right);
                r = wh_link_send_lent(l, m->id, (uint16_t)m->held[2], m->len_bytes);
                if (wh_unlikely(r < 0))
                        wh_link_failed(l, r);
                wh_holder_unlock(l);
                if (wh_likely(r == 0)) {
                        m->how = WHARF_HOW_SECTION;
                        m->held[0] = WH_HELD_NOTHING;
                        m->data = NULL;
                        return 0;
                }
                if (r != -EAGAIN)
                        return r;
        }
        return wh_send_message(t, right, m, NULL, deadline_ns);
}

/* ---- many at once ---- */

enum { AT_ONCE = 64 }; /* messages that are looked at before the link is locked */

/* Bytes alone, to go as they may: what wh_link_send_many() takes. */
static bool is_bytes(const struct wharf_msg *m)
{
        return m->size == sizeof *m && m->n_items == 0 && m->how == WHARF_HOW_AUTO && m->flags == 0 &&
               m->held[0] != WH_HELD_RESERVED && (m->data || !m->len_bytes);
}

/* As many of them as there is room for at once: how many, or why none. */
static int send_batch(wharf_task *t, wharf_name right, struct wharf_msg *msgs, unsigned n)
{
        struct wh_bytes b[AT_ONCE];
        unsigned k = 0;
        for (; k < n && k < AT_ONCE && is_bytes(&msgs[k]); k++)
                b[k] = (struct wh_bytes){msgs[k].data, msgs[k].len_bytes, msgs[k].id};
        if (k == 0)
                return 0;
        int r;
        struct wh_link *l = wh_holder_lock(t, right, &r);
        if (!l)
                return 0; /* which kind of right it is is seen elsewhere */
        r = wh_link_send_many(l, b, k);
        if (r < 0)
                wh_link_failed(l, r);
        wh_holder_unlock(l);
        for (int i = 0; i < r; i++)
                msgs[i].how = msgs[i].len_bytes <= WHARF_INLINE_MAX ? WHARF_HOW_INLINE : WHARF_HOW_SECTION;
        return r;
}

WHARF_API int wharf_sendmany(wharf_task *t, wharf_name right, struct wharf_msg *msgs, unsigned n, int64_t deadline_ns)
{
        if (!msgs)
                return wh_fail_null("msgs");
        if (n == 0 || n > INT_MAX)
                return wh_fail(-EINVAL, "n is %u", n);
        unsigned done = 0;
        int r = 0;
        while (done < n) {
                if ((r = send_batch(t, right, msgs + done, n - done)) < 0)
                        break;
                done += (unsigned)r;
                if (r > 0)
                        continue;
                if ((r = wharf_sendmsg(t, right, &msgs[done], deadline_ns)) < 0)
                        break;
                done++;
        }
        return done ? (int)done : r;
}

/* ---- memory that is lent for a message ---- */

static int reserve_try(struct wh_link *l, size_t len_bytes, uint16_t *ret_slot, void **ret)
{
        int r = l->out.over ? l->out.over : l->once ? -EPERM : 0;
        if (r == 0 && wh_unlikely(!l->out.lane || l->out.detour)) {
                l->out.sock_full = false;
                r = wh_link_rebind(l);
                if (r == 0)
                        r = wh_link_attach(l);
                if (r == 0 && !l->out.lane)
                        r = -EOPNOTSUPP;
        }
        if (r == 0 && l->greeted && len_bytes > l->hello.payload_bytes_max)
                r = -EMSGSIZE;
        if (r < 0)
                return r;
        r = wh_link_lend(l, len_bytes, ret_slot, ret);
        return wh_forbidden(r) ? -EOPNOTSUPP : r;
}

WHARF_API int wharf_reserve(wharf_task *t, wharf_name right, size_t len_bytes, struct wharf_msg *m, int64_t deadline_ns)
{
        int err;
        if (!m)
                return wh_fail_null("msg");
        if (m->size != sizeof *m)
                return wh_fail(-EINVAL, "wharf_msg.size is %u, expected %zu", m->size, sizeof *m);
        if (len_bytes > WHARF_IN_PLACE_MAX)
                return wh_fail(-EMSGSIZE, "%zu bytes in one block, at most %u", len_bytes, WHARF_IN_PLACE_MAX);
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return wh_fail_at(t, err, right);
        uint16_t slot;
        void *mem;
        int r;
        l->in.budget = WH_BUDGET;
        for (unsigned spins = wh_spins_in_place(l, deadline_ns);;) {
                struct wh_room seen = wh_room_now(l);
                l->out.sock_full = false;
                l->out.grow = spins ? WH_GROW_NOT : WH_GROW_BLOCKS;
                r = reserve_try(l, len_bytes, &slot, &mem);
                l->out.grow = WH_GROW_NOT;
                if (wh_likely(r != -EAGAIN))
                        break;
                if (spins) {
                        spins--;
                        wh_relax();
                        continue;
                }
                r = wh_holder_wait(l, deadline_ns, &seen);
                if (atomic_load_explicit(&l->o.name, memory_order_relaxed) != right)
                        r = -ECANCELED;
                if (r < 0)
                        break;
        }
        if (r == -EPERM)
                wh_fail_plain(r, "a send-once right has no memory to lend");
        else if (r < 0)
                wh_link_failed(l, r);
        wh_holder_unlock(l);
        if (r < 0)
                return r;
        m->data = mem;
        m->len_bytes = len_bytes;
        m->held[0] = WH_HELD_RESERVED;
        m->held[1] = right;
        m->held[2] = slot;
        m->held[3] = len_bytes;
        return 0;
}
