/* A trace of an allocator's requests, from anywhere; then what it says is asked of a heap. */
#include "fuzz.h"
#include "trace.h"

#include <sys/mman.h>

enum { HEAP_LEN = 64 << 10 };

void fuzz_one(struct fuzz_in *in)
{
        struct trace t = {0};
        int r = trace_parse(in->at, (uint64_t)(in->end - in->at), &t);
        if (r < 0) {
                FUZZ_CHECK(!t.events);
                return;
        }
        for (uint64_t i = 0; i < t.n_events; i++)
                FUZZ_CHECK(t.events[i].kind <= TRACE_RESIZE && t.events[i].block < t.n_blocks);
        void *mem = mmap(NULL, HEAP_LEN, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        FUZZ_CHECK(mem != MAP_FAILED);
        struct wharf_heap_opts o = {.size = sizeof o, .policy = WHARF_HEAP_BEST_FIT};
        wharf_heap *heap;
        struct trace_result res = {0};
        FUZZ_CHECK(wharf_heap_format(mem, HEAP_LEN, &o) == 0);
        FUZZ_CHECK(wharf_heap_open(mem, HEAP_LEN, &heap) == 0);
        FUZZ_CHECK(trace_replay(&t, heap, 0, NULL, NULL, &res) == 0);
        FUZZ_CHECK(res.ran <= t.n_events && wharf_heap_check(heap) == 0);
        wharf_heap_close(heap);
        munmap(mem, HEAP_LEN);
        trace_done(&t);
}

void fuzz_seeds(void)
{
        struct fuzz_out o = {.len = 0};
        fuzz_put(&o, TRACE_MAGIC, 8);
        static const uint32_t e[] = {100 << 2, 40 << 2, 3000 << 2, 0 << 2 | 1, 1 << 2 | 2, 500, 7 << 2, 2 << 2 | 1};
        for (unsigned i = 0; i < sizeof e / sizeof *e; i++) {
                uint32_t v = e[i];
                for (; v >= 128; v >>= 7)
                        fuzz_put8(&o, 128 | (v & 127));
                fuzz_put8(&o, v);
        }
        fuzz_seed("mixed", o.bytes, o.len);
}
