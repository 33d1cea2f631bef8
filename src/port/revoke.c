/*
 * Revoking: the owner of a port ends the link of one sender, or everything that came through it.
 */
#include "port/branch.h"
#include "port/owned.h"
#include "port/places.h"
#include "port/port.h"
#include "task/why.h"

#include "os/os.h"

#include <errno.h>
#include <inttypes.h>

/* For the last time: as much as a socket holds, which is 278 frames and doorbells, and a lane; the sender may go on to send. */
enum { DRAIN_BUDGET = 320 * (WH_COST_FRAME + 2) + WH_LANE_BYTES_MAX / WH_COST_MAPPED };

/*
 * Read what lies in the socket, dropping messages: a pair that its holder made just now must be told as well (REBIND),
 * and so must those whom this sender has introduced (ADOPT), for they would only see a hang-up otherwise.
 */
static void drain(struct wh_link *l)
{
        wh_owned(l)->inbox->budget = DRAIN_BUDGET;
        while (!l->over && !l->in.sock_ended) {
                int r = wh_link_pump(l);
                if (l->in.direct) {
                        l->in.stash.bytes =
                                NULL; /* the buffer of a receive that is running; the port forgets it, too */
                        l->in.direct = false;
                }
                if (l->in.stash.full && !l->in.lane)
                        l->in.seq++; /* so that the next one is in its order */
                wh_stash_done(&l->in.stash);
                wh_items_done(&l->in.items);
                if (r <= 0)
                        return;
        }
}

static void end_link(struct wh_port *p, struct wh_link *l, bool branch, int why)
{
        wh_owned(l)->revoked = branch ? WH_REVOKED_BRANCH : WH_REVOKED;
        wh_notice_free(p->task, wh_owned(l)->once_notice); /* the owner knows */
        wh_owned(l)->once_notice = NULL;
        wh_place_unwait(l);
        drain(l);
        struct wh_frame f = {.type = WH_FRAME_REFUSE, .to = WH_TO_HOLDER, .arg = (uint32_t)-why};
        wh_frame_send(l->sock, &f, NULL, 0, NULL, false);
        wh_port_remove_link(l);
}

static int end_links(wharf_task *t, wharf_name port, uint64_t sender_id, bool branch, int why)
{
        int r;
        struct wh_port *p = wh_port_lock(t, port, &r);
        if (!p)
                return wh_fail_at(t, r, port);
        struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
        int n = 0;
        /* From the youngest on: whoever learns of it can rely on that those below have ended before. */
        for (struct wh_list *at = p->links.prev, *before = at->prev; at != &p->links; at = before, before = at->prev) {
                struct wh_link *l = &wh_container(at, struct wh_owned, in_port)->link;
                if (l->who.id != sender_id && !(branch && wh_branch_below(l, sender_id)))
                        continue;
                end_link(p, l, branch, why);
                n++;
        }
        if (n) { /* the last sender may be gone, or the one that somebody receives from */
                wh_inbox_wake_all(in);
                wh_inbox_leave(in, false);
        }
        wh_unlock(&in->lock);
        return n ? n
                 : wh_fail(-ENOENT, "%" PRIu64 " sends nothing to port %u, and nobody below it does", sender_id, port);
}

WHARF_API int wharf_revoke(wharf_task *t, wharf_name port, uint64_t sender_id, uint32_t flags)
{
        if (flags & ~(uint32_t)WHARF_REVOKE_BRANCH)
                return wh_fail(-EINVAL, "flags has unknown bits 0x%x", flags);
        return end_links(t, port, sender_id, flags & WHARF_REVOKE_BRANCH, -EKEYREVOKED);
}

int wh_sender_end(wharf_task *t, wharf_name port, uint64_t sender_id, int why)
{
        int r = end_links(t, port, sender_id, false, why);
        return r < 0 ? r : 0;
}
