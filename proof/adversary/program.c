#include "program.h"

#include "wire.h"

#include "names/proto.h" /* WH_NAMES_*: numbers only */

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- what moves and arguments are called ---- */

static const char *const peers[] = {"v", "r", "w", NULL};
const char *const program_names[NAMES + 1] = {"app.x", "app.v", "root.gate", "nobody.has.this", NULL};
static const char *const requests[] = {"register", "unregister", "lookup", "list", "watch",
                                       "unwatch",  "waits",      "state",  NULL};
const int program_requests[] = {WH_NAMES_REGISTER, WH_NAMES_UNREGISTER, WH_NAMES_LOOKUP, WH_NAMES_LIST,
                                WH_NAMES_WATCH,    WH_NAMES_UNWATCH,    WH_NAMES_WAITS,  WH_NAMES_STATE};
static const char *const options[] = {"passcred", "passpidfd", "timestamp", "peek-off", "rcvbuf",     "sndbuf",
                                      "linger",   "shut-rd",   "shut-wr",   "passsec",  "passrights", NULL};
static const char *const voices[] = {"fits", "holder", "owner", "once", NULL};
static const char *const bodies[] = {"words", "zero", "frame", "noise", NULL};
static const char *const items[] = {"none", "right", "what", "once", "memory", NULL};
static const char *const whats[] = {"null",     "linger", "full-pipe", "memory", "unsealed",
                                    "listener", "stream", "event",     "folder", NULL};
static const char *const wheres[] = {"v", "r", "own", "nowhere", NULL};
static const char *const who[] = {"nobody", "own", "init", "v", "r", NULL};
static const char *const yes_no[] = {"no", "yes", NULL};
static const char *const lies[] = {"none", "magic", "version", "n-fds", "len", NULL};
static const char *const types[] = {
        [WH_FRAME_BELL] = "bell",     [WH_FRAME_HELLO] = "hello",     [WH_FRAME_MESSAGE] = "message",
        [WH_FRAME_ITEMS] = "items",   [WH_FRAME_ATTACH] = "attach",   [WH_FRAME_SECTION] = "section",
        [WH_FRAME_REBIND] = "rebind", [WH_FRAME_ADOPT] = "adopt",     [WH_FRAME_REFUSE] = "refuse",
        [WH_FRAME_VIA] = "via",       [WH_FRAME_DROPPED] = "dropped", [WH_FRAME_RENEW] = "renew",
        [WH_FRAME_RING] = "ring",     [WH_FRAME_TAKEN] = "taken",     [WH_FRAME_WHO] = "who",
        [WH_FRAME_GIVEN] = "given",   [WH_FRAME_TYPES] = NULL};
static const char *const records[] = {
        [WH_REC_PAD] = "pad",     [WH_REC_PLAIN] = "plain",      [WH_REC_INLINE] = "inline", [WH_REC_BLOCK] = "block",
        [WH_REC_CHUNK] = "chunk", [WH_REC_DROPPED] = "rdropped", [WH_REC_END] = "end",       [WH_REC_MEMORY] = "memory",
        [WH_REC_ABORT] = "abort", [WH_REC_OFFER] = "offer",      [WH_REC_DIRECT] = "direct", [WH_REC_NEXT] = "next",
        [WH_REC_PIECE] = "piece", [WH_REC_WINDOW] = "window",    [WH_REC_KINDS] = NULL};

enum arg_type {
        ARG_NONE,
        ARG_REG,
        ARG_END,     /* mostly in focus */
        ARG_LANE,    /* one that has a lane, if any does */
        ARG_OVER,    /* mostly a connection */
        ARG_REQUEST, /* mostly that to wharfd */
        ARG_WORD,    /* of `words` */
        ARG_RARE,    /* of `words`, mostly the first */
        ARG_TYPE,    /* of a frame */
        ARG_RECORD,
        ARG_NUMBER, /* one of `numbers` */
};

struct arg_def {
        const char *name;
        enum arg_type type;
        const char *const *words;
        const int *numbers; /* ends with -1; often the first. Of words: which, as often as they are here */
};

#define NUMBERS(...) ((const int[]){__VA_ARGS__, -1})
static const struct {
        const char *name;
        unsigned weight, gentle; /* how often it is made, and in a gentle program */
        struct arg_def arg[PROGRAM_ARGS_MAX];
} defs[MOVE_OPS] = {
        [MOVE_CONNECT] = {"connect", 4, 4, {{"", ARG_REG}, {"to", ARG_WORD, peers}}},
        [MOVE_PAIR] = {"pair", 14, 4, {{"", ARG_REG}}},
        [MOVE_CLOSE] = {"close", 4, 4, {{"", ARG_END}}},
        [MOVE_OPTION] = {"option",
                         16,
                         0,
                         {{"on", ARG_END},
                          {"which", ARG_WORD, options, NUMBERS(0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10)},
                          {"value", ARG_NUMBER, NULL, NUMBERS(1, 0, 40, 41, 48, 2048, 1 << 20)}}},
        [MOVE_ADOPT] = {"adopt", 18, 4, {{"over", ARG_OVER}, {"give", ARG_END}}},
        [MOVE_MESSAGE] = {"message",
                          22,
                          20,
                          {{"on", ARG_END},
                           {"as", ARG_RARE, voices},
                           {"seq", ARG_NUMBER, NULL, NUMBERS(0, 0, 0, 0, 0, 1)},
                           {"lie", ARG_RARE, lies, NUMBERS(0, 1, 2, 3, 3, 3, 3, 3, 3, 4)},
                           {"id", ARG_NUMBER, NULL, NUMBERS(1, 2, 2, 3, 4, 5, 6, 7, 8, 42)},
                           {"call", ARG_NUMBER, NULL, NUMBERS(0, 7, 8)},
                           {"body", ARG_RARE, bodies},
                           {"len", ARG_NUMBER, NULL, NUMBERS(24, 0, 1, 200, 4000, 16384)},
                           {"item", ARG_RARE, items, NUMBERS(0, 1, 1, 2, 2, 2, 3, 4)},
                           {"give", ARG_END},
                           {"what", ARG_WORD, whats},
                           {"count", ARG_NUMBER, NULL, NUMBERS(1, 3, 64, 66, 250, 253)}}},
        [MOVE_FRAME] = {"frame",
                        14,
                        0,
                        {{"on", ARG_END},
                         {"as", ARG_RARE, voices},
                         {"type", ARG_TYPE},
                         {"lie", ARG_RARE, lies, NUMBERS(0, 1, 2, 3, 3, 3, 3, 3, 3, 4)},
                         {"arg", ARG_NUMBER, NULL, NUMBERS(0, 1, 3, 4, 122, 127)},
                         {"len", ARG_NUMBER, NULL, NUMBERS(0, 1, 40, 400)},
                         {"give", ARG_END},
                         {"what", ARG_WORD, whats},
                         {"count", ARG_NUMBER, NULL, NUMBERS(0, 1, 1, 2, 3, 64, 66, 67, 250, 253)}}},
        [MOVE_BIND] = {"bind",
                       8,
                       0,
                       {{"on", ARG_END}, {"as", ARG_RARE, voices}, {"into", ARG_REG}, {"who", ARG_RARE, who}}},
        [MOVE_ATTACH] = {"attach",
                         8,
                         4,
                         {{"on", ARG_END},
                          {"lines", ARG_NUMBER, NULL, NUMBERS(128, 2048, 65536)},
                          {"seq", ARG_NUMBER, NULL, NUMBERS(0, 0, 0, 1)}}},
        [MOVE_RECORDS] = {"records",
                          10,
                          8,
                          {{"on", ARG_LANE},
                           {"kind", ARG_RECORD},
                           {"count", ARG_NUMBER, NULL, NUMBERS(1, 3, 40, 600)},
                           {"call", ARG_NUMBER, NULL, NUMBERS(0, 7, 9)},
                           {"body", ARG_RARE, bodies},
                           {"len", ARG_NUMBER, NULL, NUMBERS(40, 0, 16, 300, 2000)}}},
        [MOVE_FLOOD] = {"flood",
                        7,
                        0,
                        {{"on", ARG_LANE},
                         {"as", ARG_RARE, voices},
                         {"kind", ARG_RECORD},
                         {"frame", ARG_TYPE},
                         {"len", ARG_NUMBER, NULL, NUMBERS(16, 25, 40)},
                         {"lines", ARG_NUMBER, NULL, NUMBERS(0, 128, 65536, 65536)},
                         {"links", ARG_NUMBER, NULL, NUMBERS(1, 8, 30, 30)},
                         {"ms", ARG_NUMBER, NULL, NUMBERS(250, 60, 1000)}}},
        [MOVE_READ] = {"read", 5, 8, {{"on", ARG_END}, {"into", ARG_REG}}},
        [MOVE_SNATCH] = {"snatch", 3, 0, {{"on", ARG_END}, {"into", ARG_REG}}},
        [MOVE_DIRECT] = {"direct",
                         4,
                         0,
                         {{"on", ARG_LANE},
                          {"window", ARG_WORD, yes_no},
                          {"where", ARG_WORD, wheres},
                          {"len", ARG_NUMBER, NULL, NUMBERS(64, 1, 4096)},
                          {"call", ARG_NUMBER, NULL, NUMBERS(7, 0)}}},
        [MOVE_CARRIER] = {"carrier", 2, 0, {{"on", ARG_OVER}, {"give", ARG_END}, {"who", ARG_WORD, who}}},
        [MOVE_REQUEST] = {"request",
                          24,
                          0,
                          {{"on", ARG_REQUEST},
                           {"op", ARG_WORD, requests, NUMBERS(0, 0, 0, 1, 2, 2, 2, 3, 4, 5, 6, 7)},
                           {"name", ARG_WORD, program_names, NUMBERS(0, 0, 1, 2, 2, 3)},
                           {"call", ARG_NUMBER, NULL, NUMBERS(7, 8, 0)},
                           {"give", ARG_END},
                           {"page", ARG_RARE, yes_no},
                           {"wait", ARG_NUMBER, NULL, NUMBERS(0, 1)},
                           {"after", ARG_NUMBER, NULL, NUMBERS(0, 0, 1, 1 << 20)}}},
        [MOVE_ASK] = {"ask",
                      8,
                      0,
                      {{"on", ARG_REQUEST},
                       {"op", ARG_WORD, requests, NUMBERS(0, 2, 2, 3, 3, 4, 6, 6, 7)},
                       {"name", ARG_WORD, program_names, NUMBERS(0, 1, 1, 3)},
                       {"page", ARG_RARE, yes_no},
                       {"unread", ARG_RARE, yes_no},
                       {"links", ARG_NUMBER, NULL, NUMBERS(8, 1, 40)},
                       {"ms", ARG_NUMBER, NULL, NUMBERS(250, 60, 1000)}}},
        [MOVE_LARGE] = {"large",
                        3,
                        0,
                        {{"on", ARG_OVER},
                         {"len", ARG_NUMBER, NULL, NUMBERS(4000000, 1000000, 70000)},
                         {"times", ARG_NUMBER, NULL, NUMBERS(2, 1)},
                         {"links", ARG_NUMBER, NULL, NUMBERS(4, 1, 12)}}},
        [MOVE_REPEAT] = {"repeat",
                         3,
                         1,
                         {{"moves", ARG_NUMBER, NULL, NUMBERS(2, 1, 3, 4)},
                          {"times", ARG_NUMBER, NULL, NUMBERS(4, 20, 100)}}},
        [MOVE_SETTLE] = {"settle", 14, 10, {{0}}},
        [MOVE_STOP] = {"stop", 1, 1, {{"ms", ARG_NUMBER, NULL, NUMBERS(20, 60)}}},
        [MOVE_DIE] = {"die", 1, 1, {{0}}},
};

const char *program_move_name(enum move_op op)
{
        return defs[op].name;
}

/* ---- by chance ---- */

uint64_t program_random(uint64_t *state)
{
        /* splitmix64 (Steele, Lea, Flood 2014). */
        uint64_t z = *state += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
}

uint64_t program_hash(uint64_t h, const void *bytes, size_t len)
{
        /* FNV-1a, and mixed at the end: few bytes at a time. */
        const uint8_t *b = bytes;
        h ^= 0xcbf29ce484222325u;
        for (size_t i = 0; i < len; i++)
                h = (h ^ b[i]) * 0x100000001b3u;
        h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
        return h ^ (h >> 27);
}

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

static int count_words(const char *const *words)
{
        int n = 0;
        while (words[n])
                n++;
        return n;
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
                return (unsigned)count_words(d->words);
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
                k->weight[op] = k->gentle ? defs[op].gentle : defs[op].weight * times[one_of(k, 5)];
                for (unsigned i = 0; i < PROGRAM_ARGS_MAX; i++) {
                        const unsigned n = count_values(&defs[op].arg[i]);
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
                        k->weight[op] = defs[op].weight / 2;
}

/* One of its values. */
static int one_value(struct maker *k, enum move_op op, unsigned at)
{
        const struct arg_def *d = &defs[op].arg[at];
        const unsigned n = k->some[op][at].n;
        const unsigned i = n ? k->some[op][at].value[one_of(k, n)] : one_of(k, count_values(d));
        return d->numbers ? d->numbers[i] : (int)i;
}

/* An honest stranger tells no lies, and gives away one descriptor, if any. */
static int gentle_arg(struct maker *k, enum move_op op, unsigned at)
{
        const struct arg_def *d = &defs[op].arg[at];
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
        const struct arg_def *d = &defs[op].arg[at];
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
        for (unsigned i = 0; i < PROGRAM_ARGS_MAX && defs[op].arg[i].type; i++)
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

/* ---- as text ---- */

/* What an argument is where nothing is said of it. */
static int plain_value(const struct arg_def *d)
{
        return d->type == ARG_NUMBER ? d->numbers[0] : 0;
}

/* Has it a meaning, and is it not what it would be anyway? */
static bool is_said(const struct move *m, unsigned at)
{
        const struct arg_def *d = &defs[m->op].arg[at];
        const int item = m->op == MOVE_MESSAGE ? m->arg[MESSAGE_ITEM] : -1;
        if (item >= 0 && at == MESSAGE_GIVE)
                return item == ITEM_END || item == ITEM_ONCE;
        if (item >= 0 && (at == MESSAGE_WHAT || at == MESSAGE_COUNT))
                return item == ITEM_WHAT;
        if (m->op == MOVE_FRAME && (at == FRAME_WHAT || at == FRAME_GIVE))
                return m->arg[FRAME_COUNT] > 0;
        return (d->type != ARG_RARE && d->type != ARG_NUMBER) || m->arg[at] != plain_value(d);
}

void program_move_write(const struct move *m, FILE *to)
{
        fprintf(to, "%s", defs[m->op].name);
        for (unsigned i = 0; i < PROGRAM_ARGS_MAX && defs[m->op].arg[i].type; i++) {
                const struct arg_def *d = &defs[m->op].arg[i];
                const int v = m->arg[i];
                if (!is_said(m, i))
                        continue;
                fprintf(to, *d->name ? " %s=" : " ", d->name);
                switch (d->type) {
                case ARG_REG:
                        fprintf(to, "r%d", v);
                        break;
                case ARG_END:
                case ARG_LANE:
                case ARG_OVER:
                case ARG_REQUEST:
                        fprintf(to, "r%d%c", v / 2, "ab"[v % 2]);
                        break;
                case ARG_WORD:
                case ARG_RARE:
                        fprintf(to, "%s", d->words[v]);
                        break;
                case ARG_TYPE:
                        if (types[v])
                                fprintf(to, "%s", types[v]);
                        else
                                fprintf(to, "%d", v);
                        break;
                case ARG_RECORD:
                        fprintf(to, "%s", records[v]);
                        break;
                default:
                        fprintf(to, "%d", v);
                }
        }
        fprintf(to, "\n");
}

void program_write(const struct program *p, FILE *to)
{
        fprintf(to, "world descriptors=%d limits=%d domain=%d receive=%d\n", p->descriptors, p->limits, p->domain,
                p->receive);
        for (unsigned i = 0; i < p->n_moves; i++)
                program_move_write(&p->move[i], to);
}

bool program_arg_plain(struct move *m, unsigned at)
{
        const struct arg_def *d = &defs[m->op].arg[at];
        const int plain = plain_value(d);
        if ((d->type != ARG_RARE && d->type != ARG_NUMBER) || m->arg[at] == plain)
                return false;
        m->arg[at] = plain;
        return true;
}

static int word_at(const char *const *words, int n, const char *word)
{
        for (int i = 0; i < n; i++)
                if (words[i] && !strcmp(words[i], word))
                        return i;
        char *end;
        long v = strtol(word, &end, 10);
        return *word && !*end && v >= 0 && v < n ? (int)v : -1;
}

/* The value of an argument from its text, or -1. */
static int read_arg(const struct arg_def *d, const char *text)
{
        char *end;
        long v;
        switch (d->type) {
        case ARG_REG:
        case ARG_END:
        case ARG_LANE:
        case ARG_OVER:
        case ARG_REQUEST:
                if (*text++ != 'r')
                        return -1;
                v = strtol(text, &end, 10);
                if (end == text || v < 0 || v >= PROGRAM_REGISTERS)
                        return -1;
                if (d->type == ARG_REG)
                        return *end ? -1 : (int)v;
                return (*end == 'a' || *end == 'b') && !end[1] ? program_end((int)v, *end == 'b') : -1;
        case ARG_WORD:
        case ARG_RARE:
                return word_at(d->words, count_words(d->words), text);
        case ARG_TYPE:
                return word_at(types, WH_FRAME_TYPES, text);
        case ARG_RECORD:
                return word_at(records, WH_REC_KINDS, text);
        default:
                v = strtol(text, &end, 10);
                return *text && !*end && v >= 0 && v <= 1 << 30 ? (int)v : -1;
        }
}

/* Arguments may be left out, and are then the plainest; their order does not matter. */
static bool read_move(struct move *m, char *words)
{
        char *word = strtok(words, " \t\n");
        int op = 0;
        while (op < MOVE_OPS && strcmp(defs[op].name, word))
                op++;
        if (op == MOVE_OPS)
                return false;
        *m = (struct move){.op = (enum move_op)op};
        for (unsigned i = 0; i < PROGRAM_ARGS_MAX && defs[op].arg[i].type; i++)
                m->arg[i] = plain_value(&defs[op].arg[i]);
        while ((word = strtok(NULL, " \t\n"))) {
                char *value = strchr(word, '=');
                const char *name = value ? word : "";
                if (value)
                        *value++ = 0;
                else
                        value = word;
                unsigned i = 0;
                while (i < PROGRAM_ARGS_MAX && defs[op].arg[i].type && strcmp(defs[op].arg[i].name, name))
                        i++;
                if (i == PROGRAM_ARGS_MAX || !defs[op].arg[i].type ||
                    (m->arg[i] = read_arg(&defs[op].arg[i], value)) < 0)
                        return false;
        }
        return true;
}

int program_read(struct program *ret, FILE *from)
{
        char line[512];
        *ret = (struct program){0};
        for (int n = 1; fgets(line, sizeof line, from); n++) {
                if (line[strspn(line, " \t\n")] == 0 || *line == '#')
                        continue;
                if (sscanf(line, "world descriptors=%d limits=%d domain=%d receive=%d", &ret->descriptors, &ret->limits,
                           &ret->domain, &ret->receive) >= 2)
                        continue;
                if (ret->n_moves == PROGRAM_MOVES_MAX || !read_move(&ret->move[ret->n_moves], line))
                        return n;
                ret->n_moves++;
        }
        return 0;
}
