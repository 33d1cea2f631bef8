/*
 * exhaust shares: one user asks a shared wharfd for all that it can, and another one looks names up beside it.
 *
 *      --quick, --full     4 processes, or 8; 40 connections each, 12 requests outstanding on each: lists, who waits,
 *                          look-ups of names that are not there, that are there, and that are waited for; and 60 watches
 *                          of all names, all of which are made anew in each round
 *
 * Promised: the median look-up of the other user takes no more than ten times as long as beside as many processes that
 * merely spin. It needs root, for there to be two users; otherwise it says so, and nothing is counted.
 */
#include "os/os.h"
#include "names/domain.h"
#include "names/names.h"
#include "names/proto.h"
#include "wharf/wharf.h"

#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
        CONNS = 40,
        OUT = 12,
        NAMES = 2000,
        WATCHES = 60,
        ANEW = 60,
        LOOKUPS = 400,
        FACTOR_MAX = 6, /* two or three are seen; so what comes near the promise is a finding */
        HIS_UID = 61234,
        OUR_UID = 61235,
        PROCS_MAX = 8
};

static char base[64], dir[80];
static pid_t procs[PROCS_MAX];
static unsigned n_procs;

static __attribute__((noreturn)) void bad(const char *what, long long got)
{
        printf("exhaust shares: FAILED: %s: %lld (%s)\n", what, got, wharf_why());
        fflush(stdout);
        for (unsigned i = 0; i < n_procs; i++)
                kill(procs[i], SIGKILL);
        pid_t server = *dir ? wh_domain_server(dir) : 0;
        if (server > 0)
                kill(server, SIGTERM);
        _exit(1);
}
#define OK(call)                        \
        do {                            \
                long long r_ = (call);  \
                if (r_ < 0)             \
                        bad(#call, r_); \
        } while (0)

static void become(uid_t uid)
{
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        OK(setgroups(0, NULL));
        OK(setresgid(uid, uid, uid));
        OK(setresuid(uid, uid, uid));
}

/* A watch of all names, or no more. What there is no room for is not asked for again. */
static void watch(wharf_task *t, wharf_name server, wharf_name events, unsigned k, unsigned i, enum wh_names_op op)
{
        struct wh_names_request req = {.op = op, .cookie = {{k + 1, i + 1}}};
        uint8_t buf[WH_NAMES_REQUEST_MAX], answer[64];
        struct wharf_item it = {.kind = WHARF_MAKE_SEND, .name = events};
        struct wharf_msg m = {.size = sizeof m,
                              .data = buf,
                              .len_bytes = wh_names_put_request(&req, buf),
                              .items = &it,
                              .n_items = op == WH_NAMES_WATCH};
        struct wharf_msg reply = {.size = sizeof reply, .data = answer, .cap_bytes = sizeof answer};
        OK(wharf_callmsg(t, server, &m, &reply, wharf_in_ms(60000)));
}

/* Names to be listed; and then all that one can ask for, without end. */
static __attribute__((noreturn)) void take_all(unsigned k, int ready)
{
        become(HIS_UID);
        wharf_task *t;
        wharf_name port, events, right[CONNS];
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS, .links_max = 1 << 18};
        char name[40];
        OK(wharf_task_open(NULL, &t));
        OK(wharf_port_new(t, &o, &port));
        for (unsigned i = 0; i < NAMES / n_procs; i++) {
                sprintf(name, "taken.%u.%u", k, i);
                OK(wharf_register(t, name, port));
        }
        for (unsigned i = 0; i < CONNS; i++)
                OK(wh_domain_connect(t, dir, true, false, wharf_in_ms(20000), &right[i]));
        OK(wharf_port_new(t, &o, &events));
        for (unsigned i = 0; i < WATCHES; i++)
                watch(t, right[0], events, k, i, WH_NAMES_WATCH);
        OK(write(ready, "", 1));
        for (unsigned round = 0;; round++) {
                static uint32_t call[CONNS][OUT];
                for (unsigned i = 0; i < ANEW; i++) {
                        const unsigned which = (round * ANEW + i) % WATCHES;
                        watch(t, right[0], events, k, which, WH_NAMES_UNWATCH);
                        watch(t, right[0], events, k, which, WH_NAMES_WATCH);
                }
                for (unsigned j = 0; j < OUT; j++)
                        for (unsigned i = 0; i < CONNS; i++) {
                                static const enum wh_names_op ops[] = {WH_NAMES_LIST, WH_NAMES_WAITS, WH_NAMES_LOOKUP,
                                                                       WH_NAMES_LIST};
                                struct wh_names_request req = {.op = ops[(i + j) % 4]};
                                uint8_t buf[WH_NAMES_REQUEST_MAX];
                                if (req.op == WH_NAMES_LOOKUP) {
                                        sprintf(req.name, i % 2 ? "taken.0.%u" : "not.there.%u", i);
                                        req.timeout_ns = i % 4 ? 0 : 1000000;
                                }
                                struct wharf_msg m = {
                                        .size = sizeof m, .data = buf, .len_bytes = wh_names_put_request(&req, buf)};
                                if (wharf_call_start(t, right[i], &m, WHARF_NONE, 0, &call[i][j]) < 0)
                                        call[i][j] = 0;
                        }
                for (unsigned j = 0; j < OUT; j++)
                        for (unsigned i = 0; i < CONNS; i++) {
                                struct wharf_item got[2];
                                struct wharf_msg m = {
                                        .size = sizeof m, .flags = WHARF_RECV_ALLOC, .items = got, .cap_items = 2};
                                if (!call[i][j] ||
                                    wharf_call_finish(t, right[i], call[i][j], &m, wharf_in_ms(60000)) < 0)
                                        continue;
                                for (unsigned n = 0; n < m.n_items; n++)
                                        if (got[n].kind == WHARF_GOT_SEND)
                                                wharf_drop(t, got[n].name);
                                wharf_release(t, &m);
                        }
                char none, event[512];
                while (wharf_recv(t, port, &none, 1, NULL, 0) >= 0)
                        ;
                while (wharf_recv(t, events, event, sizeof event, NULL, 0) >= 0)
                        ;
        }
}

static __attribute__((noreturn)) void spin(int ready)
{
        become(HIS_UID);
        OK(write(ready, "", 1));
        for (volatile unsigned i = 0;; i++)
                ;
}

static int by_value(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;
        return x < y ? -1 : x > y;
}

/* The other user's median look-up, in microseconds, over a pipe. */
static double median(void)
{
        int p[2];
        double m = 0;
        OK(pipe2(p, O_CLOEXEC));
        pid_t pid = fork();
        if (pid == 0) {
                static double us[LOOKUPS];
                wharf_task *t;
                wharf_name right;
                become(OUR_UID);
                OK(wharf_task_open(NULL, &t));
                for (unsigned i = 0; i < LOOKUPS; i++) {
                        int64_t since = wharf_now_ns();
                        OK(wharf_lookup(t, "honest", wharf_in_ms(20000), &right));
                        us[i] = (double)(wharf_now_ns() - since) / 1e3;
                        OK(wharf_drop(t, right));
                        usleep(2000);
                }
                wharf_task_close(t);
                qsort(us, LOOKUPS, sizeof *us, by_value);
                OK(write(p[1], &us[LOOKUPS / 2], sizeof *us));
                _exit(0);
        }
        close(p[1]);
        if (read(p[0], &m, sizeof m) != sizeof m)
                bad("the other user's look-ups", errno);
        close(p[0]);
        waitpid(pid, NULL, 0);
        return m;
}

static double beside(bool taking)
{
        int ready[2];
        char c;
        OK(pipe2(ready, O_CLOEXEC));
        for (unsigned i = 0; i < n_procs; i++) {
                procs[i] = fork();
                if (procs[i] == 0 && taking)
                        take_all(i, ready[1]);
                if (procs[i] == 0)
                        spin(ready[1]);
        }
        for (unsigned i = 0; i < n_procs; i++)
                OK(read(ready[0], &c, 1) - 1);
        double m = median();
        for (unsigned i = 0; i < n_procs; i++) {
                kill(procs[i], SIGKILL);
                waitpid(procs[i], NULL, 0);
        }
        close(ready[0]);
        close(ready[1]);
        return m;
}

int main(int argc, char **argv)
{
        n_procs = 4;
        for (int i = 1; i < argc; i++)
                if (!strcmp(argv[i], "--full"))
                        n_procs = PROCS_MAX;
        if (geteuid()) {
                puts("exhaust shares: operations 0, not here: two users take root");
                return 0;
        }
        strcpy(base, "/tmp/wharf-shares.XXXXXX");
        if (!mkdtemp(base) || chmod(base, 0755) < 0)
                bad("no directory", errno);
        snprintf(dir, sizeof dir, "%s/d", base);
        char conf[100], path[120];
        snprintf(conf, sizeof conf, "%s/conf", base);
        FILE *f = fopen(conf, "we");
        if (!f || fputs("own * all\n", f) < 0 || fclose(f))
                bad("no rules", errno);
        OK(chmod(conf, 0644));
        setenv("WHARF_DOMAIN", dir, 1);
        int status;
        pid_t pid = fork();
        if (pid == 0) {
                execl(EXHAUST_WHARFD, "wharfd", "--domain", dir, "--share", "--config", conf, "--linger", "forever",
                      (char *)NULL);
                _exit(127);
        }
        waitpid(pid, &status, 0); /* it serves, in the background */
        if (status)
                bad("wharfd", status);
        wharf_task *t;
        wharf_name port;
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS, .links_max = 1 << 18};
        OK(wharf_task_open(NULL, &t));
        OK(wharf_port_new(t, &o, &port));
        pid_t owner = fork();
        if (owner == 0) {
                char none;
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                OK(wharf_task_open(NULL, &t));
                OK(wharf_port_new(t, &o, &port));
                OK(wharf_register(t, "honest", port));
                for (;;)
                        wharf_recv(t, port, &none, 1, NULL, WHARF_FOREVER);
        }
        double spun = beside(false), taken = beside(true);
        kill(owner, SIGKILL);
        waitpid(owner, NULL, 0);
        wharf_task_close(t);
        pid_t d = wh_domain_server(dir);
        if (d > 0)
                kill(d, SIGTERM);
        snprintf(path, sizeof path, "%s/bootstrap", dir);
        for (int i = 0; access(path, F_OK) == 0 && i < 20000; i++)
                usleep(1000);
        snprintf(path, sizeof path, "%s/lock", dir);
        unlink(path);
        unlink(conf);
        if (rmdir(dir) < 0 || rmdir(base) < 0)
                bad("something is left", errno);
        printf("exhaust shares: operations %u, processes %u, median look-up in us beside %.0f, beside spinning ones "
               "%.0f, "
               "factor %.2f%s\n",
               LOOKUPS * 2, n_procs, taken, spun, taken / spun, taken > spun * FACTOR_MAX ? ", FAILED" : "");
        return taken > spun * FACTOR_MAX;
}
