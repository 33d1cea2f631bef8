/*
 * pump - reading the socket: which frame is next, and for how long frames are read.
 *
 * The socket is read only when it must be: a doorbell stays in it unread (it said all it had to say by waking us), and
 * so does an ITEMS frame until its record is next. `out->frames` tells that something other than doorbells is there.
 *
 * Always true:
 *   P1  A frame is looked at first, and lost only once it was taken. Where something is short it is there for another try.
 *   P2  Nothing behind descriptors of a record, a whole message, a change or the next ring is read before those were
 *       reached (K6).
 *   P3  Each frame that is looked at is paid for from the budget, whatever comes of it (K7).
 */
#include "link/pump.h"

#include "base/trace.h"
#include "link/budget.h"
#include "link/change.h"
#include "link/frames.h"
#include "os/closer.h"
#include "os/os.h"
#include "os/receive.h"

#include <errno.h>

enum { FEW_FDS = 2 }; /* as many come with what makes and changes a link */

/*
 * The frame that was looked at stays where it is until there is enough for it. Descriptors are waited for as far as the
 * port lets a sender have unread rights, and one for the payload's memory; whoever sends more at once is let go. So is
 * whoever sends more than half of what this process may have in all, for it would wait for ever, dead or alive.
 */
static bool stays(const struct wh_link *l, int r, const struct wh_frame *f)
{
        if (l->kept)
                return wh_shortage(r); /* kept.E3: no descriptor is due there */
        unsigned most = l->owner ? l->hello.unread_rights_max + 1 : WH_FDS_MAX;
        const uint64_t half = l->task->accounts.max[WH_SHARE_TASK_LINKS];
        most = most < half ? most : (unsigned)half;
        return wh_shortage(r) || (r == -EMFILE && f->n_fds <= (most < FEW_FDS ? FEW_FDS : most));
}

int wh_link_take_frame(struct wh_link *l)
{
        if (!l->in.looked)
                return 0;
        int r = wh_frame_take(l->in.looked_sock, l->in.looked, l->in.looked_fds);
        if (!wh_shortage(r))
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
        /* A link whose frames are hidden for good would be a place that nobody uses and nobody frees; an answer, no sleep. */
        if (l->owner || l->answer)
                return wh_frame_peek_first(l->sock, f, data, fds, cred);
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
 * What took longer than it is charged for costs the time: how long the kernel needs for one frame may be up to its sender, who can
 * have thousands of watches woken by each that is read. It is processor time that counts, since how much may be read must not depend
 * on who else wants the processor; it takes a call to know, so it is asked on links that were slow a moment ago.
 */
struct spent {
        uint64_t ticks;
        int64_t cpu_ns;
};

enum { US_EACH = 4, SLOW_US = US_EACH * WH_COST_FRAME, SLOW_LOOKS = 64 };

static struct spent spending(const struct wh_link *l)
{
        return (struct spent){wh_os_ticks(), wh_unlikely(l->in.slow) ? wh_os_thread_ns() : 0};
}

static bool spend_time(struct wh_link *l, struct spent *s)
{
        const uint64_t now = wh_os_ticks();
        if (wh_unlikely(l->in.slow)) {
                const int64_t cpu = wh_os_thread_ns();
                const uint64_t us = (uint64_t)(cpu - s->cpu_ns) / 1000;
                l->in.slow = us > SLOW_US ? SLOW_LOOKS : l->in.slow - 1;
                if (us > SLOW_US)
                        wh_link_spend(l, us / US_EACH);
                s->cpu_ns = cpu;
        } else if (wh_unlikely((now - s->ticks) / l->task->ticks_per_us > SLOW_US)) {
                l->in.slow = SLOW_LOOKS;
                s->cpu_ns = wh_os_thread_ns();
        }
        s->ticks = now;
        return *l->end->budget(l) > 0;
}

int wh_pump_bells(struct wh_link *l)
{
        enum { AT_ONCE = 8 };
        int n = wh_os_inq(l->sock);
        if (n < 0 || n >= (int)sizeof(struct wh_frame))
                return -1;
        struct spent since = spending(l);
        for (int left = n; left > 0; left -= AT_ONCE) {
                const unsigned k = left < AT_ONCE ? (unsigned)left : AT_ONCE;
                if (wh_os_discard(l->sock, k) < 0)
                        return -1;
                wh_link_spend(l, k);
                if (!spend_time(l, &since) && left > AT_ONCE)
                        return -1; /* the others are there still */
        }
        l->in.arms = 0;
        if (wh_unlikely(l->out.room_asked))
                l->end->drained(l);
        return n;
}

bool wh_pump_only_rung(struct wh_link *l)
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
        if (f->type == WH_FRAME_REBIND && l->owner && !l->once && wh_change_expected(l) && !l->in.lane) {
                int r = wh_change_rebind_now(l, f, data, fds, cred);
                return r > 0 || wh_awaited(r) ? r : wh_link_break(l, r);
        }
        const struct wh_cred was = l->cred;
        const struct wharf_sender who = l->who;
        uid_t payer = (uid_t)-1;
        bool kept = false, had_rx = l->in.lane != NULL;
        const bool ours = f->to == wh_link_hears(l);
        int r = ours ? l->end->sender(l, f, cred, &payer) : wh_trace(-EPROTO);
        if (r >= 0)
                r = wh_frames_dispatch(l, f, data, fds, cred, &kept);
        if (!kept)
                for (unsigned i = 0; i < f->n_fds; i++)
                        wh_os_close_theirs(fds[i]);
        if (l->in.looked) { /* it is still only what was looked at */
                l->cred = was;
                l->who = who;
                if (ours)
                        l->end->not_taken(l, payer);
        }
        if (wh_awaited(r))
                return r; /* nothing of it was kept, and it is there for another try */
        if (r < 0)
                return wh_link_break(l, r);
        l->in.frames_got += had_rx;
        return 1;
}

/* Read the frames that are there now; `data` has room for one. `changed` as what was found before them. */
static int pump_frames(struct wh_link *l, uint8_t *data, int changed, struct spent *since)
{
        int fds[WH_FDS_MAX];
        struct wh_frame f = {0};
        struct wh_cred cred = {0};
        for (; !l->in.stash.full && !l->in.sock_ended && !l->over && !l->in.change.due; spend_time(l, since)) {
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
                                return wh_shortage(r) ? r : wh_link_break(l, r);
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
                int r = l->over ? 0 : wh_link_change(l);
                if (r < 0 && !wh_awaited(r))
                        return wh_link_break(l, r);
                if (r <= 0)
                        return r;
                changed = 1;
        }
        if (!l->owner && l->in.lane && !l->in.hung_up && l->in.old_sock < 0 && wh_pump_bells(l) > 0) {
                l->in.sock_ready = false; /* what wakes a caller is seldom more than a doorbell */
                return changed;
        }
        uint8_t *data = wh_task_scratch_take(l->task);
        if (!data)
                return wh_trace(-ENOMEM);
        struct spent since = spending(l);
        int r = pump_frames(l, data, changed, &since);
        spend_time(l, &since);
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
