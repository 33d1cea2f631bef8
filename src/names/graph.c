#include "names/graph.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A process and a port: that it owns it, or holds so many rights to it. One of each two, however many pages say so. */
struct tie {
        uint64_t port_id;
        uint64_t rights;
        pid_t pid;
};

struct ties {
        struct tie *all;
        size_t n;
};

struct graph {
        struct ties owners, holders;
        struct ties named; /* wharfd's rights */
        pid_t wharfd;
};

static int by_port(const void *a, const void *b)
{
        const struct tie *x = a, *y = b;
        if (x->port_id != y->port_id)
                return x->port_id < y->port_id ? -1 : 1;
        return x->pid < y->pid ? -1 : x->pid > y->pid;
}

static int by_pid(const void *a, const void *b)
{
        const struct wh_names_task *x = a, *y = b;
        return x->pid < y->pid ? -1 : x->pid > y->pid;
}

/* The first tie to that port; those of one port stand together. */
static const struct tie *first(const struct ties *t, uint64_t port_id)
{
        size_t lo = 0, hi = t->n;
        while (lo < hi) {
                size_t mid = lo + (hi - lo) / 2;
                if (t->all[mid].port_id < port_id)
                        lo = mid + 1;
                else
                        hi = mid;
        }
        return t->all + lo;
}

static bool is_to(const struct ties *t, const struct tie *x, uint64_t port_id)
{
        return x < t->all + t->n && x->port_id == port_id;
}

static void whom_add(struct wharf_wait *w, pid_t pid)
{
        for (uint32_t i = 0; i < w->n_whom; i++)
                if (w->whom[i] == pid)
                        return;
        if (w->n_whom < WHARF_WHOM_MAX)
                w->whom[w->n_whom++] = pid;
        else
                w->flags |= WHARF_WAIT_OTHERS;
}

/* Nothing that is found after this would be told. */
static bool is_full(const struct wharf_wait *w)
{
        return w->n_whom == WHARF_WHOM_MAX && w->flags & WHARF_WAIT_OTHERS;
}

static uint64_t rights_of_wharfd(const struct graph *g, uint64_t port_id)
{
        const struct tie *t = first(&g->named, port_id);
        return is_to(&g->named, t, port_id) ? t->rights : 0;
}

/* Whoever can send to the k-th port of this task. */
static void add_senders(const struct graph *g, const struct wh_task_view *v, unsigned k, struct wharf_wait *w)
{
        uint64_t id = v->ports[k].port_id, accounted = rights_of_wharfd(g, id);
        if (v->ports[k].flags)
                w->flags |= WHARF_WAIT_OTHERS;
        for (unsigned i = 0; i < WH_WAIT_SENDERS_MAX && v->ports[k].senders[i]; i++)
                if ((pid_t)v->ports[k].senders[i] != g->wharfd)
                        whom_add(w, (pid_t)v->ports[k].senders[i]);
        for (const struct tie *t = first(&g->holders, id); !is_full(w) && is_to(&g->holders, t, id); t++) {
                accounted += t->rights;
                if (t->pid != g->wharfd)
                        whom_add(w, t->pid);
        }
        if (v->ports[k].unknown && accounted < v->ports[k].links)
                w->flags |= WHARF_WAIT_OTHERS;
}

static void resolve(const struct graph *g, const struct wh_task_view *v, unsigned i, struct wharf_wait *w)
{
        if (w->what != WHARF_WAITS_RECEIVE) {
                uint64_t id = v->waits[i].port_id;
                w->port.v = id;
                for (const struct tie *t = first(&g->owners, id); id && !is_full(w) && is_to(&g->owners, t, id); t++)
                        whom_add(w, t->pid);
        } else if (w->flags & WHARF_WAIT_ONE) {
                if (v->waits[i].peer)
                        whom_add(w, (pid_t)v->waits[i].peer);
        } else {
                unsigned n = 0;
                for (unsigned k = 0; k < WH_WAIT_PORTS_MAX; k++)
                        if (v->ports[k].port_id && v->ports[k].inbox == v->waits[i].inbox) {
                                w->port.v = n++ ? 0 : v->ports[k].port_id;
                                add_senders(g, v, k, w);
                        }
                if (v->ports_more)
                        w->flags |= WHARF_WAIT_OTHERS;
        }
        if (!w->n_whom)
                w->flags |= WHARF_WAIT_OTHERS;
}

/* In order, and what is there twice put together. */
static void ties_merge(struct ties *t)
{
        size_t n = 0;
        qsort(t->all, t->n, sizeof *t->all, by_port);
        for (size_t i = 0; i < t->n; i++)
                if (n && by_port(&t->all[n - 1], &t->all[i]) == 0)
                        t->all[n - 1].rights += t->all[i].rights;
                else
                        t->all[n++] = t->all[i];
        t->n = n;
}

static void ties_free(struct graph *g)
{
        free(g->owners.all);
        free(g->holders.all);
        free(g->named.all);
}

static int ties_new(struct graph *g, const struct wh_names_task *tasks, size_t n, const struct wharf_named *named,
                    size_t n_named)
{
        g->owners.all = wh_os_calloc(n * WH_WAIT_PORTS_MAX + 1, sizeof *g->owners.all);
        g->holders.all = wh_os_calloc(n * WH_WAIT_HELD_MAX + 1, sizeof *g->holders.all);
        g->named.all = wh_os_calloc(n_named + 1, sizeof *g->named.all);
        if (!g->owners.all || !g->holders.all || !g->named.all)
                return wh_trace(-ENOMEM);
        for (size_t i = 0; i < n; i++) {
                const struct wh_task_view *v = &tasks[i].view;
                for (unsigned k = 0; k < WH_WAIT_PORTS_MAX; k++)
                        if (v->ports[k].port_id)
                                g->owners.all[g->owners.n++] = (struct tie){v->ports[k].port_id, 0, tasks[i].pid};
                for (unsigned k = 0; k < WH_WAIT_HELD_MAX; k++)
                        if (v->held[k].port_id) /* more than the greatest port has links is no number at all */
                                g->holders.all[g->holders.n++] =
                                        (struct tie){v->held[k].port_id, v->held[k].rights & INT32_MAX, tasks[i].pid};
        }
        for (size_t i = 0; i < n_named; i++)
                g->named.all[g->named.n++] = (struct tie){named[i].id.v, 1, g->wharfd};
        ties_merge(&g->owners);
        ties_merge(&g->holders);
        ties_merge(&g->named);
        return 0;
}

int wh_graph(struct wh_names_task *tasks, size_t n_tasks, const struct wharf_named *named, size_t n_named,
             struct wharf_wait **ret, size_t *ret_n)
{
        if (n_tasks == 0)
                return wh_trace(-EPROTO);
        struct graph g = {.wharfd = tasks[0].pid};
        int r = ties_new(&g, tasks, n_tasks, named, n_named);
        size_t n = 0, room = 1;
        for (size_t i = 1; i < n_tasks; i++)
                room += WH_WAITS_MAX;
        struct wharf_wait *all = r < 0 ? NULL : wh_os_calloc(room, sizeof *all);
        if (!all) {
                ties_free(&g);
                return wh_trace(-ENOMEM);
        }
        qsort(tasks + 1, n_tasks - 1, sizeof *tasks, by_pid);
        for (size_t k = 1; k < n_tasks; k++) {
                const struct wh_task_view *v = &tasks[k].view;
                size_t before = n;
                for (unsigned i = 0; i < WH_WAITS_MAX; i++) {
                        uint32_t what = v->waits[i].what;
                        if (!v->waits[i].generation || what < WHARF_WAITS_RECEIVE || what > WHARF_WAITS_CALL)
                                continue;
                        struct wharf_wait *w = &all[n++];
                        *w = (struct wharf_wait){
                                .pid = tasks[k].pid,
                                .uid = tasks[k].uid,
                                .what = what,
                                .flags = v->waits[i].flags & (WHARF_WAIT_ONE | WHARF_WAIT_RENDEZVOUS),
                                .generation = v->waits[i].generation,
                                .since_ns = v->waits[i].since_ns,
                                .deadline_ns = v->waits[i].deadline_ns,
                        };
                        resolve(&g, v, i, w);
                }
                if (n == before)
                        all[n++] = (struct wharf_wait){.pid = tasks[k].pid, .uid = tasks[k].uid};
        }
        ties_free(&g);
        *ret = all;
        *ret_n = n;
        return 0;
}
