/*
 * The carrier of a moved receive right: what the former owner of a port packed, with lies in it.
 *
 * An input: WHAT is on its way with the port, then lies: overwrite the state, or a datagram's head, or let the
 * descriptors come in another order or number. The new owner opens it, uses it, and drops it or not.
 */
#include "port.h"

#include "message/move.h"

#include <sys/stat.h>

enum { STATE_MAX = 1 << 16, FDS_MAX = 64, GRAMS_MAX = 4 };

struct gram {
        uint8_t bytes[64];
        size_t len;
        int fds[FDS_MAX];
        unsigned n;
};

static unsigned take_grams(int sock, struct gram *g)
{
        unsigned n = 0;
        for (; n < GRAMS_MAX; n++) {
                union {
                        struct cmsghdr align;
                        char space[CMSG_SPACE(253 * sizeof(int))];
                } control;
                struct iovec iov = {g[n].bytes, sizeof g[n].bytes};
                struct msghdr m = {.msg_iov = &iov,
                                   .msg_iovlen = 1,
                                   .msg_control = control.space,
                                   .msg_controllen = sizeof control.space};
                ssize_t r = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
                if (r <= 0)
                        break;
                g[n].len = (size_t)r;
                g[n].n = 0;
                struct cmsghdr *c = CMSG_FIRSTHDR(&m);
                if (!c)
                        continue;
                FUZZ_CHECK((c->cmsg_len - CMSG_LEN(0)) / sizeof(int) <= FDS_MAX);
                g[n].n = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
                memcpy(g[n].fds, CMSG_DATA(c), g[n].n * sizeof(int));
        }
        return n;
}

void fuzz_one(struct fuzz_in *in)
{
        static uint8_t state[STATE_MAX];
        struct fuzz_user old = {.task = NULL}, new = {.task = NULL};
        struct gram g[GRAMS_MAX];
        unsigned what = fuzz_u8(in);
        int carrier, sv[2];
        FUZZ_CHECK(wharf_task_open(NULL, &old.task) == 0 && wharf_task_open(NULL, &new.task) == 0);
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        FUZZ_CHECK(wharf_port_new(old.task, &o, &old.port) == 0);
        /* Two senders; the first is a link as the bits say. */
        FUZZ_CHECK(wharf_right_new(new.task, old.port, &new.right) != 0); /* it is no port of that task */
        FUZZ_CHECK(wharf_right_new(old.task, old.port, &old.right) == 0);
        if (what & 1)
                fuzz_sends(&old, old.right, WHARF_HOW_INLINE, false);
        if (what & 2)
                fuzz_sends(&old, old.right, what & 4 ? 8 : 0, what & 8);
        if (what & 16)
                fuzz_sends(&old, old.right, WHARF_HOW_SECTION | 8, false);
        if (what & 32)
                fuzz_receive(&old, old.port, 8);
        wharf_name second = WHARF_NONE;
        if (what & 64 && wharf_right_new(old.task, old.port, &second) == 0)
                fuzz_sends(&old, second, 32, false);
        if (what & 128) {
                wharf_name once;
                if (wharf_once_new(old.task, old.port, &once) == 0)
                        fuzz_got(&old, once);
        }
        if (wh_move_pack(old.task, old.port, &carrier) < 0) {
                wharf_task_close(old.task);
                wharf_task_close(new.task);
                return;
        }
        unsigned n = take_grams(carrier, g);
        FUZZ_CHECK(n > 0 && g[0].n == 1);
        close(carrier);
        ssize_t len = pread(g[0].fds[0], state, sizeof state, 0);
        FUZZ_CHECK(len > 0);
        close(g[0].fds[0]);

        struct fuzz_peer p = {.sock = -1};
        bool sealed = true;
        for (int i = 0; fuzz_more(in) && i < 16; i++) {
                unsigned lie = fuzz_u8(in) % 8, which = fuzz_u8(in);
                struct gram *d = &g[which % n];
                if (lie == 0) {
                        fuzz_patch(in, d->bytes, d->len, 4);
                } else if (lie == 1 && n > 1 && g[1].n) { /* another kind of descriptor in its place */
                        int *fd = &g[1].fds[which % g[1].n];
                        close(*fd);
                        *fd = fuzz_fd(&p, fuzz_u8(in) % FD_KINDS);
                } else if (lie == 2 && n > 1 && g[1].n > 1) {
                        int *a = &g[1].fds[which % g[1].n], *b = &g[1].fds[fuzz_u8(in) % g[1].n], t = *a;
                        *a = *b;
                        *b = t;
                } else if (lie == 3 && n > 1 && g[1].n > 1) {
                        close(g[1].fds[--g[1].n]);
                } else if (lie == 4 && len > 16) {
                        len -= which % 16;
                } else if (lie == 5) {
                        sealed = which & 1;
                } else {
                        fuzz_patch(in, state, (size_t)len, which & 1 ? 4 : 1);
                }
        }
        g[0].fds[0] = memfd_create("state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        FUZZ_CHECK(g[0].fds[0] >= 0 && fchmod(g[0].fds[0], 0600) == 0 && write(g[0].fds[0], state, (size_t)len) == len);
        if (sealed)
                fcntl(g[0].fds[0], F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
        FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) == 0);
        for (unsigned i = 0; i < n; i++) {
                fuzz_datagram(sv[0], g[i].bytes, g[i].len, g[i].fds, g[i].n);
                for (unsigned k = 0; k < g[i].n; k++)
                        close(g[i].fds[k]);
        }
        close(sv[0]);
        wh_move_end(old.task, old.port, true);
        struct wh_items items = {.n = 1, .kind = {WH_ITEM_RECEIVE}, .fd = {sv[1]}};
        const struct wh_mover by = {.given = WH_INTRODUCER_NOT, .payer = 1001, .own = what & 1};
        int r = wh_moving_open(new.task, &items, 1, &by);
        if (r == 0) {
                new.port = wh_moving_port(&items, 0);
                wh_moving_done(&items);
        }
        FUZZ_CHECK(r <= 0);
        if (r == 0 && what % 3) {
                wh_move_start(new.task, new.port, sv[1]);
                sv[1] = -1;
                struct wharf_port_stat st = {.size = sizeof st};
                for (int i = 0; i < 6; i++)
                        fuzz_receive(&new, new.port, i == 3 ? WHARF_RECV_IN_PLACE : 0);
                fuzz_sends(&old, old.right, 0, false);
                fuzz_receive(&new, new.port, 0);
                wharf_port_stat(new.task, new.port, &st);
                for (unsigned i = 0; i < new.n_got; i++)
                        if (wharf_name_kind(new.task, new.got[i]) == WHARF_KIND_REPLY)
                                fuzz_sends(&new, new.got[i], 0, false);
                fuzz_finish_call(&old);
        }
        if (r == 0)
                wharf_drop(new.task, new.port);
        if (sv[1] >= 0)
                close(sv[1]);
        wharf_task_close(old.task);
        wharf_task_close(new.task);
        fuzz_peer_done(&p);
}

void fuzz_seeds(void)
{
        static const uint8_t kinds[] = {0, 2, 3, 11, 17, 33, 35, 64, 79, 128, 195, 255};
        for (unsigned i = 0; i < sizeof kinds; i++) {
                struct fuzz_out o = {.len = 0};
                char name[16] = "port00";
                name[4] = (char)('0' + i / 10);
                name[5] = (char)('0' + i % 10);
                fuzz_put8(&o, kinds[i]);
                if (i % 2) {
                        fuzz_put8(&o, 6);
                        fuzz_put8(&o, 1);
                        fuzz_put16(&o, 30 + i * 3);
                        fuzz_put(&o, (uint8_t[5]){3, 1, 0, 0, 0}, 5);
                }
                fuzz_seed(name, o.bytes, o.len);
        }
}
