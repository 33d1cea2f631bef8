/*
 * restore - taking up what the last wharfd left, from a list of descriptors or from a keeper's parts.
 */
#include "wharfd/store_impl.h"

#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

typedef int (*take_up)(void *arg, const struct wh_stored *e, uint32_t slot, int sock, int page);

static bool for_now(int r)
{
        return r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS;
}

static bool is_socket(int fd)
{
        struct stat st;
        return wh_os_fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

/* One entry, with what is held of it; takes the descriptors. 0, or why it cannot be taken up now. */
static int restore_one(struct wh_store *s, const char *name, int sock, int page, take_up fn, void *arg)
{
        uint32_t slot;
        bool known = wh_entry_of(s, name, &slot);
        if (!known || s->fds_of[slot] || sock < 0) {
                wh_os_close_theirs(sock);
                wh_os_close_theirs(page);
                if (!known) { /* J2: left over */
                        char text[WH_FD_NAME_MAX + 40];
                        snprintf(text, sizeof text, "FDSTOREREMOVE=1\nFDNAME=%s", name);
                        wh_store_say(s, text, NULL, 0);
                }
                return 0;
        }
        struct wh_stored e = s->j->record[slot].e;
        e.name[sizeof e.name - 1] = 0;
        s->fds_of[slot] = page < 0 ? 1 : 2;
        s->fds += s->fds_of[slot];
        int r = fn(arg, &e, slot, sock, page);
        if (for_now(r)) {
                s->fds -= s->fds_of[slot];
                s->fds_of[slot] = 0;
                return r;
        }
        if (r < 0)
                wh_store_remove(s, slot);
        return 0;
}

/* Both descriptors of an entry, wherever they stand in the list. */
static int restore_given(struct wh_store *s, struct wh_given *given, unsigned n, take_up fn, void *arg)
{
        struct pair {
                int sock, page;
        } *of = wh_os_malloc(s->n_records * sizeof *of);
        if (!of)
                return wh_trace(-ENOMEM);
        for (uint32_t i = 0; i < s->n_records; i++)
                of[i] = (struct pair){-1, -1};
        for (unsigned i = 0; i < n; i++) {
                uint32_t slot;
                uint64_t generation;
                if (given[i].fd < 0 || !wh_entry_parse(given[i].name, &slot, &generation))
                        continue;
                if (wh_entry_of(s, given[i].name, &slot)) {
                        int *to = is_socket(given[i].fd) ? &of[slot].sock : &of[slot].page;
                        if (*to < 0) {
                                *to = given[i].fd;
                                given[i].fd = -1;
                        }
                } else {
                        restore_one(s, given[i].name, -1, -1, fn, arg); /* the descriptor is closed with the others */
                }
        }
        for (uint32_t i = 0; i < s->n_records; i++) {
                char name[WH_FD_NAME_MAX];
                snprintf(name, sizeof name, ENTRY_NAME "%x-%llx", i, (unsigned long long)s->j->record[i].generation);
                if (of[i].sock >= 0 && restore_one(s, name, of[i].sock, of[i].page, fn, arg) == 0)
                        continue;
                if (of[i].sock < 0)
                        wh_os_close(of[i].page);
                else
                        s->fds_of[i] = ENTRY_FDS_MAX; /* not now: it is with the service manager, for the next wharfd */
        }
        free(of);
        return 0;
}

static int restore_part(struct wh_store *s, struct part *p, take_up fn, void *arg)
{
        unsigned f = 0;
        int r = 0;
        for (unsigned i = 0; i < p->n; i++) {
                int sock = -1, page = -1;
                uint32_t slot;
                uint64_t generation;
                for (unsigned k = 0; k < p->n_of[i]; k++, f++) {
                        int *to = r < 0 ? NULL : is_socket(p->fd[f]) ? &sock : &page;
                        if (to && *to < 0)
                                *to = p->fd[f];
                        else
                                wh_os_close_theirs(p->fd[f]);
                }
                if (r == 0 && wh_entry_parse(p->name[i], &slot, &generation))
                        r = restore_one(s, p->name[i], sock, page, fn, arg);
                else {
                        wh_os_close_theirs(sock);
                        wh_os_close_theirs(page);
                }
        }
        return r;
}

static int restore_kept(struct wh_store *s, take_up fn, void *arg)
{
        struct part *p = wh_os_calloc(1, sizeof *p);
        int r = p ? 0 : wh_trace(-ENOMEM);
        bool first = s->state.owed == 0;
        while (r == 0 && !s->whole) {
                r = first ? wh_part_ask_soon(s, s->from, NULL, p) : wh_part_ask(s, s->from, NULL, p);
                if (r == 0 && (r = restore_part(s, p, fn, arg)) == 0) {
                        s->from = p->next;
                        s->whole = p->next == 0;
                }
        }
        free(p);
        return s->whole ? 0 : r;
}

int wh_store_restore(struct wh_store *s, struct wh_given *given, unsigned n, take_up fn, void *arg)
{
        int r = 0;
        if (s->state.keeper)
                r = restore_kept(s, fn, arg);
        else if (given)
                r = restore_given(s, given, n, fn, arg);
        else
                return 0; /* tried again: what was given is closed by now, and with the service manager, for the next wharfd */
        s->state.owed = r;
        if (r < 0)
                return r;
        for (uint32_t i = 0; i < s->n_records; i++)
                /* [journal] Acquire: as in wh_entry_of(). */
                if (atomic_load_explicit(&s->j->record[i].used, memory_order_acquire) && !s->fds_of[i])
                        wh_store_remove(s, i); /* J1: half an entry */
        return 0;
}
