/*
 * A task dies with a lock or a unit in its hands, between a change and its wake, in the middle of a buffer, or while it
 * makes a segment. The next one gets the lock and is told; units come back; items are there once or not at all; a name
 * shows a whole segment or none.
 */
#include "memory.h"

static struct memory_shared *shared(struct proof *p)
{
        return ((struct memory_state *)p->state)->shared;
}

/* ---- mutex ---- */

/* With the lock: what it guards is whole, or is made so, because a holder died. */
static void change_both(struct proof *p, int locked)
{
        struct memory_shared *m = shared(p);
        PROOF_CHECK(p, locked == 0 || locked == WHARF_HOLDER_DIED);
        if (locked == WHARF_HOLDER_DIED)
                m->b = m->a;
        PROOF_EQ(p, m->a, m->b);
        m->a++;
        m->b++;
}

static int lock_some(struct proof *p)
{
        for (int i = 0; i < 3; i++) {
                change_both(p, wharf_mutex_lock(&shared(p)->mutex, WHARF_FOREVER));
                PROOF_EQ(p, wharf_mutex_unlock(&shared(p)->mutex), 0);
        }
        return 0;
}

static void lock_once(struct proof *p)
{
        change_both(p, wharf_mutex_lock(&shared(p)->mutex, WHARF_FOREVER));
        PROOF_EQ(p, wharf_mutex_unlock(&shared(p)->mutex), 0);
}

static void audit_mutex(struct proof *p)
{
        lock_once(p);
        PROOF_EQ(p, wharf_mutex_holder(&shared(p)->mutex), 0);
        /* Whole from here on: nobody is told twice of one death. */
        PROOF_EQ(p, wharf_mutex_lock(&shared(p)->mutex, 0), 0);
        PROOF_EQ(p, wharf_mutex_lock(&shared(p)->mutex, 0), -EDEADLK);
        PROOF_EQ(p, wharf_mutex_unlock(&shared(p)->mutex), 0);
        PROOF_EQ(p, wharf_mutex_unlock(&shared(p)->mutex), -EPERM);
}

/* ---- semaphores ---- */

static void setup_sem(struct proof *p)
{
        memory_map(p);
        PROOF_EQ(p, wharf_sem_init(&shared(p)->sem, MEMORY_UNITS, !strcmp(p->op->name, "units") ? WHARF_SEM_OWNED : 0),
                 0);
}

/* Takes and gives; the ledger knows how many steps were begun and how many done. Net: none. */
static const int8_t steps[] = {-1, -1, +1, -1, +1, +1};

static int take_and_give(struct proof *p)
{
        for (unsigned i = 0; i < sizeof steps; i++) {
                atomic_store(&p->ledger->intent, i + 1);
                int r = steps[i] < 0 ? wharf_sem_take(&shared(p)->sem, 0) : wharf_sem_give(&shared(p)->sem);
                PROOF_EQ(p, r, 0);
                atomic_store(&p->ledger->sent, i + 1);
        }
        return 0;
}

static int net(uint64_t n)
{
        int sum = 0;
        for (uint64_t i = 0; i < n; i++)
                sum += steps[i];
        return sum;
}

/* Units of nobody: what the dead one took is gone, what it gave is there. */
static void audit_count(struct proof *p)
{
        int units = (int)wharf_sem_units(&shared(p)->sem) - MEMORY_UNITS;
        PROOF_CHECK(p, units == net(atomic_load(&p->ledger->sent)) || units == net(atomic_load(&p->ledger->intent)));
        PROOF_EQ(p, wharf_sem_give(&shared(p)->sem), 0);
        PROOF_EQ(p, wharf_sem_take(&shared(p)->sem, 0), 0);
}

/* Units of tasks: all come back, and somebody is told. */
static void take_all(struct proof *p)
{
        int told = 0;
        for (int i = 0; i < MEMORY_UNITS; i++) {
                int r = wharf_sem_take(&shared(p)->sem, 0);
                PROOF_CHECK(p, r == 0 || r == WHARF_HOLDER_DIED);
                told += r;
        }
        PROOF_EQ(p, wharf_sem_take(&shared(p)->sem, 0), -EAGAIN);
        PROOF_CHECK(p, told <= 1 + p->again); /* a rescuer that died held units too */
        const bool held = p->outcome == PROOF_KILLED && net(atomic_load(&p->ledger->sent)) < 0 &&
                          net(atomic_load(&p->ledger->intent)) < 0;
        if (!p->again && held && !atomic_load(&p->ledger->word[0]))
                PROOF_EQ(p, told, 1);
        atomic_store(&p->ledger->word[0], 1); /* told, or nothing to tell */
        for (int i = 0; i < MEMORY_UNITS; i++)
                PROOF_EQ(p, wharf_sem_give(&shared(p)->sem), 0);
}

static void audit_units(struct proof *p)
{
        take_all(p);
        PROOF_EQ(p, wharf_sem_units(&shared(p)->sem), MEMORY_UNITS);
        PROOF_EQ(p, wharf_sem_give(&shared(p)->sem), -EPERM);
}

/* ---- event ---- */

enum { CHANGES = 4, WORD_OVER = 1 };

static int change_and_wake(struct proof *p)
{
        for (int i = 0; i < CHANGES; i++) {
                atomic_fetch_add(&shared(p)->changes, 1);
                wharf_event_wake(&shared(p)->event);
        }
        return 0;
}

static void wait_for_changes(struct proof *p)
{
        for (;;) {
                uint32_t key = wharf_event_key(&shared(p)->event);
                if (atomic_load(&shared(p)->changes) >= CHANGES || atomic_load(&p->ledger->word[WORD_OVER]))
                        return;
                PROOF_EQ(p, wharf_event_wait(&shared(p)->event, key, WHARF_FOREVER), 0);
        }
}

static void wake_all(struct proof *p)
{
        if (p->outcome != PROOF_PAUSED)
                atomic_store(&p->ledger->word[WORD_OVER], 1);
        wharf_event_wake(&shared(p)->event);
}

/* ---- buffers ---- */

static int put_six(struct proof *p)
{
        for (int i = 0; i < 6; i++)
                PROOF_EQ(p, memory_put(p), 0);
        return 0;
}

static void setup_put(struct proof *p)
{
        memory_setup_buffer(p);
        put_six(p);
}

static int get_five(struct proof *p)
{
        for (int i = 0; i < 5; i++)
                PROOF_CHECK(p, memory_get(p) >= 0);
        return 0;
}

static void look(struct proof *p)
{
        struct wharf_buffer_figures f;
        PROOF_EQ(p, wharf_buffer_figures(((struct memory_state *)p->state)->buffer, &f), 0);
}

static void rest_is_whole(struct proof *p)
{
        int64_t n;
        while ((n = memory_get(p)) >= 0)
                ;
        PROOF_EQ(p, n, -EAGAIN);
        struct wharf_buffer_figures f;
        PROOF_EQ(p, wharf_buffer_figures(((struct memory_state *)p->state)->buffer, &f), 0);
        PROOF_EQ(p, f.items, 0);
        PROOF_EQ(p, f.used_bytes, 0);
}

static void audit_put(struct proof *p)
{
        rest_is_whole(p);
        proof_ledger_balance(p, 0);
}

/* The dead one may have taken an item and not lived to say so. */
static void audit_got(struct proof *p)
{
        struct wharf_buffer_figures f;
        PROOF_EQ(p, wharf_buffer_figures(((struct memory_state *)p->state)->buffer, &f), 0);
        uint64_t received = atomic_load(&p->ledger->received);
        PROOF_CHECK(p, f.items == 6 - received || (p->outcome == PROOF_KILLED && f.items + 1 == 6 - received));
        atomic_store(&p->ledger->received, 6 - f.items);
        rest_is_whole(p);
}

/* ---- segments ---- */

static int make_segment(struct proof *p)
{
        struct memory_state *s = p->state;
        PROOF_EQ(p, wharf_segment_create(s->name, MEMORY_SEGMENT, NULL, &s->segment), 0);
        PROOF_EQ(p, wharf_segment_attach(s->segment, WHARF_SEGMENT_WRITE, NULL), 0);
        memset(wharf_segment_at(s->segment, 0, 64), 1, 64);
        PROOF_EQ(p, wharf_segment_resize(s->segment, 2 * MEMORY_SEGMENT), 0);
        PROOF_EQ(p, wharf_segment_detach(s->segment), 0);
        s->segment = wharf_segment_close(s->segment);
        PROOF_EQ(p, wharf_segment_remove(s->name), 0);
        return 0;
}

/* There is none, or one that is whole: of a size that was asked for, with its mode; and the name can be had again. */
static void audit_segment(struct proof *p)
{
        struct memory_state *s = p->state;
        wharf_segment *seg;
        int r = wharf_segment_open(s->name, WHARF_SEGMENT_WRITE, &seg);
        PROOF_CHECK(p, r == 0 || r == -ENOENT);
        if (r == 0) {
                struct wharf_segment_stat st;
                PROOF_EQ(p, wharf_segment_stat(seg, &st), 0);
                PROOF_EQ(p, st.mode, 0600);
                PROOF_CHECK(p, st.bytes == MEMORY_SEGMENT || st.bytes == 2 * MEMORY_SEGMENT);
                PROOF_EQ(p, wharf_segment_attach(seg, WHARF_SEGMENT_WRITE, NULL), 0);
                memset(wharf_segment_at(seg, 0, MEMORY_SEGMENT), 2, MEMORY_SEGMENT); /* reserved: no touch can fail */
                wharf_segment_close(seg);
                PROOF_EQ(p, wharf_segment_remove(s->name), 0);
        }
        PROOF_EQ(p, wharf_segment_create(s->name, 4096, NULL, &seg), 0);
        wharf_segment_close(seg);
}

#define MEMORY_OP .state_bytes = sizeof(struct memory_state), .teardown = memory_teardown
/* A holder that stands still keeps its lock, and others wait for as long: those are not paused. */
static const struct proof_op ops[] = {
        {.name = "mutex",
         .setup = memory_map,
         .victim = lock_some,
         .rescue = lock_once,
         .audit = audit_mutex,
         .no_pause = true,
         MEMORY_OP},
        {.name = "count", .setup = setup_sem, .victim = take_and_give, .audit = audit_count, MEMORY_OP},
        {.name = "units",
         .setup = setup_sem,
         .victim = take_and_give,
         .rescue = take_all,
         .audit = audit_units,
         .no_pause = true,
         MEMORY_OP},
        {.name = "event",
         .setup = memory_map,
         .victim = change_and_wake,
         .partner = wait_for_changes,
         .rescue = wake_all,
         MEMORY_OP},
#define BUFFER_OPS(kind)                                                                                         \
        {.name = kind "-put",                                                                                    \
         .setup = memory_setup_buffer,                                                                           \
         .victim = put_six,                                                                                      \
         .rescue = look,                                                                                         \
         .audit = audit_put,                                                                                     \
         .no_pause = true,                                                                                       \
         MEMORY_OP},                                                                                             \
        {                                                                                                        \
                .name = kind "-get", .setup = setup_put, .victim = get_five, .rescue = look, .audit = audit_got, \
                .no_pause = true, MEMORY_OP                                                                      \
        }
        BUFFER_OPS("bounded"),
        BUFFER_OPS("unbounded"),
        BUFFER_OPS("circular"),
        {.name = "segment", .setup = memory_map, .victim = make_segment, .audit = audit_segment, MEMORY_OP},
        {0},
};
PROOF_KILL("memory", ops)
