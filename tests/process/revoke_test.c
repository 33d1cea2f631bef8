/*
 * Revoking: one sender's right, or a whole branch; in whatever state the right is. And the limit of what one sender may
 * introduce.
 */
#include "hub.h"

#include "task/table.h"

#include <poll.h>
#include <pthread.h>

static int dead(wharf_task *t, wharf_name right)
{
        struct wharf_right_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_right_stat(t, right, &st), 0);
        return st.dead;
}

static uint32_t links_of(wharf_task *t, wharf_name port)
{
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(t, port, &st), 0);
        return st.senders;
}

/* Who it is that the port sees behind a right: its id. The port is empty. */
static uint64_t id_of(wharf_task *t, wharf_name port, wharf_name right)
{
        struct wharf_sender from;
        char c;
        CHECK_EQ(wharf_send(t, right, "?", 1, 0), 0);
        CHECK_EQ(wharf_recv(t, port, &c, 1, &from, 0), 1);
        return from.id;
}

/* A task of its own for the holders, so that they are other holders even within this process. */
struct two {
        struct hub h;
        wharf_task *other;
        wharf_name right; /* of the other, to the hub's port */
        uint64_t id;
};

static struct two two_open(const struct wharf_port_opts *opts)
{
        struct two w = {.h = hub_open(opts)};
        char c;
        struct wharf_sender from;
        CHECK_EQ(wharf_task_open(NULL, &w.other), 0);
        CHECK_EQ(wharf_right_connect(w.other, w.h.path, &w.right), 0);
        CHECK_EQ(wharf_send(w.other, w.right, "?", 1, 0), 0);
        CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, &from, WHARF_FOREVER), 1);
        w.id = from.id;
        return w;
}

static void two_close(struct two *w)
{
        wharf_task_close(w->other);
        hub_close(&w->h);
}

/* ---- one right ---- */

TEST(a_revoked_right_is_a_dead_name_that_says_so)
{
        struct two w = two_open(NULL);
        wharf_name notify;
        CHECK_EQ(wharf_notify(w.other, WHARF_NOTICE_DEAD_NAME, w.right, WHARF_NONE, 0), 0);
        CHECK_EQ(wharf_task_notify(w.other, &notify), 0);
        CHECK_EQ(wharf_revoke(w.h.task, w.h.port, w.id, 0), 1);
        CHECK_EQ(dead(w.other, w.right), -EKEYREVOKED);
        CHECK_EQ(wharf_send(w.other, w.right, "x", 1, WHARF_FOREVER), -EKEYREVOKED);
        CHECK_STR(wharf_strerror(-EKEYREVOKED), "the receiver has revoked this right (EKEYREVOKED)");
        wharf_name copy;
        CHECK_EQ(wharf_right_copy(w.other, w.right, 0, &copy), -EKEYREVOKED);
        char buf[4];
        CHECK_EQ(wharf_call(w.other, w.right, "?", 1, buf, 4, WHARF_FOREVER), -EKEYREVOKED);
        struct wharf_msg m = MSG();
        CHECK_EQ(wharf_recvmsg(w.other, notify, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.notice, WHARF_NOTICE_DEAD_NAME);
        CHECK_EQ(m.about, w.right);
        CHECK_EQ(wharf_drop(w.other, w.right), 0);
        CHECK_EQ(wharf_revoke(w.h.task, w.h.port, w.id, 0), -ENOENT);
        CHECK_EQ(links_of(w.h.task, w.h.port), 0);
        two_close(&w);
}

TEST(revoking_takes_that_right_and_no_other)
{
        struct two w = two_open(NULL);
        wharf_name second, copy;
        char c;
        CHECK_EQ(wharf_right_connect(w.other, w.h.path, &second), 0);
        CHECK_EQ(wharf_right_copy(w.other, w.right, 0, &copy), 0);
        CHECK_EQ(wharf_send(w.other, second, "x", 1, 0), 0);
        CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, WHARF_FOREVER), 1);
        CHECK_EQ(wharf_revoke(w.h.task, w.h.port, w.id, 0), 1);
        CHECK_EQ(wharf_send(w.other, w.right, "x", 1, 0), -EKEYREVOKED);
        CHECK_EQ(wharf_send(w.other, second, "2", 1, 0), 0);
        CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, 0), 1);
        CHECK_EQ(wharf_send(w.other, copy, "c", 1, 0), 0);
        CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, 0), 1);
        CHECK_EQ(c, 'c');
        two_close(&w);
}

/* Cold or in a lane, with rights inside: what was not received is dropped, and its rights with it. */
TEST(unread_messages_of_a_revoked_right_are_dropped_and_their_rights_too)
{
        for (unsigned attached = 0; attached < 2; attached++) {
                struct two w = two_open(NULL);
                wharf_name inner;
                char c;
                CHECK_EQ(wharf_port_new(w.other, NULL, &inner), 0);
                for (unsigned i = 0; attached && i < 40; i++) {
                        CHECK_EQ(wharf_send(w.other, w.right, "x", 1, 0), 0);
                        CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, 0), 1);
                }
                unsigned before = count_fds();
                for (unsigned i = 0; i < 5; i++) {
                        struct wharf_item items[] = {{.kind = WHARF_MAKE_SEND, .name = inner},
                                                     {.kind = WHARF_MAKE_ONCE, .name = inner},
                                                     {.kind = WHARF_COPY_FD, .fd = w.h.listen_fd}};
                        struct wharf_msg m = MSG(.data = BYTES("x"), .len_bytes = 1, .items = items, .n_items = 3);
                        CHECK_EQ(wharf_sendmsg(w.other, w.right, &m, 0), 0);
                }
                /* One is read halfway by the library, and wanted by nobody. */
                struct wharf_msg small = MSG();
                CHECK_EQ(wharf_recvmsg(w.h.task, w.h.port, &small, 0), -EOVERFLOW);
                CHECK_EQ(wharf_revoke(w.h.task, w.h.port, w.id, 0), 1);
                CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, 0), -EAGAIN);
                CHECK_LE(count_fds(),
                         before + 10); /* once all that is to be closed is: the ports that it is of hear of it */
                unsigned unused = 0;
                struct wharf_msg m = MSG();
                while (wharf_recvmsg(w.other, inner, &m, 0) == 0)
                        unused += m.notice == WHARF_NOTICE_ONCE_UNUSED;
                CHECK_EQ(unused, 5);
                CHECK_EQ(links_of(w.other, inner), 0);
                CHECK_LE(count_fds(), before);
                two_close(&w);
        }
}

/* What was received before stays: the message held in place, the rights in it. */
TEST(what_was_received_stays)
{
        struct two w = two_open(NULL);
        static char large[5000];
        char c;
        for (unsigned i = 0; i < 40; i++) {
                CHECK_EQ(wharf_send(w.other, w.right, "x", 1, 0), 0);
                CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, 0), 1);
        }
        pattern_fill(large, sizeof large, 3);
        CHECK_EQ(wharf_send(w.other, w.right, large, sizeof large, 0), 0);
        struct wharf_msg m = MSG(.flags = WHARF_RECV_IN_PLACE);
        CHECK_EQ(wharf_recvmsg(w.h.task, w.h.port, &m, 0), 0);
        CHECK_EQ(wharf_revoke(w.h.task, w.h.port, w.id, 0), 1);
        CHECK_EQ(wharf_drop(w.other, w.right), 0);
        CHECK_MEM(m.data, large, sizeof large);
        wharf_release(w.h.task, &m);
        two_close(&w);
}

/* ---- those who wait ---- */

struct sender {
        wharf_task *task;
        wharf_name right;
        int result;
        _Atomic int sent;
};

static void *send_until_it_fails(void *arg)
{
        struct sender *s = arg;
        while ((s->result = wharf_send(s->task, s->right, "x", 1, WHARF_FOREVER)) == 0)
                s->sent++;
        return NULL;
}

static void *call_it(void *arg)
{
        struct sender *s = arg;
        char buf[8];
        s->result = (int)wharf_call(s->task, s->right, "?", 1, buf, sizeof buf, WHARF_FOREVER);
        return NULL;
}

static void await_full(wharf_task *t, wharf_name port, uint64_t n)
{
        struct wharf_port_stat st = {.size = sizeof st};
        do {
                sched_yield();
                CHECK_EQ(wharf_port_stat(t, port, &st), 0);
        } while (st.queued_messages < n);
}

TEST(a_sender_asleep_for_room_is_told_that_its_right_was_revoked)
{
        struct two w = two_open(PORT_OPTS(.capacity_records = 2));
        struct sender s = {.task = w.other, .right = w.right};
        char c;
        for (unsigned i = 0; i < 10; i++) {
                CHECK_EQ(wharf_send(w.other, w.right, "x", 1, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, WHARF_FOREVER), 1);
        }
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, send_until_it_fails, &s), 0);
        await_full(w.h.task, w.h.port, 2);
        usleep(2000); /* asleep by now, or not: the answer is the same */
        CHECK_EQ(wharf_revoke(w.h.task, w.h.port, w.id, 0), 1);
        pthread_join(thread, NULL);
        CHECK_EQ(s.result, -EKEYREVOKED);
        two_close(&w);
}

/* Whether its request was received by then or not; the server that answers finds nobody there. */
TEST(a_caller_that_waits_is_told_that_its_right_was_revoked)
{
        for (unsigned received = 0; received < 2; received++) {
                struct two w = two_open(NULL);
                struct sender s = {.task = w.other, .right = w.right};
                pthread_t thread;
                struct wharf_msg m = MSG();
                char buf[8];
                m.data = buf;
                m.cap_bytes = sizeof buf;
                CHECK_EQ(pthread_create(&thread, NULL, call_it, &s), 0);
                if (received) {
                        CHECK_EQ(wharf_recvmsg(w.h.task, w.h.port, &m, WHARF_FOREVER), 0);
                } else {
                        struct pollfd p = {.events = POLLIN};
                        CHECK_EQ(wharf_port_fd(w.h.task, w.h.port, &p.fd), 0);
                        CHECK_EQ(poll(&p, 1, -1), 1);
                }
                int r;
                while ((r = wharf_revoke(w.h.task, w.h.port, w.id, 0)) == -ENOENT)
                        ;
                CHECK_EQ(r, 1);
                pthread_join(thread, NULL);
                CHECK_EQ(s.result, -EKEYREVOKED);
                if (received)
                        CHECK_EQ(wharf_reply(w.h.task, m.reply, "late", 4), -EPIPE);
                two_close(&w);
        }
}

struct receiver {
        wharf_task *task;
        wharf_name port;
        uint64_t from;
        int result;
};

static void *receive_it(void *arg)
{
        struct receiver *r = arg;
        struct wharf_msg m = MSG(.from = r->from);
        r->result = wharf_recvmsg(r->task, r->port, &m, WHARF_FOREVER);
        return NULL;
}

/* The last sender is revoked: whoever waits for it, or for anybody, waits for nobody. */
TEST(a_receiver_that_waits_learns_that_nobody_is_left)
{
        for (unsigned chosen = 0; chosen < 2; chosen++) {
                struct hub h = hub_open(NULL);
                wharf_name port, right;
                CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
                CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
                uint64_t id = id_of(h.task, port, right);
                struct receiver r = {.task = h.task, .port = port, .from = chosen ? id : 0};
                pthread_t thread;
                CHECK_EQ(pthread_create(&thread, NULL, receive_it, &r), 0);
                struct wharf_port_stat st = {.size = sizeof st};
                do {
                        sched_yield();
                        CHECK_EQ(wharf_port_stat(h.task, port, &st), 0);
                } while (!st.receivers_waiting);
                CHECK_EQ(wharf_revoke(h.task, port, id, 0), 1);
                pthread_join(thread, NULL);
                CHECK_EQ(r.result, -ENOTCONN);
                hub_close(&h);
        }
}

/* ---- rights that nobody has used yet ---- */

/* One that was adopted and never used; one whose introduction is unread; one in a message that nobody received. */
TEST(a_right_is_revoked_before_its_first_use)
{
        for (int state = 0; state < 3; state++) {
                struct two w = two_open(NULL);
                wharf_name carrier_port, carrier, held;
                char c;
                CHECK_EQ(wharf_port_new(w.other, NULL, &carrier_port), 0);
                CHECK_EQ(wharf_right_new(w.other, carrier_port, &carrier), 0);
                struct wharf_item it = {.kind = WHARF_COPY_SEND, .name = w.right}, got;
                struct wharf_msg m = MSG(.items = &it, .n_items = 1), r = MSG(.items = &got, .cap_items = 1);
                CHECK_EQ(wharf_sendmsg(w.other, carrier, &m, 0), 0);
                if (state != 1) /* the port looks, and has the new link */
                        CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, 0), -EAGAIN);
                if (state == 0)
                        CHECK_EQ(wharf_recvmsg(w.other, carrier_port, &r, 0), 0);
                CHECK_EQ(wharf_revoke(w.h.task, w.h.port, w.id, WHARF_REVOKE_BRANCH), state == 1 ? 1 : 2);
                if (state != 0)
                        CHECK_EQ(wharf_recvmsg(w.other, carrier_port, &r, 0), 0);
                held = got.name;
                CHECK_EQ(wharf_send(w.other, held, "x", 1, WHARF_FOREVER), -EKEYREVOKED);
                CHECK_EQ(dead(w.other, held), -EKEYREVOKED);
                CHECK_EQ(links_of(w.h.task, w.h.port), 0);
                two_close(&w);
        }
}

/*
 * Used for the first time, so that it made a pair of its own, which the owner has not seen: it is told over that one.
 */
TEST(a_right_is_revoked_between_its_rebind_and_the_owners_look)
{
        struct two w = two_open(NULL);
        wharf_name copy;
        char c;
        CHECK_EQ(wharf_right_copy(w.other, w.right, 0, &copy), 0);
        CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_send(w.other, copy, "x", 1, 0), 0); /* REBIND and the message lie unread */
        CHECK_EQ(wharf_revoke(w.h.task, w.h.port, w.id, WHARF_REVOKE_BRANCH), 2);
        CHECK_EQ(wharf_send(w.other, copy, "x", 1, WHARF_FOREVER), -EKEYREVOKED);
        CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, 0), -EAGAIN);
        two_close(&w);
}

/*
 * Goal:   however much lies unread before the last introduction, whoever was introduced is told; and of all that were, the
 *         youngest first.
 * Method: as many copies as the socket holds, unread; the ends of their links are looked at as soon as the sender's is told.
 */
TEST(all_whom_a_revoked_sender_introduced_are_told_before_it)
{
        enum { MANY = 200 };
        struct two w = two_open(PORT_OPTS(.links_max = 1024));
        struct hub h = w.h;
        wharf_name copy[MANY];
        unsigned n = 0;
        char c;
        while (n < MANY && wharf_right_copy(w.other, w.right, 0, &copy[n]) == 0)
                n++;
        CHECK_GE(n, 100);
        CHECK_EQ(wharf_revoke(h.task, h.port, w.id, WHARF_REVOKE_BRANCH), 1); /* the others were no links yet */
        for (unsigned i = 0; i < n; i++)
                CHECK_EQ(dead(w.other, copy[i]), -EKEYREVOKED);
        two_close(&w);
        /* Those that are links: each was told before the one that introduced it. */
        w = two_open(NULL);
        wharf_name chain[4] = {w.right};
        for (unsigned i = 1; i < 4; i++) {
                CHECK_EQ(wharf_right_copy(w.other, chain[i - 1], 0, &chain[i]), 0);
                CHECK_EQ(wharf_send(w.other, chain[i], "?", 1, 0), 0);
                CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, WHARF_FOREVER), 1);
        }
        for (unsigned i = 0; i < 4; i++)
                CHECK_EQ(wharf_notify(w.other, WHARF_NOTICE_DEAD_NAME, chain[i], WHARF_NONE, 0), 0);
        CHECK_EQ(wharf_revoke(w.h.task, w.h.port, w.id, WHARF_REVOKE_BRANCH), 4);
        wharf_name notify;
        CHECK_EQ(wharf_task_notify(w.other, &notify), 0);
        for (unsigned i = 4; i-- > 0;) {
                struct wharf_msg m = MSG();
                CHECK_EQ(wharf_recvmsg(w.other, notify, &m, WHARF_FOREVER), 0);
                CHECK_EQ(m.about, chain[i]);
        }
        two_close(&w);
}

/* Without the branch, whom it introduced lives on, also where the introduction was unread. */
TEST(whom_a_revoked_sender_introduced_lives_on)
{
        struct two w = two_open(NULL);
        wharf_name copy;
        char c;
        CHECK_EQ(wharf_right_copy(w.other, w.right, 0, &copy), 0);
        CHECK_EQ(wharf_revoke(w.h.task, w.h.port, w.id, 0), 1);
        CHECK_EQ(wharf_send(w.other, copy, "c", 1, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, WHARF_FOREVER), 1);
        /* And is still below it: the branch can be revoked by the id of one that is gone. */
        CHECK_EQ(wharf_revoke(w.h.task, w.h.port, w.id, WHARF_REVOKE_BRANCH), 1);
        CHECK_EQ(wharf_send(w.other, copy, "c", 1, WHARF_FOREVER), -EKEYREVOKED);
        two_close(&w);
}

/* ---- branches ---- */

/*
 * Goal:   a branch is all that came through a sender, through whatever hands, whether they are still there or not.
 * Method: a tree of copies of copies; some in the middle are dropped; each branch in turn is revoked in a tree of its
 * own.
 */
TEST(a_branch_is_revoked_whole_also_where_links_in_the_middle_are_gone)
{
        enum { NODES = 15 }; /* node n was introduced by (n - 1) / 2 */
        for (unsigned at = 0; at < NODES; at++) {
                struct two w = two_open(NULL);
                wharf_name right[NODES];
                uint64_t id[NODES];
                char c;
                right[0] = w.right;
                id[0] = w.id;
                for (unsigned n = 1; n < NODES; n++) {
                        struct wharf_sender from;
                        CHECK_EQ(wharf_right_copy(w.other, right[(n - 1) / 2], 0, &right[n]), 0);
                        CHECK_EQ(wharf_send(w.other, right[n], "?", 1, 0), 0);
                        CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, &from, WHARF_FOREVER), 1);
                        id[n] = from.id;
                }
                bool gone[NODES] = {[1] = true, [5] = true, [6] = true, [14] = true};
                for (unsigned n = 0; n < NODES; n++)
                        if (gone[n])
                                CHECK_EQ(wharf_drop(w.other, right[n]), 0);
                CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, 0), -EAGAIN);
                int expect = 0;
                bool below[NODES];
                for (unsigned n = 0; n < NODES; n++) {
                        below[n] = n == at || (n && below[(n - 1) / 2]);
                        expect += below[n] && !gone[n];
                }
                CHECK_EQ(wharf_revoke(w.h.task, w.h.port, id[at], WHARF_REVOKE_BRANCH), expect ? expect : -ENOENT);
                for (unsigned n = 0; n < NODES; n++)
                        if (!gone[n])
                                CHECK_EQ(wharf_send(w.other, right[n], "x", 1, WHARF_FOREVER),
                                         below[n] ? -EKEYREVOKED : 0);
                two_close(&w);
        }
}

/* Moved along, used by each: every hand before is gone, and the chain still holds; beyond its limit the oldest goes. */
TEST(a_right_that_went_through_many_hands_is_below_those_before)
{
        struct two w = two_open(NULL);
        wharf_name port, carrier, right = w.right;
        uint64_t id[200];
        char c;
        CHECK_EQ(wharf_port_new(w.other, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(w.other, port, &carrier), 0);
        id[0] = w.id;
        for (unsigned i = 1; i < 200; i++) {
                struct wharf_item it = {.kind = WHARF_MOVE_SEND, .name = right}, got;
                struct wharf_msg m = MSG(.items = &it, .n_items = 1), r = MSG(.items = &got, .cap_items = 1);
                struct wharf_sender from;
                CHECK_EQ(wharf_sendmsg(w.other, carrier, &m, 0), 0);
                CHECK_EQ(wharf_recvmsg(w.other, port, &r, 0), 0);
                right = got.name;
                CHECK_EQ(wharf_send(w.other, right, "x", 1, 0), 0);
                CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, &from, WHARF_FOREVER), 1);
                id[i] = from.id;
        }
        CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, 0), -EAGAIN);
        CHECK_EQ(links_of(w.h.task, w.h.port), 1);
        CHECK_EQ(wharf_revoke(w.h.task, w.h.port, id[0], WHARF_REVOKE_BRANCH), -ENOENT);
        CHECK_EQ(wharf_revoke(w.h.task, w.h.port, id[199 - 50], WHARF_REVOKE_BRANCH), 1);
        CHECK_EQ(wharf_send(w.other, right, "x", 1, WHARF_FOREVER), -EKEYREVOKED);
        two_close(&w);
}

/* Between real processes: what a client gave to others ends with it. */
static int hand_out(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        char buf[8];
        wharf_name copies[10];
        CHECK_EQ(wharf_send(t, hub, "root", 4, WHARF_FOREVER), 0);
        for (unsigned i = 0; i < 10; i++) {
                CHECK_EQ(wharf_right_copy(t, i < 5 ? hub : copies[i - 5], WHARF_FOREVER, &copies[i]), 0);
                CHECK_EQ(wharf_send(t, copies[i], "copy", 4, WHARF_FOREVER), 0);
        }
        CHECK_EQ(wharf_call(t, hub, "?", 1, buf, sizeof buf, WHARF_FOREVER), -EKEYREVOKED);
        for (unsigned i = 0; i < 10; i++) {
                int r;
                while ((r = wharf_send(t, copies[i], "x", 1, WHARF_FOREVER)) == 0)
                        ;
                CHECK_EQ(r, -EKEYREVOKED);
        }
        wharf_task_close(t);
        return 0;
}

TEST(a_client_and_all_it_gave_away_are_revoked)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(hand_out, &h);
        uint64_t root = 0;
        for (unsigned n = 0; n < 12; n++) {
                char buf[8];
                struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(m.sender.pid, pid);
                if (m.len_bytes == 4 && memcmp(buf, "root", 4) == 0)
                        root = m.sender.id;
        }
        CHECK_EQ(wharf_revoke(h.task, h.port, root, WHARF_REVOKE_BRANCH), 11);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* ---- what one sender may introduce ---- */

TEST(one_sender_introduces_so_many_and_leaves_room_for_others)
{
        struct two w = two_open(PORT_OPTS(.links_max = 20, .introduced_max = 4));
        wharf_name copy[8], deep, other;
        char c;
        /* Some directly and some through those: all count. */
        for (unsigned i = 0; i < 5; i++)
                CHECK_EQ(wharf_right_copy(w.other, i < 3 ? w.right : copy[i - 3], 0, &copy[i]), 0);
        CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, 0), -EAGAIN);
        for (unsigned i = 0; i < 5; i++) { /* the fifth was introduced by copy[1], and waits in the queue of that */
                char mine = (char)('0' + i);
                CHECK_EQ(wharf_send(w.other, copy[i], &mine, 1, 0), 0);
                CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, 0), i < 4 && i != 1 ? 1 : -EAGAIN);
        }
        /* The first of them, and everybody else, go on as ever. */
        CHECK_EQ(wharf_send(w.other, w.right, "x", 1, 0), 0);
        CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, 0), 1);
        for (unsigned i = 0; i < 10; i++) {
                CHECK_EQ(wharf_right_connect(w.other, w.h.path, &other), 0);
                CHECK_EQ(wharf_send(w.other, other, "x", 1, 0), 0);
                CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, WHARF_FOREVER), 1);
        }
        /* One that goes makes room. */
        CHECK_EQ(wharf_drop(w.other, copy[3]), 0);
        char both[2] = {0};
        for (unsigned i = 0; i < 2; i++)
                CHECK_EQ(wharf_recv(w.h.task, w.h.port, &both[i], 1, NULL, WHARF_FOREVER), 1);
        CHECK_EQ(both[0] + both[1], '1' + '4');
        CHECK_EQ(wharf_drop(w.other, copy[2]), 0);
        CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_right_copy(w.other, copy[0], 0, &deep), 0);
        CHECK_EQ(wharf_send(w.other, deep, "x", 1, 0), 0);
        CHECK_EQ(wharf_recv(w.h.task, w.h.port, &c, 1, NULL, WHARF_FOREVER), 1);
        two_close(&w);
}

TEST(what_cannot_be_revoked)
{
        struct two w = two_open(NULL);
        CHECK_EQ(wharf_revoke(w.h.task, w.h.port, w.id + 12345, 0), -ENOENT);
        CHECK_EQ(wharf_revoke(w.h.task, w.h.port, w.id + 12345, WHARF_REVOKE_BRANCH), -ENOENT);
        CHECK_EQ(wharf_revoke(w.h.task, w.h.port, w.id, 2), -EINVAL);
        CHECK_EQ(wharf_revoke(w.h.task, 0x7fffffff, w.id, 0), -EBADF);
        CHECK_EQ(wharf_revoke(w.other, w.right, w.id, 0), -EPERM);
        CHECK_EQ(wharf_send(w.other, w.right, "x", 1, 0), 0);
        two_close(&w);
}

/* A send-once right, too; its port asked for it, and is not told. */
TEST(a_once_right_is_revoked)
{
        struct hub h = hub_open(NULL);
        wharf_name once, gone;
        struct wharf_msg m = MSG();
        CHECK_EQ(wharf_once_new(h.task, h.port, &gone), 0);
        CHECK_EQ(wharf_drop(h.task, gone), 0);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), 0);
        CHECK_EQ(m.notice, WHARF_NOTICE_ONCE_UNUSED);
        CHECK_EQ(wharf_once_new(h.task, h.port, &once), 0);
        /* The id is known from the notice of an earlier one: it is the next link, under the next name. */
        CHECK_EQ(wharf_revoke(h.task, h.port, m.sender.id, 0), -ENOENT);
        CHECK_EQ(wharf_revoke(h.task, h.port, m.sender.id + (1 << WH_TABLE_INDEX_BITS) + 1, 0), 1);
        CHECK_EQ(wharf_send(h.task, once, "x", 1, 0), -EKEYREVOKED);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
        hub_close(&h);
}
