#include "os/task.h"

#include "os/lock.h"
#include "os/os.h"

#include "base/cleanup.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#define PIDFS_MAGIC 0x50494446u
#define LOCK_FILE "/dev/zero"
#define TAG_LOW_SHIFT 26
#define TAG_LOW_BITS 5
#define TAG_HIGH_BITS 7
#define DRAWN_BITS (32 - TAG_HIGH_BITS)
#define SLEEP_BIT UINT64_C(0x80000000) /* not ours: memory/mutex.h */

_Atomic uint64_t wh_task_known;
static __thread uint32_t thread_known;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct wh_lock self_lock = WH_LOCK_INIT; /* so that all threads have one id */

static void forget_in_child(void)
{
        atomic_store_explicit(&wh_task_known, 0, memory_order_relaxed);
        self_lock = WH_LOCK_INIT; /* whoever had it is not here */
        thread_known = 0;
}

static void watch_forks(void)
{
        pthread_atfork(NULL, NULL, forget_in_child);
}

/*
 * The kernel's number of the process behind a pidfd, folded so that it is never 0. 0 when it has none, which before
 * Linux 6.9 is always so; *ret_none tells that from not being told.
 */
static uint32_t pidfs_number(int pidfd, bool *ret_none)
{
        uint64_t magic;
        struct stat st;
        *ret_none = wh_os_fstatfs(pidfd, &magic) == 0 && magic != PIDFS_MAGIC;
        if (*ret_none || wh_os_fstat(pidfd, &st) < 0 || magic != PIDFS_MAGIC)
                return 0;
        uint32_t n = (uint32_t)st.st_ino;
        return n ? n : 1;
}

/* Field 22 of /proc/PID/stat, folded likewise. The name in field 2 may hold anything, so count from its last ')'. */
static uint32_t start_time(uint32_t pid)
{
        char path[32], buf[1024];
        snprintf(path, sizeof path, "/proc/%u/stat", pid);
        int fd = wh_os_open(path, O_RDONLY, 0);
        if (fd < 0)
                return 0;
        ssize_t n = wh_os_read(fd, buf, sizeof buf - 1);
        wh_os_close(fd);
        if (n <= 0)
                return 0;
        buf[n] = 0;
        char *p = strrchr(buf, ')');
        for (int field = 2; p && field < 22; field++)
                p = strchr(p + 1, ' ');
        if (!p)
                return 0;
        uint32_t t = (uint32_t)strtoull(p + 1, NULL, 10);
        return t ? t : 1;
}

/* ---- the lock that lives as long as the address space ---- */

/* Which file it is, in 12 bits: the numbers of devices and inodes are small, so neighbours never share a tag. */
static int lock_file_tag(int fd, uint64_t *ret)
{
        struct stat st;
        int r = wh_os_fstat(fd, &st);
        if (r < 0)
                return r;
        if (!S_ISCHR(st.st_mode))
                return -ENODEV; /* somebody's idea of /dev */
        *ret = (minor(st.st_dev) + 61 * (uint64_t)major(st.st_dev) + 257 * (uint64_t)st.st_ino) &
               ((1u << (TAG_LOW_BITS + TAG_HIGH_BITS)) - 1);
        return 0;
}

static uint64_t tag_bits(uint64_t tag)
{
        return (tag & ((1u << TAG_LOW_BITS) - 1)) << TAG_LOW_SHIFT | tag >> TAG_LOW_BITS << 32;
}

static bool same_tag(uint64_t id, uint64_t tag)
{
        return ((id ^ tag_bits(tag)) & tag_bits(~UINT64_C(0) & ((1u << (TAG_LOW_BITS + TAG_HIGH_BITS)) - 1))) == 0;
}

/* The byte that an id names. The pid is part of it: two processes never ask for the same one. */
static int64_t lock_place(uint64_t id)
{
        return (int64_t)(id >> (32 + TAG_HIGH_BITS) << 24 | wh_task_pid(id));
}

/* The page, in no child, that keeps the lock. I1. 0 when it cannot be had. */
static uint64_t id_by_lock(uint32_t pid)
{
        WH_AUTO_FD int fd = wh_os_open(LOCK_FILE, O_RDWR | O_NOCTTY, 0);
        uint64_t tag, id = 0;
        uint32_t drawn;
        void *page;
        wh_os_fd_private(fd); /* a child that is forked right now would keep the lock */
        if (fd < 0 || lock_file_tag(fd, &tag) < 0)
                return 0;
        /* Again when another copy of this library in this process drew the same, or somebody is in the way. */
        int r = -EAGAIN;
        for (int tries = 0; tries < 8 && r == -EAGAIN; tries++) {
                if (wh_os_getrandom(&drawn, sizeof drawn) < 0)
                        return 0;
                id = pid | WH_TASK_BY_LOCK | tag_bits(tag) | (uint64_t)(drawn >> TAG_HIGH_BITS) << (32 + TAG_HIGH_BITS);
                r = wh_os_lock_byte(fd, lock_place(id));
        }
        if (r < 0 || wh_os_mmap_unforked(WH_PAGE, MAP_PRIVATE | MAP_NORESERVE, fd, &page) < 0)
                return 0;
        wh_os_close(wh_steal_fd(&fd));
        /* Does this kernel keep it without a descriptor, and show it to others? Then only now. */
        WH_AUTO_FD int other = wh_os_open(LOCK_FILE, O_RDWR | O_NOCTTY, 0);
        uint64_t again;
        if (other >= 0 && lock_file_tag(other, &again) == 0 && again == tag &&
            wh_os_byte_locked(other, lock_place(id)) == 1)
                return id;
        wh_os_munmap(page, WH_PAGE);
        return 0;
}

/*
 * Is the address space of this id gone? Not when in doubt (I2). The kernel goes through all locks on that file, of whatever user,
 * so where a look is long the next one is not soon: a tenth of the time is spent so at most.
 */
static bool lock_gone(uint64_t id)
{
        enum { LONG_NS = 1000000, SELDOM = 10 };
        static _Atomic int64_t again_ns; /* relaxed: a number, and nothing else is read by it */
        const int64_t began = wh_os_thread_ns();
        if (wh_os_now_ns() < atomic_load_explicit(&again_ns, memory_order_relaxed))
                return false;
        int fd = wh_os_open(LOCK_FILE, O_RDWR | O_NOCTTY, 0);
        uint64_t tag;
        const bool gone = fd >= 0 && lock_file_tag(fd, &tag) == 0 && same_tag(id, tag) &&
                          wh_os_byte_locked(fd, lock_place(id)) == 0;
        wh_os_close(fd);
        const int64_t took = wh_os_thread_ns() - began; /* of the processor: who else wants that is no reason */
        if (wh_unlikely(took > LONG_NS))
                atomic_store_explicit(&again_ns, wh_os_now_ns() + SELDOM * took, memory_order_relaxed);
        return gone;
}

/* ---- ids ---- */

static uint64_t id_by_number(uint32_t pid)
{
        bool none;
        int fd = wh_os_pidfd_open((pid_t)pid);
        uint32_t number = fd < 0 ? 0 : pidfs_number(fd, &none);
        wh_os_close(fd);
        return number ? pid | (uint64_t)number << 32 : pid | WH_TASK_BY_START | (uint64_t)start_time(pid) << 32;
}

uint64_t wh_task_self_slow(void)
{
        pthread_once(&once, watch_forks);
        wh_lock(&self_lock);
        uint64_t id = atomic_load_explicit(&wh_task_known, memory_order_relaxed);
        if (!id) {
                uint32_t pid = (uint32_t)wh_os_getpid();
                id = id_by_lock(pid);
                if (!id)
                        id = id_by_number(pid);
                /* [self] Release, pairs with the acquire in wh_task_self(). */
                atomic_store_explicit(&wh_task_known, id, memory_order_release);
        }
        wh_unlock(&self_lock);
        return id;
}

uint32_t wh_task_thread(void)
{
        if (wh_unlikely(!thread_known))
                thread_known = (uint32_t)wh_os_gettid();
        return thread_known;
}

bool wh_task_alive(uint64_t id)
{
        uint32_t pid = wh_task_pid(id), number = (uint32_t)(id >> 32);
        if (!pid)
                return false;
        id &= ~SLEEP_BIT;
        if (id == wh_task_self())
                return true;
        int fd = wh_os_pidfd_open((pid_t)pid);
        if (fd == -ESRCH || fd == -EINVAL || fd == -ENOENT)
                return false; /* gone, or the number of a mere thread by now */
        if (fd < 0 && wh_os_kill((pid_t)pid, 0) == -ESRCH)
                return false;
        struct pollfd exited = {.fd = fd, .events = POLLIN};
        bool alive = fd < 0 || wh_os_poll(&exited, 1, 0) != 1, none = false;
        if (alive && id & WH_TASK_BY_LOCK) {
                alive = !lock_gone(id);
        } else if (alive && number && fd >= 0) {
                uint32_t now = id & WH_TASK_BY_START ? start_time(pid) : pidfs_number(fd, &none);
                /* A kernel without such numbers never gave one. */
                alive = !none && (!now || now == number);
        }
        wh_os_close(fd);
        return alive;
}
