/*
 * Places: what was sent and acknowledged is received, whatever limit the link of its sender finds at the port. A limit
 * that ends when a link does is waited for, and others go on meanwhile.
 */
#include "domain.h"
#include "hub.h"
#include "wharf/names.h"

#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>

static bool readable(int fd)
{
        return poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0) == 1;
}

/* A short sender: one message over a right of its own, which is gone then. */
static void send_and_go(wharf_task *t, wharf_name introducer, const char *text)
{
        wharf_name copy;
        CHECK_EQ(wharf_right_copy(t, introducer, WHARF_FOREVER, &copy), 0);
        CHECK_EQ(wharf_send(t, copy, text, strlen(text), 0), 0);
        CHECK_EQ(wharf_drop(t, copy), 0);
}

static void receive_text(struct hub *h, wharf_name from, const char *text)
{
        char buf[32] = {0};
        CHECK_EQ(wharf_recv(h->task, from, buf, sizeof buf - 1, NULL, wharf_in_ms(20000)), (ssize_t)strlen(text));
        CHECK_STR(buf, text);
}

/* ---- the places of one port ---- */

/*
 * Goal:   ten messages that were acknowledged are ten that are received, though the port takes four links.
 * Method: each comes over a right of its own from wharfd, which is dropped at once; nobody receives meanwhile.
 */
TEST(ten_look_ups_send_to_a_port_of_four_links)
{
        test_domain();
        struct hub h = hub_open(PORT_OPTS(.links_max = 4, .flags = WHARF_PORT_STAYS));
        wharf_task *t;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_register(h.task, "few", h.port), 0);
        for (char i = '0'; i <= '9'; i++) {
                wharf_name right;
                CHECK_EQ(wharf_lookup(t, "few", WHARF_FOREVER, &right), 0);
                CHECK_EQ(wharf_send(t, right, &i, 1, 0), 0);
                CHECK_EQ(wharf_drop(t, right), 0);
        }
        unsigned seen = 0;
        for (unsigned i = 0; i < 10; i++) {
                char c = 0;
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, wharf_in_ms(20000)), 1);
                seen |= 1u << (c - '0');
        }
        CHECK_EQ(seen, 0x3ff);
        CHECK_EQ(wharf_recv(h.task, h.port, NULL, 0, NULL, 0), -EAGAIN);
        wharf_task_close(t);
        hub_close(&h);
}

/* wharfd never waits for the port of somebody who does not read: others find their names, whatever waits there. */
TEST(a_full_port_does_not_keep_wharfd_from_others)
{
        test_domain();
        struct hub h = hub_open(PORT_OPTS(.links_max = 2, .flags = WHARF_PORT_STAYS));
        struct hub other = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        wharf_name right;
        CHECK_EQ(wharf_register(h.task, "full", h.port), 0);
        CHECK_EQ(wharf_register(other.task, "other", other.port), 0);
        wharf_task *t;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        int r;
        unsigned n = 0;
        while ((r = wharf_lookup(t, "full", 0, &right)) == 0 && n++ < 2000)
                CHECK_EQ(wharf_drop(t, right), 0);
        CHECK_EQ(r, -EAGAIN);
        CHECK_EQ(wharf_lookup(t, "other", 0, &right), 0);
        CHECK_EQ(wharf_send(t, right, "x", 1, 0), 0);
        receive_text(&other, other.port, "x");
        CHECK_EQ(wharf_recv(h.task, h.port, NULL, 0, NULL, 0), -EAGAIN); /* has looked: all who came are gone */
        CHECK_EQ(wharf_lookup(t, "full", WHARF_FOREVER, &right), 0);
        CHECK_EQ(wharf_send(t, right, "y", 1, 0), 0);
        receive_text(&h, h.port, "y");
        wharf_task_close(t);
        hub_close(&other);
        hub_close(&h);
}

/* The descriptor says nothing of what waits, and says it once there is a place; the same in a set. */
TEST(what_waits_is_not_announced_before_its_place_is_there)
{
        for (int in_set = 0; in_set < 2; in_set++) {
                struct hub h = hub_open(PORT_OPTS(.links_max = 2));
                wharf_name a, b, d, from = h.port;
                int fd;
                if (in_set) {
                        CHECK_EQ(wharf_set_new(h.task, &from), 0);
                        CHECK_EQ(wharf_set_add(h.task, from, h.port), 0);
                }
                CHECK_EQ(wharf_right_new(h.task, h.port, &a), 0);
                CHECK_EQ(wharf_right_new(h.task, h.port, &b), 0);
                CHECK_EQ(wharf_port_fd(h.task, from, &fd), 0);
                CHECK_EQ(wharf_recv(h.task, from, NULL, 0, NULL, 0), -EAGAIN);
                CHECK_EQ(wharf_right_copy(h.task, a, 0, &d), 0);
                CHECK_EQ(wharf_send(h.task, d, "waits", 5, 0), 0);
                while (readable(fd))
                        CHECK_EQ(wharf_recv(h.task, from, NULL, 0, NULL, 0), -EAGAIN);
                CHECK_EQ(wharf_send(h.task, a, "behind", 6, 0), 0);
                for (int i = 0; readable(fd); i++) { /* a look for nothing, perhaps; not for ever */
                        CHECK_EQ(wharf_recv(h.task, from, NULL, 0, NULL, 0), -EAGAIN);
                        CHECK_LE(i, 2);
                }
                CHECK_EQ(wharf_drop(h.task, b), 0);
                bool last = false;
                for (char buf[8]; !last;) { /* both come, as poll() says */
                        CHECK_EQ(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 20000), 1);
                        ssize_t n = wharf_recv(h.task, from, buf, sizeof buf, NULL, 0);
                        CHECK(n == 5 || n == 6 || n == -EAGAIN);
                        static int got;
                        got += n > 0;
                        last = got == 2 * (in_set + 1);
                }
                hub_close(&h);
        }
}

/* A thread that sleeps in a receive is woken when a place is free, and so is what came by connect(). */
struct sleeper {
        struct hub *h;
        ssize_t r;
        char buf[8];
};

static void *sleep_in_receive(void *arg)
{
        struct sleeper *s = arg;
        s->r = wharf_recv(s->h->task, s->h->port, s->buf, sizeof s->buf, NULL, wharf_in_ms(20000));
        return NULL;
}

TEST(a_connection_waits_for_a_place_with_its_message)
{
        struct hub h = hub_open(PORT_OPTS(.links_max = 1));
        wharf_task *t;
        wharf_name first, second;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_right_connect(t, h.path, &first), 0);
        CHECK_EQ(wharf_send(t, first, "first", 5, 0), 0);
        receive_text(&h, h.port, "first");
        CHECK_EQ(wharf_right_connect(t, h.path, &second), 0);
        CHECK_EQ(wharf_send(t, second, "second", 6, 0), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, NULL, 0, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_send(t, first, "again", 5, 0), 0);
        receive_text(&h, h.port, "again");
        struct sleeper s = {.h = &h};
        pthread_t th;
        CHECK_EQ(pthread_create(&th, NULL, sleep_in_receive, &s), 0);
        CHECK_EQ(wharf_drop(t, second), 0); /* its message is there all the same */
        CHECK_EQ(wharf_drop(t, first), 0);
        CHECK_EQ(pthread_join(th, NULL), 0);
        CHECK_EQ(s.r, 6);
        CHECK_MEM(s.buf, "second", 6);
        wharf_task_close(t);
        hub_close(&h);
}

/* An introducer whose messages travel in a lane: what is behind the introduction comes after it, descriptors too. */
TEST(what_an_introducer_sends_behind_it_comes_in_order)
{
        struct hub h = hub_open(PORT_OPTS(.links_max = 2));
        wharf_name a, b, d;
        CHECK_EQ(wharf_right_new(h.task, h.port, &a), 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &b), 0);
        int sent = 0, from_d = 0;
        char c;
        for (; sent < 40; sent++) { /* a lane after sixteen */
                CHECK_EQ(wharf_send(h.task, a, &sent, sizeof sent, 0), 0);
                if (sent < 20)
                        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), -EOVERFLOW);
        }
        CHECK_EQ(wharf_right_copy(h.task, a, 0, &d), 0);
        CHECK_EQ(wharf_send(h.task, d, "from d", 6, 0), 0);
        for (; sent < 60; sent++) {
                struct wharf_item item = {.kind = WHARF_COPY_FD, .fd = 0};
                struct wharf_msg m =
                        MSG(.data = &sent, .len_bytes = sizeof sent, .items = &item, .n_items = (uint32_t)sent % 2);
                CHECK_EQ(wharf_sendmsg(h.task, a, &m, 0), 0);
        }
        int got, next = 0;
        for (; wharf_recv(h.task, h.port, &got, sizeof got, NULL, 0) == sizeof got; next++)
                CHECK_EQ(got, next);
        CHECK_GE(next, 40); /* all that was sent before it */
        CHECK_LE(next, 41);
        CHECK_EQ(wharf_drop(h.task, b), 0);
        while (next < sent || !from_d) {
                char buf[8];
                ssize_t n = wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER);
                from_d += n == 6;
                if (n == 6)
                        continue;
                CHECK_EQ(n, sizeof got);
                CHECK_MEM(buf, &next, sizeof next);
                next++;
        }
        CHECK_EQ(from_d, 1);
        hub_close(&h);
}

/* The owner revokes a sender: whom it introduced and has its place stays, who waited behind it is refused and told. */
TEST(who_waits_behind_a_sender_that_is_revoked)
{
        struct hub h = hub_open(PORT_OPTS(.links_max = 2));
        wharf_name a, b, d[2];
        struct wharf_sender s;
        CHECK_EQ(wharf_right_new(h.task, h.port, &a), 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &b), 0);
        CHECK_EQ(wharf_send(h.task, a, "", 0, 0), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, NULL, 0, &s, 0), 0);
        for (int i = 0; i < 2; i++)
                CHECK_EQ(wharf_right_copy(h.task, a, 0, &d[i]), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, NULL, 0, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_revoke(h.task, h.port, s.id, 0), 1);
        CHECK_EQ(wharf_send(h.task, a, "", 0, 0), -EKEYREVOKED);
        CHECK_EQ(wharf_send(h.task, d[0], "0", 1, 0), 0); /* it got the place that was the revoked one's */
        receive_text(&h, h.port, "0");
        CHECK_EQ(wharf_send(h.task, d[1], "1", 1, 0), -EMLINK);
        CHECK(strstr(wharf_why(), "(links_max): 2")); /* which limit, and how much it is */
        CHECK_EQ(wharf_send(h.task, b, "b", 1, 0), 0);
        receive_text(&h, h.port, "b");
        hub_close(&h);
}

/* ---- who is gone ---- */

/* Where the only link is that of the introducer, its end makes room for those whom it introduced, one after another. */
TEST(an_introducer_that_is_gone_gives_its_place)
{
        struct hub h = hub_open(NULL);
        wharf_name one, right, sub;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.links_max = 1), &one), 0);
        CHECK_EQ(wharf_right_new(h.task, one, &right), 0);
        for (char i = 'a'; i <= 'e'; i++)
                send_and_go(h.task, right, (char[2]){i});
        CHECK_EQ(wharf_recv(h.task, one, NULL, 0, NULL, 0), -EAGAIN);
        /* One of them introduces somebody as well, and goes. */
        CHECK_EQ(wharf_right_copy(h.task, right, 0, &sub), 0);
        CHECK_EQ(wharf_send(h.task, sub, "f", 1, 0), 0);
        send_and_go(h.task, sub, "g");
        send_and_go(h.task, sub, "h");
        CHECK_EQ(wharf_drop(h.task, sub), 0);
        CHECK_EQ(wharf_drop(h.task, right), 0);
        unsigned seen = 0;
        for (int i = 0; i < 8; i++) {
                char c = 0;
                CHECK_EQ(wharf_recv(h.task, one, &c, 1, NULL, WHARF_FOREVER), 1);
                seen |= 1u << (c - 'a');
        }
        CHECK_EQ(seen, 0xff);
        CHECK_EQ(wharf_recv(h.task, one, NULL, 0, NULL, WHARF_FOREVER), -ENOTCONN);
        hub_close(&h);
}

/*
 * One that is gone has one place to give: who came first has it for good, who comes behind is heard and refused. The link
 * of whoever gave its place away takes none itself, so that another one's end makes room.
 */
TEST(who_finds_the_place_of_a_dead_introducer_taken_is_heard_and_refused)
{
        struct hub h = hub_open(NULL);
        wharf_name port, a, b, first, second, third;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.links_max = 2, .introduced_max = 2), &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &a), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &b), 0);
        CHECK_EQ(wharf_right_copy(h.task, a, 0, &first), 0);
        CHECK_EQ(wharf_right_copy(h.task, a, 0, &second), 0);
        CHECK_EQ(wharf_send(h.task, first, "1", 1, 0), 0);
        CHECK_EQ(wharf_send(h.task, second, "2", 1, 0), 0);
        CHECK_EQ(wharf_drop(h.task, a), 0);
        receive_text(&h, port, "1");
        receive_text(&h, port, "2");
        CHECK_EQ(wharf_send(h.task, second, "no", 2, wharf_in_ms(20000)), -EMLINK);
        CHECK(strstr(wharf_why(), "(links_max): 2"));
        CHECK_EQ(wharf_recv(h.task, port, NULL, 0, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_send(h.task, first, "3", 1, 0), 0); /* it has the place of `a` */
        receive_text(&h, port, "3");
        CHECK_EQ(wharf_right_copy(h.task, first, 0, &third), 0);
        CHECK_EQ(wharf_send(h.task, third, "4", 1, 0), 0);
        CHECK_EQ(wharf_recv(h.task, port, NULL, 0, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_drop(h.task, b), 0);
        receive_text(&h, port, "4");
        hub_close(&h);
}

/* One that is gone gave its place away, but may introduce no more: then it is the place of whoever waits for one. */
TEST(a_place_that_was_given_away_in_vain_is_anothers)
{
        struct hub h = hub_open(NULL);
        wharf_name port, a, b, x[3], y;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.links_max = 4, .introduced_max = 2), &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &a), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &b), 0);
        for (int i = 0; i < 2; i++) {
                CHECK_EQ(wharf_right_copy(h.task, a, 0, &x[i]), 0);
                CHECK_EQ(wharf_send(h.task, x[i], "x", 1, 0), 0);
                receive_text(&h, port, "x");
        }
        CHECK_EQ(wharf_right_copy(h.task, b, 0, &y), 0);
        CHECK_EQ(wharf_send(h.task, y, "y", 1, 0), 0);
        CHECK_EQ(wharf_recv(h.task, port, NULL, 0, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_right_copy(h.task, a, 0, &x[2]), 0);
        CHECK_EQ(wharf_drop(h.task, a), 0);
        receive_text(&h, port, "y");
        hub_close(&h);
}

TEST(a_port_that_closes_ends_those_who_wait)
{
        struct hub h = hub_open(PORT_OPTS(.links_max = 1));
        wharf_task *t;
        wharf_name right, copy;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_right_connect(t, h.path, &right), 0);
        CHECK_EQ(wharf_send(t, right, "x", 1, 0), 0);
        receive_text(&h, h.port, "x");
        CHECK_EQ(wharf_right_copy(t, right, 0, &copy), 0);
        CHECK_EQ(wharf_send(t, copy, "y", 1, 0), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, NULL, 0, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_drop(h.task, h.port), 0);
        CHECK_EQ(wharf_send(t, copy, "z", 1, WHARF_FOREVER), -EPIPE);
        wharf_task_close(t);
        hub_close(&h);
}

/* What waits goes with a port that moves, and is received by its new owner. */
TEST(a_port_that_moves_takes_those_who_wait_along)
{
        struct hub h = hub_open(NULL);
        wharf_task *other;
        wharf_name port, a, b, to, mailbox;
        CHECK_EQ(wharf_task_open(NULL, &other), 0);
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.links_max = 2), &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &a), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &b), 0);
        CHECK_EQ(wharf_right_connect(other, h.path, &mailbox), 0);
        send_and_go(h.task, a, "one");
        send_and_go(h.task, a, "two");
        CHECK_EQ(wharf_recv(h.task, port, NULL, 0, NULL, 0), -EAGAIN);
        struct wharf_item item = {.kind = WHARF_MAKE_SEND};
        CHECK_EQ(wharf_port_new(other, NULL, &item.name), 0);
        to = item.name;
        CHECK_EQ(wharf_sendmsg(other, mailbox, &MSG(.items = &item, .n_items = 1), 0), 0);
        struct wharf_msg m = MSG(.items = &item, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        struct wharf_item moved = {.kind = WHARF_MOVE_RECEIVE, .name = port};
        CHECK_EQ(wharf_sendmsg(h.task, item.name, &MSG(.items = &moved, .n_items = 1), WHARF_FOREVER), 0);
        m = MSG(.items = &moved, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(other, to, &m, WHARF_FOREVER), 0);
        CHECK_EQ(moved.kind, WHARF_GOT_RECEIVE);
        struct hub there = {.task = other};
        CHECK_EQ(wharf_recv(other, moved.name, NULL, 0, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_drop(h.task, b), 0);
        receive_text(&there, moved.name, "one");
        receive_text(&there, moved.name, "two");
        CHECK_EQ(wharf_recv(other, moved.name, NULL, 0, NULL, 0), -EAGAIN);
        wharf_task_close(other);
        hub_close(&h);
}

/* ---- what all ports of a task share ---- */

enum { FEW = 64, FEW_LINKS = FEW / 2 };

struct crowd {
        struct hub hub;
        struct stage here, go;
};

/* As many short senders as there may be links, three times over, and their introducer stays. */
static int send_much(void *arg)
{
        struct crowd *c = arg;
        wharf_name right;
        wharf_task *t = hub_join(&c->hub, &right);
        CHECK_EQ(wharf_send(t, right, "here", 4, WHARF_FOREVER), 0);
        stage_await(&c->go);
        for (unsigned i = 0; i < 3 * FEW_LINKS; i++)
                send_and_go(t, right, "short");
        stage_reach(&c->here);
        return pause();
}

static int receive_at_its_limit(void *arg)
{
        struct crowd *c = arg;
        struct rlimit few = {FEW, FEW};
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
        wharf_task *t;
        wharf_name busy;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_FIXED), &busy), 0);
        CHECK_EQ(wharf_port_listen(t, busy, c->hub.listen_fd), 0);
        struct hub h = {.task = t, .port = busy};
        receive_text(&h, busy, "here");
        stage_reach(&c->go);
        stage_await(&c->here); /* all of it was acknowledged, and nobody has looked */
        for (unsigned i = 0; i < 3 * FEW_LINKS; i++)
                receive_text(&h, busy, "short");
        wharf_task_close(t);
        return 0;
}

TEST(short_senders_at_the_limit_of_descriptors_are_all_received)
{
        struct crowd c = {.hub = hub_open(NULL), .here = stage_new(), .go = stage_new()};
        CHECK_EQ(wharf_port_listen(c.hub.task, c.hub.port, -1), 0);
        pid_t receiver = test_fork(receive_at_its_limit, &c), sender = test_fork(send_much, &c);
        CHECK_EQ(test_wait(receiver), 0);
        kill_hard(sender);
        stage_done(&c.here);
        stage_done(&c.go);
        hub_close(&c.hub);
}

/* Links to two ports of one task, which share its descriptors. */
struct shared {
        struct hub hub[2];
        struct stage full, drop;
};

static int fill_both(void *arg)
{
        struct shared *s = arg;
        wharf_name first, second[FEW_LINKS];
        wharf_task *t = hub_join(&s->hub[0], &first);
        char c;
        CHECK_EQ(wharf_call(t, first, "x", 1, &c, 1, WHARF_FOREVER), 1);
        for (unsigned i = 0; i < FEW_LINKS - 1; i++) {
                CHECK_EQ(wharf_right_connect(t, s->hub[1].path, &second[i]), 0);
                CHECK_EQ(wharf_call(t, second[i], "x", 1, &c, 1, WHARF_FOREVER), 1);
        }
        send_and_go(t, first, "waits");
        stage_reach(&s->full);
        stage_await(&s->drop);
        CHECK_EQ(wharf_drop(t, second[7]), 0);
        return pause();
}

static void answer_one(wharf_task *t, wharf_name port)
{
        char c;
        struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
        CHECK_EQ(wharf_recvmsg(t, port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_reply(t, m.reply, &c, 1), 0);
}

static int receive_from_both(void *arg)
{
        struct shared *s = arg;
        struct hub h[2];
        struct rlimit few = {FEW, FEW};
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
        wharf_task *t;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        for (int i = 0; i < 2; i++) {
                h[i] = (struct hub){.task = t};
                CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_FIXED), &h[i].port), 0);
                CHECK_EQ(wharf_port_listen(t, h[i].port, s->hub[i].listen_fd), 0);
        }
        answer_one(t, h[0].port);
        for (unsigned i = 0; i < FEW_LINKS - 1; i++)
                answer_one(t, h[1].port);
        stage_await(&s->full);
        CHECK_EQ(wharf_recv(t, h[0].port, NULL, 0, NULL, 0), -EAGAIN);
        struct sleeper sleeper = {.h = &h[0]};
        pthread_t th;
        CHECK_EQ(pthread_create(&th, NULL, sleep_in_receive, &sleeper), 0);
        stage_reach(&s->drop);
        /* The other port's thread sees its sender go; the first port's sleeps, and is woken for it. */
        struct wharf_port_stat st = {.size = sizeof st};
        do {
                CHECK_EQ(wharf_recv(t, h[1].port, NULL, 0, NULL, wharf_in_ms(20)), -ETIMEDOUT);
                CHECK_EQ(wharf_port_stat(t, h[1].port, &st), 0);
        } while (st.senders == FEW_LINKS - 1);
        CHECK_EQ(pthread_join(th, NULL), 0);
        CHECK_EQ(sleeper.r, 5);
        CHECK_MEM(sleeper.buf, "waits", 5);
        wharf_task_close(t);
        return 0;
}

TEST(a_place_that_one_port_gives_back_is_another_ports)
{
        struct shared s = {.hub = {hub_open(NULL), hub_open(NULL)}, .full = stage_new(), .drop = stage_new()};
        for (int i = 0; i < 2; i++)
                CHECK_EQ(wharf_port_listen(s.hub[i].task, s.hub[i].port, -1), 0);
        pid_t receiver = test_fork(receive_from_both, &s), sender = test_fork(fill_both, &s);
        CHECK_EQ(test_wait(receiver), 0);
        kill_hard(sender);
        stage_done(&s.full);
        stage_done(&s.drop);
        for (int i = 0; i < 2; i++)
                hub_close(&s.hub[i]);
}

/*
 * Goal:   who waits for a place learns of it, though its port goes into a set in just that moment.
 * Method: as above, but the place becomes free while nobody receives from the first port, which then joins a set.
 */
static int receive_through_a_set(void *arg)
{
        struct shared *s = arg;
        struct hub h[2];
        struct rlimit few = {FEW, FEW};
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
        wharf_task *t;
        wharf_name set;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_set_new(t, &set), 0);
        for (int i = 0; i < 2; i++) {
                h[i] = (struct hub){.task = t};
                CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_FIXED), &h[i].port), 0);
                CHECK_EQ(wharf_port_listen(t, h[i].port, s->hub[i].listen_fd), 0);
        }
        answer_one(t, h[0].port);
        for (unsigned i = 0; i < FEW_LINKS - 1; i++)
                answer_one(t, h[1].port);
        stage_await(&s->full);
        CHECK_EQ(wharf_recv(t, h[0].port, NULL, 0, NULL, 0), -EAGAIN);
        stage_reach(&s->drop);
        struct wharf_port_stat st = {.size = sizeof st};
        do {
                CHECK_EQ(wharf_recv(t, h[1].port, NULL, 0, NULL, wharf_in_ms(20)), -ETIMEDOUT);
                CHECK_EQ(wharf_port_stat(t, h[1].port, &st), 0);
        } while (st.senders == FEW_LINKS - 1);
        CHECK_EQ(wharf_set_add(t, set, h[0].port), 0);
        receive_text(&h[0], set, "waits");
        wharf_task_close(t);
        return 0;
}

TEST(a_place_that_was_given_back_is_found_by_a_port_that_joins_a_set)
{
        struct shared s = {.hub = {hub_open(NULL), hub_open(NULL)}, .full = stage_new(), .drop = stage_new()};
        for (int i = 0; i < 2; i++)
                CHECK_EQ(wharf_port_listen(s.hub[i].task, s.hub[i].port, -1), 0);
        pid_t receiver = test_fork(receive_through_a_set, &s), sender = test_fork(fill_both, &s);
        CHECK_EQ(test_wait(receiver), 0);
        kill_hard(sender);
        stage_done(&s.full);
        stage_done(&s.drop);
        for (int i = 0; i < 2; i++)
                hub_close(&s.hub[i]);
}

/* ---- the share of one user ---- */

/* Another user, with rights that the receiver's own introduced: of what it sends nothing is lost, if it has a share. */
static int strangers(void *arg)
{
        struct crowd *c = arg;
        wharf_name right;
        test_drop_root();
        wharf_task *t = hub_join(&c->hub, &right);
        struct wharf_item item[8];
        struct wharf_msg answer = MSG(.items = item, .cap_items = 8);
        CHECK_EQ(wharf_callmsg(t, right, &MSG(), &answer, WHARF_FOREVER), 0);
        CHECK_EQ(answer.n_items, 8);
        for (int i = 0; i < 8; i++) {
                char mine = (char)('0' + i);
                CHECK_EQ(wharf_send(t, item[i].name, &mine, 1, 0), 0);
        }
        stage_reach(&c->here);
        stage_await(&c->go);
        for (int i = 0; i < 8; i++)
                CHECK_EQ(wharf_drop(t, item[i].name), 0);
        wharf_task_close(t);
        return 0;
}

TEST(links_beyond_the_share_of_a_user_wait_with_what_they_sent)
{
        if (getuid() != 0)
                test_skip("needs to become another user");
        struct hub h = hub_open(NULL);
        struct crowd c = {.hub = h, .here = stage_new(), .go = stage_new()};
        wharf_name port;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.links_max = 8), &port), 0); /* of which a stranger gets four */
        pid_t pid = test_fork(strangers, &c);
        struct wharf_msg m = MSG();
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        struct wharf_item item[8];
        for (int i = 0; i < 8; i++)
                item[i] = (struct wharf_item){.kind = WHARF_MAKE_SEND, .name = port};
        CHECK_EQ(wharf_replymsg(h.task, m.reply, &MSG(.items = item, .n_items = 8)), 0);
        stage_await(&c.here);
        unsigned seen = 0, n = 0;
        char x;
        struct wharf_sender sender;
        while (wharf_recv(h.task, port, &x, 1, &sender, 0) == 1) {
                CHECK_EQ(sender.uid, 65534);
                seen |= 1u << (x - '0');
                n++;
        }
        CHECK_GE(n, 1);
        CHECK_LE(n, 7);
        stage_reach(&c.go);
        while (n++ < 8) {
                CHECK_EQ(wharf_recv(h.task, port, &x, 1, &sender, wharf_in_ms(20000)), 1);
                CHECK_EQ(sender.uid, 65534);
                seen |= 1u << (x - '0');
        }
        CHECK_EQ(seen, 0xff);
        CHECK_EQ(test_wait(pid), 0);
        stage_done(&c.here);
        stage_done(&c.go);
        hub_close(&h);
}
