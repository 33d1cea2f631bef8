#include "wharfd/given.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_FD = 3 };

static void drop_env(void)
{
        unsetenv("LISTEN_PID");
        unsetenv("LISTEN_FDS");
        unsetenv("LISTEN_FDNAMES");
}

bool wh_given_number(const char *name, long *ret)
{
        const char *text = getenv(name);
        char *end;
        errno = 0;
        long v = text ? strtol(text, &end, 10) : 0;
        if (!text || !*text || *end || errno || v < 0)
                return false;
        *ret = v;
        return true;
}

int wh_given_take(struct wh_given **ret, unsigned *ret_n)
{
        long pid, n;
        *ret = NULL;
        *ret_n = 0;
        if (!wh_given_number("LISTEN_PID", &pid) || pid != wh_os_getpid() || !wh_given_number("LISTEN_FDS", &n) ||
            n == 0 || n > INT32_MAX - FIRST_FD)
                return 0;
        struct wh_given *g = wh_os_calloc((size_t)n, sizeof *g);
        if (!g)
                return wh_trace(-ENOMEM);
        const char *names = getenv("LISTEN_FDNAMES");
        for (long i = 0; i < n; i++) {
                g[i].fd = FIRST_FD + (int)i;
                size_t len = names ? strcspn(names, ":") : 0;
                if (len < WH_FD_NAME_MAX && names)
                        memcpy(g[i].name, names, len); /* a longer one is nobody's that we know */
                if (names)
                        names = names[len] ? names + len + 1 : NULL;
                int r = wh_os_cloexec(g[i].fd);
                if (r < 0) {
                        free(g);
                        return wh_trace(r); /* there is no such descriptor: whoever started us has miscounted */
                }
                wh_os_fd_private(g[i].fd);
        }
        drop_env();
        *ret = g;
        *ret_n = (unsigned)n;
        return 0;
}

void wh_given_done(struct wh_given *given, unsigned n)
{
        for (unsigned i = 0; i < n; i++)
                wh_os_close(given[i].fd);
        free(given);
}

int wh_notify_open(bool *ret_keeper)
{
        long keeper;
        *ret_keeper = false;
        if (wh_given_number("WHARFD_KEEPER", &keeper) && keeper <= INT32_MAX) {
                unsetenv("WHARFD_KEEPER");
                int fd = (int)keeper, r = wh_os_cloexec(fd);
                if (r == 0)
                        wh_os_fd_private(fd);
                *ret_keeper = r == 0;
                return r < 0 ? -1 : fd;
        }
        const char *path = getenv("NOTIFY_SOCKET");
        if (!path || (*path != '/' && *path != '@'))
                return -1;
        /* What is sent there are rights of others: to nobody but root and this user, whoever has set the variable. */
        struct stat st;
        int at = *path == '/' ? wh_os_open(path, O_PATH, 0) : -1;
        if (*path == '/' && (at < 0 || wh_os_fstat(at, &st) < 0 || (st.st_uid != 0 && st.st_uid != wh_os_geteuid()))) {
                wh_os_close(at);
                return -1;
        }
        char self[40];
        int fd = wh_os_socket_unix(SOCK_DGRAM);
        snprintf(self, sizeof self, "/proc/self/fd/%d", at);
        int r = fd < 0 ? fd : wh_os_connect_unix(fd, at < 0 ? path : self);
        if (r == -ENOENT && at >= 0) /* without /proc, by its path */
                r = wh_os_connect_unix(fd, path);
        wh_os_close(at);
        if (fd >= 0 && r < 0) {
                wh_os_close(fd);
                fd = -1;
        }
        if (fd >= 0)
                wh_os_fd_private(fd);
        unsetenv("NOTIFY_SOCKET");
        return fd < 0 ? -1 : fd;
}
