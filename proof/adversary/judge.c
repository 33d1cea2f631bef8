#include "judge.h"

#include "domain.h"
#include "party.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
        ANSWER_MS = 10000,   /* then it is stuck */
        AFTER_MS = 1000,     /* until what the adversary left is gone, but for what it waits for a processor */
        AFTER_RECEIVES = 40, /* ... and so many receives at least, on a busy machine */
        READ_MS = 20000,     /* ... and what it had sent is read, if that takes no longer */
        DOMAIN_FREE = 24,    /* of wharfd's descriptors, whatever one user takes */
        QUIET_ROUNDS = 2,    /* of the caller, until nothing that it looked up is open */
};

static const char *const names[PROGRAM_PEERS] = {"v", "r", "wharfd"};

bool judge_somebody_fell(void)
{
        for (enum party p = 0; p < PARTIES; p++) {
                int st;
                if (board->pid[p] <= 0 || waitpid(board->pid[p], &st, WNOHANG) != board->pid[p])
                        continue;
                board->pid[p] = -1;
                char kind[48];
                if (WIFSIGNALED(st))
                        snprintf(kind, sizeof kind, "crash: signal %d", WTERMSIG(st));
                else
                        snprintf(kind, sizeof kind, "crash: status %d", WEXITSTATUS(st));
                if (!WIFEXITED(st) || WEXITSTATUS(st) || p != PARTY_CALLER) /* the caller says why before it ends */
                        oracle_broken(kind, "honest party %d ended in the middle", (int)p);
                return true;
        }
        return false;
}

/* False when it does not answer: it is stuck, or gone. */
static bool take_stock(int who, struct stock *ret)
{
        if (who == PEER_W)
                return stock_look(board->wharfd, ret);
        const uint32_t asked = atomic_fetch_add(&board->stock_asked[who], 1) + 1;
        for (int64_t end = clock_ns() + ANSWER_MS * 1000000ll; clock_ns() < end; usleep(200)) {
                if (atomic_load(&board->stock_done[who]) == asked) {
                        *ret = board->stock[who];
                        return true;
                }
                if (judge_somebody_fell())
                        return false;
        }
        return false;
}

/* The caller holds nothing that it has looked up. */
static void make_quiet(void)
{
        atomic_store(&board->quiet, 1);
        const uint64_t from = atomic_load(&board->rounds);
        for (int64_t end = clock_ns() + ANSWER_MS * 1000000ll; clock_ns() < end && board->pid[PARTY_CALLER] > 0;
             usleep(200))
                if (atomic_load(&board->rounds) - from >= QUIET_ROUNDS || judge_somebody_fell())
                        return;
}

bool judge_before(const struct program *p, struct holdings *ret)
{
        ret->n = p->domain ? PROGRAM_PEERS : PROGRAM_SERVICES;
        make_quiet();
        for (int i = 0; i < ret->n; i++)
                if (!take_stock(i, &ret->stock[i]))
                        return false;
        atomic_store(&board->quiet, 0);
        return true;
}

/* Of its descriptors: a quarter stays free; at wharfd, what the shares of one user leave (docs/design/shares.md). */
static uint64_t most_of(int who, uint64_t descriptors)
{
        return who == PEER_W ? descriptors - DOMAIN_FREE : descriptors * 3 / 4;
}

/* How often it has come round, whatever a round is. */
static uint64_t turns_of(int who)
{
        return who == PEER_W ? atomic_load(&board->rounds) : atomic_load(&board->received[who]);
}

/*
 * So it was at each look while it came round a few times: what a datagram brought and is about to be closed is not what
 * it holds, and on a busy machine that may be seen for long.
 */
static bool lasts(uint64_t *since, bool now, int who)
{
        enum { ROUNDS = 3 };
        if (!now)
                *since = 0;
        else if (!*since)
                *since = turns_of(who) + 1;
        return now && turns_of(who) + 1 - *since >= ROUNDS;
}

void judge_meanwhile(const struct program *p, const struct holdings *before, unsigned looks)
{
        static uint64_t over[PROGRAM_PEERS];
        if (!looks)
                memset(over, 0, sizeof over);
        for (int i = 0; i < before->n && !oracle_same_user; i++) {
                const uint64_t descriptors = i == PEER_W ? DOMAIN_DESCRIPTORS : DESCRIPTORS;
                const struct stock *was = &before->stock[i];
                struct stock now;
                const pid_t pid = i == PEER_W ? board->wharfd : board->pid[i];
                if (pid <= 0 || !stock_look(pid, &now))
                        continue;
                const uint32_t own = i == PEER_W ? 0 : atomic_load(&board->closing[i]);
                const bool many = !p->descriptors && now.descriptors > was->descriptors + own + most_of(i, descriptors);
                if (lasts(&over[i], many, i))
                        oracle_broken("share: descriptors", "%s has %llu of %llu, and had %llu before", names[i],
                                      (unsigned long long)now.descriptors, (unsigned long long)descriptors,
                                      (unsigned long long)was->descriptors);
                enum { SHARED_SLACK = 2 << 20 };
                if (p->limits && i != PEER_W &&
                    now.shared_bytes > was->shared_bytes + MAPPED_BYTES + 2 * REPLY_BYTES + SHARED_SLACK)
                        oracle_broken("share: shared memory", "%s has %llu bytes mapped shared, and had %llu before",
                                      names[i], (unsigned long long)now.shared_bytes,
                                      (unsigned long long)was->shared_bytes);
                const uint64_t bytes = now.private_bytes + now.shared_bytes;
                if (p->limits && bytes > was->private_bytes + was->shared_bytes + SHARE_BYTES)
                        oracle_broken("share: memory", "%s has %llu bytes, and had %llu before", names[i],
                                      (unsigned long long)bytes,
                                      (unsigned long long)(was->private_bytes + was->shared_bytes));
        }
}

/* How long it was ready to run so far, and had no processor: on a busy machine that is not its fault. */
static int64_t kept_waiting_ns(int who)
{
        char path[64];
        long long ran, waited = 0;
        snprintf(path, sizeof path, "/proc/%d/schedstat", who == PEER_W ? board->wharfd : board->pid[who]);
        FILE *f = fopen(path, "re");
        if (f && fscanf(f, "%lld %lld", &ran, &waited) != 2)
                waited = 0;
        if (f)
                fclose(f);
        return waited;
}

/*
 * What wharfd was given and goes on keeping: a name or a watch lasts as long as the port that it leads to, whoever asked
 * for it. One that leads to a port of v or r is a link there, and another that events are sent on; each has its socket,
 * and a page comes with a name. Of each honest task that asks it has a pidfd as well, and an epoll for all.
 */
static struct stock given_to_wharfd(void)
{
        enum { ENTRIES_OWN = 1, LINKS_EACH = 2, FDS_EACH = 3 }; /* v's name */
        enum { PAGES = 4 }; /* v, r and the caller may first ask late; and what watches them */
        const int64_t n = (int64_t)domain_entries() - ENTRIES_OWN;
        const uint64_t given = n > 0 ? (uint64_t)n : 0;
        return (struct stock){.links = given * LINKS_EACH, .descriptors = given * FDS_EACH + PAGES};
}

static void compare(int who, const struct holdings *held)
{
        const char *what = NULL;
        struct stock now, allowed = held->stock[who];
        const struct stock *before = &held->stock[who];
        const int64_t began = clock_ns();
        int64_t from = began, kept = kept_waiting_ns(who);
        uint64_t turns = turns_of(who), strange = 0;
        for (;;) {
                if (!take_stock(who, &now)) {
                        oracle_broken("late: stuck", "%s does not come back from what it does", names[who]);
                        return;
                }
                if (who != PEER_W && atomic_load(&board->strange[who]) != strange &&
                    clock_ns() - began < READ_MS * 1000000ll) {
                        strange = atomic_load(&board->strange[who]); /* it is still being read */
                        from = clock_ns();
                        kept = kept_waiting_ns(who);
                        turns = turns_of(who);
                }
                what = stock_more(&allowed, &now);
                const int64_t now_ns = clock_ns();
                const bool late = now_ns - began > READ_MS * 1000000ll ||
                                  now_ns - from - (kept_waiting_ns(who) - kept) > AFTER_MS * 1000000ll;
                if (!what || (late && (turns_of(who) - turns > AFTER_RECEIVES || board->pid[PARTY_CALLER] <= 0)))
                        break;
                usleep(10000);
        }
        if (what && held->n > PEER_W) {
                const struct stock given = given_to_wharfd();
                allowed.links += given.links;
                allowed.descriptors += given.descriptors;
                what = stock_more(&allowed, &now);
        }
        if (!what)
                return;
        char kind[48];
        snprintf(kind, sizeof kind, who == PEER_W ? "left: wharfd's %s" : "left: %s", what);
        oracle_broken(
                kind,
                "%s: before, and after the adversary's death: links %llu %llu, descriptors %llu %llu, mapped %llu "
                "%llu, shared %llu %llu, private %llu %llu",
                names[who], (unsigned long long)before->links, (unsigned long long)now.links,
                (unsigned long long)before->descriptors, (unsigned long long)now.descriptors,
                (unsigned long long)before->mapped_bytes, (unsigned long long)now.mapped_bytes,
                (unsigned long long)before->shared_bytes, (unsigned long long)now.shared_bytes,
                (unsigned long long)before->private_bytes, (unsigned long long)now.private_bytes);
}

void judge_after(const struct holdings *before)
{
        make_quiet();
        /* First all let go of what they kept for it, which may be a right of one to another. */
        for (int i = 0; i < PROGRAM_SERVICES; i++)
                if (board->pid[i] > 0)
                        take_stock(i, &(struct stock){0});
        if (before->n > PEER_W && !domain_goes_on()) {
                oracle_broken("crash: wharfd", "wharfd ended in the middle");
                return;
        }
        for (int i = 0; i < before->n; i++)
                if (i == PEER_W || board->pid[i] > 0)
                        compare(i, before);
}
