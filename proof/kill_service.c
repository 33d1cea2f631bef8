/*
 * wharfd dies in the middle of a request, in the middle of its start, and so does the one that comes after it; and
 * clients die that wharfd was about to answer.
 *
 * Every answer that a client gets is the one that it would have got of a wharfd that lives for ever, in time. What was
 * registered is there without any act of its owner, who was gone is not, watchers know, links between clients never
 * notice. In the end the keeper holds no more, and the domain's directory no other files, than at the beginning.
 */
#include "service.h"

enum { NAMES = 3, WORD_ENDING = 1 /* the owner is told to end */ };

static const char *const names[NAMES] = {"s.0", "s.1", "s.2"};

/* ---- wharfd, which the engine kills ---- */

static void let_go_of_ends(struct proof *p)
{
        service_close_fd(&service(p)->go[1]);
        service_close_fd(&service(p)->stop[1]);
        service_close_fd(&service(p)->keeper_on[1]);
}

/* Not armed: it serves until the clients are ready for what is proved. */
static void serve_first(struct proof *p)
{
        struct service_server *v = &service(p)->server;
        let_go_of_ends(p);
        PROOF_EQ(p, service_open(p, v), 0);
        PROOF_EQ(p, wh_server_run(v->s, service(p)->go[0], WHARF_FOREVER), WH_SERVER_STOPPED);
}

static int serve_on(struct proof *p)
{
        struct service_server *v = &service(p)->server;
        PROOF_EQ(p, wh_server_run(v->s, service(p)->stop[0], WHARF_FOREVER), WH_SERVER_STOPPED);
        service_close(p, v);
        return 0;
}

/* A first one serves until the clients are ready, and is killed; the victim is the one that starts next. */
static void serve_and_die(struct proof *p)
{
        let_go_of_ends(p);
        pid_t first = proof_fork(p);
        if (first == 0) {
                serve_first(p);
                proof_die();
        }
        PROOF_CHECK(p, proof_wait(p, first, "first wharfd", NULL));
}

/* The next wharfd. */
static void serve_next(struct proof *p)
{
        if (service_is_over(p))
                return;
        let_go_of_ends(p);
        service_serve(p);
}

static void audit(struct proof *p)
{
        PROOF_CHECK(p, service_is_over(p));
        service_kept_nothing(p);
}

/* ---- its clients ---- */

/* `ready` before wharfd is killed, `body` while. What either leaves is closed with the clients' tasks. */
static void clients(struct proof *p, void (*ready)(struct proof *, struct service_clients *),
                    void (*body)(struct proof *, struct service_clients *))
{
        struct service_clients c;
        struct proof_world before, after;
        service_close_fd(&service(p)->keeper_on[1]);
        proof_world_look(&before);
        service_meet(p, &c);
        if (ready)
                ready(p, &c);
        write(service(p)->go[1], "", 1);
        service_talk(p, &c);
        body(p, &c);
        service_talk(p, &c);
        wharf_task_close(c.a);
        wharf_task_close(c.b);
        service_empty(p);
        proof_world_look(&after);
        const char *left = proof_world_differs(&before, &after);
        if (left)
                proof_fail(p, __FILE__, __LINE__, "the clients: %s", left);
        service_over(p);
}

/* Looks `name` up as it is now: it leads to the first client's port. */
static void reach(struct proof *p, struct service_clients *c, const char *name)
{
        wharf_name right = service_find(p, c->b, name);
        service_message(p, c->b, right, c->a, c->port_a, 77);
        PROOF_EQ(p, wharf_drop(c->b, right), 0);
}

static void register_names(struct proof *p, struct service_clients *c)
{
        for (int i = 0; i < NAMES; i++)
                PROOF_EQ(p, wharf_register(c->a, names[i], c->port_a), 0);
}

static void register_body(struct proof *p, struct service_clients *c)
{
        wharf_name right;
        for (int i = 0; i < NAMES; i++) {
                PROOF_EQ(p, wharf_lookup(c->b, names[i], 0, &right), -ENOENT);
                PROOF_EQ(p, wharf_register(c->a, names[i], c->port_a), 0);
                reach(p, c, names[i]);
                PROOF_EQ(p, wharf_register(c->b, names[i], c->port_b), -EEXIST);
        }
        PROOF_CHECK(p, service_listed(p, c->b, (const char *[]){"s.0", "s.1", "s.2", "s.a", "s.b", NULL}));
}

static void lookup_body(struct proof *p, struct service_clients *c)
{
        wharf_name right;
        for (int i = 0; i < NAMES; i++)
                reach(p, c, names[i]);
        PROOF_EQ(p, wharf_lookup(c->b, "s.none", 0, &right), -ENOENT);
        PROOF_EQ(p, service_nobody(c->b, "s.none"), -ENOENT);
}

static wharf_name events; /* of the second client */

static void watch_ready(struct proof *p, struct service_clients *c)
{
        (void)p;
        events = service_port(p, c->b);
}

/* What the watcher was told, put together, becomes this, however often it is told anew. Bits: names. */
static void told(struct proof *p, struct service_clients *c, unsigned want, bool *whole, unsigned *is)
{
        while (!*whole || *is != want) {
                char buf[512];
                struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
                struct wharf_name_event ev;
                PROOF_EQ(p, wharf_recvmsg(c->b, events, &m, wharf_in_ms(SERVICE_MS)), 0);
                PROOF_EQ(p, wharf_names_event(c->b, &m, &ev), 0);
                if (ev.what == WHARF_NAMES_BEGIN) {
                        *is = 0;
                        *whole = false;
                }
                *whole |= ev.what == WHARF_NAMES_END;
                for (unsigned i = 0; i < NAMES; i++)
                        if (!strcmp(ev.name, names[i]))
                                *is = ev.what == WHARF_NAME_IS ? *is | 1u << i : *is & ~(1u << i);
        }
}

static void watch_body(struct proof *p, struct service_clients *c)
{
        bool whole = false;
        unsigned is = 0;
        PROOF_EQ(p, wharf_names_watch(c->b, "s.", events), 0);
        PROOF_EQ(p, wharf_register(c->a, names[0], c->port_a), 0);
        told(p, c, 1, &whole, &is);
        PROOF_EQ(p, wharf_register(c->a, names[1], c->port_a), 0);
        PROOF_EQ(p, wharf_unregister(c->a, names[0]), 0);
        told(p, c, 2, &whole, &is);
        PROOF_EQ(p, wharf_names_unwatch(c->b, "s.", events), 0);
}

static wharf_task *leaver;

static void leave_ready(struct proof *p, struct service_clients *c)
{
        register_names(p, c);
        leaver = service_task(p);
        PROOF_EQ(p, wharf_register(leaver, "s.leaver", service_port(p, leaver)), 0);
}

/* A name is taken back; another goes with its owner. */
static void unregister_body(struct proof *p, struct service_clients *c)
{
        wharf_name right;
        PROOF_EQ(p, wharf_unregister(c->a, names[1]), 0);
        PROOF_EQ(p, wharf_lookup(c->b, names[1], 0, &right), -ENOENT);
        leaver = wharf_task_close(leaver);
        PROOF_EQ(p, wharf_lookup(c->b, "s.leaver", 0, &right), -ENOENT);
        PROOF_EQ(p, wharf_register(c->b, names[1], c->port_b), 0);
        PROOF_EQ(p, wharf_unregister(c->a, names[1]), -ENOENT);
        PROOF_CHECK(p, service_listed(p, c->a, (const char *[]){"s.0", "s.1", "s.2", "s.a", "s.b", NULL}));
}

static void list_body(struct proof *p, struct service_clients *c)
{
        struct wharf_wait *waits;
        size_t n;
        for (int i = 0; i < 3; i++)
                PROOF_CHECK(p, service_listed(p, i % 2 ? c->b : c->a,
                                              (const char *[]){"s.0", "s.1", "s.2", "s.a", "s.b", NULL}));
        PROOF_EQ(p, wharf_waits_list(c->b, &waits, &n), 0);
        free(waits);
}

static void restart_ready(struct proof *p, struct service_clients *c)
{
        leave_ready(p, c);
        watch_ready(p, c);
        PROOF_EQ(p, wharf_names_watch(c->b, "s.", events), 0);
        PROOF_EQ(p, wharf_unregister(c->a, names[1]), 0);
}

/* All is as before, but for what ended while no wharfd was there to see it. */
static void restart_body(struct proof *p, struct service_clients *c)
{
        bool whole = false;
        unsigned is = 0;
        leaver = wharf_task_close(leaver);
        reach(p, c, names[0]);
        reach(p, c, names[2]);
        PROOF_CHECK(p, service_listed(p, c->a, (const char *[]){"s.0", "s.2", "s.a", "s.b", NULL}));
        told(p, c, 5, &whole, &is);
        PROOF_EQ(p, wharf_unregister(c->a, names[0]), 0);
        told(p, c, 4, &whole, &is);
}

/* No keeper: names are forgotten, and registered again by their owner's next call. */
static void forgotten_body(struct proof *p, struct service_clients *c)
{
        wharf_name right;
        int64_t until = wharf_in_ms(SERVICE_MS);
        register_names(p, c);
        for (int i = 0; i < NAMES; i++) {
                int r;
                while ((r = wharf_lookup(c->b, names[i], 0, &right)) == -ENOENT) {
                        PROOF_EQ(p, wharf_names_renew(c->a), 0);
                        PROOF_CHECK(p, wharf_in_ms(0) < until);
                }
                PROOF_EQ(p, r, 0);
                service_message(p, c->b, right, c->a, c->port_a, 78);
        }
}

#define CLIENTS(what, ready)                        \
        static void what##_clients(struct proof *p) \
        {                                           \
                clients(p, ready, what##_body);     \
        }
CLIENTS(register, NULL)
CLIENTS(lookup, register_names)
CLIENTS(watch, watch_ready)
CLIENTS(unregister, leave_ready)
CLIENTS(list, register_names)
CLIENTS(restart, restart_ready)
CLIENTS(forgotten, NULL)

/* ---- a look-up that waits: it is answered by whichever wharfd is there when the name comes ---- */

static pid_t waiter;

static void wait_ready(struct proof *p, struct service_clients *c)
{
        (void)c;
        if ((waiter = proof_fork(p)))
                return;
        let_go_of_ends(p);
        wharf_task *t = service_task(p);
        wharf_name right;
        uint64_t what = 99;
        PROOF_EQ(p, wharf_lookup(t, "s.late", wharf_in_ms(SERVICE_MS), &right), 0);
        PROOF_EQ(p, wharf_send(t, right, &what, sizeof what, wharf_in_ms(SERVICE_MS)), 0);
        wharf_task_close(t);
        _exit(0);
}

static void wait_body(struct proof *p, struct service_clients *c)
{
        uint64_t what;
        usleep(2000); /* it waits already, mostly */
        PROOF_EQ(p, wharf_register(c->a, "s.late", c->port_a), 0);
        PROOF_EQ(p, wharf_recv(c->a, c->port_a, &what, sizeof what, NULL, wharf_in_ms(SERVICE_MS)), sizeof what);
        PROOF_EQ(p, what, 99);
        PROOF_CHECK(p, !proof_wait(p, waiter, "waiting client", NULL));
}
CLIENTS(wait, wait_ready)

/* ---- a client dies, and wharfd goes on ---- */

/* Owns a name that clients look up, until it is told to end; what one client sends comes in order. */
static void own(struct proof *p)
{
        wharf_task *t = service_task(p);
        wharf_name port = service_port(p, t);
        struct {
                uint64_t of;
                uint8_t last;
        } said[16] = {0};
        struct wharf_sender from;
        uint8_t what;
        let_go_of_ends(p);
        PROOF_EQ(p, wharf_register(t, "s.own", port), 0);
        for (;;) {
                unsigned i = 0;
                PROOF_EQ(p, wharf_recv(t, port, &what, 1, &from, WHARF_FOREVER), 1);
                if (what == 'q')
                        break;
                while (i < 15 && said[i].of && said[i].of != from.id)
                        i++;
                said[i].of = from.id;
                PROOF_EQ(p, what, ++said[i].last);
        }
        wharf_task_close(t);
        _exit(0);
}

static void setup_owner(struct proof *p)
{
        service_setup(p);
        if ((service(p)->other = proof_fork(p)) == 0)
                own(p);
}

static void serve_all(struct proof *p)
{
        let_go_of_ends(p);
        service_serve(p);
}

static wharf_task *client_task;
static wharf_name client_port;

static void client_start(struct proof *p)
{
        wharf_name right;
        client_task = service_task(p);
        client_port = service_port(p, client_task);
        PROOF_EQ(p, wharf_lookup(client_task, "s.own", wharf_in_ms(SERVICE_MS), &right), 0);
        PROOF_EQ(p, wharf_drop(client_task, right), 0);
}

/* Names, a watch, and what it was told; then it takes all back. */
static int client_register(struct proof *p)
{
        wharf_name w = service_port(p, client_task);
        for (int i = 0; i < NAMES; i++)
                PROOF_EQ(p, wharf_register(client_task, names[i], client_port), 0);
        PROOF_EQ(p, wharf_names_watch(client_task, "s.", w), 0);
        PROOF_EQ(p, wharf_unregister(client_task, names[1]), 0);
        PROOF_EQ(p, wharf_names_unwatch(client_task, "s.", w), 0);
        PROOF_EQ(p, wharf_unregister(client_task, names[0]), 0);
        client_task = wharf_task_close(client_task);
        return 0;
}

static void use_owner(struct proof *p, wharf_task *t)
{
        wharf_name right;
        PROOF_EQ(p, wharf_lookup(t, "s.own", wharf_in_ms(SERVICE_MS), &right), 0);
        for (uint8_t n = 1; n <= 3; n++)
                PROOF_EQ(p, wharf_send(t, right, &n, 1, wharf_in_ms(SERVICE_MS)), 0);
        PROOF_EQ(p, wharf_drop(t, right), 0);
}

static int client_lookup(struct proof *p)
{
        use_owner(p, client_task);
        PROOF_EQ(p, service_nobody(client_task, "s.none"), -ENOENT);
        use_owner(p, client_task);
        client_task = wharf_task_close(client_task);
        return 0;
}

/* Another client: what the dead one had is to be had. The last one ends everything. */
static void come_next(struct proof *p)
{
        if (service_is_over(p))
                return;
        wharf_task *t = service_task(p);
        wharf_name port = service_port(p, t), right;
        bool ending = atomic_load(&p->ledger->word[WORD_ENDING]); /* said one before us, or was about to */
        if (!ending)
                use_owner(p, t);
        for (int i = 0; i < NAMES; i++) {
                int r = wharf_register(t, names[i], port);
                PROOF_CHECK(p, r == 0 || (r == -EEXIST && p->outcome == PROOF_PAUSED));
        }
        if (!ending)
                PROOF_CHECK(p, p->outcome == PROOF_PAUSED ||
                                       service_listed(p, t, (const char *[]){"s.0", "s.1", "s.2", "s.own", NULL}));
        if (p->outcome != PROOF_PAUSED) {
                atomic_store(&p->ledger->word[WORD_ENDING], 1);
                int r = wharf_lookup(t, "s.own", 0, &right);
                PROOF_CHECK(p, r == 0 || (r == -ENOENT && ending));
                if (r == 0)
                        r = wharf_send(t, right, "q", 1, wharf_in_ms(SERVICE_MS));
                PROOF_CHECK(p, r == 0 || ending);
        }
        wharf_task_close(t);
        if (p->outcome == PROOF_PAUSED)
                return;
        service_empty(p);
        service_over(p);
}

static void audit_owner(struct proof *p)
{
        PROOF_CHECK(p, !proof_wait(p, service(p)->other, "owner", NULL));
        audit(p);
}

static void setup_forgotten(struct proof *p)
{
        service_setup_with(p, false);
}

/* A stopped wharfd is not replaced: no_pause. */
#define SERVICE_OP                                                                                                   \
        .state_bytes = sizeof(struct service_state), .parted = service_parted, .rescue = serve_next, .audit = audit, \
        .teardown = service_teardown, .no_pause = true, .costs = 4
#define CLIENT_OP                                                                                 \
        .state_bytes = sizeof(struct service_state), .setup = setup_owner, .start = client_start, \
        .partner = serve_all, .rescue = come_next, .audit = audit_owner, .teardown = service_teardown, .costs = 5
static const struct proof_op ops[] = {
        {.name = "register",
         .setup = service_setup,
         .start = serve_first,
         .victim = serve_on,
         .partner = register_clients,
         SERVICE_OP},
        {.name = "lookup",
         .setup = service_setup,
         .start = serve_first,
         .victim = serve_on,
         .partner = lookup_clients,
         SERVICE_OP},
        {.name = "watch",
         .setup = service_setup,
         .start = serve_first,
         .victim = serve_on,
         .partner = watch_clients,
         SERVICE_OP},
        {.name = "unregister",
         .setup = service_setup,
         .start = serve_first,
         .victim = serve_on,
         .partner = unregister_clients,
         SERVICE_OP},
        {.name = "list",
         .setup = service_setup,
         .start = serve_first,
         .victim = serve_on,
         .partner = list_clients,
         SERVICE_OP},
        {.name = "restart",
         .setup = service_setup,
         .start = serve_and_die,
         .victim = service_serve,
         .partner = restart_clients,
         SERVICE_OP},
        {.name = "forgotten",
         .setup = setup_forgotten,
         .start = serve_first,
         .victim = serve_on,
         .partner = forgotten_clients,
         SERVICE_OP},
        {.name = "wait",
         .setup = service_setup,
         .start = serve_first,
         .victim = serve_on,
         .partner = wait_clients,
         SERVICE_OP},
        {.name = "client-register", .victim = client_register, CLIENT_OP},
        {.name = "client-lookup", .victim = client_lookup, CLIENT_OP},
        {0},
};
PROOF_KILL("service", ops)
