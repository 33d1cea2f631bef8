/*
 * Names: real tasks, a real wharfd, in a domain of the test's own.
 */
#include "os/closer.h"
#include "by_hand.h"
#include "domain.h"
#include "os/os.h"
#include "names/domain.h"
#include "names/proto.h"
#include "link/frame.h"
#include "message/items.h"
#include "link/link.h"
#include "test.h"
#include "wharf/wharf.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

static pid_t wharfd_pid(const char *dir)
{
        return test_find_wharfd(dir, true);
}

static bool exists(const char *dir, const char *file)
{
        char path[300];
        snprintf(path, sizeof path, "%s/%s", dir, file);
        return access(path, F_OK) == 0;
}

static int descriptors(void)
{
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
        return test_descriptors_of(getpid());
}

/* A socket where the domain's server would listen. */
static int in_wharfds_place(const char *dir)
{
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        CHECK_EQ(wh_domain_socket_path(dir, a.sun_path), 0);
        int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        unlink(a.sun_path);
        CHECK_EQ(bind(s, (struct sockaddr *)&a, sizeof a), 0);
        CHECK_EQ(listen(s, 4), 0);
        return s;
}

/* A server in another process: answers each request with the request. Runs until it is killed. */
static int echo_server(void *name)
{
        wharf_task *t = task();
        wharf_name p = port(t);
        CHECK_EQ(wharf_register(t, name, p), 0);
        for (;;) {
                char buf[64];
                struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
                CHECK_EQ(wharf_recvmsg(t, p, &m, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_reply(t, m.reply, buf, m.len_bytes), 0);
        }
}

/*
 * Goal:   a client finds a server by name and talks to it; when the server is killed, its name is gone at once.
 * Method: a server in a process of its own; kill -9 between two look-ups. The death is the kernel's, so there is
 * nothing to wait for: wharfd asks the right itself.
 */
TEST(name_lives_as_long_as_its_owner)
{
        test_domain();
        pid_t server = test_fork(echo_server, (char *)"echo");
        wharf_task *t = task();
        wharf_name right, other;
        char buf[8];
        CHECK_EQ(wharf_lookup(t, "echo", WHARF_FOREVER, &right), 0);
        CHECK_EQ(wharf_call(t, right, "hello", 5, buf, sizeof buf, WHARF_FOREVER), 5);
        CHECK_MEM(buf, "hello", 5);

        struct wharf_named *all;
        size_t n;
        CHECK_EQ(wharf_names_list(t, &all, &n), 0);
        CHECK_EQ(n, 1);
        CHECK_STR(all[0].name, "echo");
        CHECK_EQ(all[0].pid, server);
        CHECK_EQ(all[0].uid, getuid());
        CHECK_EQ(all[0].received_messages, 1);
        free(all);

        CHECK_EQ(kill(server, SIGKILL), 0);
        CHECK_EQ(test_wait(server), 128 + SIGKILL);
        CHECK_EQ(wharf_lookup(t, "echo", 0, &other), -ENOENT);
        CHECK_EQ(wharf_call(t, right, "hello", 5, buf, sizeof buf, WHARF_FOREVER), -EPIPE);
        CHECK_EQ(wharf_names_list(t, &all, &n), 0);
        CHECK_EQ(n, 0);
        free(all);
        wharf_task_close(t);
}

TEST(name_has_one_owner)
{
        test_domain();
        wharf_task *a = task(), *b = task();
        wharf_name pa = port(a), pb = port(b), right;
        CHECK_EQ(wharf_register(a, "x", pa), 0);
        CHECK_EQ(wharf_register(b, "x", pb), -EEXIST);
        CHECK_EQ(wharf_register(a, "x", pa), -EEXIST);
        CHECK_EQ(wharf_unregister(b, "x"), -ENOENT);
        CHECK_EQ(wharf_lookup(b, "x", 0, &right), 0);
        CHECK_EQ(wharf_unregister(a, "x"), 0);
        CHECK_EQ(wharf_unregister(a, "x"), -ENOENT);
        CHECK_EQ(wharf_register(b, "x", pb), 0);
        /* A right that was looked up before goes on working. */
        char c;
        CHECK_EQ(wharf_send(b, right, "m", 1, 0), 0);
        CHECK_EQ(wharf_recv(a, pa, &c, 1, NULL, WHARF_FOREVER), 1);
        /* Closing the port is enough; nobody has to unregister. */
        CHECK_EQ(wharf_drop(b, pb), 0);
        CHECK_EQ(wharf_register(a, "x", pa), 0);
        wharf_task_close(a);
        wharf_task_close(b);
}

/* A name leads to its port, wherever that is: the registration holds a right like any other. */
TEST(name_of_a_port_that_moved_leads_to_its_new_owner)
{
        test_domain();
        wharf_task *a = task(), *b = task();
        wharf_name p = port(a), mailbox = port(b), to, right;
        CHECK_EQ(wharf_register(a, "moves", p), 0);
        CHECK_EQ(wharf_register(b, "mailbox", mailbox), 0);
        CHECK_EQ(wharf_lookup(a, "mailbox", 0, &to), 0);
        struct wharf_item it = {.kind = WHARF_MOVE_RECEIVE, .name = p};
        struct wharf_msg m = {.size = sizeof m, .items = &it, .n_items = 1};
        CHECK_EQ(wharf_sendmsg(a, to, &m, WHARF_FOREVER), 0);
        m = (struct wharf_msg){.size = sizeof m, .items = &it, .cap_items = 1};
        CHECK_EQ(wharf_recvmsg(b, mailbox, &m, WHARF_FOREVER), 0);
        CHECK_EQ(it.kind, WHARF_GOT_RECEIVE);
        for (int i = 0; i < 2; i++) { /* looked up by anybody, as often as anybody likes */
                char c;
                CHECK_EQ(wharf_lookup(i ? a : b, "moves", 0, &right), 0);
                CHECK_EQ(wharf_send(i ? a : b, right, "m", 1, 0), 0);
                CHECK_EQ(wharf_recv(b, it.name, &c, 1, NULL, WHARF_FOREVER), 1);
        }
        wharf_task_close(a); /* who registered it need not live on */
        CHECK_EQ(wharf_lookup(b, "moves", 0, &right), 0);
        CHECK_EQ(wharf_drop(b, it.name), 0);
        CHECK_EQ(wharf_lookup(b, "moves", 0, &right), -ENOENT);
        wharf_task_close(b);
}

/* As many may send as the port says, the first of them too: the directory is none, and may introduce them all. */
TEST(links_max_of_a_registered_port_is_in_senders)
{
        test_domain();
        wharf_task *a = task(), *b = task();
        for (uint32_t max = 1; max <= 5; max++) {
                struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS, .links_max = max};
                wharf_name p, right[5];
                char name[8], c;
                CHECK_EQ(wharf_port_new(a, &o, &p), 0);
                snprintf(name, sizeof name, "few%u", max);
                CHECK_EQ(wharf_register(a, name, p), 0);
                for (uint32_t round = 0; round < 3; round++) {
                        for (uint32_t i = 0; i < max; i++) {
                                CHECK_EQ(wharf_lookup(b, name, 0, &right[i]), 0);
                                CHECK_EQ(wharf_send(b, right[i], "m", 1, 0), 0);
                                CHECK_EQ(wharf_recv(a, p, &c, 1, NULL, wharf_in_ms(10000)), 1);
                        }
                        for (uint32_t i = 0; i < max; i++)
                                CHECK_EQ(wharf_send(b, right[i], "m", 1, 0), 0);
                        for (uint32_t i = 0; i < max; i++)
                                CHECK_EQ(wharf_recv(a, p, &c, 1, NULL, wharf_in_ms(10000)), 1);
                        for (uint32_t i = 0; i < max; i++)
                                CHECK_EQ(wharf_drop(b, right[i]), 0);
                        CHECK_EQ(wharf_recv(a, p, &c, 1, NULL, 0), -EAGAIN);
                }
        }
        wharf_task_close(a);
        wharf_task_close(b);
}

TEST(name_arguments)
{
        const char *dir = test_domain();
        wharf_task *t = task();
        wharf_name p = port(t), right = 77;
        char longest[WHARF_NAME_MAX + 2];
        memset(longest, 'n', sizeof longest - 1);
        longest[sizeof longest - 1] = 0;
        const char *bad[] = {"", "a b", "a\n", "caf\xc3\xa9", "a*", "a\\", longest};
        for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
                CHECK_EQ(wharf_register(t, bad[i], p), -EINVAL);
                CHECK(*wharf_why());
                CHECK_EQ(wharf_lookup(t, bad[i], 0, &right), -EINVAL);
                CHECK_EQ(wharf_unregister(t, bad[i]), -EINVAL);
        }
        CHECK_EQ(wharf_register(t, NULL, p), -EINVAL);
        CHECK(!exists(dir, ".")); /* nothing was started for that */
        longest[WHARF_NAME_MAX] = 0;
        CHECK_EQ(wharf_register(t, longest, p), 0);
        CHECK_EQ(wharf_register(t, "a/b.c_d-e:f@9", p), 0); /* a port may have several names */
        CHECK_EQ(wharf_lookup(t, longest, 0, &right), 0);
        CHECK_EQ(wharf_register(t, "r", right), -EPERM);
        CHECK_EQ(wharf_register(t, "r", WHARF_NONE), -EBADF);
        wharf_name none = 77;
        CHECK_EQ(wharf_lookup(t, "nobody", 0, &none), -ENOENT);
        CHECK_EQ(none, 77);
        int r;
        do /* on a busy machine wharfd may not have said so in time */
                r = wharf_lookup(t, "nobody", wharf_in_ms(30), &none);
        while (r == -ETIMEDOUT);
        CHECK_EQ(r, -ENOENT);
        CHECK_EQ(none, 77);
        wharf_task_close(t);
}

/*
 * Goal:   a look-up may come before the name.
 * Method: many threads wait on one task for names that appear one by one; each gets its own.
 */
enum { WAITERS = 8 };
static wharf_task *waiting_task;
static void *wait_for_name(void *arg)
{
        char name[16];
        wharf_name right;
        snprintf(name, sizeof name, "late-%d", (int)(intptr_t)arg);
        CHECK_EQ(wharf_lookup(waiting_task, name, WHARF_FOREVER, &right), 0);
        CHECK_EQ(wharf_send(waiting_task, right, name, strlen(name), WHARF_FOREVER), 0);
        return NULL;
}
TEST(lookup_waits)
{
        test_domain();
        waiting_task = task();
        wharf_task *t = task();
        pthread_t th[WAITERS];
        for (intptr_t i = 0; i < WAITERS; i++)
                CHECK_EQ(pthread_create(&th[i], NULL, wait_for_name, (void *)i), 0);
        for (int i = WAITERS; i-- > 0;) {
                char name[16], got[16] = "";
                snprintf(name, sizeof name, "late-%d", i);
                wharf_name p = port(t);
                CHECK_EQ(wharf_register(t, name, p), 0);
                CHECK_EQ(wharf_recv(t, p, got, sizeof got, NULL, WHARF_FOREVER), (ssize_t)strlen(name));
                CHECK_STR(got, name);
        }
        for (int i = 0; i < WAITERS; i++)
                pthread_join(th[i], NULL);
        wharf_task_close(waiting_task);
        wharf_task_close(t);
}

/*
 * Goal:   where wharfd and its keeper are killed, the next user starts others: rights go on working, names come back.
 * Method: kill -9 both, with a server that makes a call of names.h, and with one that only polls wharf_names_fd().
 */
TEST(wharfd_and_keeper_may_be_killed)
{
        const char *dir = test_domain();
        wharf_task *server = task(), *polling = task(), *client = task();
        wharf_name p = port(server), q = port(polling), right;
        int fd;
        CHECK_EQ(wharf_register(server, "by-call", p), 0);
        CHECK_EQ(wharf_register(polling, "by-poll", q), 0);
        CHECK_EQ(wharf_names_fd(polling, &fd), 0);
        CHECK_EQ(wharf_lookup(client, "by-poll", 0, &right), 0);
        CHECK_EQ(wharf_names_renew(polling), 0); /* nothing to do */
        for (int i = 0; i < 3; i++) {
                pid_t d = wharfd_pid(dir);
                CHECK(d > 0);
                /* With its keeper first, so that nobody knows any name. */
                CHECK_EQ(kill(test_find_wharfd(dir, false), SIGKILL), 0);
                CHECK(kill(d, SIGKILL) == 0 || errno == ESRCH);
                struct pollfd pf = {.fd = fd, .events = POLLIN};
                wharf_name again;
                int r;
                do { /* a descriptor may be readable for nothing: then the server's death is still under way */
                        CHECK_EQ(poll(&pf, 1, -1), 1);
                        CHECK_EQ(wharf_names_renew(polling), 0);
                        r = wharf_lookup(client, "by-poll", 0, &again);
                        CHECK(r == 0 || r == -ENOENT);
                } while (r < 0);
                CHECK_EQ(wharf_drop(client, again), 0);
                CHECK_EQ(wharf_lookup(server, "by-poll", 0, &again), 0); /* which makes "by-call" known again */
                CHECK_EQ(wharf_drop(server, again), 0);
                CHECK_EQ(wharf_lookup(client, "by-call", 0, &again), 0);
                CHECK_EQ(wharf_drop(client, again), 0);
                char c;
                CHECK_EQ(wharf_send(client, right, "m", 1, 0), 0);
                CHECK_EQ(wharf_recv(polling, q, &c, 1, NULL, WHARF_FOREVER), 1);
                CHECK_NE(wharfd_pid(dir), d);
        }
        wharf_task_close(server);
        wharf_task_close(polling);
        wharf_task_close(client);
}

/* Goal: a look-up that waits survives the wharfd it asked. */
TEST(lookup_waits_through_a_restart)
{
        const char *dir = test_domain();
        waiting_task = task();
        wharf_task *t = task();
        wharf_name p = port(t);
        CHECK_EQ(wharf_register(t, "here", p), 0);
        pthread_t th;
        CHECK_EQ(pthread_create(&th, NULL, wait_for_name, (void *)7), 0);
        struct wharf_named *all = NULL;
        size_t n = 0;
        CHECK_EQ(wharf_names_list(t, &all, &n), 0); /* whether the look-up is there yet or not, both must work */
        free(all);
        CHECK_EQ(kill(wharfd_pid(dir), SIGKILL), 0);
        char got[16] = "";
        wharf_name late = port(t);
        CHECK_EQ(wharf_register(t, "late-7", late), 0);
        CHECK_EQ(wharf_recv(t, late, got, sizeof got, NULL, WHARF_FOREVER), 6);
        CHECK_STR(got, "late-7");
        pthread_join(th, NULL);
        wharf_task_close(waiting_task);
        wharf_task_close(t);
}

static void *wait_in_vain(void *arg)
{
        wharf_name right;
        return (void *)(intptr_t)wharf_lookup(arg, "never", WHARF_FOREVER, &right);
}

/*
 * Goal:   a test that ends the wharfd of its domain does not end that of another one, which runs at the same time with
 *         a /tmp of its own: both are seen in /proc, where only the path of the domain tells them apart.
 * Method: this test, run once more by itself, says where its domain is.
 */
TEST(tests_that_run_at_one_time_have_domains_of_different_paths)
{
        const char *dir = test_domain(), *say = getenv("WHARF_TEST_SAY_DOMAIN");
        char self[512], fd[16], theirs[256] = "";
        int p[2];
        if (say) {
                CHECK_EQ(write(atoi(say), dir, strlen(dir)), strlen(dir));
                return;
        }
        ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
        if (n <= 0)
                test_skip("it needs /proc to run itself");
        self[n] = 0;
        CHECK_EQ(pipe(p), 0);
        snprintf(fd, sizeof fd, "%d", p[1]);
        pid_t pid = fork();
        if (pid == 0) {
                setenv("WHARF_TEST_SAY_DOMAIN", fd, 1);
                execl(self, self, "--only", "tests_that_run_at_one_time_have_domains_of_different_paths", NULL);
                _exit(99);
        }
        CHECK_EQ(test_wait(pid), 0);
        CHECK_GE(read(p[0], theirs, sizeof theirs - 1), 10);
        CHECK(strcmp(dir, theirs));
        close(p[0]);
        close(p[1]);
}

/* Anyone may register a name, so a look-up waits; but not for a wharfd that is dead and that none can follow. */
TEST(lookup_that_waits_ends_when_no_wharfd_can_be_started)
{
        if (TEST_TSAN)
                test_skip("it changes the environment while a thread may read it");
        const char *dir = test_domain();
        wharf_task *t = task(), *other = task();
        wharf_name p = port(other);
        void *result;
        pthread_t th;
        CHECK_EQ(wharf_register(other, "here", p), 0);
        CHECK_EQ(pthread_create(&th, NULL, wait_in_vain, t), 0);
        setenv("WHARFD", "/nowhere/wharfd", 1);
        CHECK_EQ(kill(test_find_wharfd(dir, false), SIGKILL), 0); /* the keeper, who would start another */
        CHECK_EQ(kill(wharfd_pid(dir), SIGKILL), 0);
        CHECK_EQ(pthread_join(th, &result), 0);
        CHECK_EQ((intptr_t)result, -EHOSTDOWN);
        wharf_task_close(other);
        wharf_task_close(t);
}

/*
 * Goal:   wharfd leaves when nobody needs it, and leaves nothing but the lock behind.
 */
TEST(wharfd_leaves)
{
        const char *dir = test_domain();
        wharf_task *t = task();
        wharf_name p = port(t);
        CHECK_EQ(wharf_register(t, "x", p), 0);
        CHECK(exists(dir, "bootstrap"));
        pid_t d = wharfd_pid(dir);
        CHECK(d > 0);
        wharf_task_close(t);
        UNTIL(wharfd_pid(dir) == 0 && test_find_wharfd(dir, false) == 0);
        CHECK(!exists(dir, "bootstrap"));
        CHECK(exists(dir, "lock"));
}

/*
 * Goal:   a hundred tasks that need a name at the same moment start one wharfd.
 * Method: each registers a name of its own; whoever is not on the one wharfd is missing from its list.
 */
enum { RACERS = 100 };
static int racer(void *arg)
{
        _Atomic int *go = arg;
        wharf_task *t = task();
        wharf_name p = port(t);
        char name[32];
        snprintf(name, sizeof name, "racer-%d", (int)getpid());
        __atomic_add_fetch((int *)&go[1], 1, __ATOMIC_SEQ_CST);
        while (!*go)
                nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        CHECK_EQ(wharf_register(t, name, p), 0);
        pause();
        return 0;
}
TEST_TIMEOUT(many_start_one_wharfd, 60)
{
        test_domain();
        _Atomic int *go = test_shared(sizeof(int) * 2);
        pid_t pids[RACERS];
        for (int i = 0; i < RACERS; i++)
                pids[i] = test_fork(racer, (void *)go);
        UNTIL(go[1] == RACERS);
        *go = 1;
        wharf_task *t = task();
        struct wharf_named *all;
        size_t n;
        for (;;) {
                CHECK_EQ(wharf_names_list(t, &all, &n), 0);
                free(all);
                if (n == RACERS)
                        break;
                nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        }
        for (int i = 0; i < RACERS; i++)
                kill(pids[i], SIGKILL);
        for (int i = 0; i < RACERS; i++)
                CHECK_EQ(test_wait(pids[i]), 128 + SIGKILL);
        CHECK_EQ(wharf_names_list(t, &all, &n), 0);
        CHECK_EQ(n, 0);
        free(all);
        wharf_task_close(t);
}

/* Goal: what a dead wharfd leaves is cleaned up by the next user: its socket refuses, under the lock it is replaced. */
TEST(stale_socket_is_replaced)
{
        const char *dir = test_domain();
        CHECK_EQ(mkdir(dir, 0700), 0);
        close(in_wharfds_place(dir));
        wharf_task *t = task();
        wharf_name p = port(t);
        CHECK_EQ(wharf_register(t, "x", p), 0);
        wharf_task_close(t);
}

/* In wharfd's place: says to whoever comes what no version of wharf would. */
static int babbler(void *listener)
{
        for (;;) {
                int s = accept(*(int *)listener, NULL, NULL);
                CHECK(s >= 0);
                send(s, "who is there?", 13, MSG_NOSIGNAL);
        }
}

/* wharfd and its keeper are killed, and this listens there. */
static pid_t takes_the_place(const char *dir, int (*fn)(void *listener))
{
        const pid_t server = wharfd_pid(dir);
        CHECK_EQ(kill(test_find_wharfd(dir, false), SIGKILL), 0);
        CHECK_EQ(kill(server, SIGKILL), 0);
        int s = in_wharfds_place(dir);
        pid_t other = test_fork(fn, &s);
        close(s);
        return other;
}

/*
 * Goal:   a task with names that has met something in wharfd's place, and broken that link, goes on with the next
 *         wharfd as if nothing had been.
 * Method: wharfd and its keeper are killed, and something else listens there for a while.
 */
TEST(a_link_to_wharfd_that_broke_is_made_anew)
{
        const char *dir = test_domain();
        wharf_task *t = task();
        wharf_name right;
        CHECK_EQ(wharf_register(t, "x", port(t)), 0);
        pid_t other = takes_the_place(dir, babbler);
        int r;
        do /* the death of the old one may still be under way */
                r = wharf_lookup(t, "x", 0, &right);
        while (r == 0 && wharf_drop(t, right) == 0);
        CHECK_EQ(r, -EHOSTDOWN);
        CHECK_EQ(kill(other, SIGKILL), 0);
        CHECK_EQ(test_wait(other), 128 + SIGKILL);
        CHECK_EQ(wharf_lookup(t, "x", 0, &right), 0);
        CHECK_EQ(wharf_unregister(t, "x"), 0);
        wharf_task_close(t);
}

/* In wharfd's place: answers everything, but what, and with a descriptor and a right that nobody asked for. */
static int giver(void *listener)
{
        wharf_task *t = task();
        wharf_name p = port(t);
        CHECK_EQ(wharf_port_listen(t, p, *(int *)listener), 0);
        for (unsigned i = 0;; i++) {
                uint8_t buf[WH_NAMES_REQUEST_MAX];
                struct wharf_item got[WHARF_ITEMS_MAX];
                struct wharf_msg m = {.size = sizeof m,
                                      .data = buf,
                                      .cap_bytes = sizeof buf,
                                      .items = got,
                                      .cap_items = WHARF_ITEMS_MAX};
                CHECK_EQ(wharf_recvmsg(t, p, &m, WHARF_FOREVER), 0);
                for (uint32_t k = 0; k < m.n_items; k++)
                        if (got[k].kind == WHARF_GOT_FD)
                                close(got[k].fd);
                struct wh_names_reply_head h = {.magic = WH_NAMES_MAGIC + i % 3,
                                                .version = WH_NAMES_VERSION + i / 3 % 2,
                                                .op = (uint16_t)(1 + i % WH_NAMES_OPS),
                                                .error = i % 4 ? EACCES : 0};
                struct wharf_item with = {.kind = WHARF_COPY_FD, .fd = *(int *)listener};
                if (i % 2)
                        with = (struct wharf_item){.kind = WHARF_MAKE_SEND, .name = p};
                struct wharf_msg r = {
                        .size = sizeof r, .data = (uint8_t *)&h, .len_bytes = sizeof h, .items = &with, .n_items = 1};
                wharf_replymsg(t, m.reply, &r);
        }
}

/* Goal: whatever comes with an answer that is none, or that is an error, does not stay with who asked. */
TEST(what_comes_with_a_bad_answer_does_not_stay)
{
        const char *dir = test_domain();
        CHECK_EQ(mkdir(dir, 0700), 0);
        int s = in_wharfds_place(dir);
        pid_t other = test_fork(giver, &s);
        close(s);
        int before = descriptors();
        for (unsigned i = 0; i < 3; i++) {
                wharf_task *t = task();
                wharf_name right;
                int with_task = 0;
                for (unsigned k = 0; k < 24; k++) {
                        int r = wharf_lookup(t, "x", wharf_in_ms(60000), &right);
                        if (r == 0)
                                CHECK_EQ(wharf_drop(t, right), 0); /* it may well say the right thing */
                        if (k == 0)
                                with_task = descriptors();
                        CHECK_EQ(descriptors(), with_task);
                }
                wharf_task_close(t);
                CHECK_EQ(descriptors(), before);
        }
        CHECK_EQ(kill(other, SIGKILL), 0);
        CHECK_EQ(test_wait(other), 128 + SIGKILL);
}

/* Goal: a client cannot fill wharfd with what it sends along: ports, rights and descriptors. */
TEST(what_comes_with_a_bad_request_does_not_stay)
{
        const char *dir = test_domain();
        wharf_task *t = task();
        wharf_name p = port(t), right, found;
        CHECK_EQ(wharf_register(t, "x", p), 0);
        CHECK_EQ(wh_domain_connect(t, dir, true, true, WH_NEVER, &right), 0);
        int first = 0;
        for (unsigned i = 0; i < 40; i++) {
                struct wh_names_request req = {.op = WH_NAMES_REGISTER, .name = "y", .cookie = {{1, 2}}};
                uint8_t answer[512];
                struct wharf_item items[3] = {{.kind = WHARF_MAKE_SEND, .name = p},
                                              {.kind = WHARF_COPY_FD, .fd = STDERR_FILENO},
                                              {.kind = WHARF_MAKE_SEND, .name = p}};
                CHECK_GE(ask_with(t, right, &req, items, 3, answer, sizeof answer), 0);
                CHECK_EQ(wharf_lookup(t, "x", 0, &found), 0);
                CHECK_EQ(wharf_drop(t, found), 0);
                CHECK_EQ(wharf_recv(t, p, NULL, 0, NULL, 0), -EAGAIN); /* lets the port see the new right */
                int now = test_descriptors_of(wharfd_pid(dir));
                if (i == 3)
                        first = now;
                for (int ms = 0; i > 3 && now > first + 2 && ms < 60000;
                     ms++) { /* some are closed by a thread of its own */
                        usleep(1000);
                        now = test_descriptors_of(wharfd_pid(dir));
                }
                if (i > 3)
                        CHECK_LE(now, first + 2);
        }
        wharf_task_close(t);
}

/*
 * Goal:   what no request takes is not even opened by wharfd: whoever moves a port there loses its link, and nobody else.
 * Method: a look-up with a port, alone and behind what a request may have; opened, it would be answered.
 */
TEST(a_port_that_is_moved_to_wharfd_ends_its_link_unopened)
{
        const char *dir = test_domain();
        wharf_task *t = task();
        wharf_name p = port(t), right, found;
        CHECK_EQ(wharf_register(t, "x", p), 0);
        for (unsigned n = 1; n <= 3; n++) {
                struct wh_names_request req = {.op = WH_NAMES_LOOKUP, .name = "x"};
                uint8_t answer[512];
                struct wharf_item items[3] = {{.kind = WHARF_MAKE_SEND, .name = p},
                                              {.kind = WHARF_MAKE_SEND, .name = p}};
                items[n - 1] = (struct wharf_item){.kind = WHARF_MOVE_RECEIVE};
                CHECK_EQ(wharf_port_new(t, NULL, &items[n - 1].name), 0);
                CHECK_EQ(wh_domain_connect(t, dir, true, true, WH_NEVER, &right), 0);
                CHECK_EQ(ask_with(t, right, &req, items, n, answer, sizeof answer), -EPROTO);
                CHECK_EQ(wharf_drop(t, right), 0);
                CHECK_EQ(wharf_lookup(t, "x", 0, &found), 0);
                CHECK_EQ(wharf_drop(t, found), 0);
                CHECK_EQ(wharf_recv(t, p, NULL, 0, NULL, 0), -EAGAIN); /* lets the port see the new right */
        }
        wharf_task_close(t);
}

/* Goal: a directory that others could use, or that is not ours, is refused in words that name it. */
TEST(domain_must_be_ours)
{
        const char *dir = test_domain();
        wharf_task *t = task();
        wharf_name p = port(t);
        CHECK_EQ(mkdir(dir, 0700), 0);
        CHECK_EQ(chmod(dir, 0755), 0);
        CHECK_EQ(wharf_register(t, "x", p), -EHOSTDOWN);
        CHECK(strstr(wharf_why(), dir) && strstr(wharf_why(), "0700"));
        CHECK_EQ(chmod(dir, 0700), 0);
        if (getuid() == 0) {
                CHECK_EQ(chown(dir, 65534, 65534), 0);
                CHECK_EQ(wharf_register(t, "x", p), -EHOSTDOWN);
                CHECK(strstr(wharf_why(), "65534"));
        }
        CHECK_EQ(rmdir(dir), 0);
        CHECK_EQ(symlink("/tmp", dir), 0); /* somebody else's link in a directory that all may write to */
        CHECK_EQ(wharf_register(t, "x", p), -EHOSTDOWN);
        CHECK_EQ(unlink(dir), 0);
        CHECK_EQ(wh_domain_check("relative", false), -EINVAL);
        char path[200];
        memset(path, 'd', sizeof path);
        path[0] = '/';
        path[sizeof path - 1] = 0;
        CHECK_EQ(wh_domain_check(path, true), -ENAMETOOLONG);
        CHECK_EQ(wharf_register(t, "x", p), 0);
        wharf_task_close(t);
}

/*
 * Goal:   nobody trusts a directory that others can write to, whoever is let in at the socket there; or a socket of others.
 * Method: every way to use one: to connect there, to start a wharfd, to make a socket, to share it.
 */
TEST(a_domain_that_others_can_write_to_is_trusted_by_nobody)
{
        static const mode_t open_to_others[] = {0775, 0757, 0777, 0731, 01777};
        const char *dir = test_domain();
        char path[300];
        int fd;
        bool shared;
        CHECK_EQ(mkdir(dir, 0700), 0);
        int s = in_wharfds_place(dir);
        snprintf(path, sizeof path, "%s/bootstrap", dir);
        CHECK_EQ(chmod(path, 0666), 0);
        CHECK_EQ(chmod(dir, 0755), 0);
        CHECK_EQ(wh_domain_check_chosen(dir, false, &shared), 0);
        CHECK(shared);
        for (unsigned i = 0; i < sizeof open_to_others / sizeof *open_to_others; i++) {
                CHECK_EQ(chmod(dir, open_to_others[i]), 0);
                CHECK_EQ(wh_domain_check_chosen(dir, false, &shared), -EACCES);
                CHECK(!shared);
                CHECK_EQ(wh_domain_trylock(dir, &fd), -EACCES);
                CHECK(!exists(dir, "lock"));
                CHECK_EQ(wh_domain_listen(dir, true, &fd), -EACCES);
                CHECK(exists(dir, "bootstrap"));
                CHECK_EQ(wh_domain_make_shared(dir), -EACCES);
        }
        CHECK_EQ(chmod(dir, 0755), 0);
        CHECK_EQ(wh_domain_make_shared(dir), 0);
        if (geteuid() == 0) {
                CHECK_EQ(chown(path, 65534, 65534), 0);
                CHECK_EQ(wh_domain_check_chosen(dir, false, &shared), -EACCES);
                CHECK(!shared);
        }
        close(s);
}

TEST(no_wharfd_is_said_so)
{
        const char *dir = test_domain();
        setenv("WHARFD", "/nowhere/wharfd", 1);
        wharf_task *t = task();
        wharf_name right;
        CHECK_EQ(wharf_lookup(t, "x", 0, &right), -EHOSTDOWN);
        CHECK(strstr(wharf_why(), "/nowhere/wharfd"));
        CHECK(!exists(dir, "bootstrap"));
        setenv("WHARFD", "/bin/false", 1); /* starts, and dies without a word */
        CHECK_EQ(wharf_lookup(t, "x", 0, &right), -EHOSTDOWN);
        CHECK(*wharf_why());
        wharf_task_close(t);
}

/* ---- time ---- */

/* What is asked of a wharfd that does not answer ends long before this; it only turns a hang into a failure. */
#define NOT_LONG_NS ((int64_t)5 * 1000000000)
static int64_t now_ns(void)
{
        struct timespec n;
        clock_gettime(CLOCK_MONOTONIC, &n);
        return n.tv_sec * (int64_t)1000000000 + n.tv_nsec;
}
#define CHECK_SILENT(call)                                   \
        do {                                                 \
                int64_t began_ns = now_ns();                 \
                CHECK_EQ(call, -ETIMEDOUT);                  \
                CHECK_LE(now_ns() - began_ns, NOT_LONG_NS);  \
                CHECK(strstr(wharf_why(), who));             \
                CHECK(strstr(wharf_why(), "it is stopped")); \
        } while (0)

/*
 * Goal:   a wharfd that lives but is stopped keeps nobody longer than was said, is not "down", and is named; what was
 *         asked of it meanwhile is as if it had not been.
 * Method: SIGSTOP, every call, by a task that is connected and by one that is not; then SIGCONT.
 */
TEST(a_stopped_wharfd_keeps_nobody_beyond_the_deadline)
{
        const char *dir = test_domain();
        test_need_proc();
        wharf_task *t = task(), *fresh = task();
        wharf_name p = port(t), w = port(t), right = 77;
        struct wharf_named *all;
        struct wharf_wait *waits;
        size_t n;
        char who[400];
        CHECK_EQ(wharf_register(t, "x", p), 0);
        pid_t d = wharfd_pid(dir);
        snprintf(who, sizeof who, "the server at %s, pid %d, does not answer", dir, (int)d);
        CHECK_EQ(kill(d, SIGSTOP), 0);
        for (int i = 0; i < 2; i++) {
                wharf_task *by = i ? fresh : t;
                wharf_name q = i ? port(fresh) : w;
                CHECK_SILENT(wharf_lookup(by, "x", 0, &right));
                CHECK_SILENT(wharf_lookup(by, "x", wharf_in_ms(200), &right));
                CHECK_SILENT(wharf_lookup(by, "x", 1, &right)); /* long past */
                CHECK_SILENT(wharf_register(by, "y", q));
                CHECK_SILENT(wharf_names_watch(by, "*", q));
                CHECK_SILENT(wharf_names_list(by, &all, &n));
                CHECK_SILENT(wharf_waits_list(by, &waits, &n));
        }
        CHECK_SILENT(wharf_unregister(t, "x"));
        CHECK_EQ(right, 77);
        CHECK_EQ(kill(d, SIGCONT), 0);
        CHECK_EQ(wharf_lookup(t, "x", 0, &right), 0); /* told again: it was not taken back */
        CHECK_EQ(wharf_lookup(fresh, "x", 0, &right), 0);
        CHECK_EQ(wharf_lookup(t, "y", 0, &right), -ENOENT);
        CHECK_EQ(wharf_unregister(t, "x"), 0);
        CHECK_EQ(wharf_lookup(fresh, "x", 0, &right), -ENOENT);
        CHECK_EQ(wharfd_pid(dir), d);
        wharf_task_close(fresh);
        wharf_task_close(t);
}

/* Goal: names that could not be told to the next wharfd in time are told by the next call. */
TEST(names_that_a_stopped_wharfd_was_not_told_are_told_later)
{
        const char *dir = test_domain();
        test_need_proc();
        wharf_task *t = task(), *other = task();
        wharf_name p = port(t), right;
        const char *names[] = {"a", "b", "c"};
        for (int i = 0; i < 3; i++)
                CHECK_EQ(wharf_register(t, names[i], p), 0);
        pid_t k = test_find_wharfd(dir, false), d = wharfd_pid(dir);
        CHECK_EQ(kill(k, SIGKILL), 0);
        CHECK_EQ(kill(d, SIGKILL), 0);
        UNTIL(!wharfd_pid(dir));
        int r;
        do /* the old one's socket may still be there for a moment */
                r = wharf_register(other, "d", port(other));
        while (r < 0);
        UNTIL((d = wharfd_pid(dir)));
        CHECK_EQ(kill(d, SIGSTOP), 0);
        CHECK_EQ(wharf_names_renew(t), -ETIMEDOUT);
        CHECK_EQ(wharf_lookup(t, "d", wharf_in_ms(50), &right), -ETIMEDOUT);
        CHECK_EQ(kill(d, SIGCONT), 0);
        CHECK_EQ(wharf_names_renew(t), 0);
        for (int i = 0; i < 3; i++)
                CHECK_EQ(wharf_lookup(other, names[i], 0, &right), 0);
        wharf_task_close(other);
        wharf_task_close(t);
}

/* Goal: the deadline holds on the way to wharfd, too: at a socket that nobody accepts from, and at the lock. */
TEST(a_deadline_holds_before_wharfd_is_reached)
{
        const char *dir = test_domain();
        wharf_task *t = task();
        wharf_name right;
        CHECK_EQ(mkdir(dir, 0700), 0);
        int s = in_wharfds_place(dir);
        CHECK_EQ(wharf_lookup(t, "x", wharf_in_ms(50), &right), -ETIMEDOUT);
        CHECK(strstr(wharf_why(), dir));
        close(s);
        int lock;
        CHECK_EQ(wh_domain_trylock(dir, &lock), 0); /* by another descriptor: so it is somebody else's */
        CHECK_EQ(wharf_lookup(t, "x", wharf_in_ms(50), &right), -ETIMEDOUT);
        CHECK(strstr(wharf_why(), "lock"));
        wh_os_close(lock);
        CHECK_EQ(wharf_lookup(t, "x", 0, &right), -ENOENT);
        wharf_task_close(t);
}

/* ---- what the environment says ---- */

struct place {
        const char *run;  /* $XDG_RUNTIME_DIR */
        const char *want; /* the domain; NULL: one of the usual places, and why */
};
static int look_at_place(void *arg)
{
        const struct place *p = arg;
        char usual[2][40];
        unsetenv("WHARF_DOMAIN");
        setenv("XDG_RUNTIME_DIR", p->run, 1);
        snprintf(usual[0], sizeof usual[0], "/run/user/%u/wharf", (unsigned)geteuid());
        snprintf(usual[1], sizeof usual[1], "/tmp/wharf-%u", (unsigned)geteuid());
        const char *got = wharf_domain_path();
        if (p->want) {
                CHECK_STR(got, p->want);
                CHECK_STR(wh_domain_aside(), "");
        } else {
                CHECK(!strcmp(got, usual[0]) || !strcmp(got, usual[1]));
                CHECK(strstr(wh_domain_aside(), p->run));
        }
        return 0;
}
/* In processes of their own: each has one domain. */
TEST(a_runtime_directory_of_another_user_is_not_used)
{
        char own[300], open_to_all[300], others[300], link[300], want[320];
        const char *dir = test_dir();
        snprintf(own, sizeof own, "%s/own", dir);
        snprintf(open_to_all, sizeof open_to_all, "%s/open", dir);
        snprintf(others, sizeof others, "%s/others", dir);
        snprintf(link, sizeof link, "%s/link", dir);
        snprintf(want, sizeof want, "%s/wharf", own);
        CHECK_EQ(mkdir(own, 0700), 0);
        CHECK_EQ(mkdir(open_to_all, 0700), 0);
        CHECK_EQ(chmod(open_to_all, 0777), 0);
        if (geteuid() == 0) {
                CHECK_EQ(mkdir(others, 0700), 0);
                CHECK_EQ(chown(others, 65534, 65534), 0);
        } else {
                strcpy(others, "/");
        }
        CHECK_EQ(symlink(others, link), 0);
        struct place places[] = {{own, want},        {others, NULL},     {link, NULL},       {open_to_all, NULL},
                                 {"relative", NULL}, {"/nowhere", NULL}, {"/dev/null", NULL}};
        for (unsigned i = 0; i < sizeof places / sizeof *places; i++)
                CHECK_EQ(test_wait(test_fork(look_at_place, &places[i])), 0);
        CHECK(access(want, F_OK) < 0); /* looking makes nothing */
}

/* Goal: root leaves nothing in a user's directory, where it could neither use nor remove it. */
TEST(no_domain_is_made_in_another_users_directory)
{
        if (geteuid() != 0)
                test_skip("needs root, and a directory of somebody else");
        char others[300], domain[320];
        snprintf(others, sizeof others, "%s/others", test_dir());
        snprintf(domain, sizeof domain, "%s/wharf", others);
        CHECK_EQ(mkdir(others, 0755), 0);
        CHECK_EQ(chown(others, 65534, 65534), 0);
        CHECK_EQ(wh_domain_check(domain, true), -EACCES);
        CHECK(strstr(wharf_why(), "65534"));
        CHECK_EQ(wh_domain_make_shared(domain), -EACCES);
        CHECK(access(domain, F_OK) < 0);
        CHECK_EQ(chown(others, 0, 0), 0);
        CHECK_EQ(wh_domain_check(domain, true), 0);
}

/* Goal: in our own domain nobody is believed but ourselves: whoever listens there, the kernel says who it is. */
static int other_listens(void *fd)
{
        CHECK_EQ(setegid(65534), 0);
        CHECK_EQ(seteuid(65534), 0);
        CHECK_EQ(listen(*(int *)fd, 4), 0);
        pause();
        return 0;
}
TEST(another_user_who_listens_in_our_domain_is_not_asked)
{
        const char *dir = test_domain();
        if (geteuid() != 0)
                test_skip("needs root, to be two users");
        wharf_task *t = task();
        wharf_name right;
        CHECK_EQ(mkdir(dir, 0700), 0);
        int s = in_wharfds_place(dir);
        pid_t other = test_fork(other_listens, &s);
        close(s);
        do
                CHECK_EQ(wharf_lookup(t, "x", wharf_in_ms(20), &right) < 0, true);
        while (!strstr(wharf_why(), "user 65534 listens there"));
        CHECK_EQ(wharf_lookup(t, "x", 0, &right), -EHOSTDOWN);
        CHECK_EQ(kill(other, SIGKILL), 0);
        CHECK_EQ(test_wait(other), 128 + SIGKILL);
        CHECK_EQ(wharf_lookup(t, "x", 0, &right), -ENOENT);
        wharf_task_close(t);
}

/* Goal: a program that others could have put there is not started, whatever $WHARFD says. */
TEST(a_wharfd_that_others_may_change_is_not_started)
{
        test_domain();
        char program[300];
        wharf_task *t = task();
        wharf_name right;
        snprintf(program, sizeof program, "%s/wharfd", test_dir());
        int fd = open(program, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
        CHECK(fd >= 0);
        CHECK_EQ(write(fd, "#!/bin/sh\necho first line >&2; echo second >&2; exit 1\n", 55), 55);
        CHECK_EQ(fchmod(fd, 0777), 0);
        close(fd);
        setenv("WHARFD", program, 1);
        CHECK_EQ(wharf_lookup(t, "x", 0, &right), -EHOSTDOWN);
        CHECK(strstr(wharf_why(), "everybody may change it"));
        if (geteuid() == 0) {
                CHECK_EQ(chmod(program, 0755), 0);
                CHECK_EQ(chown(program, 65534, 65534), 0);
                CHECK_EQ(wharf_lookup(t, "x", 0, &right), -EHOSTDOWN);
                CHECK(strstr(wharf_why(), "belongs to user 65534"));
                CHECK_EQ(chown(program, 0, 0), 0);
        }
        CHECK_EQ(chmod(program, 0755), 0);
        CHECK_EQ(wharf_lookup(t, "x", 0, &right), -EHOSTDOWN); /* now it is: and what it says is handed on */
        CHECK(strstr(wharf_why(), "cannot serve: first line second"));
        wharf_task_close(t);
}

/* Goal: one that ends without a word is tried a few times, not for ever, and that is said. */
TEST(a_wharfd_that_ends_without_a_word_is_said_so)
{
        const char *dir = test_domain();
        setenv("WHARFD", "/bin/false", 1);
        wharf_task *t = task();
        wharf_name right;
        CHECK_EQ(wharf_lookup(t, "x", 0, &right), -EHOSTDOWN);
        CHECK(strstr(wharf_why(), "ended without a word"));
        CHECK(!exists(dir, "bootstrap"));
        wharf_task_close(t);
}

static int use_after_fork(void *t)
{
        wharf_name right;
        struct wharf_named *all;
        size_t n;
        int fd;
        CHECK_EQ(wharf_lookup(t, "x", 0, &right), -ESTALE);
        CHECK_EQ(wharf_register(t, "y", 1), -ESTALE);
        CHECK_EQ(wharf_unregister(t, "x"), -ESTALE);
        CHECK_EQ(wharf_names_list(t, &all, &n), -ESTALE);
        CHECK_EQ(wharf_names_fd(t, &fd), -ESTALE);
        CHECK_EQ(wharf_names_renew(t), -ESTALE);
        wharf_task_close(t);
        return 0;
}
TEST(names_in_a_forked_child)
{
        test_domain();
        wharf_task *t = task();
        wharf_name p = port(t), right;
        CHECK_EQ(wharf_register(t, "x", p), 0);
        CHECK_EQ(test_wait(test_fork(use_after_fork, t)), 0);
        CHECK_EQ(wharf_lookup(t, "x", 0, &right), 0); /* the child's leaving is not ours */
        wharf_task_close(t);
}

/*
 * Goal:   nothing that a client sends can stop wharfd from serving the others.
 * Method: frames of noise on a bare socket, and well-framed requests of noise and of half-right bytes through the
 *         library; after each, an honest client works.
 */
TEST(wharfd_survives_noise)
{
        const char *dir = test_domain();
        wharf_task *t = task(), *liar = task();
        wharf_name p = port(t), found;
        CHECK_EQ(wharf_register(t, "x", p), 0);
        pid_t d = wharfd_pid(dir);
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        CHECK_EQ(wh_domain_socket_path(dir, a.sun_path), 0);
        for (int i = 0; i < 300; i++) {
                uint8_t noise[400];
                size_t len = test_random() % sizeof noise;
                for (size_t k = 0; k < len; k++)
                        noise[k] = (uint8_t)test_random();
                if (i % 3 == 0) {
                        int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
                        CHECK_EQ(connect(s, (struct sockaddr *)&a, sizeof a), 0);
                        send(s, noise, len, MSG_NOSIGNAL);
                        close(s);
                } else {
                        wharf_name right;
                        struct wh_names_request req = {.op = (enum wh_names_op)(1 + test_random() % (WH_NAMES_OPS - 1)),
                                                       .name = "y",
                                                       .cookie = {{1, 2}}};
                        uint8_t buf[WH_NAMES_REQUEST_MAX], answer[512];
                        if (i % 3 == 1) {
                                len = wh_names_put_request(&req, buf);
                                buf[test_random() % len] ^= (uint8_t)(1 + test_random() % 255);
                                len -= test_random() % 2;
                        } else {
                                len = len < sizeof buf ? len : sizeof buf;
                                memcpy(buf, noise, len);
                        }
                        CHECK_EQ(wh_domain_connect(liar, dir, true, true, WH_NEVER, &right), 0);
                        struct wharf_item items[2], got[2];
                        int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
                        items[0] = items[1] = (struct wharf_item){.kind = WHARF_COPY_FD, .fd = fd};
                        struct wharf_msg m = {.size = sizeof m,
                                              .data = buf,
                                              .len_bytes = len,
                                              .items = items,
                                              .n_items = (uint32_t)(test_random() % 3)};
                        struct wharf_msg r = {.size = sizeof r,
                                              .data = answer,
                                              .cap_bytes = sizeof answer,
                                              .items = got,
                                              .cap_items = 2};
                        /* Whatever it answers, if at all: a changed bit may have made this a look-up that waits. */
                        int e = wharf_callmsg(liar, right, &m, &r, wharf_in_ms(20));
                        if (e == 0 && r.n_items)
                                wharf_drop(liar, got[0].name);
                        close(fd);
                        CHECK_EQ(wharf_drop(liar, right), 0);
                }
                if (wharf_lookup(t, "x", 0, &found) < 0)
                        test_fail(__FILE__, __LINE__, "round %d: %s", i, wharf_why());
                CHECK_EQ(wharf_drop(t, found), 0);
                CHECK_EQ(wharf_recv(t, p, NULL, 0, NULL, 0), -EAGAIN); /* lets the port see the new right */
        }
        CHECK_EQ(wharfd_pid(dir), d);
        wharf_task_close(liar);
        wharf_task_close(t);
}

/*
 * Goal:   a server that never looks at its port makes trouble for its own clients only, and only until it looks.
 * Method: look it up until wharfd cannot tell it of more rights; then others, then it receives once.
 */
TEST(owner_that_does_not_look)
{
        test_domain();
        wharf_task *lazy = task(), *t = task();
        wharf_name p = port(lazy), q = port(t), right;
        CHECK_EQ(wharf_register(lazy, "lazy", p), 0);
        CHECK_EQ(wharf_register(t, "busy", q), 0);
        int r = 0;
        for (int i = 0; i < 2000 && r == 0; i++)
                if ((r = wharf_lookup(t, "lazy", 0, &right)) == 0)
                        CHECK_EQ(wharf_drop(t, right), 0);
        CHECK_EQ(r, -EAGAIN);
        CHECK(strstr(wharf_why(), "lazy"));
        CHECK_EQ(wharf_lookup(t, "lazy", wharf_in_ms(30), &right), -ETIMEDOUT);
        CHECK_EQ(wharf_lookup(t, "busy", 0, &right), 0);
        CHECK_EQ(wharf_recv(lazy, p, NULL, 0, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_lookup(t, "lazy", 0, &right), 0);
        wharf_task_close(lazy);
        wharf_task_close(t);
}

/*
 * Goal:   running out of anything is an error of the call, leaves no descriptor behind, and is over when it is over.
 * Method: fail the n-th system call of a task's whole life with names, for every n; then do the same without trouble.
 */
static int fail_at, fail_with, calls_seen;
static enum wh_os_call failed;
static int failing_gate(enum wh_os_call call)
{
        if (++calls_seen != fail_at || call == WH_OS_close || call == WH_OS_munmap)
                return 0;
        failed = call;
        return fail_with;
}
/* Answers 1 when everything succeeded; each failure must be one that the header knows. */
static int life_with_names(void)
{
        wharf_task *t;
        wharf_name p, right;
        struct wharf_named *all;
        size_t n;
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        if (wharf_task_open(NULL, &t) < 0)
                return 0;
        int r[5] = {wharf_port_new(t, &o, &p), 0, 0, 0, 0}, good = 1;
        if (r[0] == 0) {
                r[1] = wharf_register(t, "mine", p);
                r[2] = wharf_lookup(t, "keep", 0, &right);
                r[3] = wharf_names_list(t, &all, &n);
                if (r[3] == 0)
                        free(all);
                if (r[1] == 0)
                        r[4] = wharf_unregister(t, "mine");
        }
        for (unsigned i = 0; i < 5; i++) {
                if (r[i] < 0)
                        good = 0;
                CHECK(r[i] == 0 || r[i] == -ENOMEM || r[i] == -EMFILE || r[i] == -EHOSTDOWN);
        }
        wharf_task_close(t);
        return good;
}
/*
 * Lets the port see who came, and that they are gone, until there are as many descriptors as before: wharfd may tell it
 * of a right whose asker has given up meanwhile. Ends in any case; the caller compares.
 */
static void settle(wharf_task *t, wharf_name p, int before)
{
        for (int i = 0; i < 1000; i++) {
                CHECK_EQ(wharf_recv(t, p, NULL, 0, NULL, 0), -EAGAIN);
                if (i >= 4 && descriptors() == before)
                        return;
                nanosleep(&(struct timespec){.tv_nsec = i < 4 ? 0 : 2000000}, NULL);
        }
}
TEST_TIMEOUT(names_when_something_runs_out, 60)
{
        test_domain();
        wharf_task *t = task();
        wharf_name p = port(t);
        CHECK_EQ(wharf_register(t, "keep", p), 0);
        CHECK_EQ(wharf_recv(t, p, NULL, 0, NULL, 0), -EAGAIN);
        int at_first = descriptors();
        CHECK_EQ(life_with_names(), 1);
        settle(t, p, at_first);
        int before = descriptors(), reached = 0;
        CHECK_EQ(before, at_first);
        const int errors[] = {-ENOMEM, -EMFILE};
        for (unsigned e = 0; e < 2; e++) {
                fail_with = errors[e];
                for (fail_at = 1;; fail_at++) {
                        calls_seen = 0;
                        wh_os_gate = failing_gate;
                        life_with_names();
                        wh_os_gate = NULL;
                        int seen = calls_seen;
                        settle(t, p, before);
                        if (descriptors() != before)
                                test_fail(__FILE__, __LINE__, "descriptors %d -> %d after %s (call %d) failed with %d",
                                          before, descriptors(), wh_os_call_name(failed), fail_at, fail_with);
                        if (seen < fail_at)
                                break;
                        reached++;
                }
        }
        CHECK_GE(reached, 100);
        CHECK_EQ(life_with_names(), 1);
        wharf_task_close(t);
}

/* Goal: hundreds of names for one port, listed in order. */
TEST_TIMEOUT(many_names, 60)
{
        test_domain();
        wharf_task *t = task();
        wharf_name p = port(t);
        enum { MANY = 300 };
        for (int i = 0; i < MANY; i++) {
                char name[32];
                snprintf(name, sizeof name, "n-%03d", (i * 7) % MANY);
                CHECK_EQ(wharf_register(t, name, p), 0);
        }
        struct wharf_named *all;
        size_t n;
        CHECK_EQ(wharf_names_list(t, &all, &n), 0);
        CHECK_EQ(n, MANY);
        for (size_t i = 1; i < n; i++)
                CHECK(strcmp(all[i - 1].name, all[i].name) < 0);
        free(all);
        for (int i = 0; i < MANY; i++) {
                char name[32];
                snprintf(name, sizeof name, "n-%03d", i);
                CHECK_EQ(wharf_unregister(t, name), 0);
        }
        CHECK_EQ(wharf_names_list(t, &all, &n), 0);
        CHECK_EQ(n, 0);
        free(all);
        wharf_task_close(t);
}

/* ---- what a name leads to ---- */

/* Registers, in the protocol's own words, a right as it stands: the library registers ports alone. wharfd's answer. */
static int register_right(wharf_task *t, wharf_name to_wharfd, const char *name, uint32_t kind, wharf_name right)
{
        struct wh_names_request req = {.op = WH_NAMES_REGISTER, .cookie = {{test_random() | 1, 2}}};
        uint8_t answer[512];
        snprintf(req.name, sizeof req.name, "%s", name);
        struct wharf_item item = {.kind = kind, .name = right};
        ssize_t len = ask_with(t, to_wharfd, &req, &item, 1, answer, sizeof answer);
        CHECK_GE(len, 0);
        return answer_of(answer, (size_t)len, WH_NAMES_REGISTER);
}

static size_t names_now(wharf_task *t)
{
        struct wharf_named *all;
        size_t n;
        CHECK_EQ(wharf_names_list(t, &all, &n), 0);
        free(all);
        return n;
}

/*
 * Goal:   a name goes with its port, whoever registered it, and neither wharfd nor its keeper holds anything of it then.
 * Method: rights to another's port, copied and moved, used and fresh, are registered in the protocol's own words; then
 *         its owner is killed, with a wharfd that knew it alive, or with the next one.
 */
TEST(a_name_for_anothers_port_goes_with_that_port)
{
        const char *dir = test_domain();
        wharf_task *t = task();
        wharf_name p = port(t), right, to_wharfd;
        char buf[8];
        CHECK_EQ(wharf_register(t, "mine", p), 0);
        pid_t keeper = test_find_wharfd(dir, false);
        CHECK_EQ(kill(wharfd_pid(dir), SIGKILL), 0); /* what it told its keeper is taken before the next one serves */
        CHECK_EQ(names_now(t), 1);
        int before = test_descriptors_of(keeper);
        for (unsigned way = 0; way < 8; way++) {
                pid_t owner = test_fork(echo_server, (char *)"echo");
                CHECK_EQ(wharf_lookup(t, "echo", WHARF_FOREVER, &right), 0);
                if (way & 1)
                        CHECK_EQ(wharf_call(t, right, "hello", 5, buf, sizeof buf, WHARF_FOREVER), 5);
                CHECK_EQ(wh_domain_connect(t, dir, true, true, WH_NEVER, &to_wharfd), 0);
                CHECK_EQ(register_right(t, to_wharfd, "copy", WHARF_COPY_SEND, right), 0);
                CHECK_EQ(register_right(t, to_wharfd, "gift", WHARF_MOVE_SEND, right), 0);
                CHECK_EQ(wharf_drop(t, to_wharfd), 0);
                CHECK_EQ(names_now(t), 4);
                if (way & 2)
                        CHECK_EQ(kill(owner, SIGSTOP), 0);
                if (way & 4)
                        CHECK_EQ(kill(wharfd_pid(dir), SIGKILL), 0);
                CHECK_EQ(kill(owner, SIGKILL), 0);
                CHECK_EQ(test_wait(owner), 128 + SIGKILL);
                CHECK_EQ(names_now(t), 1);
                UNTIL(test_descriptors_of(keeper) <= before);
                CHECK_EQ(wharf_recv(t, p, NULL, 0, NULL, 0), -EAGAIN);
        }
        wharf_task_close(t);
}

/* Whatever end of a pair this process has, a copy of it lies unread at the other end when it dies. */
static int ends_in_their_queues(void *arg)
{
        wharf_task *t = task();
        CHECK_EQ(wharf_register(t, arg, port(t)), 0);
        for (int fd = 3; fd < 64; fd++) {
                struct wh_frame f = {.type = WH_FRAME_VIA, .to = WH_TO_HOLDER, .n_fds = 1};
                struct stat st;
                if (fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode))
                        wh_frame_send(fd, &f, NULL, 0, &fd, false);
        }
        return 0;
}
/* Goal: no name outlives its owner by what that one left behind in its pair: with this wharfd, and with the next one. */
TEST(an_owners_end_in_its_holders_queue_keeps_no_name)
{
        const char *dir = test_domain();
        wharf_task *t = task();
        wharf_name right;
        CHECK_EQ(wharf_register(t, "mine", port(t)), 0);
        for (int i = 0; i < 2; i++) {
                pid_t d = wharfd_pid(dir);
                if (i)
                        CHECK_EQ(kill(d, SIGSTOP), 0);
                pid_t owner = i ? 0 : test_fork(ends_in_their_queues, (char *)"loop");
                if (owner)
                        CHECK_EQ(test_wait(owner), 0);
                else
                        CHECK_EQ(kill(d, SIGKILL), 0);
                UNTIL(names_now(t) == 1);
                CHECK_EQ(wharf_lookup(t, "loop", 0, &right), -ENOENT);
        }
        wharf_task_close(t);
}

/*
 * Goal:   no name leads to wharfd itself, which nobody's death would end.
 * Method: a right to wharfd is registered as it is; and by hand, with a greeting that says that it is another's.
 */
TEST(no_name_leads_to_wharfd_itself)
{
        const char *dir = test_domain();
        wharf_task *t = task();
        wharf_name to_wharfd;
        CHECK_EQ(wharf_register(t, "mine", port(t)), 0);
        CHECK_EQ(wh_domain_connect(t, dir, true, true, WH_NEVER, &to_wharfd), 0);
        CHECK_EQ(register_right(t, to_wharfd, "self", WHARF_COPY_SEND, to_wharfd), -EINVAL);

        struct sockaddr_un a = {.sun_family = AF_UNIX};
        CHECK_EQ(wh_domain_socket_path(dir, a.sun_path), 0);
        int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), sv[2];
        CHECK_EQ(connect(s, (struct sockaddr *)&a, sizeof a), 0);
        CHECK_EQ(wh_os_socketpair(sv), 0);
        struct wh_hello h = {.port_id = 77, .payload_bytes_max = 100, .capacity_records = 16, .unread_rights_max = 1};
        struct wh_frame hello = {.type = WH_FRAME_HELLO},
                        adopt = {.type = WH_FRAME_ADOPT, .to = WH_TO_OWNER, .n_fds = 1};
        CHECK_EQ(wh_frame_greet(sv[0], &hello, &h), 0);
        struct wh_names_request req = {.op = WH_NAMES_REGISTER, .cookie = {{1, 2}}, .name = "liar"};
        uint8_t data[1 + WH_NAMES_REQUEST_MAX] = {WH_ITEM_SEND};
        size_t len = wh_names_put_request(&req, data + 1);
        struct wh_frame f = {.type = WH_FRAME_MESSAGE,
                             .to = WH_TO_OWNER,
                             .n_fds = 1,
                             .total = len,
                             .call = 1,
                             .arg = WH_MSG_FIRST | WH_MSG_LAST};
        CHECK_EQ(wh_frame_send(s, &f, data, 1 + len, &sv[1], true), 0);
        close(sv[1]);
        struct pollfd p = {.fd = s, .events = POLLIN};
        uint8_t in[600], word[sizeof(struct wh_names_reply_head)];
        bool answered = false;
        while (!answered) { /* the greeting, and the answer: it was taken */
                CHECK_EQ(poll(&p, 1, 60000), 1);
                ssize_t n = recv(s, in, sizeof in, 0);
                CHECK_GE(n, (ssize_t)sizeof f);
                memcpy(&f, in, sizeof f);
                answered = f.type == WH_FRAME_MESSAGE;
        }
        memcpy(word, in + sizeof f, sizeof word);
        int said = -1;
        uint32_t line;
        CHECK_EQ(wh_names_get_reply(word, sizeof word, WH_NAMES_REGISTER, &said, &line), 0);
        CHECK_EQ(said, 0);
        CHECK_EQ(names_now(t), 2);
        CHECK_EQ(wh_frame_send(s, &adopt, NULL, 0, &sv[0], true), 0); /* and now it is wharfd's own */
        close(sv[0]);
        UNTIL(names_now(t) == 1);
        close(s);
        wharf_task_close(t);
}

/* ---- what a call without answers does with its time ---- */

/* Becomes the wharfd of the domain, with the socket that somebody listens on already. */
static void become_wharfd(int listener, const char *dir, bool share)
{
        CHECK_EQ(dup2(listener, 3), 3);
        fcntl(3, F_SETFD, 0);
        const char *argv[] = {getenv("WHARFD"), "--domain", dir, "--socket-fd", "3", share ? "--share" : NULL, NULL};
        execv(argv[0], (char **)(uintptr_t)argv);
}

/* In wharfd's place: hangs up on whoever comes, or says that it is short of something; and goes. */
static int turns_away(void *listener)
{
        enum { COME_MAX = 48 };
        for (int i = 0; i < COME_MAX; i++) {
                struct wh_frame f = {.type = WH_FRAME_REFUSE, .to = WH_TO_HOLDER, .arg = i % 3 == 1 ? EMFILE : ENOMEM};
                int s = accept(*(int *)listener, NULL, NULL);
                CHECK(s >= 0);
                if (i % 3)
                        wh_frame_send(s, &f, NULL, 0, NULL, false);
                close(s);
        }
        return 0;
}
/* Goal: a look-up with patience goes on trying until its deadline, however often it is turned away. */
TEST_TIMEOUT(a_lookup_that_is_turned_away_comes_again_until_its_deadline, 120)
{
        const char *dir = test_domain();
        wharf_task *t = task();
        wharf_name right;
        CHECK_EQ(wharf_register(t, "x", port(t)), 0);
        pid_t other = takes_the_place(dir, turns_away);
        int r;
        do { /* the death of the old one may still be under way */
                r = wharf_lookup(t, "x", wharf_in_ms(100000), &right);
                CHECK_EQ(r, 0);
                CHECK_EQ(wharf_drop(t, right), 0);
        } while (waitpid(other, NULL, WNOHANG) == 0);
        wharf_task_close(t);
}

/*
 * Goal:   the wharfd of a shared domain that makes its socket again is not "down" to who has patience.
 * Method: a socket that does not listen yet, as between bind() and listen(); who does not wait is told at once.
 */
static int looks_up(void *arg)
{
        (void)arg;
        wharf_task *t = task();
        wharf_name right;
        CHECK_EQ(wharf_lookup(t, "x", wharf_in_ms(100000), &right), 0);
        wharf_task_close(t);
        return 0;
}
TEST_TIMEOUT(a_shared_domain_that_is_made_again_is_waited_for, 120)
{
        const char *dir = test_domain();
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        CHECK_EQ(mkdir(dir, 0755), 0);
        CHECK_EQ(chmod(dir, 0755), 0);
        CHECK_EQ(wh_domain_socket_path(dir, a.sun_path), 0);
        int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        CHECK_EQ(bind(s, (struct sockaddr *)&a, sizeof a), 0);
        CHECK_EQ(chmod(a.sun_path, 0666), 0);
        wharf_task *t = task();
        wharf_name right;
        CHECK_EQ(wharf_lookup(t, "x", 0, &right), -EHOSTDOWN);
        pid_t patient = test_fork(looks_up, NULL);
        usleep(100000);
        CHECK_EQ(listen(s, 64), 0);
        pid_t d = fork();
        if (d == 0)
                become_wharfd(s, dir, true);
        CHECK_EQ(wharf_register(t, "x", port(t)), 0);
        CHECK_EQ(test_wait(patient), 0);
        wharf_task_close(t);
        CHECK_EQ(test_wait(d), 0);
        close(s);
        unlink(a.sun_path);
}

/*
 * Goal:   a wharfd that does not serve yet, since it takes up what the last one left, is waited for as one that starts.
 * Method: a socket that listens longer than an answer may take, before there is a wharfd.
 */
static int serves_late(void *arg)
{
        const char *dir = getenv("WHARF_DOMAIN");
        usleep((WHARF_NAMES_ANSWER_MS + 500) * 1000);
        become_wharfd(*(int *)arg, dir, false);
        return 1;
}
TEST_TIMEOUT(a_wharfd_that_does_not_serve_yet_is_waited_for, 60)
{
        const char *dir = test_domain();
        wharf_name right;
        CHECK_EQ(mkdir(dir, 0700), 0);
        int s = in_wharfds_place(dir);
        pid_t d = test_fork(serves_late, &s);
        close(s);
        wharf_task *t = task();
        CHECK_EQ(wharf_lookup(t, "x", 0, &right), -ENOENT);
        wharf_task_close(t);
        CHECK_EQ(test_wait(d), 0);
}

/* In wharfd's place: takes every name, one after another, and not at once. */
struct taker {
        int listener;
        unsigned each_ms;
};
static int takes_names(void *arg)
{
        const struct taker *k = arg;
        wharf_task *t = task();
        wharf_name p = port(t);
        CHECK_EQ(wharf_port_listen(t, p, k->listener), 0);
        for (;;) {
                uint8_t buf[WH_NAMES_REQUEST_MAX];
                struct wharf_item items[4];
                struct wharf_msg m = {
                        .size = sizeof m, .data = buf, .cap_bytes = sizeof buf, .items = items, .cap_items = 4};
                struct wh_names_request req;
                CHECK_EQ(wharf_recvmsg(t, p, &m, WHARF_FOREVER), 0);
                CHECK_EQ(wh_names_get_request(buf, m.len_bytes, &req), 0);
                usleep(k->each_ms * 1000);
                struct wh_names_reply_head h = wh_names_reply(req.op, 0, 0);
                wharf_reply(t, m.reply, &h, sizeof h);
        }
}
/*
 * Goal:   one call tells a new wharfd of all names, however long that takes, as long as it takes them.
 * Method: one that needs longer for all than a call without a deadline waits for anything.
 */
TEST_TIMEOUT(one_call_registers_all_names_again_as_long_as_they_are_taken, 120)
{
        enum { NAMES = 12 };
        const char *dir = test_domain();
        wharf_task *t = task();
        wharf_name p = port(t);
        CHECK_EQ(mkdir(dir, 0700), 0);
        struct taker k = {.listener = in_wharfds_place(dir)};
        pid_t first = test_fork(takes_names, &k);
        close(k.listener);
        for (int i = 0; i < NAMES; i++) {
                char name[16];
                snprintf(name, sizeof name, "n.%d", i);
                CHECK_EQ(wharf_register(t, name, p), 0);
        }
        CHECK_EQ(kill(first, SIGKILL), 0);
        CHECK_EQ(test_wait(first), 128 + SIGKILL);
        k = (struct taker){.listener = in_wharfds_place(dir), .each_ms = WHARF_NAMES_START_MS / (NAMES - 2)};
        pid_t second = test_fork(takes_names, &k);
        close(k.listener);
        CHECK_EQ(wharf_names_renew(t), 0);
        CHECK_EQ(kill(second, SIGKILL), 0);
        CHECK_EQ(test_wait(second), 128 + SIGKILL);
        wharf_task_close(t);
}
