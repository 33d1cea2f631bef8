/*
 * Events in the hands of somebody who dies: whoever starts calls and is told of their ends, whoever serves them, whoever sends
 * many at once and whoever receives them.
 *
 * Each call is told of once, with its reply or with an error. What is sent of many is a prefix, and comes in order. The end of
 * a sender is told once, and nothing of that sender comes after it.
 */
#include "rights.h"

enum { ID_MANY = 1, ROUNDS = 4, MANY = 9, SHORT = 8, GONE = 64 };

/* Words of the ledger: of what was sent as many, how much was sent for sure, and came; ends of senders asked for, and told. */
enum { WORD_SURE = 4, WORD_NEXT = 5, WORD_ASKED = 6, WORD_TOLD_GONE = 7 };

/* ---- the owner ---- */

static uint64_t gone[GONE]; /* who has ended, as this owner was told */
static unsigned n_gone, answered;

static void heard(struct proof *p, const struct wharf_msg *m)
{
        struct port_state *s = &rights(p)->port;
        if (m->notice) {
                PROOF_EQ(p, m->notice, WHARF_NOTICE_SENDER_GONE);
                PROOF_EQ(p, m->about, s->port);
                PROOF_CHECK(p, n_gone < GONE);
                gone[n_gone++] = m->sender.id;
                rights_count(p, WORD_TOLD_GONE);
                return;
        }
        for (unsigned i = 0; i < n_gone; i++)
                PROOF_CHECK(p, gone[i] != m->sender.id);
        int r = wharf_sender_notify(s->task, m->sender.id, s->port);
        PROOF_CHECK(p, r == 0 || r == -EBUSY ||
                               r == -ENOENT); /* asked for, now or before; or there is nobody to ask about */
        if (r == 0)
                rights_count(p, WORD_ASKED);
        if (m->reply) {
                r = wharf_reply(s->task, m->reply, "back", 4);
                PROOF_CHECK(p, r == 0 || r == -EPIPE);
                answered++;
        } else if (m->id == ID_MANY) {
                uint32_t number;
                PROOF_EQ(p, m->len_bytes, sizeof number);
                memcpy(&number, m->data, sizeof number);
                PROOF_EQ(p, number, rights_word(p, WORD_NEXT));
                rights_count(p, WORD_NEXT);
        } else {
                PROOF_EQ(p, *(const uint8_t *)m->data, PORT_CLEAN);
                rights_count(p, WORD_CLEAN);
        }
}

/* What is there. How many; or 0, where nothing came until then. */
static int hear(struct proof *p, int64_t deadline_ns)
{
        struct port_state *s = &rights(p)->port;
        static uint8_t room[MANY][16];
        struct wharf_msg m[MANY];
        for (int i = 0; i < MANY; i++)
                m[i] = (struct wharf_msg){.size = sizeof m[i], .data = room[i], .cap_bytes = sizeof room[i]};
        int n = wharf_recvmany(s->task, s->port, m, MANY, deadline_ns);
        PROOF_CHECK(p, n > 0 || n == -EAGAIN || n == -ETIMEDOUT);
        for (int i = 0; i < n; i++)
                heard(p, &m[i]);
        return n < 0 ? 0 : n;
}

/* Until everybody has left, and whoever was asked about is known to have. */
static void hear_on(struct proof *p, uint32_t capacity_records)
{
        rights_own(p, capacity_records);
        for (;;) {
                bool over = rights_word(p, WORD_OVER);
                if (hear(p, over ? 0 : wharf_in_ms(2)) == 0 && over && rights_alone(p) &&
                    rights_word(p, WORD_TOLD_GONE) == rights_word(p, WORD_ASKED))
                        return;
        }
}

static void hear_all(struct proof *p)
{
        hear_on(p, 0);
}

static void hear_all_in_short(struct proof *p)
{
        hear_on(p, SHORT);
}

static void audit_heard(struct proof *p)
{
        rights_audit_clean(p);
        PROOF_CHECK(p, rights_word(p, WORD_NEXT) >= rights_word(p, WORD_SURE));
}

/* ---- calls whose ends are told ---- */

enum { CALLS = 3 };

/* The end of one of these calls, which is the only one that is told of it; 0, or why there is no reply. */
static int told(struct proof *p, wharf_name at, uint32_t calls[CALLS])
{
        struct port_state *s = &rights(p)->send;
        char back[4];
        struct wharf_msg m = {.size = sizeof m}, reply = {.size = sizeof reply, .data = back, .cap_bytes = sizeof back};
        PROOF_EQ(p, wharf_recvmsg(s->task, at, &m, WHARF_FOREVER), 0);
        PROOF_EQ(p, m.notice, WHARF_NOTICE_REPLY);
        PROOF_EQ(p, m.about, s->right);
        int i = 0;
        while (i < CALLS && calls[i] != m.call)
                i++;
        PROOF_CHECK(p, i < CALLS && calls[i]);
        calls[i] = 0;
        PROOF_EQ(p, wharf_call_finish(s->task, s->right, m.call, &reply, 0), m.error);
        if (m.error == 0)
                PROOF_CHECK(p, reply.len_bytes == 4 && !memcmp(back, "back", 4));
        return m.error;
}

/* 0, or why one could not be started or got no reply; those that were started are told of either way. */
static int call_some(struct proof *p, wharf_name at)
{
        struct port_state *s = &rights(p)->send;
        uint32_t calls[CALLS] = {0};
        int r = 0, started = 0;
        for (; started < CALLS && r == 0; started += r == 0) {
                struct wharf_msg m = {.size = sizeof m, .data = (char[]){"call"}, .len_bytes = 4};
                r = wharf_call_start(s->task, s->right, &m, at, WHARF_FOREVER, &calls[started]);
        }
        while (started--) {
                int end = told(p, at, calls);
                r = end ? end : r;
        }
        return r;
}

static wharf_name told_at(struct proof *p)
{
        wharf_name at;
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        PROOF_EQ(p, wharf_port_new(rights(p)->send.task, &o, &at), 0);
        return at;
}

static int call_in_rounds(struct proof *p)
{
        wharf_name at = told_at(p);
        for (int i = 0; i < ROUNDS; i++)
                PROOF_EQ(p, call_some(p, at), 0);
        rights(p)->send.task = wharf_task_close(rights(p)->send.task);
        return 0;
}

static void call_until_it_dies(struct proof *p)
{
        rights_parted(p);
        if (!rights_join(p))
                return;
        wharf_name at = told_at(p);
        int r;
        while ((r = call_some(p, at)) == 0)
                ;
        PROOF_CHECK(p, r == -EPIPE || r == -ECONNRESET || r == -ECANCELED);
}

static int answer_some(struct proof *p)
{
        rights_own(p, 0);
        while (answered < ROUNDS * CALLS)
                hear(p, WHARF_FOREVER);
        rights(p)->port.task = wharf_task_close(rights(p)->port.task);
        return 0;
}

/* ---- many at once ---- */

/* As many as were sent, of those that begin with that number. */
static int send_many(struct proof *p, uint32_t first)
{
        struct port_state *s = &rights(p)->send;
        uint32_t numbers[MANY];
        struct wharf_msg m[MANY];
        for (uint32_t i = 0; i < MANY; i++) {
                numbers[i] = first + i;
                m[i] = (struct wharf_msg){
                        .size = sizeof m[i], .id = ID_MANY, .data = &numbers[i], .len_bytes = sizeof numbers[i]};
        }
        return wharf_sendmany(s->task, s->right, m, MANY, WHARF_FOREVER);
}

static int send_in_rounds(struct proof *p)
{
        for (uint32_t i = 0; i < ROUNDS; i++) {
                PROOF_EQ(p, send_many(p, i * MANY), MANY);
                atomic_fetch_add(&p->ledger->word[WORD_SURE], MANY);
        }
        rights(p)->send.task = wharf_task_close(rights(p)->send.task);
        return 0;
}

static void send_until_it_dies(struct proof *p)
{
        rights_parted(p);
        if (!rights_join(p))
                return;
        int r = 0;
        for (uint32_t sent = 0; r >= 0; sent += r > 0 ? (uint32_t)r : 0)
                r = send_many(p, sent);
        PROOF_EQ(p, r, -EPIPE);
}

static int hear_some(struct proof *p)
{
        rights_own(p, SHORT);
        while (rights_word(p, WORD_NEXT) < ROUNDS * MANY)
                hear(p, WHARF_FOREVER);
        rights(p)->port.task = wharf_task_close(rights(p)->port.task);
        return 0;
}

static const struct proof_op ops[] = {
        {.name = "told-caller",
         .start = rights_connect,
         .victim = call_in_rounds,
         .partner = hear_all,
         .rescue = rights_send_clean,
         .audit = audit_heard,
         RIGHTS_STATE},
        {.name = "told-server", .victim = answer_some, .partner = call_until_it_dies, RIGHTS_STATE},
        {.name = "many-sender",
         .start = rights_connect,
         .victim = send_in_rounds,
         .partner = hear_all_in_short,
         .rescue = rights_send_clean,
         .audit = audit_heard,
         RIGHTS_STATE},
        {.name = "many-receiver", .victim = hear_some, .partner = send_until_it_dies, RIGHTS_STATE},
        {0},
};
PROOF_KILL("events", ops)
