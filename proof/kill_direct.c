/*
 * One of several processes that name each other dies, in processes of their own: while it sends, receives, joins or
 * leaves. What it sent comes, once and in order, in its name; its name is free again; the others go on.
 */
#include "direct.h"

enum { CLEAN = 0x7e, N_CLEAN = 4, MESSAGES = 24 };

/* Words of the ledger. */
enum { WORD_CLEAN = 0, WORD_OVER = 1, WORD_LIVES = 2, WORD_ENDS = 3 };

static uint64_t word(struct proof *p, int w)
{
        return atomic_load(&p->ledger->word[w]);
}

static void count(struct proof *p, int w)
{
        atomic_fetch_add(&p->ledger->word[w], 1);
}

static int send_next(struct proof *p, const char *to, int64_t deadline_ns)
{
        uint8_t bytes[DIRECT_MESSAGE_MAX];
        uint32_t len = direct_message(atomic_load(&p->ledger->intent), bytes);
        proof_ledger_intent(p, bytes, len);
        int r = wharf_direct_send(direct(p)->d[0], to, bytes, len, deadline_ns);
        if (r == 0)
                proof_ledger_sent(p);
        return r;
}

/* Each life of the joiner is a link of its own: one message each, in any order between them, but each once. */
static void took_of_a_life(struct proof *p, const uint8_t *bytes, size_t len)
{
        uint64_t n = 0, lives = atomic_load(&p->ledger->intent);
        while (n < lives && (word(p, WORD_LIVES) >> n & 1 || p->ledger->sum[n] != proof_sum(bytes, len)))
                n++;
        PROOF_CHECK(p, n < lives);
        atomic_fetch_or(&p->ledger->word[WORD_LIVES], (uint64_t)1 << n);
        atomic_fetch_add(&p->ledger->received, 1);
}

/* What came from `who` is what `who` said. */
static void took(struct proof *p, const char *who, const char *expected, const uint8_t *bytes, size_t len)
{
        if (len == 4 && bytes[0] == CLEAN) {
                PROOF_CHECK(p, !strcmp(who, "clean"));
                count(p, WORD_CLEAN);
                return;
        }
        PROOF_CHECK(p, !strcmp(who, expected));
        if (!strcmp(p->op->name, "joiner"))
                took_of_a_life(p, bytes, len);
        else
                proof_ledger_received(p, bytes, len);
}

/* ---- the others ---- */

/*
 * Receives of the victim alone and of anyone, in turn, until all are gone and nothing is left. Who somebody was whose
 * message came before it died, wharfd says, and that may be later.
 */
static void receive_on(struct proof *p)
{
        struct direct_state *s = direct(p);
        uint8_t bytes[DIRECT_MESSAGE_MAX];
        char who[WHARF_DIRECT_NAME_MAX + 1];
        int64_t until = 0;
        direct_join(p, 0, "peer");
        for (;;) {
                bool over = word(p, WORD_OVER), idle = true;
                ssize_t n = wharf_direct_recv(s->d[0], "victim", bytes, sizeof bytes, over ? 0 : wharf_in_ms(1));
                PROOF_CHECK(p, n >= 0 || n == -EAGAIN || n == -ETIMEDOUT || n == -ENOTCONN);
                if (n >= 0)
                        took(p, "victim", "victim", bytes, (size_t)n);
                if (n == -ENOTCONN)
                        count(p, WORD_ENDS);
                idle = n == -EAGAIN || n == -ETIMEDOUT;
                n = wharf_direct_recv_any(s->d[0], bytes, sizeof bytes, who, 0);
                PROOF_CHECK(p, n >= 0 || n == -EAGAIN);
                if (n >= 0)
                        took(p, who, "victim", bytes, (size_t)n);
                if (!(n < 0 && idle && over))
                        continue;
                until = until ? until : wharf_in_ms(2000);
                if ((atomic_load(&p->ledger->received) >= atomic_load(&p->ledger->sent) &&
                     word(p, WORD_CLEAN) >= N_CLEAN) ||
                    wharf_in_ms(0) > until)
                        break;
        }
        direct_leave(p, 0);
}

/* Somebody else comes after it, is heard, and finds the dead one's name free. */
static void send_clean(struct proof *p)
{
        if (word(p, WORD_OVER))
                return; /* a rescuer before us got to its end */
        direct_join(p, 0, "clean");
        for (int i = 0; i < N_CLEAN; i++)
                PROOF_EQ(p, wharf_direct_send(direct(p)->d[0], "peer", (uint8_t[4]){CLEAN}, 4, WHARF_FOREVER), 0);
        direct_leave(p, 0);
        if (p->outcome == PROOF_PAUSED)
                return;
        direct_join(p, 0, "victim");
        direct_leave(p, 0);
        atomic_store(&p->ledger->word[WORD_OVER], 1);
}

/* ---- a sender dies ---- */

static int send_messages(struct proof *p)
{
        direct_join(p, 0, "victim");
        for (int i = 0; i < MESSAGES; i++)
                PROOF_EQ(p, send_next(p, "peer", WHARF_FOREVER), 0);
        direct_leave(p, 0);
        return 0;
}

static void audit_sent(struct proof *p)
{
        proof_ledger_balance(p, 0);
        PROOF_CHECK(p, word(p, WORD_CLEAN) >= N_CLEAN);
        direct_nothing_left(p);
}

/* ---- a receiver dies ---- */

static int receive_messages(struct proof *p)
{
        uint8_t bytes[DIRECT_MESSAGE_MAX];
        char who[WHARF_DIRECT_NAME_MAX + 1] = "peer";
        direct_join(p, 0, "victim");
        for (int i = 0; i < MESSAGES; i++) {
                ssize_t n = i % 3 ? wharf_direct_recv(direct(p)->d[0], "peer", bytes, sizeof bytes, WHARF_FOREVER)
                                  : wharf_direct_recv_any(direct(p)->d[0], bytes, sizeof bytes, who, WHARF_FOREVER);
                PROOF_CHECK(p, n >= 0);
                took(p, who, "peer", bytes, (size_t)n);
        }
        direct_leave(p, 0);
        return 0;
}

/* Every life of the victim is one queue: a message that it did not receive went down with it. */
static void send_on(struct proof *p)
{
        struct direct_state *s = direct(p);
        uint8_t bytes[DIRECT_MESSAGE_MAX];
        char who[WHARF_DIRECT_NAME_MAX + 1];
        bool ended = false;
        int r = 0;
        direct_join(p, 0, "peer");
        for (;;) {
                bool over = word(p, WORD_OVER);
                if (!ended && (over || atomic_load(&p->ledger->intent) < 2000)) {
                        r = send_next(p, "victim", 0); /* and never waits: the queue is full most of the time */
                        PROOF_CHECK(p, r == 0 || r == -ENOENT || r == -EAGAIN || r == -ETIMEDOUT || r == -EPIPE);
                        if (r < 0) {
                                atomic_fetch_sub(&p->ledger->intent, 1);
                                usleep(100);
                        }
                        ended = r == -EPIPE;
                }
                ssize_t n = wharf_direct_recv_any(s->d[0], bytes, sizeof bytes, who, 0);
                PROOF_CHECK(p, n >= 0 || n == -EAGAIN);
                if (n >= 0)
                        took(p, who, "nobody", bytes, (size_t)n);
                else if (over && (ended || r == -ENOENT)) /* its end was told, or it never was there */
                        break;
        }
        PROOF_EQ(p, wharf_direct_send(s->d[0], "victim", "x", 1, 0), -ENOENT);
        direct_leave(p, 0);
}

static void audit_received(struct proof *p)
{
        PROOF_CHECK(p, atomic_load(&p->ledger->received) <= atomic_load(&p->ledger->sent) + 1);
        PROOF_CHECK(p, word(p, WORD_CLEAN) >= N_CLEAN);
        direct_nothing_left(p);
}

/* ---- who joins and leaves, again and again, dies ---- */

static int join_and_leave(struct proof *p)
{
        for (int i = 0; i < 3; i++) {
                direct_join(p, 0, "victim");
                PROOF_EQ(p, send_next(p, "peer", WHARF_FOREVER), 0);
                direct_leave(p, 0);
        }
        return 0;
}

#define DIRECT_OP \
        .costs = 5, .state_bytes = sizeof(struct direct_state), .setup = direct_setup, .teardown = direct_teardown
static const struct proof_op ops[] = {
        {.name = "sender",
         .victim = send_messages,
         .partner = receive_on,
         .rescue = send_clean,
         .audit = audit_sent,
         DIRECT_OP},
        {.name = "receiver",
         .victim = receive_messages,
         .partner = send_on,
         .rescue = send_clean,
         .audit = audit_received,
         DIRECT_OP},
        {.name = "joiner",
         .victim = join_and_leave,
         .partner = receive_on,
         .rescue = send_clean,
         .audit = audit_sent,
         DIRECT_OP},
        {0},
};
PROOF_KILL("direct", ops)
