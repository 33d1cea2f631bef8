#include "link/direct.h"

#include "base/bits.h"
#include "base/trace.h"
#include "os/os.h"
#include "task/ids.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* ---- the sender ---- */

int wh_direct_obstacle(const struct wh_link *l, const struct wh_outgoing *o, int64_t deadline_ns)
{
        if (l->out.direct_refused)
                return l->out.direct_refused;
        if (deadline_ns == 0)
                return -EAGAIN;
        if (o->n_items || o->slot >= 0 || o->len == 0)
                return -EINVAL;
        return l->once || l->out.no_lane ? -EOPNOTSUPP : 0;
}

const char *wh_direct_why(int err)
{
        switch (err) {
        case -EPERM:
                return "not sent directly: the kernel does not let the receiver read this process's memory (Yama, a "
                       "process that is not dumpable, or a sandbox)";
        case -EACCES:
                return "not sent directly: the receiver is another user";
        case -ENOPROTOOPT:
                return "not sent directly: the receiver's port was made without WHARF_PORT_DIRECT";
        case -ESRCH:
                return "not sent directly: the kernel does not tell the receiver which process this is (another pid "
                       "namespace)";
        case -ENOSYS:
                return "not sent directly: the receiver's kernel or sandbox has no process_vm_readv()";
        case -EAGAIN:
                return "not sent directly: that waits until the receiver has read it, and the deadline is 0";
        case -EINVAL:
                return "not sent directly: it has no bytes, carries rights, or was reserved";
        case -EOPNOTSUPP:
                return "not sent directly: this link has no shared memory";
        default:
                return "not sent directly: the receiver could not read it";
        }
}

/* ---- the receiver ---- */

enum way { READ, WRITE };

static int transfer(struct wh_link *l, enum way way, uint64_t at, void *here, uint64_t len)
{
        int pidfd;
        struct ucred maker = {.uid = (uid_t)-1};
        socklen_t len_maker = sizeof maker;
        if (!wh_known_surely(l->who.known) || l->cred.pid <= 0)
                return -ESRCH;
        /* Both that user's, whoever it was as which it made the pair, and this one: nothing ever crosses users. */
        if (!wh_id_known(l->cred.uid) || l->cred.uid != wh_os_getuid() ||
            wh_os_getsockopt(l->sock, SOL_SOCKET, SO_PEERCRED, &maker, &len_maker) < 0 || maker.uid != wh_os_geteuid())
                return -EACCES;
        int r = wh_link_pidfd(l, &pidfd);
        if (r < 0)
                return r == -EMFILE || r == -ENFILE ? -ENOMEM : r;
        struct pollfd p[2] = {{.fd = pidfd, .events = POLLIN}, {.fd = l->sock}};
        for (uint64_t done = 0; r == 0 && done < len;) {
                uint64_t n = len - done < (1u << 30) ? len - done : 1u << 30;
                struct iovec mine = {(uint8_t *)here + done, n}, its = {(void *)(uintptr_t)(at + done), n};
                ssize_t k;
                if (way == WRITE && wh_os_poll(p, 1, 0) != 0)
                        k = -ESRCH; /* D1: what was written cannot be dropped like what was read */
                else if (way == WRITE)
                        k = wh_os_process_vm_writev(l->cred.pid, &mine, 1, &its, 1);
                else
                        k = wh_os_process_vm_readv(l->cred.pid, &mine, 1, &its, 1);
                if (k > 0)
                        done += (uint64_t)k;
                else if (k != -EINTR)
                        r = k == 0 ? -EFAULT : (int)k;
        }
        /* V3: whoever has that number was the maker of the link before the transfer, and still is after it. */
        if (wh_os_poll(p, 2, 0) != 0)
                r = -ESRCH;
        wh_os_close(pidfd);
        return r;
}

int wh_direct_read(struct wh_link *l, uint64_t at, void *to, uint64_t len)
{
        return transfer(l, READ, at, to, len);
}

int wh_direct_write(struct wh_link *l, uint64_t at, const void *from, uint64_t len)
{
        return transfer(l, WRITE, at, (void *)(uintptr_t)from, len);
}

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

int wh_link_pidfd(struct wh_link *l, int *ret)
{
        int fd = -1;
        socklen_t len = sizeof fd;
        struct ucred maker = {0};
        socklen_t maker_len = sizeof maker;
        /* The pair was made by its sender at the rebind: the kernel remembers that very process, not its number. */
        int r = wh_os_getsockopt(l->sock, SOL_SOCKET, SO_PEERCRED, &maker, &maker_len);
        if (r < 0 || !wh_known_surely(l->who.known) || l->cred.pid <= 0 || maker.pid != l->cred.pid)
                return -ESRCH;
        r = wh_os_getsockopt(l->sock, SOL_SOCKET, SO_PEERPIDFD, &fd, &len);
        if (r == -ENOPROTOOPT || r == -EINVAL) {
                fd = wh_os_pidfd_open(l->cred.pid);
                struct pollfd p = {.fd = l->sock};
                r = fd < 0 ? fd : wh_os_poll(&p, 1, 0) > 0 && p.revents & POLLHUP ? -ESRCH : 0;
                if (r < 0)
                        wh_os_close(fd);
        }
        struct pollfd dead = {.fd = fd, .events = POLLIN};
        if (r == 0 && wh_os_poll(&dead, 1, 0) != 0) {
                wh_os_close(fd); /* later kernels hand out pidfds of the dead as well */
                r = -ESRCH;
        }
        if (r == 0)
                *ret = fd;
        return r;
}
