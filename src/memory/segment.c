#include "memory/segment.h"
#include "memory/sealed.h"
#include "base/bits.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/shm.h>

wharf_segment *wh_segment_new(uint32_t kind)
{
        wharf_segment *seg = wh_os_calloc(1, sizeof *seg);
        if (seg)
                *seg = (wharf_segment){.kind = kind, .fd = -1, .id = -1};
        return seg;
}

static bool access_valid(uint32_t access)
{
        return access && !(access & ~(WHARF_SEGMENT_READ | WHARF_SEGMENT_WRITE));
}

static int open_sysv(const struct wh_segment_name *n, uint32_t access)
{
        if (n->has_id)
                return n->id;
        return wh_os_shmget(n->key, 0, wh_segment_writes(access) ? 0600 : 0400);
}

static int open_path(const struct wh_segment_name *n, uint32_t access)
{
        /* O_NONBLOCK, so that a FIFO of that name cannot hold us. */
        int flags = (wh_segment_writes(access) ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_NOCTTY;
        if (n->kind == WHARF_SEGMENT_POSIX)
                flags |= O_NOFOLLOW;
        int fd = wh_os_open(n->path, flags, 0);
        return fd == -EISDIR || fd == -ENXIO || fd == -ELOOP ? -ENODEV : fd;
}

static int check_regular(int fd, struct stat *st)
{
        int r = wh_os_fstat(fd, st);
        return r < 0 ? r : S_ISREG(st->st_mode) ? 0 : -ENODEV;
}

int wharf_segment_open(const char *name, uint32_t access, wharf_segment **ret)
{
        if (wh_unlikely(!ret))
                return -EINVAL;
        struct wh_segment_name n;
        int r = wh_segment_name(name, &n);
        if (r < 0)
                return wh_trace(r);
        if (!access_valid(access) || n.kind == WHARF_SEGMENT_ANONYMOUS)
                return wh_trace(-EINVAL);

        WH_AUTO(segment) wharf_segment *seg = wh_segment_new(n.kind);
        if (!seg)
                return wh_trace(-ENOMEM);
        if (n.kind == WHARF_SEGMENT_SYSV) {
                r = seg->id = open_sysv(&n, access);
        } else {
                struct stat st;
                r = seg->fd = open_path(&n, access);
                if (r >= 0)
                        r = check_regular(seg->fd, &st);
        }
        if (r >= 0)
                r = wh_segment_size(seg, &seg->limit);
        if (r < 0)
                return wh_trace(r == -EIDRM ? -ENOENT : r);
        seg->access = access | WHARF_SEGMENT_READ;
        *ret = wh_steal(&seg);
        return 0;
}

/*
 * Are all its blocks there? What was reserved and never written looks like a hole to who asks, so then it is read, and how
 * many blocks it has must not change by that.
 */
static int check_whole(int fd, uint64_t len)
{
        int r = wh_sealed_whole(fd, len);
        if (r != -EPROTO && r != -EOPNOTSUPP)
                return r;
        void *map;
        r = wh_os_mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0, &map);
        if (r < 0)
                return r;
        r = wh_sealed_touch(fd, map, len);
        wh_os_munmap(map, len);
        return r;
}

int wharf_segment_from_fd(int fd, uint32_t access, uint32_t flags, wharf_segment **ret)
{
        if (wh_unlikely(!ret))
                return -EINVAL;
        if (!access_valid(access) || flags & ~WHARF_SEGMENT_SEALED)
                return wh_trace(-EINVAL);
        /* Sealed: the seals first, since a file system that another user serves may not answer anything else. */
        const bool sealed = flags & WHARF_SEGMENT_SEALED;
        struct stat st;
        int r = sealed ? wh_sealed_file(fd, F_SEAL_SHRINK | F_SEAL_GROW, &st) : check_regular(fd, &st);
        if (r == 0 && sealed)
                r = check_whole(fd, (uint64_t)st.st_size);
        if (r < 0)
                return wh_trace(r);
        int mode = wh_os_fd_access(fd);
        if (mode < 0)
                return wh_trace(mode);
        if (mode != O_RDWR && (wh_segment_writes(access) || mode != O_RDONLY))
                return wh_trace(-EACCES);
        const int seals = wh_os_get_seals(fd);
        wharf_segment *seg = wh_segment_new(seals >= 0 && !st.st_nlink ? WHARF_SEGMENT_ANONYMOUS : WHARF_SEGMENT_FILE);
        if (!seg)
                return wh_trace(-ENOMEM);
        seg->fd = fd;
        seg->access = access | WHARF_SEGMENT_READ;
        seg->limit = (uint64_t)st.st_size;
        *ret = seg;
        return 0;
}

int wharf_segment_fd(const wharf_segment *seg)
{
        return seg->fd >= 0 ? seg->fd : -EOPNOTSUPP;
}

int wh_segment_map(const wharf_segment *seg, int prot, void *at, uint64_t from, uint64_t to, void **ret)
{
        void *p;
        int r = wh_os_mmap(at, to - from, prot, MAP_SHARED | (at ? MAP_FIXED_NOREPLACE : 0), seg->fd, (off_t)from, &p);
        if (r < 0)
                return r == -EEXIST ? -EADDRINUSE : r;
        if (at && p != at) { /* a kernel that does not know the flag takes the address as a hint */
                wh_os_munmap(p, to - from);
                return -EADDRINUSE;
        }
        *ret = p;
        return 0;
}

static int attach_sysv(const wharf_segment *seg, uint32_t access, void *at, void **ret)
{
        int r = wh_os_shmat(seg->id, at, wh_segment_writes(access) ? 0 : SHM_RDONLY, ret);
        /* shmat(2) has one answer for a bad id and for an address that is taken; the id was good a moment ago. */
        return r == -EINVAL && at ? -EADDRINUSE : r == -EINVAL ? -EIDRM : r;
}

int wharf_segment_attach(wharf_segment *seg, uint32_t access, void *at)
{
        if (!access_valid(access) || (uintptr_t)at % WH_PAGE)
                return wh_trace(-EINVAL);
        if (seg->base)
                return wh_trace(-EALREADY);
        if (wh_segment_writes(access) && !wh_segment_writes(seg->access))
                return wh_trace(-EACCES);
        uint64_t bytes;
        int r = wh_segment_size(seg, &bytes);
        if (r < 0)
                return wh_trace(r);
        if (!bytes)
                return wh_trace(-ENODATA);
        if (bytes > WH_SEGMENT_BYTES_MAX)
                return wh_trace(-ENOMEM);

        void *base;
        int prot = PROT_READ | (wh_segment_writes(access) ? PROT_WRITE : 0);
        if (seg->kind == WHARF_SEGMENT_SYSV)
                r = attach_sysv(seg, access, at, &base);
        else
                r = wh_segment_map(seg, prot, at, 0, bytes, &base);
        if (r == -EPERM && !at)
                r = -EACCES; /* sealed against writing */
        if (r < 0)
                return wh_trace(r);
        seg->base = base;
        seg->limit = bytes;
        seg->prot = prot;
        seg->chosen = at;
        return 0;
}

int wharf_segment_detach(wharf_segment *seg)
{
        if (!seg->base)
                return wh_trace(-EINVAL);
        int r = seg->kind == WHARF_SEGMENT_SYSV ? wh_os_shmdt(seg->base)
                                                : wh_os_munmap(seg->base, wh_segment_pages(seg->limit));
        if (r < 0)
                return wh_trace(r);
        seg->base = NULL;
        return 0;
}

void *wharf_segment_at(const wharf_segment *seg, uint64_t offset, uint64_t len_bytes)
{
        if (!seg->base || !wh_inside(offset, len_bytes, seg->limit))
                return NULL;
        return (char *)seg->base + offset;
}

int wharf_segment_offset(const wharf_segment *seg, const void *at, uint64_t *ret_offset)
{
        if (wh_unlikely(!ret_offset))
                return -EINVAL;
        uintptr_t a = (uintptr_t)at, base = (uintptr_t)seg->base;
        if (!seg->base || a < base || a - base >= seg->limit)
                return -EFAULT;
        *ret_offset = a - base;
        return 0;
}

void *wharf_segment_base(const wharf_segment *seg)
{
        return seg->base;
}

uint64_t wharf_segment_bytes(const wharf_segment *seg)
{
        return seg->limit;
}

int wharf_segment_sync(wharf_segment *seg)
{
        if (seg->kind != WHARF_SEGMENT_FILE || !seg->base)
                return 0;
        return wh_os_msync(seg->base, wh_segment_pages(seg->limit));
}

int wharf_segment_chmod(wharf_segment *seg, uint32_t mode)
{
        if (mode & ~0777u)
                return wh_trace(-EINVAL);
        if (seg->kind != WHARF_SEGMENT_SYSV)
                return wh_os_fchmod(seg->fd, mode);
        struct shmid_ds ds;
        int r = wh_os_shmctl(seg->id, IPC_STAT, &ds);
        if (r == 0) {
                ds.shm_perm.mode = (unsigned short)mode;
                r = wh_os_shmctl(seg->id, IPC_SET, &ds);
        }
        return r == -EINVAL ? -EIDRM : r;
}

int wharf_segment_chown(wharf_segment *seg, uint32_t uid, uint32_t gid)
{
        if (seg->kind != WHARF_SEGMENT_SYSV)
                return wh_os_fchown(seg->fd, uid, gid);
        struct shmid_ds ds;
        int r = wh_os_shmctl(seg->id, IPC_STAT, &ds);
        if (r == 0) {
                if (uid != UINT32_MAX)
                        ds.shm_perm.uid = uid;
                if (gid != UINT32_MAX)
                        ds.shm_perm.gid = gid;
                r = wh_os_shmctl(seg->id, IPC_SET, &ds);
        }
        return r == -EINVAL ? -EIDRM : r;
}

int wharf_segment_remove(const char *name)
{
        struct wh_segment_name n;
        int r = wh_segment_name(name, &n);
        if (r < 0)
                return wh_trace(r);
        if (n.kind == WHARF_SEGMENT_ANONYMOUS)
                return wh_trace(-EINVAL);
        if (n.kind == WHARF_SEGMENT_SYSV) {
                int id = n.has_id ? n.id : wh_os_shmget(n.key, 0, 0);
                r = id < 0 ? id : wh_os_shmctl(id, IPC_RMID, NULL);
                return r == -EINVAL || r == -EIDRM ? -ENOENT : r;
        }
        struct stat st;
        r = wh_os_stat(n.path, false, &st);
        if (r < 0)
                return wh_trace(r);
        return S_ISREG(st.st_mode) ? wh_os_unlink(n.path) : wh_trace(-ENODEV);
}

wharf_segment *wharf_segment_close(wharf_segment *seg)
{
        if (!seg)
                return NULL;
        if (seg->base)
                wharf_segment_detach(seg);
        wh_os_close(seg->fd);
        free(seg);
        return NULL;
}
