/*
 * Capacity zero: a send ends when a receiver has taken the message, and a message that nobody took in time was never
 * sent. Both sides block, neither does, or one of them.
 */
#include "hub.h"

#include "os/os.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#define RENDEZVOUS PORT_OPTS(.capacity_records = WHARF_RENDEZVOUS)

/* ---- both in one process: what is there, is there at once ---- */

static struct hub hub_with_right(wharf_name *ret)
{
        struct hub h = hub_open(RENDEZVOUS);
        CHECK_EQ(wharf_right_new(h.task, h.port, ret), 0);
        return h;
}

struct sending {
        struct hub *hub;
        wharf_name right;
        const void *bytes;
        size_t len;
        int64_t deadline_ns;
        int result;
        pthread_t thread;
};

static void *send_one(void *arg)
{
        struct sending *s = arg;
        s->result = wharf_send(s->hub->task, s->right, s->bytes, s->len, s->deadline_ns);
        return NULL;
}

static void start_sending(struct sending *s)
{
        CHECK_EQ(pthread_create(&s->thread, NULL, send_one, s), 0);
}

static int sent(struct sending *s)
{
        CHECK_EQ(pthread_join(s->thread, NULL), 0);
        return s->result;
}

TEST(a_send_ends_when_the_receiver_has_taken_the_message)
{
        wharf_name right;
        struct hub h = hub_with_right(&right);
        char buf[8];
        for (int i = 0; i < 200; i++) {
                struct sending s = {&h, right, &i, sizeof i, WHARF_FOREVER, 1, 0};
                int n;
                start_sending(&s);
                CHECK_EQ(wharf_recv(h.task, h.port, &n, sizeof n, NULL, WHARF_FOREVER), sizeof n);
                CHECK_EQ(n, i);
                CHECK_EQ(sent(&s), 0);
        }
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), -EAGAIN);
        hub_close(&h);
}

TEST(without_a_receiver_nothing_is_sent_and_nothing_stays)
{
        wharf_name right;
        struct hub h = hub_with_right(&right);
        char buf[8];
        CHECK_EQ(wharf_send(h.task, right, "now", 3, 0), -EAGAIN);
        CHECK_EQ(wharf_send(h.task, right, "soon", 4, wharf_in_ms(5)), -ETIMEDOUT);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, wharf_in_ms(5)), -ETIMEDOUT);
        /* More of them than the lane has room for, and then a message is received all the same. */
        for (int i = 0; i < 60; i++)
                CHECK_EQ(wharf_send(h.task, right, "now", 3, 0), -EAGAIN);
        struct sending s = {&h, right, "kept", 4, WHARF_FOREVER, 1, 0};
        start_sending(&s);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), 4);
        CHECK_MEM(buf, "kept", 4);
        CHECK_EQ(sent(&s), 0);
        hub_close(&h);
}

static int memories_short;

static int short_of_memory(enum wh_os_call call)
{
        return call == WH_OS_memfd_create && memories_short ? memories_short : 0;
}

/* An offer has no way but a lane: short of what a lane needs, it says so, and the next one has all that it needs. */
TEST(a_shortage_is_told_as_such_and_ends)
{
        const int shortages[] = {-ENOMEM, -EMFILE, -ENFILE};
        wharf_name right;
        struct hub h = hub_with_right(&right);
        char buf[8];
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), -EAGAIN); /* which greets */
        wh_os_gate = short_of_memory;
        for (unsigned i = 0; i < sizeof shortages / sizeof *shortages; i++) {
                memories_short = shortages[i];
                CHECK_EQ(wharf_send(h.task, right, "now", 3, 0), shortages[i]);
        }
        wh_os_gate = NULL;
        CHECK_EQ(wharf_send(h.task, right, "now", 3, 0), -EAGAIN); /* nobody takes it */
        struct sending s = {&h, right, "then", 4, WHARF_FOREVER, 1, 0};
        start_sending(&s);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), 4);
        CHECK_EQ(sent(&s), 0);
        hub_close(&h);
}

static int send_at_once_until_taken(void *arg)
{
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        int r;
        CHECK_EQ(wharf_send(t, right, "hello", 5, WHARF_FOREVER), 0); /* connected: one may go before the greeting */
        for (int i = 0; i < 20; i++) {
                while ((r = wharf_send(t, right, &i, sizeof i, 0)) == -EAGAIN)
                        ;
                CHECK_EQ(r, 0);
        }
        wharf_task_close(t);
        return 0;
}

/* Whoever does not wait succeeds only where the other waits: receiver and sender in turn. */
TEST(a_send_that_may_not_wait_is_taken_by_a_receiver_that_waits)
{
        struct hub h = hub_open(RENDEZVOUS);
        char buf[8];
        pid_t pid = test_fork(send_at_once_until_taken, &h);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), 5);
        for (int i = 0, n; i < 20; i++) {
                CHECK_EQ(wharf_recv(h.task, h.port, &n, sizeof n, NULL, WHARF_FOREVER), sizeof n);
                CHECK_EQ(n, i);
        }
        CHECK_EQ(test_wait(pid), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), -EAGAIN);
        hub_close(&h);
}

TEST(a_receive_that_may_not_wait_takes_from_a_sender_that_waits)
{
        wharf_name right;
        struct hub h = hub_with_right(&right);
        char buf[8];
        ssize_t n;
        struct sending s = {&h, right, "wait", 4, WHARF_FOREVER, 1, 0};
        start_sending(&s);
        while ((n = wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0)) == -EAGAIN)
                ;
        CHECK_EQ(n, 4);
        CHECK_EQ(sent(&s), 0);
        hub_close(&h);
}

/* ---- never twice, never lost ---- */

struct tally {
        struct hub hub;
        _Atomic uint64_t sent, sum;
};

static int send_with_short_patience(void *arg)
{
        struct tally *y = arg;
        wharf_name right;
        wharf_task *t = hub_join(&y->hub, &right);
        CHECK_EQ(wharf_send(t, right, "hello", 5, WHARF_FOREVER), 0);
        uint64_t x = (uint64_t)getpid();
        for (uint64_t i = 1; i <= 3000; i++) {
                uint8_t bytes[600] = {0};
                memcpy(bytes, &i, sizeof i);
                x ^= x << 13, x ^= x >> 7, x ^= x << 17;
                int r = wharf_send(t, right, bytes, i % 3 ? 8 : 600, wharf_now_ns() + (int64_t)(x % 60000));
                CHECK(r == 0 || r == -ETIMEDOUT);
                if (r == 0) {
                        atomic_fetch_add(&y->sent, 1);
                        atomic_fetch_add(&y->sum, i);
                }
        }
        CHECK_EQ(wharf_send(t, right, "done", 4, WHARF_FOREVER), 0);
        wharf_task_close(t);
        return 0;
}

/* Deadlines that pass while the receiver takes: what was sent was received, once, and nothing else was. */
TEST(a_message_withdrawn_at_its_deadline_is_never_received_and_one_sent_is_received_once)
{
        struct tally *y = test_shared(sizeof *y);
        y->hub = hub_open(RENDEZVOUS);
        pid_t pid[3];
        for (int i = 0; i < 3; i++)
                pid[i] = test_fork(send_with_short_patience, y);
        uint64_t got = 0, sum = 0, v, last[3] = {0}, from[3];
        unsigned hellos = 0, done = 0;
        while (done < 3) {
                struct wharf_sender who;
                uint8_t bytes[600];
                ssize_t n = wharf_recv(y->hub.task, y->hub.port, bytes, sizeof bytes, &who, WHARF_FOREVER);
                done += n == 4;
                if (n == 5)
                        from[hellos++] = who.id;
                if (n == 4 || n == 5)
                        continue;
                CHECK(n == 8 || n == 600);
                memcpy(&v, bytes, 8);
                for (unsigned i = 0; i < hellos; i++)
                        if (from[i] == who.id) {
                                CHECK(v > last[i]); /* in order, and so never twice */
                                last[i] = v;
                        }
                got++;
                sum += v;
                if (v % 16 == 0)
                        usleep(50); /* some are withdrawn meanwhile */
        }
        for (int i = 0; i < 3; i++)
                CHECK_EQ(test_wait(pid[i]), 0);
        CHECK_EQ(got, y->sent);
        CHECK_EQ(sum, y->sum);
        CHECK(got > 0);
        hub_close(&y->hub);
}

/* ---- everything a message can be ---- */

struct offering {
        struct hub hub;
        struct stage go, there;
        size_t len;
        uint32_t how;
        int result;
};

static int send_of_size(void *arg)
{
        struct offering *f = arg;
        wharf_name right;
        wharf_task *t = hub_join(&f->hub, &right);
        CHECK_EQ(wharf_send(t, right, "hello", 5, WHARF_FOREVER), 0);
        const size_t sizes[] = {0, 1, 40, 256, 257, 5000, 100000, 8 << 20, (8 << 20) + 1, 20 << 20};
        const uint32_t hows[] = {WHARF_HOW_AUTO, WHARF_HOW_SECTION, WHARF_HOW_CHUNKS, WHARF_HOW_MEMORY, WHARF_HOW_COLD};
        uint8_t *bytes = malloc(20 << 20);
        for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
                pattern_fill(bytes, sizes[i], i);
                for (unsigned k = 0; k < sizeof hows / sizeof *hows; k++) {
                        if (hows[k] == WHARF_HOW_SECTION && sizes[i] > WHARF_IN_PLACE_MAX)
                                continue;
                        struct wharf_msg m = MSG(.id = i, .data = bytes, .len_bytes = sizes[i], .how = hows[k]);
                        CHECK_EQ(wharf_sendmsg(t, right, &m, WHARF_FOREVER), 0);
                        CHECK_NE(m.how, WHARF_HOW_COLD);
                }
        }
        free(bytes);
        CHECK_EQ(wharf_send(t, right, "done", 4, WHARF_FOREVER), 0);
        wharf_task_close(t);
        return 0;
}

/* Copied, allocated, and in place: in turn. */
TEST(payloads_of_every_size_and_way_are_offered_and_taken)
{
        struct offering f = {.hub = hub_open(RENDEZVOUS)};
        uint8_t *buf = malloc(20 << 20), *expect = malloc(20 << 20);
        pid_t pid = test_fork(send_of_size, &f);
        CHECK_EQ(wharf_recv(f.hub.task, f.hub.port, buf, 8, NULL, WHARF_FOREVER), 5);
        for (unsigned i = 0, ways[3] = {0, WHARF_RECV_ALLOC, WHARF_RECV_IN_PLACE};; i++) {
                struct wharf_msg m = MSG(.data = buf, .cap_bytes = 20 << 20, .flags = ways[i % 3]);
                CHECK_EQ(wharf_recvmsg(f.hub.task, f.hub.port, &m, WHARF_FOREVER), 0);
                if (m.len_bytes == 4 && !memcmp(m.data, "done", 4)) {
                        wharf_release(f.hub.task, &m);
                        break;
                }
                pattern_fill(expect, m.len_bytes, m.id);
                CHECK_MEM(m.data, expect, m.len_bytes);
                wharf_release(f.hub.task, &m);
        }
        CHECK_EQ(test_wait(pid), 0);
        free(buf);
        free(expect);
        hub_close(&f.hub);
}

/* A payload written in place is still the sender's when nobody took it, and can be offered again. */
TEST(a_reserved_payload_survives_its_withdrawal)
{
        wharf_name right;
        struct hub h = hub_with_right(&right);
        struct wharf_msg m = MSG(.id = 7);
        CHECK_EQ(wharf_reserve(h.task, right, 3000, &m, WHARF_FOREVER), 0);
        memset(m.data, 'p', 3000);
        for (int i = 0; i < 5; i++)
                CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), -EAGAIN);
        CHECK_EQ(((char *)m.data)[2999], 'p');
        CHECK_EQ(wharf_send(h.task, right, "small", 5, 0), -EAGAIN);
        wharf_release(h.task, &m);
        /* Blocks of withdrawn messages come back at once, receiver or no receiver. */
        uint8_t big[60000] = {0};
        for (int i = 0; i < 10; i++)
                CHECK_EQ(wharf_send(h.task, right, big, sizeof big, 0), -EAGAIN);
        struct wharf_right_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_right_stat(h.task, right, &st), 0);
        CHECK_LE(st.shared_bytes, 4 << 20);
        CHECK_EQ(st.sent_messages, 0);
        hub_close(&h);
}

/* The rights of a message that was withdrawn are the sender's again, and those made for it are unmade. */
TEST(rights_come_back_with_a_withdrawn_message)
{
        wharf_name right, mine, to_mine, also;
        struct hub h = hub_with_right(&right);
        CHECK_EQ(wharf_port_new(h.task, NULL, &mine), 0);
        CHECK_EQ(wharf_right_new(h.task, mine, &to_mine), 0);
        CHECK_EQ(wharf_right_new(h.task, mine, &also), 0);
        unsigned fds = count_fds();
        struct wharf_port_stat st = {.size = sizeof st};
        for (int i = 0; i < 20; i++) {
                int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
                struct wharf_item it[4] = {{.kind = WHARF_MAKE_SEND, .name = mine},
                                           {.kind = WHARF_MOVE_FD, .fd = fd},
                                           {.kind = WHARF_MOVE_SEND, .name = to_mine},
                                           {.kind = WHARF_COPY_SEND, .name = also}};
                struct wharf_msg m = MSG(.items = it, .n_items = 4, .data = &i, .len_bytes = sizeof i);
                CHECK_EQ(wharf_sendmsg(h.task, right, &m, i % 2 ? 0 : wharf_in_ms(1)), i % 2 ? -EAGAIN : -ETIMEDOUT);
                CHECK_EQ(close(fd), 0); /* still here */
                CHECK_EQ(wharf_name_kind(h.task, to_mine), WHARF_KIND_SEND);
                char c;
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), -EAGAIN); /* passes over it, and its rights */
                CHECK_EQ(wharf_recv(h.task, mine, &c, 1, NULL, 0), -EAGAIN);
        }
        closes_rest();
        CHECK_EQ(wharf_recv(h.task, mine, &(char){0}, 1, NULL, 0), -EAGAIN); /* which sees them gone */
        CHECK_EQ(wharf_port_stat(h.task, mine, &st), 0);
        CHECK_EQ(st.senders, 2);
        CHECK_LE(count_fds(), fds + 2); /* the lane's own are closed; what the two ports keep may have grown */
        CHECK_EQ(wharf_send(h.task, to_mine, "x", 1, 0), 0);
        hub_close(&h);
}

struct taking {
        struct hub *hub;
        _Atomic int64_t at_ns; /* when to receive; -1: no more */
        _Atomic unsigned tried;
};

/* Drops the ports that it gets. */
static void *take_at(void *arg)
{
        struct taking *a = arg;
        for (int64_t last = 0, at;; last = at) {
                struct wharf_item it;
                struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
                while ((at = atomic_load(&a->at_ns)) == last)
                        usleep(100);
                if (at < 0)
                        return NULL;
                while (wh_os_now_ns() < at)
                        ;
                if (wharf_recvmsg(a->hub->task, a->hub->port, &m, wharf_in_ms(5)) == 0)
                        CHECK_EQ(wharf_drop(a->hub->task, it.name), 0);
                atomic_fetch_add(&a->tried, 1);
        }
}

/*
 * Goal:   a port that was offered, and not taken in time, is its sender's as before: none of its senders has noticed.
 * Method: ports with many senders, so that opening one takes a while; their deadlines fall before, into and behind that.
 */
TEST(ports_come_back_with_a_withdrawn_message)
{
        enum { SENDERS = 60, TRIES = 100, STEP_NS = 40000, AHEAD_NS = 4000000, LONG_NS = 15000000 };
        wharf_name v, p, right[SENDERS];
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS, .capacity_records = WHARF_RENDEZVOUS));
        struct taking a = {.hub = &h};
        pthread_t thread;
        wharf_task *t;
        unsigned came_back = 0;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_right_connect(t, h.path, &v), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, NULL, 0, NULL, 0), -EAGAIN);
        CHECK_EQ(pthread_create(&thread, NULL, take_at, &a), 0);
        for (unsigned k = 0; k < TRIES; k++) {
                CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &p), 0);
                for (unsigned i = 0; i < SENDERS; i++)
                        CHECK_EQ(wharf_right_new(t, p, &right[i]), 0);
                struct wharf_item it = {.kind = WHARF_MOVE_RECEIVE, .name = p};
                struct wharf_msg m = MSG(.items = &it, .n_items = 1);
                const int64_t deadline_ns = wharf_now_ns() + LONG_NS;
                atomic_store(&a.at_ns, deadline_ns - AHEAD_NS + k * STEP_NS);
                const int r = wharf_sendmsg(t, v, &m, deadline_ns);
                CHECK(r == 0 || r == -ETIMEDOUT);
                while (atomic_load(&a.tried) <= k)
                        usleep(100);
                for (unsigned i = 0; i < SENDERS; i++) {
                        struct wharf_right_stat st = {.size = sizeof st};
                        CHECK_EQ(wharf_right_stat(t, right[i], &st), 0);
                        CHECK(r == 0 || !st.dead);
                        CHECK_EQ(wharf_drop(t, right[i]), 0);
                }
                came_back += r < 0;
                if (r < 0)
                        CHECK_EQ(wharf_drop(t, p), 0);
        }
        CHECK_GE(came_back, 1);
        atomic_store(&a.at_ns, -1);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        wharf_task_close(t);
        hub_close(&h);
}

static void *receive_with_rights(void *arg)
{
        struct hub *h = arg;
        struct wharf_item it[2];
        struct wharf_msg m = MSG(.items = it, .cap_items = 2);
        CHECK_EQ(wharf_recvmsg(h->task, h->port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.n_items, 2);
        CHECK_EQ(it[0].kind, WHARF_GOT_SEND);
        CHECK_EQ(it[1].kind, WHARF_GOT_FD);
        CHECK_EQ(wharf_send(h->task, it[0].name, "back", 4, WHARF_FOREVER), 0);
        close(it[1].fd);
        return NULL;
}

TEST(rights_travel_in_a_message_that_is_taken)
{
        wharf_name right, mine;
        struct hub h = hub_with_right(&right);
        pthread_t thread;
        char buf[8];
        CHECK_EQ(wharf_port_new(h.task, NULL, &mine), 0);
        /* Some are withdrawn before: their rights are not mistaken for those of the next. */
        for (int i = 0; i < 3; i++) {
                struct wharf_item one = {.kind = WHARF_COPY_FD, .fd = 0};
                struct wharf_msg gone = MSG(.items = &one, .n_items = 1);
                CHECK_EQ(wharf_sendmsg(h.task, right, &gone, 0), -EAGAIN);
        }
        CHECK_EQ(pthread_create(&thread, NULL, receive_with_rights, &h), 0);
        struct wharf_item it[2] = {{.kind = WHARF_MAKE_SEND, .name = mine}, {.kind = WHARF_COPY_FD, .fd = 0}};
        struct wharf_msg m = MSG(.items = it, .n_items = 2);
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_recv(h.task, mine, buf, sizeof buf, NULL, WHARF_FOREVER), 4);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        hub_close(&h);
}

/* A message that does not fit is not taken: its sender goes on waiting, and may give up. */
TEST(a_message_too_large_for_the_buffer_is_still_the_senders)
{
        wharf_name right;
        struct hub h = hub_with_right(&right);
        char buf[8];
        ssize_t n = -EAGAIN;
        /* It gives up by its deadline; on a busy machine that may be before anybody looked. */
        for (int64_t ms = 20; n != -EOVERFLOW; ms *= 2) {
                const int64_t until = wharf_in_ms(ms);
                struct sending s = {&h, right, "twelve bytes", 12, until, 1, 0};
                start_sending(&s);
                do
                        n = wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0);
                while (n == -EAGAIN && wharf_now_ns() < until);
                CHECK(n == -EOVERFLOW || n == -EAGAIN);
                CHECK_EQ(sent(&s), -ETIMEDOUT);
        }
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), -EAGAIN);
        hub_close(&h);
}

static int serve_two(void *arg)
{
        struct hub *h = arg;
        wharf_name right, mine;
        wharf_task *t = hub_join(h, &right);
        CHECK_EQ(wharf_port_new(t, RENDEZVOUS, &mine), 0);
        struct wharf_item it = {.kind = WHARF_MAKE_SEND, .name = mine};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(t, right, &m, WHARF_FOREVER), 0);
        for (int i = 0; i < 50; i++) {
                char buf[8];
                m = MSG(.data = buf, .cap_bytes = sizeof buf);
                CHECK_EQ(wharf_recvmsg(t, mine, &m, WHARF_FOREVER), 0);
                CHECK(m.reply != WHARF_NONE);
                CHECK_EQ(wharf_reply(t, m.reply, m.data, m.len_bytes), 0);
        }
        wharf_task_close(t);
        return 0;
}

TEST(a_call_to_a_port_of_capacity_zero)
{
        struct hub h = hub_open(NULL);
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        pid_t pid = test_fork(serve_two, &h);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        for (int i = 0; i < 50; i++) {
                int back = -1;
                CHECK_EQ(wharf_call(h.task, it.name, &i, sizeof i, &back, sizeof back, WHARF_FOREVER), sizeof back);
                CHECK_EQ(back, i);
        }
        CHECK_EQ(wharf_call(h.task, it.name, "x", 1, NULL, 0, WHARF_FOREVER), -EPIPE); /* not taken by the dead */
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* Several threads on one right: one offer stands at a time, and each is answered for itself. */
static void *send_many(void *arg)
{
        struct sending *s = arg;
        for (int i = 0; i < 100; i++)
                CHECK_EQ(wharf_send(s->hub->task, s->right, s->bytes, s->len, WHARF_FOREVER), 0);
        return NULL;
}

TEST(several_threads_offer_on_one_right)
{
        wharf_name right;
        struct hub h = hub_with_right(&right);
        struct sending s[4];
        unsigned got[4] = {0};
        for (unsigned i = 0; i < 4; i++) {
                s[i] = (struct sending){.hub = &h, .right = right, .bytes = (const char *)"abcd" + i, .len = 1};
                CHECK_EQ(pthread_create(&s[i].thread, NULL, send_many, &s[i]), 0);
        }
        for (unsigned i = 0; i < 400; i++) {
                char c;
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, WHARF_FOREVER), 1);
                got[c - 'a']++;
        }
        for (unsigned i = 0; i < 4; i++) {
                CHECK_EQ(pthread_join(s[i].thread, NULL), 0);
                CHECK_EQ(got[i], 100);
        }
        hub_close(&h);
}

/* A descriptor for other people's loops is readable while a sender waits, in a set too. */
TEST(an_offer_makes_the_descriptor_of_a_set_readable)
{
        wharf_name right, set;
        struct hub h = hub_with_right(&right);
        char buf[8];
        int fd, taken = 0;
        CHECK_EQ(wharf_set_new(h.task, &set), 0);
        CHECK_EQ(wharf_set_add(h.task, set, h.port), 0);
        CHECK_EQ(wharf_port_fd(h.task, set, &fd), 0);
        struct sending s = {&h, right, "ready", 5, WHARF_FOREVER, 1, 0};
        start_sending(&s);
        while (!taken) {
                struct pollfd p = {.fd = fd, .events = POLLIN};
                CHECK_EQ(poll(&p, 1, 10000), 1);
                ssize_t n = wharf_recv(h.task, set, buf, sizeof buf, NULL, 0);
                CHECK(n == 5 || n == -EAGAIN);
                taken = n == 5;
        }
        CHECK_EQ(sent(&s), 0);
        hub_close(&h);
}

/* ---- deaths ---- */

static int offer_and_wait(void *arg)
{
        struct offering *f = arg;
        wharf_name right;
        wharf_task *t = hub_join(&f->hub, &right);
        CHECK_EQ(wharf_send(t, right, "hello", 5, WHARF_FOREVER), 0);
        wharf_send(t, right, "last words", 10, WHARF_FOREVER);
        return 1; /* only a kill ends this */
}

/* Nobody withdraws the offer of the dead: the receiver may take it, once. */
TEST(the_offer_of_a_killed_sender_can_still_be_taken)
{
        struct offering f = {.hub = hub_open(RENDEZVOUS)};
        char buf[16];
        pid_t pid = test_fork(offer_and_wait, &f);
        CHECK_EQ(wharf_recv(f.hub.task, f.hub.port, buf, sizeof buf, NULL, WHARF_FOREVER), 5);
        ssize_t n;
        while ((n = wharf_recv(f.hub.task, f.hub.port, buf, 1, NULL, 0)) == -EAGAIN)
                ; /* too small on purpose: seen, and not taken */
        CHECK_EQ(n, -EOVERFLOW);
        await_asleep(pid);
        kill_hard(pid);
        CHECK_EQ(wharf_recv(f.hub.task, f.hub.port, buf, sizeof buf, NULL, 0), 10);
        CHECK_MEM(buf, "last words", 10);
        close(f.hub.listen_fd);
        f.hub.listen_fd = -1;
        CHECK_EQ(wharf_recv(f.hub.task, f.hub.port, buf, sizeof buf, NULL, wharf_in_ms(5)), -ETIMEDOUT);
        hub_close(&f.hub);
}

static int own_and_look(void *arg)
{
        struct offering *f = arg;
        wharf_name right, mine;
        char c;
        wharf_task *t = hub_join(&f->hub, &right);
        CHECK_EQ(wharf_port_new(t, RENDEZVOUS, &mine), 0);
        struct wharf_item it = {.kind = WHARF_MAKE_SEND, .name = mine};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(t, right, &m, WHARF_FOREVER), 0);
        while (wharf_recv(t, mine, &c, 1, NULL, 0) != -EOVERFLOW)
                ;
        stage_reach(&f->there);
        pause(); /* it has seen the message, and not taken it */
        return 1;
}

TEST(a_receiver_killed_before_it_takes_has_taken_nothing)
{
        struct offering f = {.hub = hub_open(NULL), .there = stage_new()};
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        pid_t pid = test_fork(own_and_look, &f);
        CHECK_EQ(wharf_recvmsg(f.hub.task, f.hub.port, &m, WHARF_FOREVER), 0);
        struct sending s = {&f.hub, it.name, "unlucky", 7, WHARF_FOREVER, 1, 0};
        start_sending(&s);
        stage_await(&f.there);
        kill_hard(pid);
        CHECK_EQ(sent(&s), -EPIPE);
        stage_done(&f.there);
        hub_close(&f.hub);
}

TEST(dropping_the_right_ends_an_offer)
{
        wharf_name right;
        struct hub h = hub_with_right(&right);
        char buf[8];
        struct sending s = {&h, right, "never", 5, WHARF_FOREVER, 1, 0};
        start_sending(&s);
        while (wharf_recv(h.task, h.port, buf, 1, NULL, 0) != -EOVERFLOW)
                ;
        CHECK_EQ(wharf_drop(h.task, right), 0);
        CHECK_EQ(sent(&s), -ECANCELED);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), -EAGAIN);
        hub_close(&h);
}

/* What is asked to go as a frame goes to no port of capacity zero: a frame cannot be withdrawn. */
TEST(a_frame_is_offered_to_nobody)
{
        struct hub h = hub_open(PORT_OPTS(.capacity_records = WHARF_RENDEZVOUS));
        wharf_name right;
        char c;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        struct wharf_msg m = MSG(.data = BYTES("x"), .len_bytes = 1, .how = WHARF_HOW_COLD);
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, wharf_in_ms(10000)), -EOPNOTSUPP);
        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), -EAGAIN);
        hub_close(&h);
}
