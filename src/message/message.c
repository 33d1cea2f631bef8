/*
 * Sending and receiving: the public calls.
 */
#include "link/direct.h"
#include "port/places.h"
#include "right/calls.h"
#include "message/call.h"
#include "message/message.h"
#include "right/held.h"
#include "message/items.h"
#include "message/move.h"
#include "right/right.h"
#include "port/owned.h"
#include "port/port.h"
#include "task/why.h"

#include "base/cleanup.h"
#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/*
 * What msg->held[0] says: which wharf_release() it takes. [1] is a link's id or a right's name, [2] a slot or length.
 */
enum {
        HELD_NOTHING = 0,
        HELD_MALLOC = 1,
        HELD_MAP = 2,
        HELD_OWNER_BLOCK = 3,  /* at a port's end */
        HELD_HOLDER_BLOCK = 4, /* a reply in place */
        HELD_RESERVED = 5,
        HELD_WINDOW = 6, /* a direct reply; [2] is how much is mapped */
};

/* ---- sending ---- */

/* What a refusal by the receiver was about, as far as the errno alone does not say. */
static const char *refused_about(const struct wh_link *l, int err)
{
        switch (l->in.refusal) {
        case WH_REFUSAL_INTRODUCED:
                return "whoever gave this right away may introduce no more (introduced_max of the port)";
        case WH_REFUSAL_LINKS:
                return "links of one user: this one has its share of the port's (links_max)";
        case WH_REFUSAL_TASK_LINKS:
                return "links of one user: this one has its share of half the receiver's descriptors (RLIMIT_NOFILE)";
        case WH_REFUSAL_RIGHTS:
                return "unread rights of one user: this one has its share of the receiver's descriptors";
        case WH_REFUSAL_ANSWERS:
                return "calls of this sender that nobody has answered (link_answers_max of the port)";
        case WH_REFUSAL_TASK_ANSWERS:
                return "calls of one user that nobody has answered: this one has its share (answers_max of the task)";
        case WH_REFUSAL_BYTES:
                return "memory mapped for one user: this one has its share (mapped_bytes_max of the port)";
        default:
                return err == -EDQUOT    ? "memory mapped for this sender (link_mapped_bytes_max of the port)"
                       : err == -EMLINK  ? "the port has as many links as it takes (links_max)"
                       : err == -ENOBUFS ? "the port has mapped as much as it may (mapped_bytes_max)"
                                         : NULL;
        }
}

/* By what the queue is full, if it can be said. */
static bool full_failed(struct wh_link *l, int err)
{
        const char *full = err == -EAGAIN ? "the queue is full" : "the queue stayed full until the deadline";
        switch (wh_link_full_by(l)) {
        case WHARF_FULL_RECORDS:
                if (l->hello.capacity_records >= WHARF_UNBOUNDED)
                        return false;
                wh_fail(err, "%s: %u messages are unread (capacity_records)", full, l->hello.capacity_records);
                return true;
        case WHARF_FULL_BYTES:
                wh_fail(err, "%s: with these %" PRIu64 " bytes more than %" PRIu64 " were unread (capacity_bytes)",
                        full, l->out.short_bytes, l->hello.capacity_bytes);
                return true;
        case WHARF_FULL_MEMORY:
                wh_fail(err, "%s: no memory for another message (link_mapped_bytes_max, or the system)", full);
                return true;
        }
        return false;
}

void wh_link_failed(struct wh_link *l, int err)
{
        if ((err == -EAGAIN || err == -ETIMEDOUT) && full_failed(l, err))
                return;
        const bool refused = err == l->out.over && (l->in.refusal || l->in.refused_max);
        const char *about = refused || err == -EDQUOT ? refused_about(l, err) : NULL;
        const bool meets = l->hello.capacity_records == WHARF_RENDEZVOUS;
        if (about && refused && l->in.refused_max)
                wh_fail(err, "%s: %" PRIu64, about, l->in.refused_max);
        else if (about)
                wh_fail_plain(err, about);
        else if (err == -EAGAIN)
                wh_fail_plain(err, meets ? "no receiver is there to take it, and the deadline is 0"
                                         : "the queue is full, and the deadline is 0");
        else if (err == -ETIMEDOUT)
                wh_fail_plain(err, meets ? "no receiver took it until the deadline"
                                         : "the queue stayed full until the deadline");
        else if (err == -EMSGSIZE)
                wh_fail(err, "larger than the port takes: at most %" PRIu64 " bytes (payload_bytes_max)",
                        l->hello.payload_bytes_max);
        else if (err == -EPERM)
                wh_fail_plain(err, "a send-once right takes one message, and no calls");
        else if (err == -EBUSY)
                wh_fail_plain(err, "a message is left on this right already, and has not gone into the queue yet");
        else if (err == -ECANCELED)
                wh_fail_plain(err, "the right was dropped meanwhile, or the request was dropped without a reply");
        else
                wh_fail(err, NULL);
}

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
        wh_unlock(&l->o.lock);
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

/* With a call: its number on success, which the reply will carry. Otherwise 0, or 1 for a message that was left. */
int wh_send_message(wharf_task *t, wharf_name right, struct wharf_msg *m, struct wh_call *call, int64_t deadline_ns)
{
        int err, r = wh_message_check(m);
        if (r < 0)
                return r;
        const bool later = m->flags & WHARF_SEND_LATER;
        if (wh_unlikely(later && call))
                return wh_fail(-EINVAL, "a call is not left to be sent later");
        struct wh_object *named = wh_table_find(&t->names, right);
        if (wh_unlikely(named && named->kind == WHARF_KIND_REPLY && wh_task_ours(t)))
                return call ? wh_fail(-EPERM, "a send-once right takes no calls") : wharf_replymsg(t, right, m);
        for (uint32_t i = 0; wh_unlikely(call) && i < m->n_items && i < WHARF_ITEMS_MAX; i++)
                if (m->items[i].kind == WHARF_MOVE_SEND && m->items[i].name == right)
                        return wh_fail(-EINVAL, "items[%u] moves the right that the reply comes to", i);
        struct wh_outgoing o;
        struct wh_items_out items;
        wh_outgoing_init(&o, m->data, m->len_bytes);
        o.id = m->id;
        o.asked = m->how;
        o.whole = later;
        if (m->held[0] == HELD_RESERVED) {
                if (m->held[1] != right)
                        return wh_fail(-EINVAL, "the payload was reserved on another right");
                o.slot = (int)m->held[2];
                if (m->len_bytes > m->held[3])
                        return wh_fail(-EINVAL, "%zu bytes, but only %zu were reserved", m->len_bytes,
                                       (size_t)m->held[3]);
        }
        items.n_moves = 0;
        if (m->n_items == 0)
                items.o = &o;
        else if ((r = wh_move_check_circle(t, right, m)) < 0 ||
                 (r = wh_items_prepare(t, m, &o, &items, right, deadline_ns)) < 0)
                return r;
        /* A receive right is never in a message that can be given up after its first piece. */
        if (items.n_moves && o.slot < 0 && o.len > WHARF_INLINE_MAX && o.asked != WHARF_HOW_SECTION)
                o.asked = WHARF_HOW_MEMORY;

        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l) {
                wh_items_finish(t, m, &items, false);
                return wh_fail_at(t, err, right);
        }
        const bool once = l->once;
        r = 0;
        if (wh_unlikely(once)) /* another thread may have used it up just now */
                r = call ? -EPERM : l->out.seq ? -EBADF : 0;
        if (r == 0 && call) {
                wh_call_add(l, call);
                o.call = call->number;
                if (call->window_asked)
                        r = wh_call_announce(l, call, deadline_ns);
        }
        int obstacle = 0;
        if (wh_unlikely(o.asked == WHARF_HOW_DIRECT) && r == 0 &&
            (obstacle = wh_direct_obstacle(l, &o, deadline_ns)) < 0)
                o.asked = WHARF_HOW_AUTO;
        if (r == 0)
                r = wh_link_send(l, &o, deadline_ns);
        if (wh_unlikely(later) && (r == -EAGAIN || r == -ETIMEDOUT))
                r = wh_link_leave(l, &o, r);
        if (wh_unlikely(m->how == WHARF_HOW_DIRECT) && obstacle == 0)
                obstacle = l->out.direct_refused ? l->out.direct_refused : -EOPNOTSUPP;
        if (r < 0 && call && o.call)
                wh_call_unsent(l, call, r);
        else if (call)
                call->seq = l->out.seq;
        if (wh_unlikely(r < 0))
                wh_link_failed(l, r);
        wh_unlock(&l->o.lock);
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
                m->held[0] = HELD_NOTHING;
                m->data = NULL;
        }
        return call ? (int)call->number : r;
}

WHARF_API int wharf_sendmsg(wharf_task *t, wharf_name right, struct wharf_msg *m, int64_t deadline_ns)
{
        if (wh_unlikely(!m || m->size != sizeof *m))
                return wh_message_check(m);
        if (m->held[0] == HELD_RESERVED && m->n_items == 0 && m->how == WHARF_HOW_AUTO && m->held[1] == right &&
            m->len_bytes <= m->held[3]) {
                int r;
                struct wh_link *l = wh_holder_lock(t, right, &r);
                if (wh_unlikely(!l))
                        return wh_fail_at(t, r, right);
                r = wh_link_send_lent(l, m->id, (uint16_t)m->held[2], m->len_bytes);
                if (wh_unlikely(r < 0))
                        wh_link_failed(l, r);
                wh_unlock(&l->o.lock);
                if (wh_likely(r == 0)) {
                        m->how = WHARF_HOW_SECTION;
                        m->held[0] = HELD_NOTHING;
                        m->data = NULL;
                        return 0;
                }
                if (r != -EAGAIN)
                        return r;
        }
        return wh_send_message(t, right, m, NULL, deadline_ns);
}

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
        wh_unlock(&l->o.lock);
        if (r < 0)
                return r;
        m->data = mem;
        m->len_bytes = len_bytes;
        m->held[0] = HELD_RESERVED;
        m->held[1] = right;
        m->held[2] = slot;
        m->held[3] = len_bytes;
        return 0;
}

/* ---- receiving ---- */

static_assert((uint32_t)WH_BLOCK_MAX == WHARF_IN_PLACE_MAX, "what can be lent is what is taken");
static_assert((int)WHARF_PAYLOAD_ALIGN == (int)WH_PAYLOAD_ALIGN, "what is promised is what is asked for");

/* The payload to the user, in the way it asked for. Nothing is taken from the link yet but by holding. */
static int deliver_payload(struct wh_link *l, struct wh_incoming *in, struct wharf_msg *m, wharf_name holder,
                           bool *ret_held)
{
        *ret_held = false;
        m->held[0] = HELD_NOTHING;
        if (m->flags & WHARF_RECV_IN_PLACE && in->where == WH_IN_BLOCK) {
                m->data = (void *)(uintptr_t)in->bytes;
                m->held[0] = holder ? HELD_HOLDER_BLOCK : HELD_OWNER_BLOCK;
                m->held[1] = holder ? holder : atomic_load_explicit(&l->o.name, memory_order_relaxed);
                m->held[2] = in->slot;
                m->held[3] = l->in.lane->number;
                *ret_held = true;
                return 0;
        }
        if (m->flags & (WHARF_RECV_IN_PLACE | WHARF_RECV_ALLOC)) {
                if (in->where == WH_IN_STASH) {
                        struct wh_stash *s = &l->in.stash;
                        m->data = s->bytes;
                        m->held[0] = !s->mapped                             ? HELD_MALLOC
                                     : s->how == WHARF_HOW_DIRECT && holder ? HELD_WINDOW
                                                                            : HELD_MAP;
                        m->held[1] = holder;
                        m->held[2] = s->room;
                        if (s->mapped)
                                wh_os_close_theirs(wh_steal_fd(&s->memory)); /* its mapping may come back */
                        s->bytes = NULL;
                        s->mapped = false;
                        return 0;
                }
                /* What lies in a record is copied, in place too: it shares a line with the record's head. */
                void *own = wh_os_malloc_payload(in->len);
                if (!own)
                        return wh_trace(-ENOMEM);
                wh_shm_copy(own, in->bytes, in->len);
                m->data = own;
                m->held[0] = HELD_MALLOC;
                return 0;
        }
        if (in->bytes != m->data && in->len)
                wh_shm_copy(m->data, in->bytes, in->len);
        return 0;
}

/* As before it was delivered. */
static void undeliver_payload(struct wh_link *l, const struct wh_incoming *in, struct wharf_msg *m, void *data)
{
        if (m->held[0] == HELD_MALLOC || m->held[0] == HELD_MAP || m->held[0] == HELD_WINDOW) {
                if (in->where == WH_IN_STASH) {
                        l->in.stash.bytes = m->data;
                        l->in.stash.mapped = m->held[0] != HELD_MALLOC;
                } else {
                        free(m->data);
                }
        }
        m->held[0] = HELD_NOTHING;
        m->data = data;
}

void wh_items_drop(wharf_task *t, const struct wharf_item *items, unsigned n)
{
        for (unsigned i = 0; i < n; i++) {
                if (items[i].kind == WHARF_GOT_FD)
                        wh_os_close_theirs(items[i].fd);
                else if (items[i].kind)
                        wharf_drop(t, items[i].name);
        }
}

/* The message is taken and nobody gets it. m->reply is to be dropped, once the inbox is not locked. 0, or as
 * wh_deliver(). */
static int drop_message(wharf_task *t, struct wh_link *l, struct wh_incoming *in, struct wharf_msg *m)
{
        wharf_name reply = WHARF_NONE;
        int r = in->call ? wh_reply_new(t, l, in->call, &reply) : 0;
        if (r < 0)
                return r;
        if (in->how & WH_HOW_OFFERED && !wh_link_claim(l, in)) {
                if (reply)
                        wh_reply_forget(t, reply);
                wh_link_skip(l, in);
                return 1;
        }
        wh_link_took(l, in);
        m->reply = reply;
        return 0;
}

/* The caller learns whose it is and what it takes. Of a reply there is one: it is not first in anybody's way. */
static int does_not_fit(wharf_task *t, struct wh_link *l, struct wh_incoming *in, struct wharf_msg *m, bool reply)
{
        int r = m->flags & WHARF_RECV_DROP_UNFIT && !reply ? drop_message(t, l, in, m) : 0;
        if (r != 0)
                return r;
        m->len_bytes = in->len;
        m->n_items = in->n_items;
        if (!reply)
                m->id = in->id;
        return -EOVERFLOW;
}

int wh_deliver(wharf_task *t, struct wh_link *l, struct wh_incoming *in, struct wharf_msg *m, wharf_name holder)
{
        bool whole = m->flags & (WHARF_RECV_IN_PLACE | WHARF_RECV_ALLOC), offered = in->how & WH_HOW_OFFERED;
        const unsigned n_items = m->flags & WHARF_RECV_NO_ITEMS ? 0 : in->n_items;
        if (wh_unlikely(offered && !wh_link_still_offered(l, in))) {
                wh_link_skip(l, in);
                return 1;
        }
        if (wh_unlikely((!whole && in->len > m->cap_bytes) || n_items > m->cap_items))
                return does_not_fit(t, l, in, m, holder);
        wharf_name reply = WHARF_NONE;
        int r = wh_unlikely(n_items) ? wh_items_open(t, l, n_items) : 0;
        if (wh_unlikely(r < 0))
                return r;
        if (wh_unlikely(in->call && !holder) && (r = wh_reply_new(t, l, in->call, &reply)) < 0) {
                wh_moving_undo(&l->in.items);
                return r;
        }
        struct wharf_item got[WHARF_ITEMS_MAX]; /* the user's are not touched before an offer is taken */
        bool held = false;
        void *data = m->data;
        r = deliver_payload(l, in, m, holder, &held);
        if (wh_unlikely(r == 0 && n_items) && (r = wh_items_accept(t, l, n_items, offered ? got : m->items)) < 0)
                undeliver_payload(l, in, m, data);
        if (wh_unlikely(r == 0 && offered && !wh_link_claim(l, in))) {
                /* It was withdrawn, and all that is in it is its sender's: nothing of it was made ours yet. */
                undeliver_payload(l, in, m, data);
                wh_items_unaccept(t, got, n_items);
                wh_link_skip(l, in);
                r = 1;
        }
        if (wh_unlikely(r == 0 && n_items))
                wh_items_take(t, l, offered ? got : m->items, n_items);
        if (wh_unlikely(r != 0)) {
                wh_moving_undo(&l->in.items);
                if (reply)
                        wh_reply_forget(t, reply);
                return r;
        }
        if (wh_unlikely(offered && n_items))
                memcpy(m->items, got, n_items * sizeof *got);
        m->len_bytes = in->len;
        m->n_items = n_items;
        m->id = in->id;
        m->how = in->how & (uint8_t)~WH_HOW_OFFERED;
        m->reply = reply;
        m->notice = 0;
        m->about = WHARF_NONE;
        if (wh_unlikely(in->n_items && !n_items)) /* not asked for */
                wh_items_done(&l->in.items);
        if (wh_unlikely(held)) {
                wh_link_hold(l, in);
                if (l->owner)
                        wh_ref_take(&wh_owned(l)->refs);
        } else {
                wh_link_took(l, in);
        }
        return 0;
}

static void deliver_notice(struct wh_inbox *in, struct wharf_msg *m)
{
        struct wh_notice *n = wh_container(wh_list_pop_front(&in->notices), struct wh_notice, node);
        m->len_bytes = 0;
        m->n_items = 0;
        m->id = 0;
        m->reply = WHARF_NONE;
        m->notice = n->what;
        m->about = n->about;
        m->count = n->count;
        m->port = n->port;
        m->sender = WH_SENDER_UNKNOWN;
        m->sender.id = n->sender;
        m->held[0] = HELD_NOTHING;
        wh_notice_done(in->task, n);
}

enum {
        SPINS_IN_PLACE = 256, /* looks at one link, with the inbox locked: a few microseconds */
        LOOKS_AT_ONCE = 4,    /* at the socket by one call that may not wait */
        PAST = 1,             /* a deadline */
        SKIPS_MAX = 64,       /* offers that were withdrawn, passed over in one go */
};

enum { LINK_GONE = 2 };

/* Is there an item of a kind that this port does not take? */
static bool takes_no(const struct wh_port *p, const struct wh_link *l, const struct wh_incoming *inc)
{
        for (unsigned i = 0; i < inc->n_items; i++)
                if (p->kinds_refused >> (l->in.items.kind[i] & 31) & 1)
                        return true;
        return false;
}

/* One link that may have a message: 1 delivered, 0 none, LINK_GONE: and never will; negative: this call fails. */
static int try_link(struct wh_inbox *in, struct wh_link *l, struct wharf_msg *m, struct wh_incoming *inc)
{
        unsigned skipped = 0;
        inc->direct = NULL;
        if (in->direct == NULL && !(m->flags & (WHARF_RECV_IN_PLACE | WHARF_RECV_ALLOC))) {
                inc->direct = m->data;
                inc->direct_room = m->cap_bytes;
        }
        int r;
        if (wh_unlikely(l->came))
                wh_link_arrive(l);
next:
        r = wh_link_next(l, inc);
        if (wh_unlikely(l->in.direct))
                in->direct = l;
        if (wh_likely(r == 1)) {
                struct wh_port *p = wh_owned(l)->port;
                if (wh_unlikely(in->direct)) {
                        /*
                         * Another link's chunks are in the buffer that this message needs; or ours in another thread's.
                         */
                        if (in->direct != l || !l->in.stash.full || l->in.stash.bytes != m->data)
                                wh_link_privatise(in->direct);
                        in->direct = NULL;
                        if (inc->where == WH_IN_STASH) {
                                if (!l->in.stash.full) /* no memory for it: that ended the link */
                                        return 0;
                                inc->bytes = l->in.stash.bytes;
                        }
                }
                m->sender = l->who;
                m->port = atomic_load_explicit(&p->o.name, memory_order_relaxed);
                r = wh_unlikely(inc->n_items && p->kinds_refused) && takes_no(p, l, inc)
                            ? wh_trace(-EPROTO)
                            : wh_deliver(in->task, l, inc, m, WHARF_NONE);
                if (wh_unlikely(r > 0)) {
                        /* Withdrawn: to the next one, though others shall have their turn. */
                        if (wh_link_spend(l, 1 + inc->len / WH_COST_BYTES) && skipped++ < SKIPS_MAX)
                                goto next;
                        return 0;
                }
                if (wh_unlikely(r == WH_LINK_LATER || r == WH_LINK_WAITS)) {
                        wh_link_privatise(l); /* it will be another call's */
                        return 0;
                }
                if (wh_unlikely(r == -EPROTO || r == -EDQUOT || r == -EPROTONOSUPPORT)) {
                        /*
                         * A right inside is none, so nobody will ever be able to take this message: its sender lied. Or
                         * it is one call more than may wait for an answer.
                         */
                        wh_link_break(l, r);
                        wh_port_remove_link(l);
                        return LINK_GONE;
                }
                if (wh_unlikely(r < 0)) {
                        wh_link_privatise(l);
                        return r;
                }
                p->received_messages++;
                p->received_bytes += m->len_bytes;
                in->since_look++;
                wh_owned(l)->empty = 0;
                return 1;
        }
        if (wh_unlikely(r < 0)) {
                if (!l->over) {
                        m->sender = l->who; /* something of this one cannot be taken now */
                        return r;
                }
                wh_port_remove_link(l);
                return LINK_GONE;
        }
        return 0;
}

/*
 * The common message, in one piece of code: small, bytes only, from the link that was busy last, in the port's own
 * inbox. 1 delivered; 0 there is none yet; -1 something else, to be done the long way.
 */
static inline int receive_plain(struct wh_inbox *in, void *buf, size_t cap_bytes, size_t *ret_len,
                                struct wh_link **ret_link)
{
        struct wh_rec rec;
        if (wh_unlikely(wh_list_empty(&in->hot) || in->direct || !wh_list_empty(&in->notices) ||
                        (wh_unlikely(in->since_look >= in->look_at) && (in->turns.mixed || wh_inbox_look_due(in)))))
                return -1;
        for (struct wh_list *n = in->hot.next, *last = in->hot.prev;; n = in->hot.next) {
                struct wh_owned *o = wh_container(n, struct wh_owned, hot);
                struct wh_link *l = &o->link;
                if (wh_unlikely(!l->in.lane || l->over || l->in.hung_up || l->in.stash.busy))
                        return -1;
                int r = wh_ring_peek(&l->in.lane->ring, &rec);
                if (wh_unlikely(r < 0))
                        return -1;
                if (r > 0) {
                        if (wh_unlikely(rec.kind != WH_REC_PLAIN || rec.len > cap_bytes ||
                                        rec.len > l->hello.payload_bytes_max))
                                return -1;
                        wh_shm_copy(buf, rec.body, rec.len);
                        if (wh_unlikely(wh_ring_advance(&l->in.lane->ring, &rec)))
                                wh_link_bell(l);
                        l->in.seq++;
                        o->port->received_messages++;
                        o->port->received_bytes += rec.len;
                        in->since_look++;
                        *ret_len = rec.len;
                        *ret_link = l;
                }
                /* Whoever is empty, or has had its turn, goes to the back. */
                if (in->hot.next != in->hot.prev) {
                        o->empty = r ? 0 : o->empty + 1;
                        if (r == 0 || ++o->served >= WH_TURN_MSGS) {
                                o->served = 0;
                                wh_list_remove(&o->hot);
                                wh_list_push_back(&in->hot, &o->hot);
                        }
                }
                if (r > 0 || n == last)
                        return r;
        }
}

/* The hot links, round robin. 1 delivered, 0 none. */
static int try_hot(struct wh_inbox *in, struct wharf_msg *m, struct wh_incoming *inc)
{
        struct wh_list *n = in->hot.next;
        int short_of = 0;
        while (n != &in->hot) {
                struct wh_owned *o = wh_container(n, struct wh_owned, hot);
                struct wh_link *l = &o->link;
                const uint32_t before = in->budget;
                n = n->next;
                if (wh_unlikely(in->turns.mixed) && wh_turn_waits(in, l, &n))
                        continue;
                int r = try_link(in, l, m, inc);
                if (wh_likely(r == 1)) {
                        o->empty = 0;
                        /* Only one link: no turns to take. */
                        if (wh_unlikely(in->hot.next->next != &in->hot)) {
                                wh_turn_on(in, l);
                                if (++o->served >= in->turn_msgs)
                                        wh_turn_over(in, l);
                        }
                        return 1;
                }
                if (r < 0) {
                        in->since_look |= WH_LOOK_EVERY;
                        if (r != -ENOMEM && r != -ENOBUFS && r != -EMFILE) {
                                /* What this one has cannot be taken like this: the next call sees to others first. */
                                in->unfit = l;
                                return r;
                        }
                        /* ... or not now. The others may have what can be. */
                        wh_list_remove(&o->hot);
                        wh_list_push_back(&in->aside, &o->hot);
                        short_of = r;
                        if (in->budget == 0)
                                break; /* K7 */
                        continue;
                }
                if (r == LINK_GONE)
                        continue;
                o->served = 0;
                o->empty++;
                if (wh_likely(in->budget == before))
                        continue;
                if (in->budget == 0)
                        n = &in->hot; /* K7 */
                if (before - in->budget >= WH_BUDGET_TURN && wh_list_linked(&o->hot) && !l->in.waits) {
                        /* Idle ones may have sent meanwhile: their turn is before the next. */
                        in->since_look |= WH_LOOK_EVERY;
                        wh_turn_over(in, l);
                }
        }
        return short_of;
}

/* Can anything still come to this port: from a link, from one to be accepted or made, or a notice asked for? */
static bool may_come(const struct wh_port *p)
{
        return p->n_links || p->listen_fd >= 0 || p->at_door >= 0 || p->opts.flags & WHARF_PORT_STAYS ||
               atomic_load_explicit(&p->notices_due, memory_order_relaxed);
}

/*
 * No one will ever come. A right on its way in an unread message is a link as any other, since its socket is open; and
 * one that was introduced is found on the link of its introducer before that is over.
 */
static bool deserted(const struct wh_inbox *in)
{
        if (!wh_list_empty(&in->notices))
                return false;
        wh_list_for (n, &in->ports)
                if (may_come(wh_container(n, struct wh_port, in_inbox)))
                        return false;
        return true;
}

static bool still_there(const struct wh_inbox *in, const struct wh_port *p, wharf_name name)
{
        if (p)
                return atomic_load_explicit(&p->o.name, memory_order_relaxed) == name && p->inbox == in && !p->closing;
        const struct wh_set *s = wh_container(in, struct wh_set, inbox);
        return atomic_load_explicit(&s->o.name, memory_order_relaxed) == name && !s->closing;
}

/* The link that msg->from means, if it is in this inbox. */
static struct wh_link *chosen_link(struct wh_inbox *in, const struct wharf_msg *m)
{
        struct wh_link *l = (struct wh_link *)wh_table_find(&in->task->links, (uint32_t)m->from);
        if (!l || atomic_load_explicit(&l->o.name, memory_order_relaxed) != m->from || wh_owned(l)->inbox != in ||
            !wh_owned(l)->port)
                return NULL;
        return l;
}

/* Those that were laid aside are tried again, after the others. */
static void aside_back(struct wh_inbox *in)
{
        struct wh_list *n;
        while ((n = wh_list_pop_front(&in->aside))) {
                wh_list_push_back(&in->hot, n);
                wh_turn_last(in, &wh_container(n, struct wh_owned, hot)->link);
        }
}

/* The last receive could not take what one link has: all the others come before it, those too that have just sent. */
static void others_first(struct wh_inbox *in)
{
        struct wh_link *l = in->unfit;
        in->unfit = NULL;
        if (!in->leader)
                wh_inbox_look(in);
        if (wh_list_linked(&wh_owned(l)->hot) && !l->in.waits)
                wh_turn_last(in, l);
}

/*
 * There are messages, and no descriptors for what is in them. Others may send what can be taken, and nobody tells when a
 * descriptor is closed. False where this was in vain; then *r is why.
 */
static bool wait_for_more(struct wh_inbox *in, const struct wh_port *p, wharf_name name, int64_t deadline_ns, int *r)
{
        enum { AGAIN_NS = 10 * 1000 * 1000 };
        const int64_t now = deadline_ns ? wh_os_now_ns() : 0;
        if (deadline_ns <= now)
                return false;
        const int64_t again = now + AGAIN_NS;
        int waited = wh_inbox_wait(in, NULL, again < deadline_ns ? again : deadline_ns);
        *r = !still_there(in, p, name) ? -ECANCELED : waited == -ETIMEDOUT ? 0 : waited;
        if (*r < 0)
                return false;
        aside_back(in);
        return true;
}

static int receive(struct wh_inbox *in, struct wh_port *p, wharf_name name, struct wharf_msg *m, int64_t deadline_ns)
{
        struct wh_incoming inc;
        bool chosen_seen = false, armed = false;
        unsigned looks = 0;
        unsigned spins = deadline_ns && in->spin_us && in->task->spin_us_max ? SPINS_IN_PLACE : 0;
        int r;
        int short_of = 0;
        if (wh_unlikely(!wh_list_empty(&in->aside)))
                aside_back(in);
        if (wh_unlikely(atomic_load_explicit(&in->task->n_waiting, memory_order_relaxed)))
                wh_places_limits(in->task); /* places.G1 */
        in->budget = WH_BUDGET;             /* link.K7: filled again only where the deadline is looked at */
        for (;;) {
                if (wh_unlikely(in->at_door))
                        wh_inbox_open_doors(in);
                if (wh_unlikely(!wh_list_empty(&in->notices)) && !m->from) {
                        deliver_notice(in, m);
                        r = 0;
                        break;
                }
                if (wh_likely(!m->from)) {
                        if (wh_unlikely(in->unfit))
                                others_first(in);
                        if (wh_unlikely((in->since_look & ~(uint32_t)WH_LOOK_MIXED) >= in->look_at) && !in->leader &&
                            wh_inbox_look_due(in))
                                wh_inbox_look(in);
                        r = try_hot(in, m, &inc);
                } else {
                        struct wh_link *l = chosen_link(in, m);
                        if (!l) {
                                r = chosen_seen ? -ENOTCONN : -ENOENT;
                                break;
                        }
                        chosen_seen = true;
                        r = try_link(in, l, m, &inc);
                        if (r == LINK_GONE || (r == 0 && !chosen_link(in, m)))
                                continue;
                }
                if (wh_unlikely(r < 0 && r != -EOVERFLOW && !m->from)) {
                        if (!short_of) {
                                short_of = r; /* of the others, those too that have sent since epoll was last asked */
                                continue;
                        }
                        if (r == -EMFILE)
                                r = 0;
                }
                if (wh_likely(r != 0)) {
                        r = r == 1 ? 0 : r;
                        break;
                }
                if (wh_unlikely(!m->from && deserted(in))) {
                        r = -ENOTCONN;
                        break;
                }
                if (spins && in->budget && !m->from && !in->leader) {
                        /* As in wharf_recv(): a while right here, for as long as there is a budget for what is no message. */
                        while (spins && !wh_inbox_has_message(in)) {
                                spins--;
                                wh_relax();
                        }
                        if (spins && spins--)
                                continue;
                }
                if (wh_unlikely(short_of)) {
                        r = short_of;
                        if (r != -EMFILE || !wait_for_more(in, p, name, deadline_ns, &r))
                                break;
                        short_of = 0;
                        in->budget = WH_BUDGET;
                        continue;
                }
                if (wh_unlikely(deadline_ns == 0 && looks++ == LOOKS_AT_ONCE)) {
                        r = -EAGAIN; /* something comes all the time, and none of it is a message */
                        break;
                }
                bool more = false;
                if (wh_ports_gone(in->task)) { /* they are of no inbox that anybody waits for */
                        wh_unlock(&in->lock);
                        more = wh_ports_clear(in->task);
                        wh_lock(&in->lock);
                }
                r = wh_inbox_wait(in, m->from ? chosen_link(in, m) : NULL, more && deadline_ns ? PAST : deadline_ns);
                if (wh_unlikely(more && r == -ETIMEDOUT && wh_os_now_ns() < deadline_ns))
                        r = 0;
                if (wh_unlikely(!still_there(in, p, name))) {
                        r = -ECANCELED;
                        break;
                }
                if (wh_unlikely(r == -ETIMEDOUT)) {
                        /* What came in the last moment counts. */
                        r = m->from ? 0 : try_hot(in, m, &inc);
                        if (r == 0 && m->from && chosen_link(in, m))
                                r = try_link(in, chosen_link(in, m), m, &inc);
                        r = r == LINK_GONE ? 0 : r;
                        r = r == 1 ? 0 : r == 0 ? -ETIMEDOUT : r;
                        break;
                }
                if (wh_unlikely(r < 0)) {
                        armed = r == -EAGAIN && !more;
                        break;
                }
                in->budget = WH_BUDGET;
        }
        if (wh_unlikely(!wh_list_empty(&in->aside)))
                aside_back(in);
        if (wh_unlikely(in->direct)) {
                if (in->direct->in.direct)
                        wh_link_privatise(in->direct);
                in->direct = NULL;
        }
        if (wh_unlikely(p && p->status && r == 0))
                wh_port_tell_received(p);
        wh_inbox_leave(in, armed);
        return r;
}

int wh_receive_check(const struct wharf_msg *m)
{
        if (!m)
                return wh_fail_null("msg");
        if (m->size != sizeof *m)
                return wh_fail(-EINVAL, "wharf_msg.size is %u, expected %zu", m->size, sizeof *m);
        if (!m->data && m->cap_bytes && !(m->flags & (WHARF_RECV_IN_PLACE | WHARF_RECV_ALLOC)))
                return wh_fail_nowhere("wharf_msg.data", m->cap_bytes);
        if (!m->items && m->cap_items)
                return wh_fail_nowhere("wharf_msg.items", m->cap_items);
        return 0;
}

/* Why nothing was received. */
static int receive_failed(int err, const struct wharf_msg *m)
{
        switch (err) {
        case -EAGAIN:
                return wh_fail_plain(err, "no message is there, and the deadline is 0");
        case -ETIMEDOUT:
                return wh_fail_plain(err, "no message came until the deadline");
        case -ECANCELED:
                return wh_fail_plain(err, "what was received from was dropped, or moved, meanwhile");
        case -ENOENT:
                return wh_fail(err, "%" PRIu64 " is no sender of this port", m->from);
        case -EOVERFLOW:
                if (m->flags & WHARF_RECV_NO_ITEMS)
                        return wh_fail(err, "the message has %zu bytes, and there is room for %zu", m->len_bytes,
                                       m->cap_bytes);
                return wh_fail(err, "the message has %zu bytes and %u rights, and there is room for %zu and %u",
                               m->len_bytes, m->n_items, m->cap_bytes, m->cap_items);
        default:
                return wh_fail(err, NULL);
        }
}

WHARF_API int wharf_recvmsg(wharf_task *t, wharf_name name, struct wharf_msg *m, int64_t deadline_ns)
{
        int r;
        struct wh_port *p;
        if (wh_unlikely((r = wh_receive_check(m)) < 0))
                return r;
        struct wh_inbox *in = wh_inbox_lock(t, name, &p, &r);
        if (wh_unlikely(!in))
                return wh_fail_at(t, r, name);
        const bool drops = m->flags & WHARF_RECV_DROP_UNFIT;
        if (wh_unlikely(drops))
                m->reply = WHARF_NONE;
        r = receive(in, p, name, m, deadline_ns);
        wh_unlock(&in->lock);
        if (wh_likely(r == 0))
                return 0;
        if (wh_unlikely(drops && r == -EOVERFLOW && m->reply)) {
                wharf_drop(t, m->reply); /* who waits for the answer learns that there is none */
                m->reply = WHARF_NONE;
        }
        return receive_failed(r, m);
}

/* The long way of wharf_recv(): whatever it is that comes. */
static ssize_t receive_bytes(wharf_task *t, wharf_name name, void *buf, size_t cap_bytes, struct wharf_sender *sender,
                             int64_t deadline_ns)
{
        struct wharf_msg m;
        m.size = sizeof m;
        m.flags = WHARF_RECV_NO_ITEMS;
        m.data = buf;
        m.cap_bytes = cap_bytes;
        m.items = NULL;
        m.cap_items = 0;
        m.from = 0;
        do {
                int r = wharf_recvmsg(t, name, &m, deadline_ns);
                if (wh_unlikely(r == -EOVERFLOW) && sender)
                        *sender = m.sender;
                if (wh_unlikely(r < 0))
                        return r;
        } while (wh_unlikely(m.notice)); /* nobody asked this call for notices */
        if (wh_unlikely(m.reply))
                wharf_drop(t, m.reply);
        if (sender)
                *sender = m.sender;
        return (ssize_t)m.len_bytes;
}

WHARF_API ssize_t wharf_recv(wharf_task *t, wharf_name name, void *buf, size_t cap_bytes, struct wharf_sender *sender,
                             int64_t deadline_ns)
{
        if (wh_unlikely(!buf && cap_bytes))
                return wh_fail_nowhere("buf", cap_bytes);
        int err;
        struct wh_port *p;
        struct wh_inbox *in = wh_inbox_lock(t, name, &p, &err);
        if (wh_unlikely(!in))
                return wh_fail_at(t, err, name);
        size_t len = 0;
        struct wh_link *l = NULL;
        /* Spin right here for a few microseconds, before the long way, which can do everything and takes longer. */
        unsigned spins = deadline_ns && (in->spin_us && t->spin_us_max) && !in->leader ? SPINS_IN_PLACE : 0;
        for (;;) {
                int r = receive_plain(in, buf, cap_bytes, &len, &l);
                if (wh_likely(r > 0)) {
                        if (sender)
                                *sender = l->who;
                        wh_inbox_leave(in, false);
                        wh_unlock(&in->lock);
                        return (ssize_t)len;
                }
                if (r < 0 || spins-- == 0)
                        break;
                wh_relax();
        }
        wh_unlock(&in->lock);
        return receive_bytes(t, name, buf, cap_bytes, sender, deadline_ns);
}

/* ---- giving back ---- */

/* Lock the inbox of an owner's end that a held payload keeps alive; its port may be closed, or in a set by now. */
static struct wh_inbox *held_lock(wharf_task *t, uint32_t id, struct wh_link **ret)
{
        for (;;) {
                struct wh_link *l = (struct wh_link *)wh_table_find(&t->links, id);
                if (!l || atomic_load_explicit(&l->o.name, memory_order_relaxed) != id)
                        return NULL;
                struct wh_inbox *in = wh_owned(l)->inbox;
                if (!in)
                        return NULL; /* freed just now, and being made anew */
                wh_lock(&in->lock);
                if (wh_owned(l)->inbox == in && atomic_load_explicit(&l->o.name, memory_order_relaxed) != id) {
                        wh_unlock(&in->lock);
                        return NULL;
                }
                if (wh_owned(l)->inbox == in) {
                        *ret = l;
                        return in;
                }
                wh_unlock(&in->lock);
        }
}

/* What is held keeps its lane, so there is one. True when the sender waits for the room. */
static bool release_held(struct wh_link *l, const struct wharf_msg *m)
{
        struct wh_lane_rx *rx = wh_link_lane(l, (uint32_t)m->held[3]);
        if (wh_unlikely(!rx))
                return false;
        rx->blocks_held--;
        bool wanted = wh_lane_release(rx, (uint16_t)m->held[2]);
        wh_link_unheld(l, rx);
        return wanted;
}

WHARF_API void wharf_release(wharf_task *t, struct wharf_msg *m)
{
        if (!m)
                return;
        uint64_t kind = m->held[0], slot = m->held[2];
        struct wh_link *l;
        int err;
        m->held[0] = HELD_NOTHING;
        switch (kind) {
        case HELD_NOTHING:
                return;
        case HELD_MALLOC:
                free(m->data);
                break;
        case HELD_MAP:
                wh_os_munmap(m->data, m->held[2]);
                break;
        case HELD_WINDOW:
                l = wh_holder_lock(t, (wharf_name)m->held[1], &err);
                if (!l) {
                        wh_os_munmap(m->data, m->held[2]);
                        break;
                }
                wh_window_give(l, m->data, m->held[2]);
                wh_unlock(&l->o.lock);
                break;
        case HELD_OWNER_BLOCK: {
                if (!wh_task_ours(t))
                        break;
                struct wh_inbox *in = held_lock(t, (uint32_t)m->held[1], &l);
                if (!in)
                        break;
                if (release_held(l, m) && l->sock >= 0)
                        wh_link_bell(l);
                wh_link_unref(l);
                wh_unlock(&in->lock);
                break;
        }
        case HELD_HOLDER_BLOCK:
        case HELD_RESERVED:
                l = wh_holder_lock(t, (wharf_name)m->held[1], &err);
                if (!l)
                        break; /* the right was dropped, and its memory with it */
                if (kind == HELD_RESERVED)
                        wh_lane_unlend(l->out.lane, (uint16_t)slot);
                else if (release_held(l, m))
                        wh_link_bell(l);
                wh_unlock(&l->o.lock);
                break;
        }
        m->data = NULL;
}

WHARF_API int wharf_sender_pidfd(wharf_task *t, uint64_t sender_id, int *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        struct wh_link *l;
        struct wh_inbox *in = held_lock(t, (uint32_t)sender_id, &l);
        if (!in || !wh_owned(l)->port) {
                if (in)
                        wh_unlock(&in->lock);
                return wh_fail(-ENOENT, "%" PRIu64 " is no sender here, or not any more", sender_id);
        }
        int r = wh_link_pidfd(l, ret);
        wh_unlock(&in->lock);
        return r < 0 ? wh_fail(r, NULL) : 0;
}
