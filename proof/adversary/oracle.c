#include "oracle.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct board *board;
struct outside *outside;
bool oracle_same_user;

static const char *const names[PARTIES] = {"v", "r", "the caller"};

void oracle_broken(const char *kind, const char *fmt, ...)
{
        uint32_t n = atomic_fetch_add(&board->n_violations, 1);
        if (n >= VIOLATIONS_MAX)
                return;
        struct violation *v = &board->violation[n];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(v->text, sizeof v->text, fmt, ap);
        va_end(ap);
        snprintf(v->kind, sizeof v->kind, "%s", kind);
}

void states_add(struct states *s, uint64_t hash)
{
        hash |= 1; /* 0 is an empty place */
        for (uint64_t i = 0; i < 64; i++) {
                _Atomic uint64_t *at = &s->hash[(hash + i * 0x9e3779b97f4a7c15u) >> 7 & (STATES_MAX - 1)];
                uint64_t was = 0;
                if (atomic_compare_exchange_strong(at, &was, hash)) {
                        atomic_fetch_add(&s->n, 1);
                        return;
                }
                if (was == hash)
                        return;
        }
}

/* ---- who said what ---- */

static uint64_t said_hash(uint32_t id, const void *bytes, size_t len)
{
        return program_hash(id, bytes, len);
}

void oracle_says(enum party who, enum said what, uint32_t id, const void *bytes, size_t len)
{
        uint32_t n = atomic_fetch_add(&board->n_said, 1);
        if (n >= SAID_MAX)
                return;
        atomic_store(&board->said[n].who, 0); /* of an earlier case */
        atomic_store(&board->said[n].hash, said_hash(id, bytes, len));
        atomic_store(&board->said[n].who, who | (uint32_t)what << 8);
}

void oracle_introduces(enum party who)
{
        atomic_store(&board->introduces[who], 1);
}

/* How it said that: the best for it, if in several ways. 0 if never. */
static enum said what_it_said(enum party who, uint32_t id, const void *bytes, size_t len)
{
        const uint64_t hash = said_hash(id, bytes, len);
        uint32_t n = atomic_load(&board->n_said);
        enum said found = 0;
        if (n > SAID_MAX)
                return SAID_MESSAGE; /* not all was written down: nothing is known */
        while (n--) {
                if (atomic_load(&board->said[n].hash) != hash)
                        continue;
                uint32_t w = atomic_load(&board->said[n].who);
                if ((w & 255) != who)
                        continue;
                if (w >> 8 == SAID_MESSAGE)
                        return SAID_MESSAGE;
                if (!found || w >> 8 == SAID_DEPUTY)
                        found = (enum said)(w >> 8);
        }
        return found;
}

/* Where it has more processes than are written down, nobody is known not to be one. */
static bool is_adversary(pid_t pid)
{
        uint32_t n = atomic_load(&outside->n_pids);
        if (n >= ADVERSARY_PIDS)
                return true;
        for (uint32_t i = 0; i < n && i < ADVERSARY_PIDS; i++)
                if (atomic_load(&outside->pid[i]) == pid)
                        return true;
        return false;
}

static void told_of_party(enum party to, enum party p, const struct told *by, uint32_t id, const void *bytes,
                          size_t len)
{
        const int shown = len < 40 ? (int)len : 40;
        const enum said said = what_it_said(p, id, bytes, len);
        if (said != SAID_MESSAGE && said != SAID_DEPUTY)
                oracle_broken(said ? "identity: an answer told as a message" : "identity: never said",
                              "%s was told that %s (pid %d) sent message %u '%.*s'", names[to], names[p], by->pid, id,
                              shown, (const char *)bytes);
        else if (said == SAID_DEPUTY && !by->introduced)
                oracle_broken("identity: a deputy of nobody",
                              "%s was told that %s said '%.*s' over a right of its own, which a stranger had given it",
                              names[to], names[p], shown, (const char *)bytes);
        else if (by->uid != (uid_t)-1 && by->uid != board->uid[p])
                oracle_broken("identity: another uid", "%s was told uid %u of %s, which has %u", names[to], by->uid,
                              names[p], board->uid[p]);
}

static void told_introducer(enum party to, const struct told *by)
{
        if (!by->introduced || by->introducer <= 0 || is_adversary(by->introducer))
                return;
        for (enum party p = 0; p < PARTIES; p++)
                if (board->was[p] == by->introducer && (atomic_load(&board->introduces[p])))
                        return;
        oracle_broken("identity: an introducer that is none", "%s was told that pid %d gave pid %d its right",
                      names[to], by->introducer, by->pid);
}

void oracle_told(enum party to, const struct told *by, uint32_t id, const void *bytes, size_t len)
{
        const bool uid_known = by->uid != (uid_t)-1 && by->uid != 65534;
        told_introducer(to, by);
        if (by->pid <= 0 && !uid_known)
                return; /* nobody is named */
        for (enum party p = 0; p < PARTIES; p++)
                if (board->was[p] == by->pid) {
                        told_of_party(to, p, by, id, bytes, len);
                        return;
                }
        if (is_adversary(by->pid) || by->pid <= 0) {
                if (uid_known && by->uid != outside->uid)
                        oracle_broken("identity: another uid", "%s was told uid %u of the adversary, which has %u",
                                      names[to], by->uid, outside->uid);
                return;
        }
        /* wharfd: its events go over the right that came with the request, whoever's port that leads to. */
        if (board->wharfd > 0 && by->pid == board->wharfd && by->introduced)
                return;
        oracle_broken("identity: of nobody here", "%s was told that pid %d, uid %d sent message %u '%.*s'", names[to],
                      by->pid, (int)by->uid, id, len < 40 ? (int)len : 40, (const char *)bytes);
}

/* ---- time ---- */

int64_t clock_ns(void)
{
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static uint64_t cpu_ns(void)
{
        struct timespec t;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* By system call alone: no descriptor is kept, and where none is left nothing is known. */
uint64_t waited_ns(pid_t pid)
{
        char path[64], text[96];
        if (pid)
                snprintf(path, sizeof path, "/proc/%d/schedstat", pid);
        else
                snprintf(path, sizeof path, "/proc/thread-self/schedstat");
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return 0;
        ssize_t n = read(fd, text, sizeof text - 1);
        close(fd);
        uint64_t ran, waited = 0;
        text[n < 0 ? 0 : n] = 0;
        return sscanf(text, "%" SCNu64 " %" SCNu64, &ran, &waited) == 2 ? waited : 0;
}

/* Of all processors together: the eighth number of the first line. Neither who waits nor who runs is told of it. */
static uint64_t stolen_ns(void)
{
        char text[256];
        int fd = open("/proc/stat", O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return 0;
        ssize_t n = read(fd, text, sizeof text - 1);
        close(fd);
        uint64_t ticks = 0;
        text[n < 0 ? 0 : n] = 0;
        sscanf(text, "cpu %*u %*u %*u %*u %*u %*u %*u %" SCNu64, &ticks);
        return ticks * (1000000000u / (uint64_t)sysconf(_SC_CLK_TCK));
}

int64_t oracle_stolen_since(uint64_t before)
{
        usleep(60000); /* it is looked at every now and then, and the kernel counts in hundredths */
        return (int64_t)(atomic_load(&board->stolen_ns) - before);
}

/* The first line of a file, or nothing; in `line`, of `cap` bytes. */
static void read_line(char *line, size_t cap, const char *path)
{
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? 0 : read(fd, line, cap - 1);
        if (fd >= 0)
                close(fd);
        line[n < 0 ? 0 : n] = 0;
        line[strcspn(line, "\n")] = 0;
}

/* What all threads of a process do: where each sleeps in the kernel, and in which system call, "-" if in none. */
static void look_at_threads(pid_t pid, char *text, size_t cap)
{
        char path[400], line[64];
        snprintf(path, sizeof path, "/proc/%d/task", pid);
        DIR *d = opendir(path);
        size_t n = 0;
        for (struct dirent *e; d && (e = readdir(d));) {
                if (*e->d_name == '.')
                        continue;
                snprintf(path, sizeof path, "/proc/%d/task/%s/wchan", pid, e->d_name);
                read_line(line, sizeof line, path);
                n += (size_t)snprintf(text + n, cap - n, " %s", line);
                snprintf(path, sizeof path, "/proc/%d/task/%s/syscall", pid, e->d_name);
                read_line(line, sizeof line, path);
                line[strcspn(line, " ")] = 0;
                n += n < cap ? (size_t)snprintf(text + n, cap - n, "/%s", line) : 0;
                if (n >= cap)
                        break;
        }
        if (d)
                closedir(d);
}

/* Of each that is late: three looks, each later than the one before by as much again. */
static void look_who_is_late(int64_t now)
{
        for (enum party p = 0; p < PARTIES; p++) {
                const int64_t deadline = atomic_load(&board->deadline_ns[p]);
                const uint32_t n = atomic_load(&board->n_seen[p]);
                if (!deadline || n == SEEN_MAX || board->pid[p] <= 0 ||
                    now - deadline < (int64_t)(LOOK_LATE_MS << n) * 1000000ll)
                        continue;
                char *text = board->seen[p][n];
                const int k = snprintf(text, SEEN_TEXT, " [%+d ms:", (int)((now - deadline) / 1000000));
                look_at_threads(board->pid[p], text + k, SEEN_TEXT - (size_t)k - 2);
                strcat(text, "]");
                atomic_store(&board->n_seen[p], n + 1);
        }
}

static _Atomic uint64_t looks_for_gaps;

static void *watch_for_gaps(void *arg)
{
        enum { LOOK_MS = 20 };
        (void)arg;
        for (;;) {
                const int64_t from = clock_ns();
                const uint64_t waited = waited_ns(0);
                usleep(LOOK_MS * 1000);
                if (clock_ns() - from - (int64_t)(waited_ns(0) - waited) > (LOOK_MS + GAP_MS) * 1000000ll)
                        atomic_store(&board->gap, 1);
                atomic_store(&board->stolen_ns, stolen_ns());
                look_who_is_late(clock_ns());
                atomic_fetch_add(&looks_for_gaps, 1);
        }
        return NULL;
}

bool oracle_was_gap(void)
{
        const uint64_t from = atomic_load(&looks_for_gaps);
        while (atomic_load(&looks_for_gaps) - from < 2) /* the second look has begun and ended since */
                usleep(1000);
        return atomic_load(&board->gap);
}

bool oracle_watch_for_gaps(void)
{
        pthread_t thread;
        return pthread_create(&thread, NULL, watch_for_gaps, NULL) == 0 && pthread_detach(thread) == 0;
}

/* Asked for a moment ago it is less, so that one who was asleep seems to have waited: which accuses nobody. */
static uint64_t waited_before(int64_t now_ns)
{
        enum { OLD_MS = 5 };
        static int64_t asked_ns;
        static uint64_t waited;
        if (!waited || now_ns - asked_ns > OLD_MS * 1000000ll) {
                waited = waited_ns(0);
                asked_ns = now_ns;
        }
        return waited;
}

void guard_begin(struct guard *g, enum party who, int64_t deadline_ns)
{
        g->began_ns = clock_ns();
        g->waited_ns = waited_before(g->began_ns);
        g->cpu_ns = cpu_ns();
        g->stolen_ns = atomic_load(&board->stolen_ns);
        g->deadline_ns = deadline_ns ? deadline_ns : g->began_ns;
        atomic_store(&board->n_seen[who], 0);
        atomic_store(&board->deadline_ns[who], g->deadline_ns);
}

/* What was seen of it, in one text. */
static void append_seen(enum party who, char *text, size_t cap)
{
        const uint32_t n = atomic_load(&board->n_seen[who]);
        *text = 0;
        for (uint32_t i = 0; i < n; i++)
                strncat(text, board->seen[who][i], cap - strlen(text) - 1);
}

void guard_end(const struct guard *g, enum party who, const char *what)
{
        const int64_t now = clock_ns(), over = now - g->deadline_ns;
        atomic_store(&board->deadline_ns[who], 0);
        if (over < LATE_CPU_MS * 1000000ll)
                return;
        /* What can be shown to lie behind the deadline: before it there was no more than the time on the clock. */
        const int64_t before = g->deadline_ns > g->began_ns ? g->deadline_ns - g->began_ns : 0;
        const int64_t cpu = (int64_t)(cpu_ns() - g->cpu_ns);
        const uint64_t waited_now = waited_ns(0);
        const int64_t waited = (int64_t)(waited_now - g->waited_ns);
        const int64_t asleep = now - g->began_ns - cpu - waited;
        char kind[48], seen[SEEN_MAX * SEEN_TEXT];
        append_seen(who, seen, sizeof seen);
        if (cpu - before > LATE_CPU_MS * 1000000ll) {
                snprintf(kind, sizeof kind, "late: %s, busy", what);
                oracle_broken(kind, "%s: %s with %.0f ms to go took %.0f ms, %.0f of them busy%s", names[who], what,
                              (double)before / 1e6, (double)(now - g->began_ns) / 1e6, (double)cpu / 1e6, seen);
        } else if (g->waited_ns && waited_now && asleep - before > LATE_ASLEEP_MS * 1000000ll &&
                   asleep - before - oracle_stolen_since(g->stolen_ns) > LATE_ASLEEP_MS * 1000000ll) {
                snprintf(kind, sizeof kind, "late: %s, asleep", what);
                oracle_broken(kind, "%s: %s with %.0f ms to go took %.0f ms, %.0f of them asleep%s", names[who], what,
                              (double)before / 1e6, (double)(now - g->began_ns) / 1e6, (double)asleep / 1e6, seen);
        }
}

/* ---- what a party holds ---- */

static uint64_t count_descriptors(const char *folder)
{
        DIR *d = opendir(folder);
        uint64_t n = 0;
        if (!d)
                return 0;
        while (readdir(d))
                n++;
        closedir(d);
        return n - 2; /* . and .. */
}

/* Mapped shared. The pages of the judge are too, all the time. Not wharfd's journal, which stays as large as it was. */
static uint64_t count_shared(const char *maps)
{
        FILE *f = fopen(maps, "re");
        char line[512], mode[8];
        uint64_t from, to, sum = 0;
        if (!f)
                return 0;
        while (fgets(line, sizeof line, f))
                if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s", &from, &to, mode) == 3 && mode[3] == 's' &&
                    !strstr(line, ":wharf-journal"))
                        sum += to - from;
        fclose(f);
        return sum;
}

/* Resident, and neither of a file nor shared. */
static uint64_t count_private(const char *statm)
{
        FILE *f = fopen(statm, "re");
        uint64_t size = 0, resident = 0, shared = 0;
        if (!f)
                return 0;
        if (fscanf(f, "%" SCNu64 " %" SCNu64 " %" SCNu64, &size, &resident, &shared) != 3)
                resident = shared = 0;
        fclose(f);
        return (resident - shared) * 4096;
}

void stock_take(struct stock *ret)
{
        malloc_trim(0);
        ret->descriptors = count_descriptors("/proc/self/fd") - 1; /* the one to look with */
        ret->shared_bytes = count_shared("/proc/self/maps");
        ret->private_bytes = count_private("/proc/self/statm");
}

bool stock_look(pid_t pid, struct stock *ret)
{
        char path[64];
        *ret = (struct stock){0};
        snprintf(path, sizeof path, "/proc/%d/fd", pid);
        ret->descriptors = count_descriptors(path);
        snprintf(path, sizeof path, "/proc/%d/maps", pid);
        ret->shared_bytes = count_shared(path);
        snprintf(path, sizeof path, "/proc/%d/statm", pid);
        ret->private_bytes = count_private(path);
        return ret->descriptors && ret->private_bytes;
}

const char *stock_more(const struct stock *before, const struct stock *now)
{
        enum { PRIVATE_SLACK = 4 << 20 };
        return now->links > before->links                                   ? "links"
               : now->descriptors > before->descriptors                     ? "descriptors"
               : now->mapped_bytes > before->mapped_bytes                   ? "mapped bytes"
               : now->shared_bytes > before->shared_bytes                   ? "shared memory"
               : now->private_bytes > before->private_bytes + PRIVATE_SLACK ? "private memory"
                                                                            : NULL;
}

/* ---- secrets ---- */

void secret_place(enum party who)
{
        void *at = mmap((void *)SECRET_AT(who), SECRET_PAGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (at == MAP_FAILED)
                abort();
        for (size_t i = 0; i < SECRET_PAGE; i += SECRET_BYTES)
                memcpy((uint8_t *)at + i, board->secret[who], SECRET_BYTES);
}

bool secret_there(enum party who)
{
        for (size_t i = 0; i < SECRET_PAGE; i += SECRET_BYTES)
                if (memcmp((uint8_t *)SECRET_AT(who) + i, board->secret[who], SECRET_BYTES))
                        return false;
        return true;
}
