/*
 * wait - the clock, and what waits until a deadline: poll, epoll, eventfd, futex.
 */
#include "os/call.h"

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <time.h>

int64_t wh_os_now_ns(void)
{
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t wh_os_thread_ns(void)
{
        struct timespec ts;
        return clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts) == 0 ? ts.tv_sec * 1000000000LL + ts.tv_nsec : 0;
}

uint64_t wh_os_ticks_per_us(void)
{
#if defined(__x86_64__)
        static _Atomic uint64_t known;
        uint64_t v = atomic_load_explicit(&known, memory_order_relaxed);
        if (v)
                return v;
        int64_t n0 = wh_os_now_ns(), n1;
        uint64_t t0 = wh_os_ticks(), t1;
        do {
                n1 = wh_os_now_ns();
                t1 = wh_os_ticks();
        } while (n1 - n0 < 50000);
        v = (t1 - t0) * 1000 / (uint64_t)(n1 - n0);
        v = v ? v : 1;
        atomic_store_explicit(&known, v, memory_order_relaxed);
        return v;
#else
        return 1000;
#endif
}

/* What a `time_t` of 32 bits can hold as well: 31 years. */
#define FARTHEST_NS ((int64_t)1000000000 * 1000000000)

/* NULL for "for ever"; a deadline that is past becomes a zero wait. */
static const struct timespec *time_left(int64_t deadline_ns, struct timespec *buf)
{
        if (deadline_ns == WH_NEVER)
                return NULL;
        int64_t left = deadline_ns <= 0 ? 0 : deadline_ns - wh_os_now_ns();
        left = left < FARTHEST_NS ? left : FARTHEST_NS;
        left = left < 0 ? 0 : left;
        buf->tv_sec = left / 1000000000;
        buf->tv_nsec = left % 1000000000;
        return buf;
}

int wh_os_poll(struct pollfd *fds, unsigned n, int64_t deadline_ns)
{
        struct timespec ts;
        const struct timespec *left = time_left(deadline_ns, &ts);
        return (int)OS_CALL(poll, RAW_PPOLL(fds, n, left, NULL, (size_t)0));
}

int wh_os_epoll(void)
{
        return (int)OS_FD(epoll_create, epoll_create1(EPOLL_CLOEXEC));
}

int wh_os_epoll_add(int ep, int fd, uint32_t events, uint64_t data)
{
        struct epoll_event ev = {.events = events, .data.u64 = data};
        return (int)OS_CALL(epoll_ctl, epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
}

int wh_os_epoll_mod(int ep, int fd, uint32_t events, uint64_t data)
{
        struct epoll_event ev = {.events = events, .data.u64 = data};
        return (int)OS_CALL(epoll_ctl, epoll_ctl(ep, EPOLL_CTL_MOD, fd, &ev));
}

int wh_os_epoll_del(int ep, int fd)
{
        return (int)OS_CALL(epoll_del, epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL));
}

int wh_os_epoll_wait(int ep, struct epoll_event *ev, int n, int64_t deadline_ns)
{
        if (deadline_ns == 0 || deadline_ns == WH_NEVER)
                return (int)OS_CALL(epoll_wait, RAW_EPOLL_WAIT(ep, ev, n, deadline_ns ? -1 : 0, NULL, (size_t)8));
        struct timespec ts;
        const struct timespec *left = time_left(deadline_ns, &ts);
        const struct {
                int64_t sec, nsec;
        } wide = {left->tv_sec, left->tv_nsec}; /* this call takes no other, also where `time_t` has 32 bits */
        int r = (int)OS_CALL(epoll_wait, syscall(SYS_epoll_pwait2, ep, ev, n, &wide, NULL, (size_t)8));
        if (r != -EPERM && r != -ENOSYS)
                return r;
        /* A sandbox that has not heard of it yet: in milliseconds, and not before the deadline. */
        const int64_t ms = (int64_t)left->tv_sec * 1000 + (left->tv_nsec + 999999) / 1000000;
        return (int)OS_CALL(epoll_wait, RAW_EPOLL_WAIT(ep, ev, n, ms < INT_MAX ? (int)ms : INT_MAX, NULL, (size_t)8));
}

int wh_os_eventfd(void)
{
        return (int)OS_FD(eventfd, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

int wh_os_eventfd_set(int fd)
{
        uint64_t one = 1;
        ssize_t r = wh_os_write(fd, &one, sizeof one);
        return r < 0 && r != -EAGAIN ? (int)r : 0; /* -EAGAIN: as full as it can be, so it is set */
}

int wh_os_eventfd_clear(int fd)
{
        uint64_t v;
        ssize_t r = wh_os_read(fd, &v, sizeof v);
        return r < 0 && r != -EAGAIN ? (int)r : 0;
}

int wh_os_futex_wait(_Atomic uint32_t *word, uint32_t expect, int64_t deadline_ns, bool shared)
{
        /* FUTEX_WAIT_BITSET takes an absolute time. */
        struct timespec ts = {0}, *until = NULL;
        if (deadline_ns != WH_NEVER) {
                int64_t d = deadline_ns < 0 ? 0 : deadline_ns < 2 * FARTHEST_NS ? deadline_ns : 2 * FARTHEST_NS;
                ts.tv_sec = d / 1000000000;
                ts.tv_nsec = d % 1000000000;
                until = &ts;
        }
        int op = FUTEX_WAIT_BITSET | (shared ? 0 : FUTEX_PRIVATE_FLAG);
        return (int)OS_CALL(futex_wait, syscall(SYS_futex, word, op, expect, until, NULL, FUTEX_BITSET_MATCH_ANY));
}

int wh_os_futex_wake(_Atomic uint32_t *word, int n, bool shared)
{
        int op = FUTEX_WAKE | (shared ? 0 : FUTEX_PRIVATE_FLAG);
        return (int)OS_CALL(futex_wake, syscall(SYS_futex, word, op, n, NULL, NULL, 0));
}
