/*
 * direct - processes that name each other (wharf/direct.h), built on names, ports that move, sets, and watching.
 *
 * A process that joins registers a port, the door, as "direct:NAME", and watches all names that begin so. To send to a
 * peer for the first time, a process makes a port with one right to it, keeps the right, and moves the port through the
 * peer's door in a hello. What it sends waits in that port, wherever the port is just then. So between two processes
 * lie at most two ports, one for each way: the link of the pair.
 *
 *      peer's name                     at who sends              at who receives
 *      looked up: the door             hello: the port   --->    known by the directory? then it is an inlet
 *      an outlet                       every message     ===>    received from that inlet alone, or from the set of all
 *
 * Always true:
 *   D1  A hello's text claims a name, and a registration of that name (the id of the sender's own door). It is believed
 *       only if the directory has said that this registration belongs to the process and user that sent the hello, by
 *       the kernel's word, and if that process sent it over a right that it looked up itself: a process that registers
 *       a right to somebody else's door as its own, or hands one out, must not be able to make others say at that door
 *       what they say to it. The directory gives a process no right to a door that it has not told of that process
 *       (watchers.W5); so a hello is false if the door has nothing more to read and was not told so.
 *   D2  There is one outlet for each name. The messages of a name are received from its first inlet. A second hello
 *       says that its sender has lost its link (the kernel or we may have said so to a peer that lives, too) or is a
 *       new life: its inlet follows the first, which is read until it is empty, and then ends. One registration has at
 *       most LINKS_MAX.
 *   D3  Only one thread receives (`receiving`): the inlets, the door and what is known of others are its own. Outlets
 *       are under `lock`; `making` is held while one is made, and never while a call waits.
 *   D4  What is known of names that are gone is kept, up to GONE_MAX, since their messages may be read later; and as
 *       many outlets and inlets that have ended are kept, without right and port, for the call that tells of it.
 *   D5  What a receive does between two looks at its deadline is bounded (struct work), and so is all that a receive
 *       does which may not wait. The next look goes on where the last one stopped. So a peer that keeps some inlets, or
 *       the door, busy with what is no message delays the deadline not at all, and what others sent not for good.
 */
#include "wharf/direct.h"
#include "message/message.h"

#include "base/list.h"
#include "base/trace.h"
#include "os/lock.h"
#include "os/os.h"
#include "message/items.h"
#include "right/right.h"
#include "port/port.h"
#include "task/why.h"
#include "names/names.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "direct:"
#define RENEW_NS ((int64_t)100 * 1000000)
#define TOLD_NS ((int64_t)WHARF_NAMES_START_MS * 1000000) /* as long as wharfd is waited for anywhere */
#define ASK_NS ((int64_t)100 * 1000000)    /* for one answer of the directory, before others are looked after again */
#define SHORT_NS ((int64_t)10 * 1000000)   /* where there are no descriptors, before the same is tried again */
#define ASK_NOW_NS ((int64_t)20 * 1000000) /* ... where the caller does not wait */
static_assert(sizeof PREFIX - 1 + WHARF_DIRECT_NAME_MAX == WHARF_NAME_MAX, "the name is registered with its prefix");

enum {
        GONE_MAX = 1024,   /* names, outlets and inlets remembered after their end */
        INLETS_MAX = 4096, /* links to this process */
        LINKS_MAX = 4,     /* ... of one registration, of which three wait to be read to their end */
        SWEEP_MIN = 16,    /* outlets made before those are looked for whose peer has died */
        HELLO_ID = 0x68656c6c,
        DOOR_TURN = 64,     /* receives from anyone between two looks at the door */
        ROUNDS_AT_ONCE = 4, /* of a receive that may not wait */
        /* D5, in messages of the door; an inlet that ends costs the same */
        WORK_IN_VAIN = 64, /* a receive that gave up before it had seen everything (link.K7); also a round of looks */
        WORK_MAX = ROUNDS_AT_ONCE * WORK_IN_VAIN,
        BUCKETS = 256, /* so that a message costs the same, however many peers there are */
};

/* What a hello says: the id of its sender's door, and the name, without the prefix and without a 0. */
struct hello {
        uint64_t id;
        char name[WHARF_DIRECT_NAME_MAX];
};
enum { HELLO_HEAD = offsetof(struct hello, name), DOOR_BYTES_MAX = 1024 };
static_assert(sizeof(struct wharf_name_event) <= DOOR_BYTES_MAX, "what the door takes is as large as an event");

/* What outlets, inlets and what is known have first: a place in a roll. */
struct entry {
        struct wh_list node, in_bucket;
        char name[WHARF_DIRECT_NAME_MAX + 1];
};

/* Entries in their order, and by their names; those of one name have the same order in both. */
struct roll {
        struct wh_list all, bucket[BUCKETS];
};

struct outlet {
        struct entry e;
        wharf_name right;
};

struct inlet {
        struct entry e;
        struct wh_list by_port; /* in a bucket of d->ports */
        wharf_name port;
        bool in_set;
        bool follows; /* another of that name, which is read first */
        bool met;     /* received from by its name: who had that name before has been told of */
        uint64_t id;  /* of the registration */
};

/* A registration of a name, in the directory's words. */
struct known {
        struct entry e;
        uint64_t id;
        pid_t pid;
        uid_t uid;
        bool gone;
        bool told;  /* who receives from it has been told that it is gone, or will be */
        bool stale; /* not named again yet since the directory began anew */
};

/* A hello that has come and was not judged yet. */
struct claim {
        struct wh_list node;
        wharf_name port;
        struct wharf_sender sender;
        uint64_t id;
        unsigned judged; /* so often */
        char name[WHARF_DIRECT_NAME_MAX + 1];
};

/* What a receive may still do before it looks at its deadline; if that is 0, before it returns (D5). */
struct work {
        int64_t deadline_ns;
        unsigned left;
        bool later; /* not the first look of this call, which does a little of everything, however short its time is */
};

struct wharf_direct {
        wharf_task *task;
        wharf_name door, set;
        uint64_t id; /* of the door */
        struct wh_lock lock, making;
        struct roll outlets, outlets_gone;
        unsigned n_outlets, n_outlets_gone, sweep_at;
        _Atomic bool receiving;
        struct roll inlets, inlets_gone, known, known_gone;
        struct wh_list ports[BUCKETS]; /* inlets by their ports */
        struct wh_list claims;
        struct claim *spare; /* for the next hello */
        bool told_all;       /* the directory has told of all names that there were when we joined */
        bool placed;         /* all inlets that follow no other are in the set */
        unsigned n_inlets, n_inlets_gone, n_following, n_gone, turn;
        struct wh_list *before_at; /* the entry at which the look at inlets that others follow goes on (D5) */
        unsigned before_left;      /* so many are to be looked at before a receive may sleep */
        char name[WHARF_DIRECT_NAME_MAX + 1];
};

static int full_name(const char *name, char ret[WHARF_NAME_MAX + 1])
{
        size_t n = name ? strnlen(name, WHARF_DIRECT_NAME_MAX + 1) : 0;
        if (n == 0 || n > WHARF_DIRECT_NAME_MAX)
                return wh_fail(-EINVAL, "a name is 1 to %d letters, digits and . _ - / : @", WHARF_DIRECT_NAME_MAX);
        memcpy(ret, PREFIX, sizeof PREFIX - 1);
        memcpy(ret + sizeof PREFIX - 1, name, n + 1);
        return 0;
}

/* ---- rolls ---- */

static void buckets_init(struct wh_list *bucket)
{
        for (unsigned i = 0; i < BUCKETS; i++)
                wh_list_init(&bucket[i]);
}

static void roll_init(struct roll *r)
{
        wh_list_init(&r->all);
        buckets_init(r->bucket);
}

static struct wh_list *roll_bucket(struct roll *r, const char *name)
{
        uint32_t h = 2166136261u; /* FNV-1a */
        for (; *name; name++)
                h = (h ^ (uint8_t)*name) * 16777619u;
        return &r->bucket[(h ^ h >> 16) % BUCKETS];
}

static void roll_push(struct roll *r, struct entry *e)
{
        wh_list_push_back(&r->all, &e->node);
        wh_list_push_back(roll_bucket(r, e->name), &e->in_bucket);
}

static void roll_remove(struct entry *e)
{
        wh_list_remove(&e->node);
        wh_list_remove(&e->in_bucket);
}

/* The first of that name behind `behind`, or of all. */
static struct entry *roll_find(struct roll *r, const char *name, const struct entry *behind)
{
        struct wh_list *bucket = roll_bucket(r, name);
        for (struct wh_list *pos = behind ? behind->in_bucket.next : bucket->next; pos != bucket; pos = pos->next) {
                struct entry *e = wh_container(pos, struct entry, in_bucket);
                if (!strcmp(e->name, name))
                        return e;
        }
        return NULL;
}

/* The oldest is taken out; NULL when there is none. */
static struct entry *roll_pop(struct roll *r)
{
        if (wh_list_empty(&r->all))
                return NULL;
        struct entry *e = wh_container(r->all.next, struct entry, node);
        roll_remove(e);
        return e;
}

/* ---- what one look may do ---- */

static bool is_over(int64_t deadline_ns)
{
        return deadline_ns != WHARF_FOREVER && wh_os_now_ns() > deadline_ns;
}

static void work_spend(struct work *w, unsigned n)
{
        w->left -= n < w->left ? n : w->left;
}

/* True when the look has to end here: it has done enough, or the deadline is over. */
static bool work_ends(const struct work *w)
{
        return w->left == 0 || (w->deadline_ns && is_over(w->deadline_ns));
}

/* Another look begins. Whoever may wait has as much for each; for others that was all. */
static void work_again(struct work *w)
{
        w->later = true;
        if (w->deadline_ns)
                w->left = WORK_MAX;
        else
                work_spend(w, WORK_IN_VAIN);
}

/* ---- sending ---- */

static struct outlet *outlet_find(struct roll *outlets, const char *name)
{
        struct entry *e = roll_find(outlets, name, NULL);
        return e ? wh_container(e, struct outlet, e) : NULL;
}

static wharf_name outlet_right(struct wharf_direct *d, const char *name)
{
        wh_lock(&d->lock);
        struct outlet *o = outlet_find(&d->outlets, name);
        wharf_name right = o ? o->right : WHARF_NONE;
        wh_unlock(&d->lock);
        return right;
}

/* Has the peer gone since it was sent to, and nobody was told? Then the caller is told, now. */
static bool outlet_was(struct wharf_direct *d, const char *name)
{
        wh_lock(&d->lock);
        struct outlet *o = outlet_find(&d->outlets_gone, name);
        if (o) {
                roll_remove(&o->e);
                d->n_outlets_gone--;
        }
        wh_unlock(&d->lock);
        bool was = o;
        free(o);
        return was;
}

/* Takes out the outlet of `right`, which is dead: its end is told by the next call that sends there. */
static void outlet_gone(struct wharf_direct *d, wharf_name right)
{
        struct outlet *o = NULL, *old = NULL;
        wh_lock(&d->lock);
        wh_list_for (pos, &d->outlets.all) {
                o = wh_container(pos, struct outlet, e.node);
                if (o->right == right)
                        break;
                o = NULL;
        }
        if (o) {
                roll_remove(&o->e);
                d->n_outlets--;
                roll_push(&d->outlets_gone, &o->e);
                if (++d->n_outlets_gone > GONE_MAX) {
                        old = wh_container(roll_pop(&d->outlets_gone), struct outlet, e);
                        d->n_outlets_gone--;
                }
        }
        wh_unlock(&d->lock);
        if (o)
                wharf_drop(d->task, right);
        free(old);
}

/*
 * Lets go of the rights to peers that have died, to which nobody may ever send again. Looks at all of them whenever
 * their number has doubled since, so that it costs each of them little. `making` is held; without memory, later.
 */
static void outlets_sweep(struct wharf_direct *d)
{
        wharf_name *right = NULL;
        size_t n = 0;
        wh_lock(&d->lock);
        if (d->n_outlets >= d->sweep_at && (right = wh_os_malloc(d->n_outlets * sizeof *right)))
                wh_list_for (pos, &d->outlets.all)
                        right[n++] = wh_container(pos, struct outlet, e.node)->right;
        wh_unlock(&d->lock);
        if (!right)
                return;
        for (size_t i = 0; i < n; i++) {
                struct wharf_right_stat st = {.size = sizeof st};
                if (wharf_right_stat(d->task, right[i], &st) == 0 && st.dead)
                        outlet_gone(d, right[i]);
        }
        free(right);
        wh_lock(&d->lock);
        d->sweep_at = 2 * d->n_outlets + SWEEP_MIN;
        wh_unlock(&d->lock);
}

/* A hello on a pair that others may have a copy of says nothing about who sends it, and would not be believed. */
static int door_own(struct wharf_direct *d, wharf_name door)
{
        int r;
        struct wh_link *l = wh_holder_lock(d->task, door, &r);
        if (!l)
                return r;
        r = wh_link_rebind(l);
        if (r == 0 && l->provisional)
                r = wh_trace(-EMFILE);
        wh_unlock(&l->o.lock);
        return r;
}

/* Makes the port, and moves it through the peer's door. Does not wait: a link that is new has room. */
static int outlet_make(struct wharf_direct *d, const char *name, wharf_name door, wharf_name *ret)
{
        wharf_name port = WHARF_NONE, right = WHARF_NONE;
        struct outlet *o = wh_os_calloc(1, sizeof *o);
        if (!o)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        int r = door_own(d, door);
        if (r == 0)
                r = wharf_port_new(d->task, NULL, &port);
        if (r == 0)
                r = wharf_right_new(d->task, port, &right);
        if (r == 0) {
                struct hello hello = {.id = d->id};
                size_t n = strlen(d->name);
                memcpy(hello.name, d->name, n);
                struct wharf_item item = {.kind = WHARF_MOVE_RECEIVE, .name = port};
                struct wharf_msg m = {.size = sizeof m,
                                      .id = HELLO_ID,
                                      .data = &hello,
                                      .len_bytes = HELLO_HEAD + n,
                                      .items = &item,
                                      .n_items = 1};
                r = wharf_sendmsg(d->task, door, &m, 0);
        }
        if (r < 0) {
                wharf_drop(d->task, right);
                wharf_drop(d->task, port);
                free(o);
                return wh_fail(r, "no link to %s could be made", name);
        }
        strcpy(o->e.name, name);
        o->right = right;
        wh_lock(&d->lock);
        roll_push(&d->outlets, &o->e);
        d->n_outlets++;
        wh_unlock(&d->lock);
        outlets_sweep(d);
        *ret = right;
        return 0;
}

static int outlet_get(struct wharf_direct *d, const char *name, int64_t deadline_ns, wharf_name *ret)
{
        char full[WHARF_NAME_MAX + 1];
        wharf_name door;
        *ret = outlet_right(d, name);
        if (*ret != WHARF_NONE)
                return 0;
        if (outlet_was(d, name))
                return wh_fail(-EPIPE, "%s has left, or died", name);
        int r = full_name(name, full);
        if (r == 0)
                r = wharf_lookup(d->task, full, deadline_ns, &door);
        if (r == -ENOENT)
                return wh_fail(r, "nobody has joined as %s", name);
        if (r < 0)
                return r;
        wh_lock(&d->making);
        *ret = outlet_right(d, name); /* another thread may have been faster */
        if (*ret == WHARF_NONE)
                r = outlet_was(d, name) ? wh_fail(-EPIPE, "%s has left, or died", name)
                                        : outlet_make(d, name, door, ret);
        wh_unlock(&d->making);
        wharf_drop(d->task, door);
        return r;
}

/* The peer is gone, or wants nothing of us: the next call looks for it anew. */
static void outlet_end(struct wharf_direct *d, const char *name, wharf_name right)
{
        wh_lock(&d->lock);
        struct outlet *o = outlet_find(&d->outlets, name), *gone = outlet_find(&d->outlets_gone, name);
        if (o && o->right == right) {
                roll_remove(&o->e);
                d->n_outlets--;
        } else {
                o = NULL;
        }
        if (gone && gone->right == right) { /* a thread that swept was faster; ours is told now */
                roll_remove(&gone->e);
                d->n_outlets_gone--;
        } else {
                gone = NULL;
        }
        wh_unlock(&d->lock);
        if (o)
                wharf_drop(d->task, right);
        free(o);
        free(gone);
}

WHARF_API int wharf_direct_sendmsg(wharf_direct *d, const char *peer, struct wharf_msg *m, int64_t deadline_ns)
{
        wharf_name right = WHARF_NONE;
        char full[WHARF_NAME_MAX + 1];
        int r = wh_message_check(m);
        if (r == 0)
                r = full_name(peer, full);
        if (r == 0)
                r = outlet_get(d, peer, deadline_ns, &right);
        if (r < 0)
                return r;
        r = wharf_sendmsg(d->task, right, m, deadline_ns);
        /* With the last two, another thread found it dead first, and dropped it. */
        bool dropped = (r == -EBADF || r == -ECANCELED) && outlet_right(d, peer) != right;
        if (r == -EPIPE || r == -EKEYREVOKED || r == -EPROTO || dropped)
                outlet_end(d, peer, right);
        return r == -EKEYREVOKED || dropped ? wh_fail(-EPIPE, NULL) : r;
}

WHARF_API int wharf_direct_send(wharf_direct *d, const char *peer, const void *data, size_t len_bytes,
                                int64_t deadline_ns)
{
        struct wharf_msg m = {.size = sizeof m, .data = (void *)(uintptr_t)data, .len_bytes = len_bytes};
        return wharf_direct_sendmsg(d, peer, &m, deadline_ns);
}

/* ---- what is known of others ---- */

/* The next one of `name` behind `k`, or the first. */
static struct known *known_next(struct roll *r, const char *name, const struct known *k)
{
        struct entry *e = roll_find(r, name, k ? &k->e : NULL);
        return e ? wh_container(e, struct known, e) : NULL;
}

static struct known *known_find(struct wharf_direct *d, const char *name, uint64_t id)
{
        struct roll *rolls[] = {&d->known, &d->known_gone};
        for (int i = 0; i < 2; i++)
                for (struct known *k = known_next(rolls[i], name, NULL); k; k = known_next(rolls[i], name, k))
                        if (k->id == id)
                                return k;
        return NULL;
}

/* The registration of `name` that has not ended, or NULL. */
static struct known *known_living(struct wharf_direct *d, const char *name)
{
        return known_next(&d->known, name, NULL);
}

/* The end of that registration is told by nobody from now on. */
static void known_told(struct wharf_direct *d, const char *name, uint64_t id)
{
        struct known *k = known_find(d, name, id);
        if (k)
                k->told = true;
}

static void known_end(struct wharf_direct *d, struct known *k)
{
        k->gone = true;
        k->stale = false;
        roll_remove(&k->e);
        roll_push(&d->known_gone, &k->e);
        if (++d->n_gone > GONE_MAX) {
                free(wh_container(roll_pop(&d->known_gone), struct known, e));
                d->n_gone--;
        }
}

/* The registration `id` of `name` ends all others of that name. */
static int known_is(struct wharf_direct *d, const char *full, uint64_t id, pid_t pid, uid_t uid)
{
        const char *name = full + sizeof PREFIX - 1;
        if (strncmp(full, PREFIX, sizeof PREFIX - 1))
                return 0;
        struct known *k = known_find(d, name, id), *other;
        if (k) {
                roll_remove(&k->e);
                d->n_gone -= k->gone;
        } else {
                k = wh_os_calloc(1, sizeof *k);
                if (!k)
                        return wh_trace(-ENOMEM);
                strcpy(k->e.name, name);
                k->id = id;
        }
        other = known_living(d, name);
        if (other)
                known_end(d, other);
        roll_push(&d->known, &k->e);
        k->pid = pid;
        k->uid = uid;
        k->gone = k->stale = false;
        return 0;
}

static int known_event(struct wharf_direct *d, const struct wharf_name_event *e)
{
        struct known *k;
        switch (e->what) {
        case WHARF_NAME_IS:
                return known_is(d, e->name, e->id.v, e->pid, e->uid);
        case WHARF_NAME_GONE:
                k = strncmp(e->name, PREFIX, sizeof PREFIX - 1) ? NULL : known_living(d, e->name + sizeof PREFIX - 1);
                if (k)
                        known_end(d, k);
                break;
        case WHARF_NAMES_BEGIN:
                wh_list_for (pos, &d->known.all)
                        wh_container(pos, struct known, e.node)->stale = true;
                break;
        case WHARF_NAMES_END:
                wh_list_for_safe (pos, &d->known.all) {
                        k = wh_container(pos, struct known, e.node);
                        if (!k->stale)
                                continue;
                        k->told = true; /* a directory that has lost its names says nothing of lives */
                        known_end(d, k);
                }
                d->told_all = true;
                break;
        }
        return 0;
}

/*
 * The directory as it is now; for a hello that was faster than what the directory tells. Where it does not answer in
 * time the hello waits for the next call, which is no reason for this one to fail: -EAGAIN.
 */
static int known_ask(struct wharf_direct *d, bool waits, int64_t deadline_ns)
{
        struct wharf_named *all;
        size_t n;
        int64_t now = wh_os_now_ns();
        int64_t until_ns = now + (waits && deadline_ns > now ? ASK_NS : ASK_NOW_NS);
        if (deadline_ns > now && deadline_ns < until_ns)
                until_ns = deadline_ns;
        int r = wh_names_list_until(d->task, until_ns, &all, &n);
        if (r < 0)
                return r == -ETIMEDOUT ? -EAGAIN : r;
        for (size_t i = 0; r == 0 && i < n; i++)
                r = known_is(d, all[i].name, all[i].id.v, all[i].pid, all[i].uid);
        free(all);
        return r;
}

/* ---- the door ---- */

/*
 * Is there nothing left at this port after a receive said so? One that may not wait gives up before it has seen
 * everything, if much comes that is no message; the descriptor says what is so (port.P3). But for a link that waits for
 * a place, of which nothing is read, none is readable (places.G1). 1 or 0.
 */
static int is_drained(struct wharf_direct *d, wharf_name name)
{
        struct pollfd p = {.events = POLLIN};
        int r = wharf_port_fd(d->task, name, &p.fd);
        if (r == 0)
                r = wh_os_poll(&p, 1, 0);
        if (r != 0)
                return r == -EINTR || r > 0 ? 0 : r;
        struct wh_port *port = wh_port_lock(d->task, name, &r);
        if (!port)
                return r;
        bool none_waits = wh_list_empty(&port->waiting);
        wh_unlock(&port->inbox->lock);
        return none_waits;
}

/* The first of that name, or the next one behind `in`. */
static struct inlet *inlet_find(struct roll *inlets, const struct inlet *in, const char *name)
{
        struct entry *e = roll_find(inlets, name, in ? &in->e : NULL);
        return e ? wh_container(e, struct inlet, e) : NULL;
}

static struct wh_list *ports_bucket(struct wharf_direct *d, wharf_name port)
{
        return &d->ports[(port ^ port >> 8) % BUCKETS];
}

static struct inlet *inlet_of(struct wharf_direct *d, wharf_name port)
{
        wh_list_for (pos, ports_bucket(d, port)) {
                struct inlet *in = wh_container(pos, struct inlet, by_port);
                if (in->port == port)
                        return in;
        }
        return NULL;
}

static struct inlet *inlet_next(struct wharf_direct *d, struct inlet *in)
{
        return d->n_following ? inlet_find(&d->inlets, in, in->e.name) : NULL;
}

/* Out of the list, and its port dropped: which takes it out of the set, and its notice back. */
static void inlet_take_out(struct wharf_direct *d, struct inlet *in)
{
        struct inlet *next = inlet_next(d, in);
        if (in->follows) {
                d->n_following--;
        } else if (next) {
                next->follows = d->placed = false;
                d->n_following--;
        }
        wharf_drop(d->task, in->port);
        if (d->before_at == &in->e.node)
                d->before_at = in->e.node.next;
        roll_remove(&in->e);
        wh_list_remove(&in->by_port);
        d->n_inlets--;
        if (d->before_left > d->n_inlets)
                d->before_left = d->n_inlets;
}

static void inlet_gone_free(struct wharf_direct *d, struct inlet *in)
{
        roll_remove(&in->e);
        d->n_inlets_gone--;
        free(in);
}

/* All it sent was received, and nobody was told yet that it is gone. If another one follows it, nobody will be. */
static void inlet_end(struct wharf_direct *d, struct inlet *in)
{
        struct inlet *next = inlet_next(d, in);
        bool told = in->follows || (next && next->id == in->id);
        inlet_take_out(d, in);
        if (told) {
                free(in);
                return;
        }
        struct inlet *last = inlet_find(&d->inlets_gone, NULL, in->e.name);
        if (last) { /* one end of each name is told of, and this is the later one */
                known_told(d, last->e.name, last->id);
                inlet_gone_free(d, last);
        }
        roll_push(&d->inlets_gone, &in->e);
        if (++d->n_inlets_gone > GONE_MAX)
                inlet_gone_free(d, wh_container(d->inlets_gone.all.next, struct inlet, e.node));
}

/* Is the claim true (D1)? */
static bool claim_holds(struct wharf_direct *d, const struct claim *c)
{
        const struct known *k = known_find(d, c->name, c->id);
        return k && wh_known_surely(c->sender.known) && c->sender.introducer.known == WHARF_KNOWN_NOBODY &&
               c->sender.pid > 0 && k->pid == c->sender.pid && k->uid == c->sender.uid;
}

/* The claim's port becomes an inlet; on failure it is still the claim's. */
static int claim_accept(struct wharf_direct *d, struct claim *c)
{
        struct inlet *before = inlet_find(&d->inlets, NULL, c->name);
        unsigned links = 0;
        for (struct inlet *in = before; in; in = inlet_find(&d->inlets, in, c->name))
                links += in->id == c->id;
        if (links >= LINKS_MAX)
                return -EEXIST;
        if (d->n_inlets == INLETS_MAX)
                return -EMLINK;
        struct inlet *in = wh_os_calloc(1, sizeof *in);
        if (!in)
                return wh_trace(-ENOMEM);
        /* Its maker chose the options: it must not have chosen that waiting for the dead never ends. */
        int r;
        struct wh_port *port = wh_port_lock(d->task, c->port, &r);
        if (port) {
                port->opts.flags &= ~(uint32_t)WHARF_PORT_STAYS;
                wh_unlock(&port->inbox->lock);
        }
        r = wharf_notify(d->task, WHARF_NOTICE_NO_SENDERS, c->port, d->door, 0);
        if (r < 0) {
                free(in);
                return r;
        }
        in->port = c->port;
        in->id = c->id;
        in->follows = before;
        strcpy(in->e.name, c->name);
        roll_push(&d->inlets, &in->e);
        wh_list_push_back(ports_bucket(d, in->port), &in->by_port);
        d->placed &= in->follows;
        d->n_inlets++;
        d->n_following += in->follows;
        if (in->follows)
                d->before_left = d->n_inlets;
        c->port = WHARF_NONE;
        struct inlet *gone = inlet_find(&d->inlets_gone, NULL, in->e.name);
        if (gone && gone->id == in->id)
                inlet_gone_free(d, gone); /* it is not: its link was lost, and this is the next */
        return 0;
}

static void claim_free(struct wharf_direct *d, struct claim *c)
{
        wh_list_remove(&c->node);
        wharf_drop(d->task, c->port);
        free(c);
}

/*
 * Judges all claims. A claim that cannot be judged for want of something stays, and the error is returned; one that
 * does not hold stays until the door has been read to its end (`drained`), and if that never is, since somebody keeps
 * it busy, the directory is asked now and then. Those that there is no time for stay as well. -EAGAIN: the directory
 * does not answer.
 */
static int claims_judge(struct wharf_direct *d, bool drained, bool waits, struct work *w)
{
        bool asked = false, judged = false;
        wh_list_for_safe (pos, &d->claims) {
                if (judged && w->deadline_ns && is_over(w->deadline_ns))
                        break;
                struct claim *c = wh_container(pos, struct claim, node);
                bool holds = claim_holds(d, c);
                if (!holds && !drained && ++c->judged % DOOR_TURN)
                        continue;
                if (!holds && !asked) {
                        int r = known_ask(d, waits, w->deadline_ns);
                        if (r < 0)
                                return r;
                        asked = true;
                        holds = claim_holds(d, c);
                }
                if (!holds && !drained)
                        continue;
                int r = holds ? claim_accept(d, c) : 0;
                if (r == -ENOMEM || r == -EMFILE || r == -ENFILE || r == -ENOSPC)
                        return wh_fail(r, NULL);
                if (!holds) /* each lie costs a look-up */
                        wharf_revoke(d->task, d->door, c->sender.id, 0);
                claim_free(d, c);
                judged = true;
        }
        return 0;
}

/* A hello becomes a claim, which takes its port. There is memory for it before the hello is received. */
static void claim_new(struct wharf_direct *d, const struct wharf_msg *m)
{
        struct claim *c = d->spare;
        d->spare = NULL;
        memcpy(&c->id, m->data, sizeof c->id);
        memcpy(c->name, (const char *)m->data + HELLO_HEAD, m->len_bytes - HELLO_HEAD);
        c->port = m->items[0].name;
        c->sender = m->sender;
        wh_list_push_back(&d->claims, &c->node);
}

/* Only one claim for each right waits to be judged, so that those who say much cost no more than others. */
static bool claim_waits(struct wharf_direct *d, uint64_t sender_id)
{
        wh_list_for (pos, &d->claims)
                if (wh_container(pos, struct claim, node)->sender.id == sender_id)
                        return true;
        return false;
}

/* One message of the door: of the directory, of the system, or of somebody who wants to be let in. */
static int door_take(struct wharf_direct *d, int64_t deadline_ns)
{
        uint8_t buf[DOOR_BYTES_MAX];
        struct wharf_item items[WHARF_ITEMS_MAX];
        struct wharf_msg m = {
                .size = sizeof m, .data = buf, .cap_bytes = sizeof buf, .items = items, .cap_items = WHARF_ITEMS_MAX};
        struct wharf_name_event event;
        if (!d->spare && !(d->spare = wh_os_calloc(1, sizeof *d->spare)))
                return wh_fail(wh_trace(-ENOMEM), NULL);
        int r = wharf_recvmsg(d->task, d->door, &m, deadline_ns);
        if (r < 0)
                return r;
        if (m.notice == WHARF_NOTICE_NO_SENDERS) {
                struct inlet *in = inlet_of(d, m.about);
                if (in)
                        inlet_end(d, in);
        } else if (wharf_names_event(d->task, &m, &event) == 0) {
                r = known_event(d, &event);
        } else if (m.id == HELLO_ID && m.n_items == 1 && items[0].kind == WHARF_GOT_RECEIVE &&
                   m.len_bytes > HELLO_HEAD && m.len_bytes <= sizeof(struct hello) && !claim_waits(d, m.sender.id)) {
                claim_new(d, &m);
                items[0].kind = 0;
        }
        wh_items_drop(d->task, items, m.n_items);
        if (m.reply != WHARF_NONE)
                wharf_drop(d->task, m.reply);
        return r < 0 ? wh_fail(r, NULL) : 0;
}

/*
 * Does what there is to do at the door, for a while, and with `waits` waits for something first, until the deadline. As
 * far as `w` goes, but always a little.
 */
static int door_serve(struct wharf_direct *d, bool waits, struct work *w)
{
        bool some = !wh_list_empty(&d->claims);
        int r = some ? 0 : door_take(d, waits ? w->deadline_ns : 0), drained = 0;
        for (unsigned i = 0; r == 0 && i < DOOR_TURN && (i == 0 || !work_ends(w)); i++) {
                some = true;
                work_spend(w, 1);
                r = door_take(d, 0);
                if (r != -EAGAIN || wh_list_empty(&d->claims))
                        continue;
                drained = is_drained(d, d->door);
                if (drained == 0) {
                        work_spend(w, WORK_IN_VAIN);
                        r = 0;
                }
        }
        int judged = drained < 0 ? drained : claims_judge(d, drained, waits, w);
        return judged == -EAGAIN && r == 0 ? 0 : judged < 0 ? judged : some && r == -EAGAIN ? 0 : r;
}

/* ---- receiving ---- */

/* Where a message is received from: an inlet alone, or the set of all. */
static int inlet_place(struct wharf_direct *d, struct inlet *in, bool in_set)
{
        if (in->in_set == in_set)
                return 0;
        int r = in_set ? wharf_set_add(d->task, d->set, in->port) : wharf_set_remove(d->task, d->set, in->port);
        if (r == 0) {
                in->in_set = in_set;
                d->placed &= in_set;
        }
        return r;
}

/* `peer` has gone, and that is told now. */
static int peer_gone(struct wharf_direct *d, const char *peer, uint64_t id)
{
        known_told(d, peer, id);
        return wh_fail(-ENOTCONN, "%s has left, or died", peer);
}

/*
 * Another inlet follows this one. One receive from it; or it ends, if all was received: -ENOTCONN. It is in no set
 * then.
 * -EAGAIN: it may have more than was looked at.
 */
static int recv_before(struct wharf_direct *d, struct inlet *in, struct wharf_msg *m)
{
        int fd, r = inlet_place(d, in, false);
        if (r == 0) /* first of all, or the receive leaves it as it was: ready */
                r = wharf_port_fd(d->task, in->port, &fd);
        if (r == 0)
                r = wharf_recvmsg(d->task, in->port, m, 0);
        if (r == -EAGAIN) {
                int drained = is_drained(d, in->port);
                r = drained < 0 ? wh_fail(drained, NULL) : drained > 0 ? -ENOTCONN : r;
        }
        if (r == -ENOTCONN)
                inlet_end(d, in);
        return r;
}

static int recv_from(struct wharf_direct *d, const char *peer, struct wharf_msg *m, int64_t deadline_ns)
{
        bool looked = false;
        struct work w = {.deadline_ns = deadline_ns, .left = WORK_MAX};
        for (;; work_again(&w)) {
                struct inlet *in = inlet_find(&d->inlets, NULL, peer), *gone = NULL;
                bool over = w.later && work_ends(&w);
                int r = 0;
                if (!in || !in->met)
                        gone = inlet_find(&d->inlets_gone, NULL, peer);
                if (gone && looked) {
                        uint64_t id = gone->id;
                        inlet_gone_free(d, gone);
                        return peer_gone(d, peer, id);
                }
                if (in && !gone) {
                        in->met = true;
                        if (inlet_next(d, in))
                                r = recv_before(d, in, m);
                        else if ((r = inlet_place(d, in, false)) == 0 &&
                                 (r = wharf_recvmsg(d->task, in->port, m, deadline_ns)) == -ENOTCONN)
                                inlet_end(d, in);
                        if (r != -ENOTCONN && (r != -EAGAIN || deadline_ns == 0))
                                return r;
                        if (over)
                                return wh_fail(deadline_ns ? -ETIMEDOUT : -EAGAIN, NULL);
                        continue;
                }
                r = door_serve(d, false, &w);
                if (r < 0 && r != -EAGAIN)
                        return r;
                if (gone) { /* has it, or its name's next life, come back? */
                        looked = true;
                        continue;
                }
                if (inlet_find(&d->inlets, NULL, peer))
                        continue;
                if (r == -EAGAIN && !known_living(d, peer))
                        for (struct known *k = known_next(&d->known_gone, peer, NULL); k;
                             k = known_next(&d->known_gone, peer, k)) {
                                if (!k->told)
                                        return peer_gone(d, peer, k->id);
                        }
                if (over || (deadline_ns == 0 && r == -EAGAIN))
                        return wh_fail(deadline_ns ? -ETIMEDOUT : -EAGAIN, NULL);
                if (r == -EAGAIN && (r = door_serve(d, true, &w)) < 0 && r != -EAGAIN)
                        return wh_fail(r, NULL);
        }
}

/* The first of each name is in the set. */
static int inlets_place(struct wharf_direct *d)
{
        if (d->placed)
                return 0;
        wh_list_for (pos, &d->inlets.all) {
                struct inlet *in = wh_container(pos, struct inlet, e.node);
                int r = in->follows ? 0 : inlet_place(d, in, true);
                if (r < 0)
                        return r;
        }
        d->placed = true;
        return 0;
}

/* The inlet at which the look at those that others follow goes on, which is the next one's turn then. */
static struct inlet *before_next(struct wharf_direct *d)
{
        if (d->before_at == &d->inlets.all)
                d->before_at = d->inlets.all.next;
        struct inlet *in = wh_container(d->before_at, struct inlet, e.node);
        d->before_at = d->before_at->next;
        d->before_left--;
        return in;
}

static bool is_shortage(int r)
{
        return r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS;
}

/*
 * From whoever is in the set, without waiting; -EAGAIN: nobody has sent. If `before_left` is not 0 then, not all was
 * looked at: this is to be called again before one sleeps.
 */
static int recv_set(struct wharf_direct *d, struct wharf_msg *m, char *who, struct work *w)
{
        int r;
again:
        r = inlets_place(d);
        if (r < 0)
                return r;
        r = wharf_recvmsg(d->task, d->set, m, 0);
        struct inlet *from = r == 0 || r == -EOVERFLOW ? inlet_of(d, m->port) : NULL;
        if (from && who)
                strcpy(who, from->e.name);
        bool ended = r == -ENOTCONN;
        if (ended) /* all have, and all they sent was received */
                wh_list_for_safe (pos, &d->inlets.all) {
                        struct inlet *in = wh_container(pos, struct inlet, e.node);
                        if (!in->in_set)
                                continue;
                        inlet_end(d, in);
                        work_spend(w, 1);
                }
        if (r != -EAGAIN && r != -ENOTCONN && !is_shortage(r))
                return r;
        /*
         * Those that others follow are read to their end, which also gives back what there may be too little of. Each
         * is a receive of its own, which a flood makes long (D5).
         */
        int short_of = is_shortage(r) ? r : 0;
        if (d->n_following == 0 || d->before_left == 0)
                d->before_left = d->n_following ? d->n_inlets : 0;
        for (bool first = !w->later; d->n_following && d->before_left && (first || !work_ends(w));) {
                struct inlet *in = before_next(d);
                if (!in->in_set || !inlet_next(d, in))
                        continue;
                first = false;
                r = recv_before(d, in, m);
                if ((r == 0 || r == -EOVERFLOW) && who)
                        strcpy(who, in->e.name);
                if (r != -EAGAIN && r != -ENOTCONN && !is_shortage(r))
                        return r;
                short_of = is_shortage(r) ? r : short_of;
                ended |= r == -ENOTCONN;
                work_spend(w, r == -ENOTCONN ? 1 : WORK_IN_VAIN);
        }
        if (ended) { /* what followed may have something, and be followed as well; before the door lets others in */
                d->before_left = d->n_inlets;
                if (w->left > WORK_IN_VAIN && !work_ends(w)) {
                        work_spend(w, WORK_IN_VAIN);
                        goto again;
                }
        }
        r = inlets_place(d); /* so that what comes there is heard of */
        return r < 0 ? r : short_of && !ended ? wh_fail(short_of, NULL) : -EAGAIN;
}

static int recv_anyone(struct wharf_direct *d, struct wharf_msg *m, char *who, int64_t deadline_ns)
{
        struct pollfd p[2] = {{.events = POLLIN}, {.events = POLLIN}};
        struct work w = {.deadline_ns = deadline_ns, .left = WORK_MAX};
        int r = wharf_port_fd(d->task, d->door, &p[0].fd);
        if (r == 0)
                r = wharf_port_fd(d->task, d->set, &p[1].fd);
        if (r == 0 && d->turn++ % DOOR_TURN == 0) /* so that busy peers do not keep others out */
                r = door_serve(d, false, &w);
        for (; r == 0 || r == -EAGAIN; work_again(&w)) {
                bool over = w.later && work_ends(&w);
                r = recv_set(d, m, who, &w);
                if (r != -EAGAIN)
                        return r;
                over |= w.later && work_ends(&w);
                r = over ? -EAGAIN : door_serve(d, false, &w);
                if (r < 0 && r != -EAGAIN)
                        return r;
                if (over || (deadline_ns == 0 && r == -EAGAIN && !d->before_left))
                        return wh_fail(deadline_ns ? -ETIMEDOUT : -EAGAIN, NULL);
                if (r == -EAGAIN && d->before_left) {
                        r = 0;
                } else if (r == -EAGAIN) { /* a set without ports would seem ready: nothing can come there */
                        /* A claim that the directory did not answer for is judged again a little later. */
                        int64_t again_ns = wh_list_empty(&d->claims) ? WH_NEVER : wh_os_now_ns() + ASK_NS;
                        r = wh_os_poll(p, d->n_inlets ? 2 : 1, deadline_ns < again_ns ? deadline_ns : again_ns);
                        r = r >= 0 || r == -EINTR ? 0 : r;
                }
        }
        return r;
}

WHARF_API int wharf_direct_recvmsg(wharf_direct *d, const char *peer, struct wharf_msg *m,
                                   char who[WHARF_DIRECT_NAME_MAX + 1], int64_t deadline_ns)
{
        char full[WHARF_NAME_MAX + 1];
        int r = wh_receive_check(m);
        if (r == 0 && peer)
                r = full_name(peer, full);
        if (r < 0)
                return r;
        if (m->from)
                return wh_fail(-EINVAL, "wharf_msg.from is set; the peer's name says from whom");
        /* [receiving] Acquire and release: what one receiver leaves, the next one finds. */
        if (atomic_exchange_explicit(&d->receiving, true, memory_order_acquire))
                return wh_fail(-EBUSY, "another thread is receiving as %s", d->name);
        for (;;) {
                r = peer ? recv_from(d, peer, m, deadline_ns) : recv_anyone(d, m, who, deadline_ns);
                if (r != -EMFILE || deadline_ns == 0 || is_over(deadline_ns))
                        break;
                /* As in wharf_recvmsg(): what takes more descriptors than there are stays where it is. */
                const int64_t again_ns = wh_os_now_ns() + SHORT_NS;
                wh_os_poll(NULL, 0, again_ns < deadline_ns ? again_ns : deadline_ns);
        }
        if ((r == 0 || r == -EOVERFLOW) && peer && who)
                strcpy(who, peer);
        /* [receiving] Release, as above. */
        atomic_store_explicit(&d->receiving, false, memory_order_release);
        return r;
}

static ssize_t recv_bytes(wharf_direct *d, const char *peer, void *buf, size_t cap_bytes, char *who,
                          int64_t deadline_ns)
{
        struct wharf_msg m = {.size = sizeof m, .flags = WHARF_RECV_NO_ITEMS, .data = buf, .cap_bytes = cap_bytes};
        int r = wharf_direct_recvmsg(d, peer, &m, who, deadline_ns);
        if (r < 0)
                return r;
        if (m.reply != WHARF_NONE)
                wharf_drop(d->task, m.reply);
        return (ssize_t)m.len_bytes;
}

WHARF_API ssize_t wharf_direct_recv(wharf_direct *d, const char *peer, void *buf, size_t cap_bytes, int64_t deadline_ns)
{
        char full[WHARF_NAME_MAX + 1];
        int r = full_name(peer, full); /* NULL is nobody, and not anyone */
        return r < 0 ? r : recv_bytes(d, peer, buf, cap_bytes, NULL, deadline_ns);
}

WHARF_API ssize_t wharf_direct_recv_any(wharf_direct *d, void *buf, size_t cap_bytes,
                                        char who[WHARF_DIRECT_NAME_MAX + 1], int64_t deadline_ns)
{
        return recv_bytes(d, NULL, buf, cap_bytes, who, deadline_ns);
}

/* ---- joining ---- */

static void direct_free(struct wharf_direct *d)
{
        struct entry *e;
        while ((e = roll_pop(&d->outlets))) {
                struct outlet *o = wh_container(e, struct outlet, e);
                wharf_drop(d->task, o->right);
                free(o);
        }
        while (!wh_list_empty(&d->claims))
                claim_free(d, wh_container(d->claims.next, struct claim, node));
        while (!wh_list_empty(&d->inlets.all))
                inlet_end(d, wh_container(d->inlets.all.next, struct inlet, e.node));
        while (!wh_list_empty(&d->inlets_gone.all))
                inlet_gone_free(d, wh_container(d->inlets_gone.all.next, struct inlet, e.node));
        while ((e = roll_pop(&d->outlets_gone)))
                free(wh_container(e, struct outlet, e));
        while ((e = roll_pop(&d->known)) || (e = roll_pop(&d->known_gone)))
                free(wh_container(e, struct known, e));
        wharf_drop(d->task, d->set);
        wharf_drop(d->task, d->door);
        free(d->spare);
        free(d);
}

WHARF_API int wharf_direct_join(wharf_task *t, const char *name, wharf_direct **ret)
{
        if (!ret)
                return wh_fail_null("ret");
        char full[WHARF_NAME_MAX + 1];
        int r = full_name(name, full);
        if (r < 0)
                return r;
        struct wharf_direct *d = wh_os_calloc(1, sizeof *d);
        if (!d)
                return wh_fail(wh_trace(-ENOMEM), NULL);
        d->task = t;
        strcpy(d->name, name);
        d->sweep_at = SWEEP_MIN;
        struct roll *rolls[] = {&d->outlets, &d->outlets_gone, &d->inlets, &d->inlets_gone, &d->known, &d->known_gone};
        for (unsigned i = 0; i < sizeof rolls / sizeof *rolls; i++)
                roll_init(rolls[i]);
        buckets_init(d->ports);
        d->before_at = &d->inlets.all;
        wh_list_init(&d->claims);
        struct wharf_port_opts o = {
                .size = sizeof o, .flags = WHARF_PORT_STAYS | WHARF_PORT_FIXED, .payload_bytes_max = DOOR_BYTES_MAX};
        struct wharf_port_stat st = {.size = sizeof st};
        r = wharf_port_new(t, &o, &d->door);
        if (r == 0)
                r = wharf_set_new(t, &d->set);
        if (r == 0)
                r = wharf_port_stat(t, d->door, &st);
        d->id = st.id.v;
        /* The watch first: then what it says of a name comes before anything that this name says. And until it has told
         * of all names, it leaves out those that come and go; so nobody finds this one before. */
        if (r == 0)
                r = wharf_names_watch(t, PREFIX, d->door);
        bool watched = r == 0;
        bool told = false; /* what is waited for, when the time is over */
        for (int64_t until = wh_os_now_ns() + TOLD_NS; r == 0 && !d->told_all;) {
                told = true;
                r = door_take(d, wh_os_now_ns() + RENEW_NS);
                if (r == -ETIMEDOUT && wh_os_now_ns() < until) {
                        r = wharf_names_renew(t); /* a wharfd that was killed tells nothing; the next one does */
                        told = false;
                }
        }
        if (r == -ETIMEDOUT && told)
                r = wh_fail(r, "the server at %s does not tell who has joined", wharf_domain_path());
        if (r == 0)
                r = wharf_register(t, full, d->door);
        if (r < 0) {
                char why[256];
                snprintf(why, sizeof why, "%s", wharf_why());
                if (watched)
                        wharf_names_unwatch(t, PREFIX, d->door);
                direct_free(d);
                return r == -EEXIST ? wh_fail(r, "somebody has joined as %s", name) : wh_fail(r, "%s", why);
        }
        *ret = d;
        return wh_fail(0, NULL);
}

WHARF_API wharf_direct *wharf_direct_leave(wharf_direct *d)
{
        char full[WHARF_NAME_MAX + 1];
        if (!d)
                return NULL;
        full_name(d->name, full);
        wharf_names_unwatch(d->task, PREFIX, d->door);
        wharf_unregister(d->task, full);
        direct_free(d);
        return NULL;
}
