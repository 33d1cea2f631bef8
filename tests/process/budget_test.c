/*
 * What a stranger has us map, look through, copy and make: so much at a time, and at a holder so much in all. The attacker
 * speaks through the library's own inner functions, so that all but the one lie is right. Work is counted, not time.
 */
#include "descriptors.h"
#include "hub.h"
#include "inside.h"

#include "lane/lane.h"
#include "memory/sealed.h"
#include "os/closer.h"
#include "os/os.h"
#include "link/link.h"
#include "right/right.h"
#include "port/port.h"

#include <sys/resource.h>

#include <wharf/memory.h>

/* ---- helpers ---- */

enum { MIB = 1 << 20, OUT_SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE };

static struct wharf_port_stat port_stat(wharf_task *t, wharf_name port)
{
        struct wharf_port_stat s = {.size = sizeof s};
        CHECK_EQ(wharf_port_stat(t, port, &s), 0);
        return s;
}

static void receives(wharf_task *t, wharf_name port, const char *text)
{
        char got[64];
        CHECK_EQ(wharf_recv(t, port, got, sizeof got, NULL, wharf_in_ms(60000)), strlen(text));
        CHECK_MEM(got, text, strlen(text));
}

/* A memory whose pages are all there; or, with as many blocks, none of them before its end. */
static int memory_new(uint64_t len, int seals, bool hole)
{
        int fd = wh_os_memfd("test");
        CHECK_GE(fd, 0);
        CHECK_EQ(ftruncate(fd, (off_t)len), 0);
        CHECK_EQ(fallocate(fd, hole ? FALLOC_FL_KEEP_SIZE : 0, hole ? (off_t)len : 0, (off_t)len), 0);
        if (!hole) {
                void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
                CHECK(p != MAP_FAILED);
                CHECK_EQ(munmap(p, len), 0);
        }
        CHECK_EQ(fcntl(fd, F_ADD_SEALS, seals), 0);
        return fd;
}

/* How many bytes of a memory are there. */
static uint64_t bytes_there(int fd)
{
        uint64_t sum = 0;
        for (off_t at = 0, end; (at = lseek(fd, at, SEEK_DATA)) >= 0; at = end) {
                end = lseek(fd, at, SEEK_HOLE);
                sum += (uint64_t)(end - at);
        }
        return sum;
}

static void send_frame(int sock, enum wh_frame_type type, enum wh_frame_to to, const int *fds, unsigned n)
{
        struct wh_frame f = {.type = type, .to = to, .n_fds = (uint8_t)n};
        CHECK_EQ(wh_frame_send(sock, &f, NULL, 0, fds, false), 0);
}

static struct wh_lane_tx *attach(int sock, enum wh_frame_to to, unsigned lines)
{
        struct wh_lane_tx *lane;
        CHECK_EQ(wh_lane_tx_new(lines * WH_LINE, lines, &lane), 0);
        send_frame(sock, WH_FRAME_ATTACH, to, (int[]){lane->out_fd, lane->back_fd}, 2);
        return lane;
}

/* A record with a block of the first section. */
static void put_block(struct wh_lane_tx *lane, enum wh_rec_kind kind, uint64_t len, uint64_t total)
{
        struct {
                struct wh_rec_ext ext;
                struct wh_rec_block block;
        } rec = {.block = {.len = len, .total = total}};
        void *at = wh_ring_reserve(&lane->ring, sizeof rec);
        CHECK(at);
        memcpy(at, &rec, sizeof rec);
        wh_ring_publish(&lane->ring, kind, sizeof rec);
}

/* A pair of the holder's own, which is returned: its lane ends here, and no message was sent before. */
static int rebind_by_hand(int sock, const struct wh_lane_tx *lane)
{
        const struct wh_origin said = {.known = WHARF_KNOWN_NOBODY};
        struct wh_frame f = {.type = WH_FRAME_REBIND,
                             .to = WH_TO_OWNER,
                             .n_fds = 1,
                             .arg = WH_CHANGE_LANE,
                             .total = lane->ring.records};
        int sv[2], on = 1;
        CHECK_EQ(wh_os_socketpair(sv), 0);
        CHECK_EQ(setsockopt(sv[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on), 0);
        CHECK_EQ(wh_frame_send(sock, &f, &said, sizeof said, &sv[1], true), 0);
        close(sv[1]);
        return sv[0];
}

/* The other end of a right, by hand: who owns its port. */
static int owner_new(wharf_task *t, wharf_name *ret)
{
        struct wh_hello h = {.port_id = 1,
                             .payload_bytes_max = 1 << 30,
                             .link_mapped_bytes_max = 64 << 20,
                             .capacity_records = 1024,
                             .unread_rights_max = 64};
        struct wh_frame f = {.type = WH_FRAME_HELLO, .to = WH_TO_HOLDER};
        int sv[2];
        CHECK_EQ(wh_os_socketpair(sv), 0);
        CHECK_EQ(wh_right_from_socket(t, sv[0], false, false, ret), 0);
        CHECK_EQ(wh_frame_send(sv[1], &f, &h, sizeof h, NULL, false), 0);
        return sv[1];
}

/* ---- holes ---- */

static int gate_no_cachestat(enum wh_os_call call)
{
        return call == WH_OS_cachestat ? -EPERM : 0;
}

enum what { A_RING, A_SECTION, A_PAYLOAD, BESIDE_A_PAYLOAD, WHATS };

static void send_hole(int sock, enum what what, int fd, uint64_t len)
{
        struct wh_frame f = {.type = WH_FRAME_MESSAGE,
                             .to = WH_TO_OWNER,
                             .n_fds = 1,
                             .total = what == A_PAYLOAD ? len : 0,
                             .arg = WH_MSG_FIRST | WH_MSG_LAST | (what == A_PAYLOAD ? WH_MSG_MEMORY : 0)};
        uint8_t kind = what == A_PAYLOAD ? WH_ITEM_MEMORY : WH_ITEM_BESIDE;
        struct wh_lane_tx *lane;
        switch (what) {
        case A_RING:
                CHECK_EQ(wh_lane_tx_new(128 * WH_LINE, 128, &lane), 0);
                send_frame(sock, WH_FRAME_ATTACH, WH_TO_OWNER, (int[]){fd, lane->back_fd}, 2);
                wh_lane_tx_free(lane);
                return;
        case A_SECTION:
                wh_lane_tx_free(attach(sock, WH_TO_OWNER, 128));
                send_frame(sock, WH_FRAME_SECTION, WH_TO_OWNER, &fd, 1);
                return;
        case A_PAYLOAD:
        case BESIDE_A_PAYLOAD:
                CHECK_EQ(wh_frame_send(sock, &f, &kind, 1, &fd, false), 0);
                return;
        case WHATS:
                return;
        }
}

/*
 * Goal:   memory that has blocks enough, but behind its end, is refused, and is not filled on the reader's account.
 * Method: as a ring, a section, a payload and beside one. Then where the kernel cannot be asked for holes, which is before
 *         Linux 6.5 and in a sandbox: then what a lane has is read when it is mapped, and little of it is filled.
 */
TEST(blocks_behind_the_end_of_a_memory_are_none_of_it)
{
        enum { LEN = WH_PAGE + 4096 * WH_LINE, LITTLE = 64 * WH_PAGE };
        for (int asked = 0; asked < 2; asked++)
                for (int what = 0; what < WHATS; what++) {
                        if (what >= A_PAYLOAD && (!asked || !wh_os_holes_asked()))
                                continue;
                        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
                        wharf_name good, bad;
                        char got[8];
                        int fd = memory_new(LEN, what >= A_PAYLOAD ? WH_SEALS_IMMUTABLE : OUT_SEALS, true);
                        CHECK_EQ(wharf_right_new(h.task, h.port, &good), 0);
                        CHECK_EQ(wharf_right_new(h.task, h.port, &bad), 0);
                        send_hole(holder(h.task, bad)->sock, (enum what)what, fd, LEN);
                        wh_os_gate = asked ? NULL : gate_no_cachestat;
                        CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, 0), -EAGAIN);
                        wh_os_gate = NULL;
                        CHECK_EQ(port_stat(h.task, h.port).senders, 1);
                        CHECK_EQ(port_stat(h.task, h.port).refused_links, 1);
                        CHECK_LE(bytes_there(fd), asked && wh_os_holes_asked() ? 0 : LITTLE);
                        CHECK_EQ(wharf_send(h.task, good, "well", 4, 0), 0);
                        receives(h.task, h.port, "well");
                        close(fd);
                        hub_close(&h);
                }
}

/*
 * Goal:   memory that has more blocks behind its end than a huge page may have there is refused: whoever is rid of it last
 *         frees them all, however small it says that it is.
 */
TEST(memory_with_much_behind_its_end_is_refused)
{
        enum { LEN = WH_PAGE + 4096 * WH_LINE };
        for (int what = 0; what < WHATS; what++) {
                struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
                wharf_name bad;
                char got[8];
                int fd = memory_new(LEN, 0, false);
                CHECK_EQ(fallocate(fd, FALLOC_FL_KEEP_SIZE, LEN, 3 * MIB), 0);
                CHECK_EQ(fcntl(fd, F_ADD_SEALS, what >= A_PAYLOAD ? WH_SEALS_IMMUTABLE : OUT_SEALS), 0);
                CHECK_EQ(wharf_right_new(h.task, h.port, &bad), 0);
                send_hole(holder(h.task, bad)->sock, (enum what)what, fd, LEN);
                CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, 0), -EAGAIN);
                CHECK_EQ(port_stat(h.task, h.port).refused_links, 1);
                close(fd);
                hub_close(&h);
        }
}

/*
 * Goal:   what an honest sender makes has no holes, by whatever way it comes, also where nobody has written to it.
 * Method: a lane, sections, a payload in a memory of its own, and a memory of which nothing was ever touched.
 */
TEST(an_honest_sender_makes_no_holes)
{
        static uint8_t bytes[3 * MIB + 100];
        for (int asked = 0; asked < 2; asked++) {
                struct hub h = hub_open(NULL);
                wharf_name right, memory;
                CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
                for (uint32_t how = WHARF_HOW_COLD; how <= WHARF_HOW_MEMORY; how++) {
                        struct wharf_item it = {.kind = WHARF_MOVE_MEMORY}, in;
                        struct wharf_msg m = MSG(.data = bytes, .how = how, .items = &it, .n_items = 1);
                        struct wharf_msg r = MSG(.flags = WHARF_RECV_ALLOC, .items = &in, .cap_items = 1);
                        m.len_bytes = how == WHARF_HOW_COLD || how == WHARF_HOW_INLINE ? 100 : sizeof bytes;
                        CHECK_EQ(wharf_memory_new(h.task, sizeof bytes, &memory), 0);
                        it.name = memory;
                        wh_os_gate = asked ? NULL : gate_no_cachestat;
                        CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
                        CHECK_EQ(wharf_recvmsg(h.task, h.port, &r, wharf_in_ms(60000)), 0);
                        wh_os_gate = NULL;
                        CHECK_EQ(r.len_bytes, m.len_bytes);
                        wharf_release(h.task, &r);
                        CHECK_EQ(wharf_drop(h.task, in.name), 0);
                }
                hub_close(&h);
        }
}

/* ---- mapping ---- */

/*
 * Goal:   what many senders have one receiver map, and unmap when they are gone, is no more at a time than its budget.
 * Method: a section of 64 MiB on each of 30 links, always the same memory, and receives that may not wait, each of which
 *         looks a few times: how much is mapped, and how many links are there, between them.
 */
TEST(sections_of_many_links_are_mapped_a_few_at_a_time)
{
        enum { LINKS = 30, LEN = 64 * MIB, FEW = 8 };
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        wharf_name bad[LINKS];
        char got[8];
        int fd = memory_new(LEN, OUT_SEALS, false);
        for (int i = 0; i < LINKS; i++) {
                CHECK_EQ(wharf_right_new(h.task, h.port, &bad[i]), 0);
                const int sock = holder(h.task, bad[i])->sock;
                wh_lane_tx_free(attach(sock, WH_TO_OWNER, 128));
                send_frame(sock, WH_FRAME_SECTION, WH_TO_OWNER, &fd, 1);
        }
        for (uint64_t mapped = 0, now; mapped < (uint64_t)LINKS * LEN; mapped = now) {
                CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, 0), -EAGAIN);
                now = port_stat(h.task, h.port).mapped_bytes;
                CHECK(now > mapped);
                CHECK_LE(now - mapped, (uint64_t)FEW * (LEN + MIB));
        }
        for (int i = 0; i < LINKS; i++)
                CHECK_EQ(wharf_drop(h.task, bad[i]), 0);
        for (uint32_t left = LINKS, now; left; left = now) {
                CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, 0), -EAGAIN);
                now = port_stat(h.task, h.port).senders;
                CHECK(now < left);
                CHECK_LE(left - now, FEW);
        }
        close(fd);
        hub_close(&h);
}

/*
 * Goal:   the same of sections that are looked through and then refused.
 * Method: 64 MiB, of which the last page is a hole, on each of 30 links, and how many links have ended for it.
 */
TEST(sections_that_are_refused_are_looked_through_a_few_at_a_time)
{
        enum { LINKS = 30, LEN = 64 * MIB, FEW = 8 };
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        char got[8];
        int fd = memory_new(LEN, 0, false);
        CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, LEN - WH_PAGE, WH_PAGE), 0);
        CHECK_EQ(fallocate(fd, FALLOC_FL_KEEP_SIZE, LEN, LINKS * MIB), 0);
        CHECK_EQ(fcntl(fd, F_ADD_SEALS, OUT_SEALS), 0);
        for (int i = 0; i < LINKS; i++) {
                wharf_name bad;
                CHECK_EQ(wharf_right_new(h.task, h.port, &bad), 0);
                const int sock = holder(h.task, bad)->sock;
                wh_lane_tx_free(attach(sock, WH_TO_OWNER, 128));
                send_frame(sock, WH_FRAME_SECTION, WH_TO_OWNER, &fd, 1);
        }
        for (uint64_t refused = 0, now; refused < LINKS; refused = now) {
                CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, 0), -EAGAIN);
                now = port_stat(h.task, h.port).refused_links;
                CHECK(now > refused);
                CHECK_LE(now - refused, FEW);
                if (!wh_os_holes_asked())
                        break; /* the first one has filled it */
        }
        close(fd);
        hub_close(&h);
}

/*
 * Goal:   the same of a lane that ends and begins anew on one link.
 * Method: one new pair after another, each with a lane that has a section and ends with the next pair.
 */
TEST(lanes_that_end_and_begin_anew_are_mapped_a_few_at_a_time)
{
        enum { LANES = 20, LEN = 64 * MIB, FEW = 8 };
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        wharf_name bad;
        struct wh_lane_tx *lane[LANES];
        char got[8];
        unsigned begun = 0;
        int fd = memory_new(LEN, OUT_SEALS, false);
        CHECK_EQ(wharf_right_new(h.task, h.port, &bad), 0);
        int sock[LANES + 1] = {holder(h.task, bad)->sock};
        for (int i = 0; i < LANES; i++) {
                lane[i] = attach(sock[i], WH_TO_OWNER, 128);
                send_frame(sock[i], WH_FRAME_SECTION, WH_TO_OWNER, &fd, 1);
                /* Without a record that names it the section would be left for its first use. */
                put_block(lane[i], WH_REC_CHUNK, 1, 2);
                put_block(lane[i], WH_REC_ABORT, 0, 0);
                sock[i + 1] = rebind_by_hand(sock[i], lane[i]);
        }
        while (begun < LANES) {
                unsigned now = 0;
                CHECK_EQ(wharf_recv(h.task, h.port, got, sizeof got, NULL, 0), -EAGAIN);
                for (int i = 0; i < LANES; i++)
                        now += atomic_load(&lane[i]->ring.back->taken_records) > 0;
                CHECK_EQ(port_stat(h.task, h.port).senders, 1);
                CHECK(now > begun);
                CHECK_LE(now - begun, FEW);
                begun = now;
        }
        for (int i = 0; i < LANES; i++) {
                wh_lane_tx_free(lane[i]);
                close(sock[i + 1]);
        }
        close(fd);
        hub_close(&h);
}

/* ---- messages in parts ---- */

/*
 * Goal:   a receive whose deadline is past reads one budget of a message in parts, however fast the next parts are there.
 * Method: a ring full of parts, and a task that would always rather spin.
 */
TEST(parts_of_a_message_end_no_receive_late)
{
        enum { PARTS = 900, LINES = 4096, BUDGET = WH_BUDGET / (WH_CHUNK / WH_COST_BYTES) + 1 };
        struct wharf_task_opts o = {.size = sizeof o, .spin_us_max = WHARF_SPIN};
        wharf_task *t;
        wharf_name port, right;
        char got[8];
        int fd = memory_new(MIB, OUT_SEALS, false);
        CHECK_EQ(wharf_task_open(&o, &t), 0);
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        CHECK_EQ(wharf_right_new(t, port, &right), 0);
        struct wh_lane_tx *lane = attach(holder(t, right)->sock, WH_TO_OWNER, LINES);
        send_frame(holder(t, right)->sock, WH_FRAME_SECTION, WH_TO_OWNER, &fd, 1);
        for (int i = 0; i < PARTS; i++)
                put_block(lane, WH_REC_CHUNK, WH_CHUNK, (uint64_t)PARTS * WH_CHUNK + 1);
        for (uint32_t was = 0, now; was < PARTS; was = now) {
                CHECK_EQ(wharf_recv(t, port, got, sizeof got, NULL, 1), -ETIMEDOUT);
                now = atomic_load(&lane->ring.back->released_count);
                CHECK(now > was);
                CHECK_LE(now - was, 3 * BUDGET);
        }
        wh_lane_tx_free(lane);
        close(fd);
        wharf_task_close(t);
}

/*
 * Goal:   what a receive has to save of a message in parts, when its time is over, is little; and is the message's still.
 * Method: two messages that do not end in time, and a receiver with room for all of them: of the small one its buffer has
 *         what came, and of the large one nothing. Then the rest comes, and another buffer has all of it.
 */
TEST(no_large_message_is_put_together_in_the_buffer_of_a_receive)
{
        enum { LITTLE = 4, MANY = 64, LINES = 1024 };
        static uint8_t buf[MANY * WH_CHUNK + 1], other[sizeof buf];
        for (unsigned parts = LITTLE; parts <= MANY; parts += MANY - LITTLE) {
                struct hub h = hub_open(NULL);
                wharf_name right;
                const uint64_t total = (uint64_t)parts * WH_CHUNK + 1;
                int fd = memory_new(MIB, OUT_SEALS, false);
                CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
                struct wh_port *p = (struct wh_port *)wh_table_find(&h.task->names, h.port);
                p->accounts.self = (uid_t)-3; /* whoever has the right is another user, and is charged */
                struct wh_lane_tx *lane = attach(holder(h.task, right)->sock, WH_TO_OWNER, LINES);
                send_frame(holder(h.task, right)->sock, WH_FRAME_SECTION, WH_TO_OWNER, &fd, 1);
                for (unsigned i = 0; i < parts; i++)
                        put_block(lane, WH_REC_CHUNK, WH_CHUNK, total);
                memset(buf, 0xaa, sizeof buf);
                memset(other, 0xaa, sizeof other);
                while (atomic_load(&lane->ring.back->released_count) < parts)
                        CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, 1), -ETIMEDOUT);
                CHECK_EQ(p->accounts.used[WH_SHARE_BYTES], p->mapped + total);
                CHECK_EQ(buf[0], parts == LITTLE ? 0 : 0xaa);
                CHECK_EQ(buf[total - 2], parts == LITTLE ? 0 : 0xaa);
                put_block(lane, WH_REC_CHUNK, 1, total);
                CHECK_EQ(wharf_recv(h.task, h.port, other, sizeof other, NULL, wharf_in_ms(60000)), total);
                for (uint64_t i = 0; i < total; i++)
                        CHECK(!other[i]);
                CHECK_EQ(p->accounts.used[WH_SHARE_BYTES], p->mapped);
                wh_lane_tx_free(lane);
                close(fd);
                hub_close(&h);
        }
}

/*
 * Goal:   one part, and one block, is no larger than an honest sender's.
 * Method: of each the largest, and one with a byte more, which ends its link.
 */
TEST(a_part_or_a_block_that_is_too_large_ends_its_link)
{
        static const struct {
                enum wh_rec_kind kind;
                uint64_t len;
                bool ends;
        } cases[] = {
                {WH_REC_CHUNK, WH_CHUNK, false},
                {WH_REC_CHUNK, WH_CHUNK + 1, true},
                {WH_REC_BLOCK, WH_BLOCK_MAX, false},
                {WH_REC_BLOCK, WH_BLOCK_MAX + 1, true},
        };
        int fd = memory_new(16 * MIB, OUT_SEALS, false);
        for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
                struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
                wharf_name bad;
                const bool chunk = cases[i].kind == WH_REC_CHUNK;
                struct wharf_msg m = MSG(.flags = WHARF_RECV_ALLOC);
                CHECK_EQ(wharf_right_new(h.task, h.port, &bad), 0);
                struct wh_lane_tx *lane = attach(holder(h.task, bad)->sock, WH_TO_OWNER, 128);
                send_frame(holder(h.task, bad)->sock, WH_FRAME_SECTION, WH_TO_OWNER, &fd, 1);
                put_block(lane, cases[i].kind, cases[i].len, chunk ? 2 * cases[i].len : cases[i].len);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), chunk || cases[i].ends ? -EAGAIN : 0);
                CHECK_EQ(port_stat(h.task, h.port).senders, cases[i].ends ? 0 : 1);
                wharf_release(h.task, &m);
                wh_lane_tx_free(lane);
                hub_close(&h);
        }
        close(fd);
}

/* ---- what comes with a message ---- */

static unsigned tries;

static int gate_no_maps(enum wh_os_call call)
{
        tries += call == WH_OS_mmap;
        return call == WH_OS_mmap ? -ENOMEM : 0;
}

/*
 * Goal:   a large reply that nobody wants is freed where nobody waits for it; a small one takes no descriptor meanwhile.
 * Method: a reply in a memory of its own, which another call has read, to a call that is given up.
 */
TEST(a_large_reply_is_freed_where_nobody_waits)
{
        static uint8_t bytes[2 * MIB];
        int more[2]; /* descriptors, while it is there; a pair that is used no more is closed as well */
        for (unsigned large = 0; large < 2; large++) {
                struct hub h = hub_open(NULL);
                wharf_name right;
                uint32_t call, other;
                struct wharf_msg in = MSG(), out = MSG();
                CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
                CHECK_EQ(wharf_call_start(h.task, right, &MSG(), WHARF_NONE, 0, &call), 0);
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &in, wharf_in_ms(60000)), 0);
                CHECK_EQ(wharf_replymsg(h.task, in.reply,
                                        &MSG(.data = bytes, .len_bytes = large ? sizeof bytes : 4 * WH_PAGE,
                                             .how = WHARF_HOW_MEMORY)),
                         0);
                const unsigned before = count_fds();
                CHECK_EQ(wharf_call_start(h.task, right, &MSG(), WHARF_NONE, 0, &other), 0);
                CHECK_EQ(wharf_call_finish(h.task, right, other, &out, 0), -EAGAIN);
                more[large] = (int)count_fds() - (int)before;
                const uint32_t taken = wh_os_closer_taken();
                CHECK_EQ(wharf_call_cancel(h.task, right, call), 0);
                CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
                CHECK_EQ(wh_os_closer_taken(), taken + large);
                hub_close(&h);
        }
        CHECK_LE(more[0], 0);
        CHECK_EQ(more[1], more[0] + 1);
}

/* So long that it is given back by its descriptor, and so short that it is not. */
static void payload_that_stays(size_t len)
{
        struct hub h = hub_open(NULL);
        wharf_name right, memory;
        uint8_t *bytes = calloc(1, len);
        CHECK_EQ(wharf_right_new(h.task, h.port, &right), 0);
        CHECK_EQ(wharf_memory_new(h.task, WH_PAGE, &memory), 0);
        struct wharf_item it = {.kind = WHARF_MOVE_MEMORY, .name = memory}, got;
        struct wharf_msg m = MSG(.data = bytes, .len_bytes = len, .how = WHARF_HOW_MEMORY, .items = &it, .n_items = 1);
        CHECK_EQ(wharf_sendmsg(h.task, right, &m, 0), 0);
        struct wharf_msg r = MSG(.flags = WHARF_RECV_ALLOC);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &r, 0), -EOVERFLOW); /* it is read, and stays */
        r = MSG(.flags = WHARF_RECV_ALLOC, .items = &got, .cap_items = 1);
        wh_os_gate = gate_no_maps;
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &r, 0), -ENOMEM);
        wh_os_gate = NULL;
        int ours = dup(h.listen_fd);
        CHECK_EQ(wharf_recvmsg(h.task, h.port, &r, 0), 0);
        CHECK_EQ(r.len_bytes, len);
        CHECK_MEM(r.data, bytes, len);
        wharf_release(h.task, &r);
        CHECK_GE(fcntl(ours, F_GETFD), 0);
        close(ours);
        free(bytes);
        hub_close(&h);
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
}

/*
 * Goal:   a payload that was about to be the receiver's, and stays for another try, is the link's as before.
 * Method: a payload in a memory of its own, and a memory beside it that cannot be mapped now. Then a descriptor of ours gets
 *         the number that the payload's had, and keeps it when the message is received.
 */
TEST(a_payload_that_stays_for_another_try_closes_nothing_of_ours)
{
        payload_that_stays(4 * WH_PAGE);
        payload_that_stays(2 << 20);
}

/*
 * Goal:   messages whose last item cannot be had now are tried again a few at a time, however many links have one.
 * Method: 50 rights and a memory in each of 30 messages, and no memory can be mapped.
 */
TEST(items_that_cannot_be_had_are_tried_a_few_at_a_time)
{
        enum { LINKS = 30, ITEMS = 51, FEW = 2 * (WH_BUDGET / (ITEMS * WH_COST_FRAME) + 1) };
        struct rlimit was, many;
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &was), 0);
        many = was;
        many.rlim_cur = 16384;
        if (many.rlim_cur > many.rlim_max)
                test_skip("no 16384 descriptors here");
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &many), 0);
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        uint8_t kinds[ITEMS];
        int fds[ITEMS], sv[2], memory = memory_new(WH_PAGE, WH_SEALS_IMMUTABLE, false);
        CHECK_EQ(wh_os_socketpair(sv), 0);
        for (int i = 0; i < ITEMS; i++) {
                kinds[i] = i == ITEMS - 1 ? WH_ITEM_BESIDE : WH_ITEM_SEND;
                fds[i] = i == ITEMS - 1 ? memory : sv[0];
        }
        for (int i = 0; i < LINKS; i++) {
                wharf_name bad;
                struct wh_frame f = {
                        .type = WH_FRAME_MESSAGE, .to = WH_TO_OWNER, .n_fds = ITEMS, .arg = WH_MSG_FIRST | WH_MSG_LAST};
                CHECK_EQ(wharf_right_new(h.task, h.port, &bad), 0);
                CHECK_EQ(wh_frame_send(holder(h.task, bad)->sock, &f, kinds, sizeof kinds, fds, false), 0);
        }
        struct wharf_item items[ITEMS];
        struct wharf_msg m = MSG(.items = items, .cap_items = ITEMS);
        for (int i = 0; i < 20; i++) {
                tries = 0;
                wh_os_gate = gate_no_maps;
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, 0), -ENOMEM);
                wh_os_gate = NULL;
                CHECK_GE(tries, 1);
                CHECK_LE(tries, FEW);
        }
        for (int i = 0; i < LINKS; i++) { /* nothing is lost */
                m.n_items = 0;
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
                CHECK_EQ(m.n_items, ITEMS);
                for (int k = 0; k < ITEMS; k++)
                        CHECK_EQ(wharf_drop(h.task, items[k].name), 0);
        }
        close(memory);
        close(sv[0]);
        close(sv[1]);
        hub_close(&h);
        CHECK_EQ(setrlimit(RLIMIT_NOFILE, &was), 0);
}

/* ---- the door ---- */

struct knocking {
        struct hub *hub;
        struct stage inside, go, knocked, done;
        int fd, reader; /* to be sent, or -1 */
};

/* Another user: two links, which are its share of four places, and then one more, with a message in it. */
static int knocks(void *arg)
{
        struct knocking *k = arg;
        struct sockaddr_un sa = {.sun_family = AF_UNIX};
        int s[3];
        uint8_t first[] = {WH_ITEM_FD, 'k'};
        struct wh_frame f = {
                .type = WH_FRAME_MESSAGE, .to = WH_TO_OWNER, .n_fds = 1, .total = 1, .arg = WH_MSG_FIRST | WH_MSG_LAST};
        if (k->reader >= 0)
                close(k->reader);
        CHECK_EQ(setresgid(65533, 65533, 65533), 0);
        CHECK_EQ(setresuid(65533, 65533, 65533), 0);
        memcpy(sa.sun_path, k->hub->path, sizeof k->hub->path);
        for (int i = 0; i < 3; i++) {
                if (i == 2) {
                        stage_reach(&k->inside);
                        stage_await(&k->go);
                }
                s[i] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
                CHECK_EQ(connect(s[i], (struct sockaddr *)&sa, sizeof sa), 0);
        }
        if (k->fd < 0) {
                f.n_fds = 0;
                CHECK_EQ(wh_frame_send(s[2], &f, first + 1, 1, NULL, false), 0);
                close(s[0]); /* a place for it */
        } else {
                CHECK_EQ(wh_frame_send(s[2], &f, first, 2, &k->fd, false), 0);
                close(k->fd);
                close(s[2]);
        }
        stage_reach(&k->knocked);
        stage_await(&k->done);
        return 0;
}

/* Nothing was received yet, and the third connection stands at the door. */
static pid_t knock(struct knocking *k, struct hub *h, int fd, int reader)
{
        char got[8];
        *k = (struct knocking){h, stage_new(), stage_new(), stage_new(), stage_new(), fd, reader};
        pid_t pid = test_fork(knocks, k);
        stage_await(&k->inside);
        CHECK_EQ(wharf_recv(h->task, h->port, got, sizeof got, NULL, 0), -EAGAIN);
        CHECK_EQ(port_stat(h->task, h->port).senders, 2);
        stage_reach(&k->go);
        stage_await(&k->knocked);
        if (fd >= 0)
                close(fd);
        int err;
        struct wh_port *p = wh_port_lock(h->task, h->port, &err);
        CHECK(p);
        wh_inbox_look(p->inbox);
        CHECK_GE(p->at_door, 0);
        wh_unlock(&p->inbox->lock);
        return pid;
}

static void knock_done(struct knocking *k, pid_t pid)
{
        stage_reach(&k->done);
        CHECK_EQ(test_wait(pid), 0);
        stage_done(&k->inside);
        stage_done(&k->go);
        stage_done(&k->knocked);
        stage_done(&k->done);
}

/*
 * Goal:   a port is closed at once, whatever lies in the connection that stands at its door.
 * Method: a TCP socket that lingers for an hour.
 */
TEST(no_close_of_a_port_waits_for_what_stands_at_its_door)
{
        if (geteuid() != 0)
                test_skip("nobody can become another user");
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS, .links_max = 4));
        struct knocking k;
        int reader, fd = lingering(&reader);
        pid_t pid = knock(&k, &h, fd, reader);
        CHECK_EQ(wharf_drop(h.task, h.port), 0);
        close(reader); /* who reads it is gone, so nothing lingers any more */
        CHECK(wh_os_closer_rest(wharf_in_ms(60000)));
        knock_done(&k, pid);
        hub_close(&h);
}

static int takes_a_port(void *arg)
{
        struct hub *home = arg;
        wharf_name right;
        wharf_task *t = hub_join(home, &right);
        struct wharf_item it = {.kind = WHARF_MAKE_SEND}, in;
        wharf_name port;
        CHECK_EQ(wharf_port_new(t, NULL, &port), 0);
        it.name = port;
        struct wharf_msg m = MSG(.items = &it, .n_items = 1), r = MSG(.items = &in, .cap_items = 1);
        CHECK_EQ(wharf_sendmsg(t, right, &m, WHARF_FOREVER), 0);
        CHECK_EQ(wharf_recvmsg(t, port, &r, WHARF_FOREVER), 0);
        CHECK_EQ(in.kind, WHARF_GOT_RECEIVE);
        receives(t, in.name, "k");
        wharf_task_close(t);
        return 0;
}

/*
 * Goal:   a connection that was accepted and stands at the door of a port is served when that listens no more, and goes
 *         along when the port moves.
 * Method: its user has its share of the places, then one less. The port is received from here, or moved.
 */
TEST(what_stands_at_the_door_is_served_when_a_port_listens_no_more)
{
        if (geteuid() != 0)
                test_skip("nobody can become another user");
        for (int moves = 0; moves < 2; moves++) {
                struct hub home = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
                struct hub h = hub_open(NULL);
                struct knocking k;
                pid_t taker = moves ? test_fork(takes_a_port, &home) : -1;
                wharf_task_close(h.task);
                h.task = home.task; /* one task has both ports */
                CHECK_EQ(wharf_port_new(h.task, PORT_OPTS(.flags = WHARF_PORT_STAYS, .links_max = 4), &h.port), 0);
                CHECK_EQ(wharf_port_listen(h.task, h.port, h.listen_fd), 0);
                pid_t pid = knock(&k, &h, -1, -1);
                CHECK_EQ(wharf_port_listen(h.task, h.port, -1), 0);
                if (moves) {
                        struct wharf_item in, it = {.kind = WHARF_MOVE_RECEIVE};
                        struct wharf_msg r = MSG(.items = &in, .cap_items = 1), m = MSG(.items = &it, .n_items = 1);
                        CHECK_EQ(wharf_recvmsg(home.task, home.port, &r, WHARF_FOREVER), 0);
                        it.name = h.port;
                        CHECK_EQ(wharf_sendmsg(h.task, in.name, &m, WHARF_FOREVER), 0);
                        CHECK_EQ(test_wait(taker), 0);
                } else {
                        receives(h.task, h.port, "k");
                }
                knock_done(&k, pid);
                close(h.listen_fd);
                hub_close(&home);
        }
}

/* ---- a holder ---- */

/*
 * Goal:   a server has its caller map no more than a lane of the library's can have, and no section that is larger.
 * Method: four sections of 64 MiB and a ring that follows are mapped; a further ring is not. Then one larger section.
 */
TEST(a_server_has_its_callers_map_so_much_and_no_more)
{
        for (int larger = 0; larger < 2; larger++) {
                wharf_task *t;
                wharf_name right;
                char got[8];
                CHECK_EQ(wharf_task_open(NULL, &t), 0);
                int sock = owner_new(t, &right), fd = memory_new((64 + larger) * MIB, OUT_SEALS, false);
                struct wh_lane_tx *lane = attach(sock, WH_TO_HOLDER, 65536);
                for (int i = 0; i < (larger ? 1 : 4); i++)
                        send_frame(sock, WH_FRAME_SECTION, WH_TO_HOLDER, &fd, 1);
                if (!larger)
                        send_frame(sock, WH_FRAME_RING, WH_TO_HOLDER, &lane->out_fd, 1);
                CHECK_EQ(wharf_call(t, right, "hi", 2, got, sizeof got, wharf_in_ms(50)),
                         larger ? -EPROTO : -ETIMEDOUT);
                /* Where they are read as they are mapped it may take more time than one call has. */
                for (int k = 0; !larger && k < 100 && holder(t, right)->in.lane->mapped_bytes < WH_LANE_BYTES_MAX; k++)
                        CHECK_EQ(wharf_call(t, right, "hi", 2, got, sizeof got, wharf_in_ms(50)), -ETIMEDOUT);
                if (!larger) {
                        CHECK_EQ(holder(t, right)->in.lane->mapped_bytes, WH_LANE_BYTES_MAX);
                        CHECK_EQ(wh_holder_end.may_map(holder(t, right)), -EDQUOT);
                }
                wh_lane_tx_free(lane);
                close(fd);
                close(sock);
                wharf_task_close(t);
        }
}

/*
 * Goal:   a reply that comes in parts is no larger than an honest one: its caller puts together no other, and what was
 *         begun goes with its server.
 * Method: the first frame, or the first record, of the largest and of one with a byte more; then the server's end.
 */
TEST(a_reply_in_parts_is_put_together_up_to_a_limit)
{
        for (int way = 0; way < 4; way++) {
                const bool record = way & 1, larger = way & 2;
                wharf_task *t;
                wharf_name right;
                char got[8], bytes[16384] = {0};
                uint32_t call;
                struct wh_lane_tx *lane = NULL;
                CHECK_EQ(wharf_task_open(NULL, &t), 0);
                int sock = owner_new(t, &right);
                struct wharf_msg q = MSG(.data = BYTES("hi"), .len_bytes = 2);
                struct wharf_msg a = MSG(.data = got, .cap_bytes = sizeof got);
                CHECK_EQ(wharf_call_start(t, right, &q, WHARF_NONE, 0, &call), 0);
                const uint64_t total = WH_REPLY_PARTS_MAX + larger;
                if (record) {
                        struct {
                                struct wh_rec_ext ext;
                                uint64_t total;
                                uint8_t bytes[100];
                        } piece = {.ext.call = call, .total = total};
                        lane = attach(sock, WH_TO_HOLDER, 128);
                        void *at = wh_ring_reserve(&lane->ring, sizeof piece);
                        CHECK(at);
                        memcpy(at, &piece, sizeof piece);
                        wh_ring_publish(&lane->ring, WH_REC_PIECE, sizeof piece);
                } else {
                        struct wh_frame f = {.type = WH_FRAME_MESSAGE,
                                             .to = WH_TO_HOLDER,
                                             .total = total,
                                             .call = call,
                                             .arg = WH_MSG_FIRST};
                        CHECK_EQ(wh_frame_send(sock, &f, bytes, sizeof bytes, NULL, false), 0);
                }
                CHECK_EQ(wharf_call_finish(t, right, call, &a, 0), larger ? -EPROTO : -EAGAIN);
                CHECK_EQ(holder(t, right)->in.stash.building, !larger);
                close(sock);
                if (!larger)
                        CHECK_EQ(wharf_call_finish(t, right, call, &a, wharf_in_ms(60000)), -ECONNRESET);
                CHECK(!holder(t, right)->in.stash.building && !holder(t, right)->in.stash.bytes);
                wh_lane_tx_free(lane);
                wharf_task_close(t);
        }
}

/* ---- a call that fails ---- */

/*
 * Goal:   a call that ends with an error that another try would not change leaves nothing of its reply here.
 * Method: a server answers with a receive right that is none, and descriptors beside it.
 */
TEST(a_call_that_fails_keeps_nothing_of_its_reply)
{
        enum { ITEMS = 5 };
        wharf_task *t;
        wharf_name right;
        CHECK_EQ(wharf_task_open(NULL, &t), 0);
        const int sock = owner_new(t, &right);
        struct wharf_item got[ITEMS];
        uint32_t call;
        CHECK_EQ(wharf_call_start(t, right, &MSG(.data = BYTES("hi"), .len_bytes = 2), WHARF_NONE, 0, &call), 0);
        const unsigned before = count_fds();
        uint8_t kind[ITEMS] = {WH_ITEM_RECEIVE, WH_ITEM_FD, WH_ITEM_FD, WH_ITEM_FD, WH_ITEM_FD};
        int sv[2], fd[ITEMS];
        CHECK_EQ(wh_os_socketpair(sv), 0);
        for (int i = 0; i < ITEMS; i++)
                fd[i] = sv[0];
        struct wh_frame f = {.type = WH_FRAME_MESSAGE,
                             .to = WH_TO_HOLDER,
                             .n_fds = ITEMS,
                             .call = call,
                             .arg = WH_MSG_FIRST | WH_MSG_LAST};
        CHECK_EQ(wh_frame_send(sock, &f, kind, ITEMS, fd, false), 0);
        close(sv[0]);
        close(sv[1]);
        struct wharf_msg m = MSG(.items = got, .cap_items = ITEMS);
        CHECK_EQ(wharf_call_finish(t, right, call, &m, wharf_in_ms(60000)), -EPROTO);
        CHECK(wh_os_closer_rest(wh_os_now_ns() + (int64_t)20e9));
        CHECK_EQ(count_fds(), before);
        CHECK_EQ(wharf_call_finish(t, right, call, &m, 0), -EINVAL); /* it has ended */
        wharf_task_close(t);
        close(sock);
}

/* ---- of a caller that is dead ---- */

static unsigned mapped_memories(void)
{
        char line[512];
        unsigned n = 0;
        FILE *f = fopen("/proc/self/maps", "re");
        CHECK(f != NULL);
        while (fgets(line, sizeof line, f))
                n += strstr(line, "memfd:") != NULL;
        fclose(f);
        return n;
}

static int calls_and_dies(void *arg)
{
        static char bytes[300 << 10];
        wharf_name right;
        wharf_task *t = hub_join(arg, &right);
        uint32_t call;
        for (int i = 0; i < 4; i++)
                CHECK_EQ(wharf_send(t, right, bytes, sizeof bytes, WHARF_FOREVER), 0);
        CHECK_EQ(
                wharf_call_start(t, right, &MSG(.data = BYTES("hi"), .len_bytes = 2), WHARF_NONE, WHARF_FOREVER, &call),
                0);
        _exit(0);
}

/*
 * Goal:   whoever keeps the right to answer a caller that is dead has none of its memory: nobody is charged for it any more.
 */
TEST(a_right_to_answer_the_dead_keeps_no_memory_of_theirs)
{
        test_need_proc();
        static char buf[300 << 10];
        struct hub h = hub_open(PORT_OPTS(.flags = WHARF_PORT_STAYS));
        const unsigned before = mapped_memories();
        pid_t pid = test_fork(calls_and_dies, &h);
        struct wharf_msg m = MSG(.data = buf, .cap_bytes = sizeof buf);
        for (int i = 0; i < 5; i++)
                CHECK_EQ(wharf_recvmsg(h.task, h.port, &m, wharf_in_ms(60000)), 0);
        CHECK_EQ(test_wait(pid), 0);
        CHECK(m.reply != WHARF_NONE);
        CHECK_GE(mapped_memories(), before + 2);
        for (int i = 0; i < 1000 && port_stat(h.task, h.port).senders; i++)
                CHECK_EQ(wharf_recv(h.task, h.port, buf, sizeof buf, NULL, wharf_in_ms(10)), -ETIMEDOUT);
        CHECK_EQ(port_stat(h.task, h.port).senders, 0);
        CHECK_EQ(mapped_memories(), before);
        CHECK_EQ(wharf_reply(h.task, m.reply, "x", 1), -EPIPE);
        hub_close(&h);
}
