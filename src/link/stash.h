/* The link's stash while a message is made in it: stash.c. All under the receiving guard. */
#ifndef WH_LINK_STASH_H
#define WH_LINK_STASH_H

#include "link/link.h"

/* The payload's limit: the port's own for requests, and the task's for replies. */
static inline uint64_t wh_stash_max(const struct wh_link *l)
{
        if (!l->owner)
                return l->task->reply_bytes_max;
        return l->hello.payload_bytes_max ? l->hello.payload_bytes_max : (uint64_t)1 << 40;
}

/* A reply that is larger than this comes as a memory: nobody has a caller hold much of what never becomes whole. */
bool wh_stash_parts_allowed(const struct wh_link *l, uint64_t total);
/* Room for a message of `total` bytes, or -EMSGSIZE, -ENOMEM, -EDQUOT. */
int wh_stash_begin(struct wh_link *l, uint64_t total, uint32_t id, uint32_t call, enum wharf_how how);
/* The same in a buffer of `total` bytes that is the user's, of the receive that is running. Charges nothing. */
void wh_stash_begin_in(struct wh_link *l, uint8_t *bytes, uint64_t total, uint32_t id, uint32_t call,
                       enum wharf_how how);
/* A message of `total` bytes is charged as long as it is not whole, wherever it is put together. 0, -EDQUOT, -ENOMEM */
int wh_stash_charge(struct wh_link *l, uint64_t total);
/* Room for all of a message that was begun elsewhere (move.c), and is about to go on. 0 or -ENOMEM */
int wh_stash_grow(struct wh_link *l);
/* It is whole. */
void wh_stash_finish(struct wh_link *l);
/* What was counted for a message that is not in private memory any more. */
void wh_stash_gone(struct wh_link *l);
/* Drop the beginning of a message that will not be finished. */
void wh_link_forget_part(struct wh_link *l);

/* The payload as a memory of its own: immutable by the kernel's word, or refused. `fd` stays the caller's, ... */
int wh_stash_memory(struct wh_link *l, int fd, uint64_t total, uint32_t id, uint32_t call);
/* ... until it is kept or closed here, whether it was mapped or not. */
void wh_stash_memory_keep(struct wh_link *l, int fd);

#endif
