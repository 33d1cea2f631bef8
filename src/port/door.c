/*
 * The door of a port: connections to the socket that it listens on.
 */
#include "port/port.h"

#include "base/cleanup.h"
#include "os/closer.h"
#include "os/os.h"
#include "port/places.h"
#include "task/why.h"
#include "task/ids.h"

#include <errno.h>

enum { ACCEPTS_MAX = 256 }; /* connections taken in one go */

void wh_port_accept(struct wh_inbox *in, wharf_name name, bool reaped)
{
        struct wh_object *o = wh_table_find(&in->task->names, name);
        struct wh_port *p = (struct wh_port *)o;
        if (!o || o->kind != WHARF_KIND_PORT || atomic_load_explicit(&o->name, memory_order_relaxed) != name ||
            atomic_load_explicit(&p->inbox, memory_order_relaxed) != in)
                return;
        for (int i = 0; i < ACCEPTS_MAX; i++) {
                if (p->listen_fd < 0 && p->at_door < 0) {
                        p->accepts_owed = false;
                        return;
                }
                if (wh_port_places(p) >= p->opts.links_max) {
                        p->accepts_owed = in->accepts_owed = true; /* what it has sent is not lost: it waits there */
                        return;
                }
                int fd = p->at_door >= 0 ? wh_steal_fd(&p->at_door) : wh_os_accept(p->listen_fd);
                if (fd < 0) {
                        /* What has no place now waits for the next event or message that has us look. */
                        p->accepts_owed = fd != -EAGAIN;
                        in->accepts_owed |= p->accepts_owed;
                        return;
                }
                wh_os_fd_private(fd);
                struct wh_link *l = NULL;
                struct ucred u = {.uid = (uid_t)-1};
                socklen_t len = sizeof u;
                bool known = wh_os_getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &len) == 0;
                const uid_t uid = known && wh_id_known(u.uid) ? u.uid : (uid_t)-1;
                int r = wh_port_add_link(p, fd, uid, false, &l);
                if (r == -EDQUOT && !reaped) {
                        p->at_door = fd;
                        in->at_door = p->accepts_owed = in->accepts_owed = in->accepts_more = true;
                        return;
                }
                if (r < 0) {
                        enum wh_refusal which = r == -EDQUOT ? p->links_refused_for : WH_REFUSAL_PLAIN;
                        wh_frame_refusal(fd, r, which,
                                         wh_port_limit(p, r, which)); /* of a connection nobody makes another pair */
                        wh_os_close_end(fd, WH_END_OURS | WH_END_ACCEPTED);
                        p->refused++;
                        continue;
                }
                reaped = false; /* this one may be dead, too */
                p->made++;
                l->connected = true;
                wh_link_identify(l, &(struct wh_cred){u.pid, u.uid, u.gid, known}, WHARF_KNOWN_CONNECTED);
                r = l->end->greet(l, 0);
                if (r < 0 && r != -EPIPE)
                        wh_os_shutdown(fd, SHUT_RDWR); /* it would wait for it; so it is told, and can come again */
        }
        p->accepts_owed = in->accepts_owed = in->accepts_more = true; /* more than a fair share at once */
}

void wh_inbox_accept_owed(struct wh_inbox *in)
{
        in->accepts_owed = in->accepts_more = false;
        wh_list_for (n, &in->ports) {
                struct wh_port *p = wh_container(n, struct wh_port, in_inbox);
                if (p->accepts_owed)
                        wh_port_accept(in, p->o.name, false);
        }
}

void wh_inbox_open_doors(struct wh_inbox *in)
{
        const uint32_t budget = in->budget;
        in->at_door = false;
        wh_list_for (n, &in->ports) {
                struct wh_port *p = wh_container(n, struct wh_port, in_inbox);
                if (p->at_door < 0)
                        continue;
                wh_port_reap(p);
                wh_port_accept(in, p->o.name, true);
        }
        in->budget = budget;
}

bool wh_port_door_served(struct wh_port *p)
{
        if (p->at_door >= 0) {
                wh_port_reap(p);
                wh_port_accept(atomic_load_explicit(&p->inbox, memory_order_relaxed), p->o.name, true);
        }
        return p->at_door < 0;
}

static int listen_no_more(wharf_task *t, wharf_name port)
{
        int err;
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return wh_fail_at(t, err, port);
        struct wh_inbox *in = p->inbox;
        if (p->listen_fd >= 0) {
                wh_os_epoll_del(in->ep, p->listen_fd);
                p->listen_fd = -1;
                p->accepts_owed = p->at_door >= 0; /* it was accepted, and what it has sent is not lost */
                wh_inbox_wake_all(in);             /* its last chance of a sender may be gone with it */
        }
        wh_unlock(&in->lock);
        return 0;
}

WHARF_API int wharf_port_listen(wharf_task *t, wharf_name port, int fd)
{
        int err, on = 0, type = 0;
        socklen_t len = sizeof on;
        if (fd == -1)
                return listen_no_more(t, port);
        if (wh_os_getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) < 0 || !on)
                return wh_fail(-EINVAL, "descriptor %d is no listening socket", fd);
        len = sizeof type;
        if (wh_os_getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET)
                return wh_fail(-EINVAL, "descriptor %d is no SOCK_SEQPACKET socket", fd);
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return wh_fail_at(t, err, port);
        struct wh_inbox *in = p->inbox;
        int r = p->listen_fd >= 0 ? -EBUSY : wh_os_nonblock(fd, true);
        /* So that what is accepted has the kernel say who sent each frame from the first on: nothing comes in between. */
        on = 1;
        if (r == 0)
                r = wh_os_setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
        if (r == 0)
                r = wh_os_epoll_add(in->ep, fd, EPOLLIN | EPOLLET, wh_ep_tag(WH_EP_LISTEN, port));
        if (r == 0) {
                p->listen_fd = fd;
                wh_port_links_changed(p);
        }
        wh_unlock(&in->lock);
        return wh_fail(r, r == -EBUSY ? "port %u listens already, or is on its way to another task" : NULL, port);
}
