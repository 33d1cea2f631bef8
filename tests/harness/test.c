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
#include <sys/stat.h>
#include <time.h>

uint64_t test_seed;

/* Against a hang, and far from what a test takes on a machine that is busy with ten other things. */
enum { TIMEOUT_S = 200 };

static struct test_case *all;
static struct test_case *running;
static pid_t main_pid, engine_pid; /* of this program; and whose failed check is one of Check's */
static uint64_t random_state;
static char base_path[96]; /* of this program: what its tests make lies below it, and goes with it */
static char dir_path[128]; /* of the running test */

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
        return dir_path;
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
        return remove(path);
}

static void remove_tree(const char *path)
{
        nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- what must be the same before and after a test ---- */

/* Folders that all share. Where each test may have its own, whatever lies there afterwards was left behind by it. */
static const char *const shared_dirs[] = {"/dev/shm", "/tmp", "/var/tmp", "/run"};
enum { SHARED_DIRS = sizeof shared_dirs / sizeof *shared_dirs, PRIVATE_DIRS = 2 };
static bool dir_is_ours[SHARED_DIRS], sysv_is_ours;

/* A test's own, wherever it runs: $TMPDIR and $XDG_RUNTIME_DIR, below test_dir(). */
static char private_dir[PRIVATE_DIRS][160];

struct world { /* of the process */
        unsigned fds, maps, children;
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

static unsigned names_left(void)
{
        unsigned n = 0;
        for (unsigned i = 0; i < SHARED_DIRS; i++)
                n += dir_is_ours[i] ? entries(shared_dirs[i]) : 0;
        for (unsigned i = 0; i < PRIVATE_DIRS; i++)
                n += entries(private_dir[i]);
        return n;
}

static void tell_names(void)
{
        for (unsigned i = 0; i < SHARED_DIRS + PRIVATE_DIRS; i++) {
                const char *path = i < SHARED_DIRS ? shared_dirs[i] : private_dir[i - SHARED_DIRS];
                DIR *d = i >= SHARED_DIRS || dir_is_ours[i] ? opendir(path) : NULL;
                struct dirent *e;
                while (d && (e = readdir(d)))
                        if (e->d_name[0] != '.')
                                fprintf(stderr, "  %s: %s/%s\n", running->name, path, e->d_name);
                if (d)
                        closedir(d);
        }
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

/* The children of this process, dead ones too: how many, and the first few. */
static unsigned children(pid_t *ret, unsigned cap)
{
        char path[64];
        snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
        FILE *f = fopen(path, "re");
        unsigned n = 0;
        int pid;
        while (f && fscanf(f, "%d", &pid) == 1) {
                if (n < cap)
                        ret[n] = pid;
                n++;
        }
        if (f)
                fclose(f);
        return n;
}

/*
 * An empty folder over one that all share, in this process's mount namespace. If this program lies in there, that part
 * of it stays to be seen.
 */
static bool own_dir(const char *path)
{
        char self[512], top[600];
        size_t len = strlen(path);
        ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
        int fd = -1;
        if (n < 0 || access(path, F_OK) < 0)
                return false;
        self[n] = 0;
        if (!strncmp(self, path, len) && self[len] == '/') {
                self[len + 1 + strcspn(self + len + 1, "/")] = 0;
                fd = open(self, O_PATH | O_CLOEXEC);
                if (fd < 0)
                        return false;
        }
        bool ok = mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "size=2g,mode=1777") == 0;
        if (ok && fd >= 0) {
                snprintf(top, sizeof top, "/proc/self/fd/%d", fd);
                ok = mkdir(self, 0755) == 0 && mount(top, self, NULL, MS_BIND | MS_REC, NULL) == 0;
                if (!ok)
                        umount2(path, MNT_DETACH);
        }
        if (fd >= 0)
                close(fd);
        return ok;
}

/*
 * Folders and a System V namespace of this test's own, so that what other programs do there is neither seen nor
 * touched. Without the right to make them they are left out of the comparison, but for those that environment variables
 * name.
 */
static void world_of_its_own(int number)
{
        if (unshare(CLONE_NEWNS | CLONE_NEWIPC) == 0) {
                sysv_is_ours = true;
                if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0)
                        for (unsigned i = 0; i < SHARED_DIRS; i++)
                                dir_is_ours[i] = own_dir(shared_dirs[i]);
        }
        /* A name that nobody else has, also where the folder is private: wharfds are found by their domains in /proc. */
        if (dir_is_ours[1])
                snprintf(dir_path, sizeof dir_path, "/tmp/%s-%d", strrchr(base_path, '/') + 1, number);
        else
                snprintf(dir_path, sizeof dir_path, "%s/%d", base_path, number);
        snprintf(private_dir[0], sizeof private_dir[0], "%s/tmp", dir_path);
        snprintf(private_dir[1], sizeof private_dir[1], "%s/run", dir_path);
        if (mkdir(dir_path, 0777) < 0 || chmod(dir_path, 0777) < 0 || mkdir(private_dir[0], 01777) < 0 ||
            chmod(private_dir[0], 01777) < 0 || mkdir(private_dir[1], 0700) < 0)
                test_fail(__FILE__, __LINE__, "%s: %s", dir_path, strerror(errno));
        setenv("TMPDIR", private_dir[0], 1);
        setenv("XDG_RUNTIME_DIR", private_dir[1], 1);
}

static void run_and_compare(void)
{
        struct world before = {entries("/proc/self/fd"), shared_maps(), children(NULL, 0)};
        running->run();
        struct world after = {entries("/proc/self/fd"), shared_maps(), children(NULL, 0)};
        /* Some descriptors are closed by a thread of the library's own (os/closer.h). */
        for (int ms = 0; ms < 5000 && after.fds > before.fds; ms++) {
                nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
                after.fds = entries("/proc/self/fd");
        }
        if (memcmp(&before, &after, sizeof before))
                test_fail(running->file, 0,
                          "left behind: descriptors %u -> %u, shared mappings %u -> %u, processes %u -> %u", before.fds,
                          after.fds, before.maps, after.maps, before.children, after.children);
}

/* ---- the processes that a test leaves ---- */

static bool is_wharfd(pid_t pid)
{
        char path[40], comm[32] = "";
        snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
        FILE *f = fopen(path, "re");
        if (f && !fgets(comm, sizeof comm, f))
                comm[0] = 0;
        if (f)
                fclose(f);
        return !strncmp(comm, "wharfd", 6);
}

/*
 * Ends all processes below this one, to which those without a parent come. A wharfd that waits for others to need it is
 * told to end; whatever else a test leaves is given `grace_ms` to be gone. How many had to be killed.
 */
static unsigned end_all(unsigned grace_ms)
{
        unsigned killed = 0;
        for (unsigned waited = 0;; waited += 5) {
                pid_t pid[64];
                while (waitpid(-1, NULL, WNOHANG) > 0)
                        ;
                unsigned n = children(pid, 64);
                if (n == 0)
                        return killed;
                for (unsigned i = 0; i < n && i < 64; i++) {
                        if (waited >= grace_ms) {
                                killed += kill(pid[i], SIGKILL) == 0;
                        } else if (waited % 200 == 0 && is_wharfd(pid[i])) {
                                kill(pid[i], SIGTERM);
                                kill(pid[i], SIGCONT);
                        }
                }
                if (waited >= grace_ms)
                        waitpid(-1, NULL, 0);
                else
                        usleep(5000);
        }
}

/* In the process that Check made: the test runs in a child of it, and every process that it leaves comes here. */
static void run_one(int i)
{
        running = all;
        for (int n = i; n--;)
                running = running->next;
        prctl(PR_SET_CHILD_SUBREAPER, 1);
        engine_pid = getpid();
        world_of_its_own(i);
        unsigned names = names_left(), sysv = sysv_is_ours ? entries_sysv() : 0;
        fflush(stdout);
        pid_t pid = fork();
        if (pid < 0)
                test_fail(__FILE__, __LINE__, "fork: %s", strerror(errno));
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                engine_pid = getpid();
                random_state = test_seed;
                run_and_compare();
                exit(0);
        }
        int st;
        for (pid_t ended = 0; ended != pid;)
                if ((ended = waitpid(-1, &st, 0)) < 0 && errno != EINTR)
                        test_fail(__FILE__, __LINE__, "waitpid: %s", strerror(errno));
        unsigned killed = end_all(st ? 0 : 20000);
        if (WIFSIGNALED(st)) {
                signal(WTERMSIG(st), SIG_DFL);
                raise(WTERMSIG(st));
        }
        if (st)
                _exit(WIFEXITED(st) ? WEXITSTATUS(st) : 1); /* what failed was said */
        unsigned names_after = names_left(), sysv_after = sysv_is_ours ? entries_sysv() : 0;
        if (names != names_after)
                tell_names();
        if (killed || names != names_after || sysv != sysv_after)
                test_fail(running->file, 0,
                          "left behind: %u processes, names in shared folders %u -> %u, System V segments %u -> %u",
                          killed, names, names_after, sysv, sysv_after);
        remove_tree(dir_path);
}

/* However this program ends, but for a SIGKILL: nothing that tests made outlives it. */
static void clean_up(void)
{
        if (getpid() != main_pid)
                return;
        end_all(0);
        remove_tree(base_path);
}

static bool make_base(void)
{
        const char *tmp = getenv("TMPDIR");
        /* Sockets lie below it, whose names have 107 bytes. */
        if (!tmp || !*tmp || strlen(tmp) > 40)
                tmp = "/tmp";
        snprintf(base_path, sizeof base_path, "%s/wharf-test-XXXXXX", tmp);
        if (!mkdtemp(base_path) || chmod(base_path, 0711) < 0) {
                fprintf(stderr, "%s: %s\n", base_path, strerror(errno));
                return false;
        }
        return true;
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
                tcase_set_timeout(tc, t->timeout_s > TIMEOUT_S ? t->timeout_s : TIMEOUT_S);
                TTest *tt = malloc(sizeof *tt);
                *tt = (TTest){t->name, run_one, t->file, 0};
                _tcase_add_test(tc, tt, 0, 0, i, i + 1);
                suite_add_tcase(s, tc);
        }
        main_pid = getpid();
        prctl(PR_SET_CHILD_SUBREAPER, 1);
        if (!make_base())
                return 2;
        atexit(clean_up);
        SRunner *sr = srunner_create(s);
        srunner_run_all(sr, getenv("WHARF_TEST_VERBOSE") ? CK_VERBOSE : CK_NORMAL);
        int failed = srunner_ntests_failed(sr), ran = srunner_ntests_run(sr);
        printf("%s: %d passed, %d failed\n", name, ran - failed, failed);
        srunner_free(sr);
        return failed || (!only && !ran);
}
