/*
 * Events, and a world that refuses each step towards them: a call whose end is to be told, by each way that a reply comes; the end
 * of a sender; who receives; many at once. One task holds both ends.
 */
#include "port.h"

enum { MANY = 5 };

static wharf_name at; /* where is told */
static uint32_t call;
static uint64_t sender_id;
static int sent;

static struct port_state *st(struct proof *p)
{
        return p->state;
}

static int receive(struct proof *p, wharf_name port, struct wharf_msg *m, int64_t deadline_ns)
{
        static char room[16];
        *m = (struct wharf_msg){.size = sizeof *m, .data = room, .cap_bytes = sizeof room};
        return wharf_recvmsg(st(p)->task, port, m, deadline_ns);
}

static void none(struct proof *p, wharf_name port)
{
        struct wharf_msg m;
        PROOF_EQ(p, receive(p, port, &m, 0), -EAGAIN);
}

static wharf_name request(struct proof *p)
{
        struct wharf_msg m;
        PROOF_EQ(p, receive(p, st(p)->port, &m, wharf_in_ms(5000)), 0);
        PROOF_CHECK(p, m.reply && m.len_bytes == 4 && !memcmp(m.data, "call", 4));
        return m.reply;
}

static int start(struct proof *p)
{
        struct wharf_msg m = {.size = sizeof m, .data = (char[]){"call"}, .len_bytes = 4};
        return wharf_call_start(st(p)->task, st(p)->right, &m, at, 0, &call);
}

static int hear(struct proof *p)
{
        struct wharf_msg m;
        int r = receive(p, at, &m, 0);
        if (r < 0)
                return r;
        PROOF_EQ(p, m.notice, WHARF_NOTICE_REPLY);
        PROOF_EQ(p, m.about, st(p)->right);
        PROOF_EQ(p, m.call, call);
        PROOF_CHECK(p, m.error == 0 || p->injected);
        sent = m.error;
        return 0;
}

static void finish(struct proof *p)
{
        char back[4];
        struct wharf_msg m = {.size = sizeof m, .data = back, .cap_bytes = sizeof back};
        /* Where there was too little, it is there still. */
        const bool later = sent == -EAGAIN || sent == -ENOMEM || sent == -ENOBUFS || sent == -EMFILE || sent == -ENFILE;
        PROOF_EQ(p, wharf_call_finish(st(p)->task, st(p)->right, call, &m, later ? wharf_in_ms(5000) : 0),
                 later ? 0 : sent);
        if (sent == 0 || later)
                PROOF_CHECK(p, m.len_bytes == 4 && !memcmp(back, "back", 4));
        none(p, at);
}

/* A call as it goes well, answered in place. */
static void exchange(struct proof *p)
{
        sent = 0;
        PROOF_EQ(p, start(p), 0);
        PROOF_EQ(p, wharf_reply(st(p)->task, request(p), "back", 4), 0);
        PROOF_EQ(p, hear(p), 0);
        finish(p);
}

/* A task that keeps what it keeps: frames alone, or lanes both ways. */
static void setup_with(struct proof *p, int exchanges)
{
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        struct wharf_right_stat rs = {.size = sizeof rs};
        st(p)->listener = -1;
        PROOF_EQ(p, wharf_task_open(NULL, &st(p)->task), 0);
        PROOF_EQ(p, wharf_port_new(st(p)->task, &o, &at), 0);
        PROOF_EQ(p, wharf_port_new(st(p)->task, &o, &st(p)->port), 0);
        PROOF_EQ(p, wharf_right_new(st(p)->task, st(p)->port, &st(p)->right), 0);
        for (int i = 0; i < exchanges; i++)
                exchange(p);
        PROOF_EQ(p, wharf_right_stat(st(p)->task, st(p)->right, &rs), 0);
        PROOF_EQ(p, rs.attached != 0, exchanges > 3);
        sender_id = rs.sender_id;
        call = 0;
        sent = 0;
}

static void setup_cold(struct proof *p)
{
        setup_with(p, 2);
}

static void setup_warm(struct proof *p)
{
        setup_with(p, 60);
}

static void not_started(struct proof *p)
{
        PROOF_EQ(p, call, 0);
}

static void audit_started(struct proof *p)
{
        none(p, at);
        PROOF_EQ(p, wharf_reply(st(p)->task, request(p), "back", 4), 0);
        PROOF_EQ(p, hear(p), 0);
        finish(p);
        exchange(p);
}

static void answer(struct proof *p)
{
        PROOF_EQ(p, start(p), 0);
        PROOF_EQ(p, wharf_reply(st(p)->task, request(p), "back", 4), 0);
}

static void setup_answered_cold(struct proof *p)
{
        setup_cold(p);
        answer(p);
}

static void setup_answered(struct proof *p)
{
        setup_warm(p);
        answer(p);
}

/* The reply right was passed on, over the same port, so the reply comes by a socket of its own. */
static void setup_passed_on(struct proof *p)
{
        setup_cold(p);
        for (int i = 0; i < 2; i++) { /* the first for what is kept */
                struct wharf_item item = {.kind = WHARF_MOVE_REPLY};
                struct wharf_msg m = {.size = sizeof m, .items = &item, .n_items = 1}, in = {.size = sizeof in};
                in.items = &item;
                in.cap_items = 1;
                PROOF_EQ(p, start(p), 0);
                item.name = request(p);
                PROOF_EQ(p, wharf_sendmsg(st(p)->task, st(p)->right, &m, 0), 0);
                PROOF_EQ(p, wharf_recvmsg(st(p)->task, st(p)->port, &in, wharf_in_ms(5000)), 0);
                PROOF_EQ(p, item.kind, WHARF_GOT_REPLY);
                PROOF_EQ(p, wharf_reply(st(p)->task, item.name, "back", 4), 0);
                if (i == 0) {
                        PROOF_EQ(p, hear(p), 0);
                        finish(p);
                }
        }
}

static void audit_told(struct proof *p)
{
        finish(p);
        if (sent == 0)
                exchange(p);
}

/* ---- a request goes on, over the same right ---- */

static struct wharf_msg taken;

static void take_request(struct proof *p)
{
        PROOF_EQ(p, start(p), 0);
        PROOF_EQ(p, receive(p, st(p)->port, &taken, wharf_in_ms(5000)), 0);
}

static void setup_taken_cold(struct proof *p)
{
        setup_cold(p);
        take_request(p); /* for what is kept */
        PROOF_EQ(p, wharf_forward(st(p)->task, st(p)->right, &taken, 0), 0);
        PROOF_EQ(p, wharf_reply(st(p)->task, request(p), "back", 4), 0);
        PROOF_EQ(p, hear(p), 0);
        finish(p);
        take_request(p);
}

static void setup_taken(struct proof *p)
{
        setup_warm(p);
        take_request(p);
}

static int forward(struct proof *p)
{
        return wharf_forward(st(p)->task, st(p)->right, &taken, 0);
}

static void not_forwarded(struct proof *p)
{
        PROOF_EQ(p, wharf_name_kind(st(p)->task, taken.reply), WHARF_KIND_REPLY);
        PROOF_CHECK(p, taken.len_bytes == 4 && !memcmp(taken.data, "call", 4));
        none(p, st(p)->port);
}

/* Whoever cannot be told where its answer comes from loses its link; and then it is told that. */
static void audit_forwarded(struct proof *p)
{
        struct wharf_right_stat rs = {.size = sizeof rs};
        struct wharf_msg m;
        PROOF_EQ(p, taken.reply, WHARF_NONE);
        int r = receive(p, st(p)->port, &m, wharf_in_ms(5000));
        if (r == 0)
                r = wharf_reply(st(p)->task, m.reply, "back", 4);
        PROOF_EQ(p, hear(p), 0);
        PROOF_EQ(p, wharf_right_stat(st(p)->task, st(p)->right, &rs), 0);
        PROOF_CHECK(p, (r == 0 && sent == 0) || (p->injected && rs.dead));
        finish(p);
}

/* ---- the end of a sender ---- */

static int ask_gone(struct proof *p)
{
        return wharf_sender_notify(st(p)->task, sender_id, at);
}

static void not_asked(struct proof *p)
{
        PROOF_EQ(p, wharf_sender_notify_cancel(st(p)->task, sender_id), -ENOENT);
}

static void audit_gone(struct proof *p)
{
        struct wharf_msg m;
        none(p, at);
        PROOF_EQ(p, wharf_drop(st(p)->task, st(p)->right), 0);
        none(p, st(p)->port);
        PROOF_EQ(p, receive(p, at, &m, wharf_in_ms(5000)), 0);
        PROOF_EQ(p, m.notice, WHARF_NOTICE_SENDER_GONE);
        PROOF_EQ(p, m.sender.id, sender_id);
        PROOF_EQ(p, m.about, st(p)->port);
        none(p, at);
}

/* ---- who receives ---- */

static int ask_owner(struct proof *p)
{
        struct wharf_owner who;
        int r = -EAGAIN;
        for (int i = 0; i < 3 && r == -EAGAIN; i++) { /* the owner looks between asking and hearing */
                r = wharf_right_owner(st(p)->task, st(p)->right, 0, &who);
                struct wharf_msg m;
                PROOF_CHECK(p, receive(p, st(p)->port, &m, 0) < 0);
        }
        if (r == 0)
                PROOF_CHECK(p, who.pid == getpid() && who.uid == getuid() && who.gid == getgid());
        return r;
}

static void audit_exchange(struct proof *p)
{
        exchange(p);
}

/* ---- many at once ---- */

static int send_many(struct proof *p)
{
        struct wharf_msg m[MANY];
        static uint8_t bytes[MANY];
        for (uint8_t i = 0; i < MANY; i++) {
                bytes[i] = (uint8_t)(sent + i);
                m[i] = (struct wharf_msg){.size = sizeof m[i], .data = &bytes[i], .len_bytes = 1};
        }
        int r = wharf_sendmany(st(p)->task, st(p)->right, m, (unsigned)(MANY - sent), 0);
        if (r < 0)
                return r;
        sent += r;
        return sent == MANY ? 0 : -EAGAIN; /* a prefix, and then the rest */
}

static void audit_sent(struct proof *p)
{
        struct wharf_msg m[MANY + 1];
        uint8_t bytes[MANY + 1] = {0};
        for (int i = 0; i <= MANY; i++)
                m[i] = (struct wharf_msg){.size = sizeof m[i], .data = &bytes[i], .cap_bytes = 1};
        for (int got = 0, r; got < MANY; got += r) {
                r = wharf_recvmany(st(p)->task, st(p)->port, m + got, (unsigned)(MANY + 1 - got), wharf_in_ms(5000));
                PROOF_CHECK(p, r > 0);
        }
        for (int i = 0; i < MANY; i++)
                PROOF_EQ(p, bytes[i], i);
        none(p, st(p)->port);
        exchange(p);
}

static const int errors[] = {-EAGAIN, -ENOMEM, -EMFILE, -EPIPE, -ETOOMANYREFS, -EOPNOTSUPP, 0};
#define EVENTS_OP .state_bytes = sizeof(struct port_state), .teardown = port_teardown, .errors = errors
static const struct proof_op ops[] = {
        {.name = "start-cold",
         .progress = true,
         .setup = setup_cold,
         .victim = start,
         .unchanged = not_started,
         .audit = audit_started,
         EVENTS_OP},
        {.name = "start",
         .setup = setup_warm,
         .victim = start,
         .unchanged = not_started,
         .audit = audit_started,
         EVENTS_OP},
        {.name = "told-cold",
         .progress = true,
         .setup = setup_answered_cold,
         .victim = hear,
         .audit = audit_told,
         EVENTS_OP},
        {.name = "told", .progress = true, .setup = setup_answered, .victim = hear, .audit = audit_told, EVENTS_OP},
        {.name = "told-passed-on",
         .progress = true,
         .setup = setup_passed_on,
         .victim = hear,
         .audit = audit_told,
         .keeps_fds = 1,
         EVENTS_OP},
        {.name = "forward-cold",
         .progress = true,
         .setup = setup_taken_cold,
         .victim = forward,
         .unchanged = not_forwarded,
         .audit = audit_forwarded,
         EVENTS_OP},
        {.name = "forward",
         .progress = true,
         .setup = setup_taken,
         .victim = forward,
         .unchanged = not_forwarded,
         .audit = audit_forwarded,
         EVENTS_OP},
        {.name = "gone",
         .setup = setup_cold,
         .victim = ask_gone,
         .unchanged = not_asked,
         .audit = audit_gone,
         EVENTS_OP},
        {.name = "owner",
         .progress = true,
         .setup = setup_cold,
         .victim = ask_owner,
         .audit = audit_exchange,
         EVENTS_OP},
        {.name = "many-cold",
         .progress = true,
         .setup = setup_cold,
         .victim = send_many,
         .audit = audit_sent,
         EVENTS_OP},
        {.name = "many", .setup = setup_warm, .victim = send_many, .audit = audit_sent, EVENTS_OP},
        {0},
};
PROOF_FAIL("events", ops)
