/*
 * Starting programs with an initial set of rights; and what a program that is started in any other way inherits:
 * nothing.
 */
#include "again.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

extern char **environ;

static wharf_task *task_open(void)
{
        wharf_task *t;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        return t;
}

/* The descriptors that are open here, as text, without the one that reads them. */
static void list_fds(char *to, size_t cap)
{
        DIR *d = opendir("/proc/self/fd");
        struct dirent *e;
        size_t n = 0;
        bool open_at[256] = {0};
        while (d && (e = readdir(d)))
                if (e->d_name[0] != '.' && atoi(e->d_name) != dirfd(d) && atoi(e->d_name) < 256)
                        open_at[atoi(e->d_name)] = true;
        if (d)
                closedir(d);
        *to = 0;
        for (int i = 0; i < 256; i++)
                if (open_at[i])
                        n += (size_t)snprintf(to + n, cap - n, "%d ", i);
}

/* ---- what is given arrives ---- */

/* Says over "log" what "pipe" holds, then how often it was asked on its own port. */
ROLE(worker)
{
        (void)argc, (void)argv;
        wharf_task *t;
        struct wharf_item log, in, self;
        char text[64];
        MUST(wharf_task_open(NULL, &t) == 0);
        char **names;
        size_t n;
        MUST(wharf_inherited_list(t, &names, &n) == 0);
        MUST(n == 3 && !strcmp(names[0], "log") && !strcmp(names[1], "pipe") && !strcmp(names[2], WHARF_SELF));
        free(names);
        MUST(wharf_inherited(t, "log", &log) == 0 && log.kind == WHARF_GOT_SEND);
        MUST(wharf_inherited(t, "log", &log) == -ENOENT);
        MUST(wharf_inherited(t, "pipe", &in) == 0 && in.kind == WHARF_GOT_FD);
        MUST(wharf_inherited(t, WHARF_SELF, &self) == 0 && self.kind == WHARF_GOT_RECEIVE);
        MUST(wharf_inherited_list(t, &names, &n) == 0 && n == 0);
        free(names);
        ssize_t got = read(in.fd, text, sizeof text);
        MUST(got > 0);
        MUST(wharf_send(t, log.name, text, (size_t)got, WHARF_FOREVER) == 0);
        int asked = 0;
        for (;;) {
                struct wharf_msg m = MSG(.data = text, .cap_bytes = sizeof text);
                int r = wharf_recvmsg(t, self.name, &m, WHARF_FOREVER);
                if (r == -ENOTCONN)
                        break;
                MUST(r == 0);
                asked++;
                MUST(wharf_reply(t, m.reply, text, m.len_bytes) == 0);
        }
        wharf_task_close(t);
        return asked;
}

TEST(a_child_is_started_with_named_rights_descriptors_and_a_port_to_talk_to_it)
{
        unsigned before = count_fds();
        wharf_task *t = task_open();
        wharf_name port;
        int fd[2];
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(pipe2(fd, O_CLOEXEC), 0);
        CHECK_EQ(write(fd[1], "through the pipe", 16), 16);
        struct wharf_given given[] = {GIVE("log", WHARF_MAKE_SEND, port), GIVE_FD("pipe", WHARF_MOVE_FD, fd[0])};
        struct wharf_child c = CHILD;
        CHECK_EQ(wharf_spawn(t,
                             SPAWN_OPTS(.flags = WHARF_SPAWN_TALK, .argv = ARGV(WORD("@worker")), .given = given,
                                        .n_given = 2),
                             WHARF_FOREVER, &c),
                 0);
        CHECK_EQ(fcntl(fd[0], F_GETFD), -1);
        close(fd[1]);
        char text[64];
        struct wharf_sender who;
        CHECK_EQ(wharf_recv(t, port, text, sizeof text, &who, WHARF_FOREVER), 16);
        CHECK_EQ(who.pid, c.pid);
        CHECK_MEM(text, "through the pipe", 16);
        for (int i = 0; i < 40; i++) {
                CHECK_EQ(wharf_call(t, c.right, "ask", 3, text, sizeof text, WHARF_FOREVER), 3);
                CHECK_MEM(text, "ask", 3);
        }
        CHECK_EQ(wharf_drop(t, c.right), 0);
        CHECK_EQ(child_status(&c), 40);
        wharf_task_close(t);
        CHECK_EQ(count_fds(), before);
}

ROLE(say_kinds)
{
        (void)argc, (void)argv;
        wharf_task *t;
        struct wharf_item made, copied, moved, fresh;
        MUST(wharf_task_open(NULL, &t) == 0);
        MUST(wharf_inherited(t, "moved", &moved) == 0 && wharf_inherited(t, "copied", &copied) == 0);
        MUST(wharf_inherited(t, "made", &made) == 0 && wharf_inherited(t, "fresh", &fresh) == 0);
        MUST(wharf_send(t, made.name, "1", 1, WHARF_FOREVER) == 0);
        MUST(wharf_send(t, copied.name, "2", 1, WHARF_FOREVER) == 0);
        MUST(wharf_send(t, moved.name, "4", 1, WHARF_FOREVER) == 0);
        MUST(wharf_send(t, fresh.name, "8", 1, WHARF_FOREVER) == 0);
        wharf_task_close(t);
        return 0;
}

static int sum_until_deserted(wharf_task *t, wharf_name port)
{
        int sum = 0;
        char c;
        while (wharf_recv(t, port, &c, 1, NULL, WHARF_FOREVER) == 1)
                sum += c - '0';
        return sum;
}

TEST(rights_are_made_copied_and_moved_into_a_child)
{
        wharf_task *t = task_open();
        wharf_name port, used, fresh, kept;
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &used), 0);
        CHECK_EQ(wharf_right_new(t, port, &kept), 0);
        CHECK_EQ(wharf_right_new(t, port, &fresh), 0);
        for (int i = 0; i < 20; i++) /* so that it has a lane */
                CHECK_EQ(wharf_send(t, used, "0", 1, WHARF_FOREVER), 0);
        struct wharf_given given[] = {GIVE("made", WHARF_MAKE_SEND, port), GIVE("copied", WHARF_COPY_SEND, used),
                                      GIVE("moved", WHARF_MOVE_SEND, used), GIVE("fresh", WHARF_MOVE_SEND, fresh)};
        given[1].item.name = kept;
        struct wharf_child c = CHILD;
        CHECK_EQ(wharf_spawn(t, SPAWN_OPTS(.argv = ARGV(WORD("@say_kinds")), .given = given, .n_given = 4),
                             WHARF_FOREVER, &c),
                 0);
        CHECK_EQ(c.right, WHARF_NONE);
        CHECK_EQ(wharf_name_kind(t, used), -EBADF);
        CHECK_EQ(wharf_name_kind(t, fresh), -EBADF);
        CHECK_EQ(wharf_drop(t, kept), 0);
        CHECK_EQ(sum_until_deserted(t, port), 15);
        CHECK_EQ(child_status(&c), 0);
        wharf_task_close(t);
}

/* ---- exec: the same process, another program ---- */

static int exec_it(void *arg)
{
        struct hub *h = arg;
        wharf_name right, other;
        wharf_task *t = hub_join(h, &right);
        CHECK_EQ(wharf_right_connect(t, h->path, &other), 0);
        CHECK_EQ(wharf_send(t, right, "1", 1, WHARF_FOREVER), 0);
        struct wharf_given given[] = {GIVE("made", WHARF_COPY_SEND, other), GIVE("copied", WHARF_COPY_SEND, other),
                                      GIVE("fresh", WHARF_COPY_SEND, other), GIVE("moved", WHARF_MOVE_SEND, right)};
        struct wharf_spawn_opts o = {
                .size = sizeof o, .argv = ARGV(WORD("/nowhere/at/all")), .given = given, .n_given = 4};
        char *nowhere[] = {WORD("/nowhere/at/all"), NULL};
        o.argv = nowhere;
        CHECK_EQ(wharf_exec(t, &o, WHARF_FOREVER), -ENOENT);
        CHECK(strstr(wharf_why(), "/nowhere/at/all") != NULL);
        CHECK_EQ(wharf_send(t, right, "2", 1, WHARF_FOREVER), 0); /* nothing has changed */
        o.argv = ARGV(WORD("@say_kinds"));
        wharf_exec(t, &o, WHARF_FOREVER);
        return 1;
}

TEST(rights_survive_the_exec_of_their_own_process)
{
        struct hub h = hub_open(PORT_OPTS(.flags = 0));
        pid_t pid = test_fork(exec_it, &h);
        int sum = 0;
        char c;
        struct wharf_sender who;
        while (sum < 3 + 15) {
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, &who, WHARF_FOREVER), 1);
                CHECK_EQ(who.pid, pid);
                sum += c - '0';
        }
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* ---- failures ---- */

static int refuse(void *arg)
{
        return *(int *)arg;
}

TEST(a_program_that_cannot_start_leaves_every_right_where_it_was)
{
        wharf_task *t = task_open();
        wharf_name port, right;
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        CHECK_EQ(wharf_send(t, right, "x", 1, 0), 0);
        CHECK_EQ(wharf_recv(t, port, (char[4]){0}, 4, NULL, 0), 1);
        unsigned before = count_fds();
        struct wharf_given given[] = {GIVE("made", WHARF_MAKE_SEND, port), GIVE("moved", WHARF_MOVE_SEND, right)};
        struct wharf_child c = CHILD;
        char *nowhere[] = {WORD("/nowhere/at/all"), NULL}, *directory[] = {WORD("/tmp"), NULL};
        char **argvs[] = {nowhere, directory, ARGV(WORD("@worker")), ARGV(WORD("@worker"))};
        int no = -EXDEV, wants[] = {-ENOENT, -EACCES, -ENOTDIR, -EXDEV};
        for (int i = 0; i < 4; i++) {
                struct wharf_spawn_opts o = {
                        .size = sizeof o, .flags = WHARF_SPAWN_TALK, .argv = argvs[i], .given = given, .n_given = 2};
                o.cwd = i == 2 ? "/dev/null" : NULL;
                o.prepare = i == 3 ? refuse : NULL;
                o.prepare_arg = &no;
                CHECK_EQ(wharf_spawn(t, &o, WHARF_FOREVER, &c), wants[i]);
                CHECK(*wharf_why() != 0);
                CHECK_EQ(c.pid, 0);
                CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1); /* no child is left, not even a dead one */
                CHECK_EQ(wharf_send(t, right, "y", 1, 0), 0);
                CHECK_EQ(wharf_recv(t, port, (char[4]){0}, 4, NULL, 0), 1);
        }
        struct wharf_port_stat st = {.size = sizeof st};
        closes_rest();
        for (int i = 0; i < 4; i++) /* what came by introduction goes when the port looks */
                CHECK_EQ(wharf_recv(t, port, (char[4]){0}, 4, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_port_stat(t, port, &st), 0);
        CHECK_EQ(st.senders, 1);
        CHECK_EQ(count_fds(), before);
        wharf_task_close(t);
}

TEST(names_that_make_no_sense_are_refused)
{
        wharf_task *t = task_open();
        wharf_name port;
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        struct wharf_given given[] = {GIVE("same", WHARF_MAKE_SEND, port), GIVE("same", WHARF_MAKE_SEND, port)};
        struct wharf_child c = CHILD;
        struct wharf_spawn_opts o = {.size = sizeof o, .argv = ARGV(WORD("@worker")), .given = given, .n_given = 2};
        CHECK_EQ(wharf_spawn(t, &o, 0, &c), -EINVAL);
        CHECK_STR(wharf_why(), "'same' is given twice");
        char name[WHARF_GIVEN_NAME_MAX + 2];
        memset(name, 'n', sizeof name - 1);
        name[sizeof name - 1] = 0;
        given[1].name = name;
        CHECK_EQ(wharf_spawn(t, &o, 0, &c), -EINVAL);
        given[1].name = "";
        CHECK_EQ(wharf_spawn(t, &o, 0, &c), -EINVAL);
        given[1] = GIVE("gone", WHARF_MOVE_SEND, 4711);
        CHECK_EQ(wharf_spawn(t, &o, 0, &c), -EBADF);
        o.flags = 64;
        CHECK_EQ(wharf_spawn(t, &o, 0, &c), -EINVAL);
        o.flags = 0;
        o.argv = (char *[]){NULL};
        CHECK_EQ(wharf_spawn(t, &o, 0, &c), -EINVAL);
        c.size = 0;
        wharf_task_close(t);
}

TEST(at_the_limit_of_descriptors_spawn_fails_whole_or_works_whole)
{
        wharf_task *t = task_open();
        wharf_name port;
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        struct wharf_given given[] = {GIVE("made", WHARF_MAKE_SEND, port)};
        unsigned open_now = count_fds(), failed = 0;
        struct rlimit was, lim;
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &was), 0);
        for (unsigned room = 0;; room++) {
                struct wharf_child c = CHILD;
                int low = open("/dev/null", O_RDONLY | O_CLOEXEC);
                close(low);
                lim = (struct rlimit){(rlim_t)low + room, was.rlim_max};
                CHECK_EQ(setrlimit(RLIMIT_NOFILE, &lim), 0);
                int r = wharf_spawn(t,
                                    SPAWN_OPTS(.argv = (char *[]){WORD("/bin/true"), NULL}, .given = given,
                                               .n_given = 1, .flags = WHARF_SPAWN_TALK),
                                    WHARF_FOREVER, &c);
                CHECK_EQ(setrlimit(RLIMIT_NOFILE, &was), 0);
                if (r == 0) {
                        CHECK_EQ(child_status(&c), 0);
                        CHECK_EQ(wharf_drop(t, c.right), 0);
                        break;
                }
                failed++;
                CHECK(r == -EMFILE ||
                      r == -ETOOMANYREFS); /* what others of this user have on their way counts as well */
                if (r == -ETOOMANYREFS) {
                        usleep(10000);
                        room--;
                }
                CHECK_EQ(waitpid(-1, NULL, WNOHANG), -1);
                CHECK_EQ(count_fds(), open_now);
                CHECK_LE(room, 40);
        }
        CHECK_GE(failed, 4);
        wharf_task_close(t);
}

/* ---- by accident ---- */

ROLE(accident)
{
        (void)argc, (void)argv;
        /* What a program started by another one sees that was given rights and has not asked for them. */
        wharf_task *t;
        struct wharf_item it;
        MUST(wharf_task_open(NULL, &t) == 0);
        int r = wharf_inherited(t, "log", &it);
        fprintf(stderr, "%s", wharf_why());
        wharf_task_close(t);
        return -r;
}

ROLE(shell)
{
        /* Starts what it is told to with plain fork() and exec(), having asked for its rights before or not. */
        wharf_task *t;
        struct wharf_item it;
        MUST(argc == 2);
        MUST(wharf_task_open(NULL, &t) == 0);
        if (!strcmp(argv[1], "asks"))
                MUST(wharf_inherited(t, "log", &it) == 0);
        if (!strcmp(argv[1], "becomes")) {
                MUST(wharf_inherited(t, "log", &it) == 0);
                execl(SELF_EXE, SELF_EXE, "@accident", NULL);
        }
        pid_t pid = fork();
        if (pid == 0) {
                execl(SELF_EXE, SELF_EXE, "@accident", NULL);
                _exit(99);
        }
        int st;
        MUST(waitpid(pid, &st, 0) == pid);
        return WEXITSTATUS(st);
}

static int spawned(wharf_task *t, uint32_t flags, char *role, char *word, char *err, size_t cap)
{
        wharf_name port;
        int fd[2];
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(pipe2(fd, O_CLOEXEC), 0);
        struct wharf_given given[] = {GIVE("log", WHARF_MAKE_SEND, port)};
        struct wharf_child c = CHILD;
        CHECK_EQ(wharf_spawn(t,
                             SPAWN_OPTS(.flags = flags, .argv = ARGV(role, word), .given = given, .n_given = 1,
                                        .stdio = (int[]){-1, -1, fd[1]}),
                             WHARF_FOREVER, &c),
                 0);
        close(fd[1]);
        size_t n = 0;
        for (ssize_t r; (r = read(fd[0], err + n, cap - 1 - n)) > 0;)
                n += (size_t)r;
        err[n] = 0;
        close(fd[0]);
        CHECK_EQ(wharf_drop(t, port), 0);
        return child_status(&c);
}

TEST(a_grandchild_that_inherits_the_variable_by_accident_is_told_so)
{
        wharf_task *t = task_open();
        char err[512];
        CHECK_EQ(spawned(t, 0, WORD("@shell"), WORD("waits"), err, sizeof err), EACCES);
        CHECK(strstr(err, "$WHARF_RIGHTS is for process ") != NULL);
        CHECK_EQ(spawned(t, 0, WORD("@shell"), WORD("asks"), err, sizeof err), EACCES);
        wharf_task_close(t);
}

TEST(the_next_program_of_the_same_process_is_told_that_they_were_taken)
{
        wharf_task *t = task_open();
        char err[512];
        CHECK_EQ(spawned(t, 0, WORD("@shell"), WORD("becomes"), err, sizeof err), EACCES);
        CHECK(strstr(err, "it was taken already") != NULL);
        wharf_task_close(t);
}

TEST(behind_a_wrapper_the_first_that_asks_gets_them)
{
        wharf_task *t = task_open();
        char err[512];
        CHECK_EQ(spawned(t, WHARF_SPAWN_WRAPPED, WORD("@shell"), WORD("waits"), err, sizeof err), 0);
        wharf_task_close(t);
}

TEST(whoever_was_given_nothing_is_told_so)
{
        wharf_task *t = task_open();
        struct wharf_item it;
        char **names;
        size_t n = 1;
        CHECK_EQ(unsetenv("WHARF_RIGHTS"), 0);
        CHECK_EQ(wharf_inherited(t, "log", &it), -ENOENT);
        CHECK(strstr(wharf_why(), "was given no rights") != NULL);
        CHECK_EQ(wharf_inherited_list(t, &names, &n), 0);
        CHECK_EQ(n, 0);
        free(names);
        wharf_task_close(t);
}

/* ---- a parent that lies ---- */

static int lied_to(const void *bytes, size_t len, int fd, const char *variable)
{
        int sv[2];
        char text[128];
        struct stat st;
        CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
        if (len)
                CHECK_EQ(send(sv[0], bytes, len, MSG_NOSIGNAL), (ssize_t)len);
        close(sv[0]);
        CHECK_EQ(fstat(sv[1], &st), 0);
        snprintf(text, sizeof text, "%d:%d:%llu", (int)getpid(), fd < 0 ? sv[1] : fd, (unsigned long long)st.st_ino);
        CHECK_EQ(setenv("WHARF_RIGHTS", variable ? variable : text, 1), 0);
        wharf_task *t = task_open();
        struct wharf_item it;
        int r = wharf_inherited(t, "log", &it);
        wharf_task_close(t);
        close(sv[1]);
        return -r;
}

struct lie {
        const void *bytes;
        size_t len;
        int fd;
        const char *variable;
};

static int in_a_process(void *arg)
{
        struct lie *l = arg;
        return lied_to(l->bytes, l->len, l->fd, l->variable);
}

TEST(bytes_and_variables_that_no_library_made_are_refused)
{
        unsigned char noise[600];
        pattern_fill(noise, sizeof noise, test_seed);
        struct lie lies[] = {
                {noise, sizeof noise, -1, NULL},
                {"", 1, -1, NULL},
                {noise, 40, -1, NULL},
                {NULL, 0, -1, NULL},
                {NULL, 0, 0, NULL},
                {NULL, 0, -1, "nonsense"},
                {NULL, 0, -1, "1:2"},
                {NULL, 0, -1, "::"},
                {NULL, 0, -1, "0:99999999999999999999:1"},
                {NULL, 0, -1, "0:3:1x"},
                {NULL, 0, -1, ""},
        };
        int wants[] = {EPROTO, EACCES, EPROTO, EACCES, EACCES, EPROTO, EPROTO, EPROTO, EPROTO, EPROTO, EPROTO};
        for (unsigned i = 0; i < sizeof lies / sizeof *lies; i++) {
                int st = test_wait(test_fork(in_a_process, &lies[i]));
                if (st != wants[i])
                        test_fail(__FILE__, __LINE__, "lie %u: %d, not %d", i, st, wants[i]);
        }
}

/* ---- the child itself ---- */

ROLE(about_me)
{
        (void)argc, (void)argv;
        wharf_task *t;
        struct wharf_item out;
        char text[1024], fds[512], cwd[256];
        list_fds(fds, sizeof fds);
        MUST(wharf_task_open(NULL, &t) == 0);
        MUST(wharf_inherited(t, "out", &out) == 0);
        MUST(fcntl(out.fd, F_GETFD) == FD_CLOEXEC);
        sigset_t blocked;
        struct sigaction usr1, hup;
        sigprocmask(SIG_SETMASK, NULL, &blocked);
        sigaction(SIGUSR1, NULL, &usr1);
        sigaction(SIGHUP, NULL, &hup);
        MUST(getcwd(cwd, sizeof cwd) != NULL);
        int n = snprintf(text, sizeof text, "fds %s| blocked %d | usr1 %s | hup %s | in %s | 0 is %s | nnp %d", fds,
                         sigismember(&blocked, SIGTERM), usr1.sa_handler == SIG_DFL ? "default" : "other",
                         hup.sa_handler == SIG_IGN ? "ignored" : "other", cwd, isatty(0) ? "tty" : "other",
                         prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
        MUST(write(out.fd, text, (size_t)n) == n);
        wharf_task_close(t);
        return 7;
}

static void on_usr1(int sig)
{
        (void)sig;
}

static int no_new_privs(void *arg)
{
        (void)arg;
        return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}

TEST(a_child_has_what_it_was_given_and_a_clean_state_otherwise)
{
        test_need_proc();
        wharf_task *t = task_open();
        int fd[2], stray = open("/dev/null", O_RDONLY); /* not close-on-exec */
        sigset_t term;
        sigemptyset(&term);
        sigaddset(&term, SIGTERM);
        CHECK_GE(stray, 3);
        CHECK_EQ(sigprocmask(SIG_BLOCK, &term, NULL), 0);
        signal(SIGUSR1, on_usr1);
        signal(SIGHUP, SIG_IGN);
        CHECK_EQ(pipe2(fd, O_CLOEXEC), 0);
        struct wharf_given given[] = {GIVE_FD("out", WHARF_COPY_FD, fd[1])};
        struct wharf_child c = CHILD;
        CHECK_EQ(wharf_spawn(t,
                             SPAWN_OPTS(.argv = ARGV(WORD("@about_me")), .given = given, .n_given = 1, .cwd = "/usr",
                                        .stdio = (int[]){-1, 2, 2}, .prepare = no_new_privs),
                             WHARF_FOREVER, &c),
                 0);
        char text[1024] = "", want[1024];
        CHECK(read(fd[0], text, sizeof text - 1) > 0);
        close(fd[0]);
        close(fd[1]);
        close(stray);
        CHECK_EQ(child_status(&c), 7);
        /* One descriptor beside the standard three: the one that brings the rights. */
        int carrier = -1, end = 0;
        CHECK_EQ(sscanf(text, "fds 0 1 2 %d %n|", &carrier, &end), 1);
        CHECK_GE(carrier, 3);
        snprintf(want, sizeof want, "| blocked 0 | usr1 default | hup ignored | in /usr | 0 is other | nnp 1");
        CHECK_STR(text + end, want);
        sigset_t now;
        sigprocmask(SIG_SETMASK, NULL, &now);
        CHECK(sigismember(&now, SIGTERM) && !sigismember(&now, SIGINT)); /* the parent's is as it was */
        wharf_task_close(t);
}

ROLE(sleeper)
{
        (void)argc, (void)argv;
        while (pause() < 0)
                ;
        return 0;
}

TEST(a_child_is_waited_for_and_killed_by_its_descriptor)
{
        wharf_task *t = task_open();
        struct wharf_child c = CHILD;
        int status;
        CHECK_EQ(wharf_spawn(t, SPAWN_OPTS(.argv = ARGV(WORD("@sleeper"))), WHARF_FOREVER, &c), 0);
        CHECK_EQ(wharf_child_wait(&c, 0, &status), -EAGAIN);
        CHECK_EQ(wharf_child_wait(&c, wharf_in_ms(5), &status), -ETIMEDOUT);
        CHECK_EQ(wharf_child_kill(&c, SIGTERM), 0);
        CHECK_EQ(child_status(&c), -SIGTERM);
        CHECK_EQ(wharf_child_kill(&c, SIGTERM), -EBADF);
        CHECK_EQ(wharf_child_wait(&c, 0, &status), -EBADF);
        wharf_task_close(t);
}

TEST(the_death_of_a_child_is_a_dead_name_for_who_talks_to_it)
{
        wharf_task *t = task_open();
        struct wharf_child c = CHILD;
        CHECK_EQ(wharf_spawn(t, SPAWN_OPTS(.argv = ARGV(WORD("@sleeper")), .flags = WHARF_SPAWN_TALK), WHARF_FOREVER,
                             &c),
                 0);
        CHECK_EQ(wharf_send(t, c.right, "early", 5, 0), 0); /* before it has asked for anything */
        CHECK_EQ(wharf_child_kill(&c, SIGKILL), 0);
        CHECK_EQ(wharf_call(t, c.right, "?", 1, (char[4]){0}, 4, WHARF_FOREVER), -EPIPE);
        CHECK_EQ(child_status(&c), -SIGKILL);
        wharf_task_close(t);
}

/* ---- from many threads ---- */

static void *spawner(void *arg)
{
        wharf_task *t = arg;
        for (int i = 0; i < 8; i++) {
                wharf_name port;
                struct wharf_child c = CHILD;
                CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
                struct wharf_given given[] = {GIVE("log", WHARF_MAKE_SEND, port)};
                CHECK_EQ(wharf_spawn(t,
                                     SPAWN_OPTS(.argv = ARGV(WORD("@shell"), WORD("asks")), .given = given,
                                                .n_given = 1, .stdio = (int[]){-1, -1, -1}),
                                     WHARF_FOREVER, &c),
                         0);
                CHECK_EQ(wharf_recv(t, port, (char[4]){0}, 4, NULL, WHARF_FOREVER), -ENOTCONN);
                CHECK_EQ(child_status(&c), EACCES);
                CHECK_EQ(wharf_drop(t, port), 0);
        }
        return NULL;
}

TEST(threads_that_start_children_at_once_give_each_its_own)
{
        wharf_task *t = task_open();
        pthread_t th[3];
        for (int i = 0; i < 3; i++)
                CHECK_EQ(pthread_create(&th[i], NULL, spawner, t), 0);
        for (int i = 0; i < 3; i++)
                CHECK_EQ(pthread_join(th[i], NULL), 0);
        wharf_task_close(t);
}

/* ---- every other way to start a program: nothing of the library gets across ---- */

ROLE(list_fds)
{
        char fds[512];
        list_fds(fds, sizeof fds);
        return argc != 2 || strcmp(fds, argv[1]) != 0;
}

/* What a program started from here has anyway: of the harness, and of whoever started it. */
static void list_inherited_fds(char *to, size_t cap)
{
        size_t n = 0;
        for (int fd = 0; fd < 256; fd++) {
                int flags = fcntl(fd, F_GETFD);
                if (flags >= 0 && !(flags & FD_CLOEXEC))
                        n += (size_t)snprintf(to + n, cap - n, "%d ", fd);
        }
}

static int status_of(pid_t pid)
{
        int st;
        CHECK(pid > 0);
        CHECK_EQ(waitpid(pid, &st, 0), pid);
        return WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
}

TEST(no_descriptor_of_the_library_leaks_into_a_program_started_otherwise)
{
        test_need_proc();
        char text[64], anyway[512];
        list_inherited_fds(anyway, sizeof anyway);
        struct hub h = hub_open(NULL);
        wharf_name right, set, made;
        CHECK_EQ(wharf_right_connect(h.task, h.path, &right), 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &made), 0);
        CHECK_EQ(wharf_send(h.task, right, "x", 1, 0), 0);
        CHECK_EQ(wharf_recv(h.task, h.port, text, sizeof text, NULL, WHARF_FOREVER), 1);
        static char large[20000];
        struct wharf_msg big = MSG(.data = large, .len_bytes = sizeof large, .how = WHARF_HOW_SECTION);
        CHECK_EQ(wharf_sendmsg(h.task, right, &big, WHARF_FOREVER), 0); /* a lane, and a section */
        int fd;
        CHECK_EQ(wharf_port_fd(h.task, h.port, &fd), 0);
        CHECK_EQ(wharf_set_new(h.task, &set), 0);
        CHECK_EQ(wharf_set_add(h.task, set, h.port), 0);
        char *argv[] = {SELF_EXE, WORD("@list_fds"), anyway, NULL};
        pid_t pid;
        CHECK_EQ(posix_spawn(&pid, SELF_EXE, NULL, NULL, argv, environ), 0);
        CHECK_EQ(status_of(pid), 0);
        pid = fork();
        if (pid == 0) {
                execv(SELF_EXE, argv);
                _exit(99);
        }
        CHECK_EQ(status_of(pid), 0);
        pid = vfork();
        if (pid == 0) {
                execv(SELF_EXE, argv);
                _exit(99);
        }
        CHECK_EQ(status_of(pid), 0);
        struct wharf_msg m = MSG(.data = large, .cap_bytes = sizeof large);
        CHECK_EQ(wharf_recvmsg(h.task, set, &m, 0), 0); /* and the parent goes on */
        CHECK_EQ(m.len_bytes, sizeof large);
        hub_close(&h);
}
