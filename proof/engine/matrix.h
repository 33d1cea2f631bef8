/*
 * matrix - real programs in every environment: one case for each row (an environment) and each workload (an exchange
 * between processes).
 *
 *      static const struct matrix m = {.area = "port", .n_rows = 40, .n_works = 8, .row_name = ..., .run = ...};
 *      return matrix_main(&m, argc, argv);
 *
 * Nothing is hooked: the library is the released one. A case is a process tree of its own, and always looks the same:
 *
 *      driver     forks, and kills the tree when it does not end by itself
 *      case       the first process of a pid namespace, with a /dev/shm, a System V namespace and a directory of its
 *                 own: run() · nothing is left behind?
 *      parties    whom run() forks
 *
 * What is left behind is any descriptor of the case, any process of the namespace, and any file in the directory or in
 * /dev/shm that was not there before. Without the right to make namespaces only descriptors and children are compared.
 */
#ifndef PROOF_ENGINE_MATRIX_H
#define PROOF_ENGINE_MATRIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
        MATRIX_PASSED = 0,
        MATRIX_FAILED = 1,
        MATRIX_NOT_HERE = 77, /* this machine has no such environment: matrix_not_here() */
};

/* What a case is told. */
struct matrix_case {
        unsigned row, work;
        bool quick;
        bool alone; /* asked for by --case: be thorough, and say which part fails */
        uint64_t seed;
        const char *dir; /* the case's own directory; everybody may write there */
        const char *exe; /* this program, at a path in `dir` that everybody may execute */
};

struct matrix {
        const char *area;
        unsigned n_rows, n_works;
        const char *(*row_name)(unsigned row);
        const char *(*work_name)(unsigned work);
        /* Does this pair make sense, and is it in this tier? NULL: yes. */
        bool (*wanted)(const struct matrix_case *c);
        int (*run)(const struct matrix_case *c); /* MATRIX_* */
        const char *program;                     /* one more that is put into `dir`: from this path; or NULL */
        const char *program_name;                /* ... under this name */
        unsigned seconds;                        /* a case that takes longer hangs; default 20 */
};

/* Prints `matrix AREA: rows N, workloads N, passed N`; the exit status. */
int matrix_main(const struct matrix *m, int argc, char **argv);

/* Any process of a case: a line for the case's report, of which the first counts. Safe in threads and after a fork. */
__attribute__((format(printf, 1, 2))) void matrix_say(const char *fmt, ...);
/* The same, for the one line of why an environment is not here: MATRIX_NOT_HERE. */
__attribute__((format(printf, 1, 2))) int matrix_not_here(const char *fmt, ...);
/* The descriptor that matrix_say() writes to, for a program that is executed; -1: standard error. */
int matrix_report_fd(void);
void matrix_report_to(int fd);

/* A failed check says where, and ends the process. */
#define MATRIX_CHECK(cond)                                                               \
        do {                                                                             \
                if (!(cond)) {                                                           \
                        matrix_say("%s:%d: %s", matrix_file(__FILE__), __LINE__, #cond); \
                        matrix_exit(MATRIX_FAILED);                                      \
                }                                                                        \
        } while (0)
#define MATRIX_EQ(a, b)                                                                                             \
        do {                                                                                                        \
                long long a_ = (long long)(a), b_ = (long long)(b);                                                 \
                if (a_ != b_) {                                                                                     \
                        matrix_say("%s:%d: %s == %s: %lld, %lld", matrix_file(__FILE__), __LINE__, #a, #b, a_, b_); \
                        matrix_exit(MATRIX_FAILED);                                                                 \
                }                                                                                                   \
        } while (0)
const char *matrix_file(const char *path);
__attribute__((noreturn)) void matrix_exit(int status);

/* Waits for a child whatever signals come: its exit status, or 128 + the signal that ended it. */
int matrix_wait(pid_t pid);
/* Sleeps, as no cancellation point and whatever signals come. */
void matrix_sleep_us(unsigned us);
unsigned matrix_fds(void);
/* The same, once there are no more than that again; or after 5 s. */
unsigned matrix_fds_left(unsigned before);

#endif
