/*
 * segment_blocks - the memory behind a segment: reserved before it is promised, and given back where that fails.
 */
#include "memory/segment.h"
#include "base/bits.h"
#include "base/trace.h"
#include "base/why.h"
#include "os/left.h"
#include "os/os.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <sys/shm.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* Blocks are reserved in steps: a step that a signal interrupts is undone and made again, so it must be able to end. */
#define RESERVE_STEP ((uint64_t)16 << 20)

int wh_segment_check_memory(uint64_t bytes)
{
        struct wh_os_left left;
        int r = wh_os_memory_left(&left);
        if (r < 0 || bytes <= left.bytes)
                return r;
        wh_set_why("%" PRIu64 " bytes, of which %s leaves %" PRIu64, bytes, left.what, left.bytes);
        return wh_trace(-ENOMEM);
}

int wh_segment_grow(int fd, uint64_t old, uint64_t bytes, bool sparse)
{
        uint64_t fs = 0;
        int r = sparse ? 0 : wh_os_fstatfs(fd, &fs);
        if (r == 0 && !sparse && (fs == TMPFS_MAGIC || fs == RAMFS_MAGIC))
                r = wh_segment_check_memory(bytes - old);
        for (uint64_t at = old; !sparse && r == 0 && at < bytes;) {
                uint64_t step = bytes - at < RESERVE_STEP ? bytes - at : RESERVE_STEP;
                r = wh_os_fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)step);
                if (r == -EINTR)
                        r = 0;
                else if (r == 0)
                        at += step;
        }
        if (r == 0)
                r = wh_os_ftruncate(fd, (off_t)bytes);
        if (r == 0)
                return 0;
        /* Blocks reserved behind the end go back. If another task has grown it meanwhile, they are its blocks now. */
        struct stat st;
        if (wh_os_fstat(fd, &st) == 0 && (uint64_t)st.st_size == old)
                wh_os_ftruncate(fd, (off_t)old);
        return r;
}

int wh_segment_size(const wharf_segment *seg, uint64_t *ret)
{
        int r;
        if (seg->kind == WHARF_SEGMENT_SYSV) {
                struct shmid_ds ds;
                r = wh_os_shmctl(seg->id, IPC_STAT, &ds);
                if (r == 0)
                        *ret = ds.shm_segsz;
                return r == -EINVAL ? -EIDRM : r;
        }
        struct stat st;
        r = wh_os_fstat(seg->fd, &st);
        if (r == 0)
                *ret = (uint64_t)st.st_size;
        return r;
}

int wh_segment_populate(void *p, uint64_t bytes)
{
        int r = 0;
        for (uint64_t at = 0; r == 0 && at < bytes;) {
                uint64_t step = bytes - at < RESERVE_STEP ? bytes - at : RESERVE_STEP;
                r = wh_os_madvise((char *)p + at, wh_round_up(step, WH_PAGE), MADV_POPULATE_WRITE);
                if (r == -EINTR)
                        r = 0;
                else if (r == 0)
                        at += step;
        }
        return r;
}

/* How much of a mapping would have to be made: of System V segments nobody else can tell. */
static int missing_in(void *p, uint64_t bytes, uint64_t *ret)
{
        unsigned char there[512];
        uint64_t missing = 0;
        for (uint64_t at = 0; at < bytes; at += sizeof there * WH_PAGE) {
                uint64_t n =
                        bytes - at < sizeof there * WH_PAGE ? wh_round_up(bytes - at, WH_PAGE) : sizeof there * WH_PAGE;
                int r = wh_os_mincore((char *)p + at, n, there);
                if (r < 0)
                        return r;
                for (uint64_t i = 0; i < n / WH_PAGE; i++)
                        missing += there[i] & 1 ? 0 : WH_PAGE;
        }
        *ret = missing;
        return 0;
}

int wharf_segment_reserve(wharf_segment *seg, uint64_t offset, uint64_t len_bytes)
{
        uint64_t bytes, fs = 0;
        int r = wh_segment_size(seg, &bytes);
        if (r < 0)
                return wh_trace(r);
        if (!wh_inside(offset, len_bytes, bytes))
                return wh_trace(-EINVAL);
        if (!wh_segment_writes(seg->access))
                return wh_trace(-EACCES);
        if (!len_bytes)
                return 0;
        if (seg->kind == WHARF_SEGMENT_SYSV) {
                if (!seg->base)
                        return wh_trace(-EINVAL);
                if (!(seg->prot & PROT_WRITE))
                        return wh_trace(-EACCES);
                uint64_t from = offset / WH_PAGE * WH_PAGE, missing;
                r = missing_in((char *)seg->base + from, offset + len_bytes - from, &missing);
                if (r == 0)
                        r = wh_segment_check_memory(missing);
                if (r == 0)
                        r = wh_segment_populate((char *)seg->base + from, offset + len_bytes - from);
                return r == -EFAULT ? wh_trace(-ENOMEM) : r;
        }
        struct stat st;
        r = wh_os_fstat(seg->fd, &st);
        if (r == 0)
                r = wh_os_fstatfs(seg->fd, &fs);
        if (r == 0 && (fs == TMPFS_MAGIC || fs == RAMFS_MAGIC)) {
                uint64_t there = (uint64_t)st.st_blocks * 512, missing = there < bytes ? bytes - there : 0;
                r = wh_segment_check_memory(missing < len_bytes ? missing : len_bytes);
        }
        /* In one go: what a failure had reserved, the file system gives back, if it is one of memory. */
        if (r == 0)
                r = wh_os_fallocate(seg->fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len_bytes);
        if (r == -EOPNOTSUPP && seg->base && seg->prot & PROT_WRITE && wh_inside(offset, len_bytes, seg->limit)) {
                uint64_t from = offset / WH_PAGE * WH_PAGE;
                r = wh_segment_populate((char *)seg->base + from, offset + len_bytes - from);
                r = r == -EFAULT ? -ENOSPC : r;
        }
        return r < 0 ? wh_trace(r) : 0;
}
