/*
 * Direct communication: processes that name each other, with a real wharfd in a domain of the test's own.
 */
#include "domain.h"
#include "hub.h"
#include "os/os.h"
#include "link/frame.h"
#include "link/link.h"
#include "right/right.h"
#include "test.h"
#include "wharf/wharf.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

static wharf_task *task(void)
{
        wharf_task *t;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        return t;
}

static wharf_direct *join(wharf_task *t, const char *name)
{
        wharf_direct *d;
        int r = wharf_direct_join(t, name, &d);
        if (r < 0)
                test_fail(__FILE__, __LINE__, "joining as %s: %d: %s", name, r, wharf_why());
        return d;
}

static void leave(wharf_task *t, wharf_direct *d)
{
        wharf_direct_leave(d);
        wharf_task_close(t);
}

static void say(wharf_direct *d, const char *peer, const char *text)
{
        CHECK_EQ(wharf_direct_send(d, peer, text, strlen(text) + 1, WHARF_FOREVER), 0);
}

static void hear(wharf_direct *d, const char *peer, const char *text)
{
        char buf[64];
        CHECK_EQ(wharf_direct_recv(d, peer, buf, sizeof buf, WHARF_FOREVER), strlen(text) + 1);
        CHECK_STR(buf, text);
}

static int symmetric_peer(void *name)
{
        wharf_task *t = task();
        wharf_direct *d = join(t, name);
        for (int i = 0; i < 100; i++) {
                char text[32];
                snprintf(text, sizeof text, "%s%d", (char *)name, i);
                say(d, "P", text);
                hear(d, "P", text);
        }
        leave(t, d);
        return 0;
}

static pid_t fork_peer(const char *name)
{
        return test_fork(symmetric_peer, (void *)(uintptr_t)name);
}

/*
 * Goal:   send(P, m) and receive(Q, m): each names the other, and gets the messages of that one in their order, both
 *         ways, whatever others send meanwhile.
 */
TEST(symmetric_both_name_each_other_and_others_wait)
{
        test_domain();
        pid_t q = fork_peer("Q"), r = fork_peer("R");
        wharf_task *t = task();
        wharf_direct *d = join(t, "P");
        for (int k = 0; k < 2; k++)
                for (int i = 0; i < 100; i++) {
                        char text[32];
                        snprintf(text, sizeof text, "%s%d", k ? "R" : "Q", i);
                        hear(d, k ? "R" : "Q", text);
                        say(d, k ? "R" : "Q", text);
                }
        CHECK_EQ(test_wait(q), 0);
        CHECK_EQ(test_wait(r), 0);
        leave(t, d);
}

/* Goal: receive(&id, m) takes from anyone, and says who; each peer's messages stay in order. */
TEST(asymmetric_receives_from_anyone_and_is_told_who)
{
        test_domain();
        pid_t q = fork_peer("Q"), r = fork_peer("R");
        wharf_task *t = task();
        wharf_direct *d = join(t, "P");
        int n[2] = {0};
        for (int i = 0; i < 200; i++) {
                char buf[64], who[WHARF_DIRECT_NAME_MAX + 1], text[WHARF_DIRECT_NAME_MAX + 16];
                CHECK_GE(wharf_direct_recv_any(d, buf, sizeof buf, who, WHARF_FOREVER), 3);
                CHECK(!strcmp(who, "Q") || !strcmp(who, "R"));
                snprintf(text, sizeof text, "%s%d", who, n[*who == 'R']++);
                CHECK_STR(buf, text);
                say(d, who, text);
        }
        CHECK_EQ(n[0], 100);
        CHECK_EQ(test_wait(q), 0);
        CHECK_EQ(test_wait(r), 0);
        leave(t, d);
}

/*
 * Goal:   between a pair is exactly one link, made by itself, for both directions, however much is sent.
 * Method: after the first message each way the number of descriptors does not change any more, and the port at each
 *         end has one sender.
 */
TEST(one_link_for_each_pair_whatever_is_sent)
{
        test_domain();
        wharf_task *t = task(), *u = task();
        wharf_direct *p = join(t, "P"), *q = join(u, "Q");
        int settled = 0;
        for (int i = 0; i < 200; i++) {
                char who[WHARF_DIRECT_NAME_MAX + 1];
                say(p, "Q", "to Q");
                struct wharf_msg m = {.size = sizeof m, .flags = WHARF_RECV_ALLOC};
                CHECK_EQ(wharf_direct_recvmsg(q, i % 2 ? NULL : "P", &m, who, WHARF_FOREVER), 0);
                wharf_release(u, &m);
                CHECK_STR(who, "P");
                say(q, "P", "to P");
                hear(p, "Q", "to P");
                if (i == 20) {
                        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
                        settled = test_descriptors_of(getpid());
                }
        }
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
        CHECK_EQ(test_descriptors_of(getpid()), settled);
        leave(t, p);
        leave(u, q);
}

/* Goal: nobody has joined under that name: at once, or at the deadline, -ENOENT; and nothing stays behind. */
TEST(unknown_peer_is_an_error_at_once_or_at_the_deadline)
{
        test_domain();
        wharf_task *t = task();
        wharf_direct *d = join(t, "P");
        char buf[8];
        CHECK_EQ(wharf_direct_send(d, "nobody", "x", 1, 0), -ENOENT);
        CHECK_STR(wharf_why(), "nobody has joined as nobody");
        CHECK_EQ(wharf_direct_send(d, "nobody", "x", 1, wharf_in_ms(20)), -ENOENT);
        CHECK_EQ(wharf_direct_recv(d, "nobody", buf, sizeof buf, 0), -EAGAIN);
        CHECK_EQ(wharf_direct_recv(d, "nobody", buf, sizeof buf, wharf_in_ms(20)), -ETIMEDOUT);
        CHECK_EQ(wharf_direct_recv_any(d, buf, sizeof buf, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_direct_recv_any(d, buf, sizeof buf, NULL, wharf_in_ms(20)), -ETIMEDOUT);
        CHECK_EQ(wharf_direct_send(d, "", "x", 1, 0), -EINVAL);
        CHECK_EQ(wharf_direct_send(d, NULL, "x", 1, 0), -EINVAL);
        CHECK_EQ(wharf_direct_recv(d, NULL, buf, sizeof buf, 0), -EINVAL);
        CHECK_EQ(wharf_direct_send(d, "no spaces", "x", 1, 0), -EINVAL);
        leave(t, d);
}

/* Goal: a name that somebody has joined under is taken, until it leaves. */
TEST(own_name_taken_is_an_error_until_its_owner_leaves)
{
        test_domain();
        wharf_task *t = task(), *u = task();
        wharf_direct *p = join(t, "P"), *other = NULL;
        CHECK_EQ(wharf_direct_join(u, "P", &other), -EEXIST);
        CHECK_STR(wharf_why(), "somebody has joined as P");
        CHECK(!other);
        CHECK_EQ(wharf_direct_join(u, "", &other), -EINVAL);
        wharf_direct_leave(p);
        other = join(u, "P");
        leave(u, other);
        wharf_task_close(t);
}

static int says_once_and_is_killed(void *arg)
{
        wharf_task *t = task();
        wharf_direct *d = join(t, "Q");
        (void)arg;
        say(d, "P", "last words");
        raise(SIGKILL);
        return (int)(intptr_t)d;
}

/*
 * Goal:   what a peer sent before it was killed is received, in its name, though it is gone from the directory; then
 *         its end is told, once, to receivers and to senders, without waiting.
 */
TEST(dead_peer_s_messages_come_and_then_its_end_is_told)
{
        test_domain();
        wharf_task *t = task();
        wharf_direct *d = join(t, "P");
        char buf[64];
        for (int life = 0; life < 3; life++) {
                CHECK_EQ(test_wait(test_fork(says_once_and_is_killed, NULL)), 128 + SIGKILL);
                if (life == 1) {
                        char who[WHARF_DIRECT_NAME_MAX + 1];
                        CHECK_EQ(wharf_direct_recv_any(d, buf, sizeof buf, who, WHARF_FOREVER), 11);
                        CHECK_STR(who, "Q");
                } else {
                        hear(d, "Q", "last words");
                }
                CHECK_EQ(wharf_direct_recv(d, "Q", buf, sizeof buf, WHARF_FOREVER), -ENOTCONN);
                CHECK_STR(wharf_why(), "Q has left, or died");
                CHECK_EQ(wharf_direct_recv(d, "Q", buf, sizeof buf, 0), -EAGAIN);
                CHECK_EQ(wharf_direct_send(d, "Q", "x", 1, 0), -ENOENT);
        }
        leave(t, d);
}

enum { GUESTS = 8 };

static int comes_says_and_goes(void *name)
{
        wharf_task *t = task();
        wharf_direct *d = join(t, name);
        say(d, "host", "was here");
        _exit(0);
}

/*
 * Goal:   a peer that came, spoke and went while its receiver was just joining is heard.
 * Method: it waits for the receiver's name, so it speaks as soon as there is one; many times, for it is a race.
 */
TEST(who_comes_and_goes_while_its_receiver_joins_is_heard)
{
        test_domain();
        for (int i = 0; i < 20; i++) {
                char who[WHARF_DIRECT_NAME_MAX + 1], text[16], name[] = "guest-0";
                pid_t guest[GUESTS];
                for (int k = 0; k < GUESTS; k++, name[sizeof name - 2]++)
                        guest[k] = test_fork(comes_says_and_goes, name);
                wharf_task *t = task();
                usleep(test_random() % 4000);
                wharf_direct *d = join(t, "host");
                for (int k = 0; k < GUESTS; k++) {
                        CHECK_EQ(wharf_direct_recv_any(d, text, sizeof text, who, wharf_in_ms(60000)), 9);
                        CHECK_STR(text, "was here");
                }
                for (int k = 0; k < GUESTS; k++)
                        CHECK_EQ(test_wait(guest[k]), 0);
                leave(t, d);
        }
}

enum { LIVES = 60 };
static int lives_shortly_and_often(void *name)
{
        for (int i = 0; i < LIVES; i++) {
                wharf_task *t = task();
                wharf_direct *d = join(t, name);
                say(d, "host", name);
                leave(t, d);
        }
        return 0;
}

static void many_short_lives(void)
{
        wharf_task *t = task();
        wharf_direct *d = join(t, "host");
        char who[WHARF_DIRECT_NAME_MAX + 1], text[16], name[] = "guest-0";
        pid_t guest[GUESTS];
        for (int k = 0; k < GUESTS; k++, name[sizeof name - 2]++)
                guest[k] = test_fork(lives_shortly_and_often, name);
        usleep(500000);
        for (int i = 0; i < GUESTS * LIVES; i++) {
                CHECK_EQ(wharf_direct_recv_any(d, text, sizeof text, who, wharf_in_ms(60000)), sizeof name);
                CHECK_STR(text, who);
        }
        for (int k = 0; k < GUESTS; k++)
                CHECK_EQ(test_wait(guest[k]), 0);
        CHECK_EQ(wharf_direct_recv_any(d, text, sizeof text, who, 0), -EAGAIN);
        leave(t, d);
}

/*
 * Goal:   nothing that was acknowledged is lost, however many come, speak and go while the receiver does not look.
 * Method: more lives than what wharfd has to tell of them finds room for; the receiver begins late.
 */
TEST(many_short_lives_are_all_heard_by_one_who_listens_late)
{
        test_domain();
        many_short_lives();
}

/* Goal: the same where there are fewer descriptors than links, so that those that come wait for places. */
TEST(many_short_lives_are_all_heard_with_few_descriptors)
{
        if (getuid() != 0)
                test_skip("the kernel holds what an ordinary user has on its way to the same limit, and says so");
        test_domain();
        wharf_task *t = task();
        wharf_direct *d = join(t, "first"); /* wharfd, which gives up its privileges, starts without the limit */
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &(struct rlimit){200, 200}), 0);
        many_short_lives();
        leave(t, d);
}

enum { CALLERS = 4, CALLS = 1100 };
static int asks_once_each_life(void *first)
{
        for (int i = 0; i < CALLS; i++) {
                char name[32];
                snprintf(name, sizeof name, "%s-%d", (const char *)first, i);
                wharf_task *t = task();
                wharf_direct *d = join(t, name);
                say(d, "host", name);
                hear(d, "host", name);
                leave(t, d);
        }
        return 0;
}

/*
 * Goal:   who answers others, each of whom comes once under a name of its own, keeps nothing of those that have gone:
 *         no descriptors of theirs, and no place that the next one would need.
 * Method: more names than there may be links to one process.
 */
TEST_TIMEOUT(who_answers_many_short_lives_keeps_nothing_of_them, 600)
{
        test_domain();
        wharf_task *t = task();
        wharf_direct *d = join(t, "host");
        char who[WHARF_DIRECT_NAME_MAX + 1], text[32], name[CALLERS][8];
        pid_t caller[CALLERS];
        unsigned fds = count_fds();
        for (int k = 0; k < CALLERS; k++) {
                snprintf(name[k], sizeof name[k], "c%d", k);
                caller[k] = test_fork(asks_once_each_life, name[k]);
        }
        for (int i = 0; i < CALLERS * CALLS; i++) {
                CHECK_GE(wharf_direct_recv_any(d, text, sizeof text, who, wharf_in_ms(60000)), 5);
                CHECK_STR(text, who);
                say(d, who, text);
                if (i % 100 == 0)
                        CHECK_LE(count_fds(), fds + 100);
        }
        for (int k = 0; k < CALLERS; k++)
                CHECK_EQ(test_wait(caller[k]), 0);
        leave(t, d);
}

/* Goal: a peer that died is told of by the next send to it, also where its right was let go of before that. */
TEST(death_of_a_peer_is_told_by_the_next_send_after_others_were_sent_to)
{
        test_domain();
        wharf_task *t = task(), *other[40];
        wharf_direct *d = join(t, "P"), *joined[40];
        for (int i = 0; i < 40; i++) {
                char name[8];
                snprintf(name, sizeof name, "q%d", i);
                other[i] = task();
                joined[i] = join(other[i], name);
                say(d, name, "hello");
                if (i < 20)
                        leave(other[i], joined[i]);
        }
        for (int i = 0; i < 40; i++) {
                char name[8];
                snprintf(name, sizeof name, "q%d", i);
                CHECK_EQ(wharf_direct_send(d, name, "x", 1, 0), i < 20 ? -EPIPE : 0);
                CHECK_EQ(wharf_direct_send(d, name, "x", 1, 0), i < 20 ? -ENOENT : 0);
        }
        for (int i = 20; i < 40; i++)
                leave(other[i], joined[i]);
        leave(t, d);
}

static int joins_and_waits(void *arg)
{
        wharf_task *t = task();
        wharf_direct *d = join(t, "Q");
        (void)arg;
        hear(d, "P", "hello");
        say(d, "P", "hello");
        char buf[8];
        wharf_direct_recv(d, "P", buf, sizeof buf, WHARF_FOREVER);
        leave(t, d);
        return 0;
}

static void *receives_from_q(void *d)
{
        char buf[64];
        ssize_t r;
        do
                r = wharf_direct_recv(d, "Q", buf, sizeof buf, WHARF_FOREVER);
        while (r == -EBUSY);
        return (void *)(intptr_t)r;
}

/* Goal: a peer that is killed ends the wait of who receives from it, and of who sends to it. */
TEST(killed_peer_ends_the_waits_for_it)
{
        test_domain();
        wharf_task *t = task();
        wharf_direct *d = join(t, "P");
        pid_t q = test_fork(joins_and_waits, NULL);
        say(d, "Q", "hello");
        hear(d, "Q", "hello");
        pthread_t thread;
        void *got;
        CHECK_EQ(pthread_create(&thread, NULL, receives_from_q, d), 0);
        kill(q, SIGSTOP);
        int r;
        while ((r = wharf_direct_send(d, "Q", "fill", 4, 0)) == 0)
                ;
        CHECK_EQ(r, -EAGAIN);
        kill(q, SIGKILL);
        CHECK_EQ(wharf_direct_send(d, "Q", "x", 1, WHARF_FOREVER), -EPIPE);
        CHECK_EQ(pthread_join(thread, &got), 0);
        CHECK_EQ((intptr_t)got, -ENOTCONN);
        /* The kernel closes what Q had piece by piece: until it is through, a new link to Q can still be made. */
        CHECK_EQ(test_wait(q), 128 + SIGKILL);
        CHECK_EQ(wharf_direct_send(d, "Q", "x", 1, 0), -ENOENT);
        leave(t, d);
}

static int joined_but_silent(void *arg)
{
        wharf_task *t = task();
        wharf_direct *d = join(t, "Q");
        (void)arg;
        hear(d, "P", "die");
        raise(SIGKILL);
        return (int)(intptr_t)d;
}

/* Goal: also a peer that never sent anything ends a wait for it by its death. */
TEST(peer_that_dies_before_its_first_message_ends_the_wait_for_it)
{
        test_domain();
        wharf_task *t = task();
        wharf_direct *d = join(t, "P");
        char buf[8];
        pid_t q = test_fork(joined_but_silent, NULL);
        say(d, "Q", "die");
        CHECK_EQ(wharf_direct_recv(d, "Q", buf, sizeof buf, WHARF_FOREVER), -ENOTCONN);
        CHECK_EQ(test_wait(q), 128 + SIGKILL);
        leave(t, d);
}

/* What a hello is made of, for one who lies in it. */
struct forged {
        uint64_t id;
        char name[8];
};

static void forge(wharf_task *t, uint64_t id, const char *name, int expected)
{
        wharf_name door, port, right;
        CHECK_EQ(wharf_lookup(t, "direct:P", WHARF_FOREVER, &door), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        struct forged hello = {.id = id};
        memcpy(hello.name, name, strlen(name));
        struct wharf_item item = {.kind = WHARF_MOVE_RECEIVE, .name = port};
        struct wharf_msg m = {.size = sizeof m,
                              .id = 0x68656c6c,
                              .data = &hello,
                              .len_bytes = 8 + strlen(name),
                              .items = &item,
                              .n_items = 1};
        CHECK_EQ(wharf_send(t, right, "I am Q", 7, 0), 0);
        CHECK_EQ(wharf_sendmsg(t, door, &m, WHARF_FOREVER), 0);
        while (wharf_send(t, right, "I am Q", 7, wharf_in_ms(1)) >= 0 && expected)
                ;
        wharf_drop(t, door);
}

static uint64_t registered_id(wharf_task *t, const char *name)
{
        struct wharf_named *all;
        size_t n;
        uint64_t id = 0;
        CHECK_EQ(wharf_names_list(t, &all, &n), 0);
        for (size_t i = 0; i < n; i++)
                if (!strcmp(all[i].name, name))
                        id = all[i].id.v;
        free(all);
        return id;
}

static int liar(void *arg)
{
        wharf_task *t = task();
        (void)arg;
        uint64_t q = registered_id(t, "direct:Q");
        CHECK_NE(q, 0);
        forge(t, q, "Q", -EPIPE);       /* says that it is Q, with all that anybody can know of Q */
        forge(t, 0, "Q", -EPIPE);       /* without it */
        forge(t, q, "nobody", -EPIPE);  /* a name that nobody has */
        wharf_direct *d = join(t, "M"); /* and as who is known by another name */
        forge(t, registered_id(t, "direct:M"), "Q", -EPIPE);
        say(d, "P", "as myself");
        leave(t, d);
        return 0;
}

static int honest(void *arg)
{
        wharf_task *t = task();
        wharf_direct *d = join(t, "Q");
        (void)arg;
        hear(d, "P", "go");
        say(d, "P", "truly Q");
        leave(t, d);
        return 0;
}

/*
 * Goal:   who claims another's name is not believed, whatever it says and knows: none of its messages arrives as of
 *         that name, and its link is closed; who is that name is heard after it.
 */
TEST(peer_that_claims_another_s_name_is_not_believed)
{
        test_domain();
        pid_t q = test_fork(honest, NULL);
        wharf_task *t = task();
        wharf_direct *d = join(t, "P");
        wharf_name right;
        CHECK_EQ(wharf_lookup(t, "direct:Q", WHARF_FOREVER, &right), 0);
        wharf_drop(t, right);
        pid_t m = test_fork(liar, NULL);
        char buf[64], who[WHARF_DIRECT_NAME_MAX + 1];
        CHECK_EQ(wharf_direct_recv_any(d, buf, sizeof buf, who, WHARF_FOREVER), 10);
        CHECK_STR(who, "M");
        CHECK_STR(buf, "as myself");
        CHECK_EQ(wharf_direct_recv(d, "Q", buf, sizeof buf, 0), -EAGAIN);
        say(d, "Q", "go");
        hear(d, "Q", "truly Q");
        CHECK_EQ(test_wait(m), 0);
        CHECK_EQ(test_wait(q), 0);
        leave(t, d);
}

static int stubborn(void *arg)
{
        wharf_task *t = task();
        wharf_direct *d = join(t, "Q");
        wharf_name door, port, right;
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        (void)arg;
        CHECK_EQ(wharf_lookup(t, "direct:P", WHARF_FOREVER, &door), 0);
        CHECK_EQ(wharf_port_new(t, &o, &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        struct forged hello = {.id = registered_id(t, "direct:Q"), .name = "Q"};
        struct wharf_item item = {.kind = WHARF_MOVE_RECEIVE, .name = port};
        struct wharf_msg m = {
                .size = sizeof m, .id = 0x68656c6c, .data = &hello, .len_bytes = 9, .items = &item, .n_items = 1};
        CHECK_EQ(wharf_sendmsg(t, door, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_send(t, right, "dying", 6, WHARF_FOREVER), 0);
        raise(SIGKILL);
        return (int)(intptr_t)d;
}

/* Goal: a peer that makes its end of the link so that no death would be told, is told of as dead all the same. */
TEST(peer_cannot_make_a_link_that_outlives_it)
{
        test_domain();
        wharf_task *t = task();
        wharf_direct *d = join(t, "P");
        char buf[8];
        pid_t q = test_fork(stubborn, NULL);
        hear(d, "Q", "dying");
        CHECK_EQ(wharf_direct_recv(d, "Q", buf, sizeof buf, WHARF_FOREVER), -ENOTCONN);
        CHECK_EQ(test_wait(q), 128 + SIGKILL);
        leave(t, d);
}

/* A link to P as wharf makes it, by hand; what is sent next goes over it. */
static wharf_name link_of(wharf_task *t, const char *name, uint64_t id)
{
        wharf_name door, port, right;
        CHECK_EQ(wharf_lookup(t, "direct:P", WHARF_FOREVER, &door), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        struct forged hello = {.id = id};
        memcpy(hello.name, name, 1);
        struct wharf_item item = {.kind = WHARF_MOVE_RECEIVE, .name = port};
        struct wharf_msg m = {
                .size = sizeof m, .id = 0x68656c6c, .data = &hello, .len_bytes = 9, .items = &item, .n_items = 1};
        CHECK_EQ(wharf_sendmsg(t, door, &m, WHARF_FOREVER), 0);
        wharf_drop(t, door);
        return right;
}

static wharf_name link_again(wharf_task *t, uint64_t id)
{
        return link_of(t, "Q", id);
}

static void second_links(bool any, bool drops)
{
        wharf_task *t = task(), *tq = task();
        wharf_direct *d = join(t, "P"), *q = join(tq, "Q");
        uint64_t id = registered_id(tq, "direct:Q");
        wharf_name right[5];
        char buf[8], who[WHARF_DIRECT_NAME_MAX + 1];
        for (int i = 0; i < 5; i++) {
                right[i] = link_again(tq, id);
                CHECK_EQ(wharf_send(tq, right[i], (char[]){(char)('a' + 2 * i), 0}, 2, 0), 0);
                CHECK_EQ(wharf_send(tq, right[i], (char[]){(char)('b' + 2 * i), 0}, 2, 0), 0);
                if (drops && i < 4)
                        wharf_drop(tq, right[i]);
        }
        for (int i = 0; i < 8; i++) {
                CHECK_EQ(any ? wharf_direct_recv_any(d, buf, sizeof buf, who, wharf_in_ms(60000))
                             : wharf_direct_recv(d, "Q", buf, sizeof buf, wharf_in_ms(60000)),
                         2);
                CHECK_EQ(buf[0], 'a' + i);
        }
        CHECK_EQ(wharf_direct_recv_any(d, buf, sizeof buf, who, 0), -EAGAIN);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
        CHECK_EQ(wharf_send(tq, right[4], "k", 1, 0), -EPIPE); /* the fifth was one too many */
        if (!drops)
                for (int i = 0; i < 4; i++)
                        CHECK_EQ(wharf_send(tq, right[i], "l", 2, 0), i < 3 ? -EPIPE : 0);
        wharf_drop(tq, right[4]);
        right[4] = link_again(tq, id); /* and now it is not */
        CHECK_EQ(wharf_send(tq, right[4], "m", 2, 0), 0);
        for (const char *c = drops ? "m" : "lm"; *c; c++) {
                CHECK_EQ(wharf_direct_recv_any(d, buf, sizeof buf, who, wharf_in_ms(60000)), 2);
                CHECK_EQ(buf[0], *c);
        }
        wharf_drop(tq, right[4]);
        right[4] = link_again(tq, id);
        CHECK_EQ(wharf_send(tq, right[4], "n", 2, 0), 0);
        hear(d, "Q", "n"); /* and not that Q had gone */
        leave(tq, q);
        CHECK_EQ(wharf_direct_recv(d, "Q", buf, sizeof buf, WHARF_FOREVER), -ENOTCONN);
        CHECK_EQ(wharf_direct_recv(d, "Q", buf, sizeof buf, 0), -EAGAIN);
        leave(t, d);
}

/*
 * Goal:   a peer that lives and has lost its link makes another, and what it sent on the first comes before what it
 *         sends on the second, whether it has let go of the first or not; who receives later is not told that it had
 *         gone. There are four such links at most.
 */
TEST(second_link_of_a_living_peer_is_read_after_the_first)
{
        test_domain();
        for (int i = 0; i < 4; i++)
                second_links(i & 1, i & 2);
}

/* Goal: one's own name is a peer like any other; and a deadline, rights, and what is too large are as everywhere. */
TEST(direct_messages_carry_rights_and_obey_flags_and_deadlines)
{
        test_domain();
        wharf_task *t = task();
        wharf_direct *d = join(t, "P");
        char buf[64];
        say(d, "P", "myself");
        CHECK_EQ(wharf_direct_recv(d, "P", buf, 2, WHARF_FOREVER), -EOVERFLOW);
        hear(d, "P", "myself");
        /* Of anyone: who it is, and others are heard. */
        wharf_task *other = task();
        wharf_direct *q = join(other, "Q");
        char who[WHARF_DIRECT_NAME_MAX + 1];
        say(d, "P", "myself");
        CHECK_EQ(wharf_direct_recv_any(d, buf, 2, who, WHARF_FOREVER), -EOVERFLOW);
        CHECK_STR(who, "P");
        say(q, "P", "q");
        ssize_t n;
        while ((n = wharf_direct_recv_any(d, buf, 2, who, WHARF_FOREVER)) == -EOVERFLOW)
                CHECK_STR(who, "P");
        CHECK_EQ(n, 2);
        CHECK_STR(who, "Q");
        struct wharf_msg unfit = {.size = sizeof unfit, .flags = WHARF_RECV_DROP_UNFIT};
        CHECK_EQ(wharf_direct_recvmsg(d, "P", &unfit, NULL, 0), -EOVERFLOW);
        CHECK_EQ(unfit.len_bytes, 7);
        leave(other, q);
        CHECK_EQ(wharf_direct_recv(d, "P", buf, sizeof buf, 0), -EAGAIN);
        CHECK_EQ(wharf_direct_recv(d, "P", buf, sizeof buf, wharf_in_ms(10)), -ETIMEDOUT);

        wharf_name port;
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        struct wharf_item item = {.kind = WHARF_MAKE_SEND, .name = port}, got;
        struct wharf_msg m = {.size = sizeof m, .id = 7, .items = &item, .n_items = 1};
        CHECK_EQ(wharf_direct_sendmsg(d, "P", &m, 0), 0);
        struct wharf_msg in = {.size = sizeof in, .items = &got, .cap_items = 1};
        CHECK_EQ(wharf_direct_recvmsg(d, NULL, &in, NULL, 0), 0);
        CHECK_EQ(in.id, 7);
        CHECK_EQ(in.n_items, 1);
        CHECK_EQ(wharf_send(t, got.name, "x", 1, 0), 0);
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, 0), 1);

        int r;
        while ((r = wharf_direct_send(d, "P", "fill", 4, 0)) == 0)
                ;
        CHECK_EQ(r, -EAGAIN);
        strcpy(buf, "late");
        m = (struct wharf_msg){.size = sizeof m, .flags = WHARF_SEND_LATER, .data = buf, .len_bytes = 5};
        CHECK_EQ(wharf_direct_sendmsg(d, "P", &m, 0), 1);
        do
                CHECK_GE(wharf_direct_recv(d, "P", buf, sizeof buf, WHARF_FOREVER), 4);
        while (memcmp(buf, "late", 4));
        in.from = 1;
        CHECK_EQ(wharf_direct_recvmsg(d, NULL, &in, NULL, 0), -EINVAL);
        leave(t, d);
}

/* Goal: with a wharfd that is stopped nothing waits beyond its deadline, and who talk already go on. */
TEST(a_stopped_wharfd_keeps_no_peer_beyond_the_deadline)
{
        const char *dir = test_domain();
        test_need_proc();
        wharf_task *ta, *tb, *tc;
        wharf_direct *a, *b, *c = NULL;
        char buf[8], who[WHARF_DIRECT_NAME_MAX + 1];
        CHECK_EQ(wharf_task_open(NULL, &ta), 0);
        CHECK_EQ(wharf_task_open(NULL, &tb), 0);
        CHECK_EQ(wharf_task_open(NULL, &tc), 0);
        CHECK_EQ(wharf_direct_join(ta, "a", &a), 0);
        CHECK_EQ(wharf_direct_join(tb, "b", &b), 0);
        CHECK_EQ(wharf_direct_send(a, "b", "1", 1, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_direct_recv(b, "a", buf, sizeof buf, WHARF_FOREVER), 1);
        pid_t d = test_find_wharfd(dir, true);
        CHECK_EQ(kill(d, SIGSTOP), 0);
        struct timespec before, after;
        clock_gettime(CLOCK_MONOTONIC, &before);
        CHECK_EQ(wharf_direct_send(b, "a", "2", 1, wharf_in_ms(100)), -ETIMEDOUT); /* the first that way */
        CHECK_EQ(wharf_direct_send(b, "a", "2", 1, 0), -ETIMEDOUT);
        CHECK(strstr(wharf_why(), dir));
        CHECK_EQ(wharf_direct_recv(b, "nobody", buf, sizeof buf, wharf_in_ms(50)), -ETIMEDOUT);
        CHECK_EQ(wharf_direct_recv(b, "a", buf, sizeof buf, 0), -EAGAIN);
        CHECK_EQ(wharf_direct_recv_any(b, buf, sizeof buf, who, wharf_in_ms(50)), -ETIMEDOUT);
        CHECK_EQ(wharf_direct_send(a, "b", "3", 1, 0), 0);
        CHECK_EQ(wharf_direct_recv_any(b, buf, sizeof buf, who, WHARF_FOREVER), 1);
        CHECK_EQ(wharf_direct_join(tc, "c", &c), -ETIMEDOUT);
        CHECK(!c && strstr(wharf_why(), dir));
        clock_gettime(CLOCK_MONOTONIC, &after);
        CHECK_LE(after.tv_sec - before.tv_sec, 8); /* each of them took ten seconds */
        CHECK_EQ(kill(d, SIGCONT), 0);
        CHECK_EQ(wharf_direct_join(tc, "c", &c), 0);
        CHECK_EQ(wharf_direct_send(b, "a", "4", 1, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_direct_recv(a, "b", buf, sizeof buf, WHARF_FOREVER), 1);
        CHECK_MEM(buf, "4", 1);
        wharf_direct_leave(c);
        wharf_direct_leave(b);
        wharf_direct_leave(a);
        wharf_task_close(tc);
        wharf_task_close(tb);
        wharf_task_close(ta);
}

enum { FLOODED = 26 };
static int floods[FLOODED];
static unsigned n_floods, flood_reads;

/* Whenever somebody reads there is one frame more on each of the links: no sender is faster. */
static int flood_as_it_is_read(enum wh_os_call call)
{
        if (call != WH_OS_recvmsg)
                return 0;
        flood_reads++;
        struct wh_frame f = {.type = WH_FRAME_GIVEN, .to = WH_TO_OWNER};
        struct wh_origin by = {.pid = 1, .uid = 1, .gid = 1, .known = WHARF_KNOWN_BOUND};
        for (unsigned i = 0; i < n_floods; i++)
                wh_frame_send(floods[i], &f, &by, sizeof by, NULL, false);
        return 0;
}

/*
 * Goal:   links on which comes what is no message, without end, make no receive from anyone longer than a few looks, and
 *         keep nobody else's messages.
 * Method: peers have two links each, and flood the first, which is read before the second. Reads are counted.
 */
TEST_TIMEOUT(inlets_that_are_flooded_end_no_receive_late_and_keep_nobody_waiting, 120)
{
        enum { A_RECEIVE = 5 * WH_BUDGET / WH_COST_FRAME, MOST = 24 * A_RECEIVE };
        test_domain();
        wharf_task *t = task(), *tq = task();
        wharf_direct *d = join(t, "P"), *q[FLOODED + 1];
        char buf[8], who[WHARF_DIRECT_NAME_MAX + 1], name[] = "a", full[] = "direct:a";
        n_floods = 0;
        for (int i = 0; i < FLOODED; i++, name[0]++, full[sizeof full - 2]++) {
                q[i] = join(tq, name);
                uint64_t id = registered_id(tq, full);
                int err;
                wharf_name first = link_of(tq, name, id);
                link_of(tq, name, id);
                struct wh_link *l = wh_holder_lock(tq, first, &err);
                CHECK(l);
                floods[i] = l->sock;
                wh_unlock(&l->o.lock);
        }
        q[FLOODED] = join(tq, "good");
        n_floods = FLOODED;
        flood_as_it_is_read(WH_OS_recvmsg);
        for (int i = 0; i < 3; i++) { /* in the first of them the links are let in */
                flood_reads = 0;
                wh_os_gate = flood_as_it_is_read;
                int r = (int)wharf_direct_recv_any(d, buf, sizeof buf, who, i == 2 ? 1 : 0);
                wh_os_gate = NULL;
                CHECK_EQ(r, i == 2 ? -ETIMEDOUT : -EAGAIN);
                CHECK_GE(flood_reads, 1);
                CHECK_LE(flood_reads, MOST);
        }
        say(q[FLOODED], "P", "well");
        int r = -EAGAIN;
        for (int i = 0; r == -EAGAIN && i < 400; i++) { /* each takes a few milliseconds, of which the flood has most */
                wh_os_gate = flood_as_it_is_read;
                r = (int)wharf_direct_recv_any(d, buf, sizeof buf, who, 0);
                wh_os_gate = NULL;
        }
        CHECK_EQ(r, 5);
        CHECK_STR(buf, "well");
        for (int i = 0; i <= FLOODED; i++)
                wharf_direct_leave(q[i]);
        wharf_task_close(tq);
        leave(t, d);
}

/* Goal: a second thread that would receive is told so; the first goes on. */
TEST(one_thread_receives_at_a_time)
{
        test_domain();
        wharf_task *t = task();
        wharf_direct *d = join(t, "P");
        pthread_t thread;
        char buf[8];
        void *got;
        CHECK_EQ(pthread_create(&thread, NULL, receives_from_q, d), 0);
        while (wharf_direct_recv(d, "Q", buf, sizeof buf, 0) != -EBUSY)
                ;
        CHECK_EQ(test_wait(test_fork(says_once_and_is_killed, NULL)), 128 + SIGKILL);
        CHECK_EQ(pthread_join(thread, &got), 0);
        CHECK_EQ((intptr_t)got, 11);
        leave(t, d);
}
