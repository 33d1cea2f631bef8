#include "memory/sealed.h"

#include "base/bits.h"
#include "base/trace.h"
#include "os/os.h"

#include <errno.h>

#define TMPFS_MAGIC 0x01021994u
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* What a huge page at its end has behind it. More is none of it, and would be freed with it. */
enum { BEHIND_BYTES_MAX = 2 << 20 };

int wh_sealed_make(int fd, int seals)
{
        enum { TRIES = 8 };
        int r = -EBUSY;
        /* Each try waits for as long as the kernel thinks that it may be busy with a page: 75 ms. */
        for (int i = 0; r == -EBUSY && i < TRIES; i++)
                r = wh_os_seal(fd, seals);
        return r == -EBUSY ? -ENOMEM : r;
}

int wh_sealed_whole(int fd, uint64_t len)
{
        uint64_t there;
        int r = wh_os_bytes_there(fd, len, &there);
        return r < 0 ? r : there >= len ? 0 : wh_trace(-EPROTO);
}

int wh_sealed_touch(int fd, void *map, uint64_t len)
{
        enum { STEP = 64 * WH_PAGE };
        struct stat before, after;
        int r = wh_os_fstat(fd, &before);
        for (uint64_t at = 0; r == 0 && at < len; at += STEP) {
                r = wh_os_madvise((uint8_t *)map + at, len - at < STEP ? len - at : STEP, MADV_POPULATE_READ);
                if (r == -EINVAL)
                        return 0; /* before Linux 5.14: they come when they are read */
                if (r == 0)
                        r = wh_os_fstat(fd, &after);
                if (r == -EFAULT || (r == 0 && after.st_blocks != before.st_blocks))
                        r = -EPROTO;
        }
        return r < 0 ? wh_trace(r) : 0;
}

int wh_sealed_size(int fd, int seals, uint64_t *ret_len)
{
        struct stat st;
        const int r = wh_sealed_file(fd, seals, &st);
        if (r < 0)
                return r;
        if ((st.st_mode & 07777) != 0600)
                return wh_trace(-EPROTO);
        /* As it was made: of a descriptor that only reads it is not everybody who may ask for holes. */
        const int access = wh_os_fd_access(fd);
        if (access != O_RDWR)
                return wh_trace(access < 0 ? access : -EPROTO);
        *ret_len = (uint64_t)st.st_size;
        return 0;
}

int wh_sealed_file(int fd, int seals, struct stat *ret)
{
        struct stat st;
        uint64_t magic;
        /* Seals first: until they are there the maker can still cut or punch what anything else was asked about. */
        int r = wh_os_get_seals(fd);
        if (r == -EINVAL || (r >= 0 && (r & seals) != seals))
                return wh_trace(-EPROTO);
        if (r < 0)
                return wh_trace(r);
        r = wh_os_fstat(fd, &st);
        if (r < 0)
                return wh_trace(r);
        if (!S_ISREG(st.st_mode))
                return wh_trace(-EPROTO);
        r = wh_os_fstatfs(fd, &magic);
        if (r < 0)
                return wh_trace(r);
        if (magic != TMPFS_MAGIC)
                return wh_trace(-EPROTO); /* huge pages count otherwise, and other file systems may stall a load */
        const uint64_t size = st.st_size > 0 ? (uint64_t)st.st_size : 0, blocks = (uint64_t)st.st_blocks * 512;
        if (!size || blocks < size || blocks - size > BEHIND_BYTES_MAX)
                return wh_trace(-EPROTO);
        *ret = st;
        return 0;
}
