/*
 * heap_owner - the lock and the repair after a death, the owners, and giving back what dead ones held.
 */
#include "memory/heap_impl.h"

#include "os/os.h"

#include <errno.h>
#include <stdlib.h>

/* ---- the lock, and what a death leaves behind ---- */

int wh_heap_fault(struct wharf_heap *h, enum wharf_heap_fault_kind kind, uint32_t u, uint32_t owner, int err)
{
        struct wharf_heap_fault f = {.kind = kind, .owner = owner};
        f.offset = h->head.managed_at + (u < h->n_tags ? heap_start(h, u) : 0);
        if (owner && owner <= h->head.owners_max)
                f.owner_pid = wh_task_pid(atomic_load_explicit(&h->owners[owner - 1].task, memory_order_relaxed));
        wh_lock(&h->fault_lock);
        h->fault = f;
        wh_unlock(&h->fault_lock);
        return err;
}

void wharf_heap_why(wharf_heap *heap, struct wharf_heap_fault *ret)
{
        if (!ret)
                return;
        wh_lock(&heap->fault_lock);
        *ret = heap->fault;
        wh_unlock(&heap->fault_lock);
}

void wh_heap_count_waiting(struct wharf_heap *h)
{
        uint32_t n = 0, granted = 0;
        for (uint32_t i = 0; i < h->head.waiters_max; i++) {
                uint32_t state = atomic_load_explicit(&h->waiters[i].state, memory_order_relaxed);
                n += state == WAITER_WAITING;
                granted += state == WAITER_GRANTED;
        }
        h->live->granted = granted;
        /*
         * [waiting] Sequentially consistent, as are the exchange of the tag and the load in wharf_heap_free(): either a
         * task that frees into its cache sees that somebody waits, or whoever begins to wait finds the block there.
         */
        atomic_store_explicit(&h->live->waiting, n, memory_order_seq_cst);
}

void wh_heap_rebuild(struct wharf_heap *h, bool trust)
{
        h->policy->rebuild(h, trust);
        wh_heap_count_waiting(h);
        h->live->repairs++;
}

void wh_heap_unlock(struct wharf_heap *h)
{
        wh_mutex_unlock(&h->live->lock);
}

/* ---- owners ---- */

bool wh_heap_owner_dead(struct wharf_heap *h, uint32_t id)
{
        uint64_t task = atomic_load_explicit(&h->owners[id - 1].task, memory_order_relaxed);
        return task && !wh_task_alive(task);
}

bool wh_heap_promised(struct wharf_heap *h, const struct span *s)
{
        if (!h->live->granted)
                return false;
        for (uint32_t i = 0; i < h->head.waiters_max; i++) {
                struct heap_waiter *w = &h->waiters[i];
                if (atomic_load_explicit(&w->state, memory_order_relaxed) == WAITER_GRANTED && w->unit == s->u &&
                    w->owner == s->tag.owner)
                        return true;
        }
        return false;
}

bool wh_heap_retag(struct wharf_heap *h, const struct span *s, uint32_t value, uint32_t owner, uint32_t state,
                   uint32_t small)
{
        uint64_t raw = s->tag.raw;
        /* [tag] Both, pairs with heap_tag_load() and the other exchanges. */
        return atomic_compare_exchange_strong_explicit(heap_tag_at(h, s->u), &raw,
                                                       heap_tag_make(h, s->u, value, owner, state, small),
                                                       memory_order_acq_rel, memory_order_acquire);
}

bool wh_heap_give_back(struct wharf_heap *h, const struct span *s)
{
        /*
         * A buddy tag can be changed without the lock: win it first. Others cannot, and give() reads the extent in it.
         */
        if (h->policy == &wh_heap_buddy && !wh_heap_retag(h, s, 0, s->tag.owner, TAG_FREE, 0))
                return false;
        int r = h->policy->give(h, s->u, &s->tag);
        if (r > 0) {
                wh_heap_fault(h, WHARF_FAULT_INDEX, s->u, 0, 0);
                wh_heap_rebuild(h, false);
        }
        return r >= 0;
}

void wh_heap_waiter_drop(struct wharf_heap *h, struct heap_waiter *w)
{
        uint32_t was = atomic_load_explicit(&w->state, memory_order_relaxed);
        struct span s = {.u = w->unit};
        atomic_store_explicit(&w->state, WAITER_FREE, memory_order_relaxed);
        if (was == WAITER_GRANTED && s.u < h->n_tags && heap_tag_load(h, s.u, &s.tag) && s.tag.state == TAG_CACHED &&
            s.tag.owner == w->owner && heap_inside(h, &s))
                wh_heap_give_back(h, &s);
}

void wh_heap_owner_release(struct wharf_heap *h, uint32_t id)
{
        for (uint32_t i = 0; i < h->head.waiters_max; i++)
                if (h->waiters[i].owner == id)
                        wh_heap_waiter_drop(h, &h->waiters[i]);
        wh_heap_count_waiting(h);
        atomic_store_explicit(&h->owners[id - 1].cached, 0, memory_order_relaxed);
        atomic_store_explicit(&h->owners[id - 1].task, 0, memory_order_relaxed);
}

enum { FEW_SPANS = 16 }; /* where there is no memory for more: what calls this may have a small stack */

/* A list of blocks that does not change while they are freed. */
struct batch {
        struct span *spans;
        uint32_t n, room;
        struct span some[FEW_SPANS];
};

static void batch_init(struct batch *b, uint64_t expected)
{
        b->n = 0;
        b->spans = expected > FEW_SPANS ? wh_os_malloc(expected * sizeof(struct span)) : NULL;
        b->room = b->spans ? (uint32_t)expected : FEW_SPANS;
        if (!b->spans)
                b->spans = b->some; /* then it takes more rounds */
}

static void batch_done(struct batch *b)
{
        if (b->spans != b->some)
                free(b->spans);
}

static uint64_t count_blocks(struct wharf_heap *h, uint32_t state)
{
        struct span s;
        uint64_t n = 0;
        for (uint32_t u = 0; h->policy->block(h, u, &s); u += s.n)
                n += s.state == state;
        return n < UINT32_MAX / 2 ? n : UINT32_MAX / 2;
}

uint64_t wh_heap_take_all_cached(struct wharf_heap *h)
{
        struct batch b;
        uint64_t taken = 0, before;
        batch_init(&b, count_blocks(h, WHARF_BLOCK_CACHED));
        do {
                struct span s;
                before = taken;
                b.n = 0;
                for (uint32_t u = 0; b.n < b.room && h->policy->block(h, u, &s); u += s.n)
                        if (s.state == WHARF_BLOCK_CACHED && !wh_heap_promised(h, &s))
                                b.spans[b.n++] = s;
                for (uint32_t i = 0; i < b.n; i++)
                        taken += wh_heap_give_back(h, &b.spans[i]);
        } while (taken > before && b.n == b.room);
        batch_done(&b);
        return taken;
}

int wh_heap_lock(struct wharf_heap *h)
{
        int r = wh_mutex_lock(&h->live->lock, WHARF_FOREVER);
        if (r <= 0)
                return r;
        /* If we die in this, the next one is told again. A block that was just being granted is in nobody's hands. */
        wh_heap_rebuild(h, false);
        wh_heap_take_all_cached(h);
        return 0;
}

int wh_heap_owner_claim(struct wharf_heap *h)
{
        uint32_t id = 0;
        for (uint32_t i = 1; !id && i <= h->head.owners_max; i++)
                if (!atomic_load_explicit(&h->owners[i - 1].task, memory_order_relaxed))
                        id = i;
        if (!id) {
                uint8_t holds[HEAP_OWNER_DAMAGED + 1] = {0};
                struct span s;
                wh_heap_take_all_cached(h);
                for (uint32_t u = 0; h->policy->block(h, u, &s); u += s.n)
                        if (s.state != WHARF_BLOCK_FREE)
                                holds[s.tag.owner] = 1;
                for (uint32_t i = 1; !id && i <= h->head.owners_max; i++)
                        if (!holds[i] && wh_heap_owner_dead(h, i))
                                id = i;
                if (!id)
                        return -EUSERS;
                wh_heap_owner_release(h, id);
        }
        h->owner = id;
        h->mine = &h->owners[id - 1];
        atomic_store_explicit(&h->mine->cached, 0, memory_order_relaxed);
        atomic_store_explicit(&h->mine->task, wh_task_self(), memory_order_relaxed);
        return 0;
}

/* After a fork: what the handle knows belongs to the parent. The robust lock keeps two threads of the child apart. */
int wh_heap_enter_slow(struct wharf_heap *h)
{
        int r = wh_heap_lock(h);
        if (r < 0)
                return r;
        if (atomic_load_explicit(&h->task, memory_order_relaxed) != wh_task_self()) {
                r = wh_heap_owner_claim(h);
                if (r == 0) {
                        memset(h->n_cache, 0, sizeof h->n_cache);
                        h->cache_lock = WH_LOCK_INIT; /* a thread of the parent may have held it */
                        h->fault_lock = WH_LOCK_INIT;
                        /* [entered] Release, pairs with the acquire in wh_heap_enter(). */
                        atomic_store_explicit(&h->task, wh_task_self(), memory_order_release);
                }
        }
        wh_heap_unlock(h);
        return r;
}

/* ---- both locks ---- */

void wh_heap_both_unlock(struct wharf_heap *h)
{
        wh_heap_unlock(h);
        wh_unlock(&h->cache_lock);
}

int wh_heap_both_lock(struct wharf_heap *h)
{
        wh_lock(&h->cache_lock);
        int r = wh_heap_lock(h);
        if (r < 0)
                wh_unlock(&h->cache_lock);
        return r;
}

/* ---- what dead owners held ---- */

int64_t wharf_heap_reclaim(wharf_heap *heap, bool (*keep)(uint64_t offset, uint64_t bytes, void *arg), void *arg)
{
        struct wharf_heap *h = heap;
        int r = wh_heap_enter(h);
        if (r < 0 || (r = wh_heap_both_lock(h)) < 0)
                return r;
        uint8_t dead[HEAP_OWNER_DAMAGED + 1] = {0};
        bool any = false;
        for (uint32_t id = 1; id <= h->head.owners_max; id++)
                any |= dead[id] = wh_heap_owner_dead(h, id);
        int64_t freed = 0;
        if (any) {
                struct batch b;
                batch_init(&b, count_blocks(h, WHARF_BLOCK_USED));
                do {
                        struct span s;
                        b.n = 0;
                        for (uint32_t u = 0; b.n < b.room && h->policy->block(h, u, &s); u += s.n)
                                if (s.state == WHARF_BLOCK_USED && dead[s.tag.owner])
                                        b.spans[b.n++] = s;
                        for (uint32_t i = 0; i < b.n; i++) {
                                struct span *d = &b.spans[i];
                                if (keep &&
                                    keep(h->head.managed_at + heap_start(h, d->u), wh_heap_requested(h, d), arg))
                                        wh_heap_retag(h, d, d->tag.value, WHARF_NOBODY, TAG_USED, d->tag.small);
                                else if (wh_heap_give_back(h, d))
                                        freed++;
                                else /* its neighbourhood is damaged, so it cannot be freed; it must not come again */
                                        wh_heap_retag(h, d, d->tag.value, HEAP_OWNER_DAMAGED, TAG_USED, d->tag.small);
                        }
                } while (b.n == b.room);
                batch_done(&b);
                wh_heap_take_all_cached(h);
                for (uint32_t id = 1; id <= h->head.owners_max; id++)
                        if (dead[id])
                                wh_heap_owner_release(h, id);
                wh_heap_serve(h, true);
        }
        wh_heap_both_unlock(h);
        return freed;
}
