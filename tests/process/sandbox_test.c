/*
 * Which system calls each role needs, shown by forbidding all others: docs/design/sandbox.md has this table.
 *
 * A role is set up, enters a seccomp filter that ends the process at the first call that is not allowed, and then
 * works: first alone in all ways of its role, 200 messages of 1 to 3000 bytes. Calls that are "tried" answer EPERM.
 */
#include "hub.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

enum { MESSAGES = 200, CALLS_MAX = 24, FORBIDDEN = 98 };

struct role {
        const char *name;
        int (*before)(struct role *r);
        int (*run)(struct role *r); /* in the sandbox */
        int needs[CALLS_MAX];       /* allowed; ended by -1 */
        int tried[CALLS_MAX];       /* refused with EPERM */
        struct hub *hub;
        wharf_task *task;
        wharf_name right, port;
};

/* What every process needs to end, and for memory of its own. */
static const int always[] = {SYS_exit_group, SYS_brk, SYS_mmap, SYS_munmap, SYS_write, SYS_rt_sigreturn, -1};

static void on_forbidden(int sig, siginfo_t *info, void *context)
{
        (void)sig, (void)context;
        char text[] = "forbidden: call 0000\n";
        for (int i = 19, n = info->si_syscall; i > 15; i--, n /= 10)
                text[i] = (char)('0' + n % 10);
        if (write(2, text, sizeof text - 1) < 0)
                _exit(97);
        _exit(FORBIDDEN);
}

static unsigned add(struct sock_filter *f, unsigned n, const int *calls, uint32_t action)
{
        for (; *calls >= 0; calls++) {
                f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)*calls, 0, 1);
                f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
        }
        return n;
}

static void enter(const struct role *r)
{
        struct sock_filter f[4 + 6 * CALLS_MAX];
        unsigned n = 0;
        f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
        n = add(f, n, always, SECCOMP_RET_ALLOW);
        n = add(f, n, r->needs, SECCOMP_RET_ALLOW);
        n = add(f, n, r->tried, SECCOMP_RET_ERRNO | EPERM);
        f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
        struct sock_fprog prog = {(unsigned short)n, f};
        struct sigaction a = {.sa_sigaction = on_forbidden, .sa_flags = SA_SIGINFO};
        CHECK_EQ(sigaction(SIGSYS, &a, NULL), 0);
        CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        CHECK_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), 0);
}

static size_t len_of(unsigned i)
{
        return 1 + i * 15 % 3000;
}

static int joins(struct role *r)
{
        r->task = hub_join(r->hub, &r->right);
        return 0;
}

static int sends(struct role *r)
{
        static char text[3000];
        for (unsigned i = 0; i < MESSAGES; i++) {
                memset(text, (int)i, sizeof text);
                if (wharf_send(r->task, r->right, text, len_of(i), WHARF_FOREVER) < 0)
                        return 1;
        }
        return 0;
}

static int calls(struct role *r)
{
        static char text[3000], back[3000];
        for (unsigned i = 0; i < MESSAGES; i++) {
                memset(text, (int)i, sizeof text);
                if (wharf_call(r->task, r->right, text, len_of(i), back, sizeof back, WHARF_FOREVER) !=
                            (ssize_t)len_of(i) ||
                    memcmp(text, back, len_of(i)))
                        return 1;
        }
        return 0;
}

/* A lane, and in it a section for the largest message, while both may still be made. */
static int attaches(struct role *r)
{
        struct wharf_msg m = MSG(0);
        joins(r);
        CHECK_EQ(wharf_reserve(r->task, r->right, 3000, &m, WHARF_FOREVER), 0);
        wharf_release(r->task, &m);
        return 0;
}

/* A port of its own, to which the parent gets a right. */
static int opens(struct role *r)
{
        joins(r);
        CHECK_EQ(wharf_port_new(r->task, NULL, &r->port), 0);
        struct wharf_item give = {.kind = WHARF_MAKE_SEND, .name = r->port};
        struct wharf_msg m = MSG(.items = &give, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(r->task, r->right, &m, WHARF_FOREVER), 0);
        return 0;
}

static int serves(struct role *r)
{
        static char text[3000];
        for (unsigned i = 0; i < MESSAGES; i++) {
                struct wharf_msg m = MSG(.data = text, .cap_bytes = sizeof text);
                if (wharf_recvmsg(r->task, r->port, &m, WHARF_FOREVER) < 0 || m.len_bytes != len_of(i) ||
                    text[0] != (char)i)
                        return 1;
                if (m.reply && wharf_reply(r->task, m.reply, text, m.len_bytes) < 0)
                        return 2;
        }
        return 0;
}

static int in_the_sandbox(void *arg)
{
        struct role *r = arg;
        r->before(r);
        enter(r);
        _exit(r->run(r)); /* a task cannot be closed in here, and need not be */
}

static int play(struct role *r, bool cold, bool call)
{
        if (TEST_ASAN || TEST_TSAN)
                test_skip("a sanitizer makes system calls of its own");
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        static char text[3000];
        r->hub = &h;
        pid_t pid = test_fork(in_the_sandbox, r);
        if (r->run == serves) {
                struct wharf_item got;
                struct wharf_msg m = MSG(.items = &got, .cap_items = 1);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                r->right = got.name;
                for (unsigned i = 0; i < MESSAGES; i++) {
                        memset(text, (int)i, sizeof text);
                        struct wharf_msg q = MSG(.data = text, .len_bytes = len_of(i),
                                                 .how = cold ? WHARF_HOW_COLD : WHARF_HOW_AUTO);
                        struct wharf_msg a = MSG(.data = text, .cap_bytes = sizeof text);
                        int e = call ? wharf_callmsg(h.task, got.name, &q, &a, WHARF_FOREVER)
                                     : wharf_sendmsg(h.task, got.name, &q, WHARF_FOREVER);
                        if (e < 0)
                                break;
                }
        } else {
                struct wharf_msg m = MSG(.data = text, .cap_bytes = sizeof text);
                for (unsigned i = 0; i < MESSAGES && wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(20000)) == 0; i++) {
                        if (m.len_bytes != len_of(i) || text[0] != (char)i)
                                break;
                        if (m.reply)
                                CHECK_EQ(wharf_reply(h.task, m.reply, text, m.len_bytes), 0);
                        m = MSG(.data = text, .cap_bytes = sizeof text);
                        int st;
                        if (waitpid(pid, &st, WNOHANG) == pid) { /* it may have sent all */
                                pid = 0;
                                CHECK_EQ(WEXITSTATUS(st), 0);
                        }
                }
        }
        int status = pid ? test_wait(pid) : 0;
        hub_close(&h);
        return status;
}

#define END -1

TEST(a_sender_that_may_make_no_shared_memory_sends_everything_as_frames)
{
        struct role r = {.before = joins,
                         .run = sends,
                         .needs = {SYS_sendmsg, SYS_recvmsg, SYS_ppoll, SYS_ioctl, END},
                         .tried = {SYS_memfd_create, END}};
        CHECK_EQ(play(&r, false, false), 0);
}

TEST(a_sender_that_attached_before_goes_on_in_its_lane)
{
        struct role r = {.before = attaches,
                         .run = sends,
                         .needs = {SYS_sendto, SYS_recvmsg, SYS_ppoll, SYS_futex, END},
                         .tried = {SYS_memfd_create, END}};
        CHECK_EQ(play(&r, false, false), 0);
}

TEST(a_caller_in_a_sandbox_gets_its_replies)
{
        struct role r = {.before = joins,
                         .run = calls,
                         .needs = {SYS_sendmsg, SYS_sendto, SYS_recvmsg, SYS_ppoll, SYS_fcntl, SYS_newfstatat,
                                   SYS_fstat, SYS_fstatfs, SYS_madvise, SYS_close, SYS_recvmmsg, SYS_lseek, SYS_ioctl,
                                   END},
                         .tried = {SYS_memfd_create, END}};
        CHECK_EQ(play(&r, false, true), 0);
}

TEST(a_receiver_of_frames_in_a_sandbox)
{
        struct role r = {.before = opens,
                         .run = serves,
                         .needs = {SYS_epoll_pwait, SYS_epoll_ctl, SYS_recvmsg, SYS_setsockopt, SYS_getsockopt,
                                   SYS_close, SYS_sendmsg, SYS_ppoll, END},
                         .tried = {END}};
        CHECK_EQ(play(&r, true, false), 0);
}

TEST(a_receiver_maps_the_lanes_of_its_senders_in_a_sandbox)
{
        struct role r = {.before = opens,
                         .run = serves,
                         .needs = {SYS_epoll_pwait, SYS_epoll_ctl, SYS_recvmsg, SYS_setsockopt, SYS_getsockopt,
                                   SYS_close, SYS_sendmsg, SYS_sendto, SYS_fcntl, SYS_newfstatat, SYS_fstat,
                                   SYS_fstatfs, SYS_madvise, SYS_recvmmsg, SYS_ppoll, END},
                         .tried = {END}};
        CHECK_EQ(play(&r, false, false), 0);
}

TEST(a_server_in_a_sandbox_answers_as_frames)
{
        struct role r = {.before = opens,
                         .run = serves,
                         .needs = {SYS_epoll_pwait, SYS_epoll_ctl, SYS_recvmsg, SYS_setsockopt, SYS_getsockopt,
                                   SYS_close, SYS_sendmsg, SYS_sendto, SYS_fcntl, SYS_newfstatat, SYS_fstat,
                                   SYS_fstatfs, SYS_madvise, SYS_recvmmsg, SYS_ioctl, SYS_ppoll, END},
                         .tried = {SYS_memfd_create, END}};
        CHECK_EQ(play(&r, false, true), 0);
}

/* ---- attached before, and its shared memory is too small ---- */

static const size_t larger[] = {1,     3,    256,    257,   2032, 2033, 4096,  5000, 2024,  2025,
                                65536, 7000, 100000, 70000, 1,    9000, 65537, 300,  200000};
enum { LARGER = sizeof larger / sizeof *larger, HUGE_LEN = (9 << 20) + 5 };

/* The lane alone, or with a section of 64 KiB; no larger one can be made later. */
static int attaches_small(struct role *r)
{
        struct wharf_msg m = MSG(.data = BYTES("lane"), .len_bytes = 4, .how = WHARF_HOW_INLINE);
        joins(r);
        CHECK_EQ(wharf_sendmsg(r->task, r->right, &m, WHARF_FOREVER), 0);
        return 0;
}

static int attaches_section(struct role *r)
{
        attaches_small(r);
        struct wharf_msg m = MSG(0);
        CHECK_EQ(wharf_reserve(r->task, r->right, 3000, &m, WHARF_FOREVER), 0);
        wharf_release(r->task, &m);
        return 0;
}

static uint8_t *pattern_at(size_t len, uint64_t key)
{
        static uint8_t *bytes;
        if (!bytes)
                bytes = malloc(HUGE_LEN);
        pattern_fill(bytes, len, key);
        return bytes;
}

static int sends_larger(struct role *r)
{
        for (unsigned i = 0; i < 3 * LARGER; i++)
                if (wharf_send(r->task, r->right, pattern_at(larger[i % LARGER], i), larger[i % LARGER],
                               WHARF_FOREVER) < 0)
                        return 1;
        if (wharf_send(r->task, r->right, pattern_at(HUGE_LEN, 1), HUGE_LEN, WHARF_FOREVER) < 0)
                return 2;
        /* Given up in the middle, it is no message, and the next one is in its place. */
        if (wharf_send(r->task, r->right, pattern_at(HUGE_LEN, 2), HUGE_LEN, 0) != -EAGAIN)
                return 3;
        struct wharf_msg m = MSG(0);
        if (wharf_reserve(r->task, r->right, 1 << 20, &m, WHARF_FOREVER) != -EOPNOTSUPP)
                return 4;
        m = MSG(.data = pattern_at(100000, 3), .len_bytes = 100000, .how = WHARF_HOW_MEMORY);
        if (wharf_sendmsg(r->task, r->right, &m, WHARF_FOREVER) < 0 || m.how != WHARF_HOW_CHUNKS)
                return 5;
        return wharf_send(r->task, r->right, "end", 3, WHARF_FOREVER) < 0 ? 6 : 0;
}

static int calls_larger(struct role *r)
{
        static uint8_t answer[200000];
        for (unsigned i = 0; i < 2 * LARGER; i++) {
                size_t len = larger[i % LARGER];
                if (wharf_call(r->task, r->right, pattern_at(len, i), len, answer, sizeof answer, WHARF_FOREVER) !=
                    (ssize_t)len)
                        return 1;
                if (memcmp(answer, pattern_at(len, i), len))
                        return 2;
        }
        return wharf_send(r->task, r->right, "end", 3, WHARF_FOREVER) < 0 ? 3 : 0;
}

/* Takes what comes, in order, and answers it, until "end"; and the status of the sandbox. */
static int play_larger(struct role *r, const struct wharf_port_opts *opts)
{
        struct hub h = hub_open(opts);
        uint8_t *got = malloc(HUGE_LEN);
        unsigned n = 0;
        r->hub = &h;
        pid_t pid = test_fork(in_the_sandbox, r);
        for (;;) {
                struct wharf_msg m = MSG(.data = got, .cap_bytes = HUGE_LEN);
                int e = wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER);
                if (e < 0 || (m.len_bytes == 3 && !memcmp(got, "end", 3)))
                        break;
                if (m.len_bytes == 4 && !memcmp(got, "lane", 4))
                        continue;
                bool sent = r->run == sends_larger;
                size_t len = sent && n == 3 * LARGER ? HUGE_LEN : sent && n > 3 * LARGER ? 100000 : larger[n % LARGER];
                CHECK_EQ(m.len_bytes, len);
                CHECK_MEM(got, pattern_at(len, len == HUGE_LEN ? 1 : sent && n > 3 * LARGER ? 3 : n), len);
                if (m.reply)
                        CHECK_EQ(wharf_reply(h.task, m.reply, got, len), 0);
                n++;
        }
        free(got);
        int status = test_wait(pid);
        CHECK_EQ(n, r->run == sends_larger ? 3 * LARGER + 2 : 2 * LARGER);
        hub_close(&h);
        return status;
}

static struct role attached(int (*before)(struct role *), int (*run)(struct role *))
{
        return (struct role){.before = before,
                             .run = run,
                             .needs = {SYS_sendmsg, SYS_sendto, SYS_recvmsg, SYS_recvmmsg, SYS_ppoll, SYS_ioctl,
                                       SYS_futex, SYS_fcntl, SYS_newfstatat, SYS_fstat, SYS_fstatfs, SYS_madvise,
                                       SYS_close, SYS_lseek, END},
                             .tried = {SYS_memfd_create, END}};
}

/*
 * Goal:   payloads for which no shared memory can be made go in parts through the ring that there is, in order.
 * Method: payloads up to 9 MiB, with a lane and no section, and with one of 64 KiB.
 */
TEST(a_sender_that_attached_before_sends_what_its_section_does_not_hold_in_pieces)
{
        if (TEST_ASAN || TEST_TSAN)
                test_skip("a sanitizer makes system calls of its own");
        struct role none = attached(attaches_small, sends_larger), small = attached(attaches_section, sends_larger);
        CHECK_EQ(play_larger(&none, PORT_OPTS(.flags = WHARF_PORT_STAYS)), 0);
        CHECK_EQ(play_larger(&small, PORT_OPTS(.flags = WHARF_PORT_STAYS)), 0);
        CHECK_EQ(play_larger(&small, PORT_OPTS(.flags = WHARF_PORT_STAYS, .capacity_records = 1)), 0);
}

/* No further ring can be made, so such a queue ends with the one it has; and what is large waits for room. */
TEST(a_sender_to_an_unbounded_queue_that_may_make_no_further_ring_waits_for_room)
{
        if (TEST_ASAN || TEST_TSAN)
                test_skip("a sanitizer makes system calls of its own");
        struct role r = attached(attaches_small, sends_larger);
        CHECK_EQ(play_larger(&r, PORT_OPTS(.flags = WHARF_PORT_STAYS, .capacity_records = WHARF_UNBOUNDED)), 0);
}

TEST(a_caller_that_attached_before_asks_in_pieces)
{
        if (TEST_ASAN || TEST_TSAN)
                test_skip("a sanitizer makes system calls of its own");
        struct role r = attached(attaches_section, calls_larger);
        CHECK_EQ(play_larger(&r, PORT_OPTS(.flags = WHARF_PORT_STAYS)), 0);
}

static int offers(struct role *r)
{
        if (wharf_send(r->task, r->right, pattern_at(2000, 0), 2000, WHARF_FOREVER) < 0)
                return 1;
        if (wharf_send(r->task, r->right, pattern_at(3000, 0), 3000, WHARF_FOREVER) != -EOPNOTSUPP)
                return 2;
        return wharf_send(r->task, r->right, "end", 3, WHARF_FOREVER) < 0 ? 3 : 0;
}

/* Capacity zero: what fits into a record is offered there, and what does not is refused by name. */
TEST(a_sender_that_may_make_no_section_offers_what_fits_into_a_record)
{
        if (TEST_ASAN || TEST_TSAN)
                test_skip("a sanitizer makes system calls of its own");
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS, .capacity_records = WHARF_RENDEZVOUS));
        struct role r = attached(attaches_small, offers);
        uint8_t got[4000];
        r.hub = &h;
        pid_t pid = test_fork(in_the_sandbox, &r);
        CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, WHARF_FOREVER), 4);
        CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, WHARF_FOREVER), 2000);
        CHECK_MEM(got, pattern_at(2000, 0), 2000);
        CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, WHARF_FOREVER), 3);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* ---- environments in which something failed once (proof/matrix_port) ---- */

static int may_leave(void *arg)
{
        return unshare(CLONE_NEWUSER) < 0;
}

static int sends_from_nowhere(void *arg)
{
        struct hub *h = arg;
        CHECK_EQ(unshare(CLONE_NEWUSER), 0);
        wharf_name to;
        wharf_task *t = hub_join(h, &to);
        CHECK_EQ(wharf_send(t, to, "who", 3, WHARF_FOREVER), 0);
        /* A second right makes a pair of its own at its first use, and must say whose it is. */
        wharf_name copy;
        CHECK_EQ(wharf_right_copy(t, to, WHARF_FOREVER, &copy), 0);
        CHECK_EQ(wharf_send(t, copy, "I", 1, WHARF_FOREVER), 0);
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   in a user namespace that has no number for its user a task can say who it is, though the kernel refuses the
 *         number that it believes to have: the kernel says it.
 * Method: such a task uses a right that has to say whose it is; the receiver, outside, sees the true user.
 */
TEST(a_user_without_a_number_in_its_namespace_can_use_every_right)
{
        if (test_wait(test_fork(may_leave, NULL)) != 0)
                test_skip("user namespaces are not allowed here");
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(sends_from_nowhere, &h);
        char text[8];
        struct wharf_sender from;
        for (ssize_t got = 0; got != 1;) {
                got = wharf_recv(h.task, h.port, text, sizeof text, &from, wharf_in_ms(20000));
                CHECK(got == 3 || got == 1);
                CHECK_EQ(from.uid, geteuid());
                CHECK(from.pid > 0);
        }
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

static int asks_for_much(void *arg)
{
        static char reply[200000];
        wharf_name to, port;
        wharf_task *t = hub_join(arg, &to);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){0, 0});
        /* What a port is would be written to a file: refused, and the port is as it was. */
        struct wharf_item give = {.kind = WHARF_MOVE_RECEIVE, .name = port};
        struct wharf_msg m = MSG(.items = &give, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(t, to, &m, WHARF_FOREVER), -EOPNOTSUPP);
        CHECK_EQ(wharf_name_kind(t, port), WHARF_KIND_PORT);
        CHECK_EQ(wharf_call(t, to, "give", 4, reply, sizeof reply, WHARF_FOREVER), 50000);
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   RLIMIT_FSIZE, which counts memory as files, is an answer and not the signal SIGXFSZ that ends a process.
 * Method: with a limit of 0 one side moves a port, and the other replies with more than fits a frame.
 */
TEST(a_limit_of_file_size_is_no_signal)
{
        static char reply[50000], text[8];
        struct hub h = hub_open(NULL);
        struct rlimit before;
        getrlimit(RLIMIT_FSIZE, &before);
        pid_t pid = test_fork(asks_for_much, &h);
        struct wharf_msg m = MSG(.data = text, .cap_bytes = sizeof text);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(20000)), 0);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){0, before.rlim_max});
        CHECK_EQ(wharf_reply(h.task, m.reply, reply, sizeof reply), 0);
        setrlimit(RLIMIT_FSIZE, &before);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* Goal: a sandbox that is older than epoll_pwait2(), and refuses it, still has deadlines, and none too early. */
TEST(deadlines_need_no_call_that_old_sandboxes_refuse)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        struct sock_filter f[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_pwait2, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog prog = {sizeof f / sizeof *f, f};
        char text[8];
        CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        CHECK_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), 0);
        int64_t deadline = wharf_now_ns() + 1500000;
        CHECK_EQ(wharf_recv(h.task, h.port, text, sizeof text, NULL, deadline), -ETIMEDOUT);
        CHECK_GE(wharf_now_ns(), deadline);
        hub_close(&h);
}
