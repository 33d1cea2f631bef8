/*
 * domain_connect - a connection to whoever serves a domain, whom it starts where nobody does (D1, D2, D6).
 */
#include "names/domain.h"

#include "os/closer.h"
#include "os/os.h"
#include "right/right.h"
#include "task/task.h"
#include "task/why.h"

#include <errno.h>
#include <string.h>

#define CONNECT_RETRY_NS ((int64_t)2 * 1000000) /* while another task holds the lock, to start wharfd */
#define START_PAUSE_NS ((int64_t)10 * 1000000)
enum { SILENT_STARTS_MAX = 3 }; /* of a wharfd that ends without a word: then it will not do better */

/* As wharf_right_connect(), but for who is there: in a domain of our own, nobody but ourselves (D6). */
static int connect_right(wharf_task *task, const char *path, bool shared, wharf_name *ret)
{
        if (!wh_task_ours(task))
                return wh_fail(-ESTALE, NULL);
        int sock = wh_os_socket_unix(SOCK_SEQPACKET), r;
        if (sock < 0)
                return wh_fail(sock, "%s: no socket: %s", path, strerrordesc_np(-sock));
        wh_os_fd_private(sock);
        do
                r = wh_os_connect_unix(sock, path);
        while (r == -EINTR);
        struct ucred u = {.uid = wh_os_geteuid()};
        socklen_t len = sizeof u;
        if (r == 0 && !shared)
                r = wh_os_getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &u, &len);
        bool others = r == 0 && u.uid != wh_os_geteuid();
        if (r == 0 && !others)
                r = wh_right_from_socket(task, sock, false, false, ret);
        if (r < 0 || others)
                wh_os_close_end(sock, WH_END_OURS); /* whoever listens there may have sent something by now */
        if (others)
                return wh_fail(-EACCES, "%s: user %u listens there, not user %u", path, (unsigned)u.uid,
                               (unsigned)wh_os_geteuid());
        return r < 0 ? wh_fail(r, "%s: %s", path, strerrordesc_np(-r)) : 0;
}

pid_t wh_domain_server(const char *dir)
{
        char path[WH_DOMAIN_SOCKET_MAX];
        struct ucred u = {0};
        socklen_t len = sizeof u;
        int sock = wh_os_socket_unix(SOCK_SEQPACKET);
        if (sock < 0)
                return 0;
        wh_os_fd_private(sock);
        /* A connection of its own: the task's may be older than this server. Who listened last serves (S9). */
        int r = wh_domain_socket_path(dir, path);
        if (r == 0)
                r = wh_os_connect_unix(sock, path);
        if (r == 0)
                r = wh_os_getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &u, &len);
        wh_os_close_end(sock, WH_END_OURS);
        return r < 0 || u.pid == wh_os_getpid() ? 0 : u.pid;
}

/* The caller holds the lock, and the socket refused a connection. */
static int start_and_connect(wharf_task *task, const char *dir, const char *path, int64_t until_ns, wharf_name *ret)
{
        /* While we came for the lock, somebody else may have had it. The lock is ours until wharfd serves (D2). */
        int r = connect_right(task, path, false, ret);
        if (r != -ENOENT && r != -ECONNREFUSED)
                return r;
        int fd;
        r = wh_domain_listen(dir, false, &fd);
        if (r < 0)
                return r;
        r = wh_domain_start(dir, fd, until_ns);
        if (r == 0) {
                r = connect_right(task, path, false, ret);
                r = r == -ENOENT || r == -ECONNREFUSED ? -EAGAIN : r; /* it served, and has left since: once more */
        } else if (r != -ETIMEDOUT) {
                wh_os_unlink(path);
        }
        wh_os_close(fd);
        return r;
}

/* What a caller of this module sees: its own limits as they are, and anything else as "no wharfd". */
static int connect_error(int r)
{
        if (r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ESTALE || r == -EDQUOT || r == -ETIMEDOUT ||
            r == -ECONNREFUSED)
                return r;
        return -EHOSTDOWN; /* whatever failed has said why */
}

int wh_domain_connect(wharf_task *task, const char *dir, bool chosen, bool make, int64_t until_ns, wharf_name *ret)
{
        char path[WH_DOMAIN_SOCKET_MAX];
        bool shared = false;
        int r = chosen ? wh_domain_check_chosen(dir, make, &shared) : wh_domain_check(dir, make);
        if (r == -ENOENT && !make)
                r = wh_domain_nobody_serves(dir);
        if (r == 0)
                r = wh_domain_socket_path(dir, path);
        if (r < 0)
                return connect_error(r);
        unsigned silent = 0;
        for (;;) {
                bool locked = false;
                int64_t pause_ns = CONNECT_RETRY_NS;
                r = connect_right(task, path, shared, ret);
                if (r == 0)
                        return 0;
                if (shared && (r == -ECONNREFUSED || r == -ENOENT))
                        return wh_domain_nobody_serves(dir);
                if (r == -ENOENT || r == -ECONNREFUSED) {
                        int lock = -1;
                        r = wh_domain_trylock(dir, &lock);
                        locked = r == -EAGAIN;
                        if (r == -ENOENT && make) { /* the directory was removed this moment */
                                r = wh_domain_check(dir, true);
                                r = r == 0 ? -EAGAIN : r;
                        } else if (r == 0) {
                                r = start_and_connect(task, dir, path, until_ns, ret);
                                wh_os_close(lock);
                                if (r == 0)
                                        return 0;
                        }
                }
                if (r == -ECHILD && ++silent < SILENT_STARTS_MAX) { /* killed, perhaps, and no fault of its own */
                        r = -EAGAIN;
                        pause_ns = START_PAUSE_NS;
                }
                if (r != -EAGAIN) /* somebody else holds the lock, or too many connect at this moment */
                        return connect_error(r);
                int64_t now = wh_os_now_ns();
                if (now >= until_ns)
                        return wh_fail(-ETIMEDOUT,
                                       locked ? "%s: another process holds the lock, to start a wharfd"
                                              : "%s: too many connect to the socket at this moment",
                                       dir);
                wh_os_poll(NULL, 0, now + pause_ns < until_ns ? now + pause_ns : until_ns);
        }
}
