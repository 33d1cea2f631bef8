/*
 * file - a file or memfd that is open: its size, blocks, seals, owner, and locks on it.
 */
#include "os/call.h"

#include <linux/magic.h>
#include <linux/memfd.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/vfs.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

int wh_os_memfd(const char *name)
{
        int fd = (int)OS_FD(memfd_create, memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL));
        if (fd == -EINVAL) /* before Linux 6.3 */
                fd = (int)OS_FD(memfd_create, memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
        if (fd < 0)
                return fd;
        /* A memfd is born 0777: another user with a read-only descriptor could reopen it for writing through /proc. */
        int r = wh_os_fchmod(fd, 0600);
        if (r < 0) {
                wh_os_close(fd);
                return r;
        }
        return fd;
}

/*
 * RLIMIT_FSIZE turns growing a file into SIGXFSZ, which kills by default. Library code may not change a signal's
 * handling, so it asks for the limit first.
 */
static int os_file_limit(off_t end)
{
        struct rlimit lim;
        if (end > 0 && getrlimit(RLIMIT_FSIZE, &lim) == 0 && lim.rlim_cur != RLIM_INFINITY &&
            (uint64_t)end > (uint64_t)lim.rlim_cur)
                return -EFBIG;
        return 0;
}

int wh_os_ftruncate(int fd, off_t len)
{
        int r = os_file_limit(len);
        return r < 0 ? r : (int)OS_CALL(ftruncate, ftruncate(fd, len));
}

/*
 * Some kernels undo all of it when a signal comes, so a timer that is faster than a large memory is made would have it
 * made again and again for ever. After the first interruption signals wait until it is done.
 */
int wh_os_fallocate(int fd, int mode, off_t off, off_t len)
{
        sigset_t all, before;
        bool waiting = false;
        int r = mode & FALLOC_FL_PUNCH_HOLE ? 0 : os_file_limit(off + len);
        while (r == 0 && (r = (int)OS_CALL(fallocate, RAW(fallocate, fd, mode, off, len))) == -EINTR) {
                r = 0;
                if (!waiting) {
                        sigfillset(&all);
                        waiting = pthread_sigmask(SIG_SETMASK, &all, &before) == 0;
                }
        }
        if (waiting)
                pthread_sigmask(SIG_SETMASK, &before, NULL);
        return r;
}

ssize_t wh_os_write_at(int fd, const void *buf, size_t len, off_t at)
{
        int r = os_file_limit(at + (off_t)len);
        return r < 0 ? r : OS_CALL(write, RAW(pwrite64, fd, buf, len, at));
}

int wh_os_seal(int fd, int seals)
{
        return (int)OS_CALL(seal, fcntl(fd, F_ADD_SEALS, seals));
}

int wh_os_get_seals(int fd)
{
        return (int)OS_CALL(get_seals, fcntl(fd, F_GET_SEALS));
}

int wh_os_fstat(int fd, struct stat *ret)
{
        struct stat st;
        int r = (int)OS_CALL(fstat, fstat(fd, &st));
        if (r == 0)
                *ret = st;
        return r;
}

int wh_os_fstatfs(int fd, uint64_t *ret_magic)
{
        struct statfs fs;
        int r = (int)OS_CALL(fstatfs, fstatfs(fd, &fs));
        if (r == 0)
                *ret_magic = (uint64_t)fs.f_type;
        return r;
}

bool wh_os_holes_asked(void)
{
        return wh_os_kernel_since(6, 5);
}

int wh_os_bytes_there(int fd, uint64_t len, uint64_t *ret)
{
        struct {
                uint64_t at, len;
        } range = {0, len};
        struct {
                uint64_t cached, dirty, written_back, evicted, recently;
        } pages = {0};
        if (!wh_os_holes_asked() || OS_CALL(cachestat, syscall(WH_OS_SYS_CACHESTAT, fd, &range, &pages, 0)) < 0)
                return -EOPNOTSUPP; /* whatever forbids it */
        *ret = (pages.cached + pages.evicted) * (uint64_t)sysconf(_SC_PAGESIZE);
        return 0;
}

int wh_os_fchmod(int fd, mode_t mode)
{
        return (int)OS_CALL(fchmod, fchmod(fd, mode));
}

int wh_os_chmod(const char *path, mode_t mode)
{
        return (int)OS_CALL(chmod, chmod(path, mode));
}

int wh_os_fchown(int fd, uid_t uid, gid_t gid)
{
        return (int)OS_CALL(fchown, fchown(fd, uid, gid));
}

int wh_os_flock(int fd, int op)
{
        return (int)OS_CALL(flock, flock(fd, op));
}

int wh_os_lock_byte(int fd, int64_t at)
{
        struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)at, .l_len = 1};
        int r = (int)OS_CALL(lock_byte, fcntl(fd, F_OFD_SETLK, &l));
        return r == -EACCES ? -EAGAIN : r;
}

int wh_os_byte_locked(int fd, int64_t at)
{
        struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)at, .l_len = 1};
        int r = (int)OS_CALL(byte_locked, fcntl(fd, F_OFD_GETLK, &l));
        return r < 0 ? r : l.l_type != F_UNLCK;
}
