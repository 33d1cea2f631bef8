/*
 * Shares: no user can take so much of anything that others find nothing left. The rule is that of all accounts.
 */
#include "wharfd/server_impl.h"

#include "os/os.h"

#include <sys/resource.h>

static_assert((int)WH_LIMITS <= (int)WH_SHARES, "each limit has a place in the books");

enum { SHARE_MIN = 8 }; /* always */

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
 * What the kinds may have together is more than there is, for most of them are seldom used up. But one user has at most half
 * of each, and that leaves some: a name takes one descriptor, a page one, a watch two, and connections have half of what
 * there is (share_links()). wharfd's own user, whose alone a private domain is, may have all names that fit.
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

int wh_users_take_fds(struct wh_server *s, uid_t uid, enum wh_limit what)
{
        uint32_t total = wh_rules_limit(s->rules, what);
        uint64_t all;
        const bool own = uid == wh_os_geteuid() && what != WH_LIMIT_TASKS;
        if (!own && wh_os_rlimit(RLIMIT_NOFILE, &all) == 0 && fds_of(what, all) < total)
                total = (uint32_t)fds_of(what, all);
        return wh_users_take(&s->users, uid, what, total);
}

void wh_users_give(struct users *u, uid_t uid, enum wh_limit what)
{
        wh_account_give(&u->accounts, uid, (enum wh_share)what, 1);
}
