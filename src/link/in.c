/*
 * Receiving on a link: frames from the socket, records from the lane, one message after another (K1).
 *
 * The socket is read only when it must be: a doorbell stays in it unread (it said all it had to say by waking us), and
 * so does an ITEMS frame until its record is next. `out->frames` tells that something other than doorbells is there.
 */
#include "link/link.h"

#include "base/cleanup.h"
#include "base/trace.h"
#include "lane/sealed.h"
#include "os/closer.h"
#include "os/os.h"
#include "os/receive.h"
#include "link/direct.h"
#include "link/payload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
        BELLS_MAX = 32, /* doorbells left in the socket, which holds 278, before it is emptied */
        FEW_FDS = 2,    /* as many come with what makes and changes a link */
        /* A larger message in parts is not put together in the buffer of a receive, which may end first: K7. */
        DIRECT_MAX = WH_BUDGET_TURN * WH_COST_BYTES,
};

/* The system has not enough of something just now. */
static bool shortage(int r)
{
        return r == -ENOMEM || r == -ENOBUFS;
}

/* ... or a place is awaited: nothing has changed, and it can be tried again. */
static bool later(int r)
{
        return shortage(r) || r == WH_LINK_WAITS;
}

/* ---- the budget (K7) ---- */

bool wh_link_spend(struct wh_link *l, uint64_t cost)
{
        uint32_t *left = l->end->budget(l);
        *left = cost < *left ? *left - (uint32_t)cost : 0;
        return *left > 0;
}

static void spend_mapped(struct wh_link *l, uint64_t bytes)
{
        wh_link_spend(l, bytes / (wh_os_holes_asked() ? WH_COST_MAPPED : WH_COST_READ));
}

/* A memory was to be added to the lane, which had `before` mapped: what is refused, or has no room now, may be large, too. */
static void spend_added(struct wh_link *l, uint64_t before, int r)
{
        spend_mapped(l, r < 0 ? WH_SECTION_BYTES_MAX : l->in.lane->mapped_bytes - before);
}

/* Of one look at a link: what it has had of the budget. */
struct turn {
        uint32_t begun; /* with so much left; 0: it has had nothing yet */
};

/* Something was read that is no message. May it go on, or is it the others' turn? */
static bool turn_goes_on(struct wh_link *l, struct turn *t)
{
        const uint32_t left = *l->end->budget(l);
        if (t->begun == 0)
                t->begun = left;
        return left > 0 && t->begun - left < WH_BUDGET_TURN;
}

/*
 * The frame that was looked at stays where it is until there is enough for it. Descriptors are waited for as far as the
 * port lets a sender have unread rights, and one for the payload's memory; whoever sends more at once is let go. So is
 * whoever sends more than half of what this process may have in all, for it would wait for ever, dead or alive.
 */
static bool stays(const struct wh_link *l, int r, const struct wh_frame *f)
{
        if (l->kept)
                return shortage(r); /* E3: no descriptor is due there */
        unsigned most = l->owner ? l->hello.unread_rights_max + 1 : WH_FDS_MAX;
        const uint64_t half = l->task->accounts.max[WH_SHARE_TASK_LINKS];
        most = most < half ? most : (unsigned)half;
        return shortage(r) || (r == -EMFILE && f->n_fds <= (most < FEW_FDS ? FEW_FDS : most));
}

/* The payload's limit: the port's own for requests; what it says is nothing to hold its replies to. */
static uint64_t payload_limit(const struct wh_link *l)
{
        return l->owner && l->hello.payload_bytes_max ? l->hello.payload_bytes_max : (uint64_t)1 << 40;
}

int wh_link_break(struct wh_link *l, int err)
{
        if (l->owner && !l->over) {
                struct wh_frame f = {.type = WH_FRAME_REFUSE, .to = WH_TO_HOLDER, .arg = (uint32_t)-err};
                f.id = err == -EDQUOT ? l->in.refusal : WH_REFUSAL_PLAIN;
                f.total = l->end->limit(l, err, (enum wh_refusal)f.id);
                wh_frame_send(l->sock, &f, NULL, 0, NULL, false);
        }
        wh_link_end(l, err);
        if (l->out.over == 0 && !l->owner)
                l->out.over = err;
        return err;
}

/* ---- messages in private memory ---- */

/* A reply that is larger than this comes as a memory: nobody has a caller hold much of what never becomes whole. */
static bool parts_allowed(const struct wh_link *l, uint64_t total)
{
        return l->owner || total <= WH_REPLY_PARTS_MAX;
}

/* It is charged as long as it is not whole, wherever it is put together. */
static int hold(struct wh_link *l, uint64_t total)
{
        return total > WH_COLD_MAX ? l->end->hold_bytes(l, total) : 0;
}

/* Room for a message of `total` bytes, or -EMSGSIZE, -ENOMEM, -EDQUOT. */
static int stash_begin(struct wh_link *l, uint64_t total, uint32_t id, uint32_t call, enum wharf_how how)
{
        struct wh_stash *s = &l->in.stash;
        if (total > payload_limit(l))
                return -EMSGSIZE;
        if (!parts_allowed(l, total))
                return wh_trace(-EPROTO);
        uint8_t *bytes = NULL;
        int r = hold(l, total);
        if (r < 0)
                return r;
        if (total && !(bytes = wh_os_malloc_payload(total)))
                return -ENOMEM;
        *s = (struct wh_stash){
                .bytes = bytes, .len = total, .room = total, .id = id, .call = call, .how = how, .building = true};
        return 0;
}

static void stash_finish(struct wh_link *l)
{
        l->in.stash.building = false;
        l->in.stash.full = true;
}

/* What was counted for a message that is not in private memory any more. */
static void stash_gone(struct wh_link *l)
{
        l->end->hold_bytes(l, 0);
        l->end->rights_left(l);
}

void wh_link_forget_part(struct wh_link *l)
{
        if (!l->in.stash.building)
                return;
        if (l->in.direct)
                l->in.stash.bytes = NULL;
        else
                wh_link_spend(l, l->in.stash.have / WH_COST_MAPPED); /* freed */
        l->in.direct = false;
        if (l->in.stash.n_items)
                wh_items_done(&l->in.items);
        wh_stash_done(&l->in.stash);
        stash_gone(l);
}

void wh_link_privatise(struct wh_link *l)
{
        if (!l->in.direct)
                return;
        struct wh_stash *s = &l->in.stash;
        uint8_t *own = wh_os_malloc_payload(s->len);
        if (own)
                memcpy(own, s->bytes, s->have);
        wh_link_spend(l, s->have / WH_COST_BYTES);
        s->bytes = own;
        l->in.direct = false;
        if (!own) {
                s->building = s->full = false;
                wh_link_break(l, -ENOMEM);
        }
}

/* The payload as a memory of its own: immutable by the kernel's word, or refused. */
static int stash_memory(struct wh_link *l, int fd, uint64_t total, uint32_t id, uint32_t call)
{
        uint64_t len = 0;
        void *map = NULL;
        int r = total ? wh_sealed_size(fd, WH_SEALS_IMMUTABLE, &len) : 0;
        if (r < 0)
                return r;
        if (len != total)
                return wh_trace(-EPROTO);
        if (total > payload_limit(l))
                return -EMSGSIZE;
        spend_mapped(l, total);
        if (total && (r = wh_sealed_whole(fd, total)) < 0 && r != -EOPNOTSUPP)
                return r;
        r = 0;
        if (total)
                r = wh_payload_map(fd, total, &map);
        if (r < 0)
                return r;
        l->in.stash = (struct wh_stash){.full = true,
                                        .mapped = total > 0,
                                        .memory = -1,
                                        .bytes = map,
                                        .len = total,
                                        .have = total,
                                        .room = total,
                                        .id = id,
                                        .call = call,
                                        .how = WHARF_HOW_MEMORY};
        return 0;
}

/*
 * The descriptor of the memory just mapped, kept or closed. With it the last of a large memory goes where nobody waits for
 * that, and not with the mapping, in the call that has no use for it.
 */
static void memory_keep(struct wh_link *l, int fd)
{
        if (!l->in.stash.mapped || !(l->movable || l->in.stash.room > WH_OS_AT_ONCE_BYTES)) {
                wh_os_close_theirs(fd);
                return;
        }
        wh_os_fd_private(fd);
        l->in.stash.memory = fd;
}

/*
 * Room for all of a message that was begun elsewhere (move.c), which is about to go on. Nothing of what there is is copied, if it
 * is much: it is mapped once more, below the rest.
 */
static int stash_grow(struct wh_link *l)
{
        struct wh_stash *s = &l->in.stash;
        void *all;
        if (wh_likely(s->room >= s->len))
                return 0;
        if (s->mapped) {
                int r = wh_os_mmap(NULL, s->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, &all);
                if (r < 0)
                        return wh_trace(r);
                r = wh_os_mmap(all, s->have, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, s->memory, 0, &all);
                if (r < 0) {
                        wh_os_munmap(all, s->len);
                        return wh_trace(r);
                }
                wh_os_munmap(s->bytes, s->room);
                wh_os_close_theirs(s->memory);
                s->memory = -1;
        } else {
                if (!(all = wh_os_malloc_payload(s->len)))
                        return wh_trace(-ENOMEM);
                if (s->have)
                        memcpy(all, s->bytes, s->have);
                free(s->bytes);
        }
        s->bytes = all;
        s->room = s->len;
        return 0;
}

int wh_link_stash_memory(struct wh_link *l, int fd, uint64_t len, uint32_t id, uint32_t call)
{
        int r = stash_memory(l, fd, len, id, call);
        memory_keep(l, fd);
        return r;
}

/* ---- lanes that end ---- */

/*
 * All that was published before the other side was gone has room in this ring, and in those whose frames lie in the socket: none
 * of it begins a whole ring behind what is taken now (R3).
 */
static void lines_end(struct wh_link *l)
{
        if (l->in.lane)
                l->in.last_line = l->in.lane->ring.pos + l->in.lane->ring.lines;
}

void wh_link_hung_up(struct wh_link *l)
{
        if (!l->in.hung_up)
                lines_end(l);
        l->in.hung_up = true;
}

/* The present lane has ended: it goes, or stays for as long as the user holds payloads in it. */
static void lane_retire(struct wh_link *l)
{
        struct wh_lane_rx *rx = l->in.lane;
        l->in.lane = NULL;
        l->in.frames_got = l->in.arms = l->in.renews = 0;
        l->in.armed = false;
        if (rx)
                spend_mapped(l, rx->mapped_bytes);
        if (rx && rx->blocks_held) {
                rx->next_retired = l->in.retired;
                l->in.retired = rx;
        } else {
                wh_lane_rx_free(rx);
        }
        l->end->mapped(l);
}

struct wh_lane_rx *wh_link_lane(struct wh_link *l, uint32_t n)
{
        struct wh_lane_rx *rx = l->in.lane;
        if (wh_likely(rx && rx->number == n))
                return rx;
        for (rx = l->in.retired; rx && rx->number != n; rx = rx->next_retired)
                ;
        return rx;
}

void wh_link_unheld(struct wh_link *l, struct wh_lane_rx *rx)
{
        if (wh_likely(rx == l->in.lane) || rx->blocks_held)
                return;
        struct wh_lane_rx **at = &l->in.retired;
        while (*at != rx)
                at = &(*at)->next_retired;
        *at = rx->next_retired;
        wh_lane_rx_free(rx);
        l->end->mapped(l);
}

/* K6: go over, if everything before was taken. 1: done; 0: not yet; negative: a breach, or no memory for it now. */
static int link_change(struct wh_link *l)
{
        struct wh_change *c = &l->in.change;
        if (l->in.stash.full || (c->lane && l->in.lane && l->in.lane->ring.records != c->records))
                return 0;
        if (c->lane != (l->in.lane != NULL) || c->seq != l->in.seq || l->in.items.n)
                return wh_trace(-EPROTO);
        int r = l->end->change(l);
        if (r < 0)
                return r;
        wh_link_forget_part(l); /* a message that was begun and not finished was given up */
        lane_retire(l);
        c->due = false;
        l->in.sock_ready = true;
        return 1;
}

/* A frame says where the peer's lane ends. */
static struct wh_change change_said(const struct wh_frame *f)
{
        return (struct wh_change){
                .due = true, .lane = f->arg & WH_CHANGE_LANE, .seq = f->seq, .records = f->total, .sock = -1};
}

/* ---- frames ---- */

/* Checks the kinds that came with descriptors, and keeps both. On success the descriptors are the link's. */
static int items_keep(struct wh_link *l, const struct wh_frame *f, const uint8_t *kinds, const int *fds,
                      const struct wh_cred *cred)
{
        uint64_t beside = 0, len;
        if (l->in.items.n || f->len < f->n_fds)
                return -EPROTO;
        for (unsigned i = 0; i < f->n_fds; i++) {
                if (kinds[i] < WH_ITEM_FD || kinds[i] >= WH_ITEM_KINDS)
                        return -EPROTO;
                if (kinds[i] == WH_ITEM_BESIDE) {
                        int r = wh_sealed_size(fds[i], WH_SEALS_IMMUTABLE, &len);
                        if (r < 0)
                                return r;
                        if (len > payload_limit(l) - beside)
                                return -EMSGSIZE;
                        beside += len;
                        spend_mapped(l, len);
                        if ((r = wh_sealed_whole(fds[i], len)) < 0 && r != -EOPNOTSUPP)
                                return r;
                }
                if ((kinds[i] == WH_ITEM_SEND || kinds[i] == WH_ITEM_REPLY || kinds[i] == WH_ITEM_RECEIVE) &&
                    wh_frame_check_socket(fds[i]) < 0)
                        return -EPROTO;
                if (kinds[i] == WH_ITEM_MEMORY && i + 1 != f->n_fds)
                        return -EPROTO;
                if (kinds[i] != WH_ITEM_MEMORY && i >= WHARF_ITEMS_MAX)
                        return -EPROTO; /* more than any receiver has room for */
        }
        int r = l->end->hold_rights(l, f->n_fds);
        if (r < 0)
                return r;
        l->in.items.seq = f->seq;
        l->in.items.n = f->n_fds;
        l->in.items.own = cred->known && cred->uid == l->task->accounts.self;
        memcpy(l->in.items.kind, kinds, f->n_fds);
        memcpy(l->in.items.fd, fds, f->n_fds * sizeof *fds);
        return 0;
}

/* The last kept item, if it is a payload in a memory of its own. -1 otherwise. */
static int items_take_memory(struct wh_link *l)
{
        unsigned n = l->in.items.n;
        if (n == 0 || l->in.items.kind[n - 1] != WH_ITEM_MEMORY)
                return -1;
        l->in.items.n--;
        return l->in.items.fd[n - 1];
}

static int frame_message(struct wh_link *l, const struct wh_frame *f, const uint8_t *data, const int *fds,
                         const struct wh_cred *cred, bool *ret_kept)
{
        const unsigned n_items = f->n_fds;
        if (l->in.lane || f->seq != l->in.seq || f->len < n_items)
                return -EPROTO;
        /* A send-once right: one frame, the first one, that asks for no answer. */
        if (l->once && l->owner && (l->in.seq || (~f->arg & (WH_MSG_FIRST | WH_MSG_LAST)) || f->call))
                return -EPROTO;
        if (f->arg & WH_MSG_FIRST) {
                wh_link_forget_part(l); /* what was begun and not finished was given up */
                int r = items_keep(l, f, data, fds, cred);
                if (r < 0)
                        return r;
                *ret_kept = true;
                int memory = items_take_memory(l);
                if (!!(f->arg & WH_MSG_MEMORY) != (memory >= 0)) {
                        wh_os_close_theirs(memory);
                        return -EPROTO;
                }
                if (memory >= 0) {
                        r = stash_memory(l, memory, f->total, f->id, f->call);
                        memory_keep(l, memory);
                } else {
                        r = stash_begin(l, f->total, f->id, f->call, WHARF_HOW_COLD);
                }
                const uint64_t n = f->len - n_items;
                if (r == 0 && memory < 0 && (n > l->in.stash.len || (f->arg & WH_MSG_LAST && n != l->in.stash.len)))
                        r = -EPROTO;
                if (r == 0)
                        r = wh_link_take_frame(l);
                if (r < 0) {
                        wh_items_done(&l->in.items); /* the frame still has them, or it was another */
                        wh_stash_done(&l->in.stash);
                        stash_gone(l);
                        return r;
                }
                l->in.stash.n_items = l->in.items.n;
                l->in.stash.tell = f->arg & WH_MSG_TELL;
                l->in.stash.refused = (uint16_t)(f->arg >> WH_MSG_REFUSED_SHIFT);
                if (memory >= 0)
                        return 0;
        } else if (!l->in.stash.building || n_items) {
                return -EPROTO;
        }
        struct wh_stash *s = &l->in.stash;
        uint64_t n = f->len - n_items;
        if (n > s->len - s->have)
                return -EPROTO;
        int r = stash_grow(l);
        if (r == 0)
                r = wh_link_take_frame(l);
        if (r < 0)
                return r;
        if (n)
                memcpy(s->bytes + s->have, data + n_items, n);
        s->have += n;
        if (f->arg & WH_MSG_LAST) {
                if (s->have != s->len)
                        return -EPROTO;
                stash_finish(l);
        }
        return 0;
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
        spend_mapped(l, r < 0 ? WH_RING_LINES_MAX * WH_LINE : rx->mapped_bytes);
        if (r == 0 && (r = wh_link_take_frame(l)) < 0)
                wh_lane_rx_free(rx);
        if (r == 0) {
                wh_link_forget_part(l); /* a cold message that was begun was given up */
                l->in.lane = rx;
                if ((*ret_kept = l->movable)) {
                        wh_os_fd_private(l->in.lane->out_fd = fds[0]);
                        wh_os_fd_private(l->in.lane->back_fd = fds[1]);
                }
                l->in.lane->number = l->in.lanes++;
                l->in.frames_got = 0;
                l->in.lane->ring.records = l->in.seq; /* all that came cold is read */
                lines_end(l);
                if (wh_ring_publish_taken(&l->in.lane->ring))
                        wh_link_bell(l);
                l->end->mapped(l);
        }
        return r;
}

static int frame_section(struct wh_link *l, const struct wh_frame *f, const int *fds, bool *ret_kept)
{
        if (!l->in.lane || f->n_fds != 1)
                return -EPROTO;
        int64_t room = l->end->may_map(l);
        if (room < 0)
                return (int)room;
        const uint64_t before = l->in.lane->mapped_bytes;
        int r = wh_lane_rx_add_section(l->in.lane, fds[0], (uint64_t)room);
        spend_added(l, before, r);
        if (r == 0 && (r = wh_link_take_frame(l)) < 0)
                wh_lane_rx_drop_section(l->in.lane);
        if (r == 0 && (*ret_kept = l->movable))
                wh_os_fd_private(l->in.lane->section[l->in.lane->n_sections - 1].fd = fds[0]);
        if (r == 0)
                l->end->mapped(l);
        return r;
}

static int frame_ring(struct wh_link *l, const struct wh_frame *f, const int *fds, bool *ret_kept)
{
        if (!l->in.lane || f->n_fds != 1)
                return -EPROTO;
        int64_t room = l->end->may_map(l);
        if (room < 0)
                return (int)room;
        const uint64_t before = l->in.lane->mapped_bytes;
        int r = wh_lane_rx_add_ring(l->in.lane, fds[0], (uint64_t)room);
        spend_added(l, before, r);
        if (r == 0 && (r = wh_link_take_frame(l)) < 0)
                wh_lane_rx_drop_ring(l->in.lane);
        if (r == 0 && (*ret_kept = l->movable))
                wh_os_fd_private(l->in.lane->next_fd = fds[0]);
        if (r == 0)
                l->end->mapped(l);
        return r;
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
                l->in.after_old = change_said(f);
        }
        return 0;
}

/* The port has a new owner, whose first frame this is. */
static int frame_renew(struct wh_link *l, const struct wh_frame *f)
{
        if (l->owner || f->n_fds || l->once)
                return -EPROTO;
        l->in.change = change_said(f);
        l->provisional = !l->kept;
        l->out.detour |= l->kept ? 0 : WH_DETOUR_REBIND;
        l->in.whose.answered = false; /* by somebody else, then */
        return 0;
}

/*
 * How the holder is known that sends this REBIND (I1). The pair is to be its own: made by the process that wrote the frame.
 * Only processes are compared, since the kernel remembers the maker's effective ids, and a writer's real ones. (Neither
 * has a number here in a pid namespace that is not seen: then it is that user's, whoever of them it is.) A holder that no
 * greeting has reached names no port: whoever kept it from that could as well have told it this one.
 */
static int rebind_known(const struct wh_link *l, uint64_t port_id, int sock, const struct wh_cred *cred,
                        uint32_t *ret_known)
{
        struct ucred maker;
        socklen_t len = sizeof maker;
        *ret_known = WHARF_KNOWN_NOT;
        if (port_id && port_id != l->hello.port_id)
                return wh_trace(-EPROTO);
        if (!cred->known)
                return 0;
        if (wh_os_getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &maker, &len) < 0 || maker.pid != cred->pid)
                return wh_trace(-EPROTO);
        *ret_known = cred->pid == l->task->pid ? WHARF_KNOWN_OWN : WHARF_KNOWN_BOUND;
        return 0;
}

/* The holder has made a pair of its own, and speaks through that from now on. */
static int frame_rebind(struct wh_link *l, const struct wh_frame *f, const uint8_t *data, const int *fds,
                        const struct wh_cred *cred)
{
        struct wh_origin said;
        uint32_t known;
        if (!l->owner || f->n_fds != 1 || f->len != sizeof said || wh_frame_check_socket(fds[0]) < 0)
                return -EPROTO;
        memcpy(&said, data, sizeof said);
        int r = rebind_known(l, said.port_id, fds[0], cred, &known);
        if (r < 0)
                return r;
        l->in.change = change_said(f);
        l->in.change.sock = fds[0];
        l->in.change.awaited = f->arg & WH_CHANGE_AWAITED;
        l->in.change.cred = *cred;
        l->in.change.known = known;
        l->in.change.given = wh_origin_get(&said);
        wh_os_fd_private(fds[0]);
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
                r = frame_rebind(l, f, data, fds, cred);
                *ret_kept = r == 0;
                return r;
        case WH_FRAME_GIVEN:
                return frame_given(l, f, data);
        case WH_FRAME_RENEW:
                return frame_renew(l, f);
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
 * Dispatches one frame, which says that it is for this end: of a send-once right that is a message and nothing else
 * (may_say() in frame.c). What of `fds` is kept is marked by *ret_kept (all or none). Where something can be short, that is
 * had before the frame is taken (wh_link_take_frame()), and given back where it cannot be.
 */
static int frame_dispatch(struct wh_link *l, const struct wh_frame *f, const uint8_t *data, int *fds,
                          const struct wh_cred *cred, bool *ret_kept)
{
        if (wh_unlikely(l->kept) && f->type != WH_FRAME_HELLO && f->type != WH_FRAME_RENEW &&
            f->type != WH_FRAME_REFUSE)
                return wh_trace(-EPROTO); /* E3 */
        switch ((enum wh_frame_type)f->type) {
        case WH_FRAME_MESSAGE:
                return frame_message(l, f, data, fds, cred, ret_kept);
        case WH_FRAME_ITEMS: {
                int r = !l->in.lane || f->n_fds == 0 ? -EPROTO : items_keep(l, f, data, fds, cred);
                if (r == 0 && (r = wh_link_take_frame(l)) < 0) {
                        l->in.items.n = 0;
                        stash_gone(l);
                }
                *ret_kept = r == 0;
                return r;
        }
        case WH_FRAME_ATTACH:
                return frame_attach(l, f, fds, ret_kept);
        case WH_FRAME_SECTION:
                return frame_section(l, f, fds, ret_kept);
        case WH_FRAME_RING:
                return frame_ring(l, f, fds, ret_kept);
        case WH_FRAME_ADOPT:
                if (!l->owner || f->n_fds != 1)
                        return -EPROTO;
                *ret_kept = true;
                return l->end->introduced(l, fds[0], f, cred);
        default:
                return frame_heed(l, f, data, fds, cred, ret_kept);
        }
}

/* A pair that the holder made is all that leads to it: never lost for want of a descriptor. */
static bool expects_rebind(const struct wh_link *l)
{
        return l->owner && (l->in.lane || l->in.renews || !l->cred.known);
}

int wh_link_take_frame(struct wh_link *l)
{
        if (!l->in.looked)
                return 0;
        int r = wh_frame_take(l->in.looked_sock, l->in.looked, l->in.looked_fds);
        if (!shortage(r))
                l->in.looked = NULL;
        return r;
}

/*
 * One frame, which stays in the socket until wh_link_take_frame(): what there is no memory for now is looked at again.
 * After a rebind the holder reads the old pair until that is empty; then the new one, whose first frame is the owner's
 * greeting; then what the owner had still written to the old one, and that is closed.
 */
static int link_look(struct wh_link *l, struct wh_frame *f, void *data, int *fds, struct wh_cred *cred)
{
        l->in.looked_sock = l->sock;
        if (l->owner)
                return wh_frame_peek(l->sock, f, data, fds, cred);
        if (wh_unlikely(l->in.old_sock >= 0)) {
                int r = wh_frame_peek(l->in.old_sock, f, data, fds, cred);
                l->in.looked_sock = l->in.old_sock;
                if (r > 0 || stays(l, r, f))
                        return r;
                l->in.looked_sock = l->sock;
                if (r < 0 ||
                    !l->in.greeting_awaited) { /* whatever it is: others may have a copy of it, so it is no end */
                        wh_os_close_end(l->in.old_sock, WH_END_SHARED);
                        l->in.old_sock = -1;
                }
        }
        if (wh_unlikely(!l->in.greeting_awaited && l->in.old_sock < 0 && l->in.after_old.due)) {
                l->in.change = l->in.after_old;
                l->in.after_old.due = false;
                *f = (struct wh_frame){.type = WH_FRAME_BELL};
                l->in.looked_sock = -1; /* nothing was read */
                return 1;
        }
        int r = wh_frame_peek(l->sock, f, data, fds, cred);
        if (wh_unlikely(r > 0 && l->in.greeting_awaited && f->type != WH_FRAME_HELLO && f->type != WH_FRAME_BELL &&
                        f->type != WH_FRAME_REFUSE)) {
                for (unsigned i = 0; i < f->n_fds; i++)
                        wh_os_close_theirs(fds[i]);
                return wh_trace(-EPROTO);
        }
        return r;
}

/*
 * REBIND was looked at, and no lane is to be read first. 1: the link has its new pair, and the frame went with the old
 * one. Otherwise nothing has changed, and the frame is there for another try; or it was taken, and the change is due.
 */
static int rebind_now(struct wh_link *l, const struct wh_frame *f, const uint8_t *data, const int *fds,
                      const struct wh_cred *cred)
{
        int r = frame_rebind(l, f, data, fds, cred);
        if (r < 0) {
                for (unsigned i = 0; i < f->n_fds; i++)
                        wh_os_close_theirs(fds[i]);
                return r;
        }
        r = link_change(l);
        if (r <= 0 && (l->in.looked || !later(r))) {
                l->in.change.due = false;
                wh_os_close_end(wh_steal_fd(&l->in.change.sock), WH_END_SHARED);
        }
        return r == 0 ? -EPROTO : r;
}

/*
 * Empty the socket of doorbells in one go. A frame has at least 40 bytes: with fewer waiting in all, every datagram is
 * a doorbell, and what comes meanwhile comes behind them. How many; or -1 when there may be more than doorbells.
 */
static int discard_bells(struct wh_link *l)
{
        int n = wh_os_inq(l->sock);
        if (n < 0 || n >= (int)sizeof(struct wh_frame))
                return -1;
        if (n && wh_os_discard(l->sock, (unsigned)n) < 0)
                return -1;
        l->in.arms = 0;
        wh_link_spend(l, (unsigned)n);
        if (wh_unlikely(l->out.room_asked))
                l->end->drained(l);
        return n;
}

/*
 * Nothing was announced in the lane, but something came. An honest sender rings, for a record that was taken meanwhile; and
 * less than a frame lies there. More may be what another owner has to say, at the other end of the same pair.
 */
static bool only_rung(struct wh_link *l)
{
        if (wh_likely(!l->in.rung))
                return true;
        if (wh_os_inq(l->sock) >= (int)sizeof(struct wh_frame))
                return false;
        l->in.rung = false;
        return true;
}

/* One frame that was looked at. 1: it was taken; otherwise why not, or why the link is over. */
static int frame_read(struct wh_link *l, const struct wh_frame *f, const uint8_t *data, int *fds,
                      const struct wh_cred *cred)
{
        if (f->type == WH_FRAME_REBIND && l->owner && !l->once && expects_rebind(l) && !l->in.lane) {
                int r = rebind_now(l, f, data, fds, cred);
                return r > 0 || later(r) ? r : wh_link_break(l, r);
        }
        const struct wh_cred was = l->cred;
        const struct wharf_sender who = l->who;
        uid_t payer = (uid_t)-1;
        bool kept = false, had_rx = l->in.lane != NULL;
        const bool ours = f->to == wh_link_hears(l);
        int r = ours ? l->end->sender(l, f, cred, &payer) : wh_trace(-EPROTO);
        if (r >= 0)
                r = frame_dispatch(l, f, data, fds, cred, &kept);
        if (!kept)
                for (unsigned i = 0; i < f->n_fds; i++)
                        wh_os_close_theirs(fds[i]);
        if (l->in.looked) { /* it is still only what was looked at */
                l->cred = was;
                l->who = who;
                if (ours)
                        l->end->not_taken(l, payer);
        }
        if (later(r))
                return r; /* nothing of it was kept, and it is there for another try */
        if (r < 0)
                return wh_link_break(l, r);
        l->in.frames_got += had_rx;
        return 1;
}

/* Read the frames that are there now; `data` has room for one. `changed` as what was found before them. */
static int pump_frames(struct wh_link *l, uint8_t *data, int changed)
{
        int fds[WH_FDS_MAX];
        struct wh_frame f = {0};
        struct wh_cred cred = {0};
        while (!l->in.stash.full && !l->in.sock_ended && !l->over && !l->in.change.due) {
                if (*l->end->budget(l) == 0)
                        return changed ? changed : WH_LINK_LATER;
                const bool had_rx = l->in.lane != NULL;
                int r = link_look(l, &f, data, fds, &cred);
                if (r == 0) {
                        l->in.sock_ready = l->in.rung = l->in.hung_up =
                                false; /* a hang-up seen on the pair before a rebind, then */
                        l->in.arms = 0;
                        break;
                }
                wh_link_spend(l, WH_COST_FRAME + (r > 0 ? 2 * f.n_fds + f.len / WH_COST_BYTES : 0));
                if (r == -EPIPE) {
                        l->in.sock_ended = true;
                        if (!l->owner && l->out.over == 0)
                                l->out.over = -EPIPE;
                        return 1;
                }
                if (stays(l, r, &f))
                        return r; /* the peer has done nothing wrong: later */
                if (r < 0)
                        return wh_link_break(l, r);
                if (f.type == WH_FRAME_BELL) {
                        r = l->in.looked_sock < 0 ? 0 : wh_frame_take(l->in.looked_sock, &f, NULL);
                        if (r < 0)
                                return shortage(r) ? r : wh_link_break(l, r);
                        changed |= l->in.change.due;
                        continue;
                }
                l->in.looked = &f;
                l->in.looked_fds = fds;
                r = frame_read(l, &f, data, fds, &cred);
                l->in.looked = NULL;
                l->in.looked_fds = NULL;
                if (r < 0)
                        return r;
                changed = 1;
                /* Leave what follows where it is until its turn: descriptors of later records, the next lane's data. */
                if (l->in.items.n || (l->in.lane && (!had_rx || l->in.lane->next)))
                        break;
        }
        return changed;
}

static int link_pump(struct wh_link *l)
{
        int changed = 0;

        if (wh_unlikely(l->in.waits))
                return WH_LINK_WAITS;
        if (l->in.lane && l->in.lane->next && !l->in.hung_up)
                return 0; /* what follows belongs to the ring that is not yet reached */
        if (wh_unlikely(l->in.change.due)) {
                int r = l->over ? 0 : link_change(l);
                if (r < 0 && !later(r))
                        return wh_link_break(l, r);
                if (r <= 0)
                        return r;
                changed = 1;
        }
        if (!l->owner && l->in.lane && !l->in.hung_up && l->in.old_sock < 0 && discard_bells(l) > 0) {
                l->in.sock_ready = false; /* what wakes a caller is seldom more than a doorbell */
                return changed;
        }
        uint8_t *data = wh_task_scratch_take(l->task);
        if (!data)
                return wh_trace(-ENOMEM);
        int r = pump_frames(l, data, changed);
        wh_task_scratch_give(l->task, data);
        return r;
}

int wh_link_pump(struct wh_link *l)
{
        int r = link_pump(l);
        if (wh_unlikely(l->out.room_asked)) /* a doorbell that was thrown away may have been for this */
                l->end->drained(l);
        return r;
}

/* Is there what the socket is read for? */
static bool is_there(const struct wh_link *l, enum wh_until until, unsigned n)
{
        switch (until) {
        case WH_UNTIL_EMPTY:
                return l->in.stash.full || l->in.items.n;
        case WH_UNTIL_GREETED:
                return l->greeted || l->in.stash.full || l->in.items.n;
        case WH_UNTIL_ANSWERED:
                return l->in.whose.answered || l->in.stash.full || l->in.items.n;
        /* In the middle of a record its lane must stay: a change that is due is not for now, and comes in vain. */
        case WH_UNTIL_ITEMS:
                return l->in.items.n || l->in.change.due;
        case WH_UNTIL_SECTION:
                return n < l->in.lane->n_sections || l->in.change.due;
        case WH_UNTIL_RING:
                return l->in.lane->next || l->in.items.n || l->in.change.due;
        }
        return true;
}

int wh_link_read(struct wh_link *l, enum wh_until until, unsigned n)
{
        int r = 0;
        while (!l->over && !l->in.sock_ended && !is_there(l, until, n) && (r = wh_link_pump(l)) > 0)
                ;
        return r < 0 ? r : 0;
}

/* ---- records ---- */

/*
 * The descriptors of the record that is next (K2). A payload in a memory of its own is the last of them where the record says
 * so, and nowhere else: as an item it would be a right of any descriptor's, and one more than a receiver has room for.
 */
static int record_items(struct wh_link *l, unsigned n, bool memory)
{
        int r = wh_link_read(l, WH_UNTIL_ITEMS, 0);
        if (r < 0)
                return r;
        /* None at all is never right (n > 0): they were to be sent before the record. */
        if (l->in.items.seq != l->in.seq || l->in.items.n != n)
                return wh_trace(-EPROTO);
        return (l->in.items.kind[n - 1] == WH_ITEM_MEMORY) == memory ? 0 : wh_trace(-EPROTO);
}

static void record_done(struct wh_link *l, const struct wh_rec *rec)
{
        if (wh_unlikely(wh_ring_advance(&l->in.lane->ring, rec)))
                wh_link_bell(l);
}

/* Where a block lies; its section's frame may still be unread. */
static int block_at(struct wh_link *l, const struct wh_rec_block *b, const void **ret)
{
        int r = b->section < WH_SECTIONS_MAX ? wh_link_read(l, WH_UNTIL_SECTION, b->section) : 0;
        if (r < 0)
                return r;
        return wh_lane_at(l->in.lane, b, ret);
}

/*
 * The first part of a message in parts, of `total` bytes. A small one goes straight into the buffer of the receive that is
 * running: should that end before the message does, what is there is copied in one go.
 */
static int parts_begin(struct wh_link *l, struct wh_incoming *in, const struct wh_rec_ext *ext, uint64_t total)
{
        struct wh_stash *s = &l->in.stash;
        if (!parts_allowed(l, total))
                return wh_trace(-EPROTO);
        int r = ext->n_items ? record_items(l, ext->n_items, false) : 0;
        if (r < 0)
                return r;
        if (in->direct && total <= in->direct_room && total <= DIRECT_MAX && total <= payload_limit(l)) {
                if ((r = hold(l, total)) < 0)
                        return r;
                *s = (struct wh_stash){.bytes = in->direct,
                                       .len = total,
                                       .room = total,
                                       .id = ext->id,
                                       .call = ext->call,
                                       .how = WHARF_HOW_CHUNKS,
                                       .building = true};
                l->in.direct = true;
        } else if ((r = stash_begin(l, total, ext->id, ext->call, WHARF_HOW_CHUNKS)) < 0) {
                return r;
        }
        s->n_items = ext->n_items;
        s->refused = (uint16_t)ext->arg;
        return 0;
}

/* One more part of a message in parts. */
static int part_add(struct wh_link *l, uint64_t total, const void *bytes, uint64_t len)
{
        struct wh_stash *s = &l->in.stash;
        if (total != s->len || len == 0 || len > s->len - s->have)
                return wh_trace(-EPROTO);
        int r = stash_grow(l);
        if (r < 0)
                return r;
        wh_shm_copy(s->bytes + s->have, bytes, len);
        s->have += len;
        wh_link_spend(l, len / WH_COST_BYTES);
        return 0;
}

/* A part in a block. */
static int record_chunk(struct wh_link *l, struct wh_incoming *in, const struct wh_rec_ext *ext,
                        const struct wh_rec_block *b)
{
        const void *bytes;
        if (b->len > WH_CHUNK)
                return wh_trace(-EPROTO); /* one part is copied in one go */
        int r = block_at(l, b, &bytes);
        if (r == 0 && !l->in.stash.building)
                r = parts_begin(l, in, ext, b->total);
        if (r == 0)
                r = part_add(l, b->total, bytes, b->len);
        if (r < 0)
                return r;
        record_done(l, &in->rec);
        if (wh_lane_release(l->in.lane, b->slot))
                wh_link_bell(l);
        if (l->in.stash.have == l->in.stash.len)
                stash_finish(l);
        return 0;
}

/* A part in the record itself. */
static int record_piece(struct wh_link *l, struct wh_incoming *in, const struct wh_rec_ext *ext)
{
        uint64_t total;
        if (in->rec.len < sizeof *ext + sizeof total)
                return wh_trace(-EPROTO);
        wh_shm_copy(&total, in->rec.body + sizeof *ext, sizeof total);
        int r = l->in.stash.building ? 0 : parts_begin(l, in, ext, total);
        if (r == 0)
                r = part_add(l, total, in->rec.body + sizeof *ext + sizeof total,
                             in->rec.len - sizeof *ext - sizeof total);
        if (r < 0)
                return r;
        record_done(l, &in->rec);
        if (l->in.stash.have == l->in.stash.len)
                stash_finish(l);
        return 0;
}

/*
 * A payload in the sender's address space: straight into the buffer of the receive that is running, or into private
 * memory. Refused or withdrawn, it is no message.
 */
static int record_direct(struct wh_link *l, struct wh_incoming *in, const struct wh_rec_ext *ext)
{
        struct wh_stash *s = &l->in.stash;
        struct wh_rec_direct d;
        int r;
        wh_shm_copy(&d, in->rec.body + sizeof *ext, sizeof d);
        if (!l->owner || ext->n_items || d.len == 0 || d.at + d.len < d.at)
                return wh_trace(-EPROTO);
        if (in->direct && d.len <= in->direct_room && d.len <= payload_limit(l)) {
                *s = (struct wh_stash){.bytes = in->direct,
                                       .len = d.len,
                                       .room = d.len,
                                       .id = ext->id,
                                       .call = ext->call,
                                       .how = WHARF_HOW_DIRECT,
                                       .building = true};
                l->in.direct = true;
        } else if ((r = stash_begin(l, d.len, ext->id, ext->call, WHARF_HOW_DIRECT)) < 0) {
                return r;
        }
        r = wh_direct_read(l, d.at, s->bytes, d.len);
        wh_link_spend(l, d.len / WH_COST_BYTES);
        if (wh_direct_claim(l, d.number, r)) {
                s->have = d.len;
                stash_finish(l);
        } else {
                wh_link_forget_part(l);
        }
        record_done(l, &in->rec);
        if (wh_ring_publish_taken(&l->in.lane->ring)) /* the sender waits for this one */
                wh_link_bell(l);
        return 0;
}

/*
 * Where a reply may be written. Kept until its request comes: whatever it says, it is looked at only with the kernel.
 */
static int record_window(struct wh_link *l, const struct wh_rec *rec, const struct wh_rec_ext *ext)
{
        struct wh_rec_direct d;
        wh_shm_copy(&d, rec->body + sizeof *ext, sizeof d);
        if (!l->owner || l->once || ext->n_items || !ext->call || d.len == 0 || d.at + d.len < d.at)
                return wh_trace(-EPROTO);
        l->in.window.call = ext->call;
        l->in.window.at = d.at;
        l->in.window.len = d.len;
        record_done(l, rec);
        if (wh_ring_publish_taken(&l->in.lane->ring)) /* no message: it shall take no place from the one that follows */
                wh_link_bell(l);
        return 0;
}

/* A reply that lies in the caller's own memory already (D3). */
static int record_written(struct wh_link *l, struct wh_incoming *in, const struct wh_rec_ext *ext)
{
        struct wh_rec_direct d;
        bool given_up;
        wh_shm_copy(&d, in->rec.body + sizeof *ext, sizeof d);
        int r = ext->n_items ? record_items(l, ext->n_items, false) : 0;
        if (r < 0)
                return r;
        if (l->end->written(l, ext->call, &d, &given_up)) {
                l->in.stash.id = ext->id;
                l->in.stash.n_items = ext->n_items;
                record_done(l, &in->rec);
                return 0;
        }
        if (!given_up)
                return wh_trace(-EPROTO);
        in->where = WH_IN_RECORD; /* nobody's */
        in->bytes = NULL;
        in->len = 0;
        in->id = ext->id;
        in->call = ext->call;
        in->n_items = ext->n_items;
        in->dropped = in->refused = 0;
        in->how = WHARF_HOW_DIRECT;
        return 1;
}

/* The ring ends: the next one's frame was sent before the record that says so. */
static int record_next(struct wh_link *l, const struct wh_rec *rec)
{
        struct wh_rec_ext ext;
        if (rec->len != sizeof ext || l->in.stash.building)
                return wh_trace(-EPROTO);
        wh_shm_copy(&ext, rec->body, sizeof ext);
        int r = wh_link_read(l, WH_UNTIL_RING, 0);
        if (r < 0)
                return r;
        const uint64_t before = l->in.lane->mapped_bytes;
        r = wh_lane_rx_switch(l->in.lane, ext.arg & WH_NEXT_NO_SECTIONS);
        if (r < 0)
                return r;
        spend_mapped(l, before - l->in.lane->mapped_bytes);
        l->end->mapped(l);
        l->in.sock_ready = true; /* frames may have been left behind that of this ring */
        record_done(l, rec);
        lines_end(l);
        if (wh_ring_idle(&l->in.lane->ring)) /* whose memory is gone is told */
                wh_link_bell(l);
        return 0;
}

/* 1: *in is a message; 0: look again; negative: a breach. */
static int record_take(struct wh_link *l, struct wh_incoming *in)
{
        struct wh_rec_ext ext;
        struct wh_rec_block b = {0};
        const struct wh_rec *rec = &in->rec;

        if (rec->kind == WH_REC_END) {
                if (l->in.stash.building)
                        return wh_trace(-EPROTO);
                lane_retire(l);
                l->in.sock_ready = true;
                return 0;
        }
        if (rec->kind == WH_REC_NEXT)
                return record_next(l, rec);
        if (rec->len < sizeof ext)
                return wh_trace(-EPROTO);
        wh_shm_copy(&ext, rec->body, sizeof ext);
        enum wh_rec_kind kind = rec->kind;
        bool offered = kind == WH_REC_OFFER;
        if (offered) {
                kind = (enum wh_rec_kind)ext.arg;
                if (!l->owner || (kind != WH_REC_INLINE && kind != WH_REC_BLOCK && kind != WH_REC_MEMORY))
                        return wh_trace(-EPROTO);
        }
        bool block = kind == WH_REC_BLOCK || kind == WH_REC_CHUNK || kind == WH_REC_MEMORY;
        if ((block && rec->len != sizeof ext + sizeof b) ||
            ((kind == WH_REC_DIRECT || kind == WH_REC_WINDOW) && rec->len != sizeof ext + sizeof(struct wh_rec_direct)))
                return wh_trace(-EPROTO);
        if (block)
                wh_shm_copy(&b, rec->body + sizeof ext, sizeof b);
        if (kind == WH_REC_ABORT) {
                wh_link_forget_part(l);
                record_done(l, rec);
                return 0;
        }
        if (l->in.stash.building && kind != WH_REC_CHUNK && kind != WH_REC_PIECE)
                return wh_trace(-EPROTO);
        if (ext.n_items > WHARF_ITEMS_MAX + 1 || ext.zero)
                return wh_trace(-EPROTO);
        if (kind == WH_REC_CHUNK)
                return record_chunk(l, in, &ext, &b);
        if (kind == WH_REC_PIECE)
                return record_piece(l, in, &ext);
        if (kind == WH_REC_DIRECT)
                return l->owner ? record_direct(l, in, &ext) : record_written(l, in, &ext);
        if (kind == WH_REC_WINDOW)
                return record_window(l, rec, &ext);

        in->dropped = 0;
        in->id = ext.id;
        in->call = ext.call;
        in->refused = (int)(ext.arg & 4095);
        in->n_items = ext.n_items;
        int r = ext.n_items ? record_items(l, ext.n_items, kind == WH_REC_MEMORY) : 0;
        if (r < 0)
                return r;
        switch (kind) {
        case WH_REC_INLINE:
                in->where = WH_IN_RECORD;
                in->bytes = rec->body + sizeof ext;
                in->len = rec->len - sizeof ext;
                in->how = WHARF_HOW_INLINE;
                break;
        case WH_REC_BLOCK: {
                const void *bytes;
                r = block_at(l, &b, &bytes);
                if (r < 0)
                        return r;
                if (b.total != b.len || b.len > WH_BLOCK_MAX)
                        return wh_trace(-EPROTO);
                in->where = WH_IN_BLOCK;
                in->bytes = bytes;
                in->len = b.len;
                in->slot = b.slot;
                in->how = WHARF_HOW_SECTION;
                break;
        }
        case WH_REC_MEMORY: {
                int fd = items_take_memory(l);
                if (fd < 0)
                        return wh_trace(-EPROTO);
                r = stash_memory(l, fd, b.total, ext.id, ext.call);
                if (r == -ENOMEM) {
                        l->in.items.n++; /* kept, for another try */
                        return r;
                }
                memory_keep(l, fd);
                l->in.stash.n_items = l->in.items.n;
                l->in.stash.refused = (uint16_t)ext.arg;
                if (r == 0 && offered) {
                        l->in.stash.how |= WH_HOW_OFFERED;
                        l->in.offer = l->in.lane->ring.records + 1;
                }
                if (r == 0)
                        record_done(l, rec);
                return r;
        }
        case WH_REC_DROPPED:
                if (l->owner)
                        return wh_trace(-EPROTO);
                in->where = WH_IN_RECORD;
                in->bytes = NULL;
                in->len = 0;
                in->dropped = ECANCELED;
                break;
        default:
                return wh_trace(-EPROTO);
        }
        if (in->len > payload_limit(l))
                return wh_trace(-EPROTO);
        if (offered)
                in->how |= WH_HOW_OFFERED;
        return 1;
}

static void from_stash(struct wh_link *l, struct wh_incoming *in)
{
        const struct wh_stash *s = &l->in.stash;
        in->where = WH_IN_STASH;
        in->bytes = s->bytes;
        in->len = s->len;
        in->id = s->id;
        in->call = s->call;
        in->how = s->how;
        in->n_items = s->n_items;
        in->refused = s->refused & 4095;
        in->dropped = s->how == WHARF_HOW_AUTO ? (int)s->have : 0;
}

int wh_link_next(struct wh_link *l, struct wh_incoming *in)
{
        bool last_look = false;
        struct turn turn = {0};
        for (;;) {
                if (wh_unlikely(l->in.stash.full)) {
                        from_stash(l, in);
                        return 1;
                }
                if (wh_unlikely(l->over)) {
                        wh_link_forget_part(l); /* nobody will send the rest */
                        return l->over;
                }
                if (wh_unlikely(l->in.waits))
                        return 0;
                struct wh_lane_rx *rx = l->in.lane;
                if (wh_likely(rx)) {
                        int r = wh_ring_peek(&rx->ring, &in->rec);
                        if (wh_unlikely(l->in.hung_up) && r > 0 && rx->ring.pos >= l->in.last_line)
                                r = wh_trace(-EPROTO); /* its writer goes on, and nobody could make it stop */
                        if (wh_likely(r > 0)) {
                                if (wh_likely(in->rec.kind == WH_REC_PLAIN && !l->in.stash.building &&
                                              in->rec.len <= payload_limit(l))) {
                                        in->where = WH_IN_RECORD;
                                        in->bytes = in->rec.body;
                                        in->len = in->rec.len;
                                        in->id = in->call = 0;
                                        in->n_items = 0;
                                        in->dropped = 0;
                                        in->how = WHARF_HOW_INLINE;
                                        return 1;
                                }
                                r = record_take(l, in);
                                if (r > 0)
                                        return 1;
                                if (r == 0) { /* a chunk, a memory, an end: it is taken, look again */
                                        wh_link_spend(l, 1);
                                        if (l->in.stash.full || turn_goes_on(l, &turn))
                                                continue;
                                        return 0;
                                }
                                if (r == WH_LINK_LATER)
                                        return 0;
                                if (r == WH_LINK_WAITS)
                                        continue;
                                if (shortage(r) || (r == -EMFILE && !l->over))
                                        return r; /* the record is where it was */
                        }
                        if (wh_unlikely(r < 0)) {
                                wh_link_break(l, r);
                                continue;
                        }
                }
                if (l->in.sock_ended) {
                        /* What was published before the end is visible now; only then is the end the end. */
                        if (!last_look) {
                                last_look = true;
                                continue;
                        }
                        wh_link_end(l, l->out.over && l->out.over != -EPIPE ? l->out.over : -EPIPE);
                        continue;
                }
                if (wh_likely(!l->in.sock_ready))
                        return 0;
                if (wh_unlikely(l->in.change.due)) {
                        /* The lane was just seen to be empty, so what is missing before the change never comes. */
                        int r = link_change(l);
                        if (r == WH_LINK_WAITS)
                                continue;
                        if (shortage(r))
                                return r;
                        if (r <= 0)
                                wh_link_break(l, r ? r : -EPROTO);
                        continue;
                }
                /* [lane-frames] Acquire, pairs with the release in wh_link_frame_parts(). */
                if (rx && !l->in.hung_up &&
                    (l->in.items.n || /* those of the next record: what follows them is not for now */
                     (atomic_load_explicit(&rx->ring.out->frames, memory_order_acquire) == l->in.frames_got &&
                      (l->in.arms < BELLS_MAX || discard_bells(l) >= 0) && only_rung(l))))
                        return 0;
                if (!turn_goes_on(l, &turn))
                        return 0;
                int r = wh_link_pump(l);
                if (wh_unlikely(r == WH_LINK_LATER))
                        return 0;
                if (wh_unlikely(r == WH_LINK_WAITS))
                        continue;
                if (r == 0 && l->once && l->owner && l->in.seq)
                        wh_link_end(l, -EPIPE); /* its one message was taken, and no second one lies there */
                else if (r == 0 || (r < 0 && !l->over))
                        return r;
        }
}

/* The sender counts its cold messages. One that does not even read this is let go of, for it would wait for ever. */
static void say_taken(struct wh_link *l)
{
        if (!l->owner)
                return;
        struct wh_frame f = {.type = WH_FRAME_TAKEN, .seq = l->in.seq};
        wh_lock(&l->o.lock);
        if (!l->out.over && wh_link_frame(l, &f, NULL, 0, NULL, false) == -EAGAIN) {
                wh_os_shutdown(l->sock, SHUT_RDWR);
                l->out.over = -ENOBUFS;
        }
        wh_unlock(&l->o.lock);
}

void wh_link_took(struct wh_link *l, const struct wh_incoming *in)
{
        bool tell = in->n_items && l->in.lane; /* rights count as unread until the sender is told otherwise */
        if (wh_unlikely(l->in.items.n && in->n_items))
                wh_items_done(&l->in.items);
        switch (in->where) {
        case WH_IN_BLOCK:
                record_done(l, &in->rec);
                if (wh_unlikely(wh_lane_release(l->in.lane, in->slot)))
                        wh_link_bell(l);
                break;
        case WH_IN_RECORD:
                record_done(l, &in->rec);
                if (in->dropped)
                        return; /* not a message: no number (K1) */
                break;
        case WH_IN_STASH:
                if (l->in.direct) {
                        l->in.direct = false;
                        l->in.stash.bytes = NULL;
                }
                if (wh_unlikely(l->in.stash.tell))
                        say_taken(l);
                if (l->in.stash.mapped && l->in.stash.how == WHARF_HOW_DIRECT && !l->owner) {
                        l->end->window_read(l, l->in.stash.bytes, l->in.stash.room);
                        l->in.stash.mapped = false;
                        l->in.stash.bytes = NULL;
                }
                wh_stash_done(&l->in.stash);
                stash_gone(l);
                if (in->dropped)
                        return;
                break;
        }
        l->in.seq++;
        if (wh_likely(!tell))
                return;
        l->end->rights_left(l);
        if (wh_ring_publish_taken(&l->in.lane->ring))
                wh_link_bell(l);
}

/* The number of an offer: that of its record, which was taken already where the payload was a memory of its own. */
static uint64_t offer_number(const struct wh_link *l, const struct wh_incoming *in)
{
        return in->where == WH_IN_STASH ? l->in.offer - 1 : l->in.lane->ring.records;
}

bool wh_link_still_offered(const struct wh_link *l, const struct wh_incoming *in)
{
        return wh_ring_still_offered(&l->in.lane->ring, offer_number(l, in));
}

bool wh_link_claim(struct wh_link *l, const struct wh_incoming *in)
{
        if (!wh_ring_claim(&l->in.lane->ring, offer_number(l, in)))
                return false;
        l->in.offer = 0;
        if (wh_ring_wanted(&l->in.lane->ring))
                wh_link_bell(l);
        return true;
}

void wh_link_skip(struct wh_link *l, const struct wh_incoming *in)
{
        if (l->in.items.n && in->n_items)
                wh_items_done(&l->in.items);
        l->in.offer = 0;
        if (in->where == WH_IN_STASH)
                wh_stash_done(&l->in.stash);
        else
                record_done(l, &in->rec); /* a block is the sender's again already */
        stash_gone(l);
}

void wh_link_hold(struct wh_link *l, const struct wh_incoming *in)
{
        l->in.lane->blocks_held++;
        record_done(l, &in->rec);
        l->end->rights_left(l);
        l->in.seq++;
}

bool wh_link_arm(struct wh_link *l)
{
        struct wh_lane_rx *rx = l->in.lane;
        if (wh_unlikely(l->came))
                return false;
        if (!rx)
                return true; /* every frame wakes us */
        if (wh_ring_sleep(&rx->ring))
                wh_link_bell(l);
        l->in.arms++;
        l->in.armed = true;
        struct wh_rec rec;
        if (wh_ring_peek(&rx->ring, &rec) != 0 || l->in.change.due)
                return false;
        /*
         * [lane-frames] Acquire: as in wh_link_next(). And frames that were left for the others' turn: no edge will tell of
         * them again.
         */
        return !l->in.sock_ready || l->in.items.n || rx->next ||
               (!l->in.rung && atomic_load_explicit(&rx->ring.out->frames, memory_order_acquire) == l->in.frames_got);
}
