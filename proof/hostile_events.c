/*
 * Events, and another end that lies: about replies that are told of, about what many at once bring, about having received
 * them, about who receives. One task holds both ends; the liar is whoever wrote what is being read. A new right to the same
 * port is then as good as ever, and each call was told of once at most.
 */
#include "both_ends.h"
#include "port.h"

enum { MANY = 6, ROUNDS = 10, LARGE = 3000 };

static wharf_name at; /* where is told */

static struct port_state *st(struct proof *p)
{
        return p->state;
}

static void setup(struct proof *p)
{
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        st(p)->listener = -1;
        PROOF_EQ(p, wharf_task_open(NULL, &st(p)->task), 0);
        PROOF_EQ(p, wharf_port_new(st(p)->task, &o, &at), 0);
        PROOF_EQ(p, wharf_port_new(st(p)->task, &o, &st(p)->port), 0);
        PROOF_EQ(p, wharf_right_new(st(p)->task, st(p)->port, &st(p)->right), 0);
}

/* One request, answered: in place, by somebody else, or not at all. */
static int serve(struct proof *p, int way)
{
        static uint8_t bytes[LARGE];
        uint8_t room[16];
        struct wharf_item item = {0};
        struct wharf_msg m = {.size = sizeof m, .data = room, .cap_bytes = sizeof room, .items = &item, .cap_items = 1};
        int r = wharf_recvmsg(st(p)->task, st(p)->port, &m, 0);
        proof_next_call();
        if (r < 0 || !m.reply)
                return r;
        memset(bytes, 'b', sizeof bytes);
        if (way == 0)
                return wharf_drop(st(p)->task, m.reply);
        if (way > 1)
                return wharf_reply(st(p)->task, m.reply, bytes, way == 2 ? LARGE : 10);
        item = (struct wharf_item){.kind = WHARF_MOVE_REPLY, .name = m.reply};
        struct wharf_msg on = {.size = sizeof on, .items = &item, .n_items = 1};
        if ((r = wharf_sendmsg(st(p)->task, st(p)->right, &on, 0)) < 0)
                return r;
        proof_next_call();
        item = (struct wharf_item){0};
        on = (struct wharf_msg){.size = sizeof on, .items = &item, .cap_items = 1};
        if ((r = wharf_recvmsg(st(p)->task, st(p)->port, &on, 0)) < 0 || !on.n_items)
                return r;
        if (item.kind == WHARF_GOT_REPLY)
                return wharf_reply(st(p)->task, item.name, bytes, 10);
        if (item.kind == WHARF_GOT_FD)
                close(item.fd);
        else
                wharf_drop(st(p)->task, item.name);
        return 0;
}

/* What is told of this call: its end, once, and no other. It may be that nothing is, for one who lies does not answer. */
static int hear(struct proof *p, uint32_t call, int way)
{
        static uint8_t back[LARGE];
        struct wharf_msg m = {.size = sizeof m}, reply = {.size = sizeof reply, .data = back, .cap_bytes = sizeof back};
        int r = wharf_recvmsg(st(p)->task, at, &m, 0);
        proof_next_call();
        if (r < 0) {
                wharf_call_cancel(st(p)->task, st(p)->right, call);
                return r;
        }
        PROOF_EQ(p, m.notice, WHARF_NOTICE_REPLY);
        PROOF_EQ(p, m.about, st(p)->right);
        PROOF_EQ(p, m.call, call);
        PROOF_CHECK(p, p->lied || m.error == (way ? 0 : -ECANCELED));
        r = wharf_call_finish(st(p)->task, st(p)->right, call, &reply, 0);
        proof_next_call();
        if (r == -EOVERFLOW && p->lied) {
                wharf_call_cancel(st(p)->task, st(p)->right, call);
                return r;
        }
        PROOF_EQ(p, r, m.error);
        if (r == 0 && !p->lied)
                PROOF_CHECK(p, reply.len_bytes == (way == 2 ? LARGE : 10) && back[0] == 'b');
        struct wharf_msg none = {.size = sizeof none};
        PROOF_EQ(p, wharf_recvmsg(st(p)->task, at, &none, 0), -EAGAIN);
        proof_next_call();
        return p->lied || way ? r : 0;
}

static int call_all(struct proof *p)
{
        for (int i = 0; i < ROUNDS; i++) {
                const int way = i % 4;
                uint32_t call;
                struct wharf_msg m = {.size = sizeof m, .data = (char[]){"call"}, .len_bytes = 4};
                int r = wharf_call_start(st(p)->task, st(p)->right, &m, at, 0, &call);
                proof_next_call();
                if (r < 0)
                        return r;
                int served = serve(p, way);
                proof_next_call();
                r = hear(p, call, way);
                if (served < 0 || r < 0)
                        return served < 0 ? served : r;
        }
        return 0;
}

/* Many of them, some with a payload of a section, are sent and received at once. */
static int exchange_many(struct proof *p)
{
        static uint8_t bytes[LARGE], room[MANY][LARGE];
        for (int round = 0; round < ROUNDS; round++) {
                struct wharf_msg m[MANY];
                for (int i = 0; i < MANY; i++)
                        m[i] = (struct wharf_msg){
                                .size = sizeof m[i], .id = (uint32_t)i, .data = bytes, .len_bytes = i == 2 ? LARGE : 8};
                int r = wharf_sendmany(st(p)->task, st(p)->right, m, MANY, 0);
                proof_next_call();
                if (r < 0)
                        return r;
                PROOF_CHECK(p, r <= MANY && (p->lied || r == MANY));
                for (int got = 0, n; got < r; got += n) {
                        for (int i = 0; i < MANY; i++)
                                m[i] = (struct wharf_msg){.size = sizeof m[i], .data = room[i], .cap_bytes = LARGE};
                        n = wharf_recvmany(st(p)->task, st(p)->port, m, (unsigned)(r - got), 0);
                        proof_next_call();
                        if (n < 0)
                                return n;
                        PROOF_CHECK(p, n >= 1 && n <= r - got);
                        for (int i = 0; i < n; i++) {
                                PROOF_CHECK(p, m[i].len_bytes <= LARGE);
                                PROOF_CHECK(p, p->lied || (m[i].id == (uint32_t)(got + i) && !m[i].notice));
                                if (m[i].reply)
                                        wharf_drop(st(p)->task, m[i].reply);
                        }
                }
        }
        return 0;
}

/* One hop of a request: taken, and sent on, or answered at last. */
static int hop(struct proof *p, bool last, bool with_fd)
{
        uint8_t room[16];
        struct wharf_item item;
        struct wharf_msg m = {.size = sizeof m, .data = room, .cap_bytes = sizeof room, .items = &item, .cap_items = 1};
        int r = wharf_recvmsg(st(p)->task, st(p)->port, &m, 0);
        proof_next_call();
        if (r < 0)
                return r;
        PROOF_CHECK(p, p->lied || (m.reply && m.n_items == with_fd && !memcmp(room, "call", 4)));
        if (!last)
                r = wharf_forward(st(p)->task, st(p)->right, &m, 0);
        else if (m.reply)
                r = wharf_reply(st(p)->task, m.reply, "bbbbbbbbbb", 10);
        proof_next_call();
        if (!last || r < 0)
                wharf_drop(st(p)->task, m.reply); /* what went on has none */
        for (unsigned k = 0; k < m.n_items; k++)
                if (item.kind == WHARF_GOT_FD)
                        close(item.fd);
                else
                        wharf_drop(st(p)->task, item.name);
        return r;
}

/* A request goes on over the same right, and is answered there; now and then it has a descriptor with it. */
static int forward_all(struct proof *p)
{
        for (int i = 0; i < ROUNDS; i++) {
                uint32_t call;
                struct wharf_item item = {.kind = WHARF_COPY_FD, .fd = 2};
                struct wharf_msg m = {.size = sizeof m,
                                      .data = (char[]){"call"},
                                      .len_bytes = 4,
                                      .items = &item,
                                      .n_items = (uint32_t)i % 2};
                int r = wharf_call_start(st(p)->task, st(p)->right, &m, at, 0, &call);
                proof_next_call();
                if (r < 0)
                        return r;
                r = hop(p, false, i % 2);
                if (r == 0)
                        r = hop(p, true, i % 2);
                const int told = hear(p, call, 3);
                if (r < 0 || told < 0)
                        return r < 0 ? r : told;
        }
        return 0;
}

/* The owner looks between asking and hearing. Nobody but the kernel says who that is. */
static int ask_owner(struct proof *p)
{
        for (int i = 0; i < 3; i++) {
                struct wharf_owner who;
                int r = -EAGAIN;
                for (int k = 0; k < 3 && r == -EAGAIN; k++) {
                        r = wharf_right_owner(st(p)->task, st(p)->right, 0, &who);
                        proof_next_call();
                        uint8_t byte;
                        ssize_t n = wharf_recv(st(p)->task, st(p)->port, &byte, 1, NULL, 0);
                        PROOF_CHECK(p, p->lied || n == -EAGAIN);
                        proof_next_call();
                }
                if (r < 0)
                        return r;
                PROOF_CHECK(p, who.pid == getpid() && who.uid == getuid() && who.gid == getgid());
        }
        return 0;
}

/* Another right to the same port, and a call over it. */
static void audit(struct proof *p)
{
        wharf_name right;
        char back[2];
        PROOF_EQ(p, wharf_right_new(st(p)->task, st(p)->port, &right), 0);
        uint32_t call;
        struct wharf_msg m = {.size = sizeof m, .data = (char[]){PORT_CLEAN}, .len_bytes = 1};
        PROOF_EQ(p, wharf_call_start(st(p)->task, right, &m, at, 0, &call), 0);
        bool answered = false;
        for (int turn = 0; turn < 400 && !answered; turn++) {
                struct wharf_item items[WHARF_ITEMS_MAX];
                struct wharf_msg in = {
                        .size = sizeof in, .flags = WHARF_RECV_ALLOC, .items = items, .cap_items = WHARF_ITEMS_MAX};
                if (wharf_recvmsg(st(p)->task, st(p)->port, &in, 0) < 0)
                        continue;
                for (unsigned i = 0; i < in.n_items; i++)
                        if (items[i].kind == WHARF_GOT_FD)
                                close(items[i].fd);
                        else
                                wharf_drop(st(p)->task, items[i].name);
                if (in.reply && in.len_bytes == 1 && *(char *)in.data == PORT_CLEAN) {
                        PROOF_EQ(p, wharf_reply(st(p)->task, in.reply, "ok", 2), 0);
                        answered = true;
                } else if (in.reply) {
                        wharf_drop(st(p)->task, in.reply);
                }
                wharf_release(st(p)->task, &in);
        }
        PROOF_CHECK(p, answered);
        do { /* what was told of the liar's calls, and not received, is before it */
                m = (struct wharf_msg){.size = sizeof m};
                PROOF_EQ(p, wharf_recvmsg(st(p)->task, at, &m, wharf_in_ms(5000)), 0);
        } while (m.about != right);
        PROOF_EQ(p, m.call, call);
        m = (struct wharf_msg){.size = sizeof m, .data = back, .cap_bytes = sizeof back};
        PROOF_EQ(p, wharf_call_finish(st(p)->task, right, call, &m, 0), 0);
        PROOF_CHECK(p, m.len_bytes == 2 && !memcmp(back, "ok", 2));
}

static const int errors[] = {-ENOMEM, -EAGAIN,  -ENOTCONN,     -EOVERFLOW, -EPIPE,       -EPROTO,     -EPROTONOSUPPORT,
                             -EDQUOT, -ENOBUFS, -EMLINK,       -EMSGSIZE,  -ECANCELED,   -EMFILE,     -ECONNRESET,
                             -EBADF,  -EPERM,   -ETOOMANYREFS, -EBUSY,     -EKEYREVOKED, -EOPNOTSUPP, 0};
#define EVENTS_OP                                                                                              \
        .state_bytes = sizeof(struct port_state), .teardown = port_teardown, .errors = errors, .audit = audit, \
        .setup = setup, .steps_max = 200000, .looks_again = true
static const struct proof_op ops[] = {
        {.name = "caller", .victim = call_all, .liar_writes = memory_of_the_sender, EVENTS_OP},
        {.name = "server", .victim = call_all, .liar_writes = memory_of_the_receiver, EVENTS_OP},
        {.name = "many-sent", .victim = exchange_many, .liar_writes = memory_of_the_sender, EVENTS_OP},
        {.name = "many-taken", .victim = exchange_many, .liar_writes = memory_of_the_receiver, EVENTS_OP},
        {.name = "forwarded", .victim = forward_all, .liar_writes = memory_of_the_sender, EVENTS_OP},
        {.name = "owner", .victim = ask_owner, .liar_writes = memory_of_the_receiver, EVENTS_OP},
        {0},
};
PROOF_HOSTILE("events", ops)
