/*
 * service - what the proofs of src/service share: a domain of the case's own, wharfd's keeper, and the server that it
 * keeps.
 *
 *      keeper    a process; the real one (wharfd/keeper.h). In the place of each server that it starts stands a proxy,
 *                for it is the engine that makes the server's process
 *      server    connects to the proxy, is given what the keeper holds, and is from then on what wharfd is; the proxy
 *                dies when it does, so that the keeper sees the death of a server
 *      clients   tasks of their own, in one process or several
 *
 * The domain's socket is the keeper's as well, so a client's connection waits in the kernel while no server is there.
 */
#ifndef PROOF_SERVICE_H
#define PROOF_SERVICE_H

#include "engine/case.h"
#include "os/os.h"
#include "right/kept.h"
#include "names/domain.h"
#include "wharfd/keeper.h"
#include "wharfd/rules.h"
#include "wharfd/server.h"
#include "wharfd/store.h"
#include "wharf/wharf.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
        SERVICE_GIVEN_MAX = 64, /* descriptors that a proof's server leaves */
        SERVICE_MS = 6000,      /* any one thing that is waited for */
};

/* Words of the ledger. */
enum { SERVICE_OVER = 0 }; /* the clients are done: no server is needed any more */

/* A server, in the process that runs it. */
struct service_server {
        int life; /* the proxy dies with it */
        int notify;
        struct wh_given given[SERVICE_GIVEN_MAX];
        unsigned n;
        wharf_task *task;
        struct wh_store *store;
        struct wh_server *s;
        struct proof_world before;
};

struct service_state {
        char dir[64];
        int listener, proxies;            /* the domain's socket; where servers meet their proxies */
        int go[2], stop[2], keeper_on[2]; /* pipes: readable, or closed at the other end, says it */
        pid_t keeper, other;
        bool kept; /* there is a keeper: what a server leaves comes to the next */
        struct service_server server;
};

static inline struct service_state *service(struct proof *p)
{
        return p->state;
}

static inline void service_close_fd(int *fd)
{
        if (*fd >= 0)
                close(*fd);
        *fd = -1;
}

/* ---- the keeper ---- */

struct service_hand { /* from a proxy to its server; the descriptors travel beside it, `notify` last */
        unsigned n;
        char name[SERVICE_GIVEN_MAX][WH_FD_NAME_MAX];
};

static inline void service_hand_over(int to, const struct wh_given *given, unsigned n, int notify)
{
        static struct service_hand h;
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE((SERVICE_GIVEN_MAX + 1) * sizeof(int))];
        } control = {0};
        int fds[SERVICE_GIVEN_MAX + 1];
        h.n = n;
        for (unsigned i = 0; i < n; i++) {
                memcpy(h.name[i], given[i].name, WH_FD_NAME_MAX);
                fds[i] = given[i].fd;
        }
        fds[n] = notify;
        control.align = (struct cmsghdr){
                .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN((n + 1) * sizeof(int))};
        memcpy(CMSG_DATA(&control.align), fds, (n + 1) * sizeof(int));
        struct iovec iov = {&h, sizeof h};
        struct msghdr m = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.space,
                           .msg_controllen = CMSG_SPACE((n + 1) * sizeof(int))};
        sendmsg(to, &m, MSG_NOSIGNAL);
}

static inline pid_t service_proxy(void *arg, const struct wh_given *given, unsigned n, int notify)
{
        struct service_state *s = arg;
        pid_t pid = _Fork(); /* fork() would close what the library holds here, which is what is to be given */
        if (pid)
                return pid;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int server = accept4(s->proxies, NULL, NULL, SOCK_CLOEXEC);
        if (server >= 0 && n <= SERVICE_GIVEN_MAX)
                service_hand_over(server, given, n, notify);
        for (int fd = 3; fd < 256; fd++)
                if (fd != server)
                        close(fd);
        char c;
        read(server, &c, 1); /* nothing is ever sent: it ends with the server */
        raise(SIGKILL);
        _exit(1);
}

static inline bool service_keeper_ends(void *arg, pid_t server)
{
        (void)arg;
        if (server > 0)
                kill(server, SIGKILL);
        return true;
}

static inline void service_keep(struct proof *p)
{
        struct service_state *s = service(p);
        struct wh_keeper_ops ops = {.start = service_proxy, .signalled = service_keeper_ends, .arg = s};
        struct wh_given g = {.fd = s->listener, .name = "socket"};
        struct proof_world before, after;
        service_close_fd(&s->go[1]);
        service_close_fd(&s->stop[1]);
        service_close_fd(&s->keeper_on[1]);
        proof_world_look(&before);
        PROOF_EQ(p, wh_keeper_run(&ops, &g, 1, s->keeper_on[0]), 0);
        proof_world_look(&after);
        const char *left = proof_world_differs(&before, &after);
        if (left)
                proof_fail(p, __FILE__, __LINE__, "the keeper: %s", left);
        _exit(0);
}

/* ---- a domain ---- */

static inline void service_setup_with(struct proof *p, bool kept)
{
        struct service_state *s = service(p);
        int lock, made;
        snprintf(s->dir, sizeof s->dir, "/tmp/wharf-proof.%d.d", (int)getpid());
        setenv("WHARF_DOMAIN", s->dir, 1);
        setenv("WHARFD", "/dev/null", 1); /* nobody is to start one */
        PROOF_EQ(p, wh_domain_check(s->dir, true), 0);
        PROOF_EQ(p, wh_domain_trylock(s->dir, &lock), 0);
        PROOF_EQ(p, wh_domain_listen(s->dir, false, &made), 0);
        s->listener = fcntl(made, F_DUPFD_CLOEXEC, 3); /* one that forked processes keep */
        wh_os_close(made);
        wh_os_close(lock);
        s->proxies = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        struct sockaddr_un any = {.sun_family = AF_UNIX}; /* the kernel finds a name */
        PROOF_EQ(p, bind(s->proxies, (struct sockaddr *)&any, sizeof any.sun_family), 0);
        PROOF_EQ(p, listen(s->proxies, 4), 0);
        PROOF_EQ(p, pipe2(s->go, O_CLOEXEC), 0);
        PROOF_EQ(p, pipe2(s->stop, O_CLOEXEC), 0);
        PROOF_EQ(p, pipe2(s->keeper_on, O_CLOEXEC), 0);
        s->kept = kept;
        if (kept && (s->keeper = proof_fork(p)) == 0)
                service_keep(p);
}

static inline void service_setup(struct proof *p)
{
        service_setup_with(p, true);
}

/* The case's own ends of what its clients say, so that their end says it too. */
static inline void service_parted(struct proof *p)
{
        service_close_fd(&service(p)->go[1]);
        service_close_fd(&service(p)->stop[1]);
}

static inline void service_over(struct proof *p)
{
        atomic_store(&p->ledger->word[SERVICE_OVER], 1);
        write(service(p)->stop[1], "", 1);
}

static inline bool service_is_over(struct proof *p)
{
        return atomic_load(&p->ledger->word[SERVICE_OVER]);
}

static inline void service_teardown(struct proof *p)
{
        struct service_state *s = service(p);
        int *fds[] = {&s->listener, &s->proxies, &s->go[0],        &s->go[1],
                      &s->stop[0],  &s->stop[1], &s->keeper_on[0], &s->keeper_on[1]};
        if (s->keeper) {
                write(s->keeper_on[1], "", 1);
                proof_wait(p, s->keeper, "keeper", NULL);
        }
        for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++)
                service_close_fd(fds[i]);
        char path[128];
        const char *of_a_clean_one[] = {"bootstrap", "lock"};
        for (unsigned i = 0; i < 2; i++) {
                snprintf(path, sizeof path, "%s/%s", s->dir, of_a_clean_one[i]);
                unlink(path);
        }
        if (rmdir(s->dir) < 0)
                proof_fail(p, __FILE__, __LINE__, "something is left in the domain's directory");
}

/* ---- a server ---- */

/* What the keeper gives the next server; waits until the last one is seen to be dead. */
static inline void service_take(struct proof *p, struct service_server *v)
{
        static struct service_hand h;
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE((SERVICE_GIVEN_MAX + 1) * sizeof(int))];
        } control;
        struct sockaddr_un at;
        socklen_t len = sizeof at;
        v->life = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        PROOF_EQ(p, getsockname(service(p)->proxies, (struct sockaddr *)&at, &len), 0);
        PROOF_EQ(p, connect(v->life, (struct sockaddr *)&at, len), 0);
        struct iovec iov = {&h, sizeof h};
        struct msghdr m = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
        PROOF_EQ(p, recvmsg(v->life, &m, MSG_CMSG_CLOEXEC), sizeof h);
        int fds[SERVICE_GIVEN_MAX + 1];
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        PROOF_CHECK(p, c && c->cmsg_len == CMSG_LEN((h.n + 1) * sizeof(int)));
        memcpy(fds, CMSG_DATA(c), (h.n + 1) * sizeof(int));
        v->n = h.n;
        for (unsigned i = 0; i < h.n; i++) {
                v->given[i].fd = fds[i];
                memcpy(v->given[i].name, h.name[i], WH_FD_NAME_MAX);
        }
        v->notify = fds[h.n];
}

static inline void service_give_back(struct service_server *v)
{
        for (unsigned i = 0; i < v->n; i++)
                service_close_fd(&v->given[i].fd);
        v->n = 0;
        service_close_fd(&v->notify);
        service_close_fd(&v->life);
}

/* All that a server does at its end. The same descriptors as before it began, and the same mappings. */
static inline void service_close(struct proof *p, struct service_server *v)
{
        struct proof_world after;
        v->s = wh_server_free(v->s);
        v->store = wh_store_free(v->store);
        v->task = wharf_task_close(v->task);
        service_give_back(v);
        proof_world_look(&after);
        after.children = v->before.children;
        const char *left = proof_world_differs(&v->before, &after);
        if (left)
                proof_fail(p, __FILE__, __LINE__, "wharfd: %s", left);
}

/* As wharfd's main() does it. */
static inline int service_open(struct proof *p, struct service_server *v)
{
        struct service_state *s = service(p);
        struct wharf_task_opts to = {.size = sizeof to, .spin_us_max = WHARF_NO_SPIN};
        struct wh_rules *rules = NULL;
        *v = (struct service_server){.life = -1, .notify = -1};
        proof_world_look(&v->before);
        if (s->kept)
                service_take(p, v);
        int listener = s->kept ? v->given[0].fd : s->listener;
        int r = wharf_task_open(&to, &v->task);
        if (r == 0 && !(rules = wh_rules_new(true)))
                r = -ENOMEM;
        if (r == 0 && v->notify >= 0) {
                r = wh_store_open(v->notify, true, v->given, v->n, &v->store);
                v->notify = -1;
        }
        if (r == 0 && (r = wh_server_new(v->task, listener, rules, v->store, &v->s)) == 0)
                rules = NULL;
        wh_rules_free(rules);
        if (r < 0)
                service_close(p, v);
        else
                wh_server_restore(v->s, v->given, v->n);
        return r;
}

/* One server, until the clients are done. */
static inline int service_serve(struct proof *p)
{
        struct service_server *v = &service(p)->server;
        PROOF_EQ(p, service_open(p, v), 0);
        PROOF_EQ(p, wh_server_run(v->s, service(p)->stop[0], WHARF_FOREVER), WH_SERVER_STOPPED);
        service_close(p, v);
        return 0;
}

/* The keeper holds what it does for a server that nobody asked for anything: its socket and the journal. */
static inline void service_kept_nothing(struct proof *p)
{
        struct service_server v = {.life = -1, .notify = -1};
        if (!service(p)->kept)
                return;
        service_take(p, &v);
        PROOF_EQ(p, v.n, 1);
        PROOF_CHECK(p, !strcmp(v.given[0].name, "socket"));
        /* Asked in the words of store.h; what comes beside the text is closed with the message. */
        static const char ask[] = "WHARF_HAND=0", one[] = "\n1 wharf-journal";
        char text[WH_HAND_TEXT_MAX + 1];
        PROOF_EQ(p, send(v.notify, ask, strlen(ask), MSG_NOSIGNAL), strlen(ask));
        ssize_t n = recv(v.notify, text, WH_HAND_TEXT_MAX, 0);
        PROOF_CHECK(p, n > 0);
        text[n] = 0;
        const char *held = strchr(text, '\n');
        if (!held || strcmp(held, one))
                proof_fail(p, __FILE__, __LINE__, "the keeper holds, beside its socket: %s", held ? held : "nothing");
        service_give_back(&v);
}

/* ---- clients ---- */

/* Two tasks with a link each way, made by way of wharfd. From then on no message passes through it. */
struct service_clients {
        wharf_task *a, *b;
        wharf_name port_a, port_b, to_a, to_b;
        uint64_t said;
};

static inline wharf_task *service_task(struct proof *p)
{
        wharf_task *t;
        PROOF_EQ(p, wharf_task_open(NULL, &t), 0);
        return t;
}

static inline wharf_name service_port(struct proof *p, wharf_task *t)
{
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        wharf_name port;
        PROOF_EQ(p, wharf_port_new(t, &o, &port), 0);
        return port;
}

static inline void service_message(struct proof *p, wharf_task *from, wharf_name right, wharf_task *to, wharf_name port,
                                   uint64_t what)
{
        uint64_t got;
        PROOF_EQ(p, wharf_send(from, right, &what, sizeof what, wharf_in_ms(SERVICE_MS)), 0);
        PROOF_EQ(p, wharf_recv(to, port, &got, sizeof got, NULL, wharf_in_ms(SERVICE_MS)), sizeof got);
        PROOF_EQ(p, got, what);
}

/* Both ways, each message the next: links that exist do not notice what becomes of wharfd. */
static inline void service_talk(struct proof *p, struct service_clients *c)
{
        for (int i = 0; i < 3; i++, c->said++) {
                service_message(p, c->a, c->to_b, c->b, c->port_b, c->said);
                service_message(p, c->b, c->to_a, c->a, c->port_a, c->said);
        }
}

static inline wharf_name service_find(struct proof *p, wharf_task *t, const char *name)
{
        wharf_name right;
        PROOF_EQ(p, wharf_lookup(t, name, 0, &right), 0);
        return right;
}

static inline void service_meet(struct proof *p, struct service_clients *c)
{
        *c = (struct service_clients){.a = service_task(p), .b = service_task(p)};
        c->port_a = service_port(p, c->a);
        c->port_b = service_port(p, c->b);
        PROOF_EQ(p, wharf_register(c->a, "s.a", c->port_a), 0);
        PROOF_EQ(p, wharf_register(c->b, "s.b", c->port_b), 0);
        c->to_b = service_find(p, c->a, "s.b");
        c->to_a = service_find(p, c->b, "s.a");
        service_talk(p, c);
}

/*
 * A look-up that waits, a short while, for a name that nobody has. wharfd may not answer in so short a time, since it
 * was killed or the machine is busy; then it is asked again.
 */
static inline int service_nobody(wharf_task *t, const char *name)
{
        wharf_name right;
        int r = -ETIMEDOUT;
        for (int ms = 2; r == -ETIMEDOUT && ms < SERVICE_MS; ms *= 2)
                r = wharf_lookup(t, name, wharf_in_ms(ms), &right);
        return r;
}

/* What is registered, exactly: names in their order, and NULL. */
static inline bool service_listed(struct proof *p, wharf_task *t, const char *const *names)
{
        struct wharf_named *all;
        size_t n, i = 0;
        PROOF_EQ(p, wharf_names_list(t, &all, &n), 0);
        while (i < n && names[i] && !strcmp(all[i].name, names[i]))
                i++;
        free(all);
        return i == n && !names[i];
}

/* Nobody is left: all names of those who ended go, in time, and with them what is kept. */
static inline void service_empty(struct proof *p)
{
        wharf_task *t = service_task(p);
        int64_t until = wharf_in_ms(SERVICE_MS);
        while (!service_listed(p, t, (const char *[]){NULL})) {
                PROOF_CHECK(p, wharf_in_ms(0) < until);
                usleep(200);
        }
        wharf_task_close(t);
}

#endif
