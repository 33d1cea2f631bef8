/*
 * socket - Unix sockets.
 */
#include "os/call.h"

#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/un.h>

int wh_os_socketpair(int ret[2])
{
        int sv[2];
        int r = (int)OS_FD(socketpair, socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
        if (r == 0) {
                ret[0] = sv[0];
                ret[1] = sv[1];
        }
        return r;
}

int wh_os_socket_unix(int type)
{
        return (int)OS_FD(socket, socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

/* The address's length. A path that begins with '@' is an abstract name: no file. */
static int unix_address(const char *path, struct sockaddr_un *ret)
{
        size_t n = strlen(path);
        if (n >= sizeof ret->sun_path)
                return -ENAMETOOLONG;
        *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
        memcpy(ret->sun_path, path, n + 1);
        if (*path != '@')
                return sizeof *ret;
        ret->sun_path[0] = 0;
        return (int)(offsetof(struct sockaddr_un, sun_path) + n);
}

int wh_os_bind_unix(int fd, const char *path)
{
        struct sockaddr_un sa;
        int r = unix_address(path, &sa);
        return r < 0 ? r : (int)OS_CALL(bind, bind(fd, (struct sockaddr *)&sa, (socklen_t)r));
}

int wh_os_connect_unix(int fd, const char *path)
{
        struct sockaddr_un sa;
        int r = unix_address(path, &sa);
        return r < 0 ? r : (int)OS_CALL(connect, RAW(connect, fd, &sa, (socklen_t)r));
}

int wh_os_listen(int fd, int backlog)
{
        return (int)OS_CALL(listen, listen(fd, backlog));
}

int wh_os_accept(int fd)
{
        return (int)OS_FD(accept, RAW(accept4, fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

ssize_t wh_os_sendmsg(int fd, const struct msghdr *m, int flags)
{
        return OS_CALL(sendmsg, RAW_SENDMSG(fd, m, flags | MSG_DONTWAIT | MSG_NOSIGNAL));
}

int wh_os_send_byte(int fd)
{
        char byte = 0;
        return (int)OS_CALL(send, RAW(sendto, fd, &byte, (size_t)1, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, (socklen_t)0));
}

static ssize_t recvmsg_once(int fd, struct msghdr *m, int flags)
{
        return OS_CALL(recvmsg, RAW_RECVMSG(fd, m, flags | MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
}

ssize_t wh_os_recvmsg(int fd, struct msghdr *m, int flags)
{
        const size_t room = m->msg_controllen;
        ssize_t r = recvmsg_once(fd, m, flags);
        /*
         * The kernel looks into the queue first, and then whether the other end is closed. Who sends and closes between
         * the two looks has the end told before what it sent. After the close nothing comes any more, so what the second
         * call says is so (O6).
         */
        if (__builtin_expect(r == 0 && m->msg_controllen == 0, 0)) {
                m->msg_controllen = room;
                r = recvmsg_once(fd, m, flags);
        }
        return r;
}

int wh_os_inq(int fd)
{
        int n = 0;
        int r = (int)OS_CALL(inq, ioctl(fd, SIOCINQ, &n));
        return r < 0 ? r : n;
}

int wh_os_getsockopt(int fd, int level, int name, void *val, socklen_t *len)
{
        return (int)OS_CALL(getsockopt, getsockopt(fd, level, name, val, len));
}

int wh_os_setsockopt(int fd, int level, int name, const void *val, socklen_t len)
{
        return (int)OS_CALL(setsockopt, setsockopt(fd, level, name, val, len));
}

int wh_os_shutdown(int fd, int how)
{
        return (int)OS_CALL(shutdown, shutdown(fd, how));
}

int wh_os_unread(int fd)
{
        int n = 0, saved = errno;
        int r = ioctl(fd, SIOCOUTQ, &n) < 0 ? -errno : n;
        errno = saved;
        return r;
}
