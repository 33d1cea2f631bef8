#include "names/domain.h"

#include "base/trace.h"
#include "os/os.h"
#include "task/why.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

/* ---- the directory ---- */

/* May a directory of ours be made in this one (D5)? */
static bool may_make_in(const struct stat *st)
{
        return st->st_uid == wh_os_geteuid() || st->st_uid == 0 || (st->st_mode & S_ISVTX && st->st_mode & 002);
}

/*
 * The directory, opened (O_PATH). With a `mode` it is made where it is missing; *ret_made, which may be NULL, says
 * whether. A negative errno; why it could not be made is said.
 */
static int dir_open(const char *dir, mode_t mode, bool *ret_made)
{
        char parent[WH_DOMAIN_SOCKET_MAX]; /* which is enough: the socket's own name there is longer */
        size_t n = strlen(dir);
        if (n >= sizeof parent)
                return -ENAMETOOLONG;
        memcpy(parent, dir, n + 1);
        while (n > 1 && parent[n - 1] == '/')
                parent[--n] = 0;
        char *slash = strrchr(parent, '/');
        const char *last = slash[1] ? slash + 1 : ".";
        *slash = 0; /* what stands above may be a link: it is the last part that anybody may have put into /tmp */
        int up = wh_os_open(slash == parent ? "/" : parent, O_PATH | O_DIRECTORY, 0), r = 0;
        struct stat st;
        if (up < 0)
                return mode ? wh_fail(up, "the domain %s cannot be made: %s", dir, strerrordesc_np(-up)) : up;
        if (ret_made)
                *ret_made = false;
        int fd = wh_os_open_at(up, last, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
        if (fd == -ENOENT && mode) {
                r = wh_os_fstat(up, &st);
                if (r == 0 && !may_make_in(&st))
                        r = wh_fail(-EACCES, "the domain %s is not made in a directory of user %u by user %u", dir,
                                    (unsigned)st.st_uid, (unsigned)wh_os_geteuid());
                else if (r == 0 && (r = wh_os_mkdir_at(up, last, mode)) < 0 && r != -EEXIST)
                        wh_fail(r, "the domain %s cannot be made: %s", dir, strerrordesc_np(-r));
                if (r == 0 && ret_made)
                        *ret_made = true;
                if (r == 0 || r == -EEXIST) {
                        r = 0;
                        fd = wh_os_open_at(up, last, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
                }
        }
        wh_os_close(up);
        if (r == 0 && fd < 0)
                return mode ? wh_fail(fd, "the domain %s cannot be opened: %s", dir, strerrordesc_np(-fd)) : fd;
        return r < 0 ? r : fd;
}

int wh_domain_open_own(const char *dir)
{
        struct stat st;
        if (dir[0] != '/')
                return wh_fail(-EINVAL, "the domain %s is not an absolute path", dir);
        int fd = dir_open(dir, 0, NULL);
        if (fd < 0)
                return wh_fail(fd, "the domain %s cannot be opened: %s", dir, strerrordesc_np(-fd));
        int r = wh_os_fstat(fd, &st);
        if (r == 0 && (st.st_uid != wh_os_geteuid() || st.st_mode & 022))
                r = wh_fail(-EACCES, "the domain %s is not user %u's alone", dir, (unsigned)wh_os_geteuid());
        if (r < 0)
                wh_os_close(fd);
        return r < 0 ? r : fd;
}

int wh_domain_nobody_serves(const char *dir)
{
        return wh_fail(-ECONNREFUSED, "no wharfd serves %s, and it is not for us to start one", dir);
}

/*
 * Nobody but the owner can write here, and its wharfd let everybody in on purpose: 1. 0: it is no such domain.
 * -ECONNREFUSED: it is one of somebody else's, whose wharfd has not made its socket, or not opened it yet. Or what this
 * process has not got to look with.
 */
static int is_shared(const char *dir)
{
        struct stat st, so;
        int fd = dir_open(dir, 0, NULL);
        if (fd < 0)
                return fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM
                               ? wh_fail(fd, "%s: %s", dir, strerrordesc_np(-fd))
                               : 0;
        int r = wh_os_fstat(fd, &st), here = r < 0 ? r : wh_os_lstat_at(fd, "bootstrap", &so);
        wh_os_close(fd);
        if (r < 0 || st.st_mode & 022 || (st.st_mode & 011) != 011)
                return 0;
        if (here == 0 && S_ISSOCK(so.st_mode) && (so.st_mode & 06) == 06 && (so.st_uid == st.st_uid || so.st_uid == 0))
                return 1;
        const bool yet = here == -ENOENT || (here == 0 && S_ISSOCK(so.st_mode) && so.st_uid == st.st_uid);
        return yet && st.st_uid != wh_os_geteuid() ? wh_domain_nobody_serves(dir) : 0;
}

int wh_domain_check_chosen(const char *dir, bool make, bool *ret_shared)
{
        int r = dir[0] == '/' ? is_shared(dir) : 0;
        *ret_shared = r > 0;
        return r != 0 ? (r < 0 ? r : 0) : wh_domain_check(dir, make);
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
        bool made;
        int fd = dir_open(dir, 0755, &made);
        if (fd < 0)
                return fd;
        if (made) { /* whatever the umask is; the descriptor that may not do it says which one is meant */
                int full = wh_os_open_at(fd, ".", O_RDONLY | O_DIRECTORY, 0);
                r = full < 0 ? full : wh_os_fchmod(full, 0755);
                wh_os_close(full);
        }
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
        int fd = dir_open(dir, make ? 0700 : 0, NULL);
        if (fd < 0)
                return make ? fd : wh_fail(fd, "the domain %s cannot be opened: %s", dir, strerrordesc_np(-fd));
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

/* ---- the lock and the socket ---- */

int wh_domain_trylock(const char *dir, int *ret_fd)
{
        int at = wh_domain_open_own(dir);
        if (at < 0)
                return at;
        int fd = wh_os_open_at(at, "lock", O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
        wh_os_close(at);
        if (fd < 0)
                return wh_fail(fd, "%s/lock: %s", dir, strerrordesc_np(-fd));
        wh_os_fd_private(fd); /* a forked child must not go on holding the lock */
        int r;
        do
                r = wh_os_flock(fd, LOCK_EX | LOCK_NB);
        while (r == -EINTR);
        if (r < 0) {
                wh_os_close(fd);
                return r == -EWOULDBLOCK ? -EAGAIN
                                         : wh_fail(r, "%s/lock cannot be locked: %s", dir, strerrordesc_np(-r));
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
        struct stat st;
        int at = wh_domain_open_own(dir);
        if (at < 0)
                return at;
        r = wh_os_unlink_at(at, "bootstrap"); /* D3 */
        int fd = r < 0 && r != -ENOENT ? -1 : wh_os_socket_unix(SOCK_SEQPACKET);
        if (r < 0 && r != -ENOENT)
                r = wh_fail(r, "%s cannot be removed: %s", path, strerrordesc_np(-r));
        else if (fd < 0)
                r = wh_fail(fd, "no socket: %s", strerrordesc_np(-fd));
        if (fd < 0) {
                wh_os_close(at);
                return r;
        }
        wh_os_fd_private(fd); /* a forked child must not keep a dead wharfd's socket listening */
        /* bind() gives the file the socket's own mode, so that it is never open to others, not even for a moment. */
        r = wh_os_fchmod(fd, 0600);
        if (r == 0 && (r = wh_os_bind_unix(fd, path)) == 0) {
                /* bind() takes only a path. Where that did not lead to the directory which was checked, it is lost. */
                r = wh_os_lstat_at(at, "bootstrap", &st);
                if (r == 0 && shared)
                        r = wh_os_chmod_at(at, "bootstrap", 0666);
                if (r == 0)
                        r = wh_os_listen(fd, WH_DOMAIN_BACKLOG);
                if (r < 0)
                        wh_os_unlink_at(at, "bootstrap");
        }
        wh_os_close(at);
        if (r < 0) {
                wh_os_close(fd);
                return wh_fail(r, "%s cannot be made: %s", path, strerrordesc_np(-r));
        }
        *ret_fd = fd;
        return 0;
}
