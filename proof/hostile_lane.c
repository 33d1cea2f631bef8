/* One end of a lane lies, in everything it can write. */
#include "lane.h"

static bool same_memory(const void *a, const void *b)
{
        const struct hook_range *x = hook_range_of(a), *y = hook_range_of(b);
        return x && y && x->ino == y->ino && x->dev == y->dev;
}

static bool sender_writes(struct proof *p, const void *at)
{
        struct lane_state *s = p->state;
        return same_memory(at, s->tx->ring.out) || (s->tx->n_sections && same_memory(at, s->tx->section[0].map));
}

static bool receiver_writes(struct proof *p, const void *at)
{
        struct lane_state *s = p->state;
        return same_memory(at, s->tx->ring.back);
}

/* The generation of a sender that waits: looked at each time that room was given, and each look decides for itself. */
static void may_look_who_waits(const struct wh_lane_rx *rx)
{
        proof_may_refetch(&rx->ring.back->want, sizeof rx->ring.back->want,
                          "a doorbell is rung once for each generation");
}

static void setup_sent(struct proof *p)
{
        lane_setup_section(p);
        may_look_who_waits(((struct lane_state *)p->state)->rx);
        for (int i = 0; i < 6; i++)
                PROOF_EQ(p, i % 2 ? lane_put_block(p) : lane_put(p), 0);
}

static void setup_sent_near_the_end(struct proof *p)
{
        lane_setup_section(p);
        may_look_who_waits(((struct lane_state *)p->state)->rx);
        lane_go_near_the_end(p);
        for (int i = 0; i < 6; i++)
                PROOF_EQ(p, i % 2 ? lane_put_block(p) : lane_put(p), 0);
}

/* A section so small that what was lent has to come back before long. */
static void setup_small_section(struct proof *p)
{
        lane_setup_section_of(p, WH_PAGE);
        may_look_who_waits(((struct lane_state *)p->state)->rx);
}

static int receive_six(struct proof *p)
{
        for (int i = 0; i < 6; i++) {
                int r = lane_get(p);
                if (r <= 0)
                        return r;
                proof_next_call();
        }
        return 0;
}

/* A whole lap, so that pads and everything the receiver says about room are on the way. */
static int send_a_lap(struct proof *p)
{
        struct lane_state *s = p->state;
        for (int i = 0; i < 24; i++) {
                int r = i % 4 == 3 ? lane_put_block(p) : lane_put(p);
                if (r < 0)
                        return r;
                proof_next_call();
                /* An honest receiver meanwhile; a lie about `back` stays until it next tells. */
                if (!p->lied)
                        lane_get(p);
                if (!p->lied && i % 4 == 3)
                        wh_ring_publish_taken(&s->rx->ring);
                proof_next_call();
        }
        return 0;
}

static int open_again(struct proof *p)
{
        struct lane_state *s = p->state;
        struct wh_lane_rx *rx;
        int r = wh_lane_rx_open(s->tx->out_fd, s->tx->back_fd, 1 << 30, &rx);
        if (r < 0)
                return r;
        struct lane_state own = *s;
        s->rx = rx;
        may_look_who_waits(rx);
        /* Whatever it was told, it looks at no more than it has mapped. */
        PROOF_EQ(p, WH_PAGE + rx->ring.lines * WH_LINE, rx->map_len);
        r = wh_lane_rx_add_section(rx, s->tx->section[0].fd, 1 << 30);
        if (r == 0)
                r = receive_six(p);
        *s = own;
        wh_lane_rx_free(rx);
        return r;
}

static const int errors[] = {-EPROTO, -EAGAIN, -ENOSPC, -EPROTONOSUPPORT, 0};
#define LANE_OP                                                                                                 \
        .state_bytes = sizeof(struct lane_state), .inherit = true, .teardown = lane_teardown, .errors = errors, \
        .cheap = true

static const struct proof_op ops[] = {
        {.name = "receive", .setup = setup_sent, .victim = receive_six, .liar_writes = sender_writes, LANE_OP},
        {.name = "receive-end",
         .setup = setup_sent_near_the_end,
         .victim = receive_six,
         .liar_writes = sender_writes,
         LANE_OP},
        {.name = "open", .setup = setup_sent, .victim = open_again, .liar_writes = sender_writes, LANE_OP},
        {.name = "send", .setup = setup_small_section, .victim = send_a_lap, .liar_writes = receiver_writes, LANE_OP},
        {0},
};
PROOF_HOSTILE("lane", ops)
