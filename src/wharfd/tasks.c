/*
 * tasks - the pages of the tasks of this domain, for `wharf ps` (S7).
 */
#include "wharfd/server_impl.h"

#include "os/os.h"
#include "wharf/message.h"

#include <errno.h>
#include <stdlib.h>

enum {
        SWEEP_EACH = 4,   /* tasks that are looked at when one comes */
        SWEEP_SHORT = 64, /* ... or when a user has as many as it may */
};

void wh_tasked_free(struct wh_server *s, struct tasked *k)
{
        if (s->tasks_next == &k->node)
                s->tasks_next = k->node.next;
        wh_list_remove(&k->node);
        s->n_tasks--;
        wh_users_give(&s->users, k->uid, WH_LIMIT_TASKS);
        wh_task_page_close(k->page);
        wh_os_close(k->pidfd);
        free(k);
}

bool wh_tasked_alive(const struct tasked *k)
{
        struct pollfd p = {.fd = k->pidfd, .events = POLLIN};
        return !wh_task_page_closed(k->page) && wh_os_poll(&p, 1, 0) == 0;
}

void wh_tasks_ended(struct wh_server *s)
{
        enum { AT_ONCE = 16 };
        struct epoll_event ev[AT_ONCE];
        int n = s->tasks_end < 0 ? 0 : wh_os_epoll_wait(s->tasks_end, ev, AT_ONCE, 0);
        for (int i = 0; i < n; i++)
                wh_tasked_free(s, (struct tasked *)(uintptr_t)ev[i].data.u64);
}

/*
 * S7: lets go of those whose processes have ended, and of those of the next `n` pages whose tasks are no more; whoever adds
 * one looks at a few.
 */
static void tasks_sweep(struct wh_server *s, size_t n)
{
        wh_tasks_ended(s);
        for (n = n < s->n_tasks ? n : s->n_tasks; n-- > 0;) {
                if (s->tasks_next == &s->tasks)
                        s->tasks_next = s->tasks.next;
                struct tasked *k = wh_container(s->tasks_next, struct tasked, node);
                s->tasks_next = k->node.next;
                if (wh_task_page_closed(k->page))
                        wh_tasked_free(s, k);
        }
}

/* It is told of when this one's process ends. */
static int task_watch(struct wh_server *s, struct tasked *k)
{
        if (s->tasks_end < 0) {
                int r = wh_os_epoll();
                if (r < 0)
                        return r;
                s->tasks_end = r;
        }
        return wh_os_epoll_add(s->tasks_end, k->pidfd, EPOLLIN, (uintptr_t)k);
}

void wh_tasks_add(struct wh_server *s, const struct wharf_msg *m, int fd)
{
        const struct wh_task_page *page;
        tasks_sweep(s, SWEEP_EACH);
        if (!m->sender.pid || wh_task_page_open(fd, &page) < 0)
                return;
        wh_list_for (pos, &s->tasks) {
                struct tasked *k = wh_container(pos, struct tasked, node);
                if (k->pid == m->sender.pid && k->page->id == page->id) {    /* again, on another link */
                        if (k->uid == m->sender.uid && wh_tasked_alive(k)) { /* it keeps its place in lists */
                                wh_task_page_close(k->page);
                                k->page = page;
                                return;
                        }
                        wh_tasked_free(s, k);
                        break;
                }
        }
        int r = wh_users_take_fds(s, m->sender.uid, WH_LIMIT_TASKS);
        if (r == -EDQUOT) {
                tasks_sweep(s, SWEEP_SHORT);
                r = wh_users_take_fds(s, m->sender.uid, WH_LIMIT_TASKS);
        }
        struct tasked *k = r < 0 ? NULL : wh_os_calloc(1, sizeof *k);
        bool good = k && wharf_sender_pidfd(s->task, m->sender.id, &k->pidfd) >= 0;
        if (good && task_watch(s, k) < 0) {
                wh_os_close(k->pidfd);
                good = false;
        }
        if (!good) {
                wh_task_page_close(page);
                if (r == 0)
                        wh_users_give(&s->users, m->sender.uid, WH_LIMIT_TASKS);
                free(k);
                return;
        }
        k->page = page;
        k->pid = m->sender.pid;
        k->uid = m->sender.uid;
        k->serial = ++s->serial;
        wh_list_push_back(&s->tasks, &k->node);
        s->n_tasks++;
}
