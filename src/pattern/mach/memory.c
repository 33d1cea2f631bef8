/*
 * memory - out-of-line memory, which Mach knows by its address.
 */
#include "pattern/mach/mach.h"

#include "os/lock.h"
#include "os/os.h"

#include <errno.h>
#include <search.h>
#include <stdlib.h>

struct memory {
        void *address;
        size_t bytes;
        wharf_name name;
};

static int memory_compare(const void *a, const void *b)
{
        uintptr_t x = (uintptr_t)((const struct memory *)a)->address,
                  y = (uintptr_t)((const struct memory *)b)->address;
        return x < y ? -1 : x > y;
}

bool wh_mach_memory_add(wharf_task *t, wharf_name name, void **ret, size_t *ret_bytes)
{
        struct memory *m = wh_os_calloc(1, sizeof *m);
        if (!m)
                return false;
        m->name = name;
        bool ok = wharf_memory_at(t, name, &m->address, &m->bytes) == 0;
        *ret = m->address;
        *ret_bytes = m->bytes;
        wh_lock(&wh_mach.lock);
        ok = ok && tsearch(m, &wh_mach.memories, memory_compare);
        wh_unlock(&wh_mach.lock);
        if (!ok)
                free(m);
        return ok;
}

wharf_name wh_mach_memory_find(void *address, size_t bytes)
{
        struct memory key = {.address = address};
        wh_lock(&wh_mach.lock);
        void *node = tfind(&key, &wh_mach.memories, memory_compare);
        const struct memory *m = node ? *(struct memory **)node : NULL;
        wharf_name name = m && m->bytes == bytes ? m->name : WHARF_NONE;
        wh_unlock(&wh_mach.lock);
        return name;
}

wharf_name wh_mach_memory_forget(void *address)
{
        struct memory key = {.address = address}, *m = NULL;
        wh_lock(&wh_mach.lock);
        void *node = tfind(&key, &wh_mach.memories, memory_compare);
        if (node) {
                m = *(struct memory **)node;
                tdelete(&key, &wh_mach.memories, memory_compare);
        }
        wh_unlock(&wh_mach.lock);
        wharf_name name = m ? m->name : WHARF_NONE;
        free(m);
        return name;
}

WHARF_API kern_return_t wharf_vm_allocate(task_t task, void **address, size_t size)
{
        if (wh_unlikely(!address))
                return KERN_INVALID_ARGUMENT;
        wharf_task *t = wh_mach_task_of(task);
        wharf_name name;
        if (!t)
                return KERN_INVALID_TASK;
        int r = wharf_memory_new(t, size, &name);
        if (r < 0)
                return r == -EINVAL ? KERN_INVALID_ARGUMENT : r == -ENOMEM ? KERN_NO_SPACE : KERN_RESOURCE_SHORTAGE;
        if (!wh_mach_memory_add(t, name, address, &size)) {
                wharf_drop(t, name);
                return KERN_RESOURCE_SHORTAGE;
        }
        return KERN_SUCCESS;
}

WHARF_API kern_return_t wharf_vm_deallocate(task_t task, void *address, size_t size)
{
        wharf_task *t = wh_mach_task_of(task);
        if (!t)
                return KERN_INVALID_TASK;
        wharf_name name = wh_mach_memory_find(address, size);
        if (!name)
                return KERN_INVALID_ARGUMENT;
        wh_mach_memory_forget(address);
        wharf_drop(t, name);
        return KERN_SUCCESS;
}
