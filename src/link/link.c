#include "link/link.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct wh_link *wh_link_new(wharf_task *t, uint8_t kind, int sock, const struct wh_end_ops *end)
{
        struct wh_link *l = wh_task_take(t, kind, end->size, sizeof l->o);
        if (!l)
                return NULL;
        l->task = t;
        l->sock = sock;
        l->end = end;
        l->owner = end->owner;
        l->in.sock_ready = true;
        l->cred = (struct wh_cred){.uid = (uid_t)-1, .gid = (gid_t)-1}; /* nobody, until the kernel says who */
        l->who = WH_SENDER_UNKNOWN;
        l->given = l->who.introducer = WH_INTRODUCER_NOBODY;
        l->in.old_sock = l->in.change.sock = -1;
        l->in.budget = WH_BUDGET;
        return l;
}

void wh_link_end(struct wh_link *l, int err)
{
        if (l->over == 0)
                l->over = err;
}

int wh_link_break(struct wh_link *l, int err)
{
        if (l->owner && !l->over) {
                const enum wh_refusal which = err == -EDQUOT ? l->in.refusal : WH_REFUSAL_PLAIN;
                wh_frame_refusal(l->sock, err, which, l->end->limit(l, err, which));
        }
        wh_link_end(l, err);
        if (l->out.over == 0 && !l->owner)
                l->out.over = err;
        return err;
}

enum wh_end wh_link_end_how(const struct wh_link *l)
{
        return (l->handed_on || l->kept ? WH_END_SHARED : WH_END_OURS) | (l->connected ? WH_END_ACCEPTED : 0);
}

unsigned wh_link_kept(const struct wh_link *l)
{
        unsigned n = l->in.lane ? wh_lane_rx_kept(l->in.lane) : 0;
        for (const struct wh_lane_rx *rx = l->in.retired; rx; rx = rx->next_retired)
                n += wh_lane_rx_kept(rx);
        return n;
}

void wh_link_let_go(struct wh_link *l)
{
        struct wh_lane_rx *rx = l->in.lane;
        if (l->in.direct)
                l->in.stash.bytes = NULL; /* the user's, not ours */
        l->in.direct = false;
        wh_stash_done(&l->in.stash);
        wh_items_done(&l->in.items);
        wh_os_close_end(l->in.change.sock, wh_link_end_how(l) & ~WH_END_ACCEPTED);
        l->in.change.sock = -1;
        l->in.change.due = false;
        l->out.lane = wh_lane_tx_free(l->out.lane);
        l->in.lane = NULL;
        if (rx && rx->blocks_held) {
                rx->next_retired = l->in.retired;
                l->in.retired = rx;
        } else {
                wh_lane_rx_free(rx);
        }
}

void wh_link_done(struct wh_link *l)
{
        wh_link_let_go(l);
        while (l->in.retired) {
                struct wh_lane_rx *rx = l->in.retired;
                l->in.retired = rx->next_retired;
                wh_lane_rx_free(rx);
        }
        wh_os_close_end(l->sock, wh_link_end_how(l));
        wh_os_close_end(l->in.old_sock, WH_END_SHARED);
        l->sock = l->in.old_sock = -1;
}
