#include "lane/lane.h"
#include "os/os.h"
#include "test.h"

#include <pthread.h>

/* Both sides in one process: the receiver maps what the sender made, through the same checks as between processes. */
static struct wh_lane_tx *tx;
static struct wh_lane_rx *rx;

static void lane_open(uint32_t ring_bytes, uint64_t capacity)
{
        CHECK_EQ(wh_lane_tx_new(ring_bytes, capacity, &tx), 0);
        CHECK_EQ(wh_lane_rx_open(tx->out_fd, tx->back_fd, 1 << 30, &rx), 0);
}

static void lane_close(void)
{
        tx = wh_lane_tx_free(tx);
        rx = wh_lane_rx_free(rx);
}

static bool put(const void *bytes, uint32_t len)
{
        void *body = wh_ring_reserve(&tx->ring, len);
        if (!body)
                return false;
        wh_shm_copy(body, bytes, len);
        wh_ring_publish(&tx->ring, WH_REC_PLAIN, len);
        wh_ring_clear_ahead(&tx->ring);
        return true;
}

static int get(void *bytes, uint32_t *ret_len)
{
        struct wh_rec rec;
        int r = wh_ring_peek(&rx->ring, &rec);
        if (r <= 0)
                return r;
        *ret_len = rec.len;
        wh_shm_copy(bytes, rec.body, rec.len);
        wh_ring_advance(&rx->ring, &rec);
        return 1;
}

/*
 * Goal:   records of every size arrive whole and in order over many laps of a small ring, whatever old payloads look
 *         like.
 * Method: payloads are made of the very words that heads are made of, for the numbers that come next, so a head that
 *         was not cleared (ring.R2) would be taken for a record.
 */
TEST(records_wrap_without_tearing)
{
        lane_open(8192, 1000);
        uint64_t out[WH_RECORD_BODY_MAX / 8], in[WH_RECORD_BODY_MAX / 8];
        uint64_t sent = 0, got = 0;
        uint32_t len, lens[128];
        while (got < 200000) {
                while (test_random() % 4) {
                        len = (uint32_t)(test_random() % 700);
                        for (uint32_t i = 0; i < len / 8 + 1; i++)
                                out[i] = wh_rec_head(WH_REC_PLAIN, 8, tx->ring.records + test_random() % 128);
                        if (!put(out, len))
                                break;
                        lens[sent++ % 128] = len;
                        CHECK_LE(sent - got, 64);
                }
                while (test_random() % 4 && get(in, &len) == 1) {
                        CHECK_EQ(len, lens[got % 128]);
                        for (uint32_t i = 0; i + 8 <= len; i += 8)
                                CHECK_EQ(in[i / 8] >> 63, 1);
                        got++;
                }
        }
        lane_close();
}

TEST(a_full_ring_refuses_by_records_and_by_bytes)
{
        char big[1024] = {0};
        uint32_t len;
        lane_open(8192, 3);
        for (int i = 0; i < 3; i++)
                CHECK(put("x", 1));
        CHECK(!put("x", 1));
        for (int i = 0; i < 100; i++) { /* what was taken is told at once */
                CHECK_EQ(get(big, &len), 1);
                CHECK(put("x", 1));
                CHECK(!put("x", 1));
        }
        lane_close();

        lane_open(8192, 1000);
        int n = 0;
        while (put(big, sizeof big))
                n++;
        CHECK_EQ(n, 7);
        lane_close();
}

/* Goal: what the common case costs: a payload of 56 bytes moves one line, one of 57 two. */
TEST(small_payloads_take_one_line)
{
        char b[64] = {0};
        lane_open(8192, 1000);
        CHECK(put(b, 56));
        CHECK_EQ(tx->ring.pos, 1);
        CHECK(put(b, 57));
        CHECK_EQ(tx->ring.pos, 3);
        lane_close();
}

TEST(the_receiver_cannot_write_what_the_sender_publishes)
{
        lane_open(8192, 10);
        void *map;
        CHECK_EQ(wh_os_mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, tx->out_fd, 0, &map), -EPERM);
        CHECK_EQ(wh_os_write(tx->out_fd, "x", 1), -EPERM);
        CHECK_EQ(wh_os_ftruncate(tx->out_fd, 0), -EPERM);
        CHECK_EQ(wh_os_fallocate(tx->out_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -EPERM);
        lane_close();
}

/* A memfd like a lane's `out`, but for what the caller wants to be wrong. */
static int fake_out(off_t len, bool allocate, mode_t mode, int seals, uint32_t version, uint32_t lines)
{
        int fd = wh_os_memfd("fake");
        wh_os_ftruncate(fd, len);
        if (allocate) /* and touched: what is reserved alone is a hole to the kernel */
                for (off_t at = 0; at < len; at++)
                        CHECK_EQ(wh_os_write_at(fd, "", 1, at), 1);
        struct {
                uint64_t magic;
                uint32_t version, lines;
        } head = {WH_LANE_MAGIC, version, lines};
        wh_os_write(fd, &head, sizeof head);
        wh_os_fchmod(fd, mode);
        wh_os_seal(fd, seals);
        return fd;
}

TEST(memory_that_is_not_a_sealed_reserved_lane_is_refused)
{
        const int all = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE;
        const off_t len = WH_PAGE + WH_RING_LINES_MIN * WH_LINE;
        const struct {
                off_t len;
                bool allocate;
                mode_t mode;
                int seals;
                uint32_t version, lines;
                int want;
        } cases[] = {
                {len, true, 0600, all, WH_LANE_VERSION, 128, 0},
                {len, false, 0600, all, WH_LANE_VERSION, 128, -EPROTO},
                {len, true, 0644, all, WH_LANE_VERSION, 128, -EPROTO},
                {len, true, 0600, all & ~F_SEAL_FUTURE_WRITE, WH_LANE_VERSION, 128, -EPROTO},
                {len, true, 0600, all & ~F_SEAL_SHRINK, WH_LANE_VERSION, 128, -EPROTO},
                {len, true, 0600, all & ~F_SEAL_SEAL, WH_LANE_VERSION, 128, -EPROTO},
                {len, true, 0600, all, WH_LANE_VERSION + 1, 128, -EPROTONOSUPPORT},
                {len, true, 0600, all, WH_LANE_VERSION, 256, -EPROTO},
                {len, true, 0600, all, WH_LANE_VERSION, 129, -EPROTO},
                {len + 1, true, 0600, all, WH_LANE_VERSION, 128, -EPROTO},
                {WH_PAGE, true, 0600, all, WH_LANE_VERSION, 0, -EPROTO},
        };
        lane_open(8192, 10);
        for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
                int fd = fake_out(cases[i].len, cases[i].allocate, cases[i].mode, cases[i].seals, cases[i].version,
                                  cases[i].lines);
                struct wh_lane_rx *got = NULL;
                CHECK_EQ(wh_lane_rx_open(fd, tx->back_fd, 1 << 20, &got), cases[i].want);
                CHECK((got != NULL) == (cases[i].want == 0));
                wh_lane_rx_free(got);
                wh_os_close(fd);
        }
        struct wh_lane_rx *got = NULL;
        CHECK_EQ(wh_lane_rx_open(tx->out_fd, tx->back_fd, 4096, &got), -EDQUOT);
        CHECK_EQ(wh_lane_rx_open(tx->back_fd, tx->out_fd, 1 << 20, &got), -EPROTO);
        int p[2];
        CHECK_EQ(pipe(p), 0);
        CHECK_EQ(wh_lane_rx_open(p[0], tx->back_fd, 1 << 20, &got), -EPROTO);
        close(p[0]);
        close(p[1]);
        int file = open(test_dir(), O_TMPFILE | O_RDWR, 0600);
        if (file >= 0) {
                CHECK_EQ(ftruncate(file, len), 0);
                CHECK_EQ(wh_lane_rx_open(file, tx->back_fd, 1 << 20, &got), -EPROTO);
                close(file);
        }
        lane_close();
}

/* Goal: no head that a sender may write makes the receiver read outside the ring, or loop. */
TEST(any_head_is_answered_without_leaving_the_ring)
{
        lane_open(8192, 1000);
        _Atomic uint64_t *head = (_Atomic uint64_t *)(void *)tx->ring.ring;
        for (int i = 0; i < 200000; i++) {
                uint64_t at = test_random() % 128;
                rx->ring.pos = at;
                rx->ring.records = test_random() % 4;
                uint64_t v = test_random();
                if (i % 2)
                        v = (v & 0xfffff) | (uint64_t)(0x80000000u | (uint32_t)rx->ring.records) << 32;
                atomic_store(&head[at * 8], v);
                struct wh_rec rec;
                int r = wh_ring_peek(&rx->ring, &rec);
                CHECK(r == 0 || r == 1 || r == -EPROTO);
                if (r == 1)
                        CHECK(rec.body >= rx->ring.ring && rec.body + rec.len <= rx->ring.ring + 8192);
        }
        lane_close();
}

TEST(a_receiver_that_claims_the_impossible_is_found_out)
{
        lane_open(8192, 3);
        struct wh_back *back = rx->ring.back;
        for (int i = 0; i < 3; i++)
                CHECK(put("x", 1));
        atomic_store(&back->taken_records, 4);
        CHECK(!put("x", 1));
        CHECK(tx->ring.broken);
        lane_close();
}

/*
 * Goal:   the block of an offer that stands is nobody's to give back but who has taken it; and where that was a lie, it harms
 *         nothing but the lane.
 * Method: it is given back while the claim word says that it is offered; and once it says that it was taken.
 */
TEST(what_is_offered_and_not_taken_is_not_given_back)
{
        for (int taken = 0; taken < 2; taken++) {
                lane_open(8192, 1000);
                unsigned index;
                uint16_t slot, more;
                void *mem;
                CHECK_EQ(wh_lane_add_section(tx, 65536, &index), 0);
                CHECK_EQ(wh_lane_rx_add_section(rx, tx->section[index].fd, 1 << 20), 0);
                CHECK_EQ(wh_lane_lend(tx, 65536, &slot, &mem), 0);
                wh_lane_slot_sent(tx, slot);
                tx->offered = slot;
                tx->offered_record = 0;
                atomic_store(&rx->ring.back->claim, wh_claim_word(taken ? WH_CLAIM_TAKEN : WH_CLAIM_OFFERED, 0));
                wh_lane_release(rx, slot);
                CHECK_EQ(wh_lane_lend(tx, 65536, &more, &mem), taken ? 0 : -EPROTO);
                CHECK_EQ(tx->ring.broken, !taken);
                if (!taken) {
                        wh_lane_slot_unsent(tx, slot);
                        wh_lane_unlend(tx, slot); /* it is ours still */
                        wh_lane_unlend(tx, slot); /* of a lane that is broken: harmless */
                } else {
                        CHECK_EQ(tx->offered, -1);
                }
                lane_close();
        }
}

TEST(blocks_are_released_in_any_order_and_only_once)
{
        lane_open(8192, 1000);
        unsigned index;
        CHECK_EQ(wh_lane_add_section(tx, 65536, &index), 0);
        CHECK_EQ(wh_lane_rx_add_section(rx, tx->section[index].fd, 1 << 20), 0);
        uint16_t slot[16];
        void *mem[16];
        for (int i = 0; i < 16; i++) {
                CHECK_EQ(wh_lane_lend(tx, 4096, &slot[i], &mem[i]), 0);
                memset(mem[i], 'a' + i, 4096);
                wh_lane_slot_sent(tx, slot[i]);
        }
        uint16_t more;
        void *where;
        CHECK_EQ(wh_lane_lend(tx, 4096, &more, &where), -EAGAIN);
        CHECK_EQ(wh_lane_lend(tx, 1 << 20, &more, &where), -ENOSPC);
        for (int i = 15; i >= 0; i -= 2) {
                struct wh_rec_block b = wh_lane_block(tx, slot[i], 4096, 4096);
                const void *seen;
                CHECK_EQ(wh_lane_at(rx, &b, &seen), 0);
                CHECK_EQ(*(const char *)seen, 'a' + i);
                wh_lane_release(rx, slot[i]);
        }
        for (int i = 0; i < 8; i++)
                CHECK_EQ(wh_lane_lend(tx, 4096, &more, &where), 0);
        CHECK_EQ(wh_lane_lend(tx, 4096, &more, &where), -EAGAIN);
        wh_lane_release(rx, slot[0]);
        wh_lane_release(rx, slot[0]); /* twice: a lie */
        CHECK_EQ(wh_lane_lend(tx, 4096, &more, &where), -EPROTO);
        CHECK(tx->ring.broken);
        lane_close();
}

TEST(a_block_outside_its_section_is_refused)
{
        lane_open(8192, 1000);
        unsigned index;
        const void *where;
        CHECK_EQ(wh_lane_add_section(tx, 65536, &index), 0);
        CHECK_EQ(wh_lane_rx_add_section(rx, tx->section[index].fd, 1 << 20), 0);
        CHECK_EQ(wh_lane_at(rx, &(struct wh_rec_block){.len = 65536}, &where), 0);
        CHECK_EQ(wh_lane_at(rx, &(struct wh_rec_block){.len = 65537}, &where), -EPROTO);
        CHECK_EQ(wh_lane_at(rx, &(struct wh_rec_block){.len = 65536, .offset = 1}, &where), -EPROTO);
        CHECK_EQ(wh_lane_at(rx, &(struct wh_rec_block){.len = 1, .offset = UINT32_MAX}, &where), -EPROTO);
        CHECK_EQ(wh_lane_at(rx, &(struct wh_rec_block){.len = UINT64_MAX, .offset = 64}, &where), -EPROTO);
        CHECK_EQ(wh_lane_at(rx, &(struct wh_rec_block){.len = 1, .section = 1}, &where), -EPROTO);
        CHECK_EQ(wh_lane_at(rx, &(struct wh_rec_block){.len = 1, .slot = WH_SLOTS}, &where), -EPROTO);
        lane_close();
}

/* Threads as parties: every wake-up that is owed is given, with no time-out anywhere to hide a lost one. */
static _Atomic uint32_t rung_rx, rung_tx;
enum { WAKE_MESSAGES = 100000 };

static void ring_bell(_Atomic uint32_t *bell)
{
        atomic_fetch_add(bell, 1);
        wh_os_futex_wake(bell, 1, false);
}

static void *sender_thread(void *arg)
{
        for (uint64_t i = 0; i < WAKE_MESSAGES;) {
                uint32_t bell = atomic_load(&rung_tx);
                if (put(&i, 8)) {
                        i++;
                        if (wh_ring_must_ring(&tx->ring))
                                ring_bell(&rung_rx);
                        continue;
                }
                wh_ring_want(&tx->ring, true);
                wh_ring_refresh(&tx->ring);
                if (wh_ring_unread(&tx->ring) >= tx->ring.capacity)
                        wh_os_futex_wait(&rung_tx, bell, WH_NEVER, false);
                wh_ring_want(&tx->ring, false);
        }
        return NULL;
}

TEST_TIMEOUT(no_wake_up_is_lost, 60)
{
        lane_open(8192, 4);
        pthread_t t;
        pthread_create(&t, NULL, sender_thread, NULL);
        for (uint64_t i = 0, v; i < WAKE_MESSAGES;) {
                uint32_t bell = atomic_load(&rung_rx);
                struct wh_rec rec;
                if (wh_ring_peek(&rx->ring, &rec) == 1) {
                        CHECK_EQ(rec.len, 8);
                        wh_shm_copy(&v, rec.body, 8);
                        CHECK_EQ(v, i);
                        if (wh_ring_advance(&rx->ring, &rec))
                                ring_bell(&rung_tx);
                        i++;
                        continue;
                }
                if (wh_ring_sleep(&rx->ring))
                        ring_bell(&rung_tx);
                if (wh_ring_peek(&rx->ring, &rec) == 0)
                        wh_os_futex_wait(&rung_rx, bell, WH_NEVER, false);
                wh_ring_awake(&rx->ring);
        }
        pthread_join(t, NULL);
        lane_close();
}
