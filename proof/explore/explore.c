#include "explore.h"

#include "os/os.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

enum {
        LOCATIONS = 192,
        HISTORY = 64,
        STALE_BACK = 3, /* how far back a stale load looks, at most */
        DEPTH = 4096,
        STEPS_MAX = 20000,
        STACK = 256 << 10,
        CELL = 2, /* bytes that races are told apart by */
        CELLS = 1 << 19,
        MEMORIES = 64,
};

struct view {
        uint16_t at[LOCATIONS];
        uint16_t clock[EXPLORE_PARTIES]; /* happens-before, for plain accesses */
};

struct message {
        uint64_t value;
        struct view view; /* what an acquire load takes over */
};

/* What may be mapped more than once: cells and locations go by the place in it, whichever mapping leads there. */
struct memory {
        uint64_t dev, ino;
        const uint8_t *at; /* of anonymous memory, which has no number */
        size_t from, len;  /* among all cells' bytes */
};

struct location {
        size_t place;
        unsigned len;
        uint16_t n;
        struct message m[HISTORY];
};

struct cell {
        uint32_t execution;             /* of another one: empty */
        uint8_t write_by, write_atomic; /* write_by: party + 1 */
        uint16_t write_clock;
        uint16_t read_clock[EXPLORE_PARTIES], atomic_clock[EXPLORE_PARTIES];
};

enum state { READY, ASLEEP, OVER };

static struct party {
        ucontext_t context;
        enum state state;
        unsigned bell;
        bool may_rest, killed, woke_for_nothing;
        struct view now, acquired,
                released; /* acquired: by relaxed loads, for a fence to come; released: by the last one */
} party[EXPLORE_PARTIES];

static const struct explore *x;
static unsigned n_parties, current;
static ucontext_t outside;
static char *stacks;
static struct location *location;
static unsigned n_locations;
static struct cell *cells;
static struct memory memory[MEMORIES];
static unsigned n_memories;
static uint32_t execution;
static struct view socket_view; /* what was known when something was sent on a socket, or done to one */
static struct view everybody;   /* the view that seq_cst fences share */
static struct view bell_view[EXPLORE_BELLS];
static unsigned bell_count[EXPLORE_BELLS];
static struct explored *result;
static bool failed, inside;
static unsigned steps;
static unsigned preemptions_left, stale_left, spurious_left, kills_left;

/* ---- choices ---- */

static struct {
        uint16_t taken, of;
} choice[DEPTH];
static unsigned depth, replay_to;
static bool at_random;
static uint64_t random_state;

static uint64_t random_next(void)
{
        uint64_t z = random_state += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
}

/* One of n; 0 is what happens when nothing special does. */
static unsigned choose(unsigned n)
{
        if (n <= 1)
                return 0;
        unsigned c = 0;
        if (depth < replay_to)
                c = choice[depth].taken < n ? choice[depth].taken : 0; /* real sockets: see E3 */
        else if (at_random)
                c = random_next() % 4 ? 0 : (unsigned)(random_next() % n);
        if (depth == DEPTH)
                explore_fail("more than %d choices in one execution", DEPTH);
        choice[depth].taken = (uint16_t)c;
        choice[depth++].of = (uint16_t)n;
        return c;
}

/* The next execution of the depth-first walk; false when there is none. */
static bool next_path(void)
{
        while (depth && choice[depth - 1].taken + 1u >= choice[depth - 1].of)
                depth--;
        if (!depth)
                return false;
        choice[depth - 1].taken++;
        replay_to = depth;
        return true;
}

void explore_fail(const char *fmt, ...)
{
        if (!failed) {
                va_list ap;
                va_start(ap, fmt);
                vsnprintf(result->why, sizeof result->why, fmt, ap);
                va_end(ap);
                size_t n = 0;
                for (unsigned i = 0; i < depth && n + 8 < sizeof result->replay; i++)
                        n += (size_t)snprintf(result->replay + n, sizeof result->replay - n, i ? ".%u" : "%u",
                                              choice[i].taken);
        }
        failed = true;
        if (inside)
                setcontext(&outside);
        fprintf(stderr, "explore: %s\n", result->why);
        exit(1);
}

/* ---- who runs ---- */

static void switch_to(unsigned next)
{
        if (next == current)
                return;
        unsigned was = current;
        current = next;
        swapcontext(&party[was].context, &party[next].context);
}

static void view_join(struct view *to, const struct view *from)
{
        for (unsigned i = 0; i < n_locations; i++)
                if (from->at[i] > to->at[i])
                        to->at[i] = from->at[i];
        for (unsigned i = 0; i < n_parties; i++)
                if (from->clock[i] > to->clock[i])
                        to->clock[i] = from->clock[i];
}

static bool can_run(unsigned i)
{
        return party[i].state == READY || (party[i].state == ASLEEP && bell_count[party[i].bell]);
}

/* The current party cannot go on, or has ended: somebody else, or the end of the execution. */
static void yield_blocked(void)
{
        unsigned list[2 * EXPLORE_PARTIES], n = 0;
        for (unsigned i = 0; i < n_parties; i++)
                if (can_run(i))
                        list[n++] = i;
        unsigned awake = n;
        for (unsigned i = 0; i < n_parties && spurious_left && n < awake + EXPLORE_PARTIES; i++)
                if (party[i].state == ASLEEP && !can_run(i))
                        list[n++] = i;
        if (!awake) {
                for (unsigned i = 0; i < n_parties; i++)
                        if (party[i].state == ASLEEP && !party[i].may_rest)
                                explore_fail("party %u sleeps, and nobody will ever wake it", i);
                setcontext(&outside);
        }
        unsigned c = choose(n);
        unsigned next = list[c];
        party[next].woke_for_nothing = c >= awake;
        if (c >= awake)
                spurious_left--;
        party[next].state = READY;
        if (next != current)
                switch_to(next);
}

/* Before every step of the current party: somebody else may go first, or it may be its last. */
static void point(void)
{
        if (++steps > STEPS_MAX)
                explore_fail("more than %d steps: somebody spins for ever", STEPS_MAX);
        unsigned list[EXPLORE_PARTIES + 1], n = 0;
        list[n++] = current;
        for (unsigned i = 0; i < n_parties && preemptions_left; i++)
                if (i != current && can_run(i))
                        list[n++] = i;
        bool may_die = kills_left && (x->mortal >> current & 1);
        unsigned c = choose(n + may_die);
        if (c == n) {
                kills_left--;
                party[current].killed = true;
                party[current].state = OVER;
                for (unsigned b = 0; b < EXPLORE_BELLS; b++) {
                        bell_count[b]++; /* the kernel hangs up on everybody */
                        view_join(&bell_view[b], &party[current].now);
                }
                yield_blocked();
        }
        if (c) {
                preemptions_left--;
                party[list[c]].state = READY;
                switch_to(list[c]);
        }
}

void explore_sleep(unsigned bell)
{
        struct party *p = &party[current];
        point();
        if (!bell_count[bell]) {
                p->state = ASLEEP;
                p->bell = bell;
                yield_blocked();
        }
        p = &party[current];
        p->state = READY;
        bell_count[bell] = 0;
        view_join(&p->now, &bell_view[bell]);
}

void explore_ring(unsigned bell)
{
        point();
        bell_count[bell]++;
        view_join(&bell_view[bell], &party[current].now);
}

void explore_may_rest(void)
{
        party[current].may_rest = true;
}

bool explore_over(unsigned who)
{
        point();
        if (party[who].state != OVER)
                return false;
        view_join(&party[current].now, &party[who].now);
        return true;
}

/* ---- plain accesses ---- */

/* Where in all shared memory that is; SIZE_MAX: it is not shared. */
static size_t place_of(const void *at)
{
        static unsigned last;
        const struct hook_range *r = hook_range_of(at);
        if (!r)
                return SIZE_MAX;
        size_t off = (size_t)((const uint8_t *)at - r->at) + (r->ino ? (size_t)r->off : 0), len = off + r->len;
        for (unsigned k = 0; k < n_memories; k++) {
                unsigned i = (last + k) % n_memories;
                struct memory *m = &memory[i];
                if (m->ino == r->ino && m->dev == r->dev && (r->ino || m->at == r->at) && off < m->len) {
                        last = i;
                        return m->from + off;
                }
        }
        size_t from = n_memories ? memory[n_memories - 1].from + memory[n_memories - 1].len : 0;
        if (n_memories == MEMORIES || from + len > (size_t)CELLS * CELL)
                explore_fail("more shared memory than the explorer has cells for");
        memory[n_memories++] = (struct memory){r->dev, r->ino, r->ino ? NULL : r->at, from, len};
        return from + off;
}

static struct cell *cell_of(const void *at)
{
        size_t place = place_of(at);
        if (place == SIZE_MAX)
                return NULL;
        struct cell *c = &cells[place / CELL];
        if (c->execution != execution)
                *c = (struct cell){.execution = execution};
        return c;
}

static void race_check(const void *at, size_t len, bool store, bool atomic)
{
        struct view *v = &party[current].now;
        for (size_t o = 0; o < len; o += CELL) {
                struct cell *c = cell_of((const uint8_t *)at + o);
                if (!c)
                        break;
                if (c->write_by && c->write_by != current + 1 && c->write_clock > v->clock[c->write_by - 1] &&
                    !(atomic && c->write_atomic))
                        explore_fail("data race: party %u %s what party %u stores, %zu bytes into the access", current,
                                     store ? "overwrites" : "reads", c->write_by - 1, o);
                for (unsigned i = 0; i < n_parties && store; i++)
                        if (i != current &&
                            (c->read_clock[i] > v->clock[i] || (!atomic && c->atomic_clock[i] > v->clock[i])))
                                explore_fail("data race: party %u overwrites what party %u may still read", current, i);
                uint16_t now = ++v->clock[current];
                if (store) {
                        c->write_by = (uint8_t)(current + 1);
                        c->write_atomic = atomic;
                        c->write_clock = now;
                } else if (atomic) {
                        c->atomic_clock[current] = now;
                } else {
                        c->read_clock[current] = now;
                }
        }
}

/* ---- atomic accesses ---- */

static uint64_t memory_get(const void *addr, unsigned len)
{
        uint64_t v = 0;
        memcpy(&v, addr, len);
        return v;
}

static struct location *location_of(void *addr, unsigned len)
{
        struct location *l = NULL;
        size_t place = place_of(addr);
        for (unsigned i = 0; i < n_locations && !l; i++)
                if (location[i].place == place && location[i].len == len)
                        l = &location[i];
        if (!l) {
                if (n_locations == LOCATIONS)
                        explore_fail("more than %d atomic locations", LOCATIONS);
                l = &location[n_locations++];
                l->place = place;
                l->len = len;
                l->n = 1;
                l->m[0].value = memory_get(addr, len);
                memset(&l->m[0].view, 0, sizeof l->m[0].view);
        }
        /* Plain stores pass by the history: those are ordered before this by E1, and are its one value. */
        if (l->m[l->n - 1].value != memory_get(addr, len)) {
                unsigned i = (unsigned)(l - location);
                if (l->n == HISTORY)
                        explore_fail("more than %d stores to one location", HISTORY);
                l->m[l->n].value = memory_get(addr, len);
                memset(&l->m[l->n].view, 0, sizeof l->m[l->n].view);
                l->n++;
                for (unsigned k = 0; k < n_parties; k++)
                        party[k].now.at[i] = (uint16_t)(l->n - 1);
        }
        return l;
}

static bool is_acquire(int order)
{
        return order == __ATOMIC_ACQUIRE || order == __ATOMIC_CONSUME || order == __ATOMIC_ACQ_REL ||
               order == __ATOMIC_SEQ_CST;
}

static bool is_release(int order)
{
        return order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST;
}

static void fence(int order)
{
        struct party *p = &party[current];
        if (is_acquire(order))
                view_join(&p->now, &p->acquired);
        if (order == __ATOMIC_SEQ_CST) {
                view_join(&everybody, &p->now);
                /* Orders what is read, and not what happens before: clocks stay. */
                for (unsigned i = 0; i < n_locations; i++)
                        if (everybody.at[i] > p->now.at[i])
                                p->now.at[i] = everybody.at[i];
        }
        if (is_release(order))
                p->released = p->now;
}

static uint64_t read_message(struct location *l, unsigned at, int order)
{
        struct party *p = &party[current];
        p->now.at[l - location] = (uint16_t)at;
        view_join(is_acquire(order) ? &p->now : &p->acquired, &l->m[at].view);
        return l->m[at].value;
}

static void append(struct location *l, void *addr, uint64_t value, int order, const struct view *continued)
{
        struct party *p = &party[current];
        unsigned i = (unsigned)(l - location);
        if (l->n == HISTORY)
                explore_fail("more than %d stores to one location", HISTORY);
        struct message *m = &l->m[l->n];
        p->now.at[i] = l->n;
        m->value = value;
        m->view = is_release(order) ? p->now : p->released;
        m->view.at[i] = l->n++;
        if (continued)
                view_join(&m->view, continued); /* a read-modify-write goes on with the release that it read */
        memcpy(addr, &value, l->len);
}

static uint64_t model_load(void *addr, unsigned len, int order, void *site)
{
        point();
        race_check(addr, len, false, true);
        if (order == __ATOMIC_SEQ_CST)
                fence(order);
        struct location *l = location_of(addr, len);
        unsigned oldest = party[current].now.at[l - location], newest = l->n - 1u;
        unsigned back = stale_left ? newest - oldest : 0;
        unsigned c = choose((back > STALE_BACK ? STALE_BACK : back) + 1);
        stale_left -= c > 0;
        return read_message(l, newest - c, order);
}

static void model_store(void *addr, unsigned len, uint64_t v, int order, void *site)
{
        point();
        race_check(addr, len, true, true);
        if (order == __ATOMIC_SEQ_CST)
                fence(order);
        append(location_of(addr, len), addr, v, order, NULL);
        if (order == __ATOMIC_SEQ_CST)
                fence(order);
}

static uint64_t model_rmw(void *addr, unsigned len, enum hook_op op, uint64_t v, int order, void *site)
{
        point();
        race_check(addr, len, true, true);
        if (order == __ATOMIC_SEQ_CST)
                fence(order);
        struct location *l = location_of(addr, len);
        unsigned at = l->n - 1u;
        uint64_t old = read_message(l, at, order), now = v;
        switch (op) {
        case HOOK_OP_XCHG:
                break;
        case HOOK_OP_ADD:
                now = old + v;
                break;
        case HOOK_OP_SUB:
                now = old - v;
                break;
        case HOOK_OP_AND:
                now = old & v;
                break;
        case HOOK_OP_OR:
                now = old | v;
                break;
        case HOOK_OP_XOR:
                now = old ^ v;
                break;
        case HOOK_OP_NAND:
                now = ~(old & v);
                break;
        }
        if (len < 8)
                now &= ((uint64_t)1 << len * 8) - 1;
        append(l, addr, now, order, &l->m[at].view);
        if (order == __ATOMIC_SEQ_CST)
                fence(order);
        return old;
}

static bool model_cas(void *addr, unsigned len, uint64_t *expect, uint64_t v, int order, int order_failed, void *site)
{
        point();
        struct location *l = location_of(addr, len);
        unsigned at = l->n - 1u;
        bool swaps = l->m[at].value == *expect;
        race_check(addr, len, swaps, true);
        int o = swaps ? order : order_failed;
        if (o == __ATOMIC_SEQ_CST)
                fence(o);
        *expect = read_message(l, at, o);
        if (swaps)
                append(l, addr, v, o, &l->m[at].view);
        if (o == __ATOMIC_SEQ_CST)
                fence(o);
        return swaps;
}

static void model_fence(int order, void *site)
{
        point();
        fence(order);
}

static const struct hook_memory model = {model_load, model_store, model_rmw, model_cas, model_fence};

/* ---- the kernel ---- */

/* What this call does others may be waiting for, and it is ordered with whoever hears of it. */
static bool is_told(int call)
{
        return call == WH_OS_sendmsg || call == WH_OS_send || call == WH_OS_close || call == WH_OS_shutdown ||
               call == WH_OS_write || call == WH_OS_connect || call == WH_OS_epoll_ctl;
}

static int on_call(const struct hook_step *s)
{
        point();
        if (is_told(s->call)) {
                view_join(&socket_view, &party[current].now);
                for (unsigned b = 0; b < EXPLORE_BELLS; b++)
                        bell_count[b] += b != current;
        }
        return 0;
}

/* A party would sleep in the kernel: true when it should look again, false when a signal came. */
static bool on_wait(void)
{
        party[current].woke_for_nothing = false;
        explore_sleep(current);
        return !party[current].woke_for_nothing;
}

static void on_ready(void)
{
        view_join(&party[current].now, &socket_view);
}

static int on_step(const struct hook_step *s)
{
        if (s->kind == HOOK_CALL)
                return on_call(s);
        if (s->kind == HOOK_RECEIVED)
                on_ready();
        else if (s->kind == HOOK_LOAD || s->kind == HOOK_STORE)
                race_check(s->addr, s->len, s->kind == HOOK_STORE, false);
        return 0;
}

/* ---- executions ---- */

static void party_main(int i)
{
        x->party[i]();
        party[i].state = OVER;
        yield_blocked();
}

static void parties_new(const struct explore *e)
{
        e->init();
        for (n_parties = 0; n_parties < EXPLORE_PARTIES && e->party[n_parties]; n_parties++) {
                struct party *p = &party[n_parties];
                p->state = READY;
                p->may_rest = p->killed = false;
                memset(&p->now, 0, sizeof p->now);
                memset(&p->acquired, 0, sizeof p->acquired);
                memset(&p->released, 0, sizeof p->released);
                getcontext(&p->context);
                p->context.uc_stack.ss_sp = stacks + n_parties * (size_t)STACK;
                p->context.uc_stack.ss_size = STACK;
                p->context.uc_link = NULL;
                makecontext(&p->context, (void (*)(void))party_main, 1, (int)n_parties);
        }
}

static void execute(const struct explore *e)
{
        x = e;
        depth = 0;
        steps = 0;
        preemptions_left = at_random ? UINT32_MAX : e->preemptions;
        stale_left = at_random && e->stale ? UINT32_MAX : e->stale;
        spurious_left = e->spurious;
        kills_left = e->kills;
        n_locations = 0;
        memset(&everybody, 0, sizeof everybody);
        memset(bell_view, 0, sizeof bell_view);
        memset(bell_count, 0, sizeof bell_count);
        memset(&socket_view, 0, sizeof socket_view);
        n_memories = 0;
        if (++execution == 0) {
                memset(cells, 0, CELLS * sizeof *cells);
                execution = 1;
        }
        volatile bool started = false;
        inside = true;
        getcontext(&outside);
        if (!started) {
                started = true;
                parties_new(e);
                hook_memory = &model;
                hook_on_wait = on_wait;
                hook_on_ready = on_ready;
                hook_arm(on_step);
                current = choose(n_parties);
                setcontext(&party[current].context);
        }
        hook_disarm();
        hook_memory = NULL;
        hook_on_wait = NULL;
        hook_on_ready = NULL;
        uint32_t killed = 0;
        for (unsigned i = 0; i < n_parties; i++)
                killed |= (uint32_t)party[i].killed << i;
        /* A check that fails here comes back to the line above, with `failed` set. */
        if (!failed && e->check)
                e->check(killed);
        inside = false;
        result->executions++;
}

void explore_run(const struct explore *e, uint64_t seed, struct explored *ret)
{
        if (!stacks) {
                stacks = malloc(EXPLORE_PARTIES * (size_t)STACK);
                location = calloc(LOCATIONS, sizeof *location);
                cells = calloc(CELLS, sizeof *cells);
                if (!stacks || !location || !cells)
                        abort();
        }
        *ret = (struct explored){0};
        result = ret;
        failed = at_random = false;
        replay_to = 0;
        do
                execute(e);
        while (!failed && !(ret->complete = !next_path()) && ret->executions < e->executions_max);
        at_random = true;
        for (uint64_t i = 0; i < e->executions_random && !failed; i++) {
                random_state = seed + i;
                replay_to = 0;
                execute(e);
        }
        ret->failed = failed;
}
