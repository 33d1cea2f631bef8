#include "service/store.h"

#include "base/bits.h"
#include "base/trace.h"
#include "os/os.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JOURNAL_MAGIC 0x6c6e726a66726877u
#ifndef JOURNAL_VERSION /* proof/matrix/later.h */
#define JOURNAL_VERSION 1u
#endif
#define JOURNAL_NAME "wharf-journal"
#define ENTRY_NAME "w-"                 /* SLOT "-" GENERATION; short, for a list of them may be long */
#define HOLDER_NS ((int64_t)1000000000) /* for a holder that does not read: then an entry is not kept */
enum { FIRST_FD = 3, RECORDS_MIN = 56, RECORD_BYTES = 576 };

/* ---- what was given ---- */

static void drop_env(void)
{
        unsetenv("LISTEN_PID");
        unsetenv("LISTEN_FDS");
        unsetenv("LISTEN_FDNAMES");
}

/* A decimal number that is the whole text. */
static bool env_number(const char *name, long *ret)
{
        const char *text = getenv(name);
        char *end;
        errno = 0;
        long v = text ? strtol(text, &end, 10) : 0;
        if (!text || !*text || *end || errno || v < 0)
                return false;
        *ret = v;
        return true;
}

int wh_given_take(struct wh_given **ret, unsigned *ret_n)
{
        long pid, n;
        *ret = NULL;
        *ret_n = 0;
        if (!env_number("LISTEN_PID", &pid) || pid != wh_os_getpid() || !env_number("LISTEN_FDS", &n) || n == 0 ||
            n > INT32_MAX - FIRST_FD)
                return 0;
        struct wh_given *g = wh_os_calloc((size_t)n, sizeof *g);
        if (!g)
                return wh_trace(-ENOMEM);
        const char *names = getenv("LISTEN_FDNAMES");
        for (long i = 0; i < n; i++) {
                g[i].fd = FIRST_FD + (int)i;
                size_t len = names ? strcspn(names, ":") : 0;
                if (len < WH_FD_NAME_MAX && names)
                        memcpy(g[i].name, names, len); /* a longer one is nobody's that we know */
                if (names)
                        names = names[len] ? names + len + 1 : NULL;
                int r = wh_os_cloexec(g[i].fd);
                if (r < 0) {
                        free(g);
                        return wh_trace(r); /* there is no such descriptor: whoever started us has miscounted */
                }
                wh_os_fd_private(g[i].fd);
        }
        drop_env();
        *ret = g;
        *ret_n = (unsigned)n;
        return 0;
}

void wh_given_done(struct wh_given *given, unsigned n)
{
        for (unsigned i = 0; i < n; i++)
                wh_os_close(given[i].fd);
        free(given);
}

/* ---- talking to whoever holds ---- */

int wh_notify_open(void)
{
        long keeper;
        if (env_number("WHARFD_KEEPER", &keeper) && keeper <= INT32_MAX) {
                unsetenv("WHARFD_KEEPER");
                int fd = (int)keeper, r = wh_os_cloexec(fd);
                if (r == 0)
                        wh_os_fd_private(fd);
                return r < 0 ? -1 : fd;
        }
        const char *path = getenv("NOTIFY_SOCKET");
        if (!path || (*path != '/' && *path != '@'))
                return -1;
        /* What is sent there are rights of others: to nobody but root and this user, whoever has set the variable. */
        struct stat st;
        int at = *path == '/' ? wh_os_open(path, O_PATH, 0) : -1;
        if (*path == '/' && (at < 0 || wh_os_fstat(at, &st) < 0 || (st.st_uid != 0 && st.st_uid != wh_os_geteuid()))) {
                wh_os_close(at);
                return -1;
        }
        char self[40];
        int fd = wh_os_socket_unix(SOCK_DGRAM);
        snprintf(self, sizeof self, "/proc/self/fd/%d", at);
        int r = fd < 0 ? fd : wh_os_connect_unix(fd, at < 0 ? path : self);
        if (r == -ENOENT && at >= 0) /* without /proc, by its path */
                r = wh_os_connect_unix(fd, path);
        wh_os_close(at);
        if (fd >= 0 && r < 0) {
                wh_os_close(fd);
                fd = -1;
        }
        if (fd >= 0)
                wh_os_fd_private(fd);
        unsetenv("NOTIFY_SOCKET");
        return fd < 0 ? -1 : fd;
}

static int notify_fds(int sock, const char *text, const int *fds, unsigned n)
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(2 * sizeof(int))];
        } control;
        struct iovec iov = {(void *)(uintptr_t)text, strlen(text)};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
        if (n) {
                memset(&control, 0, sizeof control);
                control.align = (struct cmsghdr){
                        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(n * sizeof(int))};
                memcpy(CMSG_DATA(&control.align), fds, n * sizeof(int));
                m.msg_control = control.space;
                m.msg_controllen = CMSG_SPACE(n * sizeof(int));
        }
        int64_t give_up_ns = wh_os_now_ns() + HOLDER_NS;
        for (;;) {
                ssize_t r = wh_os_sendmsg(sock, &m, 0);
                if (r >= 0)
                        return 0;
                if (r == -EINTR)
                        continue;
                if (r != -EAGAIN && r != -ENOBUFS)
                        return (int)r;
                struct pollfd p = {.fd = sock, .events = POLLOUT};
                if (wh_os_now_ns() >= give_up_ns)
                        return -ETIMEDOUT;
                wh_os_poll(&p, 1, give_up_ns);
        }
}

void wh_notify(int fd, const char *text)
{
        if (fd >= 0)
                notify_fds(fd, text, NULL, 0);
}

int wh_notify_keep(int fd, const char *name, int what)
{
        char text[WH_FD_NAME_MAX + 32];
        snprintf(text, sizeof text, "FDSTORE=1\nFDNAME=%s", name);
        return fd < 0 ? -EBADF : notify_fds(fd, text, &what, 1);
}

/* ---- the journal ---- */

struct record {
        _Atomic uint32_t used; /* stored last: what is below it is whole (J1) */
        uint32_t zero;
        uint64_t generation;
        struct wh_stored e;
        uint8_t pad[RECORD_BYTES - 16 - sizeof(struct wh_stored)];
};
static_assert(sizeof(struct record) == RECORD_BYTES, "written by one wharfd and read by the next");

struct journal {
        uint64_t magic;
        uint64_t version;
        uint64_t generation; /* the last one that was used */
        uint8_t pad[RECORD_BYTES - 24];
        struct record record[];
};
static_assert(sizeof(struct journal) == RECORD_BYTES, "written by one wharfd and read by the next");

struct wh_store {
        int notify; /* -1: nobody holds anything for us any more (J4) */
        int fd;     /* the journal */
        struct journal *j;
        size_t len;
        uint32_t n_records;
        uint32_t *free_slots;
        uint32_t n_free, room_free;
};

static size_t journal_len(uint32_t records)
{
        return sizeof(struct journal) + (size_t)records * sizeof(struct record);
}

static void slot_free(struct wh_store *s, uint32_t slot)
{
        s->free_slots[s->n_free++] = slot;
}

static int slots_grow(struct wh_store *s, uint32_t records)
{
        if (records > s->room_free) {
                uint32_t *more = wh_os_realloc(s->free_slots, records * sizeof *more);
                if (!more)
                        return wh_trace(-ENOMEM);
                s->free_slots = more;
                s->room_free = records;
        }
        return 0;
}

/* The blocks are reserved, so that writing a record cannot fail. */
static int journal_grow(struct wh_store *s, uint32_t records)
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
                slot_free(s, i);
        s->n_records = records;
        return 0;
}

static int journal_new(struct wh_store *s)
{
        s->fd = wh_os_memfd(JOURNAL_NAME);
        if (s->fd < 0)
                return wh_trace(s->fd);
        wh_os_fd_private(s->fd);
        int r = journal_grow(s, RECORDS_MIN);
        if (r < 0)
                return r;
        s->j->version = JOURNAL_VERSION;
        s->j->magic = JOURNAL_MAGIC;
        if (notify_fds(s->notify, "FDSTORE=1\nFDNAME=" JOURNAL_NAME, &s->fd, 1) < 0)
                s->notify = -1;
        return 0;
}

/* The journal of the wharfd before us. -EPROTO: of another version of it, perhaps. */
static int journal_old(struct wh_store *s, int fd)
{
        struct stat st;
        int r = wh_os_fstat(fd, &st);
        if (r < 0)
                return r;
        if (!S_ISREG(st.st_mode) || wh_os_get_seals(fd) < 0 || st.st_size < (off_t)journal_len(RECORDS_MIN) ||
            st.st_size > (off_t)journal_len(1 << 20))
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
        return 0;
}

int wh_store_open(int notify_fd, struct wh_given *given, unsigned n, struct wh_store **ret)
{
        struct wh_store *s = wh_os_calloc(1, sizeof *s);
        if (!s) {
                wh_os_close(notify_fd);
                return wh_trace(-ENOMEM);
        }
        s->notify = notify_fd;
        s->fd = -1;
        int r = -ENOENT;
        for (unsigned i = 0; i < n; i++) {
                if (given[i].fd < 0 || strcmp(given[i].name, JOURNAL_NAME))
                        continue;
                if (r < 0 && (r = journal_old(s, given[i].fd)) == 0)
                        given[i].fd = -1;
        }
        if (r < 0 && r != -ENOMEM) {
                if (r != -ENOENT) /* what we cannot read is of no use to anybody */
                        notify_fds(s->notify, "FDSTOREREMOVE=1\nFDNAME=" JOURNAL_NAME, NULL, 0);
                r = journal_new(s);
        }
        if (r < 0) {
                wh_store_free(s);
                return r;
        }
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
        free(s);
        return NULL;
}

/* ---- entries ---- */

static void entry_text(char *buf, size_t cap, const char *what, uint32_t slot, uint64_t generation)
{
        snprintf(buf, cap, "%s=1\nFDNAME=" ENTRY_NAME "%u-%llu", what, slot, (unsigned long long)generation);
}

uint32_t wh_store_put(struct wh_store *s, const struct wh_stored *e, int sock, int page)
{
        if (!s || s->notify < 0)
                return WH_STORE_NONE;
        if (!s->n_free && journal_grow(s, s->n_records * 2) < 0)
                return WH_STORE_NONE;
        uint32_t slot = s->free_slots[--s->n_free];
        struct record *rec = &s->j->record[slot];
        s->j->generation++; /* J2: before it is used */
        rec->generation = s->j->generation;
        rec->e = *e;
        /* The next wharfd reads it after our death, which orders everything; release keeps the compiler's hands off. */
        atomic_store_explicit(&rec->used, 1, memory_order_release);
        char text[128];
        entry_text(text, sizeof text, "FDSTORE", slot, rec->generation);
        int r = notify_fds(s->notify, text, (int[]){sock, page}, page < 0 ? 1 : 2);
        if (r == 0)
                return slot;
        atomic_store_explicit(&rec->used, 0, memory_order_release);
        slot_free(s, slot);
        if (r == -EPIPE || r == -ECONNRESET || r == -ENOTCONN || r == -ECONNREFUSED) {
                wh_os_close(s->notify); /* the holder is dead (J4) */
                s->notify = -1;
        }
        return WH_STORE_NONE;
}

void wh_store_remove(struct wh_store *s, uint32_t slot)
{
        if (!s || slot == WH_STORE_NONE)
                return;
        struct record *rec = &s->j->record[slot];
        char text[128];
        entry_text(text, sizeof text, "FDSTOREREMOVE", slot, rec->generation);
        if (s->notify >= 0)
                notify_fds(s->notify, text, NULL, 0);
        atomic_store_explicit(&rec->used, 0, memory_order_release);
        slot_free(s, slot);
}

static bool is_socket(int fd)
{
        struct stat st;
        return wh_os_fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

/* "w-SLOT-GENERATION" of a record that is used. */
static bool entry_of(const struct wh_store *s, const char *name, uint32_t *ret)
{
        unsigned slot;
        unsigned long long generation;
        int end = 0;
        if (sscanf(name, ENTRY_NAME "%u-%llu%n", &slot, &generation, &end) != 2 || name[end] || slot >= s->n_records)
                return false;
        const struct record *rec = &s->j->record[slot];
        *ret = slot;
        return atomic_load_explicit(&rec->used, memory_order_acquire) && rec->generation == generation;
}

void wh_store_restore(struct wh_store *s, struct wh_given *given, unsigned n,
                      bool (*fn)(void *arg, const struct wh_stored *e, uint32_t slot, int sock, int page), void *arg)
{
        /* Which descriptors belong to which record. */
        struct pair {
                int sock, page;
        } *of = wh_os_malloc(s->n_records * sizeof *of);
        for (uint32_t i = 0; of && i < s->n_records; i++)
                of[i] = (struct pair){-1, -1};
        for (unsigned i = 0; i < n; i++) {
                uint32_t slot;
                if (given[i].fd < 0 || strncmp(given[i].name, ENTRY_NAME, strlen(ENTRY_NAME)))
                        continue;
                bool known = of && entry_of(s, given[i].name, &slot);
                int *to = !known ? NULL : is_socket(given[i].fd) ? &of[slot].sock : &of[slot].page;
                if (to && *to < 0) {
                        *to = given[i].fd;
                        given[i].fd = -1;
                } else if (!known) {
                        char text[160]; /* J2: left over; the descriptor itself is closed with all that nobody took */
                        snprintf(text, sizeof text, "FDSTOREREMOVE=1\nFDNAME=%s", given[i].name);
                        wh_notify(s->notify, text);
                }
        }
        s->n_free = 0;
        for (uint32_t i = s->n_records; i-- > 0;) {
                struct record *rec = &s->j->record[i];
                bool used = atomic_load_explicit(&rec->used, memory_order_acquire) != 0, goes_on = false;
                struct pair p = of ? of[i] : (struct pair){-1, -1};
                struct wh_stored e = rec->e;
                e.name[sizeof e.name - 1] = 0;
                if (used && p.sock >= 0)
                        goes_on = fn(arg, &e, i, p.sock, p.page);
                else
                        wh_os_close(p.page);
                if (goes_on)
                        continue;
                if (used) {
                        wh_store_remove(s, i);
                } else {
                        slot_free(s, i);
                }
        }
        free(of);
}
