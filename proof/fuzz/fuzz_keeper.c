/*
 * What a server tells its keeper, in the words of sd_notify(3), with descriptors. The source is included: a keeper is a
 * process, and this is the part of it that listens.
 *
 * An input: messages: DESCRIPTORS, LENGTH, TEXT.
 */
#include "port.h"

#include "../../src/service/keeper.c"

static void said(void *arg, const char *text)
{
        *(size_t *)arg += strlen(text);
}

void fuzz_one(struct fuzz_in *in)
{
        struct fuzz_peer p = {.sock = -1};
        size_t heard = 0;
        struct wh_keeper_ops ops = {.said = said, .arg = &heard};
        struct keeper k = {.ops = &ops, .room = 2};
        int sv[2];
        FUZZ_CHECK((k.held = calloc(k.room, sizeof *k.held)));
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
                        ;
                FUZZ_CHECK(k.n <= k.room);
                for (unsigned j = 0; j < k.n; j++) {
                        FUZZ_CHECK(memchr(k.held[j].name, 0, sizeof k.held[j].name) && !strchr(k.held[j].name, ':'));
                        FUZZ_CHECK(fcntl(k.held[j].fd, F_GETFD) >= 0);
                }
        }
        for (unsigned i = 0; i < k.n; i++)
                close(k.held[i].fd);
        free(k.held);
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
        put(&o, 2, "FDSTORE=1\nFDNAME=w-0-1");
        put(&o, 1, "FDSTORE=1\nFDNAME=w-1-2");
        put(&o, 0, "FDSTOREREMOVE=1\nFDNAME=w-0-1");
        put(&o, 0, "READY=1");
        put(&o, 9, "FDSTORE=1\nFDNAME=w:3");
        fuzz_seed("words", o.bytes, o.len);
}
