/*
 * wharfd is refused each system call and allocation of a request, of its start, and of the end of an owner.
 *
 * The client is answered as if nothing had been, or with a clear error, or not while the world refuses: then once it
 * relents. The same request succeeds later. wharfd goes on, or ends with an error and the next one takes over. What it
 * held before it holds after, and the keeper no more than of one that was refused nothing.
 */
#include "service.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>

enum { NAMES = 2, WORD_RESULT = 1, UNANSWERED_MS = 60 };

static const char *const names[NAMES] = {"s.0", "s.1"};

/* ---- the client, in a process of its own ---- */

static struct service_clients c;
static bool done[NAMES];
static wharf_name events;
static wharf_task *leaver;

static void reach(struct proof *p, const char *name)
{
        wharf_name right = service_find(p, c.b, name);
        service_message(p, c.b, right, c.a, c.port_a, 77);
        PROOF_EQ(p, wharf_drop(c.b, right), 0);
}

static int register_some(struct proof *p)
{
        (void)p;
        for (int i = 0; i < NAMES; i++) {
                int r = done[i] ? 0 : wharf_register(c.a, names[i], c.port_a);
                if (r < 0)
                        return r;
                done[i] = true;
        }
        return 0;
}

/* Where a wharfd has ended of what it was refused, names are registered again with their owners' next calls. */
static void all_there(struct proof *p)
{
        PROOF_EQ(p, wharf_names_renew(c.a), 0);
        PROOF_EQ(p, wharf_names_renew(c.b), 0);
        for (int i = 0; i < NAMES; i++)
                reach(p, names[i]);
        PROOF_CHECK(p, service_listed(p, c.b, (const char *[]){"s.0", "s.1", "s.a", "s.b", NULL}));
}

static void registered(struct proof *p)
{
        PROOF_EQ(p, register_some(p), 0);
}

static int look_up(struct proof *p)
{
        wharf_name right;
        int r = wharf_lookup(c.b, names[1], 0, &right);
        if (r < 0)
                return r;
        service_message(p, c.b, right, c.a, c.port_a, 78);
        return wharf_drop(c.b, right);
}

/* Of somebody who was never here. */
static int connect_anew(struct proof *p)
{
        wharf_name right;
        wharf_task *t = service_task(p);
        int r = wharf_lookup(t, names[0], 0, &right);
        wharf_task_close(t);
        return r;
}

static void watch_ready(struct proof *p)
{
        registered(p);
        events = service_port(p, c.b);
}

static int watch(struct proof *p)
{
        int r = done[NAMES - 1] && events ? wharf_names_watch(c.b, "s.", events) : 0;
        (void)p;
        return r;
}

/* It is told of all there is, and of a change, however late. */
static void watched(struct proof *p)
{
        bool whole = false, is = false;
        PROOF_EQ(p, wharf_register(c.a, "s.new", c.port_a), 0);
        while (!whole || !is) {
                char buf[512];
                struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
                struct wharf_name_event ev;
                PROOF_EQ(p, wharf_recvmsg(c.b, events, &m, wharf_in_ms(SERVICE_MS)), 0);
                PROOF_EQ(p, wharf_names_event(c.b, &m, &ev), 0);
                if (ev.what == WHARF_NAMES_BEGIN)
                        whole = is = false;
                whole |= ev.what == WHARF_NAMES_END;
                is |= !strcmp(ev.name, "s.new");
        }
        PROOF_EQ(p, wharf_names_unwatch(c.b, "s.", events), 0);
        PROOF_EQ(p, wharf_unregister(c.a, "s.new"), 0);
        all_there(p);
}

static int take_back(struct proof *p)
{
        (void)p;
        int r = done[1] ? wharf_unregister(c.a, names[1]) : 0;
        if (r == 0)
                done[1] = false;
        return r;
}

static void taken_back(struct proof *p)
{
        wharf_name right;
        PROOF_EQ(p, wharf_names_renew(c.a), 0);
        PROOF_EQ(p, wharf_lookup(c.b, names[1], 0, &right), -ENOENT);
        reach(p, names[0]);
}

static int list(struct proof *p)
{
        struct wharf_named *all;
        struct wharf_wait *waits;
        size_t n;
        int r = wharf_names_list(c.b, &all, &n);
        if (r < 0)
                return r;
        PROOF_EQ(p, n, NAMES + 2);
        free(all);
        r = wharf_waits_list(c.b, &waits, &n);
        if (r == 0)
                free(waits);
        return r;
}

static void leave_ready(struct proof *p)
{
        registered(p);
        leaver = service_task(p);
        PROOF_EQ(p, wharf_register(leaver, "s.leaver", service_port(p, leaver)), 0);
}

/* An owner ends, and another request follows. */
static int leave(struct proof *p)
{
        leaver = wharf_task_close(leaver);
        return look_up(p);
}

/* The next wharfd knows all names; or their owner tells it. */
static int come_again(struct proof *p)
{
        int r = wharf_names_renew(c.a);
        if (r == 0)
                r = wharf_names_renew(c.b);
        return r < 0 ? r : look_up(p);
}

struct work {
        void (*ready)(struct proof *);
        int (*body)(struct proof *);
        void (*check)(struct proof *);
        bool restart;
};

static void client(struct proof *p, const struct work *w)
{
        struct service_state *s = service(p);
        struct proof_world before, after;
        char what;
        proof_world_look(&before);
        service_meet(p, &c);
        if (w->ready)
                w->ready(p);
        write(s->stop[1], "", 1);
        while (read(s->go[0], &what, 1) == 1 && what == 'g') {
                atomic_store(&p->ledger->word[WORD_RESULT], (uint64_t)(int64_t)w->body(p));
                write(s->stop[1], "", 1);
        }
        service_talk(p, &c);
        w->check(p);
        wharf_task_close(c.a);
        wharf_task_close(c.b);
        service_empty(p);
        proof_world_look(&after);
        const char *left = proof_world_differs(&before, &after);
        if (left)
                proof_fail(p, __FILE__, __LINE__, "the clients: %s", left);
        write(s->stop[1], "", 1);
        _exit(0);
}

/* ---- wharfd, in the case's own process ---- */

static int wake_fd = -1, timer_fd = -1; /* readable when the client has said something, or time is over */
static bool asked;

static void timer(int ms)
{
        struct itimerspec it = {.it_value = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}};
        timerfd_settime(timer_fd, 0, &it, NULL);
}

/* Serves until the client has said something: 0; or what wharfd ends with. -ETIMEDOUT: not while the world refuses. */
static int serve(struct proof *p)
{
        struct service_server *v = &service(p)->server;
        int64_t until = wharf_in_ms(SERVICE_MS);
        char c_;
        uint64_t times;
        int r;
        if (!v->s && (r = service_open(p, v)) < 0)
                return r;
        for (;;) {
                timer(UNANSWERED_MS);
                r = wh_server_run(v->s, wake_fd, WHARF_FOREVER);
                timer(0);
                if (r < 0) {
                        service_close(p, v);
                        return r;
                }
                if (poll(&(struct pollfd){.fd = service(p)->stop[0], .events = POLLIN}, 1, 0) == 1) {
                        PROOF_EQ(p, read(service(p)->stop[0], &c_, 1), 1); /* the client has failed, if it is closed */
                        return 0;
                }
                read(timer_fd, &times, sizeof times);
                if (p->injected)
                        return -ETIMEDOUT;
                PROOF_CHECK(p, wharf_in_ms(0) < until);
        }
}

static void setup(struct proof *p, const struct work *w)
{
        struct service_state *s = service(p);
        service_setup(p);
        if ((s->other = proof_fork(p)) == 0)
                client(p, w);
        service_close_fd(&s->stop[1]);
        timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        wake_fd = epoll_create1(EPOLL_CLOEXEC);
        epoll_ctl(wake_fd, EPOLL_CTL_ADD, timer_fd, &(struct epoll_event){.events = EPOLLIN});
        epoll_ctl(wake_fd, EPOLL_CTL_ADD, s->stop[0], &(struct epoll_event){.events = EPOLLIN});
        PROOF_EQ(p, serve(p), 0);
        if (w->restart)
                service_close(p, &s->server); /* the keeper takes it for dead */
}

static int request(struct proof *p)
{
        if (!asked)
                write(service(p)->go[1], "g", 1);
        asked = true;
        int r = serve(p);
        if (r < 0)
                return r;
        asked = false;
        return (int)(int64_t)atomic_load(&p->ledger->word[WORD_RESULT]);
}

/* Nothing is refused any more: all is well, and all goes. */
static void audit(struct proof *p)
{
        struct service_state *s = service(p);
        PROOF_CHECK(p, !asked);
        write(s->go[1], "f", 1);
        p->injected = 0;
        PROOF_EQ(p, serve(p), 0);
        PROOF_CHECK(p, !proof_wait(p, s->other, "client", NULL));
        service_close(p, &s->server);
        /* What could not be taken back from the keeper, or not taken up in time, the next wharfd is rid of. */
        PROOF_EQ(p, service_open(p, &s->server), 0);
        timer(SERVICE_MS);
        PROOF_EQ(p, wh_server_run(s->server.s, wake_fd, 0), WH_SERVER_IDLE);
        timer(0);
        service_close(p, &s->server);
        service_kept_nothing(p);
}

static void teardown(struct proof *p)
{
        service_close_fd(&wake_fd);
        service_close_fd(&timer_fd);
        service_teardown(p);
}

#define WORK(name, ...)                                \
        static void setup_##name(struct proof *p)      \
        {                                              \
                setup(p, &(struct work){__VA_ARGS__}); \
        }
WORK(register, NULL, register_some, all_there)
WORK(lookup, registered, look_up, all_there)
WORK(connect, registered, connect_anew, all_there)
WORK(watch, watch_ready, watch, watched)
WORK(unregister, registered, take_back, taken_back)
WORK(list, registered, list, all_there)
WORK(leave, leave_ready, leave, all_there)
WORK(restart, registered, come_again, all_there, .restart = true)

/*
 * EHOSTDOWN, ETIMEDOUT: no wharfd answered, or not yet. The next wharfd, which a case may begin, has what it serves
 * with: four descriptors of it are spares (server.S13).
 */
static const int errors[] = {-EHOSTDOWN, -ETIMEDOUT, -ENOMEM, -EMFILE, -EAGAIN, 0};
#define FAIL_OP                                                                                                      \
        .state_bytes = sizeof(struct service_state), .victim = request, .audit = audit, .teardown = teardown,        \
        .errors = errors, .progress = true, .keeps_fds = 20, .keeps_bytes = 1 << 20, .unshares = true, .once = true, \
        .peers_live = true
static const struct proof_op ops[] = {
        {.name = "register", .setup = setup_register, FAIL_OP},
        {.name = "lookup", .setup = setup_lookup, FAIL_OP},
        {.name = "connect", .setup = setup_connect, FAIL_OP},
        {.name = "watch", .setup = setup_watch, FAIL_OP},
        {.name = "unregister", .setup = setup_unregister, FAIL_OP},
        {.name = "list", .setup = setup_list, FAIL_OP},
        {.name = "leave", .setup = setup_leave, FAIL_OP},
        {.name = "restart", .setup = setup_restart, FAIL_OP},
        {0},
};
PROOF_FAIL("service", ops)
