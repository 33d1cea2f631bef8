/*
 * lists - a part of a list: of names, or of tasks and what each waits for. What the asker may not see is left out (S8).
 *
 * The newest come first. So what is registered or handed over while a list is read is no part of it, and nobody can prolong it.
 */
#include "wharfd/server_impl.h"

#include "base/trace.h"
#include "os/os.h"
#include "port/status.h"
#include "task/task.h"
#include "wharf/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * What `wharf ls` shows of one name. The page is its owner's claim: each word is loaded once and believed as a number.
 */
static struct wharf_named named_stat(struct wh_server *s, const struct named *e)
{
        struct wharf_named n = {.pid = e->pid, .uid = e->uid, .known = e->known};
        memcpy(n.name, e->name, sizeof n.name);
        struct wharf_right_stat st = {.size = sizeof st};
        if (wharf_right_stat(s->task, e->right, &st) == 0)
                n.id = st.id;
        const struct wh_port_status *p = e->page;
        if (!p)
                return n;
        n.senders = (uint32_t)atomic_load_explicit(&p->senders, memory_order_relaxed);
        n.receivers_waiting = (uint32_t)atomic_load_explicit(&p->receivers_waiting, memory_order_relaxed);
        n.queued_messages = atomic_load_explicit(&p->queued_messages, memory_order_relaxed);
        n.received_messages = atomic_load_explicit(&p->received_messages, memory_order_relaxed);
        n.received_bytes = atomic_load_explicit(&p->received_bytes, memory_order_relaxed);
        if (!n.id.v)
                n.id.v = p->port_id;
        return n;
}

void wh_part_of_names(struct wh_server *s, const struct job *j)
{
        uint8_t *buf = wh_os_malloc(WH_NAMES_LIST_MAX);
        size_t len = sizeof(struct wh_names_reply_head), n = 0, hi = s->n_names, left = WH_NAMES_LOOKED_MAX;
        if (!buf) {
                wh_answer(s, j->reply, WH_NAMES_LIST, wh_trace(-ENOMEM));
                return;
        }
        uint32_t count = 0, line;
        uint64_t last = j->after;
        while (j->after && n < hi) { /* how many come before it by number: those are still to be told of */
                size_t mid = n + (hi - n) / 2;
                if (s->by_serial[mid]->serial < j->after)
                        n = mid + 1;
                else
                        hi = mid;
        }
        n = j->after ? n : s->n_names;
        while (n > 0 && left-- > 0 && len + WH_NAMES_ENTRY_MAX <= WH_NAMES_LIST_MAX) {
                struct named *e = s->by_serial[--n];
                bool found;
                last = e->serial;
                if (!wh_named_alive(s, e)) {
                        wh_named_remove(s, wh_named_find(s, e->name, &found));
                        continue;
                }
                if (!wh_rules_allow(s->rules, WH_SEE, e->name, &j->who, &line))
                        continue;
                struct wharf_named one = named_stat(s, e);
                len += wh_names_put_entry(&one, buf + len);
                count++;
        }
        struct wh_names_reply_head h = wh_names_reply(WH_NAMES_LIST, 0, count);
        h.next = n ? last : 0;
        memcpy(buf, &h, sizeof h);
        int r = wharf_reply(s->task, j->reply, buf, len);
        free(buf);
        if (r < 0)
                wh_answer(s, j->reply, WH_NAMES_LIST, r);
}

/*
 * May it not see any name of this port? One that has none is nobody's secret. `left` names are looked at for one view, since
 * whoever gives one port thousands must not make this long; what is not looked at is hidden.
 */
static bool is_hidden(const struct wh_server *s, uint64_t port_id, const struct wh_who *who, unsigned *left)
{
        bool hidden = false;
        uint32_t line;
        if (!port_id || !s->n_names)
                return false;
        for (const struct named *e = s->by_id[port_id & (s->room_names - 1)]; e; e = e->next_by_id) {
                if (*left == 0)
                        return true;
                --*left;
                if (e->port_id != port_id)
                        continue;
                if (wh_rules_allow(s->rules, WH_SEE, e->name, who, &line))
                        return false;
                hidden = true;
        }
        return hidden;
}

/* Leaves out of a view what the asker may not see. What it says of itself is a claim in any case. */
static void view_hide(const struct wh_server *s, struct wh_task_view *v, const struct wh_who *who)
{
        unsigned left = WH_NAMES_VIEW_LOOKED_MAX;
        for (unsigned i = 0; i < WH_WAITS_MAX; i++)
                if (is_hidden(s, v->waits[i].port_id, who, &left))
                        v->waits[i].port_id = 0;
        for (unsigned i = 0; i < WH_WAIT_PORTS_MAX; i++)
                if (is_hidden(s, v->ports[i].port_id, who, &left))
                        memset(&v->ports[i], 0, sizeof v->ports[i]);
        for (unsigned i = 0; i < WH_WAIT_HELD_MAX; i++)
                if (is_hidden(s, v->held[i].port_id, who, &left))
                        memset(&v->held[i], 0, sizeof v->held[i]);
}

void wh_part_of_waits(struct wh_server *s, const struct job *j)
{
        struct wh_names_reply_head h = wh_names_reply(WH_NAMES_WAITS, 0, 0);
        struct wh_names_task *one;
        uint8_t *buf = wh_os_malloc(sizeof h + WH_NAMES_TASKS_MAX * sizeof *one);
        if (!buf) {
                wh_answer(s, j->reply, WH_NAMES_WAITS, wh_trace(-ENOMEM));
                return;
        }
        bool all = !wh_rules_restrict_see(s->rules), others = all || wh_rules_see_others(s->rules, &j->who);
        one = (struct wh_names_task *)(void *)(buf + sizeof h);
        if (!j->after) {
                memset(one, 0, sizeof *one);
                one->pid = wh_os_getpid();
                one->uid = wh_os_geteuid();
                if (s->task->waits.page)
                        wh_task_page_read(s->task->waits.page, &one->view);
                if (!all) /* it has a right to each port that has a name */
                        view_hide(s, &one->view, &j->who);
                h.count++;
        }
        uint64_t last = 0;
        for (struct wh_list *pos = s->tasks.prev, *next; pos != &s->tasks; pos = next) {
                struct tasked *k = wh_container(pos, struct tasked, node);
                bool own = k->uid == j->who.uid && k->uid != (uid_t)-1;
                next = pos->prev;
                if ((j->after && k->serial >= j->after) || !(own || others))
                        continue;
                if (!wh_tasked_alive(k)) {
                        wh_tasked_free(s, k);
                        continue;
                }
                if (h.count == WH_NAMES_TASKS_MAX) {
                        h.next = last;
                        break;
                }
                struct wh_names_task *to = one + h.count++;
                to->pid = k->pid;
                to->uid = k->uid;
                wh_task_page_read(k->page, &to->view);
                if (!all && !own)
                        view_hide(s, &to->view, &j->who);
                last = k->serial;
        }
        memcpy(buf, &h, sizeof h);
        int r = wharf_reply(s->task, j->reply, buf, sizeof h + h.count * sizeof *one);
        free(buf);
        if (r < 0)
                wh_answer(s, j->reply, WH_NAMES_WAITS, r);
}
