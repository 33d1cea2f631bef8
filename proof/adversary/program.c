#include "program_def.h"

#include "names/proto.h" /* WH_NAMES_*: numbers only */

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
const char *const program_types[WH_FRAME_TYPES + 1] = {
        [WH_FRAME_BELL] = "bell",     [WH_FRAME_HELLO] = "hello",     [WH_FRAME_MESSAGE] = "message",
        [WH_FRAME_ITEMS] = "items",   [WH_FRAME_ATTACH] = "attach",   [WH_FRAME_SECTION] = "section",
        [WH_FRAME_REBIND] = "rebind", [WH_FRAME_ADOPT] = "adopt",     [WH_FRAME_REFUSE] = "refuse",
        [WH_FRAME_VIA] = "via",       [WH_FRAME_DROPPED] = "dropped", [WH_FRAME_RENEW] = "renew",
        [WH_FRAME_RING] = "ring",     [WH_FRAME_TAKEN] = "taken",     [WH_FRAME_WHO] = "who",
        [WH_FRAME_GIVEN] = "given",   [WH_FRAME_TYPES] = NULL};
const char *const program_records[WH_REC_KINDS + 1] = {[WH_REC_PAD] = "pad",
                                                       [WH_REC_PLAIN] = "plain",
                                                       [WH_REC_INLINE] = "inline",
                                                       [WH_REC_BLOCK] = "block",
                                                       [WH_REC_CHUNK] = "chunk",
                                                       [WH_REC_DROPPED] = "rdropped",
                                                       [7] = "end",
                                                       [WH_REC_MEMORY] = "memory",
                                                       [WH_REC_ABORT] = "abort",
                                                       [WH_REC_OFFER] = "offer",
                                                       [WH_REC_DIRECT] = "direct",
                                                       [WH_REC_NEXT] = "next",
                                                       [WH_REC_PIECE] = "piece",
                                                       [WH_REC_WINDOW] = "window",
                                                       [WH_REC_KINDS] = NULL};

#define NUMBERS(...) ((const int[]){__VA_ARGS__, -1})
const struct move_def program_defs[MOVE_OPS] = {
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
        return program_defs[op].name;
}

int program_count_words(const char *const *words)
{
        int n = 0;
        while (words[n])
                n++;
        return n;
}

int program_plain_value(const struct arg_def *d)
{
        return d->type == ARG_NUMBER ? d->numbers[0] : 0;
}

bool program_arg_plain(struct move *m, unsigned at)
{
        const struct arg_def *d = &program_defs[m->op].arg[at];
        const int plain = program_plain_value(d);
        if ((d->type != ARG_RARE && d->type != ARG_NUMBER) || m->arg[at] == plain)
                return false;
        m->arg[at] = plain;
        return true;
}

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
