#include "names/question.h"

#include "base/why.h"
#include "os/os.h"
#include "message/items.h"
#include "task/task.h"
#include "task/waits.h"
#include "names/domain.h"

#include <errno.h>
#include <string.h>

#define LOOK_NS ((int64_t)200 * 1000000) /* then it is looked whether it was stopped, which no answer will end */

bool wh_short_of(int r)
{
        return r == -ETOOMANYREFS || r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS;
}

bool wh_wharfd_gone(int r)
{
        return r == -EPIPE || r == -ECONNRESET || r == -ENOTCONN || r == -ECANCELED;
}

/* Does a wharfd serve at the other end? Until it has started, and has taken up what the last one left, it greets nobody. */
static bool conn_greeted(struct session *s, const struct conn *c)
{
        struct wharf_right_stat st = {.size = sizeof st};
        return wharf_right_stat(s->task, c->right, &st) < 0 || st.id.v;
}

int wh_ask_begin(struct session *s, struct conn *c, const struct wh_names_request *question, struct wharf_item *items,
                 uint64_t *sender_ids, uint32_t n_items, const struct when *w, struct asked *ret)
{
        uint8_t buf[WH_NAMES_REQUEST_MAX];
        struct wharf_item with[ASK_ITEMS_MAX + 1], *all = items;
        ret->req = *question;
        bool page = !atomic_exchange_explicit(&c->page_given, true, memory_order_relaxed);
        if (page && wh_waits_fd(&s->task->waits, &with[n_items].fd) == 0) {
                if (n_items)
                        memcpy(with, items, n_items * sizeof *items);
                with[n_items].kind = WHARF_COPY_FD;
                all = with;
                ret->req.flags |= WH_NAMES_PAGE;
        }
        struct wharf_msg m = {.size = sizeof m,
                              .data = buf,
                              .len_bytes = wh_names_put_request(&ret->req, buf),
                              .items = all,
                              .sender_ids = sender_ids,
                              .n_items = n_items + (all == with)};
        int r = wharf_call_start(s->task, c->right, &m, WHARF_NONE, wh_when_answer(w), &ret->call);
        if (r == -ETOOMANYREFS && all == with) /* then without: `wharf ps` does not show this task */
                return wh_ask_begin(s, c, question, items, sender_ids, n_items, w, ret);
        return r;
}

int wh_ask_end(struct session *s, struct domain *d, struct conn *c, const struct asked *a, struct wharf_msg *reply,
               const struct when *w, int *ret_answer)
{
        int64_t until_ns = wh_when_answer(w);
        bool starts = false; /* it did not serve when it was last looked */
        int r;
        for (;;) {
                int64_t look_ns = wh_os_now_ns() + LOOK_NS;
                r = wharf_call_finish(s->task, c->right, a->call, reply,
                                      w->chosen || look_ns > until_ns ? until_ns : look_ns);
                if (r != -ETIMEDOUT || w->chosen)
                        break;
                bool serves = conn_greeted(s, c);
                if (!serves)
                        until_ns = w->until_ns;
                else if (starts)
                        until_ns = wh_when_answer(w);
                starts = !serves;
                if (wh_os_now_ns() >= until_ns || wh_os_is_stopped(wh_domain_server(d->dir)))
                        break;
        }
        if (r == -EAGAIN || r == -ETIMEDOUT || r == -EOVERFLOW || r == -ENOMEM || r == -EMFILE)
                wharf_call_cancel(s->task, c->right, a->call); /* it is still outstanding */
        if (r < 0)
                return r;
        uint32_t line = 0;
        const char *what = a->req.op == WH_NAMES_REGISTER ? "own" : "use";
        r = wh_names_get_reply(reply->data, reply->len_bytes, a->req.op, ret_answer, &line);
        if (r < 0 || *ret_answer < 0) {
                wh_items_drop(s->task, reply->items, reply->n_items);
                if (reply->flags & WHARF_RECV_ALLOC)
                        wharf_release(s->task, reply);
        }
        if (r == 0 && *ret_answer == -EACCES && line)
                wh_set_why("line %u of the rules of that domain does not let this user %s %s", line, what, a->req.name);
        else if (r == 0 && *ret_answer == -EACCES)
                wh_set_why("the rules of that domain do not let this user %s %s", what, a->req.name);
        return r;
}

int wh_ask(struct session *s, struct domain *d, struct conn *c, const struct wh_names_request *question,
           struct wharf_msg *reply, const struct when *w, int *ret_answer)
{
        struct asked a;
        int r = wh_ask_begin(s, c, question, NULL, NULL, 0, w, &a);
        return r < 0 ? r : wh_ask_end(s, d, c, &a, reply, w, ret_answer);
}
