/*
 * How much stack the public calls take. A thread of PTHREAD_STACK_MIN has 16 KiB, of which the C library keeps some for
 * itself and the caller has frames of its own; so 8 KiB is what a call may take, whatever it has to do.
 *
 * Method: a thread whose stack is memory of ours. It is painted below the caller before each call, and looked at
 * afterwards: how far down was it written to? This program is linked with -z now, since the dynamic loader's own
 * frames, at the first call of each function, are not the library's.
 */
#include "again.h"
#include "domain.h"
#include "hub.h"

#include <fcntl.h>
#include <pthread.h>
#include <wharf/buffer.h>
#include <wharf/direct.h>
#include <wharf/heap.h>
#include <wharf/mach.h>
#include <wharf/memory.h>
#include <wharf/names.h>
#include <wharf/segment.h>
#include <wharf/spawn.h>
#include <wharf/sync.h>

enum {
        STACK_BYTES = 512 << 10,
        MAY_TAKE = 8 << 10,
        MARGIN = 256, /* right below the caller, where what paints and looks has its own frames */
};
#define PAINT UINT64_C(0xa5c3965aa5c3965a)

static struct {
        char *low;         /* of the stack */
        unsigned too_many; /* calls that took too much */
        char text[2048];   /* which, and how much */
        size_t most;
        const char *of;
} seen;

__attribute__((noinline)) static char *here(void)
{
        return __builtin_frame_address(0);
}

__attribute__((noinline)) static void paint(void)
{
        volatile uint64_t *end = (uint64_t *)(void *)((char *)__builtin_frame_address(0) - MARGIN);
        for (volatile uint64_t *p = (uint64_t *)(void *)seen.low; p < end; p++)
                *p = PAINT;
}

__attribute__((noinline)) static void look(const char *what, const char *top)
{
        const uint64_t *p = (uint64_t *)(void *)seen.low;
        while (*p == PAINT)
                p++;
        size_t took = (size_t)(top - (const char *)p);
        if (took > seen.most) {
                seen.most = took;
                seen.of = what;
        }
        size_t n = strlen(seen.text);
        if (took > MAY_TAKE && seen.too_many++ < 20)
                snprintf(seen.text + n, sizeof seen.text - n, "\n  %zu bytes: %.60s", took, what);
}

/* The call's result. What it is does not matter here, unless it is compared. */
#define TAKES(call)                         \
        ({                                  \
                char *top_ = here();        \
                paint();                    \
                __typeof__(call) r_ = call; \
                look(#call, top_);          \
                r_;                         \
        })
#define DONE(call) CHECK_EQ(TAKES(call), 0)

static void on_painted_stack(void *(*run)(void *))
{
        if (TEST_ASAN || TEST_TSAN)
                test_skip("a sanitizer makes frames many times as large");
#ifndef __OPTIMIZE__
        test_skip("built without optimisation, where frames are several times as large");
#endif
        pthread_attr_t a;
        pthread_t th;
        CHECK_EQ(posix_memalign((void **)&seen.low, 4096, STACK_BYTES), 0);
        CHECK_EQ(pthread_attr_init(&a), 0);
        CHECK_EQ(pthread_attr_setstack(&a, seen.low, STACK_BYTES), 0);
        CHECK_EQ(pthread_create(&th, &a, run, NULL), 0);
        CHECK_EQ(pthread_join(th, NULL), 0);
        pthread_attr_destroy(&a);
        free(seen.low);
        if (getenv("STACK_SHOW"))
                printf("  most: %zu bytes, %s\n", seen.most, seen.of);
        if (seen.too_many)
                test_fail(__FILE__, __LINE__, "more than %d bytes of stack: %u calls%s", MAY_TAKE, seen.too_many,
                          seen.text);
}

static char large[3 << 20], taken[3 << 20];

static struct wharf_msg out(struct wharf_item *items, uint32_t n, size_t bytes, uint32_t how)
{
        return MSG(.data = large, .len_bytes = bytes, .items = items, .n_items = n, .how = how);
}

static struct wharf_item got[WHARF_ITEMS_MAX];

static void receive(wharf_task *t, wharf_name from, uint32_t flags)
{
        struct wharf_msg m = MSG(.data = taken, .cap_bytes = sizeof taken, .items = got, .cap_items = WHARF_ITEMS_MAX,
                                 .flags = flags);
        DONE(wharf_recvmsg(t, from, &m, WHARF_FOREVER));
        if (flags)
                TAKES((wharf_release(t, &m), 0));
        for (uint32_t i = 0; i < m.n_items; i++)
                if (got[i].kind == WHARF_GOT_FD)
                        close(got[i].fd);
                else
                        DONE(wharf_drop(t, got[i].name));
        if (m.reply)
                DONE(wharf_reply(t, m.reply, large, 100));
}

static void *send_and_receive(void *arg)
{
        wharf_task *t;
        wharf_name port, right, copy, once, set, memory;
        struct wharf_item many[WHARF_ITEMS_MAX];
        DONE(wharf_task_open(NULL, &t));
        DONE(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS, .unread_rights_max = 250), &port));
        DONE(wharf_right_new(t, port, &right));
        /* Cold, then in a lane; with all the descriptors and rights that there can be, one time in four. */
        for (int round = 0; round < 20; round++) {
                for (uint32_t i = 0; i < WHARF_ITEMS_MAX; i++)
                        many[i] = (struct wharf_item){.kind = WHARF_COPY_FD, .fd = 0};
                struct wharf_msg m = out(many, round % 4 ? 1 : WHARF_ITEMS_MAX, 1000, 0);
                DONE(wharf_sendmsg(t, right, &m, WHARF_FOREVER));
                receive(t, port, round % 2 ? 0 : WHARF_RECV_IN_PLACE);
                DONE(wharf_send(t, right, large, 16 << 10, WHARF_FOREVER));
                CHECK_EQ(TAKES(wharf_recv(t, port, taken, sizeof taken, NULL, WHARF_FOREVER)), 16 << 10);
        }
        static const uint32_t ways[] = {WHARF_HOW_AUTO,    WHARF_HOW_COLD,   WHARF_HOW_INLINE,
                                        WHARF_HOW_SECTION, WHARF_HOW_CHUNKS, WHARF_HOW_MEMORY};
        static const size_t sizes[] = {0, 200, 16 << 10, 1 << 20};
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++)
                for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
                        for (uint32_t flags = 0; flags <= WHARF_RECV_ALLOC; flags++) {
                                struct wharf_msg m = out(NULL, 0, sizes[s], ways[w]);
                                if (TAKES(wharf_sendmsg(t, right, &m, 0)) == 0)
                                        receive(t, port, flags);
                        }
        struct wharf_msg lent = MSG(.id = 1);
        DONE(wharf_reserve(t, right, 5000, &lent, WHARF_FOREVER));
        DONE(wharf_sendmsg(t, right, &lent, WHARF_FOREVER));
        receive(t, port, 0);
        /* Every kind of right. */
        DONE(wharf_right_copy(t, right, WHARF_FOREVER, &copy));
        CHECK_EQ(TAKES(wharf_recv(t, port, taken, sizeof taken, NULL, 0)), -EAGAIN);
        DONE(wharf_once_new(t, port, &once));
        DONE(wharf_memory_new(t, 1 << 20, &memory));
        wharf_name other;
        DONE(wharf_port_new(t, NULL, &other));
        wharf_name other_right;
        DONE(wharf_right_new(t, other, &other_right));
        for (int i = 0; i < 20; i++)
                DONE(wharf_send(t, other_right, large, 5000, 0));
        struct wharf_item kinds[] = {
                {.kind = WHARF_COPY_SEND, .name = right},    {.kind = WHARF_MOVE_SEND, .name = copy},
                {.kind = WHARF_MOVE_REPLY, .name = once},    {.kind = WHARF_MAKE_ONCE, .name = port},
                {.kind = WHARF_MOVE_MEMORY, .name = memory}, {.kind = WHARF_MAKE_SEND, .name = port},
                {.kind = WHARF_MOVE_RECEIVE, .name = other}};
        struct wharf_msg m = out(kinds, sizeof kinds / sizeof *kinds, 100, 0);
        DONE(wharf_sendmsg(t, right, &m, WHARF_FOREVER));
        receive(t, port, 0);
        /* Calls: answered cold and in a lane, given up, refused. */
        for (int i = 0; i < 40; i++) {
                struct wharf_msg q = out(NULL, 0, 100, 0), a = MSG(.data = taken, .cap_bytes = sizeof taken);
                q.flags = i % 2 ? WHARF_REPLY_DIRECT : 0;
                q.cap_bytes = 1 << 20;
                uint32_t call;
                DONE(wharf_call_start(t, right, &q, WHARF_NONE, WHARF_FOREVER, &call));
                if (i % 5 == 4)
                        DONE(wharf_call_cancel(t, right, call));
                receive(t, port, 0);
                if (i % 5 != 4)
                        DONE(wharf_call_finish(t, right, call, &a, WHARF_FOREVER));
        }
        CHECK_EQ(TAKES(wharf_call(t, right, large, 10, taken, 10, wharf_in_ms(1))), -ETIMEDOUT);
        struct wharf_msg late = MSG(.data = taken, .cap_bytes = sizeof taken);
        DONE(wharf_recvmsg(t, port, &late, WHARF_FOREVER));
        DONE(wharf_drop(t, late.reply));
        /* Sets, notices, what is asked and told. */
        struct wharf_port_stat ps = {.size = sizeof ps};
        struct wharf_right_stat rs = {.size = sizeof rs};
        int fd;
        DONE(wharf_port_stat(t, port, &ps));
        DONE(wharf_right_stat(t, right, &rs));
        DONE(wharf_set_new(t, &set));
        DONE(wharf_set_add(t, set, port));
        DONE(wharf_port_fd(t, set, &fd));
        DONE(wharf_send(t, right, large, 200, WHARF_FOREVER));
        receive(t, set, 0);
        DONE(wharf_set_remove(t, set, port));
        wharf_name self, notify, doomed, ends;
        DONE(wharf_task_self(t, &self));
        DONE(wharf_task_notify(t, &notify));
        DONE(wharf_port_new(t, NULL, &doomed));
        DONE(wharf_right_new(t, doomed, &ends));
        DONE(wharf_watch(t, ends, WHARF_NONE));
        DONE(wharf_port_heir(t, doomed, right));
        TAKES(wharf_right_same(t, right, right, 0));
        DONE(wharf_drop(t, doomed));
        receive(t, port, 0);
        TAKES(wharf_recv(t, notify, taken, sizeof taken, NULL, 0));
        struct wharf_sender who;
        DONE(wharf_send(t, right, large, 200, WHARF_FOREVER));
        CHECK_EQ(TAKES(wharf_recv(t, port, taken, sizeof taken, &who, WHARF_FOREVER)), 200);
        CHECK_GE(TAKES(wharf_revoke(t, port, who.id, WHARF_REVOKE_BRANCH)), 1);
        TAKES(wharf_send(t, right, large, 200, 0)); /* refused, or lost on its way */
        TAKES(wharf_task_close(t));
        return NULL;
}

TEST(sending_and_receiving_take_little_stack)
{
        on_painted_stack(send_and_receive);
}

static int echo_to_hub(void *arg)
{
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        for (int i = 0; i < 30; i++)
                CHECK_EQ(wharf_send(t, right, large, (size_t)i * 600, WHARF_FOREVER), 0);
        wharf_task_close(t);
        return 0;
}

static struct hub hub;

/* From other processes, whose connections are accepted on the way; the links of several users are counted. */
static void *accept_and_receive(void *arg)
{
        hub = hub_open(NULL);
        pid_t pid[12];
        for (int i = 0; i < 12; i++)
                pid[i] = test_fork(echo_to_hub, &hub);
        for (int i = 0; i < 12 * 30; i++)
                CHECK_GE(TAKES(wharf_recv(hub.task, hub.port, taken, sizeof taken, NULL, WHARF_FOREVER)), 0);
        for (int i = 0; i < 12; i++)
                CHECK_EQ(test_wait(pid[i]), 0);
        hub_close(&hub);
        return NULL;
}

TEST(accepting_senders_takes_little_stack)
{
        on_painted_stack(accept_and_receive);
}

ROLE(found)
{
        wharf_task *t;
        struct wharf_item item;
        MUST(wharf_task_open(NULL, &t) == 0);
        MUST(wharf_inherited(t, "fd0", &item) == 0);
        wharf_task_close(t);
        return 7;
}

static struct wharf_given given[WHARF_ITEMS_MAX];
static char names[WHARF_ITEMS_MAX][16];

static void *spawn_many(void *arg)
{
        wharf_task *t;
        int status;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        for (uint32_t i = 0; i < WHARF_ITEMS_MAX - 1; i++) {
                snprintf(names[i], sizeof names[i], "fd%u", i);
                given[i] = GIVE_FD(names[i], WHARF_COPY_FD, 0);
        }
        struct wharf_child c = CHILD;
        DONE(wharf_spawn(t,
                         SPAWN_OPTS(.argv = ARGV(WORD("@found")), .given = given, .n_given = WHARF_ITEMS_MAX - 1,
                                    .flags = WHARF_SPAWN_TALK),
                         WHARF_FOREVER, &c));
        DONE(wharf_child_wait(&c, WHARF_FOREVER, &status));
        CHECK_EQ(status, 7);
        CHECK_EQ(TAKES(wharf_spawn(t, SPAWN_OPTS(.argv = (char *[]){WORD("no-such-program"), NULL}), 0, &c)), -ENOENT);
        CHECK_EQ(TAKES(wharf_exec(t, SPAWN_OPTS(.argv = (char *[]){WORD("no-such-program"), NULL}), 0)), -ENOENT);
        char **none;
        size_t n;
        DONE(wharf_inherited_list(t, &none, &n));
        free(none);
        wharf_task_close(t);
        return NULL;
}

TEST(spawning_takes_little_stack)
{
        setenv("PATH", "/usr/bin:/bin", 1); /* where whatever runs this test may look */
        on_painted_stack(spawn_many);
}

/*
 * Goal:   between fork and exec the child runs on a copy of that stack, and needs no more of it than its parent; also
 * to find the program in a long PATH. Method: a stack that ends 8 KiB below the call. A child that goes beyond dies
 * before its program runs.
 */
static void *spawn_at_the_edge(void *arg)
{
        struct wharf_child *c = arg;
        char *floor = seen.low + 4096 + MAY_TAKE + 512; /* the last for the frames between */
        volatile char *room = __builtin_alloca((size_t)(here() - floor));
        *room = 0;
        CHECK_EQ(wharf_spawn(c[1].size ? NULL : *(wharf_task **)(void *)&c[2],
                             SPAWN_OPTS(.argv = (char *[]){WORD("true"), NULL}), WHARF_FOREVER, c),
                 0);
        return NULL;
}

TEST(a_spawned_child_takes_little_stack_before_its_program_runs)
{
        if (TEST_ASAN || TEST_TSAN)
                test_skip("a sanitizer makes frames many times as large");
#ifndef __OPTIMIZE__
        test_skip("built without optimisation, where frames are several times as large");
#endif
        static char path[8000] = "PATH=";
        for (size_t n = strlen(path); n < sizeof path - 80; n = strlen(path))
                snprintf(path + n, sizeof path - n, "/nowhere/%064zu:", n);
        strcat(path, "/usr/bin:/bin");
        CHECK_EQ(putenv(path), 0);
        wharf_task *t;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        struct wharf_child c[4] = {CHILD};
        memcpy(&c[2], &t, sizeof t);
        pthread_attr_t a;
        pthread_t th;
        int status;
        CHECK_EQ(posix_memalign((void **)&seen.low, 4096, STACK_BYTES), 0);
        CHECK_EQ(mprotect(seen.low, 4096, PROT_NONE), 0);
        CHECK_EQ(pthread_attr_init(&a), 0);
        CHECK_EQ(pthread_attr_setstack(&a, seen.low, STACK_BYTES), 0);
        CHECK_EQ(pthread_create(&th, &a, spawn_at_the_edge, c), 0);
        CHECK_EQ(pthread_join(th, NULL), 0);
        CHECK_EQ(mprotect(seen.low, 4096, PROT_READ | PROT_WRITE), 0);
        free(seen.low);
        pthread_attr_destroy(&a);
        CHECK_EQ(wharf_child_wait(&c[0], WHARF_FOREVER, &status), 0);
        CHECK_EQ(status, 0);
        wharf_task_close(t);
}

static void *use_names(void *arg)
{
        wharf_task *t, *u;
        wharf_name port, found, watch;
        struct wharf_named *all;
        struct wharf_wait *waits;
        size_t n;
        int fd;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_task_open(NULL, &u), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &watch), 0);
        CHECK_EQ(TAKES(wharf_lookup(u, "stack", 0, &found)), -ENOENT); /* the first one starts the server */
        DONE(wharf_register(t, "stack", port));
        DONE(wharf_lookup(u, "stack", WHARF_FOREVER, &found));
        DONE(wharf_names_list(t, &all, &n));
        free(all);
        DONE(wharf_waits_list(t, &waits, &n));
        free(waits);
        DONE(wharf_names_watch(t, "*", watch));
        struct wharf_msg m = MSG(.data = taken, .cap_bytes = sizeof taken);
        struct wharf_name_event ev;
        DONE(wharf_recvmsg(t, watch, &m, WHARF_FOREVER));
        DONE(wharf_names_event(t, &m, &ev));
        DONE(wharf_names_unwatch(t, "*", watch));
        DONE(wharf_names_fd(t, &fd));
        DONE(wharf_names_renew(t));
        DONE(wharf_unregister(t, "stack"));
        wharf_direct *p, *q;
        char who[WHARF_DIRECT_NAME_MAX + 1];
        DONE(wharf_direct_join(t, "P", &p));
        DONE(wharf_direct_join(u, "Q", &q));
        for (int i = 0; i < 20; i++) {
                DONE(wharf_direct_send(p, "Q", large, 3000, WHARF_FOREVER));
                struct wharf_msg d = MSG(.data = taken, .cap_bytes = sizeof taken);
                DONE(wharf_direct_recvmsg(q, "P", &d, who, WHARF_FOREVER));
                DONE(wharf_direct_send(q, "P", large, 30, WHARF_FOREVER));
                CHECK_EQ(TAKES(wharf_direct_recv_any(p, taken, sizeof taken, who, WHARF_FOREVER)), 30);
        }
        CHECK_EQ(TAKES(wharf_direct_recv(p, "Q", taken, sizeof taken, 0)), -EAGAIN);
        TAKES(wharf_direct_leave(p));
        TAKES(wharf_direct_leave(q));
        TAKES(wharf_task_close(t));
        TAKES(wharf_task_close(u));
        return NULL;
}

TEST(names_and_direct_communication_take_little_stack)
{
        test_domain();
        on_painted_stack(use_names);
}

static int each_segment(const char *name, const struct wharf_segment_stat *st, void *arg)
{
        return 0;
}
static int each_user(uint32_t i, const struct wharf_segment_user *user, void *arg)
{
        return 0;
}
static int each_block(const struct wharf_block *block, void *arg)
{
        return 0;
}

static int die_with_blocks(void *heap)
{
        uint64_t at;
        for (int i = 0; i < 50; i++)
                CHECK_EQ(wharf_heap_alloc(heap, 100, 0, 0, 0, &at), 0);
        _exit(0);
}

static void *use_memory(void *arg)
{
        wharf_segment *s, *f;
        struct wharf_segment_stat st;
        char name[64], file[400];
        uint32_t unseen;
        snprintf(name, sizeof name, "posix:wharf-stack-%d", (int)getpid());
        snprintf(file, sizeof file, "file:%s/segment", test_dir());
        DONE(wharf_segment_create(name, 1 << 20, NULL, &s));
        DONE(wharf_segment_create(file, 1 << 20, NULL, &f));
        TAKES(wharf_segment_close(f));
        DONE(wharf_segment_attach(s, WHARF_SEGMENT_WRITE, NULL));
        DONE(wharf_segment_stat(s, &st));
        DONE(wharf_segment_list(each_segment, NULL));
        DONE(wharf_segment_users(&st, 1, each_user, NULL, &unseen));
        DONE(wharf_segment_remove(name));
        DONE(wharf_segment_remove(file));
        void *base = wharf_segment_base(s);
        for (uint32_t policy = 0; policy < WHARF_HEAP_POLICIES; policy++) {
                struct wharf_heap_opts o = {.size = sizeof o, .policy = policy, .owners_max = 100};
                if (policy == WHARF_HEAP_FIXED) {
                        o.n_partitions = 100;
                        o.managed_bytes = 100 * 1024;
                }
                wharf_heap *h;
                uint64_t at, other;
                struct wharf_heap_figures figures;
                static struct wharf_heap_owner owners[100];
                static uint8_t bits[1 << 16];
                DONE(wharf_heap_format(base, 1 << 20, &o));
                DONE(wharf_heap_open(base, 1 << 20, &h));
                DONE(wharf_heap_alloc(h, 100, 0, 0, 0, &at));
                DONE(wharf_heap_alloc(h, 100, 0, WHARF_ALLOC_ZERO, WHARF_FOREVER, &other));
                TAKES(wharf_heap_resize(h, at, 300, 0, &at));
                CHECK_EQ(test_wait(test_fork(die_with_blocks, h)), 0);
                DONE(wharf_heap_figures(h, &figures));
                TAKES(wharf_heap_owners(h, owners, 100));
                DONE(wharf_heap_walk(h, each_block, NULL));
                TAKES(wharf_heap_frames(h, bits, sizeof bits));
                CHECK_GE(TAKES(wharf_heap_reclaim(h, NULL, NULL)), 50);
                DONE(wharf_heap_check(h));
                DONE(wharf_heap_free(h, other));
                CHECK_LE(TAKES(wharf_heap_alloc(h, 900000, 0, 0, wharf_in_ms(1), &other)), 0);
                TAKES(wharf_heap_close(h));
        }
        for (uint32_t kind = WHARF_BUFFER_BOUNDED; kind <= WHARF_BUFFER_CIRCULAR; kind++) {
                struct wharf_buffer_opts o = {.size = sizeof o, .kind = kind};
                wharf_buffer *b;
                struct wharf_buffer_figures figures;
                DONE(wharf_buffer_format(base, 1 << 20, &o));
                DONE(wharf_buffer_open(base, 1 << 20, &b));
                DONE(wharf_buffer_put(b, large, 60, WHARF_FOREVER));
                CHECK_EQ(TAKES(wharf_buffer_get(b, taken, sizeof taken, WHARF_FOREVER)), 60);
                CHECK_EQ(TAKES(wharf_buffer_get(b, taken, sizeof taken, wharf_in_ms(1))), -ETIMEDOUT);
                DONE(wharf_buffer_figures(b, &figures));
                TAKES(wharf_buffer_close(b));
        }
        wharf_mutex *m = base;
        wharf_sem *sem = (wharf_sem *)(m + 1);
        wharf_event *e = (wharf_event *)(sem + 1);
        memset(base, 0, 65536);
        DONE(wharf_mutex_init(m));
        DONE(wharf_mutex_lock(m, WHARF_FOREVER));
        DONE(wharf_mutex_unlock(m));
        DONE(wharf_sem_init(sem, 1, WHARF_SEM_OWNED));
        DONE(wharf_sem_take(sem, WHARF_FOREVER));
        CHECK_EQ(TAKES(wharf_sem_take(sem, wharf_in_ms(1))), -ETIMEDOUT);
        DONE(wharf_sem_give(sem));
        CHECK_EQ(TAKES(wharf_event_wait(e, wharf_event_key(e), wharf_in_ms(1))), -ETIMEDOUT);
        TAKES(wharf_segment_close(s));
        return NULL;
}

TEST(memory_takes_little_stack)
{
        test_dir();
        on_painted_stack(use_memory);
}

struct complex_message {
        mach_msg_header_t header;
        mach_msg_body_t body;
        mach_msg_port_descriptor_t port[30];
        char data[1000];
        mach_msg_security_trailer_t trailer;
};

static void *use_mach(void *arg)
{
        static struct complex_message m;
        mach_port_t port;
        mach_port_options_t o = {.flags = MPO_INSERT_SEND_RIGHT};
        DONE(mach_port_construct(mach_task_self(), &o, 0, &port));
        for (int i = 0; i < 20; i++) {
                m = (struct complex_message){
                        .header = {.msgh_bits = MACH_MSGH_BITS(MACH_MSG_TYPE_COPY_SEND, 0) | MACH_MSGH_BITS_COMPLEX,
                                   .msgh_remote_port = port},
                        .body = {30}};
                for (int k = 0; k < 30; k++)
                        m.port[k] = (mach_msg_port_descriptor_t){
                                .name = port, .disposition = MACH_MSG_TYPE_MAKE_SEND, .type = MACH_MSG_PORT_DESCRIPTOR};
                DONE(mach_msg(&m.header, MACH_SEND_MSG, offsetof(struct complex_message, trailer), 0, MACH_PORT_NULL, 0,
                              MACH_PORT_NULL));
                DONE(mach_msg(&m.header, MACH_RCV_MSG, 0, sizeof m, port, 0, MACH_PORT_NULL));
                for (int k = 0; k < 30; k++)
                        DONE(mach_port_deallocate(mach_task_self(), m.port[k].name));
        }
        TAKES((wharf_mach_close(), 0));
        return NULL;
}

TEST(machs_words_take_little_stack)
{
        on_painted_stack(use_mach);
}
