/*
 * What a deadline means, to every call that takes one (wharf/api.h).
 *
 * Method: a table of everything that can be waited for and never comes, with deadline 0, with several that have passed,
 * and, for what is there at once, with the same and with the farthest. No test sleeps: nothing here waits but what must
 * not, and that would hang.
 */
#include "again.h"
#include "domain.h"
#include "hub.h"

#include <wharf/buffer.h>
#include <wharf/heap.h>
#include <wharf/names.h>
#include <wharf/segment.h>
#include <wharf/spawn.h>
#include <wharf/sync.h>
#include <wharf/wharf.h>

static wharf_task *task;
static wharf_name empty, full, meeting, answered, full_port, meeting_port, answered_port;
static wharf_direct *direct;
static struct wharf_child child = {.size = sizeof child};
static wharf_buffer *buffer[3];
static wharf_heap *heap;
static struct {
        wharf_mutex mutex;
        wharf_sem plain, owned;
        wharf_event event;
} * shared;

enum { ITEM = 64 };
static char bytes[4096];

static int64_t recv_(int64_t d)
{
        return wharf_recv(task, empty, bytes, sizeof bytes, NULL, d);
}
static int64_t recvmsg_(int64_t d)
{
        return wharf_recvmsg(task, empty, &MSG(.data = bytes, .cap_bytes = sizeof bytes), d);
}
static int64_t send_full(int64_t d)
{
        return wharf_send(task, full, bytes, 100, d);
}
static int64_t sendmsg_full(int64_t d)
{
        return wharf_sendmsg(task, full, &MSG(.data = bytes, .len_bytes = 100), d);
}
static int64_t send_meeting(int64_t d)
{
        return wharf_send(task, meeting, bytes, 100, d);
}
static int64_t call_(int64_t d)
{
        int64_t r = wharf_call(task, answered, bytes, 10, bytes, 10, d);
        struct wharf_msg m = MSG(.data = bytes, .cap_bytes = sizeof bytes);
        while (wharf_recvmsg(task, answered_port, &m, 0) == 0)
                wharf_drop(task, m.reply);
        return r;
}
static int64_t call_finish_(int64_t d)
{
        uint32_t call;
        CHECK_EQ(
                wharf_call_start(task, answered, &MSG(.data = bytes, .len_bytes = 1), WHARF_NONE, WHARF_FOREVER, &call),
                0);
        int64_t r = wharf_call_finish(task, answered, call, &MSG(.data = bytes, .cap_bytes = 10), d);
        CHECK_EQ(wharf_call_cancel(task, answered, call), 0);
        return r;
}
static int64_t same_(int64_t d)
{
        return wharf_right_same(task, answered, full, d);
}
static int64_t child_(int64_t d)
{
        int status;
        return wharf_child_wait(&child, d, &status);
}
static int64_t direct_recv(int64_t d)
{
        return wharf_direct_recv(direct, "nobody", bytes, sizeof bytes, d);
}
static int64_t direct_recv_any(int64_t d)
{
        return wharf_direct_recv_any(direct, bytes, sizeof bytes, NULL, d);
}
static int64_t buffer_get(int64_t d)
{
        for (int i = 0; i < 3; i++) {
                int64_t r = wharf_buffer_get(buffer[i], bytes, sizeof bytes, d);
                if (i == 2 || r != (d ? -ETIMEDOUT : -EAGAIN))
                        return r;
        }
        return 0;
}
static int64_t buffer_put(int64_t d)
{
        for (int i = 0; i < 3; i += 2)
                while (wharf_buffer_put(buffer[i], bytes, ITEM, 0) == 0)
                        ;
        int64_t r = wharf_buffer_put(buffer[0], bytes, ITEM, d), s = wharf_buffer_put(buffer[2], bytes, ITEM, d);
        for (int i = 0; i < 3; i += 2)
                while (wharf_buffer_get(buffer[i], bytes, ITEM, 0) == ITEM)
                        ;
        return r == s ? r : 1000;
}
static int64_t mutex_(int64_t d)
{
        return wharf_mutex_lock(&shared->mutex, d);
}
static int64_t sem_plain(int64_t d)
{
        return wharf_sem_take(&shared->plain, d);
}
static int64_t sem_owned(int64_t d)
{
        return wharf_sem_take(&shared->owned, d);
}
static int64_t event_(int64_t d)
{
        return wharf_event_wait(&shared->event, wharf_event_key(&shared->event), d);
}
static int64_t heap_(int64_t d)
{
        uint64_t at;
        int r = wharf_heap_alloc(heap, 40000, 0, 0, d, &at);
        return r == -ENOMEM && d == 0 ? -EAGAIN : r; /* a heap's word for it */
}
static int64_t lookup_(int64_t d)
{
        wharf_name right;
        int r = wharf_lookup(task, "nobody", d, &right);
        return r == -ENOENT ? (d ? -ETIMEDOUT : -EAGAIN) : r; /* likewise: it is not there, or was not by then */
}
static int64_t direct_send(int64_t d)
{
        int r = wharf_direct_send(direct, "nobody", bytes, 10, d);
        return r == -ENOENT ? (d ? -ETIMEDOUT : -EAGAIN) : r;
}

static const struct {
        const char *what;
        int64_t (*call)(int64_t deadline_ns);
} waits[] = {
        {"wharf_recv", recv_},
        {"wharf_recvmsg", recvmsg_},
        {"wharf_send", send_full},
        {"wharf_sendmsg", sendmsg_full},
        {"wharf_send to capacity zero", send_meeting},
        {"wharf_call", call_},
        {"wharf_call_finish", call_finish_},
        {"wharf_right_same", same_},
        {"wharf_child_wait", child_},
        {"wharf_direct_recv", direct_recv},
        {"wharf_direct_recv_any", direct_recv_any},
        {"wharf_direct_send", direct_send},
        {"wharf_lookup", lookup_},
        {"wharf_buffer_get", buffer_get},
        {"wharf_buffer_put", buffer_put},
        {"wharf_mutex_lock", mutex_},
        {"wharf_sem_take", sem_plain},
        {"wharf_sem_take, owned", sem_owned},
        {"wharf_event_wait", event_},
        {"wharf_heap_alloc", heap_},
};

ROLE(wait)
{
        pause();
        return 0;
}

static int hold(void *ready)
{
        uint64_t at;
        CHECK_EQ(wharf_mutex_lock(&shared->mutex, 0), 0);
        CHECK_EQ(wharf_sem_take(&shared->owned, 0), 0);
        CHECK_EQ(wharf_heap_alloc(heap, 40000, 0, 0, 0, &at), 0);
        stage_reach(ready);
        pause();
        return 0;
}

static void port_of(wharf_name *ret_port, wharf_name *ret_right, uint32_t capacity)
{
        CHECK_EQ(wharf_port_new(task, PORT_OPTS(.flags = WHARF_PORT_STAYS, .capacity_records = capacity), ret_port), 0);
        CHECK_EQ(wharf_right_new(task, *ret_port, ret_right), 0);
}

TEST(a_deadline_means_the_same_to_every_call)
{
        test_domain();
        CHECK_EQ(wharf_task_open(NULL, &task), 0);
        wharf_name unused;
        port_of(&empty, &unused, 0);
        port_of(&full_port, &full, 1);
        port_of(&meeting_port, &meeting, WHARF_RENDEZVOUS);
        port_of(&answered_port, &answered, 0);
        while (wharf_send(task, full, bytes, 100, 0) == 0)
                ;
        CHECK_EQ(wharf_direct_join(task, "P", &direct), 0);
        CHECK_EQ(wharf_spawn(task, SPAWN_OPTS(.argv = ARGV(WORD("@wait"))), WHARF_FOREVER, &child), 0);
        char *memory = test_shared(4 << 20);
        shared = (void *)(memory + (3 << 20));
        CHECK_EQ(wharf_sem_init(&shared->owned, 1, WHARF_SEM_OWNED), 0);
        for (uint32_t kind = 0; kind < 3; kind++) {
                struct wharf_buffer_opts o = {.size = sizeof o, .kind = kind, .places = kind == 1 ? 0 : 4};
                CHECK_EQ(wharf_buffer_format(memory + (kind << 20), 1 << 20, &o), 0);
                CHECK_EQ(wharf_buffer_open(memory + (kind << 20), 1 << 20, &buffer[kind]), 0);
        }
        void *at = memory + (3 << 20) + 65536;
        CHECK_EQ(wharf_heap_format(at, 1 << 17,
                                   &(struct wharf_heap_opts){.size = sizeof(struct wharf_heap_opts),
                                                             .policy = WHARF_HEAP_FIRST_FIT,
                                                             .managed_bytes = 65536}),
                 0);
        CHECK_EQ(wharf_heap_open(at, 1 << 17, &heap), 0);
        struct stage ready = stage_new();
        pid_t holder = test_fork(hold, &ready);
        stage_await(&ready);
        CHECK_EQ(wharf_lookup(task, "nobody", 0, &unused), -ENOENT);

        const int64_t passed[] = {INT64_MIN, INT64_MIN + 1, -1000000000, -1, 1, wharf_now_ns()};
        for (size_t i = 0; i < sizeof waits / sizeof *waits; i++) {
                int64_t r = waits[i].call(0);
                if (r != -EAGAIN)
                        test_fail(__FILE__, __LINE__, "%s, deadline 0: %" PRIi64, waits[i].what, r);
                for (size_t k = 0; k < sizeof passed / sizeof *passed; k++)
                        if ((r = waits[i].call(passed[k])) != -ETIMEDOUT)
                                test_fail(__FILE__, __LINE__, "%s, deadline %" PRIi64 ": %" PRIi64, waits[i].what,
                                          passed[k], r);
        }
        kill(holder, SIGKILL);
        CHECK_EQ(test_wait(holder), 128 + SIGKILL);
        CHECK_EQ(wharf_child_kill(&child, SIGKILL), 0);
        CHECK_EQ(child_status(&child), -SIGKILL);
        for (int i = 0; i < 3; i++)
                wharf_buffer_close(buffer[i]);
        wharf_heap_close(heap);
        wharf_direct_leave(direct);
        wharf_task_close(task);
        stage_done(&ready);
}

TEST(what_is_there_at_once_is_had_whatever_the_deadline)
{
        wharf_name port, right;
        const int64_t all[] = {0,
                               INT64_MIN,
                               -1,
                               1,
                               wharf_now_ns(),
                               wharf_in_ms(INT64_MAX),
                               wharf_in_ms(10000000000000),
                               INT64_MAX - 1};
        CHECK_EQ(wharf_task_open(NULL, &task), 0);
        port_of(&port, &right, 0);
        char *memory = test_shared(2 << 20);
        shared = (void *)(memory + (1 << 20));
        CHECK_EQ(wharf_sem_init(&shared->plain, 1, 0), 0);
        CHECK_EQ(wharf_sem_init(&shared->owned, 1, WHARF_SEM_OWNED), 0);
        CHECK_EQ(wharf_heap_format(memory, 1 << 20, NULL), 0);
        CHECK_EQ(wharf_heap_open(memory, 1 << 20, &heap), 0);
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
                uint64_t at;
                CHECK_EQ(wharf_send(task, right, bytes, 100, all[i]), 0);
                CHECK_EQ(wharf_recv(task, port, bytes, sizeof bytes, NULL, all[i]), 100);
                CHECK_EQ(wharf_mutex_lock(&shared->mutex, all[i]), 0);
                CHECK_EQ(wharf_mutex_unlock(&shared->mutex), 0);
                CHECK_EQ(wharf_sem_take(&shared->plain, all[i]), 0);
                CHECK_EQ(wharf_sem_give(&shared->plain), 0);
                CHECK_EQ(wharf_sem_take(&shared->owned, all[i]), 0);
                CHECK_EQ(wharf_sem_give(&shared->owned), 0);
                CHECK_EQ(wharf_heap_alloc(heap, 100, 0, 0, all[i], &at), 0);
        }
        wharf_heap_close(heap);
        wharf_task_close(task);
}

TEST(a_time_that_is_too_far_is_for_ever)
{
        CHECK_EQ(wharf_in_ms(INT64_MAX), WHARF_FOREVER);
        CHECK_EQ(wharf_in_ms(10000000000000), WHARF_FOREVER); /* 1e13 ms: 317 years */
        CHECK_EQ(wharf_in_ms(INT64_MAX / 1000000), WHARF_FOREVER);
        CHECK(wharf_in_ms(9000000000000) < WHARF_FOREVER); /* 285 years */
        CHECK(wharf_in_ms(9000000000000) > wharf_now_ns());
        CHECK(wharf_in_ms(-1) < wharf_now_ns());
        CHECK_EQ(wharf_in_ms(INT64_MIN), INT64_MIN);
        CHECK(wharf_in_ms(-9000000000000) < 0);
}

/* Really waited for: what comes after a while is had, where the deadline is far or none. */
static int send_after_a_while(void *arg)
{
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        for (int i = 0; i < 3; i++) {
                nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
                CHECK_EQ(wharf_send(t, right, "late", 4, WHARF_FOREVER), 0);
        }
        wharf_task_close(t);
        return 0;
}

TEST(a_far_deadline_is_waited_for)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(send_after_a_while, &h);
        CHECK_EQ(wharf_recv(h.task, h.port, bytes, sizeof bytes, NULL, wharf_in_ms(INT64_MAX)), 4);
        CHECK_EQ(wharf_recv(h.task, h.port, bytes, sizeof bytes, NULL, INT64_MAX - 1), 4);
        CHECK_EQ(wharf_recv(h.task, h.port, bytes, sizeof bytes, NULL, wharf_in_ms(9000000000000)), 4);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* Goal: who spins for ever does so until its deadline: for a reply, for room, and for a message. */
TEST(a_task_that_spins_for_ever_looks_at_its_deadlines)
{
        struct wharf_task_opts o = {.size = sizeof o, .spin_us_max = WHARF_SPIN};
        struct wharf_port_opts few = {.size = sizeof few, .flags = WHARF_PORT_STAYS, .capacity_records = 4};
        wharf_task *t;
        wharf_name port, right;
        char c;
        CHECK_EQ(wharf_task_open(&o, &t), 0);
        CHECK_EQ(wharf_port_new(t, &few, &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, wharf_in_ms(5)), -ETIMEDOUT);
        for (int i = 0; i < 30; i++) { /* until it has a lane */
                CHECK_EQ(wharf_send(t, right, "x", 1, 0), 0);
                CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, 0), 1);
        }
        CHECK_EQ(wharf_call(t, right, "x", 1, &c, 1, wharf_in_ms(5)), -ETIMEDOUT);
        while (wharf_send(t, right, "x", 1, 0) == 0)
                ;
        CHECK_EQ(wharf_send(t, right, "x", 1, wharf_in_ms(5)), -ETIMEDOUT);
        wharf_task_close(t);
}
