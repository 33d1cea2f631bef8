/*
 * Shares: no user can take so much of anything that others find nothing left.
 */
#include "service/server_impl.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>

enum { SHARE_MIN = 8 };

static struct user *user_find(struct users *u, uid_t uid)
{
        for (size_t i = 0; i < u->n; i++)
                if (u->user[i].uid == uid)
                        return &u->user[i];
        return NULL;
}

int wh_users_take(struct users *u, uid_t uid, enum wh_limit what, uint32_t total)
{
        struct user *his = user_find(u, uid);
        if (!his && u->n == u->room) {
                size_t room = u->room ? u->room * 2 : 8;
                struct user *more = wh_os_realloc(u->user, room * sizeof *more);
                if (!more)
                        return wh_trace(-ENOMEM);
                u->user = more;
                u->room = room;
        }
        uint32_t share = total / (uint32_t)(u->n + !his + 1);
        if ((his ? his->n[what] : 0) >= (share > SHARE_MIN ? share : SHARE_MIN))
                return -EDQUOT;
        if (!his) {
                his = &u->user[u->n++];
                *his = (struct user){.uid = uid};
        }
        his->n[what]++;
        return 0;
}

void wh_users_give(struct users *u, uid_t uid, enum wh_limit what)
{
        struct user *his = user_find(u, uid);
        his->n[what]--;
        for (unsigned i = 0; i < WH_LIMITS; i++)
                if (his->n[i])
                        return;
        *his = u->user[--u->n];
}
