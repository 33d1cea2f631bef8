#include "memory/buddy.h"

uint64_t wh_buddy_bookkeeping_bytes(uint32_t units)
{
        if (!units || units > WH_FREEMAP_UNITS_MAX)
                return 0;
        return wh_freemap_words(units) * sizeof(uint64_t) + wh_round_up(units, sizeof(uint64_t));
}

void wh_buddy_init(struct wh_buddy *b, void *bookkeeping, uint32_t units)
{
        *b = (struct wh_buddy){.tag = (uint8_t *)bookkeeping + wh_freemap_words(units) * sizeof(uint64_t)};
        wh_freemap_init(&b->map, units, bookkeeping);
        wh_freemap_clear(&b->map);
        wh_freemap_give_range(&b->map, 0, units);
        memset(b->tag, 0, units);
        /* The lists together hold back at most an eighth: 16 blocks of each order below this one. */
        b->lazy_orders = b->map.n_orders > 8 ? b->map.n_orders - 8 : 0;
}

static void lazy_give(struct wh_buddy *b, uint32_t order, uint32_t keep)
{
        uint32_t n = b->n_lazy[order] - keep;
        /* The oldest go; the newest, which are still in the cores' caches, stay. */
        for (uint32_t i = 0; i < n; i++)
                wh_freemap_give(&b->map, b->lazy[order][i], order);
        memmove(b->lazy[order], b->lazy[order] + n, keep * sizeof(uint32_t));
        b->n_lazy[order] = (uint8_t)keep;
        b->lazy_units -= n << order;
}

void wh_buddy_trim(struct wh_buddy *b)
{
        for (uint32_t k = 0; b->lazy_units && k < b->lazy_orders; k++)
                if (b->n_lazy[k])
                        lazy_give(b, k, 0);
}

int wh_buddy_largest_free(struct wh_buddy *b)
{
        wh_buddy_trim(b);
        return wh_freemap_largest(&b->map);
}

int64_t wh_buddy_alloc_slow(struct wh_buddy *b, uint32_t order)
{
        uint32_t u = wh_freemap_take(&b->map, order, NULL);
        if (u == WH_FREEMAP_NONE && b->lazy_units) {
                wh_buddy_trim(b);
                u = wh_freemap_take(&b->map, order, NULL);
        }
        if (u == WH_FREEMAP_NONE)
                return -ENOMEM;
        b->tag[u] = (uint8_t)(WH_BUDDY_TAG_USED | order);
        b->used_units += (uint32_t)1 << order;
        return u;
}

void wh_buddy_free_slow(struct wh_buddy *b, uint32_t unit, uint32_t order)
{
        if (order < b->lazy_orders) {
                lazy_give(b, order, WH_BUDDY_LAZY / 2);
                b->lazy[order][b->n_lazy[order]++] = unit;
                b->lazy_units += (uint32_t)1 << order;
                return;
        }
        wh_freemap_give(&b->map, unit, order);
}
