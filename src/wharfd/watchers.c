/*
 * Watchers: told of every change, or if they do not read, of everything anew.
 *
 *      from     when                                   to
 *      BEHIND   BEGIN, every name and END were sent    LIVE
 *      LIVE     an event finds no room                 BEHIND, from the beginning
 *      BEHIND   an event of what was told already      BEHIND, from the beginning
 *               finds no room
 *
 * Always true:
 *   W1  A watch costs the same whatever happens: an event that finds no room is dropped, and what has to be told anew
 *       is read from the table of names when there is room.
 *   W2  A watcher that is behind was told of all names up to `cursor`, as they are now; changes there are sent at once.
 *       It was told nothing yet of the names after that.
 *   W3  Events are frames on the link's socket, never a lane: a watcher that does not read costs what a socket holds. A port of
 *       capacity zero takes none without a lane, so its watch ends.
 *   W4  The right that came with the request is kept (right/kept.h) and only introduces the one that events are sent
 *       on; so the next wharfd introduces another, and the watcher knows both by who introduced them.
 *   W5  A port that a process has registered is given to nobody while a watch of that same process is behind there. So
 *       what a process registered before it was given a right to that port has been told there before its first message
 *       comes, however short it lives (names/direct relies on that). Both are of one process if the kernel said so when they
 *       were asked for; a process that it has not named is like no other. A watch of another process, of whatever user,
 *       holds back nobody's name, since only that process claims which port its right leads to.
 *   W6  A pair that a watch has left, because the first was its introducer's or its port has moved, has the end of the next one in it.
 *       Until that is read it is on its way, for wharfd's user: so long the pair's own end stays here, where it can be asked, and
 *       is paid for as one watch more, all but the first.
 */
#include "wharfd/server_impl.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"
#include "right/kept.h"
#include "wharf/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * In one pass the watchers of a user are told so much, and then requests are served again: a name that is looked at costs one,
 * and one that is told as much as EVENT_COST. They go on where they were, the one that was last told behind the others.
 */
enum { EVENT_COST = 8, TURN_COST = 64 * EVENT_COST };
struct watch {
        struct wh_list node;
        wharf_name kept;
        wharf_name right;    /* W4; WHARF_NONE until there was room to introduce it */
        struct wh_left left; /* W6 */
        struct wh_cookie cookie;
        struct wh_who who;
        struct turn *turn; /* of its user */
        pid_t pid;         /* whose it is, with `who` (W5); 0: not known */
        uint32_t slot;
        bool behind;
        bool begin_owed;
        bool no_room;  /* ... and found none: not tried again before something has happened */
        uint64_t pass; /* in which it was tried last */
        char cursor[WHARF_NAME_MAX + 1];
        char pattern[WHARF_NAME_MAX + 1];
};

static void set_behind(struct wh_server *s, struct watch *w)
{
        s->n_behind += !w->behind;
        w->behind = w->begin_owed = true;
        w->no_room = false;
        w->cursor[0] = 0;
}

static void watch_free(struct wh_server *s, struct watch *w)
{
        wh_list_remove(&w->node);
        w->turn->n_watches--;
        s->n_watches--;
        s->n_behind -= w->behind;
        wh_keep_no_more(s, w->slot, w->who.uid);
        wh_unread_keep(s, WH_LIMIT_WATCHES, w->who.uid, w->kept, w->right, 0, &w->left);
        free(w);
}

/* The users' account has been settled; takes `kept` on success. */
static int watch_new(struct wh_server *s, const struct wh_stored *e, wharf_name kept, struct watch **ret)
{
        if (s->room_polls < s->n_watches + 1 + WH_POLLS_OWN) {
                size_t room = (s->n_watches + 1 + WH_POLLS_OWN) * 2;
                struct pollfd *more = wh_os_realloc(s->polls, room * sizeof *more);
                if (!more)
                        return wh_trace(-ENOMEM);
                s->polls = more;
                s->room_polls = room;
        }
        struct turn *t = wh_turn_of(s, e->who.uid);
        struct watch *w = t ? wh_os_calloc(1, sizeof *w) : NULL;
        int r = w ? wharf_watch(s->task, kept, s->port) : wh_trace(-ENOMEM);
        if (r < 0) {
                free(w);
                return r;
        }
        w->turn = t;
        t->n_watches++;
        w->kept = kept;
        w->cookie = e->cookie;
        w->who = e->who;
        w->pid = e->pid;
        wh_server_slot_set(s, &w->slot, WH_STORE_NONE);
        strcpy(w->pattern, e->name);
        wh_list_push_back(&s->watches, &w->node);
        s->n_watches++;
        set_behind(s, w);
        *ret = w;
        return 0;
}

static struct watch *watch_find(struct wh_server *s, const struct wh_cookie *cookie)
{
        wh_list_for (n, &s->watches) {
                struct watch *w = wh_container(n, struct watch, node);
                if (!memcmp(&w->cookie, cookie, sizeof *cookie))
                        return w;
        }
        return NULL;
}

int wh_watch_add(struct wh_server *s, const char *pattern, const struct wh_cookie *cookie, const struct wh_who *who,
                 pid_t pid, wharf_name right)
{
        if (watch_find(s, cookie)) {
                wharf_drop(s->task, right); /* asked for again after a restart that has not forgotten it */
                return 0;
        }
        struct wh_stored e = {.kind = WH_STORED_WATCH, .pid = pid, .cookie = *cookie, .who = *who};
        strcpy(e.name, pattern);
        struct watch *w;
        int fd, r = wh_users_take_fds(s, who->uid, WH_LIMIT_WATCHES);
        if (r < 0)
                return r;
        r = wh_right_keep(s->task, right, &fd, &e.kept);
        if (r == 0)
                r = watch_new(s, &e, right, &w);
        if (r < 0) {
                wh_users_give(&s->users, who->uid, WH_LIMIT_WATCHES);
                return r;
        }
        s->n_unkept--;
        wh_server_slot_set(s, &w->slot, wh_keep(s, &e, fd, -1));
        return 0;
}

bool wh_watches_keep(struct wh_server *s)
{
        wh_list_for (n, &s->watches) {
                struct watch *w = wh_container(n, struct watch, node);
                struct wh_stored e = {.kind = WH_STORED_WATCH, .pid = w->pid, .cookie = w->cookie, .who = w->who};
                int fd;
                if (w->slot != WH_STORE_NONE || wh_right_kept(s->task, w->kept, &fd, &e.kept) < 0)
                        continue;
                strcpy(e.name, w->pattern);
                s->n_unkept--;
                wh_server_slot_set(s, &w->slot, wh_keep(s, &e, fd, -1));
                if (w->slot == WH_STORE_NONE && !wh_store_has_room(s->store))
                        return false;
        }
        return true;
}

bool wh_watch_unkept(struct wh_server *s, uint32_t slot, uid_t *ret_uid)
{
        wh_list_for (n, &s->watches) {
                struct watch *w = wh_container(n, struct watch, node);
                if (w->slot != slot)
                        continue;
                wh_server_slot_set(s, &w->slot, WH_STORE_NONE);
                *ret_uid = w->who.uid;
                return true;
        }
        return false;
}

int wh_watch_restore(struct wh_server *s, const struct wh_stored *e, uint32_t slot, int sock)
{
        wharf_name right;
        struct watch *w;
        int r = e->name[0] && !wh_names_valid(e->name, strlen(e->name)) ? wh_trace(-EPROTO) : 0;
        if (r == 0 && watch_find(s, &e->cookie))
                r = -EEXIST;
        if (r == 0)
                r = wh_right_resume(s->task, sock, &e->kept, &right);
        if (r < 0) {
                wh_os_close_theirs(sock);
                return r;
        }
        r = wh_users_take(&s->users, e->who.uid, WH_LIMIT_WATCHES, WH_USERS_ANY);
        if (r == 0 && (r = watch_new(s, e, right, &w)) < 0)
                wh_users_give(&s->users, e->who.uid, WH_LIMIT_WATCHES);
        if (r < 0) {
                wharf_drop(s->task, right);
                return r;
        }
        s->n_unkept--;
        wh_server_slot_set(s, &w->slot, slot);
        wh_users_keep(&s->users, e->who.uid, wh_store_fds_of(s->store, slot), wh_store_fds_max(s->store), true);
        return 0;
}

int wh_watch_remove(struct wh_server *s, const struct wh_cookie *cookie)
{
        struct watch *w = watch_find(s, cookie);
        if (!w)
                return -ENOENT;
        watch_free(s, w);
        return 0;
}

bool wh_watch_dead(struct wh_server *s, wharf_name right)
{
        wh_list_for (n, &s->watches) {
                struct watch *w = wh_container(n, struct watch, node);
                if (w->kept == right) {
                        watch_free(s, w);
                        return true;
                }
        }
        return false;
}

/* ---- telling ---- */

static bool concerns(const struct wh_server *s, const struct watch *w, const char *name)
{
        uint32_t line;
        return wh_pattern_fits(w->pattern, name) && wh_rules_allow(s->rules, WH_SEE, name, &w->who, &line);
}

/* Running out of something passes, but there is nothing to poll for: the server looks again a little later. */
static int send_error(struct wh_server *s, int r)
{
        if (r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS || r == -ETOOMANYREFS) {
                s->shortage = true;
                return -EAGAIN;
        }
        return r == -ETIMEDOUT ? -EAGAIN : r;
}

/* W6: it has a pair of its own, before it is sent on. */
static int pair_leave(struct wh_server *s, struct watch *w)
{
        for (unsigned n = wh_left_look(&w->left); n > 0; n--)
                if (w->left.n + n > 1) /* the first is paid for with the watch */
                        wh_users_give(&s->users, w->who.uid, WH_LIMIT_WATCHES);
        int left = -1;
        int r = w->left.n == WH_LEFT_MAX ? -EPIPE : wh_right_bind(s->task, w->right, &left);
        if (r < 0)
                return send_error(s, r);
        if (left < 0)
                return 0;
        w->left.sock[w->left.n++] = left;
        if (w->left.n == 1)
                return 0;
        r = wh_users_take_fds(s, w->who.uid, WH_LIMIT_WATCHES);
        if (r < 0) /* it is on its way already: it is paid for, and this watch ends */
                wh_users_take(&s->users, w->who.uid, WH_LIMIT_WATCHES, WH_USERS_ANY);
        return r;
}

/* 0; -EAGAIN: no room, or nothing to make a link of now; otherwise this watch is of no use any more. */
static int send_event(struct wh_server *s, struct watch *w, enum wharf_name_what what, const struct named *e)
{
        if (w->right == WHARF_NONE) {
                int r = wharf_right_copy(s->task, w->kept, 0, &w->right);
                if (r < 0)
                        return send_error(s, r);
        }
        int r = pair_leave(s, w);
        if (r < 0)
                return r;
        struct wharf_name_event ev = {.what = what};
        if (e) {
                strcpy(ev.name, e->name);
                ev.pid = e->pid;
                ev.uid = e->uid;
                struct wharf_right_stat st = {.size = sizeof st};
                if (wharf_right_stat(s->task, e->right, &st) == 0)
                        ev.id = st.id;
        }
        uint8_t buf[WH_NAMES_EVENT_MAX];
        struct wharf_msg m = {
                .size = sizeof m, .how = WHARF_HOW_COLD, .data = buf, .len_bytes = wh_names_put_event(&ev, buf)};
        return send_error(s, wharf_sendmsg(s->task, w->right, &m, 0)); /* W3 */
}

void wh_watches_tell(struct wh_server *s, enum wharf_name_what what, const struct named *e)
{
        wh_list_for_safe (n, &s->watches) {
                struct watch *w = wh_container(n, struct watch, node);
                if (w->behind && (w->begin_owed || strcmp(e->name, w->cursor) > 0))
                        continue; /* W2: it will be told, if there is something to tell */
                int r = concerns(s, w, e->name) ? send_event(s, w, what, e) : 0;
                if (r == -EAGAIN)
                        set_behind(s, w);
                else if (r < 0)
                        watch_free(s, w);
        }
}

bool wh_watches_behind_at(struct wh_server *s, const struct named *e)
{
        struct wharf_right_stat at = {.size = sizeof at};
        if (!s->n_behind || e->pid <= 0 || wharf_right_stat(s->task, e->right, &at) < 0)
                return false;
        wh_list_for (n, &s->watches) {
                const struct watch *w = wh_container(n, struct watch, node);
                struct wharf_right_stat st = {.size = sizeof st};
                if (w->behind && w->pid == e->pid && w->who.uid == e->uid &&
                    wharf_right_stat(s->task, w->kept, &st) == 0 && st.id.v == at.id.v)
                        return true;
        }
        return false;
}

static bool spend(struct watch *w, uint32_t cost)
{
        w->turn->left -= cost < w->turn->left ? cost : w->turn->left;
        return w->turn->left;
}

static int tell(struct wh_server *s, struct watch *w, enum wharf_name_what what, const struct named *e)
{
        spend(w, EVENT_COST);
        return send_event(s, w, what, e);
}

/* 1 when it could be told more at once, 0 when not; or what is wrong with it for good. */
static int catch_up(struct wh_server *s, struct watch *w)
{
        int r;
        if (w->begin_owed) {
                if ((r = tell(s, w, WHARF_NAMES_BEGIN, NULL)) < 0)
                        return r == -EAGAIN ? 0 : r;
                w->begin_owed = false;
        }
        bool found;
        for (size_t i = wh_named_find(s, w->cursor, &found) + found; i < s->n_names; i++) {
                const struct named *e = s->names[i];
                if (concerns(s, w, e->name) && (r = tell(s, w, WHARF_NAME_IS, e)) < 0)
                        return r == -EAGAIN ? 0 : r;
                strcpy(w->cursor, e->name);
                if (!spend(w, 1))
                        return 1;
        }
        if ((r = tell(s, w, WHARF_NAMES_END, NULL)) < 0)
                return r == -EAGAIN ? 0 : r;
        w->behind = false;
        s->n_behind--;
        return 0;
}

bool wh_watches_pump(struct wh_server *s)
{
        bool more = false;
        if (s->n_behind)
                wh_list_for_safe (n, &s->watches) {
                        struct watch *w = wh_container(n, struct watch, node);
                        if (!w->behind)
                                continue;
                        struct turn *t = w->turn;
                        if (t->told_pass != s->pass) {
                                t->told_pass = s->pass;
                                t->left = TURN_COST;
                        }
                        if (w->no_room || w->pass == s->pass)
                                continue;
                        if (!t->left) {
                                more = true;
                                continue;
                        }
                        w->pass = s->pass;
                        int r = catch_up(s, w);
                        if (r < 0) {
                                watch_free(s, w);
                                continue;
                        }
                        w->no_room = w->behind && r == 0;
                        more |= r > 0;
                        wh_list_remove(&w->node); /* behind the others of its user */
                        wh_list_push_back(&s->watches, &w->node);
                }
        return more;
}

void wh_watches_anew(struct wh_server *s)
{
        wh_list_for (n, &s->watches)
                set_behind(s, wh_container(n, struct watch, node));
}

unsigned wh_watches_poll(struct wh_server *s, struct pollfd *ret)
{
        unsigned k = 0;
        if (s->n_behind)
                wh_list_for (n, &s->watches) {
                        const struct watch *w = wh_container(n, struct watch, node);
                        if (w->behind && /* also those that have fallen behind since they were last tried */
                            wh_right_room(s->task, w->right != WHARF_NONE ? w->right : w->kept, &ret[k]) == 0)
                                k++;
                }
        return k;
}

void wh_watches_look_again(struct wh_server *s)
{
        if (s->n_behind)
                wh_list_for (n, &s->watches)
                        wh_container(n, struct watch, node)->no_room = false;
}

void wh_watches_done(struct wh_server *s)
{
        wh_list_for_safe (n, &s->watches)
                watch_free(s, wh_container(n, struct watch, node));
        free(s->polls);
        s->polls = NULL;
}
