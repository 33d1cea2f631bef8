/* A task dies in the middle of a heap that others use; whoever reclaims may die as well. */
#include "heap.h"

static void reclaim(struct proof *p)
{
        PROOF_CHECK(p, wharf_heap_reclaim(((struct heap_state *)p->state)->heap, NULL, NULL) >= 0);
}

static int use_it(struct proof *p)
{
        PROOF_EQ(p, heap_use(p), 0);
        return 0;
}

/* Not paused: the heap's lock belongs to whoever stands still with it, and others wait for as long. */
#define HEAP_OP(policy)                                                                                        \
        {                                                                                                      \
                .name = policy, .setup = heap_setup, .victim = use_it, .rescue = reclaim, .audit = heap_audit, \
                .teardown = heap_teardown, .state_bytes = sizeof(struct heap_state), .no_pause = true          \
        }
static const struct proof_op ops[] = {
        HEAP_OP("buddy"), HEAP_OP("first"), HEAP_OP("next"), HEAP_OP("best"), HEAP_OP("worst"), HEAP_OP("fixed"), {0}};
PROOF_KILL("heap", ops)
