/*
 * Processes that name each other, one of which lies: in its hello, in its lane, in what it says it has taken, and in
 * every frame. Two of them are tasks of this process; a third, who is silent, and wharfd are others. What wharfd says
 * is overwritten too, and must harm nobody: it may cost an answer, or the time to wait for one.
 *
 * Whatever is said, nothing comes in the name of the silent one; and somebody who comes afterwards is heard.
 */
#include "both_ends.h"
#include "direct.h"

enum {
        MESSAGES = 14,
        HEARD_MS = 20,    /* that the victim waits for a message which may have been lied away */
        SAID_MS = 200,    /* ... that a message is sent, for which the peer is looked up first */
        ANSWERED_MS = 40, /* after a lie: then wharfd is no more, and nobody waits for an answer that was lied away */
        WORD_GUARDED = 0,
};

static pid_t silent, guard;

static void setup(struct proof *p)
{
        direct_setup(p);
        if ((silent = proof_fork(p)) == 0) {
                direct_join(p, 0, "silent");
                for (;;)
                        pause();
        }
        if ((guard = proof_fork(p)) == 0) {
                while (!*(volatile bool *)&p->report_->reached)
                        usleep(5000);
                usleep(ANSWERED_MS * 1000);
                atomic_store(&p->ledger->word[WORD_GUARDED], 1);
                kill(direct(p)->server, SIGKILL);
                for (;;)
                        pause();
        }
        direct_join(p, 0, "victim");
        direct_join(p, 1, "liar");
}

/* Receives what "liar" said last; of it alone, or of anyone. */
static int hear(struct proof *p, unsigned i, const char *from, char byte)
{
        char c = 0, who[WHARF_DIRECT_NAME_MAX + 1];
        strcpy(who, from);
        ssize_t n;
        do
                n = byte % 2 ? wharf_direct_recv(direct(p)->d[i], from, &c, 1, wharf_in_ms(HEARD_MS))
                             : wharf_direct_recv_any(direct(p)->d[i], &c, 1, who, wharf_in_ms(HEARD_MS));
        while (n == -ETIMEDOUT && !p->lied); /* the machine is busy */
        proof_next_call();
        if (n < 0)
                return (int)n;
        PROOF_CHECK(p, strcmp(who, "silent"));
        PROOF_CHECK(p, p->lied || (n == 1 && c == byte && !strcmp(who, from)));
        return 0;
}

static int say(struct proof *p, unsigned i, const char *to, char byte)
{
        int r;
        do
                r = wharf_direct_send(direct(p)->d[i], to, &byte, 1, wharf_in_ms(SAID_MS));
        while (r == -ETIMEDOUT && !p->lied);
        proof_next_call();
        return r;
}

/* Both ways, of one alone and of anyone. */
static int talk(struct proof *p)
{
        int r = 0;
        for (char c = 1; c <= MESSAGES && r == 0; c++) {
                r = say(p, 1, "victim", c);
                if (r == 0)
                        r = hear(p, 0, "liar", c);
                if (r == 0)
                        r = say(p, 0, "liar", c);
                if (r == 0)
                        r = hear(p, 1, "victim", c);
        }
        return r;
}

static void setup_said(struct proof *p)
{
        setup(p);
        PROOF_EQ(p, say(p, 1, "victim", 1), 0);
}

static void setup_talk(struct proof *p)
{
        setup(p);
        for (int i = 0; i < 3; i++) /* until there is a lane each way */
                PROOF_EQ(p, talk(p), 0);
}

/* Who is at the door is looked at, and let in. */
static int let_in(struct proof *p)
{
        int r = hear(p, 0, "liar", 1);
        return r == 0 ? say(p, 0, "liar", 2) : r;
}

static bool is_joined(struct proof *p, const char *name)
{
        struct wharf_named *all;
        size_t n, i = 0;
        int r = wharf_names_list(direct(p)->task[0], &all, &n);
        if (r == -EHOSTDOWN) /* the lie was what wharfd says on the link that is asked here, which has ended now */
                r = wharf_names_list(direct(p)->task[0], &all, &n);
        PROOF_EQ(p, r, 0);
        while (i < n && strcmp(all[i].name, name))
                i++;
        free(all);
        return i < n;
}

/* Somebody else, in a process of its own, is heard in its own name. */
static void audit(struct proof *p)
{
        char c, who[WHARF_DIRECT_NAME_MAX + 1];
        kill(guard, SIGKILL);
        PROOF_EQ(p, waitpid(guard, NULL, 0), guard);
        if (atomic_load(&p->ledger->word[WORD_GUARDED])) {
                PROOF_CHECK(p, p->lied);
                return; /* nobody can come any more */
        }
        if (p->lied && !strcmp(p->op->name, "let-in") && !is_joined(p, "direct:victim"))
                return; /* it was wharfd that was lied about: the link on which it watches the name is its own */
        pid_t pid = proof_fork(p);
        if (pid == 0) {
                struct direct_state *s = direct(p);
                *s = (struct direct_state){0};
                direct_join(p, 0, "clean");
                PROOF_EQ(p, wharf_direct_send(s->d[0], "victim", "c", 1, wharf_in_ms(5000)), 0);
                PROOF_EQ(p, wharf_direct_recv(s->d[0], "victim", &c, 1, wharf_in_ms(5000)), 1);
                direct_leave(p, 0);
                _exit(0);
        }
        ssize_t n = 0;
        for (strcpy(who, "nobody"); strcmp(who, "clean");) {
                n = wharf_direct_recv_any(direct(p)->d[0], &c, 1, who, wharf_in_ms(5000));
                if (n < 0)
                        PROOF_EQ(p, n, -EOVERFLOW);
                PROOF_CHECK(p, strcmp(who, "silent"));
                PROOF_CHECK(p, n >= 0 || strcmp(who, "clean"));
        }
        PROOF_EQ(p, c, 'c');
        PROOF_EQ(p, wharf_direct_send(direct(p)->d[0], "clean", "d", 1, wharf_in_ms(5000)), 0);
        PROOF_CHECK(p, !proof_wait(p, pid, "clean", NULL));
}

static void teardown(struct proof *p)
{
        kill(silent, SIGKILL);
        waitpid(silent, NULL, 0);
        direct_leave(p, 0);
        direct_leave(p, 1);
        direct_teardown(p);
}

static const int errors[] = {-EAGAIN,       -ETIMEDOUT, -ENOTCONN,  -EOVERFLOW, -EPIPE,  -EPROTO,
                             -ENOENT,       -EHOSTDOWN, -ECANCELED, -EMFILE,    -EBADF,  -EKEYREVOKED,
                             -ETOOMANYREFS, -EMSGSIZE,  -EDQUOT,    -ENOBUFS,   -EMLINK, -EPROTONOSUPPORT,
                             -ECONNRESET,   -ENOMEM,    0};
#define DIRECT_OP                                                                                           \
        .state_bytes = sizeof(struct direct_state), .teardown = teardown, .errors = errors, .audit = audit, \
        .steps_max = 100000, .looks_again = true, .costs = 12
static const struct proof_op ops[] = {
        {.name = "let-in", .setup = setup_said, .victim = let_in, .liar_writes = memory_of_the_sender, DIRECT_OP},
        {.name = "heard", .setup = setup_talk, .victim = talk, .liar_writes = memory_of_the_sender, DIRECT_OP},
        {.name = "told", .setup = setup_talk, .victim = talk, .liar_writes = memory_of_the_receiver, DIRECT_OP},
        {0},
};
PROOF_HOSTILE("direct", ops)
