/*
 * Calls and replies between real processes: many at once, out of order, delegated, dropped, and cut short by death.
 */
#include "hub.h"
#include "os/os.h"

#include <pthread.h>
#include <stdatomic.h>

/* What the servers of these tests do with a request, by msg.id. */
enum { ECHO, GROW, DROP, DELEGATE, DIE, KEEP, CLOSE };

static int server(void *arg)
{
        struct hub *h = arg; /* opened by us, in the child */
        wharf_name helper = WHARF_NONE, kept[64];
        unsigned n_kept = 0;
        for (;;) {
                struct wharf_item it;
                struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC, .items = &it, .cap_items = 1);
                int r = wharf_recvmsg(h->task, h->port, &m, WHARF_FOREVER);
                if (r < 0)
                        return r == -ENOTCONN ? 0 : 1;
                if (m.n_items) {
                        helper = it.name;
                        CHECK_EQ(wharf_reply(h->task, m.reply, "", 0), 0);
                        wharf_release(h->task, &m);
                        continue;
                }
                switch (m.id) {
                case ECHO: {
                        struct wharf_msg a = MSG(.data = m.data, .len_bytes = m.len_bytes, .id = ~0u);
                        CHECK_EQ(wharf_replymsg(h->task, m.reply, &a), 0);
                        break;
                }
                case GROW: {
                        size_t len;
                        memcpy(&len, m.data, sizeof len);
                        uint8_t *bytes = malloc(len);
                        pattern_fill(bytes, len, len);
                        CHECK_EQ(wharf_reply(h->task, m.reply, bytes, len), 0);
                        free(bytes);
                        break;
                }
                case DROP:
                        CHECK_EQ(wharf_drop(h->task, m.reply), 0);
                        CHECK_EQ(wharf_reply(h->task, m.reply, "", 0), -EBADF);
                        break;
                case DELEGATE: {
                        struct wharf_item out = {.kind = WHARF_MOVE_REPLY, .name = m.reply};
                        struct wharf_msg d = MSG(.data = m.data, .len_bytes = m.len_bytes, .items = &out, .n_items = 1);
                        CHECK_EQ(wharf_sendmsg(h->task, helper, &d, WHARF_FOREVER), 0);
                        CHECK_EQ(wharf_name_kind(h->task, m.reply), -EBADF);
                        break;
                }
                case DIE:
                        kill(getpid(), SIGKILL);
                        break;
                case CLOSE:
                        wharf_drop(h->task, h->port);
                        pause();
                        break;
                case KEEP: /* answer the kept ones, last first, when told by an empty request */
                        kept[n_kept++] = m.reply;
                        if (m.len_bytes == 0)
                                while (n_kept) {
                                        n_kept--;
                                        CHECK_EQ(wharf_reply(h->task, kept[n_kept], &n_kept, sizeof n_kept), 0);
                                }
                        break;
                }
                wharf_release(h->task, &m);
        }
}

struct server_arg {
        char file[96];
        struct wharf_port_opts opts;
};

static int server_main(void *arg)
{
        struct server_arg *a = arg;
        struct hub h = hub_open(a->opts.size ? &a->opts : NULL);
        FILE *f = fopen(a->file, "we");
        fprintf(f, "%s\n", h.path);
        fclose(f);
        return server(&h);
}

struct client {
        pid_t server;
        wharf_task *task;
        wharf_name right;
        char path[96];
};

static struct client client_new(const struct wharf_port_opts *opts)
{
        static int number;
        struct client c;
        struct server_arg a = {.opts = opts ? *opts : (struct wharf_port_opts){0}};
        snprintf(a.file, sizeof a.file, "%s/server.%d", test_dir(), number++);
        c.server = test_fork(server_main, &a);
        FILE *f;
        while (!(f = fopen(a.file, "re")) || !fgets(c.path, sizeof c.path, f) || !strchr(c.path, '\n')) {
                if (f)
                        fclose(f);
                usleep(1000);
        }
        fclose(f);
        *strchr(c.path, '\n') = 0;
        CHECK_EQ(wharf_task_open(NULL, &c.task), 0);
        CHECK_EQ(wharf_right_connect(c.task, c.path, &c.right), 0);
        return c;
}

static void client_done(struct client *c)
{
        wharf_task_close(c->task);
        if (c->server)
                kill_hard(c->server);
}

static ssize_t call(struct client *c, uint32_t what, const void *req, size_t len, void *buf, size_t cap)
{
        struct wharf_msg q = MSG(.data = (void *)(uintptr_t)req, .len_bytes = len, .id = what);
        struct wharf_msg a = MSG(.data = buf, .cap_bytes = cap);
        int r = wharf_callmsg(c->task, c->right, &q, &a, WHARF_FOREVER);
        return r < 0 ? r : (ssize_t)a.len_bytes;
}

TEST(calls_of_every_size)
{
        struct client c = client_new(NULL);
        static const size_t sizes[] = {0, 1, 100, 256, 257, 5000, 16384, 70000, 1 << 20, 9 << 20};
        uint8_t *bytes = malloc(9 << 20), *buf = malloc(9 << 20);
        for (unsigned round = 0; round < 4; round++)
                for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
                        pattern_fill(bytes, sizes[i], round * 10 + i);
                        CHECK_EQ(call(&c, ECHO, bytes, sizes[i], buf, 9 << 20), sizes[i]);
                        CHECK_MEM(bytes, buf, sizes[i]);
                }
        for (unsigned i = 0; i < 3; i++) { /* replies in place, or allocated, are given back */
                size_t len = (size_t[]){20, 40000, 12 << 20}[i];
                struct wharf_msg q = MSG(.data = &len, .len_bytes = sizeof len, .id = GROW);
                struct wharf_msg a = MSG(.flags = i % 2 ? WHARF_RECV_ALLOC : WHARF_RECV_IN_PLACE);
                CHECK_EQ(wharf_callmsg(c.task, c.right, &q, &a, WHARF_FOREVER), 0);
                CHECK_EQ(a.len_bytes, len);
                uint8_t *expect = malloc(len);
                pattern_fill(expect, len, len);
                CHECK_MEM(a.data, expect, len);
                free(expect);
                wharf_release(c.task, &a);
        }
        CHECK_EQ(wharf_call(c.task, c.right, "x", 1, buf, 1, WHARF_FOREVER), 1);
        free(bytes);
        free(buf);
        client_done(&c);
}

/* A reply that is larger than its buffer is an error for that call alone. */
TEST(reply_larger_than_its_buffer)
{
        struct client c = client_new(NULL);
        char buf[100];
        for (unsigned i = 0; i < 3; i++) {
                size_t len = (size_t[]){101, 5000, 10 << 20}[i];
                CHECK_EQ(call(&c, GROW, &len, sizeof len, buf, sizeof buf), -EOVERFLOW);
                CHECK_EQ(call(&c, ECHO, "after", 5, buf, sizeof buf), 5);
        }
        client_done(&c);
}

struct caller {
        struct client *client;
        unsigned index;
        pthread_t thread;
};

static void *call_many(void *arg)
{
        static char wrong[] = "wrong answer";
        struct caller *k = arg;
        for (uint32_t i = 0; i < 500; i++) {
                uint32_t req[50], ans[50];
                size_t len = 4 * (2 + (i + k->index) % 40);
                for (unsigned j = 0; j < len / 4; j++)
                        req[j] = k->index << 24 | i << 8 | j;
                if (call(k->client, ECHO, req, len, ans, sizeof ans) != (ssize_t)len || memcmp(req, ans, len))
                        return wrong;
        }
        return NULL;
}

/* Many outstanding on one right, from many threads: each gets its own answer. */
TEST_TIMEOUT(calls_from_many_threads, 60)
{
        struct client c = client_new(NULL);
        struct caller k[8];
        for (unsigned i = 0; i < 8; i++) {
                k[i] = (struct caller){.client = &c, .index = i};
                CHECK_EQ(pthread_create(&k[i].thread, NULL, call_many, &k[i]), 0);
        }
        for (unsigned i = 0; i < 8; i++) {
                void *why;
                CHECK_EQ(pthread_join(k[i].thread, &why), 0);
                CHECK(why == NULL);
        }
        client_done(&c);
}

/* Started by one thread and finished in another order than they were answered, which is not the order of asking. */
TEST(many_outstanding_out_of_order)
{
        struct client c = client_new(NULL);
        uint32_t calls[64];
        for (unsigned round = 0; round < 3; round++) {
                for (unsigned i = 0; i < 64; i++) {
                        struct wharf_msg q = MSG(.data = &i, .len_bytes = i == 63 ? 0 : sizeof i, .id = KEEP);
                        CHECK_EQ(wharf_call_start(c.task, c.right, &q, WHARF_NONE, WHARF_FOREVER, &calls[i]), 0);
                        unsigned n;
                        struct wharf_msg a = MSG(.data = &n, .cap_bytes = sizeof n);
                        if (i < 63)
                                CHECK_EQ(wharf_call_finish(c.task, c.right, calls[i], &a, 0), -EAGAIN);
                }
                CHECK_EQ(wharf_call_cancel(c.task, c.right, calls[5]), 0);
                CHECK_EQ(wharf_call_cancel(c.task, c.right, calls[5]), -EINVAL);
                for (unsigned k = 0; k < 64; k++) {
                        unsigned i = (k * 37) % 64, n = 99;
                        struct wharf_msg a = MSG(.data = &n, .cap_bytes = sizeof n);
                        int r = wharf_call_finish(c.task, c.right, calls[i], &a, WHARF_FOREVER);
                        CHECK_EQ(r, i == 5 ? -EINVAL : 0);
                        if (i != 5)
                                CHECK_EQ(n, i);
                        CHECK_EQ(wharf_call_finish(c.task, c.right, calls[i], &a, WHARF_FOREVER), -EINVAL);
                }
        }
        client_done(&c);
}

/* A deadline ends the wait, not the link: the late reply is dropped, and the next call gets its own. */
TEST(call_with_a_deadline)
{
        struct client c = client_new(NULL);
        char buf[8];
        unsigned n;
        CHECK_EQ(call(&c, ECHO, "first", 5, buf, sizeof buf),
                 5); /* greeted: no request waits to be sent from here on */
        for (unsigned i = 0; i < 10; i++) {
                struct wharf_msg q = MSG(.data = BYTES("x"), .len_bytes = 1, .id = KEEP);
                struct wharf_msg a = MSG(.data = &n, .cap_bytes = sizeof n);
                CHECK_EQ(wharf_callmsg(c.task, c.right, &q, &a, wharf_in_ms(1)), -ETIMEDOUT);
        }
        CHECK_EQ(call(&c, KEEP, "", 0, &n, sizeof n), sizeof n);
        CHECK_EQ(n, 10);
        CHECK_EQ(call(&c, ECHO, "next", 4, buf, sizeof buf), 4);
        CHECK_MEM(buf, "next", 4);
        client_done(&c);
}

TEST(dropped_request)
{
        struct client c = client_new(NULL);
        char buf[8];
        for (unsigned i = 0; i < 40; i++) {
                CHECK_EQ(call(&c, DROP, "", 0, buf, sizeof buf), -ECANCELED);
                CHECK_EQ(call(&c, ECHO, "x", 1, buf, sizeof buf), 1);
        }
        client_done(&c);
}

/* Goal: where not even the drop of a reply can be told, its caller does not wait for ever: the link ends. */
static int refuse_sends(enum wh_os_call call)
{
        return call == WH_OS_sendmsg ? -ENOBUFS : 0;
}
TEST(a_drop_that_cannot_be_told_ends_the_link)
{
        wharf_task *t;
        wharf_name port, right;
        uint32_t call;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        struct wharf_msg request = MSG(.data = (char[]){"x"}, .len_bytes = 1), in = MSG(.flags = WHARF_RECV_ALLOC);
        CHECK_EQ(wharf_call_start(t, right, &request, WHARF_NONE, 0, &call), 0);
        CHECK_EQ(wharf_recvmsg(t, port, &in, wharf_in_ms(60000)), 0);
        wh_os_gate = refuse_sends;
        CHECK_EQ(wharf_drop(t, in.reply), 0);
        wh_os_gate = NULL;
        struct wharf_msg reply = MSG(.flags = WHARF_RECV_ALLOC);
        CHECK_EQ(wharf_call_finish(t, right, call, &reply, wharf_in_ms(60000)), -ECONNRESET);
        wharf_release(t, &in);
        wharf_task_close(t);
}

/* Goal: whoever connects and cannot be greeted is hung up on, and does not wait for a greeting that never comes. */
TEST(a_greeting_that_cannot_be_sent_ends_the_link)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        wharf_task *t;
        wharf_name right;
        int r, n = 0;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_right_connect(t, h.path, &right), 0);
        wh_os_gate = refuse_sends;
        CHECK_EQ(wharf_recv(h.task, h.port, &(char){0}, 1, NULL, 0), -EAGAIN);
        wh_os_gate = NULL;
        while ((r = wharf_send(t, right, "x", 1, wharf_in_ms(60000))) == 0)
                CHECK_LE(n++, 1000);
        CHECK_EQ(r, -EPIPE);
        wharf_task_close(t);
        hub_close(&h);
}

/* The server dies while calls are outstanding: each of them ends, with an error of its own. */
static void check_server_ends(uint32_t how, unsigned warm)
{
        struct client c = client_new(NULL);
        char buf[8];
        uint32_t calls[20];
        for (unsigned i = 0; i < warm; i++)
                CHECK_EQ(call(&c, ECHO, "x", 1, buf, sizeof buf), 1);
        for (unsigned i = 0; i < 20; i++) {
                struct wharf_msg q = MSG(.data = BYTES("x"), .len_bytes = 1, .id = KEEP);
                CHECK_EQ(wharf_call_start(c.task, c.right, &q, WHARF_NONE, WHARF_FOREVER, &calls[i]), 0);
        }
        CHECK_EQ(call(&c, how, "", 0, buf, sizeof buf), -ECONNRESET);
        for (unsigned i = 0; i < 20; i++) {
                struct wharf_msg a = MSG(.data = buf, .cap_bytes = sizeof buf);
                CHECK_EQ(wharf_call_finish(c.task, c.right, calls[i], &a, WHARF_FOREVER), -ECONNRESET);
        }
        CHECK_EQ(call(&c, ECHO, "x", 1, buf, sizeof buf), -EPIPE);
        if (how == DIE) {
                CHECK_EQ(test_wait(c.server), 128 + SIGKILL);
                c.server = 0;
        }
        client_done(&c);
}

TEST(server_dies_before_it_replies)
{
        check_server_ends(DIE, 0);
        check_server_ends(DIE, 100);
}

TEST(server_closes_before_it_replies)
{
        check_server_ends(CLOSE, 0);
        check_server_ends(CLOSE, 100);
}

/* ---- delegation ---- */

struct helper_arg {
        char path[96];
        bool drop;
        struct stage known; /* the server has our address */
};

/* Takes replies to give from the server, and gives them: the request's bytes, and its own pid. */
static int helper(void *arg)
{
        struct helper_arg *a = arg;
        wharf_task *t;
        wharf_name right, port;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_right_connect(t, a->path, &right), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        struct wharf_item it = {.kind = WHARF_MAKE_SEND, .name = port};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1), known = MSG(0);
        CHECK_EQ(wharf_callmsg(t, right, &m, &known, WHARF_FOREVER), 0);
        stage_reach(&a->known);
        uint8_t *big = calloc(1, 3 << 20);
        for (unsigned n = 0;; n++) {
                uint32_t len;
                struct wharf_msg r = MSG(.data = &len, .cap_bytes = sizeof len, .items = &it, .cap_items = 1);
                if (wharf_recvmsg(t, port, &r, WHARF_FOREVER) < 0)
                        return 0;
                CHECK_EQ(it.kind, WHARF_GOT_REPLY);
                pid_t me = getpid();
                memcpy(big, &me, sizeof me);
                if (a->drop && n % 2)
                        CHECK_EQ(wharf_drop(t, it.name), 0);
                else
                        CHECK_EQ(wharf_reply(t, it.name, big, len), 0);
                CHECK_EQ(wharf_name_kind(t, it.name), -EBADF);
        }
}

/* The server passes the right to reply on to a third process, which answers the caller directly. */
TEST(delegated_replies)
{
        for (unsigned round = 0; round < 2; round++) {
                struct client c = client_new(NULL);
                struct helper_arg a = {.drop = round == 1, .known = stage_new()};
                memcpy(a.path, c.path, sizeof a.path);
                pid_t pid = test_fork(helper, &a);
                static uint8_t buf[3 << 20];
                stage_await(&a.known);
                for (unsigned i = 0; i < 40; i++) {
                        uint32_t len = (uint32_t[]){4, 300, 20000, 3 << 20}[i / 2 % 4];
                        ssize_t r = call(&c, DELEGATE, &len, sizeof len, buf, sizeof buf);
                        if (round == 1 && i % 2) {
                                CHECK_EQ(r, -ECANCELED);
                                continue;
                        }
                        CHECK_EQ(r, len);
                        CHECK_MEM(buf, &pid, sizeof pid);
                }
                /* The helper dies with the right to reply in its hands. */
                CHECK_EQ(kill(pid, SIGSTOP), 0);
                uint32_t len = 4, number;
                struct wharf_msg q = MSG(.data = &len, .len_bytes = sizeof len, .id = DELEGATE);
                CHECK_EQ(wharf_call_start(c.task, c.right, &q, WHARF_NONE, WHARF_FOREVER, &number), 0);
                CHECK_EQ(call(&c, ECHO, "x", 1, buf, sizeof buf), 1);
                kill_hard(pid);
                struct wharf_msg ans = MSG(.data = buf, .cap_bytes = sizeof buf);
                CHECK_EQ(wharf_call_finish(c.task, c.right, number, &ans, WHARF_FOREVER), -ECANCELED);
                client_done(&c);
                stage_done(&a.known);
        }
}

/* ---- the caller goes ---- */

static int call_and_hang(void *arg)
{
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        char buf[4];
        wharf_call(t, right, "x", 1, buf, sizeof buf, WHARF_FOREVER);
        return 0;
}

/* A caller that is gone costs its server an error, and nothing else. */
TEST(caller_dies_before_the_reply)
{
        struct hub h = hub_open(NULL);
        for (unsigned i = 0; i < 5; i++) {
                pid_t pid = test_fork(call_and_hang, &h);
                char c;
                struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_NE(m.reply, WHARF_NONE);
                CHECK_EQ(wharf_name_kind(h.task, m.reply), WHARF_KIND_REPLY);
                kill_hard(pid);
                CHECK_EQ(i % 2 ? wharf_drop(h.task, m.reply) : wharf_reply(h.task, m.reply, "y", 1),
                         i % 2 ? 0 : -EPIPE);
                CHECK_EQ(wharf_reply(h.task, m.reply, "y", 1), -EBADF);
                CHECK_EQ(wharf_recv(h.task, h.port, NULL, 0, NULL, 0), -EAGAIN);
        }
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(h.task, h.port, &st), 0);
        CHECK_EQ(st.senders, 0);
        hub_close(&h);
}

static int ask_and_never_read(void *arg)
{
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        for (unsigned i = 0; i < 6000; i++) {
                uint32_t call;
                struct wharf_msg q = MSG(.data = BYTES("x"), .len_bytes = 1);
                int r = wharf_call_start(t, right, &q, WHARF_NONE, WHARF_FOREVER, &call);
                if (r < 0)
                        return r == -EPIPE || r == -ENOBUFS ? 42 : 1;
        }
        return 2;
}

/* A caller that asks and never reads cannot make its server wait: its link is closed, others are served. */
TEST(caller_that_never_reads)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(ask_and_never_read, &h);
        static uint8_t bytes[100000];
        int r = 0;
        for (unsigned i = 0; i < 6000 && r == 0; i++) {
                char c;
                struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                r = wharf_reply(h.task, m.reply, bytes, i % 16 ? 1 : sizeof bytes);
        }
        CHECK_EQ(r, -ENOBUFS);
        while (true) { /* what it sent before is still there; answering is in vain */
                char c;
                struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
                r = wharf_recvmsg(h.task, h.port, &m, 0);
                if (r == -EAGAIN && waitpid(pid, &r, WNOHANG) == pid)
                        break;
                if (r == 0)
                        CHECK_LE(wharf_reply(h.task, m.reply, "", 0), -1);
        }
        CHECK(WIFEXITED(r) && WEXITSTATUS(r) == 42);
        hub_close(&h);
}

/* Goal: whoever calls a receiver that takes bytes and nothing else is told that there will be no answer. */
TEST(a_call_that_is_received_as_bytes_is_dropped)
{
        struct hub h = hub_open(NULL);
        wharf_name right;
        uint32_t call;
        char c;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        struct wharf_msg q = MSG(.data = BYTES("q"), .len_bytes = 1), a = MSG(.data = &c, .cap_bytes = 1);
        CHECK_EQ(wharf_call_start(h.task, right, &q, WHARF_NONE, 0, &call), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), 1);
        CHECK_EQ(wharf_call_finish(h.task, right, call, &a, wharf_in_ms(10000)), -ECANCELED);
        hub_close(&h);
}
