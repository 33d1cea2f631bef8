#include "trace.h"

#include "os/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define FILE_BYTES_MAX ((uint64_t)1 << 30) /* unpacked: a small file may unpack to anything */

/* ---- reading ---- */

static bool number(const uint8_t **p, const uint8_t *end, uint64_t *ret)
{
        uint64_t v = 0;
        for (unsigned shift = 0; shift < 63 && *p < end; shift += 7) {
                uint8_t b = *(*p)++;
                v |= (uint64_t)(b & 127) << shift;
                if (!(b & 128)) {
                        *ret = v;
                        return true;
                }
        }
        return false;
}

/* What is alive while we read. */
struct reader {
        uint64_t *live_bytes; /* by block; 0 is free (an allocation of 0 bytes counts as 1) */
        uint32_t *freed;      /* the numbers that are free again, last freed on top */
        uint32_t n_freed, cap;
        uint64_t live;
};

static bool reader_grow(struct reader *r, uint32_t n)
{
        if (n <= r->cap)
                return true;
        uint32_t cap = r->cap ? r->cap * 2 : 1024;
        uint64_t *live = realloc(r->live_bytes, cap * sizeof *live);
        if (live)
                r->live_bytes = live;
        uint32_t *freed = realloc(r->freed, cap * sizeof *freed);
        if (freed)
                r->freed = freed;
        if (live && freed)
                r->cap = cap;
        return live && freed;
}

static int read_event(struct reader *r, struct trace *t, const uint8_t **p, const uint8_t *end, struct trace_event *ev)
{
        uint64_t e, v;
        if (!number(p, end, &e))
                return -EBADMSG;
        v = e / 4;
        ev->kind = e & 3;
        if (ev->kind == TRACE_ALLOC) {
                if (v > TRACE_BYTES_MAX)
                        return -EBADMSG;
                if (!r->n_freed && !reader_grow(r, t->n_blocks + 1))
                        return -ENOMEM;
                ev->block = r->n_freed ? r->freed[--r->n_freed] : t->n_blocks++;
                ev->bytes = v ? v : 1;
                r->live_bytes[ev->block] = ev->bytes;
                r->live += ev->bytes;
                t->allocs++;
        } else {
                if (ev->kind > TRACE_RESIZE || v >= t->n_blocks || !r->live_bytes[v])
                        return -EBADMSG;
                ev->block = (uint32_t)v;
                r->live -= r->live_bytes[v];
                if (ev->kind == TRACE_FREE) {
                        ev->bytes = r->live_bytes[v] = 0;
                        r->freed[r->n_freed++] = (uint32_t)v;
                        t->frees++;
                } else {
                        if (!number(p, end, &ev->bytes) || ev->bytes > TRACE_BYTES_MAX)
                                return -EBADMSG;
                        ev->bytes = ev->bytes ? ev->bytes : 1;
                        r->live_bytes[v] = ev->bytes;
                        r->live += ev->bytes;
                        t->resizes++;
                }
        }
        if (r->live > t->peak_live_bytes)
                t->peak_live_bytes = r->live;
        return 0;
}

int trace_parse(const uint8_t *bytes, uint64_t len_bytes, struct trace *ret)
{
        const size_t magic = sizeof TRACE_MAGIC - 1;
        if (len_bytes < magic || memcmp(bytes, TRACE_MAGIC, magic) != 0)
                return -EBADMSG;
        struct trace t = {0};
        struct reader r = {0};
        uint64_t cap = 0;
        int err = 0;
        for (const uint8_t *p = bytes + magic, *end = bytes + len_bytes; err == 0 && p < end;) {
                if (t.n_events == cap) {
                        cap = cap ? cap * 2 : 4096;
                        struct trace_event *e = cap > TRACE_EVENTS_MAX ? NULL : realloc(t.events, cap * sizeof *e);
                        if (!e) {
                                err = cap > TRACE_EVENTS_MAX ? -E2BIG : -ENOMEM;
                                break;
                        }
                        t.events = e;
                }
                err = read_event(&r, &t, &p, end, &t.events[t.n_events]);
                t.n_events += err == 0;
        }
        free(r.live_bytes);
        free(r.freed);
        if (err < 0)
                trace_done(&t);
        else
                *ret = t;
        return err;
}

int trace_load(const char *path, struct trace *ret)
{
        errno = 0;
        gzFile f = gzopen(path, "rbe"); /* reads plain files as they are */
        if (!f)
                return errno ? -errno : -ENOMEM;
        uint8_t *bytes = NULL;
        uint64_t len = 0, cap = 0;
        int r = 0;
        for (;;) {
                if (len == cap) {
                        cap = cap ? cap * 2 : 1 << 16;
                        uint8_t *p = cap > FILE_BYTES_MAX ? NULL : realloc(bytes, cap);
                        if (!p) {
                                r = cap > FILE_BYTES_MAX ? -E2BIG : -ENOMEM;
                                break;
                        }
                        bytes = p;
                }
                unsigned want = cap - len > 1 << 20 ? 1 << 20 : (unsigned)(cap - len);
                int n = gzread(f, bytes + len, want);
                int err;
                if (n < 0) {
                        gzerror(f, &err);
                        r = err == Z_ERRNO && errno ? -errno : -EBADMSG;
                        break;
                }
                if (n == 0)
                        break;
                len += (uint64_t)n;
        }
        if (gzclose(f) != Z_OK && r == 0) /* cut short */
                r = -EBADMSG;
        if (r == 0)
                r = trace_parse(bytes, len, ret);
        free(bytes);
        return r;
}

void trace_done(struct trace *t)
{
        free(t->events);
        *t = (struct trace){0};
}

/* ---- replaying ---- */

int trace_replay(const struct trace *t, wharf_heap *heap, uint64_t every, void (*sample)(uint64_t done, void *arg),
                 void *arg, struct trace_result *ret)
{
        uint64_t *at = calloc(t->n_blocks + 1, sizeof *at); /* offsets; 0 where it was refused */
        if (!at)
                return -ENOMEM;
        struct trace_result res = {0};
        int r = 0;
        if (sample)
                sample(0, arg);
        int64_t start = wh_os_now_ns();
        for (uint64_t i = 0; i < t->n_events && r == 0; i++) {
                const struct trace_event *e = &t->events[i];
                if (e->kind == TRACE_ALLOC)
                        r = wharf_heap_alloc(heap, e->bytes, 0, 0, 0, &at[e->block]);
                else if (!at[e->block])
                        res.ran--; /* its allocation was refused */
                else if (e->kind == TRACE_FREE)
                        r = wharf_heap_free(heap, at[e->block]);
                else
                        r = wharf_heap_resize(heap, at[e->block], e->bytes, 0, &at[e->block]);
                res.ran++;
                if (r == -ENOMEM || r == -E2BIG) {
                        r = 0;
                        res.refused++;
                        if (e->kind == TRACE_ALLOC)
                                at[e->block] = 0;
                }
                if (sample && (i + 1) % every == 0) {
                        res.ns += wh_os_now_ns() - start;
                        sample(i + 1, arg);
                        start = wh_os_now_ns();
                }
        }
        res.ns += wh_os_now_ns() - start;
        free(at);
        if (r == 0)
                *ret = res;
        return r;
}

int trace_replay_malloc(const struct trace *t, struct trace_result *ret)
{
        void **at = calloc(t->n_blocks + 1, sizeof *at);
        if (!at)
                return -ENOMEM;
        struct trace_result res = {.ran = t->n_events};
        int64_t start = wh_os_now_ns();
        for (uint64_t i = 0; i < t->n_events; i++) {
                const struct trace_event *e = &t->events[i];
                void *p = NULL;
                if (e->kind == TRACE_ALLOC)
                        p = at[e->block] = malloc(e->bytes);
                else if (e->kind == TRACE_FREE)
                        free(at[e->block]);
                else if ((p = realloc(at[e->block], e->bytes)))
                        at[e->block] = p;
                if (e->kind == TRACE_FREE)
                        at[e->block] = NULL;
                else
                        res.refused += !p;
        }
        res.ns = wh_os_now_ns() - start;
        for (uint32_t i = 0; i < t->n_blocks; i++)
                free(at[i]);
        free(at);
        *ret = res;
        return 0;
}
