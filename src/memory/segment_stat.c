/*
 * segment_stat - how a segment is, in the same words for all four kinds.
 */
#include "memory/segment.h"
#include "base/bits.h"
#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <sys/shm.h>

void wh_segment_stat_fill(uint32_t kind, const struct stat *st, struct wharf_segment_stat *ret)
{
        *ret = (struct wharf_segment_stat){
                .kind = kind,
                .mode = st->st_mode & 0777,
                .uid = st->st_uid,
                .gid = st->st_gid,
                .flags = st->st_nlink ? 0 : WHARF_SEGMENT_STAT_REMOVED,
                .id = -1,
                .bytes = (uint64_t)st->st_size,
                .allocated_bytes = (uint64_t)st->st_blocks * 512,
                .device = st->st_dev,
                .inode = st->st_ino,
                .attached = -1,
                .changed_s = st->st_mtim.tv_sec,
        };
}

void wh_segment_stat_sysv(int id, const struct shmid_ds *ds, struct wharf_segment_stat *ret)
{
        *ret = (struct wharf_segment_stat){
                .kind = WHARF_SEGMENT_SYSV,
                .mode = ds->shm_perm.mode & 0777u,
                .uid = ds->shm_perm.uid,
                .gid = ds->shm_perm.gid,
                .flags = (ds->shm_perm.mode & SHM_DEST ? WHARF_SEGMENT_STAT_REMOVED : 0) | WHARF_SEGMENT_STAT_SEALED,
                .creator_pid = (uint32_t)ds->shm_cpid,
                .key = ds->shm_perm.__key,
                .id = id,
                .bytes = ds->shm_segsz,
                .allocated_bytes = ds->shm_segsz,
                .inode = (uint64_t)id,
                .attached = (int64_t)ds->shm_nattch,
                .changed_s = ds->shm_ctime,
        };
}

int wharf_segment_stat(const wharf_segment *seg, struct wharf_segment_stat *ret)
{
        if (wh_unlikely(!ret))
                return -EINVAL;
        if (seg->kind == WHARF_SEGMENT_SYSV) {
                struct shmid_ds ds;
                int r = wh_os_shmctl(seg->id, IPC_STAT, &ds);
                if (r < 0)
                        return wh_trace(r == -EINVAL ? -EIDRM : r);
                wh_segment_stat_sysv(seg->id, &ds, ret);
                return 0;
        }
        struct stat st;
        int r = wh_os_fstat(seg->fd, &st);
        if (r < 0)
                return wh_trace(r);
        wh_segment_stat_fill(seg->kind, &st, ret);
        int seals = wh_os_get_seals(seg->fd);
        if (seals >= 0 && seals & F_SEAL_SHRINK && seals & F_SEAL_GROW)
                ret->flags |= WHARF_SEGMENT_STAT_SEALED;
        return 0;
}
