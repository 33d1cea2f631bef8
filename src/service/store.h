/*
 * store - what a wharfd that is killed leaves to the next one.
 *
 * Descriptors are held by somebody else: the system's service manager, or wharfd's own keeper (keeper.h). Both are
 * spoken to in the same words, those of sd_notify(3): FDSTORE=1 with FDNAME= and the descriptors, FDSTOREREMOVE=1 with
 * FDNAME=; and both give back what they hold in the same way, LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES of
 * sd_listen_fds(3). No library is needed for either.
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
 *   J4  A store that cannot be reached loses durability and nothing else: every call goes on as if it were there.
 */
#ifndef WH_SERVICE_STORE_H
#define WH_SERVICE_STORE_H

#include "port/kept.h"
#include "service/proto.h"
#include "service/rules.h"

enum { WH_FD_NAME_MAX = 64 };

/* A descriptor that was handed to this process, with the name it was given. */
struct wh_given {
        int fd; /* -1 once somebody has taken it */
        char name[WH_FD_NAME_MAX];
};

/*
 * The descriptors that a service manager or a keeper passed to this very process, made close-on-exec; the variables are
 * removed, so that no child believes them to be its own. *ret_n is 0 when there are none. free() *ret.
 */
int wh_given_take(struct wh_given **ret, unsigned *ret_n);
/* Close what nobody took. */
void wh_given_done(struct wh_given *given, unsigned n);
/* The socket to whoever holds descriptors for us: of the keeper, or of $NOTIFY_SOCKET; -1 when there is none. */
int wh_notify_open(void);
/* "READY=1" and the like. Failing is harmless. */
void wh_notify(int fd, const char *text);
/* A descriptor to be held under this name. */
int wh_notify_keep(int fd, const char *name, int what);

enum wh_stored_kind { WH_STORED_NAME = 1, WH_STORED_WATCH = 2 };

struct wh_stored {
        uint32_t kind; /* enum wh_stored_kind */
        int32_t pid;
        struct wh_cookie cookie;
        struct wh_kept kept;
        char name[WHARF_NAME_MAX + 8]; /* or a pattern */
        struct wh_who who;
};

#define WH_STORE_NONE UINT32_MAX /* no slot: this entry is not kept */

struct wh_store;
/*
 * The store behind `notify_fd`, with the journal from among what was given, or a new one. Takes both; `notify_fd` also
 * on failure. Errors: -ENOMEM, -EMFILE, ...
 */
int wh_store_open(int notify_fd, struct wh_given *given, unsigned n, struct wh_store **ret);
struct wh_store *wh_store_free(struct wh_store *s);

/* Put an entry with its socket, and its page or -1. The slot; WH_STORE_NONE where it could not be kept. */
uint32_t wh_store_put(struct wh_store *s, const struct wh_stored *e, int sock, int page);
/* Harmless for WH_STORE_NONE, and for a store that is NULL. */
void wh_store_remove(struct wh_store *s, uint32_t slot);

/*
 * Call `fn` for each entry that the last wharfd left. It takes `sock` and `page` (which may be -1) and answers whether
 * it goes on with that entry; if not, the entry is removed. Everything else that was left is removed too.
 */
void wh_store_restore(struct wh_store *s, struct wh_given *given, unsigned n,
                      bool (*fn)(void *arg, const struct wh_stored *e, uint32_t slot, int sock, int page), void *arg);

#endif
