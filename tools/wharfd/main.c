/*
 * wharfd - the name server of one domain.
 *
 * Usually the first task that needs a name starts it and hands it the listening socket as a descriptor (--socket-fd);
 * by hand it makes its own; for the system, the service manager makes it (socket activation). It leaves when nobody
 * needs it: no name, no client, and none came for --linger.
 *
 * It is two processes: a keeper (wharfd/keeper.h), and the server, which the keeper starts (--server) and starts again
 * when it was killed. Under a service manager that holds descriptors ($NOTIFY_SOCKET), that is the keeper.
 *
 * Its socket must have the name by which clients find it. When that is gone (somebody emptied the directory, removed
 * it, or put another in its place), which inotify tells, the server ends, for it may make no files any more
 * (wharfd/confine.h). The next one, which still may, makes directory and socket again, hands the new socket to its
 * keeper, and ends too; the one after that goes on with all names, as after a kill. Where it cannot be made they leave:
 * then every connection ends, and tasks register their names with the wharfd that is found there.
 *
 * Whoever starts it in the background reads its standard error until it serves (--starting; domain.D7).
 *
 * How it leaves without losing a client: it takes the domain's lock, so that nobody starts another wharfd meanwhile;
 * looks once more whether a connection is pending; and unlinks the socket. A client that connected between that look
 * and the unlink is hung up on when server and keeper have ended, and tries again (names/session.c).
 */
#include "base/cleanup.h"
#include "base/paths.h"
#include "os/os.h"
#include "task/why.h"
#include "wharfd/confine.h"
#include "names/domain.h"
#include "wharfd/keeper.h"
#include "wharfd/notify.h"
#include "wharfd/rules.h"
#include "wharfd/server.h"
#include "wharfd/store.h"
#include "wharf/names.h"

#include "options.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#define LINGER_NS ((int64_t)500 * 1000000)
#define PROBE_NS ((int64_t)1000000000)

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
        text_vprint(stderr, fmt, ap);
        fputc('\n', stderr);
        va_end(ap);
}

/* "wharfd: message", and the exit code. */
#define fail(code, ...) verb_fail(NULL, code, __VA_ARGS__)

static const struct verb wharfd = {
        .args = "[--domain DIR | --system] [--share] [--config FILE] [--linger DURATION|forever] "
                "[--confine yes|kill|no] [--foreground] [--verbose] [--version]",
        .summary = "the name server of a domain",
};

#define CONFIG "/wharf/wharfd.conf" /* below the directory for configuration */

enum confine { CONFINE_YES, CONFINE_KILL, CONFINE_NO };
static const char *const confine_names[] = {"yes", "kill", "no"};

/* What was asked for on the command line. */
struct options {
        const char *dir;
        const char *config; /* NULL: the domain's default */
        const char *linger;
        int64_t linger_ns;
        bool share, foreground;
        enum confine confine;
        bool starting;     /* somebody reads our standard error until we serve */
        bool socket_stays; /* it belongs to a service manager */
};

enum { DESCRIPTORS_MIN = 64 };

/* All that we may have; how much that is. */
static rlim_t raise_limit(int what)
{
        struct rlimit l;
        if (getrlimit(what, &l) < 0)
                return RLIM_INFINITY;
        if (l.rlim_cur < l.rlim_max) {
                l.rlim_cur = l.rlim_max;
                setrlimit(what, &l);
        }
        return l.rlim_cur;
}

/* A client costs one descriptor here, and a name two; memory that is shared is a file. */
static int raise_limits(void)
{
        signal(SIGXFSZ, SIG_IGN); /* a log that has grown too large is no reason to die */
        raise_limit(RLIMIT_FSIZE);
        rlim_t fds = raise_limit(RLIMIT_NOFILE);
        if (fds < DESCRIPTORS_MIN)
                return fail(EXIT_REFUSED, "the limit of descriptors (ulimit -n, RLIMIT_NOFILE) is %llu; it needs %d",
                            (unsigned long long)fds, DESCRIPTORS_MIN);
        return EXIT_DONE;
}

/* Why it cannot serve. Limits are named: nobody who sees "File too large" thinks of one. */
static int fail_to_serve(const char *dir, int r)
{
        struct rlimit l;
        if (r == -EFBIG && getrlimit(RLIMIT_FSIZE, &l) == 0)
                return fail(EXIT_REFUSED,
                            "%s: the limit of a file's size (ulimit -f, RLIMIT_FSIZE) is %llu bytes, too few", dir,
                            (unsigned long long)l.rlim_cur);
        if (r == -EMFILE && getrlimit(RLIMIT_NOFILE, &l) == 0)
                return fail(EXIT_REFUSED, "%s: the limit of descriptors (ulimit -n, RLIMIT_NOFILE) is %llu, too few",
                            dir, (unsigned long long)l.rlim_cur);
        return fail(EXIT_REFUSED, "%s: %s", dir, *wharf_why() ? wharf_why() : strerror(-r));
}

/* It serves: whoever reads our standard error need not any more (domain.D7). */
static void started(bool say_so)
{
        if (say_so)
                wh_os_write(STDERR_FILENO, "", 1);
        int null = wh_os_open("/dev/null", O_RDWR, 0);
        if (null >= 0 && null != STDERR_FILENO) {
                dup2(null, STDERR_FILENO);
                wh_os_close(null);
        }
}

/*
 * Does somebody serve there? A wharfd that was killed is a process no more before its socket is closed, so that it can
 * still be connected to: then the connection hangs up. One that lives greets, unless it was stopped.
 */
static bool is_served(const char *path)
{
        for (;;) {
                int probe = wh_os_socket_unix(SOCK_SEQPACKET);
                int r = probe < 0 ? probe : wh_os_connect_unix(probe, path);
                struct pollfd p = {.fd = probe, .events = POLLIN};
                if (r == 0)
                        wh_os_poll(&p, 1, wh_os_now_ns() + PROBE_NS);
                wh_os_close(probe);
                if (r < 0 || !(p.revents & (POLLHUP | POLLERR)))
                        return r == 0 || r == -EAGAIN;
        }
}

/* Our own listening socket, when nobody handed us one. */
static int listen_here(const char *dir, bool share, int *ret_fd)
{
        int lock, r = share ? wh_domain_make_shared(dir) : wh_domain_check(dir, true);
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
        if (is_served(path))
                r = wh_fail(-EADDRINUSE, "a wharfd serves %s already", dir);
        else {
                mode_t mask = share ? umask(0) : 0; /* a socket for all is for all from its first moment */
                r = wh_domain_listen(dir, share, ret_fd);
                if (share)
                        umask(mask);
        }
        wh_os_close(lock);
        return r;
}

/* Where our socket is, and which file it was when we came: somebody may have emptied the directory since. */
struct place {
        const char *dir;
        char path[WH_DOMAIN_SOCKET_MAX];
        struct stat st;
};

static bool at_its_place(const struct place *at)
{
        struct stat st;
        return wh_os_lstat(at->path, &st) == 0 && st.st_ino == at->st.st_ino && st.st_dev == at->st.st_dev;
}

/*
 * Is it this process that whoever connects there gets? The file alone does not tell: while our keeper was not run to
 * start us, the name may have been removed, and another wharfd have come to it. The kernel knows who listened last
 * (server.S9). What cannot be asked is taken to be so.
 */
static bool listens_there(const char *path)
{
        struct ucred u = {.pid = wh_os_getpid()};
        socklen_t len = sizeof u;
        WH_AUTO_FD int probe = wh_os_socket_unix(SOCK_SEQPACKET);
        int r = probe < 0 ? probe : wh_os_connect_unix(probe, path);
        if (r == 0)
                wh_os_getsockopt(probe, SOL_SOCKET, SO_PEERCRED, &u, &len);
        return r != -ECONNREFUSED && r != -ENOENT && u.pid == wh_os_getpid();
}

/*
 * Be told when the name of the socket may be gone: of what happens in the directory, and to those above it. -1 where
 * that cannot be had (a user has 128 such descriptors): then only leave() notices.
 */
static int place_watch(const struct place *at)
{
        char path[WH_DOMAIN_SOCKET_MAX];
        int fd = wh_os_inotify();
        if (fd < 0)
                return -1;
        uint32_t events = IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF;
        strcpy(path, at->path);
        for (char *slash; (slash = strrchr(path, '/')) && slash != path; events = IN_DELETE_SELF | IN_MOVE_SELF) {
                *slash = 0;
                wh_os_inotify_add(fd, path, events);
        }
        return fd;
}

/* Something happened there. False: our socket has lost its name. */
static bool place_look(const struct place *at, int watch_fd)
{
        char events[4096];
        while (watch_fd >= 0 && wh_os_read(watch_fd, events, sizeof events) > 0)
                ; /* what exactly does not matter */
        return at_its_place(at);
}

/* Unlink the socket if nobody is about to use it. False: somebody is. */
static bool leave(const struct place *at, struct wh_server *s, bool even_if_needed)
{
        int lock;
        int r = wh_domain_trylock(at->dir, &lock);
        if (r < 0) /* -EAGAIN: a client has it, who is about to connect. Otherwise the directory is gone. */
                return even_if_needed || (r != -EAGAIN && !wh_server_pending(s));
        bool go = even_if_needed || !wh_server_pending(s);
        if (go && at_its_place(at))
                wh_os_unlink(at->path);
        wh_os_close(lock);
        return go;
}

/* ---- the server ---- */

/* The rules that hold for this domain; on failure why is in wharf_why(). */
static int load_rules(const struct options *o, struct wh_rules **ret)
{
        int r = o->config ? wh_rules_load(o->config, ret) : -ENOENT;
        if (r == -ENOENT && (!o->config || !strcmp(o->config, WHARF_SYSCONFDIR CONFIG))) {
                *ret = wh_rules_new(!o->share); /* the system's own file need not exist */
                r = *ret ? 0 : wh_fail(-ENOMEM, "out of memory");
        }
        return r;
}

static int signals_open(sigset_t *set)
{
        sigemptyset(set);
        sigaddset(set, SIGTERM);
        sigaddset(set, SIGINT);
        sigaddset(set, SIGHUP);
        sigprocmask(SIG_BLOCK, set, NULL);
        signal(SIGPIPE, SIG_IGN); /* for standard error */
        return signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/*
 * Our socket has no name any more: make another, for the next server. The exit status; why it cannot be done is said.
 * Somebody else may serve there already, with the names of those who found it. Then ours are of use to nobody.
 */
static int again(const struct options *o, int notify)
{
        int fd;
        say("the socket of %s is gone", o->dir);
        int r = listen_here(o->dir, o->share, &fd);
        if (r < 0)
                return fail(WH_KEEPER_END, "the socket of %s is gone, and cannot be made again: %s", o->dir,
                            *wharf_why() ? wharf_why() : wharf_strerror(r));
        r = wh_notify_keep(notify, "socket", fd);
        wh_os_close(fd);
        if (r == 0)
                return WH_KEEPER_AGAIN;
        char path[WH_DOMAIN_SOCKET_MAX];
        if (wh_domain_socket_path(o->dir, path) == 0)
                wh_os_unlink(path); /* nobody listens: whoever comes makes it, and starts another wharfd */
        return fail(EXIT_REFUSED, "the socket of %s is gone, and so is the keeper", o->dir);
}

/* The same for one that serves, and may make no file any more: the next one does it. */
static int again_by_next(const struct options *o, int notify)
{
        struct pollfd p = {.fd = notify};
        if (o->socket_stays)
                return EXIT_DONE; /* whoever made it may make another */
        if (notify < 0 || wh_os_poll(&p, 1, 0) != 0)
                return fail(EXIT_REFUSED, "the socket of %s is gone, and so is the keeper", o->dir);
        return WH_KEEPER_AGAIN;
}

/* Serve until there is a reason to leave. The descriptors that were given are taken or closed by the caller. */
static int serve(const struct options *o, int listen_fd, int notify, bool by_keeper, struct wh_given *given, unsigned n)
{
        sigset_t set;
        int signal_fd = signals_open(&set), stop_fd = wh_os_epoll(), watch_fd = -1;
        if (signal_fd < 0 || stop_fd < 0 || wh_os_epoll_add(stop_fd, signal_fd, EPOLLIN, 0) < 0)
                return fail(EXIT_REFUSED, "no descriptor for signals: %s", strerror(errno));

        struct wharf_task_opts to = {.size = sizeof to, .spin_us_max = WHARF_NO_SPIN};
        wharf_task *task = NULL;
        struct wh_server *s = NULL;
        struct wh_store *store = NULL;
        struct wh_rules *rules = NULL;
        struct place at = {.dir = o->dir};
        int status_fd = notify >= 0 ? wh_os_dup(notify) : -1; /* the store closes its own when its keeper is dead */
        int r = wharf_task_open(&to, &task);
        if (r == 0 && (r = wh_domain_socket_path(o->dir, at.path)) == 0) {
                watch_fd = place_watch(&at); /* first, so that nothing is missed in between */
                /* A socket of somebody else's may as well have another name, or none. */
                if (wh_os_lstat(at.path, &at.st) == 0 || !o->socket_stays)
                        wh_os_epoll_add(stop_fd, watch_fd, EPOLLIN, 0);
        }
        if (r == 0)
                r = load_rules(o, &rules);
        if (r == 0 && notify >= 0)
                r = wh_store_open(wh_steal_fd(&notify), by_keeper, given, n, &store);
        if (r == 0)
                r = wh_server_new(task, listen_fd, rules, store, &s);
        if (r < 0) {
                fail_to_serve(o->dir, r);
                wh_rules_free(rules);
        }
        bool lost = r >= 0 && !o->socket_stays && !(listens_there(at.path) && at_its_place(&at)), told = false;
        int code = EXIT_DONE;
        if (lost) {
                code = again(o, status_fd);
                r = -1;
        } else if (r >= 0) {
                /* From here on it reads what others wrote. */
                if (o->confine != CONFINE_NO)
                        wh_server_confined(s, wh_confine_server(o->dir, o->config, o->confine == CONFINE_KILL));
                wh_server_restore(s, given, n);
                wh_notify(status_fd, "READY=1");
                say("serving %s", o->dir);
                if (o->starting)
                        started(true);
        }
        while (r >= 0) {
                if (lost && !o->socket_stays) {
                        code = again_by_next(o, status_fd);
                        break;
                }
                if (lost && !told)
                        fail(0, "%s is gone: nobody finds this server until whoever made the socket makes it again",
                             at.path);
                told = lost;
                r = wh_server_run(s, stop_fd, o->linger_ns);
                struct signalfd_siginfo si = {0};
                bool by_signal = r == WH_SERVER_STOPPED && read(signal_fd, &si, sizeof si) == sizeof si;
                if (r == WH_SERVER_STOPPED && !by_signal) {
                        lost = !place_look(&at, watch_fd);
                        continue;
                }
                if (by_signal && si.ssi_signo == SIGHUP) {
                        if (load_rules(o, &rules) == 0) {
                                wh_server_set_rules(s, rules);
                                say("the rules were read again");
                        } else {
                                fail(0, "%s; the rules stay as they were", wharf_why());
                        }
                        wh_notify(status_fd, "READY=1");
                        continue;
                }
                if (r < 0)
                        fail(EXIT_REFUSED, "%s: %s", o->dir, strerror(-r));
                else if (o->socket_stays ? r == WH_SERVER_STOPPED || !wh_server_pending(s)
                                         : leave(&at, s, r == WH_SERVER_STOPPED))
                        break;
        }
        if (r == WH_SERVER_STOPPED)
                say("stopped by a signal");
        else if (r == WH_SERVER_IDLE)
                say("nobody needs %s any more", o->dir);
        wh_server_free(s);
        wh_store_free(store);
        wharf_task_close(task);
        wh_os_close(status_fd);
        wh_os_close(notify);
        wh_os_close(watch_fd);
        wh_os_close(stop_fd);
        close(signal_fd);
        return r < 0 && !lost ? EXIT_REFUSED : code;
}

/* ---- the keeper ---- */

struct keep {
        char **argv;
        int stop_fd;
        bool starting;
};

/* The server serves, and has said so to whoever started us. */
static void keeper_said(void *arg, const char *text)
{
        struct keep *k = arg;
        if (k->starting && strstr(text, "READY=1")) {
                k->starting = false;
                started(false);
        }
}

static pid_t keeper_start(void *arg, const struct wh_given *given, unsigned n, int notify)
{
        const struct keep *k = arg;
        size_t names_len = sizeof "LISTEN_FDNAMES=";
        unsigned n_env = 0;
        for (unsigned i = 0; i < n; i++)
                names_len += strlen(given[i].name) + 1;
        while (environ[n_env])
                n_env++;
        int *fds = calloc(n + 1, sizeof *fds);
        char **env = calloc(n_env + 5, sizeof *env), *names = calloc(1, names_len), count[40], keeper[40];
        pid_t pid = -ENOMEM;
        if (fds && env && names) {
                strcpy(names, "LISTEN_FDNAMES=");
                char *at = names + strlen(names);
                for (unsigned i = 0; i < n; i++) {
                        fds[i] = given[i].fd;
                        at += sprintf(at, "%s%s", i ? ":" : "", given[i].name);
                }
                fds[n] = notify;
                snprintf(count, sizeof count, "LISTEN_FDS=%u", n);
                snprintf(keeper, sizeof keeper, "WHARFD_KEEPER=%u", 3 + n);
                unsigned e = 0;
                for (unsigned i = 0; i < n_env; i++)
                        if (strncmp(environ[i], "LISTEN_", 7) && strncmp(environ[i], "NOTIFY_SOCKET=", 14))
                                env[e++] = environ[i];
                env[e++] = names;
                env[e++] = count;
                env[e++] = keeper;
                pid = wh_os_spawn_activated(k->argv, fds, n + 1, env);
        }
        free(fds);
        free(env);
        free(names);
        return pid;
}

/* What is for the server is passed on: it is the one that knows how to leave, and when. */
static bool keeper_signalled(void *arg, pid_t server)
{
        const struct keep *k = arg;
        struct signalfd_siginfo si;
        if (read(k->stop_fd, &si, sizeof si) != sizeof si)
                return false;
        if (server > 0)
                kill(server, (int)si.ssi_signo);
        return si.ssi_signo != SIGHUP;
}

static int keep(const struct options *o, int listen_fd)
{
        char self[PATH_MAX];
        if (wh_os_self_exe(self, sizeof self) < 0)
                return fail(EXIT_REFUSED, "it does not find its own program again");
        const char *argv[16];
        unsigned a = 0;
        argv[a++] = self;
        argv[a++] = "--server";
        argv[a++] = "--domain";
        argv[a++] = o->dir;
        argv[a++] = "--linger";
        argv[a++] = o->linger ? o->linger : "500ms";
        if (o->config) {
                argv[a++] = "--config";
                argv[a++] = o->config;
        }
        if (o->share)
                argv[a++] = "--share";
        if (o->socket_stays)
                argv[a++] = "--socket-stays";
        if (verbose)
                argv[a++] = "--verbose";
        if (o->starting)
                argv[a++] = "--starting";
        if (o->confine != CONFINE_YES) {
                argv[a++] = "--confine";
                argv[a++] = confine_names[o->confine];
        }
        argv[a] = NULL;
        if (o->confine != CONFINE_NO)
                wh_confine_privileges();
        sigset_t set;
        struct keep k = {.argv = (char **)(uintptr_t)argv, .stop_fd = signals_open(&set), .starting = o->starting};
        if (k.stop_fd < 0)
                return fail(EXIT_REFUSED, "no descriptor for signals: %s", strerror(errno));
        struct wh_given listener = {.fd = listen_fd, .name = "socket"};
        struct wh_keeper_ops ops = {
                .start = keeper_start, .signalled = keeper_signalled, .said = keeper_said, .arg = &k};
        int r = wh_keeper_run(&ops, &listener, 1, k.stop_fd);
        close(k.stop_fd);
        if (r == -ECANCELED)
                return fail(EXIT_REFUSED, "%s: the server dies again and again; giving up", o->dir);
        return r < 0 ? fail(EXIT_REFUSED, "%s: no server: %s", o->dir, strerror(-r)) : r;
}

/* ---- starting ---- */

/* Run this program again, detached. The socket listens: whoever waited for this command to return can connect. */
static int background(const struct options *o, int listen_fd)
{
        char self[PATH_MAX];
        const char *argv[16];
        unsigned a = 0;
        argv[a++] = self;
        argv[a++] = "--domain";
        argv[a++] = o->dir;
        argv[a++] = "--linger";
        argv[a++] = o->linger ? o->linger : "500ms";
        if (o->config) {
                argv[a++] = "--config";
                argv[a++] = o->config;
        }
        if (o->share)
                argv[a++] = "--share";
        if (o->confine != CONFINE_YES) {
                argv[a++] = "--confine";
                argv[a++] = confine_names[o->confine];
        }
        if (verbose)
                argv[a++] = "--verbose";
        argv[a++] = "--socket-fd";
        argv[a++] = "3";
        if (!verbose)
                argv[a++] = "--starting";
        argv[a] = NULL;
        int r = wh_os_self_exe(self, sizeof self);
        if (r < 0)
                return fail(EXIT_REFUSED, "it does not find its own program again");
        if (verbose) /* it goes on with our standard error */
                r = wh_os_spawn_detached((char **)(uintptr_t)argv, &listen_fd, 1, NULL, false, -1);
        else
                r = wh_domain_run((char **)(uintptr_t)argv, listen_fd,
                                  wh_os_now_ns() + (int64_t)WHARF_NAMES_START_MS * 1000000);
        wh_os_close(listen_fd);
        char path[WH_DOMAIN_SOCKET_MAX];
        if (r < 0 && r != -ETIMEDOUT && wh_domain_socket_path(o->dir, path) == 0)
                wh_os_unlink(path);
        return r < 0 ? fail(EXIT_REFUSED, "in the background: %s", *wharf_why() ? wharf_why() : strerror(-r))
                     : EXIT_DONE;
}

/* Which of the descriptors that we were given listens? It becomes the caller's; -1: none, or more than one. */
static int listener_of(struct wh_given *given, unsigned n)
{
        int found = -1;
        for (unsigned i = 0; i < n; i++) {
                int on = 0, type = 0;
                socklen_t len = sizeof on;
                if (wh_os_getsockopt(given[i].fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) < 0 || !on)
                        continue;
                len = sizeof type;
                if (wh_os_getsockopt(given[i].fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET)
                        continue;
                if (found >= 0)
                        return -1;
                found = (int)i;
        }
        return found < 0 ? -1 : wh_steal_fd(&given[found].fd);
}

/* A descriptor was handed to us, or several: by our keeper, by a service manager, or by whoever emulates one. */
static int activated(struct options *o, struct wh_given *given, unsigned n, bool by_keeper)
{
        int listen_fd = listener_of(given, n);
        if (listen_fd < 0)
                return fail(EXIT_REFUSED,
                            "of %u descriptors that were passed, not exactly one is a listening "
                            "SOCK_SEQPACKET socket",
                            n);
        o->socket_stays |= !by_keeper;
        bool keeper;
        int notify = wh_notify_open(&keeper);
        if (notify >= 0)
                return serve(o, listen_fd, notify, keeper, given, n);
        return keep(o, listen_fd); /* nobody keeps anything for us: then we do */
}

static bool take_linger(const struct verb *v, const char *option, const char *text, void *options)
{
        struct options *o = options;
        o->linger = text;
        if (!strcmp(text, "forever"))
                o->linger_ns = WHARF_FOREVER;
        else if (!parse_duration_ns(text, &o->linger_ns))
                return verb_fail(v, false, "%s: '%s' is no duration; 500ms and 2s are", option, text);
        return true;
}

static bool take_confine(const struct verb *v, const char *option, const char *text, void *options)
{
        struct options *o = options;
        for (unsigned i = 0; i < sizeof confine_names / sizeof *confine_names; i++)
                if (!strcmp(text, confine_names[i])) {
                        o->confine = (enum confine)i;
                        return true;
                }
        return verb_fail(v, false, "%s: '%s' is none of yes, kill and no", option, text);
}

/* A relative path would be another one after chdir("/"). 0 or an exit code. */
static int check_paths(const struct options *o, bool domain_given)
{
        if (o->config && *o->config != '/')
                return fail(EXIT_USAGE, "--config: '%s' is not an absolute path", o->config);
        if (*o->dir != '/')
                return fail(EXIT_USAGE, "%s: '%s' is not an absolute path", domain_given ? "--domain" : "WHARF_DOMAIN",
                            o->dir);
        return EXIT_DONE;
}

int main(int argc, char **argv)
{
        program_name = "wharfd";
        struct options o = {.linger_ns = LINGER_NS};
        uint64_t socket = UINT64_MAX;
        bool server = false, system = false, version = false;
        const struct option_spec table[] = {
                {"domain", 'd', OPTION_TEXT, &o.dir, "DIR", "the domain in that directory; default: this user's own"},
                {"system", 0, OPTION_FLAG, &system, NULL, "the domain of the system, with its rules, for all users"},
                {"share", 0, OPTION_FLAG, &o.share, NULL, "for all users"},
                {"config", 'c', OPTION_TEXT, &o.config, "FILE", "the rules: who may register, look up and see names"},
                {"linger", 'l', OPTION_CALL, &o, "DURATION",
                 "stay so long when nobody needs it, or forever; default 500ms", .take = take_linger},
                {"confine", 0, OPTION_CALL, &o, "yes|kill|no",
                 "give up what it does not need, and end, for tests, where it tries; default yes",
                 .take = take_confine},
                {"foreground", 'f', OPTION_FLAG, &o.foreground, NULL,
                 "stay in the foreground, and log to standard error"},
                {"verbose", 'v', OPTION_FLAG, &verbose, NULL, "log to standard error in the background too"},
                {"socket-fd", 0, OPTION_COUNT, &socket, "FD", "serve this listening socket", 0, INT32_MAX},
                {"socket-stays", 0, OPTION_FLAG, &o.socket_stays, NULL, "do not remove the socket when leaving"},
                {"server", 0, OPTION_FLAG, &server, NULL, "what a keeper starts; never given by hand"},
                {"starting", 0, OPTION_FLAG, &o.starting, NULL,
                 "standard error is read until it serves; never by hand"},
                {"version", 0, OPTION_FLAG, &version, NULL, "print the version"},
                {0},
        };
        if (standard_open() != EXIT_DONE)
                return EXIT_REFUSED;
        int read = options_read(&wharfd, argc, argv, table);
        if (read != OPTIONS_GO_ON)
                return verb_finish(NULL, read);
        if (optind < argc)
                return verb_usage(&wharfd);
        if (version) {
                puts("wharfd " WHARF_VERSION);
                return verb_finish(NULL, EXIT_DONE);
        }
        if (system && o.dir)
                return fail(EXIT_USAGE, "--domain and --system exclude each other");
        if (system) {
                o.dir = wh_domain_system();
                o.share = true;
                o.config = o.config ? o.config : WHARF_SYSCONFDIR CONFIG;
        }
        verbose |= o.foreground;
        bool domain_given = o.dir;
        if (!o.dir)
                o.dir = wharf_domain_path();
        int code = check_paths(&o, domain_given || system);
        if (code != EXIT_DONE)
                return code;
        if (socket <= INT32_MAX && fcntl((int)socket, F_GETFD) < 0)
                return fail(EXIT_USAGE, "--socket-fd: descriptor %d is not open", (int)socket);
        int socket_fd = socket <= INT32_MAX ? (int)socket : -1;
        umask(077);
        if ((code = raise_limits()) != EXIT_DONE)
                return code;
        struct wh_rules *rules; /* wrong ones are said here, where somebody reads it, rather than by a server later */
        if (load_rules(&o, &rules) < 0)
                return fail(EXIT_REFUSED, "%s", wharf_why());
        wh_rules_free(rules);

        struct wh_given *given;
        unsigned n_given;
        int r = wh_given_take(&given, &n_given);
        if (r < 0)
                return fail(EXIT_REFUSED, "the descriptors that were passed: %s", strerror(-r));
        if (!n_given && socket_fd < 0) {
                r = listen_here(o.dir, o.share, &socket_fd);
                if (r < 0)
                        return fail(EXIT_REFUSED, "%s", *wharf_why() ? wharf_why() : strerror(-r));
                if (!o.foreground)
                        return background(&o, socket_fd);
        }
        if (chdir("/") < 0) /* keeps no file system busy; a relative --domain was refused above, or by our parent */
                say("cannot leave the current directory: %s", strerror(errno));
        r = n_given ? activated(&o, given, n_given, server) : keep(&o, socket_fd);
        wh_given_done(given, n_given);
        return r;
}
