/*
 * heap_kill_test - kill -9 at any instruction of alloc, free, resize, lock, unlock, reclaim and of the repair itself.
 *
 * Method: the victim is a forked child, run one machine instruction at a time with ptrace. A survivor sees shared bytes
 * only, so only those instructions matter after which the shared memory is not what it was: each such state is kept.
 * Then the victim is killed for good, and each state is put back in place, exactly as a death at that instruction
 * leaves it, and a third process, which had no part in it, checks the heap, uses it, reclaims, and finds every byte
 * accounted for. So that nothing rests on that reasoning alone, some places of each operation (all with
 * WHARF_TEST_FULL=1) are also visited by a victim of their own that is really killed there.
 */
#include "memory/heap_testing.h"

#include <signal.h>
#include <sys/ptrace.h>

/* All that is shared: the heap first, then the locks and a word of the test. */
#define SHARED 65536
#define HEAP_LEN 49152

static struct world {
        char heap[HEAP_LEN];
        wharf_mutex mutex;
        uint64_t a, b; /* guarded by mutex: equal when it is free */
        wharf_sem owned, plain;
        _Atomic uint64_t blocks[16]; /* offsets of what is there before the victim comes, owned by nobody */
        _Atomic uint32_t n_blocks;
} * world;
static_assert(sizeof(struct world) <= SHARED, "fits");

static wharf_heap *heap; /* the parent's handle; the victim and the auditor, its children, use it too */
static uint32_t heap_policy;

struct operation {
        const char *name;
        void (*prepare)(void); /* by the victim, before it is stepped */
        void (*run)(void);     /* stepped */
        bool for_heap;
};

static uint64_t victims[4];

static void have_blocks(void)
{
        for (int i = 0; i < 3; i++)
                wharf_heap_alloc(heap, 100, 0, 0, 0, &victims[i]);
        wharf_heap_free(heap, victims[1]);
}

static void full_cache(void)
{
        uint64_t off[HEAP_CACHE_DEPTH + 1];
        for (int i = 0; i < HEAP_CACHE_DEPTH + 1; i++)
                if (wharf_heap_alloc(heap, 60, 0, 0, 0, &off[i]) < 0)
                        off[i] = 0;
        for (int i = 0; i < HEAP_CACHE_DEPTH; i++)
                if (off[i])
                        wharf_heap_free(heap, off[i]);
        victims[0] = off[HEAP_CACHE_DEPTH];
}

static void do_alloc(void)
{
        uint64_t off;
        wharf_heap_alloc(heap, 200, 0, 0, 0, &off);
}

static void do_alloc_aligned(void)
{
        uint64_t off;
        wharf_heap_alloc(heap, 40, 64, WHARF_ALLOC_NOBODY, 0, &off);
}

static void do_free(void)
{
        wharf_heap_free(heap, victims[0]);
}

static void do_free_between_holes(void)
{
        wharf_heap_free(heap, victims[2]);
}

static void do_grow(void)
{
        uint64_t off;
        wharf_heap_resize(heap, victims[0], 180, 0, &off);
}

static void do_grow_and_move(void)
{
        uint64_t off;
        wharf_heap_resize(heap, victims[0], 600, 0, &off);
}

static void do_shrink(void)
{
        uint64_t off;
        wharf_heap_resize(heap, victims[2], 20, 0, &off);
}

static void do_give(void)
{
        wharf_heap_give(heap, victims[0], WHARF_NOBODY);
}

static void do_flush(void)
{
        struct wharf_heap_figures f;
        wharf_heap_figures(heap, &f);
}

static void do_close(void)
{
        wharf_heap_close(heap);
}

static int die_with_blocks(void *arg)
{
        uint64_t off;
        for (int i = 0; i < 5; i++)
                wharf_heap_alloc(heap, 80, 0, 0, 0, &off);
        return 0;
}

static void have_a_dead_task(void)
{
        test_wait(test_fork(die_with_blocks, NULL));
}

static int die_with_the_lock(void *arg)
{
        uint64_t off;
        wharf_heap_alloc(heap, 80, 0, 0, 0, &off);
        wh_heap_lock(heap);
        return 0;
}

static void have_a_dead_holder(void)
{
        test_wait(test_fork(die_with_the_lock, NULL));
        wharf_heap_self(heap);
}

static void do_reclaim(void)
{
        wharf_heap_reclaim(heap, NULL, NULL);
}

static void do_nothing(void)
{
}

static void do_mutex(void)
{
        wharf_mutex_lock(&world->mutex, WHARF_FOREVER);
        world->a++;
        world->b++;
        wharf_mutex_unlock(&world->mutex);
}

static void do_sem_owned(void)
{
        wharf_sem_take(&world->owned, WHARF_FOREVER);
        wharf_sem_give(&world->owned);
}

static void do_sem_plain(void)
{
        wharf_sem_give(&world->plain);
        wharf_sem_take(&world->plain, WHARF_FOREVER);
}

static const struct operation operations_[] = {
        {"alloc", do_nothing, do_alloc, true},
        {"alloc after free", have_blocks, do_alloc, true},
        {"alloc aligned", have_blocks, do_alloc_aligned, true},
        {"free", have_blocks, do_free, true},
        {"free between holes", have_blocks, do_free_between_holes, true},
        {"free into a full cache", full_cache, do_free, true},
        {"resize in place", have_blocks, do_grow, true},
        {"resize by moving", have_blocks, do_grow_and_move, true},
        {"resize smaller", have_blocks, do_shrink, true},
        {"give", have_blocks, do_give, true},
        {"flush", full_cache, do_flush, true},
        {"close", have_blocks, do_close, true},
        {"reclaim", have_a_dead_task, do_reclaim, true},
        {"repair", have_a_dead_holder, do_alloc, true},
        {"mutex", do_nothing, do_mutex, false},
        {"semaphore, owned", do_nothing, do_sem_owned, false},
        {"semaphore, plain", do_nothing, do_sem_plain, false},
};

/* ---- the third process ---- */

struct sums {
        uint64_t at, nobody, others;
};

static int sum_blocks(const struct wharf_block *b, void *arg)
{
        struct sums *s = arg;
        CHECK_EQ(b->start, s->at);
        s->at += b->bytes;
        CHECK_NE(b->state, WHARF_BLOCK_DAMAGED);
        if (b->state == WHARF_BLOCK_USED) {
                s->nobody += b->owner == WHARF_NOBODY;
                s->others += b->owner != WHARF_NOBODY;
        }
        return 0;
}

static int free_of_nobody(const struct wharf_block *b, void *arg)
{
        uint64_t *off = arg;
        if (b->state != WHARF_BLOCK_USED || b->owner != WHARF_NOBODY)
                return 0;
        off[++off[0]] = b->offset;
        return off[0] == 31;
}

static int audit_heap(void *arg)
{
        wharf_heap *h;
        CHECK_EQ(wharf_heap_open(world->heap, HEAP_LEN, &h), 0);
        struct wharf_heap_figures f = figures(h);
        CHECK_LE(f.repairs, 3);
        /* Whatever is derived was built again by whoever took the lock from the dead; nothing is damaged. */
        CHECK_EQ(wharf_heap_check(h), 0);
        struct sums s = {0};
        CHECK_EQ(wharf_heap_walk(h, sum_blocks, &s), 0);
        CHECK_EQ(s.at, f.managed_bytes);
        /* It works. */
        uint64_t off[20];
        for (int i = 0; i < 20; i++)
                CHECK_EQ(wharf_heap_alloc(h, 10 + (uint64_t)i, 0, 0, 0, &off[i]), 0);
        for (int i = 0; i < 20; i++)
                CHECK_EQ(wharf_heap_free(h, off[i]), 0);
        /* The dead task's blocks come back, the parent's few stay, and then everything is one. */
        CHECK_GE(wharf_heap_reclaim(h, NULL, NULL), 0);
        for (uint32_t i = 0; i < world->n_blocks; i++)
                CHECK_EQ(wharf_heap_free(h, world->blocks[i]), 0);
        uint64_t nobody[32] = {0};
        wharf_heap_walk(h, free_of_nobody, nobody);
        CHECK_LE(nobody[0], 4); /* what the victim had given away or left behind when it closed */
        for (uint64_t i = 1; i <= nobody[0]; i++)
                CHECK_EQ(wharf_heap_free(h, nobody[i]), 0);
        f = figures(h);
        CHECK_EQ(f.used_blocks, 0);
        CHECK_EQ(f.cached_blocks, 0);
        CHECK_EQ(f.owners, 2); /* this one and the parent */
        if (f.policy != WHARF_HEAP_FIXED)
                CHECK_EQ(f.free_blocks, 1);
        CHECK_EQ(wharf_heap_check(h), 0);
        wharf_heap_close(h);
        return 0;
}

static int audit_locks(void *arg)
{
        int r = wharf_mutex_lock(&world->mutex, WHARF_FOREVER);
        CHECK(r == 0 || r == WHARF_HOLDER_DIED);
        /* Told, or nothing to tell. */
        CHECK(world->a == world->b || r == WHARF_HOLDER_DIED);
        CHECK_EQ(wharf_mutex_unlock(&world->mutex), 0);
        CHECK_EQ(wharf_mutex_lock(&world->mutex, 0), 0);
        for (int i = 0; i < 2; i++) {
                r = wharf_sem_take(&world->owned, WHARF_FOREVER);
                CHECK(r == 0 || r == WHARF_HOLDER_DIED);
        }
        CHECK_EQ(wharf_sem_take(&world->owned, 0), -EAGAIN);
        /* A unit without an owner is there, or the dead task took it for good: 3 and what it had given. */
        uint32_t units = wharf_sem_units(&world->plain);
        CHECK(units == 3 || units == 4);
        for (uint32_t i = 0; i < units; i++)
                CHECK_EQ(wharf_sem_take(&world->plain, 0), 0);
        CHECK_EQ(wharf_sem_take(&world->plain, 0), -EAGAIN);
        return 0;
}

/* ---- the engine ---- */

static unsigned total_states;

static void make_world(void)
{
        memset(world, 0, sizeof *world);
        struct wharf_heap_opts o = {.size = sizeof o, .policy = heap_policy};
        o.managed_bytes = 16384;
        o.unit_bytes = heap_policy == WHARF_HEAP_BUDDY || heap_policy == WHARF_HEAP_FIXED ? 64 : 0;
        o.owners_max = o.waiters_max = 6;
        o.n_partitions = heap_policy == WHARF_HEAP_FIXED ? 64 : 0;
        CHECK_EQ(wharf_heap_format(world->heap, HEAP_LEN, &o), 0);
        CHECK_EQ(wharf_heap_open(world->heap, HEAP_LEN, &heap), 0);
        for (int i = 0; i < 4; i++) {
                uint64_t off;
                CHECK_EQ(wharf_heap_alloc(heap, 50 + (uint64_t)i * 40, 0, WHARF_ALLOC_NOBODY, 0, &off), 0);
                world->blocks[world->n_blocks++] = off;
        }
        CHECK_EQ(wharf_heap_free(heap, world->blocks[--world->n_blocks - 1]), 0);
        world->blocks[world->n_blocks - 1] = world->blocks[world->n_blocks];
        struct wharf_heap_figures f = figures(heap); /* and this task's cache is empty */
        CHECK_EQ(f.used_blocks, 3);
        wharf_sem_init(&world->owned, 2, WHARF_SEM_OWNED);
        wharf_sem_init(&world->plain, 3, 0);
}

static void done_with_world(void)
{
        heap = wharf_heap_close(heap);
}

#define NO_PTRACE 77

static int victim(void *arg)
{
        const struct operation *op = arg;
        wharf_heap_self(heap); /* its place among the owners is there */
        wh_task_thread();
        op->prepare();
        if (ptrace(PTRACE_TRACEME, 0, 0, 0) < 0)
                return NO_PTRACE;
        raise(SIGSTOP);
        op->run();
        raise(SIGUSR1); /* the end of it */
        return 0;
}

static bool step(pid_t pid)
{
        int st;
        if (ptrace(PTRACE_SINGLESTEP, pid, 0, 0) < 0 || waitpid(pid, &st, 0) != pid)
                test_fail(__FILE__, __LINE__, "cannot step: %s", strerror(errno));
        return WIFSTOPPED(st) && WSTOPSIG(st) == SIGTRAP;
}

static pid_t start_victim(const struct operation *op)
{
        pid_t pid = test_fork(victim, (void *)(uintptr_t)op);
        int st;
        pid_t ended = waitpid(pid, &st, 0);
        if (ended == pid && WIFEXITED(st) && WEXITSTATUS(st) == NO_PTRACE)
                test_skip("ptrace is not allowed here");
        if (ended != pid || !WIFSTOPPED(st) || WSTOPSIG(st) != SIGSTOP)
                test_fail(__FILE__, __LINE__, "no victim: %x", st);
        return pid;
}

#define STATES_MAX 4000

/* What a death leaves: the shared bytes, and after how many instructions. */
static struct state {
        uint32_t steps;
        struct world *bytes;
} states[STATES_MAX];

static void keep_state(unsigned i, uint32_t steps)
{
        states[i].steps = steps;
        if (!states[i].bytes)
                states[i].bytes = malloc(sizeof(struct world));
        memcpy(states[i].bytes, world, sizeof *world);
}

static void audit(const struct operation *op, uint32_t steps)
{
        int r = test_wait(test_fork(op->for_heap ? audit_heap : audit_locks, NULL));
        if (r != 0)
                test_fail(__FILE__, __LINE__, "%s, %s: killed after %u instructions: the auditor says %d",
                          wharf_heap_policy_name((enum wharf_heap_policy)heap_policy), op->name, steps, r);
}

static unsigned kill_everywhere(const struct operation *op)
{
        unsigned n = 0, kills = 0;
        make_world();
        pid_t pid = start_victim(op);
        keep_state(n++, 0);
        for (uint32_t steps = 1; step(pid); steps++)
                if (n < STATES_MAX && memcmp(states[n - 1].bytes, world, sizeof *world))
                        keep_state(n++, steps);
        CHECK(n < STATES_MAX);
        kill(pid, SIGKILL);
        test_wait(pid);
        for (unsigned i = 0; i < n; i++) {
                memcpy(world, states[i].bytes, sizeof *world);
                audit(op, states[i].steps);
        }
        done_with_world();

        /* And for real: at all of these places, or at as many as so many steps reach. */
        const char *full = getenv("WHARF_TEST_FULL");
        uint64_t budget = full && *full && *full != '0' ? UINT64_MAX : 1500;
        for (unsigned i = 1; i < n && budget > states[i].steps; i += budget == UINT64_MAX ? 1 : 1 + n / 8) {
                budget -= budget == UINT64_MAX ? 0 : states[i].steps;
                make_world();
                pid = start_victim(op);
                bool alive = true;
                for (uint32_t k = 0; k < states[i].steps && alive; k++)
                        alive = step(pid);
                kill(pid, SIGKILL);
                test_wait(pid);
                audit(op, states[i].steps);
                done_with_world();
                kills++;
        }
        total_states += n;
        return kills;
}

static void kill_policy(uint32_t policy)
{
        world = test_shared(SHARED);
        heap_policy = policy;
        unsigned kills = 0, ops = 0;
        for (unsigned i = 0; i < sizeof operations_ / sizeof *operations_; i++) {
                if (!operations_[i].for_heap)
                        continue;
                kills += kill_everywhere(&operations_[i]);
                ops++;
        }
        printf("  kill heap, %s: operations %u, distinct crash states survived %u, of these by real kills %u\n",
               wharf_heap_policy_name((enum wharf_heap_policy)policy), ops, total_states, kills);
        CHECK_GE(total_states, 150);
        fflush(stdout);
}

TEST_TIMEOUT(kill_anywhere_buddy, 3000)
{
        kill_policy(WHARF_HEAP_BUDDY);
}

TEST_TIMEOUT(kill_anywhere_first_fit, 3000)
{
        kill_policy(WHARF_HEAP_FIRST_FIT);
}

TEST_TIMEOUT(kill_anywhere_next_fit, 3000)
{
        kill_policy(WHARF_HEAP_NEXT_FIT);
}

TEST_TIMEOUT(kill_anywhere_best_fit, 3000)
{
        kill_policy(WHARF_HEAP_BEST_FIT);
}

TEST_TIMEOUT(kill_anywhere_worst_fit, 3000)
{
        kill_policy(WHARF_HEAP_WORST_FIT);
}

TEST_TIMEOUT(kill_anywhere_fixed, 3000)
{
        kill_policy(WHARF_HEAP_FIXED);
}

TEST_TIMEOUT(kill_anywhere_locks, 3000)
{
        world = test_shared(SHARED);
        unsigned kills = 0, ops = 0;
        for (unsigned i = 0; i < sizeof operations_ / sizeof *operations_; i++) {
                if (operations_[i].for_heap)
                        continue;
                kills += kill_everywhere(&operations_[i]);
                ops++;
        }
        printf("  kill sync: operations %u, distinct crash states survived %u, of these by real kills %u\n", ops,
               total_states, kills);
        CHECK_GE(total_states, 15);
        fflush(stdout);
}
