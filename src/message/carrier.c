#include "message/carrier.h"
#include "message/deliver.h"

#include "link/pump.h"
#include "message/move.h"
#include "message/send.h"
#include "right/right.h"
#include "port/port.h"
#include "task/why.h"

#include "base/cleanup.h"
#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"

#include <errno.h>

int wh_carrier_pack(wharf_task *t, const struct wharf_msg *m, int64_t deadline_ns, struct wh_carrier *ret)
{
        int sv[2];
        wh_outgoing_init(&ret->out, m->data, m->len_bytes);
        ret->out.id = m->id;
        int r = wh_items_prepare(t, m, &ret->out, &ret->items, WHARF_NONE, deadline_ns);
        if (r < 0)
                return r;
        r = wh_os_socketpair(sv);
        if (r == 0) {
                struct wh_link l = wh_single_link(t, sv[0]);
                wh_os_fd_private(sv[0]);
                wh_os_fd_private(sv[1]);
                r = wh_link_try_send(&l, &ret->out);
                wh_os_close(sv[0]);
                if (r == 0 && sv[1] < 3) { /* the standard descriptors are replaced in the child */
                        r = wh_os_dup_above(sv[1], 3);
                        wh_os_close(sv[1]);
                        wh_os_fd_private(sv[1] = r);
                }
                if (r < 0)
                        wh_os_close(sv[1]);
        }
        if (r < 0) {
                wh_items_finish(t, m, &ret->items, false);
                return wh_fail(wh_trace(r), NULL);
        }
        ret->sock = sv[1];
        return 0;
}

void wh_carrier_done(wharf_task *t, const struct wharf_msg *m, struct wh_carrier *c, bool sent)
{
        if (!sent) /* nobody had it, and what lies in it is open here as well */
                wh_os_close(wh_steal_fd(&c->sock));
        wh_items_finish(t, m, &c->items, sent);
        wh_os_close_theirs(c->sock); /* with all that lies in it, if nobody took it */
}

int wh_carrier_unpack(wharf_task *t, int sock, struct wharf_msg *m, struct wh_link **state)
{
        if (!*state) {
                if (!(*state = wh_os_calloc(1, sizeof **state)))
                        return wh_trace(-ENOMEM);
                **state = wh_single_link(t, sock);
                (*state)->answer = true;
        }
        struct wh_link *l = *state;
        struct wh_incoming in = {0};
        l->task = t;
        int r;
        do { /* a port in it is opened part by part, and nobody else waits here */
                l->in.budget = WH_BUDGET;
                r = wh_link_next(l, &in);
                if (r == 1)
                        r = in.call || in.dropped ? -EPROTO : wh_deliver(t, l, &in, NULL, m, WHARF_NONE);
                else if (r == 0 || r == -EPIPE)
                        r = -ENODATA;
        } while (r == WH_LINK_LATER);
        if (wh_shortage(r) || r == -EMFILE || r == -ENFILE) {
                wh_moving_undo(&l->in.items); /* it may be another task that tries again */
                return r;
        }
        l->sock = -1;
        wh_link_done(l);
        free(l);
        *state = NULL;
        return r;
}

int wh_carrier_link(wharf_task *t, int *ret_owner, wharf_name *ret_right)
{
        int sv[2];
        int r = wh_os_socketpair(sv);
        if (r < 0)
                return wh_fail(wh_trace(r), NULL);
        wh_os_fd_private(sv[1]);
        /* What is sent there before there is a port shall say who sent it, too. Where that is forbidden it does not. */
        const int on = 1;
        wh_os_setsockopt(sv[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
        r = wh_right_from_socket(t, sv[0], false, false, ret_right);
        if (r < 0) {
                wh_os_close(sv[0]);
                wh_os_close(sv[1]);
                return wh_fail(r, NULL);
        }
        *ret_owner = sv[1];
        return 0;
}

int wh_carrier_port(wharf_task *t, int owner, wharf_name *ret)
{
        wharf_name name;
        struct wh_link *l;
        struct wh_hello h;
        int err, r = wh_frame_check_socket(owner);
        if (r < 0)
                return r;
        r = wharf_port_new(t, NULL, &name);
        if (r < 0)
                return r;
        struct wh_port *p = wh_port_lock(t, name, &err);
        if (!p)
                return err;
        struct wh_inbox *in = p->inbox;
        r = wh_port_add_link(p, owner, t->accounts.self, true, &l); /* asked for by the task itself */
        if (r == 0) {
                struct ucred u;
                socklen_t len = sizeof u;
                p->made++; /* a right that was there before its port */
                wh_os_fd_private(owner);
                /* Whoever started this process gave it the pair, and could do with it what it wanted. (What runs with more
                 * rights than whoever started it is given none: see carrier_find() in pattern/inherited.c.) */
                if (wh_os_getsockopt(owner, SOL_SOCKET, SO_PEERCRED, &u, &len) == 0)
                        wh_link_identify(l, &(struct wh_cred){u.pid, u.uid, u.gid, true}, WHARF_KNOWN_BOUND);
                wh_port_hello(p, &h);
                struct wh_frame f = {.type = WH_FRAME_HELLO};
                wh_frame_greet(owner, &f, &h);
        }
        wh_unlock(&in->lock);
        if (r < 0)
                wharf_drop(t, name);
        else
                *ret = name;
        return r;
}
