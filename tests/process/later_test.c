/*
 * A full queue: wait, wait for a while, return at once, or leave one message to be sent later; and who is told when
 * there is room.
 */
#include "hub.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>

enum { CAPACITY = 8 };
#define SMALL PORT_OPTS(.capacity_records = CAPACITY)

struct full {
        struct hub hub;
        wharf_name right, notify;
};

/* Fill the queue; in it are 0, 1 ... CAPACITY - 1. */
static struct full full_queue(void)
{
        struct full f = {.hub = hub_open(SMALL)};
        CHECK_EQ(wharf_right_new(f.hub.task, f.hub.port, &f.right), 0);
        CHECK_EQ(wharf_port_new(f.hub.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &f.notify), 0);
        for (uint32_t i = 0; i < CAPACITY; i++)
                CHECK_EQ(wharf_send(f.hub.task, f.right, &i, sizeof i, 0), 0);
        return f;
}

static int leave(struct full *f, uint32_t v)
{
        struct wharf_msg m = MSG(.data = &v, .len_bytes = sizeof v, .flags = WHARF_SEND_LATER);
        return wharf_sendmsg(f->hub.task, f->right, &m, 0);
}

static void expect(struct full *f, uint32_t v)
{
        uint32_t got;
        CHECK_EQ(wharf_recv(f->hub.task, f->hub.port, &got, sizeof got, NULL, WHARF_FOREVER), sizeof got);
        CHECK_EQ(got, v);
}

static int notice(struct full *f, int64_t deadline_ns)
{
        struct wharf_msg m = MSG(0);
        int r = wharf_recvmsg(f->hub.task, f->notify, &m, deadline_ns);
        if (r < 0)
                return r;
        CHECK_EQ(m.about, f->right);
        CHECK_EQ(m.port, f->notify);
        return (int)m.notice;
}

static void *receive_after_a_while(void *arg)
{
        struct full *f = arg;
        usleep(5000);
        expect(f, 0);
        expect(f, 1);
        return NULL;
}

TEST(four_ways_at_a_full_queue)
{
        struct full f = full_queue();
        uint32_t v = 100;
        pthread_t thread;
        CHECK_EQ(wharf_send(f.hub.task, f.right, &v, sizeof v, 0), -EAGAIN);                 /* return at once */
        CHECK_EQ(wharf_send(f.hub.task, f.right, &v, sizeof v, wharf_in_ms(5)), -ETIMEDOUT); /* wait at most */
        CHECK_EQ(pthread_create(&thread, NULL, receive_after_a_while, &f), 0);
        v = 101;
        CHECK_EQ(wharf_send(f.hub.task, f.right, &v, sizeof v, WHARF_FOREVER), 0); /* wait */
        CHECK_EQ(pthread_join(thread, NULL), 0);
        while (wharf_send(f.hub.task, f.right, &v, sizeof v, 0) == 0)
                v++;
        CHECK_EQ(leave(&f, 200), 1); /* leave it */
        for (uint32_t i = 2; i < CAPACITY; i++)
                expect(&f, i);
        expect(&f, 101);
        for (uint32_t i = 101; i < v; i++)
                expect(&f, i);
        expect(&f, 200);
        hub_close(&f.hub);
}

TEST(where_there_is_room_nothing_is_left)
{
        struct full f = full_queue();
        expect(&f, 0);
        while (leave(&f, 1) == 0)
                ;
        CHECK_EQ(leave(&f, 1), -EBUSY);
        hub_close(&f.hub);
}

TEST(one_message_is_left_at_a_time_and_arrives_in_its_turn)
{
        struct full f = full_queue();
        for (uint32_t round = 0; round < 50; round++) {
                CHECK_EQ(leave(&f, 1000 + round), 1);
                CHECK_EQ(leave(&f, 0), -EBUSY);
                uint32_t v = 7;
                CHECK_EQ(wharf_send(f.hub.task, f.right, &v, sizeof v, 0), -EAGAIN); /* nobody overtakes it */
                for (uint32_t i = 0; i < CAPACITY; i++)
                        expect(&f, i);
                expect(&f, 1000 + round);
                CHECK_EQ(wharf_recv(f.hub.task, f.hub.port, &v, sizeof v, NULL, 0), -EAGAIN); /* which tells all */
                for (uint32_t i = 0; i < CAPACITY; i++)
                        CHECK_EQ(wharf_send(f.hub.task, f.right, &i, sizeof i, 0), 0);
        }
        hub_close(&f.hub);
}

static int leave_and_die(void *arg)
{
        struct full f = {.hub = *(struct hub *)arg};
        f.hub.task = hub_join(arg, &f.right);
        for (uint32_t i = 0; i < CAPACITY;)
                i += wharf_send(f.hub.task, f.right, &i, sizeof i, 0) == 0; /* the first before it is greeted */
        CHECK_EQ(leave(&f, 77), 1);
        kill(getpid(), SIGKILL);
        return 1;
}

TEST(a_message_left_survives_its_sender)
{
        struct full f = {.hub = hub_open(SMALL)};
        pid_t pid = test_fork(leave_and_die, &f.hub);
        /* The receiver greets, and does not read on until the sender is dead. */
        int fd;
        CHECK_EQ(wharf_port_fd(f.hub.task, f.hub.port, &fd), 0);
        struct wharf_port_stat st = {.size = sizeof st};
        char none;
        while (st.senders == 0) {
                ssize_t n = wharf_recv(f.hub.task, f.hub.port, &none, 0, NULL, 0);
                CHECK(n == -EAGAIN || n == -EOVERFLOW);
                CHECK_EQ(wharf_port_stat(f.hub.task, f.hub.port, &st), 0);
        }
        CHECK_EQ(test_wait(pid), 128 + SIGKILL);
        for (uint32_t i = 0; i < CAPACITY; i++)
                expect(&f, i);
        expect(&f, 77);
        CHECK_EQ(wharf_recv(f.hub.task, f.hub.port, &none, 1, NULL, 0), -EAGAIN);
        hub_close(&f.hub);
}

/* The sender sleeps in a loop of its own and never sends again: the notice comes, at the moment when there is room. */
TEST(a_notice_says_that_the_message_left_has_gone_into_the_queue)
{
        struct full f = full_queue();
        int fd;
        CHECK_EQ(wharf_port_fd(f.hub.task, f.notify, &fd), 0);
        CHECK_EQ(wharf_notify(f.hub.task, WHARF_NOTICE_SENT_LATER, f.right, f.notify, 0), 0);
        CHECK_EQ(wharf_notify(f.hub.task, WHARF_NOTICE_SENT_LATER, f.right, f.notify, 0), -EBUSY);
        CHECK_EQ(leave(&f, 55), 1);
        while (notice(&f, 0) != -EAGAIN)
                CHECK(false);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        CHECK_EQ(poll(&p, 1, 0), 0);
        for (uint32_t i = 0; i < CAPACITY / 2; i++)
                expect(&f, i);
        CHECK_EQ(poll(&p, 1, 10000), 1);
        CHECK_EQ(notice(&f, 0), WHARF_NOTICE_SENT_LATER);
        CHECK_EQ(notice(&f, 0), -EAGAIN);
        /* Asked after the fact: nobody was told of this one yet. */
        for (uint32_t i = CAPACITY / 2; i < CAPACITY; i++)
                expect(&f, i);
        expect(&f, 55);
        CHECK_EQ(wharf_recv(f.hub.task, f.hub.port, &fd, sizeof fd, NULL, 0), -EAGAIN);
        for (uint32_t i = 0; i < CAPACITY; i++)
                CHECK_EQ(wharf_send(f.hub.task, f.right, &i, sizeof i, 0), 0);
        CHECK_EQ(leave(&f, 56), 1);
        for (uint32_t i = 0; i < CAPACITY; i++)
                expect(&f, i);
        expect(&f, 56);
        CHECK_EQ(wharf_recv(f.hub.task, f.hub.port, &fd, sizeof fd, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_notify(f.hub.task, WHARF_NOTICE_SENT_LATER, f.right, f.notify, 0), 0);
        CHECK_EQ(notice(&f, wharf_in_ms(60000)), WHARF_NOTICE_SENT_LATER);
        hub_close(&f.hub);
}

/* What a ring holds beside messages takes no place from the message that was left either. */
TEST(a_message_left_behind_rings_that_grew_is_in_the_queue_with_the_first_place)
{
        enum { MANY = 200 }; /* of which one ring does not hold all */
        struct full f = {.hub = hub_open(PORT_OPTS(.capacity_records = MANY))};
        char text[256] = "long";
        CHECK_EQ(wharf_right_new(f.hub.task, f.hub.port, &f.right), 0);
        CHECK_EQ(wharf_port_new(f.hub.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &f.notify), 0);
        for (uint32_t i = 0; i < MANY; i++)
                CHECK_EQ(wharf_send(f.hub.task, f.right, text, sizeof text, 0), 0);
        CHECK_EQ(wharf_notify(f.hub.task, WHARF_NOTICE_SENT_LATER, f.right, f.notify, 0), 0);
        CHECK_EQ(leave(&f, 55), 1);
        CHECK_EQ(notice(&f, 0), -EAGAIN);
        CHECK_EQ(wharf_recv(f.hub.task, f.hub.port, text, sizeof text, NULL, 0), (ssize_t)sizeof text);
        CHECK_EQ(notice(&f, wharf_in_ms(20000)), WHARF_NOTICE_SENT_LATER);
        hub_close(&f.hub);
}

/* A port that has moved gets another lane, whose records are numbered from the messages on. */
TEST(a_message_left_before_its_port_moved_is_not_in_the_way_of_another)
{
        static char large[300 << 10];
        struct full f = {.hub = hub_open(SMALL)};
        wharf_name to, carrier;
        uint32_t v = 0;
        CHECK_EQ(wharf_right_new(f.hub.task, f.hub.port, &f.right), 0);
        for (uint32_t i = 0; i < 20; i++) { /* records that are no messages */
                struct wharf_msg m = MSG(.data = large, .len_bytes = sizeof large, .how = WHARF_HOW_CHUNKS);
                CHECK_EQ(wharf_sendmsg(f.hub.task, f.right, &m, 0), 0);
                CHECK_EQ(wharf_recv(f.hub.task, f.hub.port, large, sizeof large, NULL, 0), (ssize_t)sizeof large);
        }
        for (uint32_t i = 0; i < CAPACITY; i++)
                CHECK_EQ(wharf_send(f.hub.task, f.right, &i, sizeof i, 0), 0);
        CHECK_EQ(leave(&f, CAPACITY), 1);

        CHECK_EQ(wharf_port_listen(f.hub.task, f.hub.port, -1), 0);
        CHECK_EQ(wharf_port_new(f.hub.task, NULL, &carrier), 0);
        CHECK_EQ(wharf_right_new(f.hub.task, carrier, &to), 0);
        struct wharf_item item = {.kind = WHARF_MOVE_RECEIVE, .name = f.hub.port}, got;
        struct wharf_msg m = MSG(.items = &item, .n_items = 1), r = MSG(.items = &got, .cap_items = 1);
        CHECK_EQ(wharf_sendmsg(f.hub.task, to, &m, 0), 0);
        CHECK_EQ(wharf_recvmsg(f.hub.task, carrier, &r, 0), 0);
        f.hub.port = got.name;
        for (uint32_t i = 0; i <= CAPACITY; i++)
                expect(&f, i);
        for (unsigned round = 0; round < 30; round++) {
                uint32_t n = 0;
                usleep(1500); /* longer than a sender goes on without looking at its socket */
                while (wharf_send(f.hub.task, f.right, &n, sizeof n, 0) == 0)
                        n++;
                CHECK_EQ(n, CAPACITY);
                CHECK_EQ(leave(&f, n), 1);
                for (uint32_t i = 0; i <= CAPACITY; i++)
                        expect(&f, i);
                CHECK_EQ(wharf_recv(f.hub.task, f.hub.port, &v, sizeof v, NULL, 0), -EAGAIN);
        }
        hub_close(&f.hub);
}

TEST(a_notice_says_that_a_full_queue_has_room)
{
        struct full f = full_queue();
        int fd;
        CHECK_EQ(wharf_port_fd(f.hub.task, f.notify, &fd), 0);
        for (uint32_t round = 0; round < 20; round++) {
                CHECK_EQ(wharf_notify(f.hub.task, WHARF_NOTICE_SEND_POSSIBLE, f.right, f.notify, 0), 0);
                CHECK_EQ(wharf_notify(f.hub.task, WHARF_NOTICE_SEND_POSSIBLE, f.right, f.notify, 0), -EBUSY);
                CHECK_EQ(notice(&f, 0), -EAGAIN);
                for (uint32_t i = 0; i < CAPACITY; i++)
                        expect(&f, i);
                struct pollfd p = {.fd = fd, .events = POLLIN};
                CHECK_EQ(poll(&p, 1, 10000), 1);
                CHECK_EQ(notice(&f, 0), WHARF_NOTICE_SEND_POSSIBLE);
                /* With room, at once. */
                CHECK_EQ(wharf_notify(f.hub.task, WHARF_NOTICE_SEND_POSSIBLE, f.right, f.notify, 0), 0);
                CHECK_EQ(notice(&f, 0), WHARF_NOTICE_SEND_POSSIBLE);
                for (uint32_t i = 0; i < CAPACITY; i++)
                        CHECK_EQ(wharf_send(f.hub.task, f.right, &i, sizeof i, 0), 0);
        }
        /* Taken back, it does not come. */
        CHECK_EQ(wharf_notify(f.hub.task, WHARF_NOTICE_SEND_POSSIBLE, f.right, f.notify, 0), 0);
        CHECK_EQ(wharf_notify_cancel(f.hub.task, WHARF_NOTICE_SEND_POSSIBLE, f.right), 0);
        CHECK_EQ(wharf_notify_cancel(f.hub.task, WHARF_NOTICE_SEND_POSSIBLE, f.right), -ENOENT);
        for (uint32_t i = 0; i < CAPACITY; i++)
                expect(&f, i);
        CHECK_EQ(notice(&f, 0), -EAGAIN);
        hub_close(&f.hub);
}

static int own_a_full_queue(void *arg)
{
        wharf_name right, mine;
        wharf_task *t = hub_join(arg, &right);
        CHECK_EQ(wharf_port_new(t, SMALL, &mine), 0);
        struct wharf_item it = {.kind = WHARF_MAKE_SEND, .name = mine};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(t, right, &m, WHARF_FOREVER), 0);
        uint32_t v;
        for (uint32_t i = 0; i < 3; i++)
                CHECK_EQ(wharf_recv(t, mine, &v, sizeof v, NULL, WHARF_FOREVER), sizeof v);
        pause(); /* and reads no more: the queue stays full */
        return 1;
}

/* In a set, with a thread asleep in the receive; the port that is told moves; then the receiver dies. */
TEST(notices_of_room_reach_a_thread_that_sleeps_in_a_set_and_end_with_the_receiver)
{
        struct full f = {.hub = hub_open(NULL)};
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        wharf_name set;
        pid_t pid = test_fork(own_a_full_queue, &f.hub);
        CHECK_EQ(wharf_recvmsg(f.hub.task, f.hub.port, &m, WHARF_FOREVER), 0);
        f.right = it.name;
        CHECK_EQ(wharf_port_new(f.hub.task, NULL, &f.notify), 0);
        CHECK_EQ(wharf_set_new(f.hub.task, &set), 0);
        uint32_t v = 0;
        /* What was taken is told in batches. */
        while (wharf_send(f.hub.task, f.right, &v, sizeof v, wharf_in_ms(v > CAPACITY ? 20 : 60000)) == 0)
                v++;
        CHECK(v > CAPACITY);
        CHECK_EQ(wharf_notify(f.hub.task, WHARF_NOTICE_SEND_POSSIBLE, f.right, f.notify, 0), 0);
        CHECK_EQ(wharf_notify(f.hub.task, WHARF_NOTICE_DEAD_NAME, f.right, f.notify, 0), 0);
        CHECK_EQ(wharf_set_add(f.hub.task, set, f.notify), 0);
        m = MSG(0);
        CHECK_EQ(wharf_recvmsg(f.hub.task, set, &m, 0), -EAGAIN);
        CHECK_EQ(leave(&f, 1), 1);
        kill_hard(pid);
        uint32_t seen = 0;
        for (int i = 0; i < 2; i++) {
                m = MSG(0);
                CHECK_EQ(wharf_recvmsg(f.hub.task, set, &m, WHARF_FOREVER), 0);
                seen |= 1u << m.notice;
        }
        CHECK_EQ(seen, 1u << WHARF_NOTICE_SEND_POSSIBLE | 1u << WHARF_NOTICE_DEAD_NAME);
        CHECK_EQ(leave(&f, 1), -EPIPE);
        hub_close(&f.hub);
}

/* Larger than a line, in a block, in a memory of its own, reserved, and with rights inside. */
TEST(payloads_and_rights_of_a_message_left)
{
        uint8_t *bytes = malloc(9 << 20), *got = malloc(9 << 20);
        const size_t sizes[] = {0, 40, 41, 300, 5000, 9 << 20};
        for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
                struct full f = full_queue();
                pattern_fill(bytes, sizes[i], i);
                struct wharf_item it = {.kind = WHARF_MAKE_SEND, .name = f.notify}, arrived;
                struct wharf_msg m = MSG(.id = 9, .data = bytes, .len_bytes = sizes[i], .items = &it, .n_items = 1,
                                         .flags = WHARF_SEND_LATER);
                CHECK_EQ(wharf_sendmsg(f.hub.task, f.right, &m, 0), 1);
                for (uint32_t k = 0; k < CAPACITY; k++)
                        expect(&f, k);
                m = MSG(.data = got, .cap_bytes = 9 << 20, .items = &arrived, .cap_items = 1);
                CHECK_EQ(wharf_recvmsg(f.hub.task, f.hub.port, &m, WHARF_FOREVER), 0);
                CHECK(m.id == 9 && m.len_bytes == sizes[i] && m.n_items == 1);
                CHECK_MEM(got, bytes, sizes[i]);
                CHECK_EQ(wharf_send(f.hub.task, arrived.name, "x", 1, 0), 0);
                hub_close(&f.hub);
        }
        struct full f = full_queue();
        struct wharf_msg m = MSG(.flags = WHARF_SEND_LATER);
        CHECK_EQ(wharf_reserve(f.hub.task, f.right, 2000, &m, WHARF_FOREVER), 0);
        memset(m.data, 'r', 2000);
        CHECK_EQ(wharf_sendmsg(f.hub.task, f.right, &m, wharf_in_ms(1)), 1);
        for (uint32_t k = 0; k < CAPACITY; k++)
                expect(&f, k);
        CHECK_EQ(wharf_recv(f.hub.task, f.hub.port, got, 2000, NULL, 0), 2000);
        CHECK_EQ(got[1999], 'r');
        hub_close(&f.hub);
        free(bytes);
        free(got);
}

/* Capacity zero has no queue; the message left waits in the line that is kept, and is no offer. */
TEST(a_message_left_at_a_port_of_capacity_zero)
{
        struct full f = {.hub = hub_open(PORT_OPTS(.capacity_records = WHARF_RENDEZVOUS))};
        CHECK_EQ(wharf_right_new(f.hub.task, f.hub.port, &f.right), 0);
        CHECK_EQ(wharf_port_new(f.hub.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &f.notify), 0);
        CHECK_EQ(wharf_notify(f.hub.task, WHARF_NOTICE_SENT_LATER, f.right, f.notify, 0), 0);
        CHECK_EQ(leave(&f, 5), 1);
        CHECK_EQ(leave(&f, 6), -EBUSY);
        CHECK_EQ(notice(&f, 0), -EAGAIN);
        expect(&f, 5);
        CHECK_EQ(notice(&f, wharf_in_ms(60000)), WHARF_NOTICE_SENT_LATER);
        hub_close(&f.hub);
}

/* A sender that only ever asks for frames is held to the capacity as well. */
TEST(messages_sent_as_frames_count_against_the_capacity)
{
        struct full f = {.hub = hub_open(SMALL)};
        CHECK_EQ(wharf_right_new(f.hub.task, f.hub.port, &f.right), 0);
        uint32_t sent = 0;
        int r;
        for (;; sent++) {
                struct wharf_msg m = MSG(.data = &sent, .len_bytes = sizeof sent, .how = WHARF_HOW_COLD);
                if ((r = wharf_sendmsg(f.hub.task, f.right, &m, 0)) < 0)
                        break;
        }
        CHECK_EQ(r, -EAGAIN);
        CHECK_EQ(sent, CAPACITY);
        for (uint32_t i = 0; i < sent; i++)
                expect(&f, i);
        hub_close(&f.hub);
}
