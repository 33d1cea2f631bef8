/*
 * Mach's calls in terms of wharf's.
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
#include "wharf/mach.h"
#include "wharf/memory.h"

#include "os/lock.h"
#include "os/os.h"
#include "message/items.h"

#include <errno.h>
#include <pthread.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIRE_ID 0x4d616368u /* "Mach" */

enum {
        DESCRIPTORS_MAX = WHARF_ITEMS_MAX - 1,
        INTRODUCERS_MAX = 8, /* of a sender that are looked at; one with more is nobody that is known */
        SKIPS_MAX = 64,      /* what is no message of Mach's, by a receive that does not wait */
};

struct named {
        mach_port_t name;
        wharf_name send; /* what the references are to */
        uint32_t refs;
        wharf_name set; /* that the port is in */
};

static struct {
        struct wh_lock lock;
        wharf_task *task;
        wharf_task *stale; /* of the parent of this process */
        void *names;       /* of struct named, by tsearch() */
        void *memories;    /* of struct memory, likewise */
} mach;

/* ---- the task ---- */

static void child_begins_anew(void)
{
        mach.lock = WH_LOCK_INIT;
        mach.stale = mach.task;
        mach.task = NULL;
        mach.names = mach.memories =
                NULL; /* their memory stays: other threads of the parent may have been changing it */
}

WHARF_API wharf_task *wharf_mach_task(void)
{
        static bool told;
        wh_lock(&mach.lock);
        if (mach.stale)
                mach.stale = wharf_task_close(mach.stale);
        if (!mach.task && wharf_task_open(NULL, &mach.task) < 0)
                mach.task = NULL;
        if (mach.task && !told)
                told = pthread_atfork(NULL, NULL, child_begins_anew) == 0;
        wharf_task *t = mach.task;
        wh_unlock(&mach.lock);
        return t;
}

WHARF_API void wharf_mach_close(void)
{
        wh_lock(&mach.lock);
        tdestroy(mach.names, free);
        tdestroy(mach.memories, free);
        mach.names = mach.memories = NULL;
        wharf_task *t = mach.task;
        mach.task = NULL;
        wh_unlock(&mach.lock);
        wharf_task_close(t);
}

WHARF_API mach_port_t wharf_mach_task_self(void)
{
        wharf_task *t = wharf_mach_task();
        wharf_name self;
        return t && wharf_task_self(t, &self) == 0 ? self : MACH_PORT_NULL;
}

/* The task, if `task` is the one that can be spoken of. */
static wharf_task *task_of(task_t task)
{
        return task != MACH_PORT_NULL && task == wharf_mach_task_self() ? wharf_mach_task() : NULL;
}

/* ---- names and their references; under mach.lock ---- */

static int entry_compare(const void *a, const void *b)
{
        mach_port_t x = ((const struct named *)a)->name, y = ((const struct named *)b)->name;
        return x < y ? -1 : x > y;
}

static struct named *entry_find(mach_port_t name)
{
        struct named key = {.name = name};
        void *node = tfind(&key, &mach.names, entry_compare);
        return node ? *(struct named **)node : NULL;
}

static struct named *entry_get(mach_port_t name)
{
        struct named *e = entry_find(name);
        if (e)
                return e;
        e = wh_os_calloc(1, sizeof *e);
        if (!e)
                return NULL;
        e->name = name;
        if (!tsearch(e, &mach.names, entry_compare)) {
                free(e);
                return NULL;
        }
        return e;
}

static void entry_tidy(struct named *e)
{
        if (e->send || e->set)
                return;
        tdelete(e, &mach.names, entry_compare);
        free(e);
}

/* The wharf right behind the send rights of a name, and its references; WHARF_NONE where there are none. */
static wharf_name send_find(wharf_task *t, mach_port_t name, uint32_t *ret_refs)
{
        const struct named *e = entry_find(name);
        *ret_refs = 0;
        if (e && e->send) {
                *ret_refs = e->refs;
                return e->send;
        }
        if (wharf_name_kind(t, name) != WHARF_KIND_SEND)
                return WHARF_NONE;
        *ret_refs = 1;
        return name;
}

/* Adds `delta` references; at 0 the right is no name's any more, and *ret_gone is what the caller drops. */
static kern_return_t send_refs(wharf_task *t, mach_port_t name, int64_t delta, wharf_name *ret_gone)
{
        uint32_t refs;
        wharf_name send = send_find(t, name, &refs);
        *ret_gone = WHARF_NONE;
        if (!send)
                return KERN_INVALID_RIGHT;
        int64_t now = (int64_t)refs + delta;
        if (now < 0)
                return KERN_INVALID_VALUE;
        if (now > 0xffff)
                return KERN_UREFS_OVERFLOW;
        if (send == name && now <= 1 && !entry_find(name)) {
                *ret_gone = now ? WHARF_NONE : send;
                return KERN_SUCCESS;
        }
        struct named *e = entry_get(name);
        if (!e)
                return KERN_RESOURCE_SHORTAGE;
        e->send = send;
        e->refs = (uint32_t)now;
        if (now == 0 || (send == name && now == 1)) {
                e->send = WHARF_NONE;
                *ret_gone = now ? WHARF_NONE : send;
                entry_tidy(e);
        }
        return KERN_SUCCESS;
}

static void refs_add(wharf_task *t, mach_port_t name, int64_t delta)
{
        wharf_name gone;
        wh_lock(&mach.lock);
        send_refs(t, name, delta, &gone);
        wh_unlock(&mach.lock);
        if (gone)
                wharf_drop(t, gone);
}

/* ---- memory, known to Mach by its address ---- */

struct memory {
        void *address;
        size_t bytes;
        wharf_name name;
};

static int memory_compare(const void *a, const void *b)
{
        uintptr_t x = (uintptr_t)((const struct memory *)a)->address,
                  y = (uintptr_t)((const struct memory *)b)->address;
        return x < y ? -1 : x > y;
}

static bool memory_add(wharf_task *t, wharf_name name, void **ret, size_t *ret_bytes)
{
        struct memory *m = wh_os_calloc(1, sizeof *m);
        if (!m)
                return false;
        m->name = name;
        bool ok = wharf_memory_at(t, name, &m->address, &m->bytes) == 0;
        *ret = m->address;
        *ret_bytes = m->bytes;
        wh_lock(&mach.lock);
        ok = ok && tsearch(m, &mach.memories, memory_compare);
        wh_unlock(&mach.lock);
        if (!ok)
                free(m);
        return ok;
}

/* The memory that begins at `address` and has `bytes` bytes, all of it. */
static wharf_name memory_find(void *address, size_t bytes)
{
        struct memory key = {.address = address};
        wh_lock(&mach.lock);
        void *node = tfind(&key, &mach.memories, memory_compare);
        const struct memory *m = node ? *(struct memory **)node : NULL;
        wharf_name name = m && m->bytes == bytes ? m->name : WHARF_NONE;
        wh_unlock(&mach.lock);
        return name;
}

static wharf_name memory_forget(void *address)
{
        struct memory key = {.address = address}, *m = NULL;
        wh_lock(&mach.lock);
        void *node = tfind(&key, &mach.memories, memory_compare);
        if (node) {
                m = *(struct memory **)node;
                tdelete(&key, &mach.memories, memory_compare);
        }
        wh_unlock(&mach.lock);
        wharf_name name = m ? m->name : WHARF_NONE;
        free(m);
        return name;
}

WHARF_API kern_return_t wharf_vm_allocate(task_t task, void **address, size_t size)
{
        if (wh_unlikely(!address))
                return KERN_INVALID_ARGUMENT;
        wharf_task *t = task_of(task);
        wharf_name name;
        if (!t)
                return KERN_INVALID_TASK;
        int r = wharf_memory_new(t, size, &name);
        if (r < 0)
                return r == -EINVAL ? KERN_INVALID_ARGUMENT : r == -ENOMEM ? KERN_NO_SPACE : KERN_RESOURCE_SHORTAGE;
        if (!memory_add(t, name, address, &size)) {
                wharf_drop(t, name);
                return KERN_RESOURCE_SHORTAGE;
        }
        return KERN_SUCCESS;
}

WHARF_API kern_return_t wharf_vm_deallocate(task_t task, void *address, size_t size)
{
        wharf_task *t = task_of(task);
        if (!t)
                return KERN_INVALID_TASK;
        wharf_name name = memory_find(address, size);
        if (!name)
                return KERN_INVALID_ARGUMENT;
        memory_forget(address);
        wharf_drop(t, name);
        return KERN_SUCCESS;
}

/* ---- sending ---- */

/* What has to be done about a right once the message is sent, or once it is not. */
struct after {
        mach_port_t name;
        bool counted;    /* a reference was given up, and comes back on failure (H3) */
        bool moved;      /* the name's last right goes with the message */
        void *memory;    /* of vm_allocate() or received, that goes with the message */
        wharf_name made; /* a copy of other memory, made for this message */
};

struct outgoing {
        wharf_name right;
        bool made; /* for this message only */
        struct after dest;
        struct wharf_item item[WHARF_ITEMS_MAX];
        struct after after[WHARF_ITEMS_MAX];
        unsigned n;
};

/* A send right that leaves `name`: copied while others are left, itself if it is the last. */
static bool give_up(wharf_task *t, mach_port_t name, struct after *after, wharf_name *ret)
{
        uint32_t refs;
        wharf_name gone;
        wh_lock(&mach.lock);
        *ret = send_find(t, name, &refs);
        if (refs > 1 && send_refs(t, name, -1, &gone) == KERN_SUCCESS)
                *after = (struct after){.name = name, .counted = true};
        else if (refs == 1)
                *after = (struct after){.name = name, .moved = true};
        wh_unlock(&mach.lock);
        return *ret != WHARF_NONE;
}

static wharf_name send_of(wharf_task *t, mach_port_t name)
{
        uint32_t refs;
        wh_lock(&mach.lock);
        wharf_name send = send_find(t, name, &refs);
        wh_unlock(&mach.lock);
        return send;
}

/* The destination. */
static mach_msg_return_t find_dest(wharf_task *t, const mach_msg_header_t *h, struct outgoing *o)
{
        switch (MACH_MSGH_BITS_REMOTE(h->msgh_bits)) {
        case MACH_MSG_TYPE_COPY_SEND:
                o->right = send_of(t, h->msgh_remote_port);
                break;
        case MACH_MSG_TYPE_MOVE_SEND:
                give_up(t, h->msgh_remote_port, &o->dest, &o->right);
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
                it->name = send_of(t, name);
                break;
        case MACH_MSG_TYPE_MOVE_SEND: {
                wharf_name right = WHARF_NONE;
                give_up(t, name, after, &right);
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

/* Where the descriptor at `*at` of a message of `len` bytes ends, or 0 where it does not fit. */
static size_t descriptor_end(const uint8_t *msg, size_t len, size_t at)
{
        /* Both kinds have their type in the same place, as Mach sees to. */
        mach_msg_port_descriptor_t d;
        if (at > len || len - at < sizeof d)
                return 0;
        memcpy(&d, msg + at, sizeof d);
        size_t size = d.type == MACH_MSG_PORT_DESCRIPTOR  ? sizeof(mach_msg_port_descriptor_t)
                      : d.type == MACH_MSG_OOL_DESCRIPTOR ? sizeof(mach_msg_ool_descriptor_t)
                                                          : 0;
        return size && size <= len - at ? at + size : 0;
}

/* Memory that goes along. */
static bool add_memory(wharf_task *t, struct outgoing *o, const mach_msg_ool_descriptor_t *ool)
{
        struct wharf_item *it = &o->item[o->n];
        struct after *after = &o->after[o->n];
        wharf_name memory = memory_find(ool->address, ool->size);
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
                size_t end = descriptor_end(msg, len, at);
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

/* All that the failure or success of a send means for the names of this task. */
static void settle_one(wharf_task *t, const struct after *a, bool sent)
{
        if (!sent && a->counted)
                refs_add(t, a->name, 1);
        else if (sent && a->moved)
                refs_add(t, a->name, -1);
        if (sent && a->memory)
                memory_forget(a->memory);
        if (!sent && a->made)
                wharf_drop(t, a->made);
}

static void settle(wharf_task *t, struct outgoing *o, bool sent)
{
        for (unsigned i = 0; i < o->n; i++)
                settle_one(t, &o->after[i], sent);
        settle_one(t, &o->dest, sent);
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

static mach_msg_return_t send_message(wharf_task *t, mach_msg_header_t *h, mach_msg_option_t option, size_t size,
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
                int sent = 0;
                struct wharf_msg m = {
                        .size = sizeof m,
                        .id = WIRE_ID,
                        .data = copy ? (void *)copy : (void *)h,
                        .len_bytes = size,
                        .items = o.item,
                        .n_items = o.n,
                };
                bool later = option & MACH_SEND_NOTIFY;
                bool asked = false; /* once a message is left it is too late to ask: it may have been sent already */
                if (later && (sent = wharf_notify(t, WHARF_NOTICE_SENT_LATER, o.right, notify, 0)) == 0)
                        asked = true;
                if (sent == 0 || sent == -EBUSY) {
                        m.flags = later ? WHARF_SEND_LATER : 0;
                        sent = wharf_sendmsg(t, o.right, &m, deadline_ns);
                        r = sent == 1                 ? MACH_SEND_WILL_NOTIFY
                            : later && sent == -EBUSY ? MACH_SEND_NOTIFY_IN_PROGRESS
                                                      : send_error(sent);
                } else {
                        r = sent == -EBADF || sent == -EPERM ? MACH_SEND_INVALID_NOTIFY : send_error(sent);
                }
                if (asked && sent != 1)
                        wharf_notify_cancel(t, WHARF_NOTICE_SENT_LATER, o.right);
        }
        settle(t, &o, r == MACH_MSG_SUCCESS || r == MACH_SEND_WILL_NOTIFY);
        free(copy);
        return r;
}

/* ---- receiving ---- */

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

static void drop_item(wharf_task *t, const struct wharf_item *it)
{
        void *address;
        if (it->kind == WHARF_GOT_MEMORY && wharf_memory_at(t, it->name, &address, NULL) == 0)
                memory_forget(address);
        wh_items_drop(t, it, 1);
}

static bool take_memory(wharf_task *t, const struct wharf_item *it, uint8_t *at)
{
        mach_msg_ool_descriptor_t d = {.type = MACH_MSG_OOL_DESCRIPTOR, .copy = MACH_MSG_VIRTUAL_COPY};
        size_t bytes;
        void *address;
        if (it->kind != WHARF_GOT_MEMORY || !memory_add(t, it->name, &address, &bytes))
                return false;
        d.address = address;
        d.size = (mach_msg_size_t)bytes;
        d.deallocate = bytes > UINT32_MAX ? 0 : 1;
        memcpy(at, &d, sizeof d);
        return true;
}

/*
 * Gives a message of Mach's its header and descriptors in this task's terms. False when what it says of itself does not
 * agree with what came: no honest sender does that, and everything is the caller's to drop.
 */
static bool take_message(wharf_task *t, struct wharf_msg *m, mach_msg_header_t *h)
{
        uint8_t *msg = (uint8_t *)h;
        size_t len = m->len_bytes, at = sizeof *h;
        unsigned used = 0, reply = 0;
        if (len < sizeof *h)
                return false;
        bool complex_ = h->msgh_bits & MACH_MSGH_BITS_COMPLEX;
        mach_port_t remote = MACH_PORT_NULL;
        if (MACH_MSGH_BITS_LOCAL(h->msgh_bits)) {
                reply = m->n_items ? disposition_of(m->items[0].kind) : 0;
                if (!reply)
                        return false;
                remote = m->items[used++].name;
        }
        if (complex_) {
                mach_msg_body_t body;
                if (len < at + sizeof body)
                        return false;
                memcpy(&body, msg + at, sizeof body);
                at += sizeof body;
                if (body.msgh_descriptor_count != m->n_items - used)
                        return false;
                for (; used < m->n_items; used++) {
                        size_t end = descriptor_end(msg, len, at);
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
        unsigned reply = m->reply ? MACH_MSG_TYPE_PORT_SEND_ONCE : m->n_items ? disposition_of(m->items[0].kind) : 0;
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

/* The Mach name of a wharf right: another one where it shares a port's (H1). */
struct search {
        wharf_name send;
        mach_port_t found;
};

static void entry_has(const void *node, VISIT visit, void *arg)
{
        const struct named *e = *(struct named *const *)node;
        struct search *s = arg;
        if ((visit == postorder || visit == leaf) && e->send == s->send)
                s->found = e->name;
}

static mach_port_t name_of(wharf_name right)
{
        struct search s = {right, right};
        wh_lock(&mach.lock);
        twalk_r(mach.names, entry_has, &s);
        wh_unlock(&mach.lock);
        return s.found;
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
                .not_port = name_of(m->about),
                .not_count = (mach_port_mscount_t)m->count,
        };
        if (room < sizeof n)
                return false;
        memcpy(h, &n, sizeof n);
        return true;
}

/*
 * Who sent it, for those who decide by that: nobody that is known, where others may have made the sender speak, since
 * the trailer has no room for who gave it its right.
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

static mach_msg_return_t receive_message(wharf_task *t, mach_msg_header_t *h, mach_msg_option_t option, size_t room,
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
                /*
                 * It was no message of Mach's after all, whatever its id says: on to the next, as long as there is
                 * time.
                 */
                if (deadline_ns ? wh_os_now_ns() >= deadline_ns : ++skips == SKIPS_MAX)
                        return MACH_RCV_TIMED_OUT;
        }
}

WHARF_API mach_msg_return_t wharf_mach_msg(mach_msg_header_t *msg, mach_msg_option_t option, mach_msg_size_t send_size,
                                           mach_msg_size_t rcv_size, mach_port_t rcv_name, mach_msg_timeout_t timeout,
                                           mach_port_t notify)
{
        wharf_task *t = wharf_mach_task();
        mach_msg_return_t r = MACH_MSG_SUCCESS;
        int64_t deadline = timeout ? wharf_in_ms(timeout) : 0;
        if (!t)
                return option & MACH_SEND_MSG ? MACH_SEND_NO_BUFFER : MACH_RCV_BODY_ERROR;
        if (!msg && option & MACH_RCV_MSG)
                return option & MACH_SEND_MSG ? MACH_SEND_MSG_TOO_SMALL : MACH_RCV_INVALID_DATA;
        if (option & MACH_SEND_MSG)
                r = send_message(t, msg, option, send_size, option & MACH_SEND_TIMEOUT ? deadline : WHARF_FOREVER,
                                 notify);
        if (r == MACH_MSG_SUCCESS && option & MACH_RCV_MSG)
                r = receive_message(t, msg, option, rcv_size, rcv_name,
                                    option & MACH_RCV_TIMEOUT ? deadline : WHARF_FOREVER);
        return r;
}

/* ---- names ---- */

static kern_return_t kern_error(int err)
{
        switch (err) {
        case 0:
                return KERN_SUCCESS;
        case -EBADF:
                return KERN_INVALID_NAME;
        case -EPERM:
                return KERN_INVALID_RIGHT;
        case -EINVAL:
                return KERN_INVALID_VALUE;
        case -EBUSY:
                return KERN_NAME_EXISTS;
        case -ENOMEM:
        case -EMFILE:
        case -ENFILE:
        case -EMLINK:
                return KERN_RESOURCE_SHORTAGE;
        default:
                return KERN_FAILURE;
        }
}

WHARF_API kern_return_t wharf_mach_port_construct(task_t task, const mach_port_options_t *options, mach_port_t *name)
{
        if (wh_unlikely(!name))
                return KERN_INVALID_ARGUMENT;
        wharf_task *t = task_of(task);
        wharf_name port;
        /* In Mach a receive waits whoever is there. */
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        if (!t)
                return KERN_INVALID_TASK;
        if (options && options->flags & MPO_QLIMIT)
                o.capacity_records = options->mpl.mpl_qlimit;
        if (options && options->flags & MPO_RENDEZVOUS)
                o.capacity_records = WHARF_RENDEZVOUS;
        kern_return_t r = kern_error(wharf_port_new(t, &o, &port));
        if (r == KERN_SUCCESS && options && options->flags & MPO_INSERT_SEND_RIGHT &&
            (r = wharf_mach_port_insert_right(task, port, port, MACH_MSG_TYPE_MAKE_SEND)) != KERN_SUCCESS)
                wharf_drop(t, port);
        if (r == KERN_SUCCESS)
                *name = port;
        return r;
}

WHARF_API mach_port_t wharf_mach_reply_port(void)
{
        mach_port_t name;
        return wharf_mach_port_construct(wharf_mach_task_self(), NULL, &name) == KERN_SUCCESS ? name : MACH_PORT_NULL;
}

WHARF_API kern_return_t wharf_mach_port_allocate(task_t task, mach_port_right_t right, mach_port_t *name)
{
        if (wh_unlikely(!name))
                return KERN_INVALID_ARGUMENT;
        if (right == MACH_PORT_RIGHT_RECEIVE)
                return wharf_mach_port_construct(task, NULL, name);
        wharf_task *t = task_of(task);
        if (!t)
                return KERN_INVALID_TASK;
        return right == MACH_PORT_RIGHT_PORT_SET ? kern_error(wharf_set_new(t, name)) : KERN_INVALID_VALUE;
}

WHARF_API kern_return_t wharf_mach_port_insert_right(task_t task, mach_port_t name, mach_port_t poly,
                                                     mach_msg_type_name_t poly_poly)
{
        wharf_task *t = task_of(task);
        wharf_name right = WHARF_NONE, gone = WHARF_NONE;
        if (!t)
                return KERN_INVALID_TASK;
        if (poly_poly != MACH_MSG_TYPE_MAKE_SEND || poly != name)
                return KERN_INVALID_VALUE;
        wh_lock(&mach.lock);
        uint32_t refs;
        bool has = send_find(t, name, &refs) != WHARF_NONE && wharf_name_kind(t, name) == WHARF_KIND_PORT;
        kern_return_t r = has ? send_refs(t, name, 1, &gone) : kern_error(wharf_right_new(t, name, &right));
        if (r == KERN_SUCCESS && !has) {
                struct named *e = entry_get(name);
                r = e ? KERN_SUCCESS : KERN_RESOURCE_SHORTAGE;
                if (e) {
                        e->send = right;
                        e->refs = 1;
                } else {
                        wharf_drop(t, right);
                }
        }
        wh_unlock(&mach.lock);
        return r;
}

WHARF_API kern_return_t wharf_mach_port_extract_right(task_t task, mach_port_t name, mach_msg_type_name_t disposition,
                                                      mach_port_t *poly, mach_msg_type_name_t *poly_poly)
{
        if (wh_unlikely(!poly || !poly_poly))
                return KERN_INVALID_ARGUMENT;
        wharf_task *t = task_of(task);
        wharf_name got = WHARF_NONE, send;
        unsigned kind = MACH_MSG_TYPE_PORT_SEND;
        int r = -EPERM;
        if (!t)
                return KERN_INVALID_TASK;
        switch (disposition) {
        case MACH_MSG_TYPE_MAKE_SEND:
                r = wharf_right_new(t, name, &got);
                break;
        case MACH_MSG_TYPE_MAKE_SEND_ONCE:
                kind = MACH_MSG_TYPE_PORT_SEND_ONCE;
                r = wharf_once_new(t, name, &got);
                break;
        case MACH_MSG_TYPE_COPY_SEND:
                send = send_of(t, name);
                r = send ? wharf_right_copy(t, send, WHARF_FOREVER, &got) : -EPERM;
                break;
        case MACH_MSG_TYPE_MOVE_SEND: {
                struct after after = {0};
                if (give_up(t, name, &after, &got)) {
                        /* The last reference: the right behind the name has its own name from now on. */
                        r = after.moved ? 0 : wharf_right_copy(t, got, WHARF_FOREVER, &got);
                        if (after.moved && got != name) {
                                wh_lock(&mach.lock);
                                struct named *e = entry_find(name);
                                e->send = WHARF_NONE;
                                entry_tidy(e);
                                wh_unlock(&mach.lock);
                        }
                        settle_one(t, &(struct after){.name = name, .counted = after.counted}, r == 0);
                }
                break;
        }
        case MACH_MSG_TYPE_MOVE_SEND_ONCE:
                kind = MACH_MSG_TYPE_PORT_SEND_ONCE;
                r = wharf_name_kind(t, name) == WHARF_KIND_REPLY ? 0 : -EPERM;
                got = name;
                break;
        case MACH_MSG_TYPE_MOVE_RECEIVE:
                kind = MACH_MSG_TYPE_PORT_RECEIVE;
                r = wharf_name_kind(t, name) == WHARF_KIND_PORT ? 0 : -EPERM;
                got = name;
                break;
        default:
                return KERN_INVALID_VALUE;
        }
        if (r < 0)
                return kern_error(r);
        *poly = got;
        *poly_poly = kind;
        return KERN_SUCCESS;
}

WHARF_API kern_return_t wharf_mach_port_get_refs(task_t task, mach_port_t name, mach_port_right_t right, uint32_t *refs)
{
        if (wh_unlikely(!refs))
                return KERN_INVALID_ARGUMENT;
        wharf_task *t = task_of(task);
        if (!t)
                return KERN_INVALID_TASK;
        uint32_t send;
        wh_lock(&mach.lock);
        send_find(t, name, &send);
        wh_unlock(&mach.lock);
        int kind = wharf_name_kind(t, name);
        if (kind < 0 && !send)
                return KERN_INVALID_NAME;
        *refs = right == MACH_PORT_RIGHT_SEND        ? send
                : right == MACH_PORT_RIGHT_RECEIVE   ? kind == WHARF_KIND_PORT
                : right == MACH_PORT_RIGHT_SEND_ONCE ? kind == WHARF_KIND_REPLY
                : right == MACH_PORT_RIGHT_PORT_SET  ? kind == WHARF_KIND_SET
                                                     : 0;
        return right <= MACH_PORT_RIGHT_DEAD_NAME ? KERN_SUCCESS : KERN_INVALID_VALUE;
}

WHARF_API kern_return_t wharf_mach_port_mod_refs(task_t task, mach_port_t name, mach_port_right_t right,
                                                 mach_port_delta_t delta)
{
        wharf_task *t = task_of(task);
        uint32_t refs;
        kern_return_t r = wharf_mach_port_get_refs(task, name, right, &refs);
        if (r != KERN_SUCCESS)
                return r;
        if (refs == 0)
                return KERN_INVALID_RIGHT;
        if (right == MACH_PORT_RIGHT_SEND) {
                wharf_name gone;
                wh_lock(&mach.lock);
                r = send_refs(t, name, delta, &gone);
                wh_unlock(&mach.lock);
                if (gone)
                        wharf_drop(t, gone);
                return r;
        }
        if (delta != 0 && delta != -1) /* of these there is one */
                return delta > 0 ? KERN_UREFS_OVERFLOW : KERN_INVALID_VALUE;
        return delta ? kern_error(wharf_drop(t, name)) : KERN_SUCCESS;
}

WHARF_API kern_return_t wharf_mach_port_deallocate(task_t task, mach_port_t name)
{
        uint32_t once;
        kern_return_t r = wharf_mach_port_get_refs(task, name, MACH_PORT_RIGHT_SEND_ONCE, &once);
        if (r != KERN_SUCCESS)
                return r;
        return wharf_mach_port_mod_refs(task, name, once ? MACH_PORT_RIGHT_SEND_ONCE : MACH_PORT_RIGHT_SEND, -1);
}

WHARF_API kern_return_t wharf_mach_port_destroy(task_t task, mach_port_t name)
{
        wharf_task *t = task_of(task);
        uint32_t refs;
        wharf_name gone = WHARF_NONE;
        if (!t)
                return KERN_INVALID_TASK;
        wh_lock(&mach.lock);
        if (send_find(t, name, &refs))
                send_refs(t, name, -(int64_t)refs, &gone);
        struct named *e = entry_find(name);
        if (e) {
                e->set = WHARF_NONE;
                entry_tidy(e);
        }
        wh_unlock(&mach.lock);
        int r = gone ? wharf_drop(t, gone) : -EBADF;
        if (gone != name)
                r = wharf_drop(t, name);
        return kern_error(gone ? 0 : r);
}

WHARF_API kern_return_t wharf_mach_port_type(task_t task, mach_port_t name, mach_port_type_t *type)
{
        if (wh_unlikely(!type))
                return KERN_INVALID_ARGUMENT;
        static const mach_port_type_t of_kind[] = {
                [WHARF_KIND_PORT] = MACH_PORT_TYPE_RECEIVE,
                [WHARF_KIND_SET] = MACH_PORT_TYPE_PORT_SET,
                [WHARF_KIND_REPLY] = MACH_PORT_TYPE_SEND_ONCE,
                [WHARF_KIND_SEND] = MACH_PORT_TYPE_SEND,
        };
        wharf_task *t = task_of(task);
        if (!t)
                return KERN_INVALID_TASK;
        wharf_name send = send_of(t, name);
        int kind = wharf_name_kind(t, name);
        if (!send && kind < 0)
                return KERN_INVALID_NAME;
        mach_port_type_t is = kind > 0 ? of_kind[kind] : 0;
        if (send) {
                struct wharf_right_stat st = {.size = sizeof st};
                bool dead = wharf_right_stat(t, send, &st) == 0 && st.dead;
                is = (is & ~(mach_port_type_t)MACH_PORT_TYPE_SEND) |
                     (dead ? MACH_PORT_TYPE_DEAD_NAME : MACH_PORT_TYPE_SEND);
        }
        *type = is;
        return KERN_SUCCESS;
}

WHARF_API kern_return_t wharf_mach_port_move_member(task_t task, mach_port_t member, mach_port_t after)
{
        wharf_task *t = task_of(task);
        if (!t)
                return KERN_INVALID_TASK;
        wh_lock(&mach.lock);
        struct named *e = entry_get(member);
        int r = e ? 0 : -ENOMEM;
        if (r == 0 && e->set)
                r = wharf_set_remove(t, e->set, member);
        else if (r == 0 && !after)
                r = -ENOENT;
        if (r == 0) {
                e->set = WHARF_NONE;
                if (after && (r = wharf_set_add(t, after, member)) == 0)
                        e->set = after;
        }
        if (e)
                entry_tidy(e);
        wh_unlock(&mach.lock);
        return r == -ENOENT ? KERN_NOT_IN_SET : r == -EBUSY ? KERN_ALREADY_IN_SET : kern_error(r);
}

WHARF_API kern_return_t wharf_mach_port_request_notification(task_t task, mach_port_t name, mach_msg_id_t variant,
                                                             mach_port_mscount_t sync, mach_port_t notify,
                                                             mach_msg_type_name_t notify_poly, mach_port_t *previous)
{
        wharf_task *t = task_of(task);
        if (!t)
                return KERN_INVALID_TASK;
        if (notify != MACH_PORT_NULL && notify_poly != MACH_MSG_TYPE_MAKE_SEND_ONCE)
                return KERN_INVALID_RIGHT;
        if (variant == MACH_NOTIFY_PORT_DESTROYED) {
                wharf_name heir = notify ? send_of(t, notify) : WHARF_NONE;
                if (notify && !heir)
                        return KERN_INVALID_RIGHT;
                int e = wharf_port_heir(t, name, heir);
                if (e == 0 && previous)
                        *previous = MACH_PORT_NULL;
                return kern_error(e);
        }
        uint32_t what = variant == MACH_NOTIFY_DEAD_NAME    ? WHARF_NOTICE_DEAD_NAME
                        : variant == MACH_NOTIFY_NO_SENDERS ? WHARF_NOTICE_NO_SENDERS
                                                            : 0;
        wharf_name about = variant == MACH_NOTIFY_DEAD_NAME ? send_of(t, name) : name;
        if (!what)
                return KERN_INVALID_VALUE;
        if (!about)
                return KERN_INVALID_RIGHT;
        int r = notify ? wharf_notify(t, what, about, notify, what == WHARF_NOTICE_NO_SENDERS ? sync : 0)
                       : wharf_notify_cancel(t, what, about);
        if (r < 0 && !(notify == MACH_PORT_NULL && r == -ENOENT))
                return kern_error(r);
        if (previous)
                *previous = MACH_PORT_NULL;
        return KERN_SUCCESS;
}

/* ---- in words ---- */

WHARF_API const char *wharf_mach_error_string(mach_msg_return_t code)
{
        static const struct {
                mach_msg_return_t code;
                const char *words;
        } all[] = {
                {MACH_MSG_SUCCESS, "success"},
                {MACH_SEND_INVALID_DATA, "(ipc/send) the message makes no sense"},
                {MACH_SEND_INVALID_DEST, "(ipc/send) invalid destination port"},
                {MACH_SEND_TIMED_OUT, "(ipc/send) timed out"},
                {MACH_SEND_WILL_NOTIFY, "(ipc/send) will notify when it is sent"},
                {MACH_SEND_NOTIFY_IN_PROGRESS, "(ipc/send) one message waits to be sent already"},
                {MACH_SEND_MSG_TOO_SMALL, "(ipc/send) message too small"},
                {MACH_SEND_INVALID_REPLY, "(ipc/send) invalid reply port"},
                {MACH_SEND_INVALID_RIGHT, "(ipc/send) invalid port right"},
                {MACH_SEND_INVALID_NOTIFY, "(ipc/send) invalid notify port"},
                {MACH_SEND_INVALID_MEMORY, "(ipc/send) invalid out-of-line memory"},
                {MACH_SEND_NO_BUFFER, "(ipc/send) no message buffer: memory, descriptors or a quota are used up"},
                {MACH_SEND_TOO_LARGE, "(ipc/send) message too large"},
                {MACH_SEND_INVALID_TYPE, "(ipc/send) invalid type of a descriptor"},
                {MACH_SEND_INVALID_HEADER, "(ipc/send) invalid message header"},
                {MACH_RCV_INVALID_NAME, "(ipc/rcv) invalid name"},
                {MACH_RCV_TIMED_OUT, "(ipc/rcv) timed out"},
                {MACH_RCV_TOO_LARGE, "(ipc/rcv) message too large"},
                {MACH_RCV_PORT_CHANGED, "(ipc/rcv) port moved while waiting"},
                {MACH_RCV_INVALID_DATA, "(ipc/rcv) no room for a message"},
                {MACH_RCV_PORT_DIED, "(ipc/rcv) port died while waiting"},
                {MACH_RCV_IN_SET, "(ipc/rcv) port is in a set"},
                {MACH_RCV_BODY_ERROR, "(ipc/rcv) no memory or names for what the message carries"},
                {MACH_RCV_NO_SENDERS, "(ipc/rcv) no sender is left, and none can come"},
                {KERN_NO_SPACE, "(os/kern) no space available"},
                {KERN_INVALID_ARGUMENT, "(os/kern) invalid argument"},
                {KERN_FAILURE, "(os/kern) failure"},
                {KERN_RESOURCE_SHORTAGE, "(os/kern) resource shortage"},
                {KERN_ALREADY_IN_SET, "(os/kern) already in a set"},
                {KERN_NOT_IN_SET, "(os/kern) in no set"},
                {KERN_NAME_EXISTS, "(os/kern) asked for already"},
                {KERN_INVALID_NAME, "(os/kern) invalid name"},
                {KERN_INVALID_TASK, "(os/kern) invalid task"},
                {KERN_INVALID_RIGHT, "(os/kern) invalid right"},
                {KERN_INVALID_VALUE, "(os/kern) invalid value"},
                {KERN_UREFS_OVERFLOW, "(os/kern) too many references"},
                {BOOTSTRAP_NAME_IN_USE, "(bootstrap) name in use"},
                {BOOTSTRAP_UNKNOWN_SERVICE, "(bootstrap) unknown service"},
        };
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
                if (all[i].code == code)
                        return all[i].words;
        return "unknown code";
}
