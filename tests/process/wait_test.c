/*
 * Waiting: sets, chosen senders, descriptors for other people's event loops, threads that share, signals, fork.
 */
#include "hub.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <time.h>

/* ---- sets ---- */

TEST(set_of_ports)
{
        struct hub h = hub_open(NULL);
        wharf_name set, ports[3], rights[3];
        char buf[8];
        CHECK_EQ(wharf_set_new(h.task, &set), 0);
        CHECK_EQ(wharf_recv(h.task, set, buf, sizeof buf, NULL, WHARF_FOREVER), -ENOTCONN); /* empty: nobody can come */
        for (unsigned i = 0; i < 3; i++) {
                CHECK_EQ(wharf_port_new(h.task, NULL, &ports[i]), 0);
                CHECK_EQ(wharf_right_new(h.task, ports[i], &rights[i]), 0);
                CHECK_EQ(wharf_send(h.task, rights[i], "early", 5, 0), 0); /* before it joins */
                CHECK_EQ(wharf_set_add(h.task, set, ports[i]), 0);
                CHECK_EQ(wharf_set_add(h.task, set, ports[i]), -EBUSY);
                CHECK_EQ(wharf_recv(h.task, ports[i], buf, sizeof buf, NULL, 0), -EBUSY);
        }
        unsigned seen[3] = {0};
        for (unsigned i = 0; i < 3; i++)
                CHECK_EQ(wharf_send(h.task, rights[i], "later", 5, 0), 0);
        for (unsigned i = 0; i < 6; i++) {
                struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf);
                CHECK_EQ(wharf_recvmsg(h.task, set, &m, 0), 0);
                for (unsigned k = 0; k < 3; k++)
                        if (m.port == ports[k]) {
                                CHECK_MEM(buf, seen[k] ? "later" : "early", 5);
                                seen[k]++;
                        }
        }
        CHECK(seen[0] == 2 && seen[1] == 2 && seen[2] == 2);
        CHECK_EQ(wharf_recv(h.task, set, buf, sizeof buf, NULL, 0), -EAGAIN);
        /* One leaves, with what lies in it; one is dropped; the set goes, and the last port lives on. */
        CHECK_EQ(wharf_send(h.task, rights[0], "mine", 4, 0), 0);
        CHECK_EQ(wharf_set_remove(h.task, set, ports[0]), 0);
        CHECK_EQ(wharf_set_remove(h.task, set, ports[0]), -ENOENT);
        CHECK_EQ(wharf_recv(h.task, set, buf, sizeof buf, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_recv(h.task, ports[0], buf, sizeof buf, NULL, 0), 4);
        CHECK_EQ(wharf_drop(h.task, ports[1]), 0);
        CHECK_EQ(wharf_send(h.task, rights[2], "last", 4, 0), 0);
        CHECK_EQ(wharf_drop(h.task, set), 0);
        CHECK_EQ(wharf_recv(h.task, set, buf, sizeof buf, NULL, 0), -EBADF);
        CHECK_EQ(wharf_recv(h.task, ports[2], buf, sizeof buf, NULL, 0), 4);
        hub_close(&h);
}

static int send_to_three(void *arg)
{
        wharf_name hub, port;
        wharf_task *t = hub_join(arg, &hub);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        struct wharf_item it = {.kind = WHARF_MAKE_SEND, .name = port}, got[3];
        struct wharf_msg m = MSG(.items = &it, .n_items = 1), r = MSG(.items = got, .cap_items = 3);
        CHECK_EQ(wharf_sendmsg(t, hub, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_recvmsg(t, port, &r, WHARF_FOREVER), 0);
        for (uint32_t i = 0; i < 3000; i++)
                CHECK_EQ(wharf_send(t, got[(i * 7) % 3].name, &i, sizeof i, WHARF_FOREVER), 0);
        wharf_task_close(t);
        return 0;
}

/* Between processes, waiting: what is sent to any port of the set arrives, in order for each right; then the end. */
TEST(waiting_on_a_set)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(send_to_three, &h);
        wharf_name set, ports[3];
        struct wharf_item address, items[3];
        struct wharf_msg m = MSG(.items = &address, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_set_new(h.task, &set), 0);
        for (unsigned i = 0; i < 3; i++) {
                CHECK_EQ(wharf_port_new(h.task, NULL, &ports[i]), 0);
                items[i] = (struct wharf_item){.kind = WHARF_MAKE_SEND, .name = ports[i]};
                CHECK_EQ(wharf_set_add(h.task, set, ports[i]), 0);
        }
        m = MSG(.items = items, .n_items = 3);
        CHECK_EQ(wharf_sendmsg(h.task, address.name, &m, WHARF_FOREVER), 0);
        uint32_t next[3] = {0, 3000, 3000};
        for (unsigned k = 0; k < 3; k++) /* the first number of each */
                for (uint32_t i = 0; i < 3; i++)
                        if ((i * 7) % 3 == k)
                                next[k] = i;
        for (unsigned i = 0; i < 3000; i++) {
                uint32_t n;
                m = MSG(.data = &n, .cap_bytes = sizeof n);
                CHECK_EQ(wharf_recvmsg(h.task, set, &m, WHARF_FOREVER), 0);
                unsigned k = m.port == ports[0] ? 0 : m.port == ports[1] ? 1 : 2;
                CHECK_EQ(m.port, ports[k]);
                CHECK_EQ(n, next[k]);
                next[k] += 3;
        }
        CHECK_EQ(wharf_recv(h.task, set, NULL, 0, NULL, WHARF_FOREVER), -ENOTCONN);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* ---- a chosen sender ---- */

static int send_thousand(void *arg)
{
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        for (uint32_t i = 0; i < 1000; i++)
                CHECK_EQ(wharf_send(t, right, &i, sizeof i, WHARF_FOREVER), 0);
        wharf_task_close(t);
        return 0;
}

/* Symmetric direct communication: only from the one that was chosen, whatever others have sent; then from the rest. */
TEST(chosen_sender)
{
        struct hub h = hub_open(NULL);
        pid_t pid[3];
        uint64_t ids[3] = {0};
        uint32_t n, first[3];
        for (unsigned i = 0; i < 3; i++) {
                struct wharf_sender from;
                pid[i] = test_fork(send_thousand, &h);
                do /* the first message of each, among those of the others */
                        CHECK_EQ(wharf_recv(h.task, h.port, &n, sizeof n, &from, WHARF_FOREVER), sizeof n);
                while (from.pid != pid[i] && (first[from.pid == pid[0] ? 0 : 1] = n) + 1);
                ids[i] = from.id;
                first[i] = n;
        }
        for (unsigned k = 0; k < 3; k++) {
                unsigned i = (k + 1) % 3;
                for (uint32_t expect = first[i] + 1; expect < 1000; expect++) {
                        struct wharf_msg m = MSG(.data = &n, .cap_bytes = sizeof n, .from = ids[i]);
                        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                        CHECK_EQ(m.sender.id, ids[i]);
                        CHECK_EQ(n, expect);
                }
                struct wharf_msg m = MSG(.data = &n, .cap_bytes = sizeof n, .from = ids[i]);
                int r = wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER);
                CHECK(r == -ENOTCONN || r == -ENOENT); /* its end is seen now, or was seen on the way */
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), -ENOENT);
        }
        for (unsigned i = 0; i < 3; i++)
                CHECK_EQ(test_wait(pid[i]), 0);
        hub_close(&h);
}

static int wait_for_one(void *arg)
{
        struct hub h = hub_open(NULL);
        FILE *f = fopen(arg, "we");
        fprintf(f, "%s\n", h.path);
        fclose(f);
        struct wharf_sender from;
        char buf[8];
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, &from, WHARF_FOREVER), 5);
        CHECK_MEM(buf, "first", 5);
        struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf, .from = from.id);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_MEM(buf, "again", 5);
        for (unsigned i = 0; i < 40; i++)
                CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), 5);
        hub_close(&h);
        return 0;
}

/* While it waits for one, the messages of another lie there; it sleeps nevertheless. */
TEST(chosen_sender_sleeps)
{
        char file[96], path[96];
        snprintf(file, sizeof file, "%s/where", test_dir());
        pid_t pid = test_fork(wait_for_one, file);
        FILE *f;
        while (!(f = fopen(file, "re")) || !fgets(path, sizeof path, f) || !strchr(path, '\n')) {
                if (f)
                        fclose(f);
                usleep(1000);
        }
        fclose(f);
        *strchr(path, '\n') = 0;
        wharf_task *t;
        wharf_name one, other;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_right_connect(t, path, &one), 0);
        CHECK_EQ(wharf_right_connect(t, path, &other), 0);
        CHECK_EQ(wharf_send(t, one, "first", 5, 0), 0);
        await_asleep(pid);
        for (unsigned i = 0; i < 40; i++)
                CHECK_EQ(wharf_send(t, other, "other", 5, WHARF_FOREVER), 0);
        await_asleep(pid);
        CHECK_EQ(wharf_send(t, one, "again", 5, 0), 0);
        CHECK_EQ(test_wait(pid), 0);
        wharf_task_close(t);
}

/* ---- descriptors for other people's event loops ---- */

static bool readable(int fd)
{
        struct pollfd p = {.fd = fd, .events = POLLIN};
        CHECK_GE(poll(&p, 1, 0), 0);
        return p.revents & POLLIN;
}

/* Readable as long as a receive would not have to wait, by whatever way the message came, and not a moment longer. */
static void check_level(bool in_set)
{
        struct hub h = hub_open(NULL);
        wharf_name right, set = h.port;
        static char bytes[300000], buf[300000];
        int fd;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        if (in_set) {
                CHECK_EQ(wharf_set_new(h.task, &set), 0);
                CHECK_EQ(wharf_set_add(h.task, set, h.port), 0);
        }
        CHECK_EQ(wharf_send(h.task, right, "before", 6, 0), 0);
        CHECK_EQ(wharf_port_fd(h.task, set, &fd), 0);
        int ep = epoll_create1(EPOLL_CLOEXEC);
        struct epoll_event ev = {.events = EPOLLIN};
        CHECK_EQ(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev), 0);
        for (unsigned round = 0; round < 60; round++) {
                CHECK(readable(fd));
                CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 1);
                CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 1); /* level-triggered: told again */
                CHECK_GE(wharf_recv(h.task, set, buf, sizeof buf, NULL, 0), 0);
                CHECK_EQ(wharf_recv(h.task, set, buf, sizeof buf, NULL, 0), -EAGAIN);
                CHECK(!readable(fd));
                CHECK_EQ(epoll_wait(ep, &ev, 1, 0), 0);
                /* Three at once; each receive leaves it readable as long as there is another. */
                static const uint32_t hows[] = {WHARF_HOW_AUTO, WHARF_HOW_INLINE, WHARF_HOW_SECTION, WHARF_HOW_CHUNKS,
                                                WHARF_HOW_MEMORY};
                for (unsigned i = 0; i < 3; i++) {
                        uint32_t how = hows[(round + i) % 5];
                        struct wharf_msg m = MSG(.data = bytes, .how = how,
                                                 .len_bytes = how < WHARF_HOW_SECTION ? 10 : sizeof bytes);
                        CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
                }
                for (unsigned i = 0; i < 3; i++) {
                        CHECK(readable(fd));
                        CHECK_GE(wharf_recv(h.task, set, buf, sizeof buf, NULL, 0), 0);
                }
                CHECK_EQ(wharf_recv(h.task, set, buf, sizeof buf, NULL, 0), -EAGAIN);
                CHECK(!readable(fd));
                CHECK_EQ(wharf_send(h.task, right, "next", 4, 0), 0);
        }
        close(ep);
        hub_close(&h);
}

TEST(descriptor_of_a_port)
{
        check_level(false);
}

TEST(descriptor_of_a_set)
{
        check_level(true);
}

static int send_in_bursts(void *arg)
{
        wharf_name right, more;
        wharf_task *t = hub_join(arg, &right);
        CHECK_EQ(wharf_right_copy(t, right, WHARF_FOREVER, &more), 0);
        uint64_t x = (uint64_t)getpid();
        for (uint32_t i = 0; i < 3000; i++) {
                x = x * 6364136223846793005u + 1442695040888963407u;
                CHECK_EQ(wharf_send(t, x >> 60 & 1 ? right : more, &i, sizeof i, WHARF_FOREVER), 0);
                if (x >> 55 == 3)
                        usleep(100);
                if (x >> 54 == 5) { /* a new link now and then: over the hub's socket, and introduced */
                        CHECK_EQ(wharf_drop(t, more), 0);
                        CHECK_EQ(wharf_right_copy(t, right, WHARF_FOREVER, &more), 0);
                }
        }
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   no wake-up is lost in an event loop, whether one message is taken for each event or all.
 * Method: three processes send in bursts over two links each; the receiver only ever looks after epoll said so, and
 *         epoll waits without a limit: a lost one would hang.
 */
TEST_TIMEOUT(event_loop, 60)
{
        struct hub h = hub_open(NULL);
        pid_t pid[3];
        int fd;
        CHECK_EQ(wharf_port_fd(h.task, h.port, &fd), 0);
        int ep = epoll_create1(EPOLL_CLOEXEC);
        struct epoll_event ev = {.events = EPOLLIN};
        CHECK_EQ(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev), 0);
        for (unsigned i = 0; i < 3; i++)
                pid[i] = test_fork(send_in_bursts, &h);
        for (unsigned n = 0, turn = 0; n < 9000; turn++) {
                CHECK_EQ(epoll_wait(ep, &ev, 1, -1), 1);
                uint32_t got;
                ssize_t r;
                while ((r = wharf_recv(h.task, h.port, &got, sizeof got, NULL, 0)) == sizeof got) {
                        n++;
                        if (turn % 2)
                                break;
                }
                CHECK(r == sizeof got || r == -EAGAIN);
        }
        for (unsigned i = 0; i < 3; i++)
                CHECK_EQ(test_wait(pid[i]), 0);
        close(ep);
        hub_close(&h);
}

/* The end of the last sender makes the descriptor readable too: a receive would not have to wait. */
TEST(descriptor_tells_the_end)
{
        struct hub h = hub_open(NULL);
        wharf_name port, right;
        int fd;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        CHECK_EQ(wharf_port_fd(h.task, port, &fd), 0);
        CHECK_EQ(wharf_recv(h.task, port, NULL, 0, NULL, 0), -EAGAIN);
        CHECK(!readable(fd));
        CHECK_EQ(wharf_drop(h.task, right), 0);
        CHECK(readable(fd));
        CHECK_EQ(wharf_recv(h.task, port, NULL, 0, NULL, 0), -ENOTCONN);
        hub_close(&h);
}

/* ---- threads ---- */

enum { THREADS = 4, PER_THREAD = 4000 };

struct shared {
        wharf_task *task;
        wharf_name right, port;
        _Atomic unsigned next, got, wrong;
        _Atomic unsigned char seen[THREADS * PER_THREAD];
};

static void *send_share(void *arg)
{
        struct shared *s = arg;
        for (unsigned i = 0; i < PER_THREAD; i++) {
                uint32_t n = atomic_fetch_add(&s->next, 1);
                if (wharf_send(s->task, s->right, &n, sizeof n, WHARF_FOREVER) != 0)
                        atomic_fetch_add(&s->wrong, 1);
        }
        return NULL;
}

static void *receive_share(void *arg)
{
        struct shared *s = arg;
        uint32_t n;
        ssize_t r;
        while ((r = wharf_recv(s->task, s->port, &n, sizeof n, NULL, WHARF_FOREVER)) == sizeof n) {
                if (n >= THREADS * PER_THREAD || atomic_fetch_add(&s->seen[n], 1))
                        atomic_fetch_add(&s->wrong, 1);
                atomic_fetch_add(&s->got, 1);
        }
        if (r != -ENOTCONN)
                atomic_fetch_add(&s->wrong, 1);
        return NULL;
}

static int threads_send(void *arg)
{
        static struct shared s;
        s.task = hub_join(arg, &s.right);
        wharf_name hub = s.right;
        struct wharf_item it;
        pthread_t th[THREADS];
        char c;
        CHECK_EQ(wharf_port_new(s.task, NULL, &s.port), 0);
        it = (struct wharf_item){.kind = WHARF_MAKE_SEND, .name = s.port};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1),
                         r = MSG(.data = &c, .cap_bytes = 1, .items = &it, .cap_items = 1);
        CHECK_EQ(wharf_sendmsg(s.task, hub, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_recvmsg(s.task, s.port, &r, WHARF_FOREVER), 0);
        s.right = it.name;
        for (unsigned i = 0; i < THREADS; i++)
                CHECK_EQ(pthread_create(&th[i], NULL, send_share, &s), 0);
        for (unsigned i = 0; i < THREADS; i++)
                pthread_join(th[i], NULL);
        wharf_task_close(s.task);
        return (int)s.wrong;
}

/* Four threads send over one right, four receive from one port, in two processes: each message exactly once. */
TEST_TIMEOUT(threads_share_a_right_and_a_port, 60)
{
        static struct shared s;
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(threads_send, &h);
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        s.task = h.task;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.capacity_records = 64), &s.port), 0);
        struct wharf_item out = {.kind = WHARF_MAKE_SEND, .name = s.port};
        m = MSG(.items = &out, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(h.task, it.name, &m, WHARF_FOREVER), 0);
        pthread_t th[THREADS];
        for (unsigned i = 0; i < THREADS; i++)
                CHECK_EQ(pthread_create(&th[i], NULL, receive_share, &s), 0);
        for (unsigned i = 0; i < THREADS; i++)
                CHECK_EQ(pthread_join(th[i], NULL), 0);
        CHECK_EQ(s.got, THREADS * PER_THREAD);
        CHECK_EQ(s.wrong, 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

struct waiter {
        struct hub *hub;
        wharf_name name;
        int what; /* 0 receive, 1 send, 2 call, 3 receive from a set */
        _Atomic pid_t tid;
        ssize_t result;
};

static void *wait_thread(void *arg)
{
        struct waiter *w = arg;
        char c;
        atomic_store(&w->tid, gettid());
        switch (w->what) {
        case 0:
        case 3:
                w->result = wharf_recv(w->hub->task, w->name, &c, 1, NULL, WHARF_FOREVER);
                break;
        case 1:
                while ((w->result = wharf_send(w->hub->task, w->name, "x", 1, WHARF_FOREVER)) == 0)
                        ;
                break;
        case 2:
                w->result = wharf_call(w->hub->task, w->name, "x", 1, &c, 1, WHARF_FOREVER);
                break;
        }
        return NULL;
}

/* Dropping what a thread waits on ends its wait with an error of its own. */
TEST(dropping_what_others_wait_on)
{
        for (int what = 0; what < 4; what++) {
                struct hub h = hub_open(NULL);
                wharf_name port, right, set;
                CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS, .capacity_records = 4), &port), 0);
                CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
                CHECK_EQ(wharf_set_new(h.task, &set), 0);
                if (what == 3)
                        CHECK_EQ(wharf_set_add(h.task, set, port), 0);
                struct waiter w[3];
                pthread_t th[3];
                for (unsigned i = 0; i < 3; i++) {
                        w[i] = (struct waiter){.hub = &h,
                                               .name = what == 0   ? port
                                                       : what == 3 ? set
                                                                   : right,
                                               .what = what};
                        CHECK_EQ(pthread_create(&th[i], NULL, wait_thread, &w[i]), 0);
                }
                for (unsigned i = 0; i < 3; i++) {
                        while (!atomic_load(&w[i].tid))
                                usleep(100);
                        await_asleep(w[i].tid);
                }
                CHECK_EQ(wharf_drop(h.task, w[0].name), 0);
                for (unsigned i = 0; i < 3; i++) {
                        CHECK_EQ(pthread_join(th[i], NULL), 0);
                        CHECK_EQ(w[i].result, -ECANCELED);
                }
                hub_close(&h);
        }
}

/* ---- signals ---- */

static _Atomic unsigned alarms;

static void on_alarm(int sig)
{
        atomic_fetch_add_explicit(&alarms, 1, memory_order_relaxed);
}

static void storm(bool on)
{
        struct sigaction sa = {.sa_handler = on_alarm}; /* no SA_RESTART: everything that can say EINTR does */
        struct itimerval every = {{0, on ? 200 : 0}, {0, on ? 200 : 0}};
        CHECK_EQ(sigaction(SIGALRM, &sa, NULL), 0);
        CHECK_EQ(setitimer(ITIMER_REAL, &every, NULL), 0);
}

static int echo_in_a_storm(void *arg)
{
        wharf_name hub, port;
        wharf_task *t = hub_join(arg, &hub);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.capacity_records = 4), &port), 0);
        struct wharf_item it = {.kind = WHARF_MAKE_SEND, .name = port};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(t, hub, &m, WHARF_FOREVER), 0);
        storm(true);
        for (;;) {
                struct wharf_msg q = MSG(.flags = WHARF_RECV_ALLOC);
                int r = wharf_recvmsg(t, port, &q, WHARF_FOREVER);
                if (r == -ENOTCONN)
                        break;
                CHECK_EQ(r, 0);
                if (q.reply)
                        CHECK_EQ(wharf_reply(t, q.reply, q.data, q.len_bytes), 0);
                wharf_release(t, &q);
        }
        storm(false);
        wharf_task_close(t);
        return 0;
}

/* Signals every fifth of a millisecond, in both processes: no call notices, and none returns EINTR. */
TEST_TIMEOUT(storm_of_signals, 60)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(echo_in_a_storm, &h);
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        uint8_t *bytes = malloc(10 << 20), *buf = malloc(10 << 20);
        pattern_fill(bytes, 10 << 20, 5);
        storm(true);
        for (unsigned i = 0; i < 300; i++) {
                size_t len = i % 50 == 49 ? 10 << 20 : i % 5 == 4 ? 100000 : 10;
                CHECK_EQ(wharf_call(h.task, it.name, bytes, len, buf, 10 << 20, WHARF_FOREVER), len);
                CHECK_MEM(bytes, buf, len);
                for (unsigned k = 0; k < 10; k++)
                        CHECK_EQ(wharf_send(h.task, it.name, bytes, 10, WHARF_FOREVER), 0);
        }
        CHECK_EQ(wharf_recv(h.task, h.port, buf, 1, NULL, wharf_in_ms(20)), -ETIMEDOUT);
        storm(false);
        CHECK_GE(atomic_load(&alarms), 10);
        CHECK_EQ(wharf_drop(h.task, it.name), 0);
        CHECK_EQ(test_wait(pid), 0);
        free(bytes);
        free(buf);
        hub_close(&h);
}

/* ---- fork and exec ---- */

static int use_the_parents_task(void *arg)
{
        struct hub *h = arg;
        wharf_name name = 1;
        struct wharf_msg m = MSG(0);
        char c;
        int fd;
        uint32_t n;
        struct wharf_port_stat ps = {.size = sizeof ps};
        struct wharf_right_stat rs = {.size = sizeof rs};
        CHECK_EQ(wharf_port_new(h->task, NULL, &name), -ESTALE);
        CHECK_EQ(wharf_set_new(h->task, &name), -ESTALE);
        CHECK_EQ(wharf_set_add(h->task, 1, h->port), -ESTALE);
        CHECK_EQ(wharf_right_new(h->task, h->port, &name), -ESTALE);
        CHECK_EQ(wharf_right_copy(h->task, 2, 0, &name), -ESTALE);
        CHECK_EQ(wharf_right_connect(h->task, h->path, &name), -ESTALE);
        CHECK_EQ(wharf_send(h->task, 2, "x", 1, 0), -ESTALE);
        CHECK_EQ(wharf_sendmsg(h->task, 2, &m, 0), -ESTALE);
        CHECK_EQ(wharf_reserve(h->task, 2, 10, &m, 0), -ESTALE);
        CHECK_EQ(wharf_recv(h->task, h->port, &c, 1, NULL, WHARF_FOREVER), -ESTALE);
        CHECK_EQ(wharf_recvmsg(h->task, h->port, &m, WHARF_FOREVER), -ESTALE);
        CHECK_EQ(wharf_call(h->task, 2, "x", 1, &c, 1, WHARF_FOREVER), -ESTALE);
        CHECK_EQ(wharf_call_start(h->task, 2, &m, WHARF_NONE, 0, &n), -ESTALE);
        CHECK_EQ(wharf_call_finish(h->task, 2, 1, &m, 0), -ESTALE);
        CHECK_EQ(wharf_call_cancel(h->task, 2, 1), -ESTALE);
        CHECK_EQ(wharf_reply(h->task, 3, "x", 1), -ESTALE);
        CHECK_EQ(wharf_port_fd(h->task, h->port, &fd), -ESTALE);
        CHECK_EQ(wharf_port_listen(h->task, h->port, h->listen_fd), -ESTALE);
        CHECK_EQ(wharf_port_stat(h->task, h->port, &ps), -ESTALE);
        CHECK_EQ(wharf_right_stat(h->task, 2, &rs), -ESTALE);
        CHECK_EQ(wharf_watch(h->task, 2, h->port), -ESTALE);
        CHECK_EQ(wharf_sender_pidfd(h->task, 1, &fd), -ESTALE);
        CHECK_EQ(wharf_drop(h->task, h->port), -ESTALE);
        CHECK_EQ(wharf_name_kind(h->task, h->port), -ESTALE);
        CHECK_EQ(name, 1);
        CHECK(wharf_task_close(h->task) == NULL);
        return (int)count_fds();
}

/*
 * A forked child holds nothing of its parent: every call is refused, the descriptors are closed, the memory is freed.
 */
TEST(forked_child_holds_nothing)
{
        unsigned bare = count_fds();
        struct hub h = hub_open(NULL);
        wharf_name right, set, other;
        static char bytes[100000], buf[100000];
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        CHECK_EQ(wharf_set_new(h.task, &set), 0);
        CHECK_EQ(wharf_port_new(h.task, NULL, &other), 0);
        for (unsigned i = 0; i < 50; i++)
                CHECK_EQ(wharf_send(h.task, right, bytes, i == 30 ? sizeof bytes : 10, 0), 0);
        for (unsigned i = 0; i < 40; i++)
                CHECK_GE(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), 1);
        pid_t pid = test_fork(use_the_parents_task, &h);
        CHECK_EQ(test_wait(pid), bare + 1); /* the listening socket is ours, not the library's */
        for (unsigned i = 40; i < 50; i++)
                CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), 10);
        CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), 0);
        hub_close(&h);
}

static int fork_and_die(void *arg)
{
        wharf_name right, port;
        wharf_task *t = hub_join(arg, &right);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        struct wharf_item it = {.kind = WHARF_MAKE_SEND, .name = port};
        pid_t child = fork();
        if (child == 0) {
                prctl(PR_SET_PDEATHSIG, 0);
                pause(); /* outlives its parent, and holds nothing of it */
        }
        struct wharf_msg m = MSG(.data = &child, .len_bytes = sizeof child, .items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(t, right, &m, WHARF_FOREVER), 0);
        pause();
        return 0;
}

/* The death of a process is noticed though a child of it, which was forked meanwhile, lives on. */
TEST(death_is_noticed_though_a_child_lives)
{
        CHECK_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(fork_and_die, &h), child;
        struct wharf_item it;
        struct wharf_msg m = MSG(.data = &child, .cap_bytes = sizeof child, .items = &it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        uint64_t id = m.sender.id;
        CHECK_EQ(wharf_watch(h.task, it.name, h.port), 0);
        kill_hard(pid);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.notice, WHARF_NOTICE_DEAD_NAME);
        CHECK_EQ(wharf_send(h.task, it.name, "x", 1, WHARF_FOREVER), -EPIPE);
        m = MSG(.from = id);
        int r = wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER);
        CHECK(r == -ENOTCONN || r == -ENOENT);
        CHECK_EQ(kill(child, 0), 0);
        kill_hard(child);
        hub_close(&h);
}

static int exec_and_count(void *arg)
{
        struct hub *h = arg;
        wharf_name right;
        hub_join(h, &right);
        execl("/bin/sh", "sh", "-c", "ls -l /proc/self/fd | grep -c -e socket: -e memfd: -e eventpoll", NULL);
        return 1;
}

/* What is executed inherits no descriptor of the library. */
TEST(executed_program_inherits_nothing)
{
        struct hub h = hub_open(NULL);
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        int null = open("/dev/null", O_WRONLY), out = dup(1);
        dup2(null, 1);
        pid_t pid = test_fork(exec_and_count, &h);
        CHECK_EQ(test_wait(pid), 1); /* grep found none */
        dup2(out, 1);
        close(out);
        close(null);
        hub_close(&h);
}
