/*
 * outlet - sending to a peer by its name: the right that is kept of it, and the hello that moves its port there.
 */
#include "message/send.h"
#include "names/direct/direct.h"

#include "base/trace.h"
#include "right/right.h"
#include "task/why.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct outlet *outlet_find(struct roll *outlets, const char *name)
{
        struct rolled *e = wh_roll_find(outlets, name, NULL);
        return e ? wh_container(e, struct outlet, e) : NULL;
}

static wharf_name outlet_right(struct wharf_direct *d, const char *name)
{
        wh_lock(&d->lock);
        struct outlet *o = outlet_find(&d->outlets, name);
        wharf_name right = o ? o->right : WHARF_NONE;
        wh_unlock(&d->lock);
        return right;
}

/* Has the peer gone since it was sent to, and nobody was told? Then the caller is told, now. */
static bool outlet_was(struct wharf_direct *d, const char *name)
{
        wh_lock(&d->lock);
        struct outlet *o = outlet_find(&d->outlets_gone, name);
        if (o) {
                wh_roll_remove(&o->e);
                d->n_outlets_gone--;
        }
        wh_unlock(&d->lock);
        bool was = o;
        free(o);
        return was;
}

/* Takes out the outlet of `right`, which is dead: its end is told by the next call that sends there. */
static void outlet_gone(struct wharf_direct *d, wharf_name right)
{
        struct outlet *o = NULL, *old = NULL;
        wh_lock(&d->lock);
        wh_list_for (pos, &d->outlets.all) {
                o = wh_container(pos, struct outlet, e.node);
                if (o->right == right)
                        break;
                o = NULL;
        }
        if (o) {
                wh_roll_remove(&o->e);
                d->n_outlets--;
                wh_roll_push(&d->outlets_gone, &o->e);
                if (++d->n_outlets_gone > GONE_MAX) {
                        old = wh_container(wh_roll_pop(&d->outlets_gone), struct outlet, e);
                        d->n_outlets_gone--;
                }
        }
        wh_unlock(&d->lock);
        if (o)
                wharf_drop(d->task, right);
        free(old);
}

/*
 * Lets go of the rights to peers that have died, to which nobody may ever send again. Looks at all of them whenever
 * their number has doubled since, so that it costs each of them little. `making` is held; without memory, later.
 */
static void outlets_sweep(struct wharf_direct *d)
{
        wharf_name *right = NULL;
        size_t n = 0;
        wh_lock(&d->lock);
        if (d->n_outlets >= d->sweep_at && (right = wh_os_malloc(d->n_outlets * sizeof *right)))
                wh_list_for (pos, &d->outlets.all)
                        right[n++] = wh_container(pos, struct outlet, e.node)->right;
        wh_unlock(&d->lock);
        if (!right)
                return;
        for (size_t i = 0; i < n; i++) {
                struct wharf_right_stat st = {.size = sizeof st};
                if (wharf_right_stat(d->task, right[i], &st) == 0 && st.dead)
                        outlet_gone(d, right[i]);
        }
        free(right);
        wh_lock(&d->lock);
        d->sweep_at = 2 * d->n_outlets + SWEEP_MIN;
        wh_unlock(&d->lock);
}

/* A hello on a pair that others may have a copy of says nothing about who sends it, and would not be believed. */
static int door_own(struct wharf_direct *d, wharf_name door)
{
        int r;
        struct wh_link *l = wh_holder_lock(d->task, door, &r);
        if (!l)
                return r;
        r = wh_link_rebind(l);
        if (r == 0 && l->provisional)
                r = wh_trace(-EMFILE);
        wh_holder_unlock(l);
        return r;
}

/* Makes the port, and moves it through the peer's door. Does not wait: a link that is new has room. */
static int outlet_make(struct wharf_direct *d, const char *name, wharf_name door, wharf_name *ret)
{
        wharf_name port = WHARF_NONE, right = WHARF_NONE;
        struct outlet *o = wh_os_calloc(1, sizeof *o);
        if (!o)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        int r = door_own(d, door);
        if (r == 0)
                r = wharf_port_new(d->task, NULL, &port);
        if (r == 0)
                r = wharf_right_new(d->task, port, &right);
        if (r == 0) {
                struct hello hello = {.id = d->id};
                size_t n = strlen(d->name);
                memcpy(hello.name, d->name, n);
                struct wharf_item item = {.kind = WHARF_MOVE_RECEIVE, .name = port};
                struct wharf_msg m = {.size = sizeof m,
                                      .id = HELLO_ID,
                                      .data = &hello,
                                      .len_bytes = HELLO_HEAD + n,
                                      .items = &item,
                                      .n_items = 1};
                r = wharf_sendmsg(d->task, door, &m, 0);
        }
        if (r < 0) {
                wharf_drop(d->task, right);
                wharf_drop(d->task, port);
                free(o);
                return wh_fail(r, "no link to %s could be made", name);
        }
        strcpy(o->e.name, name);
        o->right = right;
        wh_lock(&d->lock);
        wh_roll_push(&d->outlets, &o->e);
        d->n_outlets++;
        wh_unlock(&d->lock);
        outlets_sweep(d);
        *ret = right;
        return 0;
}

static int outlet_get(struct wharf_direct *d, const char *name, int64_t deadline_ns, wharf_name *ret)
{
        char full[WHARF_NAME_MAX + 1];
        wharf_name door;
        *ret = outlet_right(d, name);
        if (*ret != WHARF_NONE)
                return 0;
        if (outlet_was(d, name))
                return wh_fail(-EPIPE, "%s has left, or died", name);
        int r = wh_direct_full_name(name, full);
        if (r == 0)
                r = wharf_lookup(d->task, full, deadline_ns, &door);
        if (r == -ENOENT)
                return wh_fail(r, "nobody has joined as %s", name);
        if (r < 0)
                return r;
        wh_lock(&d->making);
        *ret = outlet_right(d, name); /* another thread may have been faster */
        if (*ret == WHARF_NONE)
                r = outlet_was(d, name) ? wh_fail(-EPIPE, "%s has left, or died", name)
                                        : outlet_make(d, name, door, ret);
        wh_unlock(&d->making);
        wharf_drop(d->task, door);
        return r;
}

/* The peer is gone, or wants nothing of us: the next call looks for it anew. */
static void outlet_end(struct wharf_direct *d, const char *name, wharf_name right)
{
        wh_lock(&d->lock);
        struct outlet *o = outlet_find(&d->outlets, name), *gone = outlet_find(&d->outlets_gone, name);
        if (o && o->right == right) {
                wh_roll_remove(&o->e);
                d->n_outlets--;
        } else {
                o = NULL;
        }
        if (gone && gone->right == right) { /* a thread that swept was faster; ours is told now */
                wh_roll_remove(&gone->e);
                d->n_outlets_gone--;
        } else {
                gone = NULL;
        }
        wh_unlock(&d->lock);
        if (o)
                wharf_drop(d->task, right);
        free(o);
        free(gone);
}

WHARF_API int wharf_direct_sendmsg(wharf_direct *d, const char *peer, struct wharf_msg *m, int64_t deadline_ns)
{
        wharf_name right = WHARF_NONE;
        char full[WHARF_NAME_MAX + 1];
        int r = wh_message_check(m);
        if (r == 0)
                r = wh_direct_full_name(peer, full);
        if (r == 0)
                r = outlet_get(d, peer, deadline_ns, &right);
        if (r < 0)
                return r;
        r = wharf_sendmsg(d->task, right, m, deadline_ns);
        /* With the last two, another thread found it dead first, and dropped it. */
        bool dropped = (r == -EBADF || r == -ECANCELED) && outlet_right(d, peer) != right;
        if (r == -EPIPE || r == -EKEYREVOKED || r == -EPROTO || dropped)
                outlet_end(d, peer, right);
        return r == -EKEYREVOKED || dropped ? wh_fail(-EPIPE, NULL) : r;
}

WHARF_API int wharf_direct_send(wharf_direct *d, const char *peer, const void *data, size_t len_bytes,
                                int64_t deadline_ns)
{
        struct wharf_msg m = {.size = sizeof m, .data = (void *)(uintptr_t)data, .len_bytes = len_bytes};
        return wharf_direct_sendmsg(d, peer, &m, deadline_ns);
}
