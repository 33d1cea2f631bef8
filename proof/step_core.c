/*
 * step over the operations that everything else is made of, by the public calls: a small message sent, a large one,
 * both received, a call and its reply, a heap, a mutex and a semaphore. Compiled twice, as step_lane.c is.
 *
 * The shared memory of the process under proof is found in its list of mappings and read from outside, since a task's
 * forked child would lose all of it. Both programs begin with the same bytes in the heap, which one of them formats and
 * the other reads from a file.
 */
#include "engine/step.h"
#include "os/os.h"
#include "os/task.h"
#include "wharf/heap.h"
#include "wharf/sync.h"
#include "wharf/wharf.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef STEP_HOOKED
#include "runtime/hook.h"
#endif

enum { HEAP_LEN = 48 << 10, LOCKS_LEN = 4096, LARGE = 3000, SHOWN_MAX = 16, LINE = 64 };

static wharf_task *task;
static wharf_name port, right;
static uint8_t *heap_at;
static struct locks {
        wharf_mutex mutex;
        wharf_sem sem;
} * locks;
static wharf_heap *heap;
static const char *prefix;

static void die(const char *what)
{
        fprintf(stderr, "step core: %s\n", what);
        exit(1);
}

static void must(int r, const char *what)
{
        if (r < 0) {
                fprintf(stderr, "step core: %s: %s\n", what, strerrorname_np(-r));
                exit(1);
        }
}

/* ---- the operations ---- */

static void send_len(size_t len)
{
        static uint8_t bytes[LARGE];
        memset(bytes, 'm', sizeof bytes);
        must(wharf_send(task, right, bytes, len, 0), "send");
}

static void receive(void)
{
        uint8_t bytes[LARGE];
        ssize_t n = wharf_recv(task, port, bytes, sizeof bytes, NULL, 0);
        must(n < 0 ? (int)n : 0, "receive");
}

static void send_small(void)
{
        for (int i = 0; i < 3; i++)
                send_len(24 + 24 * (size_t)i);
}

static void send_large(void)
{
        for (int i = 0; i < 3; i++)
                send_len(LARGE);
}

static void receive_three(void)
{
        for (int i = 0; i < 3; i++)
                receive();
}

/* So many that the sender is told now and then. */
enum { MANY = 90 };
static void receive_many(void)
{
        for (int i = 0; i < MANY; i++)
                receive();
}

/* Both lanes are there, and nothing lies in them. */
static void setup_port(void)
{
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS, .capacity_records = 128};
        must(wharf_task_open(NULL, &task), "task");
        must(wharf_port_new(task, &o, &port), "port");
        must(wharf_right_new(task, port, &right), "right");
        for (int i = 0; i < 40; i++) {
                send_len(i < 30 ? 16 : LARGE);
                receive();
        }
}

static void call(void)
{
        uint8_t bytes[64] = {1}, back[64], got[64];
        struct wharf_msg req = {.size = sizeof req, .data = bytes, .len_bytes = 32},
                         in = {.size = sizeof in, .data = got, .cap_bytes = sizeof got},
                         reply = {.size = sizeof reply, .data = back, .cap_bytes = sizeof back};
        uint32_t number;
        must(wharf_call_start(task, right, &req, WHARF_NONE, 0, &number), "call");
        must(wharf_recvmsg(task, port, &in, 0), "serve");
        must(wharf_reply(task, in.reply, bytes, 16), "reply");
        must(wharf_call_finish(task, right, number, &reply, 0), "finish");
}

static void setup_call(void)
{
        setup_port();
        for (int i = 0; i < 30; i++)
                call();
}

static void setup_small(void)
{
        setup_port();
        for (int i = 0; i < MANY; i++)
                send_len(24);
}

static void setup_large(void)
{
        setup_port();
        send_large();
}

static void *shared(size_t len)
{
        void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
                die("mmap");
        return p;
}

/* The image is made by whoever comes first. */
static void setup_heap(void)
{
        char path[512];
        snprintf(path, sizeof path, "%s.image", prefix);
        heap_at = shared(HEAP_LEN);
        FILE *f = fopen(path, "re");
        if (f) {
                if (fread(heap_at, HEAP_LEN, 1, f) != 1)
                        die("the heap's image is short");
        } else {
                struct wharf_heap_opts o = {.size = sizeof o, .policy = WHARF_HEAP_BEST_FIT, .owners_max = 8};
                must(wharf_heap_format(heap_at, HEAP_LEN, &o), "format");
                f = fopen(path, "we");
                if (!f || fwrite(heap_at, HEAP_LEN, 1, f) != 1)
                        die("cannot write the heap's image");
        }
        fclose(f);
        must(wharf_heap_open(heap_at, HEAP_LEN, &heap), "open");
}

static void use_heap(void)
{
        uint64_t a, b;
        must(wharf_heap_alloc(heap, 100, 0, 0, 0, &a), "alloc");
        must(wharf_heap_alloc(heap, 300, 0, 0, 0, &b), "alloc");
        must(wharf_heap_free(heap, a), "free");
        must(wharf_heap_resize(heap, b, 500, 0, &b), "resize");
        must(wharf_heap_free(heap, b), "free");
}

static void setup_locks(void)
{
        locks = shared(LOCKS_LEN);
        wharf_mutex_init(&locks->mutex);
        must(wharf_sem_init(&locks->sem, 2, WHARF_SEM_OWNED), "semaphore");
}

static void use_mutex(void)
{
        must(wharf_mutex_lock(&locks->mutex, 0), "lock");
        must(wharf_mutex_unlock(&locks->mutex), "unlock");
}

static void use_sem(void)
{
        must(wharf_sem_take(&locks->sem, 0), "take");
        must(wharf_sem_take(&locks->sem, 0), "take");
        must(wharf_sem_give(&locks->sem), "give");
        must(wharf_sem_give(&locks->sem), "give");
}

static const struct {
        const char *name;
        void (*setup)(void), (*run)(void);
} ops[] = {{"send", setup_port, send_small},
           {"send-section", setup_port, send_large},
           {"receive", setup_small, receive_many},
           {"receive-section", setup_large, receive_three},
           {"call", setup_call, call},
           {"heap", setup_heap, use_heap},
           {"mutex", setup_locks, use_mutex},
           {"semaphore", setup_locks, use_sem}};
enum { N_OPS = sizeof ops / sizeof *ops };

/* ---- the shared memory of a process, seen from outside ---- */

static struct shown {
        uint64_t at, len, ino;
        char name[40];
        bool ring, hidden;
} shown[SHOWN_MAX];
static unsigned n_shown;
static pid_t whose;

static int by_name(const void *a, const void *b)
{
        const struct shown *x = a, *y = b;
        int c = strcmp(x->name, y->name);
        return c ? c : x->ino < y->ino ? -1 : x->ino > y->ino;
}

/* Each memory once, in the order of their names and of their making: the same for both programs. */
static void look_at(pid_t pid)
{
        char path[64], line[512], perms[8];
        snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
        FILE *f = fopen(path, "re");
        n_shown = 0;
        whose = pid;
        while (f && fgets(line, sizeof line, f)) {
                uint64_t lo, hi;
                struct shown s = {0};
                if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %*s %*s %" SCNu64 " %39[^\n ]", &lo, &hi, perms, &s.ino,
                           s.name) < 5 ||
                    perms[3] != 's')
                        continue;
                bool again = false;
                for (unsigned i = 0; i < n_shown; i++)
                        again |= shown[i].ino == s.ino;
                if (again)
                        continue;
                if (n_shown == SHOWN_MAX)
                        die("too many mappings");
                s.at = lo;
                s.len = hi - lo;
                s.ring = strstr(s.name, "wharf-out");
                s.hidden = strstr(s.name, "wharf-section"); /* payloads: nobody looks before the record is there */
                shown[n_shown++] = s;
        }
        if (f)
                fclose(f);
        qsort(shown, n_shown, sizeof *shown, by_name);
}

/*
 * What a process calls itself, in halves, and its one thread: these differ from process to process, and mean the same.
 */
static uint32_t role_of(uint32_t half, uint64_t id)
{
        const uint32_t sleeps = 0x80000000u; /* memory/mutex.h */
        if (id && (half & ~sleeps) == (uint32_t)id)
                return (half & sleeps) | 1;
        if (id && half == id >> 32)
                return 2;
        return half == (uint32_t)whose ? 3 : half;
}

static uint64_t state_hash(void)
{
        static uint64_t words[(1 << 20) / 8];
        uint64_t h = 14695981039346656037u, id;
        /* The program that is traced is a copy of this one. */
        struct iovec own = {&id, sizeof id}, its = {&wh_task_known, sizeof id};
        if (process_vm_readv(whose, &own, 1, &its, 1, 0) != sizeof id)
                die("cannot read who is under proof");
        for (unsigned i = 0; i < n_shown; i++) {
                const struct shown *s = &shown[i];
                if (s->hidden)
                        continue;
                struct iovec to = {words, s->len}, from = {(void *)(uintptr_t)s->at, s->len};
                if (s->len > sizeof words || process_vm_readv(whose, &to, 1, &from, 1, 0) != (ssize_t)s->len)
                        die("cannot read the memory under proof");
                for (size_t w = 0; w < s->len / 8; w++) {
                        uint64_t v = words[w];
                        if (!v || (s->ring && w >= 4096 / 8 && w % (LINE / 8)))
                                continue; /* of a record only its head: the rest is not there before it */
                        v = role_of((uint32_t)v, id) | (uint64_t)role_of((uint32_t)(v >> 32), id) << 32;
                        h = (h ^ v ^ (w << 20) ^ i) * 1099511628211u;
                        h ^= h >> 31;
                }
        }
        return h;
}

#ifdef STEP_HOOKED

static int on_step(const struct hook_step *s)
{
        proof_step_state(state_hash());
        return 0;
}

int main(int argc, char **argv)
{
        if (argc != 3)
                return 2;
        const unsigned i = (unsigned)atoi(argv[2]);
        char path[512];
        prefix = argv[1];
        snprintf(path, sizeof path, "%s.states", prefix);
        ops[i].setup();
        look_at(getpid());
        hook_arm(on_step);
        ops[i].run();
        hook_disarm();
        proof_step_state(state_hash());
        return !proof_step_write(path);
}

#else

int main(int argc, char **argv)
{
        char hooked[512], path[600], mine[64];
        unsigned long long steps = 0;
        unsigned bad = 0, states = 0;
        snprintf(hooked, sizeof hooked, "%s_hooked", argv[0]);
        snprintf(mine, sizeof mine, "/tmp/wharf-step.%d", (int)getpid());
        prefix = mine;
        for (unsigned i = 0; i < N_OPS; i++) {
                char number[8];
                int st;
                snprintf(number, sizeof number, "%u", i);
                pid_t pid = fork();
                if (pid == 0) {
                        execl(hooked, hooked, prefix, number, (char *)NULL);
                        _exit(127);
                }
                if (pid < 0 || waitpid(pid, &st, 0) < 0 || !WIFEXITED(st) || WEXITSTATUS(st))
                        die("the hooked program failed");
                snprintf(path, sizeof path, "%s.states", prefix);
                proof_step_forget();
                if (!proof_step_read(path))
                        die("no states");
                unlink(path);

                fflush(NULL);
                pid = fork();
                if (pid == 0) {
                        prctl(PR_SET_PDEATHSIG, SIGKILL);
                        ops[i].setup();
                        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
                        raise(SIGSTOP);
                        ops[i].run();
                        raise(SIGSTOP);
                        _exit(0);
                }
                if (pid < 0 || waitpid(pid, &st, 0) < 0 || !WIFSTOPPED(st))
                        die("the program under proof does not start");
                look_at(pid);
                unsigned seen = 0, unknown = 0;
                unsigned long long n = 0;
                uint64_t last = 0;
                for (;; n++) {
                        uint64_t h = state_hash();
                        if (h != last) {
                                last = h;
                                seen++;
                                unknown += !proof_step_known(h);
                        }
                        if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) < 0 || waitpid(pid, &st, 0) < 0 ||
                            !WIFSTOPPED(st))
                                die("the program under proof does not end");
                        if (WSTOPSIG(st) == SIGSTOP)
                                break;
                }
                kill(pid, SIGKILL);
                waitpid(pid, &st, 0);
                steps += n;
                states += seen;
                if (unknown || seen < 2) {
                        fprintf(stderr,
                                "step core: %s: %u of %u states at %llu instructions are none that the hooks "
                                "see\n",
                                ops[i].name, unknown, seen, n);
                        bad++;
                }
                if (argc > 1 && !strcmp(argv[1], "--verbose"))
                        printf("%s: instructions %llu, states %u\n", ops[i].name, n, seen);
        }
        snprintf(path, sizeof path, "%s.image", prefix);
        unlink(path);
        printf("step core: operations %d, instructions %llu, states %u%s\n", N_OPS, steps, states,
               bad ? ", FAILED" : "");
        return bad != 0;
}

#endif
