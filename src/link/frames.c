/*
 * frames - what each type of frame that was read from the socket does.
 *
 * Always true:
 *   A1  A frame has no effect before it is taken from the socket (wh_link_take_frame()). What it may be short of, such as
 *       memory or a place, is had first, and given back where it is not taken: then it can be looked at again.
 *   A2  The descriptors of a frame are kept all or none; whoever reads it closes those that are not.
 *   A3  A frame that says what this end cannot hear is a breach (-EPROTO), which costs its sender the link and no more.
 */
#include "link/frames.h"

#include "base/trace.h"
#include "link/budget.h"
#include "link/change.h"
#include "link/descriptors.h"
#include "link/stash.h"
#include "os/closer.h"
#include "os/os.h"

#include <errno.h>
#include <string.h>

/*
 * The first fragment of a message, or all of it as a memory of its own (then the stash is full). What it takes is had first,
 * then the frame.
 */
static int message_begins(struct wh_link *l, const struct wh_frame *f, const uint8_t *kinds, const int *fds,
                          const struct wh_cred *cred, bool *ret_kept)
{
        wh_link_forget_part(l); /* what was begun and not finished was given up */
        int r = wh_items_keep(l, f, kinds, fds, cred);
        if (r < 0)
                return r;
        *ret_kept = true;
        const int memory = wh_items_take_memory(l);
        if (!!(f->arg & WH_MSG_MEMORY) != (memory >= 0)) {
                wh_os_close_theirs(memory);
                return -EPROTO;
        }
        if (memory >= 0) {
                r = wh_stash_memory(l, memory, f->total, f->id, f->call);
                wh_stash_memory_keep(l, memory);
        } else {
                const uint64_t n = f->len - f->n_fds;
                r = wh_stash_begin(l, f->total, f->id, f->call, WHARF_HOW_COLD);
                if (r == 0 && (n > l->in.stash.len || (f->arg & WH_MSG_LAST && n != l->in.stash.len)))
                        r = -EPROTO;
        }
        if (r == 0)
                r = wh_link_take_frame(l);
        if (r < 0) {
                wh_items_done(&l->in.items); /* the frame still has them, or it was another */
                wh_stash_done(&l->in.stash);
                wh_stash_gone(l);
                return r;
        }
        l->in.stash.n_items = l->in.items.n;
        l->in.stash.tell = f->arg & WH_MSG_TELL;
        l->in.stash.refused = (uint16_t)(f->arg >> WH_MSG_REFUSED_SHIFT);
        return 0;
}

/* One more fragment. */
static int message_goes_on(struct wh_link *l, const struct wh_frame *f)
{
        const struct wh_stash *s = &l->in.stash;
        const uint64_t n = f->len;
        if (!s->building || f->n_fds)
                return -EPROTO;
        if (n > s->len - s->have)
                return -EPROTO;
        int r = wh_stash_grow(l);
        return r < 0 ? r : wh_link_take_frame(l);
}

static int frame_message(struct wh_link *l, const struct wh_frame *f, const uint8_t *data, const int *fds,
                         const struct wh_cred *cred, bool *ret_kept)
{
        struct wh_stash *s = &l->in.stash;
        if (l->in.lane || f->seq != l->in.seq || f->len < f->n_fds)
                return -EPROTO;
        /* A send-once right: one frame, the first one, that asks for no answer. */
        if (l->once && l->owner && (l->in.seq || (~f->arg & (WH_MSG_FIRST | WH_MSG_LAST)) || f->call))
                return -EPROTO;
        int r = f->arg & WH_MSG_FIRST ? message_begins(l, f, data, fds, cred, ret_kept) : message_goes_on(l, f);
        if (r < 0 || s->full)
                return r;
        const uint64_t n = f->len - f->n_fds;
        if (n)
                memcpy(s->bytes + s->have, data + f->n_fds, n);
        s->have += n;
        if (f->arg & WH_MSG_LAST) {
                if (s->have != s->len)
                        return -EPROTO;
                wh_stash_finish(l);
        }
        return 0;
}

/*
 * Are `n` more descriptors of the lane kept, for the day that the port moves? Its user pays for them. Without one of them the others
 * are of no use: the link ends when the port moves.
 */
static bool keeps(struct wh_link *l, unsigned n)
{
        return l->movable && l->end->hold(l, WH_SHARE_LANES, wh_link_kept(l) + n) == 0;
}

static int frame_attach(struct wh_link *l, const struct wh_frame *f, const int *fds, bool *ret_kept)
{
        if (l->in.lane || f->n_fds != 2)
                return -EPROTO;
        int64_t room = l->end->may_map(l);
        if (room < 0)
                return (int)room;
        struct wh_lane_rx *rx;
        int r = wh_lane_rx_open(fds[0], fds[1], (uint64_t)room, &rx);
        wh_budget_mapped(l, r < 0 ? WH_RING_LINES_MAX * WH_LINE : rx->mapped_bytes);
        if (r < 0)
                return r;
        r = wh_link_take_frame(l);
        if (r < 0) {
                wh_lane_rx_free(rx);
                return r;
        }
        wh_link_forget_part(l); /* a cold message that was begun was given up */
        *ret_kept = keeps(l, 2);
        l->in.lane = rx;
        if (*ret_kept) {
                wh_os_fd_private(rx->out_fd = fds[0]);
                wh_os_fd_private(rx->back_fd = fds[1]);
        }
        rx->number = l->in.lanes++;
        l->in.frames_got = 0;
        rx->ring.records = l->in.seq; /* all that came cold is read */
        wh_link_lines_end(l);
        if (wh_ring_publish_taken(&rx->ring))
                wh_link_bell(l);
        l->end->mapped(l);
        return 0;
}

/* One memory more for the lane: a section, or the ring that follows. */
static int frame_memory(struct wh_link *l, const struct wh_frame *f, const int *fds, bool *ret_kept)
{
        const bool ring = f->type == WH_FRAME_RING;
        struct wh_lane_rx *rx = l->in.lane;
        if (!rx || f->n_fds != 1)
                return -EPROTO;
        int64_t room = l->end->may_map(l);
        if (room < 0)
                return (int)room;
        const uint64_t before = rx->mapped_bytes;
        const bool was_whole = wh_lane_rx_whole(rx);
        int r = ring ? wh_lane_rx_add_ring(rx, fds[0], (uint64_t)room)
                     : wh_lane_rx_add_section(rx, fds[0], (uint64_t)room);
        wh_budget_added(l, before, r);
        if (r < 0)
                return r;
        r = wh_link_take_frame(l);
        if (r < 0) {
                ring ? wh_lane_rx_drop_ring(rx) : wh_lane_rx_drop_section(rx);
                return r;
        }
        if ((*ret_kept = was_whole && keeps(l, 1)))
                wh_os_fd_private(*(ring ? &rx->next_fd : &rx->section[rx->n_sections - 1].fd) = fds[0]);
        l->end->mapped(l);
        return 0;
}

static int frame_taken(struct wh_link *l, const struct wh_frame *f)
{
        if (l->owner || f->n_fds || f->seq >= l->out.seq)
                return -EPROTO;
        wh_link_told(l, f->seq + 1);
        return 0;
}

static int frame_hello(struct wh_link *l, const struct wh_frame *f, const uint8_t *data, const struct wh_cred *cred)
{
        struct wh_hello h;
        if (l->owner || f->n_fds || f->len < WH_HELLO_MIN)
                return -EPROTO;
        h.capacity_bytes = 0;
        memcpy(&h, data, f->len < sizeof h ? WH_HELLO_MIN : sizeof h);
        h.capacity_bytes = h.capacity_bytes ? h.capacity_bytes : WH_CAPACITY_BYTES;
        if (h.capacity_records == 0 || h.payload_bytes_max == 0 ||
            (h.capacity_records > 65536 && h.capacity_records < WHARF_UNBOUNDED))
                return -EPROTO;
        if (l->o.kind == WHARF_KIND_SEND) {
                wh_waits_hold(&l->task->waits, l->hello.port_id, -1);
                wh_waits_hold(&l->task->waits, h.port_id, +1);
        }
        if (h.capacity_records == WHARF_RENDEZVOUS)
                l->out.detour |= WH_DETOUR_OFFER;
        else if (!l->out.offer)
                l->out.detour &= (uint8_t)~WH_DETOUR_OFFER;
        l->hello = h;
        l->greeted = true;
        if (!(f->arg & WH_CHANGE_GREETING) && f->seq && f->seq == l->in.whose.asked) {
                l->cred = *cred;
                l->in.whose.port = f->total;
                l->in.whose.answered = true;
        }
        if (l->in.greeting_awaited && f->arg & WH_CHANGE_GREETING) {
                /* The owner has gone over to the pair that we made: all it wrote to the old one lies there by now. */
                l->in.greeting_awaited = false;
                l->in.after_old = wh_change_said(f);
        }
        return 0;
}

/* One through whose hands the right went, and who did not use it. */
static int frame_given(struct wh_link *l, const struct wh_frame *f, const uint8_t *data)
{
        struct wh_origin said;
        if (!l->owner || f->n_fds || f->len != sizeof said)
                return -EPROTO;
        memcpy(&said, data, sizeof said);
        l->given = wh_given_fold(l->given, wh_origin_get(&said));
        wh_link_introduced(l);
        return 0;
}

/*
 * Why an owner ends a link, as it says. An errno that tells a sender to try again would let it do so for ever, and
 * others mean something else than that here: only what wharf_send() names comes through.
 */
static int refused_for(uint32_t arg)
{
        switch (arg) {
        case EMLINK:
        case EDQUOT:
        case ENOBUFS:
        case EPROTONOSUPPORT:
        case EMSGSIZE:
        case EMFILE:
        case ENOMEM:
        case EKEYREVOKED:
                return -(int)arg;
        default:
                return -EPROTO;
        }
}

/* Frames that nothing can be short for: they are taken first, and then have their effect. */
static int frame_heed(struct wh_link *l, const struct wh_frame *f, const uint8_t *data, int *fds,
                      const struct wh_cred *cred, bool *ret_kept)
{
        int r = wh_link_take_frame(l);
        if (r < 0)
                return r;
        switch ((enum wh_frame_type)f->type) {
        case WH_FRAME_HELLO:
                return frame_hello(l, f, data, cred);
        case WH_FRAME_REBIND:
                r = wh_change_rebind(l, f, data, fds, cred);
                *ret_kept = r == 0;
                return r;
        case WH_FRAME_GIVEN:
                return frame_given(l, f, data);
        case WH_FRAME_RENEW:
                return wh_change_renewed(l, f);
        case WH_FRAME_REFUSE:
                if (l->owner || f->n_fds)
                        return -EPROTO;
                l->out.over = refused_for(f->arg);
                l->in.refusal = f->id < WH_REFUSALS ? (uint8_t)f->id : WH_REFUSAL_PLAIN;
                l->in.refused_max = f->total;
                return 0;
        case WH_FRAME_VIA:
                if (l->owner || f->n_fds != 1)
                        return -EPROTO;
                *ret_kept = true;
                l->end->via(l, f->call, fds[0]);
                return 0;
        case WH_FRAME_DROPPED:
                if (l->owner || f->n_fds || l->in.lane || l->in.stash.building)
                        return -EPROTO;
                /* It stands in the order of messages, so it waits its turn like one. */
                l->in.stash = (struct wh_stash){.full = true, .call = f->call, .how = WHARF_HOW_AUTO};
                l->in.stash.have = ECANCELED; /* whatever it says: the caller is promised this errno and no other */
                return 0;
        case WH_FRAME_TAKEN:
                return frame_taken(l, f);
        case WH_FRAME_WHO:
                if (!l->owner || f->n_fds || f->len)
                        return -EPROTO;
                l->end->greet(l, f->seq);
                return 0;
        default:
                return -EPROTO;
        }
}

/*
 * A pair for somebody else is made by who introduces it, in that same call. Another's end is none: it could be that of this very link,
 * which would wait behind itself for a place.
 */
static bool is_made_by(const struct wh_link *l, int sock, const struct wh_cred *cred)
{
        struct ucred maker;
        socklen_t len = sizeof maker;
        const pid_t by = cred->known ? cred->pid : l->cred.pid;
        return (!cred->known && !l->cred.known) ||
               (wh_os_getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &maker, &len) == 0 && maker.pid == by);
}

int wh_frames_dispatch(struct wh_link *l, const struct wh_frame *f, const uint8_t *data, int *fds,
                       const struct wh_cred *cred, bool *ret_kept)
{
        if (wh_unlikely(l->kept) && f->type != WH_FRAME_HELLO && f->type != WH_FRAME_RENEW &&
            f->type != WH_FRAME_REFUSE)
                return wh_trace(-EPROTO); /* kept.E3 */
        switch ((enum wh_frame_type)f->type) {
        case WH_FRAME_MESSAGE:
                return frame_message(l, f, data, fds, cred, ret_kept);
        case WH_FRAME_ITEMS: {
                int r = !l->in.lane || f->n_fds == 0 ? -EPROTO : wh_items_keep(l, f, data, fds, cred);
                if (r == 0 && (r = wh_link_take_frame(l)) < 0) {
                        l->in.items.n = 0;
                        wh_stash_gone(l);
                }
                *ret_kept = r == 0;
                return r;
        }
        case WH_FRAME_ATTACH:
                return frame_attach(l, f, fds, ret_kept);
        case WH_FRAME_SECTION:
        case WH_FRAME_RING:
                return frame_memory(l, f, fds, ret_kept);
        case WH_FRAME_ADOPT:
                if (!l->owner || f->n_fds != 1 || !is_made_by(l, fds[0], cred))
                        return -EPROTO;
                *ret_kept = true;
                return l->end->introduced(l, fds[0], f, cred);
        default:
                return frame_heed(l, f, data, fds, cred, ret_kept);
        }
}
