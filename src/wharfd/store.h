/*
 * store - what a wharfd that is killed leaves to the next one.
 *
 * Descriptors are held by somebody else: the system's service manager, or wharfd's own keeper (keeper.h). Both are
 * spoken to in the same words, those of sd_notify(3): FDSTORE=1 with FDNAME= and the descriptors, FDSTOREREMOVE=1 with
 * FDNAME=. No library is needed. A service manager gives back what it holds at the start of the next wharfd, by
 * LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES of sd_listen_fds(3): a list in one variable, which the kernel allows 128
 * KiB. A keeper has no such limit, since it hands over in parts, on the same socket:
 *
 *      WHARF_HAND=FROM N, with FDNAME=     the server asks: from that place on, or what is held under that name. N is
 *                                          the number of this question
 *      WHARF_HANDED=NEXT ... N             the keeper: a line "DESCRIPTORS NAME" for each entry, and the descriptors;
 *                                          at NEXT it goes on, and 0 is the end. Also how many servers died, how many
 *                                          could not be started, and why the last of these could not
 *      WHARF_REFUSED=ERRNO N               the keeper: not now
 *      WHARF_UNHELD=ERRNO NAME             the keeper, unasked: this is not held
 *
 * What is not a descriptor (name, owner, greeting ...) is in the journal, a memfd that is held like all others: an
 * array of records, each written by the one wharfd there is.
 *
 * Always true, at whichever instruction wharfd dies:
 *   J1  An entry exists when its record is marked used and the holder has a socket under the record's own name. A
 *       record is written before its descriptors are sent, and freed after they were taken back; so half an entry is a
 *       record without a socket, which the next wharfd frees.
 *   J2  Records of a slot bear a generation that is never used again, and it is part of the descriptors' name: what the
 *       holder may still have of an earlier one is known for what it is, and thrown away.
 *   J3  What was sent to the holder is in the kernel's hands once the call returns: our death does not undo it.
 *   J4  A store that cannot be reached loses durability and nothing else: every call goes on as if it were there. The
 *       server knows what is not kept, puts it again when there may be room, and tells those who ask (WH_NAMES_STATE).
 *   J5  An entry that was handed over leaves its holder only when the server has no use for it for good. Where the
 *       server is short of something, it asks for the entry again.
 *   J6  Pages take no more than half of what the holder has room for: they are figures of `wharf ls`, sockets are
 *       names.
 */
#ifndef WH_WHARFD_STORE_H
#define WH_WHARFD_STORE_H

#include "right/kept.h"
#include "names/proto.h"
#include "wharfd/given.h"
#include "wharfd/rules.h"

enum {
        /* Of one part that a keeper hands over. */
        WH_HAND_FDS = 32,
        WH_HAND_HEAD_MAX = 80,
        WH_HAND_TEXT_MAX = 1280,
};

enum wh_stored_kind { WH_STORED_NAME = 1, WH_STORED_WATCH = 2 };

struct wh_stored {
        uint16_t kind;  /* enum wh_stored_kind */
        uint16_t known; /* enum wharf_known: how pid and who are */
        int32_t pid;
        struct wh_cookie cookie;
        struct wh_kept kept;
        char name[WHARF_NAME_MAX + 8]; /* or a pattern */
        struct wh_who who;
};

#define WH_STORE_NONE UINT32_MAX /* no slot: this entry is not kept */

struct wh_store;
/*
 * The store behind `notify_fd`, which is our own keeper's or a service manager's, with the journal that it holds, or a
 * new one. Takes the journal out of `given`, and `notify_fd` also on failure. Errors: -ENOMEM, -EMFILE, -ETIMEDOUT, ...
 */
int wh_store_open(int notify_fd, bool keeper, struct wh_given *given, unsigned n, struct wh_store **ret);
struct wh_store *wh_store_free(struct wh_store *s);

/* Who is told of each slot that the holder says it has not got, with how many descriptors it was to have; it is free by then. */
void wh_store_lost_to(struct wh_store *s, void (*lost)(void *arg, uint32_t slot, unsigned fds), void *arg);
/* How many descriptors the holder may have in all, and how many it has of that slot. */
uint64_t wh_store_fds_max(const struct wh_store *s);
unsigned wh_store_fds_of(const struct wh_store *s, uint32_t slot);
/* Is that name one of those that the last wharfd left, and that were not taken up yet? Then somebody else has it. */
bool wh_store_owes(const struct wh_store *s, const char *name, const struct wh_cookie *cookie);
/* Is there something that the holder is to let go of, and could not be told? Tell it again. True: some is left. */
bool wh_store_takes(const struct wh_store *s);
bool wh_store_take_again(struct wh_store *s);

/* WH_STORE_NONE: the last one that was not kept was not for this reason. */
uint32_t wh_store_not_kept(struct wh_store *s, int why);
/* Put an entry with its socket, and its page or -1. The slot; WH_STORE_NONE where it could not be kept. */
uint32_t wh_store_put(struct wh_store *s, const struct wh_stored *e, int sock, int page);
/* Harmless for WH_STORE_NONE, and for a store that is NULL. */
void wh_store_remove(struct wh_store *s, uint32_t slot);
/* May another one be put, as far as we know? */
bool wh_store_has_room(const struct wh_store *s);

/*
 * Call `fn` for each entry that the last wharfd left. It takes `sock` and `page` (which may be -1) and answers 0 when
 * it goes on with that entry; -EMFILE, -ENFILE or -ENOMEM when it cannot now; anything else removes the entry.
 * Everything else that was left is removed too, once all have been seen. 0; or what a keeper's handing over failed of:
 * then it is to be called again, a little later, until it answers 0.
 */
int wh_store_restore(struct wh_store *s, struct wh_given *given, unsigned n,
                     int (*fn)(void *arg, const struct wh_stored *e, uint32_t slot, int sock, int page), void *arg);

/* What a keeper says unasked is to be heard when this is readable; -1: there is nothing to hear. */
int wh_store_fd(const struct wh_store *s);
/* Hear it. */
void wh_store_hear(struct wh_store *s);

/* How it is with the holder. */
struct wh_store_state {
        bool held;       /* somebody holds: it was alive when last spoken to */
        bool keeper;     /* ... and is our own keeper */
        int error;       /* why the last entry was not kept; 0 or a negative errno */
        int owed;        /* not everything has been handed over yet: why */
        uint32_t deaths; /* of servers, as our keeper counts */
        uint32_t fails;  /* servers that it could not start */
        uint32_t fail;   /* why the last one could not be, an errno */
};
struct wh_store_state wh_store_state(const struct wh_store *s);

#endif
