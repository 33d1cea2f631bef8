/*
 * heap_test - the heap against a naive model, the textbook's pictures, misuse and damage: one process.
 */
#include "memory/heap_testing.h"

/* ---- the picture of a small heap: letters for blocks, dots for holes ---- */

struct picture {
        wharf_heap *h;
        char text[256];
        unsigned n;
};

static int draw(const struct wharf_block *b, void *arg)
{
        struct picture *p = arg;
        char c = '.';
        if (b->state == WHARF_BLOCK_USED)
                c = *(char *)wharf_heap_at(p->h, b->offset, 1);
        p->n += (unsigned)snprintf(p->text + p->n, sizeof p->text - p->n, "%s%c%d", p->n ? " " : "", c, (int)b->bytes);
        return 0;
}

static const char *picture(wharf_heap *h)
{
        static struct picture p;
        p = (struct picture){.h = h};
        CHECK_EQ(wharf_heap_walk(h, draw, &p), 0);
        CHECK_EQ(wharf_heap_check(h), 0);
        return p.text;
}

static uint64_t named(wharf_heap *h, char name, uint64_t bytes)
{
        uint64_t off = get(h, bytes);
        *(char *)wharf_heap_at(h, off, 1) = name;
        return off;
}

/* Goal: the textbook's run of a buddy system, drawn after every step. */
TEST(buddy_textbook_run)
{
        wharf_heap *h = make_heap(WHARF_HEAP_BUDDY, 128, 8, 0);
        CHECK_STR(picture(h), ".128");
        uint64_t a = named(h, 'A', 16);
        CHECK_STR(picture(h), "A16 .16 .32 .64");
        uint64_t b = named(h, 'B', 32);
        CHECK_STR(picture(h), "A16 .16 B32 .64");
        uint64_t c = named(h, 'C', 8);
        CHECK_STR(picture(h), "A16 C8 .8 B32 .64");
        uint8_t frames[2];
        CHECK_EQ(wharf_heap_frames(h, frames, sizeof frames), 16);
        CHECK_EQ(frames[0], 0xf7);
        CHECK_EQ(frames[1], 0);
        struct wharf_heap_figures f = figures(h);
        CHECK_EQ(f.used_bytes, 56);
        CHECK_EQ(f.largest_free_bytes, 64);
        CHECK_EQ(f.free_by_class[3], 1);
        CHECK_EQ(f.free_by_class[6], 1);
        CHECK_EQ(wharf_heap_free(h, a), 0);
        CHECK_STR(picture(h), ".16 C8 .8 B32 .64");
        CHECK_EQ(wharf_heap_free(h, c), 0);
        CHECK_STR(picture(h), ".32 B32 .64");
        CHECK_EQ(wharf_heap_free(h, b), 0);
        CHECK_STR(picture(h), ".128");
        wharf_heap_close(h);
}

/* Goal: on one script the fit policies choose as their names say. */
TEST(fit_textbook_choices)
{
        static const char *const after[] = {
                [WHARF_HEAP_FIRST_FIT] = "E12 .28 b4 .16 d4 .24 f4 .36",
                [WHARF_HEAP_NEXT_FIT] = ".40 b4 .16 d4 .24 f4 E12 .24",
                [WHARF_HEAP_BEST_FIT] = ".40 b4 E12 .4 d4 .24 f4 .36",
                [WHARF_HEAP_WORST_FIT] = "E12 .28 b4 .16 d4 .24 f4 .36",
        };
        for (uint32_t policy = WHARF_HEAP_FIRST_FIT; policy <= WHARF_HEAP_WORST_FIT; policy++) {
                wharf_heap *h = make_heap(policy, 128, 1, WHARF_HEAP_OUTSIDE);
                uint64_t a = named(h, 'a', 40), b = named(h, 'b', 4), c = named(h, 'c', 16), d = named(h, 'd', 4);
                uint64_t e = named(h, 'e', 24), f = named(h, 'f', 4);
                CHECK_STR(picture(h), "a40 b4 c16 d4 e24 f4 .36");
                wharf_heap_free(h, a);
                wharf_heap_free(h, c);
                wharf_heap_free(h, e);
                uint64_t big = named(h, 'E', 12);
                CHECK_STR(picture(h), after[policy]);
                wharf_heap_free(h, big);
                wharf_heap_free(h, b);
                wharf_heap_free(h, d);
                wharf_heap_free(h, f);
                CHECK_STR(picture(h), ".128");
                wharf_heap_close(h);
        }
}

TEST(fixed_partitions)
{
        static const uint64_t sizes[] = {32, 8, 64, 16};
        struct wharf_heap_opts o = {.size = sizeof o, .policy = WHARF_HEAP_FIXED, .unit_bytes = 8};
        o.partition_bytes = sizes;
        o.n_partitions = 4;
        wharf_heap *h = make_at(test_shared(LEN), LEN, &o);
        uint64_t a = named(h, 'A', 10), b = named(h, 'B', 10), off;
        CHECK_STR(picture(h), "B32 .8 .64 A16");
        struct wharf_heap_figures f = figures(h);
        CHECK_EQ(f.managed_bytes, 120);
        CHECK_EQ(f.requested_bytes, 20);
        CHECK(f.internal_fragmentation > 0.58 && f.internal_fragmentation < 0.59);
        CHECK_EQ(wharf_heap_alloc(h, 65, 0, 0, 0, &off), -E2BIG);
        named(h, 'C', 64);
        CHECK_EQ(wharf_heap_alloc(h, 9, 0, 0, 0, &off), -ENOMEM);
        CHECK_EQ(wharf_heap_free(h, a + 8), -EFAULT);
        CHECK_EQ(wharf_heap_free(h, a), 0);
        CHECK_EQ(wharf_heap_free(h, a), -EALREADY);
        CHECK_EQ(wharf_heap_resize(h, b, 32, 0, &off), 0);
        CHECK_EQ(off, b);
        CHECK_EQ(wharf_heap_resize(h, b, 33, 0, &off), -ENOMEM);
        wharf_heap_close(h);
        o.partition_bytes = NULL;
        o.managed_bytes = 100;
        h = make_at(test_shared(LEN), LEN, &o);
        CHECK_STR(picture(h), ".24 .24 .24 .24");
        wharf_heap_close(h);
}

TEST(formats_that_cannot_be)
{
        char *m = test_shared(LEN);
        struct wharf_heap_opts good = *opts(WHARF_HEAP_BUDDY, 4096, 64, 0);
        struct { /* of a later version, which asks for something that this one does not know */
                struct wharf_heap_opts o;
                uint64_t more;
        } later = {.more = ~0ull};
        CHECK_EQ(wharf_heap_format(m + 1, LEN - 1, &good), -EINVAL);
        CHECK_EQ(wharf_heap_format(NULL, LEN, &good), -EINVAL);
        CHECK_EQ(wharf_heap_format(m, 100, &good), -ENOSPC);
        CHECK_EQ(wharf_heap_format(m, 100, NULL), -ENOSPC);
        CHECK_EQ(wharf_heap_format(m, wharf_heap_bytes_needed(&good) - 1, &good), -ENOSPC);
        CHECK_EQ(wharf_heap_format(m, wharf_heap_bytes_needed(&good), &good), 0);
#define BAD(field, value)                                               \
        do {                                                            \
                later.o = good;                                         \
                later.o.field = (value);                                \
                CHECK_EQ(wharf_heap_format(m, LEN, &later.o), -EINVAL); \
                CHECK_EQ(wharf_heap_bytes_needed(&later.o), 0);         \
        } while (0)
        BAD(policy, WHARF_HEAP_POLICIES);
        BAD(flags, 64);
        BAD(unit_bytes, 48);
        BAD(unit_bytes, 2 << 20);
        BAD(managed_bytes, 63);
        BAD(owners_max, WHARF_HEAP_OWNERS_MAX + 1);
        BAD(waiters_max, 65537);
        BAD(n_partitions, 2);
        BAD(reserved, 1);
        BAD(size, 4);
        BAD(size, sizeof later.o + 1);
        BAD(size, sizeof later);
        BAD(managed_bytes, (uint64_t)1 << 62);
        good = *opts(WHARF_HEAP_FIRST_FIT, 4096, 0, 0);
        BAD(unit_bytes, 32);
        good = *opts(WHARF_HEAP_FIXED, 4096, 0, 0);
        BAD(n_partitions, 0);
        BAD(n_partitions, 65);
        uint64_t huge[2] = {UINT64_MAX, UINT64_MAX};
        later.o = good;
        later.o.n_partitions = 2;
        later.o.partition_bytes = huge;
        CHECK_EQ(wharf_heap_format(m, LEN, &later.o), -EINVAL);
        enum wharf_heap_policy p;
        for (unsigned i = 0; i < WHARF_HEAP_POLICIES; i++) {
                CHECK_EQ(wharf_heap_policy_by_name(wharf_heap_policy_name((enum wharf_heap_policy)i), &p), 0);
                CHECK_EQ(p, i);
        }
        CHECK_EQ(wharf_heap_policy_by_name("third", &p), -EINVAL);
        CHECK(!wharf_heap_policy_name((enum wharf_heap_policy)99));
}

/* ---- random operations against a naive model ---- */

#define LIVE 256

struct tiling {
        uint64_t at, used, requested;
        bool prev_free, fit;
};

static int check_tiling(const struct wharf_block *b, void *arg)
{
        struct tiling *o = arg;
        CHECK_EQ(b->start, o->at);
        CHECK(b->bytes > 0);
        o->at += b->bytes;
        if (b->state == WHARF_BLOCK_USED) {
                o->used++;
                o->requested += b->requested_bytes;
        }
        bool is_free = b->state == WHARF_BLOCK_FREE;
        CHECK(!(o->fit && is_free && o->prev_free));
        o->prev_free = is_free;
        return 0;
}

static void against_model(uint32_t policy, uint64_t managed, uint32_t unit, uint32_t flags, unsigned long ops)
{
        wharf_heap *h = make_heap(policy, managed, unit, flags);
        struct wharf_heap_figures f = figures(h), begin = f;
        static struct live_block live[LIVE];
        unsigned n = 0;
        uint64_t size_max = managed / 64 < 2 ? 2 : managed / 64, requested = 0;
        for (unsigned long op = 0; op < ops; op++) {
                unsigned what = (unsigned)(test_random() % 16);
                if (what < 8 && n < LIVE) {
                        struct live_block b = {.bytes = 1 + test_random() % size_max, .fill = (uint8_t)test_random()};
                        uint64_t align = test_random() % 4 ? 0 : (uint64_t)1 << test_random() % 7;
                        uint32_t how = test_random() % 8 ? 0 : WHARF_ALLOC_ZERO;
                        int r = wharf_heap_alloc(h, b.bytes, align, how, 0, &b.off);
                        if (r < 0) {
                                CHECK(r == -ENOMEM || r == -E2BIG);
                                if (r == -ENOMEM && align <= 1 && op % 16 == 0 && policy != WHARF_HEAP_FIXED)
                                        CHECK(figures(h).largest_free_bytes < wh_pow2_ceil(b.bytes + 16));
                                continue;
                        }
                        if (align)
                                CHECK_EQ(b.off % align, 0);
                        if (how) {
                                struct live_block zero = {b.off, b.bytes, 0};
                                check_fill(h, &zero, b.bytes);
                        }
                        fill(h, &b);
                        requested += b.bytes;
                        live[n++] = b;
                } else if (what < 10 && n) {
                        struct live_block *b = &live[test_random() % n];
                        uint64_t bytes = 1 + test_random() % size_max, off;
                        int r = wharf_heap_resize(h, b->off, bytes, 0, &off);
                        if (r < 0) {
                                CHECK(r == -ENOMEM || r == -E2BIG);
                                check_fill(h, b, b->bytes);
                                continue;
                        }
                        requested += bytes - b->bytes;
                        b->off = off;
                        check_fill(h, b, b->bytes < bytes ? b->bytes : bytes);
                        b->bytes = bytes;
                        fill(h, b);
                } else if (n) {
                        unsigned i = (unsigned)(test_random() % n);
                        check_fill(h, &live[i], live[i].bytes);
                        CHECK_EQ(wharf_heap_free(h, live[i].off), 0);
                        requested -= live[i].bytes;
                        live[i] = live[--n];
                }
                if (op % 512 == 0 || op + 1 == ops) {
                        struct tiling o = {.fit = policy >= WHARF_HEAP_FIRST_FIT && policy <= WHARF_HEAP_WORST_FIT};
                        CHECK_EQ(wharf_heap_walk(h, check_tiling, &o), 0);
                        f = figures(h);
                        CHECK_EQ(o.at, f.managed_bytes);
                        CHECK_EQ(o.used, n);
                        CHECK_EQ(f.used_blocks, n);
                        CHECK_EQ(o.requested, requested);
                        CHECK_EQ(f.requested_bytes, requested);
                        CHECK_EQ(f.allocs - f.frees, n);
                        if (op % 4096 == 0)
                                CHECK_EQ(wharf_heap_check(h), 0);
                }
        }
        for (unsigned i = 0; i < n; i++) {
                uint64_t usable;
                CHECK_EQ(wharf_heap_usable(h, live[i].off, &usable), 0);
                CHECK_GE(usable, live[i].bytes);
                CHECK_EQ(wharf_heap_free(h, live[i].off), 0);
        }
        f = figures(h);
        CHECK_EQ(f.used_bytes, 0);
        CHECK_EQ(f.free_blocks, begin.free_blocks);
        CHECK_EQ(f.largest_free_bytes, begin.largest_free_bytes);
        CHECK_EQ(wharf_heap_check(h), 0);
        CHECK_EQ(f.repairs, 0);
        wharf_heap_close(h);
}

TEST_TIMEOUT(random_operations_buddy, 600)
{
        against_model(WHARF_HEAP_BUDDY, 65536, 16, 0, operations(200000));
        against_model(WHARF_HEAP_BUDDY, 65536, 16, WHARF_HEAP_NO_CACHE | WHARF_HEAP_GUARD, operations(100000));
        against_model(WHARF_HEAP_BUDDY, 1000, 8, 0, operations(50000));
        against_model(WHARF_HEAP_BUDDY, 500000, 64, WHARF_HEAP_GUARD, operations(50000));
}

static void fit_against_model(uint32_t policy)
{
        against_model(policy, 65536, 0, 0, operations(100000));
        against_model(policy, 400000, 0, WHARF_HEAP_GUARD, operations(30000));
        against_model(policy, 777, 1, WHARF_HEAP_OUTSIDE, operations(50000));
        against_model(policy, 65536, 64, WHARF_HEAP_OUTSIDE | WHARF_HEAP_GUARD, operations(20000));
}

TEST_TIMEOUT(random_operations_first_fit, 600)
{
        fit_against_model(WHARF_HEAP_FIRST_FIT);
}

TEST_TIMEOUT(random_operations_next_fit, 600)
{
        fit_against_model(WHARF_HEAP_NEXT_FIT);
}

TEST_TIMEOUT(random_operations_best_fit, 600)
{
        fit_against_model(WHARF_HEAP_BEST_FIT);
}

TEST_TIMEOUT(random_operations_worst_fit, 600)
{
        fit_against_model(WHARF_HEAP_WORST_FIT);
}

TEST_TIMEOUT(random_operations_fixed, 600)
{
        against_model(WHARF_HEAP_FIXED, 65536, 8, 0, operations(100000));
        against_model(WHARF_HEAP_FIXED, 65536, 64, WHARF_HEAP_GUARD, operations(30000));
}

/* ---- which hole: compared with a look at every hole ---- */

struct holes {
        uint64_t need, first, best, worst;
        uint64_t offset[2000], bytes[2000];
        unsigned n;
};

static int look_at_holes(const struct wharf_block *b, void *arg)
{
        struct holes *o = arg;
        if (b->state != WHARF_BLOCK_FREE || b->bytes < o->need)
                return 0;
        o->first = o->first ? o->first : b->offset;
        o->best = b->bytes < o->best ? b->bytes : o->best;
        o->worst = b->bytes > o->worst ? b->bytes : o->worst;
        o->offset[o->n] = b->offset;
        o->bytes[o->n++] = b->bytes;
        return 0;
}

/* Goal: first fit takes the lowest hole that fits, best the shortest, worst the longest; never another. */
TEST_TIMEOUT(fit_policies_choose_exactly, 300)
{
        static struct holes o;
        for (uint32_t policy = WHARF_HEAP_FIRST_FIT; policy <= WHARF_HEAP_WORST_FIT; policy++) {
                wharf_heap *h = make_heap(policy, LEN / 2, 0, 0);
                uint64_t live[400];
                unsigned n = 0;
                for (unsigned op = 0; op < 6000; op++) {
                        if (n < 400 && test_random() % 5 < 3) {
                                uint64_t bytes = test_random() % 4 ? 1 + test_random() % 300 : 1 + test_random() % 9000;
                                o.need = wh_round_up(bytes + 8, 16);
                                o.first = o.worst = o.n = 0;
                                o.best = UINT64_MAX;
                                CHECK_EQ(wharf_heap_walk(h, look_at_holes, &o), 0);
                                int r = wharf_heap_alloc(h, bytes, 0, 0, 0, &live[n]);
                                CHECK_EQ(r, o.n ? 0 : -ENOMEM);
                                if (r < 0)
                                        continue;
                                unsigned i = 0;
                                while (i < o.n && o.offset[i] != live[n])
                                        i++;
                                CHECK(i < o.n);
                                if (policy == WHARF_HEAP_FIRST_FIT)
                                        CHECK_EQ(live[n], o.first);
                                if (policy == WHARF_HEAP_BEST_FIT)
                                        CHECK_EQ(o.bytes[i], o.best);
                                if (policy == WHARF_HEAP_WORST_FIT)
                                        CHECK_EQ(o.bytes[i], o.worst);
                                n++;
                        } else if (n) {
                                unsigned i = (unsigned)(test_random() % n);
                                CHECK_EQ(wharf_heap_free(h, live[i]), 0);
                                live[i] = live[--n];
                        }
                }
                wharf_heap_close(h);
        }
}

/* ---- misuse and damage ---- */

TEST(misuse_is_refused_and_told)
{
        for (uint32_t policy = 0; policy < WHARF_HEAP_POLICIES; policy++) {
                wharf_heap *h = make_heap(policy, 65536, 0, 0);
                uint64_t a = get(h, 100), b = get(h, 100), off;
                struct wharf_heap_fault f;
                CHECK_EQ(wharf_heap_alloc(h, 0, 0, 0, 0, &off), -EINVAL);
                CHECK_EQ(wharf_heap_alloc(h, 8, 3, 0, 0, &off), -EINVAL);
                CHECK_EQ(wharf_heap_alloc(h, 8, 8192, 0, 0, &off), -EINVAL);
                CHECK_EQ(wharf_heap_alloc(h, 8, 0, 64, 0, &off), -EINVAL);
                CHECK_EQ(wharf_heap_alloc(h, 65537, 0, 0, 0, &off), -E2BIG);
                CHECK_EQ(wharf_heap_alloc(h, UINT64_MAX, 0, 0, WHARF_FOREVER, &off), -E2BIG);
                static const uint64_t foreign[] = {0, 1, 64, LEN - 64, LEN, UINT64_MAX, UINT64_MAX - 15};
                for (unsigned i = 0; i < sizeof foreign / sizeof *foreign; i++) {
                        CHECK_EQ(wharf_heap_free(h, foreign[i]), -EFAULT);
                        wharf_heap_why(h, &f);
                        CHECK_EQ(f.kind, WHARF_FAULT_FOREIGN);
                        CHECK_EQ(f.offset, foreign[i]);
                }
                CHECK_EQ(wharf_heap_free(h, a + 16), -EFAULT);
                CHECK_EQ(wharf_heap_free(h, a + 1), -EFAULT);
                CHECK_EQ(wharf_heap_free(h, a), 0);
                CHECK_EQ(wharf_heap_free(h, a), -EALREADY);
                wharf_heap_why(h, &f);
                CHECK_EQ(f.kind, WHARF_FAULT_DOUBLE_FREE);
                CHECK_EQ(f.offset, a);
                CHECK_EQ(wharf_heap_resize(h, a, 10, 0, &off), -EALREADY);
                CHECK_EQ(wharf_heap_usable(h, a, &off), -EALREADY);
                CHECK_EQ(wharf_heap_give(h, a, 0), -EALREADY);
                CHECK_EQ(wharf_heap_give(h, b, 7), -ESRCH);
                CHECK_EQ(wharf_heap_give(h, b, 5000), -ESRCH);
                CHECK_EQ(wharf_heap_free(h, b), 0);
                CHECK_EQ(wharf_heap_free(h, b), -EALREADY);
                CHECK_EQ(wharf_heap_check(h), 0);
                wharf_heap_close(h);
        }
}

/* Goal: base and limit: what lies outside is never given an address, whatever the numbers. */
TEST(offsets_are_checked_against_the_limit)
{
        wharf_heap *h = make_heap(WHARF_HEAP_BUDDY, 65536, 0, 0);
        uint64_t a = get(h, 100), off, first = h->head.managed_at;
        char *p = wharf_heap_at(h, a, 100);
        CHECK(p != NULL);
        CHECK_EQ(wharf_heap_offset(h, p + 5, &off), 0);
        CHECK_EQ(off, a + 5);
        CHECK_EQ(wharf_heap_offset(h, &off, &off), -EFAULT);
        CHECK(wharf_heap_at(h, first, 65536) != NULL);
        CHECK(wharf_heap_at(h, first, 65537) == NULL);
        CHECK(wharf_heap_at(h, first - 1, 1) == NULL);
        CHECK(wharf_heap_at(h, first + 65536, 1) == NULL);
        CHECK(wharf_heap_at(h, first + 1, UINT64_MAX) == NULL);
        CHECK(wharf_heap_at(h, UINT64_MAX, 2) == NULL);
        wharf_heap_close(h);
}

TEST(overflow_is_told_with_offset_and_owner)
{
        for (uint32_t policy = 0; policy < WHARF_HEAP_POLICIES; policy++) {
                wharf_heap *h = make_heap(policy, 65536, 0, WHARF_HEAP_GUARD);
                uint64_t a = get(h, 100), b = get(h, 100), off, usable;
                CHECK_EQ(wharf_heap_usable(h, a, &usable), 0);
                CHECK_EQ(usable, 100);
                /* The guard is drawn at random: the byte that is written over it must be another. */
                unsigned char *p = wharf_heap_at(h, a, 101);
                p[100] ^= 0xff;
                CHECK_EQ(wharf_heap_free(h, a), -EUCLEAN);
                struct wharf_heap_fault f;
                wharf_heap_why(h, &f);
                CHECK_EQ(f.kind, WHARF_FAULT_OVERFLOW);
                CHECK_EQ(f.offset, a);
                CHECK_EQ(f.owner, wharf_heap_self(h));
                CHECK_EQ(f.owner_pid, getpid());
                CHECK_EQ(wharf_heap_resize(h, a, 200, 0, &off), -EUCLEAN);
                CHECK_EQ(wharf_heap_free(h, b), 0);
                wharf_heap_close(h);
                if (policy == WHARF_HEAP_BUDDY || policy == WHARF_HEAP_FIXED)
                        continue;
                /* Without a guard: the header of the next block is what an overflow meets. */
                h = make_heap(policy, 65536, 0, 0);
                a = get(h, 100);
                CHECK_EQ(wharf_heap_usable(h, a, &usable), 0);
                memset(wharf_heap_at(h, a, usable + 8), 'x', usable + 8);
                CHECK_EQ(wharf_heap_free(h, a), -EUCLEAN);
                wharf_heap_why(h, &f);
                CHECK_EQ(f.kind, WHARF_FAULT_OVERFLOW);
                CHECK_EQ(f.offset, a);
                CHECK_EQ(wharf_heap_check(h), -EUCLEAN);
                CHECK_EQ(wharf_heap_check(h), 0);
                wharf_heap_close(h);
        }
}

/* Goal: every bit of the head is sealed: a changed one is an error when the heap is opened, never a wrong heap. */
TEST(every_bit_of_the_head_counts)
{
        for (uint32_t policy = 0; policy < WHARF_HEAP_POLICIES; policy++) {
                char *m = test_shared(LEN);
                wharf_heap *h = make_at(m, LEN, opts(policy, 65536, 0, 0));
                uint64_t starts = h->head.starts_at, n = h->head.n_partitions, head = sizeof(struct heap_head);
                uint64_t needed = h->head.len_bytes;
                wharf_heap_close(h);
                for (uint64_t at = 0; at < head + (starts ? (n + 1) * 4 : 0); at++) {
                        char *byte = m + (at < head ? at : starts + at - head);
                        for (unsigned bit = 0; bit < 8; bit++) {
                                *byte ^= (char)(1 << bit);
                                wharf_heap *no = NULL;
                                int r = wharf_heap_open(m, LEN, &no);
                                CHECK(r == -EUCLEAN || r == -EPROTONOSUPPORT);
                                CHECK(no == NULL);
                                *byte ^= (char)(1 << bit);
                        }
                }
                CHECK_EQ(wharf_heap_open(m, needed - 1, &h), -EUCLEAN);
                CHECK_EQ(wharf_heap_open(m + 1, LEN - 1, &h), -EINVAL);
                CHECK_EQ(wharf_heap_open(m, 8, &h), -EUCLEAN);
                CHECK_EQ(wharf_heap_open(m, needed, &h), 0);
                wharf_heap_close(h);
        }
}

/* Goal: a changed bit in a block's header is answered by -EUCLEAN, and check takes the block out of use. */
TEST(every_bit_of_a_tag_counts)
{
        for (uint32_t policy = 0; policy < WHARF_HEAP_POLICIES; policy++) {
                wharf_heap *h = make_heap(policy, 65536, 0, WHARF_HEAP_NO_CACHE);
                get(h, 100);
                uint64_t b = get(h, 100);
                get(h, 100);
                uint64_t *tag = NULL;
                for (uint32_t u = 0; u < h->n_tags && !tag; u++)
                        if (h->head.managed_at + heap_start(h, u) == b)
                                tag = (uint64_t *)heap_tag_at(h, u);
                CHECK(tag != NULL);
                for (unsigned bit = 0; bit < 64; bit++) {
                        *tag ^= (uint64_t)1 << bit;
                        CHECK_EQ(wharf_heap_free(h, b), -EUCLEAN);
                        struct wharf_heap_fault f;
                        wharf_heap_why(h, &f);
                        CHECK_EQ(f.kind, WHARF_FAULT_HEADER);
                        CHECK_EQ(f.offset, b);
                        *tag ^= (uint64_t)1 << bit;
                }
                *tag ^= test_random() | 1;
                CHECK_EQ(wharf_heap_check(h), -EUCLEAN);
                CHECK_EQ(wharf_heap_check(h), 0);
                struct wharf_heap_figures f = figures(h);
                CHECK_GE(f.damaged_blocks, 1);
                CHECK_EQ(f.used_blocks - f.damaged_blocks, 2);
                wharf_heap_close(h);
        }
}

/*
 * Goal:   whatever is written over the memory of a heap, no call crashes, hangs, or touches memory outside.
 * Method: random words over random places, between two pages that may not be touched; then use it for a while.
 */
TEST_TIMEOUT(garbage_never_leads_outside, 300)
{
        enum { SMALL = 32768 };
        for (unsigned round = 0; round < operations(600); round++) {
                uint32_t policy = round % WHARF_HEAP_POLICIES;
                char *fence = mmap(NULL, SMALL + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                CHECK(fence != MAP_FAILED);
                char *m = mmap(fence + 4096, SMALL, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_SHARED | MAP_ANONYMOUS, -1,
                               0);
                CHECK(m == fence + 4096);
                uint32_t flags = round & 8 ? WHARF_HEAP_GUARD : 0;
                wharf_heap *h = make_at(m, SMALL, opts(policy, 8192, 0, flags));
                uint64_t live[32] = {0}, managed = h->head.managed_at, off;
                for (unsigned i = 0; i < 400; i++) {
                        if (i % 8 == 0) {
                                /* The lock's own word is left alone: garbage there may name a live process. */
                                uint64_t at = (uint64_t)((char *)h->live - m) + sizeof(struct wh_mutex);
                                uint64_t end = round & 16 ? SMALL : managed;
                                at += test_random() % (end - at - 8);
                                uint64_t v = test_random() >> (test_random() % 64);
                                memcpy(m + at, &v, 1 + test_random() % 8);
                        }
                        uint64_t *slot = &live[test_random() % 32];
                        if (*slot)
                                wharf_heap_free(h, *slot);
                        *slot = 0;
                        if (test_random() % 2 && wharf_heap_alloc(h, 1 + test_random() % 600, 0, 0, 0, &off) == 0) {
                                CHECK(wharf_heap_at(h, off, 1) != NULL);
                                *slot = off;
                        }
                        if (i % 64 == 0) {
                                struct wharf_heap_figures f;
                                CHECK_EQ(wharf_heap_figures(h, &f), 0);
                                wharf_heap_check(h);
                        }
                        if (i % 100 == 0)
                                CHECK_GE(wharf_heap_reclaim(h, NULL, NULL), 0);
                }
                wharf_heap_check(h);
                CHECK_EQ(wharf_heap_check(h), 0);
                wharf_heap_close(h);
                munmap(fence, SMALL + 8192);
        }
}

static uint64_t sum_of(const char *m, uint64_t n)
{
        uint64_t sum = 0;
        for (uint64_t i = 0; i < n; i++)
                sum = sum * 31 + (uint8_t)m[i];
        return sum;
}

/* Goal: exhaustion is a clear error, and every block is as it was. */
TEST(exhaustion_changes_nothing)
{
        for (uint32_t policy = 0; policy < WHARF_HEAP_POLICIES; policy++) {
                wharf_heap *h = make_heap(policy, 65536, 0, 0);
                uint64_t off, last, n = 0, from = h->head.tags_at, len = h->head.len_bytes - from;
                while (wharf_heap_alloc(h, 100, 0, 0, 0, &off) == 0)
                        n++;
                CHECK_GE(n, 30);
                last = off;
                uint64_t sum = sum_of(h->base + from, len);
                CHECK_EQ(wharf_heap_alloc(h, 100, 0, 0, 0, &off), -ENOMEM);
                CHECK_EQ(wharf_heap_alloc(h, 100, 0, 0, in_ms(2), &off), -ETIMEDOUT);
                CHECK_EQ(wharf_heap_resize(h, last, 60000, 0, &off), policy == WHARF_HEAP_FIXED ? -E2BIG : -ENOMEM);
                CHECK_EQ(off, last);
                CHECK_EQ(sum_of(h->base + from, len), sum);
                struct wharf_heap_figures f = figures(h);
                CHECK_EQ(f.used_blocks, n);
                CHECK_EQ(f.waiting, 0);
                wharf_heap_close(h);
        }
}

TEST(resize_in_place_where_possible)
{
        for (uint32_t policy = 0; policy < WHARF_HEAP_FIXED; policy++) {
                wharf_heap *h = make_heap(policy, 65536, 0, 0);
                uint64_t a = get(h, 1000), off;
                memset(wharf_heap_at(h, a, 1000), 'a', 1000);
                CHECK_EQ(wharf_heap_resize(h, a, 4000, WHARF_ALLOC_ZERO, &off), 0);
                CHECK_EQ(off, a);
                char *p = wharf_heap_at(h, a, 4000);
                CHECK(p[999] == 'a' && p[1000] == 0 && p[3999] == 0);
                CHECK_EQ(wharf_heap_resize(h, a, 50, 0, &off), 0);
                CHECK_EQ(off, a);
                uint64_t b = get(h, 50);
                CHECK_EQ(wharf_heap_resize(h, a, 3000, WHARF_ALLOC_ZERO, &off), 0);
                CHECK_NE(off, a);
                p = wharf_heap_at(h, off, 3000);
                CHECK(p[49] == 'a' && p[50] == 0 && p[2999] == 0);
                CHECK_EQ(wharf_heap_free(h, off), 0);
                CHECK_EQ(wharf_heap_free(h, b), 0);
                CHECK_EQ(figures(h).used_bytes, 0);
                CHECK_EQ(wharf_heap_check(h), 0);
                wharf_heap_close(h);
        }
}

TEST(roots_are_kept)
{
        wharf_heap *h = make_heap(WHARF_HEAP_BUDDY, 65536, 0, 0), *other;
        uint64_t off;
        CHECK_EQ(wharf_heap_root(h, 0, &off), 0);
        CHECK_EQ(off, 0);
        CHECK_EQ(wharf_heap_root_set(h, 7, 0, 4711), 0);
        CHECK_EQ(wharf_heap_root_set(h, 7, 0, 1), -EAGAIN);
        CHECK_EQ(wharf_heap_root_set(h, 8, 0, 1), -EINVAL);
        CHECK_EQ(wharf_heap_open(h->base, LEN, &other), 0);
        CHECK_EQ(wharf_heap_root(other, 7, &off), 0);
        CHECK_EQ(off, 4711);
        CHECK_NE(wharf_heap_self(h), wharf_heap_self(other));
        wharf_heap_close(other);
        wharf_heap_close(h);
}

/*
 * Goal:   a tag that says fewer bytes than what stands beside the bytes takes is damage, and nothing is read before the block.
 * Method: a party of the heap stores a tag with a check that holds, and a guard where that says that it is.
 */
TEST(a_block_smaller_than_its_guard_is_damage)
{
        enum { SLACK = 64 };
        wharf_heap *h =
                make_heap(WHARF_HEAP_BUDDY, 65536, 1, WHARF_HEAP_GUARD | WHARF_HEAP_OUTSIDE | WHARF_HEAP_NO_CACHE);
        uint64_t off, to;
        struct tag t;
        CHECK_EQ(wharf_heap_alloc(h, 100, 0, 0, 0, &to), 0);
        CHECK_EQ(wharf_heap_alloc(h, 100, 0, 0, 0, &off), 0);
        off = off > to ? off : to; /* there is something before it */
        const uint32_t u = (uint32_t)(off - h->head.managed_at);
        CHECK(heap_tag_load(h, u, &t));
        /* A guard where such a block would have it: before itself. */
        const uint64_t at = h->head.managed_at + u + 1 - 8 - SLACK;
        const uint64_t guard = h->head.cookie ^ (at * UINT64_C(0x9e3779b97f4a7c15));
        memcpy(h->base + at, &guard, sizeof guard);
        heap_tag_store(h, u, SLACK, t.owner, TAG_USED, 0);
        CHECK_EQ(wharf_heap_resize(h, off, 50000, 0, &to), -EUCLEAN);
        CHECK_EQ(wharf_heap_free(h, off), -EUCLEAN);
        wharf_heap_close(h);
}
