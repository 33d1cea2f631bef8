/*
 * A heap is shared by tasks that trust each other with its contents (wharf/heap.h), so nobody asks for right answers of
 * one that somebody scribbles in. What a mistake of one task may not do to the others: crash them, lead them out of the
 * memory, or keep them for ever in a call that does not wait.
 *
 * Not lied about: the word that says who holds the heap's lock. Whoever writes there that a living task holds it lets
 * others wait, as that task itself could.
 */
#include "heap.h"

#include "memory/heap_impl.h"

static bool all_but_the_lock(struct proof *p, const void *at)
{
        struct heap_state *s = p->state;
        const uint8_t *lock = (const uint8_t *)&s->heap->live->lock;
        return (const uint8_t *)at < lock || (const uint8_t *)at >= lock + sizeof(struct wh_mutex);
}

/* Nothing that it is given lies outside. */
static void inside(struct proof *p, uint64_t off, uint64_t len)
{
        struct heap_state *s = p->state;
        const uint8_t *at = wharf_heap_at(s->heap, off, len);
        PROOF_CHECK(p, at && at >= (uint8_t *)s->base && at + len <= (uint8_t *)s->base + HEAP_LEN);
}

static int use(struct proof *p)
{
        struct heap_state *s = p->state;
        uint64_t off, bytes;
        int r = 0;
        for (int i = 0; i < 3 && r == 0; i++) {
                r = wharf_heap_alloc(s->heap, 100 + (uint64_t)i * 300, 0, 0, 0, &off);
                proof_next_call();
                if (r == 0) {
                        inside(p, off, 100 + (uint64_t)i * 300);
                        r = wharf_heap_usable(s->heap, off, &bytes);
                        proof_next_call();
                }
                if (r == 0 && i % 2)
                        r = wharf_heap_free(s->heap, off);
                else if (r == 0)
                        r = wharf_heap_resize(s->heap, off, 500 + (uint64_t)i * 100, 0, &off);
                proof_next_call();
        }
        return r;
}

static void audit(struct proof *p)
{
        struct heap_state *s = p->state;
        struct wharf_heap_figures f;
        int r = wharf_heap_check(s->heap);
        PROOF_CHECK(p, r == 0 || (p->lied && r == -EUCLEAN));
        PROOF_EQ(p, wharf_heap_check(s->heap), 0); /* what was damaged is out of use */
        PROOF_EQ(p, wharf_heap_figures(s->heap, &f), 0);
}

static const int errors[] = {-EUCLEAN, -ENOMEM, -E2BIG, -EFAULT, -EALREADY, -EUSERS, 0};
#define HEAP_OP(policy)                                                                                        \
        {                                                                                                      \
                .name = policy, .setup = heap_setup, .victim = use, .audit = audit, .teardown = heap_teardown, \
                .liar_writes = all_but_the_lock, .state_bytes = sizeof(struct heap_state), .errors = errors,   \
                .steps_max = 200000, .trusted = true                                                           \
        }
static const struct proof_op ops[] = {
        HEAP_OP("buddy"), HEAP_OP("first"), HEAP_OP("next"), HEAP_OP("best"), HEAP_OP("worst"), HEAP_OP("fixed"), {0}};
PROOF_HOSTILE("heap", ops)
