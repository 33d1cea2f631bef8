#include "port/owned.h"
#include "port/places.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"
#include "port/branch.h"
#include "link/identity.h"
#include "task/ids.h"

#include <errno.h>

/* A limit that ends by itself, when a link does. */
static bool ends_by_itself(int r)
{
        return r == -EMLINK || r == -EDQUOT;
}

uint32_t wh_port_places(const struct wh_port *p)
{
        return p->n_links - p->n_placeless - p->n_waiting_room - p->n_directory;
}

/* So many links of a task may be without a place: a sixteenth of its descriptors, and a few in any case. */
static uint32_t placeless_max(const wharf_task *t)
{
        uint64_t most = t->accounts.max[WH_SHARE_TASK_LINKS] / 8;
        return most > WH_PLACELESS_MAX ? WH_PLACELESS_MAX : most ? (uint32_t)most : 1;
}

static uint32_t places_given(wharf_task *t)
{
        return atomic_load_explicit(&t->n_placeless, memory_order_relaxed);
}

/* The link `id` is none of this port any more, or there was none yet. */
static bool is_gone(const struct wh_port *p, uint32_t id)
{
        struct wh_link *k = (struct wh_link *)wh_table_find(&p->task->links, id);
        return !k || atomic_load_explicit(&k->o.name, memory_order_relaxed) != id || wh_owned(k)->port != p;
}

static bool gives(const struct wh_link *l)
{
        return l->in.hung_up || wh_owned(l)->revoked;
}

/* The link of one that gave its place away counts for its user as before, so there is one more for all to share. */
static void share_more(struct wh_port *p, int by)
{
        wh_lock(&p->accounts.lock);
        p->accounts.max[WH_SHARE_LINKS] += (uint64_t)by;
        wh_unlock(&p->accounts.lock);
}

/* It is read to its end, and takes no place from here on. */
static void count_no_more(struct wh_port *p, int by)
{
        p->n_placeless += (uint32_t)by;
        share_more(p, by);
}

/* G4: a link that waits for its first place is one that passes, once it is gone and has others behind it. */
static void never_had_one(struct wh_link *l)
{
        struct wh_owned *o = wh_owned(l);
        if (!o->waiting_room)
                return;
        o->waiting_room = false;
        o->port->n_waiting_room--;
        o->passing = EMLINK;
        wh_bill_charge(&o->bill, WH_SHARE_LINKS, 1, true);
        count_no_more(o->port, +1);
        wh_branch_fade(l);
}

/* G2, G4: true where its place is given away, or it has none to give. */
static bool give_place(struct wh_link *l)
{
        struct wh_owned *o = wh_owned(l);
        struct wh_port *p = o->port;
        if (o->placeless)
                return true;
        if (!gives(l))
                return false;
        /* Relaxed, here and below: a number, and nothing that it is of is looked at for it. */
        if (atomic_fetch_add_explicit(&p->task->n_placeless, 1, memory_order_relaxed) >= placeless_max(p->task)) {
                atomic_fetch_sub_explicit(&p->task->n_placeless, 1, memory_order_relaxed);
                return false;
        }
        o->placeless = true;
        never_had_one(l);
        if (!o->passing) {
                if (!o->directory) /* which never counted */
                        count_no_more(p, +1);
                wh_branch_fade(l);
        }
        return true;
}

void wh_place_pass(struct wh_link *l)
{
        struct wh_owned *o = wh_owned(l);
        if (!o->passing)
                return;
        const enum wh_refusal which = (enum wh_refusal)l->in.refusal;
        struct wh_frame f = {.type = WH_FRAME_REFUSE, .to = WH_TO_HOLDER, .arg = o->passing, .id = which};
        f.total = wh_port_limit(o->port, -(int)o->passing, which);
        wh_frame_send(l->sock, &f, NULL, 0, NULL, false);
        wh_os_shutdown(l->sock, SHUT_RD);
        wh_link_hung_up(l);
}

void wh_place_leave(struct wh_link *l)
{
        struct wh_owned *o = wh_owned(l);
        wh_place_unwait(l);
        if (o->waiting_room) {
                o->waiting_room = false;
                o->port->n_waiting_room--;
        }
        if (o->passing || (o->placeless && !o->directory))
                count_no_more(o->port, -1);
        if (o->placeless)
                atomic_fetch_sub_explicit(&l->task->n_placeless, 1, memory_order_relaxed);
        o->placeless = false;
        o->passing = 0;
}

/* ---- waiting ---- */

uint32_t wh_places_freed(wharf_task *t)
{
        wh_lock(&t->notices);
        uint32_t freed = t->freed;
        wh_unlock(&t->notices);
        return freed;
}

/* The port is told of what becomes free anywhere in its task from here on. False: something has been since `freed`. */
static bool listen_to_task(struct wh_port *p, uint32_t freed)
{
        wharf_task *t = p->task;
        wh_lock(&t->notices);
        if (!p->listens) {
                wh_list_push_back(&t->waiting, &p->in_waiting);
                atomic_fetch_add_explicit(&t->n_waiting, 1, memory_order_relaxed);
        }
        bool nothing = t->freed == freed;
        wh_unlock(&t->notices);
        p->listens = true;
        return nothing;
}

static void listen_no_more(struct wh_port *p)
{
        wh_lock(&p->task->notices);
        wh_list_remove(&p->in_waiting);
        atomic_fetch_sub_explicit(&p->task->n_waiting, 1, memory_order_relaxed);
        wh_unlock(&p->task->notices);
        p->listens = false;
}

int wh_place_wait(struct wh_link *l, enum wh_waits_for why, uid_t uid, bool shared, uint32_t freed)
{
        struct wh_owned *o = wh_owned(l);
        struct wh_port *p = o->port;
        wh_list_remove(&o->hot);
        l->in.waits = (uint8_t)why;
        o->waits_uid = uid;
        wh_list_push_back(&p->waiting, &o->hot);
        if (l->in.lane && wh_ring_idle(&l->in.lane->ring)) /* what was taken of it is told: it will not be looked at */
                wh_link_bell(l);
        if (shared && !listen_to_task(p, freed)) {
                wh_place_unwait(l);
                wh_port_look_at(l);
        }
        return WH_LINK_WAITS;
}

void wh_place_unwait(struct wh_link *l)
{
        struct wh_owned *o = wh_owned(l);
        if (!l->in.waits)
                return;
        l->in.waits = WH_WAITS_NOT;
        wh_list_remove(&o->hot);
        if (o->port->listens && wh_list_empty(&o->port->waiting))
                listen_no_more(o->port);
}

/* Might it find its place now? Asks nobody, so that what cannot go on costs next to nothing. */
static bool might_go_on(struct wh_port *p, const struct wh_link *l)
{
        const struct wh_owned *o = wh_owned(l);
        if (l->in.waits == WH_WAITS_MOVED)
                return wh_account_left(&p->task->accounts, o->waits_uid, WH_SHARE_TASK_LINKS) >= o->waits_links;
        if (l->in.waits == WH_WAITS_PLACE)
                return wh_port_places(p) < p->opts.links_max;
        if (l->in.waits == WH_WAITS_INTRODUCTION) {
                if (o->placeless ? is_gone(p, o->passes)
                                 : l->in.hung_up && places_given(p->task) < placeless_max(p->task))
                        return true;
                if (wh_port_places(p) >= p->opts.links_max || !wh_branch_may(l, p->opts.introduced_max))
                        return false;
        }
        return wh_account_might(&p->task->accounts, o->waits_uid, WH_SHARE_TASK_LINKS) &&
               wh_account_might(&p->accounts, o->waits_uid, WH_SHARE_LINKS);
}

/* G3: its first place, if there is one for it. */
static bool place_taken(struct wh_link *l)
{
        struct wh_owned *o = wh_owned(l);
        if (!o->waiting_room)
                return true;
        if (wh_port_places(o->port) >= o->port->opts.links_max)
                return false;
        if (wh_bill_charge(&o->bill, WH_SHARE_LINKS, 1, false) < 0)
                return false;
        o->waiting_room = false;
        o->port->n_waiting_room--;
        return true;
}

int wh_place_had(struct wh_link *l)
{
        if (l->in.hung_up || place_taken(l))
                return 0;
        return wh_place_wait(l, WH_WAITS_PLACE, wh_owned(l)->bill.payer, false, 0);
}

/* G1: those that might go on are looked at, and whoever sleeps here or polls learns that there is something to do. */
static void look_again(struct wh_port *p)
{
        struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
        bool any = p->accepts_owed && wh_port_places(p) < p->opts.links_max;
        wh_list_for_safe (n, &p->waiting) {
                struct wh_link *l = &wh_container(n, struct wh_owned, hot)->link;
                if (!might_go_on(p, l) || (l->in.waits == WH_WAITS_PLACE && !place_taken(l)))
                        continue;
                wh_place_unwait(l);
                wh_port_look_at(l);
                any = true;
        }
        if (any)
                wh_inbox_wake_all(in);
}

/* Something that ports of the task share is more than it was: all but `p` look for it. */
static void tell_others(wharf_task *t, const struct wh_port *p)
{
        wh_lock(&t->notices);
        t->freed++;
        wh_list_for (n, &t->waiting) {
                struct wh_port *q = wh_container(n, struct wh_port, in_waiting);
                if (q == p)
                        continue;
                atomic_store_explicit(&q->place_freed, true, memory_order_relaxed);
                wh_notices_wake(atomic_load_explicit(&q->inbox, memory_order_relaxed));
        }
        wh_unlock(&t->notices);
}

void wh_place_freed(struct wh_port *p)
{
        wharf_task *t = p->task;
        if (wh_unlikely(!wh_list_empty(&p->waiting) || p->accepts_owed) && !p->closing)
                look_again(p);
        tell_others(t, p);
}

void wh_places_raised(wharf_task *t)
{
        tell_others(t, NULL);
}

void wh_places_limits(wharf_task *t)
{
        if (wh_task_limits(t))
                wh_places_raised(t);
}

void wh_places_look(struct wh_inbox *in)
{
        wh_list_for (n, &in->ports) {
                struct wh_port *p = wh_container(n, struct wh_port, in_inbox);
                if (wh_unlikely(atomic_load_explicit(&p->place_freed, memory_order_relaxed))) {
                        atomic_store_explicit(&p->place_freed, false, memory_order_relaxed);
                        look_again(p);
                }
        }
}

/* ---- introductions ---- */

/* Who pays for whom is introduced, and whether that one gets a place as any other, at any rate, waits for it (G3), or passes (G4). */
struct adopting {
        uid_t payer;
        bool force, waits, passes;
};

static int adopt(struct wh_link *introducer, int sock, const struct adopting *how, struct wh_link **ret,
                 enum wh_refusal *ret_which)
{
        struct wh_port *p = wh_owned(introducer)->port;
        struct wh_branch *b = NULL;
        int r;
        *ret_which = WH_REFUSAL_PLAIN;
        if (wh_owned(introducer)->revoked == WH_REVOKED_BRANCH)
                return -EKEYREVOKED;
        if (wh_port_places(p) >= p->opts.links_max && !how->waits)
                return -EMLINK;
        *ret_which = WH_REFUSAL_INTRODUCED;
        if ((r = wh_branch_new(introducer, how->passes ? UINT32_MAX : p->opts.introduced_max, &b)) < 0)
                return r;
        r = how->waits ? wh_port_add_waiting(p, sock, how->payer, ret)
                       : wh_port_add_link(p, sock, how->payer, how->force, ret);
        wh_branch_settle(b, r == 0 ? *ret : NULL);
        *ret_which = p->links_refused_for;
        return r;
}

/* G4: whoever is refused for `why` passes. Negative where not even that is possible. */
static int adopt_passing(struct wh_link *introducer, int sock, const struct adopting *plain, int why,
                         struct wh_link **ret, enum wh_refusal *ret_which)
{
        const struct adopting how = {.payer = plain->payer, .force = true, .passes = true};
        const enum wh_refusal which = why == -EDQUOT ? *ret_which : WH_REFUSAL_PLAIN;
        count_no_more(wh_owned(introducer)->port, +1);
        int r = adopt(introducer, sock, &how, ret, ret_which);
        if (r < 0) {
                count_no_more(wh_owned(introducer)->port, -1);
                return r;
        }
        wh_owned(*ret)->passing = (uint8_t)-why;
        (*ret)->in.refusal = (uint8_t)which;
        wh_branch_fade(*ret);
        return 0;
}

/*
 * An owner speaks first. Of a pair that a stranger made, both ends may be owners', here or at two tasks, and then nobody
 * outside could ever use it or end it: so each of them gets what is for a holder, and ends its link. False: so full that
 * nothing can be said, which only whoever made it brought about.
 */
static bool greet(const struct wh_link *l)
{
        int r = l->end->greet(l, 0);
        if (r == -EAGAIN) /* another call may have been short of something */
                r = l->end->greet(l, 0);
        return r != -EAGAIN;
}

/*
 * G3. A directory's numbers are ours where its own is, which the kernel says to both; where they are not, nobody is known.
 * False: its introducer pays.
 */
static bool asked_by(const struct wh_link *introducer, const struct wh_frame *f, const struct wh_cred *cred, uid_t *ret)
{
        if (!wh_owned(introducer)->directory || !(f->arg & WH_ADOPT_ASKED))
                return false;
        *ret = cred->known && cred->uid == f->call && wh_id_known(f->id) ? f->id : (uid_t)-1;
        return true;
}

/* How it went with one that was introduced. */
struct admission {
        struct adopting how;
        struct wh_link *l;
        enum wh_refusal which;
        bool refused; /* G3: its user has all it may wait with */
        bool given;   /* G2: it was to have its introducer's own place, */
        bool passes;  /* G4: or to pass */
};

/* Every way in that there is for it, one after the other. */
static int admit(struct wh_link *introducer, int sock, bool asked, struct admission *a)
{
        const struct wh_owned *o = wh_owned(introducer);
        const struct wh_port *p = o->port;
        int r = adopt(introducer, sock, &a->how, &a->l, &a->which);
        if (asked && (r == -EMLINK || (r == -EDQUOT && a->which == WH_REFUSAL_LINKS))) {
                a->how.waits = true;
                r = adopt(introducer, sock, &a->how, &a->l, &a->which);
        }
        a->refused = asked && r == -EDQUOT && a->how.payer != p->task->accounts.self;
        const bool over = ends_by_itself(r) && !a->refused && give_place(introducer);
        a->given = over && !o->passing && is_gone(p, o->place_to);
        if (a->given) {
                a->how.force = true;
                r = adopt(introducer, sock, &a->how, &a->l, &a->which);
        }
        a->passes = over && ends_by_itself(r) && !o->revoked && is_gone(p, o->passes);
        if (a->passes) {
                a->how.waits = false;
                r = adopt_passing(introducer, sock, &a->how, r, &a->l, &a->which);
        }
        return r;
}

static int admitted(struct wh_link *introducer, const struct admission *a, bool had_place, uint32_t freed)
{
        struct wh_owned *o = wh_owned(introducer);
        struct wh_link *l = a->l;
        int r = wh_link_take_frame(introducer);
        if (r < 0) {
                l->handed_on = true; /* the frame is there still, and has the end */
                wh_port_remove_link(l);
                return r;
        }
        if (a->passes)
                o->passes = atomic_load_explicit(&l->o.name, memory_order_relaxed);
        else if (a->given)
                o->place_to = atomic_load_explicit(&l->o.name, memory_order_relaxed);
        if (a->passes && had_place)
                wh_place_freed(o->port); /* given away in vain: another may wait for it */
        if (!greet(l)) {
                wh_port_remove_link(l);
                return 0;
        }
        wh_place_pass(l);
        if (a->how.waits)
                wh_place_wait(l, WH_WAITS_PLACE, a->how.payer, false, freed);
        else
                wh_port_look_at(l); /* it may have sent already: look, rather than wait for an edge */
        return 0;
}

/* It waits where it is, in its introducer's queue, or is told that it is refused for `err`. */
static int not_admitted(struct wh_link *introducer, int sock, const struct admission *a, int err, bool had_place,
                        uint32_t freed)
{
        const struct wh_owned *o = wh_owned(introducer);
        struct wh_port *p = o->port;
        if (had_place && o->placeless)
                wh_place_freed(p); /* given away in vain */
        const bool in_vain = a->refused || o->revoked || a->passes || (o->passing && !o->placeless);
        if (err == -ENOMEM || (ends_by_itself(err) && !in_vain)) {
                wh_os_close_end(sock, WH_END_SHARED);                      /* the frame has another: later */
                const bool dead = introducer->in.hung_up && !o->placeless; /* too many have given theirs away */
                return err == -ENOMEM ? err
                                      : wh_place_wait(introducer, WH_WAITS_INTRODUCTION, a->how.payer,
                                                      dead || a->which == WH_REFUSAL_TASK_LINKS, freed);
        }
        const int taken = wh_link_take_frame(introducer);
        if (taken < 0) {
                wh_os_close_theirs(sock);
                return taken;
        }
        /* The introduced one is told why; the introducer has done nothing wrong. */
        const enum wh_refusal which = err == -EDQUOT ? a->which : WH_REFUSAL_PLAIN;
        wh_frame_refuse(sock, err, which, wh_port_limit(p, err, which));
        wh_os_close_end(sock, WH_END_OURS);
        p->refused += err != -EKEYREVOKED;
        return 0;
}

int wh_place_introduced(struct wh_link *introducer, int sock, const struct wh_frame *f, const struct wh_cred *cred)
{
        const struct wh_owned *o = wh_owned(introducer);
        struct admission a = {.how.payer = o->bill.payer};
        const bool asked = asked_by(introducer, f, cred, &a.how.payer), had_place = !o->placeless;
        wh_os_fd_private(sock);
        int r = wh_frame_check_socket(sock);
        if (r < 0) {
                wh_os_close_theirs(sock); /* whatever it is, nothing of ours is written to it */
                return r;
        }
        const uint32_t freed = wh_places_freed(o->port->task);
        r = admit(introducer, sock, asked, &a);
        return r == 0 ? admitted(introducer, &a, had_place && o->placeless, freed)
                      : not_admitted(introducer, sock, &a, r, had_place, freed);
}
