/*
 * segment_resize - a larger or smaller segment, and a mapping that follows it or stays as it was (G1, G3).
 */
#include "memory/segment.h"
#include "base/trace.h"
#include "os/os.h"

#include <errno.h>

/*
 * A larger mapping is made before the size changes and the smaller one goes afterwards, so that a failure between
 * leaves everything where it was.
 */
struct remap {
        void *base;         /* what it will be */
        void *fresh;        /* mapped now, to be unmapped on failure */
        uint64_t fresh_len; /* 0 when the mapping need not grow */
};

static int remap_prepare(const wharf_segment *seg, uint64_t bytes, struct remap *ret)
{
        uint64_t have = wh_segment_pages(seg->limit), want = wh_segment_pages(bytes);
        *ret = (struct remap){.base = seg->base};
        if (!seg->base || want <= have)
                return 0;
        int r = wh_segment_map(seg, seg->prot, (char *)seg->base + have, have, want, &ret->fresh);
        ret->fresh_len = want - have;
        if (r == 0 || seg->chosen)
                return r;
        r = wh_segment_map(seg, seg->prot, NULL, 0, want, &ret->fresh);
        ret->base = ret->fresh;
        ret->fresh_len = want;
        return r;
}

static void remap_commit(wharf_segment *seg, uint64_t bytes, const struct remap *m)
{
        uint64_t have = wh_segment_pages(seg->limit), want = wh_segment_pages(bytes);
        if (m->base != seg->base)
                wh_os_munmap(seg->base, have);
        else if (seg->base && want < have)
                wh_os_munmap((char *)seg->base + want, have - want);
        seg->base = m->base;
        seg->limit = bytes;
}

static void remap_undo(const struct remap *m)
{
        if (m->fresh)
                wh_os_munmap(m->fresh, m->fresh_len);
}

int wharf_segment_resize(wharf_segment *seg, uint64_t bytes)
{
        if (seg->kind == WHARF_SEGMENT_SYSV)
                return wh_trace(-EOPNOTSUPP);
        if (!wh_segment_writes(seg->access))
                return wh_trace(-EACCES);
        if (!bytes || bytes > WH_SEGMENT_BYTES_MAX)
                return wh_trace(-EINVAL);
        uint64_t old;
        int r = wh_segment_size(seg, &old);
        if (r < 0)
                return wh_trace(r);
        struct remap m;
        r = remap_prepare(seg, bytes, &m);
        if (r < 0)
                return wh_trace(r);
        r = bytes > old ? wh_segment_grow(seg->fd, old, bytes, seg->flags & WHARF_SEGMENT_SPARSE)
                        : wh_os_ftruncate(seg->fd, (off_t)bytes);
        if (r < 0) {
                remap_undo(&m);
                return wh_trace(r);
        }
        remap_commit(seg, bytes, &m);
        return 0;
}

int wharf_segment_refresh(wharf_segment *seg)
{
        uint64_t bytes;
        int r = wh_segment_size(seg, &bytes);
        if (r < 0)
                return wh_trace(r);
        if (bytes == seg->limit)
                return 0;
        if (!bytes || bytes > WH_SEGMENT_BYTES_MAX)
                return wh_trace(-EINVAL);
        struct remap m;
        r = remap_prepare(seg, bytes, &m);
        if (r < 0)
                return wh_trace(r);
        remap_commit(seg, bytes, &m);
        return 1;
}
