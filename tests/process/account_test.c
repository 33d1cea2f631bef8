/*
 * Shares: what one user's senders do, however many they are, leaves something for the next one; and a receiver with a
 * soft limit of 1024 descriptors never runs out of them because of a sender.
 */
#include "hub.h"
#include "link/frame.h"
#include "link/link.h"
#include "task/account.h"
#include "right/right.h"
#include "port/owned.h"
#include "port/places.h"
#include "port/port.h"

#include <poll.h>
#include <stdatomic.h>
#include <sys/resource.h>

enum { LIMIT = 1024, MINE = 65534, USER_A = 61001, USER_B = 61002 };

/* ---- the rule itself ---- */

TEST(each_user_gets_a_share_of_what_the_others_left)
{
        const uint64_t all = 1ull << 50;
        enum wh_share of = WH_SHARE_BYTES;
        struct wh_accounts q = {.self = MINE, .max = {[WH_SHARE_BYTES] = all}};
        CHECK_EQ(wh_account_left(&q, USER_A, of), all / 2); /* 1/(n+1), the asker being one of the n */
        CHECK_EQ(wh_account_charge(&q, USER_A, of, all / 2 + 1, false), -EDQUOT);
        CHECK_EQ(wh_account_charge(&q, USER_A, of, all / 2, false), 0);
        CHECK_EQ(wh_account_charge(&q, USER_A, of, 1, false), -EDQUOT);
        uint64_t last = wh_account_left(&q, USER_B, of);
        CHECK_EQ(last, all / 2 / 3);
        CHECK_EQ(wh_account_charge(&q, USER_B, of, last, false), 0);
        for (uid_t u = 1; u < 12; u++) { /* however many come, one more gets something */
                uint64_t left = wh_account_left(&q, u, of);
                CHECK(left > 0 && left < last);
                CHECK_EQ(wh_account_charge(&q, u, of, left, false), 0);
                last = left;
        }
        CHECK_EQ(wh_account_left(&q, MINE, of), all - q.used[of]); /* its own user takes what is left */
        CHECK_EQ(wh_account_charge(&q, MINE, of, all - q.used[of], false), 0);
        CHECK_EQ(wh_account_left(&q, 99, of), 0);
        CHECK_EQ(q.used[of], all);
        /* Given back, it is as it was; who has nothing is not counted. */
        wh_account_give(&q, MINE, of, q.users[q.n - 1].used[of]);
        while (q.n)
                wh_account_give(&q, q.users[0].uid, of, q.users[0].used[of]);
        CHECK_EQ(q.used[of], 0);
        CHECK_EQ(wh_account_left(&q, USER_A, of), all / 2);
        wh_accounts_done(&q);
}

TEST(who_has_nothing_gets_one_link_and_the_rights_of_one_message)
{
        struct wh_accounts q = {.self = MINE,
                                .max = {[WH_SHARE_LINKS] = 2, [WH_SHARE_RIGHTS] = 256},
                                .least = {[WH_SHARE_LINKS] = 1, [WH_SHARE_RIGHTS] = WH_FDS_MAX}};
        CHECK_EQ(wh_account_charge(&q, USER_A, WH_SHARE_LINKS, 1, false), 0);
        CHECK_EQ(wh_account_charge(&q, USER_A, WH_SHARE_LINKS, 1, false), -EDQUOT);
        CHECK_EQ(wh_account_charge(&q, USER_B, WH_SHARE_LINKS, 1, false), 0);
        CHECK_EQ(wh_account_charge(&q, 3, WH_SHARE_LINKS, 1, false), -EDQUOT);
        for (uid_t u = 10; u < 13; u++) {
                CHECK_EQ(wh_account_charge(&q, u, WH_SHARE_RIGHTS, WH_FDS_MAX, false), 0);
                CHECK_EQ(wh_account_charge(&q, u, WH_SHARE_RIGHTS, WH_FDS_MAX, false), -EDQUOT);
        }
        wh_accounts_done(&q);
}

TEST(a_bill_goes_to_another_payer_as_a_whole)
{
        struct wh_accounts task = {.self = MINE}, port = {.self = MINE};
        struct wh_bill bill = {0}, other = {0};
        for (unsigned k = 0; k < WH_SHARES; k++)
                task.max[k] = port.max[k] = 1000;
        wh_bill_open(&bill, &task, &port, USER_A);
        wh_bill_open(&other, &task, &port, USER_B);
        CHECK_EQ(wh_bill_charge(&other, WH_SHARE_RIGHTS, 1, false), 0);
        for (unsigned k = 0; k <= WH_SHARE_REPLIES; k++)
                CHECK_EQ(wh_bill_charge(&bill, (enum wh_share)k, 10 + k, false), 0);
        /* A link is asked for, and nothing has changed where it is refused. */
        enum wh_share refused;
        port.max[WH_SHARE_LINKS] = 0;
        CHECK_EQ(wh_bill_move(&bill, USER_B, false, &refused), -EDQUOT);
        CHECK_EQ(refused, WH_SHARE_LINKS);
        CHECK_EQ(bill.payer, USER_A);
        CHECK_EQ(port.users[0].uid, USER_A);
        CHECK_EQ(port.n, 1);
        for (unsigned k = 0; k <= WH_SHARE_REPLIES; k++)
                CHECK_EQ((k < WH_SHARE_LINKS ? &task : &port)->users[0].used[k], 10 + k);
        port.max[WH_SHARE_LINKS] = 1000;
        CHECK_EQ(wh_bill_move(&bill, USER_B, false, &refused), 0);
        CHECK_EQ(task.n, 1); /* and nothing is left with the former one */
        CHECK_EQ(port.n, 1);
        for (unsigned k = 0; k <= WH_SHARE_REPLIES; k++) {
                const struct wh_accounts *a = k < WH_SHARE_LINKS ? &task : &port;
                CHECK_EQ(a->users[0].uid, USER_B);
                CHECK_EQ(a->users[0].used[k], 10 + k + (k == WH_SHARE_RIGHTS));
                CHECK_EQ(a->used[k], a->users[0].used[k]);
        }
        /* Gone: but for the calls that are to be answered. */
        wh_bill_close(&bill);
        CHECK_EQ(port.n, 0);
        CHECK_EQ(task.used[WH_SHARE_ANSWERS], 10 + WH_SHARE_ANSWERS);
        CHECK_EQ(task.used[WH_SHARE_TASK_LINKS], 0);
        CHECK_EQ(wh_bill_charge(&other, WH_SHARE_ANSWERS, 5, false), 0);
        wh_bill_give(&bill, WH_SHARE_ANSWERS, 1000); /* and nothing of another bill of that user */
        CHECK_EQ(task.used[WH_SHARE_ANSWERS], 5);
        wh_bill_close(&other);
        wh_bill_give(&other, WH_SHARE_ANSWERS, 5);
        CHECK_EQ(task.n, 0);
        wh_accounts_done(&task);
        wh_accounts_done(&port);
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
                struct wh_frame f = {.type = WH_FRAME_MESSAGE,
                                     .to = WH_TO_OWNER,
                                     .n_fds = WHARF_ITEMS_MAX,
                                     .total = 100,
                                     .arg = WH_MSG_FIRST};
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
        struct wh_frame f = {.type = WH_FRAME_MESSAGE, .to = WH_TO_OWNER, .total = 64 << 20, .arg = WH_MSG_FIRST};
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

/* ---- what is given back ---- */

/* A port at which everybody is a stranger, though all of them are this user. */
static struct hub strange_hub(const struct wharf_port_opts *opts, struct wh_port **ret)
{
        struct hub h = hub_open(opts);
        *ret = (struct wh_port *)wh_table_find(&h.task->names, h.port);
        h.task->accounts.self = (*ret)->accounts.self = MINE;
        return h;
}

/* Whatever its links have had, nothing is charged now but themselves and what is mapped. */
static void check_settled(const struct wh_port *p)
{
        const uint64_t *task = p->task->accounts.used, *port = p->accounts.used;
        CHECK_EQ(task[WH_SHARE_TASK_LINKS], p->n_links);
        CHECK_EQ(task[WH_SHARE_RIGHTS], 0);
        CHECK_EQ(task[WH_SHARE_ANSWERS], 0);
        CHECK_EQ(port[WH_SHARE_LINKS], p->n_links);
        CHECK_EQ(port[WH_SHARE_BYTES], p->mapped);
}

/* Goal: a link that a port refuses has cost its user nothing of the task's descriptors. */
TEST(a_link_that_its_port_refuses_is_charged_for_nowhere)
{
        struct wh_port *p;
        struct hub h = strange_hub(PORT_OPTS(.links_max = 4), &p);
        wharf_name right[2];
        char c;
        for (unsigned i = 0; i < 2; i++) { /* half of what there is */
                CHECK_EQ(wharf_right_connect(h.task, h.path, &right[i]), 0);
                CHECK_EQ(wharf_send(h.task, right[i], "x", 1, 0), 0);
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, WHARF_FOREVER), 1);
        }
        for (unsigned i = 0; i < 10; i++) {
                wharf_name more;
                CHECK_EQ(wharf_right_connect(h.task, h.path, &more), 0);
                for (unsigned k = 0; k < 2; k++) /* it waits at the door, until it is clear that nobody has gone */
                        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), -EAGAIN);
                CHECK_EQ(wharf_send(h.task, more, "x", 1, WHARF_FOREVER), -EDQUOT);
                CHECK(strstr(wharf_why(), "links of one user"));
                CHECK_EQ(wharf_drop(h.task, more), 0);
        }
        check_settled(p);
        hub_close(&h);
}

struct large {
        struct hub *hub;
        uint32_t how;
        uint64_t len;
        bool item;
};

static int send_some(void *arg)
{
        const struct large *a = arg;
        wharf_name right;
        wharf_task *t = hub_join(a->hub, &right);
        char *bytes = calloc(1, a->len);
        struct wharf_item it = {.kind = WHARF_COPY_FD, .fd = 0};
        for (unsigned i = 0; i < 40; i++) /* as frames, and in a lane */
                CHECK_EQ(wharf_send(t, right, "x", 1, WHARF_FOREVER), 0);
        for (unsigned i = 0; i < 3; i++) {
                struct wharf_msg m =
                        MSG(.how = a->how, .data = bytes, .len_bytes = a->len, .items = &it, .n_items = a->item);
                CHECK_EQ(wharf_sendmsg(t, right, &m, WHARF_FOREVER), 0);
        }
        free(bytes);
        return pause();
}

/*
 * Goal:   what a message took of its user's share is given back when it was received, in whatever way.
 * Method: messages that come in pieces, put together beside the receiver's buffer, and in one block, in place; with and
 *         without a right.
 */
TEST(what_a_message_took_is_given_back_when_it_was_received)
{
        const struct large ways[] = {
                {.how = WHARF_HOW_CHUNKS, .len = 8 << 20},
                {.how = WHARF_HOW_CHUNKS, .len = 8 << 20, .item = true},
                {.how = WHARF_HOW_SECTION, .len = 64 << 10},
                {.how = WHARF_HOW_SECTION, .len = 64 << 10, .item = true},
                {.how = WHARF_HOW_MEMORY, .len = 1 << 20, .item = true},
                {.how = WHARF_HOW_INLINE, .len = 100, .item = true},
        };
        for (unsigned i = 0; i < 2 * sizeof ways / sizeof *ways; i++) {
                const uint32_t flags = i % 2 ? WHARF_RECV_IN_PLACE : WHARF_RECV_ALLOC;
                struct wh_port *p;
                struct hub h = strange_hub(PORT_OPTS(.flags = WHARF_PORT_STAYS), &p);
                struct large a = ways[i / 2];
                a.hub = &h;
                pid_t pid = test_fork(send_some, &a);
                for (unsigned n = 0; n < 43; n++) {
                        struct wharf_item it;
                        struct wharf_msg m = MSG(.flags = flags, .items = &it, .cap_items = 1);
                        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                        if (m.n_items)
                                close(it.fd);
                        wharf_release(h.task, &m);
                }
                check_settled(p);
                kill_hard(pid);
                CHECK_EQ(wharf_port_listen(h.task, h.port, -1), 0);
                while (p->n_links)
                        CHECK_EQ(wharf_recv(h.task, h.port, NULL, 0, NULL, wharf_in_ms(1)), -ETIMEDOUT);
                check_settled(p);
                CHECK_EQ(p->mapped, 0);
                hub_close(&h);
        }
}

/* Goal: what came with an offer that was withdrawn is nobody's any more, and charged to nobody. */
TEST(what_came_with_a_withdrawn_offer_is_given_back)
{
        struct wh_port *p;
        struct hub h = strange_hub(PORT_OPTS(.flags = WHARF_PORT_STAYS, .capacity_records = WHARF_RENDEZVOUS), &p);
        wharf_name right;
        CHECK_EQ(wharf_right_connect(h.task, h.path, &right), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, NULL, 0, NULL, 0), -EAGAIN);
        wh_right_greet(h.task, right);
        for (unsigned i = 0; i < 20; i++) {
                struct wharf_item in = {.kind = WHARF_COPY_FD, .fd = 0}, out[2];
                struct wharf_msg m = MSG(.data = &i, .len_bytes = sizeof i, .items = &in, .n_items = 1);
                CHECK_EQ(wharf_sendmsg(h.task, right, &m, wharf_in_ms(1)), -ETIMEDOUT);
                m = MSG(.data = &i, .cap_bytes = sizeof i, .items = out, .cap_items = 2);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
                check_settled(p);
        }
        hub_close(&h);
}

/* Goal: a sender learns by the greeting what its user may still have mapped, where that is less than one link may. */
TEST(a_greeting_says_no_more_than_is_left_for_its_user)
{
        struct wh_port *p;
        struct hub h = strange_hub(PORT_OPTS(.mapped_bytes_max = 64 << 20), &p);
        wharf_name right;
        char c;
        CHECK_EQ(wharf_right_connect(h.task, h.path, &right), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), -EAGAIN);
        wh_right_greet(h.task, right);
        struct wh_link *l = (struct wh_link *)wh_table_find(&h.task->names, right);
        CHECK(l->greeted);
        CHECK_EQ(l->hello.link_mapped_bytes_max, 32 << 20);
        hub_close(&h);
}

/* The links of the port, in the order in which they were made. */
static struct wh_link *link_at(struct wh_port *p, unsigned i)
{
        struct wh_list *at = p->links.next;
        while (i--)
                at = at->next;
        return &wh_container(at, struct wh_owned, in_port)->link;
}

/* Goal: what a lane has mapped is charged beside a large message that is coming, and not in its place. */
TEST(what_is_mapped_is_charged_beside_a_large_message)
{
        struct wh_port *p;
        struct hub h = strange_hub(NULL, &p);
        wharf_name right;
        char c;
        CHECK_EQ(wharf_right_connect(h.task, h.path, &right), 0);
        for (unsigned i = 0; i < 40; i++) {
                CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), 0);
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, WHARF_FOREVER), 1);
        }
        wh_lock(&p->inbox->lock);
        CHECK_EQ(link_at(p, 0)->end->hold(link_at(p, 0), WH_SHARE_BYTES, 1 << 20), 0);
        link_at(p, 0)->end->mapped(link_at(p, 0)); /* as when it grows */
        CHECK_GE(p->mapped, 1);
        CHECK_EQ(p->accounts.used[WH_SHARE_BYTES], p->mapped + (1 << 20));
        CHECK_EQ(link_at(p, 0)->end->hold(link_at(p, 0), WH_SHARE_BYTES, 0), 0);
        wh_unlock(&p->inbox->lock);
        check_settled(p);
        hub_close(&h);
}

/*
 * Goal:   from when the kernel has said whose a link is, it has that one's turns; and what the former payer had of links is
 *         told to be free.
 * Method: two links of one user have something; then one of them is another's.
 */
TEST(turns_and_places_go_with_the_payer)
{
        struct wh_port *p;
        struct hub h = strange_hub(NULL, &p);
        wharf_name right[2];
        for (unsigned i = 0; i < 2; i++) {
                CHECK_EQ(wharf_right_connect(h.task, h.path, &right[i]), 0);
                CHECK_EQ(wharf_send(h.task, right[i], "x", 1, 0), 0);
        }
        struct wh_inbox *in = p->inbox;
        wh_lock(&in->lock);
        wh_inbox_look(in); /* the connections, */
        wh_inbox_look(in); /* and what they have */
        CHECK_EQ(p->n_links, 2);
        CHECK(wh_list_linked(&wh_owned(link_at(p, 0))->hot) && wh_list_linked(&wh_owned(link_at(p, 1))->hot));
        CHECK(!in->turns.mixed);
        const uint32_t freed = wh_places_freed(h.task);
        link_at(p, 1)->cred.uid = USER_B;
        CHECK_EQ(wh_port_sender_known(link_at(p, 1)), 0);
        CHECK(in->turns.mixed);
        CHECK_NE(wh_places_freed(h.task), freed);
        wh_unlock(&in->lock);
        hub_close(&h);
}

/*
 * Goal:   links that were idle have saved up no turns, and come behind a turn that has begun, wherever in it that one is.
 * Method: all the links of one user are idle, and were looked at, while another one's is read for many rounds; then they have
 *         something, too. So once for each place within a turn.
 */
TEST(links_that_were_idle_have_saved_up_no_turns)
{
        enum { OTHERS = 6, LONG = 400, EACH = 60 };
        struct wh_port *p;
        struct hub h = strange_hub(PORT_OPTS(.links_max = 64), &p);
        wharf_name right[1 + OTHERS];
        struct wharf_sender s;
        uint64_t busy = 0;
        char c;
        for (unsigned i = 0; i <= OTHERS; i++) {
                CHECK_EQ(wharf_right_connect(h.task, h.path, &right[i]), 0);
                for (unsigned k = 0; k < 40; k++) { /* until they have lanes, so that what comes is seen at once */
                        CHECK_EQ(wharf_send(h.task, right[i], "x", 1, 0), 0);
                        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, &s, WHARF_FOREVER), 1);
                }
                busy = i ? busy : s.id;
                wh_lock(&p->inbox->lock);
                link_at(p, i)->end->not_taken(link_at(p, i), i ? USER_A : USER_B);
                wh_unlock(&p->inbox->lock);
        }
        for (unsigned i = 0; i <= OTHERS; i++)
                CHECK_EQ(wharf_send(h.task, right[i], "x", 1, 0), 0);
        for (unsigned i = 0; i <= OTHERS; i++)
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), 1);
        CHECK(p->inbox->turns.mixed);
        for (unsigned part = 0; part < WH_TURN_MSGS_MIXED; part++) {
                for (unsigned i = 0; i < LONG + part; i++) {
                        CHECK_EQ(wharf_send(h.task, right[0], "x", 1, 0), 0);
                        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, &s, 0), 1);
                        CHECK_EQ(s.id, busy);
                }
                for (unsigned i = 0; i <= OTHERS; i++)
                        for (unsigned k = 0; k < EACH; k++)
                                CHECK_EQ(wharf_send(h.task, right[i], "x", 1, 0), 0);
                unsigned n = 0, others = 0;
                for (; n - others < EACH; n++) {
                        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, &s, 0), 1);
                        others += s.id != busy;
                        CHECK_LE(others, n + 1 - others + 2 * WH_TURN_MSGS_MIXED);
                }
                for (; n < (1 + OTHERS) * EACH; n++)
                        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), 1);
        }
        hub_close(&h);
}

/* ---- turns ---- */

enum { A_LINKS = 20, A_EACH = 400, B_EACH = 900, LOOK = 256, TURN = 64 };

struct flood {
        struct hub *hub;
        struct stage ready, go, sent;
        uid_t uid; /* 0: as it is */
        unsigned links, each;
        const char *text;
};

/* So many links, each with that many messages unread; nobody receives meanwhile. */
static int fill_links(void *arg)
{
        struct flood *f = arg;
        char c;
        if (f->uid)
                become(f->uid, LIMIT);
        wharf_task *t = task();
        wharf_name right[A_LINKS];
        for (unsigned i = 0; i < f->links; i++) {
                CHECK_EQ(wharf_right_connect(t, f->hub->path, &right[i]), 0);
                CHECK_EQ(wharf_call(t, right[i], "x", 1, &c, 1, WHARF_FOREVER), 1);
        }
        stage_reach(&f->ready);
        stage_await(&f->go);
        for (unsigned i = 0; i < f->links; i++)
                for (unsigned k = 0; k < f->each; k++)
                        CHECK_EQ(wharf_send(t, right[i], f->text, 1, WHARF_FOREVER), 0);
        stage_reach(&f->sent);
        return pause();
}

static pid_t filled(struct flood *f)
{
        f->ready = stage_new();
        f->go = stage_new();
        f->sent = stage_new();
        pid_t pid = test_fork(fill_links, f);
        for (unsigned i = 0; i < f->links; i++) {
                char c;
                struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
                CHECK_EQ(wharf_recvmsg(f->hub->task, f->hub->port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_reply(f->hub->task, m.reply, "y", 1), 0);
        }
        stage_await(&f->ready);
        return pid;
}

static void fill(struct flood *f)
{
        stage_reach(&f->go);
        stage_await(&f->sent);
}

static void flood_close(struct flood *f, pid_t pid)
{
        kill_hard(pid);
        stage_done(&f->ready);
        stage_done(&f->go);
        stage_done(&f->sent);
}

/* The first byte of the next message, received in one way or the other; with its sender. */
static char next(struct hub *h, wharf_name from, bool whole, struct wharf_sender *ret)
{
        char c = 0;
        if (whole) {
                struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
                CHECK_EQ(wharf_recvmsg(h->task, from, &m, WHARF_FOREVER), 0);
                *ret = m.sender;
        } else {
                CHECK_EQ(wharf_recv(h->task, from, &c, 1, ret, WHARF_FOREVER), 1);
        }
        return c;
}

/* However many links a user has, another one gets every second turn. */
static void users_take_turns(bool whole, bool set)
{
        if (getuid() != 0)
                test_skip("needs to become several users");
        struct hub h = hub_open(NULL);
        CHECK_EQ(chmod(test_dir(), 0711), 0);
        struct flood a = {.hub = &h, .uid = USER_A, .links = A_LINKS, .each = A_EACH, .text = "a"};
        struct flood b = {.hub = &h, .uid = USER_B, .links = 1, .each = B_EACH, .text = "b"};
        pid_t pa = filled(&a), pb = filled(&b);
        fill(&a);
        fill(&b);
        wharf_name from = h.port;
        if (set) {
                CHECK_EQ(wharf_set_new(h.task, &from), 0);
                CHECK_EQ(wharf_set_add(h.task, from, h.port), 0);
        }
        unsigned got_a = 0, got_b = 0;
        struct wharf_sender s;
        while (got_b < B_EACH) {
                char c = next(&h, from, whole, &s);
                CHECK_EQ(s.uid, c == 'a' ? USER_A : USER_B);
                got_a += c == 'a';
                got_b += c == 'b';
        }
        CHECK_LE(got_a, B_EACH + LOOK + 4 * TURN);
        while (got_a < A_LINKS * A_EACH) /* and nothing is lost */
                got_a += next(&h, from, whole, &s) == 'a';
        flood_close(&a, pa);
        flood_close(&b, pb);
        hub_close(&h);
}

TEST(users_take_turns_and_not_their_links)
{
        users_take_turns(false, false);
}

TEST(users_take_turns_in_recvmsg)
{
        users_take_turns(true, false);
}

TEST(users_take_turns_in_a_set)
{
        users_take_turns(true, true);
}

TEST(links_of_one_user_take_turns_in_recvmsg)
{
        struct hub h = hub_open(NULL);
        struct flood f = {.hub = &h, .links = 2, .each = A_EACH, .text = "a"};
        pid_t pid = filled(&f);
        fill(&f);
        struct wharf_sender s;
        uint64_t last = 0;
        unsigned turns = 0;
        for (unsigned n = 0, run = 0; n < 2 * A_EACH; n++) {
                next(&h, h.port, true, &s);
                turns += s.id != last;
                run = s.id != last ? 1 : run + 1;
                last = s.id;
                if (turns == 2) /* the second link was found: from here on none has more than its turn */
                        CHECK_LE(run, TURN);
        }
        CHECK_GE(turns, 4);
        flood_close(&f, pid);
        hub_close(&h);
}

/* ---- memory for replies ---- */

enum { IDLE = 10, LARGE = 6 << 20, LARGE_FEW = 2 << 20 };

/* Shared memory that this process has made and keeps, from what the kernel says of its mappings. */
static uint64_t made_here(void)
{
        FILE *f = fopen("/proc/self/maps", "re");
        char line[512];
        uint64_t sum = 0;
        CHECK(f != NULL);
        while (fgets(line, sizeof line, f)) {
                unsigned long from, to;
                char mode[8];
                if (sscanf(line, "%lx-%lx %7s", &from, &to, mode) == 3 && !strcmp(mode, "rw-s") &&
                    strstr(line, "memfd:wharf-"))
                        sum += to - from;
        }
        fclose(f);
        return sum;
}

static int call_and_idle(void *arg)
{
        struct flood *f = arg;
        wharf_name right[IDLE];
        wharf_task *t = task();
        char *buf = malloc(LARGE);
        for (unsigned i = 0; i < IDLE; i++) {
                CHECK_EQ(wharf_right_connect(t, f->hub->path, &right[i]), 0);
                for (unsigned k = 0; k < 20; k++)
                        CHECK_EQ(wharf_call(t, right[i], &k, sizeof k, buf, LARGE, WHARF_FOREVER),
                                 k < 16 ? 100 << 10 : LARGE);
        }
        free(buf);
        stage_reach(&f->ready);
        return pause();
}

/* Goal: callers that are idle after large replies leave no more than link_reply_bytes_max each. */
TEST(memory_for_replies_does_not_stay_with_idle_callers)
{
        struct hub h = hub_open(PORT_OPTS(.link_reply_bytes_max = 1 << 20));
        struct flood f = {.hub = &h, .ready = stage_new()};
        pid_t pid = test_fork(call_and_idle, &f);
        char *large = calloc(1, LARGE);
        uint64_t before = made_here();
        for (unsigned i = 0; i < IDLE * 20; i++) {
                unsigned k;
                struct wharf_msg m = MSG(.data = &k, .cap_bytes = sizeof k);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_reply(h.task, m.reply, large, k < 16 ? 100 << 10 : LARGE), 0);
        }
        stage_await(&f.ready);
        CHECK_LE(made_here() - before, IDLE * ((uint64_t)1 << 20));
        CHECK_GE(made_here() - before, IDLE * ((uint64_t)128 << 10)); /* small ones have blocks, which stay */
        kill_hard(pid);
        stage_done(&f.ready);
        free(large);
        hub_close(&h);
}

/* Calls, and does not read the answers until it is told to. */
static int call_unread(void *arg)
{
        struct flood *f = arg;
        if (f->uid)
                become(f->uid, LIMIT);
        wharf_task *t = task();
        wharf_name right;
        uint32_t call[64];
        char *buf = malloc(LARGE_FEW);
        CHECK_EQ(wharf_right_connect(t, f->hub->path, &right), 0);
        CHECK_EQ(wharf_call(t, right, "x", 1, buf, LARGE_FEW, WHARF_FOREVER), 1);
        for (unsigned i = 0; i < f->each; i++)
                CHECK_EQ(wharf_call_start(t, right, &MSG(.data = BYTES("a"), .len_bytes = 1), WHARF_NONE, WHARF_FOREVER,
                                          &call[i]),
                         0);
        stage_reach(&f->ready);
        stage_await(&f->go);
        for (unsigned i = 0; i < f->links; i++) {
                struct wharf_msg m = MSG(.data = buf, .cap_bytes = LARGE_FEW);
                CHECK_EQ(wharf_call_finish(t, right, call[i], &m, WHARF_FOREVER), 0);
                CHECK_EQ(m.len_bytes, LARGE_FEW);
        }
        stage_reach(&f->sent);
        return pause();
}

static void answer_first(struct hub *h)
{
        char c;
        struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
        CHECK_EQ(wharf_recvmsg(h->task, h->port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_reply(h->task, m.reply, "y", 1), 0);
}

/*
 * Goal:   a reply in a memory is charged once, from when it is made: neither is it taken for one that was read before it was
 *         sent, nor given back twice where it cannot be.
 * Method: two calls; one reply lies there, and the other one's caller is gone.
 */
TEST(a_reply_in_a_memory_is_charged_once)
{
        struct hub h = hub_open(PORT_OPTS(.link_reply_bytes_max = 1 << 20));
        CHECK_EQ(chmod(test_dir(), 0711), 0);
        struct flood f = {.hub = &h, .each = 2, .ready = stage_new(), .go = stage_new(), .sent = stage_new()};
        pid_t pid = test_fork(call_unread, &f);
        answer_first(&h);
        stage_await(&f.ready);
        char c, *large = calloc(1, LARGE_FEW);
        int err;
        struct wharf_msg m[2] = {MSG(.data = &c, .cap_bytes = 1), MSG(.data = &c, .cap_bytes = 1)};
        for (unsigned i = 0; i < 2; i++)
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m[i], WHARF_FOREVER), 0);
        struct wh_port *p = wh_port_lock(h.task, h.port, &err);
        wh_unlock(&p->inbox->lock);
        CHECK_EQ(wharf_reply(h.task, m[0].reply, large, LARGE_FEW), 0);
        CHECK_EQ(p->accounts.used[WH_SHARE_REPLIES], LARGE_FEW);
        kill_hard(pid);
        CHECK_EQ(wharf_reply(h.task, m[1].reply, large, LARGE_FEW), -EPIPE);
        CHECK_EQ(wharf_recv(h.task, h.port, NULL, 0, NULL, 0), -EAGAIN);
        CHECK_EQ(p->accounts.used[WH_SHARE_REPLIES], 0);
        CHECK_EQ(h.task->accounts.used[WH_SHARE_FLYING], 0);
        stage_done(&f.ready);
        stage_done(&f.go);
        stage_done(&f.sent);
        free(large);
        hub_close(&h);
}

TEST(replies_that_nobody_reads_are_charged_until_they_are_read)
{
        enum { CALLS = 20 };
        struct hub h = hub_open(PORT_OPTS(.reply_bytes_max = 16 << 20, .link_reply_bytes_max = 1 << 20));
        CHECK_EQ(chmod(test_dir(), 0711), 0);
        struct flood f = {.hub = &h, .uid = getuid() ? 0 : USER_A, .each = CALLS, .links = 3};
        f.ready = stage_new();
        f.go = stage_new();
        f.sent = stage_new();
        pid_t pid = test_fork(call_unread, &f);
        answer_first(&h);
        stage_await(&f.ready);
        wharf_name reply[CALLS];
        for (unsigned i = 0; i < CALLS; i++) {
                char c;
                struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                reply[i] = m.reply;
        }
        char *large = calloc(1, LARGE_FEW);
        const unsigned share = f.uid ? 4 : 8; /* half of it, or all for one's own user */
        unsigned sent = 0;
        int r;
        while ((r = wharf_reply(h.task, reply[sent], large, LARGE_FEW)) == 0)
                sent++;
        CHECK_EQ(r, -EDQUOT);
        CHECK(strstr(wharf_why(), "reply_bytes_max") != NULL);
        CHECK_EQ(sent, share);
        CHECK_EQ(wharf_reply(h.task, reply[sent], large, LARGE_FEW), -EDQUOT); /* and the right is there still */
        if (f.uid) { /* what others may have is no less for it */
                struct flood b = {.hub = &h, .uid = USER_B, .each = 1, .links = 1};
                b.ready = stage_new();
                b.go = stage_new();
                b.sent = stage_new();
                pid_t other = test_fork(call_unread, &b);
                answer_first(&h);
                char c;
                struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_reply(h.task, m.reply, large, LARGE_FEW), 0);
                stage_reach(&b.go);
                stage_await(&b.sent);
                flood_close(&b, other);
        }
        stage_reach(&f.go); /* three are read: there is room for as many, or one less, which the socket's bytes hide */
        stage_await(&f.sent);
        CHECK_EQ(wharf_reply(h.task, reply[sent++], large, LARGE_FEW), 0);
        kill_hard(pid); /* and of the dead nothing is left to pay */
        while (sent < CALLS)
                wharf_drop(h.task, reply[sent++]);
        while (wharf_recv(h.task, h.port, large, 1, NULL, 0) >= 0)
                ;
        f.links = 1;
        pid = test_fork(call_unread, &f);
        answer_first(&h);
        stage_await(&f.ready);
        for (unsigned i = 0; i < CALLS; i++) {
                char c;
                struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_reply(h.task, m.reply, large, LARGE_FEW), i < share ? 0 : -EDQUOT);
                if (i >= share)
                        wharf_drop(h.task, m.reply);
        }
        free(large);
        flood_close(&f, pid);
        hub_close(&h);
}

/* ---- calls that wait for an answer ---- */

struct calls {
        struct hub *hub;
        unsigned links, each;
        const char *why; /* of the last one on the last link, or NULL */
};

static int calls_start(void *arg)
{
        const struct calls *s = arg;
        wharf_task *t = task();
        for (unsigned i = 0; i < s->links; i++) {
                wharf_name right;
                uint32_t call;
                char c;
                CHECK_EQ(wharf_right_connect(t, s->hub->path, &right), 0);
                CHECK_EQ(wharf_call(t, right, "x", 1, &c, 1, WHARF_FOREVER), 1);
                for (unsigned k = 0; k < s->each; k++)
                        CHECK_EQ(wharf_call_start(t, right, &MSG(.data = BYTES("a"), .len_bytes = 1), WHARF_NONE,
                                                  WHARF_FOREVER, &call),
                                 0);
                if (i + 1 < s->links)
                        continue;
                struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
                int r = wharf_call_finish(t, right, call, &m, WHARF_FOREVER);
                CHECK_EQ(r, s->why ? -EDQUOT : 0);
                if (s->why) {
                        CHECK_EQ(wharf_send(t, right, "b", 1, WHARF_FOREVER), -EDQUOT);
                        CHECK(strstr(wharf_why(), s->why) != NULL);
                }
        }
        wharf_task_close(t);
        return 0;
}

/* Receives `n` calls and answers the first of each link; the others are in `ret`. How many those are. */
static unsigned take_calls(struct hub *h, unsigned n, wharf_name *ret)
{
        unsigned kept = 0;
        while (n > 0) {
                char c;
                struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
                CHECK_EQ(wharf_recvmsg(h->task, h->port, &m, WHARF_FOREVER), 0);
                n--;
                if (c == 'x')
                        CHECK_EQ(wharf_reply(h->task, m.reply, "y", 1), 0);
                else
                        ret[kept++] = m.reply;
        }
        return kept;
}

/* The call that is one too many comes when it comes; it is no message, and is told to its caller, which then ends. */
static void look_until_gone(wharf_task *t, wharf_name port, pid_t pid)
{
        siginfo_t si = {.si_pid = 0};
        do {
                char c;
                CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, 0), -EAGAIN);
                CHECK_EQ(waitid(P_PID, (id_t)pid, &si, WEXITED | WNOHANG | WNOWAIT), 0);
        } while (si.si_pid == 0);
}

TEST(calls_that_nobody_answers_are_so_many_a_sender)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS, .link_answers_max = 4));
        struct calls s = {.hub = &h, .links = 1, .each = 5, .why = "link_answers_max of the port): 4"};
        wharf_name reply[8];
        pid_t pid = test_fork(calls_start, &s);
        CHECK_EQ(take_calls(&h, 5, reply), 4);
        look_until_gone(h.task, h.port, pid);
        CHECK_EQ(test_wait(pid), 0);
        for (unsigned i = 0; i < 4; i++)
                CHECK_EQ(wharf_reply(h.task, reply[i], "y", 1), -EPIPE);
        s.why = NULL; /* answered, others may come: as many, one after another */
        s.links = 3;
        s.each = 4;
        pid = test_fork(calls_start, &s);
        for (unsigned i = 0; i < 3; i++) {
                CHECK_EQ(take_calls(&h, 5, reply), 4);
                for (unsigned k = 0; k < 4; k++)
                        CHECK_EQ(wharf_reply(h.task, reply[k], "y", 1), 0);
        }
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* The same for all the links of one user, in all of a task. */
TEST(calls_that_nobody_answers_are_so_many_a_user)
{
        struct hub h = hub_open(NULL);
        wharf_task *t;
        struct wharf_task_opts o = {.size = sizeof o, .answers_max = 7};
        wharf_name reply[8], port;
        CHECK_EQ(wharf_task_open(&o, &t), 0);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_port_listen(h.task, h.port, -1), 0);
        CHECK_EQ(wharf_port_listen(t, port, h.listen_fd), 0);
        struct hub few = {.task = t, .port = port, .listen_fd = h.listen_fd};
        memcpy(few.path, h.path, sizeof few.path);
        struct calls s = {.hub = &few, .links = 2, .each = 4, .why = "(answers_max of the task): 7"};
        pid_t pid = test_fork(calls_start, &s);
        CHECK_EQ(take_calls(&few, 4 + 3 + 2, reply), 7);
        look_until_gone(t, port, pid);
        CHECK_EQ(test_wait(pid), 0);
        s.why = NULL; /* whoever called is dead, and its calls are not: until they are answered or dropped */
        s.links = 1;
        for (unsigned i = 0; i < 7; i++)
                CHECK_EQ(wharf_drop(t, reply[i]), 0);
        pid = test_fork(calls_start, &s);
        CHECK_EQ(take_calls(&few, 5, reply), 4);
        for (unsigned i = 0; i < 4; i++)
                CHECK_EQ(wharf_reply(t, reply[i], "y", 1), 0);
        CHECK_EQ(test_wait(pid), 0);
        wharf_task_close(t);
        hub_close(&h);
}
