/*
 * The public calls under every interleaving within bounds: tasks of one process as parties, each with its own end of a
 * real link on real sockets, and the shared memory of their lanes under the explorer's model. So what is explored is
 * the waiting itself (announcing, looking again, sleeping in epoll_wait() or poll()), frames counted and left unread,
 * descriptors ahead of their record, the end of a link against messages that are under way, and a port that moves.
 */
#include "explore/explore.h"
#include "wharf/wharf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { OWNER = 0, HOLDER = 1, HEIR = 2, TASKS = 3, WARM = 40, LARGE = 3000 };

static struct {
        wharf_task *task[TASKS];
        wharf_name port, right;   /* of OWNER and HOLDER */
        wharf_name home, to_home; /* of HEIR, and OWNER's right to it */
        unsigned sent, received, messages;
        size_t len;
        int fd;
        bool over; /* the execution ended as it should, so the tasks may be closed */
} my;

/* ---- setting up: nothing is explored here ---- */

static void must(int r, const char *what)
{
        if (r < 0)
                explore_fail("%s: %s (%s)", what, strerrorname_np(-r), wharf_why());
}

static wharf_task *task_new(void)
{
        wharf_task *t;
        struct wharf_task_opts o = {.size = sizeof o, .spin_us_max = WHARF_NO_SPIN};
        must(wharf_task_open(&o, &t), "task");
        return t;
}

/* A port of `owner`, and a right of `holder` to it. */
static void link_new(wharf_task *owner, wharf_task *holder, const struct wharf_port_opts *o, wharf_name *ret_port,
                     wharf_name *ret_right)
{
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        snprintf(sa.sun_path, sizeof sa.sun_path, "/tmp/wharf-explore.%d", (int)getpid());
        int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        unlink(sa.sun_path);
        if (bind(s, (struct sockaddr *)&sa, sizeof sa) < 0 || listen(s, 4) < 0)
                explore_fail("no socket can be made here");
        must(wharf_port_new(owner, o, ret_port), "port");
        must(wharf_port_listen(owner, *ret_port, s), "listen");
        must(wharf_right_connect(holder, sa.sun_path, ret_right), "connect");
        unlink(sa.sun_path);
        must(wharf_send(holder, *ret_right, "hello", 5, 0), "send");
        char hello[8];
        must((int)wharf_recv(owner, *ret_port, hello, sizeof hello, NULL, WHARF_FOREVER), "receive");
        must(wharf_port_listen(owner, *ret_port, -1), "listen no more");
        close(s);
}

static void init_with(uint32_t capacity, uint32_t flags, unsigned messages, size_t len, bool warm)
{
        static char path[] = "/dev/null";
        for (unsigned i = 0; i < TASKS && my.over; i++)
                wharf_task_close(my.task[i]);
        if (my.over && my.fd > 0)
                close(my.fd);
        memset(&my, 0, sizeof my);
        my.messages = messages;
        my.len = len;
        my.fd = open(path, O_RDONLY | O_CLOEXEC);
        my.task[OWNER] = task_new();
        my.task[HOLDER] = task_new();
        struct wharf_port_opts o = {.size = sizeof o, .flags = flags, .capacity_records = capacity};
        link_new(my.task[OWNER], my.task[HOLDER], &o, &my.port, &my.right);
        char bytes[LARGE] = {0};
        for (unsigned i = 0; i < WARM && warm; i++) {
                must(wharf_send(my.task[HOLDER], my.right, bytes, i < WARM - 4 ? 8 : len, wharf_in_ms(1000)), "send");
                must((int)wharf_recv(my.task[OWNER], my.port, bytes, sizeof bytes, NULL, WHARF_FOREVER), "receive");
                wharf_recv(my.task[OWNER], my.port, bytes, sizeof bytes, NULL, 0); /* which tells that it was taken */
        }
}

static void init_send(void)
{
        init_with(16, WHARF_PORT_STAYS, 2, 8, true);
}

static void init_full(void)
{
        init_with(1, WHARF_PORT_STAYS, 3, 8, true);
}

static void init_large(void)
{
        init_with(1, WHARF_PORT_STAYS, 2, LARGE, true);
}

static void init_cold(void)
{
        init_with(16, WHARF_PORT_STAYS, 2, 8, false);
}

/* The port's queue ends with its last sender. */
static void init_ends(void)
{
        init_with(16, 0, 2, 8, true);
}

/* ---- messages ---- */

static void send_n(unsigned n, bool with_fd)
{
        uint64_t bytes[LARGE / 8] = {n};
        bytes[my.len / 8 - 1] ^= ~(uint64_t)n << 32; /* the last word tells, too */
        struct wharf_item item = {.kind = WHARF_COPY_FD, .fd = my.fd};
        struct wharf_msg m = {.size = sizeof m, .data = bytes, .len_bytes = my.len, .items = &item, .n_items = with_fd};
        my.sent = n + 1;
        int r = wharf_sendmsg(my.task[HOLDER], my.right, &m, WHARF_FOREVER);
        if (r < 0) {
                my.sent = n;
                my.messages = n; /* no more will come */
                if (r != -EPIPE)
                        explore_fail("send: %s (%s)", strerrorname_np(-r), wharf_why());
        }
}

/* 1, or what wharf_recvmsg() refused with. */
static int receive(wharf_task *t, wharf_name port, int with_fd)
{
        uint64_t bytes[LARGE / 8], n = my.received, last;
        struct wharf_item item;
        struct wharf_msg m = {
                .size = sizeof m, .data = bytes, .cap_bytes = sizeof bytes, .items = &item, .cap_items = 1};
        int r = wharf_recvmsg(t, port, &m, WHARF_FOREVER);
        if (r < 0)
                return r;
        if (m.n_items)
                close(item.fd);
        memcpy(&last, &bytes[my.len / 8 - 1], 8);
        EXPLORE_CHECK(m.len_bytes == my.len);
        EXPLORE_CHECK((bytes[0] & UINT32_MAX) == n && last >> 32 == (~n & UINT32_MAX));
        EXPLORE_CHECK(with_fd < 0 || m.n_items == (uint32_t)with_fd);
        my.received++;
        return 1;
}

static void owner(void)
{
        while (my.received < my.messages)
                must(receive(my.task[OWNER], my.port, 0), "receive");
}

static void holder(void)
{
        for (unsigned n = 0; n < my.messages; n++)
                send_n(n, false);
}

static void check(uint32_t killed)
{
        (void)killed;
        EXPLORE_CHECK(my.received == my.sent && my.received == my.messages);
        my.over = true;
}

/* ---- descriptors: there before their record is (link.K2) ---- */

static void init_items(void)
{
        init_with(16, WHARF_PORT_STAYS, 3, 8, true);
}

static void owner_items(void)
{
        while (my.received < my.messages)
                must(receive(my.task[OWNER], my.port, my.received % 2 == 1), "receive");
}

static void holder_items(void)
{
        for (unsigned n = 0; n < my.messages; n++)
                send_n(n, n % 2 == 1);
}

/* ---- the end of a link, against messages that are under way ---- */

static void owner_until_end(void)
{
        int r;
        while ((r = receive(my.task[OWNER], my.port, 0)) > 0)
                ;
        if (r != -ENOTCONN)
                explore_fail("the end: %s (%s)", strerrorname_np(-r), wharf_why());
}

static void holder_drops(void)
{
        holder();
        must(wharf_drop(my.task[HOLDER], my.right), "drop");
}

static void init_close(void)
{
        init_with(1, WHARF_PORT_STAYS, 3, 8, true);
}

static void owner_closes(void)
{
        must(receive(my.task[OWNER], my.port, 0), "receive");
        must(wharf_drop(my.task[OWNER], my.port), "drop");
}

/* What was sent is received, or lost with the port; what was refused nobody received; nobody waits for ever. */
static void check_close(uint32_t killed)
{
        (void)killed;
        EXPLORE_CHECK(my.received == 1 && my.sent >= 1);
        my.over = true;
}

/* ---- calls: each end receives and sends ---- */

static void owner_answers(void)
{
        for (unsigned n = 0; n < my.messages; n++) {
                uint64_t word;
                struct wharf_msg m = {.size = sizeof m, .data = &word, .cap_bytes = sizeof word};
                must(wharf_recvmsg(my.task[OWNER], my.port, &m, WHARF_FOREVER), "receive");
                EXPLORE_CHECK(m.reply && word == n);
                word = ~word;
                must(wharf_reply(my.task[OWNER], m.reply, &word, sizeof word), "reply");
                my.received++;
        }
}

static void holder_calls(void)
{
        for (uint64_t n = 0; n < my.messages; n++) {
                uint64_t back;
                my.sent++;
                must((int)wharf_call(my.task[HOLDER], my.right, &n, sizeof n, &back, sizeof back, WHARF_FOREVER),
                     "call");
                EXPLORE_CHECK(back == ~n);
        }
}

static void init_call(void)
{
        init_send();
        for (unsigned i = 0; i < WARM; i++) {
                uint64_t word = i;
                uint32_t number;
                struct wharf_msg req = {.size = sizeof req, .data = &word, .len_bytes = sizeof word}, in = {0},
                                 back = {0};
                in.size = back.size = sizeof in;
                in.data = back.data = &word;
                in.cap_bytes = back.cap_bytes = sizeof word;
                must(wharf_call_start(my.task[HOLDER], my.right, &req, WHARF_NONE, 0, &number), "call");
                must(wharf_recvmsg(my.task[OWNER], my.port, &in, 0), "serve");
                must(wharf_reply(my.task[OWNER], in.reply, &word, sizeof word), "reply");
                must(wharf_call_finish(my.task[HOLDER], my.right, number, &back, 0), "finish");
        }
}

/* ---- calls whose end is told at a port: no reply comes unheard ---- */

static void init_told(void)
{
        init_call();
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        must(wharf_port_new(my.task[HOLDER], &o, &my.home), "port");
}

static void holder_is_told(void)
{
        for (uint64_t n = 0; n < my.messages; n++) {
                uint64_t back = 0;
                uint32_t call;
                struct wharf_msg m = {.size = sizeof m, .data = &n, .len_bytes = sizeof n};
                my.sent++;
                must(wharf_call_start(my.task[HOLDER], my.right, &m, my.home, WHARF_FOREVER, &call), "start");
                m = (struct wharf_msg){.size = sizeof m};
                must(wharf_recvmsg(my.task[HOLDER], my.home, &m, WHARF_FOREVER), "be told");
                EXPLORE_CHECK(m.notice == WHARF_NOTICE_REPLY && m.call == call && m.error == 0);
                m = (struct wharf_msg){.size = sizeof m, .data = &back, .cap_bytes = sizeof back};
                must(wharf_call_finish(my.task[HOLDER], my.right, call, &m, 0), "finish");
                EXPLORE_CHECK(back == ~n);
        }
}

/* ---- many at once: one look for the doorbell, behind the last of them ---- */

static void holder_sends_many(void)
{
        uint64_t bytes[3];
        struct wharf_msg m[3];
        for (unsigned n = 0; n < my.messages; n++) {
                bytes[n] = n | ~(uint64_t)n << 32;
                m[n] = (struct wharf_msg){.size = sizeof m[n], .data = &bytes[n], .len_bytes = sizeof bytes[n]};
        }
        my.sent = my.messages;
        if (wharf_sendmany(my.task[HOLDER], my.right, m, my.messages, WHARF_FOREVER) != (int)my.messages)
                explore_fail("send: %s", wharf_why());
}

static void init_many(void)
{
        init_with(2, WHARF_PORT_STAYS, 3, 8, true);
}

/* ---- a port that moves while its sender sends ---- */

static void init_move(void)
{
        init_with(16, WHARF_PORT_STAYS, 2, 8, true);
        my.task[HEIR] = task_new();
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        link_new(my.task[HEIR], my.task[OWNER], &o, &my.home, &my.to_home);
}

static void owner_gives(void)
{
        struct wharf_item item = {.kind = WHARF_MOVE_RECEIVE, .name = my.port};
        struct wharf_msg m = {.size = sizeof m, .items = &item, .n_items = 1};
        must(wharf_sendmsg(my.task[OWNER], my.to_home, &m, WHARF_FOREVER), "move");
}

static void heir(void)
{
        struct wharf_item item;
        struct wharf_msg m = {.size = sizeof m, .items = &item, .cap_items = 1};
        must(wharf_recvmsg(my.task[HEIR], my.home, &m, WHARF_FOREVER), "receive the port");
        EXPLORE_CHECK(m.n_items == 1 && item.kind == WHARF_GOT_RECEIVE);
        while (my.received < my.messages)
                must(receive(my.task[HEIR], item.name, 0), "receive");
}

#define PLAIN .party = {owner, holder}, .check = check
static const struct explore protocols[] = {
        {.name = "send", .init = init_send, .preemptions = 1, .stale = 1, .spurious = 1, .share = 30, PLAIN},
        {.name = "full", .init = init_full, .preemptions = 1, .stale = 1, .spurious = 1, .share = 30, PLAIN},
        {.name = "section", .init = init_large, .preemptions = 1, .stale = 1, .spurious = 1, .share = 30, PLAIN},
        {.name = "cold", .init = init_cold, .preemptions = 1, .stale = 1, .share = 30, PLAIN},
        {.name = "items",
         .init = init_items,
         .preemptions = 1,
         .stale = 1,
         .spurious = 1,
         .share = 30,
         .party = {owner_items, holder_items},
         .check = check},
        {.name = "drop",
         .init = init_ends,
         .preemptions = 1,
         .stale = 1,
         .share = 30,
         .party = {owner_until_end, holder_drops},
         .check = check},
        {.name = "close",
         .init = init_close,
         .preemptions = 2,
         .stale = 1,
         .share = 10,
         .party = {owner_closes, holder},
         .check = check_close},
        {.name = "call",
         .init = init_call,
         .preemptions = 1,
         .stale = 1,
         .spurious = 1,
         .share = 30,
         .party = {owner_answers, holder_calls},
         .check = check},
        {.name = "told",
         .init = init_told,
         .preemptions = 1,
         .stale = 1,
         .spurious = 1,
         .share = 30,
         .party = {owner_answers, holder_is_told},
         .check = check},
        {.name = "many",
         .init = init_many,
         .preemptions = 1,
         .stale = 1,
         .spurious = 1,
         .share = 30,
         .party = {owner, holder_sends_many},
         .check = check},
        {.name = "move",
         .init = init_move,
         .preemptions = 1,
         .stale = 1,
         .share = 60,
         .party = {owner_gives, holder, heir},
         .check = check},
};

int main(int argc, char **argv)
{
        return explore_main("port", protocols, sizeof protocols / sizeof *protocols, argc, argv);
}
