/*
 * peer_wharf - wharf through its public calls: a port in each process, and a send right each way.
 *
 * The clients find the server through a socket in a directory of their own (no wharfd takes part). Both names are gone
 * before anything starts (harness.B6): the processes inherit the socket, and connect to it through /proc. A client's
 * first message carries a right to its port. Payloads up to WHARF_INLINE_MAX are received by copying, longer ones one
 * way in place, as the workload allows every peer that can.
 *
 * The modes are what a task is opened with: `spin` never sleeps, `block` never spins, `default` asks for nothing.
 */
#include "peers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <wharf/wharf.h>

struct ends {
        int listener;
        int door;      /* the listener's inode, opened by path only: what is connected to */
        char path[32]; /* of `door`, below /proc */
        wharf_task *task;
        wharf_name in, out; /* this party's port, and its right to the other's */
        void *buf;          /* where rights_view() copies short messages to */
        struct wharf_msg viewed;
};

static void wharf_die(const char *call, int r)
{
        errno = -r;
        bench_die("%s %s", call, wharf_why());
}

static const char *rights_open(struct bench_run *run)
{
        struct ends *e = bench_state(sizeof(*e));
        struct sockaddr_un addr = {.sun_family = AF_UNIX};
        char dir[] = "/tmp/wharf-bench-XXXXXX";
        bool opened;

        if (!mkdtemp(dir))
                bench_die("%s", dir);
        snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/server", dir);
        e->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        opened = e->listener >= 0 && !bind(e->listener, (struct sockaddr *)&addr, sizeof(addr)) &&
                 !listen(e->listener, BENCH_FANIN_CLIENTS) && (e->door = open(addr.sun_path, O_PATH | O_CLOEXEC)) >= 0;
        int err = errno;
        unlink(addr.sun_path);
        rmdir(dir);
        errno = err;
        if (!opened)
                bench_die("%s", addr.sun_path);
        snprintf(e->path, sizeof(e->path), "/proc/self/fd/%d", e->door);
        run->state = e;
        return NULL;
}

static void rights_close(struct bench_run *run)
{
        struct ends *e = run->state;
        close(e->door);
        close(e->listener);
        free(e);
}

/* The server takes one greeting from each client, and keeps the right that came with the last. */
static void greetings_take(struct bench_run *run, struct ends *e)
{
        for (uint32_t i = 0; i < run->clients; i++) {
                struct wharf_item item = {0};
                struct wharf_msg msg = {.size = sizeof(msg), .items = &item, .cap_items = 1};
                int r = wharf_recvmsg(e->task, e->in, &msg, WHARF_FOREVER);
                if (r < 0)
                        wharf_die("wharf_recvmsg", r);
                if (msg.n_items != 1 || item.kind != WHARF_GOT_SEND)
                        bench_die("a greeting without a right");
                e->out = item.name;
        }
}

static void greeting_send(struct ends *e)
{
        struct wharf_item item = {.kind = WHARF_MAKE_SEND, .name = e->in};
        struct wharf_msg msg = {.size = sizeof(msg), .items = &item, .n_items = 1};
        int r = wharf_right_connect(e->task, e->path, &e->out);
        if (r < 0)
                wharf_die("wharf_right_connect", r);
        r = wharf_sendmsg(e->task, e->out, &msg, WHARF_FOREVER);
        if (r < 0)
                wharf_die("wharf_sendmsg", r);
}

static void rights_join(struct bench_run *run)
{
        static const uint32_t spin_us_max[BENCH_MODES] = {
                [BENCH_SPIN] = WHARF_SPIN,
                [BENCH_BLOCK] = WHARF_NO_SPIN,
                [BENCH_DEFAULT] = 0,
        };
        struct wharf_task_opts task_opts = {.size = sizeof(task_opts), .spin_us_max = spin_us_max[run->mode]};
        struct wharf_port_opts port_opts = {.size = sizeof(port_opts), .flags = WHARF_PORT_STAYS};
        struct ends *e = run->state;
        int r;

        e->buf = bench_buffer(run->len_bytes);
        r = wharf_task_open(&task_opts, &e->task);
        if (r < 0)
                wharf_die("wharf_task_open", r);
        r = wharf_port_new(e->task, &port_opts, &e->in);
        if (r < 0)
                wharf_die("wharf_port_new", r);
        if (run->party) {
                greeting_send(e);
                return;
        }
        r = wharf_port_listen(e->task, e->in, e->listener);
        if (r < 0)
                wharf_die("wharf_port_listen", r);
        greetings_take(run, e);
}

static void rights_send(struct bench_run *run, void *buf, size_t len_bytes)
{
        struct ends *e = run->state;
        int r = wharf_send(e->task, e->out, buf, len_bytes, WHARF_FOREVER);
        if (r < 0)
                wharf_die("wharf_send", r);
}

static void rights_recv(struct bench_run *run, void *buf, size_t len_bytes)
{
        struct ends *e = run->state;
        ssize_t r = wharf_recv(e->task, e->in, buf, len_bytes, NULL, WHARF_FOREVER);
        if (r != (ssize_t)len_bytes)
                wharf_die("wharf_recv", r < 0 ? (int)r : -EIO);
}

static void rights_send_word(struct bench_run *run, uint64_t word, size_t len_bytes)
{
        struct ends *e = run->state;
        struct wharf_msg msg = {.size = sizeof(msg)};
        int r = wharf_reserve(e->task, e->out, len_bytes, &msg, WHARF_FOREVER);
        if (r < 0)
                wharf_die("wharf_reserve", r);
        bench_set_word(msg.data, word);
        r = wharf_sendmsg(e->task, e->out, &msg, WHARF_FOREVER);
        if (r < 0)
                wharf_die("wharf_sendmsg", r);
}

static const void *rights_view(struct bench_run *run, size_t len_bytes)
{
        struct ends *e = run->state;
        if (len_bytes <= WHARF_INLINE_MAX) {
                rights_recv(run, e->buf, len_bytes);
                return e->buf;
        }
        e->viewed = (struct wharf_msg){.size = sizeof(e->viewed), .flags = WHARF_RECV_IN_PLACE};
        int r = wharf_recvmsg(e->task, e->in, &e->viewed, WHARF_FOREVER);
        if (r < 0 || e->viewed.len_bytes != len_bytes)
                wharf_die("wharf_recvmsg", r < 0 ? r : -EIO);
        return e->viewed.data;
}

static void rights_done(struct bench_run *run)
{
        struct ends *e = run->state;
        if (run->len_bytes > WHARF_INLINE_MAX)
                wharf_release(e->task, &e->viewed);
}

const struct bench_peer bench_wharf[1] = {{
        .name = "wharf",
        .works = BENCH_BIT(BENCH_WORKS) - 1,
        .modes = BENCH_BIT(BENCH_MODES) - 1,
        .open = rights_open,
        .join = rights_join,
        .send = rights_send,
        .recv = rights_recv,
        .view = rights_view,
        .done = rights_done,
        .send_word = rights_send_word,
        .close = rights_close,
}};
