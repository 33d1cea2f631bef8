#include "port/why.h"

#include "wharf/task.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static __thread char why[256] __attribute__((tls_model("initial-exec")));

int wh_fail(int err, const char *fmt, ...)
{
        if (!fmt) {
                why[0] = 0;
                return err;
        }
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(why, sizeof why, fmt, ap);
        va_end(ap);
        return err;
}

void wh_set_why(const char *fmt, ...)
{
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(why, sizeof why, fmt, ap);
        va_end(ap);
}

const char *wharf_why(void)
{
        return why;
}

const char *wharf_strerror(int err)
{
        switch (err < 0 ? -err : err) {
        case 0:
                return "done";
        case EPIPE:
                return "the receiver is gone";
        case ENOTCONN:
                return "no sender is left, and none can come";
        case ECONNRESET:
                return "the server died before it replied";
        case ECANCELED:
                return "the request was dropped without a reply";
        case EAGAIN:
                return "it would have to wait";
        case ETIMEDOUT:
                return "the deadline passed";
        case EMSGSIZE:
                return "the message is larger than the port takes";
        case EOVERFLOW:
                return "the message does not fit the buffer";
        case EBADF:
                return "no right of this task has that name";
        case EPERM:
                return "this kind of right does not allow that";
        case ESTALE:
                return "the task belongs to the process before fork()";
        case ENOENT:
                return "nobody has registered that name";
        case EEXIST:
                return "somebody else has registered that name";
        case EPROTO:
                return "the other side broke the protocol";
        case EPROTONOSUPPORT:
                return "the other side speaks another version of the protocol";
        case EMLINK:
                return "the port has as many links as it accepts";
        case EDQUOT:
                return "the receiver accepts no more from one sender";
        case EKEYREVOKED:
                return "the receiver has revoked this right";
        case ENOBUFS:
                return "the receiver maps as much memory as it accepts in all";
        case ETOOMANYREFS:
                return "too many rights are on their way unread";
        case EMFILE:
                return "this process has no more file descriptors";
        case ENFILE:
                return "the system has no more file descriptors";
        case ENOMEM:
                return "out of memory";
        case ENOSPC:
                return "no space left";
        case EINVAL:
                return "an argument makes no sense";
        case EBUSY:
                return "it is in use";
        case EHOSTDOWN:
                return "no name server runs, and none could be started";
        case ELOOP:
                return "a receive right cannot be sent into its own queue";
        case EOPNOTSUPP:
                return "shared memory cannot be made here";
        case ESRCH:
                return "the process is dead";
        default:
                return strerrordesc_np(err < 0 ? -err : err) ? strerrordesc_np(err < 0 ? -err : err) : "unknown error";
        }
}
