/*
 * Datagrams, with descriptors, on the socket of a real link: at the owner of a port, and at the holder of a send right.
 *
 * An input: ROLE, then steps: a datagram, a record in the peer's lane, or an act of the user of the library.
 */
#include "port.h"

enum { ROLE_OWNER = 0, ROLE_HOLDER = 1, ROLE_PROVISIONAL = 2, ROLE_ONCE = 3, ROLES };
enum { STEP_DATAGRAM = 0, STEP_RECORD = 1, STEP_HANG_UP = 2, STEP_ACT = 8, STEP_ACTS = 8, STEPS = 16, STEPS_MAX = 64 };

void fuzz_one(struct fuzz_in *in)
{
        struct fuzz_peer p = {.sock = -1};
        struct fuzz_user u = {.task = NULL};
        unsigned role = fuzz_u8(in) % ROLES;
        int sv[2];
        FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) == 0);
        p.sock = sv[1];
        FUZZ_CHECK(wharf_task_open(NULL, &u.task) == 0);
        p.says = role == ROLE_OWNER ? WH_TO_OWNER : WH_TO_HOLDER;
        if (role == ROLE_OWNER)
                FUZZ_CHECK(wh_carrier_port(u.task, sv[0], &u.port) == 0);
        else
                FUZZ_CHECK(wh_right_from_socket(u.task, sv[0], role == ROLE_PROVISIONAL, role == ROLE_ONCE, &u.right) ==
                           0);
        for (int i = 0; fuzz_more(in) && i < STEPS_MAX; i++) {
                unsigned step = fuzz_u8(in) % STEPS;
                if (step >= STEP_ACT) {
                        fuzz_act(in, &u, step - STEP_ACT);
                } else if (step == STEP_RECORD) {
                        fuzz_put_record(in, &p);
                } else if (step == STEP_HANG_UP && p.sock >= 0) {
                        close(p.sock);
                        p.sock = -1;
                } else {
                        fuzz_send_datagram(in, &p);
                }
        }
        if (role == ROLE_OWNER)
                fuzz_receive(&u, u.port, 0);
        wharf_task_close(u.task);
        fuzz_peer_done(&p);
}

/* ---- seeds: a real exchange, read on its way between the two ends ---- */

static void put_frame(struct fuzz_out *o, const struct wh_frame *f, const uint8_t *data)
{
        fuzz_put8(o, STEP_DATAGRAM);
        fuzz_put8(o, f->n_fds);
        for (unsigned i = 0; i < f->n_fds; i++)
                fuzz_put8(o, f->type == WH_FRAME_ATTACH    ? (i ? FD_BACK : FD_OUT)
                             : f->type == WH_FRAME_SECTION ? FD_SECTION
                             : f->type == WH_FRAME_REBIND || f->type == WH_FRAME_ADOPT || f->type == WH_FRAME_VIA
                                     ? FD_SOCKET
                             : f->type == WH_FRAME_MESSAGE && f->arg & WH_MSG_MEMORY ? FD_MEMORY
                             : i % 2                                                 ? FD_PIPE
                                                                                     : FD_SOCKET);
        fuzz_put8(o, FLAG_FRAME);
        size_t len = f->type == WH_FRAME_BELL ? 1 : sizeof *f + f->len;
        fuzz_put16(o, (unsigned)len);
        fuzz_put(o, f, len < sizeof *f ? len : sizeof *f);
        if (len > sizeof *f)
                fuzz_put(o, data, f->len);
}

/* Passes on what waits at `from`, and writes it down as the input of whoever gets it. */
static void relay(int from, int to, struct fuzz_out *o, unsigned act)
{
        struct wh_frame f;
        static uint8_t data[WH_COLD_MAX + WH_FDS_MAX];
        int fds[WH_FDS_MAX];
        while (wh_frame_recv(from, &f, data, fds, NULL) == 1) {
                if (o->len + sizeof f + f.len < 3000)
                        put_frame(o, &f, data);
                if (f.type == WH_FRAME_BELL)
                        wh_frame_bell(to);
                else
                        wh_frame_send(to, &f, data, f.len, fds, false);
                for (unsigned i = 0; i < f.n_fds; i++)
                        close(fds[i]);
        }
        if (o->len < 3000) {
                fuzz_put8(o, STEP_ACT + act);
                fuzz_put8(o, 0);
        }
}

static void exchange(const char *name, unsigned how, bool call, unsigned n)
{
        struct fuzz_out owner = {.len = 0}, holder = {.len = 0};
        struct fuzz_user a = {.task = NULL}, b = {.task = NULL};
        int x[2], y[2];
        fuzz_put8(&owner, ROLE_OWNER);
        fuzz_put8(&holder, ROLE_HOLDER);
        FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, x) == 0);
        FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, y) == 0);
        FUZZ_CHECK(wharf_task_open(NULL, &a.task) == 0 && wharf_task_open(NULL, &b.task) == 0);
        FUZZ_CHECK(wh_carrier_port(a.task, x[0], &a.port) == 0);
        FUZZ_CHECK(wharf_port_new(b.task, NULL, &b.port) == 0); /* a right to it can be sent */
        FUZZ_CHECK(wh_right_from_socket(b.task, y[0], false, false, &b.right) == 0);
        for (unsigned i = 0; i < n; i++) {
                relay(x[1], y[1], &holder, call ? 2 : 1);
                fuzz_sends(&b, b.right, how, call);
                relay(y[1], x[1], &owner, 0);
                fuzz_receive(&a, a.port, 0);
                while (a.n_got) {
                        wharf_name got = a.got[--a.n_got];
                        if (wharf_name_kind(a.task, got) == WHARF_KIND_REPLY)
                                fuzz_sends(&a, got, how & ~96u, false);
                        else
                                wharf_drop(a.task, got);
                }
                relay(x[1], y[1], &holder, call ? 3 : 5);
                if (call)
                        fuzz_finish_call(&b);
        }
        wharf_task_close(a.task);
        wharf_task_close(b.task);
        close(x[1]);
        close(y[1]);
        char as[64];
        fuzz_seed(strcat(strcpy(as, "owner-"), name), owner.bytes, owner.len);
        fuzz_seed(strcat(strcpy(as, "holder-"), name), holder.bytes, holder.len);
}

void fuzz_seeds(void)
{
        exchange("small", 0, false, 12);
        exchange("rights", 32, false, 3);
        exchange("inline", WHARF_HOW_INLINE, false, 4);
        exchange("inline-rights", WHARF_HOW_INLINE | 32, false, 3);
        exchange("large", 8, false, 3);
        exchange("call", 0, true, 4);
        exchange("call-inline", WHARF_HOW_INLINE, true, 4);
}
