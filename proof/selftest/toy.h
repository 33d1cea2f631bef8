/*
 * toy - small objects in shared memory, each with mistakes that can be switched on: what the engines must find.
 *
 *      ring      16 records between one sender and one receiver; published by the store of a number
 *      account   two numbers with a constant sum, guarded by an undo record; a survivor rolls back
 *      lease     a word that whoever holds the newest generation may change
 */
#ifndef PROOF_SELFTEST_TOY_H
#define PROOF_SELFTEST_TOY_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum toy_bug {
        TOY_SOUND,
        TOY_PUBLISH_EARLY,    /* the number is stored before the payload */
        TOY_REPAIR_ONCE,      /* the undo record is thrown away before it was applied */
        TOY_NO_UNDO,          /* there is no undo record */
        TOY_NOT_FENCED,       /* a writer that was passed over stores anyway */
        TOY_WAITS_FOR_DEAD,   /* the survivor spins until the victim is done */
        TOY_NO_CHECK,         /* a length is believed */
        TOY_DOUBLE_FETCH,     /* a length is checked, and then loaded again */
        TOY_UNBOUNDED,        /* as much work as the other side says */
        TOY_LEAKS_PADDING,    /* a structure is sent with its holes */
        TOY_LEAKS_DESCRIPTOR, /* an error leaves one open */
        TOY_LEAKS_MEMORY,     /* an error leaves an allocation */
        TOY_CHANGES_OUTPUT,   /* an error after the output was written */
        TOY_HIDES_ERROR,      /* an error becomes another */
        TOY_BUGS
};
extern enum toy_bug toy_bug;

enum { TOY_RECORDS = 16, TOY_PAYLOAD = 56 };

struct toy_record {
        _Atomic uint32_t seq;
        uint32_t len;
        uint8_t payload[TOY_PAYLOAD];
};

struct toy_out {
        struct toy_record record[TOY_RECORDS];
};

struct toy_back {
        _Atomic uint32_t taken;
        _Atomic uint32_t dropped; /* records the receiver says it dropped: the sender walks them */
};

/* Both ends in one process; a forked child uses the one that is its own. */
struct toy_ring {
        struct toy_out *out;            /* the sender's mapping */
        struct toy_back *back;          /* the receiver's */
        const struct toy_out *out_seen; /* read-only, the receiver's */
        const struct toy_back *back_seen;
        uint32_t sent, taken;
        int out_fd, back_fd;
};
int toy_ring_new(struct toy_ring **ret);
struct toy_ring *toy_ring_free(struct toy_ring *r);
int toy_send(struct toy_ring *r, const void *bytes, uint32_t len);
/* The length, -EAGAIN, -EPROTO. `buf` holds TOY_PAYLOAD bytes. */
int toy_receive(struct toy_ring *r, void *buf);
/* Tells the other end of `sock` how far we are, in a structure. */
int toy_tell(struct toy_ring *r, int sock);

struct toy_account {
        _Atomic uint64_t a, b;
        _Atomic uint64_t undo_a, undo_b;
        _Atomic uint32_t undo_valid;
};
int toy_account_new(struct toy_account **ret);
void toy_account_free(struct toy_account *acc);
void toy_move(struct toy_account *acc, uint64_t amount);
void toy_repair(struct toy_account *acc);

/* High half: generation; low half: value. */
struct toy_lease {
        _Atomic uint64_t word;
        _Atomic uint32_t done;
};
int toy_lease_new(struct toy_lease **ret);
void toy_lease_free(struct toy_lease *l);
/* 0, or -ESTALE: somebody else took over meanwhile. */
int toy_lease_write(struct toy_lease *l, uint32_t value);
void toy_lease_take_over(struct toy_lease *l);

#endif
