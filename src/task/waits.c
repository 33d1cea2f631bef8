#include "task/waits.h"

#include "base/trace.h"
#include "os/os.h"
#include "task/page.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STORE(field, value) atomic_store_explicit(&(field), (value), memory_order_relaxed)
#define LOAD(field) atomic_load_explicit(&(field), memory_order_relaxed)

/* ---- writing ---- */

static struct wh_task_page *page_locked(struct wh_waits *w)
{
        if (!w->page)
                w->page = wh_os_calloc(1, sizeof *w->page);
        return w->page;
}

unsigned wh_waits_begin(struct wh_waits *w, enum wharf_waits_for what, uint32_t flags, uint64_t port_id, uint32_t inbox,
                        uint32_t peer, int64_t deadline_ns)
{
        int64_t now = wh_os_now_ns();
        unsigned slot = 0;
        wh_lock(&w->lock);
        struct wh_task_page *p = page_locked(w);
        while (p && slot < WH_WAITS_MAX && LOAD(p->waits[slot].generation) & 1)
                slot++;
        if (p && slot < WH_WAITS_MAX) {
                struct wh_wait *x = &p->waits[slot];
                /*
                 * [wait] Release: whoever reads one of these sees that the wait before it has ended. Pairs with the
                 * acquires in wh_task_page_read().
                 */
                atomic_store_explicit(&x->port_id, port_id, memory_order_release);
                atomic_store_explicit(&x->since_ns, now, memory_order_release);
                atomic_store_explicit(&x->deadline_ns, deadline_ns, memory_order_release);
                atomic_store_explicit(&x->what, (uint32_t)what, memory_order_release);
                atomic_store_explicit(&x->inbox, inbox, memory_order_release);
                atomic_store_explicit(&x->peer, peer, memory_order_release);
                atomic_store_explicit(&x->flags, flags, memory_order_release);
                w->generation += 2;
                /* [wait] Release: all of the above first. */
                atomic_store_explicit(&x->generation, w->generation | 1, memory_order_release);
        } else if (p) {
                STORE(p->waits_more, LOAD(p->waits_more) + 1);
        }
        wh_unlock(&w->lock);
        return p ? slot : WH_WAITS_NONE;
}

void wh_waits_end(struct wh_waits *w, unsigned slot)
{
        if (slot == WH_WAITS_NONE)
                return;
        wh_lock(&w->lock);
        struct wh_task_page *p = w->page;
        if (slot < WH_WAITS_MAX)
                STORE(p->waits[slot].generation, w->generation & ~(uint64_t)1);
        else
                STORE(p->waits_more, LOAD(p->waits_more) - 1);
        wh_unlock(&w->lock);
}

void wh_waits_hold(struct wh_waits *w, uint64_t port_id, int by)
{
        if (!port_id)
                return;
        wh_lock(&w->lock);
        struct wh_task_page *p = page_locked(w);
        struct wh_wait_held *found = NULL;
        for (unsigned i = 0; p && i < WH_WAIT_HELD_MAX; i++) {
                struct wh_wait_held *h = &p->held[i];
                uint64_t id = LOAD(h->port_id);
                if (id == port_id) {
                        found = h;
                        break;
                }
                if (!id && !found)
                        found = h;
        }
        /* One that is not on the page is a sender of whom the receiver's readers do not know: they say so. */
        if (found && (by > 0 || LOAD(found->port_id) == port_id)) {
                uint64_t n = LOAD(found->port_id) == port_id ? LOAD(found->rights) : 0;
                n = by > 0 ? n + 1 : n - 1;
                STORE(found->rights, n);
                STORE(found->port_id, n ? port_id : 0);
        }
        wh_unlock(&w->lock);
}

unsigned wh_waits_port_new(struct wh_waits *w, uint64_t port_id)
{
        unsigned at = 0;
        wh_lock(&w->lock);
        struct wh_task_page *p = page_locked(w);
        for (unsigned i = 0; p && i < WH_WAIT_PORTS_MAX && !at; i++)
                if (!LOAD(p->ports[i].port_id)) {
                        STORE(p->ports[i].flags, WH_WAIT_STALE);
                        STORE(p->ports[i].inbox, 0);
                        STORE(p->ports[i].port_id, port_id);
                        at = i + 1;
                }
        if (p && !at)
                STORE(p->ports_more, LOAD(p->ports_more) + 1); /* for good: one that is not seen is not missed later */
        wh_unlock(&w->lock);
        return at;
}

void wh_waits_port_gone(struct wh_waits *w, unsigned at)
{
        if (!at)
                return;
        wh_lock(&w->lock);
        STORE(w->page->ports[at - 1].port_id, 0);
        wh_unlock(&w->lock);
}

void wh_waits_port_stale(struct wh_waits *w, unsigned at)
{
        if (!at)
                return;
        wh_lock(&w->lock);
        STORE(w->page->ports[at - 1].flags, WH_WAIT_STALE);
        wh_unlock(&w->lock);
}

void wh_waits_port_tell(struct wh_waits *w, unsigned at, uint32_t inbox, uint32_t flags, uint32_t links,
                        uint32_t unknown, const uint32_t *senders, unsigned n_senders)
{
        if (!at)
                return;
        wh_lock(&w->lock);
        struct wh_wait_port *q = &w->page->ports[at - 1];
        STORE(q->inbox, inbox);
        STORE(q->links, links);
        STORE(q->unknown, unknown);
        for (unsigned i = 0; i < WH_WAIT_SENDERS_MAX; i++)
                STORE(q->senders[i], i < n_senders ? senders[i] : 0);
        STORE(q->flags, flags);
        wh_unlock(&w->lock);
}

void wh_waits_done(struct wh_waits *w, bool ours)
{
        if (!w->fd) {
                free(w->page);
        } else if (ours) {
                STORE(w->page->closed, 1);
                wh_os_munmap(w->page, WH_PAGE);
                wh_os_close(w->fd);
        }
        w->page = NULL;
}

/* ---- handing it over ---- */

int wh_waits_fd(struct wh_waits *w, int *ret)
{
        static struct wh_lock making;
        int fd = 0;
        void *map = NULL;
        wh_lock(&making);
        int r = w->fd ? 0 : wh_status_page_new("wharf-task", &fd, &map);
        if (r == 0 && fd) {
                struct wh_task_page *p = map, *old;
                uint64_t id;
                r = wh_os_getrandom(&id, sizeof id);
                wh_lock(&w->lock);
                old = w->page;
                if (r == 0) {
                        /* Whoever writes holds the lock and finds the page through `w`, so nothing is lost (W2). */
                        if (old)
                                memcpy(p, old, sizeof *p);
                        p->magic = WH_TASK_PAGE_MAGIC;
                        p->version = WH_TASK_PAGE_VERSION;
                        p->id = id;
                        w->page = p;
                        w->fd = fd;
                }
                wh_unlock(&w->lock);
                if (r == 0) {
                        free(old);
                } else {
                        wh_os_munmap(map, WH_PAGE);
                        wh_os_close(fd);
                }
        }
        wh_unlock(&making);
        if (r == 0)
                *ret = w->fd;
        return r;
}

/* ---- reading ---- */

int wh_task_page_open(int fd, const struct wh_task_page **ret)
{
        const void *map;
        int r = wh_status_page_open(fd, WH_TASK_PAGE_MAGIC, WH_TASK_PAGE_VERSION, &map);
        if (r == 0)
                *ret = map;
        return r;
}

void wh_task_page_close(const struct wh_task_page *page)
{
        if (page)
                wh_os_munmap((void *)(uintptr_t)page, WH_PAGE);
}

bool wh_task_page_closed(const struct wh_task_page *page)
{
        return LOAD(page->closed);
}

/* [wait] Acquire: what follows in the program is read after it. Pairs with the releases in wh_waits_begin(). */
#define TAKE(field) atomic_load_explicit(&(field), memory_order_acquire)

void wh_task_page_read(const struct wh_task_page *p, struct wh_task_view *v)
{
        memset(v, 0, sizeof *v);
        v->waits_more = LOAD(p->waits_more);
        v->ports_more = LOAD(p->ports_more);
        for (unsigned i = 0; i < WH_WAITS_MAX; i++) {
                const struct wh_wait *x = &p->waits[i];
                uint64_t generation = TAKE(x->generation);
                v->waits[i].port_id = TAKE(x->port_id);
                v->waits[i].since_ns = TAKE(x->since_ns);
                v->waits[i].deadline_ns = TAKE(x->deadline_ns);
                v->waits[i].what = TAKE(x->what);
                v->waits[i].inbox = TAKE(x->inbox);
                v->waits[i].peer = TAKE(x->peer);
                v->waits[i].flags = TAKE(x->flags);
                v->waits[i].generation = generation & 1 && LOAD(x->generation) == generation ? generation : 0;
        }
        for (unsigned i = 0; i < WH_WAIT_PORTS_MAX; i++) {
                const struct wh_wait_port *q = &p->ports[i];
                v->ports[i].port_id = LOAD(q->port_id);
                v->ports[i].inbox = LOAD(q->inbox);
                v->ports[i].links = LOAD(q->links);
                v->ports[i].unknown = LOAD(q->unknown);
                v->ports[i].flags = LOAD(q->flags);
                for (unsigned k = 0; k < WH_WAIT_SENDERS_MAX; k++)
                        v->ports[i].senders[k] = LOAD(q->senders[k]);
        }
        for (unsigned i = 0; i < WH_WAIT_HELD_MAX; i++) {
                v->held[i].port_id = LOAD(p->held[i].port_id);
                v->held[i].rights = LOAD(p->held[i].rights);
        }
}
