/*
 * wharf/mach.h - Mach's words for those who know them: a thin layer over wharf's own calls.
 *
 * Names, types, numbers and meanings follow the Mach 3 Kernel Interfaces (Loepere, 1992) and its descendants, so that a
 * textbook's client and server compile and run. Everything below is wharf underneath: a message sent here can be
 * received with wharf_recvmsg() and the other way round, and wharf_mach_task() is the task that both speak of.
 *
 * What differs, since the ports are of a library and not of a kernel:
 *      - the only task one can speak of is mach_task_self(); rights reach others inside messages
 *      - a send right that arrives gets a name of its own even where the task has one for that port already; compare
 *        with wharf_right_same(). A port and the send rights its owner inserted share one name, as in Mach
 *      - queue limits are per sender, and are set when the port is made (mach_port_construct())
 *      - MACH_SEND_INTERRUPT and MACH_RCV_INTERRUPT are accepted and never happen: signals do not end a wait
 *
 * Not included by wharf/wharf.h, for its names begin with mach_ and MACH_. All may be called by any thread. In a forked
 * child mach_task_self() begins anew: no right is inherited.
 */
#ifndef WHARF_MACH_H
#define WHARF_MACH_H

#include <errno.h>

#include "message.h"
#include "names.h"

WHARF_BEGIN

/* ---- types ---- */

typedef wharf_name mach_port_t;
typedef mach_port_t mach_port_name_t;
typedef mach_port_t task_t;
typedef mach_port_t ipc_space_t;
typedef int kern_return_t;
typedef kern_return_t mach_msg_return_t;
typedef uint32_t mach_msg_bits_t;
typedef uint32_t mach_msg_size_t; /* bytes */
typedef int32_t mach_msg_id_t;
typedef uint32_t mach_msg_timeout_t; /* milliseconds */
typedef uint32_t mach_msg_option_t;
typedef uint32_t mach_msg_type_name_t; /* a disposition: MACH_MSG_TYPE_* */
typedef uint32_t mach_port_right_t;
typedef uint32_t mach_port_type_t;
typedef uint32_t mach_port_mscount_t;
typedef int32_t mach_port_delta_t;

#define MACH_PORT_NULL ((mach_port_t)0)
#define MACH_PORT_DEAD ((mach_port_t)~0u)

/* ---- messages: a header of fixed size, then a body ---- */

typedef struct {
        mach_msg_bits_t msgh_bits;
        mach_msg_size_t msgh_size;    /* of the whole message; set by receiving */
        mach_port_t msgh_remote_port; /* sending: the destination. Received: where to reply, if anywhere */
        mach_port_t msgh_local_port;  /* sending: where a reply is awaited. Received: the port it came to */
        mach_port_t msgh_voucher_port;
        mach_msg_id_t msgh_id;
} mach_msg_header_t;

/* A complex message: behind the header the number of descriptors, then the descriptors, then data. */
typedef struct {
        mach_msg_size_t msgh_descriptor_count;
} mach_msg_body_t;

typedef struct {
        mach_port_t name;
        uint32_t pad1;
        uint16_t pad2;
        uint8_t disposition; /* MACH_MSG_TYPE_* */
        uint8_t type;        /* MACH_MSG_PORT_DESCRIPTOR */
} mach_msg_port_descriptor_t;

/* Memory that is not in the message but goes with it: moved, or shared until somebody writes. */
typedef struct __attribute__((packed, aligned(4))) {
        void *address;
        uint8_t deallocate; /* the memory leaves the sender */
        uint8_t copy;       /* MACH_MSG_VIRTUAL_COPY or MACH_MSG_PHYSICAL_COPY */
        uint8_t pad1;
        uint8_t type;         /* MACH_MSG_OOL_DESCRIPTOR */
        mach_msg_size_t size; /* bytes */
} mach_msg_ool_descriptor_t;

typedef union {
        mach_msg_port_descriptor_t port;
        mach_msg_ool_descriptor_t out_of_line;
} mach_msg_descriptor_t;

/*
 * Behind a received message when MACH_RCV_TRAILER_SENDER was asked for; `rcv_size` must leave room for it. It names
 * nobody (pid 0, uid and gid (uint32_t)-1) unless the kernel says who sent the message and who gave the sender its
 * right, and all of these are of one user (struct wharf_introducer): anybody else could have made the sender speak. So
 * it names nobody for a message over a send-once right, nor for one of a sender that was introduced and is gone by now;
 * wharf_recvmsg() tells more.
 */
typedef struct {
        uint32_t msgh_trailer_type; /* 0 */
        uint32_t msgh_trailer_size; /* bytes of this struct */
        uint32_t msgh_seqno;
        uint32_t uid, gid; /* of the sender, in the kernel's words, or nobody's */
        int32_t pid;
} mach_msg_security_trailer_t;

enum {
        MACH_MSG_PORT_DESCRIPTOR = 0,
        MACH_MSG_OOL_DESCRIPTOR = 1,

        MACH_MSG_PHYSICAL_COPY = 0,
        MACH_MSG_VIRTUAL_COPY = 1,

        /* What becomes of a right in a message. */
        MACH_MSG_TYPE_MOVE_RECEIVE = 16,
        MACH_MSG_TYPE_MOVE_SEND = 17,
        MACH_MSG_TYPE_MOVE_SEND_ONCE = 18,
        MACH_MSG_TYPE_COPY_SEND = 19,
        MACH_MSG_TYPE_MAKE_SEND = 20,
        MACH_MSG_TYPE_MAKE_SEND_ONCE = 21,
        /* ... and what arrived. */
        MACH_MSG_TYPE_PORT_RECEIVE = 16,
        MACH_MSG_TYPE_PORT_SEND = 17,
        MACH_MSG_TYPE_PORT_SEND_ONCE = 18,
};

#define MACH_MSGH_BITS(remote, local) ((mach_msg_bits_t)(remote) | (mach_msg_bits_t)(local) << 8)
#define MACH_MSGH_BITS_COMPLEX 0x80000000u
#define MACH_MSGH_BITS_REMOTE(bits) ((bits)&0xffu)
#define MACH_MSGH_BITS_LOCAL(bits) (((bits) >> 8) & 0xffu)

enum {
        MACH_MSG_OPTION_NONE = 0,
        MACH_SEND_MSG = 1,
        MACH_RCV_MSG = 2,
        MACH_RCV_LARGE = 4,       /* too large for the buffer: leave it queued and say how large it is */
        MACH_SEND_TIMEOUT = 0x10, /* wait for room at most `timeout` ms; 0 returns at once */
        MACH_SEND_INTERRUPT = 0x40,
        MACH_SEND_NOTIFY =
                0x80, /* still full then: leave the message to be sent later, and tell `notify` when it was */
        MACH_RCV_TIMEOUT = 0x100, /* wait for a message at most `timeout` ms */
        MACH_RCV_INTERRUPT = 0x400,
        MACH_RCV_TRAILER_SENDER = 0x01000000,
};
#define MACH_MSG_TIMEOUT_NONE ((mach_msg_timeout_t)0)

enum {
        MACH_MSG_SUCCESS = 0,
        MACH_SEND_INVALID_DATA = 0x10000002,
        MACH_SEND_INVALID_DEST = 0x10000003, /* no such right, or its port is gone: nothing was sent */
        MACH_SEND_TIMED_OUT = 0x10000004,
        MACH_SEND_WILL_NOTIFY = 0x10000005, /* full: left to be sent later */
        MACH_SEND_NOTIFY_IN_PROGRESS = 0x10000006,
        MACH_SEND_MSG_TOO_SMALL = 0x10000008,
        MACH_SEND_INVALID_REPLY = 0x10000009,
        MACH_SEND_INVALID_RIGHT = 0x1000000a,
        MACH_SEND_INVALID_NOTIFY = 0x1000000b,
        MACH_SEND_INVALID_MEMORY = 0x1000000c,
        MACH_SEND_NO_BUFFER = 0x1000000d, /* no memory, no descriptors, or a quota is used up */
        MACH_SEND_TOO_LARGE = 0x1000000e,
        MACH_SEND_INVALID_TYPE = 0x1000000f,
        MACH_SEND_INVALID_HEADER = 0x10000010,
        MACH_RCV_INVALID_NAME = 0x10004002,
        MACH_RCV_TIMED_OUT = 0x10004003,
        MACH_RCV_TOO_LARGE = 0x10004004, /* without MACH_RCV_LARGE the message is lost, as in Mach */
        MACH_RCV_PORT_CHANGED = 0x10004006,
        MACH_RCV_INVALID_DATA = 0x10004008, /* no room for a message was given */
        MACH_RCV_PORT_DIED = 0x10004009,    /* closed while this thread received */
        MACH_RCV_IN_SET = 0x1000400a,
        MACH_RCV_BODY_ERROR = 0x1000400c, /* no memory or names for what the message carries; it stays queued */
        MACH_RCV_NO_SENDERS = 0x10004100, /* wharf's own: nobody can ever send, and waiting would never end */

        KERN_SUCCESS = 0,
        KERN_NO_SPACE = 3,
        KERN_INVALID_ARGUMENT = 4,
        KERN_FAILURE = 5,
        KERN_RESOURCE_SHORTAGE = 6,
        KERN_NAME_EXISTS = 13,
        KERN_ALREADY_IN_SET = 11,
        KERN_NOT_IN_SET = 12,
        KERN_INVALID_NAME = 15,
        KERN_INVALID_TASK = 16,
        KERN_INVALID_RIGHT = 17,
        KERN_INVALID_VALUE = 18,
        KERN_UREFS_OVERFLOW = 19,
        BOOTSTRAP_NAME_IN_USE = 1101,
        BOOTSTRAP_UNKNOWN_SERVICE = 1102,
};

enum {
        MACH_PORT_RIGHT_SEND = 0,
        MACH_PORT_RIGHT_RECEIVE = 1,
        MACH_PORT_RIGHT_SEND_ONCE = 2,
        MACH_PORT_RIGHT_PORT_SET = 3,
        MACH_PORT_RIGHT_DEAD_NAME = 4,

        MACH_PORT_TYPE_SEND = 1 << 16,
        MACH_PORT_TYPE_RECEIVE = 1 << 17,
        MACH_PORT_TYPE_SEND_ONCE = 1 << 18,
        MACH_PORT_TYPE_PORT_SET = 1 << 19,
        MACH_PORT_TYPE_DEAD_NAME = 1 << 20,

        /* Notices: msgh_id of a message whose body is a mach_port_notification_t. */
        MACH_NOTIFY_MSG_ACCEPTED = 66,   /* the message left with MACH_SEND_NOTIFY was sent */
        MACH_NOTIFY_PORT_DESTROYED = 69, /* a receive right comes back: its name is in not_port */
        MACH_NOTIFY_NO_SENDERS = 70,     /* not_count is the make-send count */
        MACH_NOTIFY_SEND_ONCE = 71,      /* a send-once right to this port died unused */
        MACH_NOTIFY_DEAD_NAME = 72,
};

typedef struct {
        mach_msg_header_t not_header;
        mach_port_t not_port;
        mach_port_mscount_t not_count;
} mach_port_notification_t;

/* How to make a port. */
typedef struct {
        uint32_t flags; /* MPO_* */
        struct {
                uint32_t mpl_qlimit; /* messages that may wait for one sender; 0 is the default, not none */
        } mpl;
} mach_port_options_t;
enum {
        MPO_QLIMIT = 1,
        MPO_INSERT_SEND_RIGHT = 0x10,
        MPO_RENDEZVOUS = 0x10000, /* wharf's own: capacity zero */
};

/* ---- the library's part ---- */

/* The task behind mach_task_self(), opened at first use; NULL when there is no memory. Owned by the library. */
WHARF_API wharf_task *wharf_mach_task(void);
/*
 * Give everything back, as wharf_task_close() does; for programs that want nothing left at exit. The next call reopens.
 */
WHARF_API void wharf_mach_close(void);
/* What Mach's own names below stand for: they are macros and inline functions that call these. */
WHARF_API mach_port_t wharf_mach_task_self(void);
WHARF_API mach_port_t wharf_mach_reply_port(void);
WHARF_API mach_msg_return_t wharf_mach_msg(mach_msg_header_t *msg, mach_msg_option_t option, mach_msg_size_t send_size,
                                           mach_msg_size_t rcv_size, mach_port_t rcv_name, mach_msg_timeout_t timeout,
                                           mach_port_t notify);
WHARF_API kern_return_t wharf_mach_port_construct(task_t task, const mach_port_options_t *options, mach_port_t *name);
WHARF_API kern_return_t wharf_mach_port_allocate(task_t task, mach_port_right_t right, mach_port_t *name);
WHARF_API kern_return_t wharf_mach_port_insert_right(task_t task, mach_port_t name, mach_port_t poly,
                                                     mach_msg_type_name_t poly_poly);
WHARF_API kern_return_t wharf_mach_port_extract_right(task_t task, mach_port_t name, mach_msg_type_name_t disposition,
                                                      mach_port_t *poly, mach_msg_type_name_t *poly_poly);
WHARF_API kern_return_t wharf_mach_port_mod_refs(task_t task, mach_port_t name, mach_port_right_t right,
                                                 mach_port_delta_t delta);
WHARF_API kern_return_t wharf_mach_port_get_refs(task_t task, mach_port_t name, mach_port_right_t right,
                                                 uint32_t *refs);
WHARF_API kern_return_t wharf_mach_port_deallocate(task_t task, mach_port_t name);
WHARF_API kern_return_t wharf_mach_port_destroy(task_t task, mach_port_t name);
WHARF_API kern_return_t wharf_mach_port_type(task_t task, mach_port_t name, mach_port_type_t *type);
WHARF_API kern_return_t wharf_mach_port_move_member(task_t task, mach_port_t member, mach_port_t after);
WHARF_API kern_return_t wharf_mach_port_request_notification(task_t task, mach_port_t name, mach_msg_id_t variant,
                                                             mach_port_mscount_t sync, mach_port_t notify,
                                                             mach_msg_type_name_t notify_poly, mach_port_t *previous);
WHARF_API kern_return_t wharf_vm_allocate(task_t task, void **address, size_t size);
WHARF_API kern_return_t wharf_vm_deallocate(task_t task, void *address, size_t size);
WHARF_API const char *wharf_mach_error_string(mach_msg_return_t code);

/* ---- Mach's own names for it ---- */

/* This task's Task Self port; the only value that the calls below take as a task. */
static inline task_t mach_task_self(void)
{
        return wharf_mach_task_self();
}

/* A fresh port to await a reply on. Give it back with mach_port_destroy(). MACH_PORT_NULL: no memory or descriptors. */
static inline mach_port_t mach_reply_port(void)
{
        return wharf_mach_reply_port();
}

/*
 * Send a message, receive one, or both, one after the other.
 *
 * Sending: msg->msgh_remote_port is the destination, a send or send-once right, with the disposition
 * MACH_MSGH_BITS_REMOTE(msgh_bits): COPY_SEND keeps the right, MOVE_SEND and MOVE_SEND_ONCE give it up once the message
 * is queued, MAKE_SEND makes one to a port of one's own. msg->msgh_local_port, if any, travels along for the receiver
 * to reply to: MAKE_SEND_ONCE is usual. Blocks while the queue is full, without MACH_SEND_TIMEOUT for ever.
 * After any MACH_SEND_* error but MACH_SEND_WILL_NOTIFY nothing was sent, and every right is where it was.
 *
 * Receiving: from the port or set `rcv_name` into `msg`, which has room for `rcv_size` bytes.
 *
 * @msg        borrowed.
 * @send_size  bytes, header included.
 * @timeout    ms, for whichever of the two has asked for it.
 * @notify     with MACH_SEND_NOTIFY: a port of one's own.
 */
static inline mach_msg_return_t mach_msg(mach_msg_header_t *msg, mach_msg_option_t option, mach_msg_size_t send_size,
                                         mach_msg_size_t rcv_size, mach_port_t rcv_name, mach_msg_timeout_t timeout,
                                         mach_port_t notify)
{
        return wharf_mach_msg(msg, option, send_size, rcv_size, rcv_name, timeout, notify);
}

/* Make a receive right (a port) or a port set. KERN_INVALID_VALUE for other rights, KERN_RESOURCE_SHORTAGE. */
static inline kern_return_t mach_port_allocate(task_t task, mach_port_right_t right, mach_port_t *name)
{
        return wharf_mach_port_allocate(task, right, name);
}

/* Make a port with a limit of its queue, and perhaps with a send right under the same name. */
static inline kern_return_t mach_port_construct(task_t task, const mach_port_options_t *options, uint64_t context,
                                                mach_port_t *name)
{
        (void)context;
        return wharf_mach_port_construct(task, options, name);
}

/* Add a send right to the port `name` under that same name: poly is `name`, poly_poly is MACH_MSG_TYPE_MAKE_SEND. */
static inline kern_return_t mach_port_insert_right(task_t task, mach_port_t name, mach_port_t poly,
                                                   mach_msg_type_name_t poly_poly)
{
        return wharf_mach_port_insert_right(task, name, poly, poly_poly);
}

/* Make or take a right as a message would: a name of its own. May wait for room on the right's link (COPY_SEND). */
static inline kern_return_t mach_port_extract_right(task_t task, mach_port_t name, mach_msg_type_name_t disposition,
                                                    mach_port_t *poly, mach_msg_type_name_t *poly_poly)
{
        return wharf_mach_port_extract_right(task, name, disposition, poly, poly_poly);
}

/* Change the user references that `name` has to one kind of right; at 0 the right is gone. */
static inline kern_return_t mach_port_mod_refs(task_t task, mach_port_t name, mach_port_right_t right,
                                               mach_port_delta_t delta)
{
        return wharf_mach_port_mod_refs(task, name, right, delta);
}

static inline kern_return_t mach_port_get_refs(task_t task, mach_port_t name, mach_port_right_t right, uint32_t *refs)
{
        return wharf_mach_port_get_refs(task, name, right, refs);
}

/* One reference less to a send or send-once right or a dead name. KERN_INVALID_RIGHT for a port alone. */
static inline kern_return_t mach_port_deallocate(task_t task, mach_port_t name)
{
        return wharf_mach_port_deallocate(task, name);
}

/* All rights of a name, however many references they have. */
static inline kern_return_t mach_port_destroy(task_t task, mach_port_t name)
{
        return wharf_mach_port_destroy(task, name);
}

/* Which rights a name has: MACH_PORT_TYPE_*. */
static inline kern_return_t mach_port_type(task_t task, mach_port_t name, mach_port_type_t *type)
{
        return wharf_mach_port_type(task, name, type);
}

/* Put a port into the set `after`, or out of its set with MACH_PORT_NULL. */
static inline kern_return_t mach_port_move_member(task_t task, mach_port_t member, mach_port_t after)
{
        return wharf_mach_port_move_member(task, member, after);
}

/*
 * Ask for a notice about `name` at `notify`, a port of one's own (MAKE_SEND_ONCE). `sync` is the make-send count from
 * which on MACH_NOTIFY_NO_SENDERS counts. *previous is always MACH_PORT_NULL: a second request is KERN_NAME_EXISTS.
 */
static inline kern_return_t mach_port_request_notification(task_t task, mach_port_t name, mach_msg_id_t variant,
                                                           mach_port_mscount_t sync, mach_port_t notify,
                                                           mach_msg_type_name_t notify_poly, mach_port_t *previous)
{
        return wharf_mach_port_request_notification(task, name, variant, sync, notify, notify_poly, previous);
}

/* Memory that can go into messages without being copied; and the end of such memory, received or one's own. */
static inline kern_return_t vm_allocate(task_t task, void **address, size_t size, int anywhere)
{
        (void)anywhere;
        return wharf_vm_allocate(task, address, size);
}

static inline kern_return_t vm_deallocate(task_t task, void *address, size_t size)
{
        return wharf_vm_deallocate(task, address, size);
}

/* The bootstrap server is wharfd; there is one, so the port that stands for it is any. */
#define bootstrap_port MACH_PORT_NULL
/* Serve `name`: a fresh port, registered. BOOTSTRAP_NAME_IN_USE, KERN_INVALID_VALUE, KERN_FAILURE (no wharfd). */
static inline kern_return_t bootstrap_check_in(mach_port_t bootstrap, const char *name, mach_port_t *port)
{
        mach_port_t p;
        kern_return_t kr =
                port ? mach_port_allocate(mach_task_self(), MACH_PORT_RIGHT_RECEIVE, &p) : KERN_INVALID_ARGUMENT;
        int r = kr == KERN_SUCCESS ? wharf_register(wharf_mach_task(), name, p) : 0;
        (void)bootstrap;
        if (kr != KERN_SUCCESS)
                return kr;
        if (r < 0) {
                mach_port_destroy(mach_task_self(), p);
                return r == -EEXIST ? BOOTSTRAP_NAME_IN_USE : r == -EINVAL ? KERN_INVALID_VALUE : KERN_FAILURE;
        }
        *port = p;
        return KERN_SUCCESS;
}

/*
 * A send right to the task that serves `name` now. BOOTSTRAP_UNKNOWN_SERVICE, KERN_INVALID_VALUE, KERN_FAILURE (no
 * wharfd).
 */
static inline kern_return_t bootstrap_look_up(mach_port_t bootstrap, const char *name, mach_port_t *right)
{
        wharf_task *t = wharf_mach_task();
        int r = t ? wharf_lookup(t, name, 0, right) : -ENOMEM;
        (void)bootstrap;
        return r == 0         ? KERN_SUCCESS
               : r == -ENOENT ? BOOTSTRAP_UNKNOWN_SERVICE
               : r == -EINVAL ? KERN_INVALID_VALUE
                              : KERN_FAILURE;
}

/* In words; never NULL. */
static inline const char *mach_error_string(mach_msg_return_t code)
{
        return wharf_mach_error_string(code);
}

WHARF_END

#endif
