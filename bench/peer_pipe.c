/*
 * peer_pipe - pipe(2), one for each direction, as large as the system makes them. In the fan-in all clients write into
 * one pipe: 64 bytes are below PIPE_BUF, so the kernel keeps the messages whole.
 */
#include "fds.h"
#include "peers.h"

#include <fcntl.h>
#include <unistd.h>

static const char *pipes_open(struct bench_run *run)
{
        struct fds *f = fds_new(run);
        int up[2], down[2];
        if (pipe2(up, O_CLOEXEC) || pipe2(down, O_CLOEXEC))
                bench_die("pipe");
        f->server_in[0] = up[0];
        f->client_out[0] = up[1];
        f->client_in[0] = down[0];
        f->server_out[0] = down[1];
        return NULL;
}

/* Every client uses the first one's ends. */
static void pipes_join(struct bench_run *run)
{
        uint32_t party = run->party;
        run->party = party ? 1 : 0;
        fds_join(run);
        run->party = party;
}

const struct bench_peer bench_pipe[1] = {{
        .name = "pipe",
        .works = BENCH_BIT(BENCH_PP) | BENCH_BIT(BENCH_TP) | BENCH_BIT(BENCH_FANIN) | BENCH_BIT(BENCH_IDLE),
        .modes = BENCH_BIT(BENCH_SPIN) | BENCH_BIT(BENCH_BLOCK),
        .open = pipes_open,
        .join = pipes_join,
        .send = fds_write,
        .recv = fds_read,
        .close = fds_close,
}};
