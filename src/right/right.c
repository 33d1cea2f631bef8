/*
 * Send rights: made, copied, dropped.
 */
#include "right/held.h"
#include "right/calls.h"
#include "right/kept.h"
#include "right/right.h"
#include "port/owned.h"
#include "port/places.h"
#include "port/port.h"
#include "task/why.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int wh_right_from_socket(wharf_task *t, int sock, bool provisional, bool once, wharf_name *ret)
{
        struct wh_held *h = wh_held_new(t, sock);
        if (!h)
                return wh_trace(-ENOMEM);
        struct wh_link *l = &h->link;
        l->provisional = provisional;
        l->once = once;
        int r = wh_table_add(&t->names, &l->o);
        if (r < 0) {
                l->sock = -1;
                wh_task_give(t, &l->o);
                return r;
        }
        wh_os_fd_private(sock);
        *ret = atomic_load_explicit(&l->o.name, memory_order_relaxed);
        l->who.id = *ret;
        return 0;
}

int wh_right_given(wharf_task *t, int sock, bool provisional, bool once, const struct wharf_introducer *given,
                   wharf_name *ret)
{
        int err, r = wh_right_from_socket(t, sock, provisional, once, ret);
        struct wh_link *l = r == 0 ? wh_holder_lock(t, *ret, &err) : NULL;
        if (l) {
                l->given = *given;
                wh_unlock(&l->o.lock);
        }
        return r;
}

void wh_right_greet(wharf_task *t, wharf_name right)
{
        int err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return;
        l->in.sock_ready = true;
        l->in.budget = WH_BUDGET;
        if (!l->in.leader)
                wh_link_read(l, WH_UNTIL_GREETED, 0);
        wh_holder_unlock(l);
}

int wh_right_pair(const struct wh_hello *h, int *ret_owner, int *ret_holder)
{
        int sv[2];
        int r = wh_os_socketpair(sv);
        if (r < 0)
                return wh_trace(r);
        wh_os_fd_private(sv[0]);
        wh_os_fd_private(sv[1]);
        struct wh_frame f = {.type = WH_FRAME_HELLO};
        r = h ? wh_frame_greet(sv[0], &f, h) : 0;
        if (r < 0) {
                wh_os_close(sv[0]);
                wh_os_close(sv[1]);
                return wh_trace(r);
        }
        *ret_owner = sv[0];
        *ret_holder = sv[1];
        return 0;
}

int wh_right_mint(wharf_task *t, wharf_name port, uint32_t kind, int *ret, uint64_t *ret_id)
{
        const bool once = kind == WHARF_MAKE_ONCE;
        int err, ours, theirs;
        struct wh_hello h;
        struct wh_link *l;
        struct wh_notice *unused = NULL;
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return err;
        struct wh_inbox *in = p->inbox;
        if (once && !(unused = wh_notice_new(t, WHARF_NOTICE_ONCE_UNUSED, port, port))) {
                wh_unlock(&in->lock);
                return wh_trace(-ENOMEM);
        }
        if (wh_port_places(p) >= p->opts.links_max)
                wh_port_reap(p);
        wh_port_hello(p, &h);
        int r = wh_right_pair(&h, &ours, &theirs);
        while (r == -EMFILE) { /* whose holders are gone, each has one until its port looks, and none may ask it to */
                const uint32_t before = p->n_links;
                wh_port_reap(p);
                if (p->n_links == before)
                        break;
                r = wh_right_pair(&h, &ours, &theirs);
        }
        if (r == 0 && (r = kind == WH_MAKE_DIRECTORY ? wh_port_add_directory(p, ours, &l)
                                                     : wh_port_add_link(p, ours, t->accounts.self, true, &l)) < 0) {
                wh_os_close(ours);
                wh_os_close(theirs);
        }
        if (r == 0) {
                *ret = theirs;
                *ret_id = l->who.id;
                l->once = once;
                p->n_once += once;
                p->made += !once;
                if (once)
                        unused->sender = *ret_id;
                wh_owned(l)->once_notice = unused;
        } else {
                wh_notice_free(t, unused);
        }
        wh_unlock(&in->lock);
        return r;
}

void wh_right_unmint(wharf_task *t, wharf_name port, uint64_t id)
{
        int err;
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return;
        struct wh_inbox *in = p->inbox;
        struct wh_link *l = wh_port_sender(p, id);
        if (l) {
                wh_notice_free(t, wh_owned(l)->once_notice);
                wh_owned(l)->once_notice = NULL;
                p->made -= !l->once;
                wh_port_remove_link(l);
        }
        wh_unlock(&in->lock);
}

int wh_right_introduce(struct wh_link *l, const uid_t *asked, int64_t deadline_ns, int *ret)
{
        int r = l->once ? -EPERM : 0, owner = -1, holder = -1;
        l->in.budget = WH_BUDGET;
        while (r == 0) {
                struct wh_room seen = wh_room_now(l);
                l->out.sock_full = false;
                r = wh_link_rebind(l);
                if (r == 0 && owner < 0)
                        r = wh_right_pair(l->greeted ? &l->hello : NULL, &owner, &holder);
                if (r == 0) {
                        struct wh_frame f = {.type = WH_FRAME_ADOPT, .n_fds = 1};
                        if (asked) {
                                f.arg = WH_ADOPT_ASKED;
                                f.id = *asked;
                                f.call = l->task->accounts.self;
                        }
                        r = wh_link_frame(l, &f, NULL, 0, &owner, false);
                        if (r == 0)
                                break;
                }
                if (r == -EAGAIN)
                        r = wh_holder_wait(l, deadline_ns, &seen);
        }
        wh_os_close_end(owner, WH_END_SHARED); /* its receiver may have it, and be gone, by now */
        if (r < 0)
                wh_os_close(holder); /* nobody has the other end */
        else
                *ret = holder;
        return r;
}

static int right_new(wharf_task *t, wharf_name port, bool once, wharf_name *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        int sock;
        uint64_t id;
        int r = wh_right_mint(t, port, once ? WHARF_MAKE_ONCE : WHARF_MAKE_SEND, &sock, &id);
        if (r == 0 && (r = wh_right_from_socket(t, sock, !once, once, ret)) < 0) {
                wh_os_close(sock);
                wh_right_unmint(t, port, id);
        }
        struct wh_link *l = r == 0 ? wh_holder_lock(t, *ret, &r) : NULL;
        if (l) {
                wh_held(l)->sender_id = id;
                wh_unlock(&l->o.lock);
        }
        return wh_fail_at(t, r, port);
}

WHARF_API int wharf_right_new(wharf_task *t, wharf_name port, wharf_name *ret)
{
        return right_new(t, port, false, ret);
}

WHARF_API int wharf_once_new(wharf_task *t, wharf_name port, wharf_name *ret)
{
        return right_new(t, port, true, ret);
}

WHARF_API int wharf_right_copy(wharf_task *t, wharf_name right, int64_t deadline_ns, wharf_name *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        int sock, err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return wh_fail_at(t, err, right);
        int r = wh_right_introduce(l, NULL, deadline_ns, &sock);
        const struct wharf_introducer given = l->given;
        wh_holder_unlock(l);
        if (r == 0 && (r = wh_right_given(t, sock, true, false, &given, ret)) < 0)
                wh_os_close_end(sock, WH_END_OURS);
        return wh_fail_at(t, r, right);
}

WHARF_API int wharf_right_connect(wharf_task *t, const char *path, wharf_name *ret)
{
        if (!path)
                return wh_fail_null("path");
        if (!ret)
                return wh_fail_null("ret");
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        int sock = wh_os_socket_unix(SOCK_SEQPACKET);
        if (sock < 0)
                return wh_fail(sock, NULL);
        wh_os_fd_private(sock);
        int r;
        do
                r = wh_os_connect_unix(sock, path);
        while (r == -EINTR);
        if (r == 0)
                r = wh_right_from_socket(t, sock, false, false, ret);
        if (r < 0) {
                wh_os_close_end(sock, WH_END_OURS);
                return wh_fail(r, "%s: %s", path, strerrordesc_np(-r));
        }
        return wh_fail(0, NULL);
}

int wh_right_drop(wharf_task *t, struct wh_object *o, wharf_name name)
{
        struct wh_link *l = (struct wh_link *)o;
        struct wh_held *h = wh_held(l);
        wh_lock(&o->lock);
        if (atomic_load_explicit(&o->name, memory_order_relaxed) != name) {
                wh_unlock(&o->lock);
                return -EBADF;
        }
        wh_asked_forget(l);
        wh_table_remove(&t->names, o);
        wh_waits_hold(&t->waits, l->hello.port_id, -1);
        wh_link_end(l, -ECANCELED);
        l->out.over = -ECANCELED;
        while (h->waiters) {
                /* Wakes the one that polls the socket; the others look at `turn`. */
                wh_os_shutdown(l->sock, SHUT_RDWR);
                wh_holder_turn(l);
                wh_unlock(&o->lock);
                wh_os_futex_wait(&h->turn, atomic_load_explicit(&h->turn, memory_order_relaxed),
                                 wh_os_now_ns() + 100000, false);
                wh_lock(&o->lock);
        }
        wh_calls_done(l);
        if (l->once_fds || l->once_bytes) {
                wh_once_over(t, l->sock, wh_link_end_how(l), wh_once_payer(l), l->once_fds, l->once_bytes);
                l->sock = -1;
        }
        wh_held_done(wh_held(l));
        wh_unlock(&o->lock);
        wh_task_give(t, o);
        return 0;
}

WHARF_API int wharf_right_stat(wharf_task *t, wharf_name right, struct wharf_right_stat *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        int err;
        if (ret->size != sizeof *ret)
                return wh_fail(-EINVAL, "wharf_right_stat.size is %u, expected %zu", ret->size, sizeof *ret);
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return wh_fail_at(t, err, right);
        wh_link_probe(l, true);
        if (l->out.lane)
                wh_ring_refresh(&l->out.lane->ring);
        *ret = (struct wharf_right_stat){
                .size = sizeof *ret,
                .attached = l->out.lane != NULL,
                .id = {l->hello.port_id},
                .sent_messages = l->out.seq,
                .unread_messages = l->out.lane ? wh_ring_unread(&l->out.lane->ring) : 0,
                .payload_bytes_max = l->hello.payload_bytes_max,
                .shared_bytes = wh_link_shared_bytes(l),
                .dead = l->out.over,
                .full = wh_link_full_by(l),
                .sender_id = wh_held(l)->sender_id,
        };
        wh_holder_unlock(l);
        return wh_fail(0, NULL);
}

void wh_right_chosen(wharf_task *t, wharf_name right)
{
        int err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return;
        l->given = WH_INTRODUCER_NOBODY;
        wh_unlock(&l->o.lock);
}
