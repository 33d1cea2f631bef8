#include "message/items.h"
#include "right/held.h"
#include "message/call.h"

#include "base/trace.h"
#include "message/memory.h"
#include "message/move.h"
#include "os/closer.h"
#include "os/os.h"
#include "port/owned.h"
#include "right/right.h"
#include "task/why.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- items on their way out ---- */

/* May the socket itself go? Only if nothing was ever read from or written to it. */
static bool untouched(const struct wh_link *l)
{
        return l->provisional && !l->greeted && l->out.seq == 0 && l->in.seq == 0 && l->out.over == 0 && !l->out.lane &&
               !wh_held(l)->asked[WH_ASKED_DEAD].inbox && wh_list_empty(&wh_held(l)->calls);
}

/* Whoever is told that we gave it this right is to know from whom we had it (I4). */
static bool said_given(struct wh_link *l)
{
        if (l->given.known == WHARF_KNOWN_NOBODY)
                return true;
        struct wh_frame f = {.type = WH_FRAME_GIVEN};
        const struct wh_origin said = wh_origin_put(0, &l->given);
        return wh_link_frame(l, &f, &said, sizeof said, NULL, false) == 0;
}

/* A second descriptor of the right's own socket: the name stays until the message is on its way, and goes then. */
static int item_itself(const struct wh_link *l, struct wh_items_out *out, unsigned i)
{
        int fd = wh_os_dup(l->sock);
        if (fd < 0)
                return fd;
        wh_os_fd_private(fd);
        out->o->fd[i] = fd;
        out->close[i] = out->itself[i] = true;
        return 0;
}

/* `over`: the right that carries the message. Sent over itself it cannot go as it is, but a copy of it can. */
static int item_send(wharf_task *t, const struct wharf_msg *m, struct wh_items_out *out, unsigned i, wharf_name over,
                     int64_t deadline_ns)
{
        const struct wharf_item *it = &m->items[i];
        const uid_t *asked = it->kind == WH_COPY_ASKED ? &m->sender.uid : NULL;
        int err, sock = -1;
        struct wh_link *l = wh_holder_lock(t, it->name, &err);
        if (!l)
                return err;
        int r = l->once ? -EPERM : 0;
        out->o->kind[i] = WH_ITEM_SEND;
        if (r == 0 && it->kind == WHARF_MOVE_SEND && it->name != over && untouched(l) && said_given(l)) {
                r = item_itself(l, out, i);
        } else if (r == 0 && (r = wh_right_introduce(l, asked, deadline_ns, &sock)) == 0) {
                out->o->fd[i] = sock;
                out->close[i] = true;
        }
        wh_holder_unlock(l);
        return r;
}

/* A send-once right: the one that a port made goes itself; one that answers a call becomes a pair of its own. */
static int item_reply(wharf_task *t, struct wharf_item *it, struct wh_items_out *out, unsigned i, wharf_name over)
{
        struct wh_object *o = wh_table_find(&t->names, it->name);
        if (!o || atomic_load_explicit(&o->name, memory_order_relaxed) != it->name)
                return -EBADF;
        if (it->name == over)
                return wh_fail(-EINVAL, "items[%u] is the send-once right that the message is sent with", i);
        if (o->kind == WHARF_KIND_SEND) {
                int err;
                struct wh_link *l = wh_holder_lock(t, it->name, &err);
                if (!l)
                        return err;
                int r = l->once ? item_itself(l, out, i) : -EPERM;
                wh_unlock(&l->o.lock);
                out->o->kind[i] = WH_ITEM_REPLY;
                return r;
        }
        if (o->kind != WHARF_KIND_REPLY)
                return -EPERM;
        int to_caller, to_new, detached = wh_reply_socket(t, it->name);
        if (detached >= 0) {
                int fd = wh_os_dup(detached);
                if (fd < 0)
                        return fd;
                wh_os_fd_private(fd);
                out->o->kind[i] = WH_ITEM_REPLY;
                out->o->fd[i] = fd;
                out->close[i] = true;
                return 0;
        }
        int r = wh_right_pair(NULL, &to_caller, &to_new);
        if (r < 0)
                return r;
        out->o->kind[i] = WH_ITEM_REPLY;
        out->o->fd[i] = to_new;
        out->close[i] = true;
        out->via[i] = to_caller;
        return 0;
}

/* `a` is moved; is `b` the same, in a form that would succeed beside it? */
static bool items_collide(const struct wharf_item *a, const struct wharf_item *b)
{
        switch (a->kind) {
        case WHARF_MOVE_FD:
                return (b->kind == WHARF_MOVE_FD || b->kind == WHARF_COPY_FD) && a->fd == b->fd;
        case WHARF_MOVE_SEND:
                return (b->kind == WHARF_MOVE_SEND || b->kind == WHARF_COPY_SEND) && a->name == b->name;
        case WHARF_MOVE_REPLY:
        case WHARF_MOVE_RECEIVE:
                return b->kind == a->kind && a->name == b->name;
        case WHARF_MOVE_MEMORY:
                return (b->kind == WHARF_MOVE_MEMORY || b->kind == WHARF_COPY_MEMORY) && a->name == b->name;
        default:
                return false;
        }
}

/* What is moved can be in a message once, and in no other form beside. */
static int items_distinct(const struct wharf_msg *m)
{
        for (unsigned i = 0; i < m->n_items; i++)
                for (unsigned k = 0; k < m->n_items; k++)
                        if (k != i && items_collide(&m->items[i], &m->items[k]))
                                return wh_fail(-EINVAL, "items[%u] is moved, and items[%u] is the same", i, k);
        return 0;
}

/* Which one it was, where what refused it has not said so already. */
static void item_failed(wharf_task *t, const struct wharf_item *it, unsigned i, int err)
{
        bool fd = it->kind == WHARF_COPY_FD || it->kind == WHARF_MOVE_FD;
        if (err == -EBADF && fd)
                wh_fail(err, "items[%u] is the descriptor %d", i, it->fd);
        else if (err == -EBADF || err == -EPERM) {
                char what[200];
                wh_fail_at(t, err, it->name);
                snprintf(what, sizeof what, "%s", wharf_why());
                wh_fail(err, "items[%u]: %s", i, what);
        } else if (err == -EBUSY && (it->kind == WHARF_MOVE_MEMORY || it->kind == WHARF_COPY_MEMORY))
                wh_fail(err, "items[%u]: the kernel still writes to that memory", i);
        else if (err != -EINVAL && it->kind != WHARF_MOVE_RECEIVE)
                wh_fail(err, NULL);
}

int wh_items_prepare(wharf_task *t, const struct wharf_msg *m, struct wh_outgoing *o, struct wh_items_out *out,
                     wharf_name over, int64_t deadline_ns)
{
        out->o = o;
        out->n_moves = 0;
        if (m->n_items > WHARF_ITEMS_MAX)
                return wh_fail(-EINVAL, "%u items, at most %d", m->n_items, WHARF_ITEMS_MAX);
        int r = items_distinct(m);
        if (r < 0)
                return r;
        for (unsigned i = 0; i < m->n_items && r == 0; i++) {
                struct wharf_item *it = &m->items[i];
                out->close[i] = out->itself[i] = false;
                out->via[i] = -1;
                switch (it->kind) {
                case WHARF_COPY_FD:
                case WHARF_MOVE_FD:
                        o->kind[i] = WH_ITEM_FD;
                        o->fd[i] = it->fd;
                        r = it->fd < 0 ? -EBADF : 0;
                        break;
                case WHARF_MAKE_SEND:
                case WHARF_MAKE_ONCE:
                case WH_MAKE_DIRECTORY:
                        o->kind[i] = it->kind == WHARF_MAKE_ONCE ? WH_ITEM_REPLY : WH_ITEM_SEND;
                        r = wh_right_mint(t, it->name, it->kind, &o->fd[i], &out->minted[i]);
                        out->close[i] = r == 0;
                        break;
                case WHARF_COPY_SEND:
                case WHARF_MOVE_SEND:
                case WH_COPY_ASKED:
                        r = item_send(t, m, out, i, over, deadline_ns);
                        break;
                case WHARF_MOVE_REPLY:
                        r = item_reply(t, it, out, i, over);
                        break;
                case WHARF_MOVE_MEMORY:
                case WHARF_COPY_MEMORY:
                        o->kind[i] = WH_ITEM_BESIDE;
                        r = wh_memory_send(t, it->name, &o->fd[i]);
                        out->close[i] = r == 0;
                        break;
                case WHARF_MOVE_RECEIVE:
                        o->kind[i] = WH_ITEM_RECEIVE;
                        r = wh_move_pack(t, it->name, &o->fd[i]);
                        out->close[i] = r == 0;
                        out->n_moves += r == 0;
                        break;
                default:
                        r = wh_fail(-EINVAL, "items[%u].kind is %u", i, it->kind);
                }
                if (r == 0)
                        o->n_items++;
        }
        if (r < 0) {
                item_failed(t, &m->items[o->n_items], o->n_items, r);
                wh_items_finish(t, m, out, false);
        }
        return r;
}

/* A right that was sent away as it is: its end is somebody else's from here on. */
static void handed_on(wharf_task *t, wharf_name right)
{
        int err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return;
        l->handed_on = true;
        wh_unlock(&l->o.lock);
}

/*
 * Our copy of what was sent, or was to be. It may be the last one by now, or the only one, with what the other end has put
 * there meanwhile, or what lies unread in a port.
 */
static void sent_close(const struct wh_outgoing *o, unsigned i)
{
        if (o->kind[i] == WH_ITEM_SEND || o->kind[i] == WH_ITEM_REPLY)
                wh_os_close_end(o->fd[i], WH_END_SHARED);
        else
                wh_os_close_theirs(o->fd[i]);
}

void wh_items_finish(wharf_task *t, const struct wharf_msg *m, struct wh_items_out *out, bool sent)
{
        struct wh_outgoing *o = out->o;
        /* First of all: rights made for this message can only be unmade while their port is here. */
        for (unsigned i = 0; i < o->n_items && out->n_moves; i++)
                if (m->items[i].kind == WHARF_MOVE_RECEIVE)
                        wh_move_end(t, m->items[i].name, sent);
        for (unsigned i = 0; i < o->n_items; i++) {
                if (out->close[i])
                        sent_close(o, i);
                if (out->via[i] >= 0) {
                        if (sent)
                                wh_reply_via(t, m->items[i].name, out->via[i]);
                        wh_os_close_end(out->via[i], WH_END_SHARED);
                }
                if (!sent) {
                        if (m->items[i].kind == WHARF_MAKE_SEND || m->items[i].kind == WHARF_MAKE_ONCE ||
                            m->items[i].kind == WH_MAKE_DIRECTORY)
                                wh_right_unmint(t, m->items[i].name, out->minted[i]);
                        continue;
                }
                if (m->items[i].kind == WHARF_MAKE_SEND || m->items[i].kind == WHARF_MAKE_ONCE) {
                        if (m->sender_ids)
                                m->sender_ids[i] = out->minted[i];
                } else if (m->items[i].kind == WHARF_MOVE_FD)
                        wh_os_close_given(m->items[i].fd);
                else if (m->items[i].kind == WHARF_MOVE_SEND ||
                         (m->items[i].kind == WHARF_MOVE_REPLY && out->via[i] < 0) ||
                         m->items[i].kind == WHARF_MOVE_MEMORY) {
                        if (out->itself[i])
                                handed_on(t, m->items[i].name);
                        wharf_drop(t, m->items[i].name);
                }
        }
        o->n_items = 0;
}

/* ---- items that arrived ---- */

/*
 * Are we to believe that the task's own user moves a port here? Who has started this process could do as it liked. Of an
 * answer nothing counts but who wrote the very frame that the port came in: the port may have another owner than the one
 * who said before who it is (WHO), and the call may have been passed on.
 */
static bool own_mover(const struct wh_link *l, const struct wh_items *from)
{
        const struct wh_accounts *a = &l->task->accounts;
        if (l->answer)
                return true;
        if (a->equal)
                return false;
        return l->owner ? wh_known_surely(l->who.known) && l->cred.uid == a->self : from->own;
}

int wh_items_open(wharf_task *t, struct wh_link *l, struct wh_items *from, unsigned n)
{
        if (n > WHARF_ITEMS_MAX)
                return wh_trace(-EPROTO);
        struct wh_mover by = {.given = wh_link_giver(l), .own = own_mover(l, from), .over = l};
        by.payer = l->owner && !l->answer ? wh_owned(l)->bill.payer : t->accounts.self;
        if (!by.own && by.payer == t->accounts.self)
                by.payer = (uid_t)-1; /* a right that we made and gave away, or an answer: nobody is known */
        return wh_moving_open(t, from, n, &by);
}

int wh_items_accept(wharf_task *t, struct wh_link *l, const struct wh_items *from, unsigned n, struct wharf_item *to)
{
        const struct wharf_introducer given = wh_link_giver(l);
        struct wharf_item got[WHARF_ITEMS_MAX];
        unsigned i = 0;
        int r = 0;
        /* K7: if this is in vain it is done again by every receive, for each link that has such a message. */
        wh_link_spend(l, n * WH_COST_FRAME);
        for (; i < n; i++) {
                if (from->kind[i] == WH_ITEM_FD) {
                        got[i] = (struct wharf_item){.kind = WHARF_GOT_FD, .fd = from->fd[i]};
                        continue;
                }
                if (from->kind[i] == WH_ITEM_BESIDE) {
                        got[i] = (struct wharf_item){.kind = WHARF_GOT_MEMORY};
                        r = wh_memory_accept(t, from->fd[i], &got[i].name);
                        if (r < 0)
                                break;
                        continue;
                }
                if (from->kind[i] == WH_ITEM_RECEIVE) {
                        got[i] = (struct wharf_item){.kind = WHARF_GOT_RECEIVE, .name = wh_moving_port(from, i)};
                        continue;
                }
                if (from->kind[i] != WH_ITEM_SEND && from->kind[i] != WH_ITEM_REPLY) {
                        r = wh_trace(-EPROTO);
                        break;
                }
                bool once = from->kind[i] == WH_ITEM_REPLY;
                got[i] = (struct wharf_item){.kind = once ? WHARF_GOT_REPLY : WHARF_GOT_SEND};
                r = wh_right_given(t, from->fd[i], !once, once, &given, &got[i].name);
                if (r < 0)
                        break;
        }
        if (r < 0) /* all or nothing */
                wh_items_unaccept(t, got, i);
        else
                memcpy(to, got, n * sizeof *got);
        return r;
}

void wh_items_unaccept(wharf_task *t, const struct wharf_item *got, unsigned n)
{
        while (n--) {
                int err;
                if (got[n].kind == WHARF_GOT_FD || got[n].kind == WHARF_GOT_RECEIVE)
                        continue;
                if (got[n].kind == WHARF_GOT_MEMORY) {
                        wh_memory_unaccept(t, got[n].name);
                        continue;
                }
                struct wh_link *right = wh_holder_lock(t, got[n].name, &err);
                right->sock = -1;
                wh_unlock(&right->o.lock);
                wharf_drop(t, got[n].name);
        }
}

void wh_items_take(wharf_task *t, struct wh_items *from, const struct wharf_item *got, unsigned n)
{
        for (unsigned i = 0; i < n; i++) {
                if (from->kind[i] == WH_ITEM_RECEIVE)
                        wh_move_start(t, got[i].name, from->fd[i]);
                from->fd[i] = -1;
        }
        wh_moving_done(from);
        wh_items_done(from); /* those behind them */
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
