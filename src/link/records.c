/*
 * records - what each kind of record in the lane is for the receiver.
 *
 * Always true:
 *   Q1  What a record says is copied, then checked, and the copy is used (K3). The payload alone is looked at in place.
 *   Q2  A record stays the next one until all that belongs to it is there: its descriptors (K2), its section, memory for it.
 *   Q3  A record that is no message (a part, a window, the end of a ring) is taken here, and leaves nothing to deliver.
 */
#include "link/records.h"

#include "base/trace.h"
#include "link/budget.h"
#include "link/change.h"
#include "link/descriptors.h"
#include "link/direct.h"
#include "link/stash.h"

#include <errno.h>

/* A larger message in parts is not put together in the buffer of a receive, which may end first: K7. */
enum { DIRECT_MAX = WH_BUDGET_TURN * WH_COST_BYTES };

/*
 * The descriptors of the record that is next (K2). A payload in a memory of its own is the last of them where the record says
 * so, and nowhere else: as an item it would be a right of any descriptor's, and one more than a receiver has room for.
 */
static int record_items(struct wh_link *l, unsigned n, bool memory)
{
        int r = wh_link_read(l, WH_UNTIL_ITEMS, 0);
        if (r < 0)
                return r;
        /* None at all is never right (n > 0): they were to be sent before the record. */
        if (l->in.items.seq != l->in.seq || l->in.items.n != n)
                return wh_trace(-EPROTO);
        return (l->in.items.kind[n - 1] == WH_ITEM_MEMORY) == memory ? 0 : wh_trace(-EPROTO);
}

/* Where a block lies; its section's frame may still be unread. */
static int block_at(struct wh_link *l, const struct wh_rec_block *b, const void **ret)
{
        int r = b->section < WH_SECTIONS_MAX ? wh_link_read(l, WH_UNTIL_SECTION, b->section) : 0;
        if (r < 0)
                return r;
        return wh_lane_at(l->in.lane, b, ret);
}

/*
 * The first part of a message in parts, of `total` bytes. A small one goes straight into the buffer of the receive that is
 * running: should that end before the message does, what is there is copied in one go.
 */
static int parts_begin(struct wh_link *l, struct wh_incoming *in, const struct wh_rec_ext *ext, uint64_t total)
{
        struct wh_stash *s = &l->in.stash;
        if (!wh_stash_parts_allowed(l, total))
                return wh_trace(-EPROTO);
        int r = ext->n_items ? record_items(l, ext->n_items, false) : 0;
        if (r < 0)
                return r;
        if (in->direct && total <= in->direct_room && total <= DIRECT_MAX && total <= wh_stash_max(l)) {
                if ((r = wh_stash_charge(l, total)) < 0)
                        return r;
                wh_stash_begin_in(l, in->direct, total, ext->id, ext->call, WHARF_HOW_CHUNKS);
        } else if ((r = wh_stash_begin(l, total, ext->id, ext->call, WHARF_HOW_CHUNKS)) < 0) {
                return r;
        }
        s->n_items = ext->n_items;
        s->refused = (uint16_t)ext->arg;
        return 0;
}

/* One more part of a message in parts. */
static int part_add(struct wh_link *l, uint64_t total, const void *bytes, uint64_t len)
{
        struct wh_stash *s = &l->in.stash;
        if (total != s->len || len == 0 || len > s->len - s->have)
                return wh_trace(-EPROTO);
        int r = wh_stash_grow(l);
        if (r < 0)
                return r;
        wh_shm_copy(s->bytes + s->have, bytes, len);
        s->have += len;
        wh_link_spend(l, len / WH_COST_BYTES);
        return 0;
}

/* A part in a block. */
static int record_chunk(struct wh_link *l, struct wh_incoming *in, const struct wh_rec_ext *ext)
{
        struct wh_rec_block b;
        const void *bytes;
        wh_shm_copy(&b, in->rec.body + sizeof *ext, sizeof b);
        if (b.len > WH_CHUNK)
                return wh_trace(-EPROTO); /* one part is copied in one go */
        int r = block_at(l, &b, &bytes);
        if (r == 0 && !l->in.stash.building)
                r = parts_begin(l, in, ext, b.total);
        if (r == 0)
                r = part_add(l, b.total, bytes, b.len);
        if (r < 0)
                return r;
        wh_records_done(l, &in->rec);
        if (wh_lane_release(l->in.lane, b.slot))
                wh_link_bell(l);
        if (l->in.stash.have == l->in.stash.len)
                wh_stash_finish(l);
        return 0;
}

/* A part in the record itself. */
static int record_piece(struct wh_link *l, struct wh_incoming *in, const struct wh_rec_ext *ext)
{
        uint64_t total;
        wh_shm_copy(&total, in->rec.body + sizeof *ext, sizeof total);
        int r = l->in.stash.building ? 0 : parts_begin(l, in, ext, total);
        if (r == 0)
                r = part_add(l, total, in->rec.body + sizeof *ext + sizeof total,
                             in->rec.len - sizeof *ext - sizeof total);
        if (r < 0)
                return r;
        wh_records_done(l, &in->rec);
        if (l->in.stash.have == l->in.stash.len)
                wh_stash_finish(l);
        return 0;
}

/* Of an offer that stands. 1: it was read, and is the receiver's; 0: it was withdrawn; or why it cannot be had. */
static int direct_take(struct wh_link *l, const struct wh_rec_direct *d)
{
        struct wh_ring_rx *ring = &l->in.lane->ring;
        int r = wh_direct_read(l, d->at, l->in.stash.bytes, d->len);
        wh_link_spend(l, d->len / WH_COST_BYTES);
        return r < 0 ? r : wh_ring_claim(ring, ring->records);
}

/*
 * A payload in the sender's address space: straight into the buffer of the receive that is running, or into private
 * memory. Refused or withdrawn, it is no message.
 */
static int record_direct(struct wh_link *l, struct wh_incoming *in, const struct wh_rec_ext *ext)
{
        struct wh_ring_rx *ring = &l->in.lane->ring;
        struct wh_rec_direct d;
        int r = 0;
        wh_shm_copy(&d, in->rec.body + sizeof *ext, sizeof d);
        if (ext->n_items || d.len == 0 || d.at + d.len < d.at)
                return wh_trace(-EPROTO);
        if (!l->takes_direct) {
                r = -ENOPROTOOPT; /* V6 */
        } else if (wh_ring_still_offered(ring, ring->records)) {
                if (in->direct && d.len <= in->direct_room && d.len <= wh_stash_max(l))
                        wh_stash_begin_in(l, in->direct, d.len, ext->id, ext->call, WHARF_HOW_DIRECT);
                else if ((r = wh_stash_begin(l, d.len, ext->id, ext->call, WHARF_HOW_DIRECT)) < 0)
                        return r;
                r = direct_take(l, &d);
        }
        if (r > 0) {
                l->in.stash.have = d.len;
                wh_stash_finish(l);
        } else {
                wh_link_forget_part(l);
        }
        if (r < 0)
                wh_ring_refuse(ring, ring->records, r);
        wh_records_done(l, &in->rec);
        if (wh_ring_publish_taken(ring)) /* the sender waits for this one */
                wh_link_bell(l);
        return 0;
}

/*
 * Where a reply may be written. Kept until its request comes: whatever it says, it is looked at only with the kernel.
 */
static int record_window(struct wh_link *l, const struct wh_rec *rec, const struct wh_rec_ext *ext)
{
        struct wh_rec_direct d;
        wh_shm_copy(&d, rec->body + sizeof *ext, sizeof d);
        if (l->once || ext->n_items || !ext->call || d.len == 0 || d.at + d.len < d.at)
                return wh_trace(-EPROTO);
        l->in.window.call = ext->call;
        l->in.window.at = d.at;
        l->in.window.len = d.len;
        wh_records_done(l, rec);
        if (wh_ring_publish_taken(&l->in.lane->ring)) /* no message: it shall take no place from the one that follows */
                wh_link_bell(l);
        return 0;
}

/* A reply that lies in the caller's own memory already (direct.D3). */
static int record_written(struct wh_link *l, struct wh_incoming *in, const struct wh_rec_ext *ext)
{
        struct wh_rec_direct d;
        bool given_up;
        wh_shm_copy(&d, in->rec.body + sizeof *ext, sizeof d);
        int r = ext->n_items ? record_items(l, ext->n_items, false) : 0;
        if (r < 0)
                return r;
        if (l->end->written(l, ext->call, &d, &given_up)) {
                l->in.stash.id = ext->id;
                l->in.stash.n_items = ext->n_items;
                wh_records_done(l, &in->rec);
                return 0;
        }
        if (!given_up)
                return wh_trace(-EPROTO);
        in->where = WH_IN_RECORD; /* nobody's */
        in->bytes = NULL;
        in->len = 0;
        in->id = ext->id;
        in->call = ext->call;
        in->n_items = ext->n_items;
        in->dropped = in->refused = 0;
        in->how = WHARF_HOW_DIRECT;
        return 1;
}

/* The ring ends: the next one's frame was sent before the record that says so. */
static int record_next(struct wh_link *l, const struct wh_rec *rec, const struct wh_rec_ext *ext)
{
        int r = wh_link_read(l, WH_UNTIL_RING, 0);
        if (r < 0)
                return r;
        const uint64_t before = l->in.lane->mapped_bytes;
        r = wh_lane_rx_switch(l->in.lane, ext->arg & WH_NEXT_NO_SECTIONS);
        if (r < 0)
                return r;
        wh_budget_mapped(l, before - l->in.lane->mapped_bytes);
        l->end->mapped(l);
        l->in.sock_ready = true; /* frames may have been left behind that of this ring */
        wh_records_done(l, rec);
        wh_link_lines_end(l);
        if (wh_ring_idle(&l->in.lane->ring)) /* whose memory is gone is told */
                wh_link_bell(l);
        return 0;
}

/* A payload that lies in a block. */
static int message_block(struct wh_link *l, struct wh_incoming *in)
{
        struct wh_rec_block b;
        const void *bytes;
        wh_shm_copy(&b, in->rec.body + sizeof(struct wh_rec_ext), sizeof b);
        int r = block_at(l, &b, &bytes);
        if (r < 0)
                return r;
        if (b.total != b.len || b.len > WH_BLOCK_MAX)
                return wh_trace(-EPROTO);
        in->where = WH_IN_BLOCK;
        in->bytes = bytes;
        in->len = b.len;
        in->slot = b.slot;
        in->how = WHARF_HOW_SECTION;
        return 0;
}

/* A payload in a memory of its own: the stash has it from here on, and the record is taken. */
static int message_memory(struct wh_link *l, const struct wh_rec *rec, const struct wh_rec_ext *ext, bool offered)
{
        struct wh_rec_block b;
        wh_shm_copy(&b, rec->body + sizeof *ext, sizeof b);
        int fd = wh_items_take_memory(l);
        if (fd < 0)
                return wh_trace(-EPROTO);
        int r = wh_stash_memory(l, fd, b.total, ext->id, ext->call);
        if (r == -ENOMEM) {
                l->in.items.n++; /* kept, for another try */
                return r;
        }
        wh_stash_memory_keep(l, fd);
        l->in.stash.n_items = l->in.items.n;
        l->in.stash.refused = (uint16_t)ext->arg;
        if (r < 0)
                return r;
        if (offered) {
                l->in.stash.how |= WH_HOW_OFFERED;
                l->in.offer = l->in.lane->ring.records + 1;
        }
        wh_records_done(l, rec);
        return 0;
}

/* All of a message, or the end of a call that has no answer. */
static int record_message(struct wh_link *l, struct wh_incoming *in, const struct wh_rec_ext *ext,
                          enum wh_rec_kind kind, bool offered)
{
        in->dropped = 0;
        in->id = ext->id;
        in->call = ext->call;
        in->refused = (int)(ext->arg & 4095);
        in->n_items = ext->n_items;
        int r = ext->n_items ? record_items(l, ext->n_items, kind == WH_REC_MEMORY) : 0;
        if (r < 0)
                return r;
        switch (kind) {
        case WH_REC_INLINE:
                in->where = WH_IN_RECORD;
                in->bytes = in->rec.body + sizeof *ext;
                in->len = in->rec.len - sizeof *ext;
                in->how = WHARF_HOW_INLINE;
                break;
        case WH_REC_BLOCK:
                r = message_block(l, in);
                break;
        case WH_REC_MEMORY:
                return message_memory(l, &in->rec, ext, offered);
        case WH_REC_DROPPED:
                in->where = WH_IN_RECORD;
                in->bytes = NULL;
                in->len = 0;
                in->dropped = ECANCELED;
                break;
        default:
                return wh_trace(-EPROTO);
        }
        if (r < 0)
                return r;
        if (in->len > wh_stash_max(l)) /* a port has said what it takes, and a caller has not */
                return wh_trace(l->owner ? -EPROTO : -EMSGSIZE);
        if (offered)
                in->how |= WH_HOW_OFFERED;
        return 1;
}

/* What an honest sender's record of each kind is like. */
enum { OWNER = 1, HOLDER = 2, BOTH = OWNER | HOLDER };
static const struct {
        uint8_t to;     /* by whom it is read; 0: no such record comes here */
        uint8_t least;  /* so many bytes follow its struct wh_rec_ext, at least, */
        bool exactly;   /* ... or exactly so many */
        bool amid;      /* it may come in the middle of a message in parts */
        bool offerable; /* an owner may be offered it */
} kinds[WH_REC_KINDS] = {
        [WH_REC_INLINE] = {.to = BOTH, .offerable = true},
        [WH_REC_BLOCK] = {.to = BOTH, .least = sizeof(struct wh_rec_block), .exactly = true, .offerable = true},
        [WH_REC_MEMORY] = {.to = BOTH, .least = sizeof(struct wh_rec_block), .exactly = true, .offerable = true},
        [WH_REC_CHUNK] = {.to = BOTH, .least = sizeof(struct wh_rec_block), .exactly = true, .amid = true},
        [WH_REC_PIECE] = {.to = BOTH, .least = sizeof(uint64_t), .amid = true},
        [WH_REC_ABORT] = {.to = BOTH, .amid = true},
        [WH_REC_NEXT] = {.to = BOTH, .exactly = true},
        [WH_REC_DIRECT] = {.to = BOTH, .least = sizeof(struct wh_rec_direct), .exactly = true, .offerable = true},
        [WH_REC_WINDOW] = {.to = OWNER, .least = sizeof(struct wh_rec_direct), .exactly = true},
        [WH_REC_DROPPED] = {.to = HOLDER},
};

static bool kind_fits(const struct wh_link *l, uint32_t kind, bool offered, uint64_t behind)
{
        if (kind >= WH_REC_KINDS || !(kinds[kind].to & (l->owner ? OWNER : HOLDER)))
                return false;
        if (behind < kinds[kind].least || (kinds[kind].exactly && behind != kinds[kind].least))
                return false;
        if (l->in.stash.building && !kinds[kind].amid)
                return false;
        return !offered || (kinds[kind].offerable && l->owner);
}

int wh_records_take(struct wh_link *l, struct wh_incoming *in)
{
        const struct wh_rec *rec = &in->rec;
        struct wh_rec_ext ext;
        if (rec->len < sizeof ext)
                return wh_trace(-EPROTO);
        wh_shm_copy(&ext, rec->body, sizeof ext);
        const bool offered = rec->kind == WH_REC_OFFER;
        const uint32_t kind = offered ? ext.arg : rec->kind;
        if (!kind_fits(l, kind, offered, rec->len - sizeof ext))
                return wh_trace(-EPROTO);
        if (kind == WH_REC_NEXT)
                return record_next(l, rec, &ext);
        if (kind == WH_REC_ABORT) {
                wh_link_forget_part(l);
                wh_records_done(l, rec);
                return 0;
        }
        if (ext.n_items > WHARF_ITEMS_MAX + 1 || ext.zero)
                return wh_trace(-EPROTO);
        switch (kind) {
        case WH_REC_CHUNK:
                return record_chunk(l, in, &ext);
        case WH_REC_PIECE:
                return record_piece(l, in, &ext);
        case WH_REC_DIRECT:
                if (offered != l->owner)
                        return wh_trace(-EPROTO);
                return offered ? record_direct(l, in, &ext) : record_written(l, in, &ext);
        case WH_REC_WINDOW:
                return record_window(l, rec, &ext);
        default:
                return record_message(l, in, &ext, (enum wh_rec_kind)kind, offered);
        }
}
