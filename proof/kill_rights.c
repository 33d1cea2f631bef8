/*
 * Rights and memory in the hands of somebody who dies: the holder of a right to be used once, whoever passes a right
 * on, whoever takes one back, whoever asked to be told, whoever gives memory away or takes it.
 *
 * The owner hears of a send-once right exactly once: its message, or that it was not used. Who holds a right that came
 * through a dead one goes on. Who asked is told once. Memory arrives whole or not at all.
 */
#include "rights.h"

#include <sys/wait.h>

#include <wharf/memory.h>
#include <wharf/spawn.h>

enum { ID_ASK = 1, ID_ONCE = 2, MEMORY_BYTES = 5 * 4096, SOME = 6 };

/* Words of the ledger: what was given out, what came of it, and what its user knows. */
enum { WORD_GIVEN = 4, WORD_USED = 5, WORD_UNUSED = 6, WORD_SURE = 7 };

/* ---- an owner that gives out rights to be used once, to whoever calls ---- */

static void own(struct proof *p)
{
        rights_with(p, &rights(p)->port, port_own);
}

static int own_receive(struct proof *p, int64_t deadline_ns)
{
        struct port_state *s = &rights(p)->port;
        uint8_t bytes[16];
        struct wharf_msg m = {.size = sizeof m, .data = bytes, .cap_bytes = sizeof bytes};
        int r = wharf_recvmsg(s->task, s->port, &m, deadline_ns);
        if (r < 0) {
                PROOF_CHECK(p, r == -EAGAIN || r == -ETIMEDOUT || r == -ENOTCONN);
                return r;
        }
        if (m.reply) {
                struct wharf_item item = {.kind = WHARF_MAKE_ONCE, .name = s->port};
                struct wharf_msg reply = {.size = sizeof reply, .items = &item, .n_items = 1};
                r = wharf_replymsg(s->task, m.reply, &reply);
                if (r == 0)
                        rights_count(p, WORD_GIVEN);
                else /* the caller is dead, or has not the room; then nothing was made */
                        PROOF_EQ(p, r, -EPIPE);
        } else if (m.notice) {
                PROOF_EQ(p, m.notice, WHARF_NOTICE_ONCE_UNUSED);
                rights_count(p, WORD_UNUSED);
        } else if (m.id == ID_ONCE) {
                PROOF_EQ(p, m.len_bytes, 4);
                PROOF_CHECK(p, !memcmp(bytes, "once", 4));
                rights_count(p, WORD_USED);
        } else {
                PROOF_EQ(p, bytes[0], PORT_CLEAN);
                rights_count(p, WORD_CLEAN);
        }
        return 0;
}

/* Until everybody is gone, and every right to be used once has come to its end. */
static void own_on(struct proof *p)
{
        for (;;) {
                bool over = rights_word(p, WORD_OVER);
                if (own_receive(p, over ? 0 : wharf_in_ms(2)) == 0 || !over)
                        continue;
                if (rights_alone(p))
                        return;
        }
}

static void serve_once(struct proof *p)
{
        rights_own(p, 0);
        own_on(p);
}

static void audit_once(struct proof *p)
{
        PROOF_EQ(p, rights_word(p, WORD_USED) + rights_word(p, WORD_UNUSED), rights_word(p, WORD_GIVEN));
        PROOF_CHECK(p, rights_word(p, WORD_USED) >= rights_word(p, WORD_SURE));
        PROOF_CHECK(p, rights_word(p, WORD_CLEAN) >= PORT_N_CLEAN);
}

static wharf_name ask_for_once(struct proof *p)
{
        struct port_state *s = &rights(p)->send;
        struct wharf_item item;
        struct wharf_msg ask = {.size = sizeof ask, .id = ID_ASK};
        struct wharf_msg reply = {.size = sizeof reply, .items = &item, .cap_items = 1};
        PROOF_EQ(p, wharf_callmsg(s->task, s->right, &ask, &reply, WHARF_FOREVER), 0);
        PROOF_EQ(p, reply.n_items, 1);
        PROOF_EQ(p, item.kind, WHARF_GOT_REPLY);
        return item.name;
}

static int use_once(wharf_task *t, wharf_name once)
{
        struct wharf_msg m = {.size = sizeof m, .id = ID_ONCE, .data = (char[]){"once"}, .len_bytes = 4};
        return wharf_sendmsg(t, once, &m, 0);
}

/* One is used, one is dropped, one is kept until the end. */
static int hold_once(struct proof *p)
{
        struct port_state *s = &rights(p)->send;
        wharf_name used = ask_for_once(p), dropped = ask_for_once(p);
        ask_for_once(p);
        PROOF_EQ(p, use_once(s->task, used), 0);
        rights_count(p, WORD_SURE);
        PROOF_EQ(p, wharf_drop(s->task, dropped), 0);
        s->task = wharf_task_close(s->task);
        return 0;
}

/* ---- whoever passes rights on: one to be used once, and a copy of a send right ---- */

static void meet(struct proof *p)
{
        rights_with(p, &rights(p)->port, port_let_go);
        PROOF_CHECK(p, rights_join(p));
        PROOF_EQ(p, wharf_right_connect(rights(p)->send.task, rights(p)->home.path, &rights(p)->to_home), 0);
        rights_with(p, &rights(p)->home, port_let_go);
}

static int pass_on(struct proof *p)
{
        struct port_state *s = &rights(p)->send;
        struct wharf_item items[] = {{.kind = WHARF_COPY_SEND, .name = s->right},
                                     {.kind = WHARF_MOVE_REPLY, .name = ask_for_once(p)}};
        struct wharf_msg m = {.size = sizeof m, .items = items, .n_items = 2};
        PROOF_EQ(p, wharf_sendmsg(s->task, rights(p)->to_home, &m, WHARF_FOREVER), 0);
        rights_count(p, WORD_SURE); /* whoever gets it uses it */
        items[0].kind = WHARF_MOVE_SEND;
        m.n_items = 1;
        PROOF_EQ(p, wharf_sendmsg(s->task, rights(p)->to_home, &m, WHARF_FOREVER), 0);
        s->task = wharf_task_close(s->task);
        return 0;
}

/* Uses all that arrives at home, and lets go of it. False: nothing came. */
static bool use_arrived(struct proof *p)
{
        struct port_state *h = &rights(p)->home;
        struct wharf_item items[2];
        struct wharf_msg m = {.size = sizeof m, .items = items, .cap_items = 2};
        int r = wharf_recvmsg(h->task, h->port, &m, 0);
        if (r < 0) {
                PROOF_CHECK(p, r == -EAGAIN || r == -ENOTCONN);
                return false;
        }
        for (unsigned i = 0; i < m.n_items; i++) {
                if (items[i].kind == WHARF_GOT_REPLY) {
                        PROOF_EQ(p, use_once(h->task, items[i].name), 0);
                        continue;
                }
                PROOF_EQ(p, items[i].kind, WHARF_GOT_SEND);
                for (int k = 0; k < SOME; k++) /* the owner of the port is in this same process, and receives between */
                        if (wharf_send(h->task, items[i].name, (uint8_t[4]){PORT_CLEAN}, 4, 0) == 0)
                                own_receive(p, 0);
                PROOF_EQ(p, wharf_drop(h->task, items[i].name), 0);
        }
        return true;
}

static void serve_both(struct proof *p)
{
        struct port_state *s = &rights(p)->port;
        own(p);
        rights_with(p, &rights(p)->home, port_own);
        for (;;) {
                bool over = rights_word(p, WORD_OVER), idle = !use_arrived(p);
                idle = own_receive(p, over ? 0 : wharf_in_ms(1)) < 0 && idle;
                if (!over || !idle)
                        continue;
                struct wharf_port_stat st = {.size = sizeof st}, at_home = {.size = sizeof at_home};
                PROOF_EQ(p, wharf_port_stat(s->task, s->port, &st), 0);
                PROOF_EQ(p, wharf_port_stat(rights(p)->home.task, rights(p)->home.port, &at_home), 0);
                PROOF_EQ(p, st.refused_links + at_home.refused_links, 0);
                if (st.senders == 0 && at_home.senders == 0)
                        return;
        }
}

/* ---- whoever takes a right back ---- */

static uint64_t revoked_id;

static void own_and_hear(struct proof *p)
{
        struct port_state *s = &rights(p)->port;
        struct wharf_sender from;
        rights_own(p, 0);
        PROOF_CHECK(p, wharf_recv(s->task, s->port, (uint8_t[8]){0}, 8, &from, WHARF_FOREVER) >= 0);
        revoked_id = from.id;
        for (int i = 0; i < 30; i++)
                PROOF_CHECK(p, wharf_recv(s->task, s->port, (uint8_t[8]){0}, 8, NULL, WHARF_FOREVER) >= 0);
}

/* After it, nothing that was sent comes any more. */
static int take_back(struct proof *p)
{
        struct port_state *s = &rights(p)->port;
        PROOF_EQ(p, wharf_revoke(s->task, s->port, revoked_id, WHARF_REVOKE_BRANCH), 1);
        rights_word_set(p, WORD_SURE);
        ssize_t n = wharf_recv(s->task, s->port, (uint8_t[8]){0}, 8, NULL, 0);
        PROOF_CHECK(p, n == -EAGAIN || n == -ENOTCONN);
        s->task = wharf_task_close(s->task);
        return 0;
}

/* Sends until it is told, and asked to be told. */
static void send_until_told(struct proof *p)
{
        struct port_state *s = &rights(p)->send;
        wharf_name notify;
        int r, told = 0;
        rights_parted(p);
        if (!rights_join(p))
                return;
        PROOF_EQ(p, wharf_port_new(s->task, NULL, &notify), 0);
        PROOF_EQ(p, wharf_watch(s->task, s->right, notify), 0);
        while ((r = wharf_send(s->task, s->right, "12345678", 8, wharf_in_ms(1))) == 0 || r == -ETIMEDOUT)
                usleep(50);
        PROOF_CHECK(p, r == -EPIPE || r == -EKEYREVOKED);
        for (;;) {
                struct wharf_msg m = {.size = sizeof m};
                r = wharf_recvmsg(s->task, notify, &m, told ? 0 : wharf_in_ms(15000));
                if (r < 0)
                        break;
                PROOF_EQ(p, m.notice, WHARF_NOTICE_DEAD_NAME);
                PROOF_EQ(p, m.about, s->right);
                told++;
        }
        PROOF_EQ(p, told, 1);
}

/* ---- whoever holds a right that is taken back, and of whom somebody wants to know when the last one is gone ---- */

static void revoke_all(struct proof *p)
{
        struct port_state *s = &rights(p)->port;
        struct wharf_sender from;
        uint8_t bytes[8];
        unsigned told = 0;
        rights_own(p, 0);
        PROOF_EQ(p, wharf_notify(s->task, WHARF_NOTICE_NO_SENDERS, s->port, WHARF_NONE, 1), 0);
        wharf_name notify;
        PROOF_EQ(p, wharf_task_notify(s->task, &notify), 0);
        bool idle = false;
        for (unsigned n = 0; !rights_word(p, WORD_OVER) || !told || !idle;) {
                struct wharf_msg m = {.size = sizeof m};
                bool over = rights_word(p, WORD_OVER);
                ssize_t r = wharf_recv(s->task, s->port, bytes, sizeof bytes, &from, wharf_in_ms(1));
                idle = over && r < 0;
                if (r > 0 && bytes[0] == PORT_CLEAN)
                        rights_count(p, WORD_CLEAN);
                if (r == 8 && ++n % 16 == 0) {
                        int gone = wharf_revoke(s->task, s->port, from.id, 0);
                        PROOF_CHECK(p, gone == 1 || gone == -ENOENT);
                }
                if (wharf_recvmsg(s->task, notify, &m, 0) == 0) {
                        PROOF_EQ(p, m.notice, WHARF_NOTICE_NO_SENDERS);
                        PROOF_CHECK(p, m.count >= 1);
                        told++;
                        /* Once; it is asked for again. */
                        PROOF_EQ(p, wharf_notify(s->task, WHARF_NOTICE_NO_SENDERS, s->port, WHARF_NONE, m.count + 1),
                                 0);
                }
        }
}

static int send_until_revoked(struct proof *p)
{
        struct port_state *s = &rights(p)->send;
        int r;
        rights_connect(p);
        while ((r = wharf_send(s->task, s->right, "12345678", 8, wharf_in_ms(1))) == 0 || r == -ETIMEDOUT)
                ;
        PROOF_EQ(p, r, -EKEYREVOKED);
        s->task = wharf_task_close(s->task);
        return 0;
}

/* ---- memory ---- */

static void memory_fill(struct proof *p, wharf_task *t, wharf_name memory, uint8_t with)
{
        void *at;
        PROOF_EQ(p, wharf_memory_at(t, memory, &at, NULL), 0);
        memset(at, with, MEMORY_BYTES);
}

static void memory_is(struct proof *p, wharf_task *t, wharf_name memory, uint8_t with)
{
        void *at;
        size_t bytes;
        PROOF_EQ(p, wharf_memory_at(t, memory, &at, &bytes), 0);
        PROOF_EQ(p, bytes, MEMORY_BYTES);
        for (size_t i = 0; i < bytes; i++)
                PROOF_EQ(p, ((const uint8_t *)at)[i], with);
}

/* Moved and copied in turn; the copy stays what it was here, whatever the other does. */
static int give_memory(struct proof *p, struct port_state *s, int n)
{
        int r = 0;
        for (int i = 0; i < n && r == 0; i++) {
                struct wharf_item item = {.kind = i % 2 ? WHARF_COPY_MEMORY : WHARF_MOVE_MEMORY};
                struct wharf_msg m = {.size = sizeof m, .items = &item, .n_items = 1};
                PROOF_EQ(p, wharf_memory_new(s->task, MEMORY_BYTES, &item.name), 0);
                memory_fill(p, s->task, item.name, (uint8_t)(i + 1));
                r = wharf_sendmsg(s->task, s->right, &m, WHARF_FOREVER);
                if (r == 0 && i % 2) {
                        memory_is(p, s->task, item.name, (uint8_t)(i + 1));
                        memory_fill(p, s->task, item.name, 0xff);
                }
                if (r < 0 || i % 2)
                        PROOF_EQ(p, wharf_drop(s->task, item.name), 0);
        }
        return r;
}

static int give_some_memory(struct proof *p)
{
        rights_connect(p);
        PROOF_EQ(p, give_memory(p, &rights(p)->send, SOME), 0);
        rights(p)->send.task = wharf_task_close(rights(p)->send.task);
        return 0;
}

/* One memory, whole. */
static int take_one(struct proof *p, struct port_state *s, uint8_t number, int64_t deadline_ns)
{
        struct wharf_item item;
        uint8_t bytes[8];
        struct wharf_msg m = {
                .size = sizeof m, .data = bytes, .cap_bytes = sizeof bytes, .items = &item, .cap_items = 1};
        int r = wharf_recvmsg(s->task, s->port, &m, deadline_ns);
        if (r < 0)
                return r;
        if (!m.n_items) {
                PROOF_EQ(p, bytes[0], PORT_CLEAN);
                rights_count(p, WORD_CLEAN);
                return 0;
        }
        PROOF_EQ(p, item.kind, WHARF_GOT_MEMORY);
        memory_is(p, s->task, item.name, number);
        memory_fill(p, s->task, item.name, 0);
        PROOF_EQ(p, wharf_drop(s->task, item.name), 0);
        return 1;
}

static void take_memory(struct proof *p)
{
        struct port_state *s = &rights(p)->port;
        uint8_t number = 1;
        rights_own(p, 0);
        for (;;) {
                bool over = rights_word(p, WORD_OVER);
                int r = take_one(p, s, number, over ? 0 : wharf_in_ms(2));
                number += r == 1;
                if (r >= 0 || !over)
                        continue;
                if (rights_alone(p))
                        return;
        }
}

static int take_some_memory(struct proof *p)
{
        struct port_state *s = &rights(p)->port;
        rights_own(p, 0);
        for (int i = 0; i < SOME; i++)
                PROOF_EQ(p, take_one(p, s, (uint8_t)(1 + i % 2), WHARF_FOREVER), 1);
        s->task = wharf_task_close(s->task);
        return 0;
}

static void give_until_it_dies(struct proof *p)
{
        rights_parted(p);
        if (!rights_join(p))
                return;
        int r;
        while ((r = give_memory(p, &rights(p)->send, 2)) == 0 || r == -ETOOMANYREFS) /* as many as may be unread */
                usleep(r ? 500 : 0);
        PROOF_EQ(p, r, -EPIPE);
}

/* ---- payloads that are read and written in the other's memory ---- */

enum { DIRECT_BYTES = 70000 };

static uint8_t direct_byte(unsigned n, size_t at)
{
        return (uint8_t)(n * 31 + at % 251 + 1);
}

static int send_directly(struct proof *p, struct port_state *s, unsigned n)
{
        static uint8_t bytes[DIRECT_BYTES];
        for (size_t i = 0; i < sizeof bytes; i++)
                bytes[i] = direct_byte(n, i);
        struct wharf_msg m = {
                .size = sizeof m, .how = WHARF_HOW_DIRECT, .data = bytes, .len_bytes = sizeof bytes, .id = n};
        int r = wharf_sendmsg(s->task, s->right, &m, WHARF_FOREVER);
        memset(bytes, 0, sizeof bytes); /* it is ours again, at once */
        return r;
}

/* 1: a whole message; 0: a clean one. */
static int receive_directly(struct proof *p, struct port_state *s, int64_t deadline_ns)
{
        static uint8_t bytes[DIRECT_BYTES];
        struct wharf_msg m = {.size = sizeof m, .data = bytes, .cap_bytes = sizeof bytes};
        int r = wharf_recvmsg(s->task, s->port, &m, deadline_ns);
        if (r < 0)
                return r;
        if (m.len_bytes == 4) {
                if (bytes[0] == PORT_CLEAN)
                        rights_count(p, WORD_CLEAN);
                return 0;
        }
        PROOF_EQ(p, m.len_bytes, DIRECT_BYTES);
        for (size_t i = 0; i < m.len_bytes; i++)
                PROOF_EQ(p, bytes[i], direct_byte(m.id, i));
        if (m.reply) {
                r = wharf_reply(s->task, m.reply, bytes, m.len_bytes);
                PROOF_CHECK(p, r == 0 || r == -EPIPE);
        }
        return 1;
}

/* Until all are gone; a connection that was let in by the last look is read by the next. */
static void receive_on_directly(struct proof *p)
{
        struct port_state *s = &rights(p)->port;
        for (int idle = 0; idle < 3;) {
                bool over = rights_word(p, WORD_OVER);
                int r = receive_directly(p, s, over ? 0 : wharf_in_ms(2));
                PROOF_CHECK(p, r >= 0 || r == -EAGAIN || r == -ETIMEDOUT || r == -ENOTCONN);
                idle = rights_alone(p) && r < 0 && over ? idle + 1 : 0;
        }
}

static void receive_all_directly(struct proof *p)
{
        rights_own(p, 0);
        receive_on_directly(p);
}

static int give_directly(struct proof *p)
{
        rights_connect(p);
        for (unsigned i = 0; i < SOME; i++)
                PROOF_EQ(p, send_directly(p, &rights(p)->send, i + 1), 0);
        rights(p)->send.task = wharf_task_close(rights(p)->send.task);
        return 0;
}

static int take_directly(struct proof *p)
{
        struct port_state *s = &rights(p)->port;
        rights_own(p, 0);
        for (unsigned i = 0; i < SOME; i++)
                PROOF_EQ(p, receive_directly(p, s, WHARF_FOREVER), 1);
        s->task = wharf_task_close(s->task);
        return 0;
}

static void give_directly_until_it_dies(struct proof *p)
{
        int r = 0;
        rights_parted(p);
        if (!rights_join(p))
                return;
        for (unsigned i = 1; r == 0; i++)
                r = send_directly(p, &rights(p)->send, i);
        PROOF_EQ(p, r, -EPIPE);
}

/* The reply is written where the caller set memory apart for it. Whole, or the call fails. */
static int call_directly(struct proof *p, struct port_state *s, unsigned n)
{
        static uint8_t bytes[DIRECT_BYTES], back[DIRECT_BYTES];
        for (size_t i = 0; i < sizeof bytes; i++)
                bytes[i] = direct_byte(n, i);
        struct wharf_msg req = {.size = sizeof req,
                                .flags = WHARF_REPLY_DIRECT,
                                .data = bytes,
                                .len_bytes = sizeof bytes,
                                .cap_bytes = sizeof back,
                                .id = n};
        struct wharf_msg reply = {.size = sizeof reply, .data = back, .cap_bytes = sizeof back};
        int r = wharf_callmsg(s->task, s->right, &req, &reply, WHARF_FOREVER);
        if (r == 0)
                PROOF_CHECK(p, reply.len_bytes == sizeof back && !memcmp(bytes, back, sizeof back));
        return r;
}

static int call_some_directly(struct proof *p)
{
        rights_connect(p);
        for (unsigned i = 0; i < SOME; i++)
                PROOF_EQ(p, call_directly(p, &rights(p)->send, i + 1), 0);
        rights(p)->send.task = wharf_task_close(rights(p)->send.task);
        return 0;
}

static void call_directly_until_it_dies(struct proof *p)
{
        int r = 0;
        rights_parted(p);
        if (!rights_join(p))
                return;
        for (unsigned i = 1; r == 0; i++)
                r = call_directly(p, &rights(p)->send, i);
        PROOF_CHECK(p, r == -EPIPE || r == -ECONNRESET);
}

/* ---- messages in pieces, which need no shared memory but the ring's ---- */

enum { UNTIL_A_LANE = 24 };

static int send_in_pieces(struct port_state *s, unsigned n)
{
        static uint8_t bytes[DIRECT_BYTES];
        struct wh_outgoing o;
        int r;
        for (size_t i = 0; i < sizeof bytes; i++)
                bytes[i] = direct_byte(n, i);
        wh_outgoing_init(&o, bytes, sizeof bytes);
        o.id = n;
        o.forbidden = true; /* sections, as by a sandbox */
        struct wh_link *l = wh_holder_lock(s->task, s->right, &r);
        if (!l)
                return r;
        r = wh_link_send(l, &o, WHARF_FOREVER);
        wh_unlock(&l->o.lock);
        return r;
}

static int send_until_a_lane(struct port_state *s)
{
        int r = 0;
        for (int i = 0; i < UNTIL_A_LANE && r == 0; i++)
                r = wharf_send(s->task, s->right, (uint8_t[4]){0}, 4, WHARF_FOREVER);
        return r;
}

static void connect_with_a_lane(struct proof *p)
{
        rights_connect(p);
        PROOF_EQ(p, send_until_a_lane(&rights(p)->send), 0);
}

static int give_in_pieces(struct proof *p)
{
        for (unsigned i = 0; i < 2; i++)
                PROOF_EQ(p, send_in_pieces(&rights(p)->send, i + 1), 0);
        rights(p)->send.task = wharf_task_close(rights(p)->send.task);
        return 0;
}

static void own_with_a_lane(struct proof *p)
{
        rights_own(p, 0);
        for (int i = 0; i < UNTIL_A_LANE; i++)
                PROOF_EQ(p, receive_directly(p, &rights(p)->port, WHARF_FOREVER), 0);
}

static int take_in_pieces(struct proof *p)
{
        for (int i = 0; i < 2; i++)
                PROOF_EQ(p, receive_directly(p, &rights(p)->port, WHARF_FOREVER), 1);
        rights(p)->port.task = wharf_task_close(rights(p)->port.task);
        return 0;
}

static void give_in_pieces_until_it_dies(struct proof *p)
{
        struct port_state *s = &rights(p)->send;
        rights_parted(p);
        if (!rights_join(p))
                return;
        int r = send_until_a_lane(s);
        for (unsigned i = 1; r == 0; i++)
                r = send_in_pieces(s, i);
        PROOF_EQ(p, r, -EPIPE);
}

/* ---- whoever asks whether two rights are the same, and to be told of room, dies; and who is asked ---- */

static int ask_same(struct port_state *s, wharf_name other)
{
        int r = wharf_right_same(s->task, s->right, other, WHARF_FOREVER);
        return r == 1 ? 0 : r;
}

static void receive_all_of_a_short_queue(struct proof *p)
{
        rights_own(p, 8);
        receive_on_directly(p);
}

static int ask_some(struct proof *p)
{
        struct port_state *s = &rights(p)->send;
        wharf_name other, notify;
        rights_connect(p);
        PROOF_EQ(p, wharf_right_copy(s->task, s->right, WHARF_FOREVER, &other), 0);
        PROOF_EQ(p, wharf_port_new(s->task, NULL, &notify), 0);
        for (int i = 0; i < 3; i++) {
                struct wharf_msg m = {.size = sizeof m};
                PROOF_EQ(p, ask_same(s, other), 0);
                while (wharf_send(s->task, other, (uint8_t[4]){0}, 4, 0) == 0)
                        ;
                PROOF_EQ(p, wharf_notify(s->task, WHARF_NOTICE_SEND_POSSIBLE, other, notify, 0), 0);
                PROOF_EQ(p, wharf_recvmsg(s->task, notify, &m, WHARF_FOREVER), 0);
                PROOF_EQ(p, m.notice, WHARF_NOTICE_SEND_POSSIBLE);
                PROOF_EQ(p, m.about, other);
        }
        s->task = wharf_task_close(s->task);
        return 0;
}

/* ---- a program is started with a right, and whoever starts it dies ---- */

static int start_program(struct proof *p)
{
        struct port_state *s = &rights(p)->send;
        static char program[] = "/bin/true", *argv[] = {program, NULL};
        struct wharf_given give = {.name = "port", .item = {.kind = WHARF_COPY_SEND, .name = s->right}};
        struct wharf_spawn_opts o = {.size = sizeof o, .argv = argv, .given = &give, .n_given = 1};
        struct wharf_child child = {.size = sizeof child};
        int status;
        PROOF_EQ(p, wharf_spawn(s->task, &o, WHARF_FOREVER, &child), 0);
        PROOF_EQ(p, wharf_child_wait(&child, WHARF_FOREVER, &status), 0);
        PROOF_EQ(p, status, 0);
        s->task = wharf_task_close(s->task);
        return 0;
}

/* Whoever was on the way to the program when its parent died ends by itself, program or not. */
static void audit_spawned(struct proof *p)
{
        rights_audit_clean(p);
        for (int i = 0; i < 10000 && waitpid(-1, NULL, WNOHANG) >= 0; i++)
                usleep(500);
}

static const struct proof_op ops[] = {
        {.name = "once-holder",
         .start = rights_connect,
         .victim = hold_once,
         .partner = serve_once,
         .rescue = rights_send_clean,
         .audit = audit_once,
         RIGHTS_STATE},
        {.name = "introducer",
         .start = meet,
         .victim = pass_on,
         .partner = serve_both,
         .rescue = rights_send_clean,
         .audit = audit_once,
         RIGHTS_STATE},
        {.name = "revoker", .start = own_and_hear, .victim = take_back, .partner = send_until_told, RIGHTS_STATE},
        {.name = "revoked",
         .victim = send_until_revoked,
         .partner = revoke_all,
         .rescue = rights_send_clean,
         .audit = rights_audit_clean,
         RIGHTS_STATE},
        {.name = "memory-giver",
         .victim = give_some_memory,
         .partner = take_memory,
         .rescue = rights_send_clean,
         .audit = rights_audit_clean,
         RIGHTS_STATE},
        {.name = "memory-taker", .victim = take_some_memory, .partner = give_until_it_dies, RIGHTS_STATE},
        {.name = "direct-giver",
         .victim = give_directly,
         .partner = receive_all_directly,
         .rescue = rights_send_clean,
         .audit = rights_audit_clean,
         RIGHTS_STATE},
        {.name = "direct-taker", .victim = take_directly, .partner = give_directly_until_it_dies, RIGHTS_STATE},
        {.name = "direct-caller",
         .victim = call_some_directly,
         .partner = receive_all_directly,
         .rescue = rights_send_clean,
         .audit = rights_audit_clean,
         RIGHTS_STATE},
        {.name = "direct-server", .victim = take_directly, .partner = call_directly_until_it_dies, RIGHTS_STATE},
        {.name = "pieces-giver",
         .start = connect_with_a_lane,
         .victim = give_in_pieces,
         .partner = receive_all_directly,
         .rescue = rights_send_clean,
         .audit = rights_audit_clean,
         .costs = 2,
         RIGHTS_STATE},
        {.name = "pieces-taker",
         .start = own_with_a_lane,
         .victim = take_in_pieces,
         .partner = give_in_pieces_until_it_dies,
         RIGHTS_STATE},
        {.name = "asker",
         .victim = ask_some,
         .partner = receive_all_of_a_short_queue,
         .rescue = rights_send_clean,
         .audit = rights_audit_clean,
         RIGHTS_STATE},
        {.name = "spawner",
         .start = rights_connect,
         .victim = start_program,
         .partner = receive_all_directly,
         .rescue = rights_send_clean,
         .audit = audit_spawned,
         RIGHTS_STATE},
        {0},
};
PROOF_KILL("rights", ops)
