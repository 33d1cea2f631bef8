#include "memory/buddy.h"
#include "test.h"

/* Goal: first, next and previous agree with a plain array, for sizes around the words' edges. */
TEST(bitset_agrees_with_a_plain_array)
{
        static const uint64_t sizes[] = {1, 63, 64, 65, 4095, 4096, 4097, 300000};
        for (unsigned s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                uint64_t n = sizes[s];
                uint64_t *words = calloc(wh_bitset_words(n), 8);
                bool *model = calloc(n, 1);
                struct wh_bitset set;
                wh_bitset_init(&set, n, words);
                for (unsigned op = 0; op < 20000; op++) {
                        uint64_t i = test_random() % n;
                        model[i] = test_random() % 4 == 0;
                        if (model[i])
                                wh_bitset_insert(&set, i);
                        else
                                wh_bitset_remove(&set, i);
                        uint64_t j = test_random() % n, up = j, down = j;
                        while (up < n && !model[up])
                                up++;
                        while (down != UINT64_MAX && !model[down])
                                down--;
                        CHECK_EQ(wh_bitset_next(&set, j), up < n ? up : WH_BITSET_NONE);
                        CHECK_EQ(wh_bitset_prev(&set, j), down);
                        CHECK_EQ(wh_bitset_has(&set, j), model[j]);
                        CHECK_EQ(wh_bitset_first(&set), wh_bitset_next(&set, 0));
                        if (n > 5000 && op > 2000)
                                break;
                }
                free(words);
                free(model);
        }
}

/* Goal: whatever is written over the words, answers stay inside. */
TEST(freemap_never_answers_outside)
{
        for (unsigned round = 0; round < 2000; round++) {
                uint32_t units = 1 + (uint32_t)(test_random() % 300);
                uint64_t n_words = wh_freemap_words(units);
                uint64_t *words = calloc(n_words, 8);
                struct wh_freemap m;
                wh_freemap_init(&m, units, words);
                wh_freemap_give_range(&m, 0, units);
                for (unsigned i = 0; i < 8; i++) {
                        words[test_random() % n_words] = test_random();
                        uint32_t order = (uint32_t)(test_random() % 34);
                        uint32_t u = wh_freemap_take(&m, order, NULL);
                        CHECK(u == WH_FREEMAP_NONE || wh_inside(u, (uint64_t)1 << order, units));
                        if (u != WH_FREEMAP_NONE)
                                wh_freemap_give(&m, u, order);
                }
                free(words);
        }
}

static int64_t brute_largest(const uint8_t *used, uint32_t units)
{
        int64_t best = -1;
        for (uint32_t k = 0; (uint64_t)1 << k <= units; k++)
                for (uint32_t at = 0; at + ((uint64_t)1 << k) <= units; at += (uint32_t)1 << k)
                        if (!memchr(used + at, 1, (size_t)1 << k))
                                best = k;
        return best;
}

/* Goal: no overlap, natural alignment, nothing lost, and everything free is one block again. */
TEST(buddy_agrees_with_a_naive_model)
{
        enum { UNITS = 512, LIVE = 300 };
        for (unsigned round = 0; round < 20; round++) {
                uint32_t units = round ? 1 + (uint32_t)(test_random() % UNITS) : UNITS;
                void *book = malloc(wh_buddy_bookkeeping_bytes(units));
                struct wh_buddy b;
                wh_buddy_init(&b, book, units);
                uint8_t used[UNITS] = {0};
                struct {
                        uint32_t u, order;
                } live[LIVE];
                unsigned n = 0;
                uint64_t sum = 0;
                for (unsigned op = 0; op < 10000; op++) {
                        uint32_t order = (uint32_t)(test_random() % 7);
                        if (n < LIVE && test_random() % 2) {
                                int64_t u = wh_buddy_alloc(&b, order);
                                if (u < 0) {
                                        CHECK_EQ(u, -ENOMEM);
                                        CHECK(brute_largest(used, units) < (int)order);
                                        continue;
                                }
                                CHECK(wh_inside((uint64_t)u, (uint64_t)1 << order, units));
                                CHECK_EQ(u & ((1 << order) - 1), 0);
                                CHECK(!memchr(used + u, 1, (size_t)1 << order));
                                memset(used + u, 1, (size_t)1 << order);
                                live[n].u = (uint32_t)u;
                                live[n++].order = order;
                                sum += (uint64_t)1 << order;
                        } else if (n) {
                                unsigned i = (unsigned)(test_random() % n);
                                CHECK_EQ(wh_buddy_order_of(&b, live[i].u), live[i].order);
                                CHECK_EQ(wh_buddy_free(&b, live[i].u), 0);
                                CHECK_EQ(wh_buddy_free(&b, live[i].u), -EALREADY);
                                memset(used + live[i].u, 0, (size_t)1 << live[i].order);
                                sum -= (uint64_t)1 << live[i].order;
                                live[i] = live[--n];
                        }
                        CHECK_EQ(b.used_units, sum);
                        if (op % 64 == 0)
                                CHECK_EQ(wh_buddy_largest_free(&b), brute_largest(used, units));
                }
                while (n)
                        CHECK_EQ(wh_buddy_free(&b, live[--n].u), 0);
                CHECK_EQ(wh_buddy_largest_free(&b), wh_log2_floor(units));
                CHECK_EQ(b.lazy_units, 0);
                free(book);
        }
}

TEST(buddy_refuses_what_is_no_block)
{
        void *book = malloc(wh_buddy_bookkeeping_bytes(64));
        struct wh_buddy b;
        wh_buddy_init(&b, book, 64);
        CHECK_EQ(wh_buddy_free(&b, 0), -EFAULT);
        CHECK_EQ(wh_buddy_alloc(&b, 6), 0);
        CHECK_EQ(wh_buddy_alloc(&b, 0), -ENOMEM);
        CHECK_EQ(wh_buddy_alloc(&b, 7), -ENOMEM);
        volatile uint32_t absurd = 40; /* volatile: or the compiler, not the code, finds out */
        CHECK_EQ(wh_buddy_alloc(&b, absurd), -ENOMEM);
        CHECK_EQ(wh_buddy_free(&b, 1), -EFAULT);
        CHECK_EQ(wh_buddy_free(&b, 64), -EFAULT);
        CHECK_EQ(wh_buddy_free(&b, UINT32_MAX), -EFAULT);
        CHECK_EQ(wh_buddy_free(&b, 0), 0);
        CHECK_EQ(wh_buddy_free(&b, 0), -EALREADY);
        CHECK_EQ(wh_buddy_bookkeeping_bytes(0), 0);
        CHECK_EQ(wh_buddy_bookkeeping_bytes(UINT32_MAX), 0);
        free(book);
}
