/*
 * What an owner's end pays for its replies, and on whose account (account.h).
 *
 * Memory for replies is made by the one who answers, and how much of it stays is up to the caller: the lane and its
 * sections for as long as the link lives (KEPT), a reply in a memory of its own until it is read (REPLIES). So a link keeps
 * little, and what is larger goes in a memory of its own, of which nothing stays once it was read.
 *
 * Descriptors go with frames too, in replies or for a lane, and as long as they are unread they count for this process's user
 * at the kernel, which has one limit for all that is on its way. So these are charged (FLYING), and stay so where the link is
 * over before they were read.
 *
 * A send-once right that we hold is answered likewise, and whoever gave it to us pays.
 *
 * That it was read the kernel says and nobody else: a memory goes with a frame, and how many frames may lie unread in a
 * socket follows from how many bytes the kernel has for them. Whoever took a reply has read all frames before it.
 */
#include "link/link.h"
#include "port/owned.h"
#include "port/places.h"
#include "port/port.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { UNREAD_FEW = 16 };

uint64_t wh_reply_room(struct wh_link *l)
{
        const uint64_t kept = wh_owned(l)->bill.of[WH_SHARE_KEPT], most = wh_owned(l)->bill.kept_max;
        uint64_t share = wh_bill_left(&wh_owned(l)->bill, WH_SHARE_KEPT);
        share = share < UINT64_MAX - kept ? share + kept : UINT64_MAX;
        return share < most ? share : most;
}

void wh_reply_kept(struct wh_link *l)
{
        wh_bill_set(&wh_owned(l)->bill, WH_SHARE_KEPT, wh_link_shared_bytes(l));
}

static int unread_add(struct wh_unread *u, uint64_t of)
{
        if (u->n == u->room) {
                const uint32_t room = u->room ? 2 * u->room : UNREAD_FEW;
                uint64_t *more = wh_os_realloc(u->of, room * sizeof *more);
                if (!more)
                        return wh_trace(-ENOMEM);
                u->of = more;
                u->room = room;
        }
        u->of[u->n++] = of;
        return 0;
}

/* All but the last `most` were read. How much was in them. */
static uint64_t unread_settle(struct wh_unread *u, uint32_t most)
{
        uint64_t read = 0;
        const uint32_t n = u->n > most ? u->n - most : 0;
        if (!n)
                return 0;
        for (uint32_t i = 0; i < n; i++)
                read += u->of[i];
        memmove(u->of, u->of + n, (u->n - n) * sizeof *u->of);
        u->n -= n;
        return read;
}

/* Those that were read are paid for no more. All of them were sent. */
static void settle(struct wh_link *l, struct wh_unread *u, enum wh_share share)
{
        if (u->n && l->sock >= 0)
                wh_bill_give(&wh_owned(l)->bill, share, unread_settle(u, wh_frames_unread(l->sock)));
}

static void settle_all(struct wh_link *l)
{
        settle(l, &wh_owned(l)->replies, WH_SHARE_REPLIES);
        settle(l, &wh_owned(l)->flying, WH_SHARE_FLYING);
}

static struct wh_unread *unread_of(struct wh_link *l, enum wh_share share)
{
        return share == WH_SHARE_FLYING ? &wh_owned(l)->flying : &wh_owned(l)->replies;
}

/* What is charged now is not sent yet: of the other kind there may be something like that, and it is not looked at. */
int wh_reply_sends(struct wh_link *l, enum wh_share share, uint64_t n)
{
        const struct wh_accounts *a = &l->task->accounts;
        const bool flies = share == WH_SHARE_FLYING;
        const bool own =
                flies && wh_owned(l)->bill.payer == a->self && !a->equal; /* what there is for it the kernel says */
        struct wh_unread *u = unread_of(l, share);
        settle(l, u, share);
        int r = unread_add(u, n);
        if (r == 0 && (r = wh_bill_charge(&wh_owned(l)->bill, share, n, own)) < 0)
                u->n--;
        return r == -EDQUOT && flies ? wh_trace(-ETOOMANYREFS) : r;
}

void wh_reply_unsent(struct wh_link *l, enum wh_share share, uint64_t n)
{
        unread_of(l, share)->n--;
        wh_bill_give(&wh_owned(l)->bill, share, n);
}

/* ---- ends that are over, and unread ---- */

/* An end, which takes one descriptor, and those that lie unread on its other side. */
struct wh_lingering {
        struct wh_list node;
        struct wh_inbox
                *inbox; /* which hears of it; NULL: none, so it is looked at when somebody wants what it takes */
        int sock;
        unsigned looks; /* in vain */
        enum wh_end how;
        uid_t payer;
        uint64_t fds, bytes;
};

enum {
        VAIN_LOOKS_MAX = 256, /* so often its other side may have us look before it is heard no more */
        DATAGRAM_LEAST = 256, /* of what the kernel counts; what is less is being given back this moment */
};

static void lingering_free(wharf_task *t, struct wh_lingering *g)
{
        wh_account_give(&t->accounts, g->payer, WH_SHARE_TASK_LINKS, 1);
        wh_account_give(&t->accounts, g->payer, WH_SHARE_FLYING, g->fds);
        wh_account_give(&t->accounts, g->payer, WH_SHARE_REPLIES, g->bytes);
        free(g);
}

static void lingering_end(wharf_task *t, struct wh_lingering *g)
{
        if (g->inbox)
                wh_os_epoll_del(g->inbox->ep, g->sock); /* before it is closed: a copy elsewhere would keep it firing */
        wh_os_close_end(g->sock, g->how);
        lingering_free(t, g);
        wh_places_raised(t); /* somebody may wait for what it took */
}

static bool is_read(const struct wh_lingering *g)
{
        const int left = wh_os_unread(g->sock);
        return left >= 0 && left < DATAGRAM_LEAST;
}

void wh_lingering_event(wharf_task *t, struct wh_inbox *in, int sock)
{
        struct wh_lingering *over = NULL;
        wh_lock(&t->lingers);
        wh_list_for_safe (k, &t->lingering) {
                struct wh_lingering *g = wh_container(k, struct wh_lingering, node);
                if (g->sock != sock || g->inbox != in)
                        continue;
                if (is_read(g)) {
                        wh_list_remove(k);
                        over = g;
                } else if (++g->looks == VAIN_LOOKS_MAX) {
                        wh_os_epoll_del(in->ep, sock);
                        g->inbox = NULL;
                }
                break;
        }
        wh_unlock(&t->lingers);
        if (over)
                lingering_end(t, over);
}

/* Whenever some of it was read, or its other side is closed. */
static void lingering_hear(struct wh_lingering *g, struct wh_inbox *in)
{
        if (wh_os_epoll_add(in->ep, g->sock, EPOLLOUT | EPOLLET, wh_ep_tag(WH_EP_OVER, (uint32_t)g->sock)) == 0)
                g->inbox = in;
}

void wh_lingering_move(struct wh_inbox *from, struct wh_inbox *to)
{
        wh_lock(&from->task->lingers);
        wh_list_for (k, &from->task->lingering) {
                struct wh_lingering *g = wh_container(k, struct wh_lingering, node);
                if (g->inbox != from)
                        continue;
                wh_os_epoll_del(from->ep, g->sock);
                g->inbox = NULL;
                lingering_hear(g, to);
        }
        wh_unlock(&from->task->lingers);
}

void wh_lingering_forget(struct wh_inbox *in)
{
        wh_lock(&in->task->lingers);
        wh_list_for (k, &in->task->lingering) {
                struct wh_lingering *g = wh_container(k, struct wh_lingering, node);
                if (g->inbox == in)
                        g->inbox = NULL;
        }
        wh_unlock(&in->task->lingers);
}

/* Somebody looked a moment ago. What is looked at costs a call for each, so that happens now and then. */
static bool looked_lately(wharf_task *t, _Atomic uint64_t *when)
{
        enum { EVERY_US = 2000 };
        const uint64_t now = wh_os_ticks(), was = atomic_load_explicit(when, memory_order_relaxed);
        if (was && now - was < EVERY_US * t->ticks_per_us)
                return true;
        atomic_store_explicit(when, now, memory_order_relaxed);
        return false;
}

/* Of those that no inbox hears of, or of all, those that were read are closed; with `all` whatever they are. */
static void lingering_close(wharf_task *t, bool all)
{
        struct wh_list over, *node;
        wh_list_init(&over);
        wh_lock(&t->lingers);
        wh_list_for_safe (k, &t->lingering) {
                const struct wh_lingering *g = wh_container(k, struct wh_lingering, node);
                if (!all && (g->inbox || !is_read(g)))
                        continue;
                wh_list_remove(k);
                wh_list_push_back(&over, k);
        }
        wh_unlock(&t->lingers);
        while ((node = wh_list_pop_front(&over)))
                lingering_end(t, wh_container(node, struct wh_lingering, node));
}

void wh_lingering_settle(wharf_task *t)
{
        if (!looked_lately(t, &t->lingers_looked))
                lingering_close(t, false);
}

void wh_lingering_done(wharf_task *t, bool ours)
{
        if (ours)
                lingering_close(t, true);
        wh_list_for_safe (node, &t->lingering)
                free(wh_container(node, struct wh_lingering, node));
}

int wh_end_keep(struct wh_link *l, bool force, struct wh_lingering **ret)
{
        struct wh_accounts *a = &l->task->accounts;
        uint64_t fds = 0;
        settle_all(l);
        for (uint32_t i = 0; i < wh_owned(l)->flying.n; i++)
                fds += wh_owned(l)->flying.of[i];
        *ret = NULL;
        struct wh_lingering *g = fds && !l->handed_on ? wh_os_calloc(1, sizeof *g) : NULL;
        if (!g)
                return 0;
        *g = (struct wh_lingering){.sock = l->sock, .payer = wh_owned(l)->bill.payer, .fds = fds};
        int r = wh_account_charge(a, g->payer, WH_SHARE_TASK_LINKS, 1, force);
        if (r == 0 && (r = wh_account_charge(a, g->payer, WH_SHARE_FLYING, fds, true)) < 0)
                wh_account_give(a, g->payer, WH_SHARE_TASK_LINKS, 1);
        if (r < 0) {
                free(g);
                if (r == -EDQUOT)
                        l->in.refusal = WH_REFUSAL_TASK_LINKS;
                return r;
        }
        *ret = g;
        return 0;
}

void wh_end_keep_not(struct wh_link *l, struct wh_lingering *kept)
{
        if (kept)
                lingering_free(l->task, kept);
}

void wh_end_over(struct wh_link *l, enum wh_end how, struct wh_lingering *kept)
{
        struct wh_owned *o = wh_owned(l);
        wharf_task *t = l->task;
        uint64_t fds = 0;
        for (uint32_t i = 0; i < o->flying.n; i++)
                fds += o->flying.of[i];
        wh_bill_give(&o->bill, WH_SHARE_FLYING, fds);
        o->flying.n = 0;
        if (!kept) {
                wh_os_close_end(l->sock, how);
                return;
        }
        wh_os_shutdown(kept->sock, SHUT_RDWR);
        kept->how = how;
        lingering_hear(kept, o->inbox);
        wh_lock(&t->lingers);
        wh_list_push_back(&t->lingering, &kept->node);
        wh_unlock(&t->lingers);
}

/* ---- send-once rights ---- */

uid_t wh_once_payer(const struct wh_link *l)
{
        const struct wharf_introducer *by = &l->given;
        return by->known == WHARF_KNOWN_NOBODY ? l->task->accounts.self
               : wh_known_surely(by->known)    ? by->uid
                                               : (uid_t)-1;
}

int wh_once_sends(struct wh_link *l, enum wh_share share, uint64_t n)
{
        struct wh_accounts *a = &l->task->accounts;
        const uid_t payer = wh_once_payer(l);
        int r = wh_account_charge(a, payer, share, n, false);
        if (r == -EDQUOT) {
                wh_lingering_settle(l->task);
                r = wh_account_charge(a, payer, share, n, false);
        }
        if (r == 0)
                *(share == WH_SHARE_FLYING ? &l->once_fds : &l->once_bytes) += n;
        return r == -EDQUOT && share == WH_SHARE_FLYING ? wh_trace(-ETOOMANYREFS) : r;
}

void wh_once_unsent(struct wh_link *l, enum wh_share share, uint64_t n)
{
        *(share == WH_SHARE_FLYING ? &l->once_fds : &l->once_bytes) -= n;
        wh_account_give(&l->task->accounts, wh_once_payer(l), share, n);
}

void wh_once_over(wharf_task *t, int sock, enum wh_end how, uid_t payer, uint64_t fds, uint64_t bytes)
{
        struct wh_lingering *g = fds || bytes ? wh_os_calloc(1, sizeof *g) : NULL;
        if (g)
                *g = (struct wh_lingering){.sock = sock, .how = how, .payer = payer, .fds = fds, .bytes = bytes};
        if (!g || wh_account_charge(&t->accounts, payer, WH_SHARE_TASK_LINKS, 1, true) < 0) {
                wh_account_give(&t->accounts, payer, WH_SHARE_FLYING, fds);
                wh_account_give(&t->accounts, payer, WH_SHARE_REPLIES, bytes);
                wh_os_close_end(sock, how);
                free(g);
                return;
        }
        wh_os_shutdown(sock, SHUT_RDWR);
        if (is_read(g)) {
                lingering_end(t, g);
                return;
        }
        /* Some inbox hears of it: a port's inbox is there for as long as this lock is held (notice.N3). */
        wh_lock(&t->notices);
        wh_lock(&t->lingers);
        struct wh_list *any = wh_list_empty(&t->ids) ? NULL : t->ids.next;
        if (any)
                lingering_hear(g, atomic_load_explicit(&wh_container(any, struct wh_port, in_ids)->inbox,
                                                       memory_order_relaxed));
        wh_list_push_back(&t->lingering, &g->node);
        wh_unlock(&t->lingers);
        wh_unlock(&t->notices);
}

bool wh_replies_settle(struct wh_link *l)
{
        struct wh_owned *o = wh_owned(l);
        struct wh_inbox *in = o->inbox;
        const uint64_t before = wh_bill_left(&o->bill, WH_SHARE_REPLIES),
                       flew = wh_bill_left(&o->bill, WH_SHARE_FLYING);
        /* Nobody looks for all, so that one who is refused all the time does not have others wait. */
        if (looked_lately(l->task, &l->task->replies_looked[o->bill.payer % WH_LOOKS]))
                return false;
        wh_lingering_settle(l->task);
        wh_lock(&in->lock);
        if (o->inbox == in && o->port)
                wh_list_for (n, &o->port->links) {
                        struct wh_link *k = &wh_container(n, struct wh_owned, in_port)->link;
                        if (wh_owned(k)->bill.payer != o->bill.payer)
                                continue;
                        wh_lock(&k->o.lock);
                        settle_all(k);
                        wh_unlock(&k->o.lock);
                }
        wh_unlock(&in->lock);
        return wh_bill_left(&o->bill, WH_SHARE_REPLIES) > before || wh_bill_left(&o->bill, WH_SHARE_FLYING) > flew;
}
