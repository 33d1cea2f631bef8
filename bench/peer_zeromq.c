/*
 * peer_zeromq - ZeroMQ over ipc://, which is a Unix socket and a thread in each process: PAIR between two processes,
 * PUSH and PULL for the fan-in. Blocking only: a caller that spins takes the core its own transport needs. When pinned,
 * that thread shares its process's core.
 */
#include "harness.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <zmq.h>

struct socket {
        char dir[64], url[128];
        void *context, *socket;
};

static const char *socket_open(struct bench_run *run)
{
        struct socket *s = bench_state(sizeof(*s));
        snprintf(s->dir, sizeof(s->dir), "/tmp/wharf-bench-XXXXXX");
        if (!mkdtemp(s->dir))
                bench_die("%s", s->dir);
        snprintf(s->url, sizeof(s->url), "ipc://%s/socket", s->dir);
        run->state = s;
        return NULL;
}

static void socket_join(struct bench_run *run)
{
        struct socket *s = run->state;
        int type = run->work != BENCH_FANIN ? ZMQ_PAIR : run->party ? ZMQ_PUSH : ZMQ_PULL;
        int depth = (int)run->depth_msgs;
        s->context = zmq_ctx_new();
        s->socket = s->context ? zmq_socket(s->context, type) : NULL;
        if (!s->socket || zmq_setsockopt(s->socket, ZMQ_SNDHWM, &depth, sizeof(depth)) ||
            zmq_setsockopt(s->socket, ZMQ_RCVHWM, &depth, sizeof(depth)) ||
            (run->party ? zmq_connect(s->socket, s->url) : zmq_bind(s->socket, s->url)))
                bench_die("ZeroMQ, %s", s->url);
}

static void socket_send(struct bench_run *run, void *buf, size_t len_bytes)
{
        struct socket *s = run->state;
        while (zmq_send(s->socket, buf, len_bytes, 0) < 0)
                if (errno != EINTR)
                        bench_die("zmq_send");
}

static void socket_recv(struct bench_run *run, void *buf, size_t len_bytes)
{
        struct socket *s = run->state;
        int r;
        while ((r = zmq_recv(s->socket, buf, len_bytes, 0)) != (int)len_bytes)
                if (r >= 0 || errno != EINTR)
                        bench_die("zmq_recv returned %d", r);
}

static void socket_close(struct bench_run *run)
{
        struct socket *s = run->state;
        unlink(s->url + sizeof("ipc://") - 1);
        rmdir(s->dir);
        free(s);
}

static const struct bench_peer peer = {
        .name = "zeromq_ipc",
        .works = BENCH_BIT(BENCH_PP) | BENCH_BIT(BENCH_TP) | BENCH_BIT(BENCH_FANIN) | BENCH_BIT(BENCH_IDLE),
        .modes = BENCH_BIT(BENCH_BLOCK),
        .open = socket_open,
        .join = socket_join,
        .send = socket_send,
        .recv = socket_recv,
        .close = socket_close,
};

int main(int argc, char **argv)
{
        return bench_main(argc, argv, &peer, 1);
}
