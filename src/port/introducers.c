/*
 * Who introduced the holder of a link, as its owner knows it: identity.h says what that is worth.
 */
#include "port/branch.h"
#include "port/owned.h"

void wh_owned_introducers(const struct wh_link *l, wh_see_introducer fn, void *arg)
{
        const struct wharf_introducer not_known = WH_INTRODUCER_NOT;
        const struct wh_owned *o = wh_owned(l);
        const bool told = l->who.known == WHARF_KNOWN_TOLD;
        if (told) {
                fn(arg, &o->former, 0);
                fn(arg, &o->formers, 0);
        }
        wh_given_see(l, fn, arg);
        for (const struct wh_branch *b = o->branch; b && b->up; b = b->up) {
                /* A directory introduces whoever asks: that the owner wanted, and it says nothing about who asked. */
                if (!b->up->directory)
                        fn(arg, &b->by, b->up->id);
                fn(arg, &b->by_given, b->up->id);
                fn(arg, &b->by_former, 0);
                fn(arg, &b->by_formers, 0);
                if (b->forgot)
                        fn(arg, &not_known, 0);
        }
        if (!told) {
                fn(arg, &o->former, 0);
                fn(arg, &o->formers, 0);
        }
}
