/*
 * peer_unix - Unix socket pairs, one for each client: sequenced packets, the kernel's closest relative of a link of
 * wharf, and byte streams.
 */
#include "fds.h"
#include "peers.h"

#include <sys/socket.h>

#define WORKS (BENCH_BIT(BENCH_PP) | BENCH_BIT(BENCH_TP) | BENCH_BIT(BENCH_FANIN) | BENCH_BIT(BENCH_IDLE))
#define MODES (BENCH_BIT(BENCH_SPIN) | BENCH_BIT(BENCH_BLOCK))

static const char *seqpacket_open(struct bench_run *run)
{
        return fds_open_sockets(run, SOCK_SEQPACKET);
}

static const char *stream_open(struct bench_run *run)
{
        return fds_open_sockets(run, SOCK_STREAM);
}

const struct bench_peer bench_unix[2] = {
        {
                .name = "unix_seqpacket",
                .works = WORKS,
                .modes = MODES,
                .open = seqpacket_open,
                .join = fds_join,
                .send = fds_send,
                .recv = fds_recv,
                .close = fds_close,
        },
        {
                .name = "unix_stream",
                .works = WORKS,
                .modes = MODES,
                .open = stream_open,
                .join = fds_join,
                .send = fds_write,
                .recv = fds_read,
                .close = fds_close,
        },
};
