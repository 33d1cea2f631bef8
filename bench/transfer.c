/*
 * transfer - large payloads from one task to another, by every way that wharf has, in turns: copied through shared
 * memory (the default), read directly from the sender, and as memory out of line, shared and moved.
 *
 *      hand    the sender writes the first word, the receiver reads it, and answers
 *      read    the sender writes every byte, the receiver reads every byte, and answers
 *      reply   the sender asks, and the receiver answers with the payload, of which the first word is looked at:
 *              copied, and written directly into the memory of the one that asked
 *
 * One transfer is a call with an empty reply. The sender of the first two ways has one buffer for ever; the one that
 * shares has one memory, which is all zero and which it never writes to. In `hand` the one that moves gets its memory
 * moved back with the answer; in `read` it makes a new one each time, on the clock.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wharf/wharf.h>

#include "harness.h"

enum way { COPIED, DIRECT, SHARED, MOVED, WAYS };
static const char *const way_names[WAYS] = {"copied", "direct", "shared", "moved"};
enum { SAMPLES_MAX = 20000, SAMPLES_MIN = 3, READ_ALL = 1, BACK = 2, STOP = 4, REPLY = 8 };

static uint32_t samples[SAMPLES_MAX];
static wharf_task *task;

static void check(ssize_t r, const char *call)
{
        if (r >= 0)
                return;
        errno = (int)-r;
        bench_die("%s %s", call, wharf_why());
}

/* ---- the receiver: looks at what came, and answers ---- */

static void receiver(wharf_name port, size_t len_max)
{
        void *buf = bench_buffer(len_max);
        for (;;) {
                struct wharf_item item;
                struct wharf_msg m = {
                        .size = sizeof(m), .data = buf, .cap_bytes = len_max, .items = &item, .cap_items = 1};
                check(wharf_recvmsg(task, port, &m, WHARF_FOREVER), "wharf_recvmsg");
                if (m.id == STOP)
                        break;
                if (m.id == REPLY) {
                        uint64_t ask[2];
                        memcpy(ask, buf, sizeof(ask));
                        bench_set_word(buf, ask[1]);
                        struct wharf_msg answer = {.size = sizeof(answer), .data = buf, .len_bytes = ask[0]};
                        check(wharf_replymsg(task, m.reply, &answer), "wharf_replymsg");
                        continue;
                }
                void *at = buf;
                size_t len = m.len_bytes;
                if (m.n_items)
                        check(wharf_memory_at(task, item.name, &at, &len), "wharf_memory_at");
                uint64_t sum = m.id & READ_ALL ? bench_sum(at, len) : bench_word(at);
                struct wharf_msg reply = {.size = sizeof(reply), .data = &sum, .len_bytes = sizeof(sum)};
                if (m.id & BACK) {
                        item.kind = WHARF_MOVE_MEMORY;
                        reply.items = &item;
                        reply.n_items = 1;
                } else if (m.n_items) {
                        check(wharf_drop(task, item.name), "wharf_drop");
                }
                check(wharf_replymsg(task, m.reply, &reply), "wharf_replymsg");
        }
        free(buf);
}

/* ---- the sender ---- */

/* `memory` is what SHARED and MOVED send; it is another one afterwards where it was moved there and back. */
static void transfer(wharf_name to, enum way way, void *buf, size_t len, wharf_name *memory, bool all)
{
        static uint64_t round;
        const bool make = way == MOVED && all, back = way == MOVED && !all, writes = !back && way != SHARED;
        uint64_t sum = 0, word = ++round;
        struct wharf_item item = {.kind = way == MOVED ? WHARF_MOVE_MEMORY : WHARF_COPY_MEMORY, .name = *memory};
        struct wharf_item got = {0};
        struct wharf_msg m = {.size = sizeof(m), .id = (all ? READ_ALL : 0) | (back ? BACK : 0)};
        struct wharf_msg reply = {
                .size = sizeof(reply), .data = &sum, .cap_bytes = sizeof(sum), .items = &got, .cap_items = 1};

        if (make) {
                check(wharf_memory_new(task, len, &item.name), "wharf_memory_new");
                check(wharf_memory_at(task, item.name, &buf, NULL), "wharf_memory_at");
        }
        if (writes && all)
                memset(buf, (int)(word & 0x7f), len);
        else if (writes)
                bench_set_word(buf, word);
        if (way == SHARED || way == MOVED) {
                m.items = &item;
                m.n_items = 1;
        } else {
                m.data = buf;
                m.len_bytes = len;
                m.how = way == DIRECT ? WHARF_HOW_DIRECT : WHARF_HOW_AUTO;
        }
        check(wharf_callmsg(task, to, &m, &reply, WHARF_FOREVER), "wharf_callmsg");
        if (way == DIRECT && m.how != WHARF_HOW_DIRECT)
                bench_die("%s", wharf_why());
        uint64_t want = !writes ? 0 : all ? (len / 8) * ((word & 0x7f) * 0x0101010101010101u) : word;
        if (sum != want || reply.n_items != back)
                bench_die("a damaged payload");
        *memory = back ? got.name : *memory;
}

/* The payload comes with the answer, into memory that is made for it each time. */
static void fetch(wharf_name to, enum way way, size_t len)
{
        static uint64_t round;
        uint64_t ask[2] = {len, ++round};
        struct wharf_msg m = {.size = sizeof(m),
                              .id = REPLY,
                              .data = ask,
                              .len_bytes = sizeof(ask),
                              .flags = way == DIRECT ? WHARF_REPLY_DIRECT : 0,
                              .cap_bytes = len};
        struct wharf_msg reply = {.size = sizeof(reply), .flags = WHARF_RECV_ALLOC};
        check(wharf_callmsg(task, to, &m, &reply, WHARF_FOREVER), "wharf_callmsg");
        if (way == DIRECT && reply.how != WHARF_HOW_DIRECT)
                bench_die("%s", wharf_why());
        if (reply.len_bytes != len || bench_word(reply.data) != round)
                bench_die("a damaged reply");
        wharf_release(task, &reply);
}

static void measure_replies(const struct bench_opts *opts, wharf_name to, enum way way, size_t len)
{
        struct bench_result r = {0};
        size_t n = 0;
        fetch(to, way, len);
        uint64_t end = bench_ticks() + bench_ticks_of_s(opts->phase_s / 2);
        do {
                uint64_t start = bench_ticks();
                fetch(to, way, len);
                uint64_t took = bench_ticks() - start;
                samples[n++] = took < UINT32_MAX ? (uint32_t)took : UINT32_MAX;
        } while (n < SAMPLES_MIN || (n < SAMPLES_MAX && bench_ticks() < end));
        bench_summarize(samples, n, &r);
        bench_print_value("wharf", "reply", way_names[way], len, "p50_ns", r.p50_ns);
        fflush(stdout);
}

static void measure(const struct bench_opts *opts, wharf_name to, enum way way, size_t len, bool all)
{
        struct bench_result r = {0};
        void *buf = way == COPIED || way == DIRECT ? bench_buffer(len) : NULL;
        wharf_name memory = WHARF_NONE;
        size_t n = 0;
        if (way == SHARED || (way == MOVED && !all))
                check(wharf_memory_new(task, len, &memory), "wharf_memory_new");
        transfer(to, way, buf, len, &memory, all);
        uint64_t end = bench_ticks() + bench_ticks_of_s(opts->phase_s / 2);
        do {
                uint64_t start = bench_ticks();
                transfer(to, way, buf, len, &memory, all);
                uint64_t took = bench_ticks() - start;
                samples[n++] = took < UINT32_MAX ? (uint32_t)took : UINT32_MAX;
        } while (n < SAMPLES_MIN || (n < SAMPLES_MAX && bench_ticks() < end));
        bench_summarize(samples, n, &r);
        bench_print_value("wharf", all ? "read" : "hand", way_names[way], len, "p50_ns", r.p50_ns);
        fflush(stdout);
        if (memory)
                check(wharf_drop(task, memory), "wharf_drop");
        free(buf);
}

int main(int argc, char **argv)
{
        struct bench_opts opts = bench_options(argc, argv);
        struct sockaddr_un addr = {.sun_family = AF_UNIX};
        char dir[] = "/tmp/wharf-bench-XXXXXX";
        size_t len_max = 0;
        wharf_name port, to;
        int status = 0;

        for (uint32_t i = 0; i < opts.n_lens; i++)
                len_max = opts.lens_bytes[i] > len_max ? opts.lens_bytes[i] : len_max;
        int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (!mkdtemp(dir) || listener < 0)
                bench_die("%s", dir);
        snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/port", dir);
        if (bind(listener, (struct sockaddr *)&addr, sizeof(addr)) || listen(listener, 1))
                bench_die("%s", addr.sun_path);
        pid_t parent = getpid(), pid = fork();
        check(pid < 0 ? -errno : 0, "fork");
        struct bench_run here = {.place = opts.place, .party = pid != 0, .clients = 1};
        bench_pin(&here);
        check(wharf_task_open(NULL, &task), "wharf_task_open");
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (getppid() != parent)
                        _exit(1);
                struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_DIRECT};
                check(wharf_port_new(task, &o, &port), "wharf_port_new");
                check(wharf_port_listen(task, port, listener), "wharf_port_listen");
                receiver(port, len_max);
                wharf_task_close(task);
                _exit(0);
        }
        close(listener);
        int connected = wharf_right_connect(task, addr.sun_path, &to);
        unlink(addr.sun_path);
        rmdir(dir);
        check(connected, "wharf_right_connect");
        for (uint32_t i = 0; i < opts.n_lens; i++)
                for (int all = 0; all < 2; all++)
                        for (int way = 0; way < WAYS; way++)
                                measure(&opts, to, (enum way)way, opts.lens_bytes[i], all);
        for (uint32_t i = 0; i < opts.n_lens; i++)
                for (int way = COPIED; way <= DIRECT; way++)
                        if (opts.lens_bytes[i] > WHARF_INLINE_MAX)
                                measure_replies(&opts, to, (enum way)way, opts.lens_bytes[i]);
        struct wharf_msg stop = {.size = sizeof(stop), .id = STOP};
        check(wharf_sendmsg(task, to, &stop, WHARF_FOREVER), "wharf_sendmsg");
        waitpid(pid, &status, 0);
        wharf_task_close(task);
        return !WIFEXITED(status) || WEXITSTATUS(status);
}
