/*
 * program_make - a program by chance: the same seed is the same program.
 */
#include "program_def.h"

/*
 * What is known of the program so far. `focus` is the register that most moves are about, until another one is. Each
 * program has only some of the moves and some of the values, and those often: what takes several rare things at once is
 * found so, where all of them together would be too thin ("swarm testing", Groce and others 2012).
 */
struct maker {
        uint64_t random;
        bool gentle;
        int focus;
        bool used[PROGRAM_REGISTERS], two[PROGRAM_REGISTERS]; /* has it something; and at its end b, too */
        bool lane[2 * PROGRAM_REGISTERS];
        int spoke; /* the end that was last written to; it is its other end that somebody else then hears */
        unsigned weight[MOVE_OPS];
        unsigned peers;
        unsigned plain; /* how many of a hundred are the first of their values */
        struct {
                uint8_t n, value[3]; /* 0: all */
        } some[MOVE_OPS][PROGRAM_ARGS_MAX];
};

enum { FIRST_FREE = PROGRAM_PEERS }; /* registers 0 to 2 are the connections that programs begin with */

static unsigned one_of(struct maker *k, unsigned n)
{
        return (unsigned)(program_random(&k->random) >> 33) % n;
}

static bool in_100(struct maker *k, unsigned n)
{
        return one_of(k, 100) < n;
}

static int fresh_register(struct maker *k)
{
        int reg = FIRST_FREE + (int)one_of(k, PROGRAM_REGISTERS - FIRST_FREE);
        for (int i = 0; i < PROGRAM_REGISTERS - FIRST_FREE && k->used[reg]; i++)
                reg = FIRST_FREE + (reg - FIRST_FREE + 1) % (PROGRAM_REGISTERS - FIRST_FREE);
        return reg;
}

static int used_register(struct maker *k)
{
        int reg = (int)one_of(k, PROGRAM_REGISTERS);
        for (int i = 0; i < PROGRAM_REGISTERS && !k->used[reg]; i++)
                reg = (reg + 1) % PROGRAM_REGISTERS;
        return reg;
}

static int one_end(struct maker *k, int reg)
{
        return program_end(reg, k->two[reg] ? (int)one_of(k, 2) : 0);
}

static unsigned count_numbers(const int *numbers)
{
        unsigned n = 0;
        while (numbers[n] >= 0)
                n++;
        return n;
}

/* Among how many one is chosen. */
static unsigned count_values(const struct arg_def *d)
{
        if (d->numbers)
                return count_numbers(d->numbers);
        switch (d->type) {
        case ARG_WORD:
        case ARG_RARE:
                return (unsigned)program_count_words(d->words);
        case ARG_TYPE:
                return WH_FRAME_TYPES;
        case ARG_RECORD:
                return WH_REC_KINDS - 1;
        default:
                return 0;
        }
}

static void choose_some(struct maker *k)
{
        static const unsigned times[] = {0, 1, 1, 2, 5}, plain[] = {20, 60, 85};
        k->plain = plain[one_of(k, 3)];
        for (int op = 0; op < MOVE_OPS; op++) {
                k->weight[op] = k->gentle ? program_defs[op].gentle : program_defs[op].weight * times[one_of(k, 5)];
                for (unsigned i = 0; i < PROGRAM_ARGS_MAX; i++) {
                        const unsigned n = count_values(&program_defs[op].arg[i]);
                        k->some[op][i].n = n && in_100(k, 60) ? (uint8_t)(1 + one_of(k, 3)) : 0;
                        for (unsigned v = 0; v < k->some[op][i].n; v++)
                                k->some[op][i].value[v] = (uint8_t)one_of(k, n);
                }
        }
        if (k->peers < PROGRAM_PEERS)
                k->weight[MOVE_REQUEST] = k->weight[MOVE_ASK] = 0;
        /* Without these there is no program. */
        for (int op = MOVE_PAIR; op <= MOVE_MESSAGE; op++)
                if (!k->weight[op])
                        k->weight[op] = program_defs[op].weight / 2;
}

/* One of its values. */
static int one_value(struct maker *k, enum move_op op, unsigned at)
{
        const struct arg_def *d = &program_defs[op].arg[at];
        const unsigned n = k->some[op][at].n;
        const unsigned i = n ? k->some[op][at].value[one_of(k, n)] : one_of(k, count_values(d));
        return d->numbers ? d->numbers[i] : (int)i;
}

/* An honest stranger tells no lies, and gives away one descriptor, if any. */
static int gentle_arg(struct maker *k, enum move_op op, unsigned at)
{
        const struct arg_def *d = &program_defs[op].arg[at];
        switch (d->type) {
        case ARG_OVER:
                return program_end((int)one_of(k, k->peers), 0);
        case ARG_END:
        case ARG_LANE: /* it speaks on one end, and gives away the other */
                return program_end(op == MOVE_ADOPT ? k->focus : used_register(k), op == MOVE_ADOPT);
        case ARG_RARE:
                return op == MOVE_MESSAGE && at == MESSAGE_ITEM && in_100(k, 30) ? ITEM_WHAT : 0;
        case ARG_RECORD:
                return WH_REC_INLINE;
        case ARG_WORD:
                return op == MOVE_CONNECT ? (int)one_of(k, k->peers) : 0;
        default:
                return op == MOVE_MESSAGE && at == MESSAGE_COUNT ? 1 : one_value(k, op, at);
        }
}

static int make_arg(struct maker *k, enum move_op op, unsigned at)
{
        const struct arg_def *d = &program_defs[op].arg[at];
        if (k->gentle && d->type != ARG_REG)
                return gentle_arg(k, op, at);
        switch (d->type) {
        case ARG_REG:
                return fresh_register(k);
        case ARG_REQUEST:
                if (in_100(k, 60))
                        return program_end(PEER_W, 0);
                /* fallthrough */
        case ARG_OVER:
                if (in_100(k, 85))
                        return program_end((int)one_of(k, k->peers), 0);
                /* fallthrough */
        case ARG_END:
                if ((op == MOVE_ADOPT || op == MOVE_OPTION) && k->two[k->spoke / 2] && in_100(k, 60))
                        return k->spoke ^ 1;
                return one_end(k, in_100(k, 75) ? k->focus : used_register(k));
        case ARG_LANE:
                for (int i = 0, end = (int)one_of(k, 2 * PROGRAM_REGISTERS); i < 2 * PROGRAM_REGISTERS; i++)
                        if (k->lane[(end + i) % (2 * PROGRAM_REGISTERS)])
                                return (end + i) % (2 * PROGRAM_REGISTERS);
                return one_end(k, k->focus);
        case ARG_WORD:
        case ARG_TYPE:
                return op == MOVE_CONNECT ? (int)one_of(k, k->peers) : one_value(k, op, at);
        case ARG_RARE:
                return in_100(k, k->plain) ? 0 : one_value(k, op, at);
        case ARG_RECORD:
                return 1 + one_value(k, op, at);
        case ARG_NUMBER:
                return in_100(k, k->plain / 2) ? d->numbers[0] : one_value(k, op, at);
        case ARG_NONE:
                break;
        }
        return 0;
}

/* What is done with lanes takes one. */
static unsigned weight_now(const struct maker *k, int op, bool lane)
{
        return (op == MOVE_RECORDS || op == MOVE_DIRECT) && !lane ? 0 : k->weight[op];
}

static enum move_op make_op(struct maker *k)
{
        bool lane = false;
        unsigned sum = 0, at;
        for (int i = 0; i < 2 * PROGRAM_REGISTERS; i++)
                lane |= k->lane[i];
        for (int op = 0; op < MOVE_OPS; op++)
                sum += weight_now(k, op, lane);
        at = one_of(k, sum);
        for (int op = 0;; op++) {
                const unsigned weight = weight_now(k, op, lane);
                if (at < weight)
                        return (enum move_op)op;
                at -= weight;
        }
}

static void add(struct program *p, struct maker *k, enum move_op op)
{
        struct move *m = &p->move[p->n_moves++];
        *m = (struct move){.op = op};
        for (unsigned i = 0; i < PROGRAM_ARGS_MAX && program_defs[op].arg[i].type; i++)
                m->arg[i] = make_arg(k, op, i);
        /* More than a frame may have, that says so, is refused at once: half of them do not say it. */
        if (op == MOVE_FRAME && m->arg[FRAME_COUNT] > WH_FDS_MAX && in_100(k, 50))
                m->arg[FRAME_LIE] = WIRE_LIE_N_FDS;
        if (op == MOVE_MESSAGE && m->arg[MESSAGE_COUNT] > WH_FDS_MAX && in_100(k, 50))
                m->arg[MESSAGE_LIE] = WIRE_LIE_N_FDS;
        if (op == MOVE_BIND) {
                k->used[m->arg[BIND_INTO]] = k->two[m->arg[BIND_INTO]] = true;
                k->focus = m->arg[BIND_INTO];
        } else if (op == MOVE_CONNECT || op == MOVE_PAIR) {
                k->used[m->arg[0]] = true;
                k->two[m->arg[0]] = op == MOVE_PAIR;
                k->lane[program_end(m->arg[0], 0)] = k->lane[program_end(m->arg[0], 1)] = false;
                k->focus = m->arg[0];
        } else if (op == MOVE_ATTACH) {
                k->lane[m->arg[0]] = true;
        } else if (op == MOVE_READ || op == MOVE_SNATCH) {
                k->used[m->arg[1]] = true; /* if anything comes */
                if (in_100(k, 30))
                        k->focus = m->arg[1];
        } else if (op == MOVE_MESSAGE || op == MOVE_FRAME) {
                k->spoke = m->arg[0];
        } else if (in_100(k, 10)) {
                k->focus = used_register(k);
        }
}

void program_make(struct program *ret, uint64_t seed, bool gentle)
{
        struct maker k = {.random = seed, .gentle = gentle, .focus = 0};
        *ret = (struct program){.seed = seed};
        ret->descriptors = in_100(&k, 15) ? 64 : 0;
        ret->limits = in_100(&k, 30);
        ret->domain = !gentle && in_100(&k, 20);
        ret->receive = in_100(&k, 50) ? 0 : (int)one_of(&k, RECEIVES);
        k.peers = ret->domain ? PROGRAM_PEERS : PROGRAM_SERVICES;
        choose_some(&k);
        for (int peer = 0; peer < (int)k.peers; peer++) {
                ret->move[ret->n_moves++] = (struct move){.op = MOVE_CONNECT, .arg = {peer, peer}};
                k.used[peer] = true;
        }
        unsigned n = 4 + one_of(&k, 36);
        if (!gentle)
                add(ret, &k, MOVE_PAIR);
        while (ret->n_moves < n)
                add(ret, &k, make_op(&k));
}
