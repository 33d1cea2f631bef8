/*
 * why - what wharf_why() says: one line a thread, set where a public call fails.
 *
 * A call that succeeds leaves it alone: it may be one that a failing call makes on its way out.
 */
#ifndef WH_TASK_WHY_H
#define WH_TASK_WHY_H

#include "base/why.h"
#include "wharf/task.h"

/* Sets the line, if `err` is one, and returns it. A NULL `fmt`: the words for that errno, where nothing else is known. */
__attribute__((format(printf, 2, 3))) int wh_fail(int err, const char *fmt, ...);
/* The same with a line that stays where it is: nothing is written, which is for what fails often. */
int wh_fail_plain(int err, const char *text);

/* What `name` is that a call could not use, and why; for -EBADF and -EPERM, otherwise as wh_fail(err, NULL). right.c */
int wh_fail_at(wharf_task *t, int err, wharf_name name);
/* -EINVAL, where a call was given no place for what it returns, or nothing where it takes something. */
int wh_fail_null(const char *what);
/* `n` bytes or elements at no address. */
int wh_fail_nowhere(const char *what, size_t n);

#endif
