/*
 * Mach's words: rights under Mach's names, mach_msg() with its options, notices, and what does not come from Mach.
 */
#include "domain.h"
#include "hub.h"

#include <wharf/mach.h>
#include <wharf/memory.h>

struct simple {
        mach_msg_header_t header;
        int data;
        mach_msg_security_trailer_t trailer;
};
enum { SIMPLE = offsetof(struct simple, trailer) };

struct with_port {
        mach_msg_header_t header;
        mach_msg_body_t body;
        mach_msg_port_descriptor_t port;
        int data;
};

struct with_memory {
        mach_msg_header_t header;
        mach_msg_body_t body;
        mach_msg_ool_descriptor_t memory;
        int data;
};

static mach_port_t port_new(uint32_t qlimit)
{
        mach_port_t p;
        mach_port_options_t o = {.flags = (qlimit ? MPO_QLIMIT : 0u) | MPO_INSERT_SEND_RIGHT, .mpl = {qlimit}};
        CHECK_EQ(mach_port_construct(mach_task_self(), &o, 0, &p), KERN_SUCCESS);
        return p;
}

static mach_msg_return_t send_simple(mach_port_t to, unsigned disposition, mach_port_t reply,
                                     unsigned reply_disposition, int data, mach_msg_option_t option,
                                     mach_msg_timeout_t ms)
{
        struct simple m = {.header = {.msgh_bits = MACH_MSGH_BITS(disposition, reply_disposition),
                                      .msgh_remote_port = to,
                                      .msgh_local_port = reply,
                                      .msgh_id = 77},
                           .data = data};
        return mach_msg(&m.header, MACH_SEND_MSG | option, SIMPLE, 0, MACH_PORT_NULL, ms, MACH_PORT_NULL);
}

static mach_msg_return_t receive(mach_port_t from, struct simple *m, mach_msg_option_t option)
{
        return mach_msg(&m->header, MACH_RCV_MSG | MACH_RCV_TIMEOUT | option, 0, sizeof *m, from, 10000,
                        MACH_PORT_NULL);
}

static uint32_t refs(mach_port_t name, mach_port_right_t right)
{
        uint32_t n = 99;
        CHECK_EQ(mach_port_get_refs(mach_task_self(), name, right, &n), KERN_SUCCESS);
        return n;
}

static int client(void *arg)
{
        mach_port_t server, reply = mach_reply_port();
        struct simple m = {0};
        CHECK_EQ(bootstrap_look_up(bootstrap_port, "mach.test", &server), KERN_SUCCESS);
        m.header.msgh_bits = MACH_MSGH_BITS(MACH_MSG_TYPE_COPY_SEND, MACH_MSG_TYPE_MAKE_SEND_ONCE);
        m.header.msgh_remote_port = server;
        m.header.msgh_local_port = reply;
        for (int i = 0; i < 100; i++) {
                m.header.msgh_bits = MACH_MSGH_BITS(MACH_MSG_TYPE_COPY_SEND, MACH_MSG_TYPE_MAKE_SEND_ONCE);
                m.header.msgh_remote_port = server;
                m.header.msgh_local_port = reply;
                m.data = i;
                CHECK_EQ(mach_msg(&m.header, MACH_SEND_MSG | MACH_RCV_MSG, SIMPLE, sizeof m, reply,
                                  MACH_MSG_TIMEOUT_NONE, MACH_PORT_NULL),
                         MACH_MSG_SUCCESS);
                CHECK_EQ(m.data, 2 * i);
                CHECK_EQ(m.header.msgh_local_port, reply);
        }
        wharf_mach_close();
        return 0;
}

TEST(the_textbooks_client_and_server_in_machs_words)
{
        test_domain();
        mach_port_t server, other;
        CHECK_EQ(bootstrap_look_up(bootstrap_port, "mach.test", &server), BOOTSTRAP_UNKNOWN_SERVICE);
        CHECK_EQ(bootstrap_check_in(bootstrap_port, "mach.test", &server), KERN_SUCCESS);
        CHECK_EQ(bootstrap_check_in(bootstrap_port, "mach.test", &other), BOOTSTRAP_NAME_IN_USE);
        pid_t pid = test_fork(client, NULL);
        for (int i = 0; i < 100; i++) {
                struct simple m;
                CHECK_EQ(receive(server, &m, MACH_RCV_TRAILER_SENDER), MACH_MSG_SUCCESS);
                CHECK_EQ(m.trailer.pid, pid);
                CHECK_EQ(m.trailer.uid, getuid());
                CHECK_EQ(MACH_MSGH_BITS_REMOTE(m.header.msgh_bits), MACH_MSG_TYPE_PORT_SEND_ONCE);
                CHECK_EQ(m.header.msgh_size, SIMPLE);
                CHECK_EQ(send_simple(m.header.msgh_remote_port, MACH_MSG_TYPE_MOVE_SEND_ONCE, MACH_PORT_NULL, 0,
                                     2 * m.data, 0, 0),
                         MACH_MSG_SUCCESS);
        }
        CHECK_EQ(test_wait(pid), 0);
        CHECK_EQ(mach_port_destroy(mach_task_self(), server), KERN_SUCCESS);
        wharf_mach_close();
}

TEST(a_port_and_its_send_rights_share_a_name_and_are_counted)
{
        mach_port_t p, task = mach_task_self();
        mach_port_type_t type;
        CHECK_EQ(mach_port_allocate(task, MACH_PORT_RIGHT_RECEIVE, &p), KERN_SUCCESS);
        CHECK_EQ(mach_port_type(task, p, &type), KERN_SUCCESS);
        CHECK_EQ(type, MACH_PORT_TYPE_RECEIVE);
        CHECK_EQ(send_simple(p, MACH_MSG_TYPE_COPY_SEND, 0, 0, 1, 0, 0), MACH_SEND_INVALID_DEST);
        for (int i = 0; i < 3; i++)
                CHECK_EQ(mach_port_insert_right(task, p, p, MACH_MSG_TYPE_MAKE_SEND), KERN_SUCCESS);
        CHECK_EQ(mach_port_type(task, p, &type), KERN_SUCCESS);
        CHECK_EQ(type, MACH_PORT_TYPE_RECEIVE | MACH_PORT_TYPE_SEND);
        CHECK_EQ(refs(p, MACH_PORT_RIGHT_SEND), 3);
        CHECK_EQ(mach_port_mod_refs(task, p, MACH_PORT_RIGHT_SEND, -1), KERN_SUCCESS);
        CHECK_EQ(mach_port_mod_refs(task, p, MACH_PORT_RIGHT_SEND, -3), KERN_INVALID_VALUE);
        CHECK_EQ(send_simple(p, MACH_MSG_TYPE_MOVE_SEND, 0, 0, 1, 0, 0), MACH_MSG_SUCCESS);
        CHECK_EQ(refs(p, MACH_PORT_RIGHT_SEND), 1);
        CHECK_EQ(send_simple(p, MACH_MSG_TYPE_MAKE_SEND, 0, 0, 2, 0, 0), MACH_MSG_SUCCESS);
        CHECK_EQ(mach_port_deallocate(task, p), KERN_SUCCESS);
        CHECK_EQ(mach_port_deallocate(task, p), KERN_INVALID_RIGHT);
        struct simple m;
        int sum = 0;
        for (int i = 0; i < 2; i++) {
                CHECK_EQ(receive(p, &m, 0), MACH_MSG_SUCCESS);
                sum += m.data;
        }
        CHECK_EQ(sum, 3);
        CHECK_EQ(mach_port_destroy(task, p), KERN_SUCCESS);
        CHECK_EQ(mach_port_destroy(task, p), KERN_INVALID_NAME);
        CHECK_EQ(mach_port_type(task, p, &type), KERN_INVALID_NAME);
        CHECK_EQ(mach_port_allocate(MACH_PORT_NULL, MACH_PORT_RIGHT_RECEIVE, &p), KERN_INVALID_TASK);
        CHECK_EQ(mach_port_allocate(task, MACH_PORT_RIGHT_SEND, &p), KERN_INVALID_VALUE);
        wharf_mach_close();
}

TEST(extracting_gives_rights_names_of_their_own)
{
        mach_port_t task = mach_task_self(), p = port_new(0), got;
        mach_msg_type_name_t kind;
        mach_port_type_t type;
        static const unsigned makes[] = {MACH_MSG_TYPE_MAKE_SEND, MACH_MSG_TYPE_COPY_SEND, MACH_MSG_TYPE_MAKE_SEND_ONCE,
                                         MACH_MSG_TYPE_MOVE_SEND};
        for (unsigned i = 0; i < 4; i++) {
                bool once = makes[i] == MACH_MSG_TYPE_MAKE_SEND_ONCE;
                CHECK_EQ(mach_port_extract_right(task, p, makes[i], &got, &kind), KERN_SUCCESS);
                CHECK(got != p);
                CHECK_EQ(kind, once ? MACH_MSG_TYPE_PORT_SEND_ONCE : MACH_MSG_TYPE_PORT_SEND);
                CHECK_EQ(mach_port_type(task, got, &type), KERN_SUCCESS);
                CHECK_EQ(type, once ? MACH_PORT_TYPE_SEND_ONCE : MACH_PORT_TYPE_SEND);
                CHECK_EQ(send_simple(got, once ? MACH_MSG_TYPE_MOVE_SEND_ONCE : MACH_MSG_TYPE_COPY_SEND, 0, 0, (int)i,
                                     0, 0),
                         MACH_MSG_SUCCESS);
                struct simple m;
                CHECK_EQ(receive(p, &m, 0), MACH_MSG_SUCCESS);
                CHECK_EQ(m.data, (int)i);
                if (!once)
                        CHECK_EQ(mach_port_deallocate(task, got), KERN_SUCCESS);
                CHECK_EQ(mach_port_type(task, got, &type), KERN_INVALID_NAME);
        }
        CHECK_EQ(refs(p, MACH_PORT_RIGHT_SEND), 0);
        CHECK_EQ(mach_port_destroy(task, p), KERN_SUCCESS);
        wharf_mach_close();
}

TEST(a_complex_message_carries_rights_of_each_kind)
{
        static const struct {
                unsigned give, got;
        } all[] = {{MACH_MSG_TYPE_COPY_SEND, MACH_MSG_TYPE_PORT_SEND},
                   {MACH_MSG_TYPE_MOVE_SEND, MACH_MSG_TYPE_PORT_SEND},
                   {MACH_MSG_TYPE_MAKE_SEND, MACH_MSG_TYPE_PORT_SEND},
                   {MACH_MSG_TYPE_MAKE_SEND_ONCE, MACH_MSG_TYPE_PORT_SEND_ONCE},
                   {MACH_MSG_TYPE_MOVE_RECEIVE, MACH_MSG_TYPE_PORT_RECEIVE}};
        mach_port_t task = mach_task_self(), to = port_new(0);
        for (unsigned i = 0; i < sizeof all / sizeof *all; i++) {
                mach_port_t p = port_new(0);
                struct with_port m = {
                        .header = {.msgh_bits = MACH_MSGH_BITS(MACH_MSG_TYPE_COPY_SEND, 0) | MACH_MSGH_BITS_COMPLEX,
                                   .msgh_remote_port = to},
                        .body = {1},
                        .port = {.name = p, .disposition = (uint8_t)all[i].give},
                        .data = 5};
                CHECK_EQ(send_simple(p, MACH_MSG_TYPE_COPY_SEND, 0, 0, 41, 0, 0), MACH_MSG_SUCCESS);
                CHECK_EQ(mach_msg(&m.header, MACH_SEND_MSG, sizeof m, 0, 0, 0, 0), MACH_MSG_SUCCESS);
                memset(&m, 0, sizeof m);
                CHECK_EQ(mach_msg(&m.header, MACH_RCV_MSG, 0, sizeof m, to, 0, 0), MACH_MSG_SUCCESS);
                CHECK_EQ(m.data, 5);
                CHECK_EQ(m.port.disposition, all[i].got);
                mach_port_t from = p, got = m.port.name;
                if (all[i].got == MACH_MSG_TYPE_PORT_RECEIVE)
                        from = got; /* what was sent before the move is received after it */
                else
                        CHECK_EQ(send_simple(got,
                                             all[i].got == MACH_MSG_TYPE_PORT_SEND ? MACH_MSG_TYPE_MOVE_SEND
                                                                                   : MACH_MSG_TYPE_MOVE_SEND_ONCE,
                                             0, 0, 42, 0, 0),
                                 MACH_MSG_SUCCESS);
                struct simple s;
                int sum = 0, n = from == got ? 1 : 2;
                for (int k = 0; k < n; k++) {
                        CHECK_EQ(receive(from, &s, 0), MACH_MSG_SUCCESS);
                        sum += s.data;
                }
                CHECK_EQ(sum, n == 1 ? 41 : 83);
                CHECK_EQ(mach_port_destroy(task, p), KERN_SUCCESS);
                if (from == got)
                        CHECK_EQ(mach_port_destroy(task, got), KERN_SUCCESS);
        }
        CHECK_EQ(mach_port_destroy(task, to), KERN_SUCCESS);
        wharf_mach_close();
}

TEST(out_of_line_memory_is_moved_or_shared)
{
        enum { BYTES = 1 << 20 };
        mach_port_t task = mach_task_self(), to = port_new(0);
        for (int turn = 0; turn < 3; turn++) { /* moved, shared, and of malloc()'s making */
                void *at;
                if (turn < 2)
                        CHECK_EQ(vm_allocate(task, &at, BYTES, 1), KERN_SUCCESS);
                else
                        at = malloc(BYTES);
                memset(at, 7, BYTES);
                struct with_memory m = {
                        .header = {.msgh_bits = MACH_MSGH_BITS(MACH_MSG_TYPE_COPY_SEND, 0) | MACH_MSGH_BITS_COMPLEX,
                                   .msgh_remote_port = to},
                        .body = {1},
                        .memory = {.address = at,
                                   .size = BYTES,
                                   .deallocate = turn == 0,
                                   .type = MACH_MSG_OOL_DESCRIPTOR},
                };
                CHECK_EQ(mach_msg(&m.header, MACH_SEND_MSG, sizeof m, 0, 0, 0, 0), MACH_MSG_SUCCESS);
                CHECK_EQ(mach_msg(&m.header, MACH_RCV_MSG, 0, sizeof m, to, 0, 0), MACH_MSG_SUCCESS);
                CHECK_EQ(m.memory.size, BYTES);
                char *got = m.memory.address;
                for (int i = 0; i < BYTES; i += 4096)
                        CHECK_EQ(got[i], 7);
                got[0] = 8;
                if (turn)
                        CHECK_EQ(*(char *)at, 7);
                CHECK_EQ(vm_deallocate(task, got, BYTES), KERN_SUCCESS);
                CHECK_EQ(vm_deallocate(task, got, BYTES), KERN_INVALID_ARGUMENT);
                CHECK_EQ(vm_deallocate(task, at, BYTES), turn == 1 ? KERN_SUCCESS : KERN_INVALID_ARGUMENT);
                if (turn == 2)
                        free(at);
        }
        CHECK_EQ(mach_port_destroy(task, to), KERN_SUCCESS);
        wharf_mach_close();
}

TEST(mach_msg_with_each_of_its_options)
{
        mach_port_t task = mach_task_self(), p = port_new(1), other;
        struct simple m;
        CHECK_EQ(mach_msg(&m.header, MACH_RCV_MSG | MACH_RCV_TIMEOUT, 0, sizeof m, p, 0, 0), MACH_RCV_TIMED_OUT);
        CHECK_EQ(mach_msg(&m.header, MACH_RCV_MSG | MACH_RCV_TIMEOUT, 0, sizeof m, p, 1, 0), MACH_RCV_TIMED_OUT);
        CHECK_EQ(send_simple(p, MACH_MSG_TYPE_COPY_SEND, 0, 0, 1, 0, 0), MACH_MSG_SUCCESS);
        CHECK_EQ(send_simple(p, MACH_MSG_TYPE_COPY_SEND, 0, 0, 2, MACH_SEND_TIMEOUT, 0), MACH_SEND_TIMED_OUT);
        CHECK_EQ(send_simple(p, MACH_MSG_TYPE_COPY_SEND, 0, 0, 2, MACH_SEND_TIMEOUT, 1), MACH_SEND_TIMED_OUT);
        /* Too large for the buffer: with MACH_RCV_LARGE it stays, without it is lost. */
        CHECK_EQ(mach_msg(&m.header, MACH_RCV_MSG | MACH_RCV_LARGE, 0, sizeof m.header, p, 0, 0), MACH_RCV_TOO_LARGE);
        CHECK_EQ(m.header.msgh_size, SIMPLE);
        CHECK_EQ(mach_msg(&m.header, MACH_RCV_MSG, 0, sizeof m.header, p, 0, 0), MACH_RCV_TOO_LARGE);
        CHECK_EQ(mach_msg(&m.header, MACH_RCV_MSG | MACH_RCV_TIMEOUT, 0, sizeof m, p, 0, 0), MACH_RCV_TIMED_OUT);
        /* What cannot be sent: nothing is, and every right stays. */
        CHECK_EQ(send_simple(p, 0, 0, 0, 1, 0, 0), MACH_SEND_INVALID_HEADER);
        CHECK_EQ(send_simple(12345, MACH_MSG_TYPE_COPY_SEND, 0, 0, 1, 0, 0), MACH_SEND_INVALID_DEST);
        CHECK_EQ(send_simple(p, MACH_MSG_TYPE_COPY_SEND, 0, MACH_MSG_TYPE_MAKE_SEND, 1, 0, 0),
                 MACH_SEND_INVALID_HEADER);
        CHECK_EQ(send_simple(p, MACH_MSG_TYPE_COPY_SEND, 999, MACH_MSG_TYPE_COPY_SEND, 1, 0, 0),
                 MACH_SEND_INVALID_REPLY);
        CHECK_EQ(mach_msg(&m.header, MACH_SEND_MSG, 3, 0, 0, 0, 0), MACH_SEND_MSG_TOO_SMALL);
        CHECK_EQ(mach_msg(&m.header, MACH_RCV_MSG, 0, sizeof m, 777, 0, 0), MACH_RCV_INVALID_NAME);
        CHECK_EQ(refs(p, MACH_PORT_RIGHT_SEND), 1);
        /* Sets. */
        mach_port_t set;
        CHECK_EQ(mach_port_allocate(task, MACH_PORT_RIGHT_PORT_SET, &set), KERN_SUCCESS);
        CHECK_EQ(mach_port_move_member(task, p, set), KERN_SUCCESS);
        CHECK_EQ(mach_msg(&m.header, MACH_RCV_MSG, 0, sizeof m, p, 0, 0), MACH_RCV_IN_SET);
        CHECK_EQ(send_simple(p, MACH_MSG_TYPE_COPY_SEND, 0, 0, 9, 0, 0), MACH_MSG_SUCCESS);
        CHECK_EQ(receive(set, &m, 0), MACH_MSG_SUCCESS);
        CHECK_EQ(m.header.msgh_local_port, p);
        CHECK_EQ(mach_port_move_member(task, p, MACH_PORT_NULL), KERN_SUCCESS);
        CHECK_EQ(mach_port_move_member(task, p, MACH_PORT_NULL), KERN_NOT_IN_SET);
        CHECK_EQ(mach_port_destroy(task, set), KERN_SUCCESS);
        /* A right to the dead. */
        mach_msg_type_name_t kind;
        mach_port_type_t type;
        CHECK_EQ(mach_port_extract_right(task, p, MACH_MSG_TYPE_MAKE_SEND, &other, &kind), KERN_SUCCESS);
        CHECK_EQ(mach_port_destroy(task, p), KERN_SUCCESS);
        CHECK_EQ(send_simple(other, MACH_MSG_TYPE_COPY_SEND, 0, 0, 1, 0, 0), MACH_SEND_INVALID_DEST);
        CHECK_EQ(mach_port_type(task, other, &type), KERN_SUCCESS);
        CHECK_EQ(type, MACH_PORT_TYPE_DEAD_NAME);
        CHECK_EQ(mach_port_deallocate(task, other), KERN_SUCCESS);
        wharf_mach_close();
}

TEST(a_message_is_left_to_be_sent_later_with_a_notice_when_it_was)
{
        mach_port_t task = mach_task_self(), p = port_new(1), notify = mach_reply_port();
        mach_port_notification_t n;
        struct simple m = {.header = {.msgh_bits = MACH_MSGH_BITS(MACH_MSG_TYPE_COPY_SEND, 0), .msgh_remote_port = p}};
        static const mach_msg_return_t want[] = {MACH_MSG_SUCCESS, MACH_SEND_WILL_NOTIFY, MACH_SEND_NOTIFY_IN_PROGRESS};
        for (int i = 0; i < 3; i++) {
                m.data = i;
                CHECK_EQ(mach_msg(&m.header, MACH_SEND_MSG | MACH_SEND_TIMEOUT | MACH_SEND_NOTIFY, SIMPLE, 0, 0, 0,
                                  notify),
                         want[i]);
        }
        CHECK_EQ(mach_msg(&m.header, MACH_SEND_MSG | MACH_SEND_TIMEOUT | MACH_SEND_NOTIFY, SIMPLE, 0, 0, 0, p + 9999),
                 MACH_SEND_INVALID_NOTIFY);
        CHECK_EQ(mach_msg(&n.not_header, MACH_RCV_MSG | MACH_RCV_TIMEOUT, 0, sizeof n, notify, 0, 0),
                 MACH_RCV_TIMED_OUT);
        for (int i = 0; i < 2; i++) {
                CHECK_EQ(receive(p, &m, 0), MACH_MSG_SUCCESS);
                CHECK_EQ(m.data, i);
        }
        CHECK_EQ(mach_msg(&n.not_header, MACH_RCV_MSG, 0, sizeof n, notify, 0, 0), MACH_MSG_SUCCESS);
        CHECK_EQ(n.not_header.msgh_id, MACH_NOTIFY_MSG_ACCEPTED);
        CHECK_EQ(n.not_port, p);
        CHECK_EQ(mach_port_destroy(task, p), KERN_SUCCESS);
        CHECK_EQ(mach_port_destroy(task, notify), KERN_SUCCESS);

        wharf_mach_close();
}

TEST(notices_come_as_machs_messages)
{
        mach_port_t task = mach_task_self(), p = port_new(0), notify = mach_reply_port(), right, previous;
        mach_msg_type_name_t kind;
        mach_port_notification_t n;
        CHECK_EQ(mach_port_request_notification(task, p, MACH_NOTIFY_DEAD_NAME, 0, notify, MACH_MSG_TYPE_MAKE_SEND_ONCE,
                                                &previous),
                 KERN_SUCCESS);
        CHECK_EQ(mach_port_request_notification(task, p, MACH_NOTIFY_DEAD_NAME, 0, notify, MACH_MSG_TYPE_MAKE_SEND_ONCE,
                                                &previous),
                 KERN_NAME_EXISTS);
        CHECK_EQ(mach_port_mod_refs(task, p, MACH_PORT_RIGHT_RECEIVE, -1), KERN_SUCCESS);
        CHECK_EQ(mach_msg(&n.not_header, MACH_RCV_MSG, 0, sizeof n, notify, 0, 0), MACH_MSG_SUCCESS);
        CHECK_EQ(n.not_header.msgh_id, MACH_NOTIFY_DEAD_NAME);
        CHECK_EQ(n.not_port, p);
        CHECK_EQ(mach_port_deallocate(task, p), KERN_SUCCESS);

        p = port_new(0);
        CHECK_EQ(mach_port_request_notification(task, p, MACH_NOTIFY_NO_SENDERS, 1, notify,
                                                MACH_MSG_TYPE_MAKE_SEND_ONCE, &previous),
                 KERN_SUCCESS);
        CHECK_EQ(mach_port_deallocate(task, p), KERN_SUCCESS);
        struct simple s; /* the library learns of the last sender's end by receiving */
        CHECK_EQ(mach_msg(&s.header, MACH_RCV_MSG | MACH_RCV_TIMEOUT, 0, sizeof s, p, 0, 0), MACH_RCV_TIMED_OUT);
        CHECK_EQ(mach_msg(&n.not_header, MACH_RCV_MSG, 0, sizeof n, notify, 0, 0), MACH_MSG_SUCCESS);
        CHECK_EQ(n.not_header.msgh_id, MACH_NOTIFY_NO_SENDERS);
        CHECK_EQ(n.not_port, p);
        CHECK_EQ(n.not_count, 1);

        CHECK_EQ(mach_port_extract_right(task, p, MACH_MSG_TYPE_MAKE_SEND_ONCE, &right, &kind), KERN_SUCCESS);
        CHECK_EQ(mach_port_deallocate(task, right), KERN_SUCCESS);
        CHECK_EQ(mach_msg(&n.not_header, MACH_RCV_MSG, 0, sizeof n, p, 0, 0), MACH_MSG_SUCCESS);
        CHECK_EQ(n.not_header.msgh_id, MACH_NOTIFY_SEND_ONCE);

        /* A receive right comes back when it is destroyed. */
        mach_port_t heir = port_new(0), lost = port_new(0);
        CHECK_EQ(mach_port_request_notification(task, lost, MACH_NOTIFY_PORT_DESTROYED, 0, heir,
                                                MACH_MSG_TYPE_MAKE_SEND_ONCE, &previous),
                 KERN_SUCCESS);
        CHECK_EQ(send_simple(lost, MACH_MSG_TYPE_COPY_SEND, 0, 0, 31, 0, 0), MACH_MSG_SUCCESS);
        CHECK_EQ(mach_port_mod_refs(task, lost, MACH_PORT_RIGHT_RECEIVE, -1), KERN_SUCCESS);
        CHECK_EQ(mach_msg(&n.not_header, MACH_RCV_MSG, 0, sizeof n, heir, 0, 0), MACH_MSG_SUCCESS);
        CHECK_EQ(n.not_header.msgh_id, MACH_NOTIFY_PORT_DESTROYED);
        CHECK_EQ(receive(n.not_port, &s, 0), MACH_MSG_SUCCESS);
        CHECK_EQ(s.data, 31);
        CHECK_EQ(mach_port_destroy(task, n.not_port), KERN_SUCCESS);
        CHECK_EQ(mach_port_destroy(task, heir), KERN_SUCCESS);
        CHECK_EQ(mach_port_deallocate(task, lost), KERN_SUCCESS);
        CHECK_EQ(mach_port_destroy(task, p), KERN_SUCCESS);
        CHECK_EQ(mach_port_destroy(task, notify), KERN_SUCCESS);
        wharf_mach_close();
}

TEST(what_is_no_message_of_machs_is_skipped_or_shown_as_what_it_is)
{
        mach_port_t task = mach_task_self(), p = mach_reply_port(), right;
        mach_msg_type_name_t kind;
        wharf_task *t = wharf_mach_task();
        struct simple m;
        CHECK_EQ(mach_port_extract_right(task, p, MACH_MSG_TYPE_MAKE_SEND, &right, &kind), KERN_SUCCESS);
        /* Says it is Mach's and is not: too short, counts that lie, rights that did not come. */
        struct with_port lies[] = {
                {.header.msgh_bits = MACH_MSGH_BITS(0, MACH_MSG_TYPE_MAKE_SEND)},
                {.header.msgh_bits = MACH_MSGH_BITS_COMPLEX, .body = {1}},
                {.header.msgh_bits = MACH_MSGH_BITS_COMPLEX, .body = {UINT32_MAX}},
                {.header.msgh_bits = MACH_MSGH_BITS_COMPLEX, .body = {63}, .port = {.type = 200}},
        };
        for (unsigned i = 0; i < 4; i++)
                CHECK_EQ(wharf_sendmsg(t, right, &MSG(.id = 0x4d616368u, .data = &lies[i], .len_bytes = sizeof lies[i]),
                                       0),
                         0);
        CHECK_EQ(wharf_sendmsg(t, right, &MSG(.id = 0x4d616368u, .data = lies, .len_bytes = 5), 0), 0);
        struct wharf_item surplus = {.kind = WHARF_MAKE_SEND, .name = p};
        CHECK_EQ(wharf_sendmsg(t, right,
                               &MSG(.id = 0x4d616368u, .data = &(mach_msg_header_t){0},
                                    .len_bytes = sizeof(mach_msg_header_t), .items = &surplus, .n_items = 1),
                               0),
                 0);
        /* Of a program that knows nothing of Mach. */
        int data = 1234;
        CHECK_EQ(wharf_sendmsg(t, right,
                               &MSG(.id = 5, .data = &data, .len_bytes = sizeof data, .items = &surplus, .n_items = 1),
                               0),
                 0);
        CHECK_EQ(receive(p, &m, 0), MACH_MSG_SUCCESS);
        CHECK_EQ(m.header.msgh_id, 5);
        CHECK_EQ(m.data, 1234);
        CHECK_EQ(MACH_MSGH_BITS_REMOTE(m.header.msgh_bits), MACH_MSG_TYPE_PORT_SEND);
        CHECK_EQ(mach_port_deallocate(task, m.header.msgh_remote_port), KERN_SUCCESS);
        CHECK_EQ(mach_msg(&m.header, MACH_RCV_MSG | MACH_RCV_TIMEOUT, 0, sizeof m, p, 0, 0), MACH_RCV_TIMED_OUT);
        CHECK_EQ(mach_port_deallocate(task, right), KERN_SUCCESS);
        CHECK_EQ(mach_port_destroy(task, p), KERN_SUCCESS);
        wharf_mach_close();
}

/*
 * Goal:   whoever sends what is no message of Mach's, whatever its id says, keeps no receive past its deadline.
 * Method: so many that passing over them all takes longer; a message of Mach's behind them is received in time.
 */
TEST_TIMEOUT(what_is_no_message_of_machs_ends_no_receive_late, 60)
{
        enum { MANY = 50000 };
        mach_port_t p = port_new(65536), right;
        mach_msg_type_name_t kind;
        struct simple m;
        wharf_task *t = wharf_mach_task();
        CHECK_EQ(mach_port_extract_right(mach_task_self(), p, MACH_MSG_TYPE_MAKE_SEND, &right, &kind), KERN_SUCCESS);
        for (int i = 0; i < MANY; i++)
                CHECK_EQ(wharf_sendmsg(t, right, &MSG(.id = 0x4d616368u, .data = &i, .len_bytes = sizeof i), 0), 0);
        CHECK_EQ(send_simple(right, MACH_MSG_TYPE_COPY_SEND, 0, 0, 5, 0, 0), MACH_MSG_SUCCESS);
        for (mach_msg_timeout_t ms = 0; ms < 2; ms++)
                CHECK_EQ(mach_msg(&m.header, MACH_RCV_MSG | MACH_RCV_TIMEOUT, 0, sizeof m, p, ms, 0),
                         MACH_RCV_TIMED_OUT);
        CHECK_EQ(receive(p, &m, 0), MACH_MSG_SUCCESS);
        CHECK_EQ(m.data, 5);
        CHECK_EQ(mach_port_deallocate(mach_task_self(), right), KERN_SUCCESS);
        CHECK_EQ(mach_port_destroy(mach_task_self(), p), KERN_SUCCESS);
        wharf_mach_close();
}

/* ---- who sent it ---- */

struct deputy {
        struct hub victim, hub;
        struct stage go;
        uid_t uid; /* of whoever gives it its right */
};

/* Sends what it is told to over the right that it is given: with its own name. */
static int speaks_for_another(void *arg)
{
        struct deputy *d = arg;
        wharf_task *t;
        wharf_name port;
        struct wharf_item item;
        mach_msg_header_t text = {.msgh_size = sizeof text, .msgh_id = 77};
        struct wharf_msg m = MSG(.items = &item, .cap_items = 1);
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_port_listen(t, port, d->hub.listen_fd), 0);
        CHECK_EQ(wharf_recvmsg(t, port, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(wharf_sendmsg(t, item.name, &MSG(.id = 0x4d616368u, .data = &text, .len_bytes = sizeof text),
                               WHARF_FOREVER),
                 0);
        stage_await(&d->go);
        wharf_task_close(t);
        return 0;
}
static int gives_it_a_right(void *arg)
{
        struct deputy *d = arg;
        wharf_name victim, to;
        if (d->uid)
                CHECK_EQ(setresuid(d->uid, d->uid, d->uid), 0);
        wharf_task *t = hub_join(&d->victim, &victim);
        CHECK_EQ(wharf_right_connect(t, d->hub.path, &to), 0);
        struct wharf_item item = {.kind = WHARF_COPY_SEND, .name = victim};
        CHECK_EQ(wharf_sendmsg(t, to, &MSG(.items = &item, .n_items = 1), WHARF_FOREVER), 0);
        stage_await(&d->go);
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   the trailer names who sent a message only if nobody but the same user gave it its right.
 * Method: a deputy of root, with a right that root gave it, and with one of another user.
 */
TEST(the_trailer_names_nobody_who_may_have_been_made_to_speak)
{
        if (geteuid())
                return;
        for (uid_t uid = 0; uid <= 1002; uid += 1002) {
                struct deputy d = {.victim = hub_open(NULL), .hub = hub_open(NULL), .go = stage_new(), .uid = uid};
                struct simple m;
                mach_port_t p = mach_reply_port();
                for (int i = 0; i < 2; i++) { /* the sockets are what is needed of them */
                        struct hub *h = i ? &d.hub : &d.victim;
                        CHECK_EQ(wharf_port_listen(h->task, h->port, -1), 0);
                        wharf_task_close(h->task);
                        h->task = NULL;
                }
                pid_t deputy = test_fork(speaks_for_another, &d), giver = test_fork(gives_it_a_right, &d);
                CHECK_EQ(wharf_port_listen(wharf_mach_task(), p, d.victim.listen_fd), 0);
                CHECK_EQ(receive(p, &m, MACH_RCV_TRAILER_SENDER), MACH_MSG_SUCCESS);
                mach_msg_security_trailer_t trailer;
                memcpy(&trailer, (uint8_t *)&m + m.header.msgh_size, sizeof trailer);
                CHECK_EQ(trailer.msgh_trailer_size, sizeof trailer);
                CHECK_EQ(trailer.pid, uid ? 0 : deputy);
                CHECK_EQ(trailer.uid, uid ? (uid_t)-1 : 0);
                CHECK_EQ(trailer.gid, uid ? (gid_t)-1 : 0);
                stage_reach(&d.go);
                stage_reach(&d.go);
                CHECK_EQ(test_wait(giver), 0);
                CHECK_EQ(test_wait(deputy), 0);
                CHECK_EQ(mach_port_destroy(mach_task_self(), p), KERN_SUCCESS);
                wharf_mach_close();
                stage_done(&d.go);
                close(d.victim.listen_fd);
                close(d.hub.listen_fd);
        }
}

static int begins_anew(void *arg)
{
        mach_port_t parents = *(mach_port_t *)arg;
        mach_port_type_t type;
        CHECK_EQ(mach_port_type(mach_task_self(), parents, &type), KERN_INVALID_NAME);
        mach_port_t p = port_new(0);
        struct simple m;
        CHECK_EQ(send_simple(p, MACH_MSG_TYPE_COPY_SEND, 0, 0, 3, 0, 0), MACH_MSG_SUCCESS);
        CHECK_EQ(receive(p, &m, 0), MACH_MSG_SUCCESS);
        CHECK_EQ(mach_port_destroy(mach_task_self(), p), KERN_SUCCESS);
        wharf_mach_close();
        return 0;
}

TEST(a_forked_child_begins_anew)
{
        mach_port_t ports[40]; /* so that the child has not the same name for something of its own */
        for (int i = 0; i < 40; i++)
                ports[i] = port_new(0);
        CHECK_EQ(test_wait(test_fork(begins_anew, &ports[39])), 0);
        for (int i = 0; i < 40; i++)
                CHECK_EQ(mach_port_destroy(mach_task_self(), ports[i]), KERN_SUCCESS);
        wharf_mach_close();
}

/* Goal: a receive right in the place of a reply port, from whoever does not speak Mach's words, leaves nothing here. */
TEST(no_receive_right_comes_as_a_reply_port)
{
        wharf_task *t = wharf_mach_task();
        wharf_name moved, right;
        struct simple m;
        mach_port_t p = port_new(0);
        CHECK_EQ(wharf_port_new(t, NULL, &moved), 0);
        CHECK_EQ(wharf_right_new(t, p, &right), 0);
        struct wharf_item it = {.kind = WHARF_MOVE_RECEIVE, .name = moved};
        CHECK_EQ(wharf_sendmsg(t, right, &MSG(.items = &it, .n_items = 1), 0), 0);
        CHECK_EQ(mach_msg(&m.header, MACH_RCV_MSG | MACH_RCV_TIMEOUT, 0, sizeof m, p, 50, MACH_PORT_NULL),
                 MACH_RCV_TOO_LARGE);
        CHECK_EQ(wharf_drop(t, right), 0);
        CHECK_EQ(mach_port_destroy(mach_task_self(), p), KERN_SUCCESS);
        wharf_mach_close();
}
