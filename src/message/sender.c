/*
 * Who stands behind a link of a port: what is known of the sender that a message named by its id.
 *
 * Always true: a link is looked at with the lock of the inbox that it is in; it may move to another, or end, until then.
 */
#include "message/sender.h"
#include "port/branch.h"
#include "port/owned.h"
#include "port/port.h"
#include "task/why.h"

#include "os/os.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

struct wh_inbox *wh_sender_lock(wharf_task *t, uint64_t id, struct wh_link **ret)
{
        struct wh_link *l = (struct wh_link *)wh_table_find(&t->links, (uint32_t)id);
        while (l && atomic_load_explicit(&l->o.name, memory_order_relaxed)) {
                struct wh_inbox *in = wh_owned(l)->inbox;
                if (!in)
                        return NULL; /* freed just now, and being made anew */
                wh_lock(&in->lock);
                const bool moved = wh_owned(l)->inbox != in;
                if (!moved && atomic_load_explicit(&l->o.name, memory_order_relaxed) && l->who.id == id) {
                        *ret = l;
                        return in;
                }
                wh_unlock(&in->lock);
                if (!moved)
                        return NULL;
        }
        return NULL;
}

/* The same, where its port is there: only then it is a sender. */
static struct wh_inbox *sender_lock(wharf_task *t, uint64_t id, struct wh_link **ret)
{
        struct wh_inbox *in = wh_sender_lock(t, id, ret);
        if (!in || wh_owned(*ret)->port)
                return in;
        wh_unlock(&in->lock);
        return NULL;
}

bool wh_sender_lives(wharf_task *t, uint64_t sender_id)
{
        struct wh_link *l;
        struct wh_inbox *in = wh_task_ours(t) ? sender_lock(t, sender_id, &l) : NULL;
        bool lives = in && !l->in.hung_up && !l->over;
        if (lives) { /* of a death that the port has not looked at yet */
                struct pollfd p = {.fd = l->sock, .events = POLLRDHUP};
                lives = wh_os_poll(&p, 1, 0) == 0;
        }
        if (in)
                wh_unlock(&in->lock);
        return lives;
}

uint64_t wh_sender_introducer(wharf_task *t, uint64_t sender_id)
{
        struct wh_link *l;
        if (!wh_task_ours(t))
                return 0;
        struct wh_inbox *in = sender_lock(t, sender_id, &l);
        if (!in)
                return 0;
        uint64_t id = wh_owned(l)->branch && wh_owned(l)->branch->up ? wh_owned(l)->branch->up->id : 0;
        wh_unlock(&in->lock);
        return id;
}

void wh_sender_groups(wharf_task *t, uint64_t sender_id, gid_t *groups, unsigned *n)
{
        struct wh_link *l;
        unsigned room = *n;
        *n = 0;
        struct wh_inbox *in = sender_lock(t, sender_id, &l);
        if (!in)
                return;
        /* Only of a socket that accept() made: of a pair, the kernel knows who made it, not who sends. */
        if (l->connected) {
                socklen_t len = room * (socklen_t)sizeof *groups;
                int r = wh_os_getsockopt(l->sock, SOL_SOCKET, SO_PEERGROUPS, groups, &len);
                if (r == 0) {
                        *n = len / (socklen_t)sizeof *groups;
                } else if (r == -ERANGE) { /* `len` says how many: take as many as there is room for */
                        gid_t *all = wh_os_malloc(len);
                        if (all && wh_os_getsockopt(l->sock, SOL_SOCKET, SO_PEERGROUPS, all, &len) == 0) {
                                memcpy(groups, all, room * sizeof *groups);
                                *n = room;
                        }
                        free(all);
                }
        }
        wh_unlock(&in->lock);
}

static int no_sender(uint64_t sender_id)
{
        return wh_fail(-ENOENT, "%" PRIu64 " is no sender here, or not any more", sender_id);
}

WHARF_API int wharf_sender_notify(wharf_task *t, uint64_t sender_id, wharf_name port)
{
        struct wh_link *l;
        int r = 0;
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        if (port == WHARF_NONE)
                r = wharf_task_notify(t, &port);
        if (r < 0 || (r = wh_notice_check(t, port)) < 0)
                return wh_fail_at(t, r, port);
        struct wh_inbox *in = sender_lock(t, sender_id, &l);
        if (!in)
                return no_sender(sender_id);
        struct wh_owned *o = wh_owned(l);
        const wharf_name about = atomic_load_explicit(&o->port->o.name, memory_order_relaxed);
        r = wh_notice_ask(t, &o->gone_notice, WHARF_NOTICE_SENDER_GONE, about, port);
        if (r == 0)
                o->gone_notice->sender = sender_id;
        wh_unlock(&in->lock);
        return r == -EBUSY ? wh_fail(r, "this was asked for about sender %" PRIu64 " already", sender_id)
                           : wh_fail(r, NULL);
}

WHARF_API int wharf_sender_notify_cancel(wharf_task *t, uint64_t sender_id)
{
        struct wh_link *l;
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        struct wh_inbox *in = sender_lock(t, sender_id, &l);
        if (!in)
                return no_sender(sender_id);
        struct wh_notice *n = wh_owned(l)->gone_notice;
        wh_owned(l)->gone_notice = NULL;
        wh_unlock(&in->lock);
        wh_notice_free(t, n);
        return n ? 0
                 : wh_fail(-ENOENT, "no notice is asked for about sender %" PRIu64 ", or it came already", sender_id);
}

WHARF_API int wharf_sender_introducers(wharf_task *t, uint64_t sender_id, struct wharf_introducer *ret, unsigned max)
{
        struct wh_link *l;
        if (!ret && max)
                return wh_fail_null("ret");
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        struct wh_inbox *in = sender_lock(t, sender_id, &l);
        if (!in)
                return no_sender(sender_id);
        unsigned n = wh_link_introducers(l, ret, max);
        wh_unlock(&in->lock);
        return (int)n;
}

WHARF_API int wharf_sender_pidfd(wharf_task *t, uint64_t sender_id, int *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        struct wh_link *l;
        struct wh_inbox *in = sender_lock(t, sender_id, &l);
        if (!in)
                return no_sender(sender_id);
        int r = wh_link_pidfd(l, ret);
        wh_unlock(&in->lock);
        return r < 0 ? wh_fail(r, NULL) : 0;
}
