/*
 * port - the calls about names: making ports, rights and sets, references, and notices.
 */
#include "pattern/mach/mach.h"

#include "os/lock.h"

#include <errno.h>

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
        wharf_task *t = wh_mach_task_of(task);
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
        wharf_task *t = wh_mach_task_of(task);
        if (!t)
                return KERN_INVALID_TASK;
        return right == MACH_PORT_RIGHT_PORT_SET ? kern_error(wharf_set_new(t, name)) : KERN_INVALID_VALUE;
}

WHARF_API kern_return_t wharf_mach_port_insert_right(task_t task, mach_port_t name, mach_port_t poly,
                                                     mach_msg_type_name_t poly_poly)
{
        wharf_task *t = wh_mach_task_of(task);
        wharf_name right = WHARF_NONE, gone = WHARF_NONE;
        if (!t)
                return KERN_INVALID_TASK;
        if (poly_poly != MACH_MSG_TYPE_MAKE_SEND || poly != name)
                return KERN_INVALID_VALUE;
        wh_lock(&wh_mach.lock);
        uint32_t refs;
        bool has = wh_mach_send_find(t, name, &refs) != WHARF_NONE && wharf_name_kind(t, name) == WHARF_KIND_PORT;
        kern_return_t r = has ? wh_mach_send_refs(t, name, 1, &gone) : kern_error(wharf_right_new(t, name, &right));
        if (r == KERN_SUCCESS && !has) {
                struct named *e = wh_mach_named_get(name);
                r = e ? KERN_SUCCESS : KERN_RESOURCE_SHORTAGE;
                if (e) {
                        e->send = right;
                        e->refs = 1;
                } else {
                        wharf_drop(t, right);
                }
        }
        wh_unlock(&wh_mach.lock);
        return r;
}

WHARF_API kern_return_t wharf_mach_port_extract_right(task_t task, mach_port_t name, mach_msg_type_name_t disposition,
                                                      mach_port_t *poly, mach_msg_type_name_t *poly_poly)
{
        if (wh_unlikely(!poly || !poly_poly))
                return KERN_INVALID_ARGUMENT;
        wharf_task *t = wh_mach_task_of(task);
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
                send = wh_mach_send_of(t, name);
                r = send ? wharf_right_copy(t, send, WHARF_FOREVER, &got) : -EPERM;
                break;
        case MACH_MSG_TYPE_MOVE_SEND: {
                struct after after = {0};
                if (wh_mach_give_up(t, name, &after, &got)) {
                        /* The last reference: the right behind the name has its own name from now on. */
                        r = after.moved ? 0 : wharf_right_copy(t, got, WHARF_FOREVER, &got);
                        if (after.moved && got != name) {
                                wh_lock(&wh_mach.lock);
                                struct named *e = wh_mach_named_find(name);
                                e->send = WHARF_NONE;
                                wh_mach_named_tidy(e);
                                wh_unlock(&wh_mach.lock);
                        }
                        wh_mach_settle(t, &(struct after){.name = name, .counted = after.counted}, r == 0);
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
        wharf_task *t = wh_mach_task_of(task);
        if (!t)
                return KERN_INVALID_TASK;
        uint32_t send;
        wh_lock(&wh_mach.lock);
        wh_mach_send_find(t, name, &send);
        wh_unlock(&wh_mach.lock);
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
        wharf_task *t = wh_mach_task_of(task);
        uint32_t refs;
        kern_return_t r = wharf_mach_port_get_refs(task, name, right, &refs);
        if (r != KERN_SUCCESS)
                return r;
        if (refs == 0)
                return KERN_INVALID_RIGHT;
        if (right == MACH_PORT_RIGHT_SEND) {
                wharf_name gone;
                wh_lock(&wh_mach.lock);
                r = wh_mach_send_refs(t, name, delta, &gone);
                wh_unlock(&wh_mach.lock);
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
        wharf_task *t = wh_mach_task_of(task);
        uint32_t refs;
        wharf_name gone = WHARF_NONE;
        if (!t)
                return KERN_INVALID_TASK;
        wh_lock(&wh_mach.lock);
        if (wh_mach_send_find(t, name, &refs))
                wh_mach_send_refs(t, name, -(int64_t)refs, &gone);
        struct named *e = wh_mach_named_find(name);
        if (e) {
                e->set = WHARF_NONE;
                wh_mach_named_tidy(e);
        }
        wh_unlock(&wh_mach.lock);
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
        wharf_task *t = wh_mach_task_of(task);
        if (!t)
                return KERN_INVALID_TASK;
        wharf_name send = wh_mach_send_of(t, name);
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
        wharf_task *t = wh_mach_task_of(task);
        if (!t)
                return KERN_INVALID_TASK;
        wh_lock(&wh_mach.lock);
        struct named *e = wh_mach_named_get(member);
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
                wh_mach_named_tidy(e);
        wh_unlock(&wh_mach.lock);
        return r == -ENOENT ? KERN_NOT_IN_SET : r == -EBUSY ? KERN_ALREADY_IN_SET : kern_error(r);
}

WHARF_API kern_return_t wharf_mach_port_request_notification(task_t task, mach_port_t name, mach_msg_id_t variant,
                                                             mach_port_mscount_t sync, mach_port_t notify,
                                                             mach_msg_type_name_t notify_poly, mach_port_t *previous)
{
        wharf_task *t = wh_mach_task_of(task);
        if (!t)
                return KERN_INVALID_TASK;
        if (notify != MACH_PORT_NULL && notify_poly != MACH_MSG_TYPE_MAKE_SEND_ONCE)
                return KERN_INVALID_RIGHT;
        if (variant == MACH_NOTIFY_PORT_DESTROYED) {
                wharf_name heir = notify ? wh_mach_send_of(t, notify) : WHARF_NONE;
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
        wharf_name about = variant == MACH_NOTIFY_DEAD_NAME ? wh_mach_send_of(t, name) : name;
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
