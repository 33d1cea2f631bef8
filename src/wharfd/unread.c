/*
 * unread - rights whose name or watch has ended, while something that has descriptors may lie unread behind them.
 *
 * Why: the kernel counts what is on its way for wharfd's user, and has one limit for it, whether or not wharfd still has its own
 * end. So whoever ends names and watches that nobody reads, again and again, would use that up, and nobody would get a right.
 *
 * Always true:
 *   U1  A name that others were introduced to, or a watch, is given back to its user's share when all that went over its rights
 *       was read, or their ports are gone; and that of each pair that a watch has left (watchers.W6), when all in that was read.
 */
#include "wharfd/server_impl.h"

#include "link/frame.h"
#include "os/closer.h"
#include "os/os.h"
#include "right/kept.h"

#include <stdlib.h>

enum { LOOKED_AT_ONCE = 4, LOOKED_WHEN_SHORT = 64 };
/* Nobody tells when it was read: it is looked at after a pause, and after twice as long. */
#define FIRST_PAUSE_NS ((int64_t)10 * 1000000)
#define LAST_PAUSE_NS ((int64_t)2000 * 1000000)

struct unread {
        struct wh_list node;
        wharf_name right[2]; /* the kept one, and that of a watch, or none */
        uid_t uid;
        enum wh_limit what;
        uint32_t introduced; /* charged for it beside: users.c */
        struct wh_left left;
};

unsigned wh_left_look(struct wh_left *l)
{
        unsigned n = 0;
        for (unsigned i = 0; i < l->n; i++) {
                const uint32_t unread = wh_frames_unread(l->sock[i]);
                if (unread && unread != UINT32_MAX)
                        l->sock[n++] = l->sock[i];
                else
                        wh_os_close_end(l->sock[i], WH_END_SHARED);
        }
        const unsigned read = l->n - n;
        l->n = n;
        return read;
}

void wh_left_done(struct wh_left *l)
{
        while (l->n)
                wh_os_close_end(l->sock[--l->n], WH_END_SHARED);
}

static bool is_unread(struct wh_server *s, wharf_name right)
{
        const uint32_t n = right != WHARF_NONE ? wh_right_unread(s->task, right) : 0;
        return n > 0 && n < UINT32_MAX;
}

static bool may_be_unread(struct wh_server *s, struct unread *u)
{
        for (unsigned n = wh_left_look(&u->left); n > 0; n--)
                if (u->left.n + n > 1)
                        wh_users_give(&s->users, u->uid, u->what);
        if (u->left.n)
                return true;
        if (u->what == WH_LIMIT_NAMES && !u->introduced)
                return false; /* nothing that went there had a descriptor */
        return is_unread(s, u->right[0]) || is_unread(s, u->right[1]);
}

static void over(struct wh_server *s, struct unread *u)
{
        for (unsigned n = u->left.n; n > 1; n--)
                wh_users_give(&s->users, u->uid, u->what);
        wh_left_done(&u->left);
        for (unsigned i = 0; i < 2; i++)
                if (u->right[i] != WHARF_NONE)
                        wharf_drop(s->task, u->right[i]);
        wh_users_give(&s->users, u->uid, u->what);
        wh_users_introductions_read(&s->users, u->uid, u->introduced);
}

void wh_unread_look(struct wh_server *s, bool is_short)
{
        struct wh_list *n, *last = s->unread.prev;
        for (unsigned i = 0; i < (is_short ? LOOKED_WHEN_SHORT : LOOKED_AT_ONCE); i++) {
                if (!(n = wh_list_pop_front(&s->unread)))
                        return;
                struct unread *u = wh_container(n, struct unread, node);
                if (may_be_unread(s, u)) {
                        wh_list_push_back(&s->unread, n);
                } else {
                        over(s, u);
                        free(u);
                }
                if (n == last)
                        return;
        }
}

void wh_unread_keep(struct wh_server *s, enum wh_limit what, uid_t uid, wharf_name kept, wharf_name right,
                    uint32_t introduced, const struct wh_left *left)
{
        struct unread u = {.right = {kept, right}, .uid = uid, .what = what, .introduced = introduced};
        if (left)
                u.left = *left;
        struct unread *k = !s->ends && may_be_unread(s, &u) ? wh_os_malloc(sizeof *k) : NULL;
        if (!k) {
                over(s, &u);
                return;
        }
        *k = u;
        /* Its watcher, or the owner of the name, sees it end, as if it were closed. */
        wh_right_hang_up(s->task, kept);
        if (right != WHARF_NONE)
                wh_right_hang_up(s->task, right);
        wh_list_push_back(&s->unread, &k->node);
        s->unread_pause_ns = FIRST_PAUSE_NS;
        s->unread_at_ns = wh_os_now_ns() + s->unread_pause_ns;
}

int64_t wh_unread_again(struct wh_server *s, int64_t now)
{
        if (wh_list_empty(&s->unread))
                return WHARF_FOREVER;
        if (now >= s->unread_at_ns) {
                wh_unread_look(s, true);
                s->unread_pause_ns = s->unread_pause_ns < LAST_PAUSE_NS ? 2 * s->unread_pause_ns : LAST_PAUSE_NS;
                s->unread_at_ns = now + s->unread_pause_ns;
        }
        return wh_list_empty(&s->unread) ? WHARF_FOREVER : s->unread_at_ns;
}

void wh_unread_done(struct wh_server *s)
{
        struct wh_list *n;
        while ((n = wh_list_pop_front(&s->unread))) {
                over(s, wh_container(n, struct unread, node));
                free(wh_container(n, struct unread, node));
        }
}
