/*
 * wharfd as a server of the system: activated, killed and started again at any point, asked by users who may and who
 * may not, watched, flooded, and shared by containers. Real programs and real users; what needs root is skipped
 * without.
 */
#include "os/os.h"
#include "wharfd/confine.h"
#include "names/domain.h"
#include "wharfd/keeper.h"
#include "wharfd/notify.h"
#include "names/names.h"
#include "wharfd/rules.h"
#include "wharfd/server.h"
#include "wharfd/store.h"
#include "by_hand.h"
#include "domain.h"
#include "hub.h"
#include "test.h"
#include "wharf/wharf.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

static void write_file(const char *path, const char *text)
{
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        CHECK(fd >= 0);
        CHECK_EQ(write(fd, text, strlen(text)), (ssize_t)strlen(text));
        close(fd);
}

/* The domain's socket, as a descriptor that a forked child keeps. */
static int listen_at(const char *dir, bool shared)
{
        int fd;
        CHECK_EQ(wh_domain_listen(dir, shared, &fd), 0);
        int kept = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        wh_os_close(fd);
        return kept;
}

/* ---- killed and started again ---- */

/* Goal: names are there again without any act of their owners, links never notice, names of the dead are not there. */
static int sleeping_owner(void *arg)
{
        wharf_task *t = task();
        wharf_name p = port(t);
        CHECK_EQ(wharf_register(t, arg, p), 0);
        char c;
        CHECK_EQ(wharf_recv(t, p, &c, 1, NULL, WHARF_FOREVER), 1); /* no call of names.h any more */
        return c;
}
TEST(names_of_the_living_outlive_a_killed_server)
{
        const char *dir = test_domain();
        pid_t a = test_fork(sleeping_owner, (char *)"a"), b = test_fork(sleeping_owner, (char *)"b");
        wharf_task *t = task();
        wharf_name right, again, old;
        CHECK_EQ(wharf_lookup(t, "b", WHARF_FOREVER, &right), 0);
        CHECK_EQ(wharf_lookup(t, "a", WHARF_FOREVER, &old), 0);
        pid_t k = test_find_wharfd(dir, false);
        for (int i = 0; i < 5; i++) {
                pid_t d;
                UNTIL((d = test_find_wharfd(dir, true)));
                if (i == 4) { /* one dies while no server is there to see it */
                        CHECK_EQ(kill(d, SIGSTOP), 0);
                        CHECK_EQ(kill(b, SIGKILL), 0);
                        CHECK_EQ(test_wait(b), 128 + SIGKILL);
                }
                CHECK_EQ(kill(d, SIGKILL), 0);
                CHECK_EQ(wharf_lookup(t, "a", 0, &again), 0); /* at the first attempt */
                CHECK_EQ(wharf_drop(t, again), 0);
        }
        CHECK_EQ(test_find_wharfd(dir, false), k);
        CHECK_EQ(wharf_lookup(t, "b", 0, &again), -ENOENT);
        struct wharf_named *all;
        size_t n;
        CHECK_EQ(wharf_names_list(t, &all, &n), 0);
        CHECK_EQ(n, 1);
        CHECK_STR(all[0].name, "a");
        CHECK_EQ(all[0].pid, a);
        CHECK(all[0].senders >= 2);
        free(all);
        CHECK_EQ(wharf_send(t, old, "x", 1, 0), 0); /* a link made before all that */
        CHECK_EQ(test_wait(a), 'x');
        wharf_task_close(t);
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
}

TEST(an_owner_whose_wharfd_was_replaced_can_take_its_name_back)
{
        const char *dir = test_domain();
        wharf_task *t = task(), *other = task();
        wharf_name p = port(t), right;
        CHECK_EQ(wharf_register(t, "x", p), 0);
        CHECK_EQ(kill(test_find_wharfd(dir, true), SIGKILL), 0);
        CHECK_EQ(wharf_register(other, "x", port(other)), -EEXIST);
        CHECK_EQ(wharf_names_renew(t), 0); /* asks again for what is there already */
        CHECK_EQ(wharf_lookup(other, "x", 0, &right), 0);
        CHECK_EQ(kill(test_find_wharfd(dir, true), SIGKILL), 0);
        CHECK_EQ(wharf_unregister(t, "x"), 0);
        CHECK_EQ(wharf_lookup(other, "x", 0, &right), -ENOENT);
        CHECK_EQ(wharf_register(t, "x", p), 0);
        wharf_task_close(other);
        wharf_task_close(t);
}

/*
 * Goal:   wharfd may be killed at any instruction: after its restart every name whose owner was told that it has it is
 *         there, every name that was given back is not, watchers know, and nothing is left.
 * Method: a keeper in a process of the test, whose first server kills itself at its n-th system call, for every n, and
 *         then, while the first one dies in the middle of its work, the second one at each of its own: what restores
 *         must be restartable. A client in another process registers, looks up, lists, watches and takes back.
 */
enum { STEP_NAMES = 3, STEP_SERVERS = 2 };
static int step_listen, step_stop[2], step_kill_at[STEP_SERVERS];
static struct step_seen {
        _Atomic int calls[STEP_SERVERS + 1], died[STEP_SERVERS + 1], started;
} * step_seen;
static int step_self; /* which server this process is */
static int step_gate(enum wh_os_call call)
{
        if (++step_seen->calls[step_self] == step_kill_at[step_self]) {
                step_seen->died[step_self] = 1;
                raise(SIGKILL);
        }
        return 0;
}
static pid_t step_start(void *arg, const struct wh_given *given, unsigned n, int notify)
{
        int self = step_seen->started++;
        pid_t pid = _Fork(); /* fork() would close what the library holds here, which is what it is to be given */
        if (pid)
                return pid;
        struct wh_given *g = calloc(n + 1, sizeof *g);
        memcpy(g, given, n * sizeof *g);
        if (self < STEP_SERVERS) {
                step_self = self;
                wh_os_gate = step_gate;
        }
        wharf_task *t;
        struct wh_store *store = NULL;
        struct wh_server *s = NULL;
        int r = wharf_task_open(NULL, &t);
        if (r == 0)
                r = wh_store_open(dup(notify), true, g, n, &store);
        if (r == 0)
                r = wh_server_new(t, g[0].fd, wh_rules_new(true), store, &s);
        if (r == 0) {
                wh_server_restore(s, g, n);
                r = wh_server_run(s, step_stop[0], WHARF_FOREVER);
        }
        _exit(r == WH_SERVER_STOPPED ? 0 : 50);
}
static bool step_signalled(void *arg, pid_t server)
{
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL); /* the server sees it as well, and ends */
        return true;
}
static int step_client(void *arg)
{
        wharf_task *t = task();
        wharf_name p = port(t), w = port(t), right;
        CHECK_EQ(wharf_names_watch(t, "s.", w), 0);
        for (int i = 0; i < STEP_NAMES; i++) {
                char name[16];
                snprintf(name, sizeof name, "s.%d", i);
                CHECK_EQ(wharf_register(t, name, p), 0);
                CHECK_EQ(wharf_lookup(t, name, 0, &right), 0);
                CHECK_EQ(wharf_drop(t, right), 0);
        }
        CHECK_EQ(wharf_unregister(t, "s.1"), 0);
        CHECK_EQ(wharf_lookup(t, "s.1", 0, &right), -ENOENT);
        struct wharf_named *all;
        size_t n;
        CHECK_EQ(wharf_names_list(t, &all, &n), 0);
        CHECK_EQ(n, STEP_NAMES - 1);
        free(all);
        /* What a watcher was told, put together, is what there is; however often it was told anew. */
        bool is[STEP_NAMES] = {false}, whole = false;
        while (!whole || !is[0] || is[1] || !is[2]) {
                char buf[512];
                struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
                struct wharf_name_event ev;
                CHECK_EQ(wharf_recvmsg(t, w, &m, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_names_event(t, &m, &ev), 0);
                if (ev.what == WHARF_NAMES_BEGIN)
                        memset(is, 0, sizeof is);
                whole = ev.what == WHARF_NAMES_BEGIN ? false : whole || ev.what == WHARF_NAMES_END;
                if (ev.name[0])
                        is[ev.name[2] - '0'] = ev.what == WHARF_NAME_IS;
        }
        CHECK_EQ(wharf_names_unwatch(t, "s.", w), 0);
        wharf_task_close(t);
        return 0;
}
static int step_keeper(void *arg)
{
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct wh_keeper_ops ops = {.start = step_start, .signalled = step_signalled};
        struct wh_given g = {.fd = step_listen, .name = "socket"};
        return wh_keeper_run(&ops, &g, 1, step_stop[0]);
}
/* One case, with step_kill_at; answers whether the server in question died of it. */
static bool step_case(int which)
{
        memset(step_seen, 0, sizeof *step_seen);
        CHECK_EQ(pipe2(step_stop, O_CLOEXEC), 0);
        pid_t k = test_fork(step_keeper, NULL), c = test_fork(step_client, NULL);
        int status = test_wait(c);
        if (status)
                test_fail(__FILE__, __LINE__, "killed at calls %d, %d: the client ended with %d", step_kill_at[0],
                          step_kill_at[1], status);
        CHECK_EQ(write(step_stop[1], "", 1), 1);
        CHECK_EQ(test_wait(k), 0);
        close(step_stop[0]);
        close(step_stop[1]);
        CHECK_LE(step_seen->started, 1 + step_seen->died[0] + step_seen->died[1]); /* none after it was told to end */
        return step_seen->died[which];
}
TEST_TIMEOUT(killed_at_every_system_call_and_no_name_is_lost, 120)
{
        if (TEST_TSAN)
                test_skip("forked from a process with threads, it waits for a lock of the sanitizer's own");
        const char *dir = test_domain();
        CHECK_EQ(mkdir(dir, 0700), 0);
        step_seen = test_shared(sizeof *step_seen);
        step_listen = listen_at(dir, false);
        int kills = 0;
        /* Every step of the first ones, then strides: the same few steps come again with every name. */
        step_kill_at[1] = 0;
        for (step_kill_at[0] = 1; step_case(0); step_kill_at[0] += step_kill_at[0] < 40 ? 1 : 3)
                kills++;
        CHECK_GE(kills, 50);
        CHECK_GE(step_seen->calls[0], 100);
        step_kill_at[0] = step_seen->calls[0] * 2 / 3;
        int again = 0;
        for (step_kill_at[1] = 1; again < 60 && step_case(1); step_kill_at[1]++)
                again++;
        CHECK_GE(again, 40);
        close(step_listen);
}

/* ---- many names ---- */

/* Registers so many names, and then sleeps; a byte on `call` makes it one call, and is answered on `done`. */
static struct many {
        unsigned n, limit;
        int call[2], done[2];
} many;
static int many_owner(void *arg)
{
        wharf_task *t = task();
        wharf_name p = port(t);
        char name[16], what;
        for (unsigned i = 0; i < many.n; i++) {
                snprintf(name, sizeof name, "m.%u", i);
                CHECK_EQ(wharf_register(t, name, p), 0);
        }
        close(many.call[1]);
        CHECK_EQ(write(many.done[1], "", 1), 1);
        while (read(many.call[0], &what, 1) == 1) {
                CHECK_EQ(wharf_names_renew(t), 0);
                CHECK_EQ(write(many.done[1], "", 1), 1);
        }
        wharf_task_close(t);
        return 0;
}
static size_t many_listed(wharf_task *t)
{
        struct wharf_named *all;
        size_t n;
        CHECK_EQ(wharf_names_list(t, &all, &n), 0);
        free(all);
        return n;
}
/* SIGKILL, and wait until all that it had is closed. */
static void slay(pid_t pid)
{
        int fd = wh_os_pidfd_open(pid);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        CHECK(fd >= 0);
        CHECK_EQ(kill(pid, SIGKILL), 0);
        CHECK_EQ(poll(&p, 1, -1), 1);
        wh_os_close(fd);
}
/*
 * Goal:   names survive wharfd by the hundred, at the limit of descriptors that most systems have; and where both of its
 *         processes are killed, one call of their owner brings all of them back.
 * Method: 400 names at 1024, of an owner that sleeps; 20 servers killed, which is more than may die in a row of
 *         themselves; then both processes, three times: the owner never receives, and what it gave to those that died is
 *         more than it may have. proof/exhaust_names does the same with as many as the machine has room for.
 */
TEST_TIMEOUT(names_by_the_hundred_survive_wharfd_at_1024_descriptors, 120)
{
        const char *dir = test_domain();
        many.n = 400;
        struct rlimit l;
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &l), 0);
        l = (struct rlimit){1024, 1024};
        if (setrlimit(RLIMIT_NOFILE, &l) < 0)
                test_skip("fewer descriptors than 1024");
        CHECK_EQ(pipe2(many.call, O_CLOEXEC), 0);
        CHECK_EQ(pipe2(many.done, O_CLOEXEC), 0);
        pid_t owner = test_fork(many_owner, NULL);
        char c;
        CHECK_EQ(read(many.done[0], &c, 1), 1);
        wharf_task *t = task();
        wharf_name right;
        struct wh_names_state st;
        for (int i = 0; i < 20; i++) {
                pid_t d = 0;
                UNTIL((d = test_find_wharfd(dir, true)));
                slay(d);
                CHECK_EQ(wharf_lookup(t, "m.399", 0, &right), 0);
                CHECK_EQ(wharf_drop(t, right), 0);
        }
        CHECK_EQ(many_listed(t), many.n);
        CHECK_EQ(wh_names_state(t, &st), 0);
        CHECK_EQ(st.holder, WH_HOLDER_KEEPER);
        CHECK_EQ(st.names, many.n);
        CHECK_EQ(st.unkept, 0);
        CHECK_EQ(st.deaths, 20);
        CHECK_EQ(st.fails, 0);
        for (int i = 0; i < 3; i++) {
                pid_t d = 0, keeper = test_find_wharfd(dir, false);
                UNTIL((d = test_find_wharfd(dir, true)));
                slay(keeper);
                slay(d);
                CHECK_EQ(write(many.call[1], "", 1), 1);
                CHECK_EQ(read(many.done[0], &c, 1), 1);
                CHECK_EQ(many_listed(t), many.n);
        }
        close(many.call[1]);
        CHECK_EQ(test_wait(owner), 0);
        CHECK_EQ(many_listed(t), 0);
        wharf_task_close(t);
        for (int i = 0; i < 2; i++)
                close(i ? many.call[0] : many.done[0]);
        close(many.done[1]);
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
}

/*
 * Goal:   names that the keeper has no room for are known to wharfd, which tells whoever asks, and are kept as soon as
 *         there is room.
 * Method: 128 descriptors: the names fit into the server, and not into the keeper with what it leaves to itself.
 */
TEST(names_that_are_not_kept_are_told_of_and_kept_later)
{
        const char *dir = test_domain();
        struct rlimit l = {128, 128}, all;
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &all), 0);
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &(struct rlimit){128, all.rlim_max}), 0);
        wharf_task *t;
        pid_t pid = fork(); /* so that the limit of wharfd is hard, and ours is not */
        if (pid == 0) {
                CHECK_EQ(setrlimit(RLIMIT_NOFILE, &l), 0);
                execl(getenv("WHARFD"), "wharfd", "--domain", dir, (char *)NULL);
                _exit(127);
        }
        CHECK_EQ(test_wait(pid), 0);
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &all), 0);
        t = task();
        wharf_name p = port(t);
        struct wh_names_state st = {.unkept = 0};
        char name[16];
        unsigned n = 0;
        while (st.unkept < 3) {
                snprintf(name, sizeof name, "u.%u", n++);
                CHECK_EQ(wharf_register(t, name, p), 0);
                CHECK_EQ(wh_names_state(t, &st), 0);
        }
        CHECK_EQ(st.names, n);
        if (st.unkept_error != ETOOMANYREFS) /* for what others of this user have on their way, whatever they are */
                CHECK_EQ(st.unkept_error, EMFILE);
        for (unsigned i = 0; i < 3; i++) {
                snprintf(name, sizeof name, "u.%u", i);
                CHECK_EQ(wharf_unregister(t, name), 0);
        }
        do
                CHECK_EQ(wh_names_state(t, &st), 0);
        while (st.unkept);
        slay(test_find_wharfd(dir, true));
        wharf_task *fresh = task();
        CHECK_EQ(many_listed(fresh), n - 3);
        struct wharf_named *named;
        size_t n_named;
        CHECK_EQ(wharf_names_list(fresh, &named, &n_named), 0);
        for (size_t i = 0; i < n_named; i++) /* those that were kept later, too */
                CHECK_EQ(named[i].known, WHARF_KNOWN_CONNECTED);
        free(named);
        CHECK_EQ(wh_names_state(fresh, &st), 0);
        CHECK_EQ(st.owed_error, 0);
        slay(test_find_wharfd(dir, false));
        do /* the server hears of it, and says so */
                CHECK_EQ(wh_names_state(fresh, &st), 0);
        while (st.holder != WH_HOLDER_NONE);
        CHECK_EQ(st.unkept, n - 3);
        wharf_task_close(fresh);
        wharf_task_close(t);
        UNTIL(!test_find_wharfd(dir, true));
}

/* Goes on asking for what takes no descriptor, while others are refused for want of them; how often, less than 255. */
static struct asks_on {
        struct stage connected, over;
} asks_on;
static int asks_on_and_on(void *arg)
{
        wharf_task *t = task();
        wharf_name right;
        struct pollfd over = {.fd = asks_on.over.fd[0], .events = POLLIN};
        unsigned n = 0;
        CHECK_EQ(wharf_register(t, "other", port(t)), 0); /* so that its connection stays */
        CHECK_EQ(many_listed(t), 1);
        stage_reach(&asks_on.connected);
        do {
                CHECK_EQ(wharf_lookup(t, "nobody", 0, &right), -ENOENT);
                n++;
        } while (poll(&over, 1, 0) == 0);
        wharf_task_close(t);
        return n < 255 ? (int)n : 255;
}

/*
 * Goal:   a wharfd that has no descriptor left says so to who wants something that takes one, and goes on with everything
 *         else: others are answered meanwhile, no name and no connection ends, and what was refused is had when one is free.
 * Method: a low limit, and names until one is refused; another process asks all the time.
 */
TEST_TIMEOUT(a_server_without_descriptors_serves_what_takes_none, 60)
{
        enum { LIMIT = 64, MUCH = 10 };
        const char *dir = test_domain();
        pid_t pid = fork();
        if (pid == 0) {
                CHECK_EQ(setrlimit(RLIMIT_NOFILE, &(struct rlimit){LIMIT, LIMIT}), 0);
                execl(getenv("WHARFD"), "wharfd", "--domain", dir, "--linger", "forever", (char *)NULL);
                _exit(127);
        }
        CHECK_EQ(test_wait(pid), 0);
        const pid_t server = test_find_wharfd(dir, true);
        asks_on = (struct asks_on){.connected = stage_new(), .over = stage_new()};
        pid_t other = test_fork(asks_on_and_on, NULL);
        stage_await(&asks_on.connected);
        struct wh_names_request req = {.op = WH_NAMES_STATE};
        uint8_t buf[WH_NAMES_REQUEST_MAX], answer[512];
        wharf_task *t = task(), *by_hand = task();
        wharf_name p = port(t), right, to_wharfd;
        CHECK_EQ(wh_domain_connect(by_hand, dir, true, false, WH_NEVER, &to_wharfd), 0);
        CHECK_GE(ask_by_hand(by_hand, to_wharfd, &req, answer, sizeof answer), 1);
        char name[16];
        unsigned n = 0;
        int r;
        do
                snprintf(name, sizeof name, "s.%u", n);
        while ((r = wharf_register(t, name, p)) == 0 && ++n < LIMIT);
        CHECK_EQ(r, -EMFILE);
        CHECK(strstr(wharf_why(), "wharfd"));
        CHECK_EQ(many_listed(t), n + 1);
        /* More than any request has finds no place even then: that ends the connection, and says why. */
        struct wharf_item much[MUCH];
        for (int i = 0; i < MUCH; i++)
                much[i] = (struct wharf_item){.kind = WHARF_COPY_FD, .fd = 0};
        struct wharf_msg m = {.size = sizeof m,
                              .data = buf,
                              .len_bytes = wh_names_put_request(&req, buf),
                              .items = much,
                              .n_items = MUCH};
        struct wharf_msg reply = {.size = sizeof reply, .data = answer, .cap_bytes = sizeof answer};
        CHECK_EQ(wharf_callmsg(by_hand, to_wharfd, &m, &reply, wharf_in_ms(30000)), -EMFILE);
        wharf_task_close(by_hand);
        CHECK_EQ(wharf_unregister(t, "s.0"), 0);
        CHECK_EQ(wharf_unregister(t, "s.1"), 0);
        CHECK_EQ(wharf_register(t, name, p), 0);
        CHECK_EQ(wharf_lookup(t, "nobody", 0, &right), -ENOENT);
        CHECK_EQ(many_listed(t), n);
        CHECK_EQ(test_find_wharfd(dir, true), server);
        stage_reach(&asks_on.over);
        CHECK_GE(test_wait(other), 10);
        stage_done(&asks_on.connected);
        stage_done(&asks_on.over);
        wharf_task_close(t);
        test_stop_wharfd(dir);
}

/*
 * Goal:   what a user has on its way to whomever stops none of its names: the kernel counts it for all of its processes,
 *         and wharfd has no privilege, nor a higher limit than theirs.
 * Method: more on its way than wharfd's limit, from a user that nobody else is. Names are registered and listed; a
 *         look-up, which takes a descriptor, is told so at its deadline, and one with a later deadline is answered as
 *         soon as it can be. What was not kept meanwhile is kept.
 */
enum { ON_ITS_WAY = 400, NAMES_MEANWHILE = 40 };
static void become(uid_t uid, gid_t gid, gid_t extra);
static void put_on_its_way(int sv[2])
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(100 * sizeof(int))];
        } control = {
                .align = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(100 * sizeof(int))}};
        for (int i = 0; i < 100; i++)
                ((int *)(void *)CMSG_DATA(&control.align))[i] = 2;
        struct iovec iov = {&(char){0}, 1};
        struct msghdr m = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.space};
        CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
        for (int i = 0; i < ON_ITS_WAY; i += 100)
                CHECK_EQ(sendmsg(sv[0], &m, 0), 1);
}
static int looks_up(void *arg)
{
        const int *sv = arg;
        wharf_task *t = task();
        close(sv[0]);
        close(sv[1]);
        wharf_name right;
        CHECK_EQ(wharf_lookup(t, "w.0", wharf_in_ms(60000), &right), 0);
        wharf_task_close(t);
        return 0;
}
static int user_of_many(void *arg)
{
        const char *dir = arg;
        char name[16];
        if (geteuid() == 0)
                become(60000 - (uid_t)getpid() % 20000, 65534, 0);
        pid_t pid = fork();
        if (pid == 0) {
                CHECK_EQ(setrlimit(RLIMIT_NOFILE, &(struct rlimit){256, 256}), 0);
                execl(getenv("WHARFD"), "wharfd", "--domain", dir, (char *)NULL);
                _exit(127);
        }
        CHECK_EQ(test_wait(pid), 0);
        int sv[2];
        put_on_its_way(sv);
        wharf_task *t = task(), *other = task();
        wharf_name p = port(t), right;
        struct wh_names_state st;
        for (int i = 0; i < NAMES_MEANWHILE; i++) {
                snprintf(name, sizeof name, "w.%d", i);
                CHECK_EQ(wharf_register(t, name, p), 0);
        }
        CHECK_EQ(many_listed(t), NAMES_MEANWHILE);
        CHECK_EQ(wh_names_state(t, &st), 0);
        CHECK_EQ(st.holder, WH_HOLDER_KEEPER);
        CHECK_EQ(st.unkept, NAMES_MEANWHILE);
        CHECK_EQ(st.unkept_error, ETOOMANYREFS);
        int r = wharf_lookup(other, "w.0", wharf_in_ms(500), &right);
        CHECK(r == -ETOOMANYREFS || r == -ETIMEDOUT); /* as the machine is busy */
        pid = test_fork(looks_up, sv);
        close(sv[0]);
        close(sv[1]);
        CHECK_EQ(test_wait(pid), 0);
        do
                CHECK_EQ(wh_names_state(t, &st), 0);
        while (st.unkept);
        slay(test_find_wharfd(dir, true));
        CHECK_EQ(many_listed(other), NAMES_MEANWHILE);
        wharf_task_close(other);
        wharf_task_close(t);
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
        return 0;
}
TEST(what_a_user_has_on_its_way_stops_none_of_his_names)
{
        struct rlimit l;
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &l), 0);
        if (l.rlim_cur < 2 * ON_ITS_WAY)
                test_skip("fewer descriptors than it takes");
        char *dir = strdup(test_domain());
        char *slash = strrchr(dir, '/');
        *slash = 0;
        CHECK_EQ(chmod(dir, 0777), 0);
        *slash = '/';
        test_wharfd_for_all();
        CHECK_EQ(test_wait(test_fork(user_of_many, dir)), 0);
        free(dir);
}

/*
 * Goal:   a keeper whose next server cannot be started tries again, and says how often that was in vain.
 * Method: a keeper of the test's own. Its first server says that it serves, has a name, and is killed; the second start
 *         is refused, the third server ends before it serves; the fourth one has the name.
 */
static int start_of;
static pid_t failing_start(void *arg, const struct wh_given *given, unsigned n, int notify)
{
        int self = step_seen->started++;
        if (self == 1)
                return -EAGAIN;
        pid_t pid = _Fork();
        if (pid)
                return pid;
        if (self == 2)
                _exit(126);
        wharf_task *t;
        struct wh_store *store = NULL;
        struct wh_server *s = NULL;
        struct wh_given g = given[0];
        int r = wharf_task_open(NULL, &t);
        if (r == 0)
                r = wh_store_open(dup(notify), true, &g, 1, &store);
        if (r == 0)
                r = wh_server_new(t, g.fd, wh_rules_new(true), store, &s);
        if (r == 0) {
                wh_server_restore(s, &g, 1);
                wh_notify(notify, "READY=1");
                r = wh_server_run(s, self ? step_stop[0] : start_of, WHARF_FOREVER);
        }
        if (self == 0)
                raise(SIGKILL);
        _exit(r == WH_SERVER_STOPPED ? 0 : 50);
}
static int failing_keeper(void *arg)
{
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct wh_keeper_ops ops = {.start = failing_start, .signalled = step_signalled};
        struct wh_given g = {.fd = step_listen, .name = "socket"};
        return wh_keeper_run(&ops, &g, 1, step_stop[0]);
}
TEST(a_server_that_cannot_be_started_is_tried_again)
{
        const char *dir = test_domain();
        CHECK_EQ(mkdir(dir, 0700), 0);
        step_seen = test_shared(sizeof *step_seen);
        step_listen = listen_at(dir, false);
        int first[2];
        CHECK_EQ(pipe2(step_stop, O_CLOEXEC), 0);
        CHECK_EQ(pipe2(first, O_CLOEXEC), 0);
        start_of = first[0];
        pid_t k = test_fork(failing_keeper, NULL);
        wharf_task *t = task(), *fresh = task();
        wharf_name right;
        struct wh_names_state st;
        CHECK_EQ(wharf_register(t, "x", port(t)), 0);
        CHECK_EQ(write(first[1], "", 1), 1);
        UNTIL(step_seen->started == 4);
        CHECK_EQ(wharf_lookup(fresh, "x", wharf_in_ms(20000), &right), 0);
        CHECK_EQ(wh_names_state(fresh, &st), 0);
        CHECK_EQ(st.deaths, 1);
        CHECK_EQ(st.fails, 2);
        CHECK_EQ(st.fail_error, ENOEXEC);
        wharf_task_close(fresh);
        wharf_task_close(t);
        CHECK_EQ(write(step_stop[1], "", 1), 1);
        CHECK_EQ(test_wait(k), 0);
        for (int i = 0; i < 2; i++) {
                close(first[i]);
                close(step_stop[i]);
        }
        close(step_listen);
}

/* Goal: a server that may not wait for anything any more says so, rather than to look for work for ever. */
static int refuse_polls(enum wh_os_call call)
{
        return call == WH_OS_poll ? -ENOMEM : 0;
}
TEST(a_server_that_cannot_wait_ends_with_the_reason)
{
        const char *dir = test_domain();
        CHECK_EQ(mkdir(dir, 0700), 0);
        int fd = listen_at(dir, false);
        wharf_task *t = task();
        struct wh_server *s;
        CHECK_EQ(wh_server_new(t, fd, wh_rules_new(true), NULL, &s), 0);
        wh_os_gate = refuse_polls;
        int r = wh_server_run(s, -1, WHARF_FOREVER);
        wh_os_gate = NULL;
        CHECK_EQ(r, -ENOMEM);
        wh_server_free(s);
        wharf_task_close(t);
        close(fd);
}

/* ---- activated by a service manager ---- */

/* What systemd does, in so many words: a socket as descriptor 3, variables, a place to speak to, a store. */
struct manager {
        int listen_fd, notify_fd;
        struct wh_given held[64];
        unsigned n;
        int ready;
        char dir[200], notify[120];
};
static void manager_open(struct manager *m, const char *dir)
{
        *m = (struct manager){.notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
        snprintf(m->dir, sizeof m->dir, "%s", dir);
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        snprintf(m->notify, sizeof m->notify, "%s/notify", test_dir());
        strcpy(a.sun_path, m->notify);
        CHECK_EQ(bind(m->notify_fd, (struct sockaddr *)&a, sizeof a), 0);
        CHECK_EQ(wh_domain_make_shared(dir), 0);
        m->listen_fd = listen_at(dir, true);
}
static pid_t manager_start(struct manager *m, bool store)
{
        pid_t pid = fork();
        if (pid)
                return pid;
        char names[2000] = "wharfd.socket", number[32];
        for (unsigned i = 0; i < m->n; i++) {
                strcat(names, ":");
                strcat(names, m->held[i].name);
        }
        int high[65] = {fcntl(m->listen_fd, F_DUPFD, 200)};
        for (unsigned i = 0; i < m->n; i++)
                high[i + 1] = fcntl(m->held[i].fd, F_DUPFD, 200);
        for (unsigned i = 0; i <= m->n; i++)
                dup2(high[i], 3 + (int)i);
        syscall(436 /* close_range */, 4 + m->n, ~0u, 0);
        setenv("LISTEN_FDNAMES", names, 1);
        snprintf(number, sizeof number, "%u", m->n + 1);
        setenv("LISTEN_FDS", number, 1);
        snprintf(number, sizeof number, "%d", (int)getpid());
        setenv("LISTEN_PID", number, 1);
        if (store)
                setenv("NOTIFY_SOCKET", m->notify, 1);
        execl(getenv("WHARFD"), "wharfd", "--domain", m->dir, "--share", "--linger", "forever", (char *)NULL);
        _exit(127);
}
/* Hear what wharfd says, until `done` or for as long as something comes. */
static void manager_hear(struct manager *m, int *until_ready)
{
        for (;;) {
                struct pollfd p = {.fd = m->notify_fd, .events = POLLIN};
                if (poll(&p, 1, until_ready && !*until_ready ? -1 : 0) <= 0)
                        return;
                char text[512], control[CMSG_SPACE(4 * sizeof(int))];
                struct iovec iov = {text, sizeof text - 1};
                struct msghdr h = {
                        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
                ssize_t n = recvmsg(m->notify_fd, &h, MSG_CMSG_CLOEXEC);
                CHECK(n > 0);
                text[n] = 0;
                char *name = strstr(text, "FDNAME=");
                name = name ? name + 7 : NULL;
                if (strstr(text, "READY=1"))
                        m->ready++;
                if (!strncmp(text, "FDSTOREREMOVE=1", 15)) {
                        unsigned k = 0;
                        for (unsigned i = 0; i < m->n; i++)
                                if (!strcmp(m->held[i].name, name))
                                        close(m->held[i].fd);
                                else
                                        m->held[k++] = m->held[i];
                        m->n = k;
                        continue;
                }
                for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c))
                        for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
                                memcpy(&m->held[m->n].fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
                                snprintf(m->held[m->n].name, WH_FD_NAME_MAX, "%s", name);
                                m->n++;
                        }
        }
}
static void manager_close(struct manager *m)
{
        for (unsigned i = 0; i < m->n; i++)
                close(m->held[i].fd);
        close(m->notify_fd);
        close(m->listen_fd);
}
TEST(activated_by_a_service_manager_that_holds_its_descriptors)
{
        struct manager m;
        manager_open(&m, test_domain());
        wharf_task *t = task();
        wharf_name p = port(t), q = port(t), right;
        pid_t d = manager_start(&m, true);
        manager_hear(&m, &m.ready);
        CHECK_EQ(m.ready, 1);
        CHECK_EQ(m.n, 1); /* the journal */
        CHECK_EQ(wharf_register(t, "one", p), 0);
        CHECK_EQ(wharf_register(t, "two", q), 0);
        manager_hear(&m, NULL);
        CHECK_EQ(m.n, 5); /* two sockets and two pages more */
        CHECK_EQ(wharf_unregister(t, "two"), 0);
        manager_hear(&m, NULL);
        CHECK_EQ(m.n, 3);
        for (int i = 0; i < 3; i++) {
                CHECK_EQ(kill(d, SIGKILL), 0);
                CHECK_EQ(test_wait(d), 128 + SIGKILL);
                m.ready = 0;
                d = manager_start(&m, true);
                manager_hear(&m, &m.ready);
                wharf_task *other = task(); /* nobody has registered anything since */
                CHECK_EQ(wharf_lookup(other, "one", 0, &right), 0);
                CHECK_EQ(wharf_lookup(other, "two", 0, &right), -ENOENT);
                wharf_task_close(other);
        }
        /* Stopped, it leaves the socket to whoever made it, and what is held to the next one. */
        CHECK_EQ(kill(d, SIGTERM), 0);
        CHECK_EQ(test_wait(d), 0);
        manager_hear(&m, NULL);
        CHECK_EQ(m.n, 3);
        m.ready = 0;
        d = manager_start(&m, true);
        manager_hear(&m, &m.ready);
        CHECK_EQ(wharf_lookup(t, "one", 0, &right), 0);
        wharf_task_close(t);
        kill(d, SIGTERM);
        test_wait(d);
        manager_close(&m);
}
TEST(activated_by_one_that_holds_nothing)
{
        struct manager m;
        const char *dir = test_domain();
        manager_open(&m, dir);
        wharf_task *t = task();
        wharf_name p = port(t), right;
        pid_t d = manager_start(&m, false), server;
        CHECK_EQ(wharf_register(t, "one", p), 0);
        CHECK((server = test_find_wharfd(dir, true)) && server != d); /* its own keeper */
        CHECK_EQ(kill(server, SIGKILL), 0);
        wharf_task *other = task();
        CHECK_EQ(wharf_lookup(other, "one", 0, &right), 0);
        CHECK_EQ(kill(d, SIGTERM), 0);
        CHECK_EQ(test_wait(d), 0);
        CHECK_EQ(access(dir, F_OK), 0);
        char path[300];
        snprintf(path, sizeof path, "%s/bootstrap", dir);
        CHECK_EQ(access(path, F_OK), 0); /* not ours to remove */
        wharf_task_close(other);
        wharf_task_close(t);
        manager_close(&m);
}

/* ---- who may do what ---- */

static void become(uid_t uid, gid_t gid, gid_t extra)
{
        CHECK_EQ(setgroups(extra ? 1 : 0, &extra), 0);
        CHECK_EQ(setresgid(gid, gid, gid), 0);
        CHECK_EQ(setresuid(uid, uid, uid), 0);
        prctl(PR_SET_DUMPABLE, 1);
}
static int alice(void *arg) /* uid 1000, group 2000, one more: 3000 */
{
        become(1000, 2000, 3000);
        wharf_task *t = task();
        wharf_name p = port(t), right;
        CHECK_EQ(wharf_register(t, "org.alice.x", p), 0);
        CHECK_EQ(wharf_register(t, "org.bob.x", p), -EACCES);
        CHECK(strstr(wharf_why(), "line 2 ") && strstr(wharf_why(), "org.bob.x"));
        CHECK_EQ(wharf_register(t, "other", p), -EACCES); /* the default: root and the user of wharfd */
        CHECK_EQ(wharf_register(t, "byextra.x", p), 0);   /* by a supplementary group */
        CHECK_EQ(wharf_lookup(t, "hidden.x", 0, &right), -EACCES);
        CHECK(!strstr(wharf_why(), "line")); /* who may not see it is not told why */
        CHECK_EQ(wharf_lookup(t, "closed.x", 0, &right), -EACCES);
        CHECK(strstr(wharf_why(), "line 5 "));
        CHECK_EQ(wharf_lookup(t, "closed.nothing", 0, &right), -EACCES); /* there or not */
        CHECK_EQ(wharf_lookup(t, "open.x", 0, &right), 0);
        struct wharf_named *all;
        size_t n;
        CHECK_EQ(wharf_names_list(t, &all, &n), 0);
        CHECK_EQ(n, 4);
        CHECK_STR(all[0].name, "byextra.x");
        CHECK_EQ(all[0].uid, 1000);
        CHECK_STR(all[1].name, "closed.x");
        CHECK_STR(all[2].name, "open.x");
        free(all);
        wharf_task_close(t);
        return 0;
}
static int mallory(void *arg)
{
        become(1001, 1001, 0);
        wharf_task *t = task();
        wharf_name p = port(t), right;
        CHECK_EQ(wharf_register(t, "org.alice.x", p), -EACCES);
        CHECK_EQ(wharf_register(t, "byextra.x", p), -EACCES);
        CHECK_EQ(wharf_lookup(t, "closed.x", 0, &right), -EACCES);
        struct wh_names_state st; /* how much there is in all is for root, and the user of wharfd */
        CHECK_EQ(wh_names_state(t, &st), 0);
        CHECK_EQ(st.names, 0);
        wharf_task_close(t);
        return 0;
}
static int can_register(void *name)
{
        become(1001, 1001, 0);
        wharf_task *t = task();
        int r = wharf_register(t, name, port(t));
        wharf_task_close(t);
        return r == 0 ? 0 : -r;
}
TEST(users_may_do_what_the_rules_say)
{
        if (geteuid())
                test_skip("other users need root");
        const char *dir = test_domain();
        test_share_wharfd(dir, "own org.alice. uid=1000\n"
                               "own org.bob. uid=1002\n"
                               "own byextra. gid=3000\n"
                               "use hidden. none\n"
                               "use closed. uid=0\n"
                               "see hidden. uid=0\n");
        wharf_task *t = task();
        wharf_name p = port(t), right;
        CHECK_EQ(wharf_register(t, "hidden.x", p), 0);
        CHECK_EQ(wharf_register(t, "closed.x", p), 0);
        CHECK_EQ(wharf_register(t, "open.x", p), 0);
        CHECK_EQ(wharf_lookup(t, "closed.x", 0, &right), 0);
        CHECK_EQ(test_wait(test_fork(alice, NULL)), 0);
        CHECK_EQ(test_wait(test_fork(mallory, NULL)), 0);
        struct wh_names_state st;
        CHECK_EQ(wh_names_state(t, &st), 0);
        CHECK_GE(st.names, 3);

        /* New rules by SIGHUP; wrong ones change nothing. */
        CHECK_EQ(test_wait(test_fork(can_register, (char *)"m.x")), EACCES);
        test_rules("own m. uid=1001\nown nonsense\n");
        CHECK_EQ(kill(test_find_wharfd(dir, true), SIGHUP), 0);
        CHECK_EQ(wharf_lookup(t, "open.x", 0, &right), 0); /* it was read before this was answered, or is not yet */
        CHECK_EQ(test_wait(test_fork(can_register, (char *)"m.x")), EACCES);
        test_rules("own m. uid=1001\n");
        CHECK_EQ(kill(test_find_wharfd(dir, false), SIGHUP), 0); /* the keeper passes it on */
        UNTIL(test_wait(test_fork(can_register, (char *)"m.x")) == 0);

        /* After a restart the rules hold for who asks then, and names stay. */
        CHECK_EQ(kill(test_find_wharfd(dir, true), SIGKILL), 0);
        CHECK_EQ(wharf_lookup(t, "open.x", 0, &right), 0);
        CHECK_EQ(test_wait(test_fork(can_register, (char *)"m.x")), 0);
        CHECK_EQ(test_wait(test_fork(can_register, (char *)"n.x")), EACCES);
        wharf_task_close(t);
        test_stop_wharfd(dir);
        CHECK_EQ(test_run_wharfd((const char *[]){"--domain", dir, "--share", "--config", test_rules("own\n"), NULL}),
                 1);
}

/*
 * Goal:   who may not see a name does not learn of it by asking who waits either, and who may not see others' names at
 *         all does not see their tasks.
 * Method: user 1000 waits at the port of a name that nobody else may see; users ask who waits, under two sets of rules.
 */
static int secret_owner(void *arg)
{
        become(1000, 1000, 0);
        wharf_task *t = task();
        wharf_name p = port(t);
        char c;
        CHECK_EQ(wharf_register(t, "secret.x", p), 0);
        return (int)wharf_recv(t, p, &c, 1, NULL, WHARF_FOREVER);
}
static struct asks_waits {
        uid_t uid;
        pid_t owner;
} asks_waits;
/* 0: the owner's wait is not shown; 1: without its port; 2: with it */
static int ask_waits(void *arg)
{
        become(asks_waits.uid, asks_waits.uid, 0);
        wharf_task *t = task();
        struct wharf_wait *all;
        size_t n;
        int seen = 0;
        CHECK_EQ(wharf_waits_list(t, &all, &n), 0);
        for (size_t i = 0; i < n; i++)
                if (all[i].pid == asks_waits.owner && all[i].what == WHARF_WAITS_RECEIVE)
                        seen = all[i].port.v ? 2 : 1;
        free(all);
        wharf_task_close(t);
        return seen;
}
static int waits_seen_by(uid_t uid)
{
        asks_waits.uid = uid;
        return test_wait(test_fork(ask_waits, NULL));
}
TEST(see_rules_hold_for_who_waits_too)
{
        if (geteuid())
                test_skip("other users need root");
        const char *dir = test_domain();
        test_share_wharfd(dir, "own * all\nsee secret. uid=1000\n");
        asks_waits.owner = test_fork(secret_owner, NULL);
        UNTIL(waits_seen_by(1000) == 2);
        CHECK_EQ(waits_seen_by(1001), 1);
        CHECK_EQ(waits_seen_by(0), 1);
        test_rules("own * all\nsee * uid=1001\nsee secret. uid=1000\n");
        CHECK_EQ(kill(test_find_wharfd(dir, true), SIGHUP), 0);
        UNTIL(waits_seen_by(1002) == 0);
        CHECK_EQ(waits_seen_by(1001), 1);
        CHECK_EQ(waits_seen_by(1000), 2);
        CHECK_EQ(kill(asks_waits.owner, SIGKILL), 0);
        test_wait(asks_waits.owner);
        test_stop_wharfd(dir);
}

/*
 * Goal:   of a port whose name it may not see nobody is told anything, not even its number, whoever waits there, has it, or
 *         has a right to it.
 * Method: every byte of what is answered to who asks for all that wait is looked at.
 */
static struct secret {
        uint64_t id;
        pid_t owner, user;
} * secret;
static int secret_port(void *arg)
{
        (void)arg;
        become(1000, 1000, 0);
        wharf_task *t = task();
        wharf_name p = port(t);
        char c;
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(t, p, &st), 0);
        CHECK_EQ(wharf_register(t, "secret.x", p), 0);
        secret->id = st.id.v;
        return (int)wharf_recv(t, port(t), &c, 1, NULL, WHARF_FOREVER); /* and not from that one, whose queue fills */
}
static int secret_user(void *arg)
{
        (void)arg;
        become(1002, 1002, 0);
        wharf_task *t = task();
        wharf_name right;
        CHECK_EQ(wharf_lookup(t, "secret.x", WHARF_FOREVER, &right), 0);
        for (;;) /* its queue is full at some time, and then it waits there */
                if (wharf_send(t, right, "x", 1, WHARF_FOREVER) < 0)
                        return 1;
}
/* How often the number stands in all that `uid` is told. */
static struct asks_numbers {
        uid_t uid;
        const char *dir;
} asks_numbers;
static int count_numbers(void *arg)
{
        (void)arg;
        become(asks_numbers.uid, asks_numbers.uid, 0);
        wharf_task *t = task();
        wharf_name right;
        static uint8_t answer[1 << 18];
        struct wh_names_request req = {.op = WH_NAMES_WAITS};
        int n = 0;
        CHECK_EQ(wh_domain_connect(t, asks_numbers.dir, true, false, WH_NEVER, &right), 0);
        do {
                size_t len = ask_by_hand(t, right, &req, answer, sizeof answer);
                req.after = wh_names_get_next(answer);
                for (const uint8_t *at = answer; (at = memmem(at, (size_t)(answer + len - at), &secret->id, 8));
                     at += 8)
                        n++;
        } while (req.after);
        wharf_task_close(t);
        return n;
}
static int numbers_told(uid_t uid)
{
        asks_numbers.uid = uid;
        return test_wait(test_fork(count_numbers, NULL));
}
TEST(the_number_of_a_hidden_port_is_told_nowhere)
{
        if (geteuid())
                test_skip("other users need root");
        const char *dir = test_domain();
        secret = test_shared(4096);
        asks_numbers.dir = dir;
        test_share_wharfd(dir, "own * all\nsee secret. uid=1000\n");
        secret->owner = test_fork(secret_port, NULL);
        UNTIL(*(volatile uint64_t *)&secret->id);
        secret->user = test_fork(secret_user, NULL);
        UNTIL(numbers_told(1000) >=
              3); /* as its own port, as one that a right leads to, and as one that is waited at */
        CHECK_EQ(numbers_told(1001), 0);
        CHECK_EQ(kill(secret->user, SIGKILL), 0);
        test_wait(secret->user);
        CHECK_EQ(kill(secret->owner, SIGKILL), 0);
        test_wait(secret->owner);
        test_stop_wharfd(dir);
        munmap(secret, 4096);
}

/*
 * Goal:   what a user has given back it can have again: names, watches, look-ups that waited, lists, tasks.
 * Method: more often than there is of each, one after another.
 */
TEST(what_a_user_gave_back_it_can_have_again)
{
        enum { ROUNDS = 30 };
        const char *dir = test_domain();
        const char *conf = test_rules("own * all\nlimit names 16\nlimit waits 16\nlimit watches 16\nlimit tasks 16\n");
        CHECK_EQ(test_run_wharfd((const char *[]){"--domain", dir, "--config", conf, "--linger", "forever", NULL}), 0);
        wharf_task *t = task();
        wharf_name p = port(t), right;
        struct wh_names_request req = {.op = WH_NAMES_LOOKUP, .name = "nobody", .timeout_ns = 1};
        CHECK_EQ(wh_domain_connect(t, dir, true, false, WH_NEVER, &right), 0);
        for (int i = 0; i < ROUNDS; i++) {
                uint8_t answer[512];
                struct wharf_wait *all;
                size_t n, ours = 0;
                int err = 0;
                uint32_t line;
                wharf_task *other = task();
                CHECK_EQ(wharf_register(t, "x", p), 0);
                CHECK_EQ(wharf_unregister(t, "x"), 0);
                CHECK_EQ(wharf_names_watch(t, "", p), 0);
                CHECK_EQ(wharf_names_unwatch(t, "", p), 0);
                while (wharf_recv(t, p, answer, sizeof answer, NULL, 0) >= 0)
                        ; /* a watch is given back when what it told was read */
                size_t len = ask_by_hand(t, right, &req, answer, sizeof answer);
                CHECK_EQ(wh_names_get_reply(answer, len, WH_NAMES_LOOKUP, &err, &line), 0);
                CHECK_EQ(err, -ENOENT);
                CHECK_EQ(wharf_waits_list(other, &all, &n), 0);
                for (size_t k = 0; k < n; k++)
                        ours += all[k].pid == getpid();
                free(all);
                CHECK_GE(ours, 1); /* the other one's page was taken */
                wharf_task_close(other);
        }
        wharf_task_close(t);
        test_stop_wharfd(dir);
}

/* Goal: new rules are told to those who watch: what they may see now, and what not any more. */
TEST(watchers_are_told_anew_when_the_rules_change)
{
        struct seen {
                unsigned begins, ends, names;
        } s = {0};
        const char *dir = test_domain();
        char buf[512];
        const char *conf = test_rules("own * all\n");
        CHECK_EQ(test_run_wharfd((const char *[]){"--domain", dir, "--config", conf, "--linger", "forever", NULL}), 0);
        wharf_task *t = task();
        wharf_name p = port(t), w = port(t);
        CHECK_EQ(wharf_register(t, "x.y", p), 0);
        CHECK_EQ(wharf_names_watch(t, "", w), 0);
        for (unsigned round = 1; round <= 2; round++) {
                while (s.ends < round) {
                        struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
                        struct wharf_name_event ev;
                        CHECK_EQ(wharf_recvmsg(t, w, &m, wharf_in_ms(10000)), 0);
                        CHECK_EQ(wharf_names_event(t, &m, &ev), 0);
                        s.begins += ev.what == WHARF_NAMES_BEGIN;
                        s.names += ev.what == WHARF_NAME_IS;
                        s.ends += ev.what == WHARF_NAMES_END;
                }
                CHECK_EQ(s.begins, round);
                CHECK_EQ(s.names, 1); /* and not the second time */
                test_rules("own * all\nsee x. none\n");
                CHECK_EQ(kill(test_find_wharfd(dir, true), SIGHUP), 0);
        }
        wharf_task_close(t);
        test_stop_wharfd(dir);
}

/* Goal: lists that take several answers are whole; and nobody has more than its share of pages that wharfd keeps. */
TEST(many_tasks_are_listed_in_parts_and_no_more_than_a_share_of_them)
{
        enum { TASKS = 40, SHARE = 256 / 4 / 2 };
        const char *dir = test_domain();
        wharf_task *t[TASKS];
        pid_t pid = fork();
        if (pid == 0) {
                CHECK_EQ(setrlimit(RLIMIT_NOFILE, &(struct rlimit){256, 256}), 0);
                execl(getenv("WHARFD"), "wharfd", "--domain", dir, (char *)NULL);
                _exit(127);
        }
        CHECK_EQ(test_wait(pid), 0);
        struct wharf_wait *all;
        size_t n, ours = 0;
        for (int i = 0; i < TASKS; i++) {
                t[i] = task();
                CHECK_EQ(many_listed(t[i]), 0); /* hands its page over */
        }
        CHECK_EQ(wharf_waits_list(t[0], &all, &n), 0);
        for (size_t i = 0; i < n; i++)
                ours += all[i].pid == getpid();
        free(all);
        CHECK_EQ(ours, SHARE);
        for (int i = 1; i < TASKS; i++)
                wharf_task_close(t[i]);
        /* Whose tasks are closed gives their shares back. */
        t[1] = task();
        CHECK_EQ(many_listed(t[1]), 0);
        CHECK_EQ(wharf_waits_list(t[1], &all, &n), 0);
        ours = 0;
        for (size_t i = 0; i < n; i++)
                ours += all[i].pid == getpid();
        free(all);
        CHECK_EQ(ours, 2);
        wharf_task_close(t[0]);
        wharf_task_close(t[1]);
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
}

/*
 * Goal:   a list ends, whatever comes while it is read.
 * Method: ten tasks more hand their pages over between one part and the next.
 */
TEST(what_comes_while_a_list_is_read_does_not_prolong_it)
{
        enum { TASKS = 20, MORE = 10, PARTS_MAX = 8 };
        static uint8_t answer[1 << 18];
        const char *dir = test_domain();
        CHECK_EQ(test_run_wharfd((const char *[]){"--domain", dir, NULL}), 0);
        wharf_task *t[TASKS + PARTS_MAX * MORE];
        unsigned n = 0, parts = 0;
        for (; n < TASKS; n++)
                CHECK_EQ(many_listed(t[n] = task()), 0); /* hands its page over */
        wharf_name right;
        struct wh_names_request req = {.op = WH_NAMES_WAITS};
        CHECK_EQ(wh_domain_connect(t[0], dir, true, false, WH_NEVER, &right), 0);
        do {
                ask_by_hand(t[0], right, &req, answer, sizeof answer);
                req.after = wh_names_get_next(answer);
                for (unsigned i = 0; i < MORE && parts < PARTS_MAX; i++)
                        CHECK_EQ(many_listed(t[n++] = task()), 0);
        } while (++parts < PARTS_MAX && req.after);
        CHECK_EQ(req.after, 0);
        while (n > 0)
                wharf_task_close(t[--n]);
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
}

/*
 * Goal:   nobody has wharfd keep more lists to be made than a stated number; what is more is refused, and lost is none.
 * Method: many are asked for over several connections while wharfd is stopped; then they come faster than a part of one is made
 *         each turn.
 */
TEST(of_lists_that_wait_each_user_has_a_limit)
{
        enum { LINKS = 20, ASKED = LINKS * 50, MAX = 512 };
        static uint32_t call[ASKED];
        static uint8_t answer[1 << 16];
        const char *dir = test_domain();
        uint8_t buf[WH_NAMES_REQUEST_MAX];
        struct wh_names_request req = {.op = WH_NAMES_WAITS};
        unsigned made = 0, refused = 0;
        wharf_task *t = task();
        wharf_name right[LINKS];
        CHECK_EQ(wharf_register(t, "x", port(t)), 0);
        struct wharf_msg m = {.size = sizeof m, .data = buf, .len_bytes = wh_names_put_request(&req, buf)};
        const pid_t server = test_find_wharfd(dir, true);
        for (unsigned i = 0; i < LINKS; i++) {
                CHECK_EQ(wh_domain_connect(t, dir, true, false, WH_NEVER, &right[i]), 0);
                ask_by_hand(t, right[i], &req, answer, sizeof answer); /* it has greeted, and so there is a queue */
        }
        CHECK_EQ(kill(server, SIGSTOP), 0);
        for (unsigned i = 0; i < ASKED; i++)
                CHECK_EQ(wharf_call_start(t, right[i % LINKS], &m, WHARF_NONE, wharf_in_ms(60000), &call[i]), 0);
        CHECK_EQ(kill(server, SIGCONT), 0);
        for (unsigned i = 0; i < ASKED; i++) {
                struct wharf_msg r = {.size = sizeof r, .data = answer, .cap_bytes = sizeof answer};
                int err = 0;
                uint32_t line;
                CHECK_EQ(wharf_call_finish(t, right[i % LINKS], call[i], &r, WHARF_FOREVER), 0);
                CHECK_EQ(wh_names_get_reply(answer, r.len_bytes, WH_NAMES_WAITS, &err, &line), 0);
                made += err == 0;
                refused += err == -EDQUOT;
        }
        CHECK_EQ(made + refused, ASKED);
        CHECK_GE(made, MAX);
        CHECK_GE(refused, 1);
        wharf_task_close(t);
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
}

/* ---- what is answered to many at once ---- */

enum { CROWD_LINKS = 8, CROWD_EACH = 50, CROWD = CROWD_LINKS * CROWD_EACH };

/* Many look-ups of one name that wait, and beside them a link whose requests are served in their order. */
struct crowd {
        const char *dir;
        wharf_task *t;
        pid_t server;
        wharf_name right[CROWD_LINKS], beside[2];
        uint32_t call[CROWD];
        bool done[CROWD];
        unsigned there, none, full; /* answers so far: a right; -ENOENT; -EAGAIN */
};

static struct crowd crowd_open(const char *rules)
{
        struct crowd c = {.dir = test_domain(), .t = task()};
        struct wh_names_request req = {.op = WH_NAMES_STATE};
        uint8_t answer[512];
        const char *conf = test_rules(rules);
        CHECK_EQ(test_run_wharfd((const char *[]){"--domain", c.dir, "--config", conf, NULL}), 0);
        CHECK_EQ(wharf_register(c.t, "stays", port(c.t)), 0);
        c.server = test_find_wharfd(c.dir, true);
        for (unsigned i = 0; i < CROWD_LINKS + 2; i++) {
                wharf_name *right = i < CROWD_LINKS ? &c.right[i] : &c.beside[i - CROWD_LINKS];
                CHECK_EQ(wh_domain_connect(c.t, c.dir, true, false, WH_NEVER, right), 0);
                ask_by_hand(c.t, *right, &req, answer, sizeof answer); /* it has greeted, and so there is a queue */
        }
        return c;
}

/* The errno of its answer; or, where the deadline passes first, -ETIMEDOUT or -EAGAIN and `*ret_none`. */
static int finish_by_hand(wharf_task *t, wharf_name right, uint32_t call, enum wh_names_op op, int64_t deadline_ns,
                          bool *ret_none)
{
        uint8_t answer[512];
        struct wharf_item item;
        struct wharf_msg r = {
                .size = sizeof r, .data = answer, .cap_bytes = sizeof answer, .items = &item, .cap_items = 1};
        int err = 0, got = wharf_call_finish(t, right, call, &r, deadline_ns);
        uint32_t line;
        *ret_none = got == -ETIMEDOUT || got == -EAGAIN;
        if (*ret_none)
                return got;
        CHECK_EQ(got, 0);
        CHECK_EQ(wh_names_get_reply(answer, r.len_bytes, op, &err, &line), 0);
        if (r.n_items)
                CHECK_EQ(wharf_drop(t, item.name), 0);
        return err;
}

static void crowd_waits(struct crowd *c, uint64_t timeout_ns)
{
        struct wh_names_request req = {.op = WH_NAMES_LOOKUP, .name = "late", .timeout_ns = timeout_ns};
        uint8_t answer[512];
        for (unsigned i = 0; i < CROWD; i++)
                c->call[i] = start_by_hand(c->t, c->right[i % CROWD_LINKS], &req, WHARF_NONE);
        req = (struct wh_names_request){.op = WH_NAMES_STATE};
        for (unsigned i = 0; i < CROWD_LINKS; i++) /* behind all of them */
                ask_by_hand(c->t, c->right[i], &req, answer, sizeof answer);
}

/* Takes the answers that are there, or that come until then; how many there were so far. */
static unsigned crowd_answers(struct crowd *c, int64_t deadline_ns)
{
        for (unsigned i = 0; i < CROWD; i++) {
                bool none;
                if (c->done[i])
                        continue;
                int err = finish_by_hand(c->t, c->right[i % CROWD_LINKS], c->call[i], WH_NAMES_LOOKUP, deadline_ns,
                                         &none);
                c->done[i] = !none;
                c->there += !none && err == 0;
                c->none += !none && err == -ENOENT;
                c->full += !none && err == -EAGAIN;
        }
        return c->there + c->none + c->full;
}

static void crowd_close(struct crowd *c)
{
        wharf_task_close(c->t);
        UNTIL(!test_find_wharfd(c->dir, false) && !test_find_wharfd(c->dir, true));
}

/*
 * Goal:   a name for which many wait keeps nobody waiting: they are answered in parts, between which others are served. Whoever
 *         was not answered when the name has gone again waits on, and nobody is lost.
 * Method: the name comes and goes by requests that are there before wharfd may look at them, which are more than one batch and
 *         less than two: first in each of two queues it comes, and last it goes, so whatever their order is it is there between
 *         the batches, and few may be answered. Then it comes for good.
 */
TEST(those_who_wait_for_one_name_are_answered_in_parts)
{
        enum { EACH = 60, FEW = CROWD / 4 };
        struct crowd c = crowd_open("own * all\n");
        wharf_name late = port(c.t);
        const struct wh_names_request state = {.op = WH_NAMES_STATE};
        struct wh_names_request req = {.name = "late", .cookie = {{1, 2}}};
        uint32_t asked[2][EACH];
        enum wh_names_op op[EACH];
        bool none;
        crowd_waits(&c, WH_NAMES_FOREVER);
        CHECK_EQ(crowd_answers(&c, 0), 0);
        CHECK_EQ(kill(c.server, SIGSTOP), 0);
        for (unsigned i = 0; i < EACH; i++)
                for (unsigned k = 0; k < 2; k++) {
                        req.op = op[i] = i == 0         ? WH_NAMES_REGISTER
                                         : i + 1 < EACH ? WH_NAMES_STATE
                                                        : WH_NAMES_UNREGISTER;
                        asked[k][i] = start_by_hand(c.t, c.beside[k], op[i] == WH_NAMES_STATE ? &state : &req,
                                                    i == 0 ? late : WHARF_NONE);
                }
        CHECK_EQ(kill(c.server, SIGCONT), 0);
        for (unsigned i = 0; i < EACH; i++)
                for (unsigned k = 0; k < 2; k++) {
                        int err = finish_by_hand(c.t, c.beside[k], asked[k][i], op[i], WHARF_FOREVER, &none);
                        CHECK(err == 0 || (err == -ENOENT && i + 1 == EACH));
                }
        CHECK_LE(crowd_answers(&c, 0), FEW);
        CHECK_EQ(c.none, 0); /* they have time */
        req.op = WH_NAMES_REGISTER;
        asked[0][0] = start_by_hand(c.t, c.beside[0], &req, late);
        CHECK_EQ(finish_by_hand(c.t, c.beside[0], asked[0][0], WH_NAMES_REGISTER, WHARF_FOREVER, &none), 0);
        CHECK_EQ(crowd_answers(&c, wharf_in_ms(60000)), CROWD);
        CHECK_EQ(c.none, 0);
        CHECK_GE(c.there, 1);
        crowd_close(&c);
}

/*
 * Goal:   the same of those whose time is over at one moment.
 * Method: it is over while wharfd is stopped, and its queues have more than one batch of requests, the last of which registers
 *         the name: who is answered after that finds it there, and few were told that it is not.
 */
TEST(those_whose_time_is_over_are_answered_in_parts)
{
        enum { EACH = 50, FEW = CROWD / 4 };
        struct crowd c = crowd_open("own * all\n");
        const struct wh_names_request req = {.op = WH_NAMES_REGISTER, .name = "late", .cookie = {{1, 2}}},
                                      state = {.op = WH_NAMES_STATE};
        uint32_t asked[2][EACH];
        bool none;
        crowd_waits(&c, 2000000000);
        CHECK_EQ(kill(c.server, SIGSTOP), 0);
        const int64_t over = wharf_in_ms(2001);
        CHECK_EQ(crowd_answers(&c, 0), 0);
        for (unsigned i = 0; i < EACH; i++)
                for (unsigned k = 0; k < 2; k++) {
                        const bool last = k == 1 && i + 1 == EACH;
                        asked[k][i] =
                                start_by_hand(c.t, c.beside[k], last ? &req : &state, last ? port(c.t) : WHARF_NONE);
                }
        wh_os_poll(NULL, 0, over);
        CHECK_EQ(kill(c.server, SIGCONT), 0);
        for (unsigned i = 0; i < EACH; i++)
                for (unsigned k = 0; k < 2; k++)
                        CHECK_EQ(finish_by_hand(c.t, c.beside[k], asked[k][i],
                                                k == 1 && i + 1 == EACH ? WH_NAMES_REGISTER : WH_NAMES_STATE,
                                                WHARF_FOREVER, &none),
                                 0);
        CHECK_EQ(crowd_answers(&c, wharf_in_ms(60000)), CROWD);
        CHECK_LE(c.none, FEW);
        crowd_close(&c);
}

/* Reads events until one like this comes. */
static void await_event(wharf_task *t, wharf_name events, enum wharf_name_what what, const char *name)
{
        struct wharf_name_event ev = {0};
        do {
                uint8_t buf[512];
                struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
                CHECK_EQ(wharf_recvmsg(t, events, &m, wharf_in_ms(60000)), 0);
                CHECK_EQ(wharf_names_event(t, &m, &ev), 0);
        } while (ev.what != what || strcmp(ev.name, name));
}

/*
 * Goal:   nothing is done for who has hung up, and cannot read an answer, but what it takes back: it would keep others waiting.
 * Method: while wharfd is stopped somebody asks for more names than its user may wait for, takes one back, and is gone. Then
 *         its user may wait.
 */
TEST(who_has_hung_up_is_not_served_but_for_what_it_takes_back)
{
        enum { MANY = 40 };
        struct crowd c = crowd_open("own * all\nlimit waits 16\n");
        wharf_task *gone = task();
        wharf_name to, events = port(c.t);
        struct wh_names_request req = {.op = WH_NAMES_REGISTER, .name = "back", .cookie = {{3, 4}}};
        bool none;
        CHECK_EQ(wh_domain_connect(gone, c.dir, true, false, WH_NEVER, &to), 0);
        uint32_t call = start_by_hand(c.t, c.beside[0], &req, port(c.t));
        CHECK_EQ(finish_by_hand(c.t, c.beside[0], call, WH_NAMES_REGISTER, WHARF_FOREVER, &none), 0);
        CHECK_EQ(wharf_names_watch(c.t, "", events), 0);
        await_event(c.t, events, WHARF_NAMES_END, ""); /* what it was not told of is not told to be gone */
        const struct wh_names_request state = {.op = WH_NAMES_STATE};
        uint8_t answer[512];
        ask_by_hand(gone, to, &state, answer, sizeof answer);
        CHECK_EQ(kill(c.server, SIGSTOP), 0);
        struct wh_names_request wait = {.op = WH_NAMES_LOOKUP, .name = "never", .timeout_ns = WH_NAMES_FOREVER};
        for (unsigned i = 0; i < MANY; i++)
                start_by_hand(gone, to, &wait, WHARF_NONE);
        req.op = WH_NAMES_UNREGISTER;
        start_by_hand(gone, to, &req, WHARF_NONE);
        wharf_task_close(gone);
        CHECK_EQ(kill(c.server, SIGCONT), 0);
        await_event(c.t, events, WHARF_NAME_GONE, "back"); /* requests of one link are served in their order */
        wait.timeout_ns = 1;
        call = start_by_hand(c.t, c.beside[0], &wait, WHARF_NONE);
        CHECK_EQ(finish_by_hand(c.t, c.beside[0], call, WH_NAMES_LOOKUP, WHARF_FOREVER, &none), -ENOENT);
        crowd_close(&c);
}

/*
 * Goal:   the pages of processes that ended go at once, though nobody adds another or looks.
 * Method: processes that list, and so hand theirs over; then wharfd's descriptors.
 */
TEST(the_pages_of_the_dead_go_at_once)
{
        enum { TASKS = 12 };
        const char *dir = test_domain();
        wharf_task *t = task();
        pid_t child[TASKS];
        int go[2];
        CHECK_EQ(wharf_register(t, "stays", port(t)), 0); /* wharfd is there as long as somebody has a name */
        CHECK_EQ(many_listed(t), 1);
        const pid_t server = test_find_wharfd(dir, true);
        int before = test_descriptors_of(server);
        CHECK_EQ(pipe(go), 0);
        for (int i = 0; i < TASKS; i++)
                if ((child[i] = fork()) == 0) {
                        wharf_task *own;
                        char none;
                        close(go[1]);
                        if (wharf_task_open(NULL, &own) == 0 && many_listed(own) == 1 && read(go[0], &none, 1) == 0)
                                _exit(0);
                        _exit(1);
                }
        close(go[0]);
        UNTIL(test_descriptors_of(server) >= before + TASKS);
        close(go[1]);
        for (int i = 0; i < TASKS; i++)
                CHECK_EQ(test_wait(child[i]), 0);
        /* One epoll of their ends stays. */
        UNTIL(test_descriptors_of(server) <= before + 1);
        wharf_task_close(t);
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
}

/* Goal: a task uses its own domain and the system's side by side. */
TEST(own_domain_and_the_systems_at_once)
{
        char system[300];
        const char *dir = test_domain();
        snprintf(system, sizeof system, "%s/system", test_dir());
        setenv("WHARF_SYSTEM_DOMAIN", system, 1);
        wharf_task *t = task();
        wharf_name p = port(t), w = port(t), right;
        CHECK_EQ(wharf_lookup(t, "system:x", 0, &right), -EHOSTDOWN); /* nobody starts one for the system */
        CHECK(strstr(wharf_why(), system));
        CHECK_EQ(test_run_wharfd((const char *[]){"--system", "--linger", "forever", NULL}), 0);
        struct stat st;
        CHECK_EQ(stat(system, &st), 0);
        CHECK_EQ(st.st_mode & 07777, 0755);
        strcat(system, "/bootstrap");
        CHECK_EQ(stat(system, &st), 0);
        CHECK_EQ(st.st_mode & 07777, 0666);
        *strrchr(system, '/') = 0;
        CHECK_EQ(wharf_register(t, "system:x", p), 0);
        CHECK_EQ(wharf_lookup(t, "x", 0, &right), -ENOENT);
        CHECK_EQ(wharf_register(t, "x", p), 0);
        CHECK_EQ(wharf_lookup(t, "system:x", 0, &right), 0);
        CHECK_EQ(wharf_names_watch(t, "system:*", w), 0);
        CHECK_EQ(wharf_unregister(t, "system:x"), 0);
        CHECK_EQ(wharf_lookup(t, "system:x", 0, &right), -ENOENT);
        CHECK_EQ(wharf_lookup(t, "x", 0, &right), 0);
        CHECK_EQ(wharf_register(t, "system:", p), -EINVAL);
        wharf_task_close(t);

        /* Everything stopped, or killed: nothing is left that keeps the next one from starting. */
        for (int i = 0; i < 2; i++) {
                pid_t k, d;
                UNTIL((k = test_find_wharfd(system, false)) && (d = test_find_wharfd(system, true)));
                if (i) {
                        kill(k, SIGKILL);
                        kill(d, SIGKILL);
                        UNTIL(!test_find_wharfd(system, false) && !test_find_wharfd(system, true));
                } else {
                        test_stop_wharfd(system);
                }
                CHECK_EQ(test_run_wharfd((const char *[]){"--system", "--linger", "forever", NULL}), 0);
        }
        test_stop_wharfd(system);
        UNTIL(!test_find_wharfd(dir, true));
}

/* ---- a domain that loses its place ---- */

static void path_in(char ret[320], const char *dir, const char *file)
{
        CHECK_LE(snprintf(ret, 320, "%s/%s", dir, file), 319);
}

/* Waits until the domain has a socket which is not the one of `old`. */
static void await_socket(const char *dir, const struct stat *old)
{
        char path[320];
        struct stat st;
        path_in(path, dir, "bootstrap");
        UNTIL(stat(path, &st) == 0 && (!old || st.st_ino != old->st_ino || st.st_ctim.tv_nsec != old->st_ctim.tv_nsec ||
                                       st.st_ctim.tv_sec != old->st_ctim.tv_sec));
}

/* What a cleaner of /tmp does, or a logout. */
static void remove_domain(const char *dir)
{
        char path[320];
        path_in(path, dir, "lock");
        unlink(path);
        path_in(path, dir, "bootstrap");
        CHECK_EQ(unlink(path), 0);
        rmdir(dir); /* unless the server was faster, and has made something there again */
}

static void exchange(const char *a, const char *b)
{
        if (renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) < 0)
                test_skip("this file system cannot exchange two directories: %s", strerror(errno));
}

/*
 * Goal:   a server whose socket is gone makes another in the same place, and knows all names: of tasks that make calls,
 *         and of those that sleep.
 * Method: the socket removed, the directory removed, the directory replaced by another one, one above it moved away. A
 *         task that was never there before looks up. No task makes a call before the server has come back by itself,
 *         since whoever comes first starts one.
 */
enum { LOSE_SOCKET, LOSE_DIRECTORY, LOSE_TO_ANOTHER, LOSE_BY_MOVE, LOSE_WAYS };
TEST(a_domain_that_is_removed_is_made_again_with_all_its_names)
{
        char dir[320], above[320], away[320], other[320], path[320];
        test_domain();
        test_need_proc();
        path_in(above, test_dir(), "above");
        path_in(away, test_dir(), "away");
        path_in(dir, above, "domain");
        path_in(other, above, "other");
        path_in(path, dir, "bootstrap");
        CHECK_EQ(mkdir(above, 0700), 0);
        setenv("WHARF_DOMAIN", dir, 1);
        pid_t a = test_fork(sleeping_owner, (char *)"sleeps");
        wharf_task *t = task();
        wharf_name right, mine = port(t);
        CHECK_EQ(wharf_lookup(t, "sleeps", WHARF_FOREVER, &right), 0);
        CHECK_EQ(wharf_register(t, "calls", mine), 0);
        pid_t k = test_find_wharfd(dir, false);
        for (int way = 0; way < LOSE_WAYS; way++) {
                struct stat st;
                await_socket(dir, NULL);
                CHECK_EQ(stat(path, &st), 0);
                if (way == LOSE_SOCKET) {
                        CHECK_EQ(unlink(path), 0);
                } else if (way == LOSE_DIRECTORY) {
                        remove_domain(dir);
                } else if (way == LOSE_TO_ANOTHER) {
                        CHECK_EQ(mkdir(other, 0700), 0);
                        exchange(dir, other);
                } else {
                        CHECK_EQ(mkdir(away, 0700), 0);
                        exchange(above, away);
                }
                await_socket(dir, &st);
                wharf_task *fresh = task();
                CHECK_EQ(wharf_lookup(fresh, "sleeps", 0, &right), 0);
                CHECK_EQ(wharf_lookup(fresh, "calls", 0, &right), 0);
                CHECK_EQ(stat(dir, &st), 0);
                CHECK_EQ(st.st_mode & 07777, 0700);
                wharf_task_close(fresh);
                CHECK_EQ(test_find_wharfd(dir, false), k); /* the only one there is */
        }
        char c;
        CHECK_EQ(wharf_lookup(t, "calls", 0, &right), 0);
        CHECK_EQ(wharf_send(t, right, "x", 1, 0), 0);
        CHECK_EQ(wharf_recv(t, mine, &c, 1, NULL, WHARF_FOREVER), 1);
        CHECK_EQ(wharf_lookup(t, "sleeps", 0, &right), 0);
        CHECK_EQ(wharf_send(t, right, "x", 1, 0), 0);
        CHECK_EQ(test_wait(a), 'x');
        wharf_task_close(t);
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
}

/* The same for a domain that all users share: with the modes of one. */
TEST(a_shared_domain_that_is_removed_is_made_again)
{
        const char *dir = test_domain();
        test_need_proc();
        char path[320];
        struct stat st;
        path_in(path, dir, "bootstrap");
        CHECK_EQ(test_run_wharfd((const char *[]){"--domain", dir, "--share", "--linger", "forever", NULL}), 0);
        wharf_task *t = task();
        wharf_name right;
        CHECK_EQ(wharf_register(t, "x", port(t)), 0);
        CHECK_EQ(stat(path, &st), 0);
        remove_domain(dir);
        await_socket(dir, &st);
        UNTIL(wharf_lookup(t, "x", 0, &right) == 0); /* between bind() and chmod() it is not for all */
        CHECK_EQ(stat(path, &st), 0);
        CHECK_EQ(st.st_mode & 07777, 0666);
        CHECK_EQ(stat(dir, &st), 0);
        CHECK_EQ(st.st_mode & 07777, 0755);
        wharf_task_close(t);
        test_stop_wharfd(dir);
}

/*
 * Goal:   where it cannot be made again the server lets go, so that no second one comes beside it, and its tasks are
 *         told why; once the place is theirs again, their names are registered anew by themselves.
 * Method: the directory is exchanged for one that is somebody else's, or, for an ordinary user, open to all.
 */
TEST(a_domain_that_somebody_else_has_taken_is_let_go_of)
{
        const char *dir = test_domain();
        test_need_proc();
        char other[320];
        int fd;
        path_in(other, test_dir(), "other");
        wharf_task *t = task(), *fresh = task();
        wharf_name right;
        CHECK_EQ(wharf_register(t, "x", port(t)), 0);
        CHECK_EQ(wharf_names_fd(t, &fd), 0);
        CHECK_EQ(mkdir(other, 0700), 0);
        if (geteuid() == 0)
                CHECK_EQ(chown(other, 65534, 65534), 0);
        else
                CHECK_EQ(chmod(other, 0777), 0);
        exchange(dir, other);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
        CHECK_EQ(poll(&p, 1, -1), 1);
        CHECK_EQ(wharf_lookup(fresh, "x", 0, &right), -EHOSTDOWN);
        CHECK(strstr(wharf_why(), geteuid() == 0 ? "65534" : "open to others"));
        CHECK_EQ(wharf_names_renew(t), -EHOSTDOWN);
        exchange(dir, other);
        CHECK_EQ(wharf_names_renew(t), 0);
        CHECK_EQ(wharf_lookup(fresh, "x", 0, &right), 0);
        if (geteuid() == 0)
                CHECK_EQ(chown(other, 0, 0), 0);
        wharf_task_close(fresh);
        wharf_task_close(t);
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
}

/*
 * Goal:   never two servers at one name: one that is started again finds that another has come to its name meanwhile,
 *         and leaves its tasks to that one.
 * Method: the keeper is stopped while its server is killed, the socket removed, and another wharfd started.
 */
TEST(a_server_whose_name_another_has_meanwhile_leaves_it_to_that_one)
{
        const char *dir = test_domain();
        test_need_proc();
        char path[320];
        path_in(path, dir, "bootstrap");
        wharf_task *t = task(), *fresh = task();
        wharf_name right;
        CHECK_EQ(wharf_register(t, "old", port(t)), 0);
        pid_t k = test_find_wharfd(dir, false), d = test_find_wharfd(dir, true);
        CHECK_EQ(kill(k, SIGSTOP), 0);
        CHECK_EQ(kill(d, SIGKILL), 0);
        CHECK_EQ(unlink(path), 0);
        CHECK_EQ(wharf_register(fresh, "new", port(fresh)), 0);
        CHECK_EQ(kill(k, SIGCONT), 0);
        /* Its end tells its task, which finds the other. */
        UNTIL(kill(k, 0) < 0);
        CHECK_EQ(wharf_names_renew(t), 0);
        CHECK_EQ(wharf_lookup(fresh, "old", 0, &right), 0);
        CHECK_EQ(wharf_lookup(t, "new", 0, &right), 0);
        wharf_task_close(fresh);
        wharf_task_close(t);
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
}

/* Goal: without a keeper nobody could go on; then the owners do. */
TEST(a_removed_domain_whose_keeper_is_dead_is_made_by_its_tasks)
{
        const char *dir = test_domain();
        test_need_proc();
        int fd;
        wharf_task *t = task(), *fresh = task();
        wharf_name right;
        CHECK_EQ(wharf_register(t, "x", port(t)), 0);
        CHECK_EQ(wharf_names_fd(t, &fd), 0);
        pid_t d = test_find_wharfd(dir, true);
        CHECK_EQ(kill(test_find_wharfd(dir, false), SIGKILL), 0);
        UNTIL(!test_find_wharfd(dir, false));
        remove_domain(dir);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        UNTIL(test_find_wharfd(dir, true) != d);
        CHECK_EQ(poll(&p, 1, -1), 1);
        CHECK_EQ(wharf_names_renew(t), 0);
        CHECK_EQ(wharf_lookup(fresh, "x", 0, &right), 0);
        wharf_task_close(fresh);
        wharf_task_close(t);
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
}

/* Goal: rights of others are not handed to whoever is behind $NOTIFY_SOCKET, unless that is root's or this user's. */
TEST(a_notify_socket_of_another_user_gets_nothing)
{
        char path[320];
        path_in(path, test_dir(), "notify");
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        CHECK(strlen(path) < sizeof a.sun_path);
        strcpy(a.sun_path, path);
        int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), fd;
        bool keeper;
        CHECK_EQ(bind(s, (struct sockaddr *)&a, sizeof a), 0);
        setenv("NOTIFY_SOCKET", path, 1);
        fd = wh_notify_open(&keeper);
        CHECK(fd >= 0);
        wh_notify(fd, "READY=1");
        char c;
        CHECK_EQ(recv(s, &c, 1, 0), 1);
        wh_os_close(fd);
        if (geteuid() == 0) {
                setenv("NOTIFY_SOCKET", path, 1);
                CHECK_EQ(chown(path, 65534, 65534), 0);
                CHECK_EQ(wh_notify_open(&keeper), -1);
        }
        close(s);
}

/* ---- watching ---- */

struct seen {
        bool whole;
        int begins, ends;
        unsigned n;
        char name[600][WHARF_NAME_MAX + 1];
};
/* Takes one event into account; false when there is none until the deadline. */
static bool see(wharf_task *t, wharf_name w, struct seen *s, int64_t deadline_ns)
{
        char buf[512];
        struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
        struct wharf_name_event ev;
        if (wharf_recvmsg(t, w, &m, deadline_ns) < 0)
                return false;
        CHECK_EQ(wharf_names_event(t, &m, &ev), 0);
        unsigned i = 0;
        while (i < s->n && strcmp(s->name[i], ev.name))
                i++;
        switch (ev.what) {
        case WHARF_NAMES_BEGIN:
                s->n = 0;
                s->begins++;
                s->whole = false;
                break;
        case WHARF_NAME_IS:
                CHECK(ev.pid > 0 && ev.id.v);
                if (i == s->n)
                        strcpy(s->name[s->n++], ev.name);
                break;
        case WHARF_NAME_GONE:
                CHECK(i < s->n || !s->whole);
                if (i < s->n)
                        memmove(s->name[i], s->name[--s->n], sizeof s->name[i]);
                break;
        case WHARF_NAMES_END:
                s->ends++;
                s->whole = true;
        }
        return true;
}
static bool has(const struct seen *s, const char *name)
{
        for (unsigned i = 0; i < s->n; i++)
                if (!strcmp(s->name[i], name))
                        return true;
        return false;
}
#define SEE_UNTIL(cond) \
        while (!(cond)) \
        CHECK(see(t, w, s, WHARF_FOREVER))

TEST(a_watcher_is_told_what_is_and_what_changes)
{
        const char *dir = test_domain();
        struct seen *s = calloc(1, sizeof *s);
        wharf_task *t = task(), *o = task();
        wharf_name w = port(t), p = port(o), right;
        CHECK_EQ(wharf_register(o, "a.1", p), 0);
        CHECK_EQ(wharf_register(o, "b.1", p), 0);
        CHECK_EQ(wharf_names_watch(t, "a.", w), 0);
        SEE_UNTIL(s->whole);
        CHECK_EQ(s->n, 1);
        CHECK(has(s, "a.1"));
        CHECK_EQ(wharf_register(o, "a.2", p), 0);
        CHECK_EQ(wharf_register(o, "b.2", p), 0);
        CHECK_EQ(wharf_unregister(o, "a.1"), 0);
        SEE_UNTIL(has(s, "a.2") && !has(s, "a.1"));
        CHECK_EQ(s->begins, 1);
        /* Its owner dies: the port with it, and so the name. */
        pid_t owner = test_fork(sleeping_owner, (char *)"a.3");
        SEE_UNTIL(has(s, "a.3"));
        kill(owner, SIGKILL);
        test_wait(owner);
        SEE_UNTIL(!has(s, "a.3"));
        /* A message of anybody else is no event. */
        CHECK_EQ(wharf_right_new(t, w, &right), 0);
        CHECK_EQ(wharf_send(t, right, "x", 1, 0), 0);
        char buf[512];
        struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
        struct wharf_name_event ev;
        CHECK_EQ(wharf_recvmsg(t, w, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_names_event(t, &m, &ev), -ENOENT);
        /* wharfd is killed: everything is told anew, nothing was lost; this task does nothing for it. */
        for (int i = 0; i < 3; i++) {
                pid_t d;
                UNTIL((d = test_find_wharfd(dir, true)));
                kill(d, SIGKILL);
                SEE_UNTIL(s->begins == i + 2 && s->whole);
                CHECK_EQ(s->n, 1);
                CHECK(has(s, "a.2"));
        }
        CHECK_EQ(wharf_register(o, "a.4", p), 0);
        SEE_UNTIL(has(s, "a.4"));
        /* With its keeper: it is asked for again. */
        int fd, fd_o, begins = s->begins;
        CHECK_EQ(wharf_names_fd(t, &fd), 0);
        CHECK_EQ(wharf_names_fd(o, &fd_o), 0);
        CHECK_EQ(wharf_names_renew(t), 0);
        CHECK_EQ(wharf_names_renew(o), 0);
        pid_t k, d;
        UNTIL((k = test_find_wharfd(dir, false)) && (d = test_find_wharfd(dir, true)));
        kill(k, SIGKILL);
        kill(d, SIGKILL);
        struct pollfd pf = {.fd = fd, .events = POLLIN};
        CHECK_EQ(poll(&pf, 1, -1), 1);
        CHECK_EQ(wharf_names_renew(t), 0);
        SEE_UNTIL(s->begins > begins && s->whole);
        /* A link that was on its way to the keeper ends later than the others: the kernel has to collect it. */
        pf.fd = fd_o;
        CHECK_EQ(poll(&pf, 1, -1), 1);
        CHECK_EQ(wharf_names_renew(o), 0);
        SEE_UNTIL(has(s, "a.4") && has(s, "a.2"));
        CHECK_EQ(wharf_names_unwatch(t, "a.", w), 0);
        CHECK_EQ(wharf_names_unwatch(t, "a.", w), -ENOENT);
        wharf_task_close(o);
        wharf_task_close(t);
        free(s);
}

/* Goal: a watch goes on for ever, and not only for as many events as its port holds. */
TEST_TIMEOUT(a_watcher_is_told_of_more_than_its_port_holds, 60)
{
        test_domain();
        struct seen *s = calloc(1, sizeof *s);
        wharf_task *t = task(), *o = task();
        wharf_name w, p = port(o);
        struct wharf_port_opts few = {.size = sizeof few, .flags = WHARF_PORT_STAYS, .capacity_records = 100};
        CHECK_EQ(wharf_port_new(t, &few, &w), 0);
        CHECK_EQ(wharf_names_watch(t, "a.", w), 0);
        SEE_UNTIL(s->whole);
        for (int i = 0; i < 300; i++) {
                CHECK_EQ(wharf_register(o, "a.1", p), 0);
                SEE_UNTIL(has(s, "a.1"));
                CHECK_EQ(wharf_unregister(o, "a.1"), 0);
                SEE_UNTIL(!has(s, "a.1"));
        }
        CHECK_EQ(s->begins, 1);
        wharf_task_close(o);
        wharf_task_close(t);
        free(s);
}

/* Goal: while a watcher's queue is full, wharfd sleeps. */
TEST(wharfd_sleeps_while_a_watcher_does_not_read)
{
        const char *dir = test_domain();
        wharf_task *t = task(), *o = task();
        wharf_name w, p = port(o);
        struct wharf_port_opts few = {.size = sizeof few, .flags = WHARF_PORT_STAYS, .capacity_records = 4};
        CHECK_EQ(wharf_port_new(t, &few, &w), 0);
        CHECK_EQ(wharf_names_watch(t, "a.", w), 0);
        CHECK_EQ(wharf_recv(t, w, NULL, 0, NULL, WHARF_FOREVER), -EOVERFLOW); /* the greeting has gone */
        for (int i = 0; i < 20; i++) {
                char name[16];
                snprintf(name, sizeof name, "a.%d", i);
                CHECK_EQ(wharf_register(o, name, p), 0);
        }
        char path[40], stat[512];
        snprintf(path, sizeof path, "/proc/%d/stat", (int)test_find_wharfd(dir, true));
        for (int asleep = 0; asleep < 20; usleep(5000)) {
                int fd = open(path, O_RDONLY | O_CLOEXEC);
                ssize_t n = read(fd, stat, sizeof stat - 1);
                close(fd);
                CHECK(n > 0);
                stat[n] = 0;
                asleep = strstr(stat, ") S ") ? asleep + 1 : 0;
        }
        wharf_task_close(o);
        wharf_task_close(t);
}

/*
 * Goal:   a watcher that does not read harms nobody, and is told everything anew when it does.
 * Method: thousands of changes while it sleeps; wharfd serves; then it reads, and ends with the truth.
 */
TEST_TIMEOUT(a_watcher_that_does_not_read_is_told_anew, 60)
{
        test_domain();
        struct seen *s = calloc(1, sizeof *s);
        wharf_task *t = task(), *o = task();
        wharf_name w = port(t), p = port(o);
        CHECK_EQ(wharf_names_watch(t, "*", w), 0);
        SEE_UNTIL(s->whole);
        char name[32];
        for (int i = 0; i < 500; i++) {
                snprintf(name, sizeof name, "n.%d", i);
                CHECK_EQ(wharf_register(o, name, p), 0);
                CHECK_EQ(wharf_recv(o, p, NULL, 0, NULL, 0), -EAGAIN); /* lets the port see the new right */
        }
        for (int i = 0; i < 400; i++) {
                snprintf(name, sizeof name, "n.%d", i);
                CHECK_EQ(wharf_unregister(o, name), 0);
                CHECK_EQ(wharf_recv(o, p, NULL, 0, NULL, 0), -EAGAIN);
        }
        SEE_UNTIL(s->begins >= 2 && s->whole && s->n == 100);
        CHECK(has(s, "n.400") && has(s, "n.499"));
        CHECK(!see(t, w, s, wharf_in_ms(20)));
        CHECK_EQ(wharf_register(o, "after", p), 0);
        SEE_UNTIL(has(s, "after"));
        wharf_task_close(o);
        wharf_task_close(t);
        free(s);
}

/*
 * Goal:   a name waits until its owner's own watches were told, and for nobody else's: no other process, also of the same
 *         user, keeps it from being looked up.
 * Method: another process watches with a right to the very port, which is full of what it is told; then the owner does.
 */
enum { HELD_NAMES = 20 };
static void register_many(wharf_task *t, const char *prefix)
{
        wharf_name p = port(t);
        for (int i = 0; i < HELD_NAMES; i++) {
                char name[24];
                snprintf(name, sizeof name, "%s%d", prefix, i);
                CHECK_EQ(wharf_register(t, name, p), 0);
        }
}
static int watches_at_anothers_port(void *dir)
{
        struct wh_names_request req = {.op = WH_NAMES_WATCH, .cookie = {{test_random() | 1, 2}}};
        uint8_t buf[WH_NAMES_REQUEST_MAX], answer[512];
        wharf_task *t = task();
        wharf_name right, to_wharfd;
        CHECK_EQ(wharf_lookup(t, "held", WHARF_FOREVER, &right), 0);
        CHECK_EQ(wharf_send(t, right, "x", 1, WHARF_FOREVER), 0);
        CHECK_EQ(wh_domain_connect(t, dir, true, false, WH_NEVER, &to_wharfd), 0);
        struct wharf_item item = {.kind = WHARF_COPY_SEND, .name = right};
        struct wharf_msg m = {.size = sizeof m,
                              .data = buf,
                              .len_bytes = wh_names_put_request(&req, buf),
                              .items = &item,
                              .n_items = 1};
        struct wharf_msg r = {.size = sizeof r, .data = answer, .cap_bytes = sizeof answer};
        int err = -1;
        uint32_t line;
        CHECK_EQ(wharf_callmsg(t, to_wharfd, &m, &r, WHARF_FOREVER), 0);
        CHECK_EQ(wh_names_get_reply(answer, r.len_bytes, WH_NAMES_WATCH, &err, &line), 0);
        CHECK_EQ(err, 0);
        CHECK_EQ(wharf_send(t, right, "last", 4, WHARF_FOREVER), 0); /* its port knows of the watch when it has this */
        register_many(t, "n.");
        CHECK_EQ(wharf_lookup(t, "held", 0, &right), 0);
        wharf_task_close(t);
        return 0;
}
TEST(a_watch_that_is_behind_holds_back_the_names_of_its_own_process_alone)
{
        const char *dir = test_domain();
        wharf_task *t = task(), *other = task();
        wharf_name p, right;
        struct wharf_port_opts few = {.size = sizeof few, .flags = WHARF_PORT_STAYS, .capacity_records = 4};
        char buf[512];
        ssize_t n = 0;
        CHECK_EQ(wharf_port_new(t, &few, &p), 0);
        CHECK_EQ(wharf_register(t, "held", p), 0);
        pid_t pid = test_fork(watches_at_anothers_port, (char *)(uintptr_t)dir);
        while (n != 4 || memcmp(buf, "last", 4) != 0) /* the others are what is told there */
                CHECK_GE(n = wharf_recv(t, p, buf, sizeof buf, NULL, WHARF_FOREVER), 1);
        CHECK_EQ(test_wait(pid), 0);

        register_many(t, "m.");
        CHECK_EQ(wharf_names_watch(t, "", p), 0);
        CHECK_EQ(wharf_lookup(other, "held", 0, &right), -EAGAIN);
        struct wharf_name_event ev = {.what = WHARF_NAMES_BEGIN};
        while (ev.what != WHARF_NAMES_END) {
                struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
                CHECK_EQ(wharf_recvmsg(t, p, &m, WHARF_FOREVER), 0);
                wharf_names_event(t, &m, &ev); /* of the other one's watch none is an event */
        }
        CHECK_EQ(wharf_lookup(other, "held", 0, &right), 0);
        wharf_task_close(other);
        wharf_task_close(t);
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
}

/* ---- a flood ---- */

static int honest(void *arg)
{
        become(1001, 1001, 0);
        wharf_task *t = task();
        wharf_name right;
        CHECK_EQ(wharf_lookup(t, "here", 0, &right), 0);
        CHECK_EQ(wharf_register(t, "his", port(t)), 0);
        wharf_task_close(t);
        return 0;
}
static int flood(void *arg)
{
        int *go = arg, refused = 0, got = 0;
        become(1000, 1000, 0);
        signal(SIGPIPE, SIG_IGN);
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        CHECK_EQ(wh_domain_socket_path(getenv("WHARF_DOMAIN"), a.sun_path), 0);
        static int fds[1000];
        for (int i = 0; i < 1000; i++) {
                fds[i] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
                CHECK(fds[i] >= 0);
                while (connect(fds[i], (struct sockaddr *)&a, sizeof a) < 0)
                        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        }
        /* The first frame on each is a greeting, or a refusal. */
        for (int i = 0; i < 1000; i++) {
                struct {
                        uint32_t magic;
                        uint16_t version;
                        uint8_t type, n_fds;
                        uint64_t seq, total;
                        uint32_t id, call, arg, len;
                        char more[64];
                } f;
                CHECK(recv(fds[i], &f, sizeof f, 0) >= 40);
                refused += f.type == 8 && f.arg == EDQUOT;
                got += f.type == 1;
        }
        CHECK_EQ(refused + got, 1000);
        CHECK(got >= 50 && got <= 101);
        wharf_task *t = task(); /* and in the library's words */
        wharf_name right;
        CHECK_EQ(wharf_lookup(t, "here", 0, &right), -EDQUOT);
        CHECK(*wharf_why());
        go[0] = 1;
        while (!go[1])
                nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        for (int i = 0; i < 1000; i++)
                close(fds[i]);
        /* Its share of names and of waiting look-ups, too. */
        wharf_name p = port(t);
        int r = 0, names = 0;
        for (char name[32]; r == 0 && names < 1000; names += r == 0) {
                snprintf(name, sizeof name, "f.%d", names);
                do
                        r = wharf_register(t, name, p);
                while (r == -EDQUOT && names == 0); /* until wharfd has seen that those connections are gone */
                wharf_recv(t, p, NULL, 0, NULL, 0);
        }
        CHECK_EQ(r, -EDQUOT);
        CHECK(names >= 20 && names <= 60);
        wharf_task_close(t);
        return 0;
}
TEST_TIMEOUT(a_flood_of_one_user_leaves_others_served, 60)
{
        if (geteuid())
                test_skip("other users need root");
        const char *dir = test_domain();
        const char *conf = test_rules("own * all\nlimit connections 200\nlimit names 120\n");
        struct rlimit l;
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &l), 0);
        l.rlim_cur = l.rlim_max;
        setrlimit(RLIMIT_NOFILE, &l);
        CHECK_EQ(test_run_wharfd(
                         (const char *[]){"--domain", dir, "--share", "--config", conf, "--linger", "forever", NULL}),
                 0);
        wharf_task *t = task();
        CHECK_EQ(wharf_register(t, "here", port(t)), 0);
        int *go = test_shared(2 * sizeof *go);
        pid_t f = test_fork(flood, go);
        siginfo_t si = {.si_pid = 0};
        UNTIL(*(volatile int *)go || waitid(P_PID, (id_t)f, &si, WEXITED | WNOHANG | WNOWAIT) < 0 || si.si_pid);
        CHECK_EQ(si.si_pid, 0);
        for (int i = 0; i < 10; i++)
                CHECK_EQ(test_wait(test_fork(honest, NULL)), 0);
        go[1] = 1;
        CHECK_EQ(test_wait(f), 0);
        wharf_task_close(t);
        test_stop_wharfd(dir);
}

/*
 * Goal:   connections of those who have hung up since take nobody's place.
 * Method: a server that is stopped while as many come and go as its user may have; then one that stays.
 */
static int registers_itself(void *arg)
{
        (void)arg;
        char name[32];
        wharf_task *t = task();
        snprintf(name, sizeof name, "p%d", (int)getpid());
        CHECK_EQ(wharf_register(t, name, port(t)), 0);
        wharf_task_close(t);
        return 0;
}
TEST(connections_of_the_dead_take_nobodys_place)
{
        enum { LIMIT = 32, ASKS = 4 };
        const char *dir = test_domain();
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        snprintf(sa.sun_path, sizeof sa.sun_path, "%s/bootstrap", dir);
        const char *conf = test_rules("own * all\nlimit connections 32\n");
        CHECK_EQ(test_run_wharfd((const char *[]){"--domain", dir, "--config", conf, "--linger", "forever", NULL}), 0);
        pid_t server, asks[ASKS];
        UNTIL((server = test_find_wharfd(dir, true)));
        for (int round = 0; round < 3; round++) {
                CHECK_EQ(kill(server, SIGSTOP), 0);
                for (int i = 0; i < 3 * LIMIT; i++) {
                        int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
                        CHECK_EQ(connect(sock, (struct sockaddr *)&sa, sizeof sa), 0);
                        close(sock);
                }
                for (int i = 0; i < ASKS; i++)
                        asks[i] = test_fork(registers_itself, NULL);
                for (int i = 0; i < 3 * LIMIT; i++) {
                        int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
                        CHECK_EQ(connect(sock, (struct sockaddr *)&sa, sizeof sa), 0);
                        close(sock);
                }
                CHECK_EQ(kill(server, SIGCONT), 0);
                for (int i = 0; i < ASKS; i++)
                        CHECK_EQ(test_wait(asks[i]), 0);
        }
        test_stop_wharfd(dir);
}

/* ---- containers ---- */

/* Namespaces of its own, in which nothing of the outside is to be seen but the domain's directory. */
static void enter_container(const char *dir, uid_t user)
{
        if (user) {
                char map[64];
                become(user, user, 0);
                CHECK_EQ(unshare(CLONE_NEWUSER), 0);
                write_file("/proc/self/setgroups", "deny");
                snprintf(map, sizeof map, "0 %u 1", user);
                write_file("/proc/self/uid_map", map);
                write_file("/proc/self/gid_map", map);
        }
        CHECK_EQ(unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID), 0);
        CHECK_EQ(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
        CHECK_EQ(mount("none", "/mnt", "tmpfs", 0, "mode=755"), 0);
        CHECK_EQ(mkdir("/mnt/wharf", 0755), 0);
        CHECK_EQ(mount(dir, "/mnt/wharf", NULL, MS_BIND | MS_REC, NULL), 0);
        CHECK_EQ(mount("none", "/tmp", "tmpfs", 0, NULL), 0);
        CHECK_EQ(mount("none", "/dev/shm", "tmpfs", 0, NULL), 0);
        CHECK(access(dir, F_OK) < 0);
        setenv("WHARF_DOMAIN", "/mnt/wharf", 1);
}
enum { CONTAINER_MESSAGES = 100000 };
struct container {
        const char *dir;
        uid_t user;        /* 0: in the user namespace of all */
        _Atomic int *said; /* [0] messages inline, [1] pid and [2] uid of the client as the server sees them */
};
static int container_server(void *arg)
{
        struct container *c = arg;
        wharf_task *t = task();
        wharf_name p = port(t);
        int r = wharf_register(t, "service", p);
        if (r < 0)
                test_fail(__FILE__, __LINE__, "%d: %s", r, wharf_why());
        uint64_t next = 0;
        while (next < CONTAINER_MESSAGES) {
                uint64_t v;
                struct wharf_msg m = {.size = sizeof m, .data = &v, .cap_bytes = sizeof v};
                CHECK_EQ(wharf_recvmsg(t, p, &m, WHARF_FOREVER), 0);
                CHECK(v == next);
                next++;
                c->said[0] += m.how == WHARF_HOW_INLINE;
                c->said[1] = m.sender.pid;
                c->said[2] = (int)m.sender.uid;
                if (next == CONTAINER_MESSAGES) {
                        int fd, e = wharf_sender_pidfd(t, m.sender.id, &fd);
                        CHECK(e == 0 || e == -ESRCH || e == -EINVAL || e == -ENOENT);
                        if (e == 0)
                                close(fd);
                        CHECK_EQ(wharf_reply(t, m.reply, "done", 4), 0);
                }
        }
        wharf_task_close(t);
        return 0;
}
static int container_client(void *arg)
{
        wharf_task *t = task();
        wharf_name right;
        int r = wharf_lookup(t, "service", WHARF_FOREVER, &right);
        if (r < 0)
                test_fail(__FILE__, __LINE__, "%d: %s", r, wharf_why());
        for (uint64_t i = 0; i + 1 < CONTAINER_MESSAGES; i++)
                CHECK_EQ(wharf_send(t, right, &i, sizeof i, WHARF_FOREVER), 0);
        struct wharf_right_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_right_stat(t, right, &st), 0);
        CHECK_EQ(st.attached, 1); /* shared memory, as between any two processes */
        uint64_t last = CONTAINER_MESSAGES - 1;
        char buf[8];
        CHECK_EQ(wharf_call(t, right, &last, sizeof last, buf, sizeof buf, WHARF_FOREVER), 4);
        wharf_task_close(t);
        return 0;
}
/* Runs `fn` as process 1 of a container. */
static int in_container(struct container *c, int (*fn)(void *))
{
        enter_container(c->dir, c->user);
        return test_wait(test_fork(fn, c));
}
static int server_container(void *c)
{
        return in_container(c, container_server);
}
static int client_container(void *c)
{
        return in_container(c, container_client);
}
static void two_containers(bool user)
{
        if (geteuid())
                test_skip("namespaces need root");
        const char *dir = test_domain();
        pid_t probe = fork();
        if (probe == 0)
                _exit(unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | (user ? CLONE_NEWUSER : 0)) < 0 ||
                      mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0); /* in a chroot that is no mount */
        if (test_wait(probe))
                test_skip("namespaces are forbidden here");
        test_share_wharfd(dir, "own * all\n");
        struct container a = {.dir = dir, .said = test_shared(3 * sizeof(int))}, b = a;
        a.user = user ? 1000 : 0;
        b.user = user ? 1001 : 0;
        pid_t server = test_fork(server_container, &a), client = test_fork(client_container, &b);
        CHECK_EQ(test_wait(client), 0);
        CHECK_EQ(test_wait(server), 0);
        CHECK(a.said[0] >= CONTAINER_MESSAGES - 20); /* but for the first ones, which are cold */
        CHECK_EQ(a.said[1], 0);                      /* processes of another container have no number here */
        if (user)
                CHECK(a.said[2] == 65534 || a.said[2] == -1); /* nor have its users a name */
        else
                CHECK_EQ(a.said[2], 0);
        test_stop_wharfd(dir);
}
TEST_TIMEOUT(two_containers_that_share_the_domains_directory_talk_in_shared_memory, 60)
{
        two_containers(false);
}
TEST_TIMEOUT(containers_with_users_of_their_own_talk_as_well, 60)
{
        two_containers(true);
}

/* ---- what it gives up ---- */

/* A line of /proc/PID/status, as far as its number in that base. */
static unsigned long long status_of(pid_t pid, const char *key, int base)
{
        char path[40], line[256];
        unsigned long long v = 77;
        test_need_proc();
        snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
        FILE *f = fopen(path, "re");
        CHECK(f);
        while (fgets(line, sizeof line, f))
                if (!strncmp(line, key, strlen(key)) && line[strlen(key)] == ':')
                        v = strtoull(line + strlen(key) + 1, NULL, base);
        fclose(f);
        return v;
}
/*
 * Goal:   wharfd's server has no privilege, and makes no other system call than it lists.
 * Method: one that would be killed by another call serves everything it can be asked for, with its own death and its
 *         place's in between.
 */
TEST(a_server_gives_up_what_it_does_not_need)
{
        const char *dir = test_domain();
        struct stat st;
        const char *conf = test_rules("own * all\nsee hidden. none\n");
        CHECK_EQ(test_run_wharfd((const char *[]){"--domain", dir, "--config", conf, "--confine", "kill", NULL}), 0);
        wharf_task *t = task(), *other = task();
        wharf_name p = port(t), w = port(other), right;
        struct wharf_wait *waits;
        size_t n;
        char c, path[320];
        path_in(path, dir, "bootstrap");
        CHECK_EQ(wharf_register(t, "x", p), 0);
        CHECK_EQ(wharf_names_watch(other, "*", w), 0);
        for (int i = 0; i < 3; i++) {
                struct wh_names_state is;
                pid_t d = 0;
                CHECK_EQ(wharf_lookup(other, "x", wharf_in_ms(20000), &right), 0);
                CHECK_EQ(wharf_send(other, right, "m", 1, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_recv(t, p, &c, 1, NULL, WHARF_FOREVER), 1);
                CHECK_EQ(wharf_drop(other, right), 0);
                CHECK_EQ(many_listed(other), 1);
                CHECK_EQ(wharf_waits_list(other, &waits, &n), 0);
                free(waits);
                CHECK_EQ(wharf_register(other, "y", w), 0);
                CHECK_EQ(wharf_unregister(other, "y"), 0);
                CHECK_EQ(wh_names_state(other, &is), 0);
                CHECK_EQ(is.confined & WH_CONFINED_PRIVILEGES, WH_CONFINED_PRIVILEGES);
                UNTIL((d = test_find_wharfd(dir, true)));
                CHECK_EQ(status_of(d, "NoNewPrivs", 10), 1);
                CHECK_EQ(status_of(d, "CapPrm", 16), 0);
                CHECK_EQ(status_of(test_find_wharfd(dir, false), "CapPrm", 16), 0);
                if (is.confined & WH_CONFINED_CALLS)
                        CHECK_EQ(status_of(d, "Seccomp", 10), 2);
                CHECK_EQ(kill(d, SIGHUP), 0);
                CHECK_EQ(many_listed(other), 1);
                CHECK_EQ(is.deaths, i == 0 ? 0 : 1); /* and none of a call that it does not list */
                if (i == 0) {
                        slay(d);
                } else if (i == 1) {
                        CHECK_EQ(stat(path, &st), 0);
                        remove_domain(dir);
                        await_socket(dir, &st);
                }
        }
        wharf_task_close(t);
        wharf_task_close(other);
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
        CHECK(access(path, F_OK) < 0); /* it has left */
}

TEST(the_calls_of_wharfd_are_those_of_the_page)
{
        if (TEST_ASAN || TEST_TSAN)
                test_skip("a sanitizer makes system calls of its own, which are let through then");
        char line[1024], listed[4096] = " ", word[64];
        FILE *f = fopen(SANDBOX_MD, "re");
        CHECK(f);
        while (fgets(line, sizeof line, f))
                if (!strncmp(line, "    wharfd: ", 12)) {
                        line[strcspn(line, "\n")] = ' ';
                        CHECK(strlen(listed) + strlen(line) < sizeof listed);
                        strcat(listed, line + 12);
                }
        fclose(f);
        size_t n = 0, words = 0;
        const char *call, *before = "";
        for (size_t i = 0; (call = wh_confine_call(i)); before = call, i++) {
                snprintf(word, sizeof word, " %s ", call);
                if (!strstr(listed, word))
                        test_fail(__FILE__, __LINE__, "%s does not list %s", SANDBOX_MD, call);
                n += strcmp(call, before) != 0;
        }
        for (const char *at = listed + 1; *at; at++)
                words += *at == ' ';
#ifdef __x86_64__
        CHECK_EQ(words, n);
#endif
}

/*
 * Goal:   whoever makes /tmp/wharf-UID first does not lock that user out of its names.
 * Method: a user that nobody is, whose directory is root's: two processes of its own meet in another one.
 */
enum { SQUATTED = 61000 };
static int squatted(void *arg)
{
        uid_t uid = SQUATTED + (uid_t)getppid() % 4000;
        const bool *first = arg;
        char want[64];
        become(uid, uid, 0);
        unsetenv("WHARF_DOMAIN");
        unsetenv("XDG_RUNTIME_DIR");
        snprintf(want, sizeof want, "/tmp/wharf-%u.2", (unsigned)uid);
        CHECK_STR(wharf_domain_path(), want);
        wharf_task *t = task();
        wharf_name p = port(t), right;
        char c;
        if (*first) {
                int r = wharf_register(t, "x", p);
                if (r < 0)
                        test_fail(__FILE__, __LINE__, "%d: %s", r, wharf_why());
                CHECK_EQ(wharf_recv(t, p, &c, 1, NULL, WHARF_FOREVER), 1);
        } else {
                CHECK_EQ(wharf_lookup(t, "x", WHARF_FOREVER, &right), 0);
                CHECK_EQ(wharf_send(t, right, "m", 1, WHARF_FOREVER), 0);
        }
        wharf_task_close(t);
        return 0;
}
static void squat(bool of_ours)
{
        if (geteuid())
                test_skip("other users need root");
        uid_t uid = SQUATTED + (uid_t)getpid() % 4000;
        char dir[64], path[96];
        bool first = true, second = false;
        test_domain();
        test_wharfd_for_all();
        for (int i = 0; i < 2; i++) { /* the one that everybody expects, and the next one */
                snprintf(dir, sizeof dir, i ? "/tmp/wharf-%u.1" : "/tmp/wharf-%u", (unsigned)uid);
                CHECK_EQ(of_ours && i == 0 ? mknod(dir, S_IFREG | 0666, 0) : mkdir(dir, 0700), 0);
        }
        snprintf(dir, sizeof dir, "/tmp/wharf-%u", (unsigned)uid);
        if (of_ours) /* as a link to some file of that user, which anybody can make who may write to it */
                CHECK_EQ(chown(dir, uid, uid), 0);
        pid_t a = test_fork(squatted, &first), b = test_fork(squatted, &second);
        CHECK_EQ(test_wait(b), 0);
        CHECK_EQ(test_wait(a), 0);
        snprintf(dir, sizeof dir, "/tmp/wharf-%u.2", (unsigned)uid);
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
        snprintf(path, sizeof path, "%s/lock", dir);
        CHECK_EQ(unlink(path), 0);
        for (int i = 0; i < 3; i++) {
                snprintf(dir, sizeof dir, i ? "/tmp/wharf-%u.%d" : "/tmp/wharf-%u", (unsigned)uid, i);
                CHECK_EQ(of_ours && i == 0 ? unlink(dir) : rmdir(dir), 0);
        }
}
TEST(a_squatted_directory_in_tmp_locks_nobody_out)
{
        squat(false);
}
TEST(a_link_to_a_file_of_ours_in_tmp_locks_us_not_out)
{
        squat(true);
}

/*
 * Goal:   watches that end unread are their user's until what they have told was read, so that nobody fills the kernel's limit of
 *         what is on its way.
 * Method: watched and given back again and again, at a port that is not read; then it is.
 */
TEST(a_watch_is_its_users_until_it_was_read)
{
        enum { MOST = 8, ROUNDS = 40 };
        const char *dir = test_domain();
        const char *conf = test_rules("own * all\nlimit watches 8\n");
        CHECK_EQ(test_run_wharfd((const char *[]){"--domain", dir, "--config", conf, "--linger", "forever", NULL}), 0);
        wharf_task *t = task();
        wharf_name p = port(t);
        char c;
        int r = 0, i = 0;
        for (; i < ROUNDS && (r = wharf_names_watch(t, "", p)) == 0; i++)
                CHECK_EQ(wharf_names_unwatch(t, "", p), 0);
        CHECK_EQ(r, -EDQUOT);
        CHECK_EQ(i, MOST);
        while ((r = (int)wharf_recv(t, p, &c, 1, NULL, 0)) == -EOVERFLOW || r >= 0) {
                struct wharf_msg m = {.size = sizeof m, .flags = WHARF_RECV_DROP_UNFIT | WHARF_RECV_NO_ITEMS};
                wharf_recvmsg(t, p, &m, 0);
        }
        for (i = 0; i < 1000 && (r = wharf_names_watch(t, "", p)) == -EDQUOT; i++)
                usleep(1000);
        CHECK_EQ(r, 0);
        wharf_task_close(t);
        test_stop_wharfd(dir);
}

/* A port of capacity zero takes no events, since what it is offered it may refuse: who watches there is told. */
TEST(a_port_of_capacity_zero_watches_no_names)
{
        const char *dir = test_domain();
        CHECK_EQ(test_run_wharfd((const char *[]){"--domain", dir, "--linger", "forever", NULL}), 0);
        wharf_task *t = task();
        wharf_name p;
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS, .capacity_records = WHARF_RENDEZVOUS};
        CHECK_EQ(wharf_port_new(t, &o, &p), 0);
        CHECK_EQ(wharf_names_watch(t, "", p), -EINVAL);
        CHECK(strstr(wharf_why(), "capacity"));
        wharf_task_close(t);
        test_stop_wharfd(dir);
}
