#include "task/account.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void wh_accounts_done(struct wh_accounts *a)
{
        free(a->users);
        a->users = NULL;
        a->n = a->room = 0;
}

bool wh_accounts_limit(struct wh_accounts *a, enum wh_share share, uint64_t max)
{
        wh_lock(&a->lock);
        const bool more = max > a->max[share];
        a->max[share] = max;
        wh_unlock(&a->lock);
        return more;
}

/* Where `uid` stands, or would. */
static size_t find(const struct wh_accounts *a, uid_t uid, bool *ret_found)
{
        size_t lo = 0, hi = a->n;
        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;
                if (a->users[mid].uid < uid)
                        lo = mid + 1;
                else
                        hi = mid;
        }
        *ret_found = lo < a->n && a->users[lo].uid == uid;
        return lo;
}

static uint64_t left_locked(const struct wh_accounts *a, uid_t uid, enum wh_share share)
{
        uint64_t left = a->max[share] > a->used[share] ? a->max[share] - a->used[share] : 0;
        if (uid == a->self && !a->equal)
                return left;
        bool found;
        size_t i = find(a, uid, &found);
        uint64_t mine = found ? a->users[i].used[share] : 0, n = a->n + !found;
        uint64_t part = (left + mine) / (n + 1), least = a->least[share];
        /* Where shares are small: a few for everybody, as long as there are any. */
        part = part > least ? part : least;
        uint64_t more = part > mine ? part - mine : 0;
        return more < left ? more : left;
}

uint64_t wh_account_left(struct wh_accounts *a, uid_t uid, enum wh_share share)
{
        wh_lock(&a->lock);
        uint64_t left = left_locked(a, uid, share);
        wh_unlock(&a->lock);
        return left;
}

bool wh_account_might(struct wh_accounts *a, uid_t uid, enum wh_share share)
{
        bool found;
        wh_lock(&a->lock);
        size_t i = find(a, uid, &found);
        bool might = !found || !a->users[i].used[share] || left_locked(a, uid, share);
        wh_unlock(&a->lock);
        return might;
}

static int add_locked(struct wh_accounts *a, uid_t uid, enum wh_share share, uint64_t amount, bool force)
{
        bool found;
        if (!force && amount > left_locked(a, uid, share))
                return wh_trace(-EDQUOT);
        size_t i = find(a, uid, &found);
        if (!found) {
                if (a->n == a->room) {
                        size_t room = a->room ? a->room * 2 : 4;
                        struct wh_account *more = wh_os_realloc(a->users, room * sizeof *more);
                        if (!more)
                                return wh_trace(-ENOMEM);
                        a->users = more;
                        a->room = room;
                }
                memmove(&a->users[i + 1], &a->users[i], (a->n - i) * sizeof *a->users);
                a->users[i] = (struct wh_account){.uid = uid};
                a->n++;
        }
        a->users[i].used[share] += amount;
        a->used[share] += amount;
        return 0;
}

static void take_locked(struct wh_accounts *a, uid_t uid, enum wh_share share, uint64_t amount)
{
        bool found;
        size_t i = find(a, uid, &found);
        if (!found)
                return;
        struct wh_account *u = &a->users[i];
        amount = amount < u->used[share] ? amount : u->used[share];
        u->used[share] -= amount;
        a->used[share] -= amount;
        for (unsigned k = 0; k < WH_SHARES; k++)
                if (u->used[k])
                        return;
        a->n--;
        memmove(u, u + 1, (a->n - i) * sizeof *u);
}

int wh_account_charge(struct wh_accounts *a, uid_t uid, enum wh_share share, uint64_t amount, bool force)
{
        if (!amount)
                return 0;
        wh_lock(&a->lock);
        int r = add_locked(a, uid, share, amount, force);
        wh_unlock(&a->lock);
        return r;
}

void wh_account_give(struct wh_accounts *a, uid_t uid, enum wh_share share, uint64_t amount)
{
        if (!amount)
                return;
        wh_lock(&a->lock);
        take_locked(a, uid, share, amount);
        wh_unlock(&a->lock);
}

int wh_account_move(struct wh_accounts *a, uid_t from, uid_t to, enum wh_share share, uint64_t amount, bool force)
{
        if (!amount || from == to)
                return 0;
        wh_lock(&a->lock);
        take_locked(a, from, share, amount);
        int r = add_locked(a, to, share, amount, force);
        if (r < 0)
                add_locked(a, from, share, amount, true); /* its place is free still, if it has lost that */
        wh_unlock(&a->lock);
        return r;
}

/* ---- bills ---- */

static struct wh_accounts *books(const struct wh_bill *b, enum wh_share share)
{
        return share < WH_SHARE_LINKS ? b->task : b->port;
}

void wh_bill_open(struct wh_bill *b, struct wh_accounts *task, struct wh_accounts *port, uid_t payer)
{
        wh_lock(&b->lock);
        b->payer = payer;
        b->task = task;
        b->port = port;
        wh_unlock(&b->lock);
}

int wh_bill_charge(struct wh_bill *b, enum wh_share share, uint64_t amount, bool force)
{
        wh_lock(&b->lock);
        struct wh_accounts *a = books(b, share);
        int r = a ? wh_account_charge(a, b->payer, share, amount, force) : 0;
        if (a && r == 0)
                b->of[share] += amount;
        wh_unlock(&b->lock);
        return r;
}

int wh_bill_charge_answer(struct wh_bill *b, bool *ret_own)
{
        wh_lock(&b->lock);
        int r = 0;
        *ret_own = b->of[WH_SHARE_ANSWERS] >= b->answers_max;
        if (*ret_own)
                r = -EDQUOT;
        else if (b->task && (r = wh_account_charge(b->task, b->payer, WH_SHARE_ANSWERS, 1, false)) == 0)
                b->of[WH_SHARE_ANSWERS]++;
        wh_unlock(&b->lock);
        return r;
}

static void give_locked(struct wh_bill *b, enum wh_share share, uint64_t amount)
{
        struct wh_accounts *a = books(b, share);
        amount = amount < b->of[share] ? amount : b->of[share]; /* Q3 */
        if (a)
                wh_account_give(a, b->payer, share, amount);
        b->of[share] -= amount;
}

void wh_bill_give(struct wh_bill *b, enum wh_share share, uint64_t amount)
{
        wh_lock(&b->lock);
        give_locked(b, share, amount);
        wh_unlock(&b->lock);
}

void wh_bill_set(struct wh_bill *b, enum wh_share share, uint64_t amount)
{
        wh_lock(&b->lock);
        struct wh_accounts *a = books(b, share);
        const uint64_t was = b->of[share];
        if (amount < was)
                give_locked(b, share, was - amount);
        else if (a && wh_account_charge(a, b->payer, share, amount - was, true) == 0)
                b->of[share] = amount;
        wh_unlock(&b->lock);
}

uint64_t wh_bill_left(struct wh_bill *b, enum wh_share share)
{
        wh_lock(&b->lock);
        struct wh_accounts *a = books(b, share);
        uint64_t left = a ? wh_account_left(a, b->payer, share) : UINT64_MAX;
        wh_unlock(&b->lock);
        return left;
}

int wh_bill_move(struct wh_bill *b, uid_t to, bool force, enum wh_share *ret_refused)
{
        int r = 0;
        unsigned k;
        wh_lock(&b->lock);
        for (k = 0; k < WH_SHARES; k++) {
                /* A link is asked for; what comes with it goes along unasked. */
                const bool asked = k == WH_SHARE_TASK_LINKS || k == WH_SHARE_LINKS;
                struct wh_accounts *a = books(b, (enum wh_share)k);
                if (a && (r = wh_account_move(a, b->payer, to, (enum wh_share)k, b->of[k], force || !asked)) < 0)
                        break;
        }
        if (r < 0) {
                *ret_refused = (enum wh_share)k;
                while (k-- > 0)
                        if (books(b, (enum wh_share)k))
                                wh_account_move(books(b, (enum wh_share)k), to, b->payer, (enum wh_share)k, b->of[k],
                                                true);
        } else {
                b->payer = to;
        }
        wh_unlock(&b->lock);
        return r;
}

void wh_bill_close(struct wh_bill *b)
{
        wh_lock(&b->lock);
        for (unsigned k = 0; k < WH_SHARES; k++)
                if (k != WH_SHARE_ANSWERS)
                        give_locked(b, (enum wh_share)k, b->of[k]);
        b->port = NULL;
        wh_unlock(&b->lock);
}
