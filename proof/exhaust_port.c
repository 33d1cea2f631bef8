/*
 * Nothing is injected here: there really is no descriptor left, no address space, no more that may be in flight.
 *
 * Processes of an ordinary user: the owner of a port, a holder that tries an operation, another holder whose lane is
 * warm. One or both of the first two run out of something. Then the call says so with an errno that means it, or works
 * all the same; the other goes on; and once there is room the same call succeeds. Every message that was reported as
 * sent is received once and in order, during the shortage or after it, and nothing else is.
 */
#include "wharf/segment.h"
#include "wharf/wharf.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OWNER, HOLDER, OTHER, PARTIES, BUFFER = 256 << 10, REPLY = 1 << 20, FDS = 128, CASE_S = 30 };

/* Of each process. */
static wharf_task *task;
static wharf_name port, right, home;
static char dir[64], path[80];
static unsigned owner_seen[PARTIES]; /* messages of each that the owner received */
static unsigned sent;
static uint8_t buffer[BUFFER];

static const char *case_name[3];
static __attribute__((noreturn, format(printf, 1, 2))) void die(const char *fmt, ...)
{
        va_list ap;
        fprintf(stderr, "exhaust port: %s, %s, %s: ", case_name[0], case_name[1], case_name[2]);
        va_start(ap, fmt);
        vfprintf(stderr, fmt, ap);
        va_end(ap);
        fputc('\n', stderr);
        _exit(1);
}
#define CHECK(cond)                                          \
        do {                                                 \
                if (!(cond))                                 \
                        die("line %d: %s", __LINE__, #cond); \
        } while (0)

static void must(int r, const char *what)
{
        if (r < 0)
                die("%s: %s (%s)", what, strerrorname_np(-r), wharf_why());
}

static unsigned fds_open(void)
{
        unsigned n = 0;
        DIR *d = opendir("/proc/self/fd");
        CHECK(d);
        while (readdir(d))
                n++;
        closedir(d);
        return n;
}

/* ---- shortages: made and ended by the party itself ---- */

static int hoard[2 * FDS], n_hoard;
static void *blocks; /* a chain */

static void descriptors_gone(void)
{
        int fd;
        while ((fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0) {
                CHECK(n_hoard < (int)(sizeof hoard / sizeof *hoard));
                hoard[n_hoard++] = fd;
        }
        CHECK(errno == EMFILE);
}

static void descriptors_back(void)
{
        while (n_hoard)
                close(hoard[--n_hoard]);
}

static int send_fd(int sock, int fd)
{
        union {
                struct cmsghdr h;
                uint8_t space[CMSG_SPACE(sizeof(int))];
        } c = {.h = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
        struct iovec io = {(char[1]){0}, 1};
        struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c};
        memcpy(CMSG_DATA(&c.h), &fd, sizeof fd);
        return sendmsg(sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* Unread descriptors count for the user: each pair holds as many as its queue does. */
static void flight_gone(void)
{
        int r = 0;
        while (r != -ETOOMANYREFS) {
                int sv[2];
                CHECK(n_hoard + 2 < FDS / 2 && socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, sv) == 0);
                hoard[n_hoard++] = sv[0];
                hoard[n_hoard++] = sv[1];
                while ((r = send_fd(sv[0], 2)) == 0)
                        ;
                CHECK(r == -ETOOMANYREFS || r == -EAGAIN);
        }
}

/* Whatever the allocator still has is taken, too. */
static void space_gone(void)
{
        struct rlimit none = {4096, RLIM_INFINITY};
        CHECK(setrlimit(RLIMIT_AS, &none) == 0);
        for (size_t size = 1 << 20; size >= 16; size /= 2) {
                void **p;
                while ((p = malloc(size))) {
                        *p = blocks;
                        blocks = p;
                }
        }
}

static void space_back(void)
{
        struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
        CHECK(setrlimit(RLIMIT_AS, &all) == 0);
        while (blocks) {
                void *p = blocks;
                memcpy(&blocks, p, sizeof blocks);
                free(p);
        }
}

static void file_size_gone(void)
{
        CHECK(setrlimit(RLIMIT_FSIZE, &(struct rlimit){0, RLIM_INFINITY}) == 0);
}

static void file_size_back(void)
{
        CHECK(setrlimit(RLIMIT_FSIZE, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY}) == 0);
}

static const struct shortage {
        const char *name;
        void (*begin)(void), (*end)(void);
        bool of_user; /* it does not matter which of its processes has it */
} shortages[] = {
        {"descriptors", descriptors_gone, descriptors_back, false},
        {"descriptors in flight", flight_gone, descriptors_back, true},
        {"address space", space_gone, space_back, false},
        {"file size", file_size_gone, file_size_back, false},
};

/* What may be said of any of them. A queue that stays full, or a reply that does not come, is a deadline. */
static bool means_shortage(int r)
{
        static const int all[] = {EMFILE,       ENFILE, ENOMEM, ENOSPC,    ENOBUFS,   EFBIG,
                                  ETOOMANYREFS, EDQUOT, EAGAIN, ETIMEDOUT, EOPNOTSUPP};
        for (unsigned i = 0; i < sizeof all / sizeof *all; i++)
                if (r == -all[i])
                        return true;
        return false;
}

/* ---- the owner ---- */

/* Receives for so many ms. The last refusal that is no mere lack of messages, or 0. */
static int own(int ms)
{
        int64_t until = wharf_in_ms(ms);
        int refused = 0;
        for (;;) {
                struct wharf_item items[4];
                struct wharf_msg m = {
                        .size = sizeof m, .data = buffer, .cap_bytes = sizeof buffer, .items = items, .cap_items = 4};
                int r = wharf_recvmsg(task, port, &m, 0);
                if (r == -EAGAIN) {
                        if (wharf_now_ns() >= until)
                                return refused;
                        struct pollfd none = {.fd = -1};
                        poll(&none, 1, 1);
                        continue;
                }
                if (r < 0) {
                        if (!means_shortage(r))
                                die("receive: %s (%s)", strerrorname_np(-r), wharf_why());
                        refused = r;
                        if (wharf_now_ns() >= until)
                                return refused;
                        continue;
                }
                CHECK(m.len_bytes >= 2 && buffer[0] < PARTIES);
                CHECK(buffer[1] == (uint8_t)owner_seen[buffer[0]]);
                owner_seen[buffer[0]]++;
                for (unsigned i = 0; i < m.n_items; i++) {
                        if (items[i].kind == WHARF_GOT_FD)
                                close(items[i].fd);
                        else
                                must(wharf_drop(task, items[i].name), "drop an item");
                }
                if (m.reply) {
                        static uint8_t large[REPLY];
                        r = wharf_reply(task, m.reply, large, sizeof large);
                        if (r < 0 && r != -EPIPE && !means_shortage(r))
                                die("reply: %s (%s)", strerrorname_np(-r), wharf_why());
                        /* These two use the right up; after any other the caller is told that it was dropped. */
                        if (r < 0 && r != -EPIPE && r != -ENOBUFS)
                                must(wharf_drop(task, m.reply), "drop a right that could not be used");
                }
        }
}

static int count_of(int who)
{
        return (int)owner_seen[who];
}

/* ---- what the holder tries ---- */

static int send_it(wharf_name to, size_t len, struct wharf_item *item, int ms)
{
        static uint8_t bytes[BUFFER];
        bytes[0] = HOLDER;
        bytes[1] = (uint8_t)sent;
        struct wharf_msg m = {
                .size = sizeof m, .data = bytes, .len_bytes = len, .items = item, .n_items = item != NULL};
        int r = wharf_sendmsg(task, to, &m, wharf_in_ms(ms));
        sent += r == 0;
        return r;
}

static int op_task(int ms)
{
        wharf_task *t;
        int r = wharf_task_open(NULL, &t);
        if (r == 0)
                wharf_task_close(t);
        return r;
}

static int op_port(int ms)
{
        wharf_name p;
        int r = wharf_port_new(task, NULL, &p);
        return r < 0 ? r : wharf_drop(task, p);
}

static int op_right(int ms)
{
        wharf_name r_;
        int r = wharf_right_new(task, home, &r_);
        return r < 0 ? r : wharf_drop(task, r_);
}

static int op_connect(int ms)
{
        wharf_name r_;
        int r = wharf_right_connect(task, path, &r_);
        return r < 0 ? r : wharf_drop(task, r_);
}

static int op_copy(int ms)
{
        wharf_name r_;
        int r = wharf_right_copy(task, right, wharf_in_ms(ms), &r_);
        return r < 0 ? r : wharf_drop(task, r_);
}

static int op_small(int ms)
{
        return send_it(right, 16, NULL, ms);
}

/* The first messages of a link, among which its lane is made. */
static int op_first(int ms)
{
        for (int i = 0; i < 40; i++) {
                int r = send_it(right, 16, NULL, ms);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int op_large(int ms)
{
        return send_it(right, 100 << 10, NULL, ms);
}

static int op_fd(int ms)
{
        return send_it(right, 16, &(struct wharf_item){.kind = WHARF_COPY_FD, .fd = 0}, ms);
}

static int op_give_right(int ms)
{
        return send_it(right, 16, &(struct wharf_item){.kind = WHARF_MAKE_SEND, .name = home}, ms);
}

static int op_move_port(int ms)
{
        static wharf_name p;
        int r = p ? 0 : wharf_port_new(task, NULL, &p);
        if (r == 0)
                r = send_it(right, 16, &(struct wharf_item){.kind = WHARF_MOVE_RECEIVE, .name = p}, ms);
        if (r == 0)
                p = WHARF_NONE;
        return r;
}

static int op_memory(int ms)
{
        wharf_name m;
        void *at;
        size_t len;
        int r = wharf_memory_new(task, 64 << 10, &m);
        if (r < 0)
                return r;
        must(wharf_memory_at(task, m, &at, &len), "memory");
        memset(at, 'm', len);
        r = send_it(right, 16, &(struct wharf_item){.kind = WHARF_MOVE_MEMORY, .name = m}, ms);
        if (r < 0)
                must(wharf_drop(task, m), "a memory that was not moved is still here");
        return r;
}

static int op_call(int ms)
{
        static uint8_t reply[REPLY];
        uint8_t req[16] = {HOLDER, (uint8_t)sent};
        struct wharf_msg q = {.size = sizeof q, .data = req, .len_bytes = sizeof req};
        struct wharf_msg a = {.size = sizeof a, .data = reply, .cap_bytes = sizeof reply};
        uint32_t call;
        int r = wharf_call_start(task, right, &q, WHARF_NONE, wharf_in_ms(ms), &call);
        if (r < 0)
                return r;
        sent++;
        r = wharf_call_finish(task, right, call, &a, wharf_in_ms(ms));
        if (r < 0 && r != -ECANCELED) {
                int cancelled = wharf_call_cancel(task, right, call);
                CHECK(cancelled == 0);
        }
        return r == -ECANCELED ? -ENOBUFS : r; /* the owner had none for its reply, and dropped it */
}

static int op_segment(int ms)
{
        char name[64];
        wharf_segment *s;
        snprintf(name, sizeof name, "posix:/exhaust.%d", (int)getpid());
        int r = wharf_segment_create(name, 64 << 10, NULL, &s);
        if (r < 0)
                return r;
        wharf_segment_close(s);
        return wharf_segment_remove(name);
}

static const struct op {
        const char *name;
        int (*run)(int ms);
        bool cold; /* over a link that nothing was sent on */
} ops[] = {
        {"a task", op_task, false},
        {"a port", op_port, false},
        {"a right", op_right, false},
        {"connecting", op_connect, false},
        {"copying a right", op_copy, false},
        {"a small message", op_small, false},
        {"the first messages", op_first, true},
        {"a large message", op_large, false},
        {"a descriptor", op_fd, false},
        {"a right in a message", op_give_right, false},
        {"a port in a message", op_move_port, false},
        {"memory out of line", op_memory, false},
        {"a call", op_call, false},
        {"a segment", op_segment, false},
};

/* ---- parties: a process each, that does what it is told ---- */

enum verb { DO_OWN, DO_COUNT, DO_TRY, DO_SEND, DO_BEGIN, DO_END, DO_FDS, DO_SENT };
struct command {
        enum verb verb;
        int arg, arg2;
};
static struct party {
        pid_t pid;
        int sock;
} party[PARTIES];

static int obey(struct command c)
{
        switch (c.verb) {
        case DO_OWN:
                return own(c.arg);
        case DO_COUNT:
                return count_of(c.arg);
        case DO_TRY:
                return ops[c.arg].run(c.arg2);
        case DO_SEND: {
                uint8_t bytes[16] = {OTHER, (uint8_t)sent};
                int r = wharf_send(task, right, bytes, sizeof bytes, wharf_in_ms(c.arg));
                sent += r == 0;
                return r;
        }
        case DO_BEGIN:
                shortages[c.arg].begin();
                return 0;
        case DO_END:
                shortages[c.arg].end();
                return 0;
        case DO_FDS:
                while (home && wharf_recv(task, home, buffer, sizeof buffer, NULL, 0) != -EAGAIN)
                        ; /* it hears of the end of rights that were made */
                return (int)fds_open();
        case DO_SENT:
                return (int)sent;
        }
        return -EINVAL;
}

static void party_main(int who, int sock)
{
        int ready = 0;
        struct command c;
        CHECK(setrlimit(RLIMIT_NOFILE, &(struct rlimit){FDS, FDS}) == 0);
        must(wharf_task_open(NULL, &task), "task");
        if (who == OWNER) {
                struct sockaddr_un sa = {.sun_family = AF_UNIX};
                struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
                strcpy(sa.sun_path, path);
                int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
                CHECK(s >= 0 && bind(s, (struct sockaddr *)&sa, sizeof sa) == 0 && listen(s, 8) == 0);
                must(wharf_port_new(task, &o, &port), "port");
                must(wharf_port_listen(task, port, s), "listen");
        } else {
                struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
                must(wharf_port_new(task, &o, &home), "port");
                must(wharf_right_connect(task, path, &right), "connect");
        }
        CHECK(write(sock, &ready, sizeof ready) == sizeof ready);
        while (read(sock, &c, sizeof c) == sizeof c) {
                int r = obey(c);
                CHECK(write(sock, &r, sizeof r) == sizeof r);
        }
        wharf_task_close(task);
        _exit(0);
}

static void tell(int who, enum verb verb, int arg, int arg2)
{
        struct command c = {verb, arg, arg2};
        CHECK(write(party[who].sock, &c, sizeof c) == sizeof c);
}

static int answer(int who)
{
        int r;
        if (read(party[who].sock, &r, sizeof r) != sizeof r)
                die("%s died", who == OWNER ? "the owner" : who == HOLDER ? "the holder" : "the other");
        return r;
}

static int ask(int who, enum verb verb, int arg, int arg2)
{
        tell(who, verb, arg, arg2);
        return answer(who);
}

static void party_new(int who)
{
        int sv[2];
        CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) == 0);
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                for (int i = 0; i < who; i++)
                        close(party[i].sock);
                close(sv[0]);
                party_main(who, sv[1]);
        }
        close(sv[1]);
        party[who] = (struct party){pid, sv[0]};
        CHECK(answer(who) == 0);
}

/* `who` does that while the owner receives. */
static int ask_served(int who, enum verb verb, int arg, int arg2)
{
        tell(who, verb, arg, arg2);
        while (poll(&(struct pollfd){.fd = party[who].sock, .events = POLLIN}, 1, 0) == 0) {
                int r = ask(OWNER, DO_OWN, 2, 0);
                (void)r; /* refused for now: it is there for another try */
        }
        return answer(who);
}

/* The owner has received as much as `who` was told that it sent. */
static bool all_there(int who, int ms)
{
        for (int i = 0; i <= ms / 5; i++) {
                if (ask(OWNER, DO_COUNT, who, 0) == ask(who, DO_SENT, 0, 0))
                        return true;
                ask(OWNER, DO_OWN, 5, 0);
        }
        return false;
}

/* An ordinary user whom nobody else on this machine is: only then are the kernel's limits those of a user. */
static void ordinary_user(void)
{
        if (getuid() != 0)
                return;
        uid_t uid = 50000 + (uid_t)getpid() % 10000;
        CHECK(chown(dir, uid, uid) == 0 && setgroups(0, NULL) == 0 && setgid(uid) == 0 && setuid(uid) == 0);
        prctl(PR_SET_DUMPABLE, 1);
}

enum { IN_HOLDER = 1, IN_OWNER = 2 };

/* What was left for later is done first, so it may take a few tries. */
static int try_again(unsigned op)
{
        int r = -EAGAIN;
        for (int i = 0; i < 20 && r < 0; i++)
                r = ask_served(HOLDER, DO_TRY, (int)op, 500);
        return r;
}

static void run_case(unsigned op, unsigned shortage, unsigned where)
{
        party_new(OWNER);
        party_new(HOLDER);
        party_new(OTHER);
        for (int i = 0; i < 40; i++)
                CHECK(ask_served(OTHER, DO_SEND, 2000, 0) == 0);
        for (int i = 0; i < 40 && !ops[op].cold; i++) {
                int small = 5;
                CHECK(ask_served(HOLDER, DO_TRY, small, 2000) == 0);
        }
        CHECK(all_there(HOLDER, 2000) && all_there(OTHER, 2000));

        if (where & IN_HOLDER)
                ask(HOLDER, DO_BEGIN, (int)shortage, 0);
        if (where & IN_OWNER)
                ask(OWNER, DO_BEGIN, (int)shortage, 0);
        int r = ask_served(HOLDER, DO_TRY, (int)op, 20);
        if (r < 0 && !means_shortage(r))
                die("answers %s", strerrorname_np(-r));
        /* The other goes on. */
        CHECK(ask_served(OTHER, DO_SEND, 2000, 0) == 0);
        CHECK(all_there(OTHER, 2000));

        if (where & IN_HOLDER)
                ask(HOLDER, DO_END, (int)shortage, 0);
        if (where & IN_OWNER)
                ask(OWNER, DO_END, (int)shortage, 0);
        int again = try_again(op);
        if (again < 0)
                die("with room again it answers %s (%s before)", strerrorname_np(-again),
                    r < 0 ? strerrorname_np(-r) : "0");
        CHECK(ask_served(OTHER, DO_SEND, 2000, 0) == 0);
        CHECK(all_there(OTHER, 2000));
        if (!all_there(HOLDER, 3000))
                die("%d messages were sent, %d received", ask(HOLDER, DO_SENT, 0, 0), ask(OWNER, DO_COUNT, HOLDER, 0));

        /* Nothing is kept: the third time takes what the second did. */
        CHECK(ask_served(HOLDER, DO_TRY, (int)op, 2000) == 0);
        ask(OWNER, DO_OWN, 10, 0);
        int held = ask(HOLDER, DO_FDS, 0, 0), owned = ask(OWNER, DO_FDS, 0, 0);
        for (int i = 0; i < 3; i++)
                CHECK(ask_served(HOLDER, DO_TRY, (int)op, 2000) == 0);
        ask(OWNER, DO_OWN, 10, 0);
        for (int i = 0; i < 50 && (ask(HOLDER, DO_FDS, 0, 0) > held || ask(OWNER, DO_FDS, 0, 0) > owned); i++)
                ask(OWNER, DO_OWN, 5, 0);
        if (ask(HOLDER, DO_FDS, 0, 0) > held || ask(OWNER, DO_FDS, 0, 0) > owned)
                die("descriptors stay: %d, then %d; of the owner %d, then %d", held, ask(HOLDER, DO_FDS, 0, 0), owned,
                    ask(OWNER, DO_FDS, 0, 0));
        for (int i = 0; i < PARTIES; i++)
                close(party[i].sock);
        for (int i = 0; i < PARTIES; i++) {
                int status;
                CHECK(waitpid(party[i].pid, &status, 0) == party[i].pid);
                CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        }
}

/* ---- a file system without room: its own, in a mount namespace of its own ---- */

static void small_file_system(const char *at)
{
        CHECK(mount("none", at, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=32,mode=0700") == 0);
}

static void fill(const char *at, char *file, size_t file_len)
{
        snprintf(file, file_len, "%s/full", at);
        int fd = open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        CHECK(fd >= 0);
        while (write(fd, buffer, sizeof buffer) > 0 || write(fd, buffer, 1) > 0)
                ;
        CHECK(errno == ENOSPC);
        close(fd);
        char name[160];
        for (int i = 0;; i++) { /* and no place for another file */
                snprintf(name, sizeof name, "%s.%d", file, i);
                if ((fd = open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)) < 0)
                        break;
                close(fd);
        }
        CHECK(errno == ENOSPC);
}

static void empty(const char *file)
{
        char name[160];
        CHECK(unlink(file) == 0);
        for (int i = 0; i < 64; i++) {
                snprintf(name, sizeof name, "%s.%d", file, i);
                unlink(name);
        }
}

static void full_segments(void)
{
        char file[128];
        small_file_system("/dev/shm");
        fill("/dev/shm", file, sizeof file);
        int r = op_segment(0);
        if (r != -ENOSPC)
                die("answers %s", r < 0 ? strerrorname_np(-r) : "0");
        empty(file);
        CHECK(op_segment(0) == 0);
        /* More than there is: nothing of it stays. */
        wharf_segment *s;
        CHECK(wharf_segment_create("posix:/exhaust.large", 2 << 20, NULL, &s) == -ENOSPC);
        CHECK(wharf_segment_create("posix:/exhaust.large", 64 << 10, NULL, &s) == 0);
        wharf_segment_close(s);
        CHECK(wharf_segment_remove("posix:/exhaust.large") == 0);
}

/* It says why it cannot serve, or serves; with room it does. */
static void full_wharfd(void)
{
        char file[128], said[512] = "";
        int err[2], status;
        small_file_system(dir);
        fill(dir, file, sizeof file);
        setenv("WHARF_DOMAIN", dir, 1);
        setenv("WHARFD", EXHAUST_WHARFD, 1);
        CHECK(pipe2(err, O_CLOEXEC) == 0);
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
                dup2(err[1], 2);
                execl(EXHAUST_WHARFD, "wharfd", "--domain", dir, "--foreground", "--linger", "100ms", (char *)NULL);
                _exit(127);
        }
        close(err[1]);
        CHECK(poll(&(struct pollfd){.fd = err[0], .events = POLLIN}, 1, 5000) == 1);
        size_t n = 0;
        for (ssize_t k; n < sizeof said - 1 && (k = read(err[0], said + n, sizeof said - 1 - n)) > 0; n += (size_t)k)
                ;
        CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
        if (WEXITSTATUS(status) == 0 || !strstr(said, "No space left"))
                die("wharfd ended with %d and said: %s", WEXITSTATUS(status), said);
        must(wharf_task_open(NULL, &task), "task");
        must(wharf_port_new(task, NULL, &port), "port");
        int r = wharf_register(task, "exhaust.name", port);
        if (r >= 0)
                die("a name was registered where there is no room for a server");
        if (r != -EHOSTDOWN || !strstr(wharf_why(), "No space left"))
                die("registering a name answers %s (%s)", strerrorname_np(-r), wharf_why());
        empty(file);
        must(wharf_register(task, "exhaust.name", port), "registering a name with room");
        must(wharf_unregister(task, "exhaust.name"), "unregister");
        wharf_task_close(task);
}

/* ---- wharf's own limits ---- */

static void own_port_of(struct wharf_port_opts o)
{
        o.size = sizeof o;
        o.flags = WHARF_PORT_STAYS;
        must(wharf_task_open(NULL, &task), "task");
        must(wharf_port_new(task, &o, &port), "port");
        must(wharf_right_new(task, port, &right), "right");
}

static void one_received(void)
{
        struct wharf_item item;
        struct wharf_msg m = {
                .size = sizeof m, .data = buffer, .cap_bytes = sizeof buffer, .items = &item, .cap_items = 1};
        must(wharf_recvmsg(task, port, &m, 0), "receive");
        if (m.n_items)
                close(item.fd);
}

static void quota_links(void)
{
        wharf_name r[4];
        own_port_of((struct wharf_port_opts){.links_max = 3});
        must(wharf_right_new(task, port, &r[0]), "second");
        must(wharf_right_new(task, port, &r[1]), "third");
        CHECK(wharf_right_new(task, port, &r[2]) == -EMLINK);
        must(wharf_drop(task, r[0]), "drop");
        CHECK(wharf_recv(task, port, buffer, sizeof buffer, NULL, 0) == -EAGAIN); /* it hears of the end */
        must(wharf_right_new(task, port, &r[2]), "with room");
}

static void quota_rights(void)
{
        unsigned n = 0;
        own_port_of((struct wharf_port_opts){.unread_rights_max = 4});
        int r;
        while ((r = op_fd(0)) == 0)
                CHECK(++n <= 300);
        CHECK(r == -ETOOMANYREFS || r == -EAGAIN);
        CHECK(n >= 1);
        for (unsigned i = 0; i < n; i++)
                one_received();
        CHECK(wharf_recv(task, port, buffer, sizeof buffer, NULL, 0) == -EAGAIN);
        must(op_fd(0), "with room");
        one_received();
}

static void quota_bytes(void)
{
        unsigned n = 0;
        own_port_of((struct wharf_port_opts){.capacity_records = WHARF_UNBOUNDED, .link_mapped_bytes_max = 1 << 20});
        int r;
        while ((r = send_it(right, 8 << 10, NULL, 0)) == 0)
                CHECK(++n <= 1000);
        if (n == 0 || r != -EDQUOT)
                die("after %u messages: %s (%s)", n, strerrorname_np(-r), wharf_why());
        for (unsigned i = 0; i < n; i++)
                one_received();
        CHECK(wharf_recv(task, port, buffer, sizeof buffer, NULL, 0) == -EAGAIN);
        must(send_it(right, 8 << 10, NULL, 1000), "with room");
}

static const struct alone {
        const char *op, *shortage;
        void (*run)(void);
        bool mounts; /* as root, in a mount namespace of its own */
} alones[] = {
        {"a segment", "room in /dev/shm", full_segments, true},
        {"wharfd", "room in its directory", full_wharfd, true},
        {"a link", "links of a port", quota_links, false},
        {"a descriptor", "unread rights of a link", quota_rights, false},
        {"a large message", "memory of a link", quota_bytes, false},
};

/* ---- cases ---- */

enum verdict { GOOD, BAD, NOT_HERE };

/* Each in a process of its own, that ends with everything it started. */
static enum verdict in_process(const struct alone *alone, unsigned op, unsigned shortage, unsigned where)
{
        const char *at = "/tmp/wharf-exhaust.XXXXXX";
        snprintf(dir, sizeof dir, "%s", at);
        if (!mkdtemp(dir))
                return BAD;
        snprintf(path, sizeof path, "%s/port", dir);
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
                alarm(CASE_S);
                setpgid(0, 0);
                if (alone && alone->mounts &&
                    (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0))
                        _exit(77);
                if (!alone || !alone->mounts)
                        ordinary_user();
                if (alone)
                        alone->run();
                else
                        run_case(op, shortage, where);
                _exit(0);
        }
        int status = -1;
        setpgid(pid, pid);
        waitpid(pid, &status, 0);
        kill(-pid, SIGKILL); /* its own group: what it left */
        unlink(path);
        rmdir(dir);
        if (WIFSIGNALED(status))
                fprintf(stderr, "exhaust port: %s, %s, %s: %s\n", case_name[0], case_name[1], case_name[2],
                        WTERMSIG(status) == SIGALRM ? "does not end" : strsignal(WTERMSIG(status)));
        return status == 0 ? GOOD : WIFEXITED(status) && WEXITSTATUS(status) == 77 ? NOT_HERE : BAD;
}

int main(int argc, char **argv)
{
        static const char *const wheres[] = {"", "in the holder", "in the owner", "in both"};
        bool quick = false, stop = false, bad = false, verbose = getenv("WHARF_TEST_VERBOSE") != NULL;
        const char *only = NULL;
        unsigned cases = 0, n_ops = sizeof ops / sizeof *ops, n_shortages = sizeof shortages / sizeof *shortages,
                 n_alone = 0;
        for (int i = 1; i < argc; i++) {
                quick |= !strcmp(argv[i], "--quick");
                stop |= !strcmp(argv[i], "--stop");
                if (!strcmp(argv[i], "--only") && i + 1 < argc)
                        only = argv[++i];
        }
        /*
         * Operation by operation, shortage by shortage; the quick tier takes one place for each, the next for the next.
         */
        for (unsigned o = 0; o < n_ops; o++)
                for (unsigned s = 0; s < n_shortages; s++)
                        for (unsigned w = IN_HOLDER; w <= (IN_HOLDER | IN_OWNER) && !(bad && stop); w++) {
                                case_name[0] = ops[o].name;
                                case_name[1] = shortages[s].name;
                                case_name[2] = wheres[w];
                                if ((quick && w != 1 + (o + s) % 3) || (shortages[s].of_user && w == 3) ||
                                    (only && !strstr(ops[o].name, only) && !strstr(shortages[s].name, only)))
                                        continue;
                                if (verbose)
                                        fprintf(stderr, "%s, %s, %s\n", case_name[0], case_name[1], case_name[2]);
                                bad |= in_process(NULL, o, s, w) != GOOD;
                                cases++;
                        }
        for (unsigned i = 0; i < sizeof alones / sizeof *alones && !(bad && stop); i++) {
                case_name[0] = alones[i].op;
                case_name[1] = alones[i].shortage;
                case_name[2] = "alone";
                if (only && !strstr(case_name[0], only) && !strstr(case_name[1], only))
                        continue;
                enum verdict v = in_process(&alones[i], 0, 0, 0);
                bad |= v == BAD;
                cases += v == GOOD;
                n_alone += v == GOOD;
                if (v == NOT_HERE && verbose)
                        fprintf(stderr, "%s, %s: not here: nothing may be mounted\n", case_name[0], case_name[1]);
        }
        if (verbose)
                fprintf(stderr, "memory of a cgroup: not here: at its limit the kernel kills, which is the business of "
                                "`kill`\n");
        printf("exhaust port: operations %u, shortages %u, cases %u%s\n", n_ops + (n_alone > 1), n_shortages + n_alone,
               cases, bad ? ", FAILED" : "");
        return bad;
}
