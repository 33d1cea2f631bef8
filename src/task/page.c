#include "task/page.h"

#include "base/bits.h"
#include "base/trace.h"
#include "os/os.h"

#include <errno.h>

enum { BEHIND_BYTES_MAX = 2 << 20 }; /* as of any memory: memory/sealed.c */

int wh_status_page_new(const char *what, int *ret_fd, void **ret)
{
        void *map = NULL;
        int fd = wh_os_memfd(what);
        int r = fd < 0 ? fd : wh_os_ftruncate(fd, WH_PAGE);
        if (r == 0)
                r = wh_os_fallocate(fd, 0, 0, WH_PAGE);
        if (r == 0)
                r = wh_os_mmap(NULL, WH_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0, &map);
        if (r == 0)
                r = wh_os_seal(fd, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE);
        if (r < 0) {
                if (map)
                        wh_os_munmap(map, WH_PAGE);
                wh_os_close(fd);
                return wh_trace(r);
        }
        wh_os_fd_private(fd);
        wh_os_madvise(map, WH_PAGE, MADV_DONTFORK);
        *ret_fd = fd;
        *ret = map;
        return 0;
}

int wh_status_page_open(int fd, uint64_t want_magic, uint64_t want_version, const void **ret)
{
        struct stat st;
        const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE;
        int got = wh_os_get_seals(fd);
        if (got < 0 || (got & seals) != seals || wh_os_fstat(fd, &st) < 0 || st.st_size != WH_PAGE ||
            st.st_blocks * 512 < WH_PAGE || st.st_blocks * 512 > WH_PAGE + BEHIND_BYTES_MAX)
                return wh_trace(-EPROTO);
        void *map;
        uint64_t there = WH_PAGE;
        const int asked = wh_os_bytes_there(fd, WH_PAGE, &there); /* its blocks may lie behind its end */
        if ((asked < 0 && asked != -EOPNOTSUPP) || there < WH_PAGE)
                return wh_trace(-EPROTO);
        int r = wh_os_mmap(NULL, WH_PAGE, PROT_READ, MAP_SHARED, fd, 0, &map);
        if (r < 0)
                return r;
        const volatile uint64_t *words = map;
        uint64_t magic = words[0], version = words[1];
        if (magic != want_magic || version != want_version) {
                wh_os_munmap(map, WH_PAGE);
                return wh_trace(magic == want_magic ? -EPROTONOSUPPORT : -EPROTO);
        }
        wh_os_madvise(map, WH_PAGE, MADV_DONTFORK);
        *ret = map;
        return 0;
}
