#include "link/record.h"

#include "os/closer.h"
#include "os/os.h"
#include "link/payload.h"

#include <errno.h>

int wh_record_items(struct wh_link *l, struct wh_outgoing *o, unsigned n)
{
        struct wh_frame f = {.type = WH_FRAME_ITEMS, .n_fds = (uint8_t)n, .seq = l->out.seq};
        int r = wh_link_frame(l, &f, o->kind, n, o->fd, false);
        if (r == 0)
                o->items_sent = true;
        return r;
}

int wh_payload_memory(struct wh_link *l, struct wh_outgoing *o, uint32_t *ret_lacks)
{
        int r = l->end->sends(l, WH_SHARE_REPLIES, o->len);
        if (r < 0)
                return r;
        int *fd = &o->fd[o->n_items];
        if (o->memory >= 0)
                r = (*fd = wh_os_dup_above(o->memory, 0)) < 0 ? *fd : 0;
        else
                r = wh_payload_of(o->data, o->len, fd);
        if (r < 0) {
                l->end->unsent(l, WH_SHARE_REPLIES, o->len);
                if (wh_forbidden(r))
                        *ret_lacks = WH_IF_NO_SHARED;
                return r;
        }
        o->kind[o->n_items] = WH_ITEM_MEMORY;
        return 0;
}

int wh_payload_sent(struct wh_link *l, struct wh_outgoing *o, int r, uint32_t *ret_lacks)
{
        if (o->memory >= 0)
                wh_os_close_theirs(o->fd[o->n_items]); /* somebody else's making */
        else
                wh_os_close(o->fd[o->n_items]);
        if (r < 0)
                l->end->unsent(l, WH_SHARE_REPLIES, o->len);
        if (r == -ETOOMANYREFS && l->owner && o->n_items == 0) /* a reply that fails is lost; others wait */
                *ret_lacks = WH_IF_NO_SHARED;
        return r;
}

int wh_record_blockless(struct wh_link *l, const struct wh_record *p, int r, uint32_t *ret_lacks)
{
        if (l->out.lane->ring.broken)
                return wh_link_no_room(l);
        if (wh_forbidden(r))
                *ret_lacks = WH_IF_NO_SHARED;
        else if (p->kind == WH_REC_BLOCK)
                *ret_lacks = r == -EAGAIN ? WH_IF_NO_BLOCK : r == -EDQUOT ? WH_IF_NO_QUOTA : 0;
        return r;
}
