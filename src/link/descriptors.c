#include "link/descriptors.h"

#include "memory/sealed.h"
#include "link/budget.h"
#include "link/stash.h"
#include "os/closer.h"

#include <errno.h>
#include <string.h>

int wh_items_keep(struct wh_link *l, const struct wh_frame *f, const uint8_t *kinds, const int *fds,
                  const struct wh_cred *cred)
{
        uint64_t beside = 0, len;
        if (l->in.items.n || f->len < f->n_fds)
                return -EPROTO;
        for (unsigned i = 0; i < f->n_fds; i++) {
                if (kinds[i] < WH_ITEM_FD || kinds[i] >= WH_ITEM_KINDS)
                        return -EPROTO;
                if (kinds[i] == WH_ITEM_BESIDE) {
                        int r = wh_sealed_size(fds[i], WH_SEALS_IMMUTABLE, &len);
                        if (r < 0)
                                return r;
                        if (len > wh_stash_max(l) - beside)
                                return -EMSGSIZE;
                        beside += len;
                        wh_budget_mapped(l, len);
                        if ((r = wh_sealed_whole(fds[i], len)) < 0 && r != -EOPNOTSUPP)
                                return r;
                }
                if ((kinds[i] == WH_ITEM_SEND || kinds[i] == WH_ITEM_REPLY || kinds[i] == WH_ITEM_RECEIVE) &&
                    wh_frame_check_socket(fds[i]) < 0)
                        return -EPROTO;
                if (kinds[i] == WH_ITEM_MEMORY && i + 1 != f->n_fds)
                        return -EPROTO;
                if (kinds[i] != WH_ITEM_MEMORY && i >= WHARF_ITEMS_MAX)
                        return -EPROTO; /* more than any receiver has room for */
        }
        int r = l->end->hold(l, WH_SHARE_RIGHTS, f->n_fds);
        if (r < 0)
                return r;
        l->in.items.seq = f->seq;
        l->in.items.n = f->n_fds;
        l->in.items.own = cred->known && cred->uid == l->task->accounts.self;
        memcpy(l->in.items.kind, kinds, f->n_fds);
        memcpy(l->in.items.fd, fds, f->n_fds * sizeof *fds);
        return 0;
}

int wh_items_take_memory(struct wh_link *l)
{
        unsigned n = l->in.items.n;
        if (n == 0 || l->in.items.kind[n - 1] != WH_ITEM_MEMORY)
                return -1;
        l->in.items.n--;
        return l->in.items.fd[n - 1];
}

/* An end of a pair. */
static bool is_end(uint8_t kind)
{
        return kind == WH_ITEM_SEND || kind == WH_ITEM_REPLY || kind == WH_ITEM_RECEIVE;
}

void wh_items_done(struct wh_items *i)
{
        if (wh_unlikely(i->moving))
                i->undo(i);
        for (unsigned k = 0; k < i->n; k++)
                if (is_end(i->kind[k])) /* not shut down: of a message that was withdrawn it is its sender's again */
                        wh_os_close_end(i->fd[k], WH_END_SHARED);
                else
                        wh_os_close_theirs(i->fd[k]);
        i->n = 0;
}
