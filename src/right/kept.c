#include "right/kept.h"

#include "base/trace.h"
#include "os/os.h"
#include "port/branch.h"
#include "right/right.h"
#include "port/owned.h"
#include "port/places.h"
#include "port/port.h"
#include "task/why.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

int wh_right_keep(wharf_task *t, wharf_name right, int *ret_fd, struct wh_kept *ret)
{
        int err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return wh_fail(err, NULL);
        int r = l->once || l->out.seq || l->out.lane || l->out.over ? -EPERM : 0;
        if (r == 0) {
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
                l->kept = true;
                *ret = (struct wh_kept){.greeted = l->greeted};
                memcpy(ret->hello, &l->hello, sizeof ret->hello);
                *ret_fd = l->sock;
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

/* Lock and return the inbox of the port that the sender `id` sends to; NULL when there is none such. */
static struct wh_inbox *sender_lock(wharf_task *t, uint64_t id, struct wh_link **ret)
{
        struct wh_link *l = id <= UINT32_MAX ? (struct wh_link *)wh_table_find(&t->links, (uint32_t)id) : NULL;
        struct wh_owned *o = wh_owned(l);
        while (l && atomic_load_explicit(&l->o.name, memory_order_relaxed) == id) {
                struct wh_inbox *in = o->inbox;
                if (!in)
                        return NULL;
                wh_lock(&in->lock);
                if (o->inbox == in && atomic_load_explicit(&l->o.name, memory_order_relaxed) == id && o->port) {
                        *ret = l;
                        return in;
                }
                bool moved = o->inbox != in;
                wh_unlock(&in->lock);
                if (!moved)
                        return NULL;
        }
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

WHARF_API int wharf_sender_introducers(wharf_task *t, uint64_t sender_id, struct wharf_introducer *ret, unsigned max)
{
        struct wh_link *l;
        if (!ret && max)
                return wh_fail_null("ret");
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        struct wh_inbox *in = sender_lock(t, sender_id, &l);
        if (!in)
                return wh_fail(-ENOENT, "%" PRIu64 " is no sender here, or not any more", sender_id);
        unsigned n = wh_link_introducers(l, ret, max);
        wh_unlock(&in->lock);
        return (int)n;
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
