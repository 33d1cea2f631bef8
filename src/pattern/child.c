/*
 * child - a program that was started, seen from who started it.
 */
#include "wharf/spawn.h"

#include "os/os.h"
#include "os/spawn.h"
#include "task/why.h"

#include <errno.h>
#include <string.h>

WHARF_API int wharf_child_wait(struct wharf_child *c, int64_t deadline_ns, int *ret_status)
{
        if (!c)
                return wh_fail_null("child");
        if (!ret_status)
                return wh_fail_null("ret_status");
        if (c->size != sizeof *c)
                return wh_fail(-EINVAL, "wharf_child.size is %u, expected %zu", c->size, sizeof *c);
        if (c->pidfd < 0)
                return wh_fail_plain(-EBADF, "this child was waited for already");
        int r, status;
        while ((r = wh_os_reap(c->pidfd, &status)) == -EAGAIN) {
                if (deadline_ns == 0)
                        return wh_fail_plain(-EAGAIN, "the child has not ended, and the deadline is 0");
                if (deadline_ns != WHARF_FOREVER && wh_os_now_ns() >= deadline_ns)
                        return wh_fail_plain(-ETIMEDOUT, "the child did not end until the deadline");
                struct pollfd p = {.fd = c->pidfd, .events = POLLIN};
                wh_os_poll(&p, 1, deadline_ns);
        }
        if (r == -EINTR)
                r = -EAGAIN;
        if (r < 0)
                return wh_fail(r, r == -ECHILD ? "somebody else took its status, or SIGCHLD is ignored" : NULL);
        wh_os_close(c->pidfd);
        c->pidfd = -1;
        *ret_status = status;
        return wh_fail(0, NULL);
}

WHARF_API int wharf_child_kill(const struct wharf_child *c, int signal)
{
        if (!c)
                return wh_fail_null("child");
        if (c->size != sizeof *c)
                return wh_fail(-EINVAL, "wharf_child.size is %u, expected %zu", c->size, sizeof *c);
        int r = c->pidfd < 0 ? -EBADF : wh_os_pidfd_kill(c->pidfd, signal);
        return r == -EBADF   ? wh_fail_plain(r, "this child was waited for already")
               : r == -ESRCH ? wh_fail_plain(r, "the child has ended")
                             : wh_fail(r, "signal %d: %s", signal, strerrordesc_np(-r));
}
