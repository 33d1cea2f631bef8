/*
 * wharf/direct.h - direct communication: processes that name each other, and no ports to be seen.
 *
 *      symmetric     send(P, message)   receive(Q, message)      both name the other
 *      asymmetric    send(P, message)   receive(&id, message)    from anyone; told who it was
 *
 * A process joins under a name, and from then on its peers are names as well. Between each pair that talks there is
 * exactly one link, which makes itself when first needed and works both ways: a queue in each direction, with the order
 * and the capacity of any port's. Messages that nobody has asked for wait in the queue of their sender, and do not
 * disturb other queues. A name that was left and is joined again is another peer, whose link has an order of its own.
 *
 * The library never takes from a message who a peer is. A name belongs to the process that the directory
 * (wharf/names.h) says it was registered by; a link belongs to a name if the kernel says that the process which made it
 * is that one. A message that claims to come from somebody else is dropped unread, and its sender gets -EPIPE. (So the
 * processes, and wharfd, must know each other by the same numbers: one pid namespace. A process of the same user that
 * is given the number of one that died can still pass for that one: the kernel has only numbers. A peer may also let
 * others send in its name, as it may pass on whatever it is told.) Names are those of the task's own domain, registered
 * there as "direct:NAME".
 *
 * Errors: see wharf/task.h. Time: deadlines hold for all that a call does on its way, as in wharf/names.h. While wharfd
 * does not answer, a receive goes on waiting for the peers that are known; new ones are let in once it answers.
 *
 * The end of a peer is reported once, by the first call that meets it. The next call for that name finds a new peer, or
 * waits for one. A process that was killed is not gone in one moment: the kernel closes what it had piece by piece, and
 * a call in between may make another link to it, whose end is reported again. For the last 1024 peers that left, only
 * the fact that they left is kept.
 * Threads: any number may send. One at a time may receive, as one process has one place where it waits; another gets
 * -EBUSY. wharf_direct_leave() must come last.
 */
#ifndef WHARF_DIRECT_H
#define WHARF_DIRECT_H

#include "message.h"
#include "names.h"

WHARF_BEGIN

#define WHARF_DIRECT_NAME_MAX (WHARF_NAME_MAX - 7) /* bytes, without the 0; the letters of any name */

typedef struct wharf_direct wharf_direct; /* opaque; a process under its name */

/*
 * Join: from now on others can send to this process under `name`.
 *
 * @ret  Owned by the caller; give it back with wharf_direct_leave(), before the task is closed.
 *
 * Errors: -EEXIST (somebody has that name), -EINVAL (not a name), -ETIMEDOUT (wharfd does not answer, within three
 *         times what wharf_register() waits), and as wharf_register() and wharf_port_new()
 */
WHARF_API int wharf_direct_join(wharf_task *task, const char *name, wharf_direct **ret);

/*
 * Leave, and free it. Waits for wharfd as wharf_unregister() does, twice at most. To its peers this looks like a death:
 * what they sent and nobody received is lost, and what was sent to them stays sent. NULL is allowed. Returns NULL.
 */
WHARF_API wharf_direct *wharf_direct_leave(wharf_direct *direct);

/*
 * Send to `peer`, waiting for somebody to join under that name, and for room, until the deadline. Returns 0 once the
 * message is queued: it will be received even if this process dies, unless the peer dies first.
 *
 * @data  Borrowed during the call, and copied.
 *
 * Errors: -ENOENT  nobody has joined as `peer`, or nobody had until the deadline
 *         -EPIPE   the peer has died or left, or does not believe that this process is the one it says it is
 *         -ETIMEDOUT  for a first message: wharfd does not answer (also where deadline_ns is 0)
 *         -EAGAIN, -ETIMEDOUT  the queue is full, or stayed full until the deadline; for a first message also: the peer
 *                  does not receive, and many others wait to be let in
 *         and as wharf_send() and wharf_lookup()
 */
WHARF_API int wharf_direct_send(wharf_direct *direct, const char *peer, const void *data, size_t len_bytes,
                                int64_t deadline_ns);

/* The same with all a message can have; as wharf_sendmsg(), which WHARF_SEND_LATER needs. */
WHARF_API int wharf_direct_sendmsg(wharf_direct *direct, const char *peer, struct wharf_msg *msg, int64_t deadline_ns);

/*
 * Receive the next message of `peer`, whatever others have sent; waits for it to join, too.
 *
 * @ret  the payload's length in bytes; or a negative errno
 *
 * Errors: -ENOTCONN  the peer has died or left, or has lost its link to this process, and all that it sent was
 *                    received. If it lives after all, its next link brings its messages again
 *         -EAGAIN, -ETIMEDOUT  none came
 *         -EOVERFLOW  the message is larger than `cap_bytes`; it stays first in its queue, and others are heard:
 *                     wharf_direct_recvmsg() from that peer receives it or drops it (wharf/message.h)
 *         -EBUSY      another thread is receiving
 *         -EMFILE     until the deadline this process had no descriptors for a new peer, or for what was sent
 *         -EINVAL, -ENOMEM, -EHOSTDOWN, -ESTALE
 */
WHARF_API ssize_t wharf_direct_recv(wharf_direct *direct, const char *peer, void *buf, size_t cap_bytes,
                                    int64_t deadline_ns);

/*
 * Receive the next message of anyone. Peers that have something take turns.
 *
 * @who  NULL, or where the peer's name is written, with a 0 behind it. After -EOVERFLOW as well: it says whose message
 *       that is.
 * @ret  as above. Others may always join, so it never ends with -ENOTCONN.
 */
WHARF_API ssize_t wharf_direct_recv_any(wharf_direct *direct, void *buf, size_t cap_bytes,
                                        char who[WHARF_DIRECT_NAME_MAX + 1], int64_t deadline_ns);

/*
 * The same with all a message carries, as wharf_recvmsg(): of `peer`, or of anyone if that is NULL. `from` must be 0.
 * Payloads go back with wharf_release(), requests are answered with wharf_reply(), of the task that joined.
 */
WHARF_API int wharf_direct_recvmsg(wharf_direct *direct, const char *peer, struct wharf_msg *msg,
                                   char who[WHARF_DIRECT_NAME_MAX + 1], int64_t deadline_ns);

WHARF_END

#endif
