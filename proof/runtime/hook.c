#include "hook.h"

#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HOOK_KEEP_NAMES
#include "hooked.h"

bool hook_armed_;
bool hook_keep_on_fork;
pid_t hook_pid;
uint64_t hook_random_seed;
uint8_t hook_fill_allocations;
void (*hook_on_send)(const void *bytes, size_t len);
const struct hook_memory *hook_memory;
bool (*hook_on_wait)(void);
void (*hook_on_ready)(void);

static struct hook_range ranges[HOOK_RANGES];
static unsigned n_ranges;
static uintptr_t lowest = UINTPTR_MAX, highest; /* every range lies between them: the first and cheapest filter */
static hook_handler *the_handler;
static uint64_t n_steps;
static __thread bool is_armed_thread;
static __thread bool in_handler;
static int64_t live_allocations;

enum { PAGE = 4096, FILL_MAX = 1 << 20, SANITIZED_MAX = 1 << 28 };

/* ---- ranges ---- */

static void bounds_renew(void)
{
        lowest = UINTPTR_MAX;
        highest = 0;
        for (unsigned i = 0; i < n_ranges; i++) {
                uintptr_t lo = (uintptr_t)ranges[i].at, hi = lo + ranges[i].len;
                lowest = lo < lowest ? lo : lowest;
                highest = hi > highest ? hi : highest;
        }
}

static void range_add(struct hook_range r)
{
        /* A table that is too small would make the proofs blind without a word. */
        if (n_ranges == HOOK_RANGES) {
                static const char msg[] = "proof: more shared mappings than HOOK_RANGES\n";
                (void)!write(2, msg, sizeof msg - 1);
                abort();
        }
        ranges[n_ranges++] = r;
        bounds_renew();
}

void hook_share(void *at, size_t len)
{
        range_add((struct hook_range){.at = at, .len = len, .writable = true});
}

/* Cuts [at, at + len) out of every range: a range that is cut in its middle becomes two. */
void hook_unshare(const void *at, size_t len)
{
        uintptr_t lo = (uintptr_t)at, hi = lo + len;
        for (unsigned i = 0; i < n_ranges;) {
                struct hook_range r = ranges[i];
                uintptr_t rlo = (uintptr_t)r.at, rhi = rlo + r.len;
                if (hi <= rlo || rhi <= lo) {
                        i++;
                        continue;
                }
                ranges[i] = ranges[--n_ranges];
                if (rlo < lo) {
                        struct hook_range left = r;
                        left.guarded = false;
                        left.len = lo - rlo;
                        range_add(left);
                }
                if (hi < rhi) {
                        struct hook_range right = r;
                        right.guarded = false;
                        right.at += hi - rlo;
                        right.len = rhi - hi;
                        right.off += (int64_t)(hi - rlo);
                        range_add(right);
                }
        }
        bounds_renew();
}

const struct hook_range *hook_ranges(unsigned *ret_n)
{
        *ret_n = n_ranges;
        return ranges;
}

struct hook_range *hook_range_of(const void *at)
{
        static unsigned last;
        uintptr_t a = (uintptr_t)at;
        if (a < lowest || a >= highest)
                return NULL;
        if (last < n_ranges && a - (uintptr_t)ranges[last].at < ranges[last].len)
                return &ranges[last];
        for (unsigned i = 0; i < n_ranges; i++)
                if (a - (uintptr_t)ranges[i].at < ranges[i].len) {
                        last = i;
                        return &ranges[i];
                }
        return NULL;
}

void *hook_writable(void *at)
{
        const struct hook_range *r = hook_range_of(at);
        if (!r || r->writable)
                return r ? at : NULL;
        int64_t off = r->off + ((uint8_t *)at - r->at);
        for (unsigned i = 0; i < n_ranges && r->ino; i++) {
                const struct hook_range *o = &ranges[i];
                if (o->writable && o->ino == r->ino && o->dev == r->dev && off >= o->off &&
                    (uint64_t)(off - o->off) < o->len)
                        return o->at + (off - o->off);
        }
        return NULL;
}

/* In a forked child: what the kernel left behind with the parent is no range here. */
static void forget_what_was_not_inherited(void)
{
        for (unsigned i = 0; i < n_ranges;)
                if (ranges[i].not_inherited)
                        ranges[i] = ranges[--n_ranges];
                else
                        i++;
        bounds_renew();
}

/* ---- steps ---- */

static int gate(enum wh_os_call call)
{
        if (!hook_armed_ || !is_armed_thread || in_handler)
                return 0;
        struct hook_step s = {.kind = HOOK_CALL, .call = (int)call, .number = n_steps++};
        s.site = __builtin_return_address(0);
        in_handler = !hook_memory; /* the explorer goes on with another party in there */
        int r = the_handler(&s);
        in_handler = false;
        return r;
}

__attribute__((constructor)) static void set_gate(void)
{
        wh_os_gate = gate;
        pthread_atfork(NULL, NULL, forget_what_was_not_inherited);
}

void hook_arm(hook_handler *handler)
{
        the_handler = handler;
        n_steps = 0;
        is_armed_thread = true;
        hook_armed_ = true;
}

uint64_t hook_disarm(void)
{
        hook_armed_ = false;
        is_armed_thread = false;
        return n_steps;
}

uint64_t hook_steps(void)
{
        return n_steps;
}

void hook_access_(enum hook_kind kind, void *addr, size_t len, bool atomic, int order, void *site)
{
        struct hook_range *range = NULL;
        if (kind != HOOK_FENCE) {
                uintptr_t a = (uintptr_t)addr;
                if (a >= highest || a + len <= lowest)
                        return;
                range = hook_range_of(addr);
                if (!range)
                        return;
        }
        if (!is_armed_thread || in_handler)
                return;
        struct hook_step s = {
                .kind = kind,
                .atomic = atomic,
                .order = order,
                .call = -1,
                .addr = addr,
                .len = len,
                .range = range,
                .number = n_steps++,
                .site = site,
        };
        in_handler = !hook_memory; /* the explorer goes on with another party in there */
        the_handler(&s);
        in_handler = false;
}

static void hook_received_(void *bytes, size_t len, struct msghdr *m, ssize_t *received, bool peeked, void *site)
{
        if (!hook_armed_ || !is_armed_thread || in_handler)
                return;
        struct hook_step s = {.kind = HOOK_RECEIVED,
                              .call = -1,
                              .addr = bytes,
                              .len = len,
                              .number = n_steps++,
                              .site = site,
                              .msg = m,
                              .received = received,
                              .peeked = peeked};
        in_handler = !hook_memory; /* the explorer goes on with another party in there */
        the_handler(&s);
        in_handler = false;
}

/* ---- what libc does for the code under proof ---- */

#define SITE __builtin_return_address(0)

static bool is_shared_now(const void *p)
{
        return hook_armed_ && hook_range_of(p);
}

/* The piece that copies are cut into: a multiple of 8, so that whole words stay whole. */
static size_t piece_of(size_t n)
{
        size_t piece = (n + HOOK_COPY_PIECES - 1) / HOOK_COPY_PIECES;
        return piece <= 8 ? 8 : (piece + 7) & ~(size_t)7;
}

void *hook_memcpy(void *to, const void *from, size_t n)
{
        bool to_shared = is_shared_now(to), from_shared = is_shared_now(from);
        if (!to_shared && !from_shared) {
                /* The address sanitizer looks at this call by itself, in the build that has one. */
                memcpy(to, from, n);
                return to;
        }
        size_t piece = piece_of(n);
        for (size_t at = 0; at < n; at += piece) {
                size_t k = n - at < piece ? n - at : piece;
                if (from_shared)
                        hook_access(HOOK_LOAD, (const uint8_t *)from + at, k, false, 0, SITE);
                if (to_shared)
                        hook_access(HOOK_STORE, (uint8_t *)to + at, k, false, 0, SITE);
                memcpy((uint8_t *)to + at, (const uint8_t *)from + at, k);
        }
        return to;
}

void *hook_memmove(void *to, const void *from, size_t n)
{
        uintptr_t t = (uintptr_t)to, f = (uintptr_t)from;
        if (t + n <= f || f + n <= t)
                return hook_memcpy(to, from, n);
        if (n && is_shared_now(from))
                hook_access(HOOK_LOAD, from, n, false, 0, SITE);
        if (n && is_shared_now(to))
                hook_access(HOOK_STORE, to, n, false, 0, SITE);
        return memmove(to, from, n);
}

void *hook_memset(void *to, int byte, size_t n)
{
        if (!is_shared_now(to)) {
                memset(to, byte, n);
                return to;
        }
        size_t piece = piece_of(n);
        for (size_t at = 0; at < n; at += piece) {
                size_t k = n - at < piece ? n - at : piece;
                hook_access(HOOK_STORE, (uint8_t *)to + at, k, false, 0, SITE);
                memset((uint8_t *)to + at, byte, k);
        }
        return to;
}

int hook_memcmp(const void *a, const void *b, size_t n)
{
        if (n && is_shared_now(a))
                hook_access(HOOK_LOAD, a, n, false, 0, SITE);
        if (n && is_shared_now(b))
                hook_access(HOOK_LOAD, b, n, false, 0, SITE);
        return memcmp(a, b, n);
}

void *hook_malloc(size_t size)
{
        /*
         * With sanitizers what a peer claims is paid for in shadow memory, which is touched: beyond this there is none.
         */
        if (!hook_sees_atomics && size > SANITIZED_MAX)
                return NULL;
        void *p = malloc(size);
        if (p && hook_fill_allocations) /* a peer may have said how much: what is not looked at must not become real */
                memset(p, hook_fill_allocations, size < FILL_MAX ? size : FILL_MAX);
        live_allocations += p != NULL;
        return p;
}

void *hook_calloc(size_t n, size_t size)
{
        void *p = calloc(n, size);
        live_allocations += p != NULL;
        return p;
}

void *hook_realloc(void *p, size_t size)
{
        void *q = realloc(p, size);
        live_allocations += !p && q;
        return q;
}

void hook_free(void *p)
{
        live_allocations -= p != NULL;
        free(p);
}

int64_t hook_live_allocations(void)
{
        return live_allocations;
}

static void range_from_fd(void *at, size_t len, int prot, int fd, off_t off)
{
        struct hook_range r = {.at = at, .len = len, .off = off, .writable = prot & PROT_WRITE};
        struct stat st;
        if (fd >= 0 && fstat(fd, &st) == 0) {
                r.dev = st.st_dev;
                r.ino = st.st_ino;
                int seals = fcntl(fd, F_GET_SEALS);
                r.immutable = seals >= 0 && seals & F_SEAL_WRITE;
        }
        range_add(r);
}

/*
 * Shared mappings get a page on either side that nothing can touch: an access beyond the end is a crash rather than a
 * look at whatever the kernel happened to put there.
 */
void *hook_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off)
{
        if ((flags & MAP_TYPE) != MAP_SHARED && (flags & MAP_TYPE) != MAP_SHARED_VALIDATE)
                return mmap(at, len, prot, flags, fd, off);
        void *p;
        if (at || !len || len > SIZE_MAX / 2 || (flags & MAP_FIXED)) {
                p = mmap(at, len, prot, flags, fd, off);
        } else {
                size_t body = (len + PAGE - 1) & ~(size_t)(PAGE - 1);
                uint8_t *guarded = mmap(NULL, body + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                if (guarded == MAP_FAILED)
                        return MAP_FAILED;
                p = mmap(guarded + PAGE, len, prot, flags | MAP_FIXED, fd, off);
                if (p == MAP_FAILED) {
                        int saved = errno;
                        munmap(guarded, body + 2 * PAGE);
                        errno = saved;
                }
        }
        if (p != MAP_FAILED) {
                range_from_fd(p, len, prot, fd, off);
                ranges[n_ranges - 1].guarded = !at && len && !(flags & MAP_FIXED);
        }
        return p;
}

int hook_munmap(void *p, size_t len)
{
        const struct hook_range *was = hook_range_of(p);
        size_t body = (len + PAGE - 1) & ~(size_t)(PAGE - 1);
        bool guarded = was && was->guarded && was->at == p && ((was->len + PAGE - 1) & ~(size_t)(PAGE - 1)) == body;
        int r = munmap(p, len);
        if (r == 0 && guarded) { /* an execution more or less would not matter, but there are millions */
                munmap((uint8_t *)p - PAGE, PAGE);
                munmap((uint8_t *)p + body, PAGE);
        }
        if (r == 0)
                hook_unshare(p, (len + PAGE - 1) & ~(size_t)(PAGE - 1));
        return r;
}

int hook_madvise(void *p, size_t len, int advice)
{
        if (hook_keep_on_fork && (advice == MADV_DONTFORK || advice == MADV_WIPEONFORK))
                return 0;
        if (advice == MADV_DONTFORK && hook_range_of(p)) {
                int r = madvise(p, len, advice);
                if (r == 0)
                        hook_range_of(p)->not_inherited = true;
                return r;
        }
        return madvise(p, len, advice);
}

void *hook_mremap(void *p, size_t old_len, size_t len, int flags)
{
        struct hook_range *r = hook_range_of(p), was = r ? *r : (struct hook_range){0};
        void *q = mremap(p, old_len, len, flags);
        if (q != MAP_FAILED && r) {
                hook_unshare(p, old_len);
                was.at = q;
                was.len = len;
                was.guarded = false;
                range_add(was);
        }
        return q;
}

void *hook_shmat(int id, const void *at, int flags)
{
        void *p = shmat(id, at, flags);
        struct shmid_ds ds;
        if (p != (void *)-1 && shmctl(id, IPC_STAT, &ds) == 0)
                range_add((struct hook_range){
                        .at = p, .len = ds.shm_segsz, .ino = (uint64_t)id + 1, .writable = !(flags & SHM_RDONLY)});
        return p;
}

int hook_shmdt(const void *p)
{
        const struct hook_range *r = hook_range_of(p);
        size_t len = r ? r->len : 0;
        int result = shmdt(p);
        if (result == 0 && len)
                hook_unshare(p, len);
        return result;
}

pid_t hook_getpid(void)
{
        return hook_pid ? hook_pid : getpid();
}

/*
 * While armed, every look at the clock finds that a few microseconds have passed: what spins for a time then spins for
 * a number of steps, and a case takes the same steps whenever it runs.
 */
uint64_t hook_ticks(void)
{
        static uint64_t now;
#if defined(__x86_64__)
        uint64_t real = __builtin_ia32_rdtsc();
#else
        uint64_t real = (uint64_t)wh_os_now_ns();
#endif
        now = !hook_armed_ ? 0 : now ? now + 20000 : real;
        return now ? now : real;
}

ssize_t hook_getrandom(void *to, size_t n, unsigned flags)
{
        if (!hook_random_seed)
                return getrandom(to, n, flags);
        for (size_t i = 0; i < n; i++) {
                hook_random_seed = hook_random_seed * 6364136223846793005u + 1442695040888963407u;
                ((uint8_t *)to)[i] = (uint8_t)(hook_random_seed >> 56);
        }
        return (ssize_t)n;
}

/* A datagram is something a peer wrote, too: a step over the bytes that came. */
ssize_t hook_recvmsg(int fd, struct msghdr *m, int flags)
{
        ssize_t n = recvmsg(fd, m, flags);
        size_t left = n > 0 ? (size_t)n : 0;
        ssize_t came = n;
        for (size_t i = 0; i < m->msg_iovlen && left; i++) {
                size_t k = m->msg_iov[i].iov_len < left ? m->msg_iov[i].iov_len : left;
                hook_received_(m->msg_iov[i].iov_base, k, i ? NULL : m, i ? NULL : &n, flags & MSG_PEEK, SITE);
                left -= k;
                if (n != came)
                        break; /* what follows was made to have never come */
        }
        return n;
}

ssize_t hook_sendmsg(int fd, const struct msghdr *m, int flags)
{
        if (hook_on_send && hook_armed_)
                for (size_t i = 0; i < m->msg_iovlen; i++)
                        hook_on_send(m->msg_iov[i].iov_base, m->msg_iov[i].iov_len);
        return sendmsg(fd, m, flags);
}

/* What a call that may wait answers, when it is only ever asked what is ready now. `look` makes the call so. */
static long wait_modelled(long (*look)(void *arg), void *arg, bool may_wait, bool for_ever)
{
        for (;;) {
                long n = look(arg);
                if (n > 0)
                        hook_on_ready();
                if (n != 0 || !may_wait || !for_ever)
                        return n; /* a deadline is reached at once: nothing else takes time here */
                if (!hook_on_wait()) {
                        errno = EINTR;
                        return -1;
                }
        }
}

struct ppoll_args {
        struct pollfd *fds;
        unsigned n;
};

static long ppoll_look(void *arg)
{
        const struct ppoll_args *a = arg;
        return poll(a->fds, a->n, 0);
}

long hook_ppoll(struct pollfd *fds, unsigned n, const struct timespec *left, const void *mask, size_t mask_len)
{
        if (!hook_on_wait || !hook_armed_)
                return syscall(SYS_ppoll, fds, n, left, mask, mask_len);
        return wait_modelled(ppoll_look, &(struct ppoll_args){fds, n}, !left || left->tv_sec || left->tv_nsec, !left);
}

struct epoll_args {
        int ep, n;
        struct epoll_event *ev;
};

static long epoll_look(void *arg)
{
        const struct epoll_args *a = arg;
        return epoll_wait(a->ep, a->ev, a->n, 0);
}

long hook_epoll_wait(int ep, struct epoll_event *ev, int n, int ms, const void *mask, size_t mask_len)
{
        if (!hook_on_wait || !hook_armed_)
                return syscall(SYS_epoll_pwait, ep, ev, n, ms, mask, mask_len);
        return wait_modelled(epoll_look, &(struct epoll_args){ep, n, ev}, ms != 0, ms < 0);
}
