/* The moves, one function each; and the adversary that makes them one after the other. */
#include "moves.h"

#include "adversary.h"

#include "names/proto.h"   /* WH_NAMES_*: numbers only */
#include "wharf/message.h" /* WHARF_KNOWN_*: numbers only */

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

enum {
        SETTLE_CALLS = 2,  /* honest calls to each service that are waited for */
        FINISH_CALLS = 12, /* ... at the end */
        SETTLE_MS = 100,   /* ... but no longer */
        FINISH_MS = 1500,  /* it does not die before somebody who waits for it was seen to */
        SNATCH_MS = 30,
        RUN_MS = 1500, /* after that no move is begun */
        READ_MAX = 64,
        SAME_USER_DESCRIPTORS = 100,
};

static int move_connect(struct adversary *a, const int *arg)
{
        int s = end_connect(a, arg[CONNECT_TO]);
        if (s < 0)
                return s;
        end_set(a, arg[CONNECT_REG], 0, s);
        a->end[program_end(arg[CONNECT_REG], 0)].port_id = end_greeted(a, s);
        a->end[program_end(arg[CONNECT_REG], 0)].peer = arg[CONNECT_TO];
        end_close(&a->end[program_end(arg[CONNECT_REG], 1)]);
        return 0;
}

static int move_pair(struct adversary *a, const int *arg)
{
        int ends[2];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
                return -errno;
        end_set(a, arg[PAIR_REG], 0, ends[0]);
        end_set(a, arg[PAIR_REG], 1, ends[1]);
        return 0;
}

static int move_close(struct adversary *a, const int *arg)
{
        end_close(&a->end[arg[CLOSE_END]]);
        return 0;
}

static int move_option(struct adversary *a, const int *arg)
{
        static const int names[OPTIONS] = {
                [OPTION_PASSCRED] = SO_PASSCRED, [OPTION_PASSPIDFD] = SO_PASSPIDFD,  [OPTION_TIMESTAMP] = SO_TIMESTAMP,
                [OPTION_PEEK_OFF] = SO_PEEK_OFF, [OPTION_RCVBUF] = SO_RCVBUF,        [OPTION_SNDBUF] = SO_SNDBUF,
                [OPTION_PASSSEC] = SO_PASSSEC,   [OPTION_PASSRIGHTS] = SO_PASSRIGHTS};
        struct end *e = end_of(a, arg[OPTION_END]);
        const int which = arg[OPTION_WHICH];
        int value = arg[OPTION_VALUE], r;
        if (!e)
                return -EBADF;
        if (which == OPTION_SHUT_RD || which == OPTION_SHUT_WR) {
                r = shutdown(e->fd, which == OPTION_SHUT_RD ? SHUT_RD : SHUT_WR);
        } else if (which == OPTION_LINGER) {
                struct linger l = {1, 2};
                r = setsockopt(e->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
        } else {
                r = setsockopt(e->fd, SOL_SOCKET, names[which], &value, sizeof value);
        }
        e->options |= r == 0 ? 1u << which : 0;
        return r < 0 ? -errno : 0;
}

static int move_adopt(struct adversary *a, const int *arg)
{
        struct end *over = end_of(a, arg[ADOPT_OVER]), *give = end_of(a, arg[ADOPT_GIVE]);
        if (!over || !give)
                return -EBADF;
        int r = end_frame(over, (struct wire_frame){.type = WH_FRAME_ADOPT}, WIRE_AS_FITS, WIRE_TRUE, NULL, 0,
                          &give->fd, 1);
        give->given |= r == 0 ? 1u << (arg[ADOPT_OVER] / 2) : 0;
        return r;
}

static int move_message(struct adversary *a, const int *arg)
{
        struct end *e = end_of(a, arg[MESSAGE_ON]), *give = end_of(a, arg[MESSAGE_GIVE]);
        static const uint8_t kinds[ITEMS] = {[ITEM_END] = WIRE_ITEM_SEND,
                                             [ITEM_WHAT] = WIRE_ITEM_FD,
                                             [ITEM_ONCE] = WIRE_ITEM_REPLY,
                                             [ITEM_MEMORY] = WIRE_ITEM_BESIDE};
        const int item = arg[MESSAGE_ITEM];
        const unsigned n = item == ITEM_NONE ? 0 : item == ITEM_WHAT ? (unsigned)arg[MESSAGE_COUNT] : 1;
        int fds[WIRE_FDS_MAX];
        if (!e || ((item == ITEM_END || item == ITEM_ONCE) && !give))
                return -EBADF;
        for (unsigned i = 0; i < n; i++)
                fds[i] = item == ITEM_WHAT     ? adversary_what(a, arg[MESSAGE_WHAT])
                         : item == ITEM_MEMORY ? adversary_what(a, WHAT_MEMORY)
                                               : give->fd;
        const size_t len = (size_t)arg[MESSAGE_LEN];
        memset(bytes_out, kinds[item], n);
        adversary_fill(a, bytes_out + n, len, arg[MESSAGE_BODY]);
        struct wire_frame f = {.type = WH_FRAME_MESSAGE,
                               .seq = e->seq + (uint64_t)arg[MESSAGE_SEQ],
                               .total = len,
                               .id = (uint32_t)arg[MESSAGE_ID],
                               .call = (uint32_t)arg[MESSAGE_CALL],
                               .arg = WH_MSG_FIRST | WH_MSG_LAST};
        int r = end_frame(e, f, arg[MESSAGE_AS], arg[MESSAGE_LIE], bytes_out, n + len, fds, n);
        if (item == ITEM_WHAT)
                adversary_what_given(a, arg[MESSAGE_WHAT]);
        if (r == 0) {
                e->seq++;
                if (item == ITEM_END || item == ITEM_ONCE)
                        give->given |= 1u << 16;
        }
        return r;
}

/* Of the honest it knows the numbers, as anybody does. */
static struct ucred who_is(struct adversary *a, int who)
{
        struct ucred peer = {1, 0, 0};
        socklen_t len = sizeof peer;
        if (who == WHO_OWN)
                return (struct ucred){getpid(), getuid(), getgid()};
        const struct end *conn = end_of(a, program_end(who == WHO_V ? PEER_V : PEER_R, 0));
        if ((who == WHO_V || who == WHO_R) && conn)
                getsockopt(conn->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len);
        return peer;
}

/* What a frame of this type would say, from here; `who` is whom it says to have its right from. */
static size_t frame_data(struct adversary *a, const struct end *e, int type, size_t len, unsigned n_fds, int who)
{
        const uint64_t owner = end_port(a, e, true);
        if ((type == WH_FRAME_REBIND || type == WH_FRAME_GIVEN) && len == 0) {
                struct wire_origin o = {.port_id = end_port(a, e, false), .known = WHARF_KNOWN_NOBODY};
                const struct ucred by = who_is(a, who);
                if (who != WHO_NOBODY)
                        o = (struct wire_origin){o.port_id, by.pid, by.uid, by.gid, WHARF_KNOWN_BOUND};
                memcpy(bytes_out, &o, sizeof o);
                return sizeof o;
        }
        if (type == WH_FRAME_HELLO && len == 0) {
                struct wire_hello h = {owner ? owner : 0x1234567890abcdefu, 1 << 20, 1 << 20, 64, 64, 1 << 20};
                memcpy(bytes_out, &h, sizeof h);
                return sizeof h;
        }
        memset(bytes_out, WIRE_ITEM_FD, n_fds);
        adversary_fill(a, bytes_out + n_fds, len, BODY_WORDS);
        return len + (type == WH_FRAME_MESSAGE || type == WH_FRAME_ITEMS ? n_fds : 0);
}

static int move_frame(struct adversary *a, const int *arg)
{
        struct end *e = end_of(a, arg[FRAME_ON]), *give = end_of(a, arg[FRAME_GIVE]);
        const int type = arg[FRAME_TYPE];
        const unsigned n = (unsigned)arg[FRAME_COUNT];
        int fds[WIRE_FDS_MAX];
        if (!e)
                return -EBADF;
        if (type == WH_FRAME_BELL)
                return send(e->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
        for (unsigned i = 0; i < n; i++)
                fds[i] = adversary_what(a, arg[FRAME_WHAT]);
        if (n && give && (type == WH_FRAME_REBIND || type == WH_FRAME_ADOPT || type == WH_FRAME_VIA)) {
                fds[0] = give->fd;
                give->given |= 1u << 17;
        }
        struct wire_frame f = {.type = (uint8_t)type,
                               .seq = e->lane.out && type == WH_FRAME_ITEMS ? e->lane.number : e->seq,
                               .total = e->lane.out ? e->lane.number : 0,
                               .call = 7,
                               .arg = (uint32_t)arg[FRAME_ARG]};
        size_t len = frame_data(a, e, type, (size_t)arg[FRAME_LEN], n, arg[FRAME_ARG] % WHOS);
        if (type == WH_FRAME_MESSAGE)
                f.total = (uint64_t)arg[FRAME_LEN];
        int r = end_frame(e, f, arg[FRAME_AS], arg[FRAME_LIE], bytes_out, len, fds, n);
        if (n)
                adversary_what_given(a, arg[FRAME_WHAT]);
        return r;
}

/*
 * As an honest holder does: a new pair, one end of which goes to the owner; it speaks through the other from then on.
 */
static int move_bind(struct adversary *a, const int *arg)
{
        struct end *e = end_of(a, arg[BIND_ON]);
        int ends[2];
        if (!e)
                return -EBADF;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
                return -errno;
        const uint64_t port_id = end_port(a, e, false), seq = e->seq;
        struct wire_frame f = {.type = WH_FRAME_REBIND,
                               .seq = seq,
                               .total = e->lane.out ? e->lane.number : 0,
                               .arg = e->lane.out ? WH_CHANGE_LANE : 0};
        size_t len = frame_data(a, e, WH_FRAME_REBIND, 0, 0, arg[BIND_WHO]);
        int r = end_frame(e, f, arg[BIND_AS], WIRE_TRUE, bytes_out, len, &ends[0], 1);
        end_set(a, arg[BIND_INTO], 0, ends[0]);
        end_set(a, arg[BIND_INTO], 1, ends[1]);
        struct end *mine = &a->end[program_end(arg[BIND_INTO], 1)];
        mine->port_id = port_id;
        mine->seq = seq;
        return r;
}

static int move_attach(struct adversary *a, const int *arg)
{
        struct end *e = end_of(a, arg[ATTACH_ON]);
        if (!e)
                return -EBADF;
        e->seq += (uint64_t)arg[ATTACH_SEQ]; /* so many were written by somebody else */
        return end_attach(e, (uint32_t)arg[ATTACH_LINES]);
}

static int move_records(struct adversary *a, const int *arg)
{
        struct end *e = end_of(a, arg[RECORDS_ON]);
        if (!e || !e->lane.out)
                return -EBADF;
        const unsigned kind = (unsigned)arg[RECORDS_KIND];
        uint32_t len =
                adversary_record(a, kind, (uint32_t)arg[RECORDS_CALL], arg[RECORDS_BODY], (uint32_t)arg[RECORDS_LEN]);
        int n = 0;
        while (n < arg[RECORDS_COUNT] && wire_lane_put(&e->lane, kind, bytes_out, len))
                n++;
        int r = end_bell(e);
        return r < 0 ? r : n ? 0 : -EAGAIN;
}

/* `arg[0]` is the end that it goes over. */
static int go_on_beside(struct adversary *a, const int *arg, enum move_op what)
{
        struct end *e = end_of(a, arg[0]);
        if (!e)
                return -EBADF;
        if (a->n_floods == FLOODS_MAX)
                return -EAGAIN;
        pid_t pid = adversary_child();
        if (pid == 0) {
                if (what == MOVE_FLOOD)
                        flood(a, e, arg);
                else if (what == MOVE_ASK)
                        ask(a, e, arg);
                else
                        large(a, e, arg);
                _exit(0);
        }
        if (pid > 0)
                a->flood[a->n_floods++] = pid;
        return pid < 0 ? -EAGAIN : 0;
}

static int move_flood(struct adversary *a, const int *arg)
{
        return go_on_beside(a, arg, MOVE_FLOOD);
}

static int move_ask(struct adversary *a, const int *arg)
{
        return go_on_beside(a, arg, MOVE_ASK);
}

static int move_large(struct adversary *a, const int *arg)
{
        return go_on_beside(a, arg, MOVE_LARGE);
}

static int move_read(struct adversary *a, const int *arg)
{
        struct end *e = end_of(a, arg[READ_ON]);
        if (!e)
                return -EBADF;
        int r = 1;
        for (int i = 0; i < READ_MAX && r > 0; i++) {
                r = wire_receive(e->fd, &a->got, false);
                if (r > 0)
                        adversary_keep(a, arg[READ_INTO]);
                if (a->end[arg[READ_ON]].fd < 0)
                        break; /* what came took its register */
        }
        return r < 0 ? r : 0;
}

static int move_snatch(struct adversary *a, const int *arg)
{
        struct end *e = end_of(a, arg[SNATCH_ON]);
        if (!e)
                return -EBADF;
        for (int64_t end = clock_ns() + SNATCH_MS * 1000000ll; clock_ns() < end;) {
                int r = wire_receive(e->fd, &a->got, true);
                if (r < 0)
                        return r;
                if (r > 0 && a->got.n_fds) {
                        adversary_keep(a, arg[SNATCH_INTO]);
                        return 0;
                }
        }
        return -EAGAIN;
}

/* A payload in the memory of whoever made the pair; or with `window`, where its answer may be written. */
static int move_direct(struct adversary *a, const int *arg)
{
        static uint8_t own[SECRET_PAGE];
        struct end *e = end_of(a, arg[DIRECT_ON]);
        if (!e || !e->lane.out)
                return -EBADF;
        const int where = arg[DIRECT_WHERE];
        struct {
                struct wire_ext ext;
                struct wire_direct d;
        } body = {.ext = {.id = 1, .call = (uint32_t)arg[DIRECT_CALL], .arg = arg[DIRECT_WINDOW] ? 0 : WH_REC_DIRECT},
                  .d = {.at = where == WHERE_V     ? SECRET_AT(PARTY_V)
                              : where == WHERE_R   ? SECRET_AT(PARTY_R)
                              : where == WHERE_OWN ? (uintptr_t)own
                                                   : 64,
                        .len = (uint64_t)arg[DIRECT_LEN]}};
        if (!arg[DIRECT_WINDOW])
                wire_lane_offer(&e->lane);
        if (!wire_lane_put(&e->lane, arg[DIRECT_WINDOW] ? WH_REC_WINDOW : WH_REC_OFFER, &body, sizeof body))
                return -EAGAIN;
        if (arg[DIRECT_WINDOW]) { /* the call that it is for; its answer is as long as it is */
                uint32_t len = sizeof body.ext + 300;
                adversary_fill(a, bytes_out, len, BODY_WORDS);
                memcpy(bytes_out, &body.ext, sizeof body.ext);
                wire_lane_put(&e->lane, WH_REC_INLINE, bytes_out, len);
        }
        return end_bell(e);
}

static int move_carrier(struct adversary *a, const int *arg)
{
        struct end *e = end_of(a, arg[CARRIER_ON]), *give = end_of(a, arg[CARRIER_GIVE]);
        if (!e || !give)
                return -EBADF;
        const struct ucred peer = who_is(a, arg[CARRIER_WHO]);
        int fd = wire_carrier(give->fd, peer.pid, peer.uid);
        if (fd < 0)
                return fd;
        const uint8_t kind = WIRE_ITEM_RECEIVE;
        struct wire_frame f = {
                .type = WH_FRAME_MESSAGE, .seq = e->seq, .id = 1, .arg = WH_MSG_FIRST | WH_MSG_LAST, .total = 0};
        int r = end_frame(e, f, WIRE_AS_FITS, WIRE_TRUE, &kind, 1, &fd, 1);
        e->seq += r == 0;
        close(fd);
        return r;
}

static int move_request(struct adversary *a, const int *arg)
{
        struct end *e = end_of(a, arg[REQUEST_ON]), *give = end_of(a, arg[REQUEST_GIVE]);
        const int op = program_requests[arg[REQUEST_OP]], name = arg[REQUEST_NAME];
        const bool wants = op == WH_NAMES_REGISTER || op == WH_NAMES_WATCH, page = arg[REQUEST_PAGE];
        int fds[2];
        unsigned n = 0;
        if (!e || (wants && !give))
                return -EBADF;
        if (wants) {
                fds[n] = give->fd;
                bytes_out[n++] = WIRE_ITEM_SEND;
        }
        if (page) {
                fds[n] = wire_task_page();
                bytes_out[n++] = WIRE_ITEM_FD;
        }
        /* One that nobody but it knows; where none belongs, there is none. */
        const uint64_t cookie =
                wants || op == WH_NAMES_UNREGISTER || op == WH_NAMES_UNWATCH ? 1000u + (unsigned)name : 0;
        const bool nameless = op == WH_NAMES_LIST || op == WH_NAMES_WAITS || op == WH_NAMES_STATE;
        const struct wire_request q = {.op = (uint16_t)op,
                                       .timeout_ns = op == WH_NAMES_LOOKUP ? arg[REQUEST_WAIT] * 1000000000ull : 0,
                                       .flags = page ? WH_NAMES_PAGE : 0,
                                       .cookie = {cookie, cookie},
                                       .after = (uint64_t)arg[REQUEST_AFTER]};
        size_t len = wire_request(q, nameless ? "" : program_names[name], bytes_out + n);
        struct wire_frame f = {.type = WH_FRAME_MESSAGE,
                               .seq = e->seq,
                               .total = len,
                               .call = (uint32_t)arg[REQUEST_CALL],
                               .arg = WH_MSG_FIRST | WH_MSG_LAST};
        int r = end_frame(e, f, WIRE_AS_FITS, WIRE_TRUE, bytes_out, n + len, fds, n);
        e->seq += r == 0;
        if (wants && r == 0)
                give->given |= 1u << 18;
        if (page)
                close(fds[n - 1]);
        return r;
}

/* Until honest calls that begin now are answered: so the services went round, and looked at what was sent before. */
static int settle(const struct adversary *a, uint64_t calls, int ms)
{
        const int peers = a->p->domain ? PROGRAM_PEERS : PROGRAM_SERVICES;
        uint64_t from[PROGRAM_PEERS];
        for (int i = 0; i < PROGRAM_PEERS; i++)
                from[i] = atomic_load(&outside->calls[i]);
        for (int64_t end = clock_ns() + ms * 1000000ll; clock_ns() < end; usleep(200)) {
                int done = 0;
                for (int i = 0; i < peers; i++)
                        done += atomic_load(&outside->calls[i]) - from[i] >= calls;
                if (done == peers)
                        return 0;
        }
        return -ETIMEDOUT;
}

static int move_settle(struct adversary *a, const int *arg)
{
        (void)arg;
        return settle(a, SETTLE_CALLS, SETTLE_MS);
}

static int move_stop(struct adversary *a, const int *arg)
{
        (void)a;
        pid_t pid = adversary_child();
        if (pid == 0) {
                usleep((unsigned)arg[STOP_MS] * 1000);
                kill(getppid(), SIGCONT);
                _exit(0);
        }
        if (pid < 0)
                return -EAGAIN;
        raise(SIGSTOP);
        waitpid(pid, NULL, 0);
        return 0;
}

/* ---- the program ---- */

/* What the adversary has now, whichever register it is in; with the move that led to it. */
static void add_state(struct adversary *a, const struct move *m, int r)
{
        uint64_t sum = 0;
        for (int i = 0; i < PROGRAM_REGISTERS; i++) {
                uint32_t words[2][5] = {0};
                for (int k = 0; k < 2; k++) {
                        const struct end *e = &a->end[program_end(i, k)];
                        if (e->fd < 0)
                                continue;
                        words[k][0] = 1;
                        words[k][1] = e->options;
                        words[k][2] = e->given;
                        words[k][3] = e->seq > 2 ? 3 : (uint32_t)e->seq;
                        words[k][4] = e->lane.out != NULL;
                }
                sum += program_hash(1, words, sizeof words); /* in no order */
        }
        int now[] = {(int)m->op, m->op == MOVE_FRAME ? m->arg[FRAME_TYPE] : 0, r};
        states_add(a->states, sum ^ program_hash(2, now, sizeof now));
}

static void run_move(struct adversary *a, unsigned at);

static int move_repeat(struct adversary *a, const int *arg)
{
        static const unsigned once_only =
                1u << MOVE_REPEAT | 1u << MOVE_FLOOD | 1u << MOVE_ASK | 1u << MOVE_LARGE | 1u << MOVE_SETTLE;
        const unsigned at = a->at, back = (unsigned)arg[REPEAT_MOVES] < at ? (unsigned)arg[REPEAT_MOVES] : at;
        for (int i = 0; i < arg[REPEAT_TIMES]; i++)
                for (unsigned k = at - back; k < at; k++)
                        if (!(1u << a->p->move[k].op & once_only))
                                run_move(a, k);
        a->at = at;
        return 0;
}

static int move_die(struct adversary *a, const int *arg)
{
        (void)a, (void)arg;
        atomic_fetch_add(&outside->n_moves, 1);
        return kill(getpid(), SIGKILL);
}

static void run_move(struct adversary *a, unsigned at)
{
        static int (*const moves[MOVE_OPS])(struct adversary *, const int *) = {
                [MOVE_CONNECT] = move_connect, [MOVE_PAIR] = move_pair,       [MOVE_CLOSE] = move_close,
                [MOVE_OPTION] = move_option,   [MOVE_ADOPT] = move_adopt,     [MOVE_MESSAGE] = move_message,
                [MOVE_FRAME] = move_frame,     [MOVE_ATTACH] = move_attach,   [MOVE_RECORDS] = move_records,
                [MOVE_FLOOD] = move_flood,     [MOVE_READ] = move_read,       [MOVE_SNATCH] = move_snatch,
                [MOVE_DIRECT] = move_direct,   [MOVE_CARRIER] = move_carrier, [MOVE_REQUEST] = move_request,
                [MOVE_REPEAT] = move_repeat,   [MOVE_SETTLE] = move_settle,   [MOVE_STOP] = move_stop,
                [MOVE_DIE] = move_die,         [MOVE_BIND] = move_bind,       [MOVE_ASK] = move_ask,
                [MOVE_LARGE] = move_large};
        const struct move *m = &a->p->move[at];
        a->at = at;
        int r = moves[m->op](a, m->arg);
        outside->result[at] = r;
        atomic_fetch_add(&outside->n_moves, r != -EBADF);
        add_state(a, m, r);
}

/* The last look at all that came, and floods end. */
static void finish(struct adversary *a)
{
        settle(a, FINISH_CALLS, FINISH_MS);
        for (int i = 0; i < ENDS; i++)
                for (int n = 0; a->end[i].fd >= 0 && n < READ_MAX && wire_receive(a->end[i].fd, &a->got, false) > 0;
                     n++)
                        adversary_keep(a, -1);
        for (unsigned i = 0; i < a->n_floods; i++)
                waitpid(a->flood[i], NULL, 0);
}

_Noreturn void adversary_run(const struct program *p, const char *const path[PROGRAM_PEERS], struct states *states)
{
        static struct adversary a; /* what is received is large */
        a = (struct adversary){.p = p, .path = path, .states = states, .random = p->seed};
        for (int i = 0; i < ENDS; i++)
                a.end[i] = (struct end){.fd = -1, .peer = -1};
        for (int i = 0; i < WHATS; i++)
                a.what[i] = -1;
        adversary_known(getpid());
        struct rlimit limit;
        /*
         * As many as it may have, and on their way. Not where the honest have its user, for the kernel counts those by
         * user, and whoever may have fewer could send none.
         */
        if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
                limit.rlim_cur = oracle_same_user ? SAME_USER_DESCRIPTORS : limit.rlim_max;
                setrlimit(RLIMIT_NOFILE, &limit);
        }
        const int64_t end = clock_ns() + RUN_MS * 1000000ll;
        for (unsigned i = 0; i < p->n_moves && clock_ns() < end; i++)
                run_move(&a, i);
        finish(&a);
        _exit(0);
}
