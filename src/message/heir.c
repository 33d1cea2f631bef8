#include "message/heir.h"

#include "os/os.h"
#include "port/port.h"
#include "task/why.h"

#include <errno.h>

/* Without waiting. On failure the port is as it was. */
static int move_to(wharf_task *t, wharf_name port, wharf_name to)
{
        struct wharf_item item = {.kind = WHARF_MOVE_RECEIVE, .name = port};
        struct wharf_msg m = {.size = sizeof m, .id = WHARF_ID_PORT_DESTROYED, .items = &item, .n_items = 1};
        return wharf_sendmsg(t, to, &m, 0);
}

bool wh_port_inherited(wharf_task *t, struct wh_object *o, wharf_name name)
{
        int err;
        struct wh_port *p = (struct wh_port *)o;
        /* A hint, looked at without the lock: it was set by the user, before. */
        if (wh_likely(!p->heir) || wh_port_lock(t, name, &err) != p)
                return false;
        struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
        wharf_name heir = p->heir;
        p->heir = WHARF_NONE; /* once */
        if (heir && p->listen_fd >= 0) {
                wh_os_epoll_del(in->ep, p->listen_fd);
                p->listen_fd = -1;
        }
        wh_unlock(&in->lock);
        if (!heir)
                return false;
        return move_to(t, name, heir) == 0;
}

WHARF_API int wharf_port_heir(wharf_task *t, wharf_name port, wharf_name right)
{
        int err;
        struct wh_link *l = right ? wh_holder_lock(t, right, &err) : NULL;
        if (right && !l)
                return wh_fail_at(t, err, right);
        bool once = l && l->once, circle = false;
        uint64_t leads_to = l ? l->hello.port_id : 0;
        if (l)
                wh_unlock(&l->o.lock);
        if (once)
                return wh_fail(-EPERM, "a send-once right cannot be an heir");
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return wh_fail_at(t, err, port);
        struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
        if (right && p->opts.flags & WHARF_PORT_FIXED)
                err = -EOPNOTSUPP;
        else if ((circle = right && leads_to == p->id.v))
                err = -ELOOP;
        else
                err = 0;
        if (err == 0)
                p->heir = right;
        wh_unlock(&in->lock);
        return wh_fail(err, circle ? "the right leads to that same port" : "the port was made with WHARF_PORT_FIXED");
}
