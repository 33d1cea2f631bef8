/*
 * The engines on toys. A sound toy passes; each of its mistakes makes the engine that is meant to find it fail.
 */
#include "../engine/proof.h"
#include "toy.h"

#include "test.h"

#include <sys/socket.h>

/* ---- ring: three messages; the receiver looks after the sender's death ---- */

struct ring_state {
        struct toy_ring *ring;
        int tell[2];
};

static void ring_setup(struct proof *p)
{
        struct ring_state *s = p->state;
        PROOF_EQ(p, toy_ring_new(&s->ring), 0);
        PROOF_EQ(p, socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s->tell), 0);
}

static void message(uint64_t n, uint8_t *ret, uint32_t *ret_len)
{
        *ret_len = 9 + (uint32_t)(n * 11 % 40);
        for (uint32_t i = 0; i < *ret_len; i++)
                ret[i] = (uint8_t)(n + i + 1);
}

static int ring_send_three(struct proof *p)
{
        struct ring_state *s = p->state;
        for (int i = 0; i < 3; i++) {
                uint8_t bytes[TOY_PAYLOAD];
                uint32_t len;
                message(atomic_load(&p->ledger->intent), bytes, &len);
                proof_ledger_intent(p, bytes, len);
                int r = toy_send(s->ring, bytes, len);
                if (r < 0)
                        return r;
                proof_ledger_sent(p);
                proof_next_call();
        }
        return toy_tell(s->ring, s->tell[0]);
}

static void ring_receive_all(struct proof *p)
{
        struct ring_state *s = p->state;
        uint8_t buf[TOY_PAYLOAD];
        for (int r; (r = toy_receive(s->ring, buf)) >= 0;)
                proof_ledger_received(p, buf, (size_t)r);
        if (!p->lied)
                proof_ledger_balance(p, 0);
}

static void ring_teardown(struct proof *p)
{
        struct ring_state *s = p->state;
        s->ring = toy_ring_free(s->ring);
        close(s->tell[0]);
        close(s->tell[1]);
}

static const struct proof_op ring_kill = {
        .name = "send",
        .setup = ring_setup,
        .victim = ring_send_three,
        .audit = ring_receive_all,
        .teardown = ring_teardown,
        .state_bytes = sizeof(struct ring_state),
        .inherit = true,
        .no_pause = true,
};

/* ---- account ---- */

static void account_setup(struct proof *p)
{
        struct toy_account **acc = p->state;
        PROOF_EQ(p, toy_account_new(acc), 0);
        atomic_store(&(*acc)->a, 100);
}

static int account_move(struct proof *p)
{
        toy_move(*(struct toy_account **)p->state, 30);
        return 0;
}

static void account_repair(struct proof *p)
{
        if (p->outcome == PROOF_KILLED || toy_bug == TOY_WAITS_FOR_DEAD)
                toy_repair(*(struct toy_account **)p->state);
}

static void account_audit(struct proof *p)
{
        struct toy_account *acc = *(struct toy_account **)p->state;
        PROOF_EQ(p, acc->a + acc->b, 100);
}

static void account_teardown(struct proof *p)
{
        toy_account_free(*(struct toy_account **)p->state);
}

static const struct proof_op account_kill = {
        .name = "move",
        .setup = account_setup,
        .victim = account_move,
        .rescue = account_repair,
        .audit = account_audit,
        .teardown = account_teardown,
        .state_bytes = sizeof(struct toy_account *),
};

/* ---- lease: who is passed over while it stands still must not write ---- */

static void lease_setup(struct proof *p)
{
        PROOF_EQ(p, toy_lease_new(p->state), 0);
}

static int lease_write(struct proof *p)
{
        return toy_lease_write(*(struct toy_lease **)p->state, 7);
}

static void lease_take_over(struct proof *p)
{
        if (p->outcome == PROOF_FINISHED)
                return;
        toy_lease_take_over(*(struct toy_lease **)p->state);
        atomic_fetch_add(&p->ledger->word[0], 1);
}

static void lease_audit(struct proof *p)
{
        /* Every take-over that anybody lived to tell of is still in force. */
        PROOF_CHECK(p, (*(struct toy_lease **)p->state)->word >> 32 >= atomic_load(&p->ledger->word[0]));
}

static void lease_teardown(struct proof *p)
{
        toy_lease_free(*(struct toy_lease **)p->state);
}

static const struct proof_op lease_kill = {
        .name = "lease",
        .setup = lease_setup,
        .victim = lease_write,
        .rescue = lease_take_over,
        .audit = lease_audit,
        .teardown = lease_teardown,
        .state_bytes = sizeof(struct toy_lease *),
};

/* ---- hostile: the receiver reads what a liar wrote, the sender what a liar took ---- */

static bool liar_is_sender(struct proof *p, const void *at)
{
        const struct toy_ring *r = ((struct ring_state *)p->state)->ring;
        return hook_range_of(at) == hook_range_of(r->out_seen);
}

static bool liar_is_receiver(struct proof *p, const void *at)
{
        const struct toy_ring *r = ((struct ring_state *)p->state)->ring;
        return hook_range_of(at) == hook_range_of(r->back_seen);
}

static void ring_setup_sent(struct proof *p)
{
        ring_setup(p);
        ring_send_three(p);
}

static int ring_receive_two(struct proof *p)
{
        struct ring_state *s = p->state;
        for (int i = 0; i < 2; i++) {
                uint8_t buf[TOY_PAYLOAD];
                int r = toy_receive(s->ring, buf);
                if (r < 0)
                        return r;
                PROOF_CHECK(p, r <= TOY_PAYLOAD);
                proof_next_call();
        }
        return 0;
}

static const int peer_errors[] = {-EPROTO, -EAGAIN, 0};

static const struct proof_op ring_hostile_sender = {
        .name = "receive",
        .setup = ring_setup_sent,
        .victim = ring_receive_two,
        .teardown = ring_teardown,
        .state_bytes = sizeof(struct ring_state),
        .errors = peer_errors,
        .liar_writes = liar_is_sender,
};

static const struct proof_op ring_hostile_receiver = {
        .name = "send",
        .setup = ring_setup,
        .victim = ring_send_three,
        .teardown = ring_teardown,
        .state_bytes = sizeof(struct ring_state),
        .errors = peer_errors,
        .liar_writes = liar_is_receiver,
};

/* ---- fail: making and dropping a ring ---- */

static int ring_make(struct proof *p)
{
        return toy_ring_new(&((struct ring_state *)p->state)->ring);
}

static void ring_not_made(struct proof *p)
{
        PROOF_CHECK(p, !((struct ring_state *)p->state)->ring);
}

static void ring_drop(struct proof *p)
{
        struct ring_state *s = p->state;
        s->ring = toy_ring_free(s->ring);
}

static const struct proof_op ring_fail = {
        .name = "new",
        .victim = ring_make,
        .unchanged = ring_not_made,
        .teardown = ring_drop,
        .state_bytes = sizeof(struct ring_state),
};

/* ---- the tests ---- */

typedef void engine(const struct proof_args *args, const struct proof_op *op, struct proof_figures *sum);

static struct proof_figures run(engine *e, const struct proof_op *op, enum toy_bug bug)
{
        struct proof_figures sum = {0};
        toy_bug = bug;
        e(&(struct proof_args){.area = "toy",
                               .n_ops = 5,
                               .quick = true,
                               .seed = test_seed,
                               .hang_s = bug == TOY_SOUND ? 0
                                                          : 1, /* nothing sound hangs, but a busy machine takes long */
                               .expect_failure = bug != TOY_SOUND},
          op, &sum);
        toy_bug = TOY_SOUND;
        return sum;
}

#ifndef TOY_ASAN

TEST_TIMEOUT(kill_passes_sound_toys, 90)
{
        struct proof_figures f = run(proof_kill, &ring_kill, TOY_SOUND);
        CHECK_EQ(f.failures, 0);
        /* A store of the length, of each piece of the payload, of the number, for each message; and the frame. */
        CHECK_GE(f.cases, 15);
        CHECK_GE(f.states, 15);
        f = run(proof_kill, &account_kill, TOY_SOUND);
        CHECK_EQ(f.failures, 0);
        CHECK_GE(f.cases, 20);
        f = run(proof_kill, &lease_kill, TOY_SOUND);
        CHECK_EQ(f.failures, 0);
}

TEST_TIMEOUT(kill_finds_a_record_published_before_it_is_whole, 90)
{
        CHECK_GE(run(proof_kill, &ring_kill, TOY_PUBLISH_EARLY).failures, 1);
}

TEST_TIMEOUT(kill_finds_a_state_nobody_can_repair, 90)
{
        CHECK_GE(run(proof_kill, &account_kill, TOY_NO_UNDO).failures, 1);
}

TEST_TIMEOUT(kill_of_the_rescuer_finds_a_repair_that_cannot_be_repeated, 90)
{
        CHECK_GE(run(proof_kill, &account_kill, TOY_REPAIR_ONCE).failures, 1);
}

TEST_TIMEOUT(pause_finds_a_writer_that_was_not_fenced, 90)
{
        CHECK_GE(run(proof_kill, &lease_kill, TOY_NOT_FENCED).failures, 1);
}

TEST_TIMEOUT(kill_finds_a_survivor_that_waits_for_the_dead, 60)
{
        CHECK_GE(run(proof_kill, &account_kill, TOY_WAITS_FOR_DEAD).failures, 1);
}

TEST_TIMEOUT(fail_passes_a_sound_toy_and_finds_each_mistake, 90)
{
        struct proof_figures f = run(proof_fail_calls, &ring_fail, TOY_SOUND);
        CHECK_EQ(f.failures, 0);
        CHECK_GE(f.values, 40);
        CHECK_GE(run(proof_fail_calls, &ring_fail, TOY_LEAKS_DESCRIPTOR).failures, 1);
        CHECK_GE(run(proof_fail_calls, &ring_fail, TOY_LEAKS_MEMORY).failures, 1);
        CHECK_GE(run(proof_fail_calls, &ring_fail, TOY_CHANGES_OUTPUT).failures, 1);
        CHECK_GE(run(proof_fail_calls, &ring_fail, TOY_HIDES_ERROR).failures, 1);
}

TEST_TIMEOUT(hostile_finds_a_double_fetch, 90)
{
        CHECK_GE(run(proof_hostile, &ring_hostile_sender, TOY_DOUBLE_FETCH).double_fetches, 1);
}

TEST_TIMEOUT(hostile_finds_private_bytes_on_a_socket, 90)
{
        CHECK_GE(run(proof_hostile, &ring_hostile_receiver, TOY_LEAKS_PADDING).failures, 1);
}

#endif

TEST_TIMEOUT(hostile_passes_a_sound_toy, 90)
{
        struct proof_figures f = run(proof_hostile, &ring_hostile_sender, TOY_SOUND);
        CHECK_EQ(f.failures, 0);
        CHECK_EQ(f.double_fetches, 0);
        CHECK_GE(f.values, 100);
        f = run(proof_hostile, &ring_hostile_receiver, TOY_SOUND);
        CHECK_EQ(f.failures, 0);
        CHECK_GE(f.values, 70);
}

TEST_TIMEOUT(hostile_finds_a_length_that_is_believed, 90)
{
        CHECK_GE(run(proof_hostile, &ring_hostile_sender, TOY_NO_CHECK).failures, 1);
}

TEST_TIMEOUT(hostile_finds_a_second_look_that_lies, 90)
{
        CHECK_GE(run(proof_hostile, &ring_hostile_sender, TOY_DOUBLE_FETCH).failures, 2);
}

TEST_TIMEOUT(hostile_finds_work_without_bound, 90)
{
        CHECK_GE(run(proof_hostile, &ring_hostile_receiver, TOY_UNBOUNDED).failures, 1);
}
