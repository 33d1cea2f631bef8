/*
 * Memory that a cgroup does not allow is refused, where the kernel would kill. In a real cgroup, of version 1 or 2: it
 * takes root, and a hierarchy with memory that may be written to.
 */
#include "hub.h"
#include "os/left.h"

#include <inttypes.h>
#include <linux/magic.h>
#include <mntent.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <wharf/memory.h>
#include <wharf/segment.h>

#define MIB ((uint64_t)1 << 20)

/* A cgroup with a limit, and one inside of it without, for a child to be in. */
static char outer[300], inner[320];

static bool put_in(const char *dir, const char *file, const char *text)
{
        char path[400];
        snprintf(path, sizeof path, "%s/%s", dir, file);
        int fd = open(path, O_WRONLY | O_CLOEXEC);
        bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
        if (fd >= 0)
                close(fd);
        return good;
}

static bool try_at(const char *root, bool v2, uint64_t limit)
{
        char text[32];
        snprintf(text, sizeof text, "%" PRIu64, limit);
        snprintf(outer, sizeof outer, "%s/wharf-test-%d", root, (int)getpid());
        snprintf(inner, sizeof inner, "%s/inside", outer);
        if (v2)
                put_in(root, "cgroup.subtree_control", "+memory");
        if (mkdir(outer, 0755) < 0)
                return false;
        bool good = put_in(outer, v2 ? "memory.max" : "memory.limit_in_bytes", text) && mkdir(inner, 0755) == 0;
        if (!good)
                rmdir(outer);
        return good;
}

static void cgroup_open(uint64_t limit)
{
        FILE *f = setmntent("/proc/self/mounts", "re");
        struct mntent *m;
        bool made = false;
        while (f && !made && (m = getmntent(f))) {
                bool v2 = !strcmp(m->mnt_type, "cgroup2");
                if (v2 || (!strcmp(m->mnt_type, "cgroup") && hasmntopt(m, "memory")))
                        made = try_at(m->mnt_dir, v2, limit);
        }
        if (f)
                endmntent(f);
        if (!made)
                test_skip("no memory cgroup can be made here");
}

static void cgroup_close(void)
{
        /* What has ended leaves it a moment later. */
        for (int i = 0; i < 1000 && rmdir(inner) < 0; i++)
                usleep(10000);
        CHECK_EQ(rmdir(outer), 0);
}

static void enter(void)
{
        CHECK(put_in(inner, "cgroup.procs", "0"));
}

/* The run of `fn` inside the cgroup: 0, or killed. */
static void in_cgroup(uint64_t limit, int (*fn)(void *), void *arg)
{
        if (TEST_TSAN || TEST_ASAN)
                test_skip("a sanitizer takes memory that nobody reckons with");
        cgroup_open(limit);
        pid_t pid = test_fork(fn, arg);
        int rc = test_wait(pid);
        cgroup_close();
        CHECK_EQ(rc, 0);
}

static int segments_are_refused(void *arg)
{
        char name[64];
        wharf_segment *s;
        enter();
        snprintf(name, sizeof name, "posix:wharf-cgroup-%d", (int)getpid());
        CHECK_EQ(wharf_segment_create(name, 200 * MIB, NULL, &s), -ENOMEM);
        CHECK(strstr(wharf_why(), outer));
        CHECK_EQ(wharf_segment_create("anon:x", 200 * MIB, NULL, &s), -ENOMEM);
        CHECK(strstr(wharf_why(), outer));
        CHECK_EQ(wharf_segment_create("anon:x", 8 * MIB, NULL, &s), 0);
        CHECK_EQ(wharf_segment_resize(s, 200 * MIB), -ENOMEM);
        wharf_segment_close(s);
        return 0;
}

static int missing_pages_are_refused(void *arg)
{
        char name[64];
        wharf_segment *s;
        struct wharf_segment_opts o = {.size = sizeof o, .flags = WHARF_SEGMENT_SPARSE};
        enter();
        snprintf(name, sizeof name, "sysv:0x%x", 0x77000000u + (unsigned)getpid());
        CHECK_EQ(wharf_segment_create(name, 200 * MIB, &o, &s), 0);
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_READ | WHARF_SEGMENT_WRITE, NULL), 0);
        CHECK_EQ(wharf_segment_remove(name), 0);
        CHECK_EQ(wharf_segment_reserve(s, 0, 200 * MIB), -ENOMEM);
        CHECK(strstr(wharf_why(), outer));
        CHECK_EQ(wharf_segment_reserve(s, 4 * MIB, 30 * MIB), 0);
        CHECK_EQ(wharf_segment_reserve(s, 4 * MIB, 30 * MIB), 0); /* what is there needs no more */
        wharf_segment_close(s);
        return 0;
}

/* Goal: pages of a System V segment, too, are refused where the kernel would kill, and those that are there are not. */
TEST(missing_pages_that_the_cgroup_does_not_allow_are_refused)
{
        in_cgroup(48 * MIB, missing_pages_are_refused, NULL);
}

/* Goal: a segment that its cgroup would be killed for is refused, by a limit two levels up, which is named. */
TEST(a_segment_larger_than_the_cgroup_allows_is_refused)
{
        in_cgroup(48 * MIB, segments_are_refused, NULL);
}

static int memories_are_refused(void *arg)
{
        wharf_task *t;
        wharf_name m[64];
        unsigned n = 0;
        int r = 0;
        enter();
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_memory_new(t, 200 * MIB, &m[0]), -ENOMEM);
        CHECK(strstr(wharf_why(), outer));
        /* In small steps too, and there is much of them before. */
        while (n < 64 && (r = wharf_memory_new(t, 2 * MIB, &m[n])) == 0)
                n++;
        CHECK_EQ(r, -ENOMEM);
        CHECK(strstr(wharf_why(), outer));
        CHECK_GE(n, 8);
        wharf_task_close(t);
        return 0;
}

TEST(a_memory_larger_than_the_cgroup_allows_is_refused)
{
        in_cgroup(48 * MIB, memories_are_refused, NULL);
}

static int a_queue_fills_the_cgroup(void *arg)
{
        static char bytes[16000];
        enter();
        struct hub h = hub_open(PORT_OPTS(.capacity_records = WHARF_UNBOUNDED));
        wharf_name right;
        unsigned n = 0;
        int r = 0;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        while (n < 100000 && (r = wharf_send(h.task, right, bytes, sizeof bytes, 0)) == 0)
                n++;
        CHECK_EQ(r, -ENOBUFS);
        CHECK_GE(n, 1000);
        for (unsigned i = 0; i < n; i++)
                CHECK_EQ(wharf_recv(h.task, h.port, bytes, sizeof bytes, NULL, 0), sizeof bytes);
        CHECK_EQ(wharf_send(h.task, right, bytes, sizeof bytes, 0), 0); /* there is room again */
        hub_close(&h);
        return 0;
}

/* Goal: a queue without a bound ends where the cgroup does, with an error, and nothing is lost. */
TEST(a_queue_without_a_bound_ends_with_the_cgroup)
{
        in_cgroup(64 * MIB, a_queue_fills_the_cgroup, NULL);
}

static int what_is_cached_does_not_count(void *arg)
{
        struct wh_os_left before, after;
        char *block = calloc(1, MIB);
        enter();
        CHECK_EQ(wh_os_memory_left(&before), 0);
        CHECK_EQ(before.limit_bytes, 48 * MIB);
        CHECK_LE(before.bytes, 48 * MIB + (1 << 30)); /* swap */
        int fd = *(int *)arg;
        CHECK(block);
        for (int i = 0; i < 20; i++)
                CHECK_EQ(write(fd, block, MIB), MIB);
        fsync(fd);
        CHECK_EQ(wh_os_memory_left(&after), 0);
        CHECK_GE(after.bytes + 12 * MIB, before.bytes);
        free(block);
        return 0;
}

/* Goal: pages of files, which the kernel drops when they are in the way, are no reason to refuse. */
TEST(files_cached_in_a_cgroup_are_no_reason_to_refuse)
{
        struct statfs fs;
        int fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (fd < 0 || fstatfs(fd, &fs) < 0 || fs.f_type == TMPFS_MAGIC)
                test_skip("/var/tmp is on no disk");
        in_cgroup(48 * MIB, what_is_cached_does_not_count, &fd);
        close(fd);
}
