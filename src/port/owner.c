/*
 * The owner's end of a link: what it answers to its sender, and what it takes on that sender's account.
 */
#include "port/owned.h"
#include "port/port.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"
#include "port/places.h"

#include <errno.h>
#include <stdlib.h>

struct wh_owned *wh_owned_new(wharf_task *t, int sock)
{
        struct wh_link *l = wh_link_new(t, WH_KIND_LINK, sock, &wh_owner_end);
        if (!l)
                return NULL;
        struct wh_owned *o = wh_owned(l);
        o->former = o->formers = WH_INTRODUCER_NOBODY;
        wh_list_init(&o->in_port);
        wh_list_init(&o->hot);
        atomic_store_explicit(&o->refs, 1, memory_order_relaxed);
        return o;
}

void wh_owned_done(struct wh_owned *o)
{
        free(o->replies.of);
        free(o->flying.of);
        o->replies = o->flying = (struct wh_unread){0};
        wh_link_done(&o->link);
}

void wh_port_hello(const struct wh_port *p, struct wh_hello *ret)
{
        *ret = (struct wh_hello){
                .port_id = p->id.v,
                .payload_bytes_max = p->opts.payload_bytes_max,
                .link_mapped_bytes_max = p->opts.link_mapped_bytes_max,
                .capacity_records = p->opts.capacity_records,
                .capacity_bytes = p->opts.capacity_bytes,
                .unread_rights_max = p->opts.unread_rights_max,
        };
}

void wh_owner_hello(const struct wh_link *l, struct wh_hello *ret)
{
        const struct wh_owned *o = wh_owned(l);
        wh_port_hello(o->port, ret);
        /* Its limit, or its user's share as it is now: it learns of it before it sends what would not be taken. */
        uint64_t share = wh_account_left(&o->port->accounts, o->bill.payer, WH_SHARE_BYTES) + o->mapped;
        if (share < ret->link_mapped_bytes_max)
                ret->link_mapped_bytes_max = share;
}

static int owner_greet(const struct wh_link *l, uint64_t seq)
{
        struct wh_hello h;
        wh_owner_hello(l, &h);
        struct wh_frame f = {.type = WH_FRAME_HELLO, .seq = seq, .total = seq ? wh_owned(l)->port->here : 0};
        return wh_frame_greet(l->sock, &f, &h);
}

uint64_t wh_port_limit(const struct wh_port *p, int err, enum wh_refusal which)
{
        switch (which) {
        case WH_REFUSAL_INTRODUCED:
                return p->opts.introduced_max;
        case WH_REFUSAL_LINKS:
                return p->links_shared && p->links_shared < p->opts.links_max ? p->links_shared : p->opts.links_max;
        case WH_REFUSAL_RIGHTS:
                return p->task->accounts.max[WH_SHARE_RIGHTS];
        case WH_REFUSAL_BYTES:
                return p->opts.mapped_bytes_max;
        case WH_REFUSAL_TASK_LINKS:
                return p->task->accounts.max[WH_SHARE_TASK_LINKS];
        case WH_REFUSAL_ANSWERS:
                return p->opts.link_answers_max;
        case WH_REFUSAL_TASK_ANSWERS:
                return p->task->accounts.max[WH_SHARE_ANSWERS];
        case WH_REFUSAL_PLAIN:
        case WH_REFUSALS:
                break;
        }
        switch (err) {
        case -EMLINK:
                return p->opts.links_max;
        case -EDQUOT:
                return p->opts.link_mapped_bytes_max;
        case -ENOBUFS:
                return p->opts.mapped_bytes_max;
        case -EMSGSIZE:
                return p->opts.payload_bytes_max;
        default:
                return 0;
        }
}

int wh_port_sender_known(struct wh_link *l)
{
        struct wh_owned *o = wh_owned(l);
        struct wh_port *p = o->port;
        const uid_t was = o->bill.payer, now = l->cred.uid;
        if (!p)
                return 0;
        wh_port_links_changed(p);
        if (was == now || now == (uid_t)-1) /* of whom nothing is known, whoever introduced it pays for it still */
                return 0;
        const uint32_t freed = wh_places_freed(p->task);
        /* Its link is there already: it is read, and goes. With another pair it may stay, but the task's own user has no share. */
        const bool goes = o->passing || (l->in.hung_up && (!l->in.change.due || now == p->task->accounts.self));
        enum wh_share refused;
        const bool force = goes || o->revoked != WH_REVOKED_NOT;
        int r = wh_bill_move(&o->bill, now, force, &refused);
        if (r == -EDQUOT && refused == WH_SHARE_TASK_LINKS) {
                wh_places_limits(p->task);
                wh_lingering_settle(p->task);
                r = wh_bill_move(&o->bill, now, force, &refused);
        }
        if (r < 0) {
                p->links_refused_for = refused == WH_SHARE_TASK_LINKS ? WH_REFUSAL_TASK_LINKS : WH_REFUSAL_LINKS;
                const bool shared = refused == WH_SHARE_TASK_LINKS;
                return r == -EDQUOT ? wh_place_wait(l, WH_WAITS_USER, now, shared, freed) : r;
        }
        wh_turn_payer(l);
        wh_place_freed(p);
        return 0;
}

static void owner_not_taken(struct wh_link *l, uid_t payer)
{
        enum wh_share refused;
        if (wh_owned(l)->bill.payer != payer && wh_bill_move(&wh_owned(l)->bill, payer, true, &refused) == 0)
                wh_turn_payer(l);
}

static int owner_hold(struct wh_link *l, enum wh_share share, uint64_t n)
{
        struct wh_owned *o = wh_owned(l);
        const bool bytes = share == WH_SHARE_BYTES;
        const uint64_t held = bytes ? o->stash_held : o->bill.of[share];
        if (wh_likely(n == held) || !o->port)
                return 0;
        if (n && bytes && o->bill.payer == o->port->accounts.self)
                return 0; /* the task's own user takes of its own memory */
        /* Its own user has what there is of those, as of links. */
        const bool own = share == WH_SHARE_LANES && o->bill.payer == l->task->accounts.self;
        int r = n > held ? wh_bill_charge(&o->bill, share, n - held, own) : 0;
        if (r == -EDQUOT && !bytes) {
                wh_places_limits(l->task);
                r = wh_bill_charge(&o->bill, share, n - held, false);
        }
        if (r == -EDQUOT && share != WH_SHARE_LANES)
                l->in.refusal = bytes ? WH_REFUSAL_BYTES : WH_REFUSAL_RIGHTS;
        if (r < 0)
                return r;
        if (n < held)
                wh_bill_give(&o->bill, share, held - n);
        if (bytes)
                o->stash_held = n;
        return 0;
}

/* Of lanes that have ended too, where payloads in them are held. */
static uint64_t link_maps(const struct wh_link *l)
{
        uint64_t bytes = l->in.lane ? l->in.lane->mapped_bytes : 0;
        for (const struct wh_lane_rx *rx = l->in.retired; rx; rx = rx->next_retired)
                bytes += rx->mapped_bytes;
        return bytes;
}

static int64_t owner_may_map(struct wh_link *l)
{
        struct wh_port *p = wh_owned(l)->port;
        uint64_t mine = link_maps(l);
        if (mine >= p->opts.link_mapped_bytes_max)
                return -EDQUOT;
        if (p->mapped >= p->opts.mapped_bytes_max)
                return -ENOBUFS;
        uint64_t a = p->opts.link_mapped_bytes_max - mine, b = p->opts.mapped_bytes_max - p->mapped;
        uint64_t c = wh_bill_left(&wh_owned(l)->bill, WH_SHARE_BYTES);
        a = a < b ? a : b;
        l->in.refusal = c < a ? WH_REFUSAL_BYTES : WH_REFUSAL_PLAIN;
        return c == 0 ? -EDQUOT : (int64_t)(a < c ? a : c);
}

static void owner_mapped(struct wh_link *l)
{
        struct wh_owned *o = wh_owned(l);
        if (!o->port)
                return; /* it was removed, and what it counted with it */
        const uint64_t now = link_maps(l);
        wh_bill_set(&o->bill, WH_SHARE_BYTES, now + o->stash_held); /* asked for by owner_may_map() */
        o->port->mapped += now - o->mapped;
        o->mapped = now;
        const unsigned kept = wh_link_kept(l);
        if (kept < o->bill.of[WH_SHARE_LANES])
                owner_hold(l, WH_SHARE_LANES, kept);
}

static int owner_renew(struct wh_link *l)
{
        struct wh_frame f = {.type = WH_FRAME_RENEW, .seq = l->out.seq};
        if (wh_owned(l)->had_lane) {
                f.arg = WH_CHANGE_LANE;
                f.total = wh_owned(l)->lane_ended;
        }
        if (l->once) { /* whose one message is all there will be */
                l->out.detour &= (uint8_t)~WH_DETOUR_RENEW;
                return 0;
        }
        int r = wh_link_frame(l, &f, NULL, 0, NULL, false);
        if (r < 0) {
                l->out.detour |= WH_DETOUR_RENEW;
                return r;
        }
        l->out.detour &= (uint8_t)~WH_DETOUR_RENEW;
        wh_owned(l)->had_lane = false;
        /* [lane-renew] Relaxed: a hint; the frame itself says it. Pairs with the load in tx_ring(). */
        if (l->in.lane)
                atomic_store_explicit(&l->in.lane->ring.back->renew, l->in.renews, memory_order_relaxed);
        return 0;
}

/* Who the holder is, and on whose account. */
struct holder_is {
        struct wh_cred cred;
        struct wharf_sender who;
        struct wharf_introducer given;
        uid_t payer;
};

static struct holder_is holder_now(const struct wh_link *l)
{
        return (struct holder_is){l->cred, l->who, l->given, wh_owned(l)->bill.payer};
}

static void holder_as_before(struct wh_link *l, const struct holder_is *was)
{
        l->cred = was->cred;
        l->who = was->who;
        l->given = was->given;
        owner_not_taken(l, was->payer);
}

/* The holder is who that change says, and its frame is taken. */
static int change_sender(struct wh_link *l, const struct wh_change *c)
{
        /* Of unrelated pid and user namespaces the kernel can say neither: then the sender is nobody, and served as
         * such. */
        l->given = wh_given_fold(l->given, c->given);
        wh_link_identify(l, &c->cred, c->known);
        int refused = wh_port_sender_known(l);
        return refused == 0 ? wh_link_take_frame(l) : refused;
}

/* The new pair is greeted and takes the old one's place; under the sending guard. */
static int change_pair(struct wh_link *l, struct wh_change *c)
{
        struct wh_owned *o = wh_owned(l);
        struct wh_lingering *kept;
        struct wh_hello h;
        wh_owner_hello(l, &h);
        int r = wh_end_keep(l, false, &kept);
        if (r < 0)
                return wh_trace(r);
        /* Nothing is written to the old pair after this greeting, which says where our own lane ends (K6). */
        struct wh_frame f = {.type = WH_FRAME_HELLO, .seq = l->out.seq, .arg = WH_CHANGE_GREETING};
        if (l->out.lane || o->had_lane) {
                f.arg |= WH_CHANGE_LANE;
                f.total = l->out.lane ? l->out.lane->ring.records : o->lane_ended;
        }
        r = wh_frame_greet(c->sock, &f, &h);
        /* A holder whose first pair this is waits for no greeting there. */
        if (r < 0 && r != -EPIPE && (l->in.renews || c->awaited)) {
                wh_end_keep_not(l, kept);
                return wh_trace(r == -EAGAIN ? -EPROTO : -ENOMEM);
        }
        if (l->out.lane)
                wh_link_leave_lane(l);
        o->had_lane = false;
        l->out.detour &= (uint8_t) ~(WH_DETOUR_RENEW | WH_DETOUR_ABORT);
        l->out.over = l->out.over == -EPIPE ? 0 : l->out.over; /* that was the old pair */
        wh_os_epoll_del(o->inbox->ep, l->sock); /* before it is closed: a copy elsewhere would keep it firing */
        /* Whoever introduced it may have copies of both ends. */
        wh_end_over(l, wh_link_end_how(l) & ~WH_END_OURS, kept);
        l->sock = c->sock;
        c->sock = -1;
        if (c->told)
                owner_renew(l); /* or with the next answer */
        return 0;
}

static int owner_change(struct wh_link *l)
{
        const int ep = wh_owned(l)->inbox->ep, on = 1;
        struct wh_change *c = &l->in.change;
        if (c->sock < 0)
                return wh_trace(-EPROTO);
        uint32_t id = atomic_load_explicit(&l->o.name, memory_order_relaxed);
        if (wh_os_setsockopt(c->sock, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0 ||
            wh_os_epoll_add(ep, c->sock, EPOLLIN | EPOLLRDHUP | EPOLLET, wh_ep_tag(WH_EP_LINK, id)) < 0)
                return wh_trace(-ENOMEM);
        const struct holder_is was = holder_now(l);
        int r = change_sender(l, c);
        if (r == 0) {
                wh_lock(&l->o.lock);
                r = change_pair(l, c);
                wh_unlock(&l->o.lock);
        }
        if (r < 0) {
                holder_as_before(l, &was); /* what lies in its lane still is the former one's */
                wh_os_epoll_del(ep, c->sock);
                return r;
        }
        l->connected = false;
        l->in.hung_up = false;
        wh_place_pass(l);
        return 0;
}

/*
 * The one message of a send-once right: the kernel says who wrote it, and nobody writes such a one that is not meant as
 * that. What a former owner calls such a right may be anything.
 */
static int once_sender(struct wh_link *l, const struct wh_cred *cred)
{
        if (!cred->known || wh_owned(l)->former.known != WHARF_KNOWN_NOBODY)
                return 0;
        const struct wh_cred was = l->cred;
        const uint32_t how = l->who.known;
        wh_link_identify(l, cred, WHARF_KNOWN_ONCE);
        int r = wh_port_sender_known(l);
        if (r < 0)
                wh_link_identify(l, &was, how);
        return r;
}

/*
 * Whoever the link is known for wrote this frame, or it is a breach (I2): but for REBIND, which says who is next, and
 * GIVEN, by whoever passes the right on, for which nobody is believed more. Of what was sent to the port's socket before
 * this end asked for it the kernel says nothing; nobody else has an end like that, so nobody can have it say nothing
 * later.
 */
static int owner_sender(struct wh_link *l, const struct wh_frame *f, const struct wh_cred *cred, uid_t *ret_payer)
{
        *ret_payer = wh_owned(l)->bill.payer;
        if (wh_unlikely(wh_owned(l)->waiting_room) && wh_place_had(l) != 0)
                return WH_LINK_WAITS;
        if (l->once)
                return once_sender(l, cred);
        if (wh_unlikely(wh_owned(l)->port->of_others && cred->known && cred->pid == l->task->pid &&
                        !wh_known_surely(l->who.known) && f->type != WH_FRAME_REBIND))
                return wh_trace(-EPROTO);
        if (!wh_known_surely(l->who.known) || l->cred.pid <= 0 || f->type == WH_FRAME_REBIND ||
            f->type == WH_FRAME_GIVEN)
                return 0;
        if (!cred->known && l->who.known == WHARF_KNOWN_CONNECTED)
                return 0;
        return cred->known && cred->pid == l->cred.pid ? 0 : wh_trace(-EPROTO);
}

static uint32_t *owner_budget(struct wh_link *l)
{
        return wh_owned(l)->inbox ? &wh_owned(l)->inbox->budget : &l->in.budget;
}

static uint64_t owner_limit(const struct wh_link *l, int err, enum wh_refusal which)
{
        return wh_owned(l)->port ? wh_port_limit(wh_owned(l)->port, err, which) : 0;
}

/* What only a holder's end is told or watches for. */
static bool owner_written(struct wh_link *l, uint32_t call, const struct wh_rec_direct *d, bool *ret_given_up)
{
        return *ret_given_up = false;
}

/* Never asked: windows are the holder's (in.c). */
static void owner_window_read(struct wh_link *l, void *map, uint64_t map_len)
{
        (void)l;
        (void)map;
        (void)map_len;
}

static void owner_via(struct wh_link *l, uint32_t call, int sock)
{
        wh_os_close_theirs(sock);
}

static void owner_nothing(struct wh_link *l)
{
}

static int owner_watch(struct wh_link *l, int sock, bool add)
{
        return 0;
}

const struct wh_end_ops wh_owner_end = {
        .owner = true,
        .size = sizeof(struct wh_owned),
        .sender = owner_sender,
        .not_taken = owner_not_taken,
        .introduced = wh_place_introduced,
        .greet = owner_greet,
        .change = owner_change,
        .written = owner_written,
        .via = owner_via,
        .window_read = owner_window_read,
        .introducers = wh_owned_introducers,
        .drained = owner_nothing,
        .budget = owner_budget,
        .may_map = owner_may_map,
        .mapped = owner_mapped,
        .hold = owner_hold,
        .limit = owner_limit,
        .may_share = wh_reply_room,
        .shared = wh_reply_kept,
        .sends = wh_reply_sends,
        .unsent = wh_reply_unsent,
        .renew = owner_renew,
        .watch = owner_watch,
        .sock_changed = owner_nothing,
};
