/*
 * The other end of a link lies: in its lane and sections, in what it says it has taken, and in every frame on the
 * socket. One task holds both ends; the liar is whoever wrote what is being read. A new link to the same port is then
 * as good as ever.
 */
#include "port.h"

static struct port_state *st(struct proof *p)
{
        return p->state;
}

static void setup(struct proof *p)
{
        st(p)->listener = -1;
        PROOF_EQ(p, wharf_task_open(NULL, &st(p)->task), 0);
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        PROOF_EQ(p, wharf_port_new(st(p)->task, &o, &st(p)->port), 0);
        PROOF_EQ(p, wharf_right_new(st(p)->task, st(p)->port, &st(p)->right), 0);
}

enum { MESSAGES = 26 };

static void setup_sent(struct proof *p)
{
        setup(p);
        for (int i = 0; i < MESSAGES; i++)
                PROOF_EQ(p, port_send(p, 0), 0);
}

static int receive_all(struct proof *p)
{
        for (int i = 0; i < MESSAGES; i++) {
                ssize_t n = port_receive(p, 0);
                if (n < 0)
                        return (int)n;
                PROOF_CHECK(p, n <= PORT_MESSAGE_MAX);
                proof_next_call();
        }
        return 0;
}

/* Sends, and looks now and then what came back. */
static int send_all(struct proof *p)
{
        for (int i = 0; i < 2 * MESSAGES; i++) {
                int r = port_send(p, 0);
                if (r < 0)
                        return r;
                proof_next_call();
                /* The honest run receives in between, so that the sender has something to look at. */
                ssize_t n = port_receive(p, 0);
                if (n < 0)
                        return (int)n;
                proof_next_call();
        }
        return 0;
}

/* The owner reads only what it maps read-only; all else that is loaded is the sender reading `back`, or itself. */
static bool memory_of_the_sender(struct proof *p, const void *at)
{
        const struct hook_range *r = hook_range_of(at);
        return r && !r->writable;
}

static bool memory_of_the_receiver(struct proof *p, const void *at)
{
        const struct hook_range *r = hook_range_of(at);
        unsigned n;
        const struct hook_range *all = hook_ranges(&n);
        for (unsigned i = 0; r && i < n; i++)
                if (all[i].ino == r->ino && all[i].dev == r->dev && !all[i].writable)
                        return false; /* `out` or a section, by another mapping */
        return r != NULL;
}

static void audit_new_link(struct proof *p)
{
        wharf_name right;
        PROOF_EQ(p, wharf_right_new(st(p)->task, st(p)->port, &right), 0);
        unsigned sent = 0, got = 0;
        for (int turn = 0; turn < 400 && got < PORT_N_CLEAN; turn++) {
                if (sent < PORT_N_CLEAN) {
                        PROOF_EQ(p, wharf_send(st(p)->task, right, (uint8_t[4]){PORT_CLEAN, (uint8_t)sent}, 4, 0), 0);
                        sent++;
                }
                /* Of any size: what the liar left may be large, and stays first in its queue until it is taken. */
                struct wharf_msg m = {.size = sizeof m, .flags = WHARF_RECV_ALLOC};
                if (wharf_recvmsg(st(p)->task, st(p)->port, &m, 0) < 0)
                        continue;
                const uint8_t *bytes = m.data;
                got += m.len_bytes == 4 && bytes[0] == PORT_CLEAN && bytes[1] == got;
                wharf_release(st(p)->task, &m);
        }
        PROOF_EQ(p, got, PORT_N_CLEAN);
}

static const int errors[] = {-EAGAIN, -ENOTCONN, -EOVERFLOW, -EPIPE,    -EPROTO,    -EPROTONOSUPPORT,
                             -EDQUOT, -ENOBUFS,  -EMLINK,    -EMSGSIZE, -ECANCELED, 0};
#define PORT_OP                                                                                \
        .state_bytes = sizeof(struct port_state), .teardown = port_teardown, .errors = errors, \
        .audit = audit_new_link, .steps_max = 100000, .looks_again = true
static const struct proof_op ops[] = {
        {.name = "receive", .setup = setup_sent, .victim = receive_all, .liar_writes = memory_of_the_sender, PORT_OP},
        {.name = "send", .setup = setup, .victim = send_all, .liar_writes = memory_of_the_receiver, PORT_OP},
        {0},
};
PROOF_HOSTILE("port", ops)
