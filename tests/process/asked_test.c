/*
 * Those who ask: what one user asks for, and does not read or use, keeps nobody else from what they ask for; neither at
 * wharfd, nor at the port of a name, nor at a server that answers with descriptors.
 */
#include "descriptors.h"
#include "domain.h"
#include "inside.h"
#include "names/domain.h"
#include "names/proto.h"
#include "hub.h"
#include "task/account.h"
#include "link/frame.h"
#include "port/owned.h"
#include "port/places.h"
#include "port/port.h"
#include "task/task.h"
#include "wharf/names.h"

#include <sys/resource.h>
#include <sys/sendfile.h>

enum { STRANGER = 61001, SERVER = 61002, LINKS = 8, FEW = 64 };

static void become(uid_t uid)
{
        CHECK_EQ(setgid(uid), 0);
        CHECK_EQ(setuid(uid), 0);
}

static void may_open(rlim_t descriptors)
{
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &(struct rlimit){descriptors, descriptors}), 0);
}

static wharf_task *task(void)
{
        wharf_task *t;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        return t;
}

/* ---- the port of a name ---- */

struct asking {
        struct hub hub;
        struct stage asked, go, read;
        unsigned n; /* look-ups */
};

/* Looks up so many rights, says something over each, and has them until it is told to go on. */
static int asks_and_keeps(void *arg)
{
        struct asking *s = arg;
        wharf_name right[FEW];
        become(STRANGER);
        wharf_task *t = task();
        unsigned refused = 0;
        for (unsigned i = 0; i < s->n; i++) {
                char c = (char)i;
                CHECK_EQ(wharf_lookup(t, "here", WHARF_FOREVER, &right[i]), 0);
                int r = wharf_send(t, right[i], &c, 1, 0);
                CHECK(r == 0 || r == -EDQUOT); /* the port may have looked already */
        }
        stage_reach(&s->asked);
        stage_await(&s->go);
        for (unsigned i = 0; i < s->n; i++) {
                int r = wharf_send(t, right[i], "again", 5, 0);
                CHECK(r == 0 || r == -EDQUOT);
                refused += r < 0;
        }
        wharf_task_close(t);
        return (int)refused;
}

static struct asking asking_open(unsigned n, const struct wharf_port_opts *opts)
{
        if (getuid() != 0)
                test_skip("needs to become another user");
        struct asking s = {.asked = stage_new(), .go = stage_new(), .read = stage_new(), .n = n};
        const char *dir = test_domain();
        CHECK_EQ(test_run_wharfd((const char *[]){"--domain", dir, "--share", "--linger", "forever", NULL}), 0);
        s.hub = hub_open(opts);
        CHECK_EQ(wharf_register(s.hub.task, "here", s.hub.port), 0);
        return s;
}

static void asking_close(struct asking *s)
{
        stage_done(&s->asked);
        stage_done(&s->go);
        stage_done(&s->read);
        hub_close(&s->hub);
        test_stop_wharfd(getenv("WHARF_DOMAIN"));
}

/* The next message of one byte, which another user has sent. */
static unsigned next_of_stranger(struct hub *h)
{
        unsigned char c;
        struct wharf_sender from;
        CHECK_EQ(wharf_recv(h->task, h->port, &c, 1, &from, wharf_in_ms(20000)), 1);
        CHECK_EQ(from.uid, STRANGER);
        return c;
}

/*
 * Goal:   whoever looks a name up more often than the port has places for its user waits by itself: others who look it up
 *         are served meanwhile, and nothing is lost of what it has sent.
 * Method: a port of eight links; a stranger with a dozen rights to it, which says something over each.
 */
TEST(look_ups_beyond_the_share_of_a_user_wait_alone)
{
        struct asking s = asking_open(12, PORT_OPTS(.links_max = LINKS, .flags = WHARF_PORT_STAYS));
        pid_t stranger = test_fork(asks_and_keeps, &s);
        stage_await(&s.asked);
        wharf_name right;
        unsigned seen = 0, n = 0;
        char c;
        struct wharf_sender from = {.uid = STRANGER};
        CHECK_EQ(wharf_lookup(s.hub.task, "here", WHARF_FOREVER, &right), 0);
        CHECK_EQ(wharf_send(s.hub.task, right, "x", 1, 0), 0);
        while (from.uid == STRANGER) {
                CHECK_EQ(wharf_recv(s.hub.task, s.hub.port, &c, 1, &from, wharf_in_ms(20000)), 1);
                seen |= from.uid == STRANGER ? 1u << c : 0;
                n += from.uid == STRANGER;
        }
        CHECK_EQ(c, 'x');
        CHECK_LE(n, LINKS / 2); /* its share, since nobody else had any */
        while (n < LINKS / 2) {
                seen |= 1u << next_of_stranger(&s.hub);
                n++;
        }
        CHECK_EQ(wharf_recv(s.hub.task, s.hub.port, &c, 1, NULL, 0), -EAGAIN);
        stage_reach(&s.go);
        /* It says it again, and goes; what waits has its places by then. */
        for (unsigned again = 0; n < 12 || again < 12;) {
                char text[8];
                ssize_t len = wharf_recv(s.hub.task, s.hub.port, text, sizeof text, &from, wharf_in_ms(20000));
                CHECK(len == 1 || len == 5);
                again += len == 5;
                n += len == 1;
                seen |= len == 1 ? 1u << text[0] : 0;
        }
        CHECK_EQ(seen, 0xfff);
        CHECK_EQ(test_wait(stranger), 0);
        asking_close(&s);
}

/* Of a port with a place for everybody, in a task of few descriptors. */
static int serves_with_few(void *arg)
{
        struct asking *s = arg;
        may_open(FEW);
        wharf_task *t = task();
        wharf_name port;
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_register(t, "here", port), 0);
        stage_reach(&s->go);
        stage_await(&s->read);
        for (;;) {
                char c;
                struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1, .flags = WHARF_RECV_DROP_UNFIT);
                int r = wharf_recvmsg(t, port, &m, WHARF_FOREVER);
                CHECK(r == 0 || r == -EOVERFLOW);
                if (m.reply)
                        CHECK_EQ(wharf_reply(t, m.reply, &c, 1), 0);
        }
}

/*
 * Goal:   beyond the share of all links of the task it is refused, and told so; others are served.
 * Method: a server that may have 32 links, and a stranger with 24 rights to it. It has made a pair of its own for each, and sent
 *         something there, before the server reads any of it.
 */
TEST(look_ups_beyond_the_links_of_a_task_are_refused)
{
        enum { N = 24 };
        struct asking s = asking_open(N, NULL);
        CHECK_EQ(wharf_unregister(s.hub.task, "here"), 0);
        pid_t server = test_fork(serves_with_few, &s);
        stage_await(&s.go);
        pid_t stranger = test_fork(asks_and_keeps, &s);
        stage_await(&s.asked);
        stage_reach(&s.read);
        char c;
        for (unsigned i = 0; i < 5; i++) {
                wharf_name right;
                CHECK_EQ(wharf_lookup(s.hub.task, "here", WHARF_FOREVER, &right), 0);
                CHECK_EQ(wharf_call(s.hub.task, right, "x", 1, &c, 1, wharf_in_ms(20000)), 1);
                CHECK_EQ(wharf_drop(s.hub.task, right), 0);
        }
        stage_reach(&s.go);
        int refused = test_wait(stranger);
        CHECK_GE(refused, N - FEW / 4);
        CHECK_LE(refused, N - FEW / 8);
        kill_hard(server);
        asking_close(&s);
}

/* ---- wharfd's descriptors on their way ---- */

struct owner {
        struct stage there, go;
        unsigned n;
};

/* Has names, and never looks at their ports. */
static int never_reads(void *arg)
{
        struct owner *o = arg;
        become(STRANGER);
        wharf_task *t = task();
        for (unsigned i = 0; i < o->n; i++) {
                char name[16];
                wharf_name port;
                snprintf(name, sizeof name, "app.%u", i);
                CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
                CHECK_EQ(wharf_register(t, name, port), 0);
        }
        for (unsigned i = 0; i < 400 * o->n; i++) {
                char name[16];
                wharf_name right;
                snprintf(name, sizeof name, "app.%u", i % o->n);
                int r = wharf_lookup(t, name, 0, &right);
                CHECK(r == 0 || r == -EAGAIN);
                if (r == 0)
                        wharf_drop(t, right);
        }
        stage_reach(&o->there);
        return pause();
}

/* The program where everybody can reach it. */
static void copy_program(const char *from, const char *to)
{
        struct stat st;
        int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
        CHECK_EQ(fstat(in, &st), 0);
        for (off_t left = st.st_size; left > 0;) {
                ssize_t n = sendfile(out, in, NULL, (size_t)left);
                CHECK(n > 0);
                left -= n;
        }
        close(in);
        close(out);
}

static rlim_t wharfd_may_open = 512;
static int starts_wharfd(void *arg)
{
        char program[300];
        snprintf(program, sizeof program, "%s/wharfd", test_dir());
        copy_program(getenv("WHARFD"), program);
        setenv("WHARFD", program, 1);
        may_open(wharfd_may_open);
        become(SERVER);
        char conf[300];
        snprintf(conf, sizeof conf, "%s/wharfd.conf", test_dir());
        return test_run_wharfd(
                (const char *[]){"--domain", arg, "--share", "--config", conf, "--linger", "forever", NULL});
}

/* A wharfd of its own user, with so many descriptors, and of whom everybody may ask everything. */
static void serve_all(char dir[300], rlim_t descriptors)
{
        if (getuid() != 0)
                test_skip("needs to become several users");
        char conf[300];
        snprintf(dir, 300, "%s", test_domain());
        snprintf(conf, sizeof conf, "%s/wharfd.conf", test_dir());
        int fd = open(conf, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        CHECK_EQ(dprintf(fd, "own * all\nuse * all\n"), 20);
        close(fd);
        CHECK_EQ(mkdir(dir, 0755), 0);
        CHECK_EQ(chown(dir, SERVER, SERVER), 0);
        wharfd_may_open = descriptors;
        CHECK_EQ(test_wait(test_fork(starts_wharfd, dir)), 0);
}

/*
 * Goal:   whoever does not read whom wharfd introduces to it uses up no descriptors on their way but its share: the kernel
 *         counts those of all of wharfd's user together.
 * Method: a wharfd of its own user, with 512; a stranger with ten names that it looks up all the time, and no more.
 */
TEST_TIMEOUT(an_owner_that_does_not_read_keeps_nobody_from_names, 60)
{
        char dir[300];
        serve_all(dir, 512);
        struct owner o = {.there = stage_new(), .n = 10};
        pid_t owner = test_fork(never_reads, &o);
        stage_await(&o.there);
        wharf_task *t = task();
        wharf_name port, right;
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_register(t, "mine", port), 0);
        for (unsigned i = 0; i < 50; i++) {
                CHECK_EQ(wharf_lookup(t, "mine", 0, &right), 0);
                CHECK_EQ(wharf_send(t, right, "x", 1, 0), 0);
                CHECK_EQ(wharf_recv(t, port, NULL, 0, NULL, wharf_in_ms(20000)), -EOVERFLOW);
                char c;
                CHECK_EQ(wharf_recv(t, port, &c, 1, NULL, wharf_in_ms(20000)), 1);
                CHECK_EQ(wharf_drop(t, right), 0);
        }
        kill_hard(owner);
        wharf_task_close(t);
        stage_done(&o.there);
        test_stop_wharfd(dir);
}

/* ---- places at one name ---- */

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

struct places {
        uid_t uid;
        bool takes_no_rights; /* so no answer ever comes, and each look-up has introduced somebody all the same */
        unsigned n, got;
};

/* As that user: looks "here" up so often, and says how many answers had a right. */
static int looks_up(void *arg)
{
        struct places *p = arg;
        become(p->uid);
        wharf_task *t = task();
        wharf_name c, right;
        if (p->takes_no_rights) {
                const int no = 0;
                CHECK_EQ(wh_domain_connect(t, getenv("WHARF_DOMAIN"), true, true, wharf_in_ms(60000), &c), 0);
                if (setsockopt(holder(t, c)->sock, SOL_SOCKET, SO_PASSRIGHTS, &no, sizeof no) < 0)
                        return 77;
        }
        unsigned got = 0;
        for (unsigned i = 0; i < p->n; i++) {
                if (!p->takes_no_rights) {
                        int r = wharf_lookup(t, "here", 0, &right);
                        CHECK(r == 0 || r == -EAGAIN);
                        got += r == 0;
                        if (r == 0)
                                CHECK_EQ(wharf_drop(t, right), 0);
                        continue;
                }
                struct wh_names_request req = {.op = WH_NAMES_LOOKUP, .name = "here"};
                uint8_t buf[WH_NAMES_REQUEST_MAX], answer[64];
                const size_t len = wh_names_put_request(&req, buf);
                const ssize_t r = wharf_call(t, c, buf, len, answer, sizeof answer, wharf_in_ms(60000));
                CHECK(r == -ECANCELED || r > 0); /* "no" takes no right, once there are no places */
        }
        wharf_task_close(t);
        return (int)got;
}

/*
 * Goal:   of those that wharfd may introduce to the owner of a name before it reads, one user takes no more than half: others
 *         find places. Those whose answer did not reach who asked are introduced all the same, and count.
 * Method: a server that does not read. One user asks without end, then another; and then one who takes no descriptors, so
 *         that each answer fails.
 */
TEST(places_at_a_name_have_shares)
{
        struct asking s = asking_open(0, PORT_OPTS(.flags = WHARF_PORT_STAYS));
        CHECK_EQ(test_wait(test_fork(looks_up, &(struct places){.uid = STRANGER, .n = 100})), 32);
        CHECK_EQ(test_wait(test_fork(looks_up, &(struct places){.uid = STRANGER + 2, .n = 100})), 16);
        CHECK_EQ(test_wait(test_fork(looks_up, &(struct places){.uid = STRANGER, .n = 10})), 0);
        asking_close(&s);
}

/* Has two names, and reads at neither. */
static int has_two_names(void *arg)
{
        struct owner *o = arg;
        wharf_name port[2];
        become(STRANGER + 3);
        wharf_task *t = task();
        for (int i = 0; i < 2; i++) {
                CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port[i]), 0);
                CHECK_EQ(wharf_register(t, i ? "here" : "there", port[i]), 0);
        }
        stage_reach(&o->there);
        return pause();
}

/*
 * Goal:   one user who looks up a name of another, which that one does not read at, leaves something of what its owner may have
 *         unread: its other names can be looked up still.
 * Method: a wharfd of few descriptors, so that an owner may have eight.
 */
TEST(whoever_looks_up_one_name_shuts_no_other_of_its_owner)
{
        char dir[300];
        serve_all(dir, 64);
        struct owner o = {.there = stage_new()};
        pid_t owner = test_fork(has_two_names, &o);
        stage_await(&o.there);
        CHECK_LE(test_wait(test_fork(looks_up, &(struct places){.uid = STRANGER, .n = 30})), 4);
        wharf_task *t = task();
        wharf_name right;
        CHECK_EQ(wharf_lookup(t, "there", 0, &right), 0);
        wharf_task_close(t);
        kill_hard(owner);
        stage_done(&o.there);
        test_stop_wharfd(dir);
}

/* Waits for a name, or asks for lists, without end. */
static int waits_and_lists(void *arg)
{
        const bool lists = arg != NULL;
        become(STRANGER);
        wharf_task *t = task();
        for (;;) {
                wharf_name right;
                struct wharf_named *all;
                size_t n;
                if (lists && wharf_names_list(t, &all, &n) == 0)
                        free(all);
                else if (!lists)
                        wharf_lookup(t, "nobody", wharf_in_ms(60000), &right);
        }
        return 0;
}

/* Has a watch and a name, and lets go of both at once, again and again. */
static int watches_and_goes(void *arg)
{
        (void)arg;
        become(STRANGER + 2);
        wharf_task *t = task();
        for (int64_t end = wharf_in_ms(1500); wharf_now_ns() < end;) {
                wharf_name watch, port;
                CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &watch), 0);
                CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
                int r; /* what it let go of is its own until that is closed, which a thread does */
                while ((r = wharf_names_watch(t, "*", watch)) == -EDQUOT)
                        usleep(1000);
                CHECK_EQ(r, 0);
                CHECK_EQ(wharf_register(t, "goes", port), 0);
                usleep(200);
                wharf_drop(t, watch);
                wharf_drop(t, port);
        }
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   what is found to be gone in one user's turn takes no other user's turn away, which may be the next.
 * Method: one user has lists made, in which wharfd finds names whose owner is gone, and its watch with it.
 */
TEST_TIMEOUT(what_ends_in_one_users_turn_is_no_other_users_turn, 60)
{
        char dir[300];
        serve_all(dir, 512);
        const pid_t server = test_find_wharfd(dir, true);
        pid_t waits = test_fork(waits_and_lists, NULL), lists[2];
        for (int i = 0; i < 2; i++)
                lists[i] = test_fork(waits_and_lists, &wharfd_may_open);
        CHECK_EQ(test_wait(test_fork(watches_and_goes, NULL)), 0);
        kill_hard(waits);
        for (int i = 0; i < 2; i++)
                kill_hard(lists[i]);
        CHECK_EQ(test_find_wharfd(dir, true), server); /* it has not died meanwhile */
        test_stop_wharfd(dir);
}

/* ---- a port with many calls that wait ---- */

static int calls_much(void *arg)
{
        struct asking *s = arg;
        wharf_name right;
        uint32_t call;
        become(STRANGER);
        wharf_task *t = hub_join(&s->hub, &right);
        for (unsigned i = 0; i < s->n; i++)
                CHECK_EQ(wharf_call_start(t, right, &MSG(.data = BYTES("x"), .len_bytes = 1), WHARF_NONE, WHARF_FOREVER,
                                          &call),
                         0);
        stage_reach(&s->asked);
        struct wharf_msg m = MSG(); /* reads what it is told meanwhile, as far as it is told */
        wharf_call_finish(t, right, call, &m, WHARF_FOREVER);
        return pause();
}

/*
 * Goal:   calls of a stranger that nobody has answered keep a port from moving as little as they take its owner's descriptors.
 * Method: more calls than the owner may have descriptors; the port goes to another task here.
 */
TEST(calls_that_wait_keep_no_port_from_moving)
{
        if (getuid() != 0)
                test_skip("needs to become another user");
        const rlim_t was = limit_descriptors(256);
        struct asking s = {.hub = hub_open(NULL), .asked = stage_new(), .n = 600};
        struct hub home = hub_open(NULL);
        wharf_name to;
        pid_t caller = test_fork(calls_much, &s);
        wharf_name reply = WHARF_NONE;
        for (unsigned i = 0; i < s.n; i++) {
                char c;
                struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
                CHECK_EQ(wharf_recvmsg(s.hub.task, s.hub.port, &m, wharf_in_ms(60000)), 0);
                CHECK(m.reply != WHARF_NONE);
                reply = m.reply;
        }
        stage_await(&s.asked);
        CHECK_EQ(wharf_port_listen(s.hub.task, s.hub.port, -1), 0);
        CHECK_EQ(wharf_right_connect(s.hub.task, home.path, &to), 0);
        struct wharf_item it = {.kind = WHARF_MOVE_RECEIVE, .name = s.hub.port};
        int r = wharf_sendmsg(s.hub.task, to, &MSG(.items = &it, .n_items = 1), wharf_in_ms(60000));
        if (r < 0)
                test_fail(__FILE__, __LINE__, "%d: %s", r, wharf_why());
        CHECK_LE(count_fds(), 200);
        CHECK_EQ(wharf_reply(s.hub.task, reply, "x", 1), -EPIPE); /* the stranger had its share, and its link is over */
        kill_hard(caller);
        stage_done(&s.asked);
        hub_close(&s.hub);
        hub_close(&home);
        limit_descriptors(was);
}

TEST(whoever_was_introduced_counts_though_nobody_was_told)
{
        struct asking s = asking_open(0, PORT_OPTS(.flags = WHARF_PORT_STAYS));
        int r = test_wait(test_fork(looks_up, &(struct places){.uid = STRANGER, .takes_no_rights = true, .n = 50}));
        if (r == 0)
                CHECK_EQ(test_wait(test_fork(looks_up, &(struct places){.uid = STRANGER, .n = 10})), 0);
        asking_close(&s);
        if (r == 77)
                test_skip("SO_PASSRIGHTS is not there");
        CHECK_EQ(r, 0);
}

/* ---- answers with descriptors ---- */

enum { CALLERS = 3, ANSWERS = 60 }; /* links of that user, for one has a limit of unread rights as well */

struct answers {
        struct hub hub;
        struct stage go, read;
        bool closes;
        wharf_name reply[CALLERS * ANSWERS]; /* to the stranger's calls */
        uint64_t from[CALLERS * ANSWERS];
};

/* Has so many calls under way on each, reads their answers once it may, and lets go of all. */
static int calls_for_descriptors(void *arg)
{
        struct answers *s = arg;
        wharf_name right[CALLERS];
        uint32_t calls[CALLERS][ANSWERS];
        become(STRANGER);
        wharf_task *t = hub_join(&s->hub, &right[0]);
        for (unsigned k = 1; k < CALLERS; k++)
                CHECK_EQ(wharf_right_connect(t, s->hub.path, &right[k]), 0);
        for (unsigned k = 0; k < CALLERS; k++)
                for (unsigned i = 0; i < ANSWERS; i++)
                        CHECK_EQ(wharf_call_start(t, right[k], &MSG(.data = BYTES("x"), .len_bytes = 1), WHARF_NONE,
                                                  WHARF_FOREVER, &calls[k][i]),
                                 0);
        stage_await(&s->go);
        for (unsigned k = 0; k < CALLERS; k++)
                for (unsigned i = 0; i < ANSWERS; i++) {
                        struct wharf_item item;
                        struct wharf_msg m = MSG(.items = &item, .cap_items = 1);
                        if (wharf_call_finish(t, right[k], calls[k][i], &m, 0) == 0)
                                close(item.fd);
                }
        if (s->closes)
                wharf_task_close(t);
        stage_reach(&s->read);
        return pause();
}

static int calls_once(void *arg)
{
        struct hub *h = arg;
        wharf_name right;
        struct wharf_item item;
        wharf_task *t = hub_join(h, &right);
        CHECK_EQ(wharf_callmsg(t, right, &MSG(.data = BYTES("y"), .len_bytes = 1), &MSG(.items = &item, .cap_items = 1),
                               WHARF_FOREVER),
                 0);
        CHECK_EQ(close(item.fd), 0);
        wharf_task_close(t);
        return 0;
}

static int answer(struct hub *h, wharf_name reply)
{
        struct wharf_item item = {.kind = WHARF_COPY_FD, .fd = h->listen_fd};
        return wharf_replymsg(h->task, reply, &MSG(.items = &item, .n_items = 1));
}

static wharf_name next_call(struct hub *h, uint64_t *ret_from)
{
        char c;
        struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
        CHECK_EQ(wharf_recvmsg(h->task, h->port, &m, WHARF_FOREVER), 0);
        *ret_from = m.sender.id;
        return m.reply;
}

static pid_t stranger_calls(struct answers *s)
{
        pid_t stranger = test_fork(calls_for_descriptors, s);
        for (unsigned i = 0; i < CALLERS * ANSWERS; i++)
                s->reply[i] = next_call(&s->hub, &s->from[i]);
        return stranger;
}

static struct answers answers_open(void)
{
        if (getuid() != 0)
                test_skip("needs to become another user");
        may_open(2048); /* so 256 may be on their way, and a stranger's share is half of it */
        struct answers s = {.go = stage_new(), .read = stage_new()};
        s.hub = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        return s;
}

static void answers_close(struct answers *s)
{
        stage_done(&s->go);
        stage_done(&s->read);
        hub_close(&s->hub);
}

static uint64_t on_their_way(const struct hub *h)
{
        return h->task->accounts.used[WH_SHARE_FLYING];
}

/*
 * Goal:   descriptors in answers that one user does not read are no more than its share of what may be on its way; the answer
 *         can be given again, others get theirs meanwhile, and what was read is charged no more.
 */
TEST(descriptors_that_one_user_does_not_read_are_its_share)
{
        struct answers s = answers_open();
        pid_t stranger = stranger_calls(&s);
        uint64_t from;
        unsigned n = 0;
        int r;
        while ((r = answer(&s.hub, s.reply[n])) == 0)
                n++;
        CHECK_EQ(r, -ETOOMANYREFS);
        CHECK_LE(n, 128);
        CHECK_GE(n, 128 - 2 * CALLERS); /* a lane for the answers of each takes two */
        CHECK_LE(on_their_way(&s.hub), 128);
        for (unsigned i = 0; i < 3; i++) {
                pid_t own = test_fork(calls_once, &s.hub);
                CHECK_EQ(answer(&s.hub, next_call(&s.hub, &from)), 0);
                CHECK_EQ(test_wait(own), 0);
        }
        stage_reach(&s.go);
        stage_await(&s.read);
        while ((r = answer(&s.hub, s.reply[n])) == -ETOOMANYREFS) /* until it is looked again which were read */
                usleep(1000);
        CHECK_EQ(r, 0);
        CHECK_LE(on_their_way(&s.hub), 1 + 2 * CALLERS);
        kill_hard(stranger);
        answers_close(&s);
}

/* Goal: also where few may be on their way, one user does not take all of them. */
TEST(a_few_descriptors_are_left_for_others)
{
        struct answers s = answers_open();
        hub_close(&s.hub);
        may_open(512);
        s.hub = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        pid_t stranger = stranger_calls(&s);
        unsigned n = 0;
        int r;
        while ((r = answer(&s.hub, s.reply[n])) == 0)
                n++;
        CHECK_EQ(r, -ETOOMANYREFS);
        const struct wh_accounts *a = &s.hub.task->accounts;
        CHECK_LE(a->used[WH_SHARE_FLYING], a->max[WH_SHARE_FLYING] / 2);
        kill_hard(stranger);
        answers_close(&s);
}

/*
 * Goal:   they stay charged where the link is over and they are still unread, and are not when they were read, or nobody can
 *         read them any more; and nothing is left then.
 */
TEST(descriptors_that_lie_unread_behind_a_link_are_charged_still)
{
        for (unsigned killed = 0; killed < 2; killed++) {
                struct answers s = answers_open();
                s.closes = true;
                pid_t stranger = stranger_calls(&s);
                for (unsigned i = 0; i < ANSWERS; i++)
                        CHECK_EQ(answer(&s.hub, s.reply[i]), 0);
                CHECK_GE(on_their_way(&s.hub), ANSWERS);
                for (unsigned i = 0; i < CALLERS * ANSWERS; i++) {
                        int r = wharf_revoke(s.hub.task, s.hub.port, s.from[i], 0);
                        CHECK(r == 1 || r == -ENOENT);
                }
                CHECK_GE(on_their_way(&s.hub), ANSWERS);
                CHECK_GE(s.hub.task->accounts.used[WH_SHARE_TASK_LINKS], 1);
                CHECK_LE(s.hub.task->accounts.used[WH_SHARE_TASK_LINKS], CALLERS);
                const uint32_t freed = wh_places_freed(s.hub.task);
                if (killed) {
                        kill_hard(stranger);
                } else {
                        stage_reach(&s.go);
                        stage_await(&s.read);
                }
                CHECK_EQ(wharf_recv(s.hub.task, s.hub.port, NULL, 0, NULL, 0), -EAGAIN);
                CHECK_EQ(on_their_way(&s.hub), 0);
                CHECK_EQ(s.hub.task->accounts.used[WH_SHARE_TASK_LINKS], 0);
                CHECK_NE(wh_places_freed(s.hub.task), freed); /* who waits for a link of that user hears of it */
                if (!killed)
                        kill_hard(stranger);
                answers_close(&s);
        }
}

/* Goal: the end of a pair that its holder has left, with descriptors unread, is one more of its links: asked for, unless forced. */
TEST(an_end_that_lingers_is_one_of_its_users_links)
{
        struct answers s = answers_open();
        pid_t stranger = stranger_calls(&s);
        for (unsigned i = 0; i < 5; i++)
                CHECK_EQ(answer(&s.hub, s.reply[i]), 0);
        struct wh_accounts *a = &s.hub.task->accounts;
        struct wh_lingering *kept;
        const uint64_t links = a->used[WH_SHARE_TASK_LINKS], flying = on_their_way(&s.hub),
                       max = a->max[WH_SHARE_TASK_LINKS];
        struct wh_link *l = (struct wh_link *)wh_table_find(&s.hub.task->links, (uint32_t)s.from[0]);
        wh_lock(&l->o.lock);
        CHECK_EQ(wh_end_keep(l, false, &kept), 0);
        CHECK(kept != NULL);
        CHECK_EQ(a->used[WH_SHARE_TASK_LINKS], links + 1);
        wh_end_keep_not(l, kept);
        CHECK_EQ(a->used[WH_SHARE_TASK_LINKS], links);
        CHECK_EQ(on_their_way(&s.hub), flying);
        wh_accounts_limit(a, WH_SHARE_TASK_LINKS, links);
        CHECK_EQ(wh_end_keep(l, false, &kept), -EDQUOT);
        CHECK(kept == NULL);
        CHECK_EQ(wh_end_keep(l, true, &kept), 0);
        wh_end_keep_not(l, kept);
        wh_accounts_limit(a, WH_SHARE_TASK_LINKS, max);
        wh_unlock(&l->o.lock);
        kill_hard(stranger);
        answers_close(&s);
}

/* ---- a server that takes its time ---- */

struct busy {
        struct hub hub;
        struct stage full, go;
};

/* Keeps the port's queue full, until it is killed. */
static int sends_all_the_time(void *arg)
{
        struct busy *b = arg;
        wharf_name right;
        wharf_task *t = hub_join(&b->hub, &right);
        for (unsigned i = 0;; i++) {
                CHECK_EQ(wharf_send(t, right, "many", 4, WHARF_FOREVER), 0);
                if (i == 100)
                        stage_reach(&b->full);
        }
}

static int sends_once(void *arg)
{
        struct busy *b = arg;
        wharf_name right;
        wharf_task *t = hub_join(&b->hub, &right);
        CHECK_EQ(wharf_send(t, right, "1", 1, WHARF_FOREVER), 0);
        stage_reach(&b->go);
        return pause();
}

/*
 * Goal:   whoever comes to a server that works on each message for a while has its turn after a few of another's messages,
 *         not after hundreds.
 */
TEST(a_server_that_takes_its_time_looks_at_its_door_between)
{
        struct busy b = {.hub = hub_open(NULL), .full = stage_new(), .go = stage_new()};
        pid_t many = test_fork(sends_all_the_time, &b);
        char text[8];
        unsigned n = 0;
        for (unsigned i = 0; i < 20; i++)
                CHECK_EQ(wharf_recv(b.hub.task, b.hub.port, text, sizeof text, NULL, WHARF_FOREVER), 4);
        stage_await(&b.full);
        pid_t once = test_fork(sends_once, &b);
        stage_await(&b.go);
        while (wharf_recv(b.hub.task, b.hub.port, text, sizeof text, NULL, WHARF_FOREVER) == 4) {
                usleep(300);
                CHECK_LE(++n, 2 * WH_TURN_MSGS);
        }
        kill_hard(many);
        kill_hard(once);
        stage_done(&b.full);
        stage_done(&b.go);
        hub_close(&b.hub);
}
