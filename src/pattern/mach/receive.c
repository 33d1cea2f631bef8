/*
 * receive - a message comes: one of Mach's, a notice, or one of a program that does not speak Mach.
 */
#include "pattern/mach/mach.h"

#include "os/os.h"
#include "message/items.h"

#include <errno.h>
#include <string.h>

enum {
        INTRODUCERS_MAX = 8, /* of a sender that are looked at; one with more is nobody that is known */
        SKIPS_MAX = 64,      /* what is no message of Mach's, by a receive that does not wait */
};

static mach_msg_return_t receive_error(wharf_task *t, mach_port_t name, int err)
{
        switch (err) {
        case -EAGAIN:
        case -ETIMEDOUT:
                return MACH_RCV_TIMED_OUT;
        case -EBUSY:
                return MACH_RCV_IN_SET;
        case -ECANCELED:
                return wharf_name_kind(t, name) < 0 ? MACH_RCV_PORT_DIED : MACH_RCV_PORT_CHANGED;
        case -ENOTCONN:
                return MACH_RCV_NO_SENDERS;
        case -EOVERFLOW:
                return MACH_RCV_TOO_LARGE;
        case -ENOMEM:
        case -EMFILE:
        case -ENFILE:
                return MACH_RCV_BODY_ERROR;
        default:
                return MACH_RCV_INVALID_NAME;
        }
}

static unsigned disposition_of(uint32_t got)
{
        return got == WHARF_GOT_SEND      ? MACH_MSG_TYPE_PORT_SEND
               : got == WHARF_GOT_REPLY   ? MACH_MSG_TYPE_PORT_SEND_ONCE
               : got == WHARF_GOT_RECEIVE ? MACH_MSG_TYPE_PORT_RECEIVE
                                          : 0;
}

/* A reply port is a right to send: a receive right in its place would be one that nobody here knows to let go of. */
static unsigned reply_disposition(uint32_t got)
{
        return got == WHARF_GOT_RECEIVE ? 0 : disposition_of(got);
}

static void drop_item(wharf_task *t, const struct wharf_item *it)
{
        void *address;
        if (it->kind == WHARF_GOT_MEMORY && wharf_memory_at(t, it->name, &address, NULL) == 0)
                wh_mach_memory_forget(address);
        wh_items_drop(t, it, 1);
}

static bool take_memory(wharf_task *t, const struct wharf_item *it, uint8_t *at)
{
        mach_msg_ool_descriptor_t d = {.type = MACH_MSG_OOL_DESCRIPTOR, .copy = MACH_MSG_VIRTUAL_COPY};
        size_t bytes;
        void *address;
        if (it->kind != WHARF_GOT_MEMORY || !wh_mach_memory_add(t, it->name, &address, &bytes))
                return false;
        d.address = address;
        d.size = (mach_msg_size_t)bytes;
        d.deallocate = bytes > UINT32_MAX ? 0 : 1;
        memcpy(at, &d, sizeof d);
        return true;
}

/* Gives the descriptors of a complex message what came for them: the items from `used` on. False when they do not agree. */
static bool take_descriptors(wharf_task *t, const struct wharf_msg *m, unsigned used, uint8_t *msg)
{
        size_t len = m->len_bytes, at = sizeof(mach_msg_header_t);
        mach_msg_body_t body;
        if (len < at + sizeof body)
                return false;
        memcpy(&body, msg + at, sizeof body);
        at += sizeof body;
        if (body.msgh_descriptor_count != m->n_items - used)
                return false;
        for (; used < m->n_items; used++) {
                size_t end = wh_mach_descriptor_end(msg, len, at);
                const struct wharf_item *it = &m->items[used];
                mach_msg_port_descriptor_t port;
                if (!end)
                        return false;
                memcpy(&port, msg + at, sizeof port);
                if (port.type == MACH_MSG_PORT_DESCRIPTOR) {
                        port.disposition = (uint8_t)disposition_of(it->kind);
                        port.name = it->name;
                        if (!port.disposition)
                                return false;
                        memcpy(msg + at, &port, sizeof port);
                } else if (!take_memory(t, it, msg + at)) {
                        return false;
                }
                at = end;
        }
        return true;
}

/*
 * Gives a message of Mach's its header and descriptors in this task's terms. False when what it says of itself does not
 * agree with what came: no honest sender does that, and everything is the caller's to drop.
 */
static bool take_message(wharf_task *t, struct wharf_msg *m, mach_msg_header_t *h)
{
        uint8_t *msg = (uint8_t *)h;
        size_t len = m->len_bytes;
        unsigned used = 0, reply = 0;
        if (len < sizeof *h)
                return false;
        bool complex_ = h->msgh_bits & MACH_MSGH_BITS_COMPLEX;
        mach_port_t remote = MACH_PORT_NULL;
        if (MACH_MSGH_BITS_LOCAL(h->msgh_bits)) {
                reply = m->n_items ? reply_disposition(m->items[0].kind) : 0;
                if (!reply)
                        return false;
                remote = m->items[used++].name;
        }
        if (complex_) {
                if (!take_descriptors(t, m, used, msg))
                        return false;
                used = m->n_items;
        }
        if (used != m->n_items || m->reply)
                return false;
        mach_msg_id_t id = h->msgh_id;
        *h = (mach_msg_header_t){
                .msgh_bits =
                        MACH_MSGH_BITS(reply, MACH_MSG_TYPE_PORT_RECEIVE) | (complex_ ? MACH_MSGH_BITS_COMPLEX : 0),
                .msgh_size = (mach_msg_size_t)len,
                .msgh_remote_port = remote,
                .msgh_local_port = m->port,
                .msgh_id = id,
        };
        return true;
}

/* A port that was dropped, and this task is its heir. */
static bool take_heritage(const struct wharf_msg *m, mach_msg_header_t *h, size_t room)
{
        mach_port_notification_t n = {
                .not_header = {.msgh_bits = MACH_MSGH_BITS(0, MACH_MSG_TYPE_PORT_SEND_ONCE),
                               .msgh_size = sizeof n,
                               .msgh_local_port = m->port,
                               .msgh_id = MACH_NOTIFY_PORT_DESTROYED},
                .not_port = m->items[0].name,
        };
        if (room < sizeof n || m->reply)
                return false;
        memcpy(h, &n, sizeof n);
        return true;
}

/* A message of a program that does not speak Mach: its payload becomes the body, its first right the reply port. */
static bool take_foreign(struct wharf_msg *m, mach_msg_header_t *h, size_t room)
{
        if (m->id == WHARF_ID_PORT_DESTROYED && m->n_items == 1 && m->items[0].kind == WHARF_GOT_RECEIVE)
                return take_heritage(m, h, room);
        if (m->len_bytes + sizeof *h > room || m->n_items > (m->reply ? 0 : 1))
                return false;
        unsigned reply = m->reply ? MACH_MSG_TYPE_PORT_SEND_ONCE : m->n_items ? reply_disposition(m->items[0].kind) : 0;
        if (m->n_items && !reply)
                return false;
        memmove(h + 1, h, m->len_bytes);
        *h = (mach_msg_header_t){
                .msgh_bits = MACH_MSGH_BITS(reply, MACH_MSG_TYPE_PORT_RECEIVE),
                .msgh_size = (mach_msg_size_t)(m->len_bytes + sizeof *h),
                .msgh_remote_port = m->reply     ? m->reply
                                    : m->n_items ? m->items[0].name
                                                 : MACH_PORT_NULL,
                .msgh_local_port = m->port,
                .msgh_id = (mach_msg_id_t)m->id,
        };
        return true;
}

static bool is_sure(uint32_t known)
{
        return known == WHARF_KNOWN_OWN || known == WHARF_KNOWN_CONNECTED || known == WHARF_KNOWN_BOUND;
}

static bool take_notice(const struct wharf_msg *m, mach_msg_header_t *h, size_t room)
{
        static const mach_msg_id_t id[] = {
                [WHARF_NOTICE_DEAD_NAME] = MACH_NOTIFY_DEAD_NAME,
                [WHARF_NOTICE_NO_SENDERS] = MACH_NOTIFY_NO_SENDERS,
                [WHARF_NOTICE_ONCE_UNUSED] = MACH_NOTIFY_SEND_ONCE,
                [WHARF_NOTICE_SENT_LATER] = MACH_NOTIFY_MSG_ACCEPTED,
        };
        mach_port_notification_t n = {
                .not_header =
                        {
                                .msgh_bits = MACH_MSGH_BITS(0, MACH_MSG_TYPE_PORT_SEND_ONCE),
                                .msgh_size = sizeof n,
                                .msgh_local_port = m->port,
                                .msgh_id = m->notice < sizeof id / sizeof *id ? id[m->notice] : 0,
                        },
                .not_port = wh_mach_name_of(m->about),
                .not_count = (mach_port_mscount_t)m->count,
        };
        if (room < sizeof n)
                return false;
        memcpy(h, &n, sizeof n);
        return true;
}

/*
 * Who sent it, for those who decide by that: nobody that is known, where others may have made the sender speak, since the
 * trailer has no room for who gave it its right.
 */
static __attribute__((noinline)) mach_msg_security_trailer_t trailer_of(wharf_task *t, const struct wharf_sender *s)
{
        struct wharf_introducer by[INTRODUCERS_MAX];
        mach_msg_security_trailer_t r = {.msgh_trailer_size = sizeof r, .uid = (uint32_t)-1, .gid = (uint32_t)-1};
        if (!is_sure(s->known))
                return r;
        int n = 0;
        if (s->introducer.known != WHARF_KNOWN_NOBODY)
                n = wharf_sender_introducers(t, s->id, by, INTRODUCERS_MAX);
        bool alone = n == 0 || (n > 0 && n <= INTRODUCERS_MAX && s->uid != (uid_t)-1);
        for (int i = 0; alone && i < n; i++)
                alone = is_sure(by[i].known) && by[i].uid == s->uid;
        if (alone) {
                r.uid = s->uid;
                r.gid = s->gid;
                r.pid = s->pid;
        }
        return r;
}

mach_msg_return_t wh_mach_receive(wharf_task *t, mach_msg_header_t *h, mach_msg_option_t option, size_t room,
                                  mach_port_t name, int64_t deadline_ns)
{
        struct wharf_item items[WHARF_ITEMS_MAX];
        size_t trailer = option & MACH_RCV_TRAILER_SENDER ? sizeof(mach_msg_security_trailer_t) : 0;
        if (!h || room < sizeof *h + trailer)
                return MACH_RCV_TOO_LARGE;
        room -= trailer;
        for (unsigned skips = 0;;) {
                struct wharf_msg m = {.size = sizeof m,
                                      .flags = option & MACH_RCV_LARGE ? 0 : WHARF_RECV_DROP_UNFIT,
                                      .data = h,
                                      .cap_bytes = room,
                                      .items = items,
                                      .cap_items = WHARF_ITEMS_MAX};
                int r = wharf_recvmsg(t, name, &m, deadline_ns);
                if (r == -EOVERFLOW && option & MACH_RCV_LARGE)
                        *h = (mach_msg_header_t){.msgh_size = (mach_msg_size_t)m.len_bytes};
                if (r == -EOVERFLOW)
                        return MACH_RCV_TOO_LARGE;
                if (r < 0)
                        return receive_error(t, name, r);
                bool taken = m.notice          ? take_notice(&m, h, room)
                             : m.id == WIRE_ID ? take_message(t, &m, h)
                                               : take_foreign(&m, h, room);
                if (taken) {
                        if (trailer) {
                                mach_msg_security_trailer_t sender = trailer_of(t, &m.sender);
                                memcpy((uint8_t *)h + h->msgh_size, &sender, sizeof sender);
                        }
                        return MACH_MSG_SUCCESS;
                }
                for (unsigned i = 0; i < m.n_items; i++)
                        drop_item(t, &items[i]);
                if (m.reply)
                        wharf_drop(t, m.reply);
                if (m.id != WIRE_ID)
                        return MACH_RCV_TOO_LARGE;
                /* It was no message of Mach's after all, whatever its id says: on to the next, as long as there is time. */
                if (deadline_ns ? wh_os_now_ns() >= deadline_ns : ++skips == SKIPS_MAX)
                        return MACH_RCV_TIMED_OUT;
        }
}
