/*
 * Receiving: the public calls, from a port or from a set of ports.
 *
 * Always true:
 *   - A small message from the link that was busy last is received by receive_plain() alone, inside wharf_recv(). That
 *     does nothing for which a call, a wait or memory would be needed; everything else is done in the long way, receive().
 *   - A call looks at its deadline each time that a budget is used up (link.K7), whatever comes meanwhile.
 *   - When it returns, nothing of it is left in the inbox: no link is aside, and nobody writes into the user's buffer.
 */
#include "message/deliver.h"
#include "message/move.h"
#include "message/pick.h"
#include "message/receive.h"
#include "port/owned.h"
#include "port/places.h"
#include "port/port.h"
#include "right/calls.h"
#include "task/why.h"

#include "os/os.h"

#include <errno.h>
#include <limits.h>
#include <inttypes.h>

enum {
        SPINS_IN_PLACE = 256, /* looks at one link, with the inbox locked: a few microseconds */
        LOOKS_AT_ONCE = 4,    /* at the socket by one call that may not wait */
        PAST = 1,             /* a deadline */
};

/* A call that was finished meanwhile, or whose right is gone, has nothing to tell. */
static bool is_told(wharf_task *t, const struct wh_notice *n)
{
        int err;
        if (n->what != WHARF_NOTICE_REPLY)
                return true;
        struct wh_link *l = wh_holder_lock(t, n->about, &err);
        const bool is = l && wh_call_find(l, n->call);
        if (l)
                wh_unlock(&l->o.lock);
        return is;
}

/* 1, or 0: there was none that anybody is to be told of. */
static int deliver_notice(struct wh_inbox *in, struct wharf_msg *m)
{
        struct wh_notice *n;
        for (;;) {
                struct wh_list *first = wh_list_pop_front(&in->notices);
                if (!first)
                        return 0;
                n = wh_container(first, struct wh_notice, node);
                if (wh_likely(is_told(in->task, n)))
                        break;
                wh_notice_done(in->task, n);
        }
        m->len_bytes = 0;
        m->n_items = 0;
        m->id = 0;
        m->reply = WHARF_NONE;
        m->notice = n->what;
        m->about = n->about;
        m->count = n->count;
        m->call = n->call;
        m->error = n->error;
        m->port = n->port;
        m->sender = WH_SENDER_UNKNOWN;
        m->sender.id = n->sender;
        m->held[0] = WH_HELD_NOTHING;
        wh_notice_done(in->task, n);
        return 1;
}

/*
 * The common message, in one piece of code: small, bytes only, from the link that was busy last, in the port's own
 * inbox. 1 delivered; 0 there is none yet; -1 something else, to be done the long way.
 */
static inline __attribute__((always_inline)) int receive_plain(struct wh_inbox *in, void *buf, size_t cap_bytes,
                                                               size_t *ret_len, struct wh_link **ret_link)
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
        wh_pick_aside_back(in);
        return true;
}

/* One look at all that there may be, or at the link that was asked for: 1 delivered, 0 none; negative: none, and why. */
static int look(struct wh_inbox *in, struct wharf_msg *m, struct wh_incoming *inc, bool *chosen_seen)
{
        if (wh_unlikely(in->at_door))
                wh_inbox_open_doors(in);
        if (wh_likely(!m->from)) {
                if (wh_unlikely(!wh_list_empty(&in->notices)) && deliver_notice(in, m))
                        return 1;
                if (wh_unlikely(in->unfit))
                        wh_pick_others_first(in);
                if (wh_unlikely((in->since_look & ~(uint32_t)WH_LOOK_MIXED) >= in->look_at) && !in->leader &&
                    wh_inbox_look_due(in))
                        wh_inbox_look(in);
                return wh_pick_hot(in, m, inc);
        }
        struct wh_link *l = wh_pick_chosen(in, m);
        if (!l)
                return *chosen_seen ? -ENOTCONN : -ENOENT;
        *chosen_seen = true;
        int r = wh_pick_link(in, l, m, inc);
        return r == WH_PICK_GONE || (r == 0 && !wh_pick_chosen(in, m)) ? -ENOTCONN : r;
}

/* What came in the last moment counts. */
static int last_look(struct wh_inbox *in, struct wharf_msg *m, struct wh_incoming *inc)
{
        struct wh_link *l = m->from ? wh_pick_chosen(in, m) : NULL;
        int r = !m->from ? wh_pick_hot(in, m, inc) : l ? wh_pick_link(in, l, m, inc) : 0;
        return r == 0 || r == WH_PICK_GONE ? -ETIMEDOUT : r;
}

/* Until something may have come: 0, or as look(). *ret_armed: nothing is there, and whatever comes rings. */
static int wait_for_any(struct wh_inbox *in, const struct wh_port *p, wharf_name name, struct wharf_msg *m,
                        struct wh_incoming *inc, int64_t deadline_ns, bool *ret_armed)
{
        bool more = false;
        if (wh_ports_gone(in->task)) { /* they are of no inbox that anybody waits for */
                in->waiters++;         /* who closes the port waits for us */
                wh_unlock(&in->lock);
                more = wh_ports_clear(in->task);
                wh_lock(&in->lock);
                in->waiters--;
                if (wh_unlikely(!still_there(in, p, name)))
                        return -ECANCELED;
        }
        int r = wh_inbox_wait(in, m->from ? wh_pick_chosen(in, m) : NULL, more && deadline_ns ? PAST : deadline_ns);
        if (wh_unlikely(more && r == -ETIMEDOUT && wh_os_now_ns() < deadline_ns))
                r = 0;
        if (wh_unlikely(!still_there(in, p, name)))
                return -ECANCELED;
        *ret_armed = r == -EAGAIN && !more;
        return wh_unlikely(r == -ETIMEDOUT) ? last_look(in, m, inc) : r;
}

/* Nothing of this receive stays in the inbox. */
static void leave(struct wh_inbox *in, struct wh_port *p, bool received, bool armed)
{
        if (wh_unlikely(!wh_list_empty(&in->aside)))
                wh_pick_aside_back(in);
        if (wh_unlikely(in->direct)) {
                if (in->direct->in.direct)
                        wh_link_privatise(in->direct);
                in->direct = NULL;
        }
        if (wh_unlikely(p && p->status && received))
                wh_port_tell_received(p);
        wh_inbox_leave(in, armed);
}

static int receive(struct wh_inbox *in, struct wh_port *p, wharf_name name, struct wharf_msg *m, int64_t deadline_ns)
{
        struct wh_incoming inc;
        bool chosen_seen = false, armed = false;
        unsigned looks = 0;
        unsigned spins = deadline_ns && in->spin_us && in->task->spin_us_max ? SPINS_IN_PLACE : 0;
        int r, short_of = 0;
        if (wh_unlikely(!wh_list_empty(&in->aside)))
                wh_pick_aside_back(in);
        if (wh_unlikely(atomic_load_explicit(&in->task->n_waiting, memory_order_relaxed)))
                wh_places_limits(in->task); /* places.G1 */
        in->budget = WH_BUDGET;             /* link.K7: filled again only where the deadline is looked at */
        while ((r = look(in, m, &inc, &chosen_seen)) <= 0) {
                if (wh_unlikely(r < 0 && r != -EOVERFLOW && !m->from)) {
                        if (!short_of) {
                                short_of = r; /* of the others, those too that have sent since epoll was last asked */
                                continue;
                        }
                        if (r == -EMFILE)
                                r = 0;
                }
                if (r == 0 && wh_unlikely(!m->from && deserted(in)))
                        r = -ENOTCONN;
                if (r < 0)
                        break;
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
                r = wait_for_any(in, p, name, m, &inc, deadline_ns, &armed);
                if (wh_unlikely(r != 0))
                        break;
                in->budget = WH_BUDGET;
        }
        r = r > 0 ? 0 : r;
        leave(in, p, r == 0, armed);
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

/* One more of what is there already. 1; otherwise there is none for this call. */
static int receive_more(struct wh_inbox *in, struct wharf_msg *m)
{
        struct wh_incoming inc;
        struct wh_link *l = NULL;
        bool seen = true;
        if (!m->from && !(m->flags & (WHARF_RECV_IN_PLACE | WHARF_RECV_ALLOC)) &&
            receive_plain(in, m->data, m->cap_bytes, &m->len_bytes, &l) == 1) {
                m->n_items = m->id = 0;
                m->how = WHARF_HOW_INLINE;
                m->reply = m->about = WHARF_NONE;
                m->notice = m->call = 0;
                m->error = 0;
                m->sender = l->who;
                m->port = atomic_load_explicit(&wh_owned(l)->port->o.name, memory_order_relaxed);
                m->held[0] = WH_HELD_NOTHING;
                return 1;
        }
        if (!in->budget)
                return 0;
        const uint32_t flags = m->flags;
        m->flags &= ~(uint32_t)WHARF_RECV_DROP_UNFIT; /* it stays, for a call that can say whose was dropped */
        const int r = look(in, m, &inc, &seen);
        m->flags = flags;
        return r;
}

WHARF_API int wharf_recvmany(wharf_task *t, wharf_name name, struct wharf_msg *msgs, unsigned n, int64_t deadline_ns)
{
        int r;
        unsigned done = 0;
        struct wh_port *p;
        wharf_name reply = WHARF_NONE;
        if (!msgs)
                return wh_fail_null("msgs");
        if (n == 0 || n > INT_MAX)
                return wh_fail(-EINVAL, "n is %u", n);
        for (unsigned i = 0; i < n; i++)
                if ((r = wh_receive_check(&msgs[i])) < 0)
                        return r;
        struct wh_inbox *in = wh_inbox_lock(t, name, &p, &r);
        if (wh_unlikely(!in))
                return wh_fail_at(t, r, name);
        msgs[0].reply = WHARF_NONE;
        r = receive(in, p, name, &msgs[0], deadline_ns);
        for (done = r == 0; done && done < n; done++) {
                msgs[done].reply = WHARF_NONE;
                if ((r = receive_more(in, &msgs[done])) <= 0)
                        break;
        }
        if (r == -EOVERFLOW && msgs[done].flags & WHARF_RECV_DROP_UNFIT)
                reply = msgs[done].reply;
        if (done)
                leave(in, p, true, false);
        wh_unlock(&in->lock);
        if (reply != WHARF_NONE) {
                wharf_drop(t, reply); /* who waits for the answer learns that there is none */
                msgs[done].reply = WHARF_NONE;
        }
        return done ? (int)done : receive_failed(r, &msgs[0]);
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
