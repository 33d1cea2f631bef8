#include "service/domain.h"

#include "base/paths.h"
#include "base/trace.h"
#include "os/os.h"
#include "port/why.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

#define CONNECT_GIVE_UP_NS ((int64_t)10 * 1000000000)
#define CONNECT_RETRY_NS ((int64_t)2 * 1000000) /* while another task holds the lock, to start wharfd */
#define BACKLOG 4096                            /* first users at one moment; the kernel cuts it to its own limit */

/* ---- where ---- */

#define SYSTEM_DOMAIN "/run/wharf"

static char domain_path[PATH_MAX], system_path[PATH_MAX];
static bool domain_chosen;

static void system_path_find(void)
{
        const char *own = secure_getenv("WHARF_SYSTEM_DOMAIN");
        snprintf(system_path, sizeof system_path, "%s", own && *own ? own : SYSTEM_DOMAIN);
}

const char *wh_domain_system(void)
{
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        pthread_once(&once, system_path_find);
        return system_path;
}

static void domain_path_find(void)
{
        const char *own = secure_getenv("WHARF_DOMAIN"), *run = secure_getenv("XDG_RUNTIME_DIR");
        int n;
        if (own && *own)
                n = snprintf(domain_path, sizeof domain_path, "%s", own);
        else if (run && *run)
                n = snprintf(domain_path, sizeof domain_path, "%s/wharf", run);
        else
                n = snprintf(domain_path, sizeof domain_path, "/tmp/wharf-%u", (unsigned)wh_os_geteuid());
        if (n >= (int)sizeof domain_path)
                n = (int)sizeof domain_path - 1; /* cut, and so refused as too long for a socket */
        while (n > 1 && domain_path[n - 1] == '/')
                domain_path[--n] = 0;
        domain_chosen = own && *own;
}

/* Once: a process has one domain, whatever happens to its environment later. */
WHARF_API const char *wharf_domain_path(void)
{
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        pthread_once(&once, domain_path_find);
        return domain_path;
}

bool wh_domain_was_chosen(void)
{
        wharf_domain_path();
        return domain_chosen;
}

/* Nobody but the owner can write here, and his wharfd let everybody in on purpose. */
static bool is_shared(const char *dir)
{
        char path[WH_DOMAIN_SOCKET_MAX];
        struct stat st, so;
        return wh_domain_socket_path(dir, path) == 0 && wh_os_lstat(dir, &st) == 0 && S_ISDIR(st.st_mode) &&
               !(st.st_mode & 022) && (st.st_mode & 011) == 011 && wh_os_lstat(path, &so) == 0 &&
               S_ISSOCK(so.st_mode) && (so.st_mode & 06) == 06 && (so.st_uid == st.st_uid || so.st_uid == 0);
}

int wh_domain_check_chosen(const char *dir, bool make, bool *ret_shared)
{
        *ret_shared = dir[0] == '/' && is_shared(dir);
        return *ret_shared ? 0 : wh_domain_check(dir, make);
}

int wh_domain_make_shared(const char *dir)
{
        char path[WH_DOMAIN_SOCKET_MAX];
        struct stat st;
        if (dir[0] != '/')
                return wh_fail(-EINVAL, "the domain %s is not an absolute path", dir);
        int r = wh_domain_socket_path(dir, path);
        if (r < 0)
                return r;
        r = wh_os_mkdir(dir, 0755);
        bool made = r == 0;
        if (r < 0 && r != -EEXIST)
                return wh_fail(r, "the domain %s cannot be made: %s", dir, strerrordesc_np(-r));
        int fd = wh_os_open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
        if (fd < 0)
                return wh_fail(fd, "the domain %s cannot be opened: %s", dir, strerrordesc_np(-fd));
        r = made ? wh_os_fchmod(fd, 0755) : 0; /* whatever the umask is */
        if (r == 0)
                r = wh_os_fstat(fd, &st);
        wh_os_close(fd);
        if (r < 0)
                return wh_fail(wh_trace(r), "the domain %s: %s", dir, strerrordesc_np(-r));
        if (st.st_uid != wh_os_geteuid() || (st.st_mode & 022))
                return wh_fail(-EACCES, "the domain %s is user %u's, mode %04o; for sharing it must be user %u's, 0755",
                               dir, (unsigned)st.st_uid, (unsigned)st.st_mode & 07777, (unsigned)wh_os_geteuid());
        return 0;
}

int wh_domain_check(const char *dir, bool make)
{
        char path[WH_DOMAIN_SOCKET_MAX];
        if (dir[0] != '/')
                return wh_fail(-EINVAL, "the domain %s is not an absolute path", dir);
        int r = wh_domain_socket_path(dir, path);
        if (r < 0)
                return r;
        if (make) {
                r = wh_os_mkdir(dir, 0700);
                if (r < 0 && r != -EEXIST)
                        return wh_fail(r, "the domain %s cannot be made: %s", dir, strerrordesc_np(-r));
        }
        /* The last part of the path may not be a link: in /tmp, anybody may have put one there. */
        int fd = wh_os_open(dir, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
        if (fd < 0)
                return wh_fail(fd, "the domain %s cannot be opened: %s", dir, strerrordesc_np(-fd));
        struct stat st;
        r = wh_os_fstat(fd, &st);
        wh_os_close(fd);
        if (r < 0)
                return wh_fail(wh_trace(r), "the domain %s: %s", dir, strerrordesc_np(-r));
        if (st.st_uid != wh_os_geteuid())
                return wh_fail(-EACCES, "the domain %s belongs to user %u, not to user %u who asks", dir,
                               (unsigned)st.st_uid, (unsigned)wh_os_geteuid());
        if (st.st_mode & 077)
                return wh_fail(-EACCES, "the domain %s is open to others (mode %04o); it must be 0700", dir,
                               (unsigned)st.st_mode & 07777);
        return 0;
}

int wh_domain_socket_path(const char *dir, char ret[WH_DOMAIN_SOCKET_MAX])
{
        char path[WH_DOMAIN_SOCKET_MAX];
        int n = snprintf(path, sizeof path, "%s/bootstrap", dir);
        if (n >= (int)sizeof path)
                return wh_fail(-ENAMETOOLONG, "the domain's path has %zu bytes; a socket's path allows %zu",
                               strlen(dir), sizeof path - sizeof "/bootstrap");
        memcpy(ret, path, (size_t)n + 1);
        return 0;
}

/* ---- the socket ---- */

int wh_domain_trylock(const char *dir, int *ret_fd)
{
        char path[WH_DOMAIN_SOCKET_MAX]; /* which is enough: the socket's own name there is longer */
        if (snprintf(path, sizeof path, "%s/lock", dir) >= (int)sizeof path)
                return wh_fail(-ENAMETOOLONG, "the domain's path has %zu bytes", strlen(dir));
        int fd = wh_os_open(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
        if (fd < 0)
                return wh_fail(fd, "%s: %s", path, strerrordesc_np(-fd));
        wh_os_fd_private(fd); /* a forked child must not go on holding the lock */
        int r;
        do
                r = wh_os_flock(fd, LOCK_EX | LOCK_NB);
        while (r == -EINTR);
        if (r < 0) {
                wh_os_close(fd);
                return r == -EWOULDBLOCK ? -EAGAIN : wh_fail(r, "%s cannot be locked: %s", path, strerrordesc_np(-r));
        }
        *ret_fd = fd;
        return 0;
}

int wh_domain_listen(const char *dir, bool shared, int *ret_fd)
{
        char path[WH_DOMAIN_SOCKET_MAX];
        int r = wh_domain_socket_path(dir, path);
        if (r < 0)
                return r;
        r = wh_os_unlink(path); /* D3 */
        if (r < 0 && r != -ENOENT)
                return wh_fail(r, "%s cannot be removed: %s", path, strerrordesc_np(-r));
        int fd = wh_os_socket_unix(SOCK_SEQPACKET);
        if (fd < 0)
                return wh_fail(fd, "no socket: %s", strerrordesc_np(-fd));
        wh_os_fd_private(fd); /* a forked child must not keep a dead wharfd's socket listening */
        /* bind() gives the file the socket's own mode, so that it is never open to others, not even for a moment. */
        r = wh_os_fchmod(fd, 0600);
        if (r == 0)
                r = wh_os_bind_unix(fd, path);
        if (r == 0 && shared && (r = wh_os_chmod(path, 0666)) < 0)
                wh_os_unlink(path);
        if (r == 0) {
                r = wh_os_listen(fd, BACKLOG);
                if (r < 0)
                        wh_os_unlink(path);
        }
        if (r < 0) {
                wh_os_close(fd);
                return wh_fail(r, "%s cannot be made: %s", path, strerrordesc_np(-r));
        }
        *ret_fd = fd;
        return 0;
}

/* ---- wharfd ---- */

/*
 * Beside the program that runs: how it is found in a build tree and in a directory that was unpacked somewhere. Only
 * where nobody but root or this user could have put it there.
 */
static bool wharfd_beside(char ret[PATH_MAX])
{
        ssize_t n = wh_os_readlink("/proc/self/exe", ret, PATH_MAX - sizeof "/wharfd");
        if (n <= 0)
                return false;
        ret[n] = 0;
        char *slash = strrchr(ret, '/');
        if (!slash)
                return false;
        strcpy(slash, "/wharfd");
        struct stat st;
        return wh_os_lstat(ret, &st) == 0 && S_ISREG(st.st_mode) && (st.st_uid == 0 || st.st_uid == wh_os_geteuid()) &&
               !(st.st_mode & 022) && wh_os_can_execute(ret) == 0;
}

static bool wharfd_in_path(char ret[PATH_MAX])
{
        const char *at = secure_getenv("PATH");
        while (at && *at) {
                size_t n = strcspn(at, ":");
                /* An empty or relative part means the current directory, which is no place to find a server in. */
                if (n && *at == '/' && n + sizeof "/wharfd" <= PATH_MAX) {
                        snprintf(ret, PATH_MAX, "%.*s/wharfd", (int)n, at);
                        if (wh_os_can_execute(ret) == 0)
                                return true;
                }
                at += n + (at[n] == ':');
        }
        return false;
}

static int wharfd_find(char ret[PATH_MAX])
{
        const char *own = secure_getenv("WHARFD");
        if (own && *own) {
                if (strlen(own) >= PATH_MAX)
                        return wh_fail(-ENAMETOOLONG, "$WHARFD is too long");
                strcpy(ret, own);
                int r = wh_os_can_execute(ret);
                return r < 0 ? wh_fail(r, "$WHARFD is %s: %s", own, strerrordesc_np(-r)) : 0;
        }
        if (wharfd_beside(ret))
                return 0;
        strcpy(ret, WHARFD_INSTALLED);
        if (wh_os_can_execute(ret) == 0)
                return 0;
        if (wharfd_in_path(ret))
                return 0;
        return wh_fail(-ENOENT, "wharfd is neither beside this program, nor at %s, nor in PATH; set WHARFD",
                       WHARFD_INSTALLED);
}

int wh_domain_spawn(const char *dir, int listen_fd)
{
        char *path = wh_os_malloc(PATH_MAX), *copy = strdup(dir);
        int r = path && copy ? wharfd_find(path) : wh_fail(wh_trace(-ENOMEM), NULL);
        if (r == 0) {
                char *argv[] = {path, (char[]){"--domain"}, copy, (char[]){"--socket-fd"}, (char[]){"3"}, NULL};
                r = wh_os_spawn_detached(argv, &listen_fd, 1, NULL, true, -1);
                if (r < 0)
                        wh_fail(r, "%s cannot be started: %s", path, strerrordesc_np(-r));
        }
        free(copy);
        free(path);
        return r;
}

/* ---- connecting ---- */

/* The caller holds the lock, and the socket refused a connection. */
static int start_and_connect(wharf_task *task, const char *dir, const char *path, wharf_name *ret)
{
        /* While we came for the lock, somebody else may have had it. */
        int r = wharf_right_connect(task, path, ret);
        if (r != -ENOENT && r != -ECONNREFUSED)
                return r;
        int fd;
        r = wh_domain_listen(dir, false, &fd);
        if (r < 0)
                return r;
        r = wh_domain_spawn(dir, fd);
        if (r < 0)
                wh_os_unlink(path);
        else
                r = wharf_right_connect(task, path, ret); /* D2 */
        wh_os_close(fd);
        return r;
}

/* What a caller of this module sees: its own limits as they are, and anything else as "no wharfd". */
static int connect_error(int r)
{
        if (r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ESTALE || r == -EDQUOT)
                return r;
        return -EHOSTDOWN; /* whatever failed has said why */
}

int wh_domain_connect(wharf_task *task, const char *dir, bool chosen, bool make, wharf_name *ret)
{
        char path[WH_DOMAIN_SOCKET_MAX];
        bool shared = false;
        int r = chosen ? wh_domain_check_chosen(dir, make, &shared) : wh_domain_check(dir, make);
        if (r == 0)
                r = wh_domain_socket_path(dir, path);
        if (r < 0)
                return connect_error(r);
        int64_t give_up_ns = wh_os_now_ns() + CONNECT_GIVE_UP_NS;
        for (;;) {
                r = wharf_right_connect(task, path, ret);
                if (r == 0)
                        return 0;
                if (shared && r == -ECONNREFUSED)
                        return wh_fail(-EHOSTDOWN, "no wharfd serves %s, and it is not for us to start one", dir);
                if (r == -ENOENT || r == -ECONNREFUSED) {
                        int lock = -1;
                        r = wh_domain_trylock(dir, &lock);
                        if (r == 0) {
                                r = start_and_connect(task, dir, path, ret);
                                wh_os_close(lock);
                                if (r == 0)
                                        return 0;
                        }
                }
                if (r != -EAGAIN) /* somebody else holds the lock, or too many connect at this moment */
                        return connect_error(r);
                int64_t now = wh_os_now_ns();
                if (now >= give_up_ns)
                        return wh_fail(-EHOSTDOWN,
                                       "%s: another process has held the lock, or the socket was full, for 10 s", dir);
                wh_os_poll(NULL, 0, now + CONNECT_RETRY_NS);
        }
}
