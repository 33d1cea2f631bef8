/* Making a lane, opening one, adding sections: the world refuses each step of it. */
#include "lane.h"

static int make(struct proof *p)
{
        return wh_lane_tx_new(4096, 100, &((struct lane_state *)p->state)->tx);
}

static void not_made(struct proof *p)
{
        PROOF_CHECK(p, !((struct lane_state *)p->state)->tx);
}

static void setup_made(struct proof *p)
{
        PROOF_EQ(p, make(p), 0);
}

static int open_lane(struct proof *p)
{
        struct lane_state *s = p->state;
        return wh_lane_rx_open(s->tx->out_fd, s->tx->back_fd, 1 << 30, &s->rx);
}

static void not_opened(struct proof *p)
{
        PROOF_CHECK(p, !((struct lane_state *)p->state)->rx);
}

static int add_section(struct proof *p)
{
        unsigned i = 77;
        int r = wh_lane_add_section(((struct lane_state *)p->state)->tx, 64 << 10, &i);
        PROOF_EQ(p, i, r < 0 ? 77 : 0);
        return r;
}

static void no_section(struct proof *p)
{
        struct lane_state *s = p->state;
        PROOF_EQ(p, s->tx->n_sections, 0);
        PROOF_EQ(p, s->tx->section_bytes, 0);
}

static void setup_with_section(struct proof *p)
{
        setup_made(p);
        PROOF_EQ(p, open_lane(p), 0);
        PROOF_EQ(p, add_section(p), 0);
}

static int open_section(struct proof *p)
{
        struct lane_state *s = p->state;
        return wh_lane_rx_add_section(s->rx, s->tx->section[0].fd, 1 << 30);
}

static void no_open_section(struct proof *p)
{
        struct lane_state *s = p->state;
        PROOF_EQ(p, s->rx->n_sections, 0);
        PROOF_EQ(p, s->rx->mapped_bytes, s->rx->map_len + WH_PAGE);
}

/* Memory that cannot be looked at, or has no seals to ask for, is refused like memory that is wrong. */
static const int refused[] = {-EPROTO, 0};
#define LANE_OP .state_bytes = sizeof(struct lane_state), .teardown = lane_teardown, .errors = refused

static const struct proof_op ops[] = {
        {.name = "make", .victim = make, .unchanged = not_made, LANE_OP},
        {.name = "open", .setup = setup_made, .victim = open_lane, .unchanged = not_opened, LANE_OP},
        {.name = "add-section", .setup = setup_made, .victim = add_section, .unchanged = no_section, LANE_OP},
        {.name = "open-section",
         .setup = setup_with_section,
         .victim = open_section,
         .unchanged = no_open_section,
         LANE_OP},
        {0},
};
PROOF_FAIL("lane", ops)
