/*
 * Quotas: what one user's senders do, however many they are, leaves something for the next one; and a receiver with a
 * soft limit of 1024 descriptors never runs out of them because of a sender.
 */
#include "hub.h"
#include "port/frame.h"
#include "port/link.h"
#include "port/quota.h"

#include <poll.h>
#include <stdatomic.h>
#include <sys/resource.h>

enum { LIMIT = 1024, MINE = 65534, USER_A = 61001, USER_B = 61002 };

/* ---- the rule itself ---- */

TEST(each_user_gets_a_share_of_what_the_others_left)
{
        const uint64_t all = 1ull << 50;
        enum wh_quota_of of = WH_QUOTA_BYTES;
        struct wh_quota q = {.self = MINE, .max = {1000, 1000, all}};
        CHECK_EQ(wh_quota_left(&q, USER_A, of), all / 2); /* 1/(n+1), the asker being one of the n */
        CHECK_EQ(wh_quota_take(&q, USER_A, of, all / 2 + 1, false), -EDQUOT);
        CHECK_EQ(wh_quota_take(&q, USER_A, of, all / 2, false), 0);
        CHECK_EQ(wh_quota_take(&q, USER_A, of, 1, false), -EDQUOT);
        uint64_t last = wh_quota_left(&q, USER_B, of);
        CHECK_EQ(last, all / 2 / 3);
        CHECK_EQ(wh_quota_take(&q, USER_B, of, last, false), 0);
        for (uid_t u = 1; u < 12; u++) { /* however many come, one more gets something */
                uint64_t left = wh_quota_left(&q, u, of);
                CHECK(left > 0 && left < last);
                CHECK_EQ(wh_quota_take(&q, u, of, left, false), 0);
                last = left;
        }
        CHECK_EQ(wh_quota_left(&q, MINE, of), all - q.used[of]); /* its own user takes what is left */
        CHECK_EQ(wh_quota_take(&q, MINE, of, all - q.used[of], false), 0);
        CHECK_EQ(wh_quota_left(&q, 99, of), 0);
        CHECK_EQ(q.used[of], all);
        /* Given back, it is as it was; who has nothing is not counted. */
        wh_quota_give(&q, MINE, of, q.users[q.n - 1].used[of]);
        while (q.n)
                wh_quota_give(&q, q.users[0].uid, of, q.users[0].used[of]);
        CHECK_EQ(q.used[of], 0);
        CHECK_EQ(wh_quota_left(&q, USER_A, of), all / 2);
        wh_quota_done(&q);
}

TEST(who_has_nothing_gets_one_link_and_the_rights_of_one_message)
{
        struct wh_quota q = {.self = MINE, .max = {2, 256, 10}};
        CHECK_EQ(wh_quota_take(&q, USER_A, WH_QUOTA_LINKS, 1, false), 0);
        CHECK_EQ(wh_quota_take(&q, USER_A, WH_QUOTA_LINKS, 1, false), -EDQUOT);
        CHECK_EQ(wh_quota_take(&q, USER_B, WH_QUOTA_LINKS, 1, false), 0);
        CHECK_EQ(wh_quota_take(&q, 3, WH_QUOTA_LINKS, 1, false), -EDQUOT);
        for (uid_t u = 10; u < 13; u++) {
                CHECK_EQ(wh_quota_take(&q, u, WH_QUOTA_RIGHTS, WH_FDS_MAX, false), 0);
                CHECK_EQ(wh_quota_take(&q, u, WH_QUOTA_RIGHTS, WH_FDS_MAX, false), -EDQUOT);
        }
        wh_quota_done(&q);
}

/* ---- a receiver with few descriptors, and senders of several users ---- */

struct scene {
        struct hub hub; /* its task and port are the receiver's own */
        struct wharf_port_opts opts;
        struct {
                _Atomic uint32_t received, from_a, from_b, items, most_fds, refused;
                _Atomic uint64_t mapped, mapped_most;
        } * saw;
        struct stage go;
        unsigned n;
        uid_t uid;
};

static void become(uid_t uid, rlim_t descriptors)
{
        struct rlimit soft = {descriptors, descriptors};
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &soft), 0);
        CHECK_EQ(setgid(uid), 0);
        CHECK_EQ(setuid(uid), 0);
}

/* Receives until "quit". Whatever the senders do, it has descriptors left for itself. */
static int receive_with_few(void *arg)
{
        struct scene *s = arg;
        become(MINE, LIMIT);
        wharf_task *t;
        wharf_name port;
        s->opts.size = sizeof s->opts;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, &s->opts, &port), 0);
        CHECK_EQ(wharf_port_listen(t, port, s->hub.listen_fd), 0);
        for (bool quit = false; !quit;) {
                static char buf[1 << 16];
                struct wharf_item items[WHARF_ITEMS_MAX];
                struct wharf_msg m =
                        MSG(.data = buf, .cap_bytes = sizeof buf, .items = items, .cap_items = WHARF_ITEMS_MAX);
                CHECK_EQ(wharf_recvmsg(t, port, &m, WHARF_FOREVER), 0);
                for (uint32_t i = 0; i < m.n_items; i++)
                        close(items[i].fd);
                quit = m.len_bytes == 4 && !memcmp(buf, "quit", 4);
                struct wharf_port_stat st = {.size = sizeof st};
                CHECK_EQ(wharf_port_stat(t, port, &st), 0);
                s->saw->items += m.n_items;
                s->saw->refused = (uint32_t)st.refused_links;
                s->saw->mapped = st.mapped_bytes;
                if (st.mapped_bytes > s->saw->mapped_most)
                        s->saw->mapped_most = st.mapped_bytes;
                unsigned n = s->saw->received % 16 == 0 || m.n_items ? count_fds() : 0;
                if (n > s->saw->most_fds)
                        s->saw->most_fds = n;
                CHECK_LE(s->saw->most_fds, LIMIT * 4 / 5);
                s->saw->from_a += m.sender.uid == USER_A;
                s->saw->from_b += m.sender.uid == USER_B;
                s->saw->received++;
                if (m.reply)
                        CHECK_LE(wharf_reply(t, m.reply, buf, m.len_bytes), 0);
        }
        wharf_task_close(t);
        return 0;
}

static struct scene scene_open(struct wharf_port_opts opts)
{
        if (getuid() != 0)
                test_skip("needs to become several users");
        struct scene s = {.opts = opts, .go = stage_new()};
        s.saw = test_shared(4096);
        s.hub.listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        CHECK_EQ(chmod(test_dir(), 0711), 0);
        snprintf(s.hub.path, sizeof s.hub.path, "%s/scene", test_dir());
        memcpy(sa.sun_path, s.hub.path, sizeof s.hub.path);
        CHECK_EQ(bind(s.hub.listen_fd, (struct sockaddr *)&sa, sizeof sa), 0);
        CHECK_EQ(chmod(s.hub.path, 0777), 0);
        CHECK_EQ(listen(s.hub.listen_fd, 4096), 0);
        return s;
}

static wharf_task *task(void)
{
        wharf_task *t;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        return t;
}

static wharf_name connected(wharf_task *t, struct scene *s)
{
        wharf_name right;
        CHECK_EQ(wharf_right_connect(t, s->hub.path, &right), 0);
        return right;
}

/* Everything that was sent before is received; then the receiver ends. */
static int say_quit(void *arg)
{
        become(MINE, LIMIT);
        wharf_task *t = task();
        CHECK_EQ(wharf_send(t, connected(t, arg), "quit", 4, WHARF_FOREVER), 0);
        return pause();
}

static void scene_close(struct scene *s, pid_t receiver)
{
        pid_t q = test_fork(say_quit, s);
        CHECK_EQ(test_wait(receiver), 0);
        kill_hard(q);
        stage_done(&s->go);
        munmap(s->saw, 4096);
        close(s->hub.listen_fd);
}

/* A call on each link that there is, so that the receiver has seen it; until one is refused. */
static int links_until_refused(void *arg)
{
        struct scene *s = arg;
        become(s->uid, 4096);
        wharf_task *t = task();
        unsigned n = 0;
        for (; n < s->n; n++) {
                char c;
                ssize_t r = wharf_call(t, connected(t, s), "x", 1, &c, 1, WHARF_FOREVER);
                if (r == -EDQUOT) {
                        CHECK(strstr(wharf_why(), "links of one user"));
                        CHECK(strstr(wharf_why(), "(RLIMIT_NOFILE): 512")); /* and not links_max, which is 4096 */
                        break;
                }
                CHECK_EQ(r, 1);
        }
        stage_reach(&s->go);
        return n < s->n ? (int)(n / 4) : pause(); /* as an exit status */
}

TEST(five_hundred_links_of_its_own_user)
{
        struct scene s = scene_open((struct wharf_port_opts){0});
        s.uid = MINE;
        s.n = 500;
        pid_t receiver = test_fork(receive_with_few, &s), pid = test_fork(links_until_refused, &s);
        stage_await(&s.go); /* all of them answered */
        CHECK_GE(s.saw->received, 500);
        kill_hard(pid);
        scene_close(&s, receiver);
}

TEST(links_beyond_the_share_of_a_user_are_refused_and_others_go_on)
{
        struct scene s = scene_open((struct wharf_port_opts){0});
        s.n = LIMIT;
        pid_t receiver = test_fork(receive_with_few, &s);
        s.uid = USER_A;
        pid_t a = test_fork(links_until_refused, &s);
        stage_await(&s.go);
        CHECK_EQ(test_wait(a), 256 / 4); /* half of the half of the descriptors */
        s.uid = USER_B;
        pid_t b = test_fork(links_until_refused, &s);
        CHECK_EQ(test_wait(b), 256 / 4); /* A's links went with it, so B has as much */
        scene_close(&s, receiver);
}

/* Introduces more links than there may be, one after another, over a link of its own. */
static int adopt_flood(void *arg)
{
        struct scene *s = arg;
        become(USER_A, 4096);
        wharf_task *t = task();
        wharf_name right = connected(t, s), copy;
        char c;
        CHECK_EQ(wharf_call(t, right, "x", 1, &c, 1, WHARF_FOREVER), 1);
        unsigned waiting = 0, full = 0;
        for (unsigned i = 0; i < 2000; i++) {
                int r = wharf_right_copy(t, right, 0, &copy);
                full += r == -EAGAIN; /* what waits lies in the introducer's own queue, which is full some time */
                if (r == -EAGAIN)
                        continue;
                CHECK_EQ(r, 0);
                r = (int)wharf_call(t, copy, "x", 1, &c, 1, waiting ? 0 : wharf_in_ms(200));
                CHECK(r == 1 || r == -ETIMEDOUT || r == -EAGAIN);
                waiting += r < 0;
        }
        CHECK_GE(waiting, 1);
        CHECK_GE(full, 1000);
        stage_reach(&s->go);
        return pause();
}

static int some_calls(void *arg)
{
        struct scene *s = arg;
        become(USER_B, 4096);
        wharf_task *t = task();
        char c;
        for (unsigned i = 0; i < 20; i++)
                CHECK_EQ(wharf_call(t, connected(t, s), "x", 1, &c, 1, WHARF_FOREVER), 1);
        return 0;
}

TEST(a_flood_of_introductions_leaves_room_for_others)
{
        struct scene s = scene_open((struct wharf_port_opts){0});
        pid_t receiver = test_fork(receive_with_few, &s), a = test_fork(adopt_flood, &s);
        stage_await(&s.go);
        pid_t b = test_fork(some_calls, &s);
        CHECK_EQ(test_wait(b), 0);
        CHECK_EQ(s.saw->from_b, 20);
        kill_hard(a);
        scene_close(&s, receiver);
}

/* A raw socket of somebody who breaks the rules. */
static int raw_connect(struct scene *s)
{
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        memcpy(sa.sun_path, s->hub.path, sizeof s->hub.path);
        CHECK_EQ(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
        return fd;
}

/* The first part of a message, full of descriptors, whose last part never comes: on sixty links. */
static int never_finish(void *arg)
{
        struct scene *s = arg;
        become(USER_A, 4096);
        uint8_t kinds[WHARF_ITEMS_MAX + 1];
        int fds[WHARF_ITEMS_MAX];
        memset(kinds, WH_ITEM_FD, sizeof kinds);
        memset(fds, 0, sizeof fds);
        unsigned refused = 0;
        for (unsigned i = 0; i < 60; i++) {
                int sock = raw_connect(s);
                struct wh_frame f = {
                        .type = WH_FRAME_MESSAGE, .n_fds = WHARF_ITEMS_MAX, .total = 100, .arg = WH_MSG_FIRST};
                CHECK_EQ(wh_frame_send(sock, &f, kinds, sizeof kinds, fds, false), 0);
                /* The greeting, and then perhaps the refusal. */
                uint8_t data[WH_COLD_MAX + WH_FDS_MAX];
                int got[WH_FDS_MAX];
                struct pollfd p = {.fd = sock, .events = POLLIN};
                CHECK_EQ(poll(&p, 1, -1), 1);
                CHECK_EQ(wh_frame_recv(sock, &f, data, got, NULL), 1);
                CHECK_EQ(f.type, WH_FRAME_HELLO);
                if (poll(&p, 1, i < 4 ? 0 : -1) == 1 && wh_frame_recv(sock, &f, data, got, NULL) == 1 &&
                    f.type == WH_FRAME_REFUSE) {
                        CHECK_EQ(f.arg, EDQUOT);
                        CHECK_EQ(f.id, WH_REFUSAL_RIGHTS);
                        refused++;
                }
        }
        CHECK_GE(refused, 50);
        stage_reach(&s->go);
        return pause();
}

static int honest_rights(void *arg)
{
        struct scene *s = arg;
        become(USER_B, 4096);
        wharf_task *t = task();
        wharf_name right = connected(t, s);
        struct wharf_item items[WHARF_ITEMS_MAX];
        char c;
        for (unsigned i = 0; i < WHARF_ITEMS_MAX; i++)
                items[i] = (struct wharf_item){.kind = WHARF_COPY_FD, .fd = 0};
        for (unsigned i = 0; i < 40; i++) {
                struct wharf_msg q =
                        MSG(.data = BYTES("x"), .len_bytes = 1, .items = items, .n_items = WHARF_ITEMS_MAX);
                struct wharf_msg a = MSG(.data = &c, .cap_bytes = 1);
                CHECK_EQ(wharf_callmsg(t, right, &q, &a, WHARF_FOREVER), 0);
        }
        return 0;
}

TEST(messages_full_of_descriptors_that_never_end)
{
        struct scene s = scene_open((struct wharf_port_opts){0});
        pid_t receiver = test_fork(receive_with_few, &s), a = test_fork(never_finish, &s);
        stage_await(&s.go);
        pid_t b = test_fork(honest_rights, &s);
        CHECK_EQ(test_wait(b), 0);
        CHECK_EQ(s.saw->items, 40 * WHARF_ITEMS_MAX);
        kill_hard(a);
        scene_close(&s, receiver);
}

/* Many links that each want a lane: those for which there is no share left are told so first, and lose nothing. */
static int lanes(void *arg)
{
        struct scene *s = arg;
        become(s->uid, 4096);
        wharf_task *t = task();
        unsigned attached = 0;
        for (unsigned i = 0; i < s->n; i++) {
                wharf_name right = connected(t, s);
                char c;
                for (unsigned k = 0; k < 30; k++)
                        CHECK_EQ(wharf_call(t, right, "x", 1, &c, 1, WHARF_FOREVER), 1);
                struct wharf_right_stat st = {.size = sizeof st};
                CHECK_EQ(wharf_right_stat(t, right, &st), 0);
                attached += st.attached;
        }
        stage_reach(&s->go);
        CHECK(attached > 0);
        if (s->n > 10)
                CHECK(attached < s->n);
        return s->n > 10 ? pause() : 0;
}

TEST(memory_mapped_for_one_user_leaves_some_for_others)
{
        struct scene s = scene_open((struct wharf_port_opts){.mapped_bytes_max = 4 << 20});
        s.uid = USER_A;
        s.n = 60;
        pid_t receiver = test_fork(receive_with_few, &s), a = test_fork(lanes, &s);
        stage_await(&s.go);
        CHECK_EQ(s.saw->from_a, 60 * 30); /* nothing was lost */
        CHECK_LE(s.saw->mapped_most, 2 << 20);
        s.uid = USER_B;
        s.n = 2;
        pid_t b = test_fork(lanes, &s);
        CHECK_EQ(test_wait(b), 0);
        CHECK_EQ(s.saw->from_b, 2 * 30);
        CHECK_EQ(s.saw->refused, 0);
        kill_hard(a);
        scene_close(&s, receiver);
}

/* A message that is announced as large, and never comes: memory is not asked for it beyond a stranger's share. */
static int announce_much(void *arg)
{
        struct scene *s = arg;
        become(s->uid, 4096);
        int sock = raw_connect(s);
        uint8_t data[WH_COLD_MAX + WH_FDS_MAX] = {0};
        int got[WH_FDS_MAX];
        struct wh_frame f = {.type = WH_FRAME_MESSAGE, .total = 64 << 20, .arg = WH_MSG_FIRST};
        CHECK_EQ(wh_frame_send(sock, &f, data, 100, NULL, false), 0);
        struct pollfd p = {.fd = sock, .events = POLLIN};
        CHECK_EQ(poll(&p, 1, -1), 1);
        CHECK_EQ(wh_frame_recv(sock, &f, data, got, NULL), 1);
        CHECK_EQ(f.type, WH_FRAME_HELLO);
        CHECK_EQ(poll(&p, 1, -1), 1);
        CHECK_EQ(wh_frame_recv(sock, &f, data, got, NULL), 1);
        CHECK_EQ(f.type, WH_FRAME_REFUSE);
        CHECK_EQ(f.arg, EDQUOT);
        CHECK_EQ(f.id, WH_REFUSAL_BYTES);
        return 0;
}

TEST(a_large_message_that_never_comes_takes_only_a_share)
{
        struct scene s = scene_open((struct wharf_port_opts){.mapped_bytes_max = 4 << 20});
        s.uid = USER_A;
        pid_t receiver = test_fork(receive_with_few, &s), a = test_fork(announce_much, &s);
        CHECK_EQ(test_wait(a), 0);
        scene_close(&s, receiver);
}

/* Gets a right to the port of one link, and calls over it: the pair is made anew by then, and is another user's. */
static int takes_the_last_link(void *arg)
{
        wharf_name to;
        char reply[8];
        test_drop_root();
        wharf_task *t = hub_join(arg, &to);
        struct wharf_item item;
        struct wharf_msg answer = MSG(.items = &item, .cap_items = 1);
        CHECK_EQ(wharf_callmsg(t, to, &MSG(), &answer, WHARF_FOREVER), 0);
        CHECK_EQ(item.kind, WHARF_GOT_SEND);
        CHECK_EQ(wharf_call(t, item.name, "only", 4, reply, sizeof reply, WHARF_FOREVER), 4);
        wharf_task_close(t);
        return 0;
}

TEST(the_last_link_that_a_port_takes_may_be_handed_to_another_user)
{
        struct hub h = hub_open(NULL);
        wharf_name one;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.links_max = 1), &one), 0);
        pid_t pid = test_fork(takes_the_last_link, &h);
        struct wharf_msg m = MSG();
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        struct wharf_item item = {.kind = WHARF_MAKE_SEND, .name = one};
        CHECK_EQ(wharf_replymsg(h.task, m.reply, &MSG(.items = &item, .n_items = 1)), 0);
        char buf[8];
        m = MSG(.data = buf, .cap_bytes = sizeof buf);
        CHECK_EQ(wharf_recvmsg(h.task, one, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.sender.uid, getuid() ? getuid() : 65534); /* an ordinary user has nobody else to hand it to */
        CHECK_EQ(wharf_reply(h.task, m.reply, buf, m.len_bytes), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}
