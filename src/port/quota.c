#include "port/quota.h"

#include "base/trace.h"
#include "os/os.h"
#include "port/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void wh_quota_done(struct wh_quota *q)
{
        free(q->users);
        q->users = NULL;
        q->n = q->room = 0;
}

/* Where `uid` stands, or would. */
static size_t find(const struct wh_quota *q, uid_t uid, bool *ret_found)
{
        size_t lo = 0, hi = q->n;
        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;
                if (q->users[mid].uid < uid)
                        lo = mid + 1;
                else
                        hi = mid;
        }
        *ret_found = lo < q->n && q->users[lo].uid == uid;
        return lo;
}

static uint64_t left_locked(const struct wh_quota *q, uid_t uid, enum wh_quota_of of)
{
        uint64_t left = q->max[of] > q->used[of] ? q->max[of] - q->used[of] : 0;
        if (uid == q->self)
                return left;
        bool found;
        size_t i = find(q, uid, &found);
        uint64_t mine = found ? q->users[i].used[of] : 0, n = q->n + !found;
        uint64_t share = (left + mine) / (n + 1);
        uint64_t more = share > mine ? share - mine : 0;
        /* Where shares are small: who has none gets one, as long as there are any. */
        uint64_t least = of == WH_QUOTA_LINKS ? 1 : of == WH_QUOTA_RIGHTS ? WH_FDS_MAX : 0;
        least = least < left ? least : left;
        return mine == 0 && more < least ? least : more;
}

uint64_t wh_quota_left(struct wh_quota *q, uid_t uid, enum wh_quota_of of)
{
        wh_lock(&q->lock);
        uint64_t left = left_locked(q, uid, of);
        wh_unlock(&q->lock);
        return left;
}

bool wh_quota_might(struct wh_quota *q, uid_t uid, enum wh_quota_of of)
{
        bool found;
        wh_lock(&q->lock);
        size_t i = find(q, uid, &found);
        bool might = !found || !q->users[i].used[of] || left_locked(q, uid, of);
        wh_unlock(&q->lock);
        return might;
}

int wh_quota_take(struct wh_quota *q, uid_t uid, enum wh_quota_of of, uint64_t amount, bool force)
{
        if (!amount)
                return 0;
        bool found;
        wh_lock(&q->lock);
        int r = force || amount <= left_locked(q, uid, of) ? 0 : wh_trace(-EDQUOT);
        size_t i = find(q, uid, &found);
        if (r == 0 && !found) {
                if (q->n == q->room) {
                        size_t room = q->room ? q->room * 2 : 4;
                        struct wh_quota_user *more = wh_os_realloc(q->users, room * sizeof *more);
                        if (more) {
                                q->users = more;
                                q->room = room;
                        } else {
                                r = wh_trace(-ENOMEM);
                        }
                }
                if (r == 0) {
                        memmove(&q->users[i + 1], &q->users[i], (q->n - i) * sizeof *q->users);
                        q->users[i] = (struct wh_quota_user){.uid = uid};
                        q->n++;
                }
        }
        if (r == 0) {
                q->users[i].used[of] += amount;
                q->used[of] += amount;
        }
        wh_unlock(&q->lock);
        return r;
}

void wh_quota_give(struct wh_quota *q, uid_t uid, enum wh_quota_of of, uint64_t amount)
{
        if (!amount)
                return;
        bool found;
        wh_lock(&q->lock);
        size_t i = find(q, uid, &found);
        if (found) {
                struct wh_quota_user *u = &q->users[i];
                u->used[of] -= amount;
                q->used[of] -= amount;
                if (!u->used[WH_QUOTA_LINKS] && !u->used[WH_QUOTA_RIGHTS] && !u->used[WH_QUOTA_BYTES]) {
                        q->n--;
                        memmove(u, u + 1, (q->n - i) * sizeof *u);
                }
        }
        wh_unlock(&q->lock);
}
