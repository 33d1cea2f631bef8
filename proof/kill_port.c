/*
 * One end of a link dies, in processes of their own: a sender, a receiver, a client, a server. Whoever is left is told,
 * gets what was sent, and goes on working with others.
 */
#include "port.h"

enum { COLD_MAX = 17 }; /* messages that travel as frames before a lane is attached */

/* ---- a sender dies ---- */

static int send_messages(struct proof *p)
{
        port_connect(p);
        for (int i = 0; i < 30; i++)
                PROOF_EQ(p, port_send(p, WHARF_FOREVER), 0);
        return 0;
}

static void receive_on(struct proof *p)
{
        for (;;) {
                bool over = atomic_load(&p->ledger->word[WORD_OVER]);
                ssize_t n = port_receive(p, over ? 0 : wharf_in_ms(2));
                if (n >= 0)
                        continue;
                PROOF_CHECK(p, n == -EAGAIN || n == -ETIMEDOUT || n == -ENOTCONN);
                struct wharf_port_stat st = {.size = sizeof st};
                PROOF_EQ(p,
                         wharf_port_stat(((struct port_state *)p->state)->task, ((struct port_state *)p->state)->port,
                                         &st),
                         0);
                PROOF_EQ(p, st.refused_links, 0);
                if (over && st.senders == 0)
                        return;
        }
}

static void receive_all(struct proof *p)
{
        port_own(p);
        receive_on(p);
}

/* Somebody else sends after it, and is not disturbed. */
static void send_clean(struct proof *p)
{
        struct port_state *s = p->state;
        if (atomic_load(&p->ledger->word[WORD_OVER]))
                return; /* a rescuer before us got to its end */
        atomic_store(&p->ledger->word[WORD_GO], 1);
        port_connect(p);
        for (int i = 0; i < PORT_N_CLEAN; i++)
                PROOF_EQ(p, wharf_send(s->task, s->right, (uint8_t[4]){PORT_CLEAN}, 4, WHARF_FOREVER), 0);
        s->task = wharf_task_close(s->task);
        if (p->outcome != PROOF_PAUSED)
                atomic_store(&p->ledger->word[WORD_OVER], 1);
}

static void audit_received(struct proof *p)
{
        proof_ledger_balance(p, 0);
        PROOF_CHECK(p, atomic_load(&p->ledger->word[WORD_CLEAN]) >= PORT_N_CLEAN);
}

/* ---- a receiver dies ---- */

static int receive_messages(struct proof *p)
{
        port_own(p);
        for (int i = 0; i < 24; i++)
                PROOF_CHECK(p, port_receive(p, WHARF_FOREVER) >= 0);
        return 0;
}

static void send_until_it_dies(struct proof *p)
{
        struct port_state *s = p->state;
        if (!port_try_connect(p))
                return;
        int r = 0;
        for (int i = 0; i < 2000 && r == 0; i++) {
                r = port_send(p, WHARF_FOREVER);
                PROOF_CHECK(p, r == 0 || r == -EPIPE);
        }
        PROOF_EQ(p, r, -EPIPE);
        struct wharf_right_stat st = {.size = sizeof st};
        PROOF_EQ(p, wharf_right_stat(s->task, s->right, &st), 0);
        PROOF_EQ(p, st.dead, -EPIPE);
        /* The cold messages of the beginning lie in a socket, where nobody counts them. */
        atomic_store(&p->ledger->word[WORD_UNREAD], st.unread_messages + COLD_MAX);
        s->task = wharf_task_close(s->task);
}

static void audit_counted(struct proof *p)
{
        /* What was sent and not received was counted: an upper bound, never less. */
        uint64_t sent = atomic_load(&p->ledger->sent), received = atomic_load(&p->ledger->received);
        PROOF_CHECK(p, received <= atomic_load(&p->ledger->intent));
        PROOF_CHECK(p, atomic_load(&p->ledger->word[WORD_UNREAD]) + received >= sent);
}

/* ---- capacity zero ---- */

static void receive_offers(struct proof *p)
{
        port_own_of(p, WHARF_RENDEZVOUS);
        receive_on(p);
}

static int offer_some(struct proof *p)
{
        port_connect(p);
        for (int i = 0; i < 12; i++)
                PROOF_EQ(p, port_send(p, WHARF_FOREVER), 0);
        return 0;
}

/* What was not taken is offered again: if it was delivered all the same, the receiver would see it twice. */
static int offer_impatiently(struct proof *p, int64_t deadline_ns)
{
        int r = port_send(p, deadline_ns);
        if (r == -EAGAIN || r == -ETIMEDOUT)
                port_unsend(p);
        else
                PROOF_CHECK(p, r == 0 || r == -EPIPE);
        return r;
}

static int offer_and_withdraw(struct proof *p)
{
        port_connect(p);
        PROOF_EQ(p, port_send(p, WHARF_FOREVER), 0);
        for (int i = 0; i < 24; i++)
                PROOF_CHECK(p, offer_impatiently(p, i % 3 ? 0 : wharf_in_ms(1)) != -EPIPE);
        PROOF_EQ(p, port_send(p, WHARF_FOREVER), 0);
        return 0;
}

static int take_offers(struct proof *p)
{
        port_own_of(p, WHARF_RENDEZVOUS);
        for (int i = 0; i < 12; i++)
                PROOF_CHECK(p, port_receive(p, WHARF_FOREVER) >= 0);
        return 0;
}

static void offer_until_it_dies(struct proof *p)
{
        struct port_state *s = p->state;
        if (!port_try_connect(p))
                return;
        int r = 0;
        for (int i = 0; i < 100000 && r != -EPIPE; i++)
                r = offer_impatiently(p, i % 4 ? wharf_in_ms(1) : i % 8 ? 0 : WHARF_FOREVER);
        PROOF_EQ(p, r, -EPIPE);
        s->task = wharf_task_close(s->task);
}

/* A message that its sender knows to be taken was taken; the receiver may have died before it said so. One that went
 * before the greeting lies in a socket. */
static void audit_taken(struct proof *p)
{
        uint64_t sent = atomic_load(&p->ledger->sent), received = atomic_load(&p->ledger->received);
        PROOF_CHECK(p, received <= atomic_load(&p->ledger->intent));
        PROOF_CHECK(p, sent <= received + 1);
}

/* ---- a full queue, and one that never is ---- */

enum { LATER_CAPACITY = 2, GROWTH_BEFORE = 62, GROWTH_MESSAGES = 72 };

/* The port greets, and nothing is received yet. */
static void greet_until_full(struct proof *p)
{
        struct port_state *s = p->state;
        while (!atomic_load(&p->ledger->word[WORD_GO])) {
                ssize_t n = wharf_recv(s->task, s->port, (uint8_t[1]){0}, 0, NULL, 0);
                PROOF_CHECK(p, n == -EAGAIN || n == -EOVERFLOW || n == -ENOTCONN);
                usleep(100);
        }
}

static void receive_what_was_left(struct proof *p)
{
        port_own_of(p, LATER_CAPACITY);
        greet_until_full(p);
        receive_on(p);
}

static int send_later(struct proof *p)
{
        struct port_state *s = p->state;
        port_connect(p);
        for (int round = 0; round < 4; round++) {
                int r = 0;
                while (round == 0 &&
                       atomic_load(&p->ledger->sent) < LATER_CAPACITY) /* the first goes, the others wait */
                        PROOF_EQ(p, port_send(p, WHARF_FOREVER), 0);
                for (int way = 1; way >= 0; way--) { /* in the reserved line, and in a block or memory that it names */
                        uint8_t bytes[1990] = {(uint8_t)round};
                        size_t len = way ? sizeof bytes : 8;
                        proof_ledger_intent(p, bytes, len);
                        struct wharf_msg m = {
                                .size = sizeof m, .flags = WHARF_SEND_LATER, .data = bytes, .len_bytes = len};
                        r = wharf_sendmsg(s->task, s->right, &m, 0);
                        PROOF_CHECK(p, r == 0 || r == 1 || r == -EBUSY);
                        PROOF_CHECK(p, r == 1 || round || !way || atomic_load(&p->ledger->word[WORD_GO]));
                        if (r >= 0)
                                proof_ledger_sent(p);
                        else
                                port_unsend(p);
                }
                atomic_store(&p->ledger->word[WORD_GO], 1);
                PROOF_EQ(p, port_send(p, WHARF_FOREVER), 0);
        }
        return 0;
}

static void receive_growth(struct proof *p)
{
        port_own_of(p, WHARF_UNBOUNDED);
        greet_until_full(p);
        receive_on(p);
}

static void fill_ring(struct proof *p)
{
        int r;
        for (int i = 0; i < GROWTH_BEFORE; i++)
                while ((r = port_send_large(p, 0, WHARF_FOREVER)) != 0) { /* before it is greeted only one goes */
                        PROOF_EQ(p, r, -EAGAIN);
                        port_unsend(p);
                }
}

static void connect_and_fill(struct proof *p)
{
        port_connect(p);
        fill_ring(p);
}

static int send_growing(struct proof *p)
{
        for (int i = GROWTH_BEFORE; i < GROWTH_MESSAGES; i++)
                PROOF_EQ(p, port_send_large(p, 0, 0), 0);
        struct wharf_right_stat st = {.size = sizeof st};
        PROOF_EQ(p,
                 wharf_right_stat(((struct port_state *)p->state)->task, ((struct port_state *)p->state)->right, &st),
                 0);
        PROOF_CHECK(p, st.shared_bytes > 250 << 10 || atomic_load(&p->ledger->word[WORD_GO]));
        atomic_store(&p->ledger->word[WORD_GO], 1);
        return 0;
}

static void own_growth(struct proof *p)
{
        port_own_of(p, WHARF_UNBOUNDED);
        greet_until_full(p);
}

static int receive_grown(struct proof *p)
{
        for (int i = 0; i < GROWTH_MESSAGES; i++)
                PROOF_CHECK(p, port_receive(p, WHARF_FOREVER) >= 0);
        return 0;
}

static void grow_until_it_dies(struct proof *p)
{
        struct port_state *s = p->state;
        if (!port_try_connect(p))
                return;
        fill_ring(p);
        send_growing(p);
        int r = 0;
        for (int i = 0; i < 4000 && r == 0; i++) {
                r = port_send_large(p, 0, 0);
                PROOF_CHECK(p, r == 0 || r == -EPIPE);
                usleep(200);
        }
        PROOF_EQ(p, r, -EPIPE);
        struct wharf_right_stat st = {.size = sizeof st};
        PROOF_EQ(p, wharf_right_stat(s->task, s->right, &st), 0);
        atomic_store(&p->ledger->word[WORD_UNREAD], st.unread_messages + COLD_MAX);
        s->task = wharf_task_close(s->task);
}

/* ---- calls ---- */

static void serve(struct proof *p)
{
        struct port_state *s = p->state;
        port_own(p);
        for (;;) {
                bool over = atomic_load(&p->ledger->word[WORD_OVER]);
                uint8_t bytes[PORT_MESSAGE_MAX];
                struct wharf_msg m = {.size = sizeof m, .data = bytes, .cap_bytes = sizeof bytes};
                int r = wharf_recvmsg(s->task, s->port, &m, over ? 0 : wharf_in_ms(2));
                if (r == 0) {
                        if (m.reply) {
                                r = wharf_reply(s->task, m.reply, bytes, m.len_bytes);
                                PROOF_CHECK(p, r == 0 || r == -EPIPE);
                        }
                        continue;
                }
                PROOF_CHECK(p, r == -EAGAIN || r == -ETIMEDOUT || r == -ENOTCONN);
                if (over) {
                        s->task = wharf_task_close(s->task);
                        return;
                }
        }
}

static int call_some(struct proof *p, int n, bool server_may_die)
{
        struct port_state *s = p->state;
        for (int i = 0; i < n; i++) {
                uint8_t bytes[PORT_MESSAGE_MAX], back[PORT_MESSAGE_MAX];
                uint32_t len = port_message((uint64_t)i, bytes);
                ssize_t got = wharf_call(s->task, s->right, bytes, len, back, sizeof back, WHARF_FOREVER);
                if (server_may_die && (got == -ECONNRESET || got == -EPIPE))
                        return 1;
                PROOF_EQ(p, got, len);
                PROOF_CHECK(p, !memcmp(bytes, back, len));
        }
        return 0;
}

static int call_server(struct proof *p)
{
        port_connect(p);
        return call_some(p, 12, false);
}

static void call_clean(struct proof *p)
{
        struct port_state *s = p->state;
        if (atomic_load(&p->ledger->word[WORD_OVER]))
                return; /* a rescuer before us got to its end */
        port_connect(p);
        call_some(p, 4, false);
        s->task = wharf_task_close(s->task);
        atomic_fetch_add(&p->ledger->word[WORD_CLEAN], 1);
        if (p->outcome != PROOF_PAUSED)
                atomic_store(&p->ledger->word[WORD_OVER], 1);
}

static void audit_called(struct proof *p)
{
        PROOF_CHECK(p, atomic_load(&p->ledger->word[WORD_CLEAN]) >= 1);
}

static int serve_some(struct proof *p)
{
        struct port_state *s = p->state;
        port_own(p);
        for (int i = 0; i < 10; i++) {
                uint8_t bytes[PORT_MESSAGE_MAX];
                struct wharf_msg m = {.size = sizeof m, .data = bytes, .cap_bytes = sizeof bytes};
                PROOF_EQ(p, wharf_recvmsg(s->task, s->port, &m, WHARF_FOREVER), 0);
                PROOF_EQ(p, wharf_reply(s->task, m.reply, bytes, m.len_bytes), 0);
        }
        return 0;
}

static void call_until_it_dies(struct proof *p)
{
        struct port_state *s = p->state;
        if (!port_try_connect(p))
                return;
        PROOF_EQ(p, call_some(p, 1000, true), 1);
        s->task = wharf_task_close(s->task);
}

#define PORT_OP \
        .state_bytes = sizeof(struct port_state), .setup = port_setup, .parted = port_let_go, .teardown = port_teardown
static const struct proof_op ops[] = {
        {.name = "sender",
         .victim = send_messages,
         .partner = receive_all,
         .rescue = send_clean,
         .audit = audit_received,
         PORT_OP},
        {.name = "receiver",
         .victim = receive_messages,
         .partner = send_until_it_dies,
         .audit = audit_counted,
         PORT_OP},
        {.name = "client",
         .victim = call_server,
         .partner = serve,
         .rescue = call_clean,
         .audit = audit_called,
         PORT_OP},
        {.name = "rendezvous-send",
         .victim = offer_some,
         .partner = receive_offers,
         .rescue = send_clean,
         .audit = audit_received,
         PORT_OP},
        {.name = "rendezvous-withdraw",
         .victim = offer_and_withdraw,
         .partner = receive_offers,
         .rescue = send_clean,
         .audit = audit_received,
         PORT_OP},
        {.name = "rendezvous-receive",
         .victim = take_offers,
         .partner = offer_until_it_dies,
         .audit = audit_taken,
         PORT_OP},
        {.name = "send-later",
         .victim = send_later,
         .partner = receive_what_was_left,
         .rescue = send_clean,
         .audit = audit_received,
         PORT_OP},
        {.name = "growth",
         .start = connect_and_fill,
         .victim = send_growing,
         .partner = receive_growth,
         .rescue = send_clean,
         .audit = audit_received,
         PORT_OP},
        {.name = "growth-receive",
         .start = own_growth,
         .victim = receive_grown,
         .partner = grow_until_it_dies,
         .audit = audit_counted,
         PORT_OP},
        {.name = "server", .victim = serve_some, .partner = call_until_it_dies, PORT_OP},
        {0},
};
PROOF_KILL("port", ops)
