/*
 * A client that lies to wharfd, and a wharfd that lies to its clients: every frame of a request and its answer.
 *
 *      wharfd    serves in this process, and what it receives is overwritten. A client in a process of its own asks for
 *                everything there is; two more had names and a link before, and notice nothing.
 *      client    asks in this process, and what it is told is overwritten. The wharfd is another; the next one serves
 *                the same task, and a new one, as ever.
 *
 * What is overwritten may cost its sender the answer, or the time to wait for one; so the one who is lied about is
 * killed when nothing happens any more.
 */
#include "both_ends.h"
#include "service.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>

enum { STUCK_MS = 40, WORD_RESULT = 1 }; /* after a lie; more than anything honest takes */

/* ---- what is asked ---- */

static wharf_task *task;
static wharf_name port, events;

static void begin(struct proof *p)
{
        task = service_task(p);
        port = service_port(p, task);
        events = service_port(p, task);
}

/* So that what is lied about is the request alone. */
static void become_known(struct proof *p)
{
        wharf_name right;
        PROOF_EQ(p, wharf_lookup(task, "s.b", wharf_in_ms(SERVICE_MS), &right), 0);
        PROOF_EQ(p, wharf_drop(task, right), 0);
}

static int first(int r, int next)
{
        return r < 0 ? r : next;
}

static int registers(struct proof *p)
{
        (void)p;
        int r = first(wharf_register(task, "h.one", port), 0);
        proof_next_call();
        r = first(r, wharf_register(task, "h.two", port));
        proof_next_call();
        r = first(r, wharf_names_renew(task));
        proof_next_call();
        r = first(r, wharf_unregister(task, "h.one"));
        proof_next_call();
        return r;
}

static int looks_up(struct proof *p)
{
        wharf_name right = WHARF_NONE;
        int r = wharf_lookup(task, "s.a", 0, &right);
        proof_next_call();
        if (r < 0)
                return r;
        PROOF_EQ(p, wharf_name_kind(task, right), WHARF_KIND_SEND);
        PROOF_CHECK(p, right != port && right != events);
        wharf_drop(task, right);
        r = service_nobody(task, "h.nobody");
        proof_next_call();
        return r == -ENOENT ? 0 : r;
}

static int lists(struct proof *p)
{
        struct wharf_named *all = NULL;
        struct wharf_wait *waits = NULL;
        size_t n = 0;
        int r = wharf_names_list(task, &all, &n);
        proof_next_call();
        if (r < 0)
                return r;
        for (size_t i = 0; i < n; i++)
                PROOF_CHECK(p, strnlen(all[i].name, sizeof all[i].name) < sizeof all[i].name);
        free(all);
        r = wharf_waits_list(task, &waits, &n);
        proof_next_call();
        if (r == 0)
                free(waits);
        return r;
}

static int watches(struct proof *p)
{
        int r = wharf_names_watch(task, "s.", events);
        proof_next_call();
        for (bool whole = false; r == 0 && !whole;) {
                char buf[512];
                struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
                struct wharf_name_event ev;
                r = wharf_recvmsg(task, events, &m, wharf_in_ms(STUCK_MS));
                proof_next_call();
                if (r == 0)
                        r = wharf_names_event(task, &m, &ev);
                if (r == 0)
                        PROOF_CHECK(p, strnlen(ev.name, sizeof ev.name) < sizeof ev.name);
                whole = r == 0 && ev.what == WHARF_NAMES_END;
        }
        if (r == 0)
                r = wharf_names_unwatch(task, "s.", events);
        proof_next_call();
        return r;
}

/* Of a task that was never here. */
static int arrives(struct proof *p)
{
        begin(p);
        int r = registers(p);
        return r < 0 ? r : looks_up(p);
}

struct work {
        int (*body)(struct proof *);
        bool anew; /* it opens its task itself */
};

/* ---- wharfd among those who lie ---- */

/* Two clients who were there before, and one who is lied about. `go`: their pipes. */
static struct {
        pid_t liar, others;
        int liar_go[2], others_go[2];
        int wake, timer;
} w;

static void wait_for(int go[2])
{
        char c;
        close(go[1]);
        if (read(go[0], &c, 1) != 1)
                _exit(0);
        close(go[0]);
}

static void liar(struct proof *p, const struct work *work)
{
        if (!work->anew) {
                begin(p);
                become_known(p);
        }
        write(service(p)->stop[1], "", 1);
        wait_for(w.liar_go);
        atomic_store(&p->ledger->word[WORD_RESULT], (uint64_t)(int64_t)work->body(p));
        write(service(p)->stop[1], "", 1);
        pause(); /* its end is seen by wharfd outside the case */
        _exit(0);
}

/* What wharfd asks the owners of names is answered, and read by it before this list: no lie is told about that. */
static void settled(struct proof *p, const struct service_clients *c)
{
        char none;
        PROOF_EQ(p, wharf_recv(c->a, c->port_a, &none, 1, NULL, 0), -EAGAIN);
        PROOF_EQ(p, wharf_recv(c->b, c->port_b, &none, 1, NULL, 0), -EAGAIN);
        PROOF_CHECK(p, service_listed(p, c->a, (const char *[]){"s.a", "s.b", NULL}));
}

static void others(struct proof *p)
{
        struct service_clients c;
        service_meet(p, &c);
        settled(p, &c);
        write(service(p)->stop[1], "", 1);
        wait_for(w.others_go);
        service_talk(p, &c);
        for (int64_t until = wharf_in_ms(SERVICE_MS); !service_listed(p, c.a, (const char *[]){"s.a", "s.b", NULL});) {
                PROOF_CHECK(p, wharf_in_ms(0) < until); /* nothing of the liar stays when it is dead */
                usleep(200);
        }
        service_message(p, c.b, service_find(p, c.b, "s.a"), c.a, c.port_a, 77);
        PROOF_EQ(p, wharf_unregister(c.a, "s.a"), 0);
        wharf_task_close(c.a);
        wharf_task_close(c.b);
        service_empty(p);
        write(service(p)->stop[1], "", 1);
        _exit(0);
}

/* w.wake is readable when somebody said something, or time is over. */
static void wakes(struct proof *p)
{
        w.timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        w.wake = epoll_create1(EPOLL_CLOEXEC);
        epoll_ctl(w.wake, EPOLL_CTL_ADD, w.timer, &(struct epoll_event){.events = EPOLLIN});
        epoll_ctl(w.wake, EPOLL_CTL_ADD, service(p)->stop[0], &(struct epoll_event){.events = EPOLLIN});
}

static void wake_in(int ms)
{
        struct itimerspec it = {.it_value = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}};
        timerfd_settime(w.timer, 0, &it, NULL);
}

/* Serves until somebody says something: true; or somebody was lied about and nothing was said for so long. */
static bool serve(struct proof *p, bool may_be_stuck)
{
        char c;
        for (int ms = 0; ms < 2 * SERVICE_MS; ms += STUCK_MS) {
                const bool lied = *(volatile bool *)&p->report_->reached;
                wake_in(STUCK_MS);
                PROOF_EQ(p, wh_server_run(service(p)->server.s, w.wake, WHARF_FOREVER), WH_SERVER_STOPPED);
                struct pollfd said = {.fd = service(p)->stop[0], .events = POLLIN};
                if (poll(&said, 1, 0) == 1)
                        return read(said.fd, &c, 1) == 1;
                if (lied && may_be_stuck)
                        return false;
        }
        PROOF_CHECK(p, !"nobody says anything");
        return false;
}

static void setup_wharfd(struct proof *p, const struct work *work)
{
        struct service_state *s = service(p);
        service_setup_with(p, false);
        PROOF_EQ(p, pipe2(w.liar_go, O_CLOEXEC), 0);
        PROOF_EQ(p, pipe2(w.others_go, O_CLOEXEC), 0);
        wakes(p);
        if ((w.others = proof_fork(p)) == 0) {
                close(w.liar_go[1]);
                others(p);
        }
        if ((w.liar = proof_fork(p)) == 0) {
                close(w.others_go[1]);
                liar(p, work);
        }
        service_close_fd(&s->stop[1]);
        PROOF_EQ(p, service_open(p, &s->server), 0);
        for (int i = 0; i < 2; i++)
                PROOF_CHECK(p, serve(p, false));
}

static int serve_the_liar(struct proof *p)
{
        write(w.liar_go[1], "", 1);
        if (!serve(p, true)) {
                PROOF_CHECK(p, p->lied);
                return 0;
        }
        int r = (int)(int64_t)atomic_load(&p->ledger->word[WORD_RESULT]);
        return p->lied ? 0 : r;
}

static void audit_wharfd(struct proof *p)
{
        kill(w.liar, SIGKILL);
        PROOF_EQ(p, waitpid(w.liar, NULL, 0), w.liar);
        write(w.others_go[1], "", 1);
        PROOF_CHECK(p, serve(p, false));
        PROOF_CHECK(p, !proof_wait(p, w.others, "clients", NULL));
        service_close(p, &service(p)->server);
}

static void teardown_wharfd(struct proof *p)
{
        int *fds[] = {&w.liar_go[0], &w.liar_go[1], &w.others_go[0], &w.others_go[1], &w.wake, &w.timer};
        for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++)
                service_close_fd(fds[i]);
        service_teardown(p);
}

/* ---- a client among those who lie ---- */

static pid_t wharfd;

/* One that serves until it is told to end; or until its client was lied to, and may be stuck. */
static void wharfd_start(struct proof *p, bool may_be_stuck)
{
        struct service_state *s = service(p);
        PROOF_EQ(p, pipe2(s->stop, O_CLOEXEC), 0);
        if ((wharfd = proof_fork(p)) == 0) {
                service_close_fd(&s->stop[1]);
                wakes(p);
                PROOF_EQ(p, service_open(p, &s->server), 0);
                serve(p, may_be_stuck);
                service_close(p, &s->server);
                _exit(0);
        }
        service_close_fd(&s->stop[0]);
        service_close_fd(&s->listener);
}

static void wharfd_end(struct proof *p)
{
        service_close_fd(&service(p)->stop[1]);
        PROOF_CHECK(p, !proof_wait(p, wharfd, "wharfd", NULL));
}

static struct service_clients friends;

static void setup_client(struct proof *p, const struct work *work)
{
        struct service_state *s = service(p);
        service_setup_with(p, false);
        service_close_fd(&s->stop[0]);
        service_close_fd(&s->stop[1]);
        wharfd_start(p, true);
        service_meet(p, &friends);
        if (!work->anew) {
                begin(p);
                become_known(p);
        }
}

/* The next wharfd is told the truth, and tells it. */
static void audit_client(struct proof *p)
{
        struct service_state *s = service(p);
        int lock, made;
        wharfd_end(p);
        PROOF_EQ(p, wh_domain_trylock(s->dir, &lock), 0);
        PROOF_EQ(p, wh_domain_listen(s->dir, false, &made), 0);
        s->listener = fcntl(made, F_DUPFD_CLOEXEC, 3);
        wh_os_close(made);
        wh_os_close(lock);
        wharfd_start(p, false);
        service_talk(p, &friends);
        PROOF_EQ(p, wharf_names_renew(friends.a), 0);
        PROOF_EQ(p, wharf_names_renew(friends.b), 0);
        wharf_unregister(task, "h.one");
        wharf_unregister(task, "h.two");
        PROOF_EQ(p, registers(p), 0);
        PROOF_EQ(p, looks_up(p), 0);
        service_message(p, friends.b, service_find(p, friends.b, "h.two"), task, port, 77);
        wharf_task_close(friends.a);
        wharf_task_close(friends.b);
        wharf_task_close(task);
        service_empty(p);
        wharfd_end(p);
}

/* ---- all of it ---- */

#define WORK(name, ...)                                       \
        static void setup_wharfd_##name(struct proof *p)      \
        {                                                     \
                setup_wharfd(p, &(struct work){__VA_ARGS__}); \
        }                                                     \
        static void setup_client_##name(struct proof *p)      \
        {                                                     \
                setup_client(p, &(struct work){__VA_ARGS__}); \
        }
WORK(registers, registers)
WORK(looks_up, looks_up)
WORK(lists, lists)
WORK(watches, watches)
WORK(arrives, arrives, true)

static const int errors[] = {-EHOSTDOWN,  -ETIMEDOUT, -EAGAIN,    -ENOTCONN, -EPIPE,       -EPROTO,
                             -ECONNRESET, -ENOENT,    -EEXIST,    -EINVAL,   -EACCES,      -EPROTONOSUPPORT,
                             -EMFILE,     -ENOMEM,    -EMSGSIZE,  -EDQUOT,   -EBADF,       -EPERM,
                             -ECANCELED,  -EBADMSG,   -EOVERFLOW, -ESTALE,   -EKEYREVOKED, 0};
#define OF_WHARFD(work)                                                                                           \
        {                                                                                                         \
                .name = "wharfd-" #work, .setup = setup_wharfd_##work, .victim = serve_the_liar,                  \
                .audit = audit_wharfd, .teardown = teardown_wharfd, .state_bytes = sizeof(struct service_state),  \
                .steps_max = 200000, .liar_writes = memory_of_the_sender, .costs = 12,                            \
                .trusted = true /* it serves many calls, and what is looked at again in the next is no mistake */ \
        }
#define OF_CLIENT(work)                                                                                       \
        {                                                                                                     \
                .name = "client-" #work, .setup = setup_client_##work, .victim = work, .audit = audit_client, \
                .teardown = service_teardown, .state_bytes = sizeof(struct service_state), .errors = errors,  \
                .steps_max = 200000, .liar_writes = memory_of_the_sender, .looks_again = true, .costs = 12    \
        }
static const struct proof_op ops[] = {
        OF_WHARFD(registers),
        OF_WHARFD(looks_up),
        OF_WHARFD(lists),
        OF_WHARFD(watches),
        OF_WHARFD(arrives),
        OF_CLIENT(registers),
        OF_CLIENT(looks_up),
        OF_CLIENT(lists),
        OF_CLIENT(watches),
        OF_CLIENT(arrives),
        {0},
};
PROOF_HOSTILE("service", ops)
