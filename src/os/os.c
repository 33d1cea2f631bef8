#include "os/os.h"

#include "os/closer.h"
#include "os/lock.h"

#include "base/trace.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

int (*wh_os_gate)(enum wh_os_call call);

/*
 * O5: what glibc makes a cancellation point is called without glibc. A thread that is cancelled in the middle of a send
 * would otherwise end there, with a lock held; and switching cancellation off and on costs as much as a small call.
 */
#define RAW(name, ...) syscall(SYS_##name, __VA_ARGS__)
#if defined(__SANITIZE_THREAD__) && !defined(RAW_SENDMSG)
/* The thread sanitizer remembers who made a descriptor; it must be told where one ends and the next begins. */
void __sanitizer_syscall_pre_impl_close(long fd);
#define CLOSING(fd) __sanitizer_syscall_pre_impl_close(fd)
#else
#define CLOSING(fd) (void)(fd)
#endif
#ifndef RAW_SENDMSG /* the proofs put themselves in between */
#define RAW_SENDMSG(...) RAW(sendmsg, __VA_ARGS__)
#define RAW_RECVMSG(...) RAW(recvmsg, __VA_ARGS__)
#define RAW_GETRANDOM(...) RAW(getrandom, __VA_ARGS__)
#define RAW_PPOLL(...) RAW(ppoll, __VA_ARGS__)
#define RAW_EPOLL_WAIT(...) RAW(epoll_pwait, __VA_ARGS__)
#endif

/* The end of a child of _Fork(), where nothing may run that other threads of the parent had begun. */
static __attribute__((noreturn)) void end_child(int status)
{
        for (;;)
                RAW(exit_group, status);
}

/* Ask the gate, make the call, turn -1 into a negative errno, and leave the caller's errno as it was. */
#define OS_CALL(name, expr)                          \
        ({                                           \
                long r_ = wh_os_enter(WH_OS_##name); \
                if (r_ == 0) {                       \
                        int saved_ = errno;          \
                        r_ = (long)(expr);           \
                        if (r_ == -1)                \
                                r_ = -errno;         \
                        errno = saved_;              \
                }                                    \
                r_;                                  \
        })

enum { ROOM_SOON_NS = 5000000 };

/* One that makes a descriptor. Those that wait for their thread (closer.h) are as good as closed. */
#define OS_FD(name, expr)                                                  \
        ({                                                                 \
                long fd_ = OS_CALL(name, expr);                            \
                if (fd_ == -EMFILE && wh_os_closer_catch_up(ROOM_SOON_NS)) \
                        fd_ = OS_CALL(name, expr);                         \
                fd_;                                                       \
        })

const char *wh_os_call_name(enum wh_os_call call)
{
        static const char *const names[] = {
#define WH_OS_NAME(n) #n,
                WH_OS_CALLS(WH_OS_NAME)
#undef WH_OS_NAME
        };
        return (unsigned)call < WH_OS_CALL_COUNT ? names[call] : "?";
}

/* ---- memory ---- */

void *wh_os_calloc(size_t n, size_t size)
{
        return wh_os_enter(WH_OS_malloc) < 0 ? NULL : calloc(n, size);
}

void *wh_os_malloc(size_t size)
{
        return wh_os_enter(WH_OS_malloc) < 0 ? NULL : malloc(size);
}

void *wh_os_malloc_payload(size_t size)
{
        enum { LARGE_BYTES = 4 << 20 };
        if (wh_os_enter(WH_OS_malloc) < 0 || size > SIZE_MAX - WH_PAYLOAD_ALIGN)
                return NULL;
        size = size ? size : 1;
        size = (size + WH_PAYLOAD_ALIGN - 1) / WH_PAYLOAD_ALIGN * WH_PAYLOAD_ALIGN;
        void *p = aligned_alloc(WH_PAYLOAD_ALIGN, size);
        /* Half of what a large message takes is the kernel's finding its pages, and few large ones are found sooner. */
        const uintptr_t at = ((uintptr_t)p + WH_PAGE - 1) / WH_PAGE * WH_PAGE;
        if (p && size >= LARGE_BYTES)
                (void)wh_os_madvise((void *)at, ((uintptr_t)p + size - at) / WH_PAGE * WH_PAGE, MADV_HUGEPAGE);
        return p;
}

void *wh_os_realloc(void *p, size_t size)
{
        return wh_os_enter(WH_OS_malloc) < 0 ? NULL : realloc(p, size);
}

int wh_os_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off, void **ret)
{
        void *p = MAP_FAILED;
        long r = OS_CALL(mmap, (p = mmap(at, len, prot, flags, fd, off)) == MAP_FAILED ? -1 : 0);
        if (r == 0)
                *ret = p;
        return r == -EAGAIN ? -ENOMEM : (int)r; /* all is locked in memory, and this would be more than may be */
}

int wh_os_munmap(void *p, size_t len)
{
        return (int)OS_CALL(munmap, munmap(p, len));
}

int wh_os_mprotect(void *p, size_t len, int prot)
{
        return (int)OS_CALL(mprotect, mprotect(p, len, prot));
}

int wh_os_madvise(void *p, size_t len, int advice)
{
        return (int)OS_CALL(madvise, madvise(p, len, advice));
}

int wh_os_mincore(void *p, size_t len, unsigned char *ret)
{
        return (int)OS_CALL(mincore, mincore(p, len, ret));
}

/* Held between the two calls of wh_os_mmap_unforked(), and by whoever forks. */
static struct wh_lock fork_lock;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void fork_begins(void)
{
        wh_lock(&fork_lock);
}

static void fork_ended(void)
{
        wh_unlock(&fork_lock);
}

static void fork_in_child(void)
{
        fork_lock = WH_LOCK_INIT; /* whoever waited for it is not here */
}

static void fork_init(void)
{
        pthread_atfork(fork_begins, fork_ended, fork_in_child);
}

int wh_os_mmap_unforked(size_t len, int flags, int fd, void **ret)
{
        void *map = NULL;
        pthread_once(&fork_once, fork_init);
        wh_lock(&fork_lock);
        int r = wh_os_mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, 0, &map);
        if (r == 0) {
                r = wh_os_madvise(map, len, MADV_DONTFORK);
                if (r < 0)
                        wh_os_munmap(map, len);
        }
        wh_unlock(&fork_lock);
        if (r == 0)
                *ret = map;
        return r;
}

int wh_os_mremap(void *p, size_t old_len, size_t len, int flags, void **ret)
{
        void *q = MAP_FAILED;
        long r = OS_CALL(mremap, (q = mremap(p, old_len, len, flags)) == MAP_FAILED ? -1 : 0);
        if (r == 0)
                *ret = q;
        return (int)r;
}

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

bool wh_os_kernel_since(unsigned major, unsigned minor)
{
        static _Atomic uint32_t version; /* relaxed: whoever reads 0 asks itself, and is told the same */
        uint32_t v = atomic_load_explicit(&version, memory_order_relaxed);
        if (v == 0) {
                struct utsname u;
                unsigned a = 0, b = 0;
                int saved = errno;
                if (uname(&u) != 0 || sscanf(u.release, "%u.%u", &a, &b) != 2)
                        a = b = 0;
                errno = saved;
                v = 1u << 31 | (a & 0x7fff) << 16 | (b & 0xffff);
                atomic_store_explicit(&version, v, memory_order_relaxed);
        }
        return (v & ~(1u << 31)) >= (major << 16 | minor);
}

bool wh_os_holes_asked(void)
{
        return wh_os_kernel_since(6, 16);
}

int wh_os_first_hole(int fd, uint64_t *ret)
{
        if (!wh_os_holes_asked())
                return -EOPNOTSUPP;
        off_t at = OS_CALL(lseek, lseek(fd, 0, SEEK_HOLE));
        if (at < 0)
                return -EOPNOTSUPP; /* whatever forbids it */
        *ret = (uint64_t)at;
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

int wh_os_msync(void *p, size_t len)
{
        return (int)OS_CALL(msync, RAW(msync, p, len, MS_SYNC));
}

int wh_os_private_bytes(const void *p, size_t len, uint64_t *ret_bytes)
{
        enum { ENTRIES = 128 }; /* a KiB of stack at a time */
        const uint64_t present = (uint64_t)1 << 63, swapped = (uint64_t)1 << 62, of_file = (uint64_t)1 << 61;
        uint64_t entry[ENTRIES], page = (uint64_t)sysconf(_SC_PAGESIZE), magic, found = 0;
        uint64_t at = (uintptr_t)p / page, end = ((uintptr_t)p + len + page - 1) / page;
        int r = wh_os_enter(WH_OS_pagemap);
        if (r < 0)
                return r;
        int fd = wh_os_open("/proc/self/pagemap", O_RDONLY, 0);
        if (fd < 0)
                return fd;
        r = wh_os_fstatfs(fd, &magic);
        if (r == 0 && magic != PROC_SUPER_MAGIC)
                r = -ENOENT; /* some sandbox's idea of /proc */
        while (r == 0 && at < end) {
                size_t want = (end - at < ENTRIES ? end - at : ENTRIES) * sizeof *entry;
                ssize_t n = (ssize_t)OS_CALL(read, RAW(pread64, fd, entry, want, (off_t)(at * sizeof *entry)));
                if (n == -EINTR)
                        continue;
                if (n < (ssize_t)sizeof *entry) {
                        r = n < 0 ? (int)n : -EIO;
                        break;
                }
                size_t k = (size_t)n / sizeof *entry;
                for (size_t i = 0; i < k; i++)
                        found += (entry[i] & (present | swapped)) && !(entry[i] & of_file);
                at += k;
        }
        wh_os_close(fd);
        if (r == 0)
                *ret_bytes = found * page;
        return r;
}

int wh_os_shmget(int32_t key, size_t len, int flags)
{
        return (int)OS_CALL(shmget, shmget(key, len, flags));
}

int wh_os_shmat(int id, void *at, int flags, void **ret)
{
        void *p = MAP_FAILED;
        long r = OS_CALL(shmat, (p = shmat(id, at, flags)) == MAP_FAILED ? -1 : 0);
        if (r == 0)
                *ret = p;
        return (int)r;
}

int wh_os_shmdt(void *p)
{
        return (int)OS_CALL(shmdt, shmdt(p));
}

int wh_os_shmctl(int id, int cmd, struct shmid_ds *ds)
{
        return (int)OS_CALL(shmctl, shmctl(id, cmd, ds));
}

/* ---- descriptors and files ---- */

/*
 * Descriptors to close in a forked child: one bit each, set and cleared with atomic operations, so that a fork() in
 * the middle of another thread's call finds every bit either set or clear and no lock held.
 */
#define PRIVATE_FDS (1u << 20)
static _Atomic uint64_t private_fds[PRIVATE_FDS / 64];
static _Atomic uint32_t private_fds_top; /* one more than the highest word ever used */
static pthread_once_t private_fds_once = PTHREAD_ONCE_INIT;

static void private_fds_close_in_child(void)
{
        uint32_t top = atomic_load_explicit(&private_fds_top, memory_order_relaxed);
        for (uint32_t w = 0; w < top; w++) {
                uint64_t bits = atomic_exchange_explicit(&private_fds[w], 0, memory_order_relaxed);
                for (; bits; bits &= bits - 1)
                        close((int)(w * 64 + (uint32_t)__builtin_ctzll(bits)));
        }
}

static void private_fds_init(void)
{
        pthread_atfork(NULL, NULL, private_fds_close_in_child);
}

void wh_os_fd_private(int fd)
{
        if (fd < 0 || (uint32_t)fd >= PRIVATE_FDS)
                return;
        pthread_once(&private_fds_once, private_fds_init);
        uint32_t w = (uint32_t)fd / 64, top = atomic_load_explicit(&private_fds_top, memory_order_relaxed);
        while (top <= w && !atomic_compare_exchange_weak_explicit(&private_fds_top, &top, w + 1, memory_order_relaxed,
                                                                  memory_order_relaxed))
                ;
        atomic_fetch_or_explicit(&private_fds[w], (uint64_t)1 << (fd % 64), memory_order_relaxed);
}

void wh_os_fd_shared(int fd)
{
        if (fd < 0 || (uint32_t)fd >= PRIVATE_FDS)
                return;
        _Atomic uint64_t *word = &private_fds[(uint32_t)fd / 64];
        uint64_t bit = (uint64_t)1 << (fd % 64);
        if (atomic_load_explicit(word, memory_order_relaxed) & bit)
                atomic_fetch_and_explicit(word, ~bit, memory_order_relaxed);
}

int wh_os_close(int fd)
{
        if (fd < 0)
                return 0;
        wh_os_fd_shared(fd);
        /* A gate that fails close() only tells the caller so: Linux has always let go of the descriptor by then. */
        int refused = wh_os_enter(WH_OS_close), saved = errno;
        CLOSING(fd);
        int r = RAW(close, fd) < 0 ? -errno : 0;
        errno = saved;
        return refused < 0 ? refused : r;
}

void wh_os_close_now(int fd)
{
        int saved = errno;
        wh_os_fd_shared(fd);
        CLOSING(fd);
        RAW(close, fd);
        errno = saved;
}

int wh_os_dup_above(int fd, int min)
{
        return (int)OS_FD(dup, fcntl(fd, F_DUPFD_CLOEXEC, min));
}

int wh_os_dup_onto(int fd, int to)
{
        return (int)OS_CALL(dup, dup3(fd, to, O_CLOEXEC));
}

int wh_os_dup(int fd)
{
        return wh_os_dup_above(fd, 0);
}

ssize_t wh_os_read(int fd, void *buf, size_t len)
{
        return OS_CALL(read, RAW(read, fd, buf, len));
}

ssize_t wh_os_read_at(int fd, void *buf, size_t len, off_t at)
{
        return OS_CALL(read, RAW(pread64, fd, buf, len, at));
}

ssize_t wh_os_write(int fd, const void *buf, size_t len)
{
        return OS_CALL(write, RAW(write, fd, buf, len));
}

ssize_t wh_os_write_at(int fd, const void *buf, size_t len, off_t at)
{
        int r = os_file_limit(at + (off_t)len);
        return r < 0 ? r : OS_CALL(write, RAW(pwrite64, fd, buf, len, at));
}

int wh_os_open(const char *path, int flags, mode_t mode)
{
        return (int)OS_FD(open, RAW(openat, AT_FDCWD, path, flags | O_CLOEXEC, mode));
}

int wh_os_unlink(const char *path)
{
        return (int)OS_CALL(unlink, unlink(path));
}

int wh_os_mkdir(const char *path, mode_t mode)
{
        return (int)OS_CALL(mkdir, mkdir(path, mode));
}

int wh_os_open_at(int dir, const char *name, int flags, mode_t mode)
{
        return (int)OS_FD(open, RAW(openat, dir, name, flags | O_CLOEXEC, mode));
}

int wh_os_mkdir_at(int dir, const char *name, mode_t mode)
{
        return (int)OS_CALL(mkdir, mkdirat(dir, name, mode));
}

int wh_os_unlink_at(int dir, const char *name)
{
        return (int)OS_CALL(unlink, unlinkat(dir, name, 0));
}

int wh_os_lstat_at(int dir, const char *name, struct stat *ret)
{
        struct stat st;
        int r = (int)OS_CALL(lstat, fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW));
        if (r == 0)
                *ret = st;
        return r;
}

int wh_os_chmod_at(int dir, const char *name, mode_t mode)
{
        return (int)OS_CALL(chmod, fchmodat(dir, name, mode, 0));
}

int wh_os_inotify(void)
{
        return (int)OS_FD(inotify, inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
}

int wh_os_inotify_add(int fd, const char *path, uint32_t mask)
{
        return (int)OS_CALL(inotify, inotify_add_watch(fd, path, mask));
}

int wh_os_rename(const char *from, const char *to)
{
        return (int)OS_CALL(rename, rename(from, to));
}

int wh_os_lstat(const char *path, struct stat *ret)
{
        struct stat st;
        int r = (int)OS_CALL(lstat, lstat(path, &st));
        if (r == 0)
                *ret = st;
        return r;
}

int wh_os_can_execute(const char *path)
{
        return (int)OS_CALL(access, faccessat(AT_FDCWD, path, X_OK, AT_EACCESS));
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

int wh_os_cloexec(int fd)
{
        return (int)OS_CALL(getfl, fcntl(fd, F_SETFD, FD_CLOEXEC));
}

int wh_os_nonblock(int fd, bool on)
{
        int fl = fcntl(fd, F_GETFL);
        if (fl < 0)
                return -errno;
        fl = on ? fl | O_NONBLOCK : fl & ~O_NONBLOCK;
        return fcntl(fd, F_SETFL, fl) < 0 ? -errno : 0;
}

int wh_os_stat(const char *path, bool follow, struct stat *ret)
{
        struct statx x;
        int flags = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT | (follow ? 0 : AT_SYMLINK_NOFOLLOW);
        int r = (int)OS_CALL(stat, statx(AT_FDCWD, path, flags, STATX_BASIC_STATS, &x));
        if (r < 0)
                return r;
        *ret = (struct stat){
                .st_dev = makedev(x.stx_dev_major, x.stx_dev_minor),
                .st_ino = x.stx_ino,
                .st_mode = x.stx_mode,
                .st_nlink = x.stx_nlink,
                .st_uid = x.stx_uid,
                .st_gid = x.stx_gid,
                .st_size = (off_t)x.stx_size,
                .st_blocks = (blkcnt_t)x.stx_blocks,
                .st_mtim = {.tv_sec = x.stx_mtime.tv_sec, .tv_nsec = x.stx_mtime.tv_nsec},
                .st_ctim = {.tv_sec = x.stx_ctime.tv_sec, .tv_nsec = x.stx_ctime.tv_nsec},
        };
        return 0;
}

int wh_os_fd_access(int fd)
{
        int r = (int)OS_CALL(getfl, fcntl(fd, F_GETFL));
        return r < 0 ? r : r & O_PATH ? O_PATH : r & O_ACCMODE;
}

int wh_os_link_fd(int fd, const char *path)
{
        char self[32];
        snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
        return (int)OS_CALL(linkat, linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW));
}

int wh_os_readdir(const char *path, int (*fn)(const char *name, void *arg), void *arg)
{
        int r = wh_os_enter(WH_OS_readdir), saved = errno;
        if (r < 0)
                return r;
        DIR *d = opendir(path);
        r = d ? 0 : -errno;
        for (struct dirent *e; r == 0 && (e = readdir(d));)
                if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
                        r = fn(e->d_name, arg);
        if (d)
                closedir(d);
        errno = saved;
        return r;
}

ssize_t wh_os_readlink(const char *path, char *buf, size_t cap)
{
        return OS_CALL(readlink, readlink(path, buf, cap));
}

/* ---- sockets ---- */

int wh_os_socketpair(int ret[2])
{
        int sv[2];
        int r = (int)OS_FD(socketpair, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
        if (r == 0) {
                ret[0] = sv[0];
                ret[1] = sv[1];
        }
        return r;
}

int wh_os_socket_unix(int type)
{
        return (int)OS_FD(socket, socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

/* The address's length. A path that begins with '@' is an abstract name: no file. */
static int unix_address(const char *path, struct sockaddr_un *ret)
{
        size_t n = strlen(path);
        if (n >= sizeof ret->sun_path)
                return -ENAMETOOLONG;
        *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
        memcpy(ret->sun_path, path, n + 1);
        if (*path != '@')
                return sizeof *ret;
        ret->sun_path[0] = 0;
        return (int)(offsetof(struct sockaddr_un, sun_path) + n);
}

int wh_os_bind_unix(int fd, const char *path)
{
        struct sockaddr_un sa;
        int r = unix_address(path, &sa);
        return r < 0 ? r : (int)OS_CALL(bind, bind(fd, (struct sockaddr *)&sa, (socklen_t)r));
}

int wh_os_connect_unix(int fd, const char *path)
{
        struct sockaddr_un sa;
        int r = unix_address(path, &sa);
        return r < 0 ? r : (int)OS_CALL(connect, RAW(connect, fd, &sa, (socklen_t)r));
}

int wh_os_listen(int fd, int backlog)
{
        return (int)OS_CALL(listen, listen(fd, backlog));
}

int wh_os_accept(int fd)
{
        return (int)OS_FD(accept, RAW(accept4, fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

ssize_t wh_os_sendmsg(int fd, const struct msghdr *m, int flags)
{
        return OS_CALL(sendmsg, RAW_SENDMSG(fd, m, flags | MSG_DONTWAIT | MSG_NOSIGNAL));
}

int wh_os_send_byte(int fd)
{
        char byte = 0;
        return (int)OS_CALL(send, RAW(sendto, fd, &byte, (size_t)1, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, (socklen_t)0));
}

static ssize_t recvmsg_once(int fd, struct msghdr *m, int flags)
{
        return OS_CALL(recvmsg, RAW_RECVMSG(fd, m, flags | MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
}

ssize_t wh_os_recvmsg(int fd, struct msghdr *m, int flags)
{
        const size_t room = m->msg_controllen;
        ssize_t r = recvmsg_once(fd, m, flags);
        /*
         * The kernel looks into the queue first, and then whether the other end is closed. Who sends and closes between
         * the two looks has the end told before what it sent. After the close nothing comes any more, so what the
         * second call says is so (O6).
         */
        if (__builtin_expect(r == 0 && m->msg_controllen == 0, 0)) {
                m->msg_controllen = room;
                r = recvmsg_once(fd, m, flags);
        }
        return r;
}

int wh_os_inq(int fd)
{
        int n = 0;
        int r = (int)OS_CALL(inq, ioctl(fd, SIOCINQ, &n));
        return r < 0 ? r : n;
}

int wh_os_getsockopt(int fd, int level, int name, void *val, socklen_t *len)
{
        return (int)OS_CALL(getsockopt, getsockopt(fd, level, name, val, len));
}

int wh_os_setsockopt(int fd, int level, int name, const void *val, socklen_t len)
{
        return (int)OS_CALL(setsockopt, setsockopt(fd, level, name, val, len));
}

int wh_os_shutdown(int fd, int how)
{
        return (int)OS_CALL(shutdown, shutdown(fd, how));
}

int wh_os_unread(int fd)
{
        int n = 0, saved = errno;
        int r = ioctl(fd, SIOCOUTQ, &n) < 0 ? -errno : n;
        errno = saved;
        return r;
}

/* ---- waiting ---- */

int64_t wh_os_now_ns(void)
{
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

uint64_t wh_os_ticks_per_us(void)
{
#if defined(__x86_64__)
        static _Atomic uint64_t known;
        uint64_t v = atomic_load_explicit(&known, memory_order_relaxed);
        if (v)
                return v;
        int64_t n0 = wh_os_now_ns(), n1;
        uint64_t t0 = wh_os_ticks(), t1;
        do {
                n1 = wh_os_now_ns();
                t1 = wh_os_ticks();
        } while (n1 - n0 < 50000);
        v = (t1 - t0) * 1000 / (uint64_t)(n1 - n0);
        v = v ? v : 1;
        atomic_store_explicit(&known, v, memory_order_relaxed);
        return v;
#else
        return 1000;
#endif
}

/* What a `time_t` of 32 bits can hold as well: 31 years. */
#define FARTHEST_NS ((int64_t)1000000000 * 1000000000)

/* NULL for "for ever"; a deadline that is past becomes a zero wait. */
static const struct timespec *time_left(int64_t deadline_ns, struct timespec *buf)
{
        if (deadline_ns == WH_NEVER)
                return NULL;
        int64_t left = deadline_ns <= 0 ? 0 : deadline_ns - wh_os_now_ns();
        left = left < FARTHEST_NS ? left : FARTHEST_NS;
        left = left < 0 ? 0 : left;
        buf->tv_sec = left / 1000000000;
        buf->tv_nsec = left % 1000000000;
        return buf;
}

int wh_os_poll(struct pollfd *fds, unsigned n, int64_t deadline_ns)
{
        struct timespec ts;
        const struct timespec *left = time_left(deadline_ns, &ts);
        return (int)OS_CALL(poll, RAW_PPOLL(fds, n, left, NULL, (size_t)0));
}

int wh_os_epoll(void)
{
        return (int)OS_FD(epoll_create, epoll_create1(EPOLL_CLOEXEC));
}

int wh_os_epoll_add(int ep, int fd, uint32_t events, uint64_t data)
{
        struct epoll_event ev = {.events = events, .data.u64 = data};
        return (int)OS_CALL(epoll_ctl, epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
}

int wh_os_epoll_mod(int ep, int fd, uint32_t events, uint64_t data)
{
        struct epoll_event ev = {.events = events, .data.u64 = data};
        return (int)OS_CALL(epoll_ctl, epoll_ctl(ep, EPOLL_CTL_MOD, fd, &ev));
}

int wh_os_epoll_del(int ep, int fd)
{
        return (int)OS_CALL(epoll_del, epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL));
}

int wh_os_epoll_wait(int ep, struct epoll_event *ev, int n, int64_t deadline_ns)
{
        if (deadline_ns == 0 || deadline_ns == WH_NEVER)
                return (int)OS_CALL(epoll_wait, RAW_EPOLL_WAIT(ep, ev, n, deadline_ns ? -1 : 0, NULL, (size_t)8));
        struct timespec ts;
        const struct timespec *left = time_left(deadline_ns, &ts);
        const struct {
                int64_t sec, nsec;
        } wide = {left->tv_sec, left->tv_nsec}; /* this call takes no other, also where `time_t` has 32 bits */
        int r = (int)OS_CALL(epoll_wait, syscall(SYS_epoll_pwait2, ep, ev, n, &wide, NULL, (size_t)8));
        if (r != -EPERM && r != -ENOSYS)
                return r;
        /* A sandbox that has not heard of it yet: in milliseconds, and not before the deadline. */
        const int64_t ms = (int64_t)left->tv_sec * 1000 + (left->tv_nsec + 999999) / 1000000;
        return (int)OS_CALL(epoll_wait, RAW_EPOLL_WAIT(ep, ev, n, ms < INT_MAX ? (int)ms : INT_MAX, NULL, (size_t)8));
}

int wh_os_eventfd(void)
{
        return (int)OS_FD(eventfd, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

int wh_os_eventfd_set(int fd)
{
        uint64_t one = 1;
        ssize_t r = wh_os_write(fd, &one, sizeof one);
        return r < 0 && r != -EAGAIN ? (int)r : 0; /* -EAGAIN: as full as it can be, so it is set */
}

int wh_os_eventfd_clear(int fd)
{
        uint64_t v;
        ssize_t r = wh_os_read(fd, &v, sizeof v);
        return r < 0 && r != -EAGAIN ? (int)r : 0;
}

int wh_os_futex_wait(_Atomic uint32_t *word, uint32_t expect, int64_t deadline_ns, bool shared)
{
        /* FUTEX_WAIT_BITSET takes an absolute time. */
        struct timespec ts = {0}, *until = NULL;
        if (deadline_ns != WH_NEVER) {
                int64_t d = deadline_ns < 0 ? 0 : deadline_ns < 2 * FARTHEST_NS ? deadline_ns : 2 * FARTHEST_NS;
                ts.tv_sec = d / 1000000000;
                ts.tv_nsec = d % 1000000000;
                until = &ts;
        }
        int op = FUTEX_WAIT_BITSET | (shared ? 0 : FUTEX_PRIVATE_FLAG);
        return (int)OS_CALL(futex_wait, syscall(SYS_futex, word, op, expect, until, NULL, FUTEX_BITSET_MATCH_ANY));
}

int wh_os_futex_wake(_Atomic uint32_t *word, int n, bool shared)
{
        int op = FUTEX_WAKE | (shared ? 0 : FUTEX_PRIVATE_FLAG);
        return (int)OS_CALL(futex_wake, syscall(SYS_futex, word, op, n, NULL, NULL, 0));
}

/* ---- processes ---- */

pid_t wh_os_getpid(void)
{
        return getpid();
}

pid_t wh_os_gettid(void)
{
        return (pid_t)syscall(SYS_gettid);
}

uid_t wh_os_getuid(void)
{
        return getuid();
}

uid_t wh_os_geteuid(void)
{
        return geteuid();
}

gid_t wh_os_getgid(void)
{
        return getgid();
}

int wh_os_pidfd_open(pid_t pid)
{
        return (int)OS_FD(pidfd_open, syscall(SYS_pidfd_open, pid, 0));
}

int wh_os_pidfd_kill(int pidfd, int sig)
{
        return (int)OS_CALL(pidfd_send_signal, syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0));
}

int wh_os_kill(pid_t pid, int sig)
{
        return (int)OS_CALL(kill, kill(pid, sig));
}

int wh_os_rlimit(int which, uint64_t *ret)
{
        struct rlimit lim;
        int r = (int)OS_CALL(getrlimit, getrlimit((__rlimit_resource_t)which, &lim));
        if (r == 0)
                *ret = lim.rlim_cur == RLIM_INFINITY ? UINT64_MAX : lim.rlim_cur;
        return r;
}

bool wh_os_is_stopped(pid_t pid)
{
        char path[32], buf[256];
        snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
        int fd = wh_os_open(path, O_RDONLY, 0);
        ssize_t n = fd < 0 ? fd : wh_os_read(fd, buf, sizeof buf - 1);
        wh_os_close(fd);
        if (n <= 0)
                return false;
        buf[n] = 0;
        const char *p = strrchr(buf, ')');      /* the name before it may hold anything */
        return p && p[1] == ' ' && p[2] == 'T'; /* not t: a tracer stops it now and then, and lets it go on */
}

int wh_os_self_exe(char *buf, size_t cap)
{
        ssize_t n = wh_os_readlink("/proc/self/exe", buf, cap - 1);
        if (n > 0) {
                buf[n] = 0;
                return 0;
        }
        /* The kernel put it on our stack at exec(). Not for a program with rights that its caller has not. */
        const char *at = (const char *)getauxval(AT_EXECFN); // NOLINT(performance-no-int-to-ptr)
        char *full = !at || getauxval(AT_SECURE) ? NULL : realpath(at, NULL);
        size_t len = full ? strlen(full) : cap;
        if (len < cap)
                memcpy(buf, full, len + 1);
        free(full);
        return len < cap ? 0 : -ENOENT;
}

int wh_os_cpus(void)
{
        long n = sysconf(_SC_NPROCESSORS_ONLN);
        return n > 0 ? (int)n : 1;
}

ssize_t wh_os_process_vm_readv(pid_t pid, const struct iovec *to, unsigned n_to, const struct iovec *from, unsigned n)
{
        return OS_CALL(process_vm_readv, process_vm_readv(pid, to, n_to, from, n, 0));
}

ssize_t wh_os_process_vm_writev(pid_t pid, const struct iovec *from, unsigned n_from, const struct iovec *to,
                                unsigned n)
{
        return OS_CALL(process_vm_writev, process_vm_writev(pid, from, n_from, to, n, 0));
}

int wh_os_getrandom(void *buf, size_t len)
{
        ssize_t r = OS_CALL(getrandom, RAW_GETRANDOM(buf, len, 0));
        return r < 0 ? (int)r : (size_t)r == len ? 0 : -EIO;
}

/*
 * In the grandchild: put each descriptor in its place and run. Between fork and exec only calls that are safe in a
 * child of a threaded process are allowed, so everything was prepared before.
 */
static void spawn_grandchild(char *const argv[], const int *fds, unsigned n_fds, char *const env[], bool quiet,
                             int err_fd)
{
        setsid();
        int err = err_fd < 0 ? -1 : fcntl(err_fd, F_DUPFD, 3); /* it may be one of the three that are replaced */
        if (quiet) {
                int null = open("/dev/null", O_RDWR);
                for (int i = 0; i < 3 && null >= 0; i++)
                        dup2(null, i);
        }
        if (err >= 0)
                dup2(err, STDERR_FILENO);
        /*
         * First out of the way of every target, then down to it: the lists may overlap in any order. No higher than
         * that takes: where 64 descriptors are allowed, number 64 is none.
         */
        int high[16];
        if (n_fds > sizeof high / sizeof *high)
                end_child(126);
        for (unsigned i = 0; i < n_fds; i++)
                if ((high[i] = fcntl(fds[i], F_DUPFD, 3 + (int)n_fds)) < 0)
                        end_child(126);
        for (unsigned i = 0; i < n_fds; i++)
                if (dup2(high[i], 3 + (int)i) < 0)
                        end_child(126);
        syscall(SYS_close_range, 3 + n_fds, ~0u, 0);
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execvpe(argv[0], argv, env);
        end_child(127);
}

int wh_os_spawn_detached(char *const argv[], const int *fds, unsigned n_fds, char *const env[], bool quiet, int err_fd)
{
        int r = wh_os_enter(WH_OS_spawn);
        if (r < 0)
                return r;
        unsigned n_env = 0, n_extra = 0;
        while (environ && environ[n_env])
                n_env++;
        while (env && env[n_extra])
                n_extra++;
        char **all = calloc(n_env + n_extra + 1, sizeof *all);
        if (!all)
                return wh_trace(-ENOMEM);
        for (unsigned i = 0; i < n_env; i++)
                all[i] = environ[i];
        for (unsigned i = 0; i < n_extra; i++)
                all[n_env + i] = env[i];

        /*
         * _Fork() runs no pthread_atfork() handler: none of the caller's, and not ours, which would close the very
         * descriptors that are to be handed on when they are private.
         */
        pid_t pid = _Fork();
        if (pid == 0) {
                pid_t grand = _Fork();
                if (grand == 0)
                        spawn_grandchild(argv, fds, n_fds, all, quiet, err_fd);
                end_child(grand < 0 ? 126 : 0);
        }
        r = pid < 0 ? -errno : 0;
        free(all);
        int st = 0;
        while (pid > 0 && RAW(wait4, pid, &st, 0, NULL) < 0 && errno == EINTR)
                ;
        if (r == 0 && !(WIFEXITED(st) && WEXITSTATUS(st) == 0))
                r = -EAGAIN;
        return r;
}

pid_t wh_os_spawn_activated(char *const argv[], const int *fds, unsigned n_fds, char *const env[])
{
        int r = wh_os_enter(WH_OS_spawn);
        if (r < 0)
                return r;
        unsigned n_env = 0;
        while (env[n_env])
                n_env++;
        char pid_is[32] = "LISTEN_PID=";
        int *high = calloc(n_fds + 1, sizeof *high);
        char **all = calloc(n_env + 2, sizeof *all);
        if (!high || !all) {
                free(high);
                free(all);
                return wh_trace(-ENOMEM);
        }
        memcpy(all, env, n_env * sizeof *all);
        all[n_env] = pid_is;
        pid_t pid = _Fork();
        if (pid == 0) {
                /* First out of the way of every target, then down to it. Only async-signal-safe calls from here on. */
                for (unsigned i = 0; i < n_fds; i++)
                        if ((high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3 + (int)n_fds)) < 0)
                                end_child(126);
                for (unsigned i = 0; i < n_fds; i++)
                        if (dup2(high[i], 3 + (int)i) < 0)
                                end_child(126);
                syscall(SYS_close_range, 3 + n_fds, ~0u, 0);
                char digits[16], *at = pid_is + strlen(pid_is);
                unsigned n = 0;
                for (pid_t v = getpid(); v; v /= 10)
                        digits[n++] = (char)('0' + v % 10);
                while (n)
                        *at++ = digits[--n];
                *at = 0;
                sigset_t none;
                sigemptyset(&none);
                sigprocmask(SIG_SETMASK, &none, NULL);
                execve(argv[0], argv, all);
                end_child(127);
        }
        r = pid < 0 ? -errno : 0;
        free(high);
        free(all);
        return r < 0 ? r : pid;
}

int wh_os_wait(pid_t pid, int *ret)
{
        return (int)OS_CALL(wait, waitpid(pid, ret, 0) < 0 ? -1 : 0);
}
