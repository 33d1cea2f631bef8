/*
 * The caller: it calls both services in turn, and looks one of them up at wharfd where there is one, until it is told
 * to stop. It ends with the first answer that is wrong, or does not come.
 */
#include "party.h"

#include <wharf/wharf.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
        CALL_MS = 4000,
        WARM_CALLS = 40, /* until its messages travel in shared memory */
};

struct caller {
        wharf_task *task;
        wharf_name right[PROGRAM_SERVICES];
        uint64_t n, random;
};

static const char *const names[PROGRAM_PEERS] = {"v", "r", "wharfd"};

/* When it began; how long the service had waited for a processor by then, and we. */
struct began {
        int64_t at_ns;
        pid_t pid;
        uint64_t waited_ns, own_ns, stolen_ns;
};

static struct began begin(int peer)
{
        const pid_t pid = peer == PEER_W ? board->wharfd : board->pid[peer];
        return (struct began){clock_ns(), pid, waited_ns(pid), waited_ns(0), atomic_load(&board->stolen_ns)};
}

/* For how long one of the two waited for a processor, since then. */
static int64_t waited_since(const struct began *b)
{
        return (int64_t)(waited_ns(b->pid) - b->waited_ns + waited_ns(0) - b->own_ns);
}

static void look_at_time(const char *what, int peer, const struct began *b)
{
        const int64_t took = clock_ns() - b->at_ns;
        if (took < LATE_CALL_MS * 1000000ll)
                return;
        const int64_t waited = waited_since(b);
        char kind[48];
        if (took - waited < LATE_CALL_MS * 1000000ll ||
            took - waited - oracle_stolen_since(b->stolen_ns) < LATE_CALL_MS * 1000000ll)
                return;
        snprintf(kind, sizeof kind, "late: %s", what);
        oracle_broken(kind, "a %s to %s took %.0f ms, in %.0f of which it or %s waited for a processor", what,
                      names[peer], (double)took / 1e6, (double)waited / 1e6, names[peer]);
}

/* A failed call is the adversary's doing only where the service had a processor to answer on. */
static void failed(const char *what, int peer, int r, const struct began *b)
{
        char kind[48];
        const int64_t took = clock_ns() - b->at_ns;
        if (r == -ETIMEDOUT && took - waited_since(b) < LATE_CALL_MS * 1000000ll)
                return;
        if (atomic_load(&board->stop[PARTY_CALLER]))
                return;
        snprintf(kind, sizeof kind, "%s: %s", what, strerrorname_np(-r));
        oracle_broken(kind, "a %s to %s of %d ms answered %s after %.0f ms: %s", what, names[peer], CALL_MS,
                      wharf_strerror(r), (double)took / 1e6, wharf_why());
}

static bool call(struct caller *c, int peer, wharf_name right)
{
        uint8_t bytes[CALL_BYTES] = {0}, back[CALL_BYTES + 1];
        snprintf((char *)bytes, sizeof bytes, "call %llu of the caller, %016llx", (unsigned long long)c->n++,
                 (unsigned long long)program_random(&c->random));
        oracle_says(PARTY_CALLER, SAID_MESSAGE, 0, bytes, sizeof bytes);
        const struct began began = begin(peer);
        ssize_t r = wharf_call(c->task, right, bytes, sizeof bytes, back, sizeof back, wharf_in_ms(CALL_MS));
        if (r < 0) {
                failed("call", peer, (int)r, &began);
                return false;
        }
        look_at_time("call", peer, &began);
        if (r != sizeof bytes || memcmp(bytes, back, sizeof bytes)) {
                oracle_broken("answer: another's", "a call to %s brought %zd bytes that were not sent", names[peer], r);
                return false;
        }
        return true;
}

/* The name leads to who has registered it. */
static bool look_up(struct caller *c)
{
        const struct began began = begin(PEER_W);
        wharf_name right;
        int r = wharf_lookup(c->task, program_names[NAME_OF_V], wharf_in_ms(CALL_MS), &right);
        if (r < 0) {
                failed("look-up", PEER_W, r, &began);
                return false;
        }
        look_at_time("look-up", PEER_W, &began);
        bool good = call(c, PEER_V, right);
        wharf_drop(c->task, right);
        return good;
}

static bool go_round(struct caller *c, bool domain)
{
        for (int peer = 0; peer < PROGRAM_SERVICES; peer++) {
                if (!call(c, peer, c->right[peer]))
                        return false;
                atomic_fetch_add(&outside->calls[peer], 1);
        }
        if (!domain || atomic_load(&board->quiet))
                return true;
        if (!look_up(c))
                return false;
        atomic_fetch_add(&outside->calls[PEER_W], 1);
        return true;
}

/* Nobody here registers it, and others may not. */
static void look_for_roots(struct caller *c)
{
        wharf_name right;
        int r = wharf_lookup(c->task, program_names[NAME_OF_ROOT], 0, &right);
        if (r == 0)
                oracle_broken("identity: a name of root's", "somebody has registered %s, which only root may",
                              program_names[NAME_OF_ROOT]);
}

_Noreturn void party_caller(const char *const path[PROGRAM_PEERS], const struct program *world)
{
        struct caller c = {.random = (uint64_t)clock_ns()};
        secret_place(PARTY_CALLER);
        if (wharf_task_open(NULL, &c.task) < 0)
                _exit(3);
        for (int peer = 0; peer < PROGRAM_SERVICES; peer++)
                if (wharf_right_connect(c.task, path[peer], &c.right[peer]) < 0)
                        _exit(3);
        for (int i = 0; i < WARM_CALLS; i++)
                if (!go_round(&c, world->domain))
                        _exit(3);
        atomic_store(&board->ready[PARTY_CALLER], READY);
        while (!atomic_load(&board->stop[PARTY_CALLER])) {
                if (!go_round(&c, world->domain))
                        _exit(0); /* it was said */
                atomic_fetch_add(&board->rounds, 1);
                usleep(700);
        }
        if (world->domain && !oracle_same_user)
                look_for_roots(&c);
        if (!secret_there(PARTY_CALLER))
                oracle_broken("private: written", "a byte of the caller's memory was changed");
        _exit(0);
}
