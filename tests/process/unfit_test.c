/*
 * A message that the receiver has no room for: it says whose it is, can be received in another way or dropped, and
 * keeps nobody else waiting.
 */
#include "hub.h"
#include "os/closer.h"

#include <poll.h>
#include <pthread.h>

/* So many copies of one descriptor. */
static void fill(struct wharf_item *items, unsigned n, int fd)
{
        for (unsigned i = 0; i < n; i++)
                items[i] = (struct wharf_item){.kind = WHARF_COPY_FD, .fd = fd};
}

static struct wharf_name_pair {
        wharf_name a, b;
} two_rights(struct hub *h)
{
        struct wharf_name_pair p;
        CHECK_EQ(wharf_right_new(h->task, h->port, &p.a), 0);
        CHECK_EQ(wharf_right_new(h->task, h->port, &p.b), 0);
        return p;
}

/* The id by which the port knows a right. */
static uint64_t id_of(struct hub *h, wharf_name right)
{
        struct wharf_sender s;
        CHECK_EQ(wharf_send(h->task, right, "", 0, 0), 0);
        CHECK_EQ(wharf_recv(h->task, h->port, NULL, 0, &s, 0), 0);
        return s.id;
}

/*
 * Goal:   after -EOVERFLOW for one sender the next receive hears the others, those too that send only then.
 * Method: A's message is too large, in each way that it can travel; B sends before and after it was refused, B's link
 *         being busy or cold. An event loop that goes on after -EOVERFLOW gets all that B sends. Then A's is dropped.
 */
TEST(one_that_does_not_fit_keeps_no_other_waiting)
{
        static char large[9 << 20];
        for (int in_set = 0; in_set < 2; in_set++) {
                struct hub h = hub_open(NULL);
                struct wharf_name_pair r = two_rights(&h);
                wharf_name from = h.port;
                uint64_t a = id_of(&h, r.a), b = id_of(&h, r.b);
                if (in_set) {
                        CHECK_EQ(wharf_set_new(h.task, &from), 0);
                        CHECK_EQ(wharf_set_add(h.task, from, h.port), 0);
                }
                for (uint32_t how = WHARF_HOW_COLD; how <= WHARF_HOW_MEMORY; how++) {
                        char buf[16];
                        struct wharf_sender sender = {0};
                        struct wharf_msg m = MSG(.data = large, .len_bytes = how == WHARF_HOW_INLINE ? 1000 : 16000,
                                                 .how = how, .id = 100 + how);
                        CHECK_EQ(wharf_sendmsg(h.task, r.a, &m, 0), 0);
                        CHECK_EQ(wharf_send(h.task, r.a, "behind", 6, 0), 0);
                        for (int i = 0; i < 40; i++) {
                                CHECK_EQ(wharf_recv(h.task, from, buf, sizeof buf, &sender, 0), -EOVERFLOW);
                                CHECK_EQ(sender.id, a);
                                CHECK_EQ(sender.pid, getpid());
                                CHECK_EQ(wharf_send(h.task, r.b, &i, sizeof i, 0), 0);
                                CHECK_EQ(wharf_recv(h.task, from, buf, sizeof buf, &sender, 0), sizeof i);
                                CHECK_EQ(sender.id, b);
                                CHECK_MEM(buf, &i, sizeof i);
                        }
                        /* With room for it, from anyone or from its sender, it is as ever. */
                        struct wharf_msg got = MSG(.from = a, .data = buf, .cap_bytes = sizeof buf);
                        CHECK_EQ(wharf_recvmsg(h.task, from, &got, 0), -EOVERFLOW);
                        CHECK_EQ(got.len_bytes, m.len_bytes);
                        CHECK_EQ(got.sender.id, a);
                        CHECK_EQ(got.port, h.port);
                        CHECK_EQ(got.id, 100 + how);
                        if (how & 1) {
                                got = MSG(.flags = WHARF_RECV_ALLOC);
                                CHECK_EQ(wharf_recvmsg(h.task, from, &got, 0), 0);
                                CHECK_EQ(got.len_bytes, m.len_bytes);
                                wharf_release(h.task, &got);
                        } else {
                                got.flags = WHARF_RECV_DROP_UNFIT;
                                CHECK_EQ(wharf_recvmsg(h.task, from, &got, 0), -EOVERFLOW);
                                CHECK_EQ(got.sender.id, a);
                                CHECK_EQ(got.len_bytes, m.len_bytes);
                        }
                        /* If somebody was faster, no other message is dropped for it. */
                        CHECK_EQ(wharf_recvmsg(h.task, from, &got, 0), 0);
                        CHECK_EQ(got.len_bytes, 6);
                        wharf_release(h.task, &got);
                        CHECK_EQ(wharf_recv(h.task, from, buf, sizeof buf, NULL, 0), -EAGAIN);
                }
                hub_close(&h);
        }
}

/* Two that do not fit take turns as well, and a third who sends is heard. */
TEST(several_that_do_not_fit_take_turns)
{
        struct hub h = hub_open(NULL);
        struct wharf_name_pair r = two_rights(&h);
        wharf_name c;
        CHECK_EQ(wharf_right_new(h.task, h.port, &c), 0);
        CHECK_EQ(wharf_send(h.task, r.a, "too long", 8, 0), 0);
        CHECK_EQ(wharf_send(h.task, r.b, "too long", 8, 0), 0);
        for (int i = 0; i < 20; i++) {
                uint64_t last = 0;
                char buf[4];
                unsigned refused = 0;
                struct wharf_sender sender;
                CHECK_EQ(wharf_send(h.task, c, "c", 1, 0), 0);
                while (wharf_recv(h.task, h.port, buf, sizeof buf, &sender, WHARF_FOREVER) == -EOVERFLOW) {
                        CHECK(sender.id != last);
                        last = sender.id;
                        refused++;
                }
                CHECK_LE(refused, 2);
        }
        hub_close(&h);
}

/* A thread that waits in a receive, with a loop around it that logs and goes on. */
static void *hear(void *arg)
{
        struct hub *h = arg;
        char buf[4];
        ssize_t n;
        do
                n = wharf_recv(h->task, h->port, buf, sizeof buf, NULL, WHARF_FOREVER);
        while (n == -EOVERFLOW);
        return (void *)(intptr_t)n;
}

TEST(threads_that_go_on_after_it_hear_others)
{
        struct hub h = hub_open(NULL);
        struct wharf_name_pair r = two_rights(&h);
        pthread_t th[2];
        CHECK_EQ(wharf_send(h.task, r.a, "too long", 8, 0), 0);
        for (int i = 0; i < 2; i++)
                CHECK_EQ(pthread_create(&th[i], NULL, hear, &h), 0);
        for (int i = 0; i < 2; i++) {
                void *n;
                CHECK_EQ(wharf_send(h.task, r.b, "b", 1, 0), 0);
                CHECK_EQ(wharf_send(h.task, r.b, "b", 1, 0), 0);
                CHECK_EQ(pthread_join(th[i], &n), 0);
                CHECK_EQ((intptr_t)n, 1);
        }
        hub_close(&h);
}

/* ---- rights and descriptors ---- */

/*
 * Goal:   a caller who gives no room for rights says so, and gets messages without them; nothing of them is left here.
 * Method: descriptors, a right, a send-once right and a port are sent, in frames and in a lane, and received in each
 * way.
 */
TEST(what_a_message_carries_is_not_wanted)
{
        struct hub h = hub_open(NULL);
        struct wharf_name_pair r = two_rights(&h);
        for (int round = 0; round < 60; round++) { /* the lane comes after sixteen messages */
                wharf_name port, moved, to_moved;
                CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
                CHECK_EQ(wharf_port_new(h.task, NULL, &moved), 0);
                CHECK_EQ(wharf_right_new(h.task, moved, &to_moved), 0);
                unsigned before = count_fds();
                struct wharf_item items[5];
                fill(items, 2, 0);
                items[2] = (struct wharf_item){.kind = WHARF_MAKE_SEND, .name = port};
                items[3] = (struct wharf_item){.kind = WHARF_MAKE_ONCE, .name = port};
                items[4] = (struct wharf_item){.kind = WHARF_MOVE_RECEIVE, .name = moved};
                CHECK_EQ(wharf_sendmsg(h.task, r.a,
                                       &MSG(.data = BYTES("text"), .len_bytes = 4, .items = items, .n_items = 5), 0),
                         0);
                char buf[8];
                struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EOVERFLOW);
                CHECK_EQ(m.n_items, 5);
                CHECK_EQ(m.len_bytes, 4);
                CHECK_EQ(wharf_send(h.task, r.b, "b", 1, 0), 0);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), 0);
                CHECK_EQ(m.len_bytes, 1);
                static const uint32_t way[] = {0, WHARF_RECV_ALLOC, WHARF_RECV_IN_PLACE};
                m = MSG(.data = buf, .cap_bytes = sizeof buf);
                m.flags = (round & 1 ? WHARF_RECV_NO_ITEMS : WHARF_RECV_DROP_UNFIT) | way[round / 2 % 3];
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), round & 1 ? 0 : -EOVERFLOW);
                CHECK_EQ(m.n_items, round & 1 ? 0 : 5);
                if (round & 1) {
                        CHECK_MEM(m.data, "text", 4);
                        wharf_release(h.task, &m);
                }
                /* The rights are gone, as with a message that nobody ever receives. */
                m = MSG();
                CHECK_EQ(wharf_recvmsg(h.task, port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(m.notice, WHARF_NOTICE_ONCE_UNUSED);
                CHECK_EQ(wharf_recvmsg(h.task, port, &m, WHARF_FOREVER), -ENOTCONN);
                CHECK(wh_os_closer_rest(
                        wharf_in_ms(60000))); /* the port that moved was a socket with something in it */
                CHECK_EQ(wharf_send(h.task, to_moved, "x", 1, WHARF_FOREVER), -EPIPE);
                CHECK_EQ(wharf_drop(h.task, to_moved), 0);
                CHECK_EQ(wharf_drop(h.task, port), 0);
                CHECK_LE(count_fds(), before);
        }
        hub_close(&h);
}

/* ---- who waits for it ---- */

static int call_with_much(void *arg)
{
        wharf_name right;
        char buf[8];
        wharf_task *t = hub_join(arg, &right);
        CHECK_EQ(wharf_call(t, right, "much more", 9, buf, sizeof buf, WHARF_FOREVER), -ECANCELED);
        CHECK_EQ(wharf_call(t, right, "less", 4, buf, sizeof buf, WHARF_FOREVER), 4);
        wharf_task_close(t);
        return 0;
}

TEST(who_called_with_a_message_that_is_dropped_is_told)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(call_with_much, &h);
        char buf[4];
        struct wharf_msg m = MSG(.flags = WHARF_RECV_DROP_UNFIT, .data = buf, .cap_bytes = sizeof buf);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), -EOVERFLOW);
        CHECK_EQ(m.len_bytes, 9);
        CHECK_EQ(m.sender.pid, pid);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_reply(h.task, m.reply, buf, 4), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* Without a queue: what is dropped was taken, so its sender goes on; what is only refused is still offered. */
static int offer_much(void *arg)
{
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        CHECK_EQ(wharf_send(t, right, "a", 1, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_send(t, right, "much more", 9, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_send(t, right, "b", 1, WHARF_FOREVER), 0);
        wharf_task_close(t);
        return 0;
}

TEST(an_offer_that_does_not_fit_is_dropped_or_stays)
{
        struct hub h = hub_open(PORT_OPTS(.capacity_records = WHARF_RENDEZVOUS));
        pid_t pid = test_fork(offer_much, &h);
        char buf[4];
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), 1);
        for (int i = 0; i < 3; i++)
                CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), -EOVERFLOW);
        struct wharf_msg m = MSG(.flags = WHARF_RECV_DROP_UNFIT, .data = buf, .cap_bytes = sizeof buf);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), -EOVERFLOW);
        CHECK_EQ(m.len_bytes, 9);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.len_bytes, 1);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}
