#include "test.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <link.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <time.h>

uint64_t test_seed;

static struct test_case *all;
static struct test_case *running;
static pid_t engine_pid; /* the process that Check forked for the running test */
static uint64_t random_state;
static char dir_path[64];

void test_register(struct test_case *t)
{
        struct test_case **at = &all;
        while (*at)
                at = &(*at)->next;
        *at = t;
}

/* splitmix64 (Steele, Lea, Flood 2014). */
uint64_t test_random(void)
{
        uint64_t z = random_state += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
}

void test_fail(const char *file, int line, const char *fmt, ...)
{
        char msg[1024];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(msg, sizeof msg, fmt, ap);
        va_end(ap);
        if (getpid() != engine_pid) {
                fprintf(stderr, "%s:%d: in a forked process of %s: %s (seed %" PRIu64 ")\n", file, line,
                        running ? running->name : "?", msg, test_seed);
                _exit(99);
        }
        _ck_assert_failed(file, line, "check", "%s (seed %" PRIu64 ")", msg, test_seed);
        abort();
}

void test_skip(const char *fmt, ...)
{
        va_list ap;
        printf("  skipped %s: ", running->name);
        va_start(ap, fmt);
        vprintf(fmt, ap);
        va_end(ap);
        printf("\n");
        fflush(stdout);
        _exit(0);
}

/* An emulator is a program for the machine that it runs on, which /proc/self/exe hides and the same by thread does not. */
bool test_emulated(void)
{
        extern const ElfW(Ehdr) __ehdr_start; /* of this program; made by the linker */
        char path[64];
        ElfW(Ehdr) really;
        snprintf(path, sizeof path, "/proc/self/task/%d/exe", (int)gettid());
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        bool other = fd >= 0 && read(fd, &really, sizeof really) == sizeof really &&
                     really.e_machine != __ehdr_start.e_machine;
        if (fd >= 0)
                close(fd);
        return other;
}

pid_t test_fork(int (*fn)(void *arg), void *arg)
{
        fflush(stdout);
        pid_t pid = fork();
        if (pid < 0)
                test_fail(__FILE__, __LINE__, "fork: %s", strerror(errno));
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                _exit(fn(arg));
        }
        return pid;
}

int test_wait(pid_t pid)
{
        int st;
        while (waitpid(pid, &st, 0) < 0)
                if (errno != EINTR)
                        test_fail(__FILE__, __LINE__, "waitpid(%d): %s", (int)pid, strerror(errno));
        return WIFSIGNALED(st) ? 128 + WTERMSIG(st) : WEXITSTATUS(st);
}

void test_drop_root(void)
{
        if (getuid() != 0)
                return;
        if (setgroups(0, NULL) < 0 || setgid(65534) < 0 || setuid(65534) < 0)
                test_fail(__FILE__, __LINE__, "cannot become an ordinary user: %s", strerror(errno));
        prctl(PR_SET_DUMPABLE, 1);
}

void *test_shared(size_t len)
{
        void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
                test_fail(__FILE__, __LINE__, "mmap: %s", strerror(errno));
        return p;
}

const char *test_dir(void)
{
        if (!dir_path[0]) {
                strcpy(dir_path, "/tmp/wharf-test-XXXXXX");
                if (!mkdtemp(dir_path))
                        test_fail(__FILE__, __LINE__, "mkdtemp: %s", strerror(errno));
                chmod(dir_path, 0777);
        }
        return dir_path;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
        return remove(path);
}

/* ---- what must be the same before and after a test ---- */

struct world {
        unsigned fds, maps, shm, children;
};

static unsigned entries(const char *path)
{
        DIR *d = opendir(path);
        unsigned n = 0;
        while (d && readdir(d))
                n++;
        if (d)
                closedir(d);
        return n;
}

static unsigned entries_sysv(void)
{
        FILE *f = fopen("/proc/sysvipc/shm", "re");
        char line[512];
        unsigned n = 0;
        while (f && fgets(line, sizeof line, f))
                n++;
        if (f)
                fclose(f);
        return n;
}

/* Mappings of memfds, System V segments and /dev/shm: what wharf shares. Anonymous shared memory is the tests' own. */
static unsigned shared_maps(void)
{
        FILE *f = fopen("/proc/self/maps", "re");
        char line[512];
        unsigned n = 0;
        while (f && fgets(line, sizeof line, f))
                n += strstr(line, "/memfd:") || strstr(line, "/SYSV") || strstr(line, "/dev/shm/");
        if (f)
                fclose(f);
        return n;
}

static unsigned live_children(void)
{
        char path[64];
        snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
        FILE *f = fopen(path, "re");
        unsigned n = 0;
        int pid;
        while (f && fscanf(f, "%d", &pid) == 1)
                n++;
        if (f)
                fclose(f);
        return n;
}

/*
 * A /dev/shm and a System V namespace of this test's own, so that what other programs do there is neither seen nor
 * touched. Without the right to make them both are left out of the comparison.
 */
static bool own_shm(void)
{
        if (unshare(CLONE_NEWNS | CLONE_NEWIPC) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                return false;
        return mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "size=2g,mode=1777") == 0;
}

static bool shm_is_ours;

static struct world world_now(void)
{
        return (struct world){entries("/proc/self/fd"), shared_maps(),
                              shm_is_ours ? entries("/dev/shm") + entries_sysv() : 0, live_children()};
}

static void run_one(int i)
{
        running = all;
        while (i--)
                running = running->next;
        engine_pid = getpid();
        random_state = test_seed;
        shm_is_ours = own_shm();
        struct world before = world_now();
        running->run();
        struct world after = world_now();
        if (dir_path[0])
                nftw(dir_path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
        if (memcmp(&before, &after, sizeof before))
                test_fail(
                        running->file, 0,
                        "left behind: descriptors %u -> %u, shared mappings %u -> %u, /dev/shm and System V %u -> %u, "
                        "processes %u -> %u",
                        before.fds, after.fds, before.maps, after.maps, before.shm, after.shm, before.children,
                        after.children);
}

int main(int argc, char **argv)
{
        const char *only = getenv("WHARF_TEST_ONLY");
        test_seed = (uint64_t)time(NULL) ^ (uint64_t)getpid() << 32;
        for (int i = 1; i + 1 < argc; i += 2) {
                if (!strcmp(argv[i], "--only"))
                        only = argv[i + 1];
                else if (!strcmp(argv[i], "--seed"))
                        test_seed = strtoull(argv[i + 1], NULL, 0);
        }
        const char *name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
        Suite *s = suite_create(name);
        int i = 0;
        for (struct test_case *t = all; t; t = t->next, i++) {
                if (only && !strstr(t->name, only))
                        continue;
                TCase *tc = tcase_create(t->name);
                tcase_set_timeout(tc, t->timeout_s ? t->timeout_s : 60);
                TTest *tt = malloc(sizeof *tt);
                *tt = (TTest){t->name, run_one, t->file, 0};
                _tcase_add_test(tc, tt, 0, 0, i, i + 1);
                suite_add_tcase(s, tc);
        }
        SRunner *sr = srunner_create(s);
        srunner_run_all(sr, getenv("WHARF_TEST_VERBOSE") ? CK_VERBOSE : CK_NORMAL);
        int failed = srunner_ntests_failed(sr), ran = srunner_ntests_run(sr);
        printf("%s: %d passed, %d failed\n", name, ran - failed, failed);
        srunner_free(sr);
        return failed || (!only && !ran);
}
