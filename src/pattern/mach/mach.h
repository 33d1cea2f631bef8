/*
 * mach - Mach's calls in terms of wharf's.
 *
 * A message travels as its sender wrote it, header and all, with WIRE_ID as wharf's id; local names and addresses in it
 * mean nothing to the receiver and are overwritten there (and, in complex messages, before they leave). The rights and
 * memories are wharf's items, in the order reply right, then descriptors. What arrives is believed only as far as the
 * items that really came agree with it.
 *
 * Always true:
 *   H1  A Mach name is the wharf name of the same right. Where a port and send rights to it share a name, as Mach has
 *       it, an entry of `names` says which wharf right stands for the send rights, and how many references they have.
 *   H2  A send right without an entry has one reference.
 *   H3  References of rights that are on their way are given up before the send and given back if it fails, so two
 *       threads never move the same one.
 */
#ifndef WH_PATTERN_MACH_MACH_H
#define WH_PATTERN_MACH_MACH_H

#include "os/lock.h"
#include "wharf/mach.h"
#include "wharf/memory.h"

#include <stdbool.h>

#define WIRE_ID 0x4d616368u /* "Mach" */

struct named {
        mach_port_t name;
        wharf_name send; /* what the references are to */
        uint32_t refs;
        wharf_name set; /* that the port is in */
};

/* Of this process. */
extern struct wh_mach {
        struct wh_lock lock;
        wharf_task *task;
        wharf_task *stale; /* of the parent of this process */
        void *names;       /* of struct named, by tsearch() */
        void *memories;    /* of struct memory, likewise */
} wh_mach;

/* ---- task.c ---- */

/* The task, if `task` is the one that can be spoken of. */
wharf_task *wh_mach_task_of(task_t task);

/* ---- refs.c: under wh_mach.lock ---- */

struct named *wh_mach_named_find(mach_port_t name);
struct named *wh_mach_named_get(mach_port_t name); /* made where there is none; NULL: no memory */
void wh_mach_named_tidy(struct named *e);          /* frees one that says nothing any more */
/* The wharf right behind the send rights of a name, and its references; WHARF_NONE where there are none. */
wharf_name wh_mach_send_find(wharf_task *t, mach_port_t name, uint32_t *ret_refs);
/* Adds `delta` references; at 0 the right is no name's any more, and *ret_gone is what the caller drops. */
kern_return_t wh_mach_send_refs(wharf_task *t, mach_port_t name, int64_t delta, wharf_name *ret_gone);

/* ---- refs.c: these take the lock themselves ---- */

/* What has to be done about a right once the message is sent, or once it is not. */
struct after {
        mach_port_t name;
        bool counted;    /* a reference was given up, and comes back on failure (H3) */
        bool moved;      /* the name's last right goes with the message */
        void *memory;    /* of vm_allocate() or received, that goes with the message */
        wharf_name made; /* a copy of other memory, made for this message */
};

void wh_mach_refs_add(wharf_task *t, mach_port_t name, int64_t delta);
/* A send right that leaves `name`: copied while others are left, itself if it is the last. */
bool wh_mach_give_up(wharf_task *t, mach_port_t name, struct after *after, wharf_name *ret);
wharf_name wh_mach_send_of(wharf_task *t, mach_port_t name);
/* The Mach name of a wharf right: another one where it shares a port's (H1). */
mach_port_t wh_mach_name_of(wharf_name right);

/* ---- memory.c ---- */

bool wh_mach_memory_add(wharf_task *t, wharf_name name, void **ret, size_t *ret_bytes);
/* The memory that begins at `address` and has `bytes` bytes, all of it. */
wharf_name wh_mach_memory_find(void *address, size_t bytes);
wharf_name wh_mach_memory_forget(void *address);

/* ---- message.c ---- */

/* Where the descriptor at `*at` of a message of `len` bytes ends, or 0 where it does not fit. */
size_t wh_mach_descriptor_end(const uint8_t *msg, size_t len, size_t at);

/* ---- send.c, receive.c ---- */

mach_msg_return_t wh_mach_send(wharf_task *t, mach_msg_header_t *h, mach_msg_option_t option, size_t size,
                               int64_t deadline_ns, mach_port_t notify);
/* All that the failure or success of a send means for the names of this task. */
void wh_mach_settle(wharf_task *t, const struct after *a, bool sent);
mach_msg_return_t wh_mach_receive(wharf_task *t, mach_msg_header_t *h, mach_msg_option_t option, size_t room,
                                  mach_port_t name, int64_t deadline_ns);

#endif
