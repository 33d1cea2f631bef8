/*
 * receive - one datagram from a Unix socket, with what the kernel gives beside its bytes.
 *
 * Why: a process that has a copy of our end of a socket can set options on it, at any moment: to be given pidfds, time
 * stamps or labels with each datagram, or to have the next look begin in the middle of the queue (SO_PEEK_OFF). What
 * comes is read in this one place, and nothing here relies on an option that was set, or left alone, before.
 *
 * Always true of what wh_os_receive() returns: every descriptor that came is in `fds`, or is closed (closer.h).
 */
#ifndef WH_OS_RECEIVE_H
#define WH_OS_RECEIVE_H

#include <stdbool.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

enum { WH_OS_FDS_MAX = 253 }; /* in one datagram: the kernel's SCM_MAX_FD */

/* Did all the descriptors come that the datagram has? */
enum wh_came_fds {
        WH_FDS_ALL,
        WH_FDS_SHORT, /* no: this process has none left */
        WH_FDS_CUT,   /* no, and that is the sender's doing: more than there is room for, or such as we may not have */
};

struct wh_came {
        int *fds;      /* in: where they go */
        unsigned room; /* in: how many; those beyond are closed */
        unsigned n;
        bool beside;  /* something came beside the bytes, whatever it is */
        bool surplus; /* some were */
        bool cut;     /* the datagram is longer than its buffers */
        enum wh_came_fds all;
        bool known;       /* the kernel says who sent it: */
        struct ucred who; /* where nothing was known, this is whom it names then */
        bool bare; /* in: to be looked at (MSG_PEEK) without its descriptors; `all` tells whether there are any */
        bool once; /* in: it is not read again where descriptors are missing, for the socket has a SO_PEEK_OFF */
};

/*
 * Never waits; `flags` may have MSG_PEEK and MSG_TRUNC. The bytes that came (or, with MSG_TRUNC, that there are); 0 is
 * the end (os.O6), or an empty datagram. -EAGAIN: nothing there now. -EPIPE: the end. -ENOMEM, -ENOBUFS: it is as it
 * was.
 */
ssize_t wh_os_receive(int sock, struct iovec *iov, unsigned n_iov, int flags, struct wh_came *c);

/*
 * Throw away up to `n` datagrams that wait, as far as they are there, and whatever they have beside their bytes. How
 * many there were, or why none.
 */
int wh_os_discard(int sock, unsigned n);

#endif
