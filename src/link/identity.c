#include "link/identity.h"

#include "link/link.h"
#include "task/ids.h"

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

void wh_given_see(const struct wh_link *l, wh_see_introducer fn, void *arg)
{
        const struct wharf_introducer not_known = WH_INTRODUCER_NOT;
        if (l->once)
                fn(arg, &not_known, 0); /* whoever had it last says nothing of that */
        fn(arg, &l->given, 0);
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
        l->end->introducers(l, list_one, &k);
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
        l->end->introducers(l, fold_one, &all);
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
        l->end->introducers(l, fold_one, &r);
        return r;
}

/* ---- on the wire ---- */

struct wh_origin wh_origin_put(uint64_t port_id, const struct wharf_introducer *given)
{
        const struct wharf_introducer *g = given, not = WH_INTRODUCER_NOT;
        if (g->known != WHARF_KNOWN_NOBODY && !wh_ids_shared())
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
