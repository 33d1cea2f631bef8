/*
 * What a server tells its keeper, in the words of sd_notify(3), with descriptors. The source is included: a keeper is a
 * process, and this is the part of it that listens.
 *
 * An input: messages: DESCRIPTORS, LENGTH, TEXT.
 */
#include "port.h"

#include "../../src/wharfd/keeper.c"

static void said(void *arg, const char *text)
{
        *(size_t *)arg += strlen(text);
}

/* What it hands over is not kept: no more may come than it holds. */
static void take_answers(int sock)
{
        char text[WH_HAND_TEXT_MAX];
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(WH_HAND_FDS * sizeof(int))];
        } control;
        for (;;) {
                struct iovec iov = {text, sizeof text};
                struct msghdr m = {.msg_iov = &iov,
                                   .msg_iovlen = 1,
                                   .msg_control = control.space,
                                   .msg_controllen = sizeof control.space};
                ssize_t r = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
                if (r <= 0)
                        return;
                FUZZ_CHECK(!(m.msg_flags & (MSG_CTRUNC | MSG_TRUNC)));
                struct cmsghdr *c = CMSG_FIRSTHDR(&m);
                for (size_t i = 0; c && i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
                        int fd;
                        memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
                        close(fd);
                }
        }
}

void fuzz_one(struct fuzz_in *in)
{
        struct fuzz_peer p = {.sock = -1};
        size_t heard = 0;
        struct wh_keeper_ops ops = {.said = said, .arg = &heard};
        struct keeper k = {.ops = &ops, .free = NONE, .fds_max = 24};
        int sv[2];
        FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) == 0);
        k.sock = sv[0];
        for (int i = 0; fuzz_more(in) && i < 32; i++) {
                int fds[16];
                unsigned n = fuzz_u8(in) % 12u;
                size_t len;
                for (unsigned j = 0; j < n; j++)
                        fds[j] = fuzz_fd(&p, FD_STATUS);
                const uint8_t *text = fuzz_bytes(in, fuzz_u16(in) % 600u, &len);
                if (len)
                        fuzz_datagram(sv[1], text, len, fds, n);
                for (unsigned j = 0; j < n; j++)
                        close(fds[j]);
                while (hear(&k) > 0)
                        take_answers(sv[1]);
                take_answers(sv[1]);
                FUZZ_CHECK(k.n <= k.room && k.fds <= k.fds_max);
                unsigned held = 0;
                for (unsigned j = 0; j < k.n; j++) {
                        FUZZ_CHECK(k.held[j].n <= HELD_FDS);
                        held += k.held[j].n;
                        FUZZ_CHECK(memchr(k.held[j].name, 0, sizeof k.held[j].name) && !strchr(k.held[j].name, ':'));
                        FUZZ_CHECK(!k.held[j].n || find(&k, k.held[j].name) == &k.held[j]);
                        for (unsigned f = 0; f < k.held[j].n; f++)
                                FUZZ_CHECK(fcntl(k.held[j].fd[f], F_GETFD) >= 0);
                }
                FUZZ_CHECK(held == k.fds);
        }
        for (unsigned i = 0; i < k.n; i++)
                for (unsigned f = 0; f < k.held[i].n; f++)
                        close(k.held[i].fd[f]);
        free(k.held);
        free(k.bucket);
        close(sv[0]);
        close(sv[1]);
        fuzz_peer_done(&p);
}

static void put(struct fuzz_out *o, unsigned n, const char *text)
{
        fuzz_put8(o, n);
        fuzz_put16(o, (unsigned)strlen(text));
        fuzz_put(o, text, strlen(text));
}

void fuzz_seeds(void)
{
        struct fuzz_out o = {.len = 0};
        put(&o, 1, "FDSTORE=1\nFDNAME=wharf-journal");
        put(&o, 2, "FDSTORE=1\nFDNAME=w0-1");
        put(&o, 1, "FDSTORE=1\nFDNAME=w1-2");
        put(&o, 0, "FDSTOREREMOVE=1\nFDNAME=w0-1");
        put(&o, 0, "READY=1");
        put(&o, 0, "WHARF_HAND=0");
        put(&o, 0, "WHARF_HAND=0\nFDNAME=wharf-journal");
        put(&o, 0, "WHARF_HAND=1");
        put(&o, 9, "FDSTORE=1\nFDNAME=w:3");
        fuzz_seed("words", o.bytes, o.len);
}
