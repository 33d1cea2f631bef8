/*
 * direct - joining and leaving.
 */
#include "names/direct/direct.h"

#include "base/trace.h"
#include "os/os.h"
#include "task/why.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RENEW_NS ((int64_t)100 * 1000000)
#define TOLD_NS ((int64_t)WHARF_NAMES_START_MS * 1000000) /* as long as wharfd is waited for anywhere */

int wh_direct_full_name(const char *name, char ret[WHARF_NAME_MAX + 1])
{
        size_t n = name ? strnlen(name, WHARF_DIRECT_NAME_MAX + 1) : 0;
        if (n == 0 || n > WHARF_DIRECT_NAME_MAX)
                return wh_fail(-EINVAL, "a name is 1 to %d letters, digits and . _ - / : @", WHARF_DIRECT_NAME_MAX);
        memcpy(ret, PREFIX, sizeof PREFIX - 1);
        memcpy(ret + sizeof PREFIX - 1, name, n + 1);
        return 0;
}

static void direct_free(struct wharf_direct *d)
{
        struct rolled *e;
        while ((e = wh_roll_pop(&d->outlets))) {
                struct outlet *o = wh_container(e, struct outlet, e);
                wharf_drop(d->task, o->right);
                free(o);
        }
        while (!wh_list_empty(&d->claims))
                wh_claim_free(d, wh_container(d->claims.next, struct claim, node));
        while (!wh_list_empty(&d->inlets.all))
                wh_inlet_end(d, wh_container(d->inlets.all.next, struct inlet, e.node));
        while (!wh_list_empty(&d->inlets_gone.all))
                wh_inlet_gone_free(d, wh_container(d->inlets_gone.all.next, struct inlet, e.node));
        while ((e = wh_roll_pop(&d->outlets_gone)))
                free(wh_container(e, struct outlet, e));
        while ((e = wh_roll_pop(&d->known)) || (e = wh_roll_pop(&d->known_gone)))
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
        int r = wh_direct_full_name(name, full);
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
                wh_roll_init(rolls[i]);
        wh_buckets_init(d->ports);
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
                r = wh_door_take(d, wh_os_now_ns() + RENEW_NS);
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
        wh_direct_full_name(d->name, full);
        wharf_names_unwatch(d->task, PREFIX, d->door);
        wharf_unregister(d->task, full);
        direct_free(d);
        return NULL;
}
