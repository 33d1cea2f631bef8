/*
 * clocks - environments in which it is another time, or the time jumps.
 */
#include "rows.h"

#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int time_namespace(const char *offsets)
{
        if (access("/proc/self/timens_offsets", F_OK) < 0)
                return row_not_here("time namespaces");
        int r = row_enter(CLONE_NEWTIME, "a time namespace");
        if (r)
                return r;
        if (!row_put("/proc/self/timens_offsets", offsets))
                return row_not_here("timens_offsets");
        return 0;
}

/* A child is the first to be in it. */
int row_later_clock(struct party *p)
{
        int r = time_namespace("monotonic 100000000 5\nboottime 100000000 5\n");
        if (r == 0)
                party_go_on_in_child(p);
        return r;
}

int row_earlier_clock(struct party *p)
{
        struct timespec now;
        char text[96];
        clock_gettime(CLOCK_MONOTONIC, &now);
        snprintf(text, sizeof text, "monotonic -%ld 0\nboottime -%ld 0\n", (long)now.tv_sec - 1, (long)now.tv_sec - 1);
        int r = time_namespace(text);
        if (r == 0)
                party_go_on_in_child(p);
        return r;
}

/*
 * The clock on the wall jumps, in this process alone, for the machine's is everybody's: whoever in this program asks
 * for it is told another year each time, and no call of the kernel may be told to wait by it.
 */
static _Atomic bool wall_jumps;
static _Atomic long wall_asked;

int clock_gettime(clockid_t clock, struct timespec *ts)
{
        int r = (int)syscall(SYS_clock_gettime, clock, ts);
        if (clock != CLOCK_MONOTONIC && clock != CLOCK_MONOTONIC_RAW && clock != CLOCK_MONOTONIC_COARSE &&
            clock != CLOCK_BOOTTIME && clock != CLOCK_PROCESS_CPUTIME_ID && clock != CLOCK_THREAD_CPUTIME_ID &&
            atomic_load(&wall_jumps))
                ts->tv_sec += (atomic_fetch_add(&wall_asked, 1) % 2 ? 1 : -1) * (time_t)365 * 86400;
        return r;
}

int row_wall_clock(struct party *p)
{
        struct sock_filter f[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clock_nanosleep, 4, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_timerfd_create, 3, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_timer_create, 2, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 3, 0),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
                /* The first argument is a clock: not 0, CLOCK_REALTIME. */
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CLOCK_REALTIME, 3, 2),
                /* futex: the second says whether the timeout is of the wall clock. */
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
                BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, FUTEX_CLOCK_REALTIME, 1, 0),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        };
        struct sock_fprog prog = {sizeof f / sizeof *f, f};
        MATRIX_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        MATRIX_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), 0);
        atomic_store(&wall_jumps, true);
        return 0;
}
