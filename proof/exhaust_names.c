/*
 * exhaust names: as many names as the limit of descriptors allows, and wharfd killed again and again.
 *
 *      --quick     400 names at a hard limit of 1024; 12 servers killed, 2 with their keepers
 *      --full      20000 at 65536, or as many as a lower limit of this machine has room for; 100 servers, 10 keepers
 *      --names N --limit N --kills N --keepers N       by hand
 *
 * Promised: after a server's death the first look-up of any name finds it, and the list has all of them, without an act
 * of their owners, which sleep. After the death of both processes each owner makes one call, and all are there again.
 * wharfd knows whether everything is kept. In the end nothing is left.
 */
#include "os/os.h"
#include "names/domain.h"
#include "names/names.h"
#include "wharf/wharf.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { OWNERS_MAX = 256, SAMPLES_MAX = 1024 };

static char base[64], dir[80];
static unsigned n_names = 400, limit = 1024, kills = 12, keepers = 2;

static struct owner {
        pid_t pid;
        int say, hear;
        unsigned first, n;
} owner[OWNERS_MAX];
static unsigned n_owners;

static __attribute__((noreturn, format(printf, 1, 2))) void bad(const char *fmt, ...)
{
        va_list ap;
        va_start(ap, fmt);
        fputs("exhaust names: FAILED: ", stdout);
        vprintf(fmt, ap);
        printf(" (%s)\n", wharf_why());
        fflush(stdout);
        va_end(ap);
        for (unsigned i = 0; i < n_owners; i++)
                kill(owner[i].pid, SIGKILL);
        _exit(1);
}
#define EQ(what, want)                                                                              \
        do {                                                                                        \
                long long got_ = (long long)(what), want_ = (long long)(want);                      \
                if (got_ != want_)                                                                  \
                        bad("%s:%d: %s is %lld, not %lld", __FILE__, __LINE__, #what, got_, want_); \
        } while (0)

static double now_ms(void)
{
        return (double)wh_os_now_ns() / 1e6;
}

/* ---- owners: they sleep but when they are told to make a call ---- */

static void name_of(char *buf, unsigned i)
{
        sprintf(buf, "many.%05u", i);
}

static __attribute__((noreturn)) void own(const struct owner *o, int hear, int say)
{
        wharf_task *t;
        wharf_name port;
        struct wharf_port_opts po = {.size = sizeof po, .flags = WHARF_PORT_STAYS, .links_max = 1 << 18};
        char name[32], what;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        EQ(wharf_task_open(NULL, &t), 0);
        EQ(wharf_port_new(t, &po, &port), 0);
        for (unsigned i = o->first; i < o->first + o->n; i++) {
                name_of(name, i);
                EQ(wharf_register(t, name, port), 0);
        }
        EQ(write(say, "r", 1), 1);
        while (read(hear, &what, 1) == 1 && what != 'q') {
                char none;
                while (wharf_recv(t, port, &none, 1, NULL, 0) != -EAGAIN)
                        ; /* whom wharfd introduced, and has left since, holds a descriptor until it is looked at */
                int r = wharf_names_renew(t);
                if (r < 0)
                        fprintf(stderr, "exhaust names: an owner: %s: %s\n", wharf_strerror(r), wharf_why());
                EQ(write(say, r < 0 ? "x" : "r", 1), 1);
        }
        wharf_task_close(t);
        _exit(0);
}

static void owner_start(struct owner *o, unsigned first, unsigned n)
{
        int down[2], up[2];
        EQ(pipe2(down, O_CLOEXEC) | pipe2(up, O_CLOEXEC), 0);
        *o = (struct owner){.first = first, .n = n, .say = down[1], .hear = up[0]};
        if ((o->pid = fork()) == 0) {
                close(down[1]);
                close(up[0]);
                own(o, down[0], up[1]);
        }
        close(down[0]);
        close(up[1]);
        char c;
        EQ(read(o->hear, &c, 1), 1);
}

static void owners_call(void)
{
        char c;
        for (unsigned i = 0; i < n_owners; i++)
                EQ(write(owner[i].say, "c", 1), 1);
        for (unsigned i = 0; i < n_owners; i++) {
                EQ(read(owner[i].hear, &c, 1), 1);
                EQ(c, 'r');
        }
}

/* ---- wharfd ---- */

static pid_t parent_of(pid_t pid)
{
        char path[40], text[512];
        int parent = 0;
        snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
        FILE *f = fopen(path, "re");
        if (f && fgets(text, sizeof text, f) && strrchr(text, ')'))
                sscanf(strrchr(text, ')'), ") %*c %d", &parent);
        if (f)
                fclose(f);
        return parent;
}

/* Of a processor: what that process has had, which counts where others run as well; and what it has waited for it. */
static double busy_ms(pid_t pid, double *ret_waited)
{
        char path[40];
        unsigned long long ns = 0, waited = 0;
        snprintf(path, sizeof path, "/proc/%d/schedstat", (int)pid);
        FILE *f = fopen(path, "re");
        if (f && fscanf(f, "%llu %llu", &ns, &waited) != 2)
                ns = waited = 0;
        if (f)
                fclose(f);
        if (ret_waited)
                *ret_waited = (double)waited / 1e6;
        return (double)ns / 1e6;
}

static double owners_busy_ms(void)
{
        double all = 0;
        for (unsigned i = 0; i < n_owners; i++)
                all += busy_ms(owner[i].pid, NULL);
        return all;
}

/* The server; after a death it takes a moment until the next one says that it listens (SO_PEERCRED names it then). */
static pid_t server(void)
{
        pid_t pid;
        for (int i = 0; (pid = wh_domain_server(dir)) <= 0 || kill(pid, 0) < 0; i++) {
                if (i == 20000)
                        bad("no server for 20 s");
                usleep(1000);
        }
        return pid;
}

static int by_value(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;
        return x < y ? -1 : x > y;
}

static size_t listed(wharf_task *t)
{
        struct wharf_named *all;
        size_t n;
        EQ(wharf_names_list(t, &all, &n), 0);
        free(all);
        return n;
}

static unsigned n_starved; /* look-ups that were tried again */

/*
 * Thousands of names take seconds on a busy machine. Where the server had no processor, it is the machine that failed.
 */
static void look(wharf_task *t, unsigned i)
{
        enum { LOOK_MS = 30000 };
        char name[32];
        wharf_name right;
        name_of(name, i);
        for (;;) {
                int r = wharf_lookup(t, name, wharf_in_ms(LOOK_MS), &right);
                double waited, had = r == -ETIMEDOUT ? busy_ms(server(), &waited) : 0;
                if (r == 0)
                        break;
                if (r != -ETIMEDOUT || waited < LOOK_MS / 2.0)
                        bad("%s is not found: %s; the server has had %.0f ms of a processor", name, wharf_strerror(r),
                            had);
                n_starved++;
        }
        EQ(wharf_drop(t, right), 0);
}

static void usage(void)
{
        fputs("usage: exhaust_names [--quick | --full] [--names N] [--limit N] [--kills N] [--keepers N]\n", stderr);
        exit(2);
}

int main(int argc, char **argv)
{
        struct rlimit l;
        getrlimit(RLIMIT_NOFILE, &l);
        bool full = false;
        for (int i = 1; i < argc; i++) {
                unsigned *to = !strcmp(argv[i], "--names")     ? &n_names
                               : !strcmp(argv[i], "--limit")   ? &limit
                               : !strcmp(argv[i], "--kills")   ? &kills
                               : !strcmp(argv[i], "--keepers") ? &keepers
                                                               : NULL;
                if (to && i + 1 < argc)
                        *to = (unsigned)atoi(argv[++i]);
                else if (!strcmp(argv[i], "--full"))
                        full = true;
                else if (to || strncmp(argv[i], "--", 2))
                        usage(); /* others are of other engines: --seed, --stop */
                if (full && !to) {
                        kills = 100, keepers = 10, limit = 65536;
                        n_names = l.rlim_max >= limit ? 20000 : 0;
                }
        }
        if (limit > l.rlim_max)
                limit = (unsigned)l.rlim_max;
        if (!n_names) /* names with their pages first, then as many without (store.J6), and some to spare */
                n_names = limit / 4 + limit / 2 - limit / 20;
        l = (struct rlimit){limit, limit};
        EQ(setrlimit(RLIMIT_NOFILE, &l), 0);
        signal(SIGPIPE, SIG_IGN);
        strcpy(base, "/tmp/wharf-exhaust.XXXXXX");
        if (!mkdtemp(base))
                bad("no directory");
        snprintf(dir, sizeof dir, "%s/d", base);
        setenv("WHARF_DOMAIN", dir, 1);
        setenv("WHARFD", EXHAUST_WHARFD, 0);

        double t0 = now_ms();
        unsigned each = limit / 5; /* who registers again has some links that ended, and were not looked at yet */
        for (unsigned i = 0; i < n_names; i += each) {
                if (n_owners == OWNERS_MAX)
                        usage();
                owner_start(&owner[n_owners], i, i + each < n_names ? each : n_names - i);
                n_owners++;
        }
        double registered = now_ms() - t0;

        wharf_task *t;
        struct wh_names_state st;
        EQ(wharf_task_open(NULL, &t), 0);
        EQ(listed(t), n_names);
        EQ(wh_names_state(t, &st), 0);
        EQ(st.unkept, 0);
        static double found[SAMPLES_MAX], back[SAMPLES_MAX], taken[SAMPLES_MAX], told[SAMPLES_MAX];
        unsigned n_found = 0, n_back = 0;
        srandom(1);
        for (unsigned k = 0; k < kills; k++) {
                bool both = keepers && k % (kills / keepers) == kills / keepers - 1;
                pid_t s = server();
                if (both)
                        EQ(kill(parent_of(s), SIGKILL), 0);
                t0 = now_ms();
                int gone_fd = wh_os_pidfd_open(s);
                struct pollfd p = {.fd = gone_fd, .events = POLLIN};
                EQ(kill(s, SIGKILL), 0);
                EQ(poll(&p, 1, -1), 1); /* until then its sockets are open */
                wh_os_close(gone_fd);
                if (both) {
                        double before = owners_busy_ms();
                        owners_call(); /* one call each */
                        if (n_back < SAMPLES_MAX) {
                                back[n_back] = now_ms() - t0;
                                told[n_back++] = owners_busy_ms() - before + busy_ms(server(), NULL);
                        }
                } else {
                        look(t, (unsigned)random() % n_names);
                        if (n_found < SAMPLES_MAX) {
                                found[n_found] = now_ms() - t0;
                                taken[n_found++] = busy_ms(server(), NULL);
                        }
                }
                for (int i = 0; i < 20; i++)
                        look(t, (unsigned)random() % n_names);
                EQ(listed(t), n_names);
        }
        EQ(wh_names_state(t, &st), 0);
        EQ(st.unkept, 0);
        EQ(st.holder, WH_HOLDER_KEEPER);
        EQ(st.owed_error, 0);

        /* Half of the owners are killed, with wharfd in the middle of it; the other half ends. */
        t0 = now_ms();
        unsigned left = n_names;
        for (unsigned i = 0; i < n_owners; i += 2) {
                kill(owner[i].pid, SIGKILL);
                waitpid(owner[i].pid, NULL, 0);
                left -= owner[i].n;
                if (i == 2)
                        kill(server(), SIGKILL);
        }
        EQ(listed(t), left);
        double gone = now_ms() - t0;
        for (unsigned i = 1; i < n_owners; i += 2) {
                int status;
                EQ(write(owner[i].say, "q", 1), 1);
                EQ(waitpid(owner[i].pid, &status, 0), owner[i].pid);
                EQ(status, 0);
        }
        EQ(listed(t), 0);
        wharf_task_close(t);
        char path[120];
        snprintf(path, sizeof path, "%s/bootstrap", dir);
        for (int i = 0; access(path, F_OK) == 0; i++) { /* it leaves */
                if (i == 20000)
                        bad("wharfd does not leave");
                usleep(1000);
        }
        snprintf(path, sizeof path, "%s/lock", dir);
        unlink(path);
        if (rmdir(dir) < 0 || rmdir(base) < 0)
                bad("something is left in %s", dir);
        qsort(found, n_found, sizeof *found, by_value);
        qsort(back, n_back, sizeof *back, by_value);
        qsort(taken, n_found, sizeof *taken, by_value);
        qsort(told, n_back, sizeof *told, by_value);
        printf("exhaust names: operations %u, names %u, kills %u, keepers %u, limit %u, owners %u, registered in ms "
               "%.0f, "
               "found again after ms %.1f, at the latest %.1f, all back after both in ms %.0f, half of them gone in ms "
               "%.0f, taken up by the next in ms of a processor %.1f, told again in ms of a processor %.1f, without a "
               "processor %u\n",
               kills, n_names, kills, n_back, limit, n_owners, registered, n_found ? found[n_found / 2] : 0,
               n_found ? found[n_found - 1] : 0, n_back ? back[n_back / 2] : 0, gone, n_found ? taken[n_found / 2] : 0,
               n_back ? told[n_back / 2] : 0, n_starved);
        return 0;
}
