#include "words.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

struct runner {
        struct party *p;
        void (*run)(struct party *p, unsigned stream);
        unsigned stream;
        pthread_t thread;
        _Atomic bool done;
};

static void *runner_run(void *arg)
{
        struct runner *r = arg;
        if (r->p->env->cancelled) /* pending from here on: the first cancellation point would end this thread */
                pthread_cancel(pthread_self());
        r->run(r->p, r->stream);
        atomic_store(&r->done, true);
        pthread_testcancel();
        return NULL;
}

static void *beside_run(void *arg)
{
        struct party *p = arg;
        p->env->beside(p);
        return NULL;
}

static void run_in_threads(struct party *p, void (*run)(struct party *p, unsigned stream))
{
        struct runner r[STREAMS] = {0};
        const struct env *e = p->env;
        pthread_t beside;
        if (e->beside)
                MATRIX_EQ(pthread_create(&beside, NULL, beside_run, p), 0);
        if (party_threads(e) == 1 && !e->cancelled && !e->stack_bytes) {
                run(p, 0);
        } else {
                pthread_attr_t attr;
                pthread_attr_init(&attr);
                if (e->stack_bytes)
                        MATRIX_EQ(pthread_attr_setstacksize(&attr, e->stack_bytes), 0);
                for (unsigned i = 0; i < party_threads(e); i++) {
                        r[i] = (struct runner){.p = p, .run = run, .stream = i};
                        MATRIX_EQ(pthread_create(&r[i].thread, &attr, runner_run, &r[i]), 0);
                }
                for (unsigned i = 0; i < party_threads(e); i++) {
                        void *ret;
                        MATRIX_EQ(pthread_join(r[i].thread, &ret), 0);
                        MATRIX_CHECK(atomic_load(&r[i].done)); /* no call was a cancellation point */
                        MATRIX_CHECK(ret == (e->cancelled ? PTHREAD_CANCELED : NULL));
                }
                pthread_attr_destroy(&attr);
        }
        atomic_store(&p->over, true);
        if (e->beside)
                MATRIX_EQ(pthread_join(beside, NULL), 0);
}

static void finish(struct party *p)
{
        wharf_task_close(p->task);
        if (p->listen_fd >= 0)
                close(p->listen_fd);
        MATRIX_EQ(matrix_fds_left(p->fds_before), p->fds_before);
        fflush(NULL);
        _exit(MATRIX_PASSED);
}

static void hub_open(struct party *p)
{
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        MATRIX_EQ(wharf_task_open(NULL, &p->task), 0);
        MATRIX_EQ(wharf_port_new(p->task, &o, &p->port), 0);
        MATRIX_EQ(wharf_port_listen(p->task, p->port, p->listen_fd), 0);
        if (p->work->names)
                MATRIX_EQ(wharf_register(p->task, "matrix.hub", p->port), 0);
}

static void peer_open(struct party *p)
{
        uint8_t bytes[sizeof(struct head) + 300];
        MATRIX_EQ(wharf_task_open(NULL, &p->task), 0);
        MATRIX_EQ(wharf_right_connect(p->task, p->path, &p->right), 0);
        if (p->work->names) { /* whoever has a name keeps the connection that it was given over */
                MATRIX_EQ(wharf_port_new(p->task, NULL, &p->named), 0);
                MATRIX_EQ(wharf_register(p->task, "matrix.anchor", p->named), 0);
        }
        for (uint32_t i = 0; i < WARM; i++) { /* cold, and then in the lane */
                struct wharf_msg m =
                        MSG(.id = ID_CALL, .data = bytes, .len_bytes = party_compose(bytes, 0, i, 10, i * 5));
                struct wharf_msg a = MSG(.data = bytes, .cap_bytes = sizeof bytes);
                MATRIX_EQ(wharf_callmsg(p->task, p->right, &m, &a, WHARF_FOREVER), 0);
                MATRIX_EQ(party_opened(a.data, a.len_bytes).seq, i);
        }
        struct wharf_right_stat st = {.size = sizeof st};
        MATRIX_EQ(wharf_right_stat(p->task, p->right, &st), 0);
        if (!party_scarce(p))
                MATRIX_EQ(st.attached, 1);
        party_ask_plain(p, ID_ENTER, 0, 0, 0);
        if (p->env->after)
                MATRIX_EQ(p->env->after(p), 0);
}

void party_hub_run(struct party *p)
{
        run_in_threads(p, party_hub_serve);
        finish(p);
}

void party_peer_run(struct party *p)
{
        run_in_threads(p, p->work->run);
        party_ask_plain(p, ID_BYE, 0, 0, 0);
        finish(p);
}

void party_run(struct party *p)
{
        int r = p->env->before ? p->env->before(p) : 0;
        if (r)
                _exit(r);
        p->fds_before = matrix_fds();
        if (p->listen_fd >= 0)
                p->fds_before--;
        if (p->hub) {
                hub_open(p);
                party_hub_run(p);
        } else {
                peer_open(p);
                party_peer_run(p);
        }
}

static pid_t party_fork(struct party *p)
{
        pid_t pid = fork();
        if (pid)
                return pid;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!p->hub) {
                close(p->listen_fd);
                p->listen_fd = -1;
        }
        pthread_mutex_init(&p->lock, NULL);
        party_run(p);
        _exit(MATRIX_FAILED);
}

void party_go_on_in_child(struct party *p)
{
        (void)p;
        pid_t pid = fork();
        MATRIX_CHECK(pid >= 0);
        if (pid)
                _exit(matrix_wait(pid));
        prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* Until both have ended; each is disturbed as its environment says. */
static void await_both(const struct env *hub, const struct env *peer, const pid_t pid[2], int status[2])
{
        int left = 2;
        void (*disturb[2])(pid_t) = {hub->disturb, peer->disturb};
        while (left) {
                const bool quietly = !disturb[0] && !disturb[1];
                int st;
                pid_t who = waitpid(-1, &st, quietly ? 0 : WNOHANG);
                for (unsigned i = 0; i < 2; i++) {
                        if (who > 0 && who == pid[i]) {
                                status[i] = WIFSIGNALED(st) ? 128 + WTERMSIG(st) : WEXITSTATUS(st);
                                left--;
                                disturb[i] = NULL;
                                /* Nobody is to wait for one that could not do its part. */
                                if (status[i] && left)
                                        kill(pid[!i], SIGKILL);
                        } else if (disturb[i] && status[i] < 0) {
                                disturb[i](pid[i]);
                        }
                }
        }
}

/* What their ends say of the exchange. Without its environment one of them leaves, and what the other makes of that is none. */
static int verdict(const int status[2])
{
        bool here = status[0] != MATRIX_NOT_HERE && status[1] != MATRIX_NOT_HERE;
        int r = here ? MATRIX_PASSED : MATRIX_NOT_HERE;
        for (unsigned i = 0; here && i < 2; i++) {
                if (status[i] && status[i] != 128 + SIGKILL) {
                        if (status[i] != MATRIX_FAILED)
                                matrix_say("the %s ended with %d", i ? "peer" : "hub", status[i]);
                        r = MATRIX_FAILED;
                } else if (status[i] && r == MATRIX_PASSED && !(status[!i] && status[!i] != 128 + SIGKILL)) {
                        matrix_say("the %s ended with %d", i ? "peer" : "hub", status[i]);
                        r = MATRIX_FAILED;
                }
        }
        return r;
}

int party_meet(const struct matrix_case *c, const struct env *hub, const struct env *peer, const struct work *work)
{
        struct party p = {.c = c, .work = work, .messages = c->quick ? 48 : 400, .uid_then = geteuid()};
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        char domain[200] = "";
        snprintf(p.path, sizeof p.path, "%s/hub", c->dir);
        memcpy(sa.sun_path, p.path, sizeof sa.sun_path - 1);
        p.listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        MATRIX_CHECK(p.listen_fd >= 0);
        MATRIX_EQ(bind(p.listen_fd, (struct sockaddr *)&sa, sizeof sa), 0);
        MATRIX_EQ(chmod(p.path, 0777), 0);
        MATRIX_EQ(listen(p.listen_fd, 16), 0);
        /* Numbers below 50 are for the environments to close and to limit. */
        int high = fcntl(p.listen_fd, F_DUPFD_CLOEXEC, 50);
        close(p.listen_fd);
        p.listen_fd = high;
        pid_t server = work->names ? party_wharfd_start(c, domain, sizeof domain) : 0;
        struct party h = p, q = p;
        h.hub = true;
        h.env = q.other = hub;
        h.other = q.env = peer;
        fflush(NULL);
        pid_t pid[2] = {party_fork(&h), party_fork(&q)};
        close(p.listen_fd);
        int status[2] = {-1, -1};
        await_both(hub, peer, pid, status);
        int r = verdict(status);
        if (server && party_wharfd_stop(c, server, domain) != 0 && r == MATRIX_PASSED) {
                matrix_say("wharfd did not end as it should");
                r = MATRIX_FAILED;
        }
        unlink(p.path);
        for (unsigned i = 0; i < 2; i++) { /* where one of them stood */
                snprintf(domain, sizeof domain, "%s/empty.%d", c->dir, i);
                rmdir(domain);
        }
        return r;
}
