/*
 * stash - a whole message in private memory, or one that becomes whole there.
 *
 * It comes in fragments, in parts, or at once as a memory of its own; one that becomes whole is put together here, or in the
 * buffer of the receive that is running (in.direct), which is the user's and never freed.
 *
 * Always true:
 *   T1  While `building`, `have` bytes of `len` are there, and the owner's share is charged for `len` where that is large. What
 *       was charged is given back when the stash is empty again, whichever way it goes.
 *   T2  Memory that the other side made is mapped only once the kernel says that nobody can change it; and what lies in it is
 *       paid for from the budget (K7) before it is looked through.
 */
#include "link/stash.h"

#include "base/trace.h"
#include "memory/sealed.h"
#include "link/budget.h"
#include "link/descriptors.h"
#include "link/payload.h"
#include "os/closer.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void wh_stash_done(struct wh_stash *s)
{
        if (s->mapped) {
                wh_os_munmap(s->bytes, s->room);
                wh_os_close_theirs(s->memory);
        } else {
                free(s->bytes);
        }
        *s = (struct wh_stash){0};
}

/* ---- put together from parts ---- */

bool wh_stash_parts_allowed(const struct wh_link *l, uint64_t total)
{
        return l->owner || total <= WH_REPLY_PARTS_MAX;
}

int wh_stash_charge(struct wh_link *l, uint64_t total)
{
        return total > WH_COLD_MAX ? l->end->hold(l, WH_SHARE_BYTES, total) : 0;
}

static void begins(struct wh_link *l, uint8_t *bytes, uint64_t total, uint32_t id, uint32_t call, enum wharf_how how)
{
        l->in.stash = (struct wh_stash){
                .bytes = bytes, .len = total, .room = total, .id = id, .call = call, .how = how, .building = true};
}

int wh_stash_begin(struct wh_link *l, uint64_t total, uint32_t id, uint32_t call, enum wharf_how how)
{
        if (total > wh_stash_max(l))
                return -EMSGSIZE;
        if (!wh_stash_parts_allowed(l, total))
                return wh_trace(-EPROTO);
        uint8_t *bytes = NULL;
        int r = wh_stash_charge(l, total);
        if (r < 0)
                return r;
        if (total && !(bytes = wh_os_malloc_payload(total)))
                return -ENOMEM;
        begins(l, bytes, total, id, call, how);
        return 0;
}

void wh_stash_begin_in(struct wh_link *l, uint8_t *bytes, uint64_t total, uint32_t id, uint32_t call,
                       enum wharf_how how)
{
        begins(l, bytes, total, id, call, how);
        l->in.direct = true;
}

void wh_stash_finish(struct wh_link *l)
{
        l->in.stash.building = false;
        l->in.stash.full = true;
}

void wh_stash_gone(struct wh_link *l)
{
        l->end->hold(l, WH_SHARE_BYTES, 0);
        wh_items_left(l);
}

void wh_link_forget_part(struct wh_link *l)
{
        if (!l->in.stash.building)
                return;
        if (l->in.direct)
                l->in.stash.bytes = NULL;
        else
                wh_link_spend(l, l->in.stash.have / WH_COST_MAPPED); /* freed */
        l->in.direct = false;
        if (l->in.stash.n_items)
                wh_items_done(&l->in.items);
        wh_stash_done(&l->in.stash);
        wh_stash_gone(l);
}

void wh_link_privatise(struct wh_link *l)
{
        if (!l->in.direct)
                return;
        struct wh_stash *s = &l->in.stash;
        uint8_t *own = wh_os_malloc_payload(s->len);
        if (own)
                memcpy(own, s->bytes, s->have);
        wh_link_spend(l, s->have / WH_COST_BYTES);
        s->bytes = own;
        l->in.direct = false;
        if (!own) {
                s->building = s->full = false;
                wh_link_break(l, -ENOMEM);
        }
}

/* ---- a memory of its own ---- */

int wh_stash_memory(struct wh_link *l, int fd, uint64_t total, uint32_t id, uint32_t call)
{
        uint64_t len = 0;
        void *map = NULL;
        int r = total ? wh_sealed_size(fd, WH_SEALS_IMMUTABLE, &len) : 0;
        if (r < 0)
                return r;
        if (len != total)
                return wh_trace(-EPROTO);
        if (total > wh_stash_max(l))
                return -EMSGSIZE;
        wh_budget_mapped(l, total);
        if (total && (r = wh_sealed_whole(fd, total)) < 0 && r != -EOPNOTSUPP)
                return r;
        r = 0;
        if (total)
                r = wh_payload_map(fd, total, &map);
        if (r < 0)
                return r;
        l->in.stash = (struct wh_stash){.full = true,
                                        .mapped = total > 0,
                                        .memory = -1,
                                        .bytes = map,
                                        .len = total,
                                        .have = total,
                                        .room = total,
                                        .id = id,
                                        .call = call,
                                        .how = WHARF_HOW_MEMORY};
        return 0;
}

/*
 * The descriptor of the memory just mapped, kept or closed. With it the last of a large memory goes where nobody waits for
 * that, and not with the mapping, in the call that has no use for it.
 */
void wh_stash_memory_keep(struct wh_link *l, int fd)
{
        if (!l->in.stash.mapped || !(l->movable || l->in.stash.room > WH_OS_AT_ONCE_BYTES)) {
                wh_os_close_theirs(fd);
                return;
        }
        wh_os_fd_private(fd);
        l->in.stash.memory = fd;
}

int wh_link_stash_memory(struct wh_link *l, int fd, uint64_t len, uint32_t id, uint32_t call)
{
        int r = wh_stash_memory(l, fd, len, id, call);
        wh_stash_memory_keep(l, fd);
        return r;
}

/*
 * Room for all of a message that was begun elsewhere (move.h), which is about to go on. Nothing of what there is is copied, if it
 * is much: it is mapped once more, below the rest.
 */
int wh_stash_grow(struct wh_link *l)
{
        struct wh_stash *s = &l->in.stash;
        void *all;
        if (wh_likely(s->room >= s->len))
                return 0;
        if (s->mapped) {
                int r = wh_os_mmap(NULL, s->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, &all);
                if (r < 0)
                        return wh_trace(r);
                r = wh_os_mmap(all, s->have, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, s->memory, 0, &all);
                if (r < 0) {
                        wh_os_munmap(all, s->len);
                        return wh_trace(r);
                }
                wh_os_munmap(s->bytes, s->room);
                wh_os_close_theirs(s->memory);
                s->memory = -1;
        } else {
                if (!(all = wh_os_malloc_payload(s->len)))
                        return wh_trace(-ENOMEM);
                if (s->have)
                        memcpy(all, s->bytes, s->have);
                free(s->bytes);
        }
        s->bytes = all;
        s->room = s->len;
        return 0;
}
