#include "link/identity.h"

#include "os/os.h"
#include "port/branch.h"
#include "right/object.h"
#include "port/owned.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* ---- ids that are none ---- */

/* What is read from a file of a line, or "". */
static void line_of(const char *path, char *ret, size_t room)
{
        int fd = wh_os_open(path, O_RDONLY, 0);
        ssize_t n = fd < 0 ? -1 : wh_os_read(fd, ret, room - 1);
        ret[n > 0 ? n : 0] = 0;
        wh_os_close(fd);
}

/* Is there a number for every user? "0 0 4294967295" is the whole space of ids; any other map leaves some out. */
static bool map_whole(const char *path)
{
        char text[256], *at = text;
        line_of(path, text, sizeof text);
        return strtoul(at, &at, 10) == 0 && at > text && strtoul(at, &at, 10) == 0 &&
               strtoul(at, &at, 10) == UINT32_MAX;
}

/* 0: not looked yet; 1 and 2: as it is now. Told in one word, so that threads may look at once. */
static _Atomic uint64_t ids;
enum { IDS_WHOLE = 1, IDS_PARTIAL = 2 };

void wh_ids_look(void)
{
        char text[32];
        uint32_t overflow = 65534;
        line_of("/proc/sys/kernel/overflowuid", text, sizeof text);
        if (text[0] >= '0' && text[0] <= '9')
                overflow = (uint32_t)strtoul(text, NULL, 10);
        uint64_t kind = map_whole("/proc/self/uid_map") ? IDS_WHOLE : IDS_PARTIAL;
        /* Relaxed: it is all there is to know. */
        atomic_store_explicit(&ids, (uint64_t)overflow << 8 | kind, memory_order_relaxed);
}

static uint64_t ids_now(void)
{
        uint64_t now = atomic_load_explicit(&ids, memory_order_relaxed);
        if (!now) {
                wh_ids_look();
                now = atomic_load_explicit(&ids, memory_order_relaxed);
        }
        return now;
}

bool wh_id_known(uint32_t id)
{
        uint64_t now = ids_now();
        return id != UINT32_MAX && ((now & 0xff) == IDS_WHOLE || id != (uint32_t)(now >> 8));
}

/* Does a number mean the same user to others as it does here? */
static bool ids_shared(void)
{
        return (ids_now() & 0xff) == IDS_WHOLE;
}

/* ---- who it is ---- */

void wh_link_identify(struct wh_link *l, const struct wh_cred *cred, uint32_t known)
{
        const bool is = cred->known && (wh_known_surely(known) || known == WHARF_KNOWN_ONCE);
        l->cred = (struct wh_cred){.uid = (uid_t)-1, .gid = (gid_t)-1};
        if (is) {
                l->cred = *cred;
                l->cred.uid = wh_id_known(cred->uid) ? cred->uid : (uid_t)-1;
                l->cred.gid = wh_id_known(cred->gid) ? cred->gid : (gid_t)-1;
        }
        struct wharf_sender *w = &l->who;
        w->known = is || known == WHARF_KNOWN_TOLD ? known : WHARF_KNOWN_NOT;
        w->pid = l->cred.pid;
        w->uid = l->cred.uid;
        w->gid = l->cred.gid;
        if (w->known != WHARF_KNOWN_TOLD) {
                w->told_pid = 0;
                w->told_uid = (uid_t)-1;
        }
        wh_link_introduced(l);
}

/* ---- who introduced it ---- */

typedef void (*see)(void *arg, const struct wharf_introducer *one, uint64_t id);

static void see_formers(const struct wharf_introducer *former, const struct wharf_introducer *formers, see fn,
                        void *arg)
{
        fn(arg, former, 0);
        fn(arg, formers, 0);
}

static void see_each(const struct wh_link *l, see fn, void *arg)
{
        const struct wharf_introducer not_known = WH_INTRODUCER_NOT;
        const struct wh_owned *o = l->owner ? wh_owned(l) : NULL;
        const bool told = o && l->who.known == WHARF_KNOWN_TOLD;
        if (told)
                see_formers(&o->former, &o->formers, fn, arg);
        if (l->once)
                fn(arg, &not_known, 0); /* whoever had it last says nothing of that */
        fn(arg, &l->given, 0);
        for (const struct wh_branch *b = o ? o->branch : NULL; b && b->up; b = b->up) {
                /* A directory introduces whoever asks: that the owner wanted, and it says nothing about who asked. */
                if (!b->up->directory)
                        fn(arg, &b->by, b->up->id);
                fn(arg, &b->by_given, b->up->id);
                see_formers(&b->by_former, &b->by_formers, fn, arg);
                if (b->forgot)
                        fn(arg, &not_known, 0);
        }
        if (o && !told)
                see_formers(&o->former, &o->formers, fn, arg);
}

struct listing {
        struct wharf_introducer *ret;
        unsigned n, max;
};

static void list_one(void *arg, const struct wharf_introducer *one, uint64_t id)
{
        struct listing *k = arg;
        if (one->known == WHARF_KNOWN_NOBODY)
                return;
        if (k->n < k->max) {
                k->ret[k->n] = *one;
                k->ret[k->n].id = id;
        }
        k->n++;
}

unsigned wh_link_introducers(const struct wh_link *l, struct wharf_introducer *ret, unsigned max)
{
        struct listing k = {.ret = ret, .max = max};
        see_each(l, list_one, &k);
        return k.n;
}

void wh_link_introduced(struct wh_link *l)
{
        if (!wh_link_introducers(l, &l->who.introducer, 1))
                l->who.introducer = WH_INTRODUCER_NOBODY;
}

struct wharf_introducer wh_given_fold(struct wharf_introducer a, struct wharf_introducer b)
{
        if (a.known == WHARF_KNOWN_NOBODY || b.known == WHARF_KNOWN_NOBODY)
                return a.known == WHARF_KNOWN_NOBODY ? b : a;
        bool same = wh_known_surely(a.known) && wh_known_surely(b.known) && a.uid == b.uid && a.uid != (uid_t)-1;
        return same ? b : WH_INTRODUCER_NOT;
}

static void fold_one(void *arg, const struct wharf_introducer *one, uint64_t id)
{
        (void)id;
        struct wharf_introducer *all = arg;
        *all = wh_given_fold(*one, *all);
}

struct wharf_introducer wh_link_introducer(const struct wh_link *l)
{
        struct wharf_introducer all = WH_INTRODUCER_NOBODY;
        see_each(l, fold_one, &all);
        return all;
}

struct wharf_introducer wh_link_giver(const struct wh_link *l)
{
        if (l->answer)
                return WH_INTRODUCER_NOBODY; /* what this process was started with */
        if (!l->owner)
                return WH_INTRODUCER_NOT; /* it came in an answer: nobody has asked who that is */
        const struct wharf_sender *w = &l->who;
        struct wharf_introducer r = {.pid = w->pid, .uid = w->uid, .gid = w->gid, .known = w->known};
        if (!wh_known_surely(w->known))
                return WH_INTRODUCER_NOT;
        if (w->known == WHARF_KNOWN_OWN)
                r = WH_INTRODUCER_NOBODY;
        see_each(l, fold_one, &r);
        return r;
}

/* ---- on the wire ---- */

struct wh_origin wh_origin_put(uint64_t port_id, const struct wharf_introducer *given)
{
        const struct wharf_introducer *g = given, not = WH_INTRODUCER_NOT;
        if (g->known != WHARF_KNOWN_NOBODY && !ids_shared())
                g = &not ;
        return (struct wh_origin){.port_id = port_id, .pid = g->pid, .uid = g->uid, .gid = g->gid, .known = g->known};
}

struct wharf_introducer wh_origin_get(const struct wh_origin *said)
{
        if (said->known == WHARF_KNOWN_NOBODY)
                return WH_INTRODUCER_NOBODY;
        if (!wh_known_surely(said->known) || !wh_id_known(said->uid))
                return WH_INTRODUCER_NOT;
        return (struct wharf_introducer){.pid = said->pid, .uid = said->uid, .gid = said->gid, .known = said->known};
}

void wh_right_chosen(wharf_task *t, wharf_name right)
{
        int err;
        struct wh_link *l = wh_holder_lock(t, right, &err);
        if (!l)
                return;
        l->given = WH_INTRODUCER_NOBODY;
        wh_unlock(&l->o.lock);
}
