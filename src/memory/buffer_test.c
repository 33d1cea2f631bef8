#include "memory/exec_testing.h"
#include "os/os.h"
#include "test.h"

#include <wharf/sync.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <wharf/buffer.h>
#include <wharf/segment.h>

#define LEN (1 << 20)

static const uint32_t all_kinds[] = {WHARF_BUFFER_BOUNDED, WHARF_BUFFER_UNBOUNDED, WHARF_BUFFER_CIRCULAR};

static int64_t in_ms(int64_t ms)
{
        return wh_os_now_ns() + ms * 1000000;
}

/* `places` of `bytes`; an unbounded one gets all of LEN. */
static wharf_buffer *made(void *base, uint32_t kind, uint32_t places, uint64_t bytes)
{
        struct wharf_buffer_opts o = {.size = sizeof o, .kind = kind, .users_max = 16};
        if (kind != WHARF_BUFFER_UNBOUNDED) {
                o.places = places;
                o.item_bytes_max = bytes;
        }
        wharf_buffer *b;
        CHECK_EQ(wharf_buffer_format(base, LEN, &o), 0);
        CHECK_EQ(wharf_buffer_open(base, LEN, &b), 0);
        return b;
}

static struct wharf_buffer_figures figures(wharf_buffer *b)
{
        struct wharf_buffer_figures f;
        CHECK_EQ(wharf_buffer_figures(b, &f), 0);
        return f;
}

static void put_number(wharf_buffer *b, uint64_t v)
{
        CHECK_EQ(wharf_buffer_put(b, &v, sizeof v, 0), 0);
}

static uint64_t got_number(wharf_buffer *b)
{
        uint64_t v = 0;
        CHECK_EQ(wharf_buffer_get(b, &v, sizeof v, 0), sizeof v);
        return v;
}

/* Goal: the textbook's circular buffer: of n places n - 1 hold items; in == out is empty. */
TEST(circular_of_n_holds_n_minus_1)
{
        void *base = test_shared(LEN);
        for (uint32_t n = 2; n <= 10; n++) {
                wharf_buffer *b = made(base, WHARF_BUFFER_CIRCULAR, n, 8);
                for (uint64_t round = 0; round < 3; round++) { /* the indices come around */
                        for (uint64_t i = 0; i < n - 1; i++)
                                put_number(b, round * 100 + i);
                        uint64_t more = 1;
                        CHECK_EQ(wharf_buffer_put(b, &more, 8, 0), -EAGAIN);
                        for (uint64_t i = 0; i < n - 1; i++)
                                CHECK_EQ(got_number(b), round * 100 + i);
                        CHECK_EQ(wharf_buffer_get(b, &more, 8, 0), -EAGAIN);
                }
                wharf_buffer_close(b);
        }
        munmap(base, LEN);
}

/* Goal: bounded means n items; then a producer waits, fails, or gives up at its deadline, as it asked. */
TEST(bounded_holds_n)
{
        void *base = test_shared(LEN);
        wharf_buffer *b = made(base, WHARF_BUFFER_BOUNDED, 5, 8);
        for (uint64_t i = 0; i < 5; i++)
                put_number(b, i);
        uint64_t v = 5;
        CHECK_EQ(wharf_buffer_put(b, &v, 8, 0), -EAGAIN);
        CHECK_EQ(wharf_buffer_put(b, &v, 8, in_ms(5)), -ETIMEDOUT);
        CHECK_EQ(figures(b).items, 5);
        for (uint64_t i = 0; i < 5; i++)
                CHECK_EQ(got_number(b), i);
        CHECK_EQ(wharf_buffer_get(b, &v, 8, 0), -EAGAIN);
        CHECK_EQ(wharf_buffer_get(b, &v, 8, in_ms(5)), -ETIMEDOUT);
        CHECK_EQ(v, 5);
        struct wharf_buffer_figures f = figures(b);
        CHECK(f.put == 5 && f.got == 5 && f.items == 0 && f.places == 5);
        wharf_buffer_close(b);
        munmap(base, LEN);
}

/* Goal: unbounded takes items of any size until memory ends, and gives all of it back. */
TEST(unbounded_takes_what_memory_holds)
{
        void *base = test_shared(LEN);
        wharf_buffer *b = made(base, WHARF_BUFFER_UNBOUNDED, 0, 0);
        static uint8_t item[3000], back[3000];
        for (unsigned round = 0; round < 3; round++) {
                uint64_t n = 0;
                for (;; n++) {
                        memset(item, (int)n, sizeof item);
                        int r = wharf_buffer_put(b, item, n * 7 % sizeof item, 0);
                        if (r == -EAGAIN)
                                break;
                        CHECK_EQ(r, 0);
                }
                CHECK_GE(n, 400);
                CHECK_EQ(figures(b).items, n);
                for (uint64_t i = 0; i < n; i++) {
                        memset(item, (int)i, sizeof item);
                        CHECK_EQ(wharf_buffer_get(b, back, sizeof back, 0), i * 7 % sizeof item);
                        CHECK_MEM(item, back, i * 7 % sizeof item);
                }
                CHECK_EQ(figures(b).used_bytes, 0);
        }
        CHECK_EQ(wharf_buffer_put(b, item, LEN, 0), -EMSGSIZE);
        CHECK_EQ(wharf_buffer_put(b, item, UINT64_MAX, 0), -EMSGSIZE);
        wharf_buffer_close(b);
        munmap(base, LEN);
}

TEST(sizes_are_checked)
{
        void *base = test_shared(LEN);
        for (unsigned k = 0; k < 3; k++) {
                wharf_buffer *b = made(base, all_kinds[k], 4, 20);
                char item[21] = "twenty bytes, or so", out[32] = "untouched";
                if (all_kinds[k] != WHARF_BUFFER_UNBOUNDED)
                        CHECK_EQ(wharf_buffer_put(b, item, 21, 0), -EMSGSIZE);
                CHECK_EQ(wharf_buffer_put(b, NULL, 0, 0), 0);
                CHECK_EQ(wharf_buffer_put(b, item, 20, 0), 0);
                CHECK_EQ(wharf_buffer_get(b, NULL, 0, 0), 0);
                CHECK_EQ(wharf_buffer_get(b, out, 19, 0), -EMSGSIZE);
                CHECK_STR(out, "untouched");
                CHECK_EQ(wharf_buffer_get(b, out, sizeof out, 0), 20);
                CHECK_MEM(out, item, 20);
                wharf_buffer_close(b);
        }
        struct wharf_buffer_opts o = {.size = sizeof o, .kind = 3, .places = 4};
        CHECK_EQ(wharf_buffer_format(base, LEN, &o), -EINVAL);
        CHECK_EQ(wharf_buffer_bytes_needed(&o), 0);
        o.kind = WHARF_BUFFER_CIRCULAR;
        o.places = 1;
        CHECK_EQ(wharf_buffer_format(base, LEN, &o), -EINVAL);
        o.places = 1000;
        o.item_bytes_max = 1000;
        uint64_t need = wharf_buffer_bytes_needed(&o);
        CHECK_EQ(need, 256 + 1000 * 1008);
        CHECK_EQ(wharf_buffer_format(base, need - 1, &o), -ENOSPC);
        CHECK_EQ(wharf_buffer_format(base, need, &o), 0);
        CHECK_EQ(wharf_buffer_format((char *)base + 8, LEN - 64, &o), -EINVAL);
        wharf_buffer *b = NULL;
        CHECK_EQ(wharf_buffer_open(base, need - 1, &b), -EUCLEAN);
        o.item_bytes_max = UINT64_MAX;
        CHECK_EQ(wharf_buffer_format(base, LEN, &o), -EINVAL);
        o = (struct wharf_buffer_opts){.size = sizeof o, .kind = WHARF_BUFFER_UNBOUNDED, .places = 1};
        CHECK_EQ(wharf_buffer_format(base, LEN, &o), -EINVAL);
        o.places = 0;
        o.memory_bytes = 65536;
        CHECK_EQ(wharf_buffer_format(base, wharf_buffer_bytes_needed(&o), &o), 0);
        CHECK_EQ(wharf_buffer_open(base, LEN, &b), 0);
        b = wharf_buffer_close(b);
        memset(base, 0, 64);
        CHECK_EQ(wharf_buffer_open(base, LEN, &b), -EUCLEAN);
        CHECK(!b);
        munmap(base, LEN);
}

/* Goal: whatever stands in the shared pages, no call leaves the memory or hangs. */
TEST(damage_is_answered)
{
        void *base = test_shared(LEN), *copy = malloc(LEN);
        for (unsigned k = 0; k < 3; k++) {
                wharf_buffer *b = made(base, all_kinds[k], 8, 64);
                for (uint64_t i = 0; i < 4; i++)
                        put_number(b, i);
                memcpy(copy, base, LEN);
                for (unsigned word = 8; word < 32 + 1024; word++) { /* all that follows what handles keep a copy of */
                        /* From 0 on they name no task that lives; a lock that one holds would rightly be waited for. */
                        static const uint64_t values[] = {1, 3, 0x1000, 0, 0xfffffe, INT64_MAX, UINT64_MAX};
                        bool locks = (word >= 24 && word < 28) || (word >= 32 && word < 64); /* ours, the heap's */
                        memcpy(base, copy, LEN);
                        ((uint64_t *)base)[word] = values[locks ? 3 + test_random() % 4 : test_random() % 7];
                        char out[64];
                        for (unsigned i = 0; i < 6; i++) {
                                int64_t r = wharf_buffer_get(b, out, sizeof out, 0);
                                CHECK(r <= 64);
                                wharf_buffer_put(b, out, 8, 0);
                        }
                        struct wharf_buffer_figures f;
                        wharf_buffer_figures(b, &f);
                }
                memcpy(base, copy, LEN);
                wharf_buffer_close(b);
        }
        free(copy);
        munmap(base, LEN);
}

/* ---- several processes ---- */

static int puts_three(void *arg)
{
        for (uint64_t i = 0; i < 3; i++)
                if (wharf_buffer_put(arg, &i, 8, WHARF_FOREVER) < 0)
                        return 1;
        return 0;
}

/* Goal: a consumer that waits gets what a producer puts later, and a producer that waits gets the room. */
TEST(both_sides_wait)
{
        void *base = test_shared(LEN);
        for (unsigned k = 0; k < 3; k++) {
                wharf_buffer *b = made(base, all_kinds[k], 2, 8);
                pid_t pid = test_fork(puts_three, b); /* room for 2, or for 1: it has to wait */
                for (uint64_t i = 0; i < 3; i++) {
                        uint64_t v;
                        CHECK_EQ(wharf_buffer_get(b, &v, 8, WHARF_FOREVER), 8);
                        CHECK_EQ(v, i);
                }
                CHECK_EQ(test_wait(pid), 0);
                wharf_buffer_close(b);
        }
        munmap(base, LEN);
}

static int puts_and_stays(void *arg)
{
        put_number(arg, 1);
        raise(SIGSTOP);
        return 0;
}

/* Goal: a circular buffer has one producer; its seat is free when it is dead, not when it is stopped. */
TEST(circular_has_one_producer)
{
        void *base = test_shared(LEN);
        wharf_buffer *b = made(base, WHARF_BUFFER_CIRCULAR, 8, 8);
        pid_t pid = test_fork(puts_and_stays, b);
        int st;
        CHECK_EQ(waitpid(pid, &st, WUNTRACED), pid);
        uint64_t v = 2;
        CHECK_EQ(wharf_buffer_put(b, &v, 8, 0), -EBUSY);
        kill(pid, SIGKILL);
        CHECK_EQ(test_wait(pid), 128 + SIGKILL);
        put_number(b, 2);
        CHECK_EQ(got_number(b), 1);
        CHECK_EQ(got_number(b), 2);
        wharf_buffer_close(b);
        munmap(base, LEN);
}

static int puts_one(void *arg)
{
        put_number(arg, 1);
        return 0;
}

/* Goal: its seat is free as well when the process runs another program. */
TEST(a_producer_that_calls_exec_leaves_its_seat)
{
        void *base = test_shared(LEN);
        wharf_buffer *b = made(base, WHARF_BUFFER_CIRCULAR, 8, 8);
        struct exec_child e = exec_child_holds(puts_one, b);
        uint64_t v = 2;
        CHECK_EQ(wharf_buffer_put(b, &v, 8, 0), -EBUSY);
        exec_child_becomes(&e);
        CHECK_EQ(wharf_buffer_put(b, &v, 8, 0), 0);
        CHECK_EQ(got_number(b), 1);
        CHECK_EQ(got_number(b), 2);
        exec_child_ends(&e);
        wharf_buffer_close(b);
        munmap(base, LEN);
}

/* Goal: a buffer in a named segment, mapped at different addresses by tasks that only know the name. */
static int by_name(void *arg)
{
        wharf_segment *s;
        wharf_buffer *b;
        void *hole = mmap(NULL, 3 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(hole != MAP_FAILED);
        CHECK_EQ(wharf_segment_open(arg, WHARF_SEGMENT_WRITE, &s), 0);
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL), 0);
        CHECK_EQ(wharf_buffer_open(wharf_segment_base(s), wharf_segment_bytes(s), &b), 0);
        for (uint64_t i = 0; i < 1000; i++)
                CHECK_EQ(wharf_buffer_put(b, &i, 8, WHARF_FOREVER), 0);
        wharf_buffer_close(b);
        return 0;
}

TEST(a_buffer_lives_in_a_segment)
{
        char name[64];
        snprintf(name, sizeof name, "posix:wharf-buffer-%d", (int)getpid());
        wharf_segment *s;
        CHECK_EQ(wharf_segment_create(name, LEN, NULL, &s), 0);
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL), 0);
        wharf_buffer *b = made(wharf_segment_base(s), WHARF_BUFFER_BOUNDED, 10, 8);
        pid_t pid = test_fork(by_name, name);
        for (uint64_t i = 0; i < 1000; i++) {
                uint64_t v;
                CHECK_EQ(wharf_buffer_get(b, &v, 8, WHARF_FOREVER), 8);
                CHECK_EQ(v, i);
        }
        CHECK_EQ(test_wait(pid), 0);
        wharf_buffer_close(b);
        wharf_segment_close(s);
        CHECK_EQ(wharf_segment_remove(name), 0);
}

/*
 * The ledger: what each producer has begun to put and been told is put, and how often each item arrived. Written by
 * the task itself around its call, in memory that the buffer knows nothing of.
 */
#define PRODUCERS 24
#define ITEMS 4000
struct ledger {
        _Atomic uint32_t begun[PRODUCERS], acked[PRODUCERS];
        _Atomic uint8_t arrived[PRODUCERS][ITEMS];
        _Atomic uint32_t next_producer, disorder;
        wharf_buffer *buf;
};

struct item {
        uint32_t producer, number;
        uint8_t fill[40]; /* all number % 251: is it whole? */
};

static int producer(void *arg)
{
        struct ledger *l = arg;
        uint32_t me = atomic_fetch_add(&l->next_producer, 1);
        for (uint32_t i = 0; i < ITEMS; i++) {
                struct item it = {me, i, {0}};
                memset(it.fill, (int)(i % 251), sizeof it.fill);
                atomic_store(&l->begun[me], i + 1);
                if (wharf_buffer_put(l->buf, &it, sizeof it, WHARF_FOREVER) < 0)
                        return 1;
                atomic_store(&l->acked[me], i + 1);
        }
        return 0;
}

static int take_one(struct ledger *l, int64_t deadline_ns, uint32_t *seen)
{
        struct item it;
        int64_t r = wharf_buffer_get(l->buf, &it, sizeof it, deadline_ns);
        if (r < 0)
                return (int)r;
        CHECK(r == sizeof it && it.producer < PRODUCERS && it.number < ITEMS);
        for (unsigned i = 0; i < sizeof it.fill; i++)
                CHECK_EQ(it.fill[i], it.number % 251);
        atomic_fetch_add(&l->arrived[it.producer][it.number], 1);
        if (it.number < seen[it.producer]) /* first in, first out: of one producer in order, for each consumer */
                atomic_fetch_add(&l->disorder, 1);
        seen[it.producer] = it.number + 1;
        return 0;
}

static int consumer(void *arg)
{
        uint32_t seen[PRODUCERS] = {0};
        for (;;)
                if (take_one(arg, WHARF_FOREVER, seen) < 0)
                        return 1;
}

/*
 * Goal:   what was acknowledged arrives once; nothing arrives twice; the living go on; no memory is lost.
 * Method: two producers and two consumers; one of them, at random, is killed at a random moment and replaced, until
 *         no producer number is left. A killed consumer may have taken one item that it could not note.
 */
TEST_TIMEOUT(producers_and_consumers_are_killed_at_random, 60)
{
        for (unsigned k = 0; k < 2; k++) {
                void *base = test_shared(LEN);
                struct ledger *l = test_shared(sizeof *l);
                l->buf = made(base, all_kinds[k], 16, sizeof(struct item));
                pid_t pids[4] = {test_fork(producer, l), test_fork(producer, l), test_fork(consumer, l),
                                 test_fork(consumer, l)};
                unsigned consumers_killed = 0, started = 2;
                while (started < PRODUCERS) {
                        unsigned i = test_random() % 4;
                        usleep((unsigned)(test_random() % 3000));
                        kill(pids[i], SIGKILL);
                        int st = test_wait(pids[i]);
                        CHECK(st == 128 + SIGKILL || (st == 0 && i < 2));
                        consumers_killed += i >= 2;
                        started += i < 2;
                        pids[i] = test_fork(i < 2 ? producer : consumer, l);
                }
                CHECK_EQ(test_wait(pids[0]), 0);
                CHECK_EQ(test_wait(pids[1]), 0);
                uint32_t seen[PRODUCERS] = {0};
                for (unsigned i = 2; i < 4; i++) {
                        kill(pids[i], SIGKILL);
                        test_wait(pids[i]);
                        consumers_killed++;
                }
                while (take_one(l, 0, seen) == 0)
                        ;
                unsigned missing = 0, items = 0;
                for (unsigned p = 0; p < PRODUCERS; p++)
                        for (unsigned i = 0; i < ITEMS; i++) {
                                unsigned n = atomic_load(&l->arrived[p][i]);
                                CHECK_LE(n, 1);
                                CHECK(i < atomic_load(&l->begun[p]) || !n);
                                missing += i < atomic_load(&l->acked[p]) && !n;
                                items += n;
                        }
                CHECK_LE(missing, consumers_killed);
                CHECK_EQ(atomic_load(&l->disorder), 0);
                CHECK_GE(items, 2 * ITEMS);
                struct wharf_buffer_figures f = figures(l->buf);
                CHECK(f.items == 0 && f.used_bytes == 0);
                wharf_buffer_close(l->buf);
                munmap(l, sizeof *l);
                munmap(base, LEN);
        }
}

/* ---- killed at every instruction ---- */

/* At most so many instructions from one kill to the next. Sanitizers make a call of hundreds of thousands. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STRIDE 5000
#else
#define STRIDE 17
#endif

struct op {
        wharf_buffer *buf;
        bool put;
};

static int one_op(void *arg)
{
        struct op *o = arg;
        uint64_t v = 100;
        wharf_mutex own = {0};
        CHECK_EQ(wharf_mutex_lock(&own, 0), 0); /* who it is, is found out before: that is no part of the call */
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
                return 1;
        raise(SIGSTOP);
        if (o->put)
                return wharf_buffer_put(o->buf, &v, 8, 0) != 0;
        return wharf_buffer_get(o->buf, &v, 8, 0) != 8 || v != 0;
}

/*
 * Goal:   wherever a task dies inside a call, the call was made or not, and the buffer is sound: the items are there,
 *         in order, once, and no memory is lost.
 * Method: run the call in a child one machine instruction at a time and kill it after the k-th, for k in random steps
 *         of at most STRIDE, so that runs differ, until it ends by itself. Where a step takes a hundred times as long,
 *         as in a machine made of software, the steps are longer after a while.
 */
static void kill_at_instructions(uint32_t kind, bool put, uint64_t items_before)
{
        void *base = test_shared(LEN);
        unsigned kills = 0;
        bool made_it = false, before = false, after = false;
        const int64_t patience_ns = wh_os_now_ns() + 4000000000;
        for (uint64_t k = test_random() % 32; !made_it;
             k += (1 + test_random() % STRIDE) * (wh_os_now_ns() < patience_ns ? 1 : 16)) {
                wharf_buffer *b = made(base, kind, 8, 8);
                for (uint64_t i = 0; i < items_before; i++)
                        put_number(b, i);
                struct op o = {b, put};
                int st;
                pid_t pid = test_fork(one_op, &o);
                CHECK_EQ(waitpid(pid, &st, 0), pid);
                if (!WIFSTOPPED(st))
                        test_skip("ptrace is not allowed here");
                for (uint64_t i = 0; i < k && WIFSTOPPED(st); i++) {
                        CHECK_EQ(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
                        CHECK_EQ(waitpid(pid, &st, 0), pid);
                }
                made_it = WIFEXITED(st);
                if (!made_it) {
                        kill(pid, SIGKILL);
                        CHECK_EQ(test_wait(pid), 128 + SIGKILL);
                        kills++;
                } else {
                        CHECK_EQ(WEXITSTATUS(st), 0);
                }
                if (put) {
                        put_number(b, 200);
                        for (uint64_t i = 0; i < items_before; i++)
                                CHECK_EQ(got_number(b), i);
                        uint64_t v = got_number(b);
                        CHECK(v == 100 || v == 200);
                        (v == 100 ? &after : &before)[0] = true;
                        if (v == 100)
                                CHECK_EQ(got_number(b), 200);
                } else {
                        put_number(b, 200);
                        uint64_t v = got_number(b);
                        (v == 0 ? &before : &after)[0] = true;
                        for (uint64_t i = v == 0 ? 1 : 1 + (items_before > 1); i < items_before; i++)
                                CHECK_EQ(got_number(b), i);
                        if (v == 0 || items_before > 1)
                                CHECK_EQ(got_number(b), 200);
                        else
                                CHECK_EQ(v, 200);
                }
                uint64_t v;
                CHECK_EQ(wharf_buffer_get(b, &v, 8, 0), -EAGAIN);
                struct wharf_buffer_figures f = figures(b);
                CHECK(f.items == 0 && f.used_bytes == 0);
                wharf_buffer_close(b);
        }
        CHECK_GE(kills, 1);
        CHECK(STRIDE > 100 || wh_os_now_ns() >= patience_ns || (before && after && kills >= 8));
        munmap(base, LEN);
}

TEST_TIMEOUT(killed_at_every_instruction_of_a_put, 180)
{
        if (TEST_TSAN)
                test_skip("the thread sanitizer has thousands of instructions of its own in each");
        for (unsigned k = 0; k < 3; k++)
                for (uint64_t n = 0; n < 3; n += 2)
                        if (!n || all_kinds[k] != WHARF_BUFFER_CIRCULAR) /* there, this task would be the producer */
                                kill_at_instructions(all_kinds[k], true, n);
}

TEST_TIMEOUT(killed_at_every_instruction_of_a_get, 180)
{
        if (TEST_TSAN)
                test_skip("the thread sanitizer has thousands of instructions of its own in each");
        for (unsigned k = 0; k < 3; k++)
                for (uint64_t n = 1; n < 4; n += 2)
                        kill_at_instructions(all_kinds[k], false, n);
}
