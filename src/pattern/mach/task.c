/*
 * task - the one task that a process has when it speaks Mach, and what a forked child has: none yet.
 */
#include "pattern/mach/mach.h"

#include "os/lock.h"

#include <pthread.h>
#include <stdlib.h>
#include <search.h>

struct wh_mach wh_mach;

static void child_begins_anew(void)
{
        wh_mach.lock = WH_LOCK_INIT;
        wh_mach.stale = wh_mach.task;
        wh_mach.task = NULL;
        wh_mach.names = wh_mach.memories =
                NULL; /* their memory stays: other threads of the parent may have been changing it */
}

WHARF_API wharf_task *wharf_mach_task(void)
{
        static bool told;
        wh_lock(&wh_mach.lock);
        if (wh_mach.stale)
                wh_mach.stale = wharf_task_close(wh_mach.stale);
        if (!wh_mach.task && wharf_task_open(NULL, &wh_mach.task) < 0)
                wh_mach.task = NULL;
        if (wh_mach.task && !told)
                told = pthread_atfork(NULL, NULL, child_begins_anew) == 0;
        wharf_task *t = wh_mach.task;
        wh_unlock(&wh_mach.lock);
        return t;
}

WHARF_API void wharf_mach_close(void)
{
        wh_lock(&wh_mach.lock);
        tdestroy(wh_mach.names, free);
        tdestroy(wh_mach.memories, free);
        wh_mach.names = wh_mach.memories = NULL;
        wharf_task *t = wh_mach.task;
        wh_mach.task = NULL;
        wh_unlock(&wh_mach.lock);
        wharf_task_close(t);
}

WHARF_API mach_port_t wharf_mach_task_self(void)
{
        wharf_task *t = wharf_mach_task();
        wharf_name self;
        return t && wharf_task_self(t, &self) == 0 ? self : MACH_PORT_NULL;
}

wharf_task *wh_mach_task_of(task_t task)
{
        return task != MACH_PORT_NULL && task == wharf_mach_task_self() ? wharf_mach_task() : NULL;
}
