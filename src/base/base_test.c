#include "base/bits.h"
#include "base/list.h"
#include "base/opts.h"
#include "test.h"

TEST(powers_of_two)
{
        CHECK(!wh_is_pow2(0));
        CHECK(wh_is_pow2(1) && wh_is_pow2(64) && !wh_is_pow2(65));
        CHECK_EQ(wh_log2_ceil(1), 0);
        CHECK_EQ(wh_log2_ceil(65), 7);
        CHECK_EQ(wh_log2_floor(127), 6);
        CHECK_EQ(wh_pow2_ceil(100), 128);
        CHECK_EQ(wh_round_up(65, 64), 128);
}

/* Goal: an offset and a length that another process chose never pass when they leave the limit, even by wrapping. */
TEST(inside_is_safe_for_any_numbers)
{
        CHECK(wh_inside(0, 0, 0));
        CHECK(wh_inside(10, 90, 100));
        CHECK(!wh_inside(10, 91, 100));
        CHECK(!wh_inside(UINT64_MAX, 2, 100));
        CHECK(!wh_inside(50, UINT64_MAX, 100));
        CHECK(!wh_inside(101, 0, 100));
        uint64_t sum = 7;
        CHECK(!wh_add(UINT64_MAX, 1, &sum));
        CHECK_EQ(sum, 7);
}

/* Goal: options of an earlier and of a later header are taken, and nothing that we do not know is passed over. */
TEST(options_of_every_size)
{
        const uint8_t given[12] = {[0] = 12, [4] = 2, [7] = 3};
        uint8_t ours[8];
        for (uint32_t size = 0; size <= sizeof given; size++) {
                memset(ours, 0, sizeof ours);
                CHECK_EQ(wh_opts_take(ours, sizeof ours, 4, given, size), size >= 4);
                CHECK_EQ(ours[0], size >= 4 ? 12 : 0);
                CHECK_EQ(ours[4], size > 4 ? 2 : 0);
                CHECK_EQ(ours[7], size > 7 ? 3 : 0);
        }
        const uint8_t more[12] = {[11] = 1};
        CHECK(wh_opts_take(ours, sizeof ours, 4, more, 11));
        CHECK(!wh_opts_take(ours, sizeof ours, 4, more, 12));
        CHECK(!wh_opts_take(ours, sizeof ours, 4, given, UINT32_MAX));
}

TEST(list_order_and_double_removal)
{
        struct wh_list head, a, b, c;
        wh_list_init(&head);
        CHECK(wh_list_empty(&head));
        wh_list_push_back(&head, &a);
        wh_list_push_back(&head, &b);
        wh_list_push_front(&head, &c);
        wh_list_remove(&a);
        wh_list_remove(&a);
        CHECK(!wh_list_linked(&a));
        CHECK(wh_list_pop_front(&head) == &c);
        CHECK(wh_list_pop_front(&head) == &b);
        CHECK(wh_list_pop_front(&head) == NULL);
}
