/*
 * wharf/port.h - ports: message queues with one receiver and any number of senders; and rights, the ability to use one.
 *
 * A right is a file descriptor inside: the kernel decides who holds one, passes it on only inside a message, and says
 * when its other end is gone. Each send right has a private link to its port, so what one sender does never disturbs
 * another: capacity, order and limits are per link. All senders of one user together have a share of a port's limits,
 * of the receiving task's descriptors, and of the calls that it has yet to answer: at most 1/(n+1) of what the others
 * have left, where n is the number of users that have something. The task's own user is limited by the whole alone. A
 * link that asks for more than is left of its user's share gets -EDQUOT. Users take turns in a receive, and so do the
 * links of each.
 *
 * Errors, time, threads: see wharf/task.h.
 */
#ifndef WHARF_PORT_H
#define WHARF_PORT_H

#include "task.h"

WHARF_BEGIN

/*
 * When more senders come than a port accepts: a sender that comes by wharf_right_copy(), WHARF_COPY_SEND or
 * WHARF_MOVE_SEND was introduced by another sender. Where the port has no place for it (links_max), or its introducer
 * may introduce no more (introduced_max), or the share of its user is used up, it waits until a link ends, and nothing
 * that it has sent is lost. It waits in the queue of its introducer, so what the introducer sends behind it waits as
 * well; other senders go on.
 *
 * A connection (wharf_port_listen()) waits in the listening socket for a place. One beyond the share of its user is
 * refused there (-EDQUOT), and so is the message that it may have sent before it was accepted. A right that was looked
 * up with wharfd waits alone, as long as its user has less than its share of all the links that this task may have;
 * beyond that it is refused, too.
 *
 * When an introducer is gone, the first of those who wait behind it gets its place. The others are not kept waiting for
 * what may never come: what they have sent is received, and they are refused (-EMLINK or -EDQUOT).
 */

/*
 * A port's id: the same for every right to it, in every task, and chosen at random when the port is made. It is no
 * secret. Of a port that another user moved here it is that user's word: see docs/design/identity.md.
 */
typedef struct {
        uint64_t v;
} wharf_port_id;

#define WHARF_SMALL_MAX 1024 /* payloads of up to so many bytes count as messages, and not as bytes */

/*
 * What one link holds. A queue is full when capacity_records messages are unread, however they travel, or when with one
 * more message the unread payloads of more than WHARF_SMALL_MAX bytes would have more than capacity_bytes together;
 * where no other such payload is unread, one of any size goes. wharf_why() and wharf_right_stat() say which it was. A
 * message that was received is no longer unread, even while it is held in place, and makes room at once.
 *
 * The sender's memory grows with what is unread, and shrinks again. A queue is full before its capacity is reached
 * where link_mapped_bytes_max was set to less than the capacity takes (about twice capacity_bytes and 1.2 KiB a
 * message), where the system has no memory for it, and when 512 payloads are unread or held that are too large for a
 * ring (more than 32 KiB) or were reserved. A sender that may make no shared memory (memfd_create() is forbidden in its
 * sandbox) fills a socket: messages count as ever, and the socket takes 278 small ones or 208 KiB at most, unless
 * net.core.wmem_default says otherwise. A sender that came into its sandbox with a lane keeps that lane, which does not
 * grow: it has 128 KiB, or 128 bytes for each of capacity_records, at least 8 KiB.
 */

/* Clear it, set `size`, then what you care about. A zero field asks for the default. */
struct wharf_port_opts {
        uint32_t size;                   /* sizeof this struct */
        uint32_t flags;                  /* WHARF_PORT_* */
        uint32_t capacity_records;       /* messages that may be unread on one link; default 1024, at most 65536; or: */
#define WHARF_RENDEZVOUS UINT32_MAX      /* none: a send ends when a receiver has taken the message */
#define WHARF_UNBOUNDED (UINT32_MAX - 1) /* as many as link_mapped_bytes_max holds: a send never waits */
        uint32_t links_max;         /* senders at once; default 4096. More wait: wharf_port.h(3). wharfd, which gives
                                       others rights to a registered port, is none */
        uint64_t payload_bytes_max; /* largest payload accepted, and largest sum of memories; default 1 GiB, at most 1
                                       TiB */
        uint64_t link_mapped_bytes_max; /* shared memory mapped for one sender; default 80 MiB, or what the capacity
                                           may take, if that is more */
        uint64_t mapped_bytes_max;      /* ... and for all senders of this port; default 4 GiB */
        uint32_t unread_rights_max;     /* rights and descriptors unread on one link; default 64, at most 250 */
        uint32_t introduced_max;        /* links introduced through one sender, at any depth; default links_max / 2 */
        uint64_t capacity_bytes;        /* bytes that larger messages may have unread on one link; default 32 MiB */
        uint64_t reply_bytes_max;       /* memory made here for replies to all senders: so much for large ones that are
                                           unread, and as much that is kept for the next ones; default 4 GiB */
        uint64_t link_reply_bytes_max;  /* ... and kept for one sender. What is larger takes a memory of its own, which
                                           goes when it was read; default 4 MiB */
        uint32_t link_answers_max;      /* calls of one sender that are received and not answered; default 4096 */
        uint32_t reserved;              /* 0 */
};

enum {
        /* Receiving waits even while there is no sender: a right may still be made by another thread. */
        WHARF_PORT_STAYS = 1,
        /*
         * This receive right never moves to another task. Saves the descriptors that it takes to be able to: two for
         * each sender whose messages travel in shared memory, and one for each section.
         */
        WHARF_PORT_FIXED = 2,
        /*
         * Payloads may go directly, where a sender asks for it: read from its address space (WHARF_HOW_DIRECT), and replies
         * written into it (WHARF_REPLY_DIRECT). Only senders of this task's own user can, and each of them can then hold up
         * a receive or a reply here: for as long as a payload takes to be copied, or the kernel to get the sender's pages
         * from wherever they are, be that a file system that does not answer. So it is for senders that are trusted not
         * to. Without it what they send comes in another way.
         */
        WHARF_PORT_DIRECT = 4,
};

/*
 * Make a port; the caller holds its receive right. Never blocks.
 *
 * @opts  NULL for all defaults. Borrowed during the call.
 * @ret   the port's name. Close it with wharf_drop().
 *
 * Errors: -EINVAL  opts asks for something no port can do; wharf_why() says which field
 *         -EMFILE, -ENFILE, -ENOMEM, -ESTALE
 */
WHARF_API int wharf_port_new(wharf_task *task, const struct wharf_port_opts *opts, wharf_name *ret);

/*
 * Make a send right to a port of one's own. Usually it is simpler to put the port itself into a message
 * (WHARF_MAKE_SEND, wharf/message.h). Never blocks.
 *
 * Errors: -EBADF, -EPERM  `port` is no port of this task
 *         -EMLINK         the port has as many links as it accepts
 *         -EMFILE, -ENFILE, -ENOMEM, -ESTALE
 */
WHARF_API int wharf_right_new(wharf_task *task, wharf_name port, wharf_name *ret);

/*
 * Make a send-once right to a port of one's own (inside a message: WHARF_MAKE_ONCE): it takes one message, of any size
 * and with rights inside, and is gone with it. It can be moved (WHARF_MOVE_REPLY) and dropped, but not copied. Using it
 * never waits, also where the port's capacity is zero. The answer to a call is the same kind of right. When the holder
 * dies, drops the right, or breaks its rules before that message came, the port is told: by a message with notice
 * WHARF_NOTICE_ONCE_UNUSED, whose sender.id is the id that the sender would have had. If the port moves before it has
 * received such messages, its new owner gets one notice for all of them, which says in `count` how many there were.
 * Never blocks.
 *
 * What the port's owner may rely on: never two messages, and either one message or one notice. A former holder may have
 * kept a copy of the right, and used it in the holder's place: `sender` says truly who sent the message.
 *
 * Errors: as wharf_right_new()
 */
WHARF_API int wharf_once_new(wharf_task *task, wharf_name port, wharf_name *ret);

/*
 * Make a second send right to the same port, with a link and a queue of its own. The port's owner is told, through the
 * first right, who introduced it. May wait for room on that link. Where the owner accepts no more for now, what is sent
 * over the new right waits, and so does what is sent over this one from here on: see wharf_port.h(3).
 *
 * Errors: -EPIPE, -EAGAIN, -ETIMEDOUT, -EBADF, -EPERM, -EMFILE, -ENFILE, -ENOMEM, -ESTALE
 */
WHARF_API int wharf_right_copy(wharf_task *task, wharf_name right, int64_t deadline_ns, wharf_name *ret);

enum {
        WHARF_REVOKE_BRANCH = 1, /* and everything that came through this sender, by its copies and theirs */
};

/*
 * Take back a right to a port of one's own: the link of one sender ends, and with WHARF_REVOKE_BRANCH also those of all
 * whom it introduced by copying or moving its right, and of all whom they introduced, even where some in between are
 * gone by now. Those below end before those above. (Of a right that went through more than 64 hands, the oldest that
 * are gone are forgotten.) Never blocks.
 *
 * The holder has a dead name from then on: sending, waiting for room or for a reply, and calls that start later end
 * with -EKEYREVOKED (with -EPIPE if it never reads what comes to it, so that nothing can be told it), and so does a
 * right on its way in a message that nobody has read. A notice that was asked for comes (WHARF_NOTICE_DEAD_NAME). What
 * the sender had sent and nobody had received is dropped, rights inside too; what it sends at that moment is lost.
 * Those whom it had introduced and who still wait for a place are refused (-EMLINK, -EDQUOT). What was received stays:
 * rights that came in it, payloads in place. Answering its calls is -EPIPE.
 *
 * This takes back this right and no other: a process that has another one, or gets one from somebody else, sends on.
 *
 * @sender_id  sender.id of a message; with WHARF_REVOKE_BRANCH also of a sender that is gone.
 * @ret        how many links ended
 *
 * Errors: -ENOENT (nobody of that id, or below it, sends to this port), -EINVAL, -EBADF, -EPERM, -ESTALE
 */
WHARF_API int wharf_revoke(wharf_task *task, wharf_name port, uint64_t sender_id, uint32_t flags);

/*
 * Do two send rights lead to the same port? The call asks both owners, so each of them must receive now and then, and
 * waits for their answers. With deadline 0 it asks and returns -EAGAIN; a later call gets the answers that have come.
 *
 * What the answer is worth. A port's id (wharf_right_stat()) is known to whoever has a right to it, so an owner that
 * lies can give its own port that id. Therefore the kernel is asked as well which process answered, over a connection
 * that nobody but the holder made:
 *
 *      1   the same process answered on both, and says that it is the same port. Another process cannot bring that
 *          about by claiming the id, nor by passing questions and answers on, since it would be seen itself; nor by
 *          moving a port with that id to this one.
 *      0   they say different ids, it is another port of the same id, or different processes answered.
 *
 * It does not say that nobody else can read: the owner of a right's port at the time when that right was first used may
 * have handed the connection to the true owner since, and have kept a copy of it. Of two rights that are the same, go
 * on with the one that you trust already. And a process may always lie about its own ports.
 *
 * @ret  1 or 0
 *
 * Errors: -EAGAIN, -ETIMEDOUT   not answered yet
 *         -EPIPE, -EKEYREVOKED  one of them is a dead name
 *         -EOPNOTSUPP           the kernel does not say who answered: the owner is in a pid namespace not seen from
 *                               here; or no pair of sockets can be made here, so others might answer
 *         -EPERM                no send right (a send-once right has no message to spare)
 *         -ECANCELED, -EBADF, -ENOMEM, -EMFILE, -ENFILE, -ESTALE
 */
WHARF_API int wharf_right_same(wharf_task *task, wharf_name a, wharf_name b, int64_t deadline_ns);

/* Who receives from a port, in the kernel's words. Users and groups that this user namespace has no number for are (uid_t)-1. */
struct wharf_owner {
        pid_t pid;
        uid_t uid;
        gid_t gid;
        uint32_t reserved; /* 0 */
};

/*
 * Who receives what is sent over this right? The owner is asked, so it must receive now and then, and the call waits for its
 * answer. With deadline 0 it asks and returns -EAGAIN; a later call gets the answer that has come. The kernel says who
 * answered, over a connection that nobody but this holder made; when the call returns that process was alive still, and
 * received from the port. It may move the port to another later: ask again then.
 *
 * What it does not say is that nobody else can read, as with wharf_right_same().
 *
 * Errors: -EAGAIN, -ETIMEDOUT   not answered yet
 *         -EPIPE, -EKEYREVOKED  a dead name
 *         -EOPNOTSUPP           the kernel does not say: the owner is in a pid namespace not seen from here; or no pair of
 *                               sockets can be made here, so others might answer
 *         -EPERM                no send right (a send-once right has no message to spare)
 *         -ECANCELED, -EBADF, -ENOMEM, -EMFILE, -ENFILE, -ESTALE
 */
WHARF_API int wharf_right_owner(wharf_task *task, wharf_name right, int64_t deadline_ns, struct wharf_owner *ret);

/* What a name is. */
enum wharf_kind {
        WHARF_KIND_SEND = 1,
        WHARF_KIND_PORT = 2,
        WHARF_KIND_SET = 3,
        WHARF_KIND_REPLY = 4,  /* a send-once right: made from a port, or to answer a call */
        WHARF_KIND_MEMORY = 5, /* wharf/memory.h */
};
/* Returns what a name is, an enum wharf_kind. Errors: -EBADF, -ESTALE. */
WHARF_API int wharf_name_kind(wharf_task *task, wharf_name name);

/*
 * A set: receive from several ports at once. A port is in one set at most, and while it is in one it can only be
 * received from through that. Adding and removing do not disturb what waits in the port.
 *
 * Errors: -EBADF, -EPERM, -EBUSY (the port is in a set already), -ENOENT (it is not in this set), -EMFILE, -ENOMEM
 */
WHARF_API int wharf_set_new(wharf_task *task, wharf_name *ret);
WHARF_API int wharf_set_add(wharf_task *task, wharf_name set, wharf_name port);
WHARF_API int wharf_set_remove(wharf_task *task, wharf_name set, wharf_name port);

/*
 * A descriptor that poll(), select() and epoll report as readable while a receive would not have to wait: for somebody
 * else's event loop. Level-triggered. Then call wharf_recv() or wharf_recvmsg() with deadline 0 until -EAGAIN, or just
 * once: what is left keeps the descriptor readable. It may now and then be readable for nothing.
 *
 * @name  a port or a set.
 * @ret   Borrowed: owned by the port. Do not read from it, and do not close it.
 *
 * Errors: -EBADF, -EPERM, -EMFILE, -ENFILE, -ENOMEM, -ESTALE
 */
WHARF_API int wharf_port_fd(wharf_task *task, wharf_name name, int *ret);

/*
 * Ask to be told of something, once: as a message whose `notice` says what (WHARF_NOTICE_*, wharf/message.h) and whose
 * `about` says about whom, at a port of one's own.
 *
 *      DEAD_NAME    the receiver of the right `about` is gone, or has revoked it. The notice comes at once if that is
 *                   so already. A right that answers a call cannot be asked about (-EPERM).
 *      NO_SENDERS   no send right to the port `about` is left anywhere, nor an unread message of one, and at least
 *                   `sync` send rights were made from it: by wharf_right_new(), WHARF_MAKE_SEND, and connections that
 *                   were accepted, but not by copying. The notice comes at once if that is so already. Send-once rights
 *                   do not count. A right on its way inside a message counts, and so does a copy that the owner has not
 *                   heard of yet. The notice says in `count` how many were made until then. So the race with a right
 *                   that is being made is closed: if you have made more than `count`, one of them is yet to be used,
 *                   and you ask again with `sync` at the number you made. It comes when a thread receives from `about`
 *                   or its set, which is how the library learns who is gone.
 *      SEND_POSSIBLE the queue of the right `about` has room for a small message. The notice comes at once if there is
 *                   room already, or if nothing can be sent any more. -EINVAL where the port's capacity is zero.
 *      SENT_LATER   the message that was left on the right `about` (WHARF_SEND_LATER) has gone into its queue: the next
 *                   one, or one that nobody was told about yet. The notice never comes if the receiver goes before.
 *
 * Notices that come unasked: WHARF_NOTICE_ONCE_UNUSED (wharf_once_new()).
 *
 * What was asked for is never lost for want of memory or descriptors. A request ends when its notice comes, with
 * wharf_notify_cancel(), with the drop of `about`, and with the drop of `port`; after the last nobody is told, not even
 * of what had happened already and was not received yet. A thread that receives from a port to which a notice may still
 * come waits for it, even when no sender is left. wharf_recv() drops notices; use wharf_recvmsg().
 *
 * @port  where to; WHARF_NONE for the task's Notify port (wharf_task_notify()).
 * @sync  for NO_SENDERS; otherwise 0.
 *
 * Errors: -EBUSY (asked for already), -EBADF, -EPERM (`about` is of a kind that this cannot happen to; `port` is no
 *         port), -EINVAL (`what` is no notice that can be asked for), -ENOMEM, -ENOSPC, -ESTALE
 */
WHARF_API int wharf_notify(wharf_task *task, uint32_t what, wharf_name about, wharf_name port, uint64_t sync);

/*
 * Name an heir: when `port` is dropped, or its task closed, it does not end but goes, with its links and all that is
 * unread, as a receive right over `right`, in a message of id WHARF_ID_PORT_DESTROYED with nothing else in it (Mach's
 * port-destroyed notification). Senders notice nothing. If it cannot go, it ends as ever: because the heir is dead or
 * its queue full, because a payload of it that was received in place is still held, or because there are no descriptors
 * for it. A task that is killed leaves nothing to its heirs. A port that is moved before has no heir any more; one that
 * listens stops doing so.
 *
 * @right  a send right of this task, which must still be there then; WHARF_NONE: no heir.
 *
 * Errors: -EOPNOTSUPP (made with WHARF_PORT_FIXED), -ELOOP (the right leads to that same port), -EBADF, -EPERM (a
 *         send-once right, or no port), -ESTALE
 */
#define WHARF_ID_PORT_DESTROYED 0xffff0006u
WHARF_API int wharf_port_heir(wharf_task *task, wharf_name port, wharf_name right);

/*
 * Take back what wharf_notify() asked for. Errors: -ENOENT (not asked for, or it came already, though perhaps not
 * received yet), -EBADF, ...
 */
WHARF_API int wharf_notify_cancel(wharf_task *task, uint32_t what, wharf_name about);

/* Short for wharf_notify(task, WHARF_NOTICE_DEAD_NAME, right, port, 0). */
WHARF_API int wharf_watch(wharf_task *task, wharf_name right, wharf_name port);

/*
 * Accept links from a listening SOCK_SEQPACKET Unix socket: whoever may connect to it gets a send right to `port`. The
 * socket stays the caller's and must stay open as long as the port, or until this ends with `fd` -1. A connection that
 * was not accepted by then waits in it, for the port that listens next or for the socket's close.
 *
 * Errors: -EINVAL (not a listening seqpacket socket), -EBUSY (the port listens already, or is on its way to another
 *         task), -EBADF, -EPERM, -ENOMEM, -ESTALE
 */
WHARF_API int wharf_port_listen(wharf_task *task, wharf_name port, int fd);

/*
 * Get a send right by connecting to such a socket.
 *
 * Errors: -ENOENT, -ECONNREFUSED, -EACCES, -EAGAIN (its queue of connections is full), -ENAMETOOLONG, -EMFILE, ...
 */
WHARF_API int wharf_right_connect(wharf_task *task, const char *path, wharf_name *ret);

/* How a port stands. Clear it and set `size`. */
struct wharf_port_stat {
        uint32_t size;
        uint32_t senders; /* links that are open, those of send-once rights too */
        wharf_port_id id;
        uint64_t queued_messages;   /* sent and not received, over all links; a moment's upper bound */
        uint64_t received_messages; /* since the port was made */
        uint64_t received_bytes;
        uint64_t mapped_bytes;      /* shared memory of its senders */
        uint64_t refused_links;     /* links closed for breaking the protocol or a limit */
        uint32_t receivers_waiting; /* threads */
        uint32_t once_rights;       /* of `senders`, those that are send-once rights */
        uint64_t made_rights;       /* send rights made, ever: what a NO_SENDERS notice has in `count` */
};
WHARF_API int wharf_port_stat(wharf_task *task, wharf_name port, struct wharf_port_stat *ret);

/* How a right stands. Clear it and set `size`. */
struct wharf_right_stat {
        uint32_t size;
        uint32_t attached; /* 1 when messages travel in shared memory, 0 while they are frames on a socket */
        wharf_port_id id;  /* of the port, as far as it is known; 0 otherwise */
        uint64_t sent_messages;
        uint64_t unread_messages;   /* upper bound. Counts after the receiver's death too. */
        uint64_t payload_bytes_max; /* what the port accepts */
        uint64_t shared_bytes;      /* shared memory this link pays for */
        int32_t dead;               /* 0, or why nothing can be sent any more: a negative errno */
        uint32_t full;              /* WHARF_FULL_*: by what the queue is full */
        uint64_t sender_id; /* of a right that this task made to a port of its own: the sender.id of whoever will
                                       use it; 0 otherwise */
};

enum {
        WHARF_FULL_NOT = 0,
        WHARF_FULL_RECORDS = 1, /* capacity_records messages are unread */
        WHARF_FULL_BYTES = 2,   /* what is unread and the message that was refused last are more than capacity_bytes */
        WHARF_FULL_MEMORY = 3,  /* the system, or link_mapped_bytes_max, had no memory for another place */
};
WHARF_API int wharf_right_stat(wharf_task *task, wharf_name right, struct wharf_right_stat *ret);

WHARF_END

#endif
