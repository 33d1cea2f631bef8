#include "trace.h"

#include "base/bits.h"
#include "test.h"

#include <zlib.h>

/* A trace as the recorder writes it. */
struct writer {
        uint8_t bytes[1 << 16];
        size_t len;
};

static void put(struct writer *w, uint64_t v)
{
        for (; v > 127; v >>= 7)
                w->bytes[w->len++] = (uint8_t)(v | 128);
        w->bytes[w->len++] = (uint8_t)v;
}

static struct writer begun(void)
{
        struct writer w;
        memcpy(w.bytes, TRACE_MAGIC, w.len = 8);
        return w;
}

/* 100, 0 (counts as 1), free the first, 30 takes its number, resize it to 50. */
static struct writer example(void)
{
        struct writer w = begun();
        put(&w, 400);
        put(&w, 0);
        put(&w, 0 * 4 + 1);
        put(&w, 120);
        put(&w, 0 * 4 + 2);
        put(&w, 50);
        return w;
}

static void check_example(const struct trace *t)
{
        CHECK_EQ(t->n_events, 5);
        CHECK_EQ(t->n_blocks, 2);
        CHECK_EQ(t->peak_live_bytes, 101);
        CHECK(t->allocs == 3 && t->frees == 1 && t->resizes == 1);
        CHECK(t->events[3].kind == TRACE_ALLOC && t->events[3].block == 0 && t->events[3].bytes == 30);
        CHECK(t->events[4].kind == TRACE_RESIZE && t->events[4].block == 0 && t->events[4].bytes == 50);
}

TEST(a_trace_is_read_plain_and_compressed)
{
        struct writer w = example();
        char path[128];
        struct trace t;
        CHECK_EQ(trace_parse(w.bytes, w.len, &t), 0);
        check_example(&t);
        trace_done(&t);
        for (int level = 0; level < 2; level++) {
                snprintf(path, sizeof path, "%s/t%d", test_dir(), level);
                gzFile f = gzopen(path, level ? "wb9e" : "wbTe");
                CHECK_EQ(gzwrite(f, w.bytes, (unsigned)w.len), w.len);
                gzclose(f);
                CHECK_EQ(trace_load(path, &t), 0);
                check_example(&t);
                trace_done(&t);
        }
        CHECK_EQ(truncate(path, 20), 0); /* compressed, and cut */
        CHECK_EQ(trace_load(path, &t), -EBADMSG);
        CHECK_EQ(trace_load("/no/such/trace", &t), -ENOENT);
}

/* Goal: no file, whatever stands in it, makes the reader fail otherwise than with an error. */
TEST(any_file_is_a_trace_or_refused)
{
        struct trace t;
        struct writer w = example();
        for (size_t len = 0; len < w.len; len++) {
                int r = trace_parse(w.bytes, len, &t);
                CHECK(r == 0 || r == -EBADMSG);
                if (r == 0)
                        trace_done(&t);
        }
        static const uint64_t bad[][2] = {{1, 0}, {4 + 1, 0}, {2, 5}, {3, 0}, {UINT64_MAX >> 1, 0}};
        for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
                w = begun();
                put(&w, bad[i][0]);
                put(&w, bad[i][1]);
                CHECK_EQ(trace_parse(w.bytes, w.len, &t), -EBADMSG);
        }
        for (unsigned round = 0; round < 4000; round++) {
                w = example();
                for (unsigned i = 0; i < 40; i++) /* sense followed by nonsense */
                        w.bytes[w.len++] = (uint8_t)(test_random() % (round % 2 ? 256 : 12));
                w.bytes[8 + test_random() % (w.len - 8)] ^= (uint8_t)(1u << test_random() % 8);
                if (trace_parse(w.bytes, w.len, &t) < 0)
                        continue;
                for (uint64_t i = 0; i < t.n_events; i++)
                        CHECK(t.events[i].block < t.n_blocks);
                trace_done(&t);
        }
}

static unsigned samples;
static uint64_t sampled;

static void sample(uint64_t done, void *arg)
{
        samples++;
        sampled = done;
}

/* Goal: replaying asks for what the trace says, on each policy; what finds no room is counted and left out. */
TEST(a_trace_is_replayed)
{
        struct writer w = begun();
        for (unsigned i = 0; i < 100; i++)
                put(&w, (i + 1) * 4 * 8);
        for (unsigned i = 0; i < 100; i += 2)
                put(&w, i * 4 + 1);
        for (unsigned i = 1; i < 100; i += 2) {
                put(&w, i * 4 + 2);
                put(&w, 1000);
        }
        struct trace t;
        CHECK_EQ(trace_parse(w.bytes, w.len, &t), 0);
        struct trace_result res;
        for (uint32_t policy = 0; policy < WHARF_HEAP_POLICIES; policy++)
                for (unsigned small = 0; small < 2; small++) {
                        struct wharf_heap_opts o = {.size = sizeof o, .policy = policy};
                        o.managed_bytes = small ? 16384 : 1 << 20;
                        o.n_partitions = policy == WHARF_HEAP_FIXED ? (small ? 16 : 256) : 0;
                        uint64_t len = wh_round_up(wharf_heap_bytes_needed(&o), 64);
                        void *base = aligned_alloc(64, len);
                        wharf_heap *h;
                        CHECK_EQ(wharf_heap_format(base, len, &o), 0);
                        CHECK_EQ(wharf_heap_open(base, len, &h), 0);
                        samples = 0;
                        CHECK_EQ(trace_replay(&t, h, 50, sample, NULL, &res), 0);
                        CHECK(samples == 5 && sampled == 200);
                        struct wharf_heap_figures f;
                        CHECK_EQ(wharf_heap_figures(h, &f), 0);
                        if (small) {
                                CHECK_GE(res.refused, 1);
                        } else {
                                CHECK_EQ(res.refused, 0);
                                CHECK_EQ(res.ran, 200);
                                CHECK_EQ(f.used_blocks, 50);
                                CHECK_GE(f.requested_bytes, 50 * 1000);
                        }
                        wharf_heap_close(h);
                        free(base);
                }
        CHECK_EQ(trace_replay_malloc(&t, &res), 0);
        CHECK_EQ(res.refused, 0);
        trace_done(&t);
}
