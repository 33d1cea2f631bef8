/*
 * The state of a port that somebody moves here, held against itself and against what this task may have.
 *
 * Always true: what passes fits together, to the last descriptor and byte, so that what opens it (open.c) finds everything
 * where it looks for it; and it is no more than this task can ever have (M4, M6).
 */
#include "message/opening.h"

#include "base/bits.h"
#include "base/trace.h"
#include "link/budget.h"
#include "memory/sealed.h"
#include "os/os.h"
#include "port/places.h"
#include "port/port.h"

#include <errno.h>

enum { OWN_FDS_MAX = 1 << 20 }; /* in a port of our own user's: more than any process has */

/* More than this task can ever have is waited for by nobody. */
static int fds_possible(const struct wh_moving *mv, uint64_t n)
{
        if (mv->by.own)
                return n <= OWN_FDS_MAX ? 0 : wh_trace(-EPROTO);
        return n <= mv->task->accounts.max[WH_SHARE_TASK_LINKS] ? 0 : wh_trace(-EDQUOT);
}

/*
 * Is the memory of the size that its head says, and no larger than the state of a port that can be here? The head is read
 * and not mapped: where there is a hole in its place that takes no memory, and no signal.
 */
static int size_check(const struct wh_moving *mv, int fd, uint64_t len)
{
        struct wh_move_head h;
        ssize_t n = wh_os_read_at(fd, &h, sizeof h, 0);
        if (n < 0) /* of memory that is sealed: the kernel has none to do it with */
                return wh_trace(-ENOMEM);
        if (n != sizeof h || h.magic != WH_MOVE_MAGIC)
                return wh_trace(-EPROTO);
        if (h.version != MOVE_VERSION)
                return wh_trace(-EPROTONOSUPPORT);
        const uint64_t links_len = (uint64_t)h.n_links * sizeof(struct wh_move_link);
        if (h.n_bytes > (uint64_t)h.n_links * WH_MOVE_BYTES_MAX || sizeof h + links_len + h.n_bytes != len ||
            h.n_fds < h.n_links || h.n_fds > (uint64_t)h.n_links * WH_MOVE_LINK_FDS_MAX)
                return wh_trace(-EPROTO);
        struct wharf_port_opts most;
        wh_port_opts(NULL, &most);
        if (!mv->by.own &&
            h.n_links > (uint64_t)most.links_max + WH_PLACELESS_MAX) /* before any of it is looked through */
                return wh_trace(-EPROTO);
        return fds_possible(mv, h.n_links);
}

int wh_move_state_open(const struct wh_moving *mv, int fd, struct wh_opened *o)
{
        uint64_t len;
        int r = wh_sealed_size(fd, WH_MOVE_SEALS, &len);
        if (r < 0 || len < sizeof(struct wh_move_head))
                return wh_trace(-EPROTO);
        if ((r = size_check(mv, fd, len)) < 0)
                return r;
        wh_moving_spend(mv, wh_budget_of_mapped(len));
        r = wh_sealed_whole(fd, len);
        if (r < 0 && r != -EOPNOTSUPP)
                return wh_trace(-EPROTO);
        void *map;
        r = wh_os_mmap(NULL, (size_t)len, PROT_READ, MAP_SHARED, fd, 0, &map);
        if (r < 0)
                return wh_trace(r);
        wh_os_madvise(map, (size_t)len, MADV_DONTFORK);
        o->head = map;
        o->map_len = (size_t)len;
        const struct wh_move_head *h = o->head; /* as it was read: nobody can change it */
        o->links = (const struct wh_move_link *)(const void *)(h + 1);
        o->bytes = (const uint8_t *)(o->links + h->n_links);
        return 0;
}

/*
 * How many descriptors and bytes that link has in the carrier, by its own word. Everything is held against everything
 * before any of it is used: what the links say, what the head says, and what is really there.
 */
static bool link_has(const struct wh_move_link *m, uint64_t n_bytes, uint64_t *fds, uint64_t *bytes)
{
        const bool message = m->flags & (WH_MOVE_FULL | WH_MOVE_BUILDING), memory = m->flags & WH_MOVE_MEMORY;
        if (m->flags & ~(uint32_t)WH_MOVE_FLAGS || m->n_sections > WH_SECTIONS_MAX || m->n_items > WHARF_ITEMS_MAX + 1)
                return false;
        *fds += 1 + m->n_items + (m->flags & WH_MOVE_CHANGE ? 1 : 0) + (message && memory ? 1 : 0);
        if (m->flags & WH_MOVE_LANE)
                *fds += 2 + m->n_sections + (m->flags & WH_MOVE_NEXT ? 1 : 0);
        if (!message || memory)
                return true;
        if (m->have > n_bytes || m->have > WH_MOVE_BYTES_MAX)
                return false;
        *bytes += wh_round_up(m->have, 8);
        return true;
}

/* What a port of another user's may take is what a port takes by default: it was that user who chose the options. */
static void opts_bound(struct wharf_port_opts *o)
{
        struct wharf_port_opts most;
        wh_port_opts(NULL, &most);
        const bool meets = o->capacity_records == WHARF_RENDEZVOUS;
        o->flags &= ~(uint32_t)WHARF_PORT_DIRECT; /* whom to trust with that is this task's to say */
#define BOUND(option) o->option = o->option < most.option ? o->option : most.option;
        WH_MOVE_OPTS(BOUND)
#undef BOUND
        if (meets)
                o->capacity_records = WHARF_RENDEZVOUS;
}

int wh_move_state_check(struct wh_moving *mv, struct wh_opening *op)
{
        const struct wh_opened *o = &op->o;
        const struct wh_move_head *h = o->head;
        uint64_t fds = 0, bytes = 0, senders = 0;
        op->opts = (struct wharf_port_opts){.size = sizeof op->opts, .flags = h->flags, .reserved = h->zero};
#define OPT(option) op->opts.option = h->option;
        WH_MOVE_OPTS(OPT)
#undef OPT
        int r = wh_port_opts(&op->opts, &op->opts);
        if (r < 0 || op->opts.flags & WHARF_PORT_FIXED)
                return wh_trace(-EPROTO);
        if ((r = fds_possible(mv, mv->n_fds + h->n_fds)) < 0)
                return r;
        for (uint32_t i = 0; i < h->n_links; i++) {
                if (!link_has(&o->links[i], h->n_bytes, &fds, &bytes))
                        return wh_trace(-EPROTO);
                senders += !(o->links[i].flags & WH_MOVE_DIRECTORY);
        }
        if (fds != h->n_fds || bytes != h->n_bytes || senders > (uint64_t)op->opts.links_max + WH_PLACELESS_MAX)
                return wh_trace(-EPROTO);
        mv->n_links += h->n_links;
        mv->n_fds += h->n_fds;
        op->introduced_max = op->opts.introduced_max;
        if (!mv->by.own)
                opts_bound(&op->opts);
        return 0;
}
