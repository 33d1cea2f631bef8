/*
 * matrix names: wharfd is ended and started again before each step of what a task does with names, and while it waits.
 *
 *      row         the step before which it happens
 *      workload    how wharfd ends, and how soon there is another
 *
 * Promised: no link notices; the names of living tasks are there again; every step ends well, at the latest when there
 * is a wharfd again, and until then says -EHOSTDOWN and nothing else.
 */
#include "matrix/party.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const rows[] = {"register", "lookup", "watch", "list", "event", "unregister", "waiting", "end"};
static const char *const ways[] = {"killed", "server-killed", "terminated", "late"};
enum { KILLED, SERVER, TERMINATED, LATE };
enum { ROWS = sizeof rows / sizeof *rows, WORKS = sizeof ways / sizeof *ways };

static const char *row_name(unsigned row)
{
        return rows[row];
}

static const char *work_name(unsigned work)
{
        return ways[work];
}

/* ---- the owner of a name ---- */

static void renew(wharf_task *t)
{
        int r;
        while ((r = wharf_names_renew(t)) == -EHOSTDOWN)
                matrix_sleep_us(2000);
        MATRIX_EQ(r, 0);
}

static void owner(int ready)
{
        wharf_task *t;
        wharf_name port;
        struct pollfd p[2] = {{.events = POLLIN}, {.events = POLLIN}};
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        MATRIX_EQ(wharf_task_open(NULL, &t), 0);
        MATRIX_EQ(wharf_port_new(t, &o, &port), 0);
        MATRIX_EQ(wharf_register(t, "matrix.owner", port), 0);
        MATRIX_EQ(wharf_names_fd(t, &p[0].fd), 0);
        MATRIX_EQ(wharf_port_fd(t, port, &p[1].fd), 0);
        MATRIX_EQ(write(ready, "r", 1), 1);
        for (;;) {
                char text[16];
                struct wharf_msg m = {.size = sizeof m, .data = text, .cap_bytes = sizeof text};
                poll(p, 2, -1);
                if (p[0].revents)
                        renew(t);
                while (wharf_recvmsg(t, port, &m, 0) == 0) {
                        MATRIX_EQ(wharf_reply(t, m.reply, text, m.len_bytes), 0);
                        if (m.len_bytes == 3) {
                                wharf_task_close(t);
                                _exit(MATRIX_PASSED);
                        }
                        m = (struct wharf_msg){.size = sizeof m, .data = text, .cap_bytes = sizeof text};
                }
        }
}

static void echo(wharf_task *t, wharf_name right, const char *text)
{
        char back[16];
        struct wharf_msg q = {.size = sizeof q, .data = (char *)(uintptr_t)text, .len_bytes = strlen(text)};
        struct wharf_msg a = {.size = sizeof a, .data = back, .cap_bytes = sizeof back};
        MATRIX_EQ(wharf_callmsg(t, right, &q, &a, wharf_in_ms(10000)), 0);
        MATRIX_CHECK(a.len_bytes == strlen(text) && !memcmp(back, text, a.len_bytes));
}

/* ---- wharfd ---- */

struct server {
        const struct matrix_case *c;
        pid_t pid;
        char dir[200];
};

/* The processes of wharfd but `spared`. */
static unsigned kill_all(pid_t spared)
{
        unsigned n = 0;
        DIR *d = opendir("/proc");
        struct dirent *e;
        while (d && (e = readdir(d))) {
                char path[300], name[32] = "";
                snprintf(path, sizeof path, "/proc/%s/comm", e->d_name);
                FILE *f = atoi(e->d_name) > 0 ? fopen(path, "re") : NULL;
                if (f && fgets(name, sizeof name, f) && !strcmp(name, "wharfd\n") && atoi(e->d_name) != spared)
                        n += kill(atoi(e->d_name), SIGKILL) == 0;
                if (f)
                        fclose(f);
        }
        if (d)
                closedir(d);
        return n;
}

static void restart(struct server *s)
{
        if (s->c->work == SERVER) {
                kill_all(s->pid);
                return;
        }
        if (s->c->work == TERMINATED)
                kill(s->pid, SIGTERM);
        else /* the keeper first, that it starts nobody meanwhile */
                kill(s->pid, SIGKILL), kill_all(s->pid);
        matrix_wait(s->pid);
        while (kill_all(
                0)) { /* one that is still there would keep the next one out; what it leaves is ours to wait for */
                while (waitpid(-1, NULL, WNOHANG) > 0)
                        ;
                matrix_sleep_us(200);
        }
        if (s->c->work == LATE)
                matrix_sleep_us(30000);
        s->pid = party_wharfd_start(s->c, s->dir, sizeof s->dir);
}

/* ---- the steps ---- */

/* Until there is a wharfd. */
#define AGAIN(call)                                                            \
        ({                                                                     \
                int r_;                                                        \
                const int64_t end_ = wharf_in_ms(10000);                       \
                while ((r_ = (call)) == -EHOSTDOWN && wharf_now_ns() < end_) { \
                        MATRIX_CHECK(strlen(wharf_why()) > 0);                 \
                        matrix_sleep_us(2000);                                 \
                }                                                              \
                r_;                                                            \
        })

struct waiter {
        wharf_task *task;
        wharf_name got;
        int answer;
};

static void *wait_for_late(void *arg)
{
        struct waiter *w = arg;
        w->answer = AGAIN(wharf_lookup(w->task, "matrix.late", wharf_in_ms(10000), &w->got));
        return NULL;
}

static bool listed(wharf_task *t)
{
        struct wharf_named *all;
        size_t n;
        unsigned found = 0;
        MATRIX_EQ(AGAIN(wharf_names_list(t, &all, &n)), 0);
        for (size_t i = 0; i < n; i++)
                found += !strcmp(all[i].name, "matrix.owner") || !strcmp(all[i].name, "matrix.client");
        free(all);
        return found == 2;
}

static void step(struct server *s, unsigned k, wharf_task *t, wharf_name port, wharf_name events)
{
        wharf_name got;
        const int64_t end = wharf_in_ms(10000);
        switch (k) {
        case 0:
                MATRIX_EQ(AGAIN(wharf_register(t, "matrix.client", port)), 0);
                break;
        case 1:
                MATRIX_EQ(AGAIN(wharf_lookup(t, "matrix.owner", wharf_in_ms(10000), &got)), 0);
                echo(t, got, "found");
                MATRIX_EQ(wharf_drop(t, got), 0);
                break;
        case 2:
                MATRIX_EQ(AGAIN(wharf_names_watch(t, "*", events)), 0);
                break;
        case 3: /* the other task says it again when it hears of the end */
                while (!listed(t)) {
                        MATRIX_CHECK(wharf_now_ns() < end);
                        matrix_sleep_us(1000);
                }
                break;
        case 4:
                MATRIX_EQ(AGAIN(wharf_register(t, "matrix.more", port)), 0);
                for (bool told = false; !told;) {
                        struct wharf_name_event ev;
                        struct wharf_msg m = {.size = sizeof m, .flags = WHARF_RECV_ALLOC};
                        MATRIX_EQ(wharf_recvmsg(t, events, &m, end), 0);
                        told = wharf_names_event(t, &m, &ev) == 0 && ev.what == WHARF_NAME_IS &&
                               !strcmp(ev.name, "matrix.more");
                        wharf_release(t, &m);
                }
                break;
        case 5:
                MATRIX_EQ(AGAIN(wharf_unregister(t, "matrix.more")), 0);
                for (int ms = 4, r = -ETIMEDOUT; r == -ETIMEDOUT; ms *= 2) { /* wharfd may need longer than so little */
                        const int64_t deadline = wharf_in_ms(ms);
                        r = AGAIN(wharf_lookup(t, "matrix.more", deadline, &got));
                        MATRIX_CHECK(r == -ENOENT || (r == -ETIMEDOUT && ms < 4000));
                        MATRIX_CHECK(wharf_now_ns() >= deadline);
                }
                break;
        case 6: {
                struct waiter w = {.task = t};
                pthread_t thread;
                MATRIX_EQ(pthread_create(&thread, NULL, wait_for_late, &w), 0);
                matrix_sleep_us(3000);
                if (s->c->row == k)
                        restart(s);
                MATRIX_EQ(AGAIN(wharf_register(t, "matrix.late", port)), 0);
                MATRIX_EQ(pthread_join(thread, NULL), 0);
                MATRIX_EQ(w.answer, 0);
                MATRIX_EQ(wharf_drop(t, w.got), 0);
                break;
        }
        default:
                MATRIX_CHECK(listed(t) || s->c->row == k);
        }
}

static int run(const struct matrix_case *c)
{
        struct server s = {.c = c};
        int ready[2];
        char byte;
        s.pid = party_wharfd_start(c, s.dir, sizeof s.dir);
        MATRIX_EQ(pipe(ready), 0);
        pid_t pid = fork();
        if (pid == 0)
                owner(ready[1]);
        close(ready[1]);
        MATRIX_EQ(read(ready[0], &byte, 1), 1);
        close(ready[0]);

        wharf_task *t;
        wharf_name right, port, events;
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        const unsigned fds = matrix_fds();
        MATRIX_EQ(wharf_task_open(NULL, &t), 0);
        MATRIX_EQ(wharf_port_new(t, &o, &port), 0);
        MATRIX_EQ(wharf_port_new(t, &o, &events), 0);
        MATRIX_EQ(wharf_lookup(t, "matrix.owner", wharf_in_ms(10000), &right), 0);
        for (unsigned k = 0; k < ROWS; k++) {
                if (c->row == k && k != 6)
                        restart(&s);
                echo(t, right, "still"); /* no link has noticed */
                step(&s, k, t, port, events);
                echo(t, right, "there");
        }
        echo(t, right, "bye");
        wharf_task_close(t);
        MATRIX_EQ(matrix_fds_left(fds), fds);
        MATRIX_EQ(matrix_wait(pid), 0);
        MATRIX_EQ(party_wharfd_stop(c, s.pid, s.dir), 0);
        return MATRIX_PASSED;
}

int main(int argc, char **argv)
{
        const struct matrix m = {.area = "names",
                                 .n_rows = ROWS,
                                 .n_works = WORKS,
                                 .row_name = row_name,
                                 .work_name = work_name,
                                 .run = run,
                                 .program = MATRIX_WHARFD,
                                 .program_name = "wharfd"};
        return matrix_main(&m, argc, argv);
}
