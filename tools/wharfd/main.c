/*
 * wharfd - the name server of one domain.
 *
 * Usually the first task that needs a name starts it and hands it the listening socket as a descriptor (--socket-fd);
 * by hand it makes its own. It leaves when nobody needs it: no name, no client, and none came for --linger.
 *
 * How it leaves without losing a client: it takes the domain's lock, so that nobody starts another wharfd meanwhile;
 * looks once more whether a connection is pending; and unlinks the socket. A client that connected between that look
 * and the unlink is hung up on by our end, and tries again (service/names.c).
 */
#include "os/os.h"
#include "port/why.h"
#include "service/domain.h"
#include "service/server.h"
#include "wharf/names.h"

#include "verb.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#define LINGER_NS ((int64_t)500 * 1000000)

static bool verbose;

__attribute__((format(printf, 1, 2))) static void say(const char *fmt, ...)
{
        if (!verbose)
                return;
        struct timespec now;
        struct tm tm;
        char at[32];
        clock_gettime(CLOCK_REALTIME, &now);
        localtime_r(&now.tv_sec, &tm);
        strftime(at, sizeof at, "%H:%M:%S", &tm);
        va_list ap;
        va_start(ap, fmt);
        fprintf(stderr, "%s.%03ld wharfd: ", at, now.tv_nsec / 1000000);
        vfprintf(stderr, fmt, ap);
        fputc('\n', stderr);
        va_end(ap);
}

__attribute__((format(printf, 2, 3))) static int fail(int code, const char *fmt, ...)
{
        va_list ap;
        va_start(ap, fmt);
        fputs("wharfd: ", stderr);
        vfprintf(stderr, fmt, ap);
        fputc('\n', stderr);
        va_end(ap);
        return code;
}

static const char usage_text[] =
        "usage: wharfd [--domain DIR] [--linger DURATION|forever] [--foreground] [--verbose] [--version]\n";

/* A client costs one descriptor here, and a name two: ask for all that we may have. */
static void raise_descriptor_limit(void)
{
        struct rlimit l;
        if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
                l.rlim_cur = l.rlim_max;
                setrlimit(RLIMIT_NOFILE, &l);
        }
}

/* Our own listening socket, when nobody handed us one. */
static int listen_here(const char *dir, int *ret_fd)
{
        int lock, r = wh_domain_check(dir, true);
        if (r < 0)
                return r;
        char path[WH_DOMAIN_SOCKET_MAX];
        r = wh_domain_socket_path(dir, path);
        if (r < 0)
                return r;
        for (int i = 0; (r = wh_domain_trylock(dir, &lock)) == -EAGAIN && i < 500; i++)
                wh_os_poll(NULL, 0, wh_os_now_ns() + 2000000); /* somebody is starting or leaving; that takes no time */
        if (r < 0)
                return r;
        int probe = wh_os_socket_unix(SOCK_SEQPACKET);
        r = probe < 0 ? probe : wh_os_connect_unix(probe, path);
        wh_os_close(probe);
        if (r == 0 || r == -EAGAIN)
                r = wh_fail(-EADDRINUSE, "a wharfd serves %s already", dir);
        else
                r = wh_domain_listen(dir, ret_fd);
        wh_os_close(lock);
        return r;
}

/* Where our socket is, and which file it was when we came: somebody may have emptied the directory since. */
struct place {
        const char *dir;
        char path[WH_DOMAIN_SOCKET_MAX];
        struct stat st;
};

/* Unlink the socket if nobody is about to use it. False: somebody is. */
static bool leave(const struct place *at, struct wh_server *s, bool even_if_needed)
{
        int lock;
        struct stat st;
        int r = wh_domain_trylock(at->dir, &lock);
        if (r < 0) /* -EAGAIN: a client has it, who is about to connect. Otherwise the directory is gone. */
                return even_if_needed || (r != -EAGAIN && !wh_server_pending(s));
        bool go = even_if_needed || !wh_server_pending(s);
        if (go && wh_os_lstat(at->path, &st) == 0 && st.st_ino == at->st.st_ino && st.st_dev == at->st.st_dev)
                wh_os_unlink(at->path);
        wh_os_close(lock);
        return go;
}

static int run(const char *dir, int listen_fd, int64_t linger_ns)
{
        sigset_t stop;
        sigemptyset(&stop);
        sigaddset(&stop, SIGTERM);
        sigaddset(&stop, SIGINT);
        sigaddset(&stop, SIGHUP);
        sigprocmask(SIG_BLOCK, &stop, NULL);
        signal(SIGPIPE, SIG_IGN); /* for standard error */
        int stop_fd = signalfd(-1, &stop, SFD_CLOEXEC | SFD_NONBLOCK);
        if (stop_fd < 0)
                return fail(EXIT_REFUSED, "no descriptor for signals: %s", strerror(errno));

        struct wharf_task_opts o = {.size = sizeof o, .spin_us_max = WHARF_NO_SPIN};
        wharf_task *task;
        struct wh_server *s = NULL;
        int r = wharf_task_open(&o, &task);
        if (r < 0) {
                close(stop_fd);
                return fail(EXIT_REFUSED, "%s", wharf_strerror(r));
        }
        struct place at = {.dir = dir};
        r = wh_domain_socket_path(dir, at.path);
        if (r == 0)
                r = wh_os_lstat(at.path, &at.st);
        if (r == 0)
                r = wh_server_new(task, listen_fd, &s);
        if (r < 0)
                fail(EXIT_REFUSED, "%s: %s%s%s", dir, wharf_strerror(r), *wharf_why() ? ": " : "", wharf_why());
        else
                say("serving %s", dir);
        while (r >= 0) {
                r = wh_server_run(s, stop_fd, linger_ns);
                if (r < 0)
                        fail(EXIT_REFUSED, "%s: %s", dir, wharf_strerror(r));
                else if (leave(&at, s, r == WH_SERVER_STOPPED))
                        break;
        }
        if (r == WH_SERVER_STOPPED)
                say("stopped by a signal");
        else if (r == WH_SERVER_IDLE)
                say("nobody needs %s any more", dir);
        wh_server_free(s);
        wharf_task_close(task);
        close(stop_fd);
        return r < 0 ? EXIT_REFUSED : EXIT_DONE;
}

/* Run this program again, detached. The socket listens: whoever waited for this command to return can connect. */
static int background(const char *dir, const char *linger, int listen_fd)
{
        char self[PATH_MAX], domain[] = "--domain", lingers[] = "--linger", fd[] = "--socket-fd", three[] = "3",
                             loud[] = "--verbose";
        char *argv[] = {self, domain, strdup(dir),           lingers, strdup(linger ? linger : "500ms"),
                        fd,   three,  verbose ? loud : NULL, NULL};
        ssize_t n = wh_os_readlink("/proc/self/exe", self, sizeof self - 1);
        if (n < 0)
                n = (ssize_t)strlen(strcpy(self, "/proc/self/exe"));
        self[n] = 0;
        int r = argv[2] && argv[4] ? wh_os_spawn_detached(argv, &listen_fd, 1, NULL, !verbose) : -ENOMEM;
        free(argv[2]);
        free(argv[4]);
        wh_os_close(listen_fd);
        return r < 0 ? fail(EXIT_REFUSED, "cannot go to the background: %s", wharf_strerror(r)) : EXIT_DONE;
}

int main(int argc, char **argv)
{
        static const struct option options[] = {
                {"domain", required_argument, NULL, 'd'},
                {"linger", required_argument, NULL, 'l'},
                {"foreground", no_argument, NULL, 'f'},
                {"verbose", no_argument, NULL, 'v'},
                {"socket-fd", required_argument, NULL, 's'},
                {"version", no_argument, NULL, 'V'},
                {"help", no_argument, NULL, 'h'},
                {0},
        };
        const char *dir = NULL, *linger = NULL;
        int64_t linger_ns = LINGER_NS;
        int socket_fd = -1, c;
        bool foreground = false;
        uint64_t n;
        while ((c = getopt_long(argc, argv, "d:l:fvh", options, NULL)) != -1)
                switch (c) {
                case 'd':
                        dir = optarg;
                        break;
                case 'l':
                        linger = optarg;
                        if (!strcmp(optarg, "forever"))
                                linger_ns = WHARF_FOREVER;
                        else if (!parse_duration_ns(optarg, &linger_ns))
                                return fail(EXIT_USAGE, "--linger: '%s' is no duration; 500ms and 2s are", optarg);
                        break;
                case 'f':
                        foreground = verbose = true;
                        break;
                case 'v':
                        verbose = true;
                        break;
                case 's':
                        if (!parse_size(optarg, &n) || n > INT32_MAX)
                                return fail(EXIT_USAGE, "--socket-fd: '%s' is no descriptor", optarg);
                        socket_fd = (int)n;
                        break;
                case 'V':
                        puts("wharfd " WHARF_VERSION);
                        return EXIT_DONE;
                case 'h':
                        fputs(usage_text, stdout);
                        return EXIT_DONE;
                default:
                        fputs(usage_text, stderr);
                        return EXIT_USAGE;
                }
        if (optind < argc) {
                fputs(usage_text, stderr);
                return EXIT_USAGE;
        }
        umask(077);
        raise_descriptor_limit();
        if (!dir)
                dir = wharf_domain_path();
        if (socket_fd < 0) {
                int r = listen_here(dir, &socket_fd);
                if (r < 0)
                        return fail(EXIT_REFUSED, "%s", *wharf_why() ? wharf_why() : wharf_strerror(r));
                if (!foreground)
                        return background(dir, linger, socket_fd);
        }
        if (chdir("/") < 0) /* keeps no file system busy; a relative --domain was refused above, or by our parent */
                say("cannot leave the current directory: %s", strerror(errno));
        return run(dir, socket_fd, linger_ns);
}
