/*
 * Shares: no user can take so much of anything that others find nothing left. The rule is that of task/account.h.
 */
#include "wharfd/server_impl.h"

#include "base/trace.h"
#include "os/os.h"
#include "right/kept.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum {
        SHARE_MIN = 8,                /* always */
        INTRODUCTIONS = WH_LIMITS,    /* in the books, beside the limits: those that are unread, */
        KEPT,                         /* ... and descriptors that are kept for the next wharfd */
        INTRODUCTIONS_MAX = 64,       /* introductions at one port */
        INTRODUCTIONS_LOOKED_AT = 64, /* names, when a user has its share */
};
static_assert(KEPT < (int)WH_SHARES, "each limit has a place in the books, and these, too");

int wh_users_take(struct users *u, uid_t uid, enum wh_limit what, uint32_t total)
{
        const enum wh_share share = (enum wh_share)what;
        u->accounts.equal = true;
        u->accounts.least[share] = SHARE_MIN;
        if (total != WH_USERS_ANY)
                wh_accounts_limit(&u->accounts, share, total);
        return wh_account_charge(&u->accounts, uid, share, 1, total == WH_USERS_ANY);
}

/*
 * What the kinds may have together is more than there is, for most of them are seldom used up. But one user has at most
 * half of each, and that leaves some: a name takes one descriptor, a page one, a watch three, and connections have half
 * of what there is (share_links()). wharfd's own user, whose alone a private domain is, may have all names that fit.
 */
static uint64_t fds_of(enum wh_limit what, uint64_t all)
{
        switch (what) {
        case WH_LIMIT_NAMES:
                return all - all / 8;
        case WH_LIMIT_TASKS:
                return all / 4;
        case WH_LIMIT_WATCHES:
                return all / 16;
        default:
                return all;
        }
}

/* All that we may have, asked for once a pass. */
static uint64_t all_fds(struct wh_server *s)
{
        if (s->all_fds_at != s->pass) {
                if (wh_os_rlimit(RLIMIT_NOFILE, &s->all_fds) < 0)
                        s->all_fds = 1024;
                s->all_fds_at = s->pass;
        }
        return s->all_fds;
}

int wh_users_take_fds(struct wh_server *s, uid_t uid, enum wh_limit what)
{
        uint32_t total = wh_rules_limit(s->rules, what);
        const bool own = uid == wh_os_geteuid() && what != WH_LIMIT_TASKS;
        if (!own && fds_of(what, all_fds(s)) < total)
                total = (uint32_t)fds_of(what, all_fds(s));
        wh_unread_look(s, false);
        int r = wh_users_take(&s->users, uid, what, total);
        if (r == -EDQUOT && !wh_list_empty(&s->unread)) {
                wh_unread_look(s, true); /* some of it may be this one's, and read by now */
                r = wh_users_take(&s->users, uid, what, total);
        }
        return r;
}

void wh_users_give(struct users *u, uid_t uid, enum wh_limit what)
{
        wh_account_give(&u->accounts, uid, (enum wh_share)what, 1);
}

int wh_users_keep(struct users *u, uid_t uid, unsigned n, uint64_t total, bool granted)
{
        struct wh_accounts *a = &u->accounts;
        const enum wh_share share = (enum wh_share)KEPT;
        a->equal = true;
        a->least[share] = SHARE_MIN;
        wh_accounts_limit(a, share, total);
        return wh_account_charge(a, uid, share, n, granted || uid == wh_os_geteuid());
}

void wh_users_keep_no_more(struct users *u, uid_t uid, unsigned n)
{
        if (n)
                wh_account_give(&u->accounts, uid, (enum wh_share)KEPT, n);
}

/* What its owner has read is on its way no more. */
static void introduced_settle(struct wh_server *s, struct named *e, uint32_t most)
{
        if (e->introduced <= most)
                return;
        const uint32_t read = e->introduced - most;
        wh_account_give(&s->users.accounts, e->uid, (enum wh_share)INTRODUCTIONS, read);
        e->introduced = most;
        memmove(e->askers, e->askers + read, most * sizeof *e->askers);
        if (most)
                return;
        wh_list_remove(&e->introducing);
        free(e->askers);
        e->askers = NULL;
}

/*
 * Has this user as many of the unread as it may have: half of what the others leave, of those at this name and of those
 * that the owner's user may have, whose other names would be looked up in vain? One in any case. The user of the owner itself
 * may have all.
 */
static bool asker_has_its_share(struct wh_server *s, const struct named *e, uid_t uid, bool own)
{
        uint64_t has = 0;
        for (uint32_t i = 0; i < e->introduced; i++)
                has += e->askers[i] == uid;
        uint64_t left = INTRODUCTIONS_MAX - (e->introduced - has);
        if (!has || uid == e->uid)
                return false;
        if (!own) {
                const uint64_t of_user =
                        has + wh_account_left(&s->users.accounts, e->uid, (enum wh_share)INTRODUCTIONS);
                left = left < of_user ? left : of_user;
        }
        return has >= left / 2;
}

/* The same of some names, whosever. */
static void introduced_look(struct wh_server *s)
{
        struct wh_list *n;
        for (unsigned i = 0; i < INTRODUCTIONS_LOOKED_AT && (n = wh_list_pop_front(&s->introducing)); i++) {
                struct named *e = wh_container(n, struct named, introducing);
                wh_list_push_back(&s->introducing, n);
                introduced_settle(s, e, wh_right_unread(s->task, e->right));
        }
}

int wh_users_introduce(struct wh_server *s, struct named *e, uid_t uid)
{
        struct wh_accounts *a = &s->users.accounts;
        const enum wh_share share = (enum wh_share)INTRODUCTIONS;
        const bool own = e->uid == wh_os_geteuid();
        a->equal = true;
        a->least[share] = SHARE_MIN;
        wh_accounts_limit(a, share, all_fds(s) / 4);
        introduced_settle(s, e, wh_right_unread(s->task, e->right));
        if (asker_has_its_share(s, e, uid, own))
                return -EAGAIN;
        if (e->introduced >= INTRODUCTIONS_MAX) {
                e->full = s->pass;
                return -EAGAIN;
        }
        int r = wh_account_charge(a, e->uid, share, 1, own);
        if (r == -EDQUOT) {
                wh_unread_look(s, true);
                introduced_look(s); /* which may find that this owner has read meanwhile */
                r = wh_account_charge(a, e->uid, share, 1, own);
        }
        if (r == -EDQUOT)
                e->full = s->pass;
        if (r < 0)
                return r == -EDQUOT ? -EAGAIN : r;
        if (!e->askers && !(e->askers = wh_os_calloc(INTRODUCTIONS_MAX, sizeof *e->askers))) {
                wh_account_give(a, e->uid, share, 1);
                return wh_trace(-ENOMEM);
        }
        e->askers[e->introduced] = uid;
        if (!e->introduced++)
                wh_list_push_back(&s->introducing, &e->introducing);
        return 0;
}

/* Only the owner's end knows: the frame that introduces goes before the answer, and lies there where that one failed. */
void wh_users_introduced_not(struct wh_server *s, struct named *e)
{
        introduced_settle(s, e, wh_right_unread(s->task, e->right));
}

uint32_t wh_users_introduce_done(struct wh_server *s, struct named *e)
{
        introduced_settle(s, e, wh_right_unread(s->task, e->right));
        const uint32_t n = e->introduced;
        if (n) {
                wh_list_remove(&e->introducing);
                free(e->askers);
                e->askers = NULL;
                e->introduced = 0;
        }
        return n;
}

void wh_users_introductions_read(struct users *u, uid_t uid, uint32_t n)
{
        if (n)
                wh_account_give(&u->accounts, uid, (enum wh_share)INTRODUCTIONS, n);
}
