/*
 * matrix versions: two versions of wharf that do not understand each other in one thing or in all.
 *
 *      row         what is of another version in the later one (matrix/later.h)
 *      workload    which of the two is later: the holder of a right or the owner of the port; wharfd or its client
 *
 * Promised: both sides say -EPROTONOSUPPORT and why, nobody waits, what was received came in order and without a hole,
 * nothing is left behind, and others go on. Where the thing that differs is not needed, all is well.
 *
 * This program is made twice, of both libraries, and executed as each party: `--as ROLE WHAT DIR REPORT`.
 */
#include "matrix/party.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const char *const rows[] = {"nothing", "frame", "lane", "names", "page", "status", "all"};
static const char *const ways[] = {"holder", "owner", "wharfd", "client"};
enum { HOLDER, OWNER, WHARFD, CLIENT };
enum { ROWS = sizeof rows / sizeof *rows, WORKS = sizeof ways / sizeof *ways, MESSAGES = 60 };

static const char *row_name(unsigned row)
{
        return rows[row];
}

static const char *work_name(unsigned work)
{
        return ways[work];
}

static bool one_of(const char *what, const char *a, const char *b)
{
        return !strcmp(what, a) || !strcmp(what, b) || !strcmp(what, "all");
}

/* ---- two ends of a link ---- */

static int role_owner(const char *what, const char *dir)
{
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        char over[200];
        wharf_task *t;
        wharf_name port, own;
        uint32_t next = 0;
        bool alone = false;
        const unsigned fds = matrix_fds();
        snprintf(over, sizeof over, "%s/over", dir);
        snprintf(sa.sun_path, sizeof sa.sun_path, "%s/hub", dir);
        int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        MATRIX_EQ(bind(sock, (struct sockaddr *)&sa, sizeof sa), 0);
        MATRIX_EQ(listen(sock, 4), 0);
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        MATRIX_EQ(wharf_task_open(NULL, &t), 0);
        MATRIX_EQ(wharf_port_new(t, &o, &port), 0);
        MATRIX_EQ(wharf_right_new(t, port, &own), 0);
        MATRIX_EQ(wharf_port_listen(t, port, sock), 0);
        while (!alone) {
                /* Once more after the end, for what was sent before. */
                alone = access(over, F_OK) == 0;
                MATRIX_EQ(wharf_send(t, own, "own", 3, wharf_in_ms(5000)), 0);
                for (bool own_came = false; !own_came || alone;) {
                        uint32_t n;
                        ssize_t r = wharf_recv(t, port, &n, sizeof n, NULL, alone && own_came ? 0 : wharf_in_ms(5000));
                        if (r == -EAGAIN && own_came)
                                break;
                        MATRIX_CHECK(r == 3 || r == 4);
                        own_came |= r == 3;
                        if (r == 4)
                                MATRIX_EQ(n, next++);
                }
                matrix_sleep_us(500);
        }
        if (!one_of(what, "frame", "lane"))
                MATRIX_EQ(next, MESSAGES);
        if (one_of(what, "frame", "frame"))
                MATRIX_EQ(next, 0);
        if (!strcmp(what, "lane"))
                MATRIX_CHECK(next >= 16 && next < MESSAGES); /* what came before there was a lane */
        struct wharf_port_stat st = {.size = sizeof st};
        MATRIX_EQ(wharf_port_stat(t, port, &st), 0);
        MATRIX_EQ(st.senders, 1); /* our own */
        wharf_task_close(t);
        close(sock);
        unlink(sa.sun_path);
        MATRIX_EQ(matrix_fds_left(fds), fds);
        return MATRIX_PASSED;
}

static int role_holder(const char *what, const char *dir)
{
        char path[200];
        wharf_task *t;
        wharf_name right;
        int r;
        const unsigned fds = matrix_fds();
        snprintf(path, sizeof path, "%s/hub", dir);
        MATRIX_EQ(wharf_task_open(NULL, &t), 0);
        while ((r = wharf_right_connect(t, path, &right)) == -ENOENT || r == -ECONNREFUSED)
                matrix_sleep_us(300);
        MATRIX_EQ(r, 0);
        for (uint32_t i = 0; i < MESSAGES && r == 0; i++) {
                r = wharf_send(t, right, &i, sizeof i, wharf_in_ms(5000));
                matrix_sleep_us(i < 2 ? 3000 : 100);
        }
        const int want = one_of(what, "frame", "lane") ? -EPROTONOSUPPORT : 0;
        for (unsigned i = 0; want && r == 0 && i < 1000; i++, matrix_sleep_us(1000)) /* sent before it was refused */
                r = wharf_send(t, right, &(uint32_t){MESSAGES}, 4, wharf_in_ms(5000));
        MATRIX_EQ(r, want);
        MATRIX_CHECK(!want || strstr(wharf_strerror(r), "version"));
        if (want)
                MATRIX_EQ(wharf_send(t, right, "again", 5, WHARF_FOREVER), -EPROTONOSUPPORT);
        wharf_task_close(t);
        MATRIX_EQ(matrix_fds_left(fds), fds);
        return MATRIX_PASSED;
}

/* ---- names ---- */

static int role_client(const char *what, const char *dir)
{
        wharf_task *t;
        wharf_name port, events, got;
        struct wharf_named *all;
        size_t n;
        const unsigned fds = matrix_fds();
        const int want = one_of(what, "frame", "names") ? -EPROTONOSUPPORT : 0;
        MATRIX_EQ(wharf_task_open(NULL, &t), 0);
        MATRIX_EQ(wharf_port_new(t, NULL, &port), 0);
        MATRIX_EQ(wharf_port_new(t, NULL, &events), 0);
        MATRIX_EQ(wharf_register(t, "matrix.v", port), want);
        MATRIX_CHECK(!want || strstr(wharf_why(), "version"));
        MATRIX_EQ(wharf_lookup(t, "matrix.v", wharf_in_ms(5000), &got), want);
        MATRIX_CHECK(!want || strstr(wharf_why(), "version"));
        if (!want) {
                char c;
                MATRIX_EQ(wharf_send(t, got, "x", 1, 0), 0);
                MATRIX_EQ(wharf_recv(t, port, &c, 1, NULL, wharf_in_ms(5000)), 1);
        }
        MATRIX_EQ(wharf_names_watch(t, "*", events), want);
        MATRIX_EQ(wharf_names_list(t, &all, &n), want);
        if (!want) {
                MATRIX_EQ(n, 1);
                free(all);
        }
        MATRIX_EQ(wharf_unregister(t, "matrix.v"), want ? -ENOENT : 0);
        wharf_task_close(t);
        MATRIX_EQ(matrix_fds_left(fds), fds);
        return MATRIX_PASSED;
}

/* ---- the case ---- */

static pid_t start(const struct matrix_case *c, bool later, const char *role)
{
        char report[16];
        snprintf(report, sizeof report, "%d", matrix_report_fd());
        pid_t pid = fork();
        if (pid)
                return pid;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        fcntl(matrix_report_fd(), F_SETFD, 0);
        const char *program = later ? MATRIX_VERSIONS_LATER : c->exe;
        execl(program, program, "--as", role, rows[c->row], c->dir, report, (char *)NULL);
        matrix_say("%s: %s", program, strerror(errno));
        _exit(MATRIX_FAILED);
}

static int run(const struct matrix_case *c)
{
        setenv("WHARF_PROOF_LATER", rows[c->row], 1);
        if (c->work >= WHARFD) {
                char dir[200];
                if (c->work == WHARFD)
                        setenv("MATRIX_PROGRAM", MATRIX_WHARFD_LATER, 1);
                pid_t server = party_wharfd_start(c, dir, sizeof dir);
                MATRIX_EQ(matrix_wait(start(c, c->work == CLIENT, "client")), 0);
                /* Whoever it understands is served as before. */
                unsetenv("WHARF_PROOF_LATER");
                if (c->work == CLIENT) {
                        pid_t pid = fork();
                        if (pid == 0)
                                _exit(role_client("nothing", c->dir));
                        MATRIX_EQ(matrix_wait(pid), 0);
                }
                MATRIX_EQ(party_wharfd_stop(c, server, dir), 0);
                return MATRIX_PASSED;
        }
        char over[200];
        snprintf(over, sizeof over, "%s/over", c->dir);
        pid_t owner = start(c, c->work == OWNER, "owner"), holder = start(c, c->work == HOLDER, "holder");
        int r = matrix_wait(holder);
        FILE *f = fopen(over, "we");
        MATRIX_CHECK(f != NULL);
        fclose(f);
        MATRIX_EQ(matrix_wait(owner), 0);
        unlink(over);
        return r;
}

int main(int argc, char **argv)
{
        if (argc == 6 && !strcmp(argv[1], "--as")) {
                matrix_report_to(atoi(argv[5]));
                return !strcmp(argv[2], "owner")    ? role_owner(argv[3], argv[4])
                       : !strcmp(argv[2], "holder") ? role_holder(argv[3], argv[4])
                                                    : role_client(argv[3], argv[4]);
        }
        const struct matrix m = {.area = "versions",
                                 .n_rows = ROWS,
                                 .n_works = WORKS,
                                 .row_name = row_name,
                                 .work_name = work_name,
                                 .run = run,
                                 .program = MATRIX_WHARFD,
                                 .program_name = "wharfd"};
        return matrix_main(&m, argc, argv);
}
