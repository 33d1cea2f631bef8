/*
 * Who is believed to have sent what: docs/design/identity.md, case by case. Attackers speak the protocol through the
 * library's inner functions; where the tests run as root they are another user.
 */
#include "by_hand.h"
#include "domain.h"
#include "hub.h"
#include "test.h"

#include "os/os.h"
#include "link/link.h"
#include "right/right.h"
#include "port/owned.h"
#include "port/port.h"
#include "names/proto.h"

#include <grp.h>
#include <poll.h>
#include <sched.h>

enum { STRANGER = 1002 };

static uid_t stranger(void)
{
        return geteuid() == 0 ? STRANGER : geteuid();
}

/* For the rest of this process. */
static void become_stranger(void)
{
        if (geteuid())
                return;
        CHECK_EQ(setgroups(0, NULL), 0);
        CHECK_EQ(setresgid(STRANGER, STRANGER, STRANGER), 0);
        CHECK_EQ(setresuid(STRANGER, STRANGER, STRANGER), 0);
}

/* ---- frames by hand ---- */

static int raw_connect(const char *path)
{
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        snprintf(sa.sun_path, sizeof sa.sun_path, "%s", path);
        int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        CHECK_GE(s, 0);
        CHECK_EQ(connect(s, (struct sockaddr *)&sa, sizeof sa), 0);
        return s;
}

static void raw_pair(int sv[2])
{
        const int on = 1;
        CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
        CHECK_EQ(setsockopt(sv[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on), 0);
}

/* 0 or -EPIPE, where the other side has let go already. */
static int raw_text(int sock, enum wh_frame_to to, uint64_t seq, uint32_t call, const char *text)
{
        struct wh_frame f = {.type = WH_FRAME_MESSAGE,
                             .to = (uint8_t)to,
                             .seq = seq,
                             .call = call,
                             .total = strlen(text),
                             .arg = WH_MSG_FIRST | WH_MSG_LAST};
        int r = wh_frame_send(sock, &f, text, strlen(text), NULL, false);
        CHECK(r == 0 || r == -EPIPE);
        return r;
}

static void raw_adopt(int sock, int end)
{
        struct wh_frame f = {.type = WH_FRAME_ADOPT, .to = WH_TO_OWNER, .n_fds = 1};
        CHECK_EQ(wh_frame_send(sock, &f, NULL, 0, &end, false), 0);
}

static void raw_rebind(int sock, uint64_t port_id, int end)
{
        struct wh_frame f = {.type = WH_FRAME_REBIND, .to = WH_TO_OWNER, .n_fds = 1};
        const struct wh_origin said = {.port_id = port_id, .known = WHARF_KNOWN_NOBODY};
        CHECK_EQ(wh_frame_send(sock, &f, &said, sizeof said, &end, true), 0);
}

/* A right of somebody else's, in a message. */
static void raw_give(int sock, uint64_t seq, int end)
{
        struct wh_frame f = {
                .type = WH_FRAME_MESSAGE, .to = WH_TO_OWNER, .n_fds = 1, .seq = seq, .arg = WH_MSG_FIRST | WH_MSG_LAST};
        CHECK_EQ(wh_frame_send(sock, &f, &(uint8_t){WH_ITEM_SEND}, 1, &end, false), 0);
}

/* Reads until a frame of that kind is there, which stays; false when the other side has let go. */
static bool raw_await(int sock, uint8_t type, struct wh_frame *ret, uint8_t *data)
{
        for (;;) {
                int fds[WH_FDS_MAX];
                struct pollfd p = {.fd = sock, .events = POLLIN};
                CHECK_EQ(poll(&p, 1, 60000), 1);
                int r = wh_frame_peek(sock, ret, data, fds, NULL);
                if (r < 0)
                        return false;
                for (unsigned i = 0; r && i < ret->n_fds; i++)
                        close(fds[i]);
                if (r && ret->type == type)
                        return true;
                CHECK_EQ(wh_frame_take(sock, ret, NULL), 0);
        }
}

static uint64_t id_of(wharf_task *t, wharf_name port)
{
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(t, port, &st), 0);
        return st.id.v;
}

static uint64_t refused(wharf_task *t, wharf_name port)
{
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(t, port, &st), 0);
        return st.refused_links;
}

/* Receives what has come until now: all of it, since the descriptor says when there is no more. */
static void receive_all(struct hub *h, void (*see)(const struct wharf_msg *m, void *arg), void *arg)
{
        char buf[256];
        struct pollfd p = {.events = POLLIN};
        CHECK_EQ(wharf_port_fd(h->task, h->port, &p.fd), 0);
        while (poll(&p, 1, 0) > 0) {
                struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf - 1);
                int r = wharf_recvmsg(h->task, h->port, &m, 0);
                CHECK(r == 0 || r == -EAGAIN);
                if (r < 0)
                        continue;
                buf[m.len_bytes] = 0;
                see(&m, arg);
                if (m.reply)
                        wharf_drop(h->task, m.reply);
        }
}

/* An honest server that answers whatever it is asked with what it was sent, until it is killed. */
static int echoes(void *arg)
{
        struct hub *h = arg;
        char buf[256];
        wharf_task *t;
        wharf_name port;
        /* The hub's task is the parent's; its socket is what is left here. */
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_port_listen(t, port, h->listen_fd), 0);
        for (;;) {
                struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf);
                CHECK_EQ(wharf_recvmsg(t, port, &m, WHARF_FOREVER), 0);
                if (m.reply && wharf_reply(t, m.reply, buf, m.len_bytes) < 0)
                        wharf_drop(t, m.reply);
        }
}

/* A socket to listen on, and nothing behind it yet. */
static struct hub hub_socket(void)
{
        struct hub h = hub_open(NULL);
        CHECK_EQ(wharf_port_listen(h.task, h.port, -1), 0);
        wharf_task_close(h.task);
        h.task = NULL;
        return h;
}

/* ---- words of one, said to another ---- */

struct reflection {
        struct hub echo, victim;
        struct stage done, seen;
        pid_t server;
};

static int reflects(void *arg)
{
        struct reflection *s = arg;
        static uint8_t data[WH_COLD_MAX + WH_FDS_MAX];
        struct wh_frame f;
        int sv[2];
        become_stranger();
        int to_echo = raw_connect(s->echo.path), to_victim = raw_connect(s->victim.path);
        raw_pair(sv);
        raw_adopt(to_echo, sv[0]);
        raw_text(sv[1], WH_TO_OWNER, 0, 7, "root says: open the gate");
        CHECK(raw_await(sv[1], WH_FRAME_MESSAGE, &f, data)); /* the server's answer, unread */
        raw_adopt(to_victim, sv[1]);
        close(sv[1]);
        for (unsigned i = 1; i < 4; i++)
                raw_text(sv[0], WH_TO_OWNER, i, 0, "as the server");
        stage_reach(&s->done);
        stage_await(&s->seen);
        return 0;
}

static void no_server(const struct wharf_msg *m, void *arg)
{
        struct reflection *s = arg;
        CHECK_NE(m->sender.pid, s->server);
        CHECK(!strstr(m->data, "gate"));
        CHECK_EQ(m->sender.known, WHARF_KNOWN_NOT);
        CHECK_EQ(m->sender.uid, (uid_t)-1);
}

/*
 * Goal:   a server's answer, left unread in a socket that is then introduced to somebody else, is no request there, and
 *         makes nobody that server.
 */
TEST(a_reply_that_is_reflected_is_nobodys_request)
{
        struct reflection s = {
                .echo = hub_socket(), .victim = hub_open(NULL), .done = stage_new(), .seen = stage_new()};
        s.server = test_fork(echoes, &s.echo);
        pid_t attacker = test_fork(reflects, &s);
        stage_await(&s.done);
        receive_all(&s.victim, no_server, &s);
        CHECK_EQ(refused(s.victim.task, s.victim.port), 1); /* the pair with the answer in it */
        stage_reach(&s.seen);
        CHECK_EQ(test_wait(attacker), 0);
        kill_hard(s.server);
        close(s.echo.listen_fd);
        stage_done(&s.done);
        stage_done(&s.seen);
        hub_close(&s.victim);
}

/* ---- pairs that others made ---- */

struct binding {
        struct hub hub;
        struct stage done, seen, turned;
        int pair[2]; /* made by the test, which the stranger is not */
        uint64_t id;
        int way;
};

enum { BIND_OWN, BIND_OTHERS, BIND_OTHER_PORT, BIND_UNNAMED, BIND_WAYS };

static int binds(void *arg)
{
        struct binding *s = arg;
        int sv[2];
        become_stranger();
        int to = raw_connect(s->hub.path);
        raw_pair(sv);
        if (s->way == BIND_OTHERS)
                memcpy(sv, s->pair, sizeof sv);
        raw_rebind(to, s->way == BIND_OTHER_PORT ? s->id + 1 : s->way == BIND_UNNAMED ? 0 : s->id, sv[1]);
        raw_text(sv[0], WH_TO_OWNER, 0, 0, "mine");
        stage_reach(&s->done);
        stage_await(&s->seen);
        return 0;
}

struct came {
        unsigned n;
        struct wharf_sender from;
};

static void count(const struct wharf_msg *m, void *arg)
{
        struct came *c = arg;
        c->n++;
        c->from = m->sender;
}

/*
 * Goal:   who sends REBIND is known by it where the pair in it is its own, and the port the one it speaks to; a pair that
 *         somebody else made, though both its ends are in its hands, ends the link.
 */
TEST(a_pair_that_somebody_else_made_binds_nobody)
{
        for (int way = 0; way < BIND_WAYS; way++) {
                struct binding s = {.hub = hub_open(NULL), .done = stage_new(), .seen = stage_new(), .way = way};
                struct came came = {0};
                s.id = id_of(s.hub.task, s.hub.port);
                raw_pair(s.pair);
                pid_t pid = test_fork(binds, &s);
                close(s.pair[0]);
                close(s.pair[1]);
                stage_await(&s.done);
                receive_all(&s.hub, count, &came);
                bool good = way == BIND_OWN || way == BIND_UNNAMED;
                CHECK_EQ(came.n, good);
                CHECK_EQ(refused(s.hub.task, s.hub.port), !good);
                if (good) {
                        CHECK_EQ(came.from.known, WHARF_KNOWN_BOUND);
                        CHECK_EQ(came.from.pid, pid);
                        CHECK_EQ(came.from.uid, stranger());
                        CHECK_EQ(came.from.introducer.known, WHARF_KNOWN_NOBODY);
                }
                stage_reach(&s.seen);
                CHECK_EQ(test_wait(pid), 0);
                stage_done(&s.done);
                stage_done(&s.seen);
                hub_close(&s.hub);
        }
}

static int writes_into(void *arg)
{
        raw_text(*(int *)arg, WH_TO_OWNER, 1, 0, "another's");
        return 0;
}

static int lets_another_write(void *arg)
{
        struct binding *s = arg;
        int sv[2], off = 0;
        become_stranger();
        int to = raw_connect(s->hub.path);
        raw_pair(sv);
        if (s->way == 0) { /* the link as it was connected */
                sv[0] = to;
        } else {
                raw_rebind(to, s->id, sv[1]);
        }
        raw_text(sv[0], WH_TO_OWNER, 0, 0, "mine");
        if (s->way == 2) { /* who kept the owner's end has the kernel say nothing */
                stage_reach(&s->done);
                stage_await(&s->seen);
                CHECK_EQ(setsockopt(sv[1], SOL_SOCKET, SO_PASSCRED, &off, sizeof off), 0);
                raw_text(sv[0], WH_TO_OWNER, 1, 0, "nobody's");
        } else {
                CHECK_EQ(test_wait(test_fork(writes_into, &sv[0])), 0);
        }
        stage_reach(&s->done);
        stage_await(&s->seen);
        return 0;
}

/* Goal: on a link that is known for one process, a frame by another, or by nobody that the kernel names, ends it. */
TEST(a_frame_of_another_process_ends_a_link_that_is_known)
{
        for (int way = 0; way < 3; way++) {
                struct binding s = {.hub = hub_open(NULL), .done = stage_new(), .seen = stage_new(), .way = way};
                struct came came = {0};
                s.id = id_of(s.hub.task, s.hub.port);
                pid_t pid = test_fork(lets_another_write, &s);
                stage_await(&s.done);
                receive_all(&s.hub, count, &came);
                if (way == 2) {
                        CHECK_EQ(came.n, 1);
                        CHECK_EQ(refused(s.hub.task, s.hub.port), 0);
                        stage_reach(&s.seen);
                        stage_await(&s.done);
                        receive_all(&s.hub, count, &came);
                }
                CHECK_EQ(came.n, 1);
                CHECK_EQ(came.from.pid, pid);
                CHECK_EQ(came.from.uid, stranger());
                CHECK_EQ(came.from.known, way ? WHARF_KNOWN_BOUND : WHARF_KNOWN_CONNECTED);
                CHECK_EQ(refused(s.hub.task, s.hub.port), 1);
                stage_reach(&s.seen);
                CHECK_EQ(test_wait(pid), 0);
                stage_done(&s.done);
                stage_done(&s.seen);
                hub_close(&s.hub);
        }
}

static int no_pairs(enum wh_os_call call)
{
        return call == WH_OS_socketpair ? -EPERM : 0;
}

/* Goal: a holder that may make no sockets is served, is nobody that is known, and is told so. */
TEST(a_sender_that_can_make_no_pair_is_unknown_and_told_so)
{
        struct hub h = hub_open(NULL);
        wharf_name right;
        char buf[8];
        struct wharf_sender from;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        wh_os_gate = no_pairs;
        CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), 0);
        wh_os_gate = NULL;
        CHECK(strstr(wharf_why(), "cannot know who has sent it"));
        CHECK(strstr(wharf_why(), "EPERM"));
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, &from, wharf_in_ms(60000)), 1);
        CHECK_EQ(from.known, WHARF_KNOWN_NOT);
        CHECK_EQ(from.uid, (uid_t)-1);
        CHECK_EQ(from.pid, 0);
        int fd;
        CHECK_EQ(wharf_sender_pidfd(h.task, from.id, &fd), -ESRCH);
        hub_close(&h);
}

/* ---- who introduced it ---- */

struct deputies {
        struct hub victim, deputy, second;
        struct stage go;
        int way;
};

/* Sends over whatever right it is given what it was sent with it, as any service does with a callback. */
static int deputy(void *arg)
{
        struct deputies *s = arg;
        wharf_task *t;
        wharf_name port;
        struct wharf_item item;
        char buf[64];
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_port_listen(t, port, s->deputy.listen_fd), 0);
        struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf, .items = &item, .cap_items = 1);
        do
                CHECK_EQ(wharf_recvmsg(t, port, &m, wharf_in_ms(60000)), 0);
        while (m.n_items == 0);
        CHECK_EQ(item.kind, WHARF_GOT_SEND);
        CHECK_EQ(wharf_send(t, item.name, "as the deputy", 13, WHARF_FOREVER), 0);
        stage_await(&s->go);
        wharf_task_close(t);
        return 0;
}

enum { GIVE_COPY, GIVE_UNUSED_COPY, GIVE_CONNECTION, GIVE_BY_ANOTHER, GIVE_WAYS };

/* Passes on, unused, the right that it is given. */
static int passes_on(void *arg)
{
        struct deputies *s = arg;
        wharf_name to, port;
        struct wharf_item item;
        wharf_task *t = hub_join(&s->deputy, &to);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_port_listen(t, port, s->second.listen_fd), 0);
        struct wharf_msg m = MSG(.items = &item, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(t, port, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(m.n_items, 1);
        item.kind = WHARF_MOVE_SEND;
        CHECK_EQ(wharf_sendmsg(t, to, &MSG(.items = &item, .n_items = 1), WHARF_FOREVER), 0);
        stage_await(&s->go);
        wharf_task_close(t);
        return 0;
}

static int gives_a_right(void *arg)
{
        struct deputies *s = arg;
        wharf_name victim, to;
        become_stranger();
        if (s->way == GIVE_CONNECTION || s->way == GIVE_BY_ANOTHER) {
                /* By hand: no library gives away what it connected with, which nobody but the next hand can tell of. */
                const char *hand = s->way == GIVE_CONNECTION ? s->deputy.path : s->second.path;
                raw_give(raw_connect(hand), 0, raw_connect(s->victim.path));
                stage_await(&s->go);
                return 0;
        }
        wharf_task *t = hub_join(&s->victim, &victim);
        CHECK_EQ(wharf_right_connect(t, s->deputy.path, &to), 0);
        struct wharf_item item = {.kind = WHARF_COPY_SEND, .name = victim};
        if (s->way == GIVE_UNUSED_COPY) {
                CHECK_EQ(wharf_right_copy(t, victim, WHARF_FOREVER, &item.name), 0);
                item.kind = WHARF_MOVE_SEND;
        }
        CHECK_EQ(wharf_sendmsg(t, to, &MSG(.items = &item, .n_items = 1), WHARF_FOREVER), 0);
        stage_await(&s->go);
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   who is made to speak by somebody's right is told apart from who speaks by itself: the port learns who gave it
 *         that, whichever way it was given, by whoever's hands it went through.
 */
TEST(who_gave_a_sender_its_right_is_told)
{
        for (int way = 0; way < GIVE_WAYS; way++) {
                struct deputies s = {
                        .victim = hub_open(NULL), .deputy = hub_socket(), .second = hub_socket(), .way = way};
                s.go = stage_new();
                pid_t middle = way == GIVE_BY_ANOTHER ? test_fork(passes_on, &s) : 0;
                pid_t d = test_fork(deputy, &s), a = test_fork(gives_a_right, &s);
                struct wharf_msg m;
                char buf[32];
                do {
                        m = MSG(.data = buf, .cap_bytes = sizeof buf);
                        CHECK_EQ(wharf_recvmsg(s.victim.task, s.victim.port, &m, wharf_in_ms(60000)), 0);
                } while (m.len_bytes != 13);
                CHECK_EQ(m.sender.pid, d);
                CHECK_EQ(m.sender.uid, geteuid());
                CHECK_EQ(m.sender.known, WHARF_KNOWN_BOUND);
                struct wharf_introducer by[8];
                int n = wharf_sender_introducers(s.victim.task, m.sender.id, by, 8);
                CHECK(n >= 1 && n <= 8);
                CHECK_EQ(by[0].known, m.sender.introducer.known);
                CHECK_EQ(by[0].pid, m.sender.introducer.pid);
                bool all_mine = true, stranger_named = false;
                for (int i = 0; i < n; i++) {
                        all_mine &= by[i].uid == geteuid();
                        stranger_named |= by[i].pid == a && by[i].uid == stranger();
                }
                if (geteuid() == 0)
                        CHECK(!all_mine);
                if (way != GIVE_BY_ANOTHER) /* there the words of two were put together */
                        CHECK(stranger_named);
                for (int i = 0; i < 2 + (way == GIVE_BY_ANOTHER); i++)
                        stage_reach(&s.go);
                CHECK_EQ(test_wait(a), 0);
                CHECK_EQ(test_wait(d), 0);
                if (middle)
                        CHECK_EQ(test_wait(middle), 0);
                stage_done(&s.go);
                close(s.deputy.listen_fd);
                close(s.second.listen_fd);
                hub_close(&s.victim);
        }
}

/* ---- memory ---- */

static char secret[4096];

static int points_at_memory(void *arg)
{
        struct binding *s = arg;
        static uint8_t data[WH_COLD_MAX + WH_FDS_MAX];
        struct wh_frame f;
        become_stranger();
        memset(secret, 'c', sizeof secret); /* here; at the same address in the server it says something else */
        int hold = s->pair[0];
        if (s->way == 1) { /* the server is made to write into its own pair */
                const int on = 1;
                CHECK_EQ(setsockopt(hold, SOL_SOCKET, SO_PASSCRED, &on, sizeof on), 0);
                raw_text(hold, WH_TO_OWNER, 0, 7, "hello");
                CHECK(raw_await(hold, WH_FRAME_MESSAGE, &f, data));
                hold = s->pair[1];
                stage_reach(&s->turned);
        }
        wharf_task *t;
        wharf_name right;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wh_right_from_socket(t, hold, false, false, &right), 0);
        int err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        CHECK(l);
        l->greeted = true;
        l->hello = (struct wh_hello){s->id, 1 << 20, 80 << 20, 1024, 64, WH_CAPACITY_BYTES};
        l->out.seq = s->way == 1; /* the answer counts as the first message, there */
        wh_unlock(&l->o.lock);
        struct wharf_msg m = MSG(.how = WHARF_HOW_DIRECT, .data = secret, .len_bytes = sizeof secret);
        /* In the second way the server lets go of it, and both it and we read what it says of that. */
        int r = wharf_sendmsg(t, right, &m, wharf_in_ms(s->way == 1 ? 200 : 60000));
        CHECK(s->way == 1 || r == 0);
        CHECK(r < 0 || m.how != WHARF_HOW_DIRECT);
        stage_reach(&s->done);
        stage_await(&s->seen);
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   a pair that the server itself made, and of which a stranger has both ends, does not let it point at the
 *         server's own memory: neither alone, nor with the server's own answer in it.
 */
TEST(a_pair_of_the_servers_own_making_leads_to_none_of_its_memory)
{
        for (int way = 0; way < 2; way++) {
                struct binding s = {.hub = hub_open(NULL),
                                    .done = stage_new(),
                                    .seen = stage_new(),
                                    .turned = stage_new(),
                                    .way = way};
                char buf[sizeof secret];
                memset(secret, 's', sizeof secret);
                s.id = id_of(s.hub.task, s.hub.port);
                raw_pair(s.pair);
                pid_t pid = test_fork(points_at_memory, &s);
                /* Nobody introduces a pair of another's making. So the server does that itself, as if it had been made to. */
                const int to = raw_connect(s.hub.path);
                raw_adopt(to, s.pair[1]);
                close(s.pair[1]);
                struct pollfd p = {.fd = s.done.fd[0], .events = POLLIN},
                              turned = {.fd = s.turned.fd[0], .events = POLLIN};
                do {
                        struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf);
                        int r = wharf_recvmsg(s.hub.task, s.hub.port, &m, wharf_in_ms(20));
                        CHECK(r == 0 || r == -ETIMEDOUT);
                        if (r == 0) {
                                CHECK(!memchr(buf, 's', m.len_bytes));
                                CHECK_NE(m.how, WHARF_HOW_DIRECT);
                                if (m.reply)
                                        CHECK_EQ(wharf_reply(s.hub.task, m.reply, "sent", 4), 0);
                        }
                        if (turned.fd >= 0 && poll(&turned, 1, 0) == 1) {
                                raw_adopt(to, s.pair[0]);
                                turned.fd = -1;
                        }
                } while (poll(&p, 1, 0) == 0);
                stage_reach(&s.seen);
                CHECK_EQ(test_wait(pid), 0);
                close(to);
                close(s.pair[0]);
                stage_done(&s.turned);
                stage_done(&s.done);
                stage_done(&s.seen);
                hub_close(&s.hub);
        }
}

static pid_t doomed;

/* The kernel looks whether the sender lives: when its memory has been read, it does not any more. */
static int dies_when_it_was_read(enum wh_os_call call)
{
        static bool read_once;
        siginfo_t si;
        read_once |= call == WH_OS_process_vm_readv;
        if (read_once && doomed && call != WH_OS_process_vm_readv) {
                CHECK_EQ(kill(doomed, SIGKILL), 0);
                CHECK_EQ(waitid(P_PID, (id_t)doomed, &si, WEXITED | WNOWAIT), 0);
                doomed = 0;
        }
        return 0;
}

static int sends_directly(void *arg)
{
        wharf_name to;
        wharf_task *t = hub_join(arg, &to);
        struct wharf_msg m = MSG(.how = WHARF_HOW_DIRECT, .data = secret, .len_bytes = sizeof secret);
        for (unsigned i = 0; i < 20; i++) /* until there is a lane */
                CHECK_EQ(wharf_send(t, to, "x", 1, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_sendmsg(t, to, &m, WHARF_FOREVER), 0);
        return m.how == WHARF_HOW_DIRECT ? 1 : 0; /* alive: it could not be read here */
}

/*
 * Goal:   what was read from a process that was gone afterwards is believed by nobody: its number may have been another's
 *         while it was read.
 */
TEST(who_was_read_from_is_looked_at_once_more)
{
        struct hub h = hub_open(NULL);
        char buf[sizeof secret];
        pid_t pid = test_fork(sends_directly, &h);
        for (unsigned i = 0; i < 20; i++)
                CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, wharf_in_ms(60000)), 1);
        CHECK_EQ(wharf_port_listen(h.task, h.port, -1), 0); /* so that nobody else is waited for */
        doomed = pid;
        wh_os_gate = dies_when_it_was_read;
        struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf);
        int r = wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000));
        wh_os_gate = NULL;
        if (r == 0 && m.how != WHARF_HOW_DIRECT && doomed) {
                test_wait(pid);
                test_skip("this kernel does not let a process read another's memory");
        }
        CHECK_EQ(r, -ENOTCONN);
        CHECK_EQ(test_wait(pid), 128 + SIGKILL);
        hub_close(&h);
}

/* ---- ids that are none ---- */

struct nowhere {
        char path[96];
        struct stage out, in, ready;
        struct wharf_sender from;
};

static int hears_from_nowhere(void *arg)
{
        struct nowhere *s = arg;
        char c;
        CHECK_EQ(unshare(CLONE_NEWUSER), 0);
        stage_reach(&s->out);
        stage_await(&s->in); /* 0 has a number here, and nobody else */
        struct hub h = hub_open(NULL);
        memcpy(s->path, h.path, sizeof h.path);
        stage_reach(&s->ready);
        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, &s->from, wharf_in_ms(60000)), 1);
        hub_close(&h);
        return 0;
}

static int sends_one(void *arg)
{
        struct nowhere *s = arg;
        wharf_task *t;
        wharf_name to;
        become_stranger();
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_right_connect(t, s->path, &to), 0);
        CHECK_EQ(wharf_send(t, to, "x", 1, WHARF_FOREVER), 0);
        while (wharf_send(t, to, "x", 1, WHARF_FOREVER) == 0)
                usleep(1000);
        wharf_task_close(t);
        return 0;
}

/* Goal: a user for whom this user namespace has no number is nobody, and not the one whose number the kernel shows. */
TEST(an_id_that_cannot_be_shown_is_nobodys)
{
        struct nowhere *s = test_shared(sizeof *s);
        pid_t probe = fork();
        if (probe == 0)
                _exit(geteuid() != 0 || unshare(CLONE_NEWUSER) < 0);
        if (test_wait(probe))
                test_skip("needs root, and user namespaces");
        s->out = stage_new();
        s->in = stage_new();
        s->ready = stage_new();
        pid_t pid = test_fork(hears_from_nowhere, s);
        stage_await(&s->out);
        for (int i = 0; i < 2; i++) {
                char path[64];
                snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, i ? "gid_map" : "uid_map");
                int fd = open(path, O_WRONLY | O_CLOEXEC);
                CHECK_GE(fd, 0);
                CHECK_EQ(write(fd, "0 0 1", 5), 5);
                close(fd);
        }
        stage_reach(&s->in);
        stage_await(&s->ready);
        CHECK_EQ(test_wait(test_fork(sends_one, s)), 0);
        CHECK_EQ(test_wait(pid), 0);
        CHECK_EQ(s->from.known, WHARF_KNOWN_CONNECTED);
        CHECK(s->from.pid > 0);
        CHECK_EQ(s->from.uid, (uid_t)-1);
        CHECK_EQ(s->from.gid, (gid_t)-1);
        stage_done(&s->out);
        stage_done(&s->in);
        stage_done(&s->ready);
}

/* ---- ports from others ---- */

static int moves_a_port_that_lies(void *arg)
{
        struct binding *s = arg;
        wharf_name to, port, right;
        become_stranger();
        wharf_task *t = hub_join(&s->hub, &to);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        char c;
        CHECK_EQ(wharf_send(t, right, "x", 1, 0), 0);
        CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, 0), 1); /* its holder has bound, to us */
        CHECK_EQ(wharf_send(t, right, "I am init", 9, 0), 0);
        int err;
        struct wh_port *p = wh_port_lock(t, port, &err);
        CHECK(p);
        struct wh_link *l = &wh_container(p->links.next, struct wh_owned, in_port)->link;
        l->cred = (struct wh_cred){1, 0, 0, true};
        l->who.known = WHARF_KNOWN_BOUND;
        wh_unlock(&p->inbox->lock);
        struct wharf_item item = {.kind = WHARF_MOVE_RECEIVE, .name = port};
        CHECK_EQ(wharf_sendmsg(t, to, &MSG(.items = &item, .n_items = 1), WHARF_FOREVER), 0);
        stage_await(&s->seen);
        /* It hears now and then that it is asked to bind. */
        for (struct pollfd go = {.fd = s->seen.fd[0], .events = POLLIN}; poll(&go, 1, 0) == 0; usleep(300))
                CHECK_EQ(wharf_send(t, right, "no, I am not", 12, WHARF_FOREVER), 0);
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   whoever gives away a port does not say who its senders are: they are unknown until each has bound to the new
 *         owner, what was queued is told as the former owner's word, and that it was its word is told of all.
 */
TEST(the_senders_of_a_moved_port_are_unknown_until_they_have_bound)
{
        struct binding s = {.hub = hub_open(NULL), .seen = stage_new()};
        char buf[16];
        struct wharf_item item;
        struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf, .items = &item, .cap_items = 1);
        pid_t pid = test_fork(moves_a_port_that_lies, &s);
        CHECK_EQ(wharf_recvmsg(s.hub.task, s.hub.port, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(m.n_items, 1);
        CHECK_EQ(m.sender.known, WHARF_KNOWN_CONNECTED);
        wharf_name port = item.name;
        CHECK_EQ(wharf_recvmsg(s.hub.task, port, &m, wharf_in_ms(60000)), 0);
        CHECK_MEM(buf, "I am init", 9);
        CHECK_EQ(m.sender.known, WHARF_KNOWN_TOLD);
        CHECK_EQ(m.sender.pid, 0);
        CHECK_EQ(m.sender.uid, (uid_t)-1);
        CHECK_EQ(m.sender.told_pid, 1);
        CHECK_EQ(m.sender.told_uid, 0);
        CHECK_EQ(m.sender.introducer.known, WHARF_KNOWN_CONNECTED);
        CHECK_EQ(m.sender.introducer.pid, pid);
        CHECK_EQ(m.sender.introducer.uid, stranger());
        stage_reach(&s.seen);
        do
                CHECK_EQ(wharf_recvmsg(s.hub.task, port, &m, wharf_in_ms(60000)), 0);
        while (m.sender.known == WHARF_KNOWN_TOLD);
        CHECK_EQ(m.sender.known, WHARF_KNOWN_BOUND);
        CHECK_EQ(m.sender.pid, pid);
        CHECK_EQ(m.sender.uid, stranger());
        CHECK_EQ(m.sender.told_uid, (uid_t)-1);
        CHECK_EQ(m.sender.introducer.pid, pid); /* it still is who brought the port here */
        stage_reach(&s.seen);
        CHECK_EQ(test_wait(pid), 0);
        stage_done(&s.seen);
        hub_close(&s.hub);
}

/* ---- the directory ---- */

struct names {
        char socket[300];
        struct hub deputy;
        struct stage go;
};

static unsigned question(enum wh_names_op op, const char *name, void *buf)
{
        struct wh_names_request req = {.op = op};
        if (op == WH_NAMES_REGISTER)
                req.cookie = (struct wh_cookie){{1, 2}};
        strcpy(req.name, name);
        return (unsigned)wh_names_put_request(&req, buf);
}

static void raw_ask(int sock, uint64_t seq, uint32_t call, enum wh_names_op op, const char *name, int end)
{
        uint8_t buf[1 + WH_NAMES_REQUEST_MAX] = {WH_ITEM_SEND};
        const unsigned n = end >= 0, len = question(op, name, buf + n);
        struct wh_frame f = {.type = WH_FRAME_MESSAGE,
                             .to = WH_TO_OWNER,
                             .n_fds = (uint8_t)n,
                             .seq = seq,
                             .call = call,
                             .total = len,
                             .arg = WH_MSG_FIRST | WH_MSG_LAST};
        int r = wh_frame_send(sock, &f, buf, n + len, &end, false);
        CHECK(r == 0 || r == -EPIPE);
}

/* As itself; then with wharfd's own answer in the pair; then as whoever made the pair. */
static int registers_as_root(void *arg)
{
        struct names *s = arg;
        static uint8_t data[WH_COLD_MAX + WH_FDS_MAX];
        struct wh_frame f;
        int sv[2], pr[2];
        become_stranger();
        int to = raw_connect(s->socket);
        raw_pair(pr);
        raw_ask(to, 0, 1, WH_NAMES_REGISTER, "gate", pr[0]);
        CHECK(raw_await(to, WH_FRAME_MESSAGE, &f, data));
        CHECK_EQ(answer_of(data, f.len, WH_NAMES_REGISTER), -EACCES);
        raw_pair(sv);
        raw_adopt(to, sv[0]);
        raw_ask(sv[1], 0, 7, WH_NAMES_LOOKUP, "nobody", -1);
        CHECK(raw_await(sv[1], WH_FRAME_MESSAGE, &f, data));
        raw_adopt(to, sv[1]);
        close(sv[1]);
        raw_ask(sv[0], 1, 9, WH_NAMES_REGISTER, "gate", pr[0]);
        /* wharfd ends that link: which it has read, then. */
        struct pollfd p = {.fd = sv[0], .events = POLLRDHUP};
        CHECK_EQ(poll(&p, 1, 60000), 1);
        return 0;
}

/*
 * A service that asks whoever it is given what it was sent, with the other right that it is given, and says what was
 * answered.
 */
static int ask_for_others(struct names *s, enum wh_names_op op)
{
        wharf_task *t;
        wharf_name port;
        struct wharf_item items[2], got;
        char buf[WH_NAMES_REQUEST_MAX];
        uint8_t reply[256];
        const uint32_t n = op == WH_NAMES_REGISTER ? 2 : 1;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_port_listen(t, port, s->deputy.listen_fd), 0);
        struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf, .items = items, .cap_items = 2);
        CHECK_EQ(wharf_recvmsg(t, port, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(m.n_items, n);
        struct wharf_item item = {.kind = WHARF_COPY_SEND, .name = items[n - 1].name};
        struct wharf_msg q = MSG(.data = buf, .len_bytes = m.len_bytes, .items = &item, .n_items = n - 1);
        struct wharf_msg a = MSG(.data = reply, .cap_bytes = sizeof reply, .items = &got, .cap_items = 1);
        CHECK_EQ(wharf_callmsg(t, items[0].name, &q, &a, wharf_in_ms(60000)), 0);
        wharf_task_close(t);
        return -answer_of(reply, a.len_bytes, op);
}

static int looks_up_for_others(void *arg)
{
        return ask_for_others(arg, WH_NAMES_LOOKUP);
}

static int registers_for_others(void *arg)
{
        return ask_for_others(arg, WH_NAMES_REGISTER);
}

/* A stranger, who hands its connection to wharfd over to that service, with a question. */
static int have_others_ask(struct names *s, enum wh_names_op op, const char *name)
{
        wharf_name wharfd, to, port, right;
        char buf[WH_NAMES_REQUEST_MAX];
        wharf_task *t;
        become_stranger();
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_right_connect(t, s->socket, &wharfd), 0);
        CHECK_EQ(wharf_right_connect(t, s->deputy.path, &to), 0);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        struct wharf_item items[2] = {{.kind = WHARF_COPY_SEND, .name = wharfd},
                                      {.kind = WHARF_MOVE_SEND, .name = right}};
        struct wharf_msg m = MSG(.data = buf, .len_bytes = question(op, name, buf), .items = items,
                                 .n_items = op == WH_NAMES_REGISTER ? 2 : 1);
        CHECK_EQ(wharf_sendmsg(t, to, &m, WHARF_FOREVER), 0);
        stage_await(&s->go);
        wharf_task_close(t);
        return 0;
}

static int has_others_look_up(void *arg)
{
        return have_others_ask(arg, WH_NAMES_LOOKUP, "vault");
}

static int has_others_register(void *arg)
{
        return have_others_ask(arg, WH_NAMES_REGISTER, "bank");
}

/*
 * Goal:   wharfd decides by nobody else's name than the asker's: what it wrote itself is no question to it, and who asks
 *         because somebody handed over a connection to wharfd is not served as itself.
 */
TEST_TIMEOUT(wharfd_is_asked_in_nobody_elses_name, 60)
{
        if (geteuid())
                test_skip("needs root, whom to be taken for");
        const char *dir = test_domain();
        test_share_wharfd(dir, "own * uid=0\nuse * all\nuse vault uid=0\n");
        struct names s = {.deputy = hub_socket(), .go = stage_new()};
        snprintf(s.socket, sizeof s.socket, "%s/bootstrap", dir);
        wharf_task *t;
        wharf_name port, right;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_register(t, "vault", port), 0);
        CHECK_EQ(wharf_lookup(t, "vault", 0, &right), 0); /* root may */

        CHECK_EQ(test_wait(test_fork(registers_as_root, &s)), 0);
        CHECK_EQ(wharf_lookup(t, "gate", 0, &right), -ENOENT);

        pid_t asks = test_fork(looks_up_for_others, &s), attacker = test_fork(has_others_look_up, &s);
        CHECK_EQ(test_wait(asks), EACCES);
        stage_reach(&s.go);
        CHECK_EQ(test_wait(attacker), 0);
        wharf_task_close(t);
        stage_done(&s.go);
        close(s.deputy.listen_fd);
        test_stop_wharfd(dir);
}

/*
 * Goal:   a name that somebody was made to register is told as nobody's, where everybody may own it, and not as that of
 *         whoever was made to ask.
 * Method: a service of root registers what a stranger tells it to, over the stranger's own connection to wharfd.
 */
TEST_TIMEOUT(a_name_that_others_had_registered_is_told_as_nobodys, 60)
{
        if (geteuid())
                test_skip("needs root, whom to be taken for");
        const char *dir = test_domain();
        test_share_wharfd(dir, "own * all\nuse * all\n");
        struct names s = {.deputy = hub_socket(), .go = stage_new()};
        snprintf(s.socket, sizeof s.socket, "%s/bootstrap", dir);
        pid_t asks = test_fork(registers_for_others, &s), attacker = test_fork(has_others_register, &s);
        CHECK_EQ(test_wait(asks), 0);
        wharf_task *t;
        struct wharf_named *all;
        size_t n;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_names_list(t, &all, &n), 0);
        CHECK_EQ(n, 1);
        CHECK_STR(all[0].name, "bank");
        CHECK_EQ(all[0].known, WHARF_KNOWN_NOT);
        CHECK_EQ(all[0].pid, 0);
        CHECK_EQ(all[0].uid, (uid_t)-1);
        free(all);
        stage_reach(&s.go);
        CHECK_EQ(test_wait(attacker), 0);
        wharf_task_close(t);
        stage_done(&s.go);
        close(s.deputy.listen_fd);
        test_stop_wharfd(dir);
}

/* Goal: the id of a sender that is gone is never another one's, though its place in the table is used again. */
TEST(no_two_senders_have_one_id)
{
        enum { SENDERS = 300 };
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        uint64_t last = 0;
        for (int i = 0; i < SENDERS; i++) {
                wharf_name right;
                char c;
                struct wharf_sender who;
                CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
                CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), 0);
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, &who, wharf_in_ms(60000)), 1);
                CHECK_EQ(wharf_drop(h.task, right), 0);
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), -EAGAIN);
                CHECK_GE(who.id >> 20, (last >> 20) + 1); /* whatever place it has, it counts on */
                if (last)
                        CHECK_EQ(wharf_revoke(h.task, h.port, last, 0), -ENOENT);
                last = who.id;
        }
        hub_close(&h);
}

/*
 * Goal:   nobody introduces an end that somebody else has made, such as that of its own link: it would wait for a place behind itself.
 * Method: over a connection, that very connection, and a pair that the server has made.
 */
static int introduces_what_it_has(void *arg)
{
        struct binding *s = arg;
        for (int way = 0; way < 2; way++) {
                static uint8_t data[WH_COLD_MAX + WH_FDS_MAX];
                struct wh_frame f;
                int to = raw_connect(s->hub.path);
                raw_adopt(to, way ? s->pair[1] : to);
                CHECK(!raw_await(to, WH_FRAME_MESSAGE, &f, data)); /* it ends */
                close(to);
        }
        return 0;
}

TEST(what_another_has_made_is_not_introduced)
{
        struct binding s = {.hub = hub_open(PORT_OPTS(.links_max = 1, .flags = WHARF_PORT_STAYS))};
        struct wharf_port_stat st = {.size = sizeof st};
        raw_pair(s.pair);
        pid_t pid = test_fork(introduces_what_it_has, &s);
        siginfo_t si = {0};
        while (si.si_pid == 0) {
                CHECK_EQ(wharf_recv(s.hub.task, s.hub.port, &(char){0}, 1, NULL, wharf_in_ms(10)), -ETIMEDOUT);
                CHECK_EQ(waitid(P_PID, (id_t)pid, &si, WEXITED | WNOWAIT | WNOHANG), 0);
        }
        CHECK_EQ(test_wait(pid), 0);
        do {
                CHECK_EQ(wharf_recv(s.hub.task, s.hub.port, &(char){0}, 1, NULL, wharf_in_ms(10)), -ETIMEDOUT);
                CHECK_EQ(wharf_port_stat(s.hub.task, s.hub.port, &st), 0);
        } while (st.senders);
        CHECK_EQ(st.refused_links, 2);
        close(s.pair[0]);
        close(s.pair[1]);
        hub_close(&s.hub);
}
