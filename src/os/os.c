#include "os/os.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/utsname.h>

int (*wh_os_gate)(enum wh_os_call call);

const char *wh_os_call_name(enum wh_os_call call)
{
        static const char *const names[] = {
#define WH_OS_NAME(n) #n,
                WH_OS_CALLS(WH_OS_NAME)
#undef WH_OS_NAME
        };
        return (unsigned)call < WH_OS_CALL_COUNT ? names[call] : "?";
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
