/*
 * segment_create - a new segment, complete before anybody can open it (G2).
 */
#include "memory/segment.h"
#include "base/bits.h"
#include "base/cleanup.h"
#include "base/opts.h"
#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <string.h>
#include <sys/shm.h>

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
        int r = wh_segment_grow(fd, 0, bytes, sparse);
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
        int r = wh_segment_grow(fd, 0, bytes, sparse);
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
        int r = wh_segment_grow(fd, 0, bytes, flags & WHARF_SEGMENT_SPARSE);
        if (r == 0 && mode != 0600)
                r = wh_os_fchmod(fd, mode);
        if (r == 0 && flags & WHARF_SEGMENT_SEALED)
                r = wh_os_seal(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
        return r < 0 ? r : wh_steal_fd(&fd);
}

static int populate_sysv(int id, uint64_t bytes)
{
        void *p;
        int r = wh_os_shmat(id, NULL, 0, &p);
        if (r < 0)
                return r;
        r = wh_segment_populate(p, bytes);
        wh_os_shmdt(p);
        return r == -EFAULT ? -ENOMEM : r; /* what would have been SIGBUS */
}

static int create_sysv(int32_t key, uint64_t bytes, uint32_t mode, bool sparse)
{
        int r = sparse ? 0 : wh_segment_check_memory(bytes);
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
        if (bytes > WH_SEGMENT_BYTES_MAX)
                return wh_trace(-EFBIG);

        WH_AUTO(segment) wharf_segment *seg = wh_segment_new(n.kind);
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
