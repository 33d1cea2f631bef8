#include "task/why.h"

#include "wharf/task.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The line, and what it is in where it was put together. */
static __thread const char *why __attribute__((tls_model("initial-exec"))) = "";
static __thread char made[256] __attribute__((tls_model("initial-exec")));

/* One errno a line: its words, alone and with its name. */
#define WORDS(W)                                                                    \
        W(EPIPE, "the receiver is gone")                                            \
        W(ENOTCONN, "no sender is left, and none can come")                         \
        W(ECONNRESET, "the server died before it replied")                          \
        W(ECANCELED, "the request was dropped without a reply")                     \
        W(EAGAIN, "it would have to wait")                                          \
        W(ETIMEDOUT, "the deadline passed")                                         \
        W(EMSGSIZE, "the message is larger than the port takes")                    \
        W(EOVERFLOW, "the message does not fit the buffer")                         \
        W(EBADF, "no right of this task has that name")                             \
        W(EPERM, "this kind of right does not allow that")                          \
        W(ESTALE, "the task belongs to the process before fork()")                  \
        W(ENOENT, "nobody has registered that name")                                \
        W(EEXIST, "somebody else has registered that name")                         \
        W(EPROTO, "the other side broke the protocol")                              \
        W(EPROTONOSUPPORT, "the other side speaks another version of the protocol") \
        W(EMLINK, "the port has as many links as it accepts")                       \
        W(EDQUOT, "the receiver accepts no more from one sender")                   \
        W(EKEYREVOKED, "the receiver has revoked this right")                       \
        W(ENOBUFS, "the receiver maps as much memory as it accepts in all")         \
        W(ETOOMANYREFS, "too many rights are on their way unread")                  \
        W(EMFILE, "this process has no more file descriptors")                      \
        W(ENFILE, "the system has no more file descriptors")                        \
        W(ENOMEM, "out of memory")                                                  \
        W(ENOSPC, "no space left")                                                  \
        W(EINVAL, "an argument makes no sense")                                     \
        W(EBUSY, "it is in use")                                                    \
        W(EHOSTDOWN, "no name server runs, and none could be started")              \
        W(ELOOP, "a receive right cannot be sent into its own queue")               \
        W(EOPNOTSUPP, "shared memory cannot be made here")                          \
        W(ESRCH, "the process is dead")                                             \
        W(EACCES, "this user may not do that")                                      \
        W(EFAULT, "the payload cannot be read")

static const char *words(int err)
{
#define ALONE(number, text) \
        case number:        \
                return text;
        switch (err) {
                WORDS(ALONE)
        default:
                return strerrordesc_np(err) ? strerrordesc_np(err) : "unknown error";
        }
}

int wh_fail_plain(int err, const char *text)
{
        if (err < 0)
                why = text;
        return err;
}

static void put(const char *fmt, va_list ap)
{
        vsnprintf(made, sizeof made, fmt, ap);
        why = made;
}

int wh_fail(int err, const char *fmt, ...)
{
        if (err >= 0)
                return err;
        if (!fmt)
                return wh_fail_plain(err, words(-err));
        va_list ap;
        va_start(ap, fmt);
        put(fmt, ap);
        va_end(ap);
        return err;
}

void wh_set_why(const char *fmt, ...)
{
        va_list ap;
        va_start(ap, fmt);
        put(fmt, ap);
        va_end(ap);
}

int wh_fail_null(const char *what)
{
        return wh_fail(-EINVAL, "%s is NULL", what);
}

int wh_fail_nowhere(const char *what, size_t n)
{
        return wh_fail(-EINVAL, "%s is NULL, and there shall be %zu", what, n);
}

const char *wharf_why(void)
{
        return why;
}

const char *wharf_strerror(int err)
{
        static __thread char other[96] __attribute__((tls_model("initial-exec")));
        unsigned number = err < 0 ? 0u - (unsigned)err : (unsigned)err;
#define WITH_NAME(number, text) \
        case number:            \
                return text " (" #number ")";
        switch (number) {
        case 0:
                return "done";
                WORDS(WITH_NAME)
        default:
                if (number > INT_MAX || !strerrorname_np((int)number))
                        snprintf(other, sizeof other, "unknown error (%d)", err);
                else
                        snprintf(other, sizeof other, "%s (%s)", strerrordesc_np((int)number),
                                 strerrorname_np((int)number));
                return other;
        }
}
