/*
 * What a queue holds: as many messages as its port says, whatever their size, and so many bytes of larger ones; and
 * that what was received makes room at once.
 */
#include "hub.h"
#include "os/os.h"

#include <poll.h>
#include <sched.h>
#include <stdatomic.h>

static char bytes[9 << 20], buf[9 << 20];

/* One message of `len` bytes, tried. */
static int try_one(const struct hub *h, wharf_name right, size_t len)
{
        return wharf_send(h->task, right, bytes, len, 0);
}

static void take(const struct hub *h, unsigned n)
{
        while (n--)
                CHECK_GE(wharf_recv(h->task, h->port, buf, sizeof buf, NULL, 0), 0);
}

static uint32_t full_by(const struct hub *h, wharf_name right)
{
        struct wharf_right_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_right_stat(h->task, right, &st), 0);
        return st.full;
}

static void fill(const struct hub *h, wharf_name right, unsigned n, size_t len)
{
        for (unsigned i = 0; i < n; i++) {
                int r = try_one(h, right, len);
                if (r < 0)
                        CHECK_EQ(i, n); /* says how many there were */
        }
        CHECK_EQ(try_one(h, right, len), -EAGAIN);
}

/* Then k are received, in several ways, and exactly k more fit, at once. */
static void holds(uint32_t capacity, size_t len)
{
        struct hub h = hub_open(PORT_OPTS(.capacity_records = capacity));
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        fill(&h, right, capacity, len);
        CHECK_EQ(full_by(&h, right), WHARF_FULL_RECORDS);
        CHECK_EQ(try_one(&h, right, len), -EAGAIN);
        CHECK(strstr(wharf_why(), "capacity_records") != NULL);
        for (unsigned k = 1; k <= capacity; k = k < 8 ? k + 1 : k * 5) {
                take(&h, k);
                fill(&h, right, k, len);
        }
        take(&h, capacity);
        fill(&h, right, capacity, len);
        hub_close(&h);
}

TEST(a_capacity_is_messages_of_any_size)
{
        static const size_t lens[] = {0, 1, 200, 256, 257, 1000, WHARF_SMALL_MAX};
        for (unsigned i = 0; i < sizeof lens / sizeof *lens; i++) {
                holds(1, lens[i]);
                holds(1024, lens[i]);
        }
        holds(8192, 200);
        holds(8192, 1000);
        holds(1024, 4096);
        holds(1024, 30000);
        holds(200, 100000);
        holds(3, 4 << 20);
}

TEST(the_largest_capacity_is_held)
{
        holds(65536, 200);
        holds(65536, 1000);
}

/* Sizes that travel in different ways, in one queue. */
TEST(a_capacity_is_messages_of_mixed_sizes)
{
        enum { CAPACITY = 2000 };
        struct hub h = hub_open(PORT_OPTS(.capacity_records = CAPACITY));
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        unsigned unread = 0;
        uint32_t first = 0, next = 0;
        for (unsigned round = 0; round < 20; round++) {
                while (unread < CAPACITY) {
                        size_t len = sizeof next + (next * 7919u) % (next % 7 ? 500 : 20000);
                        memcpy(bytes, &next, sizeof next);
                        CHECK_EQ(try_one(&h, right, len), 0);
                        next++;
                        unread++;
                }
                CHECK_EQ(try_one(&h, right, 4), -EAGAIN);
                for (unsigned n = 1 + (unsigned)(test_random() % CAPACITY); n; n--) {
                        uint32_t got;
                        size_t len = sizeof got + (first * 7919u) % (first % 7 ? 500 : 20000);
                        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), (ssize_t)len);
                        memcpy(&got, buf, sizeof got);
                        CHECK_EQ(got, first);
                        first++;
                        unread--;
                }
        }
        hub_close(&h);
}

/* Larger messages end at the bytes, and the sender can see that it was these; one that is alone always goes. */
TEST(larger_messages_end_at_capacity_bytes)
{
        struct hub h = hub_open(PORT_OPTS(.capacity_records = 1000, .capacity_bytes = 1 << 20));
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        fill(&h, right, 256, 4096);
        CHECK_EQ(full_by(&h, right), WHARF_FULL_BYTES);
        CHECK_EQ(try_one(&h, right, 4096), -EAGAIN);
        CHECK(strstr(wharf_why(), "capacity_bytes") != NULL);
        for (unsigned i = 256; i < 1000; i++) /* which small ones do not need */
                CHECK_EQ(try_one(&h, right, WHARF_SMALL_MAX), 0);
        CHECK_EQ(try_one(&h, right, 1), -EAGAIN);
        CHECK_EQ(full_by(&h, right), WHARF_FULL_RECORDS);
        take(&h, 1000);
        CHECK_EQ(try_one(&h, right, 3 << 20), 0);
        CHECK_EQ(try_one(&h, right, 4096), -EAGAIN);
        take(&h, 1);
        fill(&h, right, 256, 4096);
        take(&h, 3);
        fill(&h, right, 3, 4096);
        hub_close(&h);
}

/*
 * Goal:   what was sent is received, also where the sender cannot keep the numbers of all records that are no messages.
 * Method: messages in parts, more than it keeps apart, and then small ones: somewhere the ring is full when one message
 *         more may be sent, and the record that leads to the next ring takes its place.
 */
TEST(a_ring_that_grows_into_the_last_place_loses_no_message)
{
        enum { IN_PARTS = 45 };
        for (uint32_t capacity = 130; capacity < 140; capacity++) {
                struct hub h = hub_open(PORT_OPTS(.capacity_records = capacity, .capacity_bytes = 64 << 20));
                wharf_name right;
                uint32_t sent = 0, got;
                CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
                for (; sent < IN_PARTS; sent++) {
                        struct wharf_msg m = MSG(.data = bytes, .len_bytes = (128 << 10) + 1, .how = WHARF_HOW_CHUNKS);
                        memcpy(bytes, &sent, sizeof sent);
                        CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
                }
                for (int r = 0; r == 0; sent += r == 0) {
                        memcpy(bytes, &sent, sizeof sent);
                        r = try_one(&h, right, 256);
                        CHECK(r == 0 || r == -EAGAIN);
                }
                for (uint32_t i = 0; i < sent; i++) {
                        CHECK_GE(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), (int)sizeof got);
                        memcpy(&got, buf, sizeof got);
                        CHECK_EQ(got, i);
                }
                hub_close(&h);
        }
}

static int refuse_malloc(enum wh_os_call call)
{
        return call == WH_OS_malloc ? -ENOMEM : 0;
}

/* Nobody gives back a place in an empty queue: what finds no memory to be counted in goes all the same. */
TEST(an_empty_queue_is_not_full_for_want_of_memory)
{
        struct hub h = hub_open(NULL);
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (unsigned i = 0; i < 20; i++) { /* with a section, and a lane */
                struct wharf_msg m = MSG(.data = bytes, .len_bytes = WHARF_SMALL_MAX, .how = WHARF_HOW_SECTION);
                CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
                take(&h, 1);
        }
        wh_os_gate = refuse_malloc;
        int r = wharf_send(h.task, right, bytes, WHARF_SMALL_MAX + 1, wharf_in_ms(1000));
        wh_os_gate = NULL;
        CHECK_EQ(r, 0);
        take(&h, 1);
        hub_close(&h);
}

/* What waits costs memory, and what might wait does not; and what was read is given back. */
TEST(memory_grows_with_what_is_unread)
{
        struct hub h = hub_open(PORT_OPTS(.capacity_records = 65536));
        struct wharf_right_stat st = {.size = sizeof st};
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (unsigned i = 0; i < 40; i++) {
                CHECK_EQ(try_one(&h, right, 64), 0);
                take(&h, 1);
        }
        CHECK_EQ(wharf_right_stat(h.task, right, &st), 0);
        CHECK_EQ(st.attached, 1);
        CHECK_LE(st.shared_bytes, 152 << 10);
        for (unsigned i = 0; i < 20000; i++)
                CHECK_EQ(try_one(&h, right, 200), 0);
        CHECK_EQ(wharf_right_stat(h.task, right, &st), 0);
        CHECK_GE(st.shared_bytes, 20000 * 256);
        take(&h, 20000);
        for (unsigned i = 0; st.shared_bytes > 152 << 10; i++) { /* looked at once a millisecond at most */
                CHECK_LE(i, 100000000);
                CHECK_EQ(try_one(&h, right, 64), 0);
                take(&h, 1);
                CHECK_EQ(wharf_right_stat(h.task, right, &st), 0);
        }
        hub_close(&h);
}

static unsigned memories;

static int count_memories(enum wh_os_call call)
{
        memories += call == WH_OS_memfd_create;
        return 0;
}

/* The memory of a burst is given back once. What goes on in little memory then does not make it anew again and again. */
TEST(memory_is_given_back_once)
{
        struct hub h = hub_open(NULL);
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (unsigned i = 0; i < 600; i++)
                CHECK_EQ(try_one(&h, right, i < 300 ? 40000 : 300), 0);
        take(&h, 600);
        wh_os_gate = count_memories;
        for (unsigned i = 0; i < 240; i++) {
                if (i % 8 == 7)
                        usleep(1500); /* longer than a sender goes on without looking what it might give back */
                CHECK_EQ(try_one(&h, right, i % 8 == 7 ? 10 : 4096), 0);
                take(&h, 1);
        }
        wh_os_gate = NULL;
        CHECK_GE(memories, 1);
        CHECK_LE(memories, 4);
        hub_close(&h);
}

/* Payloads held in place, that are received, wait no more: as many messages fit as ever. */
TEST(held_payloads_are_not_unread)
{
        enum { CAPACITY = 300 };
        struct hub h = hub_open(PORT_OPTS(.capacity_records = CAPACITY));
        static struct wharf_msg held[CAPACITY];
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        fill(&h, right, CAPACITY, 1000);
        for (unsigned i = 0; i < CAPACITY; i++) {
                held[i] = MSG(.flags = WHARF_RECV_IN_PLACE);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &held[i], 0), 0);
        }
        fill(&h, right, CAPACITY, 1000);
        take(&h, CAPACITY);
        fill(&h, right, CAPACITY, 1000);
        for (unsigned i = 0; i < CAPACITY; i++)
                wharf_release(h.task, &held[i]);
        hub_close(&h);
}

/* Requests for direct replies, messages in pieces that were given up, and one that was left take no other's place. */
TEST(what_goes_beside_takes_no_place)
{
        enum { CAPACITY = 40 };
        struct hub h = hub_open(PORT_OPTS(.capacity_records = CAPACITY));
        uint32_t calls[CAPACITY + 1];
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (unsigned i = 0; i < 20; i++) { /* the lane is there */
                CHECK_EQ(try_one(&h, right, 1), 0);
                take(&h, 1);
        }
        for (unsigned i = 0; i < CAPACITY; i++) {
                struct wharf_msg req =
                        MSG(.data = bytes, .len_bytes = 8, .flags = WHARF_REPLY_DIRECT, .cap_bytes = 100000);
                CHECK_EQ(wharf_call_start(h.task, right, &req, WHARF_NONE, 0, &calls[i]), 0);
        }
        CHECK_EQ(try_one(&h, right, 1), -EAGAIN);
        struct wharf_msg left = MSG(.data = bytes, .len_bytes = 8, .flags = WHARF_SEND_LATER);
        CHECK_EQ(wharf_sendmsg(h.task, right, &left, 0), 1);
        take(&h, 3);
        fill(&h, right, 2, 200);
        for (unsigned i = 0; i < CAPACITY; i++)
                CHECK_EQ(wharf_call_cancel(h.task, right, calls[i]), 0);
        take(&h, CAPACITY);
        fill(&h, right, CAPACITY, 200);
        hub_close(&h);
}

/* A port that moves takes its capacity along, with what is unread; and a right that was rebound knows it. */
TEST(a_moved_port_has_its_capacity)
{
        enum { CAPACITY = 700 };
        struct hub h = hub_open(NULL);
        wharf_name right, to, port;
        struct wharf_port_opts o = {.size = sizeof o, .capacity_records = CAPACITY, .capacity_bytes = 1 << 20};
        CHECK_EQ(wharf_port_new(h.task, &o, &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &to), 0);
        for (unsigned i = 0; i < CAPACITY; i++)
                CHECK_EQ(wharf_send(h.task, right, bytes, 400, 0), 0);
        CHECK_EQ(wharf_send(h.task, right, bytes, 400, 0), -EAGAIN);
        struct wharf_item item = {.kind = WHARF_MOVE_RECEIVE, .name = port}, got;
        struct wharf_msg m = MSG(.items = &item, .n_items = 1), r = MSG(.items = &got, .cap_items = 1);
        CHECK_EQ(wharf_sendmsg(h.task, to, &m, 0), 0);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &r, 0), 0);
        CHECK_EQ(got.kind, WHARF_GOT_RECEIVE);
        for (unsigned round = 0; round < 3; round++) {
                for (unsigned i = 0; i < CAPACITY; i++)
                        CHECK_EQ(wharf_recv(h.task, got.name, buf, sizeof buf, NULL, 0), 400);
                unsigned n = 0;
                while (wharf_send(h.task, right, bytes, 400, 0) == 0)
                        CHECK_LE(++n, CAPACITY);
                CHECK_EQ(n, CAPACITY);
        }
        for (unsigned i = 0; i < CAPACITY; i++)
                CHECK_EQ(wharf_recv(h.task, got.name, buf, sizeof buf, NULL, 0), 400);
        for (unsigned i = 0; i < 16; i++)
                CHECK_EQ(wharf_send(h.task, right, bytes, 64 << 10, 0), 0);
        CHECK_EQ(wharf_send(h.task, right, bytes, 64 << 10, 0), -EAGAIN);
        hub_close(&h);
}

/* Also where few messages came as frames before the lane that ended: the next lane counts from the first one on. */
TEST(a_moved_port_has_its_capacity_from_the_first_message_on)
{
        enum { CAPACITY = 12 };
        struct hub h = hub_open(NULL);
        wharf_name port, to, right;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.capacity_records = CAPACITY), &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &to), 0);
        struct wharf_msg first = MSG(.data = bytes, .len_bytes = 400, .how = WHARF_HOW_SECTION);
        CHECK_EQ(wharf_sendmsg(h.task, right, &first, 0), 0);
        CHECK_EQ(wharf_recv(h.task, port, buf, sizeof buf, NULL, 0), 400);
        struct wharf_item item = {.kind = WHARF_MOVE_RECEIVE, .name = port}, got;
        struct wharf_msg m = MSG(.items = &item, .n_items = 1), r = MSG(.items = &got, .cap_items = 1);
        CHECK_EQ(wharf_sendmsg(h.task, to, &m, 0), 0);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &r, 0), 0);
        for (unsigned round = 0; round < 20; round++) {
                usleep(1500); /* longer than a sender goes on without looking at its socket, which says that it moved */
                unsigned n = 0;
                while (wharf_send(h.task, right, bytes, 40, 0) == 0)
                        CHECK_LE(++n, CAPACITY);
                CHECK_EQ(n, CAPACITY);
                while (n--)
                        CHECK_EQ(wharf_recv(h.task, got.name, buf, sizeof buf, NULL, 0), 40);
        }
        hub_close(&h);
}

/* ---- room is told when there is room ---- */

static _Atomic unsigned *sent; /* by the other process */

static int send_until_told(void *arg)
{
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        for (unsigned i = 0; i < 200; i++) {
                CHECK_EQ(wharf_send(t, right, bytes, 200, WHARF_FOREVER), 0);
                atomic_fetch_add(sent, 1);
        }
        wharf_task_close(t);
        return 0;
}

/* One is received, and a sender that waits has its place, though nothing more is received and nobody looks. */
TEST(a_waiting_sender_is_told_of_one_place)
{
        struct hub h = hub_open(PORT_OPTS(.capacity_records = 100));
        sent = mmap(NULL, sizeof *sent, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        pid_t pid = test_fork(send_until_told, &h);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), 200);
        for (unsigned i = 1; i < 100; i++) {
                /* The sender sends all that it may, what was received before and what fits: in its sleep, if it must.
                 */
                while (atomic_load(sent) < 100 + i)
                        sched_yield();
                CHECK_EQ(atomic_load(sent), 100 + i);
                CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), 200);
        }
        for (unsigned i = 100; i < 200; i++)
                CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), 200);
        CHECK_EQ(test_wait(pid), 0);
        munmap((void *)sent, sizeof *sent);
        hub_close(&h);
}

/* A notice of room comes for the first that was received. */
TEST(a_notice_of_room_comes_with_the_first_place)
{
        struct hub h = hub_open(PORT_OPTS(.capacity_records = 1024));
        wharf_task *t;
        wharf_name right, port;
        int fd;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_right_connect(t, h.path, &right), 0);
        CHECK_EQ(wharf_send(t, right, bytes, 200, 0), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), 200);
        unsigned n = 0;
        while (wharf_send(t, right, bytes, 200, 0) == 0)
                CHECK_LE(++n, 1024);
        CHECK_EQ(n, 1024);
        CHECK_EQ(wharf_port_fd(t, port, &fd), 0);
        struct wharf_msg m = MSG(0);
        CHECK_EQ(wharf_notify(t, WHARF_NOTICE_SEND_POSSIBLE, right, port, 0), 0);
        CHECK_EQ(wharf_recvmsg(t, port, &m, 0), -EAGAIN);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), 200);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        CHECK_EQ(poll(&p, 1, 10000), 1);
        CHECK_EQ(wharf_recvmsg(t, port, &m, 0), 0);
        CHECK_EQ(m.notice, WHARF_NOTICE_SEND_POSSIBLE);
        CHECK_EQ(wharf_send(t, right, bytes, 200, 0), 0);
        CHECK_EQ(wharf_send(t, right, bytes, 200, 0), -EAGAIN);
        wharf_task_close(t);
        hub_close(&h);
}

/* ---- where no shared memory can be made ---- */

static int no_memfd(enum wh_os_call call)
{
        return call == WH_OS_memfd_create ? -EPERM : 0;
}

/* Frames on the socket are counted, and each that was received makes room at once. */
TEST(a_capacity_holds_without_shared_memory)
{
        wh_os_gate = no_memfd;
        for (uint32_t capacity = 1; capacity <= 200; capacity += 33) {
                struct hub h = hub_open(PORT_OPTS(.capacity_records = capacity));
                wharf_name right;
                CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
                for (unsigned round = 0; round < 3; round++) {
                        fill(&h, right, capacity, 8);
                        for (unsigned k = 1; k <= capacity; k *= 3) {
                                take(&h, k);
                                fill(&h, right, k, 8);
                        }
                        take(&h, capacity);
                }
                hub_close(&h);
        }
        /* What the socket holds, and no more. */
        struct hub h = hub_open(NULL);
        wharf_name right;
        unsigned n = 0;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        while (try_one(&h, right, 8) == 0)
                n++;
        CHECK_GE(n, 200);
        CHECK_EQ(full_by(&h, right), n == 1024 ? WHARF_FULL_RECORDS : WHARF_FULL_MEMORY);
        CHECK_EQ(try_one(&h, right, 8), -EAGAIN);
        CHECK(strstr(wharf_why(), n == 1024 ? "capacity_records" : "no memory") != NULL);
        for (unsigned k = 1; k < 20; k++) {
                take(&h, k);
                for (unsigned i = 0; i < k; i++)
                        CHECK_EQ(try_one(&h, right, 8), 0);
        }
        hub_close(&h);
        wh_os_gate = NULL;
}

/* ---- payloads are aligned ---- */

static void aligned(const void *p)
{
        CHECK_EQ((uintptr_t)p % WHARF_PAYLOAD_ALIGN, 0);
}

/* However they came, and whatever came before. */
TEST(payloads_given_out_are_aligned)
{
        struct hub h = hub_open(NULL);
        wharf_name right;
        pattern_fill(bytes, sizeof bytes, 5);
        for (uint32_t how = WHARF_HOW_AUTO; how <= WHARF_HOW_DIRECT; how++) {
                static const size_t lens[] = {0, 1, 7, 40, 56, 57, 200, 255, 256, 257, 1000, 5000, 100000, 9 << 20};
                CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
                for (unsigned i = 0; i < 40 * sizeof lens / sizeof *lens; i++) {
                        size_t len = lens[i % 14];
                        if ((len > 1000 && i >= 28) || (len > WHARF_IN_PLACE_MAX && how == WHARF_HOW_SECTION) ||
                            (len > 1000 && how == WHARF_HOW_INLINE))
                                continue;
                        if (how == WHARF_HOW_DIRECT || (len > WHARF_IN_PLACE_MAX && how != WHARF_HOW_MEMORY))
                                continue; /* these wait for their receiver */
                        struct wharf_msg m = MSG(.data = bytes, .len_bytes = len, .how = how), got;
                        CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
                        got = MSG(.flags = i % 3 ? WHARF_RECV_IN_PLACE : WHARF_RECV_ALLOC);
                        CHECK_EQ(wharf_recvmsg(h.task, h.port, &got, 0), 0);
                        CHECK_EQ(got.len_bytes, len);
                        aligned(got.data);
                        if (len)
                                CHECK_MEM(got.data, bytes, len);
                        wharf_release(h.task, &got);
                        m = MSG(0);
                        if (len > WHARF_IN_PLACE_MAX)
                                continue;
                        CHECK_EQ(wharf_reserve(h.task, right, len, &m, 0), 0);
                        aligned(m.data);
                        wharf_release(h.task, &m);
                }
                CHECK_EQ(wharf_drop(h.task, right), 0);
        }
        hub_close(&h);
}

static int serve_sizes(void *arg)
{
        struct hub *h = arg;
        wharf_name right;
        wharf_task *t = hub_join(h, &right);
        static const size_t lens[] = {1, 57, 256, 300, 5000, 100000, 9 << 20};
        for (unsigned i = 0; i < 6 * 7; i++) {
                struct wharf_msg m = MSG(.data = bytes, .len_bytes = lens[i % 7],
                                         .how = i / 7 == 1 ? WHARF_HOW_DIRECT : WHARF_HOW_AUTO);
                CHECK_EQ(wharf_sendmsg(t, right, &m, WHARF_FOREVER), 0);
                struct wharf_msg req = MSG(.data = bytes, .len_bytes = 1, .cap_bytes = lens[i % 7],
                                           .flags = i % 2 ? WHARF_REPLY_DIRECT : 0),
                                 reply = MSG(.flags = WHARF_RECV_IN_PLACE);
                CHECK_EQ(wharf_callmsg(t, right, &req, &reply, WHARF_FOREVER), 0);
                aligned(reply.data);
                CHECK_EQ(reply.len_bytes, lens[i % 7]);
                wharf_release(t, &reply);
        }
        wharf_task_close(t);
        return 0;
}

/* In pieces and read directly, from another process; and replies. */
TEST(payloads_from_elsewhere_and_replies_are_aligned)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(serve_sizes, &h);
        for (unsigned i = 0; i < 6 * 7; i++) {
                struct wharf_msg got = MSG(.flags = WHARF_RECV_IN_PLACE), req = MSG(.flags = WHARF_RECV_IN_PLACE);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &got, WHARF_FOREVER), 0);
                aligned(got.data);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &req, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_reply(h.task, req.reply, bytes, got.len_bytes), 0);
                wharf_release(h.task, &req);
                wharf_release(h.task, &got);
        }
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}
