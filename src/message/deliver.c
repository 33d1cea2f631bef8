/*
 * A message becomes the user's: its payload, the items that came with it and the right to answer it. And what the user
 * holds of it is given back.
 *
 * Always true:
 *   - Until all of it can be the user's, nothing is taken from the link. What fails before leaves the message where it is,
 *     whole, for another call.
 *   - An offer is claimed when all that could fail has been done. If it was withdrawn, what is in it is its sender's.
 *   - What msg->held says is enough to give the payload back, whatever has become of the port or the right.
 */
#include "message/call.h"
#include "message/deliver.h"
#include "message/items.h"
#include "message/move.h"
#include "message/sender.h"
#include "port/owned.h"
#include "port/port.h"
#include "right/calls.h"

#include "base/cleanup.h"
#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static_assert((uint32_t)WH_BLOCK_MAX == WHARF_IN_PLACE_MAX, "what can be lent is what is taken");
static_assert((int)WHARF_PAYLOAD_ALIGN == (int)WH_PAYLOAD_ALIGN, "what is promised is what is asked for");

/* The payload to the user, in the way it asked for. Nothing is taken from the link yet but by holding. */
static int deliver_payload(struct wh_link *l, struct wh_incoming *in, struct wh_stash *s, struct wharf_msg *m,
                           wharf_name holder, bool *ret_held)
{
        *ret_held = false;
        m->held[0] = WH_HELD_NOTHING;
        if (m->flags & WHARF_RECV_IN_PLACE && in->where == WH_IN_BLOCK) {
                m->data = (void *)(uintptr_t)in->bytes;
                m->held[0] = holder ? WH_HELD_HOLDER_BLOCK : WH_HELD_OWNER_BLOCK;
                m->held[1] = holder ? holder : l->who.id;
                m->held[2] = in->slot;
                m->held[3] = l->in.lane->number;
                *ret_held = true;
                return 0;
        }
        if (m->flags & (WHARF_RECV_IN_PLACE | WHARF_RECV_ALLOC)) {
                if (in->where == WH_IN_STASH) {
                        m->data = s->bytes;
                        m->held[0] = !s->mapped                             ? WH_HELD_MALLOC
                                     : s->how == WHARF_HOW_DIRECT && holder ? WH_HELD_WINDOW
                                                                            : WH_HELD_MAP;
                        m->held[1] = holder;
                        m->held[2] = s->room;
                        m->held[3] = UINT64_MAX;
                        if (s->mapped && s->room > WH_OS_AT_ONCE_BYTES)
                                m->held[3] = (uint64_t)wh_steal_fd(&s->memory); /* the last of it goes with this */
                        else if (s->mapped)
                                wh_os_close_theirs(wh_steal_fd(&s->memory)); /* its mapping may come back */
                        s->bytes = NULL;
                        s->mapped = false;
                        return 0;
                }
                /* What lies in a record is copied, in place too: it shares a line with the record's head. */
                void *own = wh_os_malloc_payload(in->len);
                if (!own)
                        return wh_trace(-ENOMEM);
                wh_shm_copy(own, in->bytes, in->len);
                m->data = own;
                m->held[0] = WH_HELD_MALLOC;
                return 0;
        }
        if (in->bytes != m->data && in->len)
                wh_shm_copy(m->data, in->bytes, in->len);
        return 0;
}

/* As before it was delivered. */
static void undeliver_payload(const struct wh_incoming *in, struct wh_stash *s, struct wharf_msg *m, void *data)
{
        if (m->held[0] == WH_HELD_MALLOC || m->held[0] == WH_HELD_MAP || m->held[0] == WH_HELD_WINDOW) {
                if (in->where == WH_IN_STASH) {
                        s->bytes = m->data;
                        s->mapped = m->held[0] != WH_HELD_MALLOC;
                        if (s->mapped)
                                s->memory = (int)m->held[3];
                } else {
                        free(m->data);
                }
        }
        m->held[0] = WH_HELD_NOTHING;
        m->data = data;
}

/* The right to answer it is the first of its items (WH_CALL_CARRIED). Of a reply nothing is asked. */
static bool is_carried(const struct wh_incoming *in, wharf_name holder)
{
        return wh_unlikely(in->call == WH_CALL_CARRIED) && !holder;
}

/* The message is taken and nobody gets it. m->reply is to be dropped, once the inbox is not locked. 0, or as
 * wh_deliver(). */
static int drop_message(wharf_task *t, struct wh_link *l, struct wh_incoming *in, struct wharf_msg *m)
{
        wharf_name reply = WHARF_NONE;
        int r = in->call && !is_carried(in, WHARF_NONE) ? wh_reply_new(t, l, in->call, &reply) : 0;
        if (r < 0)
                return r;
        if (in->how & WH_HOW_OFFERED && !wh_link_claim(l, in)) {
                if (reply)
                        wh_reply_forget(t, reply);
                wh_link_skip(l, in);
                return 1;
        }
        wh_link_took(l, in);
        m->reply = reply;
        return 0;
}

/* The caller learns whose it is and what it takes. Of a reply there is one: it is not first in anybody's way. */
static int does_not_fit(wharf_task *t, struct wh_link *l, struct wh_incoming *in, struct wharf_msg *m, bool reply)
{
        int r = m->flags & WHARF_RECV_DROP_UNFIT && !reply ? drop_message(t, l, in, m) : 0;
        if (r != 0)
                return r;
        m->len_bytes = in->len;
        m->n_items = in->n_items - (!reply && is_carried(in, WHARF_NONE) && in->n_items);
        if (!reply)
                m->id = in->id;
        return -EOVERFLOW;
}

/* In one piece: what a step has done is undone by those below it, when they fail, and that is seen only side by side. */
int wh_deliver(wharf_task *t, struct wh_link *l, struct wh_incoming *in, const struct wh_kept_reply *kept,
               struct wharf_msg *m, wharf_name holder)
{
        struct wh_stash *stash = kept ? kept->stash : &l->in.stash;
        struct wh_items *items = kept ? kept->items : &l->in.items;
        bool whole = m->flags & (WHARF_RECV_IN_PLACE | WHARF_RECV_ALLOC), offered = in->how & WH_HOW_OFFERED;
        const bool carried = is_carried(in, holder);
        if (wh_unlikely(carried && (in->n_items == 0 || items->kind[0] != WH_ITEM_REPLY)))
                return wh_trace(-EPROTO);
        const unsigned n_shown = m->flags & WHARF_RECV_NO_ITEMS ? 0 : in->n_items - carried;
        const unsigned n_items = n_shown + carried;
        if (wh_unlikely(offered && !wh_link_still_offered(l, in))) {
                wh_link_skip(l, in);
                return 1;
        }
        if (wh_unlikely((!whole && in->len > m->cap_bytes) || n_shown > m->cap_items))
                return does_not_fit(t, l, in, m, holder);
        wharf_name reply = WHARF_NONE;
        int r = wh_unlikely(n_items) ? wh_items_open(t, l, items, n_items) : 0;
        if (wh_unlikely(r < 0))
                return r;
        if (wh_unlikely(in->call && !holder && !carried) && (r = wh_reply_new(t, l, in->call, &reply)) < 0) {
                wh_moving_undo(items);
                return r;
        }
        struct wharf_item got[WHARF_ITEMS_MAX]; /* the user's are not touched before an offer is taken */
        bool held = false;
        void *data = m->data;
        r = deliver_payload(l, in, stash, m, holder, &held);
        struct wharf_item *to = offered || carried ? got : m->items;
        if (wh_unlikely(r == 0 && n_items) && (r = wh_items_accept(t, l, items, n_items, to)) < 0)
                undeliver_payload(in, stash, m, data);
        if (wh_unlikely(r == 0 && offered && !wh_link_claim(l, in))) {
                /* It was withdrawn, and all that is in it is its sender's: nothing of it was made ours yet. */
                undeliver_payload(in, stash, m, data);
                wh_items_unaccept(t, got, n_items);
                wh_link_skip(l, in);
                r = 1;
        }
        if (wh_unlikely(r == 0 && n_items))
                wh_items_take(t, items, to, n_items);
        if (wh_unlikely(r != 0)) {
                wh_moving_undo(items);
                if (reply)
                        wh_reply_forget(t, reply);
                return r;
        }
        if (wh_unlikely(to == got && n_shown))
                memcpy(m->items, got + carried, n_shown * sizeof *got);
        if (wh_unlikely(carried))
                reply = got[0].name;
        m->len_bytes = in->len;
        m->n_items = n_shown;
        m->id = in->id;
        m->how = in->how & (uint8_t)~WH_HOW_OFFERED;
        m->reply = reply;
        m->notice = 0;
        m->about = WHARF_NONE;
        m->call = 0;
        m->error = 0;
        if (wh_unlikely(in->n_items && !n_items)) /* not asked for */
                wh_items_done(items);
        if (wh_unlikely(held)) {
                wh_link_hold(l, in);
                if (l->owner)
                        wh_ref_take(&wh_owned(l)->refs);
        } else if (wh_likely(!kept)) {
                wh_link_took(l, in);
        }
        return 0;
}

/* ---- giving back ---- */

/* What is held keeps its lane, so there is one. True when the sender waits for the room. */
static bool release_held(struct wh_link *l, const struct wharf_msg *m)
{
        struct wh_lane_rx *rx = wh_link_lane(l, (uint32_t)m->held[3]);
        if (wh_unlikely(!rx))
                return false;
        rx->blocks_held--;
        bool wanted = wh_lane_release(rx, (uint16_t)m->held[2]);
        wh_link_unheld(l, rx);
        return wanted;
}

WHARF_API void wharf_release(wharf_task *t, struct wharf_msg *m)
{
        if (!m)
                return;
        uint64_t kind = m->held[0], slot = m->held[2];
        struct wh_link *l;
        int err;
        m->held[0] = WH_HELD_NOTHING;
        switch (kind) {
        case WH_HELD_NOTHING:
                return;
        case WH_HELD_MALLOC:
                free(m->data);
                break;
        case WH_HELD_MAP:
                wh_os_munmap(m->data, m->held[2]);
                if (wh_task_ours(t)) /* in a forked child the number is somebody else's */
                        wh_os_close_theirs((int)m->held[3]);
                break;
        case WH_HELD_WINDOW:
                l = wh_holder_lock(t, (wharf_name)m->held[1], &err);
                if (!l) {
                        wh_os_munmap(m->data, m->held[2]);
                        break;
                }
                wh_window_give(l, m->data, m->held[2]);
                wh_unlock(&l->o.lock);
                break;
        case WH_HELD_OWNER_BLOCK: {
                if (!wh_task_ours(t))
                        break;
                struct wh_inbox *in = wh_sender_lock(t, m->held[1], &l);
                if (!in)
                        break;
                if (release_held(l, m) && l->sock >= 0)
                        wh_link_bell(l);
                wh_link_unref(l);
                wh_unlock(&in->lock);
                break;
        }
        case WH_HELD_HOLDER_BLOCK:
        case WH_HELD_RESERVED:
                l = wh_holder_lock(t, (wharf_name)m->held[1], &err);
                if (!l)
                        break; /* the right was dropped, and its memory with it */
                if (kind == WH_HELD_RESERVED)
                        wh_lane_unlend(l->out.lane, (uint16_t)slot);
                else if (release_held(l, m))
                        wh_link_bell(l);
                wh_unlock(&l->o.lock);
                break;
        }
        m->data = NULL;
}
