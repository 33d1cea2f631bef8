/*
 * A message goes on: with its payload, all that it brought, and the right to answer it, which then is somebody else's to use.
 */
#include "hub.h"
#include "inside.h"

#include "link/frame.h"

#include <sys/mman.h>
#include <wharf/memory.h>

enum { LARGE = 3 << 20 };

/* Answers each request with what it was asked, and a right that came with it with "given". "quit" ends it. */
static int works(void *arg)
{
        wharf_name hub, port;
        wharf_task *t = hub_join(arg, &hub);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        struct wharf_item mine = {.kind = WHARF_MAKE_SEND, .name = port}, got;
        CHECK_EQ(wharf_sendmsg(t, hub, &MSG(.items = &mine, .n_items = 1), WHARF_FOREVER), 0);
        for (unsigned n = 0;; n++) {
                char text[16] = "";
                struct wharf_msg m = MSG(.data = text, .cap_bytes = sizeof text - 1, .items = &got, .cap_items = 1);
                CHECK_EQ(wharf_recvmsg(t, port, &m, WHARF_FOREVER), 0);
                CHECK_EQ(m.sender.pid, getppid());
                if (!strcmp(text, "quit"))
                        break;
                CHECK_NE(m.reply, WHARF_NONE);
                CHECK_EQ(m.id, 77);
                if (m.n_items) {
                        CHECK_EQ(got.kind, WHARF_GOT_SEND);
                        CHECK_EQ(wharf_send(t, got.name, "given", 5, WHARF_FOREVER), 0);
                        CHECK_EQ(wharf_drop(t, got.name), 0);
                }
                CHECK_EQ(wharf_reply(t, m.reply, text, strlen(text)), 0);
        }
        wharf_task_close(t);
        return 0;
}

static wharf_name work(struct hub *h, pid_t *ret)
{
        struct wharf_item got;
        *ret = test_fork(works, h);
        CHECK_EQ(wharf_recvmsg(h->task, h->port, &MSG(.items = &got, .cap_items = 1), WHARF_FOREVER), 0);
        return got.name;
}

struct caller {
        struct hub *hub;
        bool gives;
};

static int calls(void *arg)
{
        struct caller *c = arg;
        wharf_name hub, port;
        wharf_task *t = hub_join(c->hub, &hub);
        CHECK_EQ(wharf_port_new(t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        for (int i = 0; i < 60; i++) { /* cold at first, then in a lane */
                char text[16], back[16];
                snprintf(text, sizeof text, "call %d", i);
                struct wharf_item give = {.kind = WHARF_MAKE_SEND, .name = port};
                struct wharf_msg a = MSG(.data = back, .cap_bytes = sizeof back);
                CHECK_EQ(wharf_callmsg(t, hub,
                                       &MSG(.data = text, .len_bytes = strlen(text), .id = 77, .items = &give,
                                            .n_items = c->gives),
                                       &a, wharf_in_ms(60000)),
                         0);
                CHECK_EQ(a.len_bytes, strlen(text));
                CHECK_MEM(back, text, strlen(text));
                if (c->gives)
                        CHECK_EQ(wharf_recv(t, port, back, sizeof back, NULL, wharf_in_ms(60000)), 5);
        }
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   a request that goes on is answered by whoever has it then, and the caller notices nothing; what came with it goes along.
 * Method: three processes. The one in the middle looks at nothing, and in the second round receives without room for rights.
 */
TEST(a_request_that_goes_on_is_answered_by_another)
{
        for (int gives = 0; gives < 2; gives++) {
                struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
                pid_t worker, caller;
                wharf_name right = work(&h, &worker);
                struct caller c = {&h, gives};
                caller = test_fork(calls, &c);
                for (int i = 0; i < 60; i++) {
                        struct wharf_item got[4];
                        struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC, .items = got, .cap_items = 4);
                        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
                        CHECK_EQ(m.n_items, gives);
                        CHECK_EQ(wharf_forward(h.task, right, &m, wharf_in_ms(60000)), 0);
                        CHECK_EQ(m.reply, WHARF_NONE);
                        CHECK_EQ(m.n_items, 0);
                        wharf_release(h.task, &m); /* harmless */
                }
                CHECK_EQ(test_wait(caller), 0);
                CHECK_EQ(wharf_send(h.task, right, "quit", 4, WHARF_FOREVER), 0);
                CHECK_EQ(test_wait(worker), 0);
                hub_close(&h);
        }
}

/* Two ports of one task, and a right to each. */
struct two {
        wharf_task *t;
        wharf_name port[2], right[2];
};

static struct two two_ports(void)
{
        struct two w;
        CHECK_EQ(wharf_task_open(NULL, &w.t), 0);
        for (int i = 0; i < 2; i++) {
                CHECK_EQ(wharf_port_new(w.t, PORT_OPTS(.flags = WHARF_PORT_STAYS), &w.port[i]), 0);
                CHECK_EQ(wharf_right_new(w.t, w.port[i], &w.right[i]), 0);
        }
        return w;
}

static ino_t inode(int fd)
{
        struct stat st;
        CHECK_EQ(fstat(fd, &st), 0);
        return st.st_ino;
}

/*
 * Goal:   every kind of item goes along, and any payload; a large one by reference.
 * Method: from one port to the other, each with what was made for it. The inode tells the memory.
 */
TEST(what_goes_on_is_all_that_came)
{
        static const size_t sizes[] = {0, 10, 1000, 100000, LARGE};
        struct two w = two_ports();
        char *bytes = malloc(LARGE);
        for (size_t i = 0; i < LARGE; i++)
                bytes[i] = (char)(i % 251);
        for (unsigned round = 0; round < 20; round++) {
                const size_t len = sizes[round % 5];
                wharf_name extra, once, memory;
                CHECK_EQ(wharf_port_new(w.t, NULL, &extra), 0);
                CHECK_EQ(wharf_once_new(w.t, w.port[0], &once), 0);
                CHECK_EQ(wharf_memory_new(w.t, 4096, &memory), 0);
                int fd = memfd_create("goes on", MFD_CLOEXEC);
                const ino_t was = inode(fd);
                struct wharf_item out[] = {{.kind = WHARF_MOVE_FD, .fd = fd},
                                           {.kind = WHARF_MAKE_SEND, .name = extra},
                                           {.kind = WHARF_MOVE_REPLY, .name = once},
                                           {.kind = WHARF_MOVE_MEMORY, .name = memory}},
                                  got[4];
                CHECK_EQ(wharf_sendmsg(w.t, w.right[0],
                                       &MSG(.data = bytes, .len_bytes = len, .id = round, .items = out, .n_items = 4,
                                            .how = len == LARGE ? WHARF_HOW_MEMORY : WHARF_HOW_AUTO),
                                       0),
                         0);
                struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC, .items = got, .cap_items = 4);
                CHECK_EQ(wharf_recvmsg(w.t, w.port[0], &m, wharf_in_ms(60000)), 0);
                const ino_t payload = len == LARGE ? inode((int)m.held[3]) : 0;
                CHECK_EQ(wharf_forward(w.t, w.right[1], &m, 0), 0);
                CHECK_EQ(m.how, len == LARGE ? WHARF_HOW_MEMORY : m.how);
                m = MSG(.flags = WHARF_RECV_ALLOC, .items = got, .cap_items = 4);
                CHECK_EQ(wharf_recvmsg(w.t, w.port[1], &m, wharf_in_ms(60000)), 0);
                CHECK_EQ(m.id, round);
                CHECK_EQ(m.reply, WHARF_NONE);
                CHECK_EQ(m.len_bytes, len);
                CHECK_EQ(len ? memcmp(m.data, bytes, len) : 0, 0);
                if (len == LARGE)
                        CHECK_EQ(inode((int)m.held[3]), payload);
                CHECK_EQ(m.n_items, 4);
                CHECK_EQ(got[0].kind, WHARF_GOT_FD);
                CHECK_EQ(inode(got[0].fd), was);
                close(got[0].fd);
                CHECK_EQ(got[1].kind, WHARF_GOT_SEND);
                CHECK_EQ(wharf_send(w.t, got[1].name, "x", 1, 0), 0);
                CHECK_EQ(wharf_recv(w.t, extra, &(char){0}, 1, NULL, wharf_in_ms(60000)), 1);
                CHECK_EQ(got[2].kind, WHARF_GOT_REPLY);
                CHECK_EQ(wharf_send(w.t, got[2].name, "o", 1, 0), 0);
                CHECK_EQ(wharf_recv(w.t, w.port[0], &(char){0}, 1, NULL, wharf_in_ms(60000)), 1);
                CHECK_EQ(got[3].kind, WHARF_GOT_MEMORY);
                CHECK_EQ(wharf_drop(w.t, got[3].name), 0);
                CHECK_EQ(wharf_drop(w.t, got[1].name), 0);
                CHECK_EQ(wharf_drop(w.t, extra), 0);
                wharf_release(w.t, &m);
        }
        free(bytes);
        wharf_task_close(w.t);
}

static uint32_t ask(struct two *w)
{
        uint32_t call;
        CHECK_EQ(wharf_call_start(w->t, w->right[0], &MSG(.data = BYTES("q"), .len_bytes = 1), WHARF_NONE, 0, &call),
                 0);
        return call;
}

/* Where it cannot go on it is as it was: it can be answered here, and what it brought is here. */
TEST(what_cannot_go_on_stays_whole)
{
        struct two w = two_ports();
        wharf_name once, dead, port;
        CHECK_EQ(wharf_port_new(w.t, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(w.t, port, &dead), 0);
        CHECK_EQ(wharf_drop(w.t, port), 0);
        CHECK_EQ(wharf_once_new(w.t, w.port[1], &once), 0);
        for (int way = 0; way < 4; way++) {
                uint32_t call = ask(&w);
                char c, back[4];
                struct wharf_item many[WHARF_ITEMS_MAX] = {0}, odd = {.kind = WHARF_COPY_SEND, .name = w.right[1]};
                struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
                CHECK_EQ(wharf_recvmsg(w.t, w.port[0], &m, wharf_in_ms(60000)), 0);
                const wharf_name reply = m.reply;
                if (way == 2) {
                        m.items = &odd;
                        m.n_items = 1;
                } else if (way == 3) {
                        m.items = many;
                        m.n_items = WHARF_ITEMS_MAX;
                }
                CHECK_EQ(wharf_forward(w.t,
                                       way == 0   ? dead
                                       : way == 1 ? once
                                                  : w.right[1],
                                       &m, 0),
                         way == 0   ? -EPIPE
                         : way == 1 ? -EPERM
                                    : -EINVAL);
                CHECK_NE(wharf_why()[0], 0);
                CHECK_EQ(m.reply, reply);
                CHECK_EQ(wharf_reply(w.t, m.reply, "here", 4), 0);
                struct wharf_msg a = MSG(.data = back, .cap_bytes = 4);
                CHECK_EQ(wharf_call_finish(w.t, w.right[0], call, &a, wharf_in_ms(60000)), 0);
        }
        CHECK_EQ(wharf_name_kind(w.t, once), WHARF_KIND_REPLY); /* nor was that used up */
        CHECK_EQ(wharf_forward(w.t, w.right[1], &MSG(.notice = WHARF_NOTICE_DEAD_NAME), 0), -EINVAL);
        CHECK_EQ(wharf_recvmsg(w.t, w.port[1], &MSG(), 0), -EAGAIN); /* nothing has come there of all that */
        wharf_task_close(w.t);
}

/* Whoever takes no rights can answer all the same; and whoever takes bytes alone lets go of the right to answer. */
TEST(a_request_that_went_on_is_one_whatever_its_receiver_takes)
{
        struct two w = two_ports();
        for (int way = 0; way < 3; way++) {
                uint32_t call = ask(&w);
                char c, back[4];
                struct wharf_item fd = {.kind = WHARF_GOT_FD, .fd = dup(0)};
                struct wharf_msg m = MSG(.data = &c, .cap_bytes = 1);
                CHECK_EQ(wharf_recvmsg(w.t, w.port[0], &m, wharf_in_ms(60000)), 0);
                m.items = &fd; /* and one more thing, as if it had come so */
                m.n_items = 1;
                CHECK_EQ(wharf_forward(w.t, w.right[1], &m, 0), 0);
                struct wharf_msg in =
                        MSG(.data = &c, .cap_bytes = way < 2, .flags = way == 1 ? WHARF_RECV_NO_ITEMS : 0);
                if (way == 0) { /* what does not fit is told without the right to answer */
                        CHECK_EQ(wharf_recvmsg(w.t, w.port[1], &in, wharf_in_ms(60000)), -EOVERFLOW);
                        CHECK_EQ(in.n_items, 1);
                        in.flags = WHARF_RECV_NO_ITEMS;
                }
                if (way < 2) {
                        CHECK_EQ(wharf_recvmsg(w.t, w.port[1], &in, wharf_in_ms(60000)), 0);
                        CHECK_EQ(in.n_items, 0);
                        CHECK_EQ(wharf_reply(w.t, in.reply, "back", 4), 0);
                } else {
                        CHECK_EQ(wharf_recv(w.t, w.port[1], &c, 1, NULL, wharf_in_ms(60000)), 1);
                }
                CHECK_EQ(wharf_call_finish(w.t, w.right[0], call, &MSG(.data = back, .cap_bytes = 4),
                                           wharf_in_ms(60000)),
                         way < 2 ? 0 : -ECANCELED);
        }
        wharf_task_close(w.t);
}

/* A request that says that its answer is among what it brings, and brings none, ends its link. */
TEST(a_request_without_the_answer_that_it_speaks_of_ends_its_link)
{
        struct two w = two_ports();
        for (int way = 0; way < 2; way++) {
                struct wharf_item got;
                wharf_name bad;
                CHECK_EQ(wharf_right_new(w.t, w.port[0], &bad), 0);
                struct wh_frame f = {.type = WH_FRAME_MESSAGE,
                                     .to = WH_TO_OWNER,
                                     .n_fds = (uint8_t)way,
                                     .call = WH_CALL_CARRIED,
                                     .arg = WH_MSG_FIRST | WH_MSG_LAST};
                CHECK_EQ(wh_frame_send(holder(w.t, bad)->sock, &f, &(uint8_t){WH_ITEM_FD}, (size_t)way, &(int){0},
                                       false),
                         0);
                CHECK_EQ(wharf_recvmsg(w.t, w.port[0], &MSG(.items = &got, .cap_items = 1), 0), -EAGAIN);
                struct wharf_port_stat st = {.size = sizeof st};
                CHECK_EQ(wharf_port_stat(w.t, w.port[0], &st), 0);
                CHECK_EQ(st.refused_links, 1 + way);
        }
        wharf_task_close(w.t);
}
