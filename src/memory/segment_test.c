#include "base/cleanup.h"
#include "os/os.h"
#include "test.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/vfs.h>
#include <wharf/segment.h>

/* Mapped by nobody else, with or without address sanitizer. */
#define ONE_ADDRESS ((void *)(uintptr_t)0x200000000000)

static const char *unique(const char *kind)
{
        static char names[4][64];
        static unsigned i;
        char *n = names[i++ % 4];
        if (!strcmp(kind, "posix"))
                snprintf(n, 64, "posix:wharf-test-%d-%u", (int)getpid(), i);
        else if (!strcmp(kind, "sysv"))
                snprintf(n, 64, "sysv:0x%x", 0x40000000u | ((unsigned)getpid() & 0xfffff) << 4 | (i & 15));
        else if (!strcmp(kind, "file"))
                snprintf(n, 64, "file:%s/f%u", test_dir(), i);
        else
                snprintf(n, 64, "anon:test");
        return n;
}

static wharf_segment *created(const char *name, uint64_t bytes)
{
        wharf_segment *s;
        CHECK_EQ(wharf_segment_create(name, bytes, NULL, &s), 0);
        return s;
}

static const char *const named_kinds[] = {"posix", "sysv", "file"};

/* Goal: what one handle writes another reads, for each kind; names stay until removed. */
TEST(each_named_kind_is_shared_by_name)
{
        for (unsigned k = 0; k < 3; k++) {
                const char *name = unique(named_kinds[k]);
                wharf_segment *a = created(name, 5000), *b;
                CHECK_EQ(wharf_segment_create(name, 5000, NULL, &b), -EEXIST);
                CHECK_EQ(wharf_segment_attach(a, WHARF_SEGMENT_WRITE, NULL), 0);
                CHECK_EQ(wharf_segment_attach(a, WHARF_SEGMENT_WRITE, NULL), -EALREADY);
                strcpy(wharf_segment_at(a, 4000, 10), "Hello");
                a = wharf_segment_close(a);

                CHECK_EQ(wharf_segment_open(name, WHARF_SEGMENT_READ, &b), 0);
                CHECK_EQ(wharf_segment_bytes(b), 5000);
                CHECK_EQ(wharf_segment_attach(b, WHARF_SEGMENT_WRITE, NULL), -EACCES);
                CHECK_EQ(wharf_segment_attach(b, WHARF_SEGMENT_READ, NULL), 0);
                CHECK_STR((char *)wharf_segment_at(b, 4000, 10), "Hello");
                CHECK_EQ(wharf_segment_detach(b), 0);
                CHECK_EQ(wharf_segment_detach(b), -EINVAL);
                wharf_segment_close(b);

                CHECK_EQ(wharf_segment_remove(name), 0);
                CHECK_EQ(wharf_segment_remove(name), -ENOENT);
                CHECK_EQ(wharf_segment_open(name, WHARF_SEGMENT_READ, &b), -ENOENT);
        }
}

static int writes_one(void *arg)
{
        signal(SIGSEGV, SIG_DFL); /* a sanitizer would make an exit of it */
        signal(SIGBUS, SIG_DFL);
        *(volatile char *)arg = 1;
        return 0;
}

static int child_writes(void *arg)
{
        strcpy(wharf_segment_at(arg, 0, 16), "from the child");
        return 0;
}

/* Goal: an anonymous segment is inherited by children, attached where it was, and read-only means read-only. */
TEST(anonymous_segments_are_inherited)
{
        wharf_segment *s = created("anon:test", 4096);
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL), 0);
        CHECK_EQ(test_wait(test_fork(child_writes, s)), 0);
        CHECK_STR((char *)wharf_segment_base(s), "from the child");
        CHECK_EQ(wharf_segment_detach(s), 0);
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_READ, NULL), 0);
        CHECK_EQ(test_wait(test_fork(writes_one, wharf_segment_base(s))), 128 + SIGSEGV);
        wharf_segment_close(s);
        CHECK_EQ(wharf_segment_open("anon:test", WHARF_SEGMENT_READ, &s), -EINVAL);
        CHECK_EQ(wharf_segment_remove("anon:test"), -EINVAL);
}

/* Goal: base and limit: no offset and no length, however large, leads outside. */
TEST(every_offset_is_checked_against_the_limit)
{
        const uint64_t limit = 5000;
        wharf_segment *s = created("anon:test", limit);
        CHECK(!wharf_segment_at(s, 0, 1)); /* not attached */
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL), 0);
        char *base = wharf_segment_base(s);
        const uint64_t edge[] = {0,    1,         limit - 1,          limit,          limit + 1, 8191,
                                 8192, INT64_MAX, UINT64_MAX - limit, UINT64_MAX - 1, UINT64_MAX};
        const unsigned n = sizeof edge / sizeof *edge;
        for (unsigned i = 0; i < n; i++)
                for (unsigned j = 0; j < n; j++) {
                        unsigned __int128 end = (unsigned __int128)edge[i] + edge[j];
                        char *at = wharf_segment_at(s, edge[i], edge[j]);
                        CHECK(at == (end <= limit ? base + edge[i] : NULL));
                }
        uint64_t off = 7;
        CHECK_EQ(wharf_segment_offset(s, base + 4999, &off), 0);
        CHECK_EQ(off, 4999);
        CHECK_EQ(wharf_segment_offset(s, base + 5000, &off), -EFAULT);
        CHECK_EQ(wharf_segment_offset(s, base - 1, &off), -EFAULT);
        CHECK_EQ(off, 4999);
        wharf_segment_close(s);
}

static int same_address_in_child(void *arg)
{
        wharf_segment *s;
        if (wharf_segment_open(arg, WHARF_SEGMENT_READ, &s) || wharf_segment_attach(s, WHARF_SEGMENT_READ, ONE_ADDRESS))
                return 1;
        char *const *p = wharf_segment_base(s);
        return strcmp(*p, "a pointer can be shared") != 0;
}

/* Goal: one address everywhere; where something is mapped, a clear refusal and the mapping unharmed. */
TEST(a_chosen_address_is_that_or_refused)
{
        if (TEST_TSAN)
                test_skip("the thread sanitizer keeps that address for itself");
        for (unsigned k = 0; k < 3; k++) {
                const char *name = unique(named_kinds[k]);
                wharf_segment *s = created(name, 8192);
                CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, (char *)ONE_ADDRESS + 1), -EINVAL);
                char *taken = mmap((char *)ONE_ADDRESS + 4096, 4096, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
                CHECK(taken != MAP_FAILED);
                *taken = 42;
                CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, ONE_ADDRESS), -EADDRINUSE);
                CHECK(!wharf_segment_base(s));
                CHECK_EQ(*taken, 42);
                munmap(taken, 4096);

                CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, ONE_ADDRESS), 0);
                char *base = wharf_segment_base(s);
                CHECK(base == ONE_ADDRESS);
                strcpy(base + 100, "a pointer can be shared");
                *(char **)ONE_ADDRESS = base + 100;
                CHECK_EQ(wharf_segment_detach(s), 0);
                CHECK_EQ(test_wait(test_fork(same_address_in_child, (void *)(uintptr_t)name)), 0);
                wharf_segment_close(s);
                CHECK_EQ(wharf_segment_remove(name), 0);
        }
}

static uint64_t allocated(const wharf_segment *s)
{
        struct wharf_segment_stat st;
        CHECK_EQ(wharf_segment_stat(s, &st), 0);
        return st.allocated_bytes;
}

/* Goal: growing keeps contents, reserves blocks, moves only when it must and may; others follow when they ask. */
TEST(resizing)
{
        if (TEST_TSAN)
                test_skip("the thread sanitizer keeps that address for itself");
        const char *name = unique("posix");
        wharf_segment *s = created(name, 4096), *other;
        CHECK_EQ(wharf_segment_open(name, WHARF_SEGMENT_WRITE, &other), 0);
        CHECK_EQ(wharf_segment_attach(other, WHARF_SEGMENT_WRITE, NULL), 0);
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, ONE_ADDRESS), 0);
        strcpy(wharf_segment_base(s), "kept");
        CHECK_EQ(wharf_segment_resize(s, 50 << 20), 0);
        CHECK(wharf_segment_base(s) == ONE_ADDRESS);
        CHECK_EQ(wharf_segment_bytes(s), 50 << 20);
        CHECK_GE(allocated(s), 50 << 20);
        CHECK_STR((char *)wharf_segment_base(s), "kept");
        ((char *)wharf_segment_base(s))[(50 << 20) - 1] = 'x';

        CHECK_EQ(wharf_segment_bytes(other), 4096);
        CHECK(!wharf_segment_at(other, 4096, 1));
        CHECK_EQ(wharf_segment_refresh(other), 1);
        CHECK_EQ(wharf_segment_refresh(other), 0);
        CHECK_EQ(*(char *)wharf_segment_at(other, (50 << 20) - 1, 1), 'x');
        CHECK_STR((char *)wharf_segment_base(other), "kept");

        /* Something lies behind: a chosen address is refused, any other moves. */
        CHECK_EQ(wharf_segment_resize(s, 4096), 0);
        CHECK_EQ(wharf_segment_refresh(other), 1);
        void *behind = mmap((char *)ONE_ADDRESS + 4096, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(behind == (char *)ONE_ADDRESS + 4096);
        CHECK_EQ(wharf_segment_resize(s, 8192), -EADDRINUSE);
        CHECK_EQ(wharf_segment_bytes(s), 4096);
        CHECK_EQ(wharf_segment_refresh(other), 0);
        CHECK_EQ(wharf_segment_resize(other, 8192), 0);
        CHECK_EQ(wharf_segment_refresh(s), -EADDRINUSE);
        CHECK_STR((char *)wharf_segment_at(other, 0, 8192), "kept");
        munmap(behind, 4096);

        CHECK_EQ(wharf_segment_resize(s, 0), -EINVAL);
        CHECK_EQ(wharf_segment_resize(s, UINT64_MAX), -EINVAL);
        wharf_segment_close(other);
        wharf_segment_close(s);
        CHECK_EQ(wharf_segment_remove(name), 0);

        name = unique("sysv");
        s = created(name, 100);
        CHECK_EQ(wharf_segment_resize(s, 200), -EOPNOTSUPP);
        CHECK_EQ(wharf_segment_fd(s), -EOPNOTSUPP);
        wharf_segment_close(s);
        CHECK_EQ(wharf_segment_remove(name), 0);
}

static int send_fd(int sock, int fd)
{
        char c = 0, space[CMSG_SPACE(sizeof(int))] = {0};
        struct iovec iov = {&c, 1};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(h), &fd, sizeof fd);
        return sendmsg(sock, &m, 0) == 1 ? 0 : -errno;
}

static int receive_fd(int sock)
{
        char c, space[CMSG_SPACE(sizeof(int))] = {0};
        struct iovec iov = {&c, 1};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
        int fd = -1;
        if (recvmsg(sock, &m, MSG_CMSG_CLOEXEC) == 1 && CMSG_FIRSTHDR(&m))
                memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
        return fd;
}

static int receiver(void *arg)
{
        wharf_segment *s;
        int fd = receive_fd(*(int *)arg);
        CHECK_EQ(wharf_segment_from_fd(fd, WHARF_SEGMENT_WRITE, WHARF_SEGMENT_SEALED, &s), 0);
        CHECK_EQ(wharf_segment_resize(s, 8192), -EPERM);
        CHECK_EQ(wharf_segment_resize(s, 100), -EPERM);
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL), 0);
        strcpy(wharf_segment_base(s), "received");
        wharf_segment_close(s);
        return 0;
}

/* Goal: a segment goes to a stranger as a descriptor; it can insist on a size that never changes. */
TEST(a_segment_is_sent_as_a_descriptor)
{
        int sv[2];
        CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
        pid_t pid = test_fork(receiver, &sv[1]);
        wharf_segment *s, *t;
        struct wharf_segment_opts o = {.size = sizeof o, .flags = WHARF_SEGMENT_SEALED};
        CHECK_EQ(wharf_segment_create("anon:sent", 4096, &o, &s), 0);
        CHECK_EQ(send_fd(sv[0], wharf_segment_fd(s)), 0);
        CHECK_EQ(test_wait(pid), 0);
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_READ, NULL), 0);
        CHECK_STR((char *)wharf_segment_base(s), "received");
        struct wharf_segment_stat st;
        CHECK_EQ(wharf_segment_stat(s, &st), 0);
        CHECK(st.flags & WHARF_SEGMENT_STAT_SEALED);
        CHECK_EQ(st.kind, WHARF_SEGMENT_ANONYMOUS);
        CHECK_EQ(st.mode, 0600);
        wharf_segment_close(s);

        /* Not sealed; sealed and sparse; no memory at all. What is refused stays ours. */
        s = created("anon:unsealed", 4096);
        CHECK_EQ(wharf_segment_from_fd(wharf_segment_fd(s), WHARF_SEGMENT_READ, WHARF_SEGMENT_SEALED, &t), -EPROTO);
        wharf_segment_close(s);
        o.flags |= WHARF_SEGMENT_SPARSE;
        CHECK_EQ(wharf_segment_create("anon:sparse", 1 << 20, &o, &s), 0);
        CHECK_EQ(wharf_segment_from_fd(wharf_segment_fd(s), WHARF_SEGMENT_READ, WHARF_SEGMENT_SEALED, &t), -EPROTO);
        wharf_segment_close(s);
        const int hole = memfd_create("hole", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        CHECK_EQ(ftruncate(hole, 1 << 20), 0);
        CHECK_EQ(fallocate(hole, FALLOC_FL_KEEP_SIZE, 1 << 20, 1 << 20), 0); /* as many blocks, all behind its end */
        CHECK_EQ(fcntl(hole, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
        uint64_t there; /* before Linux 6.5, and in the emulator, nobody says */
        const bool told = wh_os_bytes_there(hole, 1 << 20, &there) == 0;
        CHECK_EQ(wharf_segment_from_fd(hole, WHARF_SEGMENT_READ, WHARF_SEGMENT_SEALED, &t), told ? -EPROTO : 0);
        if (told)
                close(hole);
        else
                wharf_segment_close(t);
        CHECK_EQ(wharf_segment_from_fd(sv[0], WHARF_SEGMENT_READ, WHARF_SEGMENT_SEALED, &t), -EPROTO);
        CHECK_EQ(wharf_segment_from_fd(sv[0], WHARF_SEGMENT_READ, 0, &t), -ENODEV);
        CHECK_EQ(wharf_segment_from_fd(-1, WHARF_SEGMENT_READ, 0, &t), -EBADF);
        close(sv[0]);
        close(sv[1]);
}

/* Goal: a descriptor opened for reading gives a segment for reading, whatever is asked. */
TEST(a_descriptor_limits_the_access)
{
        char path[128];
        snprintf(path, sizeof path, "%s/f", test_dir());
        int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
        CHECK_EQ(ftruncate(fd, 100), 0);
        close(fd);
        wharf_segment *s;
        fd = open(path, O_RDONLY | O_CLOEXEC);
        CHECK_EQ(wharf_segment_from_fd(fd, WHARF_SEGMENT_WRITE, 0, &s), -EACCES);
        CHECK_EQ(wharf_segment_from_fd(fd, WHARF_SEGMENT_READ, 0, &s), 0);
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL), -EACCES);
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_READ, NULL), 0);
        CHECK_EQ(wharf_segment_resize(s, 10), -EACCES);
        wharf_segment_close(s);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        CHECK_EQ(wharf_segment_from_fd(fd, WHARF_SEGMENT_READ, 0, &s), -EACCES);
        close(fd);
}

TEST(names_are_checked)
{
        static const char *const bad[] = {"",
                                          "OS",
                                          "posix",
                                          "posix:",
                                          "posix:/",
                                          "posix:a/b",
                                          "posix:..",
                                          "sysv:",
                                          "sysv:0",
                                          "sysv:0x",
                                          "sysv:1x",
                                          "sysv:-1",
                                          "sysv:99999999999",
                                          "sysv:id=",
                                          "sysv:id=-1",
                                          "sysv:/tmp#",
                                          "sysv:/tmp#0",
                                          "sysv:/tmp#256",
                                          "sysv:#1",
                                          "file:",
                                          "mem:x",
                                          "posixx:a",
                                          ":a",
                                          "sysv:+1"};
        wharf_segment *s = NULL;
        for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
                if (wharf_segment_open(bad[i], WHARF_SEGMENT_READ, &s) != -EINVAL ||
                    wharf_segment_create(bad[i], 1, NULL, &s) != -EINVAL || wharf_segment_remove(bad[i]) != -EINVAL)
                        test_fail(__FILE__, __LINE__, "accepted: %s", bad[i]);
        }
        CHECK_EQ(wharf_segment_open(NULL, WHARF_SEGMENT_READ, &s), -EINVAL);
        char longest[400] = "posix:";
        memset(longest + 6, 'x', 300);
        CHECK_EQ(wharf_segment_open(longest, WHARF_SEGMENT_READ, &s), -ENAMETOOLONG);
        memcpy(longest, "anon:x", 6);
        CHECK_EQ(wharf_segment_create(longest, 1, NULL, &s), -ENAMETOOLONG);
        CHECK_EQ(wharf_segment_open("sysv:/no/such/path#1", WHARF_SEGMENT_READ, &s), -ENOENT);
        CHECK_EQ(wharf_segment_open("posix:wharf-nothing", 0, &s), -EINVAL);
        CHECK_EQ(wharf_segment_create("anon:x", 0, NULL, &s), -EINVAL);
        CHECK_EQ(wharf_segment_create("anon:x", UINT64_MAX, NULL, &s), -EFBIG);
        CHECK(!s);
}

/* Goal: sysv:PATH#ID is the key that ftok() makes, for numbers and for letters. */
TEST(ftok_keys_are_the_same)
{
        char name[128];
        const char *dir = test_dir();
        static const struct {
                const char *text;
                int id;
        } ids[] = {{"65", 65}, {"x", 'x'}, {"5", 5}, {"255", 255}};
        for (unsigned i = 0; i < 4; i++) {
                snprintf(name, sizeof name, "sysv:%s#%s", dir, ids[i].text);
                wharf_segment *s = created(name, 10);
                struct wharf_segment_stat st;
                CHECK_EQ(wharf_segment_stat(s, &st), 0);
                CHECK_EQ(st.key, ftok(dir, ids[i].id));
                CHECK_EQ(st.creator_pid, getpid());
                wharf_segment_close(s);
                CHECK_EQ(wharf_segment_remove(name), 0);
        }
}

/* Goal: what is no memory is neither opened nor removed: a directory, a FIFO that nobody writes, a link. */
TEST(other_things_of_that_name_are_left_alone)
{
        char path[128], name[160];
        wharf_segment *s;
        snprintf(path, sizeof path, "%s/thing", test_dir());
        snprintf(name, sizeof name, "file:%s", path);
        CHECK_EQ(mkdir(path, 0700), 0);
        CHECK_EQ(wharf_segment_open(name, WHARF_SEGMENT_READ, &s), -ENODEV);
        CHECK_EQ(wharf_segment_open(name, WHARF_SEGMENT_WRITE, &s), -ENODEV);
        CHECK_EQ(wharf_segment_remove(name), -ENODEV);
        CHECK_EQ(wharf_segment_create(name, 10, NULL, &s), -EEXIST);
        rmdir(path);
        CHECK_EQ(mkfifo(path, 0600), 0);
        CHECK_EQ(wharf_segment_open(name, WHARF_SEGMENT_READ, &s), -ENODEV);
        CHECK_EQ(wharf_segment_remove(name), -ENODEV);

        snprintf(name, sizeof name, "posix:wharf-link-%d", (int)getpid());
        char link[180];
        snprintf(link, sizeof link, "/dev/shm/%s", name + 6);
        CHECK_EQ(symlink("/etc/passwd", link), 0);
        int opened = wharf_segment_open(name, WHARF_SEGMENT_READ, &s);
        int removed = wharf_segment_remove(name);
        unlink(link);
        CHECK_EQ(opened, -ENODEV);
        CHECK_EQ(removed, -ENODEV);
}

/* An object that shm_open() made and nobody has sized yet. */
TEST(a_segment_without_a_size_is_not_attached)
{
        char name[64];
        snprintf(name, sizeof name, "/wharf-empty-%d", (int)getpid());
        int fd = shm_open(name, O_CREAT | O_RDWR, 0600);
        char full[80];
        snprintf(full, sizeof full, "posix:%s", name);
        wharf_segment *s;
        CHECK_EQ(wharf_segment_open(full, WHARF_SEGMENT_WRITE, &s), 0);
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL), -ENODATA);
        CHECK_EQ(ftruncate(fd, 10), 0);
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL), 0);
        CHECK(wharf_segment_at(s, 9, 1) && !wharf_segment_at(s, 9, 2));
        wharf_segment_close(s);
        close(fd);
        CHECK_EQ(shm_unlink(name), 0);
}

/* ---- permissions, as an ordinary user ---- */

static int stranger(void *arg)
{
        const char *name = arg;
        wharf_segment *s;
        test_drop_root();
        if (wharf_segment_open(name, WHARF_SEGMENT_WRITE, &s) != -EACCES)
                return 1;
        int r = wharf_segment_remove(name);
        if (r != -EPERM && r != -EACCES)
                return 2;
        r = wharf_segment_open(name, WHARF_SEGMENT_READ, &s);
        if (r < 0)
                return 10 + (r == -EACCES);
        if (wharf_segment_attach(s, WHARF_SEGMENT_READ, NULL) || *(char *)wharf_segment_base(s) != 'r')
                return 3;
        if (wharf_segment_chmod(s, 0666) != -EPERM)
                return 4;
        wharf_segment_close(s);
        return 0;
}

/* Goal: modes decide, at creation whatever the umask, and later. */
TEST(modes_are_exact_and_obeyed)
{
        if (getuid() != 0)
                test_skip("needs a second user, so root");
        umask(0077);
        for (unsigned k = 0; k < 3; k++) {
                const char *name = unique(named_kinds[k]);
                struct wharf_segment_opts o = {.size = sizeof o, .mode = 0644};
                wharf_segment *s;
                struct wharf_segment_stat st;
                CHECK_EQ(wharf_segment_create(name, 4096, &o, &s), 0);
                CHECK_EQ(wharf_segment_stat(s, &st), 0);
                CHECK_EQ(st.mode, 0644);
                CHECK_EQ(st.uid, 0);
                CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL), 0);
                *(char *)wharf_segment_base(s) = 'r';
                if (k == 2) /* the directory of the test lets anyone remove */
                        chmod(test_dir(), 0755);
                CHECK_EQ(test_wait(test_fork(stranger, (void *)(uintptr_t)name)), 0);
                CHECK_EQ(wharf_segment_chmod(s, 0600), 0);
                CHECK_EQ(test_wait(test_fork(stranger, (void *)(uintptr_t)name)), 11);
                CHECK_EQ(wharf_segment_chown(s, 65534, 65534), 0);
                CHECK_EQ(wharf_segment_stat(s, &st), 0);
                CHECK_EQ(st.uid, 65534);
                CHECK_EQ(wharf_segment_chmod(s, 01777), -EINVAL);
                wharf_segment_close(s);
                CHECK_EQ(wharf_segment_remove(name), 0);
        }
}

/* ---- exhaustion ---- */

static unsigned entries_of(const char *dir)
{
        char cmd[128];
        unsigned n = 99;
        snprintf(cmd, sizeof cmd, "ls -A %s | wc -l", dir);
        FILE *p = popen(cmd, "re");
        CHECK(p && fscanf(p, "%u", &n) == 1);
        pclose(p);
        return n;
}

/*
 * Goal: a full file system is an error at the call, not SIGBUS at a touch, and nothing is left behind.
 * Method: a tmpfs of 64 KiB in a mount namespace of the test's own, over /dev/shm too.
 */
TEST(a_full_tmpfs_is_an_error)
{
        if (getuid() != 0 || unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                test_skip("needs root and mount namespaces, and a root that is a mount: no plain chroot");
        char name[160];
        const char *dir = test_dir();
        CHECK_EQ(mount("tmpfs", dir, "tmpfs", 0, "size=64k"), 0);
        snprintf(name, sizeof name, "file:%s/big", dir);
        wharf_segment *s = NULL;
        CHECK_EQ(wharf_segment_create(name, 65536 + 1, NULL, &s), -ENOSPC);
        CHECK(!s);
        CHECK_EQ(entries_of(dir), 0);
        CHECK_EQ(wharf_segment_create(name, 32768, NULL, &s), 0);
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL), 0);
        memset(wharf_segment_base(s), 1, 32768);
        void *base = wharf_segment_base(s);
        CHECK_EQ(wharf_segment_resize(s, 131072), -ENOSPC);
        CHECK_EQ(wharf_segment_bytes(s), 32768);
        CHECK(wharf_segment_base(s) == base);
        CHECK_EQ(allocated(s), 32768); /* what was reserved on the way went back */
        CHECK_EQ(wharf_segment_resize(s, 65536), 0);
        memset(wharf_segment_base(s), 2, 65536);

        /* A sparse one is made all the same, and that is why it is not the default. */
        struct wharf_segment_opts o = {.size = sizeof o, .flags = WHARF_SEGMENT_SPARSE};
        wharf_segment *sparse;
        snprintf(name, sizeof name, "file:%s/sparse", dir);
        CHECK_EQ(wharf_segment_create(name, 4096, &o, &sparse), 0);
        CHECK_EQ(wharf_segment_attach(sparse, WHARF_SEGMENT_WRITE, NULL), 0);
        CHECK_EQ(test_wait(test_fork(writes_one, wharf_segment_base(sparse))), 128 + SIGBUS);
        wharf_segment_close(sparse);
        wharf_segment_close(s);
        CHECK_EQ(umount(dir), 0);

        CHECK_EQ(mount("tmpfs", "/dev/shm", "tmpfs", 0, "size=64k"), 0);
        CHECK_EQ(wharf_segment_create("posix:big", 1 << 20, NULL, &s), -ENOSPC);
        CHECK_EQ(entries_of("/dev/shm"), 0);
        CHECK_EQ(umount("/dev/shm"), 0);
}

TEST(a_file_size_limit_is_an_error)
{
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){1 << 20, 1 << 20});
        wharf_segment *s = NULL;
        const char *name = unique("posix");
        CHECK_EQ(wharf_segment_create(name, (1 << 20) + 1, NULL, &s), -EFBIG);
        CHECK_EQ(wharf_segment_create("anon:x", (1 << 20) + 1, NULL, &s), -EFBIG);
        CHECK_EQ(wharf_segment_remove(name), -ENOENT);
        CHECK_EQ(wharf_segment_create(name, 1 << 20, NULL, &s), 0);
        CHECK_EQ(wharf_segment_resize(s, 2 << 20), -EFBIG);
        CHECK_EQ(allocated(s), 1 << 20);
        wharf_segment_close(s);
        CHECK_EQ(wharf_segment_remove(name), 0);
}

/*
 * Goal: more than the machine has is refused before any of it is reserved (nobody else is killed for it).
 * Method: sizes that no machine has, of every kind that is memory; the gate sees that nothing was reserved.
 */
static unsigned reserved;

static int count_reserving(enum wh_os_call call)
{
        reserved += call == WH_OS_fallocate || call == WH_OS_shmget || call == WH_OS_madvise;
        return 0;
}

TEST(too_large_for_this_machine_is_an_error)
{
        static const char *const kinds[] = {"sysv", "anon", "posix"};
        wharf_segment *s = NULL;
        struct statfs shm;
        /* In a plain chroot /dev/shm is a directory of the disk, whose own limit comes first. */
        unsigned n = statfs("/dev/shm", &shm) == 0 && shm.f_type == TMPFS_MAGIC ? 3 : 2;
        reserved = 0;
        wh_os_gate = count_reserving;
        for (unsigned k = 0; k < n; k++)
                for (unsigned bit = 48; bit < 63; bit++)
                        CHECK_EQ(wharf_segment_create(unique(kinds[k]), (uint64_t)1 << bit, NULL, &s), -ENOMEM);
        CHECK(!s);
        CHECK_EQ(wharf_segment_create("anon:x", 4096, NULL, &s), 0);
        reserved = 0;
        CHECK_EQ(wharf_segment_resize(s, (uint64_t)1 << 50), -ENOMEM);
        CHECK_EQ(reserved, 0);
        CHECK_EQ(wharf_segment_bytes(s), 4096);
        wh_os_gate = NULL;
        wharf_segment_close(s);
}

/* ---- failures of single calls ---- */

static uint32_t calls, fail_at;
static int fail_with;

static int fail_nth(enum wh_os_call call)
{
        if (call == WH_OS_close || call == WH_OS_munmap || call == WH_OS_unlink || call == WH_OS_shmdt)
                return 0; /* what gives back is not made to fail */
        return ++calls == fail_at ? fail_with : 0;
}

static int whole_life(const char *name)
{
        wharf_segment *s = NULL, *t = NULL;
        int r = wharf_segment_create(name, 5000, NULL, &s);
        if (r < 0) {
                CHECK(!s);
                return r;
        }
        bool anon = !strncmp(name, "anon", 4);
        struct wharf_segment_stat st;
        if ((r = wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL)) == 0 && (r = wharf_segment_stat(s, &st)) == 0 &&
            st.kind != WHARF_SEGMENT_SYSV)
                r = wharf_segment_resize(s, 9000);
        if (r == 0 && !anon)
                r = wharf_segment_open(name, WHARF_SEGMENT_READ, &t);
        if (wharf_segment_base(s))
                memset(wharf_segment_at(s, 0, 5000), 1, 5000);
        wharf_segment_close(t);
        wharf_segment_close(s);
        if (!anon)
                while (wharf_segment_remove(name) < 0) /* the fault may hit this too, once */
                        ;
        return r;
}

/* Goal: whichever call fails, an error comes back and nothing is left behind (the harness looks). */
TEST(any_call_may_fail)
{
        static const int errors[] = {-ENOMEM, -EMFILE, -ENOSPC, -EACCES};
        unsigned faults = 0;
        static const char *const kinds[] = {"posix", "sysv", "file", "anon"};
        for (unsigned k = 0; k < 4; k++)
                for (unsigned e = 0; e < 4; e++)
                        for (fail_at = 1;; fail_at++) {
                                calls = 0;
                                fail_with = errors[e];
                                wh_os_gate = fail_nth;
                                whole_life(unique(kinds[k]));
                                wh_os_gate = NULL;
                                if (calls < fail_at)
                                        break;
                                faults++;
                        }
        CHECK_GE(faults, 100);
}

/*
 * Goal: a task killed while it makes a segment leaves a whole one or none.
 * Method: kill it at each system call in turn.
 */
static int kill_nth(enum wh_os_call call)
{
        if (++calls == fail_at)
                raise(SIGKILL);
        return 0;
}

static int creator(void *arg)
{
        wharf_segment *s;
        calls = 0;
        wh_os_gate = kill_nth;
        return wharf_segment_create(arg, 20000, NULL, &s) < 0;
}

TEST(a_maker_killed_anywhere_leaves_all_or_nothing)
{
        test_need_proc();
        static const char *const kinds[] = {"posix", "file"};
        for (unsigned k = 0; k < 2; k++) {
                const char *name = unique(kinds[k]);
                bool done = false, found = false;
                for (fail_at = 1; !done; fail_at++) {
                        done = test_wait(test_fork(creator, (void *)(uintptr_t)name)) == 0;
                        wharf_segment *s;
                        if (wharf_segment_open(name, WHARF_SEGMENT_READ, &s) < 0)
                                continue;
                        found = true;
                        CHECK_EQ(wharf_segment_bytes(s), 20000);
                        CHECK_GE(allocated(s), 20000);
                        wharf_segment_close(s);
                        CHECK_EQ(wharf_segment_remove(name), 0);
                }
                CHECK(found);
                CHECK_GE(fail_at, 5);
        }
}

/* Goal: where a file cannot get its name last (no O_TMPFILE), it is made the old way, with the same result. */
static int no_tmpfile(enum wh_os_call call)
{
        return call == WH_OS_linkat ? -ENOENT : 0;
}

TEST(without_proc_a_file_is_made_the_old_way)
{
        const char *name = unique("posix");
        wh_os_gate = no_tmpfile;
        wharf_segment *s = created(name, 20000);
        wh_os_gate = NULL;
        CHECK_GE(allocated(s), 20000);
        wharf_segment_close(s);
        CHECK_EQ(wharf_segment_remove(name), 0);
}

/* ---- who has it ---- */

struct found {
        const char *name;
        unsigned times;
        struct wharf_segment_stat st;
        struct wharf_segment_user users[8];
        unsigned n_users;
};

static int find_it(const char *name, const struct wharf_segment_stat *st, void *arg)
{
        struct found *f = arg;
        if (!strcmp(name, f->name)) {
                f->times++;
                f->st = *st;
        }
        return 0;
}

static int find_user(uint32_t i, const struct wharf_segment_user *u, void *arg)
{
        struct found *f = arg;
        CHECK_EQ(i, 0);
        CHECK(f->n_users < 8);
        f->users[f->n_users++] = *u;
        return 0;
}

static int attached_child(void *arg)
{
        int *fds = arg;
        CHECK_EQ(write(fds[1], "r", 1), 1);
        char c;
        return (int)read(fds[2], &c, 1); /* the parent closes it */
}

/* Goal: the list names every segment once, and says who has it attached and who only open. */
TEST(the_list_knows_who_uses_what)
{
        if (test_emulated())
                test_skip("the emulator has no SHM_STAT_ANY, and a /proc/PID/maps of its own");
        test_need_proc();
        for (unsigned k = 0; k < 2; k++) {
                const char *name = unique(named_kinds[k]);
                wharf_segment *s = created(name, 4096);
                struct found f = {.name = name};
                CHECK_EQ(wharf_segment_list(find_it, &f), 0);
                CHECK_EQ(f.times, 1);
                CHECK_EQ(f.st.bytes, 4096);
                CHECK_EQ(wharf_segment_users(&f.st, 1, find_user, &f, NULL), 0);
                if (k == 0) {
                        CHECK_EQ(f.n_users, 1);
                        CHECK(f.users[0].open && !f.users[0].mapped);
                } else {
                        CHECK_EQ(f.n_users, 0);
                        CHECK_EQ(f.st.attached, 0);
                }

                CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL), 0);
                int ready[2], hold[2];
                CHECK(pipe2(ready, O_CLOEXEC) == 0 && pipe2(hold, O_CLOEXEC) == 0);
                int fds[] = {ready[0], ready[1], hold[0]};
                fcntl(hold[1], F_SETFD, FD_CLOEXEC);
                pid_t pid = fork();
                if (pid == 0) {
                        close(hold[1]);
                        _exit(attached_child(fds));
                }
                char c;
                CHECK_EQ(read(ready[0], &c, 1), 1);
                f = (struct found){.name = name};
                CHECK_EQ(wharf_segment_list(find_it, &f), 0);
                uint32_t unseen = 99;
                CHECK_EQ(wharf_segment_users(&f.st, 1, find_user, &f, &unseen), 0);
                CHECK_EQ(f.n_users, 2);
                for (unsigned i = 0; i < 2; i++) {
                        CHECK(f.users[i].pid == (uint32_t)getpid() || f.users[i].pid == (uint32_t)pid);
                        CHECK(f.users[i].mapped && f.users[i].writable);
                }
                if (k == 1)
                        CHECK_EQ(f.st.attached, 2);
                close(hold[1]);
                CHECK_EQ(test_wait(pid), 0);
                close(hold[0]);
                close(ready[0]);
                close(ready[1]);
                wharf_segment_close(s);
                CHECK_EQ(wharf_segment_remove(name), 0);
        }
}

/* Goal: the first segment of a system has the identifier 0, which is as good as any other. */
TEST(identifier_0_is_a_segment)
{
        if (test_emulated())
                test_skip("the emulator has no SHM_STAT_ANY, and a /proc/PID/maps of its own");
        test_need_proc();
        if (getuid() != 0 || unshare(CLONE_NEWIPC) < 0)
                test_skip("needs root and IPC namespaces");
        const char *name = unique("sysv");
        wharf_segment *s = created(name, 4096), *t;
        struct found f = {.name = name};
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL), 0);
        CHECK_EQ(wharf_segment_list(find_it, &f), 0);
        CHECK_EQ(f.st.id, 0);
        CHECK_EQ(wharf_segment_users(&f.st, 1, find_user, &f, NULL), 0);
        CHECK_EQ(f.n_users, 1);
        CHECK(f.users[0].mapped && f.users[0].pid == (uint32_t)getpid());
        CHECK_EQ(wharf_segment_open("sysv:id=0", WHARF_SEGMENT_WRITE, &t), 0);
        CHECK_EQ(wharf_segment_attach(t, WHARF_SEGMENT_WRITE, NULL), 0);
        wharf_segment_close(t);
        wharf_segment_close(s);
        CHECK_EQ(wharf_segment_remove(name), 0);
}

/* Goal: a System V segment that was removed while attached is told apart. */
TEST(a_removed_segment_lives_as_long_as_its_users)
{
        const char *name = unique("sysv");
        wharf_segment *s = created(name, 4096);
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL), 0);
        CHECK_EQ(wharf_segment_remove(name), 0);
        struct wharf_segment_stat st;
        CHECK_EQ(wharf_segment_stat(s, &st), 0);
        CHECK(st.flags & WHARF_SEGMENT_STAT_REMOVED);
        *(char *)wharf_segment_base(s) = 1;
        CHECK_EQ(wharf_segment_detach(s), 0);
        CHECK_EQ(wharf_segment_stat(s, &st), -EIDRM);
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL), -EIDRM);
        wharf_segment_close(s);

        name = unique("posix");
        s = created(name, 4096);
        CHECK_EQ(wharf_segment_remove(name), 0);
        CHECK_EQ(wharf_segment_stat(s, &st), 0);
        CHECK(st.flags & WHARF_SEGMENT_STAT_REMOVED);
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL), 0);
        wharf_segment_close(s);
}

/* Goal: what was written to a file is there for whoever opens it, and outlives every task. */
TEST(files_keep_their_contents)
{
        const char *name = unique("file");
        wharf_segment *s = created(name, 100);
        CHECK_EQ(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL), 0);
        strcpy(wharf_segment_base(s), "durable");
        CHECK_EQ(wharf_segment_sync(s), 0);
        wharf_segment_close(s);
        FILE *f = fopen(name + 5, "re");
        char buf[101] = {0};
        CHECK_EQ(fread(buf, 1, 101, f), 100);
        fclose(f);
        CHECK_STR(buf, "durable");
}

/* Goal: a page that cannot be had is told before anything is written, where touching it would be death. */
TEST(pages_of_a_sparse_segment_are_reserved_or_refused)
{
        /* As root this test has a /dev/shm of its own already; a small one goes on top. */
        if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("tmpfs", "/dev/shm", "tmpfs", 0, "size=1m") < 0)
                test_skip("no small file system can be mounted here");
        wharf_segment *s, *readonly;
        struct wharf_segment_stat st;
        struct wharf_segment_opts o = {.size = sizeof o, .flags = WHARF_SEGMENT_SPARSE};
        CHECK_EQ(wharf_segment_create("posix:wharf-sparse", 8 << 20, &o, &s), 0);
        CHECK_EQ(wharf_segment_open("posix:wharf-sparse", WHARF_SEGMENT_READ, &readonly), 0);
        CHECK_EQ(wharf_segment_reserve(s, 0, 2 << 20), -ENOSPC);
        CHECK_EQ(wharf_segment_stat(s, &st), 0);
        CHECK_EQ(st.allocated_bytes, 0);
        CHECK_EQ(wharf_segment_reserve(s, 1 << 20, 512 << 10), 0);
        CHECK_EQ(wharf_segment_stat(s, &st), 0);
        CHECK_EQ(st.allocated_bytes, 512 << 10);
        CHECK_EQ(st.bytes, 8 << 20);
        CHECK_EQ(wharf_segment_reserve(s, 1 << 20, 512 << 10), 0); /* there already */
        CHECK_EQ(wharf_segment_reserve(s, 8 << 20, 1), -EINVAL);
        CHECK_EQ(wharf_segment_reserve(s, 1, UINT64_MAX), -EINVAL);
        CHECK_EQ(wharf_segment_reserve(s, 8 << 20, 0), 0);
        CHECK_EQ(wharf_segment_reserve(readonly, 0, 1), -EACCES);
        wharf_segment_close(readonly);
        wharf_segment_close(s);
        CHECK_EQ(wharf_segment_remove("posix:wharf-sparse"), 0);
        CHECK_EQ(umount2("/dev/shm", MNT_DETACH), 0);
}
