/*
 * Which system calls each role needs, shown by forbidding all others. The table of docs/design/sandbox.md is what is
 * allowed: it is read from there, so that what the document says is what was tried.
 *
 * A role is set up, enters a seccomp filter that ends the process at the first call that is not in its row, and then
 * works: alone in all ways of its role, 200 messages of 1 to 3000 bytes, at each pace that makes it spin, sleep, wait
 * for room or wait with a deadline. Calls that are "tried" answer EPERM.
 */
#include "hub.h"

#include "os/os.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

enum { MESSAGES = 200, CALLS_MAX = 40, FORBIDDEN = 98 };

/* What is different in a run of a role. */
struct pace {
        unsigned other_pauses_us; /* the other side, after each of its first messages: the role sleeps each time */
        unsigned spins_us; /* the role, after each of its first messages: the other side sleeps, or its queue fills */
        unsigned capacity; /* of the hub's queue, or of the role's */
        bool deadlines;    /* of a millisecond, again and again */
        bool stops;        /* the role is stopped in its sleep, and goes on */
        bool ends;         /* the other side goes away at the end, and the role meets that */
};
enum { PAUSES = 60 }; /* more than the sleeps after which a link is looked at as one that nobody reads */

struct role {
        const char *row; /* of the table */
        int (*before)(struct role *r);
        int (*run)(struct role *r); /* in the sandbox */
        struct pace pace;
        struct hub *hub;
        wharf_task *task;
        wharf_name right, port;
};

/* ---- the table ---- */

struct calls {
        unsigned n;
        struct {
                const char *name;
                int nr;
        } of[CALLS_MAX];
};

/* As the document names them. Two with one name are one call in two versions of libc or of the kernel. */
static const struct {
        const char *name;
        int nr;
} known_calls[] = {
/* clang-format off */
#define CALL(name) {#name, SYS_##name}
        CALL(bind), CALL(brk), CALL(clock_gettime), CALL(close), CALL(epoll_ctl), CALL(epoll_pwait), CALL(epoll_pwait2),
        CALL(exit_group), CALL(fallocate), CALL(fchmod), CALL(fcntl), CALL(fstat), CALL(fstatfs), CALL(ftruncate), CALL(futex),
        CALL(getgid), CALL(getpid), CALL(getsockname), CALL(getsockopt), CALL(getuid), CALL(ioctl), {"cachestat", WH_OS_SYS_CACHESTAT}, CALL(madvise),
        CALL(memfd_create), CALL(mmap), CALL(mremap), CALL(munmap), CALL(ppoll), CALL(prlimit64), CALL(recvmmsg), CALL(recvmsg),
        CALL(restart_syscall), CALL(rt_sigprocmask), CALL(sendmsg), CALL(sendto), CALL(setsockopt), CALL(shutdown), CALL(socketpair),
#ifdef SYS_newfstatat
        {"fstat", SYS_newfstatat},
#endif
#undef CALL
        /* clang-format on */
};

static const char *call_name(int nr)
{
        for (size_t i = 0; i < sizeof known_calls / sizeof *known_calls; i++)
                if (known_calls[i].nr == nr)
                        return known_calls[i].name;
        return "?";
}

/* Cell `n` of the row that begins with `row`. */
static bool cell(const char *row, unsigned n, char *ret, size_t cap)
{
        FILE *f = fopen(SANDBOX_MD, "re");
        char line[1024];
        bool found = false;
        CHECK(f != NULL);
        while (!found && fgets(line, sizeof line, f)) {
                if (strncmp(line, "| ", 2) || strncmp(line + 2, row, strlen(row)) ||
                    strncmp(line + 2 + strlen(row), " |", 2))
                        continue;
                char *at = line;
                for (unsigned i = 0; at && i <= n; i++)
                        at = strchr(at + (i > 0), '|');
                char *end = at ? strchr(at + 1, '|') : NULL;
                CHECK(end != NULL);
                *end = 0;
                snprintf(ret, cap, "%s", at + 1);
                found = true;
        }
        fclose(f);
        return found;
}

/* Adds what a cell names; one that begins with "as ROW" has all of that row, and after a colon more. */
static void take_cell(struct calls *c, const char *row, unsigned n)
{
        char text[1024];
        char *save, *from = text;
        if (!cell(row, n, text, sizeof text))
                test_fail(__FILE__, __LINE__, "%s has no row \"%s\"", SANDBOX_MD, row);
        if (!strncmp(text, " as ", 4)) {
                from = text + strcspn(text, ":");
                char *end = *from ? from++ : from;
                while (end > text && (*end == ':' || *end == ' ' || !*end))
                        *end-- = 0;
                take_cell(c, text + 4, n);
        }
        for (char *word = strtok_r(from, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
                bool is_known = false;
                for (size_t i = 0; i < sizeof known_calls / sizeof *known_calls; i++) {
                        if (strcmp(known_calls[i].name, word))
                                continue;
                        is_known = true;
                        CHECK(c->n < CALLS_MAX);
                        c->of[c->n].name = known_calls[i].name;
                        c->of[c->n++].nr = known_calls[i].nr;
                }
                if (!is_known)
                        test_fail(__FILE__, __LINE__, "%s: \"%s\" is no call that this test knows", SANDBOX_MD, word);
        }
}

/* ---- the filter ---- */

static void on_forbidden(int sig, siginfo_t *info, void *context)
{
        char text[80];
        (void)sig, (void)context;
        int n = snprintf(text, sizeof text, "forbidden: call %d, %s\n", info->si_syscall, call_name(info->si_syscall));
        if (write(2, text, (size_t)n) < 0)
                _exit(97);
        _exit(FORBIDDEN);
}

static unsigned add(struct sock_filter *f, unsigned n, const struct calls *c, uint32_t action)
{
        for (unsigned i = 0; i < c->n; i++) {
                f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)c->of[i].nr, 0, 1);
                f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
        }
        return n;
}

static void enter(const struct role *r)
{
        struct sock_filter f[8 + 4 * CALLS_MAX];
        struct calls may = {0}, tried = {0};
        unsigned n = 0;
        take_cell(&may, "every role", 2);
        take_cell(&may, r->row, 2);
        take_cell(&tried, r->row, 3);
        may.of[may.n++].nr = SYS_write; /* this test's own: to say which call it was */
        f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
        n = add(f, n, &may, SECCOMP_RET_ALLOW);
        n = add(f, n, &tried, SECCOMP_RET_ERRNO | EPERM);
        f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
        struct sock_fprog prog = {(unsigned short)n, f};
        struct sigaction a = {.sa_sigaction = on_forbidden, .sa_flags = SA_SIGINFO};
        CHECK_EQ(sigaction(SIGSYS, &a, NULL), 0);
        CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        CHECK_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), 0);
}

/* ---- the roles ---- */

/* Sleeping would take a call of its own. */
static void spin(unsigned us)
{
        for (int64_t until = wharf_now_ns() + us * 1000ll; us && wharf_now_ns() < until;)
                ;
}

static int64_t until(const struct role *r)
{
        return r->pace.deadlines ? wharf_in_ms(1) : WHARF_FOREVER;
}

static bool late(int r)
{
        return r == -ETIMEDOUT || r == -EAGAIN;
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

/* What came in a message was never used; so is a copy. */
static int copies(struct role *r)
{
        wharf_name first;
        r->task = hub_join(r->hub, &first);
        CHECK_EQ(wharf_right_copy(r->task, first, WHARF_FOREVER, &r->right), 0);
        return 0;
}

static int sends(struct role *r)
{
        static char text[3000];
        for (unsigned i = 0; i < MESSAGES; i++) {
                int e;
                memset(text, (int)i, sizeof text);
                do
                        e = wharf_send(r->task, r->right, text, len_of(i), until(r));
                while (late(e));
                if (e < 0)
                        return 1;
                if (i < PAUSES)
                        spin(r->pace.spins_us);
        }
        for (int e = 0; r->pace.ends && e != -EPIPE;)
                if ((e = wharf_send(r->task, r->right, text, 1, WHARF_FOREVER)) < 0 && e != -EPIPE)
                        return 2;
        return 0;
}

static int calls(struct role *r)
{
        static char text[3000], back[3000];
        for (unsigned i = 0; i < MESSAGES; i++) {
                memset(text, (int)i, sizeof text);
                /* A call that is given up is not made again: the answer of the first would come after it. */
                if (wharf_call(r->task, r->right, text, len_of(i), back, sizeof back,
                               r->pace.deadlines ? wharf_in_ms(60000) : WHARF_FOREVER) != (ssize_t)len_of(i) ||
                    memcmp(text, back, len_of(i)))
                        return 1;
                if (i < PAUSES)
                        spin(r->pace.spins_us);
        }
        if (!r->pace.ends)
                return 0;
        ssize_t e = wharf_call(r->task, r->right, text, 1, back, sizeof back, WHARF_FOREVER);
        return e == -EPIPE || e == -ECONNRESET ? 0 : 2; /* gone before the request was queued, or after */
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
        CHECK_EQ(wharf_port_new(r->task, PORT_OPTS(.capacity_records = r->pace.capacity), &r->port), 0);
        struct wharf_item give = {.kind = WHARF_MAKE_SEND, .name = r->port};
        struct wharf_msg m = MSG(.items = &give, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(r->task, r->right, &m, WHARF_FOREVER), 0);
        return 0;
}

static int serves(struct role *r)
{
        static char text[3000];
        for (unsigned i = 0; i < MESSAGES; i++) {
                struct wharf_msg m;
                int e;
                do {
                        m = MSG(.data = text, .cap_bytes = sizeof text);
                        e = wharf_recvmsg(r->task, r->port, &m, until(r));
                } while (late(e));
                if (e < 0 || m.len_bytes != len_of(i) || text[0] != (char)i)
                        return 1;
                if (m.reply && wharf_reply(r->task, m.reply, text, m.len_bytes) < 0)
                        return 2;
                if (i < PAUSES)
                        spin(r->pace.spins_us);
        }
        if (r->pace.ends && wharf_recv(r->task, r->port, text, sizeof text, NULL, WHARF_FOREVER) != -ENOTCONN)
                return 3;
        return 0;
}

static int in_the_sandbox(void *arg)
{
        struct role *r = arg;
        r->before(r);
        enter(r);
        _exit(r->run(r)); /* a task cannot be closed in here, and need not be */
}

/* The other side, after each of its first messages. */
static void other_pauses(const struct role *r, pid_t pid)
{
        usleep(r->pace.other_pauses_us);
        if (r->pace.stops && pid) {
                kill(pid, SIGSTOP);
                kill(pid, SIGCONT);
        }
}

static int play_at(struct role *r, bool cold, bool call)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS, .capacity_records = r->pace.capacity));
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
                        if (i < PAUSES)
                                other_pauses(r, pid);
                }
        } else {
                for (unsigned i = 0; i < MESSAGES; i++) {
                        struct wharf_msg m = MSG(.data = text, .cap_bytes = sizeof text);
                        /* Its port stays, so a role that was ended is not told of: the wait ends now and then. */
                        int e, st;
                        while ((e = wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(200))) == -ETIMEDOUT && pid)
                                if (waitpid(pid, &st, WNOHANG) == pid) {
                                        pid = 0; /* it may have sent all */
                                        CHECK_EQ(WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st), 0);
                                }
                        CHECK_EQ(e, 0);
                        CHECK_EQ(m.len_bytes, len_of(i));
                        CHECK_EQ(text[0], (char)i);
                        if (m.reply)
                                CHECK_EQ(wharf_reply(h.task, m.reply, text, m.len_bytes), 0);
                        if (i < PAUSES)
                                other_pauses(r, pid);
                }
        }
        if (r->pace.ends && r->run == serves)
                wharf_drop(h.task, r->right);
        else if (r->pace.ends)
                hub_close(&h);
        int status = pid ? test_wait(pid) : 0;
        if (h.task)
                hub_close(&h);
        return status;
}

/* Fast; with the other side slow, and the role; and with little room, where there is one. */
static void play(struct role *r, bool cold, bool call)
{
        static const struct pace paces[] = {
                {0},
                {.other_pauses_us = 1000},
                {.other_pauses_us = 1000, .deadlines = true, .ends = true},
                {.other_pauses_us = 1000, .stops = true},
                {.other_pauses_us = 1000, .deadlines = true, .stops = true},
                {.spins_us = 200, .ends = true},
                {.spins_us = 200, .capacity = 1},
                {.other_pauses_us = 1000, .capacity = 1},
                {.capacity = 1, .deadlines = true},
        };
        if (TEST_ASAN || TEST_TSAN)
                test_skip("a sanitizer makes system calls of its own");
        for (unsigned i = 0; i < sizeof paces / sizeof *paces; i++) {
                r->pace = paces[i];
                int st = play_at(r, cold, call);
                if (st)
                        test_fail(__FILE__, __LINE__, "%s, pace %u: ended with %d", r->row, i, st);
        }
}

TEST(a_sender_that_may_make_no_shared_memory_sends_everything_as_frames)
{
        play(&(struct role){"sender of frames", joins, sends}, false, false);
}

TEST(a_sender_that_attached_before_goes_on_in_its_lane)
{
        play(&(struct role){"sender in its lane", attaches, sends}, false, false);
}

TEST(a_sender_makes_its_lane_in_a_sandbox)
{
        play(&(struct role){"sender that makes its lane", joins, sends}, false, false);
}

TEST(a_sender_makes_a_pair_of_its_own_in_a_sandbox)
{
        play(&(struct role){"sender of a right that came in a message", copies, sends}, false, false);
}

TEST(a_caller_in_a_sandbox_gets_its_replies)
{
        play(&(struct role){"caller", joins, calls}, false, true);
}

TEST(a_receiver_of_frames_in_a_sandbox)
{
        play(&(struct role){"receiver of frames", opens, serves}, true, false);
}

TEST(a_receiver_maps_the_lanes_of_its_senders_in_a_sandbox)
{
        play(&(struct role){"receiver that maps lanes", opens, serves}, false, false);
}

TEST(a_server_in_a_sandbox_answers_as_frames)
{
        play(&(struct role){"server", opens, serves}, false, true);
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

/* Set by the sender when it has given up, since the receiver takes nothing until then. */
static atomic_bool *gave_up;

static int sends_larger(struct role *r)
{
        for (unsigned i = 0; i < 3 * LARGER; i++)
                if (wharf_send(r->task, r->right, pattern_at(larger[i % LARGER], i), larger[i % LARGER],
                               WHARF_FOREVER) < 0)
                        return 1;
        if (wharf_send(r->task, r->right, pattern_at(HUGE_LEN, 1), HUGE_LEN, WHARF_FOREVER) < 0)
                return 2;
        /* Given up in the middle, it is no message, and the next one is in its place. */
        ssize_t at_once = wharf_send(r->task, r->right, pattern_at(HUGE_LEN, 2), HUGE_LEN, 0);
        atomic_store(gave_up, true);
        if (at_once != -EAGAIN)
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
        gave_up = mmap(NULL, sizeof *gave_up, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        CHECK(gave_up != MAP_FAILED);
        pid_t pid = test_fork(in_the_sandbox, r);
        for (;;) {
                if (r->run == sends_larger && n == 3 * LARGER + 1)
                        while (!atomic_load(gave_up))
                                usleep(1000);
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
        munmap(gave_up, sizeof *gave_up);
        int status = test_wait(pid);
        CHECK_EQ(n, r->run == sends_larger ? 3 * LARGER + 2 : 2 * LARGER);
        hub_close(&h);
        return status;
}

static struct role attached(int (*before)(struct role *), int (*run)(struct role *))
{
        return (struct role){.row = "sender in its lane, of what it does not hold", .before = before, .run = run};
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
                got = wharf_recv(h.task, h.port, text, sizeof text, &from, wharf_in_ms(60000));
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
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
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
