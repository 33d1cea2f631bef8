#include "message/memory.h"

#include "base/bits.h"
#include "base/trace.h"
#include "memory/sealed.h"
#include "os/closer.h"
#include "os/os.h"
#include "link/link.h"
#include "link/payload.h"
#include "task/task.h"
#include "task/why.h"

#include <errno.h>
#include <string.h>

/* Lock and return the memory that `name` stands for, or NULL. */
static struct wh_memory *memory_lock(wharf_task *t, wharf_name name, int *err)
{
        if (!wh_task_ours(t)) {
                *err = -ESTALE;
                return NULL;
        }
        struct wh_object *o = wh_table_find(&t->names, name);
        if (o)
                wh_lock(&o->lock);
        if (o && atomic_load_explicit(&o->name, memory_order_relaxed) == name && o->kind == WHARF_KIND_MEMORY)
                return (struct wh_memory *)o;
        *err = o && atomic_load_explicit(&o->name, memory_order_relaxed) == name ? -EPERM : -EBADF;
        if (o)
                wh_unlock(&o->lock);
        return NULL;
}

static int memory_name(wharf_task *t, int fd, void *map, uint64_t len, enum wh_memory_state state, wharf_name *ret)
{
        struct wh_memory *m = wh_task_take(t, WHARF_KIND_MEMORY, sizeof *m, sizeof m->o);
        if (!m)
                return wh_trace(-ENOMEM);
        m->fd = fd;
        m->map = map;
        m->len = len;
        m->state = state;
        int r = wh_table_add(&t->names, &m->o);
        if (r < 0) {
                wh_task_give(t, &m->o);
                return r;
        }
        *ret = atomic_load_explicit(&m->o.name, memory_order_relaxed);
        return 0;
}

WHARF_API int wharf_memory_new(wharf_task *t, size_t bytes, wharf_name *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        if (bytes == 0 || bytes > PTRDIFF_MAX)
                return wh_fail(-EINVAL, "a memory of %zu bytes", bytes);
        wh_set_why("%zu bytes", bytes); /* or what wh_payload_reserve() has to say */
        int fd = wh_payload_fd("wharf-memory");
        if (fd < 0)
                return wh_fail(wh_forbidden(fd) ? -EOPNOTSUPP : fd, NULL);
        void *map = NULL;
        int r = wh_payload_reserve(fd, bytes);
        if (r == 0) /* M1: a child that could still write would make the kernel refuse the seals */
                r = wh_os_mmap_unforked(bytes, MAP_SHARED | MAP_POPULATE, fd, &map);
        if (r == 0)
                r = memory_name(t, fd, map, bytes, WH_MEMORY_OPEN, ret);
        if (r < 0) {
                if (map)
                        wh_os_munmap(map, bytes);
                wh_os_close(fd);
                if (r == -ENOMEM)
                        return wh_trace(r);
                return wh_fail(wh_trace(r), "%zu bytes", bytes);
        }
        return wh_fail(0, NULL);
}

WHARF_API int wharf_memory_at(wharf_task *t, wharf_name name, void **ret, size_t *ret_bytes)
{
        if (!ret)
                return wh_fail_null("ret");
        int err;
        struct wh_memory *m = memory_lock(t, name, &err);
        if (!m)
                return wh_fail_at(t, err, name);
        *ret = m->map;
        if (ret_bytes)
                *ret_bytes = m->len;
        wh_unlock(&m->o.lock);
        return wh_fail(0, NULL);
}

WHARF_API int wharf_memory_stat(wharf_task *t, wharf_name name, struct wharf_memory_stat *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        int err, r = 0;
        uint64_t written = 0;
        if (ret->size != sizeof *ret)
                return wh_fail(-EINVAL, "wharf_memory_stat.size is %u, expected %zu", ret->size, sizeof *ret);
        struct wh_memory *m = memory_lock(t, name, &err);
        if (!m)
                return wh_fail_at(t, err, name);
        if (m->state != WH_MEMORY_OPEN)
                r = wh_os_private_bytes(m->map, m->len, &written);
        if (r == 0)
                *ret = (struct wharf_memory_stat){.size = sizeof *ret,
                                                  .shared = m->state == WH_MEMORY_SEALED,
                                                  .bytes = m->len,
                                                  .written_bytes = written};
        wh_unlock(&m->o.lock);
        return r < 0 ? wh_fail(-EOPNOTSUPP, "/proc/self/pagemap: %s", wharf_strerror(r)) : wh_fail(0, NULL);
}

int wh_memory_drop(wharf_task *t, struct wh_object *o, wharf_name name)
{
        struct wh_memory *m = (struct wh_memory *)o;
        wh_lock(&o->lock);
        if (atomic_load_explicit(&o->name, memory_order_relaxed) != name || o->kind != WHARF_KIND_MEMORY) {
                wh_unlock(&o->lock);
                return -EBADF;
        }
        wh_table_remove(&t->names, o);
        wh_os_munmap(m->map, m->len);
        wh_os_close_theirs(m->fd); /* whoever made it may be gone, and leave us what it takes to free it */
        wh_unlock(&o->lock);
        wh_task_give(t, o);
        return 0;
}

/* ---- on their way ---- */

/*
 * Make the memory immutable to all others, and ours a private view of it.
 *
 * The kernel exchanges the mapping in one step: a thread that writes meanwhile writes to the shared page before it, or
 * to a copy of its own after it. Only then are the seals asked for, which the kernel grants when no shared writable
 * mapping is left and nothing (a read() past the cache, io_uring) still writes to the pages by their physical address.
 */
static int memory_freeze(struct wh_memory *m)
{
        void *at;
        int r = 0;
        if (m->state == WH_MEMORY_OPEN) {
                r = wh_os_mmap(m->map, m->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, m->fd, 0, &at);
                if (r < 0) {
                        /* Some kernels have taken the old mapping away before they found no memory for the new one. */
                        (void)wh_os_mmap(m->map, m->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, m->fd, 0, &at);
                        (void)wh_os_madvise(m->map, m->len, MADV_DONTFORK);
                        return wh_trace(r);
                }
                /* A child that has the private view can harm nobody, so this may fail. */
                (void)wh_os_madvise(m->map, m->len, MADV_DONTFORK);
                m->state = WH_MEMORY_PRIVATE;
        }
        if (m->state == WH_MEMORY_PRIVATE) {
                r = wh_os_seal(m->fd, WH_SEALS_IMMUTABLE);
                if (r == 0)
                        m->state = WH_MEMORY_SEALED;
        }
        return r < 0 ? wh_trace(r) : 0;
}

int wh_memory_send(wharf_task *t, wharf_name name, int *ret)
{
        int err;
        struct wh_memory *m = memory_lock(t, name, &err);
        if (!m)
                return err;
        bool untouched = m->state == WH_MEMORY_OPEN; /* what is written from here on happens after the send */
        int r = memory_freeze(m);
        if (r == 0 && !untouched) {
                uint64_t written;
                /* Where the kernel will not say, it may have been. */
                untouched = wh_os_private_bytes(m->map, m->len, &written) == 0 && written == 0;
        }
        if (r == 0 && !untouched) {
                r = wh_payload_of(m->map, m->len, ret);
                if (wh_forbidden(r))
                        r = -EOPNOTSUPP;
        } else if (r == 0) {
                r = wh_os_dup(m->fd);
                if (r >= 0) {
                        wh_os_fd_private(r);
                        *ret = r;
                        r = 0;
                }
        }
        wh_unlock(&m->o.lock);
        return r;
}

int wh_memory_accept(wharf_task *t, int fd, wharf_name *ret)
{
        struct stat st;
        void *map;
        int r = wh_os_fstat(fd, &st); /* the size cannot have changed since it was checked */
        if (r == 0)
                r = wh_payload_map(fd, (uint64_t)st.st_size, &map);
        if (r < 0)
                return r;
        (void)wh_os_madvise(map, (size_t)st.st_size, MADV_DONTFORK);
        r = memory_name(t, fd, map, (uint64_t)st.st_size, WH_MEMORY_SEALED, ret);
        if (r < 0) {
                wh_os_munmap(map, (size_t)st.st_size);
                return r;
        }
        wh_os_fd_private(fd);
        return 0;
}

void wh_memory_unaccept(wharf_task *t, wharf_name name)
{
        int err;
        struct wh_memory *m = memory_lock(t, name, &err);
        if (!m)
                return;
        m->fd = -1;
        wh_unlock(&m->o.lock);
        wh_memory_drop(t, &m->o, name);
}
