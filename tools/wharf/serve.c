/*
 * wharf serve - serve a name with a command: each message is its standard input, its output the reply.
 *
 * One thread and one poll(): a job reads its request from memory and collects its reply in memory, so neither side of
 * a command can block the other, whatever it reads or writes first. A command that fails drops its request: the caller
 * learns that no reply will come.
 *
 *      state    when                                     then
 *      RUNS     its output ends and it has exited with 0  the output is the reply
 *      RUNS     it has exited otherwise, or been killed   the request is dropped, and standard error says why
 *      RUNS     it writes more than the size limit        it is killed
 *
 * When this process dies, however that is, the kernel ends its commands (PR_SET_PDEATHSIG) and takes back the name.
 */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern const struct verb verb_serve;

enum { JOBS_MAX = 256, PIPE_BYTES = 1 << 20 };

struct job {
        struct wharf_msg msg; /* the request; its payload is ours until wharf_release() */
        size_t written;       /* of the request, to the command */
        int in, out, pidfd;   /* -1 once closed; `in` is where we write */
        pid_t pid;
        bool too_long;
        uint8_t *reply;
        size_t reply_len, reply_cap;
};

struct server {
        const struct verb *verb;
        const char *name;
        char **cmd;
        wharf_task *task;
        wharf_name port;
        uint64_t size_limit;
        struct job *jobs;
        size_t n_jobs, n_jobs_max;
};

static int pidfd_open_(pid_t pid)
{
        return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* May it be executed? 0, or a negative errno; a directory is no command. */
static int executable(const char *path)
{
        struct stat st;
        if (access(path, X_OK) < 0 || stat(path, &st) < 0)
                return -errno;
        return S_ISDIR(st.st_mode) ? -EISDIR : 0;
}

/* Can this command be run at all? Better said now than to the first caller. 0 or a negative errno. */
static int command_found(const char *cmd)
{
        int worst = -ENOENT;
        if (strchr(cmd, '/'))
                return executable(cmd);
        const char *at = getenv("PATH");
        for (at = at ? at : "/bin:/usr/bin"; *at;) {
                char path[4096];
                int n = (int)strcspn(at, ":");
                snprintf(path, sizeof path, "%.*s%s%s", n, at, n ? "/" : "", cmd);
                int r = executable(path);
                if (r == 0)
                        return 0;
                if (r == -EACCES &&
                    faccessat(AT_FDCWD, path, F_OK, 0) == 0) /* worth more than that it is nowhere else */
                        worst = r;
                at += n;
                at += *at == ':';
        }
        return worst;
}

static bool surely(uint32_t known)
{
        return known == WHARF_KNOWN_OWN || known == WHARF_KNOWN_CONNECTED || known == WHARF_KNOWN_BOUND;
}

/*
 * May the command decide by who the sender is? Only where that is sure, and where all who gave it its right are the same user:
 * with a right from another, which it was told to call back, say, a process speaks that one's words.
 */
static bool speaks_for_itself(const struct server *s, const struct wharf_sender *from)
{
        enum { MANY = 64 };
        struct wharf_introducer by[MANY];
        if (!surely(from->known))
                return false;
        if (from->introducer.known == WHARF_KNOWN_NOBODY)
                return true;
        int n = wharf_sender_introducers(s->task, from->id, by, MANY);
        bool same = n >= 0 && n <= MANY && from->uid != (uid_t)-1; /* two without a number may be two users */
        for (int i = 0; same && i < n; i++)
                same = surely(by[i].known) && by[i].uid == from->uid;
        return same;
}

/* In the child; does not return. */
static void exec_command(const struct server *s, const struct wharf_sender *from, /* NULL: nobody who is known */
                         pid_t parent, int in, int out)
{
        char text[24];
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) /* it died before it could be watched */
                _exit(127);
        signal(SIGPIPE, SIG_DFL);
        /* Neither can be 0 or 1: main() made sure that those are open. */
        dup2(in, STDIN_FILENO);
        dup2(out, STDOUT_FILENO);
        fcntl(STDERR_FILENO, F_SETFD, 0); /* where it was closed, /dev/null rather than the first file it opens */
        setenv("WHARF_SERVED_NAME", s->name, 1);
        snprintf(text, sizeof text, "%d", from ? (int)from->pid : 0);
        setenv("WHARF_SENDER_PID", text, 1);
        snprintf(text, sizeof text, "%lld", from && from->uid != (uid_t)-1 ? (long long)from->uid : -1);
        setenv("WHARF_SENDER_UID", text, 1);
        execvp(s->cmd[0], s->cmd);
        verb_fail(s->verb, 127, "%s: %s", s->cmd[0], strerror(errno));
        _exit(127);
}

static void close_fd(int *fd)
{
        if (*fd >= 0)
                close(*fd);
        *fd = -1;
}

/* Start the command for a message, which becomes the job's. A negative errno: the message is still the caller's. */
static int job_start(struct server *s, const struct wharf_msg *m)
{
        int in[2] = {-1, -1}, out[2] = {-1, -1}, pidfd = -1, r = 0;
        pid_t pid = -1, parent = getpid();
        if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || fcntl(in[1], F_SETFL, O_NONBLOCK) < 0 ||
            fcntl(out[0], F_SETFL, O_NONBLOCK) < 0)
                r = -errno;
        const struct wharf_sender *from = speaks_for_itself(s, &m->sender) ? &m->sender : NULL;
        if (r == 0) {
                fcntl(in[1], F_SETPIPE_SZ, PIPE_BYTES); /* fewer turns for large messages; refused for some users */
                fcntl(out[0], F_SETPIPE_SZ, PIPE_BYTES);
                fflush(NULL);
                pid = fork();
                if (pid == 0)
                        exec_command(s, from, parent, in[0], out[1]);
                r = pid < 0 ? -errno : 0;
        }
        close_fd(&in[0]);
        close_fd(&out[1]);
        if (r == 0 && (pidfd = pidfd_open_(pid)) < 0) {
                r = -errno;
                kill(pid, SIGKILL);
                waitpid(pid, NULL, 0);
        }
        if (r < 0) {
                close_fd(&in[1]);
                close_fd(&out[0]);
                return r;
        }
        s->jobs[s->n_jobs++] = (struct job){.msg = *m, .in = in[1], .out = out[0], .pidfd = pidfd, .pid = pid};
        return 0;
}

static void job_write(struct job *j)
{
        while (j->in >= 0 && j->written < j->msg.len_bytes) {
                ssize_t n = write(j->in, (const char *)j->msg.data + j->written, j->msg.len_bytes - j->written);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return;
                if (n < 0)
                        break; /* EPIPE: the command has read enough */
                j->written += (size_t)n;
        }
        close_fd(&j->in);
}

static void job_fail(struct job *j)
{
        close_fd(&j->in);
        close_fd(&j->out);
        kill(j->pid, SIGKILL);
}

static void job_read(struct server *s, struct job *j)
{
        for (;;) {
                if (j->reply_len == j->reply_cap) {
                        size_t cap = j->reply_cap ? j->reply_cap * 2 : 1 << 16;
                        if (cap > s->size_limit + 1)
                                cap = (size_t)s->size_limit + 1; /* one more than allowed shows that it is too much */
                        uint8_t *p = realloc(j->reply, cap);
                        if (!p) {
                                verb_fail(s->verb, 0, "%s: %s", s->name, wharf_strerror(-ENOMEM));
                                job_fail(j);
                                return;
                        }
                        j->reply = p;
                        j->reply_cap = cap;
                }
                ssize_t n = read(j->out, j->reply + j->reply_len, j->reply_cap - j->reply_len);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return;
                if (n <= 0) {
                        close_fd(&j->out);
                        return;
                }
                j->reply_len += (size_t)n;
                if (j->reply_len > s->size_limit) {
                        j->too_long = true;
                        job_fail(j);
                        return;
                }
        }
}

/* The command has exited and its output has ended: answer, and forget the job. */
static void job_end(struct server *s, struct job *j)
{
        int status = 0, r = 0;
        char text[16];
        while (waitpid(j->pid, &status, 0) < 0 && errno == EINTR)
                ;
        bool good = WIFEXITED(status) && WEXITSTATUS(status) == 0 && !j->too_long;
        if (j->too_long)
                verb_fail(s->verb, 0, "%s: %s: its output exceeds %s", s->name, s->cmd[0],
                          format_size(s->size_limit, text));
        else if (WIFSIGNALED(status))
                verb_fail(s->verb, 0, "%s: %s: killed by signal %d", s->name, s->cmd[0], WTERMSIG(status));
        else if (!good)
                verb_fail(s->verb, 0, "%s: %s: exited with status %d", s->name, s->cmd[0], WEXITSTATUS(status));
        if (j->msg.reply != WHARF_NONE && good) {
                r = wharf_reply(s->task, j->msg.reply, j->reply, j->reply_len);
                if (r < 0) {
                        if (r != -EPIPE) /* a caller that has gone is no trouble of ours */
                                verb_error(s->verb, s->name, r);
                        wharf_drop(s->task, j->msg.reply); /* harmless where the failed call has consumed it */
                }
        } else if (j->msg.reply != WHARF_NONE) {
                wharf_drop(s->task, j->msg.reply);
        }
        wharf_release(s->task, &j->msg);
        free(j->reply);
        close_fd(&j->in);
        close_fd(&j->pidfd);
        *j = s->jobs[--s->n_jobs];
}

/* One message, if there is one: 0, -EAGAIN, or what is wrong. */
static int take_one(struct server *s)
{
        /* A command has no use for rights. */
        struct wharf_msg m = {.size = sizeof m, .flags = WHARF_RECV_ALLOC | WHARF_RECV_NO_ITEMS};
        int r = wharf_recvmsg(s->task, s->port, &m, 0);
        if (r < 0)
                return r == -ETIMEDOUT ? -EAGAIN : r;
        if (m.notice) {
                wharf_release(s->task, &m);
                return 0;
        }
        r = job_start(s, &m);
        if (r < 0) {
                verb_fail(s->verb, 0, "%s: %s cannot be started: %s", s->name, s->cmd[0], strerror(-r));
                if (m.reply != WHARF_NONE)
                        wharf_drop(s->task, m.reply);
                wharf_release(s->task, &m);
        }
        return 0;
}

/* Never returns without a reason: an exit code that has been reported. */
static int loop(struct server *s, int port_fd, int names_fd)
{
        struct pollfd *p = calloc(2 + 3 * s->n_jobs_max, sizeof *p);
        if (!p)
                return verb_fail(s->verb, EXIT_REFUSED, "%s", wharf_strerror(-ENOMEM));
        int r = 0;
        bool lost = false;
        while (r == 0 || r == -EAGAIN) {
                /* poll() leaves a negative descriptor alone. All jobs busy: messages wait where they are. */
                p[0] = (struct pollfd){.fd = s->n_jobs < s->n_jobs_max ? port_fd : -1, .events = POLLIN};
                p[1] = (struct pollfd){.fd = names_fd, .events = POLLIN};
                size_t n = s->n_jobs;
                for (size_t i = 0; i < n; i++) {
                        const struct job *j = &s->jobs[i];
                        p[2 + 3 * i] = (struct pollfd){.fd = j->in, .events = POLLOUT};
                        p[3 + 3 * i] = (struct pollfd){.fd = j->out, .events = POLLIN};
                        p[4 + 3 * i] = (struct pollfd){.fd = j->out < 0 ? j->pidfd : -1, .events = POLLIN};
                }
                int ready = poll(p, 2 + 3 * n, lost ? VERB_RENEW_MS : -1);
                if (ready < 0) {
                        if (errno == EINTR)
                                continue;
                        r = -errno;
                        break;
                }
                for (size_t i = n; i-- > 0;) { /* backwards: job_end() moves the last one here */
                        struct job *j = &s->jobs[i];
                        if (p[2 + 3 * i].revents)
                                job_write(j);
                        if (p[3 + 3 * i].revents && j->out >= 0)
                                job_read(s, j);
                        if (p[4 + 3 * i].revents)
                                job_end(s, j);
                }
                if (p[1].revents || (lost && ready == 0))
                        verb_renew(s->verb, s->task, &lost);
                r = 0;
                while (p[0].revents && r == 0 && s->n_jobs < s->n_jobs_max)
                        r = take_one(s);
                if (r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS) {
                        verb_error(s->verb, s->name, r);
                        poll(NULL, 0, 100);
                        r = 0;
                }
        }
        free(p);
        return verb_error(s->verb, s->name, r);
}

static int run(const struct verb *v, int argc, char **argv)
{
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        uint64_t jobs = cores < 1 ? 1 : cores > JOBS_MAX ? JOBS_MAX : (uint64_t)cores, size_limit = SIZE_LIMIT_DEFAULT;
        uint32_t capacity = 0;
        const struct option_spec options[] = {
                {"jobs", 'j', OPTION_COUNT, &jobs, "N", "up to so many commands at once; default: one a processor", 1,
                 JOBS_MAX},
                {"capacity", 0, OPTION_CAPACITY, &capacity, "N",
                 "1 to 65536 a sender, zero or unbounded; default 1024"},
                {"size-limit", 0, OPTION_SIZE, &size_limit, "SIZE", "of a message and of a reply; default 1G"},
                {0},
        };
        int read = options_read(v, argc, argv, options);
        if (read != OPTIONS_GO_ON)
                return read;
        /* NAME -- CMD ARG... ; getopt stops at NAME, and the -- may be left out. */
        if (optind >= argc)
                return verb_usage(v);
        struct server s = {.verb = v, .name = argv[optind++], .size_limit = size_limit, .n_jobs_max = jobs};
        if (optind < argc && !strcmp(argv[optind], "--"))
                optind++;
        if (optind >= argc)
                return verb_usage(v);
        s.cmd = &argv[optind];
        int found = command_found(s.cmd[0]);
        if (found == -ENOENT)
                return verb_fail(v, EXIT_NOT_FOUND, "%s: there is no such command", s.cmd[0]);
        if (found < 0)
                return verb_fail(v, EXIT_REFUSED, "%s: it cannot be executed: %s", s.cmd[0], strerror(-found));

        signal(SIGPIPE, SIG_IGN);
        s.jobs = calloc(jobs, sizeof *s.jobs);
        if (!s.jobs)
                return verb_fail(v, EXIT_REFUSED, "%s", wharf_strerror(-ENOMEM));
        int r = verb_task(v, &s.task);
        if (r != EXIT_DONE) {
                free(s.jobs);
                return r;
        }
        struct wharf_port_opts o = {.size = sizeof o,
                                    .flags = WHARF_PORT_STAYS | WHARF_PORT_FIXED,
                                    .capacity_records = capacity,
                                    .payload_bytes_max = size_limit};
        int port_fd, names_fd, e = wharf_port_new(s.task, &o, &s.port);
        if (e == 0)
                e = wharf_port_fd(s.task, s.port, &port_fd);
        if (e == 0)
                e = wharf_names_fd(s.task, &names_fd);
        r = e < 0 ? verb_error(v, s.name, e) : verb_register(v, s.task, s.name, s.port);
        if (r == EXIT_DONE)
                r = loop(&s, port_fd, names_fd);
        while (s.n_jobs) {
                job_fail(&s.jobs[0]);
                job_end(&s, &s.jobs[0]);
        }
        wharf_task_close(s.task);
        free(s.jobs);
        return r;
}

const struct verb verb_serve = {.name = "serve",
                                .args = "[-j N] [--capacity N] [--size-limit SIZE] NAME -- CMD [ARG...]",
                                .summary =
                                        "answer requests with a command: its input the request, its output the reply",
                                .run = run,
                                .stops = true};
