/*
 * Do two rights lead to the same port: told truly by the owners, and by those who lie about it.
 */
#include "hub.h"

#include "os/os.h"
#include "link/frame.h"
#include "link/link.h"
#include "right/right.h"

#include <poll.h>
#include <pthread.h>

/* ---- the truth ---- */

static int serve_two_ports(void *arg)
{
        wharf_name hub, port[2], set;
        wharf_task *t = hub_join(arg, &hub);
        CHECK_EQ(wharf_set_new(t, &set), 0);
        for (unsigned i = 0; i < 2; i++) {
                CHECK_EQ(wharf_port_new(t, NULL, &port[i]), 0);
                CHECK_EQ(wharf_set_add(t, set, port[i]), 0);
        }
        struct wharf_item items[] = {{.kind = WHARF_MAKE_SEND, .name = port[0]},
                                     {.kind = WHARF_MAKE_SEND, .name = port[0]},
                                     {.kind = WHARF_MAKE_SEND, .name = port[1]}};
        struct wharf_msg m = MSG(.items = items, .n_items = 3);
        CHECK_EQ(wharf_sendmsg(t, hub, &m, WHARF_FOREVER), 0);
        char c;
        while (wharf_recv(t, set, &c, 1, NULL, WHARF_FOREVER) >= 0)
                ;
        wharf_task_close(t);
        return 0;
}

TEST(two_rights_to_one_port_are_the_same)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(serve_two_ports, &h);
        struct wharf_item got[3];
        struct wharf_msg m = MSG(.items = got, .cap_items = 3);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, WHARF_FOREVER), 0);
        wharf_name a = got[0].name, b = got[1].name, other = got[2].name, copy;
        for (unsigned used = 0; used < 3; used++) { /* fresh; used; with a lane */
                CHECK_EQ(wharf_right_same(h.task, a, b, WHARF_FOREVER), 1);
                CHECK_EQ(wharf_right_same(h.task, a, a, WHARF_FOREVER), 1);
                CHECK_EQ(wharf_right_same(h.task, b, other, WHARF_FOREVER), 0);
                for (unsigned i = 0; i < used * 20 + 1; i++) {
                        CHECK_EQ(wharf_send(h.task, a, "x", 1, WHARF_FOREVER), 0);
                        CHECK_EQ(wharf_send(h.task, other, "x", 1, WHARF_FOREVER), 0);
                }
        }
        CHECK_EQ(wharf_right_copy(h.task, b, WHARF_FOREVER, &copy), 0);
        CHECK_EQ(wharf_right_same(h.task, a, copy, WHARF_FOREVER), 1);
        CHECK_EQ(wharf_right_same(h.task, copy, other, WHARF_FOREVER), 0);
        for (unsigned i = 0; i < 3; i++)
                CHECK_EQ(wharf_drop(h.task, got[i].name), 0);
        CHECK_EQ(wharf_drop(h.task, copy), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* Nobody receives yet, so nobody answers: known later, without asking again; and known never of the dead. */
TEST(whether_two_rights_are_the_same_is_not_known_yet)
{
        struct hub h = hub_open(NULL);
        wharf_name a, b, port, once;
        char c;
        CHECK_EQ(wharf_port_new(h.task, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &a), 0);
        CHECK_EQ(wharf_right_new(h.task, port, &b), 0);
        CHECK_EQ(wharf_once_new(h.task, port, &once), 0);
        CHECK_EQ(wharf_right_same(h.task, a, b, 0), -EAGAIN);
        CHECK_EQ(wharf_right_same(h.task, a, b, wharf_in_ms(2)), -ETIMEDOUT);
        CHECK_EQ(wharf_right_same(h.task, a, b, 0), -EAGAIN);
        CHECK_EQ(wharf_recv(h.task, port, &c, 1, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_right_same(h.task, a, b, 0), 1);
        CHECK_EQ(wharf_right_same(h.task, a, b, 0), -EAGAIN);
        CHECK_EQ(wharf_right_same(h.task, a, once, 0), -EPERM);
        CHECK_EQ(wharf_right_same(h.task, a, port, 0), -EPERM);
        CHECK_EQ(wharf_right_same(h.task, a, 0x7fffffff, 0), -EBADF);
        CHECK_EQ(wharf_drop(h.task, port), 0);
        CHECK_EQ(wharf_right_same(h.task, a, b, WHARF_FOREVER), -EPIPE);
        hub_close(&h);
}

/*
 * Goal:   who the owner is says the answer to that question and nothing else; and of a port that moved, whoever has it now.
 * Method: an owner by hand, that greets, answers other questions, and says after its answer that the port has another owner.
 */
TEST(only_the_answer_to_the_question_says_who_the_owner_is)
{
        int sv[2];
        wharf_task *t;
        wharf_name right;
        struct wh_hello hello = {.port_id = 7,
                                 .payload_bytes_max = 1 << 20,
                                 .link_mapped_bytes_max = 80 << 20,
                                 .capacity_records = 1024,
                                 .capacity_bytes = 1 << 20,
                                 .unread_rights_max = 64};
        static const uint64_t others[] = {0, 2, UINT64_MAX};
        struct wh_frame f = {.type = WH_FRAME_HELLO, .to = WH_TO_HOLDER};
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wh_os_socketpair(sv), 0);
        CHECK_EQ(wh_right_from_socket(t, sv[0], false, false, &right), 0);
        CHECK_EQ(wharf_right_same(t, right, right, 0), -EAGAIN);
        for (unsigned i = 0; i < sizeof others / sizeof *others; i++) {
                f.seq = others[i];
                CHECK_EQ(wh_frame_send(sv[1], &f, &hello, sizeof hello, NULL, true), 0);
                CHECK_EQ(wharf_right_same(t, right, right, 0), -EAGAIN);
        }
        f.seq = 1;
        CHECK_EQ(wh_frame_send(sv[1], &f, &hello, sizeof hello, NULL, true), 0);
        CHECK_EQ(wharf_right_same(t, right, right, 0), 1);
        CHECK_EQ(wharf_right_same(t, right, right, 0), -EAGAIN);
        f.seq = 2;
        CHECK_EQ(wh_frame_send(sv[1], &f, &hello, sizeof hello, NULL, true), 0);
        CHECK_EQ(wh_frame_send(sv[1], &(struct wh_frame){.type = WH_FRAME_RENEW, .to = WH_TO_HOLDER}, NULL, 0, NULL,
                               true),
                 0);
        CHECK_EQ(wharf_right_same(t, right, right, 0), -EAGAIN);
        wharf_task_close(t);
        close(sv[1]);
}

/* ---- those who lie ---- */

struct liar {
        struct hub hub;
        char path[96];
        struct stage ready;
        bool relay; /* pass questions on to the true owner, rather than making the answer up */
};

/* A process that serves a port of its own protocol: whatever it is asked, it says it is the hub's port. */
static int lie(void *arg)
{
        struct liar *l = arg;
        wharf_name hub;
        wharf_task *t = hub_join(&l->hub, &hub);
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        memcpy(sa.sun_path, l->path, sizeof l->path);
        int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        CHECK_EQ(bind(s, (struct sockaddr *)&sa, sizeof sa), 0);
        CHECK_EQ(listen(s, 4), 0);
        /* The id is no secret: the liar has a right to that port. */
        struct wharf_right_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_send(t, hub, "x", 1, WHARF_FOREVER), 0);
        do {
                CHECK_EQ(wharf_right_same(t, hub, hub, WHARF_FOREVER), 1);
                CHECK_EQ(wharf_right_stat(t, hub, &st), 0);
        } while (st.id.v == 0);
        stage_reach(&l->ready);
        int c = accept4(s, NULL, NULL, SOCK_CLOEXEC);
        CHECK_GE(c, 0);
        struct wh_hello h = {.port_id = st.id.v,
                             .payload_bytes_max = st.payload_bytes_max,
                             .link_mapped_bytes_max = 80 << 20,
                             .capacity_records = 1024,
                             .unread_rights_max = 64};
        struct wh_frame hello = {.type = WH_FRAME_HELLO, .to = WH_TO_HOLDER}, f;
        CHECK_EQ(wh_frame_send(c, &hello, &h, sizeof h, NULL, false), 0);
        int relay = -1;
        if (l->relay) { /* a connection of its own to the true owner */
                struct sockaddr_un to = {.sun_family = AF_UNIX};
                memcpy(to.sun_path, l->hub.path, sizeof l->hub.path);
                relay = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
                CHECK_EQ(connect(relay, (struct sockaddr *)&to, sizeof to), 0);
        }
        static char bytes[WH_COLD_MAX + WH_FDS_MAX];
        int fds[WH_FDS_MAX];
        struct pollfd p[2] = {{.fd = c, .events = POLLIN}, {.fd = relay, .events = POLLIN}};
        for (bool over = false; !over && poll(p, 2, -1) > 0;) {
                for (unsigned i = 0; i < 2; i++) {
                        int r = p[i].fd < 0 || !p[i].revents ? 0 : wh_frame_recv(p[i].fd, &f, bytes, fds, NULL);
                        over |= r < 0;
                        if (r != 1)
                                continue;
                        for (unsigned k = 0; k < f.n_fds; k++)
                                close(fds[k]);
                        if (l->relay)
                                CHECK_EQ(wh_frame_send(p[!i].fd, &f, bytes, f.len, NULL, false), 0);
                        else if (f.type == WH_FRAME_WHO) {
                                hello.seq = f.seq;
                                CHECK_EQ(wh_frame_send(c, &hello, &h, sizeof h, NULL, false), 0);
                        }
                }
        }
        close(relay);
        close(c);
        close(s);
        wharf_task_close(t);
        return 0;
}

static void *keep_receiving(void *arg)
{
        struct hub *h = arg;
        char c[8];
        while (wharf_recv(h->task, h->port, c, sizeof c, NULL, WHARF_FOREVER) >= 0)
                ;
        return NULL;
}

static void check_liar(bool relay)
{
        struct hub h = hub_open(NULL);
        struct liar l = {.hub = h, .ready = stage_new(), .relay = relay};
        snprintf(l.path, sizeof l.path, "%s/liar.%d", test_dir(), (int)getpid());
        pid_t pid = test_fork(lie, &l);
        pthread_t thread;
        CHECK_EQ(pthread_create(&thread, NULL, keep_receiving, &h), 0);
        stage_await(&l.ready);
        wharf_task *t;
        wharf_name honest, lying;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_right_connect(t, h.path, &honest), 0);
        CHECK_EQ(wharf_right_connect(t, l.path, &lying), 0);
        CHECK_EQ(wharf_right_same(t, honest, lying, WHARF_FOREVER), 0);
        struct wharf_right_stat x = {.size = sizeof x}, y = {.size = sizeof y};
        CHECK_EQ(wharf_right_stat(t, honest, &x), 0);
        CHECK_EQ(wharf_right_stat(t, lying, &y), 0);
        CHECK(x.id.v == y.id.v); /* it does say so */
        wharf_task_close(t);
        CHECK_EQ(test_wait(pid), 0);
        CHECK_EQ(wharf_drop(h.task, h.port), 0);
        pthread_join(thread, NULL);
        stage_done(&l.ready);
        hub_close(&h);
}

TEST(an_owner_that_claims_anothers_id_is_not_the_same)
{
        check_liar(false);
}

TEST(an_owner_that_passes_the_question_on_is_not_the_same)
{
        check_liar(true);
}

/* ---- who receives ---- */

static int owns_and_answers(void *arg)
{
        wharf_name hub, port;
        wharf_task *t = hub_join(arg, &hub);
        if (geteuid() == 0) {
                CHECK_EQ(setresgid(65533, 65533, 65533), 0);
                CHECK_EQ(setresuid(65533, 65533, 65533), 0);
        }
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        struct wharf_item item = {.kind = WHARF_MAKE_SEND, .name = port};
        CHECK_EQ(wharf_sendmsg(t, hub, &MSG(.items = &item, .n_items = 1), WHARF_FOREVER), 0);
        char c;
        while (wharf_recv(t, port, &c, 1, NULL, WHARF_FOREVER) >= 0)
                ;
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   a holder is told which process receives what it sends, of which user, in the kernel's words.
 * Method: another process, as another user where that is allowed; asked before and after messages; then it is gone.
 */
TEST(the_owner_of_a_port_is_told_by_the_kernel)
{
        struct hub h = hub_open(NULL);
        pid_t pid = test_fork(owns_and_answers, &h);
        struct wharf_item got;
        struct wharf_owner who;
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &MSG(.items = &got, .cap_items = 1), WHARF_FOREVER), 0);
        for (int used = 0; used < 3; used++) {
                CHECK_EQ(wharf_right_owner(h.task, got.name, WHARF_FOREVER, &who), 0);
                CHECK_EQ(who.pid, pid);
                CHECK_EQ(who.uid, geteuid() == 0 ? 65533 : geteuid());
                for (int i = 0; i < used * 20 + 1; i++)
                        CHECK_EQ(wharf_send(h.task, got.name, "x", 1, WHARF_FOREVER), 0);
        }
        kill_hard(pid);
        who.pid = 7;
        CHECK_EQ(wharf_right_owner(h.task, got.name, WHARF_FOREVER, &who), -EPIPE);
        CHECK_EQ(who.pid, 7); /* untouched */
        hub_close(&h);
}

TEST(the_owner_of_a_port_is_not_known_yet)
{
        struct hub h = hub_open(NULL);
        wharf_name right, once;
        struct wharf_owner who;
        char c;
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        CHECK_EQ(wharf_once_new(h.task, h.port, &once), 0);
        CHECK_EQ(wharf_right_owner(h.task, right, 0, &who), -EAGAIN);
        CHECK_EQ(wharf_right_owner(h.task, right, wharf_in_ms(2), &who), -ETIMEDOUT);
        CHECK_EQ(wharf_recv(h.task, h.port, &c, 1, NULL, 0), -EAGAIN);
        CHECK_EQ(wharf_right_owner(h.task, right, 0, &who), 0);
        CHECK_EQ(who.pid, getpid());
        CHECK_EQ(wharf_right_owner(h.task, once, 0, &who), -EPERM);
        CHECK_EQ(wharf_right_owner(h.task, h.port, 0, &who), -EPERM);
        CHECK_EQ(wharf_right_owner(h.task, 0x7fffffff, 0, &who), -EBADF);
        CHECK_EQ(wharf_right_owner(h.task, right, 0, NULL), -EINVAL);
        hub_close(&h);
}
