/*
 * A port's descriptor in somebody else's event loop.
 */
#include "test.h"
#include "wharf/wharf.h"

#include <poll.h>
#include <pthread.h>
#include <unistd.h>

static bool readable(int fd, int timeout_ms)
{
        struct pollfd p = {.fd = fd, .events = POLLIN};
        return poll(&p, 1, timeout_ms) == 1;
}

/*
 * Goal:   an event loop neither misses a message nor spins.
 * Method: the descriptor is quiet after every receive that found nothing, and readable after every send.
 */
TEST(port_fd_is_quiet_when_nothing_is_there)
{
        wharf_task *t;
        wharf_name port, right;
        int fd;
        char c;
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, &o, &port), 0);
        CHECK_EQ(wharf_port_fd(t, port, &fd), 0);
        CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, 0), -EAGAIN);
        CHECK(!readable(fd, 0));
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        for (int i = 0; i < 200; i++) {
                CHECK_EQ(wharf_send(t, right, "x", 1, WHARF_FOREVER), 0);
                CHECK(readable(fd, 10000));
                CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, 0), 1);
                for (int k = 0; k < 8 && readable(fd, 0); k++)
                        CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, 0), -EAGAIN);
                CHECK(!readable(fd, 0));
        }
        CHECK_EQ(wharf_drop(t, right), 0);
        CHECK(readable(fd, 10000)); /* a sender has gone: the owner is to see it */
        for (int k = 0; k < 8 && readable(fd, 0); k++)
                CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, 0), -EAGAIN);
        CHECK(!readable(fd, 0));
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(t, port, &st), 0);
        CHECK_EQ(st.senders, 0);
        wharf_task_close(t);
}

struct one {
        wharf_task *task;
        wharf_name port;
        uint64_t from;
        int result;
};

static void *receive_from_one(void *arg)
{
        struct one *o = arg;
        char c;
        struct wharf_msg m = {.size = sizeof m, .data = &c, .cap_bytes = 1, .from = o->from};
        o->result = wharf_recvmsg(o->task, o->port, &m, wharf_in_ms(60000));
        return NULL;
}

/*
 * Goal:   a thread that waits for one sender hides from nobody's event loop what others send.
 * Method: one waits for the first sender, the second one sends; then the first one does.
 */
TEST(port_fd_tells_of_others_while_a_thread_waits_for_one_sender)
{
        wharf_task *t;
        wharf_name port, first, second;
        int fd;
        char c;
        struct wharf_sender who;
        struct wharf_port_opts opts = {.size = sizeof opts, .flags = WHARF_PORT_STAYS};
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, &opts, &port), 0);
        CHECK_EQ(wharf_port_fd(t, port, &fd), 0);
        CHECK_EQ(wharf_right_new(t, port, &first), 0);
        CHECK_EQ(wharf_right_new(t, port, &second), 0);
        for (int i = 0; i < 8; i++) { /* both have a lane, and nothing is owed */
                CHECK_EQ(wharf_send(t, first, "x", 1, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_recv(t, port, &c, 1, &who, wharf_in_ms(60000)), 1);
                CHECK_EQ(wharf_send(t, second, "y", 1, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, wharf_in_ms(60000)), 1);
        }
        struct one o = {.task = t, .port = port, .from = who.id};
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, receive_from_one, &o), 0);
        struct wharf_port_stat st = {.size = sizeof st};
        for (int i = 0; i < 60000 && !st.receivers_waiting; i++) {
                CHECK_EQ(wharf_port_stat(t, port, &st), 0);
                usleep(1000);
        }
        usleep(20000); /* asleep by now, most likely */
        CHECK_EQ(wharf_send(t, second, "y", 1, WHARF_FOREVER), 0);
        usleep(100000); /* the thread has been woken by it, and sleeps again */
        CHECK(readable(fd, 20000));
        CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, 0), 1);
        CHECK_EQ(c, 'y');
        CHECK_EQ(wharf_send(t, first, "x", 1, WHARF_FOREVER), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        CHECK_EQ(o.result, 0);
        wharf_task_close(t);
}

static int64_t processor_ms(void)
{
        struct timespec t;
        CHECK_EQ(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t), 0);
        return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/*
 * Goal:   a thread that waits for one sender sleeps, though others have sent, and though a doorbell of that one lies unread.
 * Method: at a port that is polled; the processor time of the wait is far below its length.
 */
TEST(a_wait_for_one_sender_beside_others_messages_is_a_sleep)
{
        enum { WAIT_MS = 600 };
        wharf_task *t;
        wharf_name port, first, second;
        int fd;
        char c;
        struct wharf_sender who;
        struct wharf_port_opts opts = {.size = sizeof opts, .flags = WHARF_PORT_STAYS};
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, &opts, &port), 0);
        CHECK_EQ(wharf_port_fd(t, port, &fd), 0);
        CHECK_EQ(wharf_right_new(t, port, &first), 0);
        CHECK_EQ(wharf_right_new(t, port, &second), 0);
        for (int i = 0; i < 8; i++) {
                CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, 0), -EAGAIN); /* so that the next one rings */
                CHECK_EQ(wharf_send(t, first, "x", 1, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_recv(t, port, &c, 1, &who, wharf_in_ms(60000)), 1);
        }
        CHECK_EQ(wharf_send(t, second, "y", 1, WHARF_FOREVER), 0);
        struct wharf_msg m = {.size = sizeof m, .data = &c, .cap_bytes = 1, .from = who.id};
        const int64_t before = processor_ms();
        CHECK_EQ(wharf_recvmsg(t, port, &m, wharf_in_ms(WAIT_MS)), -ETIMEDOUT);
        CHECK_LE(processor_ms() - before, WAIT_MS / 2);
        wharf_task_close(t);
}
