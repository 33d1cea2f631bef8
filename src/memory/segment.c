/*
 * segment - shared memory of four kinds behind one handle.
 *
 * Why: POSIX objects, files and memfds are descriptors and differ only in how one comes by them; System V segments
 * are identifiers. After opening, all that differs is how they are mapped, which is the only thing that the functions
 * below tell apart.
 *
 * Always true:
 *   G1  base is NULL or the start of a shared mapping of exactly round_up(limit) bytes.
 *   G2  A segment gets its name last: what can be opened by name is complete. Where the kernel cannot do that, a
 *       failure or an error removes the name again.
 *   G3  Nothing that was mapped before is ever replaced: MAP_FIXED_NOREPLACE, and shmat() without SHM_REMAP.
 *   G4  No call follows an offset: wharf_segment_at() compares it with the limit, which lives in private memory.
 */
#include "memory/segment.h"
#include "base/bits.h"
#include "base/cleanup.h"
#include "base/opts.h"
#include "base/trace.h"
#include "base/why.h"
#include "os/left.h"
#include "os/os.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/shm.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define SIZE_MAX_BYTES ((uint64_t)INT64_MAX - WH_PAGE)
/* Blocks are reserved in steps: a step that a signal interrupts is undone and made again, so it must be able to end. */
#define RESERVE_STEP ((uint64_t)16 << 20)

WH_AUTO_DEFINE(segment, wharf_segment, (void)wharf_segment_close);

static wharf_segment *segment_new(uint32_t kind)
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

static bool access_writes(uint32_t access)
{
        return access & WHARF_SEGMENT_WRITE;
}

/* ---- size ---- */

/*
 * Reserving memory without asking how much there is makes the kernel kill other processes, or this one, before we hear
 * of it: a memfd's file system has no limit. -ENOMEM when it cannot be.
 */
static int check_memory(uint64_t bytes)
{
        struct wh_os_left left;
        int r = wh_os_memory_left(&left);
        if (r < 0 || bytes <= left.bytes)
                return r;
        wh_set_why("%" PRIu64 " bytes, of which %s leaves %" PRIu64, bytes, left.what, left.bytes);
        return wh_trace(-ENOMEM);
}

/*
 * From `old` to more `bytes`, in one change of the size, after all blocks are there. On failure the file is as it was.
 */
static int grow(int fd, uint64_t old, uint64_t bytes, bool sparse)
{
        uint64_t fs = 0;
        int r = sparse ? 0 : wh_os_fstatfs(fd, &fs);
        if (r == 0 && !sparse && (fs == TMPFS_MAGIC || fs == RAMFS_MAGIC))
                r = check_memory(bytes - old);
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

static int size_of(const wharf_segment *seg, uint64_t *ret)
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

/* ---- creating ---- */

/*
 * A file without a name gets size, blocks and mode, and then its name in one step (G2).
 * -EOPNOTSUPP where the file system or the absence of /proc does not allow that.
 */
static int create_then_link(const char *path, uint64_t bytes, uint32_t mode, bool sparse)
{
        const char *slash = strrchr(path, '/');
        size_t len = slash && slash > path ? (size_t)(slash - path) : 1; /* "/name" is in "/" */
        WH_AUTO_MEM char *dir = wh_os_calloc(1, len + 1);
        if (!dir)
                return wh_trace(-ENOMEM);
        memcpy(dir, slash ? path : ".", len);

        WH_AUTO_FD int fd = wh_os_open(dir, O_TMPFILE | O_RDWR, 0600);
        if (fd == -EISDIR || fd == -EINVAL)
                return -EOPNOTSUPP;
        if (fd < 0)
                return fd;
        int r = grow(fd, 0, bytes, sparse);
        if (r == 0)
                r = wh_os_fchmod(fd, mode);
        if (r < 0)
                return r == -EOPNOTSUPP ? -ENOTSUP : r;
        r = wh_os_link_fd(fd, path);
        if (r == -ENOENT || r == -EPERM || r == -EXDEV)
                return -EOPNOTSUPP;
        return r < 0 ? r : wh_steal_fd(&fd);
}

static int create_plainly(const char *path, uint64_t bytes, uint32_t mode, bool sparse)
{
        /* Nobody else can open it before it is complete: the mode comes last. */
        WH_AUTO_FD int fd = wh_os_open(path, O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR, 0600);
        if (fd < 0)
                return fd;
        int r = grow(fd, 0, bytes, sparse);
        if (r == 0)
                r = wh_os_fchmod(fd, mode);
        if (r < 0) {
                wh_os_unlink(path);
                return r;
        }
        return wh_steal_fd(&fd);
}

static int create_named(const char *path, uint64_t bytes, uint32_t mode, bool sparse)
{
        struct stat st;
        if (wh_os_stat(path, false, &st) == 0)
                return -EEXIST; /* before memory is reserved in vain; the last word has the link */
        int fd = create_then_link(path, bytes, mode, sparse);
        return fd == -EOPNOTSUPP ? create_plainly(path, bytes, mode, sparse) : fd;
}

static int create_anonymous(const char *label, uint64_t bytes, uint32_t mode, uint32_t flags)
{
        WH_AUTO_FD int fd = wh_os_memfd(label);
        if (fd < 0)
                return fd;
        int r = grow(fd, 0, bytes, flags & WHARF_SEGMENT_SPARSE);
        if (r == 0 && mode != 0600)
                r = wh_os_fchmod(fd, mode);
        if (r == 0 && flags & WHARF_SEGMENT_SEALED)
                r = wh_os_seal(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
        return r < 0 ? r : wh_steal_fd(&fd);
}

/* Have every page of a writable mapping made now, so that none is missing later. */
static int populate(void *p, uint64_t bytes)
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

static int populate_sysv(int id, uint64_t bytes)
{
        void *p;
        int r = wh_os_shmat(id, NULL, 0, &p);
        if (r < 0)
                return r;
        r = populate(p, bytes);
        wh_os_shmdt(p);
        return r == -EFAULT ? -ENOMEM : r; /* what would have been SIGBUS */
}

static int create_sysv(int32_t key, uint64_t bytes, uint32_t mode, bool sparse)
{
        int r = sparse ? 0 : check_memory(bytes);
        if (r < 0)
                return r;
        int id = wh_os_shmget(key, bytes, IPC_CREAT | IPC_EXCL | 0600);
        if (id < 0)
                return id == -EINVAL ? -ENOMEM : id; /* above kernel.shmmax */
        r = sparse ? 0 : populate_sysv(id, bytes);
        struct shmid_ds ds;
        if (r == 0 && mode != 0600 && (r = wh_os_shmctl(id, IPC_STAT, &ds)) == 0) {
                ds.shm_perm.mode = (unsigned short)mode;
                r = wh_os_shmctl(id, IPC_SET, &ds);
        }
        if (r < 0) {
                wh_os_shmctl(id, IPC_RMID, NULL);
                return r;
        }
        return id;
}

int wharf_segment_create(const char *name, uint64_t bytes, const struct wharf_segment_opts *opts, wharf_segment **ret)
{
        if (wh_unlikely(!ret))
                return -EINVAL;
        struct wharf_segment_opts o = {.size = sizeof o};
        if (opts && !wh_opts_take(&o, sizeof o, sizeof o, opts, opts->size))
                return -EINVAL;
        uint32_t mode = o.mode ? o.mode : 0600;
        bool sparse = o.flags & WHARF_SEGMENT_SPARSE;
        struct wh_segment_name n;
        int r = wh_segment_name(name, &n);
        if (r < 0)
                return wh_trace(r);
        if (!bytes || mode & ~0777u || o.flags & ~(WHARF_SEGMENT_SPARSE | WHARF_SEGMENT_SEALED) || o.reserved ||
            n.has_id || (o.flags & WHARF_SEGMENT_SEALED && n.kind != WHARF_SEGMENT_ANONYMOUS))
                return wh_trace(-EINVAL);
        if (bytes > SIZE_MAX_BYTES)
                return wh_trace(-EFBIG);

        WH_AUTO(segment) wharf_segment *seg = segment_new(n.kind);
        if (!seg)
                return wh_trace(-ENOMEM);
        if (n.kind == WHARF_SEGMENT_SYSV)
                r = seg->id = create_sysv(n.key, bytes, mode, sparse);
        else if (n.kind == WHARF_SEGMENT_ANONYMOUS)
                r = seg->fd = create_anonymous(n.path, bytes, mode, o.flags);
        else
                r = seg->fd = create_named(n.path, bytes, mode, sparse);
        if (r < 0)
                return wh_trace(r);
        seg->access = WHARF_SEGMENT_READ | WHARF_SEGMENT_WRITE;
        seg->flags = o.flags;
        seg->limit = bytes;
        *ret = wh_steal(&seg);
        return 0;
}

/* ---- opening ---- */

static int open_sysv(const struct wh_segment_name *n, uint32_t access)
{
        if (n->has_id)
                return n->id;
        return wh_os_shmget(n->key, 0, access_writes(access) ? 0600 : 0400);
}

static int open_path(const struct wh_segment_name *n, uint32_t access)
{
        /* O_NONBLOCK, so that a FIFO of that name cannot hold us. */
        int flags = (access_writes(access) ? O_RDWR : O_RDONLY) | O_NONBLOCK | O_NOCTTY;
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

        WH_AUTO(segment) wharf_segment *seg = segment_new(n.kind);
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
                r = size_of(seg, &seg->limit);
        if (r < 0)
                return wh_trace(r == -EIDRM ? -ENOENT : r);
        seg->access = access | WHARF_SEGMENT_READ;
        *ret = wh_steal(&seg);
        return 0;
}

int wharf_segment_from_fd(int fd, uint32_t access, uint32_t flags, wharf_segment **ret)
{
        if (wh_unlikely(!ret))
                return -EINVAL;
        if (!access_valid(access) || flags & ~WHARF_SEGMENT_SEALED)
                return wh_trace(-EINVAL);
        struct stat st;
        int r = check_regular(fd, &st);
        if (r < 0)
                return wh_trace(r);
        int mode = wh_os_fd_access(fd);
        if (mode < 0)
                return wh_trace(mode);
        if (mode != O_RDWR && (access_writes(access) || mode != O_RDONLY))
                return wh_trace(-EACCES);
        int seals = wh_os_get_seals(fd);
        const int wanted = F_SEAL_SHRINK | F_SEAL_GROW;
        bool whole = (uint64_t)st.st_blocks * 512 >= (uint64_t)st.st_size;
        if (flags & WHARF_SEGMENT_SEALED && (seals < 0 || (seals & wanted) != wanted || !whole))
                return wh_trace(-EPROTO);

        wharf_segment *seg = segment_new(seals >= 0 && !st.st_nlink ? WHARF_SEGMENT_ANONYMOUS : WHARF_SEGMENT_FILE);
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

/* ---- attaching ---- */

static uint64_t pages(uint64_t bytes)
{
        return wh_round_up(bytes, WH_PAGE);
}

/* Map [from, to) of the descriptor, at `at` or anywhere. */
static int map_part(const wharf_segment *seg, int prot, void *at, uint64_t from, uint64_t to, void **ret)
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
        int r = wh_os_shmat(seg->id, at, access_writes(access) ? 0 : SHM_RDONLY, ret);
        /* shmat(2) has one answer for a bad id and for an address that is taken; the id was good a moment ago. */
        return r == -EINVAL && at ? -EADDRINUSE : r == -EINVAL ? -EIDRM : r;
}

int wharf_segment_attach(wharf_segment *seg, uint32_t access, void *at)
{
        if (!access_valid(access) || (uintptr_t)at % WH_PAGE)
                return wh_trace(-EINVAL);
        if (seg->base)
                return wh_trace(-EALREADY);
        if (access_writes(access) && !access_writes(seg->access))
                return wh_trace(-EACCES);
        uint64_t bytes;
        int r = size_of(seg, &bytes);
        if (r < 0)
                return wh_trace(r);
        if (!bytes)
                return wh_trace(-ENODATA);
        if (bytes > SIZE_MAX_BYTES)
                return wh_trace(-ENOMEM);

        void *base;
        int prot = PROT_READ | (access_writes(access) ? PROT_WRITE : 0);
        if (seg->kind == WHARF_SEGMENT_SYSV)
                r = attach_sysv(seg, access, at, &base);
        else
                r = map_part(seg, prot, at, 0, bytes, &base);
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
        int r = seg->kind == WHARF_SEGMENT_SYSV ? wh_os_shmdt(seg->base) : wh_os_munmap(seg->base, pages(seg->limit));
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

/* ---- resizing ---- */

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
        uint64_t have = pages(seg->limit), want = pages(bytes);
        *ret = (struct remap){.base = seg->base};
        if (!seg->base || want <= have)
                return 0;
        int r = map_part(seg, seg->prot, (char *)seg->base + have, have, want, &ret->fresh);
        ret->fresh_len = want - have;
        if (r == 0 || seg->chosen)
                return r;
        r = map_part(seg, seg->prot, NULL, 0, want, &ret->fresh);
        ret->base = ret->fresh;
        ret->fresh_len = want;
        return r;
}

static void remap_commit(wharf_segment *seg, uint64_t bytes, const struct remap *m)
{
        uint64_t have = pages(seg->limit), want = pages(bytes);
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
        if (!access_writes(seg->access))
                return wh_trace(-EACCES);
        if (!bytes || bytes > SIZE_MAX_BYTES)
                return wh_trace(-EINVAL);
        uint64_t old;
        int r = size_of(seg, &old);
        if (r < 0)
                return wh_trace(r);
        struct remap m;
        r = remap_prepare(seg, bytes, &m);
        if (r < 0)
                return wh_trace(r);
        r = bytes > old ? grow(seg->fd, old, bytes, seg->flags & WHARF_SEGMENT_SPARSE)
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
        int r = size_of(seg, &bytes);
        if (r < 0)
                return wh_trace(r);
        if (bytes == seg->limit)
                return 0;
        if (!bytes || bytes > SIZE_MAX_BYTES)
                return wh_trace(-EINVAL);
        struct remap m;
        r = remap_prepare(seg, bytes, &m);
        if (r < 0)
                return wh_trace(r);
        remap_commit(seg, bytes, &m);
        return 1;
}

int wharf_segment_reserve(wharf_segment *seg, uint64_t offset, uint64_t len_bytes)
{
        uint64_t bytes, fs = 0;
        int r = size_of(seg, &bytes);
        if (r < 0)
                return wh_trace(r);
        if (!wh_inside(offset, len_bytes, bytes))
                return wh_trace(-EINVAL);
        if (!access_writes(seg->access))
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
                        r = check_memory(missing);
                if (r == 0)
                        r = populate((char *)seg->base + from, offset + len_bytes - from);
                return r == -EFAULT ? wh_trace(-ENOMEM) : r;
        }
        struct stat st;
        r = wh_os_fstat(seg->fd, &st);
        if (r == 0)
                r = wh_os_fstatfs(seg->fd, &fs);
        if (r == 0 && (fs == TMPFS_MAGIC || fs == RAMFS_MAGIC)) {
                uint64_t there = (uint64_t)st.st_blocks * 512, missing = there < bytes ? bytes - there : 0;
                r = check_memory(missing < len_bytes ? missing : len_bytes);
        }
        /* In one go: what a failure had reserved, the file system gives back, if it is one of memory. */
        if (r == 0)
                r = wh_os_fallocate(seg->fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len_bytes);
        if (r == -EOPNOTSUPP && seg->base && seg->prot & PROT_WRITE && wh_inside(offset, len_bytes, seg->limit)) {
                uint64_t from = offset / WH_PAGE * WH_PAGE;
                r = populate((char *)seg->base + from, offset + len_bytes - from);
                r = r == -EFAULT ? -ENOSPC : r;
        }
        return r < 0 ? wh_trace(r) : 0;
}

int wharf_segment_sync(wharf_segment *seg)
{
        if (seg->kind != WHARF_SEGMENT_FILE || !seg->base)
                return 0;
        return wh_os_msync(seg->base, pages(seg->limit));
}

/* ---- permissions, removal ---- */

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

/* ---- stat ---- */

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
