#include "port/kept.h"

#include "base/trace.h"
#include "os/os.h"
#include "port/branch.h"
#include "port/object.h"
#include "port/places.h"
#include "port/port.h"
#include "port/why.h"

#include <errno.h>
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
        int r = l->once || l->tx_seq || l->tx || l->tx_over ? -EPERM : 0;
        if (r == 0) {
                l->sock_ready = true;
                while (!l->greeted && !l->stash.full && !l->items.n && wh_link_pump(l) > 0)
                        ; /* the greeting lies there already, or never comes */
                r = l->over ? l->over : l->tx_over;
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
        *ret = (struct pollfd){.fd = l->sock, .events = l->sock_full ? POLLOUT : POLLIN};
        wh_unlock(&l->o.lock);
        return wh_fail(0, NULL);
}

/* Lock and return the inbox of the port that the sender `id` sends to; NULL when there is none such. */
static struct wh_inbox *sender_lock(wharf_task *t, uint64_t id, struct wh_link **ret)
{
        struct wh_link *l = id <= UINT32_MAX ? (struct wh_link *)wh_table_find(&t->links, (uint32_t)id) : NULL;
        while (l && atomic_load_explicit(&l->o.name, memory_order_relaxed) == id) {
                struct wh_inbox *in = l->inbox;
                if (!in)
                        return NULL;
                wh_lock(&in->lock);
                if (l->inbox == in && atomic_load_explicit(&l->o.name, memory_order_relaxed) == id && l->port) {
                        *ret = l;
                        return in;
                }
                bool moved = l->inbox != in;
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
        bool lives = in && !l->hung_up && !l->over;
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
        uint64_t id = l->branch && l->branch->up ? l->branch->up->id : 0;
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

int wh_port_share_links(wharf_task *t, wharf_name port, uint32_t total)
{
        int err;
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return wh_fail(err, NULL);
        struct wh_inbox *in = p->inbox;
        p->links_shared = total;
        wh_place_freed(p); /* or as good as that */
        wh_unlock(&in->lock);
        return wh_fail(0, NULL);
}

/* ---- shares ---- */

enum {
        SHARE_MIN = 8,     /* links that a user may always have */
        USERS_SEEN = 1024, /* users that are told apart; more count as so many */
        USERS_FEW = 64,    /* the same where there is no memory */
};

/* On whose account a link is: where the kernel has not named its user yet, its introducer's. */
static uid_t link_user(const struct wh_port *p, const struct wh_link *l)
{
        if (l->cred.known)
                return l->cred.uid;
        for (const struct wh_branch *b = l->branch; b; b = b->up) {
                const struct wh_link *by =
                        b->gone ? NULL : (struct wh_link *)wh_table_find(&p->task->links, (uint32_t)b->id);
                if (by && by->port == p && by->cred.known)
                        return by->cred.uid;
        }
        return (uid_t)-1;
}

int wh_port_may_link(const struct wh_port *p, uid_t uid)
{
        if (!p->links_shared || p->n_links < SHARE_MIN)
                return 0;
        static_assert(USERS_SEEN * sizeof(uid_t) <= WH_SCRATCH_BYTES, "they are counted in one scratch");
        uid_t few[USERS_FEW], *scratch = wh_task_scratch_take(p->task), *seen = scratch ? scratch : few;
        uint32_t users = 1, mine = 0, seen_max = scratch ? USERS_SEEN : USERS_FEW;
        seen[0] = uid;
        wh_list_for (n, &p->links) {
                uid_t his = link_user(p, wh_container(n, struct wh_link, in_port));
                mine += his == uid;
                uint32_t i = 0;
                while (i < users && seen[i] != his)
                        i++;
                if (i == users && users < seen_max)
                        seen[users++] = his;
        }
        if (scratch)
                wh_task_scratch_give(p->task, scratch);
        uint32_t share = p->links_shared / (users + 1);
        return mine < (share > SHARE_MIN ? share : SHARE_MIN) ? 0 : -EDQUOT;
}

int wh_port_may_introduce(const struct wh_port *p, const struct wh_link *by)
{
        return wh_port_may_link(p, link_user(p, by));
}
