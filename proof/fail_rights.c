/*
 * What can be done with rights: a receive right moves, rights are copied, used once, taken back, asked about; memory is
 * given away. The world refuses each step of it. One task holds both ends.
 */
#include "port.h"

#include <wharf/memory.h>
#include <wharf/spawn.h>

enum { UNREAD = 3, MEMORY_BYTES = 3 * 4096 };

/* A moving port and what leads to it, beside the home port, right and task of port.h. */
static wharf_name moving, sender, second, memory, once;
static uint64_t sender_id;

static struct port_state *st(struct proof *p)
{
        return p->state;
}

/* Sends and receives until a lane is attached and everybody has what it keeps. */
static void warm(struct proof *p, wharf_name right, wharf_name port)
{
        struct wharf_sender from;
        for (int i = 0; i < 40; i++) {
                PROOF_EQ(p, wharf_send(st(p)->task, right, "w", 1, 0), 0);
                PROOF_EQ(p, wharf_recv(st(p)->task, port, &(char){0}, 1, &from, wharf_in_ms(5000)), 1);
        }
        sender_id = from.id;
}

/* A task that has made everything once, and keeps what it keeps. */
static void setup(struct proof *p)
{
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS | WHARF_PORT_DIRECT};
        st(p)->listener = -1;
        PROOF_EQ(p, wharf_task_open(NULL, &st(p)->task), 0);
        PROOF_EQ(p, wharf_port_new(st(p)->task, &o, &moving), 0);
        PROOF_EQ(p, wharf_right_new(st(p)->task, moving, &sender), 0);
        warm(p, sender, moving);
        PROOF_EQ(p, wharf_port_new(st(p)->task, &o, &st(p)->port), 0);
        PROOF_EQ(p, wharf_right_new(st(p)->task, st(p)->port, &st(p)->right), 0);
        warm(p, st(p)->right, st(p)->port);
}

static int send_item(struct proof *p, wharf_name right, uint32_t kind, wharf_name name)
{
        struct wharf_item item = {.kind = kind, .name = name};
        struct wharf_msg m = {.size = sizeof m, .items = &item, .n_items = 1};
        return wharf_sendmsg(st(p)->task, right, &m, 0);
}

/* One message with one right, of this kind. The engine may have a received item come once only. */
static int receive_item(struct proof *p, wharf_name port, uint32_t kind, int64_t deadline_ns, wharf_name *ret)
{
        struct wharf_item item;
        struct wharf_msg m = {.size = sizeof m, .items = &item, .cap_items = 1};
        int r = wharf_recvmsg(st(p)->task, port, &m, deadline_ns);
        if (r < 0)
                return r;
        PROOF_EQ(p, m.n_items, 1);
        PROOF_EQ(p, item.kind, kind);
        *ret = item.name;
        return 0;
}

/* ---- a receive right moves ---- */

static void send_unread(struct proof *p)
{
        for (int i = 0; i < UNREAD; i++)
                PROOF_EQ(p, wharf_send(st(p)->task, sender, (char[]){(char)i}, 1, 0), 0);
}

static void setup_unread(struct proof *p)
{
        setup(p);
        send_unread(p);
}

static int move_away(struct proof *p)
{
        return send_item(p, st(p)->right, WHARF_MOVE_RECEIVE, moving);
}

static void not_moved(struct proof *p)
{
        PROOF_EQ(p, wharf_name_kind(st(p)->task, moving), WHARF_KIND_PORT);
}

static int adopt(struct proof *p)
{
        return receive_item(p, st(p)->port, WHARF_GOT_RECEIVE, 0, &moving);
}

/* All that was unread is there, in order and once; and the sender goes on. */
static void audit_moving(struct proof *p)
{
        char c = 0;
        for (int i = 0; i < UNREAD; i++) {
                PROOF_EQ(p, wharf_recv(st(p)->task, moving, &c, 1, NULL, wharf_in_ms(5000)), 1);
                PROOF_EQ(p, c, i);
        }
        for (int i = 0; i < 40; i++) {
                PROOF_EQ(p, wharf_send(st(p)->task, sender, "x", 1, 0), 0);
                PROOF_EQ(p, wharf_recv(st(p)->task, moving, &c, 1, NULL, wharf_in_ms(5000)), 1);
                PROOF_EQ(p, c, 'x');
        }
        PROOF_EQ(p, wharf_recv(st(p)->task, moving, &c, 1, NULL, 0), -EAGAIN);
}

static void audit_moved(struct proof *p)
{
        PROOF_EQ(p, receive_item(p, st(p)->port, WHARF_GOT_RECEIVE, wharf_in_ms(5000), &moving), 0);
        audit_moving(p);
}

static void setup_sent(struct proof *p)
{
        setup_unread(p);
        PROOF_EQ(p, move_away(p), 0);
}

/* The new owner has looked, and sleeps: what is sent now rings, and sees that there is a new owner. */
static void setup_arrived(struct proof *p)
{
        setup(p);
        PROOF_EQ(p, move_away(p), 0);
        PROOF_EQ(p, adopt(p), 0);
        PROOF_EQ(p, wharf_port_fd(st(p)->task, moving, &st(p)->poll_fd), 0);
        PROOF_EQ(p, wharf_recv(st(p)->task, moving, &(char){0}, 1, NULL, 0), -EAGAIN);
}

static void setup_gone_over(struct proof *p)
{
        setup_arrived(p);
        for (int i = 0; i + 1 < UNREAD; i++) /* the first of these goes over to a pair of its own */
                PROOF_EQ(p, wharf_send(st(p)->task, sender, (char[]){(char)i}, 1, 0), 0);
}

/* The sender's first message to the new owner: it makes a pair of its own. */
static int send_over(struct proof *p)
{
        return wharf_send(st(p)->task, sender, "o", 1, 0);
}

static void audit_over(struct proof *p)
{
        char c = 0;
        PROOF_EQ(p, wharf_recv(st(p)->task, moving, &c, 1, NULL, wharf_in_ms(5000)), 1);
        PROOF_EQ(p, c, 'o');
        send_unread(p);
        audit_moving(p);
}

/* The new owner receives what a sender sent that has gone over. */
static int receive_over(struct proof *p)
{
        char c = 0;
        ssize_t n = wharf_recv(st(p)->task, moving, &c, 1, NULL, 0);
        if (n >= 0)
                PROOF_EQ(p, c, 0);
        return n < 0 ? (int)n : 0;
}

static void audit_rest(struct proof *p)
{
        char c = 0;
        for (int i = 1; i + 1 < UNREAD; i++) {
                PROOF_EQ(p, wharf_recv(st(p)->task, moving, &c, 1, NULL, wharf_in_ms(5000)), 1);
                PROOF_EQ(p, c, i);
        }
        send_unread(p);
        audit_moving(p);
}

/* ---- copies, rights that are used once ---- */

static int copy(struct proof *p)
{
        return wharf_right_copy(st(p)->task, sender, 0, &once);
}

static void setup_copied(struct proof *p)
{
        setup(p);
        PROOF_EQ(p, copy(p), 0);
        PROOF_EQ(p, wharf_recv(st(p)->task, moving, &(char){0}, 1, NULL, 0), -EAGAIN); /* which adopts it */
        PROOF_EQ(p, wharf_drop(st(p)->task, once), 0);
        PROOF_EQ(p, wharf_recv(st(p)->task, moving, &(char){0}, 1, NULL, 0), -EAGAIN);
        once = 0;
}

static void no_copy(struct proof *p)
{
        PROOF_EQ(p, once, 0);
}

static void audit_copied(struct proof *p)
{
        char c = 0;
        PROOF_EQ(p, wharf_send(st(p)->task, once, "c", 1, 0), 0);
        PROOF_EQ(p, wharf_recv(st(p)->task, moving, &c, 1, NULL, wharf_in_ms(5000)), 1);
        PROOF_EQ(p, c, 'c');
}

static int make_once(struct proof *p)
{
        return wharf_once_new(st(p)->task, moving, &once);
}

static void setup_once(struct proof *p)
{
        setup(p);
        PROOF_EQ(p, make_once(p), 0);
        PROOF_EQ(p, wharf_drop(st(p)->task, once), 0);
        struct wharf_msg m = {.size = sizeof m};
        PROOF_EQ(p, wharf_recvmsg(st(p)->task, moving, &m, wharf_in_ms(5000)), 0);
        PROOF_EQ(p, m.notice, WHARF_NOTICE_ONCE_UNUSED);
        once = 0;
}

static void setup_once_made(struct proof *p)
{
        setup_once(p);
        PROOF_EQ(p, make_once(p), 0);
}

static int send_once(struct proof *p)
{
        return wharf_send(st(p)->task, once, "1", 1, 0);
}

/* A dead name is used up by the message that finds it dead. */
static void still_once(struct proof *p)
{
        PROOF_EQ(p, wharf_name_kind(st(p)->task, once), p->result == -EPIPE ? -EBADF : WHARF_KIND_REPLY);
}

/* Exactly one message, and no notice that it was not used. */
static void audit_once(struct proof *p)
{
        uint8_t c = 0;
        struct wharf_msg m = {.size = sizeof m, .data = &c, .cap_bytes = 1};
        PROOF_EQ(p, wharf_name_kind(st(p)->task, once), -EBADF);
        if (p->result == -EBADF) { /* it was a dead name, as far as anybody could tell */
                PROOF_EQ(p, wharf_recvmsg(st(p)->task, moving, &m, wharf_in_ms(5000)), 0);
                PROOF_EQ(p, m.notice, WHARF_NOTICE_ONCE_UNUSED);
                return;
        }
        PROOF_EQ(p, wharf_recvmsg(st(p)->task, moving, &m, wharf_in_ms(5000)), 0);
        PROOF_EQ(p, m.notice, 0);
        PROOF_EQ(p, c, '1');
        PROOF_EQ(p, wharf_recvmsg(st(p)->task, moving, &m, 0), -EAGAIN);
}

static void audit_once_made(struct proof *p)
{
        PROOF_EQ(p, send_once(p), 0);
        audit_once(p);
}

static void not_moved_once(struct proof *p)
{
        PROOF_EQ(p, wharf_name_kind(st(p)->task, once), WHARF_KIND_REPLY);
}

static int move_once(struct proof *p)
{
        return send_item(p, st(p)->right, WHARF_MOVE_REPLY, once);
}

static void audit_once_moved(struct proof *p)
{
        PROOF_EQ(p, wharf_name_kind(st(p)->task, once), -EBADF);
        PROOF_EQ(p, receive_item(p, st(p)->port, WHARF_GOT_REPLY, wharf_in_ms(5000), &once), 0);
        audit_once_made(p);
}

static int receive_once(struct proof *p)
{
        return receive_item(p, st(p)->port, WHARF_GOT_REPLY, 0, &once);
}

static void setup_once_moved(struct proof *p)
{
        setup_once_made(p);
        PROOF_EQ(p, move_once(p), 0);
}

/* ---- taking back, and being told ---- */

static void setup_known(struct proof *p)
{
        setup(p);
        wharf_name first = moving; /* the sender whose id is known last is home's */
        moving = st(p)->port;
        st(p)->port = first;
        wharf_name right = sender;
        sender = st(p)->right;
        st(p)->right = right;
}

static int take_back(struct proof *p)
{
        return wharf_revoke(st(p)->task, moving, sender_id, 0);
}

static void not_revoked(struct proof *p)
{
        PROOF_EQ(p, wharf_send(st(p)->task, sender, "s", 1, 0), 0);
        PROOF_EQ(p, wharf_recv(st(p)->task, moving, &(char){0}, 1, NULL, wharf_in_ms(5000)), 1);
}

/* Nothing comes over it any more. */
static void audit_revoked(struct proof *p)
{
        int r;
        while ((r = wharf_send(st(p)->task, sender, "s", 1, 0)) ==
               0) /* a sender that streams looks every millisecond */
                usleep(1000);
        PROOF_CHECK(p, r == -EKEYREVOKED || (p->injected && r == -EPIPE));
        r = (int)wharf_recv(st(p)->task, moving, &(char){0}, 1, NULL, 0);
        PROOF_CHECK(p, r == -EAGAIN || r == -ENOTCONN);
}

static int ask_dead(struct proof *p)
{
        return wharf_notify(st(p)->task, WHARF_NOTICE_DEAD_NAME, sender, st(p)->port, 0);
}

static int ask_same(struct proof *p)
{
        int r = -EAGAIN;
        for (int i = 0; i < 4 && r == -EAGAIN; i++) { /* both owners look between asking and hearing */
                r = wharf_right_same(st(p)->task, sender, second, 0);
                PROOF_CHECK(p, wharf_recv(st(p)->task, moving, &(char){0}, 1, NULL, 0) < 0); /* refused, too */
        }
        return r;
}

static void setup_second(struct proof *p)
{
        setup(p);
        PROOF_EQ(p, wharf_right_new(st(p)->task, moving, &second), 0);
        warm(p, second, moving);
}

static void audit_same(struct proof *p)
{
        PROOF_CHECK(p, p->result == 1 || p->result < 0);
        for (int i = 0; i < 2; i++) { /* both still lead there */
                char c = 0;
                PROOF_EQ(p, wharf_send(st(p)->task, i ? second : sender, "s", 1, 0), 0);
                PROOF_EQ(p, wharf_recv(st(p)->task, moving, &c, 1, NULL, wharf_in_ms(5000)), 1);
                PROOF_EQ(p, c, 's');
        }
}

/* ---- a full queue: told of room, and a message that is left ---- */

static unsigned filled;

static void setup_full(struct proof *p)
{
        setup(p);
        int r;
        for (filled = 0; (r = wharf_send(st(p)->task, sender, "f", 1, 0)) == 0; filled++)
                ;
        PROOF_EQ(p, r, -EAGAIN);
}

static int ask_room(struct proof *p)
{
        return wharf_notify(st(p)->task, WHARF_NOTICE_SEND_POSSIBLE, sender, st(p)->port, 0);
}

static void drain(struct proof *p)
{
        for (; filled; filled--) {
                char c = 0;
                PROOF_EQ(p, wharf_recv(st(p)->task, moving, &c, 1, NULL, wharf_in_ms(5000)), 1);
                PROOF_EQ(p, c, 'f');
        }
}

static int send_later(struct proof *p)
{
        struct wharf_msg m = {.size = sizeof m, .flags = WHARF_SEND_LATER, .data = (char[]){'l'}, .len_bytes = 1};
        return wharf_sendmsg(st(p)->task, sender, &m, 0);
}

static void setup_left(struct proof *p)
{
        setup_full(p);
        PROOF_EQ(p, send_later(p), 1);
}

static int ask_later(struct proof *p)
{
        return wharf_notify(st(p)->task, WHARF_NOTICE_SENT_LATER, sender, st(p)->port, 0);
}

static void audit_left(struct proof *p)
{
        char c = 0;
        drain(p);
        PROOF_EQ(p, wharf_recv(st(p)->task, moving, &c, 1, NULL, wharf_in_ms(5000)), 1);
        PROOF_EQ(p, c, 'l');
        PROOF_EQ(p, wharf_recv(st(p)->task, moving, &c, 1, NULL, 0), -EAGAIN);
}

static int ask_senders(struct proof *p)
{
        return wharf_notify(st(p)->task, WHARF_NOTICE_NO_SENDERS, moving, st(p)->port, 0);
}

static void audit_told(struct proof *p, uint32_t notice, wharf_name about)
{
        struct wharf_msg m = {.size = sizeof m};
        PROOF_EQ(p, wharf_recvmsg(st(p)->task, st(p)->port, &m, wharf_in_ms(5000)), 0);
        PROOF_EQ(p, m.notice, notice);
        PROOF_EQ(p, m.about, about);
        PROOF_EQ(p, wharf_recvmsg(st(p)->task, st(p)->port, &m, 0), -EAGAIN);
}

static void audit_room(struct proof *p)
{
        drain(p);
        audit_told(p, WHARF_NOTICE_SEND_POSSIBLE, sender);
}

static void audit_later(struct proof *p)
{
        audit_left(p);
        audit_told(p, WHARF_NOTICE_SENT_LATER, sender);
}

static void audit_dead(struct proof *p)
{
        PROOF_EQ(p, wharf_drop(st(p)->task, moving), 0);
        audit_told(p, WHARF_NOTICE_DEAD_NAME, sender);
}

static void audit_senders(struct proof *p)
{
        PROOF_EQ(p, wharf_drop(st(p)->task, sender), 0);
        ssize_t n = wharf_recv(st(p)->task, moving, &(char){0}, 1, NULL, 0);
        PROOF_CHECK(p, n == -EAGAIN || n == -ENOTCONN);
        audit_told(p, WHARF_NOTICE_NO_SENDERS, moving);
}

/* ---- memory ---- */

static int new_memory(struct proof *p)
{
        return wharf_memory_new(st(p)->task, MEMORY_BYTES, &memory);
}

static void no_memory(struct proof *p)
{
        PROOF_EQ(p, memory, 0);
}

static void fill(struct proof *p)
{
        void *at;
        PROOF_EQ(p, wharf_memory_at(st(p)->task, memory, &at, NULL), 0);
        memset(at, 'm', MEMORY_BYTES);
}

static void setup_memory(struct proof *p)
{
        setup(p);
        PROOF_EQ(p, new_memory(p), 0);
        fill(p);
}

static void is_filled(struct proof *p)
{
        void *at;
        size_t bytes;
        PROOF_EQ(p, wharf_memory_at(st(p)->task, memory, &at, &bytes), 0);
        PROOF_EQ(p, bytes, MEMORY_BYTES);
        for (size_t i = 0; i < bytes; i++)
                PROOF_EQ(p, ((const char *)at)[i], 'm');
}

static void audit_memory(struct proof *p)
{
        fill(p);
        is_filled(p);
}

static int move_memory(struct proof *p)
{
        return send_item(p, st(p)->right, WHARF_MOVE_MEMORY, memory);
}

static int copy_memory(struct proof *p)
{
        return send_item(p, st(p)->right, WHARF_COPY_MEMORY, memory);
}

static int receive_memory(struct proof *p)
{
        return receive_item(p, st(p)->port, WHARF_GOT_MEMORY, 0, &memory);
}

static void audit_memory_moved(struct proof *p)
{
        PROOF_EQ(p, wharf_name_kind(st(p)->task, memory), -EBADF);
        PROOF_EQ(p, receive_memory(p), 0);
        is_filled(p);
        fill(p);
}

/* Whoever writes, the other does not see it. */
static void audit_memory_copied(struct proof *p)
{
        wharf_name mine = memory;
        void *at;
        is_filled(p);
        PROOF_EQ(p, receive_memory(p), 0);
        PROOF_EQ(p, wharf_memory_at(st(p)->task, mine, &at, NULL), 0);
        *(char *)at = 'n';
        is_filled(p);
        PROOF_EQ(p, wharf_memory_at(st(p)->task, memory, &at, NULL), 0);
        *(char *)at = 'o';
        PROOF_EQ(p, wharf_memory_at(st(p)->task, mine, &at, NULL), 0);
        PROOF_EQ(p, *(char *)at, 'n');
}

static void setup_memory_sent(struct proof *p)
{
        setup_memory(p);
        PROOF_EQ(p, move_memory(p), 0);
}

/* -EAGAIN: a refused poll of a socket looks like an empty queue. */
/* ---- a payload that is read where it is; a program that is started ---- */

static struct wh_outgoing direct;
static uint8_t direct_bytes[9000];

static int offer_directly(struct proof *p)
{
        memset(direct_bytes, 'd', sizeof direct_bytes);
        wh_outgoing_init(&direct, direct_bytes, sizeof direct_bytes);
        direct.asked = WHARF_HOW_DIRECT;
        int r = port_offer(p, st(p)->right, &direct);
        return r == -EAGAIN ? 0 : r;
}

static void setup_offered(struct proof *p)
{
        setup(p);
        PROOF_EQ(p, offer_directly(p), 0);
}

/* Where it cannot be read, it is refused, and its sender sends it another way. */
static int receive_directly(struct proof *p)
{
        struct wharf_msg m = {.size = sizeof m, .flags = WHARF_RECV_ALLOC};
        int r = wharf_recvmsg(st(p)->task, st(p)->port, &m, 0);
        if (r == -EAGAIN && p->injected) {
                int again = port_offer(p, st(p)->right, &direct);
                if (again == -EFAULT) /* it could not be read: its sender is told so, and there is nothing to receive */
                        return 0;
                PROOF_CHECK(p,
                            again == 0 || again == -ENOMEM || again == -EMFILE || again == -EPIPE || again == -EAGAIN);
                r = wharf_recvmsg(st(p)->task, st(p)->port, &m, 0);
        }
        if (r < 0)
                return r;
        PROOF_EQ(p, m.len_bytes, sizeof direct_bytes);
        for (size_t i = 0; i < m.len_bytes; i++)
                PROOF_EQ(p, ((uint8_t *)m.data)[i], 'd');
        wharf_release(st(p)->task, &m);
        return 0;
}

static int start_program(struct proof *p)
{
        static char program[] = "/bin/true", *argv[] = {program, NULL};
        struct wharf_given give = {.name = "port", .item = {.kind = WHARF_MAKE_SEND, .name = moving}};
        struct wharf_spawn_opts o = {.size = sizeof o, .argv = argv, .given = &give, .n_given = 1};
        struct wharf_child child = {.size = sizeof child};
        int status = -1, r = wharf_spawn(st(p)->task, &o, 0, &child);
        if (r < 0) {
                PROOF_EQ(p, child.pid, 0);
                return r;
        }
        PROOF_EQ(p, wharf_child_wait(&child, wharf_in_ms(15000), &status), 0);
        PROOF_EQ(p, status, 0);
        return 0;
}

/* -ETOOMANYREFS: the carrier's socket takes no more. -EBADF: a right that was used up. */
static const int errors[] = {-EAGAIN, -ENOMEM, -EMFILE, -EPIPE, -ETOOMANYREFS, -EBADF, -EOPNOTSUPP, 0};
#define RIGHTS_OP .state_bytes = sizeof(struct port_state), .teardown = port_teardown, .errors = errors
static const struct proof_op ops[] = {
        {.name = "move",
         .setup = setup_unread,
         .victim = move_away,
         .unchanged = not_moved,
         .audit = audit_moved,
         RIGHTS_OP},
        {.name = "adopt",
         .progress = true,
         .setup = setup_sent,
         .victim = adopt,
         .audit = audit_moving,
         .keeps_fds = 1,
         .believes = true,
         RIGHTS_OP},
        {.name = "send-over",
         .progress = true,
         .setup = setup_arrived,
         .victim = send_over,
         .audit = audit_over,
         RIGHTS_OP},
        {.name = "receive-over",
         .progress = true,
         .setup = setup_gone_over,
         .victim = receive_over,
         .audit = audit_rest,
         RIGHTS_OP},
        {.name = "copy", .setup = setup_copied, .victim = copy, .unchanged = no_copy, .audit = audit_copied, RIGHTS_OP},
        {.name = "once",
         .setup = setup_once,
         .victim = make_once,
         .unchanged = no_copy,
         .audit = audit_once_made,
         RIGHTS_OP},
        {.name = "once-send",
         .setup = setup_once_made,
         .victim = send_once,
         .unchanged = still_once,
         .audit = audit_once,
         .progress = true,
         RIGHTS_OP},
        {.name = "once-move",
         .setup = setup_once_made,
         .victim = move_once,
         .unchanged = not_moved_once,
         .audit = audit_once_moved,
         RIGHTS_OP},
        {.name = "once-receive",
         .progress = true,
         .setup = setup_once_moved,
         .victim = receive_once,
         .audit = audit_once_made,
         RIGHTS_OP},
        {.name = "revoke",
         .setup = setup_known,
         .victim = take_back,
         .unchanged = not_revoked,
         .audit = audit_revoked,
         RIGHTS_OP},
        {.name = "notice-dead", .setup = setup, .victim = ask_dead, .audit = audit_dead, RIGHTS_OP},
        {.name = "notice-senders", .setup = setup, .victim = ask_senders, .audit = audit_senders, RIGHTS_OP},
        {.name = "same", .progress = true, .setup = setup_second, .victim = ask_same, .audit = audit_same, RIGHTS_OP},
        {.name = "notice-room", .setup = setup_full, .victim = ask_room, .audit = audit_room, RIGHTS_OP},
        {.name = "notice-later", .setup = setup_left, .victim = ask_later, .audit = audit_later, RIGHTS_OP},
        {.name = "memory",
         .setup = setup,
         .victim = new_memory,
         .unchanged = no_memory,
         .audit = audit_memory,
         RIGHTS_OP},
        {.name = "memory-move",
         .setup = setup_memory,
         .victim = move_memory,
         .unchanged = is_filled,
         .audit = audit_memory_moved,
         .unshares = true,
         .progress = true,
         RIGHTS_OP},
        {.name = "memory-copy",
         .progress = true,
         .setup = setup_memory,
         .victim = copy_memory,
         .unchanged = is_filled,
         .audit = audit_memory_copied,
         .unshares = true,
         RIGHTS_OP},
        {.name = "memory-receive",
         .progress = true,
         .setup = setup_memory_sent,
         .victim = receive_memory,
         .audit = is_filled,
         .keeps_fds = 1,
         .believes = true,
         RIGHTS_OP},
        {.name = "direct-receive", .progress = true, .setup = setup_offered, .victim = receive_directly, RIGHTS_OP},
        {.name = "spawn", .progress = true, .setup = setup, .victim = start_program, RIGHTS_OP},
        {0},
};
PROOF_FAIL("rights", ops)
