/*
 * What a holder's end answers to what comes on its link, and one that lasts for a single message (struct wh_end_ops).
 */
#include "link/direct.h"
#include "right/calls.h"
#include "right/held.h"
#include "right/right.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"
#include "port/owned.h"
#include "port/port.h"

#include <errno.h>

/*
 * Whoever writes to a holder is the owner of its port, or gave it the right (identity.I1). A holder that has never called
 * has no reply to come, so nothing of one is looked at: it may be large, and nobody asked for it.
 */
static int holder_sender(struct wh_link *l, const struct wh_frame *f, const struct wh_cred *cred, uid_t *ret_payer)
{
        *ret_payer = (uid_t)-1;
        switch ((enum wh_frame_type)f->type) {
        case WH_FRAME_MESSAGE:
        case WH_FRAME_ITEMS:
        case WH_FRAME_ATTACH:
        case WH_FRAME_SECTION:
        case WH_FRAME_RING:
        case WH_FRAME_DROPPED:
        case WH_FRAME_VIA:
                return wh_held(l)->last_call ? 0 : wh_trace(-EPROTO);
        default:
                return 0;
        }
}

/* One that lasts for a message is there to read it. */
static int single_sender(struct wh_link *l, const struct wh_frame *f, const struct wh_cred *cred, uid_t *ret_payer)
{
        *ret_payer = (uid_t)-1;
        return 0;
}

static void holder_not_taken(struct wh_link *l, uid_t payer)
{
}

static int holder_introduced(struct wh_link *l, int sock, const struct wh_frame *f, const struct wh_cred *cred)
{
        wh_os_close_theirs(sock);
        return -EPROTO;
}

static int holder_greet(const struct wh_link *l, uint64_t seq)
{
        return -EPROTO;
}

static int holder_change(struct wh_link *l)
{
        return 0; /* its pair is of its own making, and it has gone over before */
}

static uint32_t *holder_budget(struct wh_link *l)
{
        return &l->in.budget;
}

/*
 * As much as a lane of the library's can have, whatever the server's options: so an honest one never meets this, and no other
 * has more. A lane that ended is there for a payload in it that the user holds.
 */
static int64_t holder_may_map(struct wh_link *l)
{
        const uint64_t mapped = l->in.lane ? l->in.lane->mapped_bytes : 0;
        return mapped < WH_LANE_BYTES_MAX ? (int64_t)(WH_LANE_BYTES_MAX - mapped) : -EDQUOT;
}

static void holder_nothing(struct wh_link *l)
{
}

/* Nothing that comes is on anybody's account here: whoever sends to a port chose it, and is told when it is full. */
static int holder_takes(struct wh_link *l, enum wh_share share, uint64_t n)
{
        return 0;
}

static int holder_sends(struct wh_link *l, enum wh_share share, uint64_t n)
{
        return l->once ? wh_once_sends(l, share, n) : 0;
}

static void holder_unsent(struct wh_link *l, enum wh_share share, uint64_t n)
{
        if (l->once)
                wh_once_unsent(l, share, n);
}

static uint64_t holder_limit(const struct wh_link *l, int err, enum wh_refusal which)
{
        return 0;
}

static uint64_t holder_may_share(struct wh_link *l)
{
        enum { BEFORE_GREETING = 80 << 20 };
        return l->greeted ? l->hello.link_mapped_bytes_max : BEFORE_GREETING;
}

static int holder_renew(struct wh_link *l)
{
        return 0;
}

/* One that leaves is in no epoll any more: a copy of it elsewhere would keep it firing, with this link's tag. */
static int watch_in(struct wh_link *l, struct wh_inbox *in, int sock, bool add)
{
        const int of_link = l->sock;
        if (!in)
                return 0;
        if (!add) {
                wh_os_epoll_del(in->ep, sock);
                return 0;
        }
        l->sock = sock;
        const int r = wh_asked_watch(l, in);
        l->sock = of_link;
        return r;
}

/* The death of the pair that is left is nobody's death, and room is told of by the new one: wh_room_watch(). */
static int holder_watch(struct wh_link *l, int sock, bool add)
{
        struct wh_held *h = wh_held(l);
        int r = watch_in(l, h->asked[WH_ASKED_DEAD].inbox, sock, add);
        for (unsigned i = WH_ASKED_DEAD + 1; i < WH_ASKED && !add; i++)
                watch_in(l, h->asked[i].inbox, sock, false);
        wh_list_for (n, &h->told)
                if (r == 0)
                        r = watch_in(l, wh_container(n, struct wh_told, node)->inbox, sock, add);
        return r;
}

/* No window is ever announced over it. */
static void single_window_read(struct wh_link *l, void *map, uint64_t map_len)
{
        (void)l;
        wh_os_munmap(map, map_len);
}

/* The reply right was passed on once more: see wh_call_read_via(). */
static void single_via(struct wh_link *l, uint32_t call, int sock)
{
        if (l->in.change.sock < 0 && wh_frame_check_socket(sock) == 0)
                l->in.change.sock = sock;
        else
                wh_os_close_theirs(sock);
}

static void holder_via(struct wh_link *l, uint32_t call, int sock)
{
        if (l->once)
                single_via(l, call, sock);
        else
                wh_call_via(l, call, sock);
}

static bool single_written(struct wh_link *l, uint32_t call, const struct wh_rec_direct *d, bool *ret_given_up)
{
        *ret_given_up = true;
        return false;
}

static int single_watch(struct wh_link *l, int sock, bool add)
{
        return 0;
}

/* What a send right's link and one for a single message answer alike. */
#define HOLDERS_ANSWERS                                                                                           \
        .owner = false, .not_taken = holder_not_taken, .introduced = holder_introduced, .greet = holder_greet,    \
        .change = holder_change, .introducers = wh_given_see, .budget = holder_budget, .may_map = holder_may_map, \
        .mapped = holder_nothing, .hold = holder_takes, .limit = holder_limit, .may_share = holder_may_share,     \
        .shared = holder_nothing, .sends = holder_sends, .unsent = holder_unsent, .renew = holder_renew

const struct wh_end_ops wh_holder_end = {
        HOLDERS_ANSWERS,
        .sender = holder_sender,
        .size = sizeof(struct wh_held),
        .written = wh_call_written,
        .via = holder_via,
        .window_read = wh_window_give,
        .drained = wh_room_settle,
        .watch = holder_watch,
        .sock_changed = wh_room_watch,
};

/* No call waits on it, and nothing watches it. */
const struct wh_end_ops wh_single_end = {
        HOLDERS_ANSWERS,           .sender = single_sender, .size = sizeof(struct wh_link),
        .written = single_written, .via = single_via,       .window_read = single_window_read,
        .drained = holder_nothing, .watch = single_watch,   .sock_changed = holder_nothing,
};

struct wh_link wh_single_link(wharf_task *t, int sock)
{
        return (struct wh_link){.task = t,
                                .end = &wh_single_end,
                                .sock = sock,
                                .once = true,
                                .who = WH_SENDER_UNKNOWN,
                                .given = WH_INTRODUCER_NOBODY,
                                .in.sock_ready = true,
                                .in.old_sock = -1,
                                .in.budget = WH_BUDGET,
                                .in.change = {.sock = -1}};
}
