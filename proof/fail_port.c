/* Tasks, ports, rights, sending and receiving: the world refuses each step of it. One task holds both ends. */
#include "port.h"

#include <poll.h>

static struct port_state *st(struct proof *p)
{
        return p->state;
}

/* A task keeps some of what it makes, to use it again: after a first port and right of each kind, nothing more. */
static void setup_task(struct proof *p)
{
        wharf_name port, right;
        st(p)->listener = -1;
        PROOF_EQ(p, wharf_task_open(NULL, &st(p)->task), 0);
        PROOF_EQ(p, wharf_port_new(st(p)->task, NULL, &port), 0);
        PROOF_EQ(p, wharf_right_new(st(p)->task, port, &right), 0);
        PROOF_EQ(p, wharf_drop(st(p)->task, right), 0);
        PROOF_EQ(p, wharf_drop(st(p)->task, port), 0);
}

static void setup_port(struct proof *p)
{
        setup_task(p);
        PROOF_EQ(p, wharf_port_new(st(p)->task, NULL, &st(p)->port), 0);
}

static void setup_right(struct proof *p)
{
        setup_port(p);
        PROOF_EQ(p, wharf_right_new(st(p)->task, st(p)->port, &st(p)->right), 0);
}

static int open_task(struct proof *p)
{
        st(p)->listener = -1;
        return wharf_task_open(NULL, &st(p)->task);
}

static int new_port(struct proof *p)
{
        return wharf_port_new(st(p)->task, NULL, &st(p)->port);
}

static int new_right(struct proof *p)
{
        return wharf_right_new(st(p)->task, st(p)->port, &st(p)->right);
}

static void no_right(struct proof *p)
{
        PROOF_EQ(p, st(p)->right, 0);
}

static void no_port(struct proof *p)
{
        PROOF_EQ(p, st(p)->port, 0);
}

static void no_task(struct proof *p)
{
        PROOF_CHECK(p, !st(p)->task);
}

/* Everything that was reported as sent is there, and nothing else. */
static void audit_all(struct proof *p)
{
        ssize_t n;
        while (atomic_load(&p->ledger->received) < atomic_load(&p->ledger->sent) &&
               (n = port_receive(p, wharf_in_ms(5000))) >= 0)
                ;
        PROOF_EQ(p, atomic_load(&p->ledger->received), atomic_load(&p->ledger->sent));
        n = port_receive(p, 0);
        PROOF_CHECK(p, n == -EAGAIN || n == -ENOTCONN);
}

static int send_one(struct proof *p)
{
        uint64_t intent = atomic_load(&p->ledger->intent);
        int r = port_send(p, 0);
        if (r < 0)
                atomic_store(&p->ledger->intent, intent); /* nobody means it any more */
        return r;
}

static int receive_one(struct proof *p)
{
        return (int)port_receive(p, 0);
}

static void not_received(struct proof *p)
{
        PROOF_EQ(p, atomic_load(&p->ledger->received), 0);
}

static void setup_sent(struct proof *p)
{
        setup_right(p);
        PROOF_EQ(p, send_one(p), 0);
}

/* The receiver has looked, found nothing, and sleeps: what is sent now has to wake it. */
static void setup_warm(struct proof *p)
{
        setup_right(p);
        for (int i = 0; i < 40; i++) {
                PROOF_EQ(p, send_one(p), 0);
                PROOF_CHECK(p, port_receive(p, wharf_in_ms(5000)) >= 0);
        }
        PROOF_EQ(p, wharf_port_fd(st(p)->task, st(p)->port, &st(p)->poll_fd), 0);
        PROOF_EQ(p, port_receive(p, 0), -EAGAIN);
        PROOF_EQ(p, poll(&(struct pollfd){.fd = st(p)->poll_fd, .events = POLLIN}, 1, 0), 0);
}

static void audit_woken(struct proof *p)
{
        if (!p->injected)
                PROOF_EQ(p, poll(&(struct pollfd){.fd = st(p)->poll_fd, .events = POLLIN}, 1, 0), 1);
        audit_all(p);
}

static void setup_almost_attached(struct proof *p)
{
        setup_right(p);
        struct wharf_right_stat rs = {.size = sizeof rs};
        /* As many as it takes until one more attaches the lane; found by trying on a right that is thrown away. */
        int n = 0;
        for (; n < 100 && !rs.attached; n++) {
                PROOF_EQ(p, wharf_send(st(p)->task, st(p)->right, "x", 1, 0), 0);
                PROOF_EQ(p, wharf_recv(st(p)->task, st(p)->port, &(char){0}, 1, NULL, wharf_in_ms(5000)), 1);
                PROOF_EQ(p, wharf_right_stat(st(p)->task, st(p)->right, &rs), 0);
        }
        PROOF_CHECK(p, rs.attached);
        PROOF_EQ(p, wharf_drop(st(p)->task, st(p)->right), 0);
        PROOF_EQ(p, new_right(p), 0);
        for (int i = 0; i + 1 < n; i++) {
                PROOF_EQ(p, wharf_send(st(p)->task, st(p)->right, "x", 1, 0), 0);
                PROOF_EQ(p, wharf_recv(st(p)->task, st(p)->port, &(char){0}, 1, NULL, wharf_in_ms(5000)), 1);
        }
}

static const int errors[] = {-EAGAIN, -EPIPE, -ENOTCONN, -ENOMEM, -EMFILE, -EPROTO, 0};
#define PORT_OP .state_bytes = sizeof(struct port_state), .teardown = port_teardown, .errors = errors
static const struct proof_op ops[] = {
        {.name = "task", .victim = open_task, .unchanged = no_task, PORT_OP},
        {.name = "port", .setup = setup_task, .victim = new_port, .unchanged = no_port, PORT_OP},
        {.name = "right", .setup = setup_port, .victim = new_right, .unchanged = no_right, PORT_OP},
        {.name = "send-first", .progress = true, .setup = setup_right, .victim = send_one, .audit = audit_all, PORT_OP},
        {.name = "send-attach", .setup = setup_almost_attached, .victim = send_one, .audit = audit_all, PORT_OP},
        {.name = "send-warm", .setup = setup_warm, .victim = send_one, .audit = audit_woken, PORT_OP},
        {.name = "receive",
         .progress = true,
         .setup = setup_sent,
         .victim = receive_one,
         .unchanged = not_received,
         .audit = audit_all,
         .finding = "a receiver that has no memory for a message that comes as a frame closes the link: its sender is "
                    "told, and what waited there is lost",
         PORT_OP},
        {0},
};
PROOF_FAIL("port", ops)
