/*
 * fd - descriptors: closing, copying, reading and writing them, and those that no forked child may keep.
 */
#include "os/call.h"

#include <pthread.h>
#include <stdatomic.h>

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

int wh_os_fd_access(int fd)
{
        int r = (int)OS_CALL(getfl, fcntl(fd, F_GETFL));
        return r < 0 ? r : r & O_PATH ? O_PATH : r & O_ACCMODE;
}
