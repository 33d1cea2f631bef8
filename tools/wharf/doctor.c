/*
 * wharf doctor - what this kernel and these limits allow, found out by trying, and what to do about the rest.
 *
 * Each check is a function of its own that fills in one line. A check may need what a sandbox forbids; that is then
 * its finding. Nothing is changed and nothing is left behind.
 */
#include "common.h"
#include "print.h"
#include "names/domain.h"
#include "names/names.h"

#include "os/left.h"

#include <getopt.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

extern const struct verb verb_doctor;

enum verdict { OK, WARN, FAIL };
static const char *const verdict_names[] = {"ok", "warn", "fail"};

struct finding {
        enum verdict verdict;
        char found[320];
        char advice[240]; /* "" when there is nothing to do */
};

__attribute__((format(printf, 4, 5))) static void find(struct finding *f, enum verdict verdict, const char *advice,
                                                       const char *fmt, ...)
{
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(f->found, sizeof f->found, fmt, ap);
        va_end(ap);
        f->verdict = verdict;
        snprintf(f->advice, sizeof f->advice, "%s", verdict == OK ? "" : advice);
}

/* The first line of a small file, without its newline; false when it cannot be read. */
static bool first_line(const char *path, char *buf, size_t cap)
{
        FILE *f = fopen(path, "re");
        if (!f)
                return false;
        bool got = fgets(buf, (int)cap, f) != NULL;
        fclose(f);
        if (got)
                buf[strcspn(buf, "\n")] = 0;
        return got;
}

static void check_kernel(struct finding *f)
{
        struct utsname u;
        unsigned major = 0, minor = 0;
        uname(&u);
        if (sscanf(u.release, "%u.%u", &major, &minor) != 2)
                find(f, WARN, "wharf needs Linux 5.15 or later", "%s, which is no version number", u.release);
        else
                find(f, major * 1000 + minor >= 5015 ? OK : FAIL, "wharf needs Linux 5.15 or later", "%s %s", u.sysname,
                     u.release);
}

static void check_memfd(struct finding *f)
{
        int fd = memfd_create("wharf-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0) {
                find(f, FAIL, "allow memfd_create in the sandbox; without it every message is copied through a socket",
                     "%s", strerror(errno));
                return;
        }
        char v[16];
        int exec = first_line("/proc/sys/vm/memfd_noexec", v, sizeof v) ? atoi(v) : 0;
        find(f, OK, "", exec ? "works (vm.memfd_noexec is %d)" : "works", exec);
        close(fd);
}

/* What a lane relies on: the receiver can neither write, nor grow, nor shrink, nor punch holes into the sender's
 * memory. */
static void check_sealing(struct finding *f)
{
        const char *advice = "wharf's shared memory needs F_SEAL_FUTURE_WRITE (Linux 5.1)";
        int fd = memfd_create("wharf-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        void *ours = MAP_FAILED, *theirs = MAP_FAILED;
        if (fd < 0 || ftruncate(fd, 4096) < 0)
                find(f, FAIL, advice, "not tried: %s", strerror(errno));
        else if ((ours = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED)
                find(f, FAIL, advice, "mmap: %s", strerror(errno));
        else if (fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
                find(f, FAIL, advice, "%s", strerror(errno));
        else if ((theirs = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) != MAP_FAILED)
                find(f, FAIL, "this kernel ignores seals: do not use wharf here",
                     "sealed memory can still be mapped writable");
        else
                find(f, OK, "", "a receiver cannot change a sender's memory");
        if (ours != MAP_FAILED)
                munmap(ours, 4096);
        if (theirs != MAP_FAILED)
                munmap(theirs, 4096);
        if (fd >= 0)
                close(fd);
}

static void check_rights(struct finding *f)
{
        const char *advice = "allow socketpair, sendmsg and recvmsg with descriptors in the sandbox";
        int sv[2];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0) {
                find(f, FAIL, advice, "no socket pair: %s", strerror(errno));
                return;
        }
        union {
                struct cmsghdr h;
                char space[CMSG_SPACE(sizeof(int))];
        } c = {.h = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
        memcpy(CMSG_DATA(&c.h), &sv[0], sizeof(int));
        char byte = 'x';
        struct iovec v = {&byte, 1};
        struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c};
        if (sendmsg(sv[0], &m, MSG_DONTWAIT | MSG_NOSIGNAL) != 1)
                find(f, FAIL,
                     errno == ETOOMANYREFS
                             ? "programs of this user have too many descriptors on their way unread; find them, "
                               "or raise RLIMIT_NOFILE"
                             : advice,
                     "sending: %s", strerror(errno));
        else if (recvmsg(sv[1], &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1 || m.msg_controllen < CMSG_LEN(sizeof(int)))
                find(f, FAIL, advice, "receiving: %s",
                     m.msg_flags & MSG_CTRUNC ? "the descriptor is missing" : strerror(errno));
        else {
                int got;
                memcpy(&got, CMSG_DATA(&c.h), sizeof got);
                close(got);
                find(f, OK, "", "descriptors travel over sockets");
        }
        close(sv[0]);
        close(sv[1]);
}

static void check_pidfd(struct finding *f)
{
        int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
        if (fd < 0)
                find(f, FAIL, "allow pidfd_open in the sandbox (Linux 5.3)", "%s", strerror(errno));
        else
                find(f, OK, "", "works");
        if (fd >= 0)
                close(fd);
}

static void check_peerpidfd(struct finding *f)
{
        int sv[2], fd = -1;
        socklen_t len = sizeof fd;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0) {
                find(f, WARN, "see scm_rights", "not tried: %s", strerror(errno));
                return;
        }
        if (getsockopt(sv[0], SOL_SOCKET, SO_PEERPIDFD, &fd, &len) < 0)
                find(f, WARN, "Linux 6.5 has it; until then a sender's identity is checked against its living link",
                     "%s", strerror(errno));
        else
                find(f, OK, "", "a sender is identified without a race");
        if (fd >= 0)
                close(fd);
        close(sv[0]);
        close(sv[1]);
}

static void check_membarrier(struct finding *f)
{
        long has = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
        if (has < 0)
                find(f, WARN, "messages then pay for a memory fence each, some 7 ns", "%s", strerror(errno));
        else
                find(f, has & MEMBARRIER_CMD_GLOBAL_EXPEDITED ? OK : WARN,
                     "messages then pay for a memory fence each, some 7 ns", "%s",
                     has & MEMBARRIER_CMD_GLOBAL_EXPEDITED ? "works between processes" : "not between processes");
}

static void check_epoll_pwait2(struct finding *f)
{
        int ep = epoll_create1(EPOLL_CLOEXEC);
        struct epoll_event ev;
        struct timespec none = {0};
        if (ep < 0 || syscall(SYS_epoll_pwait2, ep, &ev, 1, &none, NULL, 0) < 0)
                find(f, WARN, "deadlines are then rounded up to milliseconds (Linux 5.11 has it)", "%s",
                     strerror(errno));
        else
                find(f, OK, "", "deadlines are exact");
        if (ep >= 0)
                close(ep);
}

static void check_nofile(struct finding *f)
{
        struct rlimit l;
        getrlimit(RLIMIT_NOFILE, &l);
        /* Every right is a descriptor, and rights in flight count against the soft limit too. */
        if (l.rlim_cur == RLIM_INFINITY)
                find(f, OK, "", "no limit");
        else
                find(f,
                     l.rlim_cur < 256    ? FAIL
                     : l.rlim_cur < 1024 ? WARN
                                         : OK,
                     "every right is a descriptor: raise it with ulimit -n, LimitNOFILE= or limits.conf",
                     "soft %llu, hard %llu", (unsigned long long)l.rlim_cur, (unsigned long long)l.rlim_max);
}

static void check_fsize(struct finding *f)
{
        struct rlimit l;
        getrlimit(RLIMIT_FSIZE, &l);
        if (l.rlim_cur == RLIM_INFINITY)
                find(f, OK, "", "no limit");
        else
                find(f, l.rlim_cur < 1 << 20 ? FAIL : WARN, "it limits shared memory too: ulimit -f unlimited",
                     "%llu bytes", (unsigned long long)l.rlim_cur);
}

static void check_memory(struct finding *f)
{
        struct wh_os_left left;
        char text[16], limit[16];
        int r = wh_os_memory_left(&left);
        if (r < 0)
                find(f, WARN, "mount /proc", "unknown");
        else if (left.limit_bytes)
                find(f, left.bytes < 64 << 20 ? WARN : OK, "a link with a lane takes up to some MiB",
                     "%s available: %s is %s", format_size(left.bytes, text), left.what,
                     format_size(left.limit_bytes, limit));
        else
                find(f, left.bytes < 64 << 20 ? WARN : OK, "a link with a lane takes up to some MiB", "%s available",
                     format_size(left.bytes, text));
}

static void check_shm(struct finding *f)
{
        struct statvfs s;
        char text[16], all[16];
        if (statvfs("/dev/shm", &s) < 0) {
                find(f, WARN, "named segments live there: mount a tmpfs on /dev/shm", "%s", strerror(errno));
                return;
        }
        uint64_t left = (uint64_t)s.f_bavail * s.f_frsize, size = (uint64_t)s.f_blocks * s.f_frsize;
        find(f, access("/dev/shm", W_OK) < 0 || left < 16 << 20 ? WARN : OK,
             access("/dev/shm", W_OK) < 0 ? "named segments live there: chmod 1777 /dev/shm"
                                          : "named segments live there: make room, or remount with a larger size=",
             "%s of %s free", format_size(left, text), format_size(size, all));
}

static void check_yama(struct finding *f)
{
        char v[16];
        if (!first_line("/proc/sys/kernel/yama/ptrace_scope", v, sizeof v))
                find(f, OK, "", "no Yama: tasks of one user may read each other's memory");
        else
                find(f, atoi(v) == 0 ? OK : WARN,
                     "direct transfers are then replaced by pieces; there is nothing to do", "ptrace_scope %s", v);
}

static void check_userns(struct finding *f)
{
        char v[32];
        if (first_line("/proc/sys/kernel/unprivileged_userns_clone", v, sizeof v) && !strcmp(v, "0"))
                find(f, WARN, "sandboxed children then need root: sysctl kernel.unprivileged_userns_clone=1",
                     "off for ordinary users");
        else if (first_line("/proc/sys/user/max_user_namespaces", v, sizeof v) && !strcmp(v, "0"))
                find(f, WARN, "sandboxed children then need root: sysctl user.max_user_namespaces=10000",
                     "none allowed");
        else
                find(f, OK, "", "allowed");
}

static void check_cores(struct finding *f)
{
        cpu_set_t set;
        CPU_ZERO(&set);
        int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
        find(f, n > 1 ? OK : WARN, "with one core a wait never spins, so every message costs a switch of processes",
             "%d", n);
}

/* Does anybody serve this shared domain? Nobody starts a server there for us. */
static bool answers(const char *dir)
{
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        snprintf(at.sun_path, sizeof at.sun_path, "%s/bootstrap", dir);
        bool yes = fd >= 0 && (connect(fd, (struct sockaddr *)&at, sizeof at) == 0 || errno == EAGAIN);
        if (fd >= 0)
                close(fd);
        return yes;
}

/* The directory that the domain's would be made in: found wanting, it says so and the answer is false. */
static bool parent_is_fit(struct finding *f, const char *dir, const char *advice)
{
        char parent[PATH_MAX];
        snprintf(parent, sizeof parent, "%s", dir);
        char *slash = strrchr(parent, '/');
        slash[slash == parent] = 0;
        struct stat st;
        if (stat(parent, &st) < 0)
                find(f, FAIL, advice, "%.100s cannot be made: %.100s: %s", dir, parent, strerror(errno));
        else if (!S_ISDIR(st.st_mode))
                find(f, FAIL, advice, "%.100s cannot be made: %.100s: %s", dir, parent, strerror(ENOTDIR));
        else if (st.st_uid != geteuid() && st.st_uid != 0 && !(st.st_mode & S_ISVTX && st.st_mode & S_IWOTH))
                find(f, FAIL, advice, "%.100s is not made in a directory of user %u", dir, (unsigned)st.st_uid);
        else if (faccessat(AT_FDCWD, parent, W_OK | X_OK, AT_EACCESS) < 0)
                find(f, FAIL, advice, "%.100s cannot be made in %.100s: %s", dir, parent, strerror(errno));
        else
                return true;
        return false;
}

/* Where names live, in the words of the library. Looks only: a domain that is not there yet is made on first use. */
static void check_domain(struct finding *f)
{
        const char *dir = wharf_domain_path();
        bool chosen = wh_domain_was_chosen(), shared = false;
        const char *advice = chosen ? "let WHARF_DOMAIN name a directory of this user, mode 0700, or unset it"
                                    : "set WHARF_DOMAIN to a directory of this user, mode 0700";
        if (*dir != '/' || strlen(dir) + sizeof "/bootstrap" > sizeof((struct sockaddr_un *)0)->sun_path) {
                find(f, FAIL, "set WHARF_DOMAIN to a short absolute path", "%.100s cannot hold a socket", dir);
                return;
        }
        int r = chosen ? wh_domain_check_chosen(dir, false, &shared) : wh_domain_check(dir, false);
        struct stat st;
        if (r == -ENOENT && lstat(dir, &st) < 0) {
                if (parent_is_fit(f, dir, advice))
                        find(f, OK, "", "%.100s, made on first use", dir);
        } else if (r < 0) {
                find(f, FAIL, advice, "%s", *wharf_why() ? wharf_why() : wharf_strerror(r));
        } else if (shared && !answers(dir)) {
                find(f, FAIL, "let its owner start wharfd(8) there with --share", "%.100s, shared: no wharfd answers",
                     dir);
        } else if (shared) {
                find(f, OK, "", "%.100s, shared by user %u", dir, lstat(dir, &st) == 0 ? (unsigned)st.st_uid : 0);
        } else {
                find(f, OK, "", "%.100s", dir);
        }
        if (f->verdict == OK && *wh_domain_aside())
                find(f, WARN, "", "%.100s", dir);
        if (f->verdict == WARN)
                snprintf(f->advice, sizeof f->advice, "used instead of what is not this user's: %.180s",
                         wh_domain_aside());
}

/* Only one that runs: nothing is started to look at it. */
static void check_wharfd(struct finding *f)
{
        const char *dir = wharf_domain_path();
        bool shared;
        wharf_task *t = NULL;
        struct wh_names_state st;
        if (wh_domain_check_chosen(dir, false, &shared) < 0 || wh_domain_server(dir) <= 0) {
                find(f, OK, "", "none runs");
                return;
        }
        int r = wharf_task_open(NULL, &t);
        if (r == 0)
                r = wh_names_state(t, &st);
        if (r < 0)
                find(f, WARN, "see whether it is stopped, or of another version", "%.250s",
                     *wharf_why() ? wharf_why() : wharf_strerror(r));
        else if (st.holder == WH_HOLDER_NONE)
                find(f, WARN, "end it (SIGTERM) when that does no harm: the next one has a keeper",
                     "nobody holds its %u names and watches: they would be registered anew after its death",
                     st.names + st.watches);
        else if (st.owed_error)
                find(f, WARN, "raise its limit of descriptors (ulimit -n, LimitNOFILE=)",
                     "not all names of the last one could be taken up: %s", wharf_strerror(-(int)st.owed_error));
        else if (st.unkept)
                find(f, WARN, "raise its limit of descriptors (ulimit -n, LimitNOFILE=, FileDescriptorStoreMax=)",
                     "%u of %u names and watches would not survive its death: %s", st.unkept, st.names + st.watches,
                     wharf_strerror(-(int)st.unkept_error));
        else
                find(f, OK, "", "held by %s; gave up%s%s%s%s",
                     st.holder == WH_HOLDER_KEEPER ? "its keeper" : "the service manager",
                     st.confined ? "" : " nothing", st.confined & WH_CONFINED_PRIVILEGES ? " privileges" : "",
                     st.confined & WH_CONFINED_FILES ? " files" : "",
                     st.confined & WH_CONFINED_CALLS ? " system calls" : "");
        wharf_task_close(t);
}

static const struct {
        const char *name;
        void (*check)(struct finding *);
} checks[] = {
        {"kernel", check_kernel},
        {"memfd", check_memfd},
        {"sealing", check_sealing},
        {"scm_rights", check_rights},
        {"pidfd", check_pidfd},
        {"so_peerpidfd", check_peerpidfd},
        {"membarrier", check_membarrier},
        {"epoll_pwait2", check_epoll_pwait2},
        {"rlimit_nofile", check_nofile},
        {"rlimit_fsize", check_fsize},
        {"memory", check_memory},
        {"dev_shm", check_shm},
        {"yama", check_yama},
        {"user_namespaces", check_userns},
        {"cores", check_cores},
        {"wharfd", check_wharfd},
        {"domain", check_domain},
};
enum { N_CHECKS = sizeof checks / sizeof *checks };

static void print_finding(const char *name, const struct finding *f)
{
        static const enum colour colours[] = {[OK] = GOOD, [WARN] = WARNING, [FAIL] = BAD};
        char text[sizeof f->found + sizeof f->advice + 8];
        snprintf(text, sizeof text, "%s%s%s", f->found, *f->advice ? ": " : "", f->advice);
        printf("%s%-4s%s  %-15s  ", colour_on(colours[f->verdict]), verdict_names[f->verdict], colour_off(), name);
        print_wrapped(23, text);
}

static int run(const struct verb *v, int argc, char **argv)
{
        bool json = false;
        const struct option_spec options[] = {
                {"json", 0, OPTION_FLAG, &json, NULL, "print JSON"},
                COLOUR_OPTION,
                {0},
        };
        int read = options_read(v, argc, argv, options);
        if (read != OPTIONS_GO_ON)
                return read;
        if (optind != argc)
                return verb_usage(v);

        signal(SIGXFSZ, SIG_IGN); /* a small RLIMIT_FSIZE is a finding, not our death */
        unsigned fails = 0;
        json_object *list = json ? json_object_new_array() : NULL;
        for (unsigned i = 0; i < N_CHECKS; i++) {
                struct finding f = {0};
                checks[i].check(&f);
                fails += f.verdict == FAIL;
                if (!json) {
                        print_finding(checks[i].name, &f);
                        continue;
                }
                json_object *o = json_object_new_object();
                json_object_object_add(o, "check", json_object_new_string(checks[i].name));
                json_object_object_add(o, "verdict", json_object_new_string(verdict_names[f.verdict]));
                json_object_object_add(o, "found", json_shown(f.found));
                if (*f.advice)
                        json_object_object_add(o, "advice", json_shown(f.advice));
                json_object_array_add(list, o);
        }
        if (json)
                json_out(list, true);
        return fails ? EXIT_REFUSED : EXIT_DONE;
}

const struct verb verb_doctor = {.name = "doctor",
                                 .args = "[--json] [--color WHEN]",
                                 .summary = "what this kernel and these limits allow, and what to do about the rest",
                                 .run = run};
