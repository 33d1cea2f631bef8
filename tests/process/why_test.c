/*
 * What wharf_why() says of every kind of failure, and wharf_strerror() of every errno.
 */
#include "domain.h"
#include "hub.h"

#include <wharf/wharf.h>

#include <fcntl.h>
#include <grp.h>
#include <sys/prctl.h>

static wharf_task *task;
static wharf_name port, right, set, once, memory;
static char bytes[4096];

/* The call fails so, and says both. */
#define FAILS(err, what, call)                                                                     \
        do {                                                                                       \
                long long r_ = (long long)(call);                                                  \
                if (r_ != (err) || !strstr(wharf_why(), (what)))                                   \
                        test_fail(__FILE__, __LINE__, "%s: %lld, \"%s\"", #call, r_, wharf_why()); \
        } while (0)

static void make(const struct wharf_port_opts *opts)
{
        CHECK_EQ(wharf_task_open(NULL, &task), 0);
        CHECK_EQ(wharf_port_new(task, opts, &port), 0);
        CHECK_EQ(wharf_right_new(task, port, &right), 0);
        CHECK_EQ(wharf_set_new(task, &set), 0);
        CHECK_EQ(wharf_once_new(task, port, &once), 0);
        CHECK_EQ(wharf_memory_new(task, 5000, &memory), 0);
}

TEST(limits_are_named_with_their_numbers)
{
        make(PORT_OPTS(.payload_bytes_max = 2000, .capacity_records = 1));
        FAILS(-EMSGSIZE, "at most 2000 bytes", wharf_send(task, right, bytes, 2001, 0));
        FAILS(-EMSGSIZE, "at most 2000 bytes", wharf_sendmsg(task, right, &MSG(.data = bytes, .len_bytes = 2001), 0));
        struct wharf_item item = {.kind = WHARF_COPY_MEMORY, .name = memory};
        FAILS(-EMSGSIZE, "at most 2000 bytes", wharf_sendmsg(task, right, &MSG(.items = &item, .n_items = 1), 0));
        FAILS(-EMSGSIZE, "at most", wharf_reserve(task, right, 100u << 20, &MSG(.id = 0), 0));
        CHECK_EQ(wharf_send(task, right, bytes, 2000, 0), 0);
        FAILS(-EOVERFLOW, "2000 bytes", wharf_recv(task, port, bytes, 1000, NULL, 0));
        FAILS(-EOVERFLOW, "room for 1000", wharf_recvmsg(task, port, &MSG(.data = bytes, .cap_bytes = 1000), 0));
        while (wharf_send(task, right, bytes, 10, 0) == 0)
                ;
        FAILS(-EAGAIN, "queue is full", wharf_send(task, right, bytes, 10, 0));
        FAILS(-ETIMEDOUT, "until the deadline", wharf_send(task, right, bytes, 10, wharf_in_ms(1)));
        struct wharf_msg later = MSG(.data = bytes, .len_bytes = 10, .flags = WHARF_SEND_LATER);
        CHECK_EQ(wharf_sendmsg(task, right, &later, 0), 1);
        FAILS(-EBUSY, "left on this right already", wharf_sendmsg(task, right, &later, 0));
        wharf_task_close(task);
}

TEST(names_are_told_from_what_they_are_not)
{
        make(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        char name[32];
        snprintf(name, sizeof name, "name %u is a port", port);
        FAILS(-EPERM, name, wharf_send(task, port, bytes, 1, 0));
        FAILS(-EPERM, name, wharf_call(task, port, bytes, 1, bytes, 1, 0));
        FAILS(-EPERM, name, wharf_memory_at(task, port, &(void *){NULL}, NULL));
        FAILS(-EPERM, name, wharf_reply(task, port, bytes, 1));
        snprintf(name, sizeof name, "name %u is a send right", right);
        FAILS(-EPERM, name, wharf_recv(task, right, bytes, 1, NULL, 0));
        FAILS(-EPERM, name, wharf_recvmsg(task, right, &MSG(.id = 0), 0));
        FAILS(-EPERM, name, wharf_right_new(task, right, &(wharf_name){0}));
        FAILS(-EPERM, name, wharf_port_fd(task, right, &(int){0}));
        FAILS(-EPERM, name, wharf_reply(task, right, bytes, 1));
        FAILS(-EPERM, name, wharf_set_add(task, set, right));
        FAILS(-EPERM, "a send-once right", wharf_right_copy(task, once, 0, &(wharf_name){0}));
        FAILS(-EPERM, "send-once right", wharf_call(task, once, bytes, 1, bytes, 1, 0));
        FAILS(-EPERM, "a memory", wharf_send(task, memory, bytes, 1, 0));
        FAILS(-EBADF, "name 12345,", wharf_send(task, 12345, bytes, 1, 0));
        FAILS(-EBADF, "name 12345,", wharf_recv(task, 12345, bytes, 1, NULL, 0));
        FAILS(-EBADF, "name 12345,", wharf_drop(task, 12345));
        FAILS(-EBADF, "name 12345,", wharf_set_add(task, set, 12345));
        struct wharf_item item = {.kind = WHARF_COPY_SEND, .name = port};
        FAILS(-EPERM, "items[0]: name", wharf_sendmsg(task, right, &MSG(.items = &item, .n_items = 1), 0));
        item = (struct wharf_item){.kind = WHARF_COPY_FD, .fd = -1};
        FAILS(-EBADF, "items[0] is the descriptor -1",
              wharf_sendmsg(task, right, &MSG(.items = &item, .n_items = 1), 0));
        CHECK_EQ(wharf_set_add(task, set, port), 0);
        FAILS(-EBUSY, "is in a set", wharf_recv(task, port, bytes, 1, NULL, 0));
        FAILS(-EBUSY, "is in a set", wharf_set_add(task, set, port));
        CHECK_EQ(wharf_set_remove(task, set, port), 0);
        FAILS(-ENOENT, "is not in set", wharf_set_remove(task, set, port));
        CHECK_EQ(wharf_watch(task, right, WHARF_NONE), 0);
        FAILS(-EBUSY, "asked for about", wharf_watch(task, right, WHARF_NONE));
        wharf_task_close(task);
}

TEST(waits_and_ends_are_told)
{
        make(NULL);
        FAILS(-EAGAIN, "no message is there", wharf_recv(task, port, bytes, 1, NULL, 0));
        FAILS(-ETIMEDOUT, "no message came", wharf_recv(task, port, bytes, 1, NULL, wharf_in_ms(1)));
        FAILS(-ETIMEDOUT, "no reply came", wharf_call(task, right, bytes, 1, bytes, 1, wharf_in_ms(1)));
        struct wharf_msg m = MSG(.data = bytes, .cap_bytes = sizeof bytes);
        uint32_t call;
        CHECK_EQ(wharf_recvmsg(task, port, &m, 0), 0);
        FAILS(-EPIPE, "", wharf_reply(task, m.reply, bytes, 1) ?: -EPIPE);
        CHECK_EQ(wharf_call_start(task, right, &MSG(.data = bytes, .len_bytes = 1), WHARF_NONE, 0, &call), 0);
        CHECK_EQ(wharf_recvmsg(task, port, &m, 0), 0);
        CHECK_EQ(wharf_drop(task, m.reply), 0);
        FAILS(-ECANCELED, "dropped the request", wharf_call_finish(task, right, call, &m, 0));
        FAILS(-ENOENT, "99 is no sender", wharf_recvmsg(task, port, &MSG(.from = 99), 0));
        FAILS(-ENOENT, "99 is no sender", wharf_sender_pidfd(task, 99, &(int){0}));
        FAILS(-ENOENT, "99 sends nothing", wharf_revoke(task, port, 99, 0));
        FAILS(-ENOENT, "/nowhere", wharf_right_connect(task, "/nowhere", &(wharf_name){0}));
        CHECK_EQ(wharf_drop(task, port), 0);
        FAILS(-EPIPE, "receiver is gone", wharf_send(task, right, bytes, 1, 0));
        struct wharf_child waited = {.size = sizeof waited, .pidfd = -1};
        FAILS(-EBADF, "waited for already", wharf_child_wait(&waited, 0, &(int){0}));
        FAILS(-EBADF, "waited for already", wharf_child_kill(&waited, SIGKILL));
        wharf_task_close(task);
}

/* A call that succeeds on the way out of one that fails does not take its reason away. */
TEST(what_succeeds_leaves_it_alone)
{
        make(NULL);
        CHECK_EQ(wharf_drop(task, 12345), -EBADF);
        CHECK_EQ(wharf_drop(task, right), 0);
        CHECK_EQ(wharf_drop(task, port), 0);
        CHECK(strstr(wharf_why(), "12345") != NULL);
        wharf_task_close(task);
}

/*
 * Goal:   the very first call of a task says why it was refused, and so does every later one.
 * Method: a shared domain whose rules let nobody but root use a name; an ordinary user asks.
 */
static int refused_at_once(void *arg)
{
        wharf_name r;
        test_drop_root();
        prctl(PR_SET_DUMPABLE, 1);
        for (int i = 0; i < 3; i++) {
                CHECK_EQ(wharf_task_open(NULL, &task), 0);
                FAILS(-EACCES, "closed.x", wharf_lookup(task, "closed.x", 0, &r));
                wharf_task_close(task);
                CHECK_EQ(wharf_task_open(NULL, &task), 0);
                CHECK_EQ(wharf_port_new(task, NULL, &r), 0);
                FAILS(-EACCES, "closed.x", wharf_register(task, "closed.x", r));
                wharf_task_close(task);
        }
        return 0;
}

TEST(the_first_call_of_a_task_says_why_it_is_refused)
{
        if (geteuid() != 0)
                test_skip("needs root: a domain for several users");
        const char *dir = test_domain();
        char conf[300], *argv[] = {getenv("WHARFD"),         (char[]){"--domain"},
                                   (char *)(uintptr_t)dir,   (char[]){"--share"},
                                   (char[]){"--config"},     conf,
                                   (char[]){"--foreground"}, (char[]){"--linger"},
                                   (char[]){"forever"},      NULL};
        snprintf(conf, sizeof conf, "%s/conf", test_dir());
        FILE *f = fopen(conf, "we");
        CHECK(f != NULL);
        fputs("use closed. uid=0\n", f);
        fclose(f);
        pid_t pid = fork();
        if (pid == 0) {
                int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
                dup2(null, 2);
                execv(argv[0], argv);
                _exit(127);
        }
        char path[300];
        struct stat st;
        snprintf(path, sizeof path, "%s/bootstrap", dir);
        UNTIL(stat(path, &st) == 0 && (st.st_mode & 06) == 06);
        CHECK_EQ(test_wait(test_fork(refused_at_once, NULL)), 0);
        kill(pid, SIGTERM);
        CHECK_EQ(test_wait(pid), 0);
}

TEST(every_errno_is_named)
{
        CHECK_STR(wharf_strerror(0), "done");
        CHECK_STR(wharf_strerror(-EPIPE), "the receiver is gone (EPIPE)");
        CHECK_STR(wharf_strerror(EPIPE), "the receiver is gone (EPIPE)");
        for (int e = 1; e < 200; e++) {
                char name[40];
                if (!strerrorname_np(e))
                        continue;
                snprintf(name, sizeof name, "(%s)", strerrorname_np(e));
                if (!strstr(wharf_strerror(-e), name))
                        test_fail(__FILE__, __LINE__, "%d: %s", e, wharf_strerror(-e));
        }
        CHECK_STR(wharf_strerror(-100000), "unknown error (-100000)");
        CHECK(wharf_strerror(INT32_MIN) != NULL);
}
