/*
 * segment_list - which named segments there are, and who uses them: /dev/shm, the System V table, and /proc.
 *
 * All of this changes while we look. A task or a segment that goes meanwhile is left out; that is no error.
 */
#include "memory/segment.h"
#include "base/cleanup.h"
#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/shm.h>
#include <sys/sysmacros.h>

/* ---- list ---- */

struct listing {
        int (*fn)(const char *name, const struct wharf_segment_stat *st, void *arg);
        void *arg;
};

static int list_posix(const char *entry, void *arg)
{
        struct listing *l = arg;
        char path[sizeof WH_POSIX_DIR "/" + NAME_MAX], name[sizeof "posix:" + NAME_MAX];
        struct stat st;
        if (!strncmp(entry, "sem.", 4)) /* where sem_open(3) keeps its semaphores */
                return 0;
        snprintf(path, sizeof path, WH_POSIX_DIR "/%s", entry);
        if (wh_os_stat(path, false, &st) < 0 || !S_ISREG(st.st_mode))
                return 0;
        snprintf(name, sizeof name, "posix:%s", entry);
        struct wharf_segment_stat s;
        wh_segment_stat_fill(WHARF_SEGMENT_POSIX, &st, &s);
        return l->fn(name, &s, l->arg);
}

static int list_sysv(struct listing *l)
{
        struct shm_info info;
        int top = wh_os_shmctl(0, SHM_INFO, (struct shmid_ds *)(void *)&info);
        for (int i = 0; i <= top; i++) {
                struct shmid_ds ds;
                /* SHM_STAT_ANY: what /proc/sysvipc/shm shows to everyone, permission to read it or not. */
                int id = wh_os_shmctl(i, SHM_STAT_ANY, &ds);
                if (id < 0)
                        continue;
                char name[32];
                if (ds.shm_perm.__key)
                        snprintf(name, sizeof name, "sysv:0x%" PRIx32, (uint32_t)ds.shm_perm.__key);
                else
                        snprintf(name, sizeof name, "sysv:id=%d", id);
                struct wharf_segment_stat s;
                wh_segment_stat_sysv(id, &ds, &s);
                int r = l->fn(name, &s, l->arg);
                if (r)
                        return r;
        }
        return 0;
}

int wharf_segment_list(int (*fn)(const char *name, const struct wharf_segment_stat *st, void *arg), void *arg)
{
        if (!fn)
                return -EINVAL;
        struct listing l = {fn, arg};
        int r = wh_os_readdir(WH_POSIX_DIR, list_posix, &l);
        if (r && r != -ENOENT)
                return r;
        return list_sysv(&l);
}

/* ---- users ---- */

struct search {
        const struct wharf_segment_stat *stats;
        uint32_t n;
        bool any_fd; /* some of them are files of a kind, so descriptors matter */
        int (*fn)(uint32_t i, const struct wharf_segment_user *user, void *arg);
        void *arg;
        uint32_t unseen;
        uint32_t pid;                     /* the task we look at */
        struct wharf_segment_user *users; /* n of them: what it does with each */
        char *lines;                      /* LINES_BYTES, to read into */
};
enum { LINES_BYTES = 8192 };

/* One line of /proc/PID/maps: "start-end perms offset major:minor inode   path". */
static void map_line(struct search *s, const char *line)
{
        unsigned major_, minor_;
        uint64_t inode;
        char perms[5];
        int path_at = 0;
        if (sscanf(line, "%*x-%*x %4s %*x %x:%x %" SCNu64 " %n", perms, &major_, &minor_, &inode, &path_at) < 4 ||
            perms[3] != 's')
                return;
        bool sysv = path_at && !strncmp(line + path_at, "/SYSV", 5); /* its inode is its identifier, which may be 0 */
        if (!inode && !sysv)
                return;
        for (uint32_t i = 0; i < s->n; i++) {
                const struct wharf_segment_stat *st = &s->stats[i];
                if (st->inode != inode || sysv != (st->kind == WHARF_SEGMENT_SYSV) ||
                    (!sysv && st->device != makedev(major_, minor_)))
                        continue;
                s->users[i].mapped = true;
                s->users[i].writable |= perms[1] == 'w';
        }
}

/* The lines of a file of /proc, however long they are: of an overlong one only the start is used. */
static int read_maps(struct search *s, const char *path)
{
        char *buf = s->lines;
        size_t have = 0;
        bool skip = false; /* in the rest of an overlong line */
        WH_AUTO_FD int fd = wh_os_open(path, O_RDONLY, 0);
        if (fd < 0)
                return fd;
        for (;;) {
                ssize_t got = wh_os_read(fd, buf + have, LINES_BYTES - 1 - have);
                if (got == -EINTR)
                        continue;
                if (got <= 0)
                        return (int)got;
                have += (size_t)got;
                char *from = buf, *end;
                while ((end = memchr(from, '\n', have - (size_t)(from - buf)))) {
                        *end = 0;
                        if (!skip)
                                map_line(s, from);
                        skip = false;
                        from = end + 1;
                }
                have -= (size_t)(from - buf);
                if (have == LINES_BYTES - 1) {
                        buf[have] = 0;
                        if (!skip)
                                map_line(s, buf);
                        skip = true;
                        have = 0;
                }
                memmove(buf, from, have);
        }
}

static int look_at_fd(const char *entry, void *arg)
{
        struct search *s = arg;
        char path[64];
        struct stat st;
        snprintf(path, sizeof path, "/proc/%" PRIu32 "/fd/%.20s", s->pid, entry);
        if (wh_os_stat(path, true, &st) < 0 || !S_ISREG(st.st_mode))
                return 0;
        for (uint32_t i = 0; i < s->n; i++)
                if (s->stats[i].kind != WHARF_SEGMENT_SYSV && s->stats[i].inode == st.st_ino &&
                    s->stats[i].device == st.st_dev)
                        s->users[i].open = true;
        return 0;
}

static int look_at_task(const char *entry, void *arg)
{
        struct search *s = arg;
        char path[64];
        s->pid = 0;
        for (const char *p = entry; *p; p++) {
                if (*p < '0' || *p > '9' || s->pid > UINT32_MAX / 10 - 1)
                        return 0;
                s->pid = s->pid * 10 + (uint32_t)(*p - '0');
        }
        memset(s->users, 0, s->n * sizeof *s->users);
        snprintf(path, sizeof path, "/proc/%" PRIu32 "/maps", s->pid);
        int r = read_maps(s, path);
        if (r == -EACCES || r == -EPERM) {
                s->unseen++;
                return 0;
        }
        snprintf(path, sizeof path, "/proc/%" PRIu32 "/fd", s->pid);
        if (s->any_fd && wh_os_readdir(path, look_at_fd, s) == -EACCES)
                s->unseen++;
        for (uint32_t i = 0; i < s->n; i++) {
                s->users[i].pid = s->pid;
                r = s->users[i].mapped || s->users[i].open ? s->fn(i, &s->users[i], s->arg) : 0;
                if (r)
                        return r;
        }
        return 0;
}

int wharf_segment_users(const struct wharf_segment_stat *stats, uint32_t n,
                        int (*fn)(uint32_t i, const struct wharf_segment_user *user, void *arg), void *arg,
                        uint32_t *ret_unseen)
{
        if (!fn || (!stats && n))
                return -EINVAL;
        WH_AUTO_MEM struct wharf_segment_user *users = wh_os_calloc(n ? n : 1, sizeof *users);
        WH_AUTO_MEM char *lines = wh_os_malloc(LINES_BYTES);
        if (!users || !lines)
                return wh_trace(-ENOMEM);
        struct search s = {.stats = stats, .n = n, .fn = fn, .arg = arg, .users = users, .lines = lines};
        for (uint32_t i = 0; i < n; i++)
                s.any_fd |= stats[i].kind != WHARF_SEGMENT_SYSV;
        int r = wh_os_readdir("/proc", look_at_task, &s);
        if (r < 0)
                return wh_trace(r);
        if (ret_unseen)
                *ret_unseen = s.unseen;
        return r;
}
