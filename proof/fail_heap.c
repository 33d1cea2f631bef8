/* Opening and using a heap: the world refuses. */
#include "heap.h"

static void setup(struct proof *p)
{
        heap_map(p);
        heap_format(p);
}

static int open_heap(struct proof *p)
{
        struct heap_state *s = p->state;
        int r = wharf_heap_open(s->base, HEAP_LEN, &s->heap);
        PROOF_CHECK(p, r == 0 || !s->heap);
        return r;
}

#define HEAP_OP(policy)                                                                         \
        {                                                                                       \
                .name = policy, .setup = setup, .victim = open_heap, .teardown = heap_teardown, \
                .state_bytes = sizeof(struct heap_state)                                        \
        }
static const struct proof_op ops[] = {HEAP_OP("buddy"), HEAP_OP("best"), HEAP_OP("fixed"), {0}};
PROOF_FAIL("heap", ops)
