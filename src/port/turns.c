#include "port/owned.h"
#include "port/turns.h"

#include "os/os.h"
#include "port/port.h"

#include <stdlib.h>
#include <string.h>

static void set_mixed(struct wh_inbox *in, bool mixed)
{
        in->turns.mixed = mixed;
        in->since_look = (in->since_look & ~(uint32_t)WH_LOOK_MIXED) | (mixed ? WH_LOOK_MIXED : 0);
        in->turn_msgs = mixed ? WH_TURN_MSGS_MIXED : WH_TURN_MSGS;
        if (!mixed)
                in->turns.n = 0;
}

/* Where `uid` is, or would be. */
static uint32_t find(const struct wh_turns *t, uid_t uid)
{
        uint32_t lo = 0, hi = t->n;
        while (lo < hi) {
                uint32_t mid = lo + (hi - lo) / 2;
                if (t->users[mid].uid < uid)
                        lo = mid + 1;
                else
                        hi = mid;
        }
        return lo;
}

/* Those that would not be told from one that was never seen. */
static void forget_past(struct wh_turns *t)
{
        uint32_t n = 0;
        for (uint32_t i = 0; i < t->n; i++)
                if (t->users[i].round >= t->round)
                        t->users[n++] = t->users[i];
        t->n = n;
}

static bool make_room(struct wh_turns *t)
{
        if (t->n < t->room)
                return true;
        forget_past(t);
        if (t->n <= t->room / 2 && t->room)
                return true;
        uint32_t room = t->room ? 2 * t->room : 8;
        struct wh_turn_user *more = wh_os_realloc(t->users, room * sizeof *more);
        if (!more)
                return t->n < t->room;
        t->users = more;
        t->room = room;
        return true;
}

/* The round in which this user is next. Where there is no memory to remember it, it is as if it had not been. */
static uint64_t round_next(struct wh_turns *t, uid_t uid)
{
        uint32_t i = find(t, uid);
        if (i < t->n && t->users[i].uid == uid) {
                struct wh_turn_user *u = &t->users[i];
                u->round = u->round + 1 > t->round ? u->round + 1 : t->round;
                return u->round;
        }
        if (make_room(t)) {
                i = find(t, uid);
                memmove(&t->users[i + 1], &t->users[i], (t->n - i) * sizeof *t->users);
                t->users[i] = (struct wh_turn_user){uid, t->round};
                t->n++;
        }
        return t->round;
}

static struct wh_owned *owned_of(const struct wh_list *n)
{
        return wh_container(n, struct wh_owned, hot);
}

/* Behind all of its round; looked for from the end that is nearer. */
static void insert(struct wh_inbox *in, struct wh_link *l)
{
        struct wh_owned *o = wh_owned(l);
        struct wh_list *at = &in->hot;
        const uint64_t last = wh_list_empty(&in->hot) ? 0 : owned_of(in->hot.prev)->round;
        if (o->round >= last) {
                wh_list_push_back(&in->hot, &o->hot);
                return;
        }
        if (o->round - in->turns.round < last - o->round) {
                for (at = at->next; owned_of(at)->round <= o->round; at = at->next)
                        ;
        } else {
                while (at->prev != &in->hot && owned_of(at->prev)->round > o->round)
                        at = at->prev;
        }
        wh_list_insert_before(at, &o->hot);
}

/* Hot links of a second user: from here on each has a round. */
static void mix(struct wh_inbox *in)
{
        set_mixed(in, true);
        wh_list_for (n, &in->hot)
                owned_of(n)->round = round_next(&in->turns, in->turns.user);
}

void wh_turn_first(struct wh_inbox *in, struct wh_link *l)
{
        struct wh_owned *o = wh_owned(l);
        in->turns.heated++;
        if (wh_list_empty(&in->hot)) {
                set_mixed(in, false);
                in->turns.user = o->bill.payer;
        } else if (!in->turns.mixed && o->bill.payer != in->turns.user) {
                mix(in);
        }
        o->round = in->turns.mixed ? round_next(&in->turns, o->bill.payer) : in->turns.round;
        insert(in, l);
}

void wh_turn_on(struct wh_inbox *in, const struct wh_link *l)
{
        if (wh_unlikely(in->turns.mixed) && wh_owned(l)->round > in->turns.round)
                in->turns.round = wh_owned(l)->round;
}

void wh_turn_over(struct wh_inbox *in, struct wh_link *l)
{
        struct wh_owned *o = wh_owned(l);
        o->served = 0;
        wh_list_remove(&o->hot);
        wh_turn_on(in, l);
        if (wh_unlikely(in->turns.mixed)) {
                o->round = round_next(&in->turns, o->bill.payer);
                insert(in, l);
        } else {
                wh_list_push_back(&in->hot, &o->hot);
        }
}

void wh_turn_last(struct wh_inbox *in, struct wh_link *l)
{
        struct wh_owned *o = wh_owned(l);
        o->served = 0;
        wh_list_remove(&o->hot);
        wh_turn_on(in, l);
        if (in->turns.mixed) {
                o->round = wh_list_empty(&in->hot) ? in->turns.round : owned_of(in->hot.prev)->round + 1;
        }
        wh_list_push_back(&in->hot, &o->hot);
}

void wh_turn_payer(struct wh_link *l)
{
        if (!wh_list_linked(&wh_owned(l)->hot) || l->in.waits)
                return;
        wh_list_remove(&wh_owned(l)->hot);
        wh_turn_first(wh_owned(l)->inbox, l);
}

bool wh_turn_waits(struct wh_inbox *in, struct wh_link *l, struct wh_list **next)
{
        struct wh_owned *o = wh_owned(l);
        if (o->served || o->round >= in->turns.round || !wh_link_has_something(l))
                return false;
        struct wh_list *before = o->hot.prev;
        wh_list_remove(&o->hot);
        o->round = round_next(&in->turns, o->bill.payer);
        insert(in, l);
        *next = before->next;
        if (*next != &o->hot)
                return true;
        *next = o->hot.next; /* it is next all the same */
        return false;
}

void wh_turns_done(struct wh_inbox *in)
{
        free(in->turns.users);
        in->turns.users = NULL;
        in->turns.n = in->turns.room = 0;
}
