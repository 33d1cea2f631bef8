#include "memory/freemap.h"

static uint32_t orders_of(uint32_t units)
{
        return wh_log2_floor(units) + 1;
}

uint64_t wh_freemap_words(uint32_t units)
{
        uint64_t words = 1;
        for (uint32_t k = 0; k < orders_of(units); k++)
                words += wh_bitset_words(units >> k);
        return words;
}

void wh_freemap_init(struct wh_freemap *m, uint32_t units, uint64_t *words)
{
        *m = (struct wh_freemap){.orders = words++, .units = units, .n_orders = orders_of(units)};
        for (uint32_t k = 0; k < m->n_orders; k++) {
                wh_bitset_init(&m->set[k], units >> k, words);
                words += wh_bitset_words(units >> k);
        }
}

void wh_freemap_clear(struct wh_freemap *m)
{
        memset(m->orders, 0, wh_freemap_words(m->units) * sizeof(uint64_t));
}

void wh_freemap_give_range(struct wh_freemap *m, uint32_t unit, uint32_t n)
{
        while (n) {
                /* The largest block that may begin here and does not reach beyond the end. */
                uint32_t order = wh_log2_floor(n);
                if (unit && (uint32_t)__builtin_ctz(unit) < order)
                        order = (uint32_t)__builtin_ctz(unit);
                wh_freemap_give(m, unit, order);
                unit += (uint32_t)1 << order;
                n -= (uint32_t)1 << order;
        }
}
