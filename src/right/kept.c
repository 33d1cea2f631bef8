#include "right/kept.h"

#include "base/trace.h"
#include "link/wire.h"
#include "os/closer.h"
#include "os/os.h"
#include "right/held.h"
#include "right/right.h"
#include "port/places.h"
#include "port/port.h"
#include "task/why.h"

#include <errno.h>
#include <string.h>

int wh_right_keep(wharf_task *t, wharf_name right, int *ret_fd, struct wh_kept *ret)
{
        int err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return wh_fail(err, NULL);
        const bool was = l->kept;
        int r = l->once || l->out.seq || l->out.lane || l->out.over ? -EPERM : 0;
        if (r == 0) {
                l->kept = true; /* from the first frame on */
                l->in.sock_ready = true;
                l->in.budget = WH_BUDGET;
                wh_link_read(l, WH_UNTIL_GREETED, 0); /* the greeting lies there already, or never comes */
                r = l->over                                           ? l->over
                    : l->out.over                                     ? l->out.over
                    : l->in.stash.full || l->in.items.n || l->in.lane ? -EPROTO /* E3 */
                                                                      : 0;
        }
        if (r == 0) {
                struct wh_frame f = {.type = WH_FRAME_WHO, .to = WH_TO_OWNER};
                r = wh_frame_send(l->sock, &f, NULL, 0, NULL, true);
                if (r == -EAGAIN) /* whoever made it filled it */
                        r = wh_trace(-EPROTO);
        }
        if (r == 0) {
                l->provisional = false; /* E1 */
                *ret = (struct wh_kept){.greeted = l->greeted};
                memcpy(ret->hello, &l->hello, sizeof ret->hello);
                *ret_fd = l->sock;
        } else {
                l->kept = was;
        }
        wh_unlock(&l->o.lock);
        return wh_fail(r, NULL);
}

int wh_right_kept(wharf_task *t, wharf_name right, int *ret_fd, struct wh_kept *ret)
{
        int err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return wh_fail(err, NULL);
        int r = l->kept ? 0 : -EPERM;
        if (r == 0) {
                *ret = (struct wh_kept){.greeted = l->greeted};
                memcpy(ret->hello, &l->hello, sizeof ret->hello);
                *ret_fd = l->sock;
        }
        wh_unlock(&l->o.lock);
        return wh_fail(r, NULL);
}

int wh_right_resume(wharf_task *t, int fd, const struct wh_kept *kept, wharf_name *ret)
{
        wharf_name name;
        int err, r = wh_frame_check_socket(fd);
        if (r == 0)
                r = wh_right_from_socket(t, fd, false, false, &name);
        if (r < 0)
                return wh_fail(wh_trace(r), NULL);
        struct wh_link *l = wh_holder_lock(t, name, &err);
        l->kept = true;
        memcpy(&l->hello, kept->hello, sizeof kept->hello);
        l->hello.capacity_bytes = WH_CAPACITY_BYTES;
        l->greeted = kept->greeted != 0;
        wh_unlock(&l->o.lock);
        *ret = name;
        return wh_fail(0, NULL);
}

int wh_right_room(wharf_task *t, wharf_name right, struct pollfd *ret)
{
        int err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return wh_fail(err, NULL);
        *ret = (struct pollfd){.fd = l->sock, .events = l->out.sock_full ? POLLOUT : POLLIN};
        wh_unlock(&l->o.lock);
        return wh_fail(0, NULL);
}

uint32_t wh_right_unread(wharf_task *t, wharf_name right)
{
        int err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return UINT32_MAX;
        const uint32_t n = wh_frames_unread(l->sock);
        wh_unlock(&l->o.lock);
        return n;
}

void wh_right_hang_up(wharf_task *t, wharf_name right)
{
        int err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return;
        wh_os_shutdown(l->sock, SHUT_RDWR);
        wh_unlock(&l->o.lock);
}

int wh_right_bind(wharf_task *t, wharf_name right, int *ret_left)
{
        int r;
        struct wh_link *l = wh_holder_lock(t, right, &r);
        *ret_left = -1;
        if (!l)
                return wh_fail(r, NULL);
        l->in.budget = WH_BUDGET;
        wh_link_heed(l); /* has its port moved? */
        const int left = l->provisional ? wh_os_dup_above(l->sock, 0) : -1;
        r = l->provisional && left < 0 ? left : wh_link_rebind(l);
        if (r == 0 && left >= 0 && !l->provisional && !l->borrowed) {
                wh_os_fd_private(left);
                *ret_left = left;
        } else {
                wh_os_close_end(left, WH_END_SHARED);
        }
        wh_holder_unlock(l);
        return wh_fail(r, NULL);
}

enum { SHARE_MIN = 8 }; /* links that a user may always have */

int wh_port_takes(wharf_task *t, wharf_name port, uint32_t kinds)
{
        int err;
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return err;
        p->kinds_refused = ~kinds;
        wh_unlock(&p->inbox->lock);
        return 0;
}

int wh_port_of_others(wharf_task *t, wharf_name port)
{
        int err;
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return wh_fail(err, NULL);
        p->of_others = true;
        wh_unlock(&p->inbox->lock);
        return 0;
}

int wh_port_share_links(wharf_task *t, wharf_name port, uint32_t total)
{
        int err;
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return wh_fail(err, NULL);
        struct wh_inbox *in = p->inbox;
        p->accounts.equal = true;
        p->accounts.least[WH_SHARE_LINKS] = SHARE_MIN;
        /* Those that gave their places away are more than what there is for all to share (places.h). */
        wh_accounts_limit(&p->accounts, WH_SHARE_LINKS,
                          (total < p->opts.links_max ? total : p->opts.links_max) + p->n_placeless);
        p->links_shared = total;
        wh_place_freed(p); /* or as good as that */
        wh_unlock(&in->lock);
        return wh_fail(0, NULL);
}
