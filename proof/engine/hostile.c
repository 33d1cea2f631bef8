/*
 * hostile - a peer that writes anything anywhere it can, at any time.
 *
 * First one run undisturbed, which records every load of shared memory, and every datagram that came. Then, for every
 * load k and every value that may matter there, one run in which the value is put in place just before load k, and
 * stays. Named lie:K:AT:LEN:VALUE, or `honest`; and for every datagram, what can be done to its length and to the
 * descriptors with it (datagram.h), frame:K:LIE. In every run: no crash (and no sanitizer's complaint, in the build
 * that has one), an allowed answer, a bounded number of steps, no byte of private memory in what others can see, and
 * the operation's own audit.
 *
 * The honest run also finds double fetches: bytes that the liar can write and that are loaded twice in one call. A
 * check of the first copy says nothing about the second.
 */
#include "case.h"
#include "datagram.h"

#include "link/frame.h"

#include "os/os.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
        CANARY = 0xc5,
        CANARY_RUN = 4, /* so many in a row are no accident: proofs do not send this byte */
        VALUES_MAX = 192,
        WORDS_MAX = 16, /* of a load longer than a word, that are lied about one by one */
};

struct plan {
        uint64_t k;       /* counts loads that the liar can change */
        uint32_t at, len; /* which bytes of the load */
        uint64_t value;
        bool fill;  /* all of the load, with the byte `value` */
        bool frame; /* lie number `value` about the datagram */
};
#define NEVER UINT64_MAX

static struct {
        struct proof *p;
        const struct plan *plan;
        uint64_t loads, steps, steps_max;
} armed;

/*
 * A lie about the head of a datagram that was only looked at: the peer sent it so, and it comes so again until it is
 * taken. A lie about the read that takes it is another one: what comes then is not what was looked at.
 */
static struct {
        bool on;
        ssize_t was_len, is_len;
        uint8_t was[sizeof(struct wh_frame)], is[sizeof(struct wh_frame)];
} said;

static size_t head_len(const struct hook_step *s)
{
        return s->len < sizeof said.was ? s->len : sizeof said.was;
}

static void say_begin(const struct hook_step *s)
{
        said.was_len = *s->received;
        memcpy(said.was, s->addr, head_len(s));
}

static void say_end(const struct hook_step *s)
{
        said.on = s->peeked;
        said.is_len = *s->received;
        memcpy(said.is, s->addr, head_len(s));
}

static void say_again(const struct hook_step *s)
{
        if (!said.on || !s->msg || *s->received != said.was_len || memcmp(s->addr, said.was, head_len(s)))
                return;
        *s->received = said.is_len;
        memcpy(s->addr, said.is, head_len(s));
        said.on = s->peeked;
}

static bool liar_writes(struct proof *p, const void *at)
{
        return !p->op->liar_writes || p->op->liar_writes(p, at);
}

static void trace_load(struct proof *p, const struct hook_step *s)
{
        struct proof_report *rep = p->report_;
        if (rep->n_trace == PROOF_TRACE)
                return;
        struct proof_traced *t = &rep->trace[rep->n_trace++];
        const struct hook_range *range = hook_range_of(s->addr);
        *t = (struct proof_traced){
                .kind = (uint8_t)s->kind,
                .call = range && range->immutable, /* may be loaded twice */
                .atomic = s->atomic,
                .peeked = s->peeked,
                .len = (uint32_t)s->len,
                .epoch = rep->epoch,
                .at = (uint64_t)(uintptr_t)s->addr,
                .site = (uint64_t)(uintptr_t)s->site,
        };
        memcpy(&t->value, s->addr, s->len < 8 ? s->len : 8);
        memcpy(t->bytes, s->addr, s->len < sizeof t->bytes ? s->len : sizeof t->bytes);
        if (s->msg) {
                unsigned len, n_fds;
                proof_datagram_look(s, &len, &n_fds);
                t->datagram = (uint16_t)len;
                t->n_fds = (uint16_t)n_fds;
        }
}

static int on_step(const struct hook_step *s)
{
        struct proof *p = armed.p;
        if (++armed.steps > armed.steps_max)
                proof_fail(p, p->op->name, 0, "more than %" PRIu64 " steps: work without bound", armed.steps_max);
        proof_datagram_cut(s);
        if (s->kind != HOOK_LOAD && s->kind != HOOK_RMW && s->kind != HOOK_RECEIVED)
                return 0;
        if (s->kind != HOOK_RECEIVED && !liar_writes(p, s->addr))
                return 0;
        if (s->kind == HOOK_RECEIVED)
                say_again(s);
        uint64_t k = armed.loads++;
        if (armed.plan->k == NEVER) {
                trace_load(p, s);
                return 0;
        }
        if (k != armed.plan->k || armed.plan->at + armed.plan->len > s->len)
                return 0;
        const bool says = s->kind == HOOK_RECEIVED && s->msg;
        if (says)
                say_begin(s);
        if (armed.plan->frame) {
                p->lied = p->report_->reached = s->msg && proof_datagram_lie(s, (unsigned)armed.plan->value);
                if (says)
                        say_end(s);
                return 0;
        }
        uint8_t *to = s->kind == HOOK_RECEIVED ? s->addr : hook_writable(s->addr);
        if (!to)
                return 0;
        const size_t kept = s->kind != HOOK_RECEIVED ? 0 : s->len < PROOF_DATAGRAM ? s->len : PROOF_DATAGRAM;
        memcpy(p->datagram_came, to, kept);
        if (armed.plan->fill)
                memset(to, (int)armed.plan->value, s->len);
        else
                memcpy(to + armed.plan->at, &armed.plan->value, armed.plan->len);
        memcpy(p->datagram_read, to, kept);
        if (says)
                say_end(s);
        p->lied = true;
        p->report_->reached = true;
        return 0;
}

static bool has_canary(const uint8_t *b, size_t len)
{
        const uint8_t *end = b + len;
        while ((b = memchr(b, CANARY, (size_t)(end - b)))) {
                size_t run = 0;
                while (b + run < end && b[run] == CANARY)
                        if (++run == CANARY_RUN)
                                return true;
                b += run;
        }
        return false;
}

static void on_send(const void *bytes, size_t len)
{
        if (has_canary(bytes, len))
                proof_fail(armed.p, armed.p->op->name, 0, "private memory leaves through a socket");
}

static void check_leaks(struct proof *p)
{
        unsigned n;
        const struct hook_range *r = hook_ranges(&n);
        for (unsigned i = 0; i < n; i++)
                if (has_canary(r[i].at, r[i].len < 4 << 20 ? r[i].len : 4 << 20))
                        proof_fail(p, p->op->name, 0, "private memory shows in shared memory");
}

/* What the operation's own frames will lie on, and whatever it does not initialise will show. */
__attribute__((noinline)) static void paint_stack(void)
{
        uint8_t paint[32 << 10];
        memset(paint, CANARY, sizeof paint);
        __asm__ __volatile__("" : : "r"(paint) : "memory");
}

void proof_next_call(void)
{
        if (armed.p) {
                armed.p->report_->epoch++;
                paint_stack();
        }
}

static bool allowed(const struct proof_op *op, int r)
{
        if (r >= 0)
                return true;
        for (const int *e = op->errors; e && *e; e++)
                if (*e == r)
                        return true;
        return false;
}

static void hostile_case(struct proof *p, const void *arg)
{
        const struct plan *plan = arg;
        const struct proof_op *op = p->op;
        hook_fill_allocations = CANARY;
        if (op->setup)
                op->setup(p);
        if (op->start)
                op->start(p);
        armed.p = p;
        armed.plan = plan;
        armed.steps_max = op->steps_max ? op->steps_max : 10000;
        hook_on_send = on_send;
        paint_stack();
        hook_arm(on_step);
        p->result = op->victim(p);
        hook_disarm();
        armed.p = NULL;
        proof_datagram_cut(NULL);
        hook_on_send = NULL;
        p->report_->steps = armed.steps;
        if (!p->lied)
                check_leaks(p);
        if (!(p->lied ? allowed(op, p->result) : p->result >= 0))
                proof_fail(p, op->name, 0, "answers %d (%s)%s", p->result, strerrorname_np(-p->result),
                           p->lied ? "" : " although nobody lied");
        if (op->audit)
                op->audit(p);
        if (op->teardown)
                op->teardown(p);
        if (plan->k == NEVER) {
                /* Double fetches are counted by the driver; but what may be refetched only this process knows. */
                struct proof_report *rep = p->report_;
                for (uint32_t i = 0; i < rep->n_trace; i++)
                        if (proof_refetch_allowed((void *)(uintptr_t)rep->trace[i].at, rep->trace[i].len))
                                rep->trace[i].call = 1;
        }
}

/* ---- the driver ---- */

struct values {
        uint64_t v[VALUES_MAX];
        unsigned n;
};

static void value_add(struct values *vs, uint64_t v, uint32_t len, uint64_t now)
{
        v &= len == 8 ? UINT64_MAX : ((uint64_t)1 << len * 8) - 1;
        if (v == now || vs->n == VALUES_MAX)
                return;
        for (unsigned i = 0; i < vs->n; i++)
                if (vs->v[i] == v)
                        return;
        vs->v[vs->n++] = v;
}

/* A word of what was loaded. */
static uint64_t word_of(const struct proof_traced *t, uint32_t at, uint32_t len)
{
        uint64_t v = 0;
        if (at + len <= sizeof t->bytes)
                memcpy(&v, t->bytes + at, len);
        return v;
}

/*
 * What may matter in a word of `len` bytes that holds `now`: boundaries, neighbours, flips, and what was seen
 * elsewhere. `few`: boundaries alone; `some`: and neighbours.
 */
enum how_many { FEW, SOME, MANY };
static void values_of(struct values *vs, uint64_t now, uint32_t len, const struct proof_traced *trace, uint32_t n_trace,
                      uint64_t at, enum how_many how_many)
{
        const uint64_t top = (uint64_t)1 << (len * 8 - 1);
        const uint64_t fixed[] = {
                0,       1,       2,       3,       UINT64_MAX, UINT64_MAX - 1, UINT64_MAX - 63, top,
                top - 1, top + 1, now + 1, now - 1, now + 2,    now - 2,        now + 64,        now - 64,
                now * 2, now / 2, ~now,    -now};
        vs->n = 0;
        for (unsigned i = 0; i < sizeof fixed / sizeof *fixed; i++)
                value_add(vs, fixed[i], len, now);
        if (how_many == FEW)
                vs->n = vs->n < 8 ? vs->n : 8;
        for (unsigned b = 0; b < len * 8 && how_many == MANY; b++)
                value_add(vs, now ^ (uint64_t)1 << b, len, now);
        /* Compilers load two fields at once. A field that is a size has to stay one for most lies to get anywhere. */
        for (unsigned half = 0; half < 2 && len == 8 && how_many != FEW; half++) {
                const unsigned shift = half * 32;
                const uint64_t field = now >> shift & UINT32_MAX, rest = now & ~((uint64_t)UINT32_MAX << shift);
                const uint32_t as[] = {1, (uint32_t)field * 2, (uint32_t)field / 2};
                for (unsigned i = 0; i < sizeof as / sizeof *as; i++)
                        value_add(vs, rest | (uint64_t)as[i] << shift, len, now);
        }
        /* Stale values of the same place, then true values of other places. */
        for (uint32_t i = 0; i < n_trace; i++)
                if (trace[i].at == at)
                        value_add(vs, trace[i].value, len, now);
        for (uint32_t i = 0; i < n_trace && i < 64 && how_many == MANY; i++)
                value_add(vs, trace[i].value, len, now);
}

/* One of so many is tried, where a case costs as much. */
static bool is_too_dear(const struct proof_args *args, const struct proof_op *op)
{
        static uint64_t n;
        const unsigned costs = args->quick ? op->costs : op->costs / 3;
        return !args->only_case && costs > 1 && (n++ + args->seed) % costs;
}

static bool lie(const struct proof_args *args, const struct proof_op *op, const struct plan *plan,
                struct proof_figures *sum)
{
        char name[96];
        if (plan->k != NEVER && is_too_dear(args, op))
                return true;
        if (plan->k == NEVER)
                strcpy(name, "honest");
        else if (plan->frame)
                snprintf(name, sizeof name, "frame:%" PRIu64 ":%" PRIu64, plan->k, plan->value);
        else
                snprintf(name, sizeof name, "lie:%" PRIu64 ":%u:%u:%#" PRIx64, plan->k, plan->at,
                         plan->fill ? 0 : plan->len, plan->value);
        bool ok = proof_case(args, "hostile", op, name, hostile_case, plan, sum);
        sum->values += proof_reported()->reached;
        if (args->verbose)
                printf("%s %s: loads %u, steps %" PRIu64 "\n", op->name, name, proof_reported()->n_trace,
                       proof_reported()->steps);
        return ok;
}

static void double_fetches(const struct proof_args *args, const struct proof_op *op, const struct proof_traced *t,
                           uint32_t n, struct proof_figures *sum)
{
        for (uint32_t i = 0; i < n; i++) {
                if (t[i].call || t[i].kind != HOOK_LOAD)
                        continue;
                for (uint32_t j = 0; j < i; j++) {
                        if (t[j].kind != HOOK_LOAD || t[j].epoch != t[i].epoch || t[i].at >= t[j].at + t[j].len ||
                            t[j].at >= t[i].at + t[i].len)
                                continue;
                        /* What the build with sanitizers cannot tell apart is left to the other. */
                        if (op->looks_again && t[i].at == t[j].at && t[i].len == t[j].len &&
                            ((t[i].atomic && t[j].atomic) || !hook_sees_atomics))
                                continue;
                        sum->double_fetches++;
                        sum->failures++;
                        if (!args->expect_failure && sum->failures <= 8)
                                fprintf(stderr,
                                        "hostile %s: %s: the same %u bytes at %#" PRIx64
                                        " are loaded twice in one call: at %#" PRIx64 " and %#" PRIx64
                                        " (addr2line -fe)\n    again: --only %s --case honest --seed %" PRIu64 "\n",
                                        args->area, op->name, t[i].len, t[i].at, t[j].site, t[i].site, op->name,
                                        args->seed);
                        break;
                }
        }
}

enum { PLACES = 4096 };

/* In the quick tier: a place that an operation before this one came by. */
static bool was_seen(const struct proof_traced *t, bool now)
{
        static struct {
                uint64_t site;
                bool before; /* this operation */
        } seen[PLACES];
        for (unsigned i = t->site % PLACES;; i = (i + 1) % PLACES) {
                if (!seen[i].site && now)
                        seen[i].site = t->site;
                if (seen[i].site == t->site && now)
                        seen[i].before = true;
                if (!seen[i].site || seen[i].site == t->site)
                        return seen[i].before;
        }
}

/*
 * The first load of this place in the code, in all its pieces if it is a copy; a datagram's head is told from its body.
 */
static bool is_first(const struct proof_op *op, const struct proof_traced *t, uint32_t k)
{
        if (!op->cheap && was_seen(&t[k], false))
                return false;
        while (k > 0 && t[k - 1].site == t[k].site && t[k - 1].at + t[k - 1].len == t[k].at)
                k--;
        for (uint32_t i = 0; i < k; i++)
                if (t[i].site == t[k].site && t[i].kind == t[k].kind && !t[i].datagram == !t[k].datagram)
                        return false;
        return true;
}

/* The build with sanitizers takes three times as long, and is there for what the values lead to. */
static bool sanitized_quick(const struct proof_args *args)
{
        return args->quick && !hook_sees_atomics;
}

/* Datagrams are alike by their type and number of descriptors. */
struct likeness {
        uint64_t what;
        unsigned n;
};

enum { LIKENESSES = 256 };

static struct likeness *likeness_of(struct likeness *seen, const struct proof_traced *t)
{
        /* The byte that says which type, and the number of descriptors. */
        uint64_t what = t->len < 8 ? 1 : (t->value >> 48 & 0xff) << 16 | (uint64_t)t->n_fds << 8 | 2;
        what |= (uint64_t)t->peeked << 32;
        unsigned i = 0;
        while (seen[i].what && seen[i].what != what && i < LIKENESSES - 1)
                i++;
        seen[i].what = what;
        return &seen[i];
}

/*
 * Every field of the head of a datagram, and everything that can be done to it as a whole. Of those that are alike the
 * quick tier lies about the first one in all ways, and about the second as a whole; about one that is alike to one of
 * an operation before as a whole too, or with sanitizers not at all: what begins a link begins it in each of them.
 */
static void lie_about_datagrams(const struct proof_args *args, const struct proof_op *op, const struct proof_traced *t,
                                uint32_t n, struct proof_figures *sum)
{
        static const uint8_t field[] = {4, 1, 1, 1, 1, 8, 8, 4, 4, 4, 4}; /* of struct wh_frame */
        enum { ARG = 9 };
        const unsigned alike_max = sanitized_quick(args) ? 1 : args->quick ? 2 : 4;
        static struct likeness seen_by_any[LIKENESSES];
        struct likeness seen[LIKENESSES] = {0};
        for (uint32_t k = 0; k < n; k++) {
                if (!t[k].datagram)
                        continue;
                struct likeness *of_op = likeness_of(seen, &t[k]), *of_any = likeness_of(seen_by_any, &t[k]);
                if (of_op->n++ >= alike_max)
                        continue;
                const bool again = args->quick && of_any->n++ > 0;
                if (again && sanitized_quick(args))
                        continue;
                for (unsigned lies = proof_datagram_lies(t[k].datagram, t[k].n_fds), l = 0; l < lies; l++)
                        lie(args, op, &(struct plan){.k = k, .frame = true, .value = l}, sum);
                if (again || (args->quick && of_op->n > 1))
                        continue;
                const enum how_many how_many = sanitized_quick(args) ? FEW : SOME;
                uint32_t at = 0;
                for (unsigned f = 0; f < sizeof field && at + field[f] <= t[k].len; at += field[f++]) {
                        struct values vs;
                        uint64_t now = word_of(&t[k], at, field[f]);
                        values_of(&vs, now, field[f], t, 0, 0, how_many);
                        for (uint64_t v = 4; v < 24 && (field[f] == 1 || f == ARG); v++)
                                value_add(&vs, v, field[f], now);
                        for (unsigned v = 0; v < vs.n; v++)
                                lie(args, op, &(struct plan){.k = k, .at = at, .len = field[f], .value = vs.v[v]}, sum);
                }
                /* What begins the body: the kinds of what it carries. */
                for (uint32_t b = 0; k + 1 < n && t[k + 1].kind == HOOK_RECEIVED && b < t[k].n_fds && b < 3; b++)
                        for (uint64_t v = 0; v < 16; v++)
                                lie(args, op, &(struct plan){.k = k + 1, .at = b, .len = 1, .value = v < 15 ? v : 255},
                                    sum);
        }
}

void proof_hostile(const struct proof_args *args, const struct proof_op *op, struct proof_figures *sum)
{
        sum->operations++;
        struct plan plan = {.k = NEVER};
        if (args->only_case && strcmp(args->only_case, "honest")) {
                plan.frame = sscanf(args->only_case, "frame:%" SCNu64 ":%" SCNu64, &plan.k, &plan.value) == 2;
                if (!plan.frame && sscanf(args->only_case, "lie:%" SCNu64 ":%u:%u:%" SCNx64, &plan.k, &plan.at,
                                          &plan.len, &plan.value) != 4)
                        return;
                plan.fill = !plan.frame && plan.len == 0;
                lie(args, op, &plan, sum);
                return;
        }
        if (!lie(args, op, &plan, sum))
                return;
        uint32_t n = proof_reported()->n_trace;
        struct proof_traced *t = calloc(n + 1, sizeof *t);
        memcpy(t, proof_reported()->trace, n * sizeof *t);
        if (!op->trusted)
                double_fetches(args, op, t, n, sum);
        if (!args->only_case)
                lie_about_datagrams(args, op, t, n, sum);

        /* How many cases there would be, so that the quick tier can take an even sample of them. */
        const uint64_t cap = (args->quick         ? (hook_sees_atomics ? 3000 : 600)
                              : hook_sees_atomics ? 9000
                                                  : 4500) /
                             args->n_ops; /* an area */
        uint64_t total = 0, i = 0;
        for (int pass = 0; pass < 2 && !args->only_case; pass++) {
                for (uint32_t k = 0; k < n; k++) {
                        bool wide = t[k].len > 8 || (t[k].len & (t[k].len - 1));
                        uint32_t word = !wide ? t[k].len : t[k].len < 4 ? 1 : 4, words = t[k].len / word;
                        words = words > WORDS_MAX ? WORDS_MAX : words;
                        const bool first = !t[k].datagram && is_first(op, t, k);
                        const uint64_t values_before = sum->values;
                        for (uint32_t w = 0; w < words; w++) {
                                struct values vs;
                                uint64_t now = word_of(&t[k], w * word, word);
                                /* Long loads are mostly payload: the quick tier leaves those for the words that decide.
                                 * The first load of each place in the code is lied about in any case. */
                                values_of(&vs, now, word, t, n, t[k].at, args->quick && wide ? FEW : MANY);
                                if (args->quick && first && !(op->cheap && hook_sees_atomics))
                                        values_of(&vs, now, word, t, n, t[k].at, sanitized_quick(args) ? FEW : SOME);
                                for (unsigned v = 0; v < vs.n; v++) {
                                        if (!pass) {
                                                total += !first;
                                                continue;
                                        }
                                        if (!first && !proof_sampled(i++, total, cap, args->seed))
                                                continue;
                                        lie(args, op,
                                            &(struct plan){.k = k, .at = w * word, .len = word, .value = vs.v[v]}, sum);
                                }
                        }
                        static const uint8_t fills[] = {0, 0xff, 0x7f, 0x80};
                        for (unsigned f = 0; wide && f < sizeof fills; f++) {
                                if (!pass) {
                                        total++;
                                        continue;
                                }
                                if (!proof_sampled(i++, total, cap, args->seed))
                                        continue;
                                lie(args, op, &(struct plan){.k = k, .fill = true, .value = fills[f]}, sum);
                        }
                        sum->states += sum->values > values_before;
                }
        }
        for (uint32_t k = 0; args->quick && k < n; k++)
                was_seen(&t[k], true);
        free(t);
}
