#include "right/calls.h"

#include "base/cleanup.h"
#include "base/trace.h"
#include "link/choose.h"
#include "os/closer.h"
#include "os/os.h"
#include "right/right.h"
#include "task/why.h"

#include <errno.h>
#include <stdlib.h>

void wh_call_end(struct wh_link *l, struct wh_call *c, int result)
{
        if (result == 0 || result == -ECANCELED)
                wh_link_told(l, c->seq);
        c->done = true;
        c->result = result;
        wh_stash_done(&c->part);
        wh_told_via(l, c, false);
        wh_os_close_end(c->via, WH_END_OURS);
        c->via = -1;
        wh_told_fire(l, c, result);
        wh_holder_turn(l);
}

int wh_call_link_error(const struct wh_link *l)
{
        return l->over == -EPIPE ? -ECONNRESET : l->over;
}

/* Out of the calls, with all that has come of its reply. */
static void call_leave(struct wh_link *l, struct wh_call *c, bool settled)
{
        wh_told_forget(l, c);
        wh_list_remove(&c->node);
        wh_window_done(l, c->window, settled);
        c->window = NULL;
        wh_stash_done(&c->reply);
        wh_stash_done(&c->part);
        wh_items_done(&c->items);
        wh_os_close_end(wh_steal_fd(&c->via), WH_END_OURS);
}

void wh_call_free(struct wh_link *l, struct wh_call *c, bool settled)
{
        call_leave(l, c, settled);
        free(c);
}

void wh_calls_done(struct wh_link *l)
{
        wh_list_for_safe (n, &wh_held(l)->calls) {
                struct wh_call *c = wh_container(n, struct wh_call, node);
                wh_call_free(l, c, c->done);
        }
}

struct wh_call *wh_call_find(struct wh_link *l, uint32_t number)
{
        wh_list_for (n, &wh_held(l)->calls) {
                struct wh_call *c = wh_container(n, struct wh_call, node);
                if (c->number == number)
                        return c;
        }
        return NULL;
}

int wh_call_keep(struct wh_link *l, struct wh_call *c, struct wh_incoming *in)
{
        if (in->dropped) {
                wh_call_end(l, c, -in->dropped);
                return 0;
        }
        if (in->where == WH_IN_STASH && !l->in.direct) {
                c->reply = l->in.stash;
                l->in.stash = (struct wh_stash){.full = true}; /* emptied by wh_link_took() */
        } else {
                uint8_t *own = in->len ? wh_os_malloc_payload(in->len) : NULL;
                if (in->len && !own)
                        return wh_trace(-ENOMEM);
                if (in->len)
                        wh_shm_copy(own, in->bytes, in->len);
                wh_link_spend(l, in->len / WH_COST_BYTES);
                c->reply = (struct wh_stash){.full = true,
                                             .bytes = own,
                                             .len = in->len,
                                             .room = in->len,
                                             .id = in->id,
                                             .how = in->how,
                                             .refused = (uint16_t)in->refused};
        }
        wh_items_done(&c->items); /* of a reply that was begun elsewhere: this one was faster */
        if (in->n_items) {        /* in a lane nothing is read ahead of a record's own items, so they are all its own */
                c->items = l->in.items; /* and ports that are half open */
                l->in.items.n = 0;
                l->in.items.moving = NULL;
        }
        wh_call_end(l, c, 0);
        return 0;
}

int wh_call_file(struct wh_link *l, struct wh_incoming *in)
{
        wh_link_privatise(l);
        if (in->where == WH_IN_STASH) {
                if (!l->in.stash.full)
                        return 0; /* no memory: that ended the link */
                in->bytes = l->in.stash.bytes;
        }
        wh_link_spend(l, 1);
        struct wh_call *c = wh_call_find(l, in->call);
        int r = c && !c->done ? wh_call_keep(l, c, in) : 0;
        if (wh_unlikely(wh_held(l)->windows_aside) && !c)
                wh_window_settle(l, in->call);
        if (r == 0)
                wh_link_took(l, in); /* nobody's, then: its call was cancelled */
        return r;
}

int wh_calls_file(struct wh_link *l)
{
        struct wh_incoming in = {0};
        while (l->in.budget) {
                const uint32_t before = l->in.budget;
                int r = wh_link_next(l, &in);
                if (r == 1)
                        r = wh_call_file(l, &in);
                else if (l->over || (r == 0 && l->in.budget && before - l->in.budget < WH_BUDGET_TURN))
                        return 0;
                if (r < 0)
                        return r;
        }
        return WH_LINK_LATER;
}

bool wh_call_written(struct wh_link *l, uint32_t number, const struct wh_rec_direct *d, bool *ret_given_up)
{
        struct wh_call *c = wh_call_find(l, number);
        struct wh_window *w = c ? c->window : NULL;
        *ret_given_up = !c || c->done;
        if (*ret_given_up || !w || d->at != (uintptr_t)w->map || d->len == 0 || d->len > w->len)
                return false; /* D3 */
        l->in.stash = (struct wh_stash){.full = true,
                                        .mapped = true,
                                        .memory = -1,
                                        .bytes = w->map,
                                        .len = d->len,
                                        .have = d->len,
                                        .room = w->map_len,
                                        .call = number,
                                        .how = WHARF_HOW_DIRECT};
        c->window = NULL;
        free(w);
        return true;
}

void wh_call_answered(const struct wh_call *c, uint32_t how, int refused)
{
        if (wh_unlikely(c->window_asked) && how != WHARF_HOW_DIRECT)
                wh_set_why("%s", wh_window_why(c->window_refused ? c->window_refused : -refused));
}

int wh_call_announce(struct wh_link *l, struct wh_call *c, int64_t deadline_ns)
{
        int r = wh_window_take(l, c->window_asked, &c->window);
        if (r < 0)
                return r;
        struct wh_outgoing o;
        wh_outgoing_init(&o, c->window->map, 0);
        o.asked = WH_HOW_WINDOW;
        o.call = c->number;
        o.window_at = c->window->len;
        c->window->call = c->number;
        c->window->told = true;
        /* A first call may go before its port was heard of, but nothing else beside it. */
        r = deadline_ns == 0 && !wh_link_greeted(l) ? -EOPNOTSUPP : wh_link_send(l, &o, deadline_ns);
        if (r == -EOPNOTSUPP) {
                c->window_refused = r;
                wh_window_done(l, c->window, true);
                c->window = NULL;
                r = 0;
        }
        return r;
}

void wh_call_unsent(struct wh_link *l, struct wh_call *c, int err)
{
        call_leave(l, c, err == -EAGAIN || err == -ETIMEDOUT);
}

void wh_call_via(struct wh_link *l, uint32_t number, int sock)
{
        struct wh_call *c = wh_call_find(l, number);
        if (!c || c->done || c->via >= 0 || wh_frame_check_socket(sock) < 0) {
                wh_os_close_theirs(sock);
                return;
        }
        wh_os_fd_private(sock);
        c->via = sock;
        wh_told_via(l, c, true);
        wh_holder_turn(l);
}

/*
 * A delegated reply: the frames of one message, on a socket that belongs to this call alone. A link of its own, for as
 * long as that takes, so that the same code checks it. -ENOMEM: what is there cannot be read now.
 */
int wh_call_read_via(struct wh_link *l, struct wh_call *c)
{
        struct wh_link via = wh_single_link(l->task, c->via);
        via.answer = true;
        via.in.stash = c->part;
        via.in.items = c->items;
        via.in.budget = l->in.budget;
        struct wh_incoming in = {0};
        int r = wh_link_next(&via, &in);
        l->in.budget = via.in.budget; /* link.K7: it is one call that reads them all */
        if (r <= 0 && via.in.change.sock >= 0) {
                wh_os_fd_private(via.in.change.sock);
                wh_told_via(l, c, false);
                wh_os_close_end(c->via, WH_END_OURS);
                c->via = via.in.change.sock;
                wh_told_via(l, c, true);
                via.over = r = 0;
        }
        if (r == 0 || (r < 0 && !via.over)) {
                c->part = via.in.stash;
                c->items = via.in.items;
                return r == 0 ? 0 : -ENOMEM;
        }
        via.sock = -1; /* wh_call_end() closes it */
        c->part = (struct wh_stash){0};
        c->items.n = 0;
        if (r < 0) {
                wh_link_done(&via);
                wh_call_end(l, c, r == -EPIPE ? -ECANCELED : r);
                return 0;
        }
        c->reply = via.in.stash;
        c->items = via.in.items;
        via.in.stash = (struct wh_stash){0};
        via.in.items.n = 0;
        wh_link_done(&via);
        wh_call_end(l, c, in.dropped ? -in.dropped : 0);
        return 0;
}

int wh_call_add(struct wh_link *l, struct wh_call *c)
{
        do
                c->number = ++wh_held(l)->last_call & INT32_MAX; /* so that it fits what wh_send_message() returns */
        while (c->number == 0 || wh_call_find(l, c->number));
        wh_list_push_back(&wh_held(l)->calls, &c->node);
        return 0;
}
