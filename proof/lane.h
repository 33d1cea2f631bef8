/*
 * lane - what the three proofs of src/lane share: both ends of a lane in one process, and messages that check
 * themselves. A forked party uses the end that is its own.
 */
#ifndef PROOF_LANE_H
#define PROOF_LANE_H

#include "engine/proof.h"
#include "lane/lane.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct lane_state {
        struct wh_lane_tx *tx;
        struct wh_lane_rx *rx;
};

enum { LANE_MESSAGE_MAX = 2048, LANE_SECTION = 64 << 10 };

/* The length and the bytes of message n; short ones, long ones, and one that goes through a section. */
static inline uint32_t lane_message(uint64_t n, uint8_t *ret)
{
        static const uint32_t lens[] = {1, 56, 57, 300, 8, 120, 0, 700};
        uint32_t len = lens[n % 8];
        for (uint32_t i = 0; i < len; i++)
                ret[i] = (uint8_t)(n * 7 + i + 1) & 0x7f;
        return len;
}

static inline void lane_setup(struct proof *p)
{
        struct lane_state *s = p->state;
        PROOF_EQ(p, wh_lane_tx_new(4096, 1000, &s->tx), 0);
        PROOF_EQ(p, wh_lane_rx_open(s->tx->out_fd, s->tx->back_fd, 1 << 30, &s->rx), 0);
}

static inline void lane_setup_section_of(struct proof *p, uint64_t len)
{
        struct lane_state *s = p->state;
        unsigned i;
        lane_setup(p);
        PROOF_EQ(p, wh_lane_add_section(s->tx, len, &i), 0);
        PROOF_EQ(p, wh_lane_rx_add_section(s->rx, s->tx->section[i].fd, 1 << 30), 0);
}

static inline void lane_setup_section(struct proof *p)
{
        lane_setup_section_of(p, LANE_SECTION);
}

static inline void lane_teardown(struct proof *p)
{
        struct lane_state *s = p->state;
        s->tx = wh_lane_tx_free(s->tx);
        s->rx = wh_lane_rx_free(s->rx);
}

/* One message copied into the ring. */
static inline int lane_put(struct proof *p)
{
        struct lane_state *s = p->state;
        uint8_t bytes[LANE_MESSAGE_MAX];
        uint32_t len = lane_message(atomic_load(&p->ledger->intent), bytes);
        void *body = wh_ring_reserve(&s->tx->ring, len);
        if (!body)
                return s->tx->ring.broken ? -EPROTO : -EAGAIN;
        proof_ledger_intent(p, bytes, len);
        wh_shm_copy(body, bytes, len);
        wh_ring_publish(&s->tx->ring, WH_REC_PLAIN, len);
        proof_ledger_sent(p);
        wh_ring_must_ring(&s->tx->ring);
        return 0;
}

/* One message written in place in a section. */
static inline int lane_put_block(struct proof *p)
{
        struct lane_state *s = p->state;
        uint8_t bytes[LANE_MESSAGE_MAX];
        uint32_t len = lane_message(atomic_load(&p->ledger->intent), bytes);
        uint16_t slot;
        void *mem;
        int r = wh_lane_lend(s->tx, len, &slot, &mem);
        if (r < 0)
                return r;
        struct {
                struct wh_rec_ext ext;
                struct wh_rec_block block;
        } rec = {{.id = 7}, wh_lane_block(s->tx, slot, len, len)};
        void *body = wh_ring_reserve(&s->tx->ring, sizeof rec);
        if (!body) {
                wh_lane_unlend(s->tx, slot);
                return s->tx->ring.broken ? -EPROTO : -EAGAIN;
        }
        wh_shm_copy(mem, bytes, len);
        proof_ledger_intent(p, bytes, len);
        wh_shm_copy(body, &rec, sizeof rec);
        wh_lane_slot_sent(s->tx, slot);
        wh_ring_publish(&s->tx->ring, WH_REC_BLOCK, sizeof rec);
        proof_ledger_sent(p);
        return 0;
}

/* One message of either kind: 1, 0 when there is none, -EPROTO. Its bytes are believed only when nobody lies. */
static inline int lane_get(struct proof *p)
{
        struct lane_state *s = p->state;
        struct wh_rec rec;
        uint8_t bytes[LANE_MESSAGE_MAX];
        size_t len;
        int r = wh_ring_peek(&s->rx->ring, &rec);
        if (r <= 0)
                return r;
        if (rec.kind == WH_REC_BLOCK) {
                struct {
                        struct wh_rec_ext ext;
                        struct wh_rec_block block;
                } b;
                const void *at;
                if (rec.len < sizeof b)
                        return -EPROTO;
                wh_shm_copy(&b, rec.body, sizeof b);
                r = wh_lane_at(s->rx, &b.block, &at);
                if (r < 0)
                        return r;
                len = b.block.len;
                if (len > sizeof bytes)
                        return -EPROTO;
                wh_shm_copy(bytes, at, len);
                wh_lane_release(s->rx, b.block.slot);
        } else {
                len = rec.len;
                if (len > sizeof bytes)
                        return -EPROTO;
                wh_shm_copy(bytes, rec.body, len);
        }
        if (!p->lied)
                proof_ledger_received(p, bytes, len);
        wh_ring_advance(&s->rx->ring, &rec);
        return 1;
}

/* Both ends stand just before the end of the ring: the next five records do not fit there. */
static inline void lane_go_near_the_end(struct proof *p)
{
        struct lane_state *s = p->state;
        while (s->tx->ring.pos % s->tx->ring.lines < s->tx->ring.lines - 4) {
                PROOF_EQ(p, lane_put(p), 0);
                PROOF_EQ(p, lane_get(p), 1);
                wh_ring_publish_taken(&s->rx->ring);
        }
}

/* What is reported as sent arrives, whole and in order, and nothing else. */
static inline void lane_audit_receiver(struct proof *p)
{
        int r;
        while ((r = lane_get(p)) > 0)
                ;
        if (p->lied)
                return;
        PROOF_EQ(p, r, 0);
        proof_ledger_balance(p, 0);
}

#endif
