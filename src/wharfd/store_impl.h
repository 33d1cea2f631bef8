/*
 * store_impl - what the files of the store share: the journal's records, and what a keeper hands over. See store.h.
 */
#ifndef WH_WHARFD_STORE_IMPL_H
#define WH_WHARFD_STORE_IMPL_H

#include "wharfd/notify.h"
#include "wharfd/store.h"

#include <assert.h>
#include <stdatomic.h>

#define JOURNAL_NAME "wharf-journal"
#define ENTRY_NAME "w" /* SLOT "-" GENERATION; short, for a service manager lists them in one string */
enum { RECORD_BYTES = 576, ENTRY_FDS_MAX = 2, ENTRY_OVER = 0x80 /* beside, in fds_of: see n_taking */ };

struct record {
        _Atomic uint32_t used; /* stored last: what is below it is whole (J1) */
        uint32_t zero;
        uint64_t generation;
        struct wh_stored e;
        uint8_t pad[RECORD_BYTES - 16 - sizeof(struct wh_stored)];
};
static_assert(sizeof(struct record) == RECORD_BYTES, "written by one wharfd and read by the next");

struct journal {
        uint64_t magic;
        uint64_t version;
        uint64_t generation; /* the last one that was used */
        uint8_t pad[RECORD_BYTES - 24];
        struct record record[];
};
static_assert(sizeof(struct journal) == RECORD_BYTES, "written by one wharfd and read by the next");

struct wh_store {
        int notify; /* -1: nobody holds anything for us any more (J4) */
        int fd;     /* the journal */
        bool held;  /* ... which the holder has */
        struct journal *j;
        size_t len;
        uint32_t n_records;
        uint32_t *free_slots;
        uint8_t *fds_of; /* by slot: descriptors that are held for it, as far as we know; 0: none, or not seen yet */
        uint32_t n_free, room_free;
        uint64_t fds, fds_max;
        uint32_t from; /* where the keeper's handing over goes on */
        bool whole;    /* everything was handed over */
        struct wh_store_state state;
        void (*lost)(void *arg, uint32_t slot, unsigned fds); /* is told what is not held */
        void *lost_arg;
        uint32_t asked;    /* the number of the last question to a keeper */
        uint32_t n_taking; /* slots that are over, and whose descriptors the holder was not told to let go of yet */
};

/* One part of what a keeper holds. */
struct part {
        uint32_t next;
        unsigned n, n_fds;
        char name[WH_HAND_FDS][WH_FD_NAME_MAX];
        uint8_t n_of[WH_HAND_FDS]; /* descriptors of each */
        int fd[WH_HAND_FDS];
};

/* ---- store.c ---- */

/* Nobody holds anything for us any more (J4). */
void wh_store_holder_gone(struct wh_store *s, int why);
/* Its record, and what we count of it, are free. Harmless where they are. */
void wh_slot_lost(struct wh_store *s, uint32_t slot);
/* Say it to the holder. Our own keeper reads, and is waited for; a service manager's queue anybody may fill: not now, then. */
int wh_store_say(struct wh_store *s, const char *text, const int *fds, unsigned n);
/* "wSLOT-GENERATION", as entry_text() writes it. */
bool wh_entry_parse(const char *name, uint32_t *ret_slot, uint64_t *ret_generation);
/* The slot of a record that is used, and that these descriptors belong to (J2). */
bool wh_entry_of(const struct wh_store *s, const char *name, uint32_t *ret);

/* ---- journal.c ---- */

int wh_journal_new(struct wh_store *s);
/* The journal of the wharfd before us. -EPROTO: of another version of it, perhaps. */
int wh_journal_old(struct wh_store *s, int fd);
/* The blocks are reserved, so that writing a record cannot fail. */
int wh_journal_grow(struct wh_store *s, uint32_t records);
/*
 * No entry is worth anything without it. ETOOMANYREFS: this user has too many descriptors on their way, whosever; that
 * passes, and before the next entry it is tried again.
 */
int wh_journal_hold(struct wh_store *s);
void wh_slot_free(struct wh_store *s, uint32_t slot);

/* ---- parts.c ---- */

/*
 * Ask for a part: from that place on, or what is held under that name. Each question has a number, which its answer has too: one to an
 * earlier question is dropped (the keeper has it all still). A keeper of before that has none.
 */
int wh_part_ask(struct wh_store *s, uint32_t from, const char *name, struct part *ret);
/* The same, patiently. */
int wh_part_ask_soon(struct wh_store *s, uint32_t from, const char *name, struct part *ret);
/* One message of the keeper's. 1: a part, in *ret; 0: another one; -EAGAIN: there is none; or why it is no part. */
int wh_part_hear(struct wh_store *s, struct part *ret);
void wh_part_drop(struct part *p);

#endif
