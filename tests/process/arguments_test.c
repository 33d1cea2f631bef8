/*
 * Arguments that make no sense, for every public call that takes a pointer with a length or a count, options, or a
 * place for what it returns: -EINVAL, never a crash, and nothing has happened. Calls that have to do with a task say
 * which.
 */
#include "again.h"
#include "domain.h"
#include "hub.h"

#include <wharf/mach.h>
#include <wharf/wharf.h>

#define REFUSED(call)                                                         \
        do {                                                                  \
                long long r_ = (long long)(call);                             \
                if (r_ != -EINVAL)                                            \
                        test_fail(__FILE__, __LINE__, "%s: %lld", #call, r_); \
        } while (0)
/* ... and wharf_why() names it. */
#define SAYS(what, call)                                                                                 \
        do {                                                                                             \
                wh_why_forget();                                                                         \
                REFUSED(call);                                                                           \
                if (!strstr(wharf_why(), what))                                                          \
                        test_fail(__FILE__, __LINE__, "%s: \"%s\" has no %s", #call, wharf_why(), what); \
        } while (0)

static wharf_task *task;
static wharf_name port, right, none;
static char bytes[256];

static void wh_why_forget(void)
{
        CHECK_EQ(wharf_drop(task, 0), -EBADF); /* some other line */
}

TEST(messages)
{
        uint32_t call;
        CHECK_EQ(wharf_task_open(NULL, &task), 0);
        CHECK_EQ(wharf_port_new(task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_right_new(task, port, &right), 0);
        for (int warm = 0; warm < 12; warm++) { /* with frames, and in a lane */
                SAYS("data", wharf_send(task, right, NULL, 1, 0));
                SAYS("data", wharf_send(task, right, NULL, 1 << 20, 0));
                SAYS("msg", wharf_sendmsg(task, right, NULL, 0));
                SAYS("size", wharf_sendmsg(task, right, &(struct wharf_msg){0}, 0));
                SAYS("data", wharf_sendmsg(task, right, &MSG(.len_bytes = 1), 0));
                SAYS("items", wharf_sendmsg(task, right, &MSG(.n_items = 1), 0));
                SAYS("msg", wharf_reserve(task, right, 100, NULL, 0));
                SAYS("data", wharf_call(task, right, NULL, 1, bytes, sizeof bytes, 0));
                SAYS("data", wharf_call(task, right, bytes, 1, NULL, 1, 0));
                SAYS("req", wharf_callmsg(task, right, NULL, &MSG(.cap_bytes = 0), 0));
                SAYS("msg", wharf_callmsg(task, right, &MSG(.cap_bytes = 0), NULL, 0));
                SAYS("data", wharf_callmsg(task, right, &MSG(.len_bytes = 4), &MSG(.id = 0), 0));
                SAYS("items", wharf_callmsg(task, right, &MSG(.n_items = 4), &MSG(.id = 0), 0));
                SAYS("items", wharf_callmsg(task, right, &MSG(.id = 0), &MSG(.cap_items = 3), 0));
                SAYS("req", wharf_call_start(task, right, NULL, WHARF_NONE, 0, &call));
                SAYS("ret_call", wharf_call_start(task, right, &MSG(.id = 0), WHARF_NONE, 0, NULL));
                SAYS("data", wharf_call_start(task, right, &MSG(.len_bytes = 4), WHARF_NONE, 0, &call));
                SAYS("buf", wharf_recv(task, port, NULL, 1, NULL, 0));
                SAYS("msg", wharf_recvmsg(task, port, NULL, 0));
                SAYS("data", wharf_recvmsg(task, port, &MSG(.cap_bytes = 1), 0));
                SAYS("items", wharf_recvmsg(task, port, &MSG(.cap_items = 1), 0));
                CHECK_EQ(wharf_recv(task, port, bytes, sizeof bytes, NULL, 0), -EAGAIN); /* nothing was sent */
                CHECK_EQ(wharf_call_start(task, right, &MSG(.data = bytes, .len_bytes = 1), WHARF_NONE, 0, &call), 0);
                struct wharf_msg m = MSG(.data = bytes, .cap_bytes = sizeof bytes);
                CHECK_EQ(wharf_recvmsg(task, port, &m, 0), 0);
                SAYS("msg", wharf_replymsg(task, m.reply, NULL));
                SAYS("data", wharf_replymsg(task, m.reply, &MSG(.len_bytes = 1)));
                SAYS("items", wharf_replymsg(task, m.reply, &MSG(.n_items = 1)));
                SAYS("data", wharf_reply(task, m.reply, NULL, 1));
                CHECK_EQ(wharf_reply(task, m.reply, NULL, 0), 0); /* no bytes are at no address */
                SAYS("msg", wharf_call_finish(task, right, call, NULL, 0));
                SAYS("data", wharf_call_finish(task, right, call, &MSG(.cap_bytes = 1), 0));
                SAYS("items", wharf_call_finish(task, right, call, &MSG(.cap_items = 1), 0));
                CHECK_EQ(wharf_call_finish(task, right, call, &MSG(.cap_bytes = 0), 0), 0);
                CHECK_EQ(wharf_send(task, right, NULL, 0, 0), 0);
                CHECK_EQ(wharf_recv(task, port, NULL, 0, NULL, 0), 0);
        }
        SAYS("ret", wharf_sender_pidfd(task, 1, NULL));
        wharf_release(task, NULL);
        wharf_task_close(task);
}

TEST(tasks_ports_and_memory)
{
        REFUSED(wharf_task_open(NULL, NULL));
        CHECK_EQ(wharf_task_open(NULL, &task), 0);
        CHECK_EQ(wharf_port_new(task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(task, port, &right), 0);
        SAYS("ret", wharf_task_self(task, NULL));
        SAYS("ret", wharf_task_notify(task, NULL));
        SAYS("ret", wharf_port_new(task, NULL, NULL));
        SAYS("ret", wharf_right_new(task, port, NULL));
        SAYS("ret", wharf_once_new(task, port, NULL));
        SAYS("ret", wharf_right_copy(task, right, 0, NULL));
        SAYS("ret", wharf_set_new(task, NULL));
        SAYS("ret", wharf_port_fd(task, port, NULL));
        SAYS("path", wharf_right_connect(task, NULL, &none));
        SAYS("ret", wharf_right_connect(task, "/nowhere", NULL));
        SAYS("ret", wharf_port_stat(task, port, NULL));
        SAYS("ret", wharf_right_stat(task, right, NULL));
        SAYS("ret", wharf_memory_new(task, 100, NULL));
        SAYS("ret", wharf_memory_at(task, port, NULL, NULL));
        SAYS("ret", wharf_memory_stat(task, port, NULL));
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(task, port, &st), 0);
        CHECK_EQ(st.senders, 1);
        wharf_task_close(task);
}

TEST(starting_programs)
{
        struct wharf_child c = CHILD;
        struct wharf_item item;
        char **names;
        size_t n;
        int status;
        CHECK_EQ(wharf_task_open(NULL, &task), 0);
        SAYS("opts", wharf_spawn(task, NULL, 0, &c));
        SAYS("opts", wharf_exec(task, NULL, 0));
        SAYS("ret", wharf_spawn(task, SPAWN_OPTS(.argv = ARGV(WORD("x"))), 0, NULL));
        SAYS("argv", wharf_spawn(task, SPAWN_OPTS(.n_given = 0), 0, &c));
        SAYS("given", wharf_spawn(task, SPAWN_OPTS(.argv = ARGV(WORD("x")), .n_given = 1), 0, &c));
        SAYS("given", wharf_exec(task, SPAWN_OPTS(.argv = ARGV(WORD("x")), .n_given = 1), 0));
        SAYS("child", wharf_child_wait(NULL, 0, &status));
        SAYS("ret_status", wharf_child_wait(&c, 0, NULL));
        SAYS("child", wharf_child_kill(NULL, SIGKILL));
        SAYS("name", wharf_inherited(task, NULL, &item));
        SAYS("ret", wharf_inherited(task, "x", NULL));
        SAYS("ret", wharf_inherited_list(task, NULL, &n));
        SAYS("ret_n", wharf_inherited_list(task, &names, NULL));
        wharf_task_close(task);
}

TEST(names_and_direct_communication)
{
        struct wharf_named *all;
        struct wharf_wait *waits;
        struct wharf_name_event e;
        wharf_direct *d;
        size_t n;
        test_domain();
        CHECK_EQ(wharf_task_open(NULL, &task), 0);
        CHECK_EQ(wharf_port_new(task, NULL, &port), 0);
        SAYS("name", wharf_register(task, NULL, port));
        SAYS("name", wharf_unregister(task, NULL));
        SAYS("name", wharf_lookup(task, NULL, 0, &none));
        SAYS("ret", wharf_lookup(task, "x", 0, NULL));
        SAYS("ret", wharf_names_list(task, NULL, &n));
        SAYS("ret_n", wharf_names_list(task, &all, NULL));
        SAYS("ret", wharf_waits_list(task, NULL, &n));
        SAYS("ret_n", wharf_waits_list(task, &waits, NULL));
        SAYS("name", wharf_names_watch(task, NULL, port));
        SAYS("name", wharf_names_unwatch(task, NULL, port));
        SAYS("msg", wharf_names_event(task, NULL, &e));
        SAYS("ret", wharf_names_event(task, &MSG(.id = 0), NULL));
        SAYS("data", wharf_names_event(task, &MSG(.len_bytes = 8), &e));
        SAYS("ret", wharf_names_fd(task, NULL));
        SAYS("ret", wharf_direct_join(task, "P", NULL));
        SAYS("name", wharf_direct_join(task, NULL, &d));
        CHECK_EQ(wharf_direct_join(task, "P", &d), 0);
        SAYS("data", wharf_direct_send(d, "Q", NULL, 1, 0));
        SAYS("name", wharf_direct_send(d, NULL, bytes, 1, 0));
        SAYS("msg", wharf_direct_sendmsg(d, "Q", NULL, 0));
        SAYS("items", wharf_direct_sendmsg(d, "Q", &MSG(.n_items = 1), 0));
        SAYS("data", wharf_direct_recv(d, "Q", NULL, 1, 0));
        SAYS("name", wharf_direct_recv(d, NULL, bytes, 1, 0));
        SAYS("data", wharf_direct_recv_any(d, NULL, 1, NULL, 0));
        SAYS("msg", wharf_direct_recvmsg(d, "Q", NULL, NULL, 0));
        SAYS("data", wharf_direct_recvmsg(d, "Q", &MSG(.cap_bytes = 1), NULL, 0));
        SAYS("items", wharf_direct_recvmsg(d, "Q", &MSG(.cap_items = 1), NULL, 0));
        wharf_direct_leave(d);
        wharf_task_close(task);
}

static int ignore(uint32_t i, const struct wharf_segment_user *user, void *arg)
{
        return 0;
}

TEST(segments_heaps_and_buffers)
{
        void *base = test_shared(1 << 20);
        wharf_segment *s;
        enum wharf_heap_policy policy;
        REFUSED(wharf_segment_create(NULL, 4096, NULL, &s));
        REFUSED(wharf_segment_create("anon:x", 4096, NULL, NULL));
        REFUSED(wharf_segment_open(NULL, WHARF_SEGMENT_READ, &s));
        REFUSED(wharf_segment_open("posix:x", WHARF_SEGMENT_READ, NULL));
        REFUSED(wharf_segment_from_fd(0, WHARF_SEGMENT_READ, 0, NULL));
        REFUSED(wharf_segment_remove(NULL));
        REFUSED(wharf_segment_list(NULL, NULL));
        REFUSED(wharf_segment_users(NULL, 1, ignore, NULL, NULL));
        REFUSED(wharf_segment_users(NULL, 0, NULL, NULL, NULL));
        CHECK_EQ(wharf_segment_create("anon:x", 4096, NULL, &s), 0);
        REFUSED(wharf_segment_stat(s, NULL));
        REFUSED(wharf_segment_offset(s, base, NULL));
        wharf_segment_close(s);

        wharf_heap *h;
        uint64_t at;
        REFUSED(wharf_heap_policy_by_name(NULL, &policy));
        REFUSED(wharf_heap_policy_by_name("buddy", NULL));
        CHECK_EQ(wharf_heap_bytes_needed(NULL), 0);
        REFUSED(wharf_heap_format(NULL, 1 << 20, NULL));
        CHECK_EQ(wharf_heap_format(base, 1 << 20, NULL), 0);
        REFUSED(wharf_heap_open(NULL, 1 << 20, &h));
        REFUSED(wharf_heap_open(base, 1 << 20, NULL));
        CHECK_EQ(wharf_heap_open(base, 1 << 20, &h), 0);
        REFUSED(wharf_heap_alloc(h, 10, 0, 0, 0, NULL));
        CHECK_EQ(wharf_heap_alloc(h, 10, 0, 0, 0, &at), 0);
        REFUSED(wharf_heap_resize(h, at, 20, 0, NULL));
        REFUSED(wharf_heap_usable(h, at, NULL));
        REFUSED(wharf_heap_offset(h, base, NULL));
        REFUSED(wharf_heap_root(h, 0, NULL));
        REFUSED(wharf_heap_owners(h, NULL, 1));
        CHECK_EQ(wharf_heap_owners(h, NULL, 0), 1);
        REFUSED(wharf_heap_figures(h, NULL));
        REFUSED(wharf_heap_walk(h, NULL, NULL));
        REFUSED(wharf_heap_frames(h, NULL, 1));
        wharf_heap_why(h, NULL);
        wharf_heap_close(h);

        wharf_buffer *b;
        CHECK_EQ(wharf_buffer_bytes_needed(NULL), 0);
        REFUSED(wharf_buffer_format(NULL, 1 << 20, NULL));
        for (uint32_t kind = WHARF_BUFFER_BOUNDED; kind <= WHARF_BUFFER_CIRCULAR; kind++) {
                struct wharf_buffer_opts o = {.size = sizeof o, .kind = kind};
                CHECK_EQ(wharf_buffer_format(base, 1 << 20, &o), 0);
                REFUSED(wharf_buffer_open(NULL, 1 << 20, &b));
                REFUSED(wharf_buffer_open(base, 1 << 20, NULL));
                CHECK_EQ(wharf_buffer_open(base, 1 << 20, &b), 0);
                REFUSED(wharf_buffer_put(b, NULL, 1, 0));
                REFUSED(wharf_buffer_get(b, NULL, 1, 0));
                REFUSED(wharf_buffer_figures(b, NULL));
                CHECK_EQ(wharf_buffer_get(b, bytes, sizeof bytes, 0), -EAGAIN); /* nothing was put */
                CHECK_EQ(wharf_buffer_put(b, NULL, 0, 0), 0);
                CHECK_EQ(wharf_buffer_get(b, NULL, 0, 0), 0);
                wharf_buffer_close(b);
        }
}

TEST(machs_words)
{
        task_t self = mach_task_self();
        mach_port_t p, q;
        mach_msg_type_name_t kind;
        CHECK_EQ(mach_msg(NULL, MACH_SEND_MSG, 100, 0, 0, 0, 0), MACH_SEND_MSG_TOO_SMALL);
        CHECK_EQ(mach_port_allocate(self, MACH_PORT_RIGHT_RECEIVE, &p), KERN_SUCCESS);
        CHECK_EQ(mach_msg(NULL, MACH_RCV_MSG | MACH_RCV_TIMEOUT, 0, 100, p, 0, 0), MACH_RCV_INVALID_DATA);
        CHECK_EQ(mach_port_allocate(self, MACH_PORT_RIGHT_RECEIVE, NULL), KERN_INVALID_ARGUMENT);
        CHECK_EQ(mach_port_allocate(self, MACH_PORT_RIGHT_PORT_SET, NULL), KERN_INVALID_ARGUMENT);
        CHECK_EQ(mach_port_construct(self, NULL, 0, NULL), KERN_INVALID_ARGUMENT);
        CHECK_EQ(mach_port_extract_right(self, p, MACH_MSG_TYPE_MAKE_SEND, NULL, &kind), KERN_INVALID_ARGUMENT);
        CHECK_EQ(mach_port_extract_right(self, p, MACH_MSG_TYPE_MAKE_SEND, &q, NULL), KERN_INVALID_ARGUMENT);
        CHECK_EQ(mach_port_get_refs(self, p, MACH_PORT_RIGHT_RECEIVE, NULL), KERN_INVALID_ARGUMENT);
        CHECK_EQ(mach_port_type(self, p, NULL), KERN_INVALID_ARGUMENT);
        CHECK_EQ(vm_allocate(self, NULL, 100, 1), KERN_INVALID_ARGUMENT);
        CHECK_EQ(bootstrap_check_in(bootstrap_port, "x", NULL), KERN_INVALID_ARGUMENT);
        CHECK_EQ(bootstrap_look_up(bootstrap_port, "x", NULL), KERN_INVALID_VALUE);
        wharf_mach_close();
}
