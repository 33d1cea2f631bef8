/* One end of a lane dies; the other goes on with what is there. */
#include "lane.h"

static int send_eight(struct proof *p)
{
        for (int i = 0; i < 8; i++)
                PROOF_EQ(p, lane_put(p), 0);
        return 0;
}

static void setup_near_the_end(struct proof *p)
{
        lane_setup(p);
        lane_go_near_the_end(p);
}

static void setup_full(struct proof *p)
{
        struct lane_state *s = p->state;
        lane_setup(p);
        while (lane_put(p) == 0)
                ;
        for (int i = 0; i < 6; i++)
                PROOF_EQ(p, lane_get(p), 1);
        wh_ring_publish_taken(&s->rx->ring);
}

static int send_into_room(struct proof *p)
{
        struct lane_state *s = p->state;
        wh_ring_want(&s->tx->ring, true);
        PROOF_CHECK(p, wh_ring_refresh(&s->tx->ring));
        wh_ring_want(&s->tx->ring, false);
        for (int i = 0; i < 4; i++)
                lane_put(p);
        return 0;
}

static int send_blocks(struct proof *p)
{
        for (int i = 0; i < 4; i++)
                PROOF_EQ(p, i % 2 ? lane_put(p) : lane_put_block(p), 0);
        return 0;
}

static void setup_sent(struct proof *p)
{
        lane_setup_section(p);
        send_blocks(p);
        send_blocks(p);
}

static int receive_eight(struct proof *p)
{
        struct lane_state *s = p->state;
        for (int i = 0; i < 8; i++) {
                PROOF_EQ(p, lane_get(p), 1);
                if (i % 3 == 2)
                        wh_ring_publish_taken(&s->rx->ring);
        }
        wh_ring_sleep(&s->rx->ring);
        wh_ring_awake(&s->rx->ring);
        return 0;
}

/* The receiver died: its sender counts what was not read, and never less than that. */
static void audit_sender(struct proof *p)
{
        struct lane_state *s = p->state;
        uint64_t received = atomic_load(&p->ledger->received);
        PROOF_CHECK(p, wh_ring_refresh(&s->tx->ring));
        PROOF_CHECK(p, wh_ring_unread(&s->tx->ring) >= s->tx->ring.records - received);
        /* What was given back can be lent again, and nothing else. */
        unsigned lent = 0;
        uint16_t slot;
        void *mem;
        while (wh_lane_lend(s->tx, 4096, &slot, &mem) == 0)
                lent++;
        PROOF_CHECK(p, !s->tx->ring.broken);
        PROOF_CHECK(p, lent >= LANE_SECTION / 4096 - 4 && lent <= LANE_SECTION / 4096);
        PROOF_EQ(p, s->tx->blocks_out + s->tx->n_free_slots, WH_SLOTS);
}

static int make_lane(struct proof *p)
{
        lane_setup_section(p);
        PROOF_EQ(p, lane_put(p), 0);
        return 0;
}

#define LANE_OP .state_bytes = sizeof(struct lane_state), .inherit = true, .teardown = lane_teardown
static const struct proof_op ops[] = {
        {.name = "send", .setup = lane_setup, .victim = send_eight, .audit = lane_audit_receiver, LANE_OP},
        {.name = "wrap", .setup = setup_near_the_end, .victim = send_eight, .audit = lane_audit_receiver, LANE_OP},
        {.name = "full", .setup = setup_full, .victim = send_into_room, .audit = lane_audit_receiver, LANE_OP},
        {.name = "section", .setup = lane_setup_section, .victim = send_blocks, .audit = lane_audit_receiver, LANE_OP},
        {.name = "receive", .setup = setup_sent, .victim = receive_eight, .audit = audit_sender, LANE_OP},
        /* Whatever it was making goes with it. */
        {.name = "make", .victim = make_lane, LANE_OP},
        {0},
};
PROOF_KILL("lane", ops)
