/*
 * journal - the memory that an entry's words are in, as long as the holder of our descriptors lives (J1, J2).
 */
#include "wharfd/store_impl.h"

#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#define JOURNAL_MAGIC 0x6c6e726a66726877u
#ifndef JOURNAL_VERSION /* proof/matrix/later.h */
#define JOURNAL_VERSION 2u
#endif
enum { RECORDS_MIN = 56, RECORDS_MAX = 1 << 20 };

static size_t journal_len(uint32_t records)
{
        return sizeof(struct journal) + (size_t)records * sizeof(struct record);
}

void wh_slot_free(struct wh_store *s, uint32_t slot)
{
        s->free_slots[s->n_free++] = slot;
}

static int slots_grow(struct wh_store *s, uint32_t records)
{
        if (records > RECORDS_MAX)
                return wh_trace(-ENOSPC);
        if (records > s->room_free) {
                uint32_t *more = wh_os_realloc(s->free_slots, records * sizeof *more);
                if (more)
                        s->free_slots = more;
                uint8_t *fds_of = more ? wh_os_realloc(s->fds_of, records) : NULL;
                if (!fds_of)
                        return wh_trace(-ENOMEM);
                s->fds_of = fds_of;
                memset(fds_of + s->room_free, 0, records - s->room_free);
                s->room_free = records;
        }
        return 0;
}

int wh_journal_grow(struct wh_store *s, uint32_t records)
{
        int r = slots_grow(s, records);
        if (r < 0)
                return r;
        size_t len = journal_len(records);
        void *map;
        r = wh_os_fallocate(s->fd, 0, 0, (off_t)len);
        if (r < 0)
                return wh_trace(r);
        r = s->j ? wh_os_mremap(s->j, s->len, len, MREMAP_MAYMOVE, &map)
                 : wh_os_mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0, &map);
        if (r < 0)
                return wh_trace(r);
        s->j = map;
        s->len = len;
        for (uint32_t i = records; i-- > s->n_records;)
                wh_slot_free(s, i);
        s->n_records = records;
        return 0;
}

int wh_journal_hold(struct wh_store *s)
{
        int r = s->held ? 0 : wh_store_say(s, "FDSTORE=1\nFDNAME=" JOURNAL_NAME, &s->fd, 1);
        if (r < 0)
                s->state.error = r;
        if (r < 0 && r != -ETOOMANYREFS && r != -ETIMEDOUT && r != -EAGAIN && r != -ENOBUFS)
                wh_store_holder_gone(s, r);
        s->held = r == 0;
        return r;
}

int wh_journal_new(struct wh_store *s)
{
        s->fd = wh_os_memfd(JOURNAL_NAME);
        if (s->fd < 0)
                return wh_trace(s->fd);
        wh_os_fd_private(s->fd);
        int r = wh_journal_grow(s, RECORDS_MIN);
        if (r < 0)
                return r;
        s->j->version = JOURNAL_VERSION;
        s->j->magic = JOURNAL_MAGIC;
        wh_journal_hold(s);
        return 0;
}

int wh_journal_old(struct wh_store *s, int fd)
{
        struct stat st;
        int r = wh_os_fstat(fd, &st);
        if (r < 0)
                return r;
        if (!S_ISREG(st.st_mode) || wh_os_get_seals(fd) < 0 || st.st_size < (off_t)journal_len(RECORDS_MIN) ||
            st.st_size > (off_t)journal_len(RECORDS_MAX))
                return wh_trace(-EPROTO);
        uint32_t records = (uint32_t)(((size_t)st.st_size - sizeof(struct journal)) / sizeof(struct record));
        r = slots_grow(s, records);
        void *map;
        if (r == 0)
                r = wh_os_mmap(NULL, journal_len(records), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0, &map);
        if (r < 0)
                return r;
        struct journal *j = map;
        if (j->magic != JOURNAL_MAGIC || j->version != JOURNAL_VERSION) {
                wh_os_munmap(map, journal_len(records));
                return wh_trace(-EPROTO);
        }
        s->j = j;
        s->len = journal_len(records);
        s->n_records = records;
        s->fd = fd;
        s->held = true;
        for (uint32_t i = records; i-- > 0;)
                /* [journal] Acquire, of what the wharfd before us stored. */
                if (!atomic_load_explicit(&j->record[i].used, memory_order_acquire))
                        wh_slot_free(s, i);
        return 0;
}
