#include "os/task.h"

#include "os/os.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIDFS_MAGIC 0x50494446u

_Atomic uint64_t wh_task_known;
static __thread uint32_t thread_known;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void forget_in_child(void)
{
        atomic_store_explicit(&wh_task_known, 0, memory_order_relaxed);
        thread_known = 0;
}

static void watch_forks(void)
{
        pthread_atfork(NULL, NULL, forget_in_child);
}

/* The kernel's number of the process behind a pidfd, folded so that it is never 0; 0 when it has none. */
static uint32_t pidfs_number(int pidfd)
{
        uint64_t magic;
        struct stat st;
        if (wh_os_fstatfs(pidfd, &magic) < 0 || magic != PIDFS_MAGIC || wh_os_fstat(pidfd, &st) < 0)
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

uint64_t wh_task_self_slow(void)
{
        pthread_once(&once, watch_forks);
        uint32_t pid = (uint32_t)wh_os_getpid();
        uint64_t id = pid;
        int fd = wh_os_pidfd_open((pid_t)pid);
        uint32_t number = fd < 0 ? 0 : pidfs_number(fd);
        wh_os_close(fd);
        if (!number) {
                number = start_time(pid);
                id |= WH_TASK_BY_START;
        }
        id |= (uint64_t)number << 32;
        atomic_store_explicit(&wh_task_known, id, memory_order_relaxed);
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
        if (((id ^ wh_task_self()) & ~(uint64_t)0xfe000000u) == 0)
                return true;
        int fd = wh_os_pidfd_open((pid_t)pid);
        if (fd == -ESRCH || fd == -EINVAL || fd == -ENOENT)
                return false; /* gone, or the number of a mere thread by now */
        if (fd < 0)
                return wh_os_kill((pid_t)pid, 0) != -ESRCH;
        struct pollfd exited = {.fd = fd, .events = POLLIN};
        bool alive = wh_os_poll(&exited, 1, 0) != 1;
        if (alive && number) {
                uint32_t now = id & WH_TASK_BY_START ? start_time(pid) : pidfs_number(fd);
                alive = !now || now == number;
        }
        wh_os_close(fd);
        return alive;
}
