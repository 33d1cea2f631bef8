/*
 * Rights and queues among those who lie: the former owner of a port about what it hands over, a new owner to senders,
 * an owner to who holds a right to be used once or asks whether two rights are the same, who gives memory, who offers,
 * who goes on in another ring. Both ends are one task, in which only what the liar can write is overwritten.
 *
 * The shadow table: what was really granted, kept outside the code under proof. Every right, message and notice that is
 * delivered must be in it, whatever was said.
 */
#include "both_ends.h"
#include "port.h"

#include "engine/datagram.h"

#include <sys/stat.h>
#include <wharf/memory.h>

enum { MEMORY_BYTES = 2 * 4096, UNREAD = 3 };

static wharf_name moving, sender, copy, once, memory;

/* What was granted and has not come yet. */
static struct {
        unsigned receive, send, once, memory; /* rights on their way */
        unsigned messages[256];               /* by first byte */
        unsigned unused;                      /* once rights of which neither message nor notice has come */
} granted;

static struct port_state *st(struct proof *p)
{
        return p->state;
}

static void grant(uint8_t first)
{
        granted.messages[first]++;
}

static int take_granted(struct proof *p, wharf_name port, wharf_name *ret)
{
        struct wharf_item item;
        uint8_t bytes[64] = {0};
        struct wharf_msg m = {
                .size = sizeof m, .data = bytes, .cap_bytes = sizeof bytes, .items = &item, .cap_items = 1};
        int r = wharf_recvmsg(st(p)->task, port, &m, 0);
        proof_next_call();
        if (r < 0)
                return r;
        if (m.notice) {
                PROOF_CHECK(p, m.notice == WHARF_NOTICE_ONCE_UNUSED && granted.unused--);
                return 0;
        }
        if (m.n_items) {
                unsigned *left = item.kind == WHARF_GOT_RECEIVE ? &granted.receive
                                 : item.kind == WHARF_GOT_SEND  ? &granted.send
                                 : item.kind == WHARF_GOT_REPLY ? &granted.once
                                                                : &granted.memory;
                const int kind = wharf_name_kind(st(p)->task, item.name);
                PROOF_CHECK(p, item.kind == WHARF_GOT_RECEIVE || item.kind == WHARF_GOT_SEND ||
                                       item.kind == WHARF_GOT_REPLY || item.kind == WHARF_GOT_MEMORY ||
                                       (p->lied && item.kind == WHARF_GOT_FD));
                if (item.kind == WHARF_GOT_FD) {
                        close(item.fd); /* the descriptor of a right, called a mere descriptor: the giver's to do */
                        return 0;
                }
                PROOF_EQ(p, kind,
                         item.kind == WHARF_GOT_RECEIVE ? WHARF_KIND_PORT
                         : item.kind == WHARF_GOT_SEND  ? WHARF_KIND_SEND
                         : item.kind == WHARF_GOT_REPLY ? WHARF_KIND_REPLY
                                                        : WHARF_KIND_MEMORY);
                if (!p->lied)
                        PROOF_CHECK(p, *left > 0);
                *left -= *left > 0;
                /* A name of the task's own is never handed out a second time. */
                PROOF_CHECK(p, item.name != st(p)->port && item.name != st(p)->right && item.name != sender);
                if (ret)
                        *ret = item.name;
                else
                        wharf_drop(st(p)->task, item.name);
        }
        if (m.reply)
                wharf_drop(st(p)->task, m.reply);
        if (!p->lied && m.len_bytes) {
                PROOF_CHECK(p, granted.messages[bytes[0]]-- > 0);
                granted.unused -= bytes[0] == '1';
        }
        return 0;
}

static void setup(struct proof *p)
{
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS | WHARF_PORT_DIRECT};
        st(p)->listener = -1;
        PROOF_EQ(p, wharf_task_open(NULL, &st(p)->task), 0);
        PROOF_EQ(p, wharf_port_new(st(p)->task, &o, &moving), 0);
        PROOF_EQ(p, wharf_right_new(st(p)->task, moving, &sender), 0);
        PROOF_EQ(p, wharf_port_new(st(p)->task, &o, &st(p)->port), 0);
        PROOF_EQ(p, wharf_right_new(st(p)->task, st(p)->port, &st(p)->right), 0);
        for (int i = 0; i < 20; i++) {
                grant('w');
                PROOF_EQ(p, wharf_send(st(p)->task, sender, "w", 1, 0), 0);
                PROOF_EQ(p, take_granted(p, moving, NULL), 0);
        }
}

static int send_item(struct proof *p, uint32_t kind, wharf_name name)
{
        struct wharf_item item = {.kind = kind, .name = name};
        struct wharf_msg m = {.size = sizeof m, .items = &item, .n_items = 1};
        int r = wharf_sendmsg(st(p)->task, st(p)->right, &m, 0);
        proof_next_call();
        return r;
}

static int send_byte(struct proof *p, wharf_name right, char byte)
{
        int r = wharf_send(st(p)->task, right, &byte, 1, 0);
        proof_next_call();
        if (r == 0)
                grant((uint8_t)byte);
        return r;
}

/* One message from `right` to `port`. There are pairs to change meanwhile, by either end, when it looks. */
static int exchange(struct proof *p, wharf_name right, wharf_name port, char byte)
{
        int sent = -EAGAIN, r = -EAGAIN;
        for (int i = 0; i < 6 && r == -EAGAIN && (sent == 0 || sent == -EAGAIN); i++) {
                if (sent == -EAGAIN)
                        sent = send_byte(p, right, byte);
                r = take_granted(p, port, NULL);
        }
        return sent == 0 ? r : sent;
}

/* ---- a port is handed over ---- */

static void setup_moved(struct proof *p)
{
        setup(p);
        for (int i = 0; i < UNREAD; i++)
                PROOF_EQ(p, send_byte(p, sender, (char)('A' + i)), 0);
        PROOF_EQ(p, wharf_right_copy(st(p)->task, sender, 0, &copy), 0);
        PROOF_EQ(p, send_item(p, WHARF_MOVE_RECEIVE, moving), 0);
        granted.receive++;
}

/* What the former owner says, in the carrier and over the links that it had. */
static int take_over(struct proof *p)
{
        wharf_name port = 0;
        int r = take_granted(p, st(p)->port, &port);
        for (int i = 0; i < UNREAD && r == 0 && port; i++)
                r = take_granted(p, port, NULL);
        if (r == 0 && port)
                r = exchange(p, copy, port, 'c');
        if (port)
                wharf_drop(st(p)->task, port);
        return r;
}

/* A new owner to its senders: RENEW, and the greeting on the pair that they make. */
static void setup_arrived(struct proof *p)
{
        setup(p);
        PROOF_EQ(p, send_item(p, WHARF_MOVE_RECEIVE, moving), 0);
        granted.receive++;
        PROOF_EQ(p, take_granted(p, st(p)->port, &moving), 0);
        PROOF_EQ(p, wharf_port_fd(st(p)->task, moving, &st(p)->poll_fd), 0);
        PROOF_EQ(p, take_granted(p, moving, NULL), -EAGAIN);
}

static int go_over(struct proof *p)
{
        int r = 0;
        for (int i = 0; i < 6 && r == 0; i++)
                r = exchange(p, sender, moving, (char)('A' + i));
        return r;
}

/* ---- rights that are used once, and questions ---- */

static int use_once(struct proof *p)
{
        for (int way = 0; way < 3; way++) {
                int r = wharf_once_new(st(p)->task, st(p)->port, &once);
                proof_next_call();
                if (r < 0)
                        return r;
                granted.unused++;
                if (way == 1) {
                        if ((r = send_item(p, WHARF_MOVE_REPLY, once)) == 0) {
                                granted.once++;
                                once = 0;
                                r = take_granted(p, st(p)->port, &once);
                        }
                        if (r < 0 || !once || wharf_name_kind(st(p)->task, once) != WHARF_KIND_REPLY)
                                return r;
                }
                r = way == 2 ? wharf_drop(st(p)->task, once) : send_byte(p, once, '1');
                proof_next_call();
                if (r < 0)
                        return r;
                if ((r = take_granted(p, st(p)->port, NULL)) < 0)
                        return r;
                /* Neither a second message nor a notice beside it. */
                if (!p->lied)
                        PROOF_EQ(p, take_granted(p, st(p)->port, NULL), -EAGAIN);
        }
        return 0;
}

static void setup_two(struct proof *p)
{
        setup(p);
        PROOF_EQ(p, wharf_right_new(st(p)->task, moving, &copy), 0);
}

/* Both owners receive between asking and hearing. */
static int ask_same(struct proof *p)
{
        int r = -EAGAIN;
        for (int i = 0; i < 4 && r == -EAGAIN; i++) {
                r = wharf_right_same(st(p)->task, sender, i % 2 ? copy : sender, 0);
                proof_next_call();
                int got = take_granted(p, moving, NULL);
                PROOF_CHECK(p, p->lied || got == -EAGAIN);
                r = r >= 0 ? wharf_right_same(st(p)->task, sender, copy, 0) : r;
                proof_next_call();
        }
        PROOF_CHECK(p, p->lied || r == 1 || r == -EAGAIN);
        return r == -EAGAIN ? 0 : r;
}

/* ---- memory ---- */

static int give_memory(struct proof *p)
{
        for (int i = 0; i < 2; i++) {
                void *at;
                size_t bytes = 0;
                wharf_name got = 0;
                int r = wharf_memory_new(st(p)->task, MEMORY_BYTES, &memory);
                if (r == 0)
                        r = wharf_memory_at(st(p)->task, memory, &at, NULL);
                if (r < 0)
                        return r;
                memset(at, 'm', MEMORY_BYTES);
                proof_next_call();
                if ((r = send_item(p, i ? WHARF_COPY_MEMORY : WHARF_MOVE_MEMORY, memory)) < 0)
                        return r;
                granted.memory++;
                if ((r = take_granted(p, st(p)->port, &got)) < 0)
                        return r;
                if (i)
                        wharf_drop(st(p)->task, memory);
                if (!got)
                        return 0;
                if (wharf_name_kind(st(p)->task, got) == WHARF_KIND_MEMORY) {
                        PROOF_EQ(p, wharf_memory_at(st(p)->task, got, &at, &bytes), 0);
                        proof_datagram_cut(NULL); /* now its sender cuts it, if it still can */
                        uint8_t sum = 0;
                        for (size_t k = 0; k < bytes; k++) /* all of it can be touched, and nobody else's */
                                sum |= ((volatile uint8_t *)at)[k];
                        PROOF_CHECK(p, p->lied || (bytes == MEMORY_BYTES && sum == 'm'));
                        memset(at, 0, bytes);
                }
                wharf_drop(st(p)->task, got);
        }
        return 0;
}

/* ---- queues: offers, rings that grow, what is left to be sent later ---- */

static void own_queue(struct proof *p, uint32_t capacity)
{
        struct wharf_port_opts o = {
                .size = sizeof o, .flags = WHARF_PORT_STAYS | WHARF_PORT_DIRECT, .capacity_records = capacity};
        setup(p);
        PROOF_EQ(p, wharf_port_new(st(p)->task, &o, &moving), 0);
        PROOF_EQ(p, wharf_right_new(st(p)->task, moving, &sender), 0);
        PROOF_EQ(p, take_granted(p, moving, NULL), -EAGAIN); /* which greets */
}

static void own_offers(struct proof *p)
{
        own_queue(p, WHARF_RENDEZVOUS);
        st(p)->other = sender;
}

static void own_unbounded(struct proof *p)
{
        own_queue(p, WHARF_UNBOUNDED);
}

static void own_plain(struct proof *p)
{
        own_queue(p, 64);
}

static void own_two(struct proof *p)
{
        own_queue(p, 2);
}

static int offer_some(struct proof *p)
{
        for (int i = 0; i < 6; i++) {
                struct wh_outgoing o;
                uint8_t bytes[600] = {(uint8_t)('a' + i)};
                wh_outgoing_init(&o, bytes, i % 2 ? 600 : 8);
                int r = port_offer(p, sender, &o);
                proof_next_call();
                if (r != -EAGAIN && r != 0)
                        return r;
                if (i % 3 == 2) { /* and thinks better of it: then nobody may be given it */
                        r = port_withdraw(p, sender, &o);
                        proof_next_call();
                        if (r != -EAGAIN)
                                return r;
                        r = take_granted(p, moving, NULL);
                        PROOF_CHECK(p, p->lied || r == -EAGAIN);
                        if (r != -EAGAIN)
                                return r;
                        continue;
                }
                grant((uint8_t)('a' + i));
                struct wharf_msg m = {.size = sizeof m, .flags = WHARF_RECV_ALLOC};
                r = wharf_recvmsg(st(p)->task, moving, &m, 0);
                proof_next_call();
                if (r < 0)
                        return r;
                if (!p->lied)
                        PROOF_CHECK(p, m.len_bytes && granted.messages[*(uint8_t *)m.data]-- > 0);
                wharf_release(st(p)->task, &m);
                r = port_offer(p, sender, &o); /* how does it stand? */
                proof_next_call();
                if (r != 0)
                        return r;
        }
        return 0;
}

/* Payloads that the receiver reads where they are, in the sender's memory: anywhere there, and nowhere else. */
static int send_directly(struct proof *p)
{
        for (int i = 0; i < 4; i++) {
                static uint8_t bytes[9000];
                struct wh_outgoing o;
                memset(bytes, 'a' + i, sizeof bytes);
                wh_outgoing_init(&o, bytes, sizeof bytes);
                o.asked = WHARF_HOW_DIRECT;
                int r = port_offer(p, sender, &o);
                proof_next_call();
                if (r != -EAGAIN)
                        return r;
                grant((uint8_t)('a' + i));
                struct wharf_msg m = {.size = sizeof m, .flags = WHARF_RECV_ALLOC};
                r = wharf_recvmsg(st(p)->task, moving, &m, 0);
                proof_next_call();
                if (r < 0)
                        return r;
                if (!p->lied)
                        PROOF_CHECK(p, m.len_bytes == sizeof bytes && m.how == WHARF_HOW_DIRECT &&
                                               granted.messages[*(uint8_t *)m.data]-- > 0);
                wharf_release(st(p)->task, &m);
                r = port_offer(p, sender, &o); /* how does it stand? */
                proof_next_call();
                if (r != 0)
                        return r;
        }
        return 0;
}

/* More than one ring holds, then all of it, then more. */
static int grow(struct proof *p)
{
        uint8_t bytes[1990];
        memset(bytes, 'g', sizeof bytes);
        for (int round = 0; round < 2; round++) {
                for (int i = 0; i < 70; i++) {
                        struct wharf_msg m = {
                                .size = sizeof m, .how = WHARF_HOW_INLINE, .data = bytes, .len_bytes = sizeof bytes};
                        bytes[0] = (uint8_t)i;
                        int r = wharf_sendmsg(st(p)->task, sender, &m, 0);
                        proof_next_call();
                        if (r < 0)
                                return r;
                }
                for (int i = 0; i < 70; i++) {
                        uint8_t got[1990];
                        ssize_t n = wharf_recv(st(p)->task, moving, got, sizeof got, NULL, 0);
                        proof_next_call();
                        if (n < 0)
                                return (int)n;
                        PROOF_CHECK(p, p->lied || (n == sizeof got && got[0] == i));
                }
        }
        return 0;
}

static int leave_for_later(struct proof *p)
{
        for (int round = 0; round < 3; round++) {
                int sent = 0, r = 0;
                for (; r == 0 && sent < 8; sent += r >= 0) {
                        struct wharf_msg m = {.size = sizeof m,
                                              .flags = WHARF_SEND_LATER,
                                              .data = (char[]){(char)('a' + sent)},
                                              .len_bytes = 1};
                        r = wharf_sendmsg(st(p)->task, sender, &m, 0);
                        proof_next_call();
                        if (r < 0 && r != -EBUSY)
                                return r;
                        if (r >= 0)
                                grant((uint8_t)('a' + sent));
                }
                PROOF_CHECK(p, p->lied || (r == 1 && sent == 3));
                for (; sent; sent--)
                        if ((r = take_granted(p, moving, NULL)) < 0)
                                return r;
        }
        return 0;
}

/* Others are not disturbed: a new port, a new right, and ten messages. */
static void audit(struct proof *p)
{
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS | WHARF_PORT_DIRECT};
        wharf_name port, right;
        PROOF_EQ(p, wharf_port_new(st(p)->task, &o, &port), 0);
        PROOF_EQ(p, wharf_right_new(st(p)->task, port, &right), 0);
        for (uint8_t i = 0; i < PORT_N_CLEAN; i++) {
                uint8_t got = 0xff;
                PROOF_EQ(p, wharf_send(st(p)->task, right, &i, 1, 0), 0);
                PROOF_EQ(p, wharf_recv(st(p)->task, port, &got, 1, NULL, wharf_in_ms(5000)), 1);
                PROOF_EQ(p, got, i);
        }
}

static const int errors[] = {
        -ENOMEM,       -EAGAIN,  -ENOTCONN, -EOVERFLOW, -EPIPE,       -EPROTO,     -EPROTONOSUPPORT,
        -EDQUOT,       -ENOBUFS, -EMLINK,   -EMSGSIZE,  -ECANCELED,   -EMFILE,     -ECONNRESET,
        -ETOOMANYREFS, -EBADF,   -EPERM,    -EBUSY,     -EKEYREVOKED, -EOPNOTSUPP, 0};
#define RIGHTS_OP                                                                                              \
        .state_bytes = sizeof(struct port_state), .teardown = port_teardown, .errors = errors, .audit = audit, \
        .steps_max = 200000, .looks_again = true
static const struct proof_op ops[] = {
        {.name = "take-over",
         .setup = setup_moved,
         .victim = take_over,
         .liar_writes = memory_of_the_sender,
         RIGHTS_OP},
        {.name = "go-over",
         .setup = setup_arrived,
         .victim = go_over,
         .liar_writes = memory_of_the_receiver,
         RIGHTS_OP},
        {.name = "once", .setup = setup, .victim = use_once, .liar_writes = memory_of_the_sender, RIGHTS_OP},
        {.name = "same", .setup = setup_two, .victim = ask_same, .liar_writes = memory_of_the_receiver, RIGHTS_OP},
        {.name = "memory", .setup = setup, .victim = give_memory, .liar_writes = memory_of_the_sender, RIGHTS_OP},
        {.name = "offer", .setup = own_offers, .victim = offer_some, .liar_writes = memory_of_the_sender, RIGHTS_OP},
        {.name = "offered",
         .setup = own_offers,
         .victim = offer_some,
         .liar_writes = memory_of_the_receiver,
         RIGHTS_OP},
        {.name = "direct", .setup = own_plain, .victim = send_directly, .liar_writes = memory_of_the_sender, RIGHTS_OP},
        {.name = "directed",
         .setup = own_plain,
         .victim = send_directly,
         .liar_writes = memory_of_the_receiver,
         RIGHTS_OP},
        {.name = "grow", .setup = own_unbounded, .victim = grow, .liar_writes = memory_of_the_sender, RIGHTS_OP},
        {.name = "later",
         .setup = own_two,
         .victim = leave_for_later,
         .liar_writes = memory_of_the_receiver,
         RIGHTS_OP},
        {0},
};
PROOF_HOSTILE("rights", ops)
