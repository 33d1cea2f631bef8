/*
 * A receive right is on its way from one task to another while a sender sends and a caller waits; and one of them dies.
 *
 * Either the port arrives, and then every message that was sent is received once, in order, by the former owner or the
 * new one; or it does not, and then every sender and every caller is told.
 */
#include "rights.h"

enum {
        EARLY = 24, /* messages before the port moves: the lane is attached by then */
        MORE = 12,  /* and after it came */
};

/* ---- the owner that lets go ---- */

/* Receives one message of the ledger, or a call, which it answers. */
static int own_receive(struct proof *p, struct port_state *s, int64_t deadline_ns)
{
        uint8_t bytes[PORT_MESSAGE_MAX];
        struct wharf_msg m = {.size = sizeof m, .data = bytes, .cap_bytes = sizeof bytes};
        int r = wharf_recvmsg(s->task, s->port, &m, deadline_ns);
        if (r < 0)
                return r;
        if (m.reply) {
                r = wharf_reply(s->task, m.reply, bytes, m.len_bytes);
                PROOF_CHECK(p, r == 0 || r == -EPIPE);
        } else if (m.len_bytes == 4 && bytes[0] == PORT_CLEAN) {
                atomic_fetch_add(&p->ledger->word[WORD_CLEAN], 1);
        } else {
                proof_ledger_received(p, bytes, m.len_bytes);
        }
        return 0;
}

static void own_port(struct proof *p)
{
        rights_with(p, &rights(p)->port, port_own);
}

static void own_port_of(struct proof *p)
{
        rights_with(p, &rights(p)->home, port_let_go);
        own_port(p);
        while (atomic_load(&p->ledger->received) < EARLY)
                PROOF_EQ(p, own_receive(p, &rights(p)->port, WHARF_FOREVER), 0);
}

/* 0: it is gone. */
static int let_go(struct proof *p)
{
        struct port_state *s = &rights(p)->port;
        PROOF_EQ(p, wharf_port_listen(s->task, s->port, -1), 0);
        if (!rights(p)->to_home) {
                int r = wharf_right_connect(s->task, rights(p)->home.path, &rights(p)->to_home);
                if (r < 0)
                        return r;
        }
        struct wharf_item item = {.kind = WHARF_MOVE_RECEIVE, .name = s->port};
        struct wharf_msg m = {.size = sizeof m, .items = &item, .n_items = 1};
        return wharf_sendmsg(s->task, rights(p)->to_home, &m, WHARF_FOREVER);
}

/* The port leaves with messages unread, a call among them. */
static int move_away(struct proof *p)
{
        struct port_state *s = &rights(p)->port;
        PROOF_EQ(p, own_receive(p, s, WHARF_FOREVER), 0);
        PROOF_EQ(p, let_go(p), 0);
        PROOF_EQ(p, wharf_drop(s->task, rights(p)->to_home), 0);
        s->task = wharf_task_close(s->task);
        return 0;
}

/* ---- the new owner ---- */

static void own_home(struct proof *p)
{
        rights_with(p, &rights(p)->home, port_own);
}

/* False: it has not come. */
static bool home_look(struct proof *p, int64_t deadline_ns)
{
        struct port_state *h = &rights(p)->home;
        struct wharf_item item;
        struct wharf_msg m = {.size = sizeof m, .items = &item, .cap_items = 1};
        int r = wharf_recvmsg(h->task, h->port, &m, deadline_ns);
        if (r < 0) {
                PROOF_CHECK(p, r == -EAGAIN || r == -ETIMEDOUT || r == -ENOTCONN);
                return false;
        }
        PROOF_EQ(p, m.n_items, 1);
        PROOF_EQ(p, item.kind, WHARF_GOT_RECEIVE);
        PROOF_EQ(p, wharf_drop(h->task, h->port), 0);
        h->port = item.name;
        rights_word_set(p, WORD_ARRIVED);
        return true;
}

/* ---- the sender and the caller: another task ---- */

/* One message more, if there is room. False: the port is dead. */
static bool send_one(struct proof *p, int64_t deadline_ns)
{
        void *all = p->state;
        p->state = &rights(p)->send;
        int r = port_send(p, deadline_ns);
        p->state = all;
        if (r == 0)
                return true;
        port_unsend(p);
        PROOF_CHECK(p, r == -EAGAIN || r == -ETIMEDOUT || r == -EPIPE);
        return r != -EPIPE;
}

static void call_begin(struct proof *p)
{
        struct port_state *s = &rights(p)->send;
        struct wharf_msg m = {.size = sizeof m, .data = (char[]){"call"}, .len_bytes = 4};
        int r = wharf_call_start(s->task, s->right, &m, WHARF_NONE, WHARF_FOREVER, &rights(p)->call);
        PROOF_CHECK(p, r == 0 || r == -EPIPE);
}

/* The call that was begun has its answer, or its end. */
static void call_ends(struct proof *p, bool must_succeed)
{
        struct port_state *s = &rights(p)->send;
        uint8_t back[8];
        struct wharf_msg m = {.size = sizeof m, .data = back, .cap_bytes = sizeof back};
        if (!rights(p)->call)
                return;
        int r = wharf_call_finish(s->task, s->right, rights(p)->call, &m, WHARF_FOREVER);
        if (must_succeed)
                PROOF_EQ(p, r, 0);
        PROOF_CHECK(p, r == 0 || r == -EPIPE || r == -ECONNRESET || r == -ECANCELED);
        if (r == 0)
                PROOF_CHECK(p, m.len_bytes == 4 && !memcmp(back, "call", 4));
}

static void told(struct proof *p)
{
        struct port_state *s = &rights(p)->send;
        struct wharf_right_stat rs = {.size = sizeof rs};
        PROOF_EQ(p, wharf_right_stat(s->task, s->right, &rs), 0);
        PROOF_EQ(p, rs.dead, -EPIPE);
        rights_word_set(p, WORD_TOLD);
}

/* ---- the former owner dies ---- */

/* The new owner and the sender, which has more to send than there is room for, and a call. */
static void await_the_port(struct proof *p)
{
        struct port_state *h = &rights(p)->home;
        bool here = false, lives = true;
        own_home(p);
        rights_with(p, &rights(p)->port, port_let_go);
        if (!rights_join(p))
                return;
        while (lives && !here) {
                lives = send_one(p, atomic_load(&p->ledger->sent) < EARLY ? WHARF_FOREVER : 0);
                if (lives && !rights(p)->call && atomic_load(&p->ledger->sent) > EARLY)
                        call_begin(p);
                here = home_look(p, lives && atomic_load(&p->ledger->sent) > EARLY ? wharf_in_ms(1) : 0);
        }
        if (!here) {
                told(p);
                call_ends(p, false);
                return;
        }
        while (lives && own_receive(p, h, 0) == 0)
                ;
        for (int i = 0; i < MORE; i++) {
                PROOF_CHECK(p, send_one(p, WHARF_FOREVER));
                PROOF_EQ(p, own_receive(p, h, WHARF_FOREVER), 0);
        }
        while (atomic_load(&p->ledger->received) < atomic_load(&p->ledger->sent))
                PROOF_EQ(p, own_receive(p, h, wharf_in_ms(5000)), 0);
        call_ends(p, true);
        PROOF_EQ(p, own_receive(p, h, 0), -EAGAIN);
}

static void audit_arrived_or_told(struct proof *p)
{
        PROOF_CHECK(p, rights_word(p, WORD_ARRIVED) || p->outcome == PROOF_KILLED);
        PROOF_CHECK(p, !rights_word(p, WORD_ARRIVED) || !rights_word(p, WORD_TOLD));
        if (rights_word(p, WORD_ARRIVED))
                proof_ledger_balance(p, 0);
        PROOF_CHECK(p, atomic_load(&p->ledger->received) <= atomic_load(&p->ledger->intent));
}

/* ---- the new owner dies ---- */

static int adopt(struct proof *p)
{
        struct port_state *h = &rights(p)->home;
        PROOF_CHECK(p, home_look(p, WHARF_FOREVER));
        for (int i = 0; i < MORE; i++)
                PROOF_EQ(p, own_receive(p, h, WHARF_FOREVER), 0);
        h->task = wharf_task_close(h->task);
        return 0;
}

static void own_home_of(struct proof *p)
{
        rights_with(p, &rights(p)->port, port_let_go);
        own_home(p);
}

/* The former owner, and the sender. */
static void give_away(struct proof *p)
{
        struct port_state *s = &rights(p)->port;
        own_port(p);
        rights_with(p, &rights(p)->home, port_let_go);
        PROOF_CHECK(p, rights_join(p));
        for (int i = 0; i < EARLY; i++) {
                PROOF_CHECK(p, send_one(p, WHARF_FOREVER));
                if (i < EARLY - 4)
                        PROOF_EQ(p, own_receive(p, s, WHARF_FOREVER), 0);
        }
        call_begin(p);
        int r = let_go(p);
        if (r < 0) { /* there was nobody: the port is ours as ever, with all that is in it */
                PROOF_CHECK(p, r == -ECONNREFUSED || r == -EPIPE);
                while (own_receive(p, s, 0) == 0)
                        ;
                PROOF_EQ(p, atomic_load(&p->ledger->received), atomic_load(&p->ledger->sent));
                call_ends(p, true);
                return;
        }
        while (send_one(p, WHARF_FOREVER))
                ;
        told(p);
        call_ends(p, false);
}

static void audit_sound(struct proof *p)
{
        PROOF_CHECK(p, atomic_load(&p->ledger->received) <= atomic_load(&p->ledger->intent));
}

/* ---- a sender dies, while its port changes hands ---- */

static void connect_early(struct proof *p)
{
        rights_parted(p);
        PROOF_CHECK(p, rights_join(p));
        for (int i = 0; i < EARLY; i++)
                PROOF_CHECK(p, send_one(p, WHARF_FOREVER));
        while (!rights_word(p, WORD_ARRIVED))
                usleep(100);
}

/* Its next message finds that there is a new owner, and goes over. */
static int send_on(struct proof *p)
{
        for (int i = 0; i < MORE; i++)
                PROOF_CHECK(p, send_one(p, WHARF_FOREVER));
        call_begin(p);
        call_ends(p, true);
        rights(p)->send.task = wharf_task_close(rights(p)->send.task);
        return 0;
}

/* Both owners. The port is accepted at again by the new one, for those who come after the death. */
static void hand_over(struct proof *p)
{
        struct port_state *s = &rights(p)->port, *h = &rights(p)->home;
        own_home(p);
        own_port(p);
        while (atomic_load(&p->ledger->received) < EARLY - 4)
                PROOF_EQ(p, own_receive(p, s, WHARF_FOREVER), 0);
        PROOF_EQ(p, let_go(p), 0);
        PROOF_CHECK(p, home_look(p, WHARF_FOREVER));
        PROOF_EQ(p, wharf_port_listen(h->task, h->port, s->listener), 0);
        for (;;) {
                bool over = rights_word(p, WORD_OVER);
                int r = own_receive(p, h, over ? 0 : wharf_in_ms(2));
                PROOF_CHECK(p, r == 0 || r == -EAGAIN || r == -ETIMEDOUT || r == -ENOTCONN);
                struct wharf_port_stat ps = {.size = sizeof ps};
                PROOF_EQ(p, wharf_port_stat(h->task, h->port, &ps), 0);
                PROOF_EQ(p, ps.refused_links, 0);
                if (r < 0 && over && ps.senders == 0)
                        return;
        }
}

static void send_clean(struct proof *p)
{
        struct port_state *s = &rights(p)->send;
        if (rights_word(p, WORD_OVER))
                return;
        rights_parted(p);
        PROOF_CHECK(p, rights_join(p));
        for (int i = 0; i < PORT_N_CLEAN; i++)
                PROOF_EQ(p, wharf_send(s->task, s->right, (uint8_t[4]){PORT_CLEAN}, 4, WHARF_FOREVER), 0);
        s->task = wharf_task_close(s->task);
        if (p->outcome != PROOF_PAUSED)
                rights_word_set(p, WORD_OVER);
}

static void audit_received(struct proof *p)
{
        proof_ledger_balance(p, 0);
        PROOF_CHECK(p, rights_word(p, WORD_CLEAN) >= PORT_N_CLEAN);
}

#define MOVE_OP                                                                                     \
        .state_bytes = sizeof(struct rights_state), .setup = rights_setup, .parted = rights_parted, \
        .teardown = rights_teardown
static const struct proof_op ops[] = {
        {.name = "former-owner",
         .start = own_port_of,
         .victim = move_away,
         .partner = await_the_port,
         .audit = audit_arrived_or_told,
         MOVE_OP},
        {.name = "new-owner",
         .start = own_home_of,
         .victim = adopt,
         .partner = give_away,
         .audit = audit_sound,
         MOVE_OP},
        {.name = "sender",
         .start = connect_early,
         .victim = send_on,
         .partner = hand_over,
         .rescue = send_clean,
         .audit = audit_received,
         MOVE_OP},
        {0},
};
PROOF_KILL("move", ops)
