/*
 * Memory out of line: moved, shared copy-on-write, passed on, refused. What was copied is counted in pages, by the
 * kernel's own books (the line "Anonymous" of /proc/self/smaps), and which memory it is, by its inode.
 */
#include "hub.h"
#include "inside.h"
#include "os/os.h"
#include "link/link.h"
#include "message/memory.h"
#include "right/right.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <wharf/memory.h>

enum { PAGE = 4096, PAGES = 256, BYTES = PAGES * PAGE };

/* ---- helpers ---- */

static wharf_name memory_new(wharf_task *t, size_t bytes, uint64_t key)
{
        wharf_name name;
        void *at;
        size_t n;
        CHECK_EQ(wharf_memory_new(t, bytes, &name), 0);
        CHECK_EQ(wharf_memory_at(t, name, &at, &n), 0);
        CHECK_EQ(n, bytes);
        pattern_fill(at, bytes, key);
        return name;
}

static unsigned char *bytes_of(wharf_task *t, wharf_name name)
{
        void *at;
        CHECK_EQ(wharf_memory_at(t, name, &at, NULL), 0);
        return at;
}

static uint32_t sum_of(wharf_task *t, wharf_name name)
{
        void *at;
        size_t n;
        CHECK_EQ(wharf_memory_at(t, name, &at, &n), 0);
        return checksum(at, n);
}

static uint32_t sum_of_pattern(size_t bytes, uint64_t key)
{
        void *p = malloc(bytes);
        CHECK(p);
        pattern_fill(p, bytes, key);
        uint32_t r = checksum(p, bytes);
        free(p);
        return r;
}

/* Which file is mapped at `at`, and how much of that mapping is pages of this process's own. */
struct mapped {
        unsigned long inode;
        unsigned own_pages;
};

static struct mapped mapped_at(const void *at)
{
        struct mapped m = {0};
        char line[512];
        unsigned long from, to, inode, kib;
        bool here = false;
        FILE *f = fopen("/proc/self/smaps", "re");
        CHECK(f);
        while (fgets(line, sizeof line, f)) {
                if (sscanf(line, "%lx-%lx %*s %*s %*s %lu", &from, &to, &inode) == 3) {
                        here = from <= (uintptr_t)at && (uintptr_t)at < to;
                        if (here)
                                m.inode = inode;
                } else if (here && sscanf(line, "Anonymous: %lu", &kib) == 1) {
                        m.own_pages = (unsigned)(kib * 1024 / PAGE);
                }
        }
        fclose(f);
        return m;
}

static uint64_t written(wharf_task *t, wharf_name name)
{
        struct wharf_memory_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_memory_stat(t, name, &st), 0);
        return st.written_bytes;
}

static int send_items(wharf_task *t, wharf_name to, struct wharf_item *items, uint32_t n, int64_t deadline_ns)
{
        struct wharf_msg m = MSG(.data = BYTES("memory"), .len_bytes = 6, .items = items, .n_items = n);
        return wharf_sendmsg(t, to, &m, deadline_ns);
}

static int send_memory(wharf_task *t, wharf_name to, uint32_t kind, wharf_name memory)
{
        struct wharf_item item = {.kind = kind, .name = memory};
        return send_items(t, to, &item, 1, WHARF_FOREVER);
}

static wharf_name take_memory(wharf_task *t, wharf_name port)
{
        char buf[16];
        struct wharf_item item;
        struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf, .items = &item, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(t, port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.n_items, 1);
        CHECK_EQ(item.kind, WHARF_GOT_MEMORY);
        CHECK_EQ(wharf_name_kind(t, item.name), WHARF_KIND_MEMORY);
        return item.name;
}

static int fd_of(wharf_task *t, wharf_name memory)
{
        return ((struct wh_memory *)wh_table_find(&t->names, memory))->fd;
}

/* ---- moved ---- */

static int move_one(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        wharf_name memory = memory_new(t, BYTES, 1);
        unsigned long inode = mapped_at(bytes_of(t, memory)).inode;
        struct wharf_item item = {.kind = WHARF_MOVE_MEMORY, .name = memory};
        struct wharf_msg m = MSG(.data = &inode, .len_bytes = sizeof inode, .items = &item, .n_items = 1);
        void *at = bytes_of(t, memory);
        CHECK_EQ(wharf_sendmsg(t, hub, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_name_kind(t, memory), -EBADF);
        CHECK_NE(mapped_at(at).inode, inode); /* gone from this address space too */
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   moved memory arrives whole and is the same memory; nobody copied a page of it, and the sender has nothing.
 * Method: compare inodes and contents, count pages, in two processes; the sender has ended by then.
 */
TEST(out_of_line_memory_is_moved_without_copying)
{
        test_need_proc();
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(move_one, &h);
        unsigned long inode = 0;
        struct wharf_item item;
        struct wharf_msg m = MSG(.data = &inode, .cap_bytes = sizeof inode, .items = &item, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(test_wait(pid), 0);
        CHECK_EQ(item.kind, WHARF_GOT_MEMORY);
        CHECK_EQ(sum_of(h.task, item.name), sum_of_pattern(BYTES, 1));
        CHECK_EQ(mapped_at(bytes_of(h.task, item.name)).inode, inode);
        CHECK_EQ(mapped_at(bytes_of(h.task, item.name)).own_pages, 0);
        CHECK_EQ(wharf_drop(h.task, item.name), 0);
        CHECK_EQ(wharf_drop(h.task, item.name), -EBADF);
        hub_close(&h);
}

/* Bytes that a page is not a multiple of, and the smallest memory there is. */
TEST(out_of_line_memory_of_any_size_keeps_its_size)
{
        struct hub h = hub_open(NULL);
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        CHECK_EQ(wharf_memory_new(h.task, 0, &right), -EINVAL);
        CHECK_EQ(wharf_memory_new(h.task, (size_t)1 << 60, &right), -ENOMEM);
        static const size_t sizes[] = {1, 7, 4095, 4096, 4097, 100001};
        for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
                wharf_name memory = memory_new(h.task, sizes[i], i);
                CHECK_EQ(send_memory(h.task, right, WHARF_MOVE_MEMORY, memory), 0);
                void *at;
                size_t n;
                wharf_name got = take_memory(h.task, h.port);
                CHECK_EQ(wharf_memory_at(h.task, got, &at, &n), 0);
                CHECK_EQ(n, sizes[i]);
                CHECK_EQ(checksum(at, n), sum_of_pattern(n, i));
                CHECK_EQ(wharf_drop(h.task, got), 0);
        }
        hub_close(&h);
}

/* ---- shared copy-on-write ---- */

struct shared_run {
        struct hub *h;
        struct stage sent, read, wrote;
};

static int share_one(void *arg)
{
        struct shared_run *run = arg;
        wharf_name hub;
        wharf_task *t = hub_join(run->h, &hub);
        wharf_name memory = memory_new(t, BYTES, 2);
        unsigned char *at = bytes_of(t, memory);
        unsigned long inode = mapped_at(at).inode;
        CHECK_EQ(send_memory(t, hub, WHARF_COPY_MEMORY, memory), 0);
        CHECK(bytes_of(t, memory) == at); /* it stays where it is */
        CHECK_EQ(sum_of(t, memory), sum_of_pattern(BYTES, 2));
        CHECK_EQ(mapped_at(at).inode, inode);
        CHECK_EQ(mapped_at(at).own_pages, 0);
        CHECK_EQ(written(t, memory), 0);
        stage_reach(&run->sent);
        stage_await(&run->read);
        for (unsigned p = 0; p < 3; p++)
                at[p * 10 * PAGE] ^= 0xff;
        CHECK_EQ(mapped_at(at).own_pages, 3);
        CHECK_EQ(written(t, memory), 3 * PAGE);
        uint32_t mine = sum_of(t, memory);
        stage_reach(&run->sent);
        stage_await(&run->wrote);
        CHECK_EQ(sum_of(t, memory), mine); /* what the receiver wrote does not show here */
        CHECK_EQ(mapped_at(at).own_pages, 3);
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   both have the same pages until one writes; then exactly the pages written to are copied, for the writer.
 * Method: the sender writes to 3 pages of 256, then the receiver to 5; each counts its own pages before and after.
 */
TEST(only_written_pages_are_copied)
{
        test_need_proc();
        struct hub h = hub_open(NULL);
        struct shared_run run = {.h = &h, .sent = stage_new(), .read = stage_new(), .wrote = stage_new()};
        pid_t pid = test_fork(share_one, &run);
        wharf_name memory = take_memory(h.task, h.port);
        unsigned char *at = bytes_of(h.task, memory);
        stage_await(&run.sent);
        CHECK_EQ(sum_of(h.task, memory), sum_of_pattern(BYTES, 2));
        CHECK_EQ(mapped_at(at).own_pages, 0);
        CHECK_EQ(written(h.task, memory), 0);
        stage_reach(&run.read);
        stage_await(&run.sent);
        CHECK_EQ(sum_of(h.task, memory), sum_of_pattern(BYTES, 2)); /* what the sender wrote does not show here */
        CHECK_EQ(mapped_at(at).own_pages, 0);
        for (unsigned p = 0; p < 5; p++)
                at[p * 20 * PAGE + 17] ^= 0xff;
        CHECK_EQ(mapped_at(at).own_pages, 5);
        CHECK_EQ(written(h.task, memory), 5 * PAGE);
        stage_reach(&run.wrote);
        CHECK_EQ(test_wait(pid), 0);
        stage_done(&run.sent);
        stage_done(&run.read);
        stage_done(&run.wrote);
        hub_close(&h);
}

static void check_immutable(int fd)
{
        CHECK(pwrite(fd, "x", 1, 0) < 0 && errno == EPERM);
        CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EPERM);
        CHECK(ftruncate(fd, PAGE) < 0 && errno == EPERM);
        CHECK(ftruncate(fd, 2 * BYTES) < 0 && errno == EPERM);
        CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE) < 0 && errno == EPERM);
        void *p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
        CHECK(p != MAP_FAILED);
        CHECK(mprotect(p, PAGE, PROT_READ | PROT_WRITE) < 0 && errno == EACCES);
        munmap(p, PAGE);
}

/*
 * Goal:   what was sent is immutable by the kernel's word, to the sender who kept it and to the receiver.
 * Method: every way to change a file, with the descriptors of both.
 */
TEST(the_kernel_refuses_to_write_to_sent_memory)
{
        test_need_proc();
        struct hub h = hub_open(NULL);
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        wharf_name memory = memory_new(h.task, BYTES, 3);
        CHECK_EQ(pwrite(fd_of(h.task, memory), "x", 1, 0), 1); /* before */
        bytes_of(h.task, memory)[0] = 0;
        CHECK_EQ(send_memory(h.task, right, WHARF_COPY_MEMORY, memory), 0);
        wharf_name got = take_memory(h.task, h.port);
        check_immutable(fd_of(h.task, memory));
        check_immutable(fd_of(h.task, got));
        struct wharf_memory_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_memory_stat(h.task, got, &st), 0);
        CHECK_EQ(st.shared, 1);
        CHECK_EQ(st.bytes, BYTES);
        hub_close(&h);
}

struct writer {
        uint64_t *words; /* one on each page */
        _Atomic bool stop, going;
        uint64_t last[PAGES];
};

static void *write_on(void *arg)
{
        struct writer *w = arg;
        for (uint64_t n = 1; !w->stop; n++) {
                unsigned page = (unsigned)(n % PAGES);
                __atomic_store_n(&w->words[page * PAGE / 8], n, __ATOMIC_RELAXED);
                w->last[page] = n;
                if (n == 1000)
                        w->going = true;
        }
        return NULL;
}

/*
 * Goal:   a thread that writes while the memory is sent loses no write, and changes nothing that was sent.
 * Method: it numbers pages round and round; afterwards the sender sees the last number of each, and the receiver the
 *         same or an earlier one, which stays what it is.
 */
TEST(writing_while_it_is_sent_loses_nothing_and_shows_nothing)
{
        if (TEST_TSAN)
                test_skip("the thread sanitizer takes mapping for writing");
        for (unsigned round = 0; round < 20; round++) {
                struct hub h = hub_open(NULL);
                wharf_name right;
                CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
                wharf_name memory;
                CHECK_EQ(wharf_memory_new(h.task, BYTES, &memory), 0);
                static struct writer w;
                memset(&w, 0, sizeof w);
                w.words = (uint64_t *)(void *)bytes_of(h.task, memory);
                pthread_t thread;
                CHECK_EQ(pthread_create(&thread, NULL, write_on, &w), 0);
                while (!w.going)
                        sched_yield();
                CHECK_EQ(send_memory(h.task, right, WHARF_COPY_MEMORY, memory), 0);
                wharf_name got = take_memory(h.task, h.port);
                uint32_t first = sum_of(h.task, got);
                w.stop = true;
                pthread_join(thread, NULL);
                CHECK_EQ(sum_of(h.task, got), first);
                const uint64_t *theirs = (uint64_t *)(void *)bytes_of(h.task, got);
                for (unsigned p = 0; p < PAGES; p++) {
                        CHECK_EQ(w.words[p * PAGE / 8], w.last[p]);
                        CHECK_LE(theirs[p * PAGE / 8], w.last[p]);
                }
                hub_close(&h);
        }
}

/* ---- passed on ---- */

/*
 * Goal:   received memory is passed on without a copy; when it was written to, what is passed on is what its holder
 *         sees, and what others hold stays as it was.
 * Method: pass one on, untouched and touched, and compare inodes and contents.
 */
TEST(memory_passed_on_is_the_same_memory_until_it_is_written_to)
{
        test_need_proc();
        struct hub h = hub_open(NULL);
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        wharf_name memory = memory_new(h.task, BYTES, 4);
        unsigned long inode = mapped_at(bytes_of(h.task, memory)).inode;
        CHECK_EQ(send_memory(h.task, right, WHARF_MOVE_MEMORY, memory), 0);
        wharf_name second = take_memory(h.task, h.port);
        CHECK_EQ(send_memory(h.task, right, WHARF_COPY_MEMORY, second), 0);
        wharf_name third = take_memory(h.task, h.port);
        CHECK_EQ(mapped_at(bytes_of(h.task, third)).inode, inode);
        bytes_of(h.task, second)[5 * PAGE] ^= 1;
        uint32_t changed = sum_of(h.task, second);
        CHECK_EQ(send_memory(h.task, right, WHARF_COPY_MEMORY, second), 0);
        wharf_name fourth = take_memory(h.task, h.port);
        CHECK_NE(mapped_at(bytes_of(h.task, fourth)).inode, inode);
        CHECK_EQ(sum_of(h.task, fourth), changed);
        CHECK_EQ(sum_of(h.task, second), changed);
        CHECK_EQ(sum_of(h.task, third), sum_of_pattern(BYTES, 4));
        hub_close(&h);
}

static int no_pagemap(enum wh_os_call call)
{
        return call == WH_OS_pagemap ? -ENOENT : 0;
}

/* Where the kernel does not say which pages were written to, all are taken to be. */
TEST(without_proc_kept_memory_is_sent_as_a_whole_copy)
{
        test_need_proc();
        struct hub h = hub_open(NULL);
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        wharf_name memory = memory_new(h.task, BYTES, 5);
        wh_os_gate = no_pagemap;
        struct wharf_memory_stat st = {.size = sizeof st};
        CHECK_EQ(send_memory(h.task, right, WHARF_COPY_MEMORY, memory), 0);
        wharf_name first = take_memory(h.task, h.port);
        CHECK_EQ(mapped_at(bytes_of(h.task, first)).inode, mapped_at(bytes_of(h.task, memory)).inode);
        CHECK_EQ(wharf_memory_stat(h.task, memory, &st), -EOPNOTSUPP);
        CHECK(strstr(wharf_why(), "/proc/self/pagemap"));
        bytes_of(h.task, memory)[0] ^= 1;
        CHECK_EQ(send_memory(h.task, right, WHARF_COPY_MEMORY, memory), 0);
        wharf_name second = take_memory(h.task, h.port);
        CHECK_EQ(sum_of(h.task, second), sum_of(h.task, memory));
        CHECK_EQ(sum_of(h.task, first), sum_of_pattern(BYTES, 5));
        wh_os_gate = NULL;
        hub_close(&h);
}

/* ---- how many, how large, and what a failure leaves ---- */

/* By every way that carries bytes, several memories and rights in one message; the payload has its own limits. */
TEST(several_memories_travel_in_one_message)
{
        struct hub h = hub_open(NULL);
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        static char bytes[20000], buf[20000];
        for (uint32_t how = WHARF_HOW_COLD; how <= WHARF_HOW_MEMORY; how++) {
                struct wharf_item items[6], got[6];
                for (unsigned i = 0; i < 5; i++)
                        items[i] = (struct wharf_item){.kind = i & 1 ? WHARF_MOVE_MEMORY : WHARF_COPY_MEMORY,
                                                       .name = memory_new(h.task, (i + 1) * PAGE, i)};
                items[5] = (struct wharf_item){.kind = WHARF_COPY_FD, .fd = h.listen_fd};
                pattern_fill(bytes, sizeof bytes, how);
                struct wharf_msg m = MSG(.data = bytes, .len_bytes = how == WHARF_HOW_INLINE ? 100 : sizeof bytes,
                                         .how = how, .items = items, .n_items = 6);
                CHECK_EQ(wharf_sendmsg(h.task, right, &m, WHARF_FOREVER), 0);
                struct wharf_msg r = MSG(.data = buf, .cap_bytes = sizeof buf, .items = got, .cap_items = 6);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &r, WHARF_FOREVER), 0);
                CHECK_EQ(r.n_items, 6);
                CHECK_MEM(buf, bytes, m.len_bytes);
                for (unsigned i = 0; i < 5; i++) {
                        CHECK_EQ(got[i].kind, WHARF_GOT_MEMORY);
                        CHECK_EQ(sum_of(h.task, got[i].name), sum_of_pattern((i + 1) * PAGE, i));
                        CHECK_EQ(wharf_drop(h.task, got[i].name), 0);
                        CHECK_EQ(wharf_drop(h.task, items[i].name), i & 1 ? -EBADF : 0);
                }
                CHECK_EQ(got[5].kind, WHARF_GOT_FD);
                close(got[5].fd);
        }
        hub_close(&h);
}

/*
 * Goal:   a message whose memory cannot be sent leaves all as it was, and what is written afterwards is sent later.
 * Method: a port that takes less; a full queue; a bad item behind; a dead receiver.
 */
TEST(a_failed_send_leaves_the_memory_with_the_sender)
{
        struct hub h = hub_open(PORT_OPTS(.payload_bytes_max = 16 * PAGE, .capacity_records = 1));
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        struct wharf_item two[2] = {{.kind = WHARF_MOVE_MEMORY, .name = memory_new(h.task, 16 * PAGE, 1)},
                                    {.kind = WHARF_COPY_MEMORY, .name = memory_new(h.task, PAGE, 2)}};
        CHECK_EQ(wharf_send(h.task, right, "a", 1, WHARF_FOREVER), 0);
        char c;
        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, WHARF_FOREVER), 1);
        CHECK_EQ(send_items(h.task, right, two, 2, WHARF_FOREVER), -EMSGSIZE); /* together too large */
        CHECK_EQ(sum_of(h.task, two[0].name), sum_of_pattern(16 * PAGE, 1));
        two[1].kind = 99;
        CHECK_EQ(send_items(h.task, right, two, 2, WHARF_FOREVER), -EINVAL);
        two[1] = (struct wharf_item){.kind = WHARF_MOVE_MEMORY, .name = right};
        CHECK_EQ(send_items(h.task, right, two, 2, WHARF_FOREVER), -EPERM);
        while (wharf_send(h.task, right, "fill", 4, 0) == 0)
                ;
        CHECK_EQ(send_items(h.task, right, two, 1, 0), -EAGAIN);
        CHECK_EQ(sum_of(h.task, two[0].name), sum_of_pattern(16 * PAGE, 1));
        bytes_of(h.task, two[0].name)[9] = 77;
        uint32_t sum = sum_of(h.task, two[0].name);
        char buf[8];
        while (wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0) >= 0)
                ;
        CHECK_EQ(send_items(h.task, right, two, 1, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_name_kind(h.task, two[0].name), -EBADF);
        wharf_name got = take_memory(h.task, h.port);
        CHECK_EQ(sum_of(h.task, got), sum);
        struct wharf_item again = {.kind = WHARF_MOVE_MEMORY, .name = got};
        CHECK_EQ(wharf_drop(h.task, h.port), 0);
        CHECK_EQ(send_items(h.task, right, &again, 1, WHARF_FOREVER), -EPIPE);
        CHECK_EQ(sum_of(h.task, got), sum);
        hub_close(&h);
}

static int fail_at, calls_seen;

static int fail_one(enum wh_os_call call)
{
        return calls_seen++ == fail_at && call != WH_OS_close && call != WH_OS_munmap ? -ENOMEM : 0;
}

/*
 * Goal:   whichever call of the system fails while memory is sent or received, it stays where it was, whole.
 * Method: fail the first call of a send, the second, and so on; then the same with the receive.
 */
TEST(any_failing_system_call_leaves_memory_where_it_was)
{
        struct hub h = hub_open(NULL);
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        char buf[8];
        for (int side = 0; side < 2; side++) {
                bool done = false;
                for (fail_at = 0; !done; fail_at++) {
                        struct wharf_item item = {.kind = WHARF_MOVE_MEMORY, .name = memory_new(h.task, 4 * PAGE, 6)};
                        struct wharf_item got;
                        struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf, .items = &got, .cap_items = 1);
                        calls_seen = 0;
                        wh_os_gate = side == 0 ? fail_one : NULL;
                        int r = send_items(h.task, right, &item, 1, 0);
                        wh_os_gate = NULL;
                        done = side == 0 && calls_seen <= fail_at;
                        if (r < 0) {
                                CHECK_EQ(sum_of(h.task, item.name), sum_of_pattern(4 * PAGE, 6));
                                CHECK_EQ(send_items(h.task, right, &item, 1, 0), 0);
                        }
                        calls_seen = 0;
                        wh_os_gate = side == 1 ? fail_one : NULL;
                        r = wharf_recvmsg(h.task, h.port, &m, 0);
                        wh_os_gate = NULL;
                        done |= side == 1 && calls_seen <= fail_at;
                        if (r < 0) {
                                r = wharf_recvmsg(h.task, h.port, &m, 0);
                                if (r == -EAGAIN) { /* where not even the descriptor could be looked at: a breach */
                                        CHECK_EQ(side, 1);
                                        wharf_drop(h.task, right);
                                        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
                                        continue;
                                }
                        }
                        CHECK_EQ(r, 0);
                        CHECK_EQ(sum_of(h.task, got.name), sum_of_pattern(4 * PAGE, 6));
                        CHECK_EQ(wharf_drop(h.task, got.name), 0);
                }
        }
        hub_close(&h);
}

/*
 * Goal:   while the kernel itself still writes to the pages for somebody, or may, nothing is sent.
 * Method: a page that lies in a pipe by reference (vmsplice).
 */
TEST(memory_that_the_kernel_holds_is_not_sent)
{
        struct hub h = hub_open(NULL);
        wharf_name right;
        int p[2];
        char page[PAGE];
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        CHECK_EQ(pipe2(p, O_CLOEXEC), 0);
        wharf_name memory = memory_new(h.task, BYTES, 7);
        struct iovec iov = {bytes_of(h.task, memory), PAGE};
        CHECK_EQ(vmsplice(p[1], &iov, 1, 0), PAGE);
        CHECK_EQ(send_memory(h.task, right, WHARF_MOVE_MEMORY, memory), -EBUSY);
        CHECK_EQ(sum_of(h.task, memory), sum_of_pattern(BYTES, 7));
        CHECK_EQ(read(p[0], page, PAGE), PAGE);
        bytes_of(h.task, memory)[0] ^= 1;
        uint32_t sum = sum_of(h.task, memory);
        CHECK_EQ(send_memory(h.task, right, WHARF_MOVE_MEMORY, memory), 0);
        CHECK_EQ(sum_of(h.task, take_memory(h.task, h.port)), sum);
        close(p[0]);
        close(p[1]);
        hub_close(&h);
}

/* ---- life ---- */

static int share_and_die(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        CHECK_EQ(send_memory(t, hub, WHARF_COPY_MEMORY, memory_new(t, BYTES, 8)), 0);
        kill(getpid(), SIGKILL);
        return 1;
}

/* Sent before its sender was killed, received after it: all of it is there. */
TEST(sent_memory_survives_the_death_of_its_sender)
{
        struct hub h = hub_open(NULL);
        CHECK_EQ(test_wait(test_fork(share_and_die, &h)), 128 + SIGKILL);
        CHECK_EQ(sum_of(h.task, take_memory(h.task, h.port)), sum_of_pattern(BYTES, 8));
        hub_close(&h);
}

struct child_run {
        wharf_task *task;
        wharf_name memory;
        void *at;
        struct stage born, sent;
};

static int child_without(void *arg)
{
        struct child_run *run = arg;
        void *at;
        stage_reach(&run->born);
        CHECK_EQ(wharf_memory_at(run->task, run->memory, &at, NULL), -ESTALE);
        CHECK_EQ(wharf_drop(run->task, run->memory), -ESTALE);
        int p[2];
        CHECK_EQ(pipe2(p, O_CLOEXEC), 0);
        CHECK(write(p[1], run->at, 1) < 0 && errno == EFAULT); /* not mapped here */
        stage_await(&run->sent);
        wharf_task_close(run->task);
        return 0;
}

/* A child has nothing of it; and as it has nothing, the kernel seals the memory although the child lives on. */
TEST(a_forked_child_has_no_memory_of_its_parent)
{
        struct hub h = hub_open(NULL);
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        struct child_run run = {
                .task = h.task, .memory = memory_new(h.task, BYTES, 9), .born = stage_new(), .sent = stage_new()};
        run.at = bytes_of(h.task, run.memory);
        pid_t pid = test_fork(child_without, &run);
        stage_await(&run.born);
        CHECK_EQ(send_memory(h.task, right, WHARF_MOVE_MEMORY, run.memory), 0);
        CHECK_EQ(sum_of(h.task, take_memory(h.task, h.port)), sum_of_pattern(BYTES, 9));
        stage_reach(&run.sent);
        CHECK_EQ(test_wait(pid), 0);
        stage_done(&run.born);
        stage_done(&run.sent);
        hub_close(&h);
}

/* What nobody took, or took without asking for it, goes: the harness counts mappings and descriptors after the test. */
TEST(memory_that_nobody_takes_is_given_back)
{
        struct hub h = hub_open(NULL);
        wharf_name right;
        char buf[8];
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (int i = 0; i < 40; i++) {
                CHECK_EQ(send_memory(h.task, right, WHARF_MOVE_MEMORY, memory_new(h.task, PAGE, 1)), 0);
                if (i & 1)
                        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, WHARF_FOREVER), 6);
        }
        hub_close(&h);
}

/* An answer carries memory like any message, also to a request that carried some. */
static int answer_with_memory(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        struct wharf_item item = {.kind = WHARF_MOVE_MEMORY, .name = memory_new(t, BYTES, 10)}, got;
        struct wharf_msg req = MSG(.items = &item, .n_items = 1);
        struct wharf_msg reply = MSG(.items = &got, .cap_items = 1);
        CHECK_EQ(wharf_callmsg(t, hub, &req, &reply, WHARF_FOREVER), 0);
        CHECK_EQ(reply.n_items, 1);
        uint32_t want = sum_of_pattern(BYTES, 10);
        CHECK_NE(sum_of(t, got.name), want);
        bytes_of(t, got.name)[3 * PAGE] ^= 0xff;
        CHECK_EQ(sum_of(t, got.name), want);
        wharf_task_close(t);
        return 0;
}

TEST(memory_goes_with_a_request_and_comes_back_with_its_reply)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(answer_with_memory, &h);
        struct wharf_item item;
        struct wharf_msg m = MSG(.items = &item, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        bytes_of(h.task, item.name)[3 * PAGE] ^= 0xff;
        item.kind = WHARF_MOVE_MEMORY;
        struct wharf_msg reply = MSG(.items = &item, .n_items = 1);
        CHECK_EQ(wharf_replymsg(h.task, m.reply, &reply), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* A payload that came as a memory of its own is shown where it is, and is the receiver's to write to. */
TEST(a_payload_of_its_own_memory_is_writable_in_place)
{
        test_need_proc();
        struct hub h = hub_open(NULL);
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        static char bytes[8 * PAGE];
        pattern_fill(bytes, sizeof bytes, 11);
        struct wharf_msg m = MSG(.data = bytes, .len_bytes = sizeof bytes, .how = WHARF_HOW_MEMORY);
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, WHARF_FOREVER), 0);
        struct wharf_msg r = MSG(.flags = WHARF_RECV_IN_PLACE);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &r, WHARF_FOREVER), 0);
        CHECK_EQ(r.how, WHARF_HOW_MEMORY);
        CHECK_MEM(r.data, bytes, sizeof bytes);
        CHECK_EQ(mapped_at(r.data).own_pages, 0);
        ((char *)r.data)[PAGE] ^= 1;
        CHECK_EQ(mapped_at(r.data).own_pages, 1);
        wharf_release(h.task, &r);
        hub_close(&h);
}

/* ---- what no honest sender sends ---- */

enum lie { UNSEALED, NOT_WRITE, SPARSE, EMPTY, REGULAR, DEVICE, PIPE, MODE, HUGE_PAGES, TOO_LARGE, LIES };

static int lie_fd(enum lie lie)
{
        int fd, p[2];
        switch (lie) {
        case REGULAR: {
                char path[160];
                snprintf(path, sizeof path, "%s/file", test_dir());
                fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
                CHECK_EQ(ftruncate(fd, PAGE), 0);
                return fd;
        }
        case DEVICE:
                return open("/dev/zero", O_RDWR | O_CLOEXEC);
        case PIPE:
                CHECK_EQ(pipe2(p, O_CLOEXEC), 0);
                close(p[1]);
                return p[0];
        case HUGE_PAGES:
                fd = memfd_create("huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB);
                if (fd >= 0 && ftruncate(fd, 2 << 20) == 0 && fchmod(fd, 0600) == 0)
                        CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
                return fd;
        default:
                break;
        }
        fd = memfd_create("lie", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        CHECK_GE(fd, 0);
        CHECK_EQ(fchmod(fd, lie == MODE ? 0666 : 0600), 0);
        if (lie == SPARSE)
                CHECK_EQ(ftruncate(fd, (off_t)1 << 29), 0); /* not a block of it */
        else if (lie == TOO_LARGE)
                CHECK_EQ(posix_fallocate(fd, 0, (8 << 20) + PAGE), 0);
        else if (lie != EMPTY)
                CHECK_EQ(posix_fallocate(fd, 0, PAGE), 0);
        int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | (lie == NOT_WRITE ? F_SEAL_FUTURE_WRITE : F_SEAL_WRITE);
        if (lie != UNSEALED)
                CHECK_EQ(fcntl(fd, F_ADD_SEALS, seals), 0);
        return fd;
}

/*
 * Goal:   what is not immutable, whole, paid for and of an allowed size is refused before a page of it is touched, and
 *         costs its sender the link; others do not notice. Beside a payload, and as one.
 * Method: every such descriptor, cold and behind a lane.
 */
TEST(memory_that_is_not_sealed_whole_and_ordinary_is_refused)
{
        struct hub h = hub_open(PORT_OPTS(.payload_bytes_max = 8 << 20, .flags = WHARF_PORT_STAYS));
        wharf_name good;
        CHECK_EQ(wharf_right_new(h.task, h.port, &good), 0);
        for (enum lie lie = 0; lie < LIES; lie++)
                for (int lane = 0; lane < 2; lane++)
                        for (int beside = 0; beside < 2; beside++) {
                                wharf_name bad;
                                char c, buf[8];
                                int fd = lie_fd(lie);
                                if (fd < 0)
                                        continue; /* no huge pages here */
                                CHECK_EQ(wharf_right_new(h.task, h.port, &bad), 0);
                                struct wharf_msg first = MSG(.data = BYTES("a"), .len_bytes = 1,
                                                             .how = lane ? WHARF_HOW_INLINE : WHARF_HOW_COLD);
                                CHECK_EQ(wharf_sendmsg(h.task, bad, &first, WHARF_FOREVER), 0);
                                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, WHARF_FOREVER), 1);
                                struct wh_link *l = holder(h.task, bad);
                                uint64_t len = lie == TOO_LARGE ? (8 << 20) + PAGE : lie == SPARSE ? 1 << 29 : PAGE;
                                uint8_t kind = beside ? WH_ITEM_BESIDE : WH_ITEM_MEMORY;
                                struct wh_frame f = {
                                        .type = lane ? WH_FRAME_ITEMS : WH_FRAME_MESSAGE,
                                        .n_fds = 1,
                                        .seq = l->out.seq,
                                        .total = beside ? 0 : len,
                                        .arg = WH_MSG_FIRST | WH_MSG_LAST | (beside ? 0 : WH_MSG_MEMORY),
                                };
                                CHECK_EQ(wh_link_frame(l, &f, &kind, 1, &fd, false), 0);
                                if (lane) {
                                        struct {
                                                struct wh_rec_ext ext;
                                                struct wh_rec_block block;
                                        } rec = {.ext.n_items = 1, .block = {.len = len, .total = len}};
                                        uint32_t size = beside ? sizeof rec.ext : sizeof rec;
                                        memcpy(wh_ring_reserve(&l->out.lane->ring, size), &rec, size);
                                        wh_ring_publish(&l->out.lane->ring, beside ? WH_REC_INLINE : WH_REC_MEMORY,
                                                        size);
                                        if (wh_ring_must_ring(&l->out.lane->ring))
                                                wh_frame_bell(l->sock);
                                }
                                close(fd);
                                struct wharf_item item;
                                struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf, .items = &item,
                                                         .cap_items = 1, .flags = WHARF_RECV_IN_PLACE);
                                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
                                struct wharf_right_stat st = {.size = sizeof st};
                                CHECK_EQ(wharf_right_stat(h.task, bad, &st), 0);
                                CHECK_EQ(st.dead, lie == TOO_LARGE ? -EMSGSIZE : -EPROTO);
                                CHECK_EQ(wharf_drop(h.task, bad), 0);
                                CHECK_EQ(wharf_send(h.task, good, "well", 4, WHARF_FOREVER), 0);
                                CHECK_EQ(wharf_recv(h.task, h.port, buf, 8, NULL, WHARF_FOREVER), 4);
                        }
        hub_close(&h);
}

/* ---- forking in the middle ---- */

static sem_t fork_now, fork_done;
static pid_t forked_child;
static int madvised;

static void *forks_when_told(void *arg)
{
        (void)arg;
        sem_wait(&fork_now);
        forked_child = fork();
        if (forked_child == 0)
                for (;;)
                        pause();
        sem_post(&fork_done);
        return NULL;
}

/* The memory is mapped, and not yet kept from children: the moment to fork. Whoever keeps the fork waiting is right. */
static int fork_before_madvise(enum wh_os_call call)
{
        if (call == WH_OS_madvise && madvised++ == 0) {
                struct timespec soon;
                sem_post(&fork_now);
                clock_gettime(CLOCK_REALTIME, &soon);
                soon.tv_nsec += 50000000;
                if (soon.tv_nsec >= 1000000000)
                        soon = (struct timespec){soon.tv_sec + 1, soon.tv_nsec - 1000000000};
                if (sem_timedwait(&fork_done, &soon) == 0)
                        sem_post(&fork_done);
        }
        return 0;
}

/*
 * Goal:   a thread that forks while another makes a memory does not keep that from being sent: its child has no mapping
 *         of it, for which the kernel would refuse the seals.
 * Method: fork between the two calls that make the mapping; the child lives on.
 */
TEST(a_fork_while_a_memory_is_made_leaves_the_child_without_it)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        wharf_name to, memory;
        pthread_t thread;
        CHECK_EQ(wharf_right_new(h.task, h.port, &to), 0);
        sem_init(&fork_now, 0, 0);
        sem_init(&fork_done, 0, 0);
        madvised = 0;
        wh_os_gate = fork_before_madvise; /* while there is one thread: the other reads it too */
        CHECK_EQ(pthread_create(&thread, NULL, forks_when_told, NULL), 0);
        CHECK_EQ(wharf_memory_new(h.task, 1 << 20, &memory), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        wh_os_gate = NULL;
        CHECK(forked_child > 0);
        struct wharf_item give = {.kind = WHARF_MOVE_MEMORY, .name = memory};
        struct wharf_msg m = MSG(.items = &give, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(h.task, to, &m, WHARF_FOREVER), 0);
        kill_hard(forked_child);
        hub_close(&h);
}
