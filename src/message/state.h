/*
 * state - what a moving port's carrier says: the words that one task writes and another reads (move.h).
 *
 * The carrier holds datagrams. The first has one descriptor, the *state*: a sealed memory with a head, the links in the order
 * in which they were made, and the bytes of small messages that were read and not delivered. The others have the descriptors
 * of the links, as many as fit each, in that order.
 *
 * Always true: who reads it holds each of these words against the others, and against what is really there, before any of
 * it is used (M4, M6: state.c, look.c).
 */
#ifndef WH_MESSAGE_STATE_H
#define WH_MESSAGE_STATE_H

#include "link/link.h"
#include "os/os.h"

#define WH_MOVE_MAGIC 0x65766f6d66726877u /* "whrfmove" */
#ifndef MOVE_VERSION                      /* proof/matrix/later.h */
#define MOVE_VERSION 3u
#endif

enum {
        WH_MOVE_BATCH = 253, /* descriptors in one datagram: the kernel's SCM_MAX_FD */
        WH_MOVE_LINK_FDS_MAX = 4 + WH_SECTIONS_MAX + 1 + WHARF_ITEMS_MAX + 2 + 1,
        WH_MOVE_BYTES_MAX = WH_COLD_MAX, /* of a message in private memory; what is larger is a memory of its own */
        WH_MOVE_SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE,
};

struct wh_move_head {
        uint64_t magic;
        uint32_t version;
        uint32_t n_links;
        uint64_t n_fds;   /* in the carrier, beside the state itself */
        uint64_t n_bytes; /* behind the links */
        uint64_t port_id;
        uint64_t payload_bytes_max;
        uint64_t link_mapped_bytes_max;
        uint64_t mapped_bytes_max;
        uint64_t received_messages;
        uint64_t received_bytes;
        uint64_t refused;
        uint32_t flags;
        uint32_t capacity_records;
        uint32_t links_max;
        uint32_t unread_rights_max;
        uint32_t introduced_max;
        uint32_t unused_notices; /* of send-once rights, which the former owner had not received */
        uint64_t made;           /* send rights, ever */
        uint64_t capacity_bytes;
        uint64_t reply_bytes_max;
        uint64_t link_reply_bytes_max;
        uint32_t link_answers_max;
        uint32_t zero;
};
static_assert(sizeof(struct wh_move_head) == 152, "both processes rely on this layout");

enum wh_move_flags {
        WH_MOVE_LANE = 1,     /* requests travel in a lane: out, back, n_sections descriptors */
        WH_MOVE_TX_LANE = 2,  /* replies did, up to the record tx_ended */
        WH_MOVE_FULL = 4,     /* a message was read and not delivered yet */
        WH_MOVE_BUILDING = 8, /* ... or is being put together */
        WH_MOVE_MEMORY = 16,  /* ... and what came of it is a memory of its own: one descriptor */
        WH_MOVE_CRED = 32,    /* cred is known */
        WH_MOVE_CHANGE = 64,  /* the sender goes over to a pair of its own: one descriptor */
        WH_MOVE_CHANGE_LANE = 128,
        WH_MOVE_ONCE = 256,  /* a send-once right */
        WH_MOVE_NEXT = 512,  /* a further ring was announced: one descriptor, behind the sections */
        WH_MOVE_TELL = 1024, /* its sender waits to be told that it was taken */
        WH_MOVE_CHANGE_CRED = 2048,
        WH_MOVE_DIRECTORY = 4096, /* a directory's, and no sender */
        WH_MOVE_FLAGS = 8191,
};

struct wh_move_cred {
        int32_t pid;
        uint32_t uid, gid;
};

/* Its descriptors: socket; out, back and sections; the memory of a message; the items; the pair to go over to. */
struct wh_move_link {
        uint32_t flags;
        uint32_t introducer; /* index of the link that introduced it, and 1; 0: none that is here */
        struct wh_move_cred cred;
        uint32_t frames_got, renews, zero2;
        /* sending */
        uint64_t tx_seq, tx_ended, known_taken;
        uint32_t items_unread, cold_sent, cold_bytes;
        /* receiving */
        uint32_t n_sections;
        uint64_t rx_seq, pos, records;
        uint32_t generation, want_rung, released, zero3;
        /* the message in private memory */
        uint64_t len, have, offer;
        uint32_t id, call, stash_items, how;
        /* descriptors that came ahead */
        uint64_t items_seq;
        uint32_t n_items;
        uint8_t item_kind[WHARF_ITEMS_MAX + 4];
        /* the change */
        struct wh_move_cred change_cred;
        uint32_t zero;
        uint64_t change_seq, change_records;
        struct wh_origin formers; /* who introduced it, all as one */
};
static_assert(sizeof(struct wh_move_link) == 288, "both processes rely on this layout");

/* Each datagram of a carrier but for its descriptors. */
struct wh_move_datagram {
        uint64_t magic;
        uint32_t version;
        uint32_t index; /* 0: the state; then the others in order */
        uint32_t count; /* datagrams in all */
        uint32_t n_fds; /* in this one */
};
static_assert(sizeof(struct wh_move_datagram) == 24, "both processes rely on this layout");

/* clang-format off */
/* The words that are an option of the port, by its own name: `X(option)`. */
#define WH_MOVE_OPTS(X) \
        X(capacity_records) X(capacity_bytes) X(links_max) X(unread_rights_max) X(introduced_max) X(payload_bytes_max) \
        X(link_mapped_bytes_max) X(mapped_bytes_max) X(reply_bytes_max) X(link_reply_bytes_max) X(link_answers_max)

/* Those that are a number of the link, or of the lane that it receives from, and come as they go: `X(word, member)`. */
#define WH_MOVE_NUMBERS(X) \
        X(frames_got, in.frames_got) X(tx_seq, out.seq) X(known_taken, out.known_taken) \
        X(items_unread, out.items_unread) X(cold_sent, out.cold_sent) X(cold_bytes, out.cold_bytes) X(rx_seq, in.seq)
#define WH_MOVE_LANE_NUMBERS(X) \
        X(pos, ring.pos) X(records, ring.records) X(generation, ring.generation) X(want_rung, ring.want_rung) \
        X(released, released)
/* clang-format on */

/* Datagrams in a carrier with so many descriptors beside the state. */
static inline uint64_t wh_move_datagrams(uint64_t n_fds)
{
        return 1 + (n_fds + WH_MOVE_BATCH - 1) / WH_MOVE_BATCH;
}

#endif
