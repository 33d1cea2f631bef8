/*
 * lists - what wharfd tells of all it knows: names, its state, and who waits for whom. A list comes in parts, each the
 * answer to a question of its own.
 */
#include "base/trace.h"
#include "os/os.h"
#include "task/why.h"
#include "names/graph.h"
#include "names/names.h"
#include "names/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Entries of one list, put together from its parts. */
struct parts {
        enum wh_names_op op;
        void *all;
        size_t n;
};

static int part_add(struct parts *p, const struct wharf_msg *reply)
{
        struct wharf_named *named = NULL;
        struct wh_names_task *tasks = NULL;
        size_t n = 0, size = p->op == WH_NAMES_LIST ? sizeof *named : sizeof *tasks;
        int r = p->op == WH_NAMES_LIST ? wh_names_get_list(reply->data, reply->len_bytes, &named, &n)
                                       : wh_names_get_tasks(reply->data, reply->len_bytes, &tasks, &n);
        if (r < 0)
                return r;
        void *part = named ? (void *)named : tasks;
        if (!p->all) {
                p->all = part;
                p->n = n;
                return 0;
        }
        void *more = wh_os_realloc(p->all, (p->n + n + 1) * size);
        if (more) {
                p->all = more;
                memcpy((char *)more + p->n * size, part, n * size);
                p->n += n;
        }
        free(part);
        return more ? 0 : wh_trace(-ENOMEM);
}

/* All parts of a list. A wharfd that was replaced meanwhile does not know where the last one was: from the beginning. */
static int ask_parts(struct session *s, struct domain *d, int64_t deadline_ns, struct parts *p)
{
        struct wh_names_request req = {.op = p->op};
        int r, again = 0;
        do {
                struct wharf_msg reply = {.size = sizeof reply, .flags = WHARF_RECV_ALLOC};
                /* Each question has a moment of its own, and how many parts there are is others' doing. */
                r = deadline_ns && req.after && wh_os_now_ns() >= deadline_ns
                            ? -ETIMEDOUT
                            : wh_session_ask(s, d, &req, &reply, deadline_ns);
                if (r == -ESTALE && req.after && again++ < WH_SESSION_ATTEMPTS) {
                        free(p->all);
                        *p = (struct parts){.op = p->op};
                        req.after = 0;
                        r = 0;
                        continue;
                }
                if (r < 0)
                        break;
                req.after = wh_names_get_next(reply.data);
                r = part_add(p, &reply);
                wharf_release(s->task, &reply);
                if (r < 0)
                        r = wh_session_error(d, r);
                if (r == 0 && !req.after)
                        return 0;
        } while (r == 0);
        free(p->all);
        return r;
}

static int by_name(const void *a, const void *b)
{
        return strcmp(((const struct wharf_named *)a)->name, ((const struct wharf_named *)b)->name);
}

int wh_names_list_until(wharf_task *t, int64_t deadline_ns, struct wharf_named **ret, size_t *ret_n)
{
        if (!ret || !ret_n)
                return wh_fail_null(ret ? "ret_n" : "ret");
        struct session *s;
        int r = wh_session_of(t, &s);
        if (r < 0)
                return r;
        struct parts p = {.op = WH_NAMES_LIST};
        r = ask_parts(s, &s->domain[0], deadline_ns, &p);
        if (r < 0)
                return r;
        qsort(p.all, p.n, sizeof(struct wharf_named), by_name);
        *ret = p.all;
        *ret_n = p.n;
        return wh_fail(0, NULL);
}

WHARF_API int wharf_names_list(wharf_task *t, struct wharf_named **ret, size_t *ret_n)
{
        return wh_names_list_until(t, 0, ret, ret_n);
}

int wh_names_state(wharf_task *t, struct wh_names_state *ret)
{
        struct session *s;
        int r = wh_session_of(t, &s);
        if (r < 0)
                return r;
        uint8_t buf[sizeof(struct wh_names_reply_head) + sizeof *ret];
        struct wh_names_request req = {.op = WH_NAMES_STATE};
        struct wharf_msg reply = {.size = sizeof reply, .data = buf, .cap_bytes = sizeof buf};
        r = wh_session_ask(s, &s->domain[0], &req, &reply, 0);
        if (r == 0)
                r = wh_names_get_state(buf, reply.len_bytes, ret);
        return r < 0 ? wh_session_error(&s->domain[0], r) : wh_fail(0, NULL);
}

WHARF_API int wharf_waits_list(wharf_task *t, struct wharf_wait **ret, size_t *ret_n)
{
        if (!ret || !ret_n)
                return wh_fail_null(ret ? "ret_n" : "ret");
        struct session *s;
        int r = wh_session_of(t, &s);
        if (r < 0)
                return r;
        struct wharf_named *named;
        size_t n_named;
        r = wharf_names_list(t, &named, &n_named);
        if (r < 0)
                return r;
        struct parts p = {.op = WH_NAMES_WAITS};
        r = ask_parts(s, &s->domain[0], 0, &p);
        if (r == 0) {
                r = wh_graph(p.all, p.n, named, n_named, ret, ret_n);
                free(p.all);
                r = r < 0 ? wh_session_error(&s->domain[0], r) : wh_fail(0, NULL);
        }
        free(named);
        return r;
}
