/*
 * Calls whose end is told at a port: nobody waits for them, and whoever serves its own port hears of replies there, whichever way
 * they come.
 */
#include "hub.h"

#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>

enum { LARGE = 300000 };

static struct wharf_msg next(wharf_task *t, wharf_name from)
{
        struct wharf_msg m = MSG();
        CHECK_EQ(wharf_recvmsg(t, from, &m, wharf_in_ms(60000)), 0);
        return m;
}

static void check_none(wharf_task *t, wharf_name from)
{
        CHECK_EQ(wharf_recvmsg(t, from, &MSG(), 0), -EAGAIN);
}

static uint32_t begin(wharf_task *t, wharf_name right, const char *what, wharf_name port)
{
        uint32_t call;
        CHECK_EQ(wharf_call_start(t, right, &MSG(.data = BYTES(what), .len_bytes = strlen(what)), port,
                                  wharf_in_ms(60000), &call),
                 0);
        return call;
}

/* The reply is there: getting it takes no wait. */
static void check_reply(wharf_task *t, wharf_name right, uint32_t call, const char *what)
{
        static char text[LARGE];
        struct wharf_msg a = MSG(.data = text, .cap_bytes = sizeof text);
        CHECK_EQ(wharf_call_finish(t, right, call, &a, 0), 0);
        if (!strcmp(what, "large")) {
                CHECK_EQ(a.len_bytes, LARGE);
                CHECK_EQ(text[LARGE - 1], 'L');
        } else {
                CHECK_EQ(a.len_bytes, strlen(what));
                CHECK_EQ(memcmp(text, what, a.len_bytes), 0);
        }
}

/*
 * A server for these tests. It answers with what it was asked, "large" with many bytes; and does with "drop", "die", "pass" (the
 * next call is answered by a child) what they say. "keep" is answered when the next one that is not kept was.
 */
static int serves(void *arg)
{
        wharf_name hub, port, kept[16];
        wharf_task *t = hub_join(arg, &hub);
        unsigned n_kept = 0;
        static char large[LARGE];
        memset(large, 'L', sizeof large);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        struct wharf_item mine = {.kind = WHARF_MAKE_SEND, .name = port};
        CHECK_EQ(wharf_sendmsg(t, hub, &MSG(.items = &mine, .n_items = 1), WHARF_FOREVER), 0);
        for (;;) {
                char text[16] = "";
                struct wharf_msg m = MSG(.data = text, .cap_bytes = sizeof text - 1);
                CHECK_EQ(wharf_recvmsg(t, port, &m, WHARF_FOREVER), 0);
                if (!strcmp(text, "quit"))
                        break;
                if (m.reply == WHARF_NONE)
                        continue;
                if (!strcmp(text, "die"))
                        _exit(0);
                if (!strcmp(text, "drop")) {
                        CHECK_EQ(wharf_drop(t, m.reply), 0);
                } else if (!strcmp(text, "keep")) {
                        kept[n_kept++] = m.reply;
                        continue;
                } else if (!strcmp(text, "large")) {
                        CHECK_EQ(wharf_reply(t, m.reply, large, sizeof large), 0);
                } else if (!strcmp(text, "pass")) { /* to the hub, which answers in its own time */
                        struct wharf_item it = {.kind = WHARF_MOVE_REPLY, .name = m.reply};
                        CHECK_EQ(wharf_sendmsg(t, hub, &MSG(.items = &it, .n_items = 1), WHARF_FOREVER), 0);
                } else {
                        CHECK_EQ(wharf_reply(t, m.reply, text, strlen(text)), 0);
                }
                while (n_kept)
                        CHECK_EQ(wharf_reply(t, kept[--n_kept], "kept", 4), 0);
        }
        wharf_task_close(t);
        return 0;
}

static wharf_name serve(struct hub *h, pid_t *ret)
{
        struct wharf_item got;
        *ret = test_fork(serves, h);
        CHECK_EQ(wharf_recvmsg(h->task, h->port, &MSG(.items = &got, .cap_items = 1), WHARF_FOREVER), 0);
        return got.name;
}

/*
 * Goal:   each of many calls is told once, at its port, with the right and the number that it has, in the order in which replies come.
 * Method: a fresh right, one with lanes, and one whose replies are too large for a lane; calls that are answered in another order.
 */
TEST(the_end_of_a_call_is_told_at_a_port)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        pid_t pid;
        wharf_name right = serve(&h, &pid), port;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        for (int i = 0; i < 100; i++) {
                const char *what = i % 10 == 9 ? "large" : "hello";
                uint32_t call = begin(h.task, right, what, port);
                struct wharf_msg m = next(h.task, port);
                CHECK_EQ(m.notice, WHARF_NOTICE_REPLY);
                CHECK_EQ(m.about, right);
                CHECK_EQ(m.call, call);
                CHECK_EQ(m.error, 0);
                CHECK_EQ(m.port, port);
                check_reply(h.task, right, call, what);
                CHECK_EQ(wharf_recvmsg(h.task, port, &MSG(), 0), -ENOTCONN); /* nothing more is due there */
        }
        uint32_t a = begin(h.task, right, "keep", port), b = begin(h.task, right, "keep", h.port);
        check_none(h.task, port);
        uint32_t c = begin(h.task, right, "now", port);
        CHECK_EQ(next(h.task, port).call, c);
        CHECK_EQ(next(h.task, h.port).call, b);
        CHECK_EQ(next(h.task, port).call, a);
        check_reply(h.task, right, a, "kept");
        check_reply(h.task, right, b, "kept");
        check_reply(h.task, right, c, "now");
        CHECK_EQ(wharf_send(h.task, right, "quit", 4, WHARF_FOREVER), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* A call that gets no reply is told as well, with the error that finishing it returns. */
TEST(a_call_without_a_reply_is_told_with_its_error)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        pid_t pid;
        wharf_name right = serve(&h, &pid), port;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        for (int warm = 0; warm < 2; warm++) {
                uint32_t call = begin(h.task, right, "drop", port);
                struct wharf_msg m = next(h.task, port);
                CHECK_EQ(m.call, call);
                CHECK_EQ(m.error, -ECANCELED);
                CHECK_EQ(wharf_call_finish(h.task, right, call, &MSG(), 0), -ECANCELED);
                for (int i = 0; i < 20; i++) {
                        call = begin(h.task, right, "x", port);
                        CHECK_EQ(next(h.task, port).call, call);
                        check_reply(h.task, right, call, "x");
                }
        }
        uint32_t kept = begin(h.task, right, "keep", port), call = begin(h.task, right, "die", port);
        CHECK_EQ(test_wait(pid), 0);
        unsigned seen = 0;
        for (int i = 0; i < 2; i++) {
                struct wharf_msg m = next(h.task, port);
                CHECK_EQ(m.notice, WHARF_NOTICE_REPLY);
                CHECK_EQ(m.error, -ECONNRESET);
                seen |= m.call == kept ? 1 : m.call == call ? 2 : 4;
        }
        CHECK_EQ(seen, 3);
        CHECK_EQ(wharf_call_finish(h.task, right, kept, &MSG(), 0), -ECONNRESET);
        CHECK_EQ(wharf_call_finish(h.task, right, call, &MSG(), 0), -ECONNRESET);
        check_none(h.task, port);
        hub_close(&h);
}

/* A reply right that was passed on answers by a socket of its own; one whose port has moved likewise. */
TEST(a_reply_that_comes_by_another_way_is_told)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        pid_t pid;
        wharf_name right = serve(&h, &pid), port;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        for (int i = 0; i < 3; i++) {
                struct wharf_item got;
                uint32_t call = begin(h.task, right, "pass", port);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &MSG(.items = &got, .cap_items = 1), wharf_in_ms(60000)), 0);
                CHECK_EQ(got.kind, WHARF_GOT_REPLY);
                check_none(h.task, port);
                CHECK_EQ(i < 2 ? wharf_reply(h.task, got.name, "passed", 6) : wharf_drop(h.task, got.name), 0);
                struct wharf_msg m = next(h.task, port);
                CHECK_EQ(m.call, call);
                CHECK_EQ(m.error, i < 2 ? 0 : -ECANCELED);
                if (i < 2)
                        check_reply(h.task, right, call, "passed");
                else
                        CHECK_EQ(wharf_call_finish(h.task, right, call, &MSG(), 0), -ECANCELED);
        }
        CHECK_EQ(wharf_send(h.task, right, "quit", 4, WHARF_FOREVER), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/*
 * Goal:   of a call that is finished or cancelled, whose right or port is gone, nothing is told; the call itself is as it was.
 * Method: before the reply is there, and after it was told and not received.
 */
TEST(what_nobody_waits_for_any_more_is_not_told)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        pid_t pid;
        wharf_name right = serve(&h, &pid), port;
        for (int there = 0; there < 2; there++) {
                CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
                uint32_t call[3];
                for (int i = 0; i < 3; i++)
                        call[i] = begin(h.task, right, there ? "x" : "keep", port);
                if (there)
                        while (wharf_call_finish(h.task, right, call[0], &MSG(), 0) == -EAGAIN)
                                usleep(1000); /* too large for no room: it is outstanding, and the others are there by then */
                CHECK_EQ(wharf_call_cancel(h.task, right, call[0]), 0);
                CHECK_EQ(wharf_call_cancel(h.task, right, call[1]), 0);
                uint32_t last = begin(h.task, right, "x", WHARF_NONE);
                char c;
                CHECK_EQ(wharf_call_finish(h.task, right, last, &MSG(.data = &c, .cap_bytes = 1), wharf_in_ms(60000)),
                         0);
                CHECK_EQ(next(h.task, port).call, call[2]);
                check_none(h.task, port);
                check_reply(h.task, right, call[2], there ? "x" : "kept");
                /* The port goes; the call stays. */
                uint32_t stays = begin(h.task, right, "x", port);
                CHECK_EQ(wharf_drop(h.task, port), 0);
                CHECK_EQ(wharf_call_finish(h.task, right, stays, &MSG(.data = &c, .cap_bytes = 1), wharf_in_ms(60000)),
                         0);
        }
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        begin(h.task, right, "keep", port);
        CHECK_EQ(wharf_send(h.task, right, "quit", 4, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_drop(h.task, right), 0);
        CHECK_EQ(wharf_recvmsg(h.task, port, &MSG(), wharf_in_ms(60000)), -ENOTCONN);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

struct waiting {
        struct hub *hub;
        wharf_name right;
        int rounds;
};

static void *calls_and_waits(void *arg)
{
        struct waiting *w = arg;
        for (int i = 0; i < w->rounds; i++) {
                char c;
                CHECK_EQ(wharf_call(w->hub->task, w->right, "y", 1, &c, 1, wharf_in_ms(60000)), 1);
        }
        return NULL;
}

/* Threads that wait for replies of their own on the same right, and read the link, tell of those as well. */
TEST(a_reply_that_another_thread_reads_is_told)
{
        enum { ROUNDS = 3000 };
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        pid_t pid;
        struct waiting w = {.hub = &h, .rounds = ROUNDS};
        w.right = serve(&h, &pid);
        wharf_name port, set;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_set_new(h.task, &set), 0);
        pthread_t thread[2];
        for (int i = 0; i < 2; i++)
                CHECK_EQ(pthread_create(&thread[i], NULL, calls_and_waits, &w), 0);
        for (int i = 0; i < ROUNDS; i++) {
                if (i == ROUNDS / 2) /* and what is asked for goes along with the port */
                        CHECK_EQ(wharf_set_add(h.task, set, port), 0);
                uint32_t call = begin(h.task, w.right, "x", port);
                CHECK_EQ(next(h.task, i < ROUNDS / 2 ? port : set).call, call);
                check_reply(h.task, w.right, call, "x");
        }
        for (int i = 0; i < 2; i++)
                CHECK_EQ(pthread_join(thread[i], NULL), 0);
        CHECK_EQ(wharf_send(h.task, w.right, "quit", 4, WHARF_FOREVER), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* The descriptor of the port tells an event loop of it. */
TEST(a_reply_makes_the_descriptor_of_its_port_readable)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        pid_t pid;
        wharf_name right = serve(&h, &pid), port;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        struct pollfd p = {.events = POLLIN};
        CHECK_EQ(wharf_port_fd(h.task, port, &p.fd), 0);
        for (int i = 0; i < 30; i++) {
                uint32_t call = begin(h.task, right, "keep", port);
                while (poll(&p, 1, 0) == 1)
                        check_none(h.task, port);
                uint32_t now = begin(h.task, right, "x", WHARF_NONE);
                CHECK_EQ(poll(&p, 1, 60000), 1);
                struct wharf_msg m = MSG();
                int r;
                while ((r = wharf_recvmsg(h.task, port, &m, 0)) == -EAGAIN)
                        CHECK_EQ(poll(&p, 1, 60000), 1);
                CHECK_EQ(r, 0);
                CHECK_EQ(m.call, call);
                check_reply(h.task, right, call, "kept");
                char c;
                CHECK_EQ(wharf_call_finish(h.task, right, now, &MSG(.data = &c, .cap_bytes = 1), wharf_in_ms(60000)),
                         0);
        }
        CHECK_EQ(wharf_send(h.task, right, "quit", 4, WHARF_FOREVER), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

TEST(where_the_end_of_a_call_cannot_be_told)
{
        struct hub h = hub_open(NULL);
        wharf_name port, right;
        uint32_t call;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        CHECK_EQ(wharf_call_start(h.task, right, &MSG(), right, 0, &call), -EPERM);
        CHECK_EQ(wharf_call_start(h.task, right, &MSG(), 0x7fffffff, 0, &call), -EBADF);
        CHECK_NE(wharf_why()[0], 0);
        CHECK_EQ(wharf_recvmsg(h.task, port, &MSG(), 0), -EAGAIN); /* and no request went */
        hub_close(&h);
}

/*
 * Goal:   a reply that some other use of the right has read is told.
 * Method: one task. The port has no bound, so that nothing is said of what was taken; the reply is there when something
 *         else is sent over the same right.
 */
TEST(a_reply_that_a_send_has_read_is_told)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS, .capacity_records = WHARF_UNBOUNDED));
        wharf_name right, port;
        uint32_t call;
        char c;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        CHECK_EQ(wharf_call_start(h.task, right, &MSG(.data = BYTES("q"), .len_bytes = 1), port, 0, &call), 0);
        struct wharf_msg q = MSG(.data = &c, .cap_bytes = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &q, 0), 0);
        CHECK_EQ(wharf_reply(h.task, q.reply, "a", 1), 0);
        usleep(1000); /* more than the 100 us of wh_link_heed_cold() */
        CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), 0);
        struct wharf_msg n = MSG();
        CHECK_EQ(wharf_recvmsg(h.task, port, &n, wharf_in_ms(2000)), 0);
        CHECK_EQ(n.notice, WHARF_NOTICE_REPLY);
        CHECK_EQ(n.call, call);
        hub_close(&h);
}

static int answers_with_a_descriptor(void *arg)
{
        wharf_name hub, port;
        wharf_task *t = hub_join(arg, &hub);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        struct wharf_item mine = {.kind = WHARF_MAKE_SEND, .name = port}, fd = {.kind = WHARF_COPY_FD, .fd = 0};
        CHECK_EQ(wharf_sendmsg(t, hub, &MSG(.items = &mine, .n_items = 1), WHARF_FOREVER), 0);
        struct wharf_msg q = MSG();
        CHECK_EQ(wharf_recvmsg(t, port, &q, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_replymsg(t, q.reply, &MSG(.items = &fd, .n_items = 1)), 0);
        CHECK_EQ(wharf_recvmsg(t, port, &q, wharf_in_ms(60000)), 0); /* stays: its death would be told */
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   a reply for whose descriptors there is no room is told of as that; it can be had when there is room, and nothing spins.
 * Method: RLIMIT_NOFILE at what is open, and a reply with a descriptor; then the limit goes up again.
 */
TEST(a_reply_that_there_are_no_descriptors_for_is_told_of)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        pid_t pid = test_fork(answers_with_a_descriptor, &h);
        struct wharf_item got;
        wharf_name port;
        uint32_t call;
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &MSG(.items = &got, .cap_items = 1), WHARF_FOREVER), 0);
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_call_start(h.task, got.name, &MSG(), port, 0, &call), 0);
        struct rlimit was, none;
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &was), 0);
        none = was;
        int first = dup(0);
        none.rlim_cur = (rlim_t)first;
        close(first);
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
        struct wharf_msg n = next(h.task, port);
        CHECK_EQ(n.call, call);
        CHECK_EQ(n.error, -EMFILE);
        CHECK_EQ(wharf_recvmsg(h.task, port, &n, wharf_in_ms(50)), -ETIMEDOUT); /* once */
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &was), 0);
        struct wharf_item fd;
        CHECK_EQ(wharf_call_finish(h.task, got.name, call, &MSG(.items = &fd, .cap_items = 1), wharf_in_ms(60000)), 0);
        CHECK_EQ(fd.kind, WHARF_GOT_FD);
        close(fd.fd);
        CHECK_EQ(wharf_send(h.task, got.name, "", 0, 0), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}
