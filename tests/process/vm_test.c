/*
 * Direct transfer: the receiver reads the payload from the sender's address space, or it goes another way and the
 * sender is told why; withdrawn at the deadline; and what liars on either side get.
 */
#include "hub.h"

#include "os/os.h"
#include "port/direct.h"
#include "port/link.h"
#include "port/object.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>

enum { MIB = 1 << 20 };

/* ---- helpers ---- */

static int send_direct(wharf_task *t, wharf_name to, void *data, size_t len, int64_t deadline_ns, uint32_t *ret_how)
{
        struct wharf_msg m = MSG(.data = data, .len_bytes = len, .how = WHARF_HOW_DIRECT);
        int r = wharf_sendmsg(t, to, &m, deadline_ns);
        if (r == 0)
                *ret_how = m.how;
        return r;
}

static void *pattern_new(size_t len, uint64_t key)
{
        void *p = malloc(len);
        CHECK(p);
        pattern_fill(p, len, key);
        return p;
}

static struct wh_link *holder(wharf_task *t, wharf_name right)
{
        int err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        CHECK(l);
        wh_unlock(&l->o.lock);
        return l;
}

/* ---- read from where it is ---- */

static const size_t sizes[] = {1, 256, 4096, 4097, 100000, MIB, 9 * MIB + 13};
enum { SIZES = sizeof sizes / sizeof *sizes };

static int send_sizes(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        for (unsigned i = 0; i < 4 * SIZES; i++) {
                size_t len = sizes[i % SIZES];
                void *p = pattern_new(len, i);
                uint32_t how = 0;
                CHECK_EQ(send_direct(t, hub, p, len, WHARF_FOREVER, &how), 0);
                CHECK_EQ(how, WHARF_HOW_DIRECT);
                memset(p, 0xee, len); /* it is ours again */
                free(p);
        }
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   a message sent directly arrives whole, by every way to receive it; both sides see how it travelled.
 * Method: copied into a buffer, into a buffer that was too small first, allocated, in place; from one byte to 9 MiB.
 */
TEST(a_direct_message_is_read_from_the_senders_memory)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(send_sizes, &h);
        char *buf = malloc(10 * MIB);
        for (unsigned i = 0; i < 4 * SIZES; i++) {
                size_t len = sizes[i % SIZES];
                struct wharf_msg m = MSG(.data = buf, .cap_bytes = 10 * MIB);
                switch (i / SIZES) {
                case 1:
                        m.cap_bytes = len - 1;
                        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), -EOVERFLOW);
                        CHECK_EQ(m.len_bytes, len);
                        m.cap_bytes = len;
                        break;
                case 2:
                        m = MSG(.flags = WHARF_RECV_ALLOC);
                        break;
                case 3:
                        m = MSG(.flags = WHARF_RECV_IN_PLACE);
                        break;
                }
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(m.how, WHARF_HOW_DIRECT);
                CHECK_EQ(m.len_bytes, len);
                CHECK_EQ(m.sender.pid, pid);
                void *want = pattern_new(len, i);
                CHECK_MEM(m.data, want, len);
                free(want);
                if (m.flags)
                        wharf_release(h.task, &m);
        }
        free(buf);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

struct flagged {
        struct hub *h;
        _Atomic uint32_t *received;
};

static int send_then_look(void *arg)
{
        struct flagged *f = arg;
        wharf_name hub;
        wharf_task *t = hub_join(f->h, &hub);
        void *p = pattern_new(MIB, 1);
        uint32_t how;
        CHECK_EQ(wharf_send(t, hub, "a", 1, WHARF_FOREVER), 0);
        CHECK_EQ(send_direct(t, hub, p, MIB, WHARF_FOREVER, &how), 0);
        CHECK_EQ(*f->received, 1);
        free(p);
        wharf_task_close(t);
        return 0;
}

TEST(a_direct_send_returns_when_the_receiver_has_read_it)
{
        struct hub h = hub_open(NULL);
        struct flagged f = {&h, test_shared(4096)};
        pid_t pid = test_fork(send_then_look, &f);
        char c;
        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, WHARF_FOREVER), 1);
        await_asleep(pid);
        *f.received = 1;
        char *buf = malloc(MIB);
        struct wharf_msg m = MSG(.data = buf, .cap_bytes = MIB);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(test_wait(pid), 0);
        munmap((void *)f.received, 4096);
        free(buf);
        hub_close(&h);
}

static int call_direct(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        char *p = pattern_new(MIB, 5), *answer = malloc(MIB);
        for (int i = 0; i < 3; i++) {
                struct wharf_msg req = MSG(.data = p, .len_bytes = MIB, .how = WHARF_HOW_DIRECT, .id = 9);
                struct wharf_msg reply = MSG(.data = answer, .cap_bytes = MIB);
                CHECK_EQ(wharf_callmsg(t, hub, &req, &reply, WHARF_FOREVER), 0);
                CHECK_EQ(req.how, WHARF_HOW_DIRECT);
                CHECK_EQ(reply.len_bytes, MIB);
                CHECK_MEM(answer, p, MIB);
        }
        free(answer);
        free(p);
        wharf_task_close(t);
        return 0;
}

TEST(a_request_is_read_directly_and_answered)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(call_direct, &h);
        for (int i = 0; i < 3; i++) {
                struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(m.how, WHARF_HOW_DIRECT);
                CHECK_EQ(m.id, 9);
                struct wharf_msg reply = MSG(.data = m.data, .len_bytes = m.len_bytes, .how = WHARF_HOW_DIRECT);
                CHECK_EQ(wharf_replymsg(h.task, m.reply, &reply), 0);
                wharf_release(h.task, &m);
        }
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* ---- withdrawn ---- */

/* Also: what was withdrawn costs the next message nothing, neither its place nor its order. */
TEST(a_direct_send_that_nobody_reads_is_withdrawn_at_its_deadline)
{
        struct hub h = hub_open(NULL);
        wharf_name right;
        char *p = pattern_new(MIB, 2), buf[16];
        uint32_t how;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (int i = 0; i < 20; i++)
                CHECK_EQ(send_direct(h.task, right, p, MIB, wharf_in_ms(2), &how), -ETIMEDOUT);
        free(p);
        CHECK_EQ(wharf_send(h.task, right, "after", 5, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), 5);
        CHECK_MEM(buf, "after", 5);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), -EAGAIN);
        struct wharf_right_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_right_stat(h.task, right, &st), 0);
        CHECK_EQ(st.sent_messages, 1);
        hub_close(&h);
}

enum { RACES = 2000, RACE_WORDS = 8192 };

static int send_and_scribble(void *arg)
{
        struct flagged *f = arg;
        wharf_name hub;
        wharf_task *t = hub_join(f->h, &hub);
        static uint64_t words[RACE_WORDS];
        uint32_t sent = 0, how;
        for (uint64_t i = 1; i <= RACES; i++) {
                for (unsigned k = 0; k < RACE_WORDS; k++)
                        words[k] = i;
                int r = send_direct(t, hub, words, sizeof words, wharf_now_ns() + (int64_t)(i * 37 % 80) * 1000, &how);
                CHECK(r == 0 || r == -ETIMEDOUT);
                sent += r == 0;
                memset(words, 0, sizeof words);
        }
        CHECK_EQ(wharf_send(t, hub, &sent, sizeof sent, WHARF_FOREVER), 0);
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   a message is either received, whole, and its sender is told so; or withdrawn, and never seen.
 * Method: deadlines about as long as a reading takes, and a sender who overwrites the buffer whenever it is his again.
 */
TEST(taken_and_withdrawn_exclude_each_other)
{
        struct hub h = hub_open(NULL);
        struct flagged f = {.h = &h};
        pid_t pid = test_fork(send_and_scribble, &f);
        static uint64_t words[RACE_WORDS];
        uint64_t last = 0;
        for (uint32_t got = 0;; got++) {
                ssize_t n = wharf_recv(h.task, h.port, words, sizeof words, NULL, WHARF_FOREVER);
                if (n == sizeof got) {
                        CHECK_EQ(got, *(uint32_t *)words);
                        CHECK_GE(got, 1);
                        break;
                }
                CHECK_EQ(n, sizeof words);
                CHECK(words[0] > last);
                last = words[0];
                for (unsigned k = 0; k < RACE_WORDS; k++)
                        CHECK_EQ(words[k], last);
        }
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* ---- when it is refused ---- */

struct fallback {
        struct hub *h;
        const char *why;
        bool other_user, not_dumpable;
};

static int send_and_fall_back(void *arg)
{
        struct fallback *f = arg;
        if (f->other_user || f->not_dumpable)
                test_drop_root();
        if (f->not_dumpable)
                CHECK_EQ(prctl(PR_SET_DUMPABLE, 0), 0);
        wharf_name hub;
        wharf_task *t = hub_join(f->h, &hub);
        void *p = pattern_new(MIB, 3);
        for (int i = 0; i < 3; i++) {
                uint32_t how = 0;
                CHECK_EQ(send_direct(t, hub, p, MIB, WHARF_FOREVER, &how), 0);
                CHECK_EQ(how, WHARF_HOW_SECTION);
                if (!strstr(wharf_why(), f->why))
                        test_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", wharf_why(), f->why);
        }
        free(p);
        wharf_task_close(t);
        return 0;
}

static void take_three(struct hub *h)
{
        void *want = pattern_new(MIB, 3);
        for (int i = 0; i < 3; i++) {
                struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC);
                CHECK_EQ(wharf_recvmsg(h->task, h->port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(m.how, WHARF_HOW_SECTION);
                CHECK_EQ(m.len_bytes, MIB);
                CHECK_MEM(m.data, want, MIB);
                wharf_release(h->task, &m);
        }
        free(want);
}

TEST(falls_back_and_says_why_to_another_user)
{
        if (getuid() != 0)
                test_skip("only root can be two users");
        struct hub h = hub_open(NULL);
        struct fallback f = {.h = &h, .why = "another user", .other_user = true};
        pid_t pid = test_fork(send_and_fall_back, &f);
        take_three(&h);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

TEST(falls_back_and_says_why_when_the_sender_is_not_dumpable)
{
        test_drop_root();
        struct hub h = hub_open(NULL);
        struct fallback f = {.h = &h, .why = "does not let the receiver read", .not_dumpable = true};
        pid_t pid = test_fork(send_and_fall_back, &f);
        take_three(&h);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

static int no_vm_readv(enum wh_os_call call)
{
        return call == WH_OS_process_vm_readv ? -ENOSYS : 0;
}

TEST(falls_back_and_says_why_where_a_sandbox_forbids_the_call)
{
        struct hub h = hub_open(NULL);
        struct fallback f = {.h = &h, .why = "no process_vm_readv()"};
        pid_t pid = test_fork(send_and_fall_back, &f);
        wh_os_gate = no_vm_readv;
        take_three(&h);
        wh_os_gate = NULL;
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

static int receive_inside(void *arg)
{
        char path[96];
        snprintf(path, sizeof path, "%s", (const char *)arg);
        struct hub h = {.listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)};
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        memcpy(sa.sun_path, path, sizeof path);
        CHECK_EQ(bind(h.listen_fd, (struct sockaddr *)&sa, sizeof sa), 0);
        CHECK_EQ(listen(h.listen_fd, 4), 0);
        CHECK_EQ(wharf_task_open(NULL, &h.task), 0);
        CHECK_EQ(wharf_port_new(h.task, NULL, &h.port), 0);
        CHECK_EQ(wharf_port_listen(h.task, h.port, h.listen_fd), 0);
        take_three(&h);
        hub_close(&h);
        return 0;
}

static int become_namespace(void *arg)
{
        if (unshare(CLONE_NEWPID) < 0)
                return 77;
        pid_t pid = test_fork(receive_inside, arg);
        return test_wait(pid);
}

/* The receiver lives in a pid namespace of its own, where its sender has no number. */
TEST(falls_back_and_says_why_across_pid_namespaces)
{
        if (getuid() != 0)
                test_skip("only root can make a pid namespace");
        struct hub h = {.listen_fd = -1};
        snprintf(h.path, sizeof h.path, "%s/inside", test_dir());
        pid_t pid = test_fork(become_namespace, h.path);
        while (access(h.path, F_OK) < 0 && waitpid(pid, NULL, WNOHANG) == 0)
                usleep(1000);
        if (access(h.path, F_OK) < 0)
                test_skip("pid namespaces cannot be made here");
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        memcpy(sa.sun_path, h.path, sizeof h.path);
        for (int ok = -1; ok < 0;) { /* until it listens */
                int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
                ok = connect(s, (struct sockaddr *)&sa, sizeof sa);
                close(s);
        }
        struct fallback f = {.h = &h, .why = "another pid namespace"};
        CHECK_EQ(test_wait(test_fork(send_and_fall_back, &f)), 0);
        CHECK_EQ(test_wait(pid), 0);
}

/* What needs no receiver to be refused: no time to wait, rights, nothing to send. The message goes in another way. */
TEST(falls_back_and_says_why_where_it_makes_no_sense)
{
        struct hub h = hub_open(NULL);
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        static char bytes[100000], buf[100000];
        struct wharf_item item = {.kind = WHARF_COPY_FD, .fd = h.listen_fd}, got;
        struct wharf_msg m = MSG(.data = bytes, .len_bytes = sizeof bytes, .how = WHARF_HOW_DIRECT);
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
        CHECK(strstr(wharf_why(), "the deadline is 0"));
        CHECK_EQ(m.how, WHARF_HOW_SECTION);
        m = MSG(.data = bytes, .len_bytes = sizeof bytes, .how = WHARF_HOW_DIRECT, .items = &item, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, WHARF_FOREVER), 0);
        CHECK(strstr(wharf_why(), "carries rights"));
        m = MSG(.how = WHARF_HOW_DIRECT);
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, WHARF_FOREVER), 0);
        CHECK(strstr(wharf_why(), "no bytes"));
        for (int i = 0; i < 3; i++) {
                struct wharf_msg r = MSG(.data = buf, .cap_bytes = sizeof buf, .items = &got, .cap_items = 1);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &r, WHARF_FOREVER), 0);
                CHECK_EQ(r.n_items, i == 1);
                if (i == 1)
                        close(got.fd);
        }
        m = MSG(.how = WHARF_HOW_DIRECT + 1);
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), -EINVAL);
        hub_close(&h);
}

static int send_unreadable(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        uint32_t how;
        char *p = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(p != MAP_FAILED);
        CHECK_EQ(munmap(p + MIB, MIB), 0);
        CHECK_EQ(send_direct(t, hub, p, 2 * MIB, WHARF_FOREVER, &how), -EFAULT);
        CHECK_EQ(send_direct(t, hub, p, MIB, WHARF_FOREVER, &how), 0);
        CHECK_EQ(how, WHARF_HOW_DIRECT);
        munmap(p, MIB);
        wharf_task_close(t);
        return 0;
}

TEST(a_payload_that_cannot_be_read_to_its_end_is_no_message)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(send_unreadable, &h);
        struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.len_bytes, MIB);
        wharf_release(h.task, &m);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* ---- deaths ---- */

static int send_and_wait_forever(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        void *p = pattern_new(MIB, 4);
        uint32_t how;
        CHECK_EQ(wharf_send(t, hub, "first", 5, WHARF_FOREVER), 0);
        int r = send_direct(t, hub, p, MIB, WHARF_FOREVER, &how);
        CHECK_EQ(r, -EPIPE);
        free(p);
        wharf_task_close(t);
        return 0;
}

/* Its payload died with it. Nothing is read from whoever may have its number now. */
TEST(a_direct_message_of_a_dead_sender_is_none)
{
        struct hub h = hub_open(NULL);
        char buf[8];
        pid_t pid = test_fork(send_and_wait_forever, &h);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), 5);
        await_asleep(pid);
        kill_hard(pid);
        struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(20)), -ETIMEDOUT);
        hub_close(&h);
}

TEST(a_direct_send_ends_with_the_death_of_its_receiver)
{
        struct hub h = hub_open(NULL);
        char buf[8];
        pid_t pid = test_fork(send_and_wait_forever, &h);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), 5);
        await_asleep(pid);
        hub_close(&h);
        CHECK_EQ(test_wait(pid), 0);
}

/* ---- several threads ---- */

struct beside {
        wharf_task *task;
        wharf_name right;
};

static void *send_small(void *arg)
{
        struct beside *b = arg;
        for (int i = 0; i < 200; i++)
                CHECK_EQ(wharf_send(b->task, b->right, "small", 5, WHARF_FOREVER), 0);
        return NULL;
}

static int send_from_threads(void *arg)
{
        wharf_name hub;
        struct beside b = {.task = hub_join(arg, &hub)};
        b.right = hub;
        pthread_t thread;
        uint32_t how;
        CHECK_EQ(pthread_create(&thread, NULL, send_small, &b), 0);
        void *p = pattern_new(MIB, 3);
        for (int i = 0; i < 50; i++)
                CHECK_EQ(send_direct(b.task, hub, p, MIB, WHARF_FOREVER, &how), 0);
        pthread_join(thread, NULL);
        free(p);
        wharf_task_close(b.task);
        return 0;
}

TEST(other_threads_send_between_direct_messages_of_one_right)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(send_from_threads, &h);
        char *buf = malloc(MIB);
        unsigned small = 0, large = 0;
        while (small + large < 250) {
                ssize_t n = wharf_recv(h.task, h.port, buf, MIB, NULL, WHARF_FOREVER);
                CHECK(n == 5 || n == MIB);
                small += n == 5;
                large += n == MIB;
        }
        CHECK_EQ(large, 50);
        free(buf);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* ---- liars ---- */

/*
 * Goal:   an offer that makes no sense costs its sender the link; one that is no longer offered is no message.
 * Method: records that no honest sender writes.
 */
TEST(offers_that_no_honest_sender_makes)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS, .payload_bytes_max = 1 << 20));
        static char mine[4096];
        const struct {
                struct wh_rec_direct d;
                uint16_t n_items;
                uint32_t cut;
                int dead;
        } lies[] = {
                {{.at = (uintptr_t)mine, .len = 0, .number = 1}, 0, 0, -EPROTO},
                {{.at = UINT64_MAX - 10, .len = 4096, .number = 1}, 0, 0, -EPROTO},
                {{.at = (uintptr_t)mine, .len = (1 << 20) + 1, .number = 1}, 0, 0, -EMSGSIZE},
                {{.at = (uintptr_t)mine, .len = UINT64_MAX, .number = 1}, 0, 0, -EPROTO},
                {{.at = (uintptr_t)mine, .len = 4096, .number = 1}, 1, 0, -EPROTO},
                {{.at = (uintptr_t)mine, .len = 4096, .number = 1}, 0, 8, -EPROTO},
                {{.at = (uintptr_t)mine, .len = 4096, .number = 2}, 0, 0, 0}, /* not what the word offers */
                {{.at = 0x1000, .len = 4096, .number = 1}, 0, 0, 0},          /* refused */
                {{.at = (uint64_t)1 << 63, .len = 4096, .number = 1}, 0, 0, 0},
        };
        for (unsigned i = 0; i < sizeof lies / sizeof *lies; i++) {
                wharf_name bad;
                char c;
                CHECK_EQ(wharf_right_new(h.task, h.port, &bad), 0);
                struct wharf_msg first = MSG(.data = BYTES("a"), .len_bytes = 1, .how = WHARF_HOW_INLINE);
                CHECK_EQ(wharf_sendmsg(h.task, bad, &first, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, WHARF_FOREVER), 1);
                struct wh_link *l = holder(h.task, bad);
                struct {
                        struct wh_rec_ext ext;
                        struct wh_rec_direct d;
                } rec = {.ext.n_items = lies[i].n_items, .d = lies[i].d};
                wh_direct_offer(l, 1);
                memcpy(wh_ring_reserve(&l->tx->ring, sizeof rec), &rec, sizeof rec);
                wh_ring_publish(&l->tx->ring, WH_REC_DIRECT, (uint32_t)sizeof rec - lies[i].cut);
                if (wh_ring_must_ring(&l->tx->ring))
                        wh_frame_bell(l->sock);
                struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
                struct wharf_right_stat st = {.size = sizeof st};
                CHECK_EQ(wharf_right_stat(h.task, bad, &st), 0);
                CHECK_EQ(st.dead, lies[i].dead);
                CHECK_EQ(wharf_drop(h.task, bad), 0);
        }
        hub_close(&h);
}

struct waiting {
        wharf_task *task;
        wharf_name right;
        int result;
};

static void *send_and_tell(void *arg)
{
        struct waiting *w = arg;
        static char bytes[100000];
        uint32_t how;
        w->result = send_direct(w->task, w->right, bytes, sizeof bytes, WHARF_FOREVER, &how);
        return NULL;
}

/* A receiver that writes nonsense instead of an answer ends the sender's wait, with the link. */
TEST(an_answer_that_no_honest_receiver_gives)
{
        struct hub h = hub_open(NULL);
        struct waiting w = {.task = h.task};
        CHECK_EQ(wharf_right_new(h.task, h.port, &w.right), 0);
        struct wharf_msg first = MSG(.data = BYTES("a"), .len_bytes = 1, .how = WHARF_HOW_INLINE);
        char c;
        CHECK_EQ(wharf_sendmsg(h.task, w.right, &first, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, WHARF_FOREVER), 1);
        struct wh_link *l = holder(h.task, w.right);
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, send_and_tell, &w), 0);
        _Atomic uint64_t *word = (_Atomic uint64_t *)(uintptr_t)&l->tx->ring.back->direct;
        while (*word != wh_direct_word(WH_DIRECT_OFFERED, 1, 0))
                usleep(100);
        *word = 0xdeadbeef;
        /* Taken for what it is not: the word says nothing of it any more. */
        struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC);
        CHECK(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(20)) < 0);
        pthread_join(thread, NULL);
        CHECK_EQ(w.result, -EPROTO);
        hub_close(&h);
}
