/*
 * memory - what the proofs of src/memory share, heaps aside (heap.h): a page of locks and a buffer in memory that all
 * parties map, and a name for a segment.
 */
#ifndef PROOF_MEMORY_H
#define PROOF_MEMORY_H

#include "engine/proof.h"
#include "wharf/buffer.h"
#include "wharf/segment.h"
#include "wharf/sync.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MEMORY_BUFFER = 16 << 10, MEMORY_UNITS = 3, MEMORY_SEGMENT = 3 * 4096 };

struct memory_shared {
        wharf_mutex mutex;
        wharf_sem sem;
        wharf_event event;
        _Atomic uint32_t changes;
        uint64_t a, b; /* guarded by mutex: equal while nobody holds it */
        _Alignas(64) uint8_t buffer[MEMORY_BUFFER];
};

struct memory_state {
        struct memory_shared *shared;
        wharf_buffer *buffer;
        wharf_segment *segment;
        char name[64];
};

static inline void memory_map(struct proof *p)
{
        struct memory_state *s = p->state;
        s->shared = mmap(NULL, sizeof *s->shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        PROOF_CHECK(p, s->shared != MAP_FAILED);
        snprintf(s->name, sizeof s->name, "posix:wharf-proof-%d", (int)getpid());
}

static inline void memory_teardown(struct proof *p)
{
        struct memory_state *s = p->state;
        s->buffer = wharf_buffer_close(s->buffer);
        s->segment = wharf_segment_close(s->segment);
        munmap(s->shared, sizeof *s->shared);
        int r = wharf_segment_remove(s->name);
        PROOF_CHECK(p, r == 0 || r == -ENOENT);
}

/* The operation's name begins with the kind of buffer. */
static inline void memory_format(struct proof *p)
{
        struct memory_state *s = p->state;
        const char *name = p->op->name;
        struct wharf_buffer_opts o = {.size = sizeof o, .item_bytes_max = 48, .places = 8, .users_max = 8};
        o.kind = !strncmp(name, "bounded", 7)    ? WHARF_BUFFER_BOUNDED
                 : !strncmp(name, "circular", 8) ? WHARF_BUFFER_CIRCULAR
                                                 : WHARF_BUFFER_UNBOUNDED;
        if (o.kind == WHARF_BUFFER_UNBOUNDED)
                o.item_bytes_max = o.places = 0;
        PROOF_EQ(p, wharf_buffer_format(s->shared->buffer, MEMORY_BUFFER, &o), 0);
}

static inline void memory_setup_buffer(struct proof *p)
{
        struct memory_state *s = p->state;
        memory_map(p);
        memory_format(p);
        PROOF_EQ(p, wharf_buffer_open(s->shared->buffer, MEMORY_BUFFER, &s->buffer), 0);
}

/* Item n: 8 to 48 bytes that say so. */
static inline uint32_t memory_item(uint64_t n, uint8_t *ret)
{
        uint32_t len = 8 + (uint32_t)(n * 8 % 41);
        memset(ret, (int)(n + 1), len);
        return len;
}

static inline int memory_put(struct proof *p)
{
        struct memory_state *s = p->state;
        uint8_t item[48];
        uint32_t len = memory_item(atomic_load(&p->ledger->intent), item);
        proof_ledger_intent(p, item, len);
        int r = wharf_buffer_put(s->buffer, item, len, 0);
        if (r == 0)
                proof_ledger_sent(p);
        else
                atomic_store(&p->ledger->intent, atomic_load(&p->ledger->intent) - 1);
        return r;
}

static inline int64_t memory_get(struct proof *p)
{
        struct memory_state *s = p->state;
        uint8_t item[64];
        int64_t n = wharf_buffer_get(s->buffer, item, sizeof item, 0);
        if (n >= 0 && !p->lied)
                proof_ledger_received(p, item, (size_t)n);
        return n;
}

#endif
