#include "os/left.h"

#include "os/os.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

#define LOOK_STEP ((uint64_t)1 << 20)

/* ---- the machine ---- */

static uint64_t machine_left(uint64_t *ret_swap)
{
        uint64_t available = 0, swap = 0;
        unsigned found = 0;
        char line[128];
        FILE *f = fopen("/proc/meminfo", "rec"); /* c: no cancellation point (os.O5) */
        while (f && fgets(line, sizeof line, f)) {
                if (!strncmp(line, "MemAvailable:", 13))
                        available = strtoull(line + 13, NULL, 10) * 1024, found++;
                else if (!strncmp(line, "SwapFree:", 9))
                        swap = strtoull(line + 9, NULL, 10) * 1024, found++;
        }
        if (f)
                fclose(f);
        struct sysinfo si;
        if (found != 2 && sysinfo(&si) == 0) {
                available = (uint64_t)si.totalram * si.mem_unit;
                swap = (uint64_t)si.totalswap * si.mem_unit;
        }
        *ret_swap = swap;
        return available + swap;
}

/* ---- cgroups ---- */

/* Where the files of this process's memory cgroup are: `dir`, of which the first `top` bytes are the mount point. */
struct place {
        char dir[PATH_MAX];
        size_t top;
        bool v2;
        char path[PATH_MAX];      /* of the cgroup, from the root of the hierarchy */
        char file[PATH_MAX + 64]; /* that is being read */
};

/* A field of mountinfo, in which blanks and backslashes are octal; in place. */
static void unescape(char *s)
{
        char *to = s;
        for (; *s; s++)
                if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
                        *to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
                        s += 3;
                } else {
                        *to++ = *s;
                }
        *to = 0;
}

static bool has_word(const char *list, const char *word)
{
        size_t n = strlen(word);
        for (const char *p = list; (p = strstr(p, word)); p += n)
                if ((p == list || p[-1] == ',') && (!p[n] || p[n] == ','))
                        return true;
        return false;
}

/* The path of our cgroup in the hierarchy that has memory (v1), or in the only one there is (v2). */
static bool own_path(bool v2, char *ret)
{
        char *line = NULL;
        size_t cap = 0;
        bool found = false;
        FILE *f = fopen("/proc/self/cgroup", "rec");
        while (f && !found && getline(&line, &cap, f) > 0) {
                char *what = strchr(line, ':'), *path = what ? strchr(what + 1, ':') : NULL;
                if (!path)
                        continue;
                *path++ = 0;
                path[strcspn(path, "\n")] = 0;
                found = v2 ? !strcmp(line, "0:") || !strncmp(line, "0:", 3) : has_word(what + 1, "memory");
                found &= strlen(path) < PATH_MAX && path[0] == '/';
                if (found)
                        strcpy(ret, path);
        }
        free(line);
        if (f)
                fclose(f);
        return found;
}

/*
 * Find the mount of the hierarchy that shows most of our ancestors: its root is a prefix of our path. Roots and paths
 * are both told from where our cgroup namespace begins.
 */
static bool find_place(bool v2, struct place *ret)
{
        char *path = ret->path;
        if (!own_path(v2, path) || !strncmp(path, "/..", 3))
                return false;
        char *line = NULL;
        size_t cap = 0, best = SIZE_MAX;
        FILE *f = fopen("/proc/self/mountinfo", "rec");
        while (f && getline(&line, &cap, f) > 0) {
                char *rest = strstr(line, " - "), *root = line, *at, *type, *options;
                for (int i = 0; i < 3 && root; i++)
                        root = (root = strchr(root, ' ')) ? root + 1 : NULL;
                if (!rest || !root || root > rest || !(at = strchr(root, ' ')))
                        continue;
                *at++ = 0;
                at[strcspn(at, " ")] = 0;
                type = rest + 3;
                type[strcspn(type, "\n")] = 0;
                options = strrchr(type, ' ');
                if (!options || strncmp(type, v2 ? "cgroup2 " : "cgroup ", v2 ? 8 : 7) ||
                    (!v2 && !has_word(options + 1, "memory")))
                        continue;
                unescape(root);
                unescape(at);
                size_t n = strcmp(root, "/") ? strlen(root) : 0;
                if (n >= best || strncmp(path, root, n) || (path[n] && path[n] != '/'))
                        continue;
                const char *below = strcmp(path + n, "/") ? path + n : "";
                if (strlen(at) + strlen(below) >= sizeof ret->dir)
                        continue;
                best = n;
                ret->top = strlen(at);
                ret->v2 = v2;
                strcpy(stpcpy(ret->dir, at), below);
        }
        free(line);
        if (f)
                fclose(f);
        return best != SIZE_MAX;
}

static FILE *open_file(struct place *p, const char *name)
{
        snprintf(p->file, sizeof p->file, "%s/%s", p->dir, name);
        return fopen(p->file, "rec");
}

/* The number in a file of a cgroup; UINT64_MAX for "max", for what means no limit in v1, and where there is none. */
static uint64_t number_in(struct place *p, const char *name)
{
        char text[64];
        FILE *f = open_file(p, name);
        bool good = f && fgets(text, sizeof text, f) && *text >= '0' && *text <= '9';
        if (f)
                fclose(f);
        uint64_t v = good ? strtoull(text, NULL, 10) : UINT64_MAX;
        return v < (uint64_t)INT64_MAX - (1 << 24) ? v : UINT64_MAX;
}

/* Pages of files, which the kernel drops before it kills: those that count as used here but hold nothing up. */
static uint64_t droppable(struct place *p)
{
        char line[128], *value;
        uint64_t sum = 0;
        FILE *f = open_file(p, "memory.stat");
        while (f && fgets(line, sizeof line, f)) {
                if (!(value = strchr(line, ' ')))
                        continue;
                *value++ = 0;
                const char *name = p->v2 ? line : !strncmp(line, "total_", 6) ? line + 6 : "";
                if (!strcmp(name, "inactive_file") || !strcmp(name, "active_file"))
                        sum += strtoull(value, NULL, 10);
        }
        if (f)
                fclose(f);
        return sum;
}

static uint64_t less(uint64_t a, uint64_t b)
{
        return a == UINT64_MAX ? a : a > b ? a - b : 0;
}

static uint64_t plus(uint64_t a, uint64_t b)
{
        return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static uint64_t least(uint64_t a, uint64_t b)
{
        return a < b ? a : b;
}

/* One cgroup: what is left in it, and by which file. */
static uint64_t level_left(struct place *p, uint64_t swap, const char **ret_file, uint64_t *ret_limit)
{
        const char *file = p->v2 ? "memory.max" : "memory.limit_in_bytes";
        uint64_t limit = number_in(p, file), left = UINT64_MAX;
        *ret_file = file;
        *ret_limit = limit;
        if (limit != UINT64_MAX) {
                uint64_t used = number_in(p, p->v2 ? "memory.current" : "memory.usage_in_bytes");
                if (used == UINT64_MAX)
                        return used;
                if (p->v2)
                        swap = least(swap, less(number_in(p, "memory.swap.max"),
                                                least(number_in(p, "memory.swap.current"), INT64_MAX)));
                left = plus(less(limit, less(used, droppable(p))), swap);
        }
        uint64_t both = p->v2 ? UINT64_MAX : number_in(p, "memory.memsw.limit_in_bytes");
        if (both != UINT64_MAX) {
                uint64_t used = number_in(p, "memory.memsw.usage_in_bytes");
                uint64_t of_both = used == UINT64_MAX ? used : less(both, less(used, droppable(p)));
                if (of_both < left) {
                        left = of_both;
                        *ret_file = "memory.memsw.limit_in_bytes";
                        *ret_limit = both;
                }
        }
        return left;
}

static void cgroups_left(struct place *p, bool v2, uint64_t swap, struct wh_os_left *ret)
{
        if (!find_place(v2, p))
                return;
        for (;;) {
                const char *file;
                uint64_t limit, left = level_left(p, swap, &file, &limit);
                if (left < ret->bytes) {
                        ret->bytes = left;
                        ret->limit_bytes = limit;
                        /* The end says more than the beginning. */
                        int n = (int)(strlen(p->dir) + 1 + strlen(file)), over = n - (int)sizeof ret->what + 1;
                        snprintf(ret->what, sizeof ret->what, "%s/%s", p->dir + (over > 0 ? over : 0), file);
                }
                char *slash = strrchr(p->dir + p->top, '/');
                if (!slash)
                        break;
                *slash = 0;
        }
}

int wh_os_memory_left(struct wh_os_left *ret)
{
        int r = wh_os_enter(WH_OS_meminfo), saved = errno;
        if (r < 0)
                return r;
        uint64_t swap;
        struct wh_os_left left = {.what = "this machine"};
        left.bytes = machine_left(&swap);
        struct place *p = malloc(sizeof *p); /* threads have little stack */
        if (p) {
                cgroups_left(p, true, swap, &left);
                cgroups_left(p, false, swap, &left);
        }
        free(p);
        errno = saved;
        *ret = left;
        return 0;
}

int wh_os_memory_ask(uint64_t bytes, struct wh_os_left *ret)
{
        /* Relaxed, both: two threads that count at once look once more or once less. */
        static _Atomic uint64_t since, patience = LOOK_STEP;
        uint64_t asked = atomic_fetch_add_explicit(&since, bytes, memory_order_relaxed) + bytes;
        if (asked < atomic_load_explicit(&patience, memory_order_relaxed))
                return 0;
        struct wh_os_left left;
        int r = wh_os_memory_left(&left);
        if (r < 0)
                return r;
        uint64_t next = left.bytes / 8;
        atomic_store_explicit(&patience, next > LOOK_STEP ? next : LOOK_STEP, memory_order_relaxed);
        /* A MiB stays: that much may be given out before the next look. */
        if (bytes > left.bytes || left.bytes - bytes < LOOK_STEP) {
                atomic_fetch_sub_explicit(&since, bytes, memory_order_relaxed);
                if (ret)
                        *ret = left;
                return -ENOMEM;
        }
        atomic_store_explicit(&since, 0, memory_order_relaxed);
        return 0;
}
