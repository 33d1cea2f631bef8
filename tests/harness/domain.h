/*
 * domain - a domain of the test's own, with the wharfd of this build, and who serves it.
 */
#ifndef WH_TEST_DOMAIN_H
#define WH_TEST_DOMAIN_H

#include "test.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <time.h>

/* Waits for an event that has no descriptor; the test's own time limit is the only one. */
#define UNTIL(cond)     \
        while (!(cond)) \
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL)

/*
 * A fresh domain's directory, which nobody has made yet; call it before anything of the library asks where the domain
 * is. $WHARFD, where it is set, stays.
 */
static inline const char *test_domain(void)
{
        static char dir[256], wharfd[600], self[512];
        snprintf(dir, sizeof dir, "%s/domain", test_dir());
        CHECK_EQ(chmod(test_dir(), 0755), 0);
        setenv("WHARF_DOMAIN", dir, 1);
        /* Without /proc the kernel still says what exec() was given. */
        const char *given = (const char *)getauxval(AT_EXECFN); // NOLINT(performance-no-int-to-ptr)
        ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
        if (n > 0)
                self[n] = 0;
        else
                CHECK(given && strlen(given) < sizeof self && realpath(given, self));
        *strrchr(self, '/') = 0;
        snprintf(wharfd, sizeof wharfd, "%s/../../wharfd", self);
        setenv("WHARFD", wharfd, 0);
        return dir;
}

/* From here on $WHARFD is where every user can reach it: a build often lies in a home that only its owner may enter. */
static inline void test_wharfd_for_all(void)
{
        static char path[256];
        char bytes[65536];
        snprintf(path, sizeof path, "%s/wharfd", test_dir());
        int from = open(getenv("WHARFD"), O_RDONLY | O_CLOEXEC);
        int to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
        CHECK(from >= 0 && to >= 0);
        ssize_t n;
        while ((n = read(from, bytes, sizeof bytes)) > 0)
                CHECK_EQ(write(to, bytes, (size_t)n), n);
        CHECK_EQ(n, 0);
        CHECK_EQ(fchmod(to, 0755), 0);
        close(from);
        close(to);
        setenv("WHARFD", path, 1);
}

/* How many descriptors a process has, and a few that are always the same. */
static inline int test_descriptors_of(pid_t pid)
{
        char path[40];
        test_need_proc();
        snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
        DIR *d = opendir(path);
        int n = 0;
        CHECK(d);
        while (readdir(d))
                n++;
        closedir(d);
        return n;
}

/* Is it a wharfd of that domain: its server, or its keeper, or one that is about to become that and to go? */
static inline bool test_is_wharfd(const char *pid, const char *dir, bool server)
{
        char path[300], line[1024];
        snprintf(path, sizeof path, "/proc/%s/cmdline", pid);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? 0 : read(fd, line, sizeof line - 1);
        if (fd >= 0)
                close(fd);
        if (n <= 0)
                return false;
        line[n] = 0;
        const char *arg = line + strlen(line) + 1;
        bool is_server = arg < line + n && !strcmp(arg, "--server");
        if (is_server != server)
                return false;
        arg += is_server ? sizeof "--server" : 0;
        return strstr(line, "wharfd") && arg < line + n && !strcmp(arg, "--domain") &&
               !strcmp(arg + sizeof "--domain", dir);
}

static inline pid_t test_parent_of(pid_t pid)
{
        char path[40], text[512];
        int parent = 0;
        snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
        FILE *f = fopen(path, "re");
        if (f && fgets(text, sizeof text, f) && strrchr(text, ')'))
                sscanf(strrchr(text, ')'), ") %*c %d", &parent);
        if (f)
                fclose(f);
        return parent;
}

/*
 * The server of a domain, or its keeper; 0 when none runs. Whoever starts a wharfd has the arguments of a keeper for a
 * moment, and so has one that came too late: while there is a server, the keeper is its parent.
 */
static inline pid_t test_find_wharfd(const char *dir, bool server)
{
        test_need_proc();
        DIR *d = opendir("/proc");
        struct dirent *e;
        pid_t found = 0;
        while (d && !found && (e = readdir(d)))
                if (test_is_wharfd(e->d_name, dir, server))
                        found = atoi(e->d_name);
        if (d)
                closedir(d);
        pid_t serving = found && !server ? test_find_wharfd(dir, true) : 0;
        char parent[16];
        if (serving) {
                snprintf(parent, sizeof parent, "%d", (int)test_parent_of(serving));
                if (test_is_wharfd(parent, dir, false))
                        found = atoi(parent);
        }
        return found;
}

/* Run wharfd with these arguments; it is in the background when this returns. Its exit status. */
static inline int test_run_wharfd(const char *const *args)
{
        const char *argv[16] = {getenv("WHARFD")};
        for (unsigned i = 0; args[i]; i++)
                argv[i + 1] = args[i];
        pid_t pid = fork();
        if (pid == 0) {
                execv(argv[0], (char **)(uintptr_t)argv);
                _exit(127);
        }
        return test_wait(pid);
}

/* The rules of the test's wharfd become these; the file that they are in. */
static inline const char *test_rules(const char *rules)
{
        static char path[300];
        snprintf(path, sizeof path, "%s/wharfd.conf", test_dir());
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        CHECK(fd >= 0);
        CHECK_EQ(write(fd, rules, strlen(rules)), (ssize_t)strlen(rules));
        close(fd);
        return path;
}

/* One that others may use as well, by these rules, and that stays until it is stopped. */
static inline void test_share_wharfd(const char *dir, const char *rules)
{
        CHECK_EQ(test_run_wharfd((const char *[]){"--domain", dir, "--share", "--config", test_rules(rules), "--linger",
                                                  "forever", NULL}),
                 0);
}

/* One that test_run_wharfd() has started. */
static inline void test_stop_wharfd(const char *dir)
{
        pid_t d;
        UNTIL((d = test_find_wharfd(dir, false)) && test_find_wharfd(dir, true));
        kill(d, SIGTERM);
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
}

#endif
