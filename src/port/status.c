#include "port/status.h"

#include "base/trace.h"
#include "os/os.h"
#include "port/port.h"
#include "task/page.h"
#include "task/why.h"

#include <errno.h>

void wh_port_tell_status(struct wh_port *p)
{
        struct wh_port_status *s = p->status;
        if (!s)
                return;
        struct wharf_port_stat st = {.size = sizeof st};
        wh_port_stat_locked(p, &st);
        atomic_store_explicit(&s->senders, st.senders, memory_order_relaxed);
        atomic_store_explicit(&s->receivers_waiting, st.receivers_waiting, memory_order_relaxed);
        atomic_store_explicit(&s->queued_messages, st.queued_messages, memory_order_relaxed);
        atomic_store_explicit(&s->received_messages, st.received_messages, memory_order_relaxed);
        atomic_store_explicit(&s->received_bytes, st.received_bytes, memory_order_relaxed);
}

void wh_port_tell_received(struct wh_port *p)
{
        if (p->received_messages % 64 == 0) {
                wh_port_tell_status(p);
                return;
        }
        atomic_store_explicit(&p->status->received_messages, p->received_messages, memory_order_relaxed);
        atomic_store_explicit(&p->status->received_bytes, p->received_bytes, memory_order_relaxed);
}

int wh_port_status_fd(wharf_task *t, wharf_name port, int *ret)
{
        int r;
        struct wh_port *p = wh_port_lock(t, port, &r);
        if (!p)
                return wh_fail(r, NULL);
        struct wh_inbox *in = p->inbox;
        r = 0;
        if (!p->status) { /* one that is there is told by whoever receives */
                void *map;
                r = wh_status_page_new("wharf-status", &p->status_fd, &map);
                if (r == 0) {
                        p->status = map;
                        p->status->magic = WH_STATUS_MAGIC;
                        p->status->version = WH_STATUS_VERSION;
                        p->status->port_id = p->id.v;
                        wh_port_tell_status(p);
                }
        }
        if (r == 0)
                *ret = p->status_fd;
        wh_unlock(&in->lock);
        return r < 0 ? wh_fail(r, NULL) : 0;
}

int wh_port_status_open(int fd, const struct wh_port_status **ret)
{
        const void *map;
        int r = wh_status_page_open(fd, WH_STATUS_MAGIC, WH_STATUS_VERSION, &map);
        if (r == 0)
                *ret = map;
        return r;
}

void wh_port_status_close(const struct wh_port_status *page)
{
        if (page)
                wh_os_munmap((void *)(uintptr_t)page, WH_PAGE);
}
