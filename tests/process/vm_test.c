/*
 * Direct transfer: the receiver reads the payload from the sender's address space, or it goes another way and the
 * sender is told why; withdrawn at the deadline; and what liars on either side get.
 */
#include "hub.h"
#include "inside.h"

#include "os/os.h"
#include "port/port.h"
#include "link/direct.h"
#include "right/held.h"
#include "link/link.h"
#include "right/right.h"

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
 * Method: deadlines about as long as a reading takes, and a sender who overwrites the buffer whenever it is its own again.
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
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_DIRECT), &h.port), 0);
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

/* Of the offer that stands: both sides' to write. */
static _Atomic uint64_t *claim_word(const struct wh_link *l)
{
        return (_Atomic uint64_t *)(uintptr_t)&l->out.lane->ring.back->claim;
}

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
                enum { OFFERED, NOT_OFFERED, OTHER_OFFERED } word;
        } lies[] = {
                {{.at = (uintptr_t)mine, .len = 0}, 0, 0, -EPROTO},
                {{.at = UINT64_MAX - 10, .len = 4096}, 0, 0, -EPROTO},
                {{.at = (uintptr_t)mine, .len = (1 << 20) + 1}, 0, 0, -EMSGSIZE},
                {{.at = (uintptr_t)mine, .len = UINT64_MAX}, 0, 0, -EPROTO},
                {{.at = (uintptr_t)mine, .len = 4096}, 1, 0, -EPROTO},
                {{.at = (uintptr_t)mine, .len = 4096}, 0, 8, -EPROTO},
                {{.at = (uintptr_t)mine, .len = 4096}, 0, 0, -EPROTO, NOT_OFFERED},
                {{.at = (uintptr_t)mine, .len = 4096}, 0, 0, 0, OTHER_OFFERED},
                {{.at = 0x1000, .len = 4096}, 0, 0, 0}, /* refused */
                {{.at = (uint64_t)1 << 63, .len = 4096}, 0, 0, 0},
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
                } rec = {.ext = {.n_items = lies[i].n_items, .arg = WH_REC_DIRECT}, .d = lies[i].d};
                struct wh_ring_tx *ring = &l->out.lane->ring;
                memcpy(wh_ring_reserve(ring, sizeof rec), &rec, sizeof rec);
                if (lies[i].word == NOT_OFFERED)
                        wh_ring_publish(ring, WH_REC_DIRECT, sizeof rec);
                else
                        wh_ring_offer(ring, (uint32_t)sizeof rec - lies[i].cut);
                if (lies[i].word == OTHER_OFFERED)
                        *claim_word(l) = wh_claim_word(WH_CLAIM_OFFERED, ring->records);
                if (wh_ring_must_ring(ring))
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
        _Atomic uint64_t *word = claim_word(l);
        while (*word != wh_claim_word(WH_CLAIM_OFFERED, 1))
                usleep(100);
        *word = 0xdeadbeef;
        /* Taken for what it is not: the word says nothing of it any more. */
        struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC);
        CHECK(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(20)) < 0);
        pthread_join(thread, NULL);
        CHECK_EQ(w.result, -EPROTO);
        hub_close(&h);
}

/* ---- the other way round: replies written into the caller's memory ---- */

/* A call whose reply of `len` bytes, made from `key`, may be written directly. */
static int call_window(wharf_task *t, wharf_name to, uint64_t key, size_t len, size_t cap, struct wharf_msg *reply)
{
        uint64_t ask[2] = {key, len};
        struct wharf_msg req = MSG(.data = ask, .len_bytes = sizeof ask, .flags = WHARF_REPLY_DIRECT, .cap_bytes = cap);
        return wharf_callmsg(t, to, &req, reply, WHARF_FOREVER);
}

/* Answers one such call; how it went is in *ret_how. */
static int answer_one(struct hub *h, uint32_t how, uint32_t *ret_how)
{
        uint64_t ask[2];
        struct wharf_msg m = MSG(.data = ask, .cap_bytes = sizeof ask);
        int r = wharf_recvmsg(h->task, h->port, &m, WHARF_FOREVER);
        if (r < 0)
                return r;
        CHECK_EQ(m.len_bytes, sizeof ask);
        void *p = pattern_new(ask[1] ? ask[1] : 1, ask[0]);
        struct wharf_msg reply = MSG(.data = p, .len_bytes = ask[1], .how = how, .id = 7);
        r = wharf_replymsg(h->task, m.reply, &reply);
        if (r == 0 && ret_how)
                *ret_how = reply.how;
        free(p);
        return r;
}

static void check_reply(wharf_task *t, struct wharf_msg *m, uint64_t key, size_t len)
{
        CHECK_EQ(m->len_bytes, len);
        CHECK_EQ(m->id, 7);
        void *want = pattern_new(len, key);
        CHECK_MEM(m->data, want, len);
        free(want);
        wharf_release(t, m);
}

static const size_t reply_sizes[] = {300, 4096, 4097, 100000, MIB, 9 * MIB + 13};
enum { REPLY_SIZES = sizeof reply_sizes / sizeof *reply_sizes };

static int call_reply_sizes(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        char *buf = malloc(10 * MIB);
        for (unsigned i = 0; i < 4 * REPLY_SIZES; i++) {
                size_t len = reply_sizes[i % REPLY_SIZES];
                struct wharf_msg a = MSG(.data = buf, .cap_bytes = 10 * MIB);
                if (i / REPLY_SIZES == 1)
                        a = MSG(.flags = WHARF_RECV_ALLOC);
                if (i / REPLY_SIZES == 2)
                        a = MSG(.flags = WHARF_RECV_IN_PLACE);
                if (i / REPLY_SIZES < 3) {
                        CHECK_EQ(call_window(t, hub, i, len, i % 2 ? len : 10 * MIB, &a), 0);
                } else { /* too small first: it stays outstanding */
                        uint64_t ask[2] = {i, len};
                        uint32_t call;
                        struct wharf_msg req = MSG(.data = ask, .len_bytes = sizeof ask, .flags = WHARF_REPLY_DIRECT,
                                                   .cap_bytes = len);
                        CHECK_EQ(wharf_call_start(t, hub, &req, WHARF_NONE, WHARF_FOREVER, &call), 0);
                        a.cap_bytes = len - 1;
                        CHECK_EQ(wharf_call_finish(t, hub, call, &a, WHARF_FOREVER), -EOVERFLOW);
                        CHECK_EQ(a.len_bytes, len);
                        a.cap_bytes = len;
                        CHECK_EQ(wharf_call_finish(t, hub, call, &a, WHARF_FOREVER), 0);
                }
                CHECK_EQ(a.how, WHARF_HOW_DIRECT);
                check_reply(t, &a, i, len);
        }
        free(buf);
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   a reply lies in the caller's memory when the call returns, by every way to receive it; both sides see how.
 * Method: a server that asks for it, and one that just answers; ports of every capacity.
 */
TEST(a_reply_is_written_into_the_callers_memory)
{
        const uint32_t capacities[] = {0, 1, WHARF_UNBOUNDED, WHARF_RENDEZVOUS};
        for (unsigned c = 0; c < 4; c++) {
                struct hub h = hub_open(PORT_OPTS(.capacity_records = capacities[c]));
                pid_t pid = test_fork(call_reply_sizes, &h);
                for (unsigned i = 0; i < 4 * REPLY_SIZES; i++) {
                        uint32_t how = 0;
                        CHECK_EQ(answer_one(&h, i % 2 ? WHARF_HOW_DIRECT : WHARF_HOW_AUTO, &how), 0);
                        CHECK_EQ(how, WHARF_HOW_DIRECT);
                }
                CHECK_EQ(test_wait(pid), 0);
                hub_close(&h);
        }
}

static int call_both_ways(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        char *p = pattern_new(MIB, 5);
        for (int i = 0; i < 5; i++) {
                struct wharf_msg req = MSG(.data = p, .len_bytes = MIB, .how = WHARF_HOW_DIRECT,
                                           .flags = WHARF_REPLY_DIRECT, .cap_bytes = MIB);
                struct wharf_msg reply = MSG(.flags = WHARF_RECV_ALLOC);
                CHECK_EQ(wharf_callmsg(t, hub, &req, &reply, WHARF_FOREVER), 0);
                CHECK_EQ(req.how, WHARF_HOW_DIRECT);
                CHECK_EQ(reply.how, WHARF_HOW_DIRECT);
                CHECK_MEM(reply.data, p, MIB);
                ((char *)reply.data)[i] = 'x'; /* it is the caller's own */
                wharf_release(t, &reply);
        }
        free(p);
        wharf_task_close(t);
        return 0;
}

TEST(a_request_is_read_and_its_reply_written_directly)
{
        const uint32_t capacities[] = {0, WHARF_RENDEZVOUS};
        for (unsigned c = 0; c < 2; c++) {
                struct hub h = hub_open(PORT_OPTS(.capacity_records = capacities[c]));
                pid_t pid = test_fork(call_both_ways, &h);
                for (int i = 0; i < 5; i++) {
                        struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC);
                        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                        CHECK_EQ(m.how, WHARF_HOW_DIRECT);
                        CHECK_EQ(wharf_reply(h.task, m.reply, m.data, m.len_bytes), 0);
                        wharf_release(h.task, &m);
                }
                CHECK_EQ(test_wait(pid), 0);
                hub_close(&h);
        }
}

/* Rights in a reply travel as ever. */
static int call_for_rights(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        for (int i = 0; i < 30; i++) {
                struct wharf_item got;
                struct wharf_msg a = MSG(.flags = WHARF_RECV_ALLOC, .items = &got, .cap_items = 1);
                CHECK_EQ(call_window(t, hub, 1, 5000, 5000, &a), 0);
                CHECK_EQ(a.how, WHARF_HOW_DIRECT);
                CHECK_EQ(a.n_items, 1);
                CHECK_EQ(got.kind, WHARF_GOT_FD);
                close(got.fd);
                wharf_release(t, &a);
        }
        wharf_task_close(t);
        return 0;
}

TEST(a_direct_reply_carries_rights)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(call_for_rights, &h);
        static char bytes[5000];
        for (int i = 0; i < 30; i++) {
                uint64_t ask[2];
                struct wharf_msg m = MSG(.data = ask, .cap_bytes = sizeof ask);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                struct wharf_item it = {.kind = WHARF_COPY_FD, .fd = h.listen_fd};
                struct wharf_msg reply = MSG(.data = bytes, .len_bytes = sizeof bytes, .items = &it, .n_items = 1);
                CHECK_EQ(wharf_replymsg(h.task, m.reply, &reply), 0);
                CHECK_EQ(reply.how, WHARF_HOW_DIRECT);
        }
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* ---- replies that fall back ---- */

struct window_case {
        struct hub *h;
        const char *why;
        size_t len, cap;
        bool other_user, not_dumpable;
};

static void check_why(const char *why)
{
        if (!strstr(wharf_why(), why))
                test_fail(__FILE__, __LINE__, "\"%s\" does not say \"%s\"", wharf_why(), why);
}

static int call_and_fall_back(void *arg)
{
        struct window_case *c = arg;
        if (c->other_user || c->not_dumpable)
                test_drop_root();
        if (c->not_dumpable)
                CHECK_EQ(prctl(PR_SET_DUMPABLE, 0), 0);
        wharf_name hub;
        wharf_task *t = hub_join(c->h, &hub);
        for (unsigned i = 0; i < 20; i++) { /* as a frame first, then in the lane */
                struct wharf_msg a = MSG(.flags = WHARF_RECV_ALLOC);
                CHECK_EQ(call_window(t, hub, i, c->len, c->cap, &a), 0);
                CHECK(a.how != WHARF_HOW_DIRECT);
                check_why(c->why);
                check_reply(t, &a, i, c->len);
        }
        wharf_task_close(t);
        return 0;
}

/* Both sides are told why. */
static void fall_back(struct window_case c, int (*gate)(enum wh_os_call))
{
        struct hub h = hub_open(NULL);
        c.h = &h;
        pid_t pid = test_fork(call_and_fall_back, &c);
        wh_os_gate = gate;
        for (unsigned i = 0; i < 20; i++) {
                uint32_t how = 0;
                CHECK_EQ(answer_one(&h, WHARF_HOW_DIRECT, &how), 0);
                CHECK(how != WHARF_HOW_DIRECT);
                check_why(c.why);
        }
        wh_os_gate = NULL;
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

TEST(a_reply_falls_back_and_says_why_to_another_user)
{
        if (getuid() != 0)
                test_skip("only root can be two users");
        fall_back((struct window_case){.len = MIB, .cap = MIB, .other_user = true, .why = "another user"}, NULL);
}

TEST(a_reply_falls_back_and_says_why_when_the_caller_is_not_dumpable)
{
        test_drop_root();
        fall_back((struct window_case){.len = 5000, .cap = MIB, .not_dumpable = true, .why = "does not let the server"},
                  NULL);
}

static int no_vm_writev(enum wh_os_call call)
{
        return call == WH_OS_process_vm_writev ? -ENOSYS : 0;
}

TEST(a_reply_falls_back_and_says_why_where_a_sandbox_forbids_the_call)
{
        fall_back((struct window_case){.len = MIB, .cap = MIB, .why = "no process_vm_writev()"}, no_vm_writev);
}

static int vm_writev_denied(enum wh_os_call call)
{
        return call == WH_OS_process_vm_writev ? -EPERM : 0; /* as Yama and security modules answer */
}

TEST(a_reply_falls_back_and_says_why_where_the_kernel_refuses)
{
        fall_back((struct window_case){.len = 100000, .cap = MIB, .why = "Yama"}, vm_writev_denied);
}

TEST(a_reply_larger_than_was_asked_for_falls_back_and_says_why)
{
        fall_back((struct window_case){.len = 100001, .cap = 100000, .why = "larger than the memory"}, NULL);
        fall_back((struct window_case){.len = 9 * MIB, .cap = 1, .why = "larger than the memory"}, NULL);
}

static int call_plainly(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        uint64_t ask[2] = {1, 5000};
        char *buf = malloc(5000);
        CHECK_EQ(wharf_call(t, hub, ask, sizeof ask, buf, 5000, WHARF_FOREVER), 5000);
        struct wharf_msg req = MSG(.data = ask, .len_bytes = sizeof ask, .flags = WHARF_REPLY_DIRECT);
        struct wharf_msg a = MSG(.data = buf, .cap_bytes = 5000);
        CHECK_EQ(wharf_callmsg(t, hub, &req, &a, WHARF_FOREVER), -EINVAL);
        check_why("cap_bytes");
        free(buf);
        wharf_task_close(t);
        return 0;
}

TEST(a_reply_is_not_written_where_nobody_asked)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(call_plainly, &h);
        uint32_t how = 0;
        CHECK_EQ(answer_one(&h, WHARF_HOW_DIRECT, &how), 0);
        CHECK(how != WHARF_HOW_DIRECT);
        check_why("did not ask");
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

static int call_and_be_passed_on(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        struct wharf_msg a = MSG(.flags = WHARF_RECV_ALLOC);
        CHECK_EQ(call_window(t, hub, 3, MIB, MIB, &a), 0);
        CHECK(a.how != WHARF_HOW_DIRECT);
        check_why("not answered directly");
        check_reply(t, &a, 3, MIB);
        wharf_task_close(t);
        return 0;
}

/* Whoever it was passed on to was not shown the window. */
TEST(a_reply_by_somebody_else_falls_back)
{
        struct hub h = hub_open(NULL);
        wharf_name port, right;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_DIRECT), &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        pid_t pid = test_fork(call_and_be_passed_on, &h);
        struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        wharf_release(h.task, &m);
        struct wharf_item it = {.kind = WHARF_MOVE_REPLY, .name = m.reply}, got;
        m = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
        m = MSG(.items = &got, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, port, &m, WHARF_FOREVER), 0);
        void *p = pattern_new(MIB, 3);
        m = MSG(.data = p, .len_bytes = MIB, .id = 7);
        CHECK_EQ(wharf_replymsg(h.task, got.name, &m), 0);
        free(p);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* ---- given up, and deaths ---- */

/* How many pages this process has in memory. */
static size_t resident_bytes(void)
{
        unsigned long all = 0, resident = 0;
        FILE *f = fopen("/proc/self/statm", "re");
        CHECK(f && fscanf(f, "%lu %lu", &all, &resident) == 2);
        fclose(f);
        return resident * 4096;
}

struct given_up {
        struct hub *h;
        struct stage asked, answered;
};

static int call_and_give_up(void *arg)
{
        struct given_up *g = arg;
        wharf_name hub;
        wharf_task *t = hub_join(g->h, &hub);
        struct wharf_msg a = MSG(.flags = WHARF_RECV_ALLOC);
        CHECK_EQ(call_window(t, hub, 1, 300, 300, &a), 0);
        check_reply(t, &a, 1, 300);
        for (unsigned i = 0; i < 10; i++) {
                uint64_t ask[2] = {i, 8 * MIB};
                struct wharf_msg req =
                        MSG(.data = ask, .len_bytes = sizeof ask, .flags = WHARF_REPLY_DIRECT, .cap_bytes = 8 * MIB);
                uint32_t call;
                CHECK_EQ(wharf_call_start(t, hub, &req, WHARF_NONE, WHARF_FOREVER, &call), 0);
                if (i % 2)
                        stage_await(&g->answered); /* before it is given up, then */
                size_t before = resident_bytes();
                CHECK_EQ(wharf_call_cancel(t, hub, call), 0);
                if (i % 2) /* what was written there already is memory no more */
                        CHECK_LE(resident_bytes() + 7 * MIB, before);
                stage_reach(&g->asked);
                if (i % 2)
                        continue;
                /* Addresses that are given up are not used for anything else. */
                char *p = mmap(NULL, 8 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                CHECK(p != MAP_FAILED);
                memset(p, 'm', 8 * MIB);
                stage_await(&g->answered);
                for (size_t k = 0; k < 8 * MIB; k++)
                        CHECK_EQ(p[k], 'm');
                CHECK_EQ(munmap(p, 8 * MIB), 0);
        }
        CHECK_EQ(call_window(t, hub, 3, MIB, MIB, &a), 0);
        CHECK_EQ(a.how, WHARF_HOW_DIRECT);
        check_reply(t, &a, 3, MIB);
        struct wh_link *l = holder(t, hub);
        CHECK(wh_held(l)->windows_aside == NULL); /* all were answered */
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   a reply that comes too late harms nothing: not what is mapped since, not the next call, not the memory.
 * Method: calls given up before the server writes, and after.
 */
TEST(what_is_written_for_a_call_that_was_given_up_harms_nothing)
{
        test_need_proc();
        struct hub h = hub_open(NULL);
        struct given_up g = {.h = &h, .asked = stage_new(), .answered = stage_new()};
        pid_t pid = test_fork(call_and_give_up, &g);
        CHECK_EQ(answer_one(&h, WHARF_HOW_AUTO, NULL), 0);
        for (unsigned i = 0; i < 10; i++) {
                uint32_t how = 0;
                if (i % 2 == 0)
                        stage_await(&g.asked);
                CHECK_EQ(answer_one(&h, WHARF_HOW_AUTO, &how), 0);
                CHECK_EQ(how == WHARF_HOW_DIRECT, i % 2);
                stage_reach(&g.answered);
                if (i % 2)
                        stage_await(&g.asked);
        }
        CHECK_EQ(answer_one(&h, WHARF_HOW_AUTO, NULL), 0);
        CHECK_EQ(test_wait(pid), 0);
        stage_done(&g.asked);
        stage_done(&g.answered);
        hub_close(&h);
}

static int call_and_die(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        uint64_t ask[2] = {1, MIB};
        struct wharf_msg req = MSG(.data = ask, .len_bytes = sizeof ask, .flags = WHARF_REPLY_DIRECT, .cap_bytes = MIB);
        uint32_t call;
        CHECK_EQ(wharf_call_start(t, hub, &req, WHARF_NONE, WHARF_FOREVER, &call), 0);
        kill(getpid(), SIGKILL);
        return 1;
}

TEST(a_reply_to_a_caller_that_died_is_written_nowhere)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        pid_t pid = test_fork(call_and_die, &h);
        uint64_t ask[2];
        struct wharf_msg m = MSG(.data = ask, .cap_bytes = sizeof ask);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(test_wait(pid), 128 + SIGKILL);
        static char bytes[MIB];
        struct wharf_msg reply = MSG(.data = bytes, .len_bytes = sizeof bytes, .how = WHARF_HOW_DIRECT);
        CHECK_EQ(wharf_replymsg(h.task, m.reply, &reply), -EPIPE);
        hub_close(&h);
}

struct killed_server {
        char path[96];
        struct stage up;
};

static int serve_until_killed(void *arg)
{
        struct killed_server *k = arg;
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        CHECK_EQ(write(k->up.fd[1], h.path, sizeof h.path), sizeof h.path);
        while (answer_one(&h, WHARF_HOW_AUTO, NULL) == 0)
                ;
        return 1;
}

/* Whenever a server is killed, its caller has an error or a whole reply. */
TEST(a_server_killed_while_it_writes_leaves_an_error_or_a_whole_reply)
{
        unsigned whole = 0;
        for (unsigned i = 0; i < 40; i++) {
                struct killed_server k = {.up = stage_new()};
                pid_t pid = test_fork(serve_until_killed, &k);
                CHECK_EQ(read(k.up.fd[0], k.path, sizeof k.path), sizeof k.path);
                wharf_task *t;
                wharf_name right;
                CHECK_EQ(wharf_task_open(NULL, &t), 0);
                CHECK_EQ(wharf_right_connect(t, k.path, &right), 0);
                struct wharf_msg a = MSG(.flags = WHARF_RECV_ALLOC);
                CHECK_EQ(call_window(t, right, 1, 300, 300, &a), 0);
                check_reply(t, &a, 1, 300);
                uint64_t ask[2] = {i, 4 * MIB};
                struct wharf_msg req =
                        MSG(.data = ask, .len_bytes = sizeof ask, .flags = WHARF_REPLY_DIRECT, .cap_bytes = 4 * MIB);
                uint32_t call;
                CHECK_EQ(wharf_call_start(t, right, &req, WHARF_NONE, WHARF_FOREVER, &call), 0);
                usleep(i * 250);
                CHECK_EQ(kill(pid, SIGKILL), 0);
                a = MSG(.flags = WHARF_RECV_ALLOC);
                int r = wharf_call_finish(t, right, call, &a, WHARF_FOREVER);
                CHECK(r == 0 || r == -ECONNRESET || r == -EPIPE);
                if (r == 0) {
                        check_reply(t, &a, i, 4 * MIB);
                        whole++;
                }
                CHECK_EQ(test_wait(pid), 128 + SIGKILL);
                wharf_task_close(t);
                stage_done(&k.up);
        }
        CHECK_LE(whole, 39);
}

/* ---- liars, the other way round ---- */

/*
 * Goal:   a server writes nothing but into the caller's own memory, whatever that says; and is told what to say.
 * Method: a caller that announces what it does not have, may not write to, or what makes no sense.
 */
static const struct window_lie {
        uint64_t at, len;
        bool mine; /* a page of the caller's that it may only read */
        bool dead;
} window_lies[] = {
        {0, 4096, 0, 0},
        {0x1000, 8192, 0, 0},
        {(uint64_t)1 << 63, 8192, 0, 0},
        {UINT64_MAX - 8191, 8191, 0, 0},
        {0, 8192, 1, 0},
        {UINT64_MAX - 10, 8192, 0, 1},
        {0x1000, 0, 0, 1},
};

static int announce_lies(void *arg)
{
        struct hub *h = arg;
        for (unsigned i = 0; i < sizeof window_lies / sizeof *window_lies; i++) {
                wharf_name hub;
                wharf_task *t;
                CHECK_EQ(wharf_task_open(NULL, &t), 0);
                CHECK_EQ(wharf_right_connect(t, h->path, &hub), 0);
                struct wharf_msg first = MSG(.data = BYTES("a"), .len_bytes = 1, .how = WHARF_HOW_INLINE);
                CHECK_EQ(wharf_sendmsg(t, hub, &first, WHARF_FOREVER), 0);
                struct wh_link *l = holder(t, hub);
                void *page = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                struct {
                        struct wh_rec_ext ext;
                        struct wh_rec_direct d;
                } rec = {.ext.call = wh_held(l)->last_call + 1,
                         .d = {.at = window_lies[i].mine ? (uintptr_t)page : window_lies[i].at,
                               .len = window_lies[i].len}};
                memcpy(wh_ring_reserve(&l->out.lane->ring, sizeof rec), &rec, sizeof rec);
                wh_ring_publish(&l->out.lane->ring, WH_REC_WINDOW, sizeof rec);
                uint64_t ask[2] = {i, 4096};
                char buf[4096];
                ssize_t r = wharf_call(t, hub, ask, sizeof ask, buf, sizeof buf, WHARF_FOREVER);
                if (window_lies[i].dead) {
                        CHECK(r == -EPROTO || r == -EPIPE || r == -ECONNRESET);
                } else {
                        CHECK_EQ(r, 4096);
                        void *want = pattern_new(4096, i);
                        CHECK_MEM(buf, want, 4096);
                        free(want);
                }
                munmap(page, 8192);
                wharf_task_close(t);
        }
        return 0;
}

TEST(windows_that_no_honest_caller_announces)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        pid_t pid = test_fork(announce_lies, &h);
        for (unsigned done = 0; done < 5;) {
                uint64_t ask[2];
                struct wharf_msg m = MSG(.data = ask, .cap_bytes = sizeof ask);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                if (!m.reply)
                        continue;
                void *p = pattern_new(4096, ask[0]);
                struct wharf_msg reply = MSG(.data = p, .len_bytes = 4096);
                CHECK_EQ(wharf_replymsg(h.task, m.reply, &reply), 0);
                CHECK(reply.how != WHARF_HOW_DIRECT);
                check_why("could not write");
                free(p);
                done++;
        }
        struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC);
        while (running(pid)) {
                int r = wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(10));
                CHECK(r == 0 || r == -ETIMEDOUT);
                if (r == 0)
                        wharf_release(h.task, &m);
        }
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/*
 * Goal:   a server that claims to have written what it did not gains nothing by it.
 * Method: a record of a direct reply for a call that announced nothing, elsewhere, too long, or empty.
 */
TEST(direct_replies_that_no_honest_server_gives)
{
        for (unsigned lie = 0; lie < 4; lie++) {
                struct hub h = hub_open(NULL);
                wharf_name right;
                static char mine[4096];
                CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
                struct wharf_msg req = MSG(.data = mine, .len_bytes = 1, .how = WHARF_HOW_INLINE,
                                           .flags = lie ? WHARF_REPLY_DIRECT : 0, .cap_bytes = 4096);
                uint32_t call;
                CHECK_EQ(wharf_call_start(h.task, right, &req, WHARF_NONE, 0, &call), 0);
                struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                wharf_release(h.task, &m);
                /* The owner's end has a lane once it has answered something else in it. */
                struct wh_link *l = (struct wh_link *)wh_table_find(&h.task->links, (uint32_t)m.sender.id);
                CHECK_EQ(wh_link_attach(l), 0);
                struct wh_link *caller = holder(h.task, right);
                struct wh_window *w = wh_container(wh_held(caller)->calls.next, struct wh_call, node)->window;
                CHECK(!w == !lie);
                struct {
                        struct wh_rec_ext ext;
                        struct wh_rec_direct d;
                } rec = {.ext.call = call,
                         .d = {.at = lie == 0   ? (uintptr_t)mine
                                     : lie == 1 ? (uintptr_t)w->map + 4096
                                                : (uintptr_t)w->map,
                               .len = lie == 2   ? 4097
                                      : lie == 3 ? 0
                                                 : 4096}};
                memcpy(wh_ring_reserve(&l->out.lane->ring, sizeof rec), &rec, sizeof rec);
                wh_ring_publish(&l->out.lane->ring, WH_REC_DIRECT, sizeof rec);
                struct wharf_msg a = MSG(.flags = WHARF_RECV_ALLOC);
                CHECK_EQ(wharf_call_finish(h.task, right, call, &a, WHARF_FOREVER), -EPROTO);
                hub_close(&h);
        }
}

/*
 * Goal:   nothing goes directly but where the receiver's port was made for it, in either direction; it comes in another way,
 *         and both are told why.
 */
TEST(direct_takes_two)
{
        enum { LEN = 100000 };
        wharf_task *t;
        wharf_name port, right;
        uint32_t call;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        uint8_t *bytes = pattern_new(LEN, 1);
        struct wharf_msg req = MSG(.data = bytes, .len_bytes = LEN, .flags = WHARF_REPLY_DIRECT, .cap_bytes = LEN);
        CHECK_EQ(wharf_call_start(t, right, &req, WHARF_NONE, 0, &call), 0);
        struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC);
        CHECK_EQ(wharf_recvmsg(t, port, &m, 0), 0);
        struct wharf_msg reply = MSG(.data = m.data, .len_bytes = LEN, .how = WHARF_HOW_DIRECT);
        CHECK_EQ(wharf_replymsg(t, m.reply, &reply), 0);
        CHECK_NE(reply.how, WHARF_HOW_DIRECT);
        check_why("WHARF_PORT_DIRECT");
        wharf_release(t, &m);
        m = MSG(.flags = WHARF_RECV_ALLOC);
        CHECK_EQ(wharf_call_finish(t, right, call, &m, 0), 0);
        check_why("WHARF_PORT_DIRECT");
        wharf_release(t, &m);
        free(bytes);
        wharf_task_close(t);
}

static int sends_to_who_takes_nothing(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        void *p = pattern_new(MIB, 1);
        uint32_t how = 0;
        CHECK_EQ(send_direct(t, hub, p, MIB, WHARF_FOREVER, &how), 0);
        CHECK_NE(how, WHARF_HOW_DIRECT);
        check_why("WHARF_PORT_DIRECT");
        free(p);
        wharf_task_close(t);
        return 0;
}

TEST(nothing_is_read_that_the_port_was_not_made_for)
{
        struct hub h = hub_open(NULL);
        ((struct wh_port *)wh_table_find(&h.task->names, h.port))->opts.flags = 0;
        pid_t pid = test_fork(sends_to_who_takes_nothing, &h);
        struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.len_bytes, MIB);
        CHECK_NE(m.how, WHARF_HOW_DIRECT);
        wharf_release(h.task, &m);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}
