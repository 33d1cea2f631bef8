/*
 * rights - what rights cost, and what a port with many of them costs.
 *
 *      mint, copy, move      making a right; copying one; handing an unused one over inside a message
 *      first-minted ...      the first message over each; provisional ones are bound anew (a pair of their own) with it
 *      second-moved          the next one, for comparison: the difference is the rebinding
 *      idle N                the round trip of one sender while N others hold attached links and say nothing
 *      busy N                messages a second that a port takes from N senders at once, each a process
 *      moves N               a receive right that goes back and forth with N attached links: the time of one move, and
 *                            the longest that a sender which never stops sending had to wait in one call
 *
 * Method: `mint` to `second-moved` in one process, like setup.h; the others between processes, the server on the first
 * core and the one sender that is timed on the second.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wharf/wharf.h>

#include "harness.h"

enum {
        BYTES = 64,
        SAMPLES = 200000,
        LINKS_MAX = 2048,
        ID_ATTACH = 1, /* says nothing, but in shared memory */
        ID_HELLO = 2,  /* carries a right to the sender's port */
        ID_STOP = 3,
};

static uint32_t samples[SAMPLES];
static double phase_s;

static int checked(ssize_t r, const char *call)
{
        if (r < 0) {
                errno = (int)-r;
                bench_die("%s %s", call, wharf_why());
        }
        return (int)r;
}

static wharf_task *task_new(uint32_t spin)
{
        struct wharf_task_opts o = {.size = sizeof(o), .spin_us_max = spin};
        wharf_task *t;
        checked(wharf_task_open(&o, &t), "wharf_task_open");
        return t;
}

static wharf_name port_new(wharf_task *t)
{
        struct wharf_port_opts o = {.size = sizeof(o), .flags = WHARF_PORT_STAYS};
        wharf_name p;
        checked(wharf_port_new(t, &o, &p), "wharf_port_new");
        return p;
}

static void print_samples(const char *work, const char *mode, size_t n)
{
        struct bench_result r = {0};
        bench_summarize(samples, n, &r);
        bench_print_value("wharf", work, mode, BYTES, "p50_ns", r.p50_ns);
        bench_print_value("wharf", work, mode, BYTES, "p99_ns", r.p99_ns);
}

/* ---- one process ---- */

static struct {
        wharf_task *task;
        wharf_name port, warm, right;
} one;

static void one_take(uint32_t n_items, struct wharf_item *items)
{
        char bytes[BYTES];
        struct wharf_msg m = {
                .size = sizeof(m), .data = bytes, .cap_bytes = BYTES, .items = items, .cap_items = n_items};
        checked(wharf_recvmsg(one.task, one.port, &m, WHARF_FOREVER), "wharf_recvmsg");
}

/* The port notices, off the clock, who is gone, and adopts who is new. */
static void one_settle(void)
{
        struct wharf_port_stat st = {.size = sizeof(st)};
        char bytes[BYTES];
        do {
                if (wharf_recv(one.task, one.port, bytes, sizeof(bytes), NULL, 0) != -EAGAIN)
                        bench_die("a message nobody sent");
                checked(wharf_port_stat(one.task, one.port, &st), "wharf_port_stat");
        } while (st.senders > 1);
}

static void one_mint(void)
{
        checked(wharf_right_new(one.task, one.port, &one.right), "wharf_right_new");
}

static void one_copy(void)
{
        checked(wharf_right_copy(one.task, one.warm, WHARF_FOREVER, &one.right), "wharf_right_copy");
}

static void one_move(void)
{
        struct wharf_item item = {.kind = WHARF_MOVE_SEND, .name = one.right};
        struct wharf_msg m = {.size = sizeof(m), .items = &item, .n_items = 1};
        checked(wharf_sendmsg(one.task, one.warm, &m, WHARF_FOREVER), "wharf_sendmsg");
        one_take(1, &item);
        one.right = item.name;
}

static void one_message(void)
{
        char bytes[BYTES] = {0};
        checked(wharf_send(one.task, one.right, bytes, BYTES, WHARF_FOREVER), "wharf_send");
        one_take(0, NULL);
}

static void one_drop(void)
{
        checked(wharf_drop(one.task, one.right), "wharf_drop");
        one_settle();
}

static void minted_moved(void)
{
        one_mint();
        one_move();
}

static void moved_used(void)
{
        minted_moved();
        one_message();
}

static void nothing(void)
{
}

static void one_time(const char *what, void (*before)(void), void (*step)(void), void (*after)(void))
{
        size_t n = 0;
        uint64_t end = bench_ticks() + bench_ticks_of_s(phase_s);
        for (int i = 0; i < 20; i++) {
                before();
                step();
                after();
        }
        while (n < 20000 && (n == 0 || bench_ticks() < end)) {
                before();
                uint64_t start = bench_ticks();
                step();
                uint64_t took = bench_ticks() - start;
                after();
                samples[n++] = took < UINT32_MAX ? (uint32_t)took : UINT32_MAX;
        }
        print_samples(what, "rights", n);
}

static void one_all(void)
{
        one.task = task_new(0);
        one.port = port_new(one.task);
        one.right = WHARF_NONE;
        checked(wharf_right_new(one.task, one.port, &one.warm), "wharf_right_new");
        one.right = one.warm;
        for (int i = 0; i < 100; i++)
                one_message();
        one_time("mint", nothing, one_mint, one_drop);
        one_time("copy", nothing, one_copy, one_drop);
        one_time("move", one_mint, one_move, one_drop);
        one_time("first-minted", one_mint, one_message, one_drop);
        one_time("first-copied", one_copy, one_message, one_drop);
        one_time("first-moved", minted_moved, one_message, one_drop);
        one_time("second-moved", moved_used, one_message, one_drop);
        wharf_task_close(one.task);
}

/* ---- between processes ---- */

static char hub_path[40];
static int hub_door, hub_listener;

/* A socket that processes made later can connect to, whose name is gone already. */
static void hub_open(void)
{
        struct sockaddr_un addr = {.sun_family = AF_UNIX};
        char dir[] = "/tmp/wharf-bench-XXXXXX";
        if (!mkdtemp(dir))
                bench_die("%s", dir);
        snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/server", dir);
        hub_listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (hub_listener < 0 || bind(hub_listener, (struct sockaddr *)&addr, sizeof(addr)) ||
            listen(hub_listener, LINKS_MAX) || (hub_door = open(addr.sun_path, O_PATH | O_CLOEXEC)) < 0)
                bench_die("%s", addr.sun_path);
        unlink(addr.sun_path);
        rmdir(dir);
        snprintf(hub_path, sizeof(hub_path), "/proc/self/fd/%d", hub_door);
}

static void hub_close(void)
{
        close(hub_door);
        close(hub_listener);
}

static wharf_name hub_join(wharf_task *t)
{
        wharf_name right;
        int r;
        while ((r = wharf_right_connect(t, hub_path, &right)) == -EAGAIN)
                usleep(1000); /* its queue of connections is full */
        checked(r, "wharf_right_connect");
        return right;
}

/* A port takes all links that the descriptors allow. */
static void limits_raise(void)
{
        struct rlimit l;
        getrlimit(RLIMIT_NOFILE, &l);
        l.rlim_cur = l.rlim_max;
        setrlimit(RLIMIT_NOFILE, &l);
}

static pid_t party(void (*fn)(void *arg), void *arg, int core)
{
        pid_t parent = getpid(), pid = fork();
        if (pid < 0)
                bench_die("fork");
        if (pid)
                return pid;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
                _exit(1);
        struct bench_run where = {.place = core < 0 ? BENCH_UNPINNED : BENCH_PINNED, .party = (uint32_t)core};
        bench_pin(&where);
        fn(arg);
        _exit(0);
}

struct shared {
        unsigned n;
        _Atomic uint32_t attached, ready, stop;
        _Atomic uint64_t count;
        uint64_t longest_ns;
        size_t n_samples;
        uint32_t sample[SAMPLES];
};

/* Holds n rights, each attached, and says nothing. */
static void idler(void *arg)
{
        struct shared *s = arg;
        wharf_task *t = task_new(WHARF_NO_SPIN);
        char bytes[BYTES] = {0};
        for (unsigned i = 0; i < s->n; i++) {
                struct wharf_msg m = {
                        .size = sizeof(m), .id = ID_ATTACH, .how = WHARF_HOW_INLINE, .data = bytes, .len_bytes = BYTES};
                checked(wharf_sendmsg(t, hub_join(t), &m, WHARF_FOREVER), "wharf_sendmsg");
        }
        atomic_fetch_add(&s->attached, s->n);
        for (;;)
                pause();
}

/* Sends back what comes from whoever said hello. */
static void echoer(void *arg)
{
        struct shared *s = arg;
        wharf_task *t = task_new(WHARF_SPIN);
        wharf_name port = port_new(t), to = WHARF_NONE;
        unsigned attached = 0;
        char bytes[BYTES];
        checked(wharf_port_listen(t, port, hub_listener), "wharf_port_listen");
        while (!to || attached < s->n) {
                struct wharf_item item;
                struct wharf_msg m = {
                        .size = sizeof(m), .data = bytes, .cap_bytes = BYTES, .items = &item, .cap_items = 1};
                checked(wharf_recvmsg(t, port, &m, WHARF_FOREVER), "wharf_recvmsg");
                attached += m.id == ID_ATTACH;
                if (m.n_items)
                        to = item.name;
        }
        atomic_store(&s->ready, 1);
        for (;;) {
                checked(wharf_recv(t, port, bytes, BYTES, NULL, WHARF_FOREVER), "wharf_recv");
                checked(wharf_send(t, to, bytes, BYTES, WHARF_FOREVER), "wharf_send");
        }
}

static void asker(void *arg)
{
        struct shared *s = arg;
        wharf_task *t = task_new(WHARF_SPIN);
        wharf_name port = port_new(t), to = hub_join(t);
        char bytes[BYTES] = {0};
        struct wharf_item item = {.kind = WHARF_MAKE_SEND, .name = port};
        struct wharf_msg m = {.size = sizeof(m), .id = ID_HELLO, .items = &item, .n_items = 1};
        checked(wharf_sendmsg(t, to, &m, WHARF_FOREVER), "wharf_sendmsg");
        while (!atomic_load(&s->ready))
                usleep(1000);
        uint64_t now = bench_ticks(), warm = now + bench_ticks_of_s(phase_s / 4),
                 end = warm + bench_ticks_of_s(phase_s);
        while (now < end && s->n_samples < SAMPLES) {
                uint64_t start = bench_ticks();
                checked(wharf_send(t, to, bytes, BYTES, WHARF_FOREVER), "wharf_send");
                checked(wharf_recv(t, port, bytes, BYTES, NULL, WHARF_FOREVER), "wharf_recv");
                now = bench_ticks();
                if (now > warm)
                        s->sample[s->n_samples++] = now - start < UINT32_MAX ? (uint32_t)(now - start) : UINT32_MAX;
        }
}

static void end_all(const pid_t *pid, unsigned n)
{
        while (n--) /* the server last, for its end is an error to the others */
                kill(pid[n], SIGKILL);
        while (waitpid(-1, NULL, 0) > 0)
                ;
}

/* Waits for one party, which must succeed. */
static void await(pid_t pid)
{
        int status;
        if (waitpid(pid, &status, 0) != pid || status)
                bench_die("a party failed");
}

static void idle(unsigned n)
{
        struct shared *s = bench_shared(sizeof(*s));
        char mode[32];
        s->n = n;
        hub_open();
        pid_t pid[3] = {party(echoer, s, 0), party(idler, s, -1)};
        while (atomic_load(&s->attached) < n)
                usleep(1000);
        pid[2] = party(asker, s, 1);
        await(pid[2]);
        end_all(pid, 2);
        hub_close();
        memcpy(samples, s->sample, s->n_samples * sizeof(*samples));
        snprintf(mode, sizeof(mode), "links=%u", n);
        print_samples("idle", mode, s->n_samples);
        bench_shared_free(s, sizeof(*s));
}

static void counter(void *arg)
{
        struct shared *s = arg;
        wharf_task *t = task_new(0);
        wharf_name port = port_new(t);
        char bytes[BYTES];
        checked(wharf_port_listen(t, port, hub_listener), "wharf_port_listen");
        for (uint64_t n = 0;; n++) {
                checked(wharf_recv(t, port, bytes, BYTES, NULL, WHARF_FOREVER), "wharf_recv");
                if (n % 64 == 0)
                        atomic_store_explicit(&s->count, n, memory_order_relaxed);
        }
}

static void sender(void *arg)
{
        struct shared *s = arg;
        wharf_task *t = task_new(0);
        wharf_name to = hub_join(t);
        char bytes[BYTES] = {0};
        atomic_fetch_add(&s->ready, 1);
        for (;;)
                checked(wharf_send(t, to, bytes, BYTES, WHARF_FOREVER), "wharf_send");
}

static void busy(unsigned n)
{
        struct shared *s = bench_shared(sizeof(*s));
        char mode[32];
        pid_t *pid = bench_state((n + 1) * sizeof(*pid));
        hub_open();
        pid[0] = party(counter, s, -1);
        for (unsigned i = 1; i <= n; i++)
                pid[i] = party(sender, s, -1);
        while (atomic_load(&s->ready) < n)
                usleep(1000);
        usleep((useconds_t)(phase_s * 250000));
        uint64_t before = atomic_load(&s->count), start = bench_now_ns();
        usleep((useconds_t)(phase_s * 1e6));
        uint64_t after = atomic_load(&s->count), took = bench_now_ns() - start;
        end_all(pid, n + 1);
        hub_close();
        snprintf(mode, sizeof(mode), "senders=%u", n);
        bench_print_value("wharf", "busy", mode, BYTES, "msg_per_s", (double)(after - before) * 1e9 / (double)took);
        free(pid);
        bench_shared_free(s, sizeof(*s));
}

enum { MOVES_MAX = 200 };

/* Sends one message after the other over n attached rights, and remembers the longest that a call took. */
static void caller(void *arg)
{
        struct shared *s = arg;
        wharf_task *t = task_new(0);
        wharf_name *to = bench_state(s->n * sizeof(*to));
        char bytes[BYTES] = {0};
        struct wharf_msg m = {.size = sizeof(m), .how = WHARF_HOW_INLINE, .data = bytes, .len_bytes = BYTES};
        for (unsigned i = 0; i < s->n; i++) {
                to[i] = hub_join(t);
                checked(wharf_sendmsg(t, to[i], &m, WHARF_FOREVER), "wharf_sendmsg");
        }
        atomic_store(&s->attached, s->n);
        while (!atomic_load(&s->ready))
                usleep(100);
        for (unsigned i = 0; !atomic_load(&s->stop); i++) {
                uint64_t start = bench_now_ns(), took;
                checked(wharf_send(t, to[i % s->n], bytes, BYTES, WHARF_FOREVER), "wharf_send");
                took = bench_now_ns() - start;
                if (took > s->longest_ns)
                        s->longest_ns = took;
                usleep(20); /* so that the pause that is seen is the move's, and not a full queue's */
        }
        wharf_task_close(t);
}

/*
 * Two holders that hand the port to each other. Whoever has it drains it for a moment, hands it over, and is timed
 * until the other says, by the clock that both see, that it has it.
 */
struct holder {
        struct shared *s;
        bool first;
};

static void holder(void *arg)
{
        struct holder *h = arg;
        struct shared *s = h->s;
        wharf_task *t = task_new(0);
        wharf_name port = WHARF_NONE, mine = port_new(t), other = WHARF_NONE;
        char bytes[BYTES];
        if (h->first) {
                struct wharf_port_opts o = {.size = sizeof(o), .flags = WHARF_PORT_STAYS};
                checked(wharf_port_new(t, &o, &port), "wharf_port_new");
                checked(wharf_port_listen(t, port, hub_listener), "wharf_port_listen");
                /* The second holder comes by the same door, with a right to its own port. */
                while (atomic_load(&s->attached) < s->n || !other) {
                        struct wharf_item item;
                        struct wharf_msg m = {
                                .size = sizeof(m), .data = bytes, .cap_bytes = BYTES, .items = &item, .cap_items = 1};
                        int r = wharf_recvmsg(t, port, &m, wharf_in_ms(10));
                        if (r == 0 && m.n_items)
                                other = item.name;
                        else if (r != -ETIMEDOUT)
                                checked(r, "wharf_recvmsg");
                }
                checked(wharf_port_listen(t, port, -1), "wharf_port_listen");
                struct wharf_item item = {.kind = WHARF_MAKE_SEND, .name = mine};
                struct wharf_msg m = {.size = sizeof(m), .items = &item, .n_items = 1};
                checked(wharf_sendmsg(t, other, &m, WHARF_FOREVER), "wharf_sendmsg");
                atomic_store(&s->ready, 1);
        } else {
                wharf_name to = hub_join(t);
                struct wharf_item item = {.kind = WHARF_MAKE_SEND, .name = mine};
                struct wharf_msg m = {.size = sizeof(m), .items = &item, .n_items = 1};
                checked(wharf_sendmsg(t, to, &m, WHARF_FOREVER), "wharf_sendmsg");
        }
        for (;;) {
                struct wharf_item item = {.kind = WHARF_MOVE_RECEIVE, .name = port};
                if (port) {
                        int64_t until = wharf_in_ms(2);
                        int r;
                        while ((r = (int)wharf_recv(t, port, bytes, BYTES, NULL, until)) >= 0)
                                ;
                        if (r != -ETIMEDOUT)
                                checked(r, "wharf_recv");
                        struct wharf_msg m = {.size = sizeof(m), .items = &item, .n_items = 1};
                        atomic_store(&s->count, bench_now_ns());
                        checked(wharf_sendmsg(t, other, &m, WHARF_FOREVER), "wharf_sendmsg");
                        port = WHARF_NONE;
                }
                struct wharf_msg m = {
                        .size = sizeof(m), .data = bytes, .cap_bytes = BYTES, .items = &item, .cap_items = 1};
                checked(wharf_recvmsg(t, mine, &m, WHARF_FOREVER), "wharf_recvmsg");
                if (item.kind == WHARF_GOT_SEND) {
                        other = item.name; /* the second holder learns of the first */
                        continue;
                }
                uint64_t took = bench_now_ns() - atomic_load(&s->count);
                port = item.name;
                if (s->n_samples < MOVES_MAX)
                        s->sample[s->n_samples++] = (uint32_t)((double)took / bench_ns_per_tick);
        }
}

static void moves(unsigned n)
{
        struct shared *s = bench_shared(sizeof(*s));
        struct holder h[2] = {{s, true}, {s, false}};
        char mode[32];
        struct bench_result r = {0};
        s->n = n;
        hub_open();
        pid_t pid[3] = {party(holder, &h[0], -1), party(holder, &h[1], -1), party(caller, s, -1)};
        while (!atomic_load(&s->ready))
                usleep(1000);
        usleep((useconds_t)(phase_s * 1e6) + n * 1000);
        atomic_store(&s->stop, 1);
        await(pid[2]);
        end_all(pid, 2);
        hub_close();
        snprintf(mode, sizeof(mode), "links=%u", n);
        if (s->n_samples) {
                memcpy(samples, s->sample, s->n_samples * sizeof(*samples));
                bench_summarize(samples, s->n_samples, &r);
                bench_print_value("wharf", "moves", mode, BYTES, "move_ns", r.p50_ns);
                bench_print_value("wharf", "moves", mode, BYTES, "pause_ns", (double)s->longest_ns);
        }
        bench_shared_free(s, sizeof(*s));
}

int main(int argc, char **argv)
{
        struct bench_opts opts = bench_options(argc, argv);
        phase_s = opts.phase_s;
        limits_raise();
        one_all();
        idle(0);
        idle(100);
        idle(2000);
        busy(4);
        busy(100);
        moves(1);
        moves(100);
        moves(2000);
        return 0;
}
