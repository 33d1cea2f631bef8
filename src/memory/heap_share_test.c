/*
 * heap_share_test - one heap and several processes: owners, the queue, caches, and deaths between calls.
 */
#include "memory/exec_testing.h"
#include "memory/heap_testing.h"

#include <pthread.h>
#include <signal.h>

static struct party {
        _Atomic uint32_t step;
        _Atomic uint64_t off[64];
        _Atomic int order[8];
        _Atomic int served;
} * sh;

static void wait_for_step(uint32_t step)
{
        uint32_t is;
        while ((is = atomic_load(&sh->step)) < step)
                wh_os_futex_wait(&sh->step, is, WH_NEVER, true);
}

static void next_step(void)
{
        atomic_fetch_add(&sh->step, 1);
        wh_os_futex_wake(&sh->step, INT32_MAX, true);
}

static int churn(void *arg)
{
        wharf_heap *h = arg;
        struct live_block live[64];
        unsigned n = 0;
        uint64_t seed = (uint64_t)gettid() * 0x9e3779b97f4a7c15u;
        for (unsigned op = 0; op < 20000; op++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                uint64_t r = seed >> 33;
                if (n < 64 && r & 1) {
                        struct live_block b = {.bytes = 1 + (r >> 1) % 500, .fill = (uint8_t)(r >> 12)};
                        if (wharf_heap_alloc(h, b.bytes, 0, 0, 0, &b.off) == 0) {
                                fill(h, &b);
                                live[n++] = b;
                        }
                } else if (n) {
                        unsigned i = (unsigned)((r >> 1) % n);
                        check_fill(h, &live[i], live[i].bytes);
                        if (wharf_heap_free(h, live[i].off) != 0)
                                return 1;
                        live[i] = live[--n];
                }
        }
        while (n)
                if (wharf_heap_free(h, live[--n].off) != 0)
                        return 2;
        return 0;
}

/* Goal: forked children go on with the parent's handle, each as an owner of its own. */
TEST_TIMEOUT(processes_share_a_heap, 120)
{
        for (uint32_t policy = 0; policy < WHARF_HEAP_POLICIES; policy++) {
                wharf_heap *h = make_heap(policy, 65536, 16, 0);
                pid_t pid[4];
                for (int i = 0; i < 4; i++)
                        pid[i] = test_fork(churn, h);
                CHECK_EQ(churn(h), 0);
                for (int i = 0; i < 4; i++)
                        CHECK_EQ(test_wait(pid[i]), 0);
                CHECK_EQ(wharf_heap_reclaim(h, NULL, NULL), 0);
                struct wharf_heap_figures f = figures(h);
                CHECK_EQ(f.used_bytes + f.cached_bytes, 0);
                CHECK_EQ(f.repairs, 0);
                CHECK_EQ(f.owners, 1);
                CHECK_EQ(wharf_heap_check(h), 0);
                wharf_heap_close(h);
        }
}

static void *churn_thread(void *arg)
{
        return (void *)(intptr_t)churn(arg);
}

TEST_TIMEOUT(threads_share_a_handle, 120)
{
        for (uint32_t policy = 0; policy < WHARF_HEAP_POLICIES; policy++) {
                wharf_heap *h = make_heap(policy, 65536, 16, 0);
                pthread_t t[3];
                for (int i = 0; i < 3; i++)
                        pthread_create(&t[i], NULL, churn_thread, h);
                for (int i = 0; i < 3; i++) {
                        void *r;
                        pthread_join(t[i], &r);
                        CHECK_EQ((intptr_t)r, 0);
                }
                CHECK_EQ(figures(h).used_bytes, 0);
                CHECK_EQ(wharf_heap_check(h), 0);
                wharf_heap_close(h);
        }
}

static int hold_some_and_wait(void *arg)
{
        wharf_heap *h = arg;
        for (int i = 0; i < 40; i++)
                atomic_store(&sh->off[i], get(h, 100 + (uint64_t)i));
        wharf_heap_give(h, sh->off[0], WHARF_NOBODY);
        for (int i = 30; i < 40; i++)
                wharf_heap_free(h, sh->off[i]);
        next_step();
        pause();
        return 0;
}

static bool keep_one(uint64_t offset, uint64_t bytes, void *arg)
{
        CHECK_GE(bytes, 100);
        return offset == *(uint64_t *)arg;
}

/* Goal: what a dead task held comes back, its blocks and those in its cache; what it gave away does not. */
TEST(reclaim_what_a_dead_task_held)
{
        for (uint32_t policy = 0; policy < WHARF_HEAP_POLICIES; policy++) {
                sh = test_shared(sizeof *sh);
                struct wharf_heap_opts o = *opts(policy, 65536, 0, 0);
                o.n_partitions = policy == WHARF_HEAP_FIXED ? 64 : 0;
                wharf_heap *h = make_at(test_shared(LEN), LEN, &o);
                uint64_t mine = get(h, 100);
                pid_t pid = test_fork(hold_some_and_wait, h);
                wait_for_step(1);
                CHECK_EQ(wharf_heap_reclaim(h, NULL, NULL), 0);
                struct wharf_heap_owner owners[4];
                CHECK_EQ(wharf_heap_owners(h, owners, 4), 2);
                CHECK_EQ(owners[1].pid, pid);
                CHECK(owners[1].alive);
                CHECK_EQ(owners[1].blocks, 29);
                kill(pid, SIGKILL);
                CHECK_EQ(test_wait(pid), 128 + SIGKILL);
                CHECK_EQ(wharf_heap_owners(h, owners, 4), 2);
                CHECK(!owners[1].alive);
                uint64_t kept = sh->off[5];
                CHECK_EQ(wharf_heap_reclaim(h, keep_one, &kept), 28);
                CHECK_EQ(wharf_heap_owners(h, owners, 4), 1);
                struct wharf_heap_figures f = figures(h);
                CHECK_EQ(f.used_blocks, 3);
                CHECK_EQ(f.cached_blocks, 0);
                CHECK_EQ(wharf_heap_free(h, sh->off[0]), 0);
                CHECK_EQ(wharf_heap_free(h, kept), 0);
                CHECK_EQ(wharf_heap_free(h, mine), 0);
                CHECK_EQ(figures(h).used_bytes, 0);
                CHECK_EQ(wharf_heap_check(h), 0);
                wharf_heap_close(h);
        }
}

static int hold_ten(void *arg)
{
        for (int i = 0; i < 10; i++)
                get(arg, 100);
        return 0;
}

/* Goal: what a program held comes back when its process runs another one. */
TEST(reclaim_what_a_program_held_before_exec)
{
        struct wharf_heap_owner owners[4];
        wharf_heap *h = make_at(test_shared(LEN), LEN, opts(WHARF_HEAP_BEST_FIT, 65536, 0, 0));
        struct exec_child e = exec_child_holds(hold_ten, h);
        CHECK_EQ(wharf_heap_reclaim(h, NULL, NULL), 0);
        exec_child_becomes(&e);
        CHECK_EQ(wharf_heap_owners(h, owners, 4), 2);
        CHECK(!owners[1].alive);
        CHECK_EQ(wharf_heap_reclaim(h, NULL, NULL), 10);
        CHECK_EQ(figures(h).used_bytes, 0);
        exec_child_ends(&e);
        wharf_heap_close(h);
}

static int open_and_leave_one(void *arg)
{
        wharf_heap *h;
        if (wharf_heap_open(arg, LEN, &h) != 0)
                return 1;
        get(h, 100);
        wharf_heap_close(h);
        return 0;
}

static int open_and_die(void *arg)
{
        wharf_heap *h;
        int r = wharf_heap_open(arg, LEN, &h);
        if (r == 0 && sh)
                get(h, 100);
        return r == 0 ? 0 : r == -EUSERS ? 2 : 1;
}

TEST(owners_come_and_go)
{
        wharf_heap *h = make_heap(WHARF_HEAP_BUDDY, 65536, 0, 0);
        CHECK_EQ(test_wait(test_fork(open_and_leave_one, h->base)), 0);
        CHECK_EQ(wharf_heap_reclaim(h, NULL, NULL), 0);
        CHECK_EQ(figures(h).used_blocks, 1); /* it belongs to nobody now */
        /* Dead ones that hold nothing make room by themselves. */
        for (int i = 0; i < 20; i++)
                CHECK_EQ(test_wait(test_fork(open_and_die, h->base)), 0);
        sh = test_shared(sizeof *sh);
        for (int i = 0; i < 7; i++)
                CHECK_EQ(test_wait(test_fork(open_and_die, h->base)), 0);
        CHECK_EQ(test_wait(test_fork(open_and_die, h->base)), 2);
        CHECK_EQ(wharf_heap_reclaim(h, NULL, NULL), 7);
        CHECK_EQ(test_wait(test_fork(open_and_die, h->base)), 0);
        wharf_heap_close(h);
}

struct request {
        wharf_heap *h;
        uint64_t bytes;
        int64_t deadline_ns;
        int number;
};

static int wait_for_memory(void *arg)
{
        struct request *q = arg;
        uint64_t off;
        int r = wharf_heap_alloc(q->h, q->bytes, 0, 0, q->deadline_ns, &off);
        if (r < 0)
                return r == -ETIMEDOUT ? 10 : 11;
        int place = atomic_fetch_add(&sh->served, 1);
        atomic_store(&sh->order[q->number], place);
        atomic_store(&sh->off[q->number], off);
        next_step();
        pause();
        return 0;
}

static void until_waiting(wharf_heap *h, uint32_t n)
{
        while (figures(h).waiting != n)
                usleep(200);
}

static void slay(pid_t pid)
{
        kill(pid, SIGKILL);
        CHECK_EQ(test_wait(pid), 128 + SIGKILL);
}

/* Goal: the queue is served in the order of arrival: a small request does not pass a large one that came before. */
TEST_TIMEOUT(waiters_are_served_in_order, 60)
{
        for (uint32_t policy = 0; policy < WHARF_HEAP_FIXED; policy++) {
                sh = test_shared(sizeof *sh);
                wharf_heap *h = make_heap(policy, 4096, 0, 0);
                uint64_t a = get(h, 1024 - 8), b = get(h, 1024 - 8), c = get(h, 1024 - 8), d = get(h, 1024 - 8), off;
                struct request q[3] = {
                        {h, 2048 - 8, WHARF_FOREVER, 0}, {h, 100, WHARF_FOREVER, 1}, {h, 100, in_ms(60), 2}};
                pid_t pid[3];
                for (uint32_t i = 0; i < 2; i++) {
                        pid[i] = test_fork(wait_for_memory, &q[i]);
                        until_waiting(h, i + 1);
                }
                pid[2] = test_fork(wait_for_memory, &q[2]);
                CHECK_EQ(test_wait(pid[2]), 10);
                until_waiting(h, 2);
                /* One kilobyte would do for the second, but the first was here before. */
                CHECK_EQ(wharf_heap_free(h, a), 0);
                until_waiting(h, 2);
                CHECK_EQ(atomic_load(&sh->served), 0);
                CHECK_EQ(wharf_heap_free(h, b), 0);
                wait_for_step(1);
                CHECK_EQ(sh->order[0], 0);
                CHECK_EQ(wharf_heap_free(h, d), 0);
                wait_for_step(2);
                CHECK_EQ(sh->order[1], 1);
                CHECK_EQ(figures(h).waiting, 0);
                CHECK_EQ(wharf_heap_free(h, c), 0);
                CHECK_EQ(wharf_heap_free(h, sh->off[0]), 0);
                CHECK_EQ(wharf_heap_free(h, sh->off[1]), 0);
                slay(pid[0]);
                slay(pid[1]);
                CHECK_EQ(wharf_heap_alloc(h, 4096 - 8, 0, 0, 0, &off), 0);
                wharf_heap_close(h);
        }
}

/* Goal: a waiter that dies holds nobody up, and what it was granted comes back. */
TEST_TIMEOUT(dead_waiters_hold_nobody_up, 60)
{
        sh = test_shared(sizeof *sh);
        wharf_heap *h = make_heap(WHARF_HEAP_BEST_FIT, 4096, 0, 0);
        uint64_t a = get(h, 1000), b = get(h, 3000);
        struct request big = {h, 4000, WHARF_FOREVER, 0}, small = {h, 500, WHARF_FOREVER, 1};
        pid_t first = test_fork(wait_for_memory, &big);
        until_waiting(h, 1);
        pid_t second = test_fork(wait_for_memory, &small);
        until_waiting(h, 2);
        CHECK_EQ(wharf_heap_free(h, a), 0);
        slay(first);
        wait_for_step(1);
        CHECK_EQ(figures(h).waiting, 0);
        slay(second);
        wharf_heap_reclaim(h, NULL, NULL);
        a = get(h, 400);
        struct request q = {h, 900, WHARF_FOREVER, 2};
        pid_t third = test_fork(wait_for_memory, &q);
        until_waiting(h, 1);
        kill(third, SIGSTOP);
        CHECK_EQ(wharf_heap_free(h, b), 0);
        CHECK_EQ(figures(h).waiting, 0);
        slay(third);
        wharf_heap_reclaim(h, NULL, NULL);
        CHECK_EQ(wharf_heap_free(h, a), 0);
        CHECK_EQ(figures(h).free_bytes, 4096);
        CHECK_EQ(figures(h).free_blocks, 1);
        wharf_heap_close(h);
}

/* Goal: the queue has an end, and says so; the places of the dead are used again. */
TEST_TIMEOUT(queue_is_bounded, 60)
{
        sh = test_shared(sizeof *sh);
        struct wharf_heap_opts o = *opts(WHARF_HEAP_BUDDY, 4096, 64, 0);
        o.waiters_max = 2;
        wharf_heap *h = make_at(test_shared(LEN), LEN, &o);
        get(h, 4096);
        struct request q = {h, 100, WHARF_FOREVER, 0};
        pid_t pid[2];
        for (uint32_t i = 0; i < 2; i++) {
                pid[i] = test_fork(wait_for_memory, &q);
                until_waiting(h, i + 1);
        }
        uint64_t off;
        CHECK_EQ(wharf_heap_alloc(h, 100, 0, 0, WHARF_FOREVER, &off), -EBUSY);
        slay(pid[0]);
        slay(pid[1]);
        CHECK_EQ(wharf_heap_alloc(h, 100, 0, 0, in_ms(5), &off), -ETIMEDOUT);
        wharf_heap_close(h);
}

/* Goal: memory in the cache of a task that does nothing is still memory: another one in need gets it. */
TEST(caches_of_others_can_be_had)
{
        sh = test_shared(sizeof *sh);
        wharf_heap *h = make_heap(WHARF_HEAP_BUDDY, 65536, 64, 0);
        CHECK_GE(h->cache_orders, 2);
        pid_t pid = test_fork(hold_some_and_wait, h);
        wait_for_step(1);
        CHECK_GE(figures(h).cached_blocks, 10);
        uint64_t off;
        while (wharf_heap_alloc(h, 64, 0, 0, 0, &off) == 0)
                ;
        CHECK_EQ(figures(h).cached_blocks, 0);
        CHECK_EQ(figures(h).free_bytes, 0);
        slay(pid);
        wharf_heap_close(h);
}

static int free_when_told(void *arg)
{
        wharf_heap *h = arg;
        for (int i = 0; i < 300; i++) {
                wait_for_step((uint32_t)(2 * i + 1));
                /* It goes into this task's cache, unless the waiter was seen: either way the waiter must get it. */
                if (wharf_heap_free(h, sh->off[0]) != 0)
                        return 1;
                wait_for_step((uint32_t)(2 * i + 2));
        }
        return 0;
}

/* Goal: freeing into a cache while somebody begins to wait loses no wake-up. A lost one shows as 300 slow rounds. */
TEST_TIMEOUT(no_wake_up_is_lost_between_cache_and_queue, 60)
{
        sh = test_shared(sizeof *sh);
        wharf_heap *h = make_heap(WHARF_HEAP_BUDDY, 65536, 64, 0);
        uint64_t off, n = 0;
        while (wharf_heap_alloc(h, 64, 0, 0, 0, &off) == 0)
                n++;
        CHECK_EQ(n, 1023 + 1);
        atomic_store(&sh->off[0], h->head.managed_at);
        pid_t pid = test_fork(free_when_told, h);
        for (int i = 0; i < 300; i++) {
                next_step();
                CHECK_EQ(wharf_heap_alloc(h, 64, 0, 0, WHARF_FOREVER, &off), 0);
                atomic_store(&sh->off[0], off);
                next_step();
        }
        CHECK_EQ(test_wait(pid), 0);
        wharf_heap_close(h);
}

/* ---- a party that writes what it likes ---- */

static int waits_for_a_block(void *arg)
{
        wharf_heap *h = arg;
        uint64_t off;
        while (wharf_heap_alloc(h, 60000, 0, 0, 0, &off) == 0)
                ;
        next_step();
        /* Granted a block of one unit, at the very end: it is none of what was asked for. */
        if (wharf_heap_alloc(h, 60000, 0, WHARF_ALLOC_ZERO, wh_os_now_ns() + 300 * 1000000, &off) != -ETIMEDOUT)
                return 1;
        /* The word of the lock says that we have it: no more than an error. */
        next_step();
        int r = wharf_heap_alloc(h, 60000, 0, 0, wh_os_now_ns() + 10000 * (int64_t)1000000, &off);
        return r == -EDEADLK ? 0 : 2;
}

static void await_waiter(struct wharf_heap *h)
{
        while (atomic_load(&h->waiters[0].state) != WAITER_WAITING)
                usleep(1000);
        usleep(20000); /* and asleep, most likely */
}

/* Goal: whatever a party writes where it waits, nobody writes outside of the heap, or ends. */
TEST(a_false_grant_leads_nobody_out_of_the_heap)
{
        enum { ALL = 1 << 20 };
        struct wharf_heap_opts o = {.size = sizeof o, .policy = WHARF_HEAP_BUDDY};
        char *mem = mmap(NULL, ALL + 2 * WH_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        CHECK(mem != MAP_FAILED);
        CHECK_EQ(mprotect(mem + ALL, 2 * WH_PAGE, PROT_NONE), 0);
        CHECK_EQ(wharf_heap_format(mem, ALL, &o), 0);
        sh = test_shared(sizeof *sh);
        wharf_heap *h;
        CHECK_EQ(wharf_heap_open(mem, ALL, &h), 0);
        pid_t pid = test_fork(waits_for_a_block, h);
        wait_for_step(1);
        await_waiter(h);
        struct heap_waiter *w = &h->waiters[0];
        const uint32_t u = h->head.units - 1;
        heap_tag_store(h, u, 0, w->owner, TAG_CACHED, 0);
        w->unit = u;
        atomic_store(&w->state, WAITER_GRANTED);
        wh_os_futex_wake((_Atomic uint32_t *)&w->state, 1, true);
        wait_for_step(2);
        await_waiter(h);
        const uint64_t task = atomic_load(&h->owners[w->owner - 1].task);
        atomic_store(&h->live->lock.thread, (task & ~(uint64_t)UINT32_MAX) | (uint32_t)pid);
        atomic_store(&h->live->lock.word, task);
        wh_os_futex_wake((_Atomic uint32_t *)&w->state, 1, true);
        CHECK_EQ(test_wait(pid), 0);
        munmap(mem, ALL + 2 * WH_PAGE);
}
