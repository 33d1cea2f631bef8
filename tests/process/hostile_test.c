/*
 * What the other side may do to us: frames, records and descriptors that no honest peer sends, at moments it chooses,
 * and honest peers at moments that are rare. The attacker speaks through the library's own inner functions, so that
 * all but the one lie is right.
 */
#include "inside.h"
#include "test.h"

#include "os/closer.h"
#include "os/os.h"
#include "right/held.h"
#include "link/link.h"
#include "right/right.h"
#include "port/owned.h"
#include "port/port.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

/* ---- helpers ---- */

static wharf_task *task_new(void)
{
        wharf_task *t;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        return t;
}

static wharf_name port_new(wharf_task *t, const struct wharf_port_opts *o)
{
        wharf_name p;
        CHECK_EQ(wharf_port_new(t, o, &p), 0);
        return p;
}

static wharf_name right_new(wharf_task *t, wharf_name port)
{
        wharf_name r;
        CHECK_EQ(wharf_right_new(t, port, &r), 0);
        return r;
}

/* A right whose messages travel in a lane from the first on; the port has taken everything. */
static wharf_name right_attached(wharf_task *t, wharf_name port)
{
        wharf_name r = right_new(t, port);
        struct wharf_msg m = {.size = sizeof m, .how = WHARF_HOW_INLINE, .data = (char[]){'a'}, .len_bytes = 1};
        char got;
        CHECK_EQ(wharf_sendmsg(t, r, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_recv(t, port, &got, 1, NULL, WHARF_FOREVER), 1);
        return r;
}

static unsigned open_fds(void)
{
        unsigned n = 0;
        CHECK(wh_os_closer_rest(INT64_MAX)); /* some are closed by a thread of the library's own */
        for (int fd = 0; fd < 512; fd++)
                n += fcntl(fd, F_GETFD) >= 0;
        return n;
}

/* The records that no honest sender writes. */
static void put_record(struct wh_link *l, enum wh_rec_kind kind, const void *body, uint32_t len)
{
        void *at = wh_ring_reserve(&l->out.lane->ring, len);
        CHECK(at);
        memcpy(at, body, len);
        wh_ring_publish(&l->out.lane->ring, kind, len);
        if (wh_ring_must_ring(&l->out.lane->ring))
                wh_frame_bell(l->sock);
}

/* The right's peer is served as ever: what one link did has not disturbed another. */
static void still_serves(wharf_task *t, wharf_name port, wharf_name right)
{
        char buf[16];
        CHECK_EQ(wharf_send(t, right, "well", 4, wharf_in_ms(60000)), 0);
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(60000)), 4);
        CHECK_MEM(buf, "well", 4);
}

/* ---- descriptors ---- */

static void send_raw(int sock, const void *bytes, size_t len, const int *fds, unsigned n_fds)
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(8 * sizeof(int))];
        } control = {0};
        struct iovec iov = {(void *)(uintptr_t)bytes, len};
        struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
        if (n_fds) {
                m.msg_control = control.space;
                m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
                control.align.cmsg_level = SOL_SOCKET;
                control.align.cmsg_type = SCM_RIGHTS;
                control.align.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
                memcpy(CMSG_DATA(&control.align), fds, n_fds * sizeof(int));
        }
        CHECK_EQ(sendmsg(sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL), len);
}

/*
 * Goal:   an empty datagram, which reads like the end of the socket, brings no descriptors into the receiver.
 * Method: send one with a descriptor beside it.
 */
TEST(empty_datagram_leaks_nothing)
{
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL), good = right_new(t, port), bad = right_new(t, port);
        still_serves(t, port, good);
        unsigned before = open_fds();
        char buf[16];
        send_raw(holder(t, bad)->sock, "", 0, (int[]){0, 1}, 2);
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(30)), -ETIMEDOUT);
        CHECK_LE(open_fds(), before);
        still_serves(t, port, good);
        wharf_task_close(t);
}

static wharf_task *last_task;
static wharf_name last_right;
static int last_sock, last_ended, last_kept;

/*
 * The kernel looks into the queue, which is empty, and then whether the other end is closed. Between the two looks the
 * sender sends, and closes: so the first call is answered from a socket that has ended, and the next one from its own.
 */
static int last_words_between_the_looks(enum wh_os_call call)
{
        if (call != WH_OS_recvmsg || !last_right)
                return 0;
        if (last_kept < 0) {
                last_kept = dup(last_sock);
                CHECK_GE(dup2(last_ended, last_sock), 0);
                return 0;
        }
        wharf_name right = last_right;
        last_right = WHARF_NONE;
        CHECK_GE(dup2(last_kept, last_sock), 0);
        close(last_kept);
        close(last_ended);
        CHECK_EQ(wharf_send(last_task, right, "last words", 10, 0), 0);
        CHECK_EQ(wharf_drop(last_task, right), 0);
        return 0;
}

/* Goal: a message whose sender drops its right, or dies, just when its receiver looks is received, and only then ends it. */
TEST(message_sent_just_before_its_sender_s_end_is_received)
{
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL);
        int over[2], err;
        last_task = t;
        last_right = right_new(t, port);
        still_serves(t, port, last_right);
        struct wh_port *p = wh_port_lock(t, port, &err);
        CHECK(p);
        last_sock = wh_container(p->links.next, struct wh_owned, in_port)->link.sock;
        wh_unlock(&p->inbox->lock);
        CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, over), 0);
        close(over[1]);
        last_ended = over[0];
        last_kept = -1;
        char buf[16];
        wh_os_gate = last_words_between_the_looks;
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(60000)), 10);
        wh_os_gate = NULL;
        CHECK_MEM(buf, "last words", 10);
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(60000)), -ENOTCONN);
        wharf_task_close(t);
}

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif

/*
 * Goal:   who kept a copy of the receiver's end cannot fill the receiver's table of descriptors.
 * Method: ask, through the copy, for a pidfd with each datagram (SO_PASSPIDFD), and send some.
 */
TEST(pidfds_asked_for_by_the_sender_are_closed)
{
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL), right = right_new(t, port);
        int sv[2], on = 1;
        CHECK_EQ(wh_os_socketpair(sv), 0);
        if (setsockopt(sv[1], SOL_SOCKET, SO_PASSPIDFD, &on, sizeof on) < 0)
                test_skip("this kernel has no SO_PASSPIDFD");
        struct wh_frame f = {.type = WH_FRAME_ADOPT, .to = WH_TO_OWNER, .n_fds = 1};
        CHECK_EQ(wh_frame_send(holder(t, right)->sock, &f, NULL, 0, &sv[1], false), 0);
        char buf[16];
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(10)), -ETIMEDOUT);
        unsigned before = open_fds();
        for (int i = 0; i < 20; i++)
                CHECK_EQ(wh_frame_bell(sv[0]), 0);
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(10)), -ETIMEDOUT);
        CHECK_EQ(open_fds(), before);
        close(sv[0]);
        close(sv[1]);
        wharf_task_close(t);
}

/*
 * Goal:   more descriptors than a message may have never reach the user, nor its queue.
 * Method: frames and records that carry 65 and 66 of them.
 */
TEST(too_many_items_end_the_link)
{
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL), good = right_new(t, port);
        still_serves(t, port, good);
        int fds[WH_FDS_MAX];
        uint8_t kinds[WH_FDS_MAX];
        for (unsigned i = 0; i < WH_FDS_MAX; i++) {
                fds[i] = 0;
                kinds[i] = WH_ITEM_FD;
        }
        for (unsigned n = WHARF_ITEMS_MAX + 1; n <= WH_FDS_MAX; n++) {
                wharf_name bad = right_new(t, port), lane = right_attached(t, port);
                struct wh_frame f = {.type = WH_FRAME_MESSAGE,
                                     .to = WH_TO_OWNER,
                                     .n_fds = (uint8_t)n,
                                     .arg = WH_MSG_FIRST | WH_MSG_LAST};
                CHECK_EQ(wh_frame_send(holder(t, bad)->sock, &f, kinds, n, fds, false), 0);
                struct wh_link *l = holder(t, lane);
                struct wh_frame g = {.type = WH_FRAME_ITEMS, .to = WH_TO_OWNER, .n_fds = (uint8_t)n, .seq = l->out.seq};
                CHECK_EQ(wh_link_frame(l, &g, kinds, n, fds, false), 0);
                struct wh_rec_ext ext = {.n_items = (uint16_t)n};
                put_record(l, WH_REC_INLINE, &ext, sizeof ext);
                struct wharf_item items[WH_FDS_MAX];
                char buf[16];
                struct wharf_msg m = {.size = sizeof m,
                                      .data = buf,
                                      .cap_bytes = sizeof buf,
                                      .items = items,
                                      .cap_items = WH_FDS_MAX};
                CHECK_EQ(wharf_recvmsg(t, port, &m, wharf_in_ms(10)), -ETIMEDOUT);
                still_serves(t, port, good);
                wharf_drop(t, bad);
                wharf_drop(t, lane);
        }
        wharf_task_close(t);
}

/*
 * Goal:   a payload in a memory of its own is the last descriptor of the record that says so, and no item of any other: it
 *         would be a right over whatever descriptor it is, and one more than there is room for.
 * Method: such a one alone and as the 65th, before records of the other kinds, to a receiver with room for more.
 */
TEST(a_memory_among_the_items_of_another_record_ends_the_link)
{
        static const enum wh_rec_kind records[] = {WH_REC_INLINE, WH_REC_PIECE, WH_REC_BLOCK, WH_REC_CHUNK};
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL), good = right_new(t, port);
        still_serves(t, port, good);
        int fds[WHARF_ITEMS_MAX + 1] = {0};
        uint8_t kinds[WHARF_ITEMS_MAX + 1];
        memset(kinds, WH_ITEM_FD, sizeof kinds);
        for (unsigned i = 0; i < 2 * sizeof records / sizeof *records; i++) {
                const unsigned n = i % 2 ? WHARF_ITEMS_MAX + 1 : 1;
                wharf_name bad = right_attached(t, port);
                struct wh_link *l = holder(t, bad);
                struct wh_frame f = {.type = WH_FRAME_ITEMS, .to = WH_TO_OWNER, .n_fds = (uint8_t)n, .seq = l->out.seq};
                kinds[n - 1] = WH_ITEM_MEMORY;
                CHECK_EQ(wh_link_frame(l, &f, kinds, n, fds, false), 0);
                kinds[n - 1] = WH_ITEM_FD;
                uint16_t slot;
                void *mem;
                CHECK_EQ(wh_link_lend(l, 100, &slot, &mem), 0);
                struct {
                        struct wh_rec_ext ext;
                        union {
                                struct wh_rec_block block;
                                uint64_t total;
                        };
                } rec = {.ext = {.n_items = (uint16_t)n}};
                uint32_t len = sizeof rec.ext;
                if (records[i / 2] == WH_REC_PIECE) {
                        rec.total = 8;
                        len += 16;
                } else if (records[i / 2] != WH_REC_INLINE) {
                        rec.block = wh_lane_block(l->out.lane, slot, 100, 100);
                        wh_lane_slot_sent(l->out.lane, slot);
                        len += sizeof rec.block;
                }
                put_record(l, records[i / 2], &rec, len);
                struct wharf_item items[WH_FDS_MAX];
                char buf[200];
                struct wharf_msg m = {.size = sizeof m,
                                      .data = buf,
                                      .cap_bytes = sizeof buf,
                                      .items = items,
                                      .cap_items = WH_FDS_MAX};
                CHECK_EQ(wharf_recvmsg(t, port, &m, wharf_in_ms(10)), -ETIMEDOUT);
                struct wharf_right_stat st = {.size = sizeof st};
                CHECK_EQ(wharf_right_stat(t, bad, &st), 0);
                CHECK(st.dead);
                still_serves(t, port, good);
                wharf_drop(t, bad);
        }
        wharf_task_close(t);
}

/* ---- lengths ---- */

/*
 * Goal:   a frame says how long it is, and only what came with it is a message: the rest would be our own memory.
 * Method: by hand, frames that say more than they are, or less.
 */
TEST(a_frame_whose_length_is_a_lie_ends_its_link)
{
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL), good = right_new(t, port);
        static const struct {
                uint32_t said, sent;
        } lies[] = {{100, 50}, {100, 0}, {50, 100}, {WH_COLD_MAX, 100}};
        for (unsigned i = 0; i < sizeof lies / sizeof *lies; i++) {
                wharf_name bad = right_new(t, port);
                struct {
                        struct wh_frame head;
                        char bytes[100];
                } f = {.head = {.magic = WH_FRAME_MAGIC,
                                .version = WH_FRAME_VERSION,
                                .type = WH_FRAME_MESSAGE,
                                .to = WH_TO_OWNER,
                                .arg = WH_MSG_FIRST | WH_MSG_LAST,
                                .total = lies[i].said,
                                .len = lies[i].said}};
                char got[WH_COLD_MAX];
                send_raw(holder(t, bad)->sock, &f, sizeof f.head + lies[i].sent, NULL, 0);
                CHECK_EQ(wharf_recv(t, port, got, sizeof got, NULL, wharf_in_ms(10)), -ETIMEDOUT);
                CHECK_EQ(wharf_send(t, bad, "x", 1, 0), -EPROTO);
                still_serves(t, port, good);
                wharf_drop(t, bad);
        }
        wharf_task_close(t);
}

/*
 * Goal:   parts of a message that are more than the whole are written nowhere.
 * Method: two frames, received into a buffer behind which nothing is mapped.
 */
TEST(parts_that_are_more_than_the_whole_are_written_nowhere)
{
        enum { TOTAL = 5000, FIRST = 3000, LAST = 2500, ROOM = 8192 };
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL), good = right_new(t, port), bad = right_new(t, port);
        char *room = mmap(NULL, ROOM + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(room != MAP_FAILED);
        CHECK_EQ(mprotect(room + ROOM, 4096, PROT_NONE), 0);
        char *buf = room + ROOM - TOTAL, bytes[FIRST] = {0};
        struct wh_frame f = {.type = WH_FRAME_MESSAGE, .to = WH_TO_OWNER, .total = TOTAL, .arg = WH_MSG_FIRST};
        CHECK_EQ(wh_frame_send(holder(t, bad)->sock, &f, bytes, FIRST, NULL, false), 0);
        f.arg = WH_MSG_LAST;
        CHECK_EQ(wh_frame_send(holder(t, bad)->sock, &f, bytes, LAST, NULL, false), 0);
        CHECK_EQ(wharf_recv(t, port, buf, TOTAL, NULL, wharf_in_ms(10)), -ETIMEDOUT);
        CHECK_EQ(wharf_send(t, bad, "x", 1, 0), -EPROTO);
        still_serves(t, port, good);
        munmap(room, ROOM + 4096);
        wharf_task_close(t);
}

/* ---- who sent it ---- */

/*
 * Goal:   nobody gets another's name by hiding its own: least of all root's.
 * Method: introduce a pair, keep a copy of the owner's end, forbid credentials through it, then send. And the same
 *         with a message that was queued before the owner could ask for credentials.
 */
TEST(hidden_credentials_are_nobodys)
{
        for (int early = 0; early < 2; early++) {
                wharf_task *t = task_new();
                wharf_name port = port_new(t, NULL), right = right_new(t, port);
                int sv[2], off = 0;
                char buf[16];
                struct wharf_sender from = {0};
                struct wh_frame m = {
                        .type = WH_FRAME_MESSAGE, .to = WH_TO_OWNER, .total = 2, .arg = WH_MSG_FIRST | WH_MSG_LAST};
                struct wh_frame f = {.type = WH_FRAME_ADOPT, .to = WH_TO_OWNER, .n_fds = 1};
                CHECK_EQ(wh_os_socketpair(sv), 0);
                if (early)
                        CHECK_EQ(wh_frame_send(sv[0], &m, "hi", 2, NULL, false), 0);
                CHECK_EQ(wh_frame_send(holder(t, right)->sock, &f, NULL, 0, &sv[1], false), 0);
                if (!early) {
                        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(10)), -ETIMEDOUT);
                        CHECK_EQ(setsockopt(sv[1], SOL_SOCKET, SO_PASSCRED, &off, sizeof off), 0);
                        CHECK_EQ(wh_frame_send(sv[0], &m, "hi", 2, NULL, false), 0);
                }
                CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, &from, wharf_in_ms(60000)), 2);
                CHECK_EQ(from.pid, 0);
                CHECK_EQ(from.uid, (uid_t)-1);
                CHECK_EQ(from.gid, (gid_t)-1);
                close(sv[0]);
                close(sv[1]);
                wharf_task_close(t);
        }
}

/* Everything that can be said on a socket by whoever has it, each as often as it is taken. */
static void say_everything(int sock, int other)
{
        static const uint8_t types[] = {WH_FRAME_HELLO,  WH_FRAME_MESSAGE, WH_FRAME_ATTACH, WH_FRAME_ADOPT,
                                        WH_FRAME_REBIND, WH_FRAME_RENEW,   WH_FRAME_REFUSE, WH_FRAME_ITEMS};
        for (unsigned i = 0; i < sizeof types; i++) {
                bool sends_fd = types[i] == WH_FRAME_ADOPT || types[i] == WH_FRAME_REBIND;
                struct wh_hello h = {.port_id = 1, .payload_bytes_max = 1, .capacity_records = 1};
                bool to_holder = types[i] == WH_FRAME_RENEW || types[i] == WH_FRAME_REFUSE;
                struct wh_frame f = {.type = types[i],
                                     .to = to_holder ? WH_TO_HOLDER : WH_TO_OWNER,
                                     .n_fds = sends_fd,
                                     .total = 4,
                                     .arg = EKEYREVOKED};
                if (types[i] == WH_FRAME_MESSAGE)
                        f.arg = WH_MSG_FIRST | WH_MSG_LAST;
                if (types[i] == WH_FRAME_HELLO)
                        wh_frame_send(sock, &f, &h, sizeof h, NULL, false);
                else
                        wh_frame_send(sock, &f, "evil", types[i] == WH_FRAME_MESSAGE ? 4 : 0, &other, false);
        }
}

/*
 * Goal:   an introducer that kept copies of both ends of the pair by which it introduced a holder has nothing once the
 *         holder has sent its first message: it can neither read, inject, answer, nor end the link.
 * Method: it says on both ends everything that can be said, before every message, and at last shuts them down; then it
 *         reads what there is. The holder sends and calls meanwhile, and the owner checks that all is the holder's.
 */
TEST(an_introducer_that_kept_both_ends_has_nothing_after_the_rebind)
{
        enum { ROUNDS = 40 };
        wharf_task *t = task_new(), *u = task_new();
        wharf_name port = port_new(t, NULL), introducer = right_new(t, port), right;
        int sv[2], kept[2], fds[WH_FDS_MAX];
        struct wh_frame f = {.type = WH_FRAME_ADOPT, .to = WH_TO_OWNER, .n_fds = 1};
        CHECK_EQ(wh_os_socketpair(sv), 0);
        for (int i = 0; i < 2; i++)
                CHECK_GE(kept[i] = fcntl(sv[i], F_DUPFD_CLOEXEC, 0), 0);
        CHECK(wh_link_greeted(holder(t, introducer)));
        CHECK_EQ(wh_frame_greet(sv[1], &(struct wh_frame){.type = WH_FRAME_HELLO}, &holder(t, introducer)->hello), 0);
        CHECK_EQ(wh_frame_send(holder(t, introducer)->sock, &f, NULL, 0, &sv[1], false), 0);
        CHECK_EQ(wh_right_from_socket(u, sv[0], true, false, &right), 0);
        wh_os_close(sv[1]);
        struct wharf_sender first = {0};
        for (int i = 0; i < ROUNDS; i++) {
                struct wharf_sender from;
                char word[8], got[8] = {0};
                uint32_t call;
                snprintf(word, sizeof word, "true%d", i);
                struct wharf_msg m = {.size = sizeof m, .data = word, .len_bytes = sizeof word};
                struct wharf_msg in = {.size = sizeof in, .data = got, .cap_bytes = sizeof got};
                struct wharf_msg back = in;
                if (i > 0) {
                        say_everything(kept[0], kept[1]);
                        say_everything(kept[1], kept[0]);
                }
                if (i == ROUNDS / 2)
                        for (int k = 0; k < 2; k++)
                                shutdown(kept[k], SHUT_RDWR);
                CHECK_EQ(wharf_sendmsg(u, right, &m, 0), 0);
                CHECK_EQ(wharf_recv(t, port, got, sizeof got, &from, wharf_in_ms(60000)), sizeof got);
                CHECK_MEM(got, word, sizeof got);
                if (i == 0)
                        first = from;
                CHECK_EQ(from.id, first.id);
                CHECK_EQ(from.pid, getpid());
                CHECK_EQ(wharf_call_start(u, right, &m, WHARF_NONE, 0, &call), 0);
                CHECK_EQ(wharf_recvmsg(t, port, &in, wharf_in_ms(60000)), 0);
                CHECK_MEM(got, word, sizeof got);
                CHECK_EQ(wharf_reply(t, in.reply, "honest", 7), 0);
                CHECK_EQ(wharf_call_finish(u, right, call, &back, wharf_in_ms(60000)), 0);
                CHECK_MEM(got, "honest", 7);
                CHECK_EQ(wharf_recv(t, port, got, sizeof got, NULL, 0), -EAGAIN);
        }
        /* What it can still read is what it wrote itself: no word of the holder's, no answer of the owner's. */
        for (int k = 0; k < 2; k++) {
                uint8_t data[WH_COLD_MAX + WH_FDS_MAX];
                struct wh_cred cred;
                while (wh_frame_recv(kept[k], &f, data, fds, &cred) > 0) {
                        CHECK(f.type != WH_FRAME_MESSAGE || !memcmp(data, "evil", 4));
                        for (unsigned i = 0; i < f.n_fds; i++)
                                wh_os_close(fds[i]);
                }
                close(kept[k]);
        }
        struct wharf_port_stat ps = {.size = sizeof ps};
        CHECK_EQ(wharf_port_stat(t, port, &ps), 0);
        CHECK_EQ(ps.senders, 2);
        CHECK_EQ(ps.refused_links, 0);
        wharf_task_close(u);
        wharf_task_close(t);
}

/* ---- room ---- */

/* What says that a message in pieces was given up takes no place: the next one has the only place there is. */
TEST(a_message_given_up_in_pieces_leaves_its_place)
{
        enum { BIG = 9 << 20 };
        wharf_task *t = task_new();
        struct wharf_port_opts o = {
                .size = sizeof o, .flags = WHARF_PORT_STAYS, .capacity_records = 1, .capacity_bytes = 1 << 20};
        wharf_name port = port_new(t, &o), right = right_attached(t, port);
        uint8_t *big = calloc(1, BIG), got;
        int fd;
        CHECK_EQ(wharf_port_fd(t, port, &fd), 0);
        struct wharf_msg m = {.size = sizeof m, .how = WHARF_HOW_CHUNKS, .data = big, .len_bytes = BIG};
        CHECK_EQ(wharf_sendmsg(t, right, &m, wharf_in_ms(2)), -ETIMEDOUT);
        CHECK_EQ(wharf_recv(t, port, &got, 1, NULL, 0), -EAGAIN); /* it has the first piece, and sleeps */
        CHECK_EQ(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0), 0);
        CHECK_EQ(wharf_send(t, right, "x", 1, 0), 0);
        CHECK_EQ(wharf_send(t, right, "x", 1, 0), -EAGAIN);
        CHECK_EQ(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0), 1);
        CHECK_EQ(wharf_recv(t, port, &got, 1, NULL, 0), 1);
        free(big);
        wharf_task_close(t);
}

/* ---- memory ---- */

static int changing_fd = -1;

static int change_before_seals(enum wh_os_call call)
{
        if (call == WH_OS_get_seals && changing_fd >= 0) {
                int fd = changing_fd;
                changing_fd = -1;
                CHECK_EQ(ftruncate(fd, 0), 0);
                CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE), 0);
        }
        return 0;
}

/*
 * Goal:   memory that is cut while it is being examined is refused, not read (SIGBUS).
 * Method: cut and seal it just before its seals are asked for.
 */
TEST(memory_cut_while_examined)
{
        int out = memfd_create("out", MFD_ALLOW_SEALING | MFD_CLOEXEC), back;
        struct wh_lane_tx *honest;
        struct wh_lane_rx *rx;
        CHECK_EQ(wh_lane_tx_new(4096, 16, &honest), 0);
        back = honest->back_fd;
        CHECK_EQ(fchmod(out, 0600), 0);
        CHECK_EQ(ftruncate(out, (off_t)honest->map_len), 0);
        CHECK_EQ(fallocate(out, 0, 0, (off_t)honest->map_len), 0);
        changing_fd = out;
        wh_os_gate = change_before_seals;
        int r = wh_lane_rx_open(out, back, 1 << 20, &rx);
        wh_os_gate = NULL;
        CHECK_EQ(r, -EPROTO);
        wh_lane_tx_free(honest);
        close(out);
}

/*
 * Goal:   a payload that is read in place stays mapped, whatever the sender says.
 * Method: the sender ends its lane, by a pair of its own, while the receiver holds a block of it.
 */
TEST(end_of_a_lane_with_a_block_held)
{
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL), right = right_attached(t, port), good = right_new(t, port);
        static char data[4096] = {'x'};
        char buf[16];
        CHECK_EQ(wharf_send(t, right, data, sizeof data, WHARF_FOREVER), 0);
        struct wharf_msg m = {.size = sizeof m, .flags = WHARF_RECV_IN_PLACE};
        CHECK_EQ(wharf_recvmsg(t, port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(m.how, WHARF_HOW_SECTION);
        struct wh_link *l = holder(t, right);
        wh_lock(&l->o.lock);
        l->provisional = true;
        CHECK_EQ(wh_link_rebind(l), 0);
        CHECK(!l->out.lane);
        wh_unlock(&l->o.lock);
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(10)), -ETIMEDOUT);
        CHECK_EQ(*(volatile char *)m.data, 'x');
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(t, port, &st), 0);
        CHECK_GE(st.mapped_bytes, sizeof data); /* it has ended, and its memory is there as long as it is held */
        wharf_release(t, &m);
        CHECK_EQ(wharf_port_stat(t, port, &st), 0);
        CHECK_EQ(st.mapped_bytes, 0);
        still_serves(t, port, right);
        still_serves(t, port, good);
        wharf_task_close(t);
}

/*
 * Goal:   a record of a kind that does not exist ends its link.
 * Method: the one number among the kinds that none has, with a head's worth of bytes behind it and without.
 */
TEST(a_record_of_no_kind_ends_its_link)
{
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL), good = right_new(t, port);
        for (uint32_t len = 0; len <= sizeof(struct wh_rec_ext); len += sizeof(struct wh_rec_ext)) {
                wharf_name bad = right_attached(t, port);
                struct wharf_right_stat st = {.size = sizeof st};
                char buf[16];
                put_record(holder(t, bad), (enum wh_rec_kind)7, &(struct wh_rec_ext){0}, len);
                CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(10)), -ETIMEDOUT);
                CHECK_EQ(wharf_right_stat(t, bad, &st), 0);
                CHECK(st.dead);
                still_serves(t, port, good);
                wharf_drop(t, bad);
        }
        wharf_task_close(t);
}

/* Goal: what a sender says of how much it has sent is no figure that its receiver gives. */
TEST(figures_of_a_port_are_not_what_a_sender_says)
{
        static const uint64_t said[] = {UINT64_MAX, UINT64_MAX / 2, 70000, 0};
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL), right = right_attached(t, port);
        for (unsigned i = 0; i < sizeof said / sizeof *said; i++) {
                struct wharf_port_stat st = {.size = sizeof st};
                atomic_store(&holder(t, right)->out.lane->ring.out->sent_messages, said[i]);
                CHECK_EQ(wharf_port_stat(t, port, &st), 0);
                CHECK_EQ(st.queued_messages, 0);
        }
        wharf_task_close(t);
}

/* Goal: an owner that refuses for a reason that means "try again" does not have its sender try for ever. */
TEST(a_refusal_that_would_have_a_sender_try_again_is_none)
{
        static const int said[] = {EAGAIN, ETIMEDOUT, EINTR, ECANCELED, 0, 100000};
        wharf_task *t = task_new();
        for (unsigned i = 0; i < sizeof said / sizeof *said; i++) {
                int sv[2];
                wharf_name right;
                struct wh_frame f = {.type = WH_FRAME_REFUSE, .to = WH_TO_HOLDER, .arg = (uint32_t)said[i]};
                CHECK_EQ(wh_os_socketpair(sv), 0);
                CHECK_EQ(wh_frame_send(sv[1], &f, NULL, 0, NULL, false), 0);
                CHECK_EQ(wh_right_from_socket(t, sv[0], false, false, &right), 0);
                wh_right_greet(t, right);
                CHECK_EQ(wharf_send(t, right, "x", 1, wharf_in_ms(2000)), -EPROTO);
                CHECK_EQ(wharf_drop(t, right), 0);
                close(sv[1]);
        }
        wharf_task_close(t);
}

static void check_dead(wharf_task *t, wharf_name right)
{
        struct wharf_right_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_right_stat(t, right, &st), 0);
        CHECK(st.dead < 0);
}

/* ---- limits ---- */

/*
 * Goal:   no sender gets a message past the port's limit, to lie first in the queue of a receiver with that much room.
 * Method: a record of plain bytes, larger than the limit: for a buffer that is smaller than that, and for one that is
 *         not, received by either call, from a link that was busy just now and from one that was not.
 */
TEST(plain_record_beyond_the_limit)
{
        wharf_task *t = task_new();
        wharf_name port =
                port_new(t, &(struct wharf_port_opts){.size = sizeof(struct wharf_port_opts), .payload_bytes_max = 16});
        wharf_name good = right_new(t, port), bad = right_attached(t, port);
        static char data[600];
        char buf[1000];
        put_record(holder(t, bad), WH_REC_PLAIN, data, sizeof data);
        CHECK_EQ(wharf_recv(t, port, buf, 16, NULL, wharf_in_ms(10)), -ETIMEDOUT);
        still_serves(t, port, good);
        for (int busy = 0; busy < 2; busy++) {
                bad = right_attached(t, port);
                for (int i = 0; i < 10 && busy; i++) {
                        CHECK_EQ(wharf_send(t, bad, "x", 1, 0), 0);
                        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, 0), 1);
                }
                put_record(holder(t, bad), WH_REC_PLAIN, data, 17);
                CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(10)), -ETIMEDOUT);
                check_dead(t, bad);
                still_serves(t, port, good);
        }
        wharf_task_close(t);
}

/*
 * Goal:   parts in records cost a liar its link and nobody anything else.
 * Method: records that no honest sender writes, one a link; then a message that is begun and never finished.
 */
TEST(pieces_that_no_honest_sender_writes)
{
        wharf_task *t = task_new();
        wharf_name port = port_new(
                t, &(struct wharf_port_opts){.size = sizeof(struct wharf_port_opts), .payload_bytes_max = 1 << 20});
        wharf_name good = right_new(t, port);
        struct piece {
                struct wh_rec_ext ext;
                uint64_t total;
                uint8_t bytes[100];
        };
        const struct {
                uint64_t total, next_total;
                uint32_t len, next_len;
                uint16_t n_items;
        } lies[] = {
                {0, 0, 100, 0, 0},           {99, 0, 100, 0, 0},    {(1 << 20) + 1, 0, 100, 0, 0},
                {UINT64_MAX, 0, 100, 0, 0},  {1000, 1000, 0, 0, 0}, /* nothing in it */
                {1000, 1001, 100, 100, 0},                          /* changes its mind */
                {150, 150, 100, 51, 0},                             /* more than it said */
                {1000, 0, 100, 0, 1},                               /* descriptors that never came */
                {1000, 0, UINT32_MAX, 0, 0},                        /* no place for the length */
        };
        char buf[16];
        for (unsigned i = 0; i < sizeof lies / sizeof *lies; i++) {
                wharf_name bad = right_attached(t, port);
                struct wh_link *l = holder(t, bad);
                struct piece p = {.total = lies[i].total, .ext.n_items = lies[i].n_items};
                const uint32_t head = offsetof(struct piece, bytes);
                put_record(l, WH_REC_PIECE, &p, lies[i].len == UINT32_MAX ? head - 1 : head + lies[i].len);
                p.total = lies[i].next_total;
                if (lies[i].next_total)
                        put_record(l, WH_REC_PIECE, &p, head + lies[i].next_len);
                CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(10)), -ETIMEDOUT);
                still_serves(t, port, good);
                check_dead(t, bad);
                CHECK_EQ(wharf_drop(t, bad), 0);
        }
        wharf_name slow = right_attached(t, port);
        struct piece p = {.total = 1000};
        put_record(holder(t, slow), WH_REC_PIECE, &p, sizeof p);
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(10)), -ETIMEDOUT);
        still_serves(t, port, good);
        wharf_task_close(t);
}

/* An owner of frames alone, at the other end of a right that was connected to it. */
static int owner_new(wharf_task *t, wharf_name *ret)
{
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        int listening = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), sock;
        snprintf(sa.sun_path, sizeof sa.sun_path, "%s/owner", test_dir());
        CHECK_EQ(bind(listening, (struct sockaddr *)&sa, sizeof sa), 0);
        CHECK_EQ(listen(listening, 1), 0);
        CHECK_EQ(wharf_right_connect(t, sa.sun_path, ret), 0);
        sock = accept(listening, NULL, NULL);
        CHECK_GE(sock, 0);
        close(listening);
        unlink(sa.sun_path);
        return sock;
}

static void greet(int sock, uint32_t capacity_records)
{
        struct wh_hello h = {.port_id = 1,
                             .payload_bytes_max = 1 << 30,
                             .link_mapped_bytes_max = 64 << 20,
                             .capacity_records = capacity_records,
                             .unread_rights_max = 64};
        struct wh_frame f = {.type = WH_FRAME_HELLO, .to = WH_TO_HOLDER};
        CHECK_EQ(wh_frame_send(sock, &f, &h, sizeof h, NULL, false), 0);
}

/* The lane that the next frames hand over; NULL when they do not. */
static struct wh_lane_rx *lane_of(int sock)
{
        struct wh_lane_rx *rx = NULL;
        struct wh_frame f;
        uint8_t data[WH_COLD_MAX + WH_FDS_MAX];
        int fds[WH_FDS_MAX];
        struct wh_cred cred;
        while (!rx && wh_frame_recv(sock, &f, data, fds, &cred) > 0) {
                if (f.type == WH_FRAME_ATTACH)
                        CHECK_EQ(wh_lane_rx_open(fds[0], fds[1], 64 << 20, &rx), 0);
                for (unsigned i = 0; i < f.n_fds; i++)
                        close(fds[i]);
        }
        return rx;
}

/*
 * Goal:   a later version may say more in its greeting; one that says less is no greeting.
 * Method: the same link is greeted so, then the next one with what was added later left out, then with a byte less.
 */
TEST(greeting_that_says_more)
{
        struct wh_hello h = {.port_id = 7, .payload_bytes_max = 100, .capacity_records = 8};
        uint8_t bytes[sizeof h + 300];
        memset(bytes, 0xee, sizeof bytes);
        memcpy(bytes, &h, sizeof h);
        static const size_t lens[] = {sizeof bytes, WH_HELLO_MIN, WH_HELLO_MIN - 1};
        for (unsigned i = 0; i < 3; i++) {
                const bool k = i == 2;
                wharf_task *t = task_new();
                wharf_name right;
                int sock = owner_new(t, &right);
                struct wh_frame f = {.type = WH_FRAME_HELLO, .to = WH_TO_HOLDER};
                CHECK_EQ(wh_frame_send(sock, &f, bytes, lens[i], NULL, false), 0);
                struct wharf_right_stat st = {.size = sizeof st};
                int r = 0;
                for (unsigned n = 0; n < 3 && r == 0; n++) /* one may go before the greeting is read */
                        r = wharf_send(t, right, bytes, 50, wharf_in_ms(60000));
                CHECK_EQ(r, k ? -EPROTO : 0);
                CHECK_EQ(wharf_right_stat(t, right, &st), 0);
                CHECK_EQ(st.id.v, k ? 0 : 7);
                CHECK_EQ(wharf_send(t, right, bytes, 101, 0), k ? -EPROTO : -EMSGSIZE);
                close(sock);
                wharf_task_close(t);
        }
}

/*
 * Goal:   an owner that changes what it claims to take ends at most its own link: no assertion, no lie to the sender.
 * Method: a lane is made for what a greeting said; then another greets with every other capacity, and messages of all
 *         sizes are sent until nothing moves.
 */
TEST(greeting_that_changes_its_mind)
{
        static const uint32_t capacity[] = {1, 2, 64, 1024, 65536, WHARF_UNBOUNDED, WHARF_RENDEZVOUS};
        static const size_t len[] = {0, 1, 1000, 5000, 32 << 10, 300 << 10};
        static char data[300 << 10];
        enum { CAPACITIES = sizeof capacity / sizeof *capacity };
        for (unsigned k = 0; k < CAPACITIES * CAPACITIES; k++) {
                wharf_task *t = task_new();
                wharf_name right;
                uint32_t first = capacity[k % CAPACITIES], then = capacity[k / CAPACITIES];
                int sock = owner_new(t, &right), r;
                uint64_t sent = 0;
                greet(sock, first);
                struct wharf_msg m = {.size = sizeof m, .how = WHARF_HOW_INLINE, .data = data, .len_bytes = 1};
                r = wharf_sendmsg(t, right, &m, 0);
                CHECK_EQ(r, first == WHARF_RENDEZVOUS ? -EAGAIN : 0);
                sent += r == 0;
                struct wh_lane_rx *rx = lane_of(sock);
                CHECK(rx);
                greet(sock, then);
                /* Asleep, and asking to be heard: the sender reads the greeting when it rings. */
                atomic_store(&rx->ring.back->renew, 1);
                wh_ring_sleep(&rx->ring);
                for (unsigned i = 0; i < sizeof len / sizeof *len; i++)
                        for (int n = 0; n < 300; n++) {
                                r = wharf_send(t, right, data, len[i], 0);
                                sent += r == 0;
                                CHECK(r == 0 || r == -EAGAIN || r == -ENOBUFS || r == -EDQUOT || r == -EPROTO);
                                if (r < 0)
                                        break;
                        }
                /* Bounded from the first on, it stays so, in whatever way the messages went. */
                if (first < WHARF_UNBOUNDED)
                        CHECK_LE(sent, first);
                wh_lane_rx_free(rx);
                close(sock);
                wharf_task_close(t);
        }
}

/* ---- waits that must end ---- */

/*
 * Goal:   receiving from one sender waits for that one, and for no longer than asked, while others' messages lie there.
 * Method: a message of another sender is there, in a frame or in a lane, with and without the port's descriptor in use.
 */
TEST(receive_from_one_ends_in_time)
{
        for (int way = 0; way < 4; way++) {
                wharf_task *t = task_new();
                wharf_name port = port_new(t, NULL), other, wanted = right_new(t, port);
                char buf[16];
                int fd;
                struct wharf_sender from;
                CHECK_EQ(wharf_send(t, wanted, "1", 1, 0), 0);
                CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, &from, 0), 1);
                other = way & 1 ? right_attached(t, port) : right_new(t, port);
                if (way & 2)
                        CHECK_EQ(wharf_port_fd(t, port, &fd), 0);
                CHECK_EQ(wharf_send(t, other, "22", 2, 0), 0);
                struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf, .from = from.id};
                CHECK_EQ(wharf_recvmsg(t, port, &m, 0), -EAGAIN);
                CHECK_EQ(wharf_recvmsg(t, port, &m, wharf_in_ms(20)), -ETIMEDOUT);
                CHECK_EQ(wharf_send(t, wanted, "333", 3, 0), 0);
                CHECK_EQ(wharf_recvmsg(t, port, &m, way & 2 ? 0 : wharf_in_ms(60000)), 0);
                CHECK_EQ(m.len_bytes, 3);
                CHECK_EQ(wharf_recvmsg(t, port, &m, wharf_in_ms(20)), -ETIMEDOUT);
                if (way & 2)
                        CHECK_EQ(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0), 1);
                CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(60000)), 2);
                wharf_task_close(t);
        }
}

struct one_receive {
        wharf_task *t;
        wharf_name port;
        uint64_t from;
        int r;
        size_t len;
};

static void *receive_one(void *arg)
{
        struct one_receive *o = arg;
        char buf[16];
        struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf, .from = o->from};
        o->r = wharf_recvmsg(o->t, o->port, &m, WHARF_FOREVER);
        o->len = m.len_bytes;
        return NULL;
}

/*
 * Goal:   a thread that waits for one sender does not keep the others' messages from the other threads.
 * Method: it leads and sleeps; then another waits for anybody; then somebody sends, then the one.
 */
TEST(receive_from_one_beside_receive_from_any)
{
        for (int round = 0; round < 20; round++) {
                wharf_task *t = task_new();
                wharf_name port = port_new(t, NULL), wanted = right_attached(t, port), other = right_attached(t, port);
                char buf[16];
                struct wharf_sender from;
                pthread_t one, any;
                CHECK_EQ(wharf_send(t, wanted, "1", 1, 0), 0);
                CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, &from, 0), 1);
                struct one_receive a = {t, port, from.id, 1, 0}, b = {t, port, 0, 1, 0};
                CHECK_EQ(pthread_create(&one, NULL, receive_one, &a), 0);
                usleep(1000);
                CHECK_EQ(pthread_create(&any, NULL, receive_one, &b), 0);
                usleep(round % 2 ? 1000 : 0);
                CHECK_EQ(wharf_send(t, other, "22", 2, 0), 0);
                pthread_join(any, NULL);
                CHECK_EQ(b.r, 0);
                CHECK_EQ(b.len, 2);
                CHECK_EQ(wharf_send(t, wanted, "333", 3, 0), 0);
                pthread_join(one, NULL);
                CHECK_EQ(a.r, 0);
                CHECK_EQ(a.len, 3);
                wharf_task_close(t);
        }
}

/*
 * Goal:   a sender without room waits as long as it was told, whatever else lies on its link.
 * Method: a reply that nobody has fetched; and blocks that the receiver holds while it takes the records.
 */
TEST(send_without_room_ends_in_time)
{
        struct wharf_port_opts small = {.size = sizeof small, .capacity_records = 4};
        wharf_task *t = task_new();
        wharf_name port = port_new(t, &small), right = right_attached(t, port);
        char buf[16];
        uint32_t call;
        struct wharf_msg q = {.size = sizeof q, .data = (char[]){'q'}, .len_bytes = 1};
        struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
        CHECK_EQ(wharf_call_start(t, right, &q, WHARF_NONE, WHARF_FOREVER, &call), 0);
        CHECK_EQ(wharf_recvmsg(t, port, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_reply(t, m.reply, "answer", 6), 0);
        int r;
        while ((r = wharf_send(t, right, "x", 1, 0)) == 0)
                ;
        CHECK_EQ(r, -EAGAIN);
        CHECK_EQ(wharf_send(t, right, "x", 1, wharf_in_ms(20)), -ETIMEDOUT);
        CHECK_EQ(wharf_call_finish(t, right, call, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(m.len_bytes, 6);
        wharf_task_close(t);

        t = task_new();
        port = port_new(t, NULL);
        right = right_attached(t, port);
        const size_t len = 4 << 20;
        char *data = calloc(1, len);
        struct wharf_msg held[64];
        unsigned n = 0;
        while (n < 64 && (r = wharf_send(t, right, data, len, 0)) == 0) {
                held[n] = (struct wharf_msg){.size = sizeof m, .flags = WHARF_RECV_IN_PLACE};
                CHECK_EQ(wharf_recvmsg(t, port, &held[n++], WHARF_FOREVER), 0);
                CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(1)), -ETIMEDOUT);
        }
        CHECK_EQ(r, -EAGAIN);
        CHECK_EQ(wharf_send(t, right, data, len, wharf_in_ms(20)), -ETIMEDOUT);
        while (n--)
                wharf_release(t, &held[n]);
        CHECK_EQ(wharf_send(t, right, data, len, wharf_in_ms(60000)), 0);
        free(data);
        wharf_task_close(t);
}

static void *poll_for_messages(void *arg)
{
        struct one_receive *o = arg;
        char buf[16];
        for (int n = 0; n < 100;) {
                ssize_t r = wharf_recv(o->t, o->port, buf, sizeof buf, NULL, 0);
                n += r > 0;
                if (r == -EAGAIN)
                        usleep(10);
        }
        return NULL;
}

/*
 * Goal:   room that a receiver makes without ever sleeping reaches a sender that sleeps.
 * Method: the receiver only asks with deadline 0. And: it takes one message, and asks for no more.
 */
TEST(room_made_by_a_receiver_that_never_sleeps)
{
        struct wharf_port_opts small = {.size = sizeof small, .capacity_records = 4};
        wharf_task *t = task_new();
        wharf_name port = port_new(t, &small), right = right_attached(t, port);
        struct one_receive o = {.t = t, .port = port};
        pthread_t poller;
        CHECK_EQ(pthread_create(&poller, NULL, poll_for_messages, &o), 0);
        for (int i = 0; i < 100; i++)
                CHECK_EQ(wharf_send(t, right, "x", 1, wharf_in_ms(60000)), 0);
        pthread_join(poller, NULL);
        char buf[16];
        while (wharf_send(t, right, "x", 1, 0) == 0)
                ;
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, 0), 1);
        CHECK_EQ(wharf_send(t, right, "x", 1, wharf_in_ms(60000)), 0);
        wharf_task_close(t);
}

static int ring_for_ever(void *arg)
{
        int sock = *(int *)arg;
        pid_t parent = getppid();
        while (getppid() == parent)
                wh_frame_bell(sock);
        return 0;
}

/*
 * Goal:   a flood of doorbells keeps nobody from its deadline, nor others from being served.
 * Method: a process that rings without end; one port, a second sender.
 */
TEST(flood_of_bells)
{
        for (int lane = 0; lane < 2; lane++) {
                wharf_task *t = task_new();
                wharf_name port = port_new(t, NULL), good = right_new(t, port);
                wharf_name bad = lane ? right_attached(t, port) : right_new(t, port);
                int sock = dup(holder(t, bad)->sock);
                pid_t pid = test_fork(ring_for_ever, &sock);
                char buf[16];
                for (int i = 0; i < 5; i++) {
                        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(10)), -ETIMEDOUT);
                        still_serves(t, port, good);
                }
                kill(pid, SIGKILL);
                test_wait(pid);
                close(sock);
                wharf_task_close(t);
        }
}

static struct {
        int sock;
        pthread_t thread;
        unsigned bells;
} flood;

/* One more doorbell before each look of this thread at the sockets. */
static int ring_at_each_look(enum wh_os_call call)
{
        if (call == WH_OS_epoll_wait && pthread_equal(pthread_self(), flood.thread)) {
                const char byte = 0;
                flood.bells += send(flood.sock, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1;
        }
        return 0;
}

static bool is_readable(int fd)
{
        struct pollfd p = {.fd = fd, .events = POLLIN};
        return poll(&p, 1, 0) == 1;
}

/*
 * Goal:   a receive that may not wait and gives up, since something comes at each of its looks, does not say that all
 *         is armed: the descriptor stays readable, or an event loop would sleep on a message that nobody rings for.
 * Method: doorbells on one link at each look; the other link is awake, and stands behind it.
 */
TEST(a_receive_that_gives_up_leaves_the_descriptor_readable)
{
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL), good = right_attached(t, port), bad = right_new(t, port);
        char buf[16];
        int fd;
        CHECK_EQ(wharf_port_fd(t, port, &fd), 0);
        flood.sock = holder(t, bad)->sock;
        flood.thread = pthread_self();
        for (int round = 0; round < 3; round++) {
                struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
                CHECK_EQ(wharf_recvmsg(t, port, &m, 0), -EAGAIN);
                CHECK(!is_readable(fd)); /* everything is armed */
                /* Both are awake now, in this order. */
                wh_frame_bell(flood.sock);
                wh_frame_bell(holder(t, good)->sock);
                flood.bells = 0;
                wh_os_gate = ring_at_each_look;
                m = (struct wharf_msg){.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
                int r = wharf_recvmsg(t, port, &m, 0);
                wh_os_gate = NULL;
                CHECK_EQ(r, -EAGAIN);
                CHECK_GE(flood.bells, 2);
                CHECK(is_readable(fd));
                CHECK_EQ(wharf_send(t, good, "here", 4, 0), 0);
                CHECK(is_readable(fd));
                m = (struct wharf_msg){.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
                CHECK_EQ(wharf_recvmsg(t, port, &m, 0), 0);
                CHECK_EQ(m.len_bytes, 4);
        }
        wharf_task_close(t);
}

/* ---- rights and pieces ---- */

/*
 * Goal:   the rights of a message are those it was sent with, whatever was read ahead.
 * Method: a message in pieces whose section, and the next message's descriptor, wait in the socket together.
 */
TEST(items_stay_with_their_message)
{
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL), right = right_attached(t, port);
        const size_t len = 300000;
        char *data = calloc(1, len), *got = malloc(len);
        struct wharf_item item = {.kind = WHARF_COPY_FD, .fd = 0}, items[2];
        struct wharf_msg big = {.size = sizeof big, .how = WHARF_HOW_CHUNKS, .data = data, .len_bytes = len};
        struct wharf_msg with = {.size = sizeof with, .data = data, .len_bytes = 1, .items = &item, .n_items = 1};
        CHECK_EQ(wharf_sendmsg(t, right, &big, 0), 0);
        CHECK_EQ(wharf_sendmsg(t, right, &with, 0), 0);
        struct wharf_msg m = {.size = sizeof m, .data = got, .cap_bytes = len, .items = items, .cap_items = 2};
        CHECK_EQ(wharf_recvmsg(t, port, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(m.len_bytes, len);
        CHECK_EQ(m.n_items, 0);
        CHECK_EQ(wharf_recvmsg(t, port, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(m.len_bytes, 1);
        CHECK_EQ(m.n_items, 1);
        close(items[0].fd);
        free(data);
        free(got);
        wharf_task_close(t);
}

/*
 * Goal:   who was asked to answer in another's place cannot leave descriptors or memory with the caller.
 * Method: on the socket of a delegated reply: a lane, then descriptors for a record; or the first half of a message
 *         with descriptors, then the end.
 */
TEST(delegated_reply_leaks_nothing)
{
        for (int way = 0; way < 2; way++) {
                wharf_task *t = task_new();
                wharf_name port = port_new(t, NULL), right = right_attached(t, port), second = port_new(t, NULL);
                wharf_name to_second = right_attached(t, second);
                char buf[16];
                uint32_t call;
                struct wharf_item item = {0}, got;
                struct wharf_msg q = {.size = sizeof q, .data = (char[]){'q'}, .len_bytes = 1};
                struct wharf_msg m = {
                        .size = sizeof m, .data = buf, .cap_bytes = sizeof buf, .items = &got, .cap_items = 1};
                CHECK_EQ(wharf_call_start(t, right, &q, WHARF_NONE, WHARF_FOREVER, &call), 0);
                CHECK_EQ(wharf_recvmsg(t, port, &m, WHARF_FOREVER), 0);
                item.kind = WHARF_MOVE_REPLY;
                item.name = m.reply;
                struct wharf_msg d = {.size = sizeof d, .items = &item, .n_items = 1};
                CHECK_EQ(wharf_sendmsg(t, to_second, &d, WHARF_FOREVER), 0);
                CHECK_EQ(wharf_recvmsg(t, second, &m, WHARF_FOREVER), 0);
                CHECK_EQ(got.kind, WHARF_GOT_REPLY);
                struct wh_link *l = holder(t, got.name);
                uint8_t kinds[2] = {WH_ITEM_FD, WH_ITEM_FD};
                if (way == 0) {
                        l->greeted = true; /* by a port that takes little */
                        l->hello.capacity_records = 16;
                        CHECK_EQ(wh_link_attach(l), 0);
                        struct wh_frame f = {.type = WH_FRAME_ITEMS, .n_fds = 2};
                        CHECK_EQ(wh_link_frame(l, &f, kinds, 2, (int[]){0, 1}, false), 0);
                } else {
                        struct wh_frame f = {.type = WH_FRAME_MESSAGE, .n_fds = 2, .total = 5, .arg = WH_MSG_FIRST};
                        CHECK_EQ(wh_link_frame(l, &f, kinds, 2, (int[]){0, 1}, false), 0);
                        CHECK_EQ(wharf_call_finish(t, right, call, &m, wharf_in_ms(10)), -ETIMEDOUT);
                }
                wharf_drop(t, got.name);
                int r = wharf_call_finish(t, right, call, &m, wharf_in_ms(60000));
                CHECK_EQ(r, way ? -ECANCELED : -EPROTO);
                wharf_task_close(t); /* the harness counts what is left */
        }
}

/*
 * Goal:   a payload that was coming into one thread's buffer is never handed to another thread as memory to free.
 * Method: one thread waits with a buffer while the first piece comes; another receives with WHARF_RECV_ALLOC.
 */
static void *receive_large(void *arg)
{
        struct one_receive *o = arg;
        char *buf = malloc(300000);
        struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = 300000};
        o->r = wharf_recvmsg(o->t, o->port, &m, WHARF_FOREVER);
        free(buf);
        return NULL;
}

/* One of two pieces of 1000 bytes of a message, published and not rung for. */
static void publish_half(struct wh_link *l)
{
        uint16_t slot;
        void *mem;
        CHECK_EQ(wh_link_lend(l, 1000, &slot, &mem), 0);
        memset(mem, 'x', 1000);
        struct {
                struct wh_rec_ext ext;
                struct wh_rec_block block;
        } rec = {.block = wh_lane_block(l->out.lane, slot, 1000, 2000)};
        wh_lane_slot_sent(l->out.lane, slot);
        void *at = wh_ring_reserve(&l->out.lane->ring, sizeof rec);
        memcpy(at, &rec, sizeof rec);
        wh_ring_publish(&l->out.lane->ring, WH_REC_CHUNK, sizeof rec);
}

TEST(pieces_in_anothers_buffer)
{
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL), right = right_attached(t, port);
        struct one_receive o = {.t = t, .port = port};
        pthread_t waiter;
        CHECK_EQ(pthread_create(&waiter, NULL, receive_large, &o), 0);
        usleep(5000);
        struct wh_link *l = holder(t, right);
        for (int piece = 0; piece < 2; piece++) {
                if (piece == 1)
                        atomic_store((_Atomic uint32_t *)(uintptr_t)&l->out.lane->ring.back->want, 0);
                publish_half(l);
                if (piece == 0) {
                        if (wh_ring_must_ring(&l->out.lane->ring))
                                wh_frame_bell(l->sock);
                        usleep(20000); /* the waiting thread takes it, and sleeps again */
                        continue;
                }
                /* Not rung: the one who comes by finds it first. */
                struct wharf_msg m = {.size = sizeof m, .flags = WHARF_RECV_ALLOC};
                int err;
                struct wh_port *p;
                struct wh_inbox *in = wh_inbox_lock(t, port, &p, &err);
                struct wh_link *mine = &wh_container(p->links.next, struct wh_owned, in_port)->link;
                if (!wh_list_linked(&wh_owned(mine)->hot))
                        wh_list_push_back(&in->hot, &wh_owned(mine)->hot);
                wh_unlock(&in->lock);
                CHECK_EQ(wharf_recvmsg(t, port, &m, 0), 0);
                CHECK_EQ(m.len_bytes, 2000);
                CHECK_EQ(((char *)m.data)[1999], 'x');
                wharf_release(t, &m);
        }
        l->out.seq++;
        CHECK_EQ(wharf_send(t, right, "end", 3, 0), 0);
        pthread_join(waiter, NULL);
        CHECK_EQ(o.r, 0);
        wharf_task_close(t);
}

/*
 * Goal:   a payload that comes into the buffer of a receive leaves it when the port joins a set (under asan).
 * Method: as pieces_in_anothers_buffer; between the two pieces the port is put into a set, and the waiter has freed its buffer.
 */
TEST(pieces_leave_the_buffer_with_their_port)
{
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL), right = right_attached(t, port), set;
        struct one_receive o = {.t = t, .port = port};
        pthread_t waiter;
        CHECK_EQ(wharf_set_new(t, &set), 0);
        CHECK_EQ(pthread_create(&waiter, NULL, receive_large, &o), 0); /* frees its buffer when it returns */
        struct wharf_port_stat st = {.size = sizeof st};
        do {
                usleep(1000);
                CHECK_EQ(wharf_port_stat(t, port, &st), 0);
        } while (!st.receivers_waiting);
        struct wh_link *l = holder(t, right);
        for (int piece = 0; piece < 2; piece++) {
                publish_half(l);
                if (wh_ring_must_ring(&l->out.lane->ring))
                        wh_frame_bell(l->sock);
                if (piece == 0) {
                        usleep(20000); /* it takes the piece, and sleeps again */
                        CHECK_EQ(wharf_set_add(t, set, port), 0);
                        pthread_join(waiter, NULL);
                        CHECK_EQ(o.r, -ECANCELED);
                }
        }
        l->out.seq++;
        char buf[2000];
        CHECK_EQ(wharf_recv(t, set, buf, sizeof buf, NULL, wharf_in_ms(60000)), 2000);
        CHECK_EQ(buf[0], 'x');
        wharf_task_close(t);
}

/*
 * Goal:   rights sent before there is a lane count as unread only until they are read.
 * Method: as many as may be unread at once; the receiver takes them; then more.
 */
TEST(rights_in_frames_are_forgotten_when_read)
{
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL), right = right_new(t, port);
        struct wharf_item items[WHARF_ITEMS_MAX];
        for (int round = 0; round < 40; round++) {
                for (unsigned i = 0; i < WHARF_ITEMS_MAX; i++)
                        items[i] = (struct wharf_item){.kind = WHARF_COPY_FD, .fd = 0};
                struct wharf_msg m = {.size = sizeof m, .items = items, .n_items = WHARF_ITEMS_MAX};
                CHECK_EQ(wharf_sendmsg(t, right, &m, 0), 0);
                m.n_items = 1;
                CHECK_EQ(wharf_sendmsg(t, right, &m, 0), -ETOOMANYREFS);
                struct wharf_msg g = {.size = sizeof g, .items = items, .cap_items = WHARF_ITEMS_MAX};
                CHECK_EQ(wharf_recvmsg(t, port, &g, wharf_in_ms(60000)), 0);
                for (unsigned i = 0; i < g.n_items; i++)
                        close(items[i].fd);
        }
        wharf_task_close(t);
}

/* ---- sets, notices, listening ---- */

/*
 * Goal:   a set whose descriptor is in somebody's loop shows what lies in a port that joins it.
 * Method: a message in a lane, whose receiver is awake, so that no doorbell was rung.
 */
TEST(port_joins_a_watched_set)
{
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL), right = right_attached(t, port), set;
        int fd;
        char buf[16];
        wharf_name quiet = port_new(
                t, &(struct wharf_port_opts){.size = sizeof(struct wharf_port_opts), .flags = WHARF_PORT_STAYS});
        CHECK_EQ(wharf_set_new(t, &set), 0);
        CHECK_EQ(wharf_set_add(t, set, quiet), 0);
        CHECK_EQ(wharf_port_fd(t, set, &fd), 0);
        CHECK_EQ(wharf_recv(t, set, buf, sizeof buf, NULL, 0), -EAGAIN);
        CHECK_EQ(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0), 0);
        CHECK_EQ(wharf_send(t, right, "x", 1, 0), 0);
        CHECK_EQ(wharf_set_add(t, set, port), 0);
        CHECK_EQ(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0), 1);
        CHECK_EQ(wharf_recv(t, set, buf, sizeof buf, NULL, 0), 1);
        wharf_task_close(t);
}

/*
 * Goal:   a full port that looks for dead links takes no message from the sight of others.
 * Method: a message waits, announced by the port's descriptor; then a right too many is asked for.
 */
TEST(full_port_stays_readable)
{
        wharf_task *t = task_new();
        wharf_name port =
                port_new(t, &(struct wharf_port_opts){.size = sizeof(struct wharf_port_opts), .links_max = 1});
        wharf_name right = right_attached(t, port), none;
        int fd;
        char buf[16];
        CHECK_EQ(wharf_port_fd(t, port, &fd), 0);
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, 0), -EAGAIN);
        CHECK_EQ(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0), 0);
        CHECK_EQ(wharf_send(t, right, "x", 1, 0), 0);
        CHECK_EQ(wharf_right_new(t, port, &none), -EMLINK);
        CHECK_EQ(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 0), 1);
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, 0), 1);
        wharf_task_close(t);
}

static void *call_often(void *arg)
{
        struct one_receive *o = arg;
        for (int i = 0; i < 300 && o->r == 0; i++) {
                char q[8] = {0}, a[8];
                q[0] = (char)i;
                ssize_t n = wharf_call(o->t, o->port, q, 8, a, sizeof a, wharf_in_ms(60000));
                o->r = n != 8 || a[0] != q[0];
        }
        return NULL;
}

static void *serve_often(void *arg)
{
        struct one_receive *o = arg;
        char buf[8];
        struct wharf_msg m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
        while ((o->r = wharf_recvmsg(o->t, o->port, &m, WHARF_FOREVER)) == 0)
                if ((o->r = wharf_reply(o->t, m.reply, buf, m.len_bytes)) < 0)
                        break;
        return NULL;
}

/*
 * Goal:   of several threads that call on one right, each gets its reply, by frame or by record.
 * Method: four of them, on fresh rights, so that the first replies are frames.
 */
TEST(calls_of_many_threads_on_one_right)
{
        wharf_task *t = task_new();
        for (int round = 0; round < 5; round++) {
                wharf_name port = port_new(t, NULL), right = right_new(t, port);
                struct one_receive serve = {.t = t, .port = port}, call[4];
                pthread_t server, caller[4];
                CHECK_EQ(pthread_create(&server, NULL, serve_often, &serve), 0);
                for (int i = 0; i < 4; i++) {
                        call[i] = (struct one_receive){.t = t, .port = right};
                        CHECK_EQ(pthread_create(&caller[i], NULL, call_often, &call[i]), 0);
                }
                for (int i = 0; i < 4; i++) {
                        pthread_join(caller[i], NULL);
                        CHECK_EQ(call[i].r, 0);
                }
                wharf_drop(t, right);
                pthread_join(server, NULL);
                CHECK_EQ(serve.r, -ENOTCONN);
                wharf_drop(t, port);
        }
        wharf_task_close(t);
}

/* The number of a call fits what names it, however many there were. */
TEST(calls_beyond_two_to_the_31)
{
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL), right = right_new(t, port);
        wh_held(holder(t, right))->last_call = INT32_MAX - 1;
        for (int i = 0; i < 4; i++) {
                char buf[8];
                uint32_t call;
                struct wharf_msg q = {.size = sizeof q}, m = {.size = sizeof m, .data = buf, .cap_bytes = sizeof buf};
                CHECK_EQ(wharf_call_start(t, right, &q, WHARF_NONE, 0, &call), 0);
                CHECK_EQ(wharf_recvmsg(t, port, &m, wharf_in_ms(60000)), 0);
                CHECK_EQ(wharf_call_finish(t, right, call, &m, 0), -EAGAIN);
                CHECK_EQ(wharf_reply(t, m.reply, "yes", 3), 0);
                CHECK_EQ(wharf_call_finish(t, right, call, &m, 0), 0); /* it is there: no waiting */
                CHECK_EQ(m.len_bytes, 3);
        }
        wharf_task_close(t);
}

/*
 * Goal:   a dead-name notice arrives wherever the port that asked for it is by then, and a right can be watched anew
 *         when that port is gone.
 */
TEST(notice_follows_the_port)
{
        wharf_task *t = task_new();
        wharf_name dying = port_new(t, NULL), right = right_new(t, dying), set;
        wharf_name gone = port_new(t, NULL), watcher;
        watcher = port_new(
                t, &(struct wharf_port_opts){.size = sizeof(struct wharf_port_opts), .flags = WHARF_PORT_STAYS});
        struct wharf_msg m = {.size = sizeof m};
        CHECK_EQ(wharf_watch(t, right, gone), 0);
        CHECK_EQ(wharf_drop(t, gone), 0);
        CHECK_EQ(wharf_watch(t, right, watcher), 0);
        CHECK_EQ(wharf_watch(t, right, watcher), -EBUSY);
        CHECK_EQ(wharf_set_new(t, &set), 0);
        CHECK_EQ(wharf_set_add(t, set, watcher), 0);
        CHECK_EQ(wharf_drop(t, dying), 0);
        CHECK_EQ(wharf_recvmsg(t, set, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(m.notice, WHARF_NOTICE_DEAD_NAME);
        CHECK_EQ(m.about, right);
        CHECK_EQ(m.port, watcher);
        wharf_task_close(t);
}

static int waits;

static int count_waits(enum wh_os_call call)
{
        waits += call == WH_OS_epoll_wait;
        return 0;
}

/*
 * Goal:   connections for which there is no descriptor left cost no deadline and no peace, and are taken later.
 * Method: lower the limit, connect, receive; raise it again.
 */
TEST(connections_without_descriptors)
{
        wharf_task *t = task_new();
        wharf_name port = port_new(t, NULL), right;
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        char buf[16];
        snprintf(sa.sun_path, sizeof sa.sun_path, "%s/port", test_dir());
        int listening = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        CHECK_EQ(bind(listening, (struct sockaddr *)&sa, sizeof sa), 0);
        CHECK_EQ(listen(listening, 16), 0);
        CHECK_EQ(wharf_port_listen(t, port, listening), 0);
        CHECK_EQ(wharf_right_connect(t, sa.sun_path, &right), 0);
        struct rlimit was, none;
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &was), 0);
        none = was;
        none.rlim_cur = 3;
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(20)), -ETIMEDOUT);
        wh_os_gate = count_waits;
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(50)), -ETIMEDOUT);
        wh_os_gate = NULL;
        CHECK_LE(waits, 10);
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &was), 0);
        CHECK_EQ(wharf_send(t, right, "x", 1, 0), 0);
        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, NULL, wharf_in_ms(60000)), 1);
        close(listening);
        wharf_task_close(t);
}
