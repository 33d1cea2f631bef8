/*
 * A sender is gone: told with its id, behind its last message, whichever way it went; and by which id a right's user will be
 * known, before it has sent anything.
 */
#include "hub.h"

#include <poll.h>

static struct wharf_msg get(wharf_task *t, wharf_name from)
{
        static char text[64];
        struct wharf_msg m = MSG(.data = text, .cap_bytes = sizeof text);
        CHECK_EQ(wharf_recvmsg(t, from, &m, wharf_in_ms(60000)), 0);
        return m;
}

static void check_none(wharf_task *t, wharf_name from)
{
        char c;
        CHECK_EQ(wharf_recvmsg(t, from, &MSG(.data = &c, .cap_bytes = 1), 0), -EAGAIN);
}

static int says_three_and_dies(void *arg)
{
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        for (int i = 0; i < 3; i++)
                CHECK_EQ(wharf_send(t, right, "bye", 3, WHARF_FOREVER), 0);
        (void)t;
        _exit(0);
}

/*
 * Goal:   the notice comes behind all that the sender had sent, and once; with the sender's id, and its port as what it is about.
 * Method: a process sends three messages and ends without a word. It is asked for with the first of them in hand.
 */
TEST(a_sender_is_gone_behind_its_last_message)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        pid_t pid = test_fork(says_three_and_dies, &h);
        struct wharf_msg m = get(h.task, h.port);
        const uint64_t id = m.sender.id;
        CHECK_EQ(wharf_sender_notify(h.task, id, h.port), 0);
        CHECK_EQ(wharf_sender_notify(h.task, id, h.port), -EBUSY);
        CHECK_EQ(test_wait(pid), 0);
        for (int i = 0; i < 2; i++) {
                m = get(h.task, h.port);
                CHECK_EQ(m.notice, 0);
                CHECK_EQ(m.sender.id, id);
        }
        m = get(h.task, h.port);
        CHECK_EQ(m.notice, WHARF_NOTICE_SENDER_GONE);
        CHECK_EQ(m.sender.id, id);
        CHECK_EQ(m.about, h.port);
        CHECK_EQ(m.port, h.port);
        check_none(h.task, h.port);
        CHECK_EQ(wharf_sender_notify(h.task, id, h.port), -ENOENT);
        CHECK_EQ(wharf_sender_notify_cancel(h.task, id), -ENOENT);
        hub_close(&h);
}

/*
 * Goal:   however a sender goes it is told: its right dropped, revoked, used up; and at whatever port was named, in a set as well.
 */
TEST(a_sender_that_goes_in_any_way_is_told_of)
{
        enum { DROPPED, REVOKED, USED, WAYS };
        for (int way = 0; way < WAYS; way++) {
                struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
                wharf_name port, right, set, notify;
                struct wharf_right_stat st = {.size = sizeof st};
                CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
                CHECK_EQ(wharf_set_new(h.task, &set), 0);
                CHECK_EQ(wharf_set_add(h.task, set, port), 0);
                if (way == USED)
                        CHECK_EQ(wharf_once_new(h.task, port, &right), 0);
                else
                        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
                CHECK_EQ(wharf_right_stat(h.task, right, &st), 0);
                CHECK_NE(st.sender_id, 0);
                CHECK_EQ(wharf_sender_notify(h.task, st.sender_id, WHARF_NONE), 0);
                CHECK_EQ(wharf_task_notify(h.task, &notify), 0);
                check_none(h.task, set);
                check_none(h.task, notify);
                if (way == DROPPED)
                        CHECK_EQ(wharf_drop(h.task, right), 0);
                else if (way == REVOKED)
                        CHECK_EQ(wharf_revoke(h.task, port, st.sender_id, 0), 1);
                else
                        CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), 0);
                if (way == USED)
                        CHECK_EQ(get(h.task, set).sender.id, st.sender_id);
                check_none(h.task, set);
                struct wharf_msg m = get(h.task, notify);
                CHECK_EQ(m.notice, WHARF_NOTICE_SENDER_GONE);
                CHECK_EQ(m.sender.id, st.sender_id);
                CHECK_EQ(m.about, port);
                hub_close(&h);
        }
}

/* A mailbox of another task, to which the hub has a right. */
static wharf_name mailbox(struct hub *h, wharf_task **ret, wharf_name *ret_port)
{
        wharf_name first;
        struct wharf_item got;
        CHECK_EQ(wharf_task_open(NULL, ret), 0);
        CHECK_EQ(wharf_port_new(*ret, NULL, ret_port), 0);
        CHECK_EQ(wharf_right_connect(*ret, h->path, &first), 0);
        struct wharf_item mine = {.kind = WHARF_MAKE_SEND, .name = *ret_port};
        CHECK_EQ(wharf_sendmsg(*ret, first, &MSG(.items = &mine, .n_items = 1), 0), 0);
        CHECK_EQ(wharf_recvmsg(h->task, h->port, &MSG(.items = &got, .cap_items = 1), wharf_in_ms(60000)), 0);
        return got.name;
}

/* What lies in a mailbox: one right. */
static wharf_name take(wharf_task *t, wharf_name port)
{
        struct wharf_item got;
        CHECK_EQ(wharf_recvmsg(t, port, &MSG(.items = &got, .cap_items = 1), wharf_in_ms(60000)), 0);
        return got.name;
}

/*
 * Goal:   whoever is given a right that was not used is the sender that its maker knows of beforehand; a used one that is passed
 *         on is another sender, introduced by the first, which is gone.
 * Method: the right goes from the hub to a, and from there to b; used by a, or not.
 */
TEST(a_right_that_is_passed_on_unused_is_the_same_sender)
{
        for (int used = 0; used < 2; used++) {
                struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
                wharf_task *a, *b;
                wharf_name port_a, port_b, to_a = mailbox(&h, &a, &port_a), to_b = mailbox(&h, &b, &port_b);
                uint64_t ids[2] = {7, 7};
                struct wharf_item give[2] = {{.kind = WHARF_MAKE_SEND, .name = h.port},
                                             {.kind = WHARF_MOVE_SEND, .name = to_b}};
                CHECK_EQ(wharf_sendmsg(h.task, to_a, &MSG(.items = give, .n_items = 2, .sender_ids = ids), 0), 0);
                CHECK_NE(ids[0], 7);
                CHECK_EQ(ids[1], 7); /* of a right that was not made for the message nothing is told */
                CHECK_EQ(wharf_sender_notify(h.task, ids[0], h.port), 0);
                struct wharf_item got[2];
                CHECK_EQ(wharf_recvmsg(a, port_a, &MSG(.items = got, .cap_items = 2), wharf_in_ms(60000)), 0);
                if (used) {
                        CHECK_EQ(wharf_send(a, got[0].name, "a", 1, 0), 0);
                        CHECK_EQ(get(h.task, h.port).sender.id, ids[0]);
                }
                struct wharf_item on = {.kind = WHARF_MOVE_SEND, .name = got[0].name};
                CHECK_EQ(wharf_sendmsg(a, got[1].name, &MSG(.items = &on, .n_items = 1), 0), 0);
                if (used) {
                        struct wharf_msg m = get(h.task, h.port);
                        CHECK_EQ(m.notice, WHARF_NOTICE_SENDER_GONE);
                        CHECK_EQ(m.sender.id, ids[0]);
                } else {
                        check_none(h.task, h.port);
                }
                wharf_name right = take(b, port_b);
                CHECK_EQ(wharf_send(b, right, "b", 1, 0), 0);
                struct wharf_msg m = get(h.task, h.port);
                CHECK_EQ(m.sender.id == ids[0], !used);
                CHECK_EQ(wharf_drop(b, right), 0);
                if (used) {
                        check_none(h.task, h.port);
                } else {
                        m = get(h.task, h.port);
                        CHECK_EQ(m.notice, WHARF_NOTICE_SENDER_GONE);
                        CHECK_EQ(m.sender.id, ids[0]);
                }
                wharf_task_close(a);
                wharf_task_close(b);
                hub_close(&h);
        }
}

static int takes_the_port(void *arg)
{
        wharf_name hub, mailbox;
        wharf_task *t = hub_join(arg, &hub);
        struct wharf_item got;
        CHECK_EQ(wharf_port_new(t, NULL, &mailbox), 0);
        struct wharf_item mine = {.kind = WHARF_MAKE_SEND, .name = mailbox};
        CHECK_EQ(wharf_sendmsg(t, hub, &MSG(.items = &mine, .n_items = 1), WHARF_FOREVER), 0);
        CHECK_EQ(wharf_recvmsg(t, mailbox, &MSG(.items = &got, .cap_items = 1), WHARF_FOREVER), 0);
        char c;
        CHECK_EQ(wharf_recv(t, got.name, &c, 1, NULL, wharf_in_ms(60000)), 1);
        wharf_task_close(t);
        return 0;
}

/* A request ends with its cancellation, with the drop of either port, and when the sender's port moves. Nothing comes then. */
TEST(who_asked_about_a_sender_is_told_no_more)
{
        enum { CANCELLED, TARGET_DROPPED, PORT_DROPPED, PORT_MOVED, WAYS };
        for (int way = 0; way < WAYS; way++) {
                struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
                wharf_name port, right, other, to = WHARF_NONE;
                struct wharf_right_stat st = {.size = sizeof st};
                pid_t pid = way == PORT_MOVED ? test_fork(takes_the_port, &h) : 0;
                if (pid) {
                        struct wharf_item got;
                        CHECK_EQ(wharf_recvmsg(h.task, h.port, &MSG(.items = &got, .cap_items = 1), WHARF_FOREVER), 0);
                        to = got.name;
                }
                CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
                CHECK_EQ(wharf_port_new(h.task, NULL, &other), 0);
                CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
                CHECK_EQ(wharf_right_stat(h.task, right, &st), 0);
                CHECK_EQ(wharf_sender_notify(h.task, st.sender_id, other), 0);
                if (way == CANCELLED) {
                        CHECK_EQ(wharf_sender_notify_cancel(h.task, st.sender_id), 0);
                        CHECK_EQ(wharf_sender_notify_cancel(h.task, st.sender_id), -ENOENT);
                } else if (way == TARGET_DROPPED) {
                        CHECK_EQ(wharf_drop(h.task, other), 0);
                        CHECK_EQ(wharf_port_new(h.task, NULL, &other), 0);
                        CHECK_EQ(wharf_sender_notify(h.task, st.sender_id, other), 0); /* it can be asked anew */
                        CHECK_EQ(wharf_sender_notify_cancel(h.task, st.sender_id), 0);
                } else if (way == PORT_DROPPED) {
                        CHECK_EQ(wharf_drop(h.task, port), 0);
                } else {
                        CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), 0);
                        struct wharf_item give = {.kind = WHARF_MOVE_RECEIVE, .name = port};
                        CHECK_EQ(wharf_sendmsg(h.task, to, &MSG(.items = &give, .n_items = 1), WHARF_FOREVER), 0);
                }
                CHECK_EQ(wharf_sender_notify(h.task, st.sender_id, h.port), way < PORT_DROPPED ? 0 : -ENOENT);
                if (way < PORT_DROPPED)
                        CHECK_EQ(wharf_sender_notify_cancel(h.task, st.sender_id), 0);
                CHECK_EQ(wharf_drop(h.task, right), 0);
                char c;
                CHECK_EQ(wharf_recv(h.task, other, &c, 1, NULL, wharf_in_ms(60000)), -ENOTCONN); /* nothing is due */
                if (pid)
                        CHECK_EQ(test_wait(pid), 0);
                hub_close(&h);
        }
}

TEST(what_cannot_be_asked_about_a_sender)
{
        struct hub h = hub_open(NULL);
        wharf_name right, set;
        struct wharf_right_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        CHECK_EQ(wharf_set_new(h.task, &set), 0);
        CHECK_EQ(wharf_right_stat(h.task, right, &st), 0);
        CHECK_EQ(wharf_sender_notify(h.task, 0, h.port), -ENOENT);
        CHECK_EQ(wharf_sender_notify(h.task, st.sender_id + 1, h.port), -ENOENT);
        CHECK_NE(wharf_why()[0], 0);
        CHECK_EQ(wharf_sender_notify(h.task, st.sender_id, right), -EPERM);
        CHECK_EQ(wharf_sender_notify(h.task, st.sender_id, set), -EPERM);
        CHECK_EQ(wharf_sender_notify(h.task, st.sender_id, 0x7fffffff), -EBADF);
        CHECK_EQ(wharf_sender_notify_cancel(h.task, st.sender_id), -ENOENT);
        hub_close(&h);
}
