/*
 * domain_start - which program is a wharfd that this user may run, and its start, until it serves or has said why not (D7).
 */
#include "names/domain.h"

#include "base/paths.h"
#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"
#include "task/why.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * A program that nobody but root or this user could have put there: the file, checked when it is open, and who may
 * change what its directory holds. What belongs to the owner of "/" counts as root's, who has another number in some
 * containers. 0, or a negative errno with what is wrong in `what`. `path` is cut meanwhile, since two such paths are more
 * stack than a call may take.
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

int wh_domain_start(const char *dir, int listen_fd, int64_t until_ns)
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
