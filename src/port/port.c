#include "port/owned.h"
#include "port/port.h"

#include "base/cleanup.h"
#include "base/opts.h"
#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"
#include "port/branch.h"
#include "port/places.h"
#include "port/status.h"
#include "task/why.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void wh_port_links_changed(struct wh_port *p)
{
        if (p->waits_told)
                wh_waits_port_stale(&p->task->waits, p->waits_at);
        p->waits_told = false;
}

/* ---- finding ---- */

static inline struct wh_inbox *inbox_of(struct wh_port *p)
{
        /* [inbox] Acquire, pairs with the releases in wh_port_make() and wh_notices_move(): its lock is there. */
        return atomic_load_explicit(&p->inbox, memory_order_acquire);
}

static struct wh_inbox *port_inbox_lock_any(struct wh_port *p, wharf_name name)
{
        for (;;) {
                struct wh_inbox *in = inbox_of(p);
                if (!in)
                        return NULL;
                wh_lock(&in->lock);
                if (wh_likely(atomic_load_explicit(&p->inbox, memory_order_relaxed) == in)) {
                        if (wh_likely(atomic_load_explicit(&p->o.name, memory_order_relaxed) == name &&
                                      p->closing != WH_PORT_CLOSING))
                                return in;
                        wh_unlock(&in->lock);
                        return NULL;
                }
                wh_unlock(&in->lock); /* it moved into or out of a set meanwhile */
        }
}

/* The same for all who want to use the port: not while it is on its way to another task. */
static struct wh_inbox *port_inbox_lock(struct wh_port *p, wharf_name name, int *err)
{
        struct wh_inbox *in = port_inbox_lock_any(p, name);
        if (wh_unlikely(in && p->closing)) {
                *err = -EBUSY;
                wh_unlock(&in->lock);
                return NULL;
        }
        return in;
}

struct wh_port *wh_port_lock(wharf_task *t, wharf_name name, int *err)
{
        if (wh_unlikely(!wh_task_ours(t))) {
                *err = -ESTALE;
                return NULL;
        }
        struct wh_object *o = wh_table_find(&t->names, name);
        *err = -EBADF;
        if (!o || atomic_load_explicit(&o->name, memory_order_relaxed) != name)
                return NULL;
        if (o->kind != WHARF_KIND_PORT) {
                *err = -EPERM;
                return NULL;
        }
        return port_inbox_lock((struct wh_port *)o, name, err) ? (struct wh_port *)o : NULL;
}

/* A set's inbox; or why the port's own cannot be had. */
static __attribute__((noinline)) struct wh_inbox *inbox_lock_slow(wharf_task *t, wharf_name name,
                                                                  struct wh_port **ret_port, int *err)
{
        if (!wh_task_ours(t)) {
                *err = -ESTALE;
                return NULL;
        }
        struct wh_object *o = wh_table_find(&t->names, name);
        *err = -EBADF;
        if (!o || atomic_load_explicit(&o->name, memory_order_relaxed) != name)
                return NULL;
        if (o->kind == WHARF_KIND_PORT) {
                struct wh_port *p = (struct wh_port *)o;
                struct wh_inbox *in = port_inbox_lock(p, name, err);
                if (wh_unlikely(in && in != &p->own)) {
                        wh_unlock(&in->lock);
                        *err = -EBUSY;
                        return NULL;
                }
                *ret_port = p;
                return in;
        }
        if (o->kind != WHARF_KIND_SET) {
                *err = -EPERM;
                return NULL;
        }
        struct wh_set *s = (struct wh_set *)o;
        wh_lock(&s->inbox.lock);
        if (atomic_load_explicit(&o->name, memory_order_relaxed) != name || s->closing) {
                wh_unlock(&s->inbox.lock);
                return NULL;
        }
        *ret_port = NULL;
        return &s->inbox;
}

struct wh_inbox *wh_inbox_lock(wharf_task *t, wharf_name name, struct wh_port **ret_port, int *err)
{
        /* The common one: an open port that is in no set. */
        struct wh_object *o = wh_likely(wh_task_ours(t)) ? wh_table_find(&t->names, name) : NULL;
        if (wh_likely(o && atomic_load_explicit(&o->name, memory_order_relaxed) == name &&
                      o->kind == WHARF_KIND_PORT)) {
                struct wh_port *p = (struct wh_port *)o;
                struct wh_inbox *in = &p->own;
                if (wh_likely(inbox_of(p) == in)) {
                        wh_lock(&in->lock);
                        if (wh_likely(atomic_load_explicit(&p->inbox, memory_order_relaxed) == in &&
                                      atomic_load_explicit(&o->name, memory_order_relaxed) == name &&
                                      p->closing == WH_PORT_OPEN)) {
                                *ret_port = p;
                                return in;
                        }
                        wh_unlock(&in->lock);
                }
        }
        return inbox_lock_slow(t, name, ret_port, err);
}

/* ---- ports ---- */

/* As much as the capacity may take: small ones in records, the others in blocks, and what is being made beside. */
static uint64_t mapped_for(const struct wharf_port_opts *o)
{
        enum { LEAST = 80 << 20, BESIDE = 8 << 20, RECORD = WHARF_SMALL_MAX + 2 * WH_LINE };
        if (o->capacity_records >= WHARF_UNBOUNDED)
                return LEAST;
        uint64_t bytes = 2 * o->capacity_bytes + (uint64_t)o->capacity_records * RECORD + BESIDE;
        return bytes < LEAST ? LEAST : bytes;
}

int wh_port_opts(const struct wharf_port_opts *opts, struct wharf_port_opts *ret)
{
        struct wharf_port_opts o = {.size = sizeof o};
        if (opts) {
                if (!wh_opts_take(&o, sizeof o, 8, opts, opts->size))
                        return wh_fail(-EINVAL, "wharf_port_opts.size is %u, expected %zu, or more that is 0",
                                       opts->size, sizeof o);
        }
        if (o.flags & ~(uint32_t)(WHARF_PORT_STAYS | WHARF_PORT_FIXED | WHARF_PORT_DIRECT))
                return wh_fail(-EINVAL, "wharf_port_opts.flags has unknown bits 0x%x", o.flags);
        if (o.capacity_records > 65536 && o.capacity_records < WHARF_UNBOUNDED)
                return wh_fail(-EINVAL, "wharf_port_opts.capacity_records is %u, at most 65536", o.capacity_records);
        if (o.capacity_bytes > (uint64_t)1 << 40)
                return wh_fail(-EINVAL, "wharf_port_opts.capacity_bytes is more than 1 TiB");
        if (o.unread_rights_max > 250)
                return wh_fail(-EINVAL, "wharf_port_opts.unread_rights_max is %u, at most 250", o.unread_rights_max);
        if (o.reserved)
                return wh_fail(-EINVAL, "wharf_port_opts.reserved must be 0");
        if (o.payload_bytes_max > (uint64_t)1 << 40)
                return wh_fail(-EINVAL, "wharf_port_opts.payload_bytes_max is more than 1 TiB");
        o.capacity_records = o.capacity_records ? o.capacity_records : 1024;
        o.links_max = o.links_max ? o.links_max : 4096;
        o.introduced_max = o.introduced_max ? o.introduced_max : (o.links_max + 1) / 2;
        o.payload_bytes_max = o.payload_bytes_max ? o.payload_bytes_max : (uint64_t)1 << 30;
        o.capacity_bytes = o.capacity_bytes ? o.capacity_bytes : WH_CAPACITY_BYTES;
        o.link_mapped_bytes_max = o.link_mapped_bytes_max ? o.link_mapped_bytes_max : mapped_for(&o);
        o.mapped_bytes_max = o.mapped_bytes_max ? o.mapped_bytes_max : (uint64_t)4 << 30;
        o.unread_rights_max = o.unread_rights_max ? o.unread_rights_max : 64;
        o.reply_bytes_max = o.reply_bytes_max ? o.reply_bytes_max : (uint64_t)4 << 30;
        o.link_reply_bytes_max = o.link_reply_bytes_max ? o.link_reply_bytes_max : (uint64_t)4 << 20;
        o.link_answers_max = o.link_answers_max ? o.link_answers_max : 4096;
        *ret = o;
        return 0;
}

int wh_port_make(wharf_task *t, const struct wharf_port_opts *opts, struct wh_port **ret)
{
        struct wh_port *p = wh_task_take(t, WHARF_KIND_PORT, sizeof *p, offsetof(struct wh_port, own.task));
        if (!p)
                return wh_trace(-ENOMEM);
        p->task = t;
        p->opts = *opts;
        p->listen_fd = p->status_fd = p->at_door = -1;
        p->accounts.self = t->accounts.self;
        p->accounts.max[WH_SHARE_LINKS] = opts->links_max;
        p->accounts.least[WH_SHARE_LINKS] = 1;
        p->accounts.max[WH_SHARE_BYTES] = opts->mapped_bytes_max;
        p->accounts.max[WH_SHARE_KEPT] = p->accounts.max[WH_SHARE_REPLIES] = opts->reply_bytes_max;
        wh_list_init(&p->links);
        wh_list_init(&p->waiting);
        wh_list_init(&p->in_waiting);
        wh_list_init(&p->in_inbox);
        wh_list_init(&p->in_ids);
        p->own.ep = -1;
        int r = wh_inbox_init(&p->own, t);
        if (r < 0) {
                wh_task_give(t, &p->o);
                return r;
        }
        wh_list_push_back(&p->own.ports, &p->in_inbox);
        /* [inbox] Release, pairs with the acquire in port_inbox_lock_any(). */
        atomic_store_explicit(&p->inbox, &p->own, memory_order_release);
        *ret = p;
        return 0;
}

void wh_port_unmake(struct wh_port *p)
{
        atomic_store_explicit(&p->inbox, NULL, memory_order_relaxed);
        wh_inbox_done(&p->own);
        wh_task_give(p->task, &p->o);
}

WHARF_API int wharf_port_new(wharf_task *t, const struct wharf_port_opts *opts, wharf_name *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        struct wharf_port_opts o;
        if (!wh_task_ours(t))
                return wh_fail(-ESTALE, NULL);
        int r = wh_port_opts(opts, &o);
        if (r < 0)
                return r;
        struct wh_port *p;
        r = wh_port_make(t, &o, &p);
        if (r < 0)
                return wh_fail(r, NULL);
        r = wh_os_getrandom(&p->id.v, sizeof p->id.v);
        p->here = p->id.v;
        if (r == 0)
                r = wh_port_name(p, true, ret);
        if (r < 0)
                wh_port_unmake(p);
        return wh_fail(r, NULL);
}

int wh_port_id_taken(wharf_task *t, wharf_port_id id)
{
        int r = 0;
        wh_lock(&t->notices);
        wh_list_for (n, &t->ids) {
                const struct wh_port *p = wh_container(n, struct wh_port, in_ids);
                if (p->id.v == id.v)
                        r = p->id_on_its_way ? WH_LINK_WAITS : -EPROTO;
        }
        wh_unlock(&t->notices);
        return r;
}

/* The port begins to move, or goes on here after all. */
static void id_on_its_way(struct wh_port *p, bool is)
{
        wh_lock(&p->task->notices);
        p->id_on_its_way = is;
        wh_unlock(&p->task->notices);
}

int wh_port_name(struct wh_port *p, bool sure, wharf_name *ret)
{
        int r = wh_table_add(&p->task->names, &p->o);
        if (r < 0)
                return r;
        *ret = p->own.name = atomic_load_explicit(&p->o.name, memory_order_relaxed);
        p->waits_at = wh_waits_port_new(&p->task->waits, p->id.v);
        if (sure) {
                wh_lock(&p->task->notices);
                wh_list_push_back(&p->task->ids, &p->in_ids);
                wh_unlock(&p->task->notices);
        }
        return 0;
}

static bool link_holds(const struct wh_link *l)
{
        return l->in.retired || (l->in.lane && l->in.lane->blocks_held);
}

/* Somebody is in the middle of using a reply right, which takes no longer than a few system calls. */
static bool links_in_use(struct wh_port *p)
{
        wh_list_for (n, &p->links) {
                struct wh_link *l = &wh_container(n, struct wh_owned, in_port)->link;
                if (atomic_load_explicit(&wh_owned(l)->refs, memory_order_relaxed) > 1)
                        return true;
        }
        return false;
}

/* The port was in a set when it was to move, and stays. Where the set is gone, or has no memory for it, it has left. */
static void set_rejoin(wharf_task *t, wharf_name set, wharf_name port)
{
        if (set)
                wh_set_change(t, set, port, true);
}

/* Lock a port that is to move. As in Mach, it leaves the set that it is in, which is *ret_set then. */
static struct wh_port *lock_to_move(wharf_task *t, wharf_name name, wharf_name *ret_set, int *err)
{
        *ret_set = WHARF_NONE;
        for (;;) {
                struct wh_port *p = wh_port_lock(t, name, err);
                if (!p) {
                        wh_fail(*err, "the port is on its way already, or there is none");
                        return NULL;
                }
                struct wh_inbox *in = atomic_load_explicit(&p->inbox, memory_order_relaxed);
                *err = 0;
                if (p->opts.flags & WHARF_PORT_FIXED)
                        *err = wh_fail(-EOPNOTSUPP, "the port was made with WHARF_PORT_FIXED: it never moves");
                else if (p->listen_fd >= 0)
                        *err = wh_fail(-EBUSY, "the port accepts links from a listening socket; end that first");
                else if (!wh_port_door_served(p))
                        *err = wh_fail(-EBUSY, "a connection waits for a place at the port");
                else if (in == &p->own)
                        return p;
                wharf_name set = WHARF_NONE;
                if (in != &p->own)
                        set = atomic_load_explicit(&wh_container(in, struct wh_set, inbox)->o.name,
                                                   memory_order_relaxed);
                wh_unlock(&in->lock);
                if (*err == 0) {
                        int r = wh_set_change(t, set, name, false);
                        if (r == 0)
                                *ret_set = set;
                        else if (r != -ENOENT && r != -EBADF) /* taken out, or gone with its set, meanwhile */
                                *err = wh_fail(r, "the port cannot leave the set that it is in");
                }
                if (*err < 0) {
                        set_rejoin(t, *ret_set, name);
                        return NULL;
                }
        }
}

int wh_port_freeze(wharf_task *t, wharf_name name, int (*detach)(wharf_task *t, const struct wh_port *p),
                   struct wh_port **ret)
{
        int r;
        wharf_name set;
        struct wh_port *p = lock_to_move(t, name, &set, &r);
        if (!p)
                return r;
        struct wh_inbox *in = p->inbox;
        p->set_left = set;
        wh_list_for_safe (n, &p->links) {
                struct wh_link *l = &wh_container(n, struct wh_owned, in_port)->link;
                if (l->over)
                        wh_port_remove_link(l);
        }
        p->closing = WH_PORT_MOVING;
        wh_inbox_expel(in);
        wh_list_for (n, &p->links)
                if (link_holds(&wh_container(n, struct wh_owned, in_port)->link))
                        r = wh_fail(-EBUSY, "a payload received in place was not given back yet");
        if (r == 0 && (r = detach(t, p)) < 0)
                r = wh_fail(r, "a caller that waits for its reply cannot be told where it will come from");
        for (int tries = 0; r == 0 && links_in_use(p); tries++) {
                if (tries == 10000) {
                        r = wh_fail(-EBUSY, "a reply is being sent");
                        break;
                }
                wh_unlock(&in->lock);
                wh_os_futex_wait(&in->turn, atomic_load_explicit(&in->turn, memory_order_relaxed),
                                 wh_os_now_ns() + 100000, false);
                wh_lock(&in->lock);
        }
        if (r < 0) {
                p->closing = WH_PORT_OPEN;
                wh_unlock(&in->lock);
                set_rejoin(t, set, name);
                return r;
        }
        id_on_its_way(p, true);
        *ret = p;
        return 0;
}

/* Its user has its share of what a port keeps to be able to move (wh_lane_unkeep()): it ends when the port has moved. */
bool wh_port_link_stays(const struct wh_link *l)
{
        return !l->over && l->in.lane && !wh_lane_rx_whole(l->in.lane);
}

static void port_close_locked(struct wh_port *p, wharf_name name, struct wh_inbox *in);

void wh_port_thaw(wharf_task *t, wharf_name name)
{
        struct wh_port *p = (struct wh_port *)wh_table_find(&t->names, name);
        struct wh_inbox *in = port_inbox_lock_any(p, name);
        wharf_name set = p->set_left;
        p->closing = WH_PORT_OPEN;
        id_on_its_way(p, false);
        wh_place_freed(p); /* what came with its id meanwhile waits to hear which it is */
        if (in->pollable)
                wh_inbox_bell(in, true); /* P3 */
        wh_unlock(&in->lock);
        set_rejoin(t, set, name);
}

void wh_port_gone(wharf_task *t, wharf_name name, bool moved)
{
        struct wh_port *p = (struct wh_port *)wh_table_find(&t->names, name);
        struct wh_inbox *in = port_inbox_lock_any(p, name);
        wh_list_for (n, &p->links) {
                struct wh_link *l = &wh_container(n, struct wh_owned, in_port)->link;
                if (moved && wh_port_link_stays(l)) {
                        wh_link_break(l, -EDQUOT);
                        continue;
                }
                l->handed_on = true;
                l->came = false;
        }
        port_close_locked(p, name, in);
}

int wh_port_drop(wharf_task *t, struct wh_object *o, wharf_name name)
{
        struct wh_port *p = (struct wh_port *)o;
        int err = -EBADF;
        struct wh_inbox *in = port_inbox_lock(p, name, &err);
        if (!in)
                return err;
        (void)t;
        port_close_locked(p, name, in);
        return 0;
}

/* Takes the port out of the task; the lock of its inbox is given up. */
static void port_close_locked(struct wh_port *p, wharf_name name, struct wh_inbox *in)
{
        wharf_task *t = p->task;
        struct wh_object *o = &p->o;
        const bool moving = p->closing == WH_PORT_MOVING;
        p->closing = WH_PORT_CLOSING;
        wh_table_remove(&t->names, o);
        wh_notice_free(t, p->no_senders);
        p->no_senders = NULL;
        if (in == &p->own)
                wh_inbox_expel(in);
        wh_list_for_safe (n, &p->links)
                wh_port_remove_link(&wh_container(n, struct wh_owned, in_port)->link);
        wh_os_close_end(wh_steal_fd(&p->at_door), WH_END_OURS | WH_END_ACCEPTED);
        if (p->listen_fd >= 0)
                wh_os_epoll_del(in->ep, p->listen_fd);
        wh_list_remove(&p->in_inbox);
        wh_waits_port_gone(&t->waits, p->waits_at);
        if (p->status) {
                atomic_store_explicit(&p->status->senders, 0, memory_order_relaxed);
                wh_os_munmap(p->status, WH_PAGE);
                wh_os_close(p->status_fd);
                p->status = NULL;
        }
        if (in != &p->own)
                wh_inbox_wake_all(in); /* its last sender may be gone with it */
        wh_lock(&t->notices);
        wh_list_remove(&p->in_ids); /* where there is an inbox: wh_once_over() takes that of any port here */
        wh_unlock(&t->notices);
        wh_notices_move(p, name, NULL);
        if (p->watches) /* last, for nobody begins to watch for it any more: wh_notice_inbox() */
                p->watches->move(p, name, NULL);
        if (moving)
                wh_place_freed(p); /* as in wh_port_thaw() */
        wh_unlock(&in->lock);
        wh_task_own_closed(t, name);
        wh_accounts_done(&p->accounts);
        wh_inbox_done(&p->own);
        wh_task_give(t, o);
}

/* ---- public: rights to a port, sets, descriptors, figures ---- */

WHARF_API int wharf_port_fd(wharf_task *t, wharf_name name, int *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        int err;
        struct wh_port *p;
        struct wh_inbox *in = wh_inbox_lock(t, name, &p, &err);
        if (!in)
                return wh_fail_at(t, err, name);
        if (!in->pollable)
                wh_inbox_bell(in, true); /* readable until a receive finds nothing: then everything is armed (P3) */
        in->pollable = true;
        *ret = in->ep;
        wh_unlock(&in->lock);
        return 0;
}

void wh_port_stat_locked(struct wh_port *p, struct wharf_port_stat *ret)
{
        uint64_t queued = 0;
        wh_list_for (n, &p->links) {
                struct wh_link *l = &wh_container(n, struct wh_owned, in_port)->link;
                if (!l->in.lane) {
                        queued += l->in.stash.full;
                        continue;
                }
                /* A claim of the sender's; more than a ring can hold is no number at all. */
                uint64_t sent = atomic_load_explicit(&l->in.lane->ring.out->sent_messages, memory_order_relaxed);
                uint64_t d = sent - l->in.seq;
                queued += d <= (p->opts.capacity_records == WHARF_UNBOUNDED ? UINT32_MAX : 65536) ? d : 0;
        }
        *ret = (struct wharf_port_stat){
                .size = sizeof *ret,
                .senders = p->n_links,
                .id = p->id,
                .queued_messages = queued,
                .received_messages = p->received_messages,
                .received_bytes = p->received_bytes,
                .mapped_bytes = p->mapped,
                .refused_links = p->refused,
                .receivers_waiting = atomic_load_explicit(&p->inbox, memory_order_relaxed)->waiters,
                .once_rights = p->n_once,
                .made_rights = p->made,
        };
}

WHARF_API int wharf_port_stat(wharf_task *t, wharf_name port, struct wharf_port_stat *ret)
{
        if (!ret)
                return wh_fail_null("ret");
        int err;
        if (ret->size != sizeof *ret)
                return wh_fail(-EINVAL, "wharf_port_stat.size is %u, expected %zu", ret->size, sizeof *ret);
        struct wh_port *p = wh_port_lock(t, port, &err);
        if (!p)
                return wh_fail_at(t, err, port);
        struct wh_inbox *in = p->inbox;
        wh_port_stat_locked(p, ret);
        wh_unlock(&in->lock);
        return wh_fail(0, NULL);
}
