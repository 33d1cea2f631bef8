/*
 * wharf/message.h - sending and receiving.
 *
 * Bytes travel in the cheapest way for their number; the caller can ask for one, and sees which was used:
 *
 *      COLD      a frame on the link's socket: the first messages of a link, and all where shared memory is forbidden
 *      INLINE    copied into the ring of the link's lane: up to WHARF_INLINE_MAX bytes
 *      SECTION   written by the sender, and read by the receiver, in memory that both map
 *      CHUNKS    larger than a section's block: pieces of a section, one behind the other, while the receiver copies
 *      MEMORY    a sealed memory object of its own, handed over by descriptor (large replies, which must never wait)
 *      DIRECT    read by the receiver from the sender's address space, while the sender waits; only when the sender asks
 *                for it, and the port was made for it (WHARF_PORT_DIRECT)
 *
 * DIRECT copies once, where the other ways copy twice, and needs no shared memory; wharf_sendmsg() returns when the
 * receiver has read the message, or takes it back at the deadline. The kernel decides whether the receiver may read
 * (the same user, a process that is dumpable, no Yama in between, no other pid namespace), and wharf never loosens its
 * rules: where the receiver may not read, or its port does not take it, the message travels in one of the other ways,
 * `how` says which, and wharf_why() says why. While one thread waits for this on a right, others that send on the same
 * right wait as well.
 *
 * Payloads that are to be handed over or shared without any copy travel beside a message: see wharf/memory.h.
 *
 * Copying receive (the default) copies first and then looks, so it is safe with any sender. Receiving in place shows
 * you the sender's memory where that saves a copy worth saving (SECTION): it is read-only to you, and the sender can
 * still change it while you read. Use it with senders you trust, or look at every byte only once. (With the other ways
 * nobody can change what you read: a MEMORY is sealed, and what you write to it goes to pages of your own; the rest is
 * private memory.)
 *
 * Payloads that the library gives out (received in place or allocated, reserved for writing, memories beside a message)
 * begin at a multiple of WHARF_PAYLOAD_ALIGN, whatever their length and however they travelled.
 *
 * One thread's messages over one right arrive in the order it sent them. Nothing is promised between two rights.
 *
 * Errors, time, threads: see wharf/task.h.
 */
#ifndef WHARF_MESSAGE_H
#define WHARF_MESSAGE_H

#include "port.h"

WHARF_BEGIN

enum wharf_how {
        WHARF_HOW_AUTO = 0,
        WHARF_HOW_COLD = 1,
        WHARF_HOW_INLINE = 2,
        WHARF_HOW_SECTION = 3,
        WHARF_HOW_CHUNKS = 4,
        WHARF_HOW_MEMORY = 5,
        WHARF_HOW_DIRECT = 6,
};

#define WHARF_INLINE_MAX 256          /* bytes that are copied into the ring by default */
#define WHARF_IN_PLACE_MAX (8u << 20) /* largest payload that can be lent in one block */
#define WHARF_ITEMS_MAX 64            /* rights and descriptors in one message */
#define WHARF_PAYLOAD_ALIGN 64        /* what the address of every payload that is given out is a multiple of */

/* A right or a descriptor inside a message. */
struct wharf_item {
        uint32_t kind; /* WHARF_MAKE_SEND ... when sending, WHARF_GOT_* when received */
        union {
                wharf_name name; /* of this task */
                int fd;
        };
};

enum {
        /* To send. A moved name is gone from this task once the call succeeds, and untouched if it fails. */
        WHARF_COPY_FD = 1,    /* a descriptor; it stays open here */
        WHARF_MOVE_FD = 2,    /* ... or is closed here */
        WHARF_MAKE_SEND = 3,  /* a new send right to a port of this task */
        WHARF_COPY_SEND = 4,  /* a new send right to the port that this right goes to */
        WHARF_MOVE_SEND = 5,  /* this send right itself */
        WHARF_MOVE_REPLY = 6, /* a send-once right; if it answers a call, whoever gets it answers that */
        WHARF_MAKE_ONCE = 7,  /* a new send-once right to a port of this task */
        /*
         * A port of this task, with its senders and all that they have sent: the receive right goes to the receiver of
         * this message. No sender has to do anything, and no message is lost, doubled or reordered for any of them.
         * Threads that receive from it here return -ECANCELED. Reply rights that came by it stay, and answer as ever.
         * Notices that were asked for at it or about it, and sender ids, belong to this task and end here. A port that
         * is in a set leaves it, and is in it again if the call fails. A receiver of another user takes a port only
         * within limits: see WHARF_GOT_RECEIVE.
         */
        WHARF_MOVE_RECEIVE = 8,
        WHARF_MOVE_MEMORY = 9,  /* a memory (wharf/memory.h); it is gone here */
        WHARF_COPY_MEMORY = 10, /* ... or stays, and both have it, copy-on-write */
        /* Received. The name or descriptor is yours to drop or close. */
        WHARF_GOT_FD = 16,
        WHARF_GOT_SEND = 17,
        WHARF_GOT_REPLY = 18, /* a send-once right */
        /*
         * A port: its name in this task. If this task's own user has moved it, and is known as the sender, its id and
         * its options are as they were. Otherwise the id may be anybody's (docs/design/identity.md); no option is above
         * its default (WHARF_RENDEZVOUS and the flags stay); and its links are charged to the share of the user that
         * moved it: the message waits until there is room for all of them. A port for which there can never be room,
         * such as one with more links than a quarter of RLIMIT_NOFILE, ends its sender's link (-EDQUOT), and ends with
         * it. In an answer to a call the sender is not known unless wharf_right_same() has asked, and there the call
         * returns -EDQUOT instead.
         */
        WHARF_GOT_RECEIVE = 19,
        WHARF_GOT_MEMORY = 20,
};

/*
 * How a sender is known, and likewise an introducer of it. docs/design/identity.md says case by case what each is
 * worth, and what an attacker can make of it.
 */
enum wharf_known {
        /*
         * Not at all. Its right has not been used in a way that says who uses it: in a sandbox that forbids
         * socketpair(), without descriptors, or from a pid namespace that is not seen from here.
         */
        WHARF_KNOWN_NOT = 0,
        WHARF_KNOWN_OWN = 1,       /* this very process, over a right that it has used itself */
        WHARF_KNOWN_CONNECTED = 2, /* it connected to the port's socket; pid and uid are those of that moment */
        WHARF_KNOWN_BOUND = 3,     /* it has made the link's sockets itself, for this port; as it was then */
        WHARF_KNOWN_ONCE = 4,      /* it wrote the one message of a send-once right, which anybody may have given it */
        WHARF_KNOWN_TOLD = 5,      /* the port came from another task, which says who this is: told_pid and told_uid */
        WHARF_KNOWN_NOBODY = 6,    /* of an introducer: there is none */
};

/*
 * Who gave a sender its right. A process can be made to speak for another: with a right to this port that the other
 * gave it, it says the other's words in its own name. So a receiver that decides by user or process asks the same of
 * the sender *and* of all who introduced it.
 */
struct wharf_introducer {
        uint64_t id; /* of its link to this port; 0 where it has none and only the sender names it */
        pid_t pid;   /* as in struct wharf_sender */
        uid_t uid;
        gid_t gid;
        uint32_t known; /* enum wharf_known */
};

/*
 * Who sent a message, in the kernel's words: never taken from the message itself. Users and groups for which this user
 * namespace has no number are unknown.
 */
struct wharf_sender {
        uint64_t id;    /* of its link, unique in this task for as long as it runs, and below 2^53 */
        pid_t pid;      /* 0 where unknown */
        uid_t uid;      /* (uid_t)-1 where unknown */
        gid_t gid;      /* likewise */
        uint32_t known; /* enum wharf_known */
        struct wharf_introducer introducer; /* the nearest; wharf_sender_introducers() tells of all */
        pid_t told_pid; /* with WHARF_KNOWN_TOLD: who the sender is by the introducer's word, and by nothing else */
        uid_t told_uid;
};

enum {
        /* wharf_recvmsg(): */
        WHARF_RECV_IN_PLACE = 1,    /* `data` will point at the sender's memory where that saves a copy; give it back */
        WHARF_RECV_ALLOC = 2,       /* `data` will point at private memory of the right size; give it back */
        WHARF_RECV_NO_ITEMS = 16,   /* what the message carries beside bytes is dropped; `items` is not looked at */
        WHARF_RECV_DROP_UNFIT = 32, /* a message for which there is no room is dropped: -EOVERFLOW */
        /* wharf_sendmsg(): */
        WHARF_SEND_LATER = 4, /* where the queue stays full, leave the message to be sent later */
        /* wharf_callmsg(), wharf_call_start(), in the request: */
        /*
         * The server may write a reply of up to cap_bytes straight into this process, if its port was made for it
         * (WHARF_PORT_DIRECT).
         */
        WHARF_REPLY_DIRECT = 8,
};

enum {
        WHARF_NOTICE_DEAD_NAME = 1,     /* the receiver of the right `about` is gone */
        WHARF_NOTICE_NO_SENDERS = 2,    /* no send right to the port `about` is left, of `count` that were ever made */
        WHARF_NOTICE_ONCE_UNUSED = 3,   /* a send-once right to the port `about` is gone, and its message never came; or
                                           `count` of them, before the port moved here */
        WHARF_NOTICE_SEND_POSSIBLE = 4, /* the queue of the right `about` has room */
        WHARF_NOTICE_SENT_LATER = 5,    /* the message that was left on the right `about` has gone into its queue */
        WHARF_NOTICE_SENDER_GONE = 6,   /* the sender `sender.id` of the port `about` is gone, or was revoked */
        WHARF_NOTICE_REPLY = 7, /* the call `call` over the right `about` has ended: with a reply, or for `error` */
};

/* A message, to send or received. Clear it, set `size`, then what you care about. */
struct wharf_msg {
        uint32_t size;  /* sizeof this struct */
        uint32_t id;    /* what kind of message this is: yours, carried along */
        uint32_t flags; /* WHARF_RECV_* */
        uint32_t how;   /* sending: how, usually WHARF_HOW_AUTO. After sending or receiving: how it was done */
        union {
                void *data; /* sending: the payload, borrowed. Receiving: where to copy it, or where it is in place */
                const void *payload; /* the same, to send what is const: a literal, say */
        };
        size_t len_bytes;         /* of the payload */
        size_t cap_bytes;         /* receiving: room at `data` */
        struct wharf_item *items; /* rights and descriptors; receiving: room for them */
        uint32_t n_items;
        uint32_t cap_items;   /* receiving: room at `items` */
        uint64_t *sender_ids; /* sending: NULL, or room for n_items numbers, of which those of WHARF_MAKE_SEND and
                                 WHARF_MAKE_ONCE become the sender.id of whoever will use that right. Others stay */

        /* Receiving only. */
        uint64_t from;              /* in: 0 for any sender, or the id of the one to receive from */
        struct wharf_sender sender; /* out */
        wharf_name port;            /* out: which port of a set */
        wharf_name reply;           /* out: the sender waits for an answer to this name; WHARF_NONE if not */
        uint32_t notice;            /* out: not 0: this is no message but a notice of the system, WHARF_NOTICE_* */
        wharf_name about;           /* out: whom the notice is about */
        uint64_t count;             /* out: how many rights WHARF_NOTICE_NO_SENDERS or _ONCE_UNUSED tells of */
        uint32_t call;              /* out: of WHARF_NOTICE_REPLY, what wharf_call_finish() takes; */
        int32_t error;              /* out: ... and 0, or the negative errno that it will return */

        uint64_t held[4]; /* the library's: what wharf_release() needs */
};

/*
 * Send `len` bytes, waiting for room if need be. Returns 0 once the message is queued: it will be delivered even if
 * this task dies, unless the receiver dies first.
 *
 * To a port of capacity zero (WHARF_RENDEZVOUS) it returns 0 once a receiver has taken the message. At the deadline the
 * message is withdrawn: either it was received, once, and the call succeeds, or it fails and nobody ever receives it.
 * With deadline 0 it succeeds only if a receiver is there to take the message at once, waiting in a receive; such a
 * receiver gets a millisecond to wake up. A sender that dies while it offers a message withdraws nothing: the receiver
 * may still take it, once. If the receiver dies before it took the message, the call returns -EPIPE. (A right from
 * wharf_right_connect() may leave its first message before the port has accepted the connection.)
 *
 * @right        a send right, borrowed; or a send-once right, which is consumed, also by failure with -EPIPE.
 * @data         Borrowed during the call, and copied.
 * @deadline_ns  when to give up waiting.
 *
 * Errors: -EAGAIN     deadline_ns was 0 and the queue is full; or no receiver took the message at once
 *         -ETIMEDOUT  the queue stayed full until the deadline; or no receiver took the message
 *         -EDQUOT, -ENOBUFS  the queue has no bound, but link_mapped_bytes_max of the port is reached, or memory or
 *                     descriptors were short. The right stays good, and reading makes room
 *         -EOPNOTSUPP the port's capacity is zero, and shared memory is forbidden here
 *         -EPIPE      the receiver closed the port, or died, and did not take the message
 *         -EMSGSIZE   the port does not take messages of this size
 *         -EMLINK, -EDQUOT, -ENOBUFS, -EPROTO, -EPROTONOSUPPORT  the receiver refused this link; the number says why
 *         -EBADF, -EPERM, -ENOMEM, -EMFILE, -ESTALE
 */
WHARF_API int wharf_send(wharf_task *task, wharf_name right, const void *data, size_t len_bytes, int64_t deadline_ns);

/*
 * The same with everything a message can have: id, rights and descriptors, the way of transport. All or nothing: after
 * a failure every right is still yours.
 *
 * With WHARF_SEND_LATER in msg->flags a message that finds the queue full until the deadline is left, and the call
 * returns 1: the message lies behind the full queue and comes in its turn, whatever this task does next, sleep or die.
 * One message at a time can be left on a right; the next one is -EBUSY until the first has gone into the queue proper,
 * of which wharf_notify(WHARF_NOTICE_SENT_LATER) gives a notice. (Mach: MACH_SEND_NOTIFY.) To a port of capacity zero
 * it goes when it is taken.
 *
 * @msg  Borrowed; `how` is set to the way that was used. A payload from wharf_reserve() is consumed on success.
 *
 * Errors: as wharf_send(), and
 *         -EINVAL        unknown kinds or ways; more than WHARF_ITEMS_MAX items; the same name or descriptor twice,
 *                        and moved; a send-once right sent over itself; SECTION asked for more than
 *                        WHARF_IN_PLACE_MAX bytes
 *         -ETOOMANYREFS  too many rights on their way unread; for a receive right, more descriptors than the kernel
 *                        lets this user have on their way (RLIMIT_NOFILE), or rights in rights in rights
 *         -EMFILE        an earlier message carried more than half of the descriptors that the port's task may have
 *                        (RLIMIT_NOFILE), and that task had too few left: this right has ended
 *         -EBUSY         a receive right of a port that listens, is on its way already, has accepted a connection for
 *                        which there is no place, or of which payloads received in place were not given back
 *         -EOPNOTSUPP    a receive right of a port made with WHARF_PORT_FIXED; or a receive right, or a memory that was
 *                        written to after it was sent or received, where shared memory cannot be made
 *         -ELOOP         a receive right sent through a right to that same port
 *         -EMSGSIZE      also: the memories in it are together larger than the port takes
 *         -EFAULT        DIRECT: the receiver could not read the payload, and neither can this process
 *         -EBUSY         WHARF_SEND_LATER, and one is left already
 *         -EBUSY         the kernel still writes to a memory in it: a read() past the cache, or io_uring
 *
 * A send right may be sent over itself: copied, it arrives as a right of the receiver to its own port; moved, likewise,
 * and the sender has none any more.
 */
WHARF_API int wharf_sendmsg(wharf_task *task, wharf_name right, struct wharf_msg *msg, int64_t deadline_ns);

/*
 * Send several messages over one right, in their order: with one lock, one fence and one look whether the receiver sleeps for all
 * that find room at once, so that small ones cost about half as much each. Waits for room as wharf_sendmsg() does. What is sent is
 * always a prefix: where one fails, those before it are sent, and no later one is.
 *
 * @msgs  `n` of them, each as wharf_sendmsg() takes it.
 *
 * Returns how many were sent. If that is fewer than `n`, wharf_why() says why the next one was not; where not even the first one
 * was, the error is returned, as by wharf_sendmsg(). Errors: also -EINVAL (n is 0, or more than INT_MAX)
 */
WHARF_API int wharf_sendmany(wharf_task *task, wharf_name right, struct wharf_msg *msgs, unsigned n,
                             int64_t deadline_ns);

/*
 * Lend `len_bytes` of shared memory in which a payload can be written in place; wharf_sendmsg() then sends it without
 * copying it. msg->data says where it is. wharf_release() gives it back unsent.
 *
 * Errors: -EMSGSIZE (more than WHARF_IN_PLACE_MAX, or than the port takes), -EOPNOTSUPP (shared memory is forbidden
 *         here), and as wharf_send()
 */
WHARF_API int wharf_reserve(wharf_task *task, wharf_name right, size_t len_bytes, struct wharf_msg *msg,
                            int64_t deadline_ns);

/*
 * Receive one message from anyone, copied into `buf`.
 *
 * @name    a port, or a set of ports.
 * @sender  NULL, or who sent it.
 * @ret     the payload's length in bytes; or a negative errno. What a message carries beside bytes (rights, an answer
 *          waited for) is dropped by this call; use wharf_recvmsg() where such may come.
 *
 * Errors: -EAGAIN     deadline_ns was 0 and there is none
 *         -ETIMEDOUT  none came
 *         -ENOTCONN   no sender is left and none can come
 *         -EOVERFLOW  the message is larger than `cap_bytes`. It stays first in the queue of its sender, which *sender
 *                     names; the next call looks at all other senders first. wharf_recvmsg() gets it, or drops it
 *         -ECANCELED  the port was closed meanwhile
 *         -ENOMEM     there is no memory for what came. It stays where it is; the same call receives it later
 *         -EMFILE     this process has no descriptors left for what came, and nothing else came until the deadline. It
 *                     stays where it is. A call with a deadline goes on as soon as some are closed
 *         -EBADF, -EPERM, -EBUSY (the port is in a set), -ESTALE
 */
WHARF_API ssize_t wharf_recv(wharf_task *task, wharf_name name, void *buf, size_t cap_bytes,
                             struct wharf_sender *sender, int64_t deadline_ns);

/*
 * Receive one message with all it carries; from anyone, or from the one sender msg->from (the textbook's symmetric
 * direct communication). When that one is gone the call returns -ENOTCONN.
 *
 * After success: everything marked "out" in struct wharf_msg is set, and with the flags WHARF_RECV_IN_PLACE or
 * WHARF_RECV_ALLOC wharf_release() is owed.
 *
 * For a message that is larger than cap_bytes, or carries more than cap_items, the call returns -EOVERFLOW. Then
 * len_bytes and n_items say what is needed, and sender, port and id say whose message it is and of what kind; nothing
 * else is set. The message stays first in the queue of its sender, and of that one alone: the next call for any sender
 * looks at all others first, so a loop that goes on after -EOVERFLOW hears everybody else. What to do about it, with
 * msg->from at sender.id:
 *
 *      room for it           receives it. WHARF_RECV_ALLOC has room for any length, WHARF_ITEMS_MAX for any rights
 *      WHARF_RECV_NO_ITEMS   receives it without its rights and descriptors, which are dropped; n_items is 0
 *      WHARF_RECV_DROP_UNFIT drops it, with all that it carries, and returns -EOVERFLOW once more. If it was a request,
 *                            its caller gets -ECANCELED. If another thread was faster, this call receives the next
 *                            message, and drops that only if there is no room for it either
 *
 * Or give WHARF_RECV_DROP_UNFIT at once (as mach_msg() does without MACH_RCV_LARGE): then -EOVERFLOW always means that
 * one message was dropped, and `sender` says whose.
 *
 * Errors: as wharf_recv(); -ENOENT (msg->from is no sender of this port)
 */
WHARF_API int wharf_recvmsg(wharf_task *task, wharf_name name, struct wharf_msg *msg, int64_t deadline_ns);

/*
 * Receive several messages: waits for the first as wharf_recvmsg() does, and takes of what is there then, without waiting again,
 * with one lock for all. Each message has its own room, flags and `from`.
 *
 * Returns how many were received: 1 at least. What stopped it short (a message that does not fit, say) is for the next call to
 * find. Errors: as wharf_recvmsg(), of the first; -EINVAL (n is 0, or more than INT_MAX)
 */
WHARF_API int wharf_recvmany(wharf_task *task, wharf_name name, struct wharf_msg *msgs, unsigned n,
                             int64_t deadline_ns);

/*
 * Give back the payload of a message received in place or allocated, or reserved and not sent: before wharf_task_close().
 * Never blocks.
 */
WHARF_API void wharf_release(wharf_task *task, struct wharf_msg *msg);

/*
 * Ask to be told, once, that a sender is gone: by a notice WHARF_NOTICE_SENDER_GONE with its `sender.id`, whose `about` is the
 * port that it sent to. It comes behind the last message of that sender, when all of them were received and its right is
 * held nowhere any more, nor on its way in a message: its holder dropped it, or died, or broke the rules, or it was revoked.
 * Whoever is given a right that was never used is that sender, with that id. Passed on when it was used already, it is another
 * sender, introduced by the first, which is gone then. As with
 * WHARF_NOTICE_NO_SENDERS a thread must receive from that port or its set for the library to learn of it.
 *
 * The request ends when the notice comes, with wharf_sender_notify_cancel(), when the sender's port is dropped or moves, and
 * with the drop of `port`. Never blocks.
 *
 * @sender_id  sender.id of a message, or of a right that was made (`sender_ids` of its message, struct wharf_right_stat)
 * @port       where to; WHARF_NONE for the task's Notify port (wharf_task_notify()).
 *
 * Errors: -ENOENT (no such sender here, or not any more), -EBUSY (asked for already), -EBADF, -EPERM (`port` is no port),
 *         -ENOMEM, -ESTALE
 */
WHARF_API int wharf_sender_notify(wharf_task *task, uint64_t sender_id, wharf_name port);
/* Take that back. Errors: -ENOENT (not asked for, or it came already, though perhaps not received yet), -ESTALE */
WHARF_API int wharf_sender_notify_cancel(wharf_task *task, uint64_t sender_id);

/*
 * All who introduced a sender, the nearest first, as they were then. Each of them could have made the sender speak, so
 * a receiver that decides by who sent a message asks of each what it asks of the sender.
 *
 * The task that moved the port here is an introducer of all senders that came with the port, and of those whom they
 * introduce. One further entry stands for all who had moved the port to that task, or had introduced its senders there.
 * It rests on that task's word: the user that they all are, or WHARF_KNOWN_NOT.
 *
 * The directory (wharf/names.h) with which the port is registered is not an introducer: it gives a right to any task
 * that asks, and that task says itself whether it keeps the right or gives it to another.
 *
 * @sender_id  sender.id of a message, as long as its link is there.
 * @ret        room for `max` of them; may be NULL if that is 0
 *
 * Returns how many there are, which may be more than `max`. Errors: -ENOENT (no such sender here any more), -EINVAL,
 * -ESTALE
 */
WHARF_API int wharf_sender_introducers(wharf_task *task, uint64_t sender_id, struct wharf_introducer *ret,
                                       unsigned max);

/*
 * A pidfd of a sender, race-free where the kernel can do it (Linux 6.5), otherwise checked against its living link.
 * Owned by the caller. Errors: -ENOENT (no such sender here any more), -ESRCH (dead, or not known), -EMFILE, -ESTALE
 */
WHARF_API int wharf_sender_pidfd(wharf_task *task, uint64_t sender_id, int *ret);

/*
 * Send, wait for the answer, receive it: one buffer to send from and one to receive into. Any number of calls may be
 * outstanding on one right, from any threads.
 *
 * @ret  the reply's length in bytes; or a negative errno
 *
 * Errors: as wharf_send(), and
 *         -ECONNRESET  the server died, or closed its port, before it replied
 *         -ECANCELED   the server dropped the request
 *         -EPERM       `right` is a send-once right, which takes no calls: put one of your own into the message
 *         -EOVERFLOW   the reply is larger than `cap_bytes` and was dropped
 *         -EMSGSIZE    also: the reply is larger than this task takes (reply_bytes_max, wharf/task.h); the right has ended
 */
WHARF_API ssize_t wharf_call(wharf_task *task, wharf_name right, const void *req, size_t len_bytes, void *buf,
                             size_t cap_bytes, int64_t deadline_ns);

/*
 * The same with all a message can have, both ways. `reply` takes the flags of wharf_recvmsg() but DROP_UNFIT, which is
 * ignored.
 *
 * With WHARF_REPLY_DIRECT in req->flags a reply of up to req->cap_bytes is written by the server straight into memory
 * that the library maps here for it, where the kernel lets it; WHARF_RECV_ALLOC gives that memory without another copy.
 * Memory that is given back is kept for the next such call on this right, up to 64 MiB. After such a reply reply->how
 * is WHARF_HOW_DIRECT; where it says another way, wharf_why() says why. Such a call can be given up at once, and what
 * the server still writes then harms nothing.
 *
 * Errors: as wharf_call(); -EINVAL (WHARF_REPLY_DIRECT without cap_bytes); -ENOMEM
 */
WHARF_API int wharf_callmsg(wharf_task *task, wharf_name right, struct wharf_msg *req, struct wharf_msg *reply,
                            int64_t deadline_ns);

/*
 * The two halves of a call, so that one thread can have many outstanding. Every call that was started must be finished
 * or cancelled.
 *
 * With a `port` of this task the end of the call is told there, once, by a notice WHARF_NOTICE_REPLY with `about`,
 * `call` and `error`: a reply has come, or none will. Then wharf_call_finish() with deadline 0 gets it, or that error.
 * So whoever serves its own port need never wait in a call. With -EAGAIN, -ENOMEM, -ENOBUFS, -EMFILE or -ENFILE it has
 * not ended: there was too little here to hear of its reply, or to read what had come. wharf_call_finish() is to be
 * asked again then, with a deadline. Nothing comes of a call that was finished or cancelled before, nor when the right
 * or the port was dropped, or the port moved; such a call is still outstanding. What a notice needs is had before the
 * request goes.
 *
 * After -EAGAIN, -ETIMEDOUT, -EOVERFLOW, and where there is too little for what comes with the reply (-ENOMEM,
 * -ENOBUFS, -EMFILE, -ENFILE), the call is still outstanding; any other result ends it. Cancelling forgets the call; a reply
 * that still comes is dropped.
 */
WHARF_API int wharf_call_start(wharf_task *task, wharf_name right, struct wharf_msg *req, wharf_name port,
                               int64_t deadline_ns, uint32_t *ret_call);
WHARF_API int wharf_call_finish(wharf_task *task, wharf_name right, uint32_t call, struct wharf_msg *reply,
                                int64_t deadline_ns);
WHARF_API int wharf_call_cancel(wharf_task *task, wharf_name right, uint32_t call);

/*
 * Answer a call, or use a send-once right, which is the same. Never blocks, whatever the other side does. Where the
 * caller asked for it with WHARF_REPLY_DIRECT, the reply is written into the caller's memory, unless `how` asks for
 * another way. wharf_replymsg() sets `how` to the way that was used; where that should have been DIRECT and is not,
 * wharf_why() says why. The right is consumed, also by failure with
 * -EPIPE or -ENOBUFS; after any other failure it is there for another try.
 *
 * @reply  the name that came with the request, or any send-once right.
 *
 * Errors: -EPIPE (the caller is gone), -EMSGSIZE, -EBADF, -EPERM, -ENOMEM, -EMFILE, -ESTALE;
 *         -EOPNOTSUPP  more than 64 KiB, and the kernel forbids the shared memory that it needs
 *         -ENOBUFS  the caller does not read its replies; the link to it was closed
 *         -ETOOMANYREFS  the caller's user has not read other answers, and the descriptors in them are its whole share
 *                   (of an eighth of RLIMIT_NOFILE, for all users); or this process's user has as many descriptors on
 *                   their way as the kernel allows. Try again later
 *         -EDQUOT   the caller's user has not read other answers, and they take all the memory of its share
 *                   (reply_bytes_max). Try again later, or drop the right, which ends the call with -ECANCELED
 */
WHARF_API int wharf_reply(wharf_task *task, wharf_name reply, const void *data, size_t len_bytes);
WHARF_API int wharf_replymsg(wharf_task *task, wharf_name reply, struct wharf_msg *msg);

/*
 * Send a message on that was received, with all that it brought: its payload, its id, its rights, memories and descriptors, which are
 * moved; and where the sender waits for an answer, the right to answer: whoever receives it finds that in `reply`, and what
 * it says goes to the first sender, not through this task. So a request can be handed to somebody who knows better, as with
 * Send/Receive/Reply. A payload that came in a memory of its own (`how` WHARF_HOW_MEMORY, received with WHARF_RECV_ALLOC or
 * WHARF_RECV_IN_PLACE, more than 1 MiB) goes by reference; any other is copied once. What was written to `data` since it was received
 * may go on, or not.
 *
 * The receiver is told this task as the sender: who sent it first is for this task to know, and to say in a message of its own.
 *
 * @right  a send right; or, for a message that nobody waits for an answer to, a send-once right, which is consumed.
 * @msg    as wharf_recvmsg() has left it. On success it is empty, and nothing is owed for it any more: no wharf_release(). After a
 *         failure it is as before.
 *
 * Waits for room as wharf_sendmsg() does. Errors: as wharf_sendmsg(); -EINVAL (a notice, an item that no message brings, or more
 * than WHARF_ITEMS_MAX with the right to answer), -EPERM (a request over a send-once right)
 */
WHARF_API int wharf_forward(wharf_task *task, wharf_name right, struct wharf_msg *msg, int64_t deadline_ns);

WHARF_END

#endif
