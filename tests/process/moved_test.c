/*
 * What a port that somebody moves here may bring and may take: its whole state is written by whoever moved it.
 */
#include "link/payload.h"
#include "carrier.h"
#include "hub.h"

#include "os/os.h"
#include "link/frame.h"
#include "right/kept.h"
#include "link/link.h"
#include "link/payload.h"
#include "message/move.h"
#include "port/owned.h"
#include "port/port.h"

#include <errno.h>
#include <grp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>

/* ---- a state by hand ---- */

/* As struct wh_move_head, wh_move_link and wh_move_datagram in message/state.h, which says what the words are. */
struct head {
        uint64_t magic;
        uint32_t version, n_links;
        uint64_t n_fds, n_bytes, port_id, payload_bytes_max, link_mapped_bytes_max, mapped_bytes_max;
        uint64_t received_messages, received_bytes, refused;
        uint32_t flags, capacity_records, links_max, unread_rights_max, introduced_max, unused_notices;
        uint64_t made, capacity_bytes, reply_bytes_max, link_reply_bytes_max;
        uint32_t link_answers_max, zero;
};
static_assert(sizeof(struct head) == 152, "as it is there");
struct link_state {
        uint32_t flags, introducer, more[26];
        uint64_t len, have, offer;
        uint32_t id, call, stash_items, how;
        uint64_t items_seq;
        uint32_t n_items;
        uint8_t item_kind[68], rest[56];
};
static_assert(sizeof(struct link_state) == 288, "as it is there");
enum {
        FULL = 4,
        BUILDING = 8,
        IN_MEMORY = 16,
        DIRECTORY = 4096,
        LINK_BYTES = sizeof(struct link_state),
        SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE,
        BATCH = 253
};
struct datagram {
        uint64_t magic;
        uint32_t version, index, count, n_fds;
};

static void datagram_send(int sock, uint32_t index, uint64_t n_fds_in_all, const int *fds, uint32_t n)
{
        union {
                struct cmsghdr align;
                char space[CMSG_SPACE(BATCH * sizeof(int))];
        } c = {.align = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(n * sizeof(int))}};
        struct datagram d = {0x65766f6d66726877u, 3, index, 1 + (uint32_t)((n_fds_in_all + BATCH - 1) / BATCH), n};
        struct iovec iov = {&d, sizeof d};
        struct msghdr m = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = CMSG_SPACE(n * sizeof(int))};
        memcpy(CMSG_DATA(&c.align), fds, n * sizeof(int));
        CHECK_EQ(sendmsg(sock, &m, 0), sizeof d);
}

/*
 * The carrier of a port with that head and links that are all like `each`, or nothing but a socket each; `fds` has n_fds of
 * them, or is NULL. The state has `len` bytes, of which `there` are written; 0: all that belong to it. *ret_state is the
 * state, unless NULL.
 */
static int carrier_of(struct head h, const struct link_state *each, const int *fds, size_t there, size_t len,
                      int *ret_state)
{
        int sv[2], state = memfd_create("state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        const size_t all = sizeof h + (size_t)h.n_links * LINK_BYTES;
        h.magic = 0x65766f6d66726877u;
        h.version = h.version ? h.version : 3;
        CHECK_GE(state, 0);
        CHECK_EQ(fchmod(state, 0600), 0);
        len = len ? len : all;
        there = there ? there : len;
        uint8_t *bytes = calloc(1, there);
        memcpy(bytes, &h, sizeof h);
        for (uint32_t i = 0; each && i < h.n_links; i++)
                memcpy(bytes + sizeof h + i * sizeof *each, each, sizeof *each);
        CHECK_EQ(write(state, bytes, there), there);
        free(bytes);
        CHECK_EQ(ftruncate(state, (off_t)len), 0);
        CHECK_EQ(fcntl(state, F_ADD_SEALS, SEALS), 0);
        CHECK_EQ(wh_os_socketpair(sv), 0);
        datagram_send(sv[0], 0, h.n_fds, &state, 1);
        for (uint64_t done = 0, i = 1; fds && done < h.n_fds; i++) {
                const uint32_t n = (uint32_t)(h.n_fds - done < BATCH ? h.n_fds - done : BATCH);
                datagram_send(sv[0], (uint32_t)i, h.n_fds, fds + done, n);
                done += n;
        }
        close(sv[0]);
        if (ret_state)
                *ret_state = state;
        else
                close(state);
        return sv[1];
}

static int carrier_new(struct head h, const int *fds, size_t there, size_t len, int *ret_state)
{
        return carrier_of(h, NULL, fds, there, len, ret_state);
}

/* As a message over a connection to the hub, which has greeted it. */
static void send_carrier(int sock, uint64_t seq, int carrier)
{
        struct wh_frame f = {
                .type = WH_FRAME_MESSAGE, .to = WH_TO_OWNER, .seq = seq, .n_fds = 1, .arg = WH_MSG_FIRST | WH_MSG_LAST};
        CHECK_EQ(wh_frame_send(sock, &f, &(uint8_t){WH_ITEM_RECEIVE}, 1, &carrier, false), 0);
        close(carrier);
}

static int connect_raw(const struct hub *h)
{
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        memcpy(sa.sun_path, h->path, sizeof h->path);
        CHECK_EQ(connect(s, (struct sockaddr *)&sa, sizeof sa), 0);
        return s;
}

static void become(uid_t uid)
{
        CHECK_EQ(setgroups(0, NULL), 0);
        CHECK_EQ(setresgid(uid, uid, uid), 0);
        CHECK_EQ(setresuid(uid, uid, uid), 0);
        CHECK_EQ(prctl(PR_SET_DUMPABLE, 1), 0);
}

static void only_as_root(void)
{
        if (getuid() != 0)
                test_skip("needs to become another user");
}

static void descriptors(rlim_t n)
{
        struct rlimit lim;
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &lim), 0);
        lim.rlim_cur = n;
        lim.rlim_max = lim.rlim_max < n ? n : lim.rlim_max; /* root may have more */
        if (setrlimit(RLIMIT_NOFILE, &lim) < 0)
                test_skip("RLIMIT_NOFILE allows fewer descriptors than the %llu that are needed",
                          (unsigned long long)n);
}

static struct wh_port *port_of(wharf_task *t, wharf_name name)
{
        struct wh_port *p = (struct wh_port *)wh_table_find(&t->names, name);
        CHECK(p && p->o.kind == WHARF_KIND_PORT);
        return p;
}

/* ---- what it says about itself ---- */

/*
 * Goal:   rights that went unused before a port moved are told, all of them, and whatever number is claimed costs nothing.
 * Method: three of an honest port; then a million of one that is made up. Each is one notice.
 */
TEST(unused_rights_of_a_moved_port_are_one_notice)
{
        struct hub h = hub_open(NULL);
        wharf_name port, once, to, box, got;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        CHECK_EQ(wharf_port_new(h.task, NULL, &box), 0);
        CHECK_EQ(wharf_right_new(h.task, box, &to), 0);
        for (int i = 0; i < 3; i++) {
                CHECK_EQ(wharf_once_new(h.task, port, &once), 0);
                CHECK_EQ(wharf_drop(h.task, once), 0);
        }
        struct wharf_msg m = MSG();
        CHECK_EQ(wharf_recvmsg(h.task, port, &m, wharf_in_ms(60000)), 0); /* one is told before */
        CHECK_EQ(m.notice, WHARF_NOTICE_ONCE_UNUSED);
        CHECK_EQ(m.count, 1);
        struct wharf_item it = {.kind = WHARF_MOVE_RECEIVE, .name = port};
        CHECK_EQ(wharf_sendmsg(h.task, to, &MSG(.items = &it, .n_items = 1), 0), 0);
        m = MSG(.items = &it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, box, &m, wharf_in_ms(60000)), 0);
        const wharf_name moved[] = {it.name, WHARF_NONE};
        const uint64_t counts[] = {2, 1 << 20};
        for (int i = 0; i < 2; i++) {
                got = moved[i];
                if (i == 1) {
                        int carrier = carrier_new(
                                (struct head){.port_id = 1, .flags = WHARF_PORT_STAYS, .unused_notices = 1 << 20}, NULL,
                                0, 0, NULL);
                        CHECK_EQ(carrier_open(h.task, carrier, false, 1001, &got), 0);
                        close(carrier);
                }
                m = MSG();
                CHECK_EQ(wharf_recvmsg(h.task, got, &m, wharf_in_ms(60000)), 0);
                CHECK_EQ(m.notice, WHARF_NOTICE_ONCE_UNUSED);
                CHECK_EQ(m.about, got);
                CHECK_EQ(m.count, counts[i]);
                CHECK_EQ(wharf_recvmsg(h.task, got, &m, 0), -EAGAIN);
        }
        hub_close(&h);
}

/*
 * Goal:   of a state that does not fit together, or is not really there, nothing is read but its head.
 * Method: a million links without a descriptor, first in a file that is one hole: it has no more pages afterwards than before.
 *         Then small ones that are there and lie about one number each.
 */
TEST(a_state_that_does_not_fit_together_is_not_read)
{
        enum { MANY = 1000000 };
        wharf_task *t;
        struct stat before, after;
        wharf_name got;
        int state;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        for (unsigned hole = 0; hole < 2; hole++) {
                const struct head h = {
                        .n_links = MANY, .n_fds = hole ? 0 : MANY, .links_max = UINT32_MAX, .port_id = 1};
                int carrier = carrier_new(h, NULL, sizeof h, sizeof h + (size_t)MANY * LINK_BYTES, &state);
                CHECK_EQ(fstat(state, &before), 0);
                CHECK_EQ(carrier_open(t, carrier, true, 0, &got), -EPROTO);
                CHECK_EQ(fstat(state, &after), 0);
                CHECK_EQ(after.st_blocks, before.st_blocks);
                close(state);
                close(carrier);
        }
        const struct head lies[] = {
                {.n_links = 2, .n_fds = 1},                              /* a link without a socket */
                {.n_links = 1, .n_fds = 2},                              /* a descriptor of no link */
                {.n_links = 1, .n_fds = 1, .n_bytes = 8},                /* bytes that are not there */
                {.n_links = 2, .n_fds = 2, .links_max = 1, .flags = 64}, /* no such option */
        };
        int sv[2];
        CHECK_EQ(wh_os_socketpair(sv), 0);
        for (unsigned i = 0; i < sizeof lies / sizeof *lies; i++) {
                int carrier = carrier_new(lies[i], sv, 0, 0, NULL);
                CHECK_EQ(carrier_open(t, carrier, true, 0, &got), -EPROTO);
                close(carrier);
        }
        close(sv[0]);
        close(sv[1]);
        wharf_task_close(t);
}

/*
 * Goal:   no message that is only begun takes more of its new owner than one that comes over a link would.
 * Method: one of a length that no port takes by default; three that would have more than one user's share of a port's memory,
 *         and two that have not. Rights in messages count as well, until these are gone.
 */
TEST(messages_in_a_moved_port_are_charged)
{
        wharf_task *t;
        wharf_name got, port, right;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        struct link_state each = {.flags = BUILDING, .len = (uint64_t)1 << 40, .how = WHARF_HOW_CHUNKS};
        int sv[2], three[3];
        CHECK_EQ(wh_os_socketpair(sv), 0);
        for (int i = 0; i < 3; i++)
                three[i] = sv[0];
        const int wants[] = {-EPROTO, 0, 0, -EDQUOT};
        for (uint32_t n = 0; n < 4; n++) {
                const uint32_t links = n ? n : 1;
                const struct head h = {
                        .port_id = 1, .n_links = links, .n_fds = links, .payload_bytes_max = (uint64_t)1 << 40};
                int carrier = carrier_of(h, &each, three, 0, 0, NULL);
                CHECK_EQ(carrier_open(t, carrier, false, 1001, &got), wants[n]);
                close(carrier);
                each.len = 900 << 20;
        }
        CHECK_EQ(t->accounts.used[WH_SHARE_TASK_LINKS], 3);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        struct wharf_item it[3];
        for (int i = 0; i < 3; i++)
                it[i] = (struct wharf_item){.kind = WHARF_COPY_FD, .fd = sv[0]};
        CHECK_EQ(wharf_sendmsg(t, right, &MSG(.items = it, .n_items = 3), 0), 0);
        CHECK_EQ(wharf_recvmsg(t, port, &MSG(), 0), -EOVERFLOW); /* they are read, and stay */
        int carrier;
        CHECK_EQ(wh_move_pack(t, port, &carrier), 0);
        CHECK_EQ(t->accounts.used[WH_SHARE_RIGHTS], 3);
        CHECK_EQ(carrier_open(t, carrier, false, 1001, &got), 0);
        CHECK_EQ(t->accounts.used[WH_SHARE_RIGHTS], 6);
        CHECK_EQ(wharf_drop(t, got), 0);
        CHECK_EQ(t->accounts.used[WH_SHARE_RIGHTS], 3);
        close(carrier);
        wh_move_end(t, port, false);
        close(sv[0]);
        close(sv[1]);
        wharf_task_close(t);
}

/* Goal: what has begun to come is on somebody's account, though it says that it comes as a memory: that is there at once. */
TEST(a_message_begun_in_a_moved_port_is_charged)
{
        wharf_task *t;
        wharf_name got;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        const struct link_state part = {.flags = BUILDING, .len = 100 << 20, .how = WHARF_HOW_MEMORY};
        const struct head h = {.port_id = 1, .n_links = 1, .n_fds = 1, .payload_bytes_max = 1 << 30};
        int sv[2];
        CHECK_EQ(wh_os_socketpair(sv), 0);
        int carrier = carrier_of(h, &part, sv, 0, 0, NULL);
        CHECK_EQ(carrier_open(t, carrier, false, 1001, &got), -EPROTO);
        close(carrier);
        close(sv[0]);
        close(sv[1]);
        wharf_task_close(t);
}

static int whole_memory(off_t bytes)
{
        int fd = memfd_create("beside", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        CHECK_GE(fd, 0);
        CHECK_EQ(fchmod(fd, 0600), 0);
        CHECK_EQ(ftruncate(fd, bytes), 0);
        void *p = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
        CHECK_NE(p, MAP_FAILED);
        munmap(p, (size_t)bytes);
        CHECK_EQ(fcntl(fd, F_ADD_SEALS, SEALS), 0);
        return fd;
}

/*
 * Goal:   a message in a moved port has no more memory beside its payload than one over a link may have, and all the rights
 *         that lie there or none.
 * Method: one memory within the limit, and two of them; then a message that is said to have one of two descriptors, and both.
 */
TEST(items_in_a_moved_port_are_as_over_a_link)
{
        wharf_task *t;
        wharf_name got;
        int sv[2];
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wh_os_socketpair(sv), 0);
        const int memory = whole_memory(3 << 18), fds[] = {sv[0], memory, memory};
        for (uint32_t n = 1; n <= 2; n++) {
                struct link_state each = {.n_items = n, .item_kind = {WH_ITEM_BESIDE, WH_ITEM_BESIDE}};
                const struct head h = {.port_id = 1, .n_links = 1, .n_fds = 1 + n, .payload_bytes_max = 1 << 20};
                int carrier = carrier_of(h, &each, fds, 0, 0, NULL);
                CHECK_EQ(carrier_open(t, carrier, false, 1001, &got), n == 1 ? 0 : -EPROTO);
                close(carrier);
                if (n == 1)
                        CHECK_EQ(wharf_drop(t, got), 0);
        }
        for (uint32_t n = 1; n <= 2; n++) {
                struct link_state each = {.flags = FULL,
                                          .how = WHARF_HOW_COLD,
                                          .stash_items = n,
                                          .n_items = 2,
                                          .item_kind = {WH_ITEM_FD, WH_ITEM_FD}};
                int carrier = carrier_of((struct head){.port_id = 1, .n_links = 1, .n_fds = 3}, &each, fds, 0, 0, NULL);
                CHECK_EQ(carrier_open(t, carrier, false, 1001, &got), n == 2 ? 0 : -EPROTO);
                close(carrier);
        }
        close(memory);
        close(sv[0]);
        close(sv[1]);
        wharf_task_close(t);
}

/* Moves the port within its task, as another user would. */
static wharf_name moved_on(wharf_task *t, wharf_name port)
{
        int carrier;
        wharf_name got;
        CHECK_EQ(wh_move_pack(t, port, &carrier), 0);
        CHECK_EQ(carrier_open(t, carrier, false, 1001, &got), 0);
        wh_move_end(t, port, true);
        close(carrier);
        return got;
}

static struct wh_link *only_link(wharf_task *t, wharf_name port)
{
        struct wh_port *p = port_of(t, port);
        CHECK_EQ(p->n_links, 1);
        return &wh_container(p->links.next, struct wh_owned, in_port)->link;
}

/*
 * Goal:   whose word it is that a link is a directory's, which says for whom it introduces others, is our own user's alone.
 */
TEST(a_stranger_makes_nobody_a_directory)
{
        wharf_task *t;
        wharf_name got;
        int sv[2];
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wh_os_socketpair(sv), 0);
        const struct link_state each = {.flags = DIRECTORY};
        for (unsigned own = 0; own < 2; own++) {
                int carrier = carrier_of((struct head){.port_id = 1, .n_links = 1, .n_fds = 1}, &each, sv, 0, 0, NULL);
                CHECK_EQ(carrier_open(t, carrier, own, own ? 0 : 1001, &got), 0);
                CHECK_EQ(wh_owned(only_link(t, got))->directory, own);
                CHECK_EQ(wharf_drop(t, got), 0);
                close(carrier);
        }
        close(sv[0]);
        close(sv[1]);
        wharf_task_close(t);
}

/*
 * Goal:   by which number a payload is given back is not for the former owner to say: two lanes of one number would take the
 *         memory of a payload away that is still held.
 * Method: a link whose numbers are what a liar would write; after the move its lane is the first.
 */
TEST(a_lane_that_moves_is_numbered_anew)
{
        wharf_task *t;
        wharf_name port, right;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        struct wharf_msg m = MSG(.data = BYTES("x"), .len_bytes = 1, .how = WHARF_HOW_INLINE);
        CHECK_EQ(wharf_sendmsg(t, right, &m, 0), 0);
        CHECK_EQ(wharf_recv(t, port, NULL, 0, NULL, 0), -EOVERFLOW);
        struct wh_link *l = only_link(t, port);
        CHECK(l->in.lane);
        l->in.lane->number = l->in.lanes = 7;
        l = only_link(t, moved_on(t, port));
        CHECK_EQ(l->in.lane->number, 0);
        CHECK_EQ(l->in.lanes, 1);
        wharf_task_close(t);
}

static void send_part(int sock, const uint8_t *bytes, size_t n, bool last)
{
        struct wh_frame f = {.type = WH_FRAME_MESSAGE, .to = WH_TO_OWNER, .arg = last ? WH_MSG_LAST : 0};
        CHECK_EQ(wh_frame_send(sock, &f, bytes, n, NULL, false), 0);
}

/*
 * Goal:   what has come of a large message is mapped where its port moves to, and not copied; for what has not come there is
 *         no memory yet.
 * Method: 3 MiB of a message, and 100 bytes that are to come; it moves once more as it is, and once when it has gone on. The
 *         same as bytes of the state is refused.
 */
TEST(what_has_come_of_a_large_message_is_not_copied)
{
        enum { HAVE = 3 << 20, REST = 100 };
        static uint8_t want[HAVE + REST], buf[HAVE + REST];
        wharf_task *t;
        wharf_name got;
        int sv[2], memory, moved;
        uint64_t written;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wh_os_socketpair(sv), 0);
        pattern_fill(want, sizeof want, 1);
        CHECK_EQ(wh_payload_of(want, HAVE, &memory), 0);
        struct link_state l = {.flags = BUILDING | IN_MEMORY, .len = HAVE + REST, .have = HAVE, .how = WHARF_HOW_COLD};
        const struct head h = {.port_id = 1, .n_links = 1, .n_fds = 2, .flags = WHARF_PORT_STAYS};
        moved = carrier_of(h, &l, (int[]){sv[0], memory}, 0, 0, NULL);
        CHECK_EQ(carrier_open(t, moved, false, 1001, &got), 0);
        for (int i = 0; i < 2; i++, got = moved_on(t, got)) {
                const struct wh_stash *s = &only_link(t, got)->in.stash;
                CHECK(s->building && s->mapped && s->memory >= 0);
                CHECK_EQ(s->room, HAVE);
                if (wh_os_private_bytes(s->bytes, s->room, &written) == 0)
                        CHECK_EQ(written, 0);
                CHECK_EQ(port_of(t, got)->accounts.used[WH_SHARE_BYTES], HAVE + REST);
        }
        send_part(sv[1], want + HAVE, REST / 2, false);
        CHECK_EQ(wharf_recv(t, got, buf, sizeof buf, NULL, 0), -EAGAIN);
        CHECK_EQ(only_link(t, got)->in.stash.have, HAVE + REST / 2);
        got = moved_on(t, got);
        send_part(sv[1], want + HAVE + REST / 2, REST / 2, true);
        CHECK_EQ(wharf_recv(t, got, buf, sizeof buf, NULL, wharf_in_ms(60000)), sizeof buf);
        CHECK_MEM(buf, want, sizeof buf);
        CHECK_EQ(port_of(t, got)->accounts.used[WH_SHARE_BYTES], 0);
        CHECK_EQ(wharf_drop(t, got), 0);
        close(moved);
        close(memory);

        const struct {
                uint64_t len, have;
                int r;
        } bytes[] = {{(uint64_t)1 << 30, 8, 0}, {1 << 20, WH_COLD_MAX + 8, -EPROTO}};
        for (int i = 0; i < 2; i++) {
                struct head of = h;
                of.n_fds = 1;
                of.n_bytes = bytes[i].have;
                l = (struct link_state){
                        .flags = BUILDING, .len = bytes[i].len, .have = bytes[i].have, .how = WHARF_HOW_COLD};
                const size_t all = sizeof of + sizeof l + bytes[i].have;
                moved = carrier_of(of, &l, sv, all, all, NULL);
                CHECK_EQ(carrier_open(t, moved, false, 1001, &got), bytes[i].r);
                if (bytes[i].r == 0)
                        CHECK_EQ(only_link(t, got)->in.stash.room, bytes[i].have);
                close(moved);
        }
        close(sv[0]);
        close(sv[1]);
        wharf_task_close(t);
}

/* The same, moved by somebody of whom the kernel has said the user. */
static wharf_name moved_by(wharf_task *t, wharf_name port, uid_t uid)
{
        int carrier;
        CHECK_EQ(wh_move_pack(t, port, &carrier), 0);
        struct wh_items i = {.n = 1, .kind = {WH_ITEM_RECEIVE}, .fd = {carrier}};
        const struct wh_mover by = {.given = {.pid = 1, .uid = uid, .gid = uid, .known = WHARF_KNOWN_BOUND},
                                    .payer = uid};
        CHECK_EQ(wh_moving_open(t, &i, 1, &by), 0);
        const wharf_name got = wh_moving_port(&i, 0);
        wh_moving_done(&i);
        wh_move_end(t, port, true);
        wh_move_start(t, got, carrier);
        return got;
}

/* Is that user among those who introduced the sender of the next message? UINT32_MAX: somebody of whom nothing is known. */
static bool introduced_by(const struct wharf_introducer *all, int n, uid_t uid)
{
        for (int i = 0; i < n; i++)
                if (uid == UINT32_MAX ? all[i].known == WHARF_KNOWN_NOT : all[i].uid == uid)
                        return true;
        return false;
}

/*
 * Goal:   whoever moved a port is seen by its next owners too, and of links that came through those that it brought.
 * Method: a port that three users move, one after another; of its two senders the second is introduced by the first, after
 *         the first move. Where there is no room for several users, there is nobody of whom anything is known.
 */
TEST(who_moved_a_port_is_seen_for_good)
{
        static const uid_t movers[] = {4001, 4002, 4003};
        wharf_task *t;
        wharf_name port, right[2];
        char buf[8];
        struct wharf_introducer all[16];
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &right[0]), 0);
        for (int moves = 0; moves < 3; moves++) {
                port = moved_by(t, port, movers[moves]);
                if (moves == 0)
                        CHECK_EQ(wharf_right_copy(t, right[0], wharf_in_ms(60000), &right[1]), 0);
                for (int i = 0; i < 2; i++) {
                        struct wharf_sender from;
                        CHECK_EQ(wharf_send(t, right[i], "x", 1, wharf_in_ms(60000)), 0);
                        CHECK_EQ(wharf_recv(t, port, buf, sizeof buf, &from, wharf_in_ms(60000)), 1);
                        const int n = wharf_sender_introducers(t, from.id, all, 16);
                        CHECK_GE(n, 1);
                        CHECK_LE(n, 16);
                        const bool nobody = introduced_by(all, n, UINT32_MAX);
                        CHECK(introduced_by(all, n, movers[moves]));
                        for (int k = 0; k < moves; k++)
                                CHECK(introduced_by(all, n, movers[k]) || nobody);
                        CHECK_EQ(nobody, moves == 2 || (moves == 1 && i == 1));
                }
        }
        wharf_task_close(t);
}

/* Goal: what a port takes of its new owner is not for another user to say; its own user's ports are as they were made. */
TEST(a_port_of_another_user_has_at_most_the_default_limits)
{
        wharf_task *t;
        wharf_name got;
        struct wharf_port_opts most;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wh_port_opts(NULL, &most), 0);
        const struct head large = {.port_id = 1,
                                   .payload_bytes_max = (uint64_t)1 << 40,
                                   .link_mapped_bytes_max = (uint64_t)1 << 44,
                                   .mapped_bytes_max = (uint64_t)1 << 45,
                                   .capacity_records = 65536,
                                   .capacity_bytes = (uint64_t)1 << 40,
                                   .links_max = UINT32_MAX,
                                   .unread_rights_max = 250,
                                   .introduced_max = UINT32_MAX,
                                   .reply_bytes_max = (uint64_t)1 << 45,
                                   .link_reply_bytes_max = (uint64_t)1 << 44,
                                   .link_answers_max = UINT32_MAX};
        int carrier = carrier_new(large, NULL, 0, 0, NULL);
        CHECK_EQ(carrier_open(t, carrier, false, 1001, &got), 0);
        CHECK_MEM(&port_of(t, got)->opts, &most, sizeof most);
        CHECK_EQ(carrier_open(t, carrier, true, 0, &got), 0);
        CHECK_EQ(port_of(t, got)->opts.payload_bytes_max, large.payload_bytes_max);
        CHECK_EQ(port_of(t, got)->opts.link_answers_max, large.link_answers_max);
        close(carrier);
        carrier = carrier_new((struct head){.port_id = 2, .payload_bytes_max = 7, .capacity_records = WHARF_RENDEZVOUS},
                              NULL, 0, 0, NULL);
        CHECK_EQ(carrier_open(t, carrier, false, 1001, &got), 0);
        CHECK_EQ(port_of(t, got)->opts.payload_bytes_max, 7);
        CHECK_EQ(port_of(t, got)->opts.capacity_records, WHARF_RENDEZVOUS);
        CHECK_EQ(port_of(t, got)->opts.links_max, most.links_max);
        close(carrier);
        wharf_task_close(t);
}

/*
 * Goal:   two ports of a task never have the same id where one of them is known to be true to it.
 * Method: a made-up port with the id of one that the task made, is moving, and has moved away; and of one that came from
 *         another user, of which nobody can say whose it is.
 */
TEST(a_port_cannot_come_with_the_id_of_one_that_is_here)
{
        wharf_task *t;
        wharf_name own, got;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &own), 0);
        struct wharf_port_stat st = {.size = sizeof st};
        CHECK_EQ(wharf_port_stat(t, own, &st), 0);
        int carrier = carrier_new((struct head){.port_id = st.id.v}, NULL, 0, 0, NULL), moved;
        CHECK_EQ(carrier_open(t, carrier, false, 1001, &got), -EPROTO);
        CHECK_EQ(carrier_open(t, carrier, true, 0, &got), -EPROTO);
        CHECK_EQ(wh_move_pack(t, own, &moved), 0);
        wh_move_end(t, own, false); /* in vain */
        CHECK_EQ(carrier_open(t, carrier, false, 1001, &got), -EPROTO);
        CHECK_EQ(wharf_drop(t, own), 0);
        CHECK_EQ(carrier_open(t, carrier, false, 1001, &got), 0);
        CHECK_EQ(carrier_open(t, carrier, false, 1001, &got), 0);
        CHECK_EQ(carrier_open(t, carrier, true, 0, &got), 0); /* nobody is kept out by a stranger's word */
        CHECK_EQ(carrier_open(t, carrier, false, 1001, &got), -EPROTO);
        close(carrier);
        close(moved);
        wharf_task_close(t);
}

/* Asks, lets both owners answer, and asks again. */
static int same(wharf_task *t, const wharf_name port[2], wharf_name a, wharf_name b)
{
        char c;
        CHECK_EQ(wharf_right_same(t, a, b, 0), -EAGAIN);
        for (int i = 0; i < 2; i++)
                CHECK_EQ(wharf_recv(t, port[i], &c, 1, NULL, 0), -EAGAIN);
        return wharf_right_same(t, a, b, 0);
}

/*
 * Goal:   where a stranger's port has come first, with the id of one that then comes from this task's own user, a right to the
 *         one is never taken for a right to the other; nor with the ports of two strangers.
 * Method: made-up ports of one id, and two rights to each.
 */
TEST(rights_to_two_ports_of_one_id_are_not_the_same)
{
        wharf_task *t;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        for (int own = 0; own < 2; own++) {
                wharf_name port[2], right[2][2];
                int carrier = carrier_new((struct head){.port_id = 7}, NULL, 0, 0, NULL);
                CHECK_EQ(carrier_open(t, carrier, false, 1001, &port[0]), 0);
                CHECK_EQ(carrier_open(t, carrier, own, own ? 0 : 1002, &port[1]), 0);
                close(carrier);
                for (int i = 0; i < 2; i++)
                        for (int k = 0; k < 2; k++)
                                CHECK_EQ(wharf_right_new(t, port[i], &right[i][k]), 0);
                CHECK_EQ(same(t, port, right[0][0], right[1][0]), 0);
                CHECK_EQ(same(t, port, right[0][0], right[0][1]), 1);
                CHECK_EQ(same(t, port, right[1][0], right[1][1]), 1);
                for (int i = 0; i < 2; i++)
                        CHECK_EQ(wharf_drop(t, port[i]), 0);
        }
        wharf_task_close(t);
}

/* A port that is on its way to a port of the same task, whose receiver was faster than the sender could let go of it. */
struct bounce {
        wharf_task *t;
        wharf_name box, port;
        struct stage waits;
};
static void *let_go(void *arg)
{
        struct bounce *b = arg;
        struct wh_inbox *in = &port_of(b->t, b->box)->own;
        for (bool waits = false; !waits;) {
                wh_lock(&in->lock);
                waits = !wh_list_empty(&port_of(b->t, b->box)->waiting);
                wh_unlock(&in->lock);
        }
        wh_move_end(b->t, b->port, true);
        return NULL;
}

/*
 * Goal:   a port that comes back before it was let go of is not lost.
 * Method: it is packed, and received in its own task; the thread that sent it lets go once the receiver waits.
 */
TEST(a_port_that_comes_back_at_once_is_awaited)
{
        struct hub h = hub_open(NULL);
        struct bounce b = {.t = h.task, .box = h.port};
        struct wharf_item it;
        int carrier, sock = connect_raw(&h);
        pthread_t thread;
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &b.port), 0);
        CHECK_EQ(wh_move_pack(h.task, b.port, &carrier), 0);
        send_carrier(sock, 0, carrier);
        CHECK_EQ(pthread_create(&thread, NULL, let_go, &b), 0);
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(it.kind, WHARF_GOT_RECEIVE);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        close(sock);
        hub_close(&h);
}

/* ---- what it takes ---- */

enum { LIMIT = 1024 };

static int sends_what_cannot_be(void *arg)
{
        const struct hub *h = arg;
        become(1001);
        enum { MUCH = 600, FEW = 10 };
        const struct link_state full = {.n_items = WHARF_ITEMS_MAX};
        int sv[2], fds[MUCH];
        CHECK_EQ(wh_os_socketpair(sv), 0);
        for (int i = 0; i < MUCH; i++)
                fds[i] = sv[0];
        const struct head cannot[] = {
                {.n_links = FEW, .n_fds = FEW * (1 + WHARF_ITEMS_MAX)}, /* more descriptors than half of what it has */
                {.n_links = MUCH, .n_fds = MUCH, .links_max = UINT32_MAX},           /* more links than that */
                {.n_links = LIMIT / 4, .n_fds = LIMIT / 4, .links_max = UINT32_MAX}, /* more than the share of a user */
                {.version = 4},                                                      /* from another time */
        };
        const int why[] = {EDQUOT, EDQUOT, EDQUOT, EPROTONOSUPPORT};
        for (unsigned i = 0; i < sizeof cannot / sizeof *cannot; i++) {
                int s = connect_raw(h);
                send_carrier(s, 0,
                             carrier_of(cannot[i], i ? NULL : &full, cannot[i].n_fds <= MUCH ? fds : NULL, 0, 0, NULL));
                struct {
                        struct wh_frame f;
                        uint8_t more[256];
                } said = {0};
                while (said.f.type != WH_FRAME_REFUSE)
                        CHECK_GE(recv(s, &said, sizeof said, 0), 1);
                CHECK_EQ(said.f.arg, why[i]);
                close(s);
        }
        close(sv[0]);
        close(sv[1]);
        wharf_name right;
        wharf_task *t = hub_join((struct hub *)arg, &right);
        CHECK_EQ(wharf_send(t, right, "done", 4, wharf_in_ms(60000)), 0);
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   a port that this process can never open ends the link that it came over; it is no shortage, that would stay.
 * Method: several kinds, one after another. No receive fails, and the message after them is received.
 */
TEST(a_port_that_can_never_be_opened_ends_its_link)
{
        only_as_root();
        descriptors(LIMIT);
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        pid_t pid = test_fork(sends_what_cannot_be, &h);
        char buf[8];
        struct wharf_item it;
        struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf, .items = &it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(m.len_bytes, 4);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* Goal: a port that takes send rights alone, as wharfd's does, opens none that anybody moves to it. */
TEST(a_port_that_takes_no_ports_opens_none)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        CHECK_EQ(wh_port_takes(h.task, h.port, 1u << WH_ITEM_SEND), 0);
        int sock = connect_raw(&h);
        send_carrier(sock, 0, carrier_new((struct head){.port_id = 1}, NULL, 0, 0, NULL));
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        struct wharf_port_stat st = {.size = sizeof st};
        do { /* it is let in, and then looked at */
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
                CHECK_EQ(wharf_port_stat(h.task, h.port, &st), 0);
        } while (st.refused_links == 0);
        CHECK_EQ(st.senders, 0);
        close(sock);
        hub_close(&h);
}

struct mover {
        struct hub *hub;
        uid_t uid;
        unsigned n_links, n_ports;
        struct stage sent, done;
};

/* Ports with so many links each, in whose last one there is a message. */
static int moves_ports(void *arg)
{
        struct mover *a = arg;
        wharf_name to, port, right;
        descriptors(4 * LIMIT);
        if (a->uid)
                become(a->uid);
        wharf_task *t = hub_join(a->hub, &to);
        for (unsigned k = 0; k < a->n_ports; k++) {
                CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
                for (unsigned i = 0; i < a->n_links; i++)
                        CHECK_EQ(wharf_right_new(t, port, &right), 0);
                CHECK_EQ(wharf_send(t, right, "kept", 4, 0), 0);
                struct wharf_item it = {.kind = WHARF_MOVE_RECEIVE, .name = port};
                CHECK_EQ(wharf_sendmsg(t, to, &MSG(.items = &it, .n_items = 1), wharf_in_ms(60000)), 0);
        }
        stage_reach(&a->sent);
        stage_await(&a->done);
        wharf_task_close(t);
        return 0;
}

/* Of one who comes when another has much. */
static int says_honest(void *arg)
{
        wharf_name to;
        become(1002);
        wharf_task *t = hub_join(arg, &to);
        CHECK_EQ(wharf_send(t, to, "honest", 6, wharf_in_ms(60000)), 0);
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   the links of ports that one user moves here take of its share; those that find no place there wait, with all that
 *         is in them, and others are served.
 * Method: two ports of 150 links with 1024 descriptors, where a user may have 256. The second comes when the first is gone.
 */
TEST(ports_that_one_user_moves_take_of_its_share_and_wait)
{
        only_as_root();
        descriptors(LIMIT);
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        struct mover a = {
                .hub = &h, .uid = 1001, .n_links = 150, .n_ports = 2, .sent = stage_new(), .done = stage_new()};
        pid_t pid = test_fork(moves_ports, &a);
        char buf[8];
        struct wharf_item it[2];
        struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf, .items = it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(m.n_items, 1);
        stage_await(&a.sent);
        for (int i = 0; i < 3; i++)
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
        CHECK_EQ(test_wait(test_fork(says_honest, &h)), 0);
        m = MSG(.data = buf, .cap_bytes = sizeof buf, .items = it + 1, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(m.len_bytes, 6);
        CHECK_EQ(m.sender.uid, 1002);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
        CHECK_EQ(wharf_recv(h.task, it[0].name, buf, sizeof buf, NULL, wharf_in_ms(60000)), 4);
        CHECK_EQ(wharf_drop(h.task, it[0].name), 0);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(m.n_items, 1);
        CHECK_EQ(wharf_recv(h.task, it[1].name, buf, sizeof buf, NULL, wharf_in_ms(60000)), 4);
        CHECK_EQ(wharf_drop(h.task, it[1].name), 0);
        CHECK_EQ(h.task->accounts.used[WH_SHARE_TASK_LINKS], 1);
        stage_reach(&a.done);
        CHECK_EQ(test_wait(pid), 0);
        stage_done(&a.sent);
        stage_done(&a.done);
        hub_close(&h);
}

/*
 * Goal:   a port that waits for places goes on when the limit of the process is raised, though no link ends.
 * Method: two ports of 40 links with 256 descriptors, where one user may have 64 links. Another port of the task hears of it.
 */
TEST(a_port_that_waits_hears_of_a_raised_limit)
{
        enum { MANY = 40, FEW = 256 };
        for (int other = 0; other < 2; other++) {
                descriptors(FEW);
                struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
                wharf_name second;
                CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &second), 0);
                h.task->accounts.self = (uid_t)-3; /* whoever connects is another user */
                int sv[2], fds[MANY], sock = connect_raw(&h);
                CHECK_EQ(wh_os_socketpair(sv), 0);
                for (int i = 0; i < MANY; i++)
                        fds[i] = sv[0];
                for (uint64_t i = 0; i < 2; i++)
                        send_carrier(sock, i,
                                     carrier_new((struct head){.port_id = 1 + i, .n_links = MANY, .n_fds = MANY}, fds,
                                                 0, 0, NULL));
                struct wharf_item it;
                struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
                for (int i = 0; i < 3; i++)
                        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
                int fd;
                CHECK_EQ(wharf_port_fd(h.task, h.port, &fd), 0);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
                struct pollfd p = {.fd = fd, .events = POLLIN};
                CHECK_EQ(poll(&p, 1, 0), 0);
                descriptors(LIMIT);
                if (other) {
                        CHECK_EQ(wharf_recvmsg(h.task, second, &m, 0), -EAGAIN);
                        CHECK_EQ(poll(&p, 1, 0), 1);
                }
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
                CHECK_EQ(m.n_items, 1);
                close(sock);
                close(sv[0]);
                close(sv[1]);
                hub_close(&h);
        }
}

/*
 * Goal:   however many links a port brings, a call that receives it looks at its deadline, and others have their turn.
 * Method: a port with a thousand, and a message of another sender that comes later. Calls that do not wait return several
 *         times without the port; the message is there first. The same again, where the receiver leaves in the middle.
 */
TEST(a_port_with_many_links_is_opened_in_parts)
{
        enum { MANY = 1000 };
        descriptors(4 * LIMIT);
        for (int leaves = 0; leaves < 2; leaves++) {
                struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
                struct mover a = {.hub = &h, .n_links = MANY, .n_ports = 1, .sent = stage_new(), .done = stage_new()};
                pid_t pid = test_fork(moves_ports, &a);
                stage_await(&a.sent);
                wharf_name other;
                CHECK_EQ(wharf_right_new(h.task, h.port, &other), 0);
                char buf[8];
                struct wharf_item it;
                struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf, .items = &it, .cap_items = 1);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
                CHECK_EQ(wharf_send(h.task, other, "small", 5, 0), 0);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), 0);
                CHECK_EQ(m.len_bytes, 5);
                unsigned times = 1;
                for (; !leaves && wharf_recvmsg(h.task, h.port, &m, 0) == -EAGAIN; times++)
                        ;
                if (!leaves) {
                        CHECK_EQ(m.n_items, 1);
                        CHECK_GE(times, 2);
                        CHECK_EQ(wharf_recv(h.task, it.name, buf, sizeof buf, NULL, wharf_in_ms(60000)), 4);
                        CHECK_EQ(wharf_drop(h.task, it.name), 0);
                        CHECK_EQ(wharf_drop(h.task, other), 0);
                }
                hub_close(&h);
                stage_reach(&a.done);
                CHECK_EQ(test_wait(pid), 0);
                stage_done(&a.sent);
                stage_done(&a.done);
        }
}

/*
 * Goal:   however many links a port had that is not to be had after all, a call that finds that out looks at its deadline.
 * Method: 1500 links, of which the last is none. Calls that do not wait have so many fewer each, and in the end none.
 */
TEST(a_port_with_many_links_is_undone_in_parts)
{
        enum { MANY = 1500, FEW = 8 * WH_BUDGET / 64 };
        descriptors(4 * LIMIT);
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        static int fds[MANY];
        int sv[2], sock = connect_raw(&h), none = memfd_create("none", MFD_CLOEXEC);
        CHECK_EQ(wh_os_socketpair(sv), 0);
        for (int i = 0; i < MANY; i++)
                fds[i] = i + 1 < MANY ? sv[0] : none;
        send_carrier(sock, 0,
                     carrier_new((struct head){.port_id = 1, .n_links = MANY, .n_fds = MANY}, fds, 0, 0, NULL));
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        struct wharf_port_stat st = {.size = sizeof st};
        uint64_t most = 0, before = 0;
        do {
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -EAGAIN);
                CHECK_EQ(wharf_port_stat(h.task, h.port, &st), 0);
                const uint64_t now = h.task->accounts.used[WH_SHARE_TASK_LINKS];
                most = now > most ? now : most;
                CHECK(now + FEW >= before);
                before = now;
        } while (before || !st.refused_links);
        CHECK_GE(most, MANY / 2);
        CHECK(!wh_ports_gone(h.task));
        close(sv[0]);
        close(sv[1]);
        close(none);
        close(sock);
        hub_close(&h);
}

static unsigned count_came(wharf_task *t, wharf_name port)
{
        unsigned n = 0;
        wh_list_for (pos, &port_of(t, port)->links)
                n += wh_container(pos, struct wh_owned, in_port)->link.came;
        return n;
}

/*
 * Goal:   nor does the call that receives it tell all its senders. Receives on it do, each of some of them, and none sleeps
 *         or leaves the port unreadable before all are told.
 * Method: a thousand links that have nothing to say.
 */
TEST(senders_of_a_moved_port_are_told_a_few_at_a_time)
{
        enum { MANY = 1000, FEW = 8 * WH_BUDGET / WH_COST_FRAME };
        descriptors(4 * LIMIT);
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        wharf_name port, right[MANY];
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        for (int i = 0; i < MANY; i++)
                CHECK_EQ(wharf_right_new(h.task, port, &right[i]), 0);
        int carrier, sock = connect_raw(&h), fd;
        CHECK_EQ(wh_move_pack(h.task, port, &carrier), 0);
        wh_move_end(h.task, port, true);
        send_carrier(sock, 0, carrier);
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
        port = it.name;
        CHECK_EQ(count_came(h.task, port), MANY);
        CHECK_EQ(wharf_port_fd(h.task, port, &fd), 0);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        for (unsigned left = MANY, now; left; left = now) {
                CHECK_EQ(poll(&p, 1, 0), 1);
                CHECK_EQ(wharf_recvmsg(h.task, port, &MSG(), 0), -EAGAIN);
                now = count_came(h.task, port);
                CHECK(now < left);
                CHECK_LE(left - now, FEW);
        }
        for (int i = 0; i < MANY; i += 100)
                CHECK_EQ(wharf_send(h.task, right[i], "x", 1, wharf_in_ms(60000)), 0);
        struct wharf_sender from;
        for (int i = 0; i < MANY; i += 100) {
                char buf[8];
                CHECK_EQ(wharf_recv(h.task, port, buf, sizeof buf, &from, wharf_in_ms(60000)), 1);
                CHECK_EQ(from.known, WHARF_KNOWN_OWN); /* each has bound, as it was told to */
        }
        close(sock);
        hub_close(&h);
}

/*
 * Goal:   who waits for one sender of a port that has moved leaves no other one untold.
 * Method: two senders with lanes, of which one is waited for in vain. A receive that does not wait comes to the other.
 */
TEST(a_sender_of_a_moved_port_is_told_though_another_is_waited_for)
{
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        wharf_name port, right[2];
        char buf[8];
        CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS), &port), 0);
        for (int i = 0; i < 2; i++) {
                struct wharf_msg m = MSG(.data = BYTES("x"), .len_bytes = 1, .how = WHARF_HOW_INLINE);
                CHECK_EQ(wharf_right_new(h.task, port, &right[i]), 0);
                CHECK_EQ(wharf_sendmsg(h.task, right[i], &m, 0), 0);
                CHECK_EQ(wharf_recv(h.task, port, buf, sizeof buf, NULL, wharf_in_ms(60000)), 1);
        }
        port = moved_by(h.task, port, getuid());
        CHECK_EQ(count_came(h.task, port), 2);
        struct wh_link *one = &wh_container(port_of(h.task, port)->links.next, struct wh_owned, in_port)->link;
        struct wharf_msg m = MSG(.from = one->who.id);
        CHECK_EQ(wharf_recvmsg(h.task, port, &m, wharf_in_ms(5)), -ETIMEDOUT);
        CHECK_EQ(count_came(h.task, port), 1);
        CHECK_EQ(wharf_recvmsg(h.task, port, &MSG(), 0), -EAGAIN);
        CHECK_EQ(count_came(h.task, port), 0);
        hub_close(&h);
}

/* Answers a call with a port of so many links, twice. */
static int answers_with_ports(void *arg)
{
        static const unsigned n_links[] = {100, LIMIT / 2};
        wharf_name hub, mine, port, right;
        descriptors(4 * LIMIT);
        become(1001);
        wharf_task *t = hub_join(arg, &hub);
        CHECK_EQ(wharf_port_new(t, NULL, &mine), 0);
        struct wharf_item it = {.kind = WHARF_MAKE_SEND, .name = mine};
        CHECK_EQ(wharf_sendmsg(t, hub, &MSG(.items = &it, .n_items = 1), wharf_in_ms(60000)), 0);
        for (int k = 0; k < 2; k++) {
                struct wharf_msg m = MSG();
                CHECK_EQ(wharf_recvmsg(t, mine, &m, wharf_in_ms(60000)), 0);
                CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
                for (unsigned i = 0; i < n_links[k]; i++)
                        CHECK_EQ(wharf_right_new(t, port, &right), 0);
                it = (struct wharf_item){.kind = WHARF_MOVE_RECEIVE, .name = port};
                CHECK_EQ(wharf_replymsg(t, m.reply, &MSG(.items = &it, .n_items = 1)), 0);
        }
        CHECK_EQ(wharf_recvmsg(t, mine, &MSG(), wharf_in_ms(60000)), -ENOTCONN);
        wharf_task_close(t);
        return 0;
}

/* Goal: nor do the links of ports that come in answers take all that a caller has: of a server it knows nothing. */
TEST(ports_in_answers_take_of_the_share_of_nobody)
{
        only_as_root();
        descriptors(LIMIT);
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        pid_t pid = test_fork(answers_with_ports, &h);
        struct wharf_item it;
        struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
        const wharf_name server = it.name;
        m = MSG(.items = &it, .cap_items = 1);
        CHECK_EQ(wharf_callmsg(h.task, server, &MSG(), &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(it.kind, WHARF_GOT_RECEIVE);
        CHECK_GE(h.task->accounts.used[WH_SHARE_TASK_LINKS], 100);
        CHECK_EQ(wharf_drop(h.task, it.name), 0);
        CHECK_EQ(wharf_callmsg(h.task, server, &MSG(), &m, wharf_in_ms(60000)), -EDQUOT);
        CHECK_EQ(wharf_drop(h.task, server), 0);
        CHECK_EQ(test_wait(pid), 0);
        hub_close(&h);
}

/* An owner by hand, who answers the call number `call` with a port. */
struct answers {
        int sock, carrier;
        uint32_t call;
        uid_t uid;
};
static int answers_as(void *arg)
{
        const struct answers *a = arg;
        struct wh_frame f = {.type = WH_FRAME_MESSAGE,
                             .to = WH_TO_HOLDER,
                             .n_fds = 1,
                             .call = a->call,
                             .arg = WH_MSG_FIRST | WH_MSG_LAST};
        if (a->uid)
                become(a->uid);
        return -wh_frame_send(a->sock, &f, &(uint8_t){WH_ITEM_RECEIVE}, 1, &a->carrier, false);
}

/*
 * Goal:   a port in an answer is believed to come from this task's own user if that one wrote the answer, and not because it
 *         has said before that it owns the port that was asked.
 * Method: an owner says so, and then another user, who has its end by now, answers with a port that would have more than the
 *         default limits; then that owner does so itself.
 */
TEST(a_port_in_an_answer_is_of_whoever_wrote_that_answer)
{
        only_as_root();
        for (uid_t uid = 0; uid <= 1001; uid += 1001) {
                int sv[2];
                wharf_task *t;
                wharf_name right;
                const struct wh_hello hello = {.port_id = 7,
                                               .payload_bytes_max = 1 << 20,
                                               .link_mapped_bytes_max = 80 << 20,
                                               .capacity_records = 1024,
                                               .capacity_bytes = 1 << 20,
                                               .unread_rights_max = 64};
                struct wh_frame f = {.type = WH_FRAME_HELLO, .to = WH_TO_HOLDER, .seq = 1};
                CHECK_EQ(wharf_task_open(NULL, &t), 0);
                CHECK_EQ(wh_os_socketpair(sv), 0);
                CHECK_EQ(wh_right_from_socket(t, sv[0], false, false, &right), 0);
                CHECK_EQ(wharf_right_same(t, right, right, 0), -EAGAIN);
                CHECK_EQ(wh_frame_send(sv[1], &f, &hello, sizeof hello, NULL, true), 0);
                CHECK_EQ(wharf_right_same(t, right, right, 0), 1);

                enum { MANY_LINKS = 70000 };
                struct answers a = {.sock = sv[1], .uid = uid};
                struct wharf_item it;
                struct wharf_msg m = MSG(.items = &it, .cap_items = 1);
                a.carrier = carrier_new((struct head){.port_id = 1, .links_max = MANY_LINKS}, NULL, 0, 0, NULL);
                CHECK_EQ(wharf_call_start(t, right, &MSG(), WHARF_NONE, 0, &a.call), 0);
                CHECK_EQ(test_wait(test_fork(answers_as, &a)), 0);
                CHECK_EQ(wharf_call_finish(t, right, a.call, &m, wharf_in_ms(60000)), 0);
                CHECK_EQ(it.kind, WHARF_GOT_RECEIVE);
                CHECK_EQ(port_of(t, it.name)->opts.links_max, uid ? 4096 : MANY_LINKS);
                wharf_task_close(t);
                close(a.carrier);
                close(sv[1]);
        }
}
