#include "os/closer.h"

#include "base/bits.h"
#include "os/os.h"
#include "os/receive.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
        CLOSERS_MAX = 16,
        FDS_MAX = 1 << 20, /* as many can wait; descriptors above are closed on the spot */
        IDLE_MS = 50,
        STACK_BYTES = 128 << 10,
        FORK_NS = 5000000,
        FIRST_PAUSE_NS = 10000000, /* of the second thread; twice as much for each, */
        DOUBLINGS = 6,             /* so often */
        ALLOWED_NS = 5000000,      /* C5 */
        SELDOM = 10,               /* of so much time one part at most is spent waiting for what is as good as closed */
};

/* No memory is asked for to be rid of something: one bit for each descriptor that waits. */
static uint64_t waiting[FDS_MAX / 64];
static struct {
        pthread_mutex_t lock; /* not wh_lock(), which sleeps and wakes through the seam */
        uint32_t top;         /* one more than the highest word with a bit */
        uint32_t n;           /* bits */
        uint32_t busy;        /* threads in the middle of a close */
        uint32_t threads;     /* there are */
        long long patient_at; /* nobody waits for them before that */
        _Atomic uint32_t turn;
        _Atomic uint32_t taken; /* descriptors that a thread began to close, so far */
} c = {.lock = PTHREAD_MUTEX_INITIALIZER};
static pthread_once_t once = PTHREAD_ONCE_INIT;

/*
 * Nothing here goes through the seam (os.h): tests that count, refuse and kill at calls mean those of the thread that
 * they look at.
 */
static void wait_turn(uint32_t turn)
{
        struct timespec t = {.tv_nsec = IDLE_MS * 1000000L};
        syscall(SYS_futex, &c.turn, FUTEX_WAIT_PRIVATE, turn, &t, NULL, 0);
}

/* nanosleep() would be a cancellation point, and one call more for a sandbox to let through. */
static void pause_ns(long ns)
{
        static uint32_t never = 0; /* changes */
        syscall(SYS_futex, &never, FUTEX_WAIT_PRIVATE, 0, &(struct timespec){.tv_nsec = ns}, NULL, 0);
}

static void next_turn(int wake)
{
        /* Relaxed: what changed is under the lock. */
        atomic_fetch_add_explicit(&c.turn, 1, memory_order_relaxed);
        syscall(SYS_futex, &c.turn, FUTEX_WAKE_PRIVATE, wake, NULL, NULL, 0);
}

static bool all_closed(long long deadline_ns)
{
        for (;;) {
                pthread_mutex_lock(&c.lock);
                const bool through = !c.n && !c.busy;
                pthread_mutex_unlock(&c.lock);
                if (through || wh_os_now_ns() >= deadline_ns)
                        return through;
                pause_ns(100000);
        }
}

/* C3 */
static void before_fork(void)
{
        all_closed(wh_os_now_ns() + FORK_NS);
        pthread_mutex_lock(&c.lock);
#ifdef __SANITIZE_THREAD__
        /*
         * A child's thread sanitizer still has its parent's threads, and gives up at the first that has the number of
         * one.
         */
        for (int i = 0; c.threads && i < 4 * IDLE_MS; i++) {
                pthread_mutex_unlock(&c.lock);
                pause_ns(1000000);
                pthread_mutex_lock(&c.lock);
        }
        pause_ns(1000000); /* the last one is about to end */
#endif
}

static void after_fork(void)
{
        pthread_mutex_unlock(&c.lock);
}

/* C3 */
static void in_child(void)
{
        memset(waiting, 0, c.top * sizeof *waiting);
        c.top = c.n = c.busy = c.threads = 0;
        pthread_mutex_unlock(&c.lock); /* of before_fork() */
}

static void init(void)
{
        /* A plugin that has this library in itself may be unloaded, but not from under such a thread. */
        Dl_info here;
        if (dladdr(&c, &here) && here.dli_fname)
                (void)dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
        pthread_atfork(before_fork, after_fork, in_child);
}

/* The lock is held. */
static int take_one(void)
{
        for (uint32_t w = 0; w < c.top; w++)
                if (waiting[w]) {
                        int fd = (int)(w * 64) + __builtin_ctzll(waiting[w]);
                        waiting[w] &= waiting[w] - 1;
                        c.n--;
                        /* Relaxed: told apart from what it was, and no more. */
                        atomic_fetch_add_explicit(&c.taken, 1, memory_order_relaxed);
                        return fd;
                }
        c.top = 0;
        return -1;
}

static bool thread_new(void);

/*
 * The first begins at once. Each further one waits a little, since those before it may not sleep but work, and all of them together
 * would leave nobody a processor: so there are many only where something sleeps for long.
 */
static void *closer(void *arg)
{
        const unsigned before = (unsigned)(uintptr_t)arg;
        if (before)
                pause_ns(before < DOUBLINGS ? FIRST_PAUSE_NS << (before - 1) : FIRST_PAUSE_NS << DOUBLINGS);
        pthread_mutex_lock(&c.lock);
        for (bool idle = false;;) {
                int fd = take_one();
                if (fd >= 0) {
                        idle = false;
                        c.busy++;
                        if (c.n && c.threads == c.busy && c.threads < CLOSERS_MAX)
                                thread_new(); /* for the rest: this one may sleep from here on */
                        pthread_mutex_unlock(&c.lock);
                        wh_os_close_now(fd);
                        pthread_mutex_lock(&c.lock);
                        c.busy--;
                        continue;
                }
                if (idle)
                        break;
                uint32_t turn = atomic_load_explicit(&c.turn, memory_order_relaxed);
                pthread_mutex_unlock(&c.lock);
                wait_turn(turn);
                pthread_mutex_lock(&c.lock);
                idle = true;
        }
        c.threads--;
        pthread_mutex_unlock(&c.lock);
        return NULL;
}

/* The lock is held. A thread for what waits, where those that there are sleep in a close. */
static bool thread_new(void)
{
        pthread_t thread;
        pthread_attr_t attr;
        sigset_t all, before;
        size_t stack = STACK_BYTES;
        if (pthread_attr_init(&attr) != 0)
                return false;
        long least = sysconf(_SC_THREAD_STACK_MIN);
        if (least > 0 && stack < (size_t)least * 2)
                stack = (size_t)least * 2;
        sigfillset(&all);
        bool ok = pthread_attr_setstacksize(&attr, stack) == 0 &&
                  pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED) == 0 &&
                  pthread_sigmask(SIG_SETMASK, &all, &before) == 0;
        if (ok) {
                ok = pthread_create(&thread, &attr, closer, (void *)(uintptr_t)c.threads) == 0;
                pthread_sigmask(SIG_SETMASK, &before, NULL);
        }
        pthread_attr_destroy(&attr);
        c.threads += ok;
        return ok;
}

/* C2 */
static void close_later(int fd)
{
        const int saved = errno;
        bool later = false;
        pthread_once(&once, init);
        pthread_mutex_lock(&c.lock);
        if (fd < FDS_MAX) {
                const uint32_t w = (uint32_t)fd / 64;
                wh_os_fd_shared(fd); /* C3: a child does not close it while it is being forked */
                waiting[w] |= (uint64_t)1 << (fd % 64);
                c.top = c.top > w ? c.top : w + 1;
                c.n++;
                later = c.threads > c.busy || (c.threads < CLOSERS_MAX && thread_new()) || c.threads > 0;
                if (!later) {
                        waiting[w] &= ~((uint64_t)1 << (fd % 64));
                        c.n--;
                }
        }
        pthread_mutex_unlock(&c.lock);
        if (later)
                next_turn(1);
        else
                wh_os_close_now(fd); /* C4 */
        errno = saved;
}

/*
 * C1: is it memory of moderate size? The kernel answers without asking a file system. A file of a tmpfs has seals as
 * well, this one and for good, which memory has only where its maker forbade all others.
 */
static bool sleeps_never(int fd)
{
        struct stat st;
        int saved = errno, seals = fcntl(fd, F_GET_SEALS);
        bool never =
                seals >= 0 && seals != F_SEAL_SEAL && fstat(fd, &st) == 0 && st.st_blocks <= WH_OS_AT_ONCE_BYTES / 512;
        errno = saved;
        return never;
}

/*
 * C5. All threads have one allowance for a while. Races between them are harmless: a little more or less is done at once. All of
 * it is relaxed: numbers, by which nothing else is read.
 */
static struct {
        _Atomic int64_t since, spent, again; /* again: not before that */
} allowance;

static bool has_allowance(void)
{
        return wh_os_now_ns() >= atomic_load_explicit(&allowance.again, memory_order_relaxed);
}

static void close_at_once(int fd)
{
        const int64_t began = wh_os_now_ns();
        if (began - atomic_load_explicit(&allowance.since, memory_order_relaxed) >= (int64_t)SELDOM * ALLOWED_NS) {
                atomic_store_explicit(&allowance.since, began, memory_order_relaxed);
                atomic_store_explicit(&allowance.spent, 0, memory_order_relaxed);
        }
        wh_os_close(fd);
        const int64_t now = wh_os_now_ns(), took = now - began;
        const int64_t spent = atomic_fetch_add_explicit(&allowance.spent, took, memory_order_relaxed) + took;
        if (spent >= ALLOWED_NS)
                atomic_store_explicit(&allowance.again, now + SELDOM * spent, memory_order_relaxed);
}

void wh_os_close_theirs(int fd)
{
        if (fd < 0)
                return;
        if (sleeps_never(fd) && has_allowance())
                close_at_once(fd);
        else
                close_later(fd);
}

void wh_os_close_given(int fd)
{
        if (fd < 0)
                return;
        const int other = sleeps_never(fd) ? -1 : wh_os_dup_above(fd, 0);
        wh_os_close(fd);
        wh_os_close_theirs(other);
}

/*
 * C1: has it no name in a file system? Whoever has a copy may have given it one, or made it by accept(). Where that may
 * not be asked (a sandbox), threads cannot be made, either.
 */
static bool has_no_path(int sock)
{
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        socklen_t len = sizeof a;
        const int saved = errno;
        const bool asked = syscall(SYS_getsockname, sock, &a, &len) == 0;
        errno = saved;
        return !asked || len <= offsetof(struct sockaddr_un, sun_path) || !a.sun_path[0];
}

/*
 * Nothing lies in it. It is looked at in two ways, since an empty datagram may have descriptors too, and a look can be
 * made to begin behind it (SO_PEEK_OFF). What nobody else is to read is read, but not what has descriptors: where this
 * process has none left for them the kernel closes them, then and there.
 */
static bool nothing_lies_in(int sock, bool ours)
{
        enum { READS_MAX = 32 };
        char byte;
        int none[1], on = 1, first = -1;
        struct iovec iov = {&byte, 1};
        const int bytes = ours ? 0 : wh_os_inq(sock);
        if (bytes < 0)
                return false;
        /* With this each datagram says whose it is, and the end does not: that tells an empty one from none. */
        wh_os_setsockopt(sock, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
        wh_os_setsockopt(sock, SOL_SOCKET, SO_PEEK_OFF, &first, sizeof first);
        for (int i = 0; i < READS_MAX; i++) {
                struct wh_came came = {.bare = true};
                ssize_t r = wh_os_receive(sock, &iov, 1, MSG_PEEK | MSG_TRUNC, &came);
                if (r == -EAGAIN || (r == 0 && !came.beside))
                        return bytes == 0;
                if (r < 0 || came.all != WH_FDS_ALL)
                        return false;
                if (!ours) /* a greeting, most often; but an empty datagram behind it may have descriptors, and shows nowhere */
                        return false;
                came = (struct wh_came){.fds = none, .room = 0};
                if (wh_os_receive(sock, &iov, 1, 0, &came) < 0)
                        return false;
        }
        return false;
}

void wh_os_close_end(int sock, enum wh_end how)
{
        if (sock < 0)
                return;
        if (how & WH_END_OURS)
                wh_os_shutdown(sock, SHUT_RDWR);
        if ((how & WH_END_ACCEPTED || has_no_path(sock)) && nothing_lies_in(sock, how & WH_END_OURS) && has_allowance())
                close_at_once(sock); /* C5: of a copy all the record locks are looked through that there are on it */
        else
                close_later(sock);
}

/* One socket, by the number that the kernel gives each. */
static bool same_socket(int a, int b)
{
        uint64_t x = 0, y = 0;
        socklen_t len = sizeof x;
        return wh_os_getsockopt(a, SOL_SOCKET, SO_COOKIE, &x, &len) == 0 &&
               wh_os_getsockopt(b, SOL_SOCKET, SO_COOKIE, &y, &len) == 0 && x == y;
}

void wh_os_close_copy(int fd, int kept)
{
        if (fd < 0)
                return;
        /* Of a socket only the last close can sleep. A file's may at any; and to ask a pipe anything takes its lock. */
        if (!sleeps_never(fd) && kept >= 0 && same_socket(fd, kept) && has_allowance())
                close_at_once(fd);
        else
                wh_os_close_theirs(fd);
}

bool wh_os_closer_behind(void)
{
        pthread_mutex_lock(&c.lock);
        bool behind = c.n > 0;
        pthread_mutex_unlock(&c.lock);
        return behind;
}

bool wh_os_closer_catch_up(long long most_ns)
{
        const long long began = wh_os_now_ns();
        pthread_mutex_lock(&c.lock);
        const bool may = (c.n || c.busy) && began >= c.patient_at;
        if (may) /* until it is known how long it takes */
                c.patient_at = began + SELDOM * most_ns;
        pthread_mutex_unlock(&c.lock);
        if (!may)
                return false;
        all_closed(began + most_ns);
        pthread_mutex_lock(&c.lock);
        c.patient_at = began + SELDOM * (wh_os_now_ns() - began);
        pthread_mutex_unlock(&c.lock);
        return true;
}

uint32_t wh_os_closer_taken(void)
{
        return atomic_load_explicit(&c.taken, memory_order_relaxed); /* as above */
}

bool wh_os_closer_rest(long long deadline_ns)
{
        return all_closed(deadline_ns);
}
