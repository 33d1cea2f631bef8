/*
 * peer_posix_mq - POSIX message queues, one for each direction, 64 messages where the limits allow.
 *
 * Root gets a private IPC namespace, in which fs.mqueue's limits are raised; an ordinary user measures what the system
 * allows. RLIMIT_MSGQUEUE bounds bytes in both queues together, so long messages get short queues.
 */
#include "peers.h"

#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define DEPTH_MSGS 64
#define QUEUE_BYTES_MAX 380000 /* a little below half of the usual RLIMIT_MSGQUEUE of 819200 */

struct queues {
        mqd_t to_server, to_client;
        mqd_t in, out;
};

static void file_write(const char *path, const char *text)
{
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write(fd, text, strlen(text)) < 0)
                fprintf(stderr, "%s: posix_mq: %s stays as it is\n", bench_program, path);
        if (fd >= 0)
                close(fd);
}

static void limits_raise(void)
{
        static bool tried;
        struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
        if (tried)
                return;
        tried = true;
        if (unshare(CLONE_NEWIPC))
                return;
        (void)setrlimit(RLIMIT_MSGQUEUE, &unlimited);
        file_write("/proc/sys/fs/mqueue/msg_max", "64");
        file_write("/proc/sys/fs/mqueue/msgsize_max", "1048576");
}

/* As deep as it goes; (mqd_t)-1 when not even one message fits. */
static mqd_t queue_open(size_t len_bytes, bool nonblocking)
{
        char name[64];
        mqd_t q = (mqd_t)-1;
        snprintf(name, sizeof(name), "/wharf-bench-%d", (int)getpid());
        for (long depth = DEPTH_MSGS; depth && q == (mqd_t)-1; depth /= 2) {
                struct mq_attr attr = {.mq_maxmsg = depth, .mq_msgsize = (long)len_bytes};
                if (depth > 1 && (size_t)depth * len_bytes > QUEUE_BYTES_MAX)
                        continue;
                q = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | (nonblocking ? O_NONBLOCK : 0), 0600, &attr);
        }
        if (q != (mqd_t)-1)
                mq_unlink(name);
        return q;
}

static void queues_close(struct bench_run *run)
{
        struct queues *q = run->state;
        if (q->to_server != (mqd_t)-1)
                mq_close(q->to_server);
        if (q->to_client != (mqd_t)-1)
                mq_close(q->to_client);
        free(q);
}

static const char *queues_open(struct bench_run *run)
{
        struct queues *q = bench_state(sizeof(*q));
        limits_raise();
        run->state = q;
        q->to_server = queue_open(run->len_bytes, run->mode == BENCH_SPIN);
        q->to_client = queue_open(run->len_bytes, run->mode == BENCH_SPIN);
        if (q->to_server != (mqd_t)-1 && q->to_client != (mqd_t)-1)
                return NULL;
        queues_close(run);
        return "the limits of fs.mqueue or RLIMIT_MSGQUEUE do not allow this length";
}

static void queues_join(struct bench_run *run)
{
        struct queues *q = run->state;
        q->in = run->party ? q->to_client : q->to_server;
        q->out = run->party ? q->to_server : q->to_client;
}

static void retry_or_die(const char *call)
{
        if (errno == EAGAIN)
                bench_relax();
        else if (errno != EINTR)
                bench_die("%s", call);
}

static void queues_send(struct bench_run *run, void *buf, size_t len_bytes)
{
        struct queues *q = run->state;
        while (mq_send(q->out, buf, len_bytes, 0))
                retry_or_die("mq_send");
}

static void queues_recv(struct bench_run *run, void *buf, size_t len_bytes)
{
        struct queues *q = run->state;
        while (mq_receive(q->in, buf, len_bytes, NULL) < 0)
                retry_or_die("mq_receive");
}

const struct bench_peer bench_posix_mq[1] = {{
        .name = "posix_mq",
        .works = BENCH_BIT(BENCH_PP) | BENCH_BIT(BENCH_TP) | BENCH_BIT(BENCH_FANIN) | BENCH_BIT(BENCH_IDLE),
        .modes = BENCH_BIT(BENCH_SPIN) | BENCH_BIT(BENCH_BLOCK),
        .open = queues_open,
        .join = queues_join,
        .send = queues_send,
        .recv = queues_recv,
        .close = queues_close,
}};
