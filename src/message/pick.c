/*
 * Which link the next message is taken from: one of an inbox that has something, in turns.
 *
 * Always true:
 *   - One call reads of a link what its budget allows (link.K7), and of no message more than one.
 *   - A link whose next message cannot be taken now is laid aside, or the others come before it: it keeps none of them
 *     waiting.
 *   - Whoever breaks the protocol in what is delivered loses its link, and the receive goes on.
 */
#include "message/deliver.h"
#include "message/move.h"
#include "message/pick.h"
#include "port/owned.h"
#include "port/port.h"

#include "base/trace.h"

#include <errno.h>

enum { SKIPS_MAX = 64 }; /* offers that were withdrawn, passed over in one go */

/* Is there an item of a kind that this port does not take? */
static bool takes_no(const struct wh_port *p, const struct wh_link *l, const struct wh_incoming *inc)
{
        for (unsigned i = 0; i < inc->n_items; i++)
                if (p->kinds_refused >> (l->in.items.kind[i] & 31) & 1)
                        return true;
        return false;
}

/*
 * What is in the running receive's buffer stays there only where it is this very message. False: there was no memory for
 * it, which ended the link.
 */
static bool direct_settled(struct wh_inbox *in, struct wh_link *l, const struct wharf_msg *m, struct wh_incoming *inc)
{
        /* Another link's chunks are in the buffer that this message needs; or ours in another thread's. */
        if (in->direct != l || !l->in.stash.full || l->in.stash.bytes != m->data)
                wh_link_privatise(in->direct);
        in->direct = NULL;
        if (inc->where != WH_IN_STASH)
                return true;
        inc->bytes = l->in.stash.bytes;
        return l->in.stash.full;
}

/* What it means that it could not be delivered, for `err`: as wh_pick_link(). */
static int not_delivered(struct wh_link *l, int err)
{
        switch (err) {
        case WH_LINK_LATER:
        case WH_LINK_WAITS:
                wh_link_privatise(l); /* it will be another call's */
                return 0;
        case -EPROTO:
        case -EDQUOT:
        case -EPROTONOSUPPORT:
                /*
                 * A right inside is none, so nobody will ever be able to take this message: its sender lied. Or it is one
                 * call more than may wait for an answer.
                 */
                wh_link_break(l, err);
                wh_port_remove_link(l);
                return WH_PICK_GONE;
        default:
                wh_link_privatise(l);
                return err;
        }
}

int wh_pick_link(struct wh_inbox *in, struct wh_link *l, struct wharf_msg *m, struct wh_incoming *inc)
{
        inc->direct = NULL;
        if (in->direct == NULL && !(m->flags & (WHARF_RECV_IN_PLACE | WHARF_RECV_ALLOC))) {
                inc->direct = m->data;
                inc->direct_room = m->cap_bytes;
        }
        if (wh_unlikely(l->came))
                wh_link_arrive(l);
        for (unsigned skipped = 0;; skipped++) {
                int r = wh_link_next(l, inc);
                if (wh_unlikely(l->in.direct))
                        in->direct = l;
                if (wh_unlikely(r < 0 && l->over)) {
                        wh_port_remove_link(l);
                        return WH_PICK_GONE;
                }
                if (wh_unlikely(r < 0))
                        m->sender = l->who; /* something of this one cannot be taken now */
                if (r != 1 || (wh_unlikely(in->direct) && !direct_settled(in, l, m, inc)))
                        return r < 0 ? r : 0;
                struct wh_port *p = wh_owned(l)->port;
                m->sender = l->who;
                m->port = atomic_load_explicit(&p->o.name, memory_order_relaxed);
                r = wh_unlikely(inc->n_items && p->kinds_refused) && takes_no(p, l, inc)
                            ? wh_trace(-EPROTO)
                            : wh_deliver(in->task, l, inc, NULL, m, WHARF_NONE);
                if (wh_likely(r == 0)) {
                        p->received_messages++;
                        p->received_bytes += m->len_bytes;
                        in->since_look++;
                        wh_owned(l)->empty = 0;
                        return 1;
                }
                if (r < 0)
                        return not_delivered(l, r);
                /* Withdrawn: to the next one, though others shall have their turn. */
                if (!wh_link_spend(l, 1 + inc->len / WH_COST_BYTES) || skipped == SKIPS_MAX)
                        return 0;
        }
}

int wh_pick_hot(struct wh_inbox *in, struct wharf_msg *m, struct wh_incoming *inc)
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
                int r = wh_pick_link(in, l, m, inc);
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
                if (r == WH_PICK_GONE)
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

struct wh_link *wh_pick_chosen(struct wh_inbox *in, const struct wharf_msg *m)
{
        struct wh_link *l = (struct wh_link *)wh_table_find(&in->task->links, (uint32_t)m->from);
        return l && wh_owned(l)->inbox == in && wh_owned(l)->port && l->who.id == m->from ? l : NULL;
}

void wh_pick_aside_back(struct wh_inbox *in)
{
        struct wh_list *n;
        while ((n = wh_list_pop_front(&in->aside))) {
                struct wh_link *l = &wh_container(n, struct wh_owned, hot)->link;
                wh_turn_first(in, l); /* since those that became hot meanwhile may be another user's */
                wh_turn_last(in, l);
        }
}

void wh_pick_others_first(struct wh_inbox *in)
{
        struct wh_link *l = in->unfit;
        in->unfit = NULL;
        if (!in->leader)
                wh_inbox_look(in);
        if (wh_list_linked(&wh_owned(l)->hot) && !l->in.waits)
                wh_turn_last(in, l);
}
