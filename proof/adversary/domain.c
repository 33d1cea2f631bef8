#include "domain.h"

#include "oracle.h"

#include "names/names.h"

#include <wharf/wharf.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char home[80], dir[88], sock[104], rules[80], program[80];
static uid_t owner;
static pid_t keeper, server;

/* Where its user can reach it: a build often lies in a home that only its owner may enter. */
static bool copy_program(void)
{
        struct stat st;
        const int from = open(ADVERSARY_WHARFD, O_RDONLY | O_CLOEXEC);
        if (from < 0) {
                fprintf(stderr, "adversary: %s: %m\n", ADVERSARY_WHARFD);
                return false;
        }
        const int to = open(program, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
        ssize_t n = fstat(from, &st) == 0 && fchmod(to, 0755) == 0 ? 1 : -1;
        for (off_t at = 0; n > 0 && at < st.st_size;)
                n = sendfile(to, from, &at, (size_t)(st.st_size - at));
        close(from);
        close(to);
        return n > 0;
}

bool domain_place(const char *folder, uid_t uid)
{
        owner = uid;
        snprintf(home, sizeof home, "%s/w", folder);
        snprintf(dir, sizeof dir, "%s/domain", home);
        snprintf(sock, sizeof sock, "%s/bootstrap", dir);
        snprintf(rules, sizeof rules, "%s/rules", folder);
        snprintf(program, sizeof program, "%s/wharfd", folder);
        return copy_program() && mkdir(home, 0755) == 0 && (uid == getuid() || chown(home, uid, uid) == 0);
}

void domain_place_gone(void)
{
        unlink(program);
        rmdir(home);
}

const char *domain_path(void)
{
        return dir;
}

const char *domain_socket(void)
{
        return sock;
}

static bool write_rules(void)
{
        FILE *f = fopen(rules, "we");
        if (!f)
                return false;
        fprintf(f, "own app. all\n");
        return fclose(f) == 0 && chmod(rules, 0644) == 0;
}

static bool serves(void)
{
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        snprintf(at.sun_path, sizeof at.sun_path, "%s", sock);
        bool good = s >= 0 && connect(s, (struct sockaddr *)&at, sizeof at) == 0;
        if (s >= 0)
                close(s);
        return good;
}

/* The keeper's only child. */
static pid_t child_of(pid_t pid)
{
        char path[64];
        int child = 0;
        snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, pid);
        FILE *f = fopen(path, "re");
        if (!f)
                return 0;
        if (fscanf(f, "%d", &child) != 1)
                child = 0;
        fclose(f);
        return child;
}

static void be_wharfd(void)
{
        struct rlimit limit = {DOMAIN_DESCRIPTORS, DOMAIN_DESCRIPTORS};
        int null = open("/dev/null", O_RDWR);
        setpgid(0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGTERM, SIG_DFL);
        signal(SIGINT, SIG_DFL);
        setrlimit(RLIMIT_NOFILE, &limit);
        if (owner != getuid() && (setgroups(0, NULL) < 0 || setresgid(owner, owner, owner) < 0 ||
                                  setresuid(owner, owner, owner) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) < 0))
                _exit(126);
        dup2(null, 0);
        dup2(null, 2);
        execl(program, "wharfd", "--domain", dir, "--share", "--config", rules, "--foreground", "--linger", "forever",
              (char *)NULL);
        _exit(127);
}

pid_t domain_start(void)
{
        enum { START_MS = 30000 };
        if (!write_rules())
                return 0;
        keeper = fork();
        if (keeper == 0)
                be_wharfd();
        for (int64_t end = clock_ns() + START_MS * 1000000ll; clock_ns() < end; usleep(500))
                if (serves() && (server = child_of(keeper)) > 0)
                        return server;
        return 0;
}

bool domain_goes_on(void)
{
        return kill(server, 0) == 0 && child_of(keeper) == server;
}

unsigned domain_entries(void)
{
        unsigned n = 0;
        int answer[2], st;
        if (pipe2(answer, O_CLOEXEC) < 0)
                return 0;
        const pid_t pid = fork();
        if (pid == 0) {
                wharf_task *task;
                struct wh_names_state state;
                if (wharf_task_open(NULL, &task) < 0 || wh_names_state(task, &state) < 0)
                        _exit(1);
                n = state.names + state.watches;
                _exit(write(answer[1], &n, sizeof n) != sizeof n);
        }
        close(answer[1]);
        if (pid < 0 || read(answer[0], &n, sizeof n) != sizeof n)
                n = 0;
        close(answer[0]);
        while (pid > 0 && waitpid(pid, &st, 0) < 0 && errno == EINTR)
                ;
        return n;
}

/* Only what wharfd puts there; what else would be there stays, and so does the folder. */
static void remove_dir(void)
{
        DIR *d = opendir(dir);
        char path[400];
        if (!d)
                return;
        for (struct dirent *e; (e = readdir(d));) {
                snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
                if (*e->d_name != '.')
                        unlink(path);
        }
        closedir(d);
        rmdir(dir);
}

void domain_end(void)
{
        if (keeper <= 0)
                return;
        kill(-keeper, SIGKILL);
        while (waitpid(-keeper, NULL, 0) > 0 || errno == EINTR)
                ;
        keeper = server = 0;
        remove_dir();
        unlink(rules);
}
