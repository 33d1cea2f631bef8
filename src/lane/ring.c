#include "lane/ring.h"

#include <string.h>

void wh_ring_tx_init(struct wh_ring_tx *tx, struct wh_out *out, const struct wh_back *back, uint64_t capacity)
{
        *tx = (struct wh_ring_tx){
                .out = out,
                .back = back,
                .ring = (uint8_t *)out + WH_PAGE,
                .lines = out->ring_lines,
                .usable = out->ring_lines - 1,
                .cleared = out->ring_lines - 1, /* fresh memory is zero */
                .capacity = capacity,
        };
}

void wh_ring_tx_follow(struct wh_ring_tx *tx, uint64_t records, uint64_t unread)
{
        tx->records = records;
        tx->taken_records = records - unread;
        /* Until it is handed over `back` is the sender's own; the receiver goes on from here (R5). */
        struct wh_back *back = (struct wh_back *)(uintptr_t)tx->back;
        atomic_store_explicit(&back->taken_records, tx->taken_records, memory_order_relaxed);
}

void wh_ring_rx_init(struct wh_ring_rx *rx, const struct wh_out *out, struct wh_back *back, uint32_t ring_lines)
{
        *rx = (struct wh_ring_rx){
                .out = out,
                .back = back,
                .ring = (const uint8_t *)out + WH_PAGE,
                .lines = ring_lines,
        };
}

void wh_ring_uncount(struct wh_ring_tx *tx)
{
        uint64_t number = tx->records - 1;
        if (tx->capacity == WH_RING_UNBOUNDED)
                return;
        if (tx->n_runs && tx->run[tx->n_runs - 1].first + tx->run[tx->n_runs - 1].n == number) {
                tx->run[tx->n_runs - 1].n++;
        } else {
                if (tx->n_runs == WH_RING_RUNS)
                        return;
                tx->run[tx->n_runs].first = number;
                tx->run[tx->n_runs++].n = 1;
        }
        tx->uncounted++;
        tx->capacity++;
}

/* Those of them that were taken. */
static void uncounted_taken(struct wh_ring_tx *tx)
{
        unsigned i = 0;
        while (i < tx->n_runs && tx->run[i].first < tx->taken_records) {
                uint64_t n = tx->taken_records - tx->run[i].first;
                n = n < tx->run[i].n ? n : tx->run[i].n;
                tx->uncounted -= n;
                tx->capacity -= n;
                tx->run[i].first += n;
                tx->run[i].n -= n;
                if (tx->run[i].n)
                        break;
                i++;
        }
        tx->n_runs -= (uint8_t)i;
        memmove(tx->run, tx->run + i, tx->n_runs * sizeof tx->run[0]);
}

bool wh_ring_refresh(struct wh_ring_tx *tx)
{
        /*
         * [ring-taken] Acquire, pairs with the release in wh_ring_publish_taken(): the receiver has finished with
         * the lines before we write there again. Both words only ever grow; a receiver that lies loses its own
         * messages, never our memory (R5).
         */
        uint64_t lines = atomic_load_explicit(&tx->back->taken_lines, memory_order_acquire);
        uint64_t records = atomic_load_explicit(&tx->back->taken_records, memory_order_acquire);
        records = records < tx->told_records ? tx->told_records : records;
        if (lines - tx->seen_lines > tx->pos - tx->seen_lines ||
            records - tx->taken_records > tx->records - tx->taken_records) {
                tx->broken = true;
                return false;
        }
        tx->seen_lines = lines;
        tx->taken_lines = lines > tx->base ? lines : tx->base;
        tx->taken_records = records;
        if (wh_unlikely(tx->uncounted))
                uncounted_taken(tx);
        return true;
}

void *wh_ring_reserve_slow(struct wh_ring_tx *tx, uint32_t len)
{
        assert(2 * wh_rec_lines(len) <= tx->usable); /* it and its pad */
        if (tx->broken)
                return NULL;
        uint64_t at = tx->pos & (tx->lines - 1);
        uint32_t need = wh_rec_lines(len);
        uint64_t pad = at + need > tx->lines ? tx->lines - at : 0;
        /* One line more than the record and its pad: the successor's head must be clear as well (R2). */
        uint64_t end = tx->pos + pad + need + 1;

        if (end - tx->taken_lines > tx->usable || tx->records - tx->taken_records >= tx->capacity) {
                if (!wh_ring_refresh(tx) || end - tx->taken_lines > tx->usable ||
                    tx->records - tx->taken_records >= tx->capacity)
                        return NULL;
        }
        wh_ring_clear(tx, end);
        if (pad) {
                /* It bears the number of the record that follows, and reaches to the end whatever its length says. */
                wh_ring_publish(tx, WH_REC_PAD, 0);
                tx->records--;
                tx->pos += pad - 1;
        }
        return tx->ring + (tx->pos & (tx->lines - 1)) * WH_LINE + 8;
}

void *wh_ring_reserve_kept(struct wh_ring_tx *tx)
{
        /* The record, one line, and the head behind it (R2). */
        if (tx->broken || (tx->pos + 2 - tx->taken_lines > tx->lines &&
                           (!wh_ring_refresh(tx) || tx->pos + 2 - tx->taken_lines > tx->lines)))
                return NULL;
        uint64_t usable = tx->usable;
        tx->usable = tx->lines;
        wh_ring_clear(tx, tx->pos + 2);
        tx->usable = usable;
        return tx->ring + (tx->pos & (tx->lines - 1)) * WH_LINE + 8;
}

void wh_ring_tx_continue(struct wh_ring_tx *tx, struct wh_out *out)
{
        tx->out = out;
        tx->ring = (uint8_t *)out + WH_PAGE;
        tx->lines = out->ring_lines;
        tx->usable = out->ring_lines - 1;
        tx->base = tx->taken_lines = tx->pos;
        tx->cleared = tx->pos + tx->usable;
}

void wh_ring_rx_continue(struct wh_ring_rx *rx, const struct wh_out *out, uint32_t ring_lines)
{
        rx->out = out;
        rx->ring = (const uint8_t *)out + WH_PAGE;
        rx->lines = ring_lines;
}

void wh_ring_want(struct wh_ring_tx *tx, bool waiting)
{
        /* One writer, so no read-modify-write: a generation that was never there before, or 0. */
        static _Atomic uint32_t generations; /* private memory: shared only by this process's threads */
        uint32_t g = 0;
        if (waiting) {
                do
                        g = atomic_fetch_add_explicit(&generations, 1, memory_order_relaxed) + 1;
                while (g == 0);
        }
        atomic_store_explicit((_Atomic uint32_t *)(uintptr_t)&tx->back->want, g, memory_order_relaxed);
        /* [lane-want] Full fence, pairs with the one in wh_ring_wanted(): announce, then look again. */
        if (waiting)
                atomic_thread_fence(memory_order_seq_cst);
}

bool wh_ring_wanted(struct wh_ring_rx *rx)
{
        /* [lane-want] Full fence, pairs with the one in wh_ring_want(): give room, then look who waits. */
        atomic_thread_fence(memory_order_seq_cst);
        uint32_t want = atomic_load_explicit(&rx->back->want, memory_order_relaxed);
        if (wh_likely(want == rx->want_rung))
                return false;
        rx->want_rung = want;
        return want != 0;
}

bool wh_ring_publish_taken(struct wh_ring_rx *rx)
{
        rx->settled_lines = rx->pos;
        /* [ring-taken] Release, pairs with the acquire in wh_ring_refresh(): as in wh_ring_advance(). */
        atomic_store_explicit(&rx->back->taken_records, rx->records, memory_order_release);
        atomic_store_explicit(&rx->back->taken_lines, rx->pos, memory_order_release);
        return wh_ring_wanted(rx);
}

bool wh_ring_sleep(struct wh_ring_rx *rx)
{
        bool ring = wh_ring_idle(rx);
        if (++rx->generation == 0)
                rx->generation = 1;
        atomic_store_explicit(&rx->back->asleep, rx->generation, memory_order_relaxed);
        /* [lane-asleep] Full fence, pairs with the one in wh_ring_must_ring(): announce, then look again. */
        atomic_thread_fence(memory_order_seq_cst);
        return ring;
}
