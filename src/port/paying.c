/*
 * What an owner's end pays for its replies, and on whose account (account.h).
 *
 * Memory for replies is made by the one who answers, and how much of it stays is up to the caller: the lane and its
 * sections for as long as the link lives (KEPT), a reply in a memory of its own until it is read (REPLIES). So a link keeps
 * little, and what is larger goes in a memory of its own, of which nothing stays once it was read.
 *
 * That it was read the kernel says and nobody else: a memory goes with a frame, and how many frames may lie unread in a
 * socket follows from how many bytes the kernel has for them. Whoever took a reply has read all frames before it.
 */
#include "port/link.h"
#include "port/port.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <string.h>

enum {
        FRAME_LEAST = 640, /* the kernel has more than that for the smallest datagram */
        UNREAD_FEW = 16,
};

uint64_t wh_reply_room(struct wh_link *l)
{
        const uint64_t kept = l->bill.of[WH_SHARE_KEPT], most = l->bill.kept_max;
        uint64_t share = wh_bill_left(&l->bill, WH_SHARE_KEPT);
        share = share < UINT64_MAX - kept ? share + kept : UINT64_MAX;
        return share < most ? share : most;
}

void wh_reply_kept(struct wh_link *l)
{
        wh_bill_set(&l->bill, WH_SHARE_KEPT, wh_link_shared_bytes(l));
}

/* Those that were read are paid for no more. */
static void settle(struct wh_link *l)
{
        int left = l->n_unread_replies && l->sock >= 0 ? wh_os_unread(l->sock) : -1;
        if (left < 0)
                return;
        const uint32_t n = l->n_unread_replies, most = left && left < FRAME_LEAST ? 1 : (uint32_t)left / FRAME_LEAST;
        if (most >= n)
                return;
        uint64_t read = 0;
        for (uint32_t i = 0; i < n - most; i++)
                read += l->unread_replies[i];
        memmove(l->unread_replies, l->unread_replies + (n - most), most * sizeof *l->unread_replies);
        l->n_unread_replies = most;
        wh_bill_give(&l->bill, WH_SHARE_REPLIES, read);
}

int wh_reply_memory(struct wh_link *l, uint64_t bytes)
{
        settle(l);
        if (l->n_unread_replies == l->room_unread_replies) {
                uint32_t room = l->room_unread_replies ? 2 * l->room_unread_replies : UNREAD_FEW;
                uint64_t *more = wh_os_realloc(l->unread_replies, room * sizeof *more);
                if (!more)
                        return wh_trace(-ENOMEM);
                l->unread_replies = more;
                l->room_unread_replies = room;
        }
        int r = wh_bill_charge(&l->bill, WH_SHARE_REPLIES, bytes, false);
        if (r == 0)
                l->unread_replies[l->n_unread_replies++] = bytes;
        return r;
}

void wh_reply_memory_unsent(struct wh_link *l, uint64_t bytes)
{
        l->n_unread_replies--;
        wh_bill_give(&l->bill, WH_SHARE_REPLIES, bytes);
}

bool wh_replies_settle(struct wh_link *l)
{
        struct wh_inbox *in = l->inbox;
        const uint64_t before = wh_bill_left(&l->bill, WH_SHARE_REPLIES);
        wh_lock(&in->lock);
        if (l->inbox == in && l->port)
                wh_list_for (n, &l->port->links) {
                        struct wh_link *k = wh_container(n, struct wh_link, in_port);
                        wh_lock(&k->o.lock);
                        settle(k);
                        wh_unlock(&k->o.lock);
                }
        wh_unlock(&in->lock);
        return wh_bill_left(&l->bill, WH_SHARE_REPLIES) > before;
}
