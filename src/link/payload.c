#include "link/payload.h"

#include "base/trace.h"
#include "memory/sealed.h"
#include "os/left.h"
#include "os/os.h"
#include "task/why.h"

#include <errno.h>
#include <inttypes.h>

enum { RESERVE_STEP = 64 << 20 }; /* a signal makes the kernel begin such a step anew */

int wh_payload_fd(const char *name)
{
        int fd = wh_os_memfd(name);
        if (fd < 0)
                return wh_trace(fd);
        wh_os_fd_private(fd);
        return fd;
}

/* The file system of memfds has no limit: asking it for more than there is makes the kernel kill processes. */
static int ask(uint64_t len)
{
        struct wh_os_left left;
        int r = wh_os_memory_ask(len, &left);
        if (r == -ENOMEM)
                wh_set_why("%" PRIu64 " bytes, of which %s leaves %" PRIu64, len, left.what, left.bytes);
        return r < 0 ? wh_trace(r) : 0;
}

int wh_payload_reserve(int fd, uint64_t len)
{
        int r = ask(len);
        if (r < 0)
                return r;
        r = wh_os_ftruncate(fd, (off_t)len);
        for (uint64_t at = 0; r == 0 && at < len;) {
                uint64_t step = len - at < RESERVE_STEP ? len - at : RESERVE_STEP;
                r = wh_os_fallocate(fd, 0, (off_t)at, (off_t)step);
                if (r == 0)
                        at += step;
                else if (r == -EINTR)
                        r = 0;
        }
        return r < 0 ? wh_trace(r) : 0;
}

int wh_payload_of(const void *data, uint64_t len, int *ret)
{
        int fd = wh_payload_fd("wharf-message");
        if (fd < 0)
                return fd;
        int r = ask(len); /* only now: where memfds are forbidden, so may be what this looks at */
        if (r < 0) {
                wh_os_close(fd);
                return r;
        }
        for (uint64_t done = 0; done < len;) {
                uint64_t n = len - done < (1u << 30) ? len - done : 1u << 30;
                ssize_t k = wh_os_write_at(fd, (const uint8_t *)data + done, n, (off_t)done);
                if (k <= 0 && k != -EINTR) {
                        wh_os_close(fd);
                        return wh_trace(k == 0 ? -ENOSPC : (int)k);
                }
                done += k > 0 ? (uint64_t)k : 0;
        }
        r = wh_sealed_make(fd, WH_SEALS_IMMUTABLE);
        if (r < 0) {
                wh_os_close(fd);
                return wh_trace(r);
        }
        *ret = fd;
        return 0;
}

int wh_payload_map(int fd, uint64_t len, void **ret)
{
        int r = wh_os_mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0, ret);
        return r < 0 ? wh_trace(r) : 0;
}
