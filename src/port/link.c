#include "port/link.h"

#include "base/trace.h"
#include "os/os.h"
#include "port/direct.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct wh_link *wh_link_new(wharf_task *t, uint8_t kind, int sock, bool owner)
{
        struct wh_link *l = wh_task_take(t, kind, sizeof *l, sizeof l->o);
        if (!l)
                return NULL;
        l->task = t;
        l->sock = sock;
        l->owner = owner;
        l->sock_ready = true;
        l->spin_us = t->spin_us_max;
        l->watch_port = WHARF_NONE;
        l->cred = (struct wh_cred){.uid = (uid_t)-1, .gid = (gid_t)-1}; /* nobody, until the kernel says who */
        wh_list_init(&l->in_port);
        wh_list_init(&l->hot);
        wh_list_init(&l->calls);
        l->old_sock = l->change.sock = l->undropped = -1;
        atomic_store_explicit(&l->refs, 1, memory_order_relaxed);
        return l;
}

void wh_link_end(struct wh_link *l, int err)
{
        if (l->over == 0)
                l->over = err;
}

void wh_stash_done(struct wh_stash *s)
{
        if (s->mapped) {
                wh_os_munmap(s->bytes, s->room);
                wh_os_close(s->memory);
        } else {
                free(s->bytes);
        }
        *s = (struct wh_stash){0};
}

void wh_items_done(struct wh_items *i)
{
        for (unsigned k = 0; k < i->n; k++)
                wh_os_close(i->fd[k]);
        i->n = 0;
}

void wh_link_done(struct wh_link *l)
{
        if (l->direct)
                l->stash.bytes = NULL; /* the user's, not ours */
        l->direct = false;
        wh_stash_done(&l->stash);
        wh_items_done(&l->items);
        wh_windows_done(l);
        l->tx = wh_lane_tx_free(l->tx);
        l->rx = wh_lane_rx_free(l->rx);
        while (l->retired) {
                struct wh_lane_rx *rx = l->retired;
                l->retired = rx->next_retired;
                wh_lane_rx_free(rx);
        }
        wh_os_close(l->sock);
        wh_os_close(l->old_sock);
        wh_os_close(l->change.sock);
        l->sock = l->old_sock = l->change.sock = -1;
}
