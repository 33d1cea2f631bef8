/*
 * path - what has a name in a file system.
 */
#include "os/call.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/sysmacros.h>

int wh_os_open(const char *path, int flags, mode_t mode)
{
        return (int)OS_FD(open, RAW(openat, AT_FDCWD, path, flags | O_CLOEXEC, mode));
}

int wh_os_unlink(const char *path)
{
        return (int)OS_CALL(unlink, unlink(path));
}

int wh_os_mkdir(const char *path, mode_t mode)
{
        return (int)OS_CALL(mkdir, mkdir(path, mode));
}

int wh_os_open_at(int dir, const char *name, int flags, mode_t mode)
{
        return (int)OS_FD(open, RAW(openat, dir, name, flags | O_CLOEXEC, mode));
}

int wh_os_mkdir_at(int dir, const char *name, mode_t mode)
{
        return (int)OS_CALL(mkdir, mkdirat(dir, name, mode));
}

int wh_os_unlink_at(int dir, const char *name)
{
        return (int)OS_CALL(unlink, unlinkat(dir, name, 0));
}

int wh_os_lstat_at(int dir, const char *name, struct stat *ret)
{
        struct stat st;
        int r = (int)OS_CALL(lstat, fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW));
        if (r == 0)
                *ret = st;
        return r;
}

int wh_os_chmod_at(int dir, const char *name, mode_t mode)
{
        return (int)OS_CALL(chmod, fchmodat(dir, name, mode, 0));
}

int wh_os_inotify(void)
{
        return (int)OS_FD(inotify, inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
}

int wh_os_inotify_add(int fd, const char *path, uint32_t mask)
{
        return (int)OS_CALL(inotify, inotify_add_watch(fd, path, mask));
}

int wh_os_rename(const char *from, const char *to)
{
        return (int)OS_CALL(rename, rename(from, to));
}

int wh_os_lstat(const char *path, struct stat *ret)
{
        struct stat st;
        int r = (int)OS_CALL(lstat, lstat(path, &st));
        if (r == 0)
                *ret = st;
        return r;
}

int wh_os_can_execute(const char *path)
{
        return (int)OS_CALL(access, faccessat(AT_FDCWD, path, X_OK, AT_EACCESS));
}

int wh_os_stat(const char *path, bool follow, struct stat *ret)
{
        struct statx x;
        int flags = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT | (follow ? 0 : AT_SYMLINK_NOFOLLOW);
        int r = (int)OS_CALL(stat, statx(AT_FDCWD, path, flags, STATX_BASIC_STATS, &x));
        if (r < 0)
                return r;
        *ret = (struct stat){
                .st_dev = makedev(x.stx_dev_major, x.stx_dev_minor),
                .st_ino = x.stx_ino,
                .st_mode = x.stx_mode,
                .st_nlink = x.stx_nlink,
                .st_uid = x.stx_uid,
                .st_gid = x.stx_gid,
                .st_size = (off_t)x.stx_size,
                .st_blocks = (blkcnt_t)x.stx_blocks,
                .st_mtim = {.tv_sec = x.stx_mtime.tv_sec, .tv_nsec = x.stx_mtime.tv_nsec},
                .st_ctim = {.tv_sec = x.stx_ctime.tv_sec, .tv_nsec = x.stx_ctime.tv_nsec},
        };
        return 0;
}

int wh_os_link_fd(int fd, const char *path)
{
        char self[32];
        snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
        return (int)OS_CALL(linkat, linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW));
}

int wh_os_readdir(const char *path, int (*fn)(const char *name, void *arg), void *arg)
{
        int r = wh_os_enter(WH_OS_readdir), saved = errno;
        if (r < 0)
                return r;
        DIR *d = opendir(path);
        r = d ? 0 : -errno;
        for (struct dirent *e; r == 0 && (e = readdir(d));)
                if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
                        r = fn(e->d_name, arg);
        if (d)
                closedir(d);
        errno = saved;
        return r;
}

ssize_t wh_os_readlink(const char *path, char *buf, size_t cap)
{
        return OS_CALL(readlink, readlink(path, buf, cap));
}
