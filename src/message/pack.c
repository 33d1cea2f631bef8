/*
 * A receive right leaves: its port is frozen, and all that it is goes into a carrier.
 *
 * Always true:
 *   - Nothing of the port is changed by packing it (M1, M2). So undoing it is to throw away what was packed, and to thaw.
 *   - The state is complete, and sealed, before its first datagram is sent.
 */
#include "message/call.h"
#include "message/move.h"
#include "message/state.h"

#include "base/bits.h"
#include "base/trace.h"
#include "link/payload.h"
#include "memory/sealed.h"
#include "os/os.h"
#include "port/branch.h"
#include "port/owned.h"
#include "port/port.h"
#include "right/held.h"
#include "task/why.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* What goes into the carrier; the descriptors are the port's, but those that were `made` for this. */
struct packed {
        struct wh_move_head head;
        struct wh_move_link *links;
        uint8_t *bytes;
        int *fds, *made;
        size_t n_fds, n_made, n_bytes;
};

static void packed_done(struct packed *k)
{
        for (size_t i = 0; i < k->n_made; i++)
                wh_os_close(k->made[i]);
        free(k->links);
        free(k->bytes);
        free(k->fds);
        free(k->made);
}

/* Does what has come of its message lie in a memory that nobody can change any more? */
static bool is_memory(const struct wh_stash *s)
{
        return s->mapped && s->memory >= 0;
}

static size_t bytes_of(const struct wh_link *l)
{
        const struct wh_stash *s = &l->in.stash;
        return is_memory(s) || s->have > WH_MOVE_BYTES_MAX ? 0 : wh_round_up(s->have, 8);
}

static struct wh_move_cred cred_pack(const struct wh_cred *c)
{
        return (struct wh_move_cred){c->pid, c->uid, c->gid};
}

/* Who its sender is, as far as we know, or were told ourselves. */
static struct wh_cred cred_of(const struct wh_link *l)
{
        const struct wharf_sender *w = &l->who;
        if (w->known == WHARF_KNOWN_TOLD)
                return (struct wh_cred){w->told_pid, w->told_uid, (gid_t)-1, true};
        return l->cred;
}

static void fd_pack(struct packed *k, int fd)
{
        k->fds[k->n_fds++] = fd;
}

/* What has come of a message: the new owner maps what is large, and copies nothing of it. */
static int stash_pack(const struct wh_link *l, struct packed *k, struct wh_move_link *m)
{
        const struct wh_stash *s = &l->in.stash;
        int fd = s->memory;
        m->flags |= (s->full ? WH_MOVE_FULL : WH_MOVE_BUILDING) | (s->tell ? WH_MOVE_TELL : 0);
        m->len = s->len;
        m->have = s->have;
        m->id = s->id;
        m->call = s->call;
        m->stash_items = s->n_items;
        m->how = s->how;
        m->offer = l->in.offer;
        if (!is_memory(s) && s->have > WH_MOVE_BYTES_MAX) {
                int r = wh_payload_of(s->bytes, s->have, &fd);
                if (r < 0)
                        return wh_forbidden(r) ? wh_fail(-EOPNOTSUPP,
                                                         "a message in the port moves in a memory, and none "
                                                         "of %" PRIu64 " bytes can be made here",
                                                         s->have)
                                               : r;
                k->made[k->n_made++] = fd;
        }
        if (is_memory(s) || s->have > WH_MOVE_BYTES_MAX) {
                m->flags |= WH_MOVE_MEMORY;
                fd_pack(k, fd);
        } else if (s->have) {
                memcpy(k->bytes + k->n_bytes, s->bytes, s->have);
                memset(k->bytes + k->n_bytes + s->have, 0, bytes_of(l) - s->have);
                k->n_bytes += bytes_of(l);
        }
        return 0;
}

static void lane_pack(const struct wh_lane_rx *rx, struct packed *k, struct wh_move_link *m)
{
        m->flags |= WH_MOVE_LANE;
        m->n_sections = rx->n_sections;
#define NUMBER(word, member) m->word = rx->member;
        WH_MOVE_LANE_NUMBERS(NUMBER)
#undef NUMBER
        fd_pack(k, rx->out_fd);
        fd_pack(k, rx->back_fd);
        for (unsigned i = 0; i < rx->n_sections; i++)
                fd_pack(k, rx->section[i].fd);
        if (rx->next) {
                m->flags |= WH_MOVE_NEXT;
                fd_pack(k, rx->next_fd);
        }
}

static int link_pack(const struct wh_link *l, struct packed *k, struct wh_move_link *m)
{
        const struct wh_cred cred = cred_of(l);
        const struct wharf_introducer formers = wh_link_introducer(l);
        *m = (struct wh_move_link){
                .cred = cred_pack(&cred),
                .formers = wh_origin_put(0, &formers),
                .flags = (cred.known ? WH_MOVE_CRED : 0) | (l->once ? WH_MOVE_ONCE : 0) |
                         (wh_owned(l)->directory ? WH_MOVE_DIRECTORY : 0),
                .renews = l->in.renews,
        };
#define NUMBER(word, member) m->word = l->member;
        WH_MOVE_NUMBERS(NUMBER)
#undef NUMBER
        fd_pack(k, l->sock);
        if (l->out.lane || wh_owned(l)->had_lane) {
                m->flags |= WH_MOVE_TX_LANE;
                m->tx_ended = l->out.lane ? l->out.lane->ring.records : wh_owned(l)->lane_ended;
                if (l->out.lane) {
                        uint64_t unread = wh_ring_unread(&l->out.lane->ring);
                        m->known_taken = l->out.seq - (unread < l->out.seq ? unread : l->out.seq);
                }
        }
        if (l->in.lane)
                lane_pack(l->in.lane, k, m);
        if (l->in.stash.full || l->in.stash.building) {
                int r = stash_pack(l, k, m);
                if (r < 0)
                        return r;
        }
        if (l->in.items.n) {
                m->items_seq = l->in.items.seq;
                m->n_items = l->in.items.n;
                memcpy(m->item_kind, l->in.items.kind, l->in.items.n);
                for (unsigned i = 0; i < l->in.items.n; i++)
                        fd_pack(k, l->in.items.fd[i]);
        }
        if (l->in.change.due) {
                m->flags |= WH_MOVE_CHANGE | (l->in.change.lane ? WH_MOVE_CHANGE_LANE : 0) |
                            (l->in.change.cred.known ? WH_MOVE_CHANGE_CRED : 0);
                m->change_cred = cred_pack(&l->in.change.cred);
                m->change_seq = l->in.change.seq;
                m->change_records = l->in.change.records;
                fd_pack(k, l->in.change.sock);
        }
        return 0;
}

/* The nearest one that is here still: ids of those that are gone mean nothing to the new owner. */
static uint32_t introducer_of(const struct wh_port *p, const struct wh_link *l)
{
        const struct wh_branch *b = wh_owned(l)->branch ? wh_owned(l)->branch->up : NULL;
        const struct wh_link *by = NULL;
        for (; b && !by; b = b->up) {
                by = b->gone ? NULL : wh_port_sender(p, b->id);
                if (by && wh_port_link_stays(by))
                        by = NULL;
        }
        return by ? wh_owned(by)->served + 1 : 0;
}

static int port_pack(struct wh_port *p, struct packed *k)
{
        size_t n_links = 0, n_bytes = 0;
        wh_list_for (n, &p->links) {
                struct wh_owned *w = wh_container(n, struct wh_owned, in_port);
                if (wh_port_link_stays(&w->link))
                        continue;
                w->served = (uint32_t)n_links++; /* its index; no turn of the round robin is under way */
                n_bytes += bytes_of(&w->link);
        }
        k->links = wh_os_calloc(n_links + 1, sizeof *k->links);
        k->bytes = wh_os_malloc(n_bytes + 1);
        k->fds = wh_os_calloc(n_links * WH_MOVE_LINK_FDS_MAX + 1, sizeof *k->fds);
        k->made = wh_os_calloc(n_links + 1, sizeof *k->made);
        if (!k->links || !k->bytes || !k->fds || !k->made)
                return wh_trace(-ENOMEM);
        struct wh_move_link *m = k->links;
        int r = 0;
        wh_list_for (n, &p->links) {
                struct wh_link *l = &wh_container(n, struct wh_owned, in_port)->link;
                if (wh_port_link_stays(l))
                        continue;
                if (r == 0)
                        r = link_pack(l, k, m);
                m->introducer = introducer_of(p, l);
                m++;
        }
        wh_list_for (n, &p->links)
                wh_container(n, struct wh_owned, in_port)->served = 0;
        if (r < 0)
                return r;
        k->head = (struct wh_move_head){
                .magic = WH_MOVE_MAGIC,
                .version = MOVE_VERSION,
                .n_links = (uint32_t)n_links,
                .n_fds = k->n_fds,
                .n_bytes = k->n_bytes,
                .port_id = p->id.v,
                .received_messages = p->received_messages,
                .received_bytes = p->received_bytes,
                .refused = p->refused,
                .flags = p->opts.flags,
                .unused_notices = wh_notices_unused(p),
                .made = p->made,
        };
#define OPT(option) k->head.option = p->opts.option;
        WH_MOVE_OPTS(OPT)
#undef OPT
        return 0;
}

/* ---- the carrier ---- */

/* Writes at `*at`, and moves it on. */
static int write_all(int fd, const void *bytes, size_t len, off_t *at)
{
        for (size_t done = 0; done < len;) {
                ssize_t r = wh_os_write_at(fd, (const uint8_t *)bytes + done, len - done, *at);
                if (r <= 0 && r != -EINTR)
                        return wh_trace(r == 0 ? -ENOSPC : (int)r);
                done += r > 0 ? (size_t)r : 0;
                *at += r > 0 ? (off_t)r : 0;
        }
        return 0;
}

static int state_new(const struct packed *k, int *ret)
{
        int fd = wh_os_memfd("wharf-move");
        if (wh_forbidden(fd))
                return wh_fail(-EOPNOTSUPP, "what a port is moves in a memory, and none can be made here");
        if (fd < 0)
                return wh_trace(fd);
        wh_os_fd_private(fd);
        off_t at = 0;
        int r = write_all(fd, &k->head, sizeof k->head, &at);
        if (r == 0)
                r = write_all(fd, k->links, k->head.n_links * sizeof *k->links, &at);
        if (r == 0)
                r = write_all(fd, k->bytes, k->n_bytes, &at);
        if (r == 0)
                r = wh_sealed_make(fd, WH_MOVE_SEALS);
        if (r < 0) {
                wh_os_close(fd);
                return r == -EFBIG ? wh_fail(-EOPNOTSUPP, "RLIMIT_FSIZE leaves no room for what a port is")
                                   : wh_trace(r);
        }
        *ret = fd;
        return 0;
}

union control {
        struct cmsghdr align;
        char space[CMSG_SPACE(WH_MOVE_BATCH * sizeof(int))];
};

static int datagram_send(int sock, struct wh_move_datagram *d, const int *fds)
{
        union control control;
        struct iovec iov = {d, sizeof *d};
        struct msghdr m = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.space,
                           .msg_controllen = CMSG_SPACE(d->n_fds * sizeof(int))};
        memset(control.space, 0, m.msg_controllen); /* nothing of our stack in what pads it */
        control.align.cmsg_level = SOL_SOCKET;
        control.align.cmsg_type = SCM_RIGHTS;
        control.align.cmsg_len = CMSG_LEN(d->n_fds * sizeof(int));
        memcpy(CMSG_DATA(&control.align), fds, d->n_fds * sizeof(int));
        ssize_t r;
        do
                r = wh_os_sendmsg(sock, &m, 0);
        while (r == -EINTR);
        if (r == -EAGAIN || r == -ETOOMANYREFS)
                return wh_fail(-ETOOMANYREFS, "more descriptors than may be on their way at once: see RLIMIT_NOFILE");
        return r < 0 ? wh_trace((int)r) : 0;
}

static int carrier_fill(int sock, const struct packed *k)
{
        int state;
        int r = state_new(k, &state);
        if (r < 0)
                return r;
        struct wh_move_datagram d = {.magic = WH_MOVE_MAGIC,
                                     .version = MOVE_VERSION,
                                     .count = (uint32_t)wh_move_datagrams(k->n_fds),
                                     .n_fds = 1};
        r = datagram_send(sock, &d, &state);
        wh_os_close(state);
        for (size_t done = 0; r == 0 && done < k->n_fds; done += d.n_fds) {
                d.index++;
                d.n_fds = (uint32_t)(k->n_fds - done < WH_MOVE_BATCH ? k->n_fds - done : WH_MOVE_BATCH);
                r = datagram_send(sock, &d, k->fds + done);
        }
        return r;
}

/* ---- the right ---- */

int wh_move_pack(wharf_task *t, wharf_name port, int *ret)
{
        struct wh_port *p;
        int r = wh_port_freeze(t, port, wh_replies_detach, &p);
        if (r < 0)
                return r;
        struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
        struct packed k = {0};
        int sv[2] = {-1, -1};
        r = port_pack(p, &k);
        wh_unlock(&in->lock); /* frozen, it needs no lock (M1) */
        if (r == 0)
                r = wh_os_socketpair(sv);
        if (r == 0) {
                wh_os_fd_private(sv[0]);
                wh_os_fd_private(sv[1]);
                r = carrier_fill(sv[0], &k);
        }
        packed_done(&k);
        wh_os_close(sv[0]);
        if (r < 0) {
                wh_os_close(sv[1]);
                wh_port_thaw(t, port);
                return r;
        }
        *ret = sv[1];
        return 0;
}

void wh_move_end(wharf_task *t, wharf_name port, bool sent)
{
        if (sent)
                wh_port_gone(t, port, true);
        else
                wh_port_thaw(t, port);
}

int wh_move_check_circle(wharf_task *t, wharf_name right, const struct wharf_msg *m)
{
        int r = 0;
        uint64_t to = 0;
        for (unsigned i = 0; r == 0 && i < m->n_items && i < WHARF_ITEMS_MAX; i++) {
                if (m->items[i].kind != WHARF_MOVE_RECEIVE)
                        continue;
                if (!to) {
                        struct wh_link *l = wh_holder_lock(t, right, &r);
                        if (!l)
                                return wh_fail(r, NULL);
                        if (!l->once)
                                wh_link_greeted(l);
                        to = l->hello.port_id;
                        wh_holder_unlock(l);
                }
                struct wh_port *p = wh_port_lock(t, m->items[i].name, &r);
                if (!p)
                        return wh_fail(r, NULL);
                struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
                r = to && p->id.v == to
                            ? wh_fail(-ELOOP, "nobody could ever receive it: it would wait in its own queue")
                            : 0;
                wh_unlock(&in->lock);
        }
        return r;
}
