/*
 * send - a message leaves, with the rights and memory that its sender names in it (H3).
 */
#include "pattern/mach/mach.h"

#include "os/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { DESCRIPTORS_MAX = WHARF_ITEMS_MAX - 1 };

struct outgoing {
        wharf_name right;
        bool made; /* for this message only */
        struct after dest;
        struct wharf_item item[WHARF_ITEMS_MAX];
        struct after after[WHARF_ITEMS_MAX];
        unsigned n;
};

/* The destination. */
static mach_msg_return_t find_dest(wharf_task *t, const mach_msg_header_t *h, struct outgoing *o)
{
        switch (MACH_MSGH_BITS_REMOTE(h->msgh_bits)) {
        case MACH_MSG_TYPE_COPY_SEND:
                o->right = wh_mach_send_of(t, h->msgh_remote_port);
                break;
        case MACH_MSG_TYPE_MOVE_SEND:
                wh_mach_give_up(t, h->msgh_remote_port, &o->dest, &o->right);
                break;
        case MACH_MSG_TYPE_MOVE_SEND_ONCE:
                if (wharf_name_kind(t, h->msgh_remote_port) == WHARF_KIND_REPLY)
                        o->right = h->msgh_remote_port;
                break;
        case MACH_MSG_TYPE_MAKE_SEND:
                o->made = wharf_right_new(t, h->msgh_remote_port, &o->right) == 0;
                break;
        case MACH_MSG_TYPE_MAKE_SEND_ONCE:
                o->made = wharf_once_new(t, h->msgh_remote_port, &o->right) == 0;
                break;
        default:
                return MACH_SEND_INVALID_HEADER;
        }
        return o->right ? MACH_MSG_SUCCESS : MACH_SEND_INVALID_DEST;
}

/* One right that goes along. */
static bool add_right(wharf_task *t, struct outgoing *o, mach_port_t name, unsigned disposition)
{
        struct wharf_item *it = &o->item[o->n];
        struct after *after = &o->after[o->n];
        *after = (struct after){0};
        *it = (struct wharf_item){.name = name};
        switch (disposition) {
        case MACH_MSG_TYPE_COPY_SEND:
                it->kind = WHARF_COPY_SEND;
                it->name = wh_mach_send_of(t, name);
                break;
        case MACH_MSG_TYPE_MOVE_SEND: {
                wharf_name right = WHARF_NONE;
                wh_mach_give_up(t, name, after, &right);
                it->kind = after->moved ? WHARF_MOVE_SEND : WHARF_COPY_SEND;
                it->name = right;
                break;
        }
        case MACH_MSG_TYPE_MOVE_SEND_ONCE:
                it->kind = WHARF_MOVE_REPLY;
                break;
        case MACH_MSG_TYPE_MAKE_SEND:
                it->kind = WHARF_MAKE_SEND;
                break;
        case MACH_MSG_TYPE_MAKE_SEND_ONCE:
                it->kind = WHARF_MAKE_ONCE;
                break;
        case MACH_MSG_TYPE_MOVE_RECEIVE:
                it->kind = WHARF_MOVE_RECEIVE;
                break;
        default:
                return false;
        }
        if (!it->name)
                return false;
        o->n++;
        return true;
}

/* Memory that goes along. */
static bool add_memory(wharf_task *t, struct outgoing *o, const mach_msg_ool_descriptor_t *ool)
{
        struct wharf_item *it = &o->item[o->n];
        struct after *after = &o->after[o->n];
        wharf_name memory = wh_mach_memory_find(ool->address, ool->size);
        *after = (struct after){0};
        if (memory) {
                *it = (struct wharf_item){.kind = ool->deallocate ? WHARF_MOVE_MEMORY : WHARF_COPY_MEMORY,
                                          .name = memory};
                after->memory = ool->deallocate ? ool->address : NULL;
        } else {
                /* Memory of somebody else's making, or a part of one: a copy goes. */
                void *at;
                if (!ool->address || !ool->size || wharf_memory_new(t, ool->size, &memory) < 0)
                        return false;
                wharf_memory_at(t, memory, &at, NULL);
                memcpy(at, ool->address, ool->size);
                *it = (struct wharf_item){.kind = WHARF_MOVE_MEMORY, .name = memory};
                after->made = memory;
        }
        o->n++;
        return true;
}

/* The descriptors of a complex message: the rights into o->item, and nothing of this task's into what leaves. */
static mach_msg_return_t add_descriptors(wharf_task *t, uint8_t *msg, size_t len, struct outgoing *o)
{
        mach_msg_body_t body;
        size_t at = sizeof(mach_msg_header_t) + sizeof body;
        if (len < at)
                return MACH_SEND_MSG_TOO_SMALL;
        memcpy(&body, msg + sizeof(mach_msg_header_t), sizeof body);
        if (body.msgh_descriptor_count > DESCRIPTORS_MAX)
                return MACH_SEND_TOO_LARGE;
        for (uint32_t i = 0; i < body.msgh_descriptor_count; i++) {
                size_t end = wh_mach_descriptor_end(msg, len, at);
                if (!end)
                        return MACH_SEND_INVALID_TYPE;
                mach_msg_port_descriptor_t port;
                memcpy(&port, msg + at, sizeof port);
                if (port.type == MACH_MSG_PORT_DESCRIPTOR) {
                        if (!add_right(t, o, port.name, port.disposition))
                                return MACH_SEND_INVALID_RIGHT;
                        port.name = MACH_PORT_NULL;
                        memcpy(msg + at, &port, sizeof port);
                } else {
                        mach_msg_ool_descriptor_t ool;
                        memcpy(&ool, msg + at, sizeof ool);
                        if (!add_memory(t, o, &ool))
                                return MACH_SEND_INVALID_MEMORY;
                        ool.address = NULL;
                        memcpy(msg + at, &ool, sizeof ool);
                }
                at = end;
        }
        return MACH_MSG_SUCCESS;
}

void wh_mach_settle(wharf_task *t, const struct after *a, bool sent)
{
        if (!sent && a->counted)
                wh_mach_refs_add(t, a->name, 1);
        else if (sent && a->moved)
                wh_mach_refs_add(t, a->name, -1);
        if (sent && a->memory)
                wh_mach_memory_forget(a->memory);
        if (!sent && a->made)
                wharf_drop(t, a->made);
}

static void settle(wharf_task *t, struct outgoing *o, bool sent)
{
        for (unsigned i = 0; i < o->n; i++)
                wh_mach_settle(t, &o->after[i], sent);
        wh_mach_settle(t, &o->dest, sent);
        if (o->made)
                wharf_drop(t, o->right); /* of a send-once right that was used the name is gone already */
}

static mach_msg_return_t send_error(int err)
{
        switch (err) {
        case 0:
                return MACH_MSG_SUCCESS;
        case -EAGAIN:
        case -ETIMEDOUT:
                return MACH_SEND_TIMED_OUT;
        case -EMSGSIZE:
                return MACH_SEND_TOO_LARGE;
        case -EBADF:
        case -EPERM:
                return MACH_SEND_INVALID_RIGHT;
        case -EINVAL:
                return MACH_SEND_INVALID_DATA;
        case -ENOMEM:
        case -EMFILE:
        case -ENFILE:
        case -ENOSPC:
        case -ENOBUFS:
        case -EDQUOT:
        case -ETOOMANYREFS:
        case -EMLINK:
                return MACH_SEND_NO_BUFFER;
        default: /* -EPIPE and all that ends a link */
                return MACH_SEND_INVALID_DEST;
        }
}

static mach_msg_return_t hand_on(wharf_task *t, wharf_name right, struct wharf_msg *m, bool later, int64_t deadline_ns,
                                 mach_port_t notify)
{
        bool asked = false; /* once a message is left it is too late to ask: it may have been sent already */
        if (later) {
                int r = wharf_notify(t, WHARF_NOTICE_SENT_LATER, right, notify, 0);
                if (r != 0 && r != -EBUSY)
                        return r == -EBADF || r == -EPERM ? MACH_SEND_INVALID_NOTIFY : send_error(r);
                asked = r == 0;
                m->flags = WHARF_SEND_LATER;
        }
        int sent = wharf_sendmsg(t, right, m, deadline_ns);
        if (asked && sent != 1)
                wharf_notify_cancel(t, WHARF_NOTICE_SENT_LATER, right);
        return sent == 1                 ? MACH_SEND_WILL_NOTIFY
               : later && sent == -EBUSY ? MACH_SEND_NOTIFY_IN_PROGRESS
                                         : send_error(sent);
}

mach_msg_return_t wh_mach_send(wharf_task *t, mach_msg_header_t *h, mach_msg_option_t option, size_t size,
                               int64_t deadline_ns, mach_port_t notify)
{
        if (!h || size < sizeof *h)
                return MACH_SEND_MSG_TOO_SMALL;
        struct outgoing o;
        o.right = WHARF_NONE;
        o.made = false;
        o.dest = (struct after){0};
        o.n = 0;
        unsigned local = MACH_MSGH_BITS_LOCAL(h->msgh_bits);
        uint8_t *copy = NULL; /* of a complex message, without what is only this task's */
        mach_msg_return_t r = find_dest(t, h, &o);
        if (r == MACH_MSG_SUCCESS && (local != 0) != (h->msgh_local_port != MACH_PORT_NULL))
                r = MACH_SEND_INVALID_HEADER;
        if (r == MACH_MSG_SUCCESS && local && !add_right(t, &o, h->msgh_local_port, local))
                r = MACH_SEND_INVALID_REPLY;
        if (r == MACH_MSG_SUCCESS && h->msgh_bits & MACH_MSGH_BITS_COMPLEX) {
                copy = wh_os_malloc(size);
                r = copy ? MACH_MSG_SUCCESS : MACH_SEND_NO_BUFFER;
                if (copy) {
                        memcpy(copy, h, size);
                        r = add_descriptors(t, copy, size, &o);
                }
        }
        if (r == MACH_MSG_SUCCESS) {
                struct wharf_msg m = {
                        .size = sizeof m,
                        .id = WIRE_ID,
                        .data = copy ? (void *)copy : (void *)h,
                        .len_bytes = size,
                        .items = o.item,
                        .n_items = o.n,
                };
                r = hand_on(t, o.right, &m, option & MACH_SEND_NOTIFY, deadline_ns, notify);
        }
        settle(t, &o, r == MACH_MSG_SUCCESS || r == MACH_SEND_WILL_NOTIFY);
        free(copy);
        return r;
}
