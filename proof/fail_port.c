/* Tasks, ports, rights, sending and receiving: the world refuses each step of it. One task holds both ends. */
#include "port.h"

#include "os/os.h"

#include <poll.h>

enum { CALLS = 2 };
static uint32_t calls[CALLS];
static wharf_name replies[CALLS];

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

/* As many frames by choice were sent, and taken, as the queue holds: the next one has to learn that they were. */
static int send_frame(struct proof *p)
{
        uint8_t bytes[PORT_MESSAGE_MAX];
        uint64_t intent = atomic_load(&p->ledger->intent);
        struct wharf_msg m = {.size = sizeof m, .how = WHARF_HOW_COLD, .data = bytes};
        m.len_bytes = port_message(intent, bytes);
        proof_ledger_intent(p, bytes, m.len_bytes);
        int r = wharf_sendmsg(st(p)->task, st(p)->right, &m, 0);
        if (r == 0)
                proof_ledger_sent(p);
        else
                atomic_store(&p->ledger->intent, intent); /* nobody means it any more */
        return r;
}

static void setup_frames(struct proof *p)
{
        enum { CAPACITY = 20 };
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS, .capacity_records = CAPACITY};
        setup_task(p);
        PROOF_EQ(p, wharf_port_new(st(p)->task, &o, &st(p)->port), 0);
        PROOF_EQ(p, wharf_right_new(st(p)->task, st(p)->port, &st(p)->right), 0);
        for (unsigned i = 0; i < CAPACITY; i++) {
                PROOF_EQ(p, send_frame(p), 0);
                PROOF_CHECK(p, port_receive(p, wharf_in_ms(5000)) >= 0);
        }
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

/* On a lane that is attached: the descriptor goes first, as a frame that may be refused. */
static int send_item(struct proof *p)
{
        int pair[2];
        PROOF_EQ(p, pipe2(pair, O_CLOEXEC), 0);
        close(pair[1]);
        struct wharf_item item = {.kind = WHARF_MOVE_FD, .fd = pair[0]};
        struct wharf_msg m = {.size = sizeof m,
                              .how = WHARF_HOW_INLINE,
                              .data = (char[]){"item"},
                              .len_bytes = 4,
                              .items = &item,
                              .n_items = 1};
        int r = wharf_sendmsg(st(p)->task, st(p)->right, &m, 0);
        if (r < 0)
                close(pair[0]);
        return r;
}

static unsigned sockets_read;

static int count_reads(const struct hook_step *s)
{
        sockets_read += s->kind == HOOK_CALL && s->call == WH_OS_recvmsg;
        return 0;
}

/* One message came, with its descriptor; and a receiver that has taken it all does not look at the socket for a frame
 * that was never sent. */
static void audit_idle(struct proof *p)
{
        struct wharf_item item;
        uint8_t bytes[8];
        struct wharf_msg m = {
                .size = sizeof m, .data = bytes, .cap_bytes = sizeof bytes, .items = &item, .cap_items = 1};
        PROOF_EQ(p, wharf_recvmsg(st(p)->task, st(p)->port, &m, wharf_in_ms(5000)), 0);
        PROOF_EQ(p, m.n_items, 1);
        PROOF_EQ(p, item.kind, WHARF_GOT_FD);
        close(item.fd);
        PROOF_EQ(p, wharf_recvmsg(st(p)->task, st(p)->port, &m, 0), -EAGAIN);
        sockets_read = 0;
        hook_arm(count_reads);
        PROOF_EQ(p, wharf_recvmsg(st(p)->task, st(p)->port, &m, 0), -EAGAIN);
        hook_disarm();
        PROOF_EQ(p, sockets_read, 0);
}

/* Two calls wait for their answers, which come in the opposite order. */
static void setup_calls(struct proof *p)
{
        setup_right(p);
        for (uint8_t i = 0; i < CALLS; i++) {
                uint8_t got;
                struct wharf_msg request = {.size = sizeof request, .data = &i, .len_bytes = 1};
                struct wharf_msg in = {.size = sizeof in, .data = &got, .cap_bytes = 1};
                PROOF_EQ(p, wharf_call_start(st(p)->task, st(p)->right, &request, WHARF_NONE, 0, &calls[i]), 0);
                PROOF_EQ(p, wharf_recvmsg(st(p)->task, st(p)->port, &in, wharf_in_ms(5000)), 0);
                PROOF_EQ(p, got, i);
                replies[i] = in.reply;
        }
        for (uint8_t i = CALLS; i-- > 0;)
                PROOF_EQ(p, wharf_reply(st(p)->task, replies[i], &i, 1), 0);
}

/* Each is given its own answer. What was refused may be asked for again. */
static int finish_calls(struct proof *p)
{
        for (uint8_t i = 0; i < CALLS; i++) {
                uint8_t answer = 0xff;
                struct wharf_msg reply = {.size = sizeof reply, .data = &answer, .cap_bytes = 1};
                if (!calls[i])
                        continue;
                int r = wharf_call_finish(st(p)->task, st(p)->right, calls[i], &reply, 0);
                if (r < 0)
                        return r;
                PROOF_EQ(p, answer, i);
                calls[i] = 0;
        }
        return 0;
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

/* ---- a message left to be sent later, and capacity zero ---- */

static void setup_full(struct proof *p)
{
        setup_task(p);
        struct wharf_port_opts o = {.size = sizeof o, .capacity_records = 2};
        PROOF_EQ(p, wharf_port_new(st(p)->task, &o, &st(p)->port), 0);
        PROOF_EQ(p, wharf_right_new(st(p)->task, st(p)->port, &st(p)->right), 0);
        PROOF_EQ(p, wharf_recv(st(p)->task, st(p)->port, (uint8_t[1]){0}, 1, NULL, 0), -EAGAIN); /* which greets */
        int r;
        for (int i = 0; (r = send_one(p)) == 0; i++)
                PROOF_CHECK(p, i < 2);
        PROOF_EQ(p, r, -EAGAIN);
}

/* What was refused is not left as well: the audit would receive it. */
static int leave_one(struct proof *p)
{
        int r = port_send_large(p, WHARF_SEND_LATER, 0);
        if (r < 0)
                port_unsend(p);
        return r < 0 ? r : 0;
}

static void setup_offers(struct proof *p)
{
        setup_task(p);
        port_own_offers(p);
}

/* An offer that nobody waits for is withdrawn; then it is nobody's, whatever failed meanwhile. */
static int offer_in_vain(struct proof *p)
{
        int r = send_one(p);
        return r == -EAGAIN ? 0 : r;
}

/* An offer has no way but shared memory; only where that is forbidden it is said to be. */
static void forbidden_only(struct proof *p)
{
        if (p->result == -EOPNOTSUPP)
                PROOF_CHECK(p, p->injected == EPERM || p->injected == EACCES || p->injected == EFBIG);
}

static const int errors[] = {-EAGAIN, -EPIPE, -ENOTCONN, -ENOMEM, -EMFILE, -EPROTO, 0};
static const int offer_errors[] = {-EAGAIN, -EPIPE, -ENOTCONN, -ENOMEM, -EMFILE, -EPROTO, -EOPNOTSUPP, 0};
/* A call that its link ended with is over: it is not found again. */
static const int call_errors[] = {-EPIPE, -ENOTCONN, -ENOMEM, -EPROTO, -EINVAL, 0};
#define PORT_OP .state_bytes = sizeof(struct port_state), .teardown = port_teardown, .errors = errors
static const struct proof_op ops[] = {
        {.name = "task", .victim = open_task, .unchanged = no_task, PORT_OP},
        {.name = "port", .setup = setup_task, .victim = new_port, .unchanged = no_port, PORT_OP},
        {.name = "right", .setup = setup_port, .victim = new_right, .unchanged = no_right, PORT_OP},
        {.name = "send-first", .progress = true, .setup = setup_right, .victim = send_one, .audit = audit_all, PORT_OP},
        {.name = "send-attach", .setup = setup_almost_attached, .victim = send_one, .audit = audit_all, PORT_OP},
        {.name = "send-warm", .setup = setup_warm, .victim = send_one, .audit = audit_woken, PORT_OP},
        {.name = "send-frames",
         .progress = true,
         .setup = setup_frames,
         .victim = send_frame,
         .audit = audit_all,
         PORT_OP},
        {.name = "send-item", .setup = setup_warm, .victim = send_item, .audit = audit_idle, PORT_OP},
        {.name = "send-later", .setup = setup_full, .victim = leave_one, .audit = audit_all, PORT_OP},
        {.name = "offer-withdrawn",
         .progress = true,
         .setup = setup_offers,
         .victim = offer_in_vain,
         .audit = audit_all,
         .state_bytes = sizeof(struct port_state),
         .teardown = port_teardown,
         .errors = offer_errors,
         .keeps_bytes = 4 * 4096,
         .unchanged = forbidden_only},
        {.name = "calls-crossed",
         .progress = true,
         .setup = setup_calls,
         .victim = finish_calls,
         .state_bytes = sizeof(struct port_state),
         .teardown = port_teardown,
         .errors = call_errors},
        {.name = "receive",
         .progress = true,
         .setup = setup_sent,
         .victim = receive_one,
         .unchanged = not_received,
         .audit = audit_all,
         PORT_OP},
        {0},
};
PROOF_FAIL("port", ops)
