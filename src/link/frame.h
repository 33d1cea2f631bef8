/*
 * frame - one datagram on a link's socket.
 *
 * Everything that is not a record in a lane: the greeting, cold messages, the descriptors that belong to records, the
 * making and changing of links. A doorbell is a datagram of one byte and no frame at all.
 *
 * Always true of what wh_frame_recv() returns: the head was copied before it was looked at, magic and version are
 * ours, `len` is what really came, and the descriptors number exactly n_fds. Anything else is -EPROTO.
 */
#ifndef WH_LINK_FRAME_H
#define WH_LINK_FRAME_H

#include "task/account.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define WH_FRAME_MAGIC 0x46485257u
#ifndef WH_FRAME_VERSION /* proof/matrix/later.h */
#define WH_FRAME_VERSION 3u
#endif

/*
 * Whom a frame is written for. What one of us wrote can be handed to another by whoever got it, or got the socket that it
 * lies in; so nobody takes what was not written for one in its place.
 */
enum wh_frame_to {
        WH_TO_OWNER = 1,  /* by the holder of a send right, to the owner of the port */
        WH_TO_HOLDER = 2, /* by the owner of the port, to the holder of a send right */
        WH_TO_ONCE = 3,   /* the one message of a send-once right: taken only where this end was made for one */
        WH_TO_ENDS
};

enum {
        WH_COLD_MAX = 16 << 10, /* payload bytes in one cold frame */
};

/* Who sends it is said by the arrow: H the holder of the send right, O the owner of the port. */
enum wh_frame_type {
        WH_FRAME_BELL = 0,    /* not a frame: one byte. "look at the lane" */
        WH_FRAME_HELLO = 1,   /* O > H  struct wh_hello; seq: that of the WHO it answers, or 0; in an answer
                                  `total` says which of my ports it is, whatever their ids are */
        WH_FRAME_MESSAGE = 2, /* both   the kinds of n_fds items, then payload; arg: WH_MSG_* */
        WH_FRAME_ITEMS = 3,   /* both   the kinds; the descriptors of record number `seq` */
        WH_FRAME_ATTACH = 4,  /* both   descriptors out and back: data travels in this lane from here on */
        WH_FRAME_SECTION = 5, /* both   one descriptor: the next section of the lane */
        WH_FRAME_REBIND = 6,  /* H > O  one descriptor: the pair I made; my present lane ends here (WH_CHANGE_*). Behind
                                  the head struct wh_origin: for which port, and from whom I have my right */
        WH_FRAME_ADOPT = 7,   /* H > O  one descriptor: a link for somebody whom I introduce; arg: WH_ADOPT_* */
        WH_FRAME_REFUSE = 8,  /* O > H  arg: the errno for which the link ends here; id: enum wh_refusal; total: the
                                  limit that was reached, or 0 */
        WH_FRAME_VIA = 9,     /* O > H  one descriptor: the reply to `call` comes there */
        WH_FRAME_DROPPED = 10, /* O > H  the call `call` ends without a reply; arg: ECANCELED */
        WH_FRAME_RENEW = 11,   /* O > H  the port has moved: make a pair of your own; my lane ends here (WH_CHANGE_*) */
        WH_FRAME_GIVEN = 12,   /* H > O  struct wh_origin: I pass this right on unused, and had it from there */
        WH_FRAME_RING = 13,    /* both   one descriptor: the ring that follows when the lane's has ended (NEXT) */
        WH_FRAME_TAKEN = 14,   /* O > H  the cold message `seq`, and all before it, were taken */
        WH_FRAME_WHO = 17,     /* H > O  greet me again, with `seq`: the kernel says who you are */
        WH_FRAME_TYPES
};

enum {
        WH_MSG_FIRST = 1, /* of the fragments of a message */
        WH_MSG_LAST = 2,
        WH_MSG_MEMORY = 4,         /* the payload is in the last descriptor, a sealed memory of `total` bytes */
        WH_MSG_TELL = 8,           /* answer with TAKEN when it was taken: the sender counts its cold messages */
        WH_MSG_REFUSED_SHIFT = 16, /* from here on: rec_ext.arg of a reply */
};

/* Which limit, where the errno alone does not say. */
enum wh_refusal {
        WH_REFUSAL_PLAIN = 0,
        WH_REFUSAL_INTRODUCED = 1,   /* whoever introduced this link may introduce no more */
        WH_REFUSAL_LINKS = 2,        /* the links of one user at one port */
        WH_REFUSAL_RIGHTS = 3,       /* the rights of one user that are read and not received */
        WH_REFUSAL_BYTES = 4,        /* the memory mapped for one user */
        WH_REFUSAL_TASK_LINKS = 5,   /* the links of one user in all of the task: half of its descriptors */
        WH_REFUSAL_ANSWERS = 6,      /* calls of one sender that are received and not answered */
        WH_REFUSAL_TASK_ANSWERS = 7, /* ... of one user, in all of the task */
        WH_REFUSALS
};

/*
 * REBIND, RENEW, and the HELLO on a pair that the holder made: `seq` messages were sent before; with WH_CHANGE_LANE in
 * `arg` the lane they travelled in ends with record number `total`, and what follows comes as frames or in another.
 */
enum {
        WH_CHANGE_LANE = 1,
        WH_CHANGE_GREETING = 2, /* in `arg` of such a HELLO */
        WH_CHANGE_AWAITED = 4,  /* of a REBIND: I go over when that has come */
};

/*
 * `call` of a request that was passed on as a whole: the right to answer it is the first of its items, and not this link's. Calls that
 * are answered on the link have smaller numbers.
 */
#define WH_CALL_CARRIED UINT32_MAX
/* ADOPT, of a directory: `id` is the user that has asked, where mine is `call`. */
enum { WH_ADOPT_ASKED = 1 };

struct wh_frame {
        uint32_t magic;
        uint8_t version;
        uint8_t to; /* enum wh_frame_to */
        uint8_t type;
        uint8_t n_fds;
        uint64_t seq;
        uint64_t total;
        uint32_t id;
        uint32_t call;
        uint32_t arg;
        uint32_t len; /* bytes behind this head */
};
static_assert(sizeof(struct wh_frame) == 40, "both processes rely on this layout");

struct wh_hello {
        uint64_t port_id;
        uint64_t payload_bytes_max;
        uint64_t link_mapped_bytes_max;
        uint32_t capacity_records;
        uint32_t unread_rights_max;
        uint64_t capacity_bytes; /* of large payloads; 0, or missing: the default */
};
static_assert(sizeof(struct wh_hello) == 40, "both processes rely on this layout");
enum { WH_HELLO_MIN = 32 };                    /* bytes of a greeting that everybody knows */
#define WH_CAPACITY_BYTES ((uint64_t)32 << 20) /* the default */

/*
 * What grows while the version stays: a greeting, and what lies behind the head of an ATTACH, may be longer than this
 * one, and who does not know the rest does without it. Everything else that a party does not know it refuses, so nobody
 * sends that before the other side has said, in those bytes, that it does know it.
 */
#ifndef WH_LATER_BYTES /* proof/matrix/later.h */
#define WH_LATER_BYTES 0
#endif

/* With REBIND and GIVEN. */
struct wh_origin {
        uint64_t port_id; /* of the port that the holder believes to speak to; 0: no greeting has reached it */
        int32_t pid;      /* of whoever gave it the right; its own word, numbers included */
        uint32_t uid, gid;
        uint32_t known; /* enum wharf_known */
};
static_assert(sizeof(struct wh_origin) == 24, "both processes rely on this layout");

/* Which process sent a frame, in the kernel's words. */
struct wh_cred {
        pid_t pid;
        uid_t uid;
        gid_t gid;
        bool known;
};

/*
 * Send one frame with `len` bytes of `data` and f->n_fds descriptors; f->to says for whom. Fills in magic, version and
 * len. `cred` adds this
 * process's credentials for the other side to see. -EAGAIN: the socket is full; -EPIPE: nobody is there any more.
 */
int wh_frame_send(int sock, struct wh_frame *f, const void *data, size_t len, const int *fds, bool cred);
/* The same with data that lies in two places, each of which may be empty. */
int wh_frame_send_parts(int sock, struct wh_frame *f, const struct iovec part[2], const int *fds, bool cred);
/* The same with a HELLO, to a holder. */
int wh_frame_greet(int sock, struct wh_frame *f, const struct wh_hello *h);
/* A doorbell. A full socket counts as rung. 0 or -EPIPE. */
int wh_frame_bell(int sock);

/*
 * Receive one. 1: *f (with type WH_FRAME_BELL for a doorbell), its bytes in `data` (of WH_COLD_MAX + WH_FDS_MAX) and
 * its descriptors in `fds` (of WH_FDS_MAX), which are the caller's to close. 0: nothing there now. -EPIPE: the end,
 * with everything read. -EPROTO, -EPROTONOSUPPORT: no frame of ours. -EMFILE: this process has no room for the
 * descriptors that it says, whose number is in f->n_fds.
 */
int wh_frame_recv(int sock, struct wh_frame *f, void *data, int *fds, struct wh_cred *cred);
/*
 * The same, and the frame stays where it is until wh_frame_take(): so it is not lost where there is no memory for it
 * now. Those in `fds` are copies. Nothing that was looked at may have effect before it was taken: others may have our
 * end as well, read from it meanwhile, or have us look somewhere else in the queue.
 */
int wh_frame_peek(int sock, struct wh_frame *f, void *data, int *fds, struct wh_cred *cred);
/*
 * The same; and where others have us look behind what there is (SO_PEEK_OFF), so that there seems to be nothing, it is
 * looked at from the beginning.
 */
int wh_frame_peek_first(int sock, struct wh_frame *f, void *data, int *fds, struct wh_cred *cred);
/*
 * Take what was looked at; `looked` has its descriptors, which stay the caller's, or is NULL. 0; -ENOMEM, -ENOBUFS: it is
 * still there; -EPROTO: something else came, and is lost.
 */
int wh_frame_take(int sock, const struct wh_frame *f, const int *looked);

/* Tell the holder that its link ends here: for the errno `err`, which limit, and how much that is. */
void wh_frame_refusal(int sock, int err, enum wh_refusal which, uint64_t limit);
/*
 * The same before anything of the link was read. The holder may have sent a pair of its own already, and listens there then,
 * so it is told there as well.
 */
void wh_frame_refuse(int sock, int err, enum wh_refusal which, uint64_t limit);

/* How many of those that were sent over a socket may be unread, and not more: the kernel counts bytes. */
uint32_t wh_frames_unread(int sock);

/* Is `fd` an end of a connected SOCK_SEQPACKET Unix socket? 0 or -EPROTO. */
int wh_frame_check_socket(int fd);

#endif
