/*
 * A queue without a bound: a send never waits for the receiver; what is unread costs the sender memory, until it is
 * read.
 */
#include "hub.h"

#define UNBOUNDED(...) PORT_OPTS(.capacity_records = WHARF_UNBOUNDED, __VA_ARGS__)

static uint64_t shared_bytes(wharf_task *t, wharf_name right)
{
        struct wharf_right_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_right_stat(t, right, &st), 0);
        CHECK_EQ(st.dead, 0);
        return st.shared_bytes;
}

static uint64_t mapped_bytes(wharf_task *t, wharf_name port)
{
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(t, port, &st), 0);
        CHECK_EQ(st.refused_links, 0);
        return st.mapped_bytes;
}

/* One by one, so that the sender notices that all is read; until it has let go of what the flood had needed. */
static void settle(struct hub *h, wharf_name right, uint64_t sender_max, uint64_t receiver_max)
{
        char c;
        for (unsigned i = 0; i < 1000000; i++) {
                CHECK_EQ(wharf_send(h->task, right, "s", 1, 0), 0);
                CHECK_EQ(wharf_recv(h->task, h->port, &c, 1, NULL, 0), 1);
                CHECK_EQ(wharf_recv(h->task, h->port, &c, 1, NULL, 0), -EAGAIN);
                if (shared_bytes(h->task, right) <= sender_max && mapped_bytes(h->task, h->port) <= receiver_max)
                        return;
        }
        CHECK_LE(shared_bytes(h->task, right), sender_max);
        CHECK_LE(mapped_bytes(h->task, h->port), receiver_max);
}

TEST(a_million_messages_wait_unread_and_arrive_in_order_and_the_memory_is_given_back)
{
        struct hub h = hub_open(UNBOUNDED());
        wharf_name right;
        enum { N = 1000000 };
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (uint32_t i = 0; i < N; i++)
                CHECK_EQ(wharf_send(h.task, right, &i, sizeof i, 0), 0);
        CHECK_GE(shared_bytes(h.task, right), N * 64);
        for (uint32_t i = 0, n; i < N; i++) {
                CHECK_EQ(wharf_recv(h.task, h.port, &n, sizeof n, NULL, 0), sizeof n);
                CHECK_EQ(n, i);
                if (i % 100000 == 0) /* the receiver maps the ring it reads and the one behind it, never all */
                        CHECK_LE(mapped_bytes(h.task, h.port), 9 << 20);
        }
        settle(&h, right, 160 << 10, 160 << 10);
        hub_close(&h);
}

static int flood_and_die(void *arg)
{
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        CHECK_EQ(wharf_send(t, right, "hello", 5, WHARF_FOREVER), 0);
        wharf_name mine;
        CHECK_EQ(wharf_port_new(t, NULL, &mine), 0);
        for (uint32_t i = 0; i < 30000; i++) {
                uint8_t bytes[1000];
                struct wharf_item it = {.kind = i % 2 ? WHARF_COPY_FD : WHARF_MAKE_SEND, .name = i % 2 ? 0 : mine};
                bool rights = i > 16 && i % 1000 == 999;
                pattern_fill(bytes, sizeof bytes, i);
                struct wharf_msg m = MSG(.id = i, .data = bytes, .len_bytes = i % 5 ? 8 : 100 + i % 900, .items = &it,
                                         .n_items = rights);
                int r;
                while ((r = wharf_sendmsg(t, right, &m, 0)) == -EAGAIN && i == 0)
                        ; /* not greeted yet: what the port takes is not known */
                CHECK_EQ(r, 0);
        }
        kill(getpid(), SIGKILL);
        return 1;
}

/* Rings, sections and rights behind one another; the sender is dead before anything is read. */
TEST(what_a_killed_sender_left_unread_in_many_rings_is_received_in_order)
{
        struct hub h = hub_open(UNBOUNDED(.unread_rights_max = 100));
        char hello[8];
        uint8_t expect[1000];
        pid_t pid = test_fork(flood_and_die, &h);
        CHECK_EQ(wharf_recv(h.task, h.port, hello, sizeof hello, NULL, WHARF_FOREVER), 5);
        CHECK_EQ(test_wait(pid), 128 + SIGKILL);
        for (uint32_t i = 0; i < 30000; i++) {
                struct wharf_item it;
                struct wharf_msg m = MSG(.items = &it, .cap_items = 1, .flags = WHARF_RECV_IN_PLACE);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(m.id, i);
                CHECK_EQ(m.len_bytes, i % 5 ? 8 : 100 + i % 900);
                pattern_fill(expect, sizeof expect, i);
                CHECK_MEM(m.data, expect, m.len_bytes);
                CHECK_EQ(m.n_items, i > 16 && i % 1000 == 999);
                if (m.n_items && it.kind == WHARF_GOT_FD)
                        close(it.fd);
                else if (m.n_items)
                        CHECK_EQ(wharf_drop(h.task, it.name), 0);
                wharf_release(h.task, &m);
        }
        while (mapped_bytes(h.task, h.port))
                CHECK_LE(wharf_recv(h.task, h.port, hello, sizeof hello, NULL, 0), 0);
        hub_close(&h);
}

/* Large payloads: blocks, then the ring, then memories of their own; and the sections are given back, too. */
TEST(large_messages_wait_unread_and_their_sections_are_given_back)
{
        struct hub h = hub_open(UNBOUNDED(.link_mapped_bytes_max = 256 << 20));
        const size_t sizes[] = {300, 4000, 30000, 300000, 9 << 20};
        const unsigned counts[] = {3000, 3000, 1200, 40, 3};
        uint8_t *bytes = malloc(9 << 20), *got = malloc(9 << 20);
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (unsigned k = 0; k < sizeof sizes / sizeof *sizes; k++) {
                for (unsigned i = 0; i < counts[k]; i++) {
                        pattern_fill(bytes, sizes[k] < 4096 ? sizes[k] : 4096, i);
                        CHECK_EQ(wharf_send(h.task, right, bytes, sizes[k], 0), 0);
                }
                for (unsigned i = 0; i < counts[k]; i++) {
                        pattern_fill(bytes, sizes[k] < 4096 ? sizes[k] : 4096, i);
                        CHECK_EQ(wharf_recv(h.task, h.port, got, 9 << 20, NULL, 0), sizes[k]);
                        CHECK_MEM(got, bytes, sizes[k] < 4096 ? sizes[k] : 4096);
                }
        }
        settle(&h, right, 160 << 10, 160 << 10);
        free(bytes);
        free(got);
        hub_close(&h);
}

/* Payloads held in place stay readable while the rings and sections they lie in are left behind. */
TEST(payloads_held_in_place_outlive_the_ring_they_came_in)
{
        struct hub h = hub_open(UNBOUNDED());
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (uint32_t i = 0; i < 100; i++) {
                uint64_t words[200];
                for (unsigned k = 0; k < 200; k++)
                        words[k] = i * 1000 + k;
                CHECK_EQ(wharf_send(h.task, right, words, i % 2 ? 16 : sizeof words, 0), 0);
        }
        struct wharf_msg held[100];
        for (uint32_t i = 0; i < 100; i++) {
                held[i] = MSG(.flags = WHARF_RECV_IN_PLACE);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &held[i], 0), 0);
        }
        for (uint32_t i = 0, n; i < 200000; i++) { /* many rings later */
                CHECK_EQ(wharf_send(h.task, right, &i, sizeof i, 0), 0);
                if (i % 50000 == 49999)
                        for (uint32_t k = i - 49999; k <= i; k++) {
                                CHECK_EQ(wharf_recv(h.task, h.port, &n, sizeof n, NULL, 0), sizeof n);
                                CHECK_EQ(n, k);
                        }
        }
        for (uint32_t i = 0; i < 100; i++) {
                const uint64_t *words = held[i].data;
                CHECK_EQ(words[0], i * 1000);
                CHECK_EQ(words[held[i].len_bytes / 8 - 1], i * 1000 + held[i].len_bytes / 8 - 1);
        }
        for (uint32_t i = 0; i < 100; i++)
                wharf_release(h.task, &held[i]);
        settle(&h, right, 160 << 10, 160 << 10);
        hub_close(&h);
}

TEST(the_limit_of_an_unbounded_queue_is_named_and_what_was_sent_stays)
{
        struct hub h = hub_open(UNBOUNDED(.link_mapped_bytes_max = 1 << 20));
        wharf_name right;
        uint32_t sent = 0, n;
        int r;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        while ((r = wharf_send(h.task, right, &sent, sizeof sent, WHARF_FOREVER)) == 0)
                sent++;
        CHECK_EQ(r, -EDQUOT);
        CHECK_GE(sent, 4000);
        CHECK_LE(shared_bytes(h.task, right), 1 << 20);
        for (uint32_t i = 0; i < sent; i++) {
                CHECK_EQ(wharf_recv(h.task, h.port, &n, sizeof n, NULL, 0), sizeof n);
                CHECK_EQ(n, i);
        }
        CHECK_EQ(wharf_recv(h.task, h.port, &n, sizeof n, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_send(h.task, right, &n, sizeof n, 0), 0); /* and there is room again */
        CHECK_EQ(wharf_recv(h.task, h.port, &n, sizeof n, NULL, 0), sizeof n);
        hub_close(&h);
}

static int send_steadily(void *arg)
{
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        uint32_t i = 0;
        CHECK_EQ(wharf_send(t, right, &i, sizeof i, WHARF_FOREVER), 0);
        for (i = 1; i < 300000; i++)
                CHECK_EQ(wharf_send(t, right, &i, sizeof i, WHARF_FOREVER), 0);
        wharf_task_close(t);
        return 0;
}

/* Both at work: rings grow and shrink under the receiver's hands. */
TEST(an_unbounded_queue_between_processes_keeps_its_order)
{
        struct hub h = hub_open(UNBOUNDED());
        pid_t pid[2] = {test_fork(send_steadily, &h), test_fork(send_steadily, &h)};
        uint64_t ids[2] = {0};
        uint32_t next[2] = {0};
        for (unsigned k = 0; k < 600000; k++) {
                struct wharf_sender who;
                uint32_t n;
                CHECK_EQ(wharf_recv(h.task, h.port, &n, sizeof n, &who, WHARF_FOREVER), sizeof n);
                unsigned i = ids[0] == who.id ? 0 : ids[1] == who.id ? 1 : ids[0] ? 1 : 0;
                ids[i] = who.id;
                CHECK_EQ(n, next[i]);
                next[i]++;
                if (k % 50000 == 0)
                        usleep(2000); /* and a burst waits */
        }
        CHECK_EQ(test_wait(pid[0]), 0);
        CHECK_EQ(test_wait(pid[1]), 0);
        hub_close(&h);
}
