/*
 * peer_shm_slot - the floor: nothing but a number and the bytes of one message in shared memory, one slot for each
 * direction. The sender copies in and stores the number; the receiver watches the number and copies out. No queue, no
 * checks, no sleeping: what is above this figure is what a system's services cost.
 */
#include "harness.h"

#include <stdlib.h>
#include <string.h>

struct slot {
        _Alignas(128) uint64_t seq; /* of the last message, from 1; the sender stores it last */
        unsigned char bytes[];      /* right behind, so that a short message shares the line of its number */
};

struct slots {
        unsigned char *shared;
        size_t stride_bytes;
        struct slot *in, *out;
        uint64_t sent, taken;
};

static const char *slots_open(struct bench_run *run)
{
        struct slots *s = bench_state(sizeof(*s));
        /* A page between the two directions, so that the core's prefetcher does not drag one's lines into the other. */
        s->stride_bytes = (sizeof(struct slot) + run->len_bytes + 2 * 4096 - 1) & ~(size_t)4095;
        s->shared = bench_shared(2 * s->stride_bytes);
        run->state = s;
        return NULL;
}

static void slots_close(struct bench_run *run)
{
        struct slots *s = run->state;
        bench_shared_free(s->shared, 2 * s->stride_bytes);
        free(s);
}

static void slots_join(struct bench_run *run)
{
        struct slots *s = run->state;
        s->out = (void *)(s->shared + (run->party ? 0 : s->stride_bytes)); /* a page boundary: aligned for anything */
        s->in = (void *)(s->shared + (run->party ? s->stride_bytes : 0));
}

static void slots_send(struct bench_run *run, void *buf, size_t len_bytes)
{
        struct slots *s = run->state;
        memcpy(s->out->bytes, buf, len_bytes);
        /* [slot-seq] Release, pairs with the acquire in slots_recv(): the bytes first, then the number. */
        __atomic_store_n(&s->out->seq, ++s->sent, __ATOMIC_RELEASE);
}

static void slots_recv(struct bench_run *run, void *buf, size_t len_bytes)
{
        struct slots *s = run->state;
        /* [slot-seq] Acquire, pairs with the release in slots_send(). */
        while (__atomic_load_n(&s->in->seq, __ATOMIC_ACQUIRE) == s->taken)
                bench_relax();
        s->taken++;
        memcpy(buf, s->in->bytes, len_bytes);
}

static const struct bench_peer peer = {
        .name = "shm_slot",
        .works = BENCH_BIT(BENCH_PP),
        .modes = BENCH_BIT(BENCH_SPIN),
        .open = slots_open,
        .join = slots_join,
        .send = slots_send,
        .recv = slots_recv,
        .close = slots_close,
};

int main(int argc, char **argv)
{
        return bench_main(argc, argv, &peer, 1);
}
