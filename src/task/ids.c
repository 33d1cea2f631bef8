#include "task/ids.h"

#include "os/os.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>

/* What is read from a file of a line, or "". */
static void line_of(const char *path, char *ret, size_t room)
{
        int fd = wh_os_open(path, O_RDONLY, 0);
        ssize_t n = fd < 0 ? -1 : wh_os_read(fd, ret, room - 1);
        ret[n > 0 ? n : 0] = 0;
        wh_os_close(fd);
}

/* Is there a number for every user? "0 0 4294967295" is the whole space of ids; any other map leaves some out. */
static bool map_whole(const char *path)
{
        char text[256], *at = text;
        line_of(path, text, sizeof text);
        return strtoul(at, &at, 10) == 0 && at > text && strtoul(at, &at, 10) == 0 &&
               strtoul(at, &at, 10) == UINT32_MAX;
}

/* 0: not looked yet; 1 and 2: as it is now. Told in one word, so that threads may look at once. */
static _Atomic uint64_t ids;
enum { IDS_WHOLE = 1, IDS_PARTIAL = 2 };

void wh_ids_look(void)
{
        char text[32];
        uint32_t overflow = 65534;
        line_of("/proc/sys/kernel/overflowuid", text, sizeof text);
        if (text[0] >= '0' && text[0] <= '9')
                overflow = (uint32_t)strtoul(text, NULL, 10);
        uint64_t kind = map_whole("/proc/self/uid_map") ? IDS_WHOLE : IDS_PARTIAL;
        /* Relaxed: it is all there is to know. */
        atomic_store_explicit(&ids, (uint64_t)overflow << 8 | kind, memory_order_relaxed);
}

static uint64_t ids_now(void)
{
        uint64_t now = atomic_load_explicit(&ids, memory_order_relaxed);
        if (!now) {
                wh_ids_look();
                now = atomic_load_explicit(&ids, memory_order_relaxed);
        }
        return now;
}

bool wh_id_known(uint32_t id)
{
        uint64_t now = ids_now();
        return id != UINT32_MAX && ((now & 0xff) == IDS_WHOLE || id != (uint32_t)(now >> 8));
}

bool wh_ids_shared(void)
{
        return (ids_now() & 0xff) == IDS_WHOLE;
}
