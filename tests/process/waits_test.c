/*
 * No one will ever come: every kind of wait ends at once, with an error of its own, when nobody can end it otherwise;
 * and goes on while somebody can, if only because a right is on its way in a message that nobody has read.
 */
#include "hub.h"

#include <pthread.h>
#include <stdatomic.h>

/* ---- threads that wait ---- */

struct waiter {
        wharf_task *task;
        wharf_name name;
        uint64_t from; /* receive from this one */
        uint32_t call; /* 1: call, 2: send until it fails */
        int result;
        uint32_t notice;
        _Atomic pid_t tid;
        pthread_t thread;
};

static void *wait_here(void *arg)
{
        struct waiter *w = arg;
        char buf[64];
        atomic_store(&w->tid, gettid());
        if (w->call == 2) {
                while ((w->result = wharf_send(w->task, w->name, "x", 1, WHARF_FOREVER)) == 0)
                        ;
        } else if (w->call) {
                struct wharf_msg q = MSG(.data = BYTES("x"), .len_bytes = 1, .id = w->call);
                struct wharf_msg a = MSG(.data = buf, .cap_bytes = sizeof buf);
                w->result = wharf_callmsg(w->task, w->name, &q, &a, WHARF_FOREVER);
        } else {
                struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf, .from = w->from);
                w->result = wharf_recvmsg(w->task, w->name, &m, WHARF_FOREVER);
                w->notice = m.notice;
        }
        return NULL;
}

static void wait_start(struct waiter *w)
{
        w->tid = 0;
        CHECK_EQ(pthread_create(&w->thread, NULL, wait_here, w), 0);
        while (!atomic_load(&w->tid))
                usleep(100);
        await_asleep(w->tid); /* /proc has threads too */
}

static int wait_end(struct waiter *w)
{
        pthread_join(w->thread, NULL);
        return w->result;
}

/* ---- processes that hold a right and do nothing with it ---- */

struct holder {
        struct hub *hub;
        struct stage has; /* it has the right that was given */
        pid_t pid;
};

static int hold(void *arg)
{
        struct holder *a = arg;
        wharf_name up, port;
        wharf_task *t = hub_join(a->hub, &up);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        struct wharf_item it = {.kind = WHARF_MAKE_SEND, .name = port};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(t, up, &m, WHARF_FOREVER), 0);
        m = MSG(.items = &it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(t, port, &m, WHARF_FOREVER), 0);
        stage_reach(&a->has);
        return pause();
}

/* A process with a port of its own; *ret_to is our right to it. It takes one message and sleeps for ever. */
static struct holder holder_start(struct hub *h, wharf_name *ret_to)
{
        struct holder a = {.hub = h, .has = stage_new()};
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        a.pid = test_fork(hold, &a);
        CHECK_EQ(wharf_recvmsg(h->task, h->port, &m, WHARF_FOREVER), 0);
        *ret_to = it.name;
        return a;
}

static void holder_kill(struct holder *a)
{
        kill_hard(a->pid);
        stage_done(&a->has);
}

static void give_right(wharf_task *t, wharf_name to, uint32_t kind, wharf_name what)
{
        struct wharf_item it = {.kind = kind, .name = what};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(t, to, &m, WHARF_FOREVER), 0);
}

static wharf_name port_new(wharf_task *t)
{
        wharf_name p;
        CHECK_EQ(wharf_port_new(t, NULL, &p), 0);
        return p;
}

/* ---- receiving ---- */

TEST(receive_ends_when_the_last_sender_is_killed_in_our_sleep)
{
        struct hub h = hub_open(NULL);
        wharf_name to, port = port_new(h.task);
        struct holder a = holder_start(&h, &to);
        give_right(h.task, to, WHARF_MAKE_SEND, port);
        stage_await(&a.has);
        struct waiter w = {.task = h.task, .name = port};
        wait_start(&w);
        holder_kill(&a);
        CHECK_EQ(wait_end(&w), -ENOTCONN);
        hub_close(&h);
}

TEST(receive_of_several_threads_ends_for_all)
{
        struct hub h = hub_open(NULL);
        wharf_name to, port = port_new(h.task);
        struct holder a = holder_start(&h, &to);
        give_right(h.task, to, WHARF_MAKE_SEND, port);
        stage_await(&a.has);
        struct waiter w[4];
        for (unsigned i = 0; i < 4; i++) {
                w[i] = (struct waiter){.task = h.task, .name = port};
                wait_start(&w[i]);
        }
        holder_kill(&a);
        for (unsigned i = 0; i < 4; i++)
                CHECK_EQ(wait_end(&w[i]), -ENOTCONN);
        hub_close(&h);
}

/* Each port of the set loses its last sender in turn; only with the last of them does the wait end. */
TEST(receive_on_a_set_ends_with_the_last_sender_of_its_last_port)
{
        struct hub h = hub_open(NULL);
        wharf_name set, port[3], to[3];
        struct holder a[3];
        CHECK_EQ(wharf_set_new(h.task, &set), 0);
        for (unsigned i = 0; i < 3; i++) {
                port[i] = port_new(h.task);
                CHECK_EQ(wharf_set_add(h.task, set, port[i]), 0);
                a[i] = holder_start(&h, &to[i]);
                give_right(h.task, to[i], WHARF_MAKE_SEND, port[i]);
                stage_await(&a[i].has);
        }
        struct waiter w = {.task = h.task, .name = set};
        wait_start(&w);
        holder_kill(&a[0]);
        holder_kill(&a[1]);
        await_asleep(w.tid);
        CHECK_EQ(wharf_drop(h.task, port[0]), 0); /* nor with the going of one that had none left */
        await_asleep(w.tid);
        holder_kill(&a[2]);
        CHECK_EQ(wait_end(&w), -ENOTCONN);
        hub_close(&h);
}

TEST(receive_on_a_set_ends_when_its_last_living_port_leaves)
{
        struct hub h = hub_open(NULL);
        wharf_name set, port = port_new(h.task), right;
        CHECK_EQ(wharf_set_new(h.task, &set), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        CHECK_EQ(wharf_set_add(h.task, set, port), 0);
        struct waiter w = {.task = h.task, .name = set};
        wait_start(&w);
        CHECK_EQ(wharf_set_remove(h.task, set, port), 0);
        CHECK_EQ(wait_end(&w), -ENOTCONN);
        hub_close(&h);
}

static int say_who(void *arg)
{
        wharf_name up;
        wharf_task *t = hub_join(arg, &up);
        CHECK_EQ(wharf_send(t, up, "me", 2, WHARF_FOREVER), 0);
        return pause();
}

static pid_t sender_start(struct hub *h, uint64_t *ret_id)
{
        struct wharf_sender s;
        char buf[4];
        pid_t pid = test_fork(say_who, h);
        CHECK_EQ(wharf_recv(h->task, h->port, buf, sizeof buf, &s, WHARF_FOREVER), 2);
        CHECK_EQ(s.pid, pid);
        *ret_id = s.id;
        return pid;
}

TEST(receive_from_one_ends_when_that_one_is_killed)
{
        struct hub h = hub_open(NULL); /* which listens: others could still come, but they are not waited for */
        uint64_t id, other;
        pid_t pid = sender_start(&h, &id), another = sender_start(&h, &other);
        struct waiter w = {.task = h.task, .name = h.port, .from = id};
        wait_start(&w);
        kill_hard(pid);
        CHECK_EQ(wait_end(&w), -ENOTCONN);
        struct wharf_msg m = MSG(.from = other);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
        kill_hard(another);
        hub_close(&h);
}

/* Another thread receives from anyone, and it is that one which the kernel wakes. It sees nothing in it for itself. */
TEST(receive_from_one_ends_beside_a_receive_from_anyone)
{
        struct hub h = hub_open(NULL);
        uint64_t id;
        pid_t pid = sender_start(&h, &id);
        struct waiter any = {.task = h.task, .name = h.port}, one = {.task = h.task, .name = h.port, .from = id};
        wait_start(&any);
        wait_start(&one);
        kill_hard(pid);
        CHECK_EQ(wait_end(&one), -ENOTCONN);
        await_asleep(any.tid);
        CHECK_EQ(wharf_drop(h.task, h.port), 0);
        CHECK_EQ(wait_end(&any), -ECANCELED);
        hub_close(&h);
}

TEST(receive_on_a_port_that_only_watches_goes_on_until_the_notice)
{
        struct hub h = hub_open(NULL);
        wharf_name to, port = port_new(h.task);
        struct holder a = holder_start(&h, &to);
        CHECK_EQ(wharf_watch(h.task, to, port), 0);
        CHECK_EQ(wharf_recv(h.task, port, NULL, 0, NULL, 0), -EAGAIN);
        struct waiter w = {.task = h.task, .name = port};
        wait_start(&w);
        holder_kill(&a);
        CHECK_EQ(wait_end(&w), 0);
        CHECK_EQ(w.notice, WHARF_NOTICE_DEAD_NAME);
        CHECK_EQ(wharf_recv(h.task, port, NULL, 0, NULL, WHARF_FOREVER), -ENOTCONN); /* it comes once */
        hub_close(&h);
}

/* In a set, and moved out of it again; and the watched right is let go of rather than dying. */
TEST(receive_on_a_port_that_only_watches_ends_with_the_watched_right)
{
        struct hub h = hub_open(NULL);
        wharf_name to, set, port = port_new(h.task);
        struct holder a = holder_start(&h, &to);
        CHECK_EQ(kill(a.pid, SIGSTOP), 0);
        CHECK_EQ(wharf_set_new(h.task, &set), 0);
        CHECK_EQ(wharf_watch(h.task, to, port), 0);
        CHECK_EQ(wharf_set_add(h.task, set, port), 0);
        CHECK_EQ(wharf_recv(h.task, set, NULL, 0, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_set_remove(h.task, set, port), 0);
        CHECK_EQ(wharf_recv(h.task, set, NULL, 0, NULL, 0), -ENOTCONN);
        struct waiter w = {.task = h.task, .name = port};
        wait_start(&w);
        CHECK_EQ(wharf_drop(h.task, to), 0);
        CHECK_EQ(wait_end(&w), -ENOTCONN);
        holder_kill(&a);
        hub_close(&h);
}

/* ---- rights on their way ---- */

TEST(receive_goes_on_while_a_right_lies_in_an_unread_message)
{
        struct hub h = hub_open(NULL);
        wharf_name port = port_new(h.task), box = port_new(h.task), to_box;
        CHECK_EQ(wharf_right_new(h.task, box, &to_box), 0);
        give_right(h.task, to_box, WHARF_MAKE_SEND, port);
        struct waiter w = {.task = h.task, .name = port};
        wait_start(&w);
        CHECK_EQ(wharf_recv(h.task, port, NULL, 0, NULL, 0), -EAGAIN);
        /* Read, it is held by somebody. */
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, box, &m, 0), 0);
        await_asleep(w.tid);
        CHECK_EQ(wharf_drop(h.task, it.name), 0);
        CHECK_EQ(wait_end(&w), -ENOTCONN);
        /* Destroyed unread, it is gone. */
        give_right(h.task, to_box, WHARF_MAKE_SEND, port);
        wait_start(&w);
        CHECK_EQ(wharf_drop(h.task, box), 0);
        CHECK_EQ(wait_end(&w), -ENOTCONN);
        hub_close(&h);
}

/* The process that it is on its way to has not read it, and is killed; with it goes the last right. */
TEST(receive_ends_when_the_right_dies_with_the_queue_it_lies_in)
{
        struct hub h = hub_open(NULL);
        wharf_name to, port = port_new(h.task);
        struct holder a = holder_start(&h, &to);
        CHECK_EQ(kill(a.pid, SIGSTOP), 0);
        for (unsigned i = 0; i < 30; i++) /* as frames, and as records of a lane */
                give_right(h.task, to, WHARF_MAKE_SEND, port);
        struct waiter w = {.task = h.task, .name = port};
        wait_start(&w);
        holder_kill(&a);
        CHECK_EQ(wait_end(&w), -ENOTCONN);
        hub_close(&h);
}

/* The only sender introduces another, which nobody has read yet, and goes: that introduction is still to be seen. */
TEST(receive_goes_on_for_a_sender_introduced_by_the_last_one)
{
        struct hub h = hub_open(NULL);
        wharf_name port = port_new(h.task), right, copy;
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        for (unsigned lane = 0; lane < 2; lane++) {
                for (unsigned i = 0; i < lane * 40; i++) {
                        CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), 0);
                        CHECK_EQ(wharf_recv(h.task, port, (char[1]){0}, 1, NULL, 0), 1);
                }
                CHECK_EQ(wharf_right_copy(h.task, right, 0, &copy), 0);
                CHECK_EQ(wharf_drop(h.task, right), 0);
                struct waiter w = {.task = h.task, .name = port};
                wait_start(&w);
                CHECK_EQ(wharf_send(h.task, copy, "x", 1, 0), 0);
                CHECK_EQ(wait_end(&w), 0);
                right = copy;
        }
        CHECK_EQ(wharf_drop(h.task, right), 0);
        CHECK_EQ(wharf_recv(h.task, port, NULL, 0, NULL, WHARF_FOREVER), -ENOTCONN);
        hub_close(&h);
}

/* ---- sending ---- */

/* One thread waits for a reply and reads the socket for both; the other waits for room. Each has its own error. */
TEST(send_without_room_and_call_end_when_the_receiver_is_killed)
{
        struct hub h = hub_open(NULL);
        wharf_name to;
        struct holder a = holder_start(&h, &to);
        CHECK_EQ(kill(a.pid, SIGSTOP), 0);
        struct waiter call = {.task = h.task, .name = to, .call = 1}, send = {.task = h.task, .name = to, .call = 2};
        wait_start(&call);
        wait_start(&send);
        await_asleep(send.tid);
        holder_kill(&a);
        CHECK_EQ(wait_end(&call), -ECONNRESET);
        CHECK_EQ(wait_end(&send), -EPIPE);
        hub_close(&h);
}

/* A right whose other end lies in a message: sending waits, for somebody may read it; and ends when nobody can. */
TEST(send_ends_when_the_receiving_end_is_lost_on_its_way)
{
        struct hub h = hub_open(NULL);
        wharf_name to, copy;
        struct holder a = holder_start(&h, &to);
        CHECK_EQ(kill(a.pid, SIGSTOP), 0);
        CHECK_EQ(wharf_right_copy(h.task, to, 0, &copy), 0); /* its owner's end lies unread on the first one's socket */
        struct waiter send = {.task = h.task, .name = copy, .call = 2};
        wait_start(&send);
        holder_kill(&a);
        CHECK_EQ(wait_end(&send), -EPIPE);
        hub_close(&h);
}

/* ---- calls ---- */

/* A server that passes the duty to reply on to the hub, and is no more. */
static int delegate_and_die(void *arg)
{
        wharf_name up, port;
        wharf_task *t = hub_join(arg, &up);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        give_right(t, up, WHARF_MAKE_SEND, port);
        struct wharf_msg m = MSG(.data = (char[8]){0}, .cap_bytes = 8);
        CHECK_EQ(wharf_recvmsg(t, port, &m, WHARF_FOREVER), 0);
        give_right(t, up, WHARF_MOVE_REPLY, m.reply);
        return 0; /* without closing anything */
}

/* Whoever answers now lives; that the first server is dead is no reason to give up. */
TEST(call_goes_on_when_a_server_dies_that_passed_it_on)
{
        struct hub h = hub_open(NULL);
        for (unsigned round = 0; round < 2; round++) {
                struct wharf_item it;
                struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
                pid_t pid = test_fork(delegate_and_die, &h);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                struct waiter call = {.task = h.task, .name = it.name, .call = 1};
                wait_start(&call);
                CHECK_EQ(test_wait(pid), 0);
                m = MSG(.items = &it, .cap_items = 1);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(it.kind, WHARF_GOT_REPLY);
                await_asleep(call.tid);
                if (round == 0)
                        CHECK_EQ(wharf_reply(h.task, it.name, "late", 4), 0);
                else
                        CHECK_EQ(wharf_drop(h.task, it.name), 0);
                CHECK_EQ(wait_end(&call), round == 0 ? 0 : -ECANCELED);
        }
        hub_close(&h);
}

/* The request was never read: the port is closed with it. */
TEST(call_ends_when_its_request_is_destroyed_unread)
{
        struct hub h = hub_open(NULL);
        wharf_name port = port_new(h.task), right;
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        struct waiter call = {.task = h.task, .name = right, .call = 1};
        wait_start(&call);
        CHECK_EQ(wharf_drop(h.task, port), 0);
        CHECK_EQ(wait_end(&call), -ECONNRESET);
        hub_close(&h);
}

/* The right to reply lies in a message that nobody has read: somebody may. Then its queue is destroyed. */
TEST(call_ends_when_its_reply_right_is_destroyed_unread)
{
        struct hub h = hub_open(NULL);
        wharf_name port = port_new(h.task), box = port_new(h.task), right, to_box;
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        CHECK_EQ(wharf_right_new(h.task, box, &to_box), 0);
        struct waiter call = {.task = h.task, .name = right, .call = 1};
        wait_start(&call);
        struct wharf_msg m = MSG(.data = (char[8]){0}, .cap_bytes = 8);
        CHECK_EQ(wharf_recvmsg(h.task, port, &m, 0), 0);
        give_right(h.task, to_box, WHARF_MOVE_REPLY, m.reply);
        await_asleep(call.tid);
        CHECK_EQ(wharf_drop(h.task, box), 0);
        CHECK_EQ(wait_end(&call), -ECANCELED);
        hub_close(&h);
}
