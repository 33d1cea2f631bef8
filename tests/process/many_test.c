/*
 * Many at once: what is sent is a prefix, in order, whatever kinds of messages there are among them; and what is received is what
 * was there.
 */
#include "hub.h"

enum { N = 200, LARGE = 100000 };

static char large[LARGE];

/* Small, empty, with an id, and of a block: by its number. */
static struct wharf_msg message(unsigned i)
{
        static char small[N][32];
        snprintf(small[i], sizeof small[i], "message %u", i);
        return i % 50 == 49  ? MSG(.data = large, .len_bytes = LARGE, .id = i)
               : i % 10 == 9 ? MSG(.id = i)
               : i % 3 == 0  ? MSG(.data = small[i], .len_bytes = strlen(small[i]), .id = i)
                             : MSG(.data = small[i], .len_bytes = strlen(small[i]));
}

static void check_message(unsigned i, const struct wharf_msg *m)
{
        struct wharf_msg was = message(i);
        CHECK_EQ(m->notice, 0);
        CHECK_EQ(m->id, was.id);
        CHECK_EQ(m->len_bytes, was.len_bytes);
        CHECK_EQ(memcmp(m->data, was.data ? was.data : "", was.len_bytes), 0);
}

static void room_for(struct wharf_msg *m, unsigned n)
{
        static char room[N][LARGE];
        for (unsigned i = 0; i < n; i++)
                m[i] = MSG(.data = room[i], .cap_bytes = LARGE);
}

/*
 * Goal:   all arrive, once and in order, cold and in a lane, of all kinds; a receive of many has those that are there.
 * Method: one task; N messages at a time, received in parts.
 */
TEST(many_messages_are_sent_and_received_in_their_order)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        wharf_name right;
        struct wharf_msg out[N], in[N];
        memset(large, 'L', sizeof large);
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (int round = 0; round < 5; round++) {
                for (unsigned i = 0; i < N; i++)
                        out[i] = message(i);
                CHECK_EQ(wharf_sendmany(h.task, right, out, N, 0), N);
                unsigned got = 0;
                while (got < N) {
                        room_for(in, N - got < 64 ? N - got : 64);
                        int r = wharf_recvmany(h.task, h.port, in, N - got < 64 ? N - got : 64, 0);
                        CHECK_GE(r, 1);
                        for (int i = 0; i < r; i++) {
                                check_message(got + (unsigned)i, &in[i]);
                                CHECK_EQ(in[i].port, h.port);
                                CHECK_EQ(in[i].sender.pid, getpid());
                        }
                        got += (unsigned)r;
                }
                room_for(in, 1);
                CHECK_EQ(wharf_recvmany(h.task, h.port, in, 1, 0), -EAGAIN);
        }
        hub_close(&h);
}

/* Where the queue is full the count says how many of them are in it, and nothing behind them is. */
TEST(what_is_sent_of_many_is_a_prefix)
{
        enum { CAPACITY = 10 };
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS, .capacity_records = CAPACITY));
        wharf_name right;
        struct wharf_msg out[N], in[N];
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (int round = 0; round < 6; round++) {
                for (unsigned i = 0; i < N; i++)
                        out[i] = message(i % 40);
                CHECK_EQ(wharf_sendmany(h.task, right, out, 30, 0), CAPACITY);
                CHECK_NE(wharf_why()[0], 0);
                CHECK_EQ(wharf_sendmany(h.task, right, out + CAPACITY, 20, 0), -EAGAIN);
                CHECK_EQ(wharf_sendmany(h.task, right, out + CAPACITY, 20, wharf_in_ms(2)), -ETIMEDOUT);
                room_for(in, N);
                unsigned got = 0;
                while (got < CAPACITY) {
                        int r = wharf_recvmany(h.task, h.port, in + got, N - got, 0);
                        CHECK_GE(r, 1);
                        got += (unsigned)r;
                }
                CHECK_EQ(got, CAPACITY);
                for (unsigned i = 0; i < CAPACITY; i++)
                        check_message(i, &in[i]);
        }
        hub_close(&h);
}

/* One that cannot go, or takes the long way, is in its place among the others. */
TEST(among_many_there_may_be_any_message)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS, .payload_bytes_max = 1000));
        wharf_name right;
        struct wharf_msg out[5], in[5];
        struct wharf_item fd = {.kind = WHARF_COPY_FD, .fd = 0}, got = {.fd = -1};
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (int warm = 0; warm < 40; warm++) {
                char c;
                CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), 0);
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), 1);
        }
        for (unsigned i = 0; i < 5; i++)
                out[i] = message(i);
        out[2].items = &fd;
        out[2].n_items = 1;
        CHECK_EQ(wharf_sendmany(h.task, right, out, 5, 0), 5);
        room_for(in, 5);
        for (unsigned i = 0; i < 5; i++)
                in[i].items = &got, in[i].cap_items = 1;
        unsigned n = 0;
        while (n < 5) {
                int r = wharf_recvmany(h.task, h.port, in + n, 5 - n, 0);
                CHECK_GE(r, 1);
                n += (unsigned)r;
        }
        for (unsigned i = 0; i < 5; i++) {
                check_message(i, &in[i]);
                CHECK_EQ(in[i].n_items, i == 2);
        }
        CHECK_EQ(got.kind, WHARF_GOT_FD);
        close(got.fd);
        out[2] = MSG(.data = large, .len_bytes = LARGE); /* more than the port takes */
        CHECK_EQ(wharf_sendmany(h.task, right, out, 5, 0), 2);
        CHECK_EQ(wharf_sendmany(h.task, right, out + 2, 3, 0), -EMSGSIZE);
        room_for(in, 5);
        CHECK_EQ(wharf_recvmany(h.task, h.port, in, 5, 0), 2);
        /* What does not fit stops it short, and stays for the next call. */
        for (unsigned i = 0; i < 3; i++)
                out[i] = message(1);
        CHECK_EQ(wharf_sendmany(h.task, right, out, 3, 0), 3);
        room_for(in, 5);
        in[1].cap_bytes = 2;
        CHECK_EQ(wharf_recvmany(h.task, h.port, in, 5, 0), 1);
        CHECK_EQ(wharf_recvmany(h.task, h.port, in + 1, 4, 0), -EOVERFLOW);
        CHECK_EQ(in[1].len_bytes, out[1].len_bytes);
        in[1].cap_bytes = LARGE;
        CHECK_EQ(wharf_recvmany(h.task, h.port, in + 1, 4, 0), 2);
        hub_close(&h);
}

static int receives_many(void *arg)
{
        wharf_name hub, port;
        wharf_task *t = hub_join(arg, &hub);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.capacity_records = 64), &port), 0);
        struct wharf_item mine = {.kind = WHARF_MAKE_SEND, .name = port};
        CHECK_EQ(wharf_sendmsg(t, hub, &MSG(.items = &mine, .n_items = 1), WHARF_FOREVER), 0);
        uint32_t numbers[50], next = 0;
        struct wharf_msg in[50];
        for (;;) {
                for (unsigned i = 0; i < 50; i++)
                        in[i] = MSG(.data = &numbers[i], .cap_bytes = sizeof numbers[i]);
                int r = wharf_recvmany(t, port, in, 50, WHARF_FOREVER);
                if (r == -ENOTCONN)
                        break;
                CHECK_GE(r, 1);
                for (int i = 0; i < r; i++)
                        CHECK_EQ(numbers[i], next++);
        }
        CHECK_EQ(next, 300000);
        wharf_task_close(t);
        return 0;
}

/* Between two processes, through a queue that is full and empty again and again: nobody sleeps through what is sent. */
TEST(many_messages_between_processes_wake_who_sleeps)
{
        enum { ALL = 300000, BATCH = 100 };
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        struct wharf_item got;
        pid_t pid = test_fork(receives_many, &h);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &MSG(.items = &got, .cap_items = 1), WHARF_FOREVER), 0);
        uint32_t numbers[BATCH];
        struct wharf_msg out[BATCH];
        for (uint32_t at = 0; at < ALL;) {
                for (unsigned i = 0; i < BATCH; i++) {
                        numbers[i] = at + i;
                        out[i] = MSG(.data = &numbers[i], .len_bytes = sizeof numbers[i]);
                }
                int r = wharf_sendmany(h.task, got.name, out, BATCH, wharf_in_ms(60000));
                CHECK_EQ(r, BATCH);
                at += (uint32_t)r;
                if (at % 10000 == 0)
                        usleep(200); /* the other one sleeps now and then */
        }
        CHECK_EQ(wharf_drop(h.task, got.name), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

TEST(many_to_the_dead_and_to_whom_there_is_no_right)
{
        struct hub h = hub_open(NULL);
        wharf_name port, right;
        struct wharf_msg m[2] = {MSG(.data = BYTES("x"), .len_bytes = 1), MSG(.data = BYTES("y"), .len_bytes = 1)};
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        CHECK_EQ(wharf_sendmany(h.task, right, NULL, 1, 0), -EINVAL);
        CHECK_EQ(wharf_sendmany(h.task, right, m, 0, 0), -EINVAL);
        CHECK_EQ(wharf_sendmany(h.task, port, m, 2, 0), -EPERM);
        CHECK_EQ(wharf_sendmany(h.task, 0x7fffffff, m, 2, 0), -EBADF);
        CHECK_EQ(wharf_recvmany(h.task, port, NULL, 1, 0), -EINVAL);
        CHECK_EQ(wharf_recvmany(h.task, port, m, 0, 0), -EINVAL);
        CHECK_EQ(wharf_recvmany(h.task, right, m, 2, 0), -EPERM);
        m[1].size = 1;
        CHECK_EQ(wharf_sendmany(h.task, right, m, 2, 0), 1);
        CHECK_EQ(wharf_sendmany(h.task, right, m + 1, 1, 0), -EINVAL);
        CHECK_EQ(wharf_recvmany(h.task, port, m, 2, 0), -EINVAL);
        m[1].size = sizeof m[1];
        char got[2];
        struct wharf_msg in[2] = {MSG(.data = got, .cap_bytes = 1), MSG(.data = got + 1, .cap_bytes = 1)};
        CHECK_EQ(wharf_recvmany(h.task, port, in, 2, 0), 1);
        CHECK_EQ(wharf_drop(h.task, port), 0);
        CHECK_EQ(wharf_sendmany(h.task, right, m, 2, 0), -EPIPE);
        hub_close(&h);
}

/* What a receive of many drops is said: it stops short before it, and the next call drops it and says whose it was. */
TEST(what_many_drops_is_told)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        wharf_name right;
        char room[2][2];
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        CHECK_EQ(wharf_send(h.task, right, "a", 1, 0), 0);
        CHECK_EQ(wharf_send(h.task, right, "too long", 8, 0), 0);
        struct wharf_msg in[2] = {MSG(.data = room[0], .cap_bytes = 2, .flags = WHARF_RECV_DROP_UNFIT),
                                  MSG(.data = room[1], .cap_bytes = 2, .flags = WHARF_RECV_DROP_UNFIT)};
        CHECK_EQ(wharf_recvmany(h.task, h.port, in, 2, 0), 1);
        CHECK_EQ(wharf_recvmany(h.task, h.port, in, 2, 0), -EOVERFLOW);
        hub_close(&h);
}
