/*
 * Processes that name each other, where the world refuses each call: joining, the first message to a peer, which makes
 * the link, and every later one; the first receive, which looks at who is at the door, and every later one. Two of them
 * are tasks of one process; their wharfd is another, and nothing is refused there.
 */
#include "direct.h"

static ssize_t receive(struct proof *p, unsigned i, const char *from, char *ret)
{
        char who[WHARF_DIRECT_NAME_MAX + 1];
        return from ? wharf_direct_recv(direct(p)->d[i], from, ret, 1, 0)
                    : wharf_direct_recv_any(direct(p)->d[i], ret, 1, who, 0);
}

/* What comes next at `i` is this byte. The link may have to be made anew, and wharfd may be late with what it tells. */
static void arrives(struct proof *p, unsigned i, const char *from, char byte)
{
        char c = 0;
        ssize_t n = -EAGAIN;
        for (int k = 0; k < 5000 && (n == -EAGAIN || n == -ENOTCONN); k++) {
                n = receive(p, i, from, &c);
                if (n < 0)
                        usleep(k ? 500 : 0);
        }
        PROOF_EQ(p, n, 1);
        PROOF_EQ(p, c, byte);
}

static void says(struct proof *p, unsigned i, const char *to, char byte)
{
        PROOF_EQ(p, wharf_direct_send(direct(p)->d[i], to, &byte, 1, wharf_in_ms(5000)), 0);
}

/* Both ways. */
static void audit_talk(struct proof *p)
{
        says(p, 0, "peer-two", 'a');
        arrives(p, 1, "peer-one", 'a');
        says(p, 1, "peer-one", 'b');
        arrives(p, 0, NULL, 'b');
}

static void setup_one(struct proof *p)
{
        struct wharf_named *all;
        size_t n;
        direct_setup(p);
        direct_join(p, 1, "peer-two");
        PROOF_EQ(p, wharf_task_open(NULL, &direct(p)->task[0]), 0);
        PROOF_EQ(p, wharf_names_list(direct(p)->task[0], &all, &n), 0); /* which knows wharfd from then on */
        free(all);
        direct_join_as(p, 0, "peer-one"); /* and has what it keeps */
        direct(p)->d[0] = wharf_direct_leave(direct(p)->d[0]);
}

static void setup_two(struct proof *p)
{
        direct_setup(p);
        direct_join(p, 1, "peer-two");
        direct_join(p, 0, "peer-one");
}

static void setup_talk(struct proof *p)
{
        setup_two(p);
        for (int i = 0; i < 40; i++)
                audit_talk(p);
}

static void setup_said(struct proof *p)
{
        setup_two(p);
        says(p, 0, "peer-two", 'v');
}

static void setup_talk_said(struct proof *p)
{
        setup_talk(p);
        says(p, 0, "peer-two", 'v');
}

/* ---- the operations ---- */

static int join(struct proof *p)
{
        return wharf_direct_join(direct(p)->task[0], "peer-one", &direct(p)->d[0]);
}

/* Nobody joined, and nobody else is told so. */
static void not_joined(struct proof *p)
{
        PROOF_CHECK(p, !direct(p)->d[0]);
        PROOF_EQ(p, wharf_direct_send(direct(p)->d[1], "peer-one", "x", 1, 0), -ENOENT);
}

static int say(struct proof *p)
{
        return wharf_direct_send(direct(p)->d[0], "peer-two", "v", 1, 0);
}

static void audit_said(struct proof *p)
{
        if (p->result == 0)
                arrives(p, 1, "peer-one", 'v');
        audit_talk(p);
}

static int hear(struct proof *p, const char *from)
{
        char c = 0;
        ssize_t n = receive(p, 1, from, &c);
        if (n > 0)
                PROOF_EQ(p, c, 'v');
        return n < 0 ? (int)n : 0;
}

static int hear_one(struct proof *p)
{
        return hear(p, "peer-one");
}

static int hear_any(struct proof *p)
{
        return hear(p, NULL);
}

static const int errors[] = {-EAGAIN, -ENOMEM, -EMFILE, -EPIPE, -EHOSTDOWN, -ETOOMANYREFS, -EOPNOTSUPP, 0};
#define DIRECT_OP .state_bytes = sizeof(struct direct_state), .teardown = direct_teardown, .errors = errors
static const struct proof_op ops[] = {
        {.name = "join",
         .progress = true,
         .setup = setup_one,
         .victim = join,
         .unchanged = not_joined,
         .audit = audit_talk,
         DIRECT_OP},
        {.name = "first-send",
         .progress = true,
         .setup = setup_two,
         .victim = say,
         .keeps_fds = 1,
         .audit = audit_said,
         DIRECT_OP},
        {.name = "first-receive",
         .progress = true,
         .setup = setup_said,
         .victim = hear_one,
         .keeps_fds = 4,
         .believes = true,
         .audit = audit_talk,
         DIRECT_OP},
        {.name = "first-receive-any",
         .progress = true,
         .setup = setup_said,
         .victim = hear_any,
         .keeps_fds = 4,
         .believes = true,
         .audit = audit_talk,
         DIRECT_OP},
        {.name = "receive-any",
         .progress = true,
         .setup = setup_talk_said,
         .victim = hear_any,
         .audit = audit_talk,
         DIRECT_OP},
        {0},
};
PROOF_FAIL("direct", ops)
