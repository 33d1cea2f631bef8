/*
 * common - what several verbs do: open a task, find a name, read a message from standard input, report an error.
 */
#ifndef WHARF_TOOL_COMMON_H
#define WHARF_TOOL_COMMON_H

#include "options.h"
#include "verb.h"
#include "wharf/wharf.h"

#define SIZE_LIMIT_DEFAULT ((uint64_t)1 << 30)

/* Prints "wharf VERB: what: why" for a negative errno of the library, and returns the exit code that fits it. */
int verb_error(const struct verb *v, const char *what, int err);

/* `size_limit` 0 is the default. Answers are exit codes: EXIT_DONE, or the failure, which has been reported. */
int verb_task(const struct verb *v, wharf_task **ret);
/* Waits for somebody to serve `name` until the deadline; 0 asks once. */
int verb_lookup(const struct verb *v, wharf_task *task, const char *name, int64_t deadline_ns, wharf_name *ret);
/* Register, with words for the ways in which it fails. */
int verb_register(const struct verb *v, wharf_task *task, const char *name, wharf_name port);
/*
 * Register again, because wharf_names_fd() is readable or the last attempt failed: *ret_lost says that, and then this
 * is to be called again after VERB_RENEW_MS. Whoever has a right meanwhile still reaches us. Said once, when it begins.
 */
enum { VERB_RENEW_MS = 1000 };
void verb_renew(const struct verb *v, wharf_task *task, bool *ret_lost);
/* All of standard input. free() *ret. Tells on a terminal how far it is when that takes more than a second. */
int verb_read_input(const struct verb *v, uint64_t size_limit, uint8_t **ret, size_t *ret_len);
/*
 * For verbs that print what would be lost otherwise, before they take any of it: a reader that goes away, and a limit
 * of file size, are errors that can be told, and not our death.
 */
int verb_output_begin(const struct verb *v);
/* Write all to standard output, at once. 0 or a negative errno, of which nothing has been said. */
int output_write(const void *data, size_t len);

/* The deadline of a time-out that starts now; WHARF_FOREVER for a negative one. */
int64_t deadline_in(int64_t timeout_ns);
/* A line on standard error for people who wait, drawn over the last one; only on a terminal. "" wipes it. */
__attribute__((format(printf, 1, 2))) void progress(const char *fmt, ...);

#endif
