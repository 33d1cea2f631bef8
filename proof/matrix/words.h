/*
 * words - what hub and peer say to each other: the ids of messages, and payloads that say whose they are and are checked
 * byte by byte. Not outside of the files of a party.
 */
#ifndef MATRIX_WORDS_H
#define MATRIX_WORDS_H

#include "party.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define MSG(...) ((struct wharf_msg){.size = sizeof(struct wharf_msg), __VA_ARGS__})

/* What a peer asks of the hub: the id of a message. */
enum {
        ID_ENTER = 1, /* call: attached; the hub enters its environment's second half */
        ID_GIVE,      /* call: a right, over which the hub echoes to this stream */
        ID_SMALL,     /* a small message; it is echoed */
        ID_LARGE,     /* a large one; it is echoed */
        ID_COUNT,     /* call: how many small ones came on this stream */
        ID_CALL,      /* call: answered with `arg` bytes */
        ID_SLOW,      /* call: answered late */
        ID_NARROW,    /* call: gives a right to a port that holds `arg` messages */
        ID_DRAIN,     /* receive `arg` messages from there, one now and then */
        ID_TICK,      /* send `arg` messages to this stream, one now and then */
        ID_RIGHTS,    /* call: a right, a send-once right and a pipe: use each */
        ID_DEAD,      /* call: send over the kept right until it is dead */
        ID_MEMORY,    /* call: a memory comes, is checked, changed and goes back */
        ID_FILL,      /* call: send `arg` messages over the right that came, and keep it */
        ID_MOVED,     /* call: a port comes: receive half of what is in it, and give it back */
        ID_NAME,      /* call: look up the name, and send there */
        ID_BYE,       /* call: that was all */
};

/* In front of every payload. */
struct head {
        uint32_t stream, seq, arg, len_bytes; /* of what follows */
        uint64_t sum;
};

enum { REFUSED = 0xdead };
enum { LARGE_MAX = 1 << 20, REPLY_MAX = 300 << 10, REPLY_COLD_MAX = 60 << 10, WARM = 24, WINDOW = 12 };

/* A payload of `len` bytes behind a head: the whole length. */
size_t party_compose(void *to, unsigned stream, uint32_t seq, uint32_t arg, size_t len);
/* The head of what came, which is checked. */
struct head party_opened(const void *data, size_t len);
uint32_t party_small_len(uint32_t seq);

/* How many run the workload. */
unsigned party_threads(const struct env *e);
bool party_no_memory(const struct party *p);
bool party_scarce(const struct party *p);
/* Out of memory, descriptors, or not allowed to make any: what a scarce environment may answer. */
bool party_is_want(int r);

/* Sends a payload written in place where that can be; otherwise copied. */
void party_send_large(struct party *p, wharf_name right, const void *bytes, size_t len, unsigned stream, uint32_t seq);
/* A small message, and one that is expected. */
void party_note(struct party *p, wharf_name to, unsigned stream, uint32_t seq);
void party_noted(struct party *p, wharf_name from, unsigned stream, uint32_t seq, int64_t deadline_ns);

/* ---- hub.c ---- */
void party_hub_serve(struct party *p, unsigned stream);

/* ---- works.c ---- */
struct head party_ask_plain(struct party *p, uint32_t id, unsigned stream, uint32_t seq, uint32_t arg);

/* ---- party.c: with rights or without, from here on this is the process that does the work; they do not return ---- */
void party_hub_run(struct party *p);
void party_peer_run(struct party *p);
void party_run(struct party *p);

#endif
