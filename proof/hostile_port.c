/*
 * The other end of a link lies: in its lane and sections, in what it says it has taken, and in every frame on the
 * socket. One task holds both ends; the liar is whoever wrote what is being read. A new link to the same port is then
 * as good as ever.
 */
#include "both_ends.h"
#include "port.h"

#include "link/frame.h"

#include <sys/stat.h>

static struct port_state *st(struct proof *p)
{
        return p->state;
}

static void setup(struct proof *p)
{
        st(p)->listener = -1;
        PROOF_EQ(p, wharf_task_open(NULL, &st(p)->task), 0);
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        PROOF_EQ(p, wharf_port_new(st(p)->task, &o, &st(p)->port), 0);
        PROOF_EQ(p, wharf_right_new(st(p)->task, st(p)->port, &st(p)->right), 0);
}

enum { MESSAGES = 26 };

static void setup_sent(struct proof *p)
{
        setup(p);
        for (int i = 0; i < MESSAGES; i++)
                PROOF_EQ(p, port_send(p, 0), 0);
}

static int receive_all(struct proof *p)
{
        for (int i = 0; i < MESSAGES; i++) {
                ssize_t n = port_receive(p, 0);
                if (n < 0)
                        return (int)n;
                PROOF_CHECK(p, n <= PORT_MESSAGE_MAX);
                proof_next_call();
        }
        return 0;
}

/* Sends, and looks now and then what came back. */
static int send_all(struct proof *p)
{
        for (int i = 0; i < 2 * MESSAGES; i++) {
                int r = port_send(p, 0);
                if (r < 0)
                        return r;
                proof_next_call();
                /* The honest run receives in between, so that the sender has something to look at. */
                ssize_t n = port_receive(p, 0);
                if (n < 0)
                        return (int)n;
                proof_next_call();
        }
        return 0;
}

/* ---- rights and replies ---- */

/*
 * The shadow table: every descriptor that this process has, as it was before a message was sent. What a message
 * brings must be new: no lie makes a task's own descriptor, or one that was brought before, a right again.
 */
enum { FDS = 256 };
static struct stat held[FDS];

static void shadow_look(void)
{
        for (int fd = 0; fd < FDS; fd++)
                if (fstat(fd, &held[fd]) < 0)
                        held[fd].st_mode = 0;
}

static void shadow_granted(struct proof *p, int fd)
{
        struct stat now;
        PROOF_EQ(p, fstat(fd, &now), 0);
        if (fd >= FDS)
                return;
        /* The number may be used again, for another object. Objects without a type (epoll, eventfd) have one inode. */
        bool known = held[fd].st_ino == now.st_ino && held[fd].st_dev == now.st_dev && now.st_mode & S_IFMT;
        PROOF_CHECK(p, !known);
        held[fd] = now; /* and not twice in one message */
}

/* Was nothing changed but the number of the record that descriptors belong to? Then nobody may be given them. */
static bool of_another_record(const struct proof *p)
{
        struct wh_frame came, read;
        memcpy(&came, p->datagram_came, sizeof came);
        memcpy(&read, p->datagram_read, sizeof read);
        if (came.magic != WH_FRAME_MAGIC || came.type != WH_FRAME_ITEMS || came.seq == read.seq)
                return false; /* without the first word it is a body: any byte may lie where a head has its type */
        read.seq = came.seq;
        return !memcmp(&came, &read, sizeof came);
}

/*
 * Receives a message and gives back all that it brings; a send right is used once, which makes it the receiver's own.
 */
static int take_rights(struct proof *p, wharf_name port, unsigned n_expected)
{
        struct wharf_item items[8];
        uint8_t bytes[PORT_MESSAGE_MAX];
        wharf_name names[8] = {0};
        struct wharf_msg m = {
                .size = sizeof m, .data = bytes, .cap_bytes = sizeof bytes, .items = items, .cap_items = 8};
        int r = wharf_recvmsg(st(p)->task, port, &m, 0);
        if (r < 0)
                return r;
        PROOF_CHECK(p, !of_another_record(p));
        PROOF_CHECK(p, p->lied || m.n_items == n_expected);
        PROOF_CHECK(p, m.n_items <= 8);
        for (unsigned i = 0; i < m.n_items; i++) {
                if (items[i].kind == WHARF_GOT_FD) {
                        shadow_granted(p, items[i].fd);
                        close(items[i].fd);
                        continue;
                }
                for (unsigned j = 0; j < i; j++)
                        PROOF_CHECK(p, names[j] != items[i].name);
                names[i] = items[i].name;
                PROOF_CHECK(p, names[i] != st(p)->port && names[i] != st(p)->right && names[i] != st(p)->other);
                int kind = wharf_name_kind(st(p)->task, names[i]);
                PROOF_CHECK(p, items[i].kind == WHARF_GOT_SEND || (p->lied && items[i].kind == WHARF_GOT_REPLY));
                PROOF_EQ(p, kind, items[i].kind == WHARF_GOT_SEND ? WHARF_KIND_SEND : WHARF_KIND_REPLY);
                if (items[i].kind == WHARF_GOT_SEND)
                        r = wharf_send(st(p)->task, names[i], "used", 4, 0);
                wharf_drop(st(p)->task, names[i]);
        }
        if (m.reply)
                wharf_drop(st(p)->task, m.reply);
        return r;
}

static void setup_rights(struct proof *p)
{
        setup(p);
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        PROOF_EQ(p, wharf_port_new(st(p)->task, &o, &st(p)->other), 0);
}

/* Two messages with rights as frames, two in the lane, one in a memory of its own. */
static int send_rights(struct proof *p)
{
        static const uint8_t how[] = {WHARF_HOW_COLD, WHARF_HOW_COLD, WHARF_HOW_INLINE, WHARF_HOW_INLINE,
                                      WHARF_HOW_MEMORY};
        for (unsigned i = 0; i < sizeof how; i++) {
                int pair[2];
                shadow_look();
                PROOF_EQ(p, pipe2(pair, O_CLOEXEC), 0);
                close(pair[1]);
                struct wharf_item items[] = {{.kind = WHARF_MOVE_FD, .fd = pair[0]},
                                             {.kind = WHARF_MAKE_SEND, .name = st(p)->other},
                                             {.kind = WHARF_COPY_SEND, .name = st(p)->right}};
                uint8_t bytes[64];
                memset(bytes, 'r', sizeof bytes);
                const unsigned n = 2 + i % 2;
                struct wharf_msg m = {.size = sizeof m,
                                      .how = how[i],
                                      .data = bytes,
                                      .len_bytes = sizeof bytes,
                                      .items = items,
                                      .n_items = n};
                int r = wharf_sendmsg(st(p)->task, st(p)->right, &m, 0);
                if (r < 0)
                        close(pair[0]);
                proof_next_call();
                if (r == 0)
                        r = take_rights(p, st(p)->port, n);
                proof_next_call();
                if (r == 0)
                        r = take_rights(p, st(p)->other, 0);
                proof_next_call();
                if (r == 0 && n == 3)
                        r = take_rights(p, st(p)->port, 0); /* what the copy of its own right was used for */
                proof_next_call();
                if (r < 0)
                        return r;
        }
        return 0;
}

/* The replies come as frames, in the lane, in a memory of their own, from somebody else, or not at all. */
static int call_all(struct proof *p)
{
        for (int i = 0; i < 14; i++) {
                static uint8_t bytes[5000], back[5000], request[16];
                struct wharf_msg req = {.size = sizeof req, .data = bytes, .len_bytes = i < 3 ? 8 : 12},
                                 reply = {.size = sizeof reply, .data = back, .cap_bytes = sizeof back},
                                 got = {.size = sizeof got, .data = request, .cap_bytes = sizeof request};
                const int how = i % 4;
                const size_t len = how == 3 ? sizeof bytes : 10;
                uint32_t call;
                memset(bytes, i + 1, sizeof bytes);
                req.how = i >= 6 ? WHARF_HOW_INLINE : WHARF_HOW_AUTO;
                int r = wharf_call_start(st(p)->task, st(p)->right, &req, WHARF_NONE, 0, &call);
                proof_next_call();
                if (r < 0)
                        return r;
                r = wharf_recvmsg(st(p)->task, st(p)->port, &got, 0);
                proof_next_call();
                if (r == 0 && how == 1) {
                        /* Somebody else is to answer. */
                        struct wharf_item item = {.kind = WHARF_MOVE_REPLY, .name = got.reply};
                        struct wharf_msg on = {.size = sizeof on, .items = &item, .n_items = 1};
                        wharf_name to;
                        if ((r = wharf_right_new(st(p)->task, st(p)->other, &to)) == 0) {
                                r = wharf_sendmsg(st(p)->task, to, &on, 0);
                                struct wharf_item its = {0};
                                struct wharf_msg moved = {.size = sizeof moved, .items = &its, .cap_items = 1};
                                if (r == 0)
                                        r = wharf_recvmsg(st(p)->task, st(p)->other, &moved, 0);
                                if (r == 0 && its.kind == WHARF_GOT_REPLY)
                                        r = wharf_reply(st(p)->task, its.name, bytes, len);
                                else if (r == 0 && its.kind == WHARF_GOT_SEND)
                                        wharf_drop(st(p)->task, its.name);
                                else if (r == 0 && its.kind == WHARF_GOT_FD)
                                        close(its.fd);
                                wharf_drop(st(p)->task, to);
                        }
                } else if (r == 0 && got.reply) {
                        r = how == 2 && i > 3 ? wharf_drop(st(p)->task, got.reply)
                                              : wharf_reply(st(p)->task, got.reply, bytes, len);
                }
                proof_next_call();
                if (r == 0)
                        r = wharf_call_finish(st(p)->task, st(p)->right, call, &reply, 0);
                proof_next_call();
                if (r == 0 && !p->lied) {
                        PROOF_EQ(p, reply.len_bytes, len);
                        PROOF_CHECK(p, !memcmp(back, bytes, len));
                }
                if (!p->lied && how == 2 && i > 3) {
                        PROOF_EQ(p, r, -ECANCELED);
                        continue;
                }
                if (r < 0) {
                        wharf_call_cancel(st(p)->task, st(p)->right, call);
                        return r;
                }
        }
        return 0;
}

static void audit_new_link(struct proof *p)
{
        wharf_name right;
        PROOF_EQ(p, wharf_right_new(st(p)->task, st(p)->port, &right), 0);
        unsigned sent = 0, got = 0;
        for (int turn = 0; turn < 400 && got < PORT_N_CLEAN; turn++) {
                if (sent < PORT_N_CLEAN) {
                        PROOF_EQ(p, wharf_send(st(p)->task, right, (uint8_t[4]){PORT_CLEAN, (uint8_t)sent}, 4, 0), 0);
                        sent++;
                }
                /* Of any size: what the liar left may be large, and stays first in its queue until it is taken. */
                struct wharf_item items[WHARF_ITEMS_MAX];
                struct wharf_msg m = {
                        .size = sizeof m, .flags = WHARF_RECV_ALLOC, .items = items, .cap_items = WHARF_ITEMS_MAX};
                if (wharf_recvmsg(st(p)->task, st(p)->port, &m, 0) < 0)
                        continue;
                for (unsigned i = 0; i < m.n_items; i++)
                        if (items[i].kind == WHARF_GOT_FD)
                                close(items[i].fd);
                        else
                                wharf_drop(st(p)->task, items[i].name);
                const uint8_t *bytes = m.data;
                got += m.len_bytes == 4 && bytes[0] == PORT_CLEAN && bytes[1] == got;
                wharf_release(st(p)->task, &m);
        }
        PROOF_EQ(p, got, PORT_N_CLEAN);
}

/* -ENOMEM: for a message that claims to be larger than memory is. */
static const int errors[] = {
        -ENOMEM,          -EAGAIN,     -ENOTCONN,
        -EOVERFLOW,       -EPIPE,      -EPROTO,
        -EPROTONOSUPPORT, -EDQUOT,     -ENOBUFS,
        -EMLINK,          -EMSGSIZE,   -ECANCELED,
        -EMFILE,          -ECONNRESET, -EBADF,
        -ETOOMANYREFS,    -EOPNOTSUPP, /* a frame to a port that says that its capacity is zero */ 0};
#define PORT_OP                                                                                \
        .state_bytes = sizeof(struct port_state), .teardown = port_teardown, .errors = errors, \
        .audit = audit_new_link, .steps_max = 100000, .looks_again = true
static const struct proof_op ops[] = {
        {.name = "receive", .setup = setup_sent, .victim = receive_all, .liar_writes = memory_of_the_sender, PORT_OP},
        {.name = "send", .setup = setup, .victim = send_all, .liar_writes = memory_of_the_receiver, PORT_OP},
        {.name = "rights", .setup = setup_rights, .victim = send_rights, .liar_writes = memory_of_the_sender, PORT_OP},
        {.name = "caller", .setup = setup_rights, .victim = call_all, .liar_writes = memory_of_the_sender, PORT_OP},
        {.name = "server", .setup = setup_rights, .victim = call_all, .liar_writes = memory_of_the_receiver, PORT_OP},
        {0},
};
PROOF_HOSTILE("port", ops)
