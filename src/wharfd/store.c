#include "wharfd/store.h"

#include "base/bits.h"
#include "base/trace.h"
#include "os/closer.h"
#include "os/os.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define JOURNAL_MAGIC 0x6c6e726a66726877u
#ifndef JOURNAL_VERSION /* proof/matrix/later.h */
#define JOURNAL_VERSION 2u
#endif
#define JOURNAL_NAME "wharf-journal"
#define ENTRY_NAME "w"                  /* SLOT "-" GENERATION; short, for a service manager lists them in one string */
#define HOLDER_NS ((int64_t)1000000000) /* for a holder that does not read: then an entry is not kept */
#define PATIENCE_NS ((int64_t)2000000000) /* while nothing is handed over; then the server begins with what it has */
#define AGAIN_NS ((int64_t)10000000)
enum {
        FIRST_FD = 3,
        RECORDS_MIN = 56,
        RECORDS_MAX = 1 << 20,
        RECORD_BYTES = 576,
        RESERVE = 32, /* of a keeper's descriptors: it has other uses for some, and knows itself when there are none */
        ENTRY_FDS_MAX = 2,
};

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

int wh_notify_open(bool *ret_keeper)
{
        long keeper;
        *ret_keeper = false;
        if (env_number("WHARFD_KEEPER", &keeper) && keeper <= INT32_MAX) {
                unsetenv("WHARFD_KEEPER");
                int fd = (int)keeper, r = wh_os_cloexec(fd);
                if (r == 0)
                        wh_os_fd_private(fd);
                *ret_keeper = r == 0;
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
        bool held;  /* ... which the holder has */
        struct journal *j;
        size_t len;
        uint32_t n_records;
        uint32_t *free_slots;
        uint8_t *fds_of; /* by slot: descriptors that are held for it, as far as we know; 0: none, or not seen yet */
        uint32_t n_free, room_free;
        uint64_t fds, fds_max;
        uint32_t from; /* where the keeper's handing over goes on */
        bool whole;    /* everything was handed over */
        struct wh_store_state state;
        void (*lost)(void *arg, uint32_t slot); /* while wh_store_hear() runs */
        void *lost_arg;
};

/* One part of what a keeper holds. */
struct part {
        uint32_t next;
        unsigned n, n_fds;
        char name[WH_HAND_FDS][WH_FD_NAME_MAX];
        uint8_t n_of[WH_HAND_FDS]; /* descriptors of each */
        int fd[WH_HAND_FDS];
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

/* Nobody holds anything for us any more (J4). */
static void holder_gone(struct wh_store *s, int why)
{
        wh_os_close(s->notify);
        s->notify = -1;
        s->whole = true;
        s->state.error = why;
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

/*
 * No entry is worth anything without it. ETOOMANYREFS: this user has too many descriptors on their way, whosever; that
 * passes, and before the next entry it is tried again.
 */
static int journal_hold(struct wh_store *s)
{
        int r = s->held ? 0 : notify_fds(s->notify, "FDSTORE=1\nFDNAME=" JOURNAL_NAME, &s->fd, 1);
        if (r < 0)
                s->state.error = r;
        if (r < 0 && r != -ETOOMANYREFS && r != -ETIMEDOUT)
                holder_gone(s, r);
        s->held = r == 0;
        return r;
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
        journal_hold(s);
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
                        slot_free(s, i);
        return 0;
}

/* ---- hearing a keeper ---- */

static void part_drop(struct part *p)
{
        for (unsigned i = 0; i < p->n_fds; i++)
                wh_os_close_theirs(p->fd[i]);
        p->n_fds = p->n = 0;
}

/* The lines "DESCRIPTORS NAME" below the first one. What does not agree with what came is no part. */
static int part_read(struct wh_store *s, const char *text, struct part *p)
{
        unsigned next, deaths, fails, fail, n = 0;
        if (sscanf(text, "WHARF_HANDED=%u %u %u %u", &next, &deaths, &fails, &fail) != 4)
                return wh_trace(-EPROTO);
        for (const char *line = strchr(text, '\n'); line; line = strchr(line + 1, '\n')) {
                unsigned of;
                if (p->n == WH_HAND_FDS || sscanf(line, "\n%u %63[^\n]", &of, p->name[p->n]) != 2 || of < 1 ||
                    of > ENTRY_FDS_MAX)
                        return wh_trace(-EPROTO);
                p->n_of[p->n++] = (uint8_t)of;
                n += of;
        }
        if (n != p->n_fds)
                return wh_trace(-EPROTO);
        p->next = next;
        s->state.deaths = deaths;
        s->state.fails = fails;
        s->state.fail = fail;
        return 0;
}

static bool entry_of(const struct wh_store *s, const char *name, uint32_t *ret);
static void slot_lost(struct wh_store *s, uint32_t slot);

static void unheld(struct wh_store *s, const char *text)
{
        char name[WH_FD_NAME_MAX];
        unsigned err;
        uint32_t slot;
        if (sscanf(text, "WHARF_UNHELD=%u %63[^\n]", &err, name) != 2)
                return;
        s->state.error = -(int)err;
        if (!s->j || !entry_of(s, name, &slot) || !s->fds_of[slot])
                return;
        slot_lost(s, slot);
        if (s->lost)
                s->lost(s->lost_arg, slot);
}

/* One message of the keeper's. 1: a part, in *ret; 0: another one; -EAGAIN: there is none; or why it is no part. */
static int keeper_hear(struct wh_store *s, struct part *ret)
{
        char text[WH_HAND_TEXT_MAX + 1];
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(WH_HAND_FDS * sizeof(int))];
        } control;
        struct iovec iov = {text, sizeof text - 1};
        struct msghdr m = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
        ssize_t r;
        do
                r = wh_os_recvmsg(s->notify, &m, 0);
        while (r == -EINTR);
        if (r == -EAGAIN)
                return -EAGAIN;
        if (r <= 0) {
                holder_gone(s, -EPIPE);
                return -EPIPE;
        }
        text[r] = 0;
        ret->n = ret->n_fds = 0;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
                if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
                        ret->n_fds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
                        memcpy(ret->fd, CMSG_DATA(c), ret->n_fds * sizeof(int));
                }
        for (unsigned i = 0; i < ret->n_fds; i++)
                wh_os_fd_private(ret->fd[i]);
        int out = 0;
        unsigned err;
        if (m.msg_flags & (MSG_CTRUNC | MSG_TRUNC))
                out = -EMFILE; /* J5: the keeper has them still */
        else if (!strncmp(text, "WHARF_HANDED=", 13))
                out = (out = part_read(s, text, ret)) < 0 ? out : 1;
        else if (sscanf(text, "WHARF_REFUSED=%u", &err) == 1)
                out = err && err < 4096 ? -(int)err : -EPROTO;
        else
                unheld(s, text);
        if (out != 1)
                part_drop(ret);
        return out;
}

/*
 * Ask for a part: from that place on, or what is held under that name. An answer to an earlier question may come first:
 * it holds what that one asked for, which does no harm, and goes on where that one would have.
 */
static int hand(struct wh_store *s, uint32_t from, const char *name, struct part *ret)
{
        char text[WH_FD_NAME_MAX + 40];
        snprintf(text, sizeof text, "WHARF_HAND=%u%s%s", from, name ? "\nFDNAME=" : "", name ? name : "");
        int r = notify_fds(s->notify, text, NULL, 0);
        int64_t give_up_ns = wh_os_now_ns() + HOLDER_NS;
        while (r == 0) {
                struct pollfd p = {.fd = s->notify, .events = POLLIN};
                r = keeper_hear(s, ret);
                if (r == -EAGAIN) {
                        if (wh_os_now_ns() >= give_up_ns)
                                return wh_trace(-ETIMEDOUT);
                        wh_os_poll(&p, 1, give_up_ns);
                        r = 0;
                }
        }
        return r < 0 ? wh_trace(r) : 0;
}

/* The same, patiently. */
static int hand_soon(struct wh_store *s, uint32_t from, const char *name, struct part *ret)
{
        int64_t give_up_ns = wh_os_now_ns() + PATIENCE_NS;
        int r;
        while ((r = hand(s, from, name, ret)) < 0 && s->notify >= 0 && wh_os_now_ns() < give_up_ns)
                wh_os_poll(NULL, 0, wh_os_now_ns() + AGAIN_NS);
        return r;
}

/* The journal that our keeper holds. -ENOENT: none. */
static int journal_ask(struct wh_store *s)
{
        struct part *p = wh_os_calloc(1, sizeof *p);
        if (!p)
                return wh_trace(-ENOMEM);
        int r = hand_soon(s, 0, JOURNAL_NAME, p);
        if (r == 0 && p->n == 0)
                r = -ENOENT;
        if (r == 0 && (r = journal_old(s, p->fd[0])) == 0)
                p->fd[0] = -1;
        part_drop(p);
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
        return env_number("FDSTORE", &stored) && stored > 0 ? (uint64_t)stored : UINT64_MAX;
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
                if (r < 0 && (r = journal_old(s, given[i].fd)) == 0)
                        given[i].fd = -1;
        }
        if (r == -EPROTO) /* what we cannot read is of no use to anybody */
                notify_fds(s->notify, "FDSTOREREMOVE=1\nFDNAME=" JOURNAL_NAME, NULL, 0);
        if (r == -EPROTO || r == -ENOENT || r == -EPIPE)
                r = journal_new(s);
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

/* ---- entries ---- */

static void entry_text(char *buf, size_t cap, const char *what, uint32_t slot, uint64_t generation)
{
        snprintf(buf, cap, "%s=1\nFDNAME=" ENTRY_NAME "%x-%llx", what, slot, (unsigned long long)generation);
}

/* Its record, and what we count of it, are free. */
static void slot_lost(struct wh_store *s, uint32_t slot)
{
        /* [journal] Release: as in wh_store_put(). */
        atomic_store_explicit(&s->j->record[slot].used, 0, memory_order_release);
        s->fds -= s->fds_of[slot];
        s->fds_of[slot] = 0;
        slot_free(s, slot);
}

bool wh_store_has_room(const struct wh_store *s)
{
        return s && s->notify >= 0 && s->fds < s->fds_max;
}

static uint32_t not_kept(struct wh_store *s, int why)
{
        s->state.error = why;
        return WH_STORE_NONE;
}

uint32_t wh_store_put(struct wh_store *s, const struct wh_stored *e, int sock, int page)
{
        if (!s || s->notify < 0)
                return WH_STORE_NONE;
        if (!wh_store_has_room(s))
                return not_kept(s, wh_trace(-EMFILE));
        if (s->fds + 2 > s->fds_max / 2)
                page = -1; /* J6 */
        int r = journal_hold(s);
        if (r == 0 && !s->n_free)
                r = journal_grow(s, s->n_records * 2);
        if (r < 0)
                return not_kept(s, r);
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
        r = notify_fds(s->notify, text, (int[]){sock, page}, s->fds_of[slot]);
        if (r == 0)
                return slot;
        slot_lost(s, slot);
        if (r == -EPIPE || r == -ECONNRESET || r == -ENOTCONN || r == -ECONNREFUSED)
                holder_gone(s, r);
        return not_kept(s, r);
}

void wh_store_remove(struct wh_store *s, uint32_t slot)
{
        if (!s || slot == WH_STORE_NONE)
                return;
        char text[128];
        entry_text(text, sizeof text, "FDSTOREREMOVE", slot, s->j->record[slot].generation);
        if (s->notify >= 0)
                notify_fds(s->notify, text, NULL, 0);
        slot_lost(s, slot);
}

static bool is_socket(int fd)
{
        struct stat st;
        return wh_os_fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

/* "wSLOT-GENERATION", as entry_text() writes it. */
static bool is_entry(const char *name, uint32_t *ret_slot, uint64_t *ret_generation)
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

/* The slot of a record that is used, and that these descriptors belong to (J2). */
static bool entry_of(const struct wh_store *s, const char *name, uint32_t *ret)
{
        uint64_t generation;
        if (!is_entry(name, ret, &generation) || *ret >= s->n_records)
                return false;
        const struct record *rec = &s->j->record[*ret];
        /* [journal] Acquire, of what the wharfd before us stored. */
        return atomic_load_explicit(&rec->used, memory_order_acquire) && rec->generation == generation;
}

/* ---- taking up what was left ---- */

typedef int (*take_up)(void *arg, const struct wh_stored *e, uint32_t slot, int sock, int page);

static bool for_now(int r)
{
        return r == -EMFILE || r == -ENFILE || r == -ENOMEM || r == -ENOBUFS;
}

/* One entry, with what is held of it; takes the descriptors. 0, or why it cannot be taken up now. */
static int restore_one(struct wh_store *s, const char *name, int sock, int page, take_up fn, void *arg)
{
        uint32_t slot;
        bool known = entry_of(s, name, &slot);
        if (!known || s->fds_of[slot] || sock < 0) {
                wh_os_close_theirs(sock);
                wh_os_close_theirs(page);
                if (!known) { /* J2: left over */
                        char text[WH_FD_NAME_MAX + 40];
                        snprintf(text, sizeof text, "FDSTOREREMOVE=1\nFDNAME=%s", name);
                        wh_notify(s->notify, text);
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
static void restore_given(struct wh_store *s, struct wh_given *given, unsigned n, take_up fn, void *arg)
{
        struct pair {
                int sock, page;
        } *of = wh_os_malloc(s->n_records * sizeof *of);
        for (uint32_t i = 0; of && i < s->n_records; i++)
                of[i] = (struct pair){-1, -1};
        for (unsigned i = 0; i < n; i++) {
                uint32_t slot;
                uint64_t generation;
                if (given[i].fd < 0 || !is_entry(given[i].name, &slot, &generation))
                        continue;
                if (of && entry_of(s, given[i].name, &slot)) {
                        int *to = is_socket(given[i].fd) ? &of[slot].sock : &of[slot].page;
                        if (*to < 0) {
                                *to = given[i].fd;
                                given[i].fd = -1;
                        }
                } else if (of) {
                        restore_one(s, given[i].name, -1, -1, fn, arg); /* the descriptor is closed with the others */
                }
        }
        for (uint32_t i = 0; of && i < s->n_records; i++) {
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
                if (r == 0 && is_entry(p->name[i], &slot, &generation))
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
                r = first ? hand_soon(s, s->from, NULL, p) : hand(s, s->from, NULL, p);
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
        else
                restore_given(s, given, n, fn, arg);
        s->state.owed = r;
        if (r < 0)
                return r;
        for (uint32_t i = 0; i < s->n_records; i++)
                /* [journal] Acquire: as in entry_of(). */
                if (atomic_load_explicit(&s->j->record[i].used, memory_order_acquire) && !s->fds_of[i])
                        wh_store_remove(s, i); /* J1: half an entry */
        return 0;
}

int wh_store_fd(const struct wh_store *s)
{
        return s && s->state.keeper ? s->notify : -1;
}

void wh_store_hear(struct wh_store *s, void (*lost)(void *arg, uint32_t slot), void *arg)
{
        struct part *p = wh_os_calloc(1, sizeof *p);
        s->lost = lost;
        s->lost_arg = arg;
        int r = p ? 0 : -ENOMEM;
        while (r >= 0 && s->notify >= 0) {
                r = keeper_hear(s, p);
                if (r == 1)
                        part_drop(p); /* an answer that was not waited for any more */
                if (r < 0 && r != -EAGAIN && r != -EPIPE)
                        r = 0;
        }
        s->lost = NULL;
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
