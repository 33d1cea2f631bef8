/*
 * receive - receiving from one peer by its name, or from anyone. One thread at a time does (D3), for a bounded time
 * between two looks at its deadline (D5).
 */
#include "message/receive.h"
#include "names/direct/direct.h"

#include "right/right.h"
#include "task/why.h"

#include <errno.h>
#include <string.h>

#define SHORT_NS ((int64_t)10 * 1000000) /* where there are no descriptors, before the same is tried again */

/* Where a message is received from: an inlet alone, or the set of all. */
static int inlet_place(struct wharf_direct *d, struct inlet *in, bool in_set)
{
        if (in->in_set == in_set)
                return 0;
        int r = in_set ? wharf_set_add(d->task, d->set, in->port) : wharf_set_remove(d->task, d->set, in->port);
        if (r == 0) {
                in->in_set = in_set;
                d->placed &= in_set;
        }
        return r;
}

/* `peer` has gone, and that is told now. */
static int peer_gone(struct wharf_direct *d, const char *peer, uint64_t id)
{
        wh_known_told(d, peer, id);
        return wh_fail(-ENOTCONN, "%s has left, or died", peer);
}

/*
 * Another inlet follows this one. One receive from it; or it ends, if all was received: -ENOTCONN. It is in no set then.
 * -EAGAIN: it may have more than was looked at.
 */
static int recv_before(struct wharf_direct *d, struct inlet *in, struct wharf_msg *m)
{
        int fd, r = inlet_place(d, in, false);
        if (r == 0) /* first of all, or the receive leaves it as it was: ready */
                r = wharf_port_fd(d->task, in->port, &fd);
        if (r == 0)
                r = wharf_recvmsg(d->task, in->port, m, 0);
        if (r == -EAGAIN) {
                int drained = wh_direct_is_drained(d, in->port);
                r = drained < 0 ? wh_fail(drained, NULL) : drained > 0 ? -ENOTCONN : r;
        }
        if (r == -ENOTCONN)
                wh_inlet_end(d, in);
        return r;
}

/* The registration of this name that has ended, where none lives, and of whose end nobody was told; or NULL. */
static struct known *end_untold(struct wharf_direct *d, const char *peer)
{
        struct known *k = wh_known_living(d, peer) ? NULL : wh_known_next(&d->known_gone, peer, NULL);
        while (k && k->told)
                k = wh_known_next(&d->known_gone, peer, k);
        return k;
}

static int recv_from(struct wharf_direct *d, const char *peer, struct wharf_msg *m, int64_t deadline_ns)
{
        bool looked = false;
        struct work w = {.deadline_ns = deadline_ns, .began_ns = wh_os_now_ns(), .left = WORK_MAX};
        for (;; work_again(&w)) {
                struct inlet *in = wh_inlet_find(&d->inlets, NULL, peer), *gone = NULL;
                bool over = w.later && work_ends(&w);
                int r = 0;
                if (!in || !in->met)
                        gone = wh_inlet_find(&d->inlets_gone, NULL, peer);
                if (gone && looked) {
                        uint64_t id = gone->id;
                        wh_inlet_gone_free(d, gone);
                        return peer_gone(d, peer, id);
                }
                if (in && !gone) {
                        in->met = true;
                        if (wh_inlet_next(d, in))
                                r = recv_before(d, in, m);
                        else if ((r = inlet_place(d, in, false)) == 0 &&
                                 (r = wharf_recvmsg(d->task, in->port, m, deadline_ns)) == -ENOTCONN)
                                wh_inlet_end(d, in);
                        if (r != -ENOTCONN && (r != -EAGAIN || deadline_ns == 0))
                                return r;
                        if (over)
                                return wh_fail(deadline_ns ? -ETIMEDOUT : -EAGAIN, NULL);
                        continue;
                }
                r = wh_door_serve(d, false, &w);
                if (r < 0 && r != -EAGAIN)
                        return r;
                if (gone) { /* has it, or its name's next life, come back? */
                        looked = true;
                        continue;
                }
                if (wh_inlet_find(&d->inlets, NULL, peer))
                        continue;
                struct known *end = r == -EAGAIN ? end_untold(d, peer) : NULL;
                if (end)
                        return peer_gone(d, peer, end->id);
                if (over || (deadline_ns == 0 && r == -EAGAIN))
                        return wh_fail(deadline_ns ? -ETIMEDOUT : -EAGAIN, NULL);
                if (r == -EAGAIN && (r = wh_door_serve(d, true, &w)) < 0 && r != -EAGAIN)
                        return wh_fail(r, NULL);
        }
}

/* The first of each name is in the set. */
static int inlets_place(struct wharf_direct *d)
{
        if (d->placed)
                return 0;
        wh_list_for (pos, &d->inlets.all) {
                struct inlet *in = wh_container(pos, struct inlet, e.node);
                int r = in->follows ? 0 : inlet_place(d, in, true);
                if (r < 0)
                        return r;
        }
        d->placed = true;
        return 0;
}

/* The inlet at which the look at those that others follow goes on, which is the next one's turn then. */
static struct inlet *before_next(struct wharf_direct *d)
{
        if (d->before_at == &d->inlets.all)
                d->before_at = d->inlets.all.next;
        struct inlet *in = wh_container(d->before_at, struct inlet, e.node);
        d->before_at = d->before_at->next;
        d->before_left--;
        return in;
}

static bool is_shortage(int r)
{
        return r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS;
}

/* All that are in the set have ended, and all they sent was received. A port may have many links: the next look goes on. */
static void inlets_end(struct wharf_direct *d, struct work *w)
{
        bool first = true;
        wh_list_for_safe (pos, &d->inlets.all) {
                struct inlet *in = wh_container(pos, struct inlet, e.node);
                if (!in->in_set)
                        continue;
                if (!first && work_ends(w))
                        return;
                first = false;
                wh_inlet_end(d, in);
                work_spend(w, 1);
        }
}

/*
 * One message of an inlet that another follows. -EAGAIN: none of those that were looked at has one; then *ended says whether
 * some are read to their end, and *short_of what there was too little of to look. Each is a receive of its own, which a
 * flood makes long (D5).
 */
static int recv_followed(struct wharf_direct *d, struct wharf_msg *m, char *who, struct work *w, bool *ended,
                         int *short_of)
{
        if (d->n_following == 0 || d->before_left == 0)
                d->before_left = d->n_following ? d->n_inlets : 0;
        for (bool first = !w->later; d->n_following && d->before_left && (first || !work_ends(w));) {
                struct inlet *in = before_next(d);
                if (!in->in_set || !wh_inlet_next(d, in))
                        continue;
                first = false;
                int r = recv_before(d, in, m);
                if ((r == 0 || r == -EOVERFLOW) && who)
                        strcpy(who, in->e.name);
                if (r != -EAGAIN && r != -ENOTCONN && !is_shortage(r))
                        return r;
                *short_of = is_shortage(r) ? r : *short_of;
                *ended |= r == -ENOTCONN;
                work_spend(w, r == -ENOTCONN ? 1 : WORK_IN_VAIN);
        }
        return -EAGAIN;
}

/*
 * From whoever is in the set, without waiting; -EAGAIN: nobody has sent. If `before_left` is not 0 then, not all was looked
 * at: this is to be called again before one sleeps.
 */
static int recv_set(struct wharf_direct *d, struct wharf_msg *m, char *who, struct work *w)
{
        for (;;) {
                int r = inlets_place(d);
                if (r < 0)
                        return r;
                r = wharf_recvmsg(d->task, d->set, m, 0);
                struct inlet *from = r == 0 || r == -EOVERFLOW ? wh_inlet_of(d, m->port) : NULL;
                if (from && who)
                        strcpy(who, from->e.name);
                if (r != -EAGAIN && r != -ENOTCONN && !is_shortage(r))
                        return r;
                bool ended = r == -ENOTCONN;
                if (ended)
                        inlets_end(d, w);
                /* Those that others follow are read to their end, which also gives back what there may be too little of. */
                int short_of = is_shortage(r) ? r : 0;
                r = recv_followed(d, m, who, w, &ended, &short_of);
                if (r != -EAGAIN)
                        return r;
                if (ended) { /* what followed may have something, and be followed as well; before the door lets others in */
                        d->before_left = d->n_inlets;
                        if (w->left > WORK_IN_VAIN && !work_ends(w)) {
                                work_spend(w, WORK_IN_VAIN);
                                continue;
                        }
                }
                r = inlets_place(d); /* so that what comes there is heard of */
                return r < 0 ? r : short_of && !ended ? wh_fail(short_of, NULL) : -EAGAIN;
        }
}

static int recv_anyone(struct wharf_direct *d, struct wharf_msg *m, char *who, int64_t deadline_ns)
{
        struct pollfd p[2] = {{.events = POLLIN}, {.events = POLLIN}};
        struct work w = {.deadline_ns = deadline_ns, .began_ns = wh_os_now_ns(), .left = WORK_MAX};
        int r = wharf_port_fd(d->task, d->door, &p[0].fd);
        if (r == 0)
                r = wharf_port_fd(d->task, d->set, &p[1].fd);
        if (r == 0 && d->turn++ % DOOR_TURN == 0) /* so that busy peers do not keep others out */
                r = wh_door_serve(d, false, &w);
        for (; r == 0 || r == -EAGAIN; work_again(&w)) {
                bool over = w.later && work_ends(&w);
                r = recv_set(d, m, who, &w);
                if (r != -EAGAIN)
                        return r;
                over |= w.later && work_ends(&w);
                r = over ? -EAGAIN : wh_door_serve(d, false, &w);
                if (r < 0 && r != -EAGAIN)
                        return r;
                if (over || (deadline_ns == 0 && r == -EAGAIN && !d->before_left))
                        return wh_fail(deadline_ns ? -ETIMEDOUT : -EAGAIN, NULL);
                if (r == -EAGAIN && d->before_left) {
                        r = 0;
                } else if (r == -EAGAIN) { /* a set without ports would seem ready: nothing can come there */
                        /* A claim that the directory did not answer for is judged again a little later. */
                        int64_t again_ns = wh_list_empty(&d->claims) ? WH_NEVER : wh_os_now_ns() + ASK_NS;
                        r = wh_os_poll(p, d->n_inlets ? 2 : 1, deadline_ns < again_ns ? deadline_ns : again_ns);
                        r = r >= 0 || r == -EINTR ? 0 : r;
                }
        }
        return r;
}

WHARF_API int wharf_direct_recvmsg(wharf_direct *d, const char *peer, struct wharf_msg *m,
                                   char who[WHARF_DIRECT_NAME_MAX + 1], int64_t deadline_ns)
{
        char full[WHARF_NAME_MAX + 1];
        int r = wh_receive_check(m);
        if (r == 0 && peer)
                r = wh_direct_full_name(peer, full);
        if (r < 0)
                return r;
        if (m->from)
                return wh_fail(-EINVAL, "wharf_msg.from is set; the peer's name says from whom");
        /* [receiving] Acquire and release: what one receiver leaves, the next one finds. */
        if (atomic_exchange_explicit(&d->receiving, true, memory_order_acquire))
                return wh_fail(-EBUSY, "another thread is receiving as %s", d->name);
        for (;;) {
                r = peer ? recv_from(d, peer, m, deadline_ns) : recv_anyone(d, m, who, deadline_ns);
                if (r != -EMFILE || deadline_ns == 0 || is_over(deadline_ns))
                        break;
                /* As in wharf_recvmsg(): what takes more descriptors than there are stays where it is. */
                const int64_t again_ns = wh_os_now_ns() + SHORT_NS;
                wh_os_poll(NULL, 0, again_ns < deadline_ns ? again_ns : deadline_ns);
        }
        if ((r == 0 || r == -EOVERFLOW) && peer && who)
                strcpy(who, peer);
        /* [receiving] Release, as above. */
        atomic_store_explicit(&d->receiving, false, memory_order_release);
        return r;
}

static ssize_t recv_bytes(wharf_direct *d, const char *peer, void *buf, size_t cap_bytes, char *who,
                          int64_t deadline_ns)
{
        struct wharf_msg m = {.size = sizeof m, .flags = WHARF_RECV_NO_ITEMS, .data = buf, .cap_bytes = cap_bytes};
        int r = wharf_direct_recvmsg(d, peer, &m, who, deadline_ns);
        if (r < 0)
                return r;
        if (m.reply != WHARF_NONE)
                wharf_drop(d->task, m.reply);
        return (ssize_t)m.len_bytes;
}

WHARF_API ssize_t wharf_direct_recv(wharf_direct *d, const char *peer, void *buf, size_t cap_bytes, int64_t deadline_ns)
{
        char full[WHARF_NAME_MAX + 1];
        int r = wh_direct_full_name(peer, full); /* NULL is nobody, and not anyone */
        return r < 0 ? r : recv_bytes(d, peer, buf, cap_bytes, NULL, deadline_ns);
}

WHARF_API ssize_t wharf_direct_recv_any(wharf_direct *d, void *buf, size_t cap_bytes,
                                        char who[WHARF_DIRECT_NAME_MAX + 1], int64_t deadline_ns)
{
        return recv_bytes(d, NULL, buf, cap_bytes, who, deadline_ns);
}
