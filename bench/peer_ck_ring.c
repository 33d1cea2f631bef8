/*
 * peer_ck_ring - Concurrency Kit's ring in shared memory: the ring carries where a message lies in a pool of slots.
 *
 * Two processes use a single-producer ring in each direction, the fan-in one multi-producer ring. A producer owns its
 * slots, twice as many as the ring holds. With one producer the ring itself says when a slot is free again: what it
 * cannot hold was taken, and only the last one taken is still being read. Several producers share the ring, so there
 * the server counts, for each, what it has finished with.
 *
 * The ring cannot sleep. In the fan-in, where clients share a core, whoever cannot go on yields.
 */
#include "harness.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include <ck_ring.h>

#define RING_SLOTS_MAX 1024

struct way {
        ck_ring_t ring;
        _Alignas(128) ck_ring_buffer_t entries[RING_SLOTS_MAX];
};

struct shared {
        struct way to_server, to_client;
        struct {
                _Alignas(128) uint64_t n; /* messages of this client the server is done with; the server stores */
        } finished[BENCH_FANIN_CLIENTS];
};

struct rings {
        struct shared *shared;
        unsigned char *pool;
        size_t pool_bytes, stride_bytes;
        uint32_t slots; /* of each producer */
        struct way *in, *out;
        size_t first_slot; /* of this party */
        uint64_t sent;
        size_t viewed; /* the slot that is being read */
};

static const char *rings_open(struct bench_run *run)
{
        struct rings *r = bench_state(sizeof(*r));
        uint32_t capacity = 4;
        while (capacity < run->depth_msgs && capacity < RING_SLOTS_MAX)
                capacity *= 2;
        r->slots = 2 * capacity;
        r->stride_bytes = (run->len_bytes + 63) & ~(size_t)63;
        r->pool_bytes = (run->clients + 1) * r->slots * r->stride_bytes;
        r->pool = bench_shared(r->pool_bytes);
        memset(r->pool, 0x5a, r->pool_bytes); /* what BENCH_TPHDR sends without writing it */
        r->shared = bench_shared(sizeof(*r->shared));
        ck_ring_init(&r->shared->to_server.ring, capacity);
        ck_ring_init(&r->shared->to_client.ring, capacity);
        run->state = r;
        return NULL;
}

static void rings_close(struct bench_run *run)
{
        struct rings *r = run->state;
        bench_shared_free(r->shared, sizeof(*r->shared));
        bench_shared_free(r->pool, r->pool_bytes);
        free(r);
}

static void rings_join(struct bench_run *run)
{
        struct rings *r = run->state;
        r->in = run->party ? &r->shared->to_client : &r->shared->to_server;
        r->out = run->party ? &r->shared->to_server : &r->shared->to_client;
        r->first_slot = (size_t)run->party * r->slots;
}

static inline size_t slot_next(struct bench_run *run, struct rings *r)
{
        if (run->work == BENCH_FANIN) {
                /* [ring-finished] Acquire, pairs with the release in rings_done(): read first, then overwritten. */
                uint64_t *finished = &r->shared->finished[run->party - 1].n;
                while (r->sent - __atomic_load_n(finished, __ATOMIC_ACQUIRE) >= r->slots)
                        sched_yield();
        }
        return r->first_slot + r->sent++ % r->slots;
}

static inline void slot_push(struct bench_run *run, struct rings *r, size_t slot)
{
        void *entry = (void *)(uintptr_t)(slot + 1); /* no pointer at all: a number that is not NULL */
        if (run->work == BENCH_FANIN)
                while (!ck_ring_enqueue_mpsc(&r->out->ring, r->out->entries, entry))
                        sched_yield();
        else
                while (!ck_ring_enqueue_spsc(&r->out->ring, r->out->entries, entry))
                        bench_relax();
}

static void rings_send(struct bench_run *run, void *buf, size_t len_bytes)
{
        struct rings *r = run->state;
        size_t slot = slot_next(run, r);
        memcpy(r->pool + slot * r->stride_bytes, buf, len_bytes);
        slot_push(run, r, slot);
}

static void rings_send_word(struct bench_run *run, uint64_t word, size_t len_bytes)
{
        struct rings *r = run->state;
        size_t slot = slot_next(run, r);
        (void)len_bytes;
        bench_set_word(r->pool + slot * r->stride_bytes, word);
        slot_push(run, r, slot);
}

static const void *rings_view(struct bench_run *run, size_t len_bytes)
{
        struct rings *r = run->state;
        void *entry;
        (void)len_bytes;
        if (run->work == BENCH_FANIN)
                while (!ck_ring_dequeue_mpsc(&r->in->ring, r->in->entries, &entry))
                        sched_yield();
        else
                while (!ck_ring_dequeue_spsc(&r->in->ring, r->in->entries, &entry))
                        bench_relax();
        r->viewed = (size_t)(uintptr_t)entry - 1;
        return r->pool + r->viewed * r->stride_bytes;
}

static void rings_done(struct bench_run *run)
{
        struct rings *r = run->state;
        if (run->work != BENCH_FANIN)
                return;
        /* [ring-finished] Release, pairs with the acquire in slot_next(). One writer, so no read-modify-write. */
        uint64_t *finished = &r->shared->finished[r->viewed / r->slots - 1].n;
        __atomic_store_n(finished, *finished + 1, __ATOMIC_RELEASE);
}

static void rings_recv(struct bench_run *run, void *buf, size_t len_bytes)
{
        memcpy(buf, rings_view(run, len_bytes), len_bytes);
        rings_done(run);
}

static const struct bench_peer peer = {
        .name = "ck_ring",
        .works = BENCH_BIT(BENCH_PP) | BENCH_BIT(BENCH_TP) | BENCH_BIT(BENCH_TPHDR) | BENCH_BIT(BENCH_FANIN) |
                 BENCH_BIT(BENCH_IDLE),
        .modes = BENCH_BIT(BENCH_SPIN),
        .open = rings_open,
        .join = rings_join,
        .send = rings_send,
        .recv = rings_recv,
        .view = rings_view,
        .done = rings_done,
        .send_word = rings_send_word,
        .close = rings_close,
};

int main(int argc, char **argv)
{
        return bench_main(argc, argv, &peer, 1);
}
