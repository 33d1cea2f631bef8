/*
 * heap_fit - first, next, best and worst fit: holes of any length, split on demand, merged with both neighbours.
 *
 * True: the chain of tags. From unit 0, each tag says how long its block is, and the next tag lies right behind it.
 * Derived, and only ever a hint that is checked against the tags:
 *
 *      heads              a bitmap: a block, used or free, begins at this unit; finds the neighbour below, and tells
 *                         the offset of a block from any other
 *      holes              a bitmap: a hole begins at this unit (first and next fit)
 *      bin[n], bins_used  lists of the holes of n units, n < HEAP_BINS, and a bitmap of those not empty
 *      tree               the longer holes, ordered by length and then place (best and worst fit). A treap (Seidel and
 *                         Aragon 1996): its shape is that of a tree built in random order, because the priority of a
 *                         hole is a hash of its place; so all steps are O(log n) with nothing to balance
 *
 * The two links of a hole lie in the hole itself (headers inside) or in a table (outside). Users write the same pages,
 * so a link may be anything: each is checked to be the head of a hole before it is followed (link_hole()); when one is
 * not, the caller gets -EUCLEAN, and heap.c rebuilds and tries again.
 */
#include "memory/heap_impl.h"

#include <errno.h>

struct node {
        uint32_t a, b; /* bins: next, previous; tree: shorter, longer. Unit + 1; 0 is none */
};

static struct node *node_at(struct wharf_heap *h, uint32_t u)
{
        return (struct node *)(void *)(h->nodes + (uint64_t)u * h->node_stride);
}

static bool by_address(const struct wharf_heap *h)
{
        return h->head.policy == WHARF_HEAP_FIRST_FIT || h->head.policy == WHARF_HEAP_NEXT_FIT;
}

/* Follows a link from shared memory. False: it does not lead to a hole. */
static bool link_hole(struct wharf_heap *h, uint32_t link, uint32_t *ret_u, uint32_t *ret_n)
{
        struct tag t;
        uint32_t u = link - 1;
        if (u >= h->head.units || !wh_bitset_has(&h->heads, u) || !heap_tag_load(h, u, &t) || t.state != TAG_FREE ||
            !t.value || !wh_inside(u, t.value, h->head.units))
                return false;
        *ret_u = u;
        *ret_n = t.value;
        return true;
}

/* ---- the tree of long holes ---- */

static uint32_t priority(uint32_t u)
{
        uint32_t x = (u + 1) * 0x9e3779b1u;
        x ^= x >> 15;
        return x * 0x85ebca77u;
}

static bool before(uint32_t n, uint32_t u, uint32_t other_n, uint32_t other_u)
{
        return n != other_n ? n < other_n : u < other_u;
}

/* More steps than any path of a tree with 2^31 random priorities will ever have: then it is a cycle. */
#define TREE_STEPS 400

/* Splits the tree below `link` into what comes before (n, u) and what comes after, hung at *l and *r. */
static int tree_split(struct wharf_heap *h, uint32_t link, uint32_t n, uint32_t u, uint32_t *l, uint32_t *r)
{
        for (unsigned steps = 0; link; steps++) {
                uint32_t at, at_n;
                if (steps > TREE_STEPS || !link_hole(h, link, &at, &at_n))
                        return -EUCLEAN;
                struct node *node = node_at(h, at);
                if (before(at_n, at, n, u)) {
                        *l = link;
                        l = &node->b;
                        link = *l;
                } else {
                        *r = link;
                        r = &node->a;
                        link = *r;
                }
        }
        *l = *r = 0;
        return 0;
}

static int tree_insert(struct wharf_heap *h, uint32_t u, uint32_t n)
{
        uint32_t *from = &h->live->tree, p = priority(u);
        for (unsigned steps = 0; *from; steps++) {
                uint32_t at, at_n;
                if (steps > TREE_STEPS || !link_hole(h, *from, &at, &at_n))
                        return -EUCLEAN;
                if (priority(at) < p)
                        break;
                from = before(at_n, at, n, u) ? &node_at(h, at)->b : &node_at(h, at)->a;
        }
        uint32_t below = *from;
        *from = u + 1;
        struct node *node = node_at(h, u);
        return tree_split(h, below, n, u, &node->a, &node->b);
}

static int tree_remove(struct wharf_heap *h, uint32_t u, uint32_t n)
{
        uint32_t *from = &h->live->tree;
        for (unsigned steps = 0; *from != u + 1; steps++) {
                uint32_t at, at_n;
                if (steps > TREE_STEPS || !link_hole(h, *from, &at, &at_n))
                        return -EUCLEAN;
                from = before(at_n, at, n, u) ? &node_at(h, at)->b : &node_at(h, at)->a;
        }
        /* Join what hung below it: the higher priority goes up, step by step. */
        uint32_t a = node_at(h, u)->a, b = node_at(h, u)->b;
        for (unsigned steps = 0; a && b; steps++) {
                uint32_t ua, ub, len;
                if (steps > TREE_STEPS || !link_hole(h, a, &ua, &len) || !link_hole(h, b, &ub, &len))
                        return -EUCLEAN;
                if (priority(ua) >= priority(ub)) {
                        *from = a;
                        from = &node_at(h, ua)->b;
                        a = *from;
                } else {
                        *from = b;
                        from = &node_at(h, ub)->a;
                        b = *from;
                }
        }
        *from = a ? a : b;
        return 0;
}

/* The shortest hole of at least n units; n == UINT32_MAX asks for the longest of all. 0, -ENOMEM or -EUCLEAN. */
static int tree_find(struct wharf_heap *h, uint32_t n, uint32_t *ret_u, uint32_t *ret_n, uint64_t *searches)
{
        uint32_t link = h->live->tree, at, at_n, found = 0;
        for (unsigned steps = 0; link; steps++) {
                if (steps > TREE_STEPS || !link_hole(h, link, &at, &at_n))
                        return -EUCLEAN;
                ++*searches;
                if (n == UINT32_MAX || at_n >= n) {
                        found = link;
                        link = n == UINT32_MAX ? node_at(h, at)->b : node_at(h, at)->a;
                } else {
                        link = node_at(h, at)->b;
                }
        }
        if (!found)
                return -ENOMEM;
        return link_hole(h, found, ret_u, ret_n) ? 0 : -EUCLEAN;
}

/* ---- the lists of short holes ---- */

static void bin_insert(struct wharf_heap *h, uint32_t u, uint32_t n)
{
        uint32_t first = h->live->bin[n], next, next_n;
        *node_at(h, u) = (struct node){first, 0};
        /* A link that leads nowhere is noticed by whoever takes from this list. */
        if (first && link_hole(h, first, &next, &next_n))
                node_at(h, next)->b = u + 1;
        h->live->bin[n] = u + 1;
        h->live->bins_used[n / 64] |= (uint64_t)1 << (n % 64);
}

static int bin_remove(struct wharf_heap *h, uint32_t u, uint32_t n)
{
        struct node node = *node_at(h, u);
        uint32_t next = 0, prev = 0, len;
        if ((node.a && (!link_hole(h, node.a, &next, &len) || len != n || node_at(h, next)->b != u + 1)) ||
            (node.b && (!link_hole(h, node.b, &prev, &len) || len != n || node_at(h, prev)->a != u + 1)) ||
            (!node.b && h->live->bin[n] != u + 1))
                return -EUCLEAN;
        if (node.a)
                node_at(h, next)->b = node.b;
        if (node.b)
                node_at(h, prev)->a = node.a;
        else
                h->live->bin[n] = node.a;
        if (!h->live->bin[n])
                h->live->bins_used[n / 64] &= ~((uint64_t)1 << (n % 64));
        return 0;
}

/* The shortest list, of at least n, that is not empty; or the longest of all. HEAP_BINS when there is none. */
static uint32_t bin_find(struct wharf_heap *h, uint32_t n, bool longest)
{
        if (longest) {
                for (uint32_t w = HEAP_BINS / 64; w-- > 0;) {
                        const uint64_t bits = *(volatile const uint64_t *)&h->live->bins_used[w]; /* once (H5) */
                        if (bits)
                                return w * 64 + wh_log2_floor(bits);
                }
                return HEAP_BINS;
        }
        for (uint32_t w = n / 64; w < HEAP_BINS / 64; w++) {
                uint64_t bits = h->live->bins_used[w] & (w == n / 64 ? ~(uint64_t)0 << (n % 64) : ~(uint64_t)0);
                if (bits)
                        return w * 64 + (uint32_t)__builtin_ctzll(bits);
        }
        return HEAP_BINS;
}

/* ---- the index as a whole ---- */

static int index_insert(struct wharf_heap *h, uint32_t u, uint32_t n)
{
        if (by_address(h)) {
                wh_bitset_insert(&h->holes, u);
                return 0;
        }
        if (n >= HEAP_BINS)
                return tree_insert(h, u, n);
        bin_insert(h, u, n);
        return 0;
}

static int index_remove(struct wharf_heap *h, uint32_t u, uint32_t n)
{
        if (by_address(h)) {
                wh_bitset_remove(&h->holes, u);
                return 0;
        }
        return n >= HEAP_BINS ? tree_remove(h, u, n) : bin_remove(h, u, n);
}

/* The first unit in the hole at which a block of the wanted alignment may begin. */
static uint32_t aligned_up(uint32_t u, uint32_t align_units)
{
        return (u + align_units - 1) & ~(align_units - 1);
}

static bool hole_fits(uint32_t u, uint32_t hole_n, uint32_t n, uint32_t align_units)
{
        uint64_t front = aligned_up(u, align_units) - u;
        return front + n <= hole_n;
}

/* First and next fit: in the order of addresses from unit `from`, once around. */
static int find_by_address(struct wharf_heap *h, uint32_t from, uint32_t n, uint32_t align_units, uint32_t *ret_u,
                           uint32_t *ret_n, uint64_t *searches)
{
        uint64_t at = from;
        for (unsigned round = 0; round < (from ? 2 : 1); round++, at = 0) {
                while ((at = wh_bitset_next(&h->holes, at)) != WH_BITSET_NONE && (!round || at < from)) {
                        if (!link_hole(h, (uint32_t)at + 1, ret_u, ret_n))
                                return -EUCLEAN;
                        ++*searches;
                        if (hole_fits(*ret_u, *ret_n, n, align_units))
                                return 0;
                        at++;
                }
        }
        return -ENOMEM;
}

static int find_by_length(struct wharf_heap *h, uint32_t n, bool longest, uint32_t *ret_u, uint32_t *ret_n,
                          uint64_t *searches)
{
        int r = -ENOMEM;
        uint32_t bin;
        if (longest) {
                r = tree_find(h, UINT32_MAX, ret_u, ret_n, searches);
                if (r != -ENOMEM)
                        return r;
                bin = bin_find(h, 0, true);
        } else {
                bin = n < HEAP_BINS ? bin_find(h, n, false) : HEAP_BINS;
                if (bin == HEAP_BINS)
                        return tree_find(h, n, ret_u, ret_n, searches);
        }
        ++*searches;
        if (bin == HEAP_BINS)
                return -ENOMEM;
        return link_hole(h, h->live->bin[bin], ret_u, ret_n) && *ret_n == bin ? 0 : -EUCLEAN;
}

/* Any hole in which an aligned block fits: the last resort of best and worst fit. */
static int find_any(struct wharf_heap *h, uint32_t n, uint32_t align_units, uint32_t *ret_u, uint32_t *ret_n,
                    uint64_t *searches)
{
        for (uint64_t u = 0; (u = wh_bitset_next(&h->heads, u)) != WH_BITSET_NONE; u++) {
                struct tag t;
                if (!heap_tag_load(h, (uint32_t)u, &t) || t.state != TAG_FREE || !wh_inside(u, t.value, h->head.units))
                        continue;
                ++*searches;
                if (hole_fits((uint32_t)u, t.value, n, align_units)) {
                        *ret_u = (uint32_t)u;
                        *ret_n = t.value;
                        return 0;
                }
        }
        return -ENOMEM;
}

static int find(struct wharf_heap *h, uint32_t n, uint32_t align_units, uint32_t *ret_u, uint32_t *ret_n,
                uint64_t *searches)
{
        if (by_address(h)) {
                uint32_t from = h->head.policy == WHARF_HEAP_NEXT_FIT ? h->live->rover : 0;
                return find_by_address(h, from < h->head.units ? from : 0, n, align_units, ret_u, ret_n, searches);
        }
        bool longest = h->head.policy == WHARF_HEAP_WORST_FIT;
        uint64_t wanted = (uint64_t)n + align_units - 1; /* so long a hole serves wherever it begins */
        int r = -ENOMEM;
        if (wanted <= h->head.units)
                r = find_by_length(h, (uint32_t)wanted, longest, ret_u, ret_n, searches);
        if (r == 0 && !hole_fits(*ret_u, *ret_n, n, align_units))
                r = -ENOMEM; /* the longest is too short */
        if (r == -ENOMEM && align_units > 1)
                r = find_any(h, n, align_units, ret_u, ret_n, searches);
        return r;
}

static uint32_t slack_of(struct wharf_heap *h, uint32_t n, uint64_t bytes)
{
        uint64_t slack = heap_payload(h, n) - bytes;
        return slack < 63 ? (uint32_t)slack : 63;
}

static int fit_take(struct wharf_heap *h, uint64_t bytes, uint64_t align, uint32_t owner, uint32_t state,
                    uint32_t *ret_u)
{
        uint32_t n = heap_units_for(h, bytes), hole, hole_n;
        uint32_t align_units = align > heap_unit_bytes(h) ? (uint32_t)(align >> h->head.unit_log2) : 1;
        uint64_t searches = 0;
        int r = find(h, n, align_units, &hole, &hole_n, &searches);
        heap_bump(&h->mine->searches, searches);
        if (r < 0 || (r = index_remove(h, hole, hole_n)) < 0)
                return r;

        /* heap_impl.H1: the tags behind first, where no chain leads yet; then the one store that makes all of it so. */
        uint32_t u = aligned_up(hole, align_units), front = u - hole, rest = hole_n - front - n;
        if (rest)
                heap_tag_store(h, u + n, rest, 0, TAG_FREE, 0);
        heap_tag_store(h, u, n, owner, state, slack_of(h, n, bytes));
        if (front)
                heap_tag_store(h, hole, front, 0, TAG_FREE, 0);

        if (rest) {
                wh_bitset_insert(&h->heads, u + n);
                r = index_insert(h, u + n, rest);
        }
        if (front) {
                wh_bitset_insert(&h->heads, u);
                int r2 = index_insert(h, hole, front);
                r = r ? r : r2;
        }
        h->live->rover = u + n < h->head.units ? u + n : 0;
        heap_count_used(h, n);
        *ret_u = u;
        return r < 0 ? 1 : 0; /* 1: the block is there, but the index needs building */
}

static int fit_give(struct wharf_heap *h, uint32_t u, const struct tag *t)
{
        uint32_t n = t->value, first = u, total = n, next = u + n, next_n = 0;
        struct tag nt, pt;
        if (next < h->head.units) {
                /* What lies behind a block is the first thing that an overflow writes over. */
                if (!wh_bitset_has(&h->heads, next) || !heap_tag_load(h, next, &nt) || !nt.value ||
                    !wh_inside(next, nt.value, h->head.units))
                        return wh_heap_fault(h, WHARF_FAULT_OVERFLOW, u, t->owner, -EUCLEAN);
                if (nt.state == TAG_FREE)
                        next_n = nt.value;
        }
        uint64_t below = u ? wh_bitset_prev(&h->heads, u - 1) : WH_BITSET_NONE;
        if (u) {
                if (below == WH_BITSET_NONE || !heap_tag_load(h, (uint32_t)below, &pt) || below + pt.value != u)
                        return wh_heap_fault(h, WHARF_FAULT_HEADER, below == WH_BITSET_NONE ? u : (uint32_t)below, 0,
                                             -EUCLEAN);
                if (pt.state == TAG_FREE) {
                        first = (uint32_t)below;
                        total += pt.value;
                }
        }
        total += next_n;
        int r = 0;
        if (first != u)
                r = index_remove(h, first, pt.value);
        if (next_n && r == 0)
                r = index_remove(h, next, next_n);

        /* heap_impl.H1: one store frees the block and merges it with both neighbours. */
        heap_tag_store(h, first, total, 0, TAG_FREE, 0);
        if (first != u) {
                heap_tag_store(h, u, n, t->owner, TAG_FREE, 0); /* for the answer to a second free; not in the chain */
                wh_bitset_remove(&h->heads, u);
        }
        if (next_n)
                wh_bitset_remove(&h->heads, next);
        if (h->live->rover > first && h->live->rover < first + total)
                h->live->rover = first;
        heap_count_used(h, -(int64_t)n);
        int r2 = index_insert(h, first, total);
        return r < 0 || r2 < 0 ? 1 : 0;
}

static int fit_resize(struct wharf_heap *h, uint32_t u, const struct tag *t, uint64_t bytes)
{
        uint32_t n = heap_units_for(h, bytes), is = t->value, next = u + is, next_n = 0;
        if (next < h->head.units) {
                struct tag nt;
                if (!wh_bitset_has(&h->heads, next) || !heap_tag_load(h, next, &nt) || !nt.value ||
                    !wh_inside(next, nt.value, h->head.units))
                        return wh_heap_fault(h, WHARF_FAULT_OVERFLOW, u, t->owner, -EUCLEAN);
                if (nt.state == TAG_FREE)
                        next_n = nt.value;
        }
        if (n > is && n - is > next_n)
                return -ENOMEM;
        int r = 0;
        if (n == is)
                next_n = 0; /* the neighbour stays as it is */
        if (next_n)
                r = index_remove(h, next, next_n);
        uint32_t rest = n == is ? 0 : is + next_n - n;
        if (rest)
                heap_tag_store(h, u + n, rest, 0, TAG_FREE,
                               0); /* inside the block as it is still known: not in the chain */
        heap_tag_store(h, u, n, t->owner, t->state, slack_of(h, n, bytes));
        if (next_n)
                wh_bitset_remove(&h->heads, next);
        int r2 = 0;
        if (rest) {
                wh_bitset_insert(&h->heads, u + n);
                r2 = index_insert(h, u + n, rest);
        }
        if (h->live->rover > u && h->live->rover < u + n + rest)
                h->live->rover = u + n < h->head.units ? u + n : 0;
        heap_count_used(h, (int64_t)n - is);
        return r < 0 || r2 < 0 ? 1 : 0;
}

static bool sound(struct wharf_heap *h, uint32_t u, struct tag *t)
{
        return heap_tag_load(h, u, t) && t->state != TAG_NONE && t->value && wh_inside(u, t->value, h->head.units);
}

/* Walks the chain, merges holes that a death left side by side, and takes what has no sound tag out of use. */
static uint32_t mend_chain(struct wharf_heap *h)
{
        uint32_t damaged = 0;
        for (uint32_t u = 0; u < h->head.units;) {
                struct tag t, nt;
                if (!sound(h, u, &t)) {
                        /* The bitmap, if it is right, knows where the next block begins; its tag must be sound. */
                        uint64_t end = u;
                        do
                                end = wh_bitset_next(&h->heads, end + 1);
                        while (end != WH_BITSET_NONE && !sound(h, (uint32_t)end, &nt));
                        end = end == WH_BITSET_NONE ? h->head.units : end;
                        wh_heap_fault(h, WHARF_FAULT_HEADER, u, 0, 0);
                        heap_tag_store(h, u, (uint32_t)end - u, HEAP_OWNER_DAMAGED, TAG_USED, 0);
                        damaged++;
                        u = (uint32_t)end;
                        continue;
                }
                uint32_t n = t.value;
                while (t.state == TAG_FREE && u + n < h->head.units && sound(h, u + n, &nt) && nt.state == TAG_FREE)
                        n += nt.value;
                if (n != t.value)
                        heap_tag_store(h, u, n, 0, TAG_FREE, 0);
                u += n;
        }
        return damaged;
}

static uint32_t fit_rebuild(struct wharf_heap *h, bool trust)
{
        struct heap_live *live = h->live;
        uint32_t damaged = mend_chain(h);
        wh_bitset_clear(&h->heads);
        if (by_address(h))
                wh_bitset_clear(&h->holes);
        memset(live->bin, 0, sizeof live->bin);
        memset(live->bins_used, 0, sizeof live->bins_used);
        live->tree = 0;
        live->used_units = 0;
        struct tag t;
        for (uint32_t u = 0; u < h->head.units && sound(h, u, &t); u += t.value)
                wh_bitset_insert(&h->heads, u);
        for (uint32_t u = 0; u < h->head.units && sound(h, u, &t); u += t.value) {
                if (t.state == TAG_FREE)
                        index_insert(h, u, t.value);
                else
                        live->used_units += t.value;
        }
        const uint32_t rover = *(volatile const uint32_t *)&live->rover; /* once (H5) */
        if (rover >= h->head.units || !wh_bitset_has(&h->heads, rover))
                live->rover = 0;
        return damaged;
}

static bool fit_block(struct wharf_heap *h, uint32_t u, struct span *s)
{
        if (u >= h->head.units)
                return false;
        *s = (struct span){.u = u};
        if (!sound(h, u, &s->tag)) {
                uint64_t end = wh_bitset_next(&h->heads, (uint64_t)u + 1);
                s->n = (uint32_t)(end == WH_BITSET_NONE ? h->head.units : end) - u;
                s->state = WHARF_BLOCK_DAMAGED;
                return true;
        }
        s->n = s->tag.value;
        s->state = s->tag.state == TAG_FREE             ? WHARF_BLOCK_FREE
                   : s->tag.owner == HEAP_OWNER_DAMAGED ? WHARF_BLOCK_DAMAGED
                   : s->tag.state == TAG_USED           ? WHARF_BLOCK_USED
                                                        : WHARF_BLOCK_CACHED;
        return true;
}

/* How many holes hang in the tree, or -1 when it is no such tree. Depth is bounded by TREE_STEPS. */
static int64_t tree_count(struct wharf_heap *h, uint32_t link, unsigned depth)
{
        uint32_t u, n, child, child_n;
        if (!link)
                return 0;
        if (depth > TREE_STEPS || !link_hole(h, link, &u, &n) || n < HEAP_BINS)
                return -1;
        struct node node = *node_at(h, u);
        if (node.a &&
            (!link_hole(h, node.a, &child, &child_n) || !before(child_n, child, n, u) || priority(child) > priority(u)))
                return -1;
        if (node.b &&
            (!link_hole(h, node.b, &child, &child_n) || !before(n, u, child_n, child) || priority(child) > priority(u)))
                return -1;
        int64_t a = tree_count(h, node.a, depth + 1), b = a < 0 ? -1 : tree_count(h, node.b, depth + 1);
        return a < 0 || b < 0 ? -1 : a + b + 1;
}

/* How many holes are in the lists, or -1. */
static int64_t bins_count(struct wharf_heap *h)
{
        int64_t count = 0;
        for (uint32_t n = 0; n < HEAP_BINS; n++) {
                uint32_t link = h->live->bin[n], prev = 0, u, len;
                if ((h->live->bins_used[n / 64] >> (n % 64) & 1) != (link != 0))
                        return -1;
                for (; link; prev = link, link = node_at(h, u)->a)
                        if (++count > h->head.units || !link_hole(h, link, &u, &len) || len != n ||
                            node_at(h, u)->b != prev)
                                return -1;
        }
        return count;
}

static bool fit_whole(struct wharf_heap *h)
{
        uint64_t used = 0, blocks = 0, holes = 0, bits = 0, hole_bits = 0;
        bool after_hole = false;
        struct tag t;
        for (uint32_t u = 0; u < h->head.units; u += t.value) {
                if (!sound(h, u, &t) || !wh_bitset_has(&h->heads, u) || (after_hole && t.state == TAG_FREE))
                        return false;
                if (wh_bitset_next(&h->heads, u) != u || wh_bitset_prev(&h->heads, u) != u)
                        return false;
                after_hole = t.state == TAG_FREE;
                holes += after_hole;
                blocks++;
                used += after_hole ? 0 : t.value;
                if (by_address(h) && wh_bitset_has(&h->holes, u) != after_hole)
                        return false;
        }
        for (uint64_t u = 0; (u = wh_bitset_next(&h->heads, u)) != WH_BITSET_NONE; u++)
                bits++;
        for (uint64_t u = 0; by_address(h) && (u = wh_bitset_next(&h->holes, u)) != WH_BITSET_NONE; u++)
                hole_bits++;
        if (bits != blocks || used != h->live->used_units)
                return false;
        if (by_address(h))
                return hole_bits == holes;
        int64_t tree = tree_count(h, h->live->tree, 0), bins = bins_count(h);
        return tree >= 0 && bins >= 0 && (uint64_t)(tree + bins) == holes;
}

static uint64_t fit_bytes_max(struct wharf_heap *h)
{
        return h->head.managed_bytes - h->inside_bytes - h->guard_bytes;
}

const struct heap_policy wh_heap_fit = {
        .take = fit_take,
        .give = fit_give,
        .resize = fit_resize,
        .rebuild = fit_rebuild,
        .whole = fit_whole,
        .block = fit_block,
        .bytes_max = fit_bytes_max,
};
