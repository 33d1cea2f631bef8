/*
 * Send-once rights: made, moved, used exactly once, never copied; what their port hears when they are not used; and
 * what can be done with every kind of right.
 */
#include "hub.h"

#include "lane/lane.h"
#include "link/frame.h"
#include "link/identity.h"

#include <sys/resource.h>

static struct wharf_msg next_notice(wharf_task *t, wharf_name port)
{
        struct wharf_msg m = MSG();
        CHECK_EQ(wharf_recvmsg(t, port, &m, WHARF_FOREVER), 0);
        return m;
}

static void check_unused(wharf_task *t, wharf_name port)
{
        struct wharf_msg m = next_notice(t, port);
        CHECK_EQ(m.notice, WHARF_NOTICE_ONCE_UNUSED);
        CHECK_EQ(m.about, port);
        CHECK_EQ(m.port, port);
        CHECK_NE(m.sender.id, 0);
        CHECK_EQ(m.len_bytes, 0);
}

static uint32_t links_of(wharf_task *t, wharf_name port)
{
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(t, port, &st), 0);
        return st.senders;
}

/* ---- used once, by each call that sends ---- */

TEST(a_once_right_takes_one_message_and_its_name_is_gone)
{
        struct hub h = hub_open(NULL);
        for (int way = 0; way < 4; way++) {
                wharf_name once;
                char buf[16];
                struct wharf_msg m = MSG(.data = BYTES("one"), .len_bytes = 3);
                CHECK_EQ(wharf_once_new(h.task, h.port, &once), 0);
                CHECK_EQ(wharf_name_kind(h.task, once), WHARF_KIND_REPLY);
                switch (way) {
                case 0:
                        CHECK_EQ(wharf_send(h.task, once, "one", 3, 0), 0);
                        break;
                case 1:
                        CHECK_EQ(wharf_sendmsg(h.task, once, &m, 0), 0);
                        break;
                case 2:
                        CHECK_EQ(wharf_reply(h.task, once, "one", 3), 0);
                        break;
                default:
                        CHECK_EQ(wharf_replymsg(h.task, once, &m), 0);
                }
                CHECK_EQ(wharf_name_kind(h.task, once), -EBADF);
                CHECK_EQ(wharf_send(h.task, once, "two", 3, 0), -EBADF);
                CHECK_EQ(wharf_reply(h.task, once, "two", 3), -EBADF);
                CHECK_EQ(wharf_drop(h.task, once), -EBADF);
                CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), 3);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN); /* and no notice */
                CHECK_EQ(links_of(h.task, h.port), 0);
        }
        hub_close(&h);
}

/* The answer to a call is a send-once right as well: wharf_send() and wharf_sendmsg() use it. */
static int ask_twice(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        for (unsigned i = 0; i < 2; i++) {
                char buf[16];
                CHECK_EQ(wharf_call(t, hub, "?", 1, buf, sizeof buf, WHARF_FOREVER), 5);
                CHECK_MEM(buf, "reply", 5);
        }
        wharf_task_close(t);
        return 0;
}

TEST(a_reply_right_is_a_once_right)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(ask_twice, &h);
        for (unsigned i = 0; i < 2; i++) {
                char buf[4];
                struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_name_kind(h.task, m.reply), WHARF_KIND_REPLY);
                struct wharf_msg out = MSG(.data = BYTES("reply"), .len_bytes = 5);
                CHECK_EQ(i ? wharf_sendmsg(h.task, m.reply, &out, 0) : wharf_send(h.task, m.reply, "reply", 5, 0), 0);
                CHECK_EQ(wharf_send(h.task, m.reply, "again", 5, 0), -EBADF);
        }
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* After a failure that has nothing to do with the other side, the right is there for another try. */
static int ask_for_little(void *arg)
{
        wharf_name hub, port;
        wharf_task *t = hub_join(arg, &hub);
        char buf[16];
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.payload_bytes_max = 1000), &port), 0);
        struct wharf_item it = {.kind = WHARF_MAKE_ONCE, .name = port};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1), a = MSG(.data = buf, .cap_bytes = sizeof buf);
        CHECK_EQ(wharf_callmsg(t, hub, &m, &a, WHARF_FOREVER), 0);
        CHECK_EQ(a.len_bytes, 2);
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, WHARF_FOREVER), 2);
        wharf_task_close(t);
        return 0;
}

TEST(a_once_right_outlives_a_failed_try)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(ask_for_little, &h);
        struct wharf_item got, bad = {.kind = WHARF_COPY_SEND, .name = 0x7fffffff};
        struct wharf_msg m = MSG(.items = &got, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(got.kind, WHARF_GOT_REPLY);
        static char large[1001];
        CHECK_EQ(wharf_send(h.task, got.name, large, sizeof large, 0), -EMSGSIZE);
        struct wharf_msg out = MSG(.items = &bad, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(h.task, got.name, &out, 0), -EBADF);
        CHECK_EQ(wharf_replymsg(h.task, m.reply, &out), -EBADF);
        CHECK_EQ(wharf_reply(h.task, m.reply, "ok", 2), 0);
        CHECK_EQ(wharf_reply(h.task, got.name, "ok", 2), 0);
        CHECK_EQ(wharf_name_kind(h.task, got.name), -EBADF);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* Any size goes with it, and rights inside. */
TEST(a_once_right_carries_any_message)
{
        struct hub h = hub_open(NULL);
        static const size_t sizes[] = {0, 1, 256, 16 << 10, (16 << 10) + 1, 1 << 20, 9 << 20};
        static char bytes[9 << 20], buf[9 << 20];
        pattern_fill(bytes, sizeof bytes, 5);
        for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
                wharf_name once, inner;
                CHECK_EQ(wharf_once_new(h.task, h.port, &once), 0);
                CHECK_EQ(wharf_once_new(h.task, h.port, &inner), 0);
                struct wharf_item it = {.kind = WHARF_MOVE_REPLY, .name = inner}, got;
                struct wharf_msg m = MSG(.data = bytes, .len_bytes = sizes[i], .items = &it, .n_items = 1, .id = 9);
                CHECK_EQ(wharf_sendmsg(h.task, once, &m, 0), 0);
                struct wharf_msg r = MSG(.data = buf, .cap_bytes = sizeof buf, .items = &got, .cap_items = 1);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &r, 0), 0);
                CHECK_EQ(r.len_bytes, sizes[i]);
                CHECK_EQ(r.id, 9);
                CHECK_MEM(bytes, buf, sizes[i]);
                CHECK_EQ(got.kind, WHARF_GOT_REPLY);
                CHECK_EQ(wharf_drop(h.task, got.name), 0);
                check_unused(h.task, h.port);
        }
        hub_close(&h);
}

/* From task to task to task: the last one uses it, and is the one whom the port sees. */
static int pass_on(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        char buf[8];
        struct wharf_item got;
        struct wharf_msg reply = MSG(.items = &got, .cap_items = 1), req = MSG(.id = 1);
        CHECK_EQ(wharf_callmsg(t, hub, &req, &reply, WHARF_FOREVER), 0);
        CHECK_EQ(got.kind, WHARF_GOT_REPLY);
        CHECK_EQ(wharf_name_kind(t, got.name), WHARF_KIND_REPLY);
        /* Half of them hand it back by a move, half use it. */
        CHECK_EQ(wharf_call(t, hub, &got.name, sizeof got.name, buf, sizeof buf, WHARF_FOREVER), 1);
        if (buf[0] == 'u') {
                CHECK_EQ(wharf_send(t, got.name, "used", 4, 0), 0);
        } else {
                struct wharf_item it = {.kind = WHARF_MOVE_REPLY, .name = got.name};
                struct wharf_msg back = MSG(.items = &it, .n_items = 1, .id = 2);
                CHECK_EQ(wharf_sendmsg(t, hub, &back, WHARF_FOREVER), 0);
        }
        CHECK_EQ(wharf_name_kind(t, got.name), -EBADF);
        wharf_task_close(t);
        return 0;
}

TEST(a_once_right_moves_from_task_to_task)
{
        struct hub h = hub_open(NULL);
        wharf_name port, once;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_once_new(h.task, port, &once), 0);
        char buf[16];
        for (unsigned i = 0; i < 4; i++) {
                pid_t pid = test_fork(pass_on, &h);
                struct wharf_item it = {.kind = WHARF_MOVE_REPLY, .name = once}, got;
                struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf, .items = &got, .cap_items = 1);
                struct wharf_msg a = MSG(.items = &it, .n_items = 1);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_replymsg(h.task, m.reply, &a), 0);
                CHECK_EQ(wharf_name_kind(h.task, once), -EBADF);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_reply(h.task, m.reply, i == 3 ? "u" : "m", 1), 0);
                if (i < 3) {
                        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                        CHECK_EQ(m.n_items, 1);
                        once = got.name;
                } else {
                        struct wharf_sender from;
                        CHECK_EQ(wharf_recv(h.task, port, buf, sizeof buf, &from, WHARF_FOREVER), 4);
                        CHECK_EQ(from.pid, pid);
                }
                CHECK_EQ(test_wait(pid), 0);
        }
        hub_close(&h);
}

/* ---- not used ---- */

static int take_and_die(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        struct wharf_item got;
        struct wharf_msg reply = MSG(.items = &got, .cap_items = 1), req = MSG();
        CHECK_EQ(wharf_callmsg(t, hub, &req, &reply, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_send(t, hub, "got it", 6, WHARF_FOREVER), 0);
        pause();
        return 0;
}

TEST(a_once_right_that_is_dropped_is_told_to_its_port)
{
        struct hub h = hub_open(NULL);
        wharf_name once;
        CHECK_EQ(wharf_once_new(h.task, h.port, &once), 0);
        struct wharf_msg m = MSG();
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
        CHECK_EQ(wharf_drop(h.task, once), 0);
        check_unused(h.task, h.port);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
        hub_close(&h);
}

TEST(a_once_right_whose_holder_is_killed_is_told_to_its_port)
{
        struct hub h = hub_open(NULL);
        wharf_name port;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        pid_t pid = test_fork(take_and_die, &h);
        char buf[16];
        struct wharf_item it = {.kind = WHARF_MAKE_ONCE, .name = port};
        struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf), a = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_replymsg(h.task, m.reply, &a), 0);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_recvmsg(h.task, port, &m, 0), -EAGAIN);
        kill_hard(pid);
        check_unused(h.task, port);
        hub_close(&h);
}

/* In an unread message, whose port is closed: as if its holder had died. */
TEST(a_once_right_in_an_unread_message_is_told_to_its_port)
{
        struct hub h = hub_open(NULL);
        wharf_name port, right;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        struct wharf_item it = {.kind = WHARF_MAKE_ONCE, .name = h.port};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
        CHECK_EQ(wharf_drop(h.task, port), 0);
        check_unused(h.task, h.port);
        hub_close(&h);
}

/* A message that could not be sent leaves no right and no notice behind. */
TEST(a_once_right_of_a_failed_message_was_never_made)
{
        struct hub h = hub_open(NULL);
        wharf_name port, right;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        CHECK_EQ(wharf_drop(h.task, port), 0);
        struct wharf_item it = {.kind = WHARF_MAKE_ONCE, .name = h.port};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), -EPIPE);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
        CHECK_EQ(links_of(h.task, h.port), 0);
        hub_close(&h);
}

TEST(a_once_right_to_a_closed_port_is_a_dead_name)
{
        struct hub h = hub_open(NULL);
        wharf_name port, once, other;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_once_new(h.task, port, &once), 0);
        CHECK_EQ(wharf_once_new(h.task, port, &other), 0);
        CHECK_EQ(wharf_watch(h.task, other, h.port), 0);
        CHECK_EQ(wharf_drop(h.task, port), 0);
        CHECK_EQ(wharf_send(h.task, once, "x", 1, 0), -EPIPE);
        CHECK_EQ(wharf_name_kind(h.task, once), -EBADF);
        struct wharf_msg m = next_notice(h.task, h.port);
        CHECK_EQ(m.notice, WHARF_NOTICE_DEAD_NAME);
        CHECK_EQ(m.about, other);
        hub_close(&h);
}

TEST(a_once_right_counts_as_one_who_may_still_send)
{
        struct hub h = hub_open(NULL);
        wharf_name port, once;
        char c;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, WHARF_FOREVER), -ENOTCONN);
        CHECK_EQ(wharf_once_new(h.task, port, &once), 0);
        CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_send(h.task, once, "x", 1, 0), 0);
        CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, WHARF_FOREVER), 1);
        CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, WHARF_FOREVER), -ENOTCONN);
        hub_close(&h);
}

/* ---- those that cheat ---- */

static void frame(int sock, uint8_t type, uint64_t seq, uint32_t arg, uint32_t call, const int *fds, unsigned n_fds)
{
        struct wh_frame f = {.type = type,
                             .to = type == WH_FRAME_MESSAGE ? WH_TO_ONCE : WH_TO_OWNER,
                             .seq = seq,
                             .arg = arg,
                             .call = call,
                             .total = 1,
                             .n_fds = (uint8_t)n_fds};
        bool has_bytes = type == WH_FRAME_MESSAGE;
        CHECK_EQ(wh_frame_send(sock, &f, "x", has_bytes, fds, false), 0);
}

/* The raw socket of a send-once right, as a cheat would use it. */
static int raw_once(struct hub *h, wharf_name port)
{
        /* The kernel hands the descriptor to a receiver that is no library. */
        int fd = -1;
        unsigned before = count_fds();
        wharf_name once;
        CHECK_EQ(wharf_once_new(h->task, port, &once), 0);
        CHECK_GE(count_fds(), before + 2);
        /* The holder's end is the newest socket of this process: the highest number that is one. */
        for (int i = 2047; i > 2 && fd < 0; i--) {
                int type;
                socklen_t len = sizeof type;
                if (getsockopt(i, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_SEQPACKET) {
                        char greeting[80];
                        if (recv(i, greeting, sizeof greeting, MSG_PEEK | MSG_DONTWAIT) > 40)
                                fd = dup(i);
                }
        }
        CHECK_GE(fd, 0);
        return fd;
}

TEST(a_second_message_on_a_once_right_is_a_breach)
{
        struct hub h = hub_open(NULL);
        char c;
        int s = raw_once(&h, h.port);
        frame(s, WH_FRAME_MESSAGE, 0, WH_MSG_FIRST | WH_MSG_LAST, 0, NULL, 0);
        frame(s, WH_FRAME_MESSAGE, 1, WH_MSG_FIRST | WH_MSG_LAST, 0, NULL, 0);
        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), 1);
        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), -EAGAIN);
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(h.task, h.port, &st), 0);
        CHECK_EQ(st.senders, 0);
        CHECK_EQ(st.refused_links, 1);
        close(s);
        hub_close(&h);
}

/* One who keeps the right after its message keeps nothing: the link ends, and no one counts as a sender for it. */
TEST(the_owner_ends_a_once_right_after_its_message)
{
        struct hub h = hub_open(NULL);
        char c;
        int s = raw_once(&h, h.port);
        frame(s, WH_FRAME_MESSAGE, 0, WH_MSG_FIRST | WH_MSG_LAST, 0, NULL, 0);
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(h.task, h.port, &st), 0);
        CHECK_EQ(st.once_rights, 1);
        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), 1);
        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), -EAGAIN);
        CHECK_EQ(links_of(h.task, h.port), 0);
        CHECK_EQ(wharf_port_stat(h.task, h.port, &st), 0);
        CHECK_EQ(st.once_rights, 0);
        close(s);
        hub_close(&h);
}

/* What only a send right may do ends the link; the port hears that the right went unused. */
TEST(a_once_right_does_nothing_but_send_once)
{
        struct hub h = hub_open(NULL);
        for (int way = 0; way < 6; way++) {
                int pair[2], s = raw_once(&h, h.port);
                CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
                switch (way) {
                case 0:
                        frame(s, WH_FRAME_ADOPT, 0, 0, 0, pair, 1);
                        break;
                case 1:
                        frame(s, WH_FRAME_REBIND, 0, 0, 0, pair, 1);
                        break;
                case 2:
                        frame(s, WH_FRAME_ATTACH, 0, 0, 0, pair, 2);
                        break;
                case 3: /* a message that asks for an answer */
                        frame(s, WH_FRAME_MESSAGE, 0, WH_MSG_FIRST | WH_MSG_LAST, 7, NULL, 0);
                        break;
                case 4: /* the beginning of one */
                        frame(s, WH_FRAME_MESSAGE, 0, WH_MSG_FIRST, 0, NULL, 0);
                        break;
                case 5: /* the second one before the first */
                        frame(s, WH_FRAME_MESSAGE, 1, WH_MSG_FIRST | WH_MSG_LAST, 0, NULL, 0);
                }
                close(pair[0]);
                close(pair[1]);
                check_unused(h.task, h.port);
                CHECK_EQ(links_of(h.task, h.port), 0);
                close(s);
        }
        hub_close(&h);
}

/* Goal: the same of frames that are right in all else: what a sender may say, and whoever has a send-once right may not. */
TEST(a_once_right_says_nothing_that_a_sender_says)
{
        static const enum wh_frame_type types[] = {WH_FRAME_ADOPT, WH_FRAME_REBIND, WH_FRAME_GIVEN, WH_FRAME_WHO,
                                                   WH_FRAME_ATTACH};
        struct hub h = hub_open(NULL);
        for (unsigned i = 0; i < sizeof types / sizeof *types; i++) {
                int pair[2], s = raw_once(&h, h.port);
                CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
                struct wh_lane_tx *lane;
                CHECK_EQ(wh_lane_tx_new(4096, 16, &lane), 0);
                struct wh_origin said = {.known = WHARF_KNOWN_NOBODY};
                struct wh_frame f = {.type = (uint8_t)types[i], .to = WH_TO_ONCE, .seq = types[i] == WH_FRAME_WHO};
                int fds[2] = {types[i] == WH_FRAME_ATTACH ? lane->out_fd : pair[0], lane->back_fd};
                size_t len = types[i] == WH_FRAME_REBIND || types[i] == WH_FRAME_GIVEN ? sizeof said : 0;
                f.n_fds = types[i] == WH_FRAME_ATTACH ? 2 : types[i] == WH_FRAME_ADOPT || types[i] == WH_FRAME_REBIND;
                CHECK_EQ(wh_frame_send(s, &f, &said, len, fds, false), 0);
                struct wharf_msg m = MSG();
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(5000)), 0);
                CHECK_EQ(m.notice, WHARF_NOTICE_ONCE_UNUSED);
                struct wharf_port_stat st = {.size = sizeof st};
                CHECK_EQ(wharf_port_stat(h.task, h.port, &st), 0);
                CHECK_EQ(st.senders, 0);
                CHECK_EQ(st.refused_links, i + 1);
                wh_lane_tx_free(lane);
                close(pair[0]);
                close(pair[1]);
                close(s);
        }
        hub_close(&h);
}

/* ---- every kind of right, and everything that can be done with it ---- */

enum { ABOUT_SEND, ABOUT_USED, ABOUT_DEAD, ABOUT_PORT, ABOUT_SET, ABOUT_ONCE, ABOUT_REPLY, ABOUT_NOTHING, ABOUTS };
static const char *const about_text[] = {
        "a fresh send right", "a used send right", "a dead send right",      "a port", "a set",
        "a send-once right",  "a right to answer", "a name that was dropped"};
static const uint32_t kinds[] = {WHARF_MAKE_SEND, WHARF_MAKE_ONCE, WHARF_COPY_SEND, WHARF_MOVE_SEND, WHARF_MOVE_REPLY};
/* By kind of right and disposition; then by wharf_drop(). */
static const int result[ABOUTS][6] = {
        /*                 MAKE_SEND MAKE_ONCE COPY_SEND MOVE_SEND MOVE_REPLY drop */
        [ABOUT_SEND] = {-EPERM, -EPERM, 0, 0, -EPERM, 0},
        [ABOUT_USED] = {-EPERM, -EPERM, 0, 0, -EPERM, 0},
        [ABOUT_DEAD] = {-EPERM, -EPERM, -EPIPE, -EPIPE, -EPERM, 0},
        [ABOUT_PORT] = {0, 0, -EPERM, -EPERM, -EPERM, 0},
        [ABOUT_SET] = {-EPERM, -EPERM, -EPERM, -EPERM, -EPERM, 0},
        [ABOUT_ONCE] = {-EPERM, -EPERM, -EPERM, -EPERM, 0, 0},
        [ABOUT_REPLY] = {-EPERM, -EPERM, -EPERM, -EPERM, 0, 0},
        [ABOUT_NOTHING] = {-EBADF, -EBADF, -EBADF, -EBADF, -EBADF, -EBADF},
};

static wharf_name make_about(struct hub *h, int which, wharf_name other_port, uint32_t *call, wharf_name *call_right)
{
        wharf_name name = WHARF_NONE, port;
        char c;
        *call_right = WHARF_NONE;
        switch (which) {
        case ABOUT_SEND:
                CHECK_EQ(wharf_right_new(h->task, other_port, &name), 0);
                break;
        case ABOUT_USED:
                CHECK_EQ(wharf_right_new(h->task, other_port, &name), 0);
                CHECK_EQ(wharf_send(h->task, name, "x", 1, 0), 0);
                CHECK_EQ(wharf_recv(h->task, other_port, &c, 1, NULL, 0), 1);
                break;
        case ABOUT_DEAD:
                CHECK_EQ(wharf_port_new(h->task, NULL, &port), 0);
                CHECK_EQ(wharf_right_new(h->task, port, &name), 0);
                CHECK_EQ(wharf_send(h->task, name, "x", 1, 0), 0);
                CHECK_EQ(wharf_drop(h->task, port), 0);
                CHECK(wh_os_closer_rest(wharf_in_ms(60000))); /* the pair that it made lay there unread */
                break;
        case ABOUT_PORT:
                CHECK_EQ(wharf_port_new(h->task, NULL, &name), 0);
                break;
        case ABOUT_SET:
                CHECK_EQ(wharf_set_new(h->task, &name), 0);
                break;
        case ABOUT_ONCE:
                CHECK_EQ(wharf_once_new(h->task, other_port, &name), 0);
                break;
        case ABOUT_REPLY: {
                struct wharf_msg q = MSG(), r = MSG();
                CHECK_EQ(wharf_right_new(h->task, other_port, call_right), 0);
                CHECK_EQ(wharf_call_start(h->task, *call_right, &q, WHARF_NONE, 0, call), 0);
                CHECK_EQ(wharf_recvmsg(h->task, other_port, &r, 0), 0);
                name = r.reply;
                break;
        }
        case ABOUT_NOTHING:
                CHECK_EQ(wharf_once_new(h->task, other_port, &name), 0);
                CHECK_EQ(wharf_drop(h->task, name), 0);
        }
        return name;
}

TEST(make_copy_move_and_drop_for_every_kind_of_right)
{
        for (int a = 0; a < ABOUTS; a++) {
                for (int d = 0; d < 6; d++) {
                        struct hub h = hub_open(NULL);
                        wharf_name right, port, call_right;
                        uint32_t call = 0;
                        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
                        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
                        wharf_name name = make_about(&h, a, port, &call, &call_right);
                        int kind = wharf_name_kind(h.task, name);
                        struct wharf_item it = {.kind = d < 5 ? kinds[d] : 0, .name = name}, got;
                        struct wharf_msg m = MSG(.items = &it, .n_items = 1), r = MSG(.items = &got, .cap_items = 1);
                        int did = d < 5 ? wharf_sendmsg(h.task, right, &m, 0) : wharf_drop(h.task, name);
                        if (did != result[a][d])
                                test_fail(__FILE__, __LINE__, "%s, disposition %u: %d, expected %d", about_text[a],
                                          it.kind, did, result[a][d]);
                        bool gone = did == 0 && d >= 3;
                        CHECK_EQ(wharf_name_kind(h.task, name), gone ? -EBADF : kind);
                        if (did == 0 && d < 5) {
                                CHECK_EQ(wharf_recvmsg(h.task, h.port, &r, 0), 0);
                                CHECK_EQ(r.n_items, 1);
                                CHECK_EQ(got.kind, d == 1 || d == 4 ? WHARF_GOT_REPLY : WHARF_GOT_SEND);
                                CHECK_EQ(wharf_send(h.task, got.name, "it works", 8, 0), 0);
                        }
                        hub_close(&h);
                }
        }
}

/* By the calls that need no message, too. */
TEST(a_once_right_cannot_be_copied_called_or_lent)
{
        struct hub h = hub_open(NULL);
        wharf_name once, name = 77;
        char buf[4];
        CHECK_EQ(wharf_once_new(h.task, h.port, &once), 0);
        CHECK_EQ(wharf_right_copy(h.task, once, 0, &name), -EPERM);
        CHECK_EQ(name, 77);
        CHECK_EQ(wharf_call(h.task, once, "?", 1, buf, sizeof buf, 0), -EPERM);
        struct wharf_msg m = MSG();
        CHECK_EQ(wharf_reserve(h.task, once, 100, &m, 0), -EPERM);
        CHECK_EQ(wharf_right_new(h.task, once, &name), -EPERM);
        CHECK_EQ(wharf_once_new(h.task, once, &name), -EPERM);
        CHECK_EQ(wharf_send(h.task, once, "x", 1, 0), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), 1);
        hub_close(&h);
}

/* ---- a right inside a message over itself ---- */

TEST(a_right_to_a_port_is_sent_through_that_same_port)
{
        struct hub h = hub_open(NULL);
        static const uint32_t forms[] = {WHARF_MAKE_SEND, WHARF_MAKE_ONCE, WHARF_COPY_SEND, WHARF_MOVE_SEND};
        for (unsigned used = 0; used < 2; used++) {
                for (unsigned i = 0; i < 4; i++) {
                        wharf_name right;
                        char buf[8];
                        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
                        if (used) {
                                CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), 0);
                                CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), 1);
                        }
                        struct wharf_item it = {.kind = forms[i], .name = i < 2 ? h.port : right}, got;
                        struct wharf_msg m = MSG(.items = &it, .n_items = 1), r = MSG(.items = &got, .cap_items = 1);
                        CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
                        CHECK_EQ(wharf_name_kind(h.task, right), i == 3 ? -EBADF : WHARF_KIND_SEND);
                        CHECK_EQ(wharf_recvmsg(h.task, h.port, &r, 0), 0);
                        CHECK_EQ(wharf_send(h.task, got.name, "round", 5, 0), 0);
                        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), 5);
                        if (i < 3)
                                CHECK_EQ(wharf_drop(h.task, right), 0);
                        if (forms[i] != WHARF_MAKE_ONCE)
                                CHECK_EQ(wharf_drop(h.task, got.name), 0);
                        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), -EAGAIN);
                        CHECK_EQ(links_of(h.task, h.port), 0);
                }
        }
        hub_close(&h);
}

TEST(a_moved_right_is_in_a_message_once)
{
        struct hub h = hub_open(NULL);
        wharf_name right, other, once;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &other), 0);
        CHECK_EQ(wharf_once_new(h.task, h.port, &once), 0);
        int fd = dup(h.listen_fd);
        const struct wharf_item pairs[][2] = {
                {{.kind = WHARF_MOVE_SEND, .name = other}, {.kind = WHARF_MOVE_SEND, .name = other}},
                {{.kind = WHARF_MOVE_SEND, .name = other}, {.kind = WHARF_COPY_SEND, .name = other}},
                {{.kind = WHARF_COPY_SEND, .name = other}, {.kind = WHARF_MOVE_SEND, .name = other}},
                {{.kind = WHARF_MOVE_REPLY, .name = once}, {.kind = WHARF_MOVE_REPLY, .name = once}},
                {{.kind = WHARF_MOVE_FD, .fd = fd}, {.kind = WHARF_MOVE_FD, .fd = fd}},
                {{.kind = WHARF_COPY_FD, .fd = fd}, {.kind = WHARF_MOVE_FD, .fd = fd}},
        };
        for (unsigned i = 0; i < sizeof pairs / sizeof *pairs; i++) {
                struct wharf_item items[2] = {pairs[i][0], pairs[i][1]};
                struct wharf_msg m = MSG(.items = items, .n_items = 2);
                CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), -EINVAL);
                CHECK_NE(wharf_why()[0], 0);
        }
        CHECK_EQ(wharf_name_kind(h.task, other), WHARF_KIND_SEND);
        CHECK_EQ(wharf_name_kind(h.task, once), WHARF_KIND_REPLY);
        close(fd);
        /* A send-once right has one message, so it cannot carry itself; a call needs its right for the answer. */
        struct wharf_item self = {.kind = WHARF_MOVE_REPLY, .name = once};
        struct wharf_msg m = MSG(.items = &self, .n_items = 1), r = MSG();
        CHECK_EQ(wharf_sendmsg(h.task, once, &m, 0), -EINVAL);
        self = (struct wharf_item){.kind = WHARF_MOVE_SEND, .name = right};
        CHECK_EQ(wharf_callmsg(h.task, right, &m, &r, 0), -EINVAL);
        CHECK_EQ(wharf_name_kind(h.task, right), WHARF_KIND_SEND);
        hub_close(&h);
}

/* ---- many delegated replies on one right ---- */

enum { DELEGATED = 100 };

/* Every reply is answered through a pair of its own; all of them are waited for, in any order. */
static int ask_many(void *arg)
{
        wharf_name hub;
        wharf_task *t = hub_join(arg, &hub);
        uint32_t call[DELEGATED];
        for (uint32_t i = 0; i < DELEGATED; i++) {
                struct wharf_msg q = MSG(.data = &i, .len_bytes = sizeof i);
                CHECK_EQ(wharf_call_start(t, hub, &q, WHARF_NONE, WHARF_FOREVER, &call[i]), 0);
        }
        for (uint32_t i = DELEGATED; i-- > 0;) {
                uint32_t got = DELEGATED;
                struct wharf_msg a = MSG(.data = &got, .cap_bytes = sizeof got);
                CHECK_EQ(wharf_call_finish(t, hub, call[i], &a, WHARF_FOREVER), 0);
                CHECK_EQ(got, i);
        }
        wharf_task_close(t);
        return 0;
}

TEST(a_hundred_delegated_replies_on_one_right)
{
        struct rlimit many = {4096, 4096};
        setrlimit(RLIMIT_NOFILE, &many);
        struct hub h = hub_open(PORT_OPTS(.unread_rights_max = 250));
        wharf_name port, right, got[DELEGATED];
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        pid_t pid = test_fork(ask_many, &h);
        for (uint32_t i = 0; i < DELEGATED; i++) {
                uint32_t number;
                struct wharf_item item;
                struct wharf_msg m = MSG(.data = &number, .cap_bytes = sizeof number);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                struct wharf_item it = {.kind = WHARF_MOVE_REPLY, .name = m.reply};
                struct wharf_msg on = MSG(.items = &it, .n_items = 1), r = MSG(.items = &item, .cap_items = 1);
                CHECK_EQ(wharf_sendmsg(h.task, right, &on, 0), 0);
                CHECK_EQ(wharf_recvmsg(h.task, port, &r, 0), 0);
                got[number] = item.name;
        }
        await_asleep(pid);
        /* The last ones first: those that thirty-one places would have left out. */
        for (uint32_t i = DELEGATED; i-- > 0;)
                CHECK_EQ(wharf_reply(h.task, got[i], &i, sizeof i), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}
