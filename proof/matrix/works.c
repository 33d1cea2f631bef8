/*
 * works - the workloads: each is what a peer does, and what it must see.
 */
#include "words.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

/* One question: the answer's head. `items` go along; what comes back is put into `got`. */
static struct head ask_over(struct party *p, wharf_name right, uint32_t id, unsigned stream, uint32_t seq, uint32_t arg,
                            size_t len, struct wharf_item *items, unsigned n, struct wharf_item *got, unsigned n_got)
{
        uint8_t *bytes = malloc(sizeof(struct head) + len);
        MATRIX_CHECK(bytes != NULL);
        struct wharf_msg q = MSG(.id = id, .data = bytes, .len_bytes = party_compose(bytes, stream, seq, arg, len),
                                 .items = items, .n_items = n);
        struct wharf_msg a = MSG(.flags = WHARF_RECV_ALLOC, .items = got, .cap_items = n_got);
        int r = wharf_callmsg(p->task, right, &q, &a, WHARF_FOREVER);
        if (r < 0)
                matrix_say("request %u: %s", id, wharf_why());
        MATRIX_EQ(r, 0);
        struct head h = party_opened(a.data, a.len_bytes);
        MATRIX_EQ(a.n_items, h.arg == REFUSED ? 0 : n_got);
        MATRIX_EQ(h.stream, stream);
        wharf_release(p->task, &a);
        free(bytes);
        return h;
}

static struct head ask(struct party *p, uint32_t id, unsigned stream, uint32_t seq, uint32_t arg, size_t len,
                       struct wharf_item *items, unsigned n, struct wharf_item *got, unsigned n_got)
{
        return ask_over(p, p->right, id, stream, seq, arg, len, items, n, got, n_got);
}

struct head party_ask_plain(struct party *p, uint32_t id, unsigned stream, uint32_t seq, uint32_t arg)
{
        return ask(p, id, stream, seq, arg, 0, NULL, 0, NULL, 0);
}

static void tell(struct party *p, uint32_t id, unsigned stream, uint32_t seq, uint32_t arg)
{
        uint8_t bytes[sizeof(struct head)];
        struct wharf_msg m = MSG(.id = id, .data = bytes, .len_bytes = party_compose(bytes, stream, seq, arg, 0));
        MATRIX_EQ(wharf_sendmsg(p->task, p->right, &m, WHARF_FOREVER), 0);
}

static wharf_name port_new(struct party *p)
{
        wharf_name port;
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        MATRIX_EQ(wharf_port_new(p->task, &o, &port), 0);
        return port;
}

/* A port to which the hub echoes. */
static wharf_name listen_for_echoes(struct party *p, unsigned stream)
{
        wharf_name port = port_new(p);
        ask(p, ID_GIVE, stream, 0, 0, 0, &(struct wharf_item){.kind = WHARF_MAKE_SEND, .name = port}, 1, NULL, 0);
        return port;
}

static void work_small(struct party *p, unsigned stream)
{
        uint8_t bytes[sizeof(struct head) + 4096];
        uint64_t back[64] = {0};
        wharf_name echo = listen_for_echoes(p, stream);
        for (uint32_t sent = 0, got = 0; got < p->messages;) {
                for (unsigned i = 0; i < WINDOW && sent < p->messages; i++, sent++) {
                        struct wharf_msg m =
                                MSG(.id = ID_SMALL, .data = bytes,
                                    .len_bytes = party_compose(bytes, stream, sent, 0, party_small_len(sent)));
                        MATRIX_EQ(wharf_sendmsg(p->task, p->right, &m, WHARF_FOREVER), 0);
                }
                for (; got < sent; got++) {
                        ssize_t n = wharf_recv(p->task, echo, bytes, sizeof bytes, NULL, WHARF_FOREVER);
                        MATRIX_CHECK(n > 0);
                        struct head h = party_opened(bytes, (size_t)n);
                        MATRIX_EQ(h.stream, stream);
                        MATRIX_CHECK(h.seq < sent && !(back[h.seq / 64] & 1ull << h.seq % 64));
                        back[h.seq / 64] |= 1ull << h.seq % 64;
                        if (party_threads(p->other) == 1)
                                MATRIX_EQ(h.seq, got);
                }
        }
        MATRIX_EQ(party_ask_plain(p, ID_COUNT, stream, 0, 0).arg, p->messages);
        MATRIX_EQ(wharf_drop(p->task, echo), 0);
}

static void work_large(struct party *p, unsigned stream)
{
        static const size_t sizes[] = {3000, 70000, 200001, LARGE_MAX - sizeof(struct head)};
        wharf_name echo = listen_for_echoes(p, stream);
        const unsigned n_sizes = party_threads(p->env) > 1 || p->c->quick ? 3 : 4;
        for (uint32_t seq = 0; seq < n_sizes; seq++) {
                party_send_large(p, p->right, NULL, sizes[seq], stream, seq);
                /* Once in place, once copied. */
                struct wharf_msg m = MSG(.flags = seq % 2 ? WHARF_RECV_ALLOC : WHARF_RECV_IN_PLACE);
                MATRIX_EQ(wharf_recvmsg(p->task, echo, &m, WHARF_FOREVER), 0);
                struct head h = party_opened(m.data, m.len_bytes);
                MATRIX_EQ(h.seq, seq);
                MATRIX_EQ(h.len_bytes, sizes[seq]);
                wharf_release(p->task, &m);
        }
        MATRIX_EQ(wharf_drop(p->task, echo), 0);
}

static void work_call(struct party *p, unsigned stream)
{
        enum { TOGETHER = 3 };
        for (uint32_t seq = 0; seq < p->messages / 4; seq++) {
                const uint32_t large =
                        party_no_memory(p) ? REPLY_COLD_MAX : REPLY_MAX; /* a reply never waits for room */
                const uint32_t want = seq % 5 == 4 ? large : seq * 37 % 900;
                struct head h = ask(p, ID_CALL, stream, seq, want, party_small_len(seq), NULL, 0, NULL, 0);
                MATRIX_EQ(h.seq, seq);
                MATRIX_EQ(h.len_bytes, want);
        }
        /* Several at once, finished in another order than they were started in. */
        uint8_t bytes[TOGETHER][sizeof(struct head) + 64];
        uint32_t calls[TOGETHER];
        for (uint32_t i = 0; i < TOGETHER; i++) {
                struct wharf_msg q =
                        MSG(.id = ID_CALL, .data = bytes[i], .len_bytes = party_compose(bytes[i], stream, i, 64, 0));
                MATRIX_EQ(wharf_call_start(p->task, p->right, &q, WHARF_NONE, WHARF_FOREVER, &calls[i]), 0);
        }
        for (uint32_t i = TOGETHER; i-- > 0;) {
                struct wharf_msg a = MSG(.data = bytes[i], .cap_bytes = sizeof bytes[i]);
                MATRIX_EQ(wharf_call_finish(p->task, p->right, calls[i], &a, WHARF_FOREVER), 0);
                MATRIX_EQ(party_opened(a.data, a.len_bytes).seq, i);
        }
}

/* Whatever signals come meanwhile. */
static ssize_t read_some(int fd, void *to, size_t n)
{
        ssize_t r;
        do
                r = syscall(SYS_read, fd, to, n);
        while (r < 0 && errno == EINTR);
        return r;
}

static void work_rights(struct party *p, unsigned stream)
{
        int pipes[2];
        char text[8];
        MATRIX_EQ(pipe2(pipes, O_CLOEXEC), 0);
        wharf_name port = port_new(p);
        struct wharf_item items[3] = {{.kind = WHARF_MAKE_SEND, .name = port},
                                      {.kind = WHARF_MAKE_ONCE, .name = port},
                                      {.kind = WHARF_MOVE_FD, .fd = pipes[1]}};
        ask(p, ID_RIGHTS, stream, 0, 0, 0, items, 3, NULL, 0);
        MATRIX_EQ(read_some(pipes[0], text, sizeof text), 4);
        MATRIX_EQ(read_some(pipes[0], text, sizeof text), 0); /* and nobody has kept an end of it */
        MATRIX_EQ(syscall(SYS_close, pipes[0]), 0);
        /* Over two links, so in either order. */
        unsigned seen = 0;
        for (unsigned i = 0; i < 2; i++) {
                uint8_t bytes[sizeof(struct head) + 24];
                MATRIX_EQ(wharf_recv(p->task, port, bytes, sizeof bytes, NULL, WHARF_FOREVER), sizeof bytes);
                seen |= party_opened(bytes, sizeof bytes).seq;
        }
        MATRIX_EQ(seen, 3);
        MATRIX_EQ(wharf_drop(p->task, port), 0);
        party_ask_plain(p, ID_DEAD, stream, 0, 0);
}

static void work_memory(struct party *p, unsigned stream)
{
        const size_t bytes = p->c->quick ? 150000 : 2 << 20;
        for (uint32_t seq = 10; seq < 12; seq++) {
                wharf_name memory;
                void *at;
                int r = wharf_memory_new(p->task, bytes, &memory);
                if (r < 0 && party_scarce(p) && party_is_want(r))
                        return; /* refused clearly; and everything else still works */
                MATRIX_EQ(r, 0);
                MATRIX_EQ(wharf_memory_at(p->task, memory, &at, NULL), 0);
                party_compose(at, stream, seq, 0, bytes - sizeof(struct head));
                struct wharf_item give = {.kind = seq % 2 ? WHARF_MOVE_MEMORY : WHARF_COPY_MEMORY, .name = memory};
                struct wharf_item got = {0};
                struct head h = ask(p, ID_MEMORY, stream, seq, 0, 0, &give, 1, &got, 1);
                if (seq % 2) {
                        MATRIX_EQ(wharf_name_kind(p->task, memory), -EBADF);
                } else { /* what the hub wrote went to a copy of its own */
                        MATRIX_EQ(party_opened(at, bytes).seq, seq);
                        MATRIX_EQ(wharf_drop(p->task, memory), 0);
                }
                if (h.arg == REFUSED)
                        continue;
                MATRIX_EQ(got.kind, WHARF_GOT_MEMORY);
                MATRIX_EQ(wharf_memory_at(p->task, got.name, &at, NULL), 0);
                MATRIX_EQ(party_opened(at, bytes).seq, seq + 1);
                MATRIX_EQ(wharf_drop(p->task, got.name), 0);
        }
}

static void work_moved(struct party *p, unsigned stream)
{
        enum { QUEUED = 30, HERE = 5, THERE = 10 };
        wharf_name port = port_new(p);
        struct wharf_item make = {.kind = WHARF_MAKE_SEND, .name = port};
        ask(p, ID_FILL, stream, 0, QUEUED, 0, &make, 1, NULL, 0);
        for (uint32_t i = 0; i < HERE; i++)
                party_noted(p, port, stream, i, WHARF_FOREVER);
        struct wharf_item move = {.kind = WHARF_MOVE_RECEIVE, .name = port}, back = {0};
        if (p->env->no_memory) { /* refused, and nothing has changed */
                uint8_t bytes[sizeof(struct head)];
                struct wharf_msg m =
                        MSG(.id = ID_MOVED, .data = bytes, .len_bytes = party_compose(bytes, stream, 0, 0, 0),
                            .items = &move, .n_items = 1);
                MATRIX_EQ(wharf_sendmsg(p->task, p->right, &m, WHARF_FOREVER), -EOPNOTSUPP);
                for (uint32_t i = HERE; i < QUEUED; i++)
                        party_noted(p, port, stream, i, WHARF_FOREVER);
                MATRIX_EQ(wharf_drop(p->task, port), 0);
                return;
        }
        if (ask(p, ID_MOVED, stream, HERE, THERE, 0, &move, 1, &back, 1).arg == REFUSED)
                return;
        MATRIX_EQ(back.kind, WHARF_GOT_RECEIVE);
        MATRIX_EQ(wharf_name_kind(p->task, port), -EBADF);
        for (uint32_t i = HERE + THERE; i < QUEUED; i++)
                party_noted(p, back.name, stream, i, WHARF_FOREVER);
        party_noted(p, back.name, stream, HERE + 2 * THERE, WHARF_FOREVER);
        MATRIX_EQ(wharf_drop(p->task, back.name), 0);
}

/* A call in two halves. */
static uint32_t start(struct party *p, uint32_t id, unsigned stream, uint32_t seq, uint32_t arg)
{
        uint8_t bytes[sizeof(struct head)];
        uint32_t call;
        struct wharf_msg q = MSG(.id = id, .data = bytes, .len_bytes = party_compose(bytes, stream, seq, arg, 0));
        MATRIX_EQ(wharf_call_start(p->task, p->right, &q, WHARF_NONE, WHARF_FOREVER, &call), 0);
        return call;
}

/* False: not yet. */
static bool finish_call(struct party *p, uint32_t call, int64_t deadline_ns)
{
        uint8_t bytes[sizeof(struct head)];
        struct wharf_msg a = MSG(.data = bytes, .cap_bytes = sizeof bytes);
        int r = wharf_call_finish(p->task, p->right, call, &a, deadline_ns);
        if (r == -ETIMEDOUT && deadline_ns != WHARF_FOREVER)
                return false;
        MATRIX_EQ(r, 0);
        party_opened(a.data, a.len_bytes);
        return true;
}

/* Everything that blocks: it ends when it should, not before its deadline, and with the right result. */
static void work_waits(struct party *p, unsigned stream)
{
        enum { TICKS = 6 };
        uint8_t bytes[sizeof(struct head) + 24];
        wharf_name echo = listen_for_echoes(p, stream);

        int64_t deadline = wharf_in_ms(4);
        MATRIX_EQ(wharf_recv(p->task, echo, bytes, sizeof bytes, NULL, deadline), -ETIMEDOUT);
        MATRIX_CHECK(wharf_now_ns() >= deadline);
        tell(p, ID_TICK, stream, 100, TICKS);
        for (uint32_t i = 0; i < TICKS; i++)
                party_noted(p, echo, stream, 100 + i, WHARF_FOREVER);

        /* A port that holds little, or nothing at all. */
        static const uint32_t capacity[] = {3, WHARF_RENDEZVOUS};
        for (unsigned k = 0; k < 2; k++) {
                struct wharf_item got = {0};
                uint32_t seq = 0;
                ask(p, ID_NARROW, stream, 0, capacity[k], 0, NULL, 0, &got, 1);
                MATRIX_EQ(got.kind, WHARF_GOT_SEND);
                int r = 0;
                for (; seq < 2000; seq++) {
                        r = wharf_send(p->task, got.name, bytes, party_compose(bytes, stream, seq, 0, 24), 0);
                        if (r < 0)
                                break;
                }
                if (k == 1 && party_scarce(p) && r == -EOPNOTSUPP) {
                        MATRIX_EQ(wharf_drop(p->task, got.name), 0);
                        continue;
                }
                MATRIX_EQ(r, -EAGAIN);
                deadline = wharf_in_ms(4);
                MATRIX_EQ(wharf_send(p->task, got.name, bytes, party_compose(bytes, stream, seq, 0, 24), deadline),
                          -ETIMEDOUT);
                MATRIX_CHECK(wharf_now_ns() >= deadline);
                uint32_t drain = start(p, ID_DRAIN, stream, 0, seq + TICKS);
                for (unsigned i = 0; i < TICKS; i++, seq++)
                        MATRIX_EQ(wharf_send(p->task, got.name, bytes, party_compose(bytes, stream, seq, 0, 24),
                                             WHARF_FOREVER),
                                  0);
                finish_call(p, drain, WHARF_FOREVER);
                MATRIX_EQ(wharf_drop(p->task, got.name), 0);
        }

        /* An answer that comes late. */
        uint32_t call = start(p, ID_SLOW, stream, 7, 0);
        deadline = wharf_in_ms(1);
        if (!finish_call(p, call, deadline)) {
                MATRIX_CHECK(wharf_now_ns() >= deadline);
                finish_call(p, call, WHARF_FOREVER);
        }
        MATRIX_EQ(wharf_drop(p->task, echo), 0);
}

static void work_names(struct party *p, unsigned stream)
{
        char name[64], nobody[64];
        wharf_name to;
        struct wharf_named *all;
        size_t n;
        MATRIX_EQ(wharf_lookup(p->task, "matrix.hub", wharf_in_ms(10000), &to), 0);
        MATRIX_EQ(ask_over(p, to, ID_CALL, stream, 1, 100, 50, NULL, 0, NULL, 0).len_bytes, 100);
        MATRIX_EQ(wharf_drop(p->task, to), 0);

        wharf_name port = port_new(p);
        snprintf(name, sizeof name, "matrix.peer.%u", stream);
        snprintf(nobody, sizeof nobody, "matrix.nobody.%u", stream);
        MATRIX_EQ(wharf_register(p->task, name, port), 0);
        MATRIX_EQ(wharf_names_list(p->task, &all, &n), 0);
        unsigned found = 0;
        for (size_t i = 0; i < n; i++)
                found += !strcmp(all[i].name, name) || !strcmp(all[i].name, "matrix.hub");
        free(all);
        MATRIX_EQ(found, 2);
        party_ask_plain(p, ID_NAME, stream, 5, 0);
        party_noted(p, port, stream, 5, WHARF_FOREVER);
        MATRIX_EQ(wharf_unregister(p->task, name), 0);
        MATRIX_EQ(wharf_unregister(p->task, name), -ENOENT);
        int64_t deadline = wharf_in_ms(4);
        int r = wharf_lookup(p->task, nobody, deadline, &to);
        MATRIX_CHECK(r == -ENOENT || r == -ETIMEDOUT); /* on a busy machine nobody may answer in such a time */
        MATRIX_CHECK(wharf_now_ns() >= deadline);
        MATRIX_EQ(wharf_drop(p->task, port), 0);
}

const struct work works[] = {
        {.name = "small", .run = work_small},   {.name = "large", .run = work_large},
        {.name = "call", .run = work_call},     {.name = "rights", .run = work_rights},
        {.name = "memory", .run = work_memory}, {.name = "moved", .run = work_moved},
        {.name = "waits", .run = work_waits},   {.name = "names", .run = work_names, .names = true},
};
const unsigned n_works = sizeof works / sizeof *works;
