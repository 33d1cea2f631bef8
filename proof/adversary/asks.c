/* What is asked of wharfd or of a service without end, or in a large way: each in a process of its own. */
#include "adversary.h"

#include "names/proto.h" /* WH_NAMES_*: numbers only */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
        ASK_LINKS_MAX = 64,
        ASK_BEGIN = 12,      /* requests on one connection, for answers come in a lane by then */
        KEPT_MAX = 600,      /* ends of pairs that were registered or are told of changes */
        ASK_CLOCK_MS = 2500, /* on the clock */
        LARGE_LINES = 2048,
        LARGE_CLOCK_MS = 2500,
        IDLE_MS = 300,
};

/* Time of a processor that this process has had. */
static int64_t busy_ns(void)
{
        struct timespec t;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
        return t.tv_sec * 1000000000ll + t.tv_nsec;
}

struct asker {
        struct adversary *a;
        const int *arg;
        struct end link[ASK_LINKS_MAX];
        unsigned n, n_answered[ASK_LINKS_MAX], n_kept;
        uint64_t serial;
};

/* One request; a name or a watch is its own, and so is a page. 0 or a negative errno. */
static int ask_once(struct asker *k, struct end *e)
{
        const int op = program_requests[k->arg[ASK_OP]];
        const bool wants = op == WH_NAMES_REGISTER || op == WH_NAMES_WATCH, page = k->arg[ASK_PAGE];
        const bool nameless = op == WH_NAMES_LIST || op == WH_NAMES_WAITS || op == WH_NAMES_STATE;
        int fds[2], pair[2] = {-1, -1};
        unsigned n = 0;
        char own[48];
        if (wants && (k->n_kept == KEPT_MAX || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0))
                return -EMFILE;
        if (wants) {
                fds[n] = pair[0];
                bytes_out[n++] = WIRE_ITEM_SEND;
        }
        if (page && (fds[n] = wire_task_page_of(++k->serial)) >= 0)
                bytes_out[n++] = WIRE_ITEM_FD;
        snprintf(own, sizeof own, "app.%d.%u", getpid(), k->n_kept);
        const uint64_t cookie = wants ? ++k->serial : 0;
        const struct wire_request q = {.op = (uint16_t)op,
                                       .flags = page ? WH_NAMES_PAGE : 0,
                                       .cookie = {cookie, cookie ? (uint64_t)getpid() : 0}};
        const char *name = nameless ? "" : op == WH_NAMES_REGISTER ? own : program_names[k->arg[ASK_NAME]];
        const size_t len = wire_request(q, name, bytes_out + n);
        const struct wire_frame f = {.type = WH_FRAME_MESSAGE,
                                     .seq = e->seq,
                                     .total = len,
                                     .call = (uint32_t)e->seq + 1,
                                     .arg = WH_MSG_FIRST | WH_MSG_LAST};
        int r = end_frame(e, f, WIRE_AS_FITS, WIRE_TRUE, bytes_out, n + len, fds, n);
        for (unsigned i = 0; i < n; i++)
                close(fds[i]);
        if (r == 0) {
                e->seq++;
                k->n_kept += wants; /* pair[1] stays open, as long as this process lives */
        } else if (pair[1] >= 0) {
                close(pair[1]);
        }
        return r;
}

/* Negative when there is nobody to answer any more. */
static int read_answers(struct asker *k, unsigned i)
{
        int r;
        while ((r = wire_receive(k->link[i].fd, &k->a->got, false)) > 0) {
                k->n_answered[i] += k->a->got.frame.type == WH_FRAME_MESSAGE;
                adversary_keep(k->a, -1);
        }
        return r;
}

/*
 * What there is room for at one connection. One whose answers were all read is left for another; but where something
 * was given it stays, since it would be taken back.
 */
static void ask_some(struct asker *k, unsigned i)
{
        const bool unread = k->arg[ASK_UNREAD], gives = k->arg[ASK_PAGE] ||
                                                        program_requests[k->arg[ASK_OP]] == WH_NAMES_REGISTER ||
                                                        program_requests[k->arg[ASK_OP]] == WH_NAMES_WATCH;
        struct end *e = &k->link[i];
        int r = e->fd < 0 ? -EBADF : 0;
        while (r == 0 && (unread || e->seq < ASK_BEGIN))
                r = ask_once(k, e);
        if (r != -EBADF && !unread)
                r = read_answers(k, i);
        const bool over = r < 0 && r != -EAGAIN && r != -EMFILE && r != -ETOOMANYREFS;
        if (e->peer < 0 || (!over && (unread || gives || k->n_answered[i] < ASK_BEGIN)))
                return;
        const int peer = e->peer;
        end_close(e);
        *e = (struct end){.fd = end_connect(k->a, peer), .peer = peer};
        k->n_answered[i] = 0;
}

void ask(struct adversary *a, struct end *first, const int *arg)
{
        static struct asker k;
        const int64_t end = clock_ns() + ASK_CLOCK_MS * 1000000ll;
        k = (struct asker){.a = a, .arg = arg, .n = 1, .link = {*first}, .serial = (uint64_t)getpid() << 32};
        for (; first->peer >= 0 && (int)k.n < arg[ASK_LINKS] && k.n < ASK_LINKS_MAX; k.n++)
                k.link[k.n] = (struct end){.fd = end_connect(a, first->peer), .peer = first->peer};
        for (const int64_t busy_until = busy_ns() + arg[ASK_MS] * 1000000ll; busy_ns() < busy_until && clock_ns() < end;
             usleep(200))
                for (unsigned i = 0; i < k.n; i++)
                        ask_some(&k, i);
        while (clock_ns() < end) /* what it was given, and has not read, it keeps a little */
                usleep(1000);
}

/* A call whose payload comes in pieces through a small ring, so that what is large is the answer. */
static bool call_large(struct end *e, uint32_t call, uint64_t total, int64_t end_ns)
{
        struct wire_ext ext = {.id = 1, .call = call};
        for (uint64_t at = 0; at < total;) {
                const uint64_t room = WH_RECORD_BODY_MAX - sizeof ext - sizeof total;
                const uint64_t n = total - at < room ? total - at : room;
                memcpy(bytes_out, &ext, sizeof ext);
                memcpy(bytes_out + sizeof ext, &total, sizeof total);
                memset(bytes_out + sizeof ext + sizeof total, 'l', n);
                while (!wire_lane_put(&e->lane, WH_REC_PIECE, bytes_out, (uint32_t)(sizeof ext + sizeof total + n))) {
                        if (clock_ns() > end_ns || end_bell(e) < 0)
                                return false;
                        usleep(100);
                }
                at += n;
        }
        return end_bell(e) >= 0;
}

/* Large calls over some connections to that service; and then nothing any more. */
void large(struct adversary *a, const struct end *first, const int *arg)
{
        static struct end link[ASK_LINKS_MAX];
        const int64_t end = clock_ns() + LARGE_CLOCK_MS * 1000000ll;
        for (int i = 0; first->peer >= 0 && i < arg[LARGE_LINKS] && i < ASK_LINKS_MAX; i++) {
                link[i] = (struct end){.fd = end_connect(a, first->peer), .peer = first->peer};
                if (link[i].fd < 0 || end_attach(&link[i], LARGE_LINES) < 0)
                        break;
                for (int n = 0; n < arg[LARGE_TIMES]; n++)
                        if (!call_large(&link[i], (uint32_t)n + 1, (uint64_t)arg[LARGE_LEN], end))
                                break;
        }
        usleep(IDLE_MS * 1000);
}
