#include "message/sender.h"
#include "names/announce.h"

#include "base/trace.h"
#include "os/os.h"
#include "message/items.h"
#include "right/kept.h"
#include "port/status.h"
#include "names/question.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ANNOUNCED_AT_ONCE 8u /* a server takes 64 of one sender, and descriptors in flight are limited */

/* An entry that wharfd is being told of. */
struct announced {
        struct asked asked;
        uint64_t before, after; /* a watch: by which id the port knew wharfd's right, and will */
};

/* Tells wharfd about one name or watch of ours: one that is new, or that an earlier wharfd knew. */
static int announce_begin(struct session *s, struct conn *c, const struct entry *e, const struct when *w,
                          struct announced *a)
{
        struct wh_names_request req = {.op = e->watch ? WH_NAMES_WATCH : WH_NAMES_REGISTER, .cookie = e->cookie};
        strcpy(req.name, e->name);
        struct wharf_item items[2] = {{.kind = WH_MAKE_DIRECTORY, .name = e->port}, {.kind = WHARF_COPY_FD}};
        uint32_t n = 1;
        *a = (struct announced){.before = e->sender, .after = e->sender};
        if (e->watch)
                items[0].kind = WHARF_MAKE_SEND;
        else if (wh_port_status_fd(s->task, e->port, &items[1].fd) == 0)
                n = 2; /* without a page `wharf ls` shows no figures; that is no reason to refuse */
        uint64_t ids[ASK_ITEMS_MAX + 1] = {0};
        int r = wh_ask_begin(s, c, &req, items, ids, n, w, &a->asked);
        if (r == 0 && e->watch)
                a->after = ids[0];
        return r;
}

/* 0, wharfd's answer, or an error of the link. */
static int announce_end(struct session *s, struct domain *d, struct conn *c, struct entry *e, bool is_new,
                        const struct when *w, const struct announced *a)
{
        uint8_t buf[sizeof(struct wh_names_reply_head)];
        struct wharf_msg reply = {.size = sizeof reply, .data = buf, .cap_bytes = sizeof buf};
        int answer = 0, r = wh_ask_end(s, d, c, &a->asked, &reply, w, &answer);
        e->sender = a->after;
        if (a->before && wh_sender_lives(s->task, a->before))
                e->sender = a->before; /* a wharfd that knows the watch has the earlier right, and drops the new one */
        if (r == -ETIMEDOUT && is_new) {
                /* If it comes round after all, it must not believe that this is ours: this follows on its link. */
                struct wh_names_request req = a->asked.req;
                req.op = e->watch ? WH_NAMES_UNWATCH : WH_NAMES_UNREGISTER;
                req.flags = 0;
                uint8_t undo[WH_NAMES_REQUEST_MAX];
                wharf_send(s->task, c->right, undo, wh_names_put_request(&req, undo), 0);
        }
        return r < 0 ? r : answer;
}

int wh_announce(struct session *s, struct domain *d, struct conn *c, struct entry *e, const struct when *w,
                bool *ret_own)
{
        struct announced a;
        int r = announce_begin(s, c, e, w, &a);
        *ret_own = r < 0 && r != -ETOOMANYREFS;
        return r < 0 ? r : announce_end(s, d, c, e, true, w, &a);
}

/* An entry that wharfd is told of again: a copy, since the list may change while we talk (session.C3). */
struct again {
        struct entry e;
        bool told;
        int r;
};

/* What became of them. They stand in the order of the list; whatever is not in it any more was taken back meanwhile. */
static void announced_locked(struct domain *d, struct conn *c, const struct again *again, size_t n)
{
        size_t i = 0;
        wh_list_for_safe (pos, &d->entries.all) {
                struct entry *e = wh_container(pos, struct entry, node);
                size_t k = i;
                while (k < n && memcmp(&again[k].e.cookie, &e->cookie, sizeof e->cookie))
                        k++;
                if (k == n)
                        continue; /* it is new */
                i = k + 1;
                if (!again[k].told)
                        continue;
                if (again[k].r == -EEXIST) {
                        wh_entries_remove(&d->entries, e);
                        free(e);
                        continue;
                }
                e->sender = again[k].e.sender;
                e->known_to = again[k].r == -ETIMEDOUT || wh_wharfd_gone(again[k].r) || wh_short_of(again[k].r)
                                      ? 0
                                      : c->number;
        }
}

/* All that is not known there once; *ret_short: somebody was short of something, so that it can be tried again. */
static int announce_once(struct session *s, struct domain *d, struct conn *c, struct when *w, bool *ret_short)
{
        size_t n, k = 0;
        wh_lock(&s->lock);
        wh_entries_prune(&d->entries, s->task);
        n = d->entries.n;
        struct again *again = n ? wh_os_calloc(n, sizeof *again) : NULL;
        if (again)
                wh_list_for (pos, &d->entries.all) {
                        const struct entry *e = wh_container(pos, struct entry, node);
                        if (e->known_to != c->number)
                                again[k++].e = *e;
                }
        c->behind = n && !again;
        *ret_short = false;
        wh_unlock(&s->lock);
        if (n && !again)
                return wh_trace(-ENOMEM);

        /* Several at a time, since each that waits for its answer alone waits for two processes to be run. */
        struct announced window[ANNOUNCED_AT_ONCE];
        int first = 0, r = 0;
        size_t begun = 0, ended = 0;
        bool short_now = false;
        while (ended < k && r != -ETIMEDOUT && !wh_wharfd_gone(r)) {
                r = 0;
                while (r == 0 && begun < k && begun - ended < ANNOUNCED_AT_ONCE) {
                        r = announce_begin(s, c, &again[begun].e, w, &window[begun % ANNOUNCED_AT_ONCE]);
                        begun += r == 0;
                }
                size_t at = ended++;
                bool ours = at >= begun; /* it could not even be begun */
                if (ours)
                        begun++;
                else
                        r = announce_end(s, d, c, &again[at].e, false, w, &window[at % ANNOUNCED_AT_ONCE]);
                if (r == 0)
                        wh_when_answered(w);
                again[at].told = true;
                again[at].r = r;
                short_now |= wh_short_of(r);
                *ret_short |= ours ? r == -ETOOMANYREFS : wh_short_of(r);
                if (r < 0 && (first == 0 || wh_short_of(first)))
                        first = r;
        }
        for (; ended < begun; ended++)
                wharf_call_cancel(s->task, c->right, window[ended % ANNOUNCED_AT_ONCE].asked.call);
        wh_lock(&s->lock);
        announced_locked(d, c, again, k);
        c->behind |= r == -ETIMEDOUT || short_now;
        wh_unlock(&s->lock);
        free(again);
        return first;
}

int wh_announce_all(struct session *s, struct domain *d, struct conn *c, struct when *w)
{
        int first = 0, r;
        bool is_short;
        do {
                r = announce_once(s, d, c, w, &is_short);
                if (r < 0 && first == 0 && !wh_short_of(r))
                        first = r;
        } while (is_short && !wh_wharfd_gone(r) && r != -ETIMEDOUT && wh_when_short_pause(w));
        return first < 0 ? first : r;
}
