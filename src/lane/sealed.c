#include "lane/sealed.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>

#define TMPFS_MAGIC 0x01021994u

int wh_sealed_check(int fd, int seals, uint64_t *ret_len)
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
        if (!S_ISREG(st.st_mode) || (st.st_mode & 07777) != 0600)
                return wh_trace(-EPROTO);
        r = wh_os_fstatfs(fd, &magic);
        if (r < 0)
                return wh_trace(r);
        if (magic != TMPFS_MAGIC)
                return wh_trace(-EPROTO); /* huge pages count otherwise, and other file systems may stall a load */
        if (st.st_size <= 0 || (uint64_t)st.st_blocks * 512 < (uint64_t)st.st_size)
                return wh_trace(-EPROTO);
        *ret_len = (uint64_t)st.st_size;
        return 0;
}
