/*
 * A program that goes once through what most programs use, for valgrind to watch: nothing that is not initialised may
 * reach the kernel or another process, and nothing may be lost.
 */
#include <wharf/buffer.h>
#include <wharf/heap.h>
#include <wharf/wharf.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wharf/segment.h>

#define MUST(cond)                                                                                   \
        do {                                                                                         \
                if (!(cond)) {                                                                       \
                        fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #cond, wharf_why()); \
                        exit(1);                                                                     \
                }                                                                                    \
        } while (0)
#define MSG(...) ((struct wharf_msg){.size = sizeof(struct wharf_msg), __VA_ARGS__})

static char large[100000], taken[100000];
static struct wharf_item got[WHARF_ITEMS_MAX];

static void receive(wharf_task *t, wharf_name port, uint32_t flags)
{
        struct wharf_msg m = MSG(.data = taken, .cap_bytes = sizeof taken, .items = got, .cap_items = WHARF_ITEMS_MAX,
                                 .flags = flags);
        MUST(wharf_recvmsg(t, port, &m, WHARF_FOREVER) == 0);
        if (flags)
                wharf_release(t, &m);
        for (uint32_t i = 0; i < m.n_items; i++)
                if (got[i].kind == WHARF_GOT_FD)
                        close(got[i].fd);
                else
                        MUST(wharf_drop(t, got[i].name) == 0);
        if (m.reply)
                MUST(wharf_reply(t, m.reply, "yes", 3) == 0);
}

static void messages(wharf_task *t)
{
        wharf_name port, right, once, other, memory, set;
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        MUST(wharf_port_new(t, &o, &port) == 0 && wharf_right_new(t, port, &right) == 0);
        /* The first are frames, then there is a lane: small, large, by every way, and with rights. */
        for (int i = 0; i < 20; i++) {
                struct wharf_item fd = {.kind = WHARF_COPY_FD, .fd = 0};
                struct wharf_msg m = MSG(.data = large, .len_bytes = (size_t)i * 5000, .items = &fd, .n_items = 1);
                MUST(wharf_sendmsg(t, right, &m, WHARF_FOREVER) == 0);
                receive(t, port, i % 3 ? (uint32_t)i % 3 : 0);
                MUST(wharf_send(t, right, "hello", 5, WHARF_FOREVER) == 0);
                MUST(wharf_recv(t, port, taken, sizeof taken, NULL, WHARF_FOREVER) == 5);
        }
        for (uint32_t how = WHARF_HOW_COLD; how <= WHARF_HOW_MEMORY; how++) {
                struct wharf_msg m = MSG(.data = large, .len_bytes = 200, .how = how);
                MUST(wharf_sendmsg(t, right, &m, WHARF_FOREVER) == 0);
                receive(t, port, 0);
        }
        struct wharf_port_opts small = {.size = sizeof small};
        MUST(wharf_once_new(t, port, &once) == 0 && wharf_port_new(t, &small, &other) == 0);
        MUST(wharf_memory_new(t, 10000, &memory) == 0);
        struct wharf_item items[] = {
                {.kind = WHARF_COPY_SEND, .name = right}, {.kind = WHARF_MAKE_SEND, .name = port},
                {.kind = WHARF_MOVE_REPLY, .name = once}, {.kind = WHARF_MOVE_RECEIVE, .name = other},
                {.kind = WHARF_MAKE_ONCE, .name = port},  {.kind = WHARF_MOVE_MEMORY, .name = memory}};
        wharf_name told;
        MUST(wharf_right_new(t, other, &told) == 0 && wharf_send(t, told, "moves", 5, WHARF_FOREVER) == 0);
        struct wharf_msg m = MSG(.data = large, .len_bytes = 10, .items = items, .n_items = 6);
        MUST(wharf_sendmsg(t, right, &m, WHARF_FOREVER) == 0);
        receive(t, port, 0);
        for (int i = 0; i < 6; i++) { /* what became of the send-once rights is told */
                struct wharf_msg n = MSG(.data = taken, .cap_bytes = sizeof taken);
                int r = wharf_recvmsg(t, port, &n, 0);
                MUST(r == 0 || r == -EAGAIN);
        }
        for (int i = 0; i < 5; i++) {
                struct wharf_msg q = MSG(.data = large, .len_bytes = (size_t)i * 1000),
                                 a = MSG(.data = taken, .cap_bytes = 10);
                uint32_t call;
                MUST(wharf_call_start(t, right, &q, WHARF_NONE, WHARF_FOREVER, &call) == 0);
                receive(t, port, 0);
                MUST(wharf_call_finish(t, right, call, &a, WHARF_FOREVER) == 0 && a.len_bytes == 3);
        }
        MUST(wharf_set_new(t, &set) == 0 && wharf_set_add(t, set, port) == 0);
        MUST(wharf_send(t, right, "x", 1, 0) == 0);
        receive(t, set, 0);
        MUST(wharf_drop(t, right) == 0 && wharf_drop(t, set) == 0 && wharf_drop(t, port) == 0);
}

static void names(wharf_task *t)
{
        wharf_name port, right, events;
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        MUST(wharf_port_new(t, &o, &port) == 0 && wharf_port_new(t, &o, &events) == 0);
        MUST(wharf_register(t, "tour", port) == 0);
        MUST(wharf_lookup(t, "tour", WHARF_FOREVER, &right) == 0);
        MUST(wharf_send(t, right, "by name", 7, WHARF_FOREVER) == 0);
        receive(t, port, 0);
        struct wharf_named *all;
        struct wharf_wait *waits;
        size_t n;
        MUST(wharf_names_list(t, &all, &n) == 0 && n == 1);
        free(all);
        MUST(wharf_waits_list(t, &waits, &n) == 0);
        free(waits);
        MUST(wharf_names_watch(t, "*", events) == 0);
        struct wharf_msg m = MSG(.data = taken, .cap_bytes = sizeof taken);
        struct wharf_name_event e;
        MUST(wharf_recvmsg(t, events, &m, WHARF_FOREVER) == 0 && wharf_names_event(t, &m, &e) == 0);
        wharf_direct *d;
        MUST(wharf_direct_join(t, "P", &d) == 0);
        MUST(wharf_direct_recv(d, "Q", taken, sizeof taken, 0) == -EAGAIN);
        wharf_direct_leave(d);
}

static int child(wharf_task *t)
{
        struct wharf_item item, self;
        MUST(wharf_inherited(t, "parent", &item) == 0 && item.kind == WHARF_GOT_SEND);
        MUST(wharf_inherited(t, WHARF_SELF, &self) == 0 && self.kind == WHARF_GOT_RECEIVE);
        MUST(wharf_recv(t, self.name, taken, sizeof taken, NULL, WHARF_FOREVER) == 5);
        MUST(wharf_send(t, item.name, taken, 5, WHARF_FOREVER) == 0);
        wharf_task_close(t);
        return 0;
}

static void spawn(wharf_task *t, char *self)
{
        wharf_name port;
        MUST(wharf_port_new(t, NULL, &port) == 0);
        struct wharf_given given = {.name = "parent", .item = {.kind = WHARF_MAKE_SEND, .name = port}};
        char word[] = "child", *argv[] = {self, word, NULL};
        struct wharf_spawn_opts o = {
                .size = sizeof o, .flags = WHARF_SPAWN_TALK, .argv = argv, .given = &given, .n_given = 1};
        struct wharf_child c = {.size = sizeof c};
        int status;
        int r = wharf_spawn(t, &o, WHARF_FOREVER, &c);
        if (r == -ENOSYS) {
                fprintf(stderr, "this valgrind has no pidfd_open(): no program was started\n");
                return;
        }
        MUST(r == 0);
        MUST(wharf_send(t, c.right, "there", 5, WHARF_FOREVER) == 0);
        receive(t, port, 0);
        MUST(wharf_child_wait(&c, WHARF_FOREVER, &status) == 0 && status == 0);
}

static int count(const char *name, const struct wharf_segment_stat *st, void *arg)
{
        (void)name, (void)st;
        ++*(int *)arg;
        return 0;
}

static void memory(void)
{
        char name[64];
        int n = 0;
        wharf_segment *s;
        snprintf(name, sizeof name, "posix:wharf-tour-%d", (int)getpid());
        MUST(wharf_segment_create(name, 1 << 20, NULL, &s) == 0);
        MUST(wharf_segment_list(count, &n) == 0 && n > 0);
        MUST(wharf_segment_remove(name) == 0);
        MUST(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL) == 0);
        for (uint32_t policy = WHARF_HEAP_BUDDY; policy <= WHARF_HEAP_WORST_FIT; policy++) {
                struct wharf_heap_opts o = {.size = sizeof o, .policy = policy};
                wharf_heap *h;
                uint64_t a, b;
                struct wharf_heap_figures f;
                MUST(wharf_heap_format(wharf_segment_base(s), 1 << 20, &o) == 0);
                MUST(wharf_heap_open(wharf_segment_base(s), 1 << 20, &h) == 0);
                MUST(wharf_heap_alloc(h, 1000, 0, 0, 0, &a) == 0 &&
                     wharf_heap_alloc(h, 10, 64, 0, WHARF_FOREVER, &b) == 0);
                MUST(wharf_heap_resize(h, a, 5000, WHARF_ALLOC_ZERO, &a) == 0 && wharf_heap_free(h, b) == 0);
                MUST(wharf_heap_figures(h, &f) == 0 && wharf_heap_check(h) == 0);
                wharf_heap_close(h);
        }
        for (uint32_t kind = WHARF_BUFFER_BOUNDED; kind <= WHARF_BUFFER_CIRCULAR; kind++) {
                struct wharf_buffer_opts o = {.size = sizeof o, .kind = kind};
                wharf_buffer *b;
                MUST(wharf_buffer_format(wharf_segment_base(s), 1 << 20, &o) == 0);
                MUST(wharf_buffer_open(wharf_segment_base(s), 1 << 20, &b) == 0);
                MUST(wharf_buffer_put(b, "item", 4, 0) == 0 && wharf_buffer_get(b, taken, 64, 0) == 4);
                wharf_buffer_close(b);
        }
        wharf_segment_close(s);
}

int main(int argc, char **argv)
{
        wharf_task *t;
        MUST(wharf_task_open(NULL, &t) == 0);
        if (argc > 1)
                return child(t);
        for (size_t i = 0; i < sizeof large; i++)
                large[i] = (char)i;
        messages(t);
        names(t);
        spawn(t, argv[0]);
        memory();
        wharf_task_close(t);
        return 0;
}
