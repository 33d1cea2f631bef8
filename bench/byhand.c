/*
 * byhand - what somebody writes who has no library: a Unix socket pair for a port and its right, SCM_RIGHTS to carry
 * it. Bare: no identity of the sender, no quota, no notice of death, no check of what arrives. The setup costs of wharf
 * are printed beside these.
 */
#include "setup.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "harness.h"

static int warm[2], made[2], carried[2], carried_to;

static void pair_make(int *ret)
{
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ret))
                bench_die("socketpair");
}

static void pair_close(const int *pair)
{
        close(pair[0]);
        close(pair[1]);
}

static void warm_begin(void)
{
        pair_make(warm);
}

static void port_make(void)
{
        pair_make(made);
}

static void port_unmake(void)
{
        pair_close(made);
}

static void right_carry(void)
{
        char bytes[SETUP_BYTES] = {0};
        union {
                struct cmsghdr head;
                char room[CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec iov = {bytes, sizeof(bytes)};
        struct msghdr msg = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};

        pair_make(carried);
        memset(&control, 0, sizeof(control));
        control.head =
                (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.head), &carried[1], sizeof(int));
        if (sendmsg(warm[0], &msg, MSG_NOSIGNAL) != SETUP_BYTES)
                bench_die("sendmsg");
        close(carried[1]); /* moved, not shared */

        if (recvmsg(warm[1], &msg, MSG_CMSG_CLOEXEC) != SETUP_BYTES || msg.msg_controllen < CMSG_LEN(sizeof(int)))
                bench_die("recvmsg");
        memcpy(&carried_to, CMSG_DATA(&control.head), sizeof(int));
}

static void right_uncarry(void)
{
        close(carried[0]);
        close(carried_to);
}

static void message_pass(void)
{
        char bytes[SETUP_BYTES] = {0};
        if (send(made[0], bytes, sizeof(bytes), MSG_NOSIGNAL) != SETUP_BYTES ||
            recv(made[1], bytes, sizeof(bytes), 0) != SETUP_BYTES)
                bench_die("send and recv");
}

static const struct setup_peer peer = {
        .name = "byhand",
        .begin = warm_begin,
        .make = port_make,
        .unmake = port_unmake,
        .carry = right_carry,
        .uncarry = right_uncarry,
        .fresh = port_make,
        .message = message_pass,
        .unfresh = port_unmake,
};

int main(int argc, char **argv)
{
        return setup_main(argc, argv, &peer);
}
