/*
 * Messages between real processes: every size by every way, order, identity, full queues, and the death of either side.
 */
#include "hub.h"

#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>

/* ---- every size by every way ---- */

static const size_t sizes[] = {0,
                               1,
                               7,
                               8,
                               63,
                               64,
                               65,
                               255,
                               256,
                               257,
                               1000,
                               2032,
                               2033,
                               4096,
                               16383,
                               16384,
                               16385,
                               65536,
                               131072,
                               131073,
                               1u << 20,
                               3000001,
                               WHARF_IN_PLACE_MAX,
                               WHARF_IN_PLACE_MAX + 1,
                               20000003};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static bool way_takes(uint32_t how, size_t len)
{
        return how == WHARF_HOW_INLINE ? len <= 2032 : how == WHARF_HOW_SECTION ? len <= WHARF_IN_PLACE_MAX : true;
}

static int send_all_sizes(void *arg)
{
        struct hub *h = arg;
        wharf_name right;
        wharf_task *t = hub_join(h, &right);
        uint8_t *bytes = malloc(sizes[N_SIZES - 1]);
        for (uint32_t how = WHARF_HOW_AUTO; how <= WHARF_HOW_MEMORY; how++)
                for (unsigned i = 0; i < N_SIZES; i++) {
                        pattern_fill(bytes, sizes[i], how * 100 + i);
                        struct wharf_msg m =
                                MSG(.data = bytes, .len_bytes = sizes[i], .how = how, .id = checksum(bytes, sizes[i]));
                        int r = wharf_sendmsg(t, right, &m, WHARF_FOREVER);
                        CHECK_EQ(r, way_takes(how, sizes[i]) ? 0 : -EINVAL);
                }
        /* The first messages of a link of its own, and all that say so, are frames. */
        wharf_name cold;
        CHECK_EQ(wharf_right_copy(t, right, WHARF_FOREVER, &cold), 0);
        for (unsigned i = 0; i < N_SIZES; i++) {
                pattern_fill(bytes, sizes[i], i);
                struct wharf_msg m = MSG(.data = bytes, .len_bytes = sizes[i], .how = WHARF_HOW_COLD,
                                         .id = checksum(bytes, sizes[i]));
                CHECK_EQ(wharf_sendmsg(t, cold, &m, WHARF_FOREVER), 0);
                CHECK_EQ(m.how, WHARF_HOW_COLD);
        }
        free(bytes);
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   whatever the size and whatever the way, the bytes that arrive are those that were sent.
 * Method: a process sends each size by each way with a checksum beside it; the receiver takes turns between copying,
 *         allocating and looking in place.
 */
TEST_TIMEOUT(every_size_by_every_way, 60)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(send_all_sizes, &h);
        unsigned expected = N_SIZES, n = 0, cold = 0;
        for (uint32_t how = WHARF_HOW_AUTO; how <= WHARF_HOW_MEMORY; how++)
                for (unsigned i = 0; i < N_SIZES; i++)
                        expected += way_takes(how, sizes[i]);
        uint8_t *buf = malloc(sizes[N_SIZES - 1]);
        for (; n < expected; n++) {
                static const uint32_t flags[] = {0, WHARF_RECV_ALLOC, WHARF_RECV_IN_PLACE};
                struct wharf_msg m = MSG(.flags = flags[n % 3], .data = buf, .cap_bytes = sizes[N_SIZES - 1]);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(checksum(m.data, m.len_bytes), m.id);
                CHECK_EQ(m.sender.pid, pid);
                CHECK(m.how >= WHARF_HOW_COLD && m.how <= WHARF_HOW_MEMORY);
                cold += m.how == WHARF_HOW_COLD;
                if (m.flags)
                        wharf_release(h.task, &m);
        }
        CHECK_GE(cold, N_SIZES);
        CHECK_EQ(test_wait(pid), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, 1, NULL, 0), -EAGAIN);
        free(buf);
        hub_close(&h);
}

/* The way that was asked for is the way that is reported, at both ends. */
/* Goal: a program compiled with the headers of a later version runs while it asks for nothing new. */
TEST(options_of_a_later_version)
{
        struct {
                struct wharf_port_opts o;
                uint64_t later[2];
        } p = {.o.size = sizeof p, .o.capacity_records = 5};
        struct {
                struct wharf_task_opts o;
                uint64_t later[2];
        } t = {.o.size = sizeof t};
        wharf_task *task;
        wharf_name port;
        CHECK_EQ(wharf_task_open(&t.o, &task), 0);
        CHECK_EQ(wharf_port_new(task, &p.o, &port), 0);
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(task, port, &st), 0);
        p.later[1] = 1;
        CHECK_EQ(wharf_port_new(task, &p.o, &port), -EINVAL);
        CHECK(strstr(wharf_why(), "wharf_port_opts.size") != NULL);
        wharf_task_close(task);
        t.later[0] = 1;
        CHECK_EQ(wharf_task_open(&t.o, &task), -EINVAL);
        CHECK(strstr(wharf_why(), "wharf_task_opts.size") != NULL);
}

TEST(ways_are_reported)
{
        static const struct {
                uint32_t how;
                size_t len;
        } cases[] = {{WHARF_HOW_COLD, 10},       {WHARF_HOW_INLINE, 10},       {WHARF_HOW_INLINE, 1500},
                     {WHARF_HOW_SECTION, 10},    {WHARF_HOW_SECTION, 1 << 20}, {WHARF_HOW_CHUNKS, 1 << 20},
                     {WHARF_HOW_MEMORY, 1 << 20}};
        struct hub h = hub_open(NULL);
        static uint8_t bytes[1 << 20], buf[1 << 20];
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
                struct wharf_msg m = MSG(.data = bytes, .len_bytes = cases[i].len, .how = cases[i].how);
                CHECK_EQ(wharf_sendmsg(h.task, right, &m, WHARF_FOREVER), 0);
                CHECK_EQ(m.how, cases[i].how);
                struct wharf_msg got = MSG(.data = buf, .cap_bytes = sizeof buf);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &got, 0), 0);
                CHECK_EQ(got.how, cases[i].how);
                CHECK_EQ(got.len_bytes, cases[i].len);
        }
        hub_close(&h);
}

enum { BIG_PART = 64 << 20, BIG_PARTS = 16 };

/* 1 GiB that costs 64 MiB: the same pages again and again. */
static uint8_t *big_bytes(void)
{
        int fd = memfd_create("big", MFD_CLOEXEC);
        CHECK_EQ(ftruncate(fd, BIG_PART), 0);
        uint8_t *all = mmap(NULL, (size_t)BIG_PART * BIG_PARTS, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (size_t i = 0; i < BIG_PARTS; i++)
                CHECK(mmap(all + i * BIG_PART, BIG_PART, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) !=
                      MAP_FAILED);
        close(fd);
        pattern_fill(all, BIG_PART, 1);
        return all;
}

static int send_big(void *arg)
{
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        size_t len = (size_t)BIG_PART * BIG_PARTS;
        uint8_t *bytes = big_bytes();
        CHECK_EQ(wharf_send(t, right, bytes, len, WHARF_FOREVER), 0);
        struct wharf_msg m = MSG(.data = bytes, .len_bytes = len, .how = WHARF_HOW_MEMORY, .id = 7);
        CHECK_EQ(wharf_sendmsg(t, right, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.how, WHARF_HOW_MEMORY);
        CHECK_EQ(wharf_send(t, right, bytes, len + 1, WHARF_FOREVER), -EMSGSIZE);
        munmap(bytes, len);
        wharf_task_close(t);
        return 0;
}

/* The largest message that a port takes by default: 1 GiB, in pieces and as a memory of its own. */
TEST_TIMEOUT(one_gibibyte, 120)
{
        if (TEST_TSAN)
                test_skip("the thread sanitizer takes minutes for it");
        struct sysinfo si;
        CHECK_EQ(sysinfo(&si), 0);
        if ((uint64_t)(si.freeram + si.bufferram) * si.mem_unit < (uint64_t)4 << 30)
                test_skip("it takes 4 GiB of free memory");
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(send_big, &h);
        uint8_t *expect = malloc(BIG_PART);
        pattern_fill(expect, BIG_PART, 1);
        for (unsigned k = 0; k < 2; k++) {
                struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(m.len_bytes, (uint64_t)BIG_PART * BIG_PARTS);
                CHECK_EQ(m.how, k ? WHARF_HOW_MEMORY : WHARF_HOW_CHUNKS);
                for (size_t i = 0; i < BIG_PARTS; i++)
                        CHECK_MEM((uint8_t *)m.data + i * BIG_PART, expect, BIG_PART);
                wharf_release(h.task, &m);
        }
        CHECK_EQ(test_wait(pid), 0);
        free(expect);
        hub_close(&h);
}

/* A limit of the port's own is an error of its own, whatever the way, and does not hurt the link. */
TEST(larger_than_the_port_takes)
{
        struct hub h = hub_open(PORT_OPTS(.payload_bytes_max = 1000));
        wharf_name right;
        char bytes[2000] = {0};
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        CHECK_EQ(wharf_send(h.task, right, bytes, 1001, 0), -EMSGSIZE);
        for (uint32_t how = WHARF_HOW_AUTO; how <= WHARF_HOW_MEMORY; how++) {
                struct wharf_msg m = MSG(.data = bytes, .len_bytes = 1001, .how = how);
                CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), -EMSGSIZE);
                m.len_bytes = 1000;
                CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
                CHECK_EQ(wharf_recv(h.task, h.port, bytes, sizeof bytes, NULL, 0), 1000);
        }
        hub_close(&h);
}

/*
 * Messages that are sent as frames because their sender says so are counted as long as they are unread, and no longer:
 * the queue takes as many as it holds, again and again, whether its sender waits or only tries.
 */
TEST(frames_by_choice_go_on_beyond_the_capacity)
{
        static const struct {
                uint32_t capacity, how, n;
        } cases[] = {
                {3, WHARF_HOW_COLD, 20},     {20, WHARF_HOW_COLD, 100},   {0, WHARF_HOW_COLD, 3000}, /* the default */
                {20, WHARF_HOW_MEMORY, 100}, {0, WHARF_HOW_MEMORY, 1200}, {65536, WHARF_HOW_COLD, 70000}};
        for (unsigned c = 0; c < sizeof cases / sizeof *cases; c++) {
                struct wharf_port_opts o = {.size = sizeof o, .capacity_records = cases[c].capacity};
                struct hub h = hub_open(&o);
                wharf_name right;
                CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
                for (uint32_t i = 0; i < cases[c].n; i++) {
                        uint32_t got;
                        struct wharf_msg m = MSG(.data = &i, .len_bytes = sizeof i, .how = cases[c].how);
                        CHECK_EQ(wharf_sendmsg(h.task, right, &m, i % 2 ? wharf_in_ms(60000) : 0), 0);
                        CHECK_EQ(m.how, cases[c].how);
                        CHECK_EQ(wharf_recv(h.task, h.port, &got, sizeof got, NULL, 0), sizeof got);
                        CHECK_EQ(got, i);
                }
                hub_close(&h);
        }
}

/* A buffer that is too small takes nothing: the message stays first, and says what it needs. */
TEST(larger_than_the_buffer)
{
        struct hub h = hub_open(NULL);
        wharf_name right;
        static char bytes[100000], buf[100000];
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (uint32_t how = WHARF_HOW_COLD; how <= WHARF_HOW_MEMORY; how++) {
                struct wharf_msg m = MSG(.data = bytes, .len_bytes = how == WHARF_HOW_INLINE ? 1000 : sizeof bytes,
                                         .how = how, .id = how);
                CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
                CHECK_EQ(wharf_send(h.task, right, "next", 4, 0), 0);
                CHECK_EQ(wharf_recv(h.task, h.port, buf, 999, NULL, 0), -EOVERFLOW);
                struct wharf_msg got = MSG(.data = buf, .cap_bytes = m.len_bytes - 1);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &got, 0), -EOVERFLOW);
                CHECK_EQ(got.len_bytes, m.len_bytes);
                got.cap_bytes = got.len_bytes;
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &got, 0), 0);
                CHECK_EQ(got.id, how);
                CHECK_EQ(wharf_recv(h.task, h.port, buf, 4, NULL, 0), 4);
                CHECK_MEM(buf, "next", 4);
        }
        hub_close(&h);
}

/* ---- memory lent and held ---- */

static int send_reserved(void *arg)
{
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        for (unsigned i = 0; i < 200; i++) {
                size_t len = 1 + (i * 7919u) % 100000;
                struct wharf_msg m = MSG(0);
                CHECK_EQ(wharf_reserve(t, right, len, &m, WHARF_FOREVER), 0);
                CHECK_EQ(m.len_bytes, len);
                pattern_fill(m.data, len, i);
                if (i % 5 == 4) {
                        wharf_release(t, &m); /* lent, and given back unsent */
                        CHECK(m.data == NULL);
                        continue;
                }
                m.id = checksum(m.data, len);
                CHECK_EQ(wharf_sendmsg(t, right, &m, WHARF_FOREVER), 0);
                CHECK_EQ(m.how, WHARF_HOW_SECTION);
        }
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   payloads are written in place, read in place, and given back in any order.
 * Method: the receiver holds up to four at once and releases them in random order; some outlive their sender.
 */
TEST(in_place_and_out_of_order)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(send_reserved, &h);
        struct wharf_msg held[4];
        unsigned n_held = 0;
        for (unsigned i = 0; i < 160; i++) {
                struct wharf_msg m = MSG(.flags = WHARF_RECV_IN_PLACE);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(checksum(m.data, m.len_bytes), m.id);
                held[n_held++] = m;
                while (n_held == 4 || (n_held && test_random() % 2)) {
                        unsigned k = (unsigned)(test_random() % n_held);
                        CHECK_EQ(checksum(held[k].data, held[k].len_bytes), held[k].id);
                        wharf_release(h.task, &held[k]);
                        held[k] = held[--n_held];
                        if (i > 150)
                                break;
                }
        }
        CHECK_EQ(test_wait(pid), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, NULL, 0, NULL, 0),
                 -EAGAIN); /* its end was seen, the bytes are still there */
        while (n_held) {
                CHECK_EQ(checksum(held[n_held - 1].data, held[n_held - 1].len_bytes), held[n_held - 1].id);
                wharf_release(h.task, &held[--n_held]);
        }
        hub_close(&h);
}

/* Small messages that are held in place hold nothing of the queue: it takes as many as ever. */
TEST(small_messages_held_in_place_take_no_room)
{
        enum { CAPACITY = 16 };
        struct hub h = hub_open(PORT_OPTS(.capacity_records = CAPACITY));
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        struct wharf_msg held[3 * CAPACITY];
        for (uint32_t i = 0; i < 3 * CAPACITY; i++) {
                struct wharf_msg m = MSG(.data = &i, .len_bytes = sizeof i, .how = WHARF_HOW_INLINE);
                CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
                held[i] = MSG(.flags = WHARF_RECV_IN_PLACE);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &held[i], 0), 0);
        }
        for (unsigned i = 0; i < CAPACITY; i++)
                CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), 0);
        CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), -EAGAIN);
        for (uint32_t i = 0; i < 3 * CAPACITY; i++) {
                CHECK_MEM(held[i].data, &i, sizeof i);
                wharf_release(h.task, &held[i]);
        }
        hub_close(&h);
}

/* A payload in place outlives the port it came to, and what is released after that is simply gone. */
TEST(held_payload_outlives_its_port)
{
        struct hub h = hub_open(NULL);
        wharf_name right, port;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        static char bytes[5000];
        pattern_fill(bytes, sizeof bytes, 3);
        struct wharf_msg m = MSG(.data = bytes, .len_bytes = sizeof bytes, .how = WHARF_HOW_SECTION);
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
        struct wharf_msg got = MSG(.flags = WHARF_RECV_IN_PLACE);
        CHECK_EQ(wharf_recvmsg(h.task, port, &got, 0), 0);
        CHECK_EQ(wharf_drop(h.task, port), 0);
        CHECK_EQ(wharf_drop(h.task, right), 0);
        CHECK_MEM(got.data, bytes, sizeof bytes);
        wharf_release(h.task, &got);
        wharf_release(h.task, &got); /* twice is once */
        hub_close(&h);
}

/* ---- order and identity ---- */

enum { SENDERS = 4, EACH = 5000 };

struct numbered {
        uint32_t sender, number;
        uint8_t rest[3000];
};

struct sender_arg {
        struct hub *hub;
        uint32_t index;
};

static int send_numbered(void *arg)
{
        struct sender_arg *a = arg;
        wharf_name right;
        wharf_task *t = hub_join(a->hub, &right);
        struct numbered n = {.sender = a->index};
        uint64_t x = a->index + 1;
        for (; n.number < EACH; n.number++) {
                x = x * 6364136223846793005u + 1442695040888963407u;
                struct wharf_msg m = MSG(.data = &n, .len_bytes = 8 + (x >> 40) % sizeof n.rest);
                if ((x >> 33) % 8 == 0)
                        m.how = WHARF_HOW_SECTION;
                else if ((x >> 33) % 64 == 1)
                        m.how = WHARF_HOW_CHUNKS;
                else if ((x >> 33) % 256 == 2)
                        m.how = WHARF_HOW_MEMORY;
                CHECK_EQ(wharf_sendmsg(t, right, &m, WHARF_FOREVER), 0);
        }
        wharf_task_close(t);
        return 0;
}

/* FIFO for each sender, whatever ways its messages travelled; nothing lost, nothing twice. */
TEST_TIMEOUT(order_for_each_sender, 60)
{
        struct hub h = hub_open(NULL);
        struct sender_arg args[SENDERS];
        pid_t pid[SENDERS];
        uint32_t next[SENDERS] = {0};
        uint64_t ids[SENDERS] = {0};
        for (uint32_t i = 0; i < SENDERS; i++) {
                args[i] = (struct sender_arg){&h, i};
                pid[i] = test_fork(send_numbered, &args[i]);
        }
        for (unsigned k = 0; k < SENDERS * EACH; k++) {
                struct numbered n;
                struct wharf_sender from;
                CHECK_GE(wharf_recv(h.task, h.port, &n, sizeof n, &from, WHARF_FOREVER), 8);
                CHECK(n.sender < SENDERS);
                CHECK_EQ(n.number, next[n.sender]++);
                CHECK_EQ(from.pid, pid[n.sender]);
                if (n.number == 0)
                        ids[n.sender] = from.id;
                CHECK_EQ(from.id, ids[n.sender]);
        }
        for (unsigned i = 0; i < SENDERS; i++)
                CHECK_EQ(test_wait(pid[i]), 0);
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_recv(h.task, h.port, NULL, 0, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_port_stat(h.task, h.port, &st), 0);
        CHECK_EQ(st.received_messages, SENDERS * EACH);
        CHECK_EQ(st.senders, 0);
        CHECK_EQ(st.queued_messages, 0);
        CHECK_EQ(st.mapped_bytes, 0);
        hub_close(&h);
}

static int send_as_nobody(void *arg)
{
        test_drop_root();
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        CHECK_EQ(wharf_send(t, right, "hello", 5, WHARF_FOREVER), 0);
        /* A right of one's own that was copied from the first is rebound, and known by the kernel's word too. */
        wharf_name other;
        CHECK_EQ(wharf_right_copy(t, right, WHARF_FOREVER, &other), 0);
        CHECK_EQ(wharf_send(t, other, "again", 5, WHARF_FOREVER), 0);
        pause();
        return 0;
}

/* Who sent it is what the kernel says: pid, uid and gid, and a pidfd of that very process. */
TEST(identity_comes_from_the_kernel)
{
        test_need_proc();
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(send_as_nobody, &h);
        uint64_t ids[2];
        for (unsigned i = 0; i < 2; i++) {
                char buf[8];
                struct wharf_sender from;
                int fd;
                CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, &from, WHARF_FOREVER), 5);
                CHECK_EQ(from.pid, pid);
                if (getuid() == 0) {
                        CHECK_EQ(from.uid, 65534);
                        CHECK_EQ(from.gid, 65534);
                }
                ids[i] = from.id;
                CHECK_EQ(wharf_sender_pidfd(h.task, from.id, &fd), 0);
                char path[64], text[512];
                snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
                FILE *f = fopen(path, "re");
                bool found = false;
                while (fgets(text, sizeof text, f))
                        found |= atoi(text + 4) == pid && !strncmp(text, "Pid:", 4);
                CHECK(found);
                fclose(f);
                close(fd);
        }
        CHECK_NE(ids[0], ids[1]);
        kill_hard(pid);
        int fd = -1;
        CHECK_EQ(wharf_recv(h.task, h.port, NULL, 0, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_sender_pidfd(h.task, ids[0], &fd), -ENOENT);
        CHECK_EQ(wharf_sender_pidfd(h.task, 12345, &fd), -ENOENT);
        CHECK_EQ(fd, -1);
        hub_close(&h);
}

/* ---- full queues ---- */

/* The queue holds what was asked for, then refuses, and takes again as soon as there is room. */
TEST(full_queue_refuses_or_waits)
{
        for (uint32_t capacity = 1; capacity <= 64; capacity *= 4) {
                struct hub h = hub_open(PORT_OPTS(.capacity_records = capacity));
                wharf_name right;
                char buf[8];
                CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
                for (unsigned round = 0; round < 5; round++) {
                        for (unsigned n = 0; n < capacity; n++)
                                CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), 0);
                        CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), -EAGAIN);
                        CHECK_EQ(wharf_send(h.task, right, "x", 1, wharf_in_ms(2)), -ETIMEDOUT);
                        struct wharf_right_stat st = {.size = sizeof st};
                        CHECK_EQ(wharf_right_stat(h.task, right, &st), 0);
                        CHECK_EQ(st.full, WHARF_FULL_RECORDS);
                        for (unsigned n = 0; n < capacity; n++)
                                CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), 1);
                        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), -EAGAIN);
                }
                hub_close(&h);
        }
}

/* Sent before the port said how much its queue holds, it is known to be taken all the same. */
TEST(a_message_sent_ahead_of_the_greeting_leaves_a_queue_of_one_again)
{
        struct hub h = hub_open(PORT_OPTS(.capacity_records = 1));
        wharf_task *t;
        wharf_name right;
        char buf[8];
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_right_connect(t, h.path, &right), 0);
        for (unsigned i = 0; i < 12; i++) {
                CHECK_EQ(wharf_send(t, right, "x", 1, wharf_in_ms(60000)), 0);
                CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), 1);
                CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), -EAGAIN); /* which tells it */
        }
        wharf_task_close(t);
        hub_close(&h);
}

/* Full by bytes rather than by records: the section's memory is what runs out. */
TEST(full_by_bytes)
{
        struct hub h = hub_open(PORT_OPTS(.link_mapped_bytes_max = 4 << 20));
        wharf_name right;
        static char bytes[256 << 10], buf[256 << 10];
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (unsigned round = 0; round < 3; round++) {
                unsigned n = 0;
                int r;
                while ((r = wharf_send(h.task, right, bytes, sizeof bytes, 0)) == 0)
                        CHECK_LE(++n, 16);
                CHECK_EQ(r, -EAGAIN);
                CHECK_GE(n, 2);
                CHECK_EQ(wharf_send(h.task, right, bytes, sizeof bytes, wharf_in_ms(2)), -ETIMEDOUT);
                while (n--)
                        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), sizeof buf);
                CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), -EAGAIN);
        }
        hub_close(&h);
}

static int send_four_thousand(void *arg)
{
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        for (uint32_t i = 0; i < 4000; i++)
                CHECK_EQ(wharf_send(t, right, &i, sizeof i, WHARF_FOREVER), 0);
        wharf_task_close(t);
        return 0;
}

/* A sender that waits for room sleeps, is woken, and loses nothing: time and again, with a queue of three. */
TEST(waiting_for_room)
{
        struct hub h = hub_open(PORT_OPTS(.capacity_records = 3));
        pid_t pid = test_fork(send_four_thousand, &h);
        for (uint32_t i = 0; i < 4000; i++) {
                uint32_t got;
                if (i % 500 == 250)
                        await_asleep(pid);
                CHECK_EQ(wharf_recv(h.task, h.port, &got, sizeof got, NULL, WHARF_FOREVER), 4);
                CHECK_EQ(got, i);
        }
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* A stopped receiver is a full queue, not a dead one: deadlines hold, and all goes on when it is continued. */
static int receive_four_thousand(void *arg)
{
        struct hub h = hub_open(NULL);
        FILE *f = fopen((const char *)arg, "we");
        fprintf(f, "%s\n", h.path);
        fclose(f);
        for (uint32_t i = 0, got; i < 4000; i++) {
                CHECK_EQ(wharf_recv(h.task, h.port, &got, sizeof got, NULL, WHARF_FOREVER), 4);
                CHECK_EQ(got, i);
        }
        hub_close(&h);
        return 0;
}

/* The path of the hub that another process opens, once it has told us. */
static void hub_path_of(const char *file, char ret[96])
{
        FILE *f;
        while (!(f = fopen(file, "re")) || !fgets(ret, 96, f) || !strchr(ret, '\n')) {
                if (f)
                        fclose(f);
                usleep(1000);
        }
        fclose(f);
        *strchr(ret, '\n') = 0;
}

TEST(stopped_receiver_is_not_dead)
{
        char file[96], path[96];
        snprintf(file, sizeof file, "%s/where", test_dir());
        pid_t pid = test_fork(receive_four_thousand, file);
        hub_path_of(file, path);
        wharf_task *t;
        wharf_name right;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_right_connect(t, path, &right), 0);
        uint32_t i = 0;
        int r;
        CHECK_EQ(kill(pid, SIGSTOP), 0);
        while ((r = wharf_send(t, right, &i, sizeof i, wharf_in_ms(20))) == 0)
                i++;
        CHECK_EQ(r, -ETIMEDOUT);
        CHECK_EQ(kill(pid, SIGCONT), 0);
        for (; i < 4000; i++)
                CHECK_EQ(wharf_send(t, right, &i, sizeof i, WHARF_FOREVER), 0);
        CHECK_EQ(test_wait(pid), 0);
        wharf_task_close(t);
}

/* ---- the receiver goes ---- */

struct receiver_arg {
        char file[96];
        struct stage ready, leave;
        unsigned take;
        bool clean;
};

static int receive_some_and_go(void *arg)
{
        struct receiver_arg *a = arg;
        struct hub h = hub_open(NULL);
        FILE *f = fopen(a->file, "we");
        fprintf(f, "%s\n", h.path);
        fclose(f);
        char buf[16];
        for (unsigned i = 0; i < a->take; i++)
                CHECK_GE(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), 0);
        stage_reach(&a->ready);
        stage_await(&a->leave);
        hub_close(&h);
        return 0;
}

/*
 * Goal:   a sender learns that the receiver is gone, soon, by an error of its own, and never by a signal.
 * Method: the receiver leaves by SIGKILL or by closing, before the first message, among the cold ones, or with a lane;
 *         SIGPIPE has its default action, which would end this test.
 */
static void check_epipe(unsigned take, bool clean)
{
        struct receiver_arg a = {.ready = stage_new(), .leave = stage_new(), .take = take, .clean = clean};
        snprintf(a.file, sizeof a.file, "%s/where.%u.%d", test_dir(), take, clean);
        char path[96];
        pid_t pid = test_fork(receive_some_and_go, &a);
        hub_path_of(a.file, path);
        wharf_task *t;
        wharf_name right, second;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_right_connect(t, path, &right), 0);
        CHECK_EQ(wharf_right_connect(t, path, &second), 0);
        for (unsigned i = 0; i < take; i++)
                CHECK_EQ(wharf_send(t, right, "x", 1, WHARF_FOREVER), 0);
        stage_await(&a.ready);
        if (clean) {
                stage_reach(&a.leave);
                CHECK_EQ(test_wait(pid), 0);
        } else {
                kill_hard(pid);
        }
        unsigned n = 0;
        int r;
        while ((r = wharf_send(t, right, "x", 1, WHARF_FOREVER)) == 0)
                CHECK_LE(++n, 1024);
        CHECK_EQ(r, -EPIPE);
        CHECK_EQ(wharf_send(t, right, "x", 1, 0), -EPIPE);
        CHECK_EQ(wharf_send(t, right, "x", 1, WHARF_FOREVER), -EPIPE);
        struct wharf_msg m = MSG(0);
        CHECK_EQ(wharf_reserve(t, right, 100, &m, WHARF_FOREVER), -EPIPE);
        wharf_name copy;
        CHECK_EQ(wharf_right_copy(t, right, WHARF_FOREVER, &copy), -EPIPE);
        char buf[4];
        CHECK_EQ(wharf_call(t, right, "x", 1, buf, 4, WHARF_FOREVER), -EPIPE);
        struct wharf_right_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_right_stat(t, right, &st), 0);
        CHECK_EQ(st.dead, -EPIPE);
        /* A right that was never used learns it with its first message. */
        CHECK_EQ(wharf_send(t, second, "x", 1, WHARF_FOREVER), -EPIPE);
        wharf_task_close(t);
        stage_done(&a.ready);
        stage_done(&a.leave);
}

TEST(receiver_killed_before_the_first_message)
{
        check_epipe(0, false);
}

TEST(receiver_killed_while_cold)
{
        check_epipe(3, false);
}

TEST(receiver_killed_with_a_lane)
{
        check_epipe(300, false);
}

TEST(receiver_closes)
{
        check_epipe(0, true);
        check_epipe(3, true);
        check_epipe(300, true);
}

static int fill_until_it_ends(void *arg)
{
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        int r;
        while ((r = wharf_send(t, right, "x", 1, WHARF_FOREVER)) == 0)
                ;
        wharf_task_close(t);
        return r == -EPIPE ? 42 : 1;
}

/* A sender that sleeps for room is woken by the end of the receiver. */
TEST(blocked_sender_learns_of_the_end)
{
        struct hub h = hub_open(PORT_OPTS(.capacity_records = 2));
        pid_t pid = test_fork(fill_until_it_ends, &h);
        char buf[4];
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), 1);
        await_asleep(pid);
        CHECK_EQ(wharf_drop(h.task, h.port), 0);
        CHECK_EQ(test_wait(pid), 42);
        hub_close(&h);
}

static int hub_and_sender(void *arg)
{
        struct hub h = hub_open(PORT_OPTS(.capacity_records = 2));
        pid_t *sender = arg, pid = fork();
        if (pid == 0)
                _exit(fill_until_it_ends(&h));
        *sender = pid;
        char buf[4];
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), 1);
        await_asleep(*sender);
        kill(getpid(), SIGKILL);
        return 0;
}

TEST(blocked_sender_learns_of_the_kill)
{
        test_need_proc();
        CHECK_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
        pid_t *sender = test_shared(sizeof *sender);
        pid_t pid = test_fork(hub_and_sender, sender);
        CHECK_EQ(test_wait(pid), 128 + SIGKILL);
        CHECK_EQ(test_wait(*sender), 42);
        munmap(sender, sizeof *sender);
}

/* ---- the senders go ---- */

static int send_a_right_then(void *arg)
{
        wharf_name right, port;
        wharf_task *t = hub_join(arg, &right);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        struct wharf_item it = {.kind = WHARF_MAKE_SEND, .name = port};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(t, right, &m, WHARF_FOREVER), 0);
        char buf[16];
        unsigned n = 0;
        ssize_t r;
        while ((r = wharf_recv(t, port, buf, sizeof buf, NULL, WHARF_FOREVER)) >= 0)
                n++;
        CHECK_EQ(r, -ENOTCONN);
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, 0), -ENOTCONN);
        wharf_task_close(t);
        return (int)n;
}

/*
 * Goal:   "no one will ever come": a wait for messages ends at once when the last sender is gone, and not before all
 *         that it sent was delivered.
 */
TEST(last_sender_goes)
{
        for (unsigned k = 0; k < 3; k++) {
                unsigned messages = (unsigned[]){0, 3, 100}[k];
                struct hub h = hub_open(NULL);
                pid_t pid = test_fork(send_a_right_then, &h);
                struct wharf_item it;
                struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(it.kind, WHARF_GOT_SEND);
                for (unsigned i = 0; i < messages; i++)
                        CHECK_EQ(wharf_send(h.task, it.name, "x", 1, WHARF_FOREVER), 0);
                await_asleep(pid);
                CHECK_EQ(wharf_drop(h.task, it.name), 0);
                CHECK_EQ(test_wait(pid), messages);
                hub_close(&h);
        }
}

/* A port that was told to stay waits on: a right may still be made. */
TEST(a_port_that_stays_waits)
{
        struct hub h = hub_open(NULL);
        wharf_name port;
        char buf[4];
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_recv(h.task, port, buf, sizeof buf, NULL, WHARF_FOREVER), -ENOTCONN);
        CHECK_EQ(wharf_drop(h.task, port), 0);
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_recv(h.task, port, buf, sizeof buf, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_recv(h.task, port, buf, sizeof buf, NULL, wharf_in_ms(2)), -ETIMEDOUT);
        hub_close(&h);
}

struct killed_sender {
        struct hub *hub;
        _Atomic uint64_t *sent;
};

static int send_until_killed(void *arg)
{
        struct killed_sender *a = arg;
        wharf_name right;
        wharf_task *t = hub_join(a->hub, &right);
        static uint8_t bytes[400000];
        for (uint64_t i = 0;; i++) {
                size_t len = i % 7 == 0 ? sizeof bytes : i % 3 == 0 ? 5000 : 16;
                memcpy(bytes, &i, sizeof i);
                struct wharf_msg m = MSG(.data = bytes, .len_bytes = len, .id = checksum(bytes, len),
                                         .how = i % 14 == 0 ? WHARF_HOW_CHUNKS : WHARF_HOW_AUTO);
                if (wharf_sendmsg(t, right, &m, WHARF_FOREVER) < 0)
                        return 1;
                atomic_store_explicit(a->sent, i + 1, memory_order_release);
        }
}

/*
 * Goal:   SIGKILL at any moment leaves whole messages only: the first n, in order, no fewer than were reported as sent;
 *         and other senders of the same port notice nothing.
 * Method: thirty senders, one after another, each killed after a random number of messages; some in the middle of one.
 */
TEST_TIMEOUT(senders_killed_at_any_moment, 60)
{
        struct hub h = hub_open(NULL);
        struct killed_sender a = {&h, test_shared(4096)};
        static uint8_t buf[400000];
        wharf_name other;
        CHECK_EQ(wharf_right_new(h.task, h.port, &other), 0);
        for (unsigned round = 0; round < 30; round++) {
                atomic_store(a.sent, 0);
                pid_t pid = test_fork(send_until_killed, &a);
                uint64_t next = 0, kill_at = test_random() % 60;
                bool dead = false;
                for (;;) {
                        struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf);
                        int r = wharf_recvmsg(h.task, h.port, &m, dead ? 0 : WHARF_FOREVER);
                        if (r == -EAGAIN)
                                break;
                        CHECK_EQ(r, 0);
                        CHECK_EQ(m.sender.pid, pid);
                        CHECK_EQ(checksum(buf, m.len_bytes), m.id);
                        CHECK_MEM(buf, &next, sizeof next);
                        next++;
                        if (next == kill_at + 1) {
                                usleep((useconds_t)(test_random() % 300));
                                kill_hard(pid);
                                dead = true;
                        }
                }
                CHECK_GE(next, atomic_load(a.sent));
                CHECK_LE(next, atomic_load(a.sent) + 1);
                CHECK_EQ(wharf_send(h.task, other, "alive", 5, 0), 0);
                CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), 5);
        }
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(h.task, h.port, &st), 0);
        CHECK_EQ(st.senders, 1);
        CHECK_EQ(st.refused_links, 0);
        munmap((void *)a.sent, 4096);
        hub_close(&h);
}

/* Goal: whoever only tries, and never waits, is told that the full queue's receiver is gone. */
TEST(full_queue_of_a_dead_port_is_no_longer_merely_full)
{
        wharf_task *t;
        wharf_name port, right;
        char c;
        int r;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        for (int i = 0; i < 50; i++) { /* until they have a lane */
                CHECK_EQ(wharf_send(t, right, "x", 1, 0), 0);
                CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, 0), 1);
        }
        while ((r = wharf_send(t, right, "x", 1, 0)) == 0)
                ;
        CHECK_EQ(r, -EAGAIN);
        CHECK_EQ(wharf_drop(t, port), 0);
        for (int i = 0; i < 5000 && r == -EAGAIN; i++) {
                r = wharf_send(t, right, "x", 1, 0);
                usleep(100);
        }
        CHECK_EQ(r, -EPIPE);
        wharf_task_close(t);
}

/* Goal: the same for a sender that may have no more unread rights, ahead of its lane and with it. */
TEST(rights_that_a_dead_port_will_never_read_are_not_too_many)
{
        for (int lane = 0; lane < 2; lane++) {
                struct wharf_port_opts o = {.size = sizeof o, .unread_rights_max = 4};
                struct wharf_item item = {.kind = WHARF_COPY_FD, .fd = 0};
                struct wharf_msg m = {.size = sizeof m, .items = &item, .n_items = 1};
                wharf_task *t;
                wharf_name port, right;
                char c;
                int r;
                CHECK_EQ(wharf_task_open(NULL, &t), 0);
                CHECK_EQ(wharf_port_new(t, &o, &port), 0);
                CHECK_EQ(wharf_right_new(t, port, &right), 0);
                for (int i = 0; i < (lane ? 50 : 1); i++) {
                        CHECK_EQ(wharf_send(t, right, "x", 1, 0), 0);
                        CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, 0), 1);
                }
                while ((r = wharf_sendmsg(t, right, &m, 0)) == 0)
                        ;
                CHECK_EQ(r, -ETOOMANYREFS);
                CHECK_EQ(wharf_drop(t, port), 0);
                CHECK_EQ(wharf_sendmsg(t, right, &m, 0), -EPIPE);
                wharf_task_close(t);
        }
}
