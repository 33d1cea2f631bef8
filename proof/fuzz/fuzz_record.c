/*
 * The shared memory of a real link, overwritten between the calls of both ends: ring, records, blocks and sections as
 * the receiver sees them, and what the receiver claims to have taken and released, as the sender sees it.
 *
 * An input: SIDE, HOW, then steps: overwrite, or an act of either end.
 */
#include "port.h"
#include "port/owned.h"

enum {
        STEP_RING = 0,
        STEP_HEAD = 1,
        STEP_SECTION = 2,
        STEP_BACK = 3,
        STEP_LAST = 4,
        STEP_ACT = 8,
        STEPS = 16,
        STEPS_MAX = 64
};

/* The lane of the requests (or of the replies), as each end has it. */
static struct wh_lane_tx *lane_of(struct fuzz_user *u, bool replies, struct wh_back **ret_back)
{
        int r;
        struct wh_link *holder = wh_holder_lock(u->task, u->right, &r), *owner = NULL;
        if (!holder)
                return NULL;
        wh_unlock(&holder->o.lock);
        struct wh_port *p = wh_port_lock(u->task, u->port, &r);
        if (p) {
                if (!wh_list_empty(&p->links))
                        owner = &wh_container(p->links.next, struct wh_owned, in_port)->link;
                wh_unlock(&p->inbox->lock);
        }
        struct wh_link *from = replies ? owner : holder, *to = replies ? holder : owner;
        *ret_back = to && to->in.lane ? to->in.lane->ring.back : NULL;
        return from ? from->out.lane : NULL;
}

void fuzz_one(struct fuzz_in *in)
{
        struct fuzz_user u = {.task = NULL};
        unsigned replies = fuzz_u8(in) & 1, how = fuzz_u8(in);
        FUZZ_CHECK(wharf_task_open(NULL, &u.task) == 0);
        struct wharf_port_opts o = {.size = sizeof o,
                                    .flags = WHARF_PORT_STAYS,
                                    .capacity_records = how & 128 ? WHARF_UNBOUNDED : 8,
                                    .link_mapped_bytes_max = 8 << 20};
        FUZZ_CHECK(wharf_port_new(u.task, &o, &u.port) == 0);
        FUZZ_CHECK(wharf_right_new(u.task, u.port, &u.right) == 0);
        fuzz_sends(&u, u.right, WHARF_HOW_INLINE, false); /* which makes the lane */
        fuzz_sends(&u, u.right, how & 63, replies);
        if (replies) {
                fuzz_receive(&u, u.port, 0);
                fuzz_receive(&u, u.port, 0);
                if (u.n_got)
                        fuzz_sends(&u, u.got[u.n_got - 1], WHARF_HOW_INLINE, false);
        }
        for (int i = 0; fuzz_more(in) && i < STEPS_MAX; i++) {
                unsigned step = fuzz_u8(in) % STEPS;
                if (step >= STEP_ACT) {
                        fuzz_act(in, &u, step - STEP_ACT);
                        continue;
                }
                struct wh_back *back;
                struct wh_lane_tx *tx = lane_of(&u, replies, &back);
                if (step == STEP_BACK && back)
                        fuzz_patch(in, (uint8_t *)back, sizeof *back, 8);
                else if (!tx)
                        continue;
                else if (step == STEP_HEAD)
                        fuzz_patch(in, (uint8_t *)tx->ring.out + 16, WH_PAGE - 16, 8);
                else if (step == STEP_SECTION && tx->n_sections)
                        fuzz_patch(in, tx->section[0].map, tx->section[0].len, 8);
                else if (step == STEP_LAST) /* near where the next record will be */
                        fuzz_patch(in,
                                   tx->ring.ring + (tx->ring.pos > 4 ? tx->ring.pos - 4 : 0) % tx->ring.lines * WH_LINE,
                                   WH_LINE, 1);
                else
                        fuzz_patch(in, tx->ring.ring, tx->ring.lines * WH_LINE, 4);
        }
        /* The liar loses its own link, and no more: another right is as good as ever. */
        wharf_name clean;
        if (wharf_right_new(u.task, u.port, &clean) == 0) {
                uint8_t c = 0;
                FUZZ_CHECK(wharf_send(u.task, clean, "y", 1, 0) == 0);
                for (int i = 0; i < 300 && c != 'y'; i++) {
                        struct wharf_item items[WHARF_ITEMS_MAX];
                        struct wharf_msg m = {.size = sizeof m,
                                              .flags = WHARF_RECV_ALLOC,
                                              .items = items,
                                              .cap_items = WHARF_ITEMS_MAX};
                        int r = wharf_recvmsg(u.task, u.port, &m, 0);
                        if (r == 0) {
                                c = m.len_bytes == 1 ? *(uint8_t *)m.data : 0;
                                fuzz_take(&u, &m);
                                wharf_release(u.task, &m);
                        } else if (r == -EAGAIN) {
                                break;
                        }
                }
                FUZZ_CHECK(c == 'y');
        }
        wharf_task_close(u.task);
}

void fuzz_seeds(void)
{
        static const uint8_t words[] = {STEP_ACT + 1, 2, STEP_ACT + 0, 0, STEP_ACT + 1, 16, STEP_ACT + 0, 1};
        for (unsigned side = 0; side < 2; side++)
                for (unsigned step = STEP_RING; step <= STEP_LAST; step++) {
                        struct fuzz_out o = {.len = 0};
                        char name[32] = "side0-step0";
                        name[4] = (char)('0' + side);
                        name[10] = (char)('0' + step);
                        fuzz_put8(&o, side);
                        fuzz_put8(&o, step == STEP_SECTION ? WHARF_HOW_SECTION | 8 : WHARF_HOW_INLINE);
                        fuzz_put(&o, words, 2);
                        fuzz_put8(&o, step);
                        fuzz_put16(&o, step == STEP_RING ? 16 : 0);
                        fuzz_put8(&o, 7);
                        fuzz_put(&o, (uint8_t[8]){9, 0, 1, 0, 0x80, 1}, 8);
                        fuzz_put(&o, words, sizeof words);
                        fuzz_seed(name, o.bytes, o.len);
                }
}
