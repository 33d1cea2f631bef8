/*
 * Closing a port: what becomes of its messages, of the rights inside them, of its senders and their notices, and of
 * each thread that waits, at whichever end.
 */
#include "hub.h"

#include <poll.h>
#include <pthread.h>

/* The port that will be closed is `h.port`, in this task; whoever waits elsewhere is in a task of its own. */
struct at {
        struct hub h;
        wharf_task *other;
        wharf_name right;
};

static struct at at_open(const struct wharf_port_opts *opts)
{
        struct at a = {.h = hub_open(opts)};
        CHECK_EQ(wharf_task_open(NULL, &a.other), 0);
        CHECK_EQ(wharf_right_connect(a.other, a.h.path, &a.right), 0);
        char c; /* accepted: until then a connection waits for whatever port listens next */
        CHECK_EQ(wharf_send(a.other, a.right, "x", 1, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_recv(a.h.task, a.h.port, &c, 1, NULL, WHARF_FOREVER), 1);
        return a;
}

static void at_close(struct at *a)
{
        wharf_task_close(a->other);
        hub_close(&a->h);
}

struct waiter {
        pthread_t thread;
        wharf_task *task;
        wharf_name name;
        uint64_t from;
        int result;
};

static void *waits_to_receive(void *arg)
{
        struct waiter *w = arg;
        struct wharf_msg m = MSG(.from = w->from);
        w->result = wharf_recvmsg(w->task, w->name, &m, WHARF_FOREVER);
        return NULL;
}

static void *waits_for_room(void *arg)
{
        struct waiter *w = arg;
        while ((w->result = wharf_send(w->task, w->name, "x", 1, WHARF_FOREVER)) == 0)
                ;
        return NULL;
}

static void *waits_for_room_to_copy_large(void *arg)
{
        static char large[20 << 20];
        struct waiter *w = arg;
        while ((w->result = wharf_send(w->task, w->name, large, sizeof large, WHARF_FOREVER)) == 0)
                ;
        return NULL;
}

static void *waits_to_lend(void *arg)
{
        struct waiter *w = arg;
        for (;;) {
                struct wharf_msg m = MSG();
                if ((w->result = wharf_reserve(w->task, w->name, 1000, &m, WHARF_FOREVER)) < 0)
                        return NULL;
                if ((w->result = wharf_sendmsg(w->task, w->name, &m, WHARF_FOREVER)) < 0) {
                        wharf_release(w->task, &m);
                        return NULL;
                }
        }
}

static void *waits_for_a_reply(void *arg)
{
        struct waiter *w = arg;
        char buf[8];
        w->result = (int)wharf_call(w->task, w->name, "?", 1, buf, sizeof buf, WHARF_FOREVER);
        return NULL;
}

static void start(struct waiter *w, void *(*fn)(void *))
{
        w->result = 1;
        CHECK_EQ(pthread_create(&w->thread, NULL, fn, w), 0);
}

static int finish(struct waiter *w)
{
        pthread_join(w->thread, NULL);
        return w->result;
}

static struct wharf_port_stat stat_of(wharf_task *t, wharf_name port)
{
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(t, port, &st), 0);
        return st;
}

static void attach(struct at *a)
{
        char c;
        for (unsigned i = 0; i < 40; i++) {
                CHECK_EQ(wharf_send(a->other, a->right, "x", 1, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_recv(a->h.task, a->h.port, &c, 1, NULL, WHARF_FOREVER), 1);
        }
}

/* ---- threads that wait ---- */

TEST(closing_ends_receivers_from_anyone_from_one_and_through_a_set)
{
        struct hub h = hub_open(NULL);
        wharf_name right, port, set;
        char c;
        struct wharf_sender from;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), 0);
        CHECK_EQ(wharf_recv(h.task, port, &c, 1, &from, 0), 1);
        struct waiter w[4];
        for (unsigned i = 0; i < 4; i++) {
                w[i] = (struct waiter){.task = h.task, .name = port, .from = i % 2 ? from.id : 0};
                start(&w[i], waits_to_receive);
        }
        while (stat_of(h.task, port).receivers_waiting < 4)
                sched_yield();
        CHECK_EQ(wharf_drop(h.task, port), 0);
        for (unsigned i = 0; i < 4; i++)
                CHECK_EQ(finish(&w[i]), -ECANCELED);

        /* In a set, what ends is the wait for this port; the set goes on with the others. */
        CHECK_EQ(wharf_set_new(h.task, &set), 0);
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_set_add(h.task, set, port), 0);
        CHECK_EQ(wharf_drop(h.task, right), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        struct waiter s = {.task = h.task, .name = set};
        start(&s, waits_to_receive);
        while (stat_of(h.task, port).receivers_waiting < 1)
                sched_yield();
        CHECK_EQ(wharf_drop(h.task, port), 0);
        CHECK_EQ(finish(&s), -ENOTCONN); /* there were no others */
        hub_close(&h);
}

TEST(closing_ends_senders_that_wait_for_room)
{
        static const struct {
                void *(*fn)(void *);
                const char *what;
        } way[] = {{waits_for_room, "records"}, {waits_for_room_to_copy_large, "pieces"}, {waits_to_lend, "blocks"}};
        for (unsigned i = 0; i < 3; i++) {
                struct at a = at_open(PORT_OPTS(.capacity_records = 4));
                attach(&a);
                struct waiter w = {.task = a.other, .name = a.right};
                start(&w, way[i].fn);
                while (i != 1 && stat_of(a.h.task, a.h.port).queued_messages < 4)
                        sched_yield();
                usleep(2000); /* asleep by now, or not: the answer is the same */
                CHECK_EQ(wharf_drop(a.h.task, a.h.port), 0);
                CHECK_EQ(finish(&w), -EPIPE);
                at_close(&a);
        }
}

TEST(closing_ends_callers_whose_request_is_unread)
{
        struct at a = at_open(NULL);
        struct waiter w = {.task = a.other, .name = a.right};
        struct pollfd p = {.events = POLLIN};
        attach(&a);
        CHECK_EQ(wharf_recv(a.h.task, a.h.port, NULL, 0, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_port_fd(a.h.task, a.h.port, &p.fd), 0);
        CHECK_EQ(wharf_recv(a.h.task, a.h.port, NULL, 0, NULL, 0), -EAGAIN);
        start(&w, waits_for_a_reply);
        CHECK_EQ(poll(&p, 1, -1), 1);
        CHECK_EQ(wharf_drop(a.h.task, a.h.port), 0);
        CHECK_EQ(finish(&w), -ECONNRESET);
        at_close(&a);
}

TEST(closing_ends_callers_whose_request_was_received)
{
        struct at a = at_open(NULL);
        struct waiter w = {.task = a.other, .name = a.right};
        char c;
        struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
        start(&w, waits_for_a_reply);
        CHECK_EQ(wharf_recvmsg(a.h.task, a.h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_drop(a.h.task, a.h.port), 0);
        CHECK_EQ(finish(&w), -ECONNRESET);
        CHECK_EQ(wharf_reply(a.h.task, m.reply, "late", 4), -EPIPE);
        CHECK_EQ(wharf_name_kind(a.h.task, m.reply), -EBADF);
        at_close(&a);
}

/* The answer was handed on to somebody else before: the port is not needed for it any more. */
TEST(closing_leaves_calls_alone_that_were_passed_on)
{
        struct at a = at_open(NULL);
        struct waiter w = {.task = a.other, .name = a.right};
        wharf_name port, right;
        char c;
        CHECK_EQ(wharf_port_new(a.h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(a.h.task, port, &right), 0);
        start(&w, waits_for_a_reply);
        struct wharf_item got;
        struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1), r = MSG(.items = &got, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(a.h.task, a.h.port, &m, WHARF_FOREVER), 0);
        struct wharf_item it = {.kind = WHARF_MOVE_REPLY, .name = m.reply};
        struct wharf_msg on = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(a.h.task, right, &on, 0), 0);
        CHECK_EQ(wharf_recvmsg(a.h.task, port, &r, 0), 0);
        CHECK_EQ(wharf_drop(a.h.task, a.h.port), 0);
        CHECK_EQ(wharf_reply(a.h.task, got.name, "here", 4), 0);
        CHECK_EQ(finish(&w), 4);
        at_close(&a);
}

/* Dropping the send right is the other end of it: whoever waits on that right is told at once. */
TEST(dropping_a_send_right_ends_those_who_wait_on_it)
{
        struct at a = at_open(PORT_OPTS(.capacity_records = 4));
        attach(&a);
        struct waiter room[2], caller;
        wharf_name second;
        CHECK_EQ(wharf_right_connect(a.other, a.h.path, &second), 0);
        for (unsigned i = 0; i < 2; i++) {
                room[i] = (struct waiter){.task = a.other, .name = a.right};
                start(&room[i], waits_for_room);
        }
        caller = (struct waiter){.task = a.other, .name = second};
        start(&caller, waits_for_a_reply);
        while (stat_of(a.h.task, a.h.port).queued_messages < 4)
                sched_yield();
        usleep(2000);
        CHECK_EQ(wharf_drop(a.other, a.right), 0);
        for (unsigned i = 0; i < 2; i++) {
                int r = finish(&room[i]);
                CHECK(r == -ECANCELED || r == -EBADF);
        }
        int r = wharf_drop(a.other, second);
        CHECK_EQ(r, 0);
        r = finish(&caller);
        CHECK(r == -ECANCELED || r == -EBADF);
        /* What was sent stays sent. */
        char c;
        for (unsigned i = 0; i < 4; i++)
                CHECK_EQ(wharf_recv(a.h.task, a.h.port, &c, 1, NULL, WHARF_FOREVER), 1);
        at_close(&a);
}

/* ---- what is inside ---- */

TEST(closing_drops_unread_messages_and_the_rights_in_them)
{
        for (unsigned attached = 0; attached < 2; attached++) {
                struct at a = at_open(NULL);
                wharf_name sends, onces, notify;
                unsigned before = count_fds();
                char c;
                if (attached)
                        attach(&a);
                CHECK_EQ(wharf_port_new(a.other, NULL, &sends), 0);
                CHECK_EQ(wharf_port_new(a.other, NULL, &onces), 0);
                for (unsigned i = 0; i < 3; i++) {
                        int fd = dup(a.h.listen_fd);
                        struct wharf_item items[] = {{.kind = WHARF_MAKE_SEND, .name = sends},
                                                     {.kind = WHARF_MAKE_ONCE, .name = onces},
                                                     {.kind = WHARF_MOVE_FD, .fd = fd}};
                        struct wharf_msg m = MSG(.data = BYTES("x"), .len_bytes = 1, .items = items, .n_items = 3);
                        CHECK_EQ(wharf_sendmsg(a.other, a.right, &m, WHARF_FOREVER), 0);
                }
                CHECK_EQ(wharf_notify(a.other, WHARF_NOTICE_NO_SENDERS, sends, WHARF_NONE, 3), 0);
                CHECK_EQ(wharf_task_notify(a.other, &notify), 0);
                CHECK_EQ(wharf_recv(a.other, sends, &c, 1, NULL, 0), -EAGAIN);
                CHECK_EQ(wharf_drop(a.h.task, a.h.port), 0);
                /* Its senders are gone: said to whoever receives, and to whoever asked. */
                CHECK_EQ(wharf_recv(a.other, sends, &c, 1, NULL, WHARF_FOREVER), -ENOTCONN);
                struct wharf_msg m = MSG();
                CHECK_EQ(wharf_recvmsg(a.other, notify, &m, WHARF_FOREVER), 0);
                CHECK_EQ(m.notice, WHARF_NOTICE_NO_SENDERS);
                CHECK_EQ(m.count, 3);
                for (unsigned i = 0; i < 3; i++) {
                        CHECK_EQ(wharf_recvmsg(a.other, onces, &m, WHARF_FOREVER), 0);
                        CHECK_EQ(m.notice, WHARF_NOTICE_ONCE_UNUSED);
                }
                CHECK_EQ(wharf_recvmsg(a.other, onces, &m, 0), -ENOTCONN);
                CHECK_LE(count_fds(), before + 3); /* the three ports of the other task */
                at_close(&a);
        }
}

/* A right to answer a call, handed on in a message that nobody will read: the caller is told. */
TEST(closing_ends_calls_whose_answer_was_in_an_unread_message)
{
        struct at a = at_open(NULL);
        struct waiter w = {.task = a.other, .name = a.right};
        wharf_name port, right;
        char c;
        CHECK_EQ(wharf_port_new(a.h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(a.h.task, port, &right), 0);
        start(&w, waits_for_a_reply);
        struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
        CHECK_EQ(wharf_recvmsg(a.h.task, a.h.port, &m, WHARF_FOREVER), 0);
        struct wharf_item it = {.kind = WHARF_MOVE_REPLY, .name = m.reply};
        struct wharf_msg on = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(a.h.task, right, &on, 0), 0);
        CHECK_EQ(wharf_drop(a.h.task, port), 0);
        CHECK_EQ(finish(&w), -ECANCELED);
        at_close(&a);
}

/* A right to the very port, unread in that port: closing takes it along, and it is nobody's sender. */
TEST(closing_a_port_with_a_right_to_itself_unread_in_it)
{
        struct at a = at_open(NULL);
        unsigned before = count_fds();
        wharf_name port, right;
        CHECK_EQ(wharf_port_new(a.h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(a.h.task, port, &right), 0);
        struct wharf_item it = {.kind = WHARF_MOVE_SEND, .name = right};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(a.h.task, right, &m, 0), 0);
        CHECK_EQ(wharf_drop(a.h.task, port), 0);
        CHECK_EQ(count_fds(), before);
        at_close(&a);
}

TEST(closing_leaves_payloads_in_place_until_they_are_given_back)
{
        struct at a = at_open(NULL);
        static char bytes[3000];
        attach(&a);
        pattern_fill(bytes, sizeof bytes, 1);
        CHECK_EQ(wharf_send(a.other, a.right, bytes, sizeof bytes, 0), 0);
        CHECK_EQ(wharf_send(a.other, a.right, bytes, 100, 0), 0);
        struct wharf_msg m[2] = {MSG(.flags = WHARF_RECV_IN_PLACE), MSG(.flags = WHARF_RECV_IN_PLACE)};
        for (unsigned i = 0; i < 2; i++)
                CHECK_EQ(wharf_recvmsg(a.h.task, a.h.port, &m[i], 0), 0);
        CHECK_EQ(wharf_drop(a.h.task, a.h.port), 0);
        CHECK_EQ(wharf_drop(a.other, a.right), 0);
        CHECK_MEM(m[0].data, bytes, sizeof bytes);
        CHECK_MEM(m[1].data, bytes, 100);
        for (unsigned i = 0; i < 2; i++)
                wharf_release(a.h.task, &m[i]);
        at_close(&a);
}

/* ---- notices, and the whole task ---- */

TEST(closing_tells_everyone_who_asked_and_drops_what_was_to_come_here)
{
        struct at a = at_open(NULL);
        wharf_name notify, other;
        CHECK_EQ(wharf_task_notify(a.other, &notify), 0);
        CHECK_EQ(wharf_notify(a.other, WHARF_NOTICE_DEAD_NAME, a.right, WHARF_NONE, 0), 0);
        CHECK_EQ(wharf_port_new(a.h.task, NULL, &other), 0);
        CHECK_EQ(wharf_notify(a.h.task, WHARF_NOTICE_NO_SENDERS, other, a.h.port, 0), 0); /* fires at once */
        CHECK_EQ(wharf_notify(a.h.task, WHARF_NOTICE_NO_SENDERS, a.h.port, WHARF_NONE, 99), 0);
        CHECK_EQ(wharf_drop(a.h.task, a.h.port), 0);
        struct wharf_msg m = MSG();
        CHECK_EQ(wharf_recvmsg(a.other, notify, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.notice, WHARF_NOTICE_DEAD_NAME);
        CHECK_EQ(wharf_task_notify(a.h.task, &notify), 0);
        CHECK_EQ(wharf_recvmsg(a.h.task, notify, &m, 0), -EAGAIN);
        at_close(&a);
}

static int close_it_all(void *arg)
{
        wharf_name hub, port, once;
        wharf_task *t = hub_join(arg, &hub);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_once_new(t, port, &once), 0);
        struct wharf_item items[] = {{.kind = WHARF_MAKE_SEND, .name = port}, {.kind = WHARF_MOVE_REPLY, .name = once}};
        struct wharf_msg m = MSG(.items = items, .n_items = 2), a = MSG();
        struct wharf_item got;
        a.items = &got;
        a.cap_items = 1;
        CHECK_EQ(wharf_callmsg(t, hub, &m, &a, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_notify(t, WHARF_NOTICE_DEAD_NAME, hub, WHARF_NONE, 0), 0);
        CHECK_EQ(wharf_notify(t, WHARF_NOTICE_NO_SENDERS, port, WHARF_NONE, 0), 0);
        wharf_task_close(t); /* with everything held, and asked for */
        return 0;
}

TEST(closing_a_task_closes_all_it_holds)
{
        struct hub h = hub_open(NULL);
        wharf_name port;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        pid_t pid = test_fork(close_it_all, &h);
        struct wharf_item got[2], once = {.kind = WHARF_MAKE_ONCE, .name = port};
        struct wharf_msg m = MSG(.items = got, .cap_items = 2), a = MSG(.items = &once, .n_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_watch(h.task, got[0].name, h.port), 0);
        CHECK_EQ(wharf_replymsg(h.task, m.reply, &a), 0);
        CHECK_EQ(wharf_recvmsg(h.task, port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.notice, WHARF_NOTICE_ONCE_UNUSED);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.notice, WHARF_NOTICE_DEAD_NAME);
        CHECK_EQ(wharf_send(h.task, got[1].name, "x", 1, 0), -EPIPE);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}
