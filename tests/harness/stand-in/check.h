/*
 * check.h - as much of the Check library as test.c uses, for machines that wharf is only cross-compiled for: what that
 * library needs would have to be installed for them, too. A test runs in a process and process group of its own.
 */
#ifndef WH_STAND_IN_CHECK_H
#define WH_STAND_IN_CHECK_H

enum print_output { CK_NORMAL, CK_VERBOSE };

typedef struct TTest {
        const char *name;
        void (*fn)(int);
        const char *file;
        int line;
} TTest;
typedef struct TCase TCase;
typedef struct Suite Suite;
typedef struct SRunner SRunner;

Suite *suite_create(const char *name);
TCase *tcase_create(const char *name);
void tcase_set_timeout(TCase *tc, double seconds);
void _tcase_add_test(TCase *tc, const TTest *test, int signal, int exit_value, int from, int to);
void suite_add_tcase(Suite *s, TCase *tc);
SRunner *srunner_create(Suite *s);
void srunner_run_all(SRunner *sr, enum print_output how);
int srunner_ntests_failed(SRunner *sr);
int srunner_ntests_run(SRunner *sr);
void srunner_free(SRunner *sr);

/* Says where and why, and ends the process of the test. */
__attribute__((noreturn, format(printf, 4, 5))) void _ck_assert_failed(const char *file, int line, const char *expr,
                                                                       const char *fmt, ...);

#endif
