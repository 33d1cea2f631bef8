#include "port/status.h"

#include "base/trace.h"
#include "os/os.h"
#include "port/port.h"
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

int wh_status_page_new(const char *what, int *ret_fd, void **ret)
{
        void *map = NULL;
        int fd = wh_os_memfd(what);
        int r = fd < 0 ? fd : wh_os_ftruncate(fd, WH_PAGE);
        if (r == 0)
                r = wh_os_fallocate(fd, 0, 0, WH_PAGE);
        if (r == 0)
                r = wh_os_mmap(NULL, WH_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0, &map);
        if (r == 0)
                r = wh_os_seal(fd, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE);
        if (r < 0) {
                if (map)
                        wh_os_munmap(map, WH_PAGE);
                wh_os_close(fd);
                return wh_trace(r);
        }
        wh_os_fd_private(fd);
        wh_os_madvise(map, WH_PAGE, MADV_DONTFORK);
        *ret_fd = fd;
        *ret = map;
        return 0;
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

int wh_status_page_open(int fd, uint64_t want_magic, uint64_t want_version, const void **ret)
{
        struct stat st;
        const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE;
        int got = wh_os_get_seals(fd);
        if (got < 0 || (got & seals) != seals || wh_os_fstat(fd, &st) < 0 || st.st_size != WH_PAGE ||
            st.st_blocks * 512 < WH_PAGE)
                return wh_trace(-EPROTO);
        void *map;
        int r = wh_os_mmap(NULL, WH_PAGE, PROT_READ, MAP_SHARED, fd, 0, &map);
        if (r < 0)
                return r;
        const volatile uint64_t *words = map;
        uint64_t magic = words[0], version = words[1];
        if (magic != want_magic || version != want_version) {
                wh_os_munmap(map, WH_PAGE);
                return wh_trace(magic == want_magic ? -EPROTONOSUPPORT : -EPROTO);
        }
        wh_os_madvise(map, WH_PAGE, MADV_DONTFORK);
        *ret = map;
        return 0;
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
