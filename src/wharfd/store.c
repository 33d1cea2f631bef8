#include "wharfd/store_impl.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { RESERVE = 32 }; /* of a keeper's descriptors: it has other uses for some, and knows itself when there are none */

void wh_store_holder_gone(struct wh_store *s, int why)
{
        wh_os_close(s->notify);
        s->notify = -1;
        s->whole = true;
        s->state.error = why;
}

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* The journal that our keeper holds. -ENOENT: none. */
static int journal_ask(struct wh_store *s)
{
        struct part *p = wh_os_calloc(1, sizeof *p);
        if (!p)
                return wh_trace(-ENOMEM);
        int r = wh_part_ask_soon(s, 0, JOURNAL_NAME, p);
        if (r == 0 && p->n == 0)
                r = -ENOENT;
        if (r == 0 && (r = wh_journal_old(s, p->fd[0])) == 0)
                p->fd[0] = -1;
        wh_part_drop(p);
        free(p);
        return r;
}

/* How many descriptors the holder has room for. */
static uint64_t holder_room(bool keeper)
{
        uint64_t limit;
        long stored;
        if (keeper)
                return wh_os_rlimit(RLIMIT_NOFILE, &limit) < 0 ? UINT64_MAX : limit > RESERVE ? limit - RESERVE : 0;
        return wh_given_number("FDSTORE", &stored) && stored > 0 ? (uint64_t)stored : UINT64_MAX;
}

int wh_store_open(int notify_fd, bool keeper, struct wh_given *given, unsigned n, struct wh_store **ret)
{
        struct wh_store *s = wh_os_calloc(1, sizeof *s);
        if (!s) {
                wh_os_close(notify_fd);
                return wh_trace(-ENOMEM);
        }
        s->notify = notify_fd;
        s->fd = -1;
        s->state.keeper = keeper;
        s->fds_max = holder_room(keeper);
        int r = keeper ? journal_ask(s) : -ENOENT;
        for (unsigned i = 0; i < n && !keeper; i++) {
                if (given[i].fd < 0 || strcmp(given[i].name, JOURNAL_NAME))
                        continue;
                if (r < 0 && (r = wh_journal_old(s, given[i].fd)) == 0)
                        given[i].fd = -1;
        }
        if (r == -EPROTO) /* what we cannot read is of no use to anybody */
                wh_notify_send(s->notify, "FDSTOREREMOVE=1\nFDNAME=" JOURNAL_NAME, NULL, 0);
        if (r == -EPROTO || r == -ENOENT || r == -EPIPE)
                r = wh_journal_new(s);
        if (r < 0) {
                wh_store_free(s);
                return r;
        }
        s->fds = 1;
        *ret = s;
        return 0;
}

struct wh_store *wh_store_free(struct wh_store *s)
{
        if (!s)
                return NULL;
        if (s->j)
                wh_os_munmap(s->j, s->len);
        wh_os_close(s->fd);
        wh_os_close(s->notify);
        free(s->free_slots);
        free(s->fds_of);
        free(s);
        return NULL;
}

static void entry_text(char *buf, size_t cap, const char *what, uint32_t slot, uint64_t generation)
{
        snprintf(buf, cap, "%s=1\nFDNAME=" ENTRY_NAME "%x-%llx", what, slot, (unsigned long long)generation);
}

int wh_store_say(struct wh_store *s, const char *text, const int *fds, unsigned n)
{
        return s->state.keeper ? wh_notify_send(s->notify, text, fds, n) : wh_notify_try(s->notify, text, fds, n);
}

void wh_store_lost_to(struct wh_store *s, void (*lost)(void *arg, uint32_t slot, unsigned fds), void *arg)
{
        if (s) {
                s->lost = lost;
                s->lost_arg = arg;
        }
}

uint64_t wh_store_fds_max(const struct wh_store *s)
{
        return s ? s->fds_max : 0;
}

unsigned wh_store_fds_of(const struct wh_store *s, uint32_t slot)
{
        return s && slot != WH_STORE_NONE ? s->fds_of[slot] & ~(unsigned)ENTRY_OVER : 0;
}

bool wh_store_owes(const struct wh_store *s, const char *name, const struct wh_cookie *cookie)
{
        for (uint32_t i = 0; s && i < s->n_records; i++) {
                if (s->fds_of[i]) /* it was taken up, or is of this wharfd */
                        continue;
                const struct record *rec = &s->j->record[i];
                /* [journal] Acquire: as in wh_entry_of(). */
                if (atomic_load_explicit(&rec->used, memory_order_acquire) && rec->e.kind == WH_STORED_NAME &&
                    !strncmp(rec->e.name, name, sizeof rec->e.name) && memcmp(&rec->e.cookie, cookie, sizeof *cookie))
                        return true;
        }
        return false;
}

void wh_slot_lost(struct wh_store *s, uint32_t slot)
{
        if (!s->fds_of[slot] && !atomic_load_explicit(&s->j->record[slot].used, memory_order_relaxed))
                return; /* it is free */
        /* [journal] Release: as in wh_store_put(). */
        atomic_store_explicit(&s->j->record[slot].used, 0, memory_order_release);
        s->fds -= wh_store_fds_of(s, slot);
        s->fds_of[slot] = 0;
        wh_slot_free(s, slot);
}

bool wh_store_has_room(const struct wh_store *s)
{
        return s && s->notify >= 0 && s->fds < s->fds_max;
}

uint32_t wh_store_not_kept(struct wh_store *s, int why)
{
        s->state.error = why;
        return WH_STORE_NONE;
}

uint32_t wh_store_put(struct wh_store *s, const struct wh_stored *e, int sock, int page)
{
        if (!s || s->notify < 0)
                return WH_STORE_NONE;
        if (!wh_store_has_room(s))
                return wh_store_not_kept(s, wh_trace(-EMFILE));
        if (s->fds + 2 > s->fds_max / 2)
                page = -1; /* J6 */
        int r = wh_journal_hold(s);
        if (r == 0 && !s->n_free)
                r = wh_journal_grow(s, s->n_records * 2);
        if (r < 0)
                return wh_store_not_kept(s, r);
        uint32_t slot = s->free_slots[--s->n_free];
        struct record *rec = &s->j->record[slot];
        s->j->generation++; /* J2: before it is used */
        rec->generation = s->j->generation;
        rec->e = *e;
        /*
         * [journal] The next wharfd reads it after our death, which orders all; release keeps the compiler's hands off.
         */
        atomic_store_explicit(&rec->used, 1, memory_order_release);
        char text[128];
        s->fds_of[slot] = page < 0 ? 1 : 2;
        s->fds += s->fds_of[slot];
        entry_text(text, sizeof text, "FDSTORE", slot, rec->generation);
        r = wh_store_say(s, text, (int[]){sock, page}, s->fds_of[slot]);
        if (r == 0)
                return slot;
        wh_slot_lost(s, slot);
        if (r == -EPIPE || r == -ECONNRESET || r == -ENOTCONN || r == -ECONNREFUSED)
                wh_store_holder_gone(s, r);
        return wh_store_not_kept(s, r);
}

void wh_store_remove(struct wh_store *s, uint32_t slot)
{
        if (!s || slot == WH_STORE_NONE)
                return;
        char text[128];
        entry_text(text, sizeof text, "FDSTOREREMOVE", slot, s->j->record[slot].generation);
        const int r = s->notify >= 0 ? wh_store_say(s, text, NULL, 0) : 0;
        const bool was_over = s->fds_of[slot] & ENTRY_OVER, later = r == -EAGAIN || r == -ENOBUFS;
        s->n_taking += (uint32_t)later - (uint32_t)was_over;
        if (!later) {
                wh_slot_lost(s, slot);
                return;
        }
        /* [journal] Release: as in wh_store_put(). Whoever comes after us knows it for left over (J2). */
        atomic_store_explicit(&s->j->record[slot].used, 0, memory_order_release);
        s->fds_of[slot] |= ENTRY_OVER;
}

bool wh_store_takes(const struct wh_store *s)
{
        return s && s->n_taking && s->notify >= 0;
}

bool wh_store_take_again(struct wh_store *s)
{
        for (uint32_t i = 0; s && s->n_taking && i < s->n_records; i++) {
                if (!(s->fds_of[i] & ENTRY_OVER))
                        continue;
                wh_store_remove(s, i);
                if (s->fds_of[i] & ENTRY_OVER)
                        return true;
        }
        return false;
}

bool wh_entry_parse(const char *name, uint32_t *ret_slot, uint64_t *ret_generation)
{
        unsigned slot;
        unsigned long long generation;
        int end = 0;
        if (sscanf(name, ENTRY_NAME "%x-%llx%n", &slot, &generation, &end) != 2 || name[end])
                return false;
        *ret_slot = slot;
        *ret_generation = generation;
        return true;
}

bool wh_entry_of(const struct wh_store *s, const char *name, uint32_t *ret)
{
        uint64_t generation;
        if (!wh_entry_parse(name, ret, &generation) || *ret >= s->n_records)
                return false;
        const struct record *rec = &s->j->record[*ret];
        /* [journal] Acquire, of what the wharfd before us stored. */
        return atomic_load_explicit(&rec->used, memory_order_acquire) && rec->generation == generation;
}

int wh_store_fd(const struct wh_store *s)
{
        return s && s->state.keeper ? s->notify : -1;
}

void wh_store_hear(struct wh_store *s)
{
        struct part *p = wh_os_calloc(1, sizeof *p);
        int r = p ? 0 : -ENOMEM;
        while (r >= 0 && s->notify >= 0) {
                r = wh_part_hear(s, p);
                if (r == 1)
                        wh_part_drop(p); /* an answer that was not waited for any more */
                if (r < 0 && r != -EAGAIN && r != -EPIPE)
                        r = 0;
        }
        free(p);
}

struct wh_store_state wh_store_state(const struct wh_store *s)
{
        struct wh_store_state st = {.held = false};
        if (s) {
                st = s->state;
                st.held = s->notify >= 0;
        }
        return st;
}
