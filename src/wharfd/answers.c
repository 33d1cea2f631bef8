/*
 * answers - what wharfd says to who asked: an errno, or a right. It never waits (S5).
 */
#include "wharfd/server_impl.h"

#include "message/items.h"
#include "wharf/message.h"

#include <errno.h>

int wh_answer(struct wh_server *s, wharf_name reply, enum wh_names_op op, int err)
{
        struct wh_names_reply_head h = wh_names_reply(op, err, 0);
        int r = wharf_reply(s->task, reply, &h, sizeof h);
        if (r < 0)
                wharf_drop(s->task, reply); /* harmless where the failed call has consumed it */
        return r;
}

void wh_answer_refused(struct wh_server *s, const struct wharf_msg *m, const struct wh_names_request *req,
                       const struct wh_who *who, uint32_t line)
{
        uint32_t see;
        struct wh_names_reply_head h = wh_names_reply(req->op, -EACCES, 0);
        h.count = wh_rules_allow(s->rules, WH_SEE, req->name, who, &see) ? line : 0;
        if (wharf_reply(s->task, m->reply, &h, sizeof h) < 0)
                wharf_drop(s->task, m->reply);
}

bool wh_is_shortage(int r)
{
        return r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS;
}

/* Is somebody short of something, or a queue full, so that the same can be tried again? */
static bool passes(int r)
{
        return r == -EAGAIN || wh_is_shortage(r) || r == -ETOOMANYREFS;
}

void wh_answer_right(struct wh_server *s, wharf_name reply, uid_t uid, struct named *e)
{
        int r = wh_watches_behind_at(s, e) ? -EAGAIN : wh_users_introduce(s, e, uid);
        if (r < 0) {
                wh_answer(s, reply, WH_NAMES_LOOKUP, r);
                return;
        }
        struct wh_names_reply_head h = wh_names_reply(WH_NAMES_LOOKUP, 0, 0);
        struct wharf_item item = {.kind = WH_COPY_ASKED, .name = e->right};
        struct wharf_msg m = {
                .size = sizeof m, .data = &h, .len_bytes = sizeof h, .items = &item, .n_items = 1, .sender.uid = uid};
        r = wharf_replymsg(s->task, reply, &m);
        if (r < 0)
                wh_users_introduced_not(s, e);
        if (r < 0) /* what is not short of something, or full, has ended this moment: its port died, or let go of it */
                wh_answer(s, reply, WH_NAMES_LOOKUP, passes(r) ? r : -ENOENT);
}
