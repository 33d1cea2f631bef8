/*
 * peer_doorbell - waking and nothing else: an eventfd, or a futex word, for each direction. What a sleeping round trip
 * costs before any message is moved. The message's first word travels in the bell itself.
 */
#include "fds.h"

#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *eventfds_open(struct bench_run *run)
{
        struct fds *f = fds_new(run);
        f->server_in[0] = f->client_out[0] = eventfd(0, EFD_CLOEXEC);
        f->client_in[0] = f->server_out[0] = eventfd(0, EFD_CLOEXEC);
        if (f->server_in[0] < 0 || f->client_in[0] < 0)
                bench_die("eventfd");
        return NULL;
}

/* Each descriptor stands twice in the table: as one side's way in and as the other's way out. */
static void eventfds_close(struct bench_run *run)
{
        struct fds *f = run->state;
        f->client_out[0] = f->client_in[0];
        f->server_out[0] = f->server_in[0];
        fds_close(run);
}

static void eventfds_send(struct bench_run *run, void *buf, size_t len_bytes)
{
        uint64_t count = bench_word(buf) + 1; /* an eventfd cannot carry 0 */
        (void)len_bytes;
        fds_write(run, &count, sizeof(count));
}

static void eventfds_recv(struct bench_run *run, void *buf, size_t len_bytes)
{
        uint64_t count;
        (void)len_bytes;
        fds_read(run, &count, sizeof(count));
        bench_set_word(buf, count - 1);
}

struct bell {
        _Alignas(128) uint32_t rung; /* how often; the sender stores, the receiver sleeps on it */
        uint32_t word;
};

struct bells {
        struct bell *shared;
        struct bell *in, *out;
        uint32_t sent, taken;
};

static const char *bells_open(struct bench_run *run)
{
        struct bells *b = bench_state(sizeof(*b));
        b->shared = bench_shared(2 * sizeof(*b->shared));
        run->state = b;
        return NULL;
}

static void bells_join(struct bench_run *run)
{
        struct bells *b = run->state;
        b->out = &b->shared[run->party ? 0 : 1];
        b->in = &b->shared[run->party ? 1 : 0];
}

static void bells_close(struct bench_run *run)
{
        struct bells *b = run->state;
        bench_shared_free(b->shared, 2 * sizeof(*b->shared));
        free(b);
}

static void bells_send(struct bench_run *run, void *buf, size_t len_bytes)
{
        struct bells *b = run->state;
        (void)len_bytes;
        b->out->word = (uint32_t)bench_word(buf);
        /* [bell-rung] Release, pairs with the acquire in bells_recv(); the system call orders it before the wake. */
        __atomic_store_n(&b->out->rung, ++b->sent, __ATOMIC_RELEASE);
        (void)syscall(SYS_futex, &b->out->rung, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void bells_recv(struct bench_run *run, void *buf, size_t len_bytes)
{
        struct bells *b = run->state;
        (void)len_bytes;
        /* [bell-rung] Acquire, pairs with the release in bells_send(). */
        while (__atomic_load_n(&b->in->rung, __ATOMIC_ACQUIRE) == b->taken)
                if (syscall(SYS_futex, &b->in->rung, FUTEX_WAIT, b->taken, NULL, NULL, 0) && errno != EAGAIN &&
                    errno != EINTR)
                        bench_die("futex");
        b->taken++;
        bench_set_word(buf, b->in->word);
}

static const struct bench_peer peers[] = {
        {
                .name = "eventfd(doorbell)",
                .works = BENCH_BIT(BENCH_PP) | BENCH_BIT(BENCH_IDLE),
                .modes = BENCH_BIT(BENCH_SPIN) | BENCH_BIT(BENCH_BLOCK),
                .only_len_bytes = 8,
                .open = eventfds_open,
                .join = fds_join,
                .send = eventfds_send,
                .recv = eventfds_recv,
                .close = eventfds_close,
        },
        {
                .name = "futex(doorbell)",
                .works = BENCH_BIT(BENCH_PP) | BENCH_BIT(BENCH_IDLE),
                .modes = BENCH_BIT(BENCH_BLOCK),
                .only_len_bytes = 8,
                .open = bells_open,
                .join = bells_join,
                .send = bells_send,
                .recv = bells_recv,
                .close = bells_close,
        },
};

int main(int argc, char **argv)
{
        return bench_main(argc, argv, peers, 2);
}
