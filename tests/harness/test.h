/*
 * test - a test registers itself by existing:
 *
 *      TEST(ring_wraps) { CHECK_EQ(a, b); }
 *
 * The engine is the Check library: each test runs in a process of its own, with a time limit, and its crash is a
 * failure. Around each test the harness compares the world before and after: descriptors, mappings made shared, child
 * processes, and names in the folders that all share (/dev/shm, /tmp, /var/tmp, /run), of which each test has its own
 * where that is allowed; $TMPDIR and $XDG_RUNTIME_DIR are its own everywhere. What is left behind fails the test. No
 * process outlives its test: a wharfd that lingers is told to end, and any other one fails the test.
 *
 *      main:   --only PART   run only the tests whose name contains PART      --seed N   replay a random run
 */
#ifndef WH_TEST_H
#define WH_TEST_H

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <check.h>

struct test_case {
        const char *name, *file;
        void (*run)(void);
        int timeout_s; /* if it takes more than the default */
        struct test_case *next;
};
void test_register(struct test_case *t);

/* The seed of this run; printed when a test fails. test_random() is a stream derived from it. */
extern uint64_t test_seed;
uint64_t test_random(void);

#define TEST_TIMEOUT(id, seconds)                                                                               \
        static void id(void);                                                                                   \
        __attribute__((constructor)) static void test_register_##id(void)                                       \
        {                                                                                                       \
                static struct test_case t = {.name = #id, .file = __FILE__, .run = id, .timeout_s = (seconds)}; \
                test_register(&t);                                                                              \
        }                                                                                                       \
        static void id(void)
#define TEST(id) TEST_TIMEOUT(id, 0)

/* A failed check ends the test with file and line; in a process that the test forked, it ends that with status 99. */
__attribute__((noreturn, format(printf, 3, 4))) void test_fail(const char *file, int line, const char *fmt, ...);

#define CHECK(cond)                                                 \
        do {                                                        \
                if (!(cond))                                        \
                        test_fail(__FILE__, __LINE__, "%s", #cond); \
        } while (0)
#define CHECK_OP(a, op, b)                                                                          \
        do {                                                                                        \
                long long a_ = (long long)(a), b_ = (long long)(b);                                 \
                if (!(a_ op b_))                                                                    \
                        test_fail(__FILE__, __LINE__, "%s " #op " %s: %lld, %lld", #a, #b, a_, b_); \
        } while (0)
#define CHECK_EQ(a, b) CHECK_OP(a, ==, b)
#define CHECK_NE(a, b) CHECK_OP(a, !=, b)
#define CHECK_GE(a, b) CHECK_OP(a, >=, b)
#define CHECK_LE(a, b) CHECK_OP(a, <=, b)
#define CHECK_STR(a, b)                                                                                   \
        do {                                                                                              \
                const char *a_ = (a), *b_ = (b);                                                          \
                if (!a_ || !b_ || strcmp(a_, b_))                                                         \
                        test_fail(__FILE__, __LINE__, "%s: \"%s\" is not \"%s\"", #a, a_ ? a_ : "(null)", \
                                  b_ ? b_ : "(null)");                                                    \
        } while (0)
#define CHECK_MEM(a, b, n)                                                         \
        do {                                                                       \
                if (memcmp((a), (b), (n)))                                         \
                        test_fail(__FILE__, __LINE__, "%s and %s differ", #a, #b); \
        } while (0)

/* Built with the thread sanitizer, which owns parts of the address space and takes many times as long. */
#ifdef __SANITIZE_THREAD__
#define TEST_TSAN 1
#else
#define TEST_TSAN 0
#endif

#ifdef __SANITIZE_ADDRESS__
#define TEST_ASAN 1
#else
#define TEST_ASAN 0
#endif

/* A test that cannot run here says why, counts as skipped, and is printed as such. */
__attribute__((noreturn, format(printf, 1, 2))) void test_skip(const char *fmt, ...);

/* Whether a program runs this one instruction by instruction (qemu-user), and some of the kernel is missing therefore. */
bool test_emulated(void);

/* For tests that look at other processes, or at what this one has open. A plain chroot may have no /proc. */
static inline void test_need_proc(void)
{
        if (access("/proc/self/fd", F_OK) < 0)
                test_skip("needs /proc, which is not mounted here");
}

/* Run `fn(arg)` in a forked process; its return value is the exit status. */
pid_t test_fork(int (*fn)(void *arg), void *arg);
/* Waits; returns the exit status, or 128 + signal. */
int test_wait(pid_t pid);
/* Become an ordinary user for the rest of this process (uid and gid 65534), when root. */
void test_drop_root(void);
/* Shared between this process and those it forks; zeroed; gone with them. */
void *test_shared(size_t len);
/* The test's directory, which all may write to; removed with all it holds. */
const char *test_dir(void);

#endif
