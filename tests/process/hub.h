/*
 * hub - what tests between processes share: a port that anybody can connect to, byte patterns, and stages.
 *
 * A forked process holds no right of its parent, so it gets its first one like any stranger: by connecting to the
 * socket on which the hub listens. Every further right travels inside messages.
 */
#ifndef TEST_HUB_H
#define TEST_HUB_H

#include "test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <wharf/message.h>

#define MSG(...) ((struct wharf_msg){.size = sizeof(struct wharf_msg), __VA_ARGS__})
/* A literal as a payload to send, which the library only reads. */
#define BYTES(text) (void *)(uintptr_t)(text)
#define PORT_OPTS(...) (&(struct wharf_port_opts){.size = sizeof(struct wharf_port_opts), __VA_ARGS__})

struct hub {
        wharf_task *task;
        wharf_name port;
        int listen_fd;
        char path[96];
};

static inline struct hub hub_open(const struct wharf_port_opts *opts)
{
        static int number;
        struct hub h = {.listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        snprintf(h.path, sizeof h.path, "%s/hub.%d.%d", test_dir(), (int)getpid(), number++);
        memcpy(sa.sun_path, h.path, sizeof h.path);
        CHECK_GE(h.listen_fd, 0);
        CHECK_EQ(bind(h.listen_fd, (struct sockaddr *)&sa, sizeof sa), 0);
        CHECK_EQ(chmod(h.path, 0777), 0);
        CHECK_EQ(listen(h.listen_fd, 64), 0);
        CHECK_EQ(wharf_task_open(NULL, &h.task), 0);
        struct wharf_port_opts o = {.size = sizeof o};
        if (opts)
                o = *opts;
        o.flags |= WHARF_PORT_DIRECT; /* whoever connects is trusted with that */
        CHECK_EQ(wharf_port_new(h.task, &o, &h.port), 0);
        CHECK_EQ(wharf_port_listen(h.task, h.port, h.listen_fd), 0);
        return h;
}

static inline void hub_close(struct hub *h)
{
        wharf_task_close(h->task);
        if (h->listen_fd >= 0)
                close(h->listen_fd);
        *h = (struct hub){.listen_fd = -1};
}

/* In a forked process: a task of its own, with a right to the hub. */
static inline wharf_task *hub_join(struct hub *h, wharf_name *ret)
{
        wharf_task *t;
        if (h->listen_fd >= 0)
                close(h->listen_fd);
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_right_connect(t, h->path, ret), 0);
        return t;
}

/* One byte from one process to another: "I have come this far". */
struct stage {
        int fd[2];
};

static inline struct stage stage_new(void)
{
        struct stage s;
        CHECK_EQ(pipe2(s.fd, O_CLOEXEC), 0);
        return s;
}

static inline void stage_reach(struct stage *s)
{
        CHECK_EQ(write(s->fd[1], "", 1), 1);
}

static inline void stage_await(struct stage *s)
{
        char c;
        ssize_t n;
        do
                n = read(s->fd[0], &c, 1);
        while (n < 0 && errno == EINTR);
        CHECK_EQ(n, 1);
}

static inline void stage_done(struct stage *s)
{
        close(s->fd[0]);
        close(s->fd[1]);
}

/* Until the process is asleep in the kernel: it waits for whatever it waits for. */
static inline void await_asleep(pid_t pid)
{
        char path[64], text[512];
        test_need_proc();
        for (int seen = 0; seen < 5;) {
                snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
                FILE *f = fopen(path, "re");
                CHECK(f != NULL);
                CHECK(fgets(text, sizeof text, f) != NULL);
                fclose(f);
                const char *p = strrchr(text, ')');
                CHECK(p != NULL);
                CHECK(p[2] != 'Z');
                seen = p[2] == 'S' ? seen + 1 : 0;
                usleep(500);
        }
}

static inline void kill_hard(pid_t pid)
{
        CHECK_EQ(kill(pid, SIGKILL), 0);
        CHECK_EQ(test_wait(pid), 128 + SIGKILL);
}

/* Bytes that depend on a key and on their place, and a checksum over any bytes (FNV-1a, by words). */
static inline void pattern_fill(void *to, size_t len, uint64_t key)
{
        unsigned char *p = to;
        uint64_t x = key * 0x9e3779b97f4a7c15u + 1;
        for (size_t i = 0; i < len; i += 8) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                memcpy(p + i, &x, len - i < 8 ? len - i : 8);
        }
}

static inline uint32_t checksum(const void *bytes, size_t len)
{
        const unsigned char *p = bytes;
        uint64_t h = 0xcbf29ce484222325u ^ len;
        for (size_t i = 0; i < len; i += 8) {
                uint64_t w = 0;
                memcpy(&w, p + i, len - i < 8 ? len - i : 8);
                h = (h ^ w) * 0x100000001b3u;
                h ^= h >> 29;
        }
        return (uint32_t)(h ^ h >> 32);
}

bool wh_os_closer_rest(long long deadline_ns) __attribute__((weak)); /* not where the library is a shared one */

/* Has it not ended yet? */
static inline bool running(pid_t pid)
{
        siginfo_t si = {0};
        return waitid(P_PID, (id_t)pid, &si, WEXITED | WNOHANG | WNOWAIT) == 0 && si.si_pid == 0;
}

/* Some ends and descriptors are closed by a thread of the library's own (os/closer.h): now they are, and who has the other can see it. */
static inline void closes_rest(void)
{
        if (wh_os_closer_rest)
                CHECK(wh_os_closer_rest(INT64_MAX));
}

static inline unsigned count_fds(void)
{
        unsigned n = 0;
        closes_rest();
        for (int fd = 0; fd < 2048; fd++)
                n += fcntl(fd, F_GETFD) >= 0;
        return n;
}

#endif
