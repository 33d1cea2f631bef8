/*
 * A message that was received goes on to another port, with all that it brought.
 *
 * Always true:
 *   - The message is whoever called's until it was sent whole: a failure leaves the payload, the items and the right to answer as they are.
 *   - What goes on has this task as its sender, and each right in it has been through this task's hands (identity.md).
 */
#include "message/deliver.h"
#include "message/receive.h"
#include "message/send.h"
#include "task/why.h"

#include <errno.h>

/* How what came goes on; 0: it did not come in a message. */
static uint32_t moved(uint32_t got)
{
        switch (got) {
        case WHARF_GOT_SEND:
                return WHARF_MOVE_SEND;
        case WHARF_GOT_REPLY:
                return WHARF_MOVE_REPLY;
        case WHARF_GOT_RECEIVE:
                return WHARF_MOVE_RECEIVE;
        case WHARF_GOT_MEMORY:
                return WHARF_MOVE_MEMORY;
        case WHARF_GOT_FD:
                return WHARF_MOVE_FD;
        default:
                return 0;
        }
}

/* The payload's own memory, where it came in one and is still as it came; or -1. */
static int memory_of(const struct wharf_msg *m)
{
        return m->held[0] == WH_HELD_MAP && m->held[2] >= m->len_bytes ? (int)m->held[3] : -1;
}

WHARF_API int wharf_forward(wharf_task *t, wharf_name right, struct wharf_msg *m, int64_t deadline_ns)
{
        int r = wh_receive_check(m);
        if (r < 0)
                return r;
        if (m->notice)
                return wh_fail(-EINVAL, "a notice of the system is nobody's to send on");
        if (m->held[0] == WH_HELD_RESERVED)
                return wh_fail(-EINVAL, "the payload was reserved, and not received");
        const bool carried = m->reply != WHARF_NONE;
        struct wharf_item items[WHARF_ITEMS_MAX];
        if (m->n_items + carried > WHARF_ITEMS_MAX)
                return wh_fail(-EINVAL, "%u items and the right to answer, at most %d together", m->n_items,
                               WHARF_ITEMS_MAX);
        items[0] = (struct wharf_item){.kind = WHARF_MOVE_REPLY, .name = m->reply};
        for (uint32_t i = 0; i < m->n_items; i++) {
                items[i + carried] = m->items[i];
                if (!(items[i + carried].kind = moved(m->items[i].kind)))
                        return wh_fail(-EINVAL, "items[%u].kind is %u, which no message brings", i, m->items[i].kind);
        }
        struct wharf_msg on = {.size = sizeof on,
                               .id = m->id,
                               .data = m->data,
                               .len_bytes = m->len_bytes,
                               .items = items,
                               .n_items = m->n_items + carried};
        r = wh_send_on(t, right, &on, memory_of(m), carried, deadline_ns);
        if (r < 0)
                return r;
        m->how = on.how;
        m->reply = WHARF_NONE;
        m->n_items = 0;
        wharf_release(t, m);
        return 0;
}
