#include "link/link.h"
#include "task/why.h"

#include <errno.h>

struct wh_link *wh_holder_lock(wharf_task *t, wharf_name name, int *err)
{
        if (wh_unlikely(!wh_task_ours(t))) {
                *err = -ESTALE;
                return NULL;
        }
        struct wh_object *o = wh_table_find(&t->names, name);
        if (wh_unlikely(!o || o->kind != WHARF_KIND_SEND)) {
                *err = o && atomic_load_explicit(&o->name, memory_order_relaxed) == name ? -EPERM : -EBADF;
                return NULL;
        }
        wh_lock(&o->lock);
        if (wh_unlikely(atomic_load_explicit(&o->name, memory_order_relaxed) != name)) {
                wh_unlock(&o->lock);
                *err = -EBADF;
                return NULL;
        }
        return (struct wh_link *)o;
}

WHARF_API int wharf_name_kind(wharf_task *t, wharf_name name)
{
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        struct wh_object *o = wh_table_find(&t->names, name);
        if (!o || atomic_load_explicit(&o->name, memory_order_relaxed) != name)
                return wh_fail_at(t, -EBADF, name);
        if (o->kind != WHARF_KIND_SEND)
                return o->kind;
        int err;
        struct wh_link *l = wh_holder_lock(t, name, &err);
        if (!l)
                return wh_fail_at(t, err, name);
        int kind = l->once ? WHARF_KIND_REPLY : WHARF_KIND_SEND;
        wh_unlock(&l->o.lock);
        return kind;
}

int wh_fail_at(wharf_task *t, int err, wharf_name name)
{
        static const char *const kinds[] = {
                [WHARF_KIND_SEND] = "a send right",  [WHARF_KIND_PORT] = "a port",
                [WHARF_KIND_SET] = "a set of ports", [WHARF_KIND_REPLY] = "a send-once right",
                [WHARF_KIND_MEMORY] = "a memory",
        };
        if (err == -EBADF)
                return wh_fail(err, "this task has nothing of the name %u, or not any more", name);
        if (err == -EBUSY)
                return wh_fail(err, "port %u is in a set, through which it is received from", name);
        int kind = err == -EPERM ? wharf_name_kind(t, name) : 0;
        return kind > 0 ? wh_fail(err, "name %u is %s, which does not allow this", name, kinds[kind])
                        : wh_fail(err, NULL);
}
