/*
 * The ports that every task has: Task Self, at which others address the task, and Notify, where notices go by default.
 */
#include "task/why.h"

#include "task/task.h"
#include "wharf/port.h"

#include <errno.h>

static int own_port(wharf_task *t, enum wh_own_port which, wharf_name *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        int r = 0;
        wh_lock(&t->own_lock);
        wharf_name name = atomic_load_explicit(&t->own_port[which], memory_order_relaxed);
        if (name == WHARF_NONE && (r = wharf_port_new(t, &o, &name)) == 0)
                atomic_store_explicit(&t->own_port[which], name, memory_order_relaxed);
        wh_unlock(&t->own_lock);
        if (r == 0)
                *ret = name;
        return r;
}

void wh_task_own_closed(wharf_task *t, wharf_name port)
{
        for (unsigned i = 0; i < WH_OWN_PORTS; i++) {
                uint32_t name = port;
                atomic_compare_exchange_strong_explicit(&t->own_port[i], &name, WHARF_NONE, memory_order_relaxed,
                                                        memory_order_relaxed);
        }
}

WHARF_API int wharf_task_self(wharf_task *t, wharf_name *ret)
{
        return own_port(t, WH_OWN_SELF, ret);
}

WHARF_API int wharf_task_notify(wharf_task *t, wharf_name *ret)
{
        return own_port(t, WH_OWN_NOTIFY, ret);
}
