#include "names/domain.h"

#include "base/paths.h"
#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"
#include "right/right.h"
#include "task/task.h"
#include "task/why.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

#define CONNECT_RETRY_NS ((int64_t)2 * 1000000) /* while another task holds the lock, to start wharfd */
#define START_PAUSE_NS ((int64_t)10 * 1000000)
enum { TMP_ATTEMPTS_MAX = 64 }; /* while somebody else makes directories in our place */
enum { SILENT_STARTS_MAX = 3 }; /* of a wharfd that ends without a word: then it will not do better */

/* ---- where ---- */

#define SYSTEM_DOMAIN "/run/wharf"

static char domain_path[PATH_MAX], system_path[PATH_MAX], domain_aside[PATH_MAX + 128];
static bool domain_chosen;

static void system_path_find(void)
{
        const char *own = secure_getenv("WHARF_SYSTEM_DOMAIN");
        snprintf(system_path, sizeof system_path, "%s", own && *own ? own : SYSTEM_DOMAIN);
}

const char *wh_domain_system(void)
{
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        pthread_once(&once, system_path_find);
        return system_path;
}

/* Is this a directory of this user alone? Says what it is instead, with no more than `len` bytes (D5). */
static bool is_runtime_dir(const char *dir, char *what, size_t len)
{
        struct stat st;
        int fd = dir[0] == '/' ? wh_os_open(dir, O_PATH | O_DIRECTORY, 0) : -EINVAL;
        int r = fd < 0 ? fd : wh_os_fstat(fd, &st);
        wh_os_close(fd);
        if (r == -EINVAL)
                snprintf(what, len, "is not an absolute path");
        else if (r < 0)
                snprintf(what, len, "cannot be opened: %s", strerrordesc_np(-r));
        else if (st.st_uid != wh_os_geteuid())
                snprintf(what, len, "belongs to user %u, not to user %u", (unsigned)st.st_uid,
                         (unsigned)wh_os_geteuid());
        else if (st.st_mode & 022)
                snprintf(what, len, "is open to others (mode %04o)", (unsigned)st.st_mode & 07777);
        else
                return true;
        return false;
}

/* ---- where no directory is this user's alone: in /tmp (D8) ---- */

struct in_tmp {
        char prefix[40];
        uid_t uid;
        unsigned ours, last; /* 0: none */
};

static int look_in_tmp(const char *name, void *arg)
{
        struct in_tmp *in = arg;
        size_t len = strlen(in->prefix);
        char path[80], *end;
        struct stat st;
        if (strncmp(name, in->prefix, len) || name[len] < '1' || name[len] > '9' || strlen(name) > len + 9)
                return 0;
        unsigned long n = strtoul(name + len, &end, 10);
        snprintf(path, sizeof path, "/tmp/%s", name);
        if (*end || wh_os_lstat(path, &st) < 0)
                return 0;
        if (n > in->last)
                in->last = (unsigned)n;
        if (st.st_uid == in->uid && S_ISDIR(st.st_mode) && (!in->ours || n < in->ours))
                in->ours = (unsigned)n;
        return 0;
}

/*
 * D8. Two that come first at one moment see the same numbers, so only one of them makes the directory and the other one
 * finds it.
 */
static int tmp_path_find(void)
{
        struct in_tmp in = {.uid = wh_os_geteuid()};
        struct stat st;
        int n = snprintf(domain_path, sizeof domain_path, "/tmp/wharf-%u", (unsigned)in.uid);
        if (wh_os_lstat(domain_path, &st) < 0 || st.st_uid == in.uid)
                return n;
        snprintf(in.prefix, sizeof in.prefix, "wharf-%u.", (unsigned)in.uid);
        size_t len = strlen(domain_aside);
        snprintf(domain_aside + len, sizeof domain_aside - len, "%s%s belongs to user %u", len ? "; " : "", domain_path,
                 (unsigned)st.st_uid);
        for (int i = 0; i < TMP_ATTEMPTS_MAX; i++) {
                in.ours = in.last = 0;
                wh_os_readdir("/tmp", look_in_tmp, &in);
                n = snprintf(domain_path, sizeof domain_path, "/tmp/%s%u", in.prefix, in.ours ? in.ours : in.last + 1);
                if (in.ours)
                        break;
                wh_os_mkdir(domain_path, 0700);
        }
        return n;
}

static void domain_path_find(void)
{
        const char *own = secure_getenv("WHARF_DOMAIN"), *run = secure_getenv("XDG_RUNTIME_DIR");
        char what[100], usual[40];
        int n;
        snprintf(usual, sizeof usual, "/run/user/%u", (unsigned)wh_os_geteuid());
        domain_chosen = own && *own;
        if (domain_chosen)
                n = snprintf(domain_path, sizeof domain_path, "%s", own);
        else if (run && *run && is_runtime_dir(run, what, sizeof what))
                n = snprintf(domain_path, sizeof domain_path, "%s/wharf", run);
        else {
                if (run && *run)
                        snprintf(domain_aside, sizeof domain_aside, "XDG_RUNTIME_DIR=%s %s", run, what);
                /* The one that it should name; for a user whom nobody logged in there is none. */
                if (is_runtime_dir(usual, what, sizeof what))
                        n = snprintf(domain_path, sizeof domain_path, "%s/wharf", usual);
                else
                        n = tmp_path_find();
        }
        if (n >= (int)sizeof domain_path)
                n = (int)sizeof domain_path - 1; /* cut, and so refused as too long for a socket */
        while (n > 1 && domain_path[n - 1] == '/')
                domain_path[--n] = 0;
}

/* Once: a process has one domain, whatever happens to its environment later. */
WHARF_API const char *wharf_domain_path(void)
{
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        pthread_once(&once, domain_path_find);
        return domain_path;
}

bool wh_domain_was_chosen(void)
{
        wharf_domain_path();
        return domain_chosen;
}

const char *wh_domain_aside(void)
{
        wharf_domain_path();
        return domain_aside;
}

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

/* One that nobody else can write to, for whoever makes or removes something there. */
static int dir_open_own(const char *dir)
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

/* It is not there, or nobody listens, and whose it is makes it. */
static int nobody_serves(const char *dir)
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
        return yet && st.st_uid != wh_os_geteuid() ? nobody_serves(dir) : 0;
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

/* ---- the socket ---- */

int wh_domain_trylock(const char *dir, int *ret_fd)
{
        int at = dir_open_own(dir);
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
        int at = dir_open_own(dir);
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

/* ---- wharfd ---- */

/*
 * A program that nobody but root or this user could have put there: the file, checked when it is open, and who may
 * change what its directory holds. What belongs to the owner of "/" counts as root's, who has another number in some
 * containers. 0, or a negative errno with what is wrong in `what`. `path` is cut meanwhile, since two such paths are
 * more stack than a call may take.
 */
static int program_check(char *path, char *what, size_t len)
{
        struct stat st, top, up;
        int r = wh_os_can_execute(path);
        if (r < 0) {
                snprintf(what, len, "%s", strerrordesc_np(-r));
                return r;
        }
        int fd = wh_os_open(path, O_PATH, 0);
        char *slash = strrchr(path, '/');
        if (slash)
                *slash = 0;
        int at = wh_os_open(!slash ? "." : *path ? path : "/", O_PATH | O_DIRECTORY, 0);
        if (slash)
                *slash = '/';
        int root = wh_os_open("/", O_PATH | O_DIRECTORY, 0);
        r = fd < 0 ? fd : at < 0 ? at : root < 0 ? root : wh_os_fstat(fd, &st);
        if (r == 0)
                r = wh_os_fstat(root, &top);
        if (r == 0)
                r = wh_os_fstat(at, &up);
        wh_os_close(fd);
        wh_os_close(at);
        wh_os_close(root);
        uid_t us = wh_os_geteuid();
        if (r < 0)
                snprintf(what, len, "%s", strerrordesc_np(-r));
        else if (!S_ISREG(st.st_mode))
                snprintf(what, len, "it is no file");
        else if (st.st_uid != 0 && st.st_uid != us && st.st_uid != top.st_uid)
                snprintf(what, len, "it belongs to user %u, not to user %u or root", (unsigned)st.st_uid, (unsigned)us);
        else if (st.st_mode & 002 || (up.st_mode & 002 && !(up.st_mode & S_ISVTX)))
                snprintf(what, len, "everybody may change it");
        else if (up.st_uid != 0 && up.st_uid != us && up.st_uid != top.st_uid)
                snprintf(what, len, "it lies in a directory of user %u", (unsigned)up.st_uid);
        else
                return 0;
        return r < 0 ? r : -EACCES;
}

/*
 * Beside the program that runs: how it is found in a build tree and in a directory that was unpacked somewhere. Only
 * where nobody but root or this user could have put it there.
 */
static bool wharfd_beside(char ret[PATH_MAX])
{
        char what[100];
        struct stat st;
        char *slash = wh_os_self_exe(ret, PATH_MAX - sizeof "/wharfd") == 0 ? strrchr(ret, '/') : NULL;
        if (!slash)
                return false;
        strcpy(slash, "/wharfd");
        return wh_os_lstat(ret, &st) == 0 && S_ISREG(st.st_mode) && !(st.st_mode & 022) &&
               program_check(ret, what, sizeof what) == 0;
}

static bool wharfd_in_path(char ret[PATH_MAX])
{
        const char *at = secure_getenv("PATH");
        char what[100];
        while (at && *at) {
                size_t n = strcspn(at, ":");
                /* An empty or relative part means the current directory, which is no place to find a server in. */
                if (n && *at == '/' && n + sizeof "/wharfd" <= PATH_MAX) {
                        snprintf(ret, PATH_MAX, "%.*s/wharfd", (int)n, at);
                        if (program_check(ret, what, sizeof what) == 0)
                                return true;
                }
                at += n + (at[n] == ':');
        }
        return false;
}

static int wharfd_find(char ret[PATH_MAX])
{
        const char *own = secure_getenv("WHARFD");
        char what[100];
        if (own && *own) {
                if (strlen(own) >= PATH_MAX)
                        return wh_fail(-ENAMETOOLONG, "$WHARFD is too long");
                strcpy(ret, own);
                int r = program_check(ret, what, sizeof what);
                return r < 0 ? wh_fail(r, "$WHARFD is %s: %s", own, what) : 0;
        }
        if (wharfd_beside(ret))
                return 0;
        strcpy(ret, WHARFD_INSTALLED);
        if (wh_os_can_execute(ret) == 0)
                return 0;
        if (wharfd_in_path(ret))
                return 0;
        return wh_fail(-ENOENT, "wharfd is neither beside this program, nor at %s, nor in PATH; set WHARFD",
                       WHARFD_INSTALLED);
}

/* What it said, as one line for wharf_why(): without its name before it, and with what cannot be shown left out. */
static void said_line(char *text)
{
        static const char prefix[] = "wharfd: ";
        size_t n = 0;
        for (const char *p = text; *p; p++) {
                if (n == 0 && !strncmp(p, prefix, sizeof prefix - 1))
                        p += sizeof prefix - 1;
                if (*p == '\n' ? p[1] != 0 && n : (unsigned char)*p >= ' ' && *p != 0x7f)
                        text[n++] = (char)(*p == '\n' ? ' ' : *p);
        }
        text[n] = 0;
}

/* D7: until it says that it serves, or why not, or has ended. */
static int hear_start(int sock, const char *program, int64_t until_ns)
{
        char text[200] = "";
        size_t n = 0;
        for (;;) {
                char buf[256];
                struct iovec iov = {buf, sizeof buf};
                struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
                ssize_t got = wh_os_recvmsg(sock, &m, 0);
                if (got == -EINTR)
                        continue;
                if (got == -EAGAIN) {
                        struct pollfd p = {.fd = sock, .events = POLLIN};
                        if (wh_os_now_ns() >= until_ns)
                                return wh_fail(-ETIMEDOUT, "%s, which was started, does not serve yet", program);
                        int r = wh_os_poll(&p, 1, until_ns);
                        if (r < 0 && r != -EINTR)
                                return wh_fail(r, "%s cannot be waited for: %s", program, strerrordesc_np(-r));
                        continue;
                }
                if (got < 0 && got != -ECONNRESET)
                        return wh_fail((int)got, "%s cannot be heard: %s", program, strerrordesc_np((int)-got));
                if (got <= 0)
                        break;
                if (memchr(buf, 0, (size_t)got))
                        return 0;
                size_t room = sizeof text - 1 - n, take = (size_t)got < room ? (size_t)got : room;
                memcpy(text + n, buf, take);
                text[n += take] = 0;
        }
        said_line(text);
        return *text ? wh_fail(-EHOSTDOWN, "%s cannot serve: %s", program, text)
                     : wh_fail(-ECHILD, "%s was started, and ended without a word", program);
}

int wh_domain_run(char *const argv[], int listen_fd, int64_t until_ns)
{
        int sv[2], r = wh_os_socketpair(sv);
        if (r < 0)
                return wh_fail(r, "%s cannot be started: %s", argv[0], strerrordesc_np(-r));
        wh_os_fd_private(sv[0]);
        wh_os_fd_private(sv[1]); /* a forked child must not keep us waiting for the end of what is said there */
        r = wh_os_spawn_detached(argv, &listen_fd, 1, NULL, true, sv[1]);
        wh_os_close_end(sv[1], WH_END_SHARED); /* the program has it, and may be gone by now */
        if (r < 0)
                wh_fail(r, "%s cannot be started: %s", argv[0], strerrordesc_np(-r));
        else
                r = hear_start(sv[0], argv[0], until_ns);
        wh_os_close_end(sv[0], WH_END_OURS);
        return r;
}

static int spawn(const char *dir, int listen_fd, int64_t until_ns)
{
        char *path = wh_os_malloc(PATH_MAX), *copy = strdup(dir);
        int r = path && copy ? wharfd_find(path) : wh_fail(wh_trace(-ENOMEM), NULL);
        if (r == 0) {
                char *argv[] = {path,          (char[]){"--domain"},   copy, (char[]){"--socket-fd"},
                                (char[]){"3"}, (char[]){"--starting"}, NULL};
                r = wh_domain_run(argv, listen_fd, until_ns);
        }
        free(copy);
        free(path);
        return r;
}

/* ---- connecting ---- */

/* As wharf_right_connect(), but for who is there: in a domain of our own, nobody but ourselves (D6). */
static int connect_right(wharf_task *task, const char *path, bool shared, wharf_name *ret)
{
        if (!wh_task_ours(task))
                return wh_fail(-ESTALE, NULL);
        int sock = wh_os_socket_unix(SOCK_SEQPACKET), r;
        if (sock < 0)
                return wh_fail(sock, "%s: no socket: %s", path, strerrordesc_np(-sock));
        wh_os_fd_private(sock);
        do
                r = wh_os_connect_unix(sock, path);
        while (r == -EINTR);
        struct ucred u = {.uid = wh_os_geteuid()};
        socklen_t len = sizeof u;
        if (r == 0 && !shared)
                r = wh_os_getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &u, &len);
        bool others = r == 0 && u.uid != wh_os_geteuid();
        if (r == 0 && !others)
                r = wh_right_from_socket(task, sock, false, false, ret);
        if (r < 0 || others)
                wh_os_close_end(sock, WH_END_OURS); /* whoever listens there may have sent something by now */
        if (others)
                return wh_fail(-EACCES, "%s: user %u listens there, not user %u", path, (unsigned)u.uid,
                               (unsigned)wh_os_geteuid());
        return r < 0 ? wh_fail(r, "%s: %s", path, strerrordesc_np(-r)) : 0;
}

pid_t wh_domain_server(const char *dir)
{
        char path[WH_DOMAIN_SOCKET_MAX];
        struct ucred u = {0};
        socklen_t len = sizeof u;
        int sock = wh_os_socket_unix(SOCK_SEQPACKET);
        if (sock < 0)
                return 0;
        wh_os_fd_private(sock);
        /* A connection of its own: the task's may be older than this server. Who listened last serves (server.S9). */
        int r = wh_domain_socket_path(dir, path);
        if (r == 0)
                r = wh_os_connect_unix(sock, path);
        if (r == 0)
                r = wh_os_getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &u, &len);
        wh_os_close_end(sock, WH_END_OURS);
        return r < 0 || u.pid == wh_os_getpid() ? 0 : u.pid;
}

/* The caller holds the lock, and the socket refused a connection. */
static int start_and_connect(wharf_task *task, const char *dir, const char *path, int64_t until_ns, wharf_name *ret)
{
        /* While we came for the lock, somebody else may have had it. The lock is ours until wharfd serves (D2). */
        int r = connect_right(task, path, false, ret);
        if (r != -ENOENT && r != -ECONNREFUSED)
                return r;
        int fd;
        r = wh_domain_listen(dir, false, &fd);
        if (r < 0)
                return r;
        r = spawn(dir, fd, until_ns);
        if (r == 0) {
                r = connect_right(task, path, false, ret);
                r = r == -ENOENT || r == -ECONNREFUSED ? -EAGAIN : r; /* it served, and has left since: once more */
        } else if (r != -ETIMEDOUT) {
                wh_os_unlink(path);
        }
        wh_os_close(fd);
        return r;
}

/* What a caller of this module sees: its own limits as they are, and anything else as "no wharfd". */
static int connect_error(int r)
{
        if (r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ESTALE || r == -EDQUOT || r == -ETIMEDOUT ||
            r == -ECONNREFUSED)
                return r;
        return -EHOSTDOWN; /* whatever failed has said why */
}

int wh_domain_connect(wharf_task *task, const char *dir, bool chosen, bool make, int64_t until_ns, wharf_name *ret)
{
        char path[WH_DOMAIN_SOCKET_MAX];
        bool shared = false;
        int r = chosen ? wh_domain_check_chosen(dir, make, &shared) : wh_domain_check(dir, make);
        if (r == -ENOENT && !make)
                r = nobody_serves(dir);
        if (r == 0)
                r = wh_domain_socket_path(dir, path);
        if (r < 0)
                return connect_error(r);
        unsigned silent = 0;
        for (;;) {
                bool locked = false;
                int64_t pause_ns = CONNECT_RETRY_NS;
                r = connect_right(task, path, shared, ret);
                if (r == 0)
                        return 0;
                if (shared && (r == -ECONNREFUSED || r == -ENOENT))
                        return nobody_serves(dir);
                if (r == -ENOENT || r == -ECONNREFUSED) {
                        int lock = -1;
                        r = wh_domain_trylock(dir, &lock);
                        locked = r == -EAGAIN;
                        if (r == -ENOENT && make) { /* the directory was removed this moment */
                                r = wh_domain_check(dir, true);
                                r = r == 0 ? -EAGAIN : r;
                        } else if (r == 0) {
                                r = start_and_connect(task, dir, path, until_ns, ret);
                                wh_os_close(lock);
                                if (r == 0)
                                        return 0;
                        }
                }
                if (r == -ECHILD && ++silent < SILENT_STARTS_MAX) { /* killed, perhaps, and no fault of its own */
                        r = -EAGAIN;
                        pause_ns = START_PAUSE_NS;
                }
                if (r != -EAGAIN) /* somebody else holds the lock, or too many connect at this moment */
                        return connect_error(r);
                int64_t now = wh_os_now_ns();
                if (now >= until_ns)
                        return wh_fail(-ETIMEDOUT,
                                       locked ? "%s: another process holds the lock, to start a wharfd"
                                              : "%s: too many connect to the socket at this moment",
                                       dir);
                wh_os_poll(NULL, 0, now + pause_ns < until_ns ? now + pause_ns : until_ns);
        }
}
