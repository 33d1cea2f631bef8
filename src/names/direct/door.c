/*
 * door - the port that a name leads to. What comes there is of the directory, of the system, or a hello, which is a claim
 * until it has been judged (D1).
 */
#include "names/direct/direct.h"

#include "base/trace.h"
#include "message/items.h"
#include "port/port.h"
#include "task/why.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
        INLETS_MAX = 4096, /* links to this process */
        LINKS_MAX = 4,     /* ... of one registration, of which three wait to be read to their end */
};

/* Is the claim true (D1)? */
static bool claim_holds(struct wharf_direct *d, const struct claim *c)
{
        const struct known *k = wh_known_find(d, c->name, c->id);
        return k && wh_known_surely(c->sender.known) && c->sender.introducer.known == WHARF_KNOWN_NOBODY &&
               c->sender.pid > 0 && k->pid == c->sender.pid && k->uid == c->sender.uid;
}

/*
 * Has this user as many inlets as it may have: half of what others leave? A process of our own user has no share, as
 * everywhere (account.h).
 */
static bool has_its_share(const struct wharf_direct *d, uid_t uid)
{
        unsigned has = 0;
        if (uid == d->task->accounts.self)
                return false;
        wh_list_for (pos, &d->inlets.all)
                has += wh_container(pos, struct inlet, e.node)->uid == uid;
        return has >= (INLETS_MAX - (d->n_inlets - has)) / 2;
}

/* The claim's port becomes an inlet; on failure it is still the claim's. */
static int claim_accept(struct wharf_direct *d, struct claim *c)
{
        struct inlet *before = wh_inlet_find(&d->inlets, NULL, c->name);
        unsigned links = 0;
        for (struct inlet *in = before; in; in = wh_inlet_find(&d->inlets, in, c->name))
                links += in->id == c->id;
        if (links >= LINKS_MAX)
                return -EEXIST;
        if (d->n_inlets == INLETS_MAX || has_its_share(d, c->sender.uid))
                return -EMLINK;
        struct inlet *in = wh_os_calloc(1, sizeof *in);
        if (!in)
                return wh_trace(-ENOMEM);
        /* Its maker chose the options: it must not have chosen that waiting for the dead never ends. */
        int r;
        struct wh_port *port = wh_port_lock(d->task, c->port, &r);
        if (port) {
                port->opts.flags &= ~(uint32_t)WHARF_PORT_STAYS;
                wh_unlock(&port->inbox->lock);
        }
        r = wharf_notify(d->task, WHARF_NOTICE_NO_SENDERS, c->port, d->door, 0);
        if (r < 0) {
                free(in);
                return r;
        }
        in->port = c->port;
        in->id = c->id;
        in->uid = c->sender.uid;
        in->follows = before;
        strcpy(in->e.name, c->name);
        wh_roll_push(&d->inlets, &in->e);
        wh_list_push_back(wh_inlets_at(d, in->port), &in->by_port);
        d->placed &= in->follows;
        d->n_inlets++;
        d->n_following += in->follows;
        if (in->follows)
                d->before_left = d->n_inlets;
        c->port = WHARF_NONE;
        struct inlet *gone = wh_inlet_find(&d->inlets_gone, NULL, in->e.name);
        if (gone && gone->id == in->id)
                wh_inlet_gone_free(d, gone); /* it is not: its link was lost, and this is the next */
        return 0;
}

void wh_claim_free(struct wharf_direct *d, struct claim *c)
{
        wh_list_remove(&c->node);
        wharf_drop(d->task, c->port);
        free(c);
}

/*
 * Judges all claims. A claim that cannot be judged for want of something stays, and the error is returned; one that
 * does not hold stays until the door has been read to its end (`drained`), and if that never is, since somebody keeps
 * it busy, the directory is asked now and then. Those that there is no time for stay as well. -EAGAIN: the directory does
 * not answer.
 */
static int claims_judge(struct wharf_direct *d, bool drained, bool waits, struct work *w)
{
        enum { IN_VAIN_MAX = 16 };
        bool asked = false, late = false, judged = false;
        wh_list_for_safe (pos, &d->claims) {
                if (judged && w->deadline_ns && is_over(w->deadline_ns))
                        break;
                struct claim *c = wh_container(pos, struct claim, node);
                bool holds = claim_holds(d, c);
                if (!holds && !drained && ++c->judged % DOOR_TURN)
                        continue;
                if (!holds && !asked) {
                        int r = wh_known_ask(d, waits, w->deadline_ns);
                        if (r < 0 && r != -EAGAIN)
                                return r;
                        late = r < 0;
                        asked = true;
                        holds = claim_holds(d, c);
                }
                if (!holds && (!drained || (late && ++c->in_vain < IN_VAIN_MAX)))
                        continue; /* those behind it may hold */
                int r = holds ? claim_accept(d, c) : 0;
                if (r == -ENOMEM || r == -EMFILE || r == -ENFILE || r == -ENOSPC)
                        return wh_fail(r, NULL);
                if (!holds) /* each lie costs a look-up */
                        wharf_revoke(d->task, d->door, c->sender.id, 0);
                wh_claim_free(d, c);
                judged = true;
        }
        return late ? -EAGAIN : 0;
}

/* A hello becomes a claim, which takes its port. There is memory for it before the hello is received. */
static void claim_new(struct wharf_direct *d, const struct wharf_msg *m)
{
        struct claim *c = d->spare;
        d->spare = NULL;
        memcpy(&c->id, m->data, sizeof c->id);
        memcpy(c->name, (const char *)m->data + HELLO_HEAD, m->len_bytes - HELLO_HEAD);
        c->port = m->items[0].name;
        c->sender = m->sender;
        wh_list_push_back(&d->claims, &c->node);
}

/* Only one claim for each right waits to be judged, so that those who say much cost no more than others. */
static bool claim_waits(struct wharf_direct *d, uint64_t sender_id)
{
        wh_list_for (pos, &d->claims)
                if (wh_container(pos, struct claim, node)->sender.id == sender_id)
                        return true;
        return false;
}

int wh_door_take(struct wharf_direct *d, int64_t deadline_ns)
{
        uint8_t buf[DOOR_BYTES_MAX];
        struct wharf_item items[1]; /* what brings more is dropped, and not looked into */
        struct wharf_msg m = {.size = sizeof m,
                              .flags = WHARF_RECV_DROP_UNFIT,
                              .data = buf,
                              .cap_bytes = sizeof buf,
                              .items = items,
                              .cap_items = 1};
        struct wharf_name_event event;
        if (!d->spare && !(d->spare = wh_os_calloc(1, sizeof *d->spare)))
                return wh_fail(wh_trace(-ENOMEM), NULL);
        int r = wharf_recvmsg(d->task, d->door, &m, deadline_ns);
        if (r < 0)
                return r == -EOVERFLOW ? 0 : r;
        if (m.notice == WHARF_NOTICE_NO_SENDERS) {
                struct inlet *in = wh_inlet_of(d, m.about);
                if (in)
                        wh_inlet_end(d, in);
        } else if (wharf_names_event(d->task, &m, &event) == 0) {
                r = wh_known_event(d, &event);
        } else if (m.id == HELLO_ID && m.n_items == 1 && items[0].kind == WHARF_GOT_RECEIVE &&
                   m.len_bytes > HELLO_HEAD && m.len_bytes <= sizeof(struct hello) && !claim_waits(d, m.sender.id)) {
                claim_new(d, &m);
                items[0].kind = 0;
        }
        wh_items_drop(d->task, items, m.n_items);
        if (m.reply != WHARF_NONE)
                wharf_drop(d->task, m.reply);
        return r < 0 ? wh_fail(r, NULL) : 0;
}

int wh_door_serve(struct wharf_direct *d, bool waits, struct work *w)
{
        bool some = !wh_list_empty(&d->claims);
        int r = some ? 0 : wh_door_take(d, waits ? w->deadline_ns : 0), drained = 0;
        for (unsigned i = 0; r == 0 && i < DOOR_TURN && (i == 0 || !work_ends(w)); i++) {
                some = true;
                work_spend(w, 1);
                r = wh_door_take(d, 0);
                if (r != -EAGAIN || wh_list_empty(&d->claims))
                        continue;
                drained = wh_direct_is_drained(d, d->door);
                if (drained == 0) {
                        work_spend(w, WORK_IN_VAIN);
                        r = 0;
                }
        }
        int judged = drained < 0 ? drained : claims_judge(d, drained, waits, w);
        return judged == -EAGAIN && r == 0 ? 0 : judged < 0 ? judged : some && r == -EAGAIN ? 0 : r;
}
