/*
 * A heap in memory that somebody scribbles in, between the calls of its users. Its users trust each other with the
 * contents, so answers may be wrong; but nobody crashes, is led out of the memory, or is kept for ever. The words that
 * say who holds the lock are left alone (../hostile_heap.c says why).
 *
 * An input: POLICY, then steps: overwrite, allocate, free, resize, check.
 */
#include "fuzz.h"
#include "memory/heap_impl.h"
#include "wharf/heap.h"

#include <sys/mman.h>

enum { HEAP_LEN = 48 << 10, BLOCKS = 8, STEPS_MAX = 64 };
enum { STEP_PATCH, STEP_ALLOC, STEP_FREE, STEP_RESIZE, STEP_CHECK, STEP_USABLE, STEP_REOPEN, STEPS };

static int block(const struct wharf_block *b, void *arg)
{
        (void)b;
        return ++*(unsigned *)arg < 10000 ? 0 : 1;
}

void fuzz_one(struct fuzz_in *in)
{
        uint8_t *mem = mmap(NULL, HEAP_LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        FUZZ_CHECK(mem != MAP_FAILED);
        unsigned policy = fuzz_u8(in);
        struct wharf_heap_opts o = {.size = sizeof o,
                                    .policy = (enum wharf_heap_policy)(policy % WHARF_HEAP_POLICIES),
                                    .flags = policy & 128 ? WHARF_HEAP_OUTSIDE : 0,
                                    .owners_max = 8,
                                    .waiters_max = 4};
        if (o.policy == WHARF_HEAP_FIXED) {
                o.managed_bytes = 16 << 10;
                o.n_partitions = 16;
        }
        wharf_heap *heap = NULL;
        if (wharf_heap_format(mem, HEAP_LEN, &o) == 0)
                FUZZ_CHECK(wharf_heap_open(mem, HEAP_LEN, &heap) == 0);
        uint64_t off[BLOCKS] = {0}, bytes;
        for (int i = 0; heap && fuzz_more(in) && i < STEPS_MAX; i++) {
                unsigned step = fuzz_u8(in) % STEPS, which = fuzz_u8(in), n = 0;
                uint64_t *at = &off[which % BLOCKS];
                struct wharf_heap_figures f = {0};
                if (step == STEP_PATCH) {
                        struct wh_mutex lock;
                        uint8_t *l = (uint8_t *)&heap->live->lock;
                        memcpy(&lock, l, sizeof lock);
                        fuzz_patch(in, mem, which & 1 ? 4096 : HEAP_LEN, which & 2 ? 1 : 8);
                        memcpy(l, &lock, sizeof lock);
                } else if (step == STEP_ALLOC) {
                        uint64_t want = fuzz_u16(in) % 5000u;
                        if (wharf_heap_alloc(heap, want, 0, 0, 0, &bytes) == 0) {
                                uint8_t *p = wharf_heap_at(heap, bytes, want);
                                FUZZ_CHECK(p && p >= mem && p + want <= mem + HEAP_LEN);
                                *at = bytes;
                        }
                } else if (step == STEP_FREE) {
                        wharf_heap_free(heap, which & 128 ? fuzz_u16(in) : *at);
                } else if (step == STEP_RESIZE) {
                        wharf_heap_resize(heap, *at, fuzz_u16(in) % 5000u, 0, at);
                } else if (step == STEP_CHECK) {
                        wharf_heap_check(heap);
                        wharf_heap_figures(heap, &f);
                        wharf_heap_walk(heap, block, &n);
                } else if (step == STEP_USABLE) {
                        wharf_heap_usable(heap, *at, &bytes);
                } else if (step == STEP_REOPEN) {
                        wharf_heap *again = NULL; /* what a second task does, that finds the heap as it is */
                        if (wharf_heap_open(mem, HEAP_LEN, &again) == 0)
                                wharf_heap_close(again);
                }
        }
        wharf_heap_close(heap);
        munmap(mem, HEAP_LEN);
}

void fuzz_seeds(void)
{
        for (unsigned policy = 0; policy < WHARF_HEAP_POLICIES; policy++) {
                struct fuzz_out o = {.len = 0};
                char name[16] = "policy0";
                name[6] = (char)('0' + policy);
                fuzz_put8(&o, policy);
                for (unsigned i = 0; i < 4; i++) {
                        fuzz_put8(&o, STEP_ALLOC);
                        fuzz_put8(&o, i);
                        fuzz_put16(&o, 100 + 300 * i);
                }
                fuzz_put8(&o, STEP_FREE);
                fuzz_put8(&o, 1);
                fuzz_put8(&o, STEP_RESIZE);
                fuzz_put8(&o, 2);
                fuzz_put16(&o, 900);
                fuzz_put8(&o, STEP_PATCH);
                fuzz_put8(&o, 0);
                fuzz_put16(&o, 700);
                fuzz_put(&o, (uint8_t[4]){2, 255, 255, 1}, 4);
                fuzz_put8(&o, STEP_CHECK);
                fuzz_put8(&o, 0);
                fuzz_put8(&o, STEP_ALLOC);
                fuzz_put8(&o, 5);
                fuzz_put16(&o, 50);
                fuzz_seed(name, o.bytes, o.len);
        }
}
