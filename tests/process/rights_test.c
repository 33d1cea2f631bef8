/*
 * Rights between real processes: inside messages, copied, moved, handed from one to the next; watched; limited.
 */
#include "hub.h"

#include <sys/resource.h>
#include <sys/stat.h>

static bool same_file(int a, int b)
{
        struct stat x, y;
        return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static bool is_open(int fd)
{
        return fcntl(fd, F_GETFD) >= 0;
}

/* ---- what can be inside ---- */

static int send_every_kind(void *arg)
{
        wharf_name hub, port, mine, spare;
        wharf_task *t = hub_join(arg, &hub);
        char buf[16];
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &mine), 0);
        CHECK_EQ(wharf_right_new(t, port, &spare), 0);
        int copied = open("/dev/null", O_RDONLY | O_CLOEXEC), moved = open("/dev/zero", O_RDONLY | O_CLOEXEC);
        struct wharf_item items[] = {
                {.kind = WHARF_COPY_FD, .fd = copied},    {.kind = WHARF_MOVE_FD, .fd = moved},
                {.kind = WHARF_MAKE_SEND, .name = port},  {.kind = WHARF_COPY_SEND, .name = mine},
                {.kind = WHARF_MOVE_SEND, .name = spare},
        };
        struct wharf_msg m = MSG(.data = BYTES("abcde"), .len_bytes = 5, .items = items, .n_items = 5, .id = 11);
        CHECK_EQ(wharf_sendmsg(t, hub, &m, WHARF_FOREVER), 0);
        CHECK(is_open(copied));
        CHECK(!is_open(moved));
        CHECK_EQ(wharf_name_kind(t, port), WHARF_KIND_PORT);
        CHECK_EQ(wharf_name_kind(t, mine), WHARF_KIND_SEND);
        CHECK_EQ(wharf_name_kind(t, spare), -EBADF);
        CHECK_EQ(wharf_drop(t, mine), 0);
        /* Each of the three rights that were given away leads here, and says who uses it. */
        unsigned seen = 0;
        pid_t parent = getppid();
        for (unsigned i = 0; i < 3; i++) {
                struct wharf_sender from;
                CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, &from, WHARF_FOREVER), 1);
                CHECK_EQ(from.pid, parent);
                seen |= 1u << (buf[0] - '0');
        }
        CHECK_EQ(seen, 7);
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, WHARF_FOREVER), -ENOTCONN);
        close(copied);
        wharf_task_close(t);
        return 0;
}

TEST(every_kind_of_item)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(send_every_kind, &h);
        struct wharf_item items[5];
        char buf[8];
        struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf, .items = items, .cap_items = 5);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.n_items, 5);
        CHECK_EQ(m.id, 11);
        CHECK_EQ(items[0].kind, WHARF_GOT_FD);
        CHECK_EQ(items[1].kind, WHARF_GOT_FD);
        int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        CHECK(same_file(items[0].fd, null));
        CHECK_GE(read(items[1].fd, buf, sizeof buf), 1);
        CHECK(fcntl(items[0].fd, F_GETFD) & FD_CLOEXEC);
        for (unsigned i = 0; i < 2; i++)
                close(items[i].fd);
        close(null);
        for (unsigned i = 2; i < 5; i++) {
                CHECK_EQ(items[i].kind, WHARF_GOT_SEND);
                CHECK_EQ(wharf_send(h.task, items[i].name, (char[]){(char)('0' + i - 2)}, 1, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_drop(h.task, items[i].name), 0);
        }
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* As many as fit, by every way that carries them. */
TEST(sixty_four_items)
{
        struct hub h = hub_open(PORT_OPTS(.unread_rights_max = 250));
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        struct wharf_item items[WHARF_ITEMS_MAX + 1], got[WHARF_ITEMS_MAX];
        static char bytes[20000], buf[20000];
        for (unsigned i = 0; i <= WHARF_ITEMS_MAX; i++)
                items[i] = (struct wharf_item){.kind = WHARF_COPY_FD, .fd = h.listen_fd};
        for (uint32_t how = WHARF_HOW_COLD; how <= WHARF_HOW_MEMORY; how++) {
                struct wharf_msg m = MSG(.data = bytes, .len_bytes = how == WHARF_HOW_INLINE ? 100 : sizeof bytes,
                                         .how = how, .items = items, .n_items = WHARF_ITEMS_MAX + 1);
                CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), -EINVAL);
                m.n_items = WHARF_ITEMS_MAX;
                CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
                struct wharf_msg r = MSG(.data = buf, .cap_bytes = sizeof buf, .items = got, .cap_items = 63);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &r, 0), -EOVERFLOW);
                CHECK_EQ(r.n_items, WHARF_ITEMS_MAX);
                CHECK_EQ(r.len_bytes, m.len_bytes);
                r.cap_items = WHARF_ITEMS_MAX;
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &r, 0), 0);
                for (unsigned i = 0; i < WHARF_ITEMS_MAX; i++) {
                        CHECK(same_file(got[i].fd, h.listen_fd));
                        close(got[i].fd);
                }
        }
        hub_close(&h);
}

/*
 * Goal:   a message with rights goes whole or not at all: after a failure every name and descriptor is as it was.
 * Method: one bad item behind good ones, of every kind of badness; then a dead receiver, and a full queue.
 */
TEST(all_or_nothing)
{
        struct hub h = hub_open(PORT_OPTS(.capacity_records = 4));
        wharf_name right, port, moving, set;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_set_new(h.task, &set), 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &moving), 0);
        int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        static const struct {
                uint32_t kind;
                int which; /* 0 nonsense, 1 the port, 2 a right, 3 the set */
                int err;
        } bad[] = {
                {WHARF_MAKE_SEND, 0, -EBADF},
                {WHARF_MAKE_SEND, 2, -EPERM},
                {WHARF_COPY_SEND, 0, -EBADF},
                {WHARF_COPY_SEND, 1, -EPERM},
                {WHARF_MOVE_SEND, 0, -EBADF},
                {WHARF_MOVE_SEND, 3, -EPERM},
                {WHARF_MOVE_REPLY, 0, -EBADF},
                {WHARF_MOVE_REPLY, 2, -EPERM},
                {WHARF_COPY_FD, 0, -EBADF},
                {0, 0, -EINVAL},
                {99, 0, -EINVAL},
                {WHARF_GOT_SEND, 2, -EINVAL},
        };
        unsigned before = count_fds();
        for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
                wharf_name names[] = {bad[i].kind == WHARF_COPY_FD ? (wharf_name)-1 : 0x7fffffff, port, moving, set};
                struct wharf_item items[] = {
                        {.kind = WHARF_MOVE_FD, .fd = fd},
                        {.kind = WHARF_MAKE_SEND, .name = port},
                        {.kind = WHARF_MOVE_SEND, .name = moving},
                        {.kind = bad[i].kind, .name = names[bad[i].which]},
                };
                struct wharf_msg m = MSG(.items = items, .n_items = 4);
                CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), bad[i].err);
                CHECK(is_open(fd));
                CHECK_EQ(wharf_name_kind(h.task, moving), WHARF_KIND_SEND);
        }
        /* What the failed attempts introduced is gone; the port forgets it as soon as it looks. */
        CHECK_EQ(wharf_send(h.task, moving, "x", 1, WHARF_FOREVER), 0);
        char c;
        closes_rest();
        CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), 1);
        CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), -EAGAIN);
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(h.task, port, &st), 0);
        CHECK_EQ(st.senders, 1);
        CHECK_EQ(count_fds(), before);

        struct wharf_item item = {.kind = WHARF_MOVE_SEND, .name = moving};
        struct wharf_msg m = MSG(.items = &item, .n_items = 1);
        while (wharf_send(h.task, right, "x", 1, 0) == 0)
                ;
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), -EAGAIN);
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, wharf_in_ms(2)), -ETIMEDOUT);
        CHECK_EQ(wharf_name_kind(h.task, moving), WHARF_KIND_SEND);
        CHECK_EQ(wharf_drop(h.task, h.port), 0);
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, WHARF_FOREVER), -EPIPE);
        CHECK_EQ(wharf_send(h.task, moving, "y", 1, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), 1);
        close(fd);
        hub_close(&h);
}

/* Too many unread is an error of its own, and over as soon as they were read. */
TEST(too_many_on_their_way)
{
        struct hub h = hub_open(PORT_OPTS(.unread_rights_max = 3));
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        struct wharf_item item = {.kind = WHARF_COPY_FD, .fd = h.listen_fd}, got;
        for (unsigned round = 0; round < 40; round++) {
                struct wharf_msg m = MSG(.items = &item, .n_items = 1), r = MSG(.items = &got, .cap_items = 1);
                for (unsigned i = 0; i < 3; i++)
                        CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
                CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), -ETOOMANYREFS);
                CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), 0);
                for (unsigned i = 0; i < 3; i++) {
                        CHECK_EQ(wharf_recvmsg(h.task, h.port, &r, 0), 0);
                        close(got.fd);
                }
                char c;
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), 1);
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), -EAGAIN);
        }
        hub_close(&h);
}

/* A plain receive drops what it has no place for: rights and descriptors are closed, not leaked. */
TEST(plain_receive_drops_rights)
{
        struct hub h = hub_open(NULL);
        wharf_name right, port;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        unsigned before = count_fds();
        for (unsigned i = 0; i < 40; i++) {
                struct wharf_item items[] = {{.kind = WHARF_COPY_FD, .fd = h.listen_fd},
                                             {.kind = WHARF_MAKE_SEND, .name = port}};
                struct wharf_msg m = MSG(.data = BYTES("x"), .len_bytes = 1, .items = items, .n_items = 2);
                char c;
                CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), 1);
                CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, wharf_in_ms(60000)), -ENOTCONN); /* a thread closes it */
        }
        CHECK_LE(count_fds(), before + 4); /* a lane's greeting may still hold some */
        hub_close(&h);
}

/* A port that is closed takes what lies in it along: descriptors in unread messages, and rights. */
TEST(unread_rights_go_with_their_port)
{
        struct hub h = hub_open(NULL);
        unsigned before = count_fds();
        wharf_name right, port, inner;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_port_new(h.task, NULL, &inner), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        for (unsigned i = 0; i < 20; i++) {
                struct wharf_item items[] = {{.kind = WHARF_COPY_FD, .fd = h.listen_fd},
                                             {.kind = WHARF_MAKE_SEND, .name = inner}};
                struct wharf_msg m = MSG(.items = items, .n_items = 2);
                CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
        }
        CHECK_EQ(wharf_drop(h.task, port), 0);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
        struct wharf_right_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_right_stat(h.task, right, &st), 0);
        CHECK_EQ(st.dead, -EPIPE);
        CHECK_EQ(wharf_send(h.task, right, "x", 1, WHARF_FOREVER), -EPIPE);
        CHECK_EQ(wharf_drop(h.task, right), 0);
        CHECK_EQ(wharf_recv(h.task, inner, NULL, 0, NULL, 0), -ENOTCONN);
        CHECK_EQ(wharf_drop(h.task, inner), 0);
        CHECK_EQ(count_fds(), before);
        hub_close(&h);
}

/* ---- from hand to hand ---- */

enum { HANDS = 6 };

/* Each takes a right from the hub, says its number over it, and hands it on: by copy or by move. */
static int hand_on(void *arg)
{
        wharf_name hub, port;
        wharf_task *t = hub_join(arg, &hub);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        struct wharf_item it = {.kind = WHARF_MAKE_SEND, .name = port};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(t, hub, &m, WHARF_FOREVER), 0); /* "my address" */
        for (;;) {
                struct wharf_item got[2];
                struct wharf_msg r = MSG(.items = got, .cap_items = 2);
                if (wharf_recvmsg(t, port, &r, WHARF_FOREVER) < 0)
                        break;
                CHECK_EQ(r.n_items, r.id ? 2 : 1); /* the right that travels, and the next hand */
                wharf_name travels = got[0].name;
                if (r.id % 3 != 2) /* one in three passes it on without ever using it */
                        CHECK_EQ(wharf_send(t, travels, &r.id, sizeof r.id, WHARF_FOREVER), 0);
                if (r.id) {
                        struct wharf_item out = {.kind = r.id % 2 ? WHARF_MOVE_SEND : WHARF_COPY_SEND, .name = travels};
                        struct wharf_msg next = MSG(.items = &out, .n_items = 1, .id = 0);
                        CHECK_EQ(wharf_sendmsg(t, got[1].name, &next, WHARF_FOREVER), 0);
                        CHECK_EQ(wharf_name_kind(t, travels), r.id % 2 ? -EBADF : WHARF_KIND_SEND);
                        wharf_drop(t, got[1].name);
                }
                if (!r.id || r.id % 2 == 0)
                        CHECK_EQ(wharf_drop(t, travels), 0);
        }
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   a right that went through several hands works, and says truly who uses it now.
 * Method: six processes; a right to a port of ours is handed to each, and by it to the next one, by copy and by move.
 */
TEST_TIMEOUT(from_hand_to_hand, 60)
{
        struct hub h = hub_open(NULL);
        pid_t pid[HANDS];
        wharf_name address[HANDS], port;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        for (unsigned i = 0; i < HANDS; i++) {
                pid[i] = test_fork(hand_on, &h);
                struct wharf_item it;
                struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(m.sender.pid, pid[i]);
                address[i] = it.name;
        }
        for (uint32_t k = 1; k <= 60; k++) {
                unsigned first = k % HANDS, second = (k + 1 + k / HANDS % (HANDS - 1)) % HANDS;
                struct wharf_item items[] = {{.kind = WHARF_MAKE_SEND, .name = port},
                                             {.kind = WHARF_COPY_SEND, .name = address[second]}};
                struct wharf_msg m = MSG(.items = items, .n_items = 2, .id = k);
                CHECK_EQ(wharf_sendmsg(h.task, address[first], &m, WHARF_FOREVER), 0);
                for (unsigned n = k % 3 == 2 ? 1 : 0; n < 2; n++) {
                        uint32_t said;
                        struct wharf_sender from;
                        CHECK_EQ(wharf_recv(h.task, port, &said, sizeof said, &from, WHARF_FOREVER), sizeof said);
                        CHECK(said == k || said == 0);
                        CHECK_EQ(from.pid, said ? pid[first] : pid[second]);
                }
        }
        for (unsigned i = 0; i < HANDS; i++)
                CHECK_EQ(wharf_drop(h.task, address[i]), 0);
        for (unsigned i = 0; i < HANDS; i++)
                CHECK_EQ(test_wait(pid[i]), 0);
        hub_close(&h);
}

/* A right that was used, with a lane and unread messages, is moved: what it sent stays sent. */
TEST(moving_a_used_right)
{
        struct hub h = hub_open(NULL);
        wharf_name carrier, right, port;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &carrier), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &right), 0);
        for (uint32_t i = 0; i < 100; i++)
                CHECK_EQ(wharf_send(h.task, right, &i, sizeof i, 0), 0);
        struct wharf_item it = {.kind = WHARF_MOVE_SEND, .name = right}, got;
        struct wharf_msg m = MSG(.items = &it, .n_items = 1), r = MSG(.items = &got, .cap_items = 1);
        CHECK_EQ(wharf_sendmsg(h.task, carrier, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_name_kind(h.task, right), -EBADF);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &r, 0), 0);
        uint32_t last = 100, n;
        CHECK_EQ(wharf_send(h.task, got.name, &last, sizeof last, WHARF_FOREVER), 0);
        bool seen[101] = {false};
        for (uint32_t i = 0; i <= 100; i++) {
                CHECK_EQ(wharf_recv(h.task, port, &n, sizeof n, NULL, WHARF_FOREVER), sizeof n);
                CHECK(n <= 100 && !seen[n]);
                seen[n] = true;
        }
        CHECK_EQ(wharf_drop(h.task, got.name), 0);
        CHECK_EQ(wharf_recv(h.task, port, &n, sizeof n, NULL, WHARF_FOREVER), -ENOTCONN);
        hub_close(&h);
}

/* ---- dead names ---- */

static int owner_that_waits(void *arg)
{
        wharf_name hub, port;
        wharf_task *t = hub_join(arg, &hub);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        struct wharf_item it = {.kind = WHARF_MAKE_SEND, .name = port};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(t, hub, &m, WHARF_FOREVER), 0);
        wharf_recv(t, port, NULL, 0, NULL, WHARF_FOREVER);
        return 0;
}

/* The receiver of a watched right dies: one notice, at the port that asked, and only that one. */
TEST(watching_for_death)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(owner_that_waits, &h);
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_watch(h.task, it.name, h.port), 0);
        CHECK_EQ(wharf_watch(h.task, it.name, h.port), -EBUSY);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
        kill_hard(pid);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.notice, WHARF_NOTICE_DEAD_NAME);
        CHECK_EQ(m.about, it.name);
        CHECK_EQ(m.port, h.port);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
        /* Watched when it is dead already: at once. */
        CHECK_EQ(wharf_watch(h.task, it.name, h.port), 0);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.notice, WHARF_NOTICE_DEAD_NAME);
        CHECK_EQ(wharf_send(h.task, it.name, "x", 1, WHARF_FOREVER), -EPIPE);
        hub_close(&h);
}

/* ---- limits, each with an error of its own ---- */

TEST(as_many_links_as_the_port_accepts)
{
        struct hub h = hub_open(PORT_OPTS(.links_max = 2));
        wharf_name a, b, c = 77;
        CHECK_EQ(wharf_right_new(h.task, h.port, &a), 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &b), 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &c), -EMLINK);
        CHECK_EQ(c, 77);
        CHECK_EQ(wharf_drop(h.task, b), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, NULL, 0, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_right_new(h.task, h.port, &c), 0);
        /* Introduced by somebody, it waits for a place, and so does what its introducer sends behind it. Others go on. */
        wharf_name d;
        char buf[2];
        CHECK_EQ(wharf_right_copy(h.task, a, 0, &d), 0);
        CHECK_EQ(wharf_send(h.task, d, "d", 1, 0), 0);
        CHECK_EQ(wharf_send(h.task, a, "a", 1, 0), 0);
        CHECK_EQ(wharf_send(h.task, c, "c", 1, 0), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, 1, NULL, 0), 1);
        CHECK_EQ(buf[0], 'c');
        CHECK_EQ(wharf_recv(h.task, h.port, buf, 1, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_drop(h.task, c), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, &buf[0], 1, NULL, WHARF_FOREVER), 1);
        CHECK_EQ(wharf_recv(h.task, h.port, &buf[1], 1, NULL, WHARF_FOREVER), 1);
        CHECK_EQ(buf[0] + buf[1], 'a' + 'd');
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(h.task, h.port, &st), 0);
        CHECK_EQ(st.senders, 2);
        CHECK_EQ(st.refused_links, 0);
        hub_close(&h);
}

/* What the receiver maps for one sender, and for all: the rest goes in smaller pieces, or not at all. */
TEST(as_much_memory_as_the_port_maps)
{
        struct hub h = hub_open(PORT_OPTS(.link_mapped_bytes_max = 3 << 20, .mapped_bytes_max = 4 << 20));
        wharf_name a;
        static char bytes[4 << 20], buf[4 << 20];
        CHECK_EQ(wharf_right_new(h.task, h.port, &a), 0);
        struct wharf_msg m = MSG(.data = bytes, .len_bytes = sizeof bytes, .how = WHARF_HOW_SECTION);
        CHECK_EQ(wharf_sendmsg(h.task, a, &m, 0), -EDQUOT);
        m = MSG(.data = bytes, .len_bytes = sizeof bytes, .how = WHARF_HOW_MEMORY);
        CHECK_EQ(wharf_sendmsg(h.task, a, &m, 0), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0), sizeof buf);
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(h.task, h.port, &st), 0);
        CHECK_LE(st.mapped_bytes, 4 << 20);
        hub_close(&h);
}

/* Until there are no descriptors left: every call then fails with -EMFILE, and nothing is lost. */
static int run_out_of_descriptors(void *arg)
{
        test_drop_root();
        struct rlimit soft = {1024, 1024};
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &soft), 0);
        wharf_task *t;
        wharf_name port, right, other, set, rights[1024], hub;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_right_connect(t, ((struct hub *)arg)->path, &hub), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        CHECK_EQ(wharf_right_new(t, port, &other), 0);
        char buf[8];
        CHECK_EQ(wharf_send(t, right, "first", 5, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, 0), 5);
        unsigned n = 0;
        int r;
        while ((r = wharf_right_new(t, port, &rights[n])) == 0)
                CHECK_LE(++n, 1000);
        CHECK_EQ(r, -EMFILE);
        CHECK_GE(n, 400);
        while (dup(2) >= 0) /* not one is left */
                ;
        unsigned before = count_fds();
        wharf_name none = 5;
        CHECK_EQ(wharf_port_new(t, NULL, &none), -EMFILE);
        CHECK_EQ(wharf_set_new(t, &set), -EMFILE);
        CHECK_EQ(wharf_right_new(t, port, &none), -EMFILE);
        CHECK_EQ(wharf_right_copy(t, right, 0, &none), -EMFILE);
        CHECK_EQ(wharf_right_connect(t, ((struct hub *)arg)->path, &none), -EMFILE);
        CHECK_EQ(none, 5);
        struct wharf_item it = {.kind = WHARF_MAKE_SEND, .name = port};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(t, right, &m, 0), -EMFILE);
        CHECK_EQ(count_fds(), before);
        /* Messages need none, and still travel: as frames, since a lane would need two. */
        for (unsigned i = 0; i < 100; i++) {
                CHECK_EQ(wharf_send(t, right, "again", 5, 0), 0);
                CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, 0), 5);
        }
        /* And when there are some again, all is well. */
        for (unsigned i = 0; i < n; i++)
                CHECK_EQ(wharf_drop(t, rights[i]), 0);
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_right_copy(t, right, 0, &none), 0);
        CHECK_EQ(wharf_sendmsg(t, right, &m, 0), 0);
        /* Nor do dead senders keep any from living ones, though nobody receives. */
        for (unsigned i = 0; i < 2000; i++) {
                CHECK_EQ(wharf_right_new(t, port, &none), 0);
                CHECK_EQ(wharf_drop(t, none), 0);
        }
        wharf_task_close(t);
        return 0;
}

TEST(out_of_descriptors)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(run_out_of_descriptors, &h);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* The kernel's own limit on descriptors in flight, which all processes of a user share, has its error too. */
static int flood_with_descriptors(void *arg)
{
        test_drop_root();
        struct rlimit soft = {1024, 1024};
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &soft), 0);
        wharf_task *t;
        wharf_name port, rights[64];
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.unread_rights_max = 250), &port), 0);
        struct wharf_item items[50];
        for (unsigned i = 0; i < 50; i++)
                items[i] = (struct wharf_item){.kind = WHARF_COPY_FD, .fd = 0};
        unsigned n = 0;
        int r = 0;
        while (r == 0 && n < 64) {
                CHECK_EQ(wharf_right_new(t, port, &rights[n++]), 0);
                for (unsigned i = 0; i < 5 && r == 0; i++) {
                        struct wharf_msg m = MSG(.items = items, .n_items = 50);
                        r = wharf_sendmsg(t, rights[n - 1], &m, 0);
                }
        }
        CHECK_EQ(r, -ETOOMANYREFS);
        /* The queue is read, and everything goes on. */
        struct wharf_item got[50];
        struct wharf_msg m = MSG(.items = got, .cap_items = 50);
        while (wharf_recvmsg(t, port, &m, 0) == 0)
                for (unsigned i = 0; i < m.n_items; i++)
                        close(got[i].fd);
        m = MSG(.items = items, .n_items = 50);
        CHECK_EQ(wharf_sendmsg(t, rights[0], &m, 0), 0);
        wharf_task_close(t);
        return 0;
}

TEST(descriptors_in_flight)
{
        pid_t pid = test_fork(flood_with_descriptors, NULL);
        CHECK_EQ(test_wait(pid), 0);
}

/* ---- names ---- */

/* A name that was just dropped is not given to anything else soon, so a stale name is an error and not a mistake. */
TEST(names_are_never_just_freed)
{
        struct hub h = hub_open(NULL);
        wharf_name old[64] = {0};
        for (unsigned i = 0; i < 3000; i++) {
                wharf_name name;
                CHECK_EQ(i % 3 ? wharf_right_new(h.task, h.port, &name) : wharf_set_new(h.task, &name), 0);
                CHECK_NE(name, WHARF_NONE);
                for (unsigned k = 0; k < 64; k++)
                        CHECK_NE(name, old[k]);
                CHECK_EQ(wharf_drop(h.task, name), 0);
                CHECK_EQ(wharf_drop(h.task, name), -EBADF);
                CHECK_EQ(wharf_name_kind(h.task, name), -EBADF);
                CHECK_EQ(wharf_send(h.task, name, "", 0, 0), -EBADF);
                old[i % 64] = name;
                wharf_recv(h.task, h.port, NULL, 0, NULL, 0); /* sees the ends of the links */
        }
        hub_close(&h);
}

/* The wrong kind of name, no name, nonsense: an error each, and a word about it. */
TEST(wrong_names_and_arguments)
{
        struct hub h = hub_open(NULL);
        wharf_name right, set, none;
        char c;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        CHECK_EQ(wharf_set_new(h.task, &set), 0);
        CHECK_EQ(wharf_name_kind(h.task, right), WHARF_KIND_SEND);
        CHECK_EQ(wharf_name_kind(h.task, set), WHARF_KIND_SET);
        CHECK_EQ(wharf_name_kind(h.task, 0), -EBADF);
        CHECK_EQ(wharf_send(h.task, h.port, &c, 1, 0), -EPERM);
        CHECK_EQ(wharf_send(h.task, set, &c, 1, 0), -EPERM);
        CHECK_EQ(wharf_send(h.task, 0, &c, 1, 0), -EBADF);
        CHECK_EQ(wharf_send(h.task, UINT32_MAX, &c, 1, 0), -EBADF);
        CHECK_EQ(wharf_recv(h.task, right, &c, 1, NULL, 0), -EPERM);
        CHECK_EQ(wharf_recv(h.task, 0, &c, 1, NULL, 0), -EBADF);
        CHECK_EQ(wharf_recv(h.task, UINT32_MAX, &c, 1, NULL, 0), -EBADF);
        CHECK_EQ(wharf_right_new(h.task, right, &none), -EPERM);
        CHECK_EQ(wharf_right_copy(h.task, h.port, 0, &none), -EPERM);
        CHECK_EQ(wharf_set_add(h.task, h.port, h.port), -EPERM);
        CHECK_EQ(wharf_set_add(h.task, set, right), -EPERM);
        CHECK_EQ(wharf_reply(h.task, right, "", 0), -EPERM);
        CHECK_EQ(wharf_reply(h.task, 0, "", 0), -EBADF);
        CHECK_EQ(wharf_drop(h.task, 0), -EBADF);
        CHECK_EQ(wharf_right_connect(h.task, "/nonexistent/socket", &none), -ENOENT);
        CHECK_EQ(wharf_port_listen(h.task, h.port, 0), -EINVAL);

        struct wharf_msg m = {.size = 8};
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), -EINVAL);
        CHECK(strstr(wharf_why(), "size"));
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EINVAL);
        m = MSG(.how = 9);
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), -EINVAL);
        CHECK(strstr(wharf_why(), "how"));
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.capacity_records = 65537), &none), -EINVAL);
        CHECK(strstr(wharf_why(), "capacity_records"));
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.unread_rights_max = 251), &none), -EINVAL);
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.payload_bytes_max = UINT64_MAX), &none), -EINVAL);
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = 8), &none), -EINVAL);
        CHECK_EQ(wharf_send(h.task, right, &c, 1, 0), 0);
        for (int e = 1; e < 200; e++)
                CHECK(wharf_strerror(-e) != NULL && *wharf_strerror(-e));
        hub_close(&h);
}
