/*
 * memory - memory out of line: made, sent, received; and payloads that travel as a memory of their own.
 *
 *   from     when                                to       done by
 *   OPEN     it is about to be sent              PRIVATE  memory_freeze()
 *   PRIVATE  the kernel grants the seals         SEALED   memory_freeze()
 *   none     it came in a message                SEALED   wh_memory_accept()
 *
 * Always true:
 *   M1  OPEN: the one mapping, and it is shared and writable; nobody else has the descriptor. Otherwise the mapping is
 *       private: what is written goes to copies of this process.
 *   M2  PRIVATE is OPEN or SEALED to the user: it sees the same bytes at the same address. So a send that fails after
 *       the change has changed nothing.
 *   M3  A descriptor leaves this process only in state SEALED.
 */
#ifndef WH_MESSAGE_MEMORY_H
#define WH_MESSAGE_MEMORY_H

#include "task/table.h"
#include "wharf/memory.h"
#include "wharf/port.h"

enum wh_memory_state { WH_MEMORY_OPEN, WH_MEMORY_PRIVATE, WH_MEMORY_SEALED };

struct wh_memory {
        struct wh_object o;
        int fd;
        enum wh_memory_state state;
        void *map;
        uint64_t len;
};

/*
 * What is to be sent of the memory `name`: a descriptor of a sealed memory with the bytes that this task sees, to be
 * closed by the caller. Errors: -EBADF, -EPERM, -EBUSY (a transfer of the kernel into it is under way), -ENOMEM, ...
 */
int wh_memory_send(wharf_task *t, wharf_name name, int *ret);
/* A received descriptor, which was checked, becomes a memory of this task; `fd` is taken on success only. */
int wh_memory_accept(wharf_task *t, int fd, wharf_name *ret);
/* Undo that: the name goes and the descriptor is the caller's again. */
void wh_memory_unaccept(wharf_task *t, wharf_name name);
int wh_memory_drop(wharf_task *t, struct wh_object *o, wharf_name name);

#endif
