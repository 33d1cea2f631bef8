/*
 * Notices: what a task asks to be told, at a port of its choice; and the ports that every task has for it.
 */
#include "hub.h"

#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>

static struct wharf_msg get(wharf_task *t, wharf_name from, int64_t deadline_ns)
{
        struct wharf_msg m = MSG();
        CHECK_EQ(wharf_recvmsg(t, from, &m, deadline_ns), 0);
        return m;
}

static void check_none(wharf_task *t, wharf_name from)
{
        struct wharf_msg m = MSG();
        CHECK_EQ(wharf_recvmsg(t, from, &m, 0), -EAGAIN);
}

/* ---- no senders ---- */

TEST(no_senders_is_told_once_with_the_number_of_rights_made)
{
        struct hub h = hub_open(NULL);
        wharf_name port, a, b, copy;
        char c;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &a), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &b), 0);
        CHECK_EQ(wharf_right_copy(h.task, a, 0, &copy),
                 0); /* a copy is none that was made; nor is what was never sent */
        struct wharf_item items[] = {{.kind = WHARF_MAKE_SEND, .name = port}, {.kind = WHARF_COPY_FD, .fd = -1}};
        CHECK_EQ(wharf_sendmsg(h.task, a, &MSG(.items = items, .n_items = 2), 0), -EBADF);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, h.port, 0), 0);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, h.port, 0), -EBUSY);
        CHECK_EQ(wharf_drop(h.task, a), 0);
        CHECK_EQ(wharf_drop(h.task, b), 0);
        CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), -EAGAIN);
        check_none(h.task, h.port);
        CHECK_EQ(wharf_drop(h.task, copy), 0);
        CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), -EAGAIN);
        struct wharf_msg m = get(h.task, h.port, WHARF_FOREVER);
        CHECK_EQ(m.notice, WHARF_NOTICE_NO_SENDERS);
        CHECK_EQ(m.about, port);
        CHECK_EQ(m.port, h.port);
        CHECK_EQ(m.count, 2);
        check_none(h.task, h.port);
        /* Asked again, it comes at once, for it is so. */
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, h.port, 2), 0);
        CHECK_EQ(get(h.task, h.port, WHARF_FOREVER).count, 2);
        hub_close(&h);
}

/*
 * Goal:   Mach's race: the notice must not be taken for the news that a right just made is gone.
 * Method: the right is made before the notice of an earlier one is received; the counts tell them apart, and `sync`
 *         makes the next one wait for the right that was made.
 */
TEST(no_senders_does_not_race_with_a_right_just_made)
{
        struct hub h = hub_open(NULL);
        wharf_name port, right;
        uint64_t made = 0;
        char c;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        for (unsigned round = 0; round < 5; round++) {
                CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
                made++;
                CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, h.port, made), 0);
                CHECK_EQ(wharf_drop(h.task, right), 0);
                CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), -EAGAIN);
                CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
                made++;
                struct wharf_msg m = get(h.task, h.port, WHARF_FOREVER);
                CHECK_EQ(m.count, made - 1); /* old news */
                /* Not yet: nobody has that many. And then not before they are gone. */
                CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, h.port, made + 1), 0);
                CHECK_EQ(wharf_drop(h.task, right), 0);
                CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), -EAGAIN);
                check_none(h.task, h.port);
                CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
                made++;
                check_none(h.task, h.port);
                CHECK_EQ(wharf_drop(h.task, right), 0);
                CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), -EAGAIN);
                CHECK_EQ(get(h.task, h.port, WHARF_FOREVER).count, made);
        }
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(h.task, port, &st), 0);
        CHECK_EQ(st.made_rights, made);
        hub_close(&h);
}

/* The first holder is gone, and the right that it gave to another is still unread in its link: that is a sender. */
TEST(a_right_that_is_on_its_way_counts_as_a_sender)
{
        struct hub h = hub_open(NULL);
        wharf_name port, carrier, first;
        char c;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &carrier), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &first), 0);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, WHARF_NONE, 0), 0);
        wharf_name notify;
        CHECK_EQ(wharf_task_notify(h.task, &notify), 0);
        struct wharf_item it = {.kind = WHARF_COPY_SEND, .name = first}, got;
        struct wharf_msg m = MSG(.items = &it, .n_items = 1), r = MSG(.items = &got, .cap_items = 1);
        CHECK_EQ(wharf_sendmsg(h.task, carrier, &m, 0), 0);
        CHECK_EQ(wharf_drop(h.task, first), 0); /* its introduction lies unread in the socket */
        CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), -EAGAIN);
        check_none(h.task, notify);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &r, 0), 0);
        CHECK_EQ(wharf_send(h.task, got.name, "x", 1, 0), 0);
        CHECK_EQ(wharf_drop(h.task, got.name), 0);
        /* What the last sender left is received first. */
        CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), 1);
        CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), -EAGAIN);
        CHECK_EQ(get(h.task, notify, WHARF_FOREVER).notice, WHARF_NOTICE_NO_SENDERS);
        hub_close(&h);
}

TEST(once_rights_are_no_senders)
{
        struct hub h = hub_open(NULL);
        wharf_name port, right, once;
        char c;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        CHECK_EQ(wharf_once_new(h.task, port, &once), 0);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, h.port, 1), 0);
        CHECK_EQ(wharf_drop(h.task, right), 0);
        CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), -EAGAIN);
        struct wharf_msg m = get(h.task, h.port, WHARF_FOREVER);
        CHECK_EQ(m.count, 1);
        hub_close(&h);
}

static int use_and_leave(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        for (unsigned i = 0; i < 100; i++)
                CHECK_EQ(wharf_send(t, hub, &i, sizeof i, WHARF_FOREVER), 0);
        raise(SIGKILL);
        return 0;
}

/*
 * Senders that die by themselves, and a receiver that sleeps: to the same port, the notice comes behind the messages.
 */
TEST(no_senders_after_senders_were_killed)
{
        struct hub h = hub_open(NULL);
        pid_t pid[3];
        for (unsigned i = 0; i < 3; i++)
                pid[i] = test_fork(use_and_leave, &h);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, h.port, h.port, 3), 0);
        unsigned n = 0;
        for (;; n++) {
                unsigned i;
                struct wharf_msg m = MSG(.data = &i, .cap_bytes = sizeof i);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                if (m.notice) {
                        CHECK_EQ(m.notice, WHARF_NOTICE_NO_SENDERS);
                        CHECK_EQ(m.count, 3);
                        break;
                }
        }
        CHECK_EQ(n, 300);
        for (unsigned i = 0; i < 3; i++)
                CHECK_EQ(test_wait(pid[i]), 128 + SIGKILL);
        hub_close(&h);
}

/* ---- to whichever port ---- */

struct waiter {
        wharf_task *task;
        wharf_name port;
        struct wharf_msg got;
        int result;
};

static void *wait_there(void *arg)
{
        struct waiter *w = arg;
        w->got = MSG();
        w->result = wharf_recvmsg(w->task, w->port, &w->got, WHARF_FOREVER);
        return NULL;
}

static void await_receiver(wharf_task *t, wharf_name port)
{
        struct wharf_port_stat st = {.size = sizeof st};
        do {
                sched_yield();
                CHECK_EQ(wharf_port_stat(t, port, &st), 0);
        } while (!st.receivers_waiting);
}

/* A thread that sleeps at another port is woken, in a set or not, while the port in question is used by others. */
TEST(a_notice_wakes_a_thread_that_sleeps_at_another_port)
{
        for (unsigned in_set = 0; in_set < 2; in_set++) {
                struct hub h = hub_open(NULL);
                wharf_name port, right, set = WHARF_NONE, notify;
                char c;
                CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
                CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
                CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, WHARF_NONE, 0), 0);
                CHECK_EQ(wharf_task_notify(h.task, &notify), 0);
                if (in_set) { /* after it was asked for */
                        CHECK_EQ(wharf_set_new(h.task, &set), 0);
                        CHECK_EQ(wharf_set_add(h.task, set, notify), 0);
                }
                struct waiter w = {.task = h.task, .port = in_set ? set : notify};
                pthread_t thread;
                CHECK_EQ(pthread_create(&thread, NULL, wait_there, &w), 0);
                await_receiver(h.task, notify);
                CHECK_EQ(wharf_drop(h.task, right), 0);
                CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), -ENOTCONN);
                pthread_join(thread, NULL);
                CHECK_EQ(w.result, 0);
                CHECK_EQ(w.got.notice, WHARF_NOTICE_NO_SENDERS);
                CHECK_EQ(w.got.about, port);
                CHECK_EQ(w.got.port, notify);
                hub_close(&h);
        }
}

/* Fired and not yet received, it moves into a set and out of it with its port. */
TEST(a_notice_goes_with_its_port_into_a_set_and_out)
{
        struct hub h = hub_open(NULL);
        wharf_name port, set, notify;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_set_new(h.task, &set), 0);
        CHECK_EQ(wharf_task_notify(h.task, &notify), 0);
        for (unsigned i = 0; i < 3; i++) {
                CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, WHARF_NONE, 0), 0);
                CHECK_EQ(wharf_set_add(h.task, set, notify), 0);
                if (i == 0)
                        CHECK_EQ(get(h.task, set, WHARF_FOREVER).about, port);
                CHECK_EQ(wharf_set_remove(h.task, set, notify), 0);
                if (i > 0)
                        CHECK_EQ(get(h.task, notify, WHARF_FOREVER).about, port);
        }
        CHECK_EQ(wharf_set_add(h.task, set, notify), 0);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, notify, 0), 0);
        CHECK_EQ(wharf_drop(h.task, set), 0);
        CHECK_EQ(get(h.task, notify, WHARF_FOREVER).about, port);
        hub_close(&h);
}

/* Somebody else's event loop sees it. */
TEST(a_notice_makes_the_descriptor_readable)
{
        struct hub h = hub_open(NULL);
        wharf_name port, right, notify;
        struct pollfd p = {.events = POLLIN};
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        CHECK_EQ(wharf_task_notify(h.task, &notify), 0);
        CHECK_EQ(wharf_port_fd(h.task, notify, &p.fd), 0);
        for (unsigned round = 0; round < 3; round++) {
                check_none(h.task, notify);
                CHECK_EQ(poll(&p, 1, 0), 0);
                CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, notify, round + 1), 0);
                CHECK_EQ(poll(&p, 1, 0), 0);
                CHECK_EQ(wharf_drop(h.task, right), 0);
                char c;
                CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), -EAGAIN);
                CHECK_EQ(poll(&p, 1, -1), 1);
                CHECK_EQ(poll(&p, 1, 0), 1); /* until it was received */
                CHECK_EQ(get(h.task, notify, 0).count, round + 1);
                CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        }
        hub_close(&h);
}

/* ---- asked for twice, taken back, and to nobody ---- */

/* Goal: what a look between messages has found is delivered, and not slept beside. */
TEST(a_notice_that_is_found_between_messages_is_delivered)
{
        struct wharf_task_opts o = {.size = sizeof o, .spin_us_max = WHARF_NO_SPIN}; /* spinning looks again */
        struct hub h = {.listen_fd = -1};
        wharf_name own, port, right;
        char c;
        CHECK_EQ(wharf_task_open(&o, &h.task), 0);
        CHECK_EQ(wharf_port_new(h.task, NULL, &h.port), 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &own), 0);
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        CHECK_EQ(wharf_watch(h.task, right, h.port), 0);
        /* By then the idle ones are asked about after each, since each takes its time. */
        for (unsigned i = 0; i < 40; i++) {
                usleep(i < 30 ? 0 : 1000);
                CHECK_EQ(wharf_send(h.task, own, "x", 1, 0), 0);
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), 1);
        }
        CHECK_EQ(wharf_drop(h.task, port), 0);
        usleep(1000);
        struct wharf_msg m = get(h.task, h.port, wharf_in_ms(20000));
        CHECK_EQ(m.notice, WHARF_NOTICE_DEAD_NAME);
        CHECK_EQ(m.about, right);
        hub_close(&h);
}

TEST(a_request_is_taken_back)
{
        struct hub h = hub_open(NULL);
        wharf_name port, right;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        CHECK_EQ(wharf_notify_cancel(h.task, WHARF_NOTICE_NO_SENDERS, port), -ENOENT);
        CHECK_EQ(wharf_notify_cancel(h.task, WHARF_NOTICE_DEAD_NAME, right), -ENOENT);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, h.port, 0), 0);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_DEAD_NAME, right, h.port, 0), 0);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_DEAD_NAME, right, port, 0), -EBUSY);
        CHECK_EQ(wharf_notify_cancel(h.task, WHARF_NOTICE_NO_SENDERS, port), 0);
        CHECK_EQ(wharf_notify_cancel(h.task, WHARF_NOTICE_DEAD_NAME, right), 0);
        CHECK_EQ(wharf_notify_cancel(h.task, WHARF_NOTICE_DEAD_NAME, right), -ENOENT);
        CHECK_EQ(wharf_drop(h.task, port), 0);
        check_none(h.task, h.port);
        CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), -EPIPE);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_DEAD_NAME, right, h.port, 0), 0);
        CHECK_EQ(get(h.task, h.port, WHARF_FOREVER).notice, WHARF_NOTICE_DEAD_NAME);
        hub_close(&h);
}

TEST(what_cannot_be_asked_for)
{
        struct hub h = hub_open(NULL);
        wharf_name port, right, set;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        CHECK_EQ(wharf_set_new(h.task, &set), 0);
        CHECK_EQ(wharf_notify(h.task, 0, port, h.port, 0), -EINVAL);
        CHECK_EQ(wharf_notify(h.task, 99, port, h.port, 0), -EINVAL);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_ONCE_UNUSED, port, h.port, 0), -EINVAL);
        CHECK_NE(wharf_why()[0], 0);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_DEAD_NAME, right, h.port, 1), -EINVAL);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_DEAD_NAME, port, h.port, 0), -EPERM);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, right, h.port, 0), -EPERM);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, set, h.port, 0), -EPERM);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, right, 0), -EPERM);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, 0x7fffffff, 0), -EBADF);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, 0x7fffffff, h.port, 0), -EBADF);
        CHECK_EQ(wharf_notify_cancel(h.task, WHARF_NOTICE_ONCE_UNUSED, port), -EINVAL);
        hub_close(&h);
}

/* The port that was to be told is closed: what was fired and what is yet to come is dropped, and can be asked anew. */
TEST(a_notice_to_a_closed_port_is_dropped)
{
        struct hub h = hub_open(NULL);
        wharf_name port, right, to;
        char c;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        CHECK_EQ(wharf_port_new(h.task, NULL, &to), 0);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, to, 0), 0);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_DEAD_NAME, right, to, 0), 0);
        CHECK_EQ(wharf_drop(h.task, to), 0);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_DEAD_NAME, right, h.port, 0), 0);
        CHECK_EQ(wharf_notify_cancel(h.task, WHARF_NOTICE_DEAD_NAME, right), 0);
        CHECK_EQ(wharf_drop(h.task, right), 0);
        CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), -EAGAIN); /* it fires, to nobody */
        CHECK_EQ(wharf_port_new(h.task, NULL, &to), 0);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, to, 0), 0); /* fires at once, */
        CHECK_EQ(wharf_drop(h.task, to), 0);                                     /* and nobody looks */
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, h.port, 0), 0);
        CHECK_EQ(get(h.task, h.port, WHARF_FOREVER).about, port);
        hub_close(&h);
}

/* A right to a queue of one that is full, and its port. */
static wharf_name right_to_full(wharf_task *t, wharf_name *ret_port)
{
        wharf_name right;
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.capacity_records = 1), ret_port), 0);
        CHECK_EQ(wharf_right_new(t, *ret_port, &right), 0);
        wharf_recv(t, *ret_port, NULL, 0, NULL, 0);
        while (wharf_send(t, right, "", 0, 0) == 0)
                ;
        return right;
}

/* The same of room; and where its port joins a set, the notice comes there. */
TEST(a_notice_of_room_follows_its_port_and_goes_with_it)
{
        struct hub h = hub_open(NULL);
        wharf_name port, to, set, right = right_to_full(h.task, &port);
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &to), 0);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_SEND_POSSIBLE, right, to, 0), 0);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_SEND_POSSIBLE, right, h.port, 0), -EBUSY);
        CHECK_EQ(wharf_drop(h.task, to), 0);
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &to), 0);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_SEND_POSSIBLE, right, to, 0), 0);
        CHECK_EQ(wharf_set_new(h.task, &set), 0);
        CHECK_EQ(wharf_set_add(h.task, set, to), 0);
        check_none(h.task, set);
        while (wharf_recv(h.task, port, NULL, 0, NULL, 0) == 0)
                ;
        struct wharf_msg m = get(h.task, set, wharf_in_ms(10000));
        CHECK_EQ(m.notice, WHARF_NOTICE_SEND_POSSIBLE);
        CHECK_EQ(m.about, right);
        hub_close(&h);
}

/* Whoever waits where only a notice can come waits for it; and does not, once none can come. */
TEST(a_thread_waits_for_a_notice_that_is_due)
{
        struct hub h = hub_open(NULL);
        wharf_name port, right, to;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        CHECK_EQ(wharf_port_new(h.task, NULL, &to), 0);
        struct wharf_msg m = MSG();
        CHECK_EQ(wharf_recvmsg(h.task, to, &m, WHARF_FOREVER), -ENOTCONN);
        CHECK_EQ(wharf_watch(h.task, right, to), 0);
        struct waiter w = {.task = h.task, .port = to};
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, wait_there, &w), 0);
        await_receiver(h.task, to);
        CHECK_EQ(wharf_notify_cancel(h.task, WHARF_NOTICE_DEAD_NAME, right), 0);
        pthread_join(thread, NULL);
        CHECK_EQ(w.result, -ENOTCONN);
        hub_close(&h);
}

/* ---- no descriptor, no memory ---- */

static void no_more_descriptors(struct rlimit *old)
{
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, old), 0);
        int top = dup(0);
        close(top);
        struct rlimit none = {(rlim_t)top, old->rlim_max};
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
        CHECK_EQ(dup(0), -1);
}

/* Closing a port at the limit of descriptors still wakes who sleeps there, and so does a notice. */
TEST(waking_takes_no_descriptor)
{
        struct hub h = hub_open(NULL);
        struct rlimit old;
        pthread_t thread;
        for (unsigned way = 0; way < 2; way++) {
                wharf_name port, right, to;
                char c;
                CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &to), 0);
                CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
                CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
                CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_NO_SENDERS, port, to, 0), 0);
                struct waiter w = {.task = h.task, .port = to};
                CHECK_EQ(pthread_create(&thread, NULL, wait_there, &w), 0);
                await_receiver(h.task, to);
                no_more_descriptors(&old);
                if (way == 0) {
                        CHECK_EQ(wharf_drop(h.task, to), 0);
                } else {
                        CHECK_EQ(wharf_drop(h.task, right), 0);
                        CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), -EAGAIN);
                }
                pthread_join(thread, NULL);
                CHECK_EQ(w.result, way == 0 ? -ECANCELED : 0);
                CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
        }
        hub_close(&h);
}

/* ---- Task Self and Notify ---- */

static int address_the_task(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        struct wharf_item self;
        struct wharf_msg q = MSG(), a = MSG(.items = &self, .cap_items = 1);
        CHECK_EQ(wharf_callmsg(t, hub, &q, &a, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_send(t, self.name, "hello, task", 11, WHARF_FOREVER), 0);
        wharf_task_close(t);
        return 0;
}

TEST(a_task_has_a_port_of_its_own_and_one_for_notices)
{
        struct hub h = hub_open(NULL);
        wharf_name self, again, notify;
        char buf[16];
        CHECK_EQ(wharf_task_self(h.task, &self), 0);
        CHECK_EQ(wharf_task_self(h.task, &again), 0);
        CHECK_EQ(self, again);
        CHECK_EQ(wharf_task_notify(h.task, &notify), 0);
        CHECK_NE(self, notify);
        CHECK_EQ(wharf_name_kind(h.task, self), WHARF_KIND_PORT);
        CHECK_EQ(wharf_recv(h.task, self, buf, sizeof buf, NULL, 0), -EAGAIN); /* it stays */
        pid_t pid = test_fork(address_the_task, &h);
        struct wharf_msg m = MSG();
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        struct wharf_item it = {.kind = WHARF_MAKE_SEND, .name = self};
        struct wharf_msg a = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_replymsg(h.task, m.reply, &a), 0);
        struct wharf_sender from;
        CHECK_EQ(wharf_recv(h.task, self, buf, sizeof buf, &from, WHARF_FOREVER), 11);
        CHECK_EQ(from.pid, pid);
        CHECK_EQ(test_wait(pid), 0);
        /* Dropped, the next asking makes another. */
        CHECK_EQ(wharf_drop(h.task, self), 0);
        CHECK_EQ(wharf_task_self(h.task, &again), 0);
        CHECK_NE(self, again);
        CHECK_EQ(wharf_name_kind(h.task, again), WHARF_KIND_PORT);
        hub_close(&h);
}

/* At the Notify port, by default: of each kind. */
TEST(notices_go_to_the_notify_port_by_default)
{
        struct hub h = hub_open(NULL);
        wharf_name port, right, notify;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        CHECK_EQ(wharf_notify(h.task, WHARF_NOTICE_DEAD_NAME, right, WHARF_NONE, 0), 0);
        CHECK_EQ(wharf_task_notify(h.task, &notify), 0);
        CHECK_EQ(wharf_drop(h.task, port), 0);
        struct wharf_msg m = get(h.task, notify, WHARF_FOREVER);
        CHECK_EQ(m.notice, WHARF_NOTICE_DEAD_NAME);
        CHECK_EQ(m.about, right);
        CHECK_EQ(m.port, notify);
        hub_close(&h);
}
