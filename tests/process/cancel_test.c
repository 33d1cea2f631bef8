/*
 * Cancellation: pthread_cancel() of a thread that waits in a call. No call is a cancellation point, so the thread stays
 * until its wait is over, nothing is left locked, and everybody else goes on.
 */
#include "domain.h"
#include "hub.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <wharf/buffer.h>
#include <wharf/names.h>

struct waiter {
        wharf_task *task;
        wharf_name name;
        wharf_buffer *buffer;
        long (*call)(struct waiter *w);
        char text[64];
        _Atomic long result;
        _Atomic int tid;
        pthread_t thread;
};

enum { NOT_YET = 12345 };

static void *waiter_run(void *arg)
{
        struct waiter *w = arg;
        atomic_store(&w->tid, (int)syscall(SYS_gettid));
        atomic_store(&w->result, w->call(w));
        pthread_testcancel();
        return NULL;
}

/* Until the thread sleeps in the kernel. */
static void await_thread_asleep(struct waiter *w)
{
        char path[64], text[512];
        test_need_proc();
        for (int seen = 0; seen < 5;) {
                snprintf(path, sizeof path, "/proc/self/task/%d/stat", atomic_load(&w->tid));
                FILE *f = fopen(path, "re");
                if (!f || !fgets(text, sizeof text, f))
                        test_fail(__FILE__, __LINE__, "the thread ended: %ld", (long)atomic_load(&w->result));
                fclose(f);
                const char *p = strrchr(text, ')');
                seen = p && p[2] == 'S' ? seen + 1 : 0;
                usleep(500);
        }
}

/* Starts a thread in the call, waits until it sleeps there, and cancels it. */
static void cancel_in(struct waiter *w)
{
        atomic_store(&w->result, NOT_YET);
        CHECK_EQ(pthread_create(&w->thread, NULL, waiter_run, w), 0);
        while (atomic_load(&w->tid) == 0)
                sched_yield();
        await_thread_asleep(w);
        CHECK_EQ(pthread_cancel(w->thread), 0);
        await_thread_asleep(w);
        CHECK_EQ(atomic_load(&w->result), NOT_YET);
}

/* The wait is over: the call gave its result, and only then the thread ended. */
static void ended_with(struct waiter *w, long result)
{
        void *ret;
        CHECK_EQ(pthread_join(w->thread, &ret), 0);
        CHECK_EQ(atomic_load(&w->result), result);
        CHECK(ret == PTHREAD_CANCELED);
}

static long call_recv(struct waiter *w)
{
        return wharf_recv(w->task, w->name, w->text, sizeof w->text, NULL, WHARF_FOREVER);
}

static long call_send(struct waiter *w)
{
        return wharf_send(w->task, w->name, "waits", 5, WHARF_FOREVER);
}

static long call_call(struct waiter *w)
{
        return wharf_call(w->task, w->name, "ask", 3, w->text, sizeof w->text, WHARF_FOREVER);
}

static long call_get(struct waiter *w)
{
        return wharf_buffer_get(w->buffer, w->text, sizeof w->text, WHARF_FOREVER);
}

static long call_lookup(struct waiter *w)
{
        return wharf_lookup(w->task, "cancel.later", WHARF_FOREVER, &w->name);
}

TEST(a_thread_cancelled_in_receive_leaves_the_port_usable_for_others)
{
        wharf_task *t;
        struct waiter w = {.call = call_recv}, other = {.call = call_recv};
        wharf_name right;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &w.name), 0);
        CHECK_EQ(wharf_right_new(t, w.name, &right), 0);
        w.task = other.task = t;
        other.name = w.name;
        cancel_in(&w);
        CHECK_EQ(pthread_create(&other.thread, NULL, waiter_run, &other), 0);
        for (int i = 0; i < 2; i++)
                CHECK_EQ(wharf_send(t, right, "four", 4, WHARF_FOREVER), 0);
        ended_with(&w, 4);
        CHECK_EQ(pthread_join(other.thread, NULL), 0);
        CHECK_EQ(atomic_load(&other.result), 4);
        CHECK_EQ(wharf_send(t, right, "five!", 5, WHARF_FOREVER), 0);
        CHECK_EQ(call_recv(&other), 5);
        wharf_task_close(t);
}

TEST(a_thread_cancelled_in_receive_from_a_set_takes_its_message_first)
{
        wharf_task *t;
        struct waiter w = {.call = call_recv};
        wharf_name port, right;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_set_new(t, &w.name), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_set_add(t, w.name, port), 0);
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        w.task = t;
        cancel_in(&w);
        CHECK_EQ(wharf_send(t, right, "a", 1, WHARF_FOREVER), 0);
        ended_with(&w, 1);
        wharf_task_close(t);
}

TEST(dropping_the_port_ends_the_wait_of_a_cancelled_thread)
{
        wharf_task *t;
        struct waiter w = {.call = call_recv};
        wharf_name right;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &w.name), 0);
        CHECK_EQ(wharf_right_new(t, w.name, &right), 0);
        w.task = t;
        cancel_in(&w);
        CHECK_EQ(wharf_drop(t, w.name), 0);
        ended_with(&w, -ECANCELED);
        wharf_task_close(t);
}

TEST(a_thread_cancelled_while_it_waits_for_room_sends_its_message_whole)
{
        wharf_task *t;
        struct waiter w = {.call = call_send};
        wharf_name port;
        char text[16];
        unsigned sent = 0;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.capacity_records = 32), &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &w.name), 0);
        w.task = t;
        while (wharf_send(t, w.name, "x", 1, 0) == 0)
                sent++;
        CHECK_EQ(sent, 32);
        cancel_in(&w);
        for (unsigned i = 0; i < sent; i++)
                CHECK_EQ(wharf_recv(t, port, text, sizeof text, NULL, WHARF_FOREVER), 1);
        ended_with(&w, 0);
        CHECK_EQ(wharf_recv(t, port, text, sizeof text, NULL, WHARF_FOREVER), 5);
        CHECK_EQ(wharf_send(t, w.name, "on", 2, 0), 0);
        CHECK_EQ(wharf_recv(t, port, text, sizeof text, NULL, WHARF_FOREVER), 2);
        wharf_task_close(t);
}

TEST(a_thread_cancelled_in_a_call_gets_its_reply_and_others_call_on)
{
        wharf_task *t;
        struct waiter w = {.call = call_call}, other = {.call = call_call};
        wharf_name port;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &w.name), 0);
        w.task = other.task = t;
        other.name = w.name;
        cancel_in(&w); /* it is the one that reads the link for all */
        CHECK_EQ(pthread_create(&other.thread, NULL, waiter_run, &other), 0);
        wharf_name replies[2];
        for (int i = 0; i < 2; i++) {
                char text[16];
                struct wharf_msg m = MSG(.data = text, .cap_bytes = sizeof text);
                CHECK_EQ(wharf_recvmsg(t, port, &m, WHARF_FOREVER), 0);
                replies[i] = m.reply;
        }
        CHECK_EQ(wharf_reply(t, replies[1], "second", 6), 0);
        CHECK_EQ(pthread_join(other.thread, NULL), 0);
        CHECK_EQ(atomic_load(&other.result), 6);
        CHECK_EQ(atomic_load(&w.result), NOT_YET);
        CHECK_EQ(wharf_reply(t, replies[0], "first", 5), 0);
        ended_with(&w, 5);
        wharf_task_close(t);
}

TEST(a_thread_cancelled_in_a_lookup_finds_the_name)
{
        test_domain();
        struct waiter w = {.call = call_lookup};
        wharf_task *server;
        wharf_name port;
        CHECK_EQ(wharf_task_open(NULL, &w.task), 0);
        CHECK_EQ(wharf_task_open(NULL, &server), 0);
        CHECK_EQ(wharf_port_new(server, NULL, &port), 0);
        cancel_in(&w);
        CHECK_EQ(wharf_register(server, "cancel.later", port), 0);
        ended_with(&w, 0);
        CHECK_EQ(wharf_send(w.task, w.name, "found", 5, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_recv(server, port, w.text, sizeof w.text, NULL, WHARF_FOREVER), 5);
        wharf_task_close(server);
        wharf_task_close(w.task);
}

TEST(a_thread_cancelled_in_a_buffer_leaves_its_lock_free)
{
        size_t len = 65536;
        void *mem = test_shared(len);
        struct waiter w = {.call = call_get};
        CHECK_EQ(wharf_buffer_format(mem, len, NULL), 0);
        CHECK_EQ(wharf_buffer_open(mem, len, &w.buffer), 0);
        cancel_in(&w);
        CHECK_EQ(wharf_buffer_put(w.buffer, "seven..", 7, WHARF_FOREVER), 0);
        ended_with(&w, 7);
        CHECK_EQ(wharf_buffer_put(w.buffer, "on", 2, 0), 0);
        CHECK_EQ(call_get(&w), 2);
        wharf_buffer_close(w.buffer);
}

/* ---- anywhere at all ---- */

struct busy {
        wharf_task *task;
        wharf_name right, port;
        _Atomic uint32_t sent;
        pthread_t thread;
};

static void *busy_sender(void *arg)
{
        struct busy *b = arg;
        for (;;) {
                char text[300];
                uint32_t n = atomic_load(&b->sent);
                memset(text, (int)n, sizeof text);
                CHECK_EQ(wharf_send(b->task, b->right, text, 1 + n % sizeof text, WHARF_FOREVER), 0);
                atomic_store(&b->sent, n + 1);
                pthread_testcancel();
        }
        return NULL;
}

/*
 * Goal:   whatever instruction a thread is cancelled at, what it began is done, and the next thread goes on from there.
 * Method: threads that send without end, each cancelled after a while; the numbers of the messages have no gap.
 */
TEST(senders_cancelled_at_any_instruction_lose_and_tear_nothing)
{
        struct busy b;
        wharf_name port;
        CHECK_EQ(wharf_task_open(NULL, &b.task), 0);
        CHECK_EQ(wharf_port_new(b.task, PORT_OPTS(.capacity_records = 16), &port), 0);
        CHECK_EQ(wharf_right_new(b.task, port, &b.right), 0);
        atomic_store(&b.sent, 0);
        uint32_t got = 0;
        for (int i = 0; i < 60; i++) {
                CHECK_EQ(pthread_create(&b.thread, NULL, busy_sender, &b), 0);
                for (uint64_t until = got + test_random() % 200; got < until; got++) {
                        char text[300];
                        ssize_t n = wharf_recv(b.task, port, text, sizeof text, NULL, WHARF_FOREVER);
                        CHECK_EQ(n, 1 + got % sizeof text);
                        CHECK_EQ(text[0], (char)got);
                        CHECK_EQ(text[n - 1], (char)got);
                }
                CHECK_EQ(pthread_cancel(b.thread), 0);
                /* It may wait for room, and a message that it has begun is sent. */
                char text[300];
                struct timespec soon;
                for (;;) {
                        clock_gettime(CLOCK_REALTIME, &soon);
                        soon.tv_nsec += 1000000;
                        if (soon.tv_nsec >= 1000000000)
                                soon = (struct timespec){soon.tv_sec + 1, soon.tv_nsec - 1000000000};
                        void *ret;
                        if (pthread_timedjoin_np(b.thread, &ret, &soon) == 0) {
                                CHECK(ret == PTHREAD_CANCELED);
                                break;
                        }
                        if (wharf_recv(b.task, port, text, sizeof text, NULL, 0) > 0) {
                                CHECK_EQ(text[0], (char)got);
                                got++;
                        }
                }
                while (got < atomic_load(&b.sent)) {
                        CHECK_EQ(wharf_recv(b.task, port, text, sizeof text, NULL, WHARF_FOREVER),
                                 1 + got % sizeof text);
                        got++;
                }
        }
        CHECK_EQ(got, atomic_load(&b.sent));
        CHECK_EQ(wharf_recv(b.task, port, (char[8]){0}, 8, NULL, 0), -EAGAIN);
        wharf_task_close(b.task);
}
