#include "world.h"

#include "domain.h"
#include "judge.h"
#include "moves.h"
#include "party.h"

#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
        START_MS = 30000,
        ADVERSARY_MS = 6000, /* then it is killed: it may have stopped itself for good */
        HONEST_MS = 6000,    /* longer than a call of the caller takes to fail */
        UID_BASE = 61000,    /* nobody's, we hope; two for each number */
        UID_DOMAIN = UID_BASE + 100,
};

static char folder[64], paths[PROGRAM_PEERS][112];
static const char *const path[PROGRAM_PEERS] = {paths[0], paths[1], paths[2]};
static struct states *states;
static unsigned number;

static void *page_new(size_t len)
{
        void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        return at == MAP_FAILED ? NULL : at;
}

bool world_open(unsigned n, struct states *s)
{
        number = n;
        states = s;
        oracle_same_user = geteuid() != 0;
        board = page_new(sizeof *board);
        outside = page_new(sizeof *outside);
        const char *tmp = getenv("TMPDIR");
        snprintf(folder, sizeof folder, "%.30s/wharf-adversary-XXXXXX", tmp && strlen(tmp) <= 30 ? tmp : "/tmp");
        if (!board || !outside || !mkdtemp(folder) || chmod(folder, 0755) < 0)
                return false;
        for (int i = 0; i < PROGRAM_SERVICES; i++)
                snprintf(paths[i], sizeof paths[i], "%s/%c", folder, "vr"[i]);
        if (!domain_place(folder, oracle_same_user ? getuid() : UID_DOMAIN + number)) {
                world_close();
                return false;
        }
        snprintf(paths[PEER_W], sizeof paths[PEER_W], "%s", domain_socket());
        prctl(PR_SET_CHILD_SUBREAPER, 1);
        return oracle_watch_for_gaps();
}

void world_close(void)
{
        for (int i = 0; i < PROGRAM_SERVICES; i++)
                unlink(paths[i]);
        domain_place_gone();
        rmdir(folder);
}

bool verdict_has(const struct verdict *v, const char *kind)
{
        for (uint32_t i = 0; i < v->n_violations && i < VIOLATIONS_MAX; i++)
                if (!kind || !strncmp(v->violation[i].kind, kind, strlen(kind)))
                        return true;
        return false;
}

/* ---- processes ---- */

static uid_t uid_of(enum party p)
{
        return oracle_same_user || p != PARTY_CALLER ? getuid() : UID_BASE + 2 * number + 1;
}

static void become(uid_t uid)
{
        if (uid == getuid())
                return;
        if (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0)
                _exit(3);
}

static int listen_at(const char *at)
{
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        snprintf(a.sun_path, sizeof a.sun_path, "%s", at);
        unlink(at);
        if (s < 0 || bind(s, (struct sockaddr *)&a, sizeof a) < 0 || chmod(at, 0666) < 0 || listen(s, 64) < 0)
                abort();
        return s;
}

static bool wait_ready(enum party p, uint32_t how)
{
        for (int64_t end = clock_ns() + START_MS * 1000000ll; clock_ns() < end; usleep(100)) {
                if (atomic_load(&board->ready[p]) >= how)
                        return true;
                if (judge_somebody_fell())
                        return false;
        }
        return false;
}

static void start_service(enum party p, const int listener[PROGRAM_SERVICES], const struct program *world)
{
        pid_t pid = fork();
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                close(listener[!p]);
                board->pid[p] = board->was[p] = getpid();
                party_service(p, listener[p], path[!p], world);
        }
        board->pid[p] = board->was[p] = pid;
        board->uid[p] = uid_of(p);
}

static void start_caller(const struct program *world)
{
        pid_t pid = fork();
        board->uid[PARTY_CALLER] = uid_of(PARTY_CALLER);
        if (pid == 0) {
                become(uid_of(PARTY_CALLER));
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                board->pid[PARTY_CALLER] = board->was[PARTY_CALLER] = getpid();
                party_caller(path, world);
        }
        board->pid[PARTY_CALLER] = board->was[PARTY_CALLER] = pid;
}

/* All in it: those that it has started are of its group, and become our children when it ends. */
static void end_group(pid_t group)
{
        kill(-group, SIGKILL);
        while (waitpid(-group, NULL, 0) > 0 || errno == EINTR)
                ;
}

static void run_adversary(const struct program *p, const struct holdings *before)
{
        pid_t pid = fork();
        if (pid == 0) {
                setpgid(0, 0);
                munmap(board, sizeof *board); /* what the honest say of each other is not for it */
                become(outside->uid);
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                syscall(SYS_close_range, 3u, ~0u, 0u);
                adversary_run(p, path, states);
        }
        setpgid(pid, pid);
        unsigned looks = 0;
        for (int64_t end = clock_ns() + ADVERSARY_MS * 1000000ll; clock_ns() < end; usleep(300)) {
                siginfo_t si = {0};
                if (++looks % 32 == 0)
                        judge_meanwhile(p, before, looks / 32 - 1);
                if ((waitid(P_PID, (id_t)pid, &si, WEXITED | WNOHANG | WNOWAIT) == 0 && si.si_pid) ||
                    judge_somebody_fell())
                        break;
        }
        end_group(pid);
        atomic_store(&board->adversary_over, 1);
}

/* Honest calls go on, or the caller has said why not. */
static void wait_for_calls(int peers)
{
        uint64_t from[PROGRAM_PEERS];
        for (int i = 0; i < peers; i++)
                from[i] = atomic_load(&outside->calls[i]);
        for (int64_t end = clock_ns() + HONEST_MS * 1000000ll; clock_ns() < end; usleep(200)) {
                int done = 0;
                for (int i = 0; i < peers; i++)
                        done += atomic_load(&outside->calls[i]) - from[i] >= 2;
                if (done == peers || judge_somebody_fell())
                        return;
        }
}

/* ---- one case ---- */

/* Does it say no more than that something took long? */
static bool is_of_time(const char *kind)
{
        static const char *const words[] = {
                "late: ", "left: ", "share: ", "call: ETIMEDOUT", "look-up: ETIMEDOUT", "crash: status 3"};
        for (unsigned i = 0; i < sizeof words / sizeof *words; i++)
                if (!strncmp(kind, words[i], strlen(words[i])))
                        return true;
        return false;
}

static void reset(const struct program *p)
{
        memset(board, 0, offsetof(struct board, said));
        memset(outside, 0, sizeof *outside);
        uint64_t random = (uint64_t)clock_ns() ^ p->seed;
        for (int i = 0; i < PARTIES; i++)
                for (int k = 0; k < SECRET_BYTES; k += 8) {
                        uint64_t word = program_random(&random);
                        memcpy(board->secret[i] + k, &word, sizeof word);
                }
        memcpy(outside->secret, board->secret, sizeof outside->secret);
        outside->uid = oracle_same_user ? getuid() : UID_BASE + 2 * number;
}

static void end_party(enum party p)
{
        atomic_store(&board->stop[p], 1);
        for (int64_t end = clock_ns() + HONEST_MS * 1000000ll; board->pid[p] > 0 && clock_ns() < end; usleep(200)) {
                int st;
                if (waitpid(board->pid[p], &st, WNOHANG) != board->pid[p])
                        continue;
                board->pid[p] = -1;
                if (st)
                        oracle_broken("crash: at its end", "honest party %d ended with status %#x", (int)p, st);
        }
        if (board->pid[p] <= 0)
                return;
        oracle_broken("late: stuck", "honest party %d does not come back from what it does", (int)p);
        kill(board->pid[p], SIGKILL);
        waitpid(board->pid[p], NULL, 0);
}

static bool start(const struct program *p)
{
        if (p->domain && !(board->wharfd = domain_start()))
                return false;
        setenv("WHARF_DOMAIN", domain_path(), 1);
        const int listener[PROGRAM_SERVICES] = {listen_at(paths[0]), listen_at(paths[1])};
        for (enum party k = 0; k < PARTY_CALLER; k++)
                start_service(k, listener, p);
        close(listener[0]);
        close(listener[1]);
        if (!wait_ready(PARTY_V, READY) || !wait_ready(PARTY_R, READY))
                return false;
        for (enum party k = 0; k < PARTY_CALLER; k++) { /* one after the other: each receives while it is greeted */
                atomic_store(&board->greet[k], 1);
                if (!wait_ready(k, READY_AND_KNOWN))
                        return false;
        }
        start_caller(p);
        return wait_ready(PARTY_CALLER, READY);
}

void world_run(const struct program *p, struct verdict *ret)
{
        struct holdings before;
        *ret = (struct verdict){0};
        reset(p);
        ret->ran = start(p) && judge_before(p, &before);
        if (ret->ran) {
                run_adversary(p, &before);
                wait_for_calls(before.n);
                judge_after(&before);
        }
        for (int k = PARTIES - 1; k >= 0; k--)
                end_party((enum party)k);
        domain_end();
        uint32_t seen = atomic_load(&outside->secret_seen);
        if (seen)
                oracle_broken("private: read", "the adversary has seen the memory of honest party %u", seen - 1);
        const bool gap = atomic_load(&board->n_violations) && oracle_was_gap();
        for (uint32_t i = 0; i < atomic_load(&board->n_violations) && i < VIOLATIONS_MAX; i++)
                if (!gap || !is_of_time(board->violation[i].kind))
                        ret->violation[ret->n_violations++] = board->violation[i];
        ret->moves = atomic_load(&outside->n_moves);
        for (int i = 0; i < PROGRAM_PEERS; i++)
                ret->calls[i] = atomic_load(&outside->calls[i]);
        memcpy(ret->result, outside->result, sizeof ret->result);
}
