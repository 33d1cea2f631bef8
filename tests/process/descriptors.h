/*
 * descriptors - how many this process may have, and one that is no good to close.
 */
#ifndef TEST_DESCRIPTORS_H
#define TEST_DESCRIPTORS_H

#include "test.h"

#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

/* The limit that was. */
static inline rlim_t limit_descriptors(rlim_t n)
{
        struct rlimit l;
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &l), 0);
        rlim_t was = l.rlim_cur;
        l.rlim_cur = n;
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &l), 0);
        return was;
}

/* A TCP socket with bytes that nobody will read: its last close sleeps for as long as whoever made it says. *ret_reader has to be closed at the end. */
static inline int lingering(int *ret_reader)
{
        static const char zeros[65536];
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        struct linger l = {.l_onoff = 1, .l_linger = 3600};
        socklen_t len = sizeof a;
        int small = 1, on = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK_GE(s, 0);
        CHECK_EQ(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
        CHECK_EQ(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
        CHECK_EQ(listen(listener, 1), 0);
        CHECK_EQ(getsockname(listener, (struct sockaddr *)&a, &len), 0);
        CHECK_EQ(connect(s, (struct sockaddr *)&a, sizeof a), 0);
        CHECK_EQ(ioctl(s, FIONBIO, &on), 0);
        while (send(s, zeros, sizeof zeros, MSG_NOSIGNAL) > 0)
                ;
        CHECK_EQ(setsockopt(s, SOL_SOCKET, SO_LINGER, &l, sizeof l), 0);
        *ret_reader = listener;
        return s;
}

#endif
