/*
 * memory - of the heap, mappings, and System V segments.
 */
#include "os/call.h"

#include "os/lock.h"

#include <linux/magic.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/shm.h>

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
