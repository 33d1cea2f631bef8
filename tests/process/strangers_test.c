/*
 * What strangers do with the sockets and the memory that they share with us: nobody stops anybody. The attacker speaks
 * through the library's own inner functions, or by hand, so that all but the one lie is right.
 */
#include "carrier.h"
#include "descriptors.h"
#include "domain.h"
#include "hub.h"
#include "inside.h"

#include "os/closer.h"
#include "os/os.h"
#include "link/frame.h"
#include "link/link.h"
#include "link/wire.h"
#include "message/call.h"
#include "message/move.h"
#include "right/right.h"
#include "port/port.h"
#include "names/domain.h"
#include "names/proto.h"
#include "wharf/memory.h"
#include "wharf/names.h"
#include "wharf/spawn.h"

#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <sys/uio.h>
#include <sys/un.h>

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif

/* ---- helpers ---- */

/* What a REBIND says of a right that nobody gave. */
static const struct wh_origin for_any = {.known = WHARF_KNOWN_NOBODY};

/* In a forked process: as another user, where that is allowed. */
static void become_another(void)
{
        if (geteuid() == 0) {
                CHECK_EQ(setresgid(65533, 65533, 65533), 0);
                CHECK_EQ(setresuid(65533, 65533, 65533), 0);
        }
}

static int connect_by_hand(const struct hub *h)
{
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        CHECK_GE(s, 0);
        memcpy(sa.sun_path, h->path, sizeof h->path);
        CHECK_EQ(connect(s, (struct sockaddr *)&sa, sizeof sa), 0);
        return s;
}

static void introduce_by_hand(int sock, int end)
{
        struct wh_frame f = {.type = WH_FRAME_ADOPT, .to = WH_TO_OWNER, .n_fds = 1};
        CHECK_EQ(wh_frame_send(sock, &f, NULL, 0, &end, false), 0);
}

/* One datagram with any number of descriptors, all of them `fd`. */
static void send_many(int sock, const void *bytes, size_t len, int fd, unsigned n)
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(253 * sizeof(int))];
        } control = {0};
        int fds[253];
        struct iovec iov = {(void *)(uintptr_t)bytes, len};
        struct msghdr m = {.msg_iov = &iov,
                           .msg_iovlen = 1,
                           .msg_control = control.space,
                           .msg_controllen = CMSG_SPACE(n * sizeof(int))};
        for (unsigned i = 0; i < n; i++)
                fds[i] = fd;
        control.align.cmsg_level = SOL_SOCKET;
        control.align.cmsg_type = SCM_RIGHTS;
        control.align.cmsg_len = CMSG_LEN(n * sizeof(int));
        memcpy(CMSG_DATA(&control.align), fds, n * sizeof(int));
        CHECK_EQ(sendmsg(sock, &m, MSG_NOSIGNAL), len);
}

static uint64_t senders(wharf_task *t, wharf_name port)
{
        struct wharf_port_stat s = {.size = sizeof s};
        CHECK_EQ(wharf_port_stat(t, port, &s), 0);
        return s.senders;
}

static void receives(wharf_task *t, wharf_name port, const char *text)
{
        char got[64];
        CHECK_EQ(wharf_recv(t, port, got, sizeof got, NULL, wharf_in_ms(60000)), strlen(text));
        CHECK_MEM(got, text, strlen(text));
}

/* ---- descriptors that do not fit ---- */

struct many {
        struct hub *hub;
        unsigned said; /* in the head of the frame */
        struct stage told, done;
};

/* A pair that asks for all that the kernel has to say beside a datagram, and one datagram with all that there can be. */
static int many_descriptors(void *arg)
{
        struct many *a = arg;
        become_another();
        int sock = connect_by_hand(a->hub), sv[2], on = 1;
        CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv), 0);
        (void)!setsockopt(sv[0], SOL_SOCKET, SO_PASSPIDFD, &on, sizeof on);
        (void)!setsockopt(sv[0], SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on);
        struct wh_frame f = {.magic = WH_FRAME_MAGIC,
                             .version = WH_FRAME_VERSION,
                             .type = WH_FRAME_MESSAGE,
                             .to = WH_TO_OWNER,
                             .n_fds = (uint8_t)a->said,
                             .arg = WH_MSG_FIRST | WH_MSG_LAST};
        send_many(sv[1], &f, sizeof f, 0, 253);
        introduce_by_hand(sock, sv[0]);
        close(sv[0]);
        stage_reach(&a->told);
        stage_await(&a->done);
        close(sv[1]);
        close(sock);
        return 0;
}

/*
 * Goal:   a datagram with more descriptors than there can ever be room for costs its sender its link, and nobody else
 *         anything.
 * Method: by a stranger, on a pair that has the kernel add a pidfd and a time stamp to each datagram, with a head that
 *         says two, or as many as fit its byte. An honest sender is received from before and after.
 */
TEST(one_datagram_with_too_many_descriptors_costs_only_its_link)
{
        static const unsigned said[] = {2, 253};
        for (unsigned i = 0; i < 2; i++) {
                struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
                wharf_name right;
                char got[8];
                CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
                struct many a = {.hub = &h, .said = said[i], .told = stage_new(), .done = stage_new()};
                pid_t pid = test_fork(many_descriptors, &a);
                stage_await(&a.told);
                for (int k = 0; k < 3; k++) {
                        CHECK_EQ(wharf_send(h.task, right, "well", 4, wharf_in_ms(60000)), 0);
                        receives(h.task, h.port, "well");
                        CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, 0), -EAGAIN);
                }
                CHECK_EQ(senders(h.task, h.port), 2); /* the honest one, and the introducer, who has done nothing */
                stage_reach(&a.done);
                CHECK_EQ(test_wait(pid), 0);
                CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, 0), -EAGAIN);
                stage_done(&a.told);
                stage_done(&a.done);
                hub_close(&h);
        }
}

/*
 * Goal:   what one link has and this process is short of keeps nobody else's message back, and is there when it can be
 *         had.
 * Method: a message with a descriptor, then one of another sender; and none left.
 */
TEST(a_shortage_on_one_link_is_met_after_the_others)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        wharf_name rights[2];
        char got[8];
        struct wharf_item in, out = {.kind = WHARF_COPY_FD, .fd = 0};
        for (int i = 0; i < 2; i++) { /* each has its own pair from here on */
                CHECK_EQ(wharf_right_new(h.task, h.port, &rights[i]), 0);
                CHECK_EQ(wharf_send(h.task, rights[i], "well", 4, 0), 0);
                receives(h.task, h.port, "well");
        }
        CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, 0), -EAGAIN);
        struct wharf_msg first = MSG(.data = BYTES("first"), .len_bytes = 5, .items = &out, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(h.task, rights[0], &first, 0), 0);
        struct wharf_msg m = MSG(.data = got, .cap_bytes = sizeof got, .items = &in, .cap_items = 1);
        CHECK_EQ(wharf_send(h.task, rights[1], "second", 6, 0), 0);
        rlim_t was = limit_descriptors(3);
        int r = wharf_recvmsg(h.task, h.port, &m, 0), again = wharf_recvmsg(h.task, h.port, &m, 0);
        limit_descriptors(was);
        CHECK_EQ(r, 0);
        CHECK_EQ(again, -EMFILE);
        CHECK_MEM(got, "second", 6);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
        CHECK_MEM(got, "first", 5);
        CHECK_EQ(m.n_items, 1);
        close(in.fd);
        hub_close(&h);
}

/*
 * Goal:   who waits while descriptors are short hears whoever needs none, is told at its deadline and not before, and goes
 *         on when there are some again.
 * Method: another thread sends, and then lifts the limit.
 */
struct short_hub {
        struct hub h;
        wharf_name rights[2];
        rlim_t was;
};

static void *sends_later(void *arg)
{
        struct short_hub *s = arg;
        usleep(50000);
        CHECK_EQ(wharf_send(s->h.task, s->rights[1], "second", 6, 0), 0);
        return NULL;
}

static void *lifts_later(void *arg)
{
        struct short_hub *s = arg;
        usleep(50000);
        limit_descriptors(s->was);
        return NULL;
}

static int64_t own_ns(void)
{
        struct timespec t;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return t.tv_sec * 1000000000L + t.tv_nsec;
}

TEST(who_waits_for_descriptors_hears_others)
{
        struct short_hub s = {.h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS))};
        struct hub *h = &s.h;
        char got[8];
        pthread_t other;
        struct wharf_item in, out = {.kind = WHARF_COPY_FD, .fd = 0};
        for (int i = 0; i < 2; i++) {
                CHECK_EQ(wharf_right_new(h->task, h->port, &s.rights[i]), 0);
                CHECK_EQ(wharf_send(h->task, s.rights[i], "well", 4, 0), 0);
                receives(h->task, h->port, "well");
        }
        struct wharf_msg first = MSG(.data = BYTES("first"), .len_bytes = 5, .items = &out, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(h->task, s.rights[0], &first, 0), 0);
        s.was = limit_descriptors(3);
        struct wharf_msg m = MSG(.data = got, .cap_bytes = sizeof got, .items = &in, .cap_items = 1);
        CHECK_EQ(pthread_create(&other, NULL, sends_later, &s), 0);
        CHECK_EQ(wharf_recvmsg(h->task, h->port, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(pthread_join(other, NULL), 0);
        CHECK_MEM(got, "second", 6);
        const int64_t until = wharf_in_ms(300), own = own_ns();
        CHECK_EQ(wharf_recvmsg(h->task, h->port, &m, until), -EMFILE);
        CHECK_OP(wharf_in_ms(0), >=, until);
        CHECK_OP(own_ns() - own, <, 100 * 1000 * 1000);
        CHECK_EQ(wharf_recvmsg(h->task, h->port, &m, 0), -EMFILE);
        CHECK_EQ(pthread_create(&other, NULL, lifts_later, &s), 0);
        CHECK_EQ(wharf_recvmsg(h->task, h->port, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(pthread_join(other, NULL), 0);
        CHECK_MEM(got, "first", 5);
        close(in.fd);
        hub_close(h);
}

/*
 * Goal:   what can never be received does not stay, either.
 * Method: a message with more descriptors than half of those that there may be, to a receiver that has not so many left.
 */
static int receives_with_few(void *arg)
{
        (void)arg;
        enum { LIMIT = 64, MANY = 40 };
        limit_descriptors(LIMIT);
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        wharf_name rights[2];
        char got[8];
        struct wharf_item in[MANY], out[MANY];
        for (int i = 0; i < MANY; i++)
                out[i] = (struct wharf_item){.kind = WHARF_COPY_FD, .fd = 0};
        for (int i = 0; i < 2; i++)
                CHECK_EQ(wharf_right_new(h.task, h.port, &rights[i]), 0);
        int used[LIMIT], n = 0;
        while ((used[n] = dup(0)) >= 0)
                n++;
        for (int i = 0; i < 4; i++)
                close(used[--n]);
        struct wharf_msg m = MSG(.data = BYTES("many"), .len_bytes = 4, .items = out, .n_items = MANY);
        CHECK_EQ(wharf_sendmsg(h.task, rights[0], &m, 0), 0);
        m = MSG(.data = got, .cap_bytes = sizeof got, .items = in, .cap_items = MANY);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
        CHECK_EQ(wharf_send(h.task, rights[0], "x", 1, 0), -EMFILE);
        CHECK_EQ(senders(h.task, h.port), 1);
        CHECK_EQ(wharf_send(h.task, rights[1], "well", 4, wharf_in_ms(60000)), 0);
        receives(h.task, h.port, "well");
        while (n > 0)
                close(used[--n]);
        hub_close(&h);
        return 0;
}
TEST(a_message_that_can_never_be_received_ends_its_link)
{
        CHECK_EQ(test_wait(test_fork(receives_with_few, NULL)), 0);
}

/* ---- what is closed ---- */

enum how_dropped {
        IN_A_REFUSED_FRAME,
        BEYOND_WHAT_FITS,
        BESIDE_A_DOORBELL,
        BESIDE_NOTHING,
        UNREAD_IN_THE_SOCKET,
        IN_A_PAIR_THAT_LIES_THERE,
        IN_AN_UNRECEIVED_MESSAGE,
        UNREAD_AT_THE_HOLDER,
        HOWS_DROPPED
};

static void send_lingering(int sock, enum how_dropped how, int fd)
{
        struct wh_frame f = {.magic = WH_FRAME_MAGIC,
                             .version = WH_FRAME_VERSION,
                             .type = WH_FRAME_ADOPT,
                             .to = WH_TO_OWNER,
                             .n_fds = 1};
        struct wh_frame m = {
                .type = WH_FRAME_MESSAGE, .to = WH_TO_OWNER, .n_fds = 1, .arg = WH_MSG_FIRST | WH_MSG_LAST};
        int sv[2];
        switch (how) {
        case IN_A_REFUSED_FRAME: /* an end that is none */
        case UNREAD_IN_THE_SOCKET:
        case UNREAD_AT_THE_HOLDER:
                send_many(sock, &f, sizeof f, fd, 1);
                return;
        case BEYOND_WHAT_FITS:
                send_many(sock, &f, sizeof f, fd, 253);
                return;
        case BESIDE_A_DOORBELL:
                send_many(sock, "", 1, fd, 1);
                return;
        case BESIDE_NOTHING:
                send_many(sock, "", 0, fd, 1);
                return;
        case IN_A_PAIR_THAT_LIES_THERE:
                CHECK_EQ(wh_os_socketpair(sv), 0);
                send_many(sv[1], "", 1, fd, 1);
                f.type = WH_FRAME_VIA; /* for the other direction: refused */
                send_many(sock, &f, sizeof f, sv[0], 1);
                close(sv[0]);
                close(sv[1]);
                return;
        case IN_AN_UNRECEIVED_MESSAGE:
                CHECK_EQ(wh_frame_send(sock, &m, &(uint8_t){WH_ITEM_FD}, 1, &fd, false), 0);
                return;
        case HOWS_DROPPED:
                return;
        }
}

/*
 * Goal:   however a descriptor comes that sleeps when it is closed, no call of its receiver does.
 * Method: a TCP socket that lingers for an hour; the process that looks has to be through before the test's time is up.
 */
TEST(no_call_waits_for_the_close_of_what_a_stranger_sent)
{
        for (int how = 0; how < HOWS_DROPPED; how++) {
                struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
                wharf_name good, bad, port, far;
                char got[8];
                int reader, sv[2], fd = lingering(&reader);
                CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
                CHECK_EQ(wharf_right_new(h.task, h.port, &good), 0);
                CHECK_EQ(wharf_right_new(h.task, port, &bad), 0);
                CHECK_EQ(wh_os_socketpair(sv), 0);
                CHECK_EQ(wh_right_from_socket(h.task, sv[0], false, false, &far), 0);
                send_lingering(how == UNREAD_AT_THE_HOLDER ? sv[1] : holder(h.task, bad)->sock, how, fd);
                CHECK_EQ(close(fd), 0); /* not the last */
                if (how == IN_AN_UNRECEIVED_MESSAGE)
                        CHECK_EQ(wharf_recv(h.task, port, got, 0, NULL, 0), 0);
                else if (how != UNREAD_IN_THE_SOCKET && how != UNREAD_AT_THE_HOLDER)
                        CHECK_EQ(wharf_recv(h.task, port, got, sizeof got, NULL, 0), -EAGAIN);
                CHECK_EQ(wharf_drop(h.task, how == UNREAD_AT_THE_HOLDER ? far : port), 0);
                CHECK_EQ(wharf_send(h.task, good, "well", 4, wharf_in_ms(60000)), 0);
                receives(h.task, h.port, "well");
                close(reader); /* who reads it is gone, so nothing lingers any more */
                CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
                close(sv[1]);
                hub_close(&h);
        }
}

/* Another user who listens where wharfd should: sends what sleeps to the first that connects. */
struct squatter {
        int listener, fd, reader;
        struct stage ready, sent;
};
static int squats(void *arg)
{
        struct squatter *s = arg;
        close(s->reader);
        become_another();
        CHECK_EQ(listen(s->listener, 4), 0);
        stage_reach(&s->ready);
        for (;;) {
                int c = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
                CHECK_GE(c, 0);
                if (s->fd >= 0) {
                        send_many(c, "", 1, s->fd, 1);
                        close(s->fd);
                        s->fd = -1;
                }
                stage_reach(&s->sent);
        }
}

/* Who listens is asked after what that one sends has come. */
static struct stage *squatter_sent;
static int asks_late(enum wh_os_call call)
{
        static bool connected;
        if (call == WH_OS_getsockopt && connected)
                stage_await(squatter_sent);
        connected = call == WH_OS_connect;
        return 0;
}

/* Goal: nor does one that looks who serves a domain, whoever that is: a connection may have something in it when it is closed. */
TEST(no_call_waits_for_the_close_of_what_is_sent_in_wharfds_place)
{
        for (int way = 0; way < 2; way++) {
                const char *dir = test_domain();
                struct sockaddr_un sa = {.sun_family = AF_UNIX};
                struct squatter s = {.ready = stage_new(), .sent = stage_new()};
                wharf_name right;
                wharf_task *t;
                if (geteuid())
                        test_skip("needs root, to be two users");
                CHECK_EQ(mkdir(dir, 0700) == 0 || errno == EEXIST, 1);
                CHECK_EQ(wh_domain_socket_path(dir, sa.sun_path), 0);
                s.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
                CHECK_EQ(bind(s.listener, (struct sockaddr *)&sa, sizeof sa), 0);
                s.fd = lingering(&s.reader);
                pid_t pid = test_fork(squats, &s);
                stage_await(&s.ready);
                close(s.listener);
                close(s.fd); /* not the last */
                CHECK_EQ(wharf_task_open(NULL, &t), 0);
                squatter_sent = &s.sent;
                wh_os_gate = asks_late;
                if (way == 0)
                        CHECK_EQ(wharf_lookup(t, "x", 0, &right), -EHOSTDOWN);
                else
                        CHECK_EQ(wh_domain_server(dir), pid);
                wh_os_gate = NULL;
                close(s.reader);
                kill_hard(pid);
                CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
                wharf_task_close(t);
                CHECK_EQ(unlink(sa.sun_path), 0);
                stage_done(&s.ready);
                stage_done(&s.sent);
        }
}

static int inherits_what_sleeps(void *arg)
{
        int sv[2], reader, fd = lingering(&reader);
        char text[64];
        struct stat st;
        struct wharf_item it;
        wharf_task *t;
        CHECK_EQ(wh_os_socketpair(sv), 0);
        struct wh_frame f = {.magic = WH_FRAME_MAGIC, .version = WH_FRAME_VERSION, .type = WH_FRAME_TYPES};
        CHECK_EQ(send(sv[0], &f, sizeof f, 0), sizeof f); /* there is no such frame; and behind it is what sleeps */
        send_many(sv[0], "", 1, fd, 1);
        close(sv[0]);
        close(fd);
        CHECK_EQ(fstat(sv[1], &st), 0);
        snprintf(text, sizeof text, "%d:%d:%llu", (int)getpid(), sv[1], (unsigned long long)st.st_ino);
        CHECK_EQ(setenv("WHARF_RIGHTS", text, 1), 0);
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_inherited(t, "log", &it), -EPROTO);
        CHECK_EQ(fcntl(sv[1], F_GETFD), -1);
        close(reader);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
        wharf_task_close(t);
        return 0;
}

/* Goal: nor does a program that takes what it was given, though more lies there. */
TEST(no_call_waits_for_the_close_of_what_lies_behind_what_was_given)
{
        CHECK_EQ(test_wait(test_fork(inherits_what_sleeps, NULL)), 0);
}

/* What a forked child has of those is closed there too, by a thread of its own. */
static int child_closes(void *arg)
{
        int sv[2], reader = *(int *)arg;
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
        close(reader);
        wh_os_close_theirs(sv[0]);
        char c;
        CHECK_EQ(recv(sv[1], &c, 1, 0), 0);
        return 0;
}

TEST(a_forked_child_closes_by_itself)
{
        int reader, fd = lingering(&reader);
        wh_os_close_theirs(fd);
        pid_t pid = test_fork(child_closes, &reader);
        close(reader);
        CHECK_EQ(test_wait(pid), 0);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
}

/* As many as have a thread each: what is to be closed behind these waits. */
static void stick_all(int *ret_readers, unsigned n)
{
        const uint32_t before = wh_os_closer_taken();
        for (unsigned i = 0; i < n; i++)
                wh_os_close_theirs(lingering(&ret_readers[i]));
        UNTIL(wh_os_closer_taken() - before == (n < 16 ? n : 16));
}

static int child_has_others(void *arg)
{
        (void)arg;
        int mine[64], reader;
        closefrom(3); /* what it inherited, and opens its own under the same numbers */
        for (int i = 0; i < 64; i++)
                CHECK_GE(mine[i] = open("/dev/null", O_RDONLY | O_CLOEXEC), 3);
        int fd = lingering(&reader);
        close(reader);
        wh_os_close_theirs(fd);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
        for (int i = 0; i < 64; i++)
                CHECK_GE(fcntl(mine[i], F_GETFD), 0);
        return 0;
}

/*
 * Goal:   a forked child closes no descriptor of its own that has the number of one that waited in its parent.
 * Method: as many that sleep as there are threads, and some more; a child that begins anew.
 */
TEST(a_forked_child_closes_nothing_that_waited_in_its_parent)
{
        enum { N = 40 };
        int readers[N];
        stick_all(readers, N);
        CHECK_EQ(test_wait(test_fork(child_has_others, NULL)), 0);
        for (int i = 0; i < N; i++)
                close(readers[i]);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
}

/* How many threads this process has; and how many of them take signals. */
static unsigned threads(unsigned *ret_open)
{
        unsigned n = 0;
        DIR *d = opendir("/proc/self/task");
        CHECK(d != NULL);
        *ret_open = 0;
        for (struct dirent *e; (e = readdir(d));) {
                char path[300], line[128];
                snprintf(path, sizeof path, "/proc/self/task/%s/status", e->d_name);
                FILE *f = e->d_name[0] == '.' ? NULL : fopen(path, "re");
                uint64_t blocked = 1;
                while (f && fgets(line, sizeof line, f))
                        if (sscanf(line, "SigBlk:\t%" SCNx64, &blocked) == 1 && !blocked)
                                ++*ret_open;
                n += f != NULL;
                if (f)
                        fclose(f);
        }
        closedir(d);
        return n;
}

/*
 * Goal:   what sleeps in its close keeps nothing else open; however many do, there are a few threads for them, which take
 *         none of the program's signals; and whoever let go of them sees nothing of that.
 * Method: sockets that linger, and behind them one end of a pair, whose other end tells when it is closed.
 */
TEST(what_sleeps_in_its_close_keeps_nothing_else_open)
{
        enum { FEW = 4, MANY = 40, THREADS_MAX = 16 };
        test_need_proc();
        if (TEST_TSAN)
                test_skip("the sanitizer has threads of its own");
        int readers[MANY], sv[2];
        unsigned open, n;
        char c;
        for (int i = 0; i < FEW; i++) {
                int fd = lingering(&readers[i]);
                errno = 77;
                wh_os_close_theirs(fd);
                CHECK_EQ(errno, 77);
        }
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
        wh_os_close_theirs(sv[0]);
        CHECK_EQ(recv(sv[1], &c, 1, 0), 0);
        close(sv[1]);
        for (int i = FEW; i < MANY; i++)
                wh_os_close_theirs(lingering(&readers[i]));
        n = threads(&open);
        CHECK(n > FEW && n <= THREADS_MAX + 1);
        CHECK_EQ(open, 1);
        for (int i = 0; i < MANY; i++)
                close(readers[i]);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
}

/*
 * Goal:   what is never closed holds nobody up who would rather see it closed: but for a tenth of the time.
 * Method: one that sleeps; a message with many ports, whose carriers are read; then one call after another.
 */
TEST(what_is_never_closed_holds_nobody_up)
{
        enum { N = 40, CALLS = 200, MOST_NS = 5000000 };
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        struct wharf_item in[N], out[N];
        wharf_name right, p;
        char got[8];
        int reader;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        for (int i = 0; i < N; i++) {
                CHECK_EQ(wharf_port_new(h.task, NULL, &p), 0);
                out[i] = (struct wharf_item){.kind = WHARF_MOVE_RECEIVE, .name = p};
        }
        stick_all(&reader, 1);
        struct wharf_msg m = MSG(.data = BYTES("many"), .len_bytes = 4, .items = out, .n_items = N);
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
        m = MSG(.data = got, .cap_bytes = sizeof got, .items = in, .cap_items = N);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
        long long waited = 0, began = wh_os_now_ns();
        CHECK(wh_os_closer_catch_up(MOST_NS)); /* it would not, had the receive done so */
        for (int i = 1; i < CALLS; i++)
                waited += wh_os_closer_catch_up(MOST_NS);
        CHECK_LE(waited * MOST_NS * 9, wh_os_now_ns() - began);
        close(reader);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
        hub_close(&h);
}

/*
 * Goal:   what may be the last of a whole file system that was unmounted already, and takes all of it along, is closed by a
 *         thread.
 * Method: whatever can lie in a tmpfs, beside what cannot, counted by what such threads take.
 */
TEST(what_has_its_place_in_a_file_system_is_not_closed_at_once)
{
        enum { FILE_OF_TMPFS, NAMED_PIPE, PIPE, ACCEPTED, BOUND_LATER, MEMORY, SEALED_MEMORY, END, WHATS };
        static const bool at_once[WHATS] = {[SEALED_MEMORY] = true, [END] = true};
        for (int what = 0; what < WHATS; what++) {
                struct sockaddr_un a = {.sun_family = AF_UNIX};
                int fd = -1, sv[2] = {-1, -1}, listener = -1;
                snprintf(a.sun_path, sizeof a.sun_path, "%s/placed", test_dir());
                switch (what) {
                case FILE_OF_TMPFS:
                        fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
                        if (fd < 0)
                                continue;
                        break;
                case NAMED_PIPE:
                        CHECK_EQ(mkfifo(a.sun_path, 0600), 0);
                        fd = open(a.sun_path, O_RDWR | O_CLOEXEC);
                        break;
                case PIPE:
                        CHECK_EQ(pipe2(sv, O_CLOEXEC), 0);
                        fd = sv[0];
                        break;
                case ACCEPTED:
                        listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
                        CHECK_EQ(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
                        CHECK_EQ(listen(listener, 1), 0);
                        sv[1] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
                        CHECK_EQ(connect(sv[1], (struct sockaddr *)&a, sizeof a), 0);
                        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                        break;
                case BOUND_LATER:
                case END:
                        CHECK_EQ(wh_os_socketpair(sv), 0);
                        fd = sv[0];
                        if (what == BOUND_LATER)
                                CHECK_EQ(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
                        break;
                case MEMORY:
                case SEALED_MEMORY:
                        fd = memfd_create("placed", MFD_CLOEXEC | (what == MEMORY ? 0 : MFD_ALLOW_SEALING));
                        if (what == MEMORY) /* its maker forbade all seals, and so a tmpfs has them */
                                CHECK_EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SEAL);
                        break;
                default:
                        break;
                }
                CHECK_GE(fd, 0);
                const uint32_t before = wh_os_closer_taken();
                if (what == ACCEPTED || what == BOUND_LATER || what == END)
                        wh_os_close_end(fd, what == END ? WH_END_SHARED : WH_END_OURS);
                else
                        wh_os_close_theirs(fd);
                CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
                CHECK_EQ(wh_os_closer_taken() - before, at_once[what] ? 0 : 1);
                if (sv[1] >= 0)
                        close(sv[1]);
                if (listener >= 0)
                        close(listener);
                unlink(a.sun_path);
        }
}

/*
 * Goal:   nothing that lies in an end is overlooked, and its close takes no descriptors.
 * Method: an empty datagram with a socket that lingers, where looks begin behind it; then one in an end that is emptied by a
 *         process that has none left.
 */
static int closes_ends(void *arg)
{
        (void)arg;
        enum { LIMIT = 64 };
        for (int short_of = 0; short_of < 2; short_of++) {
                int sv[2], reader, fd = lingering(&reader), behind = 1, used[LIMIT], n = 0;
                CHECK_EQ(wh_os_socketpair(sv), 0);
                send_many(sv[1], "x", (size_t)short_of, fd, 1);
                close(fd);
                if (short_of) {
                        limit_descriptors(LIMIT);
                        while ((used[n] = dup(0)) >= 0)
                                n++;
                } else {
                        CHECK_EQ(setsockopt(sv[0], SOL_SOCKET, SO_PEEK_OFF, &behind, sizeof behind), 0);
                }
                wh_os_close_end(sv[0], short_of ? WH_END_OURS : WH_END_SHARED);
                while (n > 0)
                        close(used[--n]);
                close(reader);
                CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
                close(sv[1]);
        }
        return 0;
}
TEST(nothing_that_lies_in_an_end_is_overlooked)
{
        CHECK_EQ(test_wait(test_fork(closes_ends, NULL)), 0);
}

/* A carrier with the same bytes as `from`, and `fd` in the place of its descriptor `at` of the second datagram. */
static int carrier_with(int from, unsigned at, int fd)
{
        int sv[2], fds[253];
        CHECK_EQ(wh_os_socketpair(sv), 0);
        for (int i = 0;; i++) {
                union {
                        struct cmsghdr align;
                        char space[CMSG_SPACE(sizeof fds)];
                } c;
                char head[64];
                struct iovec iov = {head, sizeof head};
                struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c};
                ssize_t n = recvmsg(from, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
                if (n <= 0)
                        break;
                size_t n_fds = (c.align.cmsg_len - CMSG_LEN(0)) / sizeof(int);
                memcpy(fds, CMSG_DATA(&c.align), n_fds * sizeof(int));
                if (i == 1) {
                        CHECK_LE(at + 1, n_fds);
                        memcpy(CMSG_DATA(&c.align) + at * sizeof(int), &fd, sizeof fd);
                }
                iov.iov_len = (size_t)n;
                m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
                CHECK_EQ(sendmsg(sv[0], &m, 0), n);
                for (size_t k = 0; k < n_fds; k++)
                        close(fds[k]);
        }
        close(sv[0]);
        return sv[1];
}

/*
 * Goal:   nor does it matter in whose place it comes with a port that moves.
 * Method: a true carrier of a link with a lane, and a socket that lingers for each of its descriptors. What lies in the
 *         carrier is another copy of it, as of a file, whose every close may sleep, too: so it is counted who closes.
 */
TEST(no_move_waits_for_the_close_of_what_a_stranger_put_into_it)
{
        enum { SOCKET_AND_LANE = 3 };
        wharf_task *t;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        for (unsigned at = 0; at < SOCKET_AND_LANE; at++) {
                wharf_name p, right, got;
                char c;
                CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &p), 0);
                CHECK_EQ(wharf_right_new(t, p, &right), 0);
                for (int i = 0; i < 100; i++) {
                        CHECK_EQ(wharf_send(t, right, "x", 1, 0), 0);
                        CHECK_EQ(wharf_recv(t, p, &c, 1, NULL, wharf_in_ms(60000)), 1);
                }
                int carrier, reader, fd = lingering(&reader);
                CHECK_EQ(wh_move_pack(t, p, &carrier), 0);
                int forged = carrier_with(carrier, at, fd);
                close(fd);
                const uint32_t before = wh_os_closer_taken();
                CHECK_EQ(carrier_open(t, forged, true, 0, &got), -EPROTO);
                CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
                CHECK_GE(wh_os_closer_taken() - before, 1);
                wh_os_close_theirs(forged);
                wh_move_end(t, p, false);
                CHECK_EQ(wharf_drop(t, right), 0);
                CHECK_EQ(wharf_drop(t, p), 0);
                close(carrier);
                close(reader);
                CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
        }
        wharf_task_close(t);
}

static int stuff_sock = -1, stuff_fd = -1;

/* The owner of the port at the other end takes what is introduced there, and puts something into it at once. */
static int stuff_what_is_introduced(enum wh_os_call call)
{
        struct wh_frame f;
        uint8_t data[WH_COLD_MAX + WH_FDS_MAX];
        int fds[WH_FDS_MAX], sock = stuff_sock;
        struct wh_cred cred;
        if (call != WH_OS_close || sock < 0)
                return 0;
        stuff_sock = -1; /* it reads through the same seam */
        while (wh_frame_recv(sock, &f, data, fds, &cred) > 0)
                for (unsigned i = 0; i < f.n_fds; i++) {
                        if (f.type == WH_FRAME_ADOPT)
                                send_many(fds[i], "", 1, stuff_fd, 1), close(stuff_fd), stuff_fd = -1;
                        close(fds[i]);
                }
        stuff_sock = stuff_fd < 0 ? -1 : sock;
        return 0;
}

/*
 * Goal:   nor does who sends: a right that could not be sent after all goes again, with what its owner has put there.
 * Method: the owner speaks by hand. The port that the message is for has no room.
 */
TEST(no_send_waits_for_the_close_of_what_an_owner_put_into_a_copy)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS, .capacity_records = 1));
        wharf_name to, theirs;
        int sv[2], reader;
        CHECK_EQ(wharf_right_new(h.task, h.port, &to), 0);
        CHECK_EQ(wh_os_socketpair(sv), 0);
        CHECK_EQ(wh_right_from_socket(h.task, sv[0], false, false, &theirs), 0);
        while (wharf_send(h.task, to, "x", 1, 0) == 0)
                ;
        struct wharf_item it = {.kind = WHARF_COPY_SEND, .name = theirs};
        struct wharf_msg m = MSG(.data = BYTES("copy"), .len_bytes = 4, .items = &it, .n_items = 1);
        stuff_fd = lingering(&reader);
        stuff_sock = sv[1];
        wh_os_gate = stuff_what_is_introduced;
        int r = wharf_sendmsg(h.task, to, &m, 0);
        wh_os_gate = NULL;
        CHECK_EQ(r, -EAGAIN);
        CHECK_EQ(stuff_fd, -1);
        close(reader);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
        stuff_sock = -1;
        close(sv[1]);
        hub_close(&h);
}

static wharf_task *greet_task;
static wharf_name greet_right;

/* Another thread has a look at the right that is being moved, as soon as something is sent over `greet_task`. */
static int look_at_what_is_moved(enum wh_os_call call)
{
        if (call == WH_OS_sendmsg && greet_task) {
                wharf_task *t = greet_task;
                greet_task = NULL;
                wh_right_greet(t, greet_right);
        }
        return 0;
}

/*
 * Goal:   a right that went as it is stays whole, though its greeting was read between its being packed and its message
 *         being sent.
 * Method: an unused right is moved on; in the middle its greeting is read.
 */
TEST(a_right_that_is_looked_at_while_it_is_moved_stays_whole)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        wharf_name port, to, right;
        char got[8];
        struct wharf_item it, in;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &to), 0);
        struct wharf_msg m = MSG(.data = got, .cap_bytes = sizeof got, .items = &in, .cap_items = 1);
        for (int i = 0; i < 2; i++) { /* once as it was made, and then as it came */
                it = (struct wharf_item){.kind = i ? WHARF_MOVE_SEND : WHARF_MAKE_SEND, .name = i ? in.name : h.port};
                struct wharf_msg s = MSG(.data = BYTES("to"), .len_bytes = 2, .items = &it, .n_items = 1);
                if (i) {
                        greet_right = it.name;
                        greet_task = h.task;
                        wh_os_gate = look_at_what_is_moved;
                }
                int r = wharf_sendmsg(h.task, to, &s, 0);
                wh_os_gate = NULL;
                CHECK_EQ(r, 0);
                CHECK_EQ(wharf_recvmsg(h.task, port, &m, wharf_in_ms(60000)), 0);
        }
        right = in.name;
        CHECK_EQ(wharf_send(h.task, right, "well", 4, wharf_in_ms(60000)), 0);
        receives(h.task, h.port, "well");
        hub_close(&h);
}

/* Goal: a small memory is closed where it is found, and one whose freeing takes a while by a thread. */
TEST(a_large_memory_is_closed_by_a_thread)
{
        static const uint32_t mib[] = {1, 64};
        for (unsigned i = 0; i < 2; i++) {
                int fd = memfd_create("large", MFD_CLOEXEC | MFD_ALLOW_SEALING);
                CHECK_GE(fd, 0);
                CHECK_EQ(fallocate(fd, 0, 0, (off_t)mib[i] << 20), 0);
                const uint32_t taken = wh_os_closer_taken();
                wh_os_close_theirs(fd);
                CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
                CHECK_EQ(wh_os_closer_taken() - taken, i);
        }
}

/* Goal: nor does a receiver that drops a memory, or gives a payload back, free what its maker has left it with. */
TEST(what_is_given_back_is_freed_by_a_thread)
{
        enum { LARGE = 16 << 20 };
        wharf_task *t;
        wharf_name port, right, memory;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        CHECK_EQ(wharf_memory_new(t, LARGE, &memory), 0);
        struct wharf_item it = {.kind = WHARF_MOVE_MEMORY, .name = memory};
        struct wharf_msg m = MSG(.items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(t, right, &m, 0), 0);
        m = MSG(.items = &it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(t, port, &m, 0), 0);
        CHECK_EQ(it.kind, WHARF_GOT_MEMORY);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
        uint32_t taken = wh_os_closer_taken();
        CHECK_EQ(wharf_drop(t, it.name), 0);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
        CHECK_EQ(wh_os_closer_taken() - taken, 1);

        void *bytes = calloc(1, LARGE);
        m = MSG(.data = bytes, .len_bytes = LARGE, .how = WHARF_HOW_MEMORY);
        CHECK_EQ(wharf_sendmsg(t, right, &m, 0), 0);
        free(bytes);
        m = MSG(.flags = WHARF_RECV_ALLOC);
        CHECK_EQ(wharf_recvmsg(t, port, &m, 0), 0);
        CHECK_EQ(m.how, WHARF_HOW_MEMORY);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
        taken = wh_os_closer_taken();
        wharf_release(t, &m);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
        CHECK_EQ(wh_os_closer_taken() - taken, 1);
        wharf_task_close(t);
}

/* ---- replies ---- */

/*
 * Goal:   nothing of a reply is looked at where there was no call: with it memory may come, and looking through that takes
 *         time.
 * Method: at the end of a right that somebody gives lies a message with memories; the right is used to send.
 */
TEST(nobody_answers_who_has_not_called)
{
        wharf_task *t;
        wharf_name right;
        int sv[2], fds[2];
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wh_os_socketpair(sv), 0);
        fds[0] = fds[1] = memfd_create("beside", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        CHECK_EQ(fchmod(fds[0], 0600), 0);
        CHECK_EQ(pwrite(fds[0], "", 1, 4095), 1);
        CHECK_EQ(fcntl(fds[0], F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
        struct wh_frame f = {
                .type = WH_FRAME_MESSAGE, .to = WH_TO_HOLDER, .n_fds = 2, .call = 1, .arg = WH_MSG_FIRST | WH_MSG_LAST};
        CHECK_EQ(wh_frame_send(sv[1], &f, (uint8_t[]){WH_ITEM_BESIDE, WH_ITEM_BESIDE}, 2, fds, false), 0);
        CHECK_EQ(wh_right_from_socket(t, sv[0], true, false, &right), 0);
        CHECK_EQ(wharf_send(t, right, "x", 1, 0), -EPROTO);
        CHECK_EQ(holder(t, right)->in.items.n, 0);
        close(fds[0]);
        close(sv[1]);
        wharf_task_close(t);
}

/*
 * Goal:   how much memory a reply may bring is the caller's to say, in its payload and beside it.
 * Method: a task that takes 1 MiB; replies of that, and of more.
 */
TEST(a_reply_brings_no_more_than_its_caller_takes)
{
        enum { MIB = 1 << 20 };
        wharf_task *t;
        CHECK_EQ(wharf_task_open(&(struct wharf_task_opts){.size = sizeof(struct wharf_task_opts),
                                                           .reply_bytes_max = ((uint64_t)1 << 40) + 1},
                                 &t),
                 -EINVAL);
        CHECK_EQ(wharf_task_open(
                         &(struct wharf_task_opts){.size = sizeof(struct wharf_task_opts), .reply_bytes_max = MIB}, &t),
                 0);
        void *bytes = calloc(1, MIB + 1);
        for (unsigned how = 0; how < 4; how++) {
                wharf_name port, right, memory;
                uint32_t call;
                CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
                CHECK_EQ(wharf_right_new(t, port, &right), 0);
                CHECK_EQ(wharf_call_start(t, right, &MSG(.data = bytes, .len_bytes = 1), WHARF_NONE, 0, &call), 0);
                struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC);
                CHECK_EQ(wharf_recvmsg(t, port, &m, 0), 0);
                wharf_release(t, &m);
                const size_t len = MIB + (how & 1);
                struct wharf_item it = {.kind = WHARF_MOVE_MEMORY};
                struct wharf_msg reply = MSG(.data = bytes, .len_bytes = len);
                if (how & 2) {
                        CHECK_EQ(wharf_memory_new(t, len, &memory), 0);
                        it.name = memory;
                        reply = MSG(.items = &it, .n_items = 1);
                }
                CHECK_EQ(wharf_replymsg(t, m.reply, &reply), 0);
                m = MSG(.flags = WHARF_RECV_ALLOC, .items = &it, .cap_items = 1);
                CHECK_EQ(wharf_call_finish(t, right, call, &m, wharf_in_ms(60000)), how & 1 ? -EMSGSIZE : 0);
                if (how & 1)
                        CHECK(strstr(wharf_why(), "reply_bytes_max"));
                if (!(how & 1)) {
                        wharf_release(t, &m);
                        if (m.n_items)
                                CHECK_EQ(wharf_drop(t, it.name), 0);
                }
                CHECK_EQ(wharf_drop(t, right), 0);
                CHECK_EQ(wharf_drop(t, port), 0);
        }
        free(bytes);
        wharf_task_close(t);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
}

/* The port and the link of that message's sender, both locked. */
static struct wh_link *sender_of(struct hub *h, const struct wharf_msg *m, struct wh_port **ret)
{
        int err;
        *ret = wh_port_lock(h->task, h->port, &err);
        CHECK(*ret);
        struct wh_link *l = (struct wh_link *)wh_table_find(&h->task->links, (uint32_t)m->sender.id);
        wh_lock(&l->o.lock);
        return l;
}

/* Calls often, and has as many descriptors afterwards as before. */
static int calls_and_counts(void *arg)
{
        wharf_name right;
        char answer[8];
        wharf_task *t = hub_join(arg, &right);
        const unsigned before = count_fds();
        for (unsigned i = 0; i < 4; i++)
                CHECK_EQ(wharf_call(t, right, "q", 1, answer, sizeof answer, wharf_in_ms(60000)), -EOVERFLOW);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
        const unsigned after = count_fds();
        wharf_task_close(t);
        return after > before + 2; /* the lane may have come meanwhile */
}

/*
 * Goal:   a server that sends its caller elsewhere for the reply, begins one there, and then answers right here leaves nothing
 *         in its caller.
 */
TEST(a_reply_that_was_begun_elsewhere_leaves_nothing)
{
        enum { FDS = 64 };
        struct hub h = hub_open(NULL);
        int fds[FDS], null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        uint8_t kinds[FDS];
        memset(kinds, WH_ITEM_FD, sizeof kinds);
        for (unsigned i = 0; i < FDS; i++)
                fds[i] = null;
        pid_t caller = test_fork(calls_and_counts, &h);
        int pair[4][2];
        for (unsigned i = 0; i < 4; i++) {
                struct wh_port *p;
                char c;
                int *sv = pair[i];
                struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
                CHECK_EQ(wh_os_socketpair(sv), 0);
                struct wh_link *l = sender_of(&h, &m, &p);
                const struct wh_reply *y = (const struct wh_reply *)wh_table_find(&h.task->names, m.reply);
                struct wh_frame via = {.type = WH_FRAME_VIA, .n_fds = 1, .call = y->call};
                CHECK_EQ(wh_link_frame(l, &via, NULL, 0, &sv[0], false), 0);
                wh_unlock(&l->o.lock);
                wh_unlock(&p->inbox->lock);
                struct wh_frame part = {
                        .type = WH_FRAME_MESSAGE, .to = WH_TO_ONCE, .n_fds = FDS, .total = 1000, .arg = WH_MSG_FIRST};
                CHECK_EQ(wh_frame_send(sv[1], &part, kinds, sizeof kinds, fds, false), 0);
                while (wh_os_inq(sv[1]) < 0 || poll(&(struct pollfd){.fd = sv[0], .events = POLLIN}, 1, 0) == 1)
                        usleep(1000); /* until it was read */
                struct wharf_item it = {.kind = WHARF_COPY_FD, .fd = null};
                CHECK_EQ(wharf_replymsg(h.task, m.reply,
                                        &MSG(.data = BYTES("answer"), .len_bytes = 6, .items = &it, .n_items = 1)),
                         0);
        }
        CHECK_EQ(test_wait(caller), 0);
        for (unsigned i = 0; i < 8; i++)
                close(pair[i / 2][i % 2]);
        close(null);
        hub_close(&h);
}

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

static int calls_and_takes_no_descriptors(void *arg)
{
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        char c;
        const int no = 0;
        if (setsockopt(holder(t, right)->sock, SOL_SOCKET, SO_PASSRIGHTS, &no, sizeof no) < 0)
                return 77;
        const ssize_t r = wharf_call(t, right, "q", 1, &c, 1, WHARF_FOREVER);
        wharf_task_close(t);
        return r < 0 ? 0 : 1;
}

/*
 * Goal:   a caller that lets nothing in, of which the new owner of a port would need something, keeps nobody from moving it.
 * Method: one that takes no descriptors, as the kernel lets it since 6.16; it loses its link.
 */
TEST(a_caller_keeps_no_port_from_moving)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        pid_t caller = test_fork(calls_and_takes_no_descriptors, &h);
        char c;
        struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
        int r;
        do
                r = wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(50));
        while (r == -ETIMEDOUT && running(caller));
        if (r < 0) {
                CHECK_EQ(test_wait(caller), 77);
                hub_close(&h);
                test_skip("SO_PASSRIGHTS is not there");
        }
        wharf_name box, to;
        CHECK_EQ(wharf_port_new(h.task, NULL, &box), 0);
        CHECK_EQ(wharf_right_new(h.task, box, &to), 0);
        CHECK_EQ(wharf_port_listen(h.task, h.port, -1), 0);
        struct wharf_item it = {.kind = WHARF_MOVE_RECEIVE, .name = h.port};
        CHECK_EQ(wharf_sendmsg(h.task, to, &MSG(.items = &it, .n_items = 1), 0), 0);
        CHECK_EQ(test_wait(caller), 0);
        hub_close(&h);
}

/* A request to wharfd by hand, with an end of a pair as the right that it is about. */
static void ask_about(int sock, const struct wh_names_request *req, int end)
{
        uint8_t buf[1 + WH_NAMES_REQUEST_MAX] = {WH_ITEM_SEND};
        const size_t len = 1 + wh_names_put_request(req, buf + 1);
        struct wh_frame m = {.type = WH_FRAME_MESSAGE,
                             .to = WH_TO_OWNER,
                             .n_fds = 1,
                             .call = 1,
                             .total = len - 1,
                             .arg = WH_MSG_FIRST | WH_MSG_LAST};
        CHECK_EQ(wh_frame_send(sock, &m, buf, len, &end, true), 0);
}

/*
 * Goal:   nor does wharfd wait for the close of what a client sent, and its keeper neither.
 * Method: a socket that lingers, as the page of a task, as something that nobody asked for, and in the pair of a right that is
 *         registered and dropped; then somebody else's requests.
 */
TEST(wharfd_waits_for_no_close_of_what_a_client_sent)
{
        const char *dir = test_domain();
        wharf_task *t, *liar;
        wharf_name p, right, found;
        int readers[3];
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_task_open(NULL, &liar), 0);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &p), 0);
        CHECK_EQ(wharf_register(t, "here", p), 0);
        CHECK_EQ(wh_domain_connect(liar, dir, true, true, WH_NEVER, &right), 0);
        for (int i = 0; i < 2; i++) {
                struct wh_names_request req = {.op = WH_NAMES_LOOKUP, .name = "here", .flags = i ? 0 : WH_NAMES_PAGE};
                uint8_t buf[WH_NAMES_REQUEST_MAX], answer[512];
                struct wharf_item item = {.kind = WHARF_MOVE_FD, .fd = lingering(&readers[i])}, got[2];
                struct wharf_msg m =
                        MSG(.data = buf, .len_bytes = wh_names_put_request(&req, buf), .items = &item, .n_items = 1);
                struct wharf_msg r = MSG(.data = answer, .cap_bytes = sizeof answer, .items = got, .cap_items = 2);
                CHECK_EQ(wharf_callmsg(liar, right, &m, &r, wharf_in_ms(60000)), 0);
                if (r.n_items)
                        CHECK_EQ(wharf_drop(liar, got[0].name), 0);
                CHECK_EQ(wharf_lookup(t, "here", wharf_in_ms(60000), &found), 0);
                CHECK_EQ(wharf_drop(t, found), 0);
        }
        /* A pair, at whose holder's end it lies: that end is wharfd's, and its keeper's. */
        int sv[2], fd = lingering(&readers[2]);
        CHECK_EQ(wh_os_socketpair(sv), 0);
        struct wh_names_request req = {.op = WH_NAMES_REGISTER, .name = "there", .cookie = {{1, 2}}};
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        CHECK_EQ(wh_domain_socket_path(dir, sa.sun_path), 0);
        int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        CHECK_EQ(connect(sock, (struct sockaddr *)&sa, sizeof sa), 0);
        ask_about(sock, &req, sv[0]);
        CHECK_EQ(wharf_lookup(t, "there", wharf_in_ms(60000), &found), 0);
        CHECK_EQ(wharf_drop(t, found), 0);
        close(sv[0]);
        struct wh_frame f = {.magic = WH_FRAME_MAGIC,
                             .version = WH_FRAME_VERSION,
                             .type = WH_FRAME_ADOPT,
                             .to = WH_TO_OWNER,
                             .n_fds = 1};
        send_many(sv[1], &f, sizeof f, fd, 1);
        wh_os_close_theirs(fd); /* it may be the last one by now */
        close(sv[1]);           /* so the name goes, and with it that end */
        CHECK_EQ(wharf_lookup(t, "here", wharf_in_ms(60000), &found), 0);
        while (wharf_lookup(t, "there", 0, &right) != -ENOENT)
                ;
        pid_t server = test_find_wharfd(dir, true);
        kill(server, SIGKILL); /* so its keeper is asked, which had that end, too */
        CHECK_EQ(wharf_drop(t, found), 0);
        CHECK_EQ(wharf_lookup(t, "here", wharf_in_ms(60000), &found), 0);
        close(sock);
        wharf_task_close(liar);
        wharf_task_close(t);
        for (int i = 0; i < 3; i++)
                close(readers[i]);
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
}

/*
 * Goal:   a name, or a watch, whose right leads to wharfd itself goes by itself, so it does not outlive its user.
 * Method: by hand; a connection to wharfd, and the other end of a pair that wharfd was given as an owner; then others'
 *         requests, and wharfd's descriptors.
 */
TEST(a_name_that_leads_to_wharfd_itself_goes)
{
        const char *dir = test_domain();
        wharf_task *t;
        wharf_name p, found;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &p), 0);
        CHECK_EQ(wharf_register(t, "here", p), 0);
        const pid_t server = test_find_wharfd(dir, true);
        const int before = test_descriptors_of(server);
        for (unsigned how = 0; how < 8; how++) {
                struct sockaddr_un sa = {.sun_family = AF_UNIX};
                int sock[2], sv[2];
                CHECK_EQ(wh_domain_socket_path(dir, sa.sun_path), 0);
                for (int i = 0; i < 2; i++) {
                        sock[i] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
                        CHECK_EQ(connect(sock[i], (struct sockaddr *)&sa, sizeof sa), 0);
                }
                CHECK_EQ(wh_os_socketpair(sv), 0);
                struct wh_frame adopt = {.type = WH_FRAME_ADOPT, .to = WH_TO_OWNER, .n_fds = 1};
                if (how & 1)
                        CHECK_EQ(wh_frame_send(sock[0], &adopt, NULL, 0, &sv[0], true), 0);
                const int itself = how & 1 ? sv[1] : sock[1];
                if (how & 4) { /* its own greeting would tell it, and somebody has taken that out */
                        char greeting[256];
                        struct pollfd there = {.fd = itself, .events = POLLIN};
                        CHECK_EQ(poll(&there, 1, 60000), 1);
                        CHECK(recv(itself, greeting, sizeof greeting, MSG_DONTWAIT) > 0);
                }
                struct wh_names_request req = {
                        .op = how & 2 ? WH_NAMES_WATCH : WH_NAMES_REGISTER, .name = "itself", .cookie = {{1, 2}}};
                ask_about(sock[0], &req, itself);
                CHECK_EQ(wharf_lookup(t, "here", wharf_in_ms(60000), &found), 0);
                CHECK_EQ(wharf_drop(t, found), 0);
                for (int i = 0; i < 2; i++) {
                        close(sock[i]);
                        close(sv[i]);
                }
                UNTIL(test_descriptors_of(server) <= before); /* a look-up would use it */
                CHECK_EQ(wharf_lookup(t, "itself", 0, &found), -ENOENT);
        }
        wharf_task_close(t);
        UNTIL(!test_find_wharfd(dir, false) && !test_find_wharfd(dir, true));
}

/* ---- what was only looked at ---- */

/*
 * Goal:   nothing that was looked at has effect unless it is what is then taken: an introducer that kept the owner's end
 *         cannot have the owner read the payload of a message as if it were a frame.
 * Method: it asks, through its copy, for looks that begin behind the head of a message (SO_PEEK_OFF), whose payload is
 *         a whole frame.
 */
TEST(what_was_peeked_has_no_effect_unless_it_is_what_is_taken)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        wharf_name good, introducer;
        int sv[2], off = sizeof(struct wh_frame);
        struct {
                struct wh_frame f;
                char text[8];
        } inner = {.f = {.magic = WH_FRAME_MAGIC,
                         .version = WH_FRAME_VERSION,
                         .type = WH_FRAME_MESSAGE,
                         .to = WH_TO_OWNER,
                         .total = 8,
                         .id = 666,
                         .arg = WH_MSG_FIRST | WH_MSG_LAST,
                         .len = 8},
                   .text = "open it"};
        CHECK_EQ(wharf_right_new(h.task, h.port, &good), 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &introducer), 0);
        CHECK_EQ(wh_os_socketpair(sv), 0);
        introduce_by_hand(holder(h.task, introducer)->sock, sv[0]);
        CHECK_EQ(setsockopt(sv[0], SOL_SOCKET, SO_PEEK_OFF, &off, sizeof off), 0);
        struct wh_frame f = {
                .type = WH_FRAME_MESSAGE, .to = WH_TO_OWNER, .total = sizeof inner, .arg = WH_MSG_FIRST | WH_MSG_LAST};
        CHECK_EQ(wh_frame_send(sv[1], &f, &inner, sizeof inner, NULL, false), 0);
        char got[256];
        struct wharf_msg m = MSG(.data = got, .cap_bytes = sizeof got);
        CHECK_EQ(wharf_send(h.task, good, "well", 4, 0), 0);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(m.id, 0);
        CHECK_MEM(got, "well", 4);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
        CHECK_EQ(senders(h.task, h.port), 2); /* the link of that pair has ended */
        close(sv[0]);
        close(sv[1]);
        hub_close(&h);
}

/* ---- pairs that nobody outside can use ---- */

/*
 * Goal:   a pair with an owner at each end ends, wherever these are and however the second one came; the right of a task
 *         to its own port stays.
 * Method: by hand; as two introductions, at one port, at two, and at two tasks, and with the second as the pair of a
 *         REBIND.
 */
TEST(a_pair_with_an_owner_at_each_end_ends)
{
        enum { ONE_PORT, TWO_PORTS, TWO_TASKS, REBOUND, HOWS };
        for (int how = 0; how < HOWS; how++) {
                struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
                wharf_task *other = h.task;
                wharf_name good, bad, port, bad_there;
                char got[8];
                if (how == TWO_TASKS)
                        CHECK_EQ(wharf_task_open(NULL, &other), 0);
                CHECK_EQ(wharf_port_new(other, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
                CHECK_EQ(wharf_right_new(h.task, h.port, &good), 0);
                CHECK_EQ(wharf_right_new(h.task, h.port, &bad), 0);
                CHECK_EQ(wharf_right_new(other, port, &bad_there), 0);
                unsigned before = count_fds();
                for (int i = 0; i < 50; i++) {
                        int sv[2];
                        CHECK_EQ(wh_os_socketpair(sv), 0);
                        for (int k = 0; k < 2; k++) {
                                const bool there = (how == TWO_PORTS || how == TWO_TASKS) && k;
                                const bool rebind = how == REBOUND && k;
                                struct wh_link *l = there ? holder(other, bad_there) : holder(h.task, bad);
                                struct wh_frame f = {.type = rebind ? WH_FRAME_REBIND : WH_FRAME_ADOPT,
                                                     .to = WH_TO_OWNER,
                                                     .n_fds = 1};
                                int mine[2];
                                if (!rebind) {
                                        CHECK_EQ(wh_frame_send(l->sock, &f, NULL, 0, &sv[k], false), 0);
                                } else { /* a further link, whose holder says that this is its pair now */
                                        struct wh_frame adopt = {.type = WH_FRAME_ADOPT, .to = WH_TO_OWNER, .n_fds = 1};
                                        CHECK_EQ(wh_os_socketpair(mine), 0);
                                        CHECK_EQ(wh_frame_send(l->sock, &adopt, NULL, 0, &mine[0], false), 0);
                                        CHECK_EQ(wh_frame_send(mine[1], &f, &for_any, sizeof for_any, &sv[k], true), 0);
                                        close(mine[0]);
                                        close(mine[1]);
                                }
                                int r = there ? wharf_recv(other, port, got, sizeof got, NULL, 0)
                                              : wharf_recv(h.task, h.port, got, sizeof got, NULL, 0);
                                CHECK_EQ(r, -EAGAIN);
                        }
                        close(sv[0]);
                        close(sv[1]);
                }
                for (int i = 0; i < 3; i++) {
                        CHECK_EQ(wharf_recv(other, port, got, sizeof got, NULL, 0), -EAGAIN);
                        CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, 0), -EAGAIN);
                }
                CHECK_EQ(senders(h.task, h.port), 2);
                CHECK_EQ(senders(other, port), 1);
                CHECK_EQ(count_fds(), before);
                CHECK_EQ(wharf_send(h.task, good, "well", 4, wharf_in_ms(60000)), 0);
                receives(h.task, h.port, "well");
                if (other != h.task)
                        wharf_task_close(other);
                hub_close(&h);
        }
}

/*
 * Goal:   a pair with an owner at each end ends although a copy of each has us look behind all that lies there.
 * Method: by hand, at two tasks; the offset is set before the pair is introduced, and again after it was.
 */
TEST(what_is_hidden_in_an_end_is_found)
{
        for (int again = 0; again < 2; again++) {
                struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
                wharf_task *other;
                wharf_name bad, port, bad_there;
                const int behind = 2048;
                char got[8];
                int sv[2];
                CHECK_EQ(wharf_task_open(NULL, &other), 0);
                CHECK_EQ(wharf_port_new(other, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
                CHECK_EQ(wharf_right_new(h.task, h.port, &bad), 0);
                CHECK_EQ(wharf_right_new(other, port, &bad_there), 0);
                const unsigned before = count_fds();
                CHECK_EQ(wh_os_socketpair(sv), 0);
                for (int k = 0; k < 2; k++)
                        CHECK_EQ(setsockopt(sv[k], SOL_SOCKET, SO_PEEK_OFF, &behind, sizeof behind), 0);
                struct wh_frame f = {.type = WH_FRAME_ADOPT, .to = WH_TO_OWNER, .n_fds = 1};
                CHECK_EQ(wh_frame_send(holder(h.task, bad)->sock, &f, NULL, 0, &sv[0], false), 0);
                CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, 0), -EAGAIN);
                f = (struct wh_frame){.type = WH_FRAME_ADOPT, .to = WH_TO_OWNER, .n_fds = 1};
                CHECK_EQ(wh_frame_send(holder(other, bad_there)->sock, &f, NULL, 0, &sv[1], false), 0);
                for (int k = 0; again && k < 2; k++)
                        CHECK_EQ(setsockopt(sv[k], SOL_SOCKET, SO_PEEK_OFF, &behind, sizeof behind), 0);
                close(sv[0]);
                close(sv[1]);
                for (int i = 0; i < 3; i++) {
                        CHECK_EQ(wharf_recv(other, port, got, sizeof got, NULL, 0), -EAGAIN);
                        CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, 0), -EAGAIN);
                }
                CHECK_EQ(senders(h.task, h.port), 1);
                CHECK_EQ(senders(other, port), 1);
                CHECK_EQ(count_fds(), before);
                wharf_task_close(other);
                hub_close(&h);
        }
}

/* `text` as the first message of a link. */
static void message_by_hand(int sock, const char *text)
{
        struct wh_frame f = {
                .type = WH_FRAME_MESSAGE, .to = WH_TO_OWNER, .total = strlen(text), .arg = WH_MSG_FIRST | WH_MSG_LAST};
        CHECK_EQ(wh_frame_send(sock, &f, text, strlen(text), NULL, false), 0);
}

/*
 * Goal:   the queue of an introducer that is gone ends, though what would make room for the one who waits lies behind it:
 *         all is received that was acknowledged, and no link stays.
 * Method: by hand; copies of one end and then the other; pairs, one message in each, and then all their other ends; the same
 *         where the limit is that of the introducer; and through a chain of such introducers.
 */
TEST(nobody_waits_for_what_lies_behind_in_the_same_queue)
{
        enum { COPIES, PAIRS, CHAIN, WAYS, N = 12 };
        for (int how = 0; how < 2 * WAYS; how++) {
                const int way = how / 2;
                struct hub h = hub_open(NULL);
                wharf_name port, bad, good;
                int sv[N][2];
                unsigned sent = 0, got = 0;
                char c;
                CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.links_max = how % 2 ? 64 : 4, .introduced_max = 3), &port),
                         0);
                CHECK_EQ(wharf_right_new(h.task, port, &bad), 0);
                CHECK_EQ(wharf_right_new(h.task, port, &good), 0);
                const unsigned before = count_fds();
                for (int i = 0; i < N; i++)
                        CHECK_EQ(wh_os_socketpair(sv[i]), 0);
                for (int i = 0; i < N; i++) {
                        const int over = way == CHAIN && i ? sv[i - 1][1] : holder(h.task, bad)->sock;
                        if (way != COPIES) {
                                message_by_hand(sv[i][1], "x");
                                sent++;
                        }
                        introduce_by_hand(over, sv[way == COPIES ? 0 : i][0]);
                }
                for (int i = 0; i < (way == COPIES ? 1 : N); i++)
                        introduce_by_hand(holder(h.task, bad)->sock, sv[i][1]);
                for (int i = 0; i < N; i++) {
                        close(sv[i][0]);
                        close(sv[i][1]);
                }
                CHECK_EQ(wharf_drop(h.task, bad), 0);
                for (int i = 0; i < 100; i++)
                        got += wharf_recv(h.task, port, &c, 1, NULL, 0) == 1;
                CHECK_LE(got, sent); /* the greeting of the other end may end one before it is read */
                CHECK_EQ(senders(h.task, port), 1);
                CHECK_LE(count_fds(), before);
                for (char i = 'a'; i < 'd'; i++) { /* and the places are there */
                        CHECK_EQ(wharf_right_copy(h.task, good, 0, &bad), 0);
                        CHECK_EQ(wharf_send(h.task, bad, &i, 1, 0), 0);
                        CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, wharf_in_ms(20000)), 1);
                        CHECK_EQ(c, i);
                }
                hub_close(&h);
        }
}

/*
 * Goal:   whoever says that it is gone and goes on in its lane is heard for as long as that ring can have been full.
 * Method: a sender that ends its half of the socket, and sends a message behind each that is received.
 */
TEST(a_lane_ends_with_its_socket)
{
        enum { LINES = 128 };
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        wharf_name bad;
        struct wh_lane_tx *lane;
        CHECK_EQ(wharf_right_new(h.task, h.port, &bad), 0);
        const int sock = holder(h.task, bad)->sock;
        CHECK_EQ(wh_lane_tx_new(LINES * WH_LINE, LINES, &lane), 0);
        struct wh_frame f = {.type = WH_FRAME_ATTACH, .to = WH_TO_OWNER, .n_fds = 2};
        CHECK_EQ(wh_frame_send(sock, &f, NULL, 0, (int[]){lane->out_fd, lane->back_fd}, false), 0);
        unsigned n = 0, sent = 0;
        char buf[64];
        for (; wh_ring_reserve(&lane->ring, 48); sent++)
                wh_ring_publish(&lane->ring, WH_REC_PLAIN, 48);
        CHECK_GE(sent, 64);
        CHECK_EQ(shutdown(sock, SHUT_WR), 0);
        while (n < 10 * LINES && wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 0) == 48) {
                n++;
                wh_ring_refresh(&lane->ring);
                if (wh_ring_reserve(&lane->ring, 48))
                        wh_ring_publish(&lane->ring, WH_REC_PLAIN, 48);
        }
        CHECK_GE(n, sent); /* all that was there */
        CHECK_LE(n, 2 * LINES);
        CHECK_EQ(senders(h.task, h.port), 0);
        wh_lane_tx_free(lane);
        hub_close(&h);
}

/*
 * Goal:   so does one whose first owner has a lane, in which nobody announces what the second one says.
 * Method: by hand; the greeting is read before the other end is introduced, so that the second owner finds nothing.
 */
TEST(a_lane_hides_no_second_owner)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        wharf_name bad;
        char got[256];
        struct wh_lane_tx *lane;
        int sv[2];
        CHECK_EQ(wharf_right_new(h.task, h.port, &bad), 0);
        unsigned before = count_fds();
        CHECK_EQ(wh_os_socketpair(sv), 0);
        CHECK_EQ(wh_lane_tx_new(128 * WH_LINE, 128, &lane), 0);
        for (int k = 0; k < 2; k++) {
                struct wh_frame adopt = {.type = WH_FRAME_ADOPT, .to = WH_TO_OWNER, .n_fds = 1};
                struct wh_frame attach = {.type = WH_FRAME_ATTACH, .to = WH_TO_OWNER, .n_fds = 2};
                CHECK_EQ(wh_frame_send(holder(h.task, bad)->sock, &adopt, NULL, 0, &sv[k], false), 0);
                CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, 0), -EAGAIN);
                if (k)
                        break;
                CHECK_GE(recv(sv[1], got, sizeof got, MSG_DONTWAIT), (ssize_t)sizeof(struct wh_frame));
                CHECK_EQ(wh_frame_send(sv[1], &attach, NULL, 0, (int[]){lane->out_fd, lane->back_fd}, false), 0);
                CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, 0), -EAGAIN);
                CHECK_EQ(senders(h.task, h.port), 2);
        }
        close(sv[0]);
        close(sv[1]);
        wh_lane_tx_free(lane);
        for (int i = 0; i < 3; i++)
                CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, 0), -EAGAIN);
        CHECK_EQ(senders(h.task, h.port), 1);
        CHECK_EQ(count_fds(), before);
        hub_close(&h);
}

/* ---- floods ---- */

static int flood_sock = -1;
static unsigned flood_reads, flood_most;

/* Whenever somebody reads there is one frame more: no sender is faster. */
static int flood_as_it_is_read(enum wh_os_call call)
{
        if (call != WH_OS_recvmsg || flood_sock < 0)
                return 0;
        struct wh_frame f = {.type = WH_FRAME_REFUSE, .to = WH_TO_HOLDER, .arg = EDQUOT};
        int sock = flood_sock;
        flood_sock = -1; /* it sends through the same seam */
        if (++flood_reads < flood_most)
                wh_frame_send(sock, &f, NULL, 0, NULL, false);
        flood_sock = sock;
        return 0;
}

/*
 * Goal:   a holder whose right's other end sends frames without end returns all the same, from each call there is.
 * Method: a frame is there whenever one was read. The calls are such as may not wait, or have a deadline that is past.
 */
TEST(a_flood_of_frames_ends_no_call_of_a_holder_late)
{
        enum { MOST = 200000, A_CALL = 4 * WH_BUDGET / WH_COST_FRAME * 2 };
        for (int how = 0; how < 4; how++) {
                wharf_task *t;
                wharf_name right, copy;
                uint32_t call;
                int sv[2];
                char c;
                struct wharf_msg m = MSG(.data = BYTES("?"), .len_bytes = 1), a = MSG(.data = &c, .cap_bytes = 1);
                struct wh_hello hello = {.port_id = 1, .payload_bytes_max = 1 << 20, .capacity_records = 16};
                CHECK_EQ(wharf_task_open(NULL, &t), 0);
                CHECK_EQ(wh_os_socketpair(sv), 0);
                CHECK_EQ(wh_right_from_socket(t, sv[0], how != 1, false, &right), 0);
                if (how == 1) { /* a call is outstanding before the flood begins */
                        struct wh_frame f = {.type = WH_FRAME_HELLO};
                        CHECK_EQ(wh_frame_greet(sv[1], &f, &hello), 0);
                        CHECK_EQ(wharf_call_start(t, right, &m, WHARF_NONE, 0, &call), 0);
                }
                struct wh_frame f = {.type = WH_FRAME_REFUSE, .to = WH_TO_HOLDER, .arg = EDQUOT};
                CHECK_EQ(wh_frame_send(sv[1], &f, NULL, 0, NULL, false), 0);
                flood_reads = 0;
                flood_most = MOST;
                flood_sock = sv[1];
                wh_os_gate = flood_as_it_is_read;
                int r = how == 0   ? wharf_send(t, right, "x", 1, 0)
                        : how == 1 ? wharf_call_finish(t, right, call, &a, 1)
                        : how == 2 ? wharf_right_copy(t, right, 1, &copy)
                                   : wharf_right_same(t, right, right, 1);
                wh_os_gate = NULL;
                flood_sock = -1;
                CHECK_LE(r, -1);
                CHECK_GE(flood_reads, 1);
                CHECK_LE(flood_reads, A_CALL);
                close(sv[1]);
                wharf_task_close(t);
        }
}

/*
 * Goal:   records that are no messages, as many as a ring holds, keep no receive: it takes its budget of them and returns.
 * Method: a ring of 65536 of them.
 */
TEST(a_flood_of_records_ends_no_receive_late)
{
        enum { LINES = 65536, N = LINES - 16 };
        static const enum wh_rec_kind kinds[] = {WH_REC_ABORT, WH_REC_PIECE};
        for (unsigned k = 0; k < 2; k++) {
                struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
                wharf_name right, good;
                struct wh_lane_tx *lane;
                char got[8];
                struct {
                        struct wh_rec_ext ext;
                        uint64_t total;
                        uint8_t byte;
                } __attribute__((packed)) piece = {.total = 1 << 20};
                CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
                CHECK_EQ(wharf_right_new(h.task, h.port, &good), 0);
                CHECK_EQ(wh_lane_tx_new(LINES * WH_LINE, LINES, &lane), 0);
                struct wh_frame f = {.type = WH_FRAME_ATTACH, .to = WH_TO_OWNER, .n_fds = 2};
                CHECK_EQ(wh_frame_send(holder(h.task, right)->sock, &f, NULL, 0, (int[]){lane->out_fd, lane->back_fd},
                                       false),
                         0);
                for (int i = 0; i < N; i++) {
                        uint32_t len = kinds[k] == WH_REC_PIECE ? sizeof piece : sizeof piece.ext;
                        void *at = wh_ring_reserve(&lane->ring, len);
                        CHECK(at);
                        memcpy(at, &piece, len);
                        wh_ring_publish(&lane->ring, kinds[k], len);
                }
                /* One that may not wait looks a few times; an honest sender has its turn between. */
                CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, 0), -EAGAIN);
                CHECK_GE(atomic_load(&lane->ring.back->taken_records), 1);
                CHECK_LE(atomic_load(&lane->ring.back->taken_records), 8 * WH_BUDGET_TURN);
                CHECK_EQ(wharf_send(h.task, good, "well", 4, 0), 0);
                receives(h.task, h.port, "well");
                CHECK_LE(atomic_load(&lane->ring.back->taken_records), 16 * WH_BUDGET_TURN);
                wh_lane_tx_free(lane);
                hub_close(&h);
        }
}

/* ---- in the middle of a record ---- */

/*
 * Goal:   a change of pairs cannot take the lane away from under the record that is being read.
 * Method: a record whose block lies in a section that was never sent, with a REBIND in the socket that says that the
 *         lane ends with that very record.
 */
TEST(a_pair_made_in_the_middle_of_a_record_ends_the_link)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        wharf_name bad, good;
        int sv[2];
        char got[8];
        CHECK_EQ(wharf_right_new(h.task, h.port, &good), 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &bad), 0);
        struct wharf_msg m = MSG(.how = WHARF_HOW_INLINE, .data = BYTES("a"), .len_bytes = 1);
        CHECK_EQ(wharf_sendmsg(h.task, bad, &m, 0), 0);
        receives(h.task, h.port, "a");
        struct wh_link *l = holder(h.task, bad);
        struct {
                struct wh_rec_ext ext;
                struct wh_rec_block block;
        } rec = {.block = {.section = 1, .len = 1, .total = 1}};
        CHECK_EQ(wh_os_socketpair(sv), 0);
        struct wh_frame f = {.type = WH_FRAME_REBIND,
                             .to = WH_TO_OWNER,
                             .n_fds = 1,
                             .seq = l->out.seq,
                             .arg = WH_CHANGE_LANE,
                             .total = l->out.lane->ring.records};
        CHECK_EQ(wh_link_frame(l, &f, &for_any, sizeof for_any, &sv[1], true), 0);
        void *at = wh_ring_reserve(&l->out.lane->ring, sizeof rec);
        CHECK(at);
        memcpy(at, &rec, sizeof rec);
        wh_ring_publish(&l->out.lane->ring, WH_REC_BLOCK, sizeof rec);
        wh_frame_bell(l->sock);
        CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, wharf_in_ms(10)), -ETIMEDOUT);
        CHECK_EQ(senders(h.task, h.port), 1);
        CHECK_EQ(wharf_send(h.task, good, "well", 4, 0), 0);
        receives(h.task, h.port, "well");
        close(sv[0]);
        close(sv[1]);
        hub_close(&h);
}

/*
 * Goal:   of a dead sender whose call is not answered yet nothing stays open, also where it was changing its pair.
 * Method: by hand; one call, and then a pair with a count that is not so, which ends the link. The answer comes later.
 */
TEST(a_pair_that_was_never_gone_over_to_goes_with_its_link)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        char c;
        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), -EAGAIN);
        int s = connect_by_hand(&h);
        int sv[2];
        CHECK_EQ(wh_os_socketpair(sv), 0);
        struct wh_frame f = {
                .type = WH_FRAME_MESSAGE, .to = WH_TO_OWNER, .total = 1, .call = 1, .arg = WH_MSG_FIRST | WH_MSG_LAST};
        struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
        CHECK_EQ(wh_frame_send(s, &f, "?", 1, NULL, false), 0);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
        CHECK(m.reply != WHARF_NONE);
        const unsigned before = count_fds();
        f = (struct wh_frame){.type = WH_FRAME_REBIND, .to = WH_TO_OWNER, .n_fds = 1, .seq = 999};
        CHECK_EQ(wh_frame_send(s, &f, &for_any, sizeof for_any, &sv[1], false), 0);
        for (int i = 0; i < 4; i++)
                CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), -EAGAIN);
        CHECK_EQ(senders(h.task, h.port), 0);
        CHECK_EQ(count_fds(), before - 1); /* the link's own */
        CHECK_EQ(wharf_reply(h.task, m.reply, "!", 1), -EPIPE);
        close(s);
        close(sv[0]);
        close(sv[1]);
        hub_close(&h);
}

struct taker {
        struct hub *hub;
        struct stage ready, over;
        unsigned n;
        struct rlimit fds; /* what it may have itself */
};

/* A hub of a task that may have so many descriptors, of which it has its shares; *ret_was is what this process may have. */
static struct hub hub_of_few(rlim_t fds, struct rlimit *ret_was)
{
        struct rlimit l;
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, ret_was), 0);
        l = *ret_was;
        l.rlim_cur = fds;
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &l), 0);
        return hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
}

static int has_many_lanes(void *arg)
{
        struct taker *k = arg;
        static char large[40000];
        wharf_task *t;
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &k->fds), 0);
        become_another();
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        for (unsigned i = 0; i < k->n; i++) {
                wharf_name right;
                if (wharf_right_connect(t, k->hub->path, &right) < 0)
                        break;
                for (int j = 0; j < 40; j++)
                        if (wharf_send(t, right, large, j < 38 ? 1 : sizeof large, wharf_in_ms(2000)) < 0)
                                break;
        }
        stage_reach(&k->ready);
        stage_await(&k->over);
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   what a port keeps of lanes, to be able to move, is its senders' to pay: one user with many of them leaves descriptors.
 * Method: as another user, 60 links with a lane and a section, of a task of 256 descriptors; then the port moves, to a task
 *         that gets it, and nobody else is disturbed.
 */
TEST(lanes_of_one_user_leave_descriptors_for_others)
{
        enum { N = 60, ALL = 256 };
        if (geteuid() != 0)
                test_skip("another user is needed");
        struct rlimit was;
        struct hub h = hub_of_few(ALL, &was);
        struct taker k = {.hub = &h, .ready = stage_new(), .over = stage_new(), .n = N, .fds = was};
        pid_t pid = test_fork(has_many_lanes, &k);
        static char text[40000];
        struct pollfd p = {.fd = k.ready.fd[0], .events = POLLIN};
        unsigned got = 0;
        while (poll(&p, 1, 0) == 0)
                got += wharf_recv(h.task, h.port, text, sizeof text, NULL, wharf_in_ms(20)) > 0;
        CHECK_GE(got, N * 30);
        CHECK_LE(count_fds(), ALL * 3 / 4);
        wharf_name right;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        CHECK_EQ(wharf_send(h.task, right, "x", 1, WHARF_FOREVER), 0);
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &was), 0);
        stage_reach(&k.over);
        CHECK_EQ(test_wait(pid), 0);
        stage_done(&k.ready);
        stage_done(&k.over);
        hub_close(&h);
}

static int asks_by_once_rights(void *arg)
{
        struct taker *k = arg;
        wharf_task *t;
        wharf_name right, mine;
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &k->fds), 0);
        become_another();
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_right_connect(t, k->hub->path, &right), 0);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &mine), 0);
        for (unsigned i = 0; i < k->n; i++) {
                struct wharf_item it = {.kind = WHARF_MAKE_ONCE, .name = mine};
                int e;
                while ((e = wharf_sendmsg(t, right, &MSG(.items = &it, .n_items = 1), wharf_in_ms(60000))) ==
                       -ETOOMANYREFS)
                        usleep(1000); /* that many are unread */
                CHECK_EQ(e, 0);
        }
        stage_await(&k->over);
        for (unsigned got = 0; got < 2;) { /* then it reads some of what it was sent */
                struct wharf_item it;
                got += wharf_recvmsg(t, mine, &MSG(.items = &it, .cap_items = 1), wharf_in_ms(60000)) == 0;
        }
        stage_reach(&k->ready);
        pause();
        return 0;
}

/*
 * Goal:   what is sent over send-once rights, and lies unread, is charged to whoever gave them, as answers to calls are; and
 *         given back when it was read, or its reader is gone.
 * Method: another user gives more of them than a task of 256 descriptors lets it have answers with a descriptor.
 */
TEST(answers_over_send_once_rights_are_their_givers_to_pay)
{
        enum { N = 100, ALL = 256, MOST = 72 };
        if (geteuid() != 0)
                test_skip("another user is needed");
        struct rlimit was;
        struct hub h = hub_of_few(ALL, &was);
        struct taker k = {.hub = &h, .ready = stage_new(), .over = stage_new(), .n = N, .fds = was};
        pid_t pid = test_fork(asks_by_once_rights, &k);
        unsigned good = 0, refused = 0;
        wharf_name last = WHARF_NONE;
        for (unsigned i = 0; i < N; i++) {
                struct wharf_item got, fd = {.kind = WHARF_COPY_FD, .fd = 0};
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &MSG(.items = &got, .cap_items = 1), wharf_in_ms(60000)), 0);
                int r = wharf_replymsg(h.task, got.name, &MSG(.items = &fd, .n_items = 1));
                good += r == 0;
                refused += r == -ETOOMANYREFS;
                if (r == -ETOOMANYREFS && last == WHARF_NONE)
                        last = got.name;
                else if (r < 0)
                        wharf_drop(h.task, got.name);
        }
        CHECK_EQ(good + refused, N);
        CHECK_LE(good, MOST);
        CHECK_GE(refused, 1);
        stage_reach(&k.over);
        stage_await(&k.ready);
        struct wharf_item fd = {.kind = WHARF_COPY_FD, .fd = 0};
        int r = -ETOOMANYREFS;
        for (int i = 0; i < 1000 && r == -ETOOMANYREFS; i++) {
                CHECK_EQ(wharf_recv(h.task, h.port, NULL, 0, NULL, wharf_in_ms(5)),
                         -ETIMEDOUT); /* hears what was read */
                r = wharf_replymsg(h.task, last, &MSG(.items = &fd, .n_items = 1));
        }
        CHECK_EQ(r, 0);
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &was), 0);
        kill_hard(pid);
        stage_done(&k.ready);
        stage_done(&k.over);
        hub_close(&h);
}

/* ---- what comes before its time ---- */

static const struct wh_hello by_hand = {.port_id = 7,
                                        .payload_bytes_max = 1 << 20,
                                        .link_mapped_bytes_max = 80 << 20,
                                        .capacity_records = 1,
                                        .capacity_bytes = 1 << 20,
                                        .unread_rights_max = 64};

/*
 * Goal:   of a request that did not go nothing stays, whatever its owner has said to the call in the meantime.
 * Method: an owner by hand with a full queue sends, for the number that the next call will have, a socket (VIA).
 */
TEST(a_request_that_did_not_go_keeps_nothing_of_an_answer)
{
        int sv[2];
        wharf_task *t;
        wharf_name right;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wh_os_socketpair(sv), 0);
        CHECK_EQ(wh_right_from_socket(t, sv[0], false, false, &right), 0);
        struct wh_frame greet = {.type = WH_FRAME_HELLO, .to = WH_TO_HOLDER};
        CHECK_EQ(wh_frame_send(sv[1], &greet, &by_hand, sizeof by_hand, NULL, false), 0);
        CHECK_EQ(wharf_send(t, right, "x", 1, 0), 0); /* the only place */
        for (uint32_t i = 1; i <= 8; i++) {
                int pair[2];
                char c;
                uint32_t call;
                CHECK_EQ(wh_os_socketpair(pair), 0);
                struct wh_frame via = {.type = WH_FRAME_VIA, .to = WH_TO_HOLDER, .n_fds = 1, .call = i};
                CHECK_EQ(wh_frame_send(sv[1], &via, NULL, 0, &pair[0], false), 0);
                close(pair[0]);
                CHECK_EQ(wharf_call_start(t, right, &MSG(), WHARF_NONE, wharf_in_ms(20), &call), -ETIMEDOUT);
                struct pollfd p = {.fd = pair[1], .events = POLLIN};
                CHECK_EQ(poll(&p, 1, 1000), 1); /* the task has let go of its end */
                CHECK_EQ(read(pair[1], &c, 1), 0);
                close(pair[1]);
        }
        wharf_task_close(t);
        close(sv[1]);
}

/*
 * Goal:   nobody who kept an end of the pair that was left can say that the port is dead.
 * Method: a right by hand, watched at a port where also the end of its first call is told; then the old pair is shut down.
 */
TEST(the_death_of_a_pair_that_was_left_is_nobodys_where_a_call_is_told)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        int sv[2], kept;
        wharf_name right, port;
        uint32_t call;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wh_os_socketpair(sv), 0);
        kept = dup(sv[0]); /* as an introducer would */
        CHECK_GE(kept, 0);
        struct wh_frame greet = {.type = WH_FRAME_HELLO, .to = WH_TO_HOLDER};
        CHECK_EQ(wh_frame_send(sv[1], &greet, &by_hand, sizeof by_hand, NULL, false), 0);
        CHECK_EQ(wh_right_from_socket(h.task, sv[0], true, false, &right), 0); /* provisional */
        CHECK_EQ(wharf_watch(h.task, right, port), 0);
        CHECK_EQ(wharf_call_start(h.task, right, &MSG(), port, 0, &call), 0); /* makes a pair of its own: REBIND */
        shutdown(kept, SHUT_RDWR);
        CHECK_EQ(wharf_recvmsg(h.task, port, &MSG(), wharf_in_ms(200)), -ETIMEDOUT);
        close(kept);
        close(sv[1]); /* with the REBIND in it; whoever took that out is the owner, and lives */
        hub_close(&h);
}

/* An end is not closed at once because its first datagram is harmless: an empty one behind it has descriptors. */
TEST(an_empty_datagram_behind_another_is_not_overlooked)
{
        for (int first = 0; first < 2; first++) { /* so many bytes in the first datagram: 0 and 1 */
                int sv[2], reader, fd = lingering(&reader);
                CHECK_EQ(wh_os_socketpair(sv), 0);
                CHECK_EQ(send(sv[1], "x", (size_t)first, 0), first);
                send_many(sv[1], "", 0, fd, 1);
                close(fd);
                close(sv[1]);
                const uint32_t before = wh_os_closer_taken();
                wh_os_close_end(sv[0], WH_END_SHARED);
                close(reader);
                CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
                CHECK_EQ(wh_os_closer_taken() - before, 1);
        }
}

/* The same, as a stranger does it: any receive that takes no items. */
TEST(a_right_with_something_in_it_is_dropped_without_waiting)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        wharf_name bad, good;
        char got[8];
        int sv[2], reader, fd = lingering(&reader);
        CHECK_EQ(wharf_right_new(h.task, h.port, &good), 0);
        CHECK_EQ(wharf_right_new(h.task, h.port, &bad), 0);
        CHECK_EQ(wh_os_socketpair(sv), 0);
        CHECK_EQ(send(sv[1], "x", 1, 0), 1);
        send_many(sv[1], "", 0, fd, 1);
        struct wh_frame m = {
                .type = WH_FRAME_MESSAGE, .to = WH_TO_OWNER, .n_fds = 1, .arg = WH_MSG_FIRST | WH_MSG_LAST};
        CHECK_EQ(wh_frame_send(holder(h.task, bad)->sock, &m, &(uint8_t){WH_ITEM_SEND}, 1, &sv[0], false), 0);
        close(sv[0]), close(sv[1]), close(fd);
        CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, 0), 0);
        CHECK_EQ(wharf_send(h.task, good, "well", 4, 0), 0);
        receives(h.task, h.port, "well");
        close(reader);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
        hub_close(&h);
}
