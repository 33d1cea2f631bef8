#include "party.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define MSG(...) ((struct wharf_msg){.size = sizeof(struct wharf_msg), __VA_ARGS__})

/* What a peer asks of the hub: the id of a message. */
enum {
        ID_ENTER = 1, /* call: attached; the hub enters its environment's second half */
        ID_GIVE,      /* call: a right, over which the hub echoes to this stream */
        ID_SMALL,     /* a small message; it is echoed */
        ID_LARGE,     /* a large one; it is echoed */
        ID_COUNT,     /* call: how many small ones came on this stream */
        ID_CALL,      /* call: answered with `arg` bytes */
        ID_SLOW,      /* call: answered late */
        ID_NARROW,    /* call: gives a right to a port that holds `arg` messages */
        ID_DRAIN,     /* receive `arg` messages from there, one now and then */
        ID_TICK,      /* send `arg` messages to this stream, one now and then */
        ID_RIGHTS,    /* call: a right, a send-once right and a pipe: use each */
        ID_DEAD,      /* call: send over the kept right until it is dead */
        ID_MEMORY,    /* call: a memory comes, is checked, changed and goes back */
        ID_FILL,      /* call: send `arg` messages over the right that came, and keep it */
        ID_MOVED,     /* call: a port comes: receive half of what is in it, and give it back */
        ID_NAME,      /* call: look up the name, and send there */
        ID_BYE,       /* call: that was all */
};

/* In front of every payload. */
struct head {
        uint32_t stream, seq, arg, len_bytes; /* of what follows */
        uint64_t sum;
};

enum { REFUSED = 0xdead };
enum { LARGE_MAX = 1 << 20, REPLY_MAX = 300 << 10, REPLY_COLD_MAX = 60 << 10, WARM = 24, WINDOW = 12 };

static void fill(uint8_t *to, size_t len, uint64_t key)
{
        uint64_t x = key * 0x9e3779b97f4a7c15u + 1;
        for (size_t i = 0; i < len; i += 8) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                memcpy(to + i, &x, len - i < 8 ? len - i : 8);
        }
}

static uint64_t sum_of(const uint8_t *p, size_t len)
{
        uint64_t h = 0xcbf29ce484222325u ^ len;
        for (size_t i = 0; i < len; i += 8) {
                uint64_t w = 0;
                memcpy(&w, p + i, len - i < 8 ? len - i : 8);
                h = (h ^ w) * 0x100000001b3u;
                h ^= h >> 29;
        }
        return h;
}

/* A payload of `len` bytes behind a head: the whole length. */
static size_t compose(void *to, unsigned stream, uint32_t seq, uint32_t arg, size_t len)
{
        uint8_t *bytes = to;
        fill(bytes + sizeof(struct head), len, (uint64_t)stream << 32 | seq);
        struct head h = {stream, seq, arg, (uint32_t)len, sum_of(bytes + sizeof(struct head), len)};
        memcpy(bytes, &h, sizeof h);
        return sizeof h + len;
}

static struct head opened(const void *data, size_t len)
{
        struct head h;
        MATRIX_CHECK(len >= sizeof h);
        memcpy(&h, data, sizeof h);
        MATRIX_EQ(h.len_bytes, len - sizeof h);
        MATRIX_CHECK(h.sum == sum_of((const uint8_t *)data + sizeof h, h.len_bytes));
        MATRIX_CHECK(h.stream < STREAMS);
        return h;
}

static uint32_t small_len(uint32_t seq)
{
        return seq % 9 == 8 ? 1200 + seq % 700 : seq * 13 % 200;
}

static unsigned threads_of(const struct env *e)
{
        return e->threads ? e->threads : 1;
}

static bool no_memory(const struct party *p)
{
        return p->env->no_memory || p->other->no_memory;
}

static bool scarce(const struct party *p)
{
        return no_memory(p) || p->env->scarce || p->other->scarce;
}

/* Out of memory, descriptors, or not allowed to make any: what a scarce environment may answer. */
static bool is_want(int r)
{
        return r == -ENOMEM || r == -EMFILE || r == -ENOSPC || r == -EPERM || r == -EFBIG || r == -EOPNOTSUPP ||
               r == -EACCES || r == -EAGAIN || r == -ENOBUFS;
}

static int64_t soon(int64_t ms)
{
        return wharf_in_ms(ms);
}

/* ---- the hub ---- */

/* The kernel's word about the sender is what it must be, from where we stand. */
static void check_sender(struct party *p, const struct wharf_msg *m)
{
        if (p->env->user_namespace || p->other->late_uid || p->executed || p->env->execs)
                return;
        if (!p->other->user_namespace)
                MATRIX_EQ(m->sender.uid, p->other->uid ? (uid_t)p->other->uid : p->uid_then);
        if (p->env->pid_namespace) /* it is no descendant of ours, so the kernel has no number for it here */
                MATRIX_EQ(m->sender.pid, 0);
        else
                MATRIX_CHECK(m->sender.pid > 0);
}

static void hub_small(struct party *p, const struct head *h, const struct wharf_msg *m)
{
        pthread_mutex_lock(&p->lock);
        MATRIX_CHECK(h->seq < 64 * 64);
        MATRIX_CHECK(!(p->seen[h->stream][h->seq / 64] & 1ull << h->seq % 64)); /* never twice */
        p->seen[h->stream][h->seq / 64] |= 1ull << h->seq % 64;
        if (threads_of(p->env) == 1)
                MATRIX_EQ(h->seq, p->next[h->stream]);
        p->next[h->stream]++;
        wharf_name to = p->echo[h->stream];
        pthread_mutex_unlock(&p->lock);
        check_sender(p, m);
        MATRIX_EQ(wharf_send(p->task, to, m->data, m->len_bytes, WHARF_FOREVER), 0);
}

/* Sends a payload written in place where that can be; otherwise copied. */
static void send_large(struct party *p, wharf_name right, const void *bytes, size_t len, unsigned stream, uint32_t seq)
{
        struct wharf_msg m = MSG(.id = ID_LARGE);
        int r = wharf_reserve(p->task, right, len + sizeof(struct head), &m, WHARF_FOREVER);
        if (r < 0) {
                if (!scarce(p) || !is_want(r))
                        MATRIX_EQ(r, 0);
                uint8_t *copy = malloc(len + sizeof(struct head));
                MATRIX_CHECK(copy != NULL);
                if (bytes)
                        memcpy(copy, bytes, len + sizeof(struct head));
                else
                        compose(copy, stream, seq, 0, len);
                struct wharf_msg plain = MSG(.id = ID_LARGE, .data = copy, .len_bytes = len + sizeof(struct head));
                MATRIX_EQ(wharf_sendmsg(p->task, right, &plain, WHARF_FOREVER), 0);
                free(copy);
                return;
        }
        if (bytes)
                memcpy(m.data, bytes, len + sizeof(struct head));
        else
                compose(m.data, stream, seq, 0, len);
        m.len_bytes = len + sizeof(struct head);
        MATRIX_EQ(wharf_sendmsg(p->task, right, &m, WHARF_FOREVER), 0);
}

static void answer(struct party *p, wharf_name reply, unsigned stream, uint32_t seq, uint32_t arg, size_t len,
                   struct wharf_item *items, unsigned n)
{
        uint8_t *bytes = malloc(sizeof(struct head) + len);
        MATRIX_CHECK(bytes != NULL);
        struct wharf_msg m =
                MSG(.data = bytes, .len_bytes = compose(bytes, stream, seq, arg, len), .items = items, .n_items = n);
        MATRIX_EQ(wharf_replymsg(p->task, reply, &m), 0);
        free(bytes);
}

/* The same with one thing; where it takes memory that cannot be made here, without it, and with `arg` REFUSED. */
static void answer_with(struct party *p, wharf_name reply, const struct head *h, uint32_t kind, wharf_name name)
{
        uint8_t bytes[sizeof(struct head)];
        struct wharf_item item = {.kind = kind, .name = name};
        struct wharf_msg m =
                MSG(.data = bytes, .len_bytes = compose(bytes, h->stream, h->seq, 0, 0), .items = &item, .n_items = 1);
        int r = wharf_replymsg(p->task, reply, &m);
        if (p->env->no_memory && r == -EOPNOTSUPP) {
                MATRIX_EQ(wharf_drop(p->task, name), 0);
                answer(p, reply, h->stream, h->seq, REFUSED, 0, NULL, 0);
                return;
        }
        MATRIX_EQ(r, 0);
}

static void note(struct party *p, wharf_name to, unsigned stream, uint32_t seq)
{
        uint8_t bytes[sizeof(struct head) + 24];
        MATRIX_EQ(wharf_send(p->task, to, bytes, compose(bytes, stream, seq, 0, 24), WHARF_FOREVER), 0);
}

static void noted(struct party *p, wharf_name from, unsigned stream, uint32_t seq, int64_t deadline_ns)
{
        uint8_t bytes[sizeof(struct head) + 24];
        MATRIX_EQ(wharf_recv(p->task, from, bytes, sizeof bytes, NULL, deadline_ns), sizeof bytes);
        struct head h = opened(bytes, sizeof bytes);
        MATRIX_EQ(h.stream, stream);
        MATRIX_EQ(h.seq, seq);
}

/* The hub's answer to a message with things in it. */
static void hub_items(struct party *p, const struct head *h, struct wharf_msg *m)
{
        if (m->id == ID_RIGHTS) {
                MATRIX_EQ(m->n_items, 3);
                MATRIX_EQ(m->items[0].kind, WHARF_GOT_SEND);
                MATRIX_EQ(m->items[1].kind, WHARF_GOT_REPLY);
                MATRIX_EQ(m->items[2].kind, WHARF_GOT_FD);
                MATRIX_EQ(fcntl(m->items[2].fd, F_GETFD), FD_CLOEXEC);
                MATRIX_EQ(syscall(SYS_write, m->items[2].fd, "pipe", 4), 4);
                MATRIX_EQ(syscall(SYS_close, m->items[2].fd), 0);
                note(p, m->items[0].name, h->stream, 1);
                note(p, m->items[1].name, h->stream, 2);
                MATRIX_EQ(wharf_name_kind(p->task, m->items[1].name), -EBADF);
                pthread_mutex_lock(&p->lock);
                p->kept[h->stream] = m->items[0].name;
                pthread_mutex_unlock(&p->lock);
                answer(p, m->reply, h->stream, h->seq, 0, 0, NULL, 0);
        } else if (m->id == ID_MEMORY) {
                void *at;
                size_t len;
                MATRIX_EQ(m->n_items, 1);
                MATRIX_EQ(m->items[0].kind, WHARF_GOT_MEMORY);
                MATRIX_EQ(wharf_memory_at(p->task, m->items[0].name, &at, &len), 0);
                struct head in = opened(at, len);
                MATRIX_EQ(in.seq, h->seq);
                compose(at, h->stream, h->seq + 1, 0, len - sizeof in);
                answer_with(p, m->reply, h, WHARF_MOVE_MEMORY, m->items[0].name);
        } else if (m->id == ID_FILL) {
                MATRIX_EQ(m->n_items, 1);
                for (uint32_t i = 0; i < h->arg; i++)
                        note(p, m->items[0].name, h->stream, i);
                pthread_mutex_lock(&p->lock);
                p->kept[h->stream] = m->items[0].name;
                pthread_mutex_unlock(&p->lock);
                answer(p, m->reply, h->stream, h->seq, 0, 0, NULL, 0);
        } else {
                MATRIX_EQ(m->n_items, 1);
                MATRIX_EQ(m->items[0].kind, WHARF_GOT_RECEIVE);
                wharf_name moved = m->items[0].name;
                pthread_mutex_lock(&p->lock);
                wharf_name kept = p->kept[h->stream];
                pthread_mutex_unlock(&p->lock);
                for (uint32_t i = 0; i < h->arg; i++)
                        noted(p, moved, h->stream, h->seq + i, WHARF_FOREVER);
                /* Now it is a port of ours, to which we have a right: more goes in, behind what is there. */
                note(p, kept, h->stream, h->seq + 2 * h->arg);
                MATRIX_EQ(wharf_drop(p->task, kept), 0);
                answer_with(p, m->reply, h, WHARF_MOVE_RECEIVE, moved);
        }
}

/* One request; false after the last. */
static bool hub_one(struct party *p, struct wharf_msg *m)
{
        const struct head h = opened(m->data, m->len_bytes);
        const uint32_t id = m->id;
        bool goes_on = true;
        switch (id) {
        case ID_ENTER:
                if (p->env->execs) { /* a reply right cannot be handed on */
                        answer(p, m->reply, h.stream, 0, 0, 0, NULL, 0);
                        wharf_release(p->task, m);
                        MATRIX_EQ(p->env->after(p), 0);
                        return true;
                }
                if (p->env->after)
                        MATRIX_EQ(p->env->after(p), 0);
                answer(p, m->reply, h.stream, 0, 0, 0, NULL, 0);
                break;
        case ID_GIVE:
                MATRIX_EQ(m->n_items, 1);
                pthread_mutex_lock(&p->lock);
                p->echo[h.stream] = m->items[0].name;
                pthread_mutex_unlock(&p->lock);
                answer(p, m->reply, h.stream, 0, 0, 0, NULL, 0);
                break;
        case ID_SMALL:
                hub_small(p, &h, m);
                break;
        case ID_LARGE:
                send_large(p, p->echo[h.stream], m->data, h.len_bytes, h.stream, h.seq);
                break;
        case ID_COUNT:
                pthread_mutex_lock(&p->lock);
                uint32_t count = p->next[h.stream];
                pthread_mutex_unlock(&p->lock);
                answer(p, m->reply, h.stream, 0, count, 0, NULL, 0);
                break;
        case ID_CALL:
                check_sender(p, m);
                answer(p, m->reply, h.stream, h.seq, 0, h.arg, NULL, 0);
                break;
        case ID_SLOW:
                matrix_sleep_us(6000);
                answer(p, m->reply, h.stream, h.seq, 0, 0, NULL, 0);
                break;
        case ID_NARROW:
                if (p->narrow[h.stream])
                        wharf_drop(p->task, p->narrow[h.stream]);
                struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS, .capacity_records = h.arg};
                MATRIX_EQ(wharf_port_new(p->task, &o, &p->narrow[h.stream]), 0);
                answer(p, m->reply, h.stream, 0, 0, 0,
                       &(struct wharf_item){.kind = WHARF_MAKE_SEND, .name = p->narrow[h.stream]}, 1);
                break;
        case ID_DRAIN:
                for (uint32_t i = 0; i < h.arg; i++) {
                        noted(p, p->narrow[h.stream], h.stream, h.seq + i, WHARF_FOREVER);
                        matrix_sleep_us(300);
                }
                answer(p, m->reply, h.stream, 0, 0, 0, NULL, 0);
                break;
        case ID_TICK:
                for (uint32_t i = 0; i < h.arg; i++) {
                        matrix_sleep_us(300);
                        note(p, p->echo[h.stream], h.stream, h.seq + i);
                }
                break;
        case ID_DEAD:
                /* SIGPIPE would end us: nobody is there any more, and the socket says so sooner or later. */
                for (int r = 0; r != -EPIPE;) {
                        uint8_t bytes[sizeof(struct head)];
                        r = wharf_send(p->task, p->kept[h.stream], bytes, compose(bytes, 0, 0, 0, 0), soon(2000));
                        if (r != 0)
                                MATRIX_EQ(r, -EPIPE);
                }
                MATRIX_EQ(wharf_drop(p->task, p->kept[h.stream]), 0);
                answer(p, m->reply, h.stream, 0, 0, 0, NULL, 0);
                break;
        case ID_NAME: {
                char name[64];
                wharf_name to;
                snprintf(name, sizeof name, "matrix.peer.%u", h.stream);
                MATRIX_EQ(wharf_lookup(p->task, name, soon(10000), &to), 0);
                note(p, to, h.stream, h.seq);
                MATRIX_EQ(wharf_drop(p->task, to), 0);
                answer(p, m->reply, h.stream, 0, 0, 0, NULL, 0);
                break;
        }
        case ID_BYE:
                answer(p, m->reply, h.stream, 0, 0, 0, NULL, 0);
                goes_on = false;
                break;
        default:
                hub_items(p, &h, m);
        }
        wharf_release(p->task, m);
        return goes_on;
}

static void hub_serve(struct party *p, unsigned stream)
{
        struct wharf_item items[4];
        for (bool on = true; on;) {
                struct wharf_msg m = MSG(.flags = WHARF_RECV_IN_PLACE, .items = items, .cap_items = 4);
                int r = wharf_recvmsg(p->task, p->port, &m, WHARF_FOREVER);
                if (atomic_load(&p->over) && (r == -ECANCELED || r == -EBADF))
                        break; /* another thread had the last one */
                MATRIX_EQ(r, 0);
                MATRIX_EQ(m.notice, 0);
                on = hub_one(p, &m);
        }
        if (!atomic_exchange(&p->over, true))
                wharf_drop(p->task, p->port);
}

/* ---- the peer ---- */

/* One question: the answer's head. `items` go along; what comes back is put into `got`. */
static struct head ask_over(struct party *p, wharf_name right, uint32_t id, unsigned stream, uint32_t seq, uint32_t arg,
                            size_t len, struct wharf_item *items, unsigned n, struct wharf_item *got, unsigned n_got)
{
        uint8_t *bytes = malloc(sizeof(struct head) + len);
        MATRIX_CHECK(bytes != NULL);
        struct wharf_msg q = MSG(.id = id, .data = bytes, .len_bytes = compose(bytes, stream, seq, arg, len),
                                 .items = items, .n_items = n);
        struct wharf_msg a = MSG(.flags = WHARF_RECV_ALLOC, .items = got, .cap_items = n_got);
        int r = wharf_callmsg(p->task, right, &q, &a, WHARF_FOREVER);
        if (r < 0)
                matrix_say("request %u: %s", id, wharf_why());
        MATRIX_EQ(r, 0);
        struct head h = opened(a.data, a.len_bytes);
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

static struct head ask_plain(struct party *p, uint32_t id, unsigned stream, uint32_t seq, uint32_t arg)
{
        return ask(p, id, stream, seq, arg, 0, NULL, 0, NULL, 0);
}

static void tell(struct party *p, uint32_t id, unsigned stream, uint32_t seq, uint32_t arg)
{
        uint8_t bytes[sizeof(struct head)];
        struct wharf_msg m = MSG(.id = id, .data = bytes, .len_bytes = compose(bytes, stream, seq, arg, 0));
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
                        struct wharf_msg m = MSG(.id = ID_SMALL, .data = bytes,
                                                 .len_bytes = compose(bytes, stream, sent, 0, small_len(sent)));
                        MATRIX_EQ(wharf_sendmsg(p->task, p->right, &m, WHARF_FOREVER), 0);
                }
                for (; got < sent; got++) {
                        ssize_t n = wharf_recv(p->task, echo, bytes, sizeof bytes, NULL, WHARF_FOREVER);
                        MATRIX_CHECK(n > 0);
                        struct head h = opened(bytes, (size_t)n);
                        MATRIX_EQ(h.stream, stream);
                        MATRIX_CHECK(h.seq < sent && !(back[h.seq / 64] & 1ull << h.seq % 64));
                        back[h.seq / 64] |= 1ull << h.seq % 64;
                        if (threads_of(p->other) == 1)
                                MATRIX_EQ(h.seq, got);
                }
        }
        MATRIX_EQ(ask_plain(p, ID_COUNT, stream, 0, 0).arg, p->messages);
        MATRIX_EQ(wharf_drop(p->task, echo), 0);
}

static void work_large(struct party *p, unsigned stream)
{
        static const size_t sizes[] = {3000, 70000, 200001, LARGE_MAX - sizeof(struct head)};
        wharf_name echo = listen_for_echoes(p, stream);
        const unsigned n_sizes = threads_of(p->env) > 1 || p->c->quick ? 3 : 4;
        for (uint32_t seq = 0; seq < n_sizes; seq++) {
                send_large(p, p->right, NULL, sizes[seq], stream, seq);
                /* Once in place, once copied. */
                struct wharf_msg m = MSG(.flags = seq % 2 ? WHARF_RECV_ALLOC : WHARF_RECV_IN_PLACE);
                MATRIX_EQ(wharf_recvmsg(p->task, echo, &m, WHARF_FOREVER), 0);
                struct head h = opened(m.data, m.len_bytes);
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
                const uint32_t large = no_memory(p) ? REPLY_COLD_MAX : REPLY_MAX; /* a reply never waits for room */
                const uint32_t want = seq % 5 == 4 ? large : seq * 37 % 900;
                struct head h = ask(p, ID_CALL, stream, seq, want, small_len(seq), NULL, 0, NULL, 0);
                MATRIX_EQ(h.seq, seq);
                MATRIX_EQ(h.len_bytes, want);
        }
        /* Several at once, finished in another order than they were started in. */
        uint8_t bytes[TOGETHER][sizeof(struct head) + 64];
        uint32_t calls[TOGETHER];
        for (uint32_t i = 0; i < TOGETHER; i++) {
                struct wharf_msg q =
                        MSG(.id = ID_CALL, .data = bytes[i], .len_bytes = compose(bytes[i], stream, i, 64, 0));
                MATRIX_EQ(wharf_call_start(p->task, p->right, &q, WHARF_FOREVER, &calls[i]), 0);
        }
        for (uint32_t i = TOGETHER; i-- > 0;) {
                struct wharf_msg a = MSG(.data = bytes[i], .cap_bytes = sizeof bytes[i]);
                MATRIX_EQ(wharf_call_finish(p->task, p->right, calls[i], &a, WHARF_FOREVER), 0);
                MATRIX_EQ(opened(a.data, a.len_bytes).seq, i);
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
                seen |= opened(bytes, sizeof bytes).seq;
        }
        MATRIX_EQ(seen, 3);
        MATRIX_EQ(wharf_drop(p->task, port), 0);
        ask_plain(p, ID_DEAD, stream, 0, 0);
}

static void work_memory(struct party *p, unsigned stream)
{
        const size_t bytes = p->c->quick ? 150000 : 2 << 20;
        for (uint32_t seq = 10; seq < 12; seq++) {
                wharf_name memory;
                void *at;
                int r = wharf_memory_new(p->task, bytes, &memory);
                if (r < 0 && scarce(p) && is_want(r))
                        return; /* refused clearly; and everything else still works */
                MATRIX_EQ(r, 0);
                MATRIX_EQ(wharf_memory_at(p->task, memory, &at, NULL), 0);
                compose(at, stream, seq, 0, bytes - sizeof(struct head));
                struct wharf_item give = {.kind = seq % 2 ? WHARF_MOVE_MEMORY : WHARF_COPY_MEMORY, .name = memory};
                struct wharf_item got = {0};
                struct head h = ask(p, ID_MEMORY, stream, seq, 0, 0, &give, 1, &got, 1);
                if (seq % 2) {
                        MATRIX_EQ(wharf_name_kind(p->task, memory), -EBADF);
                } else { /* what the hub wrote went to a copy of its own */
                        MATRIX_EQ(opened(at, bytes).seq, seq);
                        MATRIX_EQ(wharf_drop(p->task, memory), 0);
                }
                if (h.arg == REFUSED)
                        continue;
                MATRIX_EQ(got.kind, WHARF_GOT_MEMORY);
                MATRIX_EQ(wharf_memory_at(p->task, got.name, &at, NULL), 0);
                MATRIX_EQ(opened(at, bytes).seq, seq + 1);
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
                noted(p, port, stream, i, WHARF_FOREVER);
        struct wharf_item move = {.kind = WHARF_MOVE_RECEIVE, .name = port}, back = {0};
        if (p->env->no_memory) { /* refused, and nothing has changed */
                uint8_t bytes[sizeof(struct head)];
                struct wharf_msg m = MSG(.id = ID_MOVED, .data = bytes, .len_bytes = compose(bytes, stream, 0, 0, 0),
                                         .items = &move, .n_items = 1);
                MATRIX_EQ(wharf_sendmsg(p->task, p->right, &m, WHARF_FOREVER), -EOPNOTSUPP);
                for (uint32_t i = HERE; i < QUEUED; i++)
                        noted(p, port, stream, i, WHARF_FOREVER);
                MATRIX_EQ(wharf_drop(p->task, port), 0);
                return;
        }
        if (ask(p, ID_MOVED, stream, HERE, THERE, 0, &move, 1, &back, 1).arg == REFUSED)
                return;
        MATRIX_EQ(back.kind, WHARF_GOT_RECEIVE);
        MATRIX_EQ(wharf_name_kind(p->task, port), -EBADF);
        for (uint32_t i = HERE + THERE; i < QUEUED; i++)
                noted(p, back.name, stream, i, WHARF_FOREVER);
        noted(p, back.name, stream, HERE + 2 * THERE, WHARF_FOREVER);
        MATRIX_EQ(wharf_drop(p->task, back.name), 0);
}

/* A call in two halves. */
static uint32_t start(struct party *p, uint32_t id, unsigned stream, uint32_t seq, uint32_t arg)
{
        uint8_t bytes[sizeof(struct head)];
        uint32_t call;
        struct wharf_msg q = MSG(.id = id, .data = bytes, .len_bytes = compose(bytes, stream, seq, arg, 0));
        MATRIX_EQ(wharf_call_start(p->task, p->right, &q, WHARF_FOREVER, &call), 0);
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
        opened(a.data, a.len_bytes);
        return true;
}

/* Everything that blocks: it ends when it should, not before its deadline, and with the right result. */
static void work_waits(struct party *p, unsigned stream)
{
        enum { TICKS = 6 };
        uint8_t bytes[sizeof(struct head) + 24];
        wharf_name echo = listen_for_echoes(p, stream);

        int64_t deadline = soon(4);
        MATRIX_EQ(wharf_recv(p->task, echo, bytes, sizeof bytes, NULL, deadline), -ETIMEDOUT);
        MATRIX_CHECK(wharf_now_ns() >= deadline);
        tell(p, ID_TICK, stream, 100, TICKS);
        for (uint32_t i = 0; i < TICKS; i++)
                noted(p, echo, stream, 100 + i, WHARF_FOREVER);

        /* A port that holds little, or nothing at all. */
        static const uint32_t capacity[] = {3, WHARF_RENDEZVOUS};
        for (unsigned k = 0; k < 2; k++) {
                struct wharf_item got = {0};
                uint32_t seq = 0;
                ask(p, ID_NARROW, stream, 0, capacity[k], 0, NULL, 0, &got, 1);
                MATRIX_EQ(got.kind, WHARF_GOT_SEND);
                int r = 0;
                for (; seq < 2000; seq++) {
                        r = wharf_send(p->task, got.name, bytes, compose(bytes, stream, seq, 0, 24), 0);
                        if (r < 0)
                                break;
                }
                if (k == 1 && scarce(p) && r == -EOPNOTSUPP) {
                        MATRIX_EQ(wharf_drop(p->task, got.name), 0);
                        continue;
                }
                MATRIX_EQ(r, -EAGAIN);
                deadline = soon(4);
                MATRIX_EQ(wharf_send(p->task, got.name, bytes, compose(bytes, stream, seq, 0, 24), deadline),
                          -ETIMEDOUT);
                MATRIX_CHECK(wharf_now_ns() >= deadline);
                uint32_t drain = start(p, ID_DRAIN, stream, 0, seq + TICKS);
                for (unsigned i = 0; i < TICKS; i++, seq++)
                        MATRIX_EQ(
                                wharf_send(p->task, got.name, bytes, compose(bytes, stream, seq, 0, 24), WHARF_FOREVER),
                                0);
                finish_call(p, drain, WHARF_FOREVER);
                MATRIX_EQ(wharf_drop(p->task, got.name), 0);
        }

        /* An answer that comes late. */
        uint32_t call = start(p, ID_SLOW, stream, 7, 0);
        deadline = soon(1);
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
        MATRIX_EQ(wharf_lookup(p->task, "matrix.hub", soon(10000), &to), 0);
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
        ask_plain(p, ID_NAME, stream, 5, 0);
        noted(p, port, stream, 5, WHARF_FOREVER);
        MATRIX_EQ(wharf_unregister(p->task, name), 0);
        MATRIX_EQ(wharf_unregister(p->task, name), -ENOENT);
        int64_t deadline = soon(4);
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

/* ---- threads ---- */

struct runner {
        struct party *p;
        void (*run)(struct party *p, unsigned stream);
        unsigned stream;
        pthread_t thread;
        _Atomic bool done;
};

static void *runner_run(void *arg)
{
        struct runner *r = arg;
        if (r->p->env->cancelled) /* pending from here on: the first cancellation point would end this thread */
                pthread_cancel(pthread_self());
        r->run(r->p, r->stream);
        atomic_store(&r->done, true);
        pthread_testcancel();
        return NULL;
}

static void *beside_run(void *arg)
{
        struct party *p = arg;
        p->env->beside(p);
        return NULL;
}

static void run_in_threads(struct party *p, void (*run)(struct party *p, unsigned stream))
{
        struct runner r[STREAMS] = {0};
        const struct env *e = p->env;
        pthread_t beside;
        if (e->beside)
                MATRIX_EQ(pthread_create(&beside, NULL, beside_run, p), 0);
        if (threads_of(e) == 1 && !e->cancelled && !e->stack_bytes) {
                run(p, 0);
        } else {
                pthread_attr_t attr;
                pthread_attr_init(&attr);
                if (e->stack_bytes)
                        MATRIX_EQ(pthread_attr_setstacksize(&attr, e->stack_bytes), 0);
                for (unsigned i = 0; i < threads_of(e); i++) {
                        r[i] = (struct runner){.p = p, .run = run, .stream = i};
                        MATRIX_EQ(pthread_create(&r[i].thread, &attr, runner_run, &r[i]), 0);
                }
                for (unsigned i = 0; i < threads_of(e); i++) {
                        void *ret;
                        MATRIX_EQ(pthread_join(r[i].thread, &ret), 0);
                        MATRIX_CHECK(atomic_load(&r[i].done)); /* no call was a cancellation point */
                        MATRIX_CHECK(ret == (e->cancelled ? PTHREAD_CANCELED : NULL));
                }
                pthread_attr_destroy(&attr);
        }
        atomic_store(&p->over, true);
        if (e->beside)
                MATRIX_EQ(pthread_join(beside, NULL), 0);
}

/* ---- from one end to the other ---- */

static void finish(struct party *p)
{
        wharf_task_close(p->task);
        if (p->listen_fd >= 0)
                close(p->listen_fd);
        MATRIX_EQ(matrix_fds_left(p->fds_before), p->fds_before);
        fflush(NULL);
        _exit(MATRIX_PASSED);
}

/* With rights or without, from here on this is the process that does the work. */
static void hub_open(struct party *p)
{
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
        MATRIX_EQ(wharf_task_open(NULL, &p->task), 0);
        MATRIX_EQ(wharf_port_new(p->task, &o, &p->port), 0);
        MATRIX_EQ(wharf_port_listen(p->task, p->port, p->listen_fd), 0);
        if (p->work->names)
                MATRIX_EQ(wharf_register(p->task, "matrix.hub", p->port), 0);
}

static void peer_open(struct party *p)
{
        uint8_t bytes[sizeof(struct head) + 300];
        MATRIX_EQ(wharf_task_open(NULL, &p->task), 0);
        MATRIX_EQ(wharf_right_connect(p->task, p->path, &p->right), 0);
        if (p->work->names) { /* whoever has a name keeps the connection that it was given over */
                MATRIX_EQ(wharf_port_new(p->task, NULL, &p->named), 0);
                MATRIX_EQ(wharf_register(p->task, "matrix.anchor", p->named), 0);
        }
        for (uint32_t i = 0; i < WARM; i++) { /* cold, and then in the lane */
                struct wharf_msg m = MSG(.id = ID_CALL, .data = bytes, .len_bytes = compose(bytes, 0, i, 10, i * 5));
                struct wharf_msg a = MSG(.data = bytes, .cap_bytes = sizeof bytes);
                MATRIX_EQ(wharf_callmsg(p->task, p->right, &m, &a, WHARF_FOREVER), 0);
                MATRIX_EQ(opened(a.data, a.len_bytes).seq, i);
        }
        struct wharf_right_stat st = {.size = sizeof st};
        MATRIX_EQ(wharf_right_stat(p->task, p->right, &st), 0);
        if (!scarce(p))
                MATRIX_EQ(st.attached, 1);
        ask_plain(p, ID_ENTER, 0, 0, 0);
        if (p->env->after)
                MATRIX_EQ(p->env->after(p), 0);
}

static void hub_run(struct party *p)
{
        run_in_threads(p, hub_serve);
        finish(p);
}

static void peer_run(struct party *p)
{
        run_in_threads(p, p->work->run);
        ask_plain(p, ID_BYE, 0, 0, 0);
        finish(p);
}

static void party_run(struct party *p)
{
        int r = p->env->before ? p->env->before(p) : 0;
        if (r)
                _exit(r);
        p->fds_before = matrix_fds();
        if (p->listen_fd >= 0)
                p->fds_before--;
        if (p->hub) {
                hub_open(p);
                hub_run(p);
        } else {
                peer_open(p);
                peer_run(p);
        }
}

static pid_t party_fork(struct party *p)
{
        pid_t pid = fork();
        if (pid)
                return pid;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (!p->hub) {
                close(p->listen_fd);
                p->listen_fd = -1;
        }
        pthread_mutex_init(&p->lock, NULL);
        party_run(p);
        _exit(MATRIX_FAILED);
}

void party_go_on_in_child(struct party *p)
{
        (void)p;
        pid_t pid = fork();
        MATRIX_CHECK(pid >= 0);
        if (pid)
                _exit(matrix_wait(pid));
        prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* Its socket is there a moment before anybody listens, and for long after it was killed. */
static bool served(const char *path)
{
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        memcpy(sa.sun_path, path, strnlen(path, sizeof sa.sun_path - 1));
        bool yes = connect(sock, (struct sockaddr *)&sa, sizeof sa) == 0;
        close(sock);
        return yes;
}

/* A server for both, since each may be another user. */
pid_t party_wharfd_start(const struct matrix_case *c, char *dir, size_t cap)
{
        char conf[200], path[300];
        snprintf(dir, cap, "%s/domain", c->dir);
        snprintf(conf, sizeof conf, "%s/conf", c->dir);
        FILE *f = fopen(conf, "we");
        MATRIX_CHECK(f != NULL);
        fputs("own * all\nuse * all\nsee * all\n", f);
        fclose(f);
        setenv("WHARF_DOMAIN", dir, 1);
        unsetenv("WHARF_RIGHTS");
        const char *program = getenv("MATRIX_PROGRAM");
        pid_t pid = fork();
        if (pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                dup2(open("/dev/null", O_RDWR | O_CLOEXEC), 2);
                execl(program, program, "--domain", dir, "--share", "--config", conf, "--linger", "forever",
                      "--foreground", (char *)NULL);
                _exit(127);
        }
        snprintf(path, sizeof path, "%s/bootstrap", dir);
        while (!served(path) && waitpid(pid, NULL, WNOHANG) == 0)
                matrix_sleep_us(500);
        return pid;
}

int party_wharfd_stop(const struct matrix_case *c, pid_t pid, const char *dir)
{
        char path[300];
        kill(pid, SIGTERM);
        int r = matrix_wait(pid);
        snprintf(path, sizeof path, "%s/conf", c->dir);
        unlink(path);
        snprintf(path, sizeof path, "rm -rf '%s'", dir);
        return system(path) ? MATRIX_FAILED : r;
}

int party_meet(const struct matrix_case *c, const struct env *hub, const struct env *peer, const struct work *work)
{
        struct party p = {.c = c, .work = work, .messages = c->quick ? 48 : 400, .uid_then = geteuid()};
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        char domain[200] = "";
        snprintf(p.path, sizeof p.path, "%s/hub", c->dir);
        memcpy(sa.sun_path, p.path, sizeof sa.sun_path - 1);
        p.listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        MATRIX_CHECK(p.listen_fd >= 0);
        MATRIX_EQ(bind(p.listen_fd, (struct sockaddr *)&sa, sizeof sa), 0);
        MATRIX_EQ(chmod(p.path, 0777), 0);
        MATRIX_EQ(listen(p.listen_fd, 16), 0);
        /* Numbers below 50 are for the environments to close and to limit. */
        int high = fcntl(p.listen_fd, F_DUPFD_CLOEXEC, 50);
        close(p.listen_fd);
        p.listen_fd = high;
        pid_t server = work->names ? party_wharfd_start(c, domain, sizeof domain) : 0;
        struct party h = p, q = p;
        h.hub = true;
        h.env = q.other = hub;
        h.other = q.env = peer;
        fflush(NULL);
        pid_t pid[2] = {party_fork(&h), party_fork(&q)};
        close(p.listen_fd);
        int status[2] = {-1, -1}, left = 2;
        void (*disturb[2])(pid_t) = {hub->disturb, peer->disturb};
        while (left) {
                const bool quietly = !disturb[0] && !disturb[1];
                int st;
                pid_t who = waitpid(-1, &st, quietly ? 0 : WNOHANG);
                for (unsigned i = 0; i < 2; i++) {
                        if (who > 0 && who == pid[i]) {
                                status[i] = WIFSIGNALED(st) ? 128 + WTERMSIG(st) : WEXITSTATUS(st);
                                left--;
                                disturb[i] = NULL;
                                /* Nobody is to wait for one that could not do its part. */
                                if (status[i] && left)
                                        kill(pid[!i], SIGKILL);
                        } else if (disturb[i] && status[i] < 0) {
                                disturb[i](pid[i]);
                        }
                }
        }
        /* Without its environment one of them leaves, and whatever the other makes of that is no result. */
        bool here = status[0] != MATRIX_NOT_HERE && status[1] != MATRIX_NOT_HERE;
        int r = here ? MATRIX_PASSED : MATRIX_NOT_HERE;
        for (unsigned i = 0; here && i < 2; i++) {
                if (status[i] && status[i] != 128 + SIGKILL) {
                        if (status[i] != MATRIX_FAILED)
                                matrix_say("the %s ended with %d", i ? "peer" : "hub", status[i]);
                        r = MATRIX_FAILED;
                } else if (status[i] && r == MATRIX_PASSED && !(status[!i] && status[!i] != 128 + SIGKILL)) {
                        matrix_say("the %s ended with %d", i ? "peer" : "hub", status[i]);
                        r = MATRIX_FAILED;
                }
        }
        if (server && party_wharfd_stop(c, server, domain) != 0 && r == MATRIX_PASSED) {
                matrix_say("wharfd did not end as it should");
                r = MATRIX_FAILED;
        }
        unlink(p.path);
        for (unsigned i = 0; i < 2; i++) { /* where one of them stood */
                snprintf(domain, sizeof domain, "%s/empty.%d", c->dir, i);
                rmdir(domain);
        }
        return r;
}

/* ---- becoming another program ---- */

static void arguments(struct party *p, char text[7][24], char *argv[10])
{
        snprintf(text[0], 24, "%d", p->hub);
        snprintf(text[1], 24, "%u", p->messages);
        snprintf(text[2], 24, "%d", (int)(p->env - envs));
        snprintf(text[3], 24, "%d", (int)(p->other - envs));
        snprintf(text[4], 24, "%d", (int)(p->work - works));
        snprintf(text[5], 24, "%d", p->listen_fd);
        snprintf(text[6], 24, "%d", p->env->execs ? -1 : matrix_report_fd());
        argv[0] = (char *)(uintptr_t)p->c->exe;
        argv[1] = (char *)(uintptr_t) "--party";
        for (unsigned i = 0; i < 7; i++)
                argv[2 + i] = text[i];
        argv[9] = NULL;
}

int party_exec_bare(struct party *p)
{
        return party_exec_as(p, p->c->exe);
}

int party_exec_as(struct party *p, const char *path)
{
        char text[7][24], *argv[10];
        wharf_task *t;
        wharf_name port, right;
        if (p->executed)
                return 0;
        /* Things of the library's, all of which the kernel must close. */
        MATRIX_EQ(wharf_task_open(NULL, &t), 0);
        MATRIX_EQ(wharf_port_new(t, NULL, &port), 0);
        MATRIX_EQ(wharf_right_new(t, port, &right), 0);
        struct wharf_msg m = MSG(0);
        wharf_recv(t, port, text, sizeof text, NULL, 0); /* greets */
        int r = wharf_reserve(t, right, 3000, &m, soon(1000));
        MATRIX_EQ(r, 0);
        if (p->listen_fd >= 0)
                fcntl(p->listen_fd, F_SETFD, 0);
        fcntl(matrix_report_fd(), F_SETFD, 0);
        setenv("MATRIX_DIR", p->c->dir, 1);
        arguments(p, text, argv);
        execv(path, argv);
        matrix_say("%s: %s", path, strerror(errno));
        return MATRIX_FAILED;
}

int party_exec_with_rights(struct party *p)
{
        char text[7][24], *argv[10];
        struct wharf_given given[2] = {
                {"report", {.kind = WHARF_COPY_FD, .fd = matrix_report_fd()}},
                {"right", {.kind = p->hub ? WHARF_MOVE_RECEIVE : WHARF_MOVE_SEND, .name = p->hub ? p->port : p->right}},
        };
        if (p->executed)
                return 0;
        if (p->hub)
                MATRIX_EQ(wharf_port_listen(p->task, p->port, -1), 0);
        if (p->hub && p->work->names)
                MATRIX_EQ(wharf_unregister(p->task, "matrix.hub"), 0);
        p->listen_fd = -1; /* goes with this program */
        setenv("MATRIX_DIR", p->c->dir, 1);
        arguments(p, text, argv);
        struct wharf_spawn_opts o = {.size = sizeof o, .argv = argv, .given = given, .n_given = 2};
        int r = wharf_exec(p->task, &o, soon(5000));
        matrix_say("wharf_exec: %s: %s", wharf_strerror(r), wharf_why());
        return MATRIX_FAILED;
}

void party_executed(int argc, char **argv)
{
        if (argc != 9 || strcmp(argv[1], "--party"))
                return;
        static struct matrix_case c;
        static struct party p;
        const char *dir = getenv("MATRIX_DIR");
        c.dir = dir ? dir : "/nowhere";
        c.exe = argv[0];
        p.c = &c;
        p.executed = true;
        p.hub = atoi(argv[2]);
        p.messages = (unsigned)atoi(argv[3]);
        c.quick = p.messages < 100;
        p.env = &envs[atoi(argv[4])];
        p.other = &envs[atoi(argv[5])];
        p.work = &works[atoi(argv[6])];
        p.listen_fd = atoi(argv[7]);
        pthread_mutex_init(&p.lock, NULL);
        snprintf(p.path, sizeof p.path, "%s/hub", c.dir);
        matrix_report_to(atoi(argv[8]));
        /* The standard descriptors, and what was meant to come along: the report and the listener, or the rights. */
        unsigned standard = 0;
        for (int fd = 0; fd < 3; fd++)
                standard += fcntl(fd, F_GETFD) >= 0;
        const unsigned inherited = matrix_fds() - standard;
        if (p.env->execs) {
                struct wharf_item item;
                MATRIX_EQ(inherited, 1);
                MATRIX_EQ(wharf_task_open(NULL, &p.task), 0);
                MATRIX_EQ(wharf_inherited(p.task, "report", &item), 0);
                matrix_report_to(item.fd);
                MATRIX_EQ(wharf_inherited(p.task, "right", &item), 0);
                MATRIX_EQ(item.kind, p.hub ? WHARF_GOT_RECEIVE : WHARF_GOT_SEND);
                *(p.hub ? &p.port : &p.right) = item.name;
                if (p.hub && p.work->names)
                        MATRIX_EQ(wharf_register(p.task, "matrix.hub", p.port), 0);
                p.fds_before = standard + 1; /* with the report */
                p.hub ? hub_run(&p) : peer_run(&p);
        }
        MATRIX_EQ(inherited, p.hub ? 2 : 1);
        party_run(&p);
}
