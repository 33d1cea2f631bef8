#include "link/cold.h"

#include "link/choose.h"
#include "link/record.h"
#include "link/wire.h"

#include <errno.h>

uint64_t wh_cold_capacity(const struct wh_link *l)
{
        if (l->owner || l->once)
                return UINT64_MAX;
        if (!l->greeted)
                return 1;
        switch (l->hello.capacity_records) {
        case WHARF_RENDEZVOUS:
                return 0;
        case WHARF_UNBOUNDED:
                return UINT64_MAX;
        default:
                return l->hello.capacity_records;
        }
}

bool wh_cold_full(const struct wh_link *l)
{
        uint64_t capacity = wh_cold_capacity(l);
        /* Behind a lane that ended, with its port moved, the next lane counts. */
        return capacity == 0 || (l->out.cold_sent == l->out.seq && l->out.seq - l->out.cold_taken >= capacity);
}

bool wh_cold_will_do(const struct wh_link *l, const struct wh_outgoing *o)
{
        const struct wh_cold c = {
                .len = o->len,
                .automatic = o->asked == WHARF_HOW_AUTO,
                .cold = o->asked == WHARF_HOW_COLD,
                .lent = o->slot >= 0,
                .no_lane = l->once || l->out.no_lane,
                .full = wh_cold_full(l),
                .behind = l->out.cold_sent != l->out.seq,
                .uncounted = l->greeted && o->len > WHARF_SMALL_MAX &&
                             l->out.cold_large + o->len > l->hello.capacity_bytes &&
                             l->hello.capacity_records < WHARF_UNBOUNDED,
                .sent = l->out.cold_sent,
                .bytes = l->out.cold_bytes,
                .capacity = wh_cold_capacity(l),
                .owner = l->owner,
        };
        return wh_frames_will_do(&c);
}

/*
 * Should the receiver say when it has taken the next one? Each of a queue that frames may fill, and of the few that
 * come before the lane, where they count.
 */
static uint32_t tell(const struct wh_link *l, const struct wh_outgoing *o)
{
        uint64_t capacity = wh_cold_capacity(l), few = capacity / 4;
        if (capacity <= WH_COLD_COUNTED || (!l->out.no_lane && o->asked == WHARF_HOW_AUTO))
                few = 1;
        if (capacity == UINT64_MAX || (o->call && l->out.cold_taken == l->out.seq))
                return 0; /* or the answer says so */
        return (l->out.seq + 1) % few == 0 ? WH_MSG_TELL : 0;
}

/* The first frame of a message. */
static uint32_t first(const struct wh_link *l, const struct wh_outgoing *o)
{
        return WH_MSG_FIRST | tell(l, o) | (uint32_t)l->out.reply_refused << WH_MSG_REFUSED_SHIFT;
}

static int send_frame(struct wh_link *l, struct wh_outgoing *o, uint32_t arg, unsigned n_items, uint64_t n)
{
        struct wh_frame f = {
                .type = WH_FRAME_MESSAGE,
                .n_fds = (uint8_t)n_items,
                .seq = l->out.seq,
                .total = o->len,
                .id = o->id,
                .call = o->call,
                .arg = arg,
        };
        const struct iovec part[2] = {{o->kind, n_items}, {n ? (uint8_t *)(uintptr_t)o->data + o->done : NULL, n}};
        return wh_link_frame_parts(l, &f, part, o->fd, false);
}

static int sent(struct wh_link *l, struct wh_outgoing *o, unsigned n_items, enum wharf_how how)
{
        wh_link_items_sent(l, n_items);
        o->items_gone = n_items > 0;
        l->out.cold_sent++;
        l->out.seq++;
        o->how = how;
        return 0;
}

int wh_cold_send(struct wh_link *l, struct wh_outgoing *o)
{
        do {
                const bool begins = o->done == 0 && !o->started;
                const uint64_t n = o->len - o->done < WH_COLD_MAX ? o->len - o->done : WH_COLD_MAX;
                int r = send_frame(l, o, (begins ? first(l, o) : 0) | (o->done + n == o->len ? WH_MSG_LAST : 0),
                                   begins ? o->n_items : 0, n);
                if (r < 0)
                        return r;
                o->done += n;
                o->started = true;
        } while (o->done < o->len);
        l->out.cold_bytes += (uint32_t)o->len;
        l->out.cold_large =
                (l->out.cold_taken == l->out.seq ? 0 : l->out.cold_large) + (o->len > WHARF_SMALL_MAX ? o->len : 0);
        return sent(l, o, o->n_items, WHARF_HOW_COLD);
}

int wh_cold_send_memory(struct wh_link *l, struct wh_outgoing *o, uint32_t *ret_lacks)
{
        const unsigned n_items = o->n_items + 1;
        int r = wh_payload_memory(l, o, ret_lacks);
        if (r < 0)
                return r;
        r = send_frame(l, o, first(l, o) | WH_MSG_LAST | WH_MSG_MEMORY, n_items, 0);
        r = wh_payload_sent(l, o, r, ret_lacks);
        return r < 0 ? r : sent(l, o, n_items, WHARF_HOW_MEMORY);
}

void wh_link_told(struct wh_link *l, uint64_t n)
{
        if (n <= l->out.cold_taken)
                return;
        l->out.cold_taken = n;
        if (l->out.lane)
                wh_ring_tx_told(&l->out.lane->ring, n < l->out.attached_at ? n : l->out.attached_at);
}
