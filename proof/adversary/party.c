#include "party.h"

#include <wharf/wharf.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum toy party_toy;

enum {
        RECEIVE_MS = 10,
        ASIDE_MS = 20,        /* for what is done on the side, to rights that strangers gave */
        ASIDE_AGAIN_MS = 200, /* ... once in so long; or else everybody would wait for one who asks for it often */
        GREETINGS = 40,
        START_MS = 10000,
};

struct service {
        enum party who;
        wharf_task *task;
        wharf_name port;
        wharf_name inbox; /* the port, or a set that it is in */
        wharf_name other; /* the other service */
        wharf_name kept;  /* what a stranger gave it */
        wharf_name spare; /* a port to be given away */
        uint32_t flags;   /* of a receive */
        struct guard guard;
        int64_t aside_ns;   /* from then on it may take its time once more */
        unsigned n_strange; /* messages of none of the honest */
        bool dawdled;       /* the toy that is slow was, once */
        int to_close[2];
};

/* ---- what is given, is closed ---- */

/* A thread, since the last close of somebody else's socket may take as long as that one likes. */
static void *closer(void *arg)
{
        struct service *s = arg;
        int fd;
        while (read(s->to_close[0], &fd, sizeof fd) == sizeof fd) {
                struct linger off = {0};
                setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
                close(fd);
                atomic_fetch_sub(&board->closing[s->who], 1);
        }
        return NULL;
}

static void close_later(struct service *s, int fd)
{
        if (party_toy == TOY_FORGETS_FD)
                return;
        atomic_fetch_add(&board->closing[s->who], 1);
        if (write(s->to_close[1], &fd, sizeof fd) != sizeof fd)
                abort();
}

/* ---- what a service does on the side ---- */

static int64_t aside(struct service *s)
{
        const int64_t now = wharf_now_ns();
        if (now < s->aside_ns)
                return wharf_in_ms(1);
        s->aside_ns = now + ASIDE_AGAIN_MS * 1000000ll;
        return wharf_in_ms(ASIDE_MS);
}

/* "word: " and the bytes, as if the service had something to say about them. Owned by the caller. */
static uint8_t *with_word(const char *word, const struct wharf_msg *m, size_t *ret_len)
{
        const size_t n = strlen(word);
        uint8_t *bytes = malloc(n + m->len_bytes + 1);
        if (!bytes)
                abort();
        memcpy(bytes, word, n);
        memcpy(bytes + n, m->data, m->len_bytes);
        *ret_len = n + m->len_bytes;
        return bytes;
}

static void let_go(struct service *s, wharf_name *name)
{
        if (*name)
                wharf_drop(s->task, *name);
        *name = WHARF_NONE;
}

static void keep(struct service *s, wharf_name right, const struct wharf_msg *m)
{
        size_t len;
        let_go(s, &s->kept);
        s->kept = right;
        uint8_t *bytes = with_word("notice: ", m, &len);
        struct wharf_msg out = {.size = sizeof out, .data = bytes, .len_bytes = len};
        oracle_says(s->who, SAID_DEPUTY, 0, bytes, len);
        const int64_t deadline = aside(s);
        guard_begin(&s->guard, s->who, deadline);
        wharf_sendmsg(s->task, right, &out, deadline);
        guard_end(&s->guard, s->who, "send");
        free(bytes);
        if (wharf_name_kind(s->task, right) == WHARF_KIND_SEND)
                wharf_watch(s->task, right, s->port);
        else
                s->kept = WHARF_NONE; /* to be used once, and it was */
}

static void call_kept(struct service *s, const struct wharf_msg *m, uint32_t flags)
{
        enum { ANSWER_MAX = 1 << 16 };
        size_t len;
        if (!s->kept)
                return;
        uint8_t *bytes = with_word("what: ", m, &len);
        struct wharf_msg req = {
                .size = sizeof req, .flags = flags, .data = bytes, .len_bytes = len, .cap_bytes = ANSWER_MAX};
        struct wharf_msg back = {.size = sizeof back, .flags = WHARF_RECV_ALLOC | WHARF_RECV_NO_ITEMS};
        oracle_says(s->who, SAID_DEPUTY, 0, bytes, len);
        const int64_t deadline = aside(s);
        guard_begin(&s->guard, s->who, deadline);
        int r = wharf_callmsg(s->task, s->kept, &req, &back, deadline);
        guard_end(&s->guard, s->who, "call");
        if (r == 0)
                wharf_release(s->task, &back);
        free(bytes);
}

/* Something goes to the other service. */
static void give(struct service *s, const char *word, uint32_t id, struct wharf_item item, const struct wharf_msg *m)
{
        size_t len;
        uint8_t *bytes = with_word(word, m, &len);
        struct wharf_msg out = {
                .size = sizeof out, .id = id, .data = bytes, .len_bytes = len, .items = &item, .n_items = 1};
        oracle_says(s->who, SAID_MESSAGE, id, bytes, len);
        const int64_t deadline = aside(s);
        guard_begin(&s->guard, s->who, deadline);
        int r = wharf_sendmsg(s->task, s->other, &out, deadline);
        guard_end(&s->guard, s->who, "send");
        if (r == 0 && item.kind == WHARF_MOVE_RECEIVE)
                s->spare = WHARF_NONE;
        oracle_introduces(s->who);
        free(bytes);
}

static void told(const struct service *s, const struct wharf_msg *m)
{
        const struct wharf_sender *w = &m->sender;
        const struct told by = {.pid = w->pid,
                                .uid = w->uid,
                                .introduced = w->introducer.known != WHARF_KNOWN_NOBODY,
                                .introducer = w->introducer.id ? w->introducer.pid : 0}; /* or the sender's own word */
        oracle_told(s->who, &by, m->id, m->data, m->len_bytes);
}

/* A port that was given: what waits in it is received, and its senders are told of as any. */
static void look_into(struct service *s, wharf_name port)
{
        for (int i = 0; i < 4; i++) {
                struct wharf_msg m = {.size = sizeof m, .flags = WHARF_RECV_ALLOC | WHARF_RECV_NO_ITEMS};
                const int64_t deadline = aside(s);
                guard_begin(&s->guard, s->who, deadline);
                int r = wharf_recvmsg(s->task, port, &m, deadline);
                guard_end(&s->guard, s->who, "receive");
                if (r < 0)
                        break;
                if (!m.notice)
                        told(s, &m);
                if (m.reply)
                        wharf_drop(s->task, m.reply);
                wharf_release(s->task, &m);
        }
        wharf_drop(s->task, port);
}

/* ---- one message ---- */

static void answer(struct service *s, struct wharf_msg *m)
{
        struct wharf_item item = {.kind = WHARF_COPY_SEND, .name = s->kept};
        struct wharf_msg out = {.size = sizeof out, .id = m->id, .data = m->data, .len_bytes = m->len_bytes};
        uint8_t bytes[CALL_BYTES];
        if (m->id == ID_PORT) {
                const struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS};
                let_go(s, &s->spare);
                if (wharf_port_new(s->task, &o, &s->spare) == 0)
                        item = (struct wharf_item){.kind = WHARF_MAKE_SEND, .name = s->spare};
        }
        if ((m->id == ID_COPY && s->kept) || (m->id == ID_PORT && s->spare)) {
                out.items = &item;
                out.n_items = 1;
                oracle_introduces(s->who);
        }
        if (party_toy == TOY_ANSWERS_ILL && s->n_strange && m->len_bytes == sizeof bytes) {
                memset(bytes, 'x', sizeof bytes);
                out.data = bytes;
        }
        if (party_toy == TOY_TELLS && m->id == ID_CALL) {
                out.data = (void *)SECRET_AT(s->who);
                out.len_bytes = SECRET_BYTES;
        }
        oracle_says(s->who, SAID_ANSWER, m->id, out.data, out.len_bytes);
        guard_begin(&s->guard, s->who, 0);
        int r = wharf_replymsg(s->task, m->reply, &out);
        if (r < 0 && wharf_name_kind(s->task, m->reply) > 0)
                wharf_drop(s->task, m->reply);
        guard_end(&s->guard, s->who, "answer");
}

static void take_items(struct service *s, struct wharf_msg *m)
{
        for (unsigned i = 0; i < m->n_items; i++) {
                const struct wharf_item *item = &m->items[i];
                if (item->kind == WHARF_GOT_FD)
                        close_later(s, item->fd);
                else if (item->kind == WHARF_GOT_SEND && m->id == ID_KEEP)
                        keep(s, item->name, m);
                else if (item->kind == WHARF_GOT_RECEIVE)
                        look_into(s, item->name);
                else
                        wharf_drop(s->task, item->name);
        }
}

static void ask_for_more(struct service *s, const struct wharf_msg *m)
{
        if (m->id == ID_CALL)
                call_kept(s, m, 0);
        else if (m->id == ID_CALL_DIRECT)
                call_kept(s, m, WHARF_REPLY_DIRECT);
        else if (m->id == ID_MOVE_PORT && s->spare)
                give(s, "port: ", 0, (struct wharf_item){.kind = WHARF_MOVE_RECEIVE, .name = s->spare}, m);
        else if (m->id == ID_PASS && s->kept)
                give(s, "pass: ", ID_KEEP, (struct wharf_item){.kind = WHARF_COPY_SEND, .name = s->kept}, m);
}

static void make_mistakes(struct service *s, struct wharf_msg *m)
{
        wharf_name own;
        if (party_toy == TOY_BELIEVES && m->len_bytes && *(uint8_t *)m->data == 'r')
                m->sender = (struct wharf_sender){.pid = board->pid[PARTY_CALLER], .uid = board->uid[PARTY_CALLER]};
        if (party_toy == TOY_KEEPS_LINK && m->id == ID_KEEP)
                wharf_right_new(s->task, s->port, &own);
        if (party_toy == TOY_CRASHES && m->n_items)
                abort();
}

static void take(struct service *s, struct wharf_msg *m)
{
        if (m->notice) {
                if (m->about == s->kept)
                        let_go(s, &s->kept);
                return;
        }
        bool strange = true;
        for (enum party k = 0; k < PARTIES; k++)
                strange &= m->sender.pid != board->pid[k];
        s->n_strange += strange;
        atomic_store(&board->strange[s->who], s->n_strange);
        make_mistakes(s, m);
        told(s, m);
        take_items(s, m);
        ask_for_more(s, m);
        if (m->reply)
                answer(s, m);
}

/* ---- the service ---- */

static void stock_of(struct service *s)
{
        struct wharf_port_stat st = {.size = sizeof st};
        if (atomic_load(&board->adversary_over)) {
                let_go(s, &s->kept);
                let_go(s, &s->spare);
        }
        wharf_port_stat(s->task, s->port, &st);
        struct stock *to = &board->stock[s->who];
        stock_take(to);
        to->links = st.senders;
        to->mapped_bytes = st.mapped_bytes;
        atomic_store(&board->stock_done[s->who], atomic_load(&board->stock_asked[s->who]));
}

static void spin_ms(int ms)
{
        for (int64_t end = clock_ns() + ms * 1000000ll; clock_ns() < end;)
                ;
}

static int receive(struct service *s, struct wharf_msg *m)
{
        const int64_t deadline = wharf_in_ms(RECEIVE_MS);
        guard_begin(&s->guard, s->who, deadline);
        int r = wharf_recvmsg(s->task, s->inbox, m, deadline);
        if (s->n_strange && !s->dawdled && party_toy == TOY_SLOW)
                spin_ms(RECEIVE_MS + 2 * LATE_CPU_MS);
        if (s->n_strange && !s->dawdled && party_toy == TOY_SLEEPS)
                usleep((RECEIVE_MS + 2 * LATE_ASLEEP_MS) * 1000);
        s->dawdled = s->n_strange;
        guard_end(&s->guard, s->who, "receive");
        return r;
}

/* The socket of a wharfd that starts is there before it answers. */
static bool register_it(struct service *s)
{
        for (int64_t end = clock_ns() + START_MS * 1000000ll; clock_ns() < end; usleep(10000))
                if (wharf_register(s->task, program_names[NAME_OF_V], s->port) == 0)
                        return true;
        return false;
}

/* Over and over, so that it travels in shared memory like what follows. */
static void greet_other(struct service *s, const char *path)
{
        static const char word[] = "good morning";
        if (wharf_right_connect(s->task, path, &s->other) < 0)
                _exit(3);
        oracle_says(s->who, SAID_MESSAGE, 0, word, sizeof word);
        for (int i = 0; i < GREETINGS; i++)
                if (wharf_send(s->task, s->other, word, sizeof word, wharf_in_ms(START_MS)) < 0)
                        _exit(3);
}

_Noreturn void party_service(enum party who, int listener, const char *other, const struct program *world)
{
        struct service s = {.who = who,
                            .flags = world->receive & RECEIVE_IN_PLACE ? WHARF_RECV_IN_PLACE : WHARF_RECV_ALLOC};
        struct wharf_port_opts o = {.size = sizeof o, .flags = WHARF_PORT_STAYS | WHARF_PORT_DIRECT};
        pthread_t thread;
        rlim_t descriptors = world->descriptors && !oracle_same_user ? (rlim_t)world->descriptors : DESCRIPTORS;
        struct rlimit limit;
        getrlimit(RLIMIT_NOFILE, &limit);
        limit.rlim_cur = descriptors < limit.rlim_max ? descriptors : limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        if (world->limits) {
                o.links_max = 24;
                o.payload_bytes_max = 4 << 20;
                o.mapped_bytes_max = MAPPED_BYTES;
                o.link_mapped_bytes_max = MAPPED_BYTES / 2;
                o.unread_rights_max = 16;
                o.reply_bytes_max = REPLY_BYTES;
                o.link_reply_bytes_max = REPLY_BYTES / 8;
        }
        secret_place(who);
        if (pipe(s.to_close) < 0 || pthread_create(&thread, NULL, closer, &s) || wharf_task_open(NULL, &s.task) < 0 ||
            wharf_port_new(s.task, &o, &s.port) < 0 || wharf_port_listen(s.task, s.port, listener) < 0)
                _exit(3);
        if (who == PARTY_V && world->domain && !register_it(&s))
                _exit(3);
        s.inbox = s.port;
        if (world->receive & RECEIVE_FROM_SET &&
            (wharf_set_new(s.task, &s.inbox) < 0 || wharf_set_add(s.task, s.inbox, s.port) < 0))
                _exit(3);
        atomic_store(&board->ready[who], READY);
        while (!atomic_load(&board->stop[who])) {
                struct wharf_item items[WHARF_ITEMS_MAX];
                struct wharf_msg m = {
                        .size = sizeof m, .flags = WHARF_RECV_ALLOC, .items = items, .cap_items = WHARF_ITEMS_MAX};
                int r = receive(&s, &m);
                atomic_fetch_add(&board->received[who], 1);
                if (r == 0) {
                        take(&s, &m);
                        wharf_release(s.task, &m);
                } else if (r == -EMFILE && world->descriptors) {
                        usleep(100); /* this one may well have none left: others must go on all the same */
                } else if (r != -ETIMEDOUT) {
                        char kind[48];
                        snprintf(kind, sizeof kind, "receive: %s", strerrorname_np(-r));
                        oracle_broken(kind, "%s: a receive answered %s: %s", who == PARTY_V ? "v" : "r",
                                      wharf_strerror(r), wharf_why());
                        usleep(1000);
                }
                if (!s.other && atomic_load(&board->greet[who])) {
                        greet_other(&s, other);
                        atomic_store(&board->ready[who], READY_AND_KNOWN);
                }
                if (atomic_load(&board->stock_asked[who]) != atomic_load(&board->stock_done[who]))
                        stock_of(&s);
        }
        if (!secret_there(who))
                oracle_broken("private: written", "a byte of %s's memory was changed", who == PARTY_V ? "v" : "r");
        _exit(0);
}
