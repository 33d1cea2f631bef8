/*
 * direct - what the proofs about processes that name each other share: a domain of the case's own, with the server of
 * this library in a process of its own, which nobody disturbs; and a ledger of who said what.
 */
#ifndef PROOF_DIRECT_H
#define PROOF_DIRECT_H

#include "engine/case.h"
#include "engine/proof.h"
#include "names/domain.h"
#include "wharfd/rules.h"
#include "wharfd/server.h"
#include "wharf/direct.h"
#include "wharf/wharf.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

struct direct_state {
        char dir[64];
        pid_t server;
        wharf_task *task[2];
        wharf_direct *d[2];
};

enum { DIRECT_MESSAGE_MAX = 6000 };

static inline struct direct_state *direct(struct proof *p)
{
        return p->state;
}

static inline void direct_serve(struct proof *p, int listener)
{
        wharf_task *task;
        struct wharf_task_opts o = {.size = sizeof o, .spin_us_max = WHARF_NO_SPIN};
        struct wh_server *s;
        PROOF_EQ(p, wharf_task_open(&o, &task), 0);
        PROOF_EQ(p, wh_server_new(task, listener, wh_rules_new(true), NULL, &s), 0);
        for (;;)
                PROOF_CHECK(p, wh_server_run(s, -1, (int64_t)1000 * 1000000000) >= 0);
}

/* The directory, and what there may be in it. */
static inline int direct_remove(const char *dir)
{
        char path[WH_DOMAIN_SOCKET_MAX];
        snprintf(path, sizeof path, "%s/bootstrap", dir);
        unlink(path);
        snprintf(path, sizeof path, "%s/lock", dir); /* of who was told that nobody listens */
        unlink(path);
        return rmdir(dir);
}

static inline void direct_setup(struct proof *p)
{
        struct direct_state *s = direct(p);
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        snprintf(s->dir, sizeof s->dir, "/tmp/wharf-proof.%d.d", (int)getpid());
        direct_remove(s->dir); /* of a case that was killed, and had our number */
        PROOF_EQ(p, mkdir(s->dir, 0700), 0);
        PROOF_EQ(p, setenv("WHARF_DOMAIN", s->dir, 1), 0);
        PROOF_EQ(p, setenv("WHARFD", "/nowhere", 1), 0); /* nobody starts another */
        PROOF_EQ(p, wh_domain_socket_path(s->dir, sa.sun_path), 0);
        PROOF_EQ(p, bind(listener, (struct sockaddr *)&sa, sizeof sa), 0);
        PROOF_EQ(p, listen(listener, 16), 0);
        if ((s->server = proof_fork(p)) == 0)
                direct_serve(p, listener);
        close(listener);
}

/* All names are gone, and nobody has left anything beside the socket. */
static inline void direct_nothing_left(struct proof *p)
{
        struct wharf_named *all = NULL;
        size_t n;
        wharf_task *t;
        PROOF_EQ(p, wharf_task_open(NULL, &t), 0);
        PROOF_EQ(p, wharf_names_list(t, &all, &n), 0);
        PROOF_EQ(p, n, 0);
        free(all);
        wharf_task_close(t);
        DIR *d = opendir(direct(p)->dir);
        PROOF_CHECK(p, d);
        for (struct dirent *e; (e = readdir(d));)
                PROOF_CHECK(p, e->d_name[0] == '.' || !strcmp(e->d_name, "bootstrap"));
        closedir(d);
}

static inline void direct_teardown(struct proof *p)
{
        struct direct_state *s = direct(p);
        for (unsigned i = 0; i < 2; i++) {
                s->d[i] = wharf_direct_leave(s->d[i]);
                s->task[i] = wharf_task_close(s->task[i]);
        }
        kill(s->server, SIGKILL);
        PROOF_EQ(p, waitpid(s->server, NULL, 0), s->server);
        PROOF_EQ(p, direct_remove(s->dir), 0);
}

static inline void direct_join_as(struct proof *p, unsigned i, const char *name)
{
        PROOF_EQ(p, wharf_direct_join(direct(p)->task[i], name, &direct(p)->d[i]), 0);
}

static inline void direct_join(struct proof *p, unsigned i, const char *name)
{
        PROOF_EQ(p, wharf_task_open(NULL, &direct(p)->task[i]), 0);
        direct_join_as(p, i, name);
}

static inline void direct_leave(struct proof *p, unsigned i)
{
        direct(p)->d[i] = wharf_direct_leave(direct(p)->d[i]);
        direct(p)->task[i] = wharf_task_close(direct(p)->task[i]);
}

/* Message n of the ledger: cold at first, then in the ring, now and then in a section. */
static inline uint32_t direct_message(uint64_t n, uint8_t *ret)
{
        uint32_t len = n % 7 == 6 ? 5000 : 8 + (uint32_t)(n * 13 % 90);
        for (uint32_t i = 0; i < len; i++)
                ret[i] = (uint8_t)((n + i) % 100);
        return len;
}

#endif
