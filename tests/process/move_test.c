/*
 * A receive right goes from task to task, while its senders send, attach, sleep, wait for room, call, or write in
 * place: nothing is lost, doubled or reordered for any of them, and it has one owner or none at every moment.
 */
#include "carrier.h"
#include "hub.h"

#include "os/os.h"
#include "message/move.h"
#include "port/owned.h"
#include "port/port.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>

/* ---- helpers: a new owner is a forked process with a mailbox of its own, in which the port arrives ---- */

struct owner {
        struct hub *hub;
        int (*run)(wharf_task *t, wharf_name port, wharf_name hub, void *arg);
        void *arg;
        bool first; /* the test wants to do something with the task before the port comes */
};

static wharf_name await_port(wharf_task *t, wharf_name mailbox)
{
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(t, mailbox, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.n_items, 1);
        CHECK_EQ(it.kind, WHARF_GOT_RECEIVE);
        CHECK_EQ(wharf_name_kind(t, it.name), WHARF_KIND_PORT);
        return it.name;
}

static int owner_main(void *arg)
{
        struct owner *o = arg;
        wharf_name hub, mailbox;
        wharf_task *t = hub_join(o->hub, &hub);
        CHECK_EQ(wharf_port_new(t, NULL, &mailbox), 0);
        struct wharf_item mine = {.kind = WHARF_MAKE_SEND, .name = mailbox};
        struct wharf_msg m = MSG(.items = &mine, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(t, hub, &m, WHARF_FOREVER), 0);
        int r = o->run(t, o->first ? mailbox : await_port(t, mailbox), hub, o->arg);
        wharf_task_close(t);
        return r;
}

/* Starts one; *ret is the right to its mailbox. */
static pid_t owner_start(struct owner *o, wharf_name *ret)
{
        pid_t pid = test_fork(owner_main, o);
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(o->hub->task, o->hub->port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.n_items, 1);
        *ret = it.name;
        return pid;
}

static int move_try(wharf_task *t, wharf_name port, wharf_name to, int64_t deadline_ns)
{
        struct wharf_item it = {.kind = WHARF_MOVE_RECEIVE, .name = port};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1);
        return wharf_sendmsg(t, to, &m, deadline_ns);
}

static void move(wharf_task *t, wharf_name port, wharf_name to)
{
        CHECK_EQ(move_try(t, port, to, wharf_in_ms(60000)), 0);
        CHECK_EQ(wharf_name_kind(t, port), -EBADF);
}

static void send_text(wharf_task *t, wharf_name right, const char *text, uint32_t how)
{
        struct wharf_msg m = MSG(.data = BYTES(text), .len_bytes = strlen(text), .how = how);
        CHECK_EQ(wharf_sendmsg(t, right, &m, wharf_in_ms(60000)), 0);
}

/* The next message from anyone says `text`. */
static void expect_text(wharf_task *t, wharf_name port, const char *text)
{
        char buf[64];
        ssize_t n = wharf_recv(t, port, buf, sizeof buf - 1, NULL, wharf_in_ms(60000));
        CHECK_GE(n, 0);
        buf[n] = 0;
        CHECK_STR(buf, text);
}

static wharf_name right_new(wharf_task *t, wharf_name port)
{
        wharf_name r;
        CHECK_EQ(wharf_right_new(t, port, &r), 0);
        return r;
}

static wharf_name port_new(wharf_task *t, const struct wharf_port_opts *o)
{
        wharf_name p;
        CHECK_EQ(wharf_port_new(t, o, &p), 0);
        return p;
}

/* A sender in a process of its own: `fn` gets its task and a right to the port. */
struct sender {
        struct hub *hub;
        int (*run)(wharf_task *t, wharf_name right, void *arg);
        void *arg;
};

static int sender_main(void *arg)
{
        struct sender *s = arg;
        wharf_name hub, mailbox;
        wharf_task *t = hub_join(s->hub, &hub);
        CHECK_EQ(wharf_port_new(t, NULL, &mailbox), 0);
        struct wharf_item it = {.kind = WHARF_MAKE_SEND, .name = mailbox};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(t, hub, &m, WHARF_FOREVER), 0);
        m = MSG(.items = &it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(t, mailbox, &m, WHARF_FOREVER), 0);
        CHECK_EQ(it.kind, WHARF_GOT_SEND);
        int r = s->run(t, it.name, s->arg);
        wharf_task_close(t);
        return r;
}

static pid_t sender_start(struct sender *s, wharf_name port)
{
        pid_t pid = test_fork(sender_main, s);
        wharf_task *t = s->hub->task;
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(t, s->hub->port, &m, WHARF_FOREVER), 0);
        wharf_name to = it.name;
        it = (struct wharf_item){.kind = WHARF_MAKE_SEND, .name = port};
        m = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(t, to, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_drop(t, to), 0);
        return pid;
}

/* ---- what lies there unread goes along ---- */

enum { BIG = 300000 };

static int take_all(wharf_task *t, wharf_name port, wharf_name hub, void *arg)
{
        /* Each sender's messages are in order; which sender is next is nobody's promise. */
        unsigned seen = 0;
        char *buf = malloc(2 * BIG);
        for (int n = 0; n < 11; n++) {
                struct wharf_item items[4];
                struct wharf_msg m = MSG(.data = buf, .cap_bytes = 2 * BIG, .items = items, .cap_items = 4);
                CHECK_EQ(wharf_recvmsg(t, port, &m, wharf_in_ms(60000)), 0);
                if (m.len_bytes == BIG) {
                        char *want = malloc(BIG);
                        pattern_fill(want, BIG, m.id);
                        CHECK_MEM(buf, want, BIG);
                        free(want);
                        CHECK(m.id == 7 || m.id == 8);
                        seen |= m.id == 7 ? 1u << 10 : 1u << 11;
                        continue;
                }
                CHECK_EQ(m.len_bytes, 2);
                unsigned bit = (unsigned)(buf[0] - 'a') * 3 + (unsigned)(buf[1] - '1');
                CHECK(!(seen & 1u << bit));
                CHECK(buf[1] == '1' || seen & 1u << (bit - 1));
                seen |= 1u << bit;
                if (buf[0] == 'c' && buf[1] == '1') {
                        CHECK_EQ(m.n_items, 2);
                        CHECK_EQ(items[0].kind, WHARF_GOT_FD);
                        CHECK_EQ(items[1].kind, WHARF_GOT_SEND);
                        close(items[0].fd);
                        CHECK_EQ(wharf_send(t, items[1].name, "from the new owner", 18, WHARF_FOREVER), 0);
                        CHECK_EQ(wharf_drop(t, items[1].name), 0);
                } else {
                        CHECK_EQ(m.n_items, 0);
                }
        }
        CHECK_EQ(seen, 0xfff & ~(1u << 9));
        free(buf);
        stage_reach(arg);
        /* And it goes on: every sender is served as before. */
        for (int n = 0; n < 30; n++) {
                struct wharf_msg m = MSG(.data = (char[8]){0}, .cap_bytes = 8);
                CHECK_EQ(wharf_recvmsg(t, port, &m, wharf_in_ms(60000)), 0);
                if (m.reply)
                        CHECK_EQ(wharf_reply(t, m.reply, "yes", 3), 0);
        }
        CHECK_EQ(wharf_recv(t, port, (char[8]){0}, 8, NULL, wharf_in_ms(60000)), -ENOTCONN);
        return 0;
}

static int send_and_die(wharf_task *t, wharf_name right, void *arg)
{
        for (int i = 0; i < 3; i++)
                send_text(t, right, (const char *[]){"b1", "b2", "b3"}[i], *(uint32_t *)arg);
        raise(SIGKILL);
        return 1;
}

/*
 * Goal:   what was sent and not received, in whatever way, is received by the new owner, in order, with the rights in
 *         it.
 * Method: senders that are idle, cold, attached, dead; payloads in frames, records, sections and memories of their
 *         own; then all go on, some with calls.
 */
TEST(unread_messages_of_cold_attached_and_dead_senders_move_with_their_rights)
{
        struct hub h = hub_open(NULL);
        struct stage taken = stage_new();
        struct owner o = {.hub = &h, .run = take_all, .arg = &taken};
        wharf_name to;
        pid_t pid = owner_start(&o, &to);
        wharf_task *t = h.task;
        wharf_name p = port_new(t, NULL), mine = port_new(t, NULL);
        wharf_name idle = right_new(t, p), cold = right_new(t, p), warm = right_new(t, p), big = right_new(t, p);
        uint32_t how = WHARF_HOW_AUTO;
        struct sender dead = {.hub = &h, .run = send_and_die, .arg = &how};
        CHECK_EQ(test_wait(sender_start(&dead, p)), 128 + SIGKILL);
        send_text(t, cold, "a1", 0);
        send_text(t, cold, "a2", 0);
        send_text(t, cold, "a3", 0);
        struct wharf_item items[] = {{.kind = WHARF_COPY_FD, .fd = 0}, {.kind = WHARF_MAKE_SEND, .name = mine}};
        struct wharf_msg m =
                MSG(.data = BYTES("c1"), .len_bytes = 2, .items = items, .n_items = 2, .how = WHARF_HOW_INLINE);
        CHECK_EQ(wharf_sendmsg(t, warm, &m, 0), 0);
        send_text(t, warm, "c2", WHARF_HOW_INLINE);
        send_text(t, warm, "c3", WHARF_HOW_SECTION);
        char *bytes = malloc(BIG);
        pattern_fill(bytes, BIG, 7);
        m = MSG(.data = bytes, .len_bytes = BIG, .id = 7);
        CHECK_EQ(wharf_sendmsg(t, big, &m, 0), 0);
        pattern_fill(bytes, BIG, 8);
        m = MSG(.data = bytes, .len_bytes = BIG, .id = 8, .how = WHARF_HOW_MEMORY);
        CHECK_EQ(wharf_sendmsg(t, big, &m, 0), 0);
        free(bytes);
        move(t, p, to);
        expect_text(t, mine, "from the new owner");
        stage_await(&taken);
        for (int i = 0; i < 10; i++) {
                CHECK_EQ(wharf_send(t, warm, "w", 1, wharf_in_ms(60000)), 0);
                CHECK_EQ(wharf_send(t, cold, "k", 1, wharf_in_ms(60000)), 0);
                CHECK_EQ(wharf_call(t, i % 2 ? idle : big, "?", 1, (char[8]){0}, 8, wharf_in_ms(60000)), 3);
        }
        struct wharf_right_stat rs = {.size = sizeof rs};
        CHECK_EQ(wharf_right_stat(t, warm, &rs), 0);
        CHECK_EQ(rs.dead, 0);
        CHECK_EQ(rs.sent_messages, 13);
        wharf_name all[] = {idle, cold, warm, big};
        for (int i = 0; i < 4; i++)
                CHECK_EQ(wharf_drop(t, all[i]), 0);
        CHECK_EQ(test_wait(pid), 0);
        stage_done(&taken);
        hub_close(&h);
}

/* ---- senders in the middle of something ---- */

static int send_thousand(wharf_task *t, wharf_name right, void *arg)
{
        for (uint32_t i = 0; i < 1000; i++)
                CHECK_EQ(wharf_send(t, right, &i, sizeof i, WHARF_FOREVER), 0);
        return 0;
}

static int count_thousand(wharf_task *t, wharf_name port, wharf_name hub, void *arg)
{
        for (uint32_t i = *(uint32_t *)arg, got; i < 1000; i++) {
                CHECK_EQ(wharf_recv(t, port, &got, sizeof got, NULL, wharf_in_ms(60000)), sizeof got);
                CHECK_EQ(got, i);
        }
        CHECK_EQ(wharf_recv(t, port, &(char){0}, 1, NULL, wharf_in_ms(60000)), -ENOTCONN);
        return 0;
}

TEST(a_sender_that_waits_for_room_goes_on_with_the_new_owner)
{
        uint32_t first = 3;
        struct hub h = hub_open(NULL);
        struct owner o = {.hub = &h, .run = count_thousand, .arg = &first};
        struct sender s = {.hub = &h, .run = send_thousand};
        wharf_name to, p = port_new(h.task, PORT_OPTS(.capacity_records = 4));
        pid_t pid = owner_start(&o, &to), sender = sender_start(&s, p);
        for (uint32_t i = 0, got; i < first; i++) {
                CHECK_EQ(wharf_recv(h.task, p, &got, sizeof got, NULL, WHARF_FOREVER), sizeof got);
                CHECK_EQ(got, i);
        }
        await_asleep(sender);
        move(h.task, p, to);
        CHECK_EQ(test_wait(sender), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

static int call_once(wharf_task *t, wharf_name right, void *arg)
{
        char buf[16] = "";
        const char *q = arg;
        CHECK_EQ(wharf_call(t, right, q, strlen(q), buf, sizeof buf, wharf_in_ms(60000)), 6);
        CHECK_MEM(buf, "re:", 3);
        CHECK_MEM(buf + 3, q, 3);
        /* And once more, with whoever has the port now. */
        CHECK_EQ(wharf_call(t, right, q, strlen(q), buf, sizeof buf, wharf_in_ms(60000)), 6);
        CHECK_MEM(buf + 3, q, 3);
        return 0;
}

static void answer(wharf_task *t, wharf_name reply, const char *q)
{
        char buf[16];
        memcpy(buf, "re:", 3);
        memcpy(buf + 3, q, 3);
        CHECK_EQ(wharf_reply(t, reply, buf, 6), 0);
}

static int answer_all(wharf_task *t, wharf_name port, wharf_name hub, void *arg)
{
        char q[16];
        for (;;) {
                struct wharf_msg m = MSG(.data = q, .cap_bytes = sizeof q);
                int r = wharf_recvmsg(t, port, &m, wharf_in_ms(60000));
                if (r == -ENOTCONN)
                        return 0;
                CHECK_EQ(r, 0);
                CHECK(m.reply);
                answer(t, m.reply, q);
        }
}

/*
 * Goal:   calls that were received are answered by the former owner, calls that were not by the new one.
 * Method: three callers: one answered after the move by who received it, one whose reply right is handed on together
 *         with the port, one unread.
 */
static int answer_handed(wharf_task *t, wharf_name mailbox, wharf_name hub, void *arg)
{
        struct wharf_item it[2];
        struct wharf_msg m = MSG(.data = (char[8]){0}, .cap_bytes = 8, .items = it, .cap_items = 2);
        CHECK_EQ(wharf_recvmsg(t, mailbox, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.n_items, 2);
        CHECK_EQ(it[0].kind, WHARF_GOT_REPLY);
        CHECK_EQ(it[1].kind, WHARF_GOT_RECEIVE);
        answer(t, it[0].name, m.data);
        return answer_all(t, it[1].name, hub, arg);
}

TEST(calls_are_answered_by_the_former_owner_the_new_one_or_whoever_has_the_reply_right)
{
        struct hub h = hub_open(NULL);
        struct owner o = {.hub = &h, .run = answer_handed, .first = true};
        struct sender s[] = {{.hub = &h, .run = call_once, .arg = BYTES("one")},
                             {.hub = &h, .run = call_once, .arg = BYTES("two")},
                             {.hub = &h, .run = call_once, .arg = BYTES("six")}};
        wharf_task *t = h.task;
        wharf_name to, p = port_new(t, NULL), reply[2];
        pid_t pid = owner_start(&o, &to), callers[3];
        char q[8];
        for (int i = 0; i < 2; i++) {
                callers[i] = sender_start(&s[i], p);
                struct wharf_msg m = MSG(.data = q, .cap_bytes = 8);
                CHECK_EQ(wharf_recvmsg(t, p, &m, WHARF_FOREVER), 0);
                reply[i] = m.reply;
        }
        callers[2] = sender_start(&s[2], p);
        await_asleep(callers[2]);
        struct wharf_item it[] = {{.kind = WHARF_MOVE_REPLY, .name = reply[1]},
                                  {.kind = WHARF_MOVE_RECEIVE, .name = p}};
        struct wharf_msg m = MSG(.data = q, .len_bytes = 8, .items = it, .n_items = 2);
        CHECK_EQ(wharf_sendmsg(t, to, &m, wharf_in_ms(60000)), 0);
        answer(t, reply[0], "one");
        for (int i = 0; i < 3; i++)
                CHECK_EQ(test_wait(callers[i]), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

static int expect_three(wharf_task *t, wharf_name port, wharf_name hub, void *arg)
{
        expect_text(t, port, "lent");
        expect_text(t, port, "then");
        expect_text(t, port, "fresh");
        return 0;
}

TEST(a_payload_being_written_in_place_is_sent_to_the_new_owner)
{
        struct hub h = hub_open(NULL);
        struct owner o = {.hub = &h, .run = expect_three};
        wharf_task *t = h.task;
        wharf_name to, p = port_new(t, NULL), r = right_new(t, p);
        pid_t pid = owner_start(&o, &to);
        struct wharf_msg m = MSG(0);
        CHECK_EQ(wharf_reserve(t, r, 4, &m, 0), 0);
        move(t, p, to);
        memcpy(m.data, "lent", 4);
        CHECK_EQ(wharf_sendmsg(t, r, &m, wharf_in_ms(60000)), 0);
        send_text(t, r, "then", 0);
        m = MSG(0);
        CHECK_EQ(wharf_reserve(t, r, 5, &m, wharf_in_ms(60000)), 0);
        memcpy(m.data, "fresh", 5);
        CHECK_EQ(wharf_sendmsg(t, r, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

enum { HUGE_BYTES = 24 << 20 };

static int send_huge(wharf_task *t, wharf_name right, void *arg)
{
        char *bytes = malloc(HUGE_BYTES);
        pattern_fill(bytes, HUGE_BYTES, 5);
        CHECK_EQ(wharf_send(t, right, bytes, HUGE_BYTES, WHARF_FOREVER), 0);
        send_text(t, right, "after", 0);
        free(bytes);
        return 0;
}

static int take_huge(wharf_task *t, wharf_name port, wharf_name hub, void *arg)
{
        char *want = malloc(HUGE_BYTES), *got = malloc(HUGE_BYTES);
        pattern_fill(want, HUGE_BYTES, 5);
        CHECK_EQ(wharf_recv(t, port, got, HUGE_BYTES, NULL, wharf_in_ms(60000)), HUGE_BYTES);
        CHECK_MEM(want, got, HUGE_BYTES);
        free(want);
        free(got);
        expect_text(t, port, "after");
        return 0;
}

TEST(a_message_in_pieces_moves_in_the_middle)
{
        struct hub h = hub_open(NULL);
        struct owner o = {.hub = &h, .run = take_huge};
        struct sender s = {.hub = &h, .run = send_huge};
        wharf_name to, p = port_new(h.task, NULL);
        pid_t pid = owner_start(&o, &to), sender = sender_start(&s, p);
        await_asleep(sender);
        CHECK_EQ(kill(sender, SIGSTOP), 0);
        CHECK_EQ(wharf_recv(h.task, p, &(char){0}, 1, NULL, wharf_in_ms(20)), -ETIMEDOUT); /* some pieces are taken */
        move(h.task, p, to);
        CHECK_EQ(kill(sender, SIGCONT), 0);
        CHECK_EQ(test_wait(sender), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* ---- around a ring, under load ---- */

enum { MEMBERS = 3, SENDERS = 5, EACH = 4000, PER_TURN = 97, SENDERS_MAX = 2048 };

struct ledger {
        _Atomic uint32_t next[SENDERS_MAX]; /* the number expected of each sender */
        _Atomic uint32_t total, moves;
        uint32_t senders, per_turn; /* how many there are; after how many messages the port goes on */
};
static struct ledger *ledger;

struct counted {
        uint32_t sender, number;
};

static int count_away(wharf_task *t, wharf_name right, void *arg)
{
        uint32_t me = (uint32_t)(uintptr_t)arg;
        size_t room = 40000;
        char *buf = calloc(1, room);
        for (uint32_t i = 0; i < EACH; i++) {
                struct counted c = {me, i};
                size_t len = me == 1 && i % 10 == 0 ? 20000 + i : me == 2 ? 8 + i % 3000 : 8;
                memcpy(buf, &c, sizeof c);
                if (me == 3) {
                        struct counted back;
                        CHECK_EQ(wharf_call(t, right, buf, len, &back, sizeof back, wharf_in_ms(60000)), sizeof back);
                        CHECK_EQ(back.number, i);
                } else if (me == 4 && i % 2) {
                        struct wharf_msg m = MSG(0);
                        CHECK_EQ(wharf_reserve(t, right, len, &m, wharf_in_ms(60000)), 0);
                        memcpy(m.data, buf, len);
                        CHECK_EQ(wharf_sendmsg(t, right, &m, wharf_in_ms(60000)), 0);
                } else {
                        CHECK_EQ(wharf_send(t, right, buf, len, wharf_in_ms(60000)), 0);
                }
        }
        free(buf);
        return 0;
}

static int ring_member(wharf_task *t, wharf_name mailbox, wharf_name hub, void *arg)
{
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(t, mailbox, &m, WHARF_FOREVER), 0);
        CHECK_EQ(it.kind, WHARF_GOT_SEND);
        wharf_name next = it.name;
        char *buf = malloc(40000);
        for (;;) {
                m = MSG(.items = &it, .cap_items = 1);
                int r = wharf_recvmsg(t, mailbox, &m, WHARF_FOREVER);
                CHECK_EQ(r, 0);
                if (m.id == 9) { /* it is over: tell the next, unless it told everybody */
                        wharf_send(t, next, "", 0, 0);
                        break;
                }
                if (m.n_items == 0)
                        break;
                CHECK_EQ(it.kind, WHARF_GOT_RECEIVE);
                wharf_name port = it.name, late = 0;
                struct counted c, late_c = {0};
                bool over = false;
                for (uint32_t i = 0; i < ledger->per_turn; i++) {
                        m = MSG(.data = buf, .cap_bytes = 40000);
                        r = wharf_recvmsg(t, port, &m, wharf_in_ms(late ? 20 : 20000));
                        if (r == -ETIMEDOUT && late)
                                break; /* only the caller is left, and waits for us */
                        if (r == -ENOTCONN) {
                                over = true;
                                break;
                        }
                        CHECK_EQ(r, 0);
                        memcpy(&c, buf, sizeof c);
                        CHECK(c.sender < ledger->senders);
                        CHECK_EQ(c.number, atomic_load(&ledger->next[c.sender]));
                        atomic_store(&ledger->next[c.sender], c.number + 1);
                        atomic_fetch_add(&ledger->total, 1);
                        if (m.reply && i > ledger->per_turn / 2 && !late) {
                                late = m.reply; /* answered when the port is gone */
                                late_c = c;
                        } else if (m.reply) {
                                CHECK_EQ(wharf_reply(t, m.reply, &c, sizeof c), 0);
                        }
                }
                if (over) {
                        m = MSG(.id = 9);
                        CHECK_EQ(wharf_sendmsg(t, next, &m, WHARF_FOREVER), 0);
                        break;
                }
                atomic_fetch_add(&ledger->moves, 1);
                CHECK_EQ(move_try(t, port, next, wharf_in_ms(60000)), 0);
                if (late)
                        CHECK_EQ(wharf_reply(t, late, &late_c, sizeof late_c), 0);
        }
        free(buf);
        return 0;
}

static void ring_start(struct hub *h, struct owner *o, pid_t members[MEMBERS], wharf_name to[MEMBERS])
{
        *o = (struct owner){.hub = h, .run = ring_member, .first = true};
        for (int i = 0; i < MEMBERS; i++)
                members[i] = owner_start(o, &to[i]);
        for (int i = 0; i < MEMBERS; i++) {
                struct wharf_item it = {.kind = WHARF_COPY_SEND, .name = to[(i + 1) % MEMBERS]};
                struct wharf_msg m = MSG(.items = &it, .n_items = 1);
                CHECK_EQ(wharf_sendmsg(h->task, to[i], &m, WHARF_FOREVER), 0);
        }
}

/*
 * Goal:   not one message lost, doubled or reordered for any sender, however often the port moves.
 * Method: three owners hand it around in a ring after 97 messages each, some calls answered only after that, while five
 *         processes count: small messages, sections, records of all sizes, calls, and payloads written in place.
 */
TEST_TIMEOUT(the_port_goes_around_a_ring_of_owners_while_senders_count, 120)
{
        ledger = test_shared(sizeof *ledger);
        ledger->senders = SENDERS;
        ledger->per_turn = PER_TURN;
        struct hub h = hub_open(NULL);
        struct owner o;
        wharf_name to[MEMBERS], p = port_new(h.task, NULL);
        pid_t members[MEMBERS], senders[SENDERS];
        ring_start(&h, &o, members, to);
        for (uintptr_t i = 0; i < SENDERS; i++) {
                struct sender s = {.hub = &h, .run = count_away, .arg = (void *)i};
                senders[i] = sender_start(&s, p);
        }
        move(h.task, p, to[0]);
        for (int i = 0; i < SENDERS; i++)
                CHECK_EQ(test_wait(senders[i]), 0);
        for (int i = 0; i < MEMBERS; i++)
                CHECK_EQ(test_wait(members[i]), 0);
        CHECK_EQ(atomic_load(&ledger->total), SENDERS * EACH);
        CHECK_GE(atomic_load(&ledger->moves), SENDERS * EACH / PER_TURN - 1);
        hub_close(&h);
}

/* ---- many ---- */

enum { LINKS = 2000 };

static void many_descriptors(void)
{
        struct rlimit lim;
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &lim), 0);
        lim.rlim_cur = lim.rlim_max;
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &lim), 0);
        if (lim.rlim_cur < 16000)
                test_skip("RLIMIT_NOFILE allows %llu descriptors, 16000 are needed", (unsigned long long)lim.rlim_cur);
}

static int take_many(wharf_task *t, wharf_name port, wharf_name hub, void *arg)
{
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(t, port, &st), 0);
        CHECK_EQ(st.senders, LINKS);
        uint16_t *next = calloc(LINKS, sizeof *next);
        for (int n = 0; n < 3 * LINKS; n++) {
                uint16_t m[2];
                CHECK_EQ(wharf_recv(t, port, m, sizeof m, NULL, wharf_in_ms(60000)), sizeof m);
                CHECK(m[0] < LINKS);
                CHECK_EQ(m[1], next[m[0]]++);
        }
        free(next);
        return 0;
}

TEST_TIMEOUT(two_thousand_links_half_of_them_attached_move_at_once, 120)
{
        many_descriptors();
        struct hub h = hub_open(NULL);
        struct owner o = {.hub = &h, .run = take_many};
        wharf_task *t = h.task;
        wharf_name to,
                p = port_new(t, PORT_OPTS(.flags = WHARF_PORT_DIRECT, .capacity_records = 16, .links_max = 2 * LINKS));
        pid_t pid = owner_start(&o, &to);
        wharf_name *rights = calloc(LINKS, sizeof *rights);
        for (uint16_t i = 0; i < LINKS; i++) {
                rights[i] = right_new(t, p);
                struct wharf_msg m =
                        MSG(.data = (uint16_t[]){i, 0}, .len_bytes = 4, .how = i % 2 ? WHARF_HOW_INLINE : 0);
                CHECK_EQ(wharf_sendmsg(t, rights[i], &m, 0), 0);
        }
        move(t, p, to);
        for (uint16_t k = 1; k < 3; k++)
                for (uint16_t i = 0; i < LINKS; i++)
                        CHECK_EQ(wharf_send(t, rights[i], (uint16_t[]){i, k}, 4, wharf_in_ms(60000)), 0);
        CHECK_EQ(test_wait(pid), 0);
        free(rights);
        hub_close(&h);
}

/* ---- thousands in every state ---- */

enum { CROWDS = 4, CROWD = 500, CROWD_EACH = 12, CROWD_TURN = 3000, CROWD_DIRECT_BYTES = 30000 };

struct one {
        wharf_task *t;
        wharf_name first; /* the right that is copied */
        uint32_t number;
};

/* One thread with a right of its own; what it does most of the time is one of the states a move can find it in. */
static void *one_of_the_crowd(void *arg)
{
        const struct one *me = arg;
        wharf_name right;
        uint8_t *bytes = calloc(1, CROWD_DIRECT_BYTES);
        CHECK_EQ(wharf_right_copy(me->t, me->first, WHARF_FOREVER, &right), 0);
        for (uint32_t i = 0; i < CROWD_EACH; i++) {
                struct counted c = {me->number, i}, back;
                struct wharf_msg m = MSG(.data = bytes, .len_bytes = sizeof c);
                memcpy(bytes, &c, sizeof c);
                switch (me->number % 50) {
                case 0: /* written in place */
                        CHECK_EQ(wharf_reserve(me->t, right, 2000, &m, WHARF_FOREVER), 0);
                        memcpy(m.data, &c, sizeof c);
                        CHECK_EQ(wharf_sendmsg(me->t, right, &m, WHARF_FOREVER), 0);
                        break;
                case 1: /* read from this address space, in place */
                        m.how = WHARF_HOW_DIRECT;
                        m.len_bytes = CROWD_DIRECT_BYTES;
                        CHECK_EQ(wharf_sendmsg(me->t, right, &m, WHARF_FOREVER), 0);
                        break;
                case 2 ... 9: /* in a call */
                        CHECK_EQ(wharf_call(me->t, right, &c, sizeof c, &back, sizeof back, WHARF_FOREVER),
                                 sizeof back);
                        CHECK_EQ(back.number, i);
                        break;
                case 10 ... 19: /* attaching, in the middle of what it sends */
                        m.how = i < CROWD_EACH / 2 ? WHARF_HOW_COLD : WHARF_HOW_INLINE;
                        CHECK_EQ(wharf_sendmsg(me->t, right, &m, WHARF_FOREVER), 0);
                        break;
                case 20 ... 29: /* asleep between its messages */
                        poll(NULL, 0, (int)((me->number + 7 * i) % 20));
                        CHECK_EQ(wharf_sendmsg(me->t, right, &m, WHARF_FOREVER), 0);
                        break;
                default: /* sending, and waiting for room: the queue holds fewer than it sends */
                        CHECK_EQ(wharf_sendmsg(me->t, right, &m, WHARF_FOREVER), 0);
                }
        }
        wharf_drop(me->t, right);
        free(bytes);
        return NULL;
}

static int crowd(wharf_task *t, wharf_name right, void *arg)
{
        pthread_t *threads = calloc(CROWD, sizeof *threads);
        struct one *all = calloc(CROWD, sizeof *all);
        pthread_attr_t small;
        pthread_attr_init(&small);
        pthread_attr_setstacksize(&small, 256 << 10);
        for (uint32_t i = 0; i < CROWD; i++) {
                all[i] = (struct one){t, right, (uint32_t)(uintptr_t)arg * CROWD + i};
                CHECK_EQ(pthread_create(&threads[i], &small, one_of_the_crowd, &all[i]), 0);
        }
        for (uint32_t i = 0; i < CROWD; i++)
                CHECK_EQ(pthread_join(threads[i], NULL), 0);
        free(threads);
        free(all);
        return 0;
}

/*
 * Goal:   two thousand senders, some in each state (sending, attaching, asleep, waiting for room, in a call, writing in
 *         place, being read from): the port moves again and again, and none of them loses, doubles or reorders one.
 * Method: a thread and a right each, in four processes; three owners hand the port around.
 */
TEST_TIMEOUT(two_thousand_senders_in_every_state_go_on_while_the_port_moves, 200)
{
        many_descriptors();
        ledger = test_shared(sizeof *ledger);
        ledger->senders = CROWDS * CROWD;
        ledger->per_turn = CROWD_TURN;
        struct hub h = hub_open(NULL);
        struct owner o;
        wharf_name to[MEMBERS],
                p = port_new(h.task, PORT_OPTS(.capacity_records = 4, .links_max = 8192, .introduced_max = 4096));
        pid_t members[MEMBERS], crowds[CROWDS];
        ring_start(&h, &o, members, to);
        for (uintptr_t i = 0; i < CROWDS; i++) {
                struct sender s = {.hub = &h, .run = crowd, .arg = (void *)i};
                crowds[i] = sender_start(&s, p);
        }
        move(h.task, p, to[0]);
        for (int i = 0; i < CROWDS; i++)
                CHECK_EQ(test_wait(crowds[i]), 0);
        for (int i = 0; i < MEMBERS; i++)
                CHECK_EQ(test_wait(members[i]), 0);
        CHECK_EQ(atomic_load(&ledger->total), CROWDS * CROWD * CROWD_EACH);
        for (uint32_t i = 0; i < ledger->senders; i++)
                CHECK_EQ(atomic_load(&ledger->next[i]), CROWD_EACH);
        CHECK_GE(atomic_load(&ledger->moves), 4);
        hub_close(&h);
}

/* ---- what the port is ---- */

static struct wh_port *port_of(wharf_task *t, wharf_name name)
{
        struct wh_port *p = (struct wh_port *)wh_table_find(&t->names, name);
        CHECK(p && p->o.kind == WHARF_KIND_PORT);
        return p;
}

/* Goal: every limit that its maker gave a port, and what it has counted so far, goes along. None is what it is by default. */
TEST(limits_and_figures_of_a_port_move_with_it)
{
        struct hub h = hub_open(NULL);
        wharf_task *t = h.task;
        wharf_name q = port_new(t, NULL), to = right_new(t, q);
        const struct wharf_port_opts *opts =
                PORT_OPTS(.flags = WHARF_PORT_STAYS, .capacity_records = 9, .links_max = 10,
                          .payload_bytes_max = 11 << 10, .link_mapped_bytes_max = 12 << 20,
                          .mapped_bytes_max = 13 << 20, .unread_rights_max = 14, .introduced_max = 15,
                          .capacity_bytes = 16 << 10, .reply_bytes_max = 17 << 20, .link_reply_bytes_max = 18 << 10,
                          .link_answers_max = 19);
        wharf_name p = port_new(t, opts), r = right_new(t, p);
        CHECK_MEM(&port_of(t, p)->opts, opts, sizeof *opts);
        send_text(t, r, "counted", 0);
        expect_text(t, p, "counted");
        port_of(t, p)->refused = 20;
        CHECK_EQ(wharf_drop(t, right_new(t, p)), 0); /* made, and gone */
        move(t, p, to);
        p = await_port(t, q);
        CHECK_MEM(&port_of(t, p)->opts, opts, sizeof *opts);
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(t, p, &st), 0);
        CHECK_EQ(st.received_messages, 1);
        CHECK_EQ(st.received_bytes, 7);
        CHECK_EQ(st.refused_links, 20);
        CHECK_EQ(st.made_rights, 2);
        hub_close(&h);
}

/* ---- refused, and nothing has changed ---- */

/* The port serves this right as ever. */
static void still_serves(wharf_task *t, wharf_name port, wharf_name right)
{
        CHECK_EQ(wharf_send(t, right, "well", 4, 0), 0);
        expect_text(t, port, "well");
}

TEST(a_move_that_is_refused_changes_nothing)
{
        struct hub h = hub_open(NULL);
        wharf_task *t = h.task;
        wharf_name q = port_new(t, PORT_OPTS(.capacity_records = 1)), to = right_new(t, q);
        wharf_name p = port_new(t, NULL), r = right_new(t, p),
                   fixed = port_new(t, PORT_OPTS(.flags = WHARF_PORT_FIXED));
        unsigned before = count_fds();
        CHECK_EQ(move_try(t, fixed, to, 0), -EOPNOTSUPP);
        CHECK(strstr(wharf_why(), "WHARF_PORT_FIXED"));
        CHECK_EQ(move_try(t, p, r, 0), -ELOOP);
        CHECK_EQ(move_try(t, h.port, to, 0), -EBUSY); /* it listens */
        CHECK(strstr(wharf_why(), "listening"));
        CHECK_EQ(count_fds(), before);
        send_text(t, r, "held", WHARF_HOW_SECTION);
        struct wharf_msg held = MSG(.flags = WHARF_RECV_IN_PLACE);
        CHECK_EQ(wharf_recvmsg(t, p, &held, 0), 0);
        CHECK_EQ(move_try(t, p, to, 0), -EBUSY);
        CHECK(strstr(wharf_why(), "in place"));
        wharf_release(t, &held);
        still_serves(t, p, r);
        CHECK_EQ(wharf_send(t, to, "full", 4, 0), 0);
        CHECK_EQ(move_try(t, p, to, 0), -EAGAIN);
        CHECK_EQ(move_try(t, p, to, wharf_in_ms(5)), -ETIMEDOUT);
        still_serves(t, p, r);
        CHECK_EQ(wharf_drop(t, q), 0);
        CHECK_EQ(move_try(t, p, to, wharf_in_ms(60000)), -EPIPE);
        still_serves(t, p, r);
        CHECK_EQ(wharf_port_listen(t, h.port, -1), 0);
        wharf_name q2 = port_new(t, NULL), to2 = right_new(t, q2);
        move(t, h.port, to2); /* and now it does not listen any more */
        hub_close(&h);
}

/* As in Mach. What waits in it goes along; the other members, and who receives from the set, notice nothing. */
TEST(a_port_in_a_set_leaves_it_when_it_is_moved)
{
        struct hub h = hub_open(NULL);
        wharf_task *t = h.task;
        wharf_name q = port_new(t, NULL), to = right_new(t, q), other = port_new(t, NULL), set;
        wharf_name p = port_new(t, NULL), r = right_new(t, p), other_right = right_new(t, other);
        CHECK_EQ(wharf_set_new(t, &set), 0);
        CHECK_EQ(wharf_set_add(t, set, p), 0);
        CHECK_EQ(wharf_set_add(t, set, other), 0);
        send_text(t, r, "waits", WHARF_HOW_AUTO);
        move(t, p, to);
        struct wharf_item got;
        struct wharf_msg m = MSG(.items = &got, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(t, q, &m, 0), 0);
        CHECK_EQ(got.kind, WHARF_GOT_RECEIVE);
        CHECK_EQ(wharf_set_remove(t, set, p), -EBADF);
        char buf[8];
        CHECK_EQ(wharf_recv(t, set, buf, sizeof buf, NULL, 0), -EAGAIN);
        send_text(t, other_right, "other", WHARF_HOW_AUTO);
        CHECK_EQ(wharf_recv(t, set, buf, sizeof buf, NULL, 0), 5);
        CHECK_EQ(wharf_recv(t, got.name, buf, sizeof buf, NULL, wharf_in_ms(60000)), 5);
        CHECK_MEM(buf, "waits", 5);
        still_serves(t, got.name, r);
        hub_close(&h);
}

/* Also where it is the receiver's queue that refuses, and the set is closed meanwhile. */
TEST(a_port_that_could_not_be_moved_is_in_its_set_again)
{
        struct hub h = hub_open(NULL);
        wharf_task *t = h.task;
        wharf_name q = port_new(t, PORT_OPTS(.capacity_records = 1)), to = right_new(t, q), set;
        wharf_name p = port_new(t, NULL), r = right_new(t, p);
        CHECK_EQ(wharf_set_new(t, &set), 0);
        CHECK_EQ(wharf_set_add(t, set, p), 0);
        CHECK_EQ(move_try(t, p, r, 0), -ELOOP);
        still_serves(t, set, r);
        CHECK_EQ(wharf_send(t, to, "full", 4, 0), 0);
        CHECK_EQ(move_try(t, p, to, 0), -EAGAIN);
        still_serves(t, set, r);
        send_text(t, r, "held", WHARF_HOW_SECTION);
        struct wharf_msg held = MSG(.flags = WHARF_RECV_IN_PLACE);
        CHECK_EQ(wharf_recvmsg(t, set, &held, 0), 0);
        CHECK_EQ(move_try(t, p, to, 0), -EBUSY);
        CHECK(strstr(wharf_why(), "in place"));
        wharf_release(t, &held);
        still_serves(t, set, r);
        CHECK_EQ(wharf_recv(t, p, (char[1]){0}, 1, NULL, 0), -EBUSY);
        CHECK_EQ(wharf_set_remove(t, set, p), 0);
        still_serves(t, p, r);
        hub_close(&h);
}

static int move_without_descriptors(void *arg)
{
        wharf_task *t;
        struct rlimit lim = {64, 64};
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        wharf_name p = port_new(t, NULL), q = port_new(t, NULL), to = right_new(t, q), r[100];
        for (int i = 0; i < 100; i++)
                r[i] = right_new(t, p);
        test_drop_root();
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &lim), 0);
        int e = move_try(t, p, to, 0); /* no descriptor left for the carrier */
        CHECK_EQ(e, -EMFILE);
        for (int i = 0; i < 100; i += 33) {
                CHECK_EQ(wharf_send(t, r[i], "well", 4, 0), 0);
                expect_text(t, p, "well");
        }
        wharf_task_close(t);
        return 0;
}

TEST(a_move_without_descriptors_fails_and_the_port_goes_on)
{
        CHECK_EQ(test_wait(test_fork(move_without_descriptors, NULL)), 0);
}

static int receive_without_descriptors(wharf_task *t, wharf_name mailbox, wharf_name hub, void *arg)
{
        struct rlimit lim, few;
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1, .data = (char[8]){0}, .cap_bytes = 8);
        CHECK_EQ(wharf_recvmsg(t, mailbox, &m, WHARF_FOREVER), 0); /* the link is set up while there are descriptors */
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &lim), 0);
        few = lim;
        few.rlim_cur = count_fds() + 20;
        stage_await(arg);
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
        unsigned before = count_fds();
        for (int i = 0; i < 3; i++) {
                CHECK_EQ(wharf_recvmsg(t, mailbox, &m, wharf_in_ms(100)), -EMFILE);
                CHECK_LE(count_fds(), before + 1); /* that of the message itself */
        }
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &lim), 0);
        CHECK_EQ(wharf_recvmsg(t, mailbox, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(it.kind, WHARF_GOT_RECEIVE);
        expect_text(t, it.name, "first");
        return 0;
}

TEST(a_new_owner_without_descriptors_tries_again)
{
        struct hub h = hub_open(NULL);
        struct stage sent = stage_new();
        struct owner o = {.hub = &h, .run = receive_without_descriptors, .arg = &sent, .first = true};
        wharf_name to, p = port_new(h.task, NULL), r[60];
        pid_t pid = owner_start(&o, &to);
        for (int i = 0; i < 60; i++)
                r[i] = right_new(h.task, p);
        send_text(h.task, r[59], "first", WHARF_HOW_INLINE);
        send_text(h.task, to, "hello", 0);
        move(h.task, p, to);
        stage_reach(&sent);
        CHECK_EQ(test_wait(pid), 0);
        stage_done(&sent);
        hub_close(&h);
}

/* ---- death ---- */

static int hold_and_die(wharf_task *t, wharf_name mailbox, wharf_name hub, void *arg)
{
        pause();
        return 1;
}

TEST(a_new_owner_that_dies_with_the_message_unread_leaves_dead_names)
{
        struct hub h = hub_open(NULL);
        struct owner o = {.hub = &h, .run = hold_and_die, .first = true};
        wharf_task *t = h.task;
        wharf_name to, p = port_new(t, NULL), cold = right_new(t, p), warm = right_new(t, p);
        send_text(t, warm, "lost", WHARF_HOW_INLINE);
        pid_t pid = owner_start(&o, &to);
        move(t, p, to);
        send_text(t, cold, "lost", 0);
        kill_hard(pid);
        for (int i = 0; i < 2; i++) {
                ssize_t n = wharf_call(t, i ? warm : cold, "", 0, (char[1]){0}, 1, wharf_in_ms(60000));
                CHECK(n == -EPIPE || n == -ECONNRESET);
        }
        hub_close(&h);
}

static int pass_on(wharf_task *t, wharf_name mailbox, wharf_name hub, void *arg)
{
        struct wharf_item it[2];
        struct wharf_msg m = MSG(.items = it, .cap_items = 2);
        CHECK_EQ(wharf_recvmsg(t, mailbox, &m, WHARF_FOREVER), 0);
        CHECK_EQ(it[0].kind, WHARF_GOT_RECEIVE);
        CHECK_EQ(it[1].kind, WHARF_GOT_SEND);
        if (*(bool *)arg) {
                while (wharf_send(t, it[1].name, "full", 4, 0) == 0)
                        ;
                move_try(t, it[0].name, it[1].name, WHARF_FOREVER); /* which is full: it never ends */
                return 1;
        }
        move(t, it[0].name, it[1].name);
        raise(SIGKILL);
        return 1;
}

TEST(a_mover_killed_before_it_sent_takes_the_port_along_and_after_it_does_not)
{
        for (int before = 0; before < 2; before++) {
                bool full = before;
                struct hub h = hub_open(NULL);
                struct owner o = {.hub = &h, .run = pass_on, .arg = &full, .first = true};
                wharf_task *t = h.task;
                wharf_name to, p = port_new(t, NULL), r = right_new(t, p),
                               q = port_new(t, PORT_OPTS(.capacity_records = 1));
                pid_t pid = owner_start(&o, &to);
                send_text(t, r, "unread", 0);
                struct wharf_item it[] = {{.kind = WHARF_MOVE_RECEIVE, .name = p},
                                          {.kind = WHARF_MAKE_SEND, .name = q}};
                struct wharf_msg m = MSG(.items = it, .n_items = 2);
                CHECK_EQ(wharf_sendmsg(t, to, &m, wharf_in_ms(60000)), 0);
                if (full) {
                        await_asleep(pid);
                        kill_hard(pid);
                        char c;
                        ssize_t n = wharf_call(t, r, "", 0, &c, 1, wharf_in_ms(60000));
                        CHECK(n == -EPIPE || n == -ECONNRESET);
                } else {
                        CHECK_EQ(test_wait(pid), 128 + SIGKILL);
                        wharf_name back = await_port(t, q);
                        expect_text(t, back, "unread");
                        still_serves(t, back, r);
                }
                hub_close(&h);
        }
}

/*
 * Goal:   ports that wait in each other's queues, where nobody can receive them, are found and ended by the kernel.
 * Method: each is sent through a right to the other; then their senders are dead names.
 */
TEST(ports_that_are_in_each_others_queues_are_collected)
{
        wharf_task *t;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        unsigned before = count_fds();
        wharf_name p = port_new(t, NULL), q = port_new(t, NULL);
        wharf_name to_p = right_new(t, p), to_q = right_new(t, q), p2 = right_new(t, p);
        send_text(t, p2, "never read", WHARF_HOW_INLINE);
        move(t, p, to_q);
        move(t, q, to_p);
        struct wharf_right_stat rs = {.size = sizeof rs};
        for (int i = 0; i < 500; i++) { /* the kernel looks for such circles when a Unix socket is closed */
                close(socket(AF_UNIX, SOCK_DGRAM, 0));
                CHECK_EQ(wharf_right_stat(t, p2, &rs), 0);
                if (rs.dead)
                        break;
                usleep(2000);
        }
        CHECK_EQ(rs.dead, -EPIPE);
        CHECK_EQ(wharf_send(t, p2, "x", 1, 0), -EPIPE);
        CHECK_EQ(wharf_drop(t, to_p), 0);
        CHECK_EQ(wharf_drop(t, to_q), 0);
        CHECK_EQ(wharf_drop(t, p2), 0);
        CHECK_LE(count_fds(), before + 2);
        wharf_task_close(t);
}

/* ---- who kept everything ---- */

struct kept {
        int sock[2];
        struct wh_back *back;
        const uint8_t *out;
};

/* What a former owner can keep of a link: its socket, and the memory of its lane. */
static struct kept keep(wharf_task *t, wharf_name port)
{
        int err;
        struct kept k;
        struct wh_port *p = wh_port_lock(t, port, &err);
        CHECK(p);
        struct wh_link *l = &wh_container(p->links.next, struct wh_owned, in_port)->link;
        k.sock[0] = dup(l->sock);
        CHECK(l->in.lane);
        k.back = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, l->in.lane->back_fd, 0);
        k.out = mmap(NULL, 8192, PROT_READ, MAP_SHARED, l->in.lane->out_fd, 0);
        CHECK(k.back != MAP_FAILED && k.out != MAP_FAILED);
        wh_unlock(&p->inbox->lock);
        return k;
}

static int serve_calls(wharf_task *t, wharf_name port, wharf_name hub, void *arg)
{
        char q[16];
        for (;;) {
                struct wharf_msg m = MSG(.data = q, .cap_bytes = sizeof q);
                int r = wharf_recvmsg(t, port, &m, wharf_in_ms(60000));
                if (r == -ENOTCONN)
                        return 0;
                CHECK_EQ(r, 0);
                CHECK_MEM(q, "true", 4);
                if (m.reply)
                        CHECK_EQ(wharf_reply(t, m.reply, "honest", 6), 0);
        }
}

/*
 * Goal:   once a sender has made a pair and a lane of its own, a former owner that kept a copy of everything can
 *         neither read, write, hide nor forge anything.
 * Method: it writes to the old socket and shuts it down, both ways, scribbles over the old page, and reads what it can;
 *         sender and new owner go on.
 */
TEST(a_former_owner_that_kept_everything_has_nothing_after_the_rebind)
{
        struct hub h = hub_open(NULL);
        struct owner o = {.hub = &h, .run = serve_calls};
        wharf_task *t = h.task;
        wharf_name to, p = port_new(t, NULL), r = right_new(t, p);
        pid_t pid = owner_start(&o, &to);
        char buf[16];
        send_text(t, r, "true", WHARF_HOW_INLINE);
        expect_text(t, p, "true");
        struct kept k = keep(t, p);
        move(t, p, to);
        /* A few calls: then the sender was asked, and has done so. */
        for (int i = 0; i < 4; i++)
                CHECK_EQ(wharf_call(t, r, "true", 4, buf, sizeof buf, wharf_in_ms(60000)), 6);
        char old[8192];
        memcpy(old, k.out, sizeof old);
        memset((void *)k.back, 0xa5, 4096);
        struct wh_frame forged = {.type = WH_FRAME_REFUSE, .to = WH_TO_HOLDER, .arg = EKEYREVOKED};
        wh_frame_send(k.sock[0], &forged, NULL, 0, NULL, false);
        shutdown(k.sock[0], SHUT_RDWR);
        for (int i = 0; i < 50; i++) {
                send_text(t, r, "true", 0);
                CHECK_EQ(wharf_call(t, r, "true", 4, buf, sizeof buf, wharf_in_ms(60000)), 6);
                CHECK_MEM(buf, "honest", 6);
        }
        CHECK_MEM(old, k.out, sizeof old); /* nothing was written where it can read */
        CHECK_LE(recv(k.sock[0], buf, sizeof buf, MSG_DONTWAIT), 0);
        struct wharf_right_stat rs = {.size = sizeof rs};
        CHECK_EQ(wharf_right_stat(t, r, &rs), 0);
        CHECK_EQ(rs.dead, 0);
        CHECK_EQ(wharf_drop(t, r), 0);
        CHECK_EQ(test_wait(pid), 0);
        close(k.sock[0]);
        munmap(k.back, 4096);
        munmap((void *)(uintptr_t)k.out, 8192);
        hub_close(&h);
}

/* ---- an introducer that kept everything ---- */

/* The socket on which the holder of `right` speaks now. */
static int sock_of(wharf_task *t, wharf_name right)
{
        int err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        CHECK(l);
        int sock = l->sock;
        wh_unlock(&l->o.lock);
        return sock;
}

/* Before the attack, the victim has used its right; while it lasts and after it, the right goes on. */
struct introduced {
        struct stage used, attacked;
};

static int use_introduced(wharf_task *t, wharf_name mailbox, wharf_name hub, void *arg)
{
        struct introduced *s = arg;
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        char buf[16];
        CHECK_EQ(wharf_recvmsg(t, mailbox, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(m.n_items, 1);
        for (int i = 0; i < 54; i++) {
                if (i == 4) {
                        stage_reach(&s->used);
                        stage_await(&s->attacked);
                }
                send_text(t, it.name, "true", 0);
                CHECK_EQ(wharf_call(t, it.name, "true", 4, buf, sizeof buf, wharf_in_ms(60000)), 6);
                CHECK_MEM(buf, "honest", 6);
        }
        struct wharf_right_stat rs = {.size = sizeof rs};
        CHECK_EQ(wharf_right_stat(t, it.name, &rs), 0);
        CHECK_EQ(rs.dead, 0);
        stage_reach(&s->used);
        stage_await(&s->attacked);
        return 0;
}

/*
 * Goal:   whoever introduced a sender, and kept copies of both ends of the socket that it introduced, has nothing once
 * the sender has used its right: nothing can be read there, nothing said there is heard by either side, and what is
 * kept does not keep the port from seeing its senders go.
 * Method: it makes the pair by hand, gives one end to the port and one to a victim, and keeps both. After the victim's
 * first calls it says on each end whatever would end, forge or redirect the link; later it looks for anything that
 * came, and shuts the pair down. The port fails the test at any message that is not the victim's.
 */
TEST(an_introducer_that_kept_both_ends_has_nothing_after_the_first_use)
{
        struct hub h = hub_open(NULL);
        struct introduced s = {stage_new(), stage_new()};
        struct owner o = {.hub = &h, .run = serve_calls};
        struct owner v = {.hub = &h, .run = use_introduced, .arg = &s, .first = true};
        wharf_task *t = h.task;
        wharf_name to, to_victim, p = port_new(t, NULL), r = right_new(t, p);
        char buf[64];
        int kept[2], mine[2];
        pid_t owner = owner_start(&o, &to);
        move(t, p, to);
        for (int i = 0; i < 4; i++)
                CHECK_EQ(wharf_call(t, r, "true", 4, buf, sizeof buf, wharf_in_ms(60000)), 6);
        pid_t victim = owner_start(&v, &to_victim);

        CHECK_EQ(wh_os_socketpair(kept), 0);
        struct wh_frame adopt = {.type = WH_FRAME_ADOPT, .to = WH_TO_OWNER, .n_fds = 1};
        CHECK_EQ(wh_frame_send(sock_of(t, r), &adopt, NULL, 0, &kept[1], false), 0);
        struct wh_frame give = {
                .type = WH_FRAME_MESSAGE, .to = WH_TO_OWNER, .n_fds = 1, .arg = WH_MSG_FIRST | WH_MSG_LAST};
        CHECK_EQ(wh_frame_send(sock_of(t, to_victim), &give, &(uint8_t){WH_ITEM_SEND}, 1, &kept[0], false), 0);
        stage_await(&s.used);
        while (recv(kept[0], buf, sizeof buf, MSG_DONTWAIT) >= 0 || recv(kept[1], buf, sizeof buf, MSG_DONTWAIT) >= 0)
                ;

        /* What is sent on one end would be heard at the other: kept[0] speaks to the port, kept[1] to the victim. */
        CHECK_EQ(wh_os_socketpair(mine), 0);
        for (int end = 0; end < 2; end++) {
                struct wh_frame lies[] = {
                        {.type = WH_FRAME_REFUSE, .to = WH_TO_HOLDER, .arg = EKEYREVOKED},
                        {.type = WH_FRAME_MESSAGE, .to = WH_TO_OWNER, .total = 3, .arg = WH_MSG_FIRST | WH_MSG_LAST},
                        {.type = WH_FRAME_RENEW, .to = WH_TO_HOLDER},
                        {.type = WH_FRAME_REBIND, .to = WH_TO_OWNER, .n_fds = 1},
                        {.type = WH_FRAME_ADOPT, .to = WH_TO_OWNER, .n_fds = 1},
                        {.type = WH_FRAME_TAKEN, .to = WH_TO_HOLDER, .seq = 1000},
                };
                for (unsigned i = 0; i < sizeof lies / sizeof *lies; i++) {
                        size_t len = lies[i].type == WH_FRAME_MESSAGE ? 3 : 0;
                        CHECK_EQ(wh_frame_send(kept[end], &lies[i], "lie", len, &mine[1], false), 0);
                }
                CHECK_EQ(send(kept[end], "", 1, MSG_DONTWAIT | MSG_NOSIGNAL), 1); /* a doorbell */
        }
        stage_reach(&s.attacked);
        stage_await(&s.used);
        /* Nobody took a lie, nobody answered one, and nothing of a hundred messages came by: seven lie at each end. */
        for (int end = 0; end < 2; end++) {
                for (int i = 0; i < 7; i++)
                        CHECK_GE(recv(kept[end], buf, sizeof buf, MSG_DONTWAIT), 1);
                CHECK_EQ(recv(kept[end], buf, sizeof buf, MSG_DONTWAIT), -1);
        }
        CHECK_EQ(recv(mine[0], buf, sizeof buf, MSG_DONTWAIT), -1);
        shutdown(kept[0], SHUT_RDWR);
        CHECK_EQ(wharf_call(t, r, "true", 4, buf, sizeof buf, wharf_in_ms(60000)), 6);
        stage_reach(&s.attacked);
        CHECK_EQ(test_wait(victim), 0);
        CHECK_EQ(wharf_drop(t, r), 0);
        CHECK_EQ(test_wait(owner), 0); /* it saw that the last sender went, though both ends are open here */
        for (int end = 0; end < 2; end++) {
                close(kept[end]);
                close(mine[end]);
        }
        stage_done(&s.used);
        stage_done(&s.attacked);
        hub_close(&h);
}

/* ---- carriers that lie ---- */

static int refill(int from, uint8_t *state, size_t len, int *ret)
{
        int sv[2], zero = 0, fds[253];
        CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
        CHECK_EQ(setsockopt(from, SOL_SOCKET, SO_PEEK_OFF, &zero, sizeof zero), 0);
        for (;;) {
                union {
                        struct cmsghdr align;
                        char space[CMSG_SPACE(sizeof fds)];
                } c;
                char head[64];
                struct iovec iov = {head, sizeof head};
                struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c};
                ssize_t n = recvmsg(from, &m, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
                if (n <= 0)
                        break;
                size_t n_fds = (c.align.cmsg_len - CMSG_LEN(0)) / sizeof(int);
                memcpy(fds, CMSG_DATA(&c.align), n_fds * sizeof(int));
                if (state) { /* the first: the state itself, as we want it */
                        close(fds[0]);
                        fds[0] = memfd_create("forged", MFD_CLOEXEC | MFD_ALLOW_SEALING);
                        CHECK_EQ(fchmod(fds[0], 0600), 0);
                        CHECK_EQ(write(fds[0], state, len), len);
                        CHECK_EQ(fcntl(fds[0], F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE),
                                 0);
                        memcpy(CMSG_DATA(&c.align), fds, sizeof(int));
                        state = NULL;
                }
                iov.iov_len = (size_t)n;
                m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
                CHECK_EQ(sendmsg(sv[0], &m, 0), n);
                for (size_t i = 0; i < n_fds; i++)
                        close(fds[i]);
        }
        close(sv[0]);
        *ret = sv[1];
        return 0;
}

/*
 * Goal:   a receive right from a former owner that lies is refused, or is a port that works badly; nothing is leaked
 *         and nobody else is disturbed.
 * Method: a true carrier with each word of its state replaced by boundary values; an empty socket; one cut short.
 */
TEST(forged_carriers_are_refused_and_leave_nothing)
{
        wharf_task *t;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        wharf_name p = port_new(t, NULL), warm = right_new(t, p), cold = right_new(t, p), got;
        send_text(t, warm, "true", WHARF_HOW_INLINE);
        send_text(t, warm, "section", WHARF_HOW_SECTION);
        struct wharf_item it = {.kind = WHARF_COPY_FD, .fd = 0};
        struct wharf_msg m = MSG(.data = BYTES("with"), .len_bytes = 4, .items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(t, cold, &m, 0), 0);
        CHECK_EQ(wharf_recvmsg(t, p, &(struct wharf_msg){.size = sizeof m, .data = (char[8]){0}, .cap_bytes = 8}, 0),
                 0);
        int carrier, forged, sv[2];
        CHECK_EQ(wh_move_pack(t, p, &carrier), 0);
        /* The true state, to lie about. */
        int state_fd, zero = 0;
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(sizeof(int))];
        } c;
        char head[64];
        struct iovec iov = {head, sizeof head};
        struct msghdr first = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c};
        CHECK_EQ(setsockopt(carrier, SOL_SOCKET, SO_PEEK_OFF, &zero, sizeof zero), 0);
        CHECK_GE(recvmsg(carrier, &first, MSG_PEEK | MSG_CMSG_CLOEXEC), 1);
        memcpy(&state_fd, CMSG_DATA(&c.align), sizeof state_fd);
        uint8_t state[4096];
        ssize_t len = pread(state_fd, state, sizeof state, 0);
        CHECK_GE(len, 200);
        close(state_fd);
        CHECK_EQ(carrier_open(t, carrier, true, 0, &got), 0); /* the true one can be opened, and put back */
        CHECK_EQ(wharf_drop(t, got), 0);
        const uint32_t lies[] = {0, 1, 0x7fffffff, 0x80000000, 0xffffffff};
        unsigned refused = 0, before = count_fds();
        for (ssize_t at = 0; at + 4 <= len; at += 4) {
                for (unsigned i = 0; i < 5; i++) {
                        uint8_t bad[sizeof state];
                        memcpy(bad, state, sizeof state);
                        memcpy(bad + at, &lies[i], 4);
                        refill(carrier, bad, (size_t)len, &forged);
                        int r = carrier_open(t, forged, true, 0, &got);
                        CHECK(r == 0 || r == -EPROTO || r == -EPROTONOSUPPORT || r == -ENOMEM);
                        refused += r != 0;
                        if (r == 0) {
                                for (int k = 0; k < 4; k++) {
                                        m = MSG(.data = head, .cap_bytes = sizeof head, .items = &it, .cap_items = 1);
                                        if (wharf_recvmsg(t, got, &m, 0) == 0 && m.n_items && it.kind == WHARF_GOT_FD)
                                                close(it.fd);
                                }
                                CHECK_EQ(wharf_drop(t, got), 0);
                        }
                        close(forged);
                        CHECK_EQ(count_fds(), before);
                }
        }
        CHECK_GE(refused, 50);
        CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv), 0);
        CHECK_EQ(carrier_open(t, sv[0], true, 0, &got), -EPROTO);
        CHECK_EQ(carrier_open(t, 0, true, 0, &got), -EPROTO);
        close(sv[0]);
        close(sv[1]);
        close(carrier);
        wh_move_end(t, p, false);
        wharf_task_close(t);
}

/* ---- with other queues, and other ways ---- */

TEST(offered_and_unbounded_messages_move)
{
        const uint32_t capacity[] = {WHARF_RENDEZVOUS, WHARF_UNBOUNDED};
        for (int i = 0; i < 2; i++) {
                uint32_t first = 0;
                struct hub h = hub_open(NULL);
                struct owner o = {.hub = &h, .run = count_thousand, .arg = &first};
                struct sender s = {.hub = &h, .run = send_thousand};
                wharf_name to, p = port_new(h.task, PORT_OPTS(.capacity_records = capacity[i]));
                pid_t pid = owner_start(&o, &to), sender = sender_start(&s, p);
                if (i == 0)
                        await_asleep(sender); /* its first message is offered */
                else
                        CHECK_EQ(test_wait(sender), 0); /* all lies there, in several rings */
                move(h.task, p, to);
                if (i == 0)
                        CHECK_EQ(test_wait(sender), 0);
                CHECK_EQ(test_wait(pid), 0);
                hub_close(&h);
        }
}

static int send_direct(wharf_task *t, wharf_name right, void *arg)
{
        char *bytes = malloc(HUGE_BYTES);
        pattern_fill(bytes, HUGE_BYTES, 5);
        struct wharf_msg m = MSG(.data = bytes, .len_bytes = HUGE_BYTES, .how = WHARF_HOW_DIRECT);
        CHECK_EQ(wharf_sendmsg(t, right, &m, wharf_in_ms(60000)), 0);
        free(bytes);
        send_text(t, right, "after", 0);
        return 0;
}

TEST(a_payload_in_the_senders_address_space_is_read_by_the_new_owner)
{
        struct hub h = hub_open(NULL);
        struct owner o = {.hub = &h, .run = take_huge};
        struct sender s = {.hub = &h, .run = send_direct};
        wharf_name to, p = port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_DIRECT));
        pid_t pid = owner_start(&o, &to), sender = sender_start(&s, p);
        await_asleep(sender);
        move(h.task, p, to);
        CHECK_EQ(test_wait(sender), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* Drops the port, or closes its task: `what` is 0 or 1; 2: in a set; 3: the heir is dead. */
static void inherit(int what)
{
        struct hub h = hub_open(NULL);
        wharf_name heir, right, p, set;
        wharf_task *t;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_right_connect(t, h.path, &heir), 0);
        p = port_new(t, NULL);
        CHECK_EQ(wharf_right_new(t, p, &right), 0);
        /* The sender's right is the hub's, so that it outlives this task. */
        struct wharf_item item = {.kind = WHARF_MOVE_SEND, .name = right};
        CHECK_EQ(wharf_sendmsg(t, heir, &MSG(.items = &item, .n_items = 1), WHARF_FOREVER), 0);
        struct wharf_msg m = MSG(.items = &item, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        right = item.name;
        for (int i = 0; i < 40; i++)
                CHECK_EQ(wharf_send(h.task, right, &i, sizeof i, 0), 0);
        CHECK_EQ(wharf_port_heir(t, p, heir), 0);
        if (what == 2) {
                CHECK_EQ(wharf_set_new(t, &set), 0);
                CHECK_EQ(wharf_set_add(t, set, p), 0);
        }
        if (what == 3)
                CHECK_EQ(wharf_drop(h.task, h.port), 0);
        if (what == 1)
                t = wharf_task_close(t);
        else
                CHECK_EQ(wharf_drop(t, p), 0);
        if (what == 3) {
                CHECK(wh_os_closer_rest(wharf_in_ms(60000))); /* the pair that it made lay there unread */
                struct wharf_right_stat st = {.size = sizeof st};
                CHECK_EQ(wharf_right_stat(h.task, right, &st), 0);
                CHECK_EQ(st.dead, -EPIPE);
        } else {
                m = MSG(.items = &item, .cap_items = 1);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(m.id, WHARF_ID_PORT_DESTROYED);
                CHECK_EQ(item.kind, WHARF_GOT_RECEIVE);
                int n = 40;
                CHECK_EQ(wharf_send(h.task, right, &n, sizeof n, WHARF_FOREVER), 0);
                for (int i = 0; i <= 40; i++) {
                        CHECK_EQ(wharf_recv(h.task, item.name, &n, sizeof n, NULL, WHARF_FOREVER), (ssize_t)sizeof n);
                        CHECK_EQ(n, i);
                }
        }
        wharf_task_close(t);
        hub_close(&h);
}

TEST(a_dropped_port_goes_to_its_heir_with_all_that_is_unread)
{
        inherit(0);
}

TEST(a_port_of_a_closed_task_goes_to_its_heir)
{
        inherit(1);
}

TEST(a_port_in_a_set_goes_to_its_heir)
{
        inherit(2);
}

TEST(a_port_whose_heir_is_dead_ends)
{
        inherit(3);
}

TEST(what_can_be_an_heir)
{
        struct hub h = hub_open(NULL);
        wharf_name p = port_new(h.task, NULL), fixed = port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_FIXED)), own,
                   once, to;
        CHECK_EQ(wharf_right_new(h.task, p, &own), 0);
        CHECK_EQ(wharf_once_new(h.task, h.port, &once), 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &to), 0);
        CHECK_EQ(wharf_send(h.task, own, "x", 1, WHARF_FOREVER), 0); /* it knows its port by now */
        CHECK_EQ(wharf_port_heir(h.task, p, own), -ELOOP);
        CHECK_EQ(wharf_port_heir(h.task, p, once), -EPERM);
        CHECK_EQ(wharf_port_heir(h.task, p, 4711), -EBADF);
        CHECK_EQ(wharf_port_heir(h.task, own, to), -EPERM);
        CHECK_EQ(wharf_port_heir(h.task, fixed, to), -EOPNOTSUPP);
        CHECK_EQ(wharf_port_heir(h.task, p, to), 0);
        CHECK_EQ(wharf_port_heir(h.task, p, WHARF_NONE), 0);
        CHECK_EQ(wharf_drop(h.task, p), 0);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000))); /* the pair that it made lay there unread */
        CHECK_EQ(wharf_send(h.task, own, "x", 1, WHARF_FOREVER), -EPIPE);
        hub_close(&h);
}

/* Goal: also who has sent few messages, all as frames, goes over with its very next one, once the new owner has looked. */
TEST(a_sender_without_a_lane_goes_over_with_its_next_message)
{
        struct hub h = hub_open(NULL);
        wharf_name to, port, right;
        struct wharf_item item;
        char c;
        struct wharf_msg got = MSG(.items = &item, .cap_items = 1), m = MSG(.data = &c, .cap_bytes = 1);
        CHECK_EQ(wharf_right_new(h.task, h.port, &to), 0);
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        for (int round = 0; round < 3; round++) {
                usleep(1000); /* one that follows another at once does not look */
                CHECK_EQ(wharf_send(h.task, right, "a", 1, 0), 0);
                CHECK_EQ(wharf_recvmsg(h.task, port, &m, wharf_in_ms(60000)), 0);
                CHECK_EQ(m.sender.known, WHARF_KNOWN_OWN);
                item = (struct wharf_item){.kind = WHARF_MOVE_RECEIVE, .name = port};
                CHECK_EQ(wharf_sendmsg(h.task, to, &MSG(.items = &item, .n_items = 1), WHARF_FOREVER), 0);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &got, wharf_in_ms(60000)), 0);
                CHECK_EQ(item.kind, WHARF_GOT_RECEIVE);
                port = item.name;
                CHECK_EQ(wharf_recv(h.task, port, NULL, 0, NULL, 0), -EAGAIN);
        }
        struct wharf_right_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_right_stat(h.task, right, &st), 0);
        CHECK_EQ(st.attached, 0);
        hub_close(&h);
}

static int takes_what_lay_there(wharf_task *t, wharf_name port, wharf_name hub, void *arg)
{
        struct wharf_item got;
        char text[16];
        bool precious = false, empty = false;
        for (int i = 0; i < 2; i++) {
                struct wharf_msg m = MSG(.data = text, .cap_bytes = sizeof text, .items = &got, .cap_items = 1);
                CHECK_EQ(wharf_recvmsg(t, port, &m, wharf_in_ms(60000)), 0);
                precious |= m.len_bytes == 8 && !memcmp(text, "precious", 8);
                empty |= m.len_bytes == 0 && m.n_items == 1;
        }
        CHECK(precious && empty);
        (void)hub;
        (void)arg;
        return 0;
}

/*
 * Goal:   a message without bytes that was asked to go as a memory, and was looked at and not taken, keeps no port from moving.
 * Method: the receive had no room for its item; another sender's message lies beside it.
 */
TEST(an_empty_memory_that_was_not_taken_moves_with_its_port)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        struct owner o = {.hub = &h, .run = takes_what_lay_there};
        wharf_name port, one, two, to;
        char text[16];
        pid_t pid = owner_start(&o, &to);
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &one), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &two), 0);
        for (int i = 0; i < 40; i++) { /* with a lane */
                CHECK_EQ(wharf_send(h.task, one, "x", 1, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_recv(h.task, port, text, sizeof text, NULL, wharf_in_ms(60000)), 1);
        }
        struct wharf_item it = {.kind = WHARF_COPY_FD, .fd = 0}, mine = {.kind = WHARF_MOVE_RECEIVE, .name = port};
        struct wharf_msg m = MSG(.how = WHARF_HOW_MEMORY, .items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(h.task, one, &m, WHARF_FOREVER), 0);
        struct wharf_msg r = MSG(.data = text, .cap_bytes = sizeof text);
        CHECK_EQ(wharf_recvmsg(h.task, port, &r, wharf_in_ms(60000)), -EOVERFLOW);
        CHECK_EQ(wharf_send(h.task, two, "precious", 8, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_sendmsg(h.task, to, &MSG(.items = &mine, .n_items = 1), WHARF_FOREVER), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}
