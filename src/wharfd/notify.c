#include "wharfd/notify.h"

#include "os/os.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define HOLDER_NS ((int64_t)1000000000) /* for a holder that does not read: then an entry is not kept */

union control {
        struct cmsghdr align;
        char space[CMSG_SPACE(WH_NOTIFY_FDS * sizeof(int))];
};

int wh_notify_try(int fd, const char *text, const int *fds, unsigned n)
{
        union control control;
        struct iovec iov = {(void *)(uintptr_t)text, strlen(text)};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
        assert(n <= WH_NOTIFY_FDS);
        if (n) {
                memset(&control, 0, sizeof control);
                control.align = (struct cmsghdr){
                        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(n * sizeof(int))};
                memcpy(CMSG_DATA(&control.align), fds, n * sizeof(int));
                m.msg_control = control.space;
                m.msg_controllen = CMSG_SPACE(n * sizeof(int));
        }
        ssize_t r;
        do
                r = wh_os_sendmsg(fd, &m, 0);
        while (r == -EINTR);
        return r < 0 ? (int)r : 0;
}

int wh_notify_send(int fd, const char *text, const int *fds, unsigned n)
{
        int64_t give_up_ns = wh_os_now_ns() + HOLDER_NS;
        for (;;) {
                int r = wh_notify_try(fd, text, fds, n);
                if (r != -EAGAIN && r != -ENOBUFS)
                        return r;
                struct pollfd p = {.fd = fd, .events = POLLOUT};
                if (wh_os_now_ns() >= give_up_ns)
                        return -ETIMEDOUT;
                wh_os_poll(&p, 1, give_up_ns);
        }
}

ssize_t wh_notify_recv(int fd, char *text, size_t cap, int *fds, unsigned max, unsigned *ret_n, bool *ret_cut)
{
        union control control;
        struct iovec iov = {text, cap - 1};
        struct msghdr m = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.space,
                           .msg_controllen = CMSG_LEN(max * sizeof(int))};
        assert(max <= WH_NOTIFY_FDS);
        *ret_n = 0;
        ssize_t r = wh_os_recvmsg(fd, &m, 0);
        if (r < 0)
                return r;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                *ret_n = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
                memcpy(fds, CMSG_DATA(c), *ret_n * sizeof(int));
        }
        for (unsigned i = 0; i < *ret_n; i++)
                wh_os_fd_private(fds[i]);
        text[r] = 0;
        *ret_cut = m.msg_flags & (MSG_CTRUNC | MSG_TRUNC);
        return r;
}

void wh_notify(int fd, const char *text)
{
        if (fd >= 0)
                wh_notify_send(fd, text, NULL, 0);
}

int wh_notify_keep(int fd, const char *name, int what)
{
        char text[WH_FD_NAME_MAX + 32];
        snprintf(text, sizeof text, "FDSTORE=1\nFDNAME=%s", name);
        return fd < 0 ? -EBADF : wh_notify_send(fd, text, &what, 1);
}
